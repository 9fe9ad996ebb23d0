//! How a connection ends: half-closes handed on behind the last byte, failures told apart, both sides let go.

use super::gates::Gates;
use super::leaving::{Duty, Leaving, News};
use super::{Connection, HELD_TIME_MAX, Peer, source_role};
use crate::behavior::Direction;
use crate::clock::Instant;
use crate::proxy::event::{Detail, HUNG, Limit};
use crate::proxy::pipe::End;
use crate::proxy::worker::{Context, ProxyState};
use crate::ring::{Errno, ReceiveEnd, Ring};

/// How a side is to leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// With its queued bytes and a FIN; what it still says is read and dropped, within limits.
    InOrder,
    /// With a RST, now.
    Reset,
    /// Now: with a FIN, or with a RST if bytes for it are lost.
    AtOnce,
}

impl Connection {
    pub(in crate::proxy) fn on_send_failed<R: Ring>(
        &mut self,
        direction: Direction,
        errno: Errno,
        cx: &mut Context<R>,
        proxy: &mut ProxyState,
    ) {
        let asked_for = match direction {
            Direction::Reply => self.holds_back(cx.now),
            Direction::Request => self.keeps_upstream_waiting(cx.now),
        };
        let (pipe, _, sink) = self.parts(direction);
        sink.sending = false;
        sink.explained |= asked_for;
        // What the kernel says of a socket's failure it says once, and a send has heard it.
        let unended = sink.receiving && !sink.ended;
        (sink.broken, sink.broke_off) = (true, errno != Errno(libc::EPIPE) || unended);
        pipe.in_flight_bytes = 0;
        let ended = sink.ended;
        if self.closing {
            self.tell_leaving(direction.opposite(), News::Failed, cx, proxy);
            return self.settle(cx);
        }
        if ended && errno == Errno(libc::ECONNRESET) && self.pipe(direction.opposite()).end != End::Rst {
            // No FIN came before that RST (tcp_reset() of Linux): the end that its receive saw was the RST already.
            return self.on_source_failed(direction.opposite(), errno, cx, proxy);
        }
        self.drop_queue(direction, cx);
        self.pipe(direction).discard = true;
        if self.hung && ended && direction == Direction::Request {
            // Its end was no failure, for the connection hangs by a rule.
            return self.let_upstream_go(cx);
        }
        let end = self.pipe(direction).end;
        if end == End::Rst {
            // Both sides are gone.
            return self.close(cx);
        }
        if ended && self.pipe(direction.opposite()).end != End::Rst {
            // Its FIN was told before the RST that followed it.
            self.broke_off(direction.opposite(), Errno(libc::EPIPE), cx, proxy);
        }
        if ended || end == End::Fin {
            // Nothing follows here any more. What the sink said before still goes to the other side.
            self.pipe(direction).end = End::Sent;
            if self.pipe(direction.opposite()).end == End::Sent {
                return self.close(cx);
            }
        }
        if direction == Direction::Reply {
            self.on_replies_taken(cx, proxy);
        }
        if self.closing {
            return;
        }
        // A source that could not write on might never come to read.
        self.regulate(direction, cx, proxy);
    }

