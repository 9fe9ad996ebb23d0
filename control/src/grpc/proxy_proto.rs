//! Rules, durations and histograms as the proxy's messages have them, and back.

use std::time::Duration;

use fracas_dataplane::behavior::{Behavior, HeaderMatch, Match, Rule, Scope, Share, Triggers, mix};
use fracas_dataplane::proxy::RuleStats;
use fracas_proto::v1;
use hdrhistogram::Histogram;
use hdrhistogram::serialization::{Serializer, V2Serializer};
use tonic::Status;

use super::refusal::{self, invalid};

/// The rules of a message: a list, or a mix with options.
pub fn rules_of(set: v1::RuleSet, field: &str) -> Result<Vec<Rule>, Status> {
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

fn rule_of(rule: v1::Rule, field: &str, index: usize) -> Result<Rule, Status> {
    if rule.warmup > 0 {
        return Err(invalid(
            format!("{field}.warmup"),
            "only `error` and `transient` have one: put it in options",
        ));
    }
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
        _ => None,
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
    let clients = matcher.client_cidrs.iter().enumerate().map(|(index, text)| {
        text.parse().map_err(|error: String| invalid(format!("{field}.client_cidrs[{index}]"), error))
    });
    let path = matcher.path.and_then(|path| path.path).map(|path| match path {
        v1::path_match::Path::Exact(text) | v1::path_match::Path::Glob(text) => text,
        v1::path_match::Path::Prefix(text) => format!("{text}*"),
    });
    let paths = path.iter().map(|text| text.parse().map_err(|error| invalid(format!("{field}.path"), error)));
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

/// A rule as it is read back: without its options, which are kept parsed.
pub fn rule_proto(rule: &Rule) -> v1::Rule {
    let count = |value: Option<u64>| value.unwrap_or(0);
    v1::Rule {
        name: rule.name.clone(),
        behavior: rule.behavior.name().to_owned(),
        share_percent: Some(rule.share.percent()),
        scope: match rule.scope {
            None => v1::Scope::Unspecified,
            Some(Scope::Exchange) => v1::Scope::Exchange,
            Some(Scope::Connection) => v1::Scope::Connection,
        }
        .into(),
        group: rule.group.clone().unwrap_or_default(),
        triggers: Some(v1::Triggers {
            first: count(rule.triggers.first),
            nth: count(rule.triggers.nth),
            every: count(rule.triggers.every),
            after: count(rule.triggers.after),
        }),
        ..v1::Rule::default()
    }
}

/// What a rule has done.
pub fn rule_stats_proto(stats: &RuleStats, lease_id: String) -> v1::RuleStats {
    v1::RuleStats {
        rule: stats.name.to_string(),
        behavior: stats.behavior.to_owned(),
        lease_id,
        acted: stats.injected,
        lateness: stats.lateness.as_ref().map(histogram),
        ..v1::RuleStats::default()
    }
}

/// A histogram of nanoseconds, mergeable, with the percentiles people ask for.
pub fn histogram(values: &Histogram<u64>) -> v1::Histogram {
    let mut hdr_v2 = Vec::new();
    V2Serializer::new().serialize(values, &mut hdr_v2).expect("a Vec takes every byte");
    let at = |quantile| if values.is_empty() { 0 } else { values.value_at_quantile(quantile) };
    v1::Histogram {
        hdr_v2,
        count: values.len(),
        min_ns: if values.is_empty() { 0 } else { values.min() },
        p50_ns: at(0.5),
        p90_ns: at(0.9),
        p99_ns: at(0.99),
        p999_ns: at(0.999),
        max_ns: if values.is_empty() { 0 } else { values.max() },
    }
}

/// A duration of a message; `None` when it is not set.
pub fn std_duration(
    duration: Option<prost_types::Duration>,
    field: &str,
) -> Result<Option<Duration>, Status> {
    let converted = duration.map(Duration::try_from).transpose();
    converted.map_err(|_| invalid(field, "negative, or not a duration"))
}

/// A duration for a message.
pub fn proto_duration(duration: Duration) -> Option<prost_types::Duration> {
    prost_types::Duration::try_from(duration).ok()
}
