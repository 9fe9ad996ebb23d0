//! The phases of a plan on one time axis, for one shard.

use std::time::Duration;

use super::{Arrivals, Constant, Poisson, Ramp, Shard, Steps};
use crate::scenario::{Load, Pace, Plan, Stop};

/// One request that is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arrival {
    /// When, counted from the start of the run.
    pub due: Duration,
    /// Which phase it belongs to.
    pub phase: u16,
    /// True in a warm-up phase: counted apart, not in the percentiles.
    pub warm_up: bool,
}

/// Requests that are due close together, taken at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Batch {
    /// When the first and the last of them are due, counted from the start of the run.
    pub first: Duration,
    /// See `first`.
    pub last: Duration,
    /// How many.
    pub count: u64,
    /// As of an [`Arrival`].
    pub warm_up: bool,
}

impl Batch {
    /// When they are due on average.
    pub fn middle(&self) -> Duration {
        self.first + self.last.saturating_sub(self.first) / 2
    }
}

/// Where a phase lies on the run's time axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PhaseSpan {
    /// Counted from the start of the run.
    pub start: Duration,
    /// `None` when only the replies decide: a closed or Poisson phase that stops by count.
    pub end: Option<Duration>,
    /// Requests of this phase are counted apart.
    pub warm_up: bool,
    /// `Some` for a closed phase: this shard's users.
    pub users: Option<u32>,
    /// This shard's requests when the phase stops by count.
    pub requests: Option<u64>,
}

/// Hands out the arrivals of all open phases of one shard, in order.
#[derive(Debug)]
pub struct Schedule {
    phases: Vec<Planned>,
    spans: Vec<PhaseSpan>,
    at_phase: usize,
    next: Option<Arrival>,
}

#[derive(Debug)]
struct Planned {
    pace: Option<PaceState>,
    /// Index of the next arrival in the pace's own numbering, and how far apart this shard's are.
    index: u64,
    stride: u64,
    /// Arrivals with an index at or beyond this are not made.
    index_end: u64,
    /// How often the pace was asked.
    #[cfg(test)]
    asked: u64,
}

#[derive(Debug)]
enum PaceState {
    Constant(Constant),
    Poisson(Poisson),
    Ramp(Ramp),
    Steps(Steps),
}

impl Schedule {
    /// Lays out a validated plan for one shard.
    pub fn new(plan: &Plan, shard: Shard) -> Schedule {
        let mut phases = Vec::with_capacity(plan.phases.len());
        let mut spans = Vec::with_capacity(plan.phases.len());
        let mut start = Duration::ZERO;
        for (number, phase) in plan.phases.iter().enumerate() {
            let (planned, span) = lay_out(plan.seed, number, phase, shard, start);
            // Only the last phase may have an open end (`Plan::validate`).
            start = span.end.unwrap_or(start);
            phases.push(planned);
            spans.push(span);
        }
        let mut schedule = Schedule { phases, spans, at_phase: 0, next: None };
        schedule.next = schedule.compute();
        schedule
    }

    /// The next arrival, without taking it.
    pub fn peek(&self) -> Option<Arrival> {
        self.next
    }

    /// Where the phases lie, in order; closed ones too.
    pub fn spans(&self) -> &[PhaseSpan] {
        &self.spans
    }

    /// When the last phase ends; `None` when only the replies decide.
    pub fn end(&self) -> Option<Duration> {
        self.spans.last().map_or(Some(Duration::ZERO), |span| span.end)
    }

    /// Takes the next arrival and all of its phase that are due before `limit`, in a number of steps that grows with the
    /// logarithm of how many these are. `None` when the next is not due before it.
    pub fn take_before(&mut self, limit: Duration) -> Option<Batch> {
        let Arrival { due: first, warm_up, .. } = self.next.filter(|next| next.due < limit)?;
        let (span, phase) = (self.spans.get(self.at_phase)?, self.phases.get_mut(self.at_phase)?);
        let limit = span.end.map_or(limit, |end| end.min(limit));
        let (more, last) = phase.skip_before(limit.saturating_sub(span.start));
        let last = last.map_or(first, |offset| span.start + offset);
        self.next = self.compute();
        Some(Batch { first, last, count: 1 + more, warm_up })
    }

