//! One connection: two sockets, two pipes, and what the rules do to them. Told what happened, it asks the
//! ring for what follows; it never waits and never reads a clock.
//!
//! ```text
//!               request pipe
//!   downstream ────────────────► upstream        a pipe's source is read while its bytes are below a limit,
//!      (client) ◄──────────────── (backend)      its sink is written one send at a time, in order of due time
//!                reply pipe
//! ```
//! Bytes that no rule can touch go from the receive to the send by reference, unparsed.

use std::sync::Arc;

use super::event::{Detail, Event, EventBuffer, EventKind, Limit, RuleName};
use super::exchange::Exchanges;
use super::pipe::{End, Item, Pipe, QUEUE_BYTES_MAX};
use super::stats::{RuleStats, count_drawn};
use super::worker::{Context, ProxyState, Timer, What};
use crate::behavior::{
    Act, Action, Bucket, ConnectionFacts, ConnectionPlan, Direction, Drawn, Hold, ResetSide, RuleMask,
    RuleSet, ThrottlePlan, garbage, max_slice,
};
use crate::clock::Instant;
use crate::ring::{Chunk, Errno, ReceiveEnd, Ring, SEND_CHUNKS_MAX, Socket, Token};
use crate::timers::TimerId;

/// The role of a downstream socket in its tokens.
pub(super) const DOWNSTREAM: u8 = 1;
/// The role of an upstream socket in its tokens.
pub(super) const UPSTREAM: u8 = 2;

/// One side's socket and what the ring is doing with it.
#[derive(Debug, Default)]
pub(super) struct Peer {
    pub socket: Option<Socket>,
    pub connecting: bool,
    pub connected: bool,
    pub receiving: bool,
    pub sending: bool,
    /// No more bytes will come from it.
    pub ended: bool,
    /// A send to it failed: what its receive says now, an end even, means that it broke off.
    pub broken: bool,
}

impl Peer {
    fn is_busy(&self) -> bool {
        self.connecting || self.receiving || self.sending
    }
}

/// One connection and everything about it.
pub(super) struct Connection {
    /// Its proxy's place in the worker, its own place, and which tenant of that place it is.
    pub proxy: u32,
    pub slot: u32,
    pub generation: u16,
    pub facts: ConnectionFacts,
    pub downstream: Peer,
    pub upstream: Peer,
    pub request: Pipe,
    pub reply: Pipe,
    /// Rules that can still touch it; 0 on the fast path.
    active: RuleMask,
    /// Messages must be read from the next one on.
    parse: bool,
    /// The last bytes came from the upstream, or none came yet: the next request byte begins a message.
    between_messages: bool,
    pub(super) exchanges: Option<Box<Exchanges>>,
    throttles: Option<Box<Throttles>>,
    reset: Option<Box<PendingReset>>,
    connect_timer: Option<TimerId>,
    /// Which of the upstream's addresses is being tried.
    attempt: u8,
    /// Reads and discards until the client leaves or the rule does.
    hung: bool,
    /// Closes both sides once the request has been handed on.
    pub(super) abort: bool,
    closing: bool,
    /// The limits that it has told of, each once ([`Limit::bit`]).
    limits_told: u8,
}

/// The rates a connection keeps, with its own buckets.
struct Throttles {
    plans: Vec<ThrottlePlan>,
    /// One bucket for each plan and direction.
    buckets: Vec<[Bucket; 2]>,
    /// How many of the plans have let the front of each direction's queue pass already.
    granted: [usize; 2],
}

struct PendingReset {
    side: ResetSide,
    /// Bytes that may still pass, unless it waits for a time.
    bytes_left: Option<u64>,
    timer: Option<TimerId>,
}

impl Connection {
    pub fn new(proxy: u32, slot: u32, generation: u16, facts: ConnectionFacts, socket: Socket) -> Connection {
        Connection {
            proxy,
            slot,
            generation,
            facts,
            downstream: Peer { socket: Some(socket), connected: true, ..Peer::default() },
            upstream: Peer::default(),
            request: Pipe::default(),
            reply: Pipe::default(),
            active: 0,
            parse: false,
            between_messages: true,
            exchanges: None,
            throttles: None,
            reset: None,
            connect_timer: None,
            attempt: 0,
            hung: false,
            abort: false,
            closing: false,
            limits_told: 0,
        }
    }

    /// Begins: plans by the rules, reads the client, and connects unless a message decides first.
    pub fn start<R: Ring>(&mut self, cx: &mut Context<R>, proxy: &mut ProxyState) {
        let plan = proxy.rules.on_connection(&self.facts);
        proxy.count(plan.drawn);
        self.adopt(plan, None, cx, proxy);
        if self.closing {
            return;
        }
        self.receive(Direction::Request, cx, proxy);
        if self.parse {
            self.exchanges = Some(Box::default());
        } else if !self.hung {
            self.connect(cx, proxy);
        }
    }

