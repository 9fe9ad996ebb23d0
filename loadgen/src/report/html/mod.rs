//! `report.html`: one file that works offline, prints, and needs no script: tables are HTML, charts are SVG,
//! values behind a point are the browser's own tooltips.

mod chart;
mod over_time;
mod style;
mod windows;

use std::fmt::Write;

use super::format::{bytes, count, latency, percent, plan, plural, rate, utc};
use crate::measure::thresholds::WORKER_BUSY_KNOWN_FROM;
use crate::measure::{Grade, PERCENTILES, Series, Summary};
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
        summary_word(summary),
    );
    head(&mut out, summary);
    tiles(&mut out, summary);
    objectives(&mut out, summary);
    percentiles(&mut out, summary);
    over_time::charts(&mut out, summary);
    windows::windows(&mut out, summary);
    requests(&mut out, summary);
    nodes(&mut out, summary);
    environment(&mut out, summary);
    out.push_str("</main>\n</body>\n</html>\n");
    out.into_bytes()
}

/// The whole in a word or two, for the title of a tab.
fn summary_word(summary: &Summary) -> &'static str {
    match summary.slo_missed() {
        Some(_) if summary.verdict != Grade::Invalid => "SLO missed",
        _ => summary.verdict.name(),
    }
}

/// A part that scrolls sideways where it does not fit; shadows at its edges say so, and a keyboard reaches it.
fn scrolling(out: &mut String, label: &str, content: &str) {
    let _ = writeln!(
        out,
        "<div class=\"scroll\" role=\"region\" aria-label=\"{}\" tabindex=\"0\">{content}</div>",
        escape(label)
    );
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
    // What was missed comes before whether that may be believed; of an invalid run nothing is known.
    let objectives = match summary.slo_missed() {
        _ if summary.verdict == Grade::Invalid || summary.slo.is_empty() => String::new(),
        None => "<p class=\"verdict valid\"><b>SLO kept</b> <span>every objective</span></p>\n".to_owned(),
        Some(missed) => {
            let others = summary.slo.iter().filter(|slo| !slo.passed).count() - 1;
            let others = if others > 0 { format!(", and {others} more") } else { String::new() };
            let (slo, actual) = (escape(&missed.slo), escape(&missed.actual));
            format!(
                "<p class=\"verdict invalid\"><b>SLO missed</b> <span><code>{slo}</code> is {actual}{others}</span></p>\n"
            )
        }
    };
    // A run without a name of its own has its target's.
    let target = summary.plan.target.to_string();
    let target = if target == summary.name { String::new() } else { format!("{}<br>", escape(&target)) };
    let _ = write!(
        out,
        "<header>\n{objectives}<p class=\"verdict {grade}\"><b>measurement {grade}</b> <span>{means}</span></p>\n<h1>{}</h1>\n<p class=\"sub\">{target}{}<br>{} UTC</p>\n",
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
            "not ok",
            percent(failed, counts.planned),
            format!(
                "{} of {}: failed, timed out, unanswered or unsent",
                count(failed),
                count(counts.planned)
            ),
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
    out.push_str("<section><h2>Objectives</h2>\n");
    let mut table = String::from(
        "<table class=\"narrow\"><thead><tr><th>objective</th><th>measured</th><th class=\"l\">result</th></tr></thead><tbody>\n",
    );
    for slo in &summary.slo {
        let (class, word) = if slo.passed { ("pass", "kept") } else { ("fail", "missed") };
        let _ = writeln!(
            table,
            "<tr><td class=\"l\"><code>{}</code></td><td>{}</td><td class=\"l {class}\">{word}</td></tr>",
            escape(&slo.slo),
            escape(&slo.actual)
        );
    }
    table.push_str("</tbody></table>");
    scrolling(out, "Objectives", &table);
    out.push_str("</section>\n");
}

fn percentiles(out: &mut String, summary: &Summary) {
    out.push_str("<section><h2>Latency</h2>\n");
    let mut table = String::from("<table><thead><tr><th>series</th><th>count</th>");
    for name in PERCENTILES.iter().map(|(name, _)| *name).chain(["max", "mean"]) {
        let _ = write!(table, "<th>{name}</th>");
    }
    table.push_str("</tr></thead><tbody>\n");
    let lag_note = match summary.planned_per_second {
        Some(_) => "sent − due: the schedule’s delay",
        None => "sent − due: a closed model has no schedule",
    };
    percentile_row(&mut table, "response", "reply − due: what a user waits", &summary.response, "main");
    percentile_row(&mut table, "service", "reply − sent: target and network", &summary.service, "main");
    percentile_row(&mut table, "lag", lag_note, &summary.lag, "main");
    percentile_row(
        &mut table,
        "own part",
        "of response: the generator’s, not the target’s",
        &summary.own_lag,
        "",
    );
    for (name, series) in summary.response_by_outcome.iter().filter(|(_, series)| series.count > 0) {
        percentile_row(&mut table, &format!("response, {name}"), "", series, "");
    }
    percentile_row(&mut table, "connect", "time to open a connection", &summary.connect, "");
    table.push_str("</tbody></table>");
    scrolling(out, "Latency by series", &table);
    out.push_str("<p class=\"caption\">");
    if summary.response.lower_bounds > 0 {
        let _ = write!(
            out,
            "Response holds {} lower bounds: requests that timed out, or were unanswered or unsent at the end, count with the time they had waited. ",
            count(summary.response.lower_bounds)
        );
    } else if summary.counts.dropped == 0 {
        out.push_str("Response holds every request that was due: good, failed, timed out, unanswered. ");
    }
    let late = summary.counts.dropped.saturating_sub(summary.counts.unsent);
    if late > 0 {
        let late = plural(late, "request");
        let _ = write!(out, "{late} dropped as too late to be sent: in no series. ");
    }
    if !summary.plan.keep_alive {
        out.push_str("Response and service hold the connect of each request. ");
    }
    if let Some(own) = super::text::own(summary) {
        let _ = write!(out, "The generator itself: {}. ", escape(&own));
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

fn requests(out: &mut String, summary: &Summary) {
    let c = &summary.counts;
    out.push_str("<section class=\"two\"><div><h2>Requests</h2>\n");
    let mut table = String::from("<table class=\"narrow\"><tbody>\n");
    let rows = [
        ("planned", c.planned, "were due"),
        ("sent", c.sent, "= ok + error + timeout + in flight"),
        ("ok", c.ok, "complete replies"),
        ("error", c.error, "failed; by kind beside"),
        ("timeout", c.timeout, "no reply in time"),
        ("in flight at the end", c.censored, "age counted as lower bound"),
        ("dropped", c.dropped, "never sent = planned − sent"),
        ("warm-up", summary.warm_up_counts.planned, "counted apart: in no percentile, count or rate"),
    ];
    for (name, value, note) in rows {
        let _ = writeln!(
            table,
            "<tr><th scope=\"row\">{name}</th><td>{}</td><td class=\"l note\">{note}</td></tr>",
            count(value)
        );
    }
    table.push_str("</tbody></table>");
    scrolling(out, "Requests", &table);
    out.push_str("</div>\n<div><h2>Errors and connections</h2>\n");
    let mut table = String::from("<table class=\"narrow\"><tbody>\n");
    for error in &summary.errors {
        let _ = writeln!(
            table,
            "<tr><th scope=\"row\">{}</th><td>{}</td><td class=\"l note\">{}</td></tr>",
            escape(&error.description),
            count(error.count),
            percent(error.count, c.sent)
        );
    }
    if summary.errors.is_empty() {
        table.push_str(
            "<tr><th scope=\"row\">errors</th><td>0</td><td class=\"l note\">none of any kind</td></tr>\n",
        );
    }
    if let (Some(injected), Some(natural)) = (summary.causes.injected, summary.causes.natural) {
        let unknown = summary.causes.unknown;
        let own = summary.causes.own;
        if injected + natural + unknown + own > 0 {
            let named = [("injected", injected), ("the generator’s own", own), ("natural", natural)];
            for (name, value) in named.into_iter().filter(|(name, value)| *value > 0 || !name.contains("own"))
            {
                let share = percent(value, c.sent);
                let _ = writeln!(
                    table,
                    "<tr><th scope=\"row\">of these {name}</th><td>{}</td><td class=\"l note\">{share}</td></tr>",
                    count(value)
                );
            }
            if let Some(why) = &summary.causes.unknown_because {
                let _ = writeln!(
                    table,
                    "<tr><th scope=\"row\">of these not known</th><td>{}</td><td class=\"l note wrap\">{}: {}</td></tr>",
                    count(unknown),
                    percent(unknown, c.sent),
                    escape(why)
                );
            }
        }
    } else if let Some(why) = &summary.causes.unknown_because {
        if summary.causes.own > 0 {
            let _ = writeln!(
                table,
                "<tr><th scope=\"row\">of these the generator’s own</th><td>{}</td><td class=\"l note\">{}</td></tr>",
                count(summary.causes.own),
                percent(summary.causes.own, c.sent)
            );
        }
        let _ = writeln!(
            table,
            "<tr><th scope=\"row\">injected, natural</th><td>not known</td><td class=\"l note wrap\">{}</td></tr>",
            escape(why)
        );
    }
    if summary.causes.not_kept > 0 {
        let _ = writeln!(
            table,
            "<tr><th scope=\"row\">injected, not kept</th><td>{}</td><td class=\"l note wrap\">too many: failures at their time are not known</td></tr>",
            count(summary.causes.not_kept)
        );
    }
    for (name, value) in [
        ("connections opened", count(summary.connections_opened)),
        ("of these used", count(summary.connections_used)),
        ("reconnects", count(summary.reconnects)),
        ("failed connects", count(summary.connect_failures)),
        ("sent", bytes(summary.sent_bytes)),
        ("received", bytes(summary.received_bytes)),
    ] {
        let _ = writeln!(table, "<tr><th scope=\"row\">{name}</th><td>{value}</td><td></td></tr>");
    }
    table.push_str("</tbody></table>");
    scrolling(out, "Errors and connections", &table);
    out.push_str("</div></section>\n");
}

fn nodes(out: &mut String, summary: &Summary) {
    out.push_str("<section><h2>Nodes</h2>\n");
    let mut table = String::from(
        "<table><thead><tr><th>node</th><th>sent</th><th>ok</th><th>p50</th><th>p99</th><th>max</th><th>own part p99</th><th>max</th><th>stood still</th><th>busiest worker</th><th>clock</th></tr></thead><tbody>\n",
    );
    for node in &summary.nodes {
        // As for the verdict: in a moment it is chance.
        let is_known = u128::from(summary.measured_ns) >= WORKER_BUSY_KNOWN_FROM.as_nanos();
        let busy = node.workers.iter().map(|w| w.busy_ratio).reduce(f64::max).filter(|_| is_known);
        let lost = node
            .lost
            .as_ref()
            .map_or(String::new(), |why| format!("<small class=\"fail\">lost: {}</small>", escape(why)));
        let _ = writeln!(
            table,
            "<tr><th scope=\"row\">{}{lost}</th><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td></tr>",
            escape(&node.name),
            count(node.counts.sent),
            count(node.counts.ok),
            latency(node.response.p50),
            latency(node.response.p99),
            latency(node.response.max),
            latency(node.own_lag.p99),
            latency(node.own_lag.max),
            if node.own.stall_max_ns == 0 { "–".to_owned() } else { latency(node.own.stall_max_ns) },
            busy.map_or("–".to_owned(), |busy| format!("{:.0} %", busy * 100.0)),
            node.clock_error_ns.map_or("–".to_owned(), |error| format!("± {}", latency(error)))
        );
    }
    table.push_str("</tbody></table>");
    scrolling(out, "Nodes", &table);
    out.push_str("</section>\n");
}

/// What stands beside this file in the run directory.
const FILES: &str = "<p class=\"caption\">Beside this file: <a href=\"run.json\">run.json</a> (all figures), <a href=\"latency.hlog\">latency.hlog</a> (histograms by second), <a href=\"response.hgrm\">response.hgrm</a>, <a href=\"service.hgrm\">service.hgrm</a>, <a href=\"lag.hgrm\">lag.hgrm</a> (percentile tables), <a href=\"events.jsonl\">events.jsonl</a> (what was injected).</p>\n";

fn environment(out: &mut String, summary: &Summary) {
    let e = &summary.environment;
    let cores = plural(u64::from(e.cores), "core");
    let processor = if e.cpu.is_empty() { cores } else { format!("{}, {cores}", escape(&e.cpu)) };
    let mut table = String::new();
    let _ = write!(
        table,
        "<table class=\"narrow\"><tbody>\n\
         <tr><th scope=\"row\">fracas</th><td class=\"l\">{}</td></tr>\n<tr><th scope=\"row\">host</th><td class=\"l\">{}</td></tr>\n\
         <tr><th scope=\"row\">processor</th><td class=\"l\">{}</td></tr>\n<tr><th scope=\"row\">kernel</th><td class=\"l\">{}</td></tr>\n\
         <tr><th scope=\"row\">seed</th><td class=\"l\">{}</td></tr>\n</tbody></table>",
        escape(&e.version),
        escape(&e.host),
        processor,
        escape(&e.kernel),
        summary.plan.seed
    );
    out.push_str("<section><h2>Where and how</h2>\n");
    scrolling(out, "Where and how", &table);
    let again = escape(&summary.reproduce);
    let _ = write!(out, "<p class=\"caption\">Again:</p>\n<pre>{again}</pre>\n{FILES}</section>\n");
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
