//! Before, during and after each fault window, from tenths of a second.

use std::collections::BTreeMap;

use super::cause::Cause;
use super::faults::{Around, FaultWindow, Stretch};
use super::fine::{Coarse, Failure, TENTH_NS, Tenth};
use super::quantile::Quantile;

/// How far before and after are looked at.
const REACH: u64 = 100;
/// So many tenths in a row must together be as before for the load to be called recovered.
pub(super) const CALM: u64 = 10;
/// p99 is back within this factor: buckets are 3 % wide, and the noise of a tenth is more.
const BACK_WITHIN: f64 = 1.5;

/// The tenths of a run.
pub(super) struct Tenths<'a> {
    pub(super) all: BTreeMap<u64, &'a Tenth>,
    /// Why those that failed did, by tenth; `None` when not known.
    pub(super) causes: Option<BTreeMap<u64, Cause>>,
    /// The measured part, from its first tenth to behind its last.
    pub(super) measured: std::ops::Range<u64>,
}

/// Fills in what the load saw around each window.
pub(super) fn look_around(windows: &mut [FaultWindow], tenths: &Tenths<'_>) {
    let spans: Vec<(u64, u64)> = windows.iter().map(span).collect();
    let times: Vec<(u64, u64)> = windows.iter().map(|window| (window.start_ns, window.end_ns)).collect();
    for (index, window) in windows.iter_mut().enumerate() {
        let (start, end) = spans[index];
        let others_ns =
            times.iter().enumerate().filter(|(other, _)| *other != index).map(|(_, times)| *times);
        let next_ns =
            others_ns.filter(|(_, to)| *to > window.end_ns).map(|(from, _)| from.max(window.end_ns)).min();
        let next_ns = next_ns.filter(|next| *next < tenths.measured.end.saturating_mul(TENTH_NS));
        let next_fault_ns = next_ns.map(|next| next - window.end_ns);
        let others = || spans.iter().enumerate().filter(|(other, _)| *other != index).map(|(_, span)| *span);
        let (calm_start, calm_end) = calm_before(start, others(), tenths.measured.start);
        // A lower bound on the end of the calm after: the first other window that begins, or still is in force.
        let later = others().filter(|(_, to)| *to > end).map(|(from, _)| from.max(end)).min();
        let after_end = (end + REACH).min(later.unwrap_or(u64::MAX)).min(tenths.measured.end);
        let before = tenths.stretch(calm_start, calm_end);
        let during = tenths.stretch(start, end.min(tenths.measured.end));
        let after = tenths.stretch(end, after_end);
        let recovery_ns =
            tenths.recovery(window.end_ns, end..later.unwrap_or(u64::MAX).min(tenths.measured.end), &before);
        window.around = Some(Around { before, during, after, recovery_ns, next_fault_ns });
    }
}

/// The latest second or more before `start` without another window: what stands right before it where that is long enough
/// or nothing else is, the calm before its neighbours where they follow upon each other.
fn calm_before(start: u64, others: impl Iterator<Item = (u64, u64)> + Clone, measured: u64) -> (u64, u64) {
    let stretch = |start: u64| {
        // What was in flight when the rules came is not of the calm before: a tenth is left out.
        let end = start.saturating_sub(1);
        let earlier = others.clone().filter(|(from, _)| *from < start).map(|(_, to)| to.min(end)).max();
        (end.saturating_sub(REACH).max(earlier.unwrap_or(0)).max(measured), end)
    };
    let mut begins: Vec<u64> = others.clone().map(|(from, _)| from).filter(|from| *from < start).collect();
    begins.sort_unstable_by_key(|from| std::cmp::Reverse(*from));
    let candidates = std::iter::once(start).chain(begins).map(stretch);
    let long_enough = candidates.into_iter().find(|(from, to)| *to >= from + CALM);
    long_enough.unwrap_or_else(|| stretch(start))
}

/// The tenths of a window: from the one it begins in to behind the one it ends in.
fn span(window: &FaultWindow) -> (u64, u64) {
    let start = window.start_ns / TENTH_NS;
    (start, window.end_ns.div_ceil(TENTH_NS).max(start + 1))
}

