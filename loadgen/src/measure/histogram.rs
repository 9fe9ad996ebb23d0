//! High dynamic range histograms in nanoseconds: 1 ns to 1 h, three significant digits.
//!
//! [`Histogram`] is dense and fast to record into: 264 KiB of counters, of which a run touches a few pages.
//! [`Distribution`] is the same counts without the zeros, for keeping, merging and sending. Both use the
//! buckets of HdrHistogram with these bounds, so merging adds counts and loses nothing.

use hdrhistogram::serialization::{Deserializer, Serializer, V2Serializer};

use super::quantile::{Quantile, Step};

/// The smallest difference that is told apart.
pub const LOWEST_NS: u64 = 1;
/// One hour. Larger values are recorded as this and counted as saturated.
pub const HIGHEST_NS: u64 = 3_600_000_000_000;
/// Values are kept to one part in a thousand.
pub const SIGNIFICANT_DIGITS: u8 = 3;
/// What an uncompressed V2 payload begins with, and how long its header is (HdrHistogram,
/// `AbstractHistogram.encodeIntoByteBuffer`).
const V2_COOKIE: u32 = 0x1c84_9313;
const V2_HEADER_BYTES: usize = 40;
/// Buckets below this are one nanosecond wide: the power of two at or above 2 × 10³.
const SUB_BUCKET_BITS: u32 = 11;

/// A histogram to record into. Never refuses a value.
#[derive(Clone, Debug)]
pub struct Histogram {
    counts: hdrhistogram::Histogram<u64>,
    saturated: u64,
}

impl Default for Histogram {
    fn default() -> Histogram {
        Histogram { counts: empty(), saturated: 0 }
    }
}

impl Histogram {
    /// Counts one value.
    pub fn record(&mut self, value_ns: u64) {
        self.record_many(value_ns, 1);
    }

    /// Counts one value so many times.
    pub fn record_many(&mut self, value_ns: u64, count: u64) {
        self.saturated += if value_ns > HIGHEST_NS { count } else { 0 };
        self.counts.saturating_record_n(value_ns.min(HIGHEST_NS), count);
    }

    /// How many values.
    pub fn count(&self) -> u64 {
        self.counts.len()
    }

    /// Forgets all values and keeps the memory.
    pub fn clear(&mut self) {
        self.counts.reset();
        self.saturated = 0;
    }

    /// The counts without the zeros.
    pub fn distribution(&self) -> Distribution {
        if self.counts.is_empty() {
            return Distribution::default();
        }
        let counts: Vec<(u64, u64)> = self
            .counts
            .iter_recorded()
            .map(|step| (step.value_iterated_to(), step.count_at_value()))
            .collect();
        Distribution { total: self.counts.len(), counts, saturated: self.saturated }
    }
}

/// The counts of a histogram, sparse and sorted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Distribution {
    /// (highest value of the bucket, how many), rising, no zeros.
    counts: Vec<(u64, u64)>,
    total: u64,
    saturated: u64,
}

/// A row of a percentile table.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PercentileRow {
    /// Highest value of the bucket.
    pub value_ns: u64,
    /// From 0 to 1.
    pub quantile: f64,
    /// 1 ÷ (1 − quantile); `None` at 1.
    pub one_in: Option<f64>,
    /// Values up to and including the bucket.
    pub total_count: u64,
}

