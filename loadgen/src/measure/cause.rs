//! Which failures were injected: what a proxy says it did, laid beside what the load saw.
//!
//! A proxy does not know the load's requests, nor the load the proxy's, so the two are matched by time and kind: a request
//! that failed is an injected failure if a fault of its kind was injected between its due time and its end, a tenth of a
//! second to spare on both sides (a second, where a proxy tells once a second), and if no other request has been put down
//! to that fault. So no more failures are called injected than were.
//!
//! A timeout of which half of the wait or more was the generator's own part is the generator's own, whatever was injected
//! meanwhile, and no fault is matched with it.
//!
//! Of the timeouts that are left, some nobody can tell: those of requests that waited for a connection while faults held
//! connections, or in the line that such faults had left; and all that fell into a time for which a proxy did not say how
//! long it held what. They are not known. Every other failure that was not injected is natural: injected, the generator's
//! own, natural and not known add up to all, in each tenth of a second.

use std::collections::BTreeMap;

use fracas_dataplane::behavior::{Holds, Kind};

use super::faults::{FaultWindow, Injections, Span};
use super::fine::{Failure, TENTH_NS, Tenth};
use crate::scenario::{Plan, behaviors_of, is_cause};

/// Which injected fault may have made which failure. A connection that hangs is cut when its rule is lifted before its
/// client gives up; what was cut by itself comes first.
const MADE_BY: [(Failure, Failure); 5] = [
    (Failure::Refused, Failure::Refused),
    (Failure::Cut, Failure::Cut),
    (Failure::Garbled, Failure::Garbled),
    (Failure::Silent, Failure::Silent),
    (Failure::Cut, Failure::Silent),
];

/// Failures by cause, of the requests due in a tenth and without the generator's own; what is neither is natural.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Cause {
    pub(super) injected: u64,
    pub(super) unknown: u64,
}

impl Cause {
    pub(super) fn add(&mut self, other: Cause) {
        self.injected += other.injected;
        self.unknown += other.unknown;
    }
}

/// When proxies that tell by the second, and of failures alone, had rules in force of which nobody knows how many held
/// their request for as long as it waited: throttles, and delays of a drawn time, or set by hand. Of a planned and fixed
/// time all are told.
pub(super) fn vague_by_plan(plan: &Plan, windows: &[FaultWindow]) -> Vec<Span> {
    let is_told = |window: &FaultWindow| {
        let planned = plan.faults.iter().find(|fault| {
            let at = u64::try_from(fault.at.as_nanos()).unwrap_or(u64::MAX);
            (&fault.proxy, &fault.behavior) == (&window.proxy, &window.behavior)
                && window.start_ns.abs_diff(at) < APPLIED_WITHIN_NS
        });
        let timeout = plan.response_timeout;
        let held = planned.and_then(|fault| fault.held_for());
        held.is_some_and(|(from, to)| is_cause(from, timeout) || !is_cause(to, timeout))
    };
    let is_untold = |name: &str| Kind::find(name).is_some_and(|kind| kind.client.holds == Holds::Untold);
    let is_vague = |w: &&FaultWindow| {
        let any = |is: &dyn Fn(&str) -> bool| behaviors_of(&w.behavior).any(is);
        any(&is_untold) || any(&|name| name == "delay") && !is_told(w)
    };
    windows.iter().filter(is_vague).map(|w| Span { from_ns: w.start_ns, to_ns: w.end_ns }).collect()
}

/// A planned fault is in force by then.
const APPLIED_WITHIN_NS: u64 = 2_000_000_000;

/// The failures among the requests due in each tenth that were injected or are not known; tenths without any are missing.
pub(super) fn causes(
    tenths: &BTreeMap<u64, &Tenth>,
    injections: &Injections,
    windows: &[FaultWindow],
) -> BTreeMap<u64, Cause> {
    let mut found: BTreeMap<u64, Cause> = BTreeMap::new();
    let slack = injections.slack;
    let mut left = injections.by_tenth.clone();
    // By kind and tenth, what has been put down to a fault already.
    let mut matched: BTreeMap<(Failure, u64), u64> = BTreeMap::new();
    for (failure, made_by) in MADE_BY {
        for (tenth, seen) in tenths {
            let failures = seen.failures_not_own()[failure as usize];
            let of_this = matched.entry((failure, *tenth)).or_default();
            let until = ended_by(*tenth, seen) + slack;
            let range = (made_by, tenth.saturating_sub(slack))..=(made_by, until);
            // The earliest first: later ones may still serve later requests.
            while failures > *of_this
                && let Some((at, count)) = left.range_mut(range.clone()).next()
            {
                let (at, taken) = (*at, (failures - *of_this).min(*count));
                *of_this += taken;
                *count -= taken;
                if *count == 0 {
                    left.remove(&at);
                }
                found.entry(*tenth).or_default().injected += taken;
            }
        }
    }
    let held = held(tenths, windows);
    for (tenth, seen) in tenths {
        let failures = seen.failures_not_own();
        let silent = failures[Failure::Silent as usize];
        // A fault that was told was met by a request on its connection, as far as there are such.
        let left = silent - matched.get(&(Failure::Silent, *tenth)).copied().unwrap_or_default();
        let all = failures.iter().sum::<u64>();
        let touches = |span: &Span| {
            span.from_ns / TENTH_NS <= ended_by(*tenth, seen) + slack
                && span.to_ns.div_ceil(TENTH_NS) + slack > *tenth
        };
        let unknown = if injections.missed.iter().any(touches) {
            all - found.get(tenth).map_or(0, |cause| cause.injected)
        } else if injections.vague.iter().any(touches) {
            left
        } else if held.iter().any(touches) {
            left.min(seen.queued)
        } else {
            0
        };
        if unknown > 0 {
            found.entry(*tenth).or_default().unknown += unknown;
        }
    }
    found
}

