//! A finished run in figures: merged seconds in, everything a report says out. All times are nanoseconds;
//! every percentile comes from merged counts.

use serde::{Deserialize, Serialize};

use super::facts::{Environment, WorkerUse};
use super::faults::FaultWindow;
use super::histogram::Distribution;
use super::interval::Counts;
use super::quantile::Quantile;
use super::verdict::Grade;
use crate::scenario::{Plan, SeriesName};

/// A finished run; its JSON form is `run.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// Layout of this document.
    pub format: u32,
    /// Name of the run.
    pub name: String,
    /// Whether the numbers may be believed.
    pub verdict: Grade,
    /// Why not, the worst first.
    pub reasons: Vec<String>,
    /// Without warm-up.
    pub counts: Counts,
    /// Warm-up only; in no other figure.
    pub warm_up_counts: Counts,
    /// Reply − due.
    pub response: Series,
    /// Reply − sent.
    pub service: Series,
    /// Sent − due.
    pub lag: Series,
    /// The generator's own part of the response: what it sent late, and how late it may have picked the reply up.
    pub own_lag: Series,
    /// What the generator itself did while it measured.
    #[serde(default)]
    pub own: OwnSummary,
    /// Response by outcome: ok, error, timeout, censored.
    pub response_by_outcome: Vec<(String, Series)>,
    /// Time to open a connection.
    pub connect: Series,
    /// Percentile curves for the chart, HdrHistogram steps.
    pub curves: Vec<(SeriesName, Vec<CurvePoint>)>,
    /// Failures by kind, most frequent first.
    pub errors: Vec<ErrorCount>,
    /// Failures and timeouts by whether a proxy injected them.
    #[serde(default)]
    pub causes: Causes,
    /// Length of the measured part.
    pub measured_ns: u64,
    /// Length of the warm-up.
    pub warm_up_ns: u64,
    /// Requests due a second; `None` in a closed model, which plans none.
    pub planned_per_second: Option<f64>,
    /// Of the requests due early enough for a reply within the run, the share that had ended by its end: with a reply, good
    /// or bad, or given up as an error or a timeout. `None` in a closed model.
    #[serde(default)]
    pub answered_ratio: Option<f64>,
    /// Good replies a second within the measured part.
    pub ok_per_second: f64,
    /// Out.
    pub sent_bytes: u64,
    /// In.
    pub received_bytes: u64,
    /// The first ones included.
    pub connections_opened: u64,
    /// Of these, how many carried a request; `--reuse hot` leaves the others idle.
    #[serde(default)]
    pub connections_used: u64,
    /// In place of lost ones.
    pub reconnects: u64,
    /// Attempts that failed.
    pub connect_failures: u64,
    /// Of the timeouts, those that never had a connection: all were taken, or being opened.
    #[serde(default)]
    pub timeouts_without_connection: u64,
    /// By how much the good replies came later with every second of the run, in seconds: above 0, and steadily, more is due
    /// than is answered. `None` in a closed model, and where there are too few replies to tell.
    #[serde(default)]
    pub growth_ratio: Option<f64>,
    /// The run second by second, warm-up and drain included.
    pub seconds: Vec<Second>,
    /// The tenths of a second around fault windows.
    #[serde(default)]
    pub tenths: Vec<TenthSummary>,
    /// Fault windows.
    pub faults: Vec<FaultWindow>,
    /// Objectives and what became of them.
    pub slo: Vec<SloResult>,
    /// Each node by itself: one node behind a bad link owns the merged tail.
    pub nodes: Vec<NodeSummary>,
    /// Where it ran.
    pub environment: Environment,
    /// What was asked for.
    pub plan: Plan,
    /// Wall clock at the start, milliseconds of the Unix epoch.
    pub started_at_unix_ms: u64,
    /// The command that repeats the run.
    pub reproduce: String,
}

