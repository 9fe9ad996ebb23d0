//! The proxy from outside: commands in, snapshots and events out. Every call returns when all workers have
//! done what it asks, and none waits for traffic.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender, SyncSender, TrySendError};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::Duration;

use hdrhistogram::Histogram;

use super::leases::{Lease, LeaseBook, LeaseError, LeaseId};
use super::stats::{Counters, Event, RuleStats, WorkerSnapshot, nanoseconds};
use super::worker::{Opening, Worker, WorkerSettings};
use crate::behavior::{Rule, RuleError, RuleSet, nearest};
use crate::clock::Instant;
use crate::config::{CONNECT_TIMEOUT_DEFAULT, HELD_BYTES_DEFAULT};
use crate::protocol::Protocol;
use crate::ring::{
    Features, KernelRing, RingError, RingSettings, SPIN, SocketOptions, Waker, raise_open_files_limit,
};

/// Ended leases that are remembered.
pub const ENDED_LEASES_MAX: usize = 256;
/// Proxies one process may have, removed ones included.
pub const PROXIES_MAX: u32 = 65_536;

/// How the data plane runs.
#[derive(Clone, Debug)]
pub struct DataplaneSettings {
    /// Worker threads, each with its ring.
    pub threads: usize,
    /// Wake early and spin, so that delays end within microseconds, at the cost of a core a worker.
    pub precise: bool,
    /// What every draw comes from.
    pub seed: u64,
    /// Bytes one worker may hold in all queues before it reads no further.
    pub worker_held_bytes_max: usize,
    /// The shape of each ring.
    pub ring: RingSettings,
    /// Options of every socket.
    pub options: SocketOptions,
}

impl Default for DataplaneSettings {
    fn default() -> DataplaneSettings {
        DataplaneSettings {
            threads: std::thread::available_parallelism().map_or(1, usize::from),
            precise: false,
            seed: 0,
            worker_held_bytes_max: 256 << 20,
            ring: RingSettings::default(),
            options: SocketOptions::default(),
        }
    }
}

/// Why the data plane did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// No ring.
    #[error(transparent)]
    Ring(#[from] RingError),
    /// No thread.
    #[error("cannot start a worker thread: {0}")]
    Thread(#[source] io::Error),
}

/// A proxy to make.
#[derive(Clone, Debug)]
pub struct ProxySpec {
    /// Its name.
    pub name: String,
    /// Where it listens; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Its upstream as it was given.
    pub upstream: String,
    /// The upstream's addresses, which the caller has looked up: the first that answers is used.
    pub upstream_addresses: Vec<SocketAddr>,
    /// What is spoken on it.
    pub protocol: Protocol,
    /// Its rules without leases.
    pub rules: Vec<Rule>,
    /// Whether it listens.
    pub enabled: bool,
    /// How long an upstream connect may take.
    pub connect_timeout: Duration,
    /// Addresses to connect from, in turn; the system's choice when empty.
    pub source_addresses: Vec<IpAddr>,
    /// Bytes that one direction of one connection may hold for a delay; beyond it the source is not read.
    pub held_bytes_max: usize,
}

impl ProxySpec {
    /// A proxy of plain bytes without rules, all else as a config that is silent has it.
    pub fn new(name: impl Into<String>, listen: SocketAddr, upstream: SocketAddr) -> ProxySpec {
        ProxySpec {
            name: name.into(),
            listen,
            upstream: upstream.to_string(),
            upstream_addresses: vec![upstream],
            protocol: Protocol::Tcp,
            rules: Vec::new(),
            enabled: true,
            connect_timeout: CONNECT_TIMEOUT_DEFAULT,
            source_addresses: Vec::new(),
            held_bytes_max: HELD_BYTES_DEFAULT as usize,
        }
    }
}

/// What to change on a proxy; what is `None` stays.
#[derive(Clone, Debug, Default)]
pub struct ProxyUpdate {
    /// The upstream as it was given, and its addresses; new connections go there.
    pub upstream: Option<(String, Vec<SocketAddr>)>,
    /// Listen, or close the listener and all connections.
    pub enabled: Option<bool>,
    /// How long an upstream connect may take.
    pub connect_timeout: Option<Duration>,
}

/// A proxy as it is.
#[derive(Clone, Debug)]
pub struct ProxyInfo {
    /// What it was made of; `listen` has the port in use, `rules` the rules without leases.
    pub spec: ProxySpec,
    /// The generation of its rules.
    pub generation: u64,
    /// The rules in force, those of leases first.
    pub rules: Vec<Rule>,
    /// Its leases, oldest first.
    pub leases: Vec<LeaseInfo>,
}

/// New rules for one proxy.
#[derive(Clone, Debug)]
pub struct RulesChange {
    /// The proxy.
    pub proxy: String,
    /// Its rules from now on; leases stay on top.
    pub rules: Vec<Rule>,
    /// Change nothing unless this generation is in force.
    pub expected_generation: Option<u64>,
}

/// A change that all workers have applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Applied {
    /// The generation that is in force now.
    pub generation: u64,
    /// From the call until the last worker had it.
    pub took: Duration,
    /// How many workers.
    pub workers: usize,
    /// When the last worker had it.
    pub at: Instant,
}

