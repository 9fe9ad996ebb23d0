//! One connection of the origin: what was read, what waits to be sent, and how long it may go on so. No I/O.

use std::collections::VecDeque;
use std::time::Duration;

use super::limits::{
    Closed, ECHO_BYTES_MAX, EVICTABLE_AFTER, EVICTABLE_UNREAD_AFTER, Limits, REPLIES_MAX, SEND_BYTES_MAX,
};
use super::reply::{Content, Reply, Shapes, Wish};
use crate::clock::Instant;
use crate::protocol::http::{Event, RequestFramer};
use crate::proxy::Size;
use crate::ring::{Chunk, SEND_CHUNKS_MAX, Socket};

pub(super) struct Connection {
    pub socket: Socket,
    pub size: Size,
    pub receiving: bool,
    /// The receive was asked to end.
    pub cancelling: bool,
    pub sending: bool,
    /// A timer will look at its replies.
    pub timer: bool,
    /// The client sends no more.
    pub ended: bool,
    /// Ends after the replies that wait.
    pub last: bool,
    /// Has got its last reply and a FIN; what still comes is dropped until the client ends, or this instant.
    pub lingers_until: Option<Instant>,
    pub closing: bool,
    /// Its place is for a new one.
    pub evicted: bool,
    framer: RequestFramer,
    wanted: Wanted,
    replies: VecDeque<Reply>,
    /// Echoed bytes in `replies`.
    queued_bytes: usize,
    /// Of the reply that is being sent: bytes of the body that are with the ring, and those to come.
    body: (u64, u64),
    /// Read, but not looked at yet: there were too many replies. Copies, so that no buffer is pinned.
    parked: VecDeque<Chunk>,
    /// Since when the head that is being read is awaited: from the accept on for the first.
    head_since: Option<Instant>,
    /// When something last came or was sent.
    active_at: Instant,
    /// When the send in flight began.
    sent_at: Instant,
}

/// How the request that is being read is to be answered.
#[derive(Clone, Copy, Debug, Default)]
struct Wanted {
    wish: Wish,
    head_only: bool,
    last: bool,
}

impl Connection {
    pub fn new(socket: Socket, now: Instant) -> Connection {
        Connection {
            socket,
            size: Size::default(),
            receiving: false,
            cancelling: false,
            sending: false,
            timer: false,
            ended: false,
            last: false,
            lingers_until: None,
            closing: false,
            evicted: false,
            framer: RequestFramer::new(),
            wanted: Wanted::default(),
            replies: VecDeque::new(),
            queued_bytes: 0,
            body: (0, 0),
            parked: VecDeque::new(),
            head_since: Some(now),
            active_at: now,
            sent_at: now,
        }
    }

    /// Takes in bytes to echo.
    pub fn echo(&mut self, chunk: Chunk, now: Instant, due: Instant) {
        (self.active_at, self.head_since) = (now, None);
        self.queued_bytes += chunk.len();
        // Bytes that wait must not pin the last buffers: one slow client would starve the others.
        let chunk = if chunk.is_scarce() { Chunk::copy_of(&chunk) } else { chunk };
        self.queue(due, Content::Echo(chunk));
    }

    /// Takes in bytes of requests; `due` is called for each whole request, in order, with what it asks for.
    pub fn read(&mut self, chunk: Chunk, now: Instant, due: impl FnMut(Wish) -> Instant) {
        self.active_at = now;
        if self.parked.is_empty() {
            self.parse(chunk, now, due);
        } else if !self.last {
            self.parked.push_back(Chunk::copy_of(&chunk));
        }
    }

    /// Looks at what was read and put aside, as far as there is room for replies.
    pub fn read_parked(&mut self, now: Instant, mut due: impl FnMut(Wish) -> Instant) {
        while self.replies.len() < REPLIES_MAX
            && let Some(chunk) = self.parked.pop_front()
        {
            self.parse(chunk, now, &mut due);
        }
    }