/// The tenth in which the last request due in this one had ended.
fn ended_by(tenth: u64, seen: &Tenth) -> u64 {
    tenth + seen.bad.max().div_ceil(TENTH_NS)
}

/// When faults held connections, or a line of requests that they had left was not yet empty.
fn held(tenths: &BTreeMap<u64, &Tenth>, windows: &[FaultWindow]) -> Vec<Span> {
    // Behaviors that keep a connection busy for longer than its request needs it.
    let is_held = |name: &str| Kind::find(name).is_some_and(|kind| kind.client.holds != Holds::No);
    let holds = windows.iter().filter(|window| behaviors_of(&window.behavior).any(is_held));
    let until_empty = |window: &FaultWindow| {
        let mut end = window.end_ns.div_ceil(TENTH_NS);
        // As long as requests are due that wait for a connection until their timeout, the line is that line.
        while tenths.get(&end).is_some_and(|tenth| tenth.queued > 0) {
            end += 1;
        }
        Span { from_ns: window.start_ns, to_ns: end * TENTH_NS }
    };
    holds.map(until_empty).collect()
}

#[cfg(test)]
mod tests {
    use super::super::faults::Injection;
    use super::super::fine::{Second, TENTHS};
    use super::super::sample::{ErrorKind, Outcome};
    use super::*;
    use crate::scenario::Fault;
    use std::time::Duration;

    /// One second in which requests due in these tenths failed like this, after so many milliseconds.
    fn second(failed: &[(usize, Outcome, u64)]) -> [Tenth; TENTHS] {
        let mut second = Second::default();
        failed.iter().for_each(|(tenth, outcome, ms)| second.response(*tenth, *outcome, ms * 1_000_000, 1));
        second.take()
    }

    fn found(failed: &[(usize, Outcome, u64)], injected: &[(u64, Failure, u64)]) -> Vec<(u64, u64)> {
        let seconds = second(failed);
        let injections = injected
            .iter()
            .map(|(ms, failure, count)| Injection { at_ns: ms * 1_000_000, failure: *failure, count: *count })
            .collect();
        of(&seconds, &injections)
    }

    fn of(seconds: &[Tenth], injections: &Injections) -> Vec<(u64, u64)> {
        let causes = causes(&(0..).zip(seconds).collect(), injections, &[]);
        causes.into_iter().map(|(tenth, cause)| (tenth, cause.injected)).collect()
    }

