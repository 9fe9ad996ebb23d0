//! One second of a run, and the run as a line of them: what workers hand over, nodes send and reports read.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::fine::{TENTHS, Tenth};
use super::histogram::{DecodeError, Distribution};
use super::own::Own;
use super::sample::{ErrorKind, OutcomeClass};

/// What became of requests. `planned`, `sent` and `dropped` count in the second a request was due; the four
/// outcomes in the second it ended. Over a whole run both laws of [`Counts::check`] hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Requests that were due.
    pub planned: u64,
    /// Handed to the kernel.
    pub sent: u64,
    /// Complete replies.
    pub ok: u64,
    /// Failures.
    pub error: u64,
    /// No reply in time.
    pub timeout: u64,
    /// In flight at the end.
    pub censored: u64,
    /// Never sent: too late by policy, or still waiting at the end.
    pub dropped: u64,
    /// Of the dropped, those still waiting for a connection at the end; their age is in `response`.
    #[serde(default)]
    pub unsent: u64,
}

/// A law of conservation is broken: requests were lost or counted twice, which is a bug.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Imbalance {
    /// The first law.
    #[error("planned {planned} is not sent {sent} + dropped {dropped}; report this as a bug")]
    Planned {
        /// Due.
        planned: u64,
        /// Sent.
        sent: u64,
        /// Never sent.
        dropped: u64,
    },
    /// The second law.
    #[error("sent {sent} is not the {ended} that ended; report this as a bug")]
    Sent {
        /// Sent.
        sent: u64,
        /// ok + error + timeout + censored.
        ended: u64,
    },
}

impl Counts {
    /// Requests with an outcome.
    pub fn ended(&self) -> u64 {
        self.ok + self.error + self.timeout + self.censored
    }

    /// Checks planned = sent + dropped and sent = ok + error + timeout + censored.
    ///
    /// # Errors
    /// The first law that is broken.
    pub fn check(&self) -> Result<(), Imbalance> {
        let Counts { planned, sent, dropped, .. } = *self;
        if planned != sent + dropped {
            return Err(Imbalance::Planned { planned, sent, dropped });
        }
        let ended = self.ended();
        if sent == ended { Ok(()) } else { Err(Imbalance::Sent { sent, ended }) }
    }

    /// Adds another's.
    pub fn merge(&mut self, other: &Counts) {
        for (ours, theirs) in self.fields_mut().into_iter().zip(other.fields()) {
            *ours = ours.saturating_add(theirs);
        }
    }

    fn fields(&self) -> [u64; 8] {
        let Counts { planned, sent, ok, error, timeout, censored, dropped, unsent } = *self;
        [planned, sent, ok, error, timeout, censored, dropped, unsent]
    }

    fn fields_mut(&mut self) -> [&mut u64; 8] {
        let Counts { planned, sent, ok, error, timeout, censored, dropped, unsent } = self;
        [planned, sent, ok, error, timeout, censored, dropped, unsent]
    }
}

/// One second of the run's time axis, counted from the start of the run. Latencies lie in the second their
/// request was *due*, so a stall shows where it began; outcomes, bytes and connects in the second they happened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Interval {
    /// `[second, second + 1)`.
    pub second: u32,
    /// Without warm-up.
    pub counts: Counts,
    /// Warm-up only.
    pub warm_up: Counts,
    /// Failures by [`ErrorKind`], without warm-up.
    pub errors: [u64; ErrorKind::COUNT],
    /// Reply − due by [`OutcomeClass`]; `Censored` holds the unsent too.
    pub response: [Distribution; 4],
    /// Reply − sent by [`OutcomeClass`].
    pub service: [Distribution; 4],
    /// Sent − due.
    pub lag: Distribution,
    /// Sent − ready: the part of the lag that is the generator's own.
    pub own_lag: Distribution,
    /// Time to open a connection.
    pub connect: Distribution,
    /// Connections opened, the first ones included.
    pub connections_opened: u64,
    /// Connections opened in place of one that was lost.
    pub reconnects: u64,
    /// Attempts to connect that failed.
    pub connect_failures: u64,
    /// Of these, those before the start: the others are errors of the requests that waited for them, or were tried again.
    pub connect_failures_opening: u64,
    /// Handed to the kernel.
    pub sent_bytes: u64,
    /// Taken from the kernel.
    pub received_bytes: u64,
    /// The same second in tenths, coarser.
    pub tenths: [Tenth; TENTHS],
    /// Connections whose first request was sent in it.
    pub connections_used: u64,
    /// Of `counts.ok`, those that came before the end of the plan; the others came in the drain.
    pub ok_in_time: u64,
    /// Of all outcomes but `censored`, those that came before the end of the plan.
    pub ended_in_time: u64,
    /// Of `counts.timeout` and `warm_up.timeout`, those that never had a connection to be sent on.
    pub timeouts_without_connection: u64,
    /// What the generator itself did.
    pub own: Own,
}

