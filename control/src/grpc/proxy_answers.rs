//! Proxies, leases, changes, figures, events and behaviors as the messages of `ProxyService` have them.

use std::collections::BTreeMap;
use std::time::Duration;

use fracas_dataplane::behavior::{Kind, OptionKind, OptionSpec, When};
use fracas_dataplane::proxy::{
    Applied, Event, EventKind, Handle, LeaseInfo, ProxyInfo, ProxyStats, RuleStats, WorkerStats,
};
use fracas_proto::v1;

use super::proxy_proto::{histogram, proto_duration, rule_proto, rule_stats_proto};
use super::wall_clock::WallClock;

fn open_connections(stats: &ProxyStats) -> u64 {
    // Read while they grow: one may have been closed since the other was read.
    stats.counters.connections_opened.saturating_sub(stats.counters.connections_closed)
}

/// A proxy with its base rules and leases; `stats` tells how many connections it has.
pub fn proxy_proto(info: &ProxyInfo, handle: &Handle, stats: Option<&ProxyStats>) -> v1::Proxy {
    let clock = WallClock::read();
    v1::Proxy {
        name: info.spec.name.clone(),
        listen: info.spec.listen.to_string(),
        upstream: info.spec.upstream.clone(),
        protocol: info.spec.protocol.to_string(),
        enabled: Some(info.spec.enabled),
        connect_timeout: proto_duration(info.spec.connect_timeout),
        source_addresses: info.spec.source_addresses.iter().map(ToString::to_string).collect(),
        generation: info.generation,
        rules: info.spec.rules.iter().map(rule_proto).collect(),
        leases: info.leases.iter().map(|lease| lease_proto(lease, &clock)).collect(),
        connections_open: stats.map_or(0, open_connections),
        seed: handle.seed(),
        idle_timeout: info.spec.patience.idle.and_then(proto_duration),
        linger: proto_duration(info.spec.patience.linger),
        half_close: proto_duration(info.spec.patience.half_close),
        keepalive: proto_duration(info.spec.patience.keepalive.unwrap_or_default()),
        resolve: proto_duration(info.spec.resolve),
    }
}

/// How a change took effect.
pub fn change_proto(applied: &Applied) -> v1::Change {
    v1::Change {
        generation: applied.generation,
        apply_time: proto_duration(applied.took),
        workers: applied.workers as u32,
        applied_at: Some(WallClock::read().time(applied.at)),
        applied_at_monotonic_ns: applied.at.as_nanos(),
    }
}

/// A lease, its instants by the wall clock.
pub fn lease_proto(lease: &LeaseInfo, clock: &WallClock) -> v1::Lease {
    let state = if lease.began_at.is_some() { v1::LeaseState::Active } else { v1::LeaseState::Pending };
    v1::Lease {
        id: lease.id.clone(),
        proxy: lease.proxy.clone(),
        owner: lease.owner.clone(),
        rules: lease.rules.iter().map(rule_proto).collect(),
        ttl: lease.ttl.and_then(proto_duration),
        state: state.into(),
        acquired_at: Some(clock.time(lease.acquired_at)),
        starts_at: Some(clock.time(lease.starts_at)),
        expires_at: Some(clock.time(lease.ends_at)),
        ends_at: lease.stops_at.map(|at| clock.time(at)),
    }
}

/// Something that happened.
pub fn event_proto(event: &Event, clock: &WallClock) -> v1::Event {
    let rule = event.rule.as_ref();
    let timed = event.asked > Duration::ZERO;
    v1::Event {
        kind: event_kind_proto(event.kind).into(),
        monotonic_ns: event.at.as_nanos(),
        wall_time: Some(clock.time(event.at)),
        proxy: event.proxy.to_string(),
        connection: event.connection,
        exchange: event.exchange,
        rule: rule.map(|rule| rule.name.to_string()).unwrap_or_default(),
        behavior: rule.map(|rule| rule.behavior.to_owned()).unwrap_or_default(),
        asked: timed.then(|| proto_duration(event.asked)).flatten(),
        done: timed.then(|| proto_duration(event.done)).flatten(),
        detail: event.detail.to_string(),
        generation: event.generation,
        lease_id: event.lease.as_deref().unwrap_or_default().to_owned(),
    }
}

/// What sort of thing an event tells.
pub fn event_kind_proto(kind: EventKind) -> v1::EventKind {
    match kind {
        EventKind::Injected => v1::EventKind::Injected,
        EventKind::NaturalFailure => v1::EventKind::NaturalFailure,
        EventKind::LimitReached => v1::EventKind::LimitReached,
        EventKind::Changed => v1::EventKind::Changed,
        EventKind::LeaseAcquired => v1::EventKind::LeaseAcquired,
        EventKind::LeaseStarted => v1::EventKind::LeaseStarted,
        EventKind::LeaseEnded => v1::EventKind::LeaseEnded,
    }
}

