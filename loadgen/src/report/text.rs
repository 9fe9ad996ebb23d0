//! The summary on the terminal: what was missed first, then whether the measurement may be believed, then the three
//! series apart, within thirty lines.

use std::fmt::Write;

use super::fit::fit;
use super::format::{bytes, count, latency, percent, plan, plural, rate, seconds};
use crate::measure::thresholds::{RUN_DELAY_MEAN_SUSPECT_NS, STALL_FROM_NS, TOUCHED_FROM_NS};
use crate::measure::{Around, FaultWindow, Grade, PERCENTILES, Series, Stretch, Summary, TENTH_NS};

/// Lists longer than this are cut, and say so.
const ROWS_MAX: usize = 3;
/// Of more fault windows than this, only the first is shown before, during and after.
const AROUND_MAX: usize = 2;
/// The share of failed requests, one in so many, from which good replies are shown by themselves.
const GOOD_APART_FROM: u64 = 100;

/// From so many columns on the percentiles have their notes beside them.
const NOTES_FROM: usize = 140;
/// From so many columns on each series is a row; in a narrower terminal it is a column.
const ROWS_FROM: usize = 90;

/// Writes the summary, as wide as it is; `colour` adds ANSI colours to the verdict and the objectives.
pub fn text(summary: &Summary, colour: bool) -> Vec<u8> {
    text_within(summary, colour, usize::MAX)
}

/// Writes the summary for a terminal of so many columns, 20 or more.
pub fn text_within(summary: &Summary, colour: bool, columns: usize) -> Vec<u8> {
    fit(&written(summary, colour, columns), columns).into_bytes()
}

fn written(summary: &Summary, colour: bool, columns: usize) -> String {
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
    let title = format!("{}{target}", summary.name);
    match summary.slo_missed() {
        // Nothing is known of the objectives then.
        _ if summary.verdict == Grade::Invalid => {
            let _ = writeln!(out, "{}  {title}", paint(word, code));
        }
        Some(missed) => {
            let more = summary.slo.iter().filter(|slo| !slo.passed).count() - 1;
            let more = if more > 0 { format!(", and {more} more") } else { String::new() };
            let word_missed = paint("SLO MISSED", "1;31");
            let _ = writeln!(out, "{word_missed}  {} (is {}){more}", missed.slo, missed.actual);
            let _ = writeln!(out, "measurement {}  {title}", paint(word, code));
        }
        None if summary.slo.is_empty() => {
            let _ = writeln!(out, "{}  {title}", paint(word, code));
        }
        None => {
            let _ =
                writeln!(out, "{}, measurement {}  {title}", paint("SLO KEPT", "1;32"), paint(word, code));
        }
    }
    cut(&mut out, &summary.reasons, |reason| format!("  because {reason}"));
    let _ = writeln!(out, "  {}\n", plan(&summary.plan));

    let lag_note = match summary.planned_per_second {
        Some(_) => "sent − due",
        None => "sent − due; a closed model has no schedule",
    };
    let failed = summary.counts.error + summary.counts.timeout;
    let mut all = vec![("response", &summary.response, "reply − due: what a user waits")];
    if let Some(good) = summary.response_of("ok").filter(|_| failed * GOOD_APART_FROM > summary.counts.sent) {
        all.push(("  if ok", good, "of good replies alone"));
    }
    all.push(("service", &summary.service, "reply − sent"));
    all.push(("lag", &summary.lag, lag_note));
    all.push(("own part", &summary.own_lag, "of response: the generator's, not the target's"));
    if columns >= ROWS_FROM {
        rows_of_series(&mut out, &all, columns >= NOTES_FROM);
    } else {
        columns_of_series(&mut out, &all, columns);
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
        "network   {} out, {} in · {} (p99 {}), {} used, {} reconnects, {} failed",
        bytes(summary.sent_bytes),
        bytes(summary.received_bytes),
        plural(summary.connections_opened, "connect"),
        latency(summary.connect.p99),
        count(summary.connections_used),
        count(summary.reconnects),
        count(summary.connect_failures)
    );
    if let Some(own) = own(summary) {
        let _ = writeln!(out, "own       {own}");
    }
    cut(&mut out, &summary.errors, |error| {
        format!(
            "error     {:>10}  {} ({})",
            count(error.count),
            error.description,
            percent(error.count, c.sent)
        )
    });
    if let Some(causes) = causes(summary) {
        let _ = writeln!(out, "          {causes}");
    }
    if summary.causes.not_kept > 0 {
        let not_kept = count(summary.causes.not_kept);
        let _ = writeln!(out, "          {not_kept} injected faults were too many to keep");
    }
    faults(&mut out, &summary.faults);
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
        let word = if slo.passed { paint("kept  ", "32") } else { paint("MISSED", "1;31") };
        format!("slo       {word} {} (is {})", slo.slo, slo.actual)
    });
    out
}

