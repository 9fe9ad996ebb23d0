//! What is known of each proxy beside the workers: its settings, its rules, its leases and those that ended.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use super::calls::{EndReason, LeaseEnd, LeaseInfo, ProxyInfo, ProxySpec};
use super::error::ProxyError;
use super::leases::{Lease, LeaseBook, LeaseError, LeaseId, lease_name};
use super::stats::RuleStats;
use super::worker::Opening;
use crate::behavior::RuleSet;
use crate::clock::Instant;
use crate::nearest::nearest;

/// Rules of ended leases that are kept for each proxy until its next change of rules; the oldest goes first.
pub const ENDED_RULES_MAX: usize = 256;

#[derive(Default)]
pub(super) struct Book {
    pub(super) generation: u64,
    pub(super) next_id: u32,
    pub(super) proxies: BTreeMap<String, Entry>,
    pub(super) ended: VecDeque<LeaseEnd>,
    /// Proxies that are being made: nobody else may take their names and addresses meanwhile.
    reserved: Vec<(String, Option<SocketAddr>)>,
}

pub(super) struct Entry {
    pub(super) id: u32,
    pub(super) spec: ProxySpec,
    /// The generation that last changed anything about it; that of its rules may be older.
    pub(super) generation: u64,
    pub(super) rules: Arc<RuleSet>,
    pub(super) leases: LeaseBook,
    /// The leases that the workers have, since when.
    began: BTreeMap<LeaseId, Instant>,
    /// The leases that have not been told to have ended, as they were last.
    known: BTreeMap<LeaseId, Lease>,
    /// Why a lease that is gone from `leases` is gone, unless its time was over.
    ending: BTreeMap<LeaseId, EndReason>,
    /// What the rules of ended leases did, since the base rules were changed.
    pub(super) ended_rules: VecDeque<RuleStats>,
}

impl Book {
    /// Keeps a name, and the address if it is going to listen, for a proxy that is being made.
    ///
    /// # Errors
    /// When somebody has the name; when one of our own proxies has the address, which the kernel would let them share.
    pub(super) fn reserve(&mut self, spec: &ProxySpec) -> Result<(), ProxyError> {
        let name = &spec.name;
        if self.proxies.contains_key(name) || self.reserved.iter().any(|(other, _)| other == name) {
            return Err(ProxyError::Exists(name.clone()));
        }
        let listen = spec.enabled.then_some(spec.listen);
        let ours = self.proxies.values().filter(|other| other.spec.enabled).map(|other| other.spec.listen);
        let taken = ours.chain(self.reserved.iter().filter_map(|(_, listen)| *listen));
        if listen.is_some_and(|listen| taken.into_iter().any(|other| clashes(listen, other))) {
            return Err(ProxyError::Listen {
                name: name.clone(),
                listen: spec.listen,
                source: io::ErrorKind::AddrInUse.into(),
            });
        }
        self.reserved.push((name.clone(), listen));
        Ok(())
    }

    /// Gives a name and an address up that were reserved.
    pub(super) fn unreserve(&mut self, name: &str) {
        self.reserved.retain(|(other, _)| other != name);
    }

    pub(super) fn entry(&mut self, name: &str) -> Result<&mut Entry, ProxyError> {
        if !self.proxies.contains_key(name) {
            let nearest = nearest(name, self.proxies.keys().map(String::as_str)).map(str::to_owned);
            return Err(ProxyError::NotFound { name: name.into(), nearest });
        }
        Ok(self.proxies.get_mut(name).expect("looked up above"))
    }

    pub(super) fn find_lease(&self, id: &str) -> Result<(String, LeaseId), ProxyError> {
        let found = self.proxies.iter().find_map(|(name, entry)| {
            let lease = entry.leases.leases().iter().find(|lease| lease_name(entry.id, lease.id) == id)?;
            Some((name.clone(), lease.id))
        });
        found.ok_or_else(|| ProxyError::LeaseNotFound(id.into()))
    }
}

/// Whether two listeners would meet: the same port, on one address or on all addresses.
pub(super) fn clashes(a: SocketAddr, b: SocketAddr) -> bool {
    let is_any = a.ip().is_unspecified() || b.ip().is_unspecified();
    a.port() != 0 && a.port() == b.port() && (a.ip() == b.ip() || is_any && a.is_ipv4() == b.is_ipv4())
}

