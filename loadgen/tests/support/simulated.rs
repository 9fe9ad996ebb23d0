//! A worker and a scripted HTTP or echo server on one simulated network.

use std::cell::RefCell;
use std::io;
use std::rc::Rc;
use std::time::Duration;

use fracas_dataplane::clock::Instant;
use fracas_dataplane::ring::simulated::{
    Actor, Faults, Network, RingId, SimulatedRing, SimulatedSettings, Simulation,
};
use fracas_dataplane::ring::{
    BufferSize, Chunk, Completion, Outcome, PoolSettings, ReceiveEnd, Ring, Socket, SocketOptions, Token,
};
use fracas_loadgen::arrival::Shard;
use fracas_loadgen::measure::Timeline;
use fracas_loadgen::runner::{Worker, WorkerSettings};
use fracas_loadgen::scenario::Plan;

/// What the server does with one request.
#[derive(Clone, Debug)]
pub struct Answer {
    /// How long it works on it.
    pub after: Duration,
    /// What it then sends.
    pub bytes: Vec<u8>,
    /// What it does behind it.
    pub then: Then,
}

/// What follows a reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Then {
    KeepOpen,
    Close,
    Reset,
}

impl Answer {
    /// A small 200 at once.
    pub fn ok() -> Answer {
        Answer::of(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
    }

    /// These bytes at once.
    pub fn of(bytes: &[u8]) -> Answer {
        Answer { after: Duration::ZERO, bytes: bytes.to_vec(), then: Then::KeepOpen }
    }

    /// The same, later.
    pub fn after(self, after: Duration) -> Answer {
        Answer { after, ..self }
    }

    /// The same, and then.
    pub fn then(self, then: Then) -> Answer {
        Answer { then, ..self }
    }
}

/// What the server does for a while instead of serving.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outage {
    /// Closes every connection, old and new, at once.
    Blackout,
    /// The same, by RST.
    Reset,
    /// Reads requests and never answers them; what it read is lost.
    Hang,
    /// Has gone: its connections are reset and nobody listens.
    Refused,
    /// The network loses every SYN, and what is sent on old connections is never answered.
    BlackHole,
}

/// Answers the request with this number, counted over all connections.
pub type Script = Box<dyn FnMut(u64) -> Answer>;

/// A server on a ring of its own.
pub struct Server {
    ring: SimulatedRing,
    now: Instant,
    request_bytes: usize,
    script: Script,
    /// From when until when it does nothing at all.
    pub freeze: Option<(Instant, Instant)>,
    /// From when until when it does not serve.
    pub outage: Option<(Instant, Instant, Outage)>,
    is_out: bool,
    address: std::net::SocketAddr,
    connections: Vec<Serving>,
    /// When which answer is ready.
    answers: Vec<(Instant, usize, Answer)>,
    /// Requests that came whole, with the time.
    pub requests: Vec<Instant>,
    pub accepted: u64,
}

struct Serving {
    socket: Socket,
    unread: usize,
    sending: bool,
    receiving: bool,
    then: Then,
    closing: bool,
    closed: bool,
}

const LISTENER: u8 = 1;

impl Server {
    fn token(slot: usize) -> Token {
        Token { role: 0, slot: slot as u32, generation: 0 }
    }

    fn listen(ring: SimulatedRing, request_bytes: usize, script: Script) -> (Server, std::net::SocketAddr) {
        let address = "10.9.9.9:80".parse().unwrap();
        let mut server = Server {
            outage: None,
            is_out: false,
            address,
            now: ring.now(),
            ring,
            request_bytes,
            script,
            freeze: None,
            connections: Vec::new(),
            answers: Vec::new(),
            requests: Vec::new(),
            accepted: 0,
        };
        let (socket, address) = server.ring.listen(address, &SocketOptions::default()).unwrap();
        let token = Token { role: LISTENER, slot: socket_number(&mut server, socket), generation: 0 };
        server.ring.accept(socket, token);
        (server, address)
    }

    fn is_out(&self, outage: Outage) -> bool {
        self.is_out && self.outage.is_some_and(|(.., kind)| kind == outage)
    }