/// Rules for a time.
#[derive(Clone, Debug)]
pub struct LeaseRequest {
    /// The proxy.
    pub proxy: String,
    /// Evaluated before the proxy's own.
    pub rules: Vec<Rule>,
    /// Who asks, for people to read.
    pub owner: String,
    /// How long it lives unless it is renewed; with a start in the future, from then.
    pub ttl: Duration,
    /// When it starts, from now.
    pub starts_in: Duration,
}

/// A lease as it is.
#[derive(Clone, Debug)]
pub struct LeaseInfo {
    /// Its name for [`Handle::renew`] and [`Handle::release`].
    pub id: String,
    /// The proxy.
    pub proxy: String,
    /// Who asked.
    pub owner: String,
    /// Its rules.
    pub rules: Vec<Rule>,
    /// When it starts.
    pub starts_at: Instant,
    /// When it ends by itself.
    pub ends_at: Instant,
    /// When all workers had applied it.
    pub began_at: Option<Instant>,
}

/// A lease that is over.
#[derive(Clone, Debug)]
pub struct LeaseEnd {
    /// The lease as it was.
    pub lease: LeaseInfo,
    /// When no worker had it any more.
    pub ended_at: Instant,
    /// What its rules did.
    pub rules: Vec<RuleStats>,
}

/// Why a call was refused. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum ProxyError {
    /// No proxy of that name.
    #[error("there is no proxy `{name}`{}", hint(.nearest))]
    NotFound {
        /// What was asked for.
        name: String,
        /// The name that is most like it.
        nearest: Option<String>,
    },
    /// The name is taken.
    #[error("there is a proxy `{0}` already; delete it first, or take another name")]
    Exists(String),
    /// The upstream has no address.
    #[error("proxy `{0}` has no upstream address; give HOST:PORT")]
    NoUpstream(String),
    /// The address cannot be listened on.
    #[error("proxy `{name}` cannot listen on {listen}: {source}")]
    Listen {
        /// The proxy.
        name: String,
        /// The address.
        listen: SocketAddr,
        /// What the kernel said.
        source: io::Error,
    },
    /// The rules are wrong.
    #[error("proxy `{name}`: {source}")]
    Rules {
        /// The proxy.
        name: String,
        /// What is wrong.
        source: RuleError,
    },
    /// Somebody else changed the rules in between.
    #[error("proxy `{name}` is at generation {found}, not {expected}; read it again")]
    Stale {
        /// The proxy.
        name: String,
        /// What the caller had seen.
        expected: u64,
        /// What is in force.
        found: u64,
    },
    /// The lease cannot be had.
    #[error(transparent)]
    Lease(#[from] LeaseError),
    /// No lease of that name.
    #[error("there is no lease `{0}`: it has ended, or was never given")]
    LeaseNotFound(String),
    /// Too many.
    #[error("{PROXIES_MAX} proxies have been made in this process; restart it")]
    TooMany,
    /// The data plane is shutting down.
    #[error("the proxy is shutting down")]
    Stopped,
}

