//! Messages of a connection: which request gets which fault, and whose reply is due next.
//!
//! ```text
//!  requests   A  B  C ─► framer ─► decision ─┬─ forward ─► request pipe
//!                                            └─ error: discarded, its reply takes its turn below
//!  waiting    [A: upstream] [B: made here] [C: upstream]
//!  replies    A' ─► framer ─► reply pipe, then B' from here, then C' ─► …      a pipeline stays in step
//! ```
//!
//! A connection of a proxy with a protocol is framed from its first byte on, rules or none, so that a rule which comes
//! later knows where a message begins. It leaves this state for one of these:
//!
//! ```text
//!  framed ─┬─ 101, or 2xx to CONNECT ────────────► plain bytes, for ever (a tunnel)
//!          ├─ a request that is none ────────────► 400 in its turn, then the end; no further request is read
//!          ├─ a reply of unknown length ─────────► its bytes, until the upstream ends or is quiet; then the end
//!          └─ chunks that are none, endless parts ► the end, behind the bytes that came
//! ```

mod parked;
mod replies;
mod requests;
mod rest;

use std::time::Duration;

use self::parked::Parked;
use super::connection::Connection;
use super::event::Detail;
use super::pipe::{End, Held};
use super::telling::Cause;
use super::worker::{Context, ProxyState, What};
use crate::behavior::{Direction, RuleMask, RuleSet};
use crate::clock::Instant;
use crate::protocol::http::{Event, ReplyFramer, RequestFramer};
use crate::ring::{Chunk, Ring};
use crate::short_queue::ShortQueue;
use crate::timers::TimerId;

/// Requests of one connection whose replies are due; a client that pipelines more is not read on until half of them
/// are answered.
pub const PIPELINE_MAX: usize = 1024;
/// How long a client may wait for `100 Continue` of a request that is aborted; it need not wait at all (RFC 9110
/// §10.1.1), and the common ones wait a second.
const CONTINUE_WAIT: Duration = Duration::from_secs(2);
/// What is told when a peer ends in the middle of a message.
const CUT_REQUEST: Detail = Detail::Words("client: ended inside a request");
const CUT_REPLY: Detail = Detail::Words("upstream: ended before the reply was complete");
/// A reply whose length nobody knows ends when the upstream says nothing for so long,
const DOUBT_QUIET: Duration = Duration::from_secs(1);
/// or after so long in any case.
const DOUBT_MAX: Duration = Duration::from_secs(10);

/// The messages of one connection.
#[derive(Debug)]
pub(super) struct Exchanges {
    requests: RequestFramer,
    replies: ReplyFramer,
    waiting: ShortQueue<Waiting>,
    ordinal: u64,
    route: Route,
    /// A part of the newest request is still to come.
    in_request: bool,
    /// Rules that came when the head which is being read had begun: it is none of theirs.
    too_late: RuleMask,
    /// Bytes of the client that cannot be read yet: they follow a CONNECT or an upgrade whose reply has not come, the
    /// pipeline is full, or the client does not take its replies.
    parked: Parked,
    /// Bytes of the replies made here that wait for their turn.
    made_bytes: usize,
    /// Bytes that wait here and are counted as held.
    held_bytes: usize,
    /// The client gets nothing after the replies that are due.
    last: bool,
    /// The upstream sent its FIN: what is asked now nobody answers.
    is_over: bool,
    /// The upstream answered a request that is aborted, or the time for the rest of that request is over.
    abort_is_ripe: bool,
    doubt: Option<Doubt>,
    deadline: Option<TimerId>,
}

/// What happens to the bytes of the request that is being read.
#[derive(Clone, Debug)]
enum Route {
    Forward(Held),
    Discard,
}

/// A reply that is due, in the order of the requests.
#[derive(Debug)]
enum Waiting {
    /// The upstream will send it; hold it so long.
    Upstream(Held),
    /// It is made here; hold it until the request would have been.
    Here { reply: Vec<u8>, held: Held },
    /// It will never come.
    Never,
    /// Instead of it both sides are closed.
    Abort(Cause),
}

/// A reply whose end nobody knows.
#[derive(Clone, Copy, Debug)]
struct Doubt {
    since: Instant,
    /// Bytes have come since the deadline was set.
    heard: bool,
    /// How long its bytes are held.
    hold: Duration,
}

impl Default for Exchanges {
    fn default() -> Exchanges {
        Exchanges {
            requests: RequestFramer::new(),
            replies: ReplyFramer::new(),
            waiting: ShortQueue::default(),
            ordinal: 0,
            route: Route::Discard,
            in_request: false,
            too_late: 0,
            parked: Parked::default(),
            made_bytes: 0,
            held_bytes: 0,
            last: false,
            is_over: false,
            abort_is_ripe: false,
            doubt: None,
            deadline: None,
        }
    }
}

impl Exchanges {
    fn push_reply_from_here(&mut self, reply: Vec<u8>, held: Held) {
        self.made_bytes += reply.len();
        self.waiting.push_back(Waiting::Here { reply, held });
    }