impl Tenths<'_> {
    fn within(&self, start: u64, end: u64) -> impl Iterator<Item = (u64, &Tenth)> {
        self.all.range(start..end.max(start)).map(|(number, tenth)| (*number, *tenth))
    }

    fn stretch(&self, start: u64, end: u64) -> Stretch {
        let end = end.max(start);
        let (mut good, mut bad) = (Coarse::default(), Coarse::default());
        let (mut failed, mut silent, mut own) = (0, 0, 0);
        for (_, tenth) in self.within(start, end) {
            good.merge(&tenth.good);
            bad.merge(&tenth.bad);
            failed += tenth.failures.iter().sum::<u64>();
            silent += tenth.failures[Failure::Silent as usize];
            own += tenth.own_failures();
        }
        let cause = self.causes.as_ref().map(|causes| {
            let mut sum = Cause::default();
            causes.range(start..end).for_each(|(_, cause)| sum.add(*cause));
            sum
        });
        let mut all = good.clone();
        all.merge(&bad);
        let seconds = (end - start) as f64 * TENTH_NS as f64 / 1e9;
        Stretch {
            start_ns: start * TENTH_NS,
            end_ns: end * TENTH_NS,
            due: all.count(),
            ok: good.count(),
            ok_per_second: if end > start { good.count() as f64 / seconds } else { 0.0 },
            failed,
            injected: cause.map(|cause| cause.injected),
            own,
            unknown: cause.map_or(0, |cause| cause.unknown),
            lower_bounds: bad.count() - (failed - silent).min(bad.count()),
            p50: all.quantile(Quantile::P50),
            p95: all.quantile(Quantile::P95),
            p99: all.quantile(Quantile::P99),
            ok_p99: good.quantile(Quantile::P99),
        }
    }

    /// How long after `lifted_ns` it took until a second was as before. The second is judged as a whole, for a pause of
    /// a few milliseconds anywhere on the way touches several requests of one tenth and is none of p99.
    fn recovery(&self, lifted_ns: u64, after: std::ops::Range<u64>, before: &Stretch) -> Option<u64> {
        if before.due == 0 || before.ok == 0 {
            return None;
        }
        let bound = (before.ok_p99 as f64 * BACK_WITHIN) as u64;
        let failed_before = before.due - before.ok;
        let is_calm = |from: u64, to: u64| {
            let (mut due, mut slow, mut failed) = (0, 0, 0);
            for (_, tenth) in self.within(from, to) {
                due += tenth.good.count() + tenth.bad.count();
                slow += tenth.good.count_above(bound);
                failed += tenth.bad.count();
            }
            // One in a hundred may be slower than p99, and as many fail as before; one more is chance.
            let as_few_fail = u128::from(u64::saturating_sub(failed, 1)) * u128::from(before.due)
                <= u128::from(failed_before) * u128::from(due);
            (slow <= due.div_ceil(100) && as_few_fail, due > 0)
        };
        // A run that ends earlier has not shown it.
        let last = after.end.checked_sub(CALM)?;
        // A second that begins with a bad tenth is not the first good one, even if the nine others make up for it.
        let is_back = |from: u64| is_calm(from, from + 1).0 && is_calm(from, from + CALM) == (true, true);
        let since = (after.start..=last).find(|from| is_back(*from))?;
        Some(if since == after.start { 0 } else { (since * TENTH_NS).saturating_sub(lifted_ns) })
    }
}

#[cfg(test)]
mod tests {
    use super::super::fine::Second;
    use super::super::sample::{ErrorKind, Outcome};
    use super::*;

    /// Ten requests in each tenth of twenty seconds; `answer` gives the outcome and the time of the one due in a tenth.
    fn run(answer: impl Fn(u64) -> (Outcome, u64)) -> BTreeMap<u64, Tenth> {
        let mut all = BTreeMap::new();
        for second in 0..20 {
            let mut fine = Second::default();
            for tenth in 0..10 {
                let (outcome, ms) = answer(second * 10 + tenth);
                fine.response(tenth as usize, outcome, ms * 1_000_000, 10);
            }
            all.extend((second * 10..).zip(fine.take()));
        }
        all
    }

