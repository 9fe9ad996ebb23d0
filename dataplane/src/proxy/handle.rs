//! The proxy from outside: commands in, snapshots and events out. Every call returns when all workers have
//! done what it asks, and none waits for traffic.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::mpsc::{Receiver, Sender};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use super::book::{Book, Entry};
use super::calls::{
    Applied, LeaseEnd, LeaseInfo, LeaseRequest, ProxyInfo, ProxySpec, ProxyUpdate, RulesChange,
};
use super::dataplane::DataplaneSettings;
use super::error::ProxyError;
use super::keeper::Watch;
use super::leases::LeaseBook;
use super::stats::{Counters, Event, RuleStats, WorkerSnapshot};
use super::thread::{Command, Link};
use super::totals::{ProxyStats, Stats, WorkerStats, merge_by_name};
use super::worker::Opening;
use crate::behavior::{Rule, RuleSet};
use crate::clock::Instant;
use crate::ring::Features;

/// Ended leases that are remembered.
pub const ENDED_LEASES_MAX: usize = 256;

/// Proxies one process may have, removed ones included.
pub const PROXIES_MAX: u32 = 65_536;

/// A way to the data plane; cheap to clone, for any thread.
#[derive(Clone)]
pub struct Handle(pub(super) Arc<Shared>);

pub(super) struct Shared {
    pub(super) settings: DataplaneSettings,
    pub(super) features: Features,
    pub(super) workers: Vec<Link>,
    pub(super) book: Mutex<Book>,
    pub(super) watchers: Mutex<Vec<Watch>>,
    /// An empty batch tells the keeper to look at the leases again.
    pub(super) keeper: Sender<Vec<Event>>,
    pub(super) stopped: AtomicBool,
}

impl Handle {
    /// What every draw comes from.
    pub fn seed(&self) -> u64 {
        self.0.settings.seed
    }

    /// How many workers there are.
    pub fn workers(&self) -> usize {
        self.0.workers.len()
    }

    /// What the kernel can do.
    pub fn features(&self) -> Features {
        self.0.features
    }

    /// Whether deadlines are met by spinning.
    pub fn is_precise(&self) -> bool {
        self.0.settings.precise
    }

    /// Makes a proxy and opens it on every worker.
    ///
    /// # Errors
    /// When the name is taken, an address or a rule is wrong. Nothing is left behind.
    pub fn create(&self, mut spec: ProxySpec) -> Result<ProxyInfo, ProxyError> {
        let mut book = self.book();
        if book.proxies.contains_key(&spec.name) {
            return Err(ProxyError::Exists(spec.name));
        }
        if spec.upstream_addresses.is_empty() {
            return Err(ProxyError::NoUpstream(spec.name));
        }
        if book.next_id >= PROXIES_MAX {
            return Err(ProxyError::TooMany);
        }
        let generation = book.generation + 1;
        let rules = self.compile(&spec, spec.rules.clone(), generation, None)?;
        if spec.enabled {
            check_free(spec.listen).map_err(|source| ProxyError::Listen {
                name: spec.name.clone(),
                listen: spec.listen,
                source,
            })?;
        }
        let id = book.next_id;
        let mut opening = Opening {
            id,
            name: spec.name.as_str().into(),
            listen: spec.enabled.then_some(spec.listen),
            upstream: spec.upstream_addresses.clone(),
            source_addresses: spec.source_addresses.clone(),
            connect_timeout: spec.connect_timeout,
            held_bytes_max: spec.held_bytes_max,
            rules: Arc::clone(&rules),
            ordinals: Arc::new(AtomicU64::new(0)),
        };
        for worker in &self.0.workers {
            let reply = worker.ask(|reply| Command::Open(Box::new(opening.clone()), reply));
            match reply.recv().map_err(|_| ProxyError::Stopped)? {
                // The first worker finds the port of `:0`; the others listen beside it.
                Ok(Some(address)) => (spec.listen, opening.listen) = (address, Some(address)),
                Ok(None) => {}
                Err(source) => {
                    self.ask_all(|reply| Command::Remove(id, reply));
                    return Err(ProxyError::Listen { name: spec.name, listen: spec.listen, source });
                }
            }
        }
        (book.next_id, book.generation) = (id + 1, generation);
        let leases = LeaseBook::new(spec.rules.clone());
        let entry = Entry { id, spec, rules, leases, began: BTreeMap::new(), known: BTreeMap::new() };
        let info = entry.info();
        book.proxies.insert(info.spec.name.clone(), entry);
        Ok(info)
    }

