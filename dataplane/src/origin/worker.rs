//! The origin on one ring: reads requests, answers when it is time.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::OriginSettings;
use super::connection::Connection;
use super::limits::{CREDIT_BYTES, Closed, LINGER, Limits, Shared};
use super::reply::{Shapes, Wish};
use super::service::Service;
use crate::clock::Instant;
use crate::ring::{Chunk, Errno, Outcome, ReceiveEnd, Ring, SLOT_LIMIT, Socket, Token};
use crate::timers::Timers;

const LISTENER: Token = Token { role: 0, slot: 0, generation: 0 };
const CONNECTION: u8 = 1;
/// How long accepting rests when no descriptor is left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Connections that are looked at to free a place at the limit.
const EVICTION_LOOKS: usize = 64;
/// Connections that may be on their way out for new ones: their descriptors are still taken.
const EVICTING_MAX: usize = 16;

/// One thread of the origin. Drive it by [`OriginWorker::turn`].
pub struct OriginWorker<R: Ring> {
    ring: R,
    echo: bool,
    limits: Limits,
    connections_max: usize,
    shared: Arc<Shared>,
    clerk: Clerk,
    now: Instant,
    timers: Timers<Timer>,
    listener: Socket,
    accepting: bool,
    is_cut: bool,
    connections: Vec<Option<Box<Connection>>>,
    generations: Vec<u16>,
    free: Vec<u32>,
    starved: Vec<(u32, u16)>,
    /// Where the search for a connection to evict goes on.
    hand: usize,
    evicting: usize,
    shapes: Shapes,
    out: Vec<Chunk>,
    woken: bool,
}

/// Says when a request's reply is due.
struct Clerk {
    shared: Arc<Shared>,
    delay: Duration,
    service: Option<Service>,
}

impl Clerk {
    fn due(&mut self, now: Instant, wish: Wish) -> Instant {
        if let Wish::Freeze(length) = wish {
            self.shared.freeze(now, length);
        }
        self.shared.asked.fetch_add(1, Ordering::Relaxed);
        let ready = self.shared.frozen_until().max(now);
        let done = self.service.as_mut().map_or(ready, |service| service.serve(ready));
        // The plain delay begins when the request came, also during a freeze.
        let delayed = done.max(now + self.delay);
        let delayed = if self.service.is_some() { done + self.delay } else { delayed };
        if let Wish::Delay(time) = wish { delayed + time } else { delayed }
    }
}

#[derive(Clone, Copy)]
enum Timer {
    /// A reply is due.
    Reply(u32, u16),
    /// See whether the connection is over its time.
    Look(u32, u16),
    Accept,
}

impl<R: Ring> OriginWorker<R> {
    /// Listens on `settings.listen` by `ring`; returns the address in use. Without
    /// [`Limits::connections_max`], connections are as many as a ring can name.
    ///
    /// # Errors
    /// Those of bind(2) and listen(2).
    pub fn open(
        mut ring: R,
        settings: OriginSettings,
        shared: Arc<Shared>,
    ) -> io::Result<(OriginWorker<R>, SocketAddr)> {
        let (listener, address) = ring.listen(settings.listen, &settings.options)?;
        ring.accept(listener, LISTENER);
        let now = ring.now();
        let service = settings.service.map(Service::new);
        let worker = OriginWorker {
            ring,
            echo: settings.echo,
            limits: settings.limits,
            connections_max: settings.limits.connections_max.unwrap_or(usize::MAX),
            clerk: Clerk { shared: Arc::clone(&shared), delay: settings.delay, service },
            shared,
            now,
            timers: Timers::new(now),
            listener,
            accepting: true,
            is_cut: false,
            connections: Vec::new(),
            generations: Vec::new(),
            free: Vec::new(),
            starved: Vec::new(),
            hand: 0,
            evicting: 0,
            shapes: Shapes::new(settings.body_bytes),
            out: Vec::new(),
            woken: false,
        };
        Ok((worker, address))
    }

    /// Waits for something to happen or to be due, and does what follows.
    ///
    /// # Errors
    /// Only what the ring cannot go on from.
    pub fn turn(&mut self) -> io::Result<()> {
        let deadline = self.timers.next_due();
        self.ring.wait_until(deadline)?;
        self.now = self.ring.now();
        while let Some(completion) = self.ring.next_completion() {
            match completion.outcome {
                Outcome::Woken => self.woken = true,
                Outcome::Accepted(socket) => self.on_accepted(socket),
                Outcome::AcceptEnded(errno) => self.on_accept_ended(errno),
                outcome => self.on_connection(completion.token, outcome),
            }
        }
        while let Some((_, timer)) = self.timers.pop_due(self.now) {
            match timer {
                Timer::Accept => self.accept(),
                Timer::Reply(slot, generation) => {
                    if let Some(connection) = self.find(slot, generation) {
                        connection.timer = false;
                        self.flush(slot);
                    }
                }
                Timer::Look(slot, generation) => {
                    if self.find(slot, generation).is_some() {
                        self.look(slot);
                    }
                }
            }
        }
        for (slot, generation) in std::mem::take(&mut self.starved) {
            if self.find(slot, generation).is_some() {
                self.receive(slot);
            }
        }
        Ok(())
    }

