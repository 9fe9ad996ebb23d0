//! `ProxyService`: the proxies of this process, their rules, leases, figures and events.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use fracas_dataplane::behavior::{KINDS, OptionKind, When};
use fracas_dataplane::clock::Instant;
use fracas_dataplane::config::CONNECT_TIMEOUT_DEFAULT;
use fracas_dataplane::protocol::Protocol;
use fracas_dataplane::proxy::{
    Applied, Event, Handle, LeaseInfo, LeaseRequest, ProxyError, ProxyInfo, ProxySpec, ProxyUpdate,
    RulesChange, Stats,
};
use fracas_proto::v1;
use fracas_proto::v1::proxy_service_server::ProxyService;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Response, Status};

use super::page::page;
use super::proxy_proto::{histogram, proto_duration, rule_proto, rule_stats_proto, rules_of, std_duration};
use super::refusal::{self, invalid, refuse};
use super::remembered::Remembered;
use super::wall_clock::WallClock;

const LEASE_TTL_DEFAULT: Duration = Duration::from_secs(30);
const LEASE_TTL_MIN: Duration = Duration::from_millis(100);
const OWNER_BYTES_MAX: usize = 200;
const HEARTBEAT_DEFAULT: Duration = Duration::from_secs(5);
const HEARTBEAT: std::ops::RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_secs(15);
/// Events in one message: well below the 4 MiB that clients take.
const EVENTS_PER_MESSAGE: usize = 512;
/// Batches a watcher may be behind before it loses events.
const WATCH_BATCHES: usize = 256;

/// The service, over one data plane.
#[derive(Clone)]
pub struct Proxies {
    handle: Handle,
    remembered: Arc<Mutex<Remembered>>,
    started: Instant,
}

type Answer<T> = Result<Response<T>, Status>;

impl Proxies {
    /// Serves `handle`.
    pub fn new(handle: Handle) -> Proxies {
        Proxies { handle, remembered: Arc::default(), started: Instant::now() }
    }

    /// Makes a change once: a repeat of `id` gets the first answer. Calls of the handle block for microseconds,
    /// but on a thread that may.
    async fn once<T: Clone + Send + 'static>(
        &self,
        id: String,
        change: impl FnOnce(&Handle) -> Result<T, Status> + Send + 'static,
    ) -> Answer<T> {
        let (handle, remembered) = (self.handle.clone(), Arc::clone(&self.remembered));
        let made = tokio::task::spawn_blocking(move || {
            // Held over the change: two copies of one request at a time are one request, too.
            let mut remembered = remembered.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(answer) = remembered.find::<T>(&id)? {
                return Ok(answer);
            }
            let answer = change(&handle)?;
            remembered.keep(id, answer.clone());
            Ok(answer)
        });
        made.await.map_err(|_| refusal::draining())?.map(Response::new)
    }

    async fn stats(&self) -> Result<Stats, Status> {
        let handle = self.handle.clone();
        let stats =
            tokio::task::spawn_blocking(move || handle.stats()).await.map_err(|_| refusal::draining())?;
        stats.map_err(|error| refusal::proxy(&error, ""))
    }
}

#[tonic::async_trait]
impl ProxyService for Proxies {
    async fn list_proxies(
        &self,
        request: Request<v1::ListProxiesRequest>,
    ) -> Answer<v1::ListProxiesResponse> {
        let request = request.into_inner();
        let stats = self.stats().await?;
        let (found, next_page_token) =
            page(self.handle.list(), |info| info.spec.name.clone(), request.page_size, &request.page_token)?;
        let proxies = found.iter().map(|info| proxy_proto(info, &self.handle, Some(&stats))).collect();
        Ok(Response::new(v1::ListProxiesResponse { proxies, next_page_token }))
    }

    async fn get_proxy(&self, request: Request<v1::GetProxyRequest>) -> Answer<v1::GetProxyResponse> {
        let info =
            self.handle.get(&request.into_inner().name).map_err(|error| refusal::proxy(&error, "name"))?;
        let proxy = Some(proxy_proto(&info, &self.handle, Some(&self.stats().await?)));
        Ok(Response::new(v1::GetProxyResponse { proxy }))
    }

