//! Delays that a client does not wait for: what only holds a request is no failure, until it is longer than the client's
//! patience.

use std::time::Duration;

use fracas_loadgen::measure::Failure;
use fracas_loadgen::scenario::{Fault, behaviors_of, is_cause};

use crate::session::WindowSeen;

/// The behavior that holds what passes.
pub const DELAY: &str = "delay";

/// How many of the faults that a proxy told to have injected were delays long enough to be the cause of a timeout. Of a
/// time that is drawn and may be shorter nobody knows here: none is counted, and such timeouts are not known.
pub fn told(fault: &Fault, seen: &WindowSeen, timeout: Duration) -> u64 {
    let has = |name: &str| behaviors_of(&fault.behavior).any(|behavior| behavior == name);
    if !fault.held_for().is_some_and(|(shortest, _)| is_cause(shortest, timeout)) {
        return 0;
    }
    // Where nothing hangs, silence is told of delays alone, and of none that was told to be over.
    let is_other = |kind: &Failure| *kind != Failure::Silent || has("hang");
    let others: u64 =
        Failure::ALL.iter().filter(|kind| is_other(kind)).map(|kind| seen.failures[*kind as usize]).sum();
    seen.injected.saturating_sub(others)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_delays_that_are_long_enough_are_counted() {
        let timeout = Duration::from_millis(500);
        let count = |behavior: &str, options: &[(&str, &str)], injected, failures| {
            let values =
                options.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
            let fault = Fault {
                proxy: "cache".to_owned(),
                behavior: behavior.to_owned(),
                options: if behavior == "hang" { [].into() } else { [("delay".to_owned(), values)].into() },
                at: Duration::ZERO,
                over: Duration::from_secs(1),
            };
            let seen = WindowSeen {
                fault: String::new(),
                started_at: fracas_dataplane::clock::Instant::default(),
                ended_at: None,
                injected,
                failures,
                listen: None,
                proxy: String::new(),
                behavior: String::new(),
            };
            told(&fault, &seen, timeout)
        };
        let none = [0; Failure::COUNT];
        for (behavior, options, injected, failures, expected, what) in [
            ("20:delay", &[("time", "250ms")][..], 9, none, 9, "half of the timeout"),
            ("20:delay", &[("time", "249ms")], 9, none, 0, "shorter"),
            ("20:delay", &[], 9, none, 9, "a second unless told"),
            ("20:latency", &[("time", "2s")], 9, none, 9, "its other name"),
            ("20:delay", &[("time", "300ms"), ("jitter", "100ms")], 9, none, 0, "perhaps shorter"),
            ("20:delay", &[("time", "uniform(249ms,2s)")], 9, none, 0, "drawn"),
            ("20:delay", &[("time", "uniform(250ms,2s)")], 9, none, 9, "drawn, and never shorter"),
            ("20:delay", &[("time", "normal(2s,1ms)")], 9, none, 0, "drawn without an end"),
            ("20:delay", &[("sleep", "2")], 9, none, 9, "a name of another tool"),
            ("20:delay,5:error", &[("time", "2s")], 9, [2, 1, 0, 0], 6, "errors are told for themselves"),
            (
                "20:delay",
                &[("time", "2s")],
                9,
                [0, 0, 0, 4],
                9,
                "of four more the client did not wait for the end",
            ),
            ("20:delay,5:hang", &[("time", "2s")], 9, [0, 0, 0, 4], 5, "four hung"),
            ("hang", &[], 9, [0, 0, 0, 9], 0, "no delay"),
        ] {
            assert_eq!(count(behavior, options, injected, failures), expected, "{what}");
        }
    }
}