/// Bytes that are not a histogram of this shape.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not measurements of this version: {0}; use the same fracas on every node")]
pub struct DecodeError(pub &'static str);

impl Distribution {
    /// How many values.
    pub fn count(&self) -> u64 {
        self.total
    }

    /// How many values lay above one hour and are counted as one hour.
    pub fn saturated(&self) -> u64 {
        self.saturated
    }

    /// Adds the counts of another. Associative and commutative, so the order of merging never shows.
    pub fn merge(&mut self, other: &Distribution) {
        self.total = self.total.saturating_add(other.total);
        self.saturated = self.saturated.saturating_add(other.saturated);
        if self.counts.is_empty() {
            self.counts.clone_from(&other.counts);
            return;
        }
        let mut merged = Vec::with_capacity(self.counts.len().max(other.counts.len()));
        let (mut ours, mut theirs) = (self.counts.iter().peekable(), other.counts.iter().peekable());
        loop {
            let next = match (ours.peek(), theirs.peek()) {
                (Some(a), Some(b)) if a.0 == b.0 => {
                    let sum = (a.0, a.1.saturating_add(b.1));
                    ours.next();
                    theirs.next();
                    sum
                }
                (Some(a), Some(b)) if a.0 > b.0 => {
                    let next = **b;
                    theirs.next();
                    next
                }
                (Some(a), _) => {
                    let next = **a;
                    ours.next();
                    next
                }
                (None, Some(b)) => {
                    let next = **b;
                    theirs.next();
                    next
                }
                (None, None) => break,
            };
            merged.push(next);
        }
        self.counts = merged;
    }

    /// The sum of several.
    pub fn merged<'a>(parts: impl IntoIterator<Item = &'a Distribution>) -> Distribution {
        // Through a dense histogram: linear in the parts, whatever their number.
        let mut dense = empty();
        let mut saturated = 0;
        for part in parts {
            saturated = part.saturated.saturating_add(saturated);
            for (value, count) in &part.counts {
                dense.saturating_record_n(*value, *count);
            }
        }
        Histogram { counts: dense, saturated }.distribution()
    }

    /// The smallest recorded bucket value at or below which this share of the values lies; 0 when empty.
    pub fn quantile(&self, quantile: Quantile) -> u64 {
        self.at_rank(quantile.rank(self.total))
    }

    /// [`Distribution::quantile`] of a number of per cent.
    pub fn percentile(&self, percent: f64) -> u64 {
        self.quantile(Quantile::from_percent(percent))
    }

    fn at_rank(&self, rank: u64) -> u64 {
        let mut seen = 0;
        for (value, count) in &self.counts {
            seen += count;
            if seen >= rank {
                return *value;
            }
        }
        0
    }

    /// The largest value, to three digits; 0 when empty.
    pub fn max(&self) -> u64 {
        self.counts.last().map_or(0, |(value, _)| *value)
    }

    /// The smallest value, to three digits; 0 when empty.
    pub fn min(&self) -> u64 {
        self.counts.first().map_or(0, |(value, _)| value + 1 - bucket_width(*value))
    }

    /// The mean of the buckets' middles.
    pub fn mean(&self) -> f64 {
        let sum: f64 = self.middles().map(|(middle, count)| middle * count).sum();
        if self.total == 0 { 0.0 } else { sum / self.total as f64 }
    }

    /// The standard deviation of the buckets' middles.
    pub fn standard_deviation(&self) -> f64 {
        let mean = self.mean();
        let sum: f64 = self.middles().map(|(middle, count)| (middle - mean).powi(2) * count).sum();
        if self.total == 0 { 0.0 } else { (sum / self.total as f64).sqrt() }
    }

    /// Values above `bound_ns`.
    pub fn count_above(&self, bound_ns: u64) -> u64 {
        self.counts.iter().filter(|(value, _)| *value > bound_ns).map(|(_, count)| count).sum()
    }

    /// HdrHistogram's percentile table: steps that halve towards 100 %, `ticks` of them per halving. As the reference
    /// has it, the first step that reaches the largest value is followed by 100 %.
    pub fn percentile_rows(&self, ticks: u32) -> Vec<PercentileRow> {
        let mut rows = Vec::new();
        let mut buckets = self.counts.iter();
        let Some(mut bucket) = buckets.next() else { return rows };
        let mut total_count = bucket.1;
        for step in Step::ladder(ticks) {
            while total_count < step.rank(self.total) {
                let Some(next) = buckets.next() else { break };
                (bucket, total_count) = (next, total_count + next.1);
            }
            let (quantile, one_in) = (step.as_f64(), Some(step.one_in()));
            rows.push(PercentileRow { value_ns: bucket.0, quantile, one_in, total_count });
            if total_count >= self.total {
                break;
            }
        }
        rows.push(PercentileRow {
            value_ns: self.max(),
            quantile: 1.0,
            one_in: None,
            total_count: self.total,
        });
        rows
    }

    /// As a histogram of the `hdrhistogram` crate.
    pub fn to_hdr(&self) -> hdrhistogram::Histogram<u64> {
        let mut dense = empty();
        for (value, count) in &self.counts {
            dense.saturating_record_n(*value, *count);
        }
        dense
    }

    /// The HdrHistogram V2 payload (uncompressed). Equal counts give equal bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        V2Serializer::new()
            .serialize(&self.to_hdr(), &mut bytes)
            .expect("a vector takes every byte and the counts fit 63 bits");
        bytes
    }

    /// Reads a V2 payload. `saturated` travels beside it: the format has no place for it.
    ///
    /// # Errors
    /// When the bytes are no V2 payload, or have other bounds than ours: those cannot be merged exactly.
    pub fn decode(bytes: &[u8], saturated: u64) -> Result<Distribution, DecodeError> {
        // The header is checked first: it sizes allocations, as a packed payload would.
        let word = |at: usize| bytes.get(at..at + 4).and_then(|b| b.try_into().ok()).map(u32::from_be_bytes);
        if word(0) != Some(V2_COOKIE) {
            return Err(DecodeError("not a V2 histogram"));
        }
        if word(4).map(|length| length as usize) != bytes.len().checked_sub(V2_HEADER_BYTES) {
            return Err(DecodeError("a histogram of another length"));
        }
        let field = |at: usize| bytes.get(at..at + 8).and_then(|b| b.try_into().ok()).map(u64::from_be_bytes);
        if word(12) != Some(u32::from(SIGNIFICANT_DIGITS))
            || field(16) != Some(LOWEST_NS)
            || field(24) != Some(HIGHEST_NS)
        {
            return Err(DecodeError("a histogram with other bounds"));
        }
        let dense: hdrhistogram::Histogram<u64> = Deserializer::new()
            .deserialize(&mut &bytes[..])
            .map_err(|_| DecodeError("a broken histogram"))?;
        let distribution = Histogram { counts: dense, saturated }.distribution();
        if distribution.counts.last().is_some_and(|(value, _)| *value > HIGHEST_NS + bucket_width(HIGHEST_NS))
        {
            return Err(DecodeError("a histogram beyond its bounds"));
        }
        Ok(distribution)
    }

    fn middles(&self) -> impl Iterator<Item = (f64, f64)> {
        self.counts.iter().map(|(value, count)| {
            let width = bucket_width(*value);
            ((value + 1 - width + width / 2) as f64, *count as f64)
        })
    }
}

