//! A proxy for HTTP on the simulated ring, between a test's clients and a test's server.
//!
//! The fuzz target `proxy` uses this file too, so it needs nothing but the product.
#![allow(dead_code, clippy::unwrap_used, reason = "each user needs a part; a failed unwrap is a failed test")]

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use fracas_dataplane::behavior::{Rule, RuleSet, mix};
use fracas_dataplane::clock::Instant;
use fracas_dataplane::protocol::Protocol;
use fracas_dataplane::proxy::{Counters, Event, Opening, Patience, Worker, WorkerSettings};
use fracas_dataplane::ring::simulated::{
    Actor, Faults, Link, Network, Peer, RingId, Server, SimulatedRing, SimulatedSettings, Simulation,
};
use fracas_dataplane::ring::{PoolSettings, SocketOptions};

const PROXY: u32 = 0;

struct Loop(Worker<SimulatedRing>);

impl Actor for Loop {
    fn turn(&mut self) -> std::io::Result<()> {
        self.0.turn()
    }
    fn next_due(&mut self) -> Instant {
        self.0.next_due()
    }
}

/// What a network and a kernel may choose.
#[derive(Clone, Debug)]
pub struct Surroundings {
    pub seed: u64,
    pub faults: Faults,
    pub socket_buffer_bytes: (usize, usize),
    pub link: Link,
    pub small: PoolSettings,
    pub large: PoolSettings,
    pub cq_entries: u32,
    pub counts_credit: bool,
    pub held_bytes_max: usize,
    pub worker_held_bytes_max: usize,
}

impl Surroundings {
    /// Nothing fails, nothing takes time, everything fits.
    pub fn calm() -> Surroundings {
        let pool = |buffer_bytes| PoolSettings { buffer_bytes, buffers: 64, published: 64 };
        Surroundings {
            seed: 1,
            faults: Faults::NONE,
            socket_buffer_bytes: (64 * 1024, 64 * 1024),
            link: Link::default(),
            small: pool(16 * 1024),
            large: pool(128 * 1024),
            cq_entries: 64,
            counts_credit: true,
            held_bytes_max: 1 << 20,
            worker_held_bytes_max: 64 << 20,
        }
    }
}

pub struct World {
    pub network: Network,
    pub server: Server,
    pub address: SocketAddr,
    simulation: Simulation,
    worker: Rc<RefCell<Loop>>,
    ring: RingId,
    rules: Arc<RuleSet>,
    events: mpsc::Receiver<Vec<Event>>,
}

/// Rules by a mix and `(behavior, option, value)`.
pub fn rules(text: &str, options: &[(&str, &str, &str)]) -> Vec<Rule> {
    let mut all = BTreeMap::<String, BTreeMap<String, String>>::new();
    for (behavior, option, value) in options {
        all.entry((*behavior).into()).or_default().insert((*option).into(), (*value).into());
    }
    if text.is_empty() { Vec::new() } else { mix::parse(text, &all).unwrap() }
}

