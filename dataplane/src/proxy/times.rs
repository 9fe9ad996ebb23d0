//! Times as counts by size: written by one thread, read by any, without a lock and without the writer's help.
//!
//! ```text
//!   0 … 2 µs        32 steps of 64 ns
//!   2 µs … 73 min   31 octaves (from 2,048 ns, each twice as long as the one before), each of 32 equal steps
//! ```
//! A step is at most 1/32 of its values wide, and a percentile names its middle: it is off by at most 1.6 %, or 32 ns
//! below 2 µs. The smallest, the largest and the sum are exact. What is longer counts as the longest.

use std::sync::atomic::{AtomicU64, Ordering};

use hdrhistogram::Histogram;

use crate::ring::Words;

/// Steps of one octave, and of the linear part below the first.
const STEPS: usize = 32;
const STEP_BITS: u32 = STEPS.trailing_zeros();
/// The first octave begins at 2^11 ns, the last ends at 2^42 ns, above an hour.
const FIRST_OCTAVE: u32 = 11;
const OCTAVES: usize = 31;
/// Counters of one recorder, each 8 bytes, so that none overflows in the life of a process.
const COUNTERS: usize = STEPS * (OCTAVES + 1);
/// The longest time that is told apart, in nanoseconds; longer ones count as this long.
const LONGEST_NS: u64 = (1 << (FIRST_OCTAVE + OCTAVES as u32)) - 1;

/// Bytes that the counters of one recorder take once times of every size have come. The kernel gives the pages when
/// they are first written, so that a recorder without times takes none.
pub const TIMES_BYTES_MAX: usize = COUNTERS * size_of::<u64>();

/// Counts times. One thread records; any thread reads while it does.
#[derive(Debug)]
pub struct Recorder {
    /// The smallest plus one; 0: none yet.
    smallest: AtomicU64,
    largest: AtomicU64,
    sum: AtomicU64,
    counters: Words,
}

impl Default for Recorder {
    fn default() -> Recorder {
        Recorder::new()
    }
}

impl Recorder {
    /// One that has counted nothing.
    ///
    /// # Panics
    /// When the address space is exhausted.
    pub fn new() -> Recorder {
        let [smallest, largest, sum] = [0; 3].map(AtomicU64::new);
        Recorder { smallest, largest, sum, counters: Words::new(COUNTERS) }
    }

    /// Counts one time in nanoseconds. Allocates nothing, and is called by one thread only.
    pub fn record(&self, nanoseconds: u64) {
        let time = nanoseconds.min(LONGEST_NS);
        let smallest = self.smallest.load(Ordering::Relaxed);
        if smallest == 0 || time < smallest - 1 {
            self.smallest.store(time + 1, Ordering::Release);
        }
        if time > self.largest.load(Ordering::Relaxed) {
            self.largest.store(time, Ordering::Release);
        }
        // One writer: plain additions, whose results others may read.
        self.sum.store(self.sum.load(Ordering::Relaxed).wrapping_add(time), Ordering::Relaxed);
        // Last, and released: who sees the count sees the bounds that belong to it.
        let counter = &self.counters[step_of(time)];
        counter.store(counter.load(Ordering::Relaxed) + 1, Ordering::Release);
    }

    /// What was counted so far.
    pub fn read(&self) -> Times {
        let [smallest, largest_ns, sum_ns] =
            [&self.smallest, &self.largest, &self.sum].map(|word| word.load(Ordering::Acquire));
        let Some(smallest_ns) = smallest.checked_sub(1) else { return Times::default() };
        // Most times are much alike: only the steps between the extremes are looked at. One that comes meanwhile may
        // be missed, and is there the next time.
        let steps = step_of(smallest_ns)..=step_of(largest_ns.max(smallest_ns));
        let counters = self.counters[steps.clone()].iter().zip(steps);
        let counts: Vec<(u16, u64)> = counters
            .map(|(count, step)| (step as u16, count.load(Ordering::Acquire)))
            .filter(|(_, count)| *count > 0)
            .collect();
        if counts.is_empty() { Times::default() } else { Times { counts, smallest_ns, largest_ns, sum_ns } }
    }
}

