//! The session's messages: `fracas.v1` to ours and back, for both ends.

use std::collections::BTreeMap;
use std::time::Duration;

use fracas_dataplane::clock::Instant;
use fracas_dataplane::proxy::THREADS_MAX;
use fracas_loadgen::measure::{Counts, Failure, Grade, Timeline};
use fracas_proto::v1;
use fracas_proto::v1::join_request::Message as Said;
use fracas_proto::v1::join_response::Message as Told;

use crate::clock_map::Exchange;
use crate::durations::duration;
use crate::node_registry::{NodeIdentity, Role};
use crate::session::{
    Attempt, Delta, FaultOrder, Finished, FromNode, Timings, ToNode, WindowSeen, WorkerUsage,
};

/// A single controller's; rises with changes of leadership once there are several.
pub const EPOCH: u64 = 1;

/// What a node says in words is kept with its run, within these limits.
const LINE_BYTES_MAX: usize = 2_048;
const REASONS_MAX: usize = 32;
/// The largest count that a node may tell of one thing, and the largest share of a CPU, which clocks may put above 1.
const COUNT_MAX: u64 = 1 << 48;
const RATIO_MAX: f64 = 2.0;
/// Bytes of the id of a run or of a fault, or of the name of a proxy, that a controller says.
const ID_BYTES_MAX: usize = 256;

/// The first message of a node.
#[derive(Clone, Debug)]
pub struct HelloSeen {
    /// Who it is.
    pub identity: NodeIdentity,
    /// What it is for.
    pub role: Role,
    /// The runs whose load or faults it still has.
    pub carried: Vec<Attempt>,
    /// Names of its proxies.
    pub proxies: Vec<String>,
}

/// Reads a first message; `None` if it is not a hello.
pub fn hello(message: v1::JoinRequest) -> Option<HelloSeen> {
    match message.message? {
        Said::Hello(hello) => Some(HelloSeen {
            identity: identity(hello.identity?),
            role: Role::Agent,
            carried: Vec::from_iter(
                (!hello.run_id.is_empty()).then(|| attempt(&hello.run_id, hello.attempt)),
            ),
            proxies: Vec::new(),
        }),
        Said::ProxyHello(hello) => Some(HelloSeen {
            identity: identity(hello.identity?),
            role: Role::Proxy,
            carried: attempts(hello.runs),
            proxies: hello.proxies,
        }),
        _ => None,
    }
}

/// Writes an agent's first message.
pub fn agent_hello(identity: &NodeIdentity, carried: Option<&Attempt>) -> v1::JoinRequest {
    let (run_id, attempt) = carried.map(|carried| (carried.run.clone(), carried.number)).unwrap_or_default();
    request(Said::Hello(v1::Hello { identity: Some(identity_proto(identity)), run_id, attempt }))
}

/// Writes a proxy's first message, which is also how it tells of changed names; `runs` are those whose faults it has.
pub fn proxy_hello(
    identity: &NodeIdentity,
    proxies: Vec<String>,
    api: &str,
    runs: &[Attempt],
) -> v1::JoinRequest {
    let identity = Some(identity_proto(identity));
    let runs = attempts_proto(runs);
    request(Said::ProxyHello(v1::ProxyHello { identity, proxies, api: api.to_owned(), runs }))
}

/// The run whose results a message has, if it has any.
pub fn results_of(message: &v1::JoinRequest) -> Option<Attempt> {
    match &message.message {
        Some(Said::Interval(interval)) => {
            named(&interval.run_id, interval.attempt).or(Some(Attempt::default()))
        }
        _ => None,
    }
}

