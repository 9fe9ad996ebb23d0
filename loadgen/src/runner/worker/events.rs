//! What the ring and the timers say, and what it means for the connection it is about.

use std::rc::Rc;

use fracas_dataplane::clock::Instant;
use fracas_dataplane::ring::{BufferSize, Completion, Errno, Outcome, ReceiveEnd, Ring, Token};

use super::{CREDIT_BYTES, Timer, Worker};
use crate::measure::{ErrorKind, Outcome as Ended};
use crate::protocol::{Progress, Reply};
use crate::runner::connection::{Request, State, kind_of_errno, kind_of_invalid};

impl<R: Ring> Worker<R> {
    pub(super) fn on_completion(&mut self, completion: Completion) {
        let Completion { token, outcome } = completion;
        if matches!(outcome, Outcome::Woken) {
            self.woken = true;
            return;
        }
        let slot = token.slot;
        let of_this = self.slots.get_mut(slot as usize).filter(|entry| entry.generation == token.generation);
        // Without a connection it is a late word about an earlier tenant of the slot.
        let Some(connection) = of_this.and_then(|entry| entry.connection.as_mut()) else { return };
        match outcome {
            Outcome::Received { chunk, armed } => {
                connection.in_flight.receive = armed;
                self.received_bytes += chunk.len() as u64;
                self.on_bytes(slot, &chunk);
                drop(chunk);
                self.receive_again(slot, token.generation);
            }
            Outcome::Sent => {
                connection.in_flight.send = false;
                self.rest(slot);
            }
            Outcome::ReceiveEnded(end) => {
                connection.in_flight.receive = false;
                match end {
                    ReceiveEnd::NoBuffers if connection.state == State::Open => {
                        self.starved.push((slot, token.generation));
                    }
                    ReceiveEnd::NoBuffers => {}
                    ReceiveEnd::Stopped => self.receive_again(slot, token.generation),
                    ReceiveEnd::Eof => self.on_eof(slot),
                    ReceiveEnd::Failed(Errno(errno)) => self.fail(slot, kind_of_errno(errno)),
                }
            }
            Outcome::SendFailed(Errno(errno)) => {
                connection.in_flight.send = false;
                self.fail(slot, kind_of_errno(errno));
            }
            Outcome::Connected => {
                connection.in_flight.connect = false;
                self.on_connected(slot);
            }
            Outcome::ConnectFailed(errno) => {
                connection.in_flight.connect = false;
                if connection.state == State::Connecting {
                    self.on_connect_failed(slot, errno);
                }
            }
            Outcome::Accepted(_) | Outcome::AcceptEnded(_) | Outcome::Woken => {}
        }
        self.free_if_closed(slot, token.generation);
    }

    fn on_bytes(&mut self, slot: u32, bytes: &[u8]) {
        let request = Rc::clone(&self.request);
        let (connection, _) = self.at(slot);
        if connection.state != State::Open {
            return;
        }
        if connection.request.is_none() {
            // Nobody asked: whatever it is, the next reply could not be told from it.
            return self.lose(slot);
        }
        match connection.reader.advance(&request, bytes) {
            Progress::NeedMore => {}
            Progress::Done(reply) => self.on_reply(slot, reply, bytes.len()),
            Progress::Invalid(reply) => self.fail(slot, kind_of_invalid(reply)),
        }
    }

    fn on_reply(&mut self, slot: u32, reply: Reply, given_bytes: usize) {
        let (connection, _) = self.at(slot);
        let Some(request) = connection.request.take() else { return };
        connection.has_replied = true;
        let sent = request.sent.max(connection.opened_at);
        self.fastest.replied(self.now.since(sent));
        let outcome = match reply.status {
            400..500 => Ended::Error(ErrorKind::Status4xx),
            500..600 => Ended::Error(ErrorKind::Status5xx),
            _ => Ended::Ok,
        };
        if !self.settings.plan.keep_alive {
            self.close_gently(slot);
        } else if !reply.keep_alive || reply.consumed_bytes < given_bytes {
            self.lose(slot);
        } else {
            self.rest(slot);
        }
        self.opener.on_success();
        self.end_request(request, outcome, false);
    }

    fn on_eof(&mut self, slot: u32) {
        let (connection, _) = self.at(slot);
        if connection.state != State::Open {
            return;
        }
        if connection.request.is_none() {
            return self.lose(slot);
        }
        match connection.reader.on_end() {
            Progress::Done(reply) => self.on_reply(slot, Reply { keep_alive: false, ..reply }, 0),
            Progress::Invalid(reply) => self.fail(slot, kind_of_invalid(reply)),
            Progress::NeedMore => self.fail(slot, ErrorKind::EndedEarly),
        }
    }

    /// The connection is of no more use, and its request, if any, has failed.
    fn fail(&mut self, slot: u32, kind: ErrorKind) {
        let (connection, _) = self.at(slot);
        if connection.state == State::Closing {
            return;
        }
        let (request, has_replied) = (connection.request.take(), connection.has_replied);
        self.lose(slot);
        if let Some(request) = request {
            self.end_request(request, Ended::Error(kind), !has_replied);
        }
    }

    pub(super) fn on_timer(&mut self, due: Instant, timer: Timer) {
        match timer {
            Timer::User if self.ended_at.is_none() => self.user_turn(due),
            Timer::User => {}
            Timer::Connection { slot, generation } => {
                let entry = &mut self.slots[slot as usize];
                if entry.generation != generation {
                    return;
                }
                let Some(connection) = &mut entry.connection else { return };
                connection.timer = None;
                if connection.deadline > self.now {
                    // The deadline has moved on since the timer was set.
                    if connection.request.is_some() || connection.state != State::Open {
                        self.watch(slot);
                    }
                    return;
                }
                self.on_deadline(slot);
                self.free_if_closed(slot, generation);
            }
        }
    }

    fn on_deadline(&mut self, slot: u32) {
        let (timeout, now) = (self.settings.plan.response_timeout, self.now);
        let (connection, _) = self.at(slot);
        match connection.state {
            State::Connecting => {
                const ETIMEDOUT: Errno = Errno(110);
                let is_over = |request: &mut Request| request.due + timeout <= now;
                let request = connection.request.take_if(is_over);
                self.on_connect_failed(slot, ETIMEDOUT);
                if let Some(request) = request {
                    self.end_request(request, Ended::Timeout, false);
                }
            }
            State::Open => {
                if let Some(request) = connection.request.take() {
                    // It is busy, not gone: the target is not left alone for it.
                    connection.has_replied = true;
                    self.lose(slot);
                    self.end_request(request, Ended::Timeout, false);
                }
            }
            State::Closing => {
                let socket = connection.socket;
                self.ring.cancel_all(socket);
            }
        }
    }

    fn receive_again(&mut self, slot: u32, generation: u16) {
        let entry = &mut self.slots[slot as usize];
        if entry.generation != generation {
            return;
        }
        let Some(connection) = &mut entry.connection else { return };
        if connection.state == State::Open && !connection.in_flight.receive {
            connection.in_flight.receive = true;
            let token = Token { role: 0, slot, generation };
            self.ring.receive(connection.socket, token, BufferSize::Small, CREDIT_BYTES);
        }
    }

    /// Arms the receives that found no buffer: all of them are free again at the end of a turn.
    pub(super) fn feed_starved(&mut self) {
        while self.ring.has_buffers(BufferSize::Small)
            && let Some((slot, generation)) = self.starved.pop()
        {
            self.receive_again(slot, generation);
        }
    }
}
