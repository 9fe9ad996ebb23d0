//! Proxies, rules and events as `fracas behavior` prints them: lines for people, JSON for programs.

use fracas_dataplane::behavior::Kind;
use fracas_loadgen::report::{count, latency, length, plural, utc};
use fracas_proto::v1;
use serde_json::{Value, json};

use super::std;

/// A proxy with its rules, leases and figures.
pub fn proxy_json(proxy: &v1::Proxy, stats: Option<&v1::ProxyStats>) -> Value {
    let figures = |lease: &str| {
        let all = stats.iter().flat_map(|stats| &stats.rules);
        all.filter(move |rule| rule.lease_id == lease).collect::<Vec<_>>()
    };
    let leases = proxy.leases.iter().map(|lease| {
        json!({
            "id": lease.id, "owner": lease.owner,
            "state": if lease.state() == v1::LeaseState::Active { "active" } else { "pending" },
            "ttl_ns": lease.ttl.as_ref().map(|ttl| std(Some(ttl)).as_nanos() as u64),
            "rules": rules_json(&lease.rules, &figures(&lease.id), &format!("{}/", rule_prefix(&lease.id))),
        })
    });
    json!({
        "name": proxy.name, "listen": proxy.listen, "upstream": proxy.upstream, "protocol": proxy.protocol,
        "enabled": proxy.enabled(), "generation": proxy.generation, "seed": proxy.seed,
        "connections_open": proxy.connections_open,
        "held_bytes": stats.map(|stats| stats.held_bytes),
        "leases": leases.collect::<Vec<_>>(),
        "rules": rules_json(&proxy.rules, &figures(""), ""),
        "injected": stats.map(|stats| json!(stats.injected)),
        "natural_failures": stats.map(|stats| json!(stats.natural_failures)),
        "limits_reached": stats.map(|stats| json!(stats.limits_reached)),
    })
}

/// What stands before the names of a lease's rules in figures.
fn rule_prefix(lease: &str) -> String {
    format!("lease-{}", lease.rsplit('-').next().unwrap_or(lease))
}

fn rules_json(rules: &[v1::Rule], figures: &[&v1::RuleStats], prefix: &str) -> Vec<Value> {
    let rules = rules.iter().map(|rule| {
        let done = figures.iter().find(|done| done.rule == format!("{prefix}{}", rule.name));
        let histogram = |histogram: &v1::Histogram| {
            json!({
                "count": histogram.count, "p50_ns": histogram.p50_ns, "p99_ns": histogram.p99_ns,
                "max_ns": histogram.max_ns,
            })
        };
        let some = |values: Option<&v1::Histogram>| values.filter(|values| values.count > 0).map(histogram);
        json!({
            "rule": rule.name, "behavior": rule.behavior, "options": rule.options,
            "share": rule.share_percent.unwrap_or(100.0),
            "scope": scope_word(rule.scope()), "group": rule.group,
            "match": rule.r#match.as_ref().map(match_words),
            "triggers": rule.triggers.as_ref().map(trigger_words),
            // A rule without figures is one that the proxy got, or lost, between the two questions.
            "matched": done.map(|done| done.matched),
            "acted": done.map(|done| done.acted),
            "injected": done.map(|done| done.injected),
            "asked": done.and_then(|done| some(done.asked.as_ref())),
            "accuracy": done.and_then(|done| some(done.lateness.as_ref())),
        })
    });
    rules.collect()
}

fn scope_word(scope: v1::Scope) -> Option<&'static str> {
    match scope {
        v1::Scope::Unspecified => None,
        v1::Scope::Exchange => Some("exchange"),
        v1::Scope::Connection => Some("connection"),
    }
}

/// The parts of a match, in the words of the config.
fn match_words(matcher: &v1::Match) -> Value {
    let path = |path: &v1::PathMatch| match &path.path {
        Some(v1::path_match::Path::Exact(text) | v1::path_match::Path::Glob(text)) => text.clone(),
        Some(v1::path_match::Path::Prefix(text)) => format!("{text}*"),
        None => String::new(),
    };
    let headers = matcher.headers.iter().map(|header| {
        (header.name.clone(), Value::from(header.value.clone().unwrap_or_else(|| "*".to_owned())))
    });
    json!({
        "client": matcher.client_cidrs,
        "method": matcher.methods,
        "path": matcher.paths.iter().map(path).collect::<Vec<_>>(),
        "header": headers.collect::<serde_json::Map<_, _>>(),
    })
}

