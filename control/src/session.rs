//! What the controller and a node say to each other, in our own words; `grpc/` and `agent/` turn them into
//! `fracas.v1` and back. Instants name whose clock they are of.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use fracas_dataplane::clock::Instant;
use fracas_loadgen::measure::{Counts, Failure, Grade, Timeline};

use crate::clock_map::Exchange;

/// More often than this, heartbeats would be a load of their own.
const HEARTBEAT_MIN: Duration = Duration::from_millis(10);
/// Between heartbeats, and between intervals.
const PAUSE_MAX: Duration = Duration::from_secs(60);
/// Less than this is no silence.
const LOST_AFTER_MIN: Duration = Duration::from_millis(100);
/// The longest that a node goes on without its controller, whatever that one has said; as much as its flags allow.
const ALONE_MAX: Duration = Duration::from_secs(24 * 3_600);

/// How patient both sides are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timings {
    /// Say something at least this often.
    pub heartbeat: Duration,
    /// The controller gives a silent node up after this.
    pub lost_after: Duration,
    /// A node stops its load and its faults after this long without its controller.
    pub orphan_timeout: Duration,
    /// Time between intervals.
    pub interval: Duration,
}

impl Timings {
    /// With these two limits, and heartbeats often enough that a live peer never reaches one.
    pub fn with_limits(lost_after: Duration, orphan_timeout: Duration) -> Timings {
        let default = Timings::default();
        let heartbeat = default.heartbeat.min(lost_after / 4).min(orphan_timeout / 4);
        Timings { heartbeat: heartbeat.max(HEARTBEAT_MIN), lost_after, orphan_timeout, ..default }
    }

    /// As a node keeps them, whatever its controller says.
    pub fn within_limits(self) -> Timings {
        Timings {
            heartbeat: self.heartbeat.clamp(HEARTBEAT_MIN, PAUSE_MAX),
            lost_after: self.lost_after.clamp(LOST_AFTER_MIN, ALONE_MAX),
            orphan_timeout: self.orphan_timeout.min(ALONE_MAX),
            interval: self.interval.clamp(HEARTBEAT_MIN, PAUSE_MAX),
        }
    }
}

impl Default for Timings {
    fn default() -> Timings {
        Timings {
            heartbeat: Duration::from_secs(1),
            lost_after: Duration::from_secs(10),
            orphan_timeout: Duration::from_secs(30),
            interval: Duration::from_secs(1),
        }
    }
}

/// A run on a node: an attempt is started at most once.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Attempt {
    /// Id of the run.
    pub run: String,
    /// From 1.
    pub number: u32,
}

/// What the controller says.
#[derive(Clone, Debug)]
pub enum ToNode {
    /// First message.
    Welcome {
        /// Names the session in logs.
        session: u64,
        /// Version of the controller.
        version: String,
        /// How patient both sides are.
        timings: Timings,
        /// Of the runs that the node has named, those that the controller still has under way.
        runs: Vec<Attempt>,
    },
    /// Nothing to say.
    Heartbeat,
    /// Asks for the node's clock; stamped when it leaves.
    ClockPing {
        /// Tells pings apart.
        id: u64,
    },
    /// Get ready for a run.
    Prepare {
        /// The run.
        attempt: Attempt,
        /// The whole plan in loadgen's form.
        plan_json: Arc<[u8]>,
        /// Of this node, from 0.
        shard_index: u32,
        /// How many there are.
        shard_count: u32,
        /// Of the run.
        seed: u64,
        /// The controller waits this long for the answer.
        ready_within: Duration,
    },
    /// Begin.
    Start {
        /// The run.
        attempt: Attempt,
        /// Node's clock.
        start_at: Instant,
        /// How wrong that may be.
        clock_error: Duration,
    },
    /// Stop a run.
    Cancel {
        /// The run.
        attempt: Attempt,
        /// One line.
        reason: String,
    },
    /// Every interval up to this one is kept.
    IntervalAck {
        /// The run.
        attempt: Attempt,
        /// The last without a gap before it.
        sequence: u64,
    },
    /// Put rules on a proxy.
    ApplyFault(FaultOrder),
    /// End a fault before its time.
    RevokeFault {
        /// Which.
        fault: String,
    },
    /// Something went wrong at the controller.
    Error {
        /// One line.
        message: String,
    },
}

/// A fault for a proxy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FaultOrder {
    /// Unique among the controller's.
    pub fault: String,
    /// The run that asks, and that the fault dies with.
    pub attempt: Attempt,
    /// Name of the proxy.
    pub proxy: String,
    /// The mix, as in `20:delay`.
    pub behavior: String,
    /// Behavior → option → value.
    pub options: BTreeMap<String, BTreeMap<String, String>>,
    /// Node's clock.
    pub starts_at: Instant,
    /// How long it acts.
    pub duration: Duration,
}

