//! Looks the names of upstreams up again, on threads of its own: a lookup may block for as long as it likes, and
//! neither the data threads nor a call waits for it.
//!
//! ```text
//!   Handle ── watch, forget ──► Schedule (behind a lock) ◄── lookup threads ── found ──► Handle ──► workers
//! ```
//! A lookup that fails leaves the addresses of the one before. There is no time to live to go by: getaddrinfo(3)
//! does not tell it.

mod schedule;

use std::fmt;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::{Arc, Condvar, Mutex, Weak};
use std::time::Duration;

use self::schedule::{Next, Schedule};
use super::book::{Book, Entry};
use super::calls::{ProxySpec, SOURCE_ADDRESSES_MAX};
use super::error::ProxyError;
use super::handle::{Handle, Shared, lock};
use super::loops::{Leg, Legs};
use super::thread::Command;
use crate::clock::Instant;

/// Threads that look names up: so many slow names at once delay no other.
pub const LOOKUP_THREADS: usize = 4;
/// Addresses of one name that are kept; the others are not tried.
pub const UPSTREAM_ADDRESSES_MAX: usize = 64;

type LookUp = dyn Fn(&str) -> io::Result<Vec<SocketAddr>> + Send + Sync;
type Allow = dyn Fn(&[SocketAddr]) -> Result<Vec<SocketAddr>, String> + Send + Sync;

/// How names become addresses, and which of these may be connected to.
#[derive(Clone)]
pub struct Upstreams {
    /// Gives the addresses of `HOST:PORT`. It may block.
    pub look_up: Arc<LookUp>,
    /// Gives those of the addresses that are allowed, or says in a few words why none is. It is asked for each address
    /// that a call gives and for each answer of a lookup.
    pub allow: Arc<Allow>,
}

impl Default for Upstreams {
    /// The system's resolver, and no rule.
    fn default() -> Upstreams {
        Upstreams {
            look_up: Arc::new(|upstream| upstream.to_socket_addrs().map(Iterator::collect)),
            allow: Arc::new(|addresses| Ok(addresses.to_vec())),
        }
    }
}

impl fmt::Debug for Upstreams {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Upstreams")
    }
}

impl Upstreams {
    /// The addresses that may be connected to.
    ///
    /// # Errors
    /// Why there is none.
    fn find(&self, upstream: &str) -> Result<Vec<SocketAddr>, String> {
        let found = (self.look_up)(upstream).map_err(|error| error.to_string())?;
        let mut allowed = (self.allow)(&found)?;
        allowed.truncate(UPSTREAM_ADDRESSES_MAX);
        if allowed.is_empty() { Err("it has no address".to_owned()) } else { Ok(allowed) }
    }
}

/// Whether an upstream is a name, which has to be looked up, and no address.
pub(super) fn is_name(upstream: &str) -> bool {
    upstream.parse::<SocketAddr>().is_err()
        && upstream.rsplit_once(':').is_some_and(|(host, _)| !host.is_empty())
}

impl ProxySpec {
    /// Checks the upstream's addresses, which may be missing only if there is a name to look up, and the number of those
    /// to connect from.
    pub(super) fn check_upstream(&mut self, upstreams: &Upstreams) -> Result<(), ProxyError> {
        if self.source_addresses.len() > SOURCE_ADDRESSES_MAX {
            return Err(ProxyError::TooManySources(self.name.clone()));
        }
        if self.upstream_addresses.is_empty() {
            self.upstream_addresses.extend(self.upstream.parse::<SocketAddr>());
        }
        if !self.upstream_addresses.is_empty() {
            let allowed = (upstreams.allow)(&self.upstream_addresses);
            let name = self.name.clone();
            self.upstream_addresses = allowed.map_err(|why| ProxyError::UpstreamRefused { name, why })?;
        }
        if self.upstream_addresses.is_empty() && !is_name(&self.upstream) {
            return Err(ProxyError::NoUpstream(self.name.clone()));
        }
        Ok(())
    }
}

/// The names that are looked up, and the threads that do it.
#[derive(Default)]
pub(super) struct Resolver {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    schedule: Schedule,
    threads: usize,
    stopped: bool,
}