    async fn create_proxy(
        &self,
        request: Request<v1::CreateProxyRequest>,
    ) -> Answer<v1::CreateProxyResponse> {
        let v1::CreateProxyRequest { proxy, rules, request_id } = request.into_inner();
        let proxy =
            proxy.ok_or_else(|| invalid("proxy", "missing; give at least name, listen and upstream"))?;
        if proxy.name.is_empty() {
            return Err(invalid("proxy.name", "empty; give it a name"));
        }
        let listen: SocketAddr = proxy
            .listen
            .parse()
            .map_err(|_| invalid("proxy.listen", "not an address; write 127.0.0.1:6380"))?;
        let protocol = match proxy.protocol.as_str() {
            "" => Protocol::Tcp,
            name => name.parse::<Protocol>().map_err(|error| invalid("proxy.protocol", error))?,
        };
        let addresses = lookup(&proxy.upstream, "proxy.upstream").await?;
        let sources = proxy.source_addresses.iter().enumerate().map(|(index, text)| {
            text.parse().map_err(|_| invalid(format!("proxy.source_addresses[{index}]"), "not an IP address"))
        });
        let spec = ProxySpec {
            upstream: proxy.upstream.clone(),
            upstream_addresses: addresses.clone(),
            protocol,
            rules: rules_of(rules.unwrap_or_default(), "rules")?,
            enabled: proxy.enabled,
            connect_timeout: std_duration(proxy.connect_timeout, "proxy.connect_timeout")?
                .unwrap_or(CONNECT_TIMEOUT_DEFAULT),
            source_addresses: sources.collect::<Result<_, Status>>()?,
            ..ProxySpec::new(proxy.name, listen, addresses[0])
        };
        self.once(request_id, move |handle| {
            let started = Instant::now();
            let info = handle.create(spec).map_err(|error| refusal::proxy(&error, "proxy.listen"))?;
            let now = Instant::now();
            let applied = Applied {
                generation: info.generation,
                took: now - started,
                workers: handle.workers(),
                at: now,
            };
            let proxy = Some(proxy_proto(&info, handle, None));
            Ok(v1::CreateProxyResponse { proxy, change: Some(change_proto(applied)) })
        })
        .await
    }

    async fn update_proxy(
        &self,
        request: Request<v1::UpdateProxyRequest>,
    ) -> Answer<v1::UpdateProxyResponse> {
        let request = request.into_inner();
        if request.protocol.is_some() {
            return Err(refuse(
                Code::Unimplemented,
                "PROTOCOL_IS_FIXED",
                "the protocol of a proxy cannot be changed; delete it and create it again",
                &[("proxy", request.name)],
            ));
        }
        let upstream = match request.upstream {
            Some(text) => {
                let addresses = lookup(&text, "upstream").await?;
                Some((text, addresses))
            }
            None => None,
        };
        let connect_timeout = std_duration(request.connect_timeout, "connect_timeout")?;
        let update = ProxyUpdate { upstream, enabled: request.enabled, connect_timeout };
        let (name, expected) = (request.name, request.expected_generation);
        self.once(request.request_id, move |handle| {
            check_generation(handle, &name, expected)?;
            let (info, applied) =
                handle.update(&name, update).map_err(|error| refusal::proxy(&error, "enabled"))?;
            let proxy = Some(proxy_proto(&info, handle, None));
            Ok(v1::UpdateProxyResponse { proxy, change: Some(change_proto(applied)) })
        })
        .await
    }

    async fn delete_proxy(
        &self,
        request: Request<v1::DeleteProxyRequest>,
    ) -> Answer<v1::DeleteProxyResponse> {
        let request = request.into_inner();
        self.once(request.request_id, move |handle| {
            let started = Instant::now();
            check_generation(handle, &request.name, request.expected_generation)?;
            let open = handle
                .stats()
                .ok()
                .and_then(|stats| Some(open_connections(stats.proxies.get(&request.name)?)));
            let generation =
                handle.get(&request.name).map_err(|error| refusal::proxy(&error, "name"))?.generation;
            handle.delete(&request.name).map_err(|error| refusal::proxy(&error, "name"))?;
            let now = Instant::now();
            let applied = Applied { generation, took: now - started, workers: handle.workers(), at: now };
            Ok(v1::DeleteProxyResponse {
                change: Some(change_proto(applied)),
                connections_closed: open.unwrap_or(0),
            })
        })
        .await
    }