/// Reads what a node said in a session; `arrived_at` is the controller's clock.
///
/// # Errors
/// When it makes no sense, with what.
pub fn from_node(message: v1::JoinRequest, arrived_at: Instant) -> Result<FromNode, String> {
    let message = message.message.ok_or("an empty message")?;
    Ok(match message {
        Said::Hello(_) => return Err("a second hello".to_owned()),
        Said::ProxyHello(hello) => FromNode::Proxies(hello.proxies),
        Said::Heartbeat(_) => FromNode::Heartbeat,
        Said::ClockPong(pong) => FromNode::Pong(Exchange {
            controller_sent: Instant::from_nanos(pong.controller_sent_ns),
            node_received: Instant::from_nanos(pong.agent_received_ns),
            node_sent: Instant::from_nanos(pong.agent_sent_ns),
            controller_received: arrived_at,
        }),
        Said::Ready(ready) => FromNode::Ready {
            attempt: attempt(&ready.run_id, ready.attempt),
            result: answer(ready.ok, ready.reason),
        },
        Said::Interval(interval) => FromNode::Delta(Delta {
            attempt: attempt(&interval.run_id, interval.attempt),
            sequence: interval.sequence,
            timeline: Timeline::decode(&interval.interval_v1).map_err(|why| why.to_string())?,
            connections_open: count(interval.connections_open),
            cpu_ratio_max: ratio(interval.cpu_ratio_max),
        }),
        Said::Finished(finished) => {
            let verdict = grade(finished.verdict());
            FromNode::Finished(Box::new(Finished {
                attempt: attempt(&finished.run_id, finished.attempt),
                last_sequence: finished.last_sequence,
                counts: finished.counts.as_ref().map(counts).unwrap_or_default(),
                verdict,
                reasons: finished.reasons.into_iter().take(REASONS_MAX).map(line).collect(),
                started_at: Instant::from_nanos(finished.started_at_ns),
                ended_at: Instant::from_nanos(finished.ended_at_ns),
                workers: finished.workers.iter().take(THREADS_MAX).map(worker).collect(),
                cancelled: finished.cancelled,
                error: line(finished.error),
            }))
        }
        Said::FaultAccepted(accepted) => {
            FromNode::FaultAccepted { fault: accepted.fault_id, result: answer(accepted.ok, accepted.reason) }
        }
        Said::FaultWindow(window) => FromNode::FaultWindow(WindowSeen {
            fault: line(window.fault_id),
            started_at: nanos(window.started_at_ns),
            ended_at: (window.ended_at_ns != 0).then(|| nanos(window.ended_at_ns)),
            injected: count(window.injected),
            failures: Failure::ALL.map(|kind| count(window.failures.get(kind.name()).copied().unwrap_or(0))),
            listen: window.listen.parse().ok(),
            proxy: line(window.proxy),
            behavior: line(window.behavior),
        }),
        Said::Error(error) => FromNode::Error {
            attempt: (!error.run_id.is_empty()).then(|| attempt(&error.run_id, error.attempt)),
            message: line(error.message),
        },
    })
}

/// Writes what a node says. Pongs are made where pings arrive, by [`pong`].
pub fn from_node_proto(message: FromNode, now: Instant) -> v1::JoinRequest {
    request(match message {
        FromNode::Heartbeat => Said::Heartbeat(v1::Heartbeat { monotonic_ns: now.as_nanos() }),
        FromNode::Pong(exchange) => Said::ClockPong(v1::ClockPong {
            id: 0,
            controller_sent_ns: exchange.controller_sent.as_nanos(),
            agent_received_ns: exchange.node_received.as_nanos(),
            agent_sent_ns: exchange.node_sent.as_nanos(),
        }),
        FromNode::Proxies(proxies) => {
            Said::ProxyHello(v1::ProxyHello { proxies, ..v1::ProxyHello::default() })
        }
        FromNode::Ready { attempt, result } => Said::Ready(v1::Ready {
            run_id: attempt.run,
            attempt: attempt.number,
            ok: result.is_ok(),
            reason: result.err().unwrap_or_default(),
        }),
        FromNode::Delta(delta) => {
            let first = delta.timeline.intervals().next().map_or(0, |interval| interval.second);
            Said::Interval(v1::Interval {
                run_id: delta.attempt.run,
                attempt: delta.attempt.number,
                sequence: delta.sequence,
                index: u64::from(first),
                interval_count: delta.timeline.intervals().count() as u32,
                interval_v1: delta.timeline.encode(),
                counts: Some(counts_proto(&delta.timeline.counts())),
                connections_open: delta.connections_open,
                cpu_ratio_max: delta.cpu_ratio_max,
            })
        }
        FromNode::Finished(finished) => {
            let finished = *finished;
            Said::Finished(v1::Finished {
                run_id: finished.attempt.run,
                attempt: finished.attempt.number,
                last_sequence: finished.last_sequence,
                counts: Some(counts_proto(&finished.counts)),
                verdict: grade_proto(finished.verdict).into(),
                reasons: finished.reasons,
                started_at_ns: finished.started_at.as_nanos(),
                ended_at_ns: finished.ended_at.as_nanos(),
                workers: finished.workers.iter().enumerate().map(worker_proto).collect(),
                cancelled: finished.cancelled,
                error: finished.error,
            })
        }
        FromNode::FaultAccepted { fault, result } => Said::FaultAccepted(v1::FaultAccepted {
            fault_id: fault,
            ok: result.is_ok(),
            reason: result.err().unwrap_or_default(),
        }),
        FromNode::FaultWindow(seen) => Said::FaultWindow(v1::FaultWindow {
            fault_id: seen.fault,
            started_at_ns: signed(seen.started_at),
            ended_at_ns: seen.ended_at.map_or(0, signed),
            injected: seen.injected,
            failures: Failure::ALL
                .into_iter()
                .map(|kind| (kind.name().to_owned(), seen.failures[kind as usize]))
                .filter(|(_, count)| *count > 0)
                .collect(),
            listen: seen.listen.map(|listen| listen.to_string()).unwrap_or_default(),
            proxy: seen.proxy,
            behavior: seen.behavior,
            ..v1::FaultWindow::default()
        }),
        FromNode::Error { attempt, message } => {
            let attempt = attempt.unwrap_or_default();
            Said::Error(v1::SessionError { run_id: attempt.run, attempt: attempt.number, message })
        }
    })
}

