//! The controller as a state machine: calls and messages in, effects out. No I/O, no clock of its own.
//!
//! ```text
//! submit ─▶ RunQueue ─▶ Execution ─▶ Effect::WriteReport ─▶ report_written ─▶ final state
//!              ▲           ▲  │
//!        NodeRegistry ◀── on_message, left, tick     Effect::Send to nodes and proxies
//! ```

mod nodes;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use fracas_dataplane::clock::Instant;
use fracas_dataplane::nearest::nearest;
use fracas_loadgen::measure::{Environment, Grade};
use fracas_loadgen::scenario::Plan;

use crate::clock_map::Offset;
use crate::execution::{Execution, Findings, Progress, Stop};
use crate::node_registry::{Node, NodeIdentity, NodeRegistry, Role, UnknownNode, shown};
use crate::run::{Run, RunResult, RunState};
use crate::run_queue::{Available, QueueFull, RunQueue, Waiting};
use crate::session::{Attempt, Timings, ToNode};
use crate::store::{RunFilter, Store};
use crate::wire::server::MESSAGE_BYTES_MAX;

/// How long nodes may take to get ready, beside opening their connections.
const READY_WITHIN: Duration = Duration::from_secs(10);
/// Time between pings after that.
const PING_EVERY: Duration = Duration::from_secs(5);

/// What a controller is told once.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Of fracas.
    pub version: String,
    /// Of the machine it runs on.
    pub boot_id: String,
    /// How patient it is.
    pub timings: Timings,
    /// How long a run may wait for nodes or proxies that nobody has.
    pub queue_timeout: Duration,
    /// Where reports go, each in a directory named after its run.
    pub out: PathBuf,
    /// An instant, and the Unix time in milliseconds that it was.
    pub wall: (Instant, u64),
}

/// What somebody wants to run.
#[derive(Clone, Debug)]
pub struct Submission {
    /// Validated.
    pub plan: Plan,
    /// What to call the file in messages.
    pub file_name: String,
    /// As written.
    pub file_text: String,
    /// Free.
    pub labels: BTreeMap<String, String>,
    /// Makes a retry safe; may be empty.
    pub request_id: String,
    /// How long it may wait for its start; `None` = as long as somebody could carry it out.
    pub start_within: Option<Duration>,
}

/// Why a run is not queued.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SubmitError {
    /// Too much waits.
    #[error(transparent)]
    Full(#[from] QueueFull),
    /// No message to a node could carry its plan.
    #[error("the plan takes {bytes} bytes as a message to a node, which may have {most}; make it shorter")]
    PlanTooLong {
        /// As JSON.
        bytes: usize,
        /// What fits.
        most: usize,
    },
    /// It could never start.
    #[error(
        "the run has a fault for the proxy `{proxy}`, which nobody has joined with{}; {known}; \
         `fracas proxy --join` says when it has joined", hint(.nearest)
    )]
    NoSuchProxy {
        /// As the run file has it.
        proxy: String,
        /// The name that is most like it.
        nearest: Option<String>,
        /// Which proxies have joined, in words.
        known: String,
    },
}

/// Bytes of a plan as JSON: with what stands beside it, it is one message to a node.
const PLAN_BYTES_MAX: usize = MESSAGE_BYTES_MAX - 64 * 1024;

/// Names of proxies that a refusal tells.
const KNOWN_TOLD_MAX: usize = 5;

/// What is known of proxies, in words.
fn known_in_words(names: &BTreeSet<&str>) -> String {
    if names.is_empty() {
        return "no proxy has joined so far".to_owned();
    }
    let mut told: Vec<String> = names.iter().take(KNOWN_TOLD_MAX).map(|name| format!("`{name}`")).collect();
    if names.len() > KNOWN_TOLD_MAX {
        told.push(format!("{} more", names.len() - KNOWN_TOLD_MAX));
    }
    format!("joined so far: {}", told.join(", "))
}

fn hint(nearest: &Option<String>) -> String {
    nearest.as_ref().map_or_else(String::new, |name| format!(", did you mean `{name}`"))
}

