//! Numbers with units, as people write them in run files and on the command line: `150ms`, `20k/s`, `64KiB`.
//!
//! Parsing is exact: no value goes through a float, so `0.3/s` is three arrivals in ten seconds and
//! not 0.299999…; what is displayed parses back to the same value.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

mod meant;

pub use meant::{duration as duration_meant, rate as rate_meant};

/// What was meant, or how it is written.
fn advice(meant: Option<String>, written: &str) -> String {
    meant.map_or_else(|| written.to_owned(), |meant| format!("did you mean {meant}?"))
}

/// Why a number with a unit was not understood; the text says what to write instead.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UnitError {
    /// Not a duration.
    #[error("`{0}` is not a duration; {advice}", advice = advice(meant::duration(.0), "write a number and ns, us, ms, s, m or h, such as 150ms"))]
    Duration(String),
    /// Not a rate.
    #[error("`{0}` is not a rate; {advice}", advice = advice(meant::rate(.0), "write a number, k or M if you like, and /s (meant without a unit), /min or /h, such as 20k/s"))]
    Rate(String),
    /// A rate of nothing would never send a request.
    #[error("a rate must be above 0")]
    RateZero,
    /// Not a size.
    #[error("`{0}` is not a size; {advice}", advice = advice(meant::size(.0), "write a number and B, kB, KiB, MB, MiB, GB or GiB, such as 64KiB"))]
    Size(String),
    /// A duration that is no whole number of nanoseconds.
    #[error("`{0}` is finer than a nanosecond; give a whole number of ns")]
    DurationFine(String),
    /// A duration that 64 bits of nanoseconds do not hold.
    #[error("`{0}` is too long; give at most {DURATION_MAX}")]
    DurationLong(String),
    /// A rate that two numbers of 64 bits do not hold.
    #[error("`{0}` is out of reach; give a rate from 1/{DURATION_MAX} to 1000M/s")]
    RateRange(String),
    /// A size that is no whole number of bytes.
    #[error("`{0}` is no whole number of bytes; give one, such as 64KiB")]
    SizeFine(String),
    /// A size above what is taken.
    #[error("`{0}` is too large; give at most {1}B")]
    SizeLarge(String, u64),
}

/// The longest duration in whole hours: 2⁶⁴ ns are 584 years.
const DURATION_MAX: &str = "5124095h";

const DURATION_UNITS: [(&str, u128); 8] = [
    ("h", 3_600_000_000_000),
    ("min", 60_000_000_000),
    ("m", 60_000_000_000),
    ("s", 1_000_000_000),
    ("ms", 1_000_000),
    ("us", 1_000),
    ("µs", 1_000),
    ("ns", 1),
];

/// Reads `150ms`, `1.4s`, `2m`, `1h30m`, `50us` or `0`. Whole nanoseconds only.
///
/// # Errors
/// When the text is not a duration, has no unit, or is finer than a nanosecond.
pub fn parse_duration(text: &str) -> Result<Duration, UnitError> {
    let bad = || UnitError::Duration(text.to_owned());
    let long = || UnitError::DurationLong(text.to_owned());
    let mut rest = text.trim();
    if rest == "0" {
        return Ok(Duration::ZERO);
    }
    if rest.is_empty() {
        return Err(bad());
    }
    let mut nanos: u128 = 0;
    while !rest.is_empty() {
        let (number, after) = split_number(rest);
        let unit_len = after.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(after.len());
        let (unit, next) = after.split_at(unit_len);
        let (_, scale) = DURATION_UNITS.iter().find(|(name, _)| *name == unit.trim()).ok_or_else(bad)?;
        let decimal = Decimal::parse(number).map_err(|wrong| match wrong {
            NotDecimal::NoNumber => bad(),
            NotDecimal::Fine => UnitError::DurationFine(text.to_owned()),
            NotDecimal::Large => long(),
        })?;
        let part = decimal.times(*scale).ok_or_else(|| UnitError::DurationFine(text.to_owned()))?;
        nanos = nanos.checked_add(part).ok_or_else(long)?;
        rest = next;
    }
    u64::try_from(nanos).map(Duration::from_nanos).map_err(|_| long())
}

