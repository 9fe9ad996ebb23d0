//! The table of cases: what each reader makes of one text. A text that two of them take means the same to both.
//!
//! Every kind of text that somebody may write has a row: nothing, 0, 1, the largest, one more, below 0, no number, an
//! exponent, several parts, blanks, no unit, an unknown one, capitals, both letters µ, too fine, no ASCII.

use std::time::Duration;

use super::{
    Rate, UnitError, parse_byte_rate, parse_bytes, parse_count, parse_duration, parse_duration_in,
    parse_percent,
};

/// Why a reader refuses.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Why {
    /// It is not of this kind, or has no unit where it needs one.
    Bad,
    /// It has digits that are finer than what is counted.
    Fine,
    /// It does not fit.
    Large,
    /// It is 0, which cannot be.
    Zero,
}

/// What a duration (ns), a bare number in ms (ns), a number of bytes, bytes a second, a rate (events in ns), a count and
/// a percentage make of a text; `None`: nothing is read, and there is no reason beside that.
struct Row {
    text: &'static str,
    duration: Result<u64, Why>,
    in_ms: Result<u64, Why>,
    bytes: Result<u64, Why>,
    byte_rate: Option<u64>,
    rate: Result<(u64, u64), Why>,
    count: Option<u64>,
    percent: Option<f64>,
}

/// Nobody reads it.
const fn nobody(text: &'static str) -> Row {
    let (duration, bytes, rate) = (Err(Why::Bad), Err(Why::Bad), Err(Why::Bad));
    Row { text, duration, in_ms: duration, bytes, byte_rate: None, rate, count: None, percent: None }
}

/// Durations alone read it.
const fn time(text: &'static str, ns: u64) -> Row {
    Row { duration: Ok(ns), in_ms: Ok(ns), ..nobody(text) }
}

/// Durations alone could, but refuse it.
const fn no_time(text: &'static str, why: Why) -> Row {
    Row { duration: Err(why), in_ms: Err(why), ..nobody(text) }
}

const SECOND: u64 = 1_000_000_000;
const MAX: u64 = u64::MAX;

