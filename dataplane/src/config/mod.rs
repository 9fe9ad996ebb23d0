//! Text → validated `Config`: after this nothing is checked again. What a proxy is without a word about it stands in
//! [`crate::proxy`], once; the defaults of the file as a whole stand here.
//!
//! `dataplane/README.md` shows a whole file. Every mistake is one line: `file:line:column: what is wrong; what to do`.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use crate::address::Address;
use crate::behavior::{self, Rule, RuleSet};
use crate::protocol::Protocol;
use crate::proxy::{CONNECT_TIMEOUT_DEFAULT, HELD_BYTES_DEFAULT, Patience, RESOLVE_DEFAULT, THREADS_MAX};
use crate::units::{parse_bytes_up_to, parse_count, parse_duration};

pub mod limits;
mod rules;
mod tree;

use tree::{Fields, Mistake, Node, Place};

/// The name of a single proxy that has none.
pub const DEFAULT_NAME: &str = "default";
/// How long SIGTERM waits for connections, unless `drain` says otherwise.
pub const DRAIN_DEFAULT: Duration = Duration::from_secs(10);

/// What a proxy process is to do.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Where the API listens.
    pub api: Option<SocketAddr>,
    /// Where statsd counters go, `host:port`; resolved by the caller.
    pub statsd: Option<String>,
    /// What every draw comes from; `None`: the caller picks one and prints it.
    pub seed: Option<u64>,
    /// Worker threads; `None`: one per core.
    pub threads: Option<usize>,
    /// How long SIGTERM waits for connections to end.
    pub drain: Duration,
    /// The proxies, at least one; names differ and so do the addresses they listen on.
    pub proxies: Vec<ProxyConfig>,
}

/// One proxy.
#[derive(Clone, Debug, PartialEq)]
pub struct ProxyConfig {
    /// Its name in API, events and counters.
    pub name: String,
    /// Where it listens.
    pub listen: SocketAddr,
    /// The backend, `host:port`; resolved by the caller.
    pub upstream: String,
    /// How long the addresses of its name are good for; zero: for ever.
    pub resolve: Duration,
    /// What it understands of the bytes.
    pub protocol: Protocol,
    /// Its base rules: `rules` first, then those of the mix in `behavior`.
    pub rules: Vec<Rule>,
    /// Rules that come and go by themselves.
    pub timeline: Vec<TimelineEntry>,
    /// How long a connect to the upstream may take.
    pub connect_timeout: Duration,
    /// How long it waits for peers that say nothing.
    pub patience: Patience,
    /// Addresses to connect from, in turn; empty: the kernel chooses.
    pub source_addresses: Vec<IpAddr>,
    /// Bytes that one connection may hold back before it stops reading.
    pub held_bytes_max: u64,
}

/// Rules with a start and an end, counted from the start of the proxy.
#[derive(Clone, Debug, PartialEq)]
pub struct TimelineEntry {
    /// When they come into force.
    pub at: Duration,
    /// How long they stay.
    pub lasts: Duration,
    /// The rules.
    pub rules: Vec<Rule>,
}

/// A mistake in a config file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{file}{}: {message}", place(*.line, *.column))]
pub struct ConfigError {
    /// The file, as it was named.
    pub file: String,
    /// Line, from 1; 0 when the file could not be read.
    pub line: u64,
    /// Column, from 1, in characters.
    pub column: u64,
    /// What is wrong and what to do.
    pub message: String,
}

impl ConfigError {
    /// `message` has words of the file in it, which may hold anything; the error stays one line, and commands no terminal.
    fn new(file: &str, place: Place, message: &str) -> ConfigError {
        ConfigError { file: on_one_line(file), line: place.0, column: place.1, message: on_one_line(message) }
    }
}

/// The text with its control characters, line breaks among them, written out: `\n`.
pub fn on_one_line(text: &str) -> String {
    let shown = |c: char| if c.is_control() { c.escape_debug().to_string() } else { c.to_string() };
    text.chars().map(shown).collect()
}

/// What a proxy may be called.
pub const PROXY_NAME: &str = "1 to 64 of a-z, A-Z, 0-9, - and _";