    /// The rules have changed: what is said to act "now" on a live connection acts now.
    pub fn on_rules_changed<R: Ring>(
        &mut self,
        cx: &mut Context<R>,
        proxy: &mut ProxyState,
        previous: &RuleSet,
    ) {
        if self.closing {
            return;
        }
        let before = self.active;
        let plan = proxy.rules.on_change(&self.facts, previous, self.active);
        proxy.count(plan.drawn);
        let is = |kind: &str, mask: RuleMask| {
            proxy.rules.rules().iter().enumerate().any(|(i, rule)| mask >> i & 1 == 1 && rule.kind() == kind)
        };
        if self.hung {
            // What it swallowed cannot be answered any more: let the client come again.
            if !is("hang", plan.active) {
                self.close(cx);
            }
            return;
        }
        // A request that was read before the change keeps what was decided about it.
        if self.abort && self.exchanges.is_none() && !is("abort", plan.active) {
            if self.reply.discard {
                // Bytes of the reply are gone already: let the client come again.
                return self.close(cx);
            }
            self.abort = false;
        }
        if !is("reset", plan.active)
            && let Some(reset) = self.reset.take()
        {
            reset.timer.map(|timer| cx.timers.cancel(timer));
        }
        self.adopt(plan, Some((previous, before)), cx, proxy);
        if !self.closing {
            for direction in [Direction::Request, Direction::Reply] {
                self.flush(direction, cx, proxy);
            }
        }
        // The limits may have changed, and a queue that stopped the reading may be gone.
        for direction in [Direction::Request, Direction::Reply] {
            if !self.closing {
                self.regulate(direction, cx, proxy);
            }
        }
    }

    /// Takes a plan; what it says of the whole connection is done unless it was under the same rule before.
    fn adopt<R: Ring>(
        &mut self,
        plan: ConnectionPlan,
        before: Option<(&RuleSet, RuleMask)>,
        cx: &mut Context<R>,
        proxy: &mut ProxyState,
    ) {
        self.active = plan.active;
        self.parse = plan.parse;
        let rules = Arc::clone(&proxy.rules);
        let is_new = |rule: u8| {
            before.is_none_or(|(previous, active)| {
                let rule = rules.rules()[usize::from(rule)].rule();
                let same = previous.rules().iter().position(|old| old.rule() == rule);
                same.is_none_or(|old| active >> old & 1 == 0)
            })
        };
        for throttle in plan.throttles.iter().filter(|throttle| is_new(throttle.rule)) {
            proxy.injected(throttle.rule, self.facts.ordinal, 0, Detail::Limited(throttle.rate), cx);
        }
        let throttles = self.throttles.take();
        self.throttles = (!plan.throttles.is_empty()).then(|| Throttles::new(plan.throttles, throttles));
        if let Some(act) = plan.act.filter(|act| is_new(act.rule)) {
            self.act(act, 0, cx, proxy);
        }
    }

    /// Does what a rule says to the connection, at this exchange of it (0: at none).
    pub(super) fn act<R: Ring>(
        &mut self,
        act: Act,
        exchange: u64,
        cx: &mut Context<R>,
        proxy: &mut ProxyState,
    ) {
        proxy.injected(act.rule, self.facts.ordinal, exchange, Detail::of(&act.action), cx);
        match act.action {
            Action::Hang => self.hang(cx),
            Action::Blackout => self.close(cx),
            Action::Abort => self.abort = true,
            Action::Reset { after_time, after_bytes, side } => {
                if after_time.is_zero() && after_bytes == 0 {
                    return self.reset_now(side, cx);
                }
                let what = What::Reset;
                let due = cx.now + after_time;
                let timer = (!after_time.is_zero()).then(|| cx.timers.insert(due, self.timer(what)));
                let bytes_left = after_time.is_zero().then_some(after_bytes);
                self.reset = Some(Box::new(PendingReset { side, bytes_left, timer }));
            }
            // These act on messages and chunks, where the bytes are.
            Action::ErrorReply { .. } | Action::Garbage { .. } => {}
        }
    }

    fn hang<R: Ring>(&mut self, cx: &mut Context<R>) {
        self.hung = true;
        for direction in [Direction::Request, Direction::Reply] {
            self.drop_queue(direction, cx);
            self.pipe(direction).discard = true;
        }
    }

    pub(super) fn reset_now<R: Ring>(&mut self, side: ResetSide, cx: &mut Context<R>) {
        if matches!(side, ResetSide::Downstream | ResetSide::Both)
            && let Some(socket) = self.downstream.socket
        {
            cx.ring.reset(socket);
        }
        if matches!(side, ResetSide::Upstream | ResetSide::Both)
            && self.upstream.connected
            && let Some(socket) = self.upstream.socket
        {
            cx.ring.reset(socket);
        }
        self.close(cx);
    }

