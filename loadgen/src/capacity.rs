//! The search for the highest rate that keeps the objectives: which rate to try next. No I/O: probes are the
//! caller's, and a simulated target is enough to test it.
//!
//! ```text
//!  grow: × 2 while kept ──broken, and broken again──► bisect ──until the gap is within the tolerance──► done
//!  shrink: ÷ 2 while broken ──kept──────────────────►
//! ```
//!
//! A rate counts as broken only after a second probe has broken it too: one hiccup must not halve a capacity. A probe that
//! the generator could not make says nothing about the target, and is made again, [`TRIES_MAX`] times in all. Then such a
//! rate bounds the search from above; if that is what the search comes to, it is tried once more, for the machine may be
//! calm by then, and the answer says what it was limited by.

use crate::measure::Summary;
use crate::measure::thresholds::{
    GROWTH_RATIO_KEPT, OWN_LAG_P99_INVALID_NS, REPLIED_RATIO_KEPT, REPLIED_RATIO_SUSPECT, STALL_FROM_NS,
    WORKER_BUSY_INVALID,
};
use crate::scenario::{Metric, Slo};

/// Probes after which the search ends with what it has; doubling from 1/s to 10⁹/s and bisecting take fewer.
pub const PROBES_MAX: usize = 60;

/// Probes of a rate that the generator could not make before the search goes on below it.
pub const TRIES_MAX: usize = 3;

/// What a probe found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finding {
    /// The objectives were kept at this rate.
    Kept,
    /// They were not, or the rate was not kept up with.
    Broken,
    /// The generator did not keep its schedule: the probe says nothing about the target.
    Unusable,
}

impl Finding {
    /// Judges a probe at an open model's constant rate. A rate at which replies come later and later is not kept, however
    /// early the probe ends: it would break every objective in time.
    pub fn of(probe: &Summary) -> Finding {
        let is_busy = |worker: &crate::measure::WorkerUse| worker.busy_ratio > WORKER_BUSY_INVALID;
        let generator_failed = probe.own_lag.p99 > OWN_LAG_P99_INVALID_NS
            || probe.nodes.iter().flat_map(|node| &node.workers).any(is_busy);
        let few = |count: u64| count as f64 <= probe.counts.planned as f64 * (1.0 - REPLIED_RATIO_SUSPECT);
        let is_answered = probe.answered_ratio.is_none_or(|ratio| ratio >= REPLIED_RATIO_KEPT)
            && (probe.answered_ratio.is_some() || few(probe.counts.censored + probe.counts.unsent))
            && probe.growth_ratio.is_none_or(|growth| growth <= GROWTH_RATIO_KEPT);
        // Errors are what an objective says about them; without one, an error is no answer.
        let about_errors = |slo: &Slo| matches!(slo.metric, Metric::ErrorRatio(_) | Metric::RatePerSecond);
        let is_answered = is_answered
            && (probe.plan.slo.iter().any(about_errors) || few(probe.counts.error + probe.counts.timeout));
        match (generator_failed, probe.slo_passed() && is_answered) {
            (true, _) => Finding::Unusable,
            (false, true) if probe.verdict == crate::measure::Grade::Invalid => Finding::Unusable,
            (false, true) => Finding::Kept,
            // It may be what broke them.
            (false, false) if probe.own.stall_max_ns >= STALL_FROM_NS => Finding::Unusable,
            // A saturated target leaves requests unsent, which makes a run invalid, and this probe a clear one.
            (false, false) => Finding::Broken,
        }
    }

    /// For tables and JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Finding::Kept => "kept",
            Finding::Broken => "broken",
            Finding::Unusable => "unusable",
        }
    }
}

/// What keeps the rate from being higher.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LimitedBy {
    /// The objectives: the question is answered.
    Slo,
    /// The generator: the target may do more.
    Generator,
    /// The highest rate that may be tried.
    Max,
    /// The search was ended before.
    Unfinished,
}

