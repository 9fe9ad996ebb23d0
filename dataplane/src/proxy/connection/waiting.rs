//! How long a connection may be silent: one timer, which looks at it and sets itself again.
//!
//! A side that is not read, because its bytes have nowhere to go or because its FIN has come, cannot say that it is
//! gone. So it is asked each second, from a second after its last receive: connections that end sooner pay nothing.

use std::time::Duration;

use super::ending::Way;
use super::{Connection, HELD_TIME_MAX};
use crate::behavior::Direction;
use crate::clock::Instant;
use crate::proxy::event::Limit;
use crate::proxy::patience::Patience;
use crate::proxy::pipe::End;
use crate::proxy::worker::{Context, ProxyState, What};
use crate::ring::{Errno, ReceiveEnd, Ring};

/// How often a side that is not read is asked whether it is gone.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Whose silence a connection waits through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wait {
    /// Both sides may speak.
    Idle,
    /// One side has ended; the other, or bytes on their way, may take their time.
    HalfClosed,
    /// The client has got all replies and the FIN behind them, and keeps the connection.
    Client,
    /// A side has failed; the other gets what was read before, then a RST.
    Reset,
}

impl Wait {
    /// By what has ended: each pipe, and a side that has ended without its pipe (its FIN swallowed by a hang, or unread).
    fn of(request: End, reply: End, ended_aside: bool) -> Wait {
        match (request, reply) {
            (End::Rst, _) | (_, End::Rst) => Wait::Reset,
            (End::Open, End::Sent) => Wait::Client,
            (End::Open, End::Open) if !ended_aside => Wait::Idle,
            _ => Wait::HalfClosed,
        }
    }

    fn limit(self, patience: &Patience) -> Option<Duration> {
        match self {
            Wait::Idle => patience.idle,
            Wait::HalfClosed => Some(patience.half_close),
            Wait::Client | Wait::Reset => Some(patience.linger),
        }
    }
}

/// How long plain bytes must have been quiet before a drain takes their connection for idle.
const DRAIN_QUIET: Duration = Duration::from_secs(1);

impl Connection {
    /// Whether nothing is under way on it, so that a drain may close it.
    ///
    /// | bytes | idle is |
    /// |---|---|
    /// | messages | no request has begun whose reply has not ended |
    /// | plain, a tunnel | nothing has passed for a second, and the last thing that did came from the upstream |
    /// | any, with bytes queued, a side that waits for the other's end, or a hang | never |
    pub(in crate::proxy) fn is_idle(&self, now: Instant) -> bool {
        let (request, reply) = (&self.request, &self.reply);
        let is_open = request.end == End::Open && matches!(reply.end, End::Open | End::Sent);
        if self.closing || self.hung || !is_open || request.bytes() + reply.bytes() > 0 {
            return false;
        }
        match &self.exchanges {
            Some(exchanges) => exchanges.is_idle(),
            None => {
                let nothing_ever = request.moved_at == Instant::ZERO && reply.moved_at == Instant::ZERO;
                let answered = nothing_ever || reply.moved_at > request.moved_at;
                answered && now - reply.moved_at.max(self.changed_at) >= DRAIN_QUIET
            }
        }
    }

    /// Sees to it that the connection is looked at when its patience may end, or a side may be gone.
    pub(super) fn wait<R: Ring>(&mut self, cx: &mut Context<R>, proxy: &ProxyState) {
        let due = self.patience_ends(cx.now, &proxy.patience).min(self.next_look(cx.now));
        self.look_at(due, cx);
    }

    /// Its proxy has become more or less patient: what is waited for now is waited for so long.
    pub(in crate::proxy) fn on_patience_changed<R: Ring>(&mut self, cx: &mut Context<R>, proxy: &ProxyState) {
        // One that is being closed keeps the linger with which it began.
        if !self.closing {
            self.wait(cx, proxy);
        }
    }

    /// Sets the timer, unless it is set for an earlier time.
    pub(super) fn look_at<R: Ring>(&mut self, due: Instant, cx: &mut Context<R>) {
        if due == Instant::FAR_FUTURE || self.patience.is_some_and(|(_, set)| set <= due) {
            return;
        }
        let timer = cx.timers.insert(due, self.timer(What::Patience));
        self.patience.replace((timer, due)).map(|(earlier, _)| cx.timers.cancel(earlier));
    }