fn trigger_words(triggers: &v1::Triggers) -> Value {
    let counts = [
        ("first", triggers.first),
        ("nth", triggers.nth),
        ("every", triggers.every),
        ("after", triggers.after),
    ];
    let set = counts.into_iter().filter(|(_, count)| *count > 0);
    set.map(|(name, count)| (name.to_owned(), Value::from(count))).collect::<serde_json::Map<_, _>>().into()
}

/// The same in lines.
pub fn proxy_text(proxy: &v1::Proxy, stats: Option<&v1::ProxyStats>) -> String {
    let off = if proxy.enabled() { "" } else { ", switched off" };
    let mut lines = vec![format!(
        "{}: {} → {} ({}{off}), generation {}, {} open",
        proxy.name,
        proxy.listen,
        proxy.upstream,
        proxy.protocol,
        proxy.generation,
        plural(proxy.connections_open, "connection")
    )];
    if proxy.rules.is_empty() {
        lines.push("    no rules: everything passes".to_owned());
    }
    let figures = |name: &str| stats.and_then(|stats| stats.rules.iter().find(|done| done.rule == name));
    lines.extend(proxy.rules.iter().map(|rule| format!("    {}", rule_text(rule, figures(&rule.name)))));
    for lease in &proxy.leases {
        let pending = if lease.state() == v1::LeaseState::Pending { ", has not begun" } else { "" };
        lines.push(format!("    lease {} of {}{pending}", lease.id, lease.owner));
        for rule in &lease.rules {
            let done = figures(&format!("{}/{}", rule_prefix(&lease.id), rule.name));
            lines.push(format!("        {}", rule_text(rule, done)));
        }
    }
    for (what, counts) in [
        ("failed by itself", stats.map(|stats| &stats.natural_failures)),
        ("limits reached", stats.map(|stats| &stats.limits_reached)),
    ] {
        let some = counts.into_iter().flatten().filter(|(_, count)| **count > 0);
        let some: Vec<String> = some.map(|(name, number)| format!("{name} {}", count(*number))).collect();
        if !some.is_empty() {
            lines.push(format!("    {what}: {}", some.join(", ")));
        }
    }
    // Who leaves may leave for the delay or for reasons of its own: the proxy sees the same.
    let has_left =
        stats.is_some_and(|stats| stats.natural_failures.get("client_resets").is_some_and(|left| *left > 0));
    let has_delays =
        stats.is_some_and(|stats| stats.rules.iter().any(|rule| rule.behavior == "delay" && rule.acted > 0));
    if has_left && has_delays {
        lines.push("    of client_resets, some may be clients that gave up on a delay".to_owned());
    }
    lines.join("\n")
}

fn rule_text(rule: &v1::Rule, done: Option<&v1::RuleStats>) -> String {
    let mut text = format!("{:>5} % {}", rule.share_percent.unwrap_or(100.0), rule.behavior);
    // What is as the table has it goes without saying.
    let kind = Kind::find(&rule.behavior);
    let usual = |name: &str, value: &str| {
        kind.and_then(|kind| kind.option(name)).is_some_and(|(spec, _)| spec.default == value)
    };
    for (name, value) in rule.options.iter().filter(|(name, value)| !usual(name, value)) {
        text += &format!(" {name}={value}");
    }
    if rule.name != rule.behavior {
        text += &format!(" ({})", rule.name);
    }
    if let Some(scope) = scope_word(rule.scope()) {
        text += &format!(", per {scope}");
    }
    let words = |value: &Value| match value {
        Value::String(text) => text.clone(),
        Value::Array(items) => {
            items.iter().map(|item| item.as_str().unwrap_or_default()).collect::<Vec<_>>().join("|")
        }
        other => other.to_string(),
    };
    if let Some(Value::Object(parts)) = rule.r#match.as_ref().map(match_words) {
        for (name, value) in parts {
            if let Value::Object(headers) = &value {
                headers.iter().for_each(|(name, value)| text += &format!(", header {name}={}", words(value)));
            } else if value.as_array().is_some_and(|items| !items.is_empty()) {
                text += &format!(", {name} {}", words(&value));
            }
        }
    }
    if let Some(Value::Object(triggers)) = rule.triggers.as_ref().map(trigger_words) {
        triggers.iter().for_each(|(name, count)| text += &format!(", {name} {count}"));
    }
    let Some(done) = done else { return text };
    text += &format!(": acted on {} of {}", count(done.acted), count(done.matched));
    if done.matched > 0 {
        text += &format!(" ({:.2} %)", 100.0 * done.acted as f64 / done.matched as f64);
    }
    text += &format!(", {} injected", count(done.injected));
    if let Some(late) = done.lateness.as_ref().filter(|late| late.count > 0) {
        let [p50, p99] = [late.p50_ns, late.p99_ns].map(latency);
        text += &format!(", done − asked p50 {p50} p99 {p99}");
    }
    text
}