impl Resolver {
    /// Looks the name of a proxy's upstream up from now on; nothing happens if it is no name.
    pub(super) fn watch(&self, shared: &Arc<Shared>, id: u32, spec: &ProxySpec) {
        let mut state = lock(&self.state);
        state.schedule.forget(id);
        if !is_name(&spec.upstream) {
            return;
        }
        let is_known = !spec.upstream_addresses.is_empty();
        if is_known && spec.resolve.is_zero() {
            return;
        }
        let now = Instant::now();
        state.schedule.add(id, spec.upstream.as_str().into(), spec.resolve, is_known, now);
        if state.threads < LOOKUP_THREADS.min(state.schedule.len()) {
            let shared = Arc::downgrade(shared);
            let thread = std::thread::Builder::new().name("fracas-lookup".into());
            // Without a new thread the others do its work, or the next name starts it.
            if thread.spawn(move || look_up(&shared)).is_ok() {
                state.threads += 1;
            }
        }
        self.changed.notify_all();
    }

    /// Looks a proxy's name up no more.
    pub(super) fn forget(&self, id: u32) {
        lock(&self.state).schedule.forget(id);
    }

    /// Ends the threads, each as soon as its lookup ends: nobody waits for them.
    pub(super) fn stop(&self) {
        lock(&self.state).stopped = true;
        self.changed.notify_all();
    }

    /// Waits until each name has been looked up once, or `limit` is over.
    fn wait_for_first(&self, limit: Duration) {
        let deadline = Instant::now() + limit;
        let mut state = lock(&self.state);
        while state.schedule.is_new() && Instant::now() < deadline && !state.stopped {
            let left = deadline - Instant::now();
            state =
                self.changed.wait_timeout(state, left).map_or_else(|error| error.into_inner().0, |it| it.0);
        }
    }

    /// The next name whose time has come; none when there is no more to do.
    fn next(&self) -> Option<(u32, Arc<str>)> {
        let mut state = lock(&self.state);
        loop {
            if state.stopped {
                return None;
            }
            let now = Instant::now();
            let wait = match state.schedule.next(now) {
                Next::LookUp { id, upstream } => return Some((id, upstream)),
                Next::At(due) => due - now,
                Next::Never => Duration::from_secs(3600),
            };
            state =
                self.changed.wait_timeout(state, wait).map_or_else(|error| error.into_inner().0, |it| it.0);
        }
    }

    fn done(&self, id: u32, upstream: &str, is_found: bool) {
        lock(&self.state).schedule.done(id, upstream, is_found, Instant::now());
        self.changed.notify_all();
    }
}

/// The loop of one lookup thread.
fn look_up(shared: &Weak<Shared>) {
    loop {
        let Some(strong) = shared.upgrade() else { return };
        let Some((id, upstream)) = strong.resolver.next() else { return };
        let upstreams = strong.settings.upstreams.clone();
        drop(strong);
        let found = upstreams.find(&upstream);
        let Some(strong) = shared.upgrade() else { return };
        let handle = Handle(strong);
        let is_found = handle.on_looked_up(id, &upstream, found);
        handle.0.resolver.done(id, &upstream, is_found);
    }
}

impl Handle {
    /// Waits until the name of each upstream has been looked up once, for at most `limit`; gives the proxies whose
    /// upstream has no address yet, whose connections fail until it has one.
    pub fn wait_for_upstreams(&self, limit: Duration) -> Vec<String> {
        self.0.resolver.wait_for_first(limit);
        let book = self.book();
        let lacks = |entry: &&Entry| entry.spec.upstream_addresses.is_empty();
        book.proxies.values().filter(lacks).map(|entry| entry.spec.name.clone()).collect()
    }

    /// The addresses to which the proxies lead whose upstream is a name, by their names.
    pub fn looked_up(&self) -> Vec<(String, Vec<SocketAddr>)> {
        let book = self.book();
        let specs = book.proxies.values().map(|entry| &entry.spec).filter(|spec| is_name(&spec.upstream));
        specs.map(|spec| (spec.name.clone(), spec.upstream_addresses.clone())).collect()
    }

