//! Whole runs in virtual time: nodes and proxies are played by the tests.

mod strange_nodes;

use fracas_loadgen::measure::{Counts, Distribution, Interval, Timeline};
use fracas_loadgen::scenario::parse;

use super::*;
use crate::clock_map::Exchange;
use crate::node_registry::JoinError;
use crate::run_report::Report;
use crate::session::{Delta, FaultOrder, Finished, FromNode, WindowSeen};
use crate::store::MemoryStore;

pub const PLAN: &str = "name: checkout\nnodes: 2\ntarget: http://127.0.0.1:1/\nconnections: 10\nphases:\n  - {rate: 100/s, for: 2s}\n";

const QUEUE_TIMEOUT: Duration = Duration::from_secs(60);

/// A controller, and nodes whose clocks are ahead by a whole second per letter: `a` by 1 s, `b` by 2 s, …
pub struct World {
    pub controller: Controller,
    pub now: Instant,
    sessions: BTreeMap<String, Session>,
    /// Everything sent so far, by node.
    sent: BTreeMap<String, Vec<ToNode>>,
    reports: Vec<(String, Findings)>,
    /// Sessions that others took the place of.
    ended: Vec<u64>,
}

impl World {
    fn new() -> World {
        let now = Instant::from_nanos(1_000_000_000_000);
        let settings = Settings {
            version: "0.1.0".into(),
            boot_id: "boot".into(),
            timings: Timings::default(),
            queue_timeout: QUEUE_TIMEOUT,
            out: "runs".into(),
            wall: (now, 1_760_000_000_000),
        };
        let controller = Controller::new(settings, Box::new(MemoryStore::default()));
        World {
            controller,
            now,
            sessions: BTreeMap::new(),
            sent: BTreeMap::new(),
            reports: Vec::new(),
            ended: Vec::new(),
        }
    }

    pub fn with_agents(names: &[&str]) -> World {
        let mut world = World::new();
        names.iter().for_each(|name| world.join(name, "1", Role::Agent, None).unwrap());
        world
    }

    fn ahead(name: &str) -> Duration {
        Duration::from_secs(u64::from(name.as_bytes()[0] - b'a' + 1))
    }

    fn join(&mut self, name: &str, uid: &str, role: Role, carried: Option<Attempt>) -> Result<(), JoinError> {
        let identity = NodeIdentity {
            name: name.into(),
            uid: uid.into(),
            version: "0.1.9".into(),
            ..NodeIdentity::default()
        };
        let session =
            self.controller.join(identity, role, "peer".into(), carried.into_iter().collect(), self.now)?;
        self.sessions.insert(name.into(), session);
        self.collect();
        Ok(())
    }

    /// Carries out effects; answers pings with a round trip of 2 ms.
    fn collect(&mut self) {
        loop {
            let effects = self.controller.take_effects();
            if effects.is_empty() {
                return;
            }
            for effect in effects {
                match effect {
                    Effect::Send { node, session, message } => {
                        assert_eq!(
                            self.sessions.get(&node).map(|session| session.0).unwrap_or(session),
                            session
                        );
                        if let ToNode::ClockPing { .. } = message {
                            let half = Duration::from_millis(1);
                            let node_at = self.now + half + World::ahead(&node);
                            let exchange = Exchange {
                                controller_sent: self.now,
                                node_received: node_at,
                                node_sent: node_at,
                                controller_received: self.now + half + half,
                            };
                            let session = Session(session);
                            self.sessions.insert(node.clone(), session);
                            self.controller.on_message(&node, session, FromNode::Pong(exchange), self.now);
                        } else {
                            self.sent.entry(node).or_default().push(message);
                        }
                    }
                    Effect::EndSession { session } => self.ended.push(session),
                    Effect::WriteReport { run, findings, .. } => self.reports.push((run, *findings)),
                }
            }
        }
    }

    fn say(&mut self, name: &str, message: FromNode) -> bool {
        let heard = self.controller.on_message(name, self.sessions[name], message, self.now);
        self.collect();
        heard
    }

