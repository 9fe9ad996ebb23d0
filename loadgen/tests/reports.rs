//! Summary → report, compared with the files in `golden/`. After a wanted change:
//! `UPDATE_GOLDEN=1 cargo test -p fracas-loadgen --test reports`, then read the diff.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail the test")]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use fracas_dataplane::clock::Instant;
use fracas_loadgen::measure::{
    DropReason, Environment, ErrorKind, FaultWindow, Grade, NodeReport, Outcome, Recorder, RunFacts, Sample,
    Shortages, Summary, Timeline, WorkerUse,
};
use fracas_loadgen::report;
use fracas_loadgen::scenario::parse;
use hdrhistogram::serialization::Deserializer;
use hdrhistogram::serialization::interval_log::{IntervalLogIterator, LogEntry};
use proptest::prelude::*;

const RUN_FILE: &str = r#"
name: checkout <under> fault
nodes: 2
target: http://10.0.3.7:8080/cart?id=1
connections: 300
warm_up: 2s
phases: [{rate: 1000/s, for: 18s}]
faults: [{proxy: redis, behavior: "20:delay", options: {delay: {time: 200ms}}, at: 8s, for: 5s}]
slo: ["p99<50ms", "service.p50<5ms", "errors<1%"]
seed: 42
"#;

/// A node's half of the run: 1 ms of service with a sine on it, 200 ms more on every fifth request from 8 s to 13 s,
/// a freeze from 15 s to 15.4 s, some errors, one timeout, one request never sent.
fn node(name: &str, offset: u64) -> NodeReport {
    let start = Instant::from_nanos(5_000_000_000);
    let at = |ns: u64| start + Duration::from_nanos(ns);
    let mut recorder = Recorder::new(start);
    (0..150).for_each(|i| recorder.connected(start, at(200_000 + i * 1_000), false));
    for k in (offset..20_000).step_by(2) {
        let due = k * 1_000_000;
        let warm_up = due < 2_000_000_000;
        recorder.planned(at(due), warm_up);
        if k == 19_999 {
            recorder.dropped(at(due), at(20_500_000_000), DropReason::Unsent, warm_up);
            continue;
        }
        let sent = due + 40_000 + k * 7919 % 60_000;
        let wave = ((k as f64 / 700.0).sin() * 300_000.0 + 400_000.0) as u64;
        let mut done = sent + 600_000 + wave + (k * 104_729 % 1_000) * 400;
        let (mut outcome, step) = (Outcome::Ok, k / 2);
        if (8_000_000_000..13_000_000_000).contains(&due) && step % 5 == 0 {
            done += 200_000_000;
        }
        if (15_000_000_000..15_400_000_000).contains(&sent) {
            done = 15_400_000_000 + 500_000 + k % 100 * 10_000;
        }
        if step % 1777 == 3 {
            outcome = Outcome::Error(if step % 2 == 0 { ErrorKind::Reset } else { ErrorKind::Status5xx });
        }
        if k == 17_000 {
            (outcome, done) = (Outcome::Timeout, sent + 2_000_000_000);
        }
        recorder.sent(at(due), warm_up);
        recorder.bytes(at(sent), 120, 840);
        recorder.record(&Sample {
            due: at(due),
            ready: at(due),
            sent: at(sent),
            done: at(done),
            seen_late: Duration::ZERO,
            outcome,
            warm_up,
        });
    }
    NodeReport {
        name: name.into(),
        timeline: recorder.finish(),
        workers: vec![WorkerUse { busy_ratio: 0.31, cpu_ratio: 0.34, cq_overflows: 0 }],
        shortages: Shortages::default(),
        lost: None,
        clock_error: Some(Duration::from_micros(35)),
    }
}

fn run() -> (Summary, Timeline) {
    let plan = parse("run.yml", RUN_FILE).unwrap();
    let nodes = [node("fra-1", 0), node("fra-2", 1)];
    let facts = RunFacts {
        plan,
        started_at_unix_ms: 1_795_492_364_250,
        ran_for: Duration::from_millis(20_500),
        ended_early: None,
        cut_after: None,
        faults: vec![FaultWindow {
            proxy: "redis".into(),
            behavior: "20:delay".into(),
            start_ns: 8_000_000_000,
            end_ns: 13_000_000_000,
            injected: Some(1000),
            seen: Some(5000),
            accuracy_p50_ns: Some(140_000),
            accuracy_p99_ns: Some(412_000),
            around: None,
        }]
        .into(),
        environment: Environment {
            version: "0.1.0".into(),
            kernel: "6.18.0".into(),
            cpu: "Example CPU @ 2.6 GHz".into(),
            cores: 2,
            host: "bench-1".into(),
        },
        reproduce: "fracas run submit run.yml --wait".into(),
    };
    let mut timeline = Timeline::default();
    nodes.iter().for_each(|node| timeline.merge(&node.timeline));
    (Summary::new(facts, &nodes), timeline)
}

