//! Both HTTP framers: arbitrary bytes never panic, and a stream in two pieces gives the same messages as whole.
#![no_main]

use fracas_dataplane::protocol::http::{Asked, Event, ReplyFramer, RequestFramer, Step};
use libfuzzer_sys::fuzz_target;

/// One framer or the other.
enum Framer {
    Request(RequestFramer),
    Reply(ReplyFramer),
}

impl Framer {
    fn new(flags: u8) -> Framer {
        if flags & 1 == 0 {
            return Framer::Request(RequestFramer::new());
        }
        let mut framer = ReplyFramer::new();
        let get = Asked::method("GET");
        let first = match flags >> 1 & 3 {
            0 => get,
            1 => Asked::method("HEAD"),
            2 => Asked::method("CONNECT"),
            _ => Asked { upgrade: true, ..get },
        };
        framer.expect(first);
        framer.expect(get);
        Framer::Reply(framer)
    }

    fn advance(&mut self, bytes: &[u8]) -> Step {
        match self {
            Framer::Request(framer) => framer.advance(bytes),
            Framer::Reply(framer) => framer.advance(bytes),
        }
    }

    /// The head of a request as it is forwarded; all its parts are looked at on the way. A reply's is what came.
    fn head(&mut self, slice: &[u8], used: usize) -> Vec<u8> {
        let Framer::Request(framer) = self else { return slice[..used].to_vec() };
        let head = framer.head(slice);
        assert!(!head.method().is_empty() && !head.target().is_empty());
        assert!(head.path().len() <= head.target().len().max(1));
        head.headers().for_each(|(name, _)| assert!(!name.is_empty()));
        let whole = head.bytes().to_vec();
        assert_eq!(framer.take_head_bytes().unwrap_or_else(|| slice[..used].to_vec()), whole);
        whole
    }
}

#[derive(Debug, PartialEq)]
enum Said {
    Head(Vec<u8>),
    Interim(Vec<u8>),
    End,
    AwaitReply,
}

/// A reply's head without what stands before it: the last bytes of a short body that must not be there may.
fn from_status_line(head: Vec<u8>) -> Vec<u8> {
    let is_beginning = |five: &[u8]| five.eq_ignore_ascii_case(b"HTTP/") || five[..3].eq_ignore_ascii_case(b"ICY");
    let at = head.windows(5).rposition(is_beginning).unwrap_or(0);
    head[at..].to_vec()
}

/// What was said before the stream became invalid or raw, whether it became invalid, and the bytes forwarded.
fn run(flags: u8, pieces: &[&[u8]]) -> (Vec<Said>, bool, Vec<u8>) {
    let (mut framer, mut said, mut forwarded) = (Framer::new(flags), Vec::new(), Vec::new());
    let mut part = Vec::new();
    for piece in pieces {
        let mut rest = *piece;
        loop {
            let step = framer.advance(rest);
            let used = &rest[..step.used];
            match step.event {
                Event::NeedMore => break,
                Event::HeadPart => {
                    forwarded.extend_from_slice(used);
                    part.extend_from_slice(used);
                }
                Event::Head | Event::Interim => {
                    let head = framer.head(rest, step.used);
                    forwarded.extend_from_slice(&head);
                    let head = from_status_line([std::mem::take(&mut part), head].concat());
                    said.push(if step.event == Event::Head { Said::Head(head) } else { Said::Interim(head) });
                }
                Event::Body => forwarded.extend_from_slice(used),
                Event::Surplus => {
                    // What seemed to begin a head was the beginning of this.
                    part.clear();
                    forwarded.extend_from_slice(used);
                }
                Event::End => {
                    forwarded.extend_from_slice(used);
                    said.push(Said::End);
                }
                Event::AwaitReply => {
                    said.push(Said::AwaitReply);
                    return (said, false, forwarded);
                }
                Event::Raw => {
                    forwarded.extend_from_slice(used);
                    break;
                }
                Event::Invalid(_) => return (said, true, forwarded),
            }
            rest = &rest[step.used..];
        }
    }
    (said, false, forwarded)
}

fuzz_target!(|data: &[u8]| {
    let [flags, cut, stream @ ..] = data else { return };
    let cut = usize::from(*cut).min(stream.len());
    let (whole, whole_invalid, forwarded) = run(*flags, &[stream]);
    assert!(stream.starts_with(&forwarded), "what is forwarded is what came");
    let (pieces, pieces_invalid, forwarded) = run(*flags, &[&stream[..cut], &stream[cut..]]);
    assert!(stream.starts_with(&forwarded), "what is forwarded is what came");
    assert_eq!(whole, pieces);
    // An unfinished head may be found bad late, when its pieces are put together.
    if stream.len() <= 1024 {
        assert_eq!(whole_invalid, pieces_invalid);
    }
});
