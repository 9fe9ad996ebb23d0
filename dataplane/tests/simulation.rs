//! The whole proxy worker in virtual time, under every fault of the network and the kernel.
//!
//! A failure prints its seed; `SEED=42 cargo test simulation` runs that one again.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use fracas_dataplane::behavior::{Behavior, Match, Rule, RuleSet, Scope, Share, mix};
use fracas_dataplane::clock::Instant;
use fracas_dataplane::protocol::Protocol;
use fracas_dataplane::proxy::{
    Detail, Event, EventKind, HELD_TIME_MAX, Opening, Patience, ProxySnapshot, Worker, WorkerSettings,
};
use fracas_dataplane::ring::simulated::{
    Actor, Faults, Link, Network, Peer, RingId, Server, SimulatedRing, SimulatedSettings, Simulation, seeds,
};
use fracas_dataplane::ring::{PoolSettings, SocketOptions};
use fracas_dataplane::rng::Rng;

#[path = "simulation/counting.rs"]
mod counting;
#[path = "simulation/endings.rs"]
mod endings;
#[path = "simulation/failures.rs"]
mod failures;
#[path = "simulation/gates.rs"]
mod gates;
#[path = "simulation/teardown.rs"]
mod teardown;
#[path = "simulation/throttles.rs"]
mod throttles;
#[path = "simulation/upstreams.rs"]
mod upstreams;

const PROXY: u32 = 0;

/// Short enough for a world to be empty soon after its peers have gone.
const PATIENCE: Patience = Patience {
    idle: None,
    linger: Duration::from_secs(2),
    half_close: Duration::from_secs(8),
    keepalive: Some(Duration::from_secs(30)),
};

/// The worker, and how often it may have read the clock: once when it began, at each turn and each command.
struct Loop(Worker<SimulatedRing>, u64);

impl Actor for Loop {
    fn turn(&mut self) -> std::io::Result<()> {
        self.1 += 1;
        self.0.turn()
    }
    fn next_due(&mut self) -> Instant {
        self.0.next_due()
    }
}

/// A proxy worker between a test's clients and a test's server.
struct World {
    network: Network,
    rng: Rng,
    simulation: Simulation,
    worker: Rc<RefCell<Loop>>,
    ring: RingId,
    proxy: SocketAddr,
    server: Server,
    protocol: Protocol,
    rules: Arc<RuleSet>,
    events: mpsc::Receiver<Vec<Event>>,
    /// Bytes that one connection may hold for sure.
    held_bytes_max: usize,
}

impl World {
    /// Everything that a kernel may choose is drawn from the seed.
    fn new(seed: u64, faults: Faults, protocol: Protocol, rules: Vec<Rule>) -> World {
        World::opened(seed, faults, protocol, rules, |_| {})
    }

    /// As [`World::new`], with the proxy as `settle` leaves it.
    fn opened(
        seed: u64,
        faults: Faults,
        protocol: Protocol,
        rules: Vec<Rule>,
        settle: impl FnOnce(&mut Opening),
    ) -> World {
        let network = Network::new(seed);
        network.set_faults(faults);
        let mut rng = Rng::stream(seed, &[100]);
        network.set_socket_buffers(1 + rng.below(20_000) as usize, 1 + rng.below(20_000) as usize);
        let delay = rng.duration_up_to(Duration::from_micros(500));
        let bytes_per_second = (rng.below(3) == 0).then(|| 1_000_000 + rng.below(100_000_000));
        network.set_link(Link { delay, bytes_per_second });
        let pool = |rng: &mut Rng, bytes| {
            let buffers = 1 << rng.below(4);
            PoolSettings { buffer_bytes: 1 + rng.below(bytes) as u32, buffers, published: buffers }
        };
        let settings = SimulatedSettings {
            small: pool(&mut rng, 4000),
            large: pool(&mut rng, 16_000),
            cq_entries: 1 + rng.below(20) as u32,
            counts_credit: rng.below(2) == 0,
            ready_per_wait: 1 + rng.below(20) as usize,
        };
        let server = network.serve("127.0.0.1:8080".parse().unwrap());
        let ring = network.ring(&settings);
        let id = ring.id();
        let (sender, events) = mpsc::channel();
        let held_bytes_max = 1 + rng.below(200_000) as usize;
        let settings = WorkerSettings {
            index: 0,
            held_bytes_max,
            options: SocketOptions::default(),
            room: Arc::default(),
        };
        let mut worker = Worker::new(ring, settings, sender);
        let rules = Arc::new(RuleSet::compile(rules, protocol, seed, 1).unwrap());
        let connection_held_bytes_max = 1 + rng.below(100_000) as usize;
        let mut opening = Opening {
            id: PROXY,
            name: "test".into(),
            listen: Some("127.0.0.1:0".parse().unwrap()),
            upstream: vec![server.address()],
            source_addresses: Vec::new(),
            connect_timeout: Duration::from_secs(2),
            patience: PATIENCE,
            held_bytes_max: connection_held_bytes_max,
            rules: Arc::clone(&rules),
            ordinals: Arc::new(AtomicU64::new(0)),
        };
        settle(&mut opening);
        let proxy = worker.open(&opening).unwrap().unwrap();
        let worker = Rc::new(RefCell::new(Loop(worker, 1)));
        let mut simulation = Simulation::new(&network);
        simulation.add(id, Rc::clone(&worker));
        let held_bytes_max = held_bytes_max.min(connection_held_bytes_max);
        World {
            network,
            rng,
            simulation,
            worker,
            ring: id,
            proxy,
            server,
            protocol,
            rules,
            events,
            held_bytes_max,
        }
    }

