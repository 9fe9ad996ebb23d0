//! One execution of a run file: its record, and the moves that its state may make.
//!
//! ```text
//! QUEUED ─▶ PREPARING ─▶ READY ─▶ RUNNING ─▶ COLLECTING ─▶ PASSED | FAILED | INVALID
//!    └──────────┴──────────┴─────────┴───────────┴───────▶ CANCELLED | ERRORED
//! ```

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use fracas_loadgen::measure::{Counts, Distribution, Grade, Summary};

use crate::clock_map::Offset;
use crate::execution::Progress;

/// Where a run is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RunState {
    /// Waits for its nodes to be free.
    Queued,
    /// Its nodes check the plan and resolve the target.
    Preparing,
    /// All its nodes are ready; the instant to start at has been sent.
    Ready,
    /// Load is on.
    Running,
    /// Load is over; results are being merged and the report written.
    Collecting,
    /// Ended: every SLO was kept, and the figures can be trusted.
    Passed,
    /// Ended: an SLO was not kept.
    Failed,
    /// Ended: the figures cannot be trusted.
    Invalid,
    /// Ended: the run could not be carried out.
    Errored,
    /// Ended: somebody cancelled it.
    Cancelled,
}

impl RunState {
    /// Every state, in the order of a run's life.
    #[cfg(test)]
    pub const ALL: [RunState; 10] = [
        RunState::Queued,
        RunState::Preparing,
        RunState::Ready,
        RunState::Running,
        RunState::Collecting,
        RunState::Passed,
        RunState::Failed,
        RunState::Invalid,
        RunState::Errored,
        RunState::Cancelled,
    ];

    /// True when nothing follows.
    pub fn is_final(self) -> bool {
        self >= RunState::Passed
    }

    /// Whether a run may go from here to `next`.
    pub fn may_become(self, next: RunState) -> bool {
        use RunState::*;
        match (self, next) {
            (Queued, Preparing) | (Preparing, Ready) | (Ready, Running) | (Running, Collecting) => true,
            (Collecting, Passed | Failed | Invalid) => true,
            (from, Errored | Cancelled) => !from.is_final(),
            _ => false,
        }
    }
}

/// A move that [`RunState::may_become`] forbids: a mistake in the controller, not of a user.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a run cannot go from {from:?} to {to:?}; report this as a bug")]
pub struct IllegalMove {
    /// Where it is.
    pub from: RunState,
    /// Where it was to go.
    pub to: RunState,
}

/// A node's part in a run.
#[derive(Clone, Debug, Default)]
pub struct RunNode {
    /// Name of the node.
    pub node: String,
    /// Where its requests went.
    pub counts: Counts,
    /// What it thinks of its own figures; `None` until it finished.
    pub verdict: Option<Grade>,
    /// Why, one line each.
    pub reasons: Vec<String>,
    /// Its clock against the controller's, at the start.
    pub clock: Offset,
    /// Busiest worker's share of one CPU, 0 to 1.
    pub cpu_ratio_max: f64,
    /// Why and when it was lost.
    pub lost: Option<String>,
}

/// What a run has beside its texts and figures, roughly.
const RECORD_BYTES: usize = 2 * 1024;

/// The figures of a run that has ended.
#[derive(Debug)]
pub struct RunResult {
    /// As in `run.json`.
    pub summary: Summary,
    /// Reply − due, merged.
    pub response: Distribution,
    /// Reply − sent, merged.
    pub service: Distribution,
    /// Sent − due, merged.
    pub lag: Distribution,
    /// Of all of it, roughly.
    pub bytes: usize,
}

