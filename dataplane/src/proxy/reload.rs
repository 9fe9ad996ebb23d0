//! A whole config at once: what is new is made, what is gone is closed, what stays is changed where it differs, and its
//! connections live on. All of it is one generation; if anything is wrong, nothing is changed.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;

use super::book::{Book, Entry, clashes};
use super::calls::{Applied, AppliedTo, EndReason, ProxySpec};
use super::change::check_names;
use super::error::ProxyError;
use super::handle::{Handle, PROXIES_MAX, check_free, wait};
use super::thread::Command;
use super::totals::merge_by_name;
use super::worker::Opening;
use crate::behavior::{Rule, mix};
use crate::clock::Instant;

/// What a new config changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replaced {
    /// The generation that is in force now, and the proxies that stay and were changed.
    pub applied: Applied,
    /// Proxies that were made, by name.
    pub created: Vec<String>,
    /// Proxies that were closed, by name; one that was made anew is in both.
    pub deleted: Vec<String>,
}

/// What becomes of each proxy; one that is as it should be is in none.
#[derive(Default)]
struct Plan {
    create: Vec<ProxySpec>,
    change: Vec<ProxySpec>,
    delete: BTreeSet<String>,
}

impl Handle {
    /// Makes the proxies those of `specs`, as one generation. Leases stay on top of those that stay; a proxy that is to
    /// listen elsewhere, or that is switched on or off, is made anew, and its leases end.
    ///
    /// # Errors
    /// The first thing that is wrong with any of them; then none is changed.
    pub fn replace_all(&self, mut specs: Vec<ProxySpec>) -> Result<Replaced, ProxyError> {
        let started = Instant::now();
        let mut names = BTreeSet::new();
        for spec in &mut specs {
            if !names.insert(spec.name.clone()) {
                return Err(ProxyError::Exists(spec.name.clone()));
            }
            spec.check_upstream(&self.0.settings.upstreams)?;
            check_names(&spec.name, &spec.rules)?;
            // What is wrong by itself is not put down to the leases on top.
            self.compile(spec, spec.rules.clone(), 0, None)?;
        }
        // Waits for listeners that were just shut: without the book, which everybody needs.
        let (new, ours) = {
            let book = self.book();
            (plan(&book, &specs).create, listening(&book))
        };
        for spec in new.iter().filter(|spec| spec.enabled && !ours.contains(&spec.listen)) {
            check_free(spec.listen).map_err(|source| spec.cannot_listen(source))?;
        }
        let mut book = self.book();
        let plan = plan(&book, &specs);
        self.check_addresses(&book, &plan)?;
        let before = change_entries(&mut book, &plan.change)?;
        let replaced = self.replace(&mut book, plan, started);
        if replaced.is_err() {
            restore(&mut book, before);
        }
        replaced
    }

    /// Whether the addresses of the proxies that are to be made are free, once those are gone that will be.
    fn check_addresses(&self, book: &Book, plan: &Plan) -> Result<(), ProxyError> {
        let stays = |(name, entry): &(&String, &Entry)| !plan.delete.contains(*name) && entry.spec.enabled;
        let mut taken: Vec<SocketAddr> =
            book.proxies.iter().filter(stays).map(|(_, entry)| entry.spec.listen).collect();
        let ours = listening(book);
        for spec in plan.create.iter().filter(|spec| spec.enabled) {
            let in_use = || spec.cannot_listen(std::io::ErrorKind::AddrInUse.into());
            if taken.iter().any(|other| clashes(spec.listen, *other)) {
                return Err(in_use());
            }
            if spec.listen.port() != 0 && !ours.contains(&spec.listen) {
                TcpListener::bind(spec.listen).map_err(|source| spec.cannot_listen(source))?;
            }
            taken.push(spec.listen);
        }
        if plan.create.len() > (PROXIES_MAX - book.next_id) as usize {
            return Err(ProxyError::TooMany);
        }
        Ok(())
    }

    /// Brings to the workers what the plan says and the book has already. Only what opens can fail.
    fn replace(&self, book: &mut Book, plan: Plan, started: Instant) -> Result<Replaced, ProxyError> {
        let generation = book.generation + 1;
        if plan.create.is_empty() && plan.change.is_empty() && plan.delete.is_empty() {
            let applied = self.applied(book.generation, started, Instant::now(), Vec::new());
            return Ok(Replaced { applied, created: Vec::new(), deleted: Vec::new() });
        }
        let mut made = Vec::new();
        for spec in plan.create {
            let id = book.next_id;
            book.next_id = id + 1;
            let rules = self.compile(&spec, spec.rules.clone(), generation, None)?;
            made.push(Entry::new(id, spec, rules));
        }
        let changed: Vec<String> = plan.change.iter().map(|spec| spec.name.clone()).collect();
        let opened = self.open_all(&mut made);
        let mut applied = match opened.and_then(|()| self.put(book, &changed, started)) {
            Ok(applied) => applied,
            Err(error) => {
                for id in made.iter().map(|entry| entry.id) {
                    self.ask_all(|reply| Command::Remove(id, generation, reply));
                }
                return Err(error);
            }
        };
        let settled: Arc<[Opening]> = changed.iter().map(|name| book.proxies[name].opening()).collect();
        wait(self.ask_all(|reply| Command::Settle(Arc::clone(&settled), reply)))?;
        for name in &changed {
            let entry = book.entry(name)?;
            entry.ended_rules.clear();
            self.0.resolver.watch(&self.0, entry.id, &entry.spec);
            let detail = format!("reloaded: {}", mix::text(entry.leases.base()));
            self.tell_changed(name, generation, applied.at, detail);
        }
        for name in &plan.delete {
            self.take_out(book, name, generation)?;
        }
        let created = made.iter().map(|entry| entry.spec.name.clone()).collect();
        for entry in made {
            let detail = format!("created: {}", mix::text(&entry.spec.rules));
            self.tell_changed(&entry.spec.name, generation, applied.at, detail);
            self.0.resolver.watch(&self.0, entry.id, &entry.spec);
            book.proxies.insert(entry.spec.name.clone(), entry);
        }
        (applied.at, applied.took) = (Instant::now(), Instant::now() - started);
        Ok(Replaced { applied, created, deleted: plan.delete.into_iter().collect() })
    }

