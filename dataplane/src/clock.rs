//! Time as the data plane sees it: nanoseconds of the machine's monotonic clock.
//!
//! Two processes on one machine read the same clock, so a fault's window and a latency sample can be
//! laid on one axis without any conversion. Logic never reads it: `now` is an argument everywhere.

use std::ops::{Add, AddAssign, Sub};
use std::time::Duration;

/// A point on `CLOCK_MONOTONIC`, in nanoseconds; in a simulation, of the simulated clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Instant(u64);

impl Instant {
    /// The clock's own zero; earlier than any instant that was read.
    pub const ZERO: Instant = Instant(0);
    /// Later than every instant: "never" as a deadline.
    pub const FAR_FUTURE: Instant = Instant(u64::MAX);

    /// Reads the machine's clock. The only place that does.
    pub fn now() -> Instant {
        Instant(crate::ring::monotonic_ns())
    }

    /// Makes an instant from nanoseconds of the monotonic clock.
    pub const fn from_nanos(nanos: u64) -> Instant {
        Instant(nanos)
    }

    /// Nanoseconds of the monotonic clock.
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// Time passed since `earlier`; zero if `earlier` is later.
    pub const fn since(self, earlier: Instant) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Instant {
    type Output = Instant;
    fn add(self, duration: Duration) -> Instant {
        let nanos = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        Instant(self.0.saturating_add(nanos))
    }
}

impl AddAssign<Duration> for Instant {
    fn add_assign(&mut self, duration: Duration) {
        *self = *self + duration;
    }
}

impl Sub<Duration> for Instant {
    type Output = Instant;
    fn sub(self, duration: Duration) -> Instant {
        let nanos = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        Instant(self.0.saturating_sub(nanos))
    }
}

impl Sub<Instant> for Instant {
    type Output = Duration;
    fn sub(self, earlier: Instant) -> Duration {
        self.since(earlier)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arithmetic_saturates_instead_of_wrapping() {
        assert_eq!(Instant::ZERO - Duration::from_secs(1), Instant::ZERO);
        assert_eq!(Instant::FAR_FUTURE + Duration::from_secs(1), Instant::FAR_FUTURE);
        assert_eq!(Instant::from_nanos(5) - Instant::from_nanos(9), Duration::ZERO);
    }

    #[test]
    fn the_clock_does_not_go_back() {
        let first = Instant::now();
        assert!(Instant::now() >= first);
    }
}