/// A run as it is kept.
#[derive(Clone, Debug)]
pub struct Run {
    /// Sorts by time of submission.
    pub id: String,
    /// `name` of the run file.
    pub name: String,
    /// Where it is.
    pub state: RunState,
    /// Whether its figures can be trusted; `None` until known.
    pub verdict: Option<Grade>,
    /// Why not, one line each.
    pub reasons: Vec<String>,
    /// Why it could not be carried out or was cancelled; one line.
    pub error: String,
    /// Why it is where it is: what it waits for, why it never started, why it ended as it did; one line.
    pub reason: String,
    /// Where its requests went, over all nodes.
    pub counts: Counts,
    /// Set once it has ended.
    pub result: Option<Arc<RunResult>>,
    /// The nodes that carry it, by shard.
    pub nodes: Vec<RunNode>,
    /// Name of the run file, as submitted.
    pub file_name: String,
    /// Text of the run file, as submitted.
    pub file_text: Arc<str>,
    /// Seed of its arrivals.
    pub seed: u64,
    /// How long the plan lasts, if that is known beforehand.
    pub planned_duration: Option<Duration>,
    /// Unix time in milliseconds, by the controller's clock.
    pub submitted_unix_ms: u64,
    /// When its load began.
    pub started_unix_ms: Option<u64>,
    /// When it reached its final state.
    pub ended_unix_ms: Option<u64>,
    /// Its last second, for whoever follows it; set once it has ended, if it began.
    pub last: Option<Arc<Progress>>,
    /// Directory of the report.
    pub report_path: Option<PathBuf>,
    /// As submitted.
    pub labels: BTreeMap<String, String>,
}

impl Run {
    /// Makes a move.
    ///
    /// # Errors
    /// When the state does not allow it; the run stays as it was.
    pub fn advance(&mut self, to: RunState) -> Result<(), IllegalMove> {
        if !self.state.may_become(to) {
            return Err(IllegalMove { from: self.state, to });
        }
        self.state = to;
        Ok(())
    }

    /// Bytes that it keeps: the texts it was submitted with, and its figures.
    pub fn bytes(&self) -> usize {
        let labels: usize = self.labels.iter().map(|(name, value)| name.len() + value.len()).sum();
        let figures = self.result.as_ref().map_or(0, |result| result.bytes);
        let last = self.last.as_ref().map_or(0, |last| last.bytes());
        RECORD_BYTES + self.name.len() + self.file_name.len() + self.file_text.len() + labels + figures + last
    }
}

/// A run to test with.
#[cfg(test)]
pub mod tests_support {
    use super::*;

    /// Queued, otherwise empty.
    pub fn queued(id: &str) -> Run {
        Run {
            id: id.into(),
            name: "checkout".into(),
            state: RunState::Queued,
            verdict: None,
            reasons: Vec::new(),
            error: String::new(),
            reason: String::new(),
            counts: Counts::default(),
            result: None,
            nodes: Vec::new(),
            file_name: "checkout.yml".into(),
            file_text: "".into(),
            seed: 1,
            planned_duration: None,
            submitted_unix_ms: 0,
            started_unix_ms: None,
            ended_unix_ms: None,
            last: None,
            report_path: None,
            labels: BTreeMap::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use RunState::*;

    #[test]
    fn the_straight_way_is_legal_and_no_step_can_be_skipped() {
        let way = [Queued, Preparing, Ready, Running, Collecting];
        for (i, from) in way.iter().enumerate() {
            for (j, to) in way.iter().enumerate() {
                assert_eq!(from.may_become(*to), j == i + 1, "{from:?} {to:?}");
            }
        }
        for end in [Passed, Failed, Invalid] {
            assert!(way.iter().all(|from| from.may_become(end) == (*from == Collecting)));
        }
    }

    #[test]
    fn every_unfinished_run_can_be_cancelled_and_no_ended_run_moves() {
        for from in RunState::ALL {
            assert_eq!(from.may_become(Cancelled), !from.is_final());
            assert_eq!(from.may_become(Errored), !from.is_final());
            if from.is_final() {
                assert!(RunState::ALL.iter().all(|to| !from.may_become(*to)), "{from:?}");
            }
        }
    }
}
