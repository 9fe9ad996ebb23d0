//! Reads a request's head: one `httparse` call, then the checks that decide how its body is framed. Strict: what two
//! readers could frame differently is refused.

use std::mem::MaybeUninit;
use std::ops::Range;

use super::host::{check_target, is_host};

/// The longest head of a request; beyond it the request is refused.
pub const HEAD_BYTES_MAX: usize = 64 * 1024;
/// The most header fields of a request.
pub const HEADERS_MAX: usize = 128;

/// Tried first, so that a common head initialises little stack.
const HEADERS_COMMON: usize = 32;
/// Empty lines that may precede a request (RFC 9112 §2.2 asks for tolerance of at least one).
const EMPTY_LINES_MAX: usize = 2;
/// Pieces of a head are checked for nonsense as they come up to here, so that what is not HTTP is refused early.
const EARLY_CHECK_BYTES: usize = 1024;

/// What a reply must know of its request to be framed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asked {
    /// The method is HEAD: the reply has no body.
    pub head: bool,
    /// The method is CONNECT: a 2xx reply opens a tunnel.
    pub connect: bool,
    /// The request asks for another protocol: a 101 reply switches.
    pub upgrade: bool,
    /// The client keeps the connection open.
    pub keep_alive: bool,
}

impl Asked {
    /// What a plain HTTP/1.1 request with this method asks.
    pub fn method(method: &str) -> Asked {
        Asked { head: method == "HEAD", connect: method == "CONNECT", upgrade: false, keep_alive: true }
    }
}

/// How long a body is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Framing {
    None,
    Length(u64),
    Chunked,
    UntilClose,
}

/// The head of a request, in the bytes it came in.
#[derive(Clone, Copy, Debug)]
pub struct RequestHead<'a> {
    bytes: &'a [u8],
    map: &'a RequestMap,
}

/// Where the parts of a request's head are, and what they mean for framing.
#[derive(Clone, Debug, Default)]
pub(super) struct RequestMap {
    method: Range<u32>,
    target: Range<u32>,
    fields: Range<u32>,
    pub(super) end: usize,
    version: u8,
    connect: bool,
    meaning: Meaning,
}

/// What the header fields say.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Meaning {
    content_length: Option<u64>,
    chunked: bool,
    close: bool,
    persist: bool,
    /// An Upgrade field is there. Without the connection option it is not meant for us (RFC 9110 §7.8), but a
    /// server that switches nevertheless must find us ready.
    upgrade: bool,
    expects_continue: bool,
    keep_alive: bool,
}

impl<'a> RequestHead<'a> {
    pub(super) fn new(bytes: &'a [u8], map: &'a RequestMap) -> RequestHead<'a> {
        RequestHead { bytes: bytes.get(..map.end).expect(TAKEN), map }
    }

    /// The method, as sent.
    pub fn method(&self) -> &'a str {
        text(self.bytes, &self.map.method)
    }

    /// The request target, as sent.
    pub fn target(&self) -> &'a str {
        text(self.bytes, &self.map.target)
    }

    /// The path of the target, without its query and, in absolute form, without scheme and authority.
    pub fn path(&self) -> &'a str {
        let target = self.target();
        let target = match target.split_once("://") {
            Some((scheme, rest)) if !scheme.contains(['/', '?']) => {
                rest.find(['/', '?']).map_or("/", |at| &rest[at..])
            }
            _ => target,
        };
        target.split(['?', '#']).next().unwrap_or(target)
    }

    /// The minor version: 0 for HTTP/1.0, 1 for HTTP/1.1.
    pub fn version(&self) -> u8 {
        self.map.version
    }

    /// The header fields in order, values without surrounding white space.
    pub fn headers(&self) -> impl Iterator<Item = (&'a str, &'a [u8])> + use<'a> {
        fields(self.bytes, &self.map.fields)
    }

    /// The first value of the field `name`, in any case.
    pub fn header(&self, name: &str) -> Option<&'a [u8]> {
        self.headers().find(|(field, _)| field.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }

    /// The whole head, its empty line included.
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// Whether the client keeps the connection open (RFC 9112 §9.3).
    pub fn keep_alive(&self) -> bool {
        self.map.meaning.keep_alive
    }

    /// Whether the client may wait for `100 Continue` before it sends the body; HTTP/1.0 has no such thing (RFC 9110
    /// §10.1.1).
    pub fn expects_continue(&self) -> bool {
        self.map.meaning.expects_continue && self.map.version == 1
    }

    /// What the reply must know.
    pub fn asked(&self) -> Asked {
        Asked {
            upgrade: self.map.meaning.upgrade,
            keep_alive: self.keep_alive(),
            ..Asked::method(self.method())
        }
    }
}

