//! Messages of a connection: which request gets which fault, and whose reply is due next.
//!
//! ```text
//!  requests   A  B  C ─► framer ─► decision ─┬─ forward ─► request pipe
//!                                            └─ error: discarded, its reply takes its turn below
//!  waiting    [A: upstream] [B: made here] [C: upstream]
//!  replies    A' ─► framer ─► reply pipe, then B' from here, then C' ─► …      a pipeline stays in step
//! ```

use std::collections::VecDeque;

use super::connection::Connection;
use super::event::{Detail, Limit};
use super::worker::{Context, ProxyState};
use crate::behavior::{Act, Action, Decision, Direction, Hold};
use crate::protocol::http::{Asked, Event, ReplyFramer, RequestFramer, error_reply};
use crate::ring::{Chunk, Ring};

/// Requests of one connection whose replies are due; a client that pipelines more is not read on.
pub const PIPELINE_MAX: usize = 1024;

/// The messages of one connection.
#[derive(Debug)]
pub(super) struct Exchanges {
    requests: RequestFramer,
    replies: ReplyFramer,
    waiting: VecDeque<Waiting>,
    ordinal: u64,
    route: Route,
    /// What came after a CONNECT or an upgrade and waits for its reply.
    parked: Option<Chunk>,
    /// The client gets nothing after the replies that are due.
    last: bool,
}

impl Default for Exchanges {
    fn default() -> Exchanges {
        Exchanges {
            requests: RequestFramer::new(),
            replies: ReplyFramer::new(),
            waiting: VecDeque::new(),
            ordinal: 0,
            route: Route::Discard,
            parked: None,
            last: false,
        }
    }
}

/// What happens to the bytes of the request that is being read.
#[derive(Clone, Copy, Debug)]
enum Route {
    Forward(Hold),
    Discard,
}

/// A reply that is due, in the order of the requests.
#[derive(Debug)]
enum Waiting {
    /// The upstream will send it; hold it so long.
    Upstream(Hold),
    /// It is made here; hold it until the request would have been.
    Here { reply: Vec<u8>, hold: Hold },
    /// It will never come.
    Never,
}

impl Exchanges {
    /// Reads messages from `chunk` on, if a request begins there.
    pub fn join(chunk: &[u8]) -> Option<Box<Exchanges>> {
        let begins = !matches!(RequestFramer::new().advance(chunk).event, Event::Invalid(_));
        begins.then(Box::default)
    }

    /// Whether no part of a request is still to come.
    pub fn request_is_whole(&self) -> bool {
        self.requests.is_idle()
    }

    /// Whether nothing is under way in either direction.
    pub fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.requests.is_idle() && self.replies.is_idle() && self.parked.is_none()
    }
}

/// What is left of a chunk: at its front, bytes that were read and go on together in one send; behind them,
/// bytes that were not read yet.
struct Rest {
    chunk: Chunk,
    direction: Direction,
    taken: usize,
    hold: Hold,
}

impl Rest {
    fn new(chunk: Chunk, direction: Direction) -> Rest {
        Rest { chunk, direction, taken: 0, hold: Hold::default() }
    }

    fn unread(&self) -> &[u8] {
        &self.chunk[self.taken..]
    }

    fn drop_unread(&mut self) {
        self.chunk = self.chunk.split_to(self.taken);
    }

    /// Takes the next `count` bytes; those with another hold, or another fault to tell of, go first.
    fn take<R: Ring>(
        &mut self,
        count: usize,
        hold: Hold,
        connection: &mut Connection,
        cx: &mut Context<R>,
        proxy: &mut ProxyState,
    ) {
        if self.taken > 0 && (hold.time != self.hold.time || hold.rules != 0) {
            self.hand_on(connection, cx, proxy);
        }
        if self.taken == 0 {
            self.hold = hold;
        }
        self.taken += count;
    }

    /// Drops the next `count` bytes.
    fn skip<R: Ring>(
        &mut self,
        count: usize,
        connection: &mut Connection,
        cx: &mut Context<R>,
        proxy: &mut ProxyState,
    ) {
        self.hand_on(connection, cx, proxy);
        self.chunk.advance(count);
    }

    /// Forwards what was taken.
    fn hand_on<R: Ring>(&mut self, connection: &mut Connection, cx: &mut Context<R>, proxy: &mut ProxyState) {
        if self.taken > 0 && !connection.is_closing() {
            let bytes = self.chunk.split_to(std::mem::take(&mut self.taken));
            connection.forward(self.direction, bytes, &self.hold, cx, proxy);
        }
    }
}

