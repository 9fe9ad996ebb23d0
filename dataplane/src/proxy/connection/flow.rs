//! Bytes on their way: received, held or handed on, sent in order, and read no faster than they leave.

use super::gates::Pass;
use super::{Connection, sink_role, source_role};
use crate::behavior::{Act, Action, Direction, Finish, garbage};
use crate::clock::Instant;
use crate::proxy::event::{ABORTED, Detail, Event, EventKind, HUNG, Limit};
use crate::proxy::pipe::{Fault, Held, Item, QUEUE_BYTES_MAX};
use crate::proxy::worker::{Context, ProxyState, What};
use crate::ring::{Chunk, Ring, SEND_CHUNKS_MAX};

/// How much of a pipe may go.
enum Ready {
    /// So many items at its front, now.
    Items(usize),
    /// Nothing before this instant.
    At(Instant),
    /// Nothing more, ever.
    Never,
}

impl Connection {
    pub(in crate::proxy) fn on_received<R: Ring>(
        &mut self,
        direction: Direction,
        chunk: Chunk,
        armed: bool,
        cx: &mut Context<R>,
        proxy: &mut ProxyState,
    ) {
        self.source(direction).receiving = armed;
        let length = chunk.len();
        match direction {
            Direction::Request => proxy.counters.request_bytes += length as u64,
            Direction::Reply => proxy.counters.reply_bytes += length as u64,
        }
        if self.closing {
            return self.on_late_bytes(direction, length, cx, proxy);
        }
        let pipe = self.pipe(direction);
        pipe.size.observe(length);
        if !pipe.discard {
            self.enter(direction, chunk, cx, proxy);
        } else if self.hung {
            self.happens(HUNG, cx, proxy);
        }
        if !self.closing {
            self.regulate(direction, cx, proxy);
        }
    }

    /// Bytes come in: as messages of the proxy's protocol, or as they are.
    pub(super) fn enter<R: Ring>(
        &mut self,
        direction: Direction,
        chunk: Chunk,
        cx: &mut Context<R>,
        proxy: &mut ProxyState,
    ) {
        if self.framed {
            return self.on_message_bytes(direction, chunk, cx, proxy);
        }
        if self.active == 0 {
            return self.forward(direction, chunk, Held::default(), cx, proxy);
        }
        let ordinal = self.pipe(direction).chunks;
        self.pipe(direction).chunks += 1;
        let decision = proxy.rules.on_chunk(&self.facts, self.active, direction, ordinal);
        proxy.count(decision.drawn);
        let hold = match direction {
            Direction::Request => decision.request_hold,
            Direction::Reply => decision.reply_hold,
        };
        let held = proxy.held(hold);
        match decision.act {
            None => self.forward(direction, chunk, held, cx, proxy),
            Some(Act { rule, action: Action::Garbage { inject, draw } }) => {
                // The peer's own bytes beside it are held as long; each fault is told once.
                let own = held.untold();
                let held = proxy.made(held, rule, Fault::Garbage { inserted: inject });
                let garbage = garbage(draw, inject, chunk.len());
                let mut rest = chunk;
                match garbage.insert_at {
                    Some(at) => {
                        let front = rest.split_to(at);
                        self.forward(direction, front, own.clone(), cx, proxy);
                        self.forward(direction, Chunk::from(garbage.bytes), held, cx, proxy);
                        self.forward(direction, rest, own, cx, proxy);
                    }
                    None => self.forward(direction, Chunk::from(garbage.bytes), held, cx, proxy),
                }
            }
            Some(act) => {
                self.act(act, 0, cx, proxy);
                if !self.closing && !self.hung {
                    self.forward(direction, chunk, held, cx, proxy);
                }
            }
        }
    }