/// The kind of an event without its prefix: `natural_failure`.
fn kind_word(event: &v1::Event) -> String {
    let name = event.kind().as_str_name();
    name.strip_prefix("EVENT_KIND_").unwrap_or(name).to_ascii_lowercase()
}

/// One line of JSON.
pub fn event_json(event: &v1::Event) -> Value {
    json!({
        "kind": kind_word(event), "time": time_text(event.wall_time.as_ref()), "monotonic_ns": event.monotonic_ns, "proxy": event.proxy,
        "generation": event.generation, "connection": event.connection, "exchange": event.exchange,
        "rule": event.rule, "behavior": event.behavior, "lease": event.lease_id, "detail": event.detail,
        "asked_ns": event.asked.as_ref().map(|time| std(Some(time)).as_nanos() as u64),
        "done_ns": event.done.as_ref().map(|time| std(Some(time)).as_nanos() as u64),
    })
}

/// A rule of a lease by the lease's id, which is what `release` and `renew` take: `lease-1/delay` is `lease 0-1/delay`.
fn rule_shown(rule: &str, lease: &str) -> String {
    match rule.strip_prefix(&rule_prefix(lease)).filter(|_| !lease.is_empty()) {
        Some(rest) => format!("lease {lease}{rest}"),
        None => rule.to_owned(),
    }
}

/// By the proxy's wall clock, in microseconds; events of one process are in the order of its monotonic clock, which JSON has.
fn time_text(at: Option<&prost_types::Timestamp>) -> String {
    let Some(at) = at else { return "(no time)".to_owned() };
    let (seconds, nanos) = (u64::try_from(at.seconds).unwrap_or(0), u32::try_from(at.nanos).unwrap_or(0));
    format!("{}.{:06} UTC", utc(seconds.saturating_mul(1000)), nanos / 1000)
}

