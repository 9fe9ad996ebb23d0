//! A node's part in a run, without I/O: what the controller says and the passing of time come in, what to say
//! goes out. A run outlives a broken session, and stops by itself when its controller stays away.

use std::time::Duration;

use fracas_dataplane::clock::Instant;
use fracas_loadgen::arrival::Shard;
use fracas_loadgen::measure::{Environment, Faults, NodeReport, RunFacts, Summary, Timeline, WorkerUse};
use fracas_loadgen::scenario::Plan;

use super::load::{Load, Outcome, Prepared};
use super::outbox::{Outbox, Piece};
use crate::session::{Attempt, Delta, Finished, FromNode, Timings, ToNode};

/// A node that makes load.
pub struct Member {
    timings: Timings,
    is_up: bool,
    last_heard: Instant,
    held: Option<Held>,
}

/// The run that it has.
struct Held {
    attempt: Attempt,
    plan: Plan,
    shard: Shard,
    start_at: Instant,
    stage: Stage,
    outbox: Outbox,
    total: Timeline,
    taken_at: Instant,
    stopped: Option<String>,
    connections_open: u64,
}

enum Stage {
    Prepared(Box<dyn Prepared>),
    Loading(Box<dyn Load>),
    /// On the way from one stage to the next; no call finds it.
    Moving,
    /// Its last pieces are cut, or still wait for room; then it is said.
    Over(Finished),
}

impl Member {
    /// Has no run and no session.
    pub fn new(now: Instant) -> Member {
        Member { timings: Timings::default(), is_up: false, last_heard: now, held: None }
    }

    /// The run that it has, for the next hello.
    pub fn carried(&self) -> Option<&Attempt> {
        self.held.as_ref().map(|held| &held.attempt)
    }

    /// Whether load is on.
    pub fn is_loading(&self) -> bool {
        self.held.as_ref().is_some_and(|held| matches!(held.stage, Stage::Loading(_)))
    }

    /// A session stands: everything that was not acknowledged is said again.
    pub fn on_up(&mut self, now: Instant) -> Vec<FromNode> {
        (self.is_up, self.last_heard) = (true, now);
        let Some(held) = &mut self.held else { return Vec::new() };
        let mut say: Vec<FromNode> = held.outbox.unacked().map(|piece| held.delta(piece)).collect();
        say.extend(held.flush());
        say
    }

    /// The session broke off.
    pub fn on_down(&mut self) {
        self.is_up = false;
    }

    /// The controller said something other than Prepare.
    pub fn on_told(&mut self, told: ToNode, now: Instant) -> Vec<FromNode> {
        self.last_heard = now;
        match told {
            ToNode::Welcome { timings, .. } => self.timings = timings,
            ToNode::Start { attempt, start_at, .. } => return self.start(&attempt, start_at, now),
            ToNode::Cancel { attempt, reason } => {
                if let Some(held) = self.held.as_mut().filter(|held| held.attempt == attempt) {
                    match &mut held.stage {
                        Stage::Loading(load) => {
                            load.stop();
                            held.stopped.get_or_insert(reason);
                        }
                        // The controller is done with it: nothing is to be said.
                        Stage::Prepared(_) | Stage::Over(_) | Stage::Moving => self.held = None,
                    }
                }
            }
            ToNode::IntervalAck { attempt, sequence } => {
                if let Some(held) = self.held.as_mut().filter(|held| held.attempt == attempt) {
                    held.outbox.on_ack(sequence);
                    if self.is_up {
                        return held.flush();
                    }
                }
            }
            ToNode::Prepare { .. }
            | ToNode::Heartbeat
            | ToNode::ClockPing { .. }
            | ToNode::ApplyFault(_)
            | ToNode::RevokeFault { .. }
            | ToNode::Error { .. } => {}
        }
        Vec::new()
    }

    /// Why a plan cannot be taken now; it is asked before anything is opened for it.
    ///
    /// # Errors
    /// One line.
    pub fn may_prepare(&self, attempt: &Attempt) -> Result<(), String> {
        if self.is_loading() {
            return Err("it still carries another run".to_owned());
        }
        if self.carried() == Some(attempt) {
            return Err("it has had this attempt already".to_owned());
        }
        Ok(())
    }

    /// A plan came in and its connections are open, or there is a reason why not.
    pub fn on_prepared(
        &mut self,
        attempt: Attempt,
        prepared: Result<(Plan, Shard, Box<dyn Prepared>), String>,
        now: Instant,
    ) -> FromNode {
        self.last_heard = now;
        let result = prepared.map(|(plan, shard, prepared)| {
            self.held = Some(Held {
                attempt: attempt.clone(),
                plan,
                shard,
                start_at: Instant::FAR_FUTURE,
                stage: Stage::Prepared(prepared),
                outbox: Outbox::default(),
                total: Timeline::default(),
                taken_at: now,
                stopped: None,
                connections_open: 0,
            });
        });
        FromNode::Ready { attempt, result }
    }