    /// Changes where a proxy leads, or whether it listens.
    ///
    /// # Errors
    /// When there is no such proxy, or it cannot listen again.
    pub fn update(&self, name: &str, update: ProxyUpdate) -> Result<(ProxyInfo, Applied), ProxyError> {
        let started = Instant::now();
        let mut book = self.book();
        let entry = book.entry(name)?;
        let mut spec = entry.spec.clone();
        if let Some((upstream, addresses)) = update.upstream {
            if addresses.is_empty() {
                return Err(ProxyError::NoUpstream(upstream));
            }
            (spec.upstream, spec.upstream_addresses) = (upstream, addresses);
        }
        spec.connect_timeout = update.connect_timeout.unwrap_or(spec.connect_timeout);
        spec.enabled = update.enabled.unwrap_or(spec.enabled);
        let id = entry.id;
        if spec.enabled && !entry.spec.enabled {
            for worker in &self.0.workers {
                let reply = worker.ask(|reply| Command::Listen(id, spec.listen, reply));
                match reply.recv().map_err(|_| ProxyError::Stopped)? {
                    Ok(Some(address)) => spec.listen = address,
                    Ok(None) => {}
                    Err(source) => {
                        self.ask_all(|reply| Command::Shut(id, reply));
                        return Err(ProxyError::Listen { name: spec.name, listen: spec.listen, source });
                    }
                }
            }
        } else if !spec.enabled && entry.spec.enabled {
            wait(self.ask_all(|reply| Command::Shut(id, reply)))?;
        }
        let (addresses, timeout) = (&spec.upstream_addresses, spec.connect_timeout);
        wait(self.ask_all(|reply| Command::SetUpstream(id, addresses.clone(), timeout, reply)))?;
        entry.spec = spec;
        let info = entry.info();
        Ok((info, self.applied(book.generation, started, Instant::now())))
    }

    /// Closes a proxy and all its connections.
    ///
    /// # Errors
    /// When there is no such proxy.
    pub fn delete(&self, name: &str) -> Result<(), ProxyError> {
        let mut book = self.book();
        let id = book.entry(name)?.id;
        wait(self.ask_all(|reply| Command::Remove(id, reply)))?;
        book.proxies.remove(name);
        Ok(())
    }

    /// All proxies, by name.
    pub fn list(&self) -> Vec<ProxyInfo> {
        self.book().proxies.values().map(Entry::info).collect()
    }

    /// One proxy.
    ///
    /// # Errors
    /// When there is no such proxy.
    pub fn get(&self, name: &str) -> Result<ProxyInfo, ProxyError> {
        self.book().entry(name).map(|entry| entry.info())
    }

    /// Puts new rules on one or many proxies as one generation.
    ///
    /// # Errors
    /// When one of them is refused, none is changed.
    pub fn apply(&self, changes: Vec<RulesChange>) -> Result<Applied, ProxyError> {
        let started = Instant::now();
        let mut book = self.book();
        for change in &changes {
            let found = book.entry(&change.proxy)?.rules.generation;
            if let Some(expected) = change.expected_generation.filter(|expected| *expected != found) {
                return Err(ProxyError::Stale { name: change.proxy.clone(), expected, found });
            }
        }
        // Try everything on copies first, so that a refusal changes nothing.
        let mut bases = Vec::new();
        for change in changes {
            let entry = book.entry(&change.proxy)?;
            let before = entry.leases.base().to_vec();
            entry.leases.set_base(change.rules)?;
            bases.push((change.proxy, before));
        }
        let names: Vec<String> = bases.iter().map(|(name, _)| name.clone()).collect();
        self.put(&mut book, &names, started).inspect_err(|_| {
            for (name, before) in bases {
                if let Some(entry) = book.proxies.get_mut(&name) {
                    let _ = entry.leases.set_base(before);
                }
            }
        })
    }

