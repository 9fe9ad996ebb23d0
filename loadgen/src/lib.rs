//! Makes load at exact rates and measures every reply from the instant its request was *due*.
//!
//! ```text
//! run file ─► scenario::Plan ─► arrival::Schedule ─► (runner) ─► measure ─► report
//!                               when is it due?      protocol: bytes out, reply in
//! ```
//!
//! Everything here is arithmetic on arguments: no clock is read, no socket is opened. A latency starts at the
//! computed due time, so a stalled target is charged for the requests it kept from being sent.

pub mod arrival;
pub mod measure;
pub mod protocol;
pub mod scenario;