    pub(in crate::proxy) fn on_receive_ended<R: Ring>(
        &mut self,
        direction: Direction,
        end: ReceiveEnd,
        cx: &mut Context<R>,
        proxy: &mut ProxyState,
    ) {
        self.source(direction).receiving = false;
        self.pipe(direction).cancelling = false;
        if self.closing {
            return self.on_ended_while_leaving(direction, end, cx, proxy);
        }
        match end {
            ReceiveEnd::Eof if !self.source(direction).broken => {
                let source = self.source(direction);
                if let Some(socket) = source.socket.filter(|_| source.sending)
                    && cx.ring.is_over(socket)
                {
                    // The send that is under way has met a RST.
                    return self.on_source_failed(direction, Errno(libc::ECONNRESET), cx, proxy);
                }
                source.ended = true;
                // Who ends while a rule keeps it waiting has given up, and may be gone when its bytes come.
                if direction == Direction::Request && self.holds_back(cx.now) {
                    self.downstream.explained = true;
                }
                let kept_waiting = direction == Direction::Reply && self.keeps_upstream_waiting(cx.now);
                self.changed_at = cx.now;
                if self.hung {
                    return self.on_fin_while_hung(direction, cx, proxy);
                }
                match direction {
                    Direction::Request => self.on_client_end(cx, proxy),
                    Direction::Reply => self.on_upstream_end(cx, proxy),
                }
                // What comes for it later may meet a RST.
                self.upstream.explained |= kept_waiting;
                if self.closing {
                    return;
                }
                self.pipe(direction).end = End::Fin;
                self.flush(direction, cx, proxy);
                self.wait_unless_closing(cx, proxy);
            }
            ReceiveEnd::Eof | ReceiveEnd::Failed(_) => {
                let errno = match end {
                    ReceiveEnd::Failed(errno) => errno,
                    // A send to it failed before, and was told why.
                    _ if self.source(direction).broke_off => Errno(libc::ECONNRESET),
                    _ => Errno(libc::EPIPE),
                };
                self.on_source_failed(direction, errno, cx, proxy);
            }
            ReceiveEnd::NoBuffers => {
                proxy.counters.no_buffers += 1;
                cx.no_buffers += 1;
                self.limit_reached(Limit::NoBuffers, cx, proxy);
                self.starve(direction, cx);
            }
            ReceiveEnd::Stopped => self.regulate(direction, cx, proxy),
        }
    }

    /// The connection to the source of `direction` failed: the sink gets what was read before, then a RST.
    fn on_source_failed<R: Ring>(
        &mut self,
        direction: Direction,
        errno: Errno,
        cx: &mut Context<R>,
        proxy: &mut ProxyState,
    ) {
        let source = self.source(direction);
        (source.ended, source.broken) = (true, true);
        self.changed_at = cx.now;
        if self.hung {
            // Whoever gives up on a connection that hangs does what the rule asked for.
            return self.on_failure_while_hung(direction, cx, proxy);
        }
        self.broke_off(direction, errno, cx, proxy);
        self.pipe(direction).end = End::Rst;
        // Nothing can be sent to a socket that failed.
        self.drop_queue(direction.opposite(), cx);
        let back = self.pipe(direction.opposite());
        back.discard = true;
        back.end = if back.end == End::Fin { End::Sent } else { back.end };
        if direction == Direction::Request {
            self.on_replies_taken(cx, proxy);
        }
        if !self.closing {
            self.flush(direction, cx, proxy);
        }
        self.wait_unless_closing(cx, proxy);
    }

    /// The receive waits for a buffer.
    fn starve<R: Ring>(&mut self, direction: Direction, cx: &mut Context<R>) {
        self.pipe(direction).starved = true;
        cx.starved.push((self.slot, self.generation, direction));
    }

    fn wait_unless_closing<R: Ring>(&mut self, cx: &mut Context<R>, proxy: &ProxyState) {
        if !self.closing {
            self.wait(cx, proxy);
        }
    }

    /// Counts that the source of `direction` broke off, and tells of it.
    fn broke_off<R: Ring>(
        &mut self,
        direction: Direction,
        errno: Errno,
        cx: &mut Context<R>,
        proxy: &mut ProxyState,
    ) {
        if direction == Direction::Reply && self.keeps_upstream_waiting(cx.now) {
            self.upstream.explained = true;
        }
        let who = if direction == Direction::Request { "client" } else { "upstream" };
        self.failed_by_itself(direction, Detail::Failed(who, errno), cx, proxy);
    }

    /// Counts that the source of `direction` failed by itself, once, and tells of it. A client that a rule keeps waiting
    /// may give up: that is what the rule asked for.
    pub(in crate::proxy) fn failed_by_itself<R: Ring>(
        &mut self,
        direction: Direction,
        detail: Detail,
        cx: &mut Context<R>,
        proxy: &mut ProxyState,
    ) {
        let asked_for = direction == Direction::Request && self.holds_back(cx.now);
        if std::mem::replace(&mut self.source(direction).explained, true) || asked_for {
            return;
        }
        match direction {
            Direction::Request => proxy.counters.client_resets += 1,
            Direction::Reply => proxy.counters.upstream_resets += 1,
        }
        proxy.failed(self.facts.ordinal, detail, cx);
    }

