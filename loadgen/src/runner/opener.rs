//! When the next connect may begin: a steady pace, and a growing pause while connects fail. Arithmetic only.

use std::time::Duration;

use fracas_dataplane::clock::Instant;

/// The first pause after a failed connect; it doubles with every further failure.
const PAUSE_FIRST: Duration = Duration::from_millis(10);
/// No pause is longer: a target that comes back is found within this time.
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// Paces connects.
#[derive(Debug)]
pub(super) struct Opener {
    gap: Duration,
    next_at: Instant,
    failures_in_a_row: u32,
}

impl Opener {
    /// At most one connect in `gap`.
    pub(super) fn new(gap: Duration) -> Opener {
        Opener { gap, next_at: Instant::ZERO, failures_in_a_row: 0 }
    }

    /// The time between two connects.
    pub(super) fn gap(&self) -> Duration {
        self.gap
    }

    /// When the next connect may begin.
    pub(super) fn next_at(&self) -> Instant {
        self.next_at
    }

    /// A connect begins. A pace that the loop could not keep is not made up for by a burst.
    pub(super) fn on_begun(&mut self, now: Instant) {
        self.next_at = self.next_at.max(now - self.gap) + self.gap;
    }

    /// A connection has proved itself: it was made, or answered.
    pub(super) fn on_success(&mut self) {
        self.failures_in_a_row = 0;
    }

    /// A connect failed, or a connection ended before its first reply.
    pub(super) fn on_failure(&mut self, now: Instant) {
        self.failures_in_a_row = self.failures_in_a_row.saturating_add(1);
        self.next_at = self.next_at.max(now + self.pause());
    }

    /// How long to leave the target alone; zero while connects succeed.
    pub(super) fn pause(&self) -> Duration {
        match self.failures_in_a_row {
            0 => Duration::ZERO,
            failures => (PAUSE_FIRST * 2_u32.pow((failures - 1).min(10))).min(PAUSE_MAX),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Instant = Instant::from_nanos(1_000_000_000_000);

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn connects_keep_their_pace_and_do_not_catch_up_in_a_burst() {
        let mut opener = Opener::new(ms(1));
        assert!(opener.next_at() <= START);
        opener.on_begun(START);
        opener.on_begun(START);
        assert_eq!(opener.next_at(), START + ms(1), "one late connect may follow at once");
        opener.on_begun(START + ms(50));
        assert_eq!(opener.next_at(), START + ms(50));
    }

    #[test]
    fn pauses_double_up_to_a_second_and_end_with_the_first_success() {
        let mut opener = Opener::new(ms(1));
        let pauses: Vec<_> = (0..9)
            .map(|_| {
                opener.on_failure(START);
                opener.pause().as_millis()
            })
            .collect();
        assert_eq!(pauses, [10, 20, 40, 80, 160, 320, 640, 1000, 1000]);
        assert_eq!(opener.next_at(), START + ms(1000));
        opener.on_success();
        assert_eq!(opener.pause(), Duration::ZERO);
    }
}
