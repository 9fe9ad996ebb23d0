//! A proxy process in a controller's fleet: faults of runs become leases on its proxies.
//!
//! ```text
//! ApplyFault ─▶ lease (starts at its instant, lives for its duration) ─▶ FaultWindow, once a second and at its end
//! ```
//!
//! A fault belongs to an attempt of a run and dies with whoever asked for it: RevokeFault releases it, so does a
//! controller that does not name the run as its own when it is joined again (it was restarted, say), or that is not heard
//! for the orphan timeout; and if this process dies the proxy dies with it. Its time to live ends it in any case.

use std::net::SocketAddr;
use std::time::Duration;

use fracas_dataplane::behavior::Rule;
use fracas_dataplane::clock::Instant;
use fracas_dataplane::protocol::Protocol;
use fracas_dataplane::proxy::leases::Term;
use fracas_dataplane::proxy::{Handle, LeaseRequest, RuleStats};
use fracas_dataplane::rng::Rng;
use fracas_loadgen::measure::Failure;
use tokio::sync::{mpsc, watch};

use super::by_hand::ByHand;
use super::link::{self, LinkEvent, Say};
use super::{EVENTS_MAX, News};
use crate::grpc::session_proto;
use crate::node_registry::NodeIdentity;
use crate::session::{Attempt, FaultOrder, FromNode, Timings, ToNode, WindowSeen};
use crate::wire::dial::Dial;

/// How often leases are looked at, so that a window's end is told soon.
const TICK: Duration = Duration::from_millis(100);
/// How often a fault in force is told about.
pub(super) const TELL_EVERY: Duration = Duration::from_secs(1);
/// What the owner of a run's lease begins with.
const RUN_OWNER: &str = "run ";
/// Faults that one controller may have at a proxy process at a time.
const FAULTS_MAX: usize = 1_000;

/// Bytes of the rules of one fault.
const RULES_BYTES_MAX: usize = 256 * 1024;

/// A fault that was ordered and has not ended.
struct Fault {
    id: String,
    attempt: Attempt,
    lease: String,
    proxy: String,
    told_at: Option<Instant>,
}

/// Joins `controller` as `identity` with all proxies of `handle`, and serves it until dropped; `api`
/// is where the process's own API listens, for people. Dials again when the session breaks off, and has it told.
///
/// # Errors
/// One line, when the controller will not have this process.
pub async fn join(
    handle: Handle,
    controller: Dial,
    identity: NodeIdentity,
    api: String,
    mut tell: impl FnMut(News) + Send,
) -> Result<(), String> {
    let names = |handle: &Handle| handle.list().into_iter().map(|proxy| proxy.spec.name).collect::<Vec<_>>();
    let mut known = names(&handle);
    let mut runs: Vec<Attempt> = Vec::new();
    let (hello, hello_seen) =
        watch::channel(session_proto::proxy_hello(&identity, known.clone(), &api, &runs));
    let (events, mut happened) = mpsc::channel(EVENTS_MAX);
    tokio::spawn(link::keep(controller, hello_seen, events, Rng::new(Instant::now().as_nanos())));
    let mut say_to: Option<Say> = None;
    let mut timings = Timings::default();
    let mut last_heard = Instant::now();
    let mut faults: Vec<Fault> = Vec::new();
    let mut by_hand = ByHand::new(&handle);
    let mut ticks = tokio::time::interval(TICK);
    loop {
        let mut say = Vec::new();
        tokio::select! {
            event = happened.recv() => match event {
                Some(LinkEvent::Up(say)) => {
                    say_to = Some(say);
                    tell(News::Joined);
                }
                Some(LinkEvent::Told(told)) => {
                    last_heard = Instant::now();
                    match told {
                        ToNode::Welcome { timings: theirs, runs: theirs_too, .. } => {
                            timings = theirs;
                            end_others(&handle, &faults, &theirs_too);
                        }
                        ToNode::ApplyFault(order) => say.push(apply(&handle, &mut faults, order, last_heard)),
                        ToNode::RevokeFault { fault } => {
                            if let Some(fault) = faults.iter().find(|known| known.id == fault) {
                                // One that has ended by itself is as good as released.
                                let _ = handle.release(&fault.lease);
                            }
                        }
                        _ => {}
                    }
                }
                Some(LinkEvent::Down(reason)) => {
                    say_to = None;
                    tell(News::Left(reason));
                }
                Some(LinkEvent::Refused(reason)) => return Err(reason),
                None => return Ok(()),
            },
            _ = ticks.tick() => {}
        }
        let now = Instant::now();
        if now.since(last_heard) >= timings.orphan_timeout {
            for fault in &faults {
                let _ = handle.release(&fault.lease);
            }
        }
        if !faults.is_empty() {
            say.extend(look(&handle, &mut faults, now));
        }
        say.extend(by_hand.look(&handle, |lease| is_ordered(&handle, lease), now));
        let names = names(&handle);
        let with_faults = runs_of(&faults);
        if names != known || with_faults != runs {
            if names != known {
                say.push(FromNode::Proxies(names.clone()));
            }
            (known, runs) = (names, with_faults);
            hello.send_replace(session_proto::proxy_hello(&identity, known.clone(), &api, &runs));
        }
        if let Some(say_to) = &say_to {
            say_to.all(say);
        }
    }
}