impl FromIterator<u64> for Distribution {
    fn from_iter<I: IntoIterator<Item = u64>>(values: I) -> Distribution {
        let mut histogram = Histogram::default();
        values.into_iter().for_each(|value| histogram.record(value));
        histogram.distribution()
    }
}

fn empty() -> hdrhistogram::Histogram<u64> {
    hdrhistogram::Histogram::new_with_bounds(LOWEST_NS, HIGHEST_NS, SIGNIFICANT_DIGITS)
        .expect("1 ≤ low, 2 × low ≤ high and three digits are within the crate's limits")
}

/// How many nanoseconds share a bucket with `value`.
fn bucket_width(value: u64) -> u64 {
    1 << (u64::BITS - value.leading_zeros()).saturating_sub(SUB_BUCKET_BITS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn values() -> impl Strategy<Value = Vec<u64>> {
        // All magnitudes alike, and beyond the range.
        proptest::collection::vec((0_u32..64, any::<u64>()).prop_map(|(shift, v)| v >> shift), 0..200)
    }

    #[test]
    fn beyond_one_hour_is_saturated_and_counted() {
        let all: Distribution = [1, HIGHEST_NS, HIGHEST_NS + 1, u64::MAX].into_iter().collect();
        assert_eq!((all.count(), all.saturated()), (4, 2));
        assert!(all.max() >= HIGHEST_NS && all.max() < HIGHEST_NS + HIGHEST_NS / 1000);
    }

    #[test]
    fn an_empty_distribution_has_zeros_and_no_panic() {
        let none = Distribution::default();
        assert_eq!((none.percentile(99.0), none.max(), none.min(), none.mean()), (0, 0, 0, 0.0));
        assert_eq!(Distribution::decode(&none.encode(), 0), Ok(none));
    }

    #[test]
    fn the_true_percentile_is_within_three_digits() {
        let all: Distribution = (1..=10_000_u64).map(|k| k * 1_000).collect();
        for (percentile, exact) in [(50.0, 5e6), (99.0, 9.9e6), (99.99, 9.999e6), (100.0, 1e7)] {
            let found = all.percentile(percentile) as f64;
            assert!((found / exact - 1.0).abs() < 0.001, "{percentile}: {found}");
        }
    }

    #[test]
    fn the_table_of_percentiles_agrees_with_every_percentile_on_small_counts() {
        for total in 1..=200_u64 {
            let all: Distribution = (1..=total).map(|k| k * k * 1_000_003).collect();
            let rows = all.percentile_rows(5);
            for (quantile, percentile) in [(0.5, 50.0), (0.75, 75.0), (0.9, 90.0), (0.95, 95.0)] {
                // Once the largest value is reached, the table jumps to 100 %.
                let Some(row) = rows.iter().find(|row| row.quantile == quantile) else {
                    assert_eq!(all.percentile(percentile), all.max(), "{percentile} of {total}");
                    continue;
                };
                assert_eq!(row.value_ns, all.percentile(percentile), "{percentile} of {total}");
                let rank = Quantile::from_percent(percentile).rank(total);
                let (sorted, close) = (rank * rank * 1_000_003, rank * rank * 1_001);
                assert!(row.value_ns.abs_diff(sorted) <= close, "{percentile} of {total}: {}", row.value_ns);
            }
            assert_eq!((rows[0].quantile, rows[0].value_ns), (0.0, all.percentile(1e-7)));
            assert_eq!(rows.last().map(|row| (row.value_ns, row.total_count)), Some((all.max(), total)));
        }
        assert_eq!(Distribution::default().percentile_rows(5), []);
    }

    #[test]
    fn a_payload_that_claims_another_length_or_is_packed_is_refused_before_it_is_read() {
        let good: Vec<u8> = [5, 6].into_iter().collect::<Distribution>().encode();
        for claimed in [0, u32::MAX, u32::MAX / 2] {
            let mut bytes = good.clone();
            bytes[4..8].copy_from_slice(&claimed.to_be_bytes());
            let refused = Distribution::decode(&bytes, 0);
            assert_eq!(refused, Err(DecodeError("a histogram of another length")), "{claimed}");
        }
        let mut packed = good;
        packed[3] = 0x14;
        assert_eq!(Distribution::decode(&packed, 0), Err(DecodeError("not a V2 histogram")));
    }

    #[test]
    fn foreign_histograms_are_refused() {
        let other = hdrhistogram::Histogram::<u64>::new_with_bounds(1, 1_000_000, 2).unwrap();
        let mut bytes = Vec::new();
        V2Serializer::new().serialize(&other, &mut bytes).unwrap();
        assert_eq!(Distribution::decode(&bytes, 0), Err(DecodeError("a histogram with other bounds")));
        let good = [5].into_iter().collect::<Distribution>().encode();
        assert!(Distribution::decode(&good[..good.len() - 1], 0).is_err());
        assert!(Distribution::decode(&[], 0).is_err());
    }

    proptest! {
        // Each case fills and scans whole histograms, which unoptimised builds do slowly.
        #![proptest_config(ProptestConfig::with_cases(24))]

        #[test]
        fn merging_equals_recording_together_byte_for_byte(a in values(), b in values(), c in values()) {
            let of = |values: &[u64]| values.iter().copied().collect::<Distribution>();
            let together = of(&[a.clone(), b.clone(), c.clone()].concat());
            let mut forward = of(&a);
            forward.merge(&of(&b));
            forward.merge(&of(&c));
            let mut backward = of(&c);
            backward.merge(&of(&b));
            backward.merge(&of(&a));
            prop_assert_eq!(&forward, &together);
            prop_assert_eq!(&backward, &together);
            prop_assert_eq!(&Distribution::merged([&of(&a), &of(&b), &of(&c)]), &together);
            prop_assert_eq!(forward.encode(), together.encode());
            prop_assert_eq!(backward.encode(), together.encode());
        }

        #[test]
        fn encoding_loses_nothing(values in values()) {
            let all: Distribution = values.into_iter().collect();
            prop_assert_eq!(Distribution::decode(&all.encode(), all.saturated()), Ok(all));
        }

        #[test]
        fn figures_agree_with_the_reference_implementation(values in values(), percentile in 0.1_f64..100.0) {
            let all: Distribution = values.iter().copied().collect();
            let hdr = all.to_hdr();
            prop_assert_eq!(all.percentile(percentile), hdr.value_at_quantile(percentile / 100.0));
            prop_assert_eq!(all.max(), hdr.max());
            if !values.is_empty() {
                let reference = hdr.iter_quantiles(5).map(|step| step.value_iterated_to()).collect::<Vec<_>>();
                let ours = all.percentile_rows(5).iter().map(|row| row.value_ns).collect::<Vec<_>>();
                // The reference sums its steps in floats: one may need a value more, and reach the largest sooner.
                prop_assert_eq!((ours.first(), ours.last()), (reference.first(), reference.last()));
                prop_assert!(ours.len().abs_diff(reference.len()) <= 1, "{ours:?} {reference:?}");
            }
            prop_assert!((all.mean() - hdr.mean()).abs() <= 1e-9 * hdr.mean());
            prop_assert!((all.standard_deviation() - hdr.stdev()).abs() <= 1e-6 * hdr.stdev().max(1.0));
        }

        #[test]
        fn damaged_bytes_never_panic(mut bytes in values().prop_map(|v| v.into_iter().collect::<Distribution>().encode()), at in any::<prop::sample::Index>(), value in any::<u8>()) {
            let at = at.index(bytes.len());
            bytes[at] = value;
            let _ = Distribution::decode(&bytes, 0);
        }
    }
}
