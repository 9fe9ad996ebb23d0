//! What a path asks for, and the bytes of the replies: heads are made when they are sent, bodies are windows on
//! one buffer, so that a reply that waits costs a few words, whatever its length.

use std::rc::Rc;
use std::time::Duration;

use crate::clock::Instant;
use crate::protocol::http::reason;
use crate::ring::Chunk;
use crate::units::parse_duration_in;

/// The largest body that `/bytes/N` gives, and that a plain reply may have.
pub const BODY_BYTES_MAX: u64 = 1 << 30;
/// The longest time that `/delay/TIME` and `/freeze/TIME` give.
pub const WAIT_MAX: Duration = Duration::from_secs(600);
/// Plain replies up to here are one piece, head and body.
const WHOLE_BYTES_MAX: u64 = 16 * 1024;
const BODY: &[u8] = b"fracas origin\n";
/// How often the text stands in the buffer that bodies are cut from: a little less than 64 KiB.
const BODY_REPEATS: usize = 64 * 1024 / BODY.len();

/// A reply that waits.
pub(super) struct Reply {
    pub due: Instant,
    pub content: Content,
}

pub(super) enum Content {
    Http { wish: Wish, head_only: bool },
    Echo(Chunk),
}

/// What a path asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Wish {
    #[default]
    Plain,
    Delay(Duration),
    Status(u16),
    Bytes(u64),
    Freeze(Duration),
}

impl Wish {
    pub fn read(path: &str) -> Wish {
        let mut parts = path.trim_start_matches('/').split(['/', '?']);
        let (what, value) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
        let wait = || parse_duration_in(value, "ms").ok().filter(|time| *time <= WAIT_MAX);
        let wish = match what {
            "delay" => wait().map(Wish::Delay),
            "freeze" => wait().map(Wish::Freeze),
            "status" => value.parse().ok().filter(|code| (200..600).contains(code)).map(Wish::Status),
            "bytes" => value.parse().ok().filter(|count| *count <= BODY_BYTES_MAX).map(Wish::Bytes),
            _ => None,
        };
        wish.unwrap_or(Wish::Plain)
    }
}

/// What all replies of one thread are cut from.
pub(super) struct Shapes {
    /// The plain reply: its head, and its body too when that is short.
    plain: Chunk,
    plain_head_bytes: usize,
    /// The body of the plain reply that is not in `plain`.
    plain_body_bytes: u64,
    body: Chunk,
}

impl Shapes {
    pub fn new(plain_body_bytes: u64) -> Shapes {
        let body = Rc::<[u8]>::from(BODY.repeat(BODY_REPEATS));
        let mut plain = head(200, plain_body_bytes);
        let plain_head_bytes = plain.len();
        let mut rest = plain_body_bytes;
        if rest <= WHOLE_BYTES_MAX {
            plain.extend(BODY.iter().cycle().take(rest as usize));
            rest = 0;
        }
        Shapes { plain: plain.into(), plain_head_bytes, plain_body_bytes: rest, body: body.into() }
    }

    /// The first piece of a reply, and how many bytes of body follow it.
    pub fn begin(&self, content: Content) -> (Chunk, u64) {
        let (wish, head_only) = match content {
            Content::Http { wish, head_only } => (wish, head_only),
            Content::Echo(chunk) => return (chunk, 0),
        };
        let (chunk, body_bytes) = match wish {
            Wish::Plain | Wish::Freeze(_) | Wish::Delay(_) => {
                let mut plain = self.plain.clone();
                let chunk = if head_only { plain.split_to(self.plain_head_bytes) } else { plain };
                (chunk, self.plain_body_bytes)
            }
            Wish::Status(code) => (head(code, 0).into(), 0),
            Wish::Bytes(count) => (head(200, count).into(), count),
        };
        (chunk, if head_only { 0 } else { body_bytes })
    }

