//! `ProxyService`: the proxies of this process, their rules, leases, figures and events.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use fracas_dataplane::address::Address;
use fracas_dataplane::behavior::KINDS;
use fracas_dataplane::clock::Instant;
use fracas_dataplane::config::limits::{self, TimeLimit};
use fracas_dataplane::config::{PROXY_NAME, is_proxy_name};
use fracas_dataplane::protocol::Protocol;
use fracas_dataplane::proxy::leases::{LEASE_TTL_MAX, LeaseError, Term};
use fracas_dataplane::proxy::{
    Applied, CONNECT_TIMEOUT_DEFAULT, Handle, LeaseInfo, LeaseRequest, Patience, PatienceUpdate, ProxyError,
    ProxyInfo, ProxySpec, ProxyUpdate, RESOLVE_DEFAULT, RulesChange, SOURCE_ADDRESSES_MAX, Stats,
};
use fracas_proto::v1;
use fracas_proto::v1::proxy_service_server::ProxyService;
use prost::Message;
use tokio::sync::{Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Response, Status};

use super::bounds::{NAMES_MAX, check_count, check_text, distinct};
use super::page::page;
use super::proxy_answers::{
    behavior_kind_proto, change_proto, lease_proto, proxy_proto, proxy_stats_proto, worker_stats_proto,
};
use super::proxy_proto::{proto_duration, rule_proto, rule_stats_proto, rules_of, std_duration};
use super::proxy_watch::{self, Watch};
use super::refusal::{self, invalid, refuse};
use super::remembered::{Remembered, Turns};
use super::wall_clock::WallClock;
use crate::checked::{CheckError, Checked};
use crate::lookup::{LookupError, Lookups};
use crate::wire::token::Caller;

const LEASE_TTL_DEFAULT: Duration = Duration::from_secs(30);
const LEASE_TTL: TimeLimit = TimeLimit {
    name: "ttl",
    takes_zero: false,
    min: Duration::from_millis(100),
    max: LEASE_TTL_MAX,
    expected: "a duration from 100ms to 24h such as 30s",
};
const OWNER_BYTES_MAX: usize = 200;
const HEARTBEAT_DEFAULT: Duration = Duration::from_secs(5);
const HEARTBEAT: std::ops::RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_secs(15);
/// A watcher that reads nothing for this long is given up: the silence after which a client reconnects, too.
const WATCHER_PATIENCE: Duration = Duration::from_secs(45);
/// Streams of events at a time: each has a thread, and changes need threads too.
const WATCHERS_MAX: usize = 64;
/// When a call is given up; none waits for traffic, so that this is never met but by a bug.
const CALL_MAX: Duration = Duration::from_secs(30);

/// Calls that read at a time, and calls that change rules and leases: each holds a thread for a moment.
const READS_MAX: usize = 32;
const CHANGES_MAX: usize = 32;
/// Calls at a time that make, move and remove proxies; they wait for each other, and others do not wait for them.
const MOVES_MAX: usize = 2;

/// The service, over one data plane.
#[derive(Clone)]
pub struct Proxies {
    checked: Arc<Checked>,
    lookups: Lookups,
    /// Whether everybody may make a proxy that other machines can reach.
    insecure: bool,
    remembered: Arc<Mutex<Remembered>>,
    turns: Turns,
    reads: Arc<Semaphore>,
    changes: Arc<Semaphore>,
    moves: Arc<Semaphore>,
    watchers: Arc<Semaphore>,
    started: Instant,
}

type Answer<T> = Result<Response<T>, Status>;

impl Proxies {
    /// Serves `checked`; `insecure` lets everybody make proxies that other machines can reach.
    pub fn new(checked: Arc<Checked>, lookups: Lookups, insecure: bool) -> Proxies {
        let lane = |places| Arc::new(Semaphore::new(places));
        Proxies {
            checked,
            lookups,
            insecure,
            remembered: Arc::default(),
            turns: Turns::default(),
            reads: lane(READS_MAX),
            changes: lane(CHANGES_MAX),
            moves: lane(MOVES_MAX),
            watchers: lane(WATCHERS_MAX),
            started: Instant::now(),
        }
    }

    /// All figures.
    pub async fn stats(&self) -> Result<Stats, Status> {
        self.read(stats).await
    }

