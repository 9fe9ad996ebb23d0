//! Follows a body to its end: by length, by chunks (RFC 9112 §7.1), or until the connection closes.
//!
//! Chunks of a request are read strictly, those of a reply as clients read them: a bare LF ends a line, blanks may
//! follow a size, and what stands in extensions and trailers is skipped.
//!
//! ```text
//! Size ──;──▶ Extension        Data ──▶ DataCr ──▶ DataLf ──▶ Size
//!   └──CR──▶ SizeLf ──size>0──▶ ┘
//!               └────size=0──▶ LineStart ──CR──▶ LastLf ──▶ done
//!                              ▲ └─name─▶ Name ─:─▶ Value ─CR─▶ ValueLf ┐
//!                              └──────────────────────────────────────┘
//! ```

use super::head::Framing;

/// The longest line with a chunk's size and extensions, in a request.
pub const CHUNK_LINE_BYTES_MAX: u32 = 4096;
/// The longest trailer section of a request.
pub const TRAILER_BYTES_MAX: u32 = 16 * 1024;
/// The longest line with a chunk's size and extensions, in a reply; Chromium reads lines up to this length.
pub const REPLY_CHUNK_LINE_BYTES_MAX: u32 = 16 * 1024;
/// The longest trailer section of a reply.
pub const REPLY_TRAILER_BYTES_MAX: u32 = 256 * 1024;
/// Hex digits of a chunk's size; 15 of them stay below 2^60.
const SIZE_DIGITS_MAX: u8 = 15;

/// How strictly chunks are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Judgement {
    /// As RFC 9112 writes them: two readers must not disagree about where a request ends.
    Strict,
    /// As clients read them.
    Tolerant,
}

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
    judgement: Judgement,
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
    pub(super) fn new(framing: Framing, judgement: Judgement) -> Option<Body> {
        match framing {
            Framing::None | Framing::Length(0) => None,
            Framing::Length(length) => Some(Body::Length(length)),
            Framing::Chunked => Some(Body::Chunked(Chunked {
                state: State::Size,
                left: 0,
                digits: 0,
                line_bytes: 0,
                judgement,
            })),
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
        let tolerant = self.judgement == Judgement::Tolerant;
        self.state = match (self.state, byte) {
            (State::Size, b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F') => {
                // Zeros in front say nothing; a client counts none of them.
                if !(tolerant && self.left == 0 && self.digits > 0) {
                    self.digits += 1;
                }
                if self.digits > SIZE_DIGITS_MAX {
                    return Err("a chunk size with too many digits");
                }
                let digit = (byte as char).to_digit(16).expect("the pattern is hexadecimal");
                self.left = self.left << 4 | u64::from(digit);
                State::Size
            }
            (State::Size, _) if self.digits == 0 => return Err("a chunk without a size"),
            (State::Size | State::SpaceAfterSize, b'\r') => self.size_line_end()?,
            (State::Size | State::SpaceAfterSize | State::Extension | State::SizeLf, b'\n') if tolerant => {
                self.after_size()
            }
            (State::Size | State::SpaceAfterSize, b' ' | b'\t') => State::SpaceAfterSize,
            (State::Size | State::SpaceAfterSize, b';') => State::Extension,
            (State::Size | State::SpaceAfterSize, _) => return Err("a chunk size that is not hexadecimal"),
            (State::Extension, b'\r') if !tolerant => State::SizeLf,
            (State::Extension, _) if tolerant => State::Extension,
            (State::Extension, b'\t' | b' '..=b'~' | 0x80..) => State::Extension,
            (State::Extension, _) => return Err("a control character in a chunk extension"),
            (State::SizeLf, b'\n') => self.after_size(),
            (State::DataCr, b'\r') => State::DataLf,
            (State::DataLf, b'\n') => self.after_data(),
            (State::DataCr, b'\n') if tolerant => self.after_data(),
            (State::DataCr | State::DataLf, _) => return Err("a chunk longer than its size"),
            (State::LineStart | State::LastLf, b'\n') if tolerant => return Ok(true),
            (State::LineStart, b'\r') => State::LastLf,
            (State::Name | State::Value | State::ValueLf, b'\n') if tolerant => State::LineStart,
            (State::LineStart | State::Name | State::Value | State::ValueLf, _) if tolerant => State::Value,
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
        match self.limit() {
            (limit, reason) if self.line_bytes > limit => Err(reason),
            _ => Ok(false),
        }
    }

    /// A CR behind a size.
    fn size_line_end(&self) -> Result<State, &'static str> {
        match (self.state, self.judgement) {
            (State::Size, _) | (_, Judgement::Tolerant) => Ok(State::SizeLf),
            _ => Err("a chunk size that is not hexadecimal"),
        }
    }

    fn after_size(&mut self) -> State {
        (self.digits, self.line_bytes) = (0, 0);
        if self.left == 0 { State::LineStart } else { State::Data }
    }

    fn after_data(&mut self) -> State {
        self.line_bytes = 0;
        State::Size
    }

    /// The most bytes of what is being read, and what to say beyond.
    fn limit(&self) -> (u32, &'static str) {
        let in_size = matches!(
            self.state,
            State::Size | State::SpaceAfterSize | State::Extension | State::SizeLf | State::Data
        );
        match (self.judgement, in_size) {
            (Judgement::Strict, true) => (CHUNK_LINE_BYTES_MAX, "a chunk size line longer than 4 KiB"),
            (Judgement::Strict, false) => (TRAILER_BYTES_MAX, "trailers longer than 16 KiB"),
            (Judgement::Tolerant, true) => {
                (REPLY_CHUNK_LINE_BYTES_MAX, "a chunk size line longer than 16 KiB")
            }
            (Judgement::Tolerant, false) => (REPLY_TRAILER_BYTES_MAX, "trailers longer than 256 KiB"),
        }
    }
}

