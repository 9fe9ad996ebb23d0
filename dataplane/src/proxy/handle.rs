//! The proxy from outside: commands in, snapshots and events out. Every call returns when all workers have
//! done what it asks, and none waits for traffic.

use std::collections::{BTreeSet, HashSet};
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use super::book::{Book, Entry};
use super::calls::{
    Applied, AppliedTo, EndReason, LeaseEnd, LeaseInfo, LeaseRequest, ProxyInfo, ProxySpec, ProxyUpdate,
    RulesChange,
};
use super::change::check_names;
use super::dataplane::DataplaneSettings;
use super::error::ProxyError;
use super::event::{Detail, Event, EventKind};
use super::keeper::Watch;
use super::leases::lease_name;
use super::resolver::Resolver;
use super::stats::{ProxySnapshot, RuleStats, WorkerSnapshot};
use super::thread::{Command, Link};
use super::totals::{ProxyStats, Stats, WorkerStats};
use super::worker::Opening;
use crate::behavior::mix;
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
    pub(super) resolver: Resolver,
    /// Connections that were cut before a drain had ended.
    pub(super) cut: AtomicUsize,
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

    /// Closes all listeners and connections now, each in order but without waiting for its peer; a drain that is under
    /// way ends with it.
    pub fn close_all(&self) {
        let open = |worker: &Link| worker.figures.read_worker().connections;
        let cut = self.0.workers.iter().map(open).sum();
        self.0.cut.fetch_add(cut, Ordering::Relaxed);
        self.0.workers.iter().for_each(|worker| worker.tell(Command::Cut));
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
    pub fn create(&self, spec: ProxySpec) -> Result<ProxyInfo, ProxyError> {
        self.create_all(vec![spec])?.pop().ok_or(ProxyError::Stopped)
    }

    /// Makes many proxies as one generation; each worker opens all of them in one go.
    ///
    /// # Errors
    /// Those of the first that cannot be made; then none is made, and nothing is left behind.
    pub fn create_all(&self, specs: Vec<ProxySpec>) -> Result<Vec<ProxyInfo>, ProxyError> {
        let mut reserved = Vec::new();
        let made = self.make_all(specs, &mut reserved);
        let mut book = self.book();
        reserved.iter().for_each(|name| book.unreserve(name));
        made
    }

    fn make_all(
        &self,
        mut specs: Vec<ProxySpec>,
        reserved: &mut Vec<String>,
    ) -> Result<Vec<ProxyInfo>, ProxyError> {
        let mut addresses = HashSet::new();
        for spec in &mut specs {
            spec.check_upstream(&self.0.settings.upstreams)?;
            check_names(&spec.name, &spec.rules)?;
            // What cannot be compiled is refused before anything is opened.
            self.compile(spec, spec.rules.clone(), 0, None)?;
            self.book().reserve(spec)?;
            reserved.push(spec.name.clone());
            if spec.enabled && addresses.insert(spec.listen) {
                // Waits for a listener that was just shut: without the book, which everybody needs.
                check_free(spec.listen).map_err(|source| ProxyError::Listen {
                    name: spec.name.clone(),
                    listen: spec.listen,
                    source,
                })?;
            }
        }
        let mut book = self.book();
        if specs.len() > (PROXIES_MAX - book.next_id) as usize {
            return Err(ProxyError::TooMany);
        }
        let generation = book.generation + 1;
        let mut made = Vec::new();
        for spec in specs {
            // Taken even if it fails: a worker may still have something of it.
            let id = book.next_id;
            book.next_id = id + 1;
            let rules = self.compile(&spec, spec.rules.clone(), generation, None)?;
            made.push(Entry::new(id, spec, rules));
        }
        if let Err(error) = self.open_all(&mut made) {
            for id in made.iter().map(|entry| entry.id) {
                self.ask_all(|reply| Command::Remove(id, generation, reply));
            }
            return Err(error);
        }
        book.generation = generation;
        let at = Instant::now();
        let infos: Vec<ProxyInfo> = made.iter().map(Entry::info).collect();
        for entry in made {
            let detail = format!("created: {}", mix::text(&entry.spec.rules));
            self.tell_changed(&entry.spec.name, generation, at, detail);
            self.0.resolver.watch(&self.0, entry.id, &entry.spec);
            book.proxies.insert(entry.spec.name.clone(), entry);
        }
        Ok(infos)
    }

    /// Opens proxies on the first worker, which finds the ports of `:0`, then beside it on all others at once.
    pub(super) fn open_all(&self, made: &mut [Entry]) -> Result<(), ProxyError> {
        let mut openings: Vec<Opening> = made.iter().map(Entry::opening).collect();
        let Some((first, others)) = self.0.workers.split_first() else { return Err(ProxyError::Stopped) };
        let opened = first.ask(|reply| Command::Open(openings.clone(), reply));
        let opened = opened.recv().map_err(|_| ProxyError::Stopped)?;
        for ((entry, opening), address) in made.iter_mut().zip(&mut openings).zip(opened) {
            let address = address.map_err(|source| entry.cannot_listen(source))?;
            if let Some(address) = address {
                (entry.spec.listen, opening.listen) = (address, Some(address));
            }
        }
        let asked = others.iter().map(|worker| worker.ask(|reply| Command::Open(openings.clone(), reply)));
        for opened in asked.collect::<Vec<_>>() {
            let opened = opened.recv().map_err(|_| ProxyError::Stopped)?;
            for (entry, address) in made.iter().zip(opened) {
                address.map_err(|source| entry.cannot_listen(source))?;
            }
        }
        Ok(())
    }

    /// Changes where a proxy leads, what is spoken on it, or whether it listens.
    ///
    /// # Errors
    /// When there is no such proxy, it was changed meanwhile, its rules need another protocol, or it cannot listen
    /// again.
    pub fn update(&self, name: &str, update: ProxyUpdate) -> Result<(ProxyInfo, Applied), ProxyError> {
        let started = Instant::now();
        let mut book = self.book();
        let generation = book.generation + 1;
        // Workers listen beside each other, so the kernel would let two proxies share a port.
        let listen = book.entry(name)?.spec.listen;
        let is_taken = book.proxies.values().any(|other| other.spec.enabled && other.spec.listen == listen);
        let entry = book.entry(name)?;
        entry.check_generation(update.expected_generation)?;
        let previous_generation = entry.generation;
        let before = entry.spec.clone();
        let mut spec = before.clone();
        if let Some((upstream, addresses)) = update.upstream {
            (spec.upstream, spec.upstream_addresses) = (upstream, addresses);
            spec.check_upstream(&self.0.settings.upstreams)?;
        }
        spec.connect_timeout = update.connect_timeout.unwrap_or(spec.connect_timeout);
        spec.resolve = update.resolve.unwrap_or(spec.resolve);
        spec.patience = spec.patience.updated(&update.patience);
        spec.enabled = update.enabled.unwrap_or(spec.enabled);
        spec.protocol = update.protocol.unwrap_or(spec.protocol);
        if spec.protocol != before.protocol {
            // Refused now, before anything is changed; leases that have not begun are asked too.
            let leases = entry.leases.leases().iter().map(|lease| lease.rules.clone());
            for rules in leases.chain([entry.leases.base().to_vec()]) {
                self.compile(&spec, rules, generation, None)?;
            }
        }
        let id = entry.id;
        if spec.enabled && !before.enabled {
            if is_taken {
                let source = io::ErrorKind::AddrInUse.into();
                return Err(ProxyError::Listen { name: spec.name, listen: spec.listen, source });
            }
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
        } else if !spec.enabled && before.enabled {
            wait(self.ask_all(|reply| Command::Shut(id, reply)))?;
        }
        let (addresses, timeout) = (&spec.upstream_addresses, spec.connect_timeout);
        let set = |reply| Command::SetUpstream(id, addresses.clone(), timeout, generation, reply);
        wait(self.ask_all(set))?;
        let detail = spec.differences(&before);
        let upstream_differs =
            spec.upstream != before.upstream || spec.upstream_addresses != before.upstream_addresses;
        if upstream_differs || spec.resolve != before.resolve {
            self.0.resolver.watch(&self.0, id, &spec);
        }
        entry.spec = spec;
        if entry.spec.patience != before.patience {
            let opening: Arc<[Opening]> = Arc::new([entry.opening()]);
            wait(self.ask_all(|reply| Command::Settle(Arc::clone(&opening), reply)))?;
        }
        let applied = if entry.spec.protocol == before.protocol {
            entry.generation = generation;
            book.generation = generation;
            let to = AppliedTo { proxy: name.to_owned(), previous_generation, ..AppliedTo::default() };
            self.applied(generation, started, Instant::now(), vec![to])
        } else {
            self.put(&mut book, &[name.to_owned()], started)?
        };
        let info = book.entry(name)?.info();
        self.tell_changed(name, generation, applied.at, detail);
        Ok((info, applied))
    }

    /// Closes a proxy and all its connections, and ends its leases.
    ///
    /// # Errors
    /// When there is no such proxy, or another generation changed it last than is expected.
    pub fn delete(&self, name: &str, expected_generation: Option<u64>) -> Result<Applied, ProxyError> {
        let started = Instant::now();
        let mut book = self.book();
        let generation = book.generation + 1;
        book.entry(name)?.check_generation(expected_generation)?;
        let (to, at) = self.take_out(&mut book, name, generation)?;
        Ok(self.applied(generation, started, at, vec![to]))
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
        let generation = book.generation;
        for change in &changes {
            let entry = book.entry(&change.proxy)?;
            entry.check_generation(change.expected_generation)?;
            check_names(&change.proxy, &change.rules)?;
            // What is wrong by itself is not put down to the leases on top.
            self.compile(&entry.spec, change.rules.clone(), generation, None)?;
        }
        // Try everything on copies first, so that a refusal changes nothing.
        let mut bases = Vec::new();
        let mut refused = None;
        for change in changes {
            let entry = book.entry(&change.proxy)?;
            let before = entry.leases.base().to_vec();
            match entry.leases.set_base(change.rules) {
                Ok(()) => bases.push((change.proxy, before)),
                Err(error) => {
                    refused = Some(error.into());
                    break;
                }
            }
        }
        let names: Vec<String> = bases.iter().map(|(name, _)| name.clone()).collect();
        let applied = refused.map_or_else(|| self.put(&mut book, &names, started), Err);
        match applied {
            Ok(applied) => {
                for name in &names {
                    let entry = book.entry(name)?;
                    entry.ended_rules.clear();
                    let detail = mix::text(entry.leases.base());
                    self.tell_changed(name, applied.generation, applied.at, detail);
                }
                Ok(applied)
            }
            Err(error) => {
                for (name, before) in bases {
                    if let Some(entry) = book.proxies.get_mut(&name) {
                        let _ = entry.leases.set_base(before);
                    }
                }
                Err(error)
            }
        }
    }

    /// Takes all rules and leases off these proxies; off all when `names` is empty.
    ///
    /// # Errors
    /// When one of them does not exist; then none is changed.
    pub fn reset(&self, names: &[String]) -> Result<Applied, ProxyError> {
        let started = Instant::now();
        let mut book = self.book();
        let names: BTreeSet<String> = if names.is_empty() {
            book.proxies.keys().cloned().collect()
        } else {
            names.iter().cloned().collect()
        };
        let names: Vec<String> = names.into_iter().collect();
        names.iter().try_for_each(|name| book.entry(name).map(drop))?;
        let mut ended = Vec::new();
        for name in &names {
            let entry = book.entry(name)?;
            // What the leases did that end now stays to be read.
            entry.ended_rules.clear();
            ended.push(entry.clear(EndReason::Reset));
        }
        let mut applied = self.put(&mut book, &names, started)?;
        for (to, ended) in applied.proxies.iter_mut().zip(ended) {
            to.leases_ended = ended;
            self.tell_changed(&to.proxy, applied.generation, applied.at, "reset: normal");
        }
        Ok(applied)
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
        check_names(&request.proxy, &request.rules)?;
        // What cannot be compiled is refused now, not when it starts.
        self.compile(&entry.spec, request.rules.clone(), generation, None)?;
        let text = mix::text(&request.rules);
        let now = Instant::now();
        let id = entry.leases.acquire(request.owner, request.rules, request.term, now)?;
        let lease = Some(lease_name(entry.id, id).into());
        let event = Event::about(request.proxy.as_str(), generation + 1, EventKind::LeaseAcquired, now);
        self.tell(Event { lease, detail: Detail::Text(text.into()), ..event });
        let applied = self.put(&mut book, std::slice::from_ref(&request.proxy), started);
        let entry = book.entry(&request.proxy)?;
        if applied.is_err() {
            let _ = entry.leases.release(id, now);
        }
        let applied = applied?;
        let lease = entry.lease(id).ok_or_else(|| ProxyError::LeaseNotFound(lease_name(entry.id, id)))?;
        self.wake_keeper();
        Ok((lease, applied))
    }

    /// Lets a lease live for `ttl` from now, or for as long as it was given before.
    ///
    /// # Errors
    /// When it has ended already.
    pub fn renew(&self, id: &str, ttl: Option<Duration>) -> Result<LeaseInfo, ProxyError> {
        let mut book = self.book();
        let (name, lease) = book.find_lease(id)?;
        let renewed = book.entry(&name)?.renew(lease, ttl, Instant::now());
        self.wake_keeper();
        renewed
    }

    /// Ends a lease; returns what it did.
    ///
    /// # Errors
    /// When it has ended already.
    pub fn release(&self, id: &str) -> Result<(LeaseEnd, Applied), ProxyError> {
        let started = Instant::now();
        let mut book = self.book();
        let (name, lease) = book.find_lease(id)?;
        book.entry(&name)?.release(lease, Instant::now())?;
        let applied = self.put(&mut book, std::slice::from_ref(&name), started)?;
        let end = book.ended.iter().rev().find(|end| end.lease.id == id).cloned();
        Ok((end.ok_or_else(|| ProxyError::LeaseNotFound(id.into()))?, applied))
    }

    /// All leases, by proxy.
    pub fn leases(&self) -> Vec<LeaseInfo> {
        self.book().proxies.values().flat_map(|entry| entry.info().leases).collect()
    }

    /// The leases that ended last, oldest first, at most [`ENDED_LEASES_MAX`].
    pub fn ended_leases(&self) -> Vec<LeaseEnd> {
        self.book().ended.iter().cloned().collect()
    }

    /// Everything counted so far, read without a worker's help: it costs their threads nothing.
    ///
    /// # Errors
    /// When the data plane is shutting down.
    pub fn stats(&self) -> Result<Stats, ProxyError> {
        self.check_running()?;
        Ok(self.last_stats())
    }

    /// The same, and as it stood last when the data plane is down.
    pub fn last_stats(&self) -> Stats {
        let ids: Vec<(String, u32)> = {
            let book = self.book();
            book.proxies.iter().map(|(name, entry)| (name.clone(), entry.id)).collect()
        };
        let snapshots: Vec<WorkerSnapshot> =
            self.0.workers.iter().map(|worker| worker.figures.read()).collect();
        let proxies = ids.into_iter().map(|(name, id)| {
            (name, ProxyStats::sum(snapshots.iter().filter_map(|worker| worker.proxies.get(&id))))
        });
        let proxies = proxies.collect();
        let workers = snapshots.into_iter().map(WorkerStats::from).collect();
        Stats { at: Instant::now(), workers, proxies }
    }

    /// What was counted of one proxy so far.
    ///
    /// # Errors
    /// When there is no such proxy, or the data plane is shutting down.
    pub fn proxy_stats(&self, name: &str) -> Result<ProxyStats, ProxyError> {
        self.check_running()?;
        let id = self.book().entry(name)?.id;
        let snapshots: Vec<ProxySnapshot> =
            self.0.workers.iter().filter_map(|worker| worker.figures.proxy(id)).collect();
        Ok(ProxyStats::sum(snapshots.iter()))
    }

    /// Whether the data plane still runs.
    ///
    /// # Errors
    /// When it is shutting down.
    pub fn check_running(&self) -> Result<(), ProxyError> {
        if self.0.stopped.load(Ordering::Acquire) { Err(ProxyError::Stopped) } else { Ok(()) }
    }

    /// What the rules of a proxy's ended leases did, oldest first: since its rules were changed last, at most
    /// [`ENDED_RULES_MAX`](super::ENDED_RULES_MAX).
    ///
    /// # Errors
    /// When there is no such proxy.
    pub fn ended_rules(&self, proxy: &str) -> Result<Vec<RuleStats>, ProxyError> {
        self.book().entry(proxy).map(|entry| entry.ended_rules.iter().cloned().collect())
    }

    /// The generation in force.
    pub fn generation(&self) -> u64 {
        self.book().generation
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
    if address.port() == 0 {
        return Ok(());
    }
    // A listener that was just shut closes a few turns of its worker later.
    for _ in 0..SHUT_TRIES_MAX {
        match std::net::TcpListener::bind(address) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => std::thread::sleep(SHUT_PAUSE),
            other => return other.map(drop),
        }
    }
    std::net::TcpListener::bind(address).map(drop)
}

/// How often, and how long apart, an address is tried that is taken.
const SHUT_TRIES_MAX: u32 = 20;
const SHUT_PAUSE: Duration = Duration::from_millis(5);

pub(super) fn wait(replies: Vec<Receiver<()>>) -> Result<(), ProxyError> {
    replies.into_iter().try_for_each(|reply| reply.recv().map_err(|_| ProxyError::Stopped))
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic while it was held is a bug that has been reported; what it guards is still consistent.
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