    /// Begins and ends the outage when its time has come.
    fn change(&mut self) {
        let Some((from, until, kind)) = self.outage else { return };
        let network = self.ring.network().clone();
        if !self.is_out && (from..until).contains(&self.now) {
            self.is_out = true;
            match kind {
                Outage::Blackout | Outage::Reset | Outage::Refused => {
                    if kind == Outage::Refused {
                        self.ring.cancel_all(self.connections[0].socket);
                    }
                    for slot in 1..self.connections.len() {
                        self.turn_away(slot, kind != Outage::Blackout);
                    }
                }
                Outage::BlackHole => network.make_unreachable(self.address.ip()),
                Outage::Hang => {}
            }
        } else if self.is_out && self.now >= until {
            self.is_out = false;
            self.outage = None;
            match kind {
                Outage::Refused => {
                    let (socket, _) = self.ring.listen(self.address, &SocketOptions::default()).unwrap();
                    self.connections[0].socket = socket;
                    self.ring.accept(socket, Token { role: LISTENER, slot: 0, generation: 0 });
                }
                Outage::BlackHole => network.make_reachable(self.address.ip()),
                Outage::Blackout | Outage::Reset | Outage::Hang => {}
            }
        }
    }

    fn turn_away(&mut self, slot: usize, by_reset: bool) {
        if by_reset && !self.connections[slot].closed && !self.connections[slot].closing {
            self.ring.reset(self.connections[slot].socket);
        }
        self.hang_up(slot);
        self.close_if_over(slot);
    }

    /// From when a request that comes now is worked on.
    fn works_from(&self) -> Instant {
        let frozen = self.freeze.filter(|(from, until)| *from <= self.now && self.now < *until);
        frozen.map_or(self.now, |(_, until)| until)
    }

    fn on_completion(&mut self, Completion { token, outcome }: Completion) {
        let slot = token.slot as usize;
        match outcome {
            Outcome::Accepted(socket) => {
                self.accepted += 1;
                self.connections.push(Serving {
                    socket,
                    unread: 0,
                    sending: false,
                    receiving: true,
                    then: Then::KeepOpen,
                    closing: false,
                    closed: false,
                });
                let slot = self.connections.len() - 1;
                if self.is_out(Outage::Blackout) || self.is_out(Outage::Reset) {
                    self.connections[slot].receiving = false;
                    return self.turn_away(slot, self.is_out(Outage::Reset));
                }
                let token = Server::token(slot);
                self.ring.receive(socket, token, BufferSize::Small, u32::MAX);
            }
            Outcome::AcceptEnded(_) => {
                let listener = self.connections[0].socket;
                if self.is_out(Outage::Refused) {
                    return self.ring.close(listener);
                }
                self.ring.accept(listener, token);
            }
            Outcome::Received { chunk, armed } => {
                self.connections[slot].receiving = armed;
                self.connections[slot].unread += chunk.len();
                drop(chunk);
                while self.connections[slot].unread >= self.request_bytes {
                    self.connections[slot].unread -= self.request_bytes;
                    if self.is_out(Outage::Hang) || self.is_out(Outage::BlackHole) {
                        continue;
                    }
                    let answer = (self.script)(self.requests.len() as u64);
                    self.requests.push(self.now);
                    self.answers.push((self.works_from() + answer.after, slot, answer));
                }
                self.receive_again(slot);
            }
            Outcome::ReceiveEnded(end) => {
                self.connections[slot].receiving = false;
                match end {
                    ReceiveEnd::NoBuffers | ReceiveEnd::Stopped => self.receive_again(slot),
                    ReceiveEnd::Eof | ReceiveEnd::Failed(_) => self.connections[slot].closing = true,
                }
            }
            Outcome::Sent => {
                self.connections[slot].sending = false;
                match self.connections[slot].then {
                    Then::KeepOpen => {}
                    Then::Close => self.hang_up(slot),
                    Then::Reset => {
                        self.ring.reset(self.connections[slot].socket);
                        self.hang_up(slot);
                    }
                }
            }
            Outcome::SendFailed(_) => {
                self.connections[slot].sending = false;
                self.hang_up(slot);
            }
            Outcome::Connected | Outcome::ConnectFailed(_) | Outcome::Woken => {}
        }
        self.close_if_over(slot);
    }

