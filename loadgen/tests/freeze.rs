//! The test that other generators fail: a target that freezes for 1.4 s within 10 s at 2,000 requests a second.
//!
//! Who waits for replies before sending the next request sees 32 slow requests of 20,000 and reports a p99 of
//! less than a millisecond. The truth: 1 % of the requests are the 200 that were due in the first 0.1 s of the
//! freeze, so p99 is 1.4 s − 0.1 s.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail the test")]

#[allow(dead_code)]
#[path = "support/server.rs"]
mod server;
#[allow(dead_code)]
#[path = "support/simulated.rs"]
mod simulated;

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

use fracas_dataplane::clock::Instant;
use fracas_loadgen::arrival::Shard;
use fracas_loadgen::measure::Histogram;
use fracas_loadgen::runner::prepare;
use fracas_loadgen::scenario::{Load, Pace, Phase, Plan, Stop};

const CONNECTIONS: u32 = 32;
const FREEZE: Duration = Duration::from_millis(1400);
/// One way on the simulated network, in nanoseconds.
const LINK_NS: u64 = 20_000;

fn plan(target: &str) -> Plan {
    let mut plan = Plan::for_target(target.parse().unwrap());
    plan.connections = CONNECTIONS;
    plan.phases = vec![Phase {
        load: Load::Open(Pace::Constant { rate: "2000/s".parse().unwrap() }),
        stop: Stop::After(Duration::from_secs(10)),
        warm_up: false,
    }];
    plan
}

/// Response and service of each request by queueing arithmetic: 32 places, first come first served.
fn expected(freeze_from_ns: u64) -> (Histogram, Histogram) {
    let until_ns = freeze_from_ns + FREEZE.as_nanos() as u64;
    let mut free_at: BinaryHeap<_> = (0..CONNECTIONS).map(|_| Reverse(0)).collect();
    let (mut response, mut service) = (Histogram::default(), Histogram::default());
    for due_ns in (0..20_000).map(|request| request * 500_000) {
        let Reverse(free_ns) = free_at.pop().unwrap();
        let sent_ns = due_ns.max(free_ns);
        let came_ns = sent_ns + LINK_NS;
        let is_frozen = (freeze_from_ns..until_ns).contains(&came_ns);
        let done_ns = if is_frozen { until_ns } else { came_ns } + LINK_NS;
        free_at.push(Reverse(done_ns));
        response.record(done_ns - due_ns);
        service.record(done_ns - sent_ns);
    }
    (response, service)
}

#[test]
fn a_freeze_is_charged_to_every_request_it_kept_waiting_exactly() {
    let mut bench = simulated::Bench::new(14, &plan("http://10.9.9.9/"), |_| simulated::Answer::ok());
    bench.open();
    let start = bench.start();
    let freeze_from = Duration::from_micros(4_000_250);
    bench.server.borrow_mut().freeze = Some((start + freeze_from, start + freeze_from + FREEZE));
    let timeline = bench.finish(Duration::from_secs(30));

    let (response, service) = expected(freeze_from.as_nanos() as u64);
    assert_eq!(timeline.response(), response.distribution(), "every one of 20,000 response times");
    assert_eq!(timeline.service(), service.distribution(), "every one of 20,000 service times");
    // Three digits: a bucket at 1.3 s is one millisecond wide.
    assert_eq!(timeline.response().percentile(99.0) / 1_000_000, 1300);
    assert_eq!(timeline.service().percentile(99.0) / 1_000, 40);
    assert_eq!(timeline.own_lag().max(), 0, "the target held the connections, not the generator");
}

#[test]
fn a_freeze_of_a_real_server_is_charged_too() {
    let server = server::Server::start();
    let load = prepare(&plan(&server.url()), Shard::WHOLE).unwrap().start(Instant::now());
    load.wait_timeout(Duration::from_secs(4));
    let frozen = server.frozen.write().unwrap();
    let from = Instant::now();
    while Instant::now().since(from) < FREEZE {
        load.wait_timeout(FREEZE - Instant::now().since(from));
    }
    drop(frozen);
    let outcome = load.wait();

    let timeline = outcome.timeline;
    assert_eq!(timeline.counts().planned, 20_000);
    // Due in the first 0.15 s of the freeze: 300 requests, more than 1 %, that waited for at least 1.25 s.
    let bound_ns = 1_250_000_000;
    assert!(timeline.response().percentile(99.0) >= bound_ns, "{}", timeline.response().percentile(99.0));
    // At most 32 were in flight when it froze.
    assert!(timeline.service().count_above(bound_ns) <= u64::from(CONNECTIONS));
    assert!(timeline.service().percentile(99.0) < timeline.response().percentile(99.0));
}
