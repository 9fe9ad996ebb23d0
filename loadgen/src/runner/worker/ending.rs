//! Accounting: every request gets one outcome, and the run its end.

use fracas_dataplane::clock::Instant;
use fracas_dataplane::ring::Ring;

use super::{Timer, Waiting, Worker};
use crate::arrival::Batch;
use crate::measure::{DropReason, Outcome as Ended, Sample};
use crate::runner::connection::Request;

/// Connections that begin to close in one turn at the end: cancelling the operations of thousands at once takes the
/// kernel seconds, in which nobody would be answered.
const CLOSES_PER_TURN_MAX: u32 = 64;

impl<R: Ring> Worker<R> {
    /// A request has its outcome. `was_refused`: its connect failed, or its connection ended before any reply.
    pub(super) fn end_request(&mut self, request: Request, outcome: Ended, was_refused: bool) {
        self.record(request, outcome);
        if request.of_user {
            self.user_rests(was_refused);
        }
    }

    fn record(&mut self, request: Request, outcome: Ended) {
        let Request { due, ready, sent, warm_up, .. } = request;
        self.in_flight -= 1;
        let (done, seen_late) = (self.now, self.late + self.late_turns.kept_back(sent));
        self.recorder.record(&Sample { due, ready, sent, done, seen_late, outcome, warm_up });
    }

    /// A user thinks; one whose connect has failed pauses at least as long as the plan says, for nothing else would keep
    /// it off a target that is not there.
    pub(super) fn user_rests(&mut self, was_refused: bool) {
        let mut pause = self.users.think_time();
        let retry_pause = self.settings.plan.retry_pause;
        if was_refused && retry_pause > pause {
            let end = self.planned_end().unwrap_or(Instant::FAR_FUTURE);
            self.recorder.user_paused(self.now, (retry_pause - pause).min(end.since(self.now)));
            pause = retry_pause;
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
        let is_drained = none_left && self.waiting() == 0 && self.in_flight == 0;
        if is_drained || self.now >= issued_at + self.settings.plan.drain {
            self.end();
        }
    }

    /// Gives every request that has no outcome one; the connections are closed by the turns that follow.
    pub(super) fn end(&mut self) {
        self.ended_at = Some(self.now);
        for slot in 0..self.slots.len() as u32 {
            let connection = self.slots[slot as usize].connection.as_mut();
            if let Some(request) = connection.and_then(|connection| connection.request.take()) {
                self.record(request, Ended::Censored);
            }
        }
        debug_assert_eq!(self.in_flight, 0, "every request in flight belongs to a connection");
        let passed_by = self.passed_by.drain(..).map(|(waiting, _)| waiting);
        for Waiting { due, warm_up, .. } in passed_by.chain(self.waiting.drain(..)) {
            self.recorder.dropped(due, self.now, DropReason::Unsent, warm_up);
        }
        // What the line had no room for.
        while let Some((due, batch)) = self.take_batch(self.cut) {
            let Batch { count, warm_up, .. } = batch;
            self.recorder.dropped_many(due, self.now, DropReason::Unsent, warm_up, count);
        }
    }

    /// Whether connections are left of which the close has not begun.
    pub(super) fn is_closing(&self) -> bool {
        self.ended_at.is_some() && (self.closing_from as usize) < self.slots.len()
    }

    /// After the end, begins to close the next few connections.
    pub(super) fn close_some(&mut self) {
        if self.is_closing() {
            let from = self.closing_from;
            let until = from.saturating_add(CLOSES_PER_TURN_MAX).min(self.slots.len() as u32);
            (from..until).for_each(|slot| self.close_now(slot));
            self.closing_from = until;
        }
    }
}
