//! A run in flight: what its nodes and proxies have said so far, and what follows from it. Pure: `now` is an
//! argument, messages to send are return values.

mod faults;
mod findings;
mod progress;

pub use findings::Findings;
pub use progress::{Progress, series_of};

use std::sync::Arc;
use std::time::Duration;

use fracas_dataplane::clock::Instant;
use fracas_loadgen::measure::{COUNTED_MAX, Counts, Timeline};
use fracas_loadgen::scenario::Plan;
use serde_json::json;

use self::faults::{Fault, Foreign};
use crate::clock_map::Offset;
use crate::session::{Attempt, Delta, Finished};

/// How long after the planned end and the drain a node may still report before it is given up.
const FINISH_GRACE: Duration = Duration::from_secs(10);
/// How long a stopped node may take to say that it has finished.
const STOP_GRACE: Duration = Duration::from_secs(5);
/// How long the report waits for proxies to say that their faults have ended.
const WINDOW_GRACE: Duration = Duration::from_secs(2);
/// How far a node's clock may be ahead of what is known of it.
const CLOCK_SLACK: Duration = Duration::from_secs(2);
/// The least time between sending Start and the start itself.
const START_LEAD_MIN: Duration = Duration::from_millis(500);

/// Where a node is within its run.
#[derive(Clone, Debug, Default, PartialEq)]
enum Phase {
    #[default]
    Preparing,
    Ready,
    Finished,
    Lost(String),
}

/// A node's part.
#[derive(Clone, Debug, Default)]
struct Member {
    node: String,
    phase: Phase,
    clock: Offset,
    timeline: Timeline,
    /// All that the timeline counts, added up.
    counted: u64,
    sequence: u64,
    /// How many seconds it has told of from their beginning to their end.
    told_seconds: u32,
    connections_open: u64,
    cpu_ratio_max: f64,
    finished: Option<Finished>,
}

impl Member {
    fn is_over(&self) -> bool {
        matches!(self.phase, Phase::Finished | Phase::Lost(_))
    }

    fn lost(&self) -> Option<&String> {
        if let Phase::Lost(why) = &self.phase { Some(why) } else { None }
    }
}

/// Why a run was stopped before its plan was done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stop {
    /// Somebody wanted it.
    Cancelled(String),
    /// It cannot be carried out.
    Errored(String),
}

impl Stop {
    /// One line.
    pub fn reason(&self) -> &str {
        match self {
            Stop::Cancelled(reason) | Stop::Errored(reason) => reason,
        }
    }
}

/// A run in flight.
#[derive(Debug)]
pub struct Execution {
    attempt: Attempt,
    plan: Plan,
    plan_json: Arc<[u8]>,
    members: Vec<Member>,
    faults: Vec<Fault>,
    by_hand: Vec<Foreign>,
    ready_by: Instant,
    start_at: Option<Instant>,
    load_over_at: Option<Instant>,
    reported: bool,
    stop: Option<(Stop, Instant)>,
    objections: Vec<String>,
    events: Vec<(Instant, serde_json::Value)>,
}

impl Execution {
    /// Begins to prepare `plan` on `nodes`, which must be ready by `ready_by`.
    pub fn new(
        attempt: Attempt,
        plan: Plan,
        plan_json: Arc<[u8]>,
        nodes: Vec<String>,
        ready_by: Instant,
    ) -> Self {
        let members = nodes.into_iter().map(|node| Member { node, ..Member::default() }).collect();
        Execution {
            attempt,
            plan,
            plan_json,
            members,
            faults: Vec::new(),
            by_hand: Vec::new(),
            ready_by,
            start_at: None,
            load_over_at: None,
            reported: false,
            stop: None,
            objections: Vec::new(),
            events: Vec::new(),
        }
    }

    /// The run.
    pub fn attempt(&self) -> &Attempt {
        &self.attempt
    }

    /// What was asked for.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// What was asked for, as the nodes get it.
    pub fn plan_json(&self) -> Arc<[u8]> {
        self.plan_json.clone()
    }

    /// When the load begins; `None` until all nodes are ready.
    pub fn start_at(&self) -> Option<Instant> {
        self.start_at
    }

    /// Whether its load and its faults are to go on.
    pub fn is_under_way(&self) -> bool {
        self.start_at.is_some() && self.load_over_at.is_none() && self.stop.is_none()
    }

    /// Nodes that still carry it.
    pub fn live_nodes(&self) -> Vec<String> {
        self.members.iter().filter(|member| !member.is_over()).map(|member| member.node.clone()).collect()
    }