/// Writes a duration in its largest unit with an exact decimal: `1.4s`, `150ms`, `2m`, `90s`.
pub fn format_duration(duration: Duration) -> String {
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

/// An exact rate: `events` in every `per`, reduced; never zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Rate {
    events: u64,
    per_ns: u64,
}

impl Rate {
    /// `events` arrivals in every `per`.
    ///
    /// # Errors
    /// When either is zero or `per` is longer than 584 years.
    pub fn new(events: u64, per: Duration) -> Result<Rate, UnitError> {
        let per_ns =
            u64::try_from(per.as_nanos()).map_err(|_| UnitError::RateRange(format!("{events}/{per:?}")))?;
        if events == 0 || per_ns == 0 {
            return Err(UnitError::RateZero);
        }
        let divisor = gcd(u128::from(events), u128::from(per_ns)) as u64;
        Ok(Rate { events: events / divisor, per_ns: per_ns / divisor })
    }

    /// Whole events a second.
    ///
    /// # Errors
    /// When `events` is zero.
    pub fn per_second(events: u64) -> Result<Rate, UnitError> {
        Rate::new(events, Duration::from_secs(1))
    }

    /// Numerator of the reduced rate: events in every [`Rate::per_ns`].
    pub const fn events(self) -> u64 {
        self.events
    }

    /// Denominator of the reduced rate, in nanoseconds.
    pub const fn per_ns(self) -> u64 {
        self.per_ns
    }

    /// Events a second, for display and for the integral of a ramp.
    pub fn as_f64(self) -> f64 {
        self.events as f64 * 1e9 / self.per_ns as f64
    }
}

impl FromStr for Rate {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Rate, UnitError> {
        let bad = || UnitError::Rate(text.to_owned());
        // A bare number is a second's: who writes `500` means no other time.
        let (amount, per) = text.trim().split_once('/').unwrap_or((text.trim(), "s"));
        let (number, multiplier) = split_number(amount.trim());
        let multiplier: u128 = match multiplier.trim() {
            "" => 1,
            "k" | "K" => 1_000,
            "M" => 1_000_000,
            _ => return Err(bad()),
        };
        let per = per.trim();
        let per_ns = match per {
            "sec" | "second" => 1_000_000_000,
            "minute" => 60_000_000_000,
            "hour" => 3_600_000_000_000,
            _ if per.starts_with(|c: char| c.is_ascii_digit()) => {
                let per = parse_duration(per).map_err(|why| match why {
                    UnitError::Duration(_) => bad(),
                    _ => UnitError::RateRange(text.to_owned()),
                });
                per?.as_nanos()
            }
            _ => DURATION_UNITS.iter().find(|(name, _)| *name == per).ok_or_else(bad)?.1,
        };
        let range = || UnitError::RateRange(text.to_owned());
        let decimal = Decimal::parse(number).map_err(|wrong| match wrong {
            NotDecimal::NoNumber => bad(),
            NotDecimal::Fine | NotDecimal::Large => range(),
        })?;
        let events = decimal.digits.checked_mul(multiplier).ok_or_else(range)?;
        let per_ns = per_ns.checked_mul(decimal.scale).ok_or_else(range)?;
        if events == 0 || per_ns == 0 {
            return Err(UnitError::RateZero);
        }
        let divisor = gcd(events, per_ns);
        let events = u64::try_from(events / divisor).map_err(|_| range())?;
        let per_ns = u64::try_from(per_ns / divisor).map_err(|_| range())?;
        Ok(Rate { events, per_ns })
    }
}