/// What the outside must do.
#[derive(Debug)]
pub enum Effect {
    /// Send a message in a session; to be dropped if that session is over.
    Send {
        /// Name of the node.
        node: String,
        /// Number of the session.
        session: u64,
        /// What.
        message: ToNode,
    },
    /// End a session: another one has taken its place.
    EndSession {
        /// Number of the session.
        session: u64,
    },
    /// Write a report and call [`Controller::report_written`].
    WriteReport {
        /// Id of the run.
        run: String,
        /// Where to.
        directory: PathBuf,
        /// Of what.
        findings: Box<Findings>,
    },
}

/// Why a call about a run failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RunError {
    /// There is none.
    #[error("there is no run `{}`; `fracas run list` shows the ids", shown(.0))]
    NotFound(String),
    /// It is over.
    #[error("run {0} has ended already")]
    Ended(String),
}

/// What was answered to a node that wants to join.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Session(pub u64);

/// The controller.
pub struct Controller {
    settings: Settings,
    store: Box<dyn Store>,
    queue: RunQueue,
    registry: NodeRegistry,
    executions: BTreeMap<String, Execution>,
    /// Per node: session and number of its latest ping, and when it was sent.
    pings: BTreeMap<String, (u64, u64, Instant)>,
    effects: Vec<Effect>,
    last_id_ms: u64,
}

impl Controller {
    /// Knows no runs and no nodes, except what the store remembers.
    pub fn new(settings: Settings, store: Box<dyn Store>) -> Controller {
        let registry = NodeRegistry::new(&settings.version, &settings.boot_id, settings.timings.lost_after);
        Controller {
            settings,
            store,
            queue: RunQueue::default(),
            registry,
            executions: BTreeMap::new(),
            pings: BTreeMap::new(),
            effects: Vec::new(),
            last_id_ms: 0,
        }
    }

    /// What the outside must do by now, in order.
    pub fn take_effects(&mut self) -> Vec<Effect> {
        std::mem::take(&mut self.effects)
    }

    /// How patient it is.
    pub fn timings(&self) -> Timings {
        self.settings.timings
    }

    /// Unix time in milliseconds of an instant.
    pub fn unix_ms(&self, at: Instant) -> u64 {
        let (instant, unix_ms) = self.settings.wall;
        let after = at.since(instant).as_millis() as u64;
        let before = instant.since(at).as_millis() as u64;
        (unix_ms + after).saturating_sub(before)
    }

    /// Queues a run; a repeated `request_id` gives the run of the first call.
    ///
    /// # Errors
    /// When too many wait, or nobody has ever had a proxy that it needs.
    pub fn submit(&mut self, submission: Submission, now: Instant) -> Result<Run, SubmitError> {
        if let Some(run) = self.store.run_of_request(&submission.request_id) {
            return Ok(run);
        }
        let Submission { plan, file_name, file_text, labels, request_id, start_within } = submission;
        let proxies: BTreeSet<String> = plan.faults.iter().map(|fault| fault.proxy.clone()).collect();
        self.check_known(&proxies)?;
        let plan_json: Arc<[u8]> = serde_json::to_vec(&plan).unwrap_or_default().into();
        if plan_json.len() > PLAN_BYTES_MAX {
            return Err(SubmitError::PlanTooLong { bytes: plan_json.len(), most: PLAN_BYTES_MAX });
        }
        let unix_ms = self.unix_ms(now);
        self.last_id_ms = unix_ms.max(self.last_id_ms + 1);
        let id = run_id(self.last_id_ms);
        self.queue.push(Waiting {
            run: id.clone(),
            nodes: plan.nodes as usize,
            proxies: proxies.into_iter().collect(),
            bytes: file_text.len() + plan_json.len(),
            start_by: start_within.map(|time| now + time),
            unmet_since: None,
        })?;
        let run = Run {
            id: id.clone(),
            name: plan.name.clone(),
            state: RunState::Queued,
            verdict: None,
            reasons: Vec::new(),
            error: String::new(),
            reason: String::new(),
            counts: Default::default(),
            result: None,
            nodes: Vec::new(),
            file_name,
            file_text: file_text.into(),
            seed: plan.seed,
            planned_duration: plan.duration(),
            submitted_unix_ms: unix_ms,
            started_unix_ms: None,
            ended_unix_ms: None,
            last: None,
            report_path: None,
            labels,
        };
        self.store.insert(run, &request_id);
        // The plan waits in an execution without nodes until the queue gives it some.
        let attempt = Attempt { run: id.clone(), number: 1 };
        self.executions.insert(id.clone(), Execution::new(attempt, plan, plan_json, Vec::new(), now));
        self.serve_queue(now);
        Ok(self.store.run(&id).expect("inserted above, and only ended runs are forgotten"))
    }

