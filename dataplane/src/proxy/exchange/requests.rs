//! The client's side: requests are judged, decided about, forwarded or answered here.

use std::time::Duration;

use super::rest::Rest;
use super::{CONTINUE_WAIT, Exchanges, PIPELINE_MAX, Route, Waiting};
use crate::behavior::{Act, Action, Decision, Direction};
use crate::protocol::http::{Asked, Event, error_reply};
use crate::proxy::connection::Connection;
use crate::proxy::event::{HUNG, Limit};
use crate::proxy::pipe::{Fault, Held};
use crate::proxy::telling::Cause;
use crate::proxy::worker::{Context, ProxyState};
use crate::ring::{Chunk, Ring};

/// What the head of a request says that decides how it is answered.
struct Question {
    asked: Asked,
    version: u8,
    /// The client may wait for `100 Continue` before it sends the body.
    expects: bool,
    /// It seems to wait: the body has not begun.
    waits: bool,
}

impl Connection {
    pub(super) fn on_request_bytes<R: Ring>(
        &mut self,
        exchanges: &mut Exchanges,
        chunk: Chunk,
        cx: &mut Context<R>,
        proxy: &mut ProxyState,
    ) {
        let left = if exchanges.parked.is_empty() {
            self.read_requests(exchanges, chunk, cx, proxy)
        } else {
            Some(chunk)
        };
        if let Some(left) = left {
            exchanges.parked.push(&left);
            self.request.parked_bytes = exchanges.parked.len();
        }
    }

    /// Reads requests as far as that may be done now; gives what has to wait.
    fn read_requests<R: Ring>(
        &mut self,
        exchanges: &mut Exchanges,
        chunk: Chunk,
        cx: &mut Context<R>,
        proxy: &mut ProxyState,
    ) -> Option<Chunk> {
        let mut rest = Rest::new(chunk, Direction::Request);
        let mut waits = false;
        while !self.is_closing() && !self.request.discard {
            if exchanges.requests.is_idle() && !rest.unread().is_empty() {
                let is_long = exchanges.waiting.len() >= PIPELINE_MAX;
                if is_long {
                    proxy.counters.pipeline_limit_reached += 1;
                    self.limit_reached(Limit::Pipeline, cx, proxy);
                }
                waits = is_long || self.replies_exceed(exchanges, 1, cx, proxy);
                if waits {
                    break;
                }
            }
            let step = exchanges.requests.advance(rest.unread());
            match step.event {
                Event::NeedMore => break,
                Event::Head => self.on_request_head(exchanges, &mut rest, step.used, cx, proxy),
                Event::Body | Event::End => {
                    if exchanges.deadline.is_some() && exchanges.aborts() && step.used > 0 {
                        // It does not wait any more.
                        exchanges.deadline.take().map(|deadline| cx.timers.cancel(deadline));
                    }
                    match &exchanges.route {
                        Route::Forward(held) => rest.take(step.used, held.clone(), self, cx, proxy),
                        Route::Discard => rest.skip(step.used, self, cx, proxy),
                    }
                    if step.event == Event::End {
                        exchanges.in_request = false;
                        if exchanges.aborts() || exchanges.is_over {
                            rest.hand_on(self, cx, proxy);
                            self.stop_requests(exchanges, cx, proxy);
                        }
                    }
                }
                Event::AwaitReply => {
                    waits = true;
                    break;
                }
                Event::Invalid(reason) => {
                    self.not_of_protocol(Direction::Request, reason, cx, proxy);
                    rest.hand_on(self, cx, proxy);
                    self.refuse(exchanges, cx, proxy);
                }
                Event::HeadPart | Event::Interim | Event::Surplus | Event::Raw => {
                    unreachable!("a request has no such part")
                }
            }
        }
        if waits {
            self.request.parked_bytes = exchanges.parked.len() + rest.unread().len();
        }
        rest.hand_on(self, cx, proxy);
        (waits && !self.is_closing()).then(|| rest.into_unread())
    }

    /// Reads what was parked, if it can be read now.
    pub(super) fn unpark<R: Ring>(
        &mut self,
        exchanges: &mut Exchanges,
        cx: &mut Context<R>,
        proxy: &mut ProxyState,
    ) {
        // Not at once when one reply has come or left, or the rest would be copied for each.
        let is_full =
            exchanges.waiting.len() > PIPELINE_MAX / 2 || self.replies_exceed(exchanges, 2, cx, proxy);
        if exchanges.parked.is_empty() || is_full || exchanges.requests.awaits_reply() || self.is_closing() {
            return;
        }
        while let Some(parked) = exchanges.parked.take() {
            self.request.parked_bytes = exchanges.parked.len();
            if let Some(left) = self.read_requests(exchanges, parked, cx, proxy) {
                exchanges.parked.put_back(left);
                break;
            }
        }
        self.request.parked_bytes = exchanges.parked.len();
        self.resume_requests(cx, proxy);
    }

    /// Whether so many bytes of replies wait for the client, above its pipe's limit or that part of it, that it is not
    /// asked for more. While a reply of the upstream is due it is the upstream that is read no further.
    fn replies_exceed<R: Ring>(
        &mut self,
        exchanges: &Exchanges,
        part: usize,
        cx: &Context<R>,
        proxy: &ProxyState,
    ) -> bool {
        exchanges.waiting.is_empty()
            && self.reply.bytes() > 0
            && self.reply.bytes() > self.limit(Direction::Reply, cx, proxy) / part
    }