impl Interval {
    /// Adds another part of the same second.
    pub fn merge(&mut self, other: &Interval) {
        self.counts.merge(&other.counts);
        self.warm_up.merge(&other.warm_up);
        let stall_max_ns = self.own.stall_max_ns.max(other.own.stall_max_ns);
        for (ours, theirs) in self.numbers_mut().into_iter().zip(other.numbers()) {
            *ours = ours.saturating_add(theirs);
        }
        self.own.stall_max_ns = stall_max_ns;
        for (ours, theirs) in self.distributions_mut().into_iter().zip(other.distributions()) {
            ours.merge(theirs);
        }
        for (ours, theirs) in self.tenths.iter_mut().zip(&other.tenths) {
            ours.merge(theirs);
        }
    }

    /// All outcomes of `response` together.
    pub fn response_all(&self) -> Distribution {
        Distribution::merged(&self.response)
    }

    /// All outcomes of `service` together.
    pub fn service_all(&self) -> Distribution {
        Distribution::merged(&self.service)
    }

    /// All that it counts, added up; neither bytes nor times.
    fn counted(&self) -> u64 {
        let Own { runs, preemptions, requests_touched, connects_paced, timeouts, .. } = self.own;
        let own = [runs, preemptions, requests_touched, connects_paced, timeouts];
        let connections = [
            self.connections_opened,
            self.reconnects,
            self.connect_failures,
            self.connect_failures_opening,
            self.connections_used,
            self.ok_in_time,
            self.ended_in_time,
            self.timeouts_without_connection,
        ];
        let counts = self.counts.fields().into_iter().chain(self.warm_up.fields()).chain(self.errors);
        let values = self.distributions().into_iter().flat_map(|series| [series.count(), series.saturated()]);
        let tenths = self.tenths.iter().map(Tenth::counted);
        counts.chain(connections).chain(own).chain(values).chain(tenths).fold(0, u64::saturating_add)
    }

    fn distributions(&self) -> [&Distribution; 11] {
        let [a, b, c, d] = &self.response;
        let [e, f, g, h] = &self.service;
        [a, b, c, d, e, f, g, h, &self.lag, &self.own_lag, &self.connect]
    }

    fn distributions_mut(&mut self) -> [&mut Distribution; 11] {
        let [a, b, c, d] = &mut self.response;
        let [e, f, g, h] = &mut self.service;
        [a, b, c, d, e, f, g, h, &mut self.lag, &mut self.own_lag, &mut self.connect]
    }

    /// Everything that adds up, and the longest stall.
    fn numbers(&self) -> impl Iterator<Item = u64> {
        let single = [
            self.connections_opened,
            self.reconnects,
            self.connect_failures,
            self.connect_failures_opening,
            self.sent_bytes,
            self.received_bytes,
            self.connections_used,
            self.ok_in_time,
            self.ended_in_time,
            self.timeouts_without_connection,
        ];
        self.errors.into_iter().chain(single).chain(self.own.all())
    }

    fn numbers_mut(&mut self) -> Vec<&mut u64> {
        let mut all: Vec<&mut u64> = self.errors.iter_mut().collect();
        all.extend([
            &mut self.connections_opened,
            &mut self.reconnects,
            &mut self.connect_failures,
            &mut self.connect_failures_opening,
            &mut self.sent_bytes,
            &mut self.received_bytes,
            &mut self.connections_used,
            &mut self.ok_in_time,
            &mut self.ended_in_time,
            &mut self.timeouts_without_connection,
        ]);
        all.extend(self.own.all_mut());
        all
    }
}

