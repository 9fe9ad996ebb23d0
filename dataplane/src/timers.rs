//! When each thing is due: a hierarchical timer wheel that keeps exact times.
//!
//! The loop asks [`Timers::next_due`] for its deadline and drains [`Timers::pop_due`] after it woke. Times
//! keep their nanoseconds: the wheel only sorts them roughly, and each slot knows its first.
//!
//! ```text
//!  due in ns:  |  level 8  | … |  level 2  |  level 1  |  level 0  | 12 bits: inside a tick of 4 µs |
//!                                 17 ms       268 µs      4 µs       wide is one slot
//! ```
//! A timer sits at the level of the highest digit (six bits) in which its tick differs from `base`, in the
//! slot that this digit names. So all timers of a level are before all of the next level, and the first slot
//! is found by two counts of trailing zeros. When the base enters a slot, its timers move to lower levels.
//! Varghese and Lauck, "Hashed and hierarchical timing wheels", 1987.

use crate::clock::Instant;

/// Names one inserted timer; of no use once it has fired or was cancelled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TimerId {
    index: u32,
    generation: u32,
}

/// Items, each with the instant at which it is due. Allocates only to hold more than it ever held.
#[derive(Debug)]
pub struct Timers<T> {
    /// Every timer's tick is at or after it, but for those that were inserted late.
    base_tick: u64,
    occupied_levels: u16,
    occupied_slots: [u64; LEVELS],
    slots: Box<[Slot]>,
    entries: Vec<Entry<T>>,
    /// Free entries, chained by `next`.
    free: u32,
    len: usize,
    sorting: Vec<(u64, u32, u32)>,
    /// Entries that were looked at.
    #[cfg(test)]
    steps: std::cell::Cell<u64>,
}

impl<T: Copy> Timers<T> {
    /// An empty wheel that stands at `now`.
    pub fn new(now: Instant) -> Timers<T> {
        Timers {
            base_tick: tick_of(now.as_nanos()),
            occupied_levels: 0,
            occupied_slots: [0; LEVELS],
            slots: vec![Slot::EMPTY; LEVELS * SLOTS].into_boxed_slice(),
            entries: Vec::new(),
            free: NONE,
            len: 0,
            sorting: Vec::new(),
            #[cfg(test)]
            steps: std::cell::Cell::new(0),
        }
    }

    /// Adds `item`, due at `due`; one that is past is due at once.
    ///
    /// # Panics
    /// When 2^32 − 1 timers are held.
    pub fn insert(&mut self, due: Instant, item: T) -> TimerId {
        let due_ns = due.as_nanos();
        let index = self.allocate(due_ns, item);
        self.len += 1;
        self.place(index);
        TimerId { index, generation: self.entry(index).generation }
    }

    /// Takes a timer back; false when it has fired or was cancelled before.
    pub fn cancel(&mut self, id: TimerId) -> bool {
        let live = self
            .entries
            .get(id.index as usize)
            .is_some_and(|entry| entry.generation == id.generation && entry.slot != FREE);
        if live {
            self.remove(id.index);
        }
        live
    }

    /// When the first timer is due, exactly; [`Instant::FAR_FUTURE`] when there is none.
    pub fn next_due(&mut self) -> Instant {
        match self.find_earliest() {
            Some(index) => Instant::from_nanos(self.entry(index).due_ns),
            None => Instant::FAR_FUTURE,
        }
    }

    /// Takes the first timer that is due by `now`, with the instant at which it was due. Timers come in the
    /// order of their due times, equal ones in the order in which they were inserted.
    pub fn pop_due(&mut self, now: Instant) -> Option<(Instant, T)> {
        let Some(index) = self.find_earliest() else {
            self.base_tick = self.base_tick.max(tick_of(now.as_nanos()));
            return None;
        };
        let Entry { due_ns, item, .. } = *self.entry(index);
        if due_ns > now.as_nanos() {
            self.advance(tick_of(now.as_nanos()));
            return None;
        }
        // Before it is removed: the search for the next one then finds its neighbours spread out.
        self.advance(tick_of(due_ns));
        self.remove(index);
        Some((Instant::from_nanos(due_ns), item))
    }

    /// Timers held.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether no timer is held.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Moves the base to `tick`, before which no timer is due, and spreads the slot it enters.
    fn advance(&mut self, tick: u64) {
        if tick <= self.base_tick {
            return;
        }
        let level = level_of(self.base_tick ^ tick);
        self.base_tick = tick;
        // Lower levels are empty: they were before `tick`. So equal timers keep their order.
        let digit = digit_of(tick, level);
        if level > 0 && self.occupied_slots[level] & 1 << digit != 0 {
            let slot = level * SLOTS + digit;
            let mut index = self.slots[slot].first;
            self.vacate(slot);
            while index != NONE {
                let next = self.entry(index).next;
                self.place(index);
                index = next;
            }
        }
    }

