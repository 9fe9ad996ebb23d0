//! A run in flight: what its nodes and proxies have said so far, and what follows from it. Pure: `now` is an
//! argument, messages to send are return values.

use std::sync::Arc;
use std::time::Duration;

use fracas_dataplane::clock::Instant;
use fracas_loadgen::measure::{
    Counts, Distribution, Environment, Failure, FaultWindow, Faults, Grade, Injected, Injections, Interval,
    NodeReport, RunFacts, Timeline, WorkerUse,
};
use fracas_loadgen::scenario::{OnNodeLoss, Plan};
use serde_json::json;

use crate::clock_map::Offset;
use crate::outwaited;
use crate::run::RunNode;
use crate::session::{Attempt, Delta, FaultOrder, Finished, WindowSeen};

/// How long after the planned end and the drain a node may still report before it is given up.
const FINISH_GRACE: Duration = Duration::from_secs(10);
/// How long a stopped node may take to say that it has finished.
const STOP_GRACE: Duration = Duration::from_secs(5);
/// How long the report waits for proxies to say that their faults have ended.
const WINDOW_GRACE: Duration = Duration::from_secs(2);
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

/// A fault of the plan.
#[derive(Clone, Debug)]
struct Fault {
    id: String,
    index: usize,
    /// The node that carries the proxy, and its clock.
    node: String,
    clock: Offset,
    accepted: bool,
    window: Option<WindowSeen>,
    /// When it was told of last, and how many failures of each kind since the time before.
    told_at: Instant,
    failures: Vec<(Instant, Instant, [u64; Failure::COUNT])>,
    lost: bool,
}

impl Fault {
    fn is_open(&self) -> bool {
        self.accepted && !self.lost && self.window.as_ref().is_none_or(|window| window.ended_at.is_none())
    }
}

/// A fault on the way of a run that it did not order.
#[derive(Clone, Debug)]
struct Foreign {
    node: String,
    clock: Offset,
    window: WindowSeen,
    told_at: Instant,
    failures: Vec<(Instant, Instant, [u64; Failure::COUNT])>,
}

/// Faults by hand that a run keeps; more would be a script gone wrong.
const BY_HAND_MAX: usize = 1_000;

