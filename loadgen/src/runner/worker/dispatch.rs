//! From due to sent: what the plan and the users want now goes into a line, and from its head to free connections, or
//! to new ones while there are fewer than asked for. Nothing in the line outlives its timeout.
//!
//! A request that was due earlier than it is sent waited for one of two: the target, which held all connections, or the
//! generator. The generator's are: the time until the loop saw that it was due, the connect rate, and the lateness of
//! the turn that found the connection for it. `ready` is `sent` without these.

use std::rc::Rc;
use std::time::Duration;

use fracas_dataplane::clock::Instant;
use fracas_dataplane::ring::{Chunk, Ring, Token};

use super::{WAITING_MAX, Waiting, Worker};
use crate::arrival::Batch;
use crate::measure::DropReason;
use crate::runner::connection::Request;
use crate::scenario::{LatePolicy, Reuse};

/// A request that waited so long for the connect rate is counted; less is the even spacing of a burst.
const PACED_FROM: Duration = Duration::from_millis(1);

/// Requests that are counted together are due within one of these.
const TENTH: Duration = Duration::from_millis(100);
/// They may be due so far apart, however short they have waited.
const BATCH_MIN: Duration = Duration::from_micros(100);

/// Where the next request goes.
enum Way {
    /// To this free connection.
    Over(u32),
    /// To one that is opened for it.
    Connect,
    /// It waits until the connect rate allows one.
    Paced,
    /// It waits until the target gives a connection back.
    Blocked,
}

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
        self.pass_over(elapsed);
        while let Some(arrival) = self.schedule.peek()
            && arrival.due <= elapsed
            && arrival.due < self.cut
        {
            if self.waiting() >= WAITING_MAX {
                self.full_until = self.now;
                return;
            }
            self.schedule.next();
            let due = start + arrival.due;
            self.recorder.planned(due, arrival.warm_up);
            self.wait(due, arrival.warm_up, false);
        }
    }

    /// Counts what is too late already when the loop gets to it, without sending it through the line: after a stall, or
    /// at a rate that cannot be met, that may be millions.
    fn pass_over(&mut self, elapsed: Duration) {
        if let LatePolicy::DropAfter(limit) = self.settings.plan.late {
            let before = elapsed.saturating_sub(limit);
            while let Some((due, batch)) = self.take_batch(before) {
                let Batch { count, warm_up, .. } = batch;
                self.recorder.dropped_many(due, self.now, DropReason::Late, warm_up, count);
            }
        }
        let Some(last) = elapsed.checked_sub(self.settings.plan.response_timeout) else { return };
        while let Some((due, batch)) = self.take_batch(last + Duration::from_nanos(1)) {
            let waiting = self.seen_now(due, batch.warm_up, false);
            self.give_up_many(waiting, batch.count);
        }
    }

    /// Takes arrivals of the schedule that are due before an offset from the start and lie in one tenth of a second, so
    /// close together that their mean stands for each of them; says when that is.
    pub(super) fn take_batch(&mut self, before: Duration) -> Option<(Instant, Batch)> {
        let start = self.start?;
        let first = self.schedule.peek()?.due;
        let tenth_ns = TENTH.as_nanos() as u64;
        let tenth_end =
            Duration::from_nanos((first.as_nanos() as u64 / tenth_ns + 1).saturating_mul(tenth_ns));
        // A thousandth of how long they have waited: the histograms tell no more.
        let over = (self.now.since(start + first) / 1024).clamp(BATCH_MIN, TENTH);
        let mut limit = before.min(self.cut).min(tenth_end).min(first + over);
        if start + first <= self.full_until {
            limit = limit.min(self.full_until.since(start) + Duration::from_nanos(1));
        }
        let batch = self.schedule.take_before(limit)?;
        let due = start + batch.middle();
        self.recorder.planned_many(due, batch.warm_up, batch.count);
        Some((due, batch))
    }

    /// A user sends its next request, unless its phase is over.
    pub(super) fn user_turn(&mut self, due: Instant) {
        let Some(start) = self.start else { return };
        if let Some(warm_up) = self.users.take_turn(due.since(start)) {
            self.recorder.planned(due, warm_up);
            self.wait(due, warm_up, true);
        }
    }

    fn wait(&mut self, due: Instant, warm_up: bool, of_user: bool) {
        let waiting = self.seen_now(due, warm_up, of_user);
        self.waiting.push_back(waiting);
    }

    fn seen_now(&self, due: Instant, warm_up: bool, of_user: bool) -> Waiting {
        // The target, not the loop, kept from the line what had no room in it.
        let seen_late = if due <= self.full_until { Duration::ZERO } else { self.now.since(due) };
        let (seen, paced) = (self.now, self.paced_for());
        Waiting { due, seen, seen_late, paced, warm_up, of_user }
    }

    /// How long the line has waited for the connect rate so far.
    fn paced_for(&self) -> Duration {
        self.paced_before + self.paced_since.map_or(Duration::ZERO, |since| self.now.since(since))
    }

    /// Sends what waits for as long as there is a way, and gives up what has waited too long.
    ///
    /// What no reply has ever been fast enough for is passed by: it times out all the same, and would take a connection
    /// with it. Where a connect takes long, all connections would else go, for ever, to requests that have waited for
    /// most of their time, long after the target is back.
    pub(super) fn dispatch(&mut self) {
        self.give_up_passed_by();
        while let Some(waiting) = self.waiting.front().copied() {
            if let LatePolicy::DropAfter(limit) = self.settings.plan.late
                && !waiting.of_user
                && self.now.since(waiting.due) > limit
            {
                self.waiting.pop_front();
                self.recorder.dropped(waiting.due, self.now, DropReason::Late, waiting.warm_up);
                continue;
            }
            if waiting.due + self.settings.plan.response_timeout <= self.now {
                self.waiting.pop_front();
                self.give_up(waiting);
                continue;
            }
            let way = self.way();
            // A request that is paced holds up all behind it, and one that is blocked, too.
            let is_paced = matches!(way, Way::Paced);
            if is_paced != self.paced_since.is_some() {
                self.paced_before = self.paced_for();
                self.paced_since = is_paced.then_some(self.now);
            }
            let least = match way {
                Way::Over(_) => self.fastest.over_open(),
                Way::Connect if self.settings.plan.keep_alive => self.fastest.over_new(),
                // One for each request is closed behind it, whatever becomes of it, and costs no later one its time.
                Way::Connect | Way::Paced | Way::Blocked => Duration::ZERO,
            };
            if !waiting.of_user && self.now + least > waiting.due + self.settings.plan.response_timeout {
                self.waiting.pop_front();
                self.passed_by.push_back((waiting, self.own_part(waiting)));
                continue;
            }
            match way {
                Way::Over(slot) => {
                    let request = self.take_request(waiting);
                    self.send(slot, request);
                }
                Way::Connect => {
                    let request = self.take_request(waiting);
                    self.connect_for(request);
                }
                Way::Blocked => {
                    self.paced_at_block = self.paced_before;
                    return;
                }
                Way::Paced => return,
            }
        }
        self.paced_before = self.paced_for();
        self.paced_since = None;
    }

    fn way(&self) -> Way {
        let free = match self.settings.plan.reuse {
            Reuse::Rotate => self.idle.first(),
            Reuse::Hot => self.idle.last(),
        };
        match free {
            Some(slot) if self.settings.plan.keep_alive => Way::Over(slot),
            _ if self.live >= self.wanted => Way::Blocked,
            // A connection for each request is what the rate of the requests asks for.
            _ if self.settings.plan.keep_alive && self.opener.paced_at() > self.now => Way::Paced,
            _ => Way::Connect,
        }
    }

    /// Takes the first in the line, which is sent now.
    fn take_request(&mut self, waiting: Waiting) -> Request {
        self.waiting.pop_front();
        let Waiting { due, warm_up, of_user, .. } = waiting;
        let now = self.now;
        let own = self.own_part(waiting);
        if self.paced_of(waiting) >= PACED_FROM {
            self.recorder.paced(due, warm_up);
        }
        self.recorder.sent(due, warm_up);
        self.in_flight += 1;
        Request { due, ready: (now - own).max(due.min(now)), sent: now, warm_up, of_user }
    }

    /// How long it has waited for the connect rate, and for nothing else.
    fn paced_of(&self, waiting: Waiting) -> Duration {
        self.paced_for().saturating_sub(waiting.paced.max(self.paced_at_block))
    }

    /// What of the wait until now was the generator's.
    fn own_part(&self, waiting: Waiting) -> Duration {
        let paced = self.paced_of(waiting);
        // What became free during a stall could have been used before it was over.
        let stalled = self.late.min(self.now.since(waiting.seen));
        (waiting.seen_late + paced + stalled).min(self.now.since(waiting.due))
    }

    /// Gives up those whose timeout has come of what was passed by.
    fn give_up_passed_by(&mut self) {
        let timeout = self.settings.plan.response_timeout;
        while let Some((waiting, own)) =
            self.passed_by.pop_front_if(|(waiting, _)| waiting.due + timeout <= self.now)
        {
            let Waiting { due, warm_up, .. } = waiting;
            let late = self.now.since(due + timeout).min(self.late);
            self.recorder.timed_out_waiting_many(due, self.now, own.max(late), warm_up, 1);
        }
    }

    /// It found no connection until its timeout.
    fn give_up(&mut self, waiting: Waiting) {
        self.give_up_many(waiting, 1);
        if waiting.of_user {
            self.user_rests(false);
        }
    }

    /// The same of so many of the schedule, due within one tenth of a second.
    fn give_up_many(&mut self, waiting: Waiting, count: u64) {
        let Waiting { due, warm_up, .. } = waiting;
        let late = self.now.since(due + self.settings.plan.response_timeout);
        let own = self.own_part(waiting).max(late.min(self.late));
        self.recorder.timed_out_waiting_many(due, self.now, own, warm_up, count);
    }

    fn send(&mut self, slot: u32, request: Request) {
        self.idle.remove(slot);
        let deadline = request.due + self.settings.plan.response_timeout;
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
        let is_first = !std::mem::replace(&mut connection.has_carried, true);
        let socket = connection.socket;
        if is_first {
            self.recorder.connection_used(self.now);
        }
        self.watch(slot);
        self.ring.send(socket, token, std::iter::once(bytes));
    }
}