    /// When something is due next.
    #[cfg(feature = "simulated")]
    pub fn next_due(&mut self) -> Instant {
        self.timers.next_due()
    }

    /// Whether another thread has called since this was last asked.
    pub fn take_woken(&mut self) -> bool {
        std::mem::take(&mut self.woken)
    }

    /// Connections that are not closed yet.
    pub fn open_connections(&self) -> usize {
        self.connections.len() - self.free.len()
    }

    /// Stops listening and closes every connection.
    pub fn cut(&mut self) {
        if !std::mem::replace(&mut self.is_cut, true) {
            if self.accepting {
                self.ring.cancel_all(self.listener);
            } else {
                self.ring.close(self.listener);
            }
        }
        for slot in 0..self.connections.len() as u32 {
            self.close(slot);
        }
    }

    fn accept(&mut self) {
        if !self.is_cut && !self.accepting {
            self.accepting = true;
            self.ring.accept(self.listener, LISTENER);
        }
    }

    fn on_accept_ended(&mut self, errno: Errno) {
        self.accepting = false;
        if self.is_cut {
            self.ring.close(self.listener);
        } else if matches!(errno, Errno(libc::EMFILE | libc::ENFILE)) {
            self.timers.insert(self.now + ACCEPT_PAUSE, Timer::Accept);
        } else {
            self.accept();
        }
    }

    fn find(&mut self, slot: u32, generation: u16) -> Option<&mut Connection> {
        if self.generations.get(slot as usize) != Some(&generation) {
            return None;
        }
        self.connections[slot as usize].as_deref_mut()
    }

    fn on_accepted(&mut self, socket: Socket) {
        if self.is_cut {
            return self.ring.close(socket);
        }
        let open = self.shared.open.load(Ordering::Relaxed);
        if open >= self.connections_max && !self.evict() {
            self.shared.count(Closed::Refused);
            return self.ring.close(socket);
        }
        let slot = match self.free.pop() {
            Some(slot) => slot,
            None if self.connections.len() < SLOT_LIMIT as usize => {
                self.connections.push(None);
                self.generations.push(0);
                self.connections.len() as u32 - 1
            }
            None => {
                self.shared.count(Closed::Refused);
                return self.ring.close(socket);
            }
        };
        self.shared.open.fetch_add(1, Ordering::Relaxed);
        self.connections[slot as usize] = Some(Box::new(Connection::new(socket, self.now)));
        self.look(slot);
        self.receive(slot);
    }

    /// Frees a place at the limit: of some connections the one that has done nothing for longest.
    fn evict(&mut self) -> bool {
        if self.evicting >= EVICTING_MAX {
            return false;
        }
        let mut longest: Option<(Instant, usize)> = None;
        for _ in 0..EVICTION_LOOKS.min(self.connections.len()) {
            self.hand = (self.hand + 1) % self.connections.len();
            let from =
                self.connections[self.hand].as_ref().and_then(|connection| connection.evictable_from());
            if let Some(from) = from.filter(|from| *from <= self.now)
                && longest.is_none_or(|(earliest, _)| from < earliest)
            {
                longest = Some((from, self.hand));
            }
        }
        let Some((_, slot)) = longest else { return false };
        if let Some(connection) = &mut self.connections[slot] {
            connection.evicted = true;
            self.evicting += 1;
            self.shared.count(Closed::Evicted);
        }
        self.close(slot as u32);
        true
    }

    /// Ends a connection that is over its time, or looks again later.
    fn look(&mut self, slot: u32) {
        let generation = self.generations[slot as usize];
        let Some(connection) = &self.connections[slot as usize] else { return };
        if connection.closing {
            return;
        }
        let deadline = match connection.lingers_until {
            Some(until) => Some((until, None)),
            None => connection.deadline(&self.limits).map(|(at, closed)| (at, Some(closed))),
        };
        if let Some((_, closed)) = deadline.filter(|(at, _)| *at <= self.now) {
            if let Some(closed) = closed {
                self.shared.count(closed);
            }
            return self.close(slot);
        }
        // A later state may have an earlier deadline, so it is never longer than a period to the next look.
        let later = self.limits.period().map(|period| self.now + period);
        let Some(at) = deadline.map(|(at, _)| at).into_iter().chain(later).min() else { return };
        self.timers.insert(at, Timer::Look(slot, generation));
    }

