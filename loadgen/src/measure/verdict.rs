//! Whether the numbers of a run may be believed. About the generator, not about the target: a target that
//! is slow or broken makes a valid run with bad figures.

use serde::{Deserialize, Serialize};

use super::facts::Shortages;
use super::histogram::Distribution;
use super::interval::{Counts, Imbalance};
use super::summary::OwnSummary;

/// The thresholds, each with its reason.
pub mod thresholds {
    /// Own lag above this at p99 is suspect: epoll-timer tools are 1 ms off (wrk2 README), and biased an
    /// nginx of 0.05–0.2 ms to 0.8–2 ms (envoy issue 5536); a ring that sleeps is 0.15 ms late.
    pub const OWN_LAG_P99_SUSPECT_NS: u64 = 1_000_000;
    /// Own lag above this at p99 is invalid: ten times what any working generator shows.
    pub const OWN_LAG_P99_INVALID_NS: u64 = 10_000_000;
    /// A request with an own part of this or more was touched by the generator: what is suspect at p99.
    pub const TOUCHED_FROM_NS: u64 = OWN_LAG_P99_SUSPECT_NS;
    /// A turn of a worker's loop that comes late by this or more is a stall, and makes a run suspect, whatever its model and
    /// however few requests it touched: a scheduler that is merely busy gives a thread its turn ten times as fast.
    pub const STALL_FROM_NS: u64 = 50_000_000;
    /// Stalls that take more than this share of the measured time make it invalid: for so long nothing was measured.
    pub const STALLED_RATIO_INVALID: f64 = 0.05;
    /// A worker that waits so long each time until it gets a core, and for this share of the time, shares it with others:
    /// replies wait as long. On a core of its own it is some microseconds.
    pub const RUN_DELAY_MEAN_SUSPECT_NS: u64 = 500_000;
    /// See [`RUN_DELAY_MEAN_SUSPECT_NS`].
    pub const RUN_DELAY_RATIO_SUSPECT: f64 = 0.05;
    /// More than this share of the requests held back by the connect rate: the load was shaped by it.
    pub const PACED_RATIO_SUSPECT: f64 = 0.01;
    /// Replies that come later by more than this with every second: so much more is due than can be answered.
    pub const GROWTH_RATIO_SUSPECT: f64 = 0.02;
    /// A capacity must be kept for ever; below this a growth is not told from noise.
    pub const GROWTH_RATIO_KEPT: f64 = 0.01;
    /// A worker busier than this is suspect: k6 asks for 20 % of idle CPU.
    pub const WORKER_BUSY_SUSPECT: f64 = 0.80;
    /// In an open model a worker busier than this cannot keep the schedule: what is measured is the worker. A closed
    /// model has no schedule to miss and is meant to find a limit; that it may be the worker's makes it suspect.
    pub const WORKER_BUSY_INVALID: f64 = 0.95;
    /// In a shorter run a worker's share of busy time is chance, and not judged.
    pub const WORKER_BUSY_KNOWN_FROM: std::time::Duration = std::time::Duration::from_millis(100);
    /// More than this share never sent: the load was not the load that was asked for.
    pub const DROPPED_RATIO_INVALID: f64 = 0.01;
    /// Fewer than this share of the requests that could be answered within the run were: the rate was not reached.
    pub const REPLIED_RATIO_SUSPECT: f64 = 0.95;
    /// A capacity is a rate that can be kept for ever. The growth tells finer; this is for runs that are too short for it,
    /// in which a request more or less at the end is chance.
    pub const REPLIED_RATIO_KEPT: f64 = 0.98;
    /// More than this share of connects failing makes the crowd smaller than asked.
    pub const CONNECT_FAILURE_RATIO_SUSPECT: f64 = 0.01;
}

/// Whether the numbers may be believed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Grade {
    /// Yes.
    #[default]
    Valid,
    /// With the reasons in mind.
    Suspect,
    /// No; the process exits with 111.
    Invalid,
}

impl Grade {
    /// As written in `run.json`.
    pub const fn name(self) -> &'static str {
        match self {
            Grade::Valid => "valid",
            Grade::Suspect => "suspect",
            Grade::Invalid => "invalid",
        }
    }
}