/// Whether a lease is, or was, a run's: those say so in its owner.
fn is_ordered(handle: &Handle, lease: &str) -> bool {
    let live = handle.leases().into_iter().find(|known| known.id == lease).map(|lease| lease.owner);
    let ended =
        || handle.ended_leases().into_iter().find(|end| end.lease.id == lease).map(|end| end.lease.owner);
    live.or_else(ended).is_some_and(|owner| owner.starts_with(RUN_OWNER))
}

/// The runs that have faults here, each once.
fn runs_of(faults: &[Fault]) -> Vec<Attempt> {
    let mut runs: Vec<Attempt> = Vec::new();
    for fault in faults {
        if !runs.contains(&fault.attempt) {
            runs.push(fault.attempt.clone());
        }
    }
    runs
}

/// Ends the faults of all runs but `runs`.
fn end_others(handle: &Handle, faults: &[Fault], runs: &[Attempt]) {
    for fault in faults.iter().filter(|fault| !runs.contains(&fault.attempt)) {
        // One that has ended by itself is as good as released.
        let _ = handle.release(&fault.lease);
    }
}

/// Turns an order into a lease; a repeated order changes nothing.
fn apply(handle: &Handle, faults: &mut Vec<Fault>, order: FaultOrder, now: Instant) -> FromNode {
    let accepted = |fault: String| FromNode::FaultAccepted { fault, result: Ok(()) };
    if faults.iter().any(|known| known.id == order.fault) {
        return accepted(order.fault);
    }
    let acquired = match faults.len() < FAULTS_MAX {
        true => rules(&order).and_then(|rules| {
            let request = LeaseRequest {
                proxy: order.proxy.clone(),
                rules,
                owner: format!("{RUN_OWNER}{}", order.attempt.run),
                term: Term {
                    // The controller does not renew it: RevokeFault, its silence or the end of the window ends it.
                    ttl: None,
                    starts_in: order.starts_at.since(now),
                    active_for: Some(order.duration),
                },
            };
            handle.acquire(request).map_err(|why| why.to_string())
        }),
        false => Err(format!("it has {FAULTS_MAX} faults already")),
    };
    match acquired {
        Ok((lease, _)) => {
            faults.push(Fault {
                id: order.fault.clone(),
                attempt: order.attempt,
                lease: lease.id,
                proxy: order.proxy,
                told_at: None,
            });
            accepted(order.fault)
        }
        Err(reason) => FromNode::FaultAccepted { fault: order.fault, result: Err(reason) },
    }
}

fn rules(order: &FaultOrder) -> Result<Vec<Rule>, String> {
    let options = order.options.iter().map(|(name, values)| {
        name.len() + values.iter().map(|(option, value)| option.len() + value.len()).sum::<usize>()
    });
    if order.behavior.len() + options.sum::<usize>() > RULES_BYTES_MAX {
        return Err(format!("its rules have more than {} KiB", RULES_BYTES_MAX >> 10));
    }
    fracas_dataplane::behavior::mix::parse(&order.behavior, &order.options).map_err(|why| why.to_string())
}

/// What is to be told of the faults at `now`; those that have ended are told a last time and forgotten.
fn look(handle: &Handle, faults: &mut Vec<Fault>, now: Instant) -> Vec<FromNode> {
    let (live, ended) = (handle.leases(), handle.ended_leases());
    let mut told = Vec::new();
    faults.retain_mut(|fault| {
        if let Some(end) = ended.iter().find(|end| end.lease.id == fault.lease) {
            // One that was released before it began has no window.
            if let Some(started_at) = end.lease.began_at {
                told.push(FromNode::FaultWindow(WindowSeen {
                    fault: fault.id.clone(),
                    started_at,
                    ended_at: Some(end.ended_at),
                    injected: acts(&end.rules),
                    failures: failures(handle, &fault.proxy, &end.rules, true),
                    listen: listen(handle, &fault.proxy),
                    proxy: String::new(),
                    behavior: String::new(),
                }));
            }
            return false;
        }
        let Some(lease) = live.iter().find(|lease| lease.id == fault.lease) else { return false };
        let due = fault.told_at.is_none_or(|at| now.since(at) >= TELL_EVERY);
        if let Some(started_at) = lease.began_at.filter(|_| due) {
            fault.told_at = Some(now);
            let rules = rules_of(handle, &fault.proxy, Some(&lease.id));
            told.push(FromNode::FaultWindow(WindowSeen {
                fault: fault.id.clone(),
                started_at,
                ended_at: None,
                injected: acts(&rules),
                failures: failures(handle, &fault.proxy, &rules, false),
                listen: listen(handle, &fault.proxy),
                proxy: String::new(),
                behavior: String::new(),
            }));
        }
        true
    });
    told
}