impl RequestMap {
    /// How the body is framed (RFC 9112 §6.3); CONNECT has none.
    pub(super) fn framing(&self) -> Result<Framing, &'static str> {
        let meaning = &self.meaning;
        match (self.connect, meaning.chunked, meaning.content_length) {
            (true, false, None) => Ok(Framing::None),
            (true, ..) => Err("CONNECT with a body"),
            (false, true, _) => Ok(Framing::Chunked),
            (false, false, Some(length)) => Ok(Framing::Length(length)),
            (false, false, None) => Ok(Framing::None),
        }
    }

    /// Whether what follows the request depends on its reply.
    pub(super) fn may_switch(&self) -> bool {
        self.connect || self.meaning.upgrade
    }

    /// Forgets that it asked for another protocol: the answer is that it stays at this one.
    pub(super) fn decline(&mut self) {
        (self.connect, self.meaning.upgrade) = (false, false);
    }
}

/// What `read_request` finds.
pub(super) enum Reading {
    Whole(RequestMap),
    Partial,
}

/// Reads a request's head at the front of `bytes`.
pub(super) fn read_request(bytes: &[u8]) -> Result<Reading, &'static str> {
    let start = skip_empty_lines(bytes)?;
    match read_request_with::<HEADERS_COMMON>(bytes, start) {
        Err(httparse::Error::TooManyHeaders) => read_request_with::<HEADERS_MAX>(bytes, start),
        other => other,
    }
    .unwrap_or_else(|error| Err(words(error)))
}

type Checked = Result<Result<Reading, &'static str>, httparse::Error>;

fn read_request_with<const N: usize>(bytes: &[u8], start: usize) -> Checked {
    let mut headers = [const { MaybeUninit::uninit() }; N];
    let mut request = httparse::Request::new(&mut []);
    let length = match request.parse_with_uninit_headers(&bytes[start..], &mut headers)? {
        httparse::Status::Complete(length) => length,
        httparse::Status::Partial => return Ok(Ok(Reading::Partial)),
    };
    let end = start + length;
    let (Some(method), Some(target), Some(version)) = (request.method, request.path, request.version) else {
        return Ok(Err("a request line without its parts"));
    };
    Ok(mean(bytes, end, version, request.headers).and_then(|(fields, meaning, host)| {
        // A target of only visible ASCII; httparse lets other bytes pass.
        if !target.is_ascii() {
            return Err("a request target that is not ASCII");
        }
        check_target(method, target, host)?;
        let map = RequestMap {
            method: range(bytes, method.as_bytes()),
            target: range(bytes, target.as_bytes()),
            fields,
            end,
            version,
            connect: method == "CONNECT",
            meaning,
        };
        Ok(Reading::Whole(map))
    }))
}

/// Where the fields stand, what they say, and the value of Host.
type Fields<'a> = (Range<u32>, Meaning, Option<&'a [u8]>);

