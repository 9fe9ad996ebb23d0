//! What a proxy tells: counters, the accuracy of each rule, and one event for every bad thing.

use std::collections::BTreeMap;
use std::ops::AddAssign;
use std::sync::Arc;
use std::time::Duration;

use hdrhistogram::Histogram;

use crate::clock::Instant;

macro_rules! counters {
    ($($(#[doc = $doc:literal])+ $name:ident),+ $(,)?) => {
        /// Counts of one proxy since it was made. Natural failures stand apart from injected faults, which
        /// [`RuleStats`] counts.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct Counters { $($(#[doc = $doc])+ pub $name: u64,)+ }

        impl Counters {
            /// Every counter with its stable name and meaning, in a fixed order.
            pub fn named(&self) -> Vec<(&'static str, &'static str, u64)> {
                vec![$((stringify!($name), concat!($($doc),+), self.$name)),+]
            }
        }

        impl AddAssign for Counters {
            fn add_assign(&mut self, other: Counters) { $(self.$name += other.$name;)+ }
        }
    };
}

counters! {
    /// Connections accepted.
    connections_opened,
    /// Connections whose both sockets are closed.
    connections_closed,
    /// Messages whose head was read (protocols other than tcp, and only while a rule needs them).
    exchanges,
    /// Bytes received from clients.
    request_bytes,
    /// Bytes received from upstreams.
    reply_bytes,
    /// Upstream connects that failed: refused, unreachable, no port or descriptor left.
    connect_failures,
    /// Upstream connects that took longer than the connect timeout.
    connect_timeouts,
    /// Connections that the client broke off.
    client_resets,
    /// Connections that the upstream broke off.
    upstream_resets,
    /// Messages refused because they were not of the protocol, or ambiguous.
    protocol_errors,
    /// Times reading paused because as many bytes were held as may be.
    held_limit_reached,
    /// Times a receive found no buffer and had to wait for one.
    no_buffers,
    /// Times accepting paused because no descriptor was left.
    accept_paused,
}

/// A histogram of nanoseconds up to an hour, three digits.
pub(super) fn nanoseconds() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 3_600_000_000_000, 3).expect("the bounds are in range")
}

/// What one rule has done on one proxy.
#[derive(Clone, Debug)]
pub struct RuleStats {
    /// The rule's name.
    pub name: Arc<str>,
    /// The behavior's name.
    pub behavior: &'static str,
    /// Exchanges, chunks or connections on which it acted.
    pub injected: u64,
    /// Done − asked, in nanoseconds, of each delay: how late bytes left after their hold.
    pub lateness: Option<Histogram<u64>>,
}

impl RuleStats {
    pub(super) fn new(name: &str, behavior: &'static str) -> RuleStats {
        let lateness = (behavior == "delay").then(nanoseconds);
        RuleStats { name: name.into(), behavior, injected: 0, lateness }
    }

    /// Adds what another worker, or an earlier generation, has done.
    pub fn merge(&mut self, other: &RuleStats) {
        self.injected += other.injected;
        match (&mut self.lateness, &other.lateness) {
            (Some(ours), Some(theirs)) => ours.add(theirs).expect("all have the same bounds"),
            (ours @ None, Some(theirs)) => *ours = Some(theirs.clone()),
            _ => {}
        }
    }
}

/// A bad thing that was done on purpose.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// When it was done.
    pub at: Instant,
    /// On which proxy.
    pub proxy: Arc<str>,
    /// On which of the proxy's connections, from 0.
    pub connection: u64,
    /// By which rule.
    pub rule: Arc<str>,
    /// The behavior's name.
    pub behavior: &'static str,
    /// For a delay: how long the bytes should be held. Zero for what happens at once.
    pub asked: Duration,
    /// For a delay: how long they were held.
    pub done: Duration,
}

/// One worker's events until they are handed over; bounded, so that nobody has to listen.
#[derive(Debug)]
pub(super) struct EventBuffer {
    pub events: Vec<Event>,
    /// Events for which there was no room.
    pub lost: u64,
}

/// Events one worker keeps between two hand-overs; at 50 hand-overs a second, 200,000 events per second.
const EVENTS_MAX: usize = 4096;
/// How long an event waits for others before it is handed over.
pub(super) const EVENT_DELAY: Duration = Duration::from_millis(20);

impl EventBuffer {
    pub fn new() -> EventBuffer {
        EventBuffer { events: Vec::with_capacity(EVENTS_MAX), lost: 0 }
    }

    pub fn push(&mut self, event: Event) {
        if self.events.len() < EVENTS_MAX { self.events.push(event) } else { self.lost += 1 }
    }
}

/// What one worker says of one proxy.
#[derive(Clone, Debug)]
pub struct ProxySnapshot {
    /// Its counters.
    pub counters: Counters,
    /// Its rules, in their order.
    pub rules: Vec<RuleStats>,
    /// Rules that are no longer there, together by behavior.
    pub retired: BTreeMap<&'static str, RuleStats>,
}

/// What one worker says of itself.
#[derive(Clone, Debug)]
pub struct WorkerSnapshot {
    /// Which worker.
    pub worker: usize,
    /// CPU time of its thread, in nanoseconds.
    pub cpu_ns: u64,
    /// Connections it has open.
    pub connections: usize,
    /// Bytes it holds for delays and slow sinks.
    pub held_bytes: usize,
    /// Times its completion queue had no room.
    pub overflows: u64,
    /// Events it had no room for.
    pub events_lost: u64,
    /// From when bytes were free to go until they were with the kernel of their sink, in nanoseconds.
    pub residence: Histogram<u64>,
    /// By proxy number.
    pub proxies: BTreeMap<u32, ProxySnapshot>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_add_up_by_name() {
        let mut total = Counters { exchanges: 1, ..Counters::default() };
        total += Counters { exchanges: 2, no_buffers: 5, ..Counters::default() };
        let named = total.named();
        assert!(
            named.iter().any(|(name, doc, value)| (*name, *value) == ("exchanges", 3) && !doc.is_empty())
        );
        assert_eq!(named.iter().map(|(.., value)| value).sum::<u64>(), 8);
    }

    #[test]
    fn merged_accuracy_is_what_one_worker_would_have_recorded() {
        let (mut a, mut b) = (RuleStats::new("x", "delay"), RuleStats::new("x", "delay"));
        let mut both = RuleStats::new("x", "delay");
        for value in 1..1000 {
            let one = if value % 3 == 0 { &mut a } else { &mut b };
            one.lateness.as_mut().unwrap().record(value * 97).unwrap();
            both.lateness.as_mut().unwrap().record(value * 97).unwrap();
        }
        a.merge(&b);
        assert_eq!(a.lateness, both.lateness);
    }

    #[test]
    fn a_full_event_buffer_counts_what_it_loses() {
        let mut buffer = EventBuffer::new();
        let event = Event {
            at: Instant::ZERO,
            proxy: "p".into(),
            connection: 0,
            rule: "r".into(),
            behavior: "delay",
            asked: Duration::ZERO,
            done: Duration::ZERO,
        };
        (0..EVENTS_MAX + 3).for_each(|_| buffer.push(event.clone()));
        assert_eq!((buffer.events.len(), buffer.lost), (EVENTS_MAX, 3));
    }
}
