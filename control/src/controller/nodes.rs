//! The controller and its nodes: they come, speak, fall silent, and come back.

use fracas_dataplane::clock::Instant;

use super::{Controller, Effect, Session};
use crate::execution::Stop;
use crate::node_registry::{JoinError, NodeIdentity, Role};
use crate::session::{Attempt, FromNode, ToNode};

/// Pings at the beginning of a session, each sent when the last was answered.
const PINGS_AT_FIRST: u64 = 8;

impl Controller {
    /// A process dialled in; `carried` are the runs whose load or faults it still has from a session that broke off. It is
    /// told which of them go on.
    ///
    /// # Errors
    /// When it may not join.
    pub fn join(
        &mut self,
        identity: NodeIdentity,
        role: Role,
        peer: String,
        carried: Vec<Attempt>,
        now: Instant,
    ) -> Result<Session, JoinError> {
        let name = identity.name.clone();
        let joined = self.registry.join(identity, role, peer, now)?;
        let session = joined.session;
        self.effects.extend(joined.ended.map(|session| Effect::EndSession { session }));
        if joined.replaced.is_some() {
            self.lose(&name, "another process took its name", now);
        }
        let (version, timings) = (self.settings.version.clone(), self.settings.timings);
        self.effects.push(Effect::Send {
            node: name.clone(),
            session,
            message: ToNode::Welcome { session, version, timings, runs: self.under_way(&carried) },
        });
        if role == Role::Agent {
            self.resume(&name, carried.into_iter().next(), now);
        }
        self.ping(&name, 1, now);
        Ok(Session(session))
    }

    /// A node said something in a session; `false` if that session is over.
    pub fn on_message(&mut self, name: &str, session: Session, message: FromNode, now: Instant) -> bool {
        let Some(node) = self.registry.heard(name, session.0, now) else { return false };
        match message {
            FromNode::Heartbeat => {}
            FromNode::Pong(exchange) => {
                let first = node.clock.offset(now).is_none();
                node.clock.add(exchange);
                self.on_pong(name, now);
                if first {
                    self.serve_queue(now);
                }
            }
            FromNode::Proxies(proxies) => {
                self.registry.set_proxies(name, proxies);
                self.serve_queue(now);
            }
            FromNode::Ready { attempt, result } => self.on_ready(name, &attempt, result, now),
            FromNode::Delta(delta) => {
                if !self.expects_results(name, &delta.attempt) {
                    return true;
                }
                let run = delta.attempt.run.clone();
                let execution = self.executions.get_mut(&run).expect("it expects results");
                if let Some(objection) = execution.objection_to(name, &delta, now) {
                    let reason = objection.to_owned();
                    execution.on_lost(name, &reason, now);
                    self.send(name, ToNode::Cancel { attempt: delta.attempt, reason });
                    self.move_on(&run, now);
                } else if let Some(sequence) = execution.on_delta(name, &delta, now) {
                    self.send(name, ToNode::IntervalAck { attempt: delta.attempt, sequence });
                }
            }
            FromNode::Finished(finished) => {
                let run = finished.attempt.run.clone();
                if self.expects_results(name, &finished.attempt)
                    && let Some(execution) = self.executions.get_mut(&run)
                {
                    execution.on_finished(name, *finished, now);
                    self.move_on(&run, now);
                }
            }
            FromNode::FaultAccepted { fault, result } => {
                let Some(run) = self.run_of_fault(&fault) else { return true };
                let execution = self.executions.get_mut(&run).expect("just found");
                if let Err(reason) = execution.on_fault_accepted(name, &fault, result) {
                    self.stop(&run, Stop::Errored(reason), now);
                }
            }
            FromNode::FaultWindow(seen) if !seen.proxy.is_empty() => {
                // Nobody ordered it; the runs that it may touch show it.
                if let Some(clock) = self.registry.node(name).and_then(|node| node.clock.offset(now)) {
                    for execution in self.executions.values_mut() {
                        execution.on_window_by_hand(name, clock, &seen, now);
                    }
                }
            }
            FromNode::FaultWindow(seen) => {
                let Some(run) = self.run_of_fault(&seen.fault) else { return true };
                let execution = self.executions.get_mut(&run).expect("just found");
                execution.on_window(name, seen, now);
                self.move_on(&run, now);
            }
            FromNode::Error { attempt, message } => {
                let its_own = |attempt: &Attempt| {
                    self.executions.get(&attempt.run).is_some_and(|run| run.has(name, attempt))
                };
                if let Some(attempt) = attempt.filter(its_own) {
                    self.stop(&attempt.run, Stop::Errored(format!("node {name}: {message}")), now);
                }
            }
        }
        true
    }