impl LimitedBy {
    /// For JSON.
    pub const fn name(self) -> &'static str {
        match self {
            LimitedBy::Slo => "slo",
            LimitedBy::Generator => "generator",
            LimitedBy::Max => "max",
            LimitedBy::Unfinished => "unfinished",
        }
    }
}

/// What the search came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The highest rate that kept the objectives, requests a second; `None` when none did.
    pub kept: Option<u64>,
    /// The lowest that did not.
    pub broken: Option<u64>,
    /// In its place, the lowest that the generator could not ask for, which says nothing about the target.
    pub unusable: Option<u64>,
    /// Why it is not higher.
    pub limited_by: LimitedBy,
}

/// The next step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Probe this rate, requests a second.
    Probe(u64),
    /// It is over.
    Done(Answer),
}

/// A search in progress: [`Search::next`], probe, [`Search::on_probe`], and again.
#[derive(Clone, Debug)]
pub struct Search {
    rate: u64,
    max: u64,
    tolerance: f64,
    kept: Option<u64>,
    /// The lowest rate that failed twice, and what it failed of the second time.
    failed: Option<(u64, Finding)>,
    /// The present rate has broken once.
    is_broken_once: bool,
    /// So many probes of the present rate could not be made.
    unusable: usize,
    /// The present rate is to be probed again.
    again: bool,
    /// The rate that the generator could not make was tried once more at the end.
    has_come_back: bool,
    probes: usize,
}

impl Search {
    /// Begins at `from` requests a second, never asks for more than `max`, and ends when the rates kept and broken are
    /// `tolerance` apart, as a share of the rate kept.
    pub fn new(from: u64, max: u64, tolerance: f64) -> Search {
        let max = max.max(1);
        let rate = from.clamp(1, max);
        Search {
            rate,
            max,
            tolerance,
            kept: None,
            failed: None,
            is_broken_once: false,
            unusable: 0,
            again: false,
            has_come_back: false,
            probes: 0,
        }
    }

    /// What to do now.
    pub fn next(&self) -> Next {
        let limited_by = match (self.kept, self.failed) {
            _ if self.again && self.probes < PROBES_MAX => return Next::Probe(self.rate),
            (Some(kept), Some((failed, why))) if self.is_close(kept, failed) => limit_of(why),
            (None, Some((1, why))) => limit_of(why),
            (Some(kept), _) if kept >= self.max => LimitedBy::Max,
            _ if self.probes >= PROBES_MAX => LimitedBy::Unfinished,
            _ => return Next::Probe(self.rate),
        };
        Next::Done(self.answer(limited_by))
    }

    /// How many more probes there are at most, once a rate was kept and another one was not; before, it depends on how far
    /// the capacity is. Probes that the generator cannot make come on top.
    pub fn left_max(&self) -> Option<usize> {
        let (kept, (failed, _)) = (self.kept?, self.failed?);
        let ratio = (failed as f64 / kept as f64).ln() / (1.0 + self.tolerance).ln();
        let steps = ratio.log2().ceil().max(0.0) as usize;
        // A rate that breaks is tried twice.
        Some((2 * steps + usize::from(self.again)).min(PROBES_MAX - self.probes.min(PROBES_MAX)))
    }

    /// What is known when the search is ended from outside.
    pub fn so_far(&self) -> Answer {
        self.answer(LimitedBy::Unfinished)
    }

