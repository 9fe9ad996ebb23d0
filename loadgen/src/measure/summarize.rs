//! How a summary is made: merged seconds in, figures out. Every percentile comes from merged counts.

mod near;
mod window;

use std::collections::BTreeMap;
use std::time::Duration;

use super::around::{Tenths, look_around};
use super::cause;
use super::facts::{NodeReport, RunFacts, Shortages};
use super::faults::Injected;
use super::fine::TENTH_NS;
use super::growth::growth;
use super::histogram::Distribution;
use super::interval::{Counts, Timeline};
use super::objectives::Figures;
use super::own::Own;
use super::sample::{ErrorKind, OutcomeClass};
use super::summary::{Causes, CurvePoint, ErrorCount, NodeSummary, OwnSummary, Second, Series, Summary};
use super::verdict::thresholds::WORKER_BUSY_KNOWN_FROM;
use super::verdict::{Signals, judge};
use crate::scenario::{Load, OnNodeLoss, SeriesName};
use near::tenths_around;
use window::{Window, typical_wait, user_time};

impl Summary {
    /// Merges what the nodes measured and judges it.
    pub fn new(facts: RunFacts, nodes: &[NodeReport]) -> Summary {
        let mut timeline = Timeline::default();
        nodes.iter().for_each(|node| timeline.merge(&node.timeline));
        let window = Window::of(&facts);
        let counts = timeline.counts();
        let distributions = [timeline.response(), timeline.service(), timeline.lag()];
        let own_lag = timeline.own_lag();
        let connect = timeline.connect();
        let sum = |of: fn(&super::Interval) -> u64| timeline.intervals().map(of).fold(0, u64::saturating_add);
        let (ok_in_time, replied_in_time) = (sum(|i| i.ok_in_time), sum(|i| i.ended_in_time));
        let measured_seconds = window.measured.as_secs_f64().max(1e-9);
        let ok_per_second = ok_in_time as f64 / measured_seconds;
        let open_model = facts.plan.phases.iter().any(|p| !p.warm_up && matches!(p.load, Load::Open(_)));
        let answerable = window.answerable(&timeline, typical_wait(&timeline)).filter(|_| open_model);
        // One request more or less is chance.
        let answered_ratio =
            answerable.map(|answerable| ((replied_in_time + 1) as f64 / answerable.max(1.0)).min(1.0));
        let late = counts.timeout + counts.censored;
        let first = nanos(window.warm_up).div_ceil(TENTH_NS);
        let measured = first..first + nanos(window.measured) / TENTH_NS;
        let growth_ratio = growth(timeline.tenths(), measured).filter(|_| open_model);
        let own = own_summary(&timeline, user_time(&facts.plan, &window));
        let of_nodes = nodes.iter().map(|n| (n.name.clone(), own_summary(&n.timeline, Duration::ZERO)));
        let workers = nodes.iter().map(|n| n.workers.len()).sum::<usize>().max(1) as u64;
        let busy_max = nodes.iter().flat_map(|n| &n.workers).map(|w| w.busy_ratio).reduce(f64::max);
        let mut shortages = Shortages::default();
        nodes.iter().for_each(|node| shortages.merge(node.shortages));
        let verdict = judge(&Signals {
            planned: counts.planned,
            sent: counts.sent,
            ok: counts.ok,
            timeout: counts.timeout,
            dropped: counts.dropped,
            commonest_error: commonest_error(&timeline, &counts),
            own_lag_p99_ns: own_lag.percentile(99.0),
            own_lag_known: own_lag.count() > 0,
            open_model,
            answered_ratio,
            growth_ratio: growth_ratio.unwrap_or_default(),
            own,
            own_of_nodes: if nodes.len() > 1 { of_nodes.collect() } else { Vec::new() },
            worker_ns: workers.saturating_mul(nanos(window.actual(facts.ran_for))),
            worker_busy_max: busy_max.filter(|_| window.actual(facts.ran_for) >= WORKER_BUSY_KNOWN_FROM),
            shortages,
            connection_per_request: !facts.plan.keep_alive,
            cq_overflows: nodes
                .iter()
                .flat_map(|n| &n.workers)
                .fold(0, |sum, worker| sum.saturating_add(worker.cq_overflows)),
            connections_asked: if facts.plan.keep_alive { u64::from(facts.plan.connections) } else { 0 },
            connections_opened: sum(|i| i.connections_opened),
            connect_failures: sum(|i| i.connect_failures),
            connect_failures_opening: sum(|i| i.connect_failures_opening),
            saturated: distributions.iter().map(Distribution::saturated).sum(),
            imbalance: imbalances(nodes, &timeline),
            lost_nodes: lost_nodes(nodes, facts.plan.on_node_loss),
            ended_early: facts.ended_early.clone(),
        });
        let mut windows = facts.faults.windows;
        let tenths: BTreeMap<_, _> = timeline.tenths().collect();
        let own_failures = tenths.values().map(|tenth| tenth.own_failures()).sum();
        let by_tenth = match &facts.faults.injected {
            Injected::Known(injections) => {
                let mut injections = injections.clone();
                if injections.is_by_the_second() {
                    cause::vague_by_plan(&facts.plan, &windows)
                        .into_iter()
                        .for_each(|span| injections.is_vague(span));
                }
                Some(cause::causes(&tenths, &injections, &windows))
            }
            _ => None,
        };
        let mut causes =
            causes(&counts, by_tenth.as_ref(), facts.faults.injected.unknown_because(), own_failures);
        if let Injected::Known(injections) = &facts.faults.injected {
            causes.not_kept = injections.not_kept;
        }
        let first = nanos(window.warm_up).div_ceil(TENTH_NS);
        let measured = first..first + nanos(window.measured).div_ceil(TENTH_NS);
        look_around(&mut windows, &Tenths { all: tenths, causes: by_tenth, measured });
        let good = [timeline.response_of(OutcomeClass::Ok), timeline.service_of(OutcomeClass::Ok)];
        let figures =
            Figures { all: &distributions, good: &good, counts: &counts, causes: &causes, ok_per_second };
        let slo = facts.plan.slo.iter().map(|slo| figures.evaluate(slo)).collect();
        let [response, service, lag] = &distributions;
        Summary {
            format: 1,
            name: facts.plan.name.clone(),
            verdict: verdict.grade,
            reasons: verdict.reasons,
            counts,
            warm_up_counts: timeline.warm_up(),
            response: Series::of(response, late + counts.unsent),
            service: Series::of(service, late),
            lag: Series::of(lag, 0),
            own_lag: Series::of(&own_lag, 0),
            own,
            response_by_outcome: by_outcome(&timeline),
            connect: Series::of(&connect, 0),
            curves: SeriesName::ALL.into_iter().zip(distributions.iter().map(curve)).collect(),
            errors: error_counts(&timeline),
            causes,
            measured_ns: nanos(window.measured),
            warm_up_ns: nanos(window.warm_up),
            planned_per_second: open_model.then(|| counts.planned as f64 / measured_seconds),
            answered_ratio,
            ok_per_second,
            sent_bytes: sum(|i| i.sent_bytes),
            received_bytes: sum(|i| i.received_bytes),
            connections_opened: sum(|i| i.connections_opened),
            connections_used: sum(|i| i.connections_used),
            reconnects: sum(|i| i.reconnects),
            connect_failures: sum(|i| i.connect_failures),
            timeouts_without_connection: sum(|i| i.timeouts_without_connection),
            growth_ratio,
            seconds: timeline.intervals().map(second).collect(),
            tenths: tenths_around(&timeline, &windows),
            faults: windows,
            slo,
            nodes: nodes.iter().map(node_summary).collect(),
            environment: facts.environment,
            plan: facts.plan,
            started_at_unix_ms: facts.started_at_unix_ms,
            reproduce: facts.reproduce,
        }
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

fn curve(distribution: &Distribution) -> Vec<CurvePoint> {
    if distribution.count() == 0 {
        return Vec::new();
    }
    let point = |row: super::PercentileRow| CurvePoint { quantile: row.quantile, value_ns: row.value_ns };
    distribution.percentile_rows(5).into_iter().map(point).collect()
}

fn by_outcome(timeline: &Timeline) -> Vec<(String, Series)> {
    OutcomeClass::ALL
        .into_iter()
        .map(|class| {
            let distribution = timeline.response_of(class);
            let bound = matches!(class, OutcomeClass::Timeout | OutcomeClass::Censored);
            let lower_bounds = if bound { distribution.count() } else { 0 };
            (class.name().to_owned(), Series::of(&distribution, lower_bounds))
        })
        .collect()
}

fn error_counts(timeline: &Timeline) -> Vec<ErrorCount> {
    let mut all: Vec<ErrorCount> = ErrorKind::ALL
        .into_iter()
        .map(|kind| ErrorCount {
            kind: kind.name().to_owned(),
            description: kind.describe().to_owned(),
            count: timeline.intervals().map(|interval| interval.errors[kind as usize]).sum(),
        })
        .filter(|error| error.count > 0)
        .collect();
    all.sort_by_key(|error| std::cmp::Reverse(error.count));
    all
}

/// What most requests failed of, timeouts included.
fn commonest_error(timeline: &Timeline, counts: &Counts) -> Option<&'static str> {
    let count =
        |kind: ErrorKind| timeline.intervals().map(|interval| interval.errors[kind as usize]).sum::<u64>();
    let errors = ErrorKind::ALL.into_iter().map(|kind| (count(kind), kind.describe()));
    let all = errors.chain([(counts.timeout, "no reply in time")]);
    all.filter(|(count, _)| *count > 0).max_by_key(|(count, _)| *count).map(|(_, what)| what)
}

fn second(interval: &super::Interval) -> Second {
    let (response, service) = (interval.response_all(), interval.service_all());
    let both = |of: fn(&Counts) -> u64| of(&interval.counts) + of(&interval.warm_up);
    Second {
        second: interval.second,
        warm_up: interval.warm_up.planned > 0,
        planned: both(|c| c.planned),
        ok: both(|c| c.ok),
        failed: both(|c| c.error + c.timeout),
        samples: response.count(),
        p50: response.percentile(50.0),
        p99: response.percentile(99.0),
        max: response.max(),
        service_p99: service.percentile(99.0),
        lag_p99: interval.lag.percentile(99.0),
        lag_max: interval.lag.max(),
        own_p99: interval.own_lag.percentile(99.0),
        own_max: interval.own_lag.max(),
        own_stall_max: interval.own.stall_max_ns,
        own_run_delay: interval.own.run_delay_ns,
    }
}

/// `user_time` is the time that all virtual users had together.
fn own_summary(timeline: &Timeline, user_time: Duration) -> OwnSummary {
    let mut all = Own::default();
    timeline.intervals().for_each(|interval| all.merge(&interval.own));
    let worst = timeline.intervals().filter(|i| i.own.stall_max_ns > 0).max_by_key(|i| i.own.stall_max_ns);
    let ratio = |part: f64, whole: f64| if whole > 0.0 { (part / whole).min(1.0) } else { 0.0 };
    OwnSummary {
        stall_max_ns: all.stall_max_ns,
        stall_max_second: worst.map(|interval| interval.second),
        stall_ns: all.stall_ns,
        requests_touched: all.requests_touched,
        touched_ratio: ratio(all.requests_touched as f64, timeline.counts().planned as f64),
        run_delay_ns: all.run_delay_ns,
        run_delay_mean_ns: all.run_delay_ns / all.runs.max(1),
        preemptions: all.preemptions,
        connects_paced: all.connects_paced,
        users_paused_ns: all.users_paused_ns,
        users_paused_ratio: ratio(all.users_paused_ns as f64, nanos(user_time) as f64),
        timeouts: all.timeouts,
    }
}

fn node_summary(node: &NodeReport) -> NodeSummary {
    let counts = node.timeline.counts();
    let late = counts.timeout + counts.censored + counts.unsent;
    NodeSummary {
        name: node.name.clone(),
        counts,
        response: Series::of(&node.timeline.response(), late),
        own_lag: Series::of(&node.timeline.own_lag(), 0),
        own: own_summary(&node.timeline, Duration::ZERO),
        workers: node.workers.clone(),
        lost: node.lost.clone(),
        clock_error_ns: node.clock_error.map(nanos),
    }
}

/// A lost node cannot balance: its last second is missing. It is a reason of its own.
fn imbalances(nodes: &[NodeReport], total: &Timeline) -> Vec<(String, super::Imbalance)> {
    let of = |timeline: &Timeline| {
        [timeline.counts(), timeline.warm_up()].into_iter().filter_map(|counts| counts.check().err())
    };
    if nodes.iter().any(|node| node.lost.is_some()) {
        let standing = nodes.iter().filter(|node| node.lost.is_none());
        return standing.flat_map(|node| of(&node.timeline).map(|e| (node.name.clone(), e))).collect();
    }
    let each = nodes.iter().flat_map(|node| of(&node.timeline).map(|e| (format!("node {}", node.name), e)));
    each.chain(of(total).map(|e| ("all nodes".to_owned(), e))).collect()
}

fn lost_nodes(nodes: &[NodeReport], policy: OnNodeLoss) -> Vec<(String, bool)> {
    let lost = nodes.iter().filter_map(|node| Some((node, node.lost.as_ref()?)));
    lost.map(|(node, why)| (format!("node {} was lost: {why}", node.name), policy == OnNodeLoss::Continue))
        .collect()
}

/// Failures and timeouts by who made them.
fn causes(
    counts: &Counts,
    by_tenth: Option<&BTreeMap<u64, cause::Cause>>,
    unknown_because: Option<&'static str>,
    own: u64,
) -> Causes {
    let failed = counts.error + counts.timeout;
    let own = own.min(failed);
    let failed = failed - own;
    let cause = by_tenth.map(|by_tenth| {
        let mut sum = cause::Cause::default();
        by_tenth.values().for_each(|cause| sum.add(*cause));
        sum
    });
    // Of no failure, none is injected.
    let cause = cause.or((failed == 0).then(cause::Cause::default));
    let Some(cause) = cause else {
        return Causes { own, unknown_because: unknown_because.map(str::to_owned), ..Causes::default() };
    };
    let injected = cause.injected.min(failed);
    let unknown = cause.unknown.min(failed - injected);
    Causes {
        injected: Some(injected),
        natural: Some(failed - injected - unknown),
        own,
        unknown,
        not_kept: 0,
        unknown_because: (unknown > 0).then(|| UNKNOWN_BECAUSE.to_owned()),
    }
}

/// Why it is not known of some failures when it is of others.
const UNKNOWN_BECAUSE: &str =
    "a fault may have held them or the connections that they waited for, or was not told of";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::{Environment, ErrorKind, Faults, Grade, Outcome, Recorder, Sample, WorkerUse};
    use crate::scenario::{Pace, Phase, Plan, Rate, Stop};
    use fracas_dataplane::clock::Instant;

