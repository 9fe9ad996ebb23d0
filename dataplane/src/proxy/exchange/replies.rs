//! The upstream's side: replies are followed to their ends, so that each gets its own hold and its turn.

use std::time::Duration;

use super::rest::Rest;
use super::{DOUBT_QUIET, Doubt, Exchanges, Waiting};
use crate::behavior::Direction;
use crate::protocol::http::Event;
use crate::proxy::connection::Connection;
use crate::proxy::pipe::Held;
use crate::proxy::worker::{Context, ProxyState};
use crate::ring::{Chunk, Ring};

impl Connection {
    pub(super) fn on_reply_bytes<R: Ring>(
        &mut self,
        exchanges: &mut Exchanges,
        chunk: Chunk,
        cx: &mut Context<R>,
        proxy: &mut ProxyState,
    ) {
        if let Some(doubt) = &mut exchanges.doubt {
            doubt.heard = true;
            let held = Held { time: doubt.hold, ..Held::default() };
            return self.forward(Direction::Reply, chunk, held, cx, proxy);
        }
        let mut rest = Rest::new(chunk, Direction::Reply);
        while !self.is_closing() && !self.reply.discard {
            let length_is_known = !exchanges.replies.is_in_head();
            let step = exchanges.replies.advance(rest.unread());
            let held = match exchanges.waiting.front() {
                Some(Waiting::Upstream(held)) => held.clone(),
                // The client of a request that is aborted may need to be told to go on with it.
                Some(Waiting::Abort(_))
                    if !matches!(step.event, Event::Interim | Event::Surplus | Event::NeedMore) =>
                {
                    exchanges.abort_is_ripe = true;
                    rest.hand_on(self, cx, proxy);
                    self.reply.discard = true;
                    self.stop_requests(exchanges, cx, proxy);
                    return self.answer_due(exchanges, cx, proxy);
                }
                _ => Held::default(),
            };
            match step.event {
                Event::NeedMore => break,
                Event::HeadPart | Event::Head => {
                    rest.take(step.used, held, self, cx, proxy);
                    // Each fault is told once: the rest of the reply is held as long, without its rules.
                    if let Some(Waiting::Upstream(held)) = exchanges.waiting.front_mut()
                        && held.rules != 0
                    {
                        *held = held.untold();
                    }
                    // The newest request is answered, and stays with this protocol.
                    if step.event == Event::Head
                        && exchanges.waiting.len() == 1
                        && !exchanges.replies.has_switched()
                    {
                        exchanges.requests.decline();
                    }
                }
                Event::Body => rest.take(step.used, held, self, cx, proxy),
                // An interim reply is not the message that a rule holds.
                Event::Interim | Event::Surplus => rest.take(step.used, Held::default(), self, cx, proxy),
                Event::End => {
                    rest.take(step.used, held, self, cx, proxy);
                    // What is made here follows it, or the end.
                    let next_is_theirs =
                        matches!(exchanges.waiting.second(), None | Some(Waiting::Upstream(_)));
                    if !next_is_theirs || exchanges.last || exchanges.replies.is_unasked() {
                        rest.hand_on(self, cx, proxy);
                    }
                    self.on_reply_end(exchanges, cx, proxy);
                }
                Event::Raw => {
                    rest.take(rest.unread().len(), held, self, cx, proxy);
                    rest.hand_on(self, cx, proxy);
                    return self.open_tunnel(exchanges, cx, proxy);
                }
                Event::Invalid(reason) => {
                    self.not_of_protocol(Direction::Reply, reason, cx, proxy);
                    let hold = held.time;
                    rest.take(rest.unread().len(), held, self, cx, proxy);
                    rest.hand_on(self, cx, proxy);
                    return self.on_doubt(exchanges, length_is_known, hold, cx, proxy);
                }
                Event::AwaitReply => unreachable!("a reply waits for nothing"),
            }
        }
        rest.hand_on(self, cx, proxy);
        self.unpark(exchanges, cx, proxy);
    }

    /// A reply of the upstream has ended.
    pub(super) fn on_reply_end<R: Ring>(
        &mut self,
        exchanges: &mut Exchanges,
        cx: &mut Context<R>,
        proxy: &mut ProxyState,
    ) {
        if exchanges.replies.is_unasked() {
            // The client takes it for the answer to what it asks next: nothing can follow it (RFC 9112 §9.2).
            return self.close(cx);
        }
        if matches!(exchanges.waiting.front(), Some(Waiting::Upstream(_))) {
            exchanges.waiting.pop_front();
        }
        self.answer_due(exchanges, cx, proxy);
    }

    /// Both sides speak another protocol from here on: plain bytes for ever.
    fn open_tunnel<R: Ring>(
        &mut self,
        exchanges: &mut Exchanges,
        cx: &mut Context<R>,
        proxy: &mut ProxyState,
    ) {
        self.framed = false;
        self.request.parked_bytes = 0;
        if !self.is_closing() && !exchanges.parked.is_empty() {
            while let Some(parked) = exchanges.parked.take() {
                self.forward(Direction::Request, parked, Held::default(), cx, proxy);
            }
            self.resume_requests(cx, proxy);
        }
    }

    /// What the upstream sent cannot be framed, and has been handed on; the connection ends behind it. If the length of
    /// the reply is in doubt, more of it may come.
    fn on_doubt<R: Ring>(
        &mut self,
        exchanges: &mut Exchanges,
        length_is_known: bool,
        hold: Duration,
        cx: &mut Context<R>,
        proxy: &mut ProxyState,
    ) {
        if self.is_closing() {
            return;
        }
        if length_is_known {
            return self.close(cx);
        }
        self.stop_requests(exchanges, cx, proxy);
        exchanges.doubt = Some(Doubt { since: cx.now, heard: false, hold });
        self.set_deadline(exchanges, DOUBT_QUIET, cx);
    }
}
