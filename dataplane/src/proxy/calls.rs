//! What the calls of a [`Handle`](super::Handle) take and give.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::stats::RuleStats;
use crate::behavior::Rule;
use crate::clock::Instant;
use crate::config::{CONNECT_TIMEOUT_DEFAULT, HELD_BYTES_DEFAULT};
use crate::protocol::Protocol;

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
