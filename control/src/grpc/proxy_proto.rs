//! Rules, durations and histograms as the proxy's messages have them, and back.

use std::collections::BTreeMap;
use std::time::Duration;

use fracas_dataplane::behavior::{
    Behavior, HeaderMatch, MATCH_ENTRIES_MAX, Match, NAME_BYTES_MAX, PathPattern, RULES_MAX, Rule, Scope,
    Shape, Share, Triggers, mix,
};
use fracas_dataplane::proxy::{RuleStats, Times};
use fracas_proto::v1;
use hdrhistogram::serialization::{Serializer, V2Serializer};
use tonic::Status;

use super::bounds::{OPTION_BYTES_MAX, OPTIONS_MAX, check_count, check_text};
use super::refusal::{self, invalid};
use crate::durations;

/// The rules of a message: a list, or a mix with options.
pub fn rules_of(set: v1::RuleSet, field: &str) -> Result<Vec<Rule>, Status> {
    check_count(field, set.rules.len(), RULES_MAX)?;
    check_count(&format!("{field}.options"), set.options.len(), OPTIONS_MAX)?;
    for (behavior, options) in &set.options {
        check_options(&format!("{field}.options[{behavior}].values"), &options.values)?;
    }
    let options = set
        .options
        .into_iter()
        .map(|(behavior, options)| (behavior, options.values.into_iter().collect()))
        .collect();
    match (set.mix.is_empty(), set.rules.is_empty()) {
        (false, false) => Err(invalid(field, "both a mix and rules; give one of them")),
        (false, true) => mix::parse(&set.mix, &options).map_err(|error| refusal::mix(field, &error)),
        (true, _) => {
            let rules = set.rules.into_iter().enumerate();
            rules.map(|(index, rule)| rule_of(rule, &format!("{field}.rules[{index}]"), index)).collect()
        }
    }
}

/// Whether the options of one behavior may be read.
fn check_options(field: &str, options: &BTreeMap<String, String>) -> Result<(), Status> {
    check_count(field, options.len(), OPTIONS_MAX)?;
    match options.iter().find(|(_, text)| text.len() > OPTION_BYTES_MAX) {
        None => Ok(()),
        Some((name, _)) => {
            Err(invalid(format!("{field}[{name}]"), format!("too long; at most {OPTION_BYTES_MAX} bytes")))
        }
    }
}