    async fn apply_rules(&self, request: Request<v1::ApplyRulesRequest>) -> Answer<v1::ApplyRulesResponse> {
        let request = request.into_inner();
        if request.changes.is_empty() {
            return Err(invalid("changes", "empty; give at least one proxy and its rules"));
        }
        let mut changes: Vec<RulesChange> = Vec::new();
        for (index, change) in request.changes.into_iter().enumerate() {
            if changes.iter().any(|other| other.proxy == change.proxy) {
                return Err(invalid(format!("changes[{index}].proxy"), "named twice; say each proxy once"));
            }
            changes.push(RulesChange {
                rules: rules_of(change.rules.unwrap_or_default(), &format!("changes[{index}].rules"))?,
                proxy: change.proxy,
                expected_generation: change.expected_generation,
            });
        }
        self.once(request.request_id, move |handle| {
            let names: Vec<String> = changes.iter().map(|change| change.proxy.clone()).collect();
            let before: HashMap<String, u64> =
                handle.list().into_iter().map(|info| (info.spec.name, info.generation)).collect();
            let applied = handle.apply(changes).map_err(|error| refusal::proxy(&error, "changes"))?;
            let result = |name: &String| {
                let info = handle.get(name).ok()?;
                Some(v1::ProxyRulesResult {
                    proxy: name.clone(),
                    previous_generation: before.get(name).copied().unwrap_or(0),
                    rules: info.rules.iter().map(rule_proto).collect(),
                    connections_open: 0,
                    leases: info.leases.len() as u32,
                })
            };
            let results = names.iter().filter_map(result).collect();
            Ok(v1::ApplyRulesResponse { change: Some(change_proto(applied)), results })
        })
        .await
    }

    async fn reset_proxies(
        &self,
        request: Request<v1::ResetProxiesRequest>,
    ) -> Answer<v1::ResetProxiesResponse> {
        let v1::ResetProxiesRequest { proxies, request_id } = request.into_inner();
        self.once(request_id, move |handle| {
            let all = handle.list().into_iter().map(|info| info.spec.name);
            let names: Vec<String> = if proxies.is_empty() { all.collect() } else { proxies };
            let leases = handle.leases().iter().filter(|lease| names.contains(&lease.proxy)).count();
            let applied = handle.reset(&names).map_err(|error| refusal::proxy(&error, "proxies"))?;
            let change = Some(change_proto(applied));
            Ok(v1::ResetProxiesResponse { change, proxies: names, leases_ended: leases as u32 })
        })
        .await
    }

    async fn acquire_lease(
        &self,
        request: Request<v1::AcquireLeaseRequest>,
    ) -> Answer<v1::AcquireLeaseResponse> {
        let request = request.into_inner();
        if request.owner.len() > OWNER_BYTES_MAX {
            return Err(invalid("owner", format!("too long; at most {OWNER_BYTES_MAX} bytes")));
        }
        let ttl = std_duration(request.ttl, "ttl")?.unwrap_or(LEASE_TTL_DEFAULT);
        let starts_in = std_duration(request.starts_in, "starts_in")?.unwrap_or_default();
        if ttl < LEASE_TTL_MIN {
            return Err(invalid("ttl", "too short; at least 100ms"));
        }
        if ttl <= starts_in {
            return Err(invalid("ttl", "ends before the rules begin; make it longer than starts_in"));
        }
        // The time to live runs while the start is awaited; the window may end it earlier.
        let left = ttl - starts_in;
        let acts = std_duration(request.active_for, "active_for")?.map_or(left, |window| window.min(left));
        let lease = LeaseRequest {
            proxy: request.proxy,
            rules: rules_of(request.rules.unwrap_or_default(), "rules")?,
            owner: request.owner,
            ttl: acts,
            starts_in,
        };
        self.once(request.request_id, move |handle| {
            let (lease, applied) = handle.acquire(lease).map_err(|error| refusal::proxy(&error, "rules"))?;
            let lease = Some(lease_proto(&lease, &WallClock::read()));
            Ok(v1::AcquireLeaseResponse { lease, change: Some(change_proto(applied)) })
        })
        .await
    }

