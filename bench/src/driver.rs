//! The client and the server of every measurement: closed-loop exchanges on one thread and one ring.
//!
//! A client sends a request, counts the reply's bytes and sends again at once. The server side, in the same loop,
//! echoes or answers each HTTP request head with a fixed reply. Both ends are the same for every peer and cost
//! about one round trip's system work, so the peer's core is the busy one.
//!
//! [`Driver::drive_bursts`] is the second way to drive: every client sends in one turn, and the server answers in one
//! turn when it has heard all of them, so that the peer gets as many sockets ready at once as there are clients.

use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

use anyhow::{Context, bail};
use fracas_dataplane::clock::Instant;
use hdrhistogram::Histogram;

use crate::outbox::Outbox;
use crate::ring::{Completion, Part, Ring, adopt};
use crate::socket;

const ACCEPT_ECHO: u64 = 0;
const ACCEPT_HTTP: u64 = 1;
const RECEIVE: u64 = 2;
const SENT: u64 = 3;
/// Connections that make their first exchange at the same time.
const WARM_AT_ONCE: usize = 64;
const STALLED_AFTER: Duration = Duration::from_secs(10);

/// The fixed reply of the bench's HTTP server; `ab` speaks HTTP/1.0 and wants to read keep-alive.
pub const HTTP_REPLY: &[u8] =
    b"HTTP/1.1 200 OK\r\nConnection: keep-alive\r\nContent-Type: text/plain\r\nContent-Length: 13\r\n\r\nhello, world\n";
const HTTP_REQUEST: &[u8] = b"GET /fixed HTTP/1.1\r\nHost: 127.0.0.1\r\nUser-Agent: fracas-bench\r\n\r\n";

/// What one exchange looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Traffic {
    /// So many bytes there and the same bytes back.
    Echo {
        /// Length of a request in bytes.
        bytes: usize,
    },
    /// A GET and a fixed reply on a connection that is kept.
    Http,
}

/// What a stretch of driving saw.
pub struct Sample {
    /// Exchanges that ended in it.
    pub exchanges: u64,
    /// How long it took.
    pub elapsed: Duration,
    /// Service times in nanoseconds.
    pub service_ns: Histogram<u64>,
}

/// The loop; see the module.
pub struct Driver {
    ring: Ring,
    completions: Vec<Completion>,
    echo: TcpListener,
    http: TcpListener,
    slots: Vec<Option<Slot>>,
    free: Vec<usize>,
    clients: Vec<usize>,
    request: &'static [u8],
    reply: &'static [u8],
    payloads: Vec<&'static [u8]>,
    is_running: bool,
    /// Echoes that are held back until all clients of a burst were heard.
    burst: Option<Burst>,
    /// Never waits in the kernel: for figures finer than a wake-up.
    pub is_spinning: bool,
    exchanges: u64,
    failure: Option<String>,
    last_service_time: Duration,
    service_ns: Histogram<u64>,
}

#[derive(Default)]
struct Burst {
    held: Vec<(usize, Part)>,
    held_bytes: usize,
    /// When so many bytes are held, all go back.
    whole_bytes: usize,
}

struct Slot {
    socket: OwnedFd,
    outbox: Outbox,
    receiving: bool,
    role: Role,
}

enum Role {
    Client { sent_at: Instant, received_bytes: usize, is_waiting: bool, exchanges: u64 },
    Echo,
    Http(HeadEnds),
}

impl Driver {
    /// Opens the two servers on loopback.
    pub fn new() -> anyhow::Result<Driver> {
        Driver::serving_http_on(SocketAddr::from(([127, 0, 0, 1], 0)))
    }

    /// Serves HTTP on `listen` and nothing else, for ever.
    pub fn serve_http(listen: SocketAddr) -> anyhow::Result<()> {
        let mut driver = Driver::serving_http_on(listen)?;
        loop {
            driver.turn(None)?;
        }
    }

