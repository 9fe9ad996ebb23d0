//! Ends the connection after exactly so many bytes of one direction.

use super::options::{OptionKind, OptionSpec, Options};
use super::{
    Amount, BehaviorError, ClientView, Deed, Direction, Finish, Gate, Kind, LiveChange, Misbehave, Passage,
    Place, ResetSide, SharedRate, Side, When,
};
use crate::clock::Instant;
use crate::rng::Rng;
use crate::units::bytes_text;

/// The row of the table of behaviors.
pub(super) const KIND: Kind = Kind {
    name: "limit",
    aliases: &["limit_data"],
    summary: "ends the connection after exactly this many bytes of a direction",
    options: &[
        OptionSpec {
            name: "bytes",
            aliases: &[],
            kind: OptionKind::Bytes,
            default: "",
            doc: "bytes that pass in each direction meant; 0 ends with the first that comes",
            example: "64KiB",
        },
        OptionSpec {
            name: "then",
            aliases: &[],
            kind: OptionKind::OneOf(&["fin", "rst"]),
            default: "fin",
            doc: "how both sides end: in order behind the bytes that passed, or with a TCP RST",
            example: "rst",
        },
        OptionSpec {
            name: "side",
            aliases: &[],
            kind: OptionKind::OneOf(&["request", "reply", "both"]),
            default: "both",
            doc: "whose bytes count, each direction for itself",
            example: "reply",
        },
    ],
    built: true,
    client: ClientView::CUT,
    live_change: LiveChange { bytes: When::Now, messages: When::Now },
    lifted: "bytes are no longer counted",
};

/// The settings of a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    /// Bytes that pass in each direction that is meant, from the moment that the rule meets the connection.
    pub bytes: u64,
    /// How the connection ends.
    pub then: Finish,
    /// Which directions are meant.
    pub side: Side,
}

impl Misbehave for Limit {
    fn parse(options: &Options<'_>) -> Result<Limit, BehaviorError> {
        Ok(Limit {
            bytes: options.bytes("bytes")?,
            then: options.one_of("then", &[Finish::Close, Finish::Reset(ResetSide::Both)])?,
            side: options.one_of("side", &[Side::Request, Side::Reply, Side::Both])?,
        })
    }

    fn option_text(&self, option: &str) -> String {
        match option {
            "bytes" => bytes_text(self.bytes),
            "then" => if self.then == Finish::Close { "fin" } else { "rst" }.to_owned(),
            "side" => self.side.word().to_owned(),
            other => unreachable!("`limit` has no option `{other}`"),
        }
    }

    fn place(&self) -> Place {
        Place::Pipes
    }

    fn gate(&self, _: Option<&SharedRate>, _: Rng) -> Option<Gate> {
        Some(Gate::Budget(Budget { settings: *self, left: [self.bytes; 2] }))
    }
}

/// Lets a number of bytes of each direction pass, and then ends the connection.
#[derive(Debug)]
pub struct Budget {
    settings: Limit,
    left: [u64; 2],
}

impl Passage for Budget {
    fn covers(&self, direction: Direction) -> bool {
        self.settings.side.covers(direction)
    }

    fn most(&mut self, direction: Direction, waiting: usize) -> usize {
        usize::try_from(self.left[direction as usize]).map_or(waiting, |left| waiting.min(left))
    }

    fn passed(&mut self, direction: Direction, bytes: usize, _: Instant) {
        let left = &mut self.left[direction as usize];
        *left = left.saturating_sub(bytes as u64);
    }

    fn finish(&self, direction: Direction) -> Option<Finish> {
        (self.covers(direction) && self.left[direction as usize] == 0).then_some(self.settings.then)
    }

    fn end(&self) -> Option<Deed> {
        Some(Deed { words: "ended after", amount: Amount::Bytes(self.settings.bytes) })
    }

    fn goes_on_from(&mut self, earlier: &Budget) -> bool {
        let is_same = self.settings == earlier.settings;
        if is_same {
            self.left = earlier.left;
        }
        is_same
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_direction_has_its_own_bytes_and_the_last_one_ends_it() {
        let limit = Limit { bytes: 10, then: Finish::Close, side: Side::Both };
        let mut gate = limit.gate(None, Rng::new(0)).expect("a limit has a gate");
        let (request, reply, now) = (Direction::Request, Direction::Reply, Instant::ZERO);
        assert_eq!(gate.most(request, 25), 10);
        gate.passed(request, 4, now);
        assert_eq!((gate.most(request, 25), gate.most(reply, 25)), (6, 10));
        assert_eq!(gate.finish(request), None);
        gate.passed(request, 6, now);
        assert_eq!(
            (gate.most(request, 1), gate.finish(request), gate.finish(reply)),
            (0, Some(Finish::Close), None)
        );
    }

    #[test]
    fn a_count_goes_on_under_the_same_settings_alone() {
        let gate = |bytes| {
            Limit { bytes, then: Finish::Close, side: Side::Reply }.gate(None, Rng::new(0)).expect("gate")
        };
        let mut earlier = gate(10);
        earlier.passed(Direction::Reply, 4, Instant::ZERO);
        let (mut same, mut other) = (gate(10), gate(20));
        assert!(same.goes_on_from(&earlier) && !other.goes_on_from(&earlier));
        assert_eq!((same.most(Direction::Reply, 99), other.most(Direction::Reply, 99)), (6, 20));
    }

    #[test]
    fn nothing_passes_a_limit_of_nothing_and_the_largest_never_ends() {
        for (bytes, most, ends) in [(0, 0, true), (1, 1, false), (u64::MAX, 1 << 20, false)] {
            let limit = Limit { bytes, then: Finish::Reset(ResetSide::Both), side: Side::Reply };
            let mut gate = limit.gate(None, Rng::new(0)).expect("gate");
            assert_eq!(gate.most(Direction::Reply, 1 << 20), most, "{bytes}");
            assert_eq!(gate.finish(Direction::Reply).is_some(), ends, "{bytes}");
            assert_eq!(gate.finish(Direction::Request), None);
        }
    }
}