    /// Links an entry into the slot of its due time.
    fn place(&mut self, index: u32) {
        let due_ns = self.entry(index).due_ns;
        let tick = tick_of(due_ns).max(self.base_tick);
        let level = level_of(tick ^ self.base_tick);
        let digit = digit_of(tick, level);
        self.occupied_levels |= 1 << level;
        self.occupied_slots[level] |= 1 << digit;
        let slot = level * SLOTS + digit;
        let mut after = self.slots[slot].last;
        if self.slots[slot].sorted {
            // A few steps back keep a nearly sorted slot sorted.
            let mut steps_left = STEPS_BACK_MAX;
            while after != NONE && self.entry(after).due_ns > due_ns && steps_left > 0 {
                after = self.entry(after).previous;
                steps_left -= 1;
            }
            if after != NONE && self.entry(after).due_ns > due_ns {
                after = self.slots[slot].last;
                self.slots[slot].sorted = false;
            }
        }
        self.link(slot, index, after);
    }

    fn link(&mut self, slot: usize, index: u32, after: u32) {
        let Slot { first, earliest, .. } = self.slots[slot];
        let is_earliest = match earliest {
            NONE => first == NONE,
            _ => self.entry(index).due_ns < self.entry(earliest).due_ns,
        };
        if is_earliest {
            self.slots[slot].earliest = index;
        }
        let next = match after {
            NONE => std::mem::replace(&mut self.slots[slot].first, index),
            _ => std::mem::replace(&mut self.entry_mut(after).next, index),
        };
        match next {
            NONE => self.slots[slot].last = index,
            _ => self.entry_mut(next).previous = index,
        }
        let entry = self.entry_mut(index);
        (entry.previous, entry.next, entry.slot) = (after, next, slot as u16);
    }

    fn remove(&mut self, index: u32) {
        let Entry { previous, next, slot, .. } = *self.entry(index);
        let slot = usize::from(slot);
        match previous {
            NONE => self.slots[slot].first = next,
            _ => self.entry_mut(previous).next = next,
        }
        match next {
            NONE => self.slots[slot].last = previous,
            _ => self.entry_mut(next).previous = previous,
        }
        let Slot { first, earliest, sorted, .. } = self.slots[slot];
        if first == NONE {
            self.vacate(slot);
        } else if earliest == index {
            self.slots[slot].earliest = if sorted { first } else { NONE };
        }
        let free = std::mem::replace(&mut self.free, index);
        let entry = self.entry_mut(index);
        (entry.slot, entry.next) = (FREE, free);
        entry.generation = entry.generation.wrapping_add(1);
        self.len -= 1;
    }

    fn vacate(&mut self, slot: usize) {
        let level = slot / SLOTS;
        self.slots[slot] = Slot::EMPTY;
        self.occupied_slots[level] &= !(1 << (slot % SLOTS));
        if self.occupied_slots[level] == 0 {
            self.occupied_levels &= !(1 << level);
        }
    }

    fn find_earliest(&mut self) -> Option<u32> {
        if self.len == 0 {
            return None;
        }
        let level = self.occupied_levels.trailing_zeros() as usize;
        let slot = level * SLOTS + self.occupied_slots[level].trailing_zeros() as usize;
        if self.slots[slot].earliest == NONE {
            self.search(slot);
        }
        Some(self.slots[slot].earliest)
    }

    /// Finds the earliest of a slot after that was taken out. A crowded slot is sorted, so that the next
    /// search is short: otherwise cancelling timers in their order would search the whole slot for each.
    fn search(&mut self, slot: usize) {
        let mut index = self.slots[slot].first;
        let mut earliest = index;
        for _ in 0..SEARCH_MAX {
            if index == NONE {
                self.slots[slot].earliest = earliest;
                return;
            }
            if self.entry(index).due_ns < self.entry(earliest).due_ns {
                earliest = index;
            }
            index = self.entry(index).next;
        }
        self.sort(slot);
    }

    fn sort(&mut self, slot: usize) {
        let mut sorting = std::mem::take(&mut self.sorting);
        let mut index = self.slots[slot].first;
        while index != NONE {
            let entry = self.entry(index);
            sorting.push((entry.due_ns, sorting.len() as u32, index));
            index = entry.next;
        }
        sorting.sort_unstable();
        self.slots[slot] = Slot::EMPTY;
        for (_, _, index) in sorting.drain(..) {
            let last = self.slots[slot].last;
            self.link(slot, index, last);
        }
        self.sorting = sorting;
    }

