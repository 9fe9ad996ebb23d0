//! Makes load at exact rates and measures every reply from the instant its request was *due*.
//!
//! ```text
//! run file ─► scenario::Plan ─► arrival::Schedule ─► runner ─► measure ─► report
//!                               when is it due?      protocol: bytes out, reply in
//! ```
//!
//! All but [`runner`] is arithmetic on arguments: no clock is read, no socket is opened; only
//! [`report::write_run_dir`] touches the disk. The runner moves the bytes, on the data plane's ring.
//!
//! # What the figures mean
//!
//! Performance engineers distrust averages, and they are right; so every figure says what is in it.
//!
//! - A latency starts at the *computed* due time. If the target stalls for 1.4 s at 2,000 requests a second, the
//!   2,800 requests it kept from being sent are charged with their wait. That is `response`. `service` (reply − sent)
//!   and `lag` (sent − due) stand beside it, never mixed.
//! - Nothing slow is left out: timeouts, requests in flight at the end and requests never sent enter `response` as
//!   lower bounds, and their number is printed. Warm-up is counted apart and is in no figure.
//! - Percentiles come from merged HDR counts (1 ns to 1 h, three digits), never from percentiles. Merging is
//!   exact: nodes merged equal one node that recorded everything, byte for byte. A percentile with fewer than
//!   10 ÷ (1 − p) values is marked.
//! - planned = sent + dropped, and sent = ok + error + timeout + censored, on each node and in total; else the
//!   run is invalid.
//! - The [verdict](measure::Verdict) judges the generator, not the target: its own lag, its CPU, what it dropped. The
//!   [thresholds](measure::thresholds) are named, with reasons.

pub mod arrival;
pub mod measure;
pub mod protocol;
pub mod report;
pub mod runner;
pub mod scenario;
