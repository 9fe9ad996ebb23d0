//! The summary on the terminal: the verdict first, then the three series apart, within thirty lines.

use std::fmt::Write;

use super::format::{bytes, count, latency, percent, plan, rate, seconds};
use crate::measure::{Grade, PERCENTILES, Series, Summary};

/// Lists longer than this are cut, and say so.
const ROWS_MAX: usize = 3;

/// Writes the summary; `colour` adds ANSI colours to the verdict and the objectives.
pub fn text(summary: &Summary, colour: bool) -> Vec<u8> {
    let mut out = String::new();
    let paint = |text: &str, code: &str| {
        if colour { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    };
    let (word, code) = match summary.verdict {
        Grade::Valid => ("VALID", "1;32"),
        Grade::Suspect => ("SUSPECT", "1;33"),
        Grade::Invalid => ("INVALID", "1;31"),
    };
    // A run without a name of its own has its target's.
    let target = summary.plan.target.to_string();
    let target = if target == summary.name { String::new() } else { format!(" → {target}") };
    let _ = writeln!(out, "{}  {}{target}", paint(word, code), summary.name);
    cut(&mut out, &summary.reasons, |reason| format!("  because {reason}"));
    let _ = writeln!(out, "  {}\n", plan(&summary.plan));

    let _ = write!(out, "{:<10}", "");
    PERCENTILES.iter().map(|(name, _)| *name).chain(["max", "mean"]).for_each(|name| {
        let _ = write!(out, "{name:>10}");
    });
    out.push('\n');
    let lag_note = match summary.planned_per_second {
        Some(_) => format!("sent − due; the generator's own part: p99 {}", latency(summary.own_lag.p99)),
        None => "sent − due; a closed model has no schedule".to_owned(),
    };
    for (name, series, note) in [
        ("response", &summary.response, "reply − due: what a user waits"),
        ("service", &summary.service, "reply − sent"),
        ("lag", &summary.lag, lag_note.as_str()),
    ] {
        series_row(&mut out, name, series, note);
    }
    notes(&mut out, summary);

    let c = &summary.counts;
    let _ = writeln!(
        out,
        "\nrequests  {} planned = {} sent + {} dropped",
        count(c.planned),
        count(c.sent),
        count(c.dropped)
    );
    let _ = writeln!(
        out,
        "          {} sent = {} ok + {} error + {} timeout + {} in flight at the end",
        count(c.sent),
        count(c.ok),
        count(c.error),
        count(c.timeout),
        count(c.censored)
    );
    let asked =
        summary.planned_per_second.map_or(String::new(), |asked| format!(" of {} planned", rate(asked)));
    let _ = writeln!(
        out,
        "rate      {} ok{asked}, over {}",
        rate(summary.ok_per_second),
        seconds(summary.measured_ns)
    );
    if summary.warm_up_counts.planned > 0 {
        let warm = &summary.warm_up_counts;
        let _ = writeln!(
            out,
            "warm-up   {} planned, {} ok, {} failed; in no figure above",
            count(warm.planned),
            count(warm.ok),
            count(warm.error + warm.timeout)
        );
    }
    let _ = writeln!(
        out,
        "network   {} out, {} in · {} connects (p99 {}), {} reconnects, {} failed",
        bytes(summary.sent_bytes),
        bytes(summary.received_bytes),
        count(summary.connections_opened),
        latency(summary.connect.p99),
        count(summary.reconnects),
        count(summary.connect_failures)
    );
    cut(&mut out, &summary.errors, |error| {
        format!(
            "error     {:>10}  {} ({})",
            count(error.count),
            error.description,
            percent(error.count, c.sent)
        )
    });
    cut(&mut out, &summary.faults, |fault| {
        let injected = fault.injected.map_or(String::new(), |n| format!(", {} injected", count(n)));
        format!(
            "fault     {} – {}  {} on {}{injected}",
            seconds(fault.start_ns),
            seconds(fault.end_ns),
            fault.behavior,
            fault.proxy
        )
    });
    if summary.nodes.len() > 1 {
        cut(&mut out, &summary.nodes, |node| {
            let lost = node.lost.as_ref().map_or(String::new(), |why| format!("  lost: {why}"));
            format!(
                "node      {}: {} sent, response p50 {} p99 {}{lost}",
                node.name,
                count(node.counts.sent),
                latency(node.response.p50),
                latency(node.response.p99)
            )
        });
    }
    cut(&mut out, &summary.slo, |slo| {
        let word = if slo.passed { paint("pass", "32") } else { paint("FAIL", "1;31") };
        format!("slo       {word}  {} (is {})", slo.slo, slo.actual)
    });
    out.into_bytes()
}

fn series_row(out: &mut String, name: &str, series: &Series, note: &str) {
    let _ = write!(out, "{name:<10}");
    for ((percentile, _), value) in PERCENTILES.iter().zip(series.percentiles()) {
        let mark = if series.under_sampled.iter().any(|thin| thin == percentile) { "*" } else { "" };
        let value = if series.count == 0 { "–".to_owned() } else { format!("{}{mark}", latency(value)) };
        let _ = write!(out, "{value:>10}");
    }
    let last = if series.count == 0 {
        ["–".to_owned(), "–".to_owned()]
    } else {
        [latency(series.max), latency(series.mean)]
    };
    let _ = writeln!(out, "{:>10}{:>10}   {note}", last[0], last[1]);
}

fn notes(out: &mut String, summary: &Summary) {
    if summary.response.lower_bounds > 0 {
        let _ = writeln!(
            out,
            "          response holds {} lower bounds: timeouts and what was unanswered at the end",
            count(summary.response.lower_bounds)
        );
    }
    if summary.response.count > 0 && !summary.response.under_sampled.is_empty() {
        let _ = writeln!(out, "          * fewer than 10 ÷ (1 − p) values: one more outlier would move it");
    }
}

/// At most [`ROWS_MAX`] lines, and how many more there are.
fn cut<T>(out: &mut String, rows: &[T], line: impl Fn(&T) -> String) {
    for row in rows.iter().take(ROWS_MAX) {
        let _ = writeln!(out, "{}", line(row));
    }
    if rows.len() > ROWS_MAX {
        let _ = writeln!(out, "          … and {} more in run.json", rows.len() - ROWS_MAX);
    }
}