    fn allocate(&mut self, due_ns: u64, item: T) -> u32 {
        if self.free == NONE {
            let index = u32::try_from(self.entries.len()).expect("fewer than 2^32 timers");
            assert_ne!(index, NONE, "fewer than 2^32 - 1 timers");
            self.entries.push(Entry { due_ns, previous: NONE, next: NONE, generation: 0, slot: FREE, item });
            return index;
        }
        let index = self.free;
        let entry = self.entry_mut(index);
        (entry.due_ns, entry.item) = (due_ns, item);
        self.free = entry.next;
        index
    }

    fn entry(&self, index: u32) -> &Entry<T> {
        #[cfg(test)]
        self.steps.set(self.steps.get() + 1);
        &self.entries[index as usize]
    }

    fn entry_mut(&mut self, index: u32) -> &mut Entry<T> {
        &mut self.entries[index as usize]
    }
}

/// A tick is 2^12 ns: a slot of the lowest level seldom holds more than a few timers.
const TICK_BITS: u32 = 12;
const DIGIT_BITS: usize = 6;
const SLOTS: usize = 1 << DIGIT_BITS;
/// 52 bits of tick make nine digits of six bits, so that any instant fits and nothing overflows.
const LEVELS: usize = 9;
/// No entry.
const NONE: u32 = u32::MAX;
/// The slot of an entry that holds no timer.
const FREE: u16 = u16::MAX;
/// Entries that are searched one by one before a slot is worth sorting.
const SEARCH_MAX: usize = 16;
/// How far from the end a timer is put in its place in a sorted slot.
const STEPS_BACK_MAX: usize = 8;

#[derive(Clone, Copy, Debug)]
struct Slot {
    first: u32,
    last: u32,
    /// The entry that is due first; unknown when it was removed from a slot that is not sorted.
    earliest: u32,
    /// Whether the list is in the order of due times.
    sorted: bool,
}

impl Slot {
    const EMPTY: Slot = Slot { first: NONE, last: NONE, earliest: NONE, sorted: true };
}

#[derive(Clone, Copy, Debug)]
struct Entry<T> {
    due_ns: u64,
    previous: u32,
    /// The next in the slot, or the next free one.
    next: u32,
    /// Rises when the entry is freed.
    generation: u32,
    slot: u16,
    item: T,
}

fn tick_of(nanos: u64) -> u64 {
    nanos >> TICK_BITS
}

fn digit_of(tick: u64, level: usize) -> usize {
    (tick >> (level * DIGIT_BITS)) as usize % SLOTS
}

