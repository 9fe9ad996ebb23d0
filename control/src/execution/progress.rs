//! How a run goes while it goes, and how it stood at its end.

use std::time::Duration;

use fracas_dataplane::clock::Instant;
use fracas_loadgen::measure::{Counts, Distribution, Grade, Interval};
use fracas_loadgen::scenario::OnNodeLoss;

use super::faults::Fault;
use super::{Execution, Member};

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

impl Execution {
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
    pub(super) fn over_at(&self) -> Instant {
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
}

/// Response, service and lag of one second.
pub fn series_of(interval: &Interval) -> [Distribution; 3] {
    [interval.response_all(), interval.service_all(), interval.lag.clone()]
}