    fn facts(slo: &[&str]) -> RunFacts {
        let mut plan = Plan::for_target("http://127.0.0.1:1/".parse().unwrap());
        plan.phases = vec![Phase {
            load: Load::Open(Pace::Constant { rate: Rate::per_second(2000).unwrap() }),
            stop: Stop::After(Duration::from_secs(10)),
            warm_up: false,
        }];
        plan.slo = slo.iter().map(|text| text.parse().unwrap()).collect();
        RunFacts {
            plan,
            started_at_unix_ms: 0,
            ran_for: Duration::from_secs(10),
            ended_early: None,
            cut_after: None,
            faults: Faults::default(),
            environment: Environment::default(),
            reproduce: String::new(),
        }
    }

    /// 2,000 requests a second for 10 s over one connection; the server answers in 100 µs but freezes from 5 s to 6.4 s.
    fn frozen() -> NodeReport {
        let start = Instant::from_nanos(1_000_000_000);
        let at = |ns: u64| start + Duration::from_nanos(ns);
        let mut recorder = Recorder::new(start);
        recorder.connected(start, at(50_000), false);
        let mut free = 0_u64;
        for k in 0..20_000_u64 {
            let due = k * 500_000;
            let sent = due.max(free);
            let done =
                if (5_000_000_000..6_400_000_000).contains(&sent) { 6_400_000_000 } else { sent } + 100_000;
            free = done;
            recorder.planned(at(due), false);
            recorder.sent(at(due), false);
            recorder.record(&Sample {
                due: at(due),
                ready: at(sent),
                sent: at(sent),
                done: at(done),
                seen_late: Duration::ZERO,
                outcome: Outcome::Ok,
                warm_up: false,
            });
        }
        NodeReport { name: "local".into(), timeline: recorder.finish(), ..NodeReport::default() }
    }