    /// Changes rules or leases once: a repeat of `id` gets the first answer.
    async fn once<T: Message + Clone + 'static>(
        &self,
        id: String,
        change: impl FnOnce(&Handle) -> Result<T, Status> + Send + 'static,
    ) -> Answer<T> {
        let ready = async { Ok(()) };
        self.once_prepared(&self.changes, id, ready, |checked, ()| change(checked.handle())).await
    }

    /// Makes a change once, like [`Proxies::once`], of what `prepare` gives: that may take its time, and stops no other
    /// change. Calls of the handle block for microseconds, but on a thread that may; no more than `lane` has places.
    async fn once_prepared<P: Send + 'static, T: Message + Clone + 'static>(
        &self,
        lane: &Arc<Semaphore>,
        id: String,
        prepare: impl Future<Output = Result<P, Status>>,
        change: impl FnOnce(&Checked, P) -> Result<T, Status> + Send + 'static,
    ) -> Answer<T> {
        let due = Instant::now() + CALL_MAX;
        let made = async {
            // Two copies of one request at a time are one request, too.
            let turn = self.turns.of(&id).await;
            if let Some(answer) = lock(&self.remembered).find::<T>(&id)? {
                return Ok(answer);
            }
            let prepared = prepare.await?;
            let place = lane.clone().acquire_owned().await;
            let (checked, remembered) = (self.checked.clone(), self.remembered.clone());
            let changed = tokio::task::spawn_blocking(move || {
                // Both are held until it is done, whether or not its caller is still there.
                let _held = (turn, place);
                if Instant::now() >= due {
                    // The caller has been told so already.
                    return Err(too_slow());
                }
                let answer = change(&checked, prepared)?;
                lock(&remembered).keep(id, answer.clone());
                Ok(answer)
            });
            changed.await.map_err(|_| refusal::draining())?
        };
        in_time(made).await.map(Response::new)
    }

    /// Asks the handle something, on a thread that may wait for a change under way.
    async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Handle) -> Result<T, Status> + Send + 'static,
    ) -> Result<T, Status> {
        let asked = async {
            let place = self.reads.clone().acquire_owned().await;
            let checked = self.checked.clone();
            let answer = tokio::task::spawn_blocking(move || {
                let _held = place;
                read(checked.handle())
            });
            answer.await.map_err(|_| refusal::draining())?
        };
        in_time(asked).await
    }

    /// Looks an upstream up; `field` is where it stands in the request.
    async fn look_up(&self, upstream: &str, field: &str) -> Result<Vec<SocketAddr>, Status> {
        self.lookups.look_up(upstream, CALL_MAX).await.map_err(|error| match error {
            LookupError::Busy => refuse(Code::ResourceExhausted, "TOO_MANY_LOOKUPS", error, &[]),
            LookupError::TooSlow { .. } => refuse(Code::DeadlineExceeded, "TOO_SLOW", error, &[]),
            error => invalid(field, error),
        })
    }

    /// Whether a caller may make a proxy that listens there.
    fn check_listen(&self, listen: SocketAddr, caller: Option<&Caller>) -> Result<(), Status> {
        let may = self.insecure || caller == Some(&Caller::Authenticated);
        if may || listen.ip().to_canonical().is_loopback() {
            return Ok(());
        }
        Err(refuse(
            Code::PermissionDenied,
            "LISTEN_NOT_LOOPBACK",
            format!(
                "proxy.listen: other machines can reach {listen}: show a token (start the proxy with --token-file), \
                 put the proxy into its config, or start it with --insecure"
            ),
            &[("listen", listen.to_string())],
        ))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic under the lock is a bug that was reported where it happened; the others go on.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[tonic::async_trait]
impl ProxyService for Proxies {
    async fn list_proxies(
        &self,
        request: Request<v1::ListProxiesRequest>,
    ) -> Answer<v1::ListProxiesResponse> {
        let request = request.into_inner();
        let answer = self.read(move |handle| {
            let stats = stats(handle)?;
            let name = |info: &ProxyInfo| info.spec.name.clone();
            let (found, next_page_token) =
                page("proxies", handle.list(), name, request.page_size, &request.page_token)?;
            let proxies = found
                .iter()
                .map(|info| proxy_proto(info, handle, stats.proxies.get(&info.spec.name)))
                .collect();
            Ok(v1::ListProxiesResponse { proxies, next_page_token })
        });
        answer.await.map(Response::new)
    }

    async fn get_proxy(&self, request: Request<v1::GetProxyRequest>) -> Answer<v1::GetProxyResponse> {
        let name = request.into_inner().name;
        let answer = self.read(move |handle| {
            let info = handle.get(&name).map_err(|error| refusal::proxy(&error, "name"))?;
            let stats = handle.proxy_stats(&info.spec.name).ok();
            Ok(v1::GetProxyResponse { proxy: Some(proxy_proto(&info, handle, stats.as_ref())) })
        });
        answer.await.map(Response::new)
    }

    async fn create_proxy(
        &self,
        request: Request<v1::CreateProxyRequest>,
    ) -> Answer<v1::CreateProxyResponse> {
        let caller = request.extensions().get::<Caller>().copied();
        let v1::CreateProxyRequest { proxy, rules, request_id } = request.into_inner();
        let proxy =
            proxy.ok_or_else(|| invalid("proxy", "missing; give at least name, listen and upstream"))?;
        if !is_proxy_name(&proxy.name) {
            return Err(invalid("proxy.name", format!("not a name; give {PROXY_NAME}")));
        }
        let listen = Address::parse_listen(&proxy.listen).map_err(|why| invalid("proxy.listen", why))?;
        let listen =
            listen.literal().ok_or_else(|| invalid("proxy.listen", "a name; write an IP address"))?;
        self.check_listen(listen, caller.as_ref())?;
        let protocol = match proxy.protocol.as_str() {
            "" => Protocol::Tcp,
            name => name.parse::<Protocol>().map_err(|error| invalid("proxy.protocol", error))?,
        };
        check_count("proxy.source_addresses", proxy.source_addresses.len(), SOURCE_ADDRESSES_MAX)?;
        let sources = proxy.source_addresses.iter().enumerate().map(|(index, text)| {
            text.parse().map_err(|_| invalid(format!("proxy.source_addresses[{index}]"), "not an IP address"))
        });
        let source_addresses = sources.collect::<Result<_, Status>>()?;
        let rules = rules_of(rules.unwrap_or_default(), "rules")?;
        let connect_timeout = time(proxy.connect_timeout, "proxy.", &limits::CONNECT_TIMEOUT)?;
        let silence = [proxy.idle_timeout, proxy.linger, proxy.half_close, proxy.keepalive];
        let patience = Patience::default().updated(&patience(silence, "proxy.")?);
        let resolve = time(proxy.resolve, "proxy.", &limits::RESOLVE)?;
        let upstream = proxy.upstream.clone();
        let look_up = self.look_up(&upstream, "proxy.upstream");
        self.once_prepared(&self.moves, request_id, look_up, move |checked, addresses| {
            let spec = ProxySpec {
                upstream: proxy.upstream,
                protocol,
                rules,
                enabled: proxy.enabled.unwrap_or(true),
                connect_timeout: connect_timeout.unwrap_or(CONNECT_TIMEOUT_DEFAULT),
                patience,
                resolve: resolve.unwrap_or(RESOLVE_DEFAULT),
                source_addresses,
                ..ProxySpec::new(proxy.name, listen, addresses[0])
            };
            let spec = ProxySpec { upstream_addresses: addresses, ..spec };
            let started = Instant::now();
            let info = checked.create(spec).map_err(|error| {
                let field = match error {
                    CheckError::Proxy(ProxyError::Rules { .. } | ProxyError::RuleName { .. }) => "rules",
                    CheckError::Proxy(ProxyError::Listen { .. }) => "proxy.listen",
                    _ => "proxy.upstream",
                };
                refusal::checked(&error, field)
            })?;
            let handle = checked.handle();
            let now = Instant::now();
            let applied = Applied {
                generation: info.generation,
                took: now - started,
                workers: handle.workers(),
                at: now,
                proxies: Vec::new(),
            };
            let stats = handle.proxy_stats(&info.spec.name).ok();
            let proxy = Some(proxy_proto(&info, handle, stats.as_ref()));
            Ok(v1::CreateProxyResponse { proxy, change: Some(change_proto(&applied)) })
        })
        .await
    }

    async fn update_proxy(
        &self,
        request: Request<v1::UpdateProxyRequest>,
    ) -> Answer<v1::UpdateProxyResponse> {
        let request = request.into_inner();
        let protocol = match request.protocol.as_deref() {
            Some(name) => Some(name.parse::<Protocol>().map_err(|error| invalid("protocol", error))?),
            None => None,
        };
        let update = ProxyUpdate {
            upstream: None,
            enabled: request.enabled,
            protocol,
            connect_timeout: time(request.connect_timeout, "", &limits::CONNECT_TIMEOUT)?,
            patience: patience(
                [request.idle_timeout, request.linger, request.half_close, request.keepalive],
                "",
            )?,
            resolve: time(request.resolve, "", &limits::RESOLVE)?,
            expected_generation: request.expected_generation,
        };
        let (name, upstream) = (request.name, request.upstream);
        let look_up = async {
            let Some(text) = upstream else { return Ok(None) };
            let addresses = self.look_up(&text, "upstream").await?;
            Ok(Some((text, addresses)))
        };
        self.once_prepared(&self.moves, request.request_id, look_up, move |checked, upstream| {
            let update = ProxyUpdate { upstream, ..update };
            let (info, applied) = checked.update(&name, update).map_err(|error| {
                let field = match error {
                    CheckError::Proxy(ProxyError::Rules { .. }) => "protocol",
                    CheckError::Proxy(ProxyError::Listen { .. }) => "enabled",
                    _ => "upstream",
                };
                refusal::checked(&error, field)
            })?;
            let handle = checked.handle();
            let stats = handle.proxy_stats(&info.spec.name).ok();
            let proxy = Some(proxy_proto(&info, handle, stats.as_ref()));
            Ok(v1::UpdateProxyResponse { proxy, change: Some(change_proto(&applied)) })
        })
        .await
    }

    async fn delete_proxy(
        &self,
        request: Request<v1::DeleteProxyRequest>,
    ) -> Answer<v1::DeleteProxyResponse> {
        let request = request.into_inner();
        let ready = async { Ok(()) };
        self.once_prepared(&self.moves, request.request_id, ready, move |checked, ()| {
            let deleted = checked.delete(&request.name, request.expected_generation);
            let applied = deleted.map_err(|error| refusal::proxy(&error, "name"))?;
            Ok(v1::DeleteProxyResponse {
                change: Some(change_proto(&applied)),
                connections_closed: applied.proxies.iter().map(|to| to.connections as u64).sum(),
            })
        })
        .await
    }

    async fn apply_rules(&self, request: Request<v1::ApplyRulesRequest>) -> Answer<v1::ApplyRulesResponse> {
        let request = request.into_inner();
        if request.changes.is_empty() {
            return Err(invalid("changes", "empty; give at least one proxy and its rules"));
        }
        check_count("changes", request.changes.len(), NAMES_MAX)?;
        // Rules of thousands of proxies are read on a thread that may take its time.
        self.once(request.request_id, move |handle| {
            let mut seen = HashSet::new();
            let mut changes: Vec<RulesChange> = Vec::new();
            for (index, change) in request.changes.into_iter().enumerate() {
                if !seen.insert(change.proxy.clone()) {
                    let field = format!("changes[{index}].proxy");
                    return Err(invalid(field, "named twice; say each proxy once"));
                }
                changes.push(RulesChange {
                    rules: rules_of(change.rules.unwrap_or_default(), &format!("changes[{index}].rules"))?,
                    proxy: change.proxy,
                    expected_generation: change.expected_generation,
                });
            }
            let names: Vec<String> = changes.iter().map(|change| change.proxy.clone()).collect();
            let applied = handle.apply(changes).map_err(|error| {
                let index = match &error {
                    ProxyError::Rules { name, .. } | ProxyError::RuleName { proxy: name, .. } => {
                        names.iter().position(|other| other == name)
                    }
                    _ => None,
                };
                let field = index.map_or("changes".to_owned(), |index| format!("changes[{index}].rules"));
                refusal::proxy(&error, &field)
            })?;
            let results = applied.proxies.iter().filter_map(|to| {
                let info = handle.get(&to.proxy).ok()?;
                Some(v1::ProxyRulesResult {
                    proxy: to.proxy.clone(),
                    previous_generation: to.previous_generation,
                    rules: info.spec.rules.iter().map(rule_proto).collect(),
                    connections_open: to.connections as u64,
                    leases: info.leases.len() as u32,
                })
            });
            let results = results.collect();
            Ok(v1::ApplyRulesResponse { change: Some(change_proto(&applied)), results })
        })
        .await
    }

    async fn reset_proxies(
        &self,
        request: Request<v1::ResetProxiesRequest>,
    ) -> Answer<v1::ResetProxiesResponse> {
        let v1::ResetProxiesRequest { proxies, request_id } = request.into_inner();
        let proxies = distinct("proxies", proxies)?;
        self.once(request_id, move |handle| {
            let applied = handle.reset(&proxies).map_err(|error| refusal::proxy(&error, "proxies"))?;
            Ok(v1::ResetProxiesResponse {
                change: Some(change_proto(&applied)),
                proxies: applied.proxies.iter().map(|to| to.proxy.clone()).collect(),
                leases_ended: applied.proxies.iter().map(|to| to.leases_ended as u32).sum(),
            })
        })
        .await
    }

    async fn acquire_lease(
        &self,
        request: Request<v1::AcquireLeaseRequest>,
    ) -> Answer<v1::AcquireLeaseResponse> {
        let request = request.into_inner();
        check_text("owner", &request.owner, OWNER_BYTES_MAX)?;
        let ttl = std_duration(request.ttl, "ttl")?.unwrap_or(LEASE_TTL_DEFAULT);
        let starts_in = std_duration(request.starts_in, "starts_in")?.unwrap_or_default();
        LEASE_TTL.check(ttl).map_err(|why| invalid("ttl", why))?;
        let active_for = std_duration(request.active_for, "active_for")?;
        let lease = LeaseRequest {
            proxy: request.proxy,
            rules: rules_of(request.rules.unwrap_or_default(), "rules")?,
            owner: request.owner,
            term: Term { ttl: Some(ttl), starts_in, active_for },
        };
        self.once(request.request_id, move |handle| {
            let acquired = handle.acquire(lease).map_err(|error| {
                let field = match error {
                    ProxyError::Lease(LeaseError::Ttl(time)) if time != ttl => "active_for",
                    ProxyError::Lease(LeaseError::Ttl(_)) => "ttl",
                    ProxyError::Lease(LeaseError::Start(_)) => "starts_in",
                    _ => "rules",
                };
                refusal::proxy(&error, field)
            });
            let (lease, applied) = acquired?;
            let lease = Some(lease_proto(&lease, &WallClock::read()));
            Ok(v1::AcquireLeaseResponse { lease, change: Some(change_proto(&applied)) })
        })
        .await
    }

    async fn renew_lease(&self, request: Request<v1::RenewLeaseRequest>) -> Answer<v1::RenewLeaseResponse> {
        let request = request.into_inner();
        let ttl = std_duration(request.ttl, "ttl")?;
        if let Some(ttl) = ttl {
            LEASE_TTL.check(ttl).map_err(|why| invalid("ttl", why))?;
        }
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
            let rules = end.rules.iter().map(rule_stats_proto).collect();
            Ok(v1::ReleaseLeaseResponse { change: Some(change_proto(&applied)), rules })
        })
        .await
    }

    async fn list_leases(&self, request: Request<v1::ListLeasesRequest>) -> Answer<v1::ListLeasesResponse> {
        let request = request.into_inner();
        let answer = self.read(move |handle| {
            let clock = WallClock::read();
            let mut leases = handle.leases();
            leases.retain(|lease| request.proxy.is_empty() || lease.proxy == request.proxy);
            // Oldest first: an instant as digits of one width has the order of the instants.
            let list = format!("leases/{}", request.proxy);
            let key = |lease: &LeaseInfo| format!("{:020}/{}", lease.acquired_at.as_nanos(), lease.id);
            leases.sort_by_cached_key(key);
            let (found, next_page_token) = page(&list, leases, key, request.page_size, &request.page_token)?;
            let leases = found.iter().map(|lease| lease_proto(lease, &clock)).collect();
            Ok(v1::ListLeasesResponse { leases, next_page_token })
        });
        answer.await.map(Response::new)
    }

    async fn list_behavior_kinds(
        &self,
        request: Request<v1::ListBehaviorKindsRequest>,
    ) -> Answer<v1::ListBehaviorKindsResponse> {
        let request = request.into_inner();
        let mut kinds: Vec<_> = KINDS.iter().collect();
        kinds.sort_by_key(|kind| kind.name);
        let (found, next_page_token) = page(
            "behavior-kinds",
            kinds,
            |kind| kind.name.to_owned(),
            request.page_size,
            &request.page_token,
        )?;
        let behavior_kinds = found.into_iter().map(behavior_kind_proto).collect();
        Ok(Response::new(v1::ListBehaviorKindsResponse { behavior_kinds, next_page_token }))
    }

    async fn get_stats(&self, _: Request<v1::GetStatsRequest>) -> Answer<v1::GetStatsResponse> {
        let started = self.started;
        let answer = self.read(move |handle| {
            let stats = stats(handle)?;
            let ended = |name: &str| handle.ended_rules(name).unwrap_or_default();
            let proxies =
                stats.proxies.iter().map(|(name, stats)| proxy_stats_proto(name, stats, &ended(name)));
            Ok(v1::GetStatsResponse {
                proxies: proxies.collect(),
                workers: stats.workers.iter().map(worker_stats_proto).collect(),
                monotonic_ns: stats.at.as_nanos(),
                wall_time: Some(WallClock::read().time(stats.at)),
                generation: handle.generation(),
                uptime: proto_duration(stats.at - started),
            })
        });
        answer.await.map(Response::new)
    }

    async fn get_proxy_stats(
        &self,
        request: Request<v1::GetProxyStatsRequest>,
    ) -> Answer<v1::GetProxyStatsResponse> {
        let name = request.into_inner().proxy;
        let answer = self.read(move |handle| {
            let refused = |error| refusal::proxy(&error, "proxy");
            let (stats, at) = (handle.proxy_stats(&name).map_err(refused)?, Instant::now());
            let ended = handle.ended_rules(&name).map_err(refused)?;
            Ok(v1::GetProxyStatsResponse {
                stats: Some(proxy_stats_proto(&name, &stats, &ended)),
                monotonic_ns: at.as_nanos(),
                wall_time: Some(WallClock::read().time(at)),
            })
        });
        answer.await.map(Response::new)
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
        let proxies = distinct("proxies", request.proxies)?;
        let proxies = self.read(move |handle| {
            for name in &proxies {
                handle.get(name).map_err(|error| refusal::proxy(&error, "proxies"))?;
            }
            Ok(proxies.into_iter().collect())
        });
        let proxies: HashSet<String> = proxies.await?;
        let kinds = proxy_watch::kinds_of(&request.kinds)?;
        let Ok(place) = Arc::clone(&self.watchers).try_acquire_owned() else {
            return Err(refuse(
                Code::ResourceExhausted,
                "TOO_MANY_WATCHERS",
                format!("{WATCHERS_MAX} streams of events are open; end one first"),
                &[],
            ));
        };
        let (messages, stream) = mpsc::channel(16);
        let watch = Watch { proxies, kinds, heartbeat, patience: WATCHER_PATIENCE };
        let handle = self.checked.handle().clone();
        tokio::task::spawn_blocking(move || {
            watch.stream(&handle, &messages);
            drop(place);
        });
        Ok(Response::new(ReceiverStream::new(stream)))
    }
}