fn golden(name: &str, actual: &[u8]) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, actual).unwrap();
        return;
    }
    let expected = std::fs::read(&path).unwrap_or_default();
    if expected == actual {
        return;
    }
    let (expected, actual) = (String::from_utf8_lossy(&expected), String::from_utf8_lossy(actual));
    let line = expected.lines().zip(actual.lines()).position(|(a, b)| a != b).unwrap_or(0);
    panic!(
        "{name} differs at line {}:\n- {}\n+ {}\nif that is wanted, run with UPDATE_GOLDEN=1 and read the diff",
        line + 1,
        expected.lines().nth(line).unwrap_or("(nothing)"),
        actual.lines().nth(line).unwrap_or("(nothing)")
    );
}

#[test]
fn reports_are_as_reviewed() {
    let (summary, timeline) = run();
    golden("summary.txt", &report::text(&summary, false));
    golden("run.json", &report::json(&summary));
    golden("response.hgrm", &report::hgrm(&timeline.response()));
    golden("report.html", &report::html(&summary));
    golden("diff.txt", &report::diff(&summary, &changed(&summary)));
}

proptest! {
    // Every case writes whole reports, which unoptimised builds do slowly.
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn a_run_json_with_other_numbers_is_refused_or_shown(
        changes in proptest::collection::vec((any::<prop::sample::Index>(), number()), 1..6),
    ) {
        let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/run.json");
        let mut text = std::fs::read_to_string(golden).unwrap();
        for (at, number) in changes {
            let starts: Vec<usize> = text.match_indices(": ").map(|(at, _)| at + 2).collect();
            let start = starts[at.index(starts.len())];
            let digits = text[start..].bytes().take_while(|b| b.is_ascii_digit() || *b == b'.').count();
            if digits > 0 {
                text.replace_range(start..start + digits, &number);
            }
        }
        if let Ok(summary) = report::read_json(text.as_bytes()) {
            prop_assert!(report::read_json(&report::json(&summary)).unwrap() == summary);
            prop_assert!(!report::text(&summary, false).is_empty());
            prop_assert!(!report::html(&summary).is_empty());
            prop_assert!(!report::diff(&summary, &summary).is_empty());
        }
    }
}

fn number() -> impl Strategy<Value = String> {
    prop_oneof![
        any::<u64>().prop_map(|n| n.to_string()),
        (0_u64..3).prop_map(|n| n.to_string()),
        any::<f64>().prop_map(|n| format!("{n:e}")),
    ]
}

fn changed(summary: &Summary) -> Summary {
    let mut other = summary.clone();
    other.verdict = Grade::Invalid;
    other.plan.connections += 1;
    other.response.p99 *= 2;
    other.ok_per_second /= 2.0;
    other
}

#[test]
fn the_summary_fits_a_terminal() {
    let (summary, _) = run();
    let text = String::from_utf8(report::text(&summary, false)).unwrap();
    assert!(text.lines().count() <= 30, "{text}");
    assert!(text.starts_with("SLO MISSED  p99<50ms (is 223 ms)\nmeasurement SUSPECT  checkout"), "{text}");
    let coloured = String::from_utf8(report::text(&summary, true)).unwrap();
    assert!(coloured.starts_with("\x1b[1;31mSLO MISSED\x1b[0m"));
}

#[test]
fn the_summary_fits_narrow_terminals_and_says_the_same() {
    let (mut summary, _) = run();
    summary.counts.error = 1_000;
    summary.own.stall_max_ns = 1_000_000_000;
    summary.causes.injected = Some(7);
    summary.causes.natural = Some(8);
    let words = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let wide = String::from_utf8(report::text(&summary, false)).unwrap();
    for columns in [40, 60, 80, 100, 139] {
        for colour in [false, true] {
            let text = String::from_utf8(report::text_within(&summary, colour, columns)).unwrap();
            let plain = ["\x1b[1;31m", "\x1b[1;32m", "\x1b[1;33m", "\x1b[32m", "\x1b[0m"];
            let text = plain.iter().fold(text, |text, code| text.replace(code, ""));
            let widest = text.lines().max_by_key(|line| line.chars().count()).unwrap();
            assert!(widest.chars().count() <= columns, "{columns}: {widest}");
            // Everything but the table of percentiles stands there word for word.
            for line in wide.lines().filter(|line| !line.is_empty()) {
                let of_table = ["response  ", "  if ok", "service", "lag", "own part", "            "];
                if !of_table.iter().any(|start| line.starts_with(start)) {
                    assert!(words(&text).contains(&words(line)), "{columns}: {line}\n{text}");
                }
            }
            for name in ["p99.99", "response", "if ok", "own part"] {
                assert!(text.contains(name), "{columns}: {name}\n{text}");
            }
            assert!(text.contains(&report::latency(summary.response.p99_9)), "{columns}\n{text}");
        }
    }
    assert_eq!(report::text_within(&summary, false, 400), report::text(&summary, false));
}

