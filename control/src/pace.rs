//! How fast a peer may speak: what comes faster waits in its own socket.

use std::time::Duration;

use fracas_dataplane::clock::Instant;

/// Messages that may come at once: the faults of a run do, and what is told of them.
const BURST: u32 = 4_000;

/// A limit on messages.
#[derive(Debug)]
pub struct Pace {
    each: Duration,
    /// When all that came would have come at the limit.
    paid_until: Instant,
}

impl Pace {
    /// At most so many messages a second on average, 4,000 at once.
    pub fn per_second(messages: u32) -> Pace {
        Pace { each: Duration::from_secs(1) / messages.max(1), paid_until: Instant::ZERO }
    }

    /// A message came: how long to wait before the next is read.
    pub fn wait(&mut self, now: Instant) -> Duration {
        self.paid_until = self.paid_until.max(now) + self.each;
        self.paid_until.since(now + self.each * BURST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_passes_and_a_storm_is_slowed_to_the_limit() {
        let mut now = Instant::from_nanos(1_000_000_000);
        let began = now;
        let mut pace = Pace::per_second(10_000);
        let each = Duration::from_micros(100);
        assert!((0..BURST).all(|_| pace.wait(now).is_zero()));
        for _ in 0..30_000 {
            now += pace.wait(now);
        }
        assert_eq!(now - began, each * 30_000);
        now += each * BURST;
        assert!((0..BURST).all(|_| pace.wait(now).is_zero()), "after a rest");
    }
}
