//! Reads a reply's head line by line, as clients read it, and keeps no more than what says how the body is framed.
//!
//! Nothing is held back: the proxy hands the bytes on as they come, so a head may be as long as clients take it and
//! have any number of fields. What clients agree about is read (folded lines, a bare LF, chunks beside a length); what
//! they would frame in different ways is doubt, and said so.

use memchr::memchr;

use super::head::{Framing, decimal};

/// The longest head of a reply; browsers stop earlier, Chromium at 256 KiB.
pub const REPLY_HEAD_BYTES_MAX: u32 = 1024 * 1024;
/// Bytes of a line that are looked at, however it is cut into pieces; a line that says how the body is framed, or whether
/// the connection stays open, may not be longer. Others may.
pub const REPLY_LINE_BYTES_MAX: usize = 16 * 1024;
/// Browsers read the Shoutcast protocol's status line as HTTP.
const BEGINNINGS: [&[u8]; 2] = [b"HTTP/", b"ICY"];
/// The longest of them.
pub(super) const BEGINNING_BYTES_MAX: usize = 5;

/// What a head says, as far as it has been read.
#[derive(Clone, Debug, Default)]
pub(super) struct ReplyHead {
    /// The beginning of a line whose end has not come, as far as it can matter; not empty in the middle of a line.
    line: Vec<u8>,
    bytes: u32,
    /// 0 until the status line has been read.
    pub(super) status: u16,
    pub(super) version: u8,
    close: bool,
    persist: bool,
    length: Length,
    coding: Coding,
    last: Field,
}

/// The field that a folded line goes on with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Field {
    #[default]
    Other,
    Connection,
    Length,
    Coding,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Length {
    #[default]
    None,
    Bytes(u64),
    Doubt(&'static str),
}

/// What Transfer-Encoding says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Coding {
    #[default]
    None,
    /// Codings, and `chunked` is not among them.
    Other,
    Chunked,
    Doubt(&'static str),
}

/// Whether a reply begins with certain bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Begins {
    Yes,
    No,
    /// They are too few to tell.
    Perhaps,
}

/// Whether a reply begins with `bytes`.
pub(super) fn begins(bytes: &[u8]) -> Begins {
    let fits = |beginning: &&[u8]| {
        let length = beginning.len().min(bytes.len());
        bytes[..length].eq_ignore_ascii_case(&beginning[..length])
    };
    match BEGINNINGS.iter().copied().find(fits) {
        Some(beginning) if beginning.len() <= bytes.len() => Begins::Yes,
        Some(_) => Begins::Perhaps,
        None => Begins::No,
    }
}

