//! When each request is due: arithmetic only, no clock, no socket.
//!
//! A [`Schedule`] lays the phases of a plan on one time axis and hands out [`Arrival`]s in order;
//! the runner sends them. A due time is computed from the plan, never from "now after the sleep", so a
//! late timer or a busy worker shows as lag and is never forgiven.
//!
//! A [`Shard`] is one worker's part of a plan. Deterministic paces deal their arrivals round robin, so
//! the shards together are exactly the one-machine plan. Poisson is thinned: `n` independent streams
//! of rate λ/n superpose to one Poisson stream of rate λ.

mod constant;
mod poisson;
mod ramp;
mod schedule;
mod shard;
mod steps;

use std::time::Duration;

pub use constant::Constant;
pub use poisson::Poisson;
pub use ramp::Ramp;
pub use schedule::{Arrival, Batch, PhaseSpan, Schedule};
pub use shard::Shard;
pub use steps::{Steps, StepsError};

/// A pace: when the requests of one phase are due.
pub trait Arrivals {
    /// When request number `index` is due, counted from the start of the phase; `None` when the pace
    /// itself ends before it.
    ///
    /// Due times never go back as `index` rises. A pace made of random draws is sequential: ask for
    /// indices in rising order.
    fn due_at(&mut self, index: u64) -> Option<Duration>;
}