/// What the rules of a lease in force have done so far, or the base rules.
pub(super) fn rules_of(handle: &Handle, proxy: &str, lease: Option<&str>) -> Vec<RuleStats> {
    let mut rules = handle.proxy_stats(proxy).map(|stats| stats.rules).unwrap_or_default();
    rules.retain(|stats| stats.lease.as_deref() == lease);
    rules
}

pub(super) fn listen(handle: &Handle, proxy: &str) -> Option<SocketAddr> {
    handle.get(proxy).ok().map(|info| info.spec.listen)
}

/// How often rules acted: a delay that its client did not wait for has acted, and was not injected to its end.
pub(super) fn acts(rules: &[RuleStats]) -> u64 {
    rules.iter().map(|rule| rule.injected.max(rule.acted)).sum()
}

/// The failures that clients must have seen of these rules. When they have ended, a delay that was decided on and never
/// told to be over had a client that did not wait for it.
pub(super) fn failures(
    handle: &Handle,
    proxy: &str,
    rules: &[RuleStats],
    have_ended: bool,
) -> [u64; Failure::COUNT] {
    let has_replies = handle.get(proxy).is_ok_and(|info| info.spec.protocol != Protocol::Tcp);
    let mut failures = [0; Failure::COUNT];
    for rule in rules {
        if let Some(failure) = Failure::of_behavior(rule.behavior, has_replies) {
            failures[failure as usize] += rule.injected;
        } else if rule.behavior == "delay" && have_ended {
            failures[Failure::Silent as usize] += rule.acted.saturating_sub(rule.injected);
        }
    }
    failures
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use fracas_dataplane::proxy::{Dataplane, DataplaneSettings, ProxySpec};

    use super::*;

    #[test]
    fn a_delay_that_its_clients_did_not_wait_for_has_acted() {
        let rule = |acted, injected| RuleStats {
            name: "delay".into(),
            behavior: "delay",
            lease: None,
            matched: 10,
            acted,
            injected,
            lateness: None,
            asked: None,
        };
        for (rules, times) in [
            (vec![], 0),
            (vec![rule(0, 0)], 0),
            // All gave up; two of five did; many chunks of one connection; two rules.
            (vec![rule(5, 0)], 5),
            (vec![rule(5, 3)], 5),
            (vec![rule(1, 100)], 100),
            (vec![rule(5, 0), rule(1, 2)], 7),
        ] {
            assert_eq!(acts(&rules), times, "{rules:?}");
        }
    }

    #[test]
    fn faults_of_runs_that_the_controller_does_not_name_end_at_once() {
        let settings = DataplaneSettings { threads: 1, ..DataplaneSettings::default() };
        let dataplane = Dataplane::start(settings).unwrap();
        let handle = dataplane.handle();
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        handle.create(ProxySpec::new("cache", any, SocketAddr::from(([127, 0, 0, 1], 1)))).unwrap();
        let attempt = |run: &str, number| Attempt { run: run.to_owned(), number };
        let mut faults = Vec::new();
        let now = Instant::now();
        for (fault, attempt, starts_in) in
            [("r-0", attempt("r", 1), 0), ("r-1", attempt("r", 1), 3_600), ("s-0", attempt("s", 1), 0)]
        {
            let order = FaultOrder {
                fault: fault.to_owned(),
                attempt,
                proxy: "cache".to_owned(),
                behavior: "20:delay".to_owned(),
                options: [("delay".to_owned(), [("time".to_owned(), "1ms".to_owned())].into())].into(),
                starts_at: now + Duration::from_secs(starts_in),
                duration: Duration::from_secs(3_600),
            };
            let answer = apply(&handle, &mut faults, order, now);
            assert!(matches!(answer, FromNode::FaultAccepted { result: Ok(()), .. }), "{answer:?}");
        }
        assert_eq!(runs_of(&faults), [attempt("r", 1), attempt("s", 1)]);
        end_others(&handle, &faults, &[attempt("r", 1), attempt("s", 2)]);
        look(&handle, &mut faults, Instant::now());
        assert_eq!(runs_of(&faults), [attempt("r", 1)], "another attempt is another owner");
        assert_eq!(handle.leases().len(), 2);
        end_others(&handle, &faults, &[]);
        look(&handle, &mut faults, Instant::now());
        assert!(faults.is_empty() && handle.leases().is_empty());
    }
}
