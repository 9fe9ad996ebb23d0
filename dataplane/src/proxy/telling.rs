//! What a proxy counts and tells when a rule has acted or something has failed.

use std::sync::Arc;

use super::event::{Detail, Event, EventBuffer, EventKind, RuleName};
use super::figures::count_drawn;
use super::pipe::Item;
use super::worker::{Context, ProxyState};
use crate::behavior::Drawn;
use crate::clock::Instant;
use crate::ring::Ring;

impl ProxyState {
    /// Counts the units that rules met and chose.
    pub(super) fn count(&mut self, drawn: Drawn) {
        if drawn != Drawn::default() {
            count_drawn(&self.rules_done, drawn);
        }
    }

    /// Counts a fault and tells of it; `connection` is an ordinal from 0, `exchange` one from 1.
    pub(super) fn injected<R: Ring>(
        &mut self,
        rule: u8,
        connection: u64,
        exchange: u64,
        detail: Detail,
        cx: &mut Context<R>,
    ) {
        let event = self.event(EventKind::Injected, cx.now);
        let Some(figures) = self.rules_done.get(usize::from(rule)) else { return };
        figures.injected.add(1);
        let rule = Some(RuleName { name: figures.name.clone(), behavior: figures.behavior });
        let (connection, lease) = (connection + 1, figures.lease.clone());
        cx.events.push(Event { connection, exchange, rule, lease, detail, ..event });
    }

    /// Tells of a failure that no rule asked for.
    pub(super) fn failed<R: Ring>(&self, connection: u64, detail: Detail, cx: &mut Context<R>) {
        let event = self.event(EventKind::NaturalFailure, cx.now);
        cx.events.push(Event { connection: connection + 1, detail, ..event });
    }

    /// Held bytes leave: records how exactly the delay was kept.
    pub(super) fn released(&mut self, item: &Item, connection: u64, now: Instant, events: &mut EventBuffer) {
        let late = now - item.due;
        let mut left = item.rules;
        while left != 0 {
            let rule = left.trailing_zeros() as usize;
            left &= left - 1;
            // A rule set that has changed meanwhile may number its rules otherwise.
            let known = (item.generation != self.rules.generation)
                .then(|| self.earlier.1.get(rule).filter(|_| item.generation == self.earlier.0).cloned());
            let place = match &known {
                None => Some(rule),
                // A rule that stayed as it is kept its figures, and so its very name.
                Some(Some((name, _))) => self.rules_done.iter().position(|now| Arc::ptr_eq(&now.name, name)),
                Some(None) => None,
            };
            let figures = place.and_then(|place| self.rules_done.get(place));
            let figures = figures.map_or_else(|| self.figures.orphans(), |figures| &**figures);
            figures.delayed(late.as_nanos() as u64, item.asked.as_nanos() as u64);
            let named = || (figures.name.clone(), figures.lease.clone());
            let (name, lease) = known.flatten().unwrap_or_else(named);
            events.push(Event {
                connection: connection + 1,
                exchange: item.exchange.into(),
                rule: Some(RuleName { name, behavior: "delay" }),
                lease,
                asked: item.asked,
                done: item.asked + late,
                ..self.event(EventKind::Injected, now)
            });
        }
    }
}
