//! A target that fails for a while: every request that is due meanwhile gets its own outcome at its own time, and none
//! of those behind it waits for what is over. On the simulated ring, exact.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail the test")]

#[allow(dead_code)]
#[path = "support/simulated.rs"]
mod simulated;

use std::time::Duration;

use fracas_dataplane::ring::simulated::Link;
use fracas_loadgen::measure::{Counts, ErrorKind, Interval, OutcomeClass, Timeline};
use fracas_loadgen::scenario::{Load, Pace, Phase, Plan, Stop};
use simulated::{Answer, Bench, Outage, Then};

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn plan(connections: u32, load: Load, seconds: u64) -> Plan {
    let mut plan = Plan::for_target("http://10.9.9.9/".parse().unwrap());
    plan.connections = connections;
    plan.phases = vec![Phase { load, stop: Stop::After(Duration::from_secs(seconds)), warm_up: false }];
    plan
}

fn open(connections: u32, rate: &str, seconds: u64) -> Plan {
    plan(connections, Load::Open(Pace::Constant { rate: rate.parse().unwrap() }), seconds)
}

fn closed(users: u32, seconds: u64) -> Plan {
    plan(users, Load::Closed { users, think_time: Duration::ZERO }, seconds)
}

/// Runs `plan` against a server that is out from `from` on.
fn run(seed: u64, plan: &Plan, outage: Outage, from: Duration, over: Duration) -> (Bench, Timeline) {
    let mut bench = Bench::new(seed, plan, |_| Answer::ok().after(ms(1)));
    bench.open();
    let start = bench.start();
    bench.server.borrow_mut().outage = Some((start + from, start + from + over, outage));
    let timeline = bench.finish(Duration::from_secs(120));
    (bench, timeline)
}

fn sum(timeline: &Timeline, of: impl Fn(&Interval) -> u64) -> u64 {
    timeline.intervals().map(of).sum()
}

fn errors(timeline: &Timeline, kinds: &[ErrorKind]) -> u64 {
    kinds.iter().map(|kind| sum(timeline, |interval| interval.errors[*kind as usize])).sum()
}

/// Requests due from `from` to `to`, in tenths of a second: how many, how many of them were answered well, and the
/// longest response of these in microseconds.
fn tenths(timeline: &Timeline, from: u64, to: u64) -> (u64, u64, u64) {
    let chosen = timeline.tenths().filter(|(number, _)| (from..to).contains(number));
    chosen.fold((0, 0, 0), |(planned, ok, us), (_, tenth)| {
        (planned + tenth.planned, ok + tenth.good.count(), us.max(tenth.good.max() / 1_000))
    })
}

#[test]
fn every_request_of_an_outage_fails_at_its_own_time() {
    let cases: [(Outage, &[ErrorKind]); 3] = [
        (Outage::Blackout, &[ErrorKind::EndedEarly, ErrorKind::Reset]),
        (Outage::Reset, &[ErrorKind::Reset]),
        (Outage::Refused, &[ErrorKind::ConnectRefused, ErrorKind::Reset]),
    ];
    for (outage, kinds) in cases {
        for connections in [1, 3, 50] {
            let plan = open(connections, "500/s", 9);
            let (bench, timeline) = run(21, &plan, outage, ms(3_000), ms(3_000));
            let counts = timeline.counts();
            assert_eq!((counts.planned, counts.check()), (4_500, Ok(())), "{outage:?}");
            // Those in flight when it begins fail, too.
            let name = format!("{outage:?} with {connections}: {counts:?}");
            assert!((1_498..=1_503).contains(&counts.error), "{name}");
            assert_eq!(counts.ok + counts.error, 4_500, "{name}");
            let all = ErrorKind::ALL.map(|kind| (kind, errors(&timeline, &[kind])));
            assert_eq!(errors(&timeline, kinds), counts.error, "{name} {all:?}");
            assert!(timeline.response().max() < 5_000_000, "{name}: nobody waits");
            assert_eq!(timeline.own_lag().max(), 0, "{name}");
            // Of what nobody asked for the target sees little, so that its own counters agree.
            let accepted = bench.server.borrow().accepted;
            assert!(outage == Outage::Refused || accepted <= 1_500 + 2 * 50 + 15, "{name}: {accepted}");
        }
    }
}

