//! The proxy as a state machine: clients, servers, rules and listeners act in an order that nobody would think of,
//! on the simulated ring under its faults. It never panics, plain bytes arrive in order, and everything closes.
//!
//! An odd first byte begins a talk of HTTP clients and servers instead, of whom each knows what it must hear: see
//! `tests/support/http_talk.rs`.
#![no_main]

#[path = "../../tests/support/http_talk.rs"]
mod http_talk;
#[path = "../../tests/support/http_world.rs"]
mod http_world;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use fracas_dataplane::behavior::{Rule, RuleSet, mix};
use fracas_dataplane::clock::Instant;
use fracas_dataplane::protocol::Protocol;
use fracas_dataplane::proxy::{Opening, Patience, Worker, WorkerSettings};
use fracas_dataplane::ring::simulated::{
    Actor, Faults, Link, Network, Peer, RingId, Server, SimulatedRing, SimulatedSettings, Simulation,
};
use fracas_dataplane::ring::{PoolSettings, SocketOptions};
use libfuzzer_sys::fuzz_target;

const PROXY: u32 = 0;
const CLIENT: u8 = 0;
const SERVER: u8 = 1;
/// More find nothing new, only slowly.
const ENDS_MAX: usize = 12;
/// The same, of one write: in bytes, and in the least socket buffer, through which it goes piece by piece.
const WRITE_BYTES_MAX: usize = 40_000;
const WRITE_PIECES_MAX: usize = 100;

/// Rules that neither change nor invent bytes, though they may cut or hold them.
const HONEST: [(&str, &[(&str, &str, &str)]); 12] = [
    ("", &[]),
    ("delay", &[("delay", "time", "3ms"), ("delay", "side", "both")]),
    ("50:delay", &[("delay", "time", "uniform(0ms,8ms)"), ("delay", "side", "reply")]),
    ("throttle", &[("throttle", "rate", "0"), ("throttle", "queue", "1000")]),
    ("throttle", &[("throttle", "rate", "1MB/s"), ("throttle", "per", "proxy"), ("throttle", "queue", "10")]),
    ("hang", &[]),
    ("30:blackout,30:hang", &[]),
    ("abort", &[]),
    ("40:abort,40:delay", &[("delay", "time", "1s")]),
    ("reset", &[]),
    ("reset", &[("reset", "after", "2KiB"), ("reset", "side", "upstream")]),
    ("reset", &[("reset", "after", "3ms"), ("reset", "side", "downstream")]),
];

/// Rules that answer for the upstream.
const LYING: [(&str, &[(&str, &str, &str)]); 4] = [
    ("error", &[]),
    ("50:error", &[("error", "inject", "true"), ("error", "warmup", "2")]),
    ("transient", &[("transient", "agitate", "3")]),
    ("20:error,20:delay,20:abort,20:hang", &[]),
];

/// What clients may say to a proxy for HTTP, besides nonsense.
const MESSAGES: [&[u8]; 8] = [
    b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
    b"HEAD /x HTTP/1.1\r\nHost: a\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello",
    b"PUT / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
    b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n",
    b"HTTP/1.1 200 OK\r\n\r\nuntil the end",
    b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n",
];

struct Loop(Worker<SimulatedRing>);

impl Actor for Loop {
    fn turn(&mut self) -> std::io::Result<()> {
        self.0.turn()
    }
    fn next_due(&mut self) -> Instant {
        self.0.next_due()
    }
}

/// The fuzzer's bytes, one decision each; 0 for ever at their end.
struct Choices<'a>(std::slice::Iter<'a, u8>);

impl Choices<'_> {
    fn below(&mut self, count: usize) -> usize {
        usize::from(self.0.next().copied().unwrap_or(0)) % count
    }
}

/// One end of a connection: what it says is its number, then a pattern of its own.
struct End {
    peer: Peer,
    side: u8,
    number: usize,
    said: usize,
    heard: Vec<u8>,
    may_write: bool,
}

fn spoken(side: u8, number: usize, offset: usize) -> u8 {
    match offset {
        0 => number as u8,
        _ => (offset as u8) ^ ((offset >> 8) as u8).wrapping_mul(31) ^ side << 7 ^ (number as u8) << 3,
    }
}

struct World {
    network: Network,
    simulation: Simulation,
    worker: std::rc::Rc<std::cell::RefCell<Loop>>,
    ring: RingId,
    address: SocketAddr,
    server: Server,
    protocol: Protocol,
    rules: Arc<RuleSet>,
    clients: Vec<End>,
    servers: Vec<End>,
    write_bytes_max: usize,
    /// Every byte that arrives was said by the other side.
    is_honest: bool,
    _events: mpsc::Receiver<Vec<fracas_dataplane::proxy::Event>>,
}

