//! rows → the tables that people read: medians with min–max, ratios, and the targets.

use std::fmt::Write;

use crate::rows::{Key, Row, Spread, ratio, spread};

/// The peers that ratios are taken against.
const YARDSTICKS: [&str; 6] = ["floor", "haproxy", "nginx", "toxiproxy", "wrk", "unread"];

/// A figure that must be reached: `key`, or `key` over `over`, is at most `at_most`.
struct Target {
    figure: &'static str,
    key: Key<'static>,
    over: Option<Key<'static>>,
    at_most: f64,
    unit: &'static str,
}

/// Everything that `rows` say, as Markdown.
pub fn markdown(rows: &[Row]) -> String {
    let mut text = String::from(
        "# Summary\n\nMedians (min–max) over the runs in `raw.csv`; lower is better except for rates. A ratio is the median of \
         the ratios of each run, whose subjects took turns within it.\n",
    );
    text.push_str("\n## Targets\n\n| figure | target | measured | |\n|---|---|---|---|\n");
    // What a session did not run is no gap in it; a peer that is missing from one that ran is.
    let has_run = |target: &Target| rows.iter().any(|row| row.command == target.key.command);
    for target in targets().into_iter().filter(has_run) {
        text.push_str(&target_line(rows, &target));
    }
    for (command, cell) in distinct(rows, |row| (row.command.as_str(), row.cell.as_str())) {
        let rows: Vec<Row> =
            rows.iter().filter(|row| row.command == command && row.cell == cell).cloned().collect();
        let _ = write!(text, "\n## {command}: {cell}\n\n{}", table(&rows, command, cell));
    }
    text
}

fn table(rows: &[Row], command: &str, cell: &str) -> String {
    let metrics = distinct(rows, |row| row.metric.as_str());
    let subjects = distinct(rows, |row| row.subject.as_str());
    // Ratios are of the first metric, which every bench writes as its cost.
    let cost = |subject| Key { command, cell, subject, metric: metrics[0] };
    // What HTTP costs is told over the same proxy that moves the same bytes without reading them.
    let raw = cell.starts_with("http-").then_some("fracas").filter(|_| command == "proxy");
    let yardsticks: Vec<&str> =
        YARDSTICKS.into_iter().chain(raw).filter(|name| spread(rows, cost(name)).is_some()).collect();
    let mut text = String::from("| |");
    for heading in
        metrics.iter().map(|metric| (*metric).to_owned()).chain(yardsticks.iter().map(|y| format!("× {y}")))
    {
        let _ = write!(text, " {heading} |");
    }
    let _ = writeln!(text, "\n|---|{}", "---|".repeat(metrics.len() + yardsticks.len()));
    for subject in subjects {
        let _ = write!(text, "| {subject} |");
        for metric in &metrics {
            match spread(rows, Key { command, cell, subject, metric }) {
                Some(Spread { median, min, max }) => {
                    let _ = write!(text, " {} ({}–{}) |", figure(median), figure(min), figure(max));
                }
                None => text.push_str(" – |"),
            }
        }
        for yardstick in &yardsticks {
            match ratio(rows, cost(subject), cost(yardstick)) {
                Some(ratio) => {
                    let _ = write!(text, " {:.2} |", ratio.median);
                }
                None => text.push_str(" – |"),
            }
        }
        text.push('\n');
    }
    text
}

fn target_line(rows: &[Row], target: &Target) -> String {
    let Target { figure: name, key, over, at_most, unit } = target;
    let measured = match over {
        None => spread(rows, *key),
        Some(over) => ratio(rows, *key, *over),
    };
    let (measured, verdict) = match measured {
        Some(Spread { median: value, .. }) => {
            (format!("{value:.2} {unit}"), if value <= *at_most { "reached" } else { "**missed**" })
        }
        None => ("not measured".to_owned(), ""),
    };
    format!("| {name} | ≤ {at_most} {unit} | {measured} | {verdict} |\n")
}

