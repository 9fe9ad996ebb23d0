//! A worker's own record: no lock, no clock, and no allocation once every series has been seen.

use std::collections::VecDeque;
use std::time::Duration;

use fracas_dataplane::clock::Instant;

use super::fine::{Longest, Second, TENTH_NS, TENTHS};
use super::histogram::Histogram;
use super::interval::{Counts, Interval, Timeline};
use super::sample::{Outcome, OutcomeClass, Sample};
use super::verdict::thresholds::{STALL_FROM_NS, TOUCHED_FROM_NS};

/// Why a request was never sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DropReason {
    /// Later than the late policy allows.
    Late,
    /// Still waiting for a connection when the run ended.
    Unsent,
}

/// Collects what one worker sees; [`Recorder::take`] hands it over, once a second and at the end.
///
/// The runner calls `planned` for every arrival it takes from the schedule, then either `dropped`, or `sent` and
/// later `record`. The three are counted apart, so [`Counts::check`] is a real check.
#[derive(Debug)]
pub struct Recorder {
    start: Instant,
    /// The end of the plan, once it is known: what comes later is not in time.
    end: Instant,
    /// Seconds with something new, rising. Mostly one or two: the present and, after a stall, the due ones.
    slots: VecDeque<Slot>,
    /// Empty histograms to be used again.
    spare: Vec<Histogram>,
    /// Empty seconds to be used again.
    spare_seconds: Vec<Second>,
    totals: Counts,
    warm_up_totals: Counts,
}

/// Positions in [`Slot::histograms`]; the first eight are response and service by outcome.
const SERVICE: usize = 4;
const LAG: usize = 8;
const OWN_LAG: usize = 9;
const CONNECT: usize = 10;

#[derive(Debug, Default)]
struct Slot {
    interval: Interval,
    histograms: [Option<Histogram>; 11],
    fine: Option<Second>,
}

impl Recorder {
    /// A record of a run that starts at `start`.
    pub fn new(start: Instant) -> Recorder {
        Recorder {
            start,
            end: Instant::FAR_FUTURE,
            slots: VecDeque::new(),
            spare: Vec::new(),
            spare_seconds: Vec::new(),
            totals: Counts::default(),
            warm_up_totals: Counts::default(),
        }
    }

    /// Sets the start of the run. What was recorded before, such as the first connects, stays where it is; with a
    /// start in [`Instant::FAR_FUTURE`] until now that is the first second.
    pub fn set_start(&mut self, start: Instant) {
        self.start = start;
    }

    /// Sets the end of the plan: outcomes that come later are not counted as in time.
    pub fn set_end(&mut self, end: Instant) {
        self.end = end;
    }

    /// A request is due.
    pub fn planned(&mut self, due: Instant, warm_up: bool) {
        self.planned_many(due, warm_up, 1);
    }

    /// So many requests of one tenth of a second are due.
    pub fn planned_many(&mut self, due: Instant, warm_up: bool, count: u64) {
        let at = self.slot_index(due);
        self.counts_at(at, warm_up, |counts| counts.planned += count);
        let tenth = self.tenth(due);
        self.fine_at(at).planned(tenth, count);
    }

    /// A request was handed to the kernel.
    pub fn sent(&mut self, due: Instant, warm_up: bool) {
        self.counts(due, warm_up, |counts| counts.sent += 1);
    }

    /// A request will not be sent. An unsent one has waited until `now`: a lower bound of its response time.
    pub fn dropped(&mut self, due: Instant, now: Instant, reason: DropReason, warm_up: bool) {
        self.dropped_many(due, now, reason, warm_up, 1);
    }

    /// The same of so many, due within one tenth of a second and at `due` on average.
    pub fn dropped_many(
        &mut self,
        due: Instant,
        now: Instant,
        reason: DropReason,
        warm_up: bool,
        count: u64,
    ) {
        let unsent = reason == DropReason::Unsent;
        self.counts(due, warm_up, |counts| {
            counts.dropped += count;
            counts.unsent += if unsent { count } else { 0 };
        });
        if unsent && !warm_up {
            let (at, tenth) = (self.slot_index(due), self.tenth(due));
            self.record_at(at, OutcomeClass::Censored as usize, nanos(due, now), count);
            self.fine_at(at).response(tenth, Outcome::Censored, nanos(due, now), count);
        }
    }