    /// Lets time pass in ticks; `alive` nodes send heartbeats.
    fn pass(&mut self, time: Duration, alive: &[&str]) {
        let until = self.now + time;
        while self.now < until {
            self.now = (self.now + Duration::from_millis(250)).min(until);
            alive.iter().for_each(|name| assert!(self.say(name, FromNode::Heartbeat)));
            self.controller.tick(self.now);
            self.collect();
        }
    }

    pub fn submit(&mut self, yaml: &str) -> String {
        let submission = Submission {
            plan: parse("checkout.yml", yaml).unwrap(),
            file_name: "checkout.yml".into(),
            file_text: yaml.into(),
            labels: BTreeMap::new(),
            request_id: String::new(),
            start_within: None,
        };
        let id = self.controller.submit(submission, self.now).unwrap().id;
        self.collect();
        id
    }

    /// The proxy process `p` joins with the proxy `cache`.
    fn join_cache(&mut self) {
        self.join("p", "1", Role::Proxy, None).unwrap();
        self.say("p", FromNode::Proxies(vec!["cache".into()]));
    }

    fn run(&self, id: &str) -> Run {
        self.controller.run(id).unwrap()
    }

    fn state(&self, id: &str) -> RunState {
        self.run(id).state
    }

    fn sent<T>(&self, name: &str, which: impl Fn(&ToNode) -> Option<T>) -> Vec<T> {
        self.sent.get(name).into_iter().flatten().filter_map(which).collect()
    }

    fn ready(&mut self, name: &str, id: &str) {
        self.say(name, FromNode::Ready { attempt: attempt(id), result: Ok(()) });
    }

    /// Brings a submitted run of nodes `a` and `b` to RUNNING.
    pub fn get_running(&mut self, id: &str) {
        self.ready("a", id);
        self.ready("b", id);
        self.pass(Duration::from_millis(1_500), &["a", "b"]);
        assert_eq!(self.state(id), RunState::Running);
    }

    fn finish(&mut self, name: &str, id: &str, deltas: u64) {
        let counts =
            Counts { planned: 100 * deltas, sent: 100 * deltas, ok: 100 * deltas, ..Counts::default() };
        let finished = Finished {
            attempt: attempt(id),
            last_sequence: deltas,
            counts,
            verdict: Some(Grade::Valid),
            ended_at: self.now + World::ahead(name),
            ..Finished::default()
        };
        self.say(name, FromNode::Finished(Box::new(finished)));
    }

    /// Everything that nodes `a` and `b` have to tell of a running plan of 2 s, and that they are through.
    pub fn deliver_all(&mut self, id: &str) {
        for (name, base_ms) in [("a", 5), ("b", 9)] {
            (1..=2).for_each(|sequence| assert!(self.say(name, delta(id, sequence, base_ms))));
            self.finish(name, id, 2);
        }
    }

    /// Writes the reports that were asked for.
    pub fn write_reports(&mut self) -> Vec<Report> {
        let mut written = Vec::new();
        for (run, findings) in std::mem::take(&mut self.reports) {
            let again = Report::new(findings.clone());
            self.controller.report_written(&run, Ok(Report::new(findings).result), self.now);
            written.push(again);
        }
        self.collect();
        written
    }
}

fn attempt(id: &str) -> Attempt {
    Attempt { run: id.into(), number: 1 }
}

/// A second in which 100 requests took `base_ms` and a little more each.
fn delta(id: &str, sequence: u64, base_ms: u64) -> FromNode {
    let values: Distribution = (0..100_u64).map(|i| base_ms * 1_000_000 + i * 7_919).collect();
    let counts = Counts { planned: 100, sent: 100, ok: 100, ..Counts::default() };
    let second = u32::try_from(sequence).unwrap() - 1;
    let mut interval = Interval {
        second,
        counts,
        lag: values.clone(),
        own_lag: (0..100_u64).collect(),
        ok_in_time: 100,
        ended_in_time: 100,
        connections_opened: 5 * u64::from(sequence == 1),
        ..Interval::default()
    };
    interval.response[0] = values.clone();
    interval.service[0] = values;
    let mut timeline = Timeline::default();
    timeline.add(&interval);
    FromNode::Delta(Delta {
        attempt: attempt(id),
        sequence,
        timeline,
        connections_open: 5,
        cpu_ratio_max: 0.1,
    })
}

