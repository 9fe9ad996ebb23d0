//! `report.html`: one file that works offline, prints, and needs no script: tables are HTML, charts are SVG,
//! values behind a point are the browser's own tooltips.

mod chart;
mod style;

use std::fmt::Write;

use super::format::{bytes, count, latency, percent, plan, rate, seconds, utc};
use crate::measure::thresholds::WORKER_BUSY_KNOWN_FROM;
use crate::measure::{Grade, PERCENTILES, Series, Summary};
use chart::{Band, Chart, Line, Scale};
use style::CSS;

/// Makes the report.
pub fn html(summary: &Summary) -> Vec<u8> {
    let mut out = String::with_capacity(64 * 1024);
    let name = escape(&summary.name);
    let _ = write!(
        out,
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n<title>{}: {name}</title>\n<style>{CSS}</style>\n</head>\n<body>\n<main>\n",
        summary.verdict.name(),
    );
    head(&mut out, summary);
    tiles(&mut out, summary);
    objectives(&mut out, summary);
    percentiles(&mut out, summary);
    charts(&mut out, summary);
    requests(&mut out, summary);
    faults(&mut out, summary);
    nodes(&mut out, summary);
    environment(&mut out, summary);
    out.push_str("</main>\n</body>\n</html>\n");
    out.into_bytes()
}

fn head(out: &mut String, summary: &Summary) {
    let means = match summary.verdict {
        Grade::Valid if summary.planned_per_second.is_none() => {
            "the generator had time to spare; the figures below are about the target"
        }
        Grade::Valid => "the generator kept its schedule; the figures below are about the target",
        Grade::Suspect => "read the figures with the reasons below in mind",
        Grade::Invalid => "do not use these figures; the reasons say what to change",
    };
    let grade = summary.verdict.name();
    // A run without a name of its own has its target's.
    let target = summary.plan.target.to_string();
    let target = if target == summary.name { String::new() } else { format!("{}<br>", escape(&target)) };
    let _ = write!(
        out,
        "<header>\n<p class=\"verdict {grade}\"><b>{grade}</b> <span>{means}</span></p>\n<h1>{}</h1>\n<p class=\"sub\">{target}{}<br>{} UTC</p>\n",
        escape(&summary.name),
        escape(&plan(&summary.plan)),
        utc(summary.started_at_unix_ms)
    );
    if !summary.reasons.is_empty() {
        out.push_str("<ul class=\"reasons\">\n");
        for reason in &summary.reasons {
            let _ = writeln!(out, "<li>{}</li>", escape(reason));
        }
        out.push_str("</ul>\n");
    }
    out.push_str("</header>\n");
}

fn tiles(out: &mut String, summary: &Summary) {
    let counts = &summary.counts;
    let failed = counts.error + counts.timeout + counts.censored + counts.dropped;
    let asked = summary
        .planned_per_second
        .map_or("closed model".to_owned(), |asked| format!("of {} planned", rate(asked)));
    let tiles = [
        ("response p50", latency(summary.response.p50), "half wait longer".to_owned()),
        (
            "response p99",
            latency(summary.response.p99),
            format!("service alone: {}", latency(summary.service.p99)),
        ),
        (
            "response max",
            latency(summary.response.max),
            format!("over {} requests", count(summary.response.count)),
        ),
        ("good replies", rate(summary.ok_per_second), asked),
        (
            "failed",
            percent(failed, counts.planned),
            format!("{} of {}", count(failed), count(counts.planned)),
        ),
    ];
    out.push_str("<dl class=\"tiles\">\n");
    for (label, value, note) in tiles {
        let _ = writeln!(out, "<div><dt>{label}</dt><dd>{value}</dd><dd class=\"note\">{note}</dd></div>");
    }
    out.push_str("</dl>\n");
}

fn objectives(out: &mut String, summary: &Summary) {
    if summary.slo.is_empty() {
        return;
    }
    out.push_str("<section><h2>Objectives</h2>\n<table class=\"narrow\"><thead><tr><th>objective</th><th>measured</th><th class=\"l\">result</th></tr></thead><tbody>\n");
    for slo in &summary.slo {
        let (class, word) = if slo.passed { ("pass", "kept") } else { ("fail", "missed") };
        let _ = writeln!(
            out,
            "<tr><td class=\"l\"><code>{}</code></td><td>{}</td><td class=\"l {class}\">{word}</td></tr>",
            escape(&slo.slo),
            escape(&slo.actual)
        );
    }
    out.push_str("</tbody></table></section>\n");
}