#[test]
fn with_a_connection_for_each_request_an_outage_is_the_same() {
    for outage in [Outage::Blackout, Outage::Reset, Outage::Refused] {
        let mut plan = open(50, "500/s", 9);
        plan.keep_alive = false;
        let mut bench = Bench::new(22, &plan, |_| Answer::ok().then(Then::Close));
        bench.open();
        let start = bench.start();
        bench.server.borrow_mut().outage = Some((start + ms(3_000), start + ms(6_000), outage));
        let counts = bench.finish(Duration::from_secs(60)).counts();
        assert!((1_499..=1_502).contains(&counts.error), "{outage:?}: {counts:?}");
        assert_eq!(counts.ok + counts.error, 4_500);
    }
}

#[test]
fn a_hang_ends_each_request_by_its_timeout_and_is_over_when_it_is_over() {
    // 2,000 a second for a second: 20 for each of 100 connections, 200 for each of 10.
    for connections in [100, 10] {
        for (outage, timeout) in [
            (Outage::Hang, ms(1_000)),
            (Outage::Hang, ms(400)),
            (Outage::Hang, ms(150)),
            (Outage::BlackHole, ms(1_000)),
            (Outage::BlackHole, ms(400)),
        ] {
            let mut plan = open(connections, "2000/s", 6);
            plan.response_timeout = timeout;
            let (_, timeline) = run(23, &plan, outage, ms(2_000), ms(1_000));
            let counts = timeline.counts();
            let name = format!("{outage:?}, {connections} connections, {timeout:?}: {counts:?}");
            assert_eq!((counts.planned, counts.check()), (12_000, Ok(())), "{name}");
            assert_eq!(counts.ok + counts.timeout, 12_000, "{name}");
            // Three digits: a bucket is a thousandth wide.
            let bound_ns = timeout.as_nanos() as u64 + 1_000_000;
            assert!(timeline.response().max() <= bound_ns, "{name}: {}", timeline.response().max());
            let waited = timeline.response_of(OutcomeClass::Timeout);
            assert_eq!(waited.count(), counts.timeout, "{name}");
            assert!(waited.min() >= bound_ns - 2_000_000, "{name}: {}", waited.min());
            // Those without a connection have no service, but all have a response and a lag.
            let without = sum(&timeline, |interval| interval.timeouts_without_connection);
            assert_eq!(timeline.service().count() + without, 12_000, "{name}");
            assert_eq!((timeline.lag().count(), timeline.response().count()), (12_000, 12_000), "{name}");
            // Due before the hang: all good. Due when what had piled up is done: all good, and at once.
            assert_eq!(tenths(&timeline, 0, 19).1, 3_800, "{name}");
            // Ten connections answer 10,000 a second: what had piled up takes them a quarter of a second.
            let (planned, ok, max_us) = tenths(&timeline, if connections == 10 { 33 } else { 31 }, 60);
            assert_eq!(planned, ok, "{name}");
            assert!(max_us < 5_000, "{name}: {max_us}");
            // Of those that were due in it, only who could still be answered in time was.
            let (planned, ok, _) = tenths(&timeline, 20, 30);
            let could_be = 2_000 * timeout.as_millis() as u64 / 1_000;
            assert!(planned == 2_000 && ok <= could_be, "{name}: {ok}");
            assert!(counts.timeout >= 2_000 - could_be.min(1_999), "{name}");
            // Connections that end together are replaced 0.1 ms apart, which is all that is the generator's.
            assert!(timeline.own_lag().max() < 1_000_000, "{name}: {}", timeline.own_lag().max());
            assert_eq!(sum(&timeline, |interval| interval.own.connects_paced), 0, "{name}");
        }
    }
}

#[test]
fn a_request_that_waits_for_a_connection_is_given_up_at_its_timeout() {
    let mut plan = open(2, "100/s", 3);
    plan.response_timeout = ms(500);
    let mut bench = Bench::new(24, &plan, |_| Answer::of(b""));
    let timeline = bench.run(Duration::from_secs(60));
    let counts = timeline.counts();
    assert_eq!((counts.planned, counts.sent, counts.timeout), (300, 300, 300));
    let seconds = timeline.intervals().map(|interval| interval.counts.timeout).collect::<Vec<_>>();
    assert_eq!(seconds, [50, 100, 100, 50], "each half a second after it was due");
    let half = 500_000_000;
    assert!(
        timeline.response().min().abs_diff(half) < 500_000
            && timeline.response().max().abs_diff(half) < 500_000
    );
}