fn start(message: &ToNode) -> Option<Instant> {
    if let ToNode::Start { start_at, .. } = message { Some(*start_at) } else { None }
}

fn cancelled(message: &ToNode) -> Option<String> {
    if let ToNode::Cancel { reason, .. } = message { Some(reason.clone()) } else { None }
}

fn acked(message: &ToNode) -> Option<u64> {
    if let ToNode::IntervalAck { sequence, .. } = message { Some(*sequence) } else { None }
}

fn fault(message: &ToNode) -> Option<FaultOrder> {
    if let ToNode::ApplyFault(order) = message { Some(order.clone()) } else { None }
}

#[test]
fn a_run_goes_from_the_queue_to_its_report() {
    let mut world = World::with_agents(&["a", "b"]);
    let id = world.submit(PLAN);
    assert_eq!(world.state(&id), RunState::Preparing);
    let shards = |world: &World, name: &str| {
        world.sent(name, |message| match message {
            ToNode::Prepare { shard_index, shard_count, plan_json, .. } => {
                let plan: Plan = serde_json::from_slice(plan_json).unwrap();
                assert_eq!(plan.name, "checkout");
                Some((*shard_index, *shard_count))
            }
            _ => None,
        })
    };
    assert_eq!((shards(&world, "a"), shards(&world, "b")), (vec![(0, 2)], vec![(1, 2)]));
    world.ready("a", &id);
    assert_eq!(world.state(&id), RunState::Preparing, "all or none");
    world.ready("b", &id);
    assert_eq!(world.state(&id), RunState::Ready);
    let (a, b) = (world.sent("a", start)[0], world.sent("b", start)[0]);
    assert_eq!(a - World::ahead("a"), b - World::ahead("b"), "one instant on two clocks");
    assert!(a - World::ahead("a") > world.now);
    world.get_running(&id);
    for (name, base_ms) in [("a", 5), ("b", 9)] {
        for sequence in 1..=2 {
            world.say(name, delta(&id, sequence, base_ms));
        }
        assert_eq!(world.sent(name, acked), [1, 2]);
    }
    let progress = world.controller.progress(&id, world.now).unwrap();
    assert_eq!((progress.counts.ok, progress.nodes_reporting, progress.seconds), (400, 2, 1));
    assert_eq!((progress.second.second, progress.second.counts.ok), (0, 200));
    world.finish("a", &id, 2);
    assert_eq!(world.state(&id), RunState::Running);
    world.finish("b", &id, 2);
    assert_eq!(world.state(&id), RunState::Collecting);
    let report = world.write_reports().pop().unwrap();
    let run = world.run(&id);
    assert_eq!((run.state, run.verdict), (RunState::Passed, Some(Grade::Valid)), "{:?}", run.reasons);
    assert_eq!(run.counts.planned, 400);
    // Merged is what one recorder would have recorded.
    let together: Distribution = [5, 9]
        .into_iter()
        .flat_map(|ms| (0..200_u64).map(move |i| ms * 1_000_000 + (i % 100) * 7_919))
        .collect();
    assert_eq!(report.result.response.encode(), together.encode());
    assert_eq!(report.result.summary.nodes.len(), 2);
    assert!(report.result.summary.nodes[0].response.p99 < report.result.summary.nodes[1].response.p50);
}

