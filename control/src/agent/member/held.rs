//! The run that a node has: its results on their way, its load, its end.

use std::time::Duration;

use fracas_dataplane::clock::Instant;
use fracas_loadgen::arrival::Shard;
use fracas_loadgen::measure::{Environment, Faults, NodeReport, RunFacts, Summary, Timeline, WorkerUse};
use fracas_loadgen::scenario::Plan;

use super::super::load::{Load, Outcome, Prepared};
use super::super::outbox::{Outbox, Piece};
use crate::session::{Attempt, Delta, Finished, FromNode};

/// The run that it has.
pub(super) struct Held {
    pub(super) attempt: Attempt,
    plan: Plan,
    shard: Shard,
    start_at: Instant,
    pub(super) stage: Stage,
    pub(super) outbox: Outbox,
    total: Timeline,
    pub(super) taken_at: Instant,
    pub(super) stopped: Option<String>,
    connections_open: u64,
    /// Whether its end was said in this session.
    is_end_told: bool,
}

pub(super) enum Stage {
    Prepared(Box<dyn Prepared>),
    Loading(Box<dyn Load>),
    /// On the way from one stage to the next; no call finds it.
    Moving,
    /// Its last pieces are cut, or still wait for room; then it is said.
    Over(Finished),
}

impl Held {
    /// A run whose connections are open.
    pub(super) fn new(
        attempt: Attempt,
        plan: Plan,
        shard: Shard,
        prepared: Box<dyn Prepared>,
        now: Instant,
    ) -> Held {
        Held {
            attempt,
            plan,
            shard,
            start_at: Instant::FAR_FUTURE,
            stage: Stage::Prepared(prepared),
            outbox: Outbox::default(),
            total: Timeline::default(),
            taken_at: now,
            stopped: None,
            connections_open: 0,
            is_end_told: false,
        }
    }

    /// Everything that was not acknowledged, for a new session.
    pub(super) fn say_again(&mut self) -> Vec<FromNode> {
        self.is_end_told = false;
        let mut say: Vec<FromNode> = self.outbox.unacked().map(|piece| self.delta(piece)).collect();
        say.extend(self.flush());
        say
    }

    /// Lets a prepared load begin.
    pub(super) fn start(&mut self, start_at: Instant) {
        if let Stage::Prepared(prepared) = std::mem::replace(&mut self.stage, Stage::Moving) {
            self.stage = Stage::Loading(prepared.start(start_at));
            (self.start_at, self.taken_at) = (start_at, start_at);
        }
    }

    /// Takes what the load has to tell, and its end.
    pub(super) fn take(&mut self, now: Instant) {
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

    /// Everything that can be said now, in order; the end comes last, and once.
    pub(super) fn flush(&mut self) -> Vec<FromNode> {
        let pieces = self.outbox.cut();
        let mut say: Vec<FromNode> = pieces.iter().map(|piece| self.delta(piece)).collect();
        let all_cut = self.outbox.is_cut();
        let last_sequence = self.outbox.last_sequence();
        if let Stage::Over(finished) = &mut self.stage
            && all_cut
            && !self.is_end_told
        {
            self.is_end_told = true;
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
