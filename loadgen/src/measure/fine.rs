//! Tenths of a second: what a chart needs around a fault, so that the cause stands before its effect.
//!
//! Kept always, for nobody knows beforehand when a fault will be flipped by hand. That must be cheap: latencies go into
//! 1,025 buckets of 1/32 of an octave, which is 1.6 % off at most, and a second costs a worker 82 KiB that are used again.

use fracas_dataplane::behavior::{Kind, Seen};

use super::histogram::DecodeError;
use super::quantile::Quantile;
use super::sample::{ErrorKind, Outcome};

/// Bins of a second.
pub const TENTHS: usize = 10;
/// The length of a bin in nanoseconds.
pub const TENTH_NS: u64 = 100_000_000;
/// Buckets of an octave, as a power of two.
const SUB_BITS: u32 = 5;
/// Below 2¹⁰ ns, about a microsecond, all values are alike.
const LOWEST_BITS: u32 = 10;
/// At 2⁴² ns, more than an hour, the last bucket ends.
const HIGHEST_BITS: u32 = 42;
const BUCKETS: usize = 1 + ((HIGHEST_BITS - LOWEST_BITS) << SUB_BITS) as usize;

/// What a failed request looked like from this side: faults of a proxy are told apart from others by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Failure {
    /// A reply that says no: HTTP 4xx and 5xx.
    Refused,
    /// The connection could not be made, or ended before the reply did.
    Cut,
    /// A reply that is none.
    Garbled,
    /// No reply in time.
    Silent,
}

impl Failure {
    /// How many there are.
    pub const COUNT: usize = 4;

    /// All, in the order of their index.
    pub const ALL: [Failure; Failure::COUNT] =
        [Failure::Refused, Failure::Cut, Failure::Garbled, Failure::Silent];

    /// As written on the wire.
    pub const fn name(self) -> &'static str {
        match self {
            Failure::Refused => "refused",
            Failure::Cut => "cut",
            Failure::Garbled => "garbled",
            Failure::Silent => "silent",
        }
    }

    /// What the client of a proxy must see of a behavior; `None` of one that is no failure by itself. `has_replies`
    /// says whether the proxy knows the protocol, and so can send an error of it.
    pub fn of_behavior(behavior: &str, has_replies: bool) -> Option<Failure> {
        Some(match Kind::find(behavior)?.client.failure? {
            Seen::Error if has_replies => Failure::Refused,
            Seen::Error => Failure::Garbled,
            Seen::Cut => Failure::Cut,
            Seen::Silence => Failure::Silent,
        })
    }

    /// That of an outcome; `None` for what did not fail, or is not known to have.
    pub(super) fn of(outcome: Outcome) -> Option<Failure> {
        Some(match outcome {
            Outcome::Ok | Outcome::Censored => return None,
            Outcome::Timeout => Failure::Silent,
            Outcome::Error(kind) => match kind {
                ErrorKind::Status4xx | ErrorKind::Status5xx => Failure::Refused,
                ErrorKind::Parse | ErrorKind::Mismatch => Failure::Garbled,
                ErrorKind::ConnectRefused
                | ErrorKind::ConnectTimeout
                | ErrorKind::ConnectFailed
                | ErrorKind::Reset
                | ErrorKind::EndedEarly
                | ErrorKind::Io => Failure::Cut,
            },
        })
    }
}

/// Times of which a tenth keeps the longest only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Longest {
    /// Lag of a request that was due in it.
    Lag,
    /// The generator's own part of the response of a request that was due in it.
    Own,
    /// A turn of a worker's loop that should have come in it was so late.
    Stall,
}

impl Longest {
    /// How many there are.
    pub const COUNT: usize = 3;
    /// What the wire can hold: more than two years.
    const HIGHEST_NS: u64 = (1 << 56) - 1;
}

/// Latencies in coarse buckets, without the zeros.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Coarse {
    /// (bucket, how many), rising.
    counts: Vec<(u16, u64)>,
}

impl Coarse {
    /// How many values.
    pub fn count(&self) -> u64 {
        self.counts.iter().fold(0, |sum, (_, count)| sum.saturating_add(*count))
    }

    /// The value at or below which this share of the values lies, 1.6 % off at most; 0 of none.
    pub fn quantile(&self, quantile: Quantile) -> u64 {
        let rank = quantile.rank(self.count());
        let mut seen = 0;
        let found = self.counts.iter().find(|(_, count)| {
            seen += count;
            seen >= rank
        });
        found.map_or(0, |(bucket, _)| middle_of(*bucket))
    }