/// Checks the line ends of a head and reads the fields that matter for framing, and Host.
fn mean<'a>(
    bytes: &[u8],
    end: usize,
    version: u8,
    headers: &[httparse::Header<'a>],
) -> Result<Fields<'a>, &'static str> {
    if end > HEAD_BYTES_MAX {
        return Err(HEAD_TOO_LONG);
    }
    // httparse takes a bare LF for a line end; another reader may not (RFC 9112 §2.2). The name of a field stands
    // behind the line end of the line before, and the head ends with those of the last line and the empty one.
    if !bytes[..end].ends_with(b"\r\n\r\n") {
        return Err("a bare LF as a line end");
    }
    let mut meaning = Meaning::default();
    let mut transfer_encoding = false;
    let mut host = None;
    for header in headers {
        let at = offset(bytes, header.name.as_bytes());
        if at < 2 || bytes[at - 2] != b'\r' {
            return Err("a bare LF as a line end");
        }
        match header.name.len() {
            // RFC 9112 §3.2: one, and no other value than a host.
            4 if header.name.eq_ignore_ascii_case("host") => {
                if host.is_some() {
                    return Err("two Host fields");
                }
                if !is_host(header.value) {
                    return Err("a Host that is none");
                }
                host = Some(header.value);
            }
            6 if header.name.eq_ignore_ascii_case("expect") => {
                meaning.expects_continue |= header.value.eq_ignore_ascii_case(b"100-continue");
            }
            7 if header.name.eq_ignore_ascii_case("upgrade") => meaning.upgrade = true,
            10 if header.name.eq_ignore_ascii_case("connection") => {
                for option in header.value.split(|byte| *byte == b',') {
                    let option = option.trim_ascii();
                    meaning.close |= option.eq_ignore_ascii_case(b"close");
                    meaning.persist |= option.eq_ignore_ascii_case(b"keep-alive");
                }
            }
            14 if header.name.eq_ignore_ascii_case("content-length") => {
                let length = decimal(header.value).ok_or("a Content-Length that is not a plain number")?;
                if meaning.content_length.is_some_and(|other| other != length) {
                    return Err("two Content-Length that differ");
                }
                meaning.content_length = Some(length);
            }
            17 if header.name.eq_ignore_ascii_case("transfer-encoding") => {
                if transfer_encoding {
                    return Err("two Transfer-Encoding fields");
                }
                transfer_encoding = true;
                meaning.chunked = ends_in_chunked(header.value)?;
            }
            _ => {}
        }
    }
    if transfer_encoding && meaning.content_length.is_some() {
        return Err("both Content-Length and Transfer-Encoding");
    }
    if transfer_encoding && version == 0 {
        return Err("Transfer-Encoding in HTTP/1.0");
    }
    if host.is_none() && version == 1 {
        return Err("no Host field");
    }
    meaning.keep_alive = !meaning.close && (version == 1 || meaning.persist);
    let first = headers.first().map_or(end - 2, |header| offset(bytes, header.name.as_bytes()));
    Ok((first as u32..(end - 2) as u32, meaning, host))
}

/// Whether the last coding is `chunked` and it stands there once; other codings must be known (RFC 9112 §7).
fn ends_in_chunked(value: &[u8]) -> Result<bool, &'static str> {
    let mut codings = value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii).rev();
    if !codings.next().is_some_and(|last| last.eq_ignore_ascii_case(b"chunked")) {
        return Err("a Transfer-Encoding that does not end in chunked");
    }
    const KNOWN: [&[u8]; 5] = [b"gzip", b"x-gzip", b"deflate", b"compress", b"x-compress"];
    if codings.all(|coding| KNOWN.iter().any(|known| coding.eq_ignore_ascii_case(known))) {
        Ok(true)
    } else {
        Err("an unknown Transfer-Encoding before chunked")
    }
}

/// Digits only: no sign, no space, no list; at most 2^63 − 1.
pub(super) fn decimal(value: &[u8]) -> Option<u64> {
    if value.is_empty() || value.len() > 19 {
        return None;
    }
    value
        .iter()
        .try_fold(0_u64, |sum, byte| {
            byte.is_ascii_digit().then(|| sum.checked_mul(10)?.checked_add(u64::from(byte - b'0')))?
        })
        .filter(|length| *length <= i64::MAX as u64)
}