/// One line for people.
pub fn event_text(event: &v1::Event) -> String {
    let mut text = format!("{}  {:<15}", time_text(event.wall_time.as_ref()), kind_word(event));
    let proxy = if event.proxy.is_empty() { "(process)" } else { &event.proxy };
    text += &format!("  {proxy}");
    if event.connection > 0 {
        text += &format!("  connection {}", event.connection);
    }
    if event.exchange > 0 {
        text += &format!(" exchange {}", event.exchange);
    }
    if !event.behavior.is_empty() {
        text += &format!("  {} ({})", event.behavior, rule_shown(&event.rule, &event.lease_id));
    } else if !event.lease_id.is_empty() {
        text += &format!("  lease {}", event.lease_id);
    }
    if event.asked.is_some() {
        let [asked, done] = [&event.asked, &event.done].map(|time| std(time.as_ref()));
        text += &format!("  asked {}, done {}", length(asked), latency(done.as_nanos() as u64));
    }
    if !event.detail.is_empty() {
        text += &format!("  {}", event.detail);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_is_one_line_that_says_what_is_unusual() {
        let rule = v1::Rule {
            name: "slow-checkout".to_owned(),
            behavior: "delay".to_owned(),
            options: [("time", "200ms"), ("jitter", "0"), ("side", "reply")]
                .map(|(name, text)| (name.to_owned(), text.to_owned()))
                .into(),
            share_percent: Some(20.0),
            scope: v1::Scope::Exchange.into(),
            group: String::new(),
            r#match: Some(v1::Match {
                methods: vec!["POST".to_owned()],
                paths: vec![v1::PathMatch { path: Some(v1::path_match::Path::Prefix("/cart/".to_owned())) }],
                headers: vec![v1::HeaderMatch { name: "x-test".to_owned(), value: None }],
                ..v1::Match::default()
            }),
            triggers: Some(v1::Triggers { after: 100, ..v1::Triggers::default() }),
        };
        let done = v1::RuleStats { matched: 1000, acted: 203, injected: 203, ..v1::RuleStats::default() };
        assert_eq!(
            rule_text(&rule, Some(&done)),
            "   20 % delay side=reply time=200ms (slow-checkout), per exchange, header x-test=*, method POST, \
             path /cart/*, after 100: acted on 203 of 1,000 (20.30 %), 203 injected"
        );
    }

    #[test]
    fn what_is_not_known_is_null_and_not_zero() {
        let rule = v1::Rule { name: "delay".to_owned(), behavior: "delay".to_owned(), ..v1::Rule::default() };
        let proxy = v1::Proxy { name: "shop".to_owned(), rules: vec![rule], ..v1::Proxy::default() };
        let rule = &proxy_json(&proxy, None)["rules"][0];
        for key in ["matched", "acted", "injected", "asked", "accuracy"] {
            assert_eq!(rule[key], Value::Null, "{key}");
        }
        let done = v1::RuleStats { rule: "delay".to_owned(), ..v1::RuleStats::default() };
        let stats = v1::ProxyStats { rules: vec![done], ..v1::ProxyStats::default() };
        assert_eq!(proxy_json(&proxy, Some(&stats))["rules"][0]["matched"], 0);
        let event = event_json(&v1::Event::default());
        assert_eq!((&event["asked_ns"], &event["done_ns"]), (&Value::Null, &Value::Null));
    }

    #[test]
    fn who_left_is_told_to_have_left_perhaps_for_a_delay() {
        let stats = |left: u64, behavior: &str, acted| v1::ProxyStats {
            natural_failures: [("client_resets".to_owned(), left)].into(),
            rules: vec![v1::RuleStats {
                rule: behavior.to_owned(),
                behavior: behavior.to_owned(),
                acted,
                ..v1::RuleStats::default()
            }],
            ..v1::ProxyStats::default()
        };
        let proxy = v1::Proxy { name: "shop".to_owned(), ..v1::Proxy::default() };
        let note = "    of client_resets, some may be clients that gave up on a delay";
        for (stats, noted) in [
            (stats(3, "delay", 5), true),
            (stats(0, "delay", 5), false),
            (stats(3, "delay", 0), false),
            (stats(3, "reset", 5), false),
        ] {
            let text = proxy_text(&proxy, Some(&stats));
            assert_eq!(text.lines().any(|line| line == note), noted, "{text}");
        }
        let text = proxy_text(&proxy, Some(&stats(1_234, "delay", 5)));
        assert!(text.contains("\n    failed by itself: client_resets 1,234\n"), "{text}");
    }

    #[test]
    fn an_event_of_each_sort_is_one_line() {
        let wall_time = Some(prost_types::Timestamp { seconds: 1_764_158_156, nanos: 1_500_000 });
        let at = v1::Event { wall_time, proxy: "shop".to_owned(), ..v1::Event::default() };
        let injected = v1::Event {
            kind: v1::EventKind::Injected.into(),
            connection: 3,
            exchange: 2,
            rule: "delay".to_owned(),
            behavior: "delay".to_owned(),
            asked: Some(prost_types::Duration { seconds: 0, nanos: 200_000_000 }),
            done: Some(prost_types::Duration { seconds: 0, nanos: 200_100_000 }),
            ..at.clone()
        };
        let leased = v1::Event {
            rule: "lease-7/delay".to_owned(),
            lease_id: "2-7".to_owned(),
            asked: None,
            ..injected.clone()
        };
        let failed = v1::Event {
            kind: v1::EventKind::NaturalFailure.into(),
            connection: 4,
            detail: "connect: refused".to_owned(),
            ..at.clone()
        };
        let ended = v1::Event {
            kind: v1::EventKind::LeaseEnded.into(),
            lease_id: "0-1".to_owned(),
            detail: "expired: 20:delay".to_owned(),
            ..at
        };
        for (event, expected) in [
            (
                injected,
                "2025-11-26 11:55:56.001500 UTC  injected         shop  connection 3 exchange 2  delay (delay)  asked 200 ms, done 200 ms",
            ),
            (
                leased,
                "2025-11-26 11:55:56.001500 UTC  injected         shop  connection 3 exchange 2  delay (lease 2-7/delay)",
            ),
            (failed, "2025-11-26 11:55:56.001500 UTC  natural_failure  shop  connection 4  connect: refused"),
            (ended, "2025-11-26 11:55:56.001500 UTC  lease_ended      shop  lease 0-1  expired: 20:delay"),
        ] {
            assert_eq!(event_text(&event), expected);
            assert_eq!(event_json(&event)["detail"], event.detail);
        }
    }
}