fn hint(nearest: &Option<String>) -> String {
    nearest.as_ref().map_or_else(String::new, |name| format!("; did you mean `{name}`?"))
}

/// Everything counted so far, all workers together.
#[derive(Clone, Debug)]
pub struct Stats {
    /// When it was read.
    pub at: Instant,
    /// Each worker's own figures.
    pub workers: Vec<WorkerStats>,
    /// By proxy name.
    pub proxies: BTreeMap<String, ProxyStats>,
}

/// One worker's figures.
#[derive(Clone, Debug)]
pub struct WorkerStats {
    /// Its number.
    pub worker: usize,
    /// CPU time of its thread, in nanoseconds.
    pub cpu_ns: u64,
    /// Connections it has open.
    pub connections: usize,
    /// Bytes it holds.
    pub held_bytes: usize,
    /// Times its completion queue had no room.
    pub overflows: u64,
    /// Events it had no room for.
    pub events_lost: u64,
    /// From when bytes were free to go until the kernel of their sink had them, in nanoseconds.
    pub residence: Histogram<u64>,
}

/// One proxy's figures.
#[derive(Clone, Debug)]
pub struct ProxyStats {
    /// Its counters.
    pub counters: Counters,
    /// Its rules, in their order.
    pub rules: Vec<RuleStats>,
    /// Rules that are no longer there, together by behavior.
    pub retired: Vec<RuleStats>,
}

/// The running data plane. Dropping it stops it at once; [`Dataplane::drain`] stops it gently.
pub struct Dataplane {
    handle: Handle,
    threads: Vec<JoinHandle<()>>,
    keeper: Option<JoinHandle<()>>,
}

/// How a drain ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drained {
    /// Connections that were still open at the limit, and were cut.
    pub cut: usize,
}

/// A way to the data plane; cheap to clone, for any thread.
#[derive(Clone)]
pub struct Handle(Arc<Shared>);

struct Shared {
    settings: DataplaneSettings,
    features: Features,
    workers: Vec<Link>,
    book: Mutex<Book>,
    watchers: Mutex<Vec<Watch>>,
    /// An empty batch tells the keeper to look at the leases again.
    keeper: Sender<Vec<Event>>,
    stopped: AtomicBool,
}

struct Link {
    commands: Sender<Command>,
    waker: Waker,
}

#[derive(Default)]
struct Book {
    generation: u64,
    next_id: u32,
    proxies: BTreeMap<String, Entry>,
    ended: VecDeque<LeaseEnd>,
}

struct Entry {
    id: u32,
    spec: ProxySpec,
    rules: Arc<RuleSet>,
    leases: LeaseBook,
    /// The leases that the workers have, since when, and as they were.
    began: BTreeMap<LeaseId, Instant>,
    known: BTreeMap<LeaseId, Lease>,
}

struct Watch {
    events: SyncSender<Vec<Event>>,
    lost: Arc<AtomicU64>,
}

/// Rules that a change has taken away, with what they did, by proxy number.
type Dropped = Vec<(u32, Vec<RuleStats>)>;

enum Command {
    Open(Box<Opening>, Sender<io::Result<Option<SocketAddr>>>),
    Listen(u32, SocketAddr, Sender<io::Result<Option<SocketAddr>>>),
    Shut(u32, Sender<()>),
    Remove(u32, Sender<()>),
    SetRules(Arc<[(u32, Arc<RuleSet>)]>, Sender<(Instant, Dropped)>),
    SetUpstream(u32, Vec<SocketAddr>, Duration, Sender<()>),
    Snapshot(Sender<WorkerSnapshot>),
    Drain(Sender<()>),
    Stop,
}

