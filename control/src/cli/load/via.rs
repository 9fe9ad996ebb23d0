//! A proxy beside the load: its events on the run's time axis, and the run's faults flipped there.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context;
use fracas_dataplane::clock::Instant;
use fracas_loadgen::measure::FaultWindow;
use fracas_loadgen::scenario::Plan;
use fracas_proto::v1::proxy_service_client::ProxyServiceClient;
use fracas_proto::v1::{
    AcquireLeaseRequest, BehaviorOptions, Event, EventKind, ReleaseLeaseRequest, RenewLeaseRequest, RuleSet,
    WatchEventsRequest,
};
use serde_json::json;
use tokio::task::JoinSet;

use crate::cli::access::AccessArgs;
use crate::cli::client;
use crate::wire::dial::Caller;

/// Events of one run that are kept for its report; more are counted.
const EVENTS_MAX: usize = 1_000_000;
/// A rule that did nothing for so long begins a new window.
const WINDOW_GAP_NS: u64 = 1_000_000_000;
/// How long a call may take; none waits for traffic.
const CALL_MAX: Duration = Duration::from_secs(5);
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
    lost: u64,
}

/// A fault of the run file, as it was planned on the proxy.
pub struct PlannedFault {
    lease: String,
    /// Its place in the plan.
    fault: usize,
}

impl Via {
    /// Connects to a proxy's API and begins to watch.
    ///
    /// # Errors
    /// When nobody answers there, or does not let us in.
    pub async fn connect(api: &str, access: &AccessArgs) -> anyhow::Result<Via> {
        let hint = format!("start one with `fracas proxy … --api {api}`");
        let mut client = ProxyServiceClient::new(client::connect(api, access, "proxy", &hint).await?);
        let watch =
            WatchEventsRequest { kinds: vec![EventKind::Injected.into()], ..WatchEventsRequest::default() };
        let mut stream = client.watch_events(watch).await.map_err(client::error)?.into_inner();
        let watched = Arc::new(Mutex::new(Watched::default()));
        let shared = Arc::clone(&watched);
        tokio::spawn(async move {
            // The stream ends with the proxy; the run goes on.
            while let Ok(Some(batch)) = stream.message().await {
                let mut watched = shared.lock().unwrap_or_else(PoisonError::into_inner);
                let room = EVENTS_MAX - watched.events.len();
                watched.lost += batch.lost.max(watched.lost) - watched.lost;
                watched.lost += batch.events.len().saturating_sub(room) as u64;
                watched.events.extend(batch.events.into_iter().take(room));
            }
        });
        Ok(Via { client, watched, renewals: JoinSet::new() })
    }

    /// Plans the run's faults as leases that begin and end on the proxy's clock, and keeps them alive from now on.
    ///
    /// # Errors
    /// When the proxy refuses one; then none stays.
    pub async fn plan_faults(&mut self, plan: &Plan, start: Instant) -> anyhow::Result<Vec<PlannedFault>> {
        let mut planned = Vec::new();
        for fault in 0..plan.faults.len() {
            match self.acquire(plan, fault, start).await {
                Ok(lease) => planned.push(PlannedFault { lease, fault }),
                Err(error) => {
                    self.release(&planned).await;
                    return Err(error);
                }
            }
        }
        let leases = planned.iter().map(|fault| fault.lease.clone()).collect();
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
        for PlannedFault { lease, .. } in planned {
            let mut request = tonic::Request::new(ReleaseLeaseRequest {
                lease_id: lease.clone(),
                ..ReleaseLeaseRequest::default()
            });
            request.set_timeout(CALL_MAX);
            // A lease that has ended already is what is wanted.
            let _ = self.client.clone().release_lease(request).await;
        }
    }

