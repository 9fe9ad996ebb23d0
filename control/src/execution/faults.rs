//! The faults of a run: ordered from proxies, told of by them, and those that others have set by hand on its way.

use std::time::Duration;

use fracas_dataplane::clock::Instant;
use fracas_loadgen::measure::{Failure, FaultWindow, Injected, Injections};
use serde_json::json;

use super::Execution;
use crate::clock_map::Offset;
use crate::outwaited;
use crate::session::{FaultOrder, WindowSeen};

/// A fault of the plan.
#[derive(Clone, Debug)]
pub(super) struct Fault {
    id: String,
    pub(super) index: usize,
    /// The node that carries the proxy, and its clock.
    pub(super) node: String,
    clock: Offset,
    pub(super) accepted: bool,
    window: Option<WindowSeen>,
    failures: Told,
    pub(super) lost: bool,
}

impl Fault {
    pub(super) fn is_open(&self) -> bool {
        self.accepted && !self.lost && self.window.as_ref().is_none_or(|window| window.ended_at.is_none())
    }
}

/// How many failures of each kind were told of, and between which instants. Pieces are at least a second long, whatever is
/// told how often: there are no more of them than seconds of the run.
#[derive(Clone, Debug)]
struct Told {
    until: Instant,
    pieces: Vec<(Instant, Instant, [u64; Failure::COUNT])>,
}

impl Told {
    /// Nothing was told of the time before `at`.
    fn from(at: Instant) -> Told {
        Told { until: at, pieces: Vec::new() }
    }

    /// Takes in what happened since it was told last, or since `began` if that is later, until `until`.
    fn add(&mut self, began: Instant, until: Instant, news: [u64; Failure::COUNT]) {
        let from = self.until.max(began);
        let until = until.max(from);
        self.until = until;
        match self
            .pieces
            .last_mut()
            .filter(|(first, last, _)| last.since(*first) < PIECE_MIN && *last == from)
        {
            Some((_, last, failures)) => {
                *last = until;
                failures.iter_mut().zip(news).for_each(|(sum, more)| *sum = sum.saturating_add(more));
            }
            None => self.pieces.push((from, until, news)),
        }
    }
}

/// The shortest time that failures are kept apart by; proxies tell of them once a second.
const PIECE_MIN: Duration = Duration::from_millis(900);

/// A fault on the way of a run that it did not order.
#[derive(Clone, Debug)]
pub(super) struct Foreign {
    node: String,
    clock: Offset,
    window: WindowSeen,
    failures: Told,
}

/// Faults by hand that a run keeps; more would be a script gone wrong.
const BY_HAND_MAX: usize = 1_000;

impl Foreign {
    pub(super) fn fault_window(&self, start_at: Instant, over_at: Instant) -> FaultWindow {
        let on_axis =
            |at: Instant| self.clock.to_controller(at).min(over_at).since(start_at).as_nanos() as u64;
        FaultWindow {
            proxy: self.window.proxy.clone(),
            behavior: self.window.behavior.clone(),
            start_ns: on_axis(self.window.started_at),
            end_ns: self.window.ended_at.map_or(over_at.since(start_at).as_nanos() as u64, on_axis),
            injected: Some(self.window.injected),
            ..FaultWindow::default()
        }
    }
}

impl Execution {
    /// The order for fault `index` of the plan, to be sent to `node`; `None` before [`Execution::schedule`].
    pub fn order_fault(&mut self, index: usize, node: &str, clock: Offset) -> Option<FaultOrder> {
        let (start_at, planned) = (self.start_at?, self.plan.faults.get(index)?);
        let id = format!("{}-{index}", self.attempt.run);
        let fault = Fault {
            id: id.clone(),
            index,
            node: node.into(),
            clock,
            accepted: false,
            window: None,
            failures: Told::from(start_at),
            lost: false,
        };
        self.faults.push(fault);
        Some(FaultOrder {
            fault: id,
            attempt: self.attempt.clone(),
            proxy: planned.proxy.clone(),
            behavior: planned.behavior.clone(),
            options: planned.options.clone(),
            starts_at: clock.to_node(start_at + planned.at),
            duration: planned.over,
        })
    }

