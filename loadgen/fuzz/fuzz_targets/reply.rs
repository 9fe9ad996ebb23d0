//! What a target sends back: arbitrary bytes never panic, and replies cut anywhere mean what they mean whole.
#![no_main]

use fracas_loadgen::protocol::http::ReplyReader;
use fracas_loadgen::protocol::tcp::EchoReader;
use fracas_loadgen::protocol::{InvalidReply, Progress, Reply};
use libfuzzer_sys::fuzz_target;

enum Reader {
    Http(ReplyReader),
    Echo(EchoReader),
}

/// What the echo server was sent.
const SENT: &[u8] = b"0123456789abcdef";

impl Reader {
    fn new(flags: u8) -> Reader {
        match flags & 3 {
            0 | 1 => Reader::Http(ReplyReader::new("GET")),
            2 => Reader::Http(ReplyReader::new("HEAD")),
            _ => Reader::Echo(EchoReader::default()),
        }
    }

    fn advance(&mut self, bytes: &[u8]) -> Progress {
        match self {
            Reader::Http(reader) => reader.advance(bytes),
            Reader::Echo(reader) => reader.advance(SENT, bytes),
        }
    }
}

#[derive(Debug, PartialEq)]
struct Said {
    /// Each reply with the place in the stream at which it ended.
    replies: Vec<(Reply, usize)>,
    invalid: Option<InvalidReply>,
    /// What a close would have meant.
    at_close: Option<Progress>,
}

fn run(flags: u8, pieces: &[&[u8]]) -> Said {
    let (mut reader, mut replies, mut at) = (Reader::new(flags), Vec::new(), 0);
    for piece in pieces {
        let mut rest = *piece;
        while !rest.is_empty() {
            match reader.advance(rest) {
                Progress::NeedMore => {
                    at += rest.len();
                    break;
                }
                Progress::Done(reply) => {
                    assert!((1..=rest.len()).contains(&reply.consumed_bytes), "{reply:?}");
                    at += reply.consumed_bytes;
                    rest = &rest[reply.consumed_bytes..];
                    replies.push((Reply { consumed_bytes: 0, ..reply }, at));
                }
                Progress::Invalid(reason) => return Said { replies, invalid: Some(reason), at_close: None },
            }
        }
    }
    let at_close = match &mut reader {
        Reader::Http(reader) => Some(reader.on_end()),
        Reader::Echo(_) => None,
    };
    Said { replies, invalid: None, at_close }
}

fuzz_target!(|data: &[u8]| {
    let [flags, cut, stream @ ..] = data else { return };
    let cut = usize::from(*cut).min(stream.len());
    let whole = run(*flags, &[stream]);
    assert_eq!(run(*flags, &[&stream[..cut], &stream[cut..]]), whole);
    if stream.len() <= 512 {
        let bytes: Vec<&[u8]> = stream.chunks(1).collect();
        assert_eq!(run(*flags, &bytes), whole, "byte by byte");
    }
});