/// A grade and why.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// The worst of all reasons.
    pub grade: Grade,
    /// One sentence each, the worst first.
    pub reasons: Vec<String>,
}

/// What a verdict looks at.
#[derive(Clone, Debug, Default)]
pub(super) struct Signals {
    pub planned: u64,
    pub sent: u64,
    pub ok: u64,
    pub timeout: u64,
    pub dropped: u64,
    pub commonest_error: Option<&'static str>,
    pub own_lag_p99_ns: u64,
    pub own_lag_known: bool,
    pub open_model: bool,
    /// `None` when too little was due early enough.
    pub answered_ratio: Option<f64>,
    pub growth_ratio: f64,
    /// Of all nodes; then, where there are several, of each by name.
    pub own: OwnSummary,
    pub own_of_nodes: Vec<(String, OwnSummary)>,
    /// The time that all workers had together.
    pub worker_ns: u64,
    pub worker_busy_max: Option<f64>,
    pub cq_overflows: u64,
    pub shortages: Shortages,
    pub connection_per_request: bool,
    pub connections_asked: u64,
    pub connections_opened: u64,
    pub connect_failures: u64,
    pub connect_failures_opening: u64,
    pub saturated: u64,
    pub imbalance: Vec<(String, Imbalance)>,
    /// (node and what happened, whether the run may go on without it)
    pub lost_nodes: Vec<(String, bool)>,
    pub ended_early: Option<String>,
}

/// What can be said while the run goes on: whether the schedule is kept.
pub fn judge_so_far(counts: &Counts, own_lag: &Distribution) -> Verdict {
    let found = sent_late(own_lag.percentile(99.0), None).into_iter();
    Verdict::of(found.chain(never_sent(counts.dropped, counts.planned)).collect())
}

/// `waited_for_core` is the share of its time, where that is known.
fn sent_late(own_lag_p99_ns: u64, waited_for_core: Option<f64>) -> Option<(Grade, String)> {
    use thresholds::*;
    let grade = match own_lag_p99_ns {
        lag if lag <= OWN_LAG_P99_SUSPECT_NS => return None,
        lag if lag <= OWN_LAG_P99_INVALID_NS => Grade::Suspect,
        _ => Grade::Invalid,
    };
    let lag_ms = own_lag_p99_ns as f64 / 1e6;
    // More threads that want the same cores would make it worse.
    let remedy = match waited_for_core {
        Some(ratio) if ratio >= RUN_DELAY_RATIO_SUSPECT => {
            format!("it waited for a core {:.0} % of the time: leave it cores of its own", ratio * 100.0)
        }
        _ => "use more threads or nodes, or --precise".to_owned(),
    };
    Some((grade, format!("the generator itself was late: p99 {lag_ms:.1} ms; {remedy}")))
}