impl Dataplane {
    /// Starts the workers.
    ///
    /// # Errors
    /// When this machine gives no ring, with cause and remedy, or no thread.
    pub fn start(settings: DataplaneSettings) -> Result<Dataplane, StartError> {
        // Best effort: the limit in force is reported by `accept_paused` when it is met.
        let _ = raise_open_files_limit();
        let features = Features::probe()?;
        let (keeper, told) = mpsc::channel();
        let mut threads = Vec::new();
        let mut workers = Vec::new();
        for index in 0..settings.threads.max(1) {
            let (commands, inbox) = mpsc::channel();
            let (ready, is_ready) = mpsc::channel();
            let (settings, events) = (settings.clone(), keeper.clone());
            let thread = std::thread::Builder::new()
                .name(format!("fracas-proxy-{index}"))
                .spawn(move || run_worker(index, &settings, features, events, &inbox, &ready))
                .map_err(StartError::Thread)?;
            threads.push(thread);
            let waker =
                is_ready.recv().unwrap_or_else(|_| Err(RingError::Other(io::ErrorKind::Other.into())))?;
            workers.push(Link { commands, waker });
        }
        let shared = Shared {
            settings,
            features,
            workers,
            book: Mutex::default(),
            watchers: Mutex::default(),
            keeper,
            stopped: AtomicBool::new(false),
        };
        let handle = Handle(Arc::new(shared));
        let keeper = {
            let handle = handle.clone();
            let thread = std::thread::Builder::new().name("fracas-keeper".into());
            thread.spawn(move || handle.keep(&told)).map_err(StartError::Thread)?
        };
        Ok(Dataplane { handle, threads, keeper: Some(keeper) })
    }

    /// A way to it.
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Stops accepting, lets live connections finish for `limit`, then cuts what is left and stops.
    pub fn drain(self, limit: Duration) -> Drained {
        let deadline = Instant::now() + limit;
        let done: Vec<Receiver<()>> = self.handle.ask_all(Command::Drain);
        for worker in done {
            let _ = worker.recv_timeout(deadline - Instant::now());
        }
        let cut = self.handle.snapshots().map_or(0, |all| all.iter().map(|worker| worker.connections).sum());
        Drained { cut }
    }
}

impl Drop for Dataplane {
    fn drop(&mut self) {
        self.handle.0.stopped.store(true, Ordering::Release);
        self.handle.0.workers.iter().for_each(|worker| worker.tell(Command::Stop));
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
        let _ = self.handle.0.keeper.send(Vec::new());
        self.keeper.take().map(JoinHandle::join);
    }
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