    /// Closes a proxy and all its connections, and ends its leases, as a part of `generation`.
    pub(super) fn take_out(
        &self,
        book: &mut Book,
        name: &str,
        generation: u64,
    ) -> Result<(AppliedTo, Instant), ProxyError> {
        let entry = book.entry(name)?;
        let (id, previous_generation) = (entry.id, entry.generation);
        let mut connections = 0;
        let mut gone = Vec::new();
        for worker in self.ask_all(|reply| Command::Remove(id, generation, reply)) {
            let met = worker.recv().map_err(|_| ProxyError::Stopped)?;
            connections += met.connections;
            merge_by_name(&mut gone, &met.gone);
        }
        let at = Instant::now();
        let leases_ended = entry.clear(EndReason::Deleted);
        let ended = entry.take_ended(at, gone);
        book.generation = generation;
        book.proxies.remove(name);
        self.0.resolver.forget(id);
        self.tell_ended(book, generation, ended);
        self.tell_changed(name, generation, at, "deleted");
        Ok((AppliedTo { proxy: name.to_owned(), previous_generation, connections, leases_ended }, at))
    }
}

impl ProxySpec {
    fn cannot_listen(&self, source: std::io::Error) -> ProxyError {
        ProxyError::Listen { name: self.name.clone(), listen: self.listen, source }
    }

    /// Whether a proxy that listens as `self` says need not be made anew to become `other`.
    fn listens_as(&self, other: &ProxySpec) -> bool {
        let same_port = other.listen.port() == 0 || other.listen.port() == self.listen.port();
        self.enabled == other.enabled && self.listen.ip() == other.listen.ip() && same_port
    }

    /// Whether nothing but the rules differs; the addresses of a name are the resolver's business.
    fn is_settled_as(&self, other: &ProxySpec) -> bool {
        self.upstream == other.upstream
            && (other.upstream_addresses.is_empty() || self.upstream_addresses == other.upstream_addresses)
            && self.resolve == other.resolve
            && self.protocol == other.protocol
            && self.connect_timeout == other.connect_timeout
            && self.patience == other.patience
            && self.source_addresses == other.source_addresses
            && self.held_bytes_max == other.held_bytes_max
    }
}

/// Where the proxies of the book listen.
fn listening(book: &Book) -> BTreeSet<SocketAddr> {
    let enabled = book.proxies.values().filter(|entry| entry.spec.enabled);
    enabled.map(|entry| entry.spec.listen).collect()
}

fn plan(book: &Book, specs: &[ProxySpec]) -> Plan {
    let mut plan = Plan::default();
    let wanted: BTreeMap<&str, &ProxySpec> = specs.iter().map(|spec| (spec.name.as_str(), spec)).collect();
    for (name, entry) in &book.proxies {
        if wanted.get(name.as_str()).is_none_or(|spec| !entry.spec.listens_as(spec)) {
            plan.delete.insert(name.clone());
        }
    }
    for spec in specs {
        match book.proxies.get(&spec.name).filter(|_| !plan.delete.contains(&spec.name)) {
            None => plan.create.push(spec.clone()),
            Some(entry) if entry.spec.is_settled_as(spec) && entry.leases.base() == spec.rules => {}
            Some(_) => plan.change.push(spec.clone()),
        }
    }
    plan
}

/// What an entry was before it was changed.
type Before = (String, ProxySpec, Vec<Rule>);

/// Gives the entries that stay their new settings and base rules; on any error, none.
fn change_entries(book: &mut Book, specs: &[ProxySpec]) -> Result<Vec<Before>, ProxyError> {
    let mut before = Vec::new();
    for spec in specs {
        let entry = book.entry(&spec.name)?;
        before.push((spec.name.clone(), entry.spec.clone(), entry.leases.base().to_vec()));
        if let Err(error) = change_entry(entry, spec) {
            restore(book, before);
            return Err(error);
        }
    }
    Ok(before)
}

fn change_entry(entry: &mut Entry, spec: &ProxySpec) -> Result<(), ProxyError> {
    // Leases that have not begun are asked too.
    for rules in entry.leases.leases().iter().map(|lease| lease.rules.clone()) {
        crate::behavior::RuleSet::compile(rules, spec.protocol, 0, 0)
            .map_err(|source| ProxyError::Rules { name: spec.name.clone(), source })?;
    }
    entry.leases.set_base(spec.rules.clone())?;
    let old = std::mem::replace(&mut entry.spec, spec.clone());
    entry.spec.listen = old.listen;
    if entry.spec.upstream_addresses.is_empty() && entry.spec.upstream == old.upstream {
        entry.spec.upstream_addresses = old.upstream_addresses;
    }
    Ok(())
}

fn restore(book: &mut Book, before: Vec<Before>) {
    for (name, spec, rules) in before {
        if let Some(entry) = book.proxies.get_mut(&name) {
            entry.spec = spec;
            // They were its rules before, beside the same leases.
            let _ = entry.leases.set_base(rules);
        }
    }
}
