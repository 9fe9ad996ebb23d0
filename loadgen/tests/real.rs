//! The runner on the kernel's ring and real sockets. What is asserted follows from arithmetic, not from luck.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail the test")]

#[allow(dead_code)]
#[path = "support/server.rs"]
mod server;

use std::sync::atomic::Ordering;
use std::time::Duration;

use fracas_dataplane::clock::Instant;
use fracas_loadgen::arrival::Shard;
use fracas_loadgen::measure::{Faults, Timeline};
use fracas_loadgen::runner::{RunError, prepare, run, summarize};
use fracas_loadgen::scenario::{Load, Pace, Phase, Plan, Stop};
use server::Server;

fn plan(url: &str, connections: u32, load: Load, stop: Stop) -> Plan {
    let mut plan = Plan::for_target(url.parse().unwrap());
    plan.connections = connections;
    plan.phases = vec![Phase { load, stop, warm_up: false }];
    plan
}

fn rate(rate: &str) -> Load {
    Load::Open(Pace::Constant { rate: rate.parse().unwrap() })
}

fn users(users: u32) -> Load {
    Load::Closed { users, think_time: Duration::ZERO }
}

#[test]
fn an_open_run_is_planned_sent_and_answered_to_the_last_request() {
    let server = Server::start();
    let mut plan = plan(&server.url(), 4, rate("1000/s"), Stop::Requests(500));
    plan.threads = 2;
    let outcome = run(&plan).unwrap();
    let counts = outcome.timeline.counts();
    assert_eq!((counts.planned, counts.sent, counts.ok), (500, 500, 500));
    assert_eq!((outcome.workers.len(), outcome.opened.open, outcome.notes()), (2, 4, vec![]));
    let summary = summarize(&outcome, &plan, Faults::default(), String::new());
    assert_eq!(summary.counts, counts);
    assert!(summary.response.p50 >= summary.service.min, "a response includes its service");
}

#[test]
fn a_closed_run_spends_its_count_over_all_threads() {
    let server = Server::start();
    let mut plan = plan(&server.url(), 5, users(5), Stop::Requests(777));
    plan.threads = 2;
    let outcome = run(&plan).unwrap();
    assert_eq!(outcome.timeline.counts().ok, 777);
    assert_eq!(server.requests.load(Ordering::Relaxed), 777);
}

#[test]
fn a_connection_for_each_request_is_opened_and_closed_for_each() {
    let server = Server::start();
    let mut plan = plan(&server.url(), 4, users(4), Stop::Requests(100));
    plan.keep_alive = false;
    let outcome = run(&plan).unwrap();
    assert_eq!(outcome.timeline.counts().ok, 100);
    let opened: u64 = outcome.timeline.intervals().map(|interval| interval.connections_opened).sum();
    assert_eq!(opened, 100);
}

#[test]
fn deltas_add_up_to_the_outcome() {
    let server = Server::start();
    let plan = plan(&server.url(), 4, rate("2000/s"), Stop::Requests(1000));
    let load = prepare(&plan, Shard::WHOLE).unwrap().start(Instant::now() + Duration::from_millis(10));
    let mut sum = Timeline::default();
    while !load.wait_timeout(Duration::from_millis(50)) {
        sum.merge(&load.take());
    }
    sum.merge(&load.take());
    let progress = load.progress();
    let outcome = load.wait();
    assert_eq!(sum, outcome.timeline);
    assert_eq!((progress.ok, progress.planned), (1000, 1000));
}

#[test]
fn a_stopped_run_keeps_its_books() {
    let server = Server::start();
    let plan = plan(&server.url(), 2, rate("1000/s"), Stop::After(Duration::from_secs(3600)));
    let load = prepare(&plan, Shard::WHOLE).unwrap().start(Instant::now());
    while load.progress().ok < 20 {
        load.wait_timeout(Duration::from_millis(5));
    }
    load.stop();
    let outcome = load.wait();
    assert_eq!(outcome.timeline.counts().check(), Ok(()));
    assert!(outcome.ended_early.is_some());
}

#[test]
fn a_target_that_is_not_there_is_said_before_the_run() {
    let plan = plan("http://127.0.0.1:1/", 10, users(1), Stop::Requests(1));
    let error = prepare(&plan, Shard::WHOLE).unwrap_err();
    assert!(matches!(error, RunError::Connect { .. }), "{error}");
    assert_eq!(
        error.to_string(),
        "cannot connect to http://127.0.0.1:1/ (127.0.0.1:1): Connection refused (os error 111); is the target running?"
    );
}

#[test]
fn a_prepared_run_that_is_dropped_leaves_nothing_behind() {
    let server = Server::start();
    let plan = plan(&server.url(), 3, users(3), Stop::Requests(1));
    drop(prepare(&plan, Shard::WHOLE).unwrap());
    assert_eq!(server.requests.load(Ordering::Relaxed), 0);
}