#[test]
fn what_the_connect_rate_holds_back_is_the_generators_own() {
    // Every reply closes its connection, and only 100 connects a second are allowed for 200 requests.
    let mut plan = open(20, "200/s", 2);
    plan.connect_rate = "100/s".parse().unwrap();
    let mut bench = Bench::new(25, &plan, |_| Answer::ok().then(Then::Close));
    let timeline = bench.run(Duration::from_secs(60));
    assert_eq!(timeline.counts().ok, 400);
    assert!(sum(&timeline, |interval| interval.own.connects_paced) > 300);
    assert!(timeline.own_lag().max() > 1_500_000_000, "the last waited for nearly two seconds");
    let [lag, own] = [timeline.lag().max(), timeline.own_lag().max()];
    assert!(own.abs_diff(lag) <= lag / 100, "{own} of {lag}");
}

#[test]
fn users_that_are_refused_pause_as_the_plan_says_and_the_time_is_told() {
    for (outage, pause) in [
        (Outage::Refused, ms(100)),
        (Outage::Refused, ms(300)),
        (Outage::Blackout, ms(100)),
        (Outage::Reset, ms(250)),
    ] {
        let mut plan = closed(5, 6);
        plan.retry_pause = pause;
        let (_, timeline) = run(26, &plan, outage, ms(2_000), ms(3_000));
        let Counts { error, planned, sent, .. } = timeline.counts();
        assert_eq!(planned, sent);
        let tries = 5 * 3_000 / pause.as_millis() as u64;
        assert!((tries..=tries + 10).contains(&error), "{outage:?}: {error} of {tries}");
        // The first failures are of connections that had replied before: those users come back at once.
        let paused_ns = sum(&timeline, |interval| interval.own.users_paused_ns);
        let all_ns = 5 * 3_000_000_000;
        let one_more = 5 * pause.as_nanos() as u64;
        assert!((all_ns - one_more..=all_ns + one_more).contains(&paused_ns), "{outage:?}: {paused_ns}");
        assert!(timeline.response().max() < 5_000_000, "a pause is in no response");
        assert!(tenths(&timeline, 51 + pause.as_millis() as u64 / 100, 60).1 > 1_000, "they came back");
    }
}

#[test]
fn a_user_that_gets_no_answer_tries_again_at_its_timeout() {
    for outage in [Outage::Hang, Outage::BlackHole] {
        let mut plan = closed(4, 5);
        plan.response_timeout = ms(200);
        let (_, timeline) = run(27, &plan, outage, ms(1_000), ms(2_000));
        let counts = timeline.counts();
        // Ten times 200 ms, by each of four.
        assert!((36..=44).contains(&counts.timeout), "{outage:?}: {counts:?}");
        assert_eq!((counts.error, counts.check()), (0, Ok(())));
        assert!(timeline.response().max() <= 201_000_000);
    }
}

#[test]
fn a_target_that_hangs_up_before_the_start_is_said_to() {
    for connections in [1, 2, 50] {
        let plan = open(connections, "100/s", 1);
        let mut bench = Bench::new(28, &plan, |_| Answer::ok());
        let now = bench.network.now();
        bench.server.borrow_mut().outage = Some((now, now + Duration::from_secs(60), Outage::Blackout));
        bench.simulation.run_until(now + Duration::from_secs(2));
        let readiness = bench.worker.borrow().readiness();
        assert!(readiness.is_settled, "{readiness:?}");
        assert!(readiness.hung_up > 0 && readiness.failures == 0, "{readiness:?}");
        // The run itself says the same of every request.
        bench.start();
        let timeline = bench.finish(Duration::from_secs(30));
        let closed = errors(&timeline, &[ErrorKind::EndedEarly, ErrorKind::Reset]);
        assert_eq!((timeline.counts().error, closed), (100, 100));
    }
}