    /// Every bad thing from now on; a watcher that is `capacity` batches behind loses the next, and knows.
    pub fn watch(&self, capacity: usize) -> Watcher {
        let (events, inbox) = mpsc::sync_channel(capacity.max(1));
        let lost = Arc::new(AtomicU64::new(0));
        lock(&self.0.watchers).push(Watch { events, lost: Arc::clone(&lost) });
        Watcher { inbox, lost }
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
    fn put(&self, book: &mut Book, names: &[String], started: Instant) -> Result<Applied, ProxyError> {
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

    fn snapshots(&self) -> Result<Vec<WorkerSnapshot>, ProxyError> {
        self.ask_all(Command::Snapshot)
            .into_iter()
            .map(|reply| reply.recv().map_err(|_| ProxyError::Stopped))
            .collect()
    }

    fn ask_all<T>(&self, command: impl Fn(Sender<T>) -> Command) -> Vec<Receiver<T>> {
        self.0.workers.iter().map(|worker| worker.ask(&command)).collect()
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        lock(&self.0.book)
    }

    fn wake_keeper(&self) {
        let _ = self.0.keeper.send(Vec::new());
    }

    /// The keeper's loop: hands events to whoever watches, starts and ends leases when it is time.
    fn keep(&self, told: &Receiver<Vec<Event>>) {
        while !self.0.stopped.load(Ordering::Acquire) {
            let next = self.change_leases();
            let wait = next.map_or(Duration::from_secs(3600), |at| at - Instant::now());
            match told.recv_timeout(wait) {
                Ok(events) if !events.is_empty() => self.tell_watchers(&events),
                Ok(_) | Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    /// Applies the leases whose time has come or gone; returns when the next one changes.
    fn change_leases(&self) -> Option<Instant> {
        let mut book = self.book();
        let now = Instant::now();
        let changed = |(name, entry): (&String, &mut Entry)| entry.is_due(now).then(|| name.clone());
        let due: Vec<String> = book.proxies.iter_mut().filter_map(changed).collect();
        if !due.is_empty() {
            // Refused only while shutting down: rules that compiled alone compile together.
            let _ = self.put(&mut book, &due, now);
        }
        let now = Instant::now();
        book.proxies.values().filter_map(|entry| entry.leases.next_change(now)).min()
    }

    fn tell_watchers(&self, events: &[Event]) {
        lock(&self.0.watchers).retain(|watch| match watch.events.try_send(events.to_vec()) {
            Ok(()) => true,
            Err(TrySendError::Full(events)) => {
                watch.lost.fetch_add(events.len() as u64, Ordering::Relaxed);
                true
            }
            Err(TrySendError::Disconnected(_)) => false,
        });
    }
}

/// Every bad thing, as it happens.
pub struct Watcher {
    inbox: Receiver<Vec<Event>>,
    lost: Arc<AtomicU64>,
}

impl Watcher {
    /// The next events, or none within `timeout`.
    pub fn recv_timeout(&self, timeout: Duration) -> Option<Vec<Event>> {
        self.inbox.recv_timeout(timeout).ok()
    }

    /// Events this watcher was too slow for.
    pub fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }
}

impl Book {
    fn entry(&mut self, name: &str) -> Result<&mut Entry, ProxyError> {
        if !self.proxies.contains_key(name) {
            let nearest = nearest(name, self.proxies.keys().map(String::as_str)).map(str::to_owned);
            return Err(ProxyError::NotFound { name: name.into(), nearest });
        }
        Ok(self.proxies.get_mut(name).expect("looked up above"))
    }

    fn find_lease(&self, id: &str) -> Result<(String, LeaseId), ProxyError> {
        let found = self.proxies.iter().find_map(|(name, entry)| {
            let lease = entry.leases.leases().iter().find(|lease| entry.lease_name(lease.id) == id)?;
            Some((name.clone(), lease.id))
        });
        found.ok_or_else(|| ProxyError::LeaseNotFound(id.into()))
    }
}

impl Entry {
    fn info(&self) -> ProxyInfo {
        ProxyInfo {
            spec: ProxySpec { rules: self.leases.base().to_vec(), ..self.spec.clone() },
            generation: self.rules.generation,
            rules: self.rules.rules().iter().map(|rule| rule.rule().clone()).collect(),
            leases: self.leases.leases().iter().filter_map(|lease| self.lease(lease.id)).collect(),
        }
    }

    fn lease_name(&self, id: LeaseId) -> String {
        format!("{}-{id}", self.id)
    }

    fn lease(&self, id: LeaseId) -> Option<LeaseInfo> {
        let lease = self.leases.leases().iter().find(|lease| lease.id == id)?;
        Some(LeaseInfo {
            id: self.lease_name(id),
            proxy: self.spec.name.clone(),
            owner: lease.owner.clone(),
            rules: lease.rules.clone(),
            starts_at: lease.starts_at,
            ends_at: lease.ends_at,
            began_at: self.began.get(&id).copied(),
        })
    }
}

impl Entry {
    /// Whether a lease has begun or ended since the rules in force were made.
    fn is_due(&self, now: Instant) -> bool {
        let in_force = |lease: &Lease| lease.starts_at <= now && now < lease.ends_at;
        let should = self.leases.leases().iter().filter(|lease| in_force(lease)).count();
        let ends = self.leases.leases().iter().any(|lease| lease.ends_at <= now);
        ends || should != self.began.len()
    }

    /// Notes which leases the workers have had since `at`.
    fn note_leases(&mut self, asked: Instant, at: Instant) {
        for lease in self.leases.leases().iter().filter(|lease| lease.starts_at <= asked) {
            self.began.entry(lease.id).or_insert(at);
            self.known.insert(lease.id, lease.clone());
        }
    }

    /// The leases that are over since `at`, with what their rules did.
    fn take_ended(&mut self, at: Instant, mut dropped: Vec<RuleStats>) -> Vec<LeaseEnd> {
        let alive: Vec<LeaseId> = self.leases.leases().iter().map(|lease| lease.id).collect();
        let over: Vec<_> = self.known.extract_if(.., |id, _| !alive.contains(id)).collect();
        let ends = over.into_iter().map(|(id, lease)| LeaseEnd {
            lease: LeaseInfo {
                id: format!("{}-{id}", self.id),
                proxy: self.spec.name.clone(),
                owner: lease.owner,
                rules: lease.rules,
                starts_at: lease.starts_at,
                ends_at: lease.ends_at,
                began_at: self.began.remove(&id),
            },
            ended_at: at,
            rules: dropped.extract_if(.., |rule| rule.name.starts_with(&format!("lease-{id}/"))).collect(),
        });
        ends.collect()
    }
}

impl Link {
    fn tell(&self, command: Command) {
        // A worker that is gone answers nothing, and its caller hears that.
        let _ = self.commands.send(command);
        self.waker.wake();
    }

    fn ask<T>(&self, command: impl Fn(Sender<T>) -> Command) -> Receiver<T> {
        let (reply, answer) = mpsc::channel();
        self.tell(command(reply));
        answer
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

fn merge_by_name(sum: &mut Vec<RuleStats>, added: &[RuleStats]) {
    for rule in added {
        match sum.iter_mut().find(|known| known.name == rule.name && known.behavior == rule.behavior) {
            Some(known) => known.merge(rule),
            None => sum.push(rule.clone()),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic while it was held is a bug that has been reported; what it guards is still consistent.
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn run_worker(
    index: usize,
    settings: &DataplaneSettings,
    features: Features,
    events: Sender<Vec<Event>>,
    inbox: &Receiver<Command>,
    ready: &Sender<Result<Waker, RingError>>,
) {
    let ring = RingSettings { spin: settings.precise.then_some(SPIN), ..settings.ring };
    let ring = match KernelRing::new(&ring, features) {
        Ok(ring) => ring,
        Err(error) => return drop(ready.send(Err(error))),
    };
    let _ = ready.send(Ok(ring.waker()));
    let worker = WorkerSettings {
        index,
        held_bytes_max: settings.worker_held_bytes_max,
        options: settings.options.clone(),
    };
    let mut worker = Worker::new(ring, worker, events);
    let mut drained: Option<Sender<()>> = None;
    loop {
        worker.turn().expect("the ring goes on");
        if worker.take_woken() {
            for command in inbox.try_iter() {
                match command {
                    Command::Open(opening, reply) => drop(reply.send(worker.open(&opening))),
                    Command::Listen(id, address, reply) => drop(reply.send(worker.listen(id, address))),
                    Command::Shut(id, reply) => drop((worker.shut(id, true), reply.send(()))),
                    Command::Remove(id, reply) => drop((worker.remove(id), reply.send(()))),
                    Command::SetRules(changes, reply) => {
                        let dropped =
                            changes.iter().map(|(id, rules)| (*id, worker.set_rules(*id, rules))).collect();
                        let _ = reply.send((Instant::now(), dropped));
                    }
                    Command::SetUpstream(id, upstream, timeout, reply) => {
                        worker.set_upstream(id, upstream, timeout);
                        let _ = reply.send(());
                    }
                    Command::Snapshot(reply) => drop(reply.send(worker.snapshot())),
                    Command::Drain(reply) => {
                        worker.drain();
                        drained = Some(reply);
                    }
                    Command::Stop => return stop(worker),
                }
            }
        }
        if worker.open_connections() == 0
            && let Some(reply) = drained.take()
        {
            let _ = reply.send(());
        }
    }
}

/// Cuts what is left, and lets the ring close it.
fn stop(mut worker: Worker<KernelRing>) {
    worker.cut();
    for _ in 0..STOP_TURNS_MAX {
        if worker.is_empty() {
            break;
        }
        worker.turn().expect("the ring goes on");
    }
    worker.hand_over_events();
}

/// Turns after a cut; each cancelled operation ends within one.
const STOP_TURNS_MAX: usize = 10_000;

/// A merged residence histogram of all workers.
impl Stats {
    /// From when bytes were free to go until the kernel of their sink had them, all workers together.
    pub fn residence(&self) -> Histogram<u64> {
        let mut sum = nanoseconds();
        for worker in &self.workers {
            sum.add(&worker.residence).expect("all have the same bounds");
        }
        sum
    }
}