    fn serving_http_on(http: SocketAddr) -> anyhow::Result<Driver> {
        let mut ring = Ring::new().context("the driver needs io_uring with DEFER_TASKRUN (Linux 6.1+)")?;
        let echo = socket::listen(SocketAddr::from(([127, 0, 0, 1], 0)))?;
        let http = socket::listen(http)?;
        ring.accept(&echo, token(ACCEPT_ECHO, 0));
        ring.accept(&http, token(ACCEPT_HTTP, 0));
        Ok(Driver {
            ring,
            completions: Vec::with_capacity(4096),
            echo,
            http,
            slots: Vec::new(),
            free: Vec::new(),
            clients: Vec::new(),
            request: b"",
            reply: b"",
            payloads: Vec::new(),
            is_running: false,
            burst: None,
            is_spinning: false,
            exchanges: 0,
            failure: None,
            last_service_time: Duration::ZERO,
            service_ns: service_histogram(),
        })
    }

    /// Where the server for `traffic` listens.
    pub fn upstream(&self, traffic: Traffic) -> anyhow::Result<SocketAddr> {
        let listener = if traffic == Traffic::Http { &self.http } else { &self.echo };
        Ok(listener.local_addr()?)
    }

    /// Opens `count` more clients through `proxy`; each makes one exchange, whose reply is compared byte for byte.
    pub fn connect(&mut self, proxy: SocketAddr, count: usize, traffic: Traffic) -> anyhow::Result<()> {
        (self.request, self.reply) = match traffic {
            Traffic::Http => (HTTP_REQUEST, HTTP_REPLY),
            Traffic::Echo { bytes } => (self.payload(bytes), self.payload(bytes)),
        };
        let mut remaining = count;
        while remaining > 0 {
            let batch = remaining.min(WARM_AT_ONCE);
            for _ in 0..batch {
                let socket = socket::connect(proxy).context("cannot connect through the peer")?;
                let role = Role::Client {
                    sent_at: Instant::ZERO,
                    received_bytes: 0,
                    is_waiting: false,
                    exchanges: 0,
                };
                let slot = self.open(socket, role);
                self.clients.push(slot);
                self.request(slot, Instant::now());
            }
            self.rest()?;
            remaining -= batch;
        }
        Ok(())
    }

    /// Keeps every client exchanging for `time`; in-flight exchanges go on into the next call.
    pub fn drive(&mut self, time: Duration) -> anyhow::Result<Sample> {
        let started_at = Instant::now();
        self.is_running = true;
        self.exchanges = 0;
        self.service_ns.reset();
        for index in 0..self.clients.len() {
            if !self.is_waiting(self.clients[index]) {
                self.request(self.clients[index], started_at);
            }
        }
        let ends_at = started_at + time;
        let mut now = started_at;
        while now < ends_at {
            self.turn(Some(ends_at - now))?;
            now = Instant::now();
        }
        let service_ns = std::mem::replace(&mut self.service_ns, service_histogram());
        Ok(Sample { exchanges: self.exchanges, elapsed: now - started_at, service_ns })
    }

    /// Lets all clients send in one turn, the server answer all in one turn, and begins again, for `time`; every
    /// service time counts from the beginning of its burst. For echo traffic.
    ///
    /// # Errors
    /// Nothing moved for ten seconds, or a connection failed.
    pub fn drive_bursts(&mut self, time: Duration) -> anyhow::Result<Sample> {
        self.rest()?;
        let whole_bytes = self.clients.len() * self.request.len();
        self.burst = Some(Burst { whole_bytes, ..Burst::default() });
        let started_at = Instant::now();
        self.exchanges = 0;
        self.service_ns.reset();
        let mut now = started_at;
        while now - started_at < time {
            for index in 0..self.clients.len() {
                self.request(self.clients[index], now);
            }
            let (all, gives_up_at) = (self.exchanges + self.clients.len() as u64, now + STALLED_AFTER);
            while self.exchanges < all {
                if Instant::now() >= gives_up_at {
                    bail!("a burst was not answered within {STALLED_AFTER:?}");
                }
                self.turn(Some(Duration::from_millis(100)))?;
            }
            now = Instant::now();
        }
        self.burst = None;
        let service_ns = std::mem::replace(&mut self.service_ns, service_histogram());
        Ok(Sample { exchanges: self.exchanges, elapsed: now - started_at, service_ns })
    }

