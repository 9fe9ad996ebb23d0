//! One connection to the target, from connect to close. No I/O: the worker tells it what happened and does what
//! follows.
//!
//! ```text
//!  Connecting ──► Open: idle ◄──► busy (one request in flight) ──► Closing ──► (slot is free)
//! ```

use fracas_dataplane::clock::Instant;
use fracas_dataplane::ring::Socket;
use fracas_dataplane::timers::TimerId;

use crate::measure::ErrorKind;
use crate::protocol::http::ReplyReader;
use crate::protocol::tcp::EchoReader;
use crate::protocol::{InvalidReply, Progress};
use crate::scenario::{Plan, Target};

/// A request that has been sent.
#[derive(Clone, Copy, Debug)]
pub(super) struct Request {
    /// When it should have been sent.
    pub(super) due: Instant,
    /// When it could be sent.
    pub(super) ready: Instant,
    /// When it was; with a connection of its own, when that was asked for.
    pub(super) sent: Instant,
    /// It is in no figure.
    pub(super) warm_up: bool,
    /// A virtual user waits for the reply.
    pub(super) of_user: bool,
}

/// Where a connection stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    Connecting,
    Open,
    /// Of no more use; closed when its operations have ended.
    Closing,
}

/// Operations whose last completion has not come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct InFlight {
    pub(super) connect: bool,
    pub(super) send: bool,
    pub(super) receive: bool,
}

/// A socket and what is known of it.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) socket: Socket,
    pub(super) state: State,
    pub(super) in_flight: InFlight,
    pub(super) request: Option<Request>,
    pub(super) reader: Reader,
    /// When the connect began.
    pub(super) asked_at: Instant,
    /// When it was open.
    pub(super) opened_at: Instant,
    /// It replaces one that was lost.
    pub(super) again: bool,
    /// A reply has come over it.
    pub(super) has_replied: bool,
    /// What it is doing must be over by then.
    pub(super) deadline: Instant,
    /// The timer that looks at `deadline`: due at it or before.
    pub(super) timer: Option<(Instant, TimerId)>,
    /// A request was sent over it.
    pub(super) has_carried: bool,
}

impl Connection {
    pub(super) fn new(socket: Socket, reader: Reader, asked_at: Instant, again: bool) -> Connection {
        Connection {
            socket,
            state: State::Connecting,
            in_flight: InFlight { connect: true, send: false, receive: false },
            request: None,
            reader,
            asked_at,
            opened_at: asked_at,
            again,
            has_replied: false,
            deadline: Instant::FAR_FUTURE,
            timer: None,
            has_carried: false,
        }
    }

    /// Whether a request may be sent on it now. A reply can come before the send is known to have ended.
    pub(super) fn is_idle(&self) -> bool {
        self.state == State::Open && self.request.is_none() && !self.in_flight.send
    }
}

/// Reads replies in the target's protocol.
#[derive(Clone, Debug)]
pub(super) enum Reader {
    Http(ReplyReader),
    Echo(EchoReader),
}

impl Reader {
    pub(super) fn new(plan: &Plan) -> Reader {
        match plan.target {
            Target::Http { .. } => Reader::Http(ReplyReader::new(&plan.method)),
            Target::Tcp { .. } => Reader::Echo(EchoReader::default()),
        }
    }

    /// Takes the next bytes of the reply to `sent`.
    pub(super) fn advance(&mut self, sent: &[u8], bytes: &[u8]) -> Progress {
        match self {
            Reader::Http(reader) => reader.advance(bytes),
            Reader::Echo(reader) => reader.advance(sent, bytes),
        }
    }

    /// The peer closed with a request in flight.
    pub(super) fn on_end(&mut self) -> Progress {
        match self {
            Reader::Http(reader) => reader.on_end(),
            Reader::Echo(_) => Progress::Invalid(InvalidReply::EndedEarly),
        }
    }
}

/// What a reply that cannot be one counts as.
pub(super) fn kind_of_invalid(reply: InvalidReply) -> ErrorKind {
    match reply {
        InvalidReply::EndedEarly => ErrorKind::EndedEarly,
        InvalidReply::Mismatch => ErrorKind::Mismatch,
        InvalidReply::Head | InvalidReply::HeadTooLong | InvalidReply::Length | InvalidReply::Chunk => {
            ErrorKind::Parse
        }
    }
}

/// What an error on an open connection counts as.
pub(super) fn kind_of_errno(errno: i32) -> ErrorKind {
    match errno {
        ECONNRESET | EPIPE => ErrorKind::Reset,
        _ => ErrorKind::Io,
    }
}

/// What a failed connect counts as.
pub(super) fn kind_of_connect_errno(errno: i32) -> ErrorKind {
    match errno {
        ECONNREFUSED => ErrorKind::ConnectRefused,
        // It was made, and reset before this side had seen that.
        ECONNRESET | EPIPE => ErrorKind::Reset,
        ETIMEDOUT | ECANCELED => ErrorKind::ConnectTimeout,
        _ => ErrorKind::ConnectFailed,
    }
}

// Linux numbers (asm-generic/errno.h); the crate has no other use for libc.
const EPIPE: i32 = 32;
const ECONNRESET: i32 = 104;
const ETIMEDOUT: i32 = 110;
const ECONNREFUSED: i32 = 111;
const ECANCELED: i32 = 125;
/// Every local port towards the target is taken.
pub(super) const EADDRNOTAVAIL: i32 = 99;
/// No file descriptor is left, in the process or in the system.
pub(super) const EMFILE: i32 = 24;
pub(super) const ENFILE: i32 = 23;
