//! Why requests failed, and where the generator stood still, in all outputs alike.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail the test")]

use std::time::Duration;

use fracas_dataplane::clock::Instant;
use fracas_loadgen::measure::{
    Environment, FaultWindow, Faults, Injected, Injections, NodeReport, Outcome, Recorder, RunFacts, Sample,
    Summary, Timeline,
};
use fracas_loadgen::report;
use fracas_loadgen::scenario::{Plan, parse};

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
