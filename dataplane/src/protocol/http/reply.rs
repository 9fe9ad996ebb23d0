//! Frames replies, which takes knowing what was asked; see the drawing in `protocol::http`.

use std::collections::VecDeque;

use super::body::{Body, Progress};
use super::head::{Asked, Framing, HeadPieces, Reading, ReplyHead, ReplyMap, read_reply};
use super::{Event, Step};

/// Finds the replies in what a backend sends.
#[derive(Debug, Default)]
pub struct ReplyFramer {
    state: State,
    map: ReplyMap,
    pieces: HeadPieces,
    /// The requests that wait for their replies, oldest first; the proxy bounds how many it lets through.
    asked: VecDeque<Asked>,
    unasked: bool,
    persists: bool,
}

#[derive(Debug, Default)]
enum State {
    #[default]
    Head,
    /// An interim head was found; the next call goes on to the next head.
    AfterInterim,
    Body(Body),
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

    /// How many requests wait for their replies, the one being answered included.
    pub fn expected(&self) -> usize {
        self.asked.len()
    }

    /// Says what stands at the front of `bytes`, the rest of a chunk.
    pub fn advance(&mut self, bytes: &[u8]) -> Step {
        if matches!(self.state, State::AfterInterim) {
            self.pieces.clear();
            self.state = State::Head;
        }
        let step = match &mut self.state {
            State::Head if bytes.is_empty() => Step::new(0, Event::NeedMore),
            State::Head | State::AfterInterim => self.advance_head(bytes),
            State::End => Step::new(0, Event::End),
            State::Body(_) if bytes.is_empty() => Step::new(0, Event::NeedMore),
            State::Body(body) => match body.advance(bytes) {
                Progress::More => Step::new(bytes.len(), Event::Body),
                Progress::Done(used) => Step::new(used, Event::End),
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
            State::Head | State::AfterInterim if self.pieces.is_empty() => Event::NeedMore,
            State::AfterInterim => Event::NeedMore,
            State::Head | State::Body(_) => {
                self.state = State::Invalid("a reply that is cut off");
                Event::Invalid("a reply that is cut off")
            }
            State::Raw => Event::Raw,
            State::Invalid(reason) => Event::Invalid(reason),
        }
    }

    /// The head that the last `Head` or `Interim` event was about; `slice` is what that call of `advance` was given.
    pub fn head<'a>(&'a self, slice: &'a [u8]) -> ReplyHead<'a> {
        let bytes = if self.pieces.is_empty() { slice } else { self.pieces.bytes() };
        ReplyHead::new(bytes, &self.map)
    }

    /// After a `Head` or `Interim` event: the whole head, if it came in pieces; `None` if it lay inside the slice,
    /// whose first `used` bytes it then is. Ask before the next message begins.
    pub fn take_head_bytes(&mut self) -> Option<Vec<u8>> {
        (!self.pieces.is_empty() && !matches!(self.state, State::Head)).then(|| self.pieces.take())
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

    /// Whether the connection is between two replies, no byte of the next one seen.
    pub fn is_idle(&self) -> bool {
        matches!(self.state, State::Head) && self.pieces.is_empty()
    }

    /// Bytes of an incomplete head that are held back.
    pub fn held_bytes(&self) -> usize {
        if matches!(self.state, State::Head) { self.pieces.bytes().len() } else { 0 }
    }

    fn end(&mut self) {
        self.pieces.clear();
        self.asked.pop_front();
        self.state = State::Head;
    }

    fn advance_head(&mut self, bytes: &[u8]) -> Step {
        let read = if self.pieces.is_empty() {
            match read_reply(bytes) {
                Ok(Reading::Whole(map)) => Ok(Some((map.end, map))),
                Ok(Reading::Partial) => self.pieces.hold(bytes).map(|()| None),
                Err(reason) => Err(reason),
            }
        } else {
            self.pieces.read(bytes, read_reply, |map: &ReplyMap| map.end)
        };
        match read {
            Ok(None) => Step::new(bytes.len(), Event::NeedMore),
            Ok(Some((used, map))) => {
                self.map = map;
                Step::new(used, self.begin())
            }
            Err(reason) => Step::new(0, Event::Invalid(reason)),
        }
    }

    /// A head is complete: decides what follows it.
    fn begin(&mut self) -> Event {
        self.unasked = self.asked.is_empty();
        let asked =
            self.asked.front().copied().unwrap_or(Asked { keep_alive: false, ..Asked::method("GET") });
        self.persists = asked.keep_alive && self.map.meaning.keep_alive;
        match self.map.status {
            101 if asked.upgrade => self.state = State::Raw,
            101 => return Event::Invalid("a switch of protocols that was not asked for"),
            100..=199 => {
                self.state = State::AfterInterim;
                return Event::Interim;
            }
            200..=299 if asked.connect => self.state = State::Raw,
            _ => {
                let framing = self.map.framing(asked.head);
                self.persists &= framing != Framing::UntilClose;
                self.state = Body::new(framing).map_or(State::End, State::Body);
            }
        }
        Event::Head
    }
}