    /// Ends the run's faults; returns the windows on the run's time axis, and the events as JSON lines.
    pub async fn finish(
        mut self,
        plan: &Plan,
        planned: &[PlannedFault],
        start: Instant,
        ran_for: Duration,
    ) -> (Vec<FaultWindow>, Vec<String>) {
        self.renewals.abort_all();
        self.release(planned).await;
        // Events are handed over every 20 ms: let the last ones come.
        tokio::time::sleep(Duration::from_millis(100)).await;
        let watched = std::mem::take(&mut *self.watched.lock().unwrap_or_else(PoisonError::into_inner));
        if watched.lost > 0 {
            eprintln!(
                "note: {} proxy events were too many to keep; the windows' counts are lower bounds",
                watched.lost
            );
        }
        let ran_ns = u64::try_from(ran_for.as_nanos()).unwrap_or(u64::MAX);
        let windows = windows(plan, planned, &watched.events, start.as_nanos(), ran_ns);
        (windows, watched.events.iter().map(|event| line(event, start.as_nanos())).collect())
    }
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

/// Windows of the planned faults by their plan; of everything else that happened, by its events: from the first
/// decision to the end of the last fault.
fn windows(
    plan: &Plan,
    planned: &[PlannedFault],
    events: &[Event],
    start_ns: u64,
    ran_ns: u64,
) -> Vec<FaultWindow> {
    let mut of_plan = vec![Vec::new(); planned.len()];
    let mut runs: BTreeMap<(&str, &str, &str), Vec<Run>> = BTreeMap::new();
    let mut in_order: Vec<&Event> = events.iter().collect();
    // What lost its rule comes last, when it is known which windows there are.
    in_order.sort_by_key(|event| (has_lost_its_rule(event), began_ns(event)));
    for event in in_order {
        let (began, ended) = (began_ns(event), event.monotonic_ns);
        if let Some(index) = planned.iter().position(|fault| is_of(event, plan, fault, start_ns)) {
            of_plan[index].push(event);
            continue;
        }
        if ended < start_ns {
            continue;
        }
        if has_lost_its_rule(event) {
            let of_this = runs.iter_mut().filter(|((proxy, behavior, _), _)| {
                (*proxy, *behavior) == (event.proxy.as_str(), event.behavior.as_str())
            });
            let near = of_this.flat_map(|(_, runs)| runs).find(|run| run.is_near(began));
            if let Some(run) = near {
                run.add(event, began);
                continue;
            }
        }
        let runs = runs.entry((&event.proxy, &event.behavior, &event.rule)).or_default();
        match runs.last_mut().filter(|run| run.is_near(began)) {
            Some(run) => run.add(event, began),
            None => runs.push(Run { from_ns: began, to_ns: ended, events: vec![event] }),
        }
    }
    let on_axis = |at_ns: u64| at_ns.saturating_sub(start_ns).min(ran_ns);
    let mut windows: Vec<FaultWindow> = planned
        .iter()
        .zip(&of_plan)
        .map(|(PlannedFault { fault, .. }, events)| {
            let fault = &plan.faults[*fault];
            let at = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX).min(ran_ns);
            window(&fault.proxy, &fault.behavior, at(fault.at), at(fault.at + fault.over), events)
        })
        .collect();
    for ((proxy, behavior, _), runs) in &runs {
        for Run { from_ns, to_ns, events } in runs {
            windows.push(window(proxy, behavior, on_axis(*from_ns), on_axis(*to_ns), events));
        }
    }
    windows.sort_by_key(|window| window.start_ns);
    windows
}

/// Faults of one rule without a long pause between them.
struct Run<'a> {
    from_ns: u64,
    to_ns: u64,
    events: Vec<&'a Event>,
}

impl<'a> Run<'a> {
    fn is_near(&self, began_ns: u64) -> bool {
        (self.from_ns.saturating_sub(WINDOW_GAP_NS)..=self.to_ns.saturating_add(WINDOW_GAP_NS))
            .contains(&began_ns)
    }

    fn add(&mut self, event: &'a Event, began_ns: u64) {
        self.from_ns = self.from_ns.min(began_ns);
        self.to_ns = self.to_ns.max(event.monotonic_ns);
        self.events.push(event);
    }
}

/// A delay is told when it has ended; it was decided on when its time had begun.
fn began_ns(event: &Event) -> u64 {
    event.monotonic_ns.saturating_sub(nanos(event.done.as_ref()))
}

/// A delay that ends after its rules were taken away is told with its behavior in place of its rule.
fn has_lost_its_rule(event: &Event) -> bool {
    event.rule == event.behavior && event.lease_id.is_empty()
}