    fn set_rules(&mut self, rules: Vec<Rule>) {
        let (seed, generation) = (self.network.seed(), self.rules.generation + 1);
        let compiled = RuleSet::compile(rules, self.protocol, seed, generation).unwrap();
        self.rules = Arc::new(compiled.inherit(&self.rules));
        let mut worker = self.worker.borrow_mut();
        worker.0.set_rules(PROXY, &self.rules);
        worker.1 += 1;
        drop(worker);
        // A command comes by a wake, and its turn follows.
        self.network.wake(self.ring);
    }

    fn run_up_to(&mut self, longest: Duration) {
        let until = self.network.now() + self.rng.duration_up_to(longest);
        self.simulation.run_until(until);
    }

    fn snapshot(&self) -> ProxySnapshot {
        self.worker.borrow_mut().0.snapshot().proxies.remove(&PROXY).unwrap()
    }

    /// Everybody has gone: nothing may be left.
    fn assert_empty(&mut self) {
        let seed = self.network.seed();
        self.simulation.run_until(self.network.now() + Duration::from_secs(10));
        let snapshot = self.worker.borrow_mut().0.snapshot();
        let clock_reads = self.network.clock_reads(self.ring);
        assert_eq!(clock_reads, self.worker.borrow().1, "the clock is read once a turn (seed {seed})");
        assert_eq!(snapshot.connections, 0, "connections are left (seed {seed})");
        assert_eq!(snapshot.held_bytes, 0, "held bytes are left (seed {seed})");
        let counters = snapshot.proxies[&PROXY].counters;
        assert_eq!(counters.connections_opened, counters.connections_closed, "seed {seed}");
        assert_eq!(self.network.open_sockets(self.ring), 1, "only the listener is open (seed {seed})");
        self.network.assert_quiescent();
    }

    fn all_events(&mut self) -> Vec<Event> {
        self.worker.borrow_mut().0.hand_over_events();
        self.events.try_iter().flatten().collect()
    }
}

fn one(name: &str, behavior: &str, options: &[(&str, &str)]) -> Rule {
    let options: BTreeMap<String, String> =
        options.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
    Rule::always(name, Behavior::parse(behavior, &options).unwrap())
}

/// One end of a talk: what it says is its number and random bytes.
struct End {
    peer: Peer,
    says: Vec<u8>,
    said: usize,
    heard: Vec<u8>,
    finished: bool,
    /// It speaks only after the other end has finished.
    listens_first: bool,
}

fn speech(seed: u64, side: u64, number: usize) -> Vec<u8> {
    let mut rng = Rng::stream(seed, &[200, side, number as u64]);
    let length = [0, 10, 3000, 60_000][rng.below(4) as usize];
    let mut bytes = (number as u32).to_be_bytes().to_vec();
    bytes.extend((0..rng.below(length + 1)).map(|_| rng.below(256) as u8));
    bytes
}

impl End {
    fn new(peer: Peer, seed: u64, side: u64, number: usize) -> End {
        // Each third talk is one in which the client, or the server, waits for the other's last word.
        let says = speech(seed, side, number);
        End { peer, says, said: 0, heard: Vec::new(), finished: false, listens_first: false }
    }

    fn go_on(&mut self, rng: &mut Rng) {
        self.heard.extend(self.peer.read());
        if rng.below(4) == 0 {
            self.peer.stop_reading()
        } else {
            self.peer.start_reading()
        }
        if self.finished || self.listens_first && !self.peer.state().eof {
            return;
        }
        let count = (self.says.len() - self.said).min(rng.below(6000) as usize);
        self.peer.write(&self.says[self.said..self.said + count]);
        self.said += count;
        if self.said == self.says.len() && rng.below(3) == 0 {
            self.peer.shutdown_write();
            self.finished = true;
        }
    }
}

struct Talks {
    clients: Vec<End>,
    servers: Vec<End>,
}

impl Talks {
    /// `order`: 0 both speak at once, 1 servers listen first, 2 clients listen first.
    fn dial(world: &World, count: usize, order: u64) -> Talks {
        let seed = world.network.seed();
        let dial = |number| {
            let mut end = End::new(world.network.dial(world.proxy), seed, 0, number);
            end.listens_first = order == 2;
            end
        };
        Talks { clients: (0..count).map(dial).collect(), servers: Vec::new() }
    }

    fn go_on(&mut self, world: &mut World, order: u64) {
        while let Some(peer) = world.server.accept() {
            let mut end = End::new(peer, world.network.seed(), 1, self.servers.len());
            end.listens_first = order == 1;
            self.servers.push(end);
        }
        for end in self.clients.iter_mut().chain(&mut self.servers) {
            end.go_on(&mut world.rng);
        }
    }