    /// Opens the upstream socket and connects it.
    pub(super) fn connect<R: Ring>(&mut self, cx: &mut Context<R>, proxy: &mut ProxyState) {
        let address = proxy.upstream[usize::from(self.attempt) % proxy.upstream.len()];
        let sources = &proxy.source_addresses;
        let source = (!sources.is_empty()).then(|| sources[self.facts.ordinal as usize % sources.len()]);
        match cx.ring.connect(address, source, &cx.options, self.token(UPSTREAM)) {
            Ok(socket) => {
                self.upstream.socket = Some(socket);
                self.upstream.connecting = true;
                let due = cx.now + proxy.connect_timeout;
                self.connect_timer = Some(cx.timers.insert(due, self.timer(What::ConnectTimeout)));
            }
            Err(error) => {
                proxy.counters.connect_failures += 1;
                let errno = Errno(error.raw_os_error().unwrap_or(0));
                proxy.failed(self.facts.ordinal, Detail::Failed("connect", errno), cx);
                self.close(cx);
            }
        }
    }

    pub fn on_connected<R: Ring>(&mut self, cx: &mut Context<R>, proxy: &mut ProxyState) {
        self.upstream.connecting = false;
        self.upstream.connected = true;
        self.connect_timer.take().map(|timer| cx.timers.cancel(timer));
        if self.closing {
            return self.settle(cx);
        }
        self.receive(Direction::Reply, cx, proxy);
        self.flush(Direction::Request, cx, proxy);
    }

    pub fn on_connect_failed<R: Ring>(&mut self, errno: Errno, cx: &mut Context<R>, proxy: &mut ProxyState) {
        self.upstream.connecting = false;
        self.connect_timer.take().map(|timer| cx.timers.cancel(timer));
        if self.closing {
            return self.settle(cx);
        }
        if let Some(socket) = self.upstream.socket.take() {
            cx.ring.close(socket);
        }
        self.attempt += 1;
        if usize::from(self.attempt) < proxy.upstream.len().min(ATTEMPTS_MAX) {
            return self.connect(cx, proxy);
        }
        proxy.counters.connect_failures += 1;
        proxy.failed(self.facts.ordinal, Detail::Failed("connect", errno), cx);
        self.give_up_upstream(cx, proxy);
    }

    /// There is no upstream: what is due to the client still goes, then it gets a FIN.
    fn give_up_upstream<R: Ring>(&mut self, cx: &mut Context<R>, proxy: &mut ProxyState) {
        if self.reply.bytes() == 0 {
            return self.close(cx);
        }
        self.drop_queue(Direction::Request, cx);
        self.request.discard = true;
        self.finish_reply(cx, proxy);
    }

    pub fn on_connect_timeout<R: Ring>(&mut self, cx: &mut Context<R>, proxy: &mut ProxyState) {
        self.connect_timer = None;
        if self.upstream.connecting {
            proxy.counters.connect_timeouts += 1;
            proxy.failed(self.facts.ordinal, Detail::Words("connect: took longer than connect_timeout"), cx);
            self.close(cx);
        }
    }