fn targets() -> Vec<Target> {
    let proxy = |subject, cell, metric| Key { command: "proxy", cell, subject, metric };
    let cpu = |subject, cell| proxy(subject, cell, "cpu_us_per_round_trip");
    let ratio = |figure, key, over, at_most| Target { figure, key, over: Some(over), at_most, unit: "×" };
    let plain = |figure, key, at_most, unit| Target { figure, key, over: None, at_most, unit };
    let (at_64, at_1000) = ("echo-64B-64", "echo-64B-1000");
    let mut targets = vec![
        ratio("CPU, 64 connections, over the floor", cpu("fracas", at_64), cpu("floor", at_64), 1.08),
        ratio("CPU, 1,000 connections, over the floor", cpu("fracas", at_1000), cpu("floor", at_1000), 1.08),
        ratio("CPU, 64 connections, over HAProxy", cpu("fracas", at_64), cpu("haproxy", at_64), 0.80),
        ratio("CPU, 1,000 connections, over HAProxy", cpu("fracas", at_1000), cpu("haproxy", at_1000), 0.75),
        ratio("CPU, 64 connections, over nginx", cpu("fracas", at_64), cpu("nginx", at_64), 0.85),
        ratio("CPU, 1,000 connections, over nginx", cpu("fracas", at_1000), cpu("nginx", at_1000), 0.85),
        ratio("CPU, 64 connections, over Toxiproxy", cpu("fracas", at_64), cpu("toxiproxy", at_64), 0.60),
        ratio(
            "CPU, 1,000 connections, over Toxiproxy",
            cpu("fracas", at_1000),
            cpu("toxiproxy", at_1000),
            0.60,
        ),
    ];
    for cell in [at_64, at_1000] {
        let figure = "CPU, rules that do not match, over no rules";
        targets.push(ratio(figure, cpu("fracas-unmatched", cell), cpu("fracas", cell), 1.05));
    }
    for cell in ["http-64", "http-1000"] {
        let over_raw =
            |figure, subject, at_most| ratio(figure, cpu(subject, cell), cpu("fracas", cell), at_most);
        targets.push(over_raw("CPU, HTTP-aware without a rule, over raw tcp", "fracas-http", 1.08));
        targets.push(over_raw(
            "CPU, HTTP-aware with a delay on 1 %, over raw tcp",
            "fracas-http-delay",
            1.10,
        ));
    }
    let burst = "burst-64B-1000";
    let figure = "CPU, 1,000 connections in one burst, over the floor";
    targets.push(ratio(figure, cpu("fracas", burst), cpu("floor", burst), 1.05));
    let bulk = "echo-256KiB-16";
    targets.push(ratio("CPU, 256 KiB, over HAProxy", cpu("fracas", bulk), cpu("haproxy", bulk), 0.80));
    let memory = proxy("fracas", "idle-4000", "anonymous_bytes_per_connection");
    targets.push(plain("user memory per idle connection", memory, 1024.0, "B"));
    targets.push(plain(
        "flip applied under full load, p99",
        Key { command: "flip", cell: "echo-64B-64", subject: "fracas", metric: "applied_us_p99" },
        5000.0,
        "µs",
    ));
    let late = |subject, metric| Key { command: "accuracy", cell: "delay-50ms", subject, metric };
    targets.push(plain("50 ms delay, done − asked, p50", late("fracas", "proxy_late_us_p50"), 200.0, "µs"));
    targets.push(plain("50 ms delay, done − asked, p99", late("fracas", "proxy_late_us_p99"), 500.0, "µs"));
    targets.push(plain("the same, --precise, p50", late("fracas-precise", "proxy_late_us_p50"), 5.0, "µs"));
    for cell in ["http-64", "http-1000"] {
        let load = |subject| Key { command: "load", cell, subject, metric: "cpu_us_per_request" };
        targets.push(ratio("load, CPU per request, over wrk", load("fracas"), load("wrk"), 0.72));
    }
    let lag = |subject| Key { command: "load", cell: "open-20000", subject, metric: "lag_us_p50" };
    targets.push(plain("lag at 20,000/s, sleeping, p50", lag("fracas"), 60.0, "µs"));
    targets.push(plain("lag at 20,000/s, --precise, p50", lag("fracas-precise"), 1.0, "µs"));
    targets.extend(behaviour_targets());
    targets
}