    fn is_over(&self) -> bool {
        self.servers.len() == self.clients.len()
            && self.clients.iter().chain(&self.servers).all(|end| end.finished && end.peer.state().eof)
    }

    /// Each client heard all of one server's words and was heard by the same.
    fn assert_heard(&mut self, seed: u64) {
        for end in self.clients.iter_mut().chain(&mut self.servers) {
            end.peer.start_reading();
            end.heard.extend(end.peer.read());
            assert!(!end.peer.state().reset, "a reset that nobody sent (seed {seed})");
        }
        let mut partners = std::collections::BTreeSet::new();
        for (number, client) in self.clients.iter().enumerate() {
            let partner = u32::from_be_bytes(client.heard[..4].try_into().unwrap()) as usize;
            assert!(partners.insert(partner), "two clients hear one server (seed {seed})");
            let server = &self.servers[partner];
            assert!(client.heard == server.says, "reply bytes of {number} changed (seed {seed})");
            assert!(server.heard == client.says, "request bytes of {number} changed (seed {seed})");
        }
    }
}

/// Talks to the end under rules that may delay, but neither change nor cut.
fn talk_to_the_end(world: &mut World, mut change: impl FnMut(&mut World, u64)) {
    let seed = world.network.seed();
    let count = 1 + world.rng.below(6) as usize;
    let order = world.rng.below(3);
    let mut talks = Talks::dial(world, count, order);
    let mut step = 0;
    while !talks.is_over() {
        talks.go_on(world, order);
        world.run_up_to(Duration::from_micros(2000));
        change(world, step);
        step += 1;
        assert!(
            step < 20_000,
            "the talk does not end: {:?} {:?} (seed {seed})",
            talks.clients.iter().map(|end| end.peer.state()).collect::<Vec<_>>(),
            talks.servers.iter().map(|end| end.peer.state()).collect::<Vec<_>>()
        );
    }
    talks.assert_heard(seed);
    let counters = world.snapshot().counters;
    let said = |ends: &[End]| ends.iter().map(|end| end.says.len() as u64).sum::<u64>();
    assert_eq!(counters.request_bytes, said(&talks.clients), "seed {seed}");
    assert_eq!(counters.reply_bytes, said(&talks.servers), "seed {seed}");
    assert_eq!((counters.client_resets, counters.upstream_resets), (0, 0), "seed {seed}");
    talks.clients.iter().chain(&talks.servers).for_each(|end| end.peer.close());
    world.assert_empty();
}

fn some_faults(seed: u64) -> Faults {
    Faults::unnoticed([0.0, 0.05, 0.2, 0.4][seed as usize % 4])
}

#[test]
fn simulation_carries_every_byte_and_fin_in_order_under_every_fault() {
    for seed in seeds(150) {
        let mut world = World::new(seed, some_faults(seed), Protocol::Tcp, Vec::new());
        talk_to_the_end(&mut world, |_, _| {});
    }
}

/// Rules that hold bytes back without changing any.
fn slow_rules(rng: &mut Rng) -> Vec<Rule> {
    let delay = |time, side| one("delay", "delay", &[("time", time), ("side", side)]);
    let throttle =
        |rate, per, queue| one("throttle", "throttle", &[("rate", rate), ("per", per), ("queue", queue)]);
    match rng.below(12) {
        0 => vec![delay("3ms", "both")],
        1 => vec![delay("uniform(0ms,8ms)", "request")],
        2 => vec![delay("uniform(0ms,8ms)", "reply")],
        3 => vec![throttle("0", "connection", "1000")],
        4 => vec![throttle("100kB/s", "connection", "256KiB")],
        5 => vec![throttle("1MB/s", "proxy", "10")],
        6 => vec![delay("2ms", "both"), throttle("2MB/s", "connection", "5000")],
        7 => vec![delay("1s", "both")],
        8 => vec![one("slice", "slice", &[("size", "50"), ("variation", "49")])],
        9 => vec![one("slice", "slice", &[("size", "700"), ("gap", "1ms"), ("side", "reply")])],
        10 => vec![throttle("1MB/s", "connection", "5000"), one("slice", "slice", &[("gap", "10us")])],
        _ => Vec::new(),
    }
}

#[test]
fn simulation_of_live_changes_leaves_the_bytes_unchanged() {
    for seed in seeds(150) {
        let mut world = World::new(seed, some_faults(seed), Protocol::Tcp, Vec::new());
        talk_to_the_end(&mut world, |world, step| match step {
            0..300 if world.rng.below(10) == 0 => {
                let rules = slow_rules(&mut world.rng);
                world.set_rules(rules);
            }
            300 => world.set_rules(Vec::new()),
            _ => {}
        });
    }
}