fn rules((text, pairs): (&str, &[(&str, &str, &str)])) -> Vec<Rule> {
    let mut options = BTreeMap::<String, BTreeMap<String, String>>::new();
    for (behavior, option, value) in pairs {
        options.entry((*behavior).into()).or_default().insert((*option).into(), (*value).into());
    }
    if text.is_empty() { Vec::new() } else { mix::parse(text, &options).expect("the rules above are right") }
}

impl World {
    fn new(choices: &mut Choices) -> World {
        let seed = choices.below(256) as u64;
        let network = Network::new(seed);
        let probability = [0.0, 0.05, 0.2, 0.4][choices.below(4)];
        let mut faults = Faults::unnoticed(probability);
        if choices.below(4) == 0 {
            (faults.connect_fail, faults.connect_emfile) = (0.1, 0.1);
        }
        network.set_faults(faults);
        let buffers = [1, 100, 4000, 20_000];
        let (send_bytes, receive_bytes) = (buffers[choices.below(4)], buffers[choices.below(4)]);
        network.set_socket_buffers(send_bytes, receive_bytes);
        let write_bytes_max = WRITE_BYTES_MAX.min(WRITE_PIECES_MAX * send_bytes.min(receive_bytes));
        let delay = Duration::from_micros([0, 20, 500][choices.below(3)]);
        network.set_link(Link { delay, bytes_per_second: [None, Some(5_000_000)][choices.below(2)] });
        let mut pool = |bytes| {
            let buffers = 1 << choices.below(4);
            PoolSettings { buffer_bytes: bytes, buffers, published: buffers }
        };
        let (small, large) = (pool(1000), pool(5000));
        let settings = SimulatedSettings {
            small,
            large,
            cq_entries: 1 + choices.below(20) as u32,
            counts_credit: choices.below(2) == 0,
            ready_per_wait: 1 + choices.below(20),
        };
        let server = network.serve(SocketAddr::from(([127, 0, 0, 1], 8080)));
        let ring = network.ring(&settings);
        let id = ring.id();
        let (events, _events) = mpsc::channel();
        let held_bytes_max = [1, 10_000, 1_000_000][choices.below(3)];
        let settings = WorkerSettings {
            index: 0,
            held_bytes_max,
            options: SocketOptions::default(),
            room: Arc::default(),
        };
        let mut worker = Worker::new(ring, settings, events);
        let protocol = [Protocol::Tcp, Protocol::Http][choices.below(2)];
        let rules = Arc::new(RuleSet::compile(Vec::new(), protocol, seed, 1).expect("no rules are right"));
        let opening = Opening {
            id: PROXY,
            name: "fuzz".into(),
            listen: Some(SocketAddr::from(([127, 0, 0, 1], 0))),
            upstream: vec![server.address()],
            source_addresses: Vec::new(),
            connect_timeout: Duration::from_secs(2),
            patience: Patience::default(),
            held_bytes_max: [1, 10_000, 1_000_000][choices.below(3)],
            rules: Arc::clone(&rules),
            ordinals: Arc::new(AtomicU64::new(0)),
        };
        let address = worker.open(&opening).expect("nothing else listens").expect("it listens");
        let worker = std::rc::Rc::new(std::cell::RefCell::new(Loop(worker)));
        let mut simulation = Simulation::new(&network);
        simulation.add(id, std::rc::Rc::clone(&worker));
        World {
            network,
            simulation,
            worker,
            ring: id,
            address,
            server,
            protocol,
            rules,
            clients: Vec::new(),
            servers: Vec::new(),
            write_bytes_max,
            is_honest: protocol == Protocol::Tcp,
            _events,
        }
    }

    fn command(&mut self, act: impl FnOnce(&mut Worker<SimulatedRing>)) {
        act(&mut self.worker.borrow_mut().0);
        self.network.wake(self.ring);
    }

    fn set_rules(&mut self, rules: Vec<Rule>) {
        let generation = self.rules.generation + 1;
        let compiled = RuleSet::compile(rules, self.protocol, self.network.seed(), generation);
        let compiled = Arc::new(compiled.expect("the rules are right").inherit(&self.rules));
        self.rules = Arc::clone(&compiled);
        self.command(|worker| drop(worker.set_rules(PROXY, &compiled)));
    }

    fn run(&mut self, time: Duration) {
        self.simulation.run_until(self.network.now() + time);
        while let Some(peer) = self.server.accept() {
            let number = self.servers.len();
            self.servers.push(End {
                peer,
                side: SERVER,
                number,
                said: 0,
                heard: Vec::new(),
                may_write: true,
            });
        }
    }

