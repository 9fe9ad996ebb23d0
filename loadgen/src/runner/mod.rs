//! Runs a plan: threads, each with its ring, its connections and its part of the schedule.
//!
//! ```text
//! prepare(plan, shard) ─► Prepared ─start(at)─► RunningLoad ─wait()─► Outcome ─► summarize() ─► Summary
//!   look up the target,     all connections       take(): a delta a second      timeline, workers
//!   open the connections    are open              progress(), stop()
//! ```
//!
//! One thread has one [`Worker`] on one ring and shares nothing with the others while it runs; commands reach it
//! through a channel and a wake-up, figures leave it as deltas. The worker also runs on the simulated ring, where
//! the tests are exact.

mod connection;
mod facts;
mod fastest;
mod handle;
mod idle;
mod late_turns;
mod opener;
mod sleep;
mod thread;
mod virtual_user;
mod worker;

pub use facts::{environment, summarize};
pub use handle::{Opened, Outcome, Prepared, Progress, RunError, RunningLoad, prepare};
pub use worker::{Readiness, WAITING_MAX, Worker, WorkerSettings};

use std::time::Duration;

use fracas_dataplane::clock::Instant;

use crate::arrival::Shard;
use crate::scenario::Plan;

/// Between the word and the start, so that every thread has heard it in time.
const HEAD_START: Duration = Duration::from_millis(20);

/// Runs a plan as one node, to its end.
///
/// # Errors
/// When the plan is not valid or the run cannot begin; what goes wrong later is part of the outcome.
pub fn run(plan: &Plan) -> Result<Outcome, RunError> {
    let prepared = prepare(plan, Shard::WHOLE)?;
    Ok(prepared.start(Instant::now() + HEAD_START).wait())
}