/// What the generator did wrong or waited for; `None` when that is nothing to speak of.
pub(super) fn own(summary: &Summary) -> Option<String> {
    let own = &summary.own;
    let mut parts = Vec::new();
    if own.stall_max_ns >= STALL_FROM_NS {
        let when = own.stall_max_second.map_or(String::new(), |second| format!(" in second {second}"));
        let all = if own.stall_ns > own.stall_max_ns {
            format!(", {} in all, summed over the workers", seconds(own.stall_ns / 1_000_000 * 1_000_000))
        } else {
            String::new()
        };
        parts.push(format!("it stood still for {}{when}{all}", latency(own.stall_max_ns)));
    }
    if own.requests_touched > 0 {
        let share = percent(own.requests_touched, summary.counts.planned);
        let over = latency(TOUCHED_FROM_NS);
        parts
            .push(format!("{} ({share}) bear {over} or more of it", plural(own.requests_touched, "request")));
    }
    if own.timeouts > 0 {
        let all = count(summary.counts.timeout);
        parts.push(format!(
            "{} of {all} timeouts are its own: it was late for half of their time or more",
            count(own.timeouts)
        ));
    }
    if own.connects_paced > 0 {
        parts.push(format!("{} waited for the connect rate", plural(own.connects_paced, "request")));
    }
    if own.users_paused_ns > 0 {
        let share = own.users_paused_ratio * 100.0;
        parts.push(format!(
            "users paused {share:.1} % of their time after connections that failed before a reply"
        ));
    }
    if own.run_delay_mean_ns >= RUN_DELAY_MEAN_SUSPECT_NS {
        parts.push(format!("it waited {} for a core each time", latency(own.run_delay_mean_ns)));
    }
    (!parts.is_empty()).then(|| parts.join("; "))
}

/// Who made the failures; `None` when there were none.
fn causes(summary: &Summary) -> Option<String> {
    let failed = summary.counts.error + summary.counts.timeout;
    let causes = &summary.causes;
    match (causes.injected, causes.natural, &causes.unknown_because) {
        _ if failed == 0 => None,
        (Some(injected), Some(natural), why) => {
            let unknown = match why {
                Some(why) if causes.unknown > 0 => format!(", {} not known: {why}", count(causes.unknown)),
                _ => String::new(),
            };
            let own = match causes.own {
                0 => String::new(),
                own => format!(", {} the generator's own", count(own)),
            };
            Some(format!(
                "of {} failed: {} injected{own}, {} natural{unknown}",
                count(failed),
                count(injected),
                count(natural)
            ))
        }
        (_, _, Some(why)) if causes.own > 0 => Some(format!(
            "of {} failed: {} the generator's own; injected or natural of the others: not known, {why}",
            count(failed),
            count(causes.own)
        )),
        (_, _, Some(why)) => Some(format!("injected or natural: not known, {why}")),
        _ => None,
    }
}