    fn hang_up(&mut self, slot: usize) {
        let serving = &mut self.connections[slot];
        if !serving.closing {
            serving.closing = true;
            if serving.receiving {
                self.ring.cancel_all(serving.socket);
            }
        }
    }

    fn receive_again(&mut self, slot: usize) {
        let serving = &mut self.connections[slot];
        if !serving.receiving && !serving.closing {
            serving.receiving = true;
            self.ring.receive(serving.socket, Server::token(slot), BufferSize::Small, u32::MAX);
        }
    }

    fn close_if_over(&mut self, slot: usize) {
        let serving = &mut self.connections[slot];
        if serving.closing && !serving.closed && !serving.sending && !serving.receiving {
            serving.closed = true;
            self.ring.close(serving.socket);
        }
    }

    fn answer(&mut self, slot: usize, answer: Answer) {
        let serving = &mut self.connections[slot];
        if serving.closing {
            return;
        }
        serving.then = answer.then;
        if answer.bytes.is_empty() {
            match answer.then {
                Then::KeepOpen => {}
                Then::Close => self.hang_up(slot),
                Then::Reset => {
                    self.ring.reset(serving.socket);
                    self.hang_up(slot);
                }
            }
            return self.close_if_over(slot);
        }
        serving.sending = true;
        let (socket, chunk) = (serving.socket, Chunk::from(answer.bytes));
        self.ring.send(socket, Server::token(slot), std::iter::once(chunk));
    }
}

/// The listener is the first entry, so that the accept finds it again.
fn socket_number(server: &mut Server, socket: Socket) -> u32 {
    server.connections.push(Serving {
        socket,
        unread: 0,
        sending: false,
        receiving: false,
        then: Then::KeepOpen,
        closing: false,
        closed: false,
    });
    0
}

impl Actor for Server {
    fn turn(&mut self) -> io::Result<()> {
        let due = self.next_due();
        self.ring.wait_until(due)?;
        self.now = self.ring.now();
        self.change();
        while let Some(completion) = self.ring.next_completion() {
            self.on_completion(completion);
        }
        let now = self.now;
        let mut index = 0;
        while index < self.answers.len() {
            let (due, slot, _) = self.answers[index];
            // One send at a time; the next answer goes when the last has gone.
            if due <= now && !self.connections[slot].sending {
                let (_, slot, answer) = self.answers.remove(index);
                self.answer(slot, answer);
            } else {
                index += 1;
            }
        }
        Ok(())
    }

    fn next_due(&mut self) -> Instant {
        let ready = self.answers.iter().filter(|(_, slot, _)| !self.connections[*slot].sending);
        let change = self.outage.map(|(from, until, _)| if self.is_out { until } else { from });
        ready.map(|(due, ..)| *due).chain(change).min().unwrap_or(Instant::FAR_FUTURE)
    }
}

/// From when until when the generator's thread stands still.
pub type Stop = Rc<RefCell<Option<(Instant, Instant)>>>;

struct Loop {
    worker: Rc<RefCell<Worker<SimulatedRing>>>,
    network: Network,
    ring: RingId,
    stop: Stop,
}

impl Loop {
    /// Until when it stands still, if it does now.
    fn stopped_until(&self) -> Option<Instant> {
        let now = self.network.now();
        let stop = *self.stop.borrow();
        stop.filter(|(from, until)| (*from..*until).contains(&now)).map(|(_, until)| until)
    }
}

impl Actor for Loop {
    fn turn(&mut self) -> io::Result<()> {
        let is_stopped = self.stopped_until().is_some();
        self.network.set_stopped(self.ring, is_stopped);
        if is_stopped { Ok(()) } else { self.worker.borrow_mut().turn() }
    }