    /// The largest value, 1.6 % off at most; 0 of none.
    pub fn max(&self) -> u64 {
        self.counts.last().map_or(0, |(bucket, _)| middle_of(*bucket))
    }

    /// All values added up, 1.6 % off at most.
    pub fn sum(&self) -> u64 {
        let parts = self.counts.iter().map(|(bucket, count)| middle_of(*bucket).saturating_mul(*count));
        parts.fold(0, u64::saturating_add)
    }

    /// Values above `bound_ns`, as the buckets have them.
    pub fn count_above(&self, bound_ns: u64) -> u64 {
        self.counts.iter().filter(|(bucket, _)| middle_of(*bucket) > bound_ns).map(|(_, count)| count).sum()
    }

    /// Adds the counts of another.
    pub fn merge(&mut self, other: &Coarse) {
        for (bucket, count) in &other.counts {
            match self.counts.binary_search_by_key(bucket, |(bucket, _)| *bucket) {
                Ok(at) => self.counts[at].1 = self.counts[at].1.saturating_add(*count),
                Err(at) => self.counts.insert(at, (*bucket, *count)),
            }
        }
    }

    fn of(dense: &[u32]) -> Coarse {
        let counts = dense.iter().enumerate().filter(|(_, count)| **count > 0);
        Coarse { counts: counts.map(|(bucket, count)| (bucket as u16, u64::from(*count))).collect() }
    }
}

fn bucket_of(value_ns: u64) -> usize {
    if value_ns < 1 << LOWEST_BITS {
        return 0;
    }
    let octave = value_ns.ilog2();
    let within = (value_ns >> (octave - SUB_BITS)) as usize & ((1 << SUB_BITS) - 1);
    (1 + (((octave - LOWEST_BITS) as usize) << SUB_BITS) + within).min(BUCKETS - 1)
}

fn middle_of(bucket: u16) -> u64 {
    let Some(place) = bucket.checked_sub(1) else { return 1 << (LOWEST_BITS - 1) };
    let (octave, within) = (u32::from(place >> SUB_BITS) + LOWEST_BITS, u64::from(place) % (1 << SUB_BITS));
    let width = 1 << (octave - SUB_BITS);
    ((1 << SUB_BITS) + within) * width + width / 2
}

/// A tenth of a second: requests by when they were due, outcomes by when they came.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tenth {
    /// Due in it, warm-up included.
    pub planned: u64,
    /// Good replies that came in it, warm-up included.
    pub ok: u64,
    /// Failures and timeouts that came in it, warm-up included.
    pub failed: u64,
    /// What became of those due in it that failed, by [`Failure`].
    pub failures: [u64; Failure::COUNT],
    /// Of the [`Failure::Silent`] among them, those that waited for a connection for half of their time or longer: what
    /// held the connections made them, not what their own exchange met.
    pub queued: u64,
    /// Of the [`Failure::Silent`] among them, those of which half of the wait or more was the generator's own part: it made
    /// them. None of these is among the `queued`.
    pub own: u64,
    /// The longest of three times, in nanoseconds, exact: see [`Longest`].
    pub longest: [u64; Longest::COUNT],
    /// Response of those due in it that were answered well.
    pub good: Coarse,
    /// Response of the others due in it: failed, timed out, or unanswered at the end.
    pub bad: Coarse,
}

impl Tenth {
    /// True when nothing happened in it.
    pub fn is_empty(&self) -> bool {
        *self == Tenth::default()
    }

    /// What became of those due in it that failed, by [`Failure`], without those that the generator made itself.
    pub fn failures_not_own(&self) -> [u64; Failure::COUNT] {
        let mut failures = self.failures;
        failures[Failure::Silent as usize] -= self.own_failures();
        failures
    }

    /// Those due in it that the generator made time out itself; what comes over the wire may say more than timed out.
    pub fn own_failures(&self) -> u64 {
        self.own.min(self.failures[Failure::Silent as usize])
    }

    /// Adds another part of the same tenth.
    pub fn merge(&mut self, other: &Tenth) {
        for (ours, theirs) in self.counts_mut().into_iter().zip(other.counts()) {
            *ours = ours.saturating_add(theirs);
        }
        for (ours, theirs) in self.longest.iter_mut().zip(other.longest) {
            *ours = (*ours).max(theirs);
        }
        self.good.merge(&other.good);
        self.bad.merge(&other.bad);
    }

