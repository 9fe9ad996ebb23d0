//! HTTP/1.0 and HTTP/1.1 framing (RFC 9112): finds where messages begin and end in chunks of any split.
//!
//! The proxy gives a framer what is left of a chunk, again and again, until it needs more:
//!
//! ```text
//!  chunk  │ GET / HTTP/1.1⏎ Host: a⏎ ⏎ │ POST /b HTTP/1.1⏎ … ⏎ ⏎ 12345 │ GET /c HT
//!  advance│◀─────── Head ─────────────▶│◀──────── Head ───────▶◀ End ─▶│◀ NeedMore ▶
//!         │                       End ▲│                               │ copied: "GET /c HT"
//!  next   │ TP/1.1⏎ ⏎                  │
//!  advance│◀── Head ──▶ take_head_bytes() = the whole head, "GET /c HTTP/1.1⏎ ⏎"
//! ```
//!
//! **Requests** are judged strictly, and none is forwarded before it is decided about: a head inside one chunk is
//! forwarded from that chunk by reference; a head in pieces is held by the framer until it is whole, and forwarded from
//! `take_head_bytes`. What two readers could frame differently (RFC 9112 §6.3, §11.2: request smuggling) is refused:
//! `Invalid`. The caller then answers 400; it must not forward the bytes.
//!
//! **Replies** are framed as their clients would frame them, and nothing of them is held back: a head that comes in
//! pieces is `HeadPart`, `HeadPart`, …, `Head`. `Invalid` says that clients would not agree where the reply ends; the
//! caller hands the bytes on, and lets the connection end.

mod body;
mod error_reply;
mod head;
mod host;
mod reply;
mod reply_head;
mod request;

pub(crate) use error_reply::{error_reply, reason};
pub use head::{Asked, HEAD_BYTES_MAX, HEADERS_MAX, RequestHead};
pub use reply::ReplyFramer;
pub use request::RequestFramer;

/// What a framer found at the front of a slice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// How many bytes of the slice belong to the event.
    pub used: usize,
    /// What they are.
    pub event: Event,
}

/// What a framer can find. Call `advance` on the rest of the slice until `NeedMore`, `AwaitReply`, `Raw` or `Invalid`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// Nothing more to say about this slice; all of it is used, and if a head is in it, copied.
    NeedMore,
    /// Bytes of a head whose end is still to come. Replies only: a request's are held back as `NeedMore`.
    HeadPart,
    /// A head is complete. The bytes used are its last part, or all of it.
    Head,
    /// The head of an interim reply (1xx but 101) is complete; the reply itself is still to come. Replies only.
    Interim,
    /// Bytes of the body, framing of chunks included; more follow.
    Body,
    /// The message ends with the bytes used (none, if the head was its end).
    End,
    /// Bytes of a body that the last reply announced and must not have (to HEAD, 204, 304). Replies only.
    Surplus,
    /// After CONNECT or an upgrade, what follows depends on the reply: call `switch` or `decline`. Requests only.
    AwaitReply,
    /// This and all that follows is not HTTP any more; forward it as plain bytes.
    Raw,
    /// Not HTTP, or ambiguous, and why. Every later call says the same.
    Invalid(&'static str),
}

impl Step {
    const fn new(used: usize, event: Event) -> Step {
        Step { used, event }
    }
}

#[cfg(test)]
mod tests;