/// Times that were counted, in nanoseconds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Times {
    /// Steps with their counts, the shortest first, none of them 0.
    counts: Vec<(u16, u64)>,
    smallest_ns: u64,
    largest_ns: u64,
    sum_ns: u64,
}

impl Times {
    /// How many there are.
    pub fn len(&self) -> u64 {
        self.counts.iter().map(|(_, count)| count).sum()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.counts.is_empty()
    }

    /// The shortest, exactly; 0 if there is none.
    pub fn min(&self) -> u64 {
        self.smallest_ns
    }

    /// The longest, exactly (up to 73 minutes); 0 if there is none.
    pub fn max(&self) -> u64 {
        self.largest_ns
    }

    /// All together.
    pub fn sum(&self) -> u64 {
        self.sum_ns
    }

    /// The time that `parts` of `of` do not exceed, such as 999 of 1,000: by its rank among all, counted in whole
    /// numbers, off by at most 1.6 %. 0 if there is none.
    pub fn quantile(&self, parts: u64, of: u64) -> u64 {
        let rank = (u128::from(self.len()) * u128::from(parts)).div_ceil(u128::from(of.max(1))).max(1);
        let mut below = 0;
        let found = self.counts.iter().find(|(_, count)| {
            below += u128::from(*count);
            below >= rank
        });
        // The extremes are known exactly, and no time lies beyond them.
        found.or(self.counts.last()).map_or(0, |(step, _)| self.within(middle(*step)))
    }

    /// Adds the times of another.
    pub fn add(&mut self, other: &Times) {
        if other.is_empty() {
            return;
        }
        self.smallest_ns =
            if self.is_empty() { other.smallest_ns } else { self.smallest_ns.min(other.smallest_ns) };
        self.largest_ns = self.largest_ns.max(other.largest_ns);
        self.sum_ns = self.sum_ns.wrapping_add(other.sum_ns);
        for (step, count) in &other.counts {
            match self.counts.binary_search_by_key(step, |(step, _)| *step) {
                Ok(place) => self.counts[place].1 += count,
                Err(place) => self.counts.insert(place, (*step, *count)),
            }
        }
    }

    /// As a histogram of the `hdrhistogram` crate, three digits, up to 73 minutes: each time as the middle of its step.
    pub fn to_hdr(&self) -> Histogram<u64> {
        let mut histogram = Histogram::new(3).expect("three digits are supported");
        for (step, count) in &self.counts {
            histogram.record_n(self.within(middle(*step)), *count).expect("it grows with its values");
        }
        histogram
    }

    fn within(&self, time: u64) -> u64 {
        time.clamp(self.smallest_ns, self.largest_ns.max(self.smallest_ns))
    }
}

/// Which step a time counts in.
fn step_of(time: u64) -> usize {
    let octave = 63 - (time | 1).leading_zeros();
    if octave < FIRST_OCTAVE {
        return (time >> (FIRST_OCTAVE - STEP_BITS)) as usize;
    }
    let within = (time >> (octave - STEP_BITS)) as usize & (STEPS - 1);
    (octave - FIRST_OCTAVE + 1) as usize * STEPS + within
}

