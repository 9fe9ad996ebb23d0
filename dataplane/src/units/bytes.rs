//! Numbers of bytes, `64KiB`, and how many pass in a second, `1MB/s` or `8Mbit/s`.

use super::UnitError;
use super::decimal::{Decimal, NotDecimal, gcd, is_zero, split_number};
use super::rate::per_ns;

/// Bytes of each unit; a letter alone is decimal, as in the rates of networks.
const UNITS: [(&str, u128); 12] = [
    ("", 1),
    ("B", 1),
    ("k", 1_000),
    ("kB", 1_000),
    ("KB", 1_000),
    ("KiB", 1 << 10),
    ("M", 1_000_000),
    ("MB", 1_000_000),
    ("MiB", 1 << 20),
    ("G", 1_000_000_000),
    ("GB", 1_000_000_000),
    ("GiB", 1 << 30),
];

/// What stands in front of `bit`.
const BIT_PREFIXES: [(&str, u128); 5] =
    [("", 1), ("k", 1_000), ("K", 1_000), ("M", 1_000_000), ("G", 1_000_000_000)];

fn scale_of(unit: &str, units: &[(&str, u128)]) -> Option<u128> {
    units.iter().find(|(name, _)| *name == unit).map(|(_, scale)| *scale)
}

/// Reads `64KiB`, `1.5MB`, `20k`, `512B` or plain `512` into bytes.
///
/// # Errors
/// When the text is not a number of bytes, or is no whole one.
pub fn parse_bytes(text: &str) -> Result<u64, UnitError> {
    parse_bytes_up_to(text, u64::MAX)
}

/// Like [`parse_bytes`], for what takes `most` bytes.
///
/// # Errors
/// As of [`parse_bytes`]; more than `most` are too large.
pub fn parse_bytes_up_to(text: &str, most: u64) -> Result<u64, UnitError> {
    let bad = || UnitError::Bytes(text.to_owned());
    let large = || UnitError::BytesLarge(text.to_owned(), most);
    let (number, unit) = split_number(text.trim());
    let scale = scale_of(unit.trim(), &UNITS).ok_or_else(bad)?;
    let decimal = Decimal::parse(number).map_err(|wrong| match wrong {
        NotDecimal::NoNumber => bad(),
        NotDecimal::Fine => UnitError::BytesFine(text.to_owned()),
        NotDecimal::Large => large(),
    })?;
    let bytes = decimal.times(scale).ok_or_else(|| UnitError::BytesFine(text.to_owned()))?;
    u64::try_from(bytes).ok().filter(|bytes| *bytes <= most).ok_or_else(large)
}

/// Writes a number of bytes in the largest unit that it is a whole number of: `64KiB`, `1MB`, `0`.
pub fn bytes_text(bytes: u64) -> String {
    let units = [
        ("GiB", 1 << 30),
        ("GB", 1_000_000_000),
        ("MiB", 1 << 20),
        ("MB", 1_000_000),
        ("KiB", 1 << 10),
        ("kB", 1_000),
    ];
    match units.into_iter().find(|(_, scale)| bytes.is_multiple_of(*scale)) {
        _ if bytes == 0 => "0".to_owned(),
        Some((unit, scale)) => format!("{}{unit}", bytes / scale),
        None => format!("{bytes}B"),
    }
}

/// Reads bytes or bits in a time into bytes a second: `1MB/s`, `64KiB/s`, `8Mbit/s`, `60MB/min`; 0 needs no unit.
///
/// A part of a byte a second is left out, so 100 bits are 12 bytes; but what is above 0 is never read as 0, which
/// would stop all: `None`, as for what is no rate or does not fit 64 bits.
pub fn parse_byte_rate(text: &str) -> Option<u64> {
    let text = text.trim();
    if is_zero(text) {
        return Some(0);
    }
    let (amount, per) = text.split_once('/')?;
    let (number, unit) = split_number(amount.trim());
    let unit = unit.trim();
    let (unit, bits_per_byte) = match unit.strip_suffix("bit") {
        Some(prefix) => (scale_of(prefix, &BIT_PREFIXES)?, 8),
        None => (scale_of(unit, &UNITS)?, 1),
    };
    let decimal = Decimal::parse(number).ok()?;
    let per_ns = per_ns(per).ok().filter(|ns| *ns > 0)?;
    let (times, parts) =
        (unit * 1_000_000_000, decimal.scale.checked_mul(per_ns)?.checked_mul(bits_per_byte)?);
    let divisor = gcd(times, parts);
    let rate = decimal.digits.checked_mul(times / divisor)? / (parts / divisor);
    u64::try_from(rate).ok().filter(|rate| *rate > 0 || decimal.digits == 0)
}

