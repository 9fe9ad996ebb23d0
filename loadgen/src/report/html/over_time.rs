//! The charts: response over time, by percentile, the rate and the lag, with fault windows behind them.
//!
//! Seconds are drawn as seconds. Around fault windows there are tenths of a second: in a short run they stand in place of
//! the seconds, so that the cause stands before its effect; in a long one each window has a chart of its own.

use std::fmt::Write;

use super::super::format::{count, latency, seconds};
use super::chart::{Band, Chart, Line, Point, Scale};
use super::escape;
use crate::measure::{Second, Summary, TENTH_NS, TENTHS, TenthSummary};

/// In a run of more seconds a tenth is too narrow to be seen beside the rest.
const FINE_SECONDS_MAX: u32 = 120;
/// Windows of a long run that have charts of their own.
const ZOOMS_MAX: usize = 3;
/// How far before and after the longest stall of a long run its chart goes, in seconds.
const STALL_AROUND: f64 = 1.0;
/// Charts of which the tenths know the longest alone.
const OWN_CHARTS: [&str; 3] = ["lag", "own", "stall"];
/// How far before and after its window such a chart goes, in seconds.
const ZOOM_AROUND: f64 = 3.0;

pub(super) fn charts(out: &mut String, summary: &Summary) {
    let end = summary.seconds.last().map_or(0, |last| last.second + 1);
    let is_short = end <= FINE_SECONDS_MAX;
    let view = View { summary, from: 0.0, to: f64::from(end), is_fine: is_short };
    let mut all = vec![view.latency("latency"), by_percentile(summary), view.rate("rate")];
    let has_lag = summary.planned_per_second.is_some() || summary.lag.max > 0;
    all.extend(has_lag.then(|| view.lag()));
    let has_own = summary.seconds.iter().any(|second| second.own_max > 0 || second.own_stall_max > 0);
    all.extend(has_own.then(|| view.own("own")));
    if !is_short {
        for (index, window) in summary.faults.iter().take(ZOOMS_MAX).enumerate() {
            let (from, to) = (window.start_ns as f64 / 1e9, window.end_ns as f64 / 1e9);
            let view = View {
                summary,
                from: (from - ZOOM_AROUND).max(0.0),
                to: (to + ZOOM_AROUND).min(f64::from(end)),
                is_fine: true,
            };
            let id = ["window-1", "window-2", "window-3"][index];
            let mut chart = view.latency(id);
            chart.title = format!(
                "Response around {} on {}, {}",
                window.behavior,
                window.proxy,
                seconds(window.start_ns)
            );
            all.push(chart);
        }
    }
    let stalled = summary.tenths.iter().filter(|tenth| tenth.own_stall_max > 0);
    if let Some(worst) = stalled.max_by_key(|tenth| tenth.own_stall_max).filter(|_| !is_short) {
        let from = worst.tenth as f64 / TENTHS as f64;
        let to = from + worst.own_stall_max as f64 / 1e9;
        let view = View {
            summary,
            from: (from - STALL_AROUND).max(0.0),
            to: (to + STALL_AROUND).min(f64::from(end)),
            is_fine: true,
        };
        let mut chart = view.own("stall");
        chart.title = format!("The generator around its longest stall, {}", seconds(worst.tenth * TENTH_NS));
        all.push(chart);
    }
    for chart in all {
        let title = escape(&chart.title);
        let _ = writeln!(out, "<section><h2>{title}</h2>");
        out.push_str(&chart.legend());
        super::scrolling(out, &format!("Chart: {title}"), &chart.svg());
        if let Some(numbers) = chart.numbers() {
            let _ = writeln!(out, "<p class=\"caption\">{numbers}</p>");
        }
        if chart.x == Scale::Time && chart.is_fine {
            out.push_str("<p class=\"caption\">Around fault windows and stalls of the generator each step is a tenth of a second, elsewhere a second");
            out.push_str(if OWN_CHARTS.contains(&chart.id) {
                "; p99 is a second’s everywhere.</p>\n"
            } else {
                ".</p>\n"
            });
        } else if chart.x == Scale::Time && !summary.tenths.is_empty() {
            // Where other charts have tenths, an effect must not seem to stand before its cause.
            out.push_str("<p class=\"caption\">Each step is a second: what began within it is drawn from its start.</p>\n");
        }
        out.push_str("</section>\n");
    }
}

