//! What to do: a run file or a command line becomes a validated [`Plan`].
//!
//! Text is checked once, here. A [`Plan`] that passed [`Plan::validate`] needs no further checks; it
//! travels to other nodes as JSON and is validated again on arrival, because the wire is text too.

pub use fracas_dataplane::units::Rate;

mod held;
mod idle;
mod model;
mod parse;
mod slo;
mod target;
mod written;

pub use held::{behaviors_of, is_cause};
pub use idle::check_idle;
pub use model::{
    BytesOrText, Fault, LatePolicy, Load, OnNodeLoss, Pace, Phase, Plan, PlanError, RATE_PER_SECOND_MAX,
    Reuse, Step, Stop,
};
pub use parse::{ParseError, RUN_FILE_BYTES_MAX, parse, parse_payload};
pub use slo::{Cause, Comparison, Metric, Replies, SeriesName, Slo, SloError};
pub use target::{Target, TargetError};

/// A run file with every key, explained: what `fracas load --example` prints.
pub const EXAMPLE: &str = include_str!("../../scenarios/example.yml");
