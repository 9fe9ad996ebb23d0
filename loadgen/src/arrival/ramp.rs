//! A rate that rises or falls in a straight line, by inverting its integral.

use std::time::Duration;

use super::Arrivals;
use crate::scenario::Rate;

/// From one rate to another over `over`; ends when the integral of the rate is used up.
///
/// With rate λ(t) = a + s·t the number of arrivals by t is N(t) = a·t + s·t²/2; request `k` is due at
/// N⁻¹(k) = 2k / (a + √(a² + 2sk)), the form of the root that loses no digits when `s` is small. A
/// rate changed in steps instead would send nothing at all in short steps at low rates (k6 PR 1285).
#[derive(Clone, Debug)]
pub struct Ramp {
    from_per_second: f64,
    to_per_second: f64,
    over: Duration,
}

impl Ramp {
    /// A ramp between two rates.
    pub fn new(from: Rate, to: Rate, over: Duration) -> Ramp {
        Ramp { from_per_second: from.as_f64(), to_per_second: to.as_f64(), over }
    }

    /// The expected number of arrivals: the integral of the rate.
    pub fn total(&self) -> f64 {
        (self.from_per_second + self.to_per_second) / 2.0 * self.over.as_secs_f64()
    }
}

impl Arrivals for Ramp {
    fn due_at(&mut self, index: u64) -> Option<Duration> {
        let k = index as f64;
        if k >= self.total() {
            return None;
        }
        if index == 0 {
            return Some(Duration::ZERO);
        }
        let a = self.from_per_second;
        let slope = (self.to_per_second - a) / self.over.as_secs_f64();
        let root = (a * a + 2.0 * slope * k).max(0.0).sqrt();
        let due = Duration::from_nanos((2e9 * k / (a + root)) as u64);
        (due < self.over).then_some(due)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ramp(from: &str, to: &str, seconds: u64) -> Ramp {
        Ramp::new(from.parse().unwrap(), to.parse().unwrap(), Duration::from_secs(seconds))
    }

    #[test]
    fn the_total_is_the_integral() {
        let count = |mut ramp: Ramp| (0..).take_while(|k| ramp.due_at(*k).is_some()).count();
        assert_eq!(count(ramp("1/s", "199/s", 10)), 1000);
        assert_eq!(count(ramp("199/s", "1/s", 10)), 1000);
        assert_eq!(count(ramp("100/s", "100/s", 10)), 1000);
        assert_eq!(count(ramp("0.1/s", "0.5/s", 10)), 3);
    }

    #[test]
    fn arrivals_fall_where_the_integral_says() {
        // λ = 100 + 20·t: N(5 s) = 750.
        assert_eq!(ramp("100/s", "300/s", 10).due_at(750), Some(Duration::from_secs(5)));
        // Falling: λ = 300 − 20·t: N(5 s) = 1250.
        assert_eq!(ramp("300/s", "100/s", 10).due_at(1250), Some(Duration::from_secs(5)));
    }

    #[test]
    fn due_times_never_go_back() {
        for mut ramp in [ramp("1/s", "1M/s", 60), ramp("1M/s", "1/s", 60)] {
            let mut last = Duration::ZERO;
            for k in 0..2_000_000 {
                let due = ramp.due_at(k).unwrap();
                assert!(due >= last, "{k}");
                last = due;
            }
        }
    }
}