/// Answers a ping that arrived at `received_at`; to be sent at `now`.
pub fn pong(ping: &v1::ClockPing, received_at: Instant, now: Instant) -> v1::JoinRequest {
    request(Said::ClockPong(v1::ClockPong {
        id: ping.id,
        controller_sent_ns: ping.controller_sent_ns,
        agent_received_ns: received_at.as_nanos(),
        agent_sent_ns: now.as_nanos(),
    }))
}

/// Writes what the controller says; `now` is the controller's clock as the message leaves.
pub fn to_node_proto(message: ToNode, now: Instant) -> v1::JoinResponse {
    let message = match message {
        ToNode::Welcome { session, version, timings, runs } => Told::Welcome(v1::Welcome {
            runs: attempts_proto(&runs),
            session_id: session.to_string(),
            version,
            heartbeat: duration_proto(timings.heartbeat),
            lost_after: duration_proto(timings.lost_after),
            orphan_timeout: duration_proto(timings.orphan_timeout),
            interval: duration_proto(timings.interval),
        }),
        ToNode::Heartbeat => Told::Heartbeat(v1::Heartbeat { monotonic_ns: now.as_nanos() }),
        ToNode::ClockPing { id } => Told::ClockPing(v1::ClockPing { id, controller_sent_ns: now.as_nanos() }),
        ToNode::Prepare { attempt, plan_json, shard_index, shard_count, seed, ready_within } => {
            Told::Prepare(v1::Prepare {
                run_id: attempt.run,
                attempt: attempt.number,
                plan_json: plan_json.to_vec(),
                shard_index,
                shard_count,
                seed,
                ready_within: duration_proto(ready_within),
            })
        }
        ToNode::Start { attempt, start_at, clock_error } => Told::Start(v1::Start {
            run_id: attempt.run,
            attempt: attempt.number,
            start_at_ns: start_at.as_nanos(),
            clock_error_ns: clock_error.as_nanos() as u64,
        }),
        ToNode::Cancel { attempt, reason } => {
            Told::Cancel(v1::Cancel { run_id: attempt.run, attempt: attempt.number, reason })
        }
        ToNode::IntervalAck { attempt, sequence } => {
            Told::IntervalAck(v1::IntervalAck { run_id: attempt.run, attempt: attempt.number, sequence })
        }
        ToNode::ApplyFault(order) => Told::ApplyFault(v1::ApplyFault {
            fault_id: order.fault,
            run_id: order.attempt.run,
            attempt: order.attempt.number,
            proxy: order.proxy,
            rules: Some(v1::RuleSet {
                rules: Vec::new(),
                mix: order.behavior.clone(),
                options: order
                    .options
                    .into_iter()
                    .map(|(name, values)| (name, options_proto(values)))
                    .collect(),
            }),
            starts_at_ns: order.starts_at.as_nanos(),
            duration: duration_proto(order.duration),
            label: order.behavior,
        }),
        ToNode::RevokeFault { fault } => Told::RevokeFault(v1::RevokeFault { fault_id: fault }),
        ToNode::Error { message } => Told::Error(v1::SessionError { message, ..v1::SessionError::default() }),
    };
    v1::JoinResponse { epoch: EPOCH, message: Some(message) }
}

