//! Accounting: every request gets one outcome, and the run its end.

use fracas_dataplane::ring::Ring;

use super::{Timer, Waiting, Worker};
use crate::measure::{DropReason, Outcome as Ended, Sample};
use crate::runner::connection::Request;

impl<R: Ring> Worker<R> {
    pub(super) fn end_request(&mut self, request: Request, outcome: Ended) {
        let Request { due, ready, sent, warm_up, of_user } = request;
        self.in_flight -= 1;
        self.recorder.record(&Sample { due, ready, sent, done: self.now, outcome, warm_up });
        if !of_user {
            return;
        }
        let mut pause = self.users.think_time();
        if !self.settings.plan.keep_alive && outcome != Ended::Ok {
            // With a connection each, nothing else keeps the users off a target that is not there.
            pause = pause.max(self.opener.pause());
        }
        if pause.is_zero() {
            self.user_turn(self.now);
        } else {
            self.timers.insert(self.now + pause, Timer::User);
        }
    }

    /// Notices that the last request was made, that the last has ended, or that the drain is over.
    pub(super) fn end_if_over(&mut self) {
        let (Some(start), None) = (self.start, self.ended_at) else { return };
        if self.now < start {
            return;
        }
        let none_left = self.schedule.peek().is_none_or(|arrival| arrival.due >= self.cut);
        if self.issued_at.is_none() && none_left && self.users.are_done(self.elapsed()) {
            // The drain is counted from the end of the plan, not from the last request before it.
            self.issued_at = Some(self.planned_end().unwrap_or(self.now));
        }
        // A plan whose end is passed drains, even if the schedule could not be taken in.
        if self.issued_at.is_none() && self.planned_end().is_some_and(|end| end <= self.now) {
            self.issued_at = self.planned_end();
        }
        let Some(issued_at) = self.issued_at else { return };
        let is_drained = none_left && self.waiting.is_empty() && self.in_flight == 0;
        if is_drained || self.now >= issued_at + self.settings.plan.drain {
            self.end();
        }
    }

    /// Gives every request that has no outcome one, and begins to close all connections.
    pub(super) fn end(&mut self) {
        self.ended_at = Some(self.now);
        for slot in 0..self.slots.len() as u32 {
            let connection = self.slots[slot as usize].connection.as_mut();
            if let Some(request) = connection.and_then(|connection| connection.request.take()) {
                self.in_flight -= 1;
                let Request { due, ready, sent, warm_up, .. } = request;
                let outcome = Ended::Censored;
                self.recorder.record(&Sample { due, ready, sent, done: self.now, outcome, warm_up });
            }
        }
        debug_assert_eq!(self.in_flight, 0, "every request in flight belongs to a connection");
        while let Some(Waiting { due, warm_up, .. }) = self.waiting.pop_front() {
            self.recorder.dropped(due, self.now, DropReason::Unsent, warm_up);
        }
        // What the line had no room for.
        while let Some(arrival) = self.schedule.peek().filter(|arrival| arrival.due < self.cut) {
            self.schedule.next();
            let due = self.start.unwrap_or(self.now) + arrival.due;
            self.recorder.planned(due, arrival.warm_up);
            self.recorder.dropped(due, self.now, DropReason::Unsent, arrival.warm_up);
        }
        self.close_all();
    }
}
