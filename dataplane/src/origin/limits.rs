//! What one origin puts up with: connections, silence, and clients that do not read. All of it is counted.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use crate::clock::Instant;

/// Replies that may wait on one connection before its next requests stay unread.
pub const REPLIES_MAX: usize = 128;
/// Echoed bytes that may wait on one connection before it is no longer read.
pub const ECHO_BYTES_MAX: usize = 256 * 1024;
/// Bytes that may still arrive on a connection after it was decided to read no further; a buffer may come on top.
pub const CREDIT_BYTES: u32 = 64 * 1024;
/// About the most bytes that one send takes, which must go out within [`Limits::stall`].
pub const SEND_BYTES_MAX: u64 = 256 * 1024;
/// Descriptors that connections never take: listeners, rings, files, and whatever else the process opens.
pub const DESCRIPTORS_SET_ASIDE: u64 = 64;
/// How long a connection that has got its last reply may go on sending before it is closed.
pub const LINGER: Duration = Duration::from_secs(1);

/// What a connection may do, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Connections of all threads together; when absent, what the open-files limit allows.
    ///
    /// One more takes the place of one that is silent, idle or does not read (see `EVICTABLE_AFTER`), or is
    /// closed at once.
    pub connections_max: Option<usize>,
    /// From the accept, or from the first byte of a later request, until its head is whole.
    pub first_bytes: Option<Duration>,
    /// Without a byte either way and without a request that waits for its reply.
    pub idle: Option<Duration>,
    /// From the beginning of a send of at most `SEND_BYTES_MAX` until the kernel has taken it. The kernel waits
    /// until a third of its send buffer is free, up to 1.3 MB, so short times end clients that only read slowly.
    pub stall: Option<Duration>,
}

/// How long a connection is quiet before its place may be given to a new one at the limit.
pub const EVICTABLE_AFTER: Duration = Duration::from_secs(1);
/// How long a client has not read before its place may be given to a new one at the limit.
pub const EVICTABLE_UNREAD_AFTER: Duration = Duration::from_secs(10);

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            connections_max: None,
            // A load may open all its connections before it needs them: at the limit, silent ones make way sooner.
            first_bytes: Some(Duration::from_secs(300)),
            idle: Some(Duration::from_secs(600)),
            stall: Some(Duration::from_secs(600)),
        }
    }
}

impl Limits {
    /// How often a connection's deadline is looked at: a quarter of the shortest, so it is met by so much late.
    pub(super) fn period(&self) -> Option<Duration> {
        let shortest = [self.first_bytes, self.idle, self.stall].into_iter().flatten().min()?;
        Some((shortest / 4).max(Duration::from_millis(1)))
    }
}

/// Why the origin itself ended a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Closed {
    /// No whole request head came in time.
    Silent,
    /// Nothing happened for too long.
    Idle,
    /// The client did not read its reply.
    Stalled,
    /// A new connection took its place at the limit.
    Evicted,
    /// It came at the limit, and no place could be freed.
    Refused,
}

/// What an origin has done so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Requests that came whole; with echo, chunks.
    pub asked: u64,
    /// Replies that were handed to the kernel, at least their first bytes.
    pub answered: u64,
    /// Connections that are open now.
    pub open: usize,
    /// Connections ended for each reason; see [`Closed`].
    pub silent: u64,
    /// As above.
    pub idle: u64,
    /// As above.
    pub stalled: u64,
    /// As above.
    pub evicted: u64,
    /// As above.
    pub refused: u64,
}

/// What all workers of one origin share.
#[derive(Debug, Default)]
pub struct Shared {
    /// Until when nothing is answered, in nanoseconds of the clock.
    frozen_until: AtomicU64,
    pub(super) asked: AtomicU64,
    pub(super) answered: AtomicU64,
    pub(super) open: AtomicUsize,
    closed: [AtomicU64; 5],
}

impl Shared {
    /// Answers nothing for `length` from `now`; what is asked meanwhile is answered after it.
    pub fn freeze(&self, now: Instant, length: Duration) {
        self.frozen_until.fetch_max((now + length).as_nanos(), Ordering::Relaxed);
    }

    pub(super) fn frozen_until(&self) -> Instant {
        Instant::from_nanos(self.frozen_until.load(Ordering::Relaxed))
    }

    pub(super) fn count(&self, closed: Closed) {
        self.closed[closed as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// What was done so far.
    pub fn counts(&self) -> Counts {
        let closed = |reason: Closed| self.closed[reason as usize].load(Ordering::Relaxed);
        Counts {
            asked: self.asked.load(Ordering::Relaxed),
            answered: self.answered.load(Ordering::Relaxed),
            open: self.open.load(Ordering::Relaxed),
            silent: closed(Closed::Silent),
            idle: closed(Closed::Idle),
            stalled: closed(Closed::Stalled),
            evicted: closed(Closed::Evicted),
            refused: closed(Closed::Refused),
        }
    }
}