    pub fn on_received<R: Ring>(
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
            return self.settle(cx);
        }
        let pipe = self.pipe(direction);
        pipe.size.observe(length);
        if !pipe.discard {
            self.enter(direction, chunk, cx, proxy);
        }
        if !self.closing {
            self.regulate(direction, cx, proxy);
        }
    }

    /// Bytes come in: as messages if rules need messages, else as they are.
    fn enter<R: Ring>(
        &mut self,
        direction: Direction,
        chunk: Chunk,
        cx: &mut Context<R>,
        proxy: &mut ProxyState,
    ) {
        let begins = direction == Direction::Request && std::mem::replace(&mut self.between_messages, false);
        if direction == Direction::Reply {
            self.between_messages = true;
        }
        if self.parse && begins && self.exchanges.is_none() {
            // A rule came to a connection that was not read: it joins where a request begins.
            self.exchanges = Exchanges::join(&chunk);
        }
        if let Some(exchanges) = self.exchanges.take() {
            return self.on_message_bytes(exchanges, direction, chunk, cx, proxy);
        }
        if self.active == 0 {
            return self.forward(direction, chunk, &Hold::default(), cx, proxy);
        }
        let ordinal = self.pipe(direction).chunks;
        self.pipe(direction).chunks += 1;
        let decision = proxy.rules.on_chunk(&self.facts, self.active, direction, ordinal);
        proxy.count(decision.drawn);
        let hold = match direction {
            Direction::Request => decision.request_hold,
            Direction::Reply => decision.reply_hold,
        };
        match decision.act {
            None => self.forward(direction, chunk, &hold, cx, proxy),
            Some(Act { rule, action: action @ Action::Garbage { inject, draw } }) => {
                proxy.injected(rule, self.facts.ordinal, 0, Detail::of(&action), cx);
                let garbage = garbage(draw, inject, chunk.len());
                let mut rest = chunk;
                match garbage.insert_at {
                    Some(at) => {
                        let front = rest.split_to(at);
                        self.forward(direction, front, &hold, cx, proxy);
                        self.forward(direction, Chunk::from(garbage.bytes), &hold, cx, proxy);
                        self.forward(direction, rest, &hold, cx, proxy);
                    }
                    None => self.forward(direction, Chunk::from(garbage.bytes), &hold, cx, proxy),
                }
            }
            Some(act) => {
                self.act(act, 0, cx, proxy);
                if !self.closing && !self.hung {
                    self.forward(direction, chunk, &hold, cx, proxy);
                }
            }
        }
    }

    /// Sends bytes on, or queues them behind others or for their time.
    pub(super) fn forward<R: Ring>(
        &mut self,
        direction: Direction,
        chunk: Chunk,
        hold: &Hold,
        cx: &mut Context<R>,
        proxy: &mut ProxyState,
    ) {
        if chunk.is_empty() {
            return;
        }
        if direction == Direction::Reply && self.abort {
            self.reply.discard = true;
            return;
        }
        if direction == Direction::Request && self.upstream.socket.is_none() {
            self.connect(cx, proxy);
            if self.closing {
                return;
            }
        }
        let now = cx.now;
        let token = self.token(sink_role(direction));
        let free = self.throttles.is_none() && self.reset.is_none();
        let (pipe, _, sink) = self.parts(direction);
        let due = pipe.due(now, hold);
        // What waits must not pin the buffers that others need: copy when it is held, or they are scarce.
        let chunk =
            if due > now && chunk.is_pooled() || chunk.is_scarce() { Chunk::copy_of(&chunk) } else { chunk };
        if due <= now && free && pipe.queue.is_empty() && sink.connected && !sink.sending {
            let Some(socket) = sink.socket else { return };
            sink.sending = true;
            pipe.in_flight_bytes = chunk.len();
            pipe.in_flight_since = now;
            return cx.ring.send(socket, token, std::iter::once(chunk));
        }
        cx.hold(self.proxy, chunk.len());
        self.pipe(direction).push(Item {
            chunk,
            due,
            asked: hold.time,
            rules: hold.rules,
            exchange: hold.exchange,
            generation: proxy.rules.generation,
        });
        self.flush(direction, cx, proxy);
    }

    /// Sends what may go now; else sets a timer for when it may, and ends the pipe when nothing is left.
    pub(super) fn flush<R: Ring>(
        &mut self,
        direction: Direction,
        cx: &mut Context<R>,
        proxy: &mut ProxyState,
    ) {
        let (pipe, _, sink) = self.parts(direction);
        if sink.sending || !sink.connected {
            if sink.socket.is_none() && !sink.connecting {
                self.end_pipe(direction, cx);
            }
            return;
        }
        let Some(socket) = sink.socket else { return };
        let Some(front) = pipe.queue.front() else { return self.end_pipe(direction, cx) };
        if front.due > cx.now {
            let due = front.due;
            return self.schedule(direction, due, cx);
        }
        let ready = match self.ready(direction, cx) {
            Ok(ready) => ready,
            Err(again) => return self.schedule(direction, again, cx),
        };
        if ready == 0 {
            return;
        }
        let token = self.token(sink_role(direction));
        let (ordinal, proxy_id) = (self.facts.ordinal, self.proxy);
        let pipe = self.pipe(direction);
        let since = pipe.queue.front().map_or(cx.now, |item| item.due);
        let mut bytes = 0;
        for item in pipe.queue.iter().take(ready) {
            bytes += item.chunk.len();
            if item.rules != 0 {
                proxy.released(item, ordinal, cx.now, &mut cx.events);
            }
        }
        pipe.queued_bytes -= bytes;
        cx.let_go(proxy_id, bytes);
        pipe.in_flight_bytes = bytes;
        pipe.in_flight_since = since;
        cx.ring.send(socket, token, pipe.queue.drain(..ready).map(|item| item.chunk));
        self.sink(direction).sending = true;
    }

    /// How many items at the front may go now; when to try again if none, by the rates.
    fn ready<R: Ring>(&mut self, direction: Direction, cx: &mut Context<R>) -> Result<usize, Instant> {
        let now = cx.now;
        let Connection { throttles, reset, request, reply, .. } = self;
        let pipe = if direction == Direction::Request { request } else { reply };
        let mut allowed =
            reset.as_ref().and_then(|reset| reset.bytes_left).map_or(usize::MAX, |left| left as usize);
        if throttles.is_none() && allowed == usize::MAX {
            return Ok(pipe.queue.iter().take(SEND_CHUNKS_MAX).take_while(|item| item.due <= now).count());
        }
        let mut ready = 0;
        while ready < SEND_CHUNKS_MAX && allowed > 0 {
            let Some(item) = pipe.queue.get_mut(ready).filter(|item| item.due <= now) else { break };
            let slice = throttles.as_ref().map_or(usize::MAX, |throttles| throttles.slice(direction));
            let length = item.chunk.len().min(slice).min(allowed);
            if let Some(throttles) = throttles
                && let Err(again) = throttles.take(direction, length, now)
            {
                if ready == 0 {
                    return Err(again);
                }
                break;
            }
            if length < item.chunk.len() {
                let front = item.chunk.split_to(length);
                let Item { due, asked, exchange, generation, .. } = *item;
                // The rest has the rules; accuracy is told once, with the last bytes.
                pipe.queue.insert(ready, Item { chunk: front, due, asked, rules: 0, exchange, generation });
            }
            allowed -= length;
            ready += 1;
        }
        if let Some(left) = reset.as_mut().and_then(|reset| reset.bytes_left.as_mut()) {
            *left = allowed as u64;
        }
        Ok(ready)
    }

    pub fn on_sent<R: Ring>(&mut self, direction: Direction, cx: &mut Context<R>, proxy: &mut ProxyState) {
        let now = cx.now;
        let (pipe, _, sink) = self.parts(direction);
        sink.sending = false;
        pipe.in_flight_bytes = 0;
        cx.residence.saturating_record((now - pipe.in_flight_since).as_nanos() as u64);
        if self.closing {
            return self.settle(cx);
        }
        if self.reset.as_ref().is_some_and(|reset| reset.bytes_left == Some(0)) {
            return self.on_reset_due(cx);
        }
        self.flush(direction, cx, proxy);
        if self.abort
            && direction == Direction::Request
            && self.request.bytes() == 0
            && self.request_is_whole()
        {
            return self.close(cx);
        }
        if !self.closing && !self.source(direction).receiving {
            self.regulate(direction, cx, proxy);
        }
    }

    /// Whether no part of a request is still to come, as far as anybody reads requests.
    fn request_is_whole(&self) -> bool {
        self.exchanges.as_ref().is_none_or(|exchanges| exchanges.request_is_whole())
    }

    pub fn on_send_failed<R: Ring>(
        &mut self,
        direction: Direction,
        cx: &mut Context<R>,
        proxy: &mut ProxyState,
    ) {
        let (pipe, _, sink) = self.parts(direction);
        sink.sending = false;
        sink.broken = true;
        pipe.in_flight_bytes = 0;
        let ended = sink.ended;
        if self.closing {
            return self.settle(cx);
        }
        self.drop_queue(direction, cx);
        self.pipe(direction).discard = true;
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
        // A source that could not write on might never come to read.
        self.regulate(direction, cx, proxy);
    }

    pub fn on_receive_ended<R: Ring>(
        &mut self,
        direction: Direction,
        end: ReceiveEnd,
        cx: &mut Context<R>,
        proxy: &mut ProxyState,
    ) {
        self.source(direction).receiving = false;
        self.pipe(direction).cancelling = false;
        if self.closing {
            return self.settle(cx);
        }
        match end {
            ReceiveEnd::Eof if !self.source(direction).broken => {
                self.source(direction).ended = true;
                if self.hung {
                    return self.on_end_while_hung(direction, cx);
                }
                if direction == Direction::Reply {
                    self.on_upstream_end(cx, proxy);
                }
                self.pipe(direction).end = End::Fin;
                self.flush(direction, cx, proxy);
            }
            ReceiveEnd::Eof | ReceiveEnd::Failed(_) => {
                self.source(direction).ended = true;
                if self.hung {
                    // Whoever gives up on a connection that hangs does what the rule asked for.
                    return self.on_end_while_hung(direction, cx);
                }
                let errno = match end {
                    ReceiveEnd::Failed(errno) => errno,
                    // A send to it failed before.
                    _ => Errno(libc::EPIPE),
                };
                self.broke_off(direction, errno, cx, proxy);
                self.pipe(direction).end = End::Rst;
                // Nothing can be sent to a socket that failed.
                self.drop_queue(direction.opposite(), cx);
                let back = self.pipe(direction.opposite());
                back.discard = true;
                back.end = if back.end == End::Fin { End::Sent } else { back.end };
                self.flush(direction, cx, proxy);
            }
            ReceiveEnd::NoBuffers => {
                proxy.counters.no_buffers += 1;
                cx.no_buffers += 1;
                self.limit_reached(Limit::NoBuffers, cx, proxy);
                self.pipe(direction).starved = true;
                cx.starved.push((self.slot, self.generation, direction));
            }
            ReceiveEnd::Stopped => self.regulate(direction, cx, proxy),
        }
    }

    /// Counts that the source of `direction` broke off, and tells of it.
    fn broke_off<R: Ring>(
        &self,
        direction: Direction,
        errno: Errno,
        cx: &mut Context<R>,
        proxy: &mut ProxyState,
    ) {
        let (who, count) = match direction {
            Direction::Request => ("client", &mut proxy.counters.client_resets),
            Direction::Reply => ("upstream", &mut proxy.counters.upstream_resets),
        };
        *count += 1;
        proxy.failed(self.facts.ordinal, Detail::Failed(who, errno), cx);
    }

    /// A client that leaves is done with; one whose upstream leaves goes on hanging.
    fn on_end_while_hung<R: Ring>(&mut self, direction: Direction, cx: &mut Context<R>) {
        if direction == Direction::Request {
            self.close(cx);
        }
    }

    /// A receive that found no buffer tries again.
    pub fn on_buffers<R: Ring>(&mut self, direction: Direction, cx: &mut Context<R>, proxy: &mut ProxyState) {
        self.pipe(direction).starved = false;
        if !self.closing {
            self.regulate(direction, cx, proxy);
        }
    }

    pub fn on_pipe_timer<R: Ring>(
        &mut self,
        direction: Direction,
        cx: &mut Context<R>,
        proxy: &mut ProxyState,
    ) {
        self.pipe(direction).timer = None;
        if !self.closing {
            self.flush(direction, cx, proxy);
        }
    }

    pub fn on_reset_due<R: Ring>(&mut self, cx: &mut Context<R>) {
        if let Some(reset) = self.reset.take()
            && !self.closing
        {
            self.reset_now(reset.side, cx);
        }
    }

    /// Reads on while the pipe has room; stops reading when it has not.
    fn regulate<R: Ring>(&mut self, direction: Direction, cx: &mut Context<R>, proxy: &mut ProxyState) {
        let limit = self.limit(direction, cx, proxy);
        let token = self.token(source_role(direction));
        let (pipe, source, _) = self.parts(direction);
        let full = pipe.bytes() > limit;
        let holds = pipe.holds(cx.now);
        if source.receiving {
            if full && !cx.ring.counts_credit() && !pipe.cancelling {
                pipe.cancelling = true;
                cx.ring.cancel_receive(token);
            }
        } else if !full {
            self.receive(direction, cx, proxy);
        } else if cx.held_bytes > cx.held_bytes_max {
            proxy.counters.worker_held_limit_reached += 1;
            self.limit_reached(Limit::WorkerHeld, cx, proxy);
        } else if holds {
            proxy.counters.held_limit_reached += 1;
            self.limit_reached(Limit::Held, cx, proxy);
        }
    }

    /// Tells of a limit, once for each connection: in a storm the counters count, and the events stay few.
    pub(super) fn limit_reached<R: Ring>(&mut self, limit: Limit, cx: &mut Context<R>, proxy: &ProxyState) {
        if self.limits_told & limit.bit() == 0 {
            self.limits_told |= limit.bit();
            let event = proxy.event(EventKind::LimitReached, cx.now);
            let (connection, detail) = (self.facts.ordinal + 1, Detail::Words(limit.name()));
            cx.events.push(Event { connection, detail, ..event });
        }
    }

    /// Bytes the pipe may have before its source is no longer read.
    fn limit<R: Ring>(&mut self, direction: Direction, cx: &Context<R>, proxy: &ProxyState) -> usize {
        if cx.held_bytes > cx.held_bytes_max {
            return 0;
        }
        let throttled = self.throttles.as_ref().and_then(|throttles| throttles.queue_bytes(direction));
        match throttled {
            Some(bytes) => bytes,
            None if self.pipe(direction).holds(cx.now) => proxy.held_bytes_max,
            None => QUEUE_BYTES_MAX,
        }
    }

    fn receive<R: Ring>(&mut self, direction: Direction, cx: &mut Context<R>, _: &mut ProxyState) {
        let token = self.token(source_role(direction));
        let (pipe, source, _) = self.parts(direction);
        let Some(socket) = source.socket else { return };
        if source.receiving || source.ended || !source.connected || pipe.starved {
            return;
        }
        source.receiving = true;
        cx.ring.receive(socket, token, pipe.size.buffers(), pipe.size.credit());
    }

    fn schedule<R: Ring>(&mut self, direction: Direction, due: Instant, cx: &mut Context<R>) {
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

    /// The queue is empty: hands on the end of the source, if it has come.
    fn end_pipe<R: Ring>(&mut self, direction: Direction, cx: &mut Context<R>) {
        let (pipe, _, sink) = self.parts(direction);
        if !pipe.queue.is_empty() {
            return;
        }
        match pipe.end {
            End::Open | End::Sent => return,
            End::Rst => {
                if sink.connected
                    && let Some(socket) = sink.socket
                {
                    cx.ring.reset(socket);
                }
                return self.close(cx);
            }
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
            return self.end_pipe(Direction::Reply, cx);
        }
        if self.request.end == End::Sent && self.reply.end == End::Sent {
            self.close(cx);
        }
    }

    /// No more replies will come after those that are queued: ends the reply direction with a FIN.
    pub(super) fn finish_reply<R: Ring>(&mut self, cx: &mut Context<R>, proxy: &mut ProxyState) {
        self.reply.end = if self.reply.end == End::Open { End::Fin } else { self.reply.end };
        self.flush(Direction::Reply, cx, proxy);
    }

    /// Ends the connection: cancels what is in flight, then closes both sockets.
    pub fn close<R: Ring>(&mut self, cx: &mut Context<R>) {
        if self.closing {
            return;
        }
        self.closing = true;
        for direction in [Direction::Request, Direction::Reply] {
            self.drop_queue(direction, cx);
            self.pipe(direction).timer.take().map(|(timer, _)| cx.timers.cancel(timer));
        }
        self.connect_timer.take().map(|timer| cx.timers.cancel(timer));
        self.reset.take().and_then(|reset| reset.timer).map(|timer| cx.timers.cancel(timer));
        self.exchanges = None;
        for peer in [&mut self.downstream, &mut self.upstream] {
            if let Some(socket) = peer.socket
                && peer.is_busy()
            {
                cx.ring.cancel_all(socket);
            }
        }
        self.settle(cx);
    }

    /// Closes the sockets on which nothing is in flight any more.
    fn settle<R: Ring>(&mut self, cx: &mut Context<R>) {
        for peer in [&mut self.downstream, &mut self.upstream] {
            if !peer.is_busy()
                && let Some(socket) = peer.socket.take()
            {
                cx.ring.close(socket);
            }
        }
    }

    /// Whether both sockets are closed, so that the slot is free.
    pub fn is_closed(&self) -> bool {
        self.closing && self.downstream.socket.is_none() && self.upstream.socket.is_none()
    }

    /// Whether it is being closed.
    pub(super) fn is_closing(&self) -> bool {
        self.closing
    }

    /// Whether rules still need messages.
    pub(super) fn needs_messages(&self) -> bool {
        self.parse
    }

    /// What follows is not messages any more (a tunnel): only rules for plain bytes go on.
    pub(super) fn leave_messages(&mut self) {
        self.parse = false;
    }

    /// Messages can be read again from the next request on.
    pub(super) fn stand_between_messages(&mut self) {
        self.between_messages = true;
    }

    pub(super) fn active(&self) -> RuleMask {
        self.active
    }

    /// Everything from here on in this direction is read and dropped, as `hang` does.
    pub(super) fn hang_requests(&mut self) {
        self.hung = true;
        self.request.discard = true;
    }

    fn drop_queue<R: Ring>(&mut self, direction: Direction, cx: &mut Context<R>) {
        let bytes = self.pipe(direction).clear();
        cx.let_go(self.proxy, bytes);
    }

    pub(super) fn pipe(&mut self, direction: Direction) -> &mut Pipe {
        match direction {
            Direction::Request => &mut self.request,
            Direction::Reply => &mut self.reply,
        }
    }

    fn parts(&mut self, direction: Direction) -> (&mut Pipe, &mut Peer, &mut Peer) {
        match direction {
            Direction::Request => (&mut self.request, &mut self.downstream, &mut self.upstream),
            Direction::Reply => (&mut self.reply, &mut self.upstream, &mut self.downstream),
        }
    }

    fn source(&mut self, direction: Direction) -> &mut Peer {
        self.parts(direction).1
    }

    fn sink(&mut self, direction: Direction) -> &mut Peer {
        self.parts(direction).2
    }

    fn token(&self, role: u8) -> Token {
        Token { role, slot: self.slot, generation: self.generation }
    }

    fn timer(&self, what: What) -> Timer {
        Timer { slot: self.slot, generation: self.generation, what }
    }
}

