//! How fast a peer may speak: what comes faster waits in its own socket.

use std::time::Duration;

use fracas_dataplane::clock::Instant;

/// What a message may cost on average: 10,000 a second, far above what a fleet needs.
const EACH: Duration = Duration::from_micros(100);
/// Messages that may come at once: the faults of a run do.
const BURST: u32 = 2_000;

/// A limit on messages.
#[derive(Debug, Default)]
pub struct Pace {
    /// When all that came would have come at the limit.
    paid_until: Instant,
}

impl Pace {
    /// A message came: how long to wait before the next is read.
    pub fn wait(&mut self, now: Instant) -> Duration {
        self.paid_until = self.paid_until.max(now) + EACH;
        self.paid_until.since(now + EACH * BURST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_passes_and_a_storm_is_slowed_to_the_limit() {
        let mut now = Instant::from_nanos(1_000_000_000);
        let began = now;
        let mut pace = Pace::default();
        assert!((0..BURST).all(|_| pace.wait(now).is_zero()));
        for _ in 0..30_000 {
            now += pace.wait(now);
        }
        assert_eq!(now - began, EACH * 30_000);
        now += EACH * BURST;
        assert!((0..BURST).all(|_| pace.wait(now).is_zero()), "after a rest");
    }
}
