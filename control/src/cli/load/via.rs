//! A proxy beside the load: its events on the run's time axis, and the run's faults flipped there.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Context;
use fracas_dataplane::clock::Instant;
use fracas_loadgen::measure::Faults;
use fracas_loadgen::scenario::Plan;
use fracas_proto::v1::proxy_service_client::ProxyServiceClient;
use fracas_proto::v1::{
    AcquireLeaseRequest, BehaviorOptions, Event, EventKind, GetStatsRequest, ListProxiesRequest, Proxy,
    ReleaseLeaseRequest, RenewLeaseRequest, RuleSet, WatchEventsRequest, WatchEventsResponse,
};
use serde_json::json;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::cli::access::AccessArgs;
use crate::cli::{client, plain};
use crate::clock_map::{ClockMap, Exchange, Offset};
use crate::fault_story::{Story, nanos};
use crate::wire::dial::Caller;

/// Events of one run that are kept for its report; more are counted.
const EVENTS_MAX: usize = 1_000_000;
/// How long a call may take; none waits for traffic.
const CALL_MAX: Duration = Duration::from_secs(5);
/// How long the proxy may take to come up: who starts it and the load in one line has it ready by then.
const COMES_UP_WITHIN: Duration = Duration::from_secs(2);
/// Between two tries to reach it.
const TRY_EVERY: Duration = Duration::from_millis(50);
/// Exchanges by which the proxy's clock is found.
const CLOCK_EXCHANGES: u32 = 4;
/// Proxies of a process that are asked for at a time: all that it may list.
const PROXIES_MAX: u32 = 1_000;
/// A lease lives so long without being renewed: a fault ends at most this long after the load that planned it.
const LEASE_TTL: Duration = Duration::from_secs(30);
/// How often leases are renewed: two calls may fail, or take [`CALL_MAX`], before one expires.
const RENEW_EVERY: Duration = Duration::from_secs(8);

/// A watched proxy process.
pub struct Via {
    client: ProxyServiceClient<Caller>,
    watched: Arc<Mutex<Watched>>,
    /// Keeps the leases alive; ends with this.
    renewals: JoinSet<()>,
}

#[derive(Default)]
struct Watched {
    events: Vec<Event>,
    /// Events that the proxy could not tell, or that were too many to keep.
    lost: u64,
    story: Story,
    /// The last message came from this instant.
    heard_ns: u64,
    /// The proxy's clock against ours: it may run on another machine.
    clock: Offset,
}

impl Watched {
    fn on(&mut self, mut batch: WatchEventsResponse) {
        let ours = |at_ns: u64| self.clock.to_controller(Instant::from_nanos(at_ns)).as_nanos();
        batch.events.iter_mut().for_each(|event| event.monotonic_ns = ours(event.monotonic_ns));
        let before_ns = std::mem::replace(&mut self.heard_ns, ours(batch.monotonic_ns));
        if batch.lost > self.lost {
            self.lost = batch.lost;
            self.story.missed(before_ns, self.heard_ns);
        }
        let room = EVENTS_MAX - self.events.len();
        batch.events.iter().for_each(|event| self.story.on(event));
        self.events.extend(batch.events.into_iter().take(room));
    }
}

/// A fault of the run file, as it was planned on the proxy: the id of its lease.
pub struct PlannedFault(String);

impl Via {
    /// Connects to a proxy's API and begins to watch, for a load that waits `timeout` for each reply.
    ///
    /// # Errors
    /// When nobody answers there, or does not let us in.
    pub async fn connect(api: &str, access: &AccessArgs, timeout: Duration) -> anyhow::Result<Via> {
        comes_up(api).await;
        let hint = format!("start one with `fracas proxy … --api {api}`");
        let mut client = ProxyServiceClient::new(client::connect(api, access, "proxy", &hint).await?);
        let kinds = [
            EventKind::Injected,
            EventKind::Changed,
            EventKind::LeaseAcquired,
            EventKind::LeaseStarted,
            EventKind::LeaseEnded,
        ];
        let watch = WatchEventsRequest {
            kinds: kinds.map(i32::from).to_vec(),
            heartbeat: proto_duration(Duration::from_secs(1)),
            ..WatchEventsRequest::default()
        };
        let mut stream = client.watch_events(watch).await.map_err(client::error)?.into_inner();
        // The first message says that the stream stands: what is listed now and what it tells leave no gap.
        let first = stream.message().await.map_err(client::error)?;
        let story = Story::of_load(timeout);
        let mut watched = Watched { clock: clock(&client).await?, story, ..Watched::default() };
        for proxy in list(&client).await? {
            watched.story.begin(&proxy);
        }
        first.into_iter().for_each(|batch| watched.on(batch));
        let watched = Arc::new(Mutex::new(watched));
        let shared = Arc::clone(&watched);
        tokio::spawn(async move {
            // The stream ends with the proxy; the run goes on.
            while let Ok(Some(batch)) = stream.message().await {
                lock(&shared).on(batch);
            }
            let mut watched = lock(&shared);
            watched.story.broke_off_ns = Some(watched.heard_ns);
        });
        Ok(Via { client, watched, renewals: JoinSet::new() })
    }