    /// Whether each of these proxies has joined at some time: what is mistyped never will.
    fn check_known(&self, proxies: &BTreeSet<String>) -> Result<(), SubmitError> {
        let known: BTreeSet<&str> =
            self.registry.nodes().flat_map(|node| &node.proxies).map(String::as_str).collect();
        match proxies.iter().find(|proxy| !known.contains(proxy.as_str())) {
            None => Ok(()),
            Some(proxy) => Err(SubmitError::NoSuchProxy {
                proxy: proxy.clone(),
                nearest: nearest(proxy, known.iter().copied()).map(str::to_owned),
                known: known_in_words(&known),
            }),
        }
    }

    /// Ends a run.
    ///
    /// # Errors
    /// When there is none of that id, or it has ended.
    pub fn cancel(&mut self, id: &str, reason: &str, now: Instant) -> Result<Run, RunError> {
        let run = self.run(id)?;
        if run.state.is_final() {
            return Err(RunError::Ended(id.to_owned()));
        }
        let reason = if reason.is_empty() { "cancelled" } else { reason };
        self.stop(id, Stop::Cancelled(reason.to_owned()), now);
        self.serve_queue(now);
        self.run(id)
    }

    /// One run.
    ///
    /// # Errors
    /// When there is none of that id.
    pub fn run(&self, id: &str) -> Result<Run, RunError> {
        self.store.run(id).ok_or_else(|| RunError::NotFound(id.to_owned()))
    }

    /// At most `limit` runs, newest first.
    pub fn runs(&self, filter: &RunFilter, limit: usize) -> Vec<Run> {
        self.store.runs(filter, limit)
    }

    /// A run's place in the queue, from 1.
    pub fn queue_position(&self, id: &str) -> Option<usize> {
        self.queue.position(id)
    }

    /// How a run goes; `None` unless its load is on.
    pub fn progress(&self, id: &str, now: Instant) -> Option<Progress> {
        let execution = self.executions.get(id)?;
        execution.start_at().filter(|start_at| now >= *start_at)?;
        Some(execution.progress(now))
    }

    /// All nodes, by name.
    pub fn nodes(&self) -> impl Iterator<Item = &Node> {
        self.registry.nodes()
    }

    /// Gives a node no new run, or runs again.
    ///
    /// # Errors
    /// When nobody joined under that name.
    pub fn set_drained(&mut self, name: &str, drained: bool, now: Instant) -> Result<Node, UnknownNode> {
        let node = self.registry.set_drained(name, drained)?.clone();
        self.serve_queue(now);
        Ok(node)
    }

    /// Time has passed; to be called a few times a second.
    pub fn tick(&mut self, now: Instant) {
        for name in self.registry.give_up(now) {
            let seconds = self.settings.timings.lost_after.as_secs_f64();
            self.lose(&name, &format!("not heard for {seconds} s, given up"), now);
        }
        let due: Vec<(String, u64)> = self
            .pings
            .iter()
            .filter(|(_, (_, _, sent))| now.since(*sent) >= PING_EVERY)
            .map(|(name, (_, number, _))| (name.clone(), number + 1))
            .collect();
        for (name, number) in due {
            self.ping(&name, number, now);
        }
        for id in self.executions.keys().cloned().collect::<Vec<_>>() {
            self.watch_over(&id, now);
            self.move_on(&id, now);
        }
        self.serve_queue(now);
        let available = self.available(now);
        for (id, reason) in self.queue.expired(&available, now, self.settings.queue_timeout) {
            self.stop(&id, Stop::Errored(reason), now);
        }
    }

