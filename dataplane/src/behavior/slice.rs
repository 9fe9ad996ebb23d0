//! Sends small segments with gaps between them, as a sender that writes little at a time, or a path with a small MTU.
//!
//! A segment is a send(2) of its own on a socket with TCP_NODELAY, so that it leaves in a packet of its own as long as the
//! peer's window is open (tcp(7)).

use std::time::Duration;

use rand::Rng as _;

use super::options::{OptionKind, OptionSpec, Options};
use super::{
    Amount, BehaviorError, ClientView, Deed, Direction, Gate, Kind, LiveChange, Misbehave, Passage, Place,
    SharedRate, Side, When,
};
use crate::clock::Instant;
use crate::rng::Rng;
use crate::units::{bytes_text, duration_text};

/// The row of the table of behaviors.
pub(super) const KIND: Kind = Kind {
    name: "slice",
    aliases: &["slicer"],
    summary: "sends small segments with gaps between them",
    options: &[
        OptionSpec {
            name: "size",
            aliases: &[("average_size", "")],
            kind: OptionKind::Bytes,
            default: "100",
            doc: "bytes of a segment",
            example: "64",
        },
        OptionSpec {
            name: "variation",
            aliases: &[("size_variation", "")],
            kind: OptionKind::Bytes,
            default: "0",
            doc: "how far a segment's size may be from that, drawn evenly; less than the size",
            example: "16",
        },
        OptionSpec {
            name: "gap",
            aliases: &[("delay", "us")],
            kind: OptionKind::Duration,
            default: "0",
            doc: "the least time between two segments of a direction",
            example: "10ms",
        },
        OptionSpec {
            name: "side",
            aliases: &[],
            kind: OptionKind::OneOf(&["request", "reply", "both"]),
            default: "both",
            doc: "which direction is cut",
            example: "reply",
        },
    ],
    built: true,
    client: ClientView::HELD_UNTOLD,
    live_change: LiveChange { bytes: When::Now, messages: When::Now },
    lifted: "bytes that wait leave at once, whole",
};

/// The settings of a slice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slice {
    /// Bytes of a segment, at least 1.
    pub size: u64,
    /// The most by which a segment's size differs from that, less than it.
    pub variation: u64,
    /// The least time between two segments of a direction.
    pub gap: Duration,
    /// Which direction is cut.
    pub side: Side,
}

impl Misbehave for Slice {
    fn parse(options: &Options<'_>) -> Result<Slice, BehaviorError> {
        let (size, variation) = (options.bytes("size")?, options.bytes("variation")?);
        if size == 0 {
            return Err(options.refuse("size", "0", "at least 1 byte"));
        }
        if variation >= size {
            let expected = format!("less than the size, which is {}", bytes_text(size));
            return Err(options.refuse("variation", &bytes_text(variation), &expected));
        }
        let side = options.one_of("side", &[Side::Request, Side::Reply, Side::Both])?;
        Ok(Slice { size, variation, gap: options.duration("gap")?, side })
    }

    fn option_text(&self, option: &str) -> String {
        match option {
            "size" => bytes_text(self.size),
            "variation" => bytes_text(self.variation),
            "gap" => duration_text(self.gap),
            "side" => self.side.word().to_owned(),
            other => unreachable!("`slice` has no option `{other}`"),
        }
    }

    fn place(&self) -> Place {
        Place::Pipes
    }

    fn gate(&self, _: Option<&SharedRate>, mut rng: Rng) -> Option<Gate> {
        Some(Gate::Slices(Slices {
            settings: *self,
            rngs: [(); 2].map(|()| Rng::new(rng.next_u64())),
            next: [None; 2],
            free_at: [Instant::ZERO; 2],
            has_cut: false,
        }))
    }
}

/// Lets one segment after the other leave.
#[derive(Debug)]
pub struct Slices {
    settings: Slice,
    /// For each direction, so that what passes in one changes no size in the other.
    rngs: [Rng; 2],
    /// For each direction: the size of the next segment, once it is drawn.
    next: [Option<usize>; 2],
    /// For each direction: when the next segment may leave.
    free_at: [Instant; 2],
    has_cut: bool,
}

impl Slices {
    fn draw(&mut self, direction: Direction) -> usize {
        let Slice { size, variation, .. } = self.settings;
        let size = size - variation
            + self.rngs[direction as usize].below(variation.saturating_mul(2).saturating_add(1));
        usize::try_from(size).unwrap_or(usize::MAX)
    }
}