fn is_of(event: &Event, plan: &Plan, fault: &PlannedFault, start_ns: u64) -> bool {
    if !has_lost_its_rule(event) {
        return event.lease_id == fault.lease;
    }
    let fault = &plan.faults[fault.fault];
    let at = |time: Duration| start_ns + u64::try_from(time.as_nanos()).unwrap_or(u64::MAX / 2);
    event.proxy == fault.proxy
        && fault.behavior.contains(&event.behavior)
        && (at(fault.at)..at(fault.at + fault.over)).contains(&began_ns(event))
}

fn window(proxy: &str, behavior: &str, start_ns: u64, end_ns: u64, events: &[&Event]) -> FaultWindow {
    let late = |event: &&Event| {
        let asked = nanos(event.asked.as_ref());
        (asked > 0).then(|| nanos(event.done.as_ref()).saturating_sub(asked))
    };
    let mut lateness: Vec<u64> = events.iter().filter_map(late).collect();
    lateness.sort_unstable();
    let percentile = |percent: usize| {
        let rank = (lateness.len() * percent).div_ceil(100);
        lateness.get(rank.saturating_sub(1)).copied()
    };
    FaultWindow {
        proxy: proxy.to_owned(),
        behavior: behavior.to_owned(),
        start_ns,
        end_ns,
        injected: Some(events.len() as u64),
        seen: None,
        accuracy_p50_ns: percentile(50),
        accuracy_p99_ns: percentile(99),
    }
}

fn line(event: &Event, start_ns: u64) -> String {
    json!({
        "at_ns": i128::from(event.monotonic_ns) - i128::from(start_ns),
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

fn nanos(duration: Option<&prost_types::Duration>) -> u64 {
    duration.map_or(0, |d| d.seconds.unsigned_abs() * 1_000_000_000 + u64::from(d.nanos.unsigned_abs()))
}

fn proto_duration(duration: Duration) -> Option<prost_types::Duration> {
    Some(prost_types::Duration { seconds: duration.as_secs() as i64, nanos: duration.subsec_nanos() as i32 })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(at_ms: u64, rule: &str, lease: &str, late_us: u32) -> Event {
        Event {
            monotonic_ns: 1_000_000_000 + at_ms * 1_000_000,
            proxy: "p".into(),
            rule: rule.into(),
            behavior: "delay".into(),
            lease_id: lease.into(),
            asked: proto_duration(Duration::from_millis(50)),
            done: proto_duration(Duration::from_millis(50) + Duration::from_micros(late_us.into())),
            ..Event::default()
        }
    }

    #[test]
    fn planned_faults_have_their_plan_and_others_their_events() {
        let mut plan = Plan::for_target("http://127.0.0.1:1/".parse().expect("a target"));
        plan.faults.push(fracas_loadgen::scenario::Fault {
            proxy: "p".into(),
            behavior: "20:delay".into(),
            options: BTreeMap::new(),
            at: Duration::from_secs(1),
            over: Duration::from_secs(2),
        });
        let planned = [PlannedFault { lease: "L".into(), fault: 0 }];
        let events = [
            event(100, "set", "", 5),
            event(200, "set", "", 7),
            event(1100, "x", "L", 10),
            event(1200, "x", "L", 30),
            event(2000, "set", "", 9),
        ];
        let windows = windows(&plan, &planned, &events, 1_000_000_000, 2_500_000_000);
        let short: Vec<_> =
            windows.iter().map(|w| (w.start_ns / 1_000_000, w.end_ns / 1_000_000, w.injected)).collect();
        assert_eq!(short, [(49, 200, Some(2)), (1000, 2500, Some(2)), (1949, 2000, Some(1))]);
        assert_eq!((windows[1].accuracy_p50_ns, windows[1].accuracy_p99_ns), (Some(10_000), Some(30_000)));
    }

    #[test]
    fn a_delay_that_outlives_its_rules_belongs_to_their_window() {
        let plan = Plan::for_target("http://127.0.0.1:1/".parse().expect("a target"));
        let events = [
            event(100, "lease-1/delay", "L", 0),
            event(500, "lease-1/delay", "L", 0),
            event(530, "delay", "", 0),
            event(9000, "delay", "", 0),
        ];
        let windows = windows(&plan, &[], &events, 1_000_000_000, 10_000_000_000);
        let short: Vec<_> =
            windows.iter().map(|w| (w.start_ns / 1_000_000, w.end_ns / 1_000_000, w.injected)).collect();
        assert_eq!(short, [(50, 530, Some(3)), (8950, 9000, Some(1))]);
    }
}
