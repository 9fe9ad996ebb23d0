//! How often something is due: `20k/s`, `0.3/s`, `1/min`.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::UnitError;
use super::decimal::{Decimal, NotDecimal, exact_decimal, gcd, split_number};
use super::duration::{parse_duration, unit_ns};

/// What a letter behind the number stands for.
fn multiplier(letter: &str) -> Option<u128> {
    match letter {
        "" => Some(1),
        "k" | "K" => Some(1_000),
        "M" => Some(1_000_000),
        _ => None,
    }
}

/// Nanoseconds of what stands behind the `/` of a rate: a unit or its name, or a duration.
///
/// # Errors
/// As of [`parse_duration`].
pub(super) fn per_ns(text: &str) -> Result<u128, UnitError> {
    let text = text.trim();
    let unit = match text {
        "sec" | "second" => "s",
        "minute" => "min",
        "hour" => "h",
        _ if text.starts_with(|c: char| c.is_ascii_digit()) => {
            return parse_duration(text).map(|per| per.as_nanos());
        }
        unit => unit,
    };
    unit_ns(unit).ok_or_else(|| UnitError::Duration(text.to_owned()))
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
        let range = || UnitError::RateRange(text.to_owned());
        // A bare number is a second's: who writes `500` means no other time.
        let (amount, per) = text.trim().split_once('/').unwrap_or((text.trim(), "s"));
        let (number, letter) = split_number(amount.trim());
        let multiplier = multiplier(letter.trim()).ok_or_else(bad)?;
        let per_ns = per_ns(per).map_err(|why| match why {
            UnitError::Duration(_) => bad(),
            _ => range(),
        })?;
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

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
    fn rates_are_exact_rationals() {
        for (text, events, per_ns) in [
            ("20k/s", 20_000, 1_000_000_000),
            ("20000/s", 20_000, 1_000_000_000),
            ("300/min", 5, 1_000_000_000),
            ("0.3/s", 3, 10_000_000_000),
            ("1.5M/s", 1_500_000, 1_000_000_000),
            ("7/3ns", 7, 3),
            ("9/1h30m", 1, 600_000_000_000),
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
        for text in ["", "k", "20q", "20/", "20 s", "k/s", "20q/s", "20/fortnight", "-3/s", "/s", "20/5"] {
            assert_eq!(text.parse::<Rate>(), Err(UnitError::Rate(text.into())), "{text}");
        }
        assert_eq!("0/s".parse::<Rate>(), Err(UnitError::RateZero));
        assert_eq!("1/0s".parse::<Rate>(), Err(UnitError::RateZero));
        for text in
            ["99999999999999999999999/s", "99999999999999M/ns", "1/99999999999h", "0.0000000000000000001/s"]
        {
            let refusal = text.parse::<Rate>().unwrap_err().to_string();
            assert!(refusal.contains("give a rate from 1/5124095h to 1000M/s"), "{text}: {refusal}");
        }
        assert!("1/5124095h".parse::<Rate>().is_ok());
    }

    proptest! {
        #[test]
        fn a_displayed_rate_reads_back(events in 1..=u64::MAX, per_ns in 1..=u64::MAX) {
            let rate = Rate::new(events, Duration::from_nanos(per_ns)).unwrap();
            prop_assert_eq!(rate.to_string().parse::<Rate>(), Ok(rate));
        }

        #[test]
        fn any_text_is_read_or_refused_without_a_panic(text in "\\PC{0,24}") {
            let _ = text.parse::<Rate>().map_err(|why| why.to_string());
        }
    }
}