impl World {
    pub fn new(surroundings: &Surroundings, rules: Vec<Rule>) -> World {
        let network = Network::new(surroundings.seed);
        network.set_faults(surroundings.faults);
        let (send, receive) = surroundings.socket_buffer_bytes;
        network.set_socket_buffers(send, receive);
        network.set_link(surroundings.link);
        let settings = SimulatedSettings {
            small: surroundings.small,
            large: surroundings.large,
            cq_entries: surroundings.cq_entries,
            counts_credit: surroundings.counts_credit,
            ..SimulatedSettings::default()
        };
        let server = network.serve("127.0.0.1:8080".parse().unwrap());
        let ring = network.ring(&settings);
        let id = ring.id();
        let (sender, events) = mpsc::channel();
        let settings = WorkerSettings {
            index: 0,
            held_bytes_max: surroundings.worker_held_bytes_max,
            options: SocketOptions::default(),
            room: Arc::default(),
        };
        let mut worker = Worker::new(ring, settings, sender);
        let rules = Arc::new(RuleSet::compile(rules, Protocol::Http, surroundings.seed, 1).unwrap());
        let opening = Opening {
            id: PROXY,
            name: "test".into(),
            listen: Some("127.0.0.1:0".parse().unwrap()),
            upstream: vec![server.address()],
            source_addresses: Vec::new(),
            connect_timeout: Duration::from_secs(2),
            held_bytes_max: surroundings.held_bytes_max,
            patience: Patience::default(),
            rules: Arc::clone(&rules),
            ordinals: Arc::new(AtomicU64::new(0)),
        };
        let address = worker.open(&opening).unwrap().unwrap();
        let worker = Rc::new(RefCell::new(Loop(worker)));
        let mut simulation = Simulation::new(&network);
        simulation.add(id, Rc::clone(&worker));
        World { network, server, address, simulation, worker, ring: id, rules, events }
    }

    pub fn calm(rules: Vec<Rule>) -> World {
        World::new(&Surroundings::calm(), rules)
    }

    pub fn set_rules(&mut self, rules: Vec<Rule>) {
        let (seed, generation) = (self.network.seed(), self.rules.generation + 1);
        let compiled = RuleSet::compile(rules, Protocol::Http, seed, generation).unwrap();
        self.rules = Arc::new(compiled.inherit(&self.rules));
        self.worker.borrow_mut().0.set_rules(PROXY, &self.rules);
        // A command comes by a wake, and its turn follows.
        self.network.wake(self.ring);
    }

    pub fn run(&mut self, time: Duration) {
        self.simulation.run_until(self.network.now() + time);
    }

    /// Time enough for everything that waits for nothing.
    pub fn settle(&mut self) {
        self.run(Duration::from_millis(20));
    }

    pub fn dial(&mut self) -> Peer {
        let client = self.network.dial(self.address);
        self.settle();
        client
    }

    /// A client whose first request was answered, and its server.
    pub fn pair(&mut self) -> (Peer, Peer) {
        let client = self.dial();
        let server = self.ask(&client, b"GET /first HTTP/1.1\r\nHost: a\r\n\r\n");
        server.read();
        server.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
        self.settle();
        client.read();
        (client, server)
    }

    /// Sends what makes the proxy connect; the server's end.
    pub fn ask(&mut self, client: &Peer, bytes: &[u8]) -> Peer {
        client.write(bytes);
        self.settle();
        self.server.accept().expect("a request has reached the upstream")
    }

    pub fn held_bytes(&self) -> usize {
        self.worker.borrow_mut().0.snapshot().held_bytes
    }

    pub fn connections(&self) -> usize {
        self.worker.borrow_mut().0.snapshot().connections
    }

    pub fn counters(&self) -> Counters {
        self.worker.borrow_mut().0.snapshot().proxies[&PROXY].counters
    }

    pub fn events(&mut self) -> Vec<Event> {
        self.worker.borrow_mut().0.hand_over_events();
        self.events.try_iter().flatten().collect()
    }

    /// Whatever was done, when all ends have gone there is nothing left.
    pub fn assert_empty(&mut self, ends: &[&Peer]) {
        let seed = self.network.seed();
        self.set_rules(Vec::new());
        for _ in 0..2 {
            ends.iter().filter(|end| end.is_open()).for_each(|end| end.close());
            self.run(Duration::from_secs(10));
        }
        while let Some(server) = self.server.accept() {
            server.close();
        }
        self.run(Duration::from_secs(10));
        let snapshot = self.worker.borrow_mut().0.snapshot();
        assert_eq!((snapshot.connections, snapshot.held_bytes), (0, 0), "something is left (seed {seed})");
        assert_eq!(self.network.open_sockets(self.ring), 1, "only the listener is open (seed {seed})");
        self.network.assert_quiescent();
    }
}
