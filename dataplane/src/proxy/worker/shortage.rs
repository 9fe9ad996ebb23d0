//! A want of descriptors: who was accepted and finds none for its upstream waits, and a crowd is thinned out.
//!
//! A multishot accept takes every descriptor that is left, in one go. If each of the accepted were closed for want of
//! another, the next crowd would fare the same, for ever. So accepting rests, the newer half gives its descriptors up,
//! and the older half takes them: each round serves somebody.

use std::time::Duration;

use super::accepting::ACCEPT_PAUSE;
use super::{Timer, What, Worker};
use crate::proxy::connection::Connection;
use crate::ring::Ring;

/// Turns until a socket that was given up is closed: its receive is cancelled in one, and its close submitted in the next.
const THINNING_TURNS: u64 = 3;

impl<R: Ring> Worker<R> {
    /// Tries those that wait for a descriptor, the oldest first; turns the newer half away if that does not help.
    pub(super) fn relieve_shortage(&mut self) {
        for proxy in self.proxies.iter_mut().flatten().filter(|proxy| proxy.accepting && !proxy.resting) {
            if let Some(listener) = proxy.listener {
                proxy.resting = true;
                self.cx.ring.cancel_all(listener);
            }
        }
        let waiting = std::mem::take(&mut self.cx.short);
        for (slot, generation) in waiting {
            // After one that finds none, each of the others only takes its place in the line again.
            self.with_waiting(slot, generation, |connection, cx, proxy| {
                if cx.short.is_empty() {
                    connection.connect_again(cx, proxy);
                } else {
                    cx.short.push_back((slot, generation));
                }
            });
        }
        let may_thin = self.turns >= self.thinned_in + THINNING_TURNS;
        let others = if may_thin { self.cx.short.len() / 2 } else { 0 };
        if others > 0 {
            self.thinned_in = self.turns;
        }
        for _ in 0..others {
            let Some((slot, generation)) = self.cx.short.pop_back() else { break };
            self.with_waiting(slot, generation, |connection, cx, proxy| {
                connection.give_up_descriptor(cx, proxy);
            });
        }
        if !self.cx.short.is_empty() && !self.look_due {
            // What was given up is free in a few turns; otherwise somebody has to leave.
            let soon = self.turns < self.thinned_in + THINNING_TURNS;
            let wait = if soon { Duration::ZERO } else { ACCEPT_PAUSE };
            let timer = Timer { slot: 0, generation: 0, what: What::Shortage };
            self.cx.timers.insert(self.cx.now + wait, timer);
            self.look_due = true;
        }
    }

    fn with_waiting(
        &mut self,
        slot: u32,
        generation: u16,
        call: impl FnOnce(&mut Connection, &mut super::Context<R>, &mut super::ProxyState),
    ) {
        if self.generations[slot as usize] != generation {
            return;
        }
        let Some(id) = self.connections[slot as usize].as_ref().map(|it| it.proxy) else { return };
        self.touch(id);
        let Some(connection) = &mut self.connections[slot as usize] else { return };
        if connection.waits_for_descriptor() {
            let proxy =
                self.proxies[connection.proxy as usize].as_mut().expect("a proxy outlives its connections");
            call(connection, &mut self.cx, proxy);
            self.free_if_closed(slot);
        }
    }
}