/// What a node says after its hello.
#[derive(Clone, Debug)]
pub enum FromNode {
    /// Nothing to say.
    Heartbeat,
    /// Answer to a ping, with all four timestamps.
    Pong(Exchange),
    /// Names of its proxies.
    Proxies(Vec<String>),
    /// Answer to Prepare.
    Ready {
        /// The run.
        attempt: Attempt,
        /// Why it cannot, one line.
        result: Result<(), String>,
    },
    /// A piece of results.
    Delta(Delta),
    /// The run is over on this node.
    Finished(Box<Finished>),
    /// Answer to ApplyFault.
    FaultAccepted {
        /// Which.
        fault: String,
        /// Why it is not, one line.
        result: Result<(), String>,
    },
    /// How a fault goes.
    FaultWindow(WindowSeen),
    /// Something went wrong on the node.
    Error {
        /// The run that it is about, if any.
        attempt: Option<Attempt>,
        /// One line.
        message: String,
    },
}

/// A piece of results; lossless to merge.
#[derive(Clone, Debug)]
pub struct Delta {
    /// The run.
    pub attempt: Attempt,
    /// From 1, without gaps; a repeat is ignored.
    pub sequence: u64,
    /// What happened.
    pub timeline: Timeline,
    /// Connections open at its end.
    pub connections_open: u64,
    /// Busiest worker's share of one CPU, 0 to 1.
    pub cpu_ratio_max: f64,
}

/// The end of a run on a node.
#[derive(Clone, Debug, Default)]
pub struct Finished {
    /// The run.
    pub attempt: Attempt,
    /// Sequence of its last delta.
    pub last_sequence: u64,
    /// From the node's own books, without warm-up.
    pub counts: Counts,
    /// What it thinks of its own figures.
    pub verdict: Option<Grade>,
    /// Why, one line each.
    pub reasons: Vec<String>,
    /// Node's clock: the first arrival was due.
    pub started_at: Instant,
    /// Node's clock: the last reply came or was given up.
    pub ended_at: Instant,
    /// Its worker threads.
    pub workers: Vec<WorkerUsage>,
    /// Stopped before the end of the plan.
    pub cancelled: bool,
    /// Why it broke off on this node, one line; empty if it did not.
    pub error: String,
}

/// What a worker thread needed.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct WorkerUsage {
    /// Share of the run it did anything but sleep or spin.
    pub busy_ratio: f64,
    /// CPU time over wall time.
    pub cpu_ratio: f64,
    /// Completions that did not fit the queue.
    pub cq_overflows: u64,
}

/// A fault's window as its proxy sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WindowSeen {
    /// Which fault.
    pub fault: String,
    /// Node's clock: its rules began to act.
    pub started_at: Instant,
    /// Node's clock: they ceased to; `None` while in force.
    pub ended_at: Option<Instant>,
    /// Units of traffic that it acted on so far.
    pub injected: u64,
    /// Of these, failures that a client must see, by [`Failure`].
    pub failures: [u64; Failure::COUNT],
    /// Where the proxy listens, if it said.
    pub listen: Option<SocketAddr>,
    /// Which proxy, of a fault that no run has ordered; else empty.
    pub proxy: String,
    /// The mix, of a fault that no run has ordered; else empty.
    pub behavior: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heartbeats_come_often_enough_for_the_shorter_limit() {
        let heartbeat = |lost_ms, orphan_ms| {
            Timings::with_limits(Duration::from_millis(lost_ms), Duration::from_millis(orphan_ms)).heartbeat
        };
        assert_eq!(heartbeat(10_000, 30_000), Duration::from_secs(1));
        assert_eq!(heartbeat(10_000, 500), Duration::from_millis(125));
        assert_eq!(heartbeat(1_000, 30_000), Duration::from_millis(250));
        assert_eq!(heartbeat(0, 0), HEARTBEAT_MIN);
    }

    #[test]
    fn a_node_keeps_times_within_limits() {
        let all = |time| Timings { heartbeat: time, lost_after: time, orphan_timeout: time, interval: time };
        let default = Timings::default();
        assert_eq!(default.within_limits(), default);
        let longest = Timings { heartbeat: PAUSE_MAX, interval: PAUSE_MAX, ..all(ALONE_MAX) };
        assert_eq!(all(Duration::MAX).within_limits(), longest);
        let shortest =
            Timings { lost_after: LOST_AFTER_MIN, orphan_timeout: Duration::ZERO, ..all(HEARTBEAT_MIN) };
        assert_eq!(all(Duration::ZERO).within_limits(), shortest);
    }
}