    /// All its nodes, by shard.
    pub fn nodes(&self) -> Vec<String> {
        self.members.iter().map(|member| member.node.clone()).collect()
    }

    /// A node is ready; true when all are.
    pub fn on_ready(&mut self, node: &str) -> bool {
        if let Some(member) = self.member(node).filter(|member| member.phase == Phase::Preparing) {
            member.phase = Phase::Ready;
        }
        self.start_at.is_none() && self.members.iter().all(|member| member.phase == Phase::Ready)
    }

    /// The nodes that were not ready in time.
    pub fn unready_at(&self, now: Instant) -> Vec<String> {
        if self.start_at.is_some() || now < self.ready_by {
            return Vec::new();
        }
        let late = self.members.iter().filter(|member| member.phase == Phase::Preparing);
        late.map(|member| member.node.clone()).collect()
    }

    /// Fixes the start so that every node hears of it before. `clocks` are those
    /// of the nodes, by shard.
    pub fn schedule(&mut self, now: Instant, clocks: &[Offset], round_trip_max: Duration) -> Instant {
        let start_at = now + START_LEAD_MIN.max(round_trip_max * 4);
        self.start_at = Some(start_at);
        for (member, clock) in self.members.iter_mut().zip(clocks) {
            member.clock = *clock;
        }
        self.event(now, json!({"event": "ready", "nodes": self.nodes()}));
        start_at
    }

    /// Whether this is its attempt, and the node takes part in it, by its load or by a fault.
    pub fn has(&self, node: &str, attempt: &Attempt) -> bool {
        let takes_part =
            self.members.iter().any(|it| it.node == node) || self.faults.iter().any(|it| it.node == node);
        self.attempt == *attempt && takes_part
    }

