//! Who is alive: the agents and proxies that joined, what they carry, when they were last heard.
//!
//! A node whose session breaks off keeps its place, and its run, until it has not been heard for `lost_after`:
//! a process that returns in time has lost nothing, because it sends again what was not acknowledged. Another
//! process under its name means that the first one is gone.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use fracas_dataplane::clock::Instant;

use fracas_dataplane::config::is_proxy_name;
use fracas_dataplane::proxy::PROXIES_MAX;

use crate::clock_map::ClockMap;
use crate::labels;

/// Names that the registry keeps, the lost ones included; beyond it the one that was lost first is forgotten.
pub const NODES_MAX: usize = 10_000;
/// Names of proxies that it keeps of all nodes together; those beyond it are left out.
pub const PROXY_NAMES_MAX: usize = 200_000;
/// What a node may say of itself, in bytes: its labels apart, which have the limits of a run's.
const SELF_BYTES_MAX: usize = 2_048;

/// What a node is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Makes load.
    Agent,
    /// Carries proxies.
    Proxy,
}

/// What a node is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NodeState {
    /// Free, and may be given a run.
    Idle,
    /// Carries a run.
    Busy,
    /// Carries a run, and will be given no other.
    Draining,
    /// Carries no run and will be given none.
    Drained,
    /// Not heard for too long.
    Lost,
}

/// Who a node is, by its own word.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeIdentity {
    /// Unique among nodes.
    pub name: String,
    /// Chosen by the process when it starts.
    pub uid: String,
    /// The machine's boot id.
    pub boot_id: String,
    /// Version of fracas.
    pub version: String,
    /// CPUs that it may use.
    pub cores: u32,
    /// Its limit of open files.
    pub nofile_limit: u64,
    /// Release of the kernel.
    pub kernel: String,
    /// What io_uring can do there, one line.
    pub io_uring: String,
    /// Free labels.
    pub labels: BTreeMap<String, String>,
}

/// A node and what is known of it.
#[derive(Clone, Debug)]
pub struct Node {
    /// Who it is.
    pub identity: NodeIdentity,
    /// What it is for.
    pub role: Role,
    /// Address that it dialled from.
    pub peer: String,
    /// Names of its proxies.
    pub proxies: Vec<String>,
    /// Number of its session; `None` while the stream is broken.
    pub session: Option<u64>,
    /// When its session began.
    pub connected_at: Instant,
    /// When it was last heard.
    pub last_heard: Instant,
    /// The run that it carries.
    pub run: Option<String>,
    /// Given no new run.
    pub drained: bool,
    /// Not heard for too long.
    pub lost: bool,
    /// Its clock.
    pub clock: ClockMap,
}

impl Node {
    /// What it is doing.
    pub fn state(&self) -> NodeState {
        match (self.lost, self.run.is_some(), self.drained) {
            (true, ..) => NodeState::Lost,
            (_, true, true) => NodeState::Draining,
            (_, true, false) => NodeState::Busy,
            (_, false, true) => NodeState::Drained,
            (_, false, false) => NodeState::Idle,
        }
    }
}

/// Why a node may not join.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JoinError {
    /// Not a name.
    #[error(
        "`{}` is not a node's name; take 1 to 64 letters, digits, `-`, `_` and inner dots for --name", shown(.0)
    )]
    Name(String),
    /// The name is taken by a live process.
    #[error("another process is connected as `{0}`; choose another --name")]
    NameTaken(String),
    /// It says too much of itself.
    #[error(
        "it says too much of itself: at most {SELF_BYTES_MAX} bytes without control characters, and {}",
        labels::LIMITS
    )]
    TooLong,
    /// Another minor version.
    #[error("version {theirs} does not fit the controller's {ours}; install the same minor version")]
    Version {
        /// The node's.
        theirs: String,
        /// The controller's.
        ours: String,
    },
    /// Too many names.
    #[error("{NODES_MAX} nodes are connected already")]
    TooMany,
}

