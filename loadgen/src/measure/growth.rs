//! Whether more is due than is answered, told as a queue tells it: replies come later and later. Arithmetic only.
//!
//! ```text
//! response            ╱        more is due than is answered: the run is cut into blocks, and each is slower than
//!                  ╱           the one before; per second by the share of what is due too much
//!               ╱
//!  ────────────  ╱╲  ───────   slow, or frozen for a while: no growth, whatever the height
//! ```
//!
//! A total cannot tell the two apart: a target that takes half a second leaves as much unanswered at the end of a run as
//! one that falls behind by half a second.

use super::fine::{TENTH_NS, Tenth};

/// Pieces of a run that are compared.
const BLOCKS: usize = 8;
/// Of the 28 pairs of blocks, those in which the later is slower less those in which it is faster. By chance it is as
/// many in one of 140 runs (Kendall's test).
const LATER_IS_SLOWER_FROM: i32 = 20;

/// By how many seconds replies came later with every second of the measured part: the share of what is due that is too
/// much for who answers in turn. 0 unless they did so steadily; `None` when there are too few replies to tell.
/// `measured` are the tenths of the measured part.
pub(super) fn growth<'a>(
    tenths: impl Iterator<Item = (u64, &'a Tenth)>,
    measured: std::ops::Range<u64>,
) -> Option<f64> {
    let length = measured.end.saturating_sub(measured.start);
    if length < BLOCKS as u64 {
        return None;
    }
    let mut blocks = [(0.0, 0.0, 0_u64); BLOCKS];
    for (number, tenth) in tenths.filter(|(number, _)| measured.contains(number)) {
        let block = ((number - measured.start) * BLOCKS as u64 / length) as usize;
        let count = tenth.good.count();
        let (due, response, replies) = &mut blocks[block];
        *due += (number as f64 + 0.5) * TENTH_NS as f64 * count as f64;
        *response += tenth.good.sum() as f64;
        *replies += count;
    }
    let mut means = [(0.0, 0.0); BLOCKS];
    for (mean, (due, response, replies)) in means.iter_mut().zip(blocks) {
        if replies == 0 {
            return None;
        }
        *mean = (due / replies as f64, response / replies as f64);
    }
    let pairs = (0..BLOCKS).flat_map(|a| (a + 1..BLOCKS).map(move |b| (a, b)));
    let order: i32 = pairs
        .map(|(a, b)| match means[b].1.partial_cmp(&means[a].1) {
            Some(std::cmp::Ordering::Greater) => 1,
            Some(std::cmp::Ordering::Less) => -1,
            _ => 0,
        })
        .sum();
    if order < LATER_IS_SLOWER_FROM {
        return Some(0.0);
    }
    // The median: one step, such as a fault that lasts to the end, is no growth.
    let mut slopes: Vec<f64> = means.windows(2).map(|w| (w[1].1 - w[0].1) / (w[1].0 - w[0].0)).collect();
    slopes.sort_by(f64::total_cmp);
    Some(slopes[slopes.len() / 2].max(0.0))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use fracas_dataplane::clock::Instant;

    use super::*;
    use crate::measure::{Outcome, Recorder, Sample};

    /// Growth over `ms` of `rate` requests a second whose response is a function of when they are due, in milliseconds.
    fn of(rate: u64, ms: u64, response: impl Fn(f64) -> f64) -> Option<f64> {
        let start = Instant::from_nanos(1_000_000_000);
        let mut recorder = Recorder::new(start);
        for number in 0..rate * ms / 1000 {
            let due_ms = number as f64 * 1000.0 / rate as f64;
            let due = start + Duration::from_secs_f64(due_ms / 1e3);
            let done = due + Duration::from_secs_f64(response(due_ms) / 1e3);
            recorder.planned(due, false);
            recorder.sent(due, false);
            recorder.record(&Sample {
                due,
                ready: due,
                sent: due,
                done,
                seen_late: Duration::ZERO,
                outcome: Outcome::Ok,
                warm_up: false,
            });
        }
        growth(recorder.finish().tenths(), 0..ms / 100)
    }

    /// A draw from 0 to 1 for each due time.
    fn noise(due_ms: f64) -> f64 {
        (due_ms * 12.9898).sin().mul_add(43_758.545, 0.0).rem_euclid(1.0)
    }

    #[test]
    fn only_a_queue_that_grows_grows() {
        let none =
            |found: Option<f64>, what: &str| assert!(found.is_some_and(|g| g < 0.01), "{what}: {found:?}");
        none(of(400, 10_000, |_| 10.0), "constant");
        none(of(400, 1_000, |_| 600.0), "slow");
        none(of(500, 10_000, |due| 1.0 + 30.0 * noise(due)), "noisy");
        none(
            of(2_000, 10_000, |due| if (5_000.0..6_400.0).contains(&due) { 6_400.0 - due } else { 1.0 }),
            "frozen",
        );
        none(
            of(500, 10_000, |due| if due > 7_000.0 { 2_000.0 + noise(due) } else { noise(due) }),
            "slow at the end",
        );
        none(of(500, 10_000, |due| if due < 2_000.0 { 2_000.0 - due } else { 1.0 }), "a slow start");
        none(of(300, 20_000, |due| 1.0 + due / 10_000.0), "a little slower with time");
    }

    #[test]
    fn its_size_is_the_share_that_is_too_much() {
        for (rate, ms, overload) in [
            (400, 1_000, 1.02),
            (400, 2_000, 1.375),
            (400, 2_100, 1.375),
            (1_000, 10_000, 1.1),
            (50, 10_000, 1.1),
            (1_000, 20_000, 1.03),
            (100, 900, 4.0),
        ] {
            let found = of(rate, ms, |due| 10.0 + due * (overload - 1.0) + 2.0 * noise(due)).unwrap();
            let wanted = overload - 1.0;
            assert!((found - wanted).abs() < 0.25 * wanted, "{overload} for {ms} ms: {found}");
        }
    }

    #[test]
    fn what_is_too_short_or_unanswered_says_nothing() {
        assert_eq!(of(1_000, 700, |_| 1.0), None);
        assert_eq!(of(1, 2_000, |_| 1.0), None);
        assert_eq!(growth(std::iter::empty(), 0..100), None);
    }
}
