//! The closed model: who may send again when a reply came. No I/O, no clock.
//!
//! A user is a loop "send, wait for the reply, think", and is known only by what it is doing at the moment:
//! a request, or a timer. Users go on from one closed phase into the next; a phase with more users starts
//! the missing ones, one with fewer lets the surplus end at their next turn.

use std::time::Duration;

use crate::arrival::PhaseSpan;
use crate::scenario::{Load, Plan};

/// The virtual users of one worker.
#[derive(Debug)]
pub(super) struct VirtualUsers {
    /// The closed phases only.
    phases: Vec<ClosedPhase>,
    /// How many of them have begun.
    begun: usize,
    active: u32,
}

#[derive(Clone, Copy, Debug)]
struct ClosedPhase {
    start: Duration,
    /// `None`: until `requests_left` is spent.
    end: Option<Duration>,
    users: u32,
    think_time: Duration,
    requests_left: u64,
    warm_up: bool,
}

impl VirtualUsers {
    /// The users of a plan whose phases lie at `spans` for this worker.
    pub(super) fn new(plan: &Plan, spans: &[PhaseSpan]) -> VirtualUsers {
        let closed = plan.phases.iter().zip(spans).filter_map(|(phase, span)| match phase.load {
            Load::Closed { think_time, .. } => Some(ClosedPhase {
                start: span.start,
                end: span.end,
                users: span.users.unwrap_or_default(),
                think_time,
                requests_left: span.requests.unwrap_or(u64::MAX),
                warm_up: span.warm_up,
            }),
            Load::Open(_) => None,
        });
        VirtualUsers { phases: closed.collect(), begun: 0, active: 0 }
    }

    /// When the next closed phase begins.
    pub(super) fn next_beginning(&self) -> Option<Duration> {
        self.phases.get(self.begun).map(|phase| phase.start)
    }

    /// Begins the next closed phase if its time has come: how many users start, whose turn it then is.
    pub(super) fn begin(&mut self, elapsed: Duration) -> Option<u32> {
        let phase = self.phases.get(self.begun).filter(|phase| phase.start <= elapsed)?;
        let users = phase.users.saturating_sub(self.active);
        self.begun += 1;
        self.active += users;
        Some(users)
    }

    /// A user's turn at `elapsed`: `Some(warm_up)` when it sends, `None` when it ends here.
    pub(super) fn take_turn(&mut self, elapsed: Duration) -> Option<bool> {
        let active = self.active;
        if let Some(phase) = self.begun.checked_sub(1).and_then(|last| self.phases.get_mut(last))
            && phase.end.is_none_or(|end| elapsed < end)
            && phase.requests_left > 0
            && active <= phase.users
        {
            phase.requests_left -= 1;
            return Some(phase.warm_up);
        }
        self.active -= 1;
        None
    }

    /// The pause between a reply and the next request.
    pub(super) fn think_time(&self) -> Duration {
        self.begun.checked_sub(1).map_or(Duration::ZERO, |last| self.phases[last].think_time)
    }

    /// No request is made at or after `elapsed`.
    pub(super) fn stop(&mut self, elapsed: Duration) {
        self.phases.retain(|phase| phase.start < elapsed);
        for phase in &mut self.phases {
            phase.end = Some(phase.end.map_or(elapsed, |end| end.min(elapsed)));
        }
        self.begun = self.begun.min(self.phases.len());
    }

    /// Whether no user will ever send again.
    pub(super) fn are_done(&self, elapsed: Duration) -> bool {
        self.begun == self.phases.len()
            && self.phases.last().is_none_or(|phase| {
                self.active == 0 || phase.requests_left == 0 || phase.end.is_some_and(|end| end <= elapsed)
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arrival::{Schedule, Shard};
    use crate::scenario::{Phase, Stop};

    const fn second(s: u64) -> Duration {
        Duration::from_secs(s)
    }

    fn users(phases: &[(u32, Stop, bool)]) -> VirtualUsers {
        let mut plan = Plan::for_target("http://127.0.0.1:1/".parse().unwrap());
        plan.connections = 10;
        plan.phases = phases
            .iter()
            .map(|(users, stop, warm_up)| Phase {
                load: Load::Closed { users: *users, think_time: Duration::ZERO },
                stop: *stop,
                warm_up: *warm_up,
            })
            .collect();
        plan.validate().unwrap();
        VirtualUsers::new(&plan, Schedule::new(&plan, Shard::WHOLE).spans())
    }

    #[test]
    fn users_go_on_into_the_next_phase_and_only_the_missing_start() {
        let mut users = users(&[(2, Stop::After(second(1)), true), (3, Stop::After(second(1)), false)]);
        assert_eq!(users.begin(Duration::ZERO), Some(2));
        assert_eq!(users.take_turn(Duration::ZERO), Some(true));
        assert_eq!(users.take_turn(Duration::ZERO), Some(true));
        assert_eq!((users.begin(Duration::ZERO), users.next_beginning()), (None, Some(second(1))));
        assert_eq!(users.begin(second(1)), Some(1));
        assert_eq!(users.take_turn(second(1)), Some(false));
        assert!(!users.are_done(second(1)) && users.are_done(second(2)));
        assert_eq!(users.take_turn(second(2)), None);
    }

    #[test]
    fn surplus_users_end_at_their_next_turn() {
        let mut users = users(&[(3, Stop::After(second(1)), false), (1, Stop::After(second(1)), false)]);
        users.begin(Duration::ZERO);
        users.begin(second(1));
        let turns: Vec<_> = (0..3).map(|_| users.take_turn(second(1)).is_some()).collect();
        assert_eq!(turns, [false, false, true]);
    }

    #[test]
    fn a_count_is_spent_exactly_by_any_number_of_users() {
        let mut users = users(&[(4, Stop::Requests(10), false)]);
        assert_eq!(users.begin(Duration::ZERO), Some(4));
        let sent = (0..14)
            .filter(|i| *i < 4 + 10)
            .filter(|_| users.active > 0 && users.take_turn(second(1)).is_some());
        assert_eq!(sent.count(), 10);
        assert!(users.are_done(second(1)));
    }

    #[test]
    fn stopping_ends_the_phase_and_all_later_ones() {
        let mut users = users(&[(1, Stop::After(second(5)), false), (1, Stop::After(second(5)), false)]);
        users.begin(Duration::ZERO);
        users.stop(second(2));
        assert!(!users.are_done(second(1)) && users.are_done(second(2)));
        assert_eq!((users.next_beginning(), users.take_turn(second(2))), (None, None));
    }
}
