//! What a rule of an ended lease has done, kept small: a histogram of a running rule has 250 KiB, mostly zeros.

use std::sync::Arc;

use hdrhistogram::Histogram;

use super::stats::{RuleStats, nanoseconds};

/// Rules of ended leases that are kept for each proxy until its next change of rules; the oldest goes first.
pub const ENDED_RULES_MAX: usize = 256;

/// The statistics of a rule that is over.
#[derive(Clone, Debug)]
pub struct EndedRule {
    /// The rule's name.
    pub name: Arc<str>,
    /// The behavior's name.
    pub behavior: &'static str,
    /// The lease that it belonged to.
    pub lease: Option<Arc<str>>,
    /// Units that met it.
    pub matched: u64,
    /// Units that it chose.
    pub acted: u64,
    /// Faults that it injected.
    pub injected: u64,
    /// Values with their counts, of a rule with times.
    lateness: Option<Vec<(u64, u64)>>,
    asked: Option<Vec<(u64, u64)>>,
}

impl EndedRule {
    pub(super) fn new(stats: &RuleStats) -> EndedRule {
        let counts = |histogram: &Histogram<u64>| {
            histogram.iter_recorded().map(|step| (step.value_iterated_to(), step.count_at_value())).collect()
        };
        EndedRule {
            name: Arc::clone(&stats.name),
            behavior: stats.behavior,
            lease: stats.lease.clone(),
            matched: stats.matched,
            acted: stats.acted,
            injected: stats.injected,
            lateness: stats.lateness.as_ref().map(counts),
            asked: stats.asked.as_ref().map(counts),
        }
    }

    /// The statistics in full.
    pub fn stats(&self) -> RuleStats {
        let filled = |counts: &Vec<(u64, u64)>| {
            let mut histogram = nanoseconds();
            counts.iter().for_each(|(value, count)| histogram.saturating_record_n(*value, *count));
            histogram
        };
        RuleStats {
            name: Arc::clone(&self.name),
            behavior: self.behavior,
            lease: self.lease.clone(),
            matched: self.matched,
            acted: self.acted,
            injected: self.injected,
            lateness: self.lateness.as_ref().map(filled),
            asked: self.asked.as_ref().map(filled),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_kept_small_is_still_exact() {
        let mut stats = RuleStats::new("lease-1/delay", "delay", Some("0-1".into()));
        (stats.matched, stats.acted, stats.injected) = (5000, 1000, 2000);
        for value in 1..1000 {
            stats.lateness.as_mut().unwrap().record(value * 977).unwrap();
            stats.asked.as_mut().unwrap().record(200_000_000).unwrap();
        }
        let again = EndedRule::new(&stats).stats();
        assert_eq!((&again.lateness, &again.asked), (&stats.lateness, &stats.asked));
        assert_eq!((again.matched, again.acted, again.injected), (5000, 1000, 2000));
        assert_eq!((again.name, again.lease), (stats.name, stats.lease));
    }
}
