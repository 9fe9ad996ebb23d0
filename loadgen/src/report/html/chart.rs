//! A line chart as inline SVG: axes with round numbers, shaded windows, names beside their lines.

use std::fmt::Write;

use super::super::format::{count, latency, rate};
use super::escape;

const WIDTH: f64 = 1060.0;
const HEIGHT: f64 = 270.0;
/// Room for `1,000,000/s` in the larger letters of a narrow window.
const LEFT: f64 = 96.0;
const RIGHT: f64 = 84.0;
const TOP: f64 = 24.0;
const BOTTOM: f64 = 30.0;
/// The width of a letter above a window, at most.
const LETTER: f64 = 7.5;
/// Lists of numbered windows are cut here.
const NUMBERS_MAX: usize = 12;
/// Names closer than this would touch.
const NAME_GAP: f64 = 15.0;
/// Values below this share of the largest sit on the floor of a log axis.
const LOG_DECADES_MAX: f64 = 6.0;
/// Marks on a time axis, about.
const TICKS_WANTED: f64 = 9.0;

pub(super) struct Chart {
    pub id: &'static str,
    pub title: String,
    pub x: Scale,
    /// Where a time axis begins.
    pub x_from: f64,
    /// Where the x axis ends at the earliest: charts over time share it, so that their windows line up.
    pub x_end: f64,
    pub y: Scale,
    pub lines: Vec<Line>,
    pub bands: Vec<Band>,
    /// (second, text) for the browser's tooltip.
    pub tips: Vec<(f64, String)>,
    /// Some of its steps are tenths of a second.
    pub is_fine: bool,
}

/// A value: over a stretch of the time axis, or at a place of another.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Point {
    pub from: f64,
    pub to: f64,
    pub y: f64,
}

impl Point {
    pub(super) fn at(x: f64, y: f64) -> Point {
        Point { from: x, to: x, y }
    }
}

pub(super) struct Line {
    pub name: &'static str,
    pub class: &'static str,
    /// `None` breaks the line.
    pub points: Vec<Option<Point>>,
}

#[derive(Clone)]
pub(super) struct Band {
    /// Which of the fault windows it is, from 1; `None` of a warm-up.
    pub number: Option<usize>,
    pub from: f64,
    pub to: f64,
    pub label: String,
    pub class: &'static str,
}

#[derive(Clone, Copy, PartialEq)]
pub(super) enum Scale {
    /// Seconds of the run.
    Time,
    /// −log₁₀(1 − quantile).
    Percentile,
    /// Nanoseconds, logarithmic.
    LatencyLog,
    /// A rate, from zero.
    Linear,
}

struct Axis {
    scale: Scale,
    low: f64,
    high: f64,
    ticks: Vec<(f64, String)>,
}

impl Chart {
    pub(super) fn svg(&self) -> String {
        let points = || self.lines.iter().flat_map(|line| line.points.iter().flatten());
        if points().next().is_none() {
            return "<p class=\"caption\">Nothing was measured.</p>\n".to_owned();
        }
        let x_axis = self.x_axis();
        let y_axis = match self.y {
            Scale::LatencyLog => latency_axis(points().map(|p| p.y)),
            _ => linear_axis(points().map(|p| p.y).fold(0.0, f64::max)),
        };
        let x = |value: f64| LEFT + (WIDTH - LEFT - RIGHT) * x_axis.place(value);
        let y = |value: f64| HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * y_axis.place(value);
        let mut out = format!(
            "<svg id=\"chart-{}\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{}\">\n",
            self.id,
            escape(&self.title)
        );
        self.draw_bands(&mut out, x);
        for (value, label) in &y_axis.ticks {
            let at = y(*value);
            let _ = writeln!(
                out,
                "<path class=\"grid\" d=\"M{LEFT} {at:.1}H{:.1}\"/><text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{label}</text>",
                WIDTH - RIGHT,
                LEFT - 8.0,
                at + 4.0
            );
        }
        for (value, label) in &x_axis.ticks {
            let at = x(*value);
            let floor = HEIGHT - BOTTOM;
            let _ = writeln!(
                out,
                "<path class=\"axis\" d=\"M{at:.1} {floor}v5\"/><text x=\"{at:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{label}</text>",
                HEIGHT - 9.0
            );
        }
        let _ = writeln!(out, "<path class=\"axis\" d=\"M{LEFT} {}H{}\"/>", HEIGHT - BOTTOM, WIDTH - RIGHT);
        for line in &self.lines {
            match self.x {
                Scale::Time => draw_steps(&mut out, line, x, y),
                _ => draw_line(&mut out, line, x, y),
            }
        }
        self.draw_names(&mut out, x, y);
        for (second, text) in &self.tips {
            let _ = writeln!(
                out,
                "<rect class=\"tip\" x=\"{:.1}\" y=\"{TOP}\" width=\"{:.2}\" height=\"{}\"><title>{}</title></rect>",
                x(*second),
                x(second + 1.0) - x(*second),
                HEIGHT - TOP - BOTTOM,
                escape(text)
            );
        }
        out.push_str("</svg>\n");
        out
    }

