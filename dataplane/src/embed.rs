//! The front door for a Rust test: one proxy before one server, in the test's own process.
//!
//! It puts together what [`crate::proxy`] offers in parts. Whoever needs more than one proxy, leases, or many changes as
//! one generation asks its [`Handle`].

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use crate::behavior::{Behavior, Kind, Rule, mix};
use crate::protocol::Protocol;
use crate::proxy::{
    Dataplane, DataplaneSettings, Drained, Handle, ProxyError, ProxySpec, ProxyStats, RulesChange,
    StartError, Watcher,
};

/// Why a proxy did not start, or refused a behavior. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum EmbedError {
    /// This machine gives no io_uring ring or no thread; the message says what to do.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The proxy cannot be made so, or the rules do not fit its protocol.
    #[error(transparent)]
    Proxy(#[from] ProxyError),
    /// The behavior or one of its options cannot be read.
    #[error(transparent)]
    Behavior(#[from] mix::MixError),
}

/// A running proxy before one upstream. Dropping it stops it at once; [`Proxy::drain`] lets connections finish.
///
/// Its calls return when its threads have applied what they ask, so a test needs no sleep: the next byte meets the new
/// rules. Which unit of traffic a share like `20:error` hits is drawn from the seed, the connection's number and the
/// message's number: the same requests meet the same faults in every run.
pub struct Proxy {
    dataplane: Dataplane,
    name: String,
    address: SocketAddr,
}

impl Proxy {
    /// Listens on a free port of 127.0.0.1 and hands on to `upstream`, with one thread, seed 0 and no rules.
    ///
    /// It raises the soft limit of open files of this process to the hard one (setrlimit(2)).
    ///
    /// # Errors
    /// When this machine gives no io_uring ring (Linux 6.1 or newer is needed) or no thread.
    pub fn start(upstream: SocketAddr, protocol: Protocol) -> Result<Proxy, EmbedError> {
        let listen = SocketAddr::from(([127, 0, 0, 1], 0));
        let spec = ProxySpec { protocol, ..ProxySpec::new("test", listen, upstream) };
        Proxy::start_with(DataplaneSettings { threads: 1, ..DataplaneSettings::default() }, spec)
    }

    /// As [`Proxy::start`], with every setting the caller's: seed, threads, address, timeouts, rules from the start.
    ///
    /// # Errors
    /// Those of [`Proxy::start`], and when `spec` cannot be: its address is taken, or a rule needs another protocol.
    pub fn start_with(settings: DataplaneSettings, spec: ProxySpec) -> Result<Proxy, EmbedError> {
        let dataplane = Dataplane::start(settings)?;
        let spec = dataplane.handle().create(spec)?.spec;
        Ok(Proxy { dataplane, name: spec.name, address: spec.listen })
    }

    /// Where clients connect to.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Puts a behavior, or a mix of them, in the place of the rules there are. Open connections meet it too; when exactly
    /// is in the manual, `dataplane/README.md`, "What a change does to a live connection".
    ///
    /// `behavior` is what `fracas behavior set` takes: `hang`, or percentages such as `20:delay,5:error`. `options` are
    /// (behavior, option, value): `("delay", "time", "50ms")`; one that is left out has its default.
    ///
    /// # Errors
    /// When a name or value is wrong, in one line that says what is right, or the behavior does not fit the protocol.
    pub fn set_behavior(&self, behavior: &str, options: &[(&str, &str, &str)]) -> Result<(), EmbedError> {
        let mut by_behavior: BTreeMap<String, BTreeMap<String, String>> = BTreeMap::new();
        for (behavior, option, value) in options {
            by_behavior.entry((*behavior).into()).or_default().insert((*option).into(), (*value).into());
        }
        self.set_rules(mix::parse(behavior, &by_behavior)?)
    }

    /// Puts rules in the place of those there are: with a match, a scope or a trigger, which a mix has not.
    ///
    /// # Errors
    /// When they do not fit the protocol or each other.
    pub fn set_rules(&self, rules: Vec<Rule>) -> Result<(), EmbedError> {
        let change = RulesChange { proxy: self.name.clone(), rules, expected_generation: None };
        self.handle().apply(vec![change])?;
        Ok(())
    }

    /// Takes all rules off, and leases too.
    ///
    /// # Errors
    /// When the proxy was deleted through its handle.
    pub fn reset_behavior(&self) -> Result<(), EmbedError> {
        self.handle().reset(std::slice::from_ref(&self.name))?;
        Ok(())
    }

    /// How many faults of this behavior were done since the start, by rules that are gone as well. What a client has read
    /// was counted before.
    ///
    /// # Errors
    /// When no behavior has this name, or the proxy was deleted through its handle.
    pub fn injected(&self, behavior: &str) -> Result<u64, EmbedError> {
        let name = match Kind::find(behavior) {
            Some(kind) => kind.name,
            // The parser knows what to say of a name that is none.
            None => Behavior::parse(behavior, &BTreeMap::new()).map_err(mix::MixError::from)?.name(),
        };
        let figures = self.figures()?;
        let rules = figures.rules.iter().chain(&figures.retired);
        Ok(rules.filter(|rule| rule.behavior == name).map(|rule| rule.injected).sum())
    }

    /// Its counters and what each rule has done. Reading them takes nothing from the thread that carries data.
    ///
    /// # Errors
    /// When the proxy was deleted through its handle.
    pub fn figures(&self) -> Result<ProxyStats, EmbedError> {
        Ok(self.handle().proxy_stats(&self.name)?)
    }

    /// Every event from now on: faults that were injected, failures that nobody asked for, changes of rules.
    pub fn watch(&self) -> Watcher {
        self.handle().watch(WATCHED_BATCHES)
    }

    /// Everything else: more proxies on the same threads, leases, updates.
    pub fn handle(&self) -> Handle {
        self.dataplane.handle()
    }

    /// Stops accepting, lets connections on which something is under way finish for `limit`, cuts the rest, and stops.
    pub fn drain(self, limit: Duration) -> Drained {
        self.dataplane.drain(limit)
    }
}

/// Batches of events, one a worker and 20 ms, that may wait for a watcher.
const WATCHED_BATCHES: usize = 1024;