    #[test]
    fn a_proxy_that_tells_once_a_second_is_believed_within_a_second() {
        let seconds = second(&[(1, CUT, 1), (9, CUT, 1)]);
        let mut injections = Injections::told_by_the_second();
        injections.add(Injection { at_ns: 500_000_000, failure: Failure::Cut, count: 3 });
        assert_eq!(of(&seconds, &injections), [(1, 1), (9, 1)]);
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

    /// Ten requests in each tenth of a second, which time out after 200 ms; of them so many waited for a connection.
    fn silent(queued: [u64; TENTHS]) -> [Tenth; TENTHS] {
        let mut second = Second::default();
        for (tenth, queued) in queued.into_iter().enumerate() {
            second.response(tenth, Outcome::Timeout, 200_000_000, 10);
            second.queued(tenth, queued);
        }
        second.take()
    }

    fn window(behavior: &str, from_ms: u64, to_ms: u64) -> FaultWindow {
        let (start_ns, end_ns) = (from_ms * 1_000_000, to_ms * 1_000_000);
        FaultWindow { behavior: behavior.to_owned(), start_ns, end_ns, ..FaultWindow::default() }
    }

    /// Injected and not known, by tenth.
    fn both(tenths: &[Tenth], injections: &Injections, windows: &[FaultWindow]) -> [(u64, u64); TENTHS] {
        let found = causes(&(0..).zip(tenths).collect(), injections, windows);
        std::array::from_fn(|tenth| {
            let cause = found.get(&(tenth as u64)).copied().unwrap_or_default();
            (cause.injected, cause.unknown)
        })
    }

    #[test]
    fn a_timeout_in_the_line_behind_faults_that_hold_connections_is_not_known() {
        let line = [0, 0, 0, 4, 6, 9, 9, 3, 0, 7];
        let of = |behavior| both(&silent(line), &Injections::default(), &[window(behavior, 400, 500)]);
        // Tenth 3 was waiting still when the rules came; the line they left was empty in tenth 8, and 9 is another's.
        let unknown = [0, 0, 0, 4, 6, 9, 9, 3, 0, 0].map(|unknown| (0, unknown));
        for behavior in ["20:delay", "hang", "5:error,10:throttle", "slicer"] {
            assert_eq!(of(behavior), unknown, "{behavior}");
        }
        assert_eq!(of("blackout"), [(0, 0); TENTHS], "it ends connections, and holds none");
    }

    #[test]
    fn what_was_told_was_met_by_those_that_had_a_connection() {
        let told = [(480, 1), (450, 6)].map(|(ms, count)| Injection {
            at_ns: ms * 1_000_000,
            failure: Failure::Silent,
            count,
        });
        let line = [0, 0, 0, 0, 6, 0, 0, 0, 0, 0];
        let found = both(&silent(line), &told.into_iter().collect(), &[window("delay", 400, 500)]);
        // The seven serve the first tenth that they can; of the others those that had a connection are natural.
        assert_eq!(found[1..6], [(7, 0), (0, 0), (0, 0), (0, 6), (0, 0)]);
    }

    #[test]
    fn no_timeout_is_natural_while_nobody_said_how_long_requests_were_held() {
        let mut injections = Injections::default();
        injections.add(Injection { at_ns: 350_000_000, failure: Failure::Silent, count: 4 });
        injections.is_vague(Span { from_ns: 300_000_000, to_ns: 400_000_000 });
        let mut tenths = silent([0; TENTHS]);
        tenths[3].failures[Failure::Refused as usize] = 5;
        let found = both(&tenths, &injections, &[]);
        // Each waited 200 ms, and a tenth is to spare on both sides; refusals are none of it.
        assert_eq!(found[..6], [(4, 6), (0, 10), (0, 10), (0, 10), (0, 10), (0, 0)]);
    }

    #[test]
    fn nothing_is_natural_where_events_were_missed() {
        let mut injections = Injections::default();
        injections.add(Injection { at_ns: 350_000_000, failure: Failure::Refused, count: 4 });
        injections.missed(Span { from_ns: 300_000_000, to_ns: 400_000_000 });
        let failed = [3, 3, 3, 3, 3, 5, 5].map(|tenth| (tenth, REFUSED, 1));
        let found = both(&second(&failed), &injections, &[]);
        assert_eq!((found[3], found[5]), ((4, 1), (0, 0)));
    }

    #[test]
    fn of_a_fleet_only_planned_delays_of_a_fixed_time_are_all_told() {
        let mut plan = Plan::for_target("http://127.0.0.1:1/".parse().unwrap());
        plan.response_timeout = Duration::from_millis(500);
        let fault = |behavior: &str, time: &str, at: u64| Fault {
            proxy: String::new(),
            behavior: behavior.to_owned(),
            options: [("delay".to_owned(), [("time".to_owned(), time.to_owned())].into())].into(),
            at: Duration::from_secs(at),
            over: Duration::from_secs(1),
        };
        plan.faults = vec![
            fault("1:delay", "250ms", 0),
            fault("2:delay", "uniform(200ms,249ms)", 10),
            fault("3:delay", "uniform(200ms,250ms)", 20),
            fault("4:latency", "normal(1s,10ms)", 30),
        ];
        plan.faults[3].options = [("latency".to_owned(), plan.faults[3].options["delay"].clone())].into();
        let windows = [
            window("1:delay", 10, 1_000),
            window("2:delay", 10_000, 11_000),
            window("3:delay", 20_000, 21_000),
            window("4:latency", 30_000, 31_000),
            window("1:delay", 40_000, 41_000),
            window("5:delay", 50_000, 51_000),
            window("5:hang", 60_000, 61_000),
            window("5:throttle", 70_000, 71_000),
            window("1:delay,5:throttle", 10, 1_000),
        ];
        let from: Vec<_> =
            vague_by_plan(&plan, &windows).iter().map(|span| span.from_ns / 1_000_000_000).collect();
        let expected = [20, 30, 40, 50, 70, 0];
        assert_eq!(from, expected, "drawn across the half, without end, twice by hand, and throttles");
    }
}