    #[test]
    fn a_freeze_shows_in_response_and_lag_but_hides_in_service() {
        let summary =
            Summary::new(facts(&["p99<50ms", "service.p99<5ms", "errors<0.1%", "rate>1.9k/s"]), &[frozen()]);
        assert_eq!((summary.verdict, &summary.reasons), (Grade::Valid, &Vec::new()));
        // Request j of the freeze waits 1.4 s − 0.4 ms · j; the slowest 1 % are 200 requests.
        assert!(summary.response.p99.abs_diff(1_320_000_000) < 1_320_000, "{}", summary.response.p99);
        assert!(summary.service.p99 < 1_000_000);
        assert_eq!(summary.service.max / 1_000_000_000, 1);
        assert!(summary.lag.p99 > 1_000_000_000 && summary.own_lag.max == 0);
        assert_eq!(summary.slo.iter().map(|s| s.passed).collect::<Vec<_>>(), [false, true, true, true]);
        assert!((summary.ok_per_second - 2000.0).abs() < 1.0);
        assert_eq!(summary.seconds.len(), 10);
        assert_eq!(summary.seconds[5].ok, 0, "replies lie where they came");
        assert!(summary.seconds[5].p50 > 800_000_000, "latencies lie where they were due");
    }

    #[test]
    fn a_summary_survives_json() {
        let summary = Summary::new(facts(&["p99<50ms"]), &[frozen()]);
        let json = serde_json::to_string(&summary).unwrap();
        assert!(serde_json::from_str::<Summary>(&json).unwrap() == summary, "{json:.400}");
    }

