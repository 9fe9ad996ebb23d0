//! Why requests failed, and where the generator stood still, in all outputs alike.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail the test")]

use std::time::Duration;

use fracas_dataplane::clock::Instant;
use fracas_loadgen::measure::{
    Environment, ErrorKind, Failure, FaultWindow, Faults, Injected, Injection, Injections, NodeReport,
    Outcome, Recorder, RunFacts, Sample, Span, Summary, Timeline,
};
use fracas_loadgen::report;
use fracas_loadgen::scenario::{Plan, parse};
use proptest::prelude::*;

const MS: u64 = 1_000_000;
const START: Instant = Instant::from_nanos(5_000 * MS);

fn at(ms: u64) -> Instant {
    START + Duration::from_millis(ms)
}

fn plan() -> Plan {
    let text = "target: http://h/\nconnections: 1\nresponse_timeout: 500ms\n\
                phases: [{rate: 100/s, for: 10s}]\nslo: ['errors{natural}<1%', 'errors{injected}<1%']\n";
    parse("run.yml", text).unwrap()
}

fn summary(timeline: Timeline, faults: Faults) -> Summary {
    let facts = RunFacts {
        plan: plan(),
        started_at_unix_ms: 0,
        ran_for: Duration::from_secs(10),
        ended_early: None,
        cut_after: None,
        faults,
        environment: Environment::default(),
        reproduce: String::new(),
    };
    Summary::new(facts, &[NodeReport { timeline, ..NodeReport::default() }])
}

/// 100 requests a second over one connection, each given up 500 ms after it was due. The target answers in 1 ms; a proxy
/// holds what reaches it between 4 s and 5 s for 60 ms, which is no reason for a timeout by itself. The timeline, and how
/// many timed out: all had waited in the line for most of their time.
fn behind_delays() -> (Timeline, u64) {
    let mut recorder = Recorder::new(START);
    let (mut free, mut timeouts) = (0, 0);
    for k in 0..1_000_u64 {
        let due = k * 10;
        let give_up = due + 500;
        recorder.planned(at(due), false);
        let sent = due.max(free);
        if sent >= give_up {
            timeouts += 1;
            recorder.timed_out_waiting(at(due), at(give_up), Duration::ZERO, false);
            continue;
        }
        recorder.sent(at(due), false);
        let is_delayed = (4_000..5_000).contains(&sent);
        let reply = sent + if is_delayed { 60 } else { 1 };
        let (done, outcome) =
            if reply > give_up { (give_up, Outcome::Timeout) } else { (reply, Outcome::Ok) };
        free = done;
        timeouts += u64::from(outcome == Outcome::Timeout);
        let (due, sent, done, seen_late) = (at(due), at(sent), at(done), Duration::ZERO);
        recorder.record(&Sample { due, ready: sent, sent, done, seen_late, outcome, warm_up: false });
    }
    (recorder.finish(), timeouts)
}

fn window() -> FaultWindow {
    FaultWindow {
        proxy: "cache".into(),
        behavior: "delay".into(),
        start_ns: 4_000 * MS,
        end_ns: 5_000 * MS,
        ..FaultWindow::default()
    }
}

