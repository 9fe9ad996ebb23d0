//! One request, from its due time to its end.

use std::time::Duration;

use fracas_dataplane::clock::Instant;

/// What a worker knows about a request when it ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sample {
    /// When it should have been sent: computed from the plan, never read from a clock.
    pub due: Instant,
    /// When it could be sent: `sent − ready` is the generator's own lateness, such as a stall in which it became due, or
    /// the connect rate; `ready − due` is the target holding all connections.
    pub ready: Instant,
    /// When the send was put into the ring; the kernel takes it at the end of the same turn. With a connection of
    /// its own: when that was asked for.
    pub sent: Instant,
    /// When the complete reply had been parsed, or the request was given up.
    pub done: Instant,
    /// How late the end may have been noticed: the loop was late by this much when it saw it. 0 when it was in time.
    pub seen_late: Duration,
    /// How it ended.
    pub outcome: Outcome,
    /// It belongs to a warm-up phase: counted apart, in no series.
    pub warm_up: bool,
}

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// A complete reply that is no error.
    Ok,
    /// Failed, for this reason.
    Error(ErrorKind),
    /// No complete reply within the response timeout; its times are lower bounds.
    Timeout,
    /// Still in flight when the run had drained; its times are lower bounds.
    Censored,
}

/// An outcome without its reason: which histogram it goes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OutcomeClass {
    /// Complete.
    Ok,
    /// Failed.
    Error,
    /// Lower bound.
    Timeout,
    /// Lower bound.
    Censored,
}

impl OutcomeClass {
    /// All, in the order of their index.
    pub const ALL: [OutcomeClass; 4] =
        [OutcomeClass::Ok, OutcomeClass::Error, OutcomeClass::Timeout, OutcomeClass::Censored];

    /// As written in reports.
    pub const fn name(self) -> &'static str {
        match self {
            OutcomeClass::Ok => "ok",
            OutcomeClass::Error => "error",
            OutcomeClass::Timeout => "timeout",
            OutcomeClass::Censored => "censored",
        }
    }
}

impl Outcome {
    /// Which histogram it goes to.
    pub const fn class(self) -> OutcomeClass {
        match self {
            Outcome::Ok => OutcomeClass::Ok,
            Outcome::Error(_) => OutcomeClass::Error,
            Outcome::Timeout => OutcomeClass::Timeout,
            Outcome::Censored => OutcomeClass::Censored,
        }
    }
}

/// Why a request failed. The order is the wire order: add at the end only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// ECONNREFUSED.
    ConnectRefused,
    /// No connection within the connect timeout.
    ConnectTimeout,
    /// Any other failure to connect: unreachable, no local port left.
    ConnectFailed,
    /// ECONNRESET or EPIPE on an open connection.
    Reset,
    /// The peer closed before the reply was complete.
    EndedEarly,
    /// HTTP 4xx.
    Status4xx,
    /// HTTP 5xx.
    Status5xx,
    /// Not a reply of the protocol.
    Parse,
    /// An echo that differs from what was sent.
    Mismatch,
    /// Any other error of the socket.
    Io,
}

impl ErrorKind {
    /// How many there are.
    pub const COUNT: usize = 10;

    /// All, in wire order.
    pub const ALL: [ErrorKind; ErrorKind::COUNT] = [
        ErrorKind::ConnectRefused,
        ErrorKind::ConnectTimeout,
        ErrorKind::ConnectFailed,
        ErrorKind::Reset,
        ErrorKind::EndedEarly,
        ErrorKind::Status4xx,
        ErrorKind::Status5xx,
        ErrorKind::Parse,
        ErrorKind::Mismatch,
        ErrorKind::Io,
    ];

    /// As written in `run.json`.
    pub const fn name(self) -> &'static str {
        match self {
            ErrorKind::ConnectRefused => "connect_refused",
            ErrorKind::ConnectTimeout => "connect_timeout",
            ErrorKind::ConnectFailed => "connect_failed",
            ErrorKind::Reset => "reset",
            ErrorKind::EndedEarly => "ended_early",
            ErrorKind::Status4xx => "status_4xx",
            ErrorKind::Status5xx => "status_5xx",
            ErrorKind::Parse => "parse",
            ErrorKind::Mismatch => "mismatch",
            ErrorKind::Io => "io",
        }
    }

    /// As said to people.
    pub const fn describe(self) -> &'static str {
        match self {
            ErrorKind::ConnectRefused => "connection refused",
            ErrorKind::ConnectTimeout => "connect timed out",
            ErrorKind::ConnectFailed => "connect failed",
            ErrorKind::Reset => "connection reset",
            ErrorKind::EndedEarly => "closed before the reply ended",
            ErrorKind::Status4xx => "HTTP 4xx",
            ErrorKind::Status5xx => "HTTP 5xx",
            ErrorKind::Parse => "reply not understood",
            ErrorKind::Mismatch => "echo differs",
            ErrorKind::Io => "socket error",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lists_are_in_index_order() {
        assert!(ErrorKind::ALL.iter().enumerate().all(|(i, kind)| *kind as usize == i));
        assert!(OutcomeClass::ALL.iter().enumerate().all(|(i, class)| *class as usize == i));
    }
}