    /// A head is complete: its last `used` bytes stand at the front of `rest`.
    fn on_request_head<R: Ring>(
        &mut self,
        exchanges: &mut Exchanges,
        rest: &mut Rest,
        used: usize,
        cx: &mut Context<R>,
        proxy: &mut ProxyState,
    ) {
        let head = exchanges.requests.head(rest.unread());
        let active = self.active() & !std::mem::take(&mut exchanges.too_late);
        let decision = proxy.rules.on_exchange(&self.facts, active, exchanges.ordinal, &head);
        let expects = head.expects_continue() && exchanges.requests.has_body();
        let waits = expects && rest.unread().len() == used;
        let question = Question { asked: head.asked(), version: head.version(), expects, waits };
        proxy.count(decision.drawn);
        exchanges.ordinal += 1;
        exchanges.in_request = true;
        proxy.counters.exchanges += 1;
        let pieces = exchanges.requests.take_head_bytes();
        self.decide(exchanges, &decision, &question, cx, proxy);
        if self.is_closing() {
            return;
        }
        let Route::Forward(held) = &mut exchanges.route else {
            return rest.skip(used, self, cx, proxy);
        };
        // Each fault is told once: the body is held as long as the head, without its rules.
        let mut body = held.untold();
        if question.expects {
            // A body that comes when the held head has been answered was held with it.
            body.time = Duration::ZERO;
        }
        let held = std::mem::replace(held, body);
        match pieces {
            None => rest.take(used, held, self, cx, proxy),
            Some(pieces) => {
                rest.skip(used, self, cx, proxy);
                self.forward(Direction::Request, Chunk::from(pieces), held, cx, proxy);
            }
        }
    }

    /// Does what the rules say of a request, and notes whose reply is due; its bytes take `exchanges.route`.
    fn decide<R: Ring>(
        &mut self,
        exchanges: &mut Exchanges,
        decision: &Decision,
        question: &Question,
        cx: &mut Context<R>,
        proxy: &mut ProxyState,
    ) {
        let held = proxy.held(decision.request_hold);
        let asked = question.asked;
        match decision.act {
            Some(Act { rule, action: Action::ErrorReply { code, .. } }) => {
                exchanges.route = Route::Discard;
                // An offer of another protocol is not taken up (RFC 9110 §7.8); what follows is HTTP.
                exchanges.requests.decline();
                // Whether a client that waits will send the body after this reply nobody knows, so the next request
                // could not be found (RFC 9110 §10.1.1).
                let keep_alive = asked.keep_alive && !question.waits;
                let reply = error_reply(code, question.version, asked.head, keep_alive);
                exchanges.push_reply_from_here(reply, proxy.made(held, rule, Fault::Replied(code)));
                if !keep_alive {
                    exchanges.last = true;
                    self.stop_requests(exchanges, cx, proxy);
                }
                return self.answer_due(exchanges, cx, proxy);
            }
            Some(Act { rule, action: Action::Hang }) => {
                proxy.injected(&proxy.cause(rule, exchanges.ordinal), self.facts.ordinal, HUNG, cx);
                exchanges.route = Route::Discard;
                exchanges.waiting.push_back(Waiting::Never);
                self.hang_requests();
                // Earlier requests still get their replies.
                return self.answer_due(exchanges, cx, proxy);
            }
            Some(Act { rule, action: Action::Abort }) => {
                let cause = proxy.cause(rule, exchanges.ordinal);
                self.abort_request(exchanges, cause, held.time, question, cx);
            }
            Some(act) => {
                self.act(act, exchanges.ordinal, cx, proxy);
                if self.is_closing() {
                    return;
                }
                exchanges.waiting.push_back(Waiting::Upstream(proxy.held(decision.reply_hold)));
            }
            None => match self.armed().filter(|_| self.abort) {
                // By a rule about the whole connection.
                Some(cause) => self.abort_request(exchanges, cause, held.time, question, cx),
                None => exchanges.waiting.push_back(Waiting::Upstream(proxy.held(decision.reply_hold))),
            },
        }
        exchanges.route = Route::Forward(held);
        exchanges.replies.expect(asked);
    }

    /// Notes that both sides are closed when this request has been handed on, and the replies before it.
    fn abort_request<R: Ring>(
        &mut self,
        exchanges: &mut Exchanges,
        cause: Cause,
        hold: Duration,
        question: &Question,
        cx: &mut Context<R>,
    ) {
        self.aborts_a_message = true;
        exchanges.waiting.push_back(Waiting::Abort(cause));
        if question.waits {
            self.set_deadline(exchanges, hold + CONTINUE_WAIT, cx);
        }
    }

    /// What the client sent is no request: answers 400 in its turn, and ends the connection after it (RFC 9112 §6.3).
    fn refuse<R: Ring>(&mut self, exchanges: &mut Exchanges, cx: &mut Context<R>, proxy: &mut ProxyState) {
        let reply_has_begun = exchanges.waiting.len() == 1 && !exchanges.replies.is_idle();
        self.stop_requests(exchanges, cx, proxy);
        exchanges.last = true;
        let is_answered = match exchanges.waiting.back() {
            _ if !exchanges.in_request => false,
            // Its body cannot be completed, so its reply may never be.
            Some(Waiting::Upstream(_)) if reply_has_begun => return self.close(cx),
            Some(Waiting::Upstream(_)) => {
                exchanges.waiting.pop_back();
                exchanges.replies.forget_latest();
                false
            }
            Some(Waiting::Abort(_)) => {
                exchanges.abort_is_ripe = true;
                true
            }
            Some(Waiting::Here { .. } | Waiting::Never) | None => true,
        };
        if !is_answered {
            exchanges.push_reply_from_here(error_reply(400, 1, false, false), Held::default());
        }
        self.answer_due(exchanges, cx, proxy);
    }
}