    fn next_due(&mut self) -> Instant {
        let due = self.worker.borrow_mut().next_due();
        match (self.stopped_until(), *self.stop.borrow()) {
            (Some(until), _) => until,
            // A turn at the beginning, which stops it.
            (None, Some((from, _))) if from >= self.network.now() => due.min(from),
            _ => due,
        }
    }
}

/// One worker against one server.
pub struct Bench {
    pub network: Network,
    pub simulation: Simulation,
    pub worker: Rc<RefCell<Worker<SimulatedRing>>>,
    pub server: Rc<RefCell<Server>>,
    pub worker_ring: RingId,
    pub stop: Stop,
}

/// Rings with room for everything that one test sends in a burst.
pub const ROOMY: SimulatedSettings = SimulatedSettings {
    small: PoolSettings { buffer_bytes: 2048, buffers: 1024, published: 1024 },
    large: PoolSettings { buffer_bytes: 16 * 1024, buffers: 16, published: 16 },
    cq_entries: 16_384,
    counts_credit: true,
    ready_per_wait: 20,
};

impl Bench {
    pub fn new(seed: u64, plan: &Plan, script: impl FnMut(u64) -> Answer + 'static) -> Bench {
        Bench::with(seed, plan, &ROOMY, Box::new(script))
    }

    pub fn with(seed: u64, plan: &Plan, settings: &SimulatedSettings, script: Script) -> Bench {
        plan.validate().unwrap();
        let network = Network::new(seed);
        let request = fracas_loadgen::protocol::http::request_bytes(plan);
        let request_bytes = if request.is_empty() { plan.payload_bytes as usize } else { request.len() };
        let ring = network.ring(settings);
        let server_ring = ring.id();
        let (server, target) = Server::listen(ring, request_bytes, script);
        let server = Rc::new(RefCell::new(server));
        let ring = network.ring(settings);
        let worker_ring = ring.id();
        let settings = WorkerSettings {
            plan: plan.clone(),
            shard: Shard::WHOLE,
            target,
            options: SocketOptions::default(),
        };
        let worker = Rc::new(RefCell::new(Worker::new(ring, settings)));
        let mut simulation = Simulation::new(&network);
        simulation.add(server_ring, Rc::clone(&server));
        let stop = Stop::default();
        let stops = Rc::clone(&stop);
        let of_worker = Rc::clone(&worker);
        simulation.add(
            worker_ring,
            Loop { worker: of_worker, network: network.clone(), ring: worker_ring, stop: stops },
        );
        Bench { network, simulation, worker, server, worker_ring, stop }
    }

    /// Opens the connections, within ten seconds of virtual time.
    pub fn open(&mut self) {
        let worker = Rc::clone(&self.worker);
        let limit = self.network.now() + Duration::from_secs(10);
        self.simulation.run_while(limit, || !worker.borrow().readiness().is_settled);
    }

    /// Starts 1 ms from now; returns when that is.
    pub fn start(&mut self) -> Instant {
        let at = self.network.now() + Duration::from_millis(1);
        self.worker.borrow_mut().start(at);
        at
    }

    /// Runs to the end and closes everything; panics when that takes longer than `limit`.
    pub fn finish(&mut self, limit: Duration) -> Timeline {
        let worker = Rc::clone(&self.worker);
        let limit = self.network.now() + limit;
        let seed = self.network.seed();
        assert!(
            self.simulation.run_while(limit, || !worker.borrow().is_finished()),
            "the run has not finished (seed {seed})"
        );
        assert!(
            self.simulation.run_while(limit, || !worker.borrow().is_closed()),
            "the connections were not closed (seed {seed})"
        );
        let (measured, warm_up) = worker.borrow().totals();
        assert_eq!((measured.check(), warm_up.check()), (Ok(()), Ok(())), "seed {seed}");
        assert_eq!(self.network.open_sockets(self.worker_ring), 0, "seed {seed}");
        worker.borrow_mut().take()
    }

    /// Opens, starts and runs to the end.
    pub fn run(&mut self, limit: Duration) -> Timeline {
        self.open();
        self.start();
        self.finish(limit)
    }

    pub fn set_faults(&self, faults: Faults) {
        self.network.set_faults(faults);
    }
}
