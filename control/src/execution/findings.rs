//! What a run leaves behind: everything that its report is made of.

use fracas_dataplane::clock::Instant;
use fracas_loadgen::measure::{Environment, FaultWindow, Faults, NodeReport, RunFacts, WorkerUse};
use serde_json::json;

use super::{Execution, Member};
use crate::run::RunNode;
use crate::session::Finished;

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

impl Execution {
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
}

fn worker_uses(finished: &Finished) -> Vec<WorkerUse> {
    let uses = finished.workers.iter().map(|worker| WorkerUse {
        busy_ratio: worker.busy_ratio,
        cpu_ratio: worker.cpu_ratio,
        cq_overflows: worker.cq_overflows,
    });
    uses.collect()
}