    fn draw_bands(&self, out: &mut String, x: impl Fn(f64) -> f64) {
        let places = self.label_places(&x);
        let mut number_end = f64::MIN;
        for (index, band) in self.bands.iter().enumerate() {
            let (from, to) = (x(band.from), x(band.to));
            let floor = HEIGHT - BOTTOM;
            let class = band.class;
            let _ = writeln!(
                out,
                "<rect class=\"band {class}\" x=\"{from:.1}\" y=\"{TOP}\" width=\"{:.1}\" height=\"{}\"/><path class=\"edge {class}\" d=\"M{from:.1} {TOP}V{floor}M{to:.1} {TOP}V{floor}\"/>",
                (to - from).max(1.0),
                floor - TOP
            );
            let (start, row, label) = match &places {
                Some(places) => (places[index].0, places[index].1, escape(&band.label)),
                None => {
                    let is_number = band.number.is_some();
                    let text = band.number.map_or_else(|| band.label.clone(), |number| number.to_string());
                    let end = from + (text.chars().count() + 1) as f64 * LETTER;
                    // A number is looked for, a name is not.
                    let is_in_the_way = self.bands.get(index + 1).is_some_and(|next| x(next.from) < end);
                    if from < number_end || !is_number && is_in_the_way {
                        continue;
                    }
                    number_end = end;
                    (from, 0, escape(&text))
                }
            };
            let at = if row == 0 { TOP - 6.0 } else { TOP + 12.0 };
            let _ = writeln!(out, "<text class=\"bandname\" x=\"{start:.1}\" y=\"{at}\">{label}</text>");
        }
    }

    /// Where the label of each window begins, and in which of two rows above the plot; `None` when they do not fit.
    fn label_places(&self, x: impl Fn(f64) -> f64) -> Option<Vec<(f64, usize)>> {
        let mut label_end = [f64::MIN; 2];
        let place = |band: &Band| {
            let width = band.label.chars().count() as f64 * LETTER;
            let start = x(band.from).min(WIDTH - width);
            let row = label_end.iter().position(|end| *end <= start)?;
            label_end[row] = start + width + 8.0;
            Some((start, row))
        };
        self.bands.iter().map(place).collect()
    }

    /// What the numbers above the windows stand for, where their labels do not fit.
    pub(super) fn numbers(&self) -> Option<String> {
        let axis = self.x_axis();
        if self.label_places(|value| LEFT + (WIDTH - LEFT - RIGHT) * axis.place(value)).is_some() {
            return None;
        }
        // One after the other as they come, each with the numbers of all that are alike.
        let mut alike: Vec<(&str, Vec<usize>)> = Vec::new();
        for band in &self.bands {
            let Some(number) = band.number else { continue };
            match alike.iter_mut().find(|(label, _)| *label == band.label) {
                Some((_, numbers)) => numbers.push(number),
                None => alike.push((&band.label, vec![number])),
            }
        }
        let more = alike.len().saturating_sub(NUMBERS_MAX);
        let named = alike.iter().take(NUMBERS_MAX);
        let mut parts: Vec<String> =
            named.map(|(label, numbers)| format!("{} ({})", escape(label), ranges(numbers))).collect();
        if more > 0 {
            parts.push(format!("and {more} more"));
        }
        Some(format!("Shaded: {}; numbers as in the table of fault windows.", parts.join("; ")))
    }

    /// The names of the lines for a window too narrow to show them at their ends.
    pub(super) fn legend(&self) -> String {
        let shown = self.lines.iter().filter(|line| line.points.iter().any(Option::is_some));
        let keys = shown.map(|line| format!("<span class=\"key {}\">{}</span>", line.class, line.name));
        format!("<p class=\"legend\" aria-hidden=\"true\">{}</p>\n", keys.collect::<String>())
    }

