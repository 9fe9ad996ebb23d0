//! The proxy: named listeners in front of upstreams, on one worker to a thread.
//!
//! ```text
//!   Handle ──commands──► Worker 0 ─ ring ─ listener, connections ─┐
//!     ▲                  Worker 1 ─ ring ─ listener, connections ─┤   SO_REUSEPORT: the kernel spreads
//!     └──── snapshots, events ◄───────────────────────────────────┘   new connections over the workers
//! ```

mod book;
mod calls;
mod change;
mod connection;
mod dataplane;
mod error;
mod event;
mod exchange;
mod figures;
mod handle;
mod keeper;
pub mod leases;
mod loops;
mod patience;
mod pipe;
mod reload;
mod resolver;
mod room;
mod stats;
mod telling;
mod thread;
mod times;
mod totals;
mod worker;

pub use book::ENDED_RULES_MAX;
pub use calls::{
    Applied, AppliedTo, CONNECT_TIMEOUT_DEFAULT, EndReason, HELD_BYTES_DEFAULT, LeaseEnd, LeaseInfo,
    LeaseRequest, ProxyInfo, ProxySpec, ProxyUpdate, RESOLVE_DEFAULT, RulesChange, SOURCE_ADDRESSES_MAX,
};
pub use connection::{HELD_TIME_MAX, LINGER_BYTES_MAX};
pub use dataplane::{Dataplane, DataplaneSettings, Drained, StartError, THREADS_MAX};
pub use error::ProxyError;
pub use event::{Detail, Event, EventKind, RuleName};
pub(crate) use handle::check_free;
pub use handle::{ENDED_LEASES_MAX, Handle, PROXIES_MAX};
pub use keeper::{WATCH_EVENTS_MAX, Watcher};
pub use loops::{Leg, Legs};
pub use patience::{Patience, PatienceUpdate};
pub(crate) use pipe::Size;
pub use reload::Replaced;
pub use resolver::Upstreams;
pub use stats::{Counters, RuleStats};
pub use times::{Recorder, TIMES_BYTES_MAX, Times};
pub use totals::{ProxyStats, Stats, WorkerStats};

/// One worker and what it is made of, to be run by hand on a simulated ring.
#[cfg(feature = "simulated")]
mod by_hand {
    pub use super::stats::{ProxySnapshot, WorkerSnapshot};
    pub use super::worker::{Opening, Worker, WorkerSettings};
}
#[cfg(feature = "simulated")]
pub use by_hand::*;
