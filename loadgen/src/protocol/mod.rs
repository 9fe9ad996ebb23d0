//! What to send and what the reply means. No I/O: bytes in, progress out.

pub mod http;
pub mod tcp;

/// What a reader made of the bytes so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// The reply goes on; every byte given was taken.
    NeedMore,
    /// The reply is complete.
    Done(Reply),
    /// These bytes cannot be a reply; the connection is of no further use.
    Invalid(InvalidReply),
}

/// A complete reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reply {
    /// HTTP status; 0 where the protocol has none.
    pub status: u16,
    /// Whether another request may follow on this connection.
    pub keep_alive: bool,
    /// Length of the body without its framing.
    pub body_bytes: u64,
    /// How many of the bytes given last belong to this reply; the rest was not asked for.
    pub consumed_bytes: usize,
}

/// Why bytes cannot be a reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidReply {
    /// The head is not HTTP/1.x.
    #[error("the reply's head is not HTTP/1.x")]
    Head,
    /// The head does not end within the limit.
    #[error("the reply's head is longer than 64 KiB or has more than 128 headers")]
    HeadTooLong,
    /// Content-Length is not one number, or stands beside Transfer-Encoding (RFC 9112 §6.1, §6.3).
    #[error("the reply's length is ambiguous")]
    Length,
    /// A chunk-size line is not hexadecimal, or a chunk does not end in CRLF.
    #[error("the reply's chunked framing is broken")]
    Chunk,
    /// An echo that differs from what was sent.
    #[error("the echo differs from what was sent")]
    Mismatch,
    /// The connection ended inside a reply.
    #[error("the connection ended inside the reply")]
    EndedEarly,
}