#[test]
fn simulation_of_a_reset_reaches_the_other_side_as_a_reset() {
    // Seed 363: the receive tells of the end before the send tells of the RST.
    for seed in seeds(400) {
        let mut world = World::new(seed, some_faults(seed), Protocol::Tcp, Vec::new());
        let client = world.network.dial(world.proxy);
        client.write(b"hello");
        let limit = world.network.now() + Duration::from_secs(60);
        let mut server = None;
        let mut greeted = |world: &World| {
            server = server.take().or_else(|| world.server.accept());
            server.as_ref().is_some_and(|server| server.received_bytes() == 5)
        };
        while !greeted(&world) {
            world.run_up_to(Duration::from_millis(1));
            assert!(world.network.now() < limit, "seed {seed}");
        }
        let server = server.unwrap();
        // Bytes may be under way in both directions.
        let (there, back) = (world.rng.below(30_000) as usize, world.rng.below(30_000) as usize);
        client.write(&vec![1; there]);
        server.write(&vec![2; back]);
        world.run_up_to(Duration::from_millis(2));
        let (gone, left) = if world.rng.below(2) == 0 { (client, server) } else { (server, client) };
        gone.reset();
        world.simulation.run_until(world.network.now() + Duration::from_secs(10));
        assert!(left.state().reset, "the other side saw {:?} (seed {seed})", left.state());
        let counters = world.snapshot().counters;
        assert_eq!(counters.client_resets + counters.upstream_resets, 1, "seed {seed}");
        left.close();
        world.assert_empty();
    }
}

/// Rules that end connections or lose bytes.
fn cutting_rules(rng: &mut Rng) -> Vec<Rule> {
    let mix = |text: &str| mix::parse(text, &BTreeMap::new()).unwrap();
    let reset = |after: &str, side: &str| vec![one("reset", "reset", &[("after", after), ("side", side)])];
    match rng.below(17) {
        0 => mix("blackout"),
        1 => mix("30:blackout,30:hang"),
        2 => mix("hang"),
        3 => mix("abort"),
        4 => reset("0", "both"),
        5 => reset("3ms", "downstream"),
        6 => reset("2KiB", "upstream"),
        7 => reset("100B", "both"),
        8 => [reset("5KiB", "both"), vec![one("throttle", "throttle", &[("rate", "1MB/s")])]].concat(),
        9 => vec![one("delay", "delay", &[("time", "5ms"), ("side", "both")]), one("hang", "hang", &[])],
        10..12 => slow_rules(rng),
        12 => vec![one("limit", "limit", &[("bytes", "3KiB"), ("side", "reply")])],
        13 => vec![one("limit", "limit", &[("bytes", "500"), ("then", "rst")]), one("slice", "slice", &[])],
        14 => vec![
            one("limit", "limit", &[("bytes", "0"), ("side", "request")]),
            one("delay", "delay", &[("time", "4ms")]),
        ],
        _ => Vec::new(),
    }
}

/// Talks that may be cut at any moment by rules, by peers, by the upstream and by the network.
fn cut_talks(seed: u64) -> (Vec<Event>, ProxySnapshot) {
    let faults = Faults {
        connect_fail: 0.1,
        connect_emfile: 0.05,
        ..Faults::unnoticed([0.0, 0.05, 0.3][seed as usize % 3])
    };
    let mut world = World::new(seed, faults, Protocol::Tcp, Vec::new());
    let rules = cutting_rules(&mut world.rng);
    world.set_rules(rules);
    let mut talks = Talks::dial(&world, 8, 0);
    for step in 0..60 {
        talks.go_on_unless_gone(&mut world);
        world.run_up_to(Duration::from_millis(1));
        if world.rng.below(8) == 0 {
            let rules = cutting_rules(&mut world.rng);
            world.set_rules(rules);
        }
        if world.rng.below(10) == 0 {
            let Talks { clients, servers } = &talks;
            let ends: Vec<&End> = clients.iter().chain(servers).collect();
            let end = ends[world.rng.below(ends.len() as u64) as usize];
            if world.rng.below(2) == 0 { end.peer.reset() } else { end.peer.close() }
        }
        if step == 30 && seed.is_multiple_of(5) {
            world.network.make_unreachable(world.server.address().ip());
        }
    }
    for end in talks.clients.iter_mut().chain(&mut talks.servers) {
        end.peer.start_reading();
        end.heard.extend(end.peer.read());
    }
    let prefix = |heard: &[u8], side| {
        let Some(number) = heard.get(..4) else { return true };
        let number = u32::from_be_bytes(number.try_into().unwrap()) as usize;
        speech(seed, side, number).starts_with(heard)
    };
    assert!(talks.clients.iter().all(|end| prefix(&end.heard, 1)), "seed {seed}");
    assert!(talks.servers.iter().all(|end| prefix(&end.heard, 0)), "seed {seed}");
    world.set_rules(Vec::new());
    talks.clients.iter().chain(&talks.servers).for_each(|end| end.peer.close());
    // Connects that were still waiting for an answer get theirs.
    world.simulation.run_until(world.network.now() + Duration::from_secs(10));
    while let Some(peer) = world.server.accept() {
        peer.close();
    }
    world.assert_empty();
    (world.all_events(), world.snapshot())
}

