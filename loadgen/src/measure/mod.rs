//! What happened to each request, and what may be said about it.
//!
//! ```text
//! Sample ─► Recorder (per worker) ─take()─► Timeline ─merge─► Timeline ─► Summary + Verdict
//!           dense HDR histograms             one Interval a second, sparse counts, bit-exact to merge
//! ```
//!
//! | series | from | to | what is in it |
//! |---|---|---|---|
//! | response | due | reply | every request that was due: ok, error, timeout, in flight at the end, unsent at the end |
//! | service | sent | reply | every request that was sent, but those that found no connection until their timeout |
//! | lag | due | sent | every request that was sent; of those, until the timeout |
//! | own lag | | | what of the response was the generator's: late to see that it was due, held back by the connect rate, late to see the reply |
//!
//! Timeouts, requests in flight at the end and requests never sent enter `response` with the time they had
//! waited: a lower bound, counted as such. Nothing slow is left out, so a percentile may be too small but never by
//! leaving the worst cases away. Requests dropped by the late policy are in no series; they are counted.

mod around;
mod cause;
mod facts;
mod faults;
mod fine;
mod growth;
mod histogram;
mod interval;
mod objectives;
mod own;
mod quantile;
mod recorder;
mod sample;
mod summarize;
mod summary;
mod verdict;

pub use facts::{Environment, NodeReport, RunFacts, Shortages, WorkerUse};
pub use faults::{Around, FaultWindow, Faults, Injected, Injection, Injections, Span, Stretch};
pub use fine::{Coarse, Failure, Longest, TENTH_NS, TENTHS, Tenth};
pub use histogram::{
    DecodeError, Distribution, HIGHEST_NS, Histogram, LOWEST_NS, PercentileRow, SIGNIFICANT_DIGITS,
};
pub use interval::{COUNTED_MAX, Counts, Imbalance, Interval, Timeline};
pub use own::Own;
pub use quantile::Quantile;
pub use recorder::{DropReason, Recorder};
pub use sample::{ErrorKind, Outcome, OutcomeClass, Sample};
pub use summary::{
    Causes, CurvePoint, ErrorCount, NodeSummary, OwnSummary, PERCENTILES, Second, Series, SloResult, Summary,
    TenthSummary,
};
pub use verdict::{Grade, Verdict, judge_so_far, thresholds};