    /// Sends bytes on, or queues them behind others or for their time.
    pub(in crate::proxy) fn forward<R: Ring>(
        &mut self,
        direction: Direction,
        chunk: Chunk,
        held: Held,
        cx: &mut Context<R>,
        proxy: &mut ProxyState,
    ) {
        if chunk.is_empty() || self.closing {
            return;
        }
        if direction == Direction::Reply && self.abort && !self.framed {
            self.reply.discard = true;
            return self.happens(ABORTED, cx, proxy);
        }
        if direction == Direction::Request && self.upstream.socket.is_none() && !self.upstream.connecting {
            self.connect(cx, proxy);
            if self.closing {
                return;
            }
        }
        let now = cx.now;
        let token = self.token(sink_role(direction));
        let free = self.gates.is_none() && held.rules == 0;
        let (pipe, _, sink) = self.parts(direction);
        let due = pipe.due(now, held.time);
        // What waits must not pin the buffers that others need: copy when it is held, or they are scarce.
        let chunk =
            if due > now && chunk.is_pooled() || chunk.is_scarce() { Chunk::copy_of(&chunk) } else { chunk };
        if due <= now && free && pipe.queue.is_empty() && sink.connected && !sink.sending {
            let Some(socket) = sink.socket else { return };
            sink.sending = true;
            pipe.in_flight_bytes = chunk.len();
            (pipe.in_flight_since, pipe.moved_at) = (now, now);
            return cx.ring.send(socket, token, std::iter::once(chunk));
        }
        cx.hold(self.proxy, chunk.len());
        self.pipe(direction).push(Item { chunk, due, held });
        self.flush(direction, cx, proxy);
    }

    /// Sends what may go now; else sets a timer for when it may, and ends the pipe when nothing is left.
    pub(in crate::proxy) fn flush<R: Ring>(
        &mut self,
        direction: Direction,
        cx: &mut Context<R>,
        proxy: &mut ProxyState,
    ) {
        let (pipe, _, sink) = self.parts(direction);
        if sink.sending || !sink.connected {
            if sink.socket.is_none() && !sink.connecting {
                self.end_pipe(direction, cx, proxy);
            }
            return;
        }
        let Some(socket) = sink.socket else { return };
        let Some(front) = pipe.queue.front() else { return self.end_pipe(direction, cx, proxy) };
        if front.due > cx.now {
            let due = front.due;
            return self.schedule(direction, due, cx);
        }
        let ready = self.ready(direction, cx);
        self.tell_gates(cx, proxy);
        let ready = match ready {
            Ready::Items(ready) => ready,
            Ready::At(again) => return self.schedule(direction, again, cx),
            Ready::Never if self.is_ended_by_what_is_under_way(direction) => return,
            Ready::Never => return self.end_by_gate(direction, cx, proxy),
        };
        let token = self.token(sink_role(direction));
        let (ordinal, proxy_id) = (self.facts.ordinal, self.proxy);
        let pipe = self.pipe(direction);
        let since = pipe.queue.front().map_or(cx.now, |item| item.due);
        let mut bytes = 0;
        for item in pipe.queue.iter().take(ready) {
            bytes += item.chunk.len();
            if item.held.rules != 0 {
                proxy.released(item, ordinal, cx.now, &mut cx.events);
            }
        }
        pipe.queued_bytes -= bytes;
        cx.let_go(proxy_id, bytes);
        pipe.in_flight_bytes = bytes;
        (pipe.in_flight_since, pipe.moved_at) = (since, cx.now);
        cx.ring.send(socket, token, pipe.queue.drain(..ready).map(|item| item.chunk));
        self.sink(direction).sending = true;
    }

    /// Counts the gates that have done something to bytes of this connection, each once.
    fn tell_gates<R: Ring>(&mut self, cx: &mut Context<R>, proxy: &ProxyState) {
        let Some(gates) = &mut self.gates else { return };
        while let Some((cause, deed)) = gates.next_done() {
            proxy.injected(&cause, self.facts.ordinal, Detail::Did(deed), cx);
        }
    }

