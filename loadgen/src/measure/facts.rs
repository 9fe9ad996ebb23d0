//! What is known of a run beside its measurements: the plan, the machine, the faults, who measured.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::faults::Faults;
use super::interval::Timeline;
use crate::scenario::Plan;

/// What the runner or the controller knows beside the measurements.
#[derive(Clone, Debug)]
pub struct RunFacts {
    /// What was asked for.
    pub plan: Plan,
    /// Wall clock at the start, for people: milliseconds of the Unix epoch.
    pub started_at_unix_ms: u64,
    /// From the start of the run to the last reply, warm-up and drain included.
    pub ran_for: Duration,
    /// Why the run stopped before its plan did.
    pub ended_early: Option<String>,
    /// How long after the start no more requests were made, where that was before the plan's end and is known.
    pub cut_after: Option<Duration>,
    /// The faults on its way, as the proxies reported them or as planned.
    pub faults: Faults,
    /// Where it ran.
    pub environment: Environment,
    /// The command that repeats the run.
    pub reproduce: String,
}

/// What one node measured.
#[derive(Clone, Debug, Default)]
pub struct NodeReport {
    /// Its name.
    pub name: String,
    /// Its seconds.
    pub timeline: Timeline,
    /// Its worker threads.
    pub workers: Vec<WorkerUse>,
    /// What its machine ran out of.
    pub shortages: Shortages,
    /// Why it is gone, and since when.
    pub lost: Option<String>,
    /// How far its clock may be from the controller's.
    pub clock_error: Option<Duration>,
}

/// Failures that the machine of the generator is to blame for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Shortages {
    /// Connects for which no local port was left (`EADDRNOTAVAIL`).
    pub ports: u64,
    /// Connects for which no file descriptor was left (`EMFILE`, `ENFILE`).
    pub descriptors: u64,
}

impl Shortages {
    /// Adds another's.
    pub fn merge(&mut self, other: Shortages) {
        self.ports += other.ports;
        self.descriptors += other.descriptors;
    }
}

/// How hard a worker thread had to work.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct WorkerUse {
    /// Share of the measured part, without the drain, in which it did anything but sleep or spin towards a due time.
    pub busy_ratio: f64,
    /// CPU time over wall time; 1.0 under `precise`, which spins.
    pub cpu_ratio: f64,
    /// How often completions did not fit the completion queue.
    pub cq_overflows: u64,
}

/// The machine and the versions.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Environment {
    /// Version of fracas.
    pub version: String,
    /// `uname -r`.
    pub kernel: String,
    /// Model name.
    pub cpu: String,
    /// Cores that the process may use.
    pub cores: u32,
    /// Host name.
    pub host: String,
}