fn skip_empty_lines(bytes: &[u8]) -> Result<usize, &'static str> {
    let mut start = 0;
    while bytes[start..].starts_with(b"\r\n") {
        start += 2;
        if start > 2 * EMPTY_LINES_MAX {
            return Err("empty lines instead of a request");
        }
    }
    if bytes[start..].starts_with(b"\n") { Err("a bare LF as a line end") } else { Ok(start) }
}

const TAKEN: &str = "head() is asked with the slice of its Head event and before take_head_bytes()";
const HEAD_TOO_LONG: &str = "a head longer than 64 KiB";

fn words(error: httparse::Error) -> &'static str {
    match error {
        httparse::Error::HeaderName => "a header name that is not a token, or a folded line",
        httparse::Error::HeaderValue => "a header value with control characters",
        httparse::Error::NewLine => "a bare CR in the head",
        httparse::Error::Status | httparse::Error::Token => "a request line that is not one",
        httparse::Error::TooManyHeaders => "more than 128 header fields",
        httparse::Error::Version => "a version that is not HTTP/1.0 or HTTP/1.1",
    }
}

/// Where `part`, a piece of `whole`, begins in it.
fn offset(whole: &[u8], part: &[u8]) -> usize {
    (part.as_ptr() as usize).wrapping_sub(whole.as_ptr() as usize)
}

fn range(whole: &[u8], part: &[u8]) -> Range<u32> {
    let start = offset(whole, part) as u32;
    start..start + part.len() as u32
}

fn text<'a>(bytes: &'a [u8], range: &Range<u32>) -> &'a str {
    std::str::from_utf8(&bytes[range.start as usize..range.end as usize]).unwrap_or_default()
}

/// Splits field lines that were checked before.
fn fields<'a>(bytes: &'a [u8], range: &Range<u32>) -> impl Iterator<Item = (&'a str, &'a [u8])> + use<'a> {
    let bytes = &bytes[range.start as usize..range.end as usize];
    bytes.split(|byte| *byte == b'\n').filter_map(|line| {
        let colon = line.iter().position(|byte| *byte == b':')?;
        Some((std::str::from_utf8(&line[..colon]).ok()?, line[colon + 1..].trim_ascii()))
    })
}

/// Collects a head that comes in pieces.
#[derive(Debug, Default)]
pub(super) struct HeadPieces {
    held: Vec<u8>,
}

impl HeadPieces {
    pub(super) fn is_empty(&self) -> bool {
        self.held.is_empty()
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.held
    }

    pub(super) fn take(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.held)
    }

    pub(super) fn clear(&mut self) {
        self.held = Vec::new();
    }

    /// Adds a piece that no head's end is in.
    pub(super) fn hold(&mut self, bytes: &[u8]) -> Result<(), &'static str> {
        if self.held.len() + bytes.len() >= HEAD_BYTES_MAX {
            return Err(HEAD_TOO_LONG);
        }
        self.held.extend_from_slice(bytes);
        Ok(())
    }

    /// Adds a piece and reads when an end may be in it: the bytes of the piece that belong to the head, and the head.
    pub(super) fn read(&mut self, bytes: &[u8]) -> Result<Option<(usize, RequestMap)>, &'static str> {
        let before = self.held.len();
        let room = HEAD_BYTES_MAX + 1 - before;
        self.held.extend_from_slice(&bytes[..bytes.len().min(room)]);
        // Reading again at each piece would cost the square of the length, so it waits for an empty line.
        if has_empty_line(&self.held[before.saturating_sub(3)..])
            && let Reading::Whole(map) = read_request(&self.held)?
        {
            self.held.truncate(map.end);
            return Ok(Some((map.end - before, map)));
        }
        if before < EARLY_CHECK_BYTES {
            read_request(&self.held[..self.held.len().min(EARLY_CHECK_BYTES)])?;
        }
        if self.held.len() >= HEAD_BYTES_MAX { Err(HEAD_TOO_LONG) } else { Ok(None) }
    }
}

fn has_empty_line(bytes: &[u8]) -> bool {
    bytes.windows(2).any(|pair| pair == b"\n\n") || bytes.windows(3).any(|three| three == b"\n\r\n")
}