    /// What is wrong with a piece of a node's results, for which it is out of the run: seconds that cannot have begun by
    /// `now`, or counts with which no sum would be right. `None` for what can be taken in.
    pub fn objection_to(&self, node: &str, delta: &Delta, now: Instant) -> Option<&'static str> {
        let newest = delta.timeline.intervals().last().map_or(0, |interval| interval.second);
        let elapsed = self.start_at.map_or(Duration::ZERO, |start_at| now.since(start_at));
        if u64::from(newest) > (elapsed + CLOCK_SLACK).as_secs() {
            return Some("it told of seconds that have not come");
        }
        let member = self.members.iter().find(|member| member.node == node)?;
        let all = member.counted.saturating_add(delta.timeline.counted());
        (all > COUNTED_MAX).then_some("it told of more requests than any run has")
    }

    /// Takes a piece of results and returns the sequence to acknowledge; `None` from a node that does not
    /// carry the run. A repeat changes nothing.
    pub fn on_delta(&mut self, node: &str, delta: &Delta, now: Instant) -> Option<u64> {
        let elapsed = self.start_at.map_or(0, |start_at| now.since(start_at).as_secs());
        let member = self.member(node).filter(|member| !member.is_over())?;
        if delta.sequence == member.sequence + 1 {
            member.sequence = delta.sequence;
            member.counted = member.counted.saturating_add(delta.timeline.counted());
            member.timeline.merge(&delta.timeline);
            // A piece may end within a second; whole are those that were over when it came, if it reaches them.
            let newest =
                delta.timeline.intervals().last().map_or(0, |interval| interval.second.saturating_add(1));
            let whole = newest.min(u32::try_from(elapsed).unwrap_or(u32::MAX));
            member.told_seconds = member.told_seconds.max(whole);
            member.connections_open = delta.connections_open;
            member.cpu_ratio_max = member.cpu_ratio_max.max(delta.cpu_ratio_max);
        }
        Some(member.sequence)
    }

    /// A node is through.
    pub fn on_finished(&mut self, node: &str, mut finished: Finished, now: Instant) {
        let was_asked = self.stop.is_some();
        let Some(member) = self.member(node).filter(|member| !member.is_over()) else { return };
        member.phase = Phase::Finished;
        // It cannot have ended later than it says so: the run's length follows from it.
        finished.ended_at = finished.ended_at.min(member.clock.to_node(now));
        member.connections_open = 0;
        let mut objections = Vec::new();
        if finished.last_sequence != member.sequence {
            let (from, to) = (member.sequence + 1, finished.last_sequence);
            objections.push(format!("node {node}: pieces {from} to {to} of its results are missing"));
        } else if finished.counts != (Counts { unsent: 0, ..member.timeline.counts() }) {
            objections.push(format!("node {node}: its books differ from what it sent; report this as a bug"));
        }
        if finished.cancelled && !was_asked {
            let why = finished.reasons.first().map_or("it did not say why", String::as_str);
            objections.push(format!("node {node} stopped before its plan was done: {why}"));
        }
        if !finished.error.is_empty() {
            objections.push(format!("node {node}: {}", finished.error));
        }
        let line = json!({"event": "node_finished", "node": node, "cancelled": finished.cancelled});
        member.finished = Some(finished);
        self.objections.extend(objections);
        self.event(now, line);
    }

    /// A node is gone while the run needs it; `why` names what happened.
    pub fn on_lost(&mut self, node: &str, why: &str, now: Instant) {
        let start_at = self.start_at;
        if let Some(member) = self.member(node).filter(|member| !member.is_over()) {
            let told = member.told_seconds;
            let gap = match start_at {
                Some(start_at) if now > start_at => format!(
                    "{why} {:.1} s into the run; its figures from {told} s on are missing",
                    now.since(start_at).as_secs_f64()
                ),
                _ => format!("{why} before the start"),
            };
            member.connections_open = 0;
            let line = json!({"event": "node_lost", "node": node, "reason": gap});
            member.phase = Phase::Lost(gap);
            self.event(now, line);
        }
        let mut lost = Vec::new();
        for fault in self.faults.iter_mut().filter(|fault| fault.node == node && fault.is_open()) {
            fault.lost = true;
            lost.push(self.plan.faults[fault.index].proxy.clone());
        }
        for proxy in lost {
            self.objections
                .push(format!("the proxy `{proxy}` was lost ({why}): how its faults went is unknown"));
            self.event(now, json!({"event": "proxy_lost", "proxy": proxy, "node": node}));
        }
    }

    /// Whether a node carries the run and its part is not over.
    pub fn carries(&self, node: &str) -> bool {
        self.members.iter().any(|member| member.node == node && !member.is_over())
    }

    /// The last sequence that is kept of a node's.
    pub fn sequence(&self, node: &str) -> Option<u64> {
        self.members.iter().find(|member| member.node == node).map(|member| member.sequence)
    }

    /// Stops the run; the first reason stays.
    pub fn stop(&mut self, stop: Stop, now: Instant) {
        if self.stop.is_none() {
            self.event(now, json!({"event": "stopped", "reason": stop.reason()}));
            self.stop = Some((stop, now));
        }
    }

    /// Why it was stopped.
    pub fn stopped(&self) -> Option<&Stop> {
        self.stop.as_ref().map(|(stop, _)| stop)
    }

    /// Nodes that should have finished by `now` and did not.
    pub fn overdue_at(&self, now: Instant) -> Vec<String> {
        let planned = self
            .start_at
            .zip(self.plan.duration())
            .map(|(start_at, duration)| start_at + duration + self.plan.drain + FINISH_GRACE);
        let stopped = self.stop.as_ref().map(|(_, at)| *at + STOP_GRACE);
        let due = planned.into_iter().chain(stopped).min();
        if due.is_some_and(|due| now >= due) { self.live_nodes() } else { Vec::new() }
    }

    /// Marks the load as over once every node is through or gone; true when that is news.
    pub fn note_load_over(&mut self, now: Instant) -> bool {
        let over = self.load_over_at.is_none() && self.members.iter().all(Member::is_over);
        if over {
            self.load_over_at = Some(now);
            self.event(now, json!({"event": "load_over"}));
        }
        over
    }

    /// Whether the report can be written: the load is over and every fault that began has ended, or enough time
    /// has passed for saying so.
    pub fn is_complete(&self, now: Instant) -> bool {
        let Some(over_at) = self.load_over_at else { return false };
        let began = |fault: &&Fault| self.began(fault, over_at);
        now >= over_at + WINDOW_GRACE || !self.faults.iter().filter(began).any(Fault::is_open)
    }

    /// Whether the report has been asked for.
    pub fn is_reported(&self) -> bool {
        self.reported
    }

    /// The report has been asked for; it is asked for once.
    pub fn note_reported(&mut self) {
        self.reported = true;
    }

    fn member(&mut self, node: &str) -> Option<&mut Member> {
        self.members.iter_mut().find(|member| member.node == node)
    }

    fn event(&mut self, at: Instant, value: serde_json::Value) {
        self.events.push((at, value));
    }
}