#[test]
fn a_run_without_enough_nodes_waits_and_says_so() {
    let mut world = World::with_agents(&["a"]);
    let id = world.submit(PLAN);
    let run = world.run(&id);
    assert_eq!((run.state, world.controller.queue_position(&id)), (RunState::Queued, Some(1)));
    assert!(run.reason.contains("needs 2 nodes: 1 connected, 1 free"), "{}", run.reason);
    assert_eq!(run.error, "", "it is no error to wait");
    world.join("b", "1", Role::Agent, None).unwrap();
    assert_eq!(world.state(&id), RunState::Preparing);
    assert_eq!(world.run(&id).reason, "");
    let second = world.submit(PLAN);
    assert!(world.run(&second).reason.contains("2 connected, 0 free"), "{}", world.run(&second).reason);
    world.controller.cancel(&second, "", world.now).unwrap();
    assert_eq!(world.state(&second), RunState::Cancelled);
    assert_eq!(world.controller.cancel(&second, "", world.now).unwrap_err(), RunError::Ended(second));
}

#[test]
fn a_node_that_falls_silent_makes_the_run_invalid_and_names_the_gap() {
    let mut world = World::with_agents(&["a", "b"]);
    let id = world.submit(PLAN);
    world.get_running(&id);
    for name in ["a", "b"] {
        world.say(name, delta(&id, 1, 5));
    }
    world.say("a", delta(&id, 2, 5));
    let session = world.sessions["b"];
    world.controller.left("b", session);
    world.pass(Duration::from_secs(1), &["a"]);
    world.finish("a", &id, 2);
    world.pass(Duration::from_secs(8), &["a"]);
    assert_eq!(world.state(&id), RunState::Running, "it may come back");
    world.pass(Duration::from_secs(2), &["a"]);
    assert_eq!(world.state(&id), RunState::Collecting);
    world.write_reports();
    let run = world.run(&id);
    assert_eq!(run.state, RunState::Invalid);
    let reason = &run.reasons[0];
    assert!(reason.contains("node b was lost: not heard for 10 s, given up"), "{reason}");
    assert!(reason.contains("its figures from 1 s on are missing"), "{reason}");
    assert!(run.nodes[1].lost.is_some() && run.nodes[0].lost.is_none());
    assert!(!world.say("b", delta(&id, 2, 5)), "its session is over");
}

#[test]
fn a_run_may_go_on_without_a_node_when_it_says_so() {
    let mut world = World::with_agents(&["a", "b"]);
    let id = world.submit(&format!("{PLAN}on_node_loss: continue\n"));
    world.get_running(&id);
    world.say("a", delta(&id, 1, 5));
    world.say("a", delta(&id, 2, 5));
    world.finish("a", &id, 2);
    let session = world.sessions["b"];
    world.controller.left("b", session);
    world.pass(Duration::from_secs(11), &["a"]);
    world.write_reports();
    let run = world.run(&id);
    assert_eq!((run.state, run.verdict), (RunState::Passed, Some(Grade::Suspect)));
    assert!(run.reasons.iter().any(|reason| reason.contains("node b was lost")), "{:?}", run.reasons);
}

#[test]
fn a_node_that_returns_in_time_loses_and_doubles_nothing() {
    let mut world = World::with_agents(&["a", "b"]);
    let id = world.submit(PLAN);
    world.get_running(&id);
    world.say("b", delta(&id, 1, 5));
    world.say("b", delta(&id, 2, 5));
    world.finish("b", &id, 2);
    world.say("a", delta(&id, 1, 5));
    let session = world.sessions["a"];
    world.controller.left("a", session);
    world.pass(Duration::from_secs(4), &["b"]);
    world.join("a", "1", Role::Agent, Some(attempt(&id))).unwrap();
    assert_eq!(world.sent("a", acked), [1, 1], "it learns what has arrived");
    world.say("a", delta(&id, 1, 5));
    world.say("a", delta(&id, 2, 5));
    world.finish("a", &id, 2);
    world.write_reports();
    let run = world.run(&id);
    assert_eq!((run.state, run.counts.planned), (RunState::Passed, 400), "{:?}", run.reasons);
}