    fn window(from_ms: u64, to_ms: u64) -> FaultWindow {
        FaultWindow { start_ns: from_ms * 1_000_000, end_ns: to_ms * 1_000_000, ..FaultWindow::default() }
    }

    fn look(windows: &mut [FaultWindow], run: &BTreeMap<u64, Tenth>, causes: Option<BTreeMap<u64, Cause>>) {
        let all = run.iter().map(|(number, tenth)| (*number, tenth)).collect();
        look_around(windows, &Tenths { all, causes, measured: 10..200 });
    }

    #[test]
    fn an_outage_stands_between_its_before_and_its_after() {
        const CUT: Outcome = Outcome::Error(ErrorKind::EndedEarly);
        // Slow for another 0.7 s when it is over.
        let run = run(|tenth| match tenth {
            50..80 => (CUT, 1),
            80..87 => (Outcome::Ok, 400),
            _ => (Outcome::Ok, 5),
        });
        let mut windows = [window(5_000, 8_000)];
        let causes = (50..80).map(|tenth| (tenth, Cause { injected: 8, unknown: 1 })).collect();
        look(&mut windows, &run, Some(causes));
        let around = windows[0].around.clone().unwrap();
        assert_eq!((around.before.start_ns, around.before.end_ns), (1_000_000_000, 4_900_000_000));
        assert_eq!((around.before.due, around.before.failed, around.before.ok_per_second), (390, 0, 100.0));
        assert_eq!((around.during.due, around.during.ok, around.during.failed), (300, 0, 300));
        let during = &around.during;
        assert_eq!((during.injected, during.unknown, during.natural()), (Some(240), 30, Some(30)));
        assert_eq!((around.after.start_ns, around.after.end_ns), (8_000_000_000, 18_000_000_000));
        assert_eq!((around.after.due, around.after.failed), (1000, 0));
        assert_eq!(around.recovery_ns, Some(700_000_000));
        assert!(around.before.p50.abs_diff(5_000_000) < 80_000, "{}", around.before.p50);
    }

    fn during_of(run: &BTreeMap<u64, Tenth>) -> Stretch {
        let mut windows = [window(5_000, 8_000)];
        look(&mut windows, run, None);
        windows.map(|window| window.around.unwrap().during)[0].clone()
    }

    #[test]
    fn recovery_is_at_once_never_or_not_known() {
        let calm = run(|_| (Outcome::Ok, 5));
        let mut windows = [window(5_000, 8_050)];
        look(&mut windows, &calm, None);
        assert_eq!(windows[0].around.as_ref().unwrap().recovery_ns, Some(0));
        assert_eq!(windows[0].around.as_ref().unwrap().during.natural(), None);
        let slow = run(|tenth| (Outcome::Ok, if tenth < 50 { 5 } else { 50 }));
        look(&mut windows, &slow, None);
        assert_eq!(windows[0].around.as_ref().unwrap().recovery_ns, None, "never");
        let failing = run(|tenth| (if tenth < 50 { Outcome::Ok } else { Outcome::Timeout }, 5));
        look(&mut windows, &failing, None);
        assert_eq!(windows[0].around.as_ref().unwrap().recovery_ns, None, "a failure is no answer");
        let mut from_the_start = [window(0, 8_000)];
        look(&mut from_the_start, &calm, None);
        assert_eq!(from_the_start[0].around.as_ref().unwrap().recovery_ns, None, "no before");
        let mut to_the_end = [window(5_000, 19_500)];
        look(&mut to_the_end, &calm, None);
        assert_eq!(to_the_end[0].around.as_ref().unwrap().recovery_ns, None, "too short an after");
        // All of those due in it are timeouts, of which a lower bound is known.
        let stretch = &during_of(&failing);
        assert_eq!((stretch.due, stretch.lower_bounds), (300, 300));
        let cut = run(|tenth| (if tenth < 50 { Outcome::Ok } else { Outcome::Error(ErrorKind::Reset) }, 5));
        assert_eq!(during_of(&cut).lower_bounds, 0, "what has ended is known");
        let said = |window: &FaultWindow| {
            window.around.as_ref().unwrap().recovery(|ns| (ns / 1_000_000).to_string())
        };
        assert_eq!(said(&to_the_end[0]).unwrap(), "not known: the run ended after 500");
        assert_eq!(said(&windows[0]).unwrap(), "was not back within the run");
        assert_eq!(said(&from_the_start[0]), None);
        // A second and a half until the next is enough to say that it was not.
        let mut two = [window(5_000, 8_000), window(9_500, 10_000)];
        look(&mut two, &failing, None);
        assert_eq!(said(&two[0]).unwrap(), "was not back when the next fault began after 1500");
        look(&mut two, &calm, None);
        assert_eq!(said(&two[0]).unwrap(), "was back at once");
    }