    /// The rules have changed: a request that has begun is left to those that were there.
    pub fn on_rules_changed(&mut self, rules: &RuleSet, previous: &RuleSet) {
        let has_begun = self.requests.held_bytes() > 0;
        let was_too_late = std::mem::take(&mut self.too_late);
        for (index, rule) in rules.rules().iter().enumerate().filter(|_| has_begun) {
            let same = previous.rules().iter().position(|old| old.rule() == rule.rule());
            let is_too_late = same.is_none_or(|old| was_too_late >> old & 1 == 1);
            self.too_late |= u64::from(is_too_late) << index;
        }
    }

    /// Whether nothing is under way in either direction.
    pub fn is_idle(&self) -> bool {
        let nothing_waits = self.waiting.is_empty() && self.parked.is_empty() && self.doubt.is_none();
        nothing_waits && !self.in_request && self.requests.held_bytes() == 0 && self.replies.is_idle()
    }

    /// Whether bytes of a reply have come, and not its end.
    pub fn reply_has_begun(&self) -> bool {
        !self.replies.is_idle()
    }

    /// Whether the rest of a request is needed: of its head, or of a body whose reply is due from the upstream.
    fn needs_the_rest(&self) -> bool {
        let is_due = matches!(self.waiting.back(), Some(Waiting::Upstream(_)));
        self.requests.held_bytes() > 0 || self.in_request && is_due
    }

    /// Whether the newest request is one that is aborted.
    fn aborts(&self) -> bool {
        matches!(self.waiting.back(), Some(Waiting::Abort(_)))
    }

    /// Whether the connection has to be closed as soon as what was sent before is with the kernel.
    pub fn abort_is_due(&self, requests_are_sent: bool) -> bool {
        matches!(self.waiting.front(), Some(Waiting::Abort(_)))
            && (self.abort_is_ripe || !self.in_request && requests_are_sent)
    }

    /// Whose abort is next in turn.
    pub fn next_abort(&self) -> Option<Cause> {
        match self.waiting.front() {
            Some(Waiting::Abort(cause)) => Some(cause.clone()),
            _ => None,
        }
    }
}

impl Connection {
    /// Takes bytes of one direction through the messages.
    pub(super) fn on_message_bytes<R: Ring>(
        &mut self,
        direction: Direction,
        chunk: Chunk,
        cx: &mut Context<R>,
        proxy: &mut ProxyState,
    ) {
        let Some(mut exchanges) = self.exchanges.take() else { return };
        match direction {
            Direction::Request => self.on_request_bytes(&mut exchanges, chunk, cx, proxy),
            Direction::Reply => self.on_reply_bytes(&mut exchanges, chunk, cx, proxy),
        }
        self.put_back(exchanges, cx);
    }

    /// The client sent its FIN: a request that has not ended never will.
    pub(super) fn on_client_end<R: Ring>(&mut self, cx: &mut Context<R>, proxy: &mut ProxyState) {
        let Some(mut exchanges) = self.exchanges.take() else { return };
        if exchanges.needs_the_rest() && !self.request.discard {
            self.failed_by_itself(Direction::Request, CUT_REQUEST, cx, proxy);
        }
        if exchanges.requests.held_bytes() > 0 {
            exchanges.requests = RequestFramer::new();
        }
        if exchanges.aborts() {
            exchanges.in_request = false;
            self.answer_due(&mut exchanges, cx, proxy);
        }
        self.put_back(exchanges, cx);
    }

    /// The upstream sent its FIN, which may be the end of a reply.
    pub(super) fn on_upstream_end<R: Ring>(&mut self, cx: &mut Context<R>, proxy: &mut ProxyState) {
        let Some(mut exchanges) = self.exchanges.take() else { return };
        let has_begun = exchanges.reply_has_begun();
        let end = exchanges.replies.close();
        if end == Event::End {
            self.on_reply_end(&mut exchanges, cx, proxy);
        }
        // A request that a rule holds has not come to it.
        let is_due = matches!(exchanges.waiting.front(), Some(Waiting::Upstream(_)));
        let is_cut =
            is_due && exchanges.doubt.is_none() && matches!(end, Event::NeedMore | Event::Invalid(_));
        let waits = !has_begun && self.holds_any(Direction::Request, cx.now);
        if is_cut && !waits && !self.is_closing() {
            self.failed_by_itself(Direction::Reply, CUT_REPLY, cx, proxy);
        }
        (exchanges.abort_is_ripe, exchanges.is_over) = (true, true);
        if !self.is_closing() {
            // A request that is on its way goes on, for the upstream may still read it.
            if !exchanges.in_request {
                self.stop_requests(&mut exchanges, cx, proxy);
            }
            self.answer_due(&mut exchanges, cx, proxy);
        }
        self.put_back(exchanges, cx);
    }

    /// The client has taken bytes of its replies, or will take none: what it asked meanwhile may be read.
    pub(super) fn on_replies_taken<R: Ring>(&mut self, cx: &mut Context<R>, proxy: &mut ProxyState) {
        if self.request.parked_bytes == 0 || self.is_closing() {
            return;
        }
        let Some(mut exchanges) = self.exchanges.take() else { return };
        self.unpark(&mut exchanges, cx, proxy);
        self.put_back(exchanges, cx);
    }