    /// A report was written, or could not be.
    pub fn report_written(&mut self, id: &str, result: Result<RunResult, String>, now: Instant) {
        let Some(execution) = self.executions.remove(id) else { return };
        let ended_unix_ms = self.unix_ms(now);
        let directory = self.settings.out.join(id);
        let stopped = execution.stopped().cloned();
        let nodes = execution.run_nodes();
        let last = execution.last_progress().map(Arc::new);
        self.change(id, |run| {
            (run.nodes, run.last) = (nodes, last);
            run.ended_unix_ms = Some(ended_unix_ms);
            let to = match (result, stopped) {
                (Err(why), _) => {
                    run.reason.clone_from(&why);
                    run.error = why;
                    RunState::Errored
                }
                (Ok(result), stopped) => {
                    let summary = &result.summary;
                    let kept = summary.slo.iter().all(|slo| slo.passed);
                    (run.verdict, run.reasons) = (Some(summary.verdict), summary.reasons.clone());
                    (run.counts, run.report_path) = (summary.counts, Some(directory));
                    let missed = summary.slo.iter().find(|slo| !slo.passed);
                    run.reason = match (summary.verdict, missed) {
                        (Grade::Invalid, _) | (_, None) => run.reasons.first().cloned().unwrap_or_default(),
                        (_, Some(slo)) => format!("SLO missed: {} is {}", slo.slo, slo.actual),
                    };
                    let by_figures = match (summary.verdict, kept) {
                        (Grade::Invalid, _) => RunState::Invalid,
                        (_, false) => RunState::Failed,
                        (_, true) => RunState::Passed,
                    };
                    run.result = Some(Arc::new(result));
                    match stopped {
                        None => by_figures,
                        Some(stop) => {
                            run.error = stop.reason().to_owned();
                            run.reason = stop.reason().to_owned();
                            match stop {
                                Stop::Cancelled(_) => RunState::Cancelled,
                                Stop::Errored(_) => RunState::Errored,
                            }
                        }
                    }
                }
            };
            advance(run, to);
        });
        self.serve_queue(now);
    }

    fn serve_queue(&mut self, now: Instant) {
        loop {
            let available = self.available(now);
            let Some(allocation) = self.queue.pop(&available) else {
                for (id, reason) in self.queue.reasons(&available) {
                    if self.store.run(&id).is_some_and(|run| run.reason != reason) {
                        self.change(&id, |run| run.reason = reason);
                    }
                }
                return;
            };
            let id = allocation.run;
            let Some(waiting) = self.executions.remove(&id) else { continue };
            let (attempt, plan, plan_json) =
                (waiting.attempt().clone(), waiting.plan().clone(), waiting.plan_json());
            let nodes = allocation.nodes;
            let ready_within = ready_within(&plan);
            let execution =
                Execution::new(attempt.clone(), plan, plan_json.clone(), nodes.clone(), now + ready_within);
            let (run_nodes, seed) = (execution.run_nodes(), execution.plan().seed);
            self.executions.insert(id.clone(), execution);
            self.change(&id, |run| {
                run.reason.clear();
                run.nodes = run_nodes;
                advance(run, RunState::Preparing);
            });
            for (index, node) in nodes.iter().enumerate() {
                if let Some(node) = self.registry.node_mut(node) {
                    node.run = Some(id.clone());
                }
                self.send(
                    node,
                    ToNode::Prepare {
                        attempt: attempt.clone(),
                        plan_json: plan_json.clone(),
                        shard_index: index as u32,
                        shard_count: nodes.len() as u32,
                        seed,
                        ready_within,
                    },
                );
            }
        }
    }

    fn available(&self, now: Instant) -> Available {
        let nodes = self.registry.free_agents(now);
        let connected =
            || self.registry.nodes().filter(|node| node.role == Role::Agent && node.session.is_some());
        let drained_nodes = connected().filter(|node| node.drained).count();
        let wanted: BTreeSet<&String> = self.queue.proxies().collect();
        let live = if wanted.is_empty() { BTreeSet::new() } else { self.registry.live_proxies(now) };
        let proxies = wanted.into_iter().filter(|name| live.contains(name.as_str())).cloned().collect();
        Available {
            busy_nodes: connected().count() - nodes.len() - drained_nodes,
            drained_nodes,
            proxies,
            nodes,
        }
    }

    fn on_ready(&mut self, name: &str, attempt: &Attempt, result: Result<(), String>, now: Instant) {
        let Some(execution) = self.executions.get_mut(&attempt.run) else { return };
        if execution.attempt() != attempt || !execution.carries(name) {
            return;
        }
        match result {
            Err(reason) => self.stop(&attempt.run, Stop::Errored(format!("node {name}: {reason}")), now),
            Ok(()) => {
                if execution.on_ready(name) {
                    self.start(&attempt.run, now);
                }
            }
        }
    }

