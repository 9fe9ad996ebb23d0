//! Two runs side by side. States ratios, no significance: that takes more than two runs.

use std::fmt::Write;

use super::format::{latency, percent, rate};
use crate::measure::{Grade, Summary};
use crate::scenario::SeriesName;

/// Writes a table of what changed from `before` to `after`.
pub fn diff(before: &Summary, after: &Summary) -> Vec<u8> {
    let mut out = format!("{:<18}{:>14}{:>14}{:>9}\n", "", "A", "B", "B ÷ A");
    let mut row = |name: &str, a: String, b: String, ratio: Option<f64>| {
        let ratio = ratio.filter(|r| r.is_finite()).map_or("–".to_owned(), |r| format!("{r:.2}×"));
        let _ = writeln!(out, "{name:<18}{a:>14}{b:>14}{ratio:>9}");
    };
    row("verdict", before.verdict.name().into(), after.verdict.name().into(), None);
    for name in SeriesName::ALL {
        let (a, b) = (before.series(name), after.series(name));
        for (figure, a, b) in
            [("p50", a.p50, b.p50), ("p95", a.p95, b.p95), ("p99", a.p99, b.p99), ("max", a.max, b.max)]
        {
            row(&format!("{} {figure}", name.name()), latency(a), latency(b), Some(b as f64 / a as f64));
        }
    }
    let ratio = after.ok_per_second / before.ok_per_second;
    row("ok rate", rate(before.ok_per_second), rate(after.ok_per_second), Some(ratio));
    let failed = |s: &Summary| s.counts.error + s.counts.timeout + s.counts.censored + s.counts.dropped;
    let share = |s: &Summary| percent(failed(s), s.counts.planned);
    let ratio = failed(after) as f64 * before.counts.planned as f64
        / (failed(before) as f64 * after.counts.planned as f64);
    row("not ok", share(before), share(after), Some(ratio));
    if before.verdict == Grade::Invalid || after.verdict == Grade::Invalid {
        out.push_str("\nan invalid run says nothing: repeat it before comparing\n");
    }
    if before.plan.phases != after.plan.phases || before.plan.connections != after.plan.connections {
        out.push_str("\nthe two runs did not have the same load\n");
    }
    out.into_bytes()
}