    /// Makes `count` exchanges one after another on the first client; returns the service times, sorted.
    ///
    /// Single values, not a histogram: three digits of 50 ms are 32 µs wide.
    pub fn exchange(&mut self, count: usize) -> anyhow::Result<Vec<Duration>> {
        let mut service_times = Vec::with_capacity(count);
        for _ in 0..count {
            self.request(self.clients[0], Instant::now());
            self.rest()?;
            service_times.push(self.last_service_time);
        }
        service_times.sort();
        Ok(service_times)
    }

    /// Lets every exchange in flight end and starts no more.
    ///
    /// # Errors
    /// Nothing moved for ten seconds, or a connection failed.
    pub fn rest(&mut self) -> anyhow::Result<()> {
        self.is_running = false;
        let gives_up_at = Instant::now() + STALLED_AFTER;
        while self.clients.iter().any(|&slot| self.is_waiting(slot)) {
            if Instant::now() >= gives_up_at {
                bail!("no reply came through the peer for {STALLED_AFTER:?}");
            }
            self.turn(Some(Duration::from_millis(100)))?;
        }
        Ok(())
    }

    /// Closes every client and forgets what was in flight.
    pub fn disconnect(&mut self) -> anyhow::Result<()> {
        self.is_running = false;
        for (_, part) in self.burst.take().map(|burst| burst.held).unwrap_or_default() {
            part.buffer().into_iter().for_each(|buffer| self.ring.give_back(buffer));
        }
        for slot in std::mem::take(&mut self.clients) {
            if let Some(slot) = &self.slots[slot] {
                let _ = socket2::SockRef::from(&slot.socket).shutdown(std::net::Shutdown::Both);
            }
        }
        // Ends of stream arrive through the peer, so what is still open is shut as well.
        let gives_up_at = Instant::now() + Duration::from_millis(500);
        while self.slots.iter().any(Option::is_some) {
            if Instant::now() >= gives_up_at {
                for slot in self.slots.iter().flatten() {
                    let _ = socket2::SockRef::from(&slot.socket).shutdown(std::net::Shutdown::Both);
                }
            }
            // What fails while closing is no failure of the peer.
            self.turn_unchecked(Some(Duration::from_millis(20)))?;
        }
        self.failure = None;
        Ok(())
    }

