//! Frames replies, which takes knowing what was asked; see the drawing in `protocol::http`.

use super::body::{Body, Judgement, Progress};
use super::head::{Asked, Framing};
use super::reply_head::{BEGINNING_BYTES_MAX, Begins, ReplyHead, begins};
use super::{Event, Step};
use crate::short_queue::ShortQueue;

/// Finds the replies in what a backend sends. It holds nothing back.
#[derive(Debug, Default)]
pub struct ReplyFramer {
    state: State,
    head: ReplyHead,
    /// The requests that wait for their replies, oldest first; the proxy bounds how many it lets through.
    asked: ShortQueue<Asked>,
    /// A body that the last reply announced and must not have (to HEAD, 204, 304); some servers send it nevertheless.
    surplus: Option<Body>,
    unasked: bool,
    persists: bool,
}

#[derive(Debug, Default)]
enum State {
    /// In a head, or before one.
    #[default]
    Head,
    Body(Body),
    /// In a body that must not be there: of the reply that ends with it, or with the slice; and of none.
    Forbidden(Body),
    Surplus(Body),
    /// The head was all; says so at the next call.
    End,
    Raw,
    Invalid(&'static str),
}

impl ReplyFramer {
    /// A framer at the beginning of a connection.
    pub fn new() -> ReplyFramer {
        ReplyFramer { persists: true, ..ReplyFramer::default() }
    }

    /// Tells what the next request asks; call it for each request that is forwarded, in order.
    pub fn expect(&mut self, asked: Asked) {
        self.asked.push_back(asked);
    }

    /// Takes back the latest [`ReplyFramer::expect`]: that request is answered by somebody else.
    pub fn forget_latest(&mut self) {
        self.asked.pop_back();
    }

    /// How many requests wait for their replies, the one being answered included.
    pub fn expected(&self) -> usize {
        self.asked.len()
    }

    /// Says what stands at the front of `bytes`, the rest of a chunk.
    pub fn advance(&mut self, bytes: &[u8]) -> Step {
        let step = match &mut self.state {
            State::Head | State::Body(_) | State::Forbidden(_) | State::Surplus(_) if bytes.is_empty() => {
                Step::new(0, Event::NeedMore)
            }
            State::Head => self.advance_head(bytes),
            State::End => Step::new(0, Event::End),
            State::Body(body) => match body.advance(bytes) {
                Progress::More => Step::new(bytes.len(), Event::Body),
                Progress::Done(used) => Step::new(used, Event::End),
                Progress::Invalid(reason) => Step::new(0, Event::Invalid(reason)),
            },
            State::Forbidden(body) => match body.advance(bytes) {
                Progress::More => {
                    let body = *body;
                    self.end();
                    self.state = State::Surplus(body);
                    return Step::new(bytes.len(), Event::End);
                }
                Progress::Done(used) => Step::new(used, Event::End),
                Progress::Invalid(reason) => {
                    self.end();
                    self.state = State::Invalid(reason);
                    return Step::new(0, Event::End);
                }
            },
            State::Surplus(body) => match body.advance(bytes) {
                Progress::More => Step::new(bytes.len(), Event::Surplus),
                Progress::Done(used) => {
                    self.state = State::Head;
                    Step::new(used, Event::Surplus)
                }
                Progress::Invalid(reason) => Step::new(0, Event::Invalid(reason)),
            },
            State::Raw => Step::new(bytes.len(), Event::Raw),
            State::Invalid(reason) => Step::new(0, Event::Invalid(reason)),
        };
        match step.event {
            Event::End => self.end(),
            Event::Invalid(reason) => self.state = State::Invalid(reason),
            _ => {}
        }
        step
    }

    /// The upstream sent its FIN: `End` if that ends a reply, `NeedMore` if none had begun, `Raw` in a tunnel, else
    /// `Invalid`: the reply is cut off.
    pub fn close(&mut self) -> Event {
        match &self.state {
            State::Body(Body::UntilClose) | State::End => {
                self.end();
                Event::End
            }
            State::Head if self.head.is_new() => Event::NeedMore,
            State::Surplus(_) => Event::NeedMore,
            State::Head | State::Body(_) | State::Forbidden(_) => {
                self.state = State::Invalid("a reply that is cut off");
                Event::Invalid("a reply that is cut off")
            }
            State::Raw => Event::Raw,
            State::Invalid(reason) => Event::Invalid(reason),
        }
    }

    /// The status code of the reply whose head is complete and whose end has not come.
    pub fn status(&self) -> Option<u16> {
        (!self.is_in_head()).then_some(self.head.status)
    }