    #[test]
    fn the_end_of_a_run_is_the_same_for_due_times_and_replies() {
        let start = Instant::from_nanos(1_000_000_000);
        let at = |ms: u64| start + Duration::from_millis(ms);
        let mut recorder = Recorder::new(start);
        recorder.set_end(at(500));
        // 100 a second for 0.5 s, each answered 400 ms later: eleven replies come within it.
        for due in (0..500).step_by(10) {
            recorder.planned(at(due), false);
            recorder.sent(at(due), false);
            let (due, done) = (at(due), at(due + 400));
            let seen_late = Duration::ZERO;
            let outcome = Outcome::Ok;
            recorder.record(&Sample { due, ready: due, sent: due, done, seen_late, outcome, warm_up: false });
        }
        let mut facts = facts(&[]);
        facts.plan.phases[0].load = Load::Open(Pace::Constant { rate: Rate::per_second(100).unwrap() });
        facts.plan.phases[0].stop = Stop::After(Duration::from_millis(500));
        facts.ran_for = Duration::from_millis(890);
        let node = NodeReport { timeline: recorder.finish(), ..NodeReport::default() };
        let summary = Summary::new(facts, &[node]);
        assert_eq!(summary.measured_ns, 500_000_000);
        assert!((summary.ok_per_second - 11.0 / 0.5).abs() < 1e-6, "{}", summary.ok_per_second);
    }

