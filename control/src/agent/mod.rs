//! A node's side: dials out, runs the load, sends histogram deltas.

mod backoff;
pub mod identity;
pub mod link;
pub mod load;
mod member;
mod outbox;
pub mod target_policy;