/// Writes bytes a second: `1MB/s`; 0 needs no unit.
pub fn byte_rate_text(rate: u64) -> String {
    if rate == 0 { "0".to_owned() } else { format!("{}/s", bytes_text(rate)) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn units_of_two_and_of_ten_are_kept_apart() {
        for (text, bytes) in [
            ("64KiB", 65_536),
            ("64kB", 64_000),
            ("64KB", 64_000),
            ("64k", 64_000),
            ("1.5MiB", 1_572_864),
            ("512", 512),
            ("0B", 0),
            ("18446744073709551615", u64::MAX),
        ] {
            assert_eq!(parse_bytes(text), Ok(bytes), "{text}");
        }
        for text in ["64K", "KiB", "", "1 yard", "-1", "1e3", "1,000"] {
            assert_eq!(parse_bytes(text), Err(UnitError::Bytes(text.into())), "{text}");
        }
    }

    #[test]
    fn what_is_out_of_bounds_is_told_the_bound() {
        let most = u64::from(u32::MAX);
        for (text, part) in [
            ("4GiB", "give at most 4294967295B"),
            ("99999999999999999999999GiB", "give at most 4294967295B"),
            ("0.1B", "is no whole number of bytes"),
            ("1.0001kB", "is no whole number of bytes"),
        ] {
            let refusal = parse_bytes_up_to(text, most).unwrap_err().to_string();
            assert!(refusal.contains(part), "{text}: {refusal}");
        }
        assert_eq!(parse_bytes_up_to("4294967295B", most), Ok(most));
        let refusal = parse_bytes("99999999999999999999GiB").unwrap_err().to_string();
        assert!(refusal.contains("at most 18446744073709551615B"), "{refusal}");
    }

    #[test]
    fn rates_are_bytes_or_bits_in_a_time() {
        for (text, expected) in [
            ("1MB/s", Some(1_000_000)),
            ("64KiB/s", Some(65_536)),
            ("8Mbit/s", Some(1_000_000)),
            ("8 M bit / s", None),
            ("8 Mbit / s", Some(1_000_000)),
            ("9600bit/s", Some(1200)),
            ("20k/s", Some(20_000)),
            ("100/s", Some(100)),
            ("60MB/min", Some(1_000_000)),
            ("1MB/second", Some(1_000_000)),
            ("1kB/100ms", Some(10_000)),
            ("0", Some(0)),
            ("0/s", Some(0)),
            ("1.5 kB/s", Some(1500)),
            ("100bit/s", Some(12)),
            ("1.5B/s", Some(1)),
            // Not 0, which stalls.
            ("1bit/s", None),
            ("1B/h", None),
            ("18446744073709551615B/s", Some(u64::MAX)),
            ("18446744073709551616B/s", None),
            ("1MB/0s", None),
            ("100", None),
            ("1MB", None),
            ("1MB/", None),
            ("1XB/s", None),
            ("-1MB/s", None),
            ("1e3B/s", None),
            ("8mbit/s", None),
            ("99999999999GB/s", None),
        ] {
            assert_eq!(parse_byte_rate(text), expected, "{text}");
        }
    }

    #[test]
    fn bytes_are_written_as_people_write_them() {
        for (count, expected) in
            [(0, "0"), (1, "1B"), (1460, "1460B"), (65_536, "64KiB"), (1_000_000, "1MB"), (1 << 30, "1GiB")]
        {
            assert_eq!(bytes_text(count), expected);
        }
        assert_eq!((byte_rate_text(0), byte_rate_text(8_000)), ("0".to_owned(), "8kB/s".to_owned()));
    }

    proptest! {
        #[test]
        fn written_bytes_read_back(count in any::<u64>(), zeros in 0..4_u32) {
            let count = count - count % 1000_u64.pow(zeros);
            prop_assert_eq!(parse_bytes(&bytes_text(count)), Ok(count));
            prop_assert_eq!(parse_byte_rate(&byte_rate_text(count)), Some(count));
        }

        #[test]
        fn any_text_is_read_or_refused_without_a_panic(text in "\\PC{0,24}") {
            let _ = parse_bytes(&text).map_err(|why| why.to_string());
            let _ = parse_byte_rate(&text);
        }
    }
}