    /// Whether a rule holds bytes of this connection back: a hang all of them, a delay those whose time has not come, a
    /// rate those that wait for it.
    pub(in crate::proxy) fn holds_back(&self, now: Instant) -> bool {
        self.hung || self.holds_any(Direction::Request, now) || self.holds_any(Direction::Reply, now)
    }

    /// Whether a delay or a gate holds bytes of a direction back.
    pub(in crate::proxy) fn holds_any(&self, direction: Direction, now: Instant) -> bool {
        let pipe = if direction == Direction::Request { &self.request } else { &self.reply };
        let by_gate =
            || self.gates.as_ref().is_some_and(|gates| gates.delay(direction) && !pipe.queue.is_empty());
        pipe.holds_any(now) || by_gate()
    }

    /// Whether a rule keeps bytes from an upstream that has begun no reply, and may give up on them.
    fn keeps_upstream_waiting(&self, now: Instant) -> bool {
        let has_begun = self.exchanges.as_ref().is_some_and(|exchanges| exchanges.reply_has_begun());
        (self.hung || self.holds_any(Direction::Request, now)) && !has_begun
    }

    /// A client that has sent its FIN may still wait for its reply, which hangs; of an upstream nothing is expected.
    fn on_fin_while_hung<R: Ring>(
        &mut self,
        direction: Direction,
        cx: &mut Context<R>,
        proxy: &mut ProxyState,
    ) {
        self.happens(HUNG, cx, proxy);
        match direction {
            Direction::Request => self.wait(cx, proxy),
            Direction::Reply => self.let_upstream_go(cx),
        }
    }

    /// A client that is gone takes the connection along; one whose upstream is gone goes on hanging.
    fn on_failure_while_hung<R: Ring>(
        &mut self,
        direction: Direction,
        cx: &mut Context<R>,
        proxy: &mut ProxyState,
    ) {
        self.happens(HUNG, cx, proxy);
        match direction {
            Direction::Request => self.close(cx),
            Direction::Reply => self.let_upstream_go(cx),
        }
    }

    /// Gives the upstream's descriptor back, while the client keeps the connection.
    fn let_upstream_go<R: Ring>(&mut self, cx: &mut Context<R>) {
        if !self.upstream.sending {
            self.upstream.connected = false;
            self.cut(Direction::Reply, false, cx);
            self.settle(cx);
        }
    }

    /// The queue is empty: hands on the end of the source, if it has come.
    pub(super) fn end_pipe<R: Ring>(
        &mut self,
        direction: Direction,
        cx: &mut Context<R>,
        proxy: &mut ProxyState,
    ) {
        if self.closing {
            self.tell_leaving(direction.opposite(), News::Flushed, cx, proxy);
            return;
        }
        let (pipe, _, sink) = self.parts(direction);
        // What is parked waits for replies; those to a client that is gone are not looked at.
        let parked = pipe.parked_bytes > 0 && !pipe.discard && pipe.end != End::Rst;
        if !pipe.queue.is_empty() || parked {
            return;
        }
        match pipe.end {
            End::Open | End::Sent => return,
            // The source is gone; the sink hears of it.
            End::Rst => return self.leave(Way::Reset, Way::Reset, cx),
            End::Fin => {
                pipe.end = End::Sent;
                match sink.socket {
                    Some(socket) => cx.ring.shutdown_write(socket),
                    // Never connected: nobody will answer, so the reply direction ends too.
                    None => self.reply.end = End::Fin,
                }
            }
        }
        if direction == Direction::Request && self.upstream.socket.is_none() && !self.downstream.sending {
            return self.end_pipe(Direction::Reply, cx, proxy);
        }
        if self.request.end == End::Sent && self.reply.end == End::Sent {
            return self.close(cx);
        }
        // From now on somebody has got its FIN.
        self.changed_at = cx.now;
        self.wait(cx, proxy);
    }