/// A line for each fault window, and of the first ones what the load saw before, during and after.
fn faults(out: &mut String, faults: &[FaultWindow]) {
    let shown = if faults.len() > AROUND_MAX { 1 } else { AROUND_MAX };
    for (index, fault) in faults.iter().take(ROWS_MAX).enumerate() {
        let injected = fault.injected.map_or(String::new(), |n| format!(", {} injected", count(n)));
        let (from, to) = (seconds(fault.start_ns), seconds(fault.end_ns));
        let back = fault.around.as_ref().map_or(String::new(), recovery);
        let _ =
            writeln!(out, "fault     {from} – {to}  {} on {}{injected}{back}", fault.behavior, fault.proxy);
        if let Some(around) = fault.around.as_ref().filter(|_| index < shown) {
            for (name, stretch) in
                [("before", &around.before), ("during", &around.during), ("after", &around.after)]
            {
                let note = (name == "before").then(|| left_out(fault, stretch));
                stretch_row(out, name, stretch, note);
            }
        }
    }
    if faults.len() > ROWS_MAX {
        let _ = writeln!(out, "          … and {} more in run.json", faults.len() - ROWS_MAX);
    }
}

fn recovery(around: &Around) -> String {
    match around.recovery(seconds) {
        Some(said) if said.starts_with("not known") => format!("; p99 back: {said}"),
        Some(said) => format!("; p99 {said}"),
        None => String::new(),
    }
}

/// What stands between the end of a calm before and its fault, and is in neither.
fn left_out(fault: &FaultWindow, before: &Stretch) -> String {
    let until = seconds(before.end_ns);
    // Windows begin and end with a tenth of a second, and one is left out.
    match fault.start_ns.saturating_sub(before.end_ns) < 2 * TENTH_NS {
        true => format!("until {until}: what the fault met in flight is in neither"),
        false => format!("{} – {until}: the last calm before it", seconds(before.start_ns)),
    }
}

fn stretch_row(out: &mut String, name: &str, stretch: &Stretch, note: Option<String>) {
    if stretch.due == 0 {
        let why = match (stretch.end_ns > stretch.start_ns, name) {
            (true, _) => "nothing was due",
            (false, "before") => "no calm: the run or another fault had just begun",
            (false, _) => "no calm: the run ended or another fault began",
        };
        let _ = writeln!(out, "  {name:<7} {why}");
        return;
    }
    let own = match stretch.own {
        0 => String::new(),
        own => format!("{} the generator's own", count(own)),
    };
    let causes = match (stretch.injected, stretch.natural()) {
        (Some(injected), Some(natural)) if stretch.failed > 0 => {
            let unknown = match stretch.unknown {
                0 => String::new(),
                unknown => format!(", {} not known", count(unknown)),
            };
            let own = if own.is_empty() { own } else { format!(", {own}") };
            format!(" ({} injected{own}, {} natural{unknown})", count(injected), count(natural))
        }
        _ if !own.is_empty() => format!(" ({own})"),
        _ => String::new(),
    };
    let note = note.map_or(String::new(), |note| format!("; {note}"));
    let failed = format!("{} failed{causes}{note}", count(stretch.failed));
    let ok = rate(stretch.ok_per_second);
    let [p50, p95, p99] = stretch_percentiles(stretch);
    let _ = writeln!(out, "  {name:<7} {ok:>9} ok  p50 {p50:>9}  p95 {p95:>9}  p99 {p99:>9}  {failed}");
}

/// p50, p95 and p99 of all; those that are lower bounds are marked.
pub(super) fn stretch_percentiles(stretch: &Stretch) -> [String; 3] {
    // The lower bounds are among the longest: timeouts, and what was unanswered at the end.
    let is_bound = |percent: u64| {
        let above = u128::from(stretch.due) * u128::from(100 - percent) / 100;
        u128::from(stretch.lower_bounds) > above
    };
    [(50, stretch.p50), (95, stretch.p95), (99, stretch.p99)]
        .map(|(percent, value)| format!("{}{}", if is_bound(percent) { "≥ " } else { "" }, latency(value)))
}

type Named<'a> = (&'a str, &'a Series, &'a str);