    fn act(&mut self, choices: &mut Choices) {
        match choices.below(16) {
            0 | 1 if self.clients.len() < ENDS_MAX => {
                let (peer, number) = (self.network.dial(self.address), self.clients.len());
                let end = End { peer, side: CLIENT, number, said: 0, heard: Vec::new(), may_write: true };
                self.clients.push(end);
            }
            0..=8 => self.act_on_an_end(choices),
            9 => self.set_rules(rules(HONEST[choices.below(HONEST.len())])),
            10 => {
                self.is_honest = false;
                self.set_rules(rules(LYING[choices.below(LYING.len())]));
            }
            11 => {
                let (cut, address) = (choices.below(2) == 0, self.address);
                self.command(|worker| {
                    worker.shut(PROXY, cut);
                    worker.listen(PROXY, address).expect("the port is its own");
                });
            }
            12 => self.run(Duration::from_secs(3)),
            _ => self.run(Duration::from_micros(40 * choices.below(256) as u64)),
        }
    }

    fn act_on_an_end(&mut self, choices: &mut Choices) {
        let all = self.clients.len() + self.servers.len();
        if all == 0 {
            return;
        }
        let place = choices.below(all);
        let is_http = self.protocol == Protocol::Http;
        let write_bytes_max = self.write_bytes_max;
        let Some(end) = self.clients.iter_mut().chain(&mut self.servers).nth(place) else { return };
        if !end.peer.is_open() {
            return;
        }
        match choices.below(12) {
            0 => end.peer.reset(),
            1 => end.peer.close(),
            2 | 3 if end.may_write => {
                end.may_write = false;
                end.peer.shutdown_write();
            }
            4 => end.peer.stop_reading(),
            5 => end.peer.start_reading(),
            6 => end.peer.read_some(1 + choices.below(256)),
            _ if !end.may_write => {}
            7..=9 if is_http => end.peer.write(MESSAGES[choices.below(MESSAGES.len())]),
            _ if is_http => {
                let bytes: Vec<u8> = (0..choices.below(32)).map(|_| choices.below(256) as u8).collect();
                end.peer.write(&bytes);
            }
            _ => {
                let count = (1 << choices.below(16)).min(write_bytes_max);
                let offsets = end.said..end.said + count;
                let bytes: Vec<u8> = offsets.map(|at| spoken(end.side, end.number, at)).collect();
                end.peer.write(&bytes);
                end.said += count;
            }
        }
    }

    /// Every end has heard the beginning of what one end of the other side said, each another's.
    fn assert_in_order(&mut self) {
        for end in self.clients.iter_mut().chain(&mut self.servers) {
            end.heard.extend(end.peer.read());
        }
        for (ours, theirs) in [(&self.clients, &self.servers), (&self.servers, &self.clients)] {
            let mut partners = BTreeSet::new();
            for End { heard, .. } in ours {
                let Some(number) = heard.first() else { continue };
                let partner = &theirs[usize::from(*number)];
                assert!(partners.insert(*number), "two hear {number}");
                assert!(heard.len() <= partner.said, "more was heard than said");
                let expected = |at| spoken(partner.side, partner.number, at);
                let wrong = heard.iter().enumerate().position(|(at, byte)| *byte != expected(at));
                assert_eq!(wrong, None, "a byte changed on its way");
            }
        }
    }

    /// Whatever was done, when all ends have gone there is nothing left.
    fn assert_closes(&mut self) {
        self.set_rules(Vec::new());
        for _ in 0..2 {
            self.clients.iter().chain(&self.servers).for_each(|end| end.peer.close());
            self.run(Duration::from_secs(10));
        }
        let snapshot = self.worker.borrow_mut().0.snapshot();
        assert_eq!((snapshot.connections, snapshot.held_bytes), (0, 0));
        let counters = snapshot.proxies[&PROXY].counters;
        assert_eq!(counters.connections_opened, counters.connections_closed);
        assert_eq!(self.network.open_sockets(self.ring), 1, "only the listener is open");
        self.network.assert_quiescent();
    }
}

fuzz_target!(|data: &[u8]| {
    if let [kind, rest @ ..] = data
        && kind % 2 == 1
    {
        return http_talk::talk(rest);
    }
    let mut choices = Choices(data.iter());
    let mut world = World::new(&mut choices);
    while choices.0.len() > 0 {
        world.act(&mut choices);
    }
    world.run(Duration::from_millis(20));
    if world.is_honest {
        world.assert_in_order();
    }
    world.assert_closes();
});