#[rustfmt::skip]
fn rows() -> Vec<Row> {
    use Why::*;
    vec![
        // Nothing, and no number.
        nobody(""),
        nobody("  "),
        nobody("."),
        nobody("x"),
        nobody("NaN"),
        nobody("inf"),
        nobody("infinity s"),
        nobody("nan%"),
        nobody("%"),
        nobody("ms"),
        nobody("/s"),
        nobody("١s"),
        // 0 needs no unit; a rate of it sends nothing.
        Row { duration: Ok(0), in_ms: Ok(0), bytes: Ok(0), byte_rate: Some(0), rate: Err(Zero), count: Some(0), percent: Some(0.0), ..nobody("0") },
        Row { duration: Ok(0), in_ms: Ok(0), bytes: Ok(0), byte_rate: Some(0), rate: Err(Zero), percent: Some(0.0), ..nobody("0.0") },
        time("0s", 0),
        Row { bytes: Ok(0), ..nobody("0B") },
        Row { byte_rate: Some(0), rate: Err(Zero), ..nobody("0/s") },
        Row { percent: Some(0.0), ..nobody("0%") },
        // No unit: bytes and counts have none, a rate is a second's, a duration may be anything.
        Row { in_ms: Ok(1_000_000), bytes: Ok(1), rate: Ok((1, SECOND)), count: Some(1), percent: Some(1.0), ..nobody("1") },
        Row { in_ms: Ok(1_500_000), bytes: Err(Fine), rate: Ok((3, 2 * SECOND)), percent: Some(1.5), ..nobody("1.5") },
        Row { in_ms: Ok(500_000), bytes: Err(Fine), rate: Ok((1, 2 * SECOND)), percent: Some(0.5), ..nobody(".5") },
        Row { in_ms: Ok(7_000_000), bytes: Ok(7), rate: Ok((7, SECOND)), count: Some(7), percent: Some(7.0), ..nobody("007") },
        Row { in_ms: Ok(7_000_000), bytes: Ok(7), rate: Ok((7, SECOND)), percent: Some(7.0), ..nobody("7.") },
        nobody("1.2.3"),
        // Every unit.
        time("7ns", 7),
        time("7us", 7_000),
        time("7\u{b5}s", 7_000),
        time("7\u{3bc}s", 7_000),
        time("7ms", 7_000_000),
        time("7s", 7 * SECOND),
        time("7m", 420 * SECOND),
        time("7min", 420 * SECOND),
        time("7h", 25_200 * SECOND),
        Row { bytes: Ok(7), ..nobody("7B") },
        Row { bytes: Ok(7_000), rate: Ok((7_000, SECOND)), ..nobody("7k") },
        Row { rate: Ok((7_000, SECOND)), ..nobody("7K") },
        Row { bytes: Ok(7_000), ..nobody("7kB") },
        Row { bytes: Ok(7_000), ..nobody("7KB") },
        Row { bytes: Ok(7 << 10), ..nobody("7KiB") },
        Row { bytes: Ok(7_000_000), rate: Ok((7_000_000, SECOND)), ..nobody("7M") },
        Row { bytes: Ok(7_000_000), ..nobody("7MB") },
        Row { bytes: Ok(7 << 20), ..nobody("7MiB") },
        Row { bytes: Ok(7_000_000_000), ..nobody("7G") },
        Row { bytes: Ok(7_000_000_000), ..nobody("7GB") },
        Row { bytes: Ok(7 << 30), ..nobody("7GiB") },
        Row { byte_rate: Some(7), rate: Ok((7, SECOND)), ..nobody("7/s") },
        Row { byte_rate: Some(7_000), rate: Ok((7_000, SECOND)), ..nobody("7k/s") },
        Row { byte_rate: Some(7_000), ..nobody("7kB/s") },
        Row { byte_rate: Some(7 << 10), ..nobody("7KiB/s") },
        Row { byte_rate: Some(875), ..nobody("7kbit/s") },
        Row { byte_rate: Some(875), ..nobody("7Kbit/s") },
        Row { byte_rate: Some(875_000), ..nobody("7Mbit/s") },
        Row { byte_rate: Some(875_000_000), ..nobody("7Gbit/s") },
        Row { byte_rate: Some(10), rate: Ok((10, SECOND)), ..nobody("600/min") },
        Row { byte_rate: Some(10), rate: Ok((10, SECOND)), ..nobody("36k/h") },
        Row { byte_rate: Some(10), rate: Ok((10, SECOND)), ..nobody("1/100ms") },
        Row { byte_rate: Some(1), rate: Ok((1, SECOND)), ..nobody("5400/1h30m") },
        Row { percent: Some(7.0), ..nobody("7%") },
        // Blanks around it, and between a number and its unit.
        time(" 150 ms ", 150_000_000),
        Row { bytes: Ok(64 << 10), ..nobody(" 64 KiB ") },
        Row { byte_rate: Some(7_000), rate: Ok((7_000, SECOND)), ..nobody(" 7 k / s ") },
        Row { percent: Some(0.5), ..nobody(" 0.5 % ") },
        nobody("1 0s"),
        nobody("7 / "),
        // Several parts make one duration, and nothing else.
        time("1h30m", 5_400 * SECOND),
        time("1m30.5s", 90_500_000_000),
        time("1h 2m 3s", 3_723 * SECOND),
        time("30m1h", 5_400 * SECOND),
        nobody("1h30"),
        nobody("1hm"),
        nobody("1MB500kB"),
        // Below 0, signs, exponents, separators.
        nobody("-1"),
        nobody("-1s"),
        nobody("-0"),
        nobody("-5%"),
        nobody("+1s"),
        nobody("+1"),
        nobody("1e3"),
        nobody("1e3s"),
        nobody("1e1%"),
        nobody("1,000"),
        nobody("1_000"),
        nobody("0x10"),
        // Units that nobody has, and the capitals of others.
        nobody("5 parsecs"),
        nobody("5S"),
        nobody("150MS"),
        nobody("1H"),
        nobody("7b"),
        nobody("7KIB"),
        nobody("7mb"),
        nobody("7m/"),
        nobody("8mbit/s"),
        nobody("20/fortnight"),
        nobody("5%%"),
        nobody("5pct"),
        // Too fine.
        no_time("0.1ns", Fine),
        no_time("1.0000000001s", Fine),
        Row { bytes: Err(Fine), ..nobody("0.1B") },
        Row { bytes: Err(Fine), ..nobody("1.0001kB") },
        Row { rate: Ok((10_001, 10 * SECOND)), bytes: Err(Fine), ..nobody("1.0001k") },
        Row { rate: Ok((1, 2 * SECOND)), ..nobody("0.5/s") },
        // The largest, and one more.
        time("18446744073709551615ns", MAX),
        no_time("18446744073709551616ns", Large),
        time("5124095h", 5_124_095 * 3600 * SECOND),
        no_time("5124096h", Large),
        no_time("5124095h40m", Large),
        Row { bytes: Ok(MAX), ..nobody("18446744073709551615B") },
        Row { bytes: Err(Large), ..nobody("18446744073709551616B") },
        Row { in_ms: Err(Large), bytes: Ok(MAX), rate: Ok((MAX / 5, SECOND / 5)), count: Some(MAX), percent: Some(MAX as f64), ..nobody("18446744073709551615") },
        Row { in_ms: Err(Large), bytes: Err(Large), rate: Ok((1 << 55, SECOND >> 9)), percent: Some(MAX as f64), ..nobody("18446744073709551616") },
        Row { byte_rate: Some(MAX), ..nobody("18446744073709551615B/s") },
        nobody("18446744073709551616B/s"),
        Row { rate: Err(Large), ..nobody("99999999999999999999999/s") },
        Row { rate: Err(Large), ..nobody("1/5124096h") },
        Row { rate: Err(Zero), ..nobody("1/0s") },
    ]
}