    fn payload(&mut self, bytes: usize) -> &'static [u8] {
        if let Some(payload) = self.payloads.iter().find(|payload| payload.len() == bytes) {
            return payload;
        }
        let payload: Vec<u8> = (0..bytes).map(|index| ((index * 31) >> 2) as u8).collect();
        self.payloads.push(payload.leak());
        self.payloads[self.payloads.len() - 1]
    }

    fn open(&mut self, socket: OwnedFd, role: Role) -> usize {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            self.slots.len() - 1
        });
        self.ring.receive(socket.as_raw_fd(), token(RECEIVE, slot));
        self.slots[slot] = Some(Slot { socket, outbox: Outbox::default(), receiving: true, role });
        slot
    }

    fn is_waiting(&self, slot: usize) -> bool {
        matches!(&self.slots[slot], Some(Slot { role: Role::Client { is_waiting: true, .. }, .. }))
    }

    fn request(&mut self, index: usize, now: Instant) {
        let Some(slot) = self.slots[index].as_mut() else { return };
        if let Role::Client { sent_at, received_bytes, is_waiting, .. } = &mut slot.role {
            (*sent_at, *received_bytes, *is_waiting) = (now, 0, true);
            let socket = slot.socket.as_raw_fd();
            slot.outbox.push(Part::fixed(self.request), &mut self.ring, socket, token(SENT, index));
        }
    }

    fn turn(&mut self, at_most: Option<Duration>) -> anyhow::Result<()> {
        self.turn_unchecked(at_most)?;
        match self.failure.take() {
            Some(failure) => bail!(failure),
            None => Ok(()),
        }
    }

    fn turn_unchecked(&mut self, at_most: Option<Duration>) -> anyhow::Result<()> {
        let at_most = if self.is_spinning { Some(Duration::ZERO) } else { at_most };
        let mut completions = std::mem::take(&mut self.completions);
        self.ring.turn(at_most, &mut completions)?;
        for completion in completions.drain(..) {
            self.on_completion(completion);
        }
        self.completions = completions;
        Ok(())
    }

    fn on_completion(&mut self, completion: Completion) {
        let (kind, slot) = (completion.token >> 56, (completion.token & ((1 << 56) - 1)) as usize);
        match kind {
            ACCEPT_ECHO | ACCEPT_HTTP => self.on_accept(kind, completion),
            RECEIVE => self.on_receive(slot, completion),
            _ => self.on_sent(slot, completion.result),
        }
    }

    fn on_accept(&mut self, kind: u64, completion: Completion) {
        if completion.result >= 0 {
            let role = if kind == ACCEPT_HTTP { Role::Http(HeadEnds::default()) } else { Role::Echo };
            self.open(adopt(completion.result), role);
        }
        if !completion.has_more() {
            let listener = if kind == ACCEPT_HTTP { &self.http } else { &self.echo };
            self.ring.accept(listener, token(kind, 0));
        }
    }

    fn on_receive(&mut self, index: usize, completion: Completion) {
        if let (received @ 1.., Some(buffer)) = (completion.result, completion.buffer()) {
            self.on_bytes(index, buffer, received as usize);
        } else if let Some(buffer) = completion.buffer() {
            self.ring.give_back(buffer);
        }
        if completion.has_more() {
            return;
        }
        let slot = self.slots[index].as_mut().expect("a slot stays until its receive has ended");
        let socket = slot.socket.as_raw_fd();
        match completion.result {
            1.. => self.ring.receive(socket, token(RECEIVE, index)),
            result if result == -libc::ENOBUFS => self.ring.receive_later(socket, token(RECEIVE, index)),
            result => {
                slot.receiving = false;
                if matches!(slot.role, Role::Client { .. }) {
                    self.failure =
                        Some(format!("the peer ended a client's connection (receive gave {result})"));
                }
                let _ = socket2::SockRef::from(&slot.socket).shutdown(std::net::Shutdown::Both);
                self.close_if_idle(index);
            }
        }
    }

    fn on_bytes(&mut self, index: usize, buffer: u16, received: usize) {
        let slot = self.slots[index].as_mut().expect("a slot stays until its receive has ended");
        let socket = slot.socket.as_raw_fd();
        match &mut slot.role {
            Role::Echo => {
                let part = self.ring.part(buffer, received);
                if let Some(burst) = &mut self.burst {
                    burst.held.push((index, part));
                    burst.held_bytes += received;
                    return self.release_burst();
                }
                return slot.outbox.push(part, &mut self.ring, socket, token(SENT, index));
            }
            Role::Http(heads) => {
                for _ in 0..heads.count(self.ring.bytes(buffer, received)) {
                    slot.outbox.push(Part::fixed(HTTP_REPLY), &mut self.ring, socket, token(SENT, index));
                }
            }
            Role::Client { sent_at, received_bytes, is_waiting, exchanges } => {
                // Only the first reply is compared, so that a measured one costs the client no more than it must.
                let from = *received_bytes;
                *received_bytes += received;
                let is_first = *exchanges == 0;
                if *received_bytes > self.reply.len()
                    || (is_first && self.ring.bytes(buffer, received) != &self.reply[from..*received_bytes])
                {
                    self.failure = Some("the peer changed or added bytes".to_owned());
                } else if *received_bytes == self.reply.len() {
                    let now = Instant::now();
                    self.last_service_time = now.since(*sent_at);
                    self.service_ns.saturating_record(self.last_service_time.as_nanos() as u64);
                    *is_waiting = false;
                    *exchanges += 1;
                    self.exchanges += 1;
                    if self.is_running {
                        self.request(index, now);
                    }
                }
            }
        }
        self.ring.give_back(buffer);
    }

    /// Sends every held echo when all have come.
    fn release_burst(&mut self) {
        let Some(burst) = self.burst.as_mut().filter(|burst| burst.held_bytes >= burst.whole_bytes) else {
            return;
        };
        burst.held_bytes = 0;
        for (index, part) in burst.held.drain(..) {
            match &mut self.slots[index] {
                Some(slot) => {
                    let socket = slot.socket.as_raw_fd();
                    slot.outbox.push(part, &mut self.ring, socket, token(SENT, index));
                }
                None => part.buffer().into_iter().for_each(|buffer| self.ring.give_back(buffer)),
            }
        }
    }

    fn on_sent(&mut self, index: usize, result: i32) {
        let slot = self.slots[index].as_mut().expect("a slot stays until its send has ended");
        let socket = slot.socket.as_raw_fd();
        slot.outbox.on_sent(result, &mut self.ring, socket, token(SENT, index));
        if !slot.receiving {
            self.close_if_idle(index);
        }
    }

    fn close_if_idle(&mut self, index: usize) {
        let slot = self.slots[index].as_mut().expect("only an open slot is closed");
        if slot.receiving || slot.outbox.is_sending() {
            return;
        }
        slot.outbox.discard(&mut self.ring);
        self.slots[index] = None;
        self.free.push(index);
    }
}

