//! What makes a node's load: loadgen's runner, on the ring.

use fracas_dataplane::clock::Instant;
use fracas_loadgen::arrival::Shard;
use fracas_loadgen::measure::Timeline;
use fracas_loadgen::report::length;
use fracas_loadgen::runner;
use fracas_loadgen::scenario::Plan;

use super::load::{Generator, Load, Outcome, Prepared};
use crate::session::WorkerUsage;

/// Threads of loadgen, one ring each.
pub struct RingGenerator;

impl Generator for RingGenerator {
    fn prepare(&self, plan: &Plan, shard: Shard) -> Result<Box<dyn Prepared>, String> {
        let prepared = runner::prepare(plan, shard).map_err(|why| why.to_string())?;
        Ok(Box::new(RingPrepared(prepared)))
    }
}

struct RingPrepared(runner::Prepared);

impl Prepared for RingPrepared {
    fn start(self: Box<Self>, start_at: Instant) -> Box<dyn Load> {
        Box::new(RingLoad { load: self.0.start(start_at), start_at })
    }
}

struct RingLoad {
    load: runner::RunningLoad,
    start_at: Instant,
}

impl Load for RingLoad {
    fn take(&mut self) -> Timeline {
        self.load.take()
    }

    fn connections_open(&self) -> u64 {
        self.load.progress().connections
    }

    fn stop(&mut self) {
        self.load.abort();
    }

    fn is_over(&self) -> bool {
        self.load.is_finished()
    }

    fn outcome(self: Box<Self>) -> Outcome {
        let outcome = self.load.wait();
        let workers = outcome.workers.iter().map(|worker| WorkerUsage {
            busy_ratio: worker.busy_ratio,
            cpu_ratio: worker.cpu_ratio,
            cq_overflows: worker.cq_overflows,
        });
        let late = (!outcome.started_late.is_zero())
            .then(|| format!("it started {} late", length(outcome.started_late)));
        Outcome {
            rest: Timeline::default(),
            counts: outcome.timeline.counts(),
            workers: workers.collect(),
            ended_at: self.start_at + outcome.ran_for,
            error: late.unwrap_or_default(),
        }
    }
}