    /// Takes all rules and leases off these proxies; off all when `names` is empty.
    ///
    /// # Errors
    /// When one of them does not exist; then none is changed.
    pub fn reset(&self, names: &[String]) -> Result<Applied, ProxyError> {
        let started = Instant::now();
        let mut book = self.book();
        let names = if names.is_empty() { book.proxies.keys().cloned().collect() } else { names.to_vec() };
        names.iter().try_for_each(|name| book.entry(name).map(drop))?;
        for name in &names {
            book.entry(name)?.leases = LeaseBook::default();
        }
        self.put(&mut book, &names, started)
    }

    /// Puts rules on top for a time.
    ///
    /// # Errors
    /// When the proxy, a rule, the time to live or the number of leases is wrong.
    pub fn acquire(&self, request: LeaseRequest) -> Result<(LeaseInfo, Applied), ProxyError> {
        let started = Instant::now();
        let mut book = self.book();
        let generation = book.generation;
        let entry = book.entry(&request.proxy)?;
        // What cannot be compiled is refused now, not when it starts.
        self.compile(&entry.spec, request.rules.clone(), generation, None)?;
        let id =
            entry.leases.acquire(request.owner, request.rules, request.starts_in, request.ttl, started)?;
        let applied = self.put(&mut book, std::slice::from_ref(&request.proxy), started);
        let entry = book.entry(&request.proxy)?;
        if applied.is_err() {
            let _ = entry.leases.release(id, started);
        }
        let applied = applied?;
        let lease = entry.lease(id).ok_or_else(|| ProxyError::LeaseNotFound(id.to_string()))?;
        self.wake_keeper();
        Ok((lease, applied))
    }

    /// Lets a lease live for `ttl` from now.
    ///
    /// # Errors
    /// When it has ended already.
    pub fn renew(&self, id: &str, ttl: Duration) -> Result<LeaseInfo, ProxyError> {
        let mut book = self.book();
        let (name, lease) = book.find_lease(id)?;
        let entry = book.entry(&name)?;
        entry.leases.renew(lease, ttl, Instant::now())?;
        self.wake_keeper();
        entry.lease(lease).ok_or_else(|| ProxyError::LeaseNotFound(id.into()))
    }

    /// Ends a lease; returns what it did.
    ///
    /// # Errors
    /// When it has ended already.
    pub fn release(&self, id: &str) -> Result<(LeaseEnd, Applied), ProxyError> {
        let started = Instant::now();
        let mut book = self.book();
        let (name, lease) = book.find_lease(id)?;
        let info = book.entry(&name)?.lease(lease).ok_or_else(|| ProxyError::LeaseNotFound(id.into()))?;
        book.entry(&name)?.leases.release(lease, started)?;
        let applied = self.put(&mut book, std::slice::from_ref(&name), started)?;
        let end = book.ended.iter().rev().find(|end| end.lease.id == id).cloned();
        let end = end.unwrap_or(LeaseEnd { lease: info, ended_at: applied.at, rules: Vec::new() });
        Ok((end, applied))
    }

    /// All leases, by proxy.
    pub fn leases(&self) -> Vec<LeaseInfo> {
        self.book().proxies.values().flat_map(|entry| entry.info().leases).collect()
    }

    /// The leases that ended last, oldest first, at most [`ENDED_LEASES_MAX`].
    pub fn ended_leases(&self) -> Vec<LeaseEnd> {
        self.book().ended.iter().cloned().collect()
    }