/// A node that nobody joined as.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no node is called `{}`; `fracas node list` shows the names", shown(.0))]
pub struct UnknownNode(pub String);

/// The beginning of a name that may be none, as it can be shown.
pub fn shown(name: &str) -> String {
    name.chars().take(64).flat_map(char::escape_debug).collect()
}

/// What joining did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Joined {
    /// Number of the new session.
    pub session: u64,
    /// Another process had the name; if it carried a run, this is the run that lost it.
    pub replaced: Option<String>,
    /// The session of this name that it ends.
    pub ended: Option<u64>,
}

/// The nodes, by name.
#[derive(Debug)]
pub struct NodeRegistry {
    version: String,
    boot_id: String,
    lost_after: Duration,
    nodes: BTreeMap<String, Node>,
    last_session: u64,
}

impl NodeRegistry {
    /// Knows nobody. `version` and `boot_id` are the controller's own.
    pub fn new(version: &str, boot_id: &str, lost_after: Duration) -> NodeRegistry {
        NodeRegistry {
            version: version.to_owned(),
            boot_id: boot_id.to_owned(),
            lost_after,
            nodes: BTreeMap::new(),
            last_session: 0,
        }
    }

    /// Begins a session. A process that returns keeps its run, its clock and its drained mark.
    ///
    /// # Errors
    /// When the name is missing or taken, the version does not fit, or too many are known.
    pub fn join(
        &mut self,
        identity: NodeIdentity,
        role: Role,
        peer: String,
        now: Instant,
    ) -> Result<Joined, JoinError> {
        if !is_name(&identity.name) {
            return Err(JoinError::Name(identity.name));
        }
        if !is_short(&identity) {
            return Err(JoinError::TooLong);
        }
        if minor(&identity.version) != minor(&self.version) {
            return Err(JoinError::Version { theirs: identity.version, ours: self.version.clone() });
        }
        let session = self.last_session + 1;
        let same_boot = !identity.boot_id.is_empty() && identity.boot_id == self.boot_id;
        if let Some(known) = self.nodes.get_mut(&identity.name) {
            let returned = known.identity.uid == identity.uid && known.role == role;
            let alive = known.session.is_some() && now.since(known.last_heard) < self.lost_after;
            if alive && !returned {
                return Err(JoinError::NameTaken(identity.name));
            }
            let replaced = if returned { None } else { known.run.take() };
            if !returned {
                (known.clock, known.proxies) = (ClockMap::new(same_boot), Vec::new());
            }
            (known.identity, known.role, known.peer) = (identity, role, peer);
            let ended = known.session.replace(session);
            known.lost = false;
            (known.connected_at, known.last_heard) = (now, now);
            self.last_session = session;
            return Ok(Joined { session, replaced, ended });
        }
        if self.nodes.len() >= NODES_MAX {
            let lost = self.nodes.values().filter(|node| node.lost).min_by_key(|node| node.last_heard);
            let name = lost.map(|node| node.identity.name.clone()).ok_or(JoinError::TooMany)?;
            self.nodes.remove(&name);
        }
        self.last_session = session;
        let node = Node {
            role,
            peer,
            proxies: Vec::new(),
            session: Some(session),
            connected_at: now,
            last_heard: now,
            run: None,
            drained: false,
            lost: false,
            clock: ClockMap::new(same_boot),
            identity,
        };
        self.nodes.insert(node.identity.name.clone(), node);
        Ok(Joined { session, replaced: None, ended: None })
    }

    /// The node said something in `session`; `None` if that session is over.
    pub fn heard(&mut self, name: &str, session: u64, now: Instant) -> Option<&mut Node> {
        let node = self.nodes.get_mut(name).filter(|node| node.session == Some(session))?;
        node.last_heard = now;
        Some(node)
    }