#[test]
fn what_waited_behind_injected_delays_is_never_natural_in_any_output() {
    let (timeline, timeouts) = behind_delays();
    let (windows, injected) = (vec![window()], Injected::Known(Injections::default()));
    let summary = summary(timeline, Faults { windows, injected });
    let causes = &summary.causes;
    let told = (causes.injected, causes.natural, causes.unknown);
    assert_eq!((timeouts, told), (42, (Some(0), Some(0), 42)), "{causes:?}");
    let around = summary.faults[0].around.as_ref().unwrap();
    for stretch in [&around.before, &around.during, &around.after] {
        assert_eq!(stretch.natural(), Some(0), "{stretch:?}");
    }
    let text = String::from_utf8(report::text(&summary, false)).unwrap();
    let words = text.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(
        words.contains("of 42 failed: 0 injected, 0 natural, 42 not known: a fault may have held"),
        "{text}"
    );
    let json: serde_json::Value = serde_json::from_slice(&report::json(&summary)).unwrap();
    assert_eq!((&json["causes"]["natural"], &json["causes"]["unknown"]), (&0.into(), &42.into()));
    let html = String::from_utf8(report::html(&summary)).unwrap();
    assert!(
        html.contains("of these natural</th><td>0</td>")
            && html.contains("of these not known</th><td>42</td>")
    );
    // An objective takes what is not known at its worst.
    let slo: Vec<_> =
        summary.slo.iter().map(|slo| (slo.passed, slo.actual.split(',').next().unwrap())).collect();
    assert_eq!(slo, [(false, "0.00 % to 4.20 %"), (false, "0.00 % to 4.20 %")]);
}

#[test]
fn without_faults_on_the_way_a_line_is_natural() {
    let (timeline, _) = behind_delays();
    let summary =
        summary(timeline, Faults { windows: Vec::new(), injected: Injected::Known(Injections::default()) });
    assert_eq!((summary.causes.natural, summary.causes.unknown), (Some(42), 0));
}

/// 100 requests a second; those due from 4 s to 6 s time out after 500 ms, every other one because the generator sent it
/// 400 ms late. A proxy had a fault of which it told nothing in force from 4 s to 5 s.
fn late_by_itself() -> Timeline {
    let mut recorder = Recorder::new(START);
    for k in 0..1_000_u64 {
        let due = k * 10;
        recorder.planned(at(due), false);
        recorder.sent(at(due), false);
        let (sent, done, outcome) = match due {
            4_000..6_000 => (due + 400 * (k % 2), due + 500, Outcome::Timeout),
            _ => (due, due + 1, Outcome::Ok),
        };
        let (due, sent, done, seen_late) = (at(due), at(sent), at(done), Duration::ZERO);
        recorder.record(&Sample { due, ready: due, sent, done, seen_late, outcome, warm_up: false });
    }
    recorder.finish()
}

#[test]
fn a_timeout_that_the_generator_made_is_natural_and_injected_in_no_output() {
    let told = |count: u64| {
        let at_ns = |k: u64| (4_000 + 20 * k) * MS;
        (0..count).map(move |k| Injection { at_ns: at_ns(k), failure: Failure::Silent, count: 1 })
    };
    let behavior = || "hang".to_owned();
    // No fault told, as many as hit the others in the window, more than those, and of which nobody knows.
    for (injected, expected, natural, injected_slo) in [
        (Injected::Known(told(0).collect()), (Some(0), Some(100), 0), "10.00 %", "0.00 %"),
        (Injected::Known(told(30).collect()), (Some(30), Some(70), 0), "7.00 %", "3.00 %"),
        (Injected::NotWatched, (None, None, 0), "0.00 % to 10.00 %", "0.00 % to 10.00 %"),
    ] {
        let is_known = expected.0.is_some();
        let windows = vec![FaultWindow { behavior: behavior(), ..window() }];
        let summary = summary(late_by_itself(), Faults { windows, injected });
        let causes = &summary.causes;
        assert_eq!((causes.injected, causes.natural, causes.unknown), expected, "{causes:?}");
        assert_eq!((causes.own, summary.own.timeouts), (100, 100));
        let around = summary.faults[0].around.as_ref().unwrap();
        let during = &around.during;
        assert_eq!((during.failed, during.own, during.injected), (100, 50, expected.0), "{during:?}");
        assert_eq!(during.natural(), expected.0.map(|injected| 50 - injected));
        assert_eq!((around.before.own, around.after.own), (0, 50));
        let actual: Vec<_> = summary.slo.iter().map(|slo| slo.actual.split(',').next().unwrap()).collect();
        assert_eq!(actual, [natural, injected_slo]);
        let text = String::from_utf8(report::text(&summary, false)).unwrap();
        let words = text.split_whitespace().collect::<Vec<_>>().join(" ");
        let (of_all, of_during) = match expected {
            (Some(injected), Some(natural), _) => (
                format!("of 200 failed: {injected} injected, 100 the generator's own, {natural} natural"),
                format!(
                    "100 failed ({injected} injected, 50 the generator's own, {} natural)",
                    50 - injected
                ),
            ),
            _ => (
                "of 200 failed: 100 the generator's own; injected or natural of the others: not known, no"
                    .to_owned(),
                "100 failed (50 the generator's own)".to_owned(),
            ),
        };
        assert!(words.contains(&of_all) && words.contains(&of_during), "{of_all}\n{of_during}\n{text}");
        let json: serde_json::Value = serde_json::from_slice(&report::json(&summary)).unwrap();
        assert_eq!(json["causes"]["own"], 100);
        assert_eq!(json["faults"][0]["around"]["during"]["own"], 50);
        let html = String::from_utf8(report::html(&summary)).unwrap();
        assert!(html.contains("of these the generator’s own</th><td>100</td>"));
        let cells = match expected {
            (Some(injected), ..) => {
                format!("<td>{injected}</td><td>50</td><td>{}</td><td>0</td>", 50 - injected)
            }
            _ => "<td>not known</td><td>50</td><td>not known</td><td>50</td>".to_owned(),
        };
        assert!(html.contains(&cells), "{cells} {is_known}");
    }
}

