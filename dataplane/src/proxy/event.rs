//! What a proxy tells as it happens: faults that were asked for, failures that nobody asked for, limits, changes.
//!
//! Workers push only when something bad happens, into a bounded buffer that nobody has to read; what finds no room
//! is counted. A limit in a storm does not flood: each connection tells once of each limit, counters count all.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::pipe::Fault;
use crate::behavior::{Action, After, Amount, Deed, Finish};
use crate::clock::Instant;
use crate::ring::Errno;

/// One thing that happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// What sort of thing.
    pub kind: EventKind,
    /// When.
    pub at: Instant,
    /// On which proxy.
    pub proxy: Arc<str>,
    /// The generation of its rules at that time.
    pub generation: u64,
    /// On which of the proxy's connections, from 1; 0 if it is not about one.
    pub connection: u64,
    /// On which exchange of the connection, from 1; 0 if it is not about one.
    pub exchange: u64,
    /// By which rule, if by one.
    pub rule: Option<RuleName>,
    /// The lease that the rule belongs to, or that it is about.
    pub lease: Option<Arc<str>>,
    /// For a delay: how long the bytes should be held. Zero for what happens at once.
    pub asked: Duration,
    /// For a delay: how long they were held.
    pub done: Duration,
    /// What was done or what failed, in a few words.
    pub detail: Detail,
}

/// What sort of thing an event tells. Natural failures are never told as injected, nor the other way round.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum EventKind {
    /// A rule acted on traffic.
    Injected,
    /// Something failed that nobody asked to fail.
    NaturalFailure,
    /// A named limit was reached.
    LimitReached,
    /// Base rules or settings were changed, or a proxy came or went.
    Changed,
    /// A lease was acquired.
    LeaseAcquired,
    /// A lease's rules began to act.
    LeaseStarted,
    /// A lease was released, expired or reached its end.
    LeaseEnded,
}

/// The rule that acted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleName {
    /// Its name.
    pub name: Arc<str>,
    /// Its behavior's name.
    pub behavior: &'static str,
}

/// A few words, formatted only when somebody reads them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Detail {
    /// All is said.
    #[default]
    None,
    /// The words.
    Words(&'static str),
    /// The words, made for this event.
    Text(Arc<str>),
    /// An error reply with this status was sent.
    Replied(u16),
    /// What a rule has done to the connection's bytes, or ended it by.
    Did(Deed),
    /// What failed, and what the kernel said.
    Failed(&'static str, Errno),
    /// What a peer sent is not of the protocol, and why.
    NotOfProtocol(&'static str, &'static str),
    /// A worker had no room for so many events.
    EventsLost(u64),
}

/// What an abort tells.
pub(super) const ABORTED: Detail = Detail::Words("closed without a reply");
/// What a hang tells.
pub(super) const HUNG: Detail = Detail::Words("hung");

impl Detail {
    /// What an action does.
    pub(super) fn of(action: &Action) -> Detail {
        match *action {
            Action::ErrorReply { code, .. } => Detail::Replied(code),
            Action::Garbage { inject, .. } => Detail::of_bytes(Fault::Garbage { inserted: inject }),
            Action::Hang => HUNG,
            Action::Abort => ABORTED,
            Action::End { how: Finish::Close, .. } => Detail::Words("closed"),
            Action::End { after: After::Nothing, .. } => Detail::Words("reset"),
            Action::End { after: After::Time(time), .. } => Detail::reset_after(Amount::Time(time)),
            Action::End { after: After::Bytes(bytes), .. } => Detail::reset_after(Amount::Bytes(bytes)),
        }
    }

    fn reset_after(amount: Amount) -> Detail {
        Detail::Did(Deed { words: "reset after", amount })
    }

    /// What bytes are that a rule has made.
    pub(super) fn of_bytes(fault: Fault) -> Detail {
        match fault {
            Fault::None => Detail::None,
            Fault::Replied(code) => Detail::Replied(code),
            Fault::Garbage { inserted: true } => Detail::Words("inserted random bytes into a reply chunk"),
            Fault::Garbage { inserted: false } => Detail::Words("replaced a reply chunk by random bytes"),
        }
    }
}

impl fmt::Display for Detail {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Detail::None => Ok(()),
            Detail::Words(words) => formatter.write_str(words),
            Detail::Text(text) => formatter.write_str(text),
            Detail::Replied(code) => write!(formatter, "replied {code}"),
            Detail::Did(deed) => deed.fmt(formatter),
            Detail::Failed(what, errno) => match words(errno.0) {
                Some(words) => write!(formatter, "{what}: {words}"),
                None => write!(formatter, "{what}: {errno}"),
            },
            Detail::NotOfProtocol(what, reason) => write!(formatter, "{what}: {reason}"),
            Detail::EventsLost(count) => write!(formatter, "events_lost: {count} found no room"),
        }
    }
}