#[test]
fn what_failed_is_said_before_what_may_be_believed() {
    let (mut summary, _) = run();
    let first = |summary: &Summary| {
        let text = String::from_utf8(report::text(summary, false)).unwrap();
        text.lines().next().unwrap().to_owned()
    };
    summary.verdict = Grade::Invalid;
    assert!(first(&summary).starts_with("INVALID  checkout"), "objectives of an invalid run say nothing");
    summary.verdict = Grade::Valid;
    summary.slo[2].passed = false;
    assert_eq!(first(&summary), "SLO MISSED  p99<50ms (is 223 ms), and 1 more");
    summary.slo.iter_mut().for_each(|slo| slo.passed = true);
    assert!(first(&summary).starts_with("SLO KEPT, measurement VALID  checkout"));
    summary.slo.clear();
    assert!(first(&summary).starts_with("VALID  checkout"));
}

#[test]
fn what_the_generator_did_itself_is_said_and_drawn() {
    let (mut summary, _) = run();
    let text = |summary: &Summary| String::from_utf8(report::text(summary, false)).unwrap();
    assert!(text(&summary).contains("own part"), "{}", text(&summary));
    assert!(!text(&summary).contains("stood still"), "{}", text(&summary));
    summary.own.stall_max_ns = 1_000_000_000;
    summary.own.stall_ns = 1_250_000_000;
    summary.own.stall_max_second = Some(4);
    summary.own.requests_touched = 900;
    summary.own.users_paused_ns = 1;
    summary.own.users_paused_ratio = 0.25;
    summary.seconds[4].own_stall_max = 1_000_000_000;
    let expected = "it stood still for 1.00 s in second 4, 1.25 s in all, summed over the workers; 900 requests (5.00 %) bear 1.00 ms or more \
                    of it; users paused 25.0 % of their time after connections that failed before a reply";
    assert!(text(&summary).contains(&format!("own       {expected}\n")), "{}", text(&summary));
    let html = String::from_utf8(report::html(&summary)).unwrap();
    assert!(html.contains(expected) && html.contains("id=\"chart-own\""));
}

