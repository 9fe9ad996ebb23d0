//! Poisson arrivals: independent users who know nothing of each other.

use std::time::Duration;

use fracas_dataplane::rng::Rng;

use super::{Arrivals, Shard};
use crate::scenario::Rate;

/// Exponential gaps with mean `n / rate` on shard `i` of `n`, drawn from the shard's own stream.
///
/// The superposition of `n` independent Poisson streams of rate λ/n is a Poisson stream of rate λ, so
/// the run as a whole has the asked rate and the asked burstiness whatever the number of workers.
#[derive(Clone, Debug)]
pub struct Poisson {
    mean_gap_ns: f64,
    rng: Rng,
    next_index: u64,
    at_ns: f64,
}

/// Keeps these draws apart from every other use of a run's seed.
const STREAM: u64 = 0x706f_6973_736f_6e00;

impl Poisson {
    /// The arrivals of `shard`; `phase` keeps the phases of one run apart.
    pub fn new(rate: Rate, seed: u64, phase: u64, shard: Shard) -> Poisson {
        Poisson {
            mean_gap_ns: rate.per_ns() as f64 / rate.events() as f64 * f64::from(shard.of()),
            rng: Rng::stream(seed, &[STREAM, phase, u64::from(shard.of()), u64::from(shard.index())]),
            next_index: 0,
            at_ns: 0.0,
        }
    }
}

/// From so many arrivals on their number is drawn at once.
const MANY: f64 = 64.0;

impl Poisson {
    /// Passes over the arrivals from number `index` to before `index_end` that are due before `limit`: how many these
    /// were, and when the last was due. `index` is the one behind the last that was asked for.
    ///
    /// Few are drawn one by one, as always. The number of many is drawn from the normal distribution that Poisson's
    /// comes close to; as the process has no memory, the next gap begins at the limit.
    pub fn skip_before(&mut self, limit: Duration, index: u64, index_end: u64) -> (u64, Option<Duration>) {
        let limit_ns = limit.as_nanos() as f64;
        let mean = (limit_ns - self.at_ns) / self.mean_gap_ns;
        // One that was drawn and not taken is at `at_ns`.
        if mean < MANY || index != self.next_index {
            let (mut count, mut last) = (0, None);
            while index + count < index_end
                && let Some(due) = self.due_at(index + count).filter(|due| *due < limit)
            {
                (count, last) = (count + 1, Some(due));
            }
            return (count, last);
        }
        // Box and Muller, 1958.
        let radius = (-2.0 * (1.0 - self.rng.unit()).ln()).sqrt();
        let normal = radius * (std::f64::consts::TAU * self.rng.unit()).cos();
        let count = mean.sqrt().mul_add(normal, mean).round().max(0.0) as u64;
        let count = count.min(index_end.saturating_sub(index));
        self.next_index += count;
        self.at_ns = limit_ns;
        (count, Some(limit.saturating_sub(Duration::from_nanos(1))))
    }
}

impl Arrivals for Poisson {
    fn due_at(&mut self, index: u64) -> Option<Duration> {
        while self.next_index <= index {
            // 1 − u is in (0, 1], so the logarithm is finite.
            self.at_ns -= (1.0 - self.rng.unit()).ln() * self.mean_gap_ns;
            self.next_index += 1;
        }
        // The cast saturates, far beyond any run.
        Some(Duration::from_nanos(self.at_ns as u64))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gaps_ns(rate: &str, shard: Shard, n: u64) -> Vec<f64> {
        let mut pace = Poisson::new(rate.parse().unwrap(), 42, 0, shard);
        let mut last = 0.0;
        (0..n)
            .map(|index| {
                let at = pace.due_at(index).unwrap().as_nanos() as f64;
                std::mem::replace(&mut last, at) - at
            })
            .map(f64::abs)
            .collect()
    }

    #[test]
    fn gaps_are_exponential_with_the_asked_mean() {
        let gaps = gaps_ns("1000/s", Shard::WHOLE, 100_000);
        let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
        // The mean of 100,000 exponential gaps has σ = mean / 316.
        assert!((mean / 1e6 - 1.0).abs() < 5.0 / 316.0, "{mean}");
        // Kolmogorov–Smirnov against 1 − e^(−x/mean); 1.95/√n is the 0.1 % point.
        let mut sorted = gaps;
        sorted.sort_by(f64::total_cmp);
        let n = sorted.len() as f64;
        let distance = sorted
            .iter()
            .enumerate()
            .map(|(i, gap)| (1.0 - (-gap / 1e6).exp() - (i as f64 + 0.5) / n).abs())
            .fold(0.0, f64::max);
        assert!(distance < 1.95 / n.sqrt(), "{distance}");
    }

    #[test]
    fn shards_are_thinned_and_independent() {
        let a = gaps_ns("1000/s", Shard::new(0, 4).unwrap(), 20_000);
        let b = gaps_ns("1000/s", Shard::new(1, 4).unwrap(), 20_000);
        assert_ne!(a[..8], b[..8]);
        let mean = a.iter().sum::<f64>() / a.len() as f64;
        assert!((mean / 4e6 - 1.0).abs() < 5.0 / 141.0, "{mean}");
    }

    #[test]
    fn equal_seeds_give_equal_arrivals() {
        let shard = Shard::new(2, 3).unwrap();
        assert_eq!(gaps_ns("5/s", shard, 100), gaps_ns("5/s", shard, 100));
    }
}