/// A failure of any kind: when it is due, what becomes of it after how long, how late the generator sent it, and whether
/// all connections were taken until then.
type Failed = (u64, u8, u64, u64, bool);

fn failed() -> impl Strategy<Value = Failed> {
    (0..9_000_u64, 0..4_u8, 1..900_u64, 0..900_u64, any::<bool>())
}

fn recorded(all: &[Failed]) -> Timeline {
    let mut recorder = Recorder::new(START);
    for (due, kind, lasts, late, is_queued) in all {
        recorder.planned(at(*due), false);
        if *kind == 3 {
            let (now, own) = (at(due + lasts), Duration::from_millis(*late.min(lasts)));
            recorder.timed_out_waiting(at(*due), now, own, false);
            continue;
        }
        recorder.sent(at(*due), false);
        let sent = due + late.min(lasts);
        let outcome = match kind {
            0 => Outcome::Timeout,
            1 => Outcome::Error(ErrorKind::EndedEarly),
            _ => Outcome::Error(ErrorKind::Status5xx),
        };
        let ready = at(if *is_queued { sent } else { *due });
        let (due, sent, done, seen_late) = (at(*due), at(sent), at(due + lasts), Duration::ZERO);
        recorder.record(&Sample { due, ready, sent, done, seen_late, outcome, warm_up: false });
    }
    recorder.finish()
}