/// The middle of a step's times.
fn middle(step: u16) -> u64 {
    let (row, within) = (u32::from(step) / STEPS as u32, u64::from(step) % STEPS as u64);
    let (base, width_bits) = match row {
        0 => (0, FIRST_OCTAVE - STEP_BITS),
        row => (1 << (FIRST_OCTAVE + row - 1), FIRST_OCTAVE + row - 1 - STEP_BITS),
    };
    base + (within << width_bits) + (1 << width_bits) / 2
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_time_counts_in_the_step_whose_middle_is_near_it() {
        let mut time = 0u64;
        while time < LONGEST_NS {
            let step = step_of(time);
            let off = middle(step as u16).abs_diff(time);
            assert!(off <= 32.max(time / 64 + 1), "{time} counts as {}", middle(step as u16));
            assert!(
                step_of(time + 1) == step || step_of(time + 1) == step + 1,
                "no step is skipped at {time}"
            );
            time += 1 + time / 97;
        }
        assert_eq!((step_of(0), step_of(LONGEST_NS)), (0, COUNTERS - 1));
    }

    #[test]
    fn percentiles_of_a_million_times_from_a_microsecond_to_an_hour_are_within_the_error_that_is_stated() {
        let recorder = Recorder::new();
        let mut times: Vec<u64> =
            (0..1_000_000u32).map(|i| (1e3 * 3.6e9f64.powf(f64::from(i) / 999_999.0)) as u64).collect();
        times.iter().rev().for_each(|time| recorder.record(*time));
        times.sort_unstable();
        let read = recorder.read();
        assert_eq!((read.len(), read.min(), read.max()), (1_000_000, times[0], times[999_999]));
        assert_eq!(read.sum(), times.iter().sum::<u64>());
        for (parts, of) in [(0, 1), (1, 4), (1, 2), (90, 100), (95, 100), (99, 100), (999, 1000), (1, 1)] {
            let rank = (1_000_000 * parts as usize).div_ceil(of as usize).max(1);
            let (got, exact) = (read.quantile(parts, of), times[rank - 1]);
            assert!(got.abs_diff(exact) <= exact / 64 + 32, "{parts}/{of}: {got} is not {exact}");
        }
        let hdr = read.to_hdr();
        assert_eq!(hdr.len(), 1_000_000);
        assert!(hdr.value_at_quantile(0.5).abs_diff(read.quantile(1, 2)) <= read.quantile(1, 2) / 500);
    }

    #[test]
    fn ranks_of_few_times_are_whole_numbers_and_one_time_is_exact() {
        let recorder = Recorder::new();
        assert_eq!((recorder.read().quantile(1, 2), recorder.read().len()), (0, 0));
        recorder.record(200_000_000);
        assert_eq!(recorder.read().quantile(1, 2), 200_000_000);
        let recorder = Recorder::new();
        (1..=10).for_each(|time| recorder.record(time * 1_000_000));
        // 0.9 × 10 is 9.000000000000002 to a computer that counts in fractions.
        let read = recorder.read();
        assert!(read.quantile(9, 10).abs_diff(9_000_000) < 9_000_000 / 64);
        assert_eq!((read.quantile(99, 100), read.quantile(0, 1)), (10_000_000, read.quantile(1, 10)));
    }

    #[test]
    fn times_added_up_are_what_one_recorder_would_have_counted() {
        let (a, b, both) = (Recorder::new(), Recorder::new(), Recorder::new());
        for time in 1..5000u64 {
            if time % 3 == 0 { &a } else { &b }.record(time * time * 97);
            both.record(time * time * 97);
        }
        let mut sum = Times::default();
        [a, b].iter().for_each(|part| sum.add(&part.read()));
        sum.add(&Times::default());
        assert_eq!(sum, both.read());
    }

    #[test]
    fn a_time_beyond_the_longest_counts_as_the_longest() {
        let recorder = Recorder::new();
        recorder.record(u64::MAX);
        assert_eq!((recorder.read().max(), recorder.read().len()), (LONGEST_NS, 1));
    }

    #[test]
    fn another_thread_reads_while_one_records() {
        let recorder = Recorder::new();
        std::thread::scope(|scope| {
            scope.spawn(|| (1..=100_000).for_each(|time| recorder.record(time)));
            let mut seen = 0;
            while seen < 100_000 {
                let read = recorder.read();
                assert!(read.len() >= seen && read.max() <= 100_000 && read.quantile(1, 1) <= read.max());
                seen = read.len();
            }
        });
    }
}