    /// Ends the connection in order: each side gets what is queued for it and a FIN, and is read out.
    pub(in crate::proxy) fn close<R: Ring>(&mut self, cx: &mut Context<R>) {
        self.leave(Way::InOrder, Way::InOrder, cx);
    }

    /// As [`Connection::close`], but neither side is waited for longer than `limit`.
    pub(in crate::proxy) fn close_within<R: Ring>(
        &mut self,
        limit: std::time::Duration,
        cx: &mut Context<R>,
    ) {
        self.linger = self.linger.min(limit);
        self.close(cx);
        self.held_until = cx.now;
        if !self.is_closed() {
            self.look_at(cx.now + limit, cx);
        }
    }

    /// Ends the connection, each side in its way.
    pub(super) fn leave<R: Ring>(&mut self, downstream: Way, upstream: Way, cx: &mut Context<R>) {
        if self.closing {
            return;
        }
        self.closing = true;
        (self.changed_at, self.held_until) = (cx.now, cx.now + HELD_TIME_MAX);
        self.connect_timer.take().map(|timer| cx.timers.cancel(timer));
        self.patience.take().map(|(timer, _)| cx.timers.cancel(timer));
        self.end.take().map(|end| cx.timers.cancel(end.timer));
        Gates::leave(&mut self.gates);
        self.leave_messages(cx);
        for (direction, way) in [(Direction::Reply, downstream), (Direction::Request, upstream)] {
            let (pipe, _, sink) = self.parts(direction);
            let listens = sink.connected && !sink.broken && sink.socket.is_some();
            if way == Way::InOrder && listens {
                sink.leaving = Leaving::Flushing { dropped: 0 };
            } else {
                let reset = listens && (way == Way::Reset || pipe.bytes() > 0);
                self.cut(direction.opposite(), reset, cx);
            }
        }
        for direction in [Direction::Request, Direction::Reply] {
            self.fin_if_flushed(direction, cx);
            self.read_on(direction, cx);
        }
        self.settle(cx);
        if !self.is_closed() {
            self.look_at(self.linger_ends(), cx);
        }
    }

    /// When the time of both sides is over, which begins when a rule lets the last byte for them go: a delay, or a rate.
    fn linger_ends(&self) -> Instant {
        let sides = [(&self.request, &self.upstream), (&self.reply, &self.downstream)];
        let gets_on = sides.into_iter().filter(|(_, sink)| sink.leaving != Leaving::Cut);
        let due =
            gets_on.map(|(pipe, _)| pipe.last_due().max(pipe.timer.map_or(Instant::ZERO, |(_, due)| due)));
        let begins = due.fold(self.changed_at, Instant::max);
        begins.min(self.held_until) + self.linger
    }

    /// Sends the FIN of a side that is let go, once nothing is queued for it.
    fn fin_if_flushed<R: Ring>(&mut self, direction: Direction, cx: &mut Context<R>) {
        let (pipe, _, sink) = self.parts(direction);
        if pipe.queue.is_empty() && !sink.sending {
            let (next, duty) = sink.leaving.hear(News::Flushed, sink.ended);
            sink.leaving = next;
            if duty == Duty::Fin
                && pipe.end != End::Sent
                && let Some(socket) = sink.socket
            {
                pipe.end = End::Sent;
                cx.ring.shutdown_write(socket);
            }
        }
    }

    /// Tells a side that is let go, the source of `direction`, what happened to it, and does what follows.
    fn tell_leaving<R: Ring>(
        &mut self,
        direction: Direction,
        news: News,
        cx: &mut Context<R>,
        proxy: &mut ProxyState,
    ) {
        if news == News::Flushed {
            return self.fin_if_flushed(direction.opposite(), cx);
        }
        let source = self.source(direction);
        let (next, duty) = source.leaving.hear(news, source.ended);
        source.leaving = next;
        match duty {
            Duty::Nothing | Duty::Fin => {}
            Duty::Close => self.cut(direction, false, cx),
            Duty::CloseAtLimit | Duty::ResetAtLimit => {
                proxy.counters.linger_limit_reached += 1;
                self.limit_reached(Limit::Linger, cx, proxy);
                self.cut(direction, duty == Duty::ResetAtLimit, cx);
            }
        }
    }

