//! From due to sent: what the plan and the users want now goes into a line, and from its head to free connections.

use std::rc::Rc;

use fracas_dataplane::clock::Instant;
use fracas_dataplane::ring::{Chunk, Ring, Token};

use super::{WAITING_MAX, Waiting, Worker};
use crate::measure::{DropReason, ErrorKind, Outcome as Ended};
use crate::runner::connection::Request;
use crate::scenario::LatePolicy;

impl<R: Ring> Worker<R> {
    /// Moves what is due from the schedule and the users into the line.
    pub(super) fn take_due(&mut self) {
        let Some(start) = self.start.filter(|start| *start <= self.now && self.ended_at.is_none()) else {
            return;
        };
        let elapsed = self.now.since(start);
        while let Some(beginning) = self.users.begin(elapsed) {
            for _ in 0..beginning {
                // Nothing was due before: in the closed model a late start delays, it does not pile up.
                self.user_turn(self.now);
            }
        }
        while let Some(arrival) = self.schedule.peek()
            && arrival.due <= elapsed
            && arrival.due < self.cut
            && self.waiting.len() < WAITING_MAX
        {
            self.schedule.next();
            let due = start + arrival.due;
            self.recorder.planned(due, arrival.warm_up);
            self.waiting.push_back(Waiting { due, warm_up: arrival.warm_up, of_user: false });
        }
    }

    /// A user sends its next request, unless its phase is over.
    pub(super) fn user_turn(&mut self, due: Instant) {
        let Some(start) = self.start else { return };
        if let Some(warm_up) = self.users.take_turn(due.since(start)) {
            self.recorder.planned(due, warm_up);
            self.waiting.push_back(Waiting { due, warm_up, of_user: true });
        }
    }

    /// Sends what waits for as long as there is a connection for it.
    pub(super) fn dispatch(&mut self) {
        while let Some(waiting) = self.waiting.front().copied() {
            if let LatePolicy::DropAfter(limit) = self.settings.plan.late
                && !waiting.of_user
                && self.now.since(waiting.due) > limit
            {
                self.pop_waiting();
                self.recorder.dropped(waiting.due, self.now, DropReason::Late, waiting.warm_up);
                continue;
            }
            let slot = if self.settings.plan.keep_alive {
                match self.idle.last() {
                    Some(slot) => Some(*slot),
                    None => break,
                }
            } else if self.live < self.wanted {
                None
            } else {
                break;
            };
            let was_blocked = self.pop_waiting();
            let Waiting { due, warm_up, of_user } = waiting;
            let ready = if was_blocked { self.now.max(due) } else { due };
            self.recorder.sent(due, warm_up);
            self.in_flight += 1;
            let request = Request { due, ready, sent: self.now, warm_up, of_user };
            match slot {
                Some(slot) => self.send(slot, request),
                None => self.connect_for(request),
            }
        }
        self.blocked = self.waiting.len();
    }

    /// Takes the first in the line; whether it had to wait for a connection.
    fn pop_waiting(&mut self) -> bool {
        self.waiting.pop_front();
        let was_blocked = self.blocked > 0;
        self.blocked = self.blocked.saturating_sub(1);
        was_blocked
    }

    fn send(&mut self, slot: u32, request: Request) {
        self.leave_idle(slot);
        let deadline = request.sent + self.settings.plan.response_timeout;
        let (connection, token) = self.at(slot);
        (connection.request, connection.deadline) = (Some(request), deadline);
        self.send_request(slot, token);
    }

    /// Queues the bytes of the connection's request.
    pub(super) fn send_request(&mut self, slot: u32, token: Token) {
        let bytes = Chunk::from(Rc::clone(&self.request));
        self.sent_bytes += bytes.len() as u64;
        let (connection, _) = self.at(slot);
        connection.in_flight.send = true;
        let socket = connection.socket;
        self.watch(slot);
        self.ring.send(socket, token, std::iter::once(bytes));
    }

    /// Nothing is connected and a connect has just failed: those who waited for it have failed with it.
    pub(super) fn fail_waiting(&mut self, asked_at: Instant, kind: ErrorKind) {
        for _ in 0..self.waiting.len() {
            let Some(Waiting { due, warm_up, of_user }) = self.waiting.pop_front() else { break };
            let sent = asked_at.max(due);
            self.recorder.sent(due, warm_up);
            self.in_flight += 1;
            let request = Request { due, ready: sent, sent, warm_up, of_user };
            self.end_request(request, Ended::Error(kind));
        }
        self.blocked = self.waiting.len();
    }
}
