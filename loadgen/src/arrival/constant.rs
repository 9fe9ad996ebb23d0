//! A constant rate: request `k` is due at `k / rate`, exactly.

use std::time::Duration;

use super::Arrivals;
use crate::scenario::Rate;

/// Evenly spaced arrivals; the first at zero.
///
/// Each due time is computed from the rational rate in 128-bit integers and rounded down to the
/// nanosecond on its own, so the error never adds up: the millionth request of `0.3/s` is on time.
#[derive(Clone, Debug)]
pub struct Constant {
    rate: Rate,
}

impl Constant {
    /// Arrivals at `rate`.
    pub fn new(rate: Rate) -> Constant {
        Constant { rate }
    }
}

impl Arrivals for Constant {
    fn due_at(&mut self, index: u64) -> Option<Duration> {
        let nanos = u128::from(index) * u128::from(self.rate.per_ns()) / u128::from(self.rate.events());
        u64::try_from(nanos).ok().map(Duration::from_nanos)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn due(rate: &str, index: u64) -> Duration {
        Constant::new(rate.parse().unwrap()).due_at(index).unwrap()
    }

    #[test]
    fn a_fractional_rate_does_not_drift() {
        assert_eq!(due("0.3/s", 0), Duration::ZERO);
        assert_eq!(due("0.3/s", 1), Duration::from_nanos(3_333_333_333));
        assert_eq!(due("0.3/s", 3), Duration::from_secs(10));
        assert_eq!(due("0.3/s", 3_000_000), Duration::from_secs(10_000_000));
        assert_eq!(due("3/s", 3_000_000_000), Duration::from_secs(1_000_000_000));
    }

    #[test]
    fn high_rates_are_exact_to_the_nanosecond() {
        assert_eq!(due("20k/s", 1), Duration::from_micros(50));
        assert_eq!(due("7M/s", 7_000_000 * 3600), Duration::from_secs(3600));
    }

    #[test]
    fn an_index_beyond_the_clock_is_refused() {
        assert_eq!(Constant::new("1/h".parse().unwrap()).due_at(u64::MAX), None);
    }
}
