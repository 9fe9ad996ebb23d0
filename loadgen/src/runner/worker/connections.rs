//! The life of the connections: opened at their pace, given out and taken back, closed, opened again.

use std::net::IpAddr;
use std::time::Duration;

use fracas_dataplane::clock::Instant;
use fracas_dataplane::ring::{BufferSize, Errno, Ring, SLOT_LIMIT, Socket, Token};

use super::{CREDIT_BYTES, Readiness, Slot, Timer, Worker};
use crate::measure::Outcome as Ended;
use crate::runner::connection::{
    Connection, EADDRNOTAVAIL, EMFILE, ENFILE, InFlight, Request, State, kind_of_connect_errno,
};

/// Connects that begin in one turn, so that a storm of them does not hold up what is due.
const CONNECTS_PER_TURN_MAX: u32 = 16;
/// How long a connection of one request waits for the target to close first, which leaves the port in
/// TIME_WAIT (RFC 9293 §3.3.2) on the target's side and not on this one.
const CLOSE_WAIT_MAX: Duration = Duration::from_millis(100);
/// Failed connects after which a target without a single connection counts as not there.
const FAILURES_BEFORE_GIVING_UP: u64 = 3;

impl<R: Ring> Worker<R> {
    /// Whether connections are missing that nobody waits for.
    pub(super) fn wants_connections(&self) -> bool {
        self.settings.plan.keep_alive
            && self.live < self.wanted
            && self.ended_at.is_none()
            && self.issued_at.is_none()
            // What waits opens its own, and nothing may take the place of it.
            && self.waiting.is_empty()
    }

    pub(super) fn open_connections(&mut self) {
        for _ in 0..CONNECTS_PER_TURN_MAX {
            if !self.wants_connections() || self.opener.unasked_at(self.start.is_some()) > self.now {
                return;
            }
            self.opener.on_begun(self.now);
            self.connect(None);
        }
    }

    /// Opens a connection for a request that waits for it; its failure is the request's.
    pub(super) fn connect_for(&mut self, request: Request) {
        self.opener.on_begun(self.now);
        self.connect(Some(request));
    }

    fn connect(&mut self, request: Option<Request>) {
        let Some(slot) = self.free_slot() else {
            return self.note_connect_failure(Errno(EMFILE), request);
        };
        let generation = self.slots[slot as usize].generation;
        let token = Token { role: 0, slot, generation };
        let source = self.source_address();
        let again = self.lost > 0 && self.settings.plan.keep_alive;
        match self.ring.connect(self.settings.target, source, &self.settings.options, token) {
            Ok(socket) => self.on_connecting(slot, socket, request, again),
            Err(error) => {
                self.free_slots.push(slot);
                let errno = Errno(error.raw_os_error().unwrap_or_default());
                self.note_connect_failure(errno, request);
            }
        }
    }

    /// A place for one more connection; none when the connections that close already fill the ring's numbers.
    fn free_slot(&mut self) -> Option<u32> {
        if self.free_slots.is_empty() && self.slots.len() < SLOT_LIMIT as usize {
            self.slots.push(Slot::default());
            return Some(self.slots.len() as u32 - 1);
        }
        self.free_slots.pop()
    }

    fn on_connecting(&mut self, slot: u32, socket: Socket, request: Option<Request>, again: bool) {
        self.lost -= u64::from(again);
        self.connects += 1;
        self.live += 1;
        self.open += 1;
        let mut connection = Connection::new(socket, self.reader.clone(), self.now, again);
        connection.request = request;
        connection.deadline = self.now + self.settings.plan.connect_timeout;
        if let Some(request) = request {
            connection.deadline = connection.deadline.min(request.due + self.settings.plan.response_timeout);
        }
        self.slots[slot as usize].connection = Some(connection);
        self.watch(slot);
    }

    fn source_address(&mut self) -> Option<IpAddr> {
        let pool = &self.settings.plan.source_addresses;
        let address = pool.get(self.next_source % pool.len().max(1)).copied();
        self.next_source = self.next_source.wrapping_add(1);
        address
    }

    pub(super) fn on_connected(&mut self, slot: u32) {
        let now = self.now;
        let (connection, token) = self.at(slot);
        if connection.state != State::Connecting {
            return;
        }
        connection.state = State::Open;
        connection.opened_at = now;
        connection.deadline = Instant::FAR_FUTURE;
        connection.in_flight.receive = true;
        let Connection { socket, asked_at, again, .. } = *connection;
        let request = connection.request;
        self.recorder.connected(asked_at, now, again);
        self.fastest.connected(now.since(asked_at));
        self.readiness.open += 1;
        if self.readiness.open >= self.readiness.asked {
            self.readiness.is_settled = true;
        }
        self.ring.receive(socket, token, BufferSize::Small, CREDIT_BYTES);
        match request {
            Some(request) => {
                self.at(slot).0.deadline = request.due + self.settings.plan.response_timeout;
                self.send_request(slot, token);
            }
            None => self.rest(slot),
        }
    }

    pub(super) fn on_connect_failed(&mut self, slot: u32, errno: Errno) {
        let (connection, _) = self.at(slot);
        let request = connection.request.take();
        self.close(slot);
        self.note_connect_failure(errno, request);
    }

