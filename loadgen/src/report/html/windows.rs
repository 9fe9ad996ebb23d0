//! Fault windows: when, what was injected and how exactly, and what the load saw before, during and after.

use std::fmt::Write;

use super::super::format::{count, latency, percent, rate, seconds};
use super::super::text::stretch_percentiles;
use super::{escape, scrolling};
use crate::measure::{Around, FaultWindow, Stretch, Summary};

pub(super) fn windows(out: &mut String, summary: &Summary) {
    if summary.faults.is_empty() {
        return;
    }
    out.push_str("<section><h2>Fault windows</h2>\n");
    // A controller is not told how many exchanges were looked at, nor how exact delays were.
    let has_seen = summary.faults.iter().any(|fault| fault.seen.is_some());
    let has_accuracy = summary.faults.iter().any(|fault| fault.accuracy_p50_ns.is_some());
    let mut table = String::from("<table><thead><tr>");
    let mut heads = vec!["number", "from", "to", "proxy", "behavior", "injected"];
    heads.extend(has_seen.then_some("of seen"));
    heads.extend(has_accuracy.then_some(["done − asked p50", "p99"]).into_iter().flatten());
    heads.push("p99 back");
    for head in heads {
        let class = if ["proxy", "behavior"].contains(&head) { " class=\"l\"" } else { "" };
        let _ = write!(table, "<th{class}>{head}</th>");
    }
    table.push_str("</tr></thead><tbody>\n");
    let or_dash = |value: Option<String>| value.unwrap_or_else(|| "–".to_owned());
    for (index, fault) in summary.faults.iter().enumerate() {
        let _ = write!(
            table,
            "<tr><th scope=\"row\">{}</th><td>{}</td><td>{}</td><td class=\"l\">{}</td><td class=\"l\"><code>{}</code></td>",
            index + 1,
            seconds(fault.start_ns),
            seconds(fault.end_ns),
            escape(&fault.proxy),
            escape(&fault.behavior)
        );
        let mut cells = vec![or_dash(fault.injected.map(count))];
        cells.extend(has_seen.then(|| or_dash(fault.seen.map(count))));
        let accuracy = || [fault.accuracy_p50_ns, fault.accuracy_p99_ns].map(|ns| or_dash(ns.map(latency)));
        cells.extend(has_accuracy.then(accuracy).into_iter().flatten());
        cells.push(recovery(fault.around.as_ref()));
        cells.iter().for_each(|cell| _ = write!(table, "<td>{cell}</td>"));
        table.push_str("</tr>\n");
    }
    table.push_str("</tbody></table>\n");
    scrolling(out, "Fault windows", &table);
    out.push_str("<p class=\"caption\">A window lasts from the instant at which its rules applied to the instant at which they were lifted or their lease ended, on the run’s own clock.");
    if has_accuracy {
        out.push_str(" Done − asked: how far injected delays were from what was asked for.");
    }
    out.push_str("</p>\n");
    around(out, &summary.faults);
    out.push_str("</section>\n");
}

fn recovery(around: Option<&Around>) -> String {
    let said = around.and_then(|around| around.recovery(seconds));
    said.map_or("–".to_owned(), |said| {
        said.trim_start_matches("was ").trim_start_matches("back ").to_owned()
    })
}

fn around(out: &mut String, faults: &[FaultWindow]) {
    if faults.iter().all(|fault| fault.around.is_none()) {
        return;
    }
    let mut table = String::from(
        "<table><thead><tr><th>before, during, after</th><th>from</th><th>to</th><th>due</th><th>good replies</th><th>failed</th><th>injected</th><th>own</th><th>natural</th><th>not known</th><th>p50</th><th>p95</th><th>p99</th><th>p99 if ok</th></tr></thead>\n",
    );
    for (index, fault) in faults.iter().enumerate() {
        let Some(around) = &fault.around else { continue };
        let name = format!("{}. {} on {}", index + 1, escape(&fault.behavior), escape(&fault.proxy));
        let _ = writeln!(table, "<tbody><tr class=\"main\"><td class=\"l\" colspan=\"14\">{name}</td></tr>");
        for (part, stretch) in
            [("before", &around.before), ("during", &around.during), ("after", &around.after)]
        {
            row(&mut table, part, stretch);
        }
        table.push_str("</tbody>\n");
    }
    table.push_str("</table>\n");
    scrolling(out, "Before, during and after each fault window", &table);
    out.push_str("<p class=\"caption\">Requests by when they were due, from tenths of a second; percentiles of all replies and lower bounds, 1.6 % off at most; ≥ stands before one that is a lower bound. Own: timeouts that the generator made itself. Before ends a tenth of a second before the rules came: what was in flight then is in neither. p99 is back when, for a second, no more requests are slower than it was before, and no more fail.</p>\n");
}

fn row(out: &mut String, part: &str, stretch: &Stretch) {
    let _ = write!(
        out,
        "<tr><th scope=\"row\">{part}</th><td>{}</td><td>{}</td><td>{}</td>",
        seconds(stretch.start_ns),
        seconds(stretch.end_ns),
        count(stretch.due)
    );
    if stretch.due == 0 {
        out.push_str(&"<td>–</td>".repeat(10));
        out.push_str("</tr>\n");
        return;
    }
    let or_unknown = |value: Option<u64>| value.map_or("not known".to_owned(), count);
    let if_ok = if stretch.ok > 0 { latency(stretch.ok_p99) } else { "–".to_owned() };
    let [p50, p95, p99] = stretch_percentiles(stretch);
    let _ = writeln!(
        out,
        "<td>{}</td><td>{} <small>{}</small></td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{if_ok}</td></tr>",
        rate(stretch.ok_per_second),
        count(stretch.failed),
        percent(stretch.failed, stretch.due),
        or_unknown(stretch.injected),
        count(stretch.own),
        or_unknown(stretch.natural()),
        count(stretch.not_known()),
        p50,
        p95,
        p99
    );
}