/// What the kernel says most often, in plain words.
fn words(errno: i32) -> Option<&'static str> {
    Some(match errno {
        libc::ECONNREFUSED => "refused",
        libc::ECONNRESET => "reset",
        libc::EPIPE => "closed",
        libc::ETIMEDOUT => "timed out",
        libc::EHOSTUNREACH => "host unreachable",
        libc::ENETUNREACH => "network unreachable",
        libc::EADDRNOTAVAIL => "no local port left",
        libc::EMFILE | libc::ENFILE => "no descriptor left",
        _ => return None,
    })
}

/// A limit that a connection may reach; its name is that of the counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Limit {
    Held,
    WorkerHeld,
    NoBuffers,
    Pipeline,
    Linger,
    HalfClose,
    Idle,
}

impl Limit {
    /// Its bit among those a connection has told of.
    pub fn bit(self) -> u8 {
        1 << self as u8
    }

    pub fn name(self) -> &'static str {
        match self {
            Limit::Held => "held_limit_reached",
            Limit::WorkerHeld => "worker_held_limit_reached",
            Limit::NoBuffers => "no_buffers",
            Limit::Pipeline => "pipeline_limit_reached",
            Limit::Linger => "linger_limit_reached",
            Limit::HalfClose => "half_close_limit_reached",
            Limit::Idle => "idle_timeouts",
        }
    }
}

/// One worker's events until they are handed over; bounded, so that nobody has to listen.
#[derive(Debug)]
pub(super) struct EventBuffer {
    pub events: Vec<Event>,
    /// Events for which there was no room.
    pub lost: u64,
    /// How many of them have been told about.
    told_lost: u64,
}

/// Events one worker keeps between two hand-overs; at 50 hand-overs a second, 200,000 events per second.
const EVENTS_MAX: usize = 4096;
/// How long an event waits for others before it is handed over.
pub(super) const EVENT_DELAY: Duration = Duration::from_millis(20);

impl EventBuffer {
    pub fn new() -> EventBuffer {
        EventBuffer { events: Vec::with_capacity(EVENTS_MAX + 1), lost: 0, told_lost: 0 }
    }

    pub fn push(&mut self, event: Event) {
        if self.events.len() < EVENTS_MAX { self.events.push(event) } else { self.lost += 1 }
    }

    /// Takes what waits, with a last event that says how many found no room.
    pub fn take(&mut self, now: Instant) -> Vec<Event> {
        let lost = self.lost - std::mem::replace(&mut self.told_lost, self.lost);
        if lost > 0 {
            let event = Event::about("", 0, EventKind::LimitReached, now);
            self.events.push(Event { detail: Detail::EventsLost(lost), ..event });
        }
        self.events.drain(..).collect()
    }
}

impl Event {
    /// An event about a proxy, or about the process when `proxy` is empty.
    pub(super) fn about(proxy: impl Into<Arc<str>>, generation: u64, kind: EventKind, at: Instant) -> Event {
        Event {
            kind,
            at,
            proxy: proxy.into(),
            generation,
            connection: 0,
            exchange: 0,
            rule: None,
            lease: None,
            asked: Duration::ZERO,
            done: Duration::ZERO,
            detail: Detail::None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_event_buffer_counts_what_it_loses_and_tells_it_once() {
        let mut buffer = EventBuffer::new();
        let event = Event::about("p", 1, EventKind::Injected, Instant::ZERO);
        (0..EVENTS_MAX + 3).for_each(|_| buffer.push(event.clone()));
        assert_eq!((buffer.events.len(), buffer.lost), (EVENTS_MAX, 3));
        let taken = buffer.take(Instant::ZERO);
        assert_eq!(taken.len(), EVENTS_MAX + 1);
        assert_eq!(taken[EVENTS_MAX].detail, Detail::EventsLost(3));
        assert_eq!(taken[EVENTS_MAX].detail.to_string(), "events_lost: 3 found no room");
        buffer.push(event);
        assert_eq!(buffer.take(Instant::ZERO).len(), 1, "nothing was lost since");
    }

    #[test]
    fn details_are_a_few_words() {
        for (detail, expected) in [
            (Detail::None, ""),
            (Detail::of(&Action::ErrorReply { code: 503, draw: 0 }), "replied 503"),
            (Detail::Failed("connect", Errno(libc::ECONNREFUSED)), "connect: refused"),
            (Detail::Failed("client", Errno(libc::EBADF)), "client: Bad file descriptor (os error 9)"),
            (Detail::Did(Deed { words: "limited to", amount: Amount::Rate(1_000_000) }), "limited to 1MB/s"),
            (Detail::reset_after(Amount::Bytes(65_536)), "reset after 64KiB"),
            (Detail::reset_after(Amount::Time(Duration::from_millis(3))), "reset after 3ms"),
        ] {
            assert_eq!(detail.to_string(), expected);
        }
    }
}
