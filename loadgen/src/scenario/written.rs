//! A [`Plan`] as a run file: with the keys that `parse.rs` reads, so that what a `run.json` holds runs again as it is.
//!
//! Every setting is written, the defaults too: a default that changes later changes no run that is repeated.

use std::collections::HashSet;

use fracas_dataplane::units::{bytes_text, exact_duration_text};
use serde::ser::{SerializeMap, SerializeSeq};
use serde::{Serialize, Serializer};

use super::{Fault, LatePolicy, Load, OnNodeLoss, Pace, Phase, Plan, Reuse, Step, Stop, Target};

impl Serialize for Plan {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        // Each field by name: one that is added and not written would be lost on the way to a node.
        let Plan {
            name,
            target,
            method,
            headers,
            body,
            payload_bytes,
            keep_alive,
            connections,
            threads,
            connect_timeout,
            response_timeout,
            phases,
            drain,
            source_addresses,
            connect_rate,
            retry_pause,
            reuse,
            late,
            precise,
            seed,
            slo,
            faults,
            nodes,
            on_node_loss,
        } = self;
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("name", name)?;
        map.serialize_entry("target", target)?;
        match target {
            Target::Http { .. } => {
                map.serialize_entry("method", method)?;
                map.serialize_entry("headers", &Headers(headers))?;
                map.serialize_entry("body", body)?;
            }
            Target::Tcp { .. } => map.serialize_entry("payload", &bytes_text(u64::from(*payload_bytes)))?,
        }
        map.serialize_entry("keep_alive", keep_alive)?;
        map.serialize_entry("nodes", nodes)?;
        map.serialize_entry("connections", connections)?;
        map.serialize_entry("threads", threads)?;
        map.serialize_entry("phases", phases)?;
        map.serialize_entry("connect_timeout", &exact_duration_text(*connect_timeout))?;
        map.serialize_entry("response_timeout", &exact_duration_text(*response_timeout))?;
        map.serialize_entry("drain", &exact_duration_text(*drain))?;
        map.serialize_entry("source_addresses", source_addresses)?;
        map.serialize_entry("connect_rate", connect_rate)?;
        let reuse = match reuse {
            Reuse::Rotate => "rotate",
            Reuse::Hot => "hot",
        };
        map.serialize_entry("reuse", reuse)?;
        if phases.iter().any(|phase| matches!(phase.load, Load::Closed { .. })) {
            map.serialize_entry("retry_pause", &exact_duration_text(*retry_pause))?;
        }
        if let LatePolicy::DropAfter(limit) = late {
            map.serialize_entry("drop_after", &exact_duration_text(*limit))?;
        }
        map.serialize_entry("precise", precise)?;
        map.serialize_entry("seed", seed)?;
        map.serialize_entry("slo", slo)?;
        map.serialize_entry("faults", faults)?;
        let on_node_loss = match on_node_loss {
            OnNodeLoss::Invalid => "invalid",
            OnNodeLoss::Continue => "continue",
        };
        map.serialize_entry("on_node_loss", on_node_loss)?;
        map.end()
    }
}

/// A mapping, or a list of mappings when a name stands twice.
struct Headers<'a>(&'a [(String, String)]);

impl Serialize for Headers<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut seen = HashSet::new();
        if self.0.iter().all(|(name, _)| seen.insert(name)) {
            return serializer.collect_map(self.0.iter().map(|(name, value)| (name, value)));
        }
        let mut list = serializer.serialize_seq(Some(self.0.len()))?;
        for header in self.0 {
            list.serialize_element(&Headers(std::slice::from_ref(header)))?;
        }
        list.end()
    }
}

impl Serialize for Phase {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Phase { load, stop, warm_up } = self;
        let mut map = serializer.serialize_map(None)?;
        match load {
            Load::Open(Pace::Constant { rate }) => map.serialize_entry("rate", rate)?,
            Load::Open(Pace::Poisson { rate }) => {
                map.serialize_entry("rate", rate)?;
                map.serialize_entry("arrivals", "poisson")?;
            }
            Load::Open(Pace::Ramp { from, to }) => {
                map.serialize_entry("ramp", &serde_json::json!({"from": from, "to": to}))?;
            }
            Load::Open(Pace::Steps(steps)) => map.serialize_entry("steps", steps)?,
            Load::Closed { users, think_time } => {
                map.serialize_entry("users", users)?;
                map.serialize_entry("think_time", &exact_duration_text(*think_time))?;
            }
        }
        match stop {
            Stop::After(over) => map.serialize_entry("for", &exact_duration_text(*over))?,
            Stop::Requests(count) => map.serialize_entry("requests", count)?,
        }
        if *warm_up {
            map.serialize_entry("warm_up", warm_up)?;
        }
        map.end()
    }
}