    /// Sends the new connections of a proxy to the addresses that were found, or tells that none was. Addresses that
    /// lead back to the proxy are none. Whether there are any.
    fn on_looked_up(&self, id: u32, upstream: &str, found: Result<Vec<SocketAddr>, String>) -> bool {
        let mut book = self.book();
        let generation = book.generation;
        let found = found.and_then(|addresses| no_way_back(&book, id, addresses));
        let is_found = found.is_ok();
        let is_it = |entry: &&mut Entry| entry.id == id && entry.spec.upstream == upstream;
        // It may have been removed, or sent elsewhere, while the lookup went on.
        let Some(entry) = book.proxies.values_mut().find(is_it) else { return is_found };
        match found {
            Ok(addresses) if are_same(&addresses, &entry.spec.upstream_addresses) => {}
            Ok(addresses) => {
                entry.spec.upstream_addresses = addresses.clone();
                let timeout = entry.spec.connect_timeout;
                // Sent with the book in hand, so that it cannot overtake another change; nobody waits for it.
                self.ask_all(|reply| Command::SetUpstream(id, addresses.clone(), timeout, generation, reply));
            }
            Err(why) => {
                let why: Arc<str> = format!("resolve {upstream}: {why}").into();
                if let Some(worker) = self.0.workers.first() {
                    worker.tell(Command::NotResolved(id, why));
                }
            }
        }
        is_found
    }
}

/// The addresses, unless by one of them a proxy would lead back to itself.
fn no_way_back(book: &Book, id: u32, addresses: Vec<SocketAddr>) -> Result<Vec<SocketAddr>, String> {
    let Some(spec) = book.proxies.values().find(|entry| entry.id == id).map(|entry| &entry.spec) else {
        return Ok(addresses);
    };
    if are_same(&addresses, &spec.upstream_addresses) {
        return Ok(addresses);
    }
    let mut legs = Legs::default();
    for Entry { spec, .. } in book.proxies.values() {
        legs.put(&spec.name, Leg { listen: spec.listen, upstream: spec.upstream_addresses.clone() });
    }
    let leg = Leg { listen: spec.listen, upstream: addresses };
    match legs.way_back(&spec.name, &leg) {
        None => Ok(leg.upstream),
        Some(by) if by.is_empty() => Err("it leads back to the proxy itself".to_owned()),
        Some(by) => Err(format!("it leads back to the proxy itself, by way of {}", by.join(", "))),
    }
}

/// Whether they are the same addresses, in whatever order: a resolver may turn them round.
fn are_same(one: &[SocketAddr], other: &[SocketAddr]) -> bool {
    one.len() == other.len() && one.iter().all(|address| other.contains(address))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_told_from_an_address() {
        for (upstream, is) in [
            ("localhost:80", true),
            ("db.internal:5432", true),
            ("127.0.0.1:80", false),
            ("[::1]:80", false),
            (":80", false),
            ("localhost", false),
        ] {
            assert_eq!(is_name(upstream), is, "{upstream}");
        }
    }

    #[test]
    fn what_is_not_allowed_is_no_address() {
        let found: Vec<SocketAddr> =
            vec!["169.254.169.254:80".parse().unwrap(), "10.0.0.1:80".parse().unwrap()];
        let all = found.clone();
        let look_up: Arc<LookUp> = Arc::new(move |_| Ok(all.clone()));
        let allow: Arc<Allow> = Arc::new(|addresses| {
            let allowed: Vec<SocketAddr> = addresses
                .iter()
                .copied()
                .filter(|address| address.ip().to_string() != "169.254.169.254")
                .collect();
            if allowed.is_empty() { Err("not allowed".to_owned()) } else { Ok(allowed) }
        });
        let upstreams = Upstreams { look_up, allow };
        assert_eq!(upstreams.find("metadata:80"), Ok(vec![found[1]]));
        let mut spec = ProxySpec::new("a", found[1], found[0]);
        let refused = spec.check_upstream(&upstreams).unwrap_err();
        assert_eq!(refused.to_string(), "proxy `a` may not lead there: not allowed");
    }
}