impl fmt::Display for Rate {
    /// `20000/s`, `0.3/s`, `1/min`, or `7/3ns` when nothing shorter is exact.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (unit, unit_ns) in [("s", 1_000_000_000_u128), ("min", 60_000_000_000), ("h", 3_600_000_000_000)]
        {
            let numerator = u128::from(self.events) * unit_ns;
            if let Some(text) = exact_decimal(numerator, u128::from(self.per_ns)) {
                return write!(f, "{text}/{unit}");
            }
        }
        write!(f, "{}/{}ns", self.events, self.per_ns)
    }
}

impl Serialize for Rate {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Rate {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Rate, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

const SIZE_UNITS: [(&str, u128); 8] = [
    ("", 1),
    ("B", 1),
    ("kB", 1_000),
    ("KiB", 1 << 10),
    ("MB", 1_000_000),
    ("MiB", 1 << 20),
    ("GB", 1_000_000_000),
    ("GiB", 1 << 30),
];

/// Reads `64KiB`, `1.5MB`, `512B` or plain `512` into bytes.
///
/// # Errors
/// When the text is not a size or is not a whole number of bytes.
pub fn parse_size(text: &str) -> Result<u64, UnitError> {
    size_up_to(text, u64::MAX)
}

fn size_up_to(text: &str, most: u64) -> Result<u64, UnitError> {
    let bad = || UnitError::Size(text.to_owned());
    let large = || UnitError::SizeLarge(text.to_owned(), most);
    let (number, unit) = split_number(text.trim());
    let (_, scale) = SIZE_UNITS.iter().find(|(name, _)| *name == unit.trim()).ok_or_else(bad)?;
    let decimal = Decimal::parse(number).map_err(|wrong| match wrong {
        NotDecimal::NoNumber => bad(),
        NotDecimal::Fine => UnitError::SizeFine(text.to_owned()),
        NotDecimal::Large => large(),
    })?;
    let bytes = decimal.times(*scale).ok_or_else(|| UnitError::SizeFine(text.to_owned()))?;
    u64::try_from(bytes).ok().filter(|bytes| *bytes <= most).ok_or_else(large)
}

/// Reads the size of an echo message.
///
/// # Errors
/// As of [`parse_size`]; what 32 bits do not count is too large.
pub fn parse_payload(text: &str) -> Result<u32, UnitError> {
    let most = u64::from(u32::MAX);
    u32::try_from(size_up_to(text, most)?).map_err(|_| UnitError::SizeLarge(text.to_owned(), most))
}

/// Writes bytes in the largest binary unit that divides them: `64KiB`, `1000B`.
pub fn format_size(bytes: u64) -> String {
    for (unit, scale) in [("GiB", 1_u64 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)] {
        if bytes != 0 && bytes.is_multiple_of(scale) {
            return format!("{}{unit}", bytes / scale);
        }
    }
    format!("{bytes}B")
}

/// For `#[serde(with)]`: a [`Duration`] as text with its unit.
pub mod duration_text {
    use super::*;

    /// Writes `150ms`.
    pub fn serialize<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&format_duration(*duration))
    }

    /// Reads `150ms`.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        parse_duration(&String::deserialize(deserializer)?).map_err(de::Error::custom)
    }
}

/// A decimal number as written: `digits / scale`, scale a power of ten.
struct Decimal {
    digits: u128,
    scale: u128,
}

/// Why a text is no [`Decimal`].
enum NotDecimal {
    /// No digits, or something else among them.
    NoNumber,
    /// More digits behind the point than any unit here has.
    Fine,
    /// More digits in front of it than 64 bits hold.
    Large,
}