    /// The names of the proxies that a node carries from now on.
    pub fn set_proxies(&mut self, name: &str, mut proxies: Vec<String>) {
        let others = self.nodes.values().filter(|node| node.identity.name != name);
        let room = PROXY_NAMES_MAX.saturating_sub(others.map(|node| node.proxies.len()).sum());
        proxies.retain(|proxy| is_proxy_name(proxy));
        proxies.truncate(room.min(PROXIES_MAX as usize));
        if let Some(node) = self.nodes.get_mut(name) {
            node.proxies = proxies;
        }
    }

    /// The stream of `session` broke off; an older session changes nothing.
    pub fn left(&mut self, name: &str, session: u64) {
        if let Some(node) = self.nodes.get_mut(name).filter(|node| node.session == Some(session)) {
            node.session = None;
        }
    }

    /// Gives up the nodes that were not heard for too long, and returns those that it gave up just now.
    pub fn give_up(&mut self, now: Instant) -> Vec<String> {
        let mut lost = Vec::new();
        for (name, node) in &mut self.nodes {
            if !node.lost && now.since(node.last_heard) >= self.lost_after {
                (node.lost, node.session, node.run) = (true, None, None);
                lost.push(name.clone());
            }
        }
        lost
    }

    /// One node.
    pub fn node(&self, name: &str) -> Option<&Node> {
        self.nodes.get(name)
    }

    /// One node, to change.
    pub fn node_mut(&mut self, name: &str) -> Option<&mut Node> {
        self.nodes.get_mut(name)
    }

    /// All nodes, by name.
    pub fn nodes(&self) -> impl Iterator<Item = &Node> {
        self.nodes.values()
    }

    /// Agents that can take a run now: connected, idle, with a known clock.
    pub fn free_agents(&self, now: Instant) -> Vec<String> {
        let free = |node: &&Node| {
            node.role == Role::Agent
                && node.session.is_some()
                && node.state() == NodeState::Idle
                && node.clock.offset(now).is_some()
        };
        self.nodes.values().filter(free).map(|node| node.identity.name.clone()).collect()
    }

    /// The node that carries a proxy, if it is connected and its clock is known.
    pub fn node_of_proxy(&self, proxy: &str, now: Instant) -> Option<&Node> {
        self.nodes.values().find(|node| {
            node.session.is_some()
                && node.proxies.iter().any(|name| name == proxy)
                && node.clock.offset(now).is_some()
        })
    }

    /// The proxies of all nodes that are connected and whose clocks are known, in one pass.
    pub fn live_proxies(&self, now: Instant) -> BTreeSet<&str> {
        let live = |node: &&Node| {
            node.session.is_some() && !node.proxies.is_empty() && node.clock.offset(now).is_some()
        };
        self.nodes.values().filter(live).flat_map(|node| &node.proxies).map(String::as_str).collect()
    }

    /// Gives a node no new run.
    ///
    /// # Errors
    /// When nobody joined under that name.
    pub fn set_drained(&mut self, name: &str, drained: bool) -> Result<&Node, UnknownNode> {
        let node = self.nodes.get_mut(name).ok_or_else(|| UnknownNode(name.to_owned()))?;
        node.drained = drained;
        Ok(node)
    }
}

/// Whether what a node says of itself may be kept.
fn is_short(identity: &NodeIdentity) -> bool {
    let NodeIdentity { uid, boot_id, version, kernel, io_uring, labels, .. } = identity;
    let bytes: usize = [uid, boot_id, version, kernel, io_uring].iter().map(|text| text.len()).sum();
    let is_line = |text: &&String| !text.contains(char::is_control);
    bytes <= SELF_BYTES_MAX
        && [uid, boot_id, version, kernel, io_uring].iter().all(is_line)
        && labels::check(labels).is_ok()
}

/// Names end up in file names, so nothing in them may lead elsewhere.
fn is_name(text: &str) -> bool {
    let known = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
    (1..=64).contains(&text.len()) && !text.starts_with('.') && text.bytes().all(known)
}