fn why(error: UnitError) -> Why {
    match error {
        UnitError::Duration(_) | UnitError::Rate(_) | UnitError::Bytes(_) => Why::Bad,
        UnitError::DurationFine(_) | UnitError::BytesFine(_) => Why::Fine,
        UnitError::DurationLong(_) | UnitError::BytesLarge(..) | UnitError::RateRange(_) => Why::Large,
        UnitError::RateZero => Why::Zero,
    }
}

#[test]
fn every_reader_takes_or_refuses_every_kind_of_text() {
    let ns = |time: Duration| u64::try_from(time.as_nanos()).expect("2⁶⁴ ns at most");
    for row in rows() {
        let text = row.text;
        assert_eq!(parse_duration(text).map(ns).map_err(why), row.duration, "duration {text:?}");
        assert_eq!(parse_duration_in(text, "ms").map(ns).map_err(why), row.in_ms, "in ms {text:?}");
        assert_eq!(parse_bytes(text).map_err(why), row.bytes, "bytes {text:?}");
        assert_eq!(parse_byte_rate(text), row.byte_rate, "bytes a second {text:?}");
        let rate = text.parse().map(|rate: Rate| (rate.events(), rate.per_ns())).map_err(why);
        let expected = row.rate.map(|(events, ns)| {
            let rate = Rate::new(events, Duration::from_nanos(ns)).expect("above 0");
            (rate.events(), rate.per_ns())
        });
        assert_eq!(rate, expected, "rate {text:?}");
        assert_eq!(parse_count(text), row.count, "count {text:?}");
        assert_eq!(parse_percent(text, "%"), row.percent, "per cent {text:?}");
        let signed = row.percent.filter(|_| text.contains('%'));
        assert_eq!(parse_percent(text, ""), signed, "per cent with its sign {text:?}");
    }
}