    fn counts(&self) -> [u64; 5 + Failure::COUNT] {
        let Tenth { planned, ok, failed, failures: [a, b, c, d], queued, own, .. } = *self;
        [planned, ok, failed, a, b, c, d, queued, own]
    }

    fn counts_mut(&mut self) -> [&mut u64; 5 + Failure::COUNT] {
        let Tenth { planned, ok, failed, failures: [a, b, c, d], queued, own, .. } = self;
        [planned, ok, failed, a, b, c, d, queued, own]
    }

    /// All that it counts, added up.
    pub(super) fn counted(&self) -> u64 {
        let values = [self.good.count(), self.bad.count()];
        self.counts().into_iter().chain(values).fold(0, u64::saturating_add)
    }

    /// Response of all that were due in it.
    pub fn response(&self) -> Coarse {
        let mut all = self.good.clone();
        all.merge(&self.bad);
        all
    }

    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        let counts = [self.planned, self.ok, self.failed].into_iter().chain(self.failures);
        for number in counts.chain([self.queued, self.own]).chain(self.longest) {
            push_number(out, number);
        }
        for coarse in [&self.good, &self.bad] {
            push_number(out, coarse.counts.len() as u64);
            let mut last = 0;
            for (bucket, count) in &coarse.counts {
                push_number(out, u64::from(bucket - last));
                push_number(out, *count);
                last = *bucket;
            }
        }
    }

    /// Reads what `encode` wrote.
    pub(super) fn decode(bytes: &mut &[u8]) -> Result<Tenth, DecodeError> {
        let [planned, ok, failed] = [take_number(bytes)?, take_number(bytes)?, take_number(bytes)?];
        let mut tenth = Tenth { planned, ok, failed, ..Tenth::default() };
        for failures in &mut tenth.failures {
            *failures = take_number(bytes)?;
        }
        [tenth.queued, tenth.own] = [take_number(bytes)?, take_number(bytes)?];
        for longest in &mut tenth.longest {
            *longest = take_number(bytes)?;
        }
        for coarse in [&mut tenth.good, &mut tenth.bad] {
            let mut last = None;
            for _ in 0..take_number(bytes)? {
                let (step, count) = (take_number(bytes)?, take_number(bytes)?);
                let bucket = last.unwrap_or(0_u64).saturating_add(step);
                if bucket >= BUCKETS as u64 || count == 0 || last.is_some() && step == 0 {
                    return Err(DecodeError("buckets out of order"));
                }
                coarse.counts.push((bucket as u16, count));
                last = Some(bucket);
            }
        }
        Ok(tenth)
    }
}

/// Seven bits a byte, the lowest first; the highest bit says that more follow (LEB128).
fn push_number(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

fn take_number(bytes: &mut &[u8]) -> Result<u64, DecodeError> {
    let mut number = 0;
    // Eight bytes hold 56 bits: far above any count.
    for shift in (0..56).step_by(7) {
        let (byte, rest) = bytes.split_first().ok_or(DecodeError("it ends early"))?;
        *bytes = rest;
        number |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok(number);
        }
    }
    Err(DecodeError("a count out of range"))
}

/// A second to record into; nothing is allocated after it was made.
#[derive(Debug)]
pub(super) struct Second {
    counters: [[u64; 5 + Failure::COUNT]; TENTHS],
    longest: [[u64; Longest::COUNT]; TENTHS],
    /// Per tenth, the good and then the bad.
    buckets: Box<[u32]>,
}

impl Default for Second {
    fn default() -> Second {
        Second {
            counters: Default::default(),
            longest: Default::default(),
            buckets: vec![0; TENTHS * 2 * BUCKETS].into_boxed_slice(),
        }
    }
}

impl Second {
    pub(super) fn planned(&mut self, tenth: usize, count: u64) {
        self.counters[tenth][0] += count;
    }

    pub(super) fn ended(&mut self, tenth: usize, outcome: Outcome, count: u64) {
        match outcome {
            Outcome::Ok => self.counters[tenth][1] += count,
            Outcome::Error(_) | Outcome::Timeout => self.counters[tenth][2] += count,
            Outcome::Censored => {}
        }
    }

    /// What became of `count` requests that were due in this tenth.
    pub(super) fn response(&mut self, tenth: usize, outcome: Outcome, value_ns: u64, count: u64) {
        let is_good = outcome == Outcome::Ok;
        if let Some(failure) = Failure::of(outcome) {
            self.counters[tenth][5 + failure as usize] += count;
        }
        let bucket = &mut self.buckets[(tenth * 2 + usize::from(!is_good)) * BUCKETS + bucket_of(value_ns)];
        *bucket = bucket.saturating_add(u32::try_from(count).unwrap_or(u32::MAX));
    }

