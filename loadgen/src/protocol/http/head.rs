//! The head of a reply: its status, and where its body ends (RFC 9112 §6.3).

use std::mem::MaybeUninit;

use httparse::{ParserConfig, Status};

use crate::protocol::InvalidReply;

/// A head longer than this is refused. nginx and HAProxy stop at 8–32 KiB.
pub(super) const HEAD_BYTES_MAX: usize = 64 * 1024;
/// More headers than this are refused.
const HEADERS_MAX: usize = 128;

/// What a head says about the body that follows.
pub(super) enum Framing {
    None,
    Length(u64),
    Chunked,
    UntilClose,
}

pub(super) struct Head {
    pub(super) bytes: usize,
    pub(super) status: u16,
    pub(super) keep_alive: bool,
    pub(super) framing: Framing,
}

pub(super) fn parse_head(bytes: &[u8], to_head: bool) -> Result<Option<Head>, InvalidReply> {
    let mut headers = [const { MaybeUninit::uninit() }; HEADERS_MAX];
    let mut response = httparse::Response::new(&mut []);
    let within = &bytes[..bytes.len().min(HEAD_BYTES_MAX)];
    let parsed =
        ParserConfig::default().parse_response_with_uninit_headers(&mut response, within, &mut headers);
    let length = match parsed {
        Ok(Status::Complete(length)) => length,
        Ok(Status::Partial) if within.len() == HEAD_BYTES_MAX => return Err(InvalidReply::HeadTooLong),
        Ok(Status::Partial) => return Ok(None),
        Err(httparse::Error::TooManyHeaders) => return Err(InvalidReply::HeadTooLong),
        Err(_) => return Err(InvalidReply::Head),
    };
    let status = response.code.unwrap_or_default();
    let http_1_1 = response.version == Some(1);
    let mut keep_alive = http_1_1;
    let (mut content_length, mut coding) = (None, None);
    for header in response.headers.iter() {
        // The three names differ in length, which is cheaper to ask than their letters.
        match header.name.len() {
            10 if header.name.eq_ignore_ascii_case("connection") => {
                keep_alive = if http_1_1 {
                    keep_alive && !has_token(header.value, b"close")
                } else {
                    has_token(header.value, b"keep-alive")
                };
            }
            14 if header.name.eq_ignore_ascii_case("content-length") => {
                let length = parse_length(header.value).ok_or(InvalidReply::Length)?;
                if content_length.is_some_and(|before| before != length) {
                    return Err(InvalidReply::Length);
                }
                content_length = Some(length);
            }
            17 if header.name.eq_ignore_ascii_case("transfer-encoding") => coding = Some(header.value),
            _ => {}
        }
    }
    let bodyless = to_head || status / 100 == 1 || status == 204 || status == 304;
    let framing = match (coding, content_length) {
        // RFC 9112 §6.3 calls both together, or a coding in HTTP/1.0, a likely smuggling attempt.
        (Some(_), Some(_)) => return Err(InvalidReply::Length),
        (Some(_), None) if !http_1_1 => return Err(InvalidReply::Length),
        _ if bodyless => Framing::None,
        (Some(coding), None) if last_token_is(coding, b"chunked") => Framing::Chunked,
        (None, Some(length)) => Framing::Length(length),
        (_, None) => Framing::UntilClose,
    };
    // After 101 the connection speaks another protocol; after a reply that ends at the close it is gone.
    let keep_alive = keep_alive && status != 101 && !matches!(framing, Framing::UntilClose);
    Ok(Some(Head { bytes: length, status, keep_alive, framing }))
}

fn parse_length(value: &[u8]) -> Option<u64> {
    let digits = value.trim_ascii();
    let plain = !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
    std::str::from_utf8(digits).ok().filter(|_| plain)?.parse().ok()
}

fn tokens(value: &[u8]) -> impl DoubleEndedIterator<Item = &[u8]> {
    value.split(|b| *b == b',').map(<[u8]>::trim_ascii)
}

fn has_token(value: &[u8], token: &[u8]) -> bool {
    tokens(value).any(|part| part.eq_ignore_ascii_case(token))
}

fn last_token_is(value: &[u8], token: &[u8]) -> bool {
    tokens(value).next_back().is_some_and(|part| part.eq_ignore_ascii_case(token))
}