/// Upstream addresses that are tried before a connection is given up.
const ATTEMPTS_MAX: usize = 8;

fn source_role(direction: Direction) -> u8 {
    match direction {
        Direction::Request => DOWNSTREAM,
        Direction::Reply => UPSTREAM,
    }
}

fn sink_role(direction: Direction) -> u8 {
    source_role(direction.opposite())
}

impl Throttles {
    fn new(plans: Vec<ThrottlePlan>, previous: Option<Box<Throttles>>) -> Box<Throttles> {
        let previous = previous.as_deref();
        let bucket = |plan: &ThrottlePlan| {
            let same = previous.and_then(|old| {
                let place =
                    old.plans.iter().position(|old| old.rate == plan.rate && old.side == plan.side)?;
                old.buckets.get(place).cloned()
            });
            same.unwrap_or_else(|| [Bucket::new(plan.rate), Bucket::new(plan.rate)])
        };
        let buckets = plans.iter().map(bucket).collect();
        Box::new(Throttles { plans, buckets, granted: [0; 2] })
    }

    /// The most bytes to let go at once, so that the flow is even.
    fn slice(&self, direction: Direction) -> usize {
        let limiting = self.plans.iter().filter(|plan| plan.side.covers(direction));
        limiting.map(|plan| max_slice(plan.rate)).min().unwrap_or(usize::MAX)
    }

