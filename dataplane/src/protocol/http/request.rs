//! Frames requests, see the drawing in `protocol::http`.

use super::body::{Body, Judgement, Progress};
use super::head::{HeadPieces, Reading, RequestHead, RequestMap, read_request};
use super::{Event, Step};

/// Finds the requests in what a client sends.
#[derive(Debug, Default)]
pub struct RequestFramer {
    state: State,
    map: RequestMap,
    pieces: HeadPieces,
}

#[derive(Debug, Default)]
enum State {
    #[default]
    Head,
    Body(Body),
    /// The head was all; says so at the next call.
    End,
    AwaitReply,
    Raw,
    Invalid(&'static str),
}

impl RequestFramer {
    /// A framer at the beginning of a connection.
    pub fn new() -> RequestFramer {
        RequestFramer::default()
    }

    /// Says what stands at the front of `bytes`, the rest of a chunk.
    pub fn advance(&mut self, bytes: &[u8]) -> Step {
        let step = match &mut self.state {
            State::Head if bytes.is_empty() => Step::new(0, Event::NeedMore),
            State::Head => self.advance_head(bytes),
            State::End => Step::new(0, Event::End),
            State::Body(_) if bytes.is_empty() => Step::new(0, Event::NeedMore),
            State::Body(body) => match body.advance(bytes) {
                Progress::More => Step::new(bytes.len(), Event::Body),
                Progress::Done(used) => Step::new(used, Event::End),
                Progress::Invalid(reason) => Step::new(0, Event::Invalid(reason)),
            },
            State::AwaitReply => Step::new(0, Event::AwaitReply),
            State::Raw => Step::new(bytes.len(), Event::Raw),
            State::Invalid(reason) => Step::new(0, Event::Invalid(reason)),
        };
        match step.event {
            Event::End => {
                self.pieces.clear();
                self.state = if self.map.may_switch() { State::AwaitReply } else { State::Head };
            }
            Event::Invalid(reason) => self.state = State::Invalid(reason),
            _ => {}
        }
        step
    }

    /// The head that the last `Head` event was about; `slice` is what that call of `advance` was given.
    pub fn head<'a>(&'a self, slice: &'a [u8]) -> RequestHead<'a> {
        let bytes = if self.pieces.is_empty() { slice } else { self.pieces.bytes() };
        RequestHead::new(bytes, &self.map)
    }

    /// After a `Head` event: the whole head, if it came in pieces; `None` if it lay inside the slice, whose
    /// first `used` bytes it then is. Ask before the next message begins.
    pub fn take_head_bytes(&mut self) -> Option<Vec<u8>> {
        (!self.pieces.is_empty() && !matches!(self.state, State::Head)).then(|| self.pieces.take())
    }

    /// The reply to CONNECT or to an upgrade switched protocols: all that follows is raw, and so is what is left of
    /// the request itself, should it not have ended.
    pub fn switch(&mut self) {
        self.state = State::Raw;
    }

    /// The request that is being read, or that ended last, is answered without a switch: more requests may follow it.
    pub fn decline(&mut self) {
        self.map.decline();
        if matches!(self.state, State::AwaitReply) {
            self.state = State::Head;
        }
    }

    /// After a `Head` event: whether the request has a body.
    pub fn has_body(&self) -> bool {
        matches!(self.state, State::Body(_))
    }

    /// Whether no part of a request is still to come: it ended, or none has begun.
    pub fn is_whole(&self) -> bool {
        matches!(self.state, State::AwaitReply | State::Raw) || self.is_idle()
    }

    /// Whether what follows waits for the reply to CONNECT or to an upgrade.
    pub fn awaits_reply(&self) -> bool {
        matches!(self.state, State::AwaitReply)
    }

    /// Whether the connection is between two requests, no byte of the next one seen.
    pub fn is_idle(&self) -> bool {
        matches!(self.state, State::Head) && self.pieces.is_empty()
    }

    /// Bytes of an incomplete head that are held back.
    pub fn held_bytes(&self) -> usize {
        if matches!(self.state, State::Head) { self.pieces.bytes().len() } else { 0 }
    }

    fn advance_head(&mut self, bytes: &[u8]) -> Step {
        let read = if self.pieces.is_empty() {
            match read_request(bytes) {
                Ok(Reading::Whole(map)) => Ok(Some((map.end, map))),
                Ok(Reading::Partial) => self.pieces.hold(bytes).map(|()| None),
                Err(reason) => Err(reason),
            }
        } else {
            self.pieces.read(bytes)
        };
        match read {
            Ok(None) => Step::new(bytes.len(), Event::NeedMore),
            Ok(Some((used, map))) => {
                self.map = map;
                match self.map.framing() {
                    Ok(framing) => {
                        self.state = Body::new(framing, Judgement::Strict).map_or(State::End, State::Body);
                        Step::new(used, Event::Head)
                    }
                    Err(reason) => Step::new(0, Event::Invalid(reason)),
                }
            }
            Err(reason) => Step::new(0, Event::Invalid(reason)),
        }
    }
}