/// RFC 9110 §5.6.2.
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(judgement: Judgement, bytes: &[u8]) -> Progress {
        Body::new(Framing::Chunked, judgement).expect("chunked bodies are never empty").advance(bytes)
    }

    fn chunked(bytes: &[u8]) -> Progress {
        read(Judgement::Strict, bytes)
    }

    #[test]
    fn chunks_of_a_reply_are_read_as_clients_read_them() {
        for body in [
            &b"5\r\nhello\r\n0\r\n\r\n"[..],
            b"5\nhello\n0\n\n",
            b"5 \t\r\nhello\r\n0 \r\n\r\n",
            b"00000000000000000000005\r\nhello\r\n0\r\n\r\n",
            b"5;\x00\x7f\rx\r\nhello\r\n0000000000000000000;z\r\n\r\n",
            b"0\r\nno colon\r\n folded\r\nname : x\r\na: b\rc\n\r\n",
            b"0\r\na: b\r\n\n",
        ] {
            let text = String::from_utf8_lossy(body);
            let whole = [body, b"HTTP/1.1 200 OK"].concat();
            assert_eq!(read(Judgement::Tolerant, &whole), Progress::Done(body.len()), "{text}");
            for cut in 0..body.len() {
                let mut in_two = Body::new(Framing::Chunked, Judgement::Tolerant).expect("chunked");
                assert_eq!(in_two.advance(&body[..cut]), Progress::More, "{text} cut at {cut}");
                assert_eq!(
                    in_two.advance(&whole[cut..]),
                    Progress::Done(body.len() - cut),
                    "{text} at {cut}"
                );
            }
        }
        for nonsense in [
            &b"\r\n"[..],
            b";x\r\n",
            b"zz\r\n",
            b"-1\r\n",
            b"5 x\r\n",
            b"5\r\nhelloX",
            b"1000000000000000\r\n",
        ] {
            let found = read(Judgement::Tolerant, nonsense);
            assert!(matches!(found, Progress::Invalid(_)), "{}", String::from_utf8_lossy(nonsense));
        }
        let line = [&b"5;"[..], &b"x".repeat(17_000)].concat();
        assert_eq!(
            read(Judgement::Tolerant, &line),
            Progress::Invalid("a chunk size line longer than 16 KiB")
        );
        let trailers = [&b"0\r\n"[..], &b"a: b\r\n".repeat(50_000)].concat();
        assert_eq!(read(Judgement::Tolerant, &trailers), Progress::Invalid("trailers longer than 256 KiB"));
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