impl Decimal {
    fn parse(text: &str) -> Result<Decimal, NotDecimal> {
        let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
        if (whole.is_empty() && fraction.is_empty())
            || !(whole.bytes().chain(fraction.bytes())).all(|b| b.is_ascii_digit())
        {
            return Err(NotDecimal::NoNumber);
        }
        let (whole, fraction) = (whole.trim_start_matches('0'), fraction.trim_end_matches('0'));
        // 20 digits hold any u64; with 18 behind the point the number itself still fits 128 bits.
        if whole.len() > 20 {
            return Err(NotDecimal::Large);
        }
        if fraction.len() > 18 {
            return Err(NotDecimal::Fine);
        }
        let part = |digits: &str| digits.bytes().fold(0_u128, |sum, b| sum * 10 + u128::from(b - b'0'));
        let scale = fraction.bytes().fold(1_u128, |scale, _| scale * 10);
        Ok(Decimal { digits: part(whole) * scale + part(fraction), scale })
    }

    /// The product with `unit` if it is a whole number. One that does not fit 128 bits has digits finer than the unit.
    fn times(&self, unit: u128) -> Option<u128> {
        let divisor = gcd(unit, self.scale);
        let (unit, scale) = (unit / divisor, self.scale / divisor);
        let product = self.digits.checked_mul(unit)?;
        product.is_multiple_of(scale).then(|| product / scale)
    }
}

fn split_number(text: &str) -> (&str, &str) {
    text.split_at(text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len()))
}

fn decimal_text(value: u128, scale: u128) -> String {
    let fraction = value % scale;
    if fraction == 0 {
        return (value / scale).to_string();
    }
    let width = scale.ilog10() as usize;
    format!("{}.{}", value / scale, format!("{fraction:0width$}").trim_end_matches('0'))
}

/// `numerator / denominator` as a decimal, if it ends within 18 places.
fn exact_decimal(numerator: u128, denominator: u128) -> Option<String> {
    let divisor = gcd(numerator, denominator);
    let (numerator, denominator) = (numerator / divisor, denominator / divisor);
    let mut scale: u128 = 1;
    for _ in 0..=18 {
        if scale.is_multiple_of(denominator) {
            let value = numerator.checked_mul(scale / denominator)?;
            return (value / scale < 10_u128.pow(18)).then(|| decimal_text(value, scale));
        }
        scale *= 10;
    }
    None
}