impl Connection {
    /// Takes bytes of one direction through the messages; puts `exchanges` back unless they are over.
    pub(super) fn on_message_bytes<R: Ring>(
        &mut self,
        mut exchanges: Box<Exchanges>,
        direction: Direction,
        chunk: Chunk,
        cx: &mut Context<R>,
        proxy: &mut ProxyState,
    ) {
        let go_on = match direction {
            Direction::Request => self.on_request_bytes(&mut exchanges, chunk, cx, proxy),
            Direction::Reply => self.on_reply_bytes(&mut exchanges, chunk, cx, proxy),
        };
        if self.is_closing() || !go_on {
            return;
        }
        if !self.needs_messages() && exchanges.is_idle() && !exchanges.last {
            // No rule needs messages any more: back to bytes by reference.
            return self.stand_between_messages();
        }
        self.exchanges = Some(exchanges);
    }

    fn on_request_bytes<R: Ring>(
        &mut self,
        exchanges: &mut Exchanges,
        chunk: Chunk,
        cx: &mut Context<R>,
        proxy: &mut ProxyState,
    ) -> bool {
        let mut rest = Rest::new(chunk, Direction::Request);
        while !self.is_closing() && !self.request.discard {
            let step = exchanges.requests.advance(rest.unread());
            match step.event {
                Event::NeedMore => {
                    rest.drop_unread();
                    break;
                }
                Event::Head => {
                    let (decision, asked, version) = {
                        let head = exchanges.requests.head(rest.unread());
                        let ordinal = exchanges.ordinal;
                        let decision = proxy.rules.on_exchange(&self.facts, self.active(), ordinal, &head);
                        (decision, head.asked(), head.version())
                    };
                    proxy.count(decision.drawn);
                    exchanges.ordinal += 1;
                    proxy.counters.exchanges += 1;
                    let pieces = exchanges.requests.take_head_bytes();
                    exchanges.route = Route::Forward(decision.request_hold);
                    self.on_request_head(exchanges, &decision, asked, version, cx, proxy);
                    if self.is_closing() {
                        return true;
                    }
                    match (exchanges.route, pieces) {
                        (Route::Discard, _) => rest.skip(step.used, self, cx, proxy),
                        (Route::Forward(hold), None) => rest.take(step.used, hold, self, cx, proxy),
                        (Route::Forward(hold), Some(pieces)) => {
                            rest.skip(step.used, self, cx, proxy);
                            self.forward(Direction::Request, Chunk::from(pieces), &hold, cx, proxy);
                        }
                    }
                    // Each fault is told once: the body is held as long, without its rules.
                    if let Route::Forward(hold) = &mut exchanges.route {
                        hold.rules = 0;
                    }
                    if exchanges.waiting.len() > PIPELINE_MAX {
                        proxy.counters.pipeline_limit_reached += 1;
                        self.limit_reached(Limit::Pipeline, cx, proxy);
                        self.refuse(exchanges, cx, proxy);
                    }
                }
                Event::Body | Event::End | Event::Interim => match exchanges.route {
                    Route::Forward(hold) => rest.take(step.used, hold, self, cx, proxy),
                    Route::Discard => rest.skip(step.used, self, cx, proxy),
                },
                Event::AwaitReply => {
                    rest.hand_on(self, cx, proxy);
                    let chunk = rest.chunk;
                    exchanges.parked = Some(match exchanges.parked.take() {
                        Some(before) => Chunk::from([&before[..], &chunk[..]].concat()),
                        None => chunk,
                    });
                    return true;
                }
                Event::Raw => rest.take(rest.unread().len(), Hold::default(), self, cx, proxy),
                Event::Invalid(_) => {
                    proxy.counters.protocol_errors += 1;
                    proxy.failed(self.facts.ordinal, Detail::Words("client: not a valid request"), cx);
                    rest.hand_on(self, cx, proxy);
                    self.refuse(exchanges, cx, proxy);
                }
            }
            if matches!(step.event, Event::Raw) {
                break;
            }
        }
        rest.hand_on(self, cx, proxy);
        true
    }

    /// Does what the rules say of a request, and notes whose reply is due; its bytes take `exchanges.route`.
    fn on_request_head<R: Ring>(
        &mut self,
        exchanges: &mut Exchanges,
        decision: &Decision,
        asked: Asked,
        version: u8,
        cx: &mut Context<R>,
        proxy: &mut ProxyState,
    ) {
        let hold = decision.request_hold;
        match decision.act {
            Some(Act { rule, action: Action::ErrorReply { code, .. } }) => {
                let ordinal = self.facts.ordinal;
                proxy.injected(rule, ordinal, exchanges.ordinal, Detail::Replied(code), cx);
                exchanges.route = Route::Discard;
                let reply = error_reply(code, version, asked.head, asked.keep_alive);
                exchanges.last |= !asked.keep_alive;
                exchanges.waiting.push_back(Waiting::Here { reply, hold });
                return self.reply_from_here(exchanges, cx, proxy);
            }
            Some(act @ Act { action: Action::Hang, .. }) => {
                let detail = Detail::of(&act.action);
                proxy.injected(act.rule, self.facts.ordinal, exchanges.ordinal, detail, cx);
                exchanges.route = Route::Discard;
                exchanges.waiting.push_back(Waiting::Never);
                // Earlier requests still get their replies.
                return self.hang_requests();
            }
            Some(act) => self.act(act, exchanges.ordinal, cx, proxy),
            None => {}
        }
        if self.is_closing() {
            return;
        }
        exchanges.waiting.push_back(Waiting::Upstream(decision.reply_hold));
        exchanges.replies.expect(asked);
    }