#[test]
fn a_rate_that_nobody_can_meet_is_counted_and_not_gone_through() {
    // A thousand million requests: one by one they would take minutes.
    let rate = 1_000_000_000;
    let mut asked = open(5, "1000M/s", 1);
    asked.drain = ms(100);
    for (timeout, stop) in [(Duration::from_secs(30), None), (ms(50), Some((ms(40), ms(1_200))))] {
        asked.response_timeout = timeout;
        let mut bench = Bench::new(24, &asked, |_| Answer::ok().after(ms(1)));
        bench.open();
        let start = bench.start();
        *bench.stop.borrow_mut() = stop.map(|(from, to)| (start + from, start + to));
        let timeline = bench.finish(Duration::from_secs(10));
        let counts = timeline.counts();
        assert_eq!((counts.planned, counts.check()), (rate, Ok(())));
        let by_second: Vec<_> = timeline.intervals().map(|i| (i.second, i.counts.planned)).collect();
        assert_eq!(by_second.iter().map(|(_, planned)| planned).sum::<u64>(), rate);
        assert_eq!(by_second[0], (0, rate));
        let by_tenth: Vec<_> = timeline.tenths().map(|(_, tenth)| tenth.planned).filter(|n| *n > 0).collect();
        assert_eq!(by_tenth, [rate / 10; 10]);
        if timeout > ms(1_000) {
            assert_eq!(counts.timeout, 0);
            assert_eq!(counts.unsent + counts.sent, rate);
        } else {
            // The generator stood still until all of them were too late.
            assert_eq!((counts.sent, counts.dropped), (rate, 0), "{counts:?}");
            assert!(counts.timeout > rate - 1_000, "{counts:?}");
            let waited = timeline.response_of(OutcomeClass::Timeout);
            let (min, max) = (waited.min(), waited.max());
            assert!(
                min.abs_diff(200_000_000) < 400_000 && max.abs_diff(1_200_000_000) < 3_000_000,
                "{min} {max}"
            );
        }
        assert_eq!(timeline.response().count(), rate);
    }
}

#[test]
fn what_is_too_late_by_its_policy_is_counted_at_once() {
    let mut asked = open(5, "100M/s", 1);
    asked.late = fracas_loadgen::scenario::LatePolicy::DropAfter(ms(20));
    let mut bench = Bench::new(25, &asked, |_| Answer::ok().after(ms(1)));
    bench.open();
    // It stands still for all but the first of the run.
    let start = bench.start();
    *bench.stop.borrow_mut() = Some((start + ms(5), start + ms(1_030)));
    let timeline = bench.finish(Duration::from_secs(10));
    let counts = timeline.counts();
    assert_eq!((counts.planned, counts.check(), counts.unsent), (100_000_000, Ok(()), 0));
    assert_eq!(counts.dropped + counts.ok, 100_000_000);
}

#[test]
fn an_outage_of_a_target_far_away_ends_when_it_ends() {
    // 31 connections are busy when all is well: a connect takes 60 ms, and a reply 61.
    for connections in [40, 50, 60, 100] {
        for outage in [Outage::Hang, Outage::BlackHole, Outage::Blackout] {
            let mut plan = open(connections, "500/s", 12);
            plan.response_timeout = ms(500);
            let mut bench = Bench::new(31, &plan, |_| Answer::ok().after(ms(1)));
            bench.network.set_link(Link { delay: ms(30), bytes_per_second: None });
            bench.open();
            let start = bench.start();
            bench.server.borrow_mut().outage = Some((start + ms(2_000), start + ms(4_000), outage));
            let timeline = bench.finish(Duration::from_secs(60));
            let counts = timeline.counts();
            let name = format!("{outage:?} with {connections}: {counts:?}");
            assert_eq!((counts.planned, counts.check(), counts.unsent), (6_000, Ok(()), 0), "{name}");
            let (planned, ok, _) = tenths(&timeline, 50, 120);
            assert_eq!((planned, ok), (3_500, 3_500), "{name}");
            // What had piled up is done a second later, even if five of six connections are needed for what comes.
            let (_, _, max_us) = tenths(&timeline, 60, 120);
            assert!(max_us < 100_000, "{name}: {max_us}");
            // What no connection could save any more ends at its timeout, like the others.
            let waited = timeline.response_of(OutcomeClass::Timeout);
            let at_its_timeout = 499_000_000..=501_000_000;
            for waited_ns in [waited.min(), waited.max()] {
                assert!(counts.timeout == 0 || at_its_timeout.contains(&waited_ns), "{name}: {waited_ns}");
            }
        }
    }
}
