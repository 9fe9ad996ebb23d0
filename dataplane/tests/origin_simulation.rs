//! The origin in virtual time: what it holds, what it ends and when, and that it serves at its rate.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

#[path = "support/live_bytes.rs"]
mod live_bytes;

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use fracas_dataplane::clock::Instant;
use fracas_dataplane::origin::{Counts, Limits, OriginSettings, OriginWorker, ServiceSettings, Shared};
use fracas_dataplane::ring::PoolSettings;
use fracas_dataplane::ring::simulated::{
    Actor, Faults, Network, Peer, SimulatedRing, SimulatedSettings, Simulation, seeds,
};
use fracas_dataplane::rng::Rng;

struct Loop(OriginWorker<SimulatedRing>);

impl Actor for Loop {
    fn turn(&mut self) -> std::io::Result<()> {
        self.0.turn()
    }
    fn next_due(&mut self) -> Instant {
        self.0.next_due()
    }
}

struct World {
    network: Network,
    simulation: Simulation,
    worker: Rc<RefCell<Loop>>,
    shared: Arc<Shared>,
    address: SocketAddr,
}

impl World {
    fn new(settings: OriginSettings) -> World {
        World::with(Network::new(7), &SimulatedSettings::default(), settings)
    }

    fn with(network: Network, ring: &SimulatedSettings, settings: OriginSettings) -> World {
        let ring = network.ring(ring);
        let (id, shared) = (ring.id(), Arc::new(Shared::default()));
        let (worker, address) = OriginWorker::open(ring, settings, Arc::clone(&shared)).unwrap();
        let worker = Rc::new(RefCell::new(Loop(worker)));
        let mut simulation = Simulation::new(&network);
        simulation.add(id, Rc::clone(&worker));
        World { network, simulation, worker, shared, address }
    }

    fn run(&mut self, time: Duration) {
        let until = self.network.now() + time;
        self.simulation.run_until(until);
    }

    fn dial(&self) -> Peer {
        self.network.dial(self.address)
    }

    fn counts(&self) -> Counts {
        self.shared.counts()
    }

    /// Ends everything; whatever was left in flight would be a panic.
    fn end(mut self) {
        self.worker.borrow_mut().0.cut();
        self.run(Duration::from_secs(1));
        self.network.assert_quiescent();
        assert_eq!(self.counts().open, 0);
    }
}

const ONE: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
const HUGE: &[u8] = b"GET /bytes/67108864 HTTP/1.1\r\nHost: x\r\n\r\n";
const SECOND: Duration = Duration::from_secs(1);
const MS: Duration = Duration::from_millis(1);

/// How many whole replies with the plain body of 14 bytes there are.
fn replies(bytes: &[u8]) -> usize {
    bytes.windows(14).filter(|window| window == b"fracas origin\n").count()
}

fn assert_served(world: &mut World, client: &Peer) {
    client.write(ONE);
    world.run(100 * MS);
    assert_eq!(replies(&client.read()), 1, "a client that reads is served");
}

#[test]
fn clients_that_ask_for_much_and_read_nothing_cost_little_and_nobody_else() {
    for counts_credit in [true, false] {
        let ring = SimulatedSettings { counts_credit, ..SimulatedSettings::default() };
        let mut world = World::with(Network::new(1), &ring, OriginSettings::default());
        let good = world.dial();
        let mut greedy = Vec::new();
        let peak = live_bytes::peak_of(|| {
            for _ in 0..50 {
                let client = world.dial();
                client.stop_reading();
                client.write(&HUGE.repeat(2000));
                greedy.push(client);
            }
            world.run(SECOND);
        });
        // The test's own side keeps the 64 kB that each client writes, in its outbox and on the way.
        let limit = 50 * (64 * 1024 * 8 + 300 * 1024);
        assert!(peak < limit, "{peak} bytes for 50 clients (counts credit: {counts_credit})");
        assert_served(&mut world, &good);
        assert!(world.counts().answered < 200, "nothing is answered that is not read: {:?}", world.counts());
        world.end();
    }
}