    /// Requests that were due in this tenth timed out, and waited for a connection for half of their time or longer.
    pub(super) fn queued(&mut self, tenth: usize, count: u64) {
        self.counters[tenth][3] += count;
    }

    /// Requests that were due in this tenth timed out, and half of their wait or more was the generator's own part.
    pub(super) fn own(&mut self, tenth: usize, count: u64) {
        self.counters[tenth][4] += count;
    }

    /// One of the times of which the longest is kept.
    pub(super) fn longest(&mut self, tenth: usize, which: Longest, value_ns: u64) {
        let longest = &mut self.longest[tenth][which as usize];
        *longest = (*longest).max(value_ns.min(Longest::HIGHEST_NS));
    }

    /// Hands over and forgets what was recorded; the memory stays.
    pub(super) fn take(&mut self) -> [Tenth; TENTHS] {
        let taken = std::array::from_fn(|tenth| {
            let [planned, ok, failed, queued, own, failures @ ..] = self.counters[tenth];
            let at = |part: usize| &self.buckets[(tenth * 2 + part) * BUCKETS..][..BUCKETS];
            let (longest, good, bad) = (self.longest[tenth], Coarse::of(at(0)), Coarse::of(at(1)));
            Tenth { planned, ok, failed, failures, queued, own, longest, good, bad }
        });
        self.counters = Default::default();
        self.longest = Default::default();
        self.buckets.fill(0);
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_ends_of_the_range_have_buckets() {
        assert_eq!((bucket_of(0), bucket_of(1023), bucket_of(1024)), (0, 0, 1));
        assert_eq!(bucket_of(u64::MAX), BUCKETS - 1);
        assert_eq!(bucket_of((1 << HIGHEST_BITS) - 1), BUCKETS - 1);
        assert!(middle_of(BUCKETS as u16 - 1) > super::super::histogram::HIGHEST_NS);
    }

    #[test]
    fn a_second_hands_over_what_was_recorded_and_is_empty_again() {
        let mut second = Second::default();
        second.planned(3, 1);
        second.ended(4, Outcome::Ok, 1);
        second.ended(4, Outcome::Timeout, 1);
        second.ended(4, Outcome::Censored, 1);
        second.ended(4, Outcome::Error(ErrorKind::Status5xx), 1);
        second.response(3, Outcome::Ok, 5_000_000, 1);
        second.response(3, Outcome::Error(ErrorKind::Status5xx), 90_000_000, 1);
        second.queued(5, 1);
        second.own(6, 2);
        [7, 9, 8].into_iter().for_each(|ns| second.longest(5, Longest::Own, ns));
        second.longest(5, Longest::Stall, u64::MAX);
        let taken = second.take();
        assert_eq!((taken[3].planned, taken[3].good.count(), taken[3].bad.count()), (1, 1, 1));
        assert_eq!((taken[4].ok, taken[4].failed, taken[3].failures), (1, 2, [1, 0, 0, 0]));
        assert_eq!(taken[3].response().count_above(50_000_000), 1);
        assert_eq!((taken[5].queued, taken[5].longest), (1, [0, 9, Longest::HIGHEST_NS]));
        assert_eq!((taken[6].own, taken[5].own), (2, 0));
        assert!(second.take().iter().all(Tenth::is_empty));
    }

    #[test]
    fn every_kind_of_error_is_a_failure() {
        for kind in ErrorKind::ALL {
            assert!(Failure::of(Outcome::Error(kind)).is_some(), "{}", kind.name());
        }
    }

    proptest! {
        #[test]
        fn a_value_is_kept_to_two_per_cent(value in 1_024_u64..3_600_000_000_000) {
            let kept = middle_of(bucket_of(value) as u16);
            prop_assert!(kept.abs_diff(value) as f64 <= 0.016 * value as f64, "{value} {kept}");
        }

        #[test]
        fn merging_equals_recording_together(a in prop::collection::vec(any::<u64>(), 0..50), b in prop::collection::vec(any::<u64>(), 0..50)) {
            let record = |values: &[u64]| {
                let mut second = Second::default();
                values.iter().for_each(|value| second.response(0, Outcome::Ok, value >> 20, 1));
                let [first, ..] = second.take();
                first.good
            };
            let mut merged = record(&a);
            merged.merge(&record(&b));
            prop_assert_eq!(merged, record(&[a, b].concat()));
        }
    }
}