fn percentiles(out: &mut String, summary: &Summary) {
    out.push_str("<section><h2>Latency</h2>\n<table><thead><tr><th></th><th>count</th>");
    for name in PERCENTILES.iter().map(|(name, _)| *name).chain(["max", "mean"]) {
        let _ = write!(out, "<th>{name}</th>");
    }
    out.push_str("</tr></thead><tbody>\n");
    let lag_note = match summary.planned_per_second {
        Some(_) => "sent − due: the schedule’s delay",
        None => "sent − due: a closed model has no schedule",
    };
    percentile_row(out, "response", "reply − due: what a user waits", &summary.response, "main");
    percentile_row(out, "service", "reply − sent: target and network", &summary.service, "main");
    percentile_row(out, "lag", lag_note, &summary.lag, "main");
    percentile_row(out, "own lag", "the part of lag that is the generator’s", &summary.own_lag, "");
    for (name, series) in summary.response_by_outcome.iter().filter(|(_, series)| series.count > 0) {
        percentile_row(out, &format!("response, {name}"), "", series, "");
    }
    percentile_row(out, "connect", "time to open a connection", &summary.connect, "");
    out.push_str("</tbody></table>\n<p class=\"caption\">");
    if summary.response.lower_bounds > 0 {
        let _ = write!(
            out,
            "Response holds {} lower bounds: requests that timed out, or were unanswered or unsent at the end, count with the time they had waited. ",
            count(summary.response.lower_bounds)
        );
    } else {
        out.push_str("Response holds every request that was due: good, failed, timed out, unanswered. ");
    }
    if !summary.plan.keep_alive {
        out.push_str("Response and service hold the connect of each request. ");
    }
    out.push_str("Percentiles come from merged counts. * fewer than 10 ÷ (1 − p) values: one more outlier would move it.</p></section>\n");
}

fn percentile_row(out: &mut String, name: &str, note: &str, series: &Series, class: &str) {
    let _ = write!(
        out,
        "<tr class=\"{class}\"><th scope=\"row\">{name}<small>{note}</small></th><td>{}</td>",
        count(series.count)
    );
    for ((percentile, _), value) in PERCENTILES.iter().zip(series.percentiles()) {
        let mark =
            if series.under_sampled.iter().any(|thin| thin == percentile) { "<sup>*</sup>" } else { "" };
        let _ = match series.count {
            0 => write!(out, "<td>–</td>"),
            _ => write!(out, "<td>{}{mark}</td>", latency(value)),
        };
    }
    let _ = match series.count {
        0 => writeln!(out, "<td>–</td><td>–</td></tr>"),
        _ => writeln!(out, "<td>{}</td><td>{}</td></tr>", latency(series.max), latency(series.mean)),
    };
}

fn charts(out: &mut String, summary: &Summary) {
    let curve = |index: usize| {
        summary.curves.get(index).map_or(Vec::new(), |(_, points)| {
            // The last step is at 100 %, infinitely far right; it is drawn where the last count is.
            let end = points.iter().map(|p| p.quantile).filter(|q| *q < 1.0).fold(0.0, f64::max);
            let at = |q: f64| -(1.0 - q.min(end)).log10();
            points.iter().map(|p| Some((at(p.quantile), p.value_ns as f64))).collect()
        })
    };
    let by_percentile = Chart {
        id: "percentile",
        title: "Latency by percentile",
        x: Scale::Percentile,
        x_end: 0.0,
        y: Scale::LatencyLog,
        lines: vec![
            Line { name: "response", class: "a", points: curve(0) },
            Line { name: "service", class: "b", points: curve(1) },
            Line { name: "lag", class: "c", points: curve(2) },
        ],
        bands: Vec::new(),
        tips: Vec::new(),
    };
    let bands = bands(summary);
    let tips = tips(summary);
    let over_time = |id, title, y, lines| Chart {
        id,
        title,
        x: Scale::Time,
        x_end: summary.seconds.last().map_or(0.0, |last| f64::from(last.second) + 1.0),
        y,
        lines,
        bands: bands.clone(),
        tips: tips.clone(),
    };
    let line = |name, class, of: fn(&crate::measure::Second) -> Option<u64>| Line {
        name,
        class,
        points: by_second(summary, of),
    };
    let latency_chart = over_time(
        "latency",
        "Response over time, by the second in which requests were due",
        Scale::LatencyLog,
        vec![
            line("max", "c", |s| (s.samples > 0).then_some(s.max)),
            line("p99", "a", |s| (s.samples > 0).then_some(s.p99)),
            line("p50", "b", |s| (s.samples > 0).then_some(s.p50)),
        ],
    );
    let rate_chart = over_time(
        "rate",
        "Requests a second: planned by due time, replies by the time they came",
        Scale::Linear,
        vec![
            line("planned", "d", |s| Some(s.planned)),
            line("ok", "b", |s| Some(s.ok)),
            line("failed", "c", |s| Some(s.failed)),
        ],
    );
    let lag_chart = over_time(
        "lag",
        "Lag over time: how late requests were sent",
        Scale::LatencyLog,
        vec![
            line("max", "c", |s| (s.samples > 0).then_some(s.lag_max)),
            line("p99", "a", |s| (s.samples > 0).then_some(s.lag_p99)),
        ],
    );
    let has_lag = summary.planned_per_second.is_some() || summary.lag.max > 0;
    for chart in [latency_chart, by_percentile, rate_chart].into_iter().chain(has_lag.then_some(lag_chart)) {
        let _ = write!(out, "<section><h2>{}</h2>\n{}</section>\n", chart.title, chart.svg());
    }
}

