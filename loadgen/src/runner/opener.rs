//! When the next connect may begin. Arithmetic only.
//!
//! Every connect keeps the pace of `--connect-rate`. A request or a user that needs a connection waits for nothing
//! else: its connect fails when it fails. Connections that nobody waits for yet, before the start and in place of
//! lost ones, are opened beside, and they leave a target alone that does not answer: the pause doubles with every
//! failure, and ends with the first reply.

use std::time::Duration;

use fracas_dataplane::clock::Instant;

/// Connects that could not begin for so long, because nobody needed one or the loop was late, may begin together.
const BURST_MAX: Duration = Duration::from_millis(5);
/// The first pause after a failure; it doubles with every further one.
const PAUSE_FIRST: Duration = Duration::from_millis(10);
/// No pause is longer.
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// Paces connects.
#[derive(Debug)]
pub(super) struct Opener {
    gap: Duration,
    paced_at: Instant,
    begun_at: Instant,
    pause_until: Instant,
    failures_in_a_row: u32,
}

impl Opener {
    /// At most one connect in `gap`.
    pub(super) fn new(gap: Duration) -> Opener {
        let [paced_at, begun_at, pause_until] = [Instant::ZERO; 3];
        Opener { gap, paced_at, begun_at, pause_until, failures_in_a_row: 0 }
    }

    /// The time between two connects.
    pub(super) fn gap(&self) -> Duration {
        self.gap
    }

    /// When a connect may begin for which a request waits.
    pub(super) fn paced_at(&self) -> Instant {
        self.paced_at
    }

    /// When one may begin that nobody waits for. While the load runs never in a burst, which would be over before the
    /// first of it has failed; before, a late loop must not make thousands of them take twice as long.
    pub(super) fn unasked_at(&self, load_runs: bool) -> Instant {
        let spaced_at = if load_runs { self.begun_at + self.gap } else { Instant::ZERO };
        self.paced_at.max(spaced_at).max(self.pause_until)
    }

    /// A connect begins. A pace that the loop could not keep is made up for by no more than a small burst.
    pub(super) fn on_begun(&mut self, now: Instant) {
        self.paced_at = self.paced_at.max(now - self.gap.max(BURST_MAX)) + self.gap;
        self.begun_at = now;
    }

    /// A reply has come: the target is there.
    pub(super) fn on_success(&mut self) {
        (self.failures_in_a_row, self.pause_until) = (0, Instant::ZERO);
    }

    /// A connect failed, or a connection ended before its first reply.
    pub(super) fn on_failure(&mut self, now: Instant) {
        self.failures_in_a_row = self.failures_in_a_row.saturating_add(1);
        let pause = (PAUSE_FIRST * 2_u32.pow((self.failures_in_a_row - 1).min(10))).min(PAUSE_MAX);
        self.pause_until = self.pause_until.max(now + pause);
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
    fn connects_keep_their_pace_but_for_a_small_burst() {
        for (gap_us, burst) in [(100, 51), (1_000, 6), (5_000, 2), (200_000, 2)] {
            let gap = Duration::from_micros(gap_us);
            let mut opener = Opener::new(gap);
            for at in [START, START + ms(50_000)] {
                let mut begun = 0;
                while opener.paced_at() <= at {
                    opener.on_begun(at);
                    assert_eq!(opener.unasked_at(true), opener.paced_at().max(at + gap));
                    assert_eq!(opener.unasked_at(false), opener.paced_at());
                    begun += 1;
                }
                assert_eq!((begun, opener.paced_at()), (burst, at + gap), "{gap_us}");
            }
        }
    }

    #[test]
    fn what_nobody_asked_for_pauses_and_what_somebody_waits_for_does_not() {
        let mut opener = Opener::new(ms(1));
        let pauses: Vec<_> = (0..9)
            .map(|_| {
                opener.on_failure(START);
                opener.unasked_at(true).since(START).as_millis()
            })
            .collect();
        assert_eq!(pauses, [10, 20, 40, 80, 160, 320, 640, 1000, 1000]);
        assert!(opener.paced_at() <= START);
        opener.on_success();
        assert!(opener.unasked_at(true) <= START);
    }
}