    /// Whether a node has results of an attempt to tell: it carries it, and its load has begun.
    pub fn expects_results(&self, name: &str, attempt: &Attempt) -> bool {
        let execution = self.executions.get(&attempt.run);
        execution.is_some_and(|execution| {
            execution.attempt() == attempt && execution.start_at().is_some() && execution.carries(name)
        })
    }

    /// The stream of a session broke off. The node has until `lost_after` to return.
    pub fn left(&mut self, name: &str, session: Session) {
        self.registry.left(name, session.0);
    }

    /// A node is gone.
    pub(super) fn lose(&mut self, name: &str, why: &str, now: Instant) {
        self.pings.remove(name);
        for id in self.executions.keys().cloned().collect::<Vec<_>>() {
            let Some(execution) = self.executions.get_mut(&id) else { continue };
            let carried = execution.carries(name);
            execution.on_lost(name, why, now);
            if carried && execution.start_at().is_none() {
                self.stop(&id, Stop::Errored(format!("node {name} was lost before the start: {why}")), now);
            }
            self.move_on(&id, now);
        }
    }

    /// Those of `attempts` that are this controller's and not over.
    fn under_way(&self, attempts: &[Attempt]) -> Vec<Attempt> {
        let is_ours = |attempt: &&Attempt| {
            let execution = self.executions.get(&attempt.run);
            execution.is_some_and(|execution| execution.attempt() == *attempt && execution.is_under_way())
        };
        attempts.iter().filter(is_ours).cloned().collect()
    }

    /// A node is back: it goes on with its run if that still counts on it, else it is told to stop.
    fn resume(&mut self, name: &str, carried: Option<Attempt>, now: Instant) {
        let assigned = self.registry.node(name).and_then(|node| node.run.clone());
        match (carried, assigned) {
            (Some(attempt), assigned) => {
                let execution = self.executions.get(&attempt.run);
                let counted = execution.is_some_and(|execution| {
                    assigned.as_ref() == Some(&attempt.run)
                        && execution.attempt() == &attempt
                        && execution.carries(name)
                });
                if counted {
                    let sequence = execution.and_then(|execution| execution.sequence(name)).unwrap_or(0);
                    self.send(name, ToNode::IntervalAck { attempt, sequence });
                } else {
                    let reason = "the controller does not count on it any more".to_owned();
                    self.send(name, ToNode::Cancel { attempt, reason });
                }
            }
            (None, Some(run)) => {
                let lost = self.executions.get(&run).is_some_and(|execution| execution.carries(name));
                if lost {
                    if let Some(node) = self.registry.node_mut(name) {
                        node.run = None;
                    }
                    self.lose(name, "it came back without the run", now);
                }
            }
            (None, None) => {}
        }
    }

    fn on_pong(&mut self, name: &str, now: Instant) {
        let Some((_, number, _)) = self.pings.get(name) else { return };
        if *number < PINGS_AT_FIRST {
            let next = number + 1;
            self.ping(name, next, now);
        }
    }

    pub(super) fn ping(&mut self, name: &str, number: u64, now: Instant) {
        let Some(session) = self.registry.node(name).and_then(|node| node.session) else {
            self.pings.remove(name);
            return;
        };
        self.pings.insert(name.to_owned(), (session, number, now));
        self.send(name, ToNode::ClockPing { id: number });
    }

    fn run_of_fault(&self, fault: &str) -> Option<String> {
        let (run, _) = fault.rsplit_once('-')?;
        self.executions.contains_key(run).then(|| run.to_owned())
    }
}