    fn queue_bytes(&self, direction: Direction) -> Option<usize> {
        let limiting = self.plans.iter().filter(|plan| plan.side.covers(direction));
        limiting.map(|plan| plan.queue_bytes as usize).min()
    }

    /// Asks every rate for `bytes`; one that said yes before a later one said no is not asked twice.
    fn take(&mut self, direction: Direction, bytes: usize, now: Instant) -> Result<(), Instant> {
        let granted = &mut self.granted[direction as usize];
        for (plan, own) in self.plans.iter().zip(&mut self.buckets).skip(*granted) {
            if plan.side.covers(direction) {
                match &plan.shared {
                    Some(shared) => shared[direction as usize].take(bytes, now)?,
                    None => own[direction as usize].take(bytes, now)?,
                }
            }
            *granted += 1;
        }
        *granted = 0;
        Ok(())
    }
}

impl ProxyState {
    /// Counts the units that rules met and chose.
    pub(super) fn count(&mut self, drawn: Drawn) {
        if drawn != Drawn::default() {
            count_drawn(&mut self.rule_stats, drawn);
        }
    }

    /// Counts a fault and tells of it; `connection` is an ordinal from 0, `exchange` one from 1.
    pub(super) fn injected<R: Ring>(
        &mut self,
        rule: u8,
        connection: u64,
        exchange: u64,
        detail: Detail,
        cx: &mut Context<R>,
    ) {
        let event = self.event(EventKind::Injected, cx.now);
        let Some(stats) = self.rule_stats.get_mut(usize::from(rule)) else { return };
        stats.injected += 1;
        let rule = Some(RuleName { name: stats.name.clone(), behavior: stats.behavior });
        let (connection, lease) = (connection + 1, stats.lease.clone());
        cx.events.push(Event { connection, exchange, rule, lease, detail, ..event });
    }

