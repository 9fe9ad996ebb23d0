//! What a proxy counts and tells when a rule has acted or something has failed.

use std::sync::Arc;

use super::event::{Detail, Event, EventBuffer, EventKind, RuleName};
use super::pipe::Item;
use super::stats::{RuleStats, count_drawn};
use super::worker::{Context, ProxyState};
use crate::behavior::Drawn;
use crate::clock::Instant;
use crate::ring::Ring;

impl ProxyState {
    /// Counts the units that rules met and chose.
    pub(super) fn count(&mut self, drawn: Drawn) {
        if drawn != Drawn::default() {
            count_drawn(&mut self.rule_stats, drawn);
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
        let Some(stats) = self.rule_stats.get_mut(usize::from(rule)) else { return };
        stats.injected += 1;
        let rule = Some(RuleName { name: stats.name.clone(), behavior: stats.behavior });
        let (connection, lease) = (connection + 1, stats.lease.clone());
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
                // A rule that stayed as it is kept its statistics, and so its very name.
                Some(Some((name, _))) => self.rule_stats.iter().position(|now| Arc::ptr_eq(&now.name, name)),
                Some(None) => None,
            };
            let stats = match place.and_then(|place| self.rule_stats.get_mut(place)) {
                Some(stats) => stats,
                None => self.retired.entry("delay").or_insert_with(|| RuleStats::new("delay", "delay", None)),
            };
            stats.injected += 1;
            if let Some(lateness) = &mut stats.lateness {
                lateness.saturating_record(late.as_nanos() as u64);
            }
            if let Some(asked) = &mut stats.asked {
                asked.saturating_record(item.asked.as_nanos() as u64);
            }
            let named = || (stats.name.clone(), stats.lease.clone());
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
