//! The figures of all workers together.

use std::collections::BTreeMap;

use hdrhistogram::Histogram;

use super::stats::{Counters, RuleStats, nanoseconds};
use crate::clock::Instant;

/// Everything counted so far, all workers together.
#[derive(Clone, Debug)]
pub struct Stats {
    /// When it was read.
    pub at: Instant,
    /// Each worker's own figures.
    pub workers: Vec<WorkerStats>,
    /// By proxy name.
    pub proxies: BTreeMap<String, ProxyStats>,
}

/// One worker's figures.
#[derive(Clone, Debug)]
pub struct WorkerStats {
    /// Its number.
    pub worker: usize,
    /// CPU time of its thread, in nanoseconds.
    pub cpu_ns: u64,
    /// Connections it has open.
    pub connections: usize,
    /// Bytes it holds.
    pub held_bytes: usize,
    /// Times its completion queue had no room.
    pub overflows: u64,
    /// Events it had no room for.
    pub events_lost: u64,
    /// From when bytes were free to go until the kernel of their sink had them, in nanoseconds.
    pub residence: Histogram<u64>,
}

/// One proxy's figures.
#[derive(Clone, Debug)]
pub struct ProxyStats {
    /// Its counters.
    pub counters: Counters,
    /// Its rules, in their order.
    pub rules: Vec<RuleStats>,
    /// Rules that are no longer there, together by behavior.
    pub retired: Vec<RuleStats>,
}

/// A merged residence histogram of all workers.
impl Stats {
    /// From when bytes were free to go until the kernel of their sink had them, all workers together.
    pub fn residence(&self) -> Histogram<u64> {
        let mut sum = nanoseconds();
        for worker in &self.workers {
            sum.add(&worker.residence).expect("all have the same bounds");
        }
        sum
    }
}

pub(super) fn merge_by_name(sum: &mut Vec<RuleStats>, added: &[RuleStats]) {
    for rule in added {
        match sum.iter_mut().find(|known| known.name == rule.name && known.behavior == rule.behavior) {
            Some(known) => known.merge(rule),
            None => sum.push(rule.clone()),
        }
    }
}
