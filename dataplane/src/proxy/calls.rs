//! What the calls of a [`Handle`](super::Handle) take and give.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::leases::Term;
use super::patience::{Patience, PatienceUpdate};
use super::stats::RuleStats;
use crate::behavior::Rule;
use crate::clock::Instant;
use crate::protocol::Protocol;
use crate::units::duration_text;

/// How long a connect to the upstream may take, unless a proxy says otherwise.
pub const CONNECT_TIMEOUT_DEFAULT: Duration = Duration::from_secs(10);
/// How long the addresses of an upstream's name are good for, unless a proxy says otherwise.
pub const RESOLVE_DEFAULT: Duration = Duration::from_secs(30);
/// Bytes that one direction of one connection may hold for a delay, unless a proxy says otherwise.
pub const HELD_BYTES_DEFAULT: usize = 1024 * 1024;
/// Addresses to connect from that one proxy may have.
pub const SOURCE_ADDRESSES_MAX: usize = 64;

/// A proxy to make.
#[derive(Clone, Debug)]
pub struct ProxySpec {
    /// Its name.
    pub name: String,
    /// Where it listens; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Its upstream as it was given.
    pub upstream: String,
    /// The upstream's addresses, if the caller has looked them up: the first that answers is used. While a name has
    /// none, connections fail.
    pub upstream_addresses: Vec<SocketAddr>,
    /// How long the addresses of a name are good for, before it is looked up again; zero: for ever.
    pub resolve: Duration,
    /// What is spoken on it.
    pub protocol: Protocol,
    /// Its rules without leases.
    pub rules: Vec<Rule>,
    /// Whether it listens.
    pub enabled: bool,
    /// How long an upstream connect may take.
    pub connect_timeout: Duration,
    /// How long its connections wait for peers that say nothing.
    pub patience: Patience,
    /// Addresses to connect from, in turn, at most [`SOURCE_ADDRESSES_MAX`]; the system's choice when empty.
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
            resolve: RESOLVE_DEFAULT,
            protocol: Protocol::Tcp,
            rules: Vec::new(),
            enabled: true,
            connect_timeout: CONNECT_TIMEOUT_DEFAULT,
            patience: Patience::default(),
            source_addresses: Vec::new(),
            held_bytes_max: HELD_BYTES_DEFAULT,
        }
    }
}

impl ProxySpec {
    /// What was changed since `before`, in a few words.
    pub(super) fn differences(&self, before: &ProxySpec) -> String {
        let mut words = Vec::new();
        if self.upstream != before.upstream || self.upstream_addresses != before.upstream_addresses {
            words.push(format!("upstream {}", self.upstream));
        }
        if self.protocol != before.protocol {
            words.push(format!("protocol {}", self.protocol));
        }
        if self.connect_timeout != before.connect_timeout {
            words.push(format!("connect timeout {}", duration_text(self.connect_timeout)));
        }
        if self.resolve != before.resolve {
            words.push(format!("resolve {}", duration_text(self.resolve)));
        }
        let (new, old) = (self.patience, before.patience);
        let never = |time: Option<Duration>| time.unwrap_or(Duration::ZERO);
        for (name, new, old) in [
            ("idle timeout", never(new.idle), never(old.idle)),
            ("linger", new.linger, old.linger),
            ("half close", new.half_close, old.half_close),
            ("keepalive", never(new.keepalive), never(old.keepalive)),
        ] {
            if new != old {
                words.push(format!("{name} {}", duration_text(new)));
            }
        }
        if self.enabled != before.enabled {
            words.push(if self.enabled { "switched on" } else { "switched off" }.to_owned());
        }
        if words.is_empty() { "nothing".to_owned() } else { words.join(", ") }
    }
}

/// What to change on a proxy; what is `None` stays.
#[derive(Clone, Debug, Default)]
pub struct ProxyUpdate {
    /// The upstream as it was given, and its addresses; new connections go there.
    pub upstream: Option<(String, Vec<SocketAddr>)>,
    /// Listen, or close the listener and all connections.
    pub enabled: Option<bool>,
    /// What is spoken on it; a live connection follows at its next message.
    pub protocol: Option<Protocol>,
    /// How long an upstream connect may take.
    pub connect_timeout: Option<Duration>,
    /// How long its connections wait for peers that say nothing; open ones follow, but for `linger` and `keepalive`.
    pub patience: PatienceUpdate,
    /// How long the addresses of a name are good for; zero: for ever.
    pub resolve: Option<Duration>,
    /// Change nothing unless this generation changed the proxy last.
    pub expected_generation: Option<u64>,
}

/// A proxy as it is.
#[derive(Clone, Debug)]
pub struct ProxyInfo {
    /// What it was made of; `listen` has the port in use, `rules` the rules without leases.
    pub spec: ProxySpec,
    /// The generation that last changed it or its rules.
    pub generation: u64,
    /// The rules in force, those of leases first; the base rules are in `spec`.
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
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Applied {
    /// The generation that is in force now.
    pub generation: u64,
    /// From the call until the last worker had it.
    pub took: Duration,
    /// How many workers.
    pub workers: usize,
    /// When the last worker had it.
    pub at: Instant,
    /// The proxies that were changed, in the order of the call.
    pub proxies: Vec<AppliedTo>,
}

/// What a change met on one proxy.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AppliedTo {
    /// Its name.
    pub proxy: String,
    /// The generation that had changed it before.
    pub previous_generation: u64,
    /// Connections that were open, and so met it live.
    pub connections: usize,
    /// Leases that were ended by it.
    pub leases_ended: usize,
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
    /// For how long.
    pub term: Term,
}

/// A lease as it is.
#[derive(Clone, Debug)]
pub struct LeaseInfo {
    /// Its name for [`Handle::renew`](super::Handle::renew) and [`Handle::release`](super::Handle::release).
    pub id: String,
    /// The proxy.
    pub proxy: String,
    /// Who asked.
    pub owner: String,
    /// Its rules.
    pub rules: Vec<Rule>,
    /// When it was acquired.
    pub acquired_at: Instant,
    /// When it starts.
    pub starts_at: Instant,
    /// How long it lives from its latest renewal; none: nobody has to renew it.
    pub ttl: Option<Duration>,
    /// When its rules stop acting whatever is renewed.
    pub stops_at: Option<Instant>,
    /// When it ends by itself, unless it is renewed.
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
    /// Why.
    pub reason: EndReason,
    /// What its rules did.
    pub rules: Vec<RuleStats>,
}

/// Why a lease ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndReason {
    /// Its owner gave it back.
    Released,
    /// Nobody renewed it.
    Expired,
    /// The time for which it should act is over.
    ReachedEnd,
    /// Its proxy was reset.
    Reset,
    /// Its proxy was deleted.
    Deleted,
}

impl EndReason {
    /// The word for it.
    pub fn word(self) -> &'static str {
        match self {
            EndReason::Released => "released",
            EndReason::Expired => "expired",
            EndReason::ReachedEnd => "reached its end",
            EndReason::Reset => "reset",
            EndReason::Deleted => "proxy deleted",
        }
    }
}
