//! What is kept of the faults that a proxy tells one by one. A number and a time each, not the events: memory grows with
//! the time in which faults act, not with their number, and has an end.

use std::collections::BTreeMap;

use fracas_loadgen::measure::{Failure, Injection, Injections, Span};

/// Injected failures are counted in bins of this length: a tenth of what they are compared by.
pub const BIN_NS: u64 = 10_000_000;

/// How much one story may still keep, over all its proxies. At 100 bins a second and kind of failure, at about 40 bytes
/// each: 20 MB after nearly an hour and a half of one kind without a pause.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Room {
    /// Bins of failures.
    pub bins: usize,
    /// Lateness of delays, 8 bytes each.
    pub lateness: usize,
    /// Windows and their figures, about 300 bytes each.
    pub windows: usize,
    /// Connections of which the last exchange that was counted is known, about 24 bytes each.
    pub connections: usize,
}

impl Default for Room {
    fn default() -> Room {
        Room { bins: 500_000, lateness: 1_000_000, windows: 20_000, connections: 100_000 }
    }
}

/// Takes one place; `false` when none is left.
pub fn take(left: &mut usize) -> bool {
    let has = *left > 0;
    *left -= usize::from(has);
    has
}

/// The failures that were injected, by when.
#[derive(Clone, Debug, Default)]
pub struct Kept {
    bins: BTreeMap<(u64, Failure), u64>,
    /// What found no room, and from when to when.
    not_kept: Option<(u64, u64, u64)>,
    /// By connection, the last exchange whose delay was counted.
    exchanges: BTreeMap<u64, u64>,
}

impl Kept {
    /// Counts one.
    pub fn add(&mut self, at_ns: u64, failure: Failure, room: &mut Room) {
        let bin = (at_ns / BIN_NS, failure);
        if let Some(count) = self.bins.get_mut(&bin) {
            *count += 1;
        } else if take(&mut room.bins) {
            self.bins.insert(bin, 1);
        } else {
            let (count, from, to) = self.not_kept.get_or_insert((0, at_ns, at_ns));
            *count += 1;
            (*from, *to) = ((*from).min(at_ns), (*to).max(at_ns));
        }
    }

    /// Counts a request that a delay held for so long that it timed out; one that was held twice timed out once. On plain
    /// bytes there are no exchanges, and each chunk is a message.
    pub fn add_held(&mut self, at_ns: u64, connection: u64, exchange: u64, room: &mut Room) {
        if exchange > 0 {
            match self.exchanges.get_mut(&connection) {
                Some(last) if *last >= exchange => return,
                Some(last) => *last = exchange,
                None => {
                    // The oldest connection makes room: its requests are over.
                    if !take(&mut room.connections) && self.exchanges.pop_first().is_none() {
                        return self.add(at_ns, Failure::Silent, room);
                    }
                    self.exchanges.insert(connection, exchange);
                }
            }
        }
        self.add(at_ns, Failure::Silent, room);
    }

    /// Lays all from `start_ns` on beside a run that began then and lasted `ran_ns`.
    pub fn lay(&self, injections: &mut Injections, start_ns: u64, ran_ns: u64) {
        let since = |at_ns: u64| at_ns.saturating_sub(start_ns).min(ran_ns);
        for ((bin, failure), count) in &self.bins {
            let from_ns = bin.saturating_mul(BIN_NS);
            if from_ns.saturating_add(BIN_NS) > start_ns {
                let at_ns = from_ns.saturating_sub(start_ns);
                injections.add(Injection { at_ns, failure: *failure, count: *count });
            }
        }
        if let Some((count, from, to)) = self.not_kept.filter(|(_, _, to)| *to >= start_ns) {
            injections.not_kept(count);
            injections.missed(Span { from_ns: since(from), to_ns: since(to) });
        }
    }
}

/// What was injected by one owner.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// How many.
    pub count: u64,
    lateness: Vec<u64>,
    /// The shortest and the longest time that was asked of a delay.
    asked_ns: Option<(u64, u64)>,
}