    pub(in crate::proxy) fn on_patience<R: Ring>(&mut self, cx: &mut Context<R>, proxy: &mut ProxyState) {
        self.patience = None;
        if self.closing {
            return self.on_linger_over(cx, proxy);
        }
        for direction in [Direction::Request, Direction::Reply] {
            self.look_whether_gone(direction, cx, proxy);
            self.look_whether_stuck(cx, proxy);
            if self.closing {
                return;
            }
        }
        if self.patience_ends(cx.now, &proxy.patience) > cx.now {
            return self.wait(cx, proxy);
        }
        match self.wait_for() {
            Wait::Idle => {
                proxy.counters.idle_timeouts += 1;
                self.limit_reached(Limit::Idle, cx, proxy);
                self.close(cx);
            }
            wait => {
                let (count, limit) = match wait {
                    Wait::HalfClosed => (&mut proxy.counters.half_close_limit_reached, Limit::HalfClose),
                    _ => (&mut proxy.counters.linger_limit_reached, Limit::Linger),
                };
                *count += 1;
                self.limit_reached(limit, cx, proxy);
                // Whoever has a FIN to expect gets it; whoever would miss bytes gets a RST.
                self.leave(Way::AtOnce, Way::AtOnce, cx);
            }
        }
    }

    /// A side that is not read is asked whether its connection is over.
    fn look_whether_gone<R: Ring>(
        &mut self,
        direction: Direction,
        cx: &mut Context<R>,
        proxy: &mut ProxyState,
    ) {
        let source = self.source(direction);
        let Some(socket) = source.socket.filter(|_| source.is_unwatched()) else { return };
        let failure = match (source.broken, source.broke_off) {
            (true, true) => Some(Errno(libc::ECONNRESET)),
            (true, false) => Some(Errno(libc::EPIPE)),
            (false, _) => cx.ring.failure(socket),
        };
        match failure {
            None => {}
            Some(Errno(libc::EPIPE)) if !source.ended => {
                // It had said all, and its FIN, before a RST came because we wrote on. Its bytes may still be read.
                source.gone = true;
                self.changed_at = cx.now;
            }
            Some(failure) => self.on_receive_ended(direction, ReceiveEnd::Failed(failure), cx, proxy),
        }
    }

    /// Requests that are parked wait for replies, and those to a client that is gone are not looked at.
    fn look_whether_stuck<R: Ring>(&mut self, cx: &mut Context<R>, proxy: &mut ProxyState) {
        let is_stuck = self.downstream.gone && self.request.end == End::Open && self.request.parked_bytes > 0;
        if is_stuck && !self.downstream.receiving && !self.closing {
            self.on_receive_ended(Direction::Request, ReceiveEnd::Failed(Errno(libc::EPIPE)), cx, proxy);
        }
    }

    fn next_look(&self, now: Instant) -> Instant {
        let unwatched = self.downstream.is_unwatched() || self.upstream.is_unwatched();
        let may_be_stuck = self.downstream.gone && self.framed && self.request.end == End::Open;
        if unwatched || may_be_stuck { now + LOOK_EVERY } else { Instant::FAR_FUTURE }
    }

    fn wait_for(&self) -> Wait {
        let swallowed = self.hung && self.downstream.ended;
        let ended_aside = swallowed || self.downstream.gone || self.upstream.gone;
        Wait::of(self.request.end, self.reply.end, ended_aside)
    }

    /// When it has been silent for long enough; what a delay or a rate holds back is no silence.
    fn patience_ends(&self, now: Instant, patience: &Patience) -> Instant {
        let wait = self.wait_for();
        let Some(limit) = wait.limit(patience) else { return Instant::FAR_FUTURE };
        let moved = self.request.moved_at.max(self.reply.moved_at).max(self.changed_at);
        let pipes = [&self.request, &self.reply];
        let delayed = pipes.into_iter().filter(|pipe| pipe.holds(now)).map(super::Pipe::last_due);
        let timed = pipes.into_iter().filter_map(|pipe| pipe.timer).map(|(_, due)| due);
        let begins = delayed.chain(timed).fold(moved, Instant::max);
        match wait {
            // As for a side that is let go.
            Wait::Reset => begins.min(self.changed_at + HELD_TIME_MAX) + limit,
            _ => begins + limit,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_end_has_its_limit() {
        use End::{Fin, Open, Rst, Sent};
        let patience = Patience { idle: None, ..Patience::default() };
        let (linger, half_close) = (Some(patience.linger), Some(patience.half_close));
        for (request, reply, aside, wait, limit) in [
            (Open, Open, false, Wait::Idle, None),
            // Under a hang, or at a rate of 0, a FIN does not reach the pipe.
            (Open, Open, true, Wait::HalfClosed, half_close),
            (Fin, Open, true, Wait::HalfClosed, half_close),
            (Sent, Open, true, Wait::HalfClosed, half_close),
            (Open, Fin, true, Wait::HalfClosed, half_close),
            (Open, Sent, true, Wait::Client, linger),
            (Fin, Sent, true, Wait::HalfClosed, half_close),
            (Sent, Fin, true, Wait::HalfClosed, half_close),
            (Rst, Open, true, Wait::Reset, linger),
            (Open, Rst, true, Wait::Reset, linger),
            (Sent, Rst, true, Wait::Reset, linger),
        ] {
            let found = Wait::of(request, reply, aside);
            assert_eq!((found, found.limit(&patience)), (wait, limit), "{request:?} {reply:?} {aside}");
        }
    }
}