#[test]
fn a_missing_piece_or_books_that_differ_make_a_run_invalid() {
    for (deltas, counted, expected) in [(1_u64, 2_u64, "pieces 2 to 2"), (2, 2, "books differ")] {
        let mut world = World::with_agents(&["a", "b"]);
        let id = world.submit(PLAN);
        world.get_running(&id);
        for name in ["a", "b"] {
            (1..=deltas).for_each(|sequence| {
                world.say(name, delta(&id, sequence, 5));
            });
        }
        if deltas == counted {
            let finished = Finished { attempt: attempt(&id), last_sequence: 2, ..Finished::default() };
            world.say("a", FromNode::Finished(Box::new(finished)));
        } else {
            world.finish("a", &id, counted);
        }
        world.finish("b", &id, deltas);
        world.write_reports();
        let run = world.run(&id);
        assert_eq!(run.state, RunState::Invalid);
        assert!(run.reasons[0].contains(expected), "{:?}", run.reasons);
    }
}

#[test]
fn a_node_that_stops_by_itself_makes_the_run_invalid() {
    let mut world = World::with_agents(&["a", "b"]);
    let id = world.submit(PLAN);
    world.get_running(&id);
    for name in ["a", "b"] {
        world.say(name, delta(&id, 1, 5));
    }
    let finished = Finished {
        attempt: attempt(&id),
        last_sequence: 1,
        counts: Counts { planned: 100, sent: 100, ok: 100, ..Counts::default() },
        reasons: vec!["the run ended early: heard no controller for 30 s".into()],
        ended_at: world.now,
        cancelled: true,
        ..Finished::default()
    };
    world.say("a", FromNode::Finished(Box::new(finished)));
    world.finish("b", &id, 1);
    world.write_reports();
    let run = world.run(&id);
    assert_eq!(run.state, RunState::Invalid);
    assert!(run.reasons[0].contains("node a stopped before its plan was done"), "{:?}", run.reasons);
    assert!(run.reasons[0].contains("heard no controller for 30 s"), "{:?}", run.reasons);
}

#[test]
fn a_node_that_cannot_prepare_ends_the_run_and_frees_the_others() {
    let mut world = World::with_agents(&["a", "b"]);
    let id = world.submit(PLAN);
    world.ready("a", &id);
    world.say("b", FromNode::Ready { attempt: attempt(&id), result: Err("no such host".into()) });
    let run = world.run(&id);
    assert_eq!((run.state, run.error.as_str()), (RunState::Errored, "node b: no such host"));
    assert_eq!(world.sent("a", cancelled), ["node b: no such host"]);
    let next = world.submit(PLAN);
    assert_eq!(world.state(&next), RunState::Preparing);
    world.ready("a", &id);
    assert_eq!(world.state(&next), RunState::Preparing, "an answer to another run changes nothing");
    world.ready("a", &next);
    world.pass(Duration::from_secs(14), &["a", "b"]);
    assert_eq!(world.state(&next), RunState::Preparing, "10 s, and 5 s to connect");
    world.pass(Duration::from_secs(2), &["a", "b"]);
    let run = world.run(&next);
    assert_eq!((run.state, run.error.as_str()), (RunState::Errored, "not ready within 15 s: b"));
}

#[test]
fn a_cancelled_run_stops_its_load_and_keeps_what_it_has() {
    let mut world = World::with_agents(&["a", "b"]);
    let id = world.submit(PLAN);
    world.get_running(&id);
    world.say("a", delta(&id, 1, 5));
    world.say("b", delta(&id, 1, 5));
    world.controller.cancel(&id, "lunch", world.now).unwrap();
    world.collect();
    assert_eq!(
        (world.sent("a", cancelled), world.sent("b", cancelled)),
        (vec!["lunch".into()], vec!["lunch".into()])
    );
    assert_eq!(world.state(&id), RunState::Running, "until the nodes have stopped");
    world.finish("a", &id, 1);
    world.pass(Duration::from_secs(6), &["a", "b"]);
    world.write_reports();
    let run = world.run(&id);
    assert_eq!((run.state, run.error.as_str(), run.counts.planned), (RunState::Cancelled, "lunch", 200));
    assert!(run.reasons.iter().any(|r| r.contains("node b was lost: did not finish")), "{:?}", run.reasons);
}

