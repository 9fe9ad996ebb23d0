//! Results on their way to the controller: numbered, kept until acknowledged, sent again after a broken session.
//!
//! ```text
//! load ─add─▶ pending ─cut─▶ unacked ─────▶ controller
//!              merges         1, 2, 3, …  ◀── ack 2
//! ```
//!
//! A slow or broken link makes seconds wait in `pending`, where they are merged and never dropped.

use std::collections::VecDeque;

use fracas_loadgen::measure::Timeline;

/// Pieces that may be on their way; after that, results wait and are merged.
const UNACKED_MAX: usize = 16;
/// A piece is cut below this if it has several seconds; a message must stay below 256 KiB.
const PIECE_BYTES_MAX: usize = 192 * 1024;

/// A numbered piece of results.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// From 1, without gaps.
    pub sequence: u64,
    /// What happened.
    pub timeline: Timeline,
}

/// What has not been acknowledged.
#[derive(Debug, Default)]
pub struct Outbox {
    pending: Timeline,
    unacked: VecDeque<Piece>,
    last_sequence: u64,
}

impl Outbox {
    /// Takes results in.
    pub fn add(&mut self, timeline: &Timeline) {
        self.pending.merge(timeline);
    }

    /// Cuts the next pieces, to be sent in order; none when nothing waits or too many are on their way.
    pub fn cut(&mut self) -> Vec<Piece> {
        let mut cut = Vec::new();
        if self.pending.is_empty() {
            return cut;
        }
        let mut waiting = VecDeque::from([std::mem::take(&mut self.pending)]);
        while let Some(timeline) = waiting.pop_front() {
            if self.unacked.len() >= UNACKED_MAX {
                self.pending.merge(&timeline);
                continue;
            }
            if timeline.encode().len() > PIECE_BYTES_MAX
                && let Some((early, late)) = halves(&timeline)
            {
                waiting.push_front(late);
                waiting.push_front(early);
                continue;
            }
            self.last_sequence += 1;
            let piece = Piece { sequence: self.last_sequence, timeline };
            self.unacked.push_back(piece.clone());
            cut.push(piece);
        }
        cut
    }

    /// The controller has everything up to `sequence`.
    pub fn on_ack(&mut self, sequence: u64) {
        self.unacked.retain(|piece| piece.sequence > sequence);
    }

    /// What must be sent again in a new session, in order.
    pub fn unacked(&self) -> impl Iterator<Item = &Piece> {
        self.unacked.iter()
    }

    /// True when everything was cut, if not acknowledged.
    pub fn is_cut(&self) -> bool {
        self.pending.is_empty()
    }

    /// Number of the last piece that was cut; 0 before the first.
    pub fn last_sequence(&self) -> u64 {
        self.last_sequence
    }
}

/// `None` when there is only one second.
fn halves(timeline: &Timeline) -> Option<(Timeline, Timeline)> {
    let seconds = timeline.intervals().count();
    if seconds < 2 {
        return None;
    }
    let (mut early, mut late) = (Timeline::default(), Timeline::default());
    for (index, interval) in timeline.intervals().enumerate() {
        if index < seconds / 2 { early.add(interval) } else { late.add(interval) }
    }
    Some((early, late))
}

#[cfg(test)]
mod tests {
    use super::*;
    use fracas_loadgen::measure::{Counts, Interval};
    use proptest::prelude::*;

    fn second(second: u32, values: u64) -> Timeline {
        let counts = Counts { planned: values, sent: values, ok: values, ..Counts::default() };
        let mut interval = Interval { second, counts, ..Interval::default() };
        interval.response[0] = (0..values).map(|i| i * i * 7_919 % 1_000_000_007).collect();
        let mut timeline = Timeline::default();
        timeline.add(&interval);
        timeline
    }

    #[test]
    fn a_long_wait_is_cut_into_pieces_that_fit_a_message() {
        let mut outbox = Outbox::default();
        (0..200).for_each(|number| outbox.add(&second(number, 3_000)));
        let pieces = outbox.cut();
        assert!(pieces.len() > 1);
        assert!(pieces.iter().all(|piece| piece.timeline.encode().len() <= PIECE_BYTES_MAX));
        let seconds: Vec<u32> =
            pieces.iter().flat_map(|p| p.timeline.intervals()).map(|i| i.second).collect();
        assert!(seconds.is_sorted());
    }

    #[test]
    fn unacknowledged_pieces_are_bounded_and_the_rest_is_merged() {
        let mut outbox = Outbox::default();
        for number in 0..100 {
            outbox.add(&second(number, 10));
            outbox.cut();
        }
        assert_eq!((outbox.unacked().count(), outbox.last_sequence()), (UNACKED_MAX, UNACKED_MAX as u64));
        assert!(!outbox.is_cut());
        outbox.on_ack(UNACKED_MAX as u64);
        let rest = outbox.cut();
        assert_eq!((rest.len(), rest[0].timeline.intervals().count()), (1, 100 - UNACKED_MAX));
        assert!(outbox.is_cut());
    }

    proptest! {
        /// The link breaks at random: of the pieces in flight some arrive, and an ack may be lost.
        #[test]
        fn nothing_is_lost_or_doubled_whatever_the_link_does(
            links in prop::collection::vec((0_usize..6, any::<bool>()), 1..40),
        ) {
            let (mut outbox, mut sent, mut received) = (Outbox::default(), Timeline::default(), Timeline::default());
            let mut last = 0;
            let mut deliver = |outbox: &Outbox, how_many: usize| {
                for piece in outbox.unacked().take(how_many) {
                    if piece.sequence == last + 1 {
                        last = piece.sequence;
                        received.merge(&piece.timeline);
                    }
                }
                last
            };
            for (number, (arrive, ack)) in links.iter().enumerate() {
                let made = second(number as u32 / 3, 20 + number as u64);
                sent.merge(&made);
                outbox.add(&made);
                outbox.cut();
                let last = deliver(&outbox, *arrive);
                if *ack {
                    outbox.on_ack(last);
                }
            }
            while outbox.unacked().count() > 0 || !outbox.is_cut() {
                outbox.cut();
                let last = deliver(&outbox, usize::MAX);
                outbox.on_ack(last);
            }
            prop_assert_eq!(last, outbox.last_sequence());
            prop_assert_eq!(received, sent);
        }
    }
}
