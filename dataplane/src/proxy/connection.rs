//! One connection: two sockets, two pipes, and what the rules do to them. Told what happened, it asks the
//! ring for what follows; it never waits and never reads a clock.
//!
//! ```text
//!               request pipe
//!   downstream ────────────────► upstream        a pipe's source is read while its bytes are below a limit,
//!      (client) ◄──────────────── (backend)      its sink is written one send at a time, in order of due time
//!                reply pipe
//! ```
//! Bytes go from the receive to the send by reference; those of a protocol are followed on their way
//! ([`super::exchange`]), plain ones are not looked at.

mod ending;
mod faults;
mod flow;
mod gates;
mod leaving;
mod upstream;
mod waiting;

use std::time::Duration;

use self::gates::Gates;
pub use self::leaving::LINGER_BYTES_MAX;
use self::leaving::Leaving;
pub(super) use self::upstream::Sources;
use super::event::Detail;
use super::exchange::Exchanges;
use super::pipe::Pipe;
use super::telling::Cause;
use super::worker::{Context, ProxyState, Timer, What};
use crate::behavior::{ConnectionFacts, Direction, Finish, RuleMask};
use crate::clock::Instant;
use crate::protocol::Protocol;
use crate::ring::{Errno, Ring, Socket, Token};
use crate::timers::TimerId;

/// The role of a downstream socket in its tokens.
pub(super) const DOWNSTREAM: u8 = 1;
/// The role of an upstream socket in its tokens.
pub(super) const UPSTREAM: u8 = 2;

/// How long a rule may hold the last bytes of a side that is let go, or those of one that is gone: at 100 B/s, 256 KiB take three quarters of it.
pub const HELD_TIME_MAX: Duration = Duration::from_secs(3600);

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
    /// No FIN had come before, as far as is known: nothing more will be heard from it.
    pub broke_off: bool,
    /// It had ended, in order, before its connection failed; what it said last has not been read.
    pub gone: bool,
    /// Its failure is no news: it was told, or is what a rule asked for.
    explained: bool,
    leaving: Leaving,
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
    /// Its bytes are messages, from the first one on until a tunnel begins; `exchanges` has them.
    pub(super) framed: bool,
    pub(super) exchanges: Option<Box<Exchanges>>,
    gates: Option<Box<Gates>>,
    /// An end that waits for its time.
    end: Option<Box<PendingEnd>>,
    connect_timer: Option<TimerId>,
    /// It waits for a descriptor for its upstream; the error that said so.
    short: Option<Errno>,
    /// Which of the upstream's addresses is being tried.
    attempt: u8,
    /// Reads and discards until the client leaves or the rule does.
    hung: bool,
    /// Closes both sides once the request has been handed on: on plain bytes this one, else the next one.
    pub(super) abort: bool,
    /// One of its messages is to end it: so that the others need not be looked at when a send has ended.
    pub(super) aborts_a_message: bool,
    /// Whose hang or abort that is, of the connection as a whole, until it has met a byte or an end: then it is counted.
    armed: Option<Box<Cause>>,
    /// Both sides are let go ([`Leaving`]), each for at most so long.
    closing: bool,
    linger: Duration,
    /// Until when that time may begin, for as long as a rule holds their last bytes.
    held_until: Instant,
    /// When it is looked at again ([`waiting`]).
    patience: Option<(TimerId, Instant)>,
    /// When it began, or when a side ended since; of one that is closing, when a rule let its bytes go last.
    changed_at: Instant,
    /// The limits that it has told of, each once ([`super::event::Limit::bit`]).
    limits_told: u8,
}

struct PendingEnd {
    how: Finish,
    cause: Cause,
    detail: Detail,
    timer: TimerId,
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
            framed: false,
            exchanges: None,
            gates: None,
            end: None,
            connect_timer: None,
            short: None,
            attempt: 0,
            hung: false,
            abort: false,
            aborts_a_message: false,
            armed: None,
            closing: false,
            linger: Duration::ZERO,
            held_until: Instant::ZERO,
            patience: None,
            changed_at: Instant::ZERO,
            limits_told: 0,
        }
    }

    /// Begins: plans by the rules, reads the client, and connects unless a message decides first.
    pub fn start<R: Ring>(&mut self, cx: &mut Context<R>, proxy: &mut ProxyState) {
        (self.linger, self.changed_at) = (proxy.patience.linger, cx.now);
        let plan = proxy.rules.on_connection(&self.facts);
        proxy.count(plan.drawn);
        self.adopt(plan, None, cx, proxy);
        if self.closing {
            return;
        }
        self.receive(Direction::Request, cx);
        if proxy.patience.idle.is_some() {
            self.wait(cx, proxy);
        }
        if self.hung {
            return;
        }
        if proxy.rules.protocol() == Protocol::Tcp {
            self.connect(cx, proxy);
        } else {
            (self.framed, self.exchanges) = (true, Some(Box::default()));
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

    pub(super) fn active(&self) -> RuleMask {
        self.active
    }

    /// Everything from here on in this direction is read and dropped, as `hang` does.
    pub(super) fn hang_requests(&mut self) {
        self.hung = true;
        self.request.discard = true;
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

    pub(super) fn timer(&self, what: What) -> Timer {
        Timer { slot: self.slot, generation: self.generation, what }
    }
}

fn source_role(direction: Direction) -> u8 {
    match direction {
        Direction::Request => DOWNSTREAM,
        Direction::Reply => UPSTREAM,
    }
}

fn sink_role(direction: Direction) -> u8 {
    source_role(direction.opposite())
}