    /// All nodes are ready: fixes the instant, tells the nodes and orders the faults.
    fn start(&mut self, id: &str, now: Instant) {
        let Some(execution) = self.executions.get_mut(id) else { return };
        let nodes = execution.nodes();
        let known = |name: &String| self.registry.node(name).map(|node| &node.clock);
        let clocks: Vec<Offset> =
            nodes.iter().map(|name| known(name).and_then(|c| c.offset(now)).unwrap_or_default()).collect();
        let round_trip = nodes.iter().filter_map(|name| known(name)?.round_trip()).max().unwrap_or_default();
        let start_at = execution.schedule(now, &clocks, round_trip);
        let attempt = execution.attempt().clone();
        let proxies: Vec<String> = execution.plan().faults.iter().map(|fault| fault.proxy.clone()).collect();
        let run_nodes = execution.run_nodes();
        let started_unix_ms = self.unix_ms(start_at);
        self.change(id, |run| {
            (run.nodes, run.started_unix_ms) = (run_nodes, Some(started_unix_ms));
            advance(run, RunState::Ready);
        });
        for (node, clock) in nodes.iter().zip(&clocks) {
            let (start_at, clock_error) = (clock.to_node(start_at), clock.error);
            self.send(node, ToNode::Start { attempt: attempt.clone(), start_at, clock_error });
        }
        for (index, proxy) in proxies.iter().enumerate() {
            let carrier = self.registry.node_of_proxy(proxy, now);
            let Some((node, clock)) =
                carrier.and_then(|node| Some((node.identity.name.clone(), node.clock.offset(now)?)))
            else {
                let reason = format!("the proxy `{proxy}` left before the start");
                return self.stop(id, Stop::Errored(reason), now);
            };
            let execution = self.executions.get_mut(id).expect("it was there above");
            if let Some(order) = execution.order_fault(index, &node, clock) {
                self.send(&node, ToNode::ApplyFault(order));
            }
        }
    }

    /// Ends a run before its plan is done: at once if no load is on, else when its nodes have stopped.
    fn stop(&mut self, id: &str, stop: Stop, now: Instant) {
        self.queue.remove(id);
        let Some(execution) = self.executions.get_mut(id) else { return };
        execution.stop(stop.clone(), now);
        let (attempt, nodes, faults) =
            (execution.attempt().clone(), execution.live_nodes(), execution.open_faults());
        for node in &nodes {
            let reason = stop.reason().to_owned();
            self.send(node, ToNode::Cancel { attempt: attempt.clone(), reason });
        }
        self.revoke(faults);
        let loaded = self.store.run(id).is_some_and(|run| run.state >= RunState::Running);
        if !loaded {
            self.release(id);
            self.executions.remove(id);
            let ended_unix_ms = self.unix_ms(now);
            self.change(id, |run| {
                stop.reason().clone_into(&mut run.error);
                stop.reason().clone_into(&mut run.reason);
                run.ended_unix_ms = Some(ended_unix_ms);
                let errored = matches!(stop, Stop::Errored(_));
                advance(run, if errored { RunState::Errored } else { RunState::Cancelled });
            });
        }
    }

    /// Gives up waiting for nodes that are late.
    fn watch_over(&mut self, id: &str, now: Instant) {
        let Some(execution) = self.executions.get_mut(id) else { return };
        if execution.nodes().is_empty() {
            return;
        }
        let unready = execution.unready_at(now);
        if !unready.is_empty() {
            let seconds = ready_within(execution.plan()).as_secs();
            let reason = format!("not ready within {seconds} s: {}", unready.join(", "));
            return self.stop(id, Stop::Errored(reason), now);
        }
        for node in execution.overdue_at(now) {
            let Some(execution) = self.executions.get_mut(id) else { return };
            execution.on_lost(&node, "did not finish in time, given up", now);
            let attempt = execution.attempt().clone();
            self.send(&node, ToNode::Cancel { attempt, reason: "it is overdue".to_owned() });
        }
    }