/// Counts request heads (up to the empty line) over chunks that may end anywhere; requests have no body.
#[derive(Default)]
struct HeadEnds {
    matched: usize,
}

impl HeadEnds {
    fn count(&mut self, bytes: &[u8]) -> usize {
        const END: &[u8; 4] = b"\r\n\r\n";
        let mut heads = 0;
        for &byte in bytes {
            self.matched = match byte {
                _ if byte == END[self.matched] => self.matched + 1,
                b'\r' => 1,
                _ => 0,
            };
            if self.matched == END.len() {
                heads += 1;
                self.matched = 0;
            }
        }
        heads
    }
}

fn service_histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 60_000_000_000, 3).expect("the bounds and three digits are legal")
}

fn token(kind: u64, slot: usize) -> u64 {
    kind << 56 | slot as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_are_counted_wherever_the_chunks_end() {
        let bytes = b"GET / HTTP/1.1\r\nA: b\r\n\r\nGET /\r\r\n\r\n\r\n\r\n";
        for chunk in 1..bytes.len() {
            let mut heads = HeadEnds::default();
            let total: usize = bytes.chunks(chunk).map(|chunk| heads.count(chunk)).sum();
            assert_eq!(total, 3, "in chunks of {chunk}");
        }
    }

    #[test]
    fn every_kind_of_traffic_comes_back_and_is_counted() {
        let mut driver = Driver::new().unwrap();
        for traffic in [Traffic::Echo { bytes: 64 }, Traffic::Echo { bytes: 262_144 }, Traffic::Http] {
            let server = driver.upstream(traffic).unwrap();
            driver.connect(server, 100, traffic).unwrap();
            assert_eq!(driver.exchange(5).unwrap().len(), 5);
            let sample = driver.drive(Duration::from_millis(1)).unwrap();
            driver.rest().unwrap();
            assert_eq!(sample.exchanges, sample.service_ns.len());
            driver.disconnect().unwrap();
        }
        assert!(driver.slots.iter().all(Option::is_none));
    }

    #[test]
    fn a_burst_is_answered_when_all_have_asked() {
        let mut driver = Driver::new().unwrap();
        let traffic = Traffic::Echo { bytes: 64 };
        let server = driver.upstream(traffic).unwrap();
        driver.connect(server, 100, traffic).unwrap();
        for _ in 0..2 {
            let sample = driver.drive_bursts(Duration::from_millis(1)).unwrap();
            assert_eq!(sample.exchanges, sample.service_ns.len());
            assert!(sample.exchanges > 0 && sample.exchanges.is_multiple_of(100));
        }
        // The first way to drive works as before.
        assert_eq!(driver.exchange(3).unwrap().len(), 3);
        driver.rest().unwrap();
        driver.disconnect().unwrap();
        assert!(driver.slots.iter().all(Option::is_none));
    }
}
