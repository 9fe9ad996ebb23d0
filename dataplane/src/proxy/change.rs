//! Brings a change to all workers as one generation, and tells of it.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::book::Book;
use super::calls::{Applied, AppliedTo, LeaseEnd, LeaseInfo, ProxySpec};
use super::error::ProxyError;
use super::event::{Detail, Event, EventKind};
use super::handle::{ENDED_LEASES_MAX, Handle};
use super::stats::RuleStats;
use super::thread::Command;
use super::totals::merge_by_name;
use crate::behavior::{Rule, RuleSet, mix};
use crate::clock::Instant;

impl Handle {
    /// Compiles a proxy's rules; what did not change goes on counting.
    pub(super) fn compile(
        &self,
        spec: &ProxySpec,
        rules: Vec<Rule>,
        generation: u64,
        previous: Option<&RuleSet>,
    ) -> Result<Arc<RuleSet>, ProxyError> {
        let compiled = RuleSet::compile(rules, spec.protocol, self.0.settings.seed, generation)
            .map_err(|source| ProxyError::Rules { name: spec.name.clone(), source })?;
        Ok(Arc::new(match previous {
            Some(previous) => compiled.inherit(previous),
            None => compiled,
        }))
    }

    /// Brings what the books of these proxies say to all workers, as one generation.
    pub(super) fn put(
        &self,
        book: &mut Book,
        names: &[String],
        started: Instant,
    ) -> Result<Applied, ProxyError> {
        // Not when the call began: it may have waited for the book while a lease began.
        let now = Instant::now();
        let generation = book.generation + 1;
        let mut changes = Vec::new();
        for name in names {
            let entry = book.entry(name)?;
            let (rules, _) = entry.leases.effective(now);
            changes.push((name.clone(), self.compile(&entry.spec, rules, generation, Some(&entry.rules))?));
        }
        let message: Arc<[(u32, Arc<RuleSet>)]> =
            changes.iter().map(|(name, rules)| (book.proxies[name].id, Arc::clone(rules))).collect();
        let acknowledged = self.ask_all(|reply| Command::SetRules(Arc::clone(&message), reply));
        let mut at = started;
        let mut met: BTreeMap<u32, (usize, Vec<RuleStats>)> = BTreeMap::new();
        for worker in acknowledged {
            let worker = worker.recv().map_err(|_| ProxyError::Stopped)?;
            at = at.max(worker.at);
            for proxy in worker.proxies {
                let (connections, gone) = met.entry(proxy.id).or_default();
                *connections += proxy.connections;
                merge_by_name(gone, &proxy.gone);
            }
        }
        book.generation = generation;
        let mut proxies = Vec::new();
        for (name, rules) in changes {
            let entry = book.entry(&name)?;
            let previous_generation = std::mem::replace(&mut entry.generation, generation);
            entry.rules = rules;
            let begun = entry.note_leases(now, at);
            let (connections, gone) = met.remove(&entry.id).unwrap_or_default();
            let ended = entry.take_ended(at, gone);
            let leases_ended = ended.len();
            proxies.push(AppliedTo { proxy: name, previous_generation, connections, leases_ended });
            begun
                .iter()
                .for_each(|lease| self.tell_lease(lease, EventKind::LeaseStarted, generation, at, ""));
            self.tell_ended(book, generation, ended);
        }
        Ok(self.applied(generation, started, at, proxies))
    }

    pub(super) fn applied(
        &self,
        generation: u64,
        started: Instant,
        at: Instant,
        proxies: Vec<AppliedTo>,
    ) -> Applied {
        Applied { generation, took: at - started, workers: self.0.workers.len(), at, proxies }
    }

    pub(super) fn tell(&self, event: Event) {
        // Behind what the workers have told; nobody listens while the keeper stops.
        let _ = self.0.keeper.send(vec![event]);
    }

    pub(super) fn tell_changed(
        &self,
        proxy: &str,
        generation: u64,
        at: Instant,
        detail: impl Into<Arc<str>>,
    ) {
        let event = Event::about(proxy, generation, EventKind::Changed, at);
        self.tell(Event { detail: Detail::Text(detail.into()), ..event });
    }

    pub(super) fn tell_lease(
        &self,
        lease: &LeaseInfo,
        kind: EventKind,
        generation: u64,
        at: Instant,
        why: &str,
    ) {
        let mix = mix::text(&lease.rules);
        let detail = if why.is_empty() { mix } else { format!("{why}: {mix}") };
        let event = Event::about(lease.proxy.as_str(), generation, kind, at);
        let lease = Some(lease.id.as_str().into());
        self.tell(Event { lease, detail: Detail::Text(detail.into()), ..event });
    }

    pub(super) fn tell_ended(&self, book: &mut Book, generation: u64, ended: Vec<LeaseEnd>) {
        for end in ended {
            self.tell_lease(&end.lease, EventKind::LeaseEnded, generation, end.ended_at, end.reason.word());
            book.ended.push_back(end);
        }
        while book.ended.len() > ENDED_LEASES_MAX {
            book.ended.pop_front();
        }
    }
}

/// Names and groups of rules in force that begin with `lease-3/` are those of a lease's rules.
pub(super) fn check_names(proxy: &str, rules: &[Rule]) -> Result<(), ProxyError> {
    let mut names = rules.iter().flat_map(|rule| [Some(&rule.name), rule.group.as_ref()]).flatten();
    match names.find(|name| name.contains('/')) {
        Some(name) => Err(ProxyError::RuleName { proxy: proxy.to_owned(), rule: name.clone() }),
        None => Ok(()),
    }
}