    /// A sent request ended.
    pub fn record(&mut self, sample: &Sample) {
        let Sample { due, ready, sent, done, seen_late, outcome, warm_up } = *sample;
        let Some(at) = self.ended(due, done, outcome, warm_up, 1) else { return };
        self.record_at(at, SERVICE + outcome.class() as usize, nanos(sent, done), 1);
        self.lag(at, due, nanos(due, sent), 1);
        let seen_late = seen_late.min(done.since(sent));
        let own_ns = nanos(ready, sent) + as_nanos(seen_late);
        self.own_part(at, due, own_ns, 1);
        if outcome == Outcome::Timeout {
            let waited_ns = nanos(due, done);
            let is_own = self.own_timeout(at, due, own_ns, waited_ns, 1);
            // From due to ready the target held all connections.
            if !is_own && nanos(due, ready) >= waited_ns.div_ceil(2) {
                let tenth = self.tenth(due);
                self.fine_at(at).queued(tenth, 1);
            }
        }
    }

    /// A request found no connection until its timeout: attempted, and so counted as sent. It is in `response` and
    /// `lag` with the time it had waited, and in no `service`. `own` of it was the generator's.
    pub fn timed_out_waiting(&mut self, due: Instant, now: Instant, own: Duration, warm_up: bool) {
        self.timed_out_waiting_many(due, now, own, warm_up, 1);
    }

    /// The same of so many, due within one tenth of a second and at `due` on average.
    pub fn timed_out_waiting_many(
        &mut self,
        due: Instant,
        now: Instant,
        own: Duration,
        warm_up: bool,
        count: u64,
    ) {
        self.counts(due, warm_up, |counts| counts.sent += count);
        let at = self.ended(due, now, Outcome::Timeout, warm_up, count);
        self.slot(now).interval.timeouts_without_connection += count;
        if at.is_some() {
            let (at, tenth) = (self.slot_index(due), self.tenth(due));
            self.lag(at, due, nanos(due, now), count);
            let own_ns = as_nanos(own.min(now.since(due)));
            self.own_part(at, due, own_ns, count);
            if !self.own_timeout(at, due, own_ns, nanos(due, now), count) {
                self.fine_at(at).queued(tenth, count);
            }
        }
    }

    /// Counts an outcome; for a measured request, its response, and where its other times belong.
    fn ended(
        &mut self,
        due: Instant,
        done: Instant,
        outcome: Outcome,
        warm_up: bool,
        count: u64,
    ) -> Option<usize> {
        // The later one last: a second that it opens lies behind, and the other stays where it is.
        let due_at = self.slot_index(due);
        let done_at = self.slot_index(done);
        self.counts_at(done_at, warm_up, |counts| match outcome {
            Outcome::Ok => counts.ok += count,
            Outcome::Error(_) => counts.error += count,
            Outcome::Timeout => counts.timeout += count,
            Outcome::Censored => counts.censored += count,
        });
        let tenth = self.tenth(done);
        self.fine_at(done_at).ended(tenth, outcome, count);
        if warm_up {
            return None;
        }
        let in_time = done <= self.end && outcome != Outcome::Censored;
        let interval = &mut self.slots[done_at].interval;
        if let Outcome::Error(kind) = outcome {
            interval.errors[kind as usize] += count;
        }
        if in_time {
            interval.ended_in_time += count;
            interval.ok_in_time += if outcome == Outcome::Ok { count } else { 0 };
        }
        let response_ns = nanos(due, done);
        self.record_at(due_at, outcome.class() as usize, response_ns, count);
        let tenth = self.tenth(due);
        self.fine_at(due_at).response(tenth, outcome, response_ns, count);
        Some(due_at)
    }

    fn lag(&mut self, at: usize, due: Instant, lag_ns: u64, count: u64) {
        self.record_at(at, LAG, lag_ns, count);
        let tenth = self.tenth(due);
        self.fine_at(at).longest(tenth, Longest::Lag, lag_ns);
    }