    /// Whether the next byte belongs to a head: what is found wrong there leaves open how long the reply is.
    pub fn is_in_head(&self) -> bool {
        matches!(self.state, State::Head)
    }

    /// After a `Head` event: whether the connection has switched to another protocol; `Raw` follows.
    pub fn has_switched(&self) -> bool {
        matches!(self.state, State::Raw)
    }

    /// Whether the upstream connection can carry another exchange after the reply that ended last, or ends next:
    /// both sides keep it alive, and the reply's end does not depend on closing (RFC 9112 §9.3).
    pub fn persists(&self) -> bool {
        self.persists
    }

    /// Whether the reply that begins last answers no request (a 408 before a close, say).
    pub fn is_unasked(&self) -> bool {
        self.unasked
    }

    /// Bytes of a line that has not ended which are kept, as copies, to be read when it has.
    pub fn kept_bytes(&self) -> usize {
        self.head.kept().len()
    }

    /// Whether the connection is between two replies, no byte of the next one seen.
    pub fn is_idle(&self) -> bool {
        matches!(self.state, State::Head) && self.head.is_new()
    }

    fn end(&mut self) {
        self.asked.pop_front();
        self.state = State::Head;
        self.head = ReplyHead::default();
    }

    fn advance_head(&mut self, bytes: &[u8]) -> Step {
        if self.surplus.is_some()
            && let Some(step) = self.advance_surplus(bytes)
        {
            return step;
        }
        match self.head.advance(bytes) {
            Ok(None) => Step::new(bytes.len(), Event::HeadPart),
            Ok(Some(used)) => match self.begin(&bytes[used..]) {
                Event::Invalid(reason) => Step::new(0, Event::Invalid(reason)),
                event => Step::new(used, event),
            },
            Err(reason) => Step::new(0, Event::Invalid(reason)),
        }
    }

    /// A body that must not be there may follow, or the next reply: what `bytes` are, if they are body. The first few
    /// bytes may come alone and be the beginning of either; they were told as a part of a head, and are kept by it.
    fn advance_surplus(&mut self, bytes: &[u8]) -> Option<Step> {
        let before = self.head.kept();
        let mut beginning = [0; BEGINNING_BYTES_MAX];
        let length = BEGINNING_BYTES_MAX.min(before.len() + bytes.len());
        before.iter().chain(bytes).zip(&mut beginning).for_each(|(byte, place)| *place = *byte);
        match begins(&beginning[..length]) {
            Begins::Yes => {
                self.surplus = None;
                return None;
            }
            Begins::Perhaps => return None,
            Begins::No => {}
        }
        let mut body = self.surplus.take()?;
        match body.advance(before) {
            Progress::More => self.state = State::Surplus(body),
            // What stands behind it begins a head.
            Progress::Done(used) => {
                let rest = before[used..].to_vec();
                self.head = ReplyHead::default();
                let _ = self.head.advance(&rest);
                return None;
            }
            Progress::Invalid(reason) => return Some(Step::new(0, Event::Invalid(reason))),
        }
        self.head = ReplyHead::default();
        Some(self.advance(bytes))
    }

    /// A head is complete: decides what follows it; `rest` is what has come of that.
    fn begin(&mut self, rest: &[u8]) -> Event {
        self.unasked = self.asked.is_empty();
        let asked =
            self.asked.front().copied().unwrap_or(Asked { keep_alive: false, ..Asked::method("GET") });
        self.persists = asked.keep_alive && self.head.keep_alive();
        let status = self.head.status;
        match status {
            101 if asked.upgrade => self.state = State::Raw,
            101 => return Event::Invalid("a switch of protocols that was not asked for"),
            100..=199 => {
                self.head = ReplyHead::default();
                return Event::Interim;
            }
            200..=299 if asked.connect => self.state = State::Raw,
            _ if asked.head || matches!(status, 204 | 304) => {
                let announced = match self.head.framing() {
                    Ok(framing @ (Framing::Length(_) | Framing::Chunked)) => {
                        Body::new(framing, Judgement::Tolerant)
                    }
                    _ => None,
                };
                self.state = match announced {
                    Some(body) if begins(rest) == Begins::No => State::Forbidden(body),
                    announced => {
                        self.surplus = announced;
                        State::End
                    }
                };
            }
            _ => match self.head.framing() {
                Ok(framing) => {
                    self.persists &= framing != Framing::UntilClose;
                    self.state = Body::new(framing, Judgement::Tolerant).map_or(State::End, State::Body);
                }
                Err(reason) => return Event::Invalid(reason),
            },
        }
        Event::Head
    }
}