    fn x_axis(&self) -> Axis {
        let x_end = self.lines.iter().flat_map(|line| line.points.iter().flatten()).map(|p| p.to);
        match self.x {
            Scale::Percentile => percentile_axis(x_end.fold(0.0, f64::max)),
            _ => time_axis(self.x_from, self.bands.iter().map(|band| band.to).fold(self.x_end, f64::max)),
        }
    }

    fn draw_names(&self, out: &mut String, x: impl Fn(f64) -> f64, y: impl Fn(f64) -> f64) {
        let mut names: Vec<(f64, f64, &Line)> = self
            .lines
            .iter()
            .filter_map(|line| line.points.iter().rev().flatten().next().map(|p| (y(p.y), x(p.to), line)))
            .collect();
        names.sort_by(|a, b| a.0.total_cmp(&b.0));
        let mut lowest = f64::MIN;
        for (name_y, _, _) in &mut names {
            *name_y = name_y.max(lowest + NAME_GAP);
            lowest = *name_y;
        }
        // What was pushed below the floor goes back up, and takes the ones above along.
        let mut highest = HEIGHT - BOTTOM + NAME_GAP;
        for (name_y, _, _) in names.iter_mut().rev() {
            *name_y = name_y.min(highest - NAME_GAP);
            highest = *name_y;
        }
        for (at, _, line) in names {
            let _ = writeln!(
                out,
                "<text class=\"name {}\" x=\"{:.1}\" y=\"{:.1}\">{}</text>",
                line.class,
                WIDTH - RIGHT + 10.0,
                at + 4.0,
                line.name
            );
        }
    }
}

/// A second is a stretch, not a point: a flat step across it, so that windows and steps share their edges.
fn draw_steps(out: &mut String, line: &Line, x: impl Fn(f64) -> f64, y: impl Fn(f64) -> f64) {
    let mut path = String::new();
    let mut joined = false;
    for point in &line.points {
        if let Some(point) = point {
            let (from, to, at) = (x(point.from), x(point.to), y(point.y));
            let _ = match joined {
                true => write!(path, "V{at:.1}H{to:.1}"),
                false => write!(path, "M{from:.1} {at:.1}H{to:.1}"),
            };
        }
        joined = point.is_some();
    }
    let _ = writeln!(out, "<path class=\"line {}\" d=\"{path}\"/>", line.class);
}

fn draw_line(out: &mut String, line: &Line, x: impl Fn(f64) -> f64, y: impl Fn(f64) -> f64) {
    let mut path = String::new();
    let mut joined = false;
    for point in &line.points {
        if let Some(point) = point {
            let letter = if joined { 'L' } else { 'M' };
            let _ = write!(path, "{letter}{:.1} {:.1}", x(point.from), y(point.y));
        }
        joined = point.is_some();
    }
    if let [Some(point)] = line.points[..] {
        // A single value is every percentile.
        path = format!("M{:.1} {:.1}H{:.1}", x(point.from), y(point.y), WIDTH - RIGHT);
    }
    let _ = writeln!(out, "<path class=\"line {}\" d=\"{path}\"/>", line.class);
}

impl Axis {
    /// From 0 to 1.
    fn place(&self, value: f64) -> f64 {
        let value = if self.scale == Scale::LatencyLog { value.max(1.0).log10() } else { value };
        ((value - self.low) / (self.high - self.low)).clamp(0.0, 1.0)
    }
}

fn percentile_axis(end: f64) -> Axis {
    let nines = end.ceil().clamp(1.0, 9.0);
    let mut ticks = vec![(0.0, "0 %".to_owned()), (0.5_f64.log10().abs(), "50 %".to_owned())];
    for n in 1..=nines as usize {
        let label = match n {
            1 => "90 %".to_owned(),
            2 => "99 %".to_owned(),
            n => format!("99.{} %", "9".repeat(n - 2)),
        };
        ticks.push((n as f64, label));
    }
    Axis { scale: Scale::Percentile, low: 0.0, high: nines, ticks }
}