    /// Bytes of a side that is let go: they are dropped.
    pub(super) fn on_late_bytes<R: Ring>(
        &mut self,
        direction: Direction,
        length: usize,
        cx: &mut Context<R>,
        proxy: &mut ProxyState,
    ) {
        self.tell_leaving(direction, News::Said(length), cx, proxy);
        self.read_on(direction, cx);
        self.settle(cx);
    }

    fn on_ended_while_leaving<R: Ring>(
        &mut self,
        direction: Direction,
        end: ReceiveEnd,
        cx: &mut Context<R>,
        proxy: &mut ProxyState,
    ) {
        match end {
            ReceiveEnd::NoBuffers => self.starve(direction, cx),
            ReceiveEnd::Stopped => self.read_on(direction, cx),
            ReceiveEnd::Eof | ReceiveEnd::Failed(_) => {
                let source = self.source(direction);
                source.ended = true;
                let failed = source.broken || end != ReceiveEnd::Eof;
                let news = if failed { News::Failed } else { News::Ended };
                self.tell_leaving(direction, news, cx, proxy);
            }
        }
        self.settle(cx);
    }

    /// The time of both sides is over, unless a rule has held bytes for them meanwhile.
    pub(super) fn on_linger_over<R: Ring>(&mut self, cx: &mut Context<R>, proxy: &mut ProxyState) {
        let ends = self.linger_ends();
        if ends > cx.now {
            return self.look_at(ends, cx);
        }
        for direction in [Direction::Request, Direction::Reply] {
            self.tell_leaving(direction, News::TimeOver, cx, proxy);
        }
        self.settle(cx);
    }

    /// Reads a side that is let go, the source of `direction`, to its end.
    pub(super) fn read_on<R: Ring>(&mut self, direction: Direction, cx: &mut Context<R>) {
        if self.source(direction).leaving.reads_on() {
            self.receive(direction, cx);
        }
    }

    /// Gives the source of `direction` up: drops what is queued for it, ends what is in flight.
    fn cut<R: Ring>(&mut self, direction: Direction, reset: bool, cx: &mut Context<R>) {
        let to_it = direction.opposite();
        self.drop_queue(to_it, cx);
        self.pipe(to_it).timer.take().map(|(timer, _)| cx.timers.cancel(timer));
        let peer = self.source(direction);
        peer.leaving = Leaving::Cut;
        if let Some(socket) = peer.socket {
            if reset {
                cx.ring.reset(socket);
            }
            // The kernel finds one operation at once, and all of a descriptor by looking at everything that waits: closing
            // thousands of idle connections that way takes it seconds.
            if peer.connecting || peer.sending {
                cx.ring.cancel_all(socket);
            } else if peer.receiving {
                cx.ring.cancel_receive(self.token(source_role(direction)));
            }
        }
    }

    /// Closes the sockets that are cut and on which nothing is in flight any more.
    pub(super) fn settle<R: Ring>(&mut self, cx: &mut Context<R>) {
        for peer in [&mut self.downstream, &mut self.upstream] {
            if peer.leaving == Leaving::Cut
                && !peer.is_busy()
                && let Some(socket) = peer.socket.take()
            {
                cx.ring.close(socket);
            }
        }
        if self.is_closed() {
            self.patience.take().map(|(timer, _)| cx.timers.cancel(timer));
        }
    }

    pub(super) fn drop_queue<R: Ring>(&mut self, direction: Direction, cx: &mut Context<R>) {
        let bytes = self.pipe(direction).clear();
        cx.let_go(self.proxy, bytes);
    }
}

impl Peer {
    /// Whether its connection could be over without a receive that says so.
    pub(super) fn is_unwatched(&self) -> bool {
        let is_over = self.gone || self.ended && self.broken;
        self.connected && !self.receiving && !is_over
    }
}