    /// A proxy answered an order; the error is what to stop the run with. What another node says of it is not heard.
    ///
    /// # Errors
    /// When the proxy refused.
    pub fn on_fault_accepted(
        &mut self,
        node: &str,
        fault: &str,
        result: Result<(), String>,
    ) -> Result<(), String> {
        let ordered = |known: &Fault| known.id == fault && known.node == node;
        let Some(index) = self.faults.iter().position(ordered) else { return Ok(()) };
        let planned = &self.plan.faults[self.faults[index].index];
        result
            .map_err(|why| format!("the proxy `{}` refused `{}`: {why}", planned.proxy, planned.behavior))?;
        self.faults[index].accepted = true;
        Ok(())
    }

    /// A proxy told how a fault goes. What another node says of it is not heard.
    pub fn on_window(&mut self, node: &str, seen: WindowSeen, now: Instant) {
        let ordered = |known: &&mut Fault| known.id == seen.fault && known.node == node;
        let Some(fault) = self.faults.iter_mut().find(ordered) else { return };
        if fault.window.as_ref().is_some_and(|window| window.ended_at.is_some()) {
            // Its end was told: it does not begin again.
            return;
        }
        let seen = not_later(seen, fault.clock, now);
        let planned = &self.plan.faults[fault.index];
        let began = fault.window.is_none();
        let ended = seen.ended_at.is_some();
        let mut lines = Vec::new();
        if began {
            lines.push(json!({"event": "fault_began", "proxy": planned.proxy, "behavior": planned.behavior}));
        }
        if ended {
            lines.push(json!({
                "event": "fault_ended", "proxy": planned.proxy, "behavior": planned.behavior,
                "injected": seen.injected,
            }));
        }
        let (started, over) = (fault.clock.to_controller(seen.started_at), seen.ended_at);
        let over = over.map_or(now, |at| fault.clock.to_controller(at));
        let timeout = self.plan.response_timeout;
        let of = |window: &WindowSeen| {
            let mut failures = window.failures;
            failures[Failure::Silent as usize] += outwaited::told(planned, window, timeout);
            failures
        };
        let (before, all) = (fault.window.as_ref().map(of).unwrap_or_default(), of(&seen));
        let news = std::array::from_fn(|kind| all[kind].saturating_sub(before[kind]));
        fault.failures.add(started, over, news);
        fault.window = Some(seen);
        for line in lines {
            let at = if line["event"] == "fault_began" { started } else { over };
            self.event(at, line);
        }
    }

    /// A proxy told of a fault that nobody ordered. It is this run's if the load may go through that proxy, or if the
    /// run has faults of its own there.
    pub fn on_window_by_hand(&mut self, node: &str, clock: Offset, seen: &WindowSeen, now: Instant) {
        let Some(start_at) = self.start_at.filter(|_| !self.reported) else { return };
        let is_on_the_way = seen.listen.is_some_and(|listen| self.plan.target.may_lead_to(listen));
        if !is_on_the_way && self.plan.faults.iter().all(|fault| fault.proxy != seen.proxy) {
            return;
        }
        let seen = not_later(seen.clone(), clock, now);
        let over = seen.ended_at.map_or(now, |at| clock.to_controller(at));
        let known =
            self.by_hand.iter_mut().find(|fault| fault.node == node && fault.window.fault == seen.fault);
        let Some(fault) = known else {
            if over <= start_at || self.by_hand.len() >= BY_HAND_MAX {
                return;
            }
            let started = clock.to_controller(seen.started_at);
            // What it did before the start is nothing of this run.
            let first = if started < start_at { [0; Failure::COUNT] } else { seen.failures };
            let mut failures = Told::from(start_at);
            failures.add(started, over, first);
            self.by_hand.push(Foreign { node: node.to_owned(), clock, window: seen, failures });
            return;
        };
        let before = fault.window.failures;
        let news = std::array::from_fn(|kind| seen.failures[kind].saturating_sub(before[kind]));
        fault.failures.add(Instant::ZERO, over, news);
        fault.window = seen;
    }

    /// Faults that may still act, with the node to revoke them at.
    pub fn open_faults(&self) -> Vec<(String, String)> {
        let open = self
            .faults
            .iter()
            .filter(|fault| !fault.lost && fault.window.as_ref().is_none_or(|w| w.ended_at.is_none()));
        open.map(|fault| (fault.node.clone(), fault.id.clone())).collect()
    }

    /// Whether a fault was to begin before the load was over.
    pub(super) fn began(&self, fault: &Fault, over_at: Instant) -> bool {
        fault.window.is_some()
            || self.start_at.is_some_and(|start| start + self.plan.faults[fault.index].at < over_at)
    }