pub(crate) fn gcd(mut a: u128, mut b: u128) -> u128 {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_unit_of_a_rate_may_be_a_word() {
        let rate = |text: &str| text.parse::<Rate>();
        for (word, unit) in
            [("500/second", "500/s"), ("500/sec", "500/s"), ("6/minute", "6/min"), ("9/hour", "9/h")]
        {
            assert_eq!(rate(word), rate(unit), "{word}");
        }
        assert_eq!(rate("0").unwrap_err().to_string(), "a rate must be above 0");
    }

    #[test]
    fn durations_are_read_exactly() {
        let cases = [
            ("150ms", 150_000_000),
            ("1.4s", 1_400_000_000),
            ("2m", 120_000_000_000),
            ("2min", 120_000_000_000),
            ("1h30m", 5_400_000_000_000),
            ("50us", 50_000),
            ("50µs", 50_000),
            ("0.3us", 300),
            ("7ns", 7),
            ("0", 0),
            (".5s", 500_000_000),
        ];
        for (text, nanos) in cases {
            assert_eq!(parse_duration(text), Ok(Duration::from_nanos(nanos)), "{text}");
        }
    }

    #[test]
    fn wrong_durations_say_what_to_write() {
        for text in ["", "5", "ms", "5 parsecs", "-1s", "1.2.3s", "5s!", "1e3s"] {
            assert_eq!(parse_duration(text), Err(UnitError::Duration(text.to_owned())), "{text}");
        }
    }

    #[test]
    fn rates_are_exact_rationals() {
        for (text, events, per_ns) in [
            ("20k/s", 20_000, 1_000_000_000),
            ("20000/s", 20_000, 1_000_000_000),
            ("300/min", 5, 1_000_000_000),
            ("0.3/s", 3, 10_000_000_000),
            ("1.5M/s", 1_500_000, 1_000_000_000),
            ("7/3ns", 7, 3),
            ("1/h", 1, 3_600_000_000_000),
            ("500", 500, 1_000_000_000),
            ("20k", 20_000, 1_000_000_000),
            ("0.5", 1, 2_000_000_000),
        ] {
            let rate: Rate = text.parse().unwrap();
            assert_eq!(u128::from(rate.events) * per_ns, events * u128::from(rate.per_ns), "{text}");
        }
    }

    #[test]
    fn rates_display_in_the_unit_that_is_exact() {
        for (text, shown) in [
            ("20k/s", "20000/s"),
            ("300/min", "5/s"),
            ("1/min", "1/min"),
            ("1/h", "1/h"),
            ("0.3/s", "0.3/s"),
            ("1/7ns", "1/7ns"),
        ] {
            assert_eq!(text.parse::<Rate>().unwrap().to_string(), shown);
        }
    }

    #[test]
    fn wrong_rates_say_what_to_write() {
        for text in ["", "k", "20q", "20/", "20 s", "k/s", "20q/s", "20/fortnight", "-3/s", "/s"] {
            assert_eq!(text.parse::<Rate>(), Err(UnitError::Rate(text.into())), "{text}");
        }
        assert_eq!("0/s".parse::<Rate>(), Err(UnitError::RateZero));
        assert_eq!("1/0s".parse::<Rate>(), Err(UnitError::RateZero));
    }

    #[test]
    fn sizes_keep_binary_and_decimal_apart() {
        for (text, bytes) in
            [("64KiB", 65_536), ("64kB", 64_000), ("1.5MiB", 1_572_864), ("512", 512), ("0B", 0)]
        {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
        for text in ["64K", "KiB", "", "1 yard"] {
            assert_eq!(parse_size(text), Err(UnitError::Size(text.into())), "{text}");
        }
    }

    #[test]
    fn what_is_out_of_bounds_is_told_the_bound() {
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
        assert!(parse_duration(DURATION_MAX).is_ok());
        assert_eq!(parse_duration("0001.5000000000000000000000s"), Ok(Duration::from_millis(1500)));
        for text in
            ["99999999999999999999999/s", "99999999999999M/ns", "1/99999999999h", "0.0000000000000000001/s"]
        {
            let refusal = text.parse::<Rate>().unwrap_err().to_string();
            assert!(refusal.contains("give a rate from 1/5124095h to 1000M/s"), "{text}: {refusal}");
        }
        assert!("1/5124095h".parse::<Rate>().is_ok());
        for (text, part) in [
            ("4GiB", "give at most 4294967295B"),
            ("99999999999999999999999GiB", "give at most 4294967295B"),
            ("0.1B", "is no whole number of bytes"),
        ] {
            let refusal = parse_payload(text).unwrap_err().to_string();
            assert!(refusal.contains(part), "{text}: {refusal}");
        }
        assert_eq!(parse_payload("4294967295B"), Ok(u32::MAX));
        assert!(
            parse_size("99999999999999999999GiB")
                .unwrap_err()
                .to_string()
                .contains("at most 18446744073709551615B")
        );
    }

    proptest! {
        #[test]
        fn a_displayed_duration_parses_back(nanos in any::<u64>()) {
            let duration = Duration::from_nanos(nanos);
            prop_assert_eq!(parse_duration(&format_duration(duration)), Ok(duration));
        }

        #[test]
        fn a_displayed_rate_parses_back(events in 1..=u64::MAX, per_ns in 1..=u64::MAX) {
            let rate = Rate::new(events, Duration::from_nanos(per_ns)).unwrap();
            prop_assert_eq!(rate.to_string().parse::<Rate>(), Ok(rate));
        }

        #[test]
        fn a_displayed_size_parses_back(bytes in any::<u64>()) {
            prop_assert_eq!(parse_size(&format_size(bytes)), Ok(bytes));
        }

        #[test]
        fn any_text_is_read_or_refused_without_a_panic(text in "\\PC{0,24}") {
            let _ = parse_duration(&text);
            let _ = text.parse::<Rate>();
            let _ = parse_size(&text);
        }
    }
}