fn rule_of(rule: v1::Rule, field: &str, index: usize) -> Result<Rule, Status> {
    check_text(&format!("{field}.name"), &rule.name, NAME_BYTES_MAX)?;
    check_text(&format!("{field}.group"), &rule.group, NAME_BYTES_MAX)?;
    check_options(&format!("{field}.options"), &rule.options)?;
    let options = rule.options.into_iter().collect();
    let behavior =
        Behavior::parse(&rule.behavior, &options).map_err(|error| refusal::behavior(field, &error))?;
    let name = match rule.name.as_str() {
        "" if index == 0 => rule.behavior.clone(),
        "" => format!("{}-{}", rule.behavior, index + 1),
        name => name.to_owned(),
    };
    let percent = rule.share_percent.unwrap_or(100.0);
    let share = Share::from_percent(percent)
        .ok_or_else(|| invalid(format!("{field}.share_percent"), "a percentage from 0 to 100"))?;
    let scope = match v1::Scope::try_from(rule.scope) {
        Ok(v1::Scope::Exchange) => Some(Scope::Exchange),
        Ok(v1::Scope::Connection) => Some(Scope::Connection),
        Ok(v1::Scope::Unspecified) => None,
        Err(_) => {
            return Err(invalid(
                format!("{field}.scope"),
                "unknown; give SCOPE_EXCHANGE or SCOPE_CONNECTION",
            ));
        }
    };
    let triggers = rule.triggers.unwrap_or_default();
    let count = |value: u64| (value > 0).then_some(value);
    Ok(Rule {
        share,
        scope,
        group: (!rule.group.is_empty()).then_some(rule.group),
        matcher: match_of(rule.r#match.unwrap_or_default(), &format!("{field}.match"))?,
        triggers: Triggers {
            first: count(triggers.first),
            nth: count(triggers.nth),
            every: count(triggers.every),
            after: count(triggers.after),
        },
        ..Rule::always(name, behavior)
    })
}

fn match_of(matcher: v1::Match, field: &str) -> Result<Match, Status> {
    let v1::Match { client_cidrs, methods, paths, headers } = &matcher;
    let entries = client_cidrs.len() + methods.len() + paths.len() + headers.len();
    check_count(field, entries, MATCH_ENTRIES_MAX)?;
    let clients = matcher.client_cidrs.iter().enumerate().map(|(index, text)| {
        text.parse().map_err(|error: String| invalid(format!("{field}.client_cidrs[{index}]"), error))
    });
    let paths = matcher.paths.into_iter().enumerate().map(|(index, path)| {
        let parsed = match path.path {
            Some(v1::path_match::Path::Exact(text)) => PathPattern::exact(text),
            Some(v1::path_match::Path::Prefix(text)) => PathPattern::prefix(text),
            Some(v1::path_match::Path::Glob(text)) => text.parse(),
            None => Err("empty; give exact, prefix or glob".to_owned()),
        };
        parsed.map_err(|error: String| invalid(format!("{field}.paths[{index}]"), error))
    });
    Ok(Match {
        clients: clients.collect::<Result<_, Status>>()?,
        methods: matcher.methods,
        paths: paths.collect::<Result<_, Status>>()?,
        headers: matcher
            .headers
            .into_iter()
            .map(|header| HeaderMatch { name: header.name, value: header.value })
            .collect(),
    })
}

/// A rule as it is read back, so that it can be applied again as it is.
pub fn rule_proto(rule: &Rule) -> v1::Rule {
    let count = |value: Option<u64>| value.unwrap_or(0);
    v1::Rule {
        name: rule.name.clone(),
        behavior: rule.behavior.name().to_owned(),
        options: rule
            .behavior
            .options()
            .into_iter()
            .map(|(spec, text)| (spec.name.to_owned(), text))
            .collect(),
        share_percent: Some(rule.share.percent()),
        scope: match rule.scope {
            None => v1::Scope::Unspecified,
            Some(Scope::Exchange) => v1::Scope::Exchange,
            Some(Scope::Connection) => v1::Scope::Connection,
        }
        .into(),
        group: rule.group.clone().unwrap_or_default(),
        r#match: (rule.matcher != Match::default()).then(|| match_proto(&rule.matcher)),
        triggers: (!rule.triggers.is_empty()).then(|| v1::Triggers {
            first: count(rule.triggers.first),
            nth: count(rule.triggers.nth),
            every: count(rule.triggers.every),
            after: count(rule.triggers.after),
        }),
    }
}

fn match_proto(matcher: &Match) -> v1::Match {
    let path = |path: &PathPattern| {
        let text = path.text().to_owned();
        v1::PathMatch {
            path: Some(match path.shape() {
                Shape::Exact => v1::path_match::Path::Exact(text),
                Shape::Prefix => v1::path_match::Path::Prefix(text),
                Shape::Glob => v1::path_match::Path::Glob(text),
            }),
        }
    };
    let header =
        |header: &HeaderMatch| v1::HeaderMatch { name: header.name.clone(), value: header.value.clone() };
    v1::Match {
        client_cidrs: matcher.clients.iter().map(ToString::to_string).collect(),
        methods: matcher.methods.clone(),
        paths: matcher.paths.iter().map(path).collect(),
        headers: matcher.headers.iter().map(header).collect(),
    }
}

/// What a rule has done.
pub fn rule_stats_proto(stats: &RuleStats) -> v1::RuleStats {
    v1::RuleStats {
        rule: stats.name.to_string(),
        behavior: stats.behavior.to_owned(),
        lease_id: stats.lease.as_deref().unwrap_or_default().to_owned(),
        matched: stats.matched,
        acted: stats.acted,
        injected: stats.injected,
        lateness: stats.lateness.as_ref().map(histogram),
        asked: stats.asked.as_ref().map(histogram),
    }
}

/// A histogram of nanoseconds, mergeable, with the percentiles people ask for.
pub fn histogram(times: &Times) -> v1::Histogram {
    let mut hdr_v2 = Vec::new();
    if !times.is_empty() {
        V2Serializer::new().serialize(&times.to_hdr(), &mut hdr_v2).expect("a Vec takes every byte");
    }
    v1::Histogram {
        hdr_v2,
        count: times.len(),
        min_ns: times.min(),
        p50_ns: times.quantile(50, 100),
        p90_ns: times.quantile(90, 100),
        p95_ns: times.quantile(95, 100),
        p99_ns: times.quantile(99, 100),
        p999_ns: times.quantile(999, 1000),
        max_ns: times.max(),
    }
}

/// A duration of a message; `None` when it is not set.
pub fn std_duration(
    duration: Option<prost_types::Duration>,
    field: &str,
) -> Result<Option<Duration>, Status> {
    match (duration, durations::duration(duration)) {
        (Some(_), None) => Err(invalid(field, "negative, or not a duration")),
        (_, converted) => Ok(converted),
    }
}

/// A duration for a message.
pub fn proto_duration(duration: Duration) -> Option<prost_types::Duration> {
    prost_types::Duration::try_from(duration).ok()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use fracas_dataplane::behavior::{KINDS, Kind, OptionKind};
    use proptest::collection::vec as several;
    use proptest::prelude::*;

    use fracas_dataplane::proxy::Recorder;

    use super::*;

    /// A value that an option of this kind takes, or none to leave it out.
    fn option_text(kind: OptionKind) -> BoxedStrategy<Option<String>> {
        let duration = || (0..5_000_000_u64).prop_map(|us| format!("{us}us")).boxed();
        let bytes = || (1..1_u64 << 40).prop_map(|count| format!("{count}B")).boxed();
        let text = match kind {
            OptionKind::Duration => duration(),
            OptionKind::Distribution => prop_oneof![
                duration(),
                (0..1000_u32, 0..1000_u32).prop_map(|(a, b)| format!("uniform({a}ms,{}us)", a * 1000 + b)),
                (0..1000_u32, 0..9_u32).prop_map(|(a, b)| format!("normal({a}ms,{b}ns)")),
            ]
            .boxed(),
            OptionKind::Rate => (0..1_u64 << 40).prop_map(|rate| format!("{rate}B/s")).boxed(),
            OptionKind::Bytes => bytes(),
            OptionKind::DurationOrBytes => prop_oneof![duration(), bytes()].boxed(),
            OptionKind::Count => (0..u64::MAX).prop_map(|count| count.to_string()).boxed(),
            OptionKind::Bool => any::<bool>().prop_map(|yes| yes.to_string()).boxed(),
            OptionKind::Codes => proptest::collection::vec(200..600_u16, 1..5)
                .prop_map(|codes| codes.iter().map(u16::to_string).collect::<Vec<_>>().join(","))
                .boxed(),
            OptionKind::OneOf(words) => proptest::sample::select(words).prop_map(str::to_owned).boxed(),
            OptionKind::Percent | OptionKind::File => unreachable!("no built behavior has one"),
        };
        proptest::option::weighted(0.7, text).boxed()
    }

    /// Any settings of a behavior: those that contradict each other are drawn again.
    fn behavior(kind: &'static Kind) -> BoxedStrategy<Behavior> {
        let values: Vec<_> = kind.options.iter().map(|spec| option_text(spec.kind)).collect();
        let parse = |values: Vec<Option<String>>| {
            let given = kind.options.iter().zip(values);
            let options: BTreeMap<String, String> =
                given.filter_map(|(spec, value)| Some((spec.name.to_owned(), value?))).collect();
            Behavior::parse(kind.name, &options).ok()
        };
        values.prop_filter_map("a contradiction", parse).boxed()
    }

    fn any_behavior() -> impl Strategy<Value = Behavior> {
        let built: Vec<_> = KINDS.iter().filter(|kind| kind.built).map(behavior).collect();
        (0..built.len()).prop_flat_map(move |index| built[index].clone())
    }

    fn any_match() -> impl Strategy<Value = Match> {
        let client = prop_oneof![
            (any::<u32>(), 0..=32_u8)
                .prop_map(|(bits, length)| { format!("{}/{length}", std::net::Ipv4Addr::from_bits(bits)) }),
            (any::<u128>(), 0..=128_u8).prop_map(|(bits, length)| {
                // Beside the range in which IPv4 addresses are mapped.
                format!("{}/{length}", std::net::Ipv6Addr::from_bits(bits | 1 << 127))
            }),
        ];
        let path = prop_oneof![
            "/[a-z*?/]{0,8}".prop_map(|text| PathPattern::exact(text).unwrap()),
            "/[a-z*?/]{0,8}".prop_map(|text| PathPattern::prefix(text).unwrap()),
            "[/*][a-z*?/]{0,8}".prop_map(|text| text.parse().unwrap()),
        ];
        let header = ("[a-z-]{1,8}", proptest::option::of("[ -~]{0,8}"))
            .prop_map(|(name, value)| HeaderMatch { name, value });
        (several(client, 0..3), several("[A-Z]{1,7}", 0..3), several(path, 0..3), several(header, 0..3))
            .prop_map(|(clients, methods, paths, headers)| Match {
                clients: clients.iter().map(|text| text.parse().unwrap()).collect(),
                methods,
                paths,
                headers,
            })
    }

    fn any_rule() -> impl Strategy<Value = Rule> {
        let scope = proptest::sample::select(vec![None, Some(Scope::Exchange), Some(Scope::Connection)]);
        let count = || proptest::option::of(1..u64::MAX);
        let triggers = (count(), count(), count(), count()).prop_map(|(first, nth, every, after)| Triggers {
            first,
            nth,
            every,
            after,
        });
        let share = (0.0..=100.0_f64).prop_map(|percent| Share::from_percent(percent).unwrap());
        let group = proptest::option::of("[a-z]{1,5}");
        ("[a-z-]{1,9}", any_behavior(), share, scope, group, any_match(), triggers).prop_map(
            |(name, behavior, share, scope, group, matcher, triggers)| Rule {
                name,
                behavior,
                share,
                scope,
                group,
                matcher,
                triggers,
            },
        )
    }

    proptest! {
        #[test]
        fn a_rule_that_is_read_can_be_applied_again_unchanged(rules in several(any_rule(), 1..4)) {
            let read = rules.iter().map(rule_proto).collect();
            let again = rules_of(v1::RuleSet { rules: read, ..v1::RuleSet::default() }, "rules");
            prop_assert_eq!(again.map_err(|status| status.to_string()), Ok(rules));
        }
    }

    #[test]
    fn a_path_is_compared_as_its_message_says() {
        let exact = v1::path_match::Path::Exact("/a*b".to_owned());
        let rule = v1::Rule {
            behavior: "hang".to_owned(),
            r#match: Some(v1::Match {
                paths: vec![v1::PathMatch { path: Some(exact) }],
                ..v1::Match::default()
            }),
            ..v1::Rule::default()
        };
        let rules = rules_of(v1::RuleSet { rules: vec![rule], ..v1::RuleSet::default() }, "rules").unwrap();
        assert!(rules[0].matcher.paths[0].matches("/a*b") && !rules[0].matcher.paths[0].matches("/axb"));
    }

    #[test]
    fn an_empty_histogram_has_no_bytes_and_a_full_one_reads_back() {
        let recorder = Recorder::new();
        assert_eq!(histogram(&recorder.read()), v1::Histogram::default());
        (0..3).for_each(|_| recorder.record(200_000_000));
        let message = histogram(&recorder.read());
        let read: hdrhistogram::Histogram<u64> = hdrhistogram::serialization::Deserializer::new()
            .deserialize(&mut message.hdr_v2.as_slice())
            .unwrap();
        assert_eq!((read.len(), message.count, message.min_ns), (3, 3, 200_000_000));
        assert!(read.min().abs_diff(200_000_000) < 200_000, "{}", read.min());
    }
}