/// Each fault that was injected and each failure that nobody asked for is one event of its own kind.
fn assert_told_apart(seed: u64, events: &[Event], snapshot: &ProxySnapshot) {
    let told = |kind| events.iter().filter(|event| event.kind == kind).count() as u64;
    let injected: u64 =
        snapshot.rules.iter().chain(snapshot.retired.values()).map(|rule| rule.injected).sum();
    assert_eq!(told(EventKind::Injected), injected, "seed {seed}");
    let counters = snapshot.counters;
    let natural = counters.connect_failures
        + counters.connect_timeouts
        + counters.client_resets
        + counters.upstream_resets
        + counters.protocol_errors;
    assert_eq!(told(EventKind::NaturalFailure), natural, "seed {seed}");
    for event in events {
        let by_a_rule = event.kind == EventKind::Injected;
        assert_eq!(event.rule.is_some(), by_a_rule, "{event:?} (seed {seed})");
        assert!(event.kind == EventKind::LimitReached || event.connection > 0, "{event:?} (seed {seed})");
        assert!(event.generation > 0, "{event:?} (seed {seed})");
    }
    // A limit is told once for each connection.
    let mut limits: Vec<_> = events
        .iter()
        .filter(|event| event.kind == EventKind::LimitReached && event.connection > 0)
        .map(|event| (event.connection, event.detail.to_string()))
        .collect();
    let count = limits.len();
    limits.sort_unstable();
    limits.dedup();
    assert_eq!(limits.len(), count, "seed {seed}");
}

impl Talks {
    fn go_on_unless_gone(&mut self, world: &mut World) {
        while let Some(peer) = world.server.accept() {
            self.servers.push(End::new(peer, world.network.seed(), 1, self.servers.len()));
        }
        for end in self.clients.iter_mut().chain(&mut self.servers) {
            if end.peer.is_open() {
                end.go_on(&mut world.rng);
            }
        }
    }
}

#[test]
fn simulation_of_cuts_leaks_nothing_and_never_reorders() {
    let mut injected = BTreeMap::<&str, u64>::new();
    for seed in seeds(300) {
        let (events, snapshot) = cut_talks(seed);
        assert_told_apart(seed, &events, &snapshot);
        snapshot.rules.iter().for_each(|rule| *injected.entry(rule.behavior).or_default() += rule.injected);
        snapshot.retired.iter().for_each(|(name, rule)| *injected.entry(name).or_default() += rule.injected);
    }
    if seeds(300).count() == 300 {
        for behavior in ["blackout", "hang", "abort", "reset", "delay", "throttle"] {
            assert!(injected.get(behavior).is_some_and(|count| *count > 20), "{behavior}: {injected:?}");
        }
    }
}

#[test]
fn simulation_with_the_same_seed_tells_the_same_events() {
    let told = |seed| {
        let (events, snapshot) = cut_talks(seed);
        (events, snapshot.counters)
    };
    let mut any = 0;
    for seed in seeds(10) {
        let first = told(seed);
        any += first.0.len();
        assert!(first == told(seed), "seed {seed} is not repeated");
    }
    assert!(any > 0 || seeds(10).count() == 1);
}

/// A world without faults, with room for what a test writes.
fn plain_world(rules: Vec<Rule>) -> World {
    plain_world_of(rules, |_| {})
}

fn plain_world_of(rules: Vec<Rule>, settle: impl FnOnce(&mut Opening)) -> World {
    let world = World::opened(1, Faults::NONE, Protocol::Tcp, rules, settle);
    world.network.set_socket_buffers(4000, 4000);
    world.network.set_link(Link::default());
    world
}

impl World {
    fn run(&mut self, time: Duration) {
        self.simulation.run_until(self.network.now() + time);
    }

    /// The server's end of the next connection, which faults may keep waiting.
    fn next_served(&mut self) -> Peer {
        for _ in 0..100 {
            if let Some(server) = self.server.accept() {
                return server;
            }
            self.run(Duration::from_millis(100));
        }
        panic!("it never connects (seed {})", self.network.seed());
    }

    /// A connected client and its server.
    fn pair(&mut self) -> (Peer, Peer) {
        let client = self.network.dial(self.proxy);
        self.run(Duration::from_millis(10));
        (client, self.server.accept().expect("it has connected"))
    }
}

#[test]
fn simulation_of_a_hang_that_comes_to_a_blocked_connection_reads_on_and_leaves_with_its_client() {
    let mut world = plain_world(vec![one("delay", "delay", &[("time", "60s"), ("side", "both")])]);
    let (client, server) = world.pair();
    client.write(&[1; 500_000]);
    server.write(&[2; 500_000]);
    world.run(Duration::from_secs(1));
    assert!(client.state().unsent_bytes > 0, "reading has stopped at the limit");
    world.set_rules(vec![one("hang", "hang", &[])]);
    world.run(Duration::from_secs(1));
    assert_eq!(client.state().unsent_bytes, 0, "a hang reads and discards");
    server.close();
    world.run(Duration::from_secs(1));
    assert!(!client.state().eof && !client.state().reset, "a hang outlives its upstream");
    client.reset();
    world.run(Duration::from_secs(1));
    assert_eq!((client.received_bytes(), server.received_bytes()), (0, 0));
    world.assert_empty();
}

