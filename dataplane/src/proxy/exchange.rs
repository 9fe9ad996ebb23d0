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
    fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.requests.is_idle() && self.replies.is_idle() && self.parked.is_none()
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
        mut chunk: Chunk,
        cx: &mut Context<R>,
        proxy: &mut ProxyState,
    ) -> bool {
        while !self.is_closing() && !self.request.discard {
            let step = exchanges.requests.advance(&chunk);
            match step.event {
                Event::NeedMore => break,
                Event::Head => {
                    let (decision, asked, version) = {
                        let head = exchanges.requests.head(&chunk);
                        let ordinal = exchanges.ordinal;
                        let decision = proxy.rules.on_exchange(&self.facts, self.active(), ordinal, &head);
                        (decision, head.asked(), head.version())
                    };
                    exchanges.ordinal += 1;
                    proxy.counters.exchanges += 1;
                    let head = match exchanges.requests.take_head_bytes() {
                        Some(pieces) => {
                            chunk.advance(step.used);
                            Chunk::from(pieces)
                        }
                        None => chunk.split_to(step.used),
                    };
                    self.on_request_head(exchanges, head, &decision, asked, version, cx, proxy);
                    if exchanges.waiting.len() > PIPELINE_MAX {
                        self.refuse(exchanges, cx, proxy);
                    }
                }
                Event::Body | Event::End | Event::Interim => {
                    let bytes = chunk.split_to(step.used);
                    if let Route::Forward(hold) = exchanges.route {
                        self.forward(Direction::Request, bytes, &hold, cx, proxy);
                    }
                }
                Event::AwaitReply => {
                    exchanges.parked = Some(match exchanges.parked.take() {
                        Some(before) => Chunk::from([&before[..], &chunk[..]].concat()),
                        None => chunk,
                    });
                    break;
                }
                Event::Raw => {
                    self.forward(Direction::Request, chunk, &Hold::default(), cx, proxy);
                    break;
                }
                Event::Invalid(_) => {
                    proxy.counters.protocol_errors += 1;
                    self.refuse(exchanges, cx, proxy);
                }
            }
        }
        true
    }

    #[expect(clippy::too_many_arguments, reason = "one call, and each is a different thing")]
    fn on_request_head<R: Ring>(
        &mut self,
        exchanges: &mut Exchanges,
        head: Chunk,
        decision: &Decision,
        asked: Asked,
        version: u8,
        cx: &mut Context<R>,
        proxy: &mut ProxyState,
    ) {
        let hold = decision.request_hold;
        exchanges.route = Route::Forward(hold);
        match decision.act {
            Some(Act { rule, action: Action::ErrorReply { code, .. } }) => {
                proxy.injected(rule, self.facts.ordinal, cx);
                exchanges.route = Route::Discard;
                let reply = error_reply(code, version, asked.head, asked.keep_alive);
                exchanges.last |= !asked.keep_alive;
                exchanges.waiting.push_back(Waiting::Here { reply, hold });
                return self.reply_from_here(exchanges, cx, proxy);
            }
            Some(act @ Act { action: Action::Hang, .. }) => {
                proxy.injected(act.rule, self.facts.ordinal, cx);
                exchanges.route = Route::Discard;
                exchanges.waiting.push_back(Waiting::Never);
                // Earlier requests still get their replies.
                return self.hang_requests();
            }
            Some(act) => self.act(act, cx, proxy),
            None => {}
        }
        if self.is_closing() {
            return;
        }
        exchanges.waiting.push_back(Waiting::Upstream(decision.reply_hold));
        exchanges.replies.expect(asked);
        self.forward(Direction::Request, head, &hold, cx, proxy);
        // Each fault is told once: the body is held as long, without its rules.
        exchanges.route = Route::Forward(Hold { rules: 0, ..hold });
    }

    fn on_reply_bytes<R: Ring>(
        &mut self,
        exchanges: &mut Exchanges,
        mut chunk: Chunk,
        cx: &mut Context<R>,
        proxy: &mut ProxyState,
    ) -> bool {
        while !self.is_closing() {
            let step = exchanges.replies.advance(&chunk);
            let hold = match exchanges.waiting.front() {
                Some(Waiting::Upstream(hold)) => *hold,
                _ => Hold::default(),
            };
            match step.event {
                Event::NeedMore | Event::AwaitReply => break,
                Event::Head | Event::Interim => {
                    let head = match exchanges.replies.take_head_bytes() {
                        Some(pieces) => {
                            chunk.advance(step.used);
                            Chunk::from(pieces)
                        }
                        None => chunk.split_to(step.used),
                    };
                    // Each fault is told once: the rest of the reply is held as long, without its rules.
                    self.forward(Direction::Reply, head, &hold, cx, proxy);
                    if let (Event::Head, Some(Waiting::Upstream(hold))) =
                        (step.event, exchanges.waiting.front_mut())
                    {
                        hold.rules = 0;
                    }
                }
                Event::Body => {
                    let bytes = chunk.split_to(step.used);
                    self.forward(Direction::Reply, bytes, &hold, cx, proxy);
                }
                Event::End => {
                    let bytes = chunk.split_to(step.used);
                    self.forward(Direction::Reply, bytes, &hold, cx, proxy);
                    if matches!(exchanges.waiting.front(), Some(Waiting::Upstream(_))) {
                        exchanges.waiting.pop_front();
                    }
                    exchanges.requests.resume();
                    self.reply_from_here(exchanges, cx, proxy);
                    if let Some(parked) = exchanges.parked.take() {
                        self.on_request_bytes(exchanges, parked, cx, proxy);
                    }
                }
                Event::Raw => {
                    // A tunnel begins: both directions are plain bytes from here on.
                    self.leave_messages();
                    self.forward(Direction::Reply, chunk, &hold, cx, proxy);
                    if let Some(parked) = exchanges.parked.take() {
                        self.forward(Direction::Request, parked, &Hold::default(), cx, proxy);
                    }
                    return false;
                }
                Event::Invalid(_) => {
                    // The upstream's nonsense is the upstream's: hand it on, and read no further.
                    proxy.counters.protocol_errors += 1;
                    self.leave_messages();
                    self.forward(Direction::Reply, chunk, &hold, cx, proxy);
                    return false;
                }
            }
        }
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
