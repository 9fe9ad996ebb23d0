//! The figures of all workers together.

use std::collections::BTreeMap;

use super::stats::{Counters, ProxySnapshot, RuleStats, WorkerSnapshot};
use super::times::Times;
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
    /// Turns of its loop, each one call of the kernel.
    pub turns: u64,
    /// Times a receive found no buffer.
    pub no_buffers: u64,
    /// The generation that it applies.
    pub generation: u64,
    /// Times its completion queue had no room.
    pub overflows: u64,
    /// Events it had no room for.
    pub events_lost: u64,
    /// From when bytes were free to go until the kernel of their sink had them.
    pub residence: Times,
}

/// One proxy's figures.
#[derive(Clone, Debug)]
pub struct ProxyStats {
    /// Its counters.
    pub counters: Counters,
    /// Its rules, the base rules first, each part in its order.
    pub rules: Vec<RuleStats>,
    /// Rules that are no longer there, together by behavior.
    pub retired: Vec<RuleStats>,
    /// Bytes that wait in its queues, for a rule or for a slow peer.
    pub held_bytes: usize,
}

impl ProxyStats {
    /// Adds up what each worker says of one proxy.
    pub(super) fn sum<'a>(snapshots: impl Iterator<Item = &'a ProxySnapshot>) -> ProxyStats {
        let (mut counters, mut rules, mut held_bytes) = (Counters::default(), Vec::new(), 0);
        let mut retired: BTreeMap<&'static str, RuleStats> = BTreeMap::new();
        for snapshot in snapshots {
            counters += snapshot.counters;
            held_bytes += snapshot.held_bytes;
            merge_by_name(&mut rules, &snapshot.rules);
            for (behavior, old) in &snapshot.retired {
                retired.entry(behavior).and_modify(|sum| sum.merge(old)).or_insert_with(|| old.clone());
            }
        }
        rules.sort_by_key(|rule| rule.lease.is_some());
        ProxyStats { counters, rules, retired: retired.into_values().collect(), held_bytes }
    }
}

impl From<WorkerSnapshot> for WorkerStats {
    fn from(worker: WorkerSnapshot) -> WorkerStats {
        WorkerStats {
            worker: worker.worker,
            cpu_ns: worker.cpu_ns,
            connections: worker.connections,
            held_bytes: worker.held_bytes,
            turns: worker.turns,
            no_buffers: worker.no_buffers,
            generation: worker.generation,
            overflows: worker.overflows,
            events_lost: worker.events_lost,
            residence: worker.residence,
        }
    }
}

/// A merged residence histogram of all workers.
impl Stats {
    /// From when bytes were free to go until the kernel of their sink had them, all workers together.
    pub fn residence(&self) -> Times {
        let mut sum = Times::default();
        self.workers.iter().for_each(|worker| sum.add(&worker.residence));
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