#[test]
fn an_echo_that_is_not_read_does_not_starve_the_others() {
    let settings = OriginSettings { echo: true, ..OriginSettings::default() };
    let mut world = World::new(settings);
    let mut greedy = Vec::new();
    for size in [1, 700, 100_000] {
        for _ in 0..40 {
            let client = world.dial();
            client.stop_reading();
            world.run(MS);
            for _ in 0..40 {
                client.write(&vec![b'x'; size]);
                world.run(MS / 10);
            }
            greedy.push(client);
        }
    }
    world.run(SECOND);
    let good = world.dial();
    good.write(b"hello");
    world.run(SECOND);
    assert_eq!(good.read(), b"hello");
    world.end();
}

#[test]
fn everything_that_was_asked_is_answered_in_order_however_the_kernel_behaves() {
    for seed in seeds(60) {
        let network = Network::new(seed);
        let mut rng = Rng::stream(seed, &[9]);
        network.set_faults(Faults::unnoticed(0.05));
        network.set_socket_buffers(200 + rng.below(20_000) as usize, 200 + rng.below(20_000) as usize);
        let mut pool =
            |bytes| PoolSettings { buffer_bytes: 16 + rng.below(bytes) as u32, buffers: 4, published: 4 };
        let (small, large) = (pool(3000), pool(9000));
        let counts_credit = rng.below(2) == 0;
        let ring =
            SimulatedSettings { small, large, cq_entries: 8, counts_credit, ..SimulatedSettings::default() };
        let mut world = World::with(network, &ring, OriginSettings::default());
        let slow = world.dial();
        slow.stop_reading();
        let mut expected = 0;
        for index in 0..700usize {
            let count = index * 37 % 900;
            expected += count;
            slow.write(format!("GET /bytes/{count} HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes());
        }
        slow.write(b"GET /status/204 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        let mut bytes = Vec::new();
        for _ in 0..3000 {
            slow.read_some(5000);
            world.run(MS);
            bytes.extend(slow.read());
        }
        let mut rest = &bytes[..];
        let mut seen = 0;
        for index in 0..700usize {
            let head = rest.windows(4).position(|window| window == b"\r\n\r\n").unwrap() + 4;
            let length = index * 37 % 900;
            let said = format!("Content-Length: {length}\r\n");
            assert!(String::from_utf8_lossy(&rest[..head]).contains(&said), "reply {index} (seed {seed})");
            assert!(rest[head..head + length].starts_with(&b"fracas origin\n"[..length.min(14)]));
            rest = &rest[head + length..];
            seen += length;
        }
        assert_eq!(seen, expected);
        assert!(rest.starts_with(b"HTTP/1.1 204") && rest.ends_with(b"\r\n\r\n"), "seed {seed}");
        let state = slow.state();
        assert!(state.eof && !state.reset, "a FIN, no RST (seed {seed})");
        world.end();
    }
}

#[test]
fn the_last_reply_is_not_lost_to_bytes_that_nobody_wants() {
    let mut world = World::new(OriginSettings::default());
    let client = world.dial();
    client.stop_reading();
    client.write(&[b"\x16\x03\x01 not http\r\n\r\n".as_slice(), &[b'x'; 300_000]].concat());
    world.run(100 * MS);
    client.start_reading();
    world.run(100 * MS);
    assert!(client.read().starts_with(b"HTTP/1.1 400"));
    assert!(client.state().eof && !client.state().reset);
    // A client that never ends is closed after the linger.
    world.run(2 * SECOND);
    assert_eq!(world.counts().open, 0);
    world.end();
}

#[test]
fn silence_idleness_and_not_reading_have_their_ends() {
    let limits = Limits {
        connections_max: None,
        first_bytes: Some(4 * SECOND),
        idle: Some(20 * SECOND),
        stall: Some(10 * SECOND),
    };
    let mut world = World::new(OriginSettings { limits, ..OriginSettings::default() });
    let silent = world.dial();
    let trickle = world.dial();
    let idle = world.dial();
    let unread = world.dial();
    let later = world.dial();
    let waiting = world.dial();
    unread.stop_reading();
    unread.write(HUGE);
    idle.write(ONE);
    later.write(ONE);
    waiting.write(b"GET /delay/60s HTTP/1.1\r\nHost: x\r\n\r\n");
    let open = |peer: &Peer| peer.state().connected && !peer.state().eof;
    for _ in 0..3 {
        trickle.write(b"G");
        world.run(SECOND);
    }
    assert!([&silent, &trickle, &idle, &later].into_iter().all(open));
    // A second request that never becomes whole.
    later.write(b"GET /");
    world.run(2 * SECOND + 10 * MS);
    assert!(!open(&silent) && !open(&trickle) && open(&idle) && open(&later));
    assert_eq!(world.counts().silent, 2);
    world.run(4 * SECOND);
    assert!(!open(&later) && open(&idle));
    world.run(3 * SECOND);
    assert_eq!((world.counts().stalled, world.counts().silent), (1, 3));
    world.run(10 * SECOND);
    assert!(!open(&idle) && world.counts().idle == 1);
    // Who waits for a reply that the origin itself holds back is not idle.
    world.run(40 * SECOND);
    assert_eq!(replies(&waiting.read()), 1);
    world.end();
}

#[test]
fn a_slow_reader_is_not_taken_for_one_that_does_not_read() {
    let mut world = World::new(OriginSettings::default());
    let slow = world.dial();
    slow.stop_reading();
    slow.write(b"GET /bytes/600000 HTTP/1.1\r\nHost: x\r\n\r\n");
    for _ in 0..800 {
        world.run(SECOND);
        slow.read_some(1000);
    }
    assert_eq!(world.counts().stalled, 0);
    assert!(slow.read().len() > 600_000);
    world.end();
}

#[test]
fn at_the_limit_the_quiet_make_way_and_the_busy_stay() {
    let limits = Limits { connections_max: Some(4), ..Limits::default() };
    let mut world = World::new(OriginSettings { limits, ..OriginSettings::default() });
    let silent: Vec<Peer> = (0..4).map(|_| world.dial()).collect();
    world.run(100 * MS);
    // Nobody has been quiet for a second yet: the newcomer is closed.
    let early = world.dial();
    world.run(100 * MS);
    assert!(early.state().eof || early.state().reset);
    assert_eq!((world.counts().refused, world.counts().evicted), (1, 0));
    world.run(SECOND);
    let busy: Vec<Peer> = (0..4).map(|_| world.dial()).collect();
    for client in &busy {
        client.write(b"GET /delay/5s HTTP/1.1\r\nHost: x\r\n\r\n");
    }
    world.run(2 * SECOND);
    assert!(silent.iter().all(|client| client.state().eof || client.state().reset));
    assert_eq!((world.counts().refused, world.counts().evicted, world.counts().open), (1, 4, 4));
    let late = world.dial();
    world.run(SECOND);
    assert!(late.state().eof || late.state().reset, "all four places are in use");
    world.run(3 * SECOND);
    for client in &busy {
        assert_eq!(replies(&client.read()), 1);
    }
    world.end();
}

#[test]
fn a_service_of_four_workers_of_10_ms_answers_400_a_second_whatever_asks() {
    let service = Some(ServiceSettings { workers: 4, time: 10 * MS });
    for (clients, pipelined) in [(4usize, 3usize), (50, 1), (50, 20), (300, 1)] {
        let mut world = World::new(OriginSettings { service, ..OriginSettings::default() });
        let clients: Vec<Peer> = (0..clients).map(|_| world.dial()).collect();
        for client in &clients {
            client.write(&ONE.repeat(pipelined));
        }
        let mut per_second = Vec::new();
        for _ in 0..4 {
            let mut answered = 0;
            for _ in 0..2000 {
                world.run(MS / 2);
                for client in &clients {
                    let count = replies(&client.read());
                    answered += count;
                    client.write(&ONE.repeat(count));
                }
            }
            per_second.push(answered);
        }
        let expected = [400; 3];
        assert_eq!(per_second[1..], expected, "{} clients", clients.len());
        world.end();
    }
}

#[test]
fn a_service_with_spare_capacity_answers_after_its_time() {
    let service = Some(ServiceSettings { workers: 2, time: 10 * MS });
    let mut world = World::new(OriginSettings { service, ..OriginSettings::default() });
    let clients: Vec<Peer> = (0..3).map(|_| world.dial()).collect();
    for client in &clients {
        client.write(ONE);
    }
    world.run(11 * MS);
    assert_eq!(clients.iter().map(|client| replies(&client.read())).sum::<usize>(), 2);
    world.run(10 * MS);
    assert_eq!(clients.iter().map(|client| replies(&client.read())).sum::<usize>(), 1);
    assert_eq!((world.counts().asked, world.counts().answered), (3, 3));
    world.end();
}