impl ReplyHead {
    /// Reads on; how many bytes belong to the head if it ends among them.
    pub(super) fn advance(&mut self, bytes: &[u8]) -> Result<Option<usize>, &'static str> {
        let mut at = 0;
        while let Some(length) = memchr(b'\n', &bytes[at..]) {
            let piece = &bytes[at..at + length];
            at += length + 1;
            let ends = if self.line.is_empty() {
                self.on_line(piece)?
            } else {
                self.keep(piece);
                let line = std::mem::take(&mut self.line);
                self.on_line(&line)?
            };
            if ends {
                self.count(at)?;
                return Ok(Some(at));
            }
        }
        self.keep(&bytes[at..]);
        self.count(bytes.len())?;
        Ok(None)
    }

    /// Whether no byte of it has come.
    pub(super) fn is_new(&self) -> bool {
        self.bytes == 0
    }

    /// What is kept of a line whose end has not come.
    pub(super) fn kept(&self) -> &[u8] {
        &self.line
    }

    /// Whether the server keeps the connection open (RFC 9112 §9.3).
    pub(super) fn keep_alive(&self) -> bool {
        !self.close && (self.version == 1 || self.persist)
    }

    /// How a body is framed, if there may be one (RFC 9112 §6.3).
    pub(super) fn framing(&self) -> Result<Framing, &'static str> {
        match (self.coding, self.length) {
            (Coding::Doubt(reason), _) => Err(reason),
            (Coding::Chunked, _) if self.version == 0 => Err("Transfer-Encoding in HTTP/1.0"),
            // It stands above a length, whatever that says.
            (Coding::Chunked, _) => Ok(Framing::Chunked),
            (_, Length::Doubt(reason)) => Err(reason),
            (Coding::Other, Length::Bytes(_)) => {
                Err("Content-Length and a Transfer-Encoding without chunked")
            }
            (Coding::None, Length::Bytes(length)) => Ok(Framing::Length(length)),
            (_, Length::None) => Ok(Framing::UntilClose),
        }
    }

    fn count(&mut self, bytes: usize) -> Result<(), &'static str> {
        self.bytes = self.bytes.saturating_add(u32::try_from(bytes).unwrap_or(u32::MAX));
        if self.bytes > REPLY_HEAD_BYTES_MAX { Err("a head longer than 1 MiB") } else { Ok(()) }
    }

    /// Adds to the beginning of a line.
    fn keep(&mut self, piece: &[u8]) {
        let Some(first) = self.line.first().or(piece.first()) else { return };
        let matters = match first {
            _ if self.status == 0 => true,
            b' ' | b'\t' => self.last != Field::Other,
            // The letters of `on_line`, and what may be an empty line.
            b'c' | b'C' | b't' | b'T' | b'\r' => true,
            _ => false,
        };
        // One byte more than is looked at says that the line is too long.
        let room = (if matters { REPLY_LINE_BYTES_MAX + 1 } else { 1 }) - self.line.len();
        self.line.extend_from_slice(&piece[..piece.len().min(room)]);
    }

    /// Takes a line without its LF, or as much of it as was kept; whether it ends the head.
    fn on_line(&mut self, line: &[u8]) -> Result<bool, &'static str> {
        // The same for a line that came whole and for one that came in pieces.
        let is_cut = line.len() > REPLY_LINE_BYTES_MAX;
        let line = &line[..line.len().min(REPLY_LINE_BYTES_MAX)];
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if self.status == 0 {
            // Some servers send an empty line too many after a body.
            return if line.is_empty() { Ok(false) } else { self.on_status_line(line).map(|()| false) };
        }
        match line.first() {
            None => return Ok(true),
            Some(b' ' | b'\t') => {
                if is_cut && self.last != Field::Other {
                    return Err(LINE_TOO_LONG);
                }
                self.on_value(self.last, line.trim_ascii(), true);
            }
            // Only these letters begin a field that says how a body is framed.
            Some(b'c' | b'C' | b't' | b'T') => {
                let colon = memchr(b':', line);
                let field = Field::of(line[..colon.unwrap_or(line.len())].trim_ascii_end());
                if is_cut && field != Field::Other {
                    return Err(LINE_TOO_LONG);
                }
                self.last = Field::Other;
                if let Some(colon) = colon {
                    self.last = field;
                    self.on_value(field, line[colon + 1..].trim_ascii(), false);
                }
            }
            Some(_) => self.last = Field::Other,
        }
        Ok(false)
    }

    fn on_status_line(&mut self, line: &[u8]) -> Result<(), &'static str> {
        const WRONG: &str = "a status line that is not one";
        let mut words = line.split(|byte| matches!(byte, b' ' | b'\t')).filter(|word| !word.is_empty());
        let (Some(protocol), Some(code)) = (words.next(), words.next()) else { return Err(WRONG) };
        self.version = match protocol {
            [h @ .., major @ b'0'..=b'9', b'.', minor @ b'0'..=b'9'] if h.eq_ignore_ascii_case(b"HTTP/") => {
                u8::from((*major, *minor) >= (b'1', b'1'))
            }
            _ if protocol.eq_ignore_ascii_case(b"ICY") => 0,
            _ => return Err(WRONG),
        };
        match code {
            [a @ b'1'..=b'9', b @ b'0'..=b'9', c @ b'0'..=b'9'] => {
                self.status = [a, b, c].iter().fold(0, |code, digit| code * 10 + u16::from(**digit - b'0'));
                Ok(())
            }
            _ => Err("a status code that is not three digits"),
        }
    }

    /// Takes the value of a field, or what a folded line adds to it.
    fn on_value(&mut self, field: Field, value: &[u8], folded: bool) {
        let words = || value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii);
        match field {
            Field::Other => {}
            Field::Connection => {
                for option in words() {
                    self.close |= option.eq_ignore_ascii_case(b"close");
                    self.persist |= option.eq_ignore_ascii_case(b"keep-alive");
                }
            }
            // The line before ended with the name, or the fold is blank.
            Field::Length if folded && value.is_empty() => {}
            Field::Length => {
                for word in words() {
                    self.length = match (self.length, decimal(word)) {
                        (Length::None, Some(length)) => Length::Bytes(length),
                        (Length::Bytes(one), Some(other)) if one == other && !folded => self.length,
                        // What follows on a folded line may be the value.
                        (Length::None, None) if value.is_empty() => Length::Doubt(EMPTY),
                        (Length::Doubt(EMPTY), Some(length)) if folded => Length::Bytes(length),
                        (Length::Doubt(reason), _) => Length::Doubt(reason),
                        (Length::Bytes(_), Some(_)) => Length::Doubt("two Content-Length that differ"),
                        (_, None) => Length::Doubt("a Content-Length that is not a plain number"),
                    };
                }
            }
            Field::Coding => {
                for word in words().filter(|word| !word.is_empty()) {
                    let chunked = word.eq_ignore_ascii_case(b"chunked");
                    let identity = word.eq_ignore_ascii_case(b"identity");
                    self.coding = match (self.coding, chunked) {
                        (Coding::None, false) if identity => Coding::None,
                        (Coding::None | Coding::Other, true) => Coding::Chunked,
                        (Coding::None | Coding::Other, false) => Coding::Other,
                        (Coding::Chunked, true) => Coding::Doubt("chunked twice"),
                        (Coding::Chunked, false) => Coding::Doubt("a coding after chunked"),
                        (doubt, _) => doubt,
                    };
                }
            }
        }
    }
}