/// Whether a proxy may be called so: a name stands in metrics, paths and command lines.
pub fn is_proxy_name(text: &str) -> bool {
    let fits = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    (1..=64).contains(&text.len()) && text.chars().all(fits)
}

/// Where in the file; nothing for the file as a whole.
fn place(line: u64, column: u64) -> String {
    if line == 0 { String::new() } else { format!(":{line}:{column}") }
}

impl Config {
    /// Reads a file.
    ///
    /// # Errors
    /// The first mistake; also when the file cannot be read.
    pub fn load(path: &Path) -> Result<Config, ConfigError> {
        let file = path.display().to_string();
        let text = std::fs::read_to_string(path).map_err(|error| {
            ConfigError::new(&file, Place(0, 0), &format!("cannot read the file: {error}"))
        })?;
        Config::parse(&text, &file)
    }

    /// Reads the text of a file; `file` is its name for errors.
    ///
    /// # Errors
    /// The first mistake.
    pub fn parse(text: &str, file: &str) -> Result<Config, ConfigError> {
        let root = tree::read(text, file)?;
        config(&root).map_err(|Mistake(place, message)| ConfigError::new(file, place, &message))
    }
}

const DURATION: &str = "a duration up to 24h such as 150ms or 2s";

fn config(root: &Node) -> Result<Config, Mistake> {
    let fields = root.fields("the config", &["api", "statsd", "seed", "threads", "drain", "proxies"])?;
    let proxies = fields.need("proxies", "[{listen: 127.0.0.1:8000, upstream: 127.0.0.1:80}]")?;
    let nodes = proxies.list("proxies")?;
    if nodes.is_empty() {
        return Err(proxies.mistake("`proxies` is empty; give at least one proxy".to_owned()));
    }
    let mut read: Vec<ProxyConfig> = Vec::with_capacity(nodes.len());
    for node in &nodes {
        let proxy = proxy(node, nodes.len() == 1)?;
        if read.iter().any(|other| other.name == proxy.name) {
            return Err(
                node.mistake(format!("two proxies are called `{}`; give each its own name", proxy.name))
            );
        }
        if let Some(other) =
            read.iter().find(|other| other.listen == proxy.listen && proxy.listen.port() != 0)
        {
            let message = format!(
                "proxies `{}` and `{}` both listen on {}; give each its own address",
                other.name, proxy.name, proxy.listen
            );
            return Err(node.mistake(message));
        }
        read.push(proxy);
    }
    Ok(Config {
        api: optional(&fields, "api", |node| address(node, "api"))?,
        statsd: optional(&fields, "statsd", |node| host_port(node, "statsd"))?,
        seed: optional(&fields, "seed", |node| {
            node.read("seed", "a whole number from 0 to 18446744073709551615", parse_count)
        })?,
        threads: optional(&fields, "threads", |node| {
            node.read("threads", "a number of threads from 1 to 1024", |text| {
                let threads = usize::try_from(parse_count(text)?).ok();
                threads.filter(|threads| (1..=THREADS_MAX).contains(threads))
            })
        })?,
        drain: time(&fields, &limits::DRAIN)?.unwrap_or(DRAIN_DEFAULT),
        proxies: read,
    })
}

