//! What is known of each proxy beside the workers: its settings, its rules, its leases and those that ended.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use super::calls::{LeaseEnd, LeaseInfo, ProxyInfo, ProxySpec};
use super::error::ProxyError;
use super::leases::{Lease, LeaseBook, LeaseId};
use super::stats::RuleStats;
use crate::behavior::{RuleSet, nearest};
use crate::clock::Instant;

#[derive(Default)]
pub(super) struct Book {
    pub(super) generation: u64,
    pub(super) next_id: u32,
    pub(super) proxies: BTreeMap<String, Entry>,
    pub(super) ended: VecDeque<LeaseEnd>,
}

pub(super) struct Entry {
    pub(super) id: u32,
    pub(super) spec: ProxySpec,
    pub(super) rules: Arc<RuleSet>,
    pub(super) leases: LeaseBook,
    /// The leases that the workers have, since when, and as they were.
    pub(super) began: BTreeMap<LeaseId, Instant>,
    pub(super) known: BTreeMap<LeaseId, Lease>,
}

impl Book {
    pub(super) fn entry(&mut self, name: &str) -> Result<&mut Entry, ProxyError> {
        if !self.proxies.contains_key(name) {
            let nearest = nearest(name, self.proxies.keys().map(String::as_str)).map(str::to_owned);
            return Err(ProxyError::NotFound { name: name.into(), nearest });
        }
        Ok(self.proxies.get_mut(name).expect("looked up above"))
    }

    pub(super) fn find_lease(&self, id: &str) -> Result<(String, LeaseId), ProxyError> {
        let found = self.proxies.iter().find_map(|(name, entry)| {
            let lease = entry.leases.leases().iter().find(|lease| entry.lease_name(lease.id) == id)?;
            Some((name.clone(), lease.id))
        });
        found.ok_or_else(|| ProxyError::LeaseNotFound(id.into()))
    }
}

impl Entry {
    pub(super) fn info(&self) -> ProxyInfo {
        ProxyInfo {
            spec: ProxySpec { rules: self.leases.base().to_vec(), ..self.spec.clone() },
            generation: self.rules.generation,
            rules: self.rules.rules().iter().map(|rule| rule.rule().clone()).collect(),
            leases: self.leases.leases().iter().filter_map(|lease| self.lease(lease.id)).collect(),
        }
    }

    pub(super) fn lease_name(&self, id: LeaseId) -> String {
        format!("{}-{id}", self.id)
    }

    pub(super) fn lease(&self, id: LeaseId) -> Option<LeaseInfo> {
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
    pub(super) fn is_due(&self, now: Instant) -> bool {
        let in_force = |lease: &Lease| lease.starts_at <= now && now < lease.ends_at;
        let should = self.leases.leases().iter().filter(|lease| in_force(lease)).count();
        let ends = self.leases.leases().iter().any(|lease| lease.ends_at <= now);
        ends || should != self.began.len()
    }

    /// Notes which leases the workers have had since `at`.
    pub(super) fn note_leases(&mut self, asked: Instant, at: Instant) {
        for lease in self.leases.leases().iter().filter(|lease| lease.starts_at <= asked) {
            self.began.entry(lease.id).or_insert(at);
            self.known.insert(lease.id, lease.clone());
        }
    }

    /// The leases that are over since `at`, with what their rules did.
    pub(super) fn take_ended(&mut self, at: Instant, mut dropped: Vec<RuleStats>) -> Vec<LeaseEnd> {
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