fn time_axis(from: f64, end: f64) -> Axis {
    let length = end - from;
    let steps = [1.0, 2.0, 5.0, 10.0, 15.0, 30.0, 60.0, 120.0, 300.0, 600.0, 900.0, 1800.0];
    let fits = |step: &f64| length / step <= TICKS_WANTED + 1.0;
    let step = steps.into_iter().find(fits).unwrap_or((length / TICKS_WANTED / 3600.0).ceil() * 3600.0);
    let label = |t: f64| match t as u64 {
        t if step < 60.0 => format!("{} s", count(t)),
        t if step < 3600.0 => format!("{} min", t / 60),
        t => format!("{} h", t / 3600),
    };
    let first = (from / step).ceil();
    let at = |i: i32| (first + f64::from(i)) * step;
    let ticks = (0..).map(at).take_while(|t| *t <= end).map(|t| (t, label(t))).collect();
    Axis { scale: Scale::Time, low: from, high: end.max(from + 1.0), ticks }
}

fn latency_axis(values: impl Iterator<Item = f64>) -> Axis {
    let logs: Vec<f64> = values.map(|value| value.max(1.0).log10()).collect();
    let high = logs.iter().copied().fold(1.0, f64::max);
    let low = logs.iter().copied().fold(high, f64::min).max(high - LOG_DECADES_MAX);
    // Whole decades, with some air below and above: a line on the frame cannot be read.
    let low = (low - 0.1).floor().max(0.0);
    let high = (high + 0.05).ceil().max(low + 1.0);
    let thin = high - low > 3.0;
    let mut ticks = Vec::new();
    for decade in low as i32..=high as i32 {
        for factor in [1.0, 2.0, 5.0] {
            let value = factor * 10_f64.powi(decade);
            if value.log10() <= high + 1e-9 && (factor == 1.0 || !thin) {
                ticks.push((value, short_latency(value)));
            }
        }
    }
    Axis { scale: Scale::LatencyLog, low, high, ticks }
}

/// `100 ms` rather than `100.0 ms` on an axis.
fn short_latency(ns: f64) -> String {
    let text = latency(ns.round() as u64);
    match text.split_once(' ') {
        Some((number, unit)) if number.contains('.') => {
            format!("{} {unit}", number.trim_end_matches('0').trim_end_matches('.'))
        }
        _ => text,
    }
}

fn linear_axis(max: f64) -> Axis {
    let max = max.max(1.0);
    let rough = max / 4.0;
    let magnitude = 10_f64.powf(rough.log10().floor());
    let step =
        [1.0, 2.0, 2.5, 5.0, 10.0].into_iter().map(|m| m * magnitude).find(|s| *s >= rough).unwrap_or(rough);
    let step = step.max(1.0);
    let high = (max / step).ceil() * step;
    let ticks = (0..)
        .map(|i| f64::from(i) * step)
        .take_while(|value| *value <= high + step / 2.0)
        .map(|value| (value, if value == 0.0 { "0".to_owned() } else { rate_label(value) }))
        .collect();
    Axis { scale: Scale::Linear, low: 0.0, high, ticks }
}

fn rate_label(value: f64) -> String {
    if value < 100.0 { format!("{value:.0}/s") } else { rate(value) }
}

