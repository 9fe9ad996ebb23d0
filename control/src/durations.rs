//! Durations as others send them.

use std::time::Duration;

/// Ours of a duration; `None` when it is missing, or negative.
pub fn duration(given: Option<prost_types::Duration>) -> Option<Duration> {
    // The conversion overflows for the least of all seconds: it would make a positive one of it for its error.
    given.filter(|given| given.seconds >= 0).and_then(|given| Duration::try_from(given).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_time_is_none_and_nothing_overflows() {
        let longest = Duration::new(i64::MAX as u64, 999_999_999);
        for (seconds, nanos, expected) in [
            (0, 0, Some(Duration::ZERO)),
            (1, 5, Some(Duration::new(1, 5))),
            (0, -1, None),
            (-1, 0, None),
            (i64::MIN, 0, None),
            (i64::MIN, i32::MIN, None),
            (1, i32::MIN, None),
            (i64::MAX, i32::MAX, Some(longest)),
        ] {
            assert_eq!(
                duration(Some(prost_types::Duration { seconds, nanos })),
                expected,
                "{seconds} {nanos}"
            );
        }
        assert_eq!(duration(None), None);
    }
}
