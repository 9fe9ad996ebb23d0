//! From what the threads measured to what a report shows: the summary, and the facts about the machine.

use std::fs;

use super::handle::Outcome;
use crate::measure::{Environment, Faults, NodeReport, RunFacts, Summary};
use crate::scenario::Plan;

/// Judges a run of one node. `faults` are what is known of faults on its way, `reproduce` is the command that repeats it.
pub fn summarize(outcome: &Outcome, plan: &Plan, faults: impl Into<Faults>, reproduce: String) -> Summary {
    let facts = RunFacts {
        plan: plan.clone(),
        started_at_unix_ms: outcome.started_at_unix_ms,
        ran_for: outcome.ran_for,
        ended_early: outcome.ended_early.clone(),
        cut_after: outcome.ended_early.as_ref().and(outcome.issued_for),
        faults: faults.into(),
        environment: outcome.environment.clone(),
        reproduce,
    };
    Summary::new(facts, &[outcome.node_report(&outcome.environment.host)])
}

impl Outcome {
    /// This node's part of a run of several.
    pub fn node_report(&self, name: &str) -> NodeReport {
        NodeReport {
            name: name.to_owned(),
            timeline: self.timeline.clone(),
            workers: self.workers.clone(),
            shortages: self.shortages,
            lost: None,
            clock_error: None,
        }
    }
}

/// The machine this process runs on.
pub fn environment() -> Environment {
    let read = |path: &str| fs::read_to_string(path).map(|text| text.trim().to_owned()).unwrap_or_default();
    let cpu_info = read("/proc/cpuinfo");
    let cpu = cpu_info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'));
    Environment {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        kernel: read("/proc/sys/kernel/osrelease"),
        cpu: cpu.map(|(_, model)| model.trim().to_owned()).unwrap_or_default(),
        cores: std::thread::available_parallelism().map_or(1, |cores| cores.get() as u32),
        host: read("/proc/sys/kernel/hostname"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machine_says_its_kernel_and_its_cores() {
        let environment = environment();
        assert!(environment.kernel.starts_with(|c: char| c.is_ascii_digit()), "{environment:?}");
        assert!(environment.cores > 0 && !environment.version.is_empty());
    }
}