    /// `asked` requests a second for `ms`, of which the target answers `can` a second in turn, each `service_ms` later.
    /// With few connections those that wait are not sent, with ample ones they wait at the target.
    fn queue(
        asked: u64,
        can: u64,
        ms: u64,
        service_ms: u64,
        outcome: Outcome,
        has_connections: bool,
    ) -> Summary {
        let start = Instant::from_nanos(1_000_000_000);
        let at = |us: u64| start + Duration::from_micros(us);
        let mut recorder = Recorder::new(start);
        recorder.set_end(at(ms * 1_000));
        let mut last = start;
        for k in 0..asked * ms / 1_000 {
            let (due, turn) = (at(k * 1_000_000 / asked), at(k * 1_000_000 / can.min(asked)));
            let sent = if has_connections { due } else { turn };
            recorder.planned(due, false);
            recorder.sent(due, false);
            let done = turn + Duration::from_millis(service_ms);
            let seen_late = Duration::ZERO;
            recorder.record(&Sample { due, ready: sent, sent, done, seen_late, outcome, warm_up: false });
            last = done;
        }
        let mut facts = facts(&[]);
        facts.plan.phases[0].load = Load::Open(Pace::Constant { rate: Rate::per_second(asked).unwrap() });
        facts.plan.phases[0].stop = Stop::After(Duration::from_millis(ms));
        facts.ran_for = last.since(start);
        let timeline = recorder.finish();
        Summary::new(facts, &[NodeReport { timeline, ..NodeReport::default() }])
    }