#[test]
fn simulation_of_an_upstream_that_dies_lets_a_client_that_only_writes_learn_of_it() {
    let mut world = plain_world(Vec::new());
    let (client, server) = world.pair();
    // Neither reads, so that both directions are full.
    client.stop_reading();
    server.stop_reading();
    client.write(&[1; 2_000_000]);
    server.write(&[2; 2_000_000]);
    world.run(Duration::from_secs(1));
    assert!(client.state().unsent_bytes > 0);
    server.reset();
    world.run(Duration::from_secs(1));
    assert_eq!(client.state().unsent_bytes, 0, "it would never come to read");
    client.start_reading();
    world.run(Duration::from_secs(1));
    assert!(client.state().reset);
    world.assert_empty();
}

#[test]
fn simulation_of_a_reply_that_was_complete_survives_the_end_of_its_server() {
    for seed in seeds(50) {
        let mut world = World::new(seed, some_faults(seed), Protocol::Tcp, Vec::new());
        world.set_rules(vec![one("delay", "delay", &[("time", "1s"), ("side", "reply")])]);
        let client = world.network.dial(world.proxy);
        let server = world.next_served();
        // Beyond the limit the server would not be read to its end.
        let said = vec![7; 1 + world.rng.below(world.held_bytes_max.min(1000) as u64) as usize];
        server.write(&said);
        server.shutdown_write();
        world.run(Duration::from_millis(500));
        // The server answered and left; the client goes on writing, which is answered by a RST.
        server.close();
        let counters = world.snapshot().counters;
        assert_eq!(counters.reply_bytes, said.len() as u64, "the proxy has all of it (seed {seed})");
        for _ in 0..5 {
            client.write(&[1; 300]);
            world.run(Duration::from_millis(20));
        }
        world.run(Duration::from_secs(3));
        assert!(client.read() == said, "seed {seed}");
        assert!(client.state().eof || client.state().reset, "seed {seed}");
        client.close();
        world.assert_empty();
    }
}

#[test]
fn simulation_of_readers_that_stopped_leaves_buffers_for_the_others() {
    for seed in seeds(50) {
        let mut world = World::new(seed, some_faults(seed), Protocol::Tcp, Vec::new());
        let mut stuck = Vec::new();
        for _ in 0..12 {
            let client = world.network.dial(world.proxy);
            client.stop_reading();
            let server = world.next_served();
            server.stop_reading();
            server.write(&vec![1; 50_000]);
            client.write(&vec![2; 50_000]);
            stuck.push((client, server));
        }
        world.run(Duration::from_secs(1));
        let client = world.network.dial(world.proxy);
        let server = world.next_served();
        for _ in 0..20 {
            client.write(&[3; 1000]);
            world.run(Duration::from_secs(1));
            assert_eq!(server.read().len(), 1000, "seed {seed}");
            server.write(&[4; 1000]);
            world.run(Duration::from_secs(1));
            assert_eq!(client.read().len(), 1000, "seed {seed}");
        }
        for (client, server) in stuck.iter().chain([&(client, server)]) {
            client.close();
            server.close();
        }
        world.assert_empty();
    }
}

#[test]
fn simulation_of_a_proxy_that_is_shut_and_opened_again_goes_on_listening() {
    for seed in seeds(50) {
        let mut world = World::new(seed, some_faults(seed), Protocol::Tcp, Vec::new());
        let mut clients: Vec<Peer> = Vec::new();
        for _ in 0..5 {
            clients.push(world.network.dial(world.proxy));
            world.run_up_to(Duration::from_millis(3));
            let cut = world.rng.below(2) == 0;
            let address = world.proxy;
            let mut worker = world.worker.borrow_mut();
            worker.0.shut(PROXY, cut);
            worker.0.listen(PROXY, address).unwrap();
            drop(worker);
            world.network.wake(world.ring);
            world.run_up_to(Duration::from_millis(3));
        }
        // Who was in the backlog of a listener that was shut has been reset; the last listener serves.
        world.run(Duration::from_secs(2));
        clients.iter().filter(|client| client.is_open()).for_each(Peer::close);
        world.run(Duration::from_secs(2));
        while let Some(server) = world.server.accept() {
            server.close();
        }
        let client = world.network.dial(world.proxy);
        client.write(b"still here?");
        let server = world.next_served();
        world.run(Duration::from_secs(2));
        assert_eq!(server.read(), b"still here?", "seed {seed}");
        client.close();
        server.close();
        world.assert_empty();
    }
}

#[test]
fn simulation_of_a_reset_after_bytes_counts_them_under_a_throttle_too() {
    for seed in seeds(50) {
        let rules = vec![
            one("reset", "reset", &[("after", "5000B")]),
            one("throttle", "throttle", &[("rate", "20kB/s")]),
        ];
        let mut world = World::new(seed, some_faults(seed), Protocol::Tcp, rules);
        let client = world.network.dial(world.proxy);
        let server = world.next_served();
        client.write(&[1; 20_000]);
        world.run(Duration::from_secs(30));
        assert!(client.state().reset && server.state().reset, "seed {seed}");
        assert!(server.received_bytes() <= 5000, "{} bytes passed (seed {seed})", server.received_bytes());
        world.assert_empty();
    }
}