/// `1–3, 5, 7–8` of rising numbers.
fn ranges(numbers: &[usize]) -> String {
    let runs = numbers.chunk_by(|a, b| a + 1 == *b).map(|run| match run {
        [only] => only.to_string(),
        [first, .., last] => format!("{first}–{last}"),
        [] => String::new(),
    });
    runs.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(axis: &Axis) -> Vec<&str> {
        axis.ticks.iter().map(|(_, label)| label.as_str()).collect()
    }

    #[test]
    fn axes_have_round_numbers() {
        assert_eq!(
            labels(&time_axis(0.0, 10.0)),
            ["0 s", "1 s", "2 s", "3 s", "4 s", "5 s", "6 s", "7 s", "8 s", "9 s", "10 s"]
        );
        assert_eq!(
            labels(&time_axis(0.0, 3600.0)),
            ["0 min", "10 min", "20 min", "30 min", "40 min", "50 min", "60 min"]
        );
        assert_eq!(labels(&time_axis(7.5, 11.2)), ["8 s", "9 s", "10 s", "11 s"]);
        assert_eq!(time_axis(7.5, 11.5).place(9.5), 0.5);
        assert_eq!(labels(&linear_axis(2000.0)), ["0", "500/s", "1,000/s", "1,500/s", "2,000/s"]);
        assert_eq!(labels(&linear_axis(0.0)), ["0", "1/s"]);
        assert_eq!(
            labels(&latency_axis([100_000.0, 1.3e9].into_iter())),
            ["10 µs", "100 µs", "1 ms", "10 ms", "100 ms", "1 s", "10 s"]
        );
        assert_eq!(labels(&percentile_axis(3.7)), ["0 %", "50 %", "90 %", "99 %", "99.9 %", "99.99 %"]);
    }

    #[test]
    fn charts_over_time_end_together_and_a_single_value_is_a_level_line() {
        let chart = |x, x_end, points| Chart {
            id: "c",
            title: String::new(),
            x,
            x_from: 0.0,
            x_end,
            y: Scale::LatencyLog,
            lines: vec![Line { name: "p50", class: "a", points }],
            bands: Vec::new(),
            tips: Vec::new(),
            is_fine: false,
        };
        let early = chart(Scale::Time, 8.0, vec![Some(Point { from: 0.0, to: 1.0, y: 1e6 })]).svg();
        assert!(early.contains(">8 s</text>") && !early.contains(">9 s</text>"), "{early}");
        let one = chart(Scale::Percentile, 0.0, vec![Some(Point::at(0.0, 1e6))]).svg();
        assert!(one.contains(&format!("H{:.1}\"/>", WIDTH - RIGHT)), "{one}");
    }

    #[test]
    fn a_gap_breaks_the_steps_and_a_lone_second_still_shows() {
        let step = |from: f64, y| Some(Point { from, to: from + 1.0, y });
        let points = vec![step(0.0, 1.0), None, step(2.0, 1.0), step(3.0, 4.0)];
        let line = Line { name: "p50", class: "a", points };
        let mut out = String::new();
        draw_steps(&mut out, &line, |x| x, |y| y);
        assert!(out.contains("d=\"M0.0 1.0H1.0M2.0 1.0H3.0V4.0H4.0\""), "{out}");
    }

    #[test]
    fn labels_of_many_windows_are_numbers_and_stand_beneath() {
        let chart = |windows: usize| Chart {
            id: "c",
            title: String::new(),
            x: Scale::Time,
            x_from: 0.0,
            x_end: 10.0,
            y: Scale::Linear,
            lines: vec![Line {
                name: "p50",
                class: "a",
                points: vec![Some(Point { from: 0.0, to: 1.0, y: 1e4 })],
            }],
            bands: (0..windows)
                .map(|at| Band {
                    from: at as f64 * 0.6,
                    to: at as f64 * 0.6 + 0.5,
                    number: Some(at + 1),
                    label: if at % 4 < 3 { "100:hang on web" } else { "50:abort on web" }.to_owned(),
                    class: "fault",
                })
                .collect(),
            tips: Vec::new(),
            is_fine: false,
        };
        assert_eq!(chart(2).numbers(), None, "two rows");
        assert!(chart(2).svg().contains(">100:hang on web</text>"));
        let many = chart(8);
        let said = "Shaded: 100:hang on web (1–3, 5–7); 50:abort on web (4, 8); numbers as in the table of fault windows.";
        assert_eq!(many.numbers().as_deref(), Some(said));
        assert!(many.svg().contains("y=\"18\">8</text>") && !many.svg().contains("on web"), "{}", many.svg());
        // A warm-up has its name and takes no number; a chart of a part of the run keeps the numbers.
        let mut part = chart(8);
        part.bands
            .insert(0, Band { from: 0.0, to: 0.1, number: None, label: "warm-up".into(), class: "warm" });
        let svg = part.svg();
        assert!(!svg.contains("warm-up") && svg.contains(">1</text>"), "the number has the place: {svg}");
        part.bands.drain(..3);
        part.bands
            .insert(0, Band { from: 0.0, to: 0.9, number: None, label: "warm-up".into(), class: "warm" });
        assert!(
            part.numbers().unwrap().starts_with("Shaded: 100:hang on web (3, 5–7); 50"),
            "{:?}",
            part.numbers()
        );
        let svg = part.svg();
        assert!(
            svg.contains(">warm-up</text>") && svg.contains(">3</text>") && !svg.contains(">1</text>"),
            "{svg}"
        );
        assert_eq!(
            many.legend(),
            "<p class=\"legend\" aria-hidden=\"true\"><span class=\"key a\">p50</span></p>\n"
        );
    }
}