    /// Takes the finding of the probe that [`Search::next`] asked for.
    pub fn on_probe(&mut self, finding: Finding) {
        self.probes += 1;
        self.again = match finding {
            Finding::Kept => false,
            Finding::Broken => !std::mem::replace(&mut self.is_broken_once, true),
            Finding::Unusable => {
                self.unusable += 1;
                self.unusable < TRIES_MAX
            }
        };
        if self.again {
            return;
        }
        (self.is_broken_once, self.unusable) = (false, 0);
        if finding == Finding::Kept {
            self.kept = Some(self.rate);
            // What the generator can make after all is no bound any more.
            self.failed = self.failed.filter(|(failed, _)| *failed > self.rate);
        } else {
            self.failed = Some((self.rate, finding));
        }
        self.rate = match (self.kept, self.failed) {
            (Some(kept), None) => kept.saturating_mul(2).min(self.max),
            (None, Some((failed, _))) => (failed / 2).max(1),
            // The middle on a scale of ratios, strictly between the two as long as there is anything between.
            (Some(kept), Some((failed, _))) => {
                let middle = (kept as f64 * failed as f64).sqrt().round() as u64;
                middle.clamp(kept + 1, (failed - 1).max(kept + 1))
            }
            (None, None) => self.rate,
        };
        if let (Some(kept), Some((failed, Finding::Unusable))) = (self.kept, self.failed)
            && self.is_close(kept, failed)
            && !std::mem::replace(&mut self.has_come_back, true)
        {
            // One more probe that cannot be made is enough.
            (self.rate, self.again, self.unusable) = (failed, true, TRIES_MAX - 1);
        }
    }

    /// How often the present rate was tried in vain because the generator could not make it.
    pub fn tries_in_vain(&self) -> usize {
        if self.again { self.unusable } else { 0 }
    }

    fn is_close(&self, kept: u64, failed: u64) -> bool {
        failed <= kept + 1 || (failed - kept) as f64 <= kept as f64 * self.tolerance
    }

    fn answer(&self, limited_by: LimitedBy) -> Answer {
        let failed = |of| self.failed.filter(|(_, why)| *why == of).map(|(rate, _)| rate);
        let (broken, mut unusable) = (failed(Finding::Broken), failed(Finding::Unusable));
        if self.unusable > 0 {
            unusable = unusable.or(Some(self.rate));
        }
        Answer { kept: self.kept, broken, unusable, limited_by }
    }
}

