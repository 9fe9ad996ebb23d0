//! What a proxy counts and tells when a rule has acted or something has failed.
//!
//! A fault is counted when it happens, not when it is decided on, and to the rule that decided: rules may have come and
//! gone meanwhile, so what waits to happen carries its rule.

use std::sync::Arc;

use super::event::{Detail, Event, EventBuffer, EventKind, RuleName};
use super::figures::{RuleFigures, count_drawn};
use super::pipe::{Fault, Held, Item};
use super::worker::{Context, ProxyState};
use crate::behavior::{Drawn, Hold};
use crate::clock::Instant;
use crate::ring::Ring;

/// Who has decided on a fault that may still happen: a rule, at an exchange of the connection (0: at none).
#[derive(Clone, Debug)]
pub(super) struct Cause {
    pub rule: Arc<RuleFigures>,
    pub exchange: u64,
}

impl ProxyState {
    /// Counts the units that rules met and chose.
    pub(super) fn count(&mut self, drawn: Drawn) {
        if drawn != Drawn::default() {
            count_drawn(&self.rules_done, drawn);
        }
    }

    /// The rule of the set in force with this number.
    pub(super) fn cause(&self, rule: u8, exchange: u64) -> Cause {
        Cause { rule: Arc::clone(&self.rules_done[usize::from(rule)]), exchange }
    }

    /// A delay that rules of the set in force have decided on.
    pub(super) fn held(&self, hold: Hold) -> Held {
        let Hold { time, rules, exchange } = hold;
        let by = (rules != 0).then(|| Arc::clone(&self.rules_done));
        Held { time, rules, by, exchange, fault: Fault::None }
    }

    /// Bytes that a rule of the set in force has made; it is told of when they leave.
    pub(super) fn made(&self, held: Held, rule: u8, fault: Fault) -> Held {
        Held { rules: held.rules | 1 << rule, by: Some(Arc::clone(&self.rules_done)), fault, ..held }
    }

    /// Counts a fault that has happened on the connection number `connection`, from 0, and tells of it.
    pub(super) fn injected<R: Ring>(
        &self,
        cause: &Cause,
        connection: u64,
        detail: Detail,
        cx: &mut Context<R>,
    ) {
        if let Some(figures) = self.count_of(&cause.rule) {
            figures.injected.add(1);
        }
        let event = self.caused(cause, connection, cx.now);
        cx.events.push(Event { detail, ..event });
    }

    /// Tells of a failure that no rule asked for.
    pub(super) fn failed<R: Ring>(&self, connection: u64, detail: Detail, cx: &mut Context<R>) {
        let event = self.event(EventKind::NaturalFailure, cx.now);
        cx.events.push(Event { connection: connection + 1, detail, ..event });
    }

    /// Held bytes leave: counts what rules did to them, and records how exactly a delay was kept.
    pub(super) fn released(&self, item: &Item, connection: u64, now: Instant, events: &mut EventBuffer) {
        let Held { time: asked, rules, exchange, fault, ref by } = item.held;
        let late = now - item.due;
        let mut left = rules;
        while left != 0 {
            let place = left.trailing_zeros() as usize;
            left &= left - 1;
            let Some(rule) = by.as_ref().and_then(|rules| rules.get(place)) else { continue };
            let cause = Cause { rule: Arc::clone(rule), exchange: exchange.into() };
            let event = self.caused(&cause, connection, now);
            let figures = self.count_of(rule);
            if rule.delays() {
                if let Some(figures) = figures {
                    figures.delayed(late.as_nanos() as u64, asked.as_nanos() as u64);
                }
                events.push(Event { asked, done: asked + late, ..event });
            } else {
                if let Some(figures) = figures {
                    figures.injected.add(1);
                }
                events.push(Event { detail: Detail::of_bytes(fault), ..event });
            }
        }
    }

    /// Where the faults of a rule are counted: with itself, or with others of its behavior when it is gone.
    fn count_of<'a>(&'a self, rule: &'a RuleFigures) -> Option<&'a RuleFigures> {
        if rule.is_retired() { self.figures.orphans(rule.behavior) } else { Some(rule) }
    }

    fn caused(&self, cause: &Cause, connection: u64, now: Instant) -> Event {
        let Cause { rule, exchange } = cause;
        Event {
            connection: connection + 1,
            exchange: *exchange,
            rule: Some(RuleName { name: Arc::clone(&rule.name), behavior: rule.behavior }),
            lease: rule.lease.clone(),
            ..self.event(EventKind::Injected, now)
        }
    }
}
