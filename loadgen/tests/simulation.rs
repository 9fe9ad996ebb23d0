//! The worker on the simulated ring: every mode, every failure, exact times, all faults on.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail the test")]

#[allow(dead_code)]
#[path = "support/simulated.rs"]
mod simulated;

use std::time::Duration;

use fracas_loadgen::measure::{ErrorKind, Timeline};
use fracas_loadgen::scenario::{Load, Pace, Phase, Plan, Stop};
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