    /// Requests that waited so long timed out, and so much of that was the generator's own: whether it made them.
    fn own_timeout(&mut self, at: usize, due: Instant, own_ns: u64, waited_ns: u64, count: u64) -> bool {
        let is_own = own_ns >= waited_ns.div_ceil(2);
        if is_own {
            self.slots[at].interval.own.timeouts += count;
            let tenth = self.tenth(due);
            self.fine_at(at).own(tenth, count);
        }
        is_own
    }

    fn own_part(&mut self, at: usize, due: Instant, own_ns: u64, count: u64) {
        self.record_at(at, OWN_LAG, own_ns, count);
        let tenth = self.tenth(due);
        self.fine_at(at).longest(tenth, Longest::Own, own_ns);
        if own_ns >= TOUCHED_FROM_NS {
            self.slots[at].interval.own.requests_touched += count;
        }
    }

    /// A turn of the loop that should have come at `asked` came late by `by`.
    pub fn late_turn(&mut self, asked: Instant, by: Duration) {
        let by_ns = as_nanos(by);
        let at = self.slot_index(asked);
        let own = &mut self.slots[at].interval.own;
        own.stall_max_ns = own.stall_max_ns.max(by_ns);
        if by_ns >= STALL_FROM_NS {
            own.stall_ns += by_ns;
            let tenth = self.tenth(asked);
            self.fine_at(at).longest(tenth, Longest::Stall, by_ns);
        }
    }

    /// What the kernel says of the worker's thread since the last time: how long it had to wait for a core, how often it
    /// was given one, how often it was taken away.
    pub fn ran(&mut self, now: Instant, run_delay_ns: u64, runs: u64, preemptions: u64) {
        let own = &mut self.slot(now).interval.own;
        own.run_delay_ns += run_delay_ns;
        own.runs += runs;
        own.preemptions += preemptions;
    }

    /// A request that was due then waited for the connect rate; of the warm-up none is counted, as elsewhere.
    pub fn paced(&mut self, due: Instant, warm_up: bool) {
        if warm_up {
            return;
        }
        self.slot(due).interval.own.connects_paced += 1;
    }

    /// A virtual user pauses, its connect having failed.
    pub fn user_paused(&mut self, now: Instant, pause: Duration) {
        self.slot(now).interval.own.users_paused_ns += as_nanos(pause);
    }

    /// The first request was sent on a connection.
    pub fn connection_used(&mut self, now: Instant) {
        self.slot(now).interval.connections_used += 1;
    }

    /// A connection is open, `since` having been asked for.
    pub fn connected(&mut self, since: Instant, now: Instant, again: bool) {
        let interval = &mut self.slot(now).interval;
        interval.connections_opened += 1;
        interval.reconnects += u64::from(again);
        self.histogram(now, CONNECT, nanos(since, now));
    }

    /// A connection could not be opened.
    pub fn connect_failed(&mut self, now: Instant) {
        let before_start = self.start == Instant::FAR_FUTURE;
        let interval = &mut self.slot(now).interval;
        interval.connect_failures += 1;
        interval.connect_failures_opening += u64::from(before_start);
    }

    /// Bytes went out or came in.
    pub fn bytes(&mut self, now: Instant, sent: u64, received: u64) {
        let interval = &mut self.slot(now).interval;
        interval.sent_bytes += sent;
        interval.received_bytes += received;
    }

    /// Everything since the last call, without warm-up, for progress lines; totals are kept.
    pub fn totals(&self) -> (Counts, Counts) {
        (self.totals, self.warm_up_totals)
    }

    /// Hands over everything since the last call.
    pub fn take(&mut self) -> Timeline {
        let mut timeline = Timeline::default();
        while let Some(mut slot) = self.slots.pop_front() {
            let mut taken = [const { None }; 11];
            for (histogram, taken) in slot.histograms.iter_mut().zip(&mut taken) {
                if let Some(mut histogram) = histogram.take() {
                    *taken = Some(histogram.distribution());
                    histogram.clear();
                    self.spare.push(histogram);
                }
            }
            let mut taken = taken.map(Option::unwrap_or_default).into_iter();
            let mut next = || taken.next().unwrap_or_default();
            slot.interval.response = std::array::from_fn(|_| next());
            slot.interval.service = std::array::from_fn(|_| next());
            slot.interval.lag = next();
            slot.interval.own_lag = next();
            slot.interval.connect = next();
            if let Some(mut fine) = slot.fine.take() {
                slot.interval.tenths = fine.take();
                self.spare_seconds.push(fine);
            }
            timeline.add(&slot.interval);
        }
        timeline
    }