    fn compute(&mut self) -> Option<Arrival> {
        while let (Some(phase), Some(span)) =
            (self.phases.get_mut(self.at_phase), self.spans.get(self.at_phase))
        {
            if let Some(offset) = phase.next_due() {
                let due = span.start + offset;
                if span.end.is_none_or(|end| due < end) {
                    return Some(Arrival { due, phase: self.at_phase as u16, warm_up: span.warm_up });
                }
            }
            self.at_phase += 1;
        }
        None
    }
}

impl Iterator for Schedule {
    type Item = Arrival;

    /// Takes the next arrival.
    fn next(&mut self) -> Option<Arrival> {
        let arrival = self.next?;
        self.next = self.compute();
        Some(arrival)
    }
}

impl Planned {
    fn next_due(&mut self) -> Option<Duration> {
        if self.index >= self.index_end {
            return None;
        }
        let index = self.index;
        self.index = self.index.checked_add(self.stride)?;
        self.due_at(index)
    }

    /// Passes over the arrivals that are due before `limit`, an offset from the start of the phase: how many these were
    /// and when the last was due.
    fn skip_before(&mut self, limit: Duration) -> (u64, Option<Duration>) {
        if let Some(PaceState::Poisson(pace)) = &mut self.pace {
            let (count, last) = pace.skip_before(limit, self.index, self.index_end);
            self.index += count;
            return (count, last);
        }
        // Due times rise with the index: double the step while all of it is before the limit, then halve it.
        let (mut count, mut step) = (0_u64, 1_u64);
        let mut last = None;
        let mut is_growing = true;
        while step > 0 {
            let due = (count + step - 1)
                .checked_mul(self.stride)
                .and_then(|ahead| self.index.checked_add(ahead))
                .filter(|index| *index < self.index_end)
                .and_then(|index| self.due_at(index))
                .filter(|due| *due < limit);
            is_growing &= due.is_some() && step < 1 << 40;
            if due.is_some() {
                (count, last) = (count + step, due);
            }
            step = if is_growing { step * 2 } else { step / 2 };
        }
        self.index += count * self.stride;
        (count, last)
    }

    fn due_at(&mut self, index: u64) -> Option<Duration> {
        #[cfg(test)]
        {
            self.asked += 1;
        }
        match self.pace.as_mut()? {
            PaceState::Constant(pace) => pace.due_at(index),
            PaceState::Poisson(pace) => pace.due_at(index),
            PaceState::Ramp(pace) => pace.due_at(index),
            PaceState::Steps(pace) => pace.due_at(index),
        }
    }
}