/// The level of the highest digit in which two ticks differ, given their exclusive or.
fn level_of(difference: u64) -> usize {
    (difference | 1).ilog2() as usize / DIGIT_BITS
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, HashMap};
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;
    use crate::rng::Rng;

    /// About what `CLOCK_MONOTONIC` reads after eleven days.
    const NOW: Instant = Instant::from_nanos(1_000_000_000_000_123);

    #[test]
    fn timers_fire_in_due_order_with_their_exact_times() {
        let mut timers = Timers::new(NOW);
        let dues = [7_000_000_001, 1, 65_000, 4_097, 4_096, 3_600_000_000_000, 50_000_000, 2];
        for due in dues {
            timers.insert(NOW + Duration::from_nanos(due), due);
        }
        let mut sorted = dues;
        sorted.sort_unstable();
        for due in sorted {
            let at = NOW + Duration::from_nanos(due);
            assert_eq!(timers.next_due(), at);
            assert_eq!(timers.pop_due(at - Duration::from_nanos(1)), None);
            assert_eq!(timers.pop_due(at), Some((at, due)));
        }
        assert!(timers.is_empty());
        assert_eq!(timers.next_due(), Instant::FAR_FUTURE);
    }

    #[test]
    fn equal_due_times_fire_in_the_order_of_insertion_however_far_they_were() {
        let due = NOW + Duration::from_secs(30);
        let mut timers = Timers::new(NOW);
        for (item, before) in [30_000, 10_000, 1_000, 20, 1, 0].into_iter().enumerate() {
            assert_eq!(timers.pop_due(due - Duration::from_millis(before) - Duration::from_nanos(1)), None);
            timers.insert(due, item);
            timers.insert(due + Duration::from_nanos(1), 100 + item);
        }
        let fired: Vec<usize> = std::iter::from_fn(|| timers.pop_due(due)).map(|(_, item)| item).collect();
        assert_eq!(fired, [0, 1, 2, 3, 4, 5]);
        assert_eq!(timers.len(), 6);
    }

    /// As a worker does it, which asks for the next due time once a turn, after each cancel at worst.
    #[test]
    fn thousands_of_timers_cost_so_much_each_whatever_their_order() {
        const COUNT: u64 = 16_384;
        let mut rng = Rng::new(7);
        let second = 1_000_000_000;
        let dues: [(&str, Vec<u64>); 5] = [
            ("equal", vec![5 * second; COUNT as usize]),
            ("rising", (0..COUNT).map(|at| 5 * second + at * 100).collect()),
            ("falling", (0..COUNT).rev().map(|at| 5 * second + at * 100).collect()),
            ("in one slot", (0..COUNT).map(|_| 5 * second + rng.below(1000)).collect()),
            ("all over", (0..COUNT).map(|_| rng.below(60 * second)).collect()),
        ];
        for (name, dues) in dues {
            for order in ["fires", "first to last", "last to first", "at random"] {
                let mut timers = Timers::new(NOW);
                let due = |at: &u64| NOW + Duration::from_nanos(*at);
                let mut ids: Vec<TimerId> = dues.iter().map(|at| timers.insert(due(at), ())).collect();
                match order {
                    "last to first" => ids.reverse(),
                    "at random" => {
                        (1..ids.len()).for_each(|at| ids.swap(at, rng.below(at as u64 + 1) as usize))
                    }
                    _ => {}
                }
                if order == "fires" {
                    while !timers.is_empty() {
                        let due = timers.next_due();
                        assert!(timers.pop_due(due).is_some());
                    }
                } else {
                    for id in ids {
                        assert!(timers.cancel(id));
                        timers.next_due();
                    }
                }
                assert!(timers.is_empty());
                let each = timers.steps.get() / COUNT;
                assert!(each <= 60, "{name}, {order}: {each} steps for each");
            }
        }
    }

    #[test]
    fn a_past_due_time_fires_at_once_and_before_later_ones() {
        let mut timers = Timers::new(NOW);
        timers.insert(NOW, "now");
        timers.insert(Instant::ZERO, "zero");
        timers.insert(NOW - Duration::from_secs(1), "a second ago");
        let fired: Vec<&str> = std::iter::from_fn(|| timers.pop_due(NOW)).map(|(_, item)| item).collect();
        assert_eq!(fired, ["zero", "a second ago", "now"]);
    }

    #[test]
    fn the_far_future_is_not_special() {
        let mut timers = Timers::new(Instant::ZERO);
        let last = Instant::from_nanos(u64::MAX - 1);
        let id = timers.insert(Instant::FAR_FUTURE, 2);
        timers.insert(last, 1);
        assert_eq!(timers.next_due(), last);
        assert_eq!(timers.pop_due(NOW), None);
        assert_eq!(timers.pop_due(last), Some((last, 1)));
        assert_eq!(timers.pop_due(last), None);
        assert!(timers.cancel(id));
    }

    #[test]
    fn an_id_names_one_timer_only() {
        let mut timers = Timers::new(NOW);
        let first = timers.insert(NOW, 1);
        assert!(timers.cancel(first));
        assert!(!timers.cancel(first));
        let second = timers.insert(NOW, 2);
        assert!(!timers.cancel(first), "its place was given to another");
        assert_eq!(timers.pop_due(NOW), Some((NOW, 2)));
        assert!(!timers.cancel(second), "it has fired");
    }

    #[test]
    fn warmed_timers_allocate_no_more() {
        let mut timers = Timers::new(NOW);
        let mut rng = Rng::new(5);
        let mut now = NOW;
        let mut capacity = 0;
        for round in 0..20 {
            for item in 0..1000 {
                timers.insert(now + rng.duration_up_to(Duration::from_secs(30)), item);
            }
            now += Duration::from_secs(31);
            while timers.pop_due(now).is_some() {}
            assert!(timers.is_empty());
            if round == 0 {
                capacity = timers.entries.capacity();
            }
        }
        assert_eq!(timers.entries.capacity(), capacity);
    }

    #[test]
    fn many_timers_cost_little_each() {
        // Work that grows with the square of the number would take minutes here.
        let mut timers = Timers::new(NOW);
        let mut rng = Rng::new(6);
        let ids: Vec<TimerId> = (0..200_000)
            .map(|item| timers.insert(NOW + rng.duration_up_to(Duration::from_secs(30)), item))
            .collect();
        // Cancelled in no order of time; the deadline is asked for every time.
        for id in &ids[..100_000] {
            timers.next_due();
            assert!(timers.cancel(*id));
        }
        let mut last = Instant::ZERO;
        while let Some((due, _)) = timers.pop_due(NOW + Duration::from_secs(15)) {
            assert!(last <= due);
            last = due;
        }
        let mut in_order = Vec::new();
        while let Some((due, item)) = timers.pop_due(Instant::FAR_FUTURE) {
            in_order.push((due, item));
        }
        let ids: Vec<TimerId> = in_order.iter().map(|(due, item)| timers.insert(*due, *item)).collect();
        for (id, (due, _)) in ids.iter().zip(&in_order) {
            assert_eq!(timers.next_due(), *due);
            assert!(timers.cancel(*id));
        }
    }

    #[derive(Clone, Debug)]
    enum Step {
        Insert { due_ns: u64 },
        InsertAgain { due_of: usize },
        Cancel { which: usize },
        Pop { up_to: usize },
        Jump { by_ns: u64 },
    }

    fn step() -> impl Strategy<Value = Step> {
        let delay_ns = prop_oneof![
            0..10u64,
            0..10_000u64,
            0..1_000_000u64,
            0..200_000_000u64,
            0..40_000_000_000u64,
            0..10_000_000_000_000u64,
            Just(u64::MAX / 2),
        ];
        prop_oneof![
            6 => delay_ns.clone().prop_map(|due_ns| Step::Insert { due_ns }),
            2 => any::<usize>().prop_map(|due_of| Step::InsertAgain { due_of }),
            2 => any::<usize>().prop_map(|which| Step::Cancel { which }),
            3 => (0..8usize).prop_map(|up_to| Step::Pop { up_to }),
            3 => delay_ns.prop_map(|by_ns| Step::Jump { by_ns: by_ns / 2 }),
        ]
    }

    proptest! {
        #[test]
        fn the_wheel_does_what_a_sorted_map_does(
            start in prop_oneof![Just(0), Just(NOW.as_nanos()), any::<u64>()],
            ask_often in any::<bool>(),
            steps in proptest::collection::vec(step(), 1..400),
        ) {
            let mut now = Instant::from_nanos(start);
            let mut timers = Timers::new(now);
            let mut model: BTreeMap<(Instant, usize), usize> = BTreeMap::new();
            let mut ids: HashMap<usize, (TimerId, Instant)> = HashMap::new();
            for (ordinal, step) in steps.into_iter().enumerate() {
                let mut insert = None;
                match step {
                    Step::Insert { due_ns } => {
                        // Some are past.
                        let late = Duration::from_nanos(due_ns % 7 * 1000);
                        insert = Some(now + Duration::from_nanos(due_ns) - late);
                    }
                    Step::InsertAgain { due_of } => {
                        let nth = due_of % model.len().max(1);
                        insert = Some(model.keys().nth(nth).map_or(now, |(due, _)| *due));
                    }
                    Step::Cancel { which } => {
                        // Of all that were ever inserted, so that old ids are tried too; often the first.
                        let first = model.keys().next().map(|(_, item)| *item);
                        let which = if which % 3 == 0 { first } else { Some(which % (ordinal + 1)) };
                        if let Some((id, due)) = which.and_then(|which| ids.get(&which)) {
                            let item = which.expect("it was looked up");
                            prop_assert_eq!(timers.cancel(*id), model.remove(&(*due, item)).is_some());
                        }
                    }
                    Step::Pop { up_to } => {
                        for _ in 0..up_to {
                            let expected = model.first_key_value().map(|(key, _)| *key).filter(|key| key.0 <= now);
                            prop_assert_eq!(timers.pop_due(now), expected);
                            match expected {
                                Some(key) => model.remove(&key),
                                None => break,
                            };
                        }
                    }
                    Step::Jump { by_ns } => now += Duration::from_nanos(by_ns),
                }
                if let Some(due) = insert {
                    ids.insert(ordinal, (timers.insert(due, ordinal), due));
                    model.insert((due, ordinal), ordinal);
                }
                if ask_often || ordinal % 16 == 0 {
                    let first = model.keys().next().map_or(Instant::FAR_FUTURE, |(due, _)| *due);
                    prop_assert_eq!(timers.next_due(), first);
                }
                prop_assert_eq!(timers.len(), model.len());
            }
            while let Some((key, _)) = model.pop_first() {
                prop_assert_eq!(timers.pop_due(Instant::FAR_FUTURE), Some(key));
            }
            prop_assert_eq!(timers.pop_due(Instant::FAR_FUTURE), None);
        }
    }
}