    fn on_reply_bytes<R: Ring>(
        &mut self,
        exchanges: &mut Exchanges,
        chunk: Chunk,
        cx: &mut Context<R>,
        proxy: &mut ProxyState,
    ) -> bool {
        let mut rest = Rest::new(chunk, Direction::Reply);
        while !self.is_closing() {
            let step = exchanges.replies.advance(rest.unread());
            let hold = match exchanges.waiting.front() {
                Some(Waiting::Upstream(hold)) => *hold,
                _ => Hold::default(),
            };
            match step.event {
                Event::NeedMore | Event::AwaitReply => {
                    rest.drop_unread();
                    break;
                }
                Event::Head | Event::Interim => {
                    match exchanges.replies.take_head_bytes() {
                        None => rest.take(step.used, hold, self, cx, proxy),
                        Some(pieces) => {
                            rest.skip(step.used, self, cx, proxy);
                            self.forward(Direction::Reply, Chunk::from(pieces), &hold, cx, proxy);
                        }
                    }
                    // Each fault is told once: the rest of the reply is held as long, without its rules.
                    if let (Event::Head, Some(Waiting::Upstream(hold))) =
                        (step.event, exchanges.waiting.front_mut())
                    {
                        hold.rules = 0;
                    }
                }
                Event::Body => rest.take(step.used, hold, self, cx, proxy),
                Event::End => {
                    rest.take(step.used, hold, self, cx, proxy);
                    if matches!(exchanges.waiting.front(), Some(Waiting::Upstream(_))) {
                        exchanges.waiting.pop_front();
                    }
                    exchanges.requests.resume();
                    if matches!(exchanges.waiting.front(), Some(Waiting::Here { .. })) || exchanges.last {
                        rest.hand_on(self, cx, proxy);
                        self.reply_from_here(exchanges, cx, proxy);
                    }
                    if let Some(parked) = exchanges.parked.take() {
                        self.on_request_bytes(exchanges, parked, cx, proxy);
                    }
                }
                Event::Raw | Event::Invalid(_) => {
                    // A tunnel begins; or nonsense, which is the upstream's: hand it on, and read no further.
                    if step.event != Event::Raw {
                        proxy.counters.protocol_errors += 1;
                        proxy.failed(self.facts.ordinal, Detail::Words("upstream: not a valid reply"), cx);
                    }
                    self.leave_messages();
                    rest.take(rest.unread().len(), hold, self, cx, proxy);
                    rest.hand_on(self, cx, proxy);
                    if let Some(parked) = exchanges.parked.take() {
                        self.forward(Direction::Request, parked, &Hold::default(), cx, proxy);
                    }
                    return false;
                }
            }
        }
        rest.hand_on(self, cx, proxy);
        true
    }

    /// Sends the replies made here whose turn has come.
    fn reply_from_here<R: Ring>(
        &mut self,
        exchanges: &mut Exchanges,
        cx: &mut Context<R>,
        proxy: &mut ProxyState,
    ) {
        while let Some(Waiting::Here { reply, hold }) = exchanges.waiting.front_mut() {
            let (reply, hold) = (Chunk::from(std::mem::take(reply)), *hold);
            exchanges.waiting.pop_front();
            self.forward(Direction::Reply, reply, &hold, cx, proxy);
        }
        if exchanges.last && exchanges.waiting.is_empty() {
            self.request.discard = true;
            self.finish_reply(cx, proxy);
        }
    }

    /// The upstream sent its FIN, which may be the end of a reply.
    pub(super) fn on_upstream_end<R: Ring>(&mut self, cx: &mut Context<R>, proxy: &mut ProxyState) {
        let Some(mut exchanges) = self.exchanges.take() else { return };
        if exchanges.replies.close() == Event::End {
            exchanges.waiting.pop_front();
            self.reply_from_here(&mut exchanges, cx, proxy);
        }
        if !self.is_closing() {
            self.exchanges = Some(exchanges);
        }
    }

    /// Answers 400 in its turn, and ends the connection after it (RFC 9112 §6.3).
    fn refuse<R: Ring>(&mut self, exchanges: &mut Exchanges, cx: &mut Context<R>, proxy: &mut ProxyState) {
        let reply = error_reply(400, 1, false, false);
        exchanges.last = true;
        exchanges.waiting.push_back(Waiting::Here { reply, hold: Hold::default() });
        self.request.discard = true;
        self.reply_from_here(exchanges, cx, proxy);
    }
}