/// One point a second, in its middle; a second without a value breaks the line.
fn by_second(summary: &Summary, of: fn(&crate::measure::Second) -> Option<u64>) -> Vec<Option<(f64, f64)>> {
    let mut points = Vec::with_capacity(summary.seconds.len());
    let mut expected = summary.seconds.first().map_or(0, |second| second.second);
    for second in &summary.seconds {
        if second.second != expected {
            points.push(None);
        }
        expected = second.second + 1;
        points.push(of(second).map(|value| (f64::from(second.second) + 0.5, value as f64)));
    }
    points
}

fn bands(summary: &Summary) -> Vec<Band> {
    let mut bands = Vec::new();
    if summary.warm_up_ns > 0 {
        let end = summary.warm_up_ns as f64 / 1e9;
        bands.push(Band { from: 0.0, to: end, label: "warm-up".to_owned(), class: "warm" });
    }
    for fault in &summary.faults {
        bands.push(Band {
            from: fault.start_ns as f64 / 1e9,
            to: fault.end_ns as f64 / 1e9,
            label: format!("{} on {}", fault.behavior, fault.proxy),
            class: "fault",
        });
    }
    bands
}

fn tips(summary: &Summary) -> Vec<(f64, String)> {
    let tip = |s: &crate::measure::Second| {
        let text = format!(
            "second {}: response p50 {}, p99 {}, max {}; lag p99 {}; {} planned, {} ok, {} failed",
            s.second,
            latency(s.p50),
            latency(s.p99),
            latency(s.max),
            latency(s.lag_p99),
            count(s.planned),
            count(s.ok),
            count(s.failed)
        );
        (f64::from(s.second), text)
    };
    summary.seconds.iter().map(tip).collect()
}

fn requests(out: &mut String, summary: &Summary) {
    let c = &summary.counts;
    out.push_str("<section class=\"two\"><div><h2>Requests</h2>\n<table class=\"narrow\"><tbody>\n");
    let rows = [
        ("planned", c.planned, "were due"),
        ("sent", c.sent, "= ok + error + timeout + in flight"),
        ("ok", c.ok, "complete replies"),
        ("error", c.error, "failed; by kind beside"),
        ("timeout", c.timeout, "no reply in time"),
        ("in flight at the end", c.censored, "age counted as lower bound"),
        ("dropped", c.dropped, "never sent = planned − sent"),
        ("warm-up", summary.warm_up_counts.planned, "counted apart, in no other figure"),
    ];
    for (name, value, note) in rows {
        let _ = writeln!(
            out,
            "<tr><th scope=\"row\">{name}</th><td>{}</td><td class=\"l note\">{note}</td></tr>",
            count(value)
        );
    }
    out.push_str(
        "</tbody></table></div>\n<div><h2>Errors and connections</h2>\n<table class=\"narrow\"><tbody>\n",
    );
    for error in &summary.errors {
        let _ = writeln!(
            out,
            "<tr><th scope=\"row\">{}</th><td>{}</td><td class=\"l note\">{}</td></tr>",
            escape(&error.description),
            count(error.count),
            percent(error.count, c.sent)
        );
    }
    if summary.errors.is_empty() {
        out.push_str(
            "<tr><th scope=\"row\">errors</th><td>0</td><td class=\"l note\">none of any kind</td></tr>\n",
        );
    }
    for (name, value) in [
        ("connections opened", count(summary.connections_opened)),
        ("reconnects", count(summary.reconnects)),
        ("failed connects", count(summary.connect_failures)),
        ("sent", bytes(summary.sent_bytes)),
        ("received", bytes(summary.received_bytes)),
    ] {
        let _ = writeln!(out, "<tr><th scope=\"row\">{name}</th><td>{value}</td><td></td></tr>");
    }
    out.push_str("</tbody></table></div></section>\n");
}