/// A series in figures, nanoseconds.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Series {
    /// How many values.
    pub count: u64,
    /// How many of them are lower bounds: timeouts, in flight or unsent at the end.
    pub lower_bounds: u64,
    /// Smallest.
    pub min: u64,
    /// Mean; here because people ask, not because it says much.
    pub mean: u64,
    /// Standard deviation.
    pub stddev: u64,
    /// Median.
    pub p50: u64,
    /// 75 %.
    pub p75: u64,
    /// 90 %.
    pub p90: u64,
    /// 95 %.
    #[serde(default)]
    pub p95: u64,
    /// 99 %.
    pub p99: u64,
    /// 99.9 %.
    #[serde(rename = "p99.9")]
    pub p99_9: u64,
    /// 99.99 %.
    #[serde(rename = "p99.99")]
    pub p99_99: u64,
    /// Largest.
    pub max: u64,
    /// Percentiles with fewer than 10 ÷ (1 − p) values behind them: one more outlier would move them.
    pub under_sampled: Vec<String>,
}

/// The percentiles every report shows.
pub const PERCENTILES: [(&str, Quantile); 7] = [
    ("p50", Quantile::P50),
    ("p75", Quantile::P75),
    ("p90", Quantile::P90),
    ("p95", Quantile::P95),
    ("p99", Quantile::P99),
    ("p99.9", Quantile::P99_9),
    ("p99.99", Quantile::P99_99),
];

impl Series {
    pub(super) fn of(distribution: &Distribution, lower_bounds: u64) -> Series {
        let at = |quantile| distribution.quantile(quantile);
        let thin = PERCENTILES.iter().filter(|(_, q)| distribution.count() < q.values_needed());
        Series {
            count: distribution.count(),
            lower_bounds,
            min: distribution.min(),
            mean: distribution.mean() as u64,
            stddev: distribution.standard_deviation() as u64,
            p50: at(Quantile::P50),
            p75: at(Quantile::P75),
            p90: at(Quantile::P90),
            p95: at(Quantile::P95),
            p99: at(Quantile::P99),
            p99_9: at(Quantile::P99_9),
            p99_99: at(Quantile::P99_99),
            max: distribution.max(),
            under_sampled: thin.map(|(name, _)| (*name).to_owned()).collect(),
        }
    }

    /// The values in the order of [`PERCENTILES`].
    pub fn percentiles(&self) -> [u64; PERCENTILES.len()] {
        [self.p50, self.p75, self.p90, self.p95, self.p99, self.p99_9, self.p99_99]
    }
}

/// Failures and timeouts by who made them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Causes {
    /// Injected by a proxy; `None` when that is not known of any.
    pub injected: Option<u64>,
    /// Neither injected nor the generator's own; `None` when that is not known of any.
    pub natural: Option<u64>,
    /// Timeouts that the generator made itself, which is always known; neither injected nor natural.
    #[serde(default)]
    pub own: u64,
    /// Of which it is not known, where it is of others: these, `own`, `injected` and `natural` add up to all.
    #[serde(default)]
    pub unknown: u64,
    /// Injected faults that were too many to keep; failures at their time are not known.
    #[serde(default)]
    pub not_kept: u64,
    /// Why it is not known of any, or of these.
    pub unknown_because: Option<String>,
}

/// A point of a percentile curve.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct CurvePoint {
    /// From 0 to 1.
    pub quantile: f64,
    /// At that quantile.
    pub value_ns: u64,
}

/// How often a kind of failure came.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorCount {
    /// [`ErrorKind::name`](super::ErrorKind::name).
    pub kind: String,
    /// For people.
    pub description: String,
    /// Without warm-up.
    pub count: u64,
}

/// One second of the run. Latencies are those of the requests *due* in it; outcomes those that *came* in it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Second {
    /// `[second, second + 1)` from the start of the run.
    pub second: u32,
    /// Some of its requests were warm-up.
    pub warm_up: bool,
    /// Requests due, warm-up included.
    pub planned: u64,
    /// Good replies, warm-up included.
    pub ok: u64,
    /// Failures and timeouts, warm-up included.
    pub failed: u64,
    /// Values behind the figures below.
    pub samples: u64,
    /// Response.
    pub p50: u64,
    /// Response.
    pub p99: u64,
    /// Response.
    pub max: u64,
    /// Service.
    pub service_p99: u64,
    /// Lag.
    pub lag_p99: u64,
    /// Lag.
    pub lag_max: u64,
    /// The generator's own part of the response.
    #[serde(default)]
    pub own_p99: u64,
    /// The generator's own part of the response.
    #[serde(default)]
    pub own_max: u64,
    /// The longest time by which a worker's loop came late.
    #[serde(default)]
    pub own_stall_max: u64,
    /// Workers could run and had no core, summed over all workers.
    #[serde(default)]
    pub own_run_delay: u64,
}