    #[test]
    fn a_constant_latency_is_no_saturation_and_a_backlog_is() {
        use Outcome::{Error, Ok};
        for (asked, can, service_ms, outcome, saturated) in [
            (100, 100, 60, Ok, false),
            (100, 100, 400, Ok, false),
            (100, 100, 60, Error(ErrorKind::Status5xx), false),
            (100, 90, 60, Ok, true),
            (550, 400, 10, Ok, true),
            (550, 400, 10, Error(ErrorKind::Status5xx), true),
            (440, 400, 10, Ok, true),
            (1_100, 1_000, 10, Ok, true),
        ] {
            for ms in [1_000, 1_500, 2_000, 2_100, 10_000] {
                for has_connections in [true, false] {
                    let summary = queue(asked, can, ms, service_ms, outcome, has_connections);
                    let name = format!(
                        "{asked}/s of {can}/s in {service_ms} ms for {ms} ms: {:?} {:?} {:?}",
                        summary.answered_ratio, summary.growth_ratio, summary.reasons
                    );
                    let is_said = summary.reasons.iter().any(|reason| reason.contains("saturated"));
                    // Errors have no growth, and where connections are ample the total hides it: they speak for themselves.
                    let is_error = outcome != Ok && has_connections;
                    assert!(is_said == saturated || is_error, "{name}");
                    let can = can.min(asked) as f64;
                    let lost = service_ms as f64 / ms as f64 * can;
                    if outcome == Ok {
                        assert!((summary.ok_per_second - can + lost).abs() < 0.02 * can + 2.0, "{name}");
                    }
                }
            }
        }
    }

    #[test]
    fn a_target_that_is_only_slow_is_not_called_saturated() {
        for (ms, service_ms, outcome) in [
            (1_200, 1_000, Outcome::Ok),
            (1_000, 2_000, Outcome::Ok),
            (1_500, 1_000, Outcome::Ok),
            (2_100, 1_000, Outcome::Ok),
            (1_200, 1_000, Outcome::Timeout),
            (2_100, 1_000, Outcome::Timeout),
            (1_500, 10_000, Outcome::Censored),
        ] {
            let slow = queue(100, 100, ms, service_ms, outcome, true);
            let is_said = slow.reasons.iter().any(|reason| reason.contains("saturated"));
            assert!(!is_said, "{ms} {service_ms} {outcome:?}: {:?}", slow.reasons);
            assert_eq!(slow.answered_ratio.is_some(), 2 * service_ms <= ms, "{ms} {service_ms}");
        }
        // One that was to last ten seconds and was cut after 1.5, its replies drained for a second.
        let start = Instant::from_nanos(1_000_000_000);
        let at = |ms: u64| start + Duration::from_millis(ms);
        let mut recorder = Recorder::new(start);
        recorder.set_end(at(1_500));
        for due in (0..1_500).step_by(10) {
            let (sample_due, done) = (at(due), at(due + 400));
            recorder.planned(sample_due, false);
            recorder.sent(sample_due, false);
            let (due, seen_late, outcome) = (sample_due, Duration::ZERO, Outcome::Ok);
            recorder.record(&Sample { due, ready: due, sent: due, done, seen_late, outcome, warm_up: false });
        }
        let mut facts = facts(&[]);
        facts.ran_for = Duration::from_millis(1_900);
        (facts.ended_early, facts.cut_after) =
            (Some("it was stopped".into()), Some(Duration::from_millis(1_500)));
        let timeline = recorder.finish();
        let cut = Summary::new(facts, &[NodeReport { timeline, ..NodeReport::default() }]);
        assert_eq!(cut.measured_ns, 1_500_000_000);
        assert!(cut.reasons.iter().all(|reason| !reason.contains("saturated")), "{:?}", cut.reasons);
        assert!((cut.ok_per_second - 111.0 / 1.5).abs() < 1e-6, "{}", cut.ok_per_second);
    }

