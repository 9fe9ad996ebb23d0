//! Times that flags take, each within its bounds.

use std::time::Duration;

use fracas_dataplane::config::limits::TimeLimit;
use fracas_dataplane::units;

/// How long a connection of an API may be without a call.
pub const API_IDLE: TimeLimit = from_100ms("api-idle", 24, "a duration from 100ms to 24h such as 5m");
/// After which silence a node is given up.
pub const LOST_AFTER: TimeLimit = from_100ms("lost-after", 24, "a duration from 100ms to 24h such as 10s");
/// After which silence of its controller a node stops its load.
pub const ORPHAN_TIMEOUT: TimeLimit =
    from_100ms("orphan-timeout", 24, "a duration from 100ms to 24h such as 30s");
/// How long a run waits for what nobody has.
pub const QUEUE_TIMEOUT: TimeLimit =
    from_100ms("queue-timeout", 720, "a duration from 100ms to 720h such as 10m");

const fn from_100ms(name: &'static str, hours_max: u64, expected: &'static str) -> TimeLimit {
    let (min, max) = (Duration::from_millis(100), Duration::from_secs(hours_max * 3600));
    TimeLimit { name, takes_zero: false, min, max, expected }
}

/// Reads a time for a flag that has bounds.
pub fn within(
    limit: &'static TimeLimit,
) -> impl Fn(&str) -> Result<Duration, String> + Clone + Send + Sync + 'static {
    move |text| limit.check(units::parse_duration(text).map_err(|why| why.to_string())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flag_takes_what_is_within_its_bounds() {
        for (limit, text, fits) in [
            (&API_IDLE, "5m", true),
            (&API_IDLE, "0", false),
            (&API_IDLE, "99ms", false),
            (&API_IDLE, "100ms", true),
            (&API_IDLE, "24h", true),
            (&API_IDLE, "25h", false),
            (&LOST_AFTER, "0s", false),
            (&ORPHAN_TIMEOUT, "1us", false),
            (&QUEUE_TIMEOUT, "720h", true),
            (&QUEUE_TIMEOUT, "721h", false),
            (&QUEUE_TIMEOUT, "soon", false),
        ] {
            assert_eq!(within(limit)(text).is_ok(), fits, "--{} {text}", limit.name);
        }
    }
}