/// What the generator itself did while it measured, whatever the target did; all workers together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct OwnSummary {
    /// The longest time by which a worker's loop came late: stopped, starved of its core, or busy.
    pub stall_max_ns: u64,
    /// The second of the run in which that began.
    pub stall_max_second: Option<u32>,
    /// All times by which it came late by [`STALL_FROM_NS`](super::thresholds::STALL_FROM_NS) or more, summed.
    pub stall_ns: u64,
    /// Requests whose own part is [`TOUCHED_FROM_NS`](super::thresholds::TOUCHED_FROM_NS) or more.
    pub requests_touched: u64,
    /// The same, by the requests that were due.
    pub touched_ratio: f64,
    /// Workers could run and had no core, summed.
    pub run_delay_ns: u64,
    /// The same, for each time that a worker was given a core.
    pub run_delay_mean_ns: u64,
    /// Times a core was taken from a worker.
    pub preemptions: u64,
    /// Requests that waited for the connect rate.
    pub connects_paced: u64,
    /// Virtual users paused because their connect had failed, summed over the users.
    pub users_paused_ns: u64,
    /// The same, by the time that the users had; 0 in an open model.
    pub users_paused_ratio: f64,
    /// Timeouts of which half of the wait or more was the generator's own part: it made them, not the target.
    #[serde(default)]
    pub timeouts: u64,
}

/// A tenth of a second of the run, 1.6 % off at most. Latencies and their failures are those of the requests *due* in it;
/// `ok` and `failed` those that *came* in it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TenthSummary {
    /// `[tenth, tenth + 1)` from the start of the run.
    pub tenth: u64,
    /// Requests due, warm-up included.
    pub planned: u64,
    /// Good replies, warm-up included.
    pub ok: u64,
    /// Failures and timeouts, warm-up included.
    pub failed: u64,
    /// Values behind the figures below.
    pub samples: u64,
    /// Response.
    pub p50: u64,
    /// Response.
    pub p99: u64,
    /// Response.
    pub max: u64,
    /// Lag; exact.
    #[serde(default)]
    pub lag_max: u64,
    /// The generator's own part of the response; exact.
    #[serde(default)]
    pub own_max: u64,
    /// The longest time by which a turn of a worker's loop that should have come in it came late; 0 if it is below
    /// [`STALL_FROM_NS`](super::thresholds::STALL_FROM_NS).
    #[serde(default)]
    pub own_stall_max: u64,
}

/// What became of an objective.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SloResult {
    /// As written.
    pub slo: String,
    /// Kept.
    pub passed: bool,
    /// With its unit.
    pub actual: String,
}

/// One node by itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NodeSummary {
    /// Its name.
    pub name: String,
    /// Its counts.
    pub counts: Counts,
    /// Its response series.
    pub response: Series,
    /// Its own part of the response.
    pub own_lag: Series,
    /// What it did itself.
    #[serde(default)]
    pub own: OwnSummary,
    /// Its worker threads.
    pub workers: Vec<WorkerUse>,
    /// Why it is gone.
    pub lost: Option<String>,
    /// How far its clock may be from the controller's.
    pub clock_error_ns: Option<u64>,
}

impl Summary {
    /// True when every objective was kept.
    pub fn slo_passed(&self) -> bool {
        self.slo.iter().all(|result| result.passed)
    }

    /// The first objective that was not kept.
    pub fn slo_missed(&self) -> Option<&SloResult> {
        self.slo.iter().find(|result| !result.passed)
    }

    /// Response of requests with this outcome, by [`OutcomeClass::name`](super::OutcomeClass::name).
    pub fn response_of(&self, outcome: &str) -> Option<&Series> {
        self.response_by_outcome.iter().find(|(name, _)| name == outcome).map(|(_, series)| series)
    }

    /// A series by name.
    pub fn series(&self, name: SeriesName) -> &Series {
        match name {
            SeriesName::Response => &self.response,
            SeriesName::Service => &self.service,
            SeriesName::Lag => &self.lag,
        }
    }
}