    #[test]
    fn a_busy_worker_is_judged_by_the_model_and_not_in_a_moment() {
        let mut node = frozen();
        node.workers = vec![WorkerUse { busy_ratio: 0.99, cpu_ratio: 0.99, cq_overflows: 0 }];
        let mut facts = facts(&[]);
        assert_eq!(Summary::new(facts.clone(), std::slice::from_ref(&node)).verdict, Grade::Invalid);
        facts.plan.phases[0].load = Load::Closed { users: 1, think_time: Duration::ZERO };
        let closed = Summary::new(facts.clone(), std::slice::from_ref(&node));
        assert_eq!(closed.verdict, Grade::Suspect);
        assert_eq!(closed.reasons.len(), 1);
        assert!(closed.reasons[0].starts_with("a worker was 99 % busy: replies waited"));
        // Every request was answered long before the plan's end.
        facts.ran_for = Duration::from_millis(99);
        assert_eq!(Summary::new(facts, &[node]).verdict, Grade::Valid);
    }

    #[test]
    fn two_nodes_are_merged_and_told_apart() {
        let mut other = frozen();
        other.name = "b".into();
        let summary = Summary::new(facts(&[]), &[frozen(), other]);
        assert_eq!(summary.counts.planned, 40_000);
        assert_eq!(summary.nodes.iter().map(|n| n.counts.planned).collect::<Vec<_>>(), [20_000, 20_000]);
        assert_eq!(summary.response.p99, summary.nodes[0].response.p99);
    }

    #[test]
    fn a_lost_node_is_a_reason_and_its_imbalance_is_not() {
        let mut lost = frozen();
        lost.lost = Some("no report since 12 s".into());
        let mut facts = facts(&[]);
        let summary = Summary::new(facts.clone(), &[frozen(), lost.clone()]);
        assert_eq!(summary.verdict, Grade::Invalid);
        assert_eq!(summary.reasons, ["node local was lost: no report since 12 s"]);
        facts.plan.on_node_loss = OnNodeLoss::Continue;
        assert_eq!(Summary::new(facts, &[frozen(), lost]).verdict, Grade::Suspect);
    }

    #[test]
    fn percentiles_with_few_samples_are_marked() {
        let series = |n: u64| Series::of(&(0..n).collect(), 0).under_sampled;
        assert_eq!(series(19), ["p50", "p75", "p90", "p95", "p99", "p99.9", "p99.99"]);
        assert_eq!(series(1000), ["p99.9", "p99.99"]);
        assert!(series(100_000).is_empty());
    }

    #[test]
    fn a_run_without_a_sample_keeps_no_objective() {
        let summary = Summary::new(facts(&["p99<50ms", "errors<1%"]), &[NodeReport::default()]);
        assert_eq!(summary.verdict, Grade::Invalid);
        assert!(summary.slo.iter().all(|result| !result.passed && result.actual == "no data"));
    }

    #[test]
    fn timeouts_of_the_generators_own_are_no_natural_failures() {
        let counts = Counts { planned: 100, sent: 100, error: 10, timeout: 20, ok: 70, ..Counts::default() };
        let by_tenth = BTreeMap::from([(3, cause::Cause { injected: 12, unknown: 4 })]);
        for (own, natural) in [(0, 14), (5, 9), (14, 0)] {
            let found = causes(&counts, Some(&by_tenth), None, own);
            assert_eq!((found.injected, found.own, found.natural), (Some(12), own, Some(natural)));
        }
        let untold = causes(&counts, None, Some("nobody told"), 5);
        assert_eq!((untold.own, untold.natural), (5, None), "the generator knows its own");
        let all_own = causes(&counts, None, Some("nobody told"), 30);
        assert_eq!((all_own.own, all_own.injected, all_own.natural), (30, Some(0), Some(0)));
    }
}