/// `0.1.7` → `0.1`.
fn minor(version: &str) -> Option<&str> {
    let first = version.find('.')?;
    let second = version[first + 1..].find('.')?;
    Some(&version[..first + 1 + second])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock_map::Exchange;

    const LOST_AFTER: Duration = Duration::from_secs(10);

    fn at(seconds: u64) -> Instant {
        Instant::ZERO + Duration::from_secs(100 + seconds)
    }

    fn registry() -> NodeRegistry {
        NodeRegistry::new("0.1.3", "boot", LOST_AFTER)
    }

    fn identity(name: &str, uid: &str) -> NodeIdentity {
        NodeIdentity {
            name: name.into(),
            uid: uid.into(),
            version: "0.1.0".into(),
            ..NodeIdentity::default()
        }
    }

    fn join(registry: &mut NodeRegistry, name: &str, uid: &str, now: Instant) -> Result<Joined, JoinError> {
        registry.join(identity(name, uid), Role::Agent, "peer".into(), now)
    }

    fn know_clock(registry: &mut NodeRegistry, name: &str, now: Instant) {
        let exchange =
            Exchange { controller_sent: now, node_received: now, node_sent: now, controller_received: now };
        assert!(registry.node_mut(name).unwrap().clock.add(exchange));
    }

    #[test]
    fn a_silent_node_is_lost_after_ten_seconds_and_once() {
        let mut registry = registry();
        let session = join(&mut registry, "a", "1", at(0)).unwrap().session;
        registry.heard("a", session, at(5)).unwrap().run = Some("r".into());
        assert!(registry.give_up(at(14)).is_empty());
        assert_eq!(registry.give_up(at(15)), ["a"]);
        assert!(registry.give_up(at(16)).is_empty());
        assert_eq!(registry.node("a").unwrap().state(), NodeState::Lost);
        assert!(registry.heard("a", session, at(17)).is_none(), "its session is over");
        assert!(join(&mut registry, "a", "1", at(18)).is_ok());
        assert_eq!(registry.node("a").unwrap().state(), NodeState::Idle);
    }

    #[test]
    fn a_process_that_returns_in_time_keeps_its_run() {
        let mut registry = registry();
        let first = join(&mut registry, "a", "1", at(0)).unwrap().session;
        registry.node_mut("a").unwrap().run = Some("r".into());
        registry.left("a", first);
        let again = join(&mut registry, "a", "1", at(3)).unwrap();
        assert_eq!(again.replaced, None);
        registry.left("a", first);
        let node = registry.node("a").unwrap();
        assert_eq!((node.session, node.run.as_deref()), (Some(again.session), Some("r")));
    }

    #[test]
    fn another_process_takes_a_name_only_when_the_first_is_gone() {
        let mut registry = registry();
        let first = join(&mut registry, "a", "1", at(0)).unwrap().session;
        registry.node_mut("a").unwrap().run = Some("r".into());
        assert_eq!(join(&mut registry, "a", "2", at(1)), Err(JoinError::NameTaken("a".into())));
        registry.left("a", first);
        assert_eq!(join(&mut registry, "a", "2", at(2)).unwrap().replaced.as_deref(), Some("r"));
        assert_eq!(registry.node("a").unwrap().run, None);
    }

    #[test]
    fn only_the_same_minor_version_joins() {
        let mut registry = registry();
        for (version, fits) in
            [("0.1.0", true), ("0.1.99", true), ("0.2.0", false), ("", false), ("0.11.0", false)]
        {
            let identity = NodeIdentity { version: version.into(), ..identity(version, "1") };
            let identity = NodeIdentity { name: "n".into(), ..identity };
            assert_eq!(registry.join(identity, Role::Agent, String::new(), at(0)).is_ok(), fits, "{version}");
        }
        for name in ["", "../x", "a/b", ".x", "ä", "a b"] {
            assert_eq!(join(&mut registry, name, "1", at(0)), Err(JoinError::Name(name.into())));
        }
    }

    #[test]
    fn an_agent_is_free_when_its_clock_is_known_and_it_is_not_drained() {
        let mut registry = registry();
        join(&mut registry, "a", "1", at(0)).unwrap();
        assert!(registry.free_agents(at(0)).is_empty());
        know_clock(&mut registry, "a", at(0));
        assert_eq!(registry.free_agents(at(0)), ["a"]);
        assert_eq!(registry.set_drained("a", true).unwrap().state(), NodeState::Drained);
        assert!(registry.free_agents(at(0)).is_empty());
        registry.node_mut("a").unwrap().run = Some("r".into());
        assert_eq!(registry.node("a").unwrap().state(), NodeState::Draining);
        assert_eq!(registry.set_drained("a", false).unwrap().state(), NodeState::Busy);
        assert_eq!(registry.set_drained("b", true).unwrap_err(), UnknownNode("b".into()));
    }

    #[test]
    fn a_proxy_is_found_by_the_names_it_carries_and_gets_no_load() {
        let mut registry = registry();
        let session = registry.join(identity("p", "1"), Role::Proxy, String::new(), at(0)).unwrap().session;
        registry.heard("p", session, at(0)).unwrap().proxies = vec!["cache".into()];
        know_clock(&mut registry, "p", at(0));
        assert!(registry.free_agents(at(0)).is_empty());
        assert_eq!(registry.node_of_proxy("cache", at(0)).unwrap().identity.name, "p");
        assert!(registry.node_of_proxy("other", at(0)).is_none());
        registry.left("p", session);
        assert!(registry.node_of_proxy("cache", at(0)).is_none());
    }

    #[test]
    fn what_a_node_says_of_itself_is_kept_within_limits() {
        let mut registry = registry();
        let long = NodeIdentity { kernel: "x".repeat(SELF_BYTES_MAX), ..identity("a", "1") };
        assert_eq!(registry.join(long, Role::Agent, String::new(), at(0)), Err(JoinError::TooLong));
        let coloured = NodeIdentity { io_uring: "\u{1b}[2J".to_owned(), ..identity("a", "1") };
        assert_eq!(registry.join(coloured, Role::Agent, String::new(), at(0)), Err(JoinError::TooLong));
        let labels = (0..65).map(|index| (index.to_string(), String::new())).collect();
        let labelled = NodeIdentity { labels, ..identity("a", "1") };
        assert_eq!(registry.join(labelled, Role::Agent, String::new(), at(0)), Err(JoinError::TooLong));
        for name in ["l", "m", "n", "p", "q"] {
            registry.join(identity(name, "1"), Role::Proxy, String::new(), at(0)).unwrap();
        }
        let many = |count: usize| (0..count).map(|index| index.to_string()).collect::<Vec<_>>();
        let most = PROXIES_MAX as usize;
        for name in ["l", "m", "n"] {
            registry.set_proxies(name, many(most + 5));
            assert_eq!(registry.node(name).unwrap().proxies.len(), most, "as many as a process can have");
        }
        registry.set_proxies("p", many(PROXY_NAMES_MAX - 3 * most - 1));
        registry.set_proxies("q", [many(5), vec!["no name".into(), "x".repeat(65)]].concat());
        assert_eq!(registry.node("q").unwrap().proxies, ["0"], "there is room for one more");
        registry.set_proxies("p", many(1));
        registry.set_proxies("q", [many(5), vec!["no name".into(), "x".repeat(65)]].concat());
        assert_eq!(registry.node("q").unwrap().proxies.len(), 5, "and of names alone");
    }

    #[test]
    fn a_full_registry_forgets_the_node_that_was_lost_first() {
        let mut registry = registry();
        for number in 0..NODES_MAX {
            join(&mut registry, &format!("n{number}"), "1", at(u64::from(number > 0))).unwrap();
        }
        assert_eq!(join(&mut registry, "late", "1", at(2)), Err(JoinError::TooMany));
        assert_eq!(registry.give_up(at(10)), ["n0"]);
        join(&mut registry, "late", "1", at(10)).unwrap();
        assert!(registry.node("n0").is_none() && registry.node("late").is_some());
        assert_eq!(registry.nodes().count(), NODES_MAX);
    }
}