fn injected() -> impl Strategy<Value = Injected> {
    let injections = prop::collection::vec((0..10_000_u64, 0..4_usize, 1..40_u64), 0..20);
    let span = || prop::option::of((0..10_000_u64, 0..3_000_u64));
    let known =
        (injections, span(), span(), any::<bool>()).prop_map(|(all, missed, vague, by_the_second)| {
            let mut known =
                if by_the_second { Injections::told_by_the_second() } else { Injections::default() };
            let failure = |index: usize| Failure::ALL[index];
            known.extend(all.into_iter().map(|(ms, index, count)| Injection {
                at_ns: ms * MS,
                failure: failure(index),
                count,
            }));
            let span = |(from, over): (u64, u64)| Span { from_ns: from * MS, to_ns: (from + over) * MS };
            missed.map(span).into_iter().for_each(|span| known.missed(span));
            vague.map(span).into_iter().for_each(|span| known.is_vague(span));
            Injected::Known(known)
        });
    prop_oneof![4 => known, 1 => Just(Injected::NotWatched), 1 => Just(Injected::Behind)]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn each_failure_has_one_cause(
        all in prop::collection::vec(failed(), 0..200),
        injected in injected(),
        faults in prop::collection::vec((0..9_000_u64, 0..3_000_u64, 0..3_usize), 0..4),
    ) {
        let windows = faults.iter().map(|(from, over, behavior)| FaultWindow {
            behavior: ["20:delay", "hang", "5:error"][*behavior].to_owned(),
            start_ns: from * MS,
            end_ns: (from + over) * MS,
            ..FaultWindow::default()
        });
        let summary = summary(recorded(&all), Faults { windows: windows.collect(), injected });
        let failed = summary.counts.error + summary.counts.timeout;
        prop_assert_eq!(failed, all.len() as u64);
        let causes = &summary.causes;
        prop_assert_eq!(causes.own, summary.own.timeouts);
        match (causes.injected, causes.natural) {
            (Some(injected), Some(natural)) => {
                prop_assert_eq!(injected + causes.own + natural + causes.unknown, failed);
            }
            neither => prop_assert_eq!(neither, (None, None)),
        }
        for fault in &summary.faults {
            let around = fault.around.as_ref().unwrap();
            for part in [&around.before, &around.during, &around.after] {
                let injected = part.injected.unwrap_or_default();
                let natural = part.natural().unwrap_or_default();
                prop_assert_eq!(injected + part.own + natural + part.not_known(), part.failed, "{:?}", part);
            }
        }
        for slo in &summary.slo {
            let least: f64 = slo.actual.split(' ').next().unwrap().parse().unwrap_or_default();
            prop_assert!(least <= 100.0, "{}", slo.actual);
        }
    }
}

/// A calm run of 100 requests a second for `seconds`, in which a worker stood still from 4.2 s on for 300 ms.
fn stalled(seconds: u64) -> Summary {
    let mut recorder = Recorder::new(START);
    for due in (0..seconds * 1_000).step_by(10) {
        let sent = if (4_200..4_500).contains(&due) { 4_500 } else { due };
        recorder.planned(at(due), false);
        recorder.sent(at(due), false);
        let (due, sent, done) = (at(due), at(sent), at(sent + 1));
        let (seen_late, outcome) = (Duration::ZERO, Outcome::Ok);
        recorder.record(&Sample { due, ready: due, sent, done, seen_late, outcome, warm_up: false });
    }
    recorder.late_turn(at(4_200), Duration::from_millis(300));
    summary(recorder.finish(), Faults::default())
}

#[test]
fn a_stall_is_drawn_at_its_place() {
    let summary = stalled(10);
    let of = |of: fn(&fracas_loadgen::measure::TenthSummary) -> u64| -> Vec<(u64, u64)> {
        let some = summary.tenths.iter().map(|tenth| (tenth.tenth, of(tenth) / MS)).filter(|(_, ms)| *ms > 0);
        some.collect()
    };
    assert_eq!(of(|tenth| tenth.own_stall_max), [(42, 300)]);
    assert_eq!(of(|tenth| tenth.own_max), [(42, 300), (43, 200), (44, 100)], "each by the oldest due in it");
    assert_eq!(of(|tenth| tenth.lag_max), of(|tenth| tenth.own_max));
    // Whole seconds around it, and no others.
    let (first, last) = (summary.tenths[0].tenth, summary.tenths.last().unwrap().tenth);
    assert_eq!((first, last), (30, 59));
    let html = String::from_utf8(report::html(&summary)).unwrap();
    let chart = html.split("id=\"chart-own\"").nth(1).unwrap().split("</section>").next().unwrap();
    assert!(chart.contains("stalls of the generator each step is a tenth"), "{chart}");
}

#[test]
fn a_stall_of_a_long_run_has_a_chart_of_its_own() {
    let html = String::from_utf8(report::html(&stalled(121))).unwrap();
    assert!(html.contains("The generator around its longest stall, 4.2 s"), "no such title");
}