    /// How many items at the front may go now, by the gates; at least one of them is due.
    fn ready<R: Ring>(&mut self, direction: Direction, cx: &mut Context<R>) -> Ready {
        let now = cx.now;
        let Connection { gates, request, reply, .. } = self;
        let pipe = if direction == Direction::Request { request } else { reply };
        let Some(gates) = gates else {
            let due = pipe.queue.iter().take(SEND_CHUNKS_MAX).take_while(|item| item.due <= now);
            return Ready::Items(due.count());
        };
        let mut ready = 0;
        while ready < SEND_CHUNKS_MAX {
            let Some(item) = pipe.queue.get_mut(ready).filter(|item| item.due <= now) else { break };
            let length = match gates.pass(direction, item.chunk.len(), item.due, now) {
                Pass::Now(bytes) => bytes,
                Pass::At(again) if ready == 0 => return Ready::At(again),
                Pass::Never if ready == 0 => return Ready::Never,
                Pass::At(_) | Pass::Never => break,
            };
            if length < item.chunk.len() {
                let front = item.chunk.split_to(length);
                // The rest has the rules; accuracy is told once, with the last bytes.
                let (due, held) = (item.due, item.held.untold());
                pipe.queue.insert(ready, Item { chunk: front, due, held });
            }
            ready += 1;
            if gates.separate(direction) {
                break;
            }
        }
        Ready::Items(ready)
    }

    /// Whether the gate that lets no byte of this direction pass has let bytes of the other one go which are not with the
    /// kernel yet: it ends the connection when they are.
    fn is_ended_by_what_is_under_way(&mut self, direction: Direction) -> bool {
        let other = direction.opposite();
        self.sink(other).sending && self.gates.as_ref().is_some_and(|gates| gates.finish(other).is_some())
    }

    /// Ends the connection if a gate lets no byte more of this direction pass. Nothing of it may be under way.
    fn end_by_gate<R: Ring>(&mut self, direction: Direction, cx: &mut Context<R>, proxy: &mut ProxyState) {
        let Some(end) = self.gates.as_ref().and_then(|gates| gates.finish(direction)) else { return };
        if self.closing {
            // What will never pass is not waited for.
            self.drop_queue(direction, cx);
            return self.end_pipe(direction, cx, proxy);
        }
        let detail = end.deed.map_or(Detail::None, Detail::Did);
        proxy.injected(&end.cause, self.facts.ordinal, detail, cx);
        if end.how == Finish::Close {
            self.drop_queue(direction, cx);
        }
        self.finish(end.how, cx);
    }

    pub(in crate::proxy) fn on_sent<R: Ring>(
        &mut self,
        direction: Direction,
        cx: &mut Context<R>,
        proxy: &mut ProxyState,
    ) {
        let now = cx.now;
        let (pipe, _, sink) = self.parts(direction);
        sink.sending = false;
        pipe.in_flight_bytes = 0;
        cx.figures.residence.record((now - pipe.in_flight_since).as_nanos() as u64);
        if self.closing {
            self.flush(direction, cx, proxy);
            return self.settle(cx);
        }
        if self.gates.as_ref().is_some_and(|gates| gates.finish(direction).is_some()) {
            return self.end_by_gate(direction, cx, proxy);
        }
        self.flush(direction, cx, proxy);
        if self.abort_is_due(direction) {
            match self.exchanges.as_ref().and_then(|exchanges| exchanges.next_abort()) {
                Some(cause) => self.abort_now(&cause, cx, proxy),
                None => {
                    self.happens(ABORTED, cx, proxy);
                    self.close(cx);
                }
            }
            return;
        }
        if direction == Direction::Reply {
            self.on_replies_taken(cx, proxy);
        }
        if !self.closing && !self.source(direction).receiving {
            self.regulate(direction, cx, proxy);
        }
    }

    /// Whether a send in `direction` was the last thing that had to happen before both sides are closed.
    fn abort_is_due(&self, direction: Direction) -> bool {
        let requests_are_sent = self.request.bytes() == 0;
        match &self.exchanges {
            Some(exchanges) => self.aborts_a_message && exchanges.abort_is_due(requests_are_sent),
            None => self.abort && direction == Direction::Request && requests_are_sent,
        }
    }

    /// A receive that found no buffer tries again.
    pub(in crate::proxy) fn on_buffers<R: Ring>(
        &mut self,
        direction: Direction,
        cx: &mut Context<R>,
        proxy: &mut ProxyState,
    ) {
        self.pipe(direction).starved = false;
        if self.closing {
            return self.read_on(direction, cx);
        }
        self.regulate(direction, cx, proxy);
    }