    /// Time has passed; to be called a few times a second.
    pub fn on_tick(&mut self, now: Instant) -> Vec<FromNode> {
        let alone_for = now.since(self.last_heard);
        let Some(held) = &mut self.held else { return Vec::new() };
        let is_orphan = alone_for >= self.timings.orphan_timeout;
        match &mut held.stage {
            Stage::Prepared(_) | Stage::Moving if is_orphan => {
                self.held = None;
                return Vec::new();
            }
            Stage::Prepared(_) | Stage::Moving => return Vec::new(),
            Stage::Loading(load) => {
                if is_orphan && held.stopped.is_none() {
                    load.stop();
                    let seconds = self.timings.orphan_timeout.as_secs_f64();
                    held.stopped = Some(format!("heard no controller for {seconds} s"));
                }
                if !load.is_over() && now.since(held.taken_at) < self.timings.interval {
                    return Vec::new();
                }
                held.take(now);
            }
            Stage::Over(_) => {}
        }
        if self.is_up { held.flush() } else { Vec::new() }
    }

    fn start(&mut self, attempt: &Attempt, start_at: Instant, now: Instant) -> Vec<FromNode> {
        let refuse = |message: String| vec![FromNode::Error { attempt: Some(attempt.clone()), message }];
        let Some(held) = self.held.as_mut().filter(|held| held.attempt == *attempt) else {
            return refuse("it was told to start a run that it has not prepared".to_owned());
        };
        if !matches!(held.stage, Stage::Prepared(_)) {
            return Vec::new();
        }
        if start_at < now {
            let late = now.since(start_at).as_secs_f64() * 1e3;
            self.held = None;
            return refuse(format!("it heard of the start {late:.1} ms too late"));
        }
        if let Stage::Prepared(prepared) = std::mem::replace(&mut held.stage, Stage::Moving) {
            held.stage = Stage::Loading(prepared.start(start_at));
            (held.start_at, held.taken_at) = (start_at, start_at);
        }
        Vec::new()
    }
}

impl Held {
    /// Takes what the load has to tell, and its end.
    fn take(&mut self, now: Instant) {
        let Stage::Loading(load) = &mut self.stage else { return };
        let over = load.is_over();
        let taken = load.take();
        self.connections_open = load.connections_open();
        self.keep(&taken);
        // The grid of seconds stays that of the start, however late a tick is.
        while self.taken_at + Duration::from_secs(1) <= now {
            self.taken_at += Duration::from_secs(1);
        }
        if !over {
            return;
        }
        let Stage::Loading(load) = std::mem::replace(&mut self.stage, Stage::Moving) else { return };
        let outcome = load.outcome();
        self.keep(&outcome.rest);
        self.stage = Stage::Over(self.finished(outcome));
    }

    fn keep(&mut self, timeline: &Timeline) {
        self.total.merge(timeline);
        self.outbox.add(timeline);
    }

    /// Everything that can be said now, in order; the end comes last.
    fn flush(&mut self) -> Vec<FromNode> {
        let pieces = self.outbox.cut();
        let mut say: Vec<FromNode> = pieces.iter().map(|piece| self.delta(piece)).collect();
        let all_cut = self.outbox.is_cut();
        let last_sequence = self.outbox.last_sequence();
        if let Stage::Over(finished) = &mut self.stage
            && all_cut
        {
            finished.last_sequence = last_sequence;
            say.push(FromNode::Finished(Box::new(finished.clone())));
        }
        say
    }

    fn delta(&self, piece: &Piece) -> FromNode {
        FromNode::Delta(Delta {
            attempt: self.attempt.clone(),
            sequence: piece.sequence,
            timeline: piece.timeline.clone(),
            connections_open: self.connections_open,
            cpu_ratio_max: 0.0,
        })
    }

