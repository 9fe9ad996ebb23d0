//! What somebody probably meant who wrote a unit as another tool has it: `30`, `5sec`, `500rps`, `64K`.
//!
//! It is only ever suggested, never taken: a guess about a test's length or rate would be a test of something else.

use super::decimal::split_number;
use super::{Rate, parse_bytes, parse_duration};

/// As others write them, and as they are written here.
const TIMES: [(&str, &str); 20] = [
    ("", "s"),
    ("sec", "s"),
    ("secs", "s"),
    ("second", "s"),
    ("seconds", "s"),
    ("msec", "ms"),
    ("msecs", "ms"),
    ("millis", "ms"),
    ("millisecond", "ms"),
    ("milliseconds", "ms"),
    ("usec", "us"),
    ("micros", "us"),
    ("microseconds", "us"),
    ("mins", "m"),
    ("minute", "m"),
    ("minutes", "m"),
    ("hr", "h"),
    ("hrs", "h"),
    ("hour", "h"),
    ("hours", "h"),
];
const RATES: [(&str, &str); 14] = [
    ("rps", "/s"),
    ("qps", "/s"),
    ("tps", "/s"),
    ("hz", "/s"),
    ("per second", "/s"),
    ("per sec", "/s"),
    ("req/s", "/s"),
    ("reqs/s", "/s"),
    ("/second", "/s"),
    ("/1s", "/s"),
    ("per minute", "/min"),
    ("rpm", "/min"),
    ("/minute", "/min"),
    ("/hour", "/h"),
];
const BYTES: [(&str, &str); 9] = [
    ("k", "KiB"),
    ("kb", "kB"),
    ("kib", "KiB"),
    ("m", "MiB"),
    ("mb", "MB"),
    ("mib", "MiB"),
    ("g", "GiB"),
    ("bytes", "B"),
    ("byte", "B"),
];

/// `30` → `30s`, `5sec` → `5s`, `150MS` → `150ms`.
pub fn duration(text: &str) -> Option<String> {
    suggest(text, &TIMES, |text| parse_duration(text).is_ok())
}

/// `500rps` → `500/s`, `20k per second` → `20k/s`.
pub fn rate(text: &str) -> Option<String> {
    suggest(text, &RATES, |text| text.parse::<Rate>().is_ok())
}

/// `64K` → `64KiB`, `5 mb` → `5MB`.
pub(super) fn bytes(text: &str) -> Option<String> {
    suggest(text, &BYTES, |text| parse_bytes(text).is_ok())
}

fn suggest(text: &str, units: &[(&str, &str)], is_good: impl Fn(&str) -> bool) -> Option<String> {
    let lower = text.trim().to_lowercase();
    let (number, unit) = split_number(&lower);
    let (unit, thousand) = match unit.trim().strip_prefix('k') {
        // `20krps` is 20,000 of them; `k` alone, or as in `kb`, is the unit.
        Some(rest) if units.iter().any(|(theirs, _)| *theirs == rest.trim() && !rest.is_empty()) => {
            (rest.trim(), "k")
        }
        _ => (unit.trim(), ""),
    };
    let as_is = format!("{number}{thousand}{unit}");
    let ours = units.iter().find(|(theirs, _)| *theirs == unit);
    let meant = ours.map_or(as_is, |(_, ours)| format!("{number}{thousand}{ours}"));
    (meant != text && is_good(&meant)).then_some(meant)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_probably_meant_is_said_in_our_units() {
        for (text, meant) in [
            ("30", "30s"),
            ("1.5", "1.5s"),
            ("5sec", "5s"),
            ("5 Seconds", "5s"),
            ("150MS", "150ms"),
            ("2 mins", "2m"),
            ("1hour", "1h"),
        ] {
            assert_eq!(duration(text).as_deref(), Some(meant), "{text}");
        }
        for (text, meant) in [
            ("500rps", "500/s"),
            ("20krps", "20k/s"),
            ("20k qps", "20k/s"),
            ("500 per second", "500/s"),
            ("500 req/s", "500/s"),
            ("5/second", "5/s"),
            ("300rpm", "300/min"),
        ] {
            assert_eq!(rate(text).as_deref(), Some(meant), "{text}");
        }
        for (text, meant) in
            [("64K", "64KiB"), ("64KB", "64kB"), ("5 mb", "5MB"), ("1m", "1MiB"), ("9 bytes", "9B")]
        {
            assert_eq!(bytes(text).as_deref(), Some(meant), "{text}");
        }
    }

    #[test]
    fn nothing_is_made_up() {
        for text in ["", "fast", "-5", "1e3", "5 parsecs", "µ"] {
            assert_eq!((duration(text), rate(text), bytes(text)), (None, None, None), "{text}");
        }
    }
}