fn limit_of(why: Finding) -> LimitedBy {
    if why == Finding::Unusable { LimitedBy::Generator } else { LimitedBy::Slo }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::{Environment, Faults, Grade, RunFacts};
    use crate::scenario::Plan;
    use proptest::prelude::*;
    use std::time::Duration;

    /// Runs a search on a simulated target; the rates it asked for, and the answer.
    fn search(mut search: Search, mut probe: impl FnMut(u64) -> Finding) -> (Vec<u64>, Answer) {
        let mut asked = Vec::new();
        loop {
            match search.next() {
                Next::Done(answer) => return (asked, answer),
                Next::Probe(rate) => {
                    asked.push(rate);
                    search.on_probe(probe(rate));
                }
            }
        }
    }

    /// A probe of 100 requests a second for 10 s.
    fn probe(slo: &[&str], change: impl FnOnce(&mut Summary)) -> Finding {
        let mut plan = Plan::for_target("http://127.0.0.1:1/".parse().unwrap());
        plan.slo = slo.iter().map(|text| text.parse().unwrap()).collect();
        let facts = RunFacts {
            plan,
            started_at_unix_ms: 0,
            ran_for: Duration::from_secs(10),
            ended_early: None,
            cut_after: None,
            faults: Faults::default(),
            environment: Environment::default(),
            reproduce: String::new(),
        };
        let mut probe = Summary::new(facts, &[]);
        probe.verdict = Grade::Valid;
        probe.slo.iter_mut().for_each(|result| result.passed = true);
        probe.counts.planned = 1000;
        probe.counts.sent = 1000;
        probe.counts.ok = 1000;
        probe.answered_ratio = Some(1.0);
        change(&mut probe);
        Finding::of(&probe)
    }

    #[test]
    fn errors_are_left_to_the_objective_on_them() {
        let with_errors = |probe: &mut Summary| (probe.counts.ok, probe.counts.error) = (940, 60);
        assert_eq!(probe(&["p99<50ms", "errors<10%"], with_errors), Finding::Kept);
        assert_eq!(probe(&["p99<50ms"], with_errors), Finding::Broken);
    }

    #[test]
    fn a_rate_that_is_not_answered_is_broken() {
        assert_eq!(probe(&["p99<50ms"], |probe| probe.answered_ratio = Some(0.979)), Finding::Broken);
        assert_eq!(probe(&["p99<50ms"], |probe| probe.growth_ratio = Some(0.011)), Finding::Broken);
        assert_eq!(probe(&["p99<50ms"], |probe| probe.growth_ratio = Some(0.01)), Finding::Kept);
        assert_eq!(probe(&["p99<50ms"], |_| {}), Finding::Kept);
    }

    #[test]
    fn a_probe_that_the_generator_may_have_spoiled_is_not_the_targets() {
        let stalled = |probe: &mut Summary| probe.own.stall_max_ns = 50_000_000;
        assert_eq!(probe(&["p99<50ms"], stalled), Finding::Kept);
        let broken = |probe: &mut Summary| {
            stalled(probe);
            probe.slo[0].passed = false;
        };
        assert_eq!(probe(&["p99<50ms"], broken), Finding::Unusable);
    }

    fn up_to(capacity: u64) -> impl FnMut(u64) -> Finding {
        move |rate| if rate <= capacity { Finding::Kept } else { Finding::Broken }
    }

    #[test]
    fn it_says_how_many_probes_are_left_once_it_can() {
        let mut search = Search::new(100, 1_000_000, 0.05);
        let (mut left, mut made) = (Vec::new(), 0);
        while let Next::Probe(rate) = search.next() {
            left.push(search.left_max());
            search.on_probe(up_to(1000)(rate));
            made += 1;
        }
        assert_eq!(left[..6], [None; 6], "twice 1,600 first");
        for (number, said) in left.iter().enumerate().skip(6) {
            assert!(said.unwrap() >= made - number, "{left:?}");
        }
        assert!(left[6].unwrap() <= 8, "{left:?}");
    }

    #[test]
    fn it_doubles_confirms_and_bisects() {
        let (asked, answer) = search(Search::new(100, 1_000_000, 0.05), up_to(1000));
        assert_eq!(asked[..6], [100, 200, 400, 800, 1600, 1600]);
        assert_eq!(answer.limited_by, LimitedBy::Slo);
        assert!((950..=1000).contains(&answer.kept.unwrap()), "{answer:?}");
        assert!(answer.broken.unwrap() > 1000);
    }

    #[test]
    fn a_start_above_the_capacity_is_halved_until_it_holds() {
        let (asked, answer) = search(Search::new(10_000, 1_000_000, 0.1), up_to(1000));
        assert_eq!(asked[..4], [10_000, 10_000, 5_000, 5_000]);
        assert!((900..=1000).contains(&answer.kept.unwrap()), "{answer:?}");
    }

    #[test]
    fn one_hiccup_does_not_halve_a_capacity() {
        let mut calls = 0;
        let (_, answer) = search(Search::new(100, 1_000_000, 0.05), |rate| {
            calls += 1;
            if calls == 3 { Finding::Broken } else { up_to(10_000)(rate) }
        });
        assert!((9_500..=10_000).contains(&answer.kept.unwrap()), "{answer:?}");
    }

    #[test]
    fn a_target_that_keeps_nothing_is_given_up_at_one_a_second() {
        let (asked, answer) = search(Search::new(8, 100, 0.05), |_| Finding::Broken);
        assert_eq!(asked, [8, 8, 4, 4, 2, 2, 1, 1]);
        assert_eq!(
            answer,
            Answer { kept: None, broken: Some(1), unusable: None, limited_by: LimitedBy::Slo }
        );
    }

    #[test]
    fn a_rate_that_the_generator_cannot_make_is_not_the_targets_limit() {
        let (_, answer) = search(Search::new(100, 1_000_000, 0.05), |rate| {
            if rate > 3000 { Finding::Unusable } else { Finding::Kept }
        });
        assert_eq!(answer.limited_by, LimitedBy::Generator);
        assert!((2_850..=3000).contains(&answer.kept.unwrap()), "{answer:?}");
    }

    #[test]
    fn a_probe_that_the_generator_could_not_make_is_made_again() {
        use Finding::{Broken, Kept, Unusable};
        // Each rate's findings in turn; the last one stays.
        type Case =
            (&'static [(u64, &'static [Finding])], &'static [u64], (Option<u64>, Option<u64>, Option<u64>));
        let cases: [Case; 6] = [
            (
                &[(100, &[Unusable, Unusable, Kept]), (200, &[Broken])],
                &[100, 100, 100, 200, 200],
                (Some(100), Some(200), None),
            ),
            (&[(200, &[Unusable])], &[100, 200, 200, 200, 200], (Some(100), None, Some(200))),
            (
                &[(200, &[Unusable, Unusable, Unusable, Broken])],
                &[100, 200, 200, 200, 200, 200],
                (Some(100), Some(200), None),
            ),
            (
                &[(200, &[Unusable, Unusable, Unusable, Kept]), (400, &[Broken])],
                &[100, 200, 200, 200, 200, 400, 400],
                (Some(200), Some(400), None),
            ),
            // A busy moment confirms no break, and a break no busy moment.
            (
                &[(200, &[Broken, Unusable, Kept]), (400, &[Broken])],
                &[100, 200, 200, 200, 400, 400],
                (Some(200), Some(400), None),
            ),
            (&[(1, &[Unusable])], &[1, 1, 1], (None, None, Some(1))),
        ];
        for (findings, expected, (kept, broken, unusable)) in cases {
            let mut made = std::collections::BTreeMap::new();
            let from = expected[0];
            let (asked, answer) = search(Search::new(from, 1_000, 1.0), |rate| {
                let so_far: &mut usize = made.entry(rate).or_default();
                *so_far += 1;
                let of_rate = findings.iter().find(|(of, _)| *of == rate).map_or(&[Kept][..], |(_, all)| all);
                of_rate[(*so_far - 1).min(of_rate.len() - 1)]
            });
            assert_eq!(asked, expected, "{findings:?}");
            assert_eq!(
                (answer.kept, answer.broken, answer.unusable),
                (kept, broken, unusable),
                "{findings:?}"
            );
            let is_generators = unusable.is_some();
            assert_eq!(answer.limited_by == LimitedBy::Generator, is_generators, "{findings:?}");
        }
    }

    #[test]
    fn a_search_that_is_stopped_says_what_the_generator_could_not_make() {
        let mut search = Search::new(100, 1_000, 0.01);
        search.on_probe(Finding::Unusable);
        assert_eq!((search.tries_in_vain(), search.so_far().unusable), (1, Some(100)));
        search.on_probe(Finding::Kept);
        assert_eq!((search.tries_in_vain(), search.so_far().unusable), (0, None));
    }

    #[test]
    fn the_highest_rate_allowed_is_tried_and_not_exceeded() {
        let (asked, answer) = search(Search::new(100, 1000, 0.05), |_| Finding::Kept);
        assert_eq!(asked, [100, 200, 400, 800, 1000]);
        assert_eq!(
            answer,
            Answer { kept: Some(1000), broken: None, unusable: None, limited_by: LimitedBy::Max }
        );
    }

    #[test]
    fn a_target_without_a_pattern_does_not_keep_the_search_going() {
        let mut calls = 0;
        let (asked, _) = search(Search::new(100, u64::MAX, 0.0), |_| {
            calls += 1;
            if calls % 3 == 0 { Finding::Kept } else { Finding::Broken }
        });
        assert!(asked.len() <= PROBES_MAX);
    }

    proptest! {
        #[test]
        fn the_answer_is_within_the_tolerance_whatever_the_capacity(
            capacity in 1_u64..100_000_000, from in 1_u64..1_000_000, tolerance in 0.001_f64..0.5,
        ) {
            let (asked, answer) = search(Search::new(from, 1_000_000_000, tolerance), up_to(capacity));
            let (kept, broken) = (answer.kept.unwrap(), answer.broken.unwrap());
            prop_assert!(kept <= capacity && capacity < broken);
            prop_assert!(broken - kept <= 1 || (broken - kept) as f64 <= kept as f64 * tolerance);
            prop_assert!(asked.len() < PROBES_MAX, "{} probes", asked.len());
        }
    }
}
