//! Turns of the loop that came late, and what they had kept back.
//!
//! What a turn sends leaves when the loop next asks the kernel. A thread that is stopped in between sends late, and knows
//! it only afterwards: the turn that follows comes late. So whatever was sent in the turn before a late one may have left
//! as late as that, and its reply is not the target's alone to answer for.
//!
//! ```text
//!   turn ── sends, stamped with its time ──╳ stopped ╳── the kernel has them ── late turn ── reply ─►
//!                                          ◄── late ──►
//! ```

use std::time::Duration;

use fracas_dataplane::clock::Instant;

/// So many are remembered; a stop that lies further back than the last few, and before it a reply still awaited, is rare.
const KEPT: usize = 16;

/// The last turns that came late by [`LateTurns::FROM`] or more.
#[derive(Debug, Default)]
pub(super) struct LateTurns {
    /// When the turn before it was, and by how much it came late.
    turns: [(Instant, Duration); KEPT],
    next: usize,
    /// This turn, which is not over: what it takes in, it takes in late as a whole.
    current: Option<(Instant, Duration)>,
}

impl LateTurns {
    /// Less is the noise of every machine.
    pub const FROM: Duration = Duration::from_millis(1);

    /// A turn begins, this much late, after one that was at `before`.
    pub fn turn(&mut self, before: Instant, late: Duration) {
        if let Some(turn) = self.current.take() {
            self.turns[self.next] = turn;
            self.next = (self.next + 1) % KEPT;
        }
        self.current = (late >= LateTurns::FROM).then_some((before, late));
    }

    /// How much later than it is stamped something may have left that was sent in the turn at `sent`.
    pub fn kept_back(&self, sent: Instant) -> Duration {
        let newest = self.turns[(self.next + KEPT - 1) % KEPT];
        if sent > newest.0 {
            return Duration::ZERO;
        }
        self.turns.iter().find(|(before, _)| *before == sent).map_or(Duration::ZERO, |(_, late)| *late)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Instant {
        Instant::from_nanos(ms * 1_000_000)
    }

    #[test]
    fn what_was_sent_in_the_turn_before_a_late_one_may_have_left_as_late() {
        let ms = Duration::from_millis;
        let mut turns = LateTurns::default();
        turns.turn(at(10), Duration::from_micros(999));
        turns.turn(at(20), ms(1_000));
        assert_eq!(turns.kept_back(at(20)), ms(0), "what this turn takes in counts by the turn itself");
        turns.turn(at(1_020), ms(0));
        for (sent, late) in [(9, 0), (10, 0), (19, 0), (20, 1_000), (21, 0), (1_020, 0)] {
            assert_eq!(turns.kept_back(at(sent)), ms(late), "sent at {sent} ms");
        }
        turns.turn(at(1_030), ms(5));
        turns.turn(at(1_040), ms(0));
        assert_eq!([20, 1_030].map(|sent| turns.kept_back(at(sent))), [ms(1_000), ms(5)]);
    }

    #[test]
    fn only_the_last_are_kept() {
        let mut turns = LateTurns::default();
        (1..=20).for_each(|n| turns.turn(at(10 * n), Duration::from_millis(n)));
        turns.turn(at(300), Duration::ZERO);
        let late = |n: u64| turns.kept_back(at(10 * n));
        assert_eq!([4, 5, 20].map(late), [0, 5, 20].map(Duration::from_millis));
    }
}