/// The seconds of a run, or the part of them that a worker has just handed over. Merging adds second to
/// second; it is associative and commutative, so deltas may come in any order and from any number of nodes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Timeline {
    intervals: BTreeMap<u32, Interval>,
}

/// What a node may count in a run, requests, connections and values added up: a thousand million requests a second for a
/// day, of each of which about a dozen things are counted. Sums over ten thousand such nodes stay below 2⁶⁴.
pub const COUNTED_MAX: u64 = 1 << 50;

/// "frt" and the version of the layout below.
const MAGIC: [u8; 4] = *b"frt4";

impl Timeline {
    /// Adds one second, or a part of it.
    pub fn add(&mut self, interval: &Interval) {
        let second = interval.second;
        self.intervals
            .entry(second)
            .or_insert_with(|| Interval { second, ..Interval::default() })
            .merge(interval);
    }

    /// Adds all seconds of another.
    pub fn merge(&mut self, other: &Timeline) {
        other.intervals.values().for_each(|interval| self.add(interval));
    }

    /// The seconds in order; those in which nothing happened may be missing.
    pub fn intervals(&self) -> impl Iterator<Item = &Interval> {
        self.intervals.values()
    }

    /// True when nothing happened.
    pub fn is_empty(&self) -> bool {
        self.intervals.is_empty()
    }

    /// All that it counts, added up: what is held against [`COUNTED_MAX`].
    pub fn counted(&self) -> u64 {
        self.intervals().map(Interval::counted).fold(0, u64::saturating_add)
    }

    /// Counts over all seconds, without warm-up.
    pub fn counts(&self) -> Counts {
        self.total(|interval| &interval.counts)
    }

    /// Counts of the warm-up.
    pub fn warm_up(&self) -> Counts {
        self.total(|interval| &interval.warm_up)
    }

    /// One series over all seconds, all outcomes.
    pub fn response(&self) -> Distribution {
        Distribution::merged(self.intervals().flat_map(|interval| &interval.response))
    }

    /// One outcome of the response series.
    pub fn response_of(&self, class: OutcomeClass) -> Distribution {
        Distribution::merged(self.intervals().map(|interval| &interval.response[class as usize]))
    }

    /// One series over all seconds, all outcomes.
    pub fn service(&self) -> Distribution {
        Distribution::merged(self.intervals().flat_map(|interval| &interval.service))
    }

    /// One outcome of the service series.
    pub fn service_of(&self, class: OutcomeClass) -> Distribution {
        Distribution::merged(self.intervals().map(|interval| &interval.service[class as usize]))
    }

    /// One series over all seconds.
    pub fn lag(&self) -> Distribution {
        Distribution::merged(self.intervals().map(|interval| &interval.lag))
    }

    /// The generator's own part of the lag.
    pub fn own_lag(&self) -> Distribution {
        Distribution::merged(self.intervals().map(|interval| &interval.own_lag))
    }

    /// Time to connect.
    pub fn connect(&self) -> Distribution {
        Distribution::merged(self.intervals().map(|interval| &interval.connect))
    }

    /// The tenths in which something happened, in order, each with its number from the start of the run.
    pub fn tenths(&self) -> impl Iterator<Item = (u64, &Tenth)> {
        self.intervals().flat_map(|interval| {
            let first = u64::from(interval.second) * TENTHS as u64;
            (first..).zip(&interval.tenths).filter(|(_, tenth)| !tenth.is_empty())
        })
    }

    fn total(&self, of: impl Fn(&Interval) -> &Counts) -> Counts {
        self.intervals().fold(Counts::default(), |mut sum, interval| {
            sum.merge(of(interval));
            sum
        })
    }