    /// The faults in force now, as `PROXY BEHAVIOR`.
    pub fn in_force(&self) -> Vec<String> {
        lock(&self.watched).story.in_force()
    }

    /// Plans the run's faults as leases that begin and end on the proxy's clock, and keeps them alive from now on.
    ///
    /// # Errors
    /// When the proxy refuses one; then none stays.
    pub async fn plan_faults(&mut self, plan: &Plan, start: Instant) -> anyhow::Result<Vec<PlannedFault>> {
        let mut planned = Vec::new();
        for fault in 0..plan.faults.len() {
            match self.acquire(plan, fault, start).await {
                Ok(lease) => planned.push(PlannedFault(lease)),
                Err(error) => {
                    self.release(&planned).await;
                    return Err(error);
                }
            }
        }
        let leases = planned.iter().map(|PlannedFault(lease)| lease.clone()).collect();
        self.renewals.spawn(renew(self.client.clone(), leases));
        Ok(planned)
    }

    async fn acquire(&self, plan: &Plan, index: usize, start: Instant) -> anyhow::Result<String> {
        let fault = &plan.faults[index];
        let options = fault
            .options
            .iter()
            .map(|(behavior, values)| (behavior.clone(), BehaviorOptions { values: values.clone() }));
        let mut request = tonic::Request::new(AcquireLeaseRequest {
            proxy: fault.proxy.clone(),
            rules: Some(RuleSet {
                mix: fault.behavior.clone(),
                options: options.collect(),
                ..RuleSet::default()
            }),
            ttl: proto_duration(LEASE_TTL),
            owner: format!("fracas load {}", plan.name),
            starts_in: proto_duration(start + fault.at - Instant::now()),
            active_for: proto_duration(fault.over),
            request_id: String::new(),
        });
        request.set_timeout(CALL_MAX);
        let reply = self.client.clone().acquire_lease(request).await;
        let reply = reply.map_err(|status| {
            anyhow::anyhow!("faults[{index}]: the proxy refuses it: {}", status.message())
        })?;
        Ok(reply.into_inner().lease.context("the proxy gave no lease")?.id)
    }

    async fn release(&self, planned: &[PlannedFault]) {
        for PlannedFault(lease) in planned {
            let mut request = tonic::Request::new(ReleaseLeaseRequest {
                lease_id: lease.clone(),
                ..ReleaseLeaseRequest::default()
            });
            request.set_timeout(CALL_MAX);
            // A lease that has ended already is what is wanted.
            let _ = self.client.clone().release_lease(request).await;
        }
    }

    /// Ends the run's faults; returns what is known of all faults on the run's time axis, and the events as JSON lines.
    pub async fn finish(
        mut self,
        plan: &Plan,
        planned: &[PlannedFault],
        start: Instant,
        ran_for: Duration,
    ) -> (Faults, Vec<String>) {
        self.renewals.abort_all();
        self.release(planned).await;
        // Events are handed over every 20 ms: let the last ones come.
        tokio::time::sleep(Duration::from_millis(100)).await;
        let mut request = tonic::Request::new(GetStatsRequest {});
        request.set_timeout(CALL_MAX);
        // A proxy that is gone has told what it could.
        let stats = self.client.clone().get_stats(request).await.map(|stats| stats.into_inner().proxies);
        let proxies = list(&self.client).await.unwrap_or_default();
        let mut watched = std::mem::take(&mut *lock(&self.watched));
        proxies.iter().for_each(|proxy| watched.story.listens(proxy));
        if watched.lost > 0 {
            note(&format!(
                "{} proxy events were too many to tell; of failures meanwhile it is not known whether they were injected",
                watched.lost
            ));
        }
        if let Some(at_ns) = watched.story.broke_off_ns {
            let at = at_ns.saturating_sub(start.as_nanos()) as f64 / 1e9;
            note(&format!("the proxy's API broke off {at:.1} s into the run; later faults are not known"));
        }
        let ran_ns = u64::try_from(ran_for.as_nanos()).unwrap_or(u64::MAX);
        let is_on_the_way = |listen: &str| listen.parse().is_ok_and(|listen| plan.target.may_lead_to(listen));
        let stats = stats.unwrap_or_default();
        let faults = watched.story.faults(start.as_nanos(), ran_ns, is_on_the_way, &stats);
        (faults, watched.events.iter().map(|event| line(event, start.as_nanos())).collect())
    }
}