impl Entry {
    pub(super) fn new(id: u32, spec: ProxySpec, rules: Arc<RuleSet>) -> Entry {
        Entry {
            id,
            generation: rules.generation,
            leases: LeaseBook::new(spec.rules.clone()),
            spec,
            rules,
            began: BTreeMap::new(),
            known: BTreeMap::new(),
            ending: BTreeMap::new(),
            ended_rules: VecDeque::new(),
        }
    }

    /// What a worker must know to open it.
    pub(super) fn opening(&self) -> Opening {
        Opening {
            id: self.id,
            name: self.spec.name.as_str().into(),
            listen: self.spec.enabled.then_some(self.spec.listen),
            upstream: self.spec.upstream_addresses.clone(),
            source_addresses: self.spec.source_addresses.clone(),
            connect_timeout: self.spec.connect_timeout,
            patience: self.spec.patience,
            held_bytes_max: self.spec.held_bytes_max,
            rules: Arc::clone(&self.rules),
            ordinals: Arc::new(AtomicU64::new(0)),
        }
    }

    pub(super) fn cannot_listen(&self, source: io::Error) -> ProxyError {
        ProxyError::Listen { name: self.spec.name.clone(), listen: self.spec.listen, source }
    }

    pub(super) fn info(&self) -> ProxyInfo {
        ProxyInfo {
            spec: ProxySpec { rules: self.leases.base().to_vec(), ..self.spec.clone() },
            generation: self.generation,
            rules: self.rules.rules().iter().map(|rule| rule.rule().clone()).collect(),
            leases: self.leases.leases().iter().map(|lease| self.lease_info(lease)).collect(),
        }
    }

    pub(super) fn check_generation(&self, expected: Option<u64>) -> Result<(), ProxyError> {
        match expected.filter(|expected| *expected != self.generation) {
            Some(expected) => {
                Err(ProxyError::Stale { name: self.spec.name.clone(), expected, found: self.generation })
            }
            None => Ok(()),
        }
    }

    pub(super) fn lease(&self, id: LeaseId) -> Option<LeaseInfo> {
        self.leases.leases().iter().find(|lease| lease.id == id).map(|lease| self.lease_info(lease))
    }

    fn lease_info(&self, lease: &Lease) -> LeaseInfo {
        LeaseInfo {
            id: lease_name(self.id, lease.id),
            proxy: self.spec.name.clone(),
            owner: lease.owner.clone(),
            rules: lease.rules.clone(),
            acquired_at: lease.acquired_at,
            starts_at: lease.starts_at,
            ttl: lease.ttl,
            stops_at: lease.stops_at,
            ends_at: lease.ends_at(),
            began_at: self.began.get(&lease.id).copied(),
        }
    }

    /// Lets a lease live on.
    pub(super) fn renew(
        &mut self,
        id: LeaseId,
        ttl: Option<Duration>,
        now: Instant,
    ) -> Result<LeaseInfo, ProxyError> {
        let gone = ProxyError::LeaseNotFound(lease_name(self.id, id));
        self.leases.renew(id, ttl, now).map_err(|error| match error {
            LeaseError::Gone(_) => ProxyError::LeaseNotFound(lease_name(self.id, id)),
            other => other.into(),
        })?;
        let lease = self.leases.leases().iter().find(|lease| lease.id == id).ok_or(gone)?;
        self.known.insert(id, lease.clone());
        Ok(self.lease_info(lease))
    }

    /// Takes a lease out, before its end is brought to the workers.
    pub(super) fn release(&mut self, id: LeaseId, now: Instant) -> Result<(), ProxyError> {
        self.leases.release(id, now).map_err(|_| ProxyError::LeaseNotFound(lease_name(self.id, id)))?;
        self.ending.insert(id, EndReason::Released);
        Ok(())
    }

    /// Takes all rules and leases out; gives how many leases.
    pub(super) fn clear(&mut self, reason: EndReason) -> usize {
        let leases = self.leases.clear();
        self.ending.extend(leases.iter().map(|lease| (lease.id, reason)));
        leases.len()
    }