fn stats(handle: &Handle) -> Result<Stats, Status> {
    handle.stats().map_err(|error| refusal::proxy(&error, ""))
}

/// The limits on silence that a request sets: `idle_timeout`, `linger`, `half_close` and `keepalive`; `path` is what stands
/// before their names.
fn patience(silence: [Option<prost_types::Duration>; 4], path: &str) -> Result<PatienceUpdate, Status> {
    let [idle, linger, half_close, keepalive] = silence;
    Ok(PatienceUpdate {
        idle: time(idle, path, &limits::IDLE_TIMEOUT)?,
        linger: time(linger, path, &limits::LINGER)?,
        half_close: time(half_close, path, &limits::HALF_CLOSE)?,
        keepalive: time(keepalive, path, &limits::KEEPALIVE)?,
    })
}

/// A time of a request that is within its bounds.
fn time(
    given: Option<prost_types::Duration>,
    path: &str,
    limit: &TimeLimit,
) -> Result<Option<Duration>, Status> {
    let field = format!("{path}{}", limit.name);
    let given = std_duration(given, &field)?;
    given.map(|time| limit.check(time).map_err(|why| invalid(field, why))).transpose()
}

/// What a call answers within its time.
async fn in_time<T>(answer: impl Future<Output = Result<T, Status>>) -> Result<T, Status> {
    tokio::time::timeout(CALL_MAX, answer).await.unwrap_or_else(|_| Err(too_slow()))
}

