//! How long to wait before dialling again.

use std::time::Duration;

use fracas_dataplane::rng::Rng;

/// After the first failure.
const FIRST: Duration = Duration::from_millis(200);
/// However often it failed.
const LONGEST: Duration = Duration::from_secs(3);

/// The wait after the `failures`-th failure in a row, from 1: doubled each time up to 3 s, and of that a uniform
/// draw from the upper half, so that a thousand nodes do not return at one instant.
pub fn wait(failures: u32, rng: &mut Rng) -> Duration {
    let doubled = FIRST.saturating_mul(1 << failures.saturating_sub(1).min(10));
    let whole = doubled.min(LONGEST);
    whole / 2 + rng.duration_up_to(whole / 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_three_seconds_and_are_spread() {
        let mut rng = Rng::new(1);
        for (failures, whole_ms) in [(1, 200), (2, 400), (3, 800), (4, 1600), (5, 3000), (u32::MAX, 3000)] {
            let whole = Duration::from_millis(whole_ms);
            let waits: Vec<Duration> = (0..100).map(|_| wait(failures, &mut rng)).collect();
            assert!(waits.iter().all(|wait| (whole / 2..=whole).contains(wait)));
            assert!(waits.iter().any(|wait| *wait < whole * 2 / 3));
            assert!(waits.iter().any(|wait| *wait > whole * 5 / 6));
        }
    }
}
