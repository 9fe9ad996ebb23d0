//! Numbers for people, written in one way wherever fracas shows them: three digits, a space and a unit, thousands apart.

/// `1.30 s`, `87.3 ms`, `152 µs`, `999 ns`.
pub fn latency(ns: u64) -> String {
    latency_in(ns, 0).0
}

/// A latency with `more` digits than people take in at once, and the nanoseconds that it says.
pub(crate) fn latency_in(ns: u64, more: usize) -> (String, f64) {
    let value = ns as f64;
    let (unit_ns, unit) = match ns {
        0..1_000 => return (format!("{ns} ns"), value),
        1_000..999_500 => (1e3, "µs"),
        999_500..999_500_000 => (1e6, "ms"),
        _ => (1e9, "s"),
    };
    let (digits, said) = rounded(value / unit_ns, decimals_of_three(value / unit_ns) + more);
    (format!("{digits} {unit}"), said * unit_ns)
}

/// A number with so many decimals, and the number that this says.
fn rounded(value: f64, decimals: usize) -> (String, f64) {
    let text = format!("{value:.decimals$}");
    let said = text.parse().unwrap_or(value);
    (text, said)
}

/// So many decimals make three significant digits, but never fewer digits than the whole part has.
fn decimals_of_three(value: f64) -> usize {
    match value {
        v if v < 9.995 => 2,
        v if v < 99.95 => 1,
        _ => 0,
    }
}

/// Three significant digits, but never fewer digits than the whole part has.
pub(super) fn three_digits(value: f64) -> String {
    rounded(value, decimals_of_three(value)).0
}