#[test]
fn simulation_of_a_client_that_breaks_off_after_its_fin_counts_it() {
    let mut world = plain_world(Vec::new());
    let (client, server) = world.pair();
    client.stop_reading();
    client.write(b"request");
    client.shutdown_write();
    world.run(Duration::from_secs(1));
    server.write(&[2; 100_000]);
    world.run(Duration::from_secs(1));
    assert!(server.state().eof && client.state().unread_bytes > 0);
    assert_eq!(world.snapshot().counters.client_resets, 0, "a FIN breaks nothing off");
    client.reset();
    world.run(Duration::from_secs(1));
    assert_eq!(world.snapshot().counters.client_resets, 1);
}

/// A world for HTTP without faults, in which everything fits.
fn plain_http_world(rules: Vec<Rule>) -> World {
    let world = World::new(1, Faults::NONE, Protocol::Http, rules);
    world.network.set_socket_buffers(4000, 4000);
    world.network.set_link(Link::default());
    world
}

#[test]
fn simulation_of_a_share_tells_what_met_the_rule_and_what_it_chose() {
    let matcher = Match { paths: vec!["/x".parse().unwrap()], ..Match::default() };
    let rule =
        Rule { share: Share::from_percent(30.0).unwrap(), matcher, ..one("e", "error", &[("codes", "503")]) };
    let mut world = plain_http_world(vec![rule]);
    let (mut refused, mut clients) = (0, Vec::new());
    for number in 0..200_u32 {
        let client = world.network.dial(world.proxy);
        let path = if number % 2 == 0 { "/x" } else { "/y" };
        client.write(format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes());
        world.run(Duration::from_millis(20));
        refused += u64::from(client.read().starts_with(b"HTTP/1.1 503"));
        clients.push(client);
    }
    let snapshot = world.snapshot();
    let stats = &snapshot.rules[0];
    assert_eq!((stats.matched, stats.acted, stats.injected), (100, refused, refused));
    // σ = 4.6; within 5 σ.
    assert!((8..=52).contains(&refused), "{refused}");
    let told = world.all_events();
    assert_eq!(told.len() as u64, refused);
    for event in told {
        assert_eq!((event.kind, event.exchange), (EventKind::Injected, 1));
        assert_eq!(event.connection % 2, 1, "connections count from 1, so that those to /x are odd");
        assert_eq!(event.detail.to_string(), "replied 503");
    }
    // The same rule goes on counting beside another one; a changed one begins anew.
    let same = world.rules.rules()[0].rule().clone();
    world.set_rules(vec![one("d", "delay", &[]), same.clone()]);
    assert_eq!(world.snapshot().rules[1].matched, 100);
    world.set_rules(vec![Rule { share: Share::ALL, ..same }]);
    let snapshot = world.snapshot();
    assert_eq!((snapshot.rules[0].matched, snapshot.rules[0].injected), (0, 0));
    assert_eq!(snapshot.retired["error"].injected, refused, "nothing that was injected is forgotten");
    clients.iter().for_each(Peer::close);
    world.run(Duration::from_secs(1));
    while let Some(server) = world.server.accept() {
        server.close();
    }
    world.assert_empty();
}

#[test]
fn simulation_of_a_delay_on_both_sides_counts_the_exchange_once_and_tells_each_hold_with_its_number() {
    let mut world = plain_http_world(vec![one("d", "delay", &[("time", "5ms"), ("side", "both")])]);
    let client = world.network.dial(world.proxy);
    for _ in 0..3 {
        client.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        world.run(Duration::from_millis(50));
        let server = world.server.accept();
        if let Some(server) = server {
            server.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n".repeat(3).as_slice());
            world.run(Duration::from_millis(50));
            server.close();
        }
    }
    world.run(Duration::from_secs(1));
    let snapshot = world.snapshot();
    let stats = &snapshot.rules[0];
    assert_eq!(stats.matched, stats.acted);
    assert_eq!(stats.asked.as_ref().unwrap().len(), stats.injected);
    assert!(stats.injected > stats.acted, "{} {}", stats.injected, stats.acted);
    let asked = stats.asked.as_ref().unwrap().quantile(1, 2);
    assert!((5_000_000..5_010_000).contains(&asked), "{asked}");
    let events = world.all_events();
    let numbers: Vec<u64> =
        events.iter().filter(|event| event.kind == EventKind::Injected).map(|event| event.exchange).collect();
    assert!(numbers.starts_with(&[1, 1]), "{numbers:?}");
    client.close();
    world.assert_empty();
}

#[test]
fn simulation_of_an_upstream_that_is_not_there_tells_a_natural_failure_for_each_connection() {
    let mut world = plain_world(Vec::new());
    world.network.set_faults(Faults { connect_fail: 1.0, ..Faults::NONE });
    let clients: Vec<Peer> = (0..3).map(|_| world.network.dial(world.proxy)).collect();
    world.run(Duration::from_secs(1));
    let events = world.all_events();
    let told: Vec<_> = events.iter().map(|event| (event.kind, event.connection)).collect();
    let natural = EventKind::NaturalFailure;
    assert_eq!(told, [(natural, 1), (natural, 2), (natural, 3)]);
    assert!(events[0].detail.to_string().starts_with("connect: "), "{}", events[0].detail);
    clients.iter().for_each(Peer::close);
    world.assert_empty();
}