impl Foreign {
    fn fault_window(&self, start_at: Instant, over_at: Instant) -> FaultWindow {
        let on_axis =
            |at: Instant| self.clock.to_controller(at).min(over_at).since(start_at).as_nanos() as u64;
        FaultWindow {
            proxy: self.window.proxy.clone(),
            behavior: self.window.behavior.clone(),
            start_ns: on_axis(self.window.started_at),
            end_ns: self.window.ended_at.map_or(over_at.since(start_at).as_nanos() as u64, on_axis),
            injected: Some(self.window.injected),
            ..FaultWindow::default()
        }
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

/// How a run goes, merged over its nodes.
#[derive(Clone, Debug, Default)]
pub struct Progress {
    /// Since the start.
    pub elapsed: Duration,
    /// Since the start.
    pub counts: Counts,
    /// Whole seconds that the nodes have told of.
    pub seconds: u32,
    /// The latest of them.
    pub second: Interval,
    /// Now.
    pub connections_open: u64,
    /// So far.
    pub verdict: Grade,
    /// Why it is not valid.
    pub reasons: Vec<String>,
    /// In force, as `PROXY BEHAVIOR`.
    pub faults: Vec<String>,
    /// Nodes that told of that second.
    pub nodes_reporting: u32,
    /// Nodes that carry the run.
    pub nodes: u32,
}

impl Progress {
    /// Bytes that it keeps, roughly.
    pub fn bytes(&self) -> usize {
        let series: usize = series_of(&self.second).iter().map(|series| series.encode().len()).sum();
        let texts: usize = self.reasons.iter().chain(&self.faults).map(String::len).sum();
        // The intervals keep good and bad replies apart, and what was the generator's own.
        size_of::<Progress>() + 2 * series + texts
    }
}

/// Everything that a report is made of.
#[derive(Clone, Debug)]
pub struct Findings {
    /// What is known beside the measurements.
    pub facts: RunFacts,
    /// What each node measured.
    pub nodes: Vec<NodeReport>,
    /// What the controller has against the figures, beside what loadgen finds.
    pub objections: Vec<String>,
    /// Lines of `events.jsonl`.
    pub events: Vec<String>,
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

    /// The order for fault `index` of the plan, to be sent to `node`; `None` before [`Execution::schedule`].
    pub fn order_fault(&mut self, index: usize, node: &str, clock: Offset) -> Option<FaultOrder> {
        let (start_at, planned) = (self.start_at?, self.plan.faults.get(index)?);
        let id = format!("{}-{index}", self.attempt.run);
        let fault = Fault {
            id: id.clone(),
            index,
            node: node.into(),
            clock,
            accepted: false,
            window: None,
            told_at: start_at,
            failures: Vec::new(),
            lost: false,
        };
        self.faults.push(fault);
        Some(FaultOrder {
            fault: id,
            attempt: self.attempt.clone(),
            proxy: planned.proxy.clone(),
            behavior: planned.behavior.clone(),
            options: planned.options.clone(),
            starts_at: clock.to_node(start_at + planned.at),
            duration: planned.over,
        })
    }

    /// Whether this is its attempt, and the node takes part in it, by its load or by a fault.
    pub fn has(&self, node: &str, attempt: &Attempt) -> bool {
        let takes_part =
            self.members.iter().any(|it| it.node == node) || self.faults.iter().any(|it| it.node == node);
        self.attempt == *attempt && takes_part
    }

    /// A proxy answered an order; the error is what to stop the run with. What another node says of it is not heard.
    ///
    /// # Errors
    /// When the proxy refused.
    pub fn on_fault_accepted(
        &mut self,
        node: &str,
        fault: &str,
        result: Result<(), String>,
    ) -> Result<(), String> {
        let ordered = |known: &Fault| known.id == fault && known.node == node;
        let Some(index) = self.faults.iter().position(ordered) else { return Ok(()) };
        let planned = &self.plan.faults[self.faults[index].index];
        result
            .map_err(|why| format!("the proxy `{}` refused `{}`: {why}", planned.proxy, planned.behavior))?;
        self.faults[index].accepted = true;
        Ok(())
    }

    /// A proxy told how a fault goes. What another node says of it is not heard.
    pub fn on_window(&mut self, node: &str, seen: WindowSeen, now: Instant) {
        let ordered = |known: &&mut Fault| known.id == seen.fault && known.node == node;
        let Some(fault) = self.faults.iter_mut().find(ordered) else { return };
        let planned = &self.plan.faults[fault.index];
        let began = fault.window.is_none();
        let ended = seen.ended_at.is_some() && fault.window.as_ref().is_none_or(|w| w.ended_at.is_none());
        let mut lines = Vec::new();
        if began {
            lines.push(json!({"event": "fault_began", "proxy": planned.proxy, "behavior": planned.behavior}));
        }
        if ended {
            lines.push(json!({
                "event": "fault_ended", "proxy": planned.proxy, "behavior": planned.behavior,
                "injected": seen.injected,
            }));
        }
        let (started, over) = (fault.clock.to_controller(seen.started_at), seen.ended_at);
        let over = over.map_or(now, |at| fault.clock.to_controller(at));
        let timeout = self.plan.response_timeout;
        let of = |window: &WindowSeen| {
            let mut failures = window.failures;
            failures[Failure::Silent as usize] += outwaited::told(planned, window, timeout);
            failures
        };
        let (before, all) = (fault.window.as_ref().map(of).unwrap_or_default(), of(&seen));
        let news = std::array::from_fn(|kind| all[kind].saturating_sub(before[kind]));
        fault.failures.push((fault.told_at.max(started), over.max(started), news));
        fault.told_at = over;
        fault.window = Some(seen);
        for line in lines {
            let at = if line["event"] == "fault_began" { started } else { over };
            self.event(at, line);
        }
    }

    /// A proxy told of a fault that nobody ordered. It is this run's if the load may go through that proxy, or if the
    /// run has faults of its own there.
    pub fn on_window_by_hand(&mut self, node: &str, clock: Offset, seen: &WindowSeen, now: Instant) {
        let Some(start_at) = self.start_at.filter(|_| !self.reported) else { return };
        let is_on_the_way = seen.listen.is_some_and(|listen| self.plan.target.may_lead_to(listen));
        if !is_on_the_way && self.plan.faults.iter().all(|fault| fault.proxy != seen.proxy) {
            return;
        }
        let over = seen.ended_at.map_or(now, |at| clock.to_controller(at));
        let known =
            self.by_hand.iter_mut().find(|fault| fault.node == node && fault.window.fault == seen.fault);
        let Some(fault) = known else {
            if over <= start_at || self.by_hand.len() >= BY_HAND_MAX {
                return;
            }
            let started = clock.to_controller(seen.started_at);
            // What it did before the start is nothing of this run.
            let first = if started < start_at { [0; Failure::COUNT] } else { seen.failures };
            self.by_hand.push(Foreign {
                node: node.to_owned(),
                clock,
                window: seen.clone(),
                told_at: over,
                failures: vec![(started.max(start_at), over, first)],
            });
            return;
        };
        let before = fault.window.failures;
        let news = std::array::from_fn(|kind| seen.failures[kind].saturating_sub(before[kind]));
        fault.failures.push((fault.told_at, over, news));
        fault.told_at = over;
        fault.window = seen.clone();
    }

    /// Takes a piece of results and returns the sequence to acknowledge; `None` from a node that does not
    /// carry the run. A repeat changes nothing.
    pub fn on_delta(&mut self, node: &str, delta: &Delta, now: Instant) -> Option<u64> {
        let elapsed = self.start_at.map_or(0, |start_at| now.since(start_at).as_secs());
        let member = self.member(node).filter(|member| !member.is_over())?;
        if delta.sequence == member.sequence + 1 {
            member.sequence = delta.sequence;
            member.timeline.merge(&delta.timeline);
            // A piece may end within a second; whole are those that were over when it came, if it reaches them.
            let newest = delta.timeline.intervals().last().map_or(0, |interval| interval.second + 1);
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

    /// Faults that may still act, with the node to revoke them at.
    pub fn open_faults(&self) -> Vec<(String, String)> {
        let open = self
            .faults
            .iter()
            .filter(|fault| !fault.lost && fault.window.as_ref().is_none_or(|w| w.ended_at.is_none()));
        open.map(|fault| (fault.node.clone(), fault.id.clone())).collect()
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

    /// Whether a fault was to begin before the load was over.
    fn began(&self, fault: &Fault, over_at: Instant) -> bool {
        fault.window.is_some()
            || self.start_at.is_some_and(|start| start + self.plan.faults[fault.index].at < over_at)
    }

    /// How it goes.
    pub fn progress(&self, now: Instant) -> Progress {
        let elapsed = now.since(self.start_at.unwrap_or(now));
        // Not further back than 3 s: a node that has nothing to tell must not freeze the display.
        let floor = u32::try_from(elapsed.as_secs()).unwrap_or(u32::MAX).saturating_sub(2);
        let told = self.members.iter().filter(|m| m.lost().is_none()).map(|m| m.told_seconds).min();
        self.progress_at(elapsed, told.unwrap_or(0).max(floor))
    }

    /// How it stood in the last second of its plan, or in the last whole one before it was stopped; `None` if it never began.
    pub fn last_progress(&self) -> Option<Progress> {
        let ran_for = self.over_at().since(self.start_at?);
        let seconds = match (self.stopped(), self.plan.duration()) {
            (Some(_), _) => ran_for.as_secs(),
            (None, Some(planned)) => planned.as_secs_f64().ceil() as u64,
            (None, None) => ran_for.as_secs_f64().ceil() as u64,
        };
        let progress = self.progress_at(ran_for, u32::try_from(seconds).unwrap_or(u32::MAX));
        // Who is through has told everything.
        let through = self.members.iter().filter(|member| member.finished.is_some()).count();
        Some(Progress { nodes_reporting: through as u32, ..progress })
    }

    /// When its load was over, by the controller's clock.
    fn over_at(&self) -> Instant {
        let ended_at = |member: &Member| {
            let finished = member.finished.as_ref()?;
            Some(member.clock.to_controller(finished.ended_at))
        };
        let ended = self.members.iter().filter_map(ended_at).max();
        ended.or(self.load_over_at).or(self.start_at).unwrap_or(Instant::ZERO)
    }

    fn progress_at(&self, elapsed: Duration, seconds: u32) -> Progress {
        let lost = self.members.iter().filter_map(|m| m.lost().map(|why| (m, why)));
        let reasons: Vec<String> = lost.map(|(m, why)| format!("node {} was lost: {why}", m.node)).collect();
        let verdict = match (reasons.is_empty() && self.objections.is_empty(), self.plan.on_node_loss) {
            (true, _) => Grade::Valid,
            (false, OnNodeLoss::Continue) if self.objections.is_empty() => Grade::Suspect,
            _ => Grade::Invalid,
        };
        let mut counts = Counts::default();
        self.members.iter().for_each(|member| counts.merge(&member.timeline.counts()));
        let mut second = Interval { second: seconds.saturating_sub(1), ..Interval::default() };
        let mut nodes_reporting = 0;
        for member in &self.members {
            nodes_reporting += u32::from(seconds > 0 && member.told_seconds >= seconds);
            if let Some(part) = member.timeline.intervals().find(|interval| interval.second == second.second)
            {
                second.merge(part);
            }
        }
        let in_force = |fault: &&Fault| {
            let planned = &self.plan.faults[fault.index];
            fault.accepted && elapsed >= planned.at && elapsed < planned.at + planned.over && fault.is_open()
        };
        let faults = self.faults.iter().filter(in_force).map(|fault| {
            let planned = &self.plan.faults[fault.index];
            format!("{} {}", planned.proxy, planned.behavior)
        });
        Progress {
            elapsed,
            counts,
            seconds,
            second,
            connections_open: self.members.iter().map(|member| member.connections_open).sum(),
            verdict,
            reasons: reasons.into_iter().chain(self.objections.iter().cloned()).collect(),
            faults: faults.collect(),
            nodes_reporting,
            nodes: self.members.len() as u32,
        }
    }

    /// The nodes' parts as they are now.
    pub fn run_nodes(&self) -> Vec<RunNode> {
        let part = |member: &Member| {
            let finished = member.finished.as_ref();
            RunNode {
                node: member.node.clone(),
                counts: member.timeline.counts(),
                verdict: finished.and_then(|finished| finished.verdict),
                reasons: finished.map(|finished| finished.reasons.clone()).unwrap_or_default(),
                clock: member.clock,
                cpu_ratio_max: member.cpu_ratio_max,
                lost: member.lost().cloned(),
            }
        };
        self.members.iter().map(part).collect()
    }

    /// Everything that the report is made of.
    pub fn findings(&self, started_at_unix_ms: u64, environment: Environment, reproduce: String) -> Findings {
        let start_at = self.start_at.unwrap_or(Instant::ZERO);
        let over_at = self.over_at();
        let faults = self.faults.iter().filter(|fault| fault.accepted && self.began(fault, over_at));
        let by_hand = self.by_hand.iter().map(|fault| fault.fault_window(start_at, over_at));
        let mut windows: Vec<FaultWindow> =
            faults.map(|fault| self.fault_window(fault, start_at, over_at)).chain(by_hand).collect();
        windows.sort_by_key(|window| window.start_ns);
        let facts = RunFacts {
            plan: self.plan.clone(),
            started_at_unix_ms,
            ran_for: over_at.since(start_at),
            ended_early: self.stopped().map(|stop| stop.reason().to_owned()),
            cut_after: self.stop.as_ref().map(|(_, at)| at.since(start_at)),
            faults: Faults { windows, injected: self.injected(start_at) },
            environment,
            reproduce,
        };
        let node = |member: &Member| NodeReport {
            name: member.node.clone(),
            timeline: member.timeline.clone(),
            workers: member.finished.as_ref().map(worker_uses).unwrap_or_default(),
            lost: member.lost().cloned(),
            clock_error: Some(member.clock.error),
            ..NodeReport::default()
        };
        let line = |(at, value): &(Instant, serde_json::Value)| {
            let mut value = value.clone();
            let ns = i128::from(at.as_nanos()) - i128::from(start_at.as_nanos());
            value["at_ns"] = json!(i64::try_from(ns).unwrap_or(i64::MAX));
            value.to_string()
        };
        Findings {
            facts,
            nodes: self.members.iter().map(node).collect(),
            objections: self.objections.clone(),
            events: self.events.iter().map(line).collect(),
        }
    }

    /// The failures that proxies told to have injected, if the load went through them.
    fn injected(&self, start_at: Instant) -> Injected {
        let ordered =
            self.faults.iter().filter_map(|fault| Some((&fault.failures, fault.window.as_ref()?.listen?)));
        let by_hand = self.by_hand.iter().filter_map(|fault| Some((&fault.failures, fault.window.listen?)));
        let all: Vec<_> = ordered.chain(by_hand).collect();
        let told = || all.iter();
        if told().next().is_none() {
            return Injected::NoneInForce;
        }
        let mut injections = Injections::told_by_the_second();
        let mut is_any_on_the_way = false;
        for (failures, _) in told().filter(|(_, listen)| self.plan.target.may_lead_to(*listen)) {
            is_any_on_the_way = true;
            for (from, to, counts) in *failures {
                let [from_ns, to_ns] = [from, to].map(|at| at.since(start_at).as_nanos() as u64);
                for kind in Failure::ALL {
                    injections.spread(kind, counts[kind as usize], from_ns, to_ns);
                }
            }
        }
        if is_any_on_the_way { Injected::Known(injections) } else { Injected::Behind }
    }

    /// As the proxy saw it, or as planned when it did not say.
    fn fault_window(&self, fault: &Fault, start_at: Instant, over_at: Instant) -> FaultWindow {
        let planned = &self.plan.faults[fault.index];
        let planned_end = (start_at + planned.at + planned.over).min(over_at.max(start_at + planned.at));
        let from = |at: Instant| fault.clock.to_controller(at).since(start_at).as_nanos() as u64;
        let window = fault.window.as_ref();
        let planned_at = planned.at.as_nanos() as u64;
        FaultWindow {
            proxy: planned.proxy.clone(),
            behavior: planned.behavior.clone(),
            start_ns: window.map_or(planned_at, |window| from(window.started_at)),
            end_ns: window
                .and_then(|window| window.ended_at)
                .map_or(planned_end.since(start_at).as_nanos() as u64, from),
            injected: window.map(|window| window.injected),
            seen: None,
            accuracy_p50_ns: None,
            accuracy_p99_ns: None,
            around: None,
        }
    }

    fn member(&mut self, node: &str) -> Option<&mut Member> {
        self.members.iter_mut().find(|member| member.node == node)
    }

    fn event(&mut self, at: Instant, value: serde_json::Value) {
        self.events.push((at, value));
    }
}

fn worker_uses(finished: &Finished) -> Vec<WorkerUse> {
    let uses = finished.workers.iter().map(|worker| WorkerUse {
        busy_ratio: worker.busy_ratio,
        cpu_ratio: worker.cpu_ratio,
        cq_overflows: worker.cq_overflows,
    });
    uses.collect()
}

/// Response, service and lag of one second.
pub fn series_of(interval: &Interval) -> [Distribution; 3] {
    [interval.response_all(), interval.service_all(), interval.lag.clone()]
}
