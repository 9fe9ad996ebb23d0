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
//! - An outage is counted, not waited out. A request without a free connection opens one at once, as long as there are
//!   fewer than asked for, and a refused, reset or closed connection is its error, then. The timeout counts from the due
//!   time: a request that hangs, or finds no connection, ends by then. One that never had a connection counts as sent, for
//!   it was tried, and as a timeout; `timeouts_without_connection` says how many there were.
//! - What the generator itself waited for or missed is in `own lag`, with its maximum: the connect rate, turns of its loop
//!   that came late (a heartbeat tells, whatever the model), and what became due or was answered meanwhile. In the closed
//!   model a user whose connect fails pauses (`retry_pause`), which is in no response; the report says how much of the
//!   users' time that was.
//! - Nothing slow is left out: timeouts, requests in flight at the end and requests never sent enter `response` as
//!   lower bounds, and their number is printed. Warm-up is counted apart and is in no figure. Replies that come after the
//!   end of the plan are in the latencies, and not in the rate.
//! - Percentiles come from merged HDR counts (1 ns to 1 h, three digits), never from percentiles. Merging is
//!   exact: nodes merged equal one node that recorded everything, byte for byte. A percentile with fewer than
//!   10 ÷ (1 − p) values is marked.
//! - planned = sent + dropped, and sent = ok + error + timeout + censored, on each node and in total; else the
//!   run is invalid.
//! - The [verdict](measure::Verdict) judges the generator, not the target: its own lag, its stalls by second and node, the
//!   cores it had to wait for, its CPU, what it dropped, what its machine ran out of. A worker at its limit makes an open
//!   run invalid, for it cannot keep the schedule; a closed run suspect, for its rate may be the worker's and its times
//!   hold the wait for the worker. An open run is suspect, too, when replies come later and later: more is due than is
//!   answered, and every latency depends on how long one looks. The [thresholds](measure::thresholds) are named, with
//!   reasons.

pub mod arrival;
pub mod capacity;
pub mod measure;
pub mod protocol;
pub mod report;
pub mod runner;
pub mod scenario;