#[test]
fn simulation_of_a_client_that_gives_up_on_a_hang_is_no_natural_failure() {
    let mut world = plain_world(vec![one("hang", "hang", &[])]);
    let (client, server) = (world.network.dial(world.proxy), world.server.address());
    client.write(b"is anybody there?");
    world.run(Duration::from_secs(1));
    client.reset();
    world.run(Duration::from_secs(1));
    let events = world.all_events();
    assert_eq!(events.iter().map(|event| event.kind).collect::<Vec<_>>(), [EventKind::Injected], "{server}");
    assert_eq!(events[0].detail, Detail::Words("hung"));
    assert_eq!(world.snapshot().counters.client_resets, 0);
    world.assert_empty();
}

#[test]
fn simulation_of_a_limit_is_counted_each_time_and_told_once() {
    let mut world = plain_world(vec![one("delay", "delay", &[("time", "60s")])]);
    let (client, server) = world.pair();
    client.write(&[1; 500_000]);
    world.run(Duration::from_secs(1));
    let events = world.all_events();
    let limits: Vec<String> = events
        .iter()
        .filter(|event| event.kind == EventKind::LimitReached)
        .map(|event| event.detail.to_string())
        .collect();
    let counters = world.snapshot().counters;
    assert!(counters.held_limit_reached + counters.worker_held_limit_reached > 0);
    assert!(limits.iter().any(|limit| limit.ends_with("held_limit_reached")), "{limits:?}");
    assert!(world.snapshot().held_bytes > 0, "they wait in this proxy's queue");
    client.close();
    server.close();
    world.set_rules(Vec::new());
    world.run(Duration::from_secs(100));
    world.assert_empty();
    assert_eq!(world.snapshot().held_bytes, 0);
}

#[test]
fn simulation_of_a_lack_of_descriptors_counts_each_pause_and_tells_the_first() {
    let mut world = plain_world(Vec::new());
    world.network.set_faults(Faults { accept_emfile: 1.0, ..Faults::NONE });
    let client = world.network.dial(world.proxy);
    world.run(Duration::from_secs(1));
    assert!(world.snapshot().counters.accept_paused > 5);
    let events = world.all_events();
    let told: Vec<_> = events.iter().map(|event| (event.kind, event.detail.to_string())).collect();
    assert_eq!(told, [(EventKind::LimitReached, "accept_paused: no descriptor left".to_owned())]);
    world.network.set_faults(Faults::NONE);
    world.run(Duration::from_secs(1));
    assert_eq!(world.snapshot().counters.connections_opened, 1);
    world.network.set_faults(Faults { accept_emfile: 1.0, ..Faults::NONE });
    let second = world.network.dial(world.proxy);
    world.run(Duration::from_secs(1));
    assert_eq!(world.all_events().len(), 1, "after one was accepted it is news again");
    world.network.set_faults(Faults::NONE);
    world.run(Duration::from_secs(1));
    client.close();
    second.close();
    world.run(Duration::from_secs(1));
    while let Some(server) = world.server.accept() {
        server.close();
    }
    world.assert_empty();
}

#[test]
fn simulation_of_a_worker_tells_its_turns_and_the_generation_that_it_applies() {
    let mut world = plain_world(Vec::new());
    let before = world.worker.borrow_mut().0.snapshot();
    assert_eq!(before.generation, 1);
    let (client, server) = world.pair();
    world.set_rules(vec![one("delay", "delay", &[])]);
    let after = world.worker.borrow_mut().0.snapshot();
    assert!(after.turns > before.turns);
    assert_eq!(after.generation, 2);
    client.close();
    server.close();
    world.assert_empty();
}

#[test]
fn simulation_of_a_change_leaves_what_is_held_with_the_rule_that_holds_it() {
    let delay = |name| one(name, "delay", &[("time", "100ms")]);
    let mut world = plain_world(vec![delay("lease-1/going"), delay("staying")]);
    let (client, server) = world.pair();
    client.write(b"held");
    world.run(Duration::from_millis(20));
    world.set_rules(vec![delay("new"), delay("staying")]);
    world.run(Duration::from_secs(1));
    assert_eq!(server.read(), b"held");
    let events = world.all_events();
    let told: Vec<_> =
        events.iter().map(|event| (&*event.rule.as_ref().unwrap().name, event.lease.as_deref())).collect();
    assert_eq!(told, [("lease-1/going", Some("0-1")), ("staying", None)]);
    let snapshot = world.snapshot();
    let counts: Vec<_> = snapshot.rules.iter().map(|rule| (&*rule.name, rule.injected)).collect();
    assert_eq!(counts, [("new", 0), ("staying", 1)]);
    assert_eq!(snapshot.retired["delay"].injected, 1);
    client.close();
    server.close();
    world.assert_empty();
}
