//! Listeners of a worker: who comes is accepted, turned away, or waits while there is no descriptor.
//!
//! ```text
//!  listen ─► accepting ──no descriptor──► resting ──after a while──► accepting
//!                └─ shut ─► parting: its accept is cancelled, who had come is accepted yet, or turned away ─► closed
//! ```

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::{LISTENER, Timer, What, Worker, is_shortage, proxy_of};
use crate::behavior::ConnectionFacts;
use crate::proxy::connection::Connection;
use crate::proxy::event::{Detail, Event, EventKind};
use crate::ring::{Errno, Outcome, Ring, SLOT_LIMIT, Socket, Token};

/// How long accepting rests when no descriptor is left.
pub(super) const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How often it is told that a proxy turns connections away.
const LIMIT_TOLD_EVERY: Duration = Duration::from_secs(1);

/// A listener that is shut.
pub(super) struct Parting {
    pub(super) token: Token,
    socket: Socket,
    /// Who comes late is turned away.
    cut: bool,
}

impl<R: Ring> Worker<R> {
    /// Begins to listen again, after [`Worker::shut`].
    ///
    /// # Errors
    /// Those of bind(2) and listen(2).
    pub fn listen(&mut self, id: u32, address: SocketAddr) -> io::Result<Option<SocketAddr>> {
        let Some(proxy) = proxy_of(&mut self.proxies, id) else { return Ok(None) };
        let (socket, address) = self.cx.ring.listen(address, &proxy.options)?;
        self.settings.room.listens();
        proxy.listening = proxy.listening.wrapping_add(1);
        self.cx.ring.accept(socket, listener_token(id, proxy.listening));
        (proxy.listener, proxy.accepting, proxy.resting) = (Some(socket), true, false);
        Ok(Some(address))
    }

    /// Stops listening; closes the live connections too if `cut`.
    pub fn shut(&mut self, id: u32, cut: bool) {
        if let Some(proxy) = proxy_of(&mut self.proxies, id)
            && let Some(listener) = proxy.listener.take()
        {
            self.settings.room.listens_no_more();
            if std::mem::take(&mut proxy.accepting) {
                self.cx.ring.cancel_all(listener);
                let token = listener_token(id, proxy.listening);
                self.parting.push(Parting { token, socket: listener, cut });
            } else {
                self.cx.ring.close(listener);
            }
        }
        if cut {
            self.parting.iter_mut().filter(|parting| parting.token.slot == id).for_each(|it| it.cut = true);
            self.each_connection(id, |connection, cx, _| connection.close(cx));
        }
    }

    pub(super) fn on_listener(&mut self, token: Token, outcome: Outcome) {
        let id = token.slot;
        self.touch(id);
        if let Some(place) = self.parting.iter().position(|parting| parting.token == token) {
            return self.on_parting(place, outcome);
        }
        match outcome {
            Outcome::Accepted(socket) => self.on_accepted(id, socket),
            Outcome::AcceptEnded(Errno(errno)) => {
                let Some(proxy) = proxy_of(&mut self.proxies, id) else { return };
                proxy.accepting = false;
                let Some(listener) = proxy.listener else { return };
                // Cancelled is only what has to rest, or is parting.
                let rested = std::mem::take(&mut proxy.resting);
                let errno = if rested { self.cx.shortage.0 } else { errno };
                if rested || is_shortage(Errno(errno)) {
                    proxy.counters.accept_paused += 1;
                    // In a storm it pauses ten times a second: told once until one is accepted.
                    if !std::mem::replace(&mut proxy.pause_told, true) {
                        let event = proxy.event(EventKind::LimitReached, self.cx.now);
                        let detail = Detail::Failed("accept_paused", Errno(errno));
                        self.cx.events.push(Event { detail, ..event });
                    }
                    let timer = Timer { slot: id, generation: 0, what: What::Accept };
                    self.cx.timers.insert(self.cx.now + ACCEPT_PAUSE, timer);
                } else {
                    proxy.accepting = true;
                    self.cx.ring.accept(listener, token);
                }
            }
            other => unreachable!("a listener only accepts: {other:?}"),
        }
    }

    fn on_parting(&mut self, place: usize, outcome: Outcome) {
        match outcome {
            Outcome::Accepted(socket) if self.parting[place].cut => self.cx.ring.close(socket),
            Outcome::Accepted(socket) => self.on_accepted(self.parting[place].token.slot, socket),
            Outcome::AcceptEnded(_) => self.cx.ring.close(self.parting.swap_remove(place).socket),
            other => unreachable!("a listener only accepts: {other:?}"),
        }
    }

    fn on_accepted(&mut self, id: u32, socket: Socket) {
        let Some(proxy) = proxy_of(&mut self.proxies, id) else { return self.cx.ring.close(socket) };
        if !self.settings.room.take(proxy.open) {
            return self.turn_away(id, socket);
        }
        let place = match self.free.pop() {
            Some(place) => Some(place),
            None if self.connections.len() < SLOT_LIMIT as usize => {
                self.connections.push(None);
                self.generations.push(0);
                Some(self.connections.len() as u32 - 1)
            }
            None => None,
        };
        let Some(slot) = place else {
            self.settings.room.give_back();
            return self.turn_away(id, socket);
        };
        let nowhere = || SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
        let client = self.cx.ring.peer_address(socket).unwrap_or_else(|_| nowhere());
        let ordinal = proxy.ordinals.fetch_add(1, Ordering::Relaxed);
        proxy.open += 1;
        proxy.pause_told = false;
        proxy.counters.connections_opened += 1;
        let facts = ConnectionFacts { client, ordinal };
        let generation = self.generations[slot as usize];
        let mut connection = Box::new(Connection::new(id, slot, generation, facts, socket));
        connection.start(&mut self.cx, proxy);
        self.connections[slot as usize] = Some(connection);
        self.free_if_closed(slot);
    }

    /// There is no room for another connection. A RST says so: where proxies lead to each other, it undoes all of their
    /// connections, while a FIN would have each of them wait for the other side.
    fn turn_away(&mut self, id: u32, socket: Socket) {
        self.cx.ring.reset(socket);
        self.cx.ring.close(socket);
        let Some(proxy) = proxy_of(&mut self.proxies, id) else { return };
        proxy.counters.connection_limit_reached += 1;
        // In a storm it happens thousands of times a second.
        if self.cx.now >= proxy.limit_told_until {
            proxy.limit_told_until = self.cx.now + LIMIT_TOLD_EVERY;
            let event = proxy.event(EventKind::LimitReached, self.cx.now);
            self.cx.events.push(Event { detail: Detail::Words("connection_limit_reached"), ..event });
        }
    }

    /// Accepting has rested: goes on, unless somebody still waits for a descriptor.
    pub(super) fn accept_again(&mut self, timer: Timer) {
        if !self.cx.short.is_empty() {
            self.cx.timers.insert(self.cx.now + ACCEPT_PAUSE, timer);
            return;
        }
        if let Some(proxy) = proxy_of(&mut self.proxies, timer.slot)
            && let (Some(listener), false) = (proxy.listener, proxy.accepting)
        {
            proxy.accepting = true;
            self.cx.ring.accept(listener, listener_token(timer.slot, proxy.listening));
        }
    }
}

pub(super) fn listener_token(id: u32, listening: u16) -> Token {
    Token { role: LISTENER, slot: id, generation: listening }
}