fn proxy(node: &Node, is_single: bool) -> Result<ProxyConfig, Mistake> {
    let fields = node.fields(
        "a proxy",
        &[
            "name",
            "listen",
            "upstream",
            "resolve",
            "protocol",
            "behavior",
            "options",
            "rules",
            "timeline",
            "connect_timeout",
            "idle_timeout",
            "linger",
            "half_close",
            "keepalive",
            "source_addresses",
            "held_bytes_max",
        ],
    )?;
    let name = match fields.find("name") {
        Some(node) => node.read("name", PROXY_NAME, |text| is_proxy_name(text).then(|| text.to_owned()))?,
        None if is_single => DEFAULT_NAME.to_owned(),
        None => {
            return Err(Mistake(
                fields.place,
                "`name` is missing; with several proxies each needs one".to_owned(),
            ));
        }
    };
    let protocol = match fields.find("protocol") {
        Some(node) => node
            .text("protocol")?
            .parse()
            .map_err(|error: crate::protocol::ProtocolError| node.mistake(error.to_string()))?,
        None => Protocol::Tcp,
    };
    let rules = rules::base(&fields)?;
    check_rules(&rules, protocol, fields.place)?;
    let timeline = match fields.find("timeline") {
        Some(node) => rules::timeline(node)?,
        None => Vec::new(),
    };
    for entry in &timeline {
        check_rules(&entry.rules, protocol, fields.place)?;
    }
    let count = rules.len() + timeline.iter().map(|entry| entry.rules.len()).sum::<usize>();
    if count > behavior::RULES_MAX || timeline.len() > crate::proxy::leases::LEASES_MAX {
        let message = format!(
            "a proxy takes at most {} rules and {} timeline entries; this has {count} and {}",
            behavior::RULES_MAX,
            crate::proxy::leases::LEASES_MAX,
            timeline.len()
        );
        return Err(Mistake(fields.place, message));
    }
    Ok(ProxyConfig {
        name,
        listen: address(fields.need("listen", "127.0.0.1:8000")?, "listen")?,
        upstream: host_port(fields.need("upstream", "127.0.0.1:80")?, "upstream")?,
        resolve: time(&fields, &limits::RESOLVE)?.unwrap_or(RESOLVE_DEFAULT),
        protocol,
        rules,
        timeline,
        connect_timeout: time(&fields, &limits::CONNECT_TIMEOUT)?.unwrap_or(CONNECT_TIMEOUT_DEFAULT),
        patience: patience(&fields)?,
        source_addresses: optional(&fields, "source_addresses", |node| {
            let read = |item: &&Node| {
                item.read("source_addresses", "addresses such as 127.0.0.2", |text| text.parse().ok())
            };
            node.list("source_addresses")?.iter().map(read).collect()
        })?
        .unwrap_or_default(),
        held_bytes_max: optional(&fields, "held_bytes_max", |node| {
            node.read("held_bytes_max", "a number of bytes above 0 such as 1MiB", |text| {
                parse_bytes_up_to(text, behavior::OPTION_BYTES_MAX).ok().filter(|bytes| *bytes > 0)
            })
        })?
        .unwrap_or(HELD_BYTES_DEFAULT as u64),
    })
}

/// A time that is within its bounds.
fn time(fields: &Fields<'_>, limit: &limits::TimeLimit) -> Result<Option<Duration>, Mistake> {
    optional(fields, limit.name, |node| {
        node.read(limit.name, limit.expected, |text| {
            parse_duration(text).ok().filter(|time| limit.takes(*time))
        })
    })
}

fn patience(fields: &Fields<'_>) -> Result<Patience, Mistake> {
    let default = Patience::default();
    let some = |time: Duration| Some(time).filter(|time| !time.is_zero());
    Ok(Patience {
        idle: time(fields, &limits::IDLE_TIMEOUT)?.map_or(default.idle, some),
        linger: time(fields, &limits::LINGER)?.unwrap_or(default.linger),
        half_close: time(fields, &limits::HALF_CLOSE)?.unwrap_or(default.half_close),
        keepalive: time(fields, &limits::KEEPALIVE)?.map_or(default.keepalive, some),
    })
}

fn check_rules(rules: &[Rule], protocol: Protocol, place: Place) -> Result<(), Mistake> {
    RuleSet::compile(rules.to_vec(), protocol, 0, 0)
        .map(|_| ())
        .map_err(|error| Mistake(place, error.to_string()))
}

fn optional<T>(
    fields: &Fields<'_>,
    key: &str,
    read: impl FnOnce(&Node) -> Result<T, Mistake>,
) -> Result<Option<T>, Mistake> {
    fields.find(key).map(read).transpose()
}

fn address(node: &Node, key: &str) -> Result<SocketAddr, Mistake> {
    node.read(key, "an address and a port such as 127.0.0.1:8000, :8000 or [::1]:8000", |text| {
        Address::parse_listen(text).ok()?.literal()
    })
}

fn host_port(node: &Node, key: &str) -> Result<String, Mistake> {
    node.read(key, "a host and a port such as localhost:80, :80 or [::1]:80", |text| {
        Some(Address::parse(text).ok()?.to_string())
    })
}

/// Options of several behaviors, by behavior.
type OptionMaps = BTreeMap<String, BTreeMap<String, String>>;

#[cfg(test)]
mod tests;