    /// Hands over the rest after the last request ended.
    ///
    /// # Panics
    /// In debug builds when a law of conservation is broken. In release builds the verdict says so.
    pub fn finish(mut self) -> Timeline {
        debug_assert_eq!(self.totals.check(), Ok(()));
        debug_assert_eq!(self.warm_up_totals.check(), Ok(()));
        self.take()
    }

    fn counts(&mut self, at: Instant, warm_up: bool, change: impl Fn(&mut Counts)) {
        let at = self.slot_index(at);
        self.counts_at(at, warm_up, change);
    }

    fn counts_at(&mut self, at: usize, warm_up: bool, change: impl Fn(&mut Counts)) {
        let slot = &mut self.slots[at];
        if warm_up {
            change(&mut slot.interval.warm_up);
            change(&mut self.warm_up_totals);
        } else {
            change(&mut slot.interval.counts);
            change(&mut self.totals);
        }
    }

    fn histogram(&mut self, at: Instant, position: usize, value_ns: u64) {
        let index = self.slot_index(at);
        self.record_at(index, position, value_ns, 1);
    }

    fn record_at(&mut self, index: usize, position: usize, value_ns: u64, count: u64) {
        let spare = &mut self.spare;
        self.slots[index].histograms[position]
            .get_or_insert_with(|| spare.pop().unwrap_or_default())
            .record_many(value_ns, count);
    }

    /// Which tenth of its second an instant is in.
    fn tenth(&self, at: Instant) -> usize {
        (nanos(self.start, at) / TENTH_NS) as usize % TENTHS
    }

    /// The tenths of a second.
    fn fine_at(&mut self, at: usize) -> &mut Second {
        let spare = &mut self.spare_seconds;
        self.slots[at].fine.get_or_insert_with(|| spare.pop().unwrap_or_default())
    }

    fn slot(&mut self, at: Instant) -> &mut Slot {
        let index = self.slot_index(at);
        &mut self.slots[index]
    }

    fn slot_index(&mut self, at: Instant) -> usize {
        let second = u32::try_from(nanos(self.start, at) / 1_000_000_000).unwrap_or(u32::MAX);
        // From the back: nearly every event is of the present second.
        let after = self.slots.iter().rposition(|slot| slot.interval.second <= second);
        match after {
            Some(index) if self.slots[index].interval.second == second => index,
            _ => {
                let index = after.map_or(0, |index| index + 1);
                let interval = Interval { second, ..Interval::default() };
                self.slots.insert(index, Slot { interval, ..Slot::default() });
                index
            }
        }
    }
}

fn nanos(from: Instant, to: Instant) -> u64 {
    to.as_nanos().saturating_sub(from.as_nanos())
}

