//! Ends the connection with a true RST, at once or after a time or a number of bytes.

use std::sync::atomic::AtomicU64;
use std::time::Duration;

use super::options::{OptionKind, OptionSpec, Options};
use super::{
    Action, After, Amount, BehaviorError, ClientView, Deed, Direction, Effect, Finish, Kind, LiveChange,
    Misbehave, Passage, Place, Unit, When,
};
use crate::clock::Instant;
use crate::rng::Rng;
use crate::units::{bytes_text, duration_text};

/// The row of the table of behaviors.
pub(super) const KIND: Kind = Kind {
    name: "reset",
    aliases: &["reset_peer"],
    summary: "ends the connection with a TCP RST, live ones too",
    options: &[
        OptionSpec {
            name: "after",
            aliases: &[("timeout", "ms")],
            kind: OptionKind::DurationOrBytes,
            default: "0",
            doc: "wait this long, or let this many bytes pass, first",
            example: "64KiB",
        },
        OptionSpec {
            name: "side",
            aliases: &[],
            kind: OptionKind::OneOf(&["downstream", "upstream", "both"]),
            default: "both",
            doc: "who gets the RST; the other side is closed in order",
            example: "downstream",
        },
    ],
    built: true,
    client: ClientView::CUT,
    live_change: LiveChange { bytes: When::Now, messages: When::NextMessage },
    lifted: "a reset that waits for its time or its bytes is called off",
};

/// The settings of a reset; both bounds 0 mean at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reset {
    /// Time from the decision to the RST.
    pub after_time: Duration,
    /// Bytes of both directions that pass between the decision and the RST.
    pub after_bytes: u64,
    /// Who gets the RST.
    pub side: ResetSide,
}

/// Which peer gets the RST.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResetSide {
    /// The client.
    Downstream,
    /// The backend.
    Upstream,
    /// Both.
    Both,
}

impl Misbehave for Reset {
    fn parse(options: &Options<'_>) -> Result<Reset, BehaviorError> {
        let (after_time, after_bytes) = options.duration_or_bytes("after")?;
        let sides = [ResetSide::Downstream, ResetSide::Upstream, ResetSide::Both];
        Ok(Reset { after_time, after_bytes, side: options.one_of("side", &sides)? })
    }

    fn option_text(&self, option: &str) -> String {
        match option {
            "after" if self.after_bytes > 0 => bytes_text(self.after_bytes),
            "after" => duration_text(self.after_time),
            "side" => self.side.word().to_owned(),
            other => unreachable!("`reset` has no option `{other}`"),
        }
    }

    fn place(&self) -> Place {
        Place::Whole
    }

    fn decide(&self, _: Unit, _: &mut Rng, _: &AtomicU64) -> Effect {
        let after = match (self.after_time, self.after_bytes) {
            (Duration::ZERO, 0) => After::Nothing,
            (Duration::ZERO, bytes) => After::Bytes(bytes),
            (time, _) => After::Time(time),
        };
        Effect::Act(Action::End { after, how: Finish::Reset(self.side) })
    }
}

/// Lets a number of bytes of both directions together pass, and then ends the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Countdown {
    bytes: u64,
    left: u64,
    how: Finish,
}

impl Countdown {
    /// One that lets `bytes` pass.
    pub fn new(bytes: u64, how: Finish) -> Countdown {
        Countdown { bytes, left: bytes, how }
    }
}

impl Passage for Countdown {
    fn covers(&self, _: Direction) -> bool {
        true
    }

    fn most(&mut self, _: Direction, waiting: usize) -> usize {
        usize::try_from(self.left).map_or(waiting, |left| waiting.min(left))
    }

    fn passed(&mut self, _: Direction, bytes: usize, _: Instant) {
        self.left = self.left.saturating_sub(bytes as u64);
    }

    fn finish(&self, _: Direction) -> Option<Finish> {
        (self.left == 0).then_some(self.how)
    }

    fn stays_to_the_end(&self) -> bool {
        false
    }

    fn end(&self) -> Option<Deed> {
        Some(Deed { words: "reset after", amount: Amount::Bytes(self.bytes) })
    }

    fn goes_on_from(&mut self, earlier: &Countdown) -> bool {
        let is_same = self.bytes == earlier.bytes && self.how == earlier.how;
        if is_same {
            self.left = earlier.left;
        }
        is_same
    }
}

impl ResetSide {
    fn word(self) -> &'static str {
        match self {
            ResetSide::Downstream => "downstream",
            ResetSide::Upstream => "upstream",
            ResetSide::Both => "both",
        }
    }
}
