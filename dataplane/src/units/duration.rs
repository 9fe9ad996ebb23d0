//! Durations: `150ms`, `1.4s`, `1h30m`.

use std::time::Duration;

use super::UnitError;
use super::decimal::{Decimal, NotDecimal, decimal_text, is_decimal, is_zero, split_number};

/// The longest duration in whole hours: 2⁶⁴ ns are 584 years.
pub const DURATION_MAX: &str = "5124095h";

/// Nanoseconds of each unit. `µ` is the micro sign, U+00B5, or the Greek letter, U+03BC: keyboards differ.
const UNITS: [(&str, u128); 9] = [
    ("h", 3_600_000_000_000),
    ("min", 60_000_000_000),
    ("m", 60_000_000_000),
    ("s", 1_000_000_000),
    ("ms", 1_000_000),
    ("us", 1_000),
    ("\u{b5}s", 1_000),
    ("\u{3bc}s", 1_000),
    ("ns", 1),
];

/// Nanoseconds of a unit.
pub(super) fn unit_ns(unit: &str) -> Option<u128> {
    UNITS.iter().find(|(name, _)| *name == unit).map(|(_, ns)| *ns)
}

/// Reads `150ms`, `1.4s`, `2m`, `1h30m`, `50us` or `0`. Whole nanoseconds only, up to 2⁶⁴ of them.
///
/// # Errors
/// When the text is not a duration, has no unit, is finer than a nanosecond, or is too long.
pub fn parse_duration(text: &str) -> Result<Duration, UnitError> {
    parse_duration_in(text, "")
}

/// Like [`parse_duration`]; a number with no unit at all has `bare_unit`, such as `ms` (with `""`, only 0 needs none).
///
/// # Errors
/// As of [`parse_duration`].
pub fn parse_duration_in(text: &str, bare_unit: &str) -> Result<Duration, UnitError> {
    let bad = || UnitError::Duration(text.to_owned());
    let long = || UnitError::DurationLong(text.to_owned());
    let fine = || UnitError::DurationFine(text.to_owned());
    let mut rest = text.trim();
    if is_zero(rest) {
        return Ok(Duration::ZERO);
    }
    if rest.is_empty() {
        return Err(bad());
    }
    let is_bare = is_decimal(rest);
    let mut nanos: u128 = 0;
    while !rest.is_empty() {
        let (number, after) = split_number(rest);
        let unit_len = after.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(after.len());
        let (unit, next) = after.split_at(unit_len);
        let scale = unit_ns(if is_bare { bare_unit } else { unit.trim() }).ok_or_else(bad)?;
        let decimal = Decimal::parse(number).map_err(|wrong| match wrong {
            NotDecimal::NoNumber => bad(),
            NotDecimal::Fine => fine(),
            NotDecimal::Large => long(),
        })?;
        nanos = nanos.checked_add(decimal.times(scale).ok_or_else(fine)?).ok_or_else(long)?;
        rest = next;
    }
    u64::try_from(nanos).map(Duration::from_nanos).map_err(|_| long())
}

/// Writes a duration without a point, in the largest unit up to seconds that it is a whole number of: `1400ms`, `90s`,
/// `0`. So a proxy tells its settings. [`parse_duration`] reads what is no longer than its limit.
pub fn duration_text(duration: Duration) -> String {
    let nanos = duration.as_nanos();
    let units = [("s", 1_000_000_000), ("ms", 1_000_000), ("us", 1_000)];
    match units.into_iter().find(|(_, scale)| nanos.is_multiple_of(*scale)) {
        _ if nanos == 0 => "0".to_owned(),
        Some((unit, scale)) => format!("{}{unit}", nanos / scale),
        None => format!("{nanos}ns"),
    }
}