    #[test]
    fn a_window_that_follows_upon_another_is_held_against_the_calm_before_both() {
        // The second fault leaves a backlog for 0.4 s.
        let run = run(|tenth| match tenth {
            28..48 => (Outcome::Ok, 60),
            48..68 => (Outcome::Timeout, 1_000),
            68..72 => (Outcome::Ok, 400),
            _ => (Outcome::Ok, 5),
        });
        for gap_ms in [0, 4, 300] {
            let mut windows = [window(2_800, 4_800 - gap_ms), window(4_800, 6_800)];
            look(&mut windows, &run, None);
            let [first, second] = windows.map(|window| window.around.unwrap());
            assert_eq!((second.before.start_ns, second.before.end_ns), (1_000_000_000, 2_700_000_000));
            assert_eq!(second.recovery_ns, Some(400_000_000), "after {gap_ms} ms");
            assert_eq!(first.recovery_ns, None, "not known: another fault came");
            assert_eq!(first.next_fault_ns, Some(gap_ms * 1_000_000));
            let said = match gap_ms {
                0 => "not known: another fault was in force".to_owned(),
                gap => format!("not known: the next fault began after {gap}"),
            };
            assert_eq!(first.recovery(|ns| (ns / 1_000_000).to_string()), Some(said));
        }
    }

    #[test]
    fn a_pause_of_a_few_requests_is_none_of_p99() {
        // A hundred requests in each tenth; in the third tenth of each second after the fault three are slow: 0.3 %.
        let mut all = BTreeMap::new();
        for second in 0..20 {
            let mut fine = Second::default();
            for tenth in 0..10 {
                let slow = if second >= 8 && tenth == 2 { 3 } else { 0 };
                (0..100).for_each(|n| {
                    let ms = if n < slow { 50 } else { 5 };
                    fine.response(tenth, Outcome::Ok, ms * 1_000_000, 1);
                });
            }
            all.extend((second * 10..).zip(fine.take()));
        }
        let mut windows = [window(5_000, 8_000)];
        look(&mut windows, &all, None);
        assert_eq!(windows[0].around.as_ref().unwrap().recovery_ns, Some(0));
    }

    #[test]
    fn one_slow_reply_a_tenth_is_slow_at_a_low_rate() {
        // One request in each tenth: each tenth alone could call its only slow reply chance.
        let mut all = BTreeMap::new();
        for second in 0..20 {
            let mut fine = Second::default();
            let ms = if (5..12).contains(&second) { 500 } else { 5 };
            (0..10).for_each(|tenth| fine.response(tenth, Outcome::Ok, ms * 1_000_000, 1));
            all.extend((second * 10..).zip(fine.take()));
        }
        let mut windows = [window(5_000, 8_000)];
        look(&mut windows, &all, None);
        // The one slow reply that a second may hold can be its first.
        assert_eq!(windows[0].around.as_ref().unwrap().recovery_ns, Some(3_900_000_000));
    }

    #[test]
    fn a_window_ends_its_neighbours_before_and_after() {
        let calm = run(|_| (Outcome::Ok, 5));
        let mut windows = [window(5_000, 6_000), window(8_000, 9_000), window(8_500, 10_000)];
        look(&mut windows, &calm, None);
        let spans: Vec<_> = windows
            .iter()
            .map(|window| {
                let Around { before, after, .. } = window.around.as_ref().unwrap();
                [before.start_ns, before.end_ns, after.start_ns, after.end_ns].map(|ns| ns / 100_000_000)
            })
            .collect();
        assert_eq!(spans, [[10, 49, 60, 80], [60, 79, 90, 90], [60, 79, 100, 200]]);
    }
}