    async fn renew_lease(&self, request: Request<v1::RenewLeaseRequest>) -> Answer<v1::RenewLeaseResponse> {
        let request = request.into_inner();
        let ttl = std_duration(request.ttl, "ttl")?.unwrap_or(LEASE_TTL_DEFAULT);
        self.once(request.request_id, move |handle| {
            let lease =
                handle.renew(&request.lease_id, ttl).map_err(|error| refusal::proxy(&error, "ttl"))?;
            Ok(v1::RenewLeaseResponse { lease: Some(lease_proto(&lease, &WallClock::read())) })
        })
        .await
    }

    async fn release_lease(
        &self,
        request: Request<v1::ReleaseLeaseRequest>,
    ) -> Answer<v1::ReleaseLeaseResponse> {
        let request = request.into_inner();
        self.once(request.request_id, move |handle| {
            let (end, applied) =
                handle.release(&request.lease_id).map_err(|error| refusal::proxy(&error, "lease_id"))?;
            let id = end.lease.id.clone();
            let rules = end.rules.iter().map(|rule| rule_stats_proto(rule, id.clone())).collect();
            Ok(v1::ReleaseLeaseResponse { change: Some(change_proto(applied)), rules })
        })
        .await
    }

    async fn list_leases(&self, request: Request<v1::ListLeasesRequest>) -> Answer<v1::ListLeasesResponse> {
        let request = request.into_inner();
        let clock = WallClock::read();
        let mut leases = self.handle.leases();
        leases.retain(|lease| request.proxy.is_empty() || lease.proxy == request.proxy);
        leases.sort_by(|a, b| a.id.cmp(&b.id));
        let (found, next_page_token) =
            page(leases, |lease| lease.id.clone(), request.page_size, &request.page_token)?;
        let leases = found.iter().map(|lease| lease_proto(lease, &clock)).collect();
        Ok(Response::new(v1::ListLeasesResponse { leases, next_page_token }))
    }

    async fn list_behavior_kinds(
        &self,
        request: Request<v1::ListBehaviorKindsRequest>,
    ) -> Answer<v1::ListBehaviorKindsResponse> {
        let request = request.into_inner();
        let mut kinds: Vec<_> = KINDS.iter().collect();
        kinds.sort_by_key(|kind| kind.name);
        let (found, next_page_token) =
            page(kinds, |kind| kind.name.to_owned(), request.page_size, &request.page_token)?;
        let behavior_kinds = found.into_iter().map(|kind| v1::BehaviorKind {
            name: kind.name.to_owned(),
            aliases: kind.aliases.iter().map(|alias| (*alias).to_owned()).collect(),
            summary: kind.summary.to_owned(),
            options: kind.options.iter().map(option_proto).collect(),
            built: kind.built,
            live_effect_plain: live_effect(kind.live_change.bytes).into(),
            live_effect_protocol: live_effect(kind.live_change.messages).into(),
            live_effect_detail: String::new(),
        });
        let behavior_kinds = behavior_kinds.collect();
        Ok(Response::new(v1::ListBehaviorKindsResponse { behavior_kinds, next_page_token }))
    }

    async fn get_stats(&self, _: Request<v1::GetStatsRequest>) -> Answer<v1::GetStatsResponse> {
        let stats = self.stats().await?;
        let infos = self.handle.list();
        let workers = stats.workers.iter().map(|worker| v1::WorkerStats {
            worker: worker.worker as u32,
            residence: Some(histogram(&worker.residence)),
            connections_open: worker.connections as u64,
            cpu_time: proto_duration(Duration::from_nanos(worker.cpu_ns)),
            completion_queue_overflows: worker.overflows,
            generation: infos.iter().map(|info| info.generation).max().unwrap_or(0),
            ..v1::WorkerStats::default()
        });
        Ok(Response::new(v1::GetStatsResponse {
            workers: workers.collect(),
            proxies: stats.proxies.iter().map(|(name, stats)| proxy_stats_proto(name, stats)).collect(),
            monotonic_ns: stats.at.as_nanos(),
            wall_time: Some(WallClock::read().time(stats.at)),
            generation: infos.iter().map(|info| info.generation).max().unwrap_or(0),
            uptime: proto_duration(stats.at - self.started),
        }))
    }