    fn parse(&mut self, mut chunk: Chunk, now: Instant, mut due: impl FnMut(Wish) -> Instant) {
        while !self.last {
            if self.replies.len() >= REPLIES_MAX {
                let chunk = if chunk.is_pooled() { Chunk::copy_of(&chunk) } else { chunk };
                return self.parked.push_front(chunk);
            }
            let step = self.framer.advance(&chunk);
            match step.event {
                Event::Head => {
                    let head = self.framer.head(&chunk);
                    let (wish, asked) = (Wish::read(head.path()), head.asked());
                    self.wanted = Wanted { wish, head_only: asked.head, last: !asked.keep_alive };
                    self.head_since = None;
                    self.framer.take_head_bytes();
                    chunk.advance(step.used);
                }
                Event::Body | Event::HeadPart | Event::Interim | Event::Surplus => chunk.advance(step.used),
                Event::End => {
                    chunk.advance(step.used);
                    let Wanted { wish, head_only, last } = self.wanted;
                    self.last |= last;
                    self.queue(due(wish), Content::Http { wish, head_only });
                }
                // An upgrade is not taken: the next request follows.
                Event::AwaitReply => self.framer.decline(),
                Event::NeedMore => break,
                Event::Raw | Event::Invalid(_) => {
                    self.last = true;
                    let wish = Wish::Status(400);
                    self.queue(due(wish), Content::Http { wish, head_only: false });
                }
            }
        }
        if self.framer.held_bytes() > 0 {
            self.head_since.get_or_insert(now);
        }
        if self.last {
            self.parked.clear();
        }
    }

    /// A connection answers in order: what is asked later is not answered earlier.
    fn queue(&mut self, due: Instant, content: Content) {
        let due = self.replies.back().map_or(due, |last| due.max(last.due));
        self.replies.push_back(Reply { due, content });
    }

    /// Whether more may be read now.
    pub fn has_room(&self) -> bool {
        self.parked.is_empty() && self.replies.len() < REPLIES_MAX && self.queued_bytes < ECHO_BYTES_MAX
    }

    /// Whether requests wait for room.
    pub fn has_parked(&self) -> bool {
        !self.parked.is_empty()
    }

    /// Takes what may be sent now into `out`, in one send's measure; returns how many replies begin in it.
    pub fn fill(&mut self, now: Instant, shapes: &Shapes, out: &mut Vec<Chunk>) -> u64 {
        let (mut room, mut begun) = (SEND_BYTES_MAX, 0);
        while room > 0 && out.len() < SEND_CHUNKS_MAX {
            let (offset, left) = self.body;
            let chunk = if left > 0 {
                let chunk = shapes.body(offset, left, room);
                self.body = (offset + chunk.len() as u64, left - chunk.len() as u64);
                chunk
            } else if let Some(reply) = self.replies.pop_front_if(|reply| reply.due <= now) {
                begun += 1;
                if let Content::Echo(chunk) = &reply.content {
                    self.queued_bytes -= chunk.len();
                }
                let (chunk, body_bytes) = shapes.begin(reply.content);
                self.body = (0, body_bytes);
                chunk
            } else {
                break;
            };
            room = room.saturating_sub(chunk.len() as u64);
            out.push(chunk);
        }
        if !out.is_empty() {
            (self.sending, self.sent_at) = (true, now);
        }
        begun
    }

    /// A send has ended well.
    pub fn on_sent(&mut self, now: Instant) {
        (self.sending, self.active_at) = (false, now);
    }

    /// When the first waiting reply is due.
    pub fn next_due(&self) -> Option<Instant> {
        self.replies.front().map(|reply| reply.due)
    }

    /// Whether nothing is to be sent or looked at any more.
    pub fn is_done(&self) -> bool {
        !self.sending && self.body.1 == 0 && self.replies.is_empty() && self.parked.is_empty()
    }

    /// Forgets what waits.
    pub fn discard(&mut self) {
        self.replies.clear();
        self.parked.clear();
        (self.queued_bytes, self.body) = (0, (0, 0));
    }

    /// Until when it may go on as it is, and what it then ends for; none while the origin itself is to act.
    pub fn deadline(&self, limits: &Limits) -> Option<(Instant, Closed)> {
        let after = |since: Instant, time: Option<Duration>, closed| Some((since + time?, closed));
        if self.sending {
            after(self.sent_at, limits.stall, Closed::Stalled)
        } else if !self.replies.is_empty() {
            None
        } else if let Some(since) = self.head_since {
            after(since, limits.first_bytes, Closed::Silent)
        } else {
            after(self.active_at, limits.idle, Closed::Idle)
        }
    }

    /// Since when a new connection may take its place at the limit.
    pub fn evictable_from(&self) -> Option<Instant> {
        if self.closing || self.lingers_until.is_some() {
            None
        } else if self.sending {
            Some(self.sent_at + EVICTABLE_UNREAD_AFTER)
        } else if self.replies.is_empty() {
            Some(self.head_since.unwrap_or(self.active_at) + EVICTABLE_AFTER)
        } else {
            None
        }
    }
}