#[test]
fn a_broken_objective_fails_a_valid_run() {
    let mut world = World::with_agents(&["a", "b"]);
    let id = world.submit(&format!("{PLAN}slo: [\"p99<6ms\"]\n"));
    world.get_running(&id);
    for (name, ms) in [("a", 5), ("b", 9)] {
        world.say(name, delta(&id, 1, ms));
        world.say(name, delta(&id, 2, ms));
        world.finish(name, &id, 2);
    }
    world.write_reports();
    assert_eq!(world.state(&id), RunState::Failed);
}

#[test]
fn a_fault_reaches_its_proxy_on_its_clock_and_comes_back_on_the_runs_axis() {
    let mut world = World::with_agents(&["a", "b"]);
    world.join_cache();
    let session = world.sessions["p"];
    world.controller.left("p", session);
    let id = world.submit(&format!(
        "{PLAN}faults:\n  - {{proxy: cache, behavior: \"20:delay\", options: {{delay: {{time: 30ms}}}}, at: 500ms, for: 1s}}\n"
    ));
    assert!(world.run(&id).reason.contains("`cache`, which is not connected"), "{}", world.run(&id).reason);
    world.join_cache();
    assert_eq!(world.state(&id), RunState::Preparing);
    world.ready("a", &id);
    world.ready("b", &id);
    let order = world.sent("p", fault).pop().unwrap();
    let begins = world.sent("a", start)[0] - World::ahead("a") + Duration::from_millis(500);
    assert_eq!(order.starts_at, begins + World::ahead("p"));
    assert_eq!((order.behavior.as_str(), order.duration), ("20:delay", Duration::from_secs(1)));
    assert_eq!(order.options["delay"]["time"], "30ms");
    // A node that the order did not go to has no say in it, nor one outside the run in the run.
    let stranger = "c";
    world.join(stranger, "1", Role::Agent, None).unwrap();
    let no = || Err("no".to_owned());
    world.say(stranger, FromNode::FaultAccepted { fault: order.fault.clone(), result: no() });
    world.say("a", FromNode::FaultAccepted { fault: order.fault.clone(), result: no() });
    let attempt = order.attempt.clone();
    world.say(stranger, FromNode::Error { attempt: Some(attempt), message: "stop".into() });
    assert_eq!(world.state(&id), RunState::Ready);
    world.say("p", FromNode::FaultAccepted { fault: order.fault.clone(), result: Ok(()) });
    world.pass(Duration::from_millis(1_750), &["a", "b", "p", stranger]);
    assert_eq!(world.controller.progress(&id, world.now).unwrap().faults, ["cache 20:delay"]);
    let mut seen = WindowSeen {
        fault: order.fault,
        started_at: order.starts_at,
        ended_at: None,
        injected: 3,
        failures: [0, 3, 0, 0],
        listen: Some("127.0.0.1:9".parse().unwrap()),
        proxy: String::new(),
        behavior: String::new(),
    };
    world.say("p", FromNode::FaultWindow(seen.clone()));
    let lie = WindowSeen { injected: 9_999, ended_at: Some(order.starts_at), ..seen.clone() };
    world.say(stranger, FromNode::FaultWindow(lie));
    world.pass(Duration::from_millis(1_000), &["a", "b", "p", stranger]);
    for name in ["a", "b"] {
        world.say(name, delta(&id, 1, 5));
        world.finish(name, &id, 1);
    }
    assert!(world.reports.is_empty(), "the window is still open");
    assert_eq!(world.state(&id), RunState::Collecting);
    // Somebody sets rules on the same proxy by hand, from before the start until a second after it.
    let by_hand = WindowSeen {
        fault: "by hand lease 0-7".into(),
        started_at: order.starts_at - Duration::from_secs(60),
        ended_at: Some(order.starts_at + Duration::from_millis(500)),
        injected: 7,
        proxy: "cache".into(),
        behavior: "5:reset".into(),
        ..seen.clone()
    };
    world.say("p", FromNode::FaultWindow(by_hand.clone()));
    // And on one that this run has nothing to do with.
    let elsewhere = WindowSeen { fault: "by hand x".into(), proxy: "other".into(), ..by_hand };
    world.say("p", FromNode::FaultWindow(elsewhere));
    (seen.ended_at, seen.injected) = (Some(order.starts_at + Duration::from_millis(1_003)), 40);
    world.say("p", FromNode::FaultWindow(seen));
    let report = world.write_reports().pop().unwrap();
    let windows = report.result.summary.faults.iter();
    let windows: Vec<_> = windows.map(|w| (w.behavior.as_str(), w.start_ns, w.end_ns, w.injected)).collect();
    let expected =
        [("5:reset", 0, 1_000_000_000, Some(7)), ("20:delay", 500_000_000, 1_503_000_000, Some(40))];
    assert_eq!(windows, expected);
}