    /// The failures that proxies told to have injected, if the load went through them.
    pub(super) fn injected(&self, start_at: Instant) -> Injected {
        let ordered =
            self.faults.iter().filter_map(|fault| Some((&fault.failures, fault.window.as_ref()?.listen?)));
        let by_hand = self.by_hand.iter().filter_map(|fault| Some((&fault.failures, fault.window.listen?)));
        let all: Vec<_> = ordered.chain(by_hand).collect();
        let told = || all.iter();
        if told().next().is_none() {
            return Injected::NoneInForce;
        }
        let mut injections = Injections::told_by_the_second();
        let mut is_any_on_the_way = false;
        for (failures, _) in told().filter(|(_, listen)| self.plan.target.may_lead_to(*listen)) {
            is_any_on_the_way = true;
            for (from, to, counts) in &failures.pieces {
                let [from_ns, to_ns] = [from, to].map(|at| at.since(start_at).as_nanos() as u64);
                for kind in Failure::ALL {
                    injections.spread(kind, counts[kind as usize], from_ns, to_ns);
                }
            }
        }
        if is_any_on_the_way { Injected::Known(injections) } else { Injected::Behind }
    }

    /// As the proxy saw it, or as planned when it did not say.
    pub(super) fn fault_window(&self, fault: &Fault, start_at: Instant, over_at: Instant) -> FaultWindow {
        let planned = &self.plan.faults[fault.index];
        let planned_end = (start_at + planned.at + planned.over).min(over_at.max(start_at + planned.at));
        let from = |at: Instant| fault.clock.to_controller(at).since(start_at).as_nanos() as u64;
        let window = fault.window.as_ref();
        let planned_at = planned.at.as_nanos() as u64;
        FaultWindow {
            proxy: planned.proxy.clone(),
            behavior: planned.behavior.clone(),
            start_ns: window.map_or(planned_at, |window| from(window.started_at)),
            end_ns: window
                .and_then(|window| window.ended_at)
                .map_or(planned_end.since(start_at).as_nanos() as u64, from),
            injected: window.map(|window| window.injected),
            seen: None,
            accuracy_p50_ns: None,
            accuracy_p99_ns: None,
            around: None,
        }
    }
}

/// What a proxy told, nothing of it later than now: the length of a report follows from it.
fn not_later(seen: WindowSeen, clock: Offset, now: Instant) -> WindowSeen {
    let now = clock.to_node(now);
    let ended_at = seen.ended_at.map(|at| at.min(now));
    WindowSeen { started_at: seen.started_at.min(now), ended_at, ..seen }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Instant {
        Instant::from_nanos(ms * 1_000_000)
    }

    #[test]
    fn failures_are_kept_by_the_second_however_often_they_are_told_of() {
        let mut told = Told::from(at(0));
        (0..=100_000).for_each(|ms| told.add(at(0), at(ms / 10), [1, 0, 0, 2]));
        assert!(told.pieces.len() <= 12, "{} pieces of 10 s", told.pieces.len());
        let sum = |kind: usize| told.pieces.iter().map(|(_, _, failures)| failures[kind]).sum::<u64>();
        assert_eq!((sum(0), sum(3)), (100_001, 200_002));
        assert!(told.pieces.windows(2).all(|pair| pair[0].1 == pair[1].0), "without gaps");
        // Of a time before what was told, and of one after a gap.
        told.add(at(0), at(3), [1; Failure::COUNT]);
        told.add(at(20_000), at(20_000), [1; Failure::COUNT]);
        assert_eq!(told.pieces.last().unwrap().0, at(20_000));
    }

    #[test]
    fn once_a_second_stays_once_a_second() {
        let mut told = Told::from(at(500));
        for second in 1..=5 {
            told.add(at(600), at(600 + 1_000 * second), [second, 0, 0, 0]);
        }
        told.add(at(600), at(5_700), [6, 0, 0, 0]);
        let pieces: Vec<_> =
            told.pieces.iter().map(|(from, to, failures)| (*from, *to, failures[0])).collect();
        let second = |number: u64| (at(600 + 1_000 * (number - 1)), at(600 + 1_000 * number), number);
        let mut expected: Vec<_> = (1..=5).map(second).collect();
        expected.push((at(5_600), at(5_700), 6));
        assert_eq!(pieces, expected);
    }
}