/// What holds beside speed: counts that are true, figures that cost nothing to read, memory that comes back.
fn behaviour_targets() -> Vec<Target> {
    let key = |command, cell, subject, metric| Key { command, cell, subject, metric };
    let plain = |figure, key, at_most, unit| Target { figure, key, over: None, at_most, unit };
    let mut targets = Vec::new();
    for (figure, kind) in [
        ("errors of an outage by blackout, off the truth", "blackout"),
        ("errors of an outage by reset, off the truth", "reset"),
        ("errors of an outage by hang, off the truth", "hang"),
        ("errors of a refused port, off the truth", "refused"),
    ] {
        targets.push(plain(figure, key("truth", "outage-3s", kind, "errors_off_percent"), 1.0, "%"));
    }
    for (valid, own, model) in [
        (
            "own stall of 1 s called valid, closed model",
            "own stall as shown, off the truth, closed",
            "closed",
        ),
        ("own stall of 1 s called valid, open model", "own stall as shown, off the truth, open", "open"),
    ] {
        targets.push(plain(valid, key("stall", "stall-1s", model, "is_valid"), 0.0, "times"));
        targets.push(plain(own, key("stall", "stall-1s", model, "own_off_percent"), 2.0, "%"));
    }
    for (figure, setting) in [
        ("capacity of 400/s, 100 connections, 0.5 s + 2 s", "c100-warm0.5s-probe2s"),
        ("capacity of 400/s, 100 connections, 0 + 3 s", "c100-warm0-probe3s"),
        ("capacity of 400/s, 20 connections, 1 s + 4 s", "c20-warm1s-probe4s"),
        ("capacity of 400/s, 1,000 connections, 2 s + 5 s", "c1000-warm2s-probe5s"),
    ] {
        targets.push(plain(
            figure,
            key("capacity", "400-per-second", setting, "found_off_percent"),
            2.0,
            "%",
        ));
    }
    let p99 = |subject| key("figures", "64-delay-rules", subject, "response_us_p99");
    targets.push(Target {
        figure: "data p99 while figures are read, over while not",
        key: p99("read"),
        over: Some(p99("unread")),
        at_most: 1.2,
        unit: "×",
    });
    let rule = key("many", "delay-rules", "fracas", "kib_per_rule");
    targets.push(plain("memory of a delay rule per thread, idle", rule, 4.0, "KiB"));
    let many = |metric| key("many", "proxies-2000", "fracas", metric);
    targets.push(plain("2,000 proxies with a delay rule, start", many("start_ms"), 500.0, "ms"));
    targets.push(plain("2,000 proxies with a delay rule, resident", many("resident_mib"), 64.0, "MiB"));
    let soak = |metric| key("soak", "mixed-with-flips", "fracas", metric);
    let resident = soak("resident_after_over_before");
    targets.push(plain("resident a minute after the soak, over before", resident, 1.2, "×"));
    targets.push(plain("descriptors more than before the soak", soak("descriptors_more"), 0.0, ""));
    targets.push(plain("connections left after the soak", soak("connections_after"), 0.0, ""));
    targets
}

/// The distinct keys in the order in which they first appear.
fn distinct<'a, T: PartialEq>(rows: &'a [Row], key: impl Fn(&'a Row) -> T) -> Vec<T> {
    let mut seen = Vec::new();
    for row in rows {
        let key = key(row);
        if !seen.contains(&key) {
            seen.push(key);
        }
    }
    seen
}

/// Three digits are what a shared machine can support.
fn figure(value: f64) -> String {
    match value.abs() {
        0.0..10.0 => format!("{value:.2}"),
        10.0..100.0 => format!("{value:.1}"),
        _ => format!("{value:.0}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(cell: &str, subject: &str, metric: &str, value: f64) -> Row {
        let [cell, subject, metric] = [cell, subject, metric].map(str::to_owned);
        Row { command: "proxy".to_owned(), cell, subject, run: 1, metric, value }
    }

    #[test]
    fn ratios_and_targets_are_medians() {
        let cpu = "cpu_us_per_round_trip";
        let rows = [
            row("echo-64B-64", "floor", cpu, 10.0),
            row("echo-64B-64", "haproxy", cpu, 20.0),
            row("echo-64B-64", "fracas", cpu, 11.0),
            row("echo-64B-64", "fracas", "round_trips_per_second", 90_000.0),
        ];
        let text = markdown(&rows);
        assert!(text.contains("| fracas | 11.0 (11.0–11.0) | 90000 (90000–90000) | 1.10 | 0.55 |"), "{text}");
        assert!(
            text.contains("| CPU, 64 connections, over the floor | ≤ 1.08 × | 1.10 × | **missed** |"),
            "{text}"
        );
        assert!(
            text.contains("| CPU, 64 connections, over HAProxy | ≤ 0.8 × | 0.55 × | reached |"),
            "{text}"
        );
        assert!(text.contains("| CPU, 64 connections, over nginx | ≤ 0.85 × | not measured |  |"), "{text}");
    }
}