impl Serialize for Step {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Step { rate, over } = self;
        let mut map = serializer.serialize_map(Some(2))?;
        map.serialize_entry("rate", rate)?;
        map.serialize_entry("for", &exact_duration_text(*over))?;
        map.end()
    }
}

impl Serialize for Fault {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Fault { proxy, behavior, options, at, over } = self;
        let mut map = serializer.serialize_map(Some(5))?;
        map.serialize_entry("proxy", proxy)?;
        map.serialize_entry("behavior", behavior)?;
        map.serialize_entry("options", options)?;
        map.serialize_entry("at", &exact_duration_text(*at))?;
        map.serialize_entry("for", &exact_duration_text(*over))?;
        map.end()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::Duration;

    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;
    use crate::scenario::{Rate, Slo, check_idle, parse};

    fn time() -> impl Strategy<Value = Duration> {
        (1..=10_000_000_000_000_u64).prop_map(Duration::from_nanos)
    }

    fn rate() -> impl Strategy<Value = Rate> {
        (1..=100_000_u64, 1..=100_000_u64)
            .prop_map(|(n, ms)| Rate::new(n, Duration::from_millis(ms)).unwrap())
    }

    fn load() -> impl Strategy<Value = (Load, Option<Duration>)> {
        let open = |pace| (Load::Open(pace), None);
        let steps = vec((rate(), time()).prop_map(|(rate, over)| Step { rate, over }), 1..4);
        prop_oneof![
            rate().prop_map(move |rate| open(Pace::Constant { rate })),
            rate().prop_map(move |rate| open(Pace::Poisson { rate })),
            (rate(), rate()).prop_map(move |(from, to)| open(Pace::Ramp { from, to })),
            steps.prop_map(|steps| {
                let total = steps.iter().map(|step| step.over).sum();
                (Load::Open(Pace::Steps(steps)), Some(total))
            }),
            (1..=50_u32, prop_oneof![Just(Duration::ZERO), time()])
                .prop_map(|(users, think_time)| (Load::Closed { users, think_time }, None)),
        ]
    }

    fn phase() -> impl Strategy<Value = Phase> {
        (load(), time(), any::<bool>()).prop_map(|((load, total), over, warm_up)| {
            let stop = Stop::After(total.unwrap_or(over));
            Phase { load, stop, warm_up }
        })
    }

    fn fault() -> impl Strategy<Value = Fault> {
        let text = "[a-z0-9:{} #'\"-]{1,9}";
        let options = proptest::collection::btree_map("[a-z]{1,5}", text, 0..3)
            .prop_map(|values| BTreeMap::from([("delay".to_owned(), values)]));
        (text, text, options, time()).prop_map(|(proxy, behavior, options, over)| Fault {
            proxy,
            behavior,
            options,
            at: Duration::ZERO,
            over,
        })
    }

