//! The error reply that the proxy sends in the upstream's place.

/// The header that tells an injected error from a natural one; its value is the behavior's name.
pub const ERROR_MARK: &str = "X-Fracas";

/// A whole reply with this status.
///
/// It says `Connection: close` unless `keep_alive`: Vaurien always closed after an error, and its users' clients
/// expect that. With `head_only` (the answer to HEAD) the body is left out and its length kept. 1xx is not a reply
/// on its own, and 204, 205 and 304 have no body.
///
/// ```text
/// HTTP/1.1 503 Service Unavailable
/// Content-Type: application/json
/// Content-Length: 59
/// X-Fracas: error
/// Connection: close
///
/// {"error":"503 Service Unavailable","injected_by":"fracas"}
/// ```
pub fn error_reply(code: u16, http_version: u8, head_only: bool, keep_alive: bool) -> Vec<u8> {
    let reason = reason(code);
    let body = match code {
        204 | 205 | 304 => String::new(),
        _ => format!("{{\"error\":\"{code} {reason}\",\"injected_by\":\"fracas\"}}\n"),
    };
    let mut reply = format!("HTTP/1.{} {code} {reason}\r\n", http_version.min(1));
    if !body.is_empty() {
        reply.push_str("Content-Type: application/json\r\n");
    }
    if !matches!(code, 204 | 304) {
        reply.push_str(&format!("Content-Length: {}\r\n", body.len()));
    }
    reply.push_str(ERROR_MARK);
    reply.push_str(": error\r\n");
    match (keep_alive, http_version) {
        (false, _) => reply.push_str("Connection: close\r\n"),
        (true, 0) => reply.push_str("Connection: keep-alive\r\n"),
        (true, _) => {}
    }
    reply.push_str("\r\n");
    if !head_only {
        reply.push_str(&body);
    }
    reply.into_bytes()
}

/// The reason phrase of a status code (RFC 9110 §15, RFC 6585), or that of its class.
pub fn reason(code: u16) -> &'static str {
    match code {
        200 => "OK",
        201 => "Created",
        202 => "Accepted",
        204 => "No Content",
        205 => "Reset Content",
        301 => "Moved Permanently",
        302 => "Found",
        304 => "Not Modified",
        307 => "Temporary Redirect",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        409 => "Conflict",
        410 => "Gone",
        411 => "Length Required",
        413 => "Content Too Large",
        414 => "URI Too Long",
        415 => "Unsupported Media Type",
        418 => "I'm a teapot",
        421 => "Misdirected Request",
        422 => "Unprocessable Content",
        425 => "Too Early",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        451 => "Unavailable For Legal Reasons",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        505 => "HTTP Version Not Supported",
        507 => "Insufficient Storage",
        511 => "Network Authentication Required",
        _ => ["Success", "Redirection", "Client Error", "Server Error"]
            [usize::from(code / 100).clamp(2, 5) - 2],
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Asked, Event, ReplyFramer};
    use super::*;

    #[test]
    fn every_error_reply_is_framed_as_one_whole_reply() {
        for code in 200..=599 {
            for (version, head, keep_alive) in
                [(1, false, false), (1, true, false), (1, false, true), (0, false, true), (0, true, false)]
            {
                let reply = error_reply(code, version, head, keep_alive);
                let mut framer = ReplyFramer::new();
                framer.expect(Asked::method(if head { "HEAD" } else { "GET" }));
                let step = framer.advance(&reply);
                assert_eq!(step.event, Event::Head, "{code}");
                assert_eq!(framer.status(), Some(code));
                let text = String::from_utf8_lossy(&reply);
                assert!(text.starts_with(&format!("HTTP/1.{version} {code} ")), "{text}");
                assert!(text.contains("\r\nX-Fracas: error\r\n"), "{text}");
                let end = framer.advance(&reply[step.used..]);
                assert_eq!((end.event, step.used + end.used), (Event::End, reply.len()), "{code}");
                assert_eq!(framer.persists(), keep_alive, "{code} {version}");
            }
        }
    }
}
