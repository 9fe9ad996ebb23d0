//! When to wake for what is due: a sleep overshoots, on a virtual machine by 100 µs and more, so the worker
//! learns by how much and asks to be woken that much earlier. Arithmetic only.

use std::time::Duration;

use fracas_dataplane::clock::Instant;

/// A worker that woke early looks at its ring again and again for at most this long, then sleeps on. It bounds
/// the CPU that punctuality costs: 50 µs per request, and none where replies wake the worker anyway.
const POLL_MAX: Duration = Duration::from_micros(50);
/// A wait must be this much longer than what it is ended early by. Below it (10,000 requests a second and more)
/// every wait would end in polling.
const EARLY_FROM: Duration = Duration::from_micros(100);
/// However long a sleep overshot, it is not ended earlier than this.
const EARLY_MAX_NS: u64 = 300_000;
/// One step of the estimate: a hundred sleeps find 100 µs.
const STEP_NS: u64 = 1_000;

/// Turns due times into deadlines for the kernel.
#[derive(Debug, Default)]
pub(super) struct Sleep {
    early_ns: u64,
    asked: Option<Instant>,
    /// What the last early sleep was for.
    early_for: Option<Instant>,
}

impl Sleep {
    /// The deadline to ask for, so that the loop turns at `due`, as seen at `now`.
    pub(super) fn deadline(&mut self, due: Instant, now: Instant) -> Instant {
        self.asked = None;
        if due == Instant::FAR_FUTURE || due <= now {
            return due;
        }
        let left = due.since(now);
        if self.early_for == Some(due) && left <= POLL_MAX {
            return now;
        }
        let early = Duration::from_nanos(self.early_ns);
        let deadline = if left > early + EARLY_FROM { due - early } else { due };
        self.early_for = (deadline < due).then_some(due);
        self.asked = Some(deadline);
        deadline
    }

    /// The deadline of a wait that nothing is due at the end of: it need not be met, and teaches nothing.
    pub(super) fn beat(&mut self, at: Instant) -> Instant {
        self.asked = None;
        at
    }

    /// The wait ended at `now` and nothing but its deadline had ended it: an estimate of the median moves.
    pub(super) fn on_woken_by_deadline(&mut self, now: Instant) {
        let Some(asked) = self.asked.take().filter(|asked| now >= *asked) else { return };
        let overshoot_ns = u64::try_from(now.since(asked).as_nanos()).unwrap_or(u64::MAX);
        self.early_ns = if overshoot_ns > self.early_ns {
            (self.early_ns + STEP_NS).min(EARLY_MAX_NS).min(overshoot_ns)
        } else {
            self.early_ns.saturating_sub(STEP_NS).max(overshoot_ns)
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Instant = Instant::from_nanos(1_000_000_000_000);

    fn us(us: u64) -> Duration {
        Duration::from_micros(us)
    }

    #[test]
    fn an_overshoot_is_learned_and_forgotten() {
        let mut sleep = Sleep::default();
        for _ in 0..200 {
            let asked = sleep.deadline(START + us(1000), START);
            sleep.on_woken_by_deadline(asked + us(140));
        }
        assert_eq!(sleep.deadline(START + us(1000), START), START + us(860));
        for _ in 0..200 {
            let asked = sleep.deadline(START + us(1000), START);
            sleep.on_woken_by_deadline(asked);
        }
        assert_eq!(sleep.deadline(START + us(1000), START), START + us(1000));
    }

    #[test]
    fn only_the_rest_of_an_early_sleep_is_polled() {
        let mut sleep = Sleep { early_ns: 140_000, ..Sleep::default() };
        let due = START + us(1000);
        assert_eq!(sleep.deadline(due, START), START + us(860));
        assert_eq!(sleep.deadline(due, START + us(960)), START + us(960), "polled");
        let next = due + us(240);
        assert_eq!(sleep.deadline(next, due), next, "slept: too near to wake early for");
        assert_eq!(sleep.deadline(START - us(1), START), START - us(1));
        assert_eq!(sleep.deadline(Instant::FAR_FUTURE, START), Instant::FAR_FUTURE);
    }

    #[test]
    fn a_wait_that_a_completion_ended_teaches_nothing() {
        let mut sleep = Sleep::default();
        let asked = sleep.deadline(START + us(1000), START);
        sleep.on_woken_by_deadline(asked - us(500));
        assert_eq!(sleep.early_ns, 0);
    }
}