    /// The next piece of a body of which `left` bytes are to come, at most `room` bytes; neither is zero.
    pub fn body(&self, offset: u64, left: u64, room: u64) -> Chunk {
        let mut chunk = self.body.clone();
        chunk.advance((offset % BODY.len() as u64) as usize);
        let length = left.min(room).min(chunk.len() as u64);
        chunk.split_to(length as usize)
    }
}

/// The head of a reply with a body of `body_bytes`.
fn head(code: u16, body_bytes: u64) -> Vec<u8> {
    let reason = reason(code);
    let length =
        if code == 204 || code == 304 { String::new() } else { format!("Content-Length: {body_bytes}\r\n") };
    format!("HTTP/1.1 {code} {reason}\r\nServer: fracas-origin\r\nContent-Type: text/plain\r\n{length}\r\n")
        .into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_says_what_to_do() {
        for (path, wish) in [
            ("/", Wish::Plain),
            ("/delay/50ms", Wish::Delay(Duration::from_millis(50))),
            ("/delay/1.4s?x=1", Wish::Delay(Duration::from_millis(1400))),
            ("/delay/10m", Wish::Delay(Duration::from_secs(600))),
            ("/delay/20", Wish::Delay(Duration::from_millis(20))),
            ("/delay/1m30s", Wish::Delay(Duration::from_secs(90))),
            ("/delay/11m", Wish::Plain),
            ("/freeze/2s", Wish::Freeze(Duration::from_secs(2))),
            ("/freeze/1h", Wish::Plain),
            ("/status/503", Wish::Status(503)),
            ("/status/99", Wish::Plain),
            ("/bytes/1000", Wish::Bytes(1000)),
            ("/bytes/1073741824", Wish::Bytes(1 << 30)),
            ("/bytes/999999999999", Wish::Plain),
        ] {
            assert_eq!(Wish::read(path), wish, "{path}");
        }
    }

    /// All pieces of a reply, cut at `room` bytes.
    fn whole(shapes: &Shapes, wish: Wish, head_only: bool, room: u64) -> Vec<u8> {
        let (first, body_bytes) = shapes.begin(Content::Http { wish, head_only });
        let mut bytes = first.to_vec();
        let mut offset = 0;
        while offset < body_bytes {
            let piece = shapes.body(offset, body_bytes - offset, room);
            assert!(!piece.is_empty() && piece.len() as u64 <= room);
            offset += piece.len() as u64;
            bytes.extend_from_slice(&piece);
        }
        bytes
    }

    #[test]
    fn a_body_is_as_long_as_its_head_says_wherever_it_is_cut() {
        for (plain, wish, expected) in [
            (14, Wish::Plain, 14),
            (0, Wish::Plain, 0),
            (16 * 1024, Wish::Plain, 16 * 1024),
            (100_000, Wish::Plain, 100_000),
            (100_000, Wish::Delay(Duration::ZERO), 100_000),
            (14, Wish::Bytes(300_000), 300_000),
            (14, Wish::Bytes(1), 1),
            (14, Wish::Status(503), 0),
        ] {
            let shapes = Shapes::new(plain);
            for room in [999, 65_536, u64::MAX] {
                let bytes = whole(&shapes, wish, false, room);
                let at = bytes.windows(4).position(|window| window == b"\r\n\r\n").expect("a head ends") + 4;
                let head = String::from_utf8_lossy(&bytes[..at]);
                assert!(head.contains(&format!("Content-Length: {expected}\r\n")), "{head}");
                let body = &bytes[at..];
                let text: Vec<u8> = BODY.iter().copied().cycle().take(expected).collect();
                assert!(body == text, "{wish:?} of {plain} in pieces of {room}");
                assert_eq!(whole(&shapes, wish, true, room).len(), at, "HEAD has no body");
            }
        }
        assert!(!String::from_utf8_lossy(&head(204, 0)).contains("Content-Length"));
    }
}