    /// For the wire: magic, number of seconds, then per second its number, the counters as big-endian u64 in
    /// the order of the fields, each distribution as saturated count, length and V2 payload (length 0 when empty),
    /// and the tenths that are not empty: how many, then each with its number.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = MAGIC.to_vec();
        out.extend((self.intervals.len() as u32).to_be_bytes());
        for interval in self.intervals.values() {
            out.extend(interval.second.to_be_bytes());
            let counters = interval.counts.fields().into_iter().chain(interval.warm_up.fields());
            counters.chain(interval.numbers()).for_each(|n| out.extend(n.to_be_bytes()));
            for distribution in interval.distributions() {
                let payload = if distribution.count() == 0 { Vec::new() } else { distribution.encode() };
                out.extend(distribution.saturated().to_be_bytes());
                out.extend((payload.len() as u32).to_be_bytes());
                out.extend(payload);
            }
            let tenths = interval.tenths.iter().enumerate().filter(|(_, tenth)| !tenth.is_empty());
            out.extend((tenths.clone().count() as u16).to_be_bytes());
            for (number, tenth) in tenths {
                out.extend((number as u16).to_be_bytes());
                tenth.encode(&mut out);
            }
        }
        out
    }

    /// Reads what [`Timeline::encode`] wrote.
    ///
    /// # Errors
    /// When the bytes are damaged or of another version, or count more than [`COUNTED_MAX`].
    pub fn decode(bytes: &[u8]) -> Result<Timeline, DecodeError> {
        let mut reader = Reader(bytes);
        if reader.array::<4>()? != MAGIC {
            return Err(DecodeError("another layout"));
        }
        let seconds = u32::from_be_bytes(reader.array()?);
        let (mut timeline, mut counted) = (Timeline::default(), 0_u64);
        for _ in 0..seconds {
            let mut interval =
                Interval { second: u32::from_be_bytes(reader.array()?), ..Interval::default() };
            for field in interval.counts.fields_mut() {
                *field = reader.number()?;
            }
            for field in interval.warm_up.fields_mut() {
                *field = reader.number()?;
            }
            for field in interval.numbers_mut() {
                *field = reader.number()?;
            }
            for distribution in interval.distributions_mut() {
                let saturated = reader.number()?;
                let length = u32::from_be_bytes(reader.array()?) as usize;
                if length > 0 {
                    *distribution = Distribution::decode(reader.take(length)?, saturated)?;
                }
            }
            for _ in 0..reader.short()? {
                let number = usize::from(reader.short()?);
                let tenth = interval.tenths.get_mut(number).ok_or(DecodeError("a tenth out of range"))?;
                tenth.merge(&Tenth::decode(&mut reader.0)?);
            }
            counted = counted.saturating_add(interval.counted());
            if counted > COUNTED_MAX {
                return Err(DecodeError("more is counted than any run has"));
            }
            timeline.add(&interval);
        }
        if reader.0.is_empty() { Ok(timeline) } else { Err(DecodeError("bytes behind the end")) }
    }
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> Result<&'a [u8], DecodeError> {
        let (taken, rest) = self.0.split_at_checked(length).ok_or(DecodeError("it ends early"))?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        self.take(N)?.try_into().map_err(|_| DecodeError("it ends early"))
    }

    fn short(&mut self) -> Result<u16, DecodeError> {
        Ok(u16::from_be_bytes(self.array()?))
    }

    fn number(&mut self) -> Result<u64, DecodeError> {
        let number = u64::from_be_bytes(self.array()?);
        // Far above any count, and any time or number of bytes of a second.
        if number < 1 << 53 { Ok(number) } else { Err(DecodeError("a count out of range")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn both_laws_are_checked() {
        let good =
            Counts { planned: 10, sent: 8, dropped: 2, ok: 5, error: 1, timeout: 1, censored: 1, unsent: 1 };
        assert_eq!(good.check(), Ok(()));
        let lost = Counts { planned: 11, ..good };
        assert_eq!(lost.check(), Err(Imbalance::Planned { planned: 11, sent: 8, dropped: 2 }));
        let doubled = Counts { ok: 6, ..good };
        assert_eq!(doubled.check(), Err(Imbalance::Sent { sent: 8, ended: 9 }));
    }

    #[test]
    fn the_longest_stall_stays_the_longest_and_the_rest_adds_up_on_the_wire_too() {
        let part = |stall_max_ns, run_delay_ns| {
            let own = Own { stall_max_ns, run_delay_ns, users_paused_ns: 7, ..Own::default() };
            let interval = Interval { second: 3, own, ok_in_time: 2, ..Interval::default() };
            let mut timeline = Timeline::default();
            timeline.add(&interval);
            timeline
        };
        let mut all = part(5, 10);
        all.merge(&part(4, 20));
        let all = Timeline::decode(&all.encode()).unwrap();
        let interval = all.intervals().next().unwrap();
        let own = Own { stall_max_ns: 5, run_delay_ns: 30, users_paused_ns: 14, ..Own::default() };
        assert_eq!((interval.own, interval.ok_in_time), (own, 4));
    }

    #[test]
    fn what_counts_more_than_any_run_has_is_refused_however_it_is_split() {
        let tenth = |planned| Tenth { planned, ..Tenth::default() };
        let counts = |ok| Counts { ok, ..Counts::default() };
        let whole = COUNTED_MAX;
        let fits = |intervals: &[Interval]| {
            // As bytes that no sender of ours writes: each second stands for itself, with the same number.
            let mut bytes = [&MAGIC[..], &(intervals.len() as u32).to_be_bytes()].concat();
            for interval in intervals {
                let mut timeline = Timeline::default();
                timeline.add(interval);
                bytes.extend(&timeline.encode()[8..]);
            }
            Timeline::decode(&bytes).map(|timeline| timeline.counted())
        };
        let refused = Err(DecodeError("more is counted than any run has"));
        let of = |ok| Interval { counts: counts(ok), ..Interval::default() };
        assert_eq!(fits(&[of(whole)]), Ok(whole));
        assert_eq!(fits(&[of(whole + 1)]), refused);
        assert_eq!(fits(&vec![of(whole / 4); 4]), Ok(whole));
        assert_eq!(fits(&vec![of((1 << 53) - 1); 4_096]), refused, "more than 64 bits together");
        let mut tenths: [Tenth; TENTHS] = Default::default();
        (tenths[3], tenths[4]) = (tenth(whole), tenth(1));
        assert_eq!(fits(&[Interval { tenths, ..Interval::default() }]), refused);
        let mut lag = super::super::histogram::Histogram::default();
        lag.record_many(5, u64::MAX >> 1);
        let lag = lag.distribution();
        assert_eq!(fits(&vec![Interval { lag, ..Interval::default() }; 3]), refused);
        // Times and bytes are none of it.
        let amounts = Interval { sent_bytes: (1 << 53) - 1, ..Interval::default() };
        assert_eq!(fits(&vec![amounts; 4_096]), Ok(0));
    }

    #[test]
    fn damaged_bytes_are_refused() {
        let mut timeline = Timeline::default();
        timeline.add(&Interval { second: 3, lag: [5, 6].into_iter().collect(), ..Interval::default() });
        let bytes = timeline.encode();
        assert_eq!(Timeline::decode(&bytes), Ok(timeline));
        for end in 0..bytes.len() {
            assert!(Timeline::decode(&bytes[..end]).is_err(), "{end}");
        }
        assert_eq!(Timeline::decode(&[&bytes[..], &[0]].concat()), Err(DecodeError("bytes behind the end")));
        assert_eq!(Timeline::decode(b"frt1\0\0\0\0"), Err(DecodeError("another layout")));
    }

    proptest! {
        // Each case writes and reads dense histograms.
        #![proptest_config(ProptestConfig::with_cases(24))]

        #[test]
        fn bytes_that_were_changed_are_refused_or_merge_and_travel(
            flips in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        ) {
            let mut timeline = Timeline::default();
            timeline.add(&Interval { second: 3, lag: [5, 6].into_iter().collect(), ..Interval::default() });
            timeline.add(&Interval { second: 4, connect: [7].into_iter().collect(), ..Interval::default() });
            let mut fine = super::super::fine::Second::default();
            fine.planned(7, 1);
            fine.response(7, super::super::sample::Outcome::Timeout, 1_000_000, 1);
            timeline.add(&Interval { second: 5, tenths: fine.take(), ..Interval::default() });
            prop_assert_eq!(&Timeline::decode(&timeline.encode()).unwrap(), &timeline);
            let mut bytes = timeline.encode();
            for (at, value) in flips {
                let at = at.index(bytes.len());
                bytes[at] = value;
            }
            if let Ok(mut read) = Timeline::decode(&bytes) {
                prop_assert_eq!(Timeline::decode(&read.encode()), Ok(read.clone()));
                read.merge(&read.clone());
                prop_assert!(read.lag().count().is_multiple_of(2));
            }
        }
    }
}
