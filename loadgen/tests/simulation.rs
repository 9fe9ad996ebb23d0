//! The worker on the simulated ring: every mode, every failure, exact times, all faults on.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail the test")]

#[allow(dead_code)]
#[path = "support/simulated.rs"]
mod simulated;

use std::time::Duration;

use fracas_dataplane::ring::simulated::{Faults, SimulatedSettings, seeds};
use fracas_loadgen::measure::{ErrorKind, OutcomeClass, Timeline};
use fracas_loadgen::scenario::{LatePolicy, Load, Pace, Phase, Plan, Reuse, Stop};
use simulated::{Answer, Bench, Then};

fn seconds(s: u64) -> Duration {
    Duration::from_secs(s)
}

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn open(rate: &str, stop: Stop) -> Phase {
    Phase { load: Load::Open(Pace::Constant { rate: rate.parse().unwrap() }), stop, warm_up: false }
}

fn closed(users: u32, stop: Stop) -> Phase {
    Phase { load: Load::Closed { users, think_time: Duration::ZERO }, stop, warm_up: false }
}

fn plan(connections: u32, phases: Vec<Phase>) -> Plan {
    let mut plan = Plan::for_target("http://10.9.9.9/".parse().unwrap());
    plan.connections = connections;
    plan.phases = phases;
    plan
}

fn errors(timeline: &Timeline, kind: ErrorKind) -> u64 {
    timeline.intervals().map(|interval| interval.errors[kind as usize]).sum()
}

#[test]
fn an_open_run_sends_every_request_when_it_is_due() {
    let mut bench = Bench::new(1, &plan(4, vec![open("1000/s", Stop::After(seconds(1)))]), |_| Answer::ok());
    let timeline = bench.run(seconds(20));
    let counts = timeline.counts();
    assert_eq!((counts.planned, counts.sent, counts.ok), (1000, 1000, 1000));
    assert_eq!((timeline.lag().max(), timeline.own_lag().max()), (0, 0), "nothing was late");
    let gaps: Vec<_> = bench.server.borrow().requests.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert!(gaps.iter().all(|gap| *gap == ms(1)), "the server sees the plan's own pace");
}

#[test]
fn a_closed_run_sends_exactly_the_asked_count() {
    let mut bench = Bench::new(2, &plan(7, vec![closed(7, Stop::Requests(1001))]), |_| Answer::ok());
    let timeline = bench.run(seconds(20));
    assert_eq!((timeline.counts().planned, timeline.counts().ok), (1001, 1001));
    assert_eq!((bench.server.borrow().requests.len(), bench.server.borrow().accepted), (1001, 7));
}