    fn note_connect_failure(&mut self, Errno(errno): Errno, request: Option<Request>) {
        self.recorder.connect_failed(self.now);
        self.readiness.failures += 1;
        self.readiness.last_error = Some(Errno(errno));
        self.settle_if_hopeless();
        self.shortages.ports += u64::from(errno == EADDRNOTAVAIL);
        self.shortages.descriptors += u64::from(errno == EMFILE || errno == ENFILE);
        self.opener.on_failure(self.now);
        if let Some(request) = request {
            self.end_request(request, Ended::Error(kind_of_connect_errno(errno)), true);
        }
    }

    /// Gives up waiting for connections when none stays.
    fn settle_if_hopeless(&mut self) {
        let Readiness { open, failures, hung_up, .. } = self.readiness;
        self.readiness.is_settled |= open == 0 && failures + hung_up >= FAILURES_BEFORE_GIVING_UP;
    }

    /// An open connection without a request can take the next one.
    pub(super) fn rest(&mut self, slot: u32) {
        if self.slots[slot as usize].connection.as_ref().is_some_and(Connection::is_idle) {
            self.idle.push(slot);
        }
    }

    /// Sees to it that a timer looks at the connection's deadline. One that is due before it will move itself,
    /// so that a request costs no timer.
    pub(super) fn watch(&mut self, slot: u32) {
        let entry = &mut self.slots[slot as usize];
        let Some(connection) = &mut entry.connection else { return };
        match connection.timer {
            Some((due, _)) if due <= connection.deadline => return,
            Some((_, id)) => {
                self.timers.cancel(id);
            }
            None => {}
        }
        let timer = Timer::Connection { slot, generation: entry.generation };
        connection.timer = Some((connection.deadline, self.timers.insert(connection.deadline, timer)));
    }

    /// The connection ended and another has to be opened in its place.
    pub(super) fn lose(&mut self, slot: u32) {
        let Connection { has_replied, has_carried, .. } = *self.at(slot).0;
        if !has_replied {
            // A target that hangs up on everybody must not be called again at once.
            self.opener.on_failure(self.now);
        }
        self.lost += 1;
        self.close(slot);
        if !has_carried {
            self.readiness.hung_up += 1;
            self.settle_if_hopeless();
        }
    }

    /// Begins to close: at once if nothing is in flight, else when that has ended.
    fn close(&mut self, slot: u32) {
        self.detach(slot);
        let (connection, token) = self.at(slot);
        if connection.in_flight != Default::default() {
            let socket = connection.socket;
            self.ring.cancel_all(socket);
        }
        self.free_if_closed(slot, token.generation);
    }

    /// Begins to close, leaving the first FIN to the target.
    pub(super) fn close_gently(&mut self, slot: u32) {
        self.detach(slot);
        let deadline = self.now + CLOSE_WAIT_MAX;
        self.at(slot).0.deadline = deadline;
        self.watch(slot);
    }

    /// Takes the connection out of use.
    fn detach(&mut self, slot: u32) {
        self.idle.remove(slot);
        let (connection, _) = self.at(slot);
        debug_assert_ne!(connection.state, State::Closing, "a connection is closed once");
        if connection.state == State::Open {
            self.readiness.open = self.readiness.open.saturating_sub(1);
        }
        let (connection, _) = self.at(slot);
        connection.state = State::Closing;
        if let Some((_, id)) = connection.timer.take() {
            self.timers.cancel(id);
        }
        self.live -= 1;
    }

    pub(super) fn free_if_closed(&mut self, slot: u32, generation: u16) {
        let entry = &mut self.slots[slot as usize];
        if entry.generation != generation {
            return;
        }
        let is_over = entry.connection.as_ref().is_some_and(|connection| {
            connection.state == State::Closing && connection.in_flight == Default::default()
        });
        if !is_over {
            return;
        }
        if let Some(connection) = entry.connection.take() {
            entry.generation = entry.generation.wrapping_add(1);
            if let Some((_, id)) = connection.timer {
                self.timers.cancel(id);
            }
            self.ring.close(connection.socket);
            self.free_slots.push(slot);
            self.open -= 1;
        }
    }

    /// Closes what is at `slot`, without waiting for anything.
    pub(super) fn close_now(&mut self, slot: u32) {
        let Slot { connection, .. } = &self.slots[slot as usize];
        match connection.as_ref().map(|connection| (connection.state, connection.socket)) {
            Some((State::Closing, socket)) => self.ring.cancel_all(socket),
            Some((State::Open, _)) => {
                self.detach(slot);
                let (connection, token) = self.at(slot);
                match (connection.in_flight, connection.socket) {
                    // The kernel finds what is on a descriptor by looking at all that waits, and one operation at once:
                    // 10,000 idle connections took it 17 s.
                    (InFlight { receive: true, send: false, connect: false }, _) => {
                        self.ring.cancel_receive(token);
                    }
                    (in_flight, socket) if in_flight != InFlight::default() => self.ring.cancel_all(socket),
                    _ => {}
                }
                self.free_if_closed(slot, token.generation);
            }
            Some(_) => self.close(slot),
            None => {}
        }
    }
}