const EMPTY: &str = "a Content-Length that is empty";
const LINE_TOO_LONG: &str = "a Content-Length, Transfer-Encoding or Connection line longer than 16 KiB";

impl Field {
    fn of(name: &[u8]) -> Field {
        match name.len() {
            10 if name.eq_ignore_ascii_case(b"connection") => Field::Connection,
            14 if name.eq_ignore_ascii_case(b"content-length") => Field::Length,
            17 if name.eq_ignore_ascii_case(b"transfer-encoding") => Field::Coding,
            _ => Field::Other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a head with these lines says, read whole and byte by byte.
    fn framing(head: &str) -> Result<Framing, &'static str> {
        let bytes = format!("{head}\r\n");
        let bytes = bytes.as_bytes();
        let mut whole = ReplyHead::default();
        let found = whole.advance(bytes).and_then(|end| {
            assert_eq!(end, Some(bytes.len()), "{head:?}");
            whole.framing()
        });
        let mut in_pieces = ReplyHead::default();
        let ended = bytes.iter().try_fold(None, |_, byte| in_pieces.advance(&[*byte]));
        assert_eq!(ended.and_then(|_| in_pieces.framing()), found, "{head:?} byte by byte");
        found
    }

    #[test]
    fn what_clients_accept_is_framed() {
        use Framing::{Chunked, Length, UntilClose};
        for (head, expected) in [
            ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n", Length(5)),
            ("HTTP/1.1 200\r\ncontent-length:5\r\n", Length(5)),
            ("\r\nHTTP/1.1  200  OK\r\nContent-Length : 5\r\n", Length(5)),
            ("HTTP/1.1 200 OK\nContent-Length: 5\n", Length(5)),
            ("http/1.1 200 OK\r\nA: b\r\n folded: c\r\nContent-Length: 5\r\n", Length(5)),
            ("HTTP/1.1 200 OK\r\nContent-Length:\r\n 5\r\n", Length(5)),
            ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n \t\r\n", Length(5)),
            ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 5, 5\r\n", Length(5)),
            ("HTTP/1.1 200 OK\r\nA: b\r\n Content-Length: 5\r\n", UntilClose),
            ("HTTP/1.1 200 OK\r\nno colon\r\nContent-Lengthy: 5\r\nT\r\n", UntilClose),
            ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n", Chunked),
            ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: x\r\n", Chunked),
            ("HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\nTransfer-Encoding: Chunked\r\n", Chunked),
            ("HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip,\r\n chunked\r\n", Chunked),
            ("HTTP/1.1 200 OK\r\nTransfer-Encoding: identity\r\nContent-Length: 5\r\n", Length(5)),
            ("HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n", UntilClose),
            ("HTTP/1.0 200 OK\r\n", UntilClose),
            ("ICY 200 OK\r\n", UntilClose),
        ] {
            assert_eq!(framing(head), Ok(expected), "{head:?}");
        }
    }

    #[test]
    fn what_clients_would_frame_in_different_ways_is_doubt() {
        for head in [
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 5, 6\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n 6\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: +5\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: \r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked, gzip\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\nContent-Length: 5\r\n",
            "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n",
            "HTTP/1.1 099 Low\r\n",
            "HTTP/1.1 2000 High\r\n",
            "HTTP/1.1\r\n",
            "HTTP/x 200 OK\r\n",
            "220 ready\r\n",
        ] {
            assert!(framing(head).is_err(), "{head:?}");
        }
    }

    #[test]
    fn a_head_is_bounded_in_bytes_but_not_in_fields() {
        let fields = format!("HTTP/1.1 200 OK\r\n{}Content-Length: 5\r\n", "a: b\r\n".repeat(100_000));
        assert_eq!(framing(&fields), Ok(Framing::Length(5)));
        let long = format!("HTTP/1.1 200 OK\r\nA: {}\r\nContent-Length: 5\r\n", "x".repeat(300_000));
        assert_eq!(framing(&long), Ok(Framing::Length(5)));
        let mut endless = ReplyHead::default();
        let refused = (0..40).find(|_| endless.advance(&[b'x'; 32 * 1024]).is_err());
        assert_eq!(refused, Some(32), "1 MiB and not more is read");
        assert!(endless.line.len() <= REPLY_LINE_BYTES_MAX + 1);
    }

    #[test]
    fn only_a_status_line_begins_a_reply() {
        for (bytes, expected) in [
            (&b""[..], Begins::Perhaps),
            (b"H", Begins::Perhaps),
            (b"http", Begins::Perhaps),
            (b"IC", Begins::Perhaps),
            (b"HTTP/", Begins::Yes),
            (b"HTTP/1.1 200 OK", Begins::Yes),
            (b"icy", Begins::Yes),
            (b"x", Begins::No),
            (b"HTML", Begins::No),
            (b"5\r\nhello", Begins::No),
        ] {
            assert_eq!(begins(bytes), expected);
        }
        assert!(BEGINNINGS.iter().all(|beginning| beginning.len() <= BEGINNING_BYTES_MAX));
    }
}
