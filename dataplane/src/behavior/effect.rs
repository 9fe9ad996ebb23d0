//! What rules say about a unit of traffic: a connection, an exchange, a chunk.

use std::net::SocketAddr;
use std::time::Duration;

use super::gate::Gate;
use super::{Direction, ResetSide, RuleMask, Side};

/// What a decision may know about a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectionFacts {
    /// The client's address.
    pub client: SocketAddr,
    /// The connection's number in its proxy, from 0 in the order of accept; part of every draw.
    pub ordinal: u64,
}

/// What the rules say about a connection as a whole.
#[derive(Debug, Default)]
pub struct ConnectionPlan {
    /// The rules that can still touch this connection; 0: none, and none has to be asked.
    pub active: RuleMask,
    /// What to do with the connection at once.
    pub act: Option<Act>,
    /// What its bytes must pass, all of it.
    pub gates: Vec<GatePlan>,
    /// The rules that drew for this connection, and those of them that chose it.
    pub drawn: Drawn,
}

/// Rules that met a unit of traffic: a connection, an exchange or a chunk, by their scope.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Drawn {
    /// The unit passed their match and triggers, and no warmup of theirs let it through.
    pub matched: RuleMask,
    /// Their draw chose it, and no earlier rule had taken it.
    pub acted: RuleMask,
}

/// Something that stands at the exits of a connection's pipes, and the rule that put it there.
#[derive(Debug)]
pub struct GatePlan {
    /// The rule's index.
    pub rule: u8,
    /// What stands there.
    pub gate: Gate,
}

/// What the rules say about one exchange or chunk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Decision {
    /// How long to hold the request.
    pub request_hold: Hold,
    /// How long to hold the reply.
    pub reply_hold: Hold,
    /// What else to do, after the hold of its direction.
    pub act: Option<Act>,
    /// The rules that drew for this exchange or chunk, and those of them that chose it.
    pub drawn: Drawn,
}

/// A delay, the sum of those of several rules.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Hold {
    /// How long, from arrival.
    pub time: Duration,
    /// The rules that asked for it.
    pub rules: RuleMask,
    /// The number of the exchange in its connection, from 1; 0 on plain bytes.
    pub exchange: u32,
}

/// Something to do, and the rule that says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Act {
    /// The rule's index.
    pub rule: u8,
    /// What to do.
    pub action: Action,
}

/// What a rule can do to a connection, an exchange or a chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Answer with this status; the upstream is not contacted.
    ErrorReply {
        /// The status code.
        code: u16,
        /// Randomness for the reply, if it wants any.
        draw: u64,
    },
    /// Put random bytes into this reply chunk, or in its place: see [`super::garbage`].
    Garbage {
        /// Insert instead of replacing.
        inject: bool,
        /// Randomness for [`super::garbage`].
        draw: u64,
    },
    /// Read and discard, never answer.
    Hang,
    /// Forward the request, then close both sides without a reply.
    Abort,
    /// End the connection.
    End {
        /// When.
        after: After,
        /// How.
        how: Finish,
    },
}

/// When a connection is ended, counted from the decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum After {
    /// At once; nothing more is forwarded.
    Nothing,
    /// When this time is over.
    Time(Duration),
    /// When this many bytes of both directions have passed.
    Bytes(u64),
}

/// How a rule ends a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finish {
    /// Both sides get a FIN, behind the bytes that may still pass.
    Close,
    /// An RST; a side that is not meant is closed in order.
    Reset(ResetSide),
}

/// What a behavior decides about a unit of traffic that its rule chose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// It passes.
    Nothing,
    /// It is held, request and reply for so long; of a chunk its own direction counts.
    Hold {
        /// How long the request is held.
        request: Duration,
        /// How long the reply is held.
        reply: Duration,
    },
    /// Something else happens to it.
    Act(Action),
}

/// A unit of traffic that is decided about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// A connection as a whole.
    Connection,
    /// A request and its reply.
    Exchange,
    /// Plain bytes of one direction, as they were read.
    Chunk(Direction),
}

/// Where a behavior acts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Nowhere: everything passes.
    Nowhere,
    /// At the exits of the pipes of a connection, by a [`Gate`].
    Pipes,
    /// It holds exchanges, or chunks of these directions, for a time.
    Holds(Side),
    /// It does something else with exchanges, or with chunks of these directions.
    Units(Side),
    /// On a connection as a whole, or on the request that was chosen.
    Whole,
}