    /// Takes a run as far as what is known allows.
    fn move_on(&mut self, id: &str, now: Instant) {
        let Some(state) = self.store.run(id).map(|run| run.state) else { return };
        let Some(execution) = self.executions.get_mut(id) else { return };
        if execution.nodes().is_empty() {
            return;
        }
        if state == RunState::Ready && execution.start_at().is_some_and(|start_at| now >= start_at) {
            self.change(id, |run| advance(run, RunState::Running));
            return self.move_on(id, now);
        }
        if state == RunState::Ready && execution.live_nodes().is_empty() {
            let reason = "no node is left to carry it out".to_owned();
            return self.stop(id, Stop::Errored(reason), now);
        }
        if state == RunState::Running && execution.note_load_over(now) {
            let faults = execution.open_faults();
            self.revoke(faults);
            self.release(id);
            self.change(id, |run| advance(run, RunState::Collecting));
            self.serve_queue(now);
            return self.move_on(id, now);
        }
        if state == RunState::Collecting && execution.is_complete(now) && !execution.is_reported() {
            execution.note_reported();
            let started = execution.start_at().expect("it was running");
            let run = self.store.run(id);
            // Who submits for somebody else says in a label what that one typed.
            let reproduce = run.map_or(String::new(), |run| match run.labels.get("command") {
                Some(command) => command.clone(),
                None => format!("fracas run submit {} --wait", run.file_name),
            });
            let execution = &self.executions[id];
            let findings = execution.findings(self.unix_ms(started), self.environment(execution), reproduce);
            self.effects.push(Effect::WriteReport {
                run: id.to_owned(),
                directory: self.settings.out.join(id),
                findings: Box::new(findings),
            });
        }
    }

    fn environment(&self, execution: &Execution) -> Environment {
        let nodes = execution.nodes();
        let identities = nodes.iter().filter_map(|name| self.registry.node(name)).map(|node| &node.identity);
        let kernels: BTreeSet<&str> = identities.clone().map(|identity| identity.kernel.as_str()).collect();
        Environment {
            version: self.settings.version.clone(),
            kernel: kernels.into_iter().collect::<Vec<_>>().join(", "),
            cpu: String::new(),
            cores: cores(identities),
            host: nodes.join(", "),
        }
    }

    /// Lets the nodes of a run take another one.
    fn release(&mut self, id: &str) {
        let Some(execution) = self.executions.get(id) else { return };
        for name in execution.nodes() {
            if let Some(node) = self.registry.node_mut(&name).filter(|node| node.run.as_deref() == Some(id)) {
                node.run = None;
            }
        }
    }

    fn revoke(&mut self, faults: Vec<(String, String)>) {
        for (node, fault) in faults {
            self.send(&node, ToNode::RevokeFault { fault });
        }
    }

    fn send(&mut self, name: &str, message: ToNode) {
        if let Some(session) = self.registry.node(name).and_then(|node| node.session) {
            self.effects.push(Effect::Send { node: name.to_owned(), session, message });
        }
    }

    fn change(&mut self, id: &str, change: impl FnOnce(&mut Run)) {
        if let Some(mut run) = self.store.run(id) {
            change(&mut run);
            self.store.save(run);
        }
    }
}

/// Connects are paced over all nodes, and each may take its time.
fn ready_within(plan: &Plan) -> Duration {
    let paced = f64::from(plan.connections) / plan.connect_rate.as_f64();
    READY_WITHIN + plan.connect_timeout + Duration::from_secs_f64(paced.min(3_600.0))
}

fn advance(run: &mut Run, to: RunState) {
    run.advance(to).expect("the controller asks for legal moves only");
}

/// Nine digits of Crockford's base 32 hold 45 bits of milliseconds, until the year 3084; they sort by time.
fn run_id(unix_ms: u64) -> String {
    const DIGITS: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
    (0..9).rev().map(|place| char::from(DIGITS[(unix_ms >> (5 * place)) as usize & 31])).collect()
}

/// The cores that nodes share: several on one machine, which one boot tells, have the same.
fn cores<'a>(nodes: impl Iterator<Item = &'a NodeIdentity>) -> u32 {
    let mut by_machine: BTreeMap<&str, u32> = BTreeMap::new();
    for node in nodes {
        // Where the boot is hidden, a node counts as a machine.
        let machine = if node.boot_id.is_empty() { &node.uid } else { &node.boot_id };
        let cores = by_machine.entry(machine).or_default();
        *cores = node.cores.max(*cores);
    }
    by_machine.into_values().fold(0, u32::saturating_add)
}

#[cfg(test)]
pub(crate) mod tests;
