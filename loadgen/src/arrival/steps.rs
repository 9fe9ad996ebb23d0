//! Several constant rates in a row, as one integral.

use std::time::Duration;

use super::Arrivals;
use crate::scenario::Rate;
use fracas_dataplane::units::gcd;

/// A staircase of rates. The integral is carried across the steps: half an arrival left over at the end
/// of one step is finished in the next, so short steps at low rates lose and add nothing.
#[derive(Clone, Debug)]
pub struct Steps {
    /// All counts below are in units of 1/`unit` of an arrival.
    unit: u128,
    steps: Vec<Step>,
    total: u128,
}

#[derive(Clone, Debug)]
struct Step {
    start_ns: u128,
    start_count: u128,
    per_ns: u128,
}

/// The steps cannot be laid out exactly.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the steps' rates have no common unit that fits 128 bits; choose rounder rates")]
pub struct StepsError;

impl Steps {
    /// Lays out `(rate, how long)` pairs.
    ///
    /// # Errors
    /// When the rates' common denominator does not fit 128 bits.
    pub fn new(steps: &[(Rate, Duration)]) -> Result<Steps, StepsError> {
        let mut unit: u128 = 1;
        for (rate, _) in steps {
            let per_ns = u128::from(rate.per_ns());
            unit = (unit / gcd(unit, per_ns)).checked_mul(per_ns).ok_or(StepsError)?;
        }
        let (mut start_ns, mut count) = (0_u128, 0_u128);
        let mut laid = Vec::with_capacity(steps.len());
        for (rate, over) in steps {
            let per_ns =
                (unit / u128::from(rate.per_ns())).checked_mul(rate.events().into()).ok_or(StepsError)?;
            laid.push(Step { start_ns, start_count: count, per_ns });
            start_ns += over.as_nanos();
            count =
                over.as_nanos().checked_mul(per_ns).and_then(|n| n.checked_add(count)).ok_or(StepsError)?;
        }
        Ok(Steps { unit, steps: laid, total: count })
    }
}

impl Arrivals for Steps {
    fn due_at(&mut self, index: u64) -> Option<Duration> {
        let target = u128::from(index).checked_mul(self.unit)?;
        if target >= self.total {
            return None;
        }
        let after = self.steps.partition_point(|step| step.start_count <= target);
        let step = &self.steps[after.checked_sub(1)?];
        let nanos = step.start_ns + (target - step.start_count) / step.per_ns;
        u64::try_from(nanos).ok().map(Duration::from_nanos)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn steps(list: &[(&str, u64)]) -> Steps {
        let list: Vec<_> =
            list.iter().map(|(rate, ms)| (rate.parse().unwrap(), Duration::from_millis(*ms))).collect();
        Steps::new(&list).unwrap()
    }

    fn due_ms(list: &[(&str, u64)]) -> Vec<u128> {
        let mut pace = steps(list);
        (0..).map_while(|k| pace.due_at(k)).map(|due| due.as_millis()).collect()
    }

    #[test]
    fn each_step_has_its_rate() {
        assert_eq!(due_ms(&[("2/s", 1000), ("4/s", 1000)]), [0, 500, 1000, 1250, 1500, 1750]);
    }

    #[test]
    fn a_fraction_of_an_arrival_is_carried_into_the_next_step() {
        // 250 ms at 2/s is half an arrival; the second one is due when the next step adds the other half.
        assert_eq!(due_ms(&[("2/s", 250), ("1/s", 1000)]), [0, 750]);
        // Forty quarter-second steps at 0.4/s are one 10 s step at 0.4/s.
        assert_eq!(due_ms(&[("0.4/s", 250); 40]), [0, 2500, 5000, 7500]);
    }

    #[test]
    fn rates_without_a_common_unit_are_refused() {
        let odd = |per| (Rate::new(1, Duration::from_nanos(per)).unwrap(), Duration::from_secs(1));
        let primes = [u64::MAX - 58, u64::MAX - 82, u64::MAX - 94];
        assert_eq!(Steps::new(&primes.map(odd)).unwrap_err(), StepsError);
    }
}