    /// Any plan that a file, flags or a node may hold: valid, and without a setting that does nothing.
    fn plan() -> impl Strategy<Value = Plan> {
        let target = prop_oneof![
            Just("http://10.0.3.7:8080/a?b=c"),
            Just("http://[::1]/"),
            Just("tcp://h:7"),
            Just("localhost:8080"),
        ];
        let slo = prop_oneof![Just("p99.9<=50ms"), Just("errors{natural}<0.1%"), Just("max{ok} < 1s")]
            .prop_map(|text| text.parse::<Slo>().unwrap());
        let headers = vec(("[A-Za-z-]{1,4}".prop_filter("made", |n| n != "TE"), "[ -~]{0,8}"), 0..4);
        let first = (target, "\\PC{0,12}", headers, vec(any::<u8>(), 0..12), any::<bool>(), 1..=9_u32);
        let second = (vec(phase(), 1..4), 0..=50_u64, vec(slo, 0..3), vec(fault(), 0..3));
        let third = (time(), time(), rate(), any::<Option<u64>>(), any::<u64>(), any::<bool>());
        (first, second, third).prop_map(|(first, second, third)| {
            let (target, name, headers, body, keep_alive, nodes) = first;
            let (phases, count, slo, faults) = second;
            let (connect_timeout, drain, connect_rate, drop_after, seed, goes_on) = third;
            let mut plan = Plan::for_target(target.parse().unwrap());
            let is_http = matches!(plan.target, Target::Http { .. });
            (plan.name, plan.keep_alive, plan.nodes, plan.connections) = (name, keep_alive, nodes, 50);
            if is_http {
                (plan.headers, plan.method) = (headers, "PURGE".to_owned());
                plan.body = body.into();
            } else {
                plan.payload_bytes = 1 + body.len() as u32;
            }
            plan.phases = phases;
            let is_open = plan.phases.iter().any(|phase| matches!(phase.load, Load::Open(_)));
            if let Some(after) = drop_after.filter(|_| is_open) {
                plan.late = LatePolicy::DropAfter(Duration::from_nanos(after));
                (plan.precise, plan.reuse) = (true, Reuse::Hot);
            }
            if plan.phases.iter().any(|phase| matches!(phase.load, Load::Closed { .. })) {
                plan.retry_pause = drain;
            }
            if let Some(last) = plan.phases.last_mut() {
                last.warm_up = false;
                let by_count =
                    count > 0 && !matches!(last.load, Load::Open(Pace::Ramp { .. } | Pace::Steps(_)));
                last.stop = if by_count { Stop::Requests(count) } else { last.stop };
            }
            (plan.slo, plan.faults, plan.seed) = (slo, faults, seed);
            (plan.connect_timeout, plan.drain, plan.connect_rate) = (connect_timeout, drain, connect_rate);
            plan.source_addresses = vec!["127.0.0.2".parse().unwrap(), "::1".parse().unwrap()];
            plan.on_node_loss = if goes_on { OnNodeLoss::Continue } else { OnNodeLoss::Invalid };
            plan
        })
    }

    proptest! {
        #[test]
        fn a_plan_runs_again_as_it_is(plan in plan()) {
            // A few draws are plans that nothing would have made, such as a ramp over ten thousand hours.
            prop_assume!(plan.validate().is_ok());
            prop_assert_eq!(check_idle(&plan, |_| false), Ok(()));
            let json = serde_json::to_string_pretty(&plan).unwrap();
            prop_assert_eq!(&parse("run.json", &json).expect(&json), &plan, "as a file: {}", json);
            prop_assert_eq!(&serde_json::from_str::<Plan>(&json).expect(&json), &plan, "on the wire: {}", json);
        }
    }

    /// JSON lets these stand in a string as they are, YAML does not.
    #[test]
    fn characters_that_yaml_refuses_come_back() {
        let mut plan = Plan::for_target("http://h/".parse().unwrap());
        for c in [
            '\u{7f}',
            '\u{80}',
            '\u{85}',
            '\u{9f}',
            '\u{a0}',
            '\u{2028}',
            '\u{feff}',
            '\u{fffe}',
            '\u{ffff}',
            '\u{1fffe}',
            '\t',
            '\u{1}',
        ] {
            // A name stays on its line.
            plan.name = if c.is_control() { "ab".to_owned() } else { format!("a{c}b") };
            plan.body = format!("{c}\"\\{c}").into_bytes().into();
            let json = serde_json::to_string(&plan).unwrap();
            assert_eq!(parse("run.json", &json).expect(&json), plan, "{c:?}");
            assert_eq!(parse("run.json", &format!("{{\"plan\": {json}}}")).expect(&json), plan, "{c:?}");
        }
    }

    #[test]
    fn a_header_that_stands_twice_stays_twice() {
        let file = "target: http://h/\nheaders: [{Cookie: a=1}, {Accept: '*/*'}, {Cookie: b=2}]\nphases: [{rate: 1, for: 1s}]";
        let plan = parse("f", file).unwrap();
        assert_eq!(plan.headers.len(), 3);
        let json = serde_json::to_string(&plan).unwrap();
        assert_eq!(serde_json::from_str::<Plan>(&json).unwrap(), plan, "{json}");
    }

    #[test]
    fn a_key_of_another_version_is_not_passed_over() {
        let json = serde_json::to_string(&Plan::for_target("http://h/".parse().unwrap())).unwrap();
        let other = json.replacen("\"seed\"", "\"sead\"", 1);
        let error = serde_json::from_str::<Plan>(&other).unwrap_err().to_string();
        assert!(error.contains("unknown field `sead`"), "{error}");
    }
}