/// What a proxy did, with the rules of leases that ended.
pub fn proxy_stats_proto(name: &str, stats: &ProxyStats, ended: &[RuleStats]) -> v1::ProxyStats {
    let counters = &stats.counters;
    let mut injected: BTreeMap<String, u64> = BTreeMap::new();
    for rule in stats.rules.iter().chain(&stats.retired) {
        *injected.entry(rule.behavior.to_owned()).or_default() += rule.injected;
    }
    let rules = stats.rules.iter().map(rule_stats_proto);
    let ended = ended.iter().map(rule_stats_proto);
    let named = |names: &[&str]| {
        let all = counters.named().into_iter();
        all.filter(|(name, ..)| names.contains(name))
            .map(|(name, _, value)| (name.to_owned(), value))
            .collect()
    };
    v1::ProxyStats {
        proxy: name.to_owned(),
        connections_accepted: counters.connections_opened,
        connections_open: open_connections(stats),
        bytes_from_downstream: counters.request_bytes,
        bytes_from_upstream: counters.reply_bytes,
        exchanges: counters.exchanges,
        injected,
        natural_failures: named(&[
            "connect_failures",
            "connect_timeouts",
            "resolve_failures",
            "client_resets",
            "upstream_resets",
            "protocol_errors",
        ]),
        limits_reached: named(&[
            "held_limit_reached",
            "worker_held_limit_reached",
            "no_buffers",
            "accept_paused",
            "connection_limit_reached",
            "pipeline_limit_reached",
            "linger_limit_reached",
            "half_close_limit_reached",
            "idle_timeouts",
        ]),
        held_bytes: stats.held_bytes as u64,
        rules: rules.chain(ended).collect(),
    }
}

/// What one worker did.
pub fn worker_stats_proto(worker: &WorkerStats) -> v1::WorkerStats {
    v1::WorkerStats {
        worker: worker.worker as u32,
        residence: Some(histogram(&worker.residence)),
        connections_open: worker.connections as u64,
        cpu_time: proto_duration(Duration::from_nanos(worker.cpu_ns)),
        turns: worker.turns,
        buffers_exhausted: worker.no_buffers,
        completion_queue_overflows: worker.overflows,
        generation: worker.generation,
    }
}

/// A behavior as its table has it.
pub fn behavior_kind_proto(kind: &Kind) -> v1::BehaviorKind {
    v1::BehaviorKind {
        name: kind.name.to_owned(),
        aliases: kind.aliases.iter().map(|alias| (*alias).to_owned()).collect(),
        summary: kind.summary.to_owned(),
        options: kind.options.iter().map(option_proto).collect(),
        built: kind.built,
        live_effect_plain: live_effect(kind.live_change.bytes).into(),
        live_effect_protocol: live_effect(kind.live_change.messages).into(),
        live_effect_detail: kind.lifted.to_owned(),
    }
}

fn option_proto(option: &OptionSpec) -> v1::BehaviorOption {
    let (kind, choices): (_, &[&str]) = match option.kind {
        OptionKind::Duration => (v1::OptionType::Duration, &[]),
        OptionKind::Distribution => (v1::OptionType::Distribution, &[]),
        OptionKind::Rate => (v1::OptionType::Rate, &[]),
        OptionKind::Bytes => (v1::OptionType::Bytes, &[]),
        OptionKind::Count => (v1::OptionType::Integer, &[]),
        OptionKind::Bool => (v1::OptionType::Bool, &[]),
        OptionKind::Codes => (v1::OptionType::IntegerList, &[]),
        OptionKind::Percent => (v1::OptionType::Percent, &[]),
        OptionKind::OneOf(choices) => (v1::OptionType::Choice, choices),
        OptionKind::DurationOrBytes | OptionKind::File => (v1::OptionType::Text, &[]),
    };
    v1::BehaviorOption {
        name: option.name.to_owned(),
        r#type: kind.into(),
        default_value: option.default.to_owned(),
        summary: option.doc.to_owned(),
        choices: choices.iter().map(|choice| (*choice).to_owned()).collect(),
        required: option.default.is_empty(),
    }
}

fn live_effect(when: When) -> v1::LiveEffect {
    match when {
        When::Now => v1::LiveEffect::Now,
        When::NextChunk => v1::LiveEffect::NextChunk,
        When::NextMessage => v1::LiveEffect::NextMessage,
        When::NextConnection => v1::LiveEffect::NextConnection,
    }
}
