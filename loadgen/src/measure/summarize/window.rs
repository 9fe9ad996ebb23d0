//! The measured part of a run: when it was, what could have been answered in it, and what time its users had.

use std::time::Duration;

use crate::measure::facts::RunFacts;
use crate::measure::interval::{Interval, Timeline};
use crate::measure::sample::OutcomeClass;
use crate::scenario::{Load, Pace, Plan, Stop};

/// The measured part of the time axis.
pub(super) struct Window {
    pub warm_up: Duration,
    pub measured: Duration,
}

impl Window {
    pub fn of(facts: &RunFacts) -> Window {
        let planned_end = facts.plan.duration();
        // A run that stops by count ends with its last reply; one cut short, when it was cut.
        let end = match planned_end {
            Some(end) if facts.ended_early.is_none() => end,
            Some(end) => end.min(facts.cut_after.unwrap_or(facts.ran_for)),
            None => facts.ran_for,
        };
        let warm_up = facts.plan.phases.iter().filter(|phase| phase.warm_up).map(|phase| match phase.stop {
            Stop::After(over) => over,
            Stop::Requests(count) => match &phase.load {
                Load::Open(Pace::Constant { rate }) => {
                    Duration::from_secs_f64((count as f64 / rate.as_f64()).min(1e9))
                }
                _ => Duration::ZERO,
            },
        });
        let warm_up = warm_up.sum::<Duration>().min(end);
        Window { warm_up, measured: end - warm_up }
    }

    /// How many of the due requests can have ended within the run if that takes `wait_ns`: those due in its last moments
    /// cannot. `None` where fewer than half were due early enough: a target that is slow is not told from a saturated one
    /// then. Within a second the requests are taken to be spread evenly.
    pub fn answerable(&self, timeline: &Timeline, wait_ns: f64) -> Option<f64> {
        let last = wait_ns / 1e9;
        if last > self.measured.as_secs_f64() / 2.0 {
            return None;
        }
        let end = (self.warm_up + self.measured).as_secs_f64();
        let due_by = end - last;
        let of_second = |interval: &Interval| {
            let from = f64::from(interval.second);
            let over = (end - from).clamp(1e-9, 1.0);
            interval.counts.planned as f64 * ((due_by - from) / over).clamp(0.0, 1.0)
        };
        Some(timeline.intervals().map(of_second).sum())
    }

    /// The measured part as long as anything happened in it: a run ends with its last reply.
    pub fn actual(&self, ran_for: Duration) -> Duration {
        self.measured.min(ran_for.saturating_sub(self.warm_up))
    }
}

/// What a request of the run takes until it ends, on average: from its send to its reply, or its whole timeout. Of those
/// that were unanswered at the end only a lower bound is known.
pub(super) fn typical_wait(timeline: &Timeline) -> f64 {
    let class = |class: OutcomeClass| match class {
        // With no connection until then, it has no time of service.
        OutcomeClass::Timeout => timeline.response_of(class),
        _ => timeline.service_of(class),
    };
    let (sum, count) = OutcomeClass::ALL.map(class).iter().fold((0.0, 0), |(sum, count), distribution| {
        (sum + distribution.mean() * distribution.count() as f64, count + distribution.count())
    });
    sum / count.max(1) as f64
}

/// The time that all virtual users of a plan have together.
pub(super) fn user_time(plan: &Plan, window: &Window) -> Duration {
    let users = plan.phases.iter().filter_map(|phase| match phase.load {
        Load::Closed { users, .. } => Some((users, phase.stop)),
        Load::Open(_) => None,
    });
    let each = users.map(|(users, stop)| match stop {
        Stop::After(over) => over.saturating_mul(users),
        // Only the last phase of users ends by count, and it ends with the run.
        Stop::Requests(_) => window.measured.saturating_mul(users),
    });
    each.fold(Duration::ZERO, Duration::saturating_add)
}
