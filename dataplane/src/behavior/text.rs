//! Writes values of options as text with units: what `options` reads, without loss.

use std::time::Duration;

/// A duration in the largest unit that it is a whole number of: `1500ms`.
pub fn duration_text(duration: Duration) -> String {
    let nanos = duration.as_nanos();
    let units = [("s", 1_000_000_000), ("ms", 1_000_000), ("us", 1_000)];
    match units.into_iter().find(|(_, scale)| nanos.is_multiple_of(*scale)) {
        _ if nanos == 0 => "0".to_owned(),
        Some((unit, scale)) => format!("{}{unit}", nanos / scale),
        None => format!("{nanos}ns"),
    }
}

/// A number of bytes in the largest unit that it is a whole number of: `64KiB`, `1MB`.
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

/// Bytes per second: `1MB/s`; 0 needs no unit.
pub fn rate_text(rate: u64) -> String {
    if rate == 0 { "0".to_owned() } else { format!("{}/s", bytes_text(rate)) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::{OPTION_DURATION_MAX, bytes, duration, rate};
    use super::*;

    #[test]
    fn values_are_written_as_people_write_them() {
        for (nanos, expected) in [
            (0, "0"),
            (150_000_000, "150ms"),
            (1_500_000_000, "1500ms"),
            (90_000_000_000, "90s"),
            (10_000, "10us"),
            (10_001, "10001ns"),
        ] {
            assert_eq!(duration_text(Duration::from_nanos(nanos)), expected);
        }
        for (count, expected) in
            [(0, "0"), (1, "1B"), (1460, "1460B"), (65_536, "64KiB"), (1_000_000, "1MB"), (1 << 30, "1GiB")]
        {
            assert_eq!(bytes_text(count), expected);
        }
        assert_eq!((rate_text(0), rate_text(8_000)), ("0".to_owned(), "8kB/s".to_owned()));
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back_the_same(
            nanos in 0..=OPTION_DURATION_MAX.as_nanos() as u64, scale in 0..4_u32, count in 0..1_u64 << 53,
        ) {
            let nanos = nanos - nanos % 1000_u64.pow(scale);
            let time = Duration::from_nanos(nanos);
            prop_assert_eq!(duration(&duration_text(time), ""), Some(time));
            prop_assert_eq!(bytes(&bytes_text(count)), Some(count));
            prop_assert_eq!(rate(&rate_text(count)), Some(count));
        }
    }
}
