//! Follows a body to its end: by length, by chunks (RFC 9112 §7.1), or until the connection closes.
//!
//! ```text
//! Size ──;──▶ Extension        Data ──▶ DataCr ──▶ DataLf ──▶ Size
//!   └──CR──▶ SizeLf ──size>0──▶ ┘
//!               └────size=0──▶ LineStart ──CR──▶ LastLf ──▶ done
//!                              ▲ └─name─▶ Name ─:─▶ Value ─CR─▶ ValueLf ┐
//!                              └──────────────────────────────────────┘
//! ```

use super::head::Framing;

/// The longest line with a chunk's size and extensions.
pub const CHUNK_LINE_BYTES_MAX: u32 = 4096;
/// The longest trailer section.
pub const TRAILER_BYTES_MAX: u32 = 16 * 1024;
/// Hex digits of a chunk's size; 15 of them stay below 2^60.
const SIZE_DIGITS_MAX: u8 = 15;

/// A body that has not ended yet.
#[derive(Clone, Copy, Debug)]
pub(super) enum Body {
    Length(u64),
    Chunked(Chunked),
    UntilClose,
}

/// What `advance` says about a slice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// All of the slice is body, and more follows.
    More,
    /// The body ended after so many bytes.
    Done(usize),
    Invalid(&'static str),
}

/// Where in a chunked body we are.
#[derive(Clone, Copy, Debug)]
pub(super) struct Chunked {
    state: State,
    /// The chunk's size while it is read, then what is left of its data.
    left: u64,
    digits: u8,
    /// Bytes of the current size line, or of the trailer section.
    line_bytes: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Size,
    SpaceAfterSize,
    Extension,
    SizeLf,
    Data,
    DataCr,
    DataLf,
    LineStart,
    Name,
    Value,
    ValueLf,
    LastLf,
}

impl Body {
    /// The body of this framing; `None` when it is empty.
    pub(super) fn new(framing: Framing) -> Option<Body> {
        match framing {
            Framing::None | Framing::Length(0) => None,
            Framing::Length(length) => Some(Body::Length(length)),
            Framing::Chunked => {
                Some(Body::Chunked(Chunked { state: State::Size, left: 0, digits: 0, line_bytes: 0 }))
            }
            Framing::UntilClose => Some(Body::UntilClose),
        }
    }

    pub(super) fn advance(&mut self, bytes: &[u8]) -> Progress {
        match self {
            Body::Length(left) if *left <= bytes.len() as u64 => Progress::Done(*left as usize),
            Body::Length(left) => {
                *left -= bytes.len() as u64;
                Progress::More
            }
            Body::Chunked(chunked) => chunked.advance(bytes),
            Body::UntilClose => Progress::More,
        }
    }
}

impl Chunked {
    fn advance(&mut self, bytes: &[u8]) -> Progress {
        let mut at = 0;
        while at < bytes.len() {
            if self.state == State::Data {
                let step = self.left.min((bytes.len() - at) as u64);
                self.left -= step;
                at += step as usize;
                if self.left == 0 {
                    self.state = State::DataCr;
                }
                continue;
            }
            match self.next(bytes[at]) {
                Ok(false) => at += 1,
                Ok(true) => return Progress::Done(at + 1),
                Err(reason) => return Progress::Invalid(reason),
            }
        }
        Progress::More
    }