    /// Time is over: for the rest of a request that is aborted, or for a reply whose end nobody knows.
    pub(super) fn on_exchange_timer<R: Ring>(&mut self, cx: &mut Context<R>, proxy: &mut ProxyState) {
        if self.is_closing() {
            return;
        }
        let Some(mut exchanges) = self.exchanges.take() else { return };
        exchanges.deadline = None;
        match exchanges.doubt {
            Some(doubt) if doubt.heard && cx.now - doubt.since < DOUBT_MAX => {
                exchanges.doubt = Some(Doubt { heard: false, ..doubt });
                self.set_deadline(&mut exchanges, DOUBT_QUIET, cx);
            }
            Some(_) => self.close(cx),
            None if exchanges.aborts() => {
                exchanges.abort_is_ripe = true;
                self.stop_requests(&mut exchanges, cx, proxy);
                self.answer_due(&mut exchanges, cx, proxy);
            }
            None => {}
        }
        self.put_back(exchanges, cx);
    }

    /// Ends the reading of messages: what waits for them is dropped.
    pub(super) fn leave_messages<R: Ring>(&mut self, cx: &mut Context<R>) {
        self.framed = false;
        if let Some(exchanges) = self.exchanges.take() {
            self.put_back(exchanges, cx);
        }
    }

    /// Puts the messages back, and counts what waits in them; or lets go of them if the connection is done with them.
    fn put_back<R: Ring>(&mut self, mut exchanges: Box<Exchanges>, cx: &mut Context<R>) {
        if self.is_closing() || !self.framed {
            self.request.parked_bytes = 0;
            exchanges.deadline.map(|deadline| cx.timers.cancel(deadline));
            return cx.let_go(self.proxy, exchanges.held_bytes);
        }
        let pieces = exchanges.requests.held_bytes() + exchanges.replies.kept_bytes();
        let held = pieces + exchanges.parked.len() + exchanges.made_bytes;
        if held != exchanges.held_bytes {
            cx.let_go(self.proxy, exchanges.held_bytes);
            cx.hold(self.proxy, held);
            exchanges.held_bytes = held;
        }
        self.exchanges = Some(exchanges);
    }

    /// Sends the replies made here whose turn has come; ends what ends with the reply before.
    fn answer_due<R: Ring>(
        &mut self,
        exchanges: &mut Exchanges,
        cx: &mut Context<R>,
        proxy: &mut ProxyState,
    ) {
        while let Some(due) = exchanges.waiting.front_mut() {
            match due {
                Waiting::Here { reply, held } => {
                    let (reply, held) = (Chunk::from(std::mem::take(reply)), std::mem::take(held));
                    exchanges.made_bytes -= reply.len();
                    exchanges.waiting.pop_front();
                    if self.reply.end == End::Open && !self.reply.discard {
                        self.forward(Direction::Reply, reply, held, cx, proxy);
                    }
                    if self.is_closing() {
                        return;
                    }
                }
                Waiting::Upstream(_) => return,
                Waiting::Never => {
                    self.reply.discard = true;
                    return;
                }
                Waiting::Abort(cause) => {
                    let cause = cause.clone();
                    if exchanges.abort_is_due(self.request.bytes() == 0) {
                        self.abort_now(&cause, cx, proxy);
                    }
                    return;
                }
            }
        }
        if exchanges.last {
            self.close(cx);
        }
    }

    /// From here on the client's bytes are read and dropped.
    fn stop_requests<R: Ring>(
        &mut self,
        exchanges: &mut Exchanges,
        cx: &mut Context<R>,
        proxy: &mut ProxyState,
    ) {
        self.request.discard = true;
        if !std::mem::take(&mut exchanges.parked).is_empty() {
            self.request.parked_bytes = 0;
            self.resume_requests(cx, proxy);
        }
    }

    /// What was parked has gone: its end may follow, and its source may be read on.
    fn resume_requests<R: Ring>(&mut self, cx: &mut Context<R>, proxy: &mut ProxyState) {
        if !self.is_closing() {
            self.flush(Direction::Request, cx, proxy);
        }
        if !self.is_closing() {
            self.regulate(Direction::Request, cx, proxy);
        }
    }

    fn set_deadline<R: Ring>(&self, exchanges: &mut Exchanges, time: Duration, cx: &mut Context<R>) {
        let timer = cx.timers.insert(cx.now + time, self.timer(What::Exchange));
        exchanges.deadline.replace(timer).map(|earlier| cx.timers.cancel(earlier));
    }

    /// Counts that a peer said something that is not of the protocol, and tells of it.
    fn not_of_protocol<R: Ring>(
        &self,
        direction: Direction,
        reason: &'static str,
        cx: &mut Context<R>,
        proxy: &mut ProxyState,
    ) {
        proxy.counters.protocol_errors += 1;
        let what = match direction {
            Direction::Request => "client: not a valid request",
            Direction::Reply => "upstream: not a valid reply",
        };
        proxy.failed(self.facts.ordinal, Detail::NotOfProtocol(what, reason), cx);
    }
}