/// What a generator did that stood still or was held up, and in which second.
fn stood_still(signals: &Signals) -> Vec<(Grade, String)> {
    use thresholds::*;
    let OwnSummary { stall_ns, run_delay_ns, run_delay_mean_ns, connects_paced, .. } = signals.own;
    let ratio = |part: u64, whole: u64| part as f64 / whole.max(1) as f64;
    let worker_ns = signals.worker_ns.max(1);
    let mut found = Vec::new();
    // The whole stall, even if it began in the warm-up: a bound, and shown nowhere.
    let stalled = ratio(stall_ns, worker_ns);
    let grade = if stalled > STALLED_RATIO_INVALID { Grade::Invalid } else { Grade::Suspect };
    let each = signals.own_of_nodes.iter().map(|(name, own)| (format!("node {name}"), own));
    let all = std::iter::once(("the generator".to_owned(), &signals.own));
    let of: Vec<_> = if signals.own_of_nodes.is_empty() { all.collect() } else { each.collect() };
    for (who, own) in of.into_iter().filter(|(_, own)| own.stall_max_ns >= STALL_FROM_NS) {
        let (stall, second) = (own.stall_max_ns as f64 / 1e9, own.stall_max_second.unwrap_or_default());
        let (touched, percent) = (own.requests_touched, own.touched_ratio * 100.0);
        found.push((
            grade,
            format!(
                "{who} stood still for {stall:.2} s from second {second} on, {:.2} s in all, summed over its workers; {touched} requests of the run ({percent:.1} %) bear 1 ms or more of its lateness; let nothing stop it or take its cores",
                own.stall_ns as f64 / 1e9
            ),
        ));
    }
    let delayed = ratio(run_delay_ns, worker_ns);
    if run_delay_mean_ns >= RUN_DELAY_MEAN_SUSPECT_NS && delayed >= RUN_DELAY_RATIO_SUSPECT {
        let (mean_ms, percent) = (run_delay_mean_ns as f64 / 1e6, delayed * 100.0);
        found.push((
            Grade::Suspect,
            format!(
                "the workers had to wait for a core for {percent:.0} % of the time, {mean_ms:.1} ms each time; leave them cores of their own"
            ),
        ));
    }
    // Those are figures of the generator, as what it never sent.
    let own_timeouts = signals.own.timeouts;
    if own_timeouts > 0 {
        let is_invalid = ratio(own_timeouts, signals.planned) > DROPPED_RATIO_INVALID;
        found.push((
            if is_invalid { Grade::Invalid } else { Grade::Suspect },
            format!(
                "of {} timeouts {own_timeouts} are the generator's own: it was late for half of their time or more; give requests a longer --timeout, or the generator a core of its own",
                signals.timeout
            ),
        ));
    }
    if ratio(connects_paced, signals.planned) > PACED_RATIO_SUSPECT {
        found.push((
            Grade::Suspect,
            format!("{connects_paced} requests waited for the connect rate; raise --connect-rate"),
        ));
    }
    found
}

fn never_sent(dropped: u64, planned: u64) -> Option<(Grade, String)> {
    let ratio = dropped as f64 / planned.max(1) as f64;
    let is_invalid = ratio > thresholds::DROPPED_RATIO_INVALID;
    let percent = ratio * 100.0;
    let reason = format!(
        "{dropped} of {planned} due requests were never sent ({percent:.2} %); use more connections or a lower rate"
    );
    (dropped > 0).then_some((if is_invalid { Grade::Invalid } else { Grade::Suspect }, reason))
}

impl Verdict {
    fn of(mut found: Vec<(Grade, String)>) -> Verdict {
        found.sort_by_key(|(grade, _)| std::cmp::Reverse(*grade));
        let grade = found.first().map_or(Grade::Valid, |(grade, _)| *grade);
        Verdict { grade, reasons: found.into_iter().map(|(_, reason)| reason).collect() }
    }
}

