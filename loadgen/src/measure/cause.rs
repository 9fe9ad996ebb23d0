//! Which failures were injected: what a proxy says it did, laid beside what the load saw.
//!
//! A proxy does not know the load's requests, nor the load the proxy's, so the two are matched by time and kind: a request
//! that failed is an injected failure if a fault of its kind was injected between its due time and its end, a tenth of a
//! second to spare on both sides (a second, where a proxy tells once a second), and if no other request has been put down to that fault. So no more failures are called
//! injected than were, and a failure at a time at which nothing was injected is natural.

use std::collections::BTreeMap;

use super::faults::Injections;
use super::fine::{Failure, TENTH_NS, Tenth};

/// Which injected fault may have made which failure. A connection that hangs is cut when its rule is lifted before its
/// client gives up; what was cut by itself comes first.
const MADE_BY: [(Failure, Failure); 5] = [
    (Failure::Refused, Failure::Refused),
    (Failure::Cut, Failure::Cut),
    (Failure::Garbled, Failure::Garbled),
    (Failure::Silent, Failure::Silent),
    (Failure::Cut, Failure::Silent),
];

/// How many of the failures among the requests due in each tenth were injected; tenths without any are missing.
pub(super) fn injected<'a>(
    tenths: impl Iterator<Item = (u64, &'a Tenth)> + Clone,
    injections: &Injections,
) -> BTreeMap<u64, u64> {
    let mut found = BTreeMap::new();
    let slack = injections.slack;
    let mut left = injections.by_tenth.clone();
    // By kind and tenth, what has been put down to a fault already.
    let mut matched: BTreeMap<(Failure, u64), u64> = BTreeMap::new();
    for (failure, made_by) in MADE_BY {
        for (tenth, seen) in tenths.clone() {
            let of_this = matched.entry((failure, tenth)).or_default();
            let until = tenth + seen.bad.max().div_ceil(TENTH_NS) + slack;
            let range = (made_by, tenth.saturating_sub(slack))..=(made_by, until);
            // The earliest first: later ones may still serve later requests.
            while seen.failures[failure as usize] > *of_this
                && let Some((at, count)) = left.range_mut(range.clone()).next()
            {
                let (at, taken) = (*at, (seen.failures[failure as usize] - *of_this).min(*count));
                *of_this += taken;
                *count -= taken;
                if *count == 0 {
                    left.remove(&at);
                }
                *found.entry(tenth).or_default() += taken;
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::super::faults::Injection;
    use super::super::fine::{Second, TENTHS};
    use super::super::sample::{ErrorKind, Outcome};
    use super::*;

    /// One second in which requests due in these tenths failed like this, after so many milliseconds.
    fn second(failed: &[(usize, Outcome, u64)]) -> [Tenth; TENTHS] {
        let mut second = Second::default();
        failed.iter().for_each(|(tenth, outcome, ms)| second.response(*tenth, *outcome, ms * 1_000_000));
        second.take()
    }

    fn found(failed: &[(usize, Outcome, u64)], injected: &[(u64, Failure, u64)]) -> Vec<(u64, u64)> {
        let seconds = second(failed);
        let injections = injected
            .iter()
            .map(|(ms, failure, count)| Injection { at_ns: ms * 1_000_000, failure: *failure, count: *count })
            .collect();
        super::injected((0..).zip(&seconds), &injections).into_iter().collect()
    }

    #[test]
    fn a_proxy_that_tells_once_a_second_is_believed_within_a_second() {
        let seconds = second(&[(1, CUT, 1), (9, CUT, 1)]);
        let mut injections = Injections::told_by_the_second();
        injections.add(Injection { at_ns: 500_000_000, failure: Failure::Cut, count: 3 });
        let found: Vec<_> = super::injected((0..).zip(&seconds), &injections).into_iter().collect();
        assert_eq!(found, [(1, 1), (9, 1)]);
    }

    const CUT: Outcome = Outcome::Error(ErrorKind::EndedEarly);
    const REFUSED: Outcome = Outcome::Error(ErrorKind::Status5xx);

    #[test]
    fn a_failure_is_injected_if_a_fault_of_its_kind_was_injected_meanwhile() {
        use Failure::*;
        type Case<'a> = (&'a [(usize, Outcome, u64)], &'a [(u64, Failure, u64)], &'a [(u64, u64)], &'a str);
        let cases: [Case<'_>; 11] = [
            (&[(3, CUT, 400)], &[(310, Silent, 1)], &[(3, 1)], "hung, and cut when that was lifted"),
            (&[(3, CUT, 1), (3, Outcome::Timeout, 1)], &[(310, Silent, 1)], &[(3, 1)], "hung only once"),
            (&[(3, CUT, 1)], &[(350, Cut, 1)], &[(3, 1)], "at once"),
            (&[(3, CUT, 1)], &[(350, Refused, 1)], &[], "of another kind"),
            (&[(3, CUT, 1)], &[(650, Cut, 1)], &[], "long after it failed"),
            (&[(5, CUT, 1)], &[(350, Cut, 1)], &[], "before it was due"),
            (&[(2, Outcome::Timeout, 500)], &[(650, Silent, 1)], &[(2, 1)], "while it waited"),
            (&[(3, REFUSED, 1), (3, REFUSED, 1)], &[(310, Refused, 1)], &[(3, 1)], "only one of two"),
            (&[(3, CUT, 1), (4, CUT, 1)], &[(399, Cut, 2)], &[(3, 1), (4, 1)], "clocks a tenth apart"),
            (&[(3, CUT, 1)], &[(350, Cut, 50)], &[(3, 1)], "never more than failed"),
            (&[], &[(350, Cut, 50)], &[], "idle connections"),
        ];
        for (failed, injected, expected, what) in cases {
            assert_eq!(found(failed, injected), expected, "{what}");
        }
    }
}