fn by_percentile(summary: &Summary) -> Chart {
    let curve = |index: usize| {
        summary.curves.get(index).map_or(Vec::new(), |(_, points)| {
            // The last step is at 100 %, infinitely far right; it is drawn where the last count is.
            let end = points.iter().map(|p| p.quantile).filter(|q| *q < 1.0).fold(0.0, f64::max);
            let at = |q: f64| -(1.0 - q.min(end)).log10();
            points.iter().map(|p| Some(Point::at(at(p.quantile), p.value_ns as f64))).collect()
        })
    };
    Chart {
        id: "percentile",
        title: "Latency by percentile".to_owned(),
        x: Scale::Percentile,
        x_from: 0.0,
        x_end: 0.0,
        y: Scale::LatencyLog,
        lines: vec![
            Line { name: "response", class: "a", points: curve(0) },
            Line { name: "service", class: "b", points: curve(1) },
            Line { name: "lag", class: "c", points: curve(2) },
        ],
        bands: Vec::new(),
        tips: Vec::new(),
        is_fine: false,
    }
}

/// A part of the time axis.
struct View<'a> {
    summary: &'a Summary,
    from: f64,
    to: f64,
    /// Tenths stand in place of seconds where there are any.
    is_fine: bool,
}

type OfSecond = fn(&Second) -> Option<f64>;
type OfTenth = fn(&TenthSummary) -> Option<f64>;

