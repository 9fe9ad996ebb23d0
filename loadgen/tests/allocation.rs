//! The loop of a load worker allocates nothing: after a warm-up, on the kernel's ring, in the closed model and in
//! the open one. What hands figures over, once a second and on a command, does.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail the test")]

#[path = "../../dataplane/tests/support/allocations.rs"]
mod allocations;
#[allow(dead_code)]
#[path = "support/server.rs"]
mod server;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use fracas_dataplane::ring::{Features, KernelRing, Ring, RingSettings, SocketOptions};
use fracas_loadgen::arrival::Shard;
use fracas_loadgen::runner::{Worker, WorkerSettings};
use fracas_loadgen::scenario::{Load, Pace, Phase, Plan, Stop};
use server::Server;

const CONNECTIONS: u32 = 4;
/// Requests that are counted.
const REQUESTS: u64 = 2000;

/// What a worker allocates in the turns of `REQUESTS` requests, and where it does first.
fn allocations(url: &str, address: SocketAddr, load: Load) -> (u64, String) {
    let mut plan = Plan::for_target(url.parse().unwrap());
    plan.connections = CONNECTIONS;
    plan.phases = vec![Phase { load, stop: Stop::After(Duration::from_secs(3600)), warm_up: false }];
    let features = Features::probe().expect("tests need io_uring");
    let ring = KernelRing::new(&RingSettings::default(), features).expect("tests need io_uring");
    let options = SocketOptions::default();
    let mut worker =
        Worker::new(ring, WorkerSettings { plan, shard: Shard::WHOLE, target: address, options });
    while !worker.readiness().is_settled {
        worker.turn().unwrap();
    }
    // What was due in the past is sent at once, on all connections together.
    let start = worker.ring().now() - Duration::from_millis(100);
    worker.start(start);
    // Several seconds are recorded at a time before their histograms come back to be used again, more than
    // there are between two of the takes below.
    while worker.now().since(start) < Duration::from_millis(3300) {
        worker.turn().unwrap();
    }
    worker.take();
    let done = |worker: &Worker<KernelRing>| worker.totals().0.ok;
    let end = done(&worker) + REQUESTS;
    let mut taken = worker.now();
    while done(&worker) < end {
        allocations::counting(|| worker.turn()).unwrap();
        if worker.now().since(taken) > Duration::from_millis(500) {
            taken = worker.now();
            worker.take();
        }
    }
    let counted = allocations::counted();
    worker.abort();
    while !worker.is_closed() {
        worker.turn().unwrap();
    }
    let counts = worker.totals().0;
    assert_eq!((counts.check(), counts.error, counts.timeout), (Ok(()), 0, 0));
    counted
}

fn assert_none((count, first): (u64, String)) {
    assert_eq!(count, 0, "{count} allocations in {REQUESTS} requests, the first of them here:\n{first}");
}

fn closed() -> Load {
    Load::Closed { users: CONNECTIONS, think_time: Duration::ZERO }
}

fn open() -> Load {
    Load::Open(Pace::Poisson { rate: "2000/s".parse().unwrap() })
}

fn http(load: Load) -> (u64, String) {
    let server = Server::start();
    allocations(&server.url(), server.address, load)
}

fn echo(load: Load) -> (u64, String) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            std::thread::spawn(move || {
                let mut bytes = [0; 4096];
                while let Ok(count @ 1..) = stream.read(&mut bytes) {
                    if stream.write_all(&bytes[..count]).is_err() {
                        return;
                    }
                }
            });
        }
    });
    allocations(&format!("tcp://{address}"), address, load)
}

#[test]
fn users_of_http_cost_no_allocation() {
    assert_none(http(closed()));
}

#[test]
fn arrivals_at_http_cost_no_allocation() {
    assert_none(http(open()));
}

#[test]
fn users_of_an_echo_server_cost_no_allocation() {
    assert_none(echo(closed()));
}

#[test]
fn arrivals_at_an_echo_server_cost_no_allocation() {
    assert_none(echo(open()));
}