/// The percentiles of a series, its maximum and its mean.
fn cells(series: &Series) -> Vec<String> {
    if series.count == 0 {
        return vec!["–".to_owned(); PERCENTILES.len() + 2];
    }
    let of = |((percentile, _), value): (&(&str, _), u64)| {
        let mark = if series.under_sampled.iter().any(|thin| thin == percentile) { "*" } else { "" };
        format!("{}{mark}", latency(value))
    };
    let percentiles = PERCENTILES.iter().zip(series.percentiles()).map(of);
    percentiles.chain([latency(series.max), latency(series.mean)]).collect()
}

fn heads() -> impl Iterator<Item = &'static str> {
    PERCENTILES.iter().map(|(name, _)| *name).chain(["max", "mean"])
}

fn rows_of_series(out: &mut String, all: &[Named<'_>], has_notes: bool) {
    let _ = write!(out, "{:<9}", "");
    heads().for_each(|name| _ = write!(out, "{name:>9}"));
    out.push('\n');
    for (name, series, note) in all {
        let _ = write!(out, "{name:<9}");
        cells(series).iter().for_each(|cell| _ = write!(out, "{cell:>9}"));
        let _ = if has_notes { writeln!(out, "   {note}") } else { writeln!(out) };
    }
}

/// As many series beside each other as there is room for.
fn columns_of_series(out: &mut String, all: &[Named<'_>], columns: usize) {
    const HEAD: usize = 6;
    const CELL: usize = 9;
    for block in all.chunks((columns.saturating_sub(HEAD) / CELL).max(1)) {
        let _ = write!(out, "{:<HEAD$}", "");
        block.iter().for_each(|(name, ..)| _ = write!(out, "{:>CELL$}", name.trim()));
        out.push('\n');
        let all_cells: Vec<_> = block.iter().map(|(_, series, _)| cells(series)).collect();
        for (row, head) in heads().enumerate() {
            let _ = write!(out, "{head:<HEAD$}");
            all_cells.iter().for_each(|cells| _ = write!(out, "{:>CELL$}", cells[row]));
            out.push('\n');
        }
    }
}

fn notes(out: &mut String, summary: &Summary) {
    if summary.response.lower_bounds > 0 {
        let _ = writeln!(
            out,
            "          response holds {} lower bounds: timeouts, and what was unanswered or unsent at the end",
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stands_between_a_calm_and_its_fault_is_told() {
        const MS: u64 = 1_000_000;
        for (start_ms, calm_ms, told) in [
            (8_000, 7_900, "until 7.9 s: what the fault met in flight is in neither"),
            (8_099, 7_900, "until 7.9 s: what the fault met in flight is in neither"),
            (8_100, 7_900, "3 s – 7.9 s: the last calm before it"),
        ] {
            let fault = FaultWindow { start_ns: start_ms * MS, ..FaultWindow::default() };
            let (start_ns, end_ns) = (3_000 * MS, calm_ms * MS);
            let before = Stretch { start_ns, end_ns, due: 1, ..Stretch::default() };
            assert_eq!(left_out(&fault, &before), told, "{start_ms}");
            let around = Around { before, ..Around::default() };
            let mut out = String::new();
            faults(&mut out, &[FaultWindow { around: Some(around), ..fault }]);
            assert_eq!(out.matches(told).count(), 1, "{out}");
        }
    }

    #[test]
    fn a_percentile_that_is_a_lower_bound_is_marked() {
        let stretch = |lower_bounds| Stretch {
            due: 100,
            lower_bounds,
            p50: 5_000_000,
            p95: 998_000_000,
            p99: 998_000_000,
            ..Stretch::default()
        };
        assert_eq!(stretch_percentiles(&stretch(0)), ["5.00 ms", "998 ms", "998 ms"]);
        assert_eq!(stretch_percentiles(&stretch(1)), ["5.00 ms", "998 ms", "998 ms"]);
        assert_eq!(stretch_percentiles(&stretch(2)), ["5.00 ms", "998 ms", "≥ 998 ms"]);
        assert_eq!(stretch_percentiles(&stretch(100)), ["≥ 5.00 ms", "≥ 998 ms", "≥ 998 ms"]);
    }
}