    async fn get_proxy_stats(
        &self,
        request: Request<v1::GetProxyStatsRequest>,
    ) -> Answer<v1::GetProxyStatsResponse> {
        let name = request.into_inner().proxy;
        self.handle.get(&name).map_err(|error| refusal::proxy(&error, "proxy"))?;
        let stats = self.stats().await?;
        Ok(Response::new(v1::GetProxyStatsResponse {
            stats: stats.proxies.get(&name).map(|stats| proxy_stats_proto(&name, stats)),
            monotonic_ns: stats.at.as_nanos(),
            wall_time: Some(WallClock::read().time(stats.at)),
        }))
    }

    type WatchEventsStream = ReceiverStream<Result<v1::WatchEventsResponse, Status>>;

    async fn watch_events(
        &self,
        request: Request<v1::WatchEventsRequest>,
    ) -> Answer<Self::WatchEventsStream> {
        let request = request.into_inner();
        let heartbeat = std_duration(request.heartbeat, "heartbeat")?.unwrap_or(HEARTBEAT_DEFAULT);
        if !HEARTBEAT.contains(&heartbeat) {
            return Err(invalid("heartbeat", "between 100ms and 15s"));
        }
        for name in &request.proxies {
            self.handle.get(name).map_err(|error| refusal::proxy(&error, "proxies"))?;
        }
        let wants_injected =
            request.kinds.is_empty() || request.kinds.contains(&i32::from(v1::EventKind::Injected));
        let watcher = self.handle.watch(WATCH_BATCHES);
        let (messages, stream) = mpsc::channel(16);
        let handle = self.handle.clone();
        tokio::task::spawn_blocking(move || {
            let mut leases = LeaseNames::default();
            // At once: the stream stands.
            let mut batch: Option<Vec<Event>> = Some(Vec::new());
            loop {
                let events = batch.take().unwrap_or_default();
                let events: Vec<Event> = events
                    .into_iter()
                    .filter(|event| {
                        wants_injected
                            && (request.proxies.is_empty()
                                || request.proxies.iter().any(|name| name.as_str() == &*event.proxy))
                    })
                    .collect();
                let mut parts: Vec<&[Event]> = events.chunks(EVENTS_PER_MESSAGE).collect();
                if parts.is_empty() {
                    parts.push(&[]);
                }
                for part in parts {
                    let now = Instant::now();
                    let clock = WallClock::read();
                    let message = v1::WatchEventsResponse {
                        events: part
                            .iter()
                            .map(|event| event_proto(event, &clock, leases.of(event, &handle)))
                            .collect(),
                        lost: watcher.lost(),
                        monotonic_ns: now.as_nanos(),
                        wall_time: Some(clock.time(now)),
                    };
                    if messages.blocking_send(Ok(message)).is_err() {
                        return;
                    }
                }
                batch = watcher.recv_timeout(heartbeat);
                if batch.is_none() && handle.stats().is_err() {
                    return;
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(stream)))
    }
}

/// Which lease a rule named `lease-N/…` on a proxy belongs to.
#[derive(Default)]
struct LeaseNames(BTreeMap<(String, String), String>);

impl LeaseNames {
    fn of(&mut self, event: &Event, handle: &Handle) -> String {
        let number = event.rule.strip_prefix("lease-").and_then(|rest| rest.split_once('/'));
        let Some((number, _)) = number else { return String::new() };
        let key = (event.proxy.to_string(), number.to_owned());
        if !self.0.contains_key(&key) {
            let ended = handle.ended_leases().into_iter().map(|end| end.lease);
            for lease in handle.leases().into_iter().chain(ended) {
                if let Some((_, number)) = lease.id.rsplit_once('-') {
                    self.0.insert((lease.proxy, number.to_owned()), lease.id.clone());
                }
            }
        }
        self.0.get(&key).cloned().unwrap_or_default()
    }
}

async fn lookup(text: &str, field: &str) -> Result<Vec<SocketAddr>, Status> {
    let found = tokio::net::lookup_host(text).await;
    let addresses: Vec<SocketAddr> = found
        .map_err(|error| invalid(field, format!("cannot look up `{text}`: {error}; write HOST:PORT")))?
        .collect();
    if addresses.is_empty() { Err(invalid(field, format!("`{text}` has no address"))) } else { Ok(addresses) }
}

fn check_generation(handle: &Handle, name: &str, expected: Option<u64>) -> Result<(), Status> {
    let found = handle.get(name).map_err(|error| refusal::proxy(&error, "name"))?.generation;
    match expected.filter(|expected| *expected != found) {
        Some(expected) => Err(refusal::proxy(
            &ProxyError::Stale { name: name.to_owned(), expected, found },
            "expected_generation",
        )),
        None => Ok(()),
    }
}

fn open_connections(stats: &fracas_dataplane::proxy::ProxyStats) -> u64 {
    stats.counters.connections_opened - stats.counters.connections_closed
}

fn proxy_proto(info: &ProxyInfo, handle: &Handle, stats: Option<&Stats>) -> v1::Proxy {
    let clock = WallClock::read();
    v1::Proxy {
        name: info.spec.name.clone(),
        listen: info.spec.listen.to_string(),
        upstream: info.spec.upstream.clone(),
        protocol: info.spec.protocol.to_string(),
        enabled: info.spec.enabled,
        connect_timeout: proto_duration(info.spec.connect_timeout),
        source_addresses: info.spec.source_addresses.iter().map(ToString::to_string).collect(),
        generation: info.generation,
        rules: info.rules.iter().map(rule_proto).collect(),
        leases: info.leases.iter().map(|lease| lease_proto(lease, &clock)).collect(),
        connections_open: stats
            .and_then(|stats| stats.proxies.get(&info.spec.name))
            .map_or(0, open_connections),
        seed: handle.seed(),
    }
}

fn change_proto(applied: Applied) -> v1::Change {
    v1::Change {
        generation: applied.generation,
        apply_time: proto_duration(applied.took),
        workers: applied.workers as u32,
        applied_at: Some(WallClock::read().time(applied.at)),
        applied_at_monotonic_ns: applied.at.as_nanos(),
    }
}

fn lease_proto(lease: &LeaseInfo, clock: &WallClock) -> v1::Lease {
    let state = if lease.began_at.is_some() { v1::LeaseState::Active } else { v1::LeaseState::Pending };
    v1::Lease {
        id: lease.id.clone(),
        proxy: lease.proxy.clone(),
        owner: lease.owner.clone(),
        rules: lease.rules.iter().map(rule_proto).collect(),
        ttl: proto_duration(lease.ends_at - lease.starts_at),
        state: state.into(),
        acquired_at: None,
        starts_at: Some(clock.time(lease.starts_at)),
        expires_at: Some(clock.time(lease.ends_at)),
        ends_at: Some(clock.time(lease.ends_at)),
    }
}

fn event_proto(event: &Event, clock: &WallClock, lease_id: String) -> v1::Event {
    v1::Event {
        kind: v1::EventKind::Injected.into(),
        monotonic_ns: event.at.as_nanos(),
        wall_time: Some(clock.time(event.at)),
        proxy: event.proxy.to_string(),
        connection: event.connection,
        rule: event.rule.to_string(),
        behavior: event.behavior.to_owned(),
        asked: proto_duration(event.asked),
        done: proto_duration(event.done),
        lease_id,
        ..v1::Event::default()
    }
}

fn proxy_stats_proto(name: &str, stats: &fracas_dataplane::proxy::ProxyStats) -> v1::ProxyStats {
    let counters = &stats.counters;
    let mut injected: BTreeMap<String, u64> = BTreeMap::new();
    for rule in stats.rules.iter().chain(&stats.retired) {
        *injected.entry(rule.behavior.to_owned()).or_default() += rule.injected;
    }
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
            "client_resets",
            "upstream_resets",
            "protocol_errors",
        ]),
        limits_reached: named(&["held_limit_reached", "no_buffers", "accept_paused"]),
        held_bytes: 0,
        rules: stats.rules.iter().map(|rule| rule_stats_proto(rule, String::new())).collect(),
    }
}

fn option_proto(option: &fracas_dataplane::behavior::OptionSpec) -> v1::BehaviorOption {
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
        required: false,
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
