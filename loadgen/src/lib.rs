//! Makes load at exact rates and measures every reply from the instant its request was *due*.
//!
//! ```text
//! run file ─► scenario::Plan ─► arrival::Schedule ─► runner ─► measure ─► report
//!                               when is it due?      protocol: bytes out, reply in
//! ```
//!
//! All but [`runner`] is arithmetic on arguments: no clock is read, no socket is opened; only
//! [`report::write_run_dir`] and its check touch the disk. The runner moves the bytes, on the data plane's ring.
//!
//! # What the figures mean
//!
//! Performance engineers distrust averages, and they are right; so every figure says what is in it.
//!
//! - A latency starts at the *computed* due time. If the target stalls for 1.4 s at 2,000 requests a second, the
//!   2,800 requests it kept from being sent are charged with their wait. That is `response`. `service` (reply − sent)
//!   and `lag` (sent − due) stand beside it, never mixed. The clock stops when the whole reply has been parsed; the
//!   time to its first byte is not kept. The target's name is looked up before the run. With a connection per
//!   request, its connect is inside `response` and `service`.
//! - A late request is sent late, as soon as a connection is free, and charged; or, with a late policy, dropped and
//!   counted. Both may end in a burst after a stall: that is what waiting users do.
//! - Nothing slow is left out: timeouts, requests in flight at the end and requests never sent enter `response` as
//!   lower bounds, and their number is printed. Warm-up is counted apart and is in no figure.
//! - Percentiles come from merged HDR counts (1 ns to 1 h, three digits), never from percentiles. Merging is
//!   exact: nodes merged equal one node that recorded everything, byte for byte. A percentile with fewer than
//!   10 ÷ (1 − p) values is marked.
//! - planned = sent + dropped, and sent = ok + error + timeout + censored, on each node and in total; else the
//!   run is invalid.
//! - The [verdict](measure::Verdict) judges the generator, not the target: its own lag, its CPU, what it dropped, what
//!   its machine ran out of. A worker at its limit makes an open run invalid, for it cannot keep the schedule; a
//!   closed run suspect, for its rate may be the worker's and its times hold the wait for the worker. The
//!   [thresholds](measure::thresholds) are named, with reasons.

pub mod arrival;
pub mod capacity;
pub mod measure;
pub mod protocol;
pub mod report;
pub mod runner;
pub mod scenario;