fn too_slow() -> Status {
    refuse(
        Code::DeadlineExceeded,
        "TOO_SLOW",
        format!("not done after {CALL_MAX:?}; read the proxy again before a retry"),
        &[],
    )
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use fracas_dataplane::destination::Destinations;
    use fracas_dataplane::proxy::{Dataplane, DataplaneSettings};
    use tonic_types::StatusExt;

    use super::*;
    use crate::lookup::{AT_A_TIME, WAITING_MAX};

    fn create(name: &str, upstream: &str) -> Request<v1::CreateProxyRequest> {
        let proxy = v1::Proxy {
            name: name.to_owned(),
            listen: "127.0.0.1:0".to_owned(),
            upstream: upstream.to_owned(),
            ..v1::Proxy::default()
        };
        Request::new(v1::CreateProxyRequest { proxy: Some(proxy), ..v1::CreateProxyRequest::default() })
    }

    fn set(mix: &str) -> Request<v1::ApplyRulesRequest> {
        let rules = Some(v1::RuleSet { mix: mix.to_owned(), ..v1::RuleSet::default() });
        let changes = vec![v1::ProxyRules { proxy: "fast".to_owned(), rules, ..v1::ProxyRules::default() }];
        Request::new(v1::ApplyRulesRequest { changes, ..v1::ApplyRulesRequest::default() })
    }

    #[tokio::test]
    async fn creates_that_wait_for_slow_names_hold_up_nobody() {
        let settings = DataplaneSettings { threads: 1, ..DataplaneSettings::default() };
        let dataplane = Dataplane::start(settings).unwrap();
        let (release, held) = mpsc::channel::<()>();
        let held = Mutex::new(held);
        let lookups = Lookups::by(move |_| {
            // Until the test ends.
            let _ = held.lock().unwrap().recv();
            Err(std::io::ErrorKind::NotFound.into())
        });
        let checked = Arc::new(Checked::new(dataplane.handle(), Destinations::default()));
        let proxies = Proxies::new(checked, lookups, false);
        proxies.create_proxy(create("fast", "127.0.0.1:1")).await.unwrap();
        let waiting: Vec<_> = (0..600)
            .map(|number| {
                let proxies = proxies.clone();
                tokio::spawn(async move {
                    proxies.create_proxy(create(&format!("slow{number}"), "slow.example:1")).await
                })
            })
            .collect();
        let refused = || waiting.iter().filter(|waiting| waiting.is_finished()).count();
        while refused() < 600 - AT_A_TIME - WAITING_MAX {
            tokio::task::yield_now().await;
        }
        // Each of these would wait for a thread if the others had all of them.
        proxies.apply_rules(set("20:reset")).await.unwrap();
        proxies.list_proxies(Request::new(v1::ListProxiesRequest::default())).await.unwrap();
        proxies.create_proxy(create("too", "127.0.0.1:2")).await.unwrap();
        proxies.stats().await.unwrap();
        drop(release);
        let mut reasons = Vec::new();
        for waiting in waiting {
            let status = waiting.await.unwrap().unwrap_err();
            reasons.push(status.get_error_details().error_info().unwrap().reason.clone());
        }
        let busy = reasons.iter().filter(|reason| *reason == "TOO_MANY_LOOKUPS").count();
        assert_eq!((busy, reasons.len()), (600 - AT_A_TIME - WAITING_MAX, 600));
    }
}