/// Writes a duration in its largest unit, with a point where it needs one: `1.4s`, `150ms`, `2m`, `90s`, `0s`. So plans
/// and reports are written. [`parse_duration`] reads what is no longer than its limit.
pub fn exact_duration_text(duration: Duration) -> String {
    let nanos = duration.as_nanos();
    if nanos == 0 {
        return "0s".to_owned();
    }
    for (unit, scale) in [("h", 3_600_000_000_000_u128), ("m", 60_000_000_000)] {
        if nanos.is_multiple_of(scale) {
            return format!("{}{unit}", nanos / scale);
        }
    }
    let (unit, scale) = [("s", 1_000_000_000_u128), ("ms", 1_000_000), ("us", 1_000), ("ns", 1)]
        .into_iter()
        .find(|(_, scale)| nanos >= *scale)
        .expect("a duration above zero has at least one nanosecond");
    format!("{}{unit}", decimal_text(nanos, scale))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn durations_are_read_exactly() {
        let cases = [
            ("150ms", 150_000_000),
            ("1.4s", 1_400_000_000),
            ("2m", 120_000_000_000),
            ("2min", 120_000_000_000),
            ("1h30m", 5_400_000_000_000),
            ("1h 30m 0.5s", 5_400_500_000_000),
            ("50us", 50_000),
            ("50\u{b5}s", 50_000),
            ("50\u{3bc}s", 50_000),
            ("0.3us", 300),
            ("7ns", 7),
            ("0", 0),
            (".5s", 500_000_000),
            ("0001.5000000000000000000000s", 1_500_000_000),
        ];
        for (text, nanos) in cases {
            assert_eq!(parse_duration(text), Ok(Duration::from_nanos(nanos)), "{text}");
        }
        assert!(parse_duration(DURATION_MAX).is_ok());
    }

    #[test]
    fn wrong_durations_say_what_to_write() {
        for text in ["", "5", "ms", "5 parsecs", "-1s", "1.2.3s", "5s!", "1e3s", "1h30", "30s5"] {
            assert_eq!(parse_duration(text), Err(UnitError::Duration(text.to_owned())), "{text}");
        }
        let long = "give at most 5124095h";
        for (text, part) in [
            ("5124096h", long),
            ("99999999999h", long),
            ("99999999999999999999999s", long),
            ("5124095h 40m", long),
            ("0.1ns", "is finer than a nanosecond; give a whole number of ns"),
            ("1.0000000001s", "is finer than a nanosecond"),
            ("0.00000000000000000000001s", "is finer than a nanosecond"),
            ("99999999999999999999.999999999999999999h", "is finer than a nanosecond"),
        ] {
            let refusal = parse_duration(text).unwrap_err().to_string();
            assert!(refusal.contains(part), "{text}: {refusal}");
        }
    }

    #[test]
    fn a_number_with_no_unit_has_the_one_that_is_meant_where_it_stands() {
        let ms = |ms: u64| Some(Duration::from_millis(ms));
        for (text, unit, expected) in [
            ("2", "s", ms(2000)),
            ("2", "ms", ms(2)),
            ("1.5", "ms", Some(Duration::from_micros(1500))),
            ("2ms", "s", ms(2)),
            ("1h30m", "s", ms(5_400_000)),
            ("0", "", ms(0)),
            ("2", "", None),
            // Not in the middle of a text: who writes `1h30` may mean minutes or seconds.
            ("1h30", "ms", None),
            ("", "s", None),
            ("-2", "s", None),
        ] {
            assert_eq!(parse_duration_in(text, unit).ok(), expected, "{text} {unit}");
        }
    }

    #[test]
    fn durations_are_written_as_people_write_them() {
        for (nanos, whole, exact) in [
            (0, "0", "0s"),
            (150_000_000, "150ms", "150ms"),
            (1_500_000_000, "1500ms", "1.5s"),
            (90_000_000_000, "90s", "90s"),
            (120_000_000_000, "120s", "2m"),
            (7_200_000_000_000, "7200s", "2h"),
            (10_000, "10us", "10us"),
            (10_001, "10001ns", "10.001us"),
        ] {
            let time = Duration::from_nanos(nanos);
            assert_eq!((duration_text(time).as_str(), exact_duration_text(time).as_str()), (whole, exact));
        }
    }

    proptest! {
        #[test]
        fn a_written_duration_reads_back(nanos in any::<u64>(), scale in 0..4_u32) {
            let time = Duration::from_nanos(nanos - nanos % 1000_u64.pow(scale));
            prop_assert_eq!(parse_duration(&duration_text(time)), Ok(time));
            prop_assert_eq!(parse_duration(&exact_duration_text(time)), Ok(time));
        }

        #[test]
        fn any_text_is_read_or_refused_without_a_panic(text in "\\PC{0,24}") {
            let _ = parse_duration(&text).map_err(|why| why.to_string());
            let _ = parse_duration_in(&text, "ms");
        }
    }
}