    fn finished(&self, outcome: Outcome) -> Finished {
        let uses = outcome.workers.iter().map(|worker| WorkerUse {
            busy_ratio: worker.busy_ratio,
            cpu_ratio: worker.cpu_ratio,
            cq_overflows: worker.cq_overflows,
        });
        let report = NodeReport {
            name: String::new(),
            timeline: self.total.clone(),
            workers: uses.collect(),
            ..NodeReport::default()
        };
        let mut plan = self.plan.clone();
        // Of the whole plan's connections this node opens its share.
        plan.connections = self.shard.share(u64::from(plan.connections)) as u32;
        plan.slo.clear();
        let facts = RunFacts {
            plan,
            started_at_unix_ms: 0,
            ran_for: outcome.ended_at.since(self.start_at),
            ended_early: self.stopped.clone(),
            cut_after: None,
            faults: Faults::default(),
            environment: Environment::default(),
            reproduce: String::new(),
        };
        let summary = Summary::new(facts, &[report]);
        Finished {
            attempt: self.attempt.clone(),
            last_sequence: 0,
            counts: outcome.counts,
            verdict: Some(summary.verdict),
            reasons: summary.reasons,
            started_at: self.start_at,
            ended_at: outcome.ended_at,
            workers: outcome.workers,
            cancelled: self.stopped.is_some(),
            error: outcome.error,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use fracas_loadgen::measure::{Counts, Interval};
    use fracas_loadgen::scenario::parse;

    use super::*;

    /// A load that the test drives.
    #[derive(Default)]
    struct Script {
        starts: Vec<Instant>,
        waiting: Timeline,
        counts: Counts,
        stopped: bool,
        over: bool,
    }

    #[derive(Clone, Default)]
    struct Fake(Arc<Mutex<Script>>);

    impl Fake {
        fn with<R>(&self, f: impl FnOnce(&mut Script) -> R) -> R {
            f(&mut self.0.lock().unwrap())
        }

        /// Lets `requests` happen in a second.
        fn happen(&self, second: u32, requests: u64) {
            let counts = Counts { planned: requests, sent: requests, ok: requests, ..Counts::default() };
            let mut interval = Interval { second, counts, ..Interval::default() };
            interval.response[0] = (0..requests).map(|i| 1_000_000 + i).collect();
            self.with(|script| {
                script.waiting.add(&interval);
                script.counts.merge(&counts);
            });
        }
    }

    impl Prepared for Fake {
        fn start(self: Box<Self>, start_at: Instant) -> Box<dyn Load> {
            self.with(|script| script.starts.push(start_at));
            self
        }
    }

    impl Load for Fake {
        fn take(&mut self) -> Timeline {
            self.with(|script| std::mem::take(&mut script.waiting))
        }
        fn connections_open(&self) -> u64 {
            1
        }
        fn stop(&mut self) {
            self.with(|script| (script.stopped, script.over) = (true, true));
        }
        fn is_over(&self) -> bool {
            self.with(|script| script.over)
        }
        fn outcome(self: Box<Self>) -> Outcome {
            let (rest, counts) = self.with(|script| (std::mem::take(&mut script.waiting), script.counts));
            Outcome { rest, counts, ended_at: at(9_000), ..Outcome::default() }
        }
    }

    fn at(ms: u64) -> Instant {
        Instant::ZERO + Duration::from_millis(1_000_000 + ms)
    }

    fn attempt(run: &str) -> Attempt {
        Attempt { run: run.into(), number: 1 }
    }

    fn plan() -> Plan {
        parse("f.yml", "name: n\nnodes: 2\ntarget: http://127.0.0.1:1/\nconnections: 4\nphases: [{rate: 10/s, for: 3s}]\n")
            .unwrap()
    }

    fn prepare(member: &mut Member, fake: &Fake, ms: u64) -> FromNode {
        let prepared: Box<dyn Prepared> = Box::new(fake.clone());
        member.on_prepared(attempt("r"), Ok((plan(), Shard::new(1, 2).unwrap(), prepared)), at(ms))
    }

    /// A member that makes load since 100 ms, in a session.
    fn loading() -> (Member, Fake) {
        let fake = Fake::default();
        let mut member = Member::new(at(0));
        assert!(member.on_up(at(0)).is_empty());
        let ready = prepare(&mut member, &fake, 0);
        assert!(matches!(ready, FromNode::Ready { result: Ok(()), .. }));
        let start = ToNode::Start { attempt: attempt("r"), start_at: at(100), clock_error: Duration::ZERO };
        assert!(member.on_told(start, at(50)).is_empty());
        assert_eq!(fake.with(|script| script.starts.clone()), [at(100)]);
        (member, fake)
    }

    fn sequences(said: &[FromNode]) -> Vec<u64> {
        said.iter()
            .filter_map(
                |message| if let FromNode::Delta(delta) = message { Some(delta.sequence) } else { None },
            )
            .collect()
    }

    fn finished(said: &[FromNode]) -> Option<Finished> {
        said.iter().find_map(|m| {
            if let FromNode::Finished(finished) = m { Some((**finished).clone()) } else { None }
        })
    }

    #[test]
    fn every_second_is_told_and_the_end_comes_last() {
        let (mut member, fake) = loading();
        fake.happen(0, 10);
        assert!(member.on_tick(at(600)).is_empty(), "once a second");
        assert_eq!(sequences(&member.on_tick(at(1_100))), [1]);
        fake.happen(1, 10);
        fake.with(|script| script.over = true);
        let said = member.on_tick(at(1_200));
        assert_eq!(sequences(&said), [2]);
        let end = finished(&said).unwrap();
        assert_eq!((end.last_sequence, end.counts.planned, end.cancelled), (2, 20, false));
        assert!(matches!(said.last(), Some(FromNode::Finished(_))));
    }

    #[test]
    fn a_broken_session_costs_nothing_and_the_end_is_said_again() {
        let (mut member, fake) = loading();
        fake.happen(0, 10);
        assert_eq!(sequences(&member.on_tick(at(1_100))), [1]);
        member.on_down();
        fake.happen(1, 10);
        assert!(member.on_tick(at(2_100)).is_empty());
        fake.happen(2, 10);
        fake.with(|script| script.over = true);
        assert!(member.on_tick(at(3_100)).is_empty());
        assert_eq!(member.carried(), Some(&attempt("r")));
        let said = member.on_up(at(4_000));
        assert_eq!(sequences(&said), [1, 2], "the first again, the others as one");
        assert_eq!(finished(&said).unwrap().last_sequence, 2);
        member.on_down();
        assert!(finished(&member.on_up(at(5_000))).is_some());
        member.on_told(ToNode::Cancel { attempt: attempt("r"), reason: "over".into() }, at(5_100));
        assert_eq!(member.carried(), None);
    }

    #[test]
    fn an_orphan_stops_its_load_after_thirty_seconds() {
        let (mut member, fake) = loading();
        member.on_told(ToNode::Heartbeat, at(1_000));
        member.on_down();
        member.on_tick(at(30_900));
        assert!(!fake.with(|script| script.stopped));
        member.on_tick(at(31_000));
        assert!(fake.with(|script| script.stopped));
        member.on_tick(at(31_100));
        let end = finished(&member.on_up(at(40_000))).unwrap();
        assert!(
            end.cancelled && end.reasons[0].contains("heard no controller for 30 s"),
            "{:?}",
            end.reasons
        );
    }

    #[test]
    fn the_controller_may_shorten_the_orphan_timeout() {
        let (mut member, fake) = loading();
        let timings = Timings { orphan_timeout: Duration::from_millis(200), ..Timings::default() };
        member.on_told(
            ToNode::Welcome { session: 1, version: "0.1.0".into(), timings, runs: Vec::new() },
            at(100),
        );
        member.on_tick(at(299));
        assert!(!fake.with(|script| script.stopped));
        member.on_tick(at(300));
        assert!(fake.with(|script| script.stopped));
    }

    #[test]
    fn cancel_stops_the_load_and_what_happened_is_told() {
        let (mut member, fake) = loading();
        fake.happen(0, 7);
        member.on_told(ToNode::Cancel { attempt: attempt("other"), reason: "no".into() }, at(500));
        assert!(!fake.with(|script| script.stopped));
        member.on_told(ToNode::Cancel { attempt: attempt("r"), reason: "lunch".into() }, at(600));
        let said = member.on_tick(at(700));
        let end = finished(&said).unwrap();
        assert_eq!((sequences(&said), end.counts.planned, end.cancelled), (vec![1], 7, true));
    }

    #[test]
    fn a_late_or_unknown_start_is_refused_and_an_attempt_starts_once() {
        let fake = Fake::default();
        let mut member = Member::new(at(0));
        let start = |start_at| ToNode::Start { attempt: attempt("r"), start_at, clock_error: Duration::ZERO };
        let said = member.on_told(start(at(100)), at(0));
        assert!(matches!(&said[..], [FromNode::Error { message, .. }] if message.contains("not prepared")));
        prepare(&mut member, &fake, 0);
        let said = member.on_told(start(at(100)), at(103));
        assert!(
            matches!(&said[..], [FromNode::Error { message, .. }] if message.contains("3.0 ms too late"))
        );
        prepare(&mut member, &fake, 200);
        member.on_told(start(at(300)), at(200));
        member.on_told(start(at(300)), at(210));
        assert_eq!(fake.with(|script| script.starts.len()), 1);
    }

    #[test]
    fn a_node_takes_one_run_at_a_time_and_says_why_it_cannot() {
        let mut member = Member::new(at(0));
        assert_eq!(member.may_prepare(&attempt("r")), Ok(()));
        let said = member.on_prepared(attempt("r"), Err("no such host".into()), at(0));
        assert!(matches!(said, FromNode::Ready { result: Err(reason), .. } if reason == "no such host"));
        assert_eq!(member.carried(), None);
        let (member, _) = loading();
        assert!(member.may_prepare(&attempt("s")).unwrap_err().contains("another run"));
    }
}