pub(super) fn judge(signals: &Signals) -> Verdict {
    use thresholds::*;
    let mut found: Vec<(Grade, String)> = Vec::new();
    let mut say = |grade: Grade, reason: String| found.push((grade, reason));
    for (node, imbalance) in &signals.imbalance {
        say(Grade::Invalid, format!("{node}: {imbalance}"));
    }
    for (loss, may_continue) in &signals.lost_nodes {
        say(if *may_continue { Grade::Suspect } else { Grade::Invalid }, loss.clone());
    }
    if let Some(reason) = &signals.ended_early {
        say(Grade::Invalid, format!("the run ended early: {reason}"));
    }
    if signals.sent == 0 {
        say(Grade::Invalid, "nothing was sent".to_owned());
    } else if signals.ok == 0 {
        let most = signals.commonest_error.map_or(String::new(), |error| format!("; most often: {error}"));
        say(Grade::Invalid, format!("no request succeeded{most}"));
    }
    let waited = signals.own.run_delay_ns as f64 / signals.worker_ns.max(1) as f64;
    let late = sent_late(signals.own_lag_p99_ns, Some(waited)).filter(|_| signals.own_lag_known);
    let held_up = stood_still(signals).into_iter().chain(late);
    for (grade, reason) in held_up.chain(never_sent(signals.dropped, signals.planned)) {
        say(grade, reason);
    }
    if signals.open_model && signals.planned > 0 && signals.sent > 0 {
        if signals.growth_ratio > GROWTH_RATIO_SUSPECT {
            let ms = signals.growth_ratio * 1e3;
            let percent = 100.0 / (1.0 + signals.growth_ratio);
            say(
                Grade::Suspect,
                format!(
                    "good replies came {ms:.0} ms later with every second of the run: about {percent:.0} % of the asked rate can be answered; the target or the connections are saturated"
                ),
            );
        } else if let Some(ratio) = signals.answered_ratio.filter(|ratio| *ratio < REPLIED_RATIO_SUSPECT) {
            let percent = ratio * 100.0;
            say(
                Grade::Suspect,
                format!(
                    "only {percent:.1} % of the requests that were due early enough for a reply within the run had ended by then, with a reply, an error or a timeout; the target or the connections are saturated"
                ),
            );
        }
    }
    if let Some(busy) = signals.worker_busy_max.filter(|busy| *busy > WORKER_BUSY_SUSPECT) {
        let percent = busy * 100.0;
        if signals.open_model {
            let grade = if busy > WORKER_BUSY_INVALID { Grade::Invalid } else { Grade::Suspect };
            say(grade, format!("a worker was {percent:.0} % busy; use more threads or nodes"));
        } else {
            say(
                Grade::Suspect,
                format!(
                    "a worker was {percent:.0} % busy: replies waited for it, and the rate may be its limit, not the target's; use more threads or nodes, or ask for a lower rate with -r"
                ),
            );
        }
    }
    if signals.cq_overflows > 0 {
        say(
            Grade::Suspect,
            format!(
                "completions waited in the kernel's overflow list {} times; use more threads",
                signals.cq_overflows
            ),
        );
    }
    let attempts = signals.connections_opened + signals.connect_failures;
    let Shortages { ports, descriptors } = signals.shortages;
    for (count, what) in [
        (
            ports,
            "free local port (EADDRNOTAVAIL); add source addresses, keep connections alive, or wait a minute",
        ),
        (descriptors, "free file descriptor (EMFILE); raise `ulimit -n`"),
    ] {
        // With a connection each, these are requests that failed on this side and count as the target's errors.
        let is_load_lost =
            signals.connection_per_request && count as f64 > signals.planned as f64 * DROPPED_RATIO_INVALID;
        if count > 0 {
            let grade = if is_load_lost { Grade::Invalid } else { Grade::Suspect };
            say(grade, format!("{count} of {attempts} connects found no {what}"));
        }
    }
    // Later ones are errors of the requests that waited for them.
    let opening = signals.connect_failures_opening;
    let opening_attempts = signals.connections_asked + opening;
    if opening as f64 > opening_attempts as f64 * CONNECT_FAILURE_RATIO_SUSPECT {
        say(Grade::Suspect, format!("{opening} of {opening_attempts} connects before the start failed"));
    }
    if signals.sent > 0 && signals.connections_opened < signals.connections_asked {
        say(
            Grade::Suspect,
            format!(
                "only {} of {} connections were opened",
                signals.connections_opened, signals.connections_asked
            ),
        );
    }
    if signals.saturated > 0 {
        say(Grade::Suspect, format!("{} values above 1 h are recorded as 1 h", signals.saturated));
    }
    Verdict::of(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> Signals {
        Signals {
            planned: 1000,
            sent: 1000,
            ok: 1000,
            own_lag_p99_ns: 150_000,
            own_lag_known: true,
            open_model: true,
            answered_ratio: Some(1.0),
            worker_busy_max: Some(0.5),
            connections_asked: 10,
            connections_opened: 10,
            ..Signals::default()
        }
    }

    fn closed(busy: f64) -> Signals {
        Signals { open_model: false, answered_ratio: Some(0.0), worker_busy_max: Some(busy), ..good() }
    }

    fn short_of(ports: u64, descriptors: u64, connection_per_request: bool) -> Signals {
        let shortages = Shortages { ports, descriptors };
        Signals { shortages, connection_per_request, connect_failures: ports + descriptors, ..good() }
    }

    /// A run of `seconds` with a stall of `ms`.
    fn stalled(ms: u64, seconds: u64) -> Signals {
        let stall_ns = ms * 1_000_000;
        let own = OwnSummary {
            stall_max_ns: stall_ns,
            stall_ns,
            stall_max_second: Some(4),
            requests_touched: 3,
            ..OwnSummary::default()
        };
        Signals { own, worker_ns: seconds * 1_000_000_000, ..good() }
    }

    /// A second in which a worker waited a hundred times for a core.
    fn starved(run_delay_mean_ns: u64) -> Signals {
        let run_delay_ns = 100 * run_delay_mean_ns;
        let own = OwnSummary { run_delay_mean_ns, run_delay_ns, ..OwnSummary::default() };
        Signals { own, worker_ns: 1_000_000_000, ..good() }
    }

    fn own_timeouts(timeouts: u64) -> Signals {
        Signals { own: OwnSummary { timeouts, ..OwnSummary::default() }, timeout: 40, ..good() }
    }

    fn paced(connects_paced: u64) -> Signals {
        Signals { own: OwnSummary { connects_paced, ..OwnSummary::default() }, ..good() }
    }

    #[test]
    fn what_every_generator_does_is_no_reason() {
        for good in [stalled(49, 1), starved(499_000), paced(10)] {
            assert_eq!(judge(&good), Verdict::default());
        }
        let outage = Signals { connect_failures: 900, growth_ratio: 0.019, ..good() };
        assert_eq!(judge(&outage), Verdict::default(), "those are the errors of requests");
        // A closed model has no rate to fall short of, but it can stand still.
        let closed = Signals { open_model: false, growth_ratio: 0.5, ..stalled(60, 1) };
        assert_eq!((judge(&closed).grade, judge(&closed).reasons.len()), (Grade::Invalid, 1));
    }

    #[test]
    fn a_generator_that_is_late_for_want_of_a_core_is_not_told_to_use_more_threads() {
        let late = |signals| Signals { own_lag_p99_ns: 3_300_000, own_lag_known: true, ..signals };
        let reasons = |signals| judge(&late(signals)).reasons;
        let remedy = "it waited for a core 8 % of the time: leave it cores of its own";
        assert_eq!(
            reasons(starved(840_000))[1],
            format!("the generator itself was late: p99 3.3 ms; {remedy}")
        );
        let own = OwnSummary { run_delay_mean_ns: 41_000, run_delay_ns: 84_000_000, ..OwnSummary::default() };
        let often = Signals { own, worker_ns: 1_000_000_000, ..good() };
        assert_eq!(reasons(often), [format!("the generator itself was late: p99 3.3 ms; {remedy}")]);
        let alone = "the generator itself was late: p99 3.3 ms; use more threads or nodes, or --precise";
        assert_eq!(reasons(good()), [alone]);
    }

    #[test]
    fn a_closed_model_may_use_its_worker_up_to_the_threshold() {
        assert_eq!(judge(&closed(0.80)), Verdict::default());
    }

    #[test]
    fn a_kept_schedule_is_valid_without_reasons() {
        assert_eq!(judge(&good()), Verdict::default());
    }

    #[test]
    fn every_signal_has_its_grade() {
        let lost = |may| vec![("node b stopped reporting at 12 s".to_owned(), may)];
        let nodes = vec![
            ("a".to_owned(), OwnSummary::default()),
            ("b".to_owned(), OwnSummary { stall_max_ns: 50_000_000, ..OwnSummary::default() }),
        ];
        let law = vec![("node a".to_owned(), Imbalance::Sent { sent: 2, ended: 1 })];
        let cases: Vec<(Signals, Grade, &str)> = vec![
            (Signals { own_lag_p99_ns: 1_000_001, ..good() }, Grade::Suspect, "was late: p99 1.0 ms"),
            (Signals { own_lag_p99_ns: 10_000_001, ..good() }, Grade::Invalid, "was late"),
            (Signals { dropped: 10, ..good() }, Grade::Suspect, "10 of 1000 due"),
            (Signals { dropped: 11, ..good() }, Grade::Invalid, "11 of 1000 due"),
            (
                Signals { answered_ratio: Some(0.949), ..good() },
                Grade::Suspect,
                "only 94.9 % of the requests that were due early enough for a reply within the run had ended by then, with a reply, an error or a timeout",
            ),
            (Signals { worker_busy_max: Some(0.81), ..good() }, Grade::Suspect, "81 % busy"),
            (Signals { worker_busy_max: Some(0.96), ..good() }, Grade::Invalid, "96 % busy"),
            (closed(0.81), Grade::Suspect, "81 % busy: replies waited for it"),
            (closed(1.0), Grade::Suspect, "lower rate with -r"),
            (Signals { cq_overflows: 1, ..good() }, Grade::Suspect, "overflow"),
            (short_of(3, 0, false), Grade::Suspect, "3 of 13 connects found no free local port"),
            (short_of(0, 3, false), Grade::Suspect, "raise `ulimit -n`"),
            (short_of(10, 0, true), Grade::Suspect, "10 of 20 connects"),
            (short_of(11, 0, true), Grade::Invalid, "11 of 21 connects"),
            (Signals { connect_failures_opening: 1, ..good() }, Grade::Suspect, "1 of 11 connects before"),
            (
                Signals { growth_ratio: 0.1, ..good() },
                Grade::Suspect,
                "good replies came 100 ms later with every second",
            ),
            (
                stalled(60, 2),
                Grade::Suspect,
                "the generator stood still for 0.06 s from second 4 on, 0.06 s in all, summed over its workers; 3 requests of the run (0.0 %) bear 1 ms or more of its lateness",
            ),
            (stalled(1_000, 10), Grade::Invalid, "stood still for 1.00 s"),
            (Signals { own_of_nodes: nodes, ..stalled(1_000, 100) }, Grade::Suspect, "node b stood still"),
            (starved(600_000), Grade::Suspect, "wait for a core for 6 % of the time, 0.6 ms each time"),
            (
                own_timeouts(10),
                Grade::Suspect,
                "of 40 timeouts 10 are the generator's own: it was late for half",
            ),
            (own_timeouts(11), Grade::Invalid, "of 40 timeouts 11 are the generator's own"),
            (paced(11), Grade::Suspect, "11 requests waited for the connect rate"),
            (Signals { connections_opened: 9, ..good() }, Grade::Suspect, "only 9 of 10"),
            (Signals { saturated: 1, ..good() }, Grade::Suspect, "above 1 h"),
            (Signals { imbalance: law, ..good() }, Grade::Invalid, "node a: sent 2 is not"),
            (Signals { lost_nodes: lost(false), ..good() }, Grade::Invalid, "node b"),
            (Signals { lost_nodes: lost(true), ..good() }, Grade::Suspect, "node b"),
            (
                Signals { ended_early: Some("interrupted".into()), ..good() },
                Grade::Invalid,
                "ended early: interrupted",
            ),
            (Signals { sent: 0, ok: 0, ..good() }, Grade::Invalid, "nothing was sent"),
            (Signals { ok: 0, ..good() }, Grade::Invalid, "no request succeeded"),
            (
                Signals { ok: 0, commonest_error: Some("connection reset"), ..good() },
                Grade::Invalid,
                "no request succeeded; most often: connection reset",
            ),
        ];
        for (signals, grade, part) in cases {
            let verdict = judge(&signals);
            assert_eq!(verdict.grade, grade, "{part}");
            assert!(verdict.reasons.iter().any(|reason| reason.contains(part)), "{:?}", verdict.reasons);
        }
    }

    #[test]
    fn a_running_load_is_judged_by_its_schedule_alone() {
        let so_far = |planned, dropped, lag_ns| {
            let counts = Counts { planned, dropped, ..Counts::default() };
            judge_so_far(&counts, &std::iter::once(lag_ns).collect()).grade
        };
        assert_eq!(judge_so_far(&Counts::default(), &Distribution::default()), Verdict::default());
        assert_eq!(so_far(100, 0, 150_000), Grade::Valid);
        assert_eq!(so_far(100, 0, 2_000_000), Grade::Suspect);
        assert_eq!(so_far(100, 2, 0), Grade::Invalid);
    }

    #[test]
    fn the_worst_reason_comes_first() {
        let verdict = judge(&Signals { cq_overflows: 1, ended_early: Some("x".into()), ..good() });
        assert!(verdict.reasons[0].contains("ended early"));
        assert_eq!(verdict.reasons.len(), 2);
    }
}