/// A run in which request `k` of `count` took `k`² microseconds.
fn squares(count: u64) -> (Summary, Timeline) {
    let start = Instant::from_nanos(1);
    let mut recorder = Recorder::new(start);
    for k in 1..=count {
        let (due, done) = (start, start + Duration::from_micros(k * k));
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
    let timeline = recorder.finish();
    let slo = "[p50<1s, p75<1s, p90<1s, p95<1s, p99<1s]";
    let file = format!("target: http://h/\nphases: [{{users: 1, requests: {count}}}]\nslo: {slo}\n");
    let facts = RunFacts {
        plan: parse("run.yml", &file).unwrap(),
        started_at_unix_ms: 0,
        ran_for: Duration::from_secs(1),
        ended_early: None,
        cut_after: None,
        faults: Vec::new().into(),
        environment: Environment::default(),
        reproduce: String::new(),
    };
    let node = NodeReport { timeline: timeline.clone(), ..NodeReport::default() };
    (Summary::new(facts, &[node]), timeline)
}

#[test]
fn all_outputs_agree_on_every_percentile_of_every_small_count() {
    for count in 1..=200 {
        let (summary, timeline) = squares(count);
        let json: serde_json::Value = serde_json::from_slice(&report::json(&summary)).unwrap();
        let hgrm = String::from_utf8(report::hgrm(&timeline.response())).unwrap();
        let rows: Vec<Vec<f64>> = hgrm
            .lines()
            .filter_map(|line| line.split_whitespace().map(|word| word.parse().ok()).collect())
            .filter(|row: &Vec<f64>| row.len() >= 3)
            .collect();
        let (text, html) = (report::text(&summary, false), report::html(&summary));
        let [text, html] = [text, html].map(|bytes| String::from_utf8(bytes).unwrap());
        let row: Vec<char> =
            text.lines().find(|line| line.starts_with("response")).unwrap().chars().collect();
        let shown: Vec<String> = row[9..]
            .chunks(9)
            .map(|cell| cell.iter().collect::<String>().replace('*', "").trim().to_owned())
            .collect();
        for (place, (percentile, share)) in
            [("p50", 0.5), ("p75", 0.75), ("p90", 0.9), ("p95", 0.95), ("p99", 0.99)].into_iter().enumerate()
        {
            let ns = json["response"][percentile].as_u64().unwrap();
            // By hand: the value at the rank, rounded up.
            let rank = (count * (share * 100.0) as u64).div_ceil(100);
            assert!(ns.abs_diff(rank * rank * 1000) <= rank * rank, "{percentile} of {count}: {ns}");
            // The table jumps to 100 % once the largest value is reached.
            if let Some(row) = rows.iter().find(|row| row[1] == share) {
                assert!((row[0] - ns as f64 / 1e6).abs() < 0.0006, "{percentile} of {count}: {row:?} {ns}");
            }
            if let Some(point) = summary.curves[0].1.iter().find(|point| point.quantile == share) {
                assert_eq!(point.value_ns, ns, "{percentile} of {count}");
            }
            assert_eq!(shown[place], report::latency(ns), "{percentile} of {count}: {text}");
            assert!(html.contains(&report::latency(ns)), "{percentile} of {count}");
            let objective = &summary.slo[place];
            assert_eq!(objective.actual, shown[place], "{percentile} of {count}: one figure, written once");
            let said = format!("{} (is {})", objective.slo, shown[place]);
            // The terminal has three of them.
            assert!(place >= 3 || text.contains(&said), "{said}\n{text}");
            assert!(json["slo"][place]["actual"] == objective.actual, "{said}");
            assert!(html.contains(&format!("<td>{}</td>", shown[place])), "{percentile} of {count}");
        }
    }
}

#[test]
fn run_json_has_the_promised_shape() {
    let (summary, _) = run();
    let json: serde_json::Value = serde_json::from_slice(&report::json(&summary)).unwrap();
    assert_eq!(json["verdict"], "suspect");
    assert!(json["reasons"].is_array());
    for key in ["planned", "sent", "ok", "error", "timeout", "censored", "dropped"] {
        assert!(json["counts"][key].is_u64(), "{key}");
    }
    for series in ["response", "service", "lag"] {
        for key in ["p50", "p75", "p90", "p95", "p99", "p99.9", "p99.99", "max", "mean"] {
            assert!(json[series][key].is_u64(), "{series} {key}");
        }
    }
    assert!(report::read_json(&report::json(&summary)).unwrap() == summary);
    assert!(report::read_json(b"{}").is_err());
}

#[test]
fn the_html_report_needs_nothing_from_outside() {
    let (summary, _) = run();
    let html = String::from_utf8(report::html(&summary)).unwrap();
    for outside in ["src=", "url(", "@import", "<script", "<link", "<under>"] {
        assert!(!html.contains(outside), "{outside}");
    }
    // Links lead to the files beside it, and to no other.
    let directory = tempfile::tempdir().unwrap();
    report::write_run_dir(directory.path(), &summary, &run().1, &[]).unwrap();
    let links: Vec<&str> =
        html.split("href=\"").skip(1).map(|rest| rest.split('"').next().unwrap()).collect();
    assert_eq!(links.len(), 6);
    for link in links {
        assert!(directory.path().join(link).is_file(), "{link}");
    }
    assert!(html.contains("checkout &lt;under&gt; fault"));
    assert_eq!(html.matches(">20:delay on redis</text>").count(), 4, "on every chart over time");
}

#[test]
fn the_interval_log_adds_up_to_the_run() {
    let (_, timeline) = run();
    let log = report::hlog(&timeline, 1_795_492_364_250);
    let text = String::from_utf8(log.clone()).unwrap();
    assert!(text.contains("\n#[Histogram log format version 1.3]\n#[StartTime: 1795492364.250 (seconds since epoch), 2026-11-24 03:52:44 UTC]\n#[BaseTime: 1795492364.250 (seconds since epoch)]\n\"StartTimestamp\","));
    // The Rust reader knows no legend line.
    let lines: String =
        text.lines().filter(|line| !line.starts_with('"')).flat_map(|line| [line, "\n"]).collect();
    let mut totals = std::collections::BTreeMap::<String, u64>::new();
    let mut deserializer = Deserializer::new();
    for entry in IntervalLogIterator::new(lines.as_bytes()) {
        if let LogEntry::Interval(interval) = entry.unwrap() {
            use base64_free::decode;
            let bytes = decode(interval.encoded_histogram());
            let histogram: hdrhistogram::Histogram<u64> =
                deserializer.deserialize(&mut bytes.as_slice()).unwrap();
            *totals.entry(interval.tag().unwrap().as_str().to_owned()).or_default() += histogram.len();
        }
    }
    assert_eq!(totals["response"], timeline.response().count());
    assert_eq!(totals["response_ok"], timeline.counts().ok);
    assert_eq!(totals["service"], timeline.service().count());
    assert_eq!(totals["lag"], timeline.lag().count());
}

/// Base64 (RFC 4648), enough to read our own log without another dependency.
mod base64_free {
    pub(super) fn decode(text: &str) -> Vec<u8> {
        let value = |c: u8| match c {
            b'A'..=b'Z' => c - b'A',
            b'a'..=b'z' => c - b'a' + 26,
            b'0'..=b'9' => c - b'0' + 52,
            b'+' => 62,
            _ => 63,
        };
        let digits: Vec<u8> = text.bytes().filter(|c| *c != b'=').map(value).collect();
        let (mut out, mut bits, mut held) = (Vec::new(), 0_u32, 0);
        for digit in digits {
            bits = bits << 6 | u32::from(digit);
            held += 6;
            if held >= 8 {
                held -= 8;
                out.push((bits >> held) as u8);
            }
        }
        out
    }
}

/// A Python that has PyPI's `hdrhistogram`: `FRACAS_PYTHON`, else a virtual environment made below `target`.
fn python_with_hdrhistogram() -> Option<PathBuf> {
    let works = |python: &Path| {
        Command::new(python).args(["-c", "import hdrh"]).output().is_ok_and(|output| output.status.success())
    };
    if let Some(python) = std::env::var_os("FRACAS_PYTHON").map(PathBuf::from).filter(|p| works(p)) {
        return Some(python);
    }
    let venv = Path::new(env!("CARGO_TARGET_TMPDIR")).join("hdrhistogram-venv");
    let python = venv.join("bin/python");
    // Only CI fetches packages by itself.
    if !works(&python) && std::env::var_os("CI").is_some() {
        Command::new("python3").args(["-m", "venv"]).arg(&venv).status().ok()?;
        Command::new(&python).args(["-m", "pip", "install", "-q", "hdrhistogram"]).status().ok()?;
    }
    works(&python).then_some(python)
}

#[test]
fn the_reference_tools_read_the_log_and_print_the_same_table() {
    let Some(python) = python_with_hdrhistogram() else {
        assert!(std::env::var_os("CI").is_none(), "PyPI hdrhistogram is missing; pip install hdrhistogram");
        println!("skipped: PyPI hdrhistogram is missing; set FRACAS_PYTHON to a Python that has it");
        return;
    };
    let (summary, timeline) = run();
    let directory = tempfile::tempdir().unwrap();
    report::write_run_dir(directory.path(), &summary, &timeline, &["{\"event\":\"start\"}".into()]).unwrap();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support/read_with_hdrhistogram.py");
    let output = Command::new(python).arg(script).arg(directory.path()).output().unwrap();
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{stdout}{stderr}");
}

#[test]
fn the_run_directory_is_complete() {
    let (summary, timeline) = run();
    let directory = tempfile::tempdir().unwrap();
    let target = directory.path().join("made/when/missing");
    report::write_run_dir(&target, &summary, &timeline, &["{\"a\":1}\n".into(), "{\"b\":2}".into()]).unwrap();
    let mut names: Vec<_> = std::fs::read_dir(&target)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    let expected = [
        "events.jsonl",
        "lag.hgrm",
        "latency.hlog",
        "report.html",
        "response.hgrm",
        "run.json",
        "service.hgrm",
    ];
    assert_eq!(names, expected);
    assert_eq!(std::fs::read_to_string(target.join("events.jsonl")).unwrap(), "{\"a\":1}\n{\"b\":2}\n");
    assert!(report::check_run_dir(&target).is_ok());
    assert_eq!(
        std::fs::read_dir(&target).unwrap().count(),
        expected.len(),
        "the trial leaves nothing behind"
    );
    assert!(report::check_run_dir(&target.join("run.json/x")).is_err());
    let blocked = report::write_run_dir(&target.join("run.json/x"), &summary, &timeline, &[]).unwrap_err();
    assert!(blocked.to_string().ends_with("choose another directory with --out"), "{blocked}");
}
