//! What each time of a proxy may be. Config file, command line and API all ask here, so that one bound holds everywhere.

use std::time::Duration;

use crate::behavior::OPTION_DURATION_MAX;
use crate::units::duration_text;

/// What one time of a proxy may be.
#[derive(Debug)]
pub struct TimeLimit {
    /// Its key in a config, and its field in the API; a flag has dashes.
    pub name: &'static str,
    /// Whether it may be 0, which has a meaning of its own.
    pub takes_zero: bool,
    /// The shortest that it may be, but for 0.
    pub min: Duration,
    /// The longest.
    pub max: Duration,
    /// Both in words, with an example.
    pub expected: &'static str,
}

/// How long a connect to the upstream may take.
pub const CONNECT_TIMEOUT: TimeLimit =
    limit("connect_timeout", false, "a duration from 1ms to 24h such as 2s");
/// How long the addresses of an upstream's name are good for; shorter, look-ups would follow each other without a pause.
pub const RESOLVE: TimeLimit = TimeLimit {
    min: Duration::from_millis(100),
    ..limit("resolve", true, "a duration from 100ms to 24h such as 30s, or 0 for one lookup only")
};
/// How long nothing may pass on a connection.
pub const IDLE_TIMEOUT: TimeLimit =
    limit("idle_timeout", true, "a duration from 1ms to 24h such as 10m, or 0 for none");
/// How long a side may keep its socket after everything that is due to it.
pub const LINGER: TimeLimit =
    limit("linger", true, "a duration from 1ms to 24h such as 5s, or 0 for no wait");
/// How long nothing may pass after one side has ended.
pub const HALF_CLOSE: TimeLimit = limit("half_close", false, "a duration from 1ms to 24h such as 60s");
/// Silence after which the kernel asks a peer: it counts whole seconds, up to 32,767 (tcp(7)).
pub const KEEPALIVE: TimeLimit = TimeLimit {
    min: Duration::from_secs(1),
    max: Duration::from_secs(9 * 3600),
    ..limit("keepalive", true, "a duration from 1s to 9h such as 60s, or 0 for no probes")
};
/// How long SIGTERM waits for connections.
pub const DRAIN: TimeLimit = limit("drain", true, "a duration from 1ms to 24h such as 10s, or 0 for no wait");

const fn limit(name: &'static str, takes_zero: bool, expected: &'static str) -> TimeLimit {
    TimeLimit { name, takes_zero, min: Duration::from_millis(1), max: OPTION_DURATION_MAX, expected }
}

impl TimeLimit {
    /// Whether it may be so long.
    pub fn takes(&self, time: Duration) -> bool {
        if time.is_zero() { self.takes_zero } else { (self.min..=self.max).contains(&time) }
    }

    /// Gives the time back if it may be so long.
    ///
    /// # Errors
    /// When it may not: what it may be, in words.
    pub fn check(&self, time: Duration) -> Result<Duration, String> {
        match self.takes(time) {
            true => Ok(time),
            false => Err(format!("{} is outside; give {}", duration_text(time), self.expected)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_time_has_its_bounds_and_says_them() {
        let hours = |hours: u64| Duration::from_secs(3600 * hours);
        for (limit, zero, min_ms, max) in [
            (CONNECT_TIMEOUT, false, 1, hours(24)),
            (RESOLVE, true, 100, hours(24)),
            (IDLE_TIMEOUT, true, 1, hours(24)),
            (LINGER, true, 1, hours(24)),
            (HALF_CLOSE, false, 1, hours(24)),
            (KEEPALIVE, true, 1000, hours(9)),
            (DRAIN, true, 1, hours(24)),
        ] {
            let (min, just) = (Duration::from_millis(min_ms), Duration::from_nanos(1));
            assert_eq!(limit.takes(Duration::ZERO), zero, "{}", limit.name);
            for (time, takes) in [
                (just, false),
                (min - just, false),
                (min, true),
                (max, true),
                (max + just, false),
                (Duration::MAX, false),
            ] {
                assert_eq!(limit.takes(time), takes, "{} {time:?}", limit.name);
            }
            for bound in [duration_text(min), format!("{}h", max.as_secs() / 3600)] {
                assert!(limit.expected.contains(&bound), "{}: {bound}", limit.name);
            }
            assert_eq!(limit.expected.contains("or 0"), zero, "{}", limit.name);
        }
        assert_eq!(
            LINGER.check(hours(25)).unwrap_err(),
            "90000s is outside; give a duration from 1ms to 24h such as 5s, or 0 for no wait"
        );
    }
}