/// Reads what the controller says; `None` for what this version does not know and for ids that are none, which changes
/// nothing.
pub fn to_node(message: v1::JoinResponse) -> Option<ToNode> {
    Some(match message.message? {
        Told::Welcome(welcome) => {
            let default = Timings::default();
            ToNode::Welcome {
                session: welcome.session_id.parse().unwrap_or(0),
                version: welcome.version,
                timings: Timings {
                    heartbeat: duration(welcome.heartbeat).unwrap_or(default.heartbeat),
                    lost_after: duration(welcome.lost_after).unwrap_or(default.lost_after),
                    orphan_timeout: duration(welcome.orphan_timeout).unwrap_or(default.orphan_timeout),
                    interval: duration(welcome.interval).unwrap_or(default.interval),
                }
                .within_limits(),
                runs: attempts(welcome.runs),
            }
        }
        Told::Heartbeat(_) => ToNode::Heartbeat,
        Told::ClockPing(ping) => ToNode::ClockPing { id: ping.id },
        Told::Prepare(prepare) => ToNode::Prepare {
            attempt: named(&prepare.run_id, prepare.attempt)?,
            plan_json: prepare.plan_json.into(),
            shard_index: prepare.shard_index,
            shard_count: prepare.shard_count,
            seed: prepare.seed,
            ready_within: duration(prepare.ready_within).unwrap_or_default(),
        },
        Told::Start(start) => ToNode::Start {
            attempt: named(&start.run_id, start.attempt)?,
            start_at: Instant::from_nanos(start.start_at_ns),
            clock_error: Duration::from_nanos(start.clock_error_ns),
        },
        Told::Cancel(cancel) => {
            ToNode::Cancel { attempt: named(&cancel.run_id, cancel.attempt)?, reason: line(cancel.reason) }
        }
        Told::IntervalAck(ack) => {
            ToNode::IntervalAck { attempt: named(&ack.run_id, ack.attempt)?, sequence: ack.sequence }
        }
        Told::ApplyFault(fault) => {
            let rules = fault.rules.unwrap_or_default();
            let options = rules.options.into_iter();
            ToNode::ApplyFault(FaultOrder {
                fault: id(fault.fault_id)?,
                attempt: named(&fault.run_id, fault.attempt)?,
                proxy: id(fault.proxy)?,
                behavior: rules.mix,
                options: options
                    .map(|(name, options)| (name, options.values.into_iter().collect()))
                    .collect(),
                starts_at: Instant::from_nanos(fault.starts_at_ns),
                duration: duration(fault.duration).unwrap_or_default(),
            })
        }
        Told::RevokeFault(revoke) => ToNode::RevokeFault { fault: id(revoke.fault_id)? },
        Told::Drain(drain) => {
            ToNode::Error { message: line(format!("the controller drains: {}", drain.reason)) }
        }
        Told::Error(error) => ToNode::Error { message: line(error.message) },
    })
}

/// Ours of a verdict; `None` when it is not known.
pub fn grade(verdict: v1::Verdict) -> Option<Grade> {
    match verdict {
        v1::Verdict::Unspecified => None,
        v1::Verdict::Valid => Some(Grade::Valid),
        v1::Verdict::Suspect => Some(Grade::Suspect),
        v1::Verdict::Invalid => Some(Grade::Invalid),
    }
}

/// The wire's of a verdict.
pub fn grade_proto(grade: Option<Grade>) -> v1::Verdict {
    match grade {
        None => v1::Verdict::Unspecified,
        Some(Grade::Valid) => v1::Verdict::Valid,
        Some(Grade::Suspect) => v1::Verdict::Suspect,
        Some(Grade::Invalid) => v1::Verdict::Invalid,
    }
}

/// The wire's of counts.
pub fn counts_proto(counts: &Counts) -> v1::Counts {
    let Counts { planned, sent, ok, error, timeout, censored, dropped, .. } = *counts;
    v1::Counts { planned, sent, ok, error, timeout, censored, dropped }
}