    /// Tells of a failure that no rule asked for.
    pub(super) fn failed<R: Ring>(&self, connection: u64, detail: Detail, cx: &mut Context<R>) {
        let event = self.event(EventKind::NaturalFailure, cx.now);
        cx.events.push(Event { connection: connection + 1, detail, ..event });
    }

    /// Held bytes leave: records how exactly the delay was kept.
    fn released(&mut self, item: &Item, connection: u64, now: Instant, events: &mut EventBuffer) {
        let late = now - item.due;
        let mut left = item.rules;
        while left != 0 {
            let rule = left.trailing_zeros() as usize;
            left &= left - 1;
            // A rule set that has changed meanwhile may number its rules otherwise.
            let known = (item.generation != self.rules.generation)
                .then(|| self.earlier.1.get(rule).filter(|_| item.generation == self.earlier.0).cloned());
            let place = match &known {
                None => Some(rule),
                // A rule that stayed as it is kept its statistics, and so its very name.
                Some(Some((name, _))) => self.rule_stats.iter().position(|now| Arc::ptr_eq(&now.name, name)),
                Some(None) => None,
            };
            let stats = match place.and_then(|place| self.rule_stats.get_mut(place)) {
                Some(stats) => stats,
                None => self.retired.entry("delay").or_insert_with(|| RuleStats::new("delay", "delay", None)),
            };
            stats.injected += 1;
            if let Some(lateness) = &mut stats.lateness {
                lateness.saturating_record(late.as_nanos() as u64);
            }
            if let Some(asked) = &mut stats.asked {
                asked.saturating_record(item.asked.as_nanos() as u64);
            }
            let named = || (stats.name.clone(), stats.lease.clone());
            let (name, lease) = known.flatten().unwrap_or_else(named);
            events.push(Event {
                connection: connection + 1,
                exchange: item.exchange.into(),
                rule: Some(RuleName { name, behavior: "delay" }),
                lease,
                asked: item.asked,
                done: item.asked + late,
                ..self.event(EventKind::Injected, now)
            });
        }
    }
}
