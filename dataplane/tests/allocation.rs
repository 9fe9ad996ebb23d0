//! The hot path allocates nothing: after a warm-up, a worker on the kernel's ring carries round trips without a
//! single allocation on its thread.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

#[path = "support/allocations.rs"]
mod allocations;
mod support;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use fracas_dataplane::behavior::Rule;
use fracas_dataplane::config::Config;
use fracas_dataplane::protocol::Protocol;
use fracas_dataplane::proxy::Recorder;
use support::{EchoServer, HttpServer, WorkerPlan, WorkerThread};

const WARM_UP: u8 = 0;
const COUNTING: u8 = 1;
const OVER: u8 = 2;

/// One at a time on each of a few connections, so that every run has the same operations in flight.
const CONNECTIONS: usize = 8;
const ROUNDS: usize = 200;

/// What a worker allocates for `ROUNDS` × `CONNECTIONS` round trips, and where it does first.
fn allocations(
    upstream: SocketAddr,
    protocol: Protocol,
    rules: Vec<Rule>,
    round_trip: impl Fn(&mut TcpStream),
) -> (u64, String) {
    let stage = Arc::new(AtomicU8::new(WARM_UP));
    let (tell, told) = mpsc::channel();
    let worker = {
        let (stage, mut tell) = (Arc::clone(&stage), Some(tell));
        WorkerThread::turned_by(WorkerPlan::new(upstream, protocol, rules), move |worker| {
            match stage.load(Ordering::SeqCst) {
                COUNTING => allocations::counting(|| worker.turn()).unwrap(),
                stage => {
                    worker.turn().unwrap();
                    if stage == OVER
                        && let Some(tell) = tell.take()
                    {
                        tell.send(allocations::counted()).unwrap();
                    }
                }
            }
        })
    };
    let mut clients: Vec<TcpStream> = (0..CONNECTIONS)
        .map(|_| {
            let client = TcpStream::connect(worker.address).unwrap();
            client.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
            client
        })
        .collect();
    let mut rounds = |count| (0..count).for_each(|_| clients.iter_mut().for_each(&round_trip));
    rounds(ROUNDS);
    stage.store(COUNTING, Ordering::SeqCst);
    rounds(ROUNDS);
    stage.store(OVER, Ordering::SeqCst);
    rounds(1);
    drop(clients);
    let snapshot = worker.finish();
    // It was the proxy that carried them, and nothing else was counted.
    assert_eq!(snapshot.proxies[&0].counters.connections_opened as usize, CONNECTIONS);
    assert!(snapshot.proxies[&0].rules.iter().all(|rule| rule.injected == 0));
    told.recv().unwrap()
}

fn assert_none((count, first): (u64, String)) {
    let round_trips = ROUNDS * CONNECTIONS;
    assert_eq!(
        count, 0,
        "{count} allocations in {round_trips} round trips, the first of them here:\n{first}"
    );
}

fn rules(text: &str) -> Vec<Rule> {
    let head = "proxies: [{listen: '127.0.0.1:1', upstream: '127.0.0.1:2', protocol: http, rules: ";
    Config::parse(&format!("{head}[{text}]}}]"), "test").unwrap().proxies.remove(0).rules
}

fn echo(client: &mut TcpStream) {
    let mut got = [0; 1000];
    client.write_all(&[7; 1000]).unwrap();
    client.read_exact(&mut got).unwrap();
    assert_eq!(got, [7; 1000]);
}

fn get(client: &mut TcpStream) {
    assert_eq!(support::get(client, "/").unwrap().0, 200);
}

#[test]
fn plain_bytes_without_rules_allocate_nothing() {
    let server = EchoServer::start();
    assert_none(allocations(server.address, Protocol::Tcp, Vec::new(), echo));
}

#[test]
fn plain_bytes_under_rules_that_never_match_allocate_nothing() {
    let server = EchoServer::start();
    let elsewhere = rules(
        "{behavior: delay, match: {client: [10.0.0.0/8]}}, {behavior: error, share: 0},
         {behavior: reset, scope: connection, nth: 1000000}",
    );
    assert_none(allocations(server.address, Protocol::Tcp, elsewhere, echo));
}

#[test]
fn plain_bytes_under_a_rule_that_draws_for_each_chunk_allocate_nothing() {
    let server = EchoServer::start();
    let rare = rules("{behavior: delay, scope: exchange, nth: 1000000000}");
    assert_none(allocations(server.address, Protocol::Tcp, rare, echo));
}

#[test]
fn messages_without_rules_allocate_nothing() {
    let server = HttpServer::start("hello");
    assert_none(allocations(server.address, Protocol::Http, Vec::new(), get));
}

#[test]
fn messages_under_a_rule_that_never_matches_allocate_nothing() {
    let server = HttpServer::start("hello");
    let elsewhere =
        rules("{behavior: delay, match: {method: POST, path: ['/never/*'], header: {x-test: '*'}}}");
    assert_none(allocations(server.address, Protocol::Http, elsewhere, get));
}

#[test]
fn a_million_times_from_a_microsecond_to_an_hour_are_recorded_without_an_allocation() {
    let recorder = Recorder::new();
    let times: Vec<u64> =
        (0..1_000_000u32).map(|i| (1e3 * 3.6e9f64.powf(f64::from(i) / 999_999.0)) as u64).collect();
    allocations::counting(|| times.iter().for_each(|time| recorder.record(*time)));
    let (count, first) = allocations::counted();
    assert_eq!((count, recorder.read().len()), (0, 1_000_000), "{first}");
}

#[test]
fn an_allocation_would_be_counted() {
    assert_eq!(allocations::counting(|| vec![1u8; 10]).len(), 10);
    assert_eq!(allocations::counted().0, 1);
}