fn lay_out(
    seed: u64,
    number: usize,
    phase: &crate::scenario::Phase,
    shard: Shard,
    start: Duration,
) -> (Planned, PhaseSpan) {
    let total = match phase.stop {
        Stop::Requests(count) => Some(count),
        Stop::After(_) => None,
    };
    let mut end = match phase.stop {
        Stop::After(over) => Some(start + over),
        Stop::Requests(_) => None,
    };
    let mut users = None;
    // Deterministic paces are dealt round robin by the plan's own index.
    let (mut index, mut stride) = (u64::from(shard.index()), u64::from(shard.of()));
    let mut index_end = total.unwrap_or(u64::MAX);
    let pace = match &phase.load {
        Load::Closed { users: all, .. } => {
            users = Some(u32::try_from(shard.share(u64::from(*all))).unwrap_or(u32::MAX));
            None
        }
        Load::Open(Pace::Constant { rate }) => {
            let mut pace = Constant::new(*rate);
            if let Some(count) = total {
                end = pace.due_at(count).map(|offset| start + offset);
            }
            Some(PaceState::Constant(pace))
        }
        Load::Open(Pace::Poisson { rate }) => {
            (index, stride) = (0, 1);
            index_end = total.map_or(u64::MAX, |count| shard.share(count));
            Some(PaceState::Poisson(Poisson::new(*rate, seed, number as u64, shard)))
        }
        Load::Open(Pace::Ramp { from, to }) => {
            Some(PaceState::Ramp(Ramp::new(*from, *to, end.unwrap_or(start).saturating_sub(start))))
        }
        Load::Open(Pace::Steps(steps)) => {
            let steps: Vec<_> = steps.iter().map(|step| (step.rate, step.over)).collect();
            Steps::new(&steps).ok().map(PaceState::Steps)
        }
    };
    let span = PhaseSpan {
        start,
        end,
        warm_up: phase.warm_up,
        users,
        requests: total.map(|count| shard.share(count)),
    };
    let planned = Planned {
        pace,
        index,
        stride,
        index_end,
        #[cfg(test)]
        asked: 0,
    };
    (planned, span)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::{Phase, Step};
    use proptest::prelude::*;

    fn plan(phases: Vec<Phase>) -> Plan {
        let mut plan = Plan::for_target("http://127.0.0.1:1/".parse().unwrap());
        plan.connections = 8;
        plan.phases = phases;
        plan.validate().unwrap();
        plan
    }

    fn constant(rate: &str, stop: Stop, warm_up: bool) -> Phase {
        Phase { load: Load::Open(Pace::Constant { rate: rate.parse().unwrap() }), stop, warm_up }
    }

    fn after(ms: u64) -> Stop {
        Stop::After(Duration::from_millis(ms))
    }

    #[test]
    fn phases_follow_each_other_and_warm_up_is_flagged() {
        let plan = plan(vec![constant("2/s", after(1000), true), constant("4/s", Stop::Requests(3), false)]);
        let all: Vec<_> =
            Schedule::new(&plan, Shard::WHOLE).map(|a| (a.due.as_millis(), a.phase, a.warm_up)).collect();
        assert_eq!(all, [(0, 0, true), (500, 0, true), (1000, 1, false), (1250, 1, false), (1500, 1, false)]);
        assert_eq!(Schedule::new(&plan, Shard::WHOLE).end(), Some(Duration::from_millis(1750)));
    }

    #[test]
    fn a_closed_phase_has_users_and_no_arrivals() {
        let load = Load::Closed { users: 5, think_time: Duration::ZERO };
        let plan = plan(vec![
            Phase { load, stop: after(1000), warm_up: false },
            constant("1/s", Stop::Requests(1), false),
        ]);
        let mut schedule = Schedule::new(&plan, Shard::new(0, 2).unwrap());
        assert_eq!(schedule.spans()[0].users, Some(3));
        assert_eq!(schedule.next().map(|a| a.due), Some(Duration::from_secs(1)));
        assert_eq!(schedule.next(), None);
    }

    #[test]
    fn a_rate_below_the_number_of_workers_stays_the_asked_rate() {
        // wrk2 makes the rate unlimited here (its issue 147).
        let plan = plan(vec![constant("1/s", after(10_000), false)]);
        let total: usize = (0..8).map(|i| Schedule::new(&plan, Shard::new(i, 8).unwrap()).count()).sum();
        assert_eq!(total, 10);
    }

    #[test]
    fn poisson_shards_stop_at_the_count_together() {
        let rate = "1000/s".parse().unwrap();
        let plan = plan(vec![Phase {
            load: Load::Open(Pace::Poisson { rate }),
            stop: Stop::Requests(1001),
            warm_up: false,
        }]);
        let total: usize = (0..3).map(|i| Schedule::new(&plan, Shard::new(i, 3).unwrap()).count()).sum();
        assert_eq!(total, 1001);
    }

    proptest! {
        #[test]
        fn the_shards_of_a_deterministic_plan_are_the_plan(
            rates in proptest::collection::vec(1_u64..2000, 3),
            ms in proptest::collection::vec(1_u64..1500, 3),
            of in 1_u32..9,
        ) {
            let rate = |i: usize| crate::scenario::Rate::per_second(rates[i]).unwrap();
            let plan = plan(vec![
                constant(&rate(0).to_string(), after(ms[0]), false),
                Phase {
                    load: Load::Open(Pace::Ramp { from: rate(0), to: rate(1) }),
                    stop: after(ms[1]),
                    warm_up: true,
                },
                Phase {
                    load: Load::Open(Pace::Steps(vec![
                        Step { rate: rate(1), over: Duration::from_millis(ms[1]) },
                        Step { rate: rate(2), over: Duration::from_millis(ms[2]) },
                    ])),
                    stop: after(ms[1] + ms[2]),
                    warm_up: false,
                },
            ]);
            let whole: Vec<_> = Schedule::new(&plan, Shard::WHOLE).collect();
            prop_assert!(whole.is_sorted_by_key(|a| a.due));
            let mut dealt: Vec<_> =
                (0..of).flat_map(|i| Schedule::new(&plan, Shard::new(i, of).unwrap())).collect();
            dealt.sort_by_key(|a| (a.due, a.phase));
            prop_assert_eq!(whole, dealt);
        }
    }

    #[test]
    fn many_are_counted_in_few_steps_and_as_if_taken_one_by_one() {
        let rate = |text: &str| text.parse::<crate::scenario::Rate>().unwrap();
        let over = Duration::from_secs(1);
        let step = |text: &str| Step { rate: rate(text), over: over / 2 };
        for (pace, total) in [
            (Pace::Constant { rate: rate("1000M/s") }, 1_000_000_000),
            (Pace::Constant { rate: rate("999.9k/s") }, 999_900),
            (Pace::Ramp { from: rate("1/s"), to: rate("1M/s") }, 500_001),
            (Pace::Steps(vec![step("7/s"), step("700k/s")]), 350_004),
        ] {
            let plan = plan(vec![Phase { load: Load::Open(pace), stop: Stop::After(over), warm_up: false }]);
            for parts in [1_u32, 3] {
                let (mut all, mut asked) = (0, 0);
                for part in 0..parts {
                    let shard = Shard::new(part, parts).unwrap();
                    let (mut schedule, mut one_by_one) =
                        (Schedule::new(&plan, shard), Schedule::new(&plan, shard));
                    for millisecond in 1..=1_000 {
                        let limit = Duration::from_millis(millisecond);
                        let batch = schedule.take_before(limit);
                        let batch =
                            batch.map_or((0, None), |batch| (batch.count, Some((batch.first, batch.last))));
                        if total < 1_000_000 {
                            let taken: Vec<_> = std::iter::from_fn(|| {
                                one_by_one.peek().filter(|a| a.due < limit)?;
                                Some(one_by_one.next()?.due)
                            })
                            .collect();
                            let ends = taken.first().copied().zip(taken.last().copied());
                            assert_eq!(batch, (taken.len() as u64, ends), "{plan:?} {millisecond}");
                        }
                        all += batch.0;
                    }
                    assert_eq!(schedule.peek(), None);
                    asked += schedule.phases[0].asked;
                }
                assert_eq!(all, total, "{plan:?}");
                assert!(asked < 50_000 * u64::from(parts), "{asked}");
            }
        }
    }

    #[test]
    fn many_of_poisson_are_as_many_as_its_rate_says_and_end_with_their_count() {
        let of = |stop| {
            let load = Load::Open(Pace::Poisson { rate: "100M/s".parse().unwrap() });
            let plan = plan(vec![Phase { load, stop, warm_up: false }]);
            let mut schedule = Schedule::new(&plan, Shard::WHOLE);
            let mut counts = Vec::new();
            for tenth in 1..=10 {
                let limit = Duration::from_millis(100 * tenth);
                counts.push(schedule.take_before(limit).map_or(0, |batch| batch.count));
                // Those behind it go on from there.
                let next: Vec<_> = schedule.by_ref().take(3).collect();
                assert!(next.iter().all(|arrival| arrival.due >= limit && arrival.due < limit + limit / 100));
            }
            (counts, schedule.phases[0].asked)
        };
        let (counts, asked) = of(Stop::After(Duration::from_secs(1)));
        // Of Poisson the variance is the mean: within five standard deviations, and no two alike.
        assert!(counts.iter().all(|count| count.abs_diff(10_000_000) < 16_000), "{counts:?}");
        assert!(counts.windows(2).all(|pair| pair[0] != pair[1]) && asked < 100);
        assert_eq!(of(Stop::Requests(15_000_000)).0.iter().sum::<u64>() / 10, 1_500_000 - 1);
    }
}
