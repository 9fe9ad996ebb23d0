//! One direction of a connection: the bytes that wait for their sink, in order.

use std::collections::VecDeque;
use std::time::Duration;

use super::figures::Rules;
use crate::behavior::{Direction, RuleMask};
use crate::clock::Instant;
use crate::ring::{BufferSize, Chunk};
use crate::timers::TimerId;

/// Bytes that may wait for a slow sink before its source is no longer read.
pub const QUEUE_BYTES_MAX: usize = 256 * 1024;
/// Bytes received into small buffers before the receive is asked for again, and its buffer size considered.
pub const CREDIT_SMALL: u32 = 64 * 1024;
/// The same for large buffers.
pub const CREDIT_LARGE: u32 = 512 * 1024;
/// Full small buffers in a row that make a pipe ask for large ones.
const FULL_BUFFERS_FOR_LARGE: u8 = 2;
/// Chunks below a quarter of a small buffer, in a row, that make it ask for small ones again.
const MESSAGES_FOR_SMALL: u8 = 8;

/// Bytes on their way.
#[derive(Debug)]
pub(super) struct Item {
    pub chunk: Chunk,
    /// When they may leave.
    pub due: Instant,
    pub held: Held,
}

/// What rules do to bytes on their way, as it was decided when they came.
#[derive(Clone, Debug, Default)]
pub(super) struct Held {
    /// How long they are held, from arrival.
    pub time: Duration,
    /// The rules that are told of when they leave; none on most.
    pub rules: RuleMask,
    /// Of which set these rules are.
    pub by: Option<Rules>,
    /// The exchange that they belong to, from 1; 0 on plain bytes.
    pub exchange: u32,
    /// What the one of these rules that is no delay has done.
    pub fault: Fault,
}

/// Bytes that a rule has made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Fault {
    /// They are the peer's own.
    #[default]
    None,
    /// An error reply with this status.
    Replied(u16),
    /// Random bytes beside those of the peer, or in their place.
    Garbage { inserted: bool },
}

impl Held {
    /// For the bytes behind those that are told of: held as long.
    pub fn untold(&self) -> Held {
        Held { time: self.time, exchange: self.exchange, ..Held::default() }
    }
}

/// One direction of a connection.
#[derive(Debug, Default)]
pub(super) struct Pipe {
    pub queue: VecDeque<Item>,
    /// Bytes in the queue, and bytes that the ring is sending.
    pub queued_bytes: usize,
    pub in_flight_bytes: usize,
    /// Bytes in front of the queue that wait for a reply which says what they are ([`super::exchange`]).
    pub parked_bytes: usize,
    /// When the oldest byte of the send in flight was free to go.
    pub in_flight_since: Instant,
    /// When bytes left it last.
    pub moved_at: Instant,
    /// No byte may leave before the one ahead of it.
    last_due: Instant,
    /// The timer for the front of the queue, and its due time.
    pub timer: Option<(TimerId, Instant)>,
    /// Chunks seen, which numbers the draws on plain bytes.
    pub chunks: u64,
    /// What the next receive should use.
    pub size: Size,
    /// A cancel of the receive is under way (kernels that do not count credit).
    pub cancelling: bool,
    /// The receive waits for a buffer.
    pub starved: bool,
    /// What follows the last queued byte.
    pub end: End,
    /// Bytes are read and dropped.
    pub discard: bool,
}

/// What follows the last byte of a pipe.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum End {
    /// More bytes may come.
    #[default]
    Open,
    /// A FIN.
    Fin,
    /// A RST, for the source failed.
    Rst,
    /// Nothing: it has been sent.
    Sent,
}

/// Which buffers a pipe receives into, adapted to what it sees.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Size {
    large: bool,
    streak: u8,
}

impl Size {
    /// Learns from a chunk of `length` bytes, received into buffers of the size in force.
    pub fn observe(&mut self, length: usize) {
        const SMALL_BYTES: usize = 16 * 1024;
        let against = if self.large { length < SMALL_BYTES / 4 } else { length >= SMALL_BYTES };
        self.streak = if against { self.streak + 1 } else { 0 };
        let limit = if self.large { MESSAGES_FOR_SMALL } else { FULL_BUFFERS_FOR_LARGE };
        if self.streak >= limit {
            *self = Size { large: !self.large, streak: 0 };
        }
    }

    pub fn buffers(self) -> BufferSize {
        if self.large { BufferSize::Large } else { BufferSize::Small }
    }

    pub fn credit(self) -> u32 {
        if self.large { CREDIT_LARGE } else { CREDIT_SMALL }
    }
}

impl Pipe {
    /// When bytes that came now and are held for `time` may leave, behind all before them.
    pub fn due(&mut self, now: Instant, time: Duration) -> Instant {
        self.last_due = self.last_due.max(now + time);
        self.last_due
    }

    /// Bytes that are read and not yet with the kernel of the sink.
    pub fn bytes(&self) -> usize {
        self.queued_bytes + self.in_flight_bytes + self.parked_bytes
    }

    pub fn push(&mut self, item: Item) {
        self.queued_bytes += item.chunk.len();
        self.queue.push_back(item);
    }

    /// Whether the next byte is held for a time that has not come.
    pub fn holds(&self, now: Instant) -> bool {
        self.queue.front().is_some_and(|item| item.due > now)
    }

    /// Whether a byte is held for a time that has not come.
    pub fn holds_any(&self, now: Instant) -> bool {
        !self.queue.is_empty() && self.last_due > now
    }

    /// When the last byte that waits may leave.
    pub fn last_due(&self) -> Instant {
        self.last_due
    }

    /// Drops what waits; returns how many bytes that were.
    pub fn clear(&mut self) -> usize {
        self.queue.clear();
        std::mem::take(&mut self.queued_bytes)
    }
}

impl Direction {
    /// The other direction.
    pub(super) fn opposite(self) -> Direction {
        match self {
            Direction::Request => Direction::Reply,
            Direction::Reply => Direction::Request,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_grow_with_bulk_and_shrink_with_messages() {
        let mut size = Size::default();
        size.observe(16 * 1024);
        size.observe(100);
        size.observe(16 * 1024);
        assert_eq!(size.buffers(), BufferSize::Small, "one full buffer is not bulk");
        size.observe(16 * 1024);
        assert_eq!(size.buffers(), BufferSize::Large);
        (0..7).for_each(|_| size.observe(64));
        assert_eq!(size.buffers(), BufferSize::Large);
        size.observe(64);
        assert_eq!(size.buffers(), BufferSize::Small);
    }

    #[test]
    fn a_short_delay_never_overtakes_a_long_one() {
        let mut pipe = Pipe::default();
        let ms = Duration::from_millis;
        let now = Instant::from_nanos(1);
        let first = pipe.due(now, ms(50));
        assert_eq!(pipe.due(now, ms(10)), first);
        assert_eq!(pipe.due(now, ms(60)), now + ms(60));
    }
}
