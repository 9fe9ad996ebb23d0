//! The only randomness, always seeded: one independent stream per (seed, path of numbers).
//!
//! A decision asks for `Rng::stream(seed, &[rule, connection, message])`, so that adding a rule or a
//! connection never changes another's draws, and the same seed and traffic give the same faults.

use std::convert::Infallible;
use std::time::Duration;

use rand::{Rng as _, RngExt as _, SeedableRng, TryRng};
use rand_xoshiro::Xoshiro256PlusPlus;

/// A seeded generator (xoshiro256++, Blackman and Vigna 2019); implements `rand`'s traits.
#[derive(Clone, Debug)]
pub struct Rng(Xoshiro256PlusPlus);

impl Rng {
    /// The stream that belongs to `seed` alone.
    pub fn new(seed: u64) -> Rng {
        Rng(Xoshiro256PlusPlus::seed_from_u64(seed))
    }

    /// The stream at `path` below `seed`: equal arguments give equal streams, others unrelated ones.
    pub fn stream(seed: u64, path: &[u64]) -> Rng {
        Rng::new(path.iter().fold(seed, |key, step| mix(key ^ mix(step.wrapping_add(GOLDEN)))))
    }

    /// Uniform in `[0, 1)`.
    pub fn unit(&mut self) -> f64 {
        self.random::<f64>()
    }

    /// Uniform in `[0, bound)`; 0 when `bound` is 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        if bound == 0 { 0 } else { self.random_range(0..bound) }
    }

    /// Uniform in `[0, limit]`, in whole nanoseconds.
    pub fn duration_up_to(&mut self, limit: Duration) -> Duration {
        let nanos = u64::try_from(limit.as_nanos()).unwrap_or(u64::MAX);
        Duration::from_nanos(self.below(nanos.saturating_add(1)))
    }
}

impl TryRng for Rng {
    type Error = Infallible;
    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        Ok(self.0.next_u32())
    }
    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        Ok(self.0.next_u64())
    }
    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Infallible> {
        self.0.fill_bytes(bytes);
        Ok(())
    }
}

/// 2^64 / golden ratio: keeps a path step of 0 from being the identity.
const GOLDEN: u64 = 0x9E37_79B9_7F4A_7C15;

/// The finaliser of SplitMix64 (Steele, Lea and Flood 2014): every input bit reaches every output bit.
fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_paths_give_equal_streams_and_others_do_not() {
        let draw = |seed, path: &[u64]| Rng::stream(seed, path).next_u64();
        assert_eq!(draw(42, &[1, 2, 3]), draw(42, &[1, 2, 3]));
        let all = [
            draw(42, &[1, 2, 3]),
            draw(42, &[1, 3, 2]),
            draw(43, &[1, 2, 3]),
            draw(42, &[1, 2]),
            draw(42, &[0]),
            draw(42, &[]),
        ];
        for (i, a) in all.iter().enumerate() {
            for b in &all[i + 1..] {
                assert_ne!(a, b);
            }
        }
    }

    #[test]
    fn neighbouring_streams_are_uniform() {
        // 1,000 connections, one draw each: a 20 % share must hit 200 ± 5 σ (σ = 12.6).
        let hits = (0..1000).filter(|connection| Rng::stream(7, &[1, *connection, 0]).unit() < 0.2).count();
        assert!((137..=263).contains(&hits), "{hits}");
    }

    #[test]
    fn bounds_hold() {
        let mut rng = Rng::new(1);
        assert_eq!(rng.below(0), 0);
        assert!((0..1000).all(|_| rng.below(3) < 3));
        assert!((0..1000).all(|_| rng.duration_up_to(Duration::from_nanos(5)) <= Duration::from_nanos(5)));
    }
}