impl Tally {
    /// Counts one: how late it was, and how long it was asked for, if it is a delay.
    pub fn add(&mut self, late_ns: Option<u64>, asked_ns: Option<u64>, room: &mut Room) {
        self.count += 1;
        self.lateness.extend(late_ns.filter(|_| take(&mut room.lateness)));
        self.asked(asked_ns.map(|asked| (asked, asked)));
    }

    fn asked(&mut self, other: Option<(u64, u64)>) {
        let both = self
            .asked_ns
            .zip(other)
            .map(|((from, to), (other_from, other_to))| (from.min(other_from), to.max(other_to)));
        self.asked_ns = both.or(self.asked_ns).or(other);
    }

    /// No delay is longer: a time that is the same each time, or twice the longest of those that were drawn.
    pub fn longest_ns(&self) -> u64 {
        match self.asked_ns {
            Some((from, to)) if from == to => to,
            Some((_, to)) => to.saturating_mul(2),
            None => u64::MAX,
        }
    }

    /// Adds another's.
    pub fn merge(&mut self, other: &Tally) {
        self.count += other.count;
        self.lateness.extend(&other.lateness);
        self.asked(other.asked_ns);
    }

    /// So many per cent of the delays were late by this or less; `None` when none is known.
    pub fn late(&self, percent: usize) -> Option<u64> {
        let mut sorted = self.lateness.clone();
        sorted.sort_unstable();
        let rank = (sorted.len() * percent).div_ceil(100);
        sorted.get(rank.saturating_sub(1)).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    fn laid(kept: &Kept, start_ns: u64) -> Injections {
        let mut injections = Injections::default();
        kept.lay(&mut injections, start_ns, u64::MAX);
        injections
    }

    #[test]
    fn a_million_faults_take_as_many_places_as_they_have_bins() {
        let (mut kept, mut room) = (Kept::default(), Room { bins: 3, ..Room::default() });
        for number in 0..1_000_000 {
            kept.add(1_000 * MS + number * 30, Failure::Cut, &mut room);
        }
        let of = |at_ms: u64, count| Injection { at_ns: at_ms * MS, failure: Failure::Cut, count };
        // 30 ns apart, they fill three bins of 10 ms.
        let expected = [of(0, 333_334), of(10, 333_333), of(20, 333_333)].into_iter().collect();
        assert_eq!((laid(&kept, 1_000 * MS), room.bins), (expected, 0));
    }

    #[test]
    fn what_finds_no_room_is_counted_and_its_time_is_not_known() {
        let (mut kept, mut room) = (Kept::default(), Room { bins: 1, ..Room::default() });
        for at_ms in [100, 105, 250, 107, 900] {
            kept.add(at_ms * MS, Failure::Refused, &mut room);
        }
        let mut expected = Injections::default();
        expected.add(Injection { at_ns: 100 * MS, failure: Failure::Refused, count: 3 });
        expected.not_kept(2);
        expected.missed(Span { from_ns: 250 * MS, to_ns: 900 * MS });
        assert_eq!(laid(&kept, 0), expected);
    }

    #[test]
    fn only_what_may_have_been_since_the_start_counts() {
        let (mut kept, mut room) = (Kept::default(), Room::default());
        for at_ms in [99, 100, 109, 110] {
            kept.add(at_ms * MS, Failure::Cut, &mut room);
        }
        let cut = |at_ms: u64, count| Injection { at_ns: at_ms * MS, failure: Failure::Cut, count };
        assert_eq!(laid(&kept, 100 * MS), [cut(0, 2), cut(10, 1)].into_iter().collect());
    }

    #[test]
    fn a_request_that_was_held_twice_counts_once_however_many_connections_there_are() {
        let (mut kept, mut room) = (Kept::default(), Room { connections: 2, ..Room::default() });
        // Connection and exchange; 0 is of plain bytes.
        for (connection, exchange) in [(1, 1), (1, 1), (1, 2), (2, 1), (3, 1), (3, 1), (9, 0), (9, 0)] {
            kept.add_held(0, connection, exchange, &mut room);
        }
        let six = Injection { at_ns: 0, failure: Failure::Silent, count: 6 };
        assert_eq!((laid(&kept, 0), kept.exchanges.len()), ([six].into_iter().collect(), 2));
    }
}