impl Passage for Slices {
    fn covers(&self, direction: Direction) -> bool {
        self.settings.side.covers(direction)
    }

    fn most(&mut self, direction: Direction, waiting: usize) -> usize {
        let size = match self.next[direction as usize] {
            Some(size) => size,
            None => {
                let size = self.draw(direction);
                *self.next[direction as usize].insert(size)
            }
        };
        self.has_cut |= waiting > size;
        waiting.min(size)
    }

    fn leaves(&mut self, direction: Direction, _: usize, _: Instant, now: Instant) -> Instant {
        self.free_at[direction as usize].max(now)
    }

    fn passed(&mut self, direction: Direction, _: usize, now: Instant) {
        self.next[direction as usize] = None;
        self.free_at[direction as usize] = now + self.settings.gap;
    }

    fn delays(&self) -> bool {
        true
    }

    fn is_alone(&self) -> bool {
        true
    }

    fn done(&self) -> Option<Deed> {
        self.has_cut
            .then_some(Deed { words: "cut into segments of", amount: Amount::Bytes(self.settings.size) })
    }

    fn goes_on_from(&mut self, earlier: &Slices) -> bool {
        let is_same = self.settings == earlier.settings;
        if is_same {
            self.rngs.clone_from(&earlier.rngs);
            (self.next, self.free_at, self.has_cut) = (earlier.next, earlier.free_at, earlier.has_cut);
        }
        is_same
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Instant = Instant::from_nanos(1_000_000_000);

    fn slices(size: u64, variation: u64, gap: Duration) -> Gate {
        let slice = Slice { size, variation, gap, side: Side::Reply };
        slice.gate(None, Rng::new(7)).expect("a slice has a gate")
    }

    #[test]
    fn segments_have_their_size_and_leave_one_gap_apart() {
        let gap = Duration::from_millis(10);
        let mut gate = slices(100, 0, gap);
        let mut now = NOW;
        for (waiting, expected) in [(250, 100), (150, 100), (50, 50)] {
            let bytes = gate.most(Direction::Reply, waiting);
            assert_eq!(bytes, expected);
            now = gate.leaves(Direction::Reply, bytes, NOW, now);
            gate.passed(Direction::Reply, bytes, now);
        }
        assert_eq!(now, NOW + 2 * gap, "the first leaves at once");
        let later = now + Duration::from_secs(1);
        assert_eq!(gate.leaves(Direction::Reply, 1, later, later), later, "a pause is a gap");
        assert!(!gate.covers(Direction::Request) && gate.is_alone());
    }

    #[test]
    fn sizes_are_drawn_within_the_variation_and_kept_until_they_pass() {
        let mut gate = slices(10, 9, Duration::ZERO);
        let mut seen = [0; 20];
        for _ in 0..2000 {
            let bytes = gate.most(Direction::Reply, 1000);
            assert_eq!(gate.most(Direction::Reply, 1000), bytes, "asked again");
            seen[bytes] += 1;
            gate.passed(Direction::Reply, bytes, NOW);
        }
        assert_eq!(seen[0], 0);
        assert!(seen[1..].iter().all(|count| *count > 50), "{seen:?}");
        assert_eq!(slices(u64::MAX, u64::MAX - 1, Duration::ZERO).most(Direction::Reply, 7), 7);
    }

    #[test]
    fn sizes_of_a_direction_depend_on_nothing_in_the_other() {
        let gate = || {
            let slice = Slice { size: 100, variation: 99, gap: Duration::ZERO, side: Side::Both };
            slice.gate(None, Rng::new(7)).expect("a slice has a gate")
        };
        let next = |gate: &mut Gate, direction| {
            let bytes = gate.most(direction, 1000);
            gate.passed(direction, bytes, NOW);
            bytes
        };
        let (mut alone, mut beside) = (gate(), gate());
        for _ in 0..50 {
            next(&mut beside, Direction::Request);
            assert_eq!(next(&mut alone, Direction::Reply), next(&mut beside, Direction::Reply));
        }
    }

    #[test]
    fn it_is_told_of_once_something_was_cut() {
        let mut gate = slices(10, 0, Duration::ZERO);
        gate.most(Direction::Reply, 10);
        assert_eq!(gate.done(), None);
        gate.most(Direction::Reply, 11);
        assert_eq!(gate.done(), Some(Deed { words: "cut into segments of", amount: Amount::Bytes(10) }));
    }
}