fn lock(watched: &Mutex<Watched>) -> MutexGuard<'_, Watched> {
    watched.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A line beside the report; a terminal that is gone does not need it.
fn note(text: &str) {
    plain::note(&format!("note: {text}"));
}

/// The proxy's clock against ours, by the exchange with the shortest round trip. One that may be the same is the same.
async fn clock(client: &ProxyServiceClient<Caller>) -> anyhow::Result<Offset> {
    let mut clock = ClockMap::new(true);
    for _ in 0..CLOCK_EXCHANGES {
        let mut request = tonic::Request::new(GetStatsRequest {});
        request.set_timeout(CALL_MAX);
        let sent = Instant::now();
        let stats = client.clone().get_stats(request).await.map_err(client::error)?.into_inner();
        let read = Instant::from_nanos(stats.monotonic_ns);
        clock.add(Exchange {
            controller_sent: sent,
            node_received: read,
            node_sent: read,
            controller_received: Instant::now(),
        });
    }
    clock.offset(Instant::now()).context("the proxy's clock makes no sense")
}

/// Waits until something listens there, but not for long: whoever dials next says what is wrong.
async fn comes_up(api: &str) {
    let listens = async {
        while TcpStream::connect(api).await.is_err() {
            tokio::time::sleep(TRY_EVERY).await;
        }
    };
    let _ = tokio::time::timeout(COMES_UP_WITHIN, listens).await;
}

/// All proxies of the process, with their rules and leases.
async fn list(client: &ProxyServiceClient<Caller>) -> anyhow::Result<Vec<Proxy>> {
    let mut request =
        tonic::Request::new(ListProxiesRequest { page_size: PROXIES_MAX, ..ListProxiesRequest::default() });
    request.set_timeout(CALL_MAX);
    Ok(client.clone().list_proxies(request).await.map_err(client::error)?.into_inner().proxies)
}

/// Renews leases until all have ended.
async fn renew(client: ProxyServiceClient<Caller>, mut leases: Vec<String>) {
    while !leases.is_empty() {
        tokio::time::sleep(RENEW_EVERY).await;
        let mut alive = Vec::with_capacity(leases.len());
        for lease_id in leases {
            let mut request = tonic::Request::new(RenewLeaseRequest {
                lease_id: lease_id.clone(),
                ..RenewLeaseRequest::default()
            });
            request.set_timeout(CALL_MAX);
            // Its window is over. Any other failure may pass before it expires.
            match client.clone().renew_lease(request).await {
                Err(status) if status.code() == tonic::Code::NotFound => {}
                _ => alive.push(lease_id),
            }
        }
        leases = alive;
    }
}

fn line(event: &Event, start_ns: u64) -> String {
    json!({
        "at_ns": i128::from(event.monotonic_ns) - i128::from(start_ns),
        "kind": client::word(event.kind().as_str_name(), "EVENT_KIND_"),
        "proxy": event.proxy,
        "connection": event.connection,
        "exchange": event.exchange,
        "rule": event.rule,
        "behavior": event.behavior,
        "asked_ns": nanos(event.asked.as_ref()),
        "done_ns": nanos(event.done.as_ref()),
        "detail": event.detail,
    })
    .to_string()
}

fn proto_duration(duration: Duration) -> Option<prost_types::Duration> {
    Some(prost_types::Duration { seconds: duration.as_secs() as i64, nanos: duration.subsec_nanos() as i32 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_of_another_machine_are_on_our_clock() {
        let clock = Offset { offset_ns: 5_000_000_000, error: Duration::ZERO };
        let mut watched = Watched { clock, ..Watched::default() };
        let proxy = Proxy { name: "p".into(), enabled: Some(true), ..Proxy::default() };
        watched.story.begin(&proxy);
        let change = Event {
            kind: EventKind::Changed.into(),
            monotonic_ns: 7_000_000_000,
            proxy: "p".into(),
            generation: 1,
            detail: "5:error".into(),
            ..Event::default()
        };
        watched.on(WatchEventsResponse {
            events: vec![change],
            monotonic_ns: 7_100_000_000,
            ..WatchEventsResponse::default()
        });
        assert_eq!((watched.heard_ns, watched.events[0].monotonic_ns), (2_100_000_000, 2_000_000_000));
        assert_eq!(watched.story.windows()[0].from_ns, 2_000_000_000);
    }
}