#[test]
fn each_kind_of_failure_is_counted_as_what_it_is() {
    let cases: [(&str, Answer, ErrorKind); 7] = [
        ("404", Answer::of(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"), ErrorKind::Status4xx),
        ("503", Answer::of(b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n"), ErrorKind::Status5xx),
        ("nonsense", Answer::of(b"220 smtp ready\r\n\r\n"), ErrorKind::Parse),
        ("closes before", Answer::of(b"").then(Then::Close), ErrorKind::EndedEarly),
        (
            "closes inside",
            Answer::of(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf").then(Then::Close),
            ErrorKind::EndedEarly,
        ),
        ("resets before", Answer::of(b"").then(Then::Reset), ErrorKind::Reset),
        (
            "resets inside",
            Answer::of(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf").then(Then::Reset).after(ms(1)),
            ErrorKind::Reset,
        ),
    ];
    for (name, answer, kind) in cases {
        let plan = plan(4, vec![open("100/s", Stop::Requests(100))]);
        let mut bench = Bench::new(
            3,
            &plan,
            move |request| {
                if request % 10 == 5 { answer.clone() } else { Answer::ok() }
            },
        );
        let timeline = bench.run(seconds(60));
        let counts = timeline.counts();
        assert_eq!((counts.ok, counts.error, errors(&timeline, kind)), (90, 10, 10), "{name}");
    }
}

#[test]
fn connections_take_turns_unless_the_plan_wants_them_hot() {
    for (reuse, used) in [(Reuse::Rotate, 100), (Reuse::Hot, 1)] {
        let mut plan = plan(100, vec![open("100/s", Stop::After(seconds(3)))]);
        plan.reuse = reuse;
        let mut bench = Bench::new(13, &plan, |_| Answer::ok());
        let timeline = bench.run(seconds(20));
        let carried: u64 = timeline.intervals().map(|interval| interval.connections_used).sum();
        assert_eq!((timeline.counts().ok, carried), (300, used), "{reuse:?}");
        let opened: u64 = timeline.intervals().map(|interval| interval.connections_opened).sum();
        assert_eq!(opened, 100);
    }
}

#[test]
fn thousands_of_connections_are_closed_without_a_turn_that_takes_long() {
    let plan = plan(5_000, vec![closed(5_000, Stop::After(seconds(1)))]);
    let mut bench = Bench::new(14, &plan, |_| Answer::of(b""));
    bench.open();
    bench.start();
    let worker = std::rc::Rc::clone(&bench.worker);
    let limit = bench.network.now() + seconds(20);
    assert!(bench.simulation.run_while(limit, || !worker.borrow().is_finished()));
    // Its books are complete and can be asked for before the first connection is closed.
    let open = bench.network.open_sockets(bench.worker_ring);
    assert!(open > 4_900, "{open}");
    let counts = worker.borrow_mut().take().counts();
    assert_eq!((counts.censored, counts.check()), (5_000, Ok(())));
    bench.finish(seconds(20));
}

#[test]
fn a_connection_for_each_request_counts_its_connect_and_is_closed_behind_it() {
    for load in [open("500/s", Stop::Requests(200)), closed(3, Stop::Requests(200))] {
        let mut plan = plan(3, vec![load]);
        plan.keep_alive = false;
        let mut bench = Bench::new(4, &plan, |_| Answer::ok().then(Then::Close));
        let timeline = bench.run(seconds(20));
        assert_eq!((timeline.counts().ok, bench.server.borrow().accepted), (200, 200));
        // SYN, SYN-ACK, request, reply: four times 20 µs.
        assert_eq!(timeline.service().min() / 1000, 80);
        assert_eq!(timeline.connect().max() / 1000, 40);
    }
}

#[test]
fn a_reply_that_does_not_come_is_a_timeout_at_the_timeout() {
    let mut plan = plan(4, vec![open("100/s", Stop::Requests(100))]);
    plan.response_timeout = ms(200);
    let mut bench =
        Bench::new(5, &plan, |request| if request == 30 { Answer::of(b"") } else { Answer::ok() });
    let timeline = bench.run(seconds(20));
    let counts = timeline.counts();
    assert_eq!((counts.ok, counts.timeout), (99, 1));
    assert_eq!(timeline.response_of(OutcomeClass::Timeout).min(), bucket(200_000_000).min());
    assert_eq!(timeline.intervals().map(|interval| interval.reconnects).sum::<u64>(), 1);
}

#[test]
fn what_is_in_flight_at_the_end_is_censored_and_what_waits_is_dropped() {
    let mut plan = plan(2, vec![open("100/s", Stop::After(seconds(1)))]);
    plan.drain = ms(500);
    let mut bench = Bench::new(6, &plan, |request| if request < 50 { Answer::ok() } else { Answer::of(b"") });
    let timeline = bench.run(seconds(20));
    let counts = timeline.counts();
    assert_eq!((counts.planned, counts.ok, counts.censored, counts.dropped), (100, 50, 2, 48));
    // Due at 0.5 s and 0.51 s, given up at 1.5 s.
    assert_eq!(timeline.response().max(), bucket(1_000_000_000).max());
    assert_eq!(timeline.response().count(), 100);
}

#[test]
fn late_requests_are_dropped_when_the_policy_says_so() {
    let mut plan = plan(1, vec![open("100/s", Stop::After(seconds(1)))]);
    plan.late = LatePolicy::DropAfter(ms(20));
    let mut bench = Bench::new(7, &plan, |_| Answer::ok().after(ms(50)));
    let timeline = bench.run(seconds(20));
    let counts = timeline.counts();
    assert!(counts.dropped > 50 && counts.unsent == 0, "{counts:?}");
    assert_eq!(counts.ok + counts.dropped, 100);
    assert!(timeline.lag().max() <= bucket(20_000_000).max());
}

#[test]
fn warm_up_is_counted_apart_and_is_in_no_series() {
    let mut warm_up = open("100/s", Stop::After(seconds(1)));
    warm_up.warm_up = true;
    let mut bench =
        Bench::new(8, &plan(2, vec![warm_up, open("200/s", Stop::After(seconds(1)))]), |_| Answer::ok());
    let timeline = bench.run(seconds(20));
    assert_eq!((timeline.warm_up().ok, timeline.counts().ok, timeline.response().count()), (100, 200, 200));
}

#[test]
fn closed_phases_follow_each_other_with_think_time() {
    let load = Load::Closed { users: 2, think_time: ms(10) };
    let phase = |warm_up| Phase { load: load.clone(), stop: Stop::After(seconds(1)), warm_up };
    let mut bench = Bench::new(9, &plan(2, vec![phase(true), phase(false)]), |_| Answer::ok());
    let timeline = bench.run(seconds(20));
    // One turn takes 10.04 ms: turn 100 begins at 1.004 s, the last at 1.99796 s, by each of two users.
    assert_eq!((timeline.warm_up().ok, timeline.counts().ok), (200, 200));
    assert_eq!(timeline.lag().max(), 0);
}

#[test]
fn bodies_of_every_framing_and_size_are_read_to_their_end() {
    let mut big = b"HTTP/1.1 200 OK\r\nContent-Length: 300000\r\n\r\n".to_vec();
    big.resize(big.len() + 300_000, b'x');
    let chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n".to_vec();
    let until_close = b"HTTP/1.1 200 OK\r\n\r\nto the end".to_vec();
    let bodies = [(big, Then::KeepOpen), (chunked, Then::KeepOpen), (until_close, Then::Close)];
    let mut bench = Bench::new(10, &plan(3, vec![closed(3, Stop::Requests(90))]), move |request| {
        let (bytes, then) = &bodies[request as usize % 3];
        Answer::of(bytes).then(*then)
    });
    assert_eq!(bench.run(seconds(60)).counts().ok, 90);

    let mut head = plan(2, vec![closed(2, Stop::Requests(50))]);
    head.method = "HEAD".to_owned();
    let mut bench = Bench::new(11, &head, |_| Answer::of(b"HTTP/1.1 200 OK\r\nContent-Length: 999\r\n\r\n"));
    assert_eq!(bench.run(seconds(20)).counts().ok, 50);
}

#[test]
fn users_do_not_hammer_a_target_that_hangs_up() {
    let mut bench = Bench::new(12, &plan(2, vec![closed(2, Stop::After(seconds(5)))]), |request| {
        if request < 100 { Answer::ok().after(ms(10)) } else { Answer::of(b"").then(Then::Close) }
    });
    let timeline = bench.run(seconds(30));
    let counts = timeline.counts();
    assert_eq!(counts.ok, 100);
    // 4.5 s of hanging up, in which each of two users tries ten times a second; the first failure was of a connection
    // that had replied.
    assert!((90..=94).contains(&counts.error), "{counts:?}");
}

#[test]
fn every_mode_keeps_its_books_with_all_faults_on() {
    for seed in seeds(40) {
        for mode in 0..4 {
            let phases = match mode {
                0 | 2 => vec![open("400/s", Stop::After(ms(500))), open("800/s", Stop::Requests(200))],
                _ => vec![closed(5, Stop::After(ms(200))), closed(8, Stop::Requests(300))],
            };
            let mut plan = plan(8, phases);
            plan.keep_alive = mode < 2;
            plan.response_timeout = ms(300);
            plan.connect_timeout = ms(300);
            plan.drain = ms(400);
            plan.seed = seed;
            let script = Box::new(move |request: u64| match (request + seed) % 17 {
                3 => Answer::of(b"").then(Then::Close),
                5 => Answer::ok().then(Then::Reset),
                7 => Answer::of(b""),
                9 => Answer::ok().after(ms(20)),
                11 => Answer::of(b"HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n").then(Then::Close),
                _ => Answer::ok(),
            });
            let mut bench = Bench::with(seed, &plan, &SimulatedSettings::default(), script);
            bench.set_faults(Faults { connect_fail: 0.05, connect_emfile: 0.05, ..Faults::unnoticed(0.05) });
            let timeline = bench.run(seconds(120));
            let counts = timeline.counts();
            assert_eq!(counts.check(), Ok(()), "seed {seed} mode {mode}");
            if mode == 0 || mode == 2 {
                assert_eq!(counts.planned, 400, "seed {seed} mode {mode}");
            }
            assert_eq!(timeline.response().count(), counts.planned, "seed {seed} mode {mode}");
            assert_eq!(timeline.lag().count(), counts.sent, "seed {seed} mode {mode}");
        }
    }
}

/// The bucket that a value falls into.
fn bucket(value_ns: u64) -> fracas_loadgen::measure::Distribution {
    let mut histogram = fracas_loadgen::measure::Histogram::default();
    histogram.record(value_ns);
    histogram.distribution()
}
