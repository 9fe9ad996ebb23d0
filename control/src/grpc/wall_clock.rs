//! Instants of the monotonic clock as wall-clock times, for people.

use std::time::{SystemTime, UNIX_EPOCH};

use fracas_dataplane::clock::Instant;

/// The two clocks read together.
#[derive(Clone, Copy, Debug)]
pub struct WallClock {
    at: Instant,
    unix_ns: i128,
}

impl WallClock {
    /// Reads both.
    #[expect(clippy::disallowed_methods, reason = "people read it; nothing is measured with it")]
    pub fn read() -> WallClock {
        let unix_ns = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_nanos() as i128);
        WallClock { at: Instant::now(), unix_ns }
    }

    /// The wall-clock time of an instant, as far as the clock has not been set since.
    pub fn time(&self, instant: Instant) -> prost_types::Timestamp {
        let offset = i128::from(instant.as_nanos()) - i128::from(self.at.as_nanos());
        let unix_ns = (self.unix_ns + offset).max(0);
        prost_types::Timestamp {
            seconds: i64::try_from(unix_ns / 1_000_000_000).unwrap_or(i64::MAX),
            nanos: (unix_ns % 1_000_000_000) as i32,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn instants_keep_their_distance_on_the_wall() {
        let clock = WallClock { at: Instant::from_nanos(5_000_000_000), unix_ns: 1_700_000_000_900_000_000 };
        let time = clock.time(Instant::from_nanos(5_000_000_000) + Duration::from_millis(200));
        assert_eq!((time.seconds, time.nanos), (1_700_000_001, 100_000_000));
        let before = clock.time(Instant::from_nanos(4_000_000_000));
        assert_eq!((before.seconds, before.nanos), (1_699_999_999, 900_000_000));
    }
}
