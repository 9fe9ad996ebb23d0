//! What stands at the exits of a connection's pipes: how many bytes may leave, when, and what ends the connection.
//!
//! A pipe asks its gates before it sends, and knows nothing else of them:
//!
//! ```text
//!  most(bytes that wait) ──▶ the least of all gates; 0: no byte more will pass
//!  leaves(those bytes)   ──▶ the latest of all gates; asked once for the same bytes, so that a rate is paid once
//!  passed(bytes)             once they have left
//!  finish()              ──▶ how the connection ends, when what has passed is with the kernel
//! ```
//! A gate is a line of the table below and a type in the file of its behavior.

use std::fmt;
use std::time::Duration;

use super::limit::Budget;
use super::reset::Countdown;
use super::slice::Slices;
use super::throttle::Metered;
use super::{Direction, Finish};
use crate::clock::Instant;
use crate::units::{byte_rate_text as rate_text, bytes_text, duration_text};

/// What every gate answers; where most say the same, it stands here.
pub trait Passage: Sized {
    /// Whether bytes of this direction pass it.
    fn covers(&self, direction: Direction) -> bool;

    /// The most of `waiting` bytes that it lets go at once, now or later; 0 when no byte more will pass.
    fn most(&mut self, _direction: Direction, waiting: usize) -> usize {
        waiting
    }

    /// When the next `bytes`, which came at `came`, may leave. Asked once for them.
    fn leaves(&mut self, _direction: Direction, _bytes: usize, _came: Instant, now: Instant) -> Instant {
        now
    }

    /// So many bytes have left.
    fn passed(&mut self, _direction: Direction, _bytes: usize, _now: Instant) {}

    /// How the connection ends when what has passed in this direction is with the kernel, if nothing more will pass.
    fn finish(&self, _direction: Direction) -> Option<Finish> {
        None
    }

    /// Whether bytes may have to wait at it.
    fn delays(&self) -> bool {
        false
    }

    /// Whether what passes at once must leave in a send of its own.
    fn is_alone(&self) -> bool {
        false
    }

    /// Whether it stays when the connection is being closed.
    fn stays_to_the_end(&self) -> bool {
        true
    }

    /// Bytes that may wait at it in one direction before reading stops, if it says so.
    fn queue_bytes(&self) -> Option<usize> {
        None
    }

    /// What it has done to bytes of this connection so far, to be told once; what ends the connection is told then.
    fn done(&self) -> Option<Deed> {
        None
    }

    /// What the end that it brings is told as.
    fn end(&self) -> Option<Deed> {
        None
    }

    /// Goes on where `earlier`, a gate of a rule set before, has stopped; false when that was another.
    fn goes_on_from(&mut self, earlier: &Self) -> bool;
}

/// What a gate has done, in words that end with an amount: "limited to 1MB/s".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deed {
    /// The words.
    pub words: &'static str,
    /// How much.
    pub amount: Amount,
}

/// An amount that a deed is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Amount {
    /// Bytes per second.
    Rate(u64),
    /// Bytes.
    Bytes(u64),
    /// A time.
    Time(Duration),
}

impl fmt::Display for Deed {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let amount = match self.amount {
            Amount::Rate(rate) => rate_text(rate),
            Amount::Bytes(bytes) => bytes_text(bytes),
            Amount::Time(time) => duration_text(time),
        };
        write!(formatter, "{} {amount}", self.words)
    }
}

macro_rules! gates {
    ($($Gate:ident,)*) => {
        /// Something that bytes must pass before they leave.
        #[derive(Debug)]
        pub enum Gate {
            $(#[doc = concat!("A `", stringify!($Gate), "`.")] $Gate($Gate),)*
        }

        impl Passage for Gate {
            fn covers(&self, direction: Direction) -> bool {
                match self { $(Gate::$Gate(it) => it.covers(direction),)* }
            }

            fn most(&mut self, direction: Direction, waiting: usize) -> usize {
                match self { $(Gate::$Gate(it) => it.most(direction, waiting),)* }
            }

            fn leaves(&mut self, direction: Direction, bytes: usize, came: Instant, now: Instant) -> Instant {
                match self { $(Gate::$Gate(it) => it.leaves(direction, bytes, came, now),)* }
            }

            fn passed(&mut self, direction: Direction, bytes: usize, now: Instant) {
                match self { $(Gate::$Gate(it) => it.passed(direction, bytes, now),)* }
            }

            fn finish(&self, direction: Direction) -> Option<Finish> {
                match self { $(Gate::$Gate(it) => it.finish(direction),)* }
            }

            fn delays(&self) -> bool {
                match self { $(Gate::$Gate(it) => it.delays(),)* }
            }

            fn is_alone(&self) -> bool {
                match self { $(Gate::$Gate(it) => it.is_alone(),)* }
            }

            fn stays_to_the_end(&self) -> bool {
                match self { $(Gate::$Gate(it) => it.stays_to_the_end(),)* }
            }

            fn queue_bytes(&self) -> Option<usize> {
                match self { $(Gate::$Gate(it) => it.queue_bytes(),)* }
            }

            fn done(&self) -> Option<Deed> {
                match self { $(Gate::$Gate(it) => it.done(),)* }
            }

            fn end(&self) -> Option<Deed> {
                match self { $(Gate::$Gate(it) => it.end(),)* }
            }

            fn goes_on_from(&mut self, earlier: &Gate) -> bool {
                match (self, earlier) {
                    $((Gate::$Gate(it), Gate::$Gate(earlier)) => it.goes_on_from(earlier),)*
                    _ => false,
                }
            }
        }
    };
}

gates! { Metered, Countdown, Slices, Budget, }