fn as_nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::{ErrorKind, Own};
    use proptest::prelude::*;

    const START: Instant = Instant::from_nanos(7_000_000_000);

    fn at_ms(ms: u64) -> Instant {
        START + std::time::Duration::from_millis(ms)
    }

    fn sample(due: u64, sent: u64, done: u64, outcome: Outcome) -> Sample {
        Sample {
            due: at_ms(due),
            ready: at_ms(sent),
            sent: at_ms(sent),
            done: at_ms(done),
            seen_late: Duration::ZERO,
            outcome,
            warm_up: false,
        }
    }

    fn run(recorder: &mut Recorder, sample: &Sample) {
        recorder.planned(sample.due, sample.warm_up);
        recorder.sent(sample.due, sample.warm_up);
        recorder.record(sample);
    }

    #[test]
    fn latency_lies_where_it_was_due_and_the_reply_where_it_came() {
        let mut recorder = Recorder::new(START);
        run(&mut recorder, &sample(900, 1200, 2500, Outcome::Ok));
        let timeline = recorder.finish();
        let seconds: Vec<_> = timeline.intervals().map(|i| (i.second, i.counts.sent, i.counts.ok)).collect();
        assert_eq!(seconds, [(0, 1, 0), (2, 0, 1)]);
        let first = timeline.intervals().next().unwrap();
        let close =
            |found: u64, ms: u64| assert!(found.abs_diff(ms * 1_000_000) <= ms * 1_000, "{found} {ms}");
        close(first.response[0].max(), 1600);
        close(first.service[0].max(), 1300);
        close(first.lag.max(), 300);
        assert_eq!(first.own_lag.max(), 0);
    }

    #[test]
    fn every_outcome_has_its_histogram_and_its_count() {
        let mut recorder = Recorder::new(START);
        let outcomes = [Outcome::Ok, Outcome::Error(ErrorKind::Reset), Outcome::Timeout, Outcome::Censored];
        for outcome in outcomes {
            run(&mut recorder, &sample(10, 10, 20, outcome));
        }
        recorder.planned(at_ms(30), false);
        recorder.dropped(at_ms(30), at_ms(90), DropReason::Late, false);
        recorder.planned(at_ms(40), false);
        recorder.dropped(at_ms(40), at_ms(90), DropReason::Unsent, false);
        let timeline = recorder.finish();
        let counts = timeline.counts();
        assert_eq!(counts.check(), Ok(()));
        assert_eq!((counts.planned, counts.dropped, counts.unsent), (6, 2, 1));
        let per_outcome: Vec<_> = OutcomeClass::ALL.map(|c| timeline.response_of(c).count()).into();
        assert_eq!(per_outcome, [1, 1, 1, 2], "the unsent one is a lower bound too");
        assert_eq!(timeline.service().count(), 4);
        assert_eq!(timeline.intervals().next().unwrap().errors[ErrorKind::Reset as usize], 1);
    }

    #[test]
    fn tenths_of_a_second_have_what_was_due_and_what_came_in_them() {
        let mut recorder = Recorder::new(START);
        run(&mut recorder, &sample(950, 950, 1149, Outcome::Ok));
        run(&mut recorder, &sample(1000, 1000, 1199, Outcome::Error(ErrorKind::Reset)));
        let timeline = recorder.finish();
        let found: Vec<_> = timeline
            .tenths()
            .map(|(number, t)| (number, t.planned, t.ok, t.failed, t.good.count(), t.failures[1]))
            .collect();
        assert_eq!(found, [(9, 1, 0, 0, 1, 0), (10, 1, 0, 0, 0, 1), (11, 0, 1, 1, 0, 0)]);
    }

    #[test]
    fn what_the_generator_did_itself_lies_where_it_began() {
        let ms = Duration::from_millis;
        let mut recorder = Recorder::new(START);
        recorder.set_end(at_ms(2_000));
        recorder.late_turn(at_ms(900), ms(1_050));
        recorder.late_turn(at_ms(950), ms(1));
        recorder.ran(at_ms(1_950), 300, 2, 1);
        recorder.user_paused(at_ms(1_950), ms(100));
        // Due in the stall, sent when it was over, and the reply, on time: 1.05 s of its own.
        let late = Sample { ready: at_ms(900), ..sample(900, 1_950, 1_960, Outcome::Ok) };
        run(&mut recorder, &late);
        // Sent before the stall, its reply seen behind it: as long as it was under way, at most.
        let picked_up = Sample { seen_late: ms(1_050), ..sample(890, 890, 1_950, Outcome::Ok) };
        run(&mut recorder, &picked_up);
        recorder.planned(at_ms(1_000), false);
        recorder.timed_out_waiting(at_ms(1_000), at_ms(2_010), ms(950), false);
        let timeline = recorder.finish();
        assert_eq!(timeline.counts().check(), Ok(()));
        let seconds: Vec<_> = timeline.intervals().map(|i| (i.second, i.own)).collect();
        let first = Own { stall_max_ns: 1_050_000_000, stall_ns: 1_050_000_000, ..Own::default() };
        let first = Own { requests_touched: 2, ..first };
        let second = Own { run_delay_ns: 300, runs: 2, preemptions: 1, ..Own::default() };
        let second = Own { users_paused_ns: 100_000_000, requests_touched: 1, timeouts: 1, ..second };
        assert_eq!(seconds, [(0, first), (1, second), (2, Own::default())]);
        let own = timeline.own_lag();
        assert_eq!((own.count(), own.count_above(1_040_000_000)), (3, 2));
        assert_eq!(timeline.service().count(), 2, "one was never sent");
        let in_time: u64 = timeline.intervals().map(|i| i.ended_in_time).sum();
        assert_eq!(in_time, 2, "the timeout came behind the end");
    }

    #[test]
    fn a_timeout_that_the_generator_made_is_its_own() {
        let mut recorder = Recorder::new(START);
        let timeout = |ready, sent, seen_late| Sample {
            ready: at_ms(ready),
            seen_late: Duration::from_millis(seen_late),
            ..sample(100, sent, 200, Outcome::Timeout)
        };
        // Sent late by half of the time, by less, picked up late, and what waited for the target.
        for sample in
            [timeout(100, 150, 0), timeout(100, 149, 0), timeout(100, 100, 50), timeout(190, 190, 0)]
        {
            run(&mut recorder, &sample);
        }
        for own in [50, 49] {
            recorder.planned(at_ms(100), false);
            recorder.timed_out_waiting(at_ms(100), at_ms(200), Duration::from_millis(own), false);
        }
        let timeline = recorder.finish();
        let interval = timeline.intervals().next().unwrap();
        assert_eq!((interval.counts.timeout, interval.own.timeouts), (6, 3));
        // Of the three that are not its own, two waited for a connection.
        let tenth = &interval.tenths[1];
        assert_eq!((tenth.own, tenth.queued), (3, 2), "{tenth:?}");
    }

    #[test]
    fn warm_up_is_counted_apart_and_in_no_series() {
        let mut recorder = Recorder::new(START);
        run(&mut recorder, &Sample { warm_up: true, ..sample(0, 0, 500, Outcome::Error(ErrorKind::Io)) });
        let timeline = recorder.finish();
        assert_eq!((timeline.counts(), timeline.warm_up().error), (Counts::default(), 1));
        assert_eq!(timeline.response().count() + timeline.lag().count(), 0);
        assert_eq!(timeline.intervals().next().unwrap().errors, [0; ErrorKind::COUNT]);
    }

    #[test]
    #[should_panic(expected = "Sent")]
    fn a_request_without_an_outcome_is_a_bug() {
        let mut recorder = Recorder::new(START);
        recorder.planned(START, false);
        recorder.sent(START, false);
        recorder.finish();
    }

    fn samples() -> impl Strategy<Value = Vec<Sample>> {
        let outcome = prop_oneof![
            Just(Outcome::Ok),
            Just(Outcome::Error(ErrorKind::Status5xx)),
            Just(Outcome::Timeout),
            Just(Outcome::Censored)
        ];
        let one = (0_u64..5000, 0_u64..900, 0_u64..4000, outcome)
            .prop_map(|(due, lag, service, outcome)| sample(due, due + lag, due + lag + service, outcome));
        proptest::collection::vec(one, 0..60)
    }

    proptest! {
        // Each case fills and scans whole histograms, which unoptimised builds do slowly.
        #![proptest_config(ProptestConfig::with_cases(24))]

        #[test]
        fn workers_merged_in_any_order_equal_one_worker_byte_for_byte(
            a in samples(), b in samples(), take_after in 0_usize..60,
        ) {
            let mut one = Recorder::new(START);
            a.iter().chain(&b).for_each(|sample| run(&mut one, sample));
            let together = one.finish();

            let mut deltas = Vec::new();
            for part in [&a, &b] {
                let mut recorder = Recorder::new(START);
                for (index, sample) in part.iter().enumerate() {
                    run(&mut recorder, sample);
                    if index == take_after {
                        deltas.push(recorder.take().encode());
                    }
                }
                deltas.push(recorder.finish().encode());
            }
            let merge = |deltas: &mut dyn Iterator<Item = &Vec<u8>>| {
                let mut all = Timeline::default();
                deltas.for_each(|delta| all.merge(&Timeline::decode(delta).unwrap()));
                all.encode()
            };
            prop_assert_eq!(merge(&mut deltas.iter()), together.encode());
            prop_assert_eq!(merge(&mut deltas.iter().rev()), together.encode());
        }
    }
}