    /// Whether a lease has begun or ended since the rules in force were made.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        let ids = |all: &mut dyn Iterator<Item = LeaseId>| all.collect::<BTreeSet<LeaseId>>();
        let leases = self.leases.leases();
        let should = ids(&mut leases.iter().filter(|lease| lease.is_in_force(now)).map(|lease| lease.id));
        let alive = ids(&mut leases.iter().filter(|lease| now < lease.ends_at()).map(|lease| lease.id));
        !should.iter().eq(self.began.keys()) || !alive.iter().eq(self.known.keys())
    }

    /// Notes which leases the workers have had since `at`; gives those that are new.
    pub(super) fn note_leases(&mut self, asked: Instant, at: Instant) -> Vec<LeaseInfo> {
        let mut begun = Vec::new();
        for lease in self.leases.leases() {
            self.known.insert(lease.id, lease.clone());
            if lease.starts_at <= asked && !self.began.contains_key(&lease.id) {
                self.began.insert(lease.id, at);
                begun.push(lease.id);
            }
        }
        begun.into_iter().filter_map(|id| self.lease(id)).collect()
    }

    /// The leases that are over since `at`, with what their rules did.
    pub(super) fn take_ended(&mut self, at: Instant, mut gone: Vec<RuleStats>) -> Vec<LeaseEnd> {
        let alive: Vec<LeaseId> = self.leases.leases().iter().map(|lease| lease.id).collect();
        let over: Vec<(LeaseId, Lease)> = self.known.extract_if(.., |id, _| !alive.contains(id)).collect();
        let mut ends = Vec::new();
        for (id, lease) in over {
            let info = self.lease_info(&lease);
            let reason = self.ending.remove(&id).unwrap_or(match lease.stops_at {
                Some(stops_at) if stops_at <= at => EndReason::ReachedEnd,
                _ => EndReason::Expired,
            });
            let mine = |rule: &mut RuleStats| rule.lease.as_deref() == Some(info.id.as_str());
            let mut rules: Vec<RuleStats> = gone.extract_if(.., mine).collect();
            if rules.is_empty() && !self.began.contains_key(&id) {
                // It never began: its rules did nothing.
                let stats = lease.rules.iter().map(|rule| {
                    let name = format!("lease-{id}/{}", rule.name);
                    RuleStats::new(&name, rule.behavior.name(), Some(info.id.as_str().into()))
                });
                rules = stats.collect();
            }
            self.began.remove(&id);
            self.ended_rules.extend(rules.iter().cloned());
            ends.push(LeaseEnd { lease: info, ended_at: at, reason, rules });
        }
        while self.ended_rules.len() > ENDED_RULES_MAX {
            self.ended_rules.pop_front();
        }
        ends
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listeners_meet_on_one_port_of_one_address_or_of_all() {
        for (a, b, expected) in [
            ("127.0.0.1:80", "127.0.0.1:80", true),
            ("127.0.0.1:80", "127.0.0.2:80", false),
            ("127.0.0.1:80", "127.0.0.1:81", false),
            ("0.0.0.0:80", "127.0.0.2:80", true),
            ("[::1]:80", "0.0.0.0:80", false),
            ("[::]:80", "[::1]:80", true),
            ("127.0.0.1:0", "127.0.0.1:0", false),
        ] {
            let [a, b]: [SocketAddr; 2] = [a, b].map(|text| text.parse().unwrap());
            assert_eq!((clashes(a, b), clashes(b, a)), (expected, expected), "{a} {b}");
        }
    }

    #[test]
    fn what_is_being_made_is_nobody_elses() {
        let address = |port| SocketAddr::from(([127, 0, 0, 1], port));
        let spec = |name: &str, port| ProxySpec::new(name, address(port), address(9));
        let mut book = Book::default();
        book.reserve(&spec("a", 80)).unwrap();
        assert!(matches!(book.reserve(&spec("a", 81)), Err(ProxyError::Exists(_))));
        assert!(matches!(book.reserve(&spec("b", 80)), Err(ProxyError::Listen { .. })));
        book.reserve(&ProxySpec { enabled: false, ..spec("c", 80) }).unwrap();
        book.reserve(&spec("d", 0)).unwrap();
        book.reserve(&spec("e", 0)).unwrap();
        book.unreserve("a");
        book.reserve(&spec("b", 80)).unwrap();
    }
}