    /// Everything counted so far.
    ///
    /// # Errors
    /// When the data plane is shutting down.
    pub fn stats(&self) -> Result<Stats, ProxyError> {
        let snapshots = self.snapshots()?;
        let book = self.book();
        let proxies = book.proxies.values().map(|entry| {
            let mut stats =
                ProxyStats { counters: Counters::default(), rules: Vec::new(), retired: Vec::new() };
            let mut retired: BTreeMap<&'static str, RuleStats> = BTreeMap::new();
            for snapshot in snapshots.iter().filter_map(|worker| worker.proxies.get(&entry.id)) {
                stats.counters += snapshot.counters;
                merge_by_name(&mut stats.rules, &snapshot.rules);
                for (behavior, old) in &snapshot.retired {
                    retired.entry(behavior).and_modify(|sum| sum.merge(old)).or_insert_with(|| old.clone());
                }
            }
            stats.retired = retired.into_values().collect();
            (entry.spec.name.clone(), stats)
        });
        let proxies = proxies.collect();
        let workers = snapshots.into_iter().map(|worker| WorkerStats {
            worker: worker.worker,
            cpu_ns: worker.cpu_ns,
            connections: worker.connections,
            held_bytes: worker.held_bytes,
            overflows: worker.overflows,
            events_lost: worker.events_lost,
            residence: worker.residence,
        });
        Ok(Stats { at: Instant::now(), workers: workers.collect(), proxies })
    }

    /// Compiles a proxy's rules; what did not change goes on counting.
    fn compile(
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
        let generation = book.generation + 1;
        let mut changes = Vec::new();
        for name in names {
            let entry = book.entry(name)?;
            let before: Vec<LeaseInfo> = entry.info().leases;
            let (rules, _) = entry.leases.effective(started);
            changes.push((
                name.clone(),
                before,
                self.compile(&entry.spec, rules, generation, Some(&entry.rules))?,
            ));
        }
        let message: Arc<[(u32, Arc<RuleSet>)]> =
            changes.iter().map(|(name, _, rules)| (book.proxies[name].id, Arc::clone(rules))).collect();
        let acknowledged = self.ask_all(|reply| Command::SetRules(Arc::clone(&message), reply));
        let mut at = started;
        let mut dropped: BTreeMap<u32, Vec<RuleStats>> = BTreeMap::new();
        for worker in acknowledged {
            let (applied_at, gone) = worker.recv().map_err(|_| ProxyError::Stopped)?;
            at = at.max(applied_at);
            gone.iter().for_each(|(id, rules)| merge_by_name(dropped.entry(*id).or_default(), rules));
        }
        book.generation = generation;
        for (name, _, rules) in changes {
            let entry = book.entry(&name)?;
            entry.rules = rules;
            entry.note_leases(started, at);
            let id = entry.id;
            let ended = entry.take_ended(at, dropped.remove(&id).unwrap_or_default());
            book.ended.extend(ended);
        }
        while book.ended.len() > ENDED_LEASES_MAX {
            book.ended.pop_front();
        }
        Ok(self.applied(generation, started, at))
    }

    fn applied(&self, generation: u64, started: Instant, at: Instant) -> Applied {
        Applied { generation, took: at - started, workers: self.0.workers.len(), at }
    }

    pub(super) fn snapshots(&self) -> Result<Vec<WorkerSnapshot>, ProxyError> {
        self.ask_all(Command::Snapshot)
            .into_iter()
            .map(|reply| reply.recv().map_err(|_| ProxyError::Stopped))
            .collect()
    }

    pub(super) fn ask_all<T>(&self, command: impl Fn(Sender<T>) -> Command) -> Vec<Receiver<T>> {
        self.0.workers.iter().map(|worker| worker.ask(&command)).collect()
    }

    pub(super) fn book(&self) -> MutexGuard<'_, Book> {
        lock(&self.0.book)
    }

    fn wake_keeper(&self) {
        let _ = self.0.keeper.send(Vec::new());
    }
}

/// Whether nobody listens there: workers share their port among themselves (`SO_REUSEPORT`), and would share it
/// with another process without a word.
pub(crate) fn check_free(address: SocketAddr) -> io::Result<()> {
    if address.port() == 0 { Ok(()) } else { std::net::TcpListener::bind(address).map(drop) }
}

fn wait(replies: Vec<Receiver<()>>) -> Result<(), ProxyError> {
    replies.into_iter().try_for_each(|reply| reply.recv().map_err(|_| ProxyError::Stopped))
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic while it was held is a bug that has been reported; what it guards is still consistent.
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