    pub(in crate::proxy) fn on_pipe_timer<R: Ring>(
        &mut self,
        direction: Direction,
        cx: &mut Context<R>,
        proxy: &mut ProxyState,
    ) {
        self.pipe(direction).timer = None;
        if self.closing {
            self.changed_at = cx.now;
        }
        self.flush(direction, cx, proxy);
        if self.closing {
            self.settle(cx);
        }
    }

    /// Reads on while the pipe has room; stops reading when it has not.
    pub(in crate::proxy) fn regulate<R: Ring>(
        &mut self,
        direction: Direction,
        cx: &mut Context<R>,
        proxy: &mut ProxyState,
    ) {
        let limit = self.limit(direction, cx, proxy);
        let token = self.token(source_role(direction));
        let (pipe, source, _) = self.parts(direction);
        let full = pipe.bytes() > limit;
        let holds = pipe.holds(cx.now) || pipe.parked_bytes > 0;
        if source.receiving {
            if full && !cx.ring.counts_credit() && !pipe.cancelling {
                pipe.cancelling = true;
                cx.ring.cancel_receive(token);
            }
        } else if !full {
            self.receive(direction, cx);
        } else if cx.held_bytes > cx.held_bytes_max {
            proxy.counters.worker_held_limit_reached += 1;
            self.limit_reached(Limit::WorkerHeld, cx, proxy);
        } else if holds {
            proxy.counters.held_limit_reached += 1;
            self.limit_reached(Limit::Held, cx, proxy);
        }
        if !self.source(direction).receiving && self.patience.is_none() {
            // It cannot say that it is gone.
            self.wait(cx, proxy);
        }
    }

    /// Tells of a limit, once for each connection: in a storm the counters count, and the events stay few.
    pub(in crate::proxy) fn limit_reached<R: Ring>(
        &mut self,
        limit: Limit,
        cx: &mut Context<R>,
        proxy: &ProxyState,
    ) {
        if self.limits_told & limit.bit() == 0 {
            self.limits_told |= limit.bit();
            let event = proxy.event(EventKind::LimitReached, cx.now);
            let (connection, detail) = (self.facts.ordinal + 1, Detail::Words(limit.name()));
            cx.events.push(Event { connection, detail, ..event });
        }
    }

    /// Bytes the pipe may have before its source is no longer read.
    pub(in crate::proxy) fn limit<R: Ring>(
        &mut self,
        direction: Direction,
        cx: &Context<R>,
        proxy: &ProxyState,
    ) -> usize {
        if cx.held_bytes > cx.held_bytes_max {
            return 0;
        }
        let by_gate = self.gates.as_ref().and_then(|gates| gates.queue_bytes(direction));
        match by_gate {
            Some(bytes) => bytes,
            None if self.pipe(direction).holds(cx.now) => proxy.held_bytes_max,
            None => QUEUE_BYTES_MAX,
        }
    }

    pub(super) fn receive<R: Ring>(&mut self, direction: Direction, cx: &mut Context<R>) {
        let token = self.token(source_role(direction));
        let (pipe, source, _) = self.parts(direction);
        let Some(socket) = source.socket else { return };
        if source.receiving || source.ended || !source.connected || pipe.starved {
            return;
        }
        source.receiving = true;
        cx.ring.receive(socket, token, pipe.size.buffers(), pipe.size.credit());
    }

    pub(super) fn schedule<R: Ring>(&mut self, direction: Direction, due: Instant, cx: &mut Context<R>) {
        let what = What::Pipe(direction);
        let timer = self.timer(what);
        let pipe = self.pipe(direction);
        if let Some((id, set)) = pipe.timer {
            if set == due {
                return;
            }
            cx.timers.cancel(id);
        }
        // Never: a rate of 0 ends with a change of the rules, not with time.
        pipe.timer = (due != Instant::FAR_FUTURE).then(|| (cx.timers.insert(due, timer), due));
    }
}
