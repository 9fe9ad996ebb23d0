//! What one worker has counted of each proxy, and how exactly each rule did what was asked.

use std::collections::BTreeMap;
use std::ops::AddAssign;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::times::Times;

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

        /// The same, for any thread to read.
        #[derive(Debug, Default)]
        pub(super) struct SharedCounters { $($name: AtomicU64,)+ }

        impl SharedCounters {
            pub(super) fn publish(&self, counters: &Counters) {
                $(self.$name.store(counters.$name, Ordering::Relaxed);)+
            }

            pub(super) fn read(&self) -> Counters {
                Counters { $($name: self.$name.load(Ordering::Relaxed),)+ }
            }
        }
    };
}

counters! {
    /// Connections accepted.
    connections_opened,
    /// Connections whose both sockets are closed.
    connections_closed,
    /// Requests whose head was read (protocols other than tcp).
    exchanges,
    /// Bytes received from clients.
    request_bytes,
    /// Bytes received from upstreams.
    reply_bytes,
    /// Upstream connects that failed: refused, unreachable, no port or descriptor left.
    connect_failures,
    /// Upstream connects that took longer than the connect timeout.
    connect_timeouts,
    /// Lookups of the upstream's name that gave no address.
    resolve_failures,
    /// Connections that the client broke off; not those that a rule made hang.
    client_resets,
    /// Connections that the upstream broke off; not those that a rule made hang.
    upstream_resets,
    /// Messages that were not of the protocol, or ambiguous: requests refused, replies that ended their connection.
    protocol_errors,
    /// Times reading paused because one direction of a connection held as many bytes as it may.
    held_limit_reached,
    /// Times reading paused because the worker held as many bytes as it may.
    worker_held_limit_reached,
    /// Times a receive found no buffer and had to wait for one.
    no_buffers,
    /// Times accepting paused because no descriptor was left.
    accept_paused,
    /// Connections turned away because the worker has as many as it may.
    connection_limit_reached,
    /// Times reading paused because a client had as many requests under way as it may.
    pipeline_limit_reached,
    /// Connections of which a side was closed, or reset if bytes for it were lost, because it had not ended within the
    /// linger limit.
    linger_limit_reached,
    /// Connections closed because nothing had passed for the half-close limit after one side had ended.
    half_close_limit_reached,
    /// Connections closed because nothing had passed for the idle timeout.
    idle_timeouts,
}

/// What one rule has done on one proxy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleStats {
    /// The rule's name.
    pub name: Arc<str>,
    /// The behavior's name.
    pub behavior: &'static str,
    /// The lease that the rule belongs to; none for a base rule.
    pub lease: Option<Arc<str>>,
    /// Units (connections, exchanges or chunks, by its scope) that passed its match and triggers and were drawn for.
    pub matched: u64,
    /// Units that the draw chose and no earlier rule had taken: `acted / matched` is the share that was kept.
    pub acted: u64,
    /// Faults done: each held message or chunk, each error reply, each connection cut. One unit may give several.
    pub injected: u64,
    /// Done − asked of each delay: how late bytes left after their hold. None for behaviors without a time.
    pub lateness: Option<Times>,
    /// What was asked of each delay; where several rules add up, their sum.
    pub asked: Option<Times>,
}

impl RuleStats {
    /// Those of a rule that has done nothing yet.
    pub(super) fn new(name: &str, behavior: &'static str, lease: Option<Arc<str>>) -> RuleStats {
        let times = || has_times(behavior).then(Times::default);
        let (name, lateness, asked) = (name.into(), times(), times());
        RuleStats { name, behavior, lease, matched: 0, acted: 0, injected: 0, lateness, asked }
    }

    /// Adds what another worker, or an earlier generation, has done.
    pub fn merge(&mut self, other: &RuleStats) {
        self.matched += other.matched;
        self.acted += other.acted;
        self.injected += other.injected;
        for (ours, theirs) in [(&mut self.lateness, &other.lateness), (&mut self.asked, &other.asked)] {
            match (ours, theirs) {
                (Some(ours), Some(theirs)) => ours.add(theirs),
                (ours @ None, Some(theirs)) => *ours = Some(theirs.clone()),
                _ => {}
            }
        }
    }
}

/// Whether rules of this behavior take a time that can be kept more or less exactly.
pub(super) fn has_times(behavior: &str) -> bool {
    behavior == "delay"
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
    /// Bytes in the queues of its connections.
    pub held_bytes: usize,
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
    /// Turns of its loop.
    pub turns: u64,
    /// Times a receive found no buffer.
    pub no_buffers: u64,
    /// The generation that it applies.
    pub generation: u64,
    /// Times its completion queue had no room.
    pub overflows: u64,
    /// Events it had no room for.
    pub events_lost: u64,
    /// From when bytes were free to go until they were with the kernel of their sink.
    pub residence: Times,
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
    fn what_is_published_is_what_is_read() {
        let counters = Counters { request_bytes: 7, pipeline_limit_reached: 9, ..Counters::default() };
        let shared = SharedCounters::default();
        shared.publish(&counters);
        assert_eq!(shared.read(), counters);
    }
}
