//! The seam between a node and what makes its load.

use fracas_dataplane::clock::Instant;
use fracas_loadgen::arrival::Shard;
use fracas_loadgen::measure::{Counts, Timeline};
use fracas_loadgen::scenario::Plan;

use crate::session::WorkerUsage;

/// Makes load.
pub trait Generator: Send + Sync {
    /// Looks the target of a shard of a plan up and opens its connections; waits until they are open.
    ///
    /// # Errors
    /// One line, when it cannot.
    fn prepare(&self, plan: &Plan, shard: Shard) -> Result<Box<dyn Prepared>, String>;
}

/// A load whose connections are open. Dropping it closes them.
pub trait Prepared: Send {
    /// Begins at an instant of this machine's clock.
    fn start(self: Box<Self>, start_at: Instant) -> Box<dyn Load>;
}

/// A load that is on.
pub trait Load: Send {
    /// What happened since the last call.
    fn take(&mut self) -> Timeline;

    /// Connections open now.
    fn connections_open(&self) -> u64;

    /// Sends nothing more and waits for nothing.
    fn stop(&mut self);

    /// Whether it has ended: [`Load::outcome`] does not wait any more.
    fn is_over(&self) -> bool;

    /// How it ended, with what happened since the last [`Load::take`].
    fn outcome(self: Box<Self>) -> Outcome;
}

/// How a load ended.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// What no [`Load::take`] has given yet.
    pub rest: Timeline,
    /// From its own books, without warm-up.
    pub counts: Counts,
    /// Its threads.
    pub workers: Vec<WorkerUsage>,
    /// When the last reply came or was given up.
    pub ended_at: Instant,
    /// Why it broke off, one line; empty if it did not.
    pub error: String,
}
