//! The proxy: named listeners in front of upstreams, on one worker to a thread.
//!
//! ```text
//!   Handle ──commands──► Worker 0 ─ ring ─ listener, connections ─┐
//!     ▲                  Worker 1 ─ ring ─ listener, connections ─┤   SO_REUSEPORT: the kernel spreads
//!     └──── snapshots, events ◄───────────────────────────────────┘   new connections over the workers
//! ```

mod connection;
mod exchange;
mod handle;
pub mod leases;
mod pipe;
mod stats;
mod worker;

pub use exchange::PIPELINE_MAX;
pub(crate) use handle::check_free;
pub use handle::{
    Applied, Dataplane, DataplaneSettings, Drained, ENDED_LEASES_MAX, Handle, LeaseEnd, LeaseInfo,
    LeaseRequest, PROXIES_MAX, ProxyError, ProxyInfo, ProxySpec, ProxyStats, ProxyUpdate, RulesChange,
    StartError, Stats, Watcher, WorkerStats,
};
pub(crate) use pipe::Size;
pub use pipe::{CREDIT_LARGE, CREDIT_SMALL, QUEUE_BYTES_MAX};
pub use stats::{Counters, Event, ProxySnapshot, RuleStats, WorkerSnapshot};
pub use worker::{Opening, Worker, WorkerSettings};