#[test]
fn a_refused_fault_ends_the_run_before_any_load() {
    let mut world = World::with_agents(&["a", "b"]);
    world.join_cache();
    let id =
        world.submit(&format!("{PLAN}faults:\n  - {{proxy: cache, behavior: nonsense, at: 0s, for: 1s}}\n"));
    world.ready("a", &id);
    world.ready("b", &id);
    let order = world.sent("p", fault).pop().unwrap();
    world.say("p", FromNode::FaultAccepted { fault: order.fault, result: Err("no such behavior".into()) });
    let run = world.run(&id);
    assert_eq!(run.state, RunState::Errored);
    assert_eq!(run.error, "the proxy `cache` refused `nonsense`: no such behavior");
    assert_eq!(world.sent("b", cancelled).len(), 1);
}

#[test]
fn a_repeated_request_queues_one_run_and_ids_sort_by_time() {
    let mut world = World::new();
    let submission = |request_id: &str| Submission {
        plan: parse("f", PLAN).unwrap(),
        file_name: "f".into(),
        file_text: PLAN.into(),
        labels: BTreeMap::new(),
        request_id: request_id.into(),
        start_within: None,
    };
    let now = world.now;
    let mut submit = |request_id: &str| world.controller.submit(submission(request_id), now).unwrap().id;
    let first = submit("q");
    assert_eq!(submit("q"), first);
    let ids: Vec<String> = (0..100).map(|_| submit("")).collect();
    assert!(ids.is_sorted() && ids[0] > first && ids.windows(2).all(|pair| pair[0] != pair[1]));
}

#[test]
fn a_drained_node_finishes_its_run_and_gets_no_other() {
    let mut world = World::with_agents(&["a", "b"]);
    let id = world.submit(PLAN);
    world.get_running(&id);
    world.controller.set_drained("b", true, world.now).unwrap();
    for name in ["a", "b"] {
        world.say(name, delta(&id, 1, 5));
        world.finish(name, &id, 1);
    }
    world.write_reports();
    let next = world.submit(PLAN);
    assert_eq!(world.state(&next), RunState::Queued);
    world.controller.set_drained("b", false, world.now).unwrap();
    assert_eq!(world.state(&next), RunState::Preparing);
}

#[test]
fn a_refused_proxy_is_told_with_what_is_known() {
    let words = |names: &[&str]| known_in_words(&names.iter().copied().collect());
    for (names, expected) in [
        (&[][..], "no proxy has joined so far"),
        (&["b", "a"], "joined so far: `a`, `b`"),
        (&["a", "b", "c", "d", "e", "f", "g"], "joined so far: `a`, `b`, `c`, `d`, `e`, 2 more"),
    ] {
        assert_eq!(words(names), expected);
    }
}