    fn receive(&mut self, slot: u32) {
        let token = self.token(slot);
        let Some(connection) = &mut self.connections[slot as usize] else { return };
        let is_wanted = connection.has_room() || connection.lingers_until.is_some();
        if connection.receiving || connection.ended || connection.closing || !is_wanted {
            return;
        }
        let size = connection.size.buffers();
        if !self.ring.has_buffers(size) {
            return self.starved.push((slot, token.generation));
        }
        connection.receiving = true;
        self.ring.receive(connection.socket, token, size, CREDIT_BYTES);
    }

    fn token(&self, slot: u32) -> Token {
        Token { role: CONNECTION, slot, generation: self.generations[slot as usize] }
    }

    fn on_connection(&mut self, token: Token, outcome: Outcome) {
        let (slot, now) = (token.slot, self.now);
        let Some(connection) = self.find(slot, token.generation) else { return };
        match outcome {
            Outcome::Received { chunk, armed } => {
                connection.receiving = armed;
                connection.cancelling &= armed;
                connection.size.observe(chunk.len());
                if !connection.closing && connection.lingers_until.is_none() {
                    self.on_bytes(slot, chunk);
                }
            }
            Outcome::Sent => connection.on_sent(now),
            Outcome::SendFailed(_) => {
                connection.sending = false;
                return self.close(slot);
            }
            Outcome::ReceiveEnded(end) => {
                (connection.receiving, connection.cancelling) = (false, false);
                match end {
                    ReceiveEnd::Eof => connection.ended = true,
                    ReceiveEnd::Failed(_) => return self.close(slot),
                    ReceiveEnd::NoBuffers => self.starved.push((slot, token.generation)),
                    ReceiveEnd::Stopped => {}
                }
            }
            other => unreachable!("not a connection's: {other:?}"),
        }
        self.flush(slot);
    }

    fn on_bytes(&mut self, slot: u32, chunk: Chunk) {
        let (now, clerk) = (self.now, &mut self.clerk);
        let Some(connection) = &mut self.connections[slot as usize] else { return };
        if self.echo {
            let due = clerk.due(now, Wish::Plain);
            connection.echo(chunk, now, due);
        } else {
            connection.read(chunk, now, |wish| clerk.due(now, wish));
        }
    }

    fn flush(&mut self, slot: u32) {
        let (token, now) = (self.token(slot), self.now);
        let Some(connection) = &mut self.connections[slot as usize] else { return };
        if connection.closing {
            return self.settle(slot);
        }
        if connection.has_parked() {
            let clerk = &mut self.clerk;
            connection.read_parked(now, |wish| clerk.due(now, wish));
        }
        if !connection.sending {
            let begun = connection.fill(now, &self.shapes, &mut self.out);
            if connection.sending {
                self.shared.answered.fetch_add(begun, Ordering::Relaxed);
                self.ring.send(connection.socket, token, self.out.drain(..));
            } else if let Some(due) = connection.next_due() {
                if !connection.timer {
                    connection.timer = true;
                    self.timers.insert(due, Timer::Reply(slot, token.generation));
                }
            } else if connection.is_done() && (connection.ended || connection.last) {
                return self.finish(slot);
            }
        }
        if !connection.has_room()
            && connection.receiving
            && !connection.cancelling
            && !self.ring.counts_credit()
        {
            connection.cancelling = true;
            self.ring.cancel_receive(token);
        }
        self.receive(slot);
    }

    /// Everything is answered: closes, but not over bytes that are still to be read, for which the kernel would
    /// send a RST that may overtake the last reply (RFC 9112 §9.6).
    fn finish(&mut self, slot: u32) {
        let generation = self.generations[slot as usize];
        let Some(connection) = &mut self.connections[slot as usize] else { return };
        if connection.ended {
            return self.close(slot);
        }
        if connection.lingers_until.is_none() {
            let until = self.now + LINGER;
            connection.lingers_until = Some(until);
            self.ring.shutdown_write(connection.socket);
            self.timers.insert(until, Timer::Look(slot, generation));
        }
        self.receive(slot);
    }

    fn close(&mut self, slot: u32) {
        let Some(connection) = &mut self.connections[slot as usize] else { return };
        if !connection.closing {
            connection.closing = true;
            connection.discard();
            if connection.receiving || connection.sending {
                self.ring.cancel_all(connection.socket);
            }
        }
        self.settle(slot);
    }

    fn settle(&mut self, slot: u32) {
        let place = &mut self.connections[slot as usize];
        let over =
            place.take_if(|connection| connection.closing && !connection.receiving && !connection.sending);
        if let Some(connection) = over {
            self.ring.close(connection.socket);
            self.evicting -= usize::from(connection.evicted);
            self.shared.open.fetch_sub(1, Ordering::Relaxed);
            self.generations[slot as usize] = self.generations[slot as usize].wrapping_add(1);
            self.free.push(slot);
        }
    }
}