    /// Takes one byte of framing; true when it was the last of the body.
    fn next(&mut self, byte: u8) -> Result<bool, &'static str> {
        self.line_bytes += 1;
        self.state = match (self.state, byte) {
            (State::Size, b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F') => {
                self.digits += 1;
                if self.digits > SIZE_DIGITS_MAX {
                    return Err("a chunk size with too many digits");
                }
                let digit = (byte as char).to_digit(16).expect("the pattern is hexadecimal");
                self.left = self.left << 4 | u64::from(digit);
                State::Size
            }
            (State::Size, _) if self.digits == 0 => return Err("a chunk without a size"),
            (State::Size, b'\r') => State::SizeLf,
            (State::Size | State::SpaceAfterSize, b' ' | b'\t') => State::SpaceAfterSize,
            (State::Size | State::SpaceAfterSize, b';') => State::Extension,
            (State::Size | State::SpaceAfterSize, _) => return Err("a chunk size that is not hexadecimal"),
            (State::Extension, b'\r') => State::SizeLf,
            (State::Extension, b'\t' | b' '..=b'~' | 0x80..) => State::Extension,
            (State::Extension, _) => return Err("a control character in a chunk extension"),
            (State::SizeLf, b'\n') => {
                (self.digits, self.line_bytes) = (0, 0);
                if self.left == 0 { State::LineStart } else { State::Data }
            }
            (State::DataCr, b'\r') => State::DataLf,
            (State::DataLf, b'\n') => {
                self.line_bytes = 0;
                State::Size
            }
            (State::DataCr | State::DataLf, _) => return Err("a chunk longer than its size"),
            (State::LineStart, b'\r') => State::LastLf,
            (State::LineStart | State::Name, byte) if is_token(byte) => State::Name,
            (State::Name, b':') => State::Value,
            (State::LineStart | State::Name, _) => return Err("a trailer line that is not a field"),
            (State::Value, b'\r') => State::ValueLf,
            (State::Value, b'\t' | b' '..=b'~' | 0x80..) => State::Value,
            (State::Value, _) => return Err("a control character in a trailer"),
            (State::ValueLf, b'\n') => State::LineStart,
            (State::LastLf, b'\n') => return Ok(true),
            (State::SizeLf | State::ValueLf | State::LastLf, _) => return Err("a bare CR in chunk framing"),
            (State::Data, _) => unreachable!("data is skipped as a whole"),
        };
        let (limit, reason) = match self.state {
            State::Size | State::SpaceAfterSize | State::Extension | State::SizeLf => {
                (CHUNK_LINE_BYTES_MAX, "a chunk size line longer than 4 KiB")
            }
            _ => (TRAILER_BYTES_MAX, "trailers longer than 16 KiB"),
        };
        if self.line_bytes > limit { Err(reason) } else { Ok(false) }
    }
}

/// RFC 9110 §5.6.2.
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunked(bytes: &[u8]) -> Progress {
        Body::new(Framing::Chunked).expect("chunked bodies are never empty").advance(bytes)
    }

    #[test]
    fn chunked_bodies_end_where_they_say() {
        for body in [
            &b"0\r\n\r\n"[..],
            b"5\r\nhello\r\n0\r\n\r\n",
            b"5;name=value\r\nhello\r\n0;x\r\n\r\n",
            b"5 ; a=\"b c\"\r\nhello\r\n0\r\n\r\n",
            b"A\r\n0123456789\r\n000\r\n\r\n",
            b"2\r\n\r\n\r\n0\r\nX-Sum: 1\r\nY:\r\n\r\n",
        ] {
            let text = String::from_utf8_lossy(body);
            assert_eq!(chunked(&[body, b"GET /"].concat()), Progress::Done(body.len()), "{text}");
            for cut in 0..body.len() {
                assert_eq!(chunked(&body[..cut]), Progress::More, "{text} cut at {cut}");
            }
        }
    }

    #[test]
    fn chunk_framing_that_readers_disagree_about_is_refused() {
        for body in [
            &b"\r\n"[..],
            b";x\r\n",
            b"g\r\n",
            b"0x5\r\n",
            b"+5\r\n",
            b"-1\r\n",
            b" 5\r\n",
            b"5 \r\n",
            b"5\n",
            b"5\rX",
            b"5;a\nb\r\n",
            b"5;\x00\r\n",
            b"5\r\nhelloX",
            b"5\r\nhello\n",
            b"5\r\nhello\rX",
            b"1000000000000000\r\n",
            b"0000000000000000\r\n",
            b"0\r\n\n",
            b"0\r\n\rX",
            b"0\r\n folded\r\n",
            b"0\r\nno colon\r\n",
            b"0\r\nname : x\r\n",
            b"0\r\na: b\nc: d\r\n",
            b"0\r\na: b\rc\r\n",
        ] {
            let found = chunked(body);
            assert!(matches!(found, Progress::Invalid(_)), "{}: {found:?}", String::from_utf8_lossy(body));
        }
    }

    #[test]
    fn size_lines_and_trailers_are_bounded() {
        let line = [&b"5;"[..], &b"x".repeat(5000)].concat();
        assert_eq!(chunked(&line), Progress::Invalid("a chunk size line longer than 4 KiB"));
        let trailers = [&b"0\r\n"[..], &b"a: b\r\n".repeat(5000)].concat();
        assert_eq!(chunked(&trailers), Progress::Invalid("trailers longer than 16 KiB"));
        // Many chunks are no reason: the bound is per line.
        assert_eq!(chunked(&b"1;ext\r\nx\r\n".repeat(5000)), Progress::More);
    }
}