fn faults(out: &mut String, summary: &Summary) {
    if summary.faults.is_empty() {
        return;
    }
    out.push_str("<section><h2>Fault windows</h2>\n<table><thead><tr><th>from</th><th>to</th><th class=\"l\">proxy</th><th class=\"l\">behavior</th><th>injected</th><th>of seen</th><th>done − asked p50</th><th>p99</th></tr></thead><tbody>\n");
    let or_dash = |value: Option<String>| value.unwrap_or_else(|| "–".to_owned());
    for fault in &summary.faults {
        let _ = writeln!(
            out,
            "<tr><td>{}</td><td>{}</td><td class=\"l\">{}</td><td class=\"l\"><code>{}</code></td><td>{}</td><td>{}</td><td>{}</td><td>{}</td></tr>",
            seconds(fault.start_ns),
            seconds(fault.end_ns),
            escape(&fault.proxy),
            escape(&fault.behavior),
            or_dash(fault.injected.map(count)),
            or_dash(fault.seen.map(count)),
            or_dash(fault.accuracy_p50_ns.map(latency)),
            or_dash(fault.accuracy_p99_ns.map(latency))
        );
    }
    out.push_str("</tbody></table>\n<p class=\"caption\">Done − asked: how far injected delays were from what was asked for. Faults are on the run’s own clock.</p></section>\n");
}

fn nodes(out: &mut String, summary: &Summary) {
    out.push_str("<section><h2>Nodes</h2>\n<table><thead><tr><th>node</th><th>sent</th><th>ok</th><th>p50</th><th>p99</th><th>max</th><th>own lag p99</th><th>busiest worker</th><th>clock</th></tr></thead><tbody>\n");
    for node in &summary.nodes {
        // As for the verdict: in a moment it is chance.
        let is_known = u128::from(summary.measured_ns) >= WORKER_BUSY_KNOWN_FROM.as_nanos();
        let busy = node.workers.iter().map(|w| w.busy_ratio).reduce(f64::max).filter(|_| is_known);
        let lost = node
            .lost
            .as_ref()
            .map_or(String::new(), |why| format!("<small class=\"fail\">lost: {}</small>", escape(why)));
        let _ = writeln!(
            out,
            "<tr><th scope=\"row\">{}{lost}</th><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td></tr>",
            escape(&node.name),
            count(node.counts.sent),
            count(node.counts.ok),
            latency(node.response.p50),
            latency(node.response.p99),
            latency(node.response.max),
            latency(node.own_lag.p99),
            busy.map_or("–".to_owned(), |busy| format!("{:.0} %", busy * 100.0)),
            node.clock_error_ns.map_or("–".to_owned(), |error| format!("± {}", latency(error)))
        );
    }
    out.push_str("</tbody></table></section>\n");
}

fn environment(out: &mut String, summary: &Summary) {
    let e = &summary.environment;
    let _ = write!(
        out,
        "<section><h2>Where and how</h2>\n<table class=\"narrow\"><tbody>\n\
         <tr><th scope=\"row\">fracas</th><td class=\"l\">{}</td></tr>\n<tr><th scope=\"row\">host</th><td class=\"l\">{}</td></tr>\n\
         <tr><th scope=\"row\">processor</th><td class=\"l\">{}, {} cores</td></tr>\n<tr><th scope=\"row\">kernel</th><td class=\"l\">{}</td></tr>\n\
         <tr><th scope=\"row\">seed</th><td class=\"l\">{}</td></tr>\n</tbody></table>\n<p class=\"caption\">Again:</p>\n<pre>{}</pre>\n</section>\n",
        escape(&e.version),
        escape(&e.host),
        escape(&e.cpu),
        e.cores,
        escape(&e.kernel),
        summary.plan.seed,
        escape(&summary.reproduce)
    );
}

fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            _ => out.push(c),
        }
    }
    out
}