/// `1,234,567`.
pub fn count(value: u64) -> String {
    let digits = value.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// `2,999.8/s`, `0.300/s`.
pub fn rate(per_second: f64) -> String {
    rate_in(per_second, 0).0
}

/// A rate with `more` digits than people take in at once, and the rate that it says.
pub(crate) fn rate_in(per_second: f64, more: usize) -> (String, f64) {
    if per_second < 100.0 {
        let (digits, said) = rounded(per_second, decimals_of_three(per_second) + more);
        return (format!("{digits}/s"), said);
    }
    let (digits, said) = rounded(per_second, 1 + more);
    let (whole, decimals) = digits.split_once('.').unwrap_or((&digits, ""));
    let whole = whole.parse().map_or_else(|_| whole.to_owned(), count);
    match decimals.trim_end_matches('0') {
        "" => (format!("{whole}/s"), said),
        decimals => (format!("{whole}.{decimals}/s"), said),
    }
}

/// A share in per cent with two decimals and `more`, and the share that this says.
pub(crate) fn share_in(share: f64, more: usize) -> (String, f64) {
    let (digits, said) = rounded(share * 100.0, 2 + more);
    (format!("{digits} %"), said / 100.0)
}

/// `12.3 MiB`.
pub fn bytes(value: u64) -> String {
    let units = [("GiB", 30), ("MiB", 20), ("KiB", 10)];
    match units.into_iter().find(|(_, shift)| value >> shift > 0) {
        Some((unit, shift)) => format!("{} {unit}", three_digits(value as f64 / (1_u64 << shift) as f64)),
        None => format!("{value} B"),
    }
}

/// `99.98 %`; never rounds a loss away to 100, nor a small share to 0.
pub fn percent(part: u64, whole: u64) -> String {
    if whole == 0 {
        return "–".to_owned();
    }
    let percent = part as f64 * 100.0 / whole as f64;
    match percent {
        p if part != 0 && p < 0.01 => "< 0.01 %".to_owned(),
        p if part != whole && p > 99.99 => "> 99.99 %".to_owned(),
        p => format!("{p:.2} %"),
    }
}

/// `30 s`, `1.4 s`: for lengths of the run.
pub fn seconds(ns: u64) -> String {
    let text = format!("{:.3}", ns as f64 / 1e9);
    format!("{} s", text.trim_end_matches('0').trim_end_matches('.'))
}

/// `1 connection`, `2 connections`, `1,000 connections`.
pub fn plural(number: u64, thing: &str) -> String {
    format!("{} {thing}{}", count(number), if number == 1 { "" } else { "s" })
}

/// A length that was asked for: `150 ms`, `1.5 s`, `2 min`, `90 s`.
pub fn length(time: std::time::Duration) -> String {
    let text = fracas_dataplane::units::exact_duration_text(time);
    let unit = text.find(|c: char| c.is_ascii_alphabetic() || c == 'µ').unwrap_or(text.len());
    let (number, unit) = text.split_at(unit);
    let unit = match unit {
        "m" => "min",
        "us" => "µs",
        unit => unit,
    };
    format!("{number} {unit}")
}

/// The plan in one line: `3,000/s constant for 30 s · 300 connections`.
pub(super) fn plan(plan: &crate::scenario::Plan) -> String {
    use crate::scenario::{Load, Pace, Stop};
    let phases: Vec<String> = plan
        .phases
        .iter()
        .map(|phase| {
            let load = match &phase.load {
                Load::Open(Pace::Constant { rate: r }) => format!("{} constant", rate(r.as_f64())),
                Load::Open(Pace::Poisson { rate: r }) => format!("{} Poisson", rate(r.as_f64())),
                Load::Open(Pace::Ramp { from, to }) => {
                    format!("ramp {} to {}", rate(from.as_f64()), rate(to.as_f64()))
                }
                Load::Open(Pace::Steps(steps)) => plural(steps.len() as u64, "step"),
                Load::Closed { users, .. } => plural(u64::from(*users), "user"),
            };
            let stop = match phase.stop {
                Stop::After(over) => format!("for {}", length(over)),
                Stop::Requests(n) => format!("× {}", count(n)),
            };
            let warm_up = if phase.warm_up { "warm-up " } else { "" };
            format!("{warm_up}{load} {stop}")
        })
        .collect();
    let shown = if phases.len() > 4 {
        format!("{}, … {} phases", phases[..3].join(", "), phases.len())
    } else {
        phases.join(", ")
    };
    let nodes = if plan.nodes > 1 { format!(" · {} nodes", plan.nodes) } else { String::new() };
    format!("{shown} · {}{nodes}", plural(u64::from(plan.connections), "connection"))
}

/// A wall-clock label in UTC: `2026-11-24 03:52:44`.
pub fn utc(unix_ms: u64) -> String {
    let seconds = unix_ms / 1000;
    let (days, of_day) = ((seconds / 86_400) as i64, seconds % 86_400);
    // Civil from days: Howard Hinnant, "chrono-compatible low-level date algorithms".
    let z = days + 719_468;
    let era = z.div_euclid(146_097);
    let of_era = z.rem_euclid(146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_index = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month_index + 2) / 5 + 1;
    let month = if month_index < 10 { month_index + 3 } else { month_index - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02} {:02}:{:02}:{:02}", of_day / 3600, of_day / 60 % 60, of_day % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn latencies_have_three_digits_and_a_unit() {
        for (ns, text) in [
            (0, "0 ns"),
            (999, "999 ns"),
            (1_000, "1.00 µs"),
            (152_400, "152 µs"),
            (999_499, "999 µs"),
            (999_500, "1.00 ms"),
            (87_250_000, "87.2 ms"),
            (1_300_000_000, "1.30 s"),
            (3_600_000_000_000, "3600 s"),
        ] {
            assert_eq!(latency(ns), text);
        }
    }

    #[test]
    fn counts_rates_bytes_and_shares_are_readable() {
        assert_eq!((count(0), count(999), count(1_234_567)), ("0".into(), "999".into(), "1,234,567".into()));
        assert_eq!(
            (rate(2999.84), rate(20_000.0), rate(0.3)),
            ("2,999.8/s".into(), "20,000/s".into(), "0.30/s".into())
        );
        assert_eq!(
            (bytes(512), bytes(1536), bytes(1 << 31)),
            ("512 B".into(), "1.50 KiB".into(), "2.00 GiB".into())
        );
        assert_eq!(
            (percent(1, 1_000_000), percent(999_999, 1_000_000), percent(1, 1), percent(0, 5)),
            ("< 0.01 %".into(), "> 99.99 %".into(), "100.00 %".into(), "0.00 %".into())
        );
    }

    #[test]
    fn lengths_and_plurals_are_written_as_figures_are() {
        use std::time::Duration;
        let lengths = [(0, "0 s"), (1_500, "1.5 s"), (120_000, "2 min"), (90_000, "90 s"), (150, "150 ms")];
        for (ms, text) in lengths {
            assert_eq!(length(Duration::from_millis(ms)), text);
        }
        assert_eq!(length(Duration::from_micros(50)), "50 µs");
        assert_eq!([0, 1, 1000].map(|n| plural(n, "user")), ["0 users", "1 user", "1,000 users"]);
    }

    #[test]
    fn wall_clock_labels_are_right_on_leap_days_too() {
        assert_eq!(utc(0), "1970-01-01 00:00:00");
        assert_eq!(utc(951_782_400_000), "2000-02-29 00:00:00");
        assert_eq!(utc(1_795_492_364_999), "2026-11-24 03:52:44");
    }
}