impl View<'_> {
    fn latency(&self, id: &'static str) -> Chart {
        let lines: [(_, _, OfSecond, OfTenth); 3] = [
            (
                "max",
                "c",
                |s| (s.samples > 0).then_some(s.max as f64),
                |t| (t.samples > 0).then_some(t.max as f64),
            ),
            (
                "p99",
                "a",
                |s| (s.samples > 0).then_some(s.p99 as f64),
                |t| (t.samples > 0).then_some(t.p99 as f64),
            ),
            (
                "p50",
                "b",
                |s| (s.samples > 0).then_some(s.p50 as f64),
                |t| (t.samples > 0).then_some(t.p50 as f64),
            ),
        ];
        let lines = lines.map(|(name, class, second, tenth)| self.line(name, class, second, Some(tenth)));
        self.chart(id, "Response over time, by when requests were due", Scale::LatencyLog, lines.into())
    }

    fn rate(&self, id: &'static str) -> Chart {
        const TENTHS_IN_SECOND: f64 = TENTHS as f64;
        let lines: [(_, _, OfSecond, OfTenth); 3] = [
            ("planned", "d", |s| Some(s.planned as f64), |t| Some(t.planned as f64 * TENTHS_IN_SECOND)),
            ("ok", "b", |s| Some(s.ok as f64), |t| Some(t.ok as f64 * TENTHS_IN_SECOND)),
            ("failed", "c", |s| Some(s.failed as f64), |t| Some(t.failed as f64 * TENTHS_IN_SECOND)),
        ];
        let lines = lines.map(|(name, class, second, tenth)| self.line(name, class, second, Some(tenth)));
        let title = "Requests a second: planned by due time, ok and failed by the time they ended";
        self.chart(id, title, Scale::Linear, lines.into())
    }

    fn lag(&self) -> Chart {
        let lines = [
            self.line(
                "max",
                "c",
                |s| (s.samples > 0).then_some(s.lag_max as f64),
                Some(|t| (t.samples > 0).then_some(t.lag_max as f64)),
            ),
            self.line("p99", "a", |s| (s.samples > 0).then_some(s.lag_p99 as f64), None),
        ];
        let title = "Lag over time: how late requests were sent";
        self.chart("lag", title, Scale::LatencyLog, lines.into())
    }

    fn own(&self, id: &'static str) -> Chart {
        let lines = [
            self.line(
                "stood still",
                "c",
                |s| (s.own_stall_max > 0).then_some(s.own_stall_max as f64),
                Some(|t| (t.own_stall_max > 0).then_some(t.own_stall_max as f64)),
            ),
            self.line(
                "max",
                "d",
                |s| (s.samples > 0).then_some(s.own_max as f64),
                Some(|t| (t.samples > 0).then_some(t.own_max as f64)),
            ),
            self.line("p99", "a", |s| (s.samples > 0).then_some(s.own_p99 as f64), None),
        ];
        let title = "The generator’s own part of the response, and how long it stood still";
        self.chart(id, title, Scale::LatencyLog, lines.into())
    }

    fn chart(&self, id: &'static str, title: &str, y: Scale, lines: Vec<Line>) -> Chart {
        Chart {
            id,
            title: title.to_owned(),
            x: Scale::Time,
            x_from: self.from,
            x_end: self.to,
            y,
            lines,
            bands: self.bands(),
            tips: self.tips(),
            is_fine: self.is_fine && !self.summary.tenths.is_empty(),
        }
    }

    /// Steps of a second or a tenth; what is missing breaks the line.
    fn line(&self, name: &'static str, class: &'static str, of: OfSecond, of_tenth: Option<OfTenth>) -> Line {
        let mut steps: Vec<Point> = Vec::new();
        let fine = of_tenth.filter(|_| self.is_fine);
        let is_fine = |second: u32| {
            let first = u64::from(second) * TENTHS as u64;
            let tenths = &self.summary.tenths;
            let at = tenths.partition_point(|tenth| tenth.tenth < first);
            tenths.get(at).is_some_and(|tenth| tenth.tenth < first + TENTHS as u64)
        };
        for second in &self.summary.seconds {
            let from = f64::from(second.second);
            if let Some(y) = of(second).filter(|_| fine.is_none() || !is_fine(second.second)) {
                steps.push(Point { from, to: from + 1.0, y });
            }
        }
        if let Some(of_tenth) = fine {
            let tenth = |tenth: &TenthSummary| {
                let from = tenth.tenth as f64 / TENTHS as f64;
                of_tenth(tenth).map(|y| Point { from, to: from + 0.1, y })
            };
            steps.extend(self.summary.tenths.iter().filter_map(tenth));
        }
        steps.retain(|step| step.to > self.from && step.from < self.to);
        steps.sort_by(|a, b| a.from.total_cmp(&b.from));
        let mut points: Vec<Option<Point>> = Vec::with_capacity(steps.len());
        for step in steps {
            let gap = points.last().copied().flatten().is_some_and(|last: Point| step.from - last.to > 0.05);
            points.extend(gap.then_some(None));
            points.push(Some(step));
        }
        Line { name, class, points }
    }

    fn bands(&self) -> Vec<Band> {
        let summary = self.summary;
        let mut bands = Vec::new();
        if summary.warm_up_ns > 0 {
            let end = summary.warm_up_ns as f64 / 1e9;
            bands.push(Band { from: 0.0, to: end, number: None, label: "warm-up".to_owned(), class: "warm" });
        }
        for (index, fault) in summary.faults.iter().enumerate() {
            bands.push(Band {
                number: Some(index + 1),
                from: fault.start_ns as f64 / 1e9,
                to: fault.end_ns as f64 / 1e9,
                label: format!("{} on {}", fault.behavior, fault.proxy),
                class: "fault",
            });
        }
        bands.retain(|band| band.to > self.from && band.from < self.to);
        for band in &mut bands {
            (band.from, band.to) = (band.from.max(self.from), band.to.min(self.to.max(band.from)));
        }
        bands
    }

    fn tips(&self) -> Vec<(f64, String)> {
        let tip = |s: &Second| {
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
        let is_shown = |s: &&Second| f64::from(s.second) >= self.from && f64::from(s.second) < self.to;
        self.summary.seconds.iter().filter(is_shown).map(tip).collect()
    }
}