#[test]
fn a_run_that_can_never_start_is_refused_or_gives_up_and_holds_up_nobody() {
    let mut world = World::with_agents(&["a", "b"]);
    world.join_cache();
    let fault = |proxy: &str| {
        format!("{PLAN}faults:\n  - {{proxy: {proxy}, behavior: \"20:reset\", at: 0s, for: 1s}}\n")
    };
    let submission = |yaml: &str, start_within| Submission {
        plan: parse("f", yaml).unwrap(),
        file_name: "f".into(),
        file_text: yaml.into(),
        labels: BTreeMap::new(),
        request_id: String::new(),
        start_within,
    };
    let refused = world.controller.submit(submission(&fault("cahce"), None), world.now).unwrap_err();
    let known = "joined so far: `cache`".to_owned();
    let expected = SubmitError::NoSuchProxy { proxy: "cahce".into(), nearest: Some("cache".into()), known };
    assert_eq!(refused, expected);
    assert!(refused.to_string().contains("did you mean `cache`"), "{refused}");

    // No node could be told.
    let mut long = submission(PLAN, None);
    long.plan.headers = vec![("a".into(), "x".repeat(5 << 20))];
    let refused = world.controller.submit(long, world.now).unwrap_err();
    assert!(matches!(refused, SubmitError::PlanTooLong { bytes, most } if bytes > 5 << 20 && most < 4 << 20));
    let session = world.sessions["p"];
    world.controller.left("p", session);
    let gone = world.submit(&fault("cache"));
    let large = world.submit(&PLAN.replace("nodes: 2", "nodes: 9"));
    let possible = world.submit(PLAN);
    assert_eq!(world.state(&possible), RunState::Preparing, "it is not held up");
    let hurried = submission(PLAN, Some(Duration::from_secs(5)));
    let hurried = world.controller.submit(hurried, world.now).unwrap().id;
    world.get_running(&possible);
    world.pass(Duration::from_secs(5), &["a", "b"]);
    let run = world.run(&hurried);
    assert_eq!((run.state, run.started_unix_ms), (RunState::Errored, None));
    assert_eq!(run.reason, "never started: it needs 2 nodes: 2 connected, 0 free, the others carry a run");
    assert_eq!(run.error, run.reason);
    world.pass(QUEUE_TIMEOUT, &["a", "b"]);
    for (id, reason) in [(gone, "which is not connected"), (large, "needs 9 nodes")] {
        let run = world.run(&id);
        assert_eq!(run.state, RunState::Errored, "{}", run.reason);
        assert!(
            run.reason.starts_with("never started: it ") && run.reason.contains(reason),
            "{}",
            run.reason
        );
    }
}

#[test]
fn a_proxy_that_returns_is_told_which_runs_go_on() {
    let mut world = World::with_agents(&["a", "b"]);
    world.join_cache();
    let id = world
        .submit(&format!("{PLAN}faults:\n  - {{proxy: cache, behavior: \"20:reset\", at: 0s, for: 1s}}\n"));
    world.get_running(&id);
    let named = |world: &mut World, carried: Vec<Attempt>| {
        let identity = NodeIdentity {
            name: "p".into(),
            uid: "1".into(),
            version: "0.1.9".into(),
            ..NodeIdentity::default()
        };
        let session =
            world.controller.join(identity, Role::Proxy, "peer".into(), carried, world.now).unwrap();
        world.sessions.insert("p".into(), session);
        world.collect();
        let welcome = |message: &ToNode| match message {
            ToNode::Welcome { runs, .. } => Some(runs.clone()),
            _ => None,
        };
        world.sent("p", welcome).pop().unwrap()
    };
    let other = Attempt { run: id.clone(), number: 2 };
    let stranger = attempt("0000");
    let carried = vec![stranger, other, attempt(&id)];
    assert_eq!(named(&mut world, carried.clone()), [attempt(&id)]);
    assert!(named(&mut world, Vec::new()).is_empty());
    world.controller.cancel(&id, "", world.now).unwrap();
    world.collect();
    assert!(named(&mut world, carried).is_empty(), "it has been ended");
}