/// The wire's of a duration.
pub fn duration_proto(duration: Duration) -> Option<prost_types::Duration> {
    prost_types::Duration::try_from(duration).ok()
}

fn counts(counts: &v1::Counts) -> Counts {
    let v1::Counts { planned, sent, ok, error, timeout, censored, dropped } = *counts;
    Counts { planned, sent, ok, error, timeout, censored, dropped, ..Counts::default() }
}

fn worker(worker: &v1::WorkerUsage) -> WorkerUsage {
    WorkerUsage {
        busy_ratio: ratio(worker.busy_ratio),
        cpu_ratio: ratio(worker.cpu_ratio),
        cq_overflows: count(worker.completion_queue_overflows),
    }
}

/// A count of a node's; far above any true one, so that sums over nodes and time do not overflow.
fn count(told: u64) -> u64 {
    told.min(COUNT_MAX)
}

/// A share of time of a node's; one that is no number is none.
fn ratio(told: f64) -> f64 {
    if told.is_finite() { told.clamp(0.0, RATIO_MAX) } else { 0.0 }
}

fn worker_proto((number, usage): (usize, &WorkerUsage)) -> v1::WorkerUsage {
    v1::WorkerUsage {
        worker: number as u32,
        cpu_ratio: usage.cpu_ratio,
        completion_queue_overflows: usage.cq_overflows,
        busy_ratio: usage.busy_ratio,
        ..v1::WorkerUsage::default()
    }
}

fn identity(identity: v1::NodeIdentity) -> NodeIdentity {
    NodeIdentity {
        name: identity.name,
        uid: identity.uid,
        boot_id: identity.boot_id,
        version: identity.version,
        cores: identity.cores,
        nofile_limit: identity.nofile_limit,
        kernel: identity.kernel,
        io_uring: identity.io_uring,
        labels: identity.labels.into_iter().collect(),
    }
}

fn identity_proto(identity: &NodeIdentity) -> v1::NodeIdentity {
    let NodeIdentity { name, uid, boot_id, version, cores, nofile_limit, kernel, io_uring, labels } =
        identity.clone();
    let labels = labels.into_iter().collect();
    v1::NodeIdentity { name, uid, boot_id, version, cores, nofile_limit, kernel, io_uring, labels }
}

fn options_proto(values: BTreeMap<String, String>) -> v1::BehaviorOptions {
    v1::BehaviorOptions { values: values.into_iter().collect() }
}

fn request(message: Said) -> v1::JoinRequest {
    v1::JoinRequest { message: Some(message) }
}

fn attempt(run: &str, number: u32) -> Attempt {
    Attempt { run: run.to_owned(), number }
}

/// The id of something, unless it is too long for one.
fn id(text: String) -> Option<String> {
    (text.len() <= ID_BYTES_MAX).then_some(text)
}

/// A run as a controller names it.
fn named(run: &str, number: u32) -> Option<Attempt> {
    (run.len() <= ID_BYTES_MAX).then(|| attempt(run, number))
}

fn attempts(runs: Vec<v1::RunAttempt>) -> Vec<Attempt> {
    runs.into_iter().map(|run| Attempt { run: run.run_id, number: run.attempt }).collect()
}

fn attempts_proto(attempts: &[Attempt]) -> Vec<v1::RunAttempt> {
    let proto = |attempt: &Attempt| v1::RunAttempt { run_id: attempt.run.clone(), attempt: attempt.number };
    attempts.iter().map(proto).collect()
}

/// What the other side says in words, as it is kept and shown: one line that is not too long.
pub fn line(text: String) -> String {
    match text.len() <= LINE_BYTES_MAX && !text.contains(char::is_control) {
        true => text,
        false => {
            text.chars().take(LINE_BYTES_MAX / 4).map(|c| if c.is_control() { ' ' } else { c }).collect()
        }
    }
}

fn answer(ok: bool, reason: String) -> Result<(), String> {
    match (ok, reason.is_empty()) {
        (true, _) => Ok(()),
        (false, false) => Err(line(reason)),
        (false, true) => Err("no reason given".to_owned()),
    }
}

fn nanos(nanos: i64) -> Instant {
    Instant::from_nanos(u64::try_from(nanos).unwrap_or(0))
}

fn signed(at: Instant) -> i64 {
    i64::try_from(at.as_nanos()).unwrap_or(i64::MAX)
}
