//! Bytes through the proxy on the kernel's ring under mean settings: random sizes and timings, both directions
//! at once, half-close in each order; what arrives has the SHA-256 of what was said.
//!
//! A failure prints its seed; `SEED=42 cargo test --test integrity` runs that one again.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod support;

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::mpsc;
use std::time::Duration;

use fracas_dataplane::protocol::Protocol;
use fracas_dataplane::proxy::WorkerSnapshot;
use fracas_dataplane::ring::simulated::seeds;
use fracas_dataplane::ring::{Features, PoolSettings, RingSettings};
use fracas_dataplane::rng::Rng;
use rand::Rng as _;
use sha2::{Digest, Sha256};
use support::{WorkerPlan, WorkerThread, rules, serve};

const CONNECTIONS: u32 = 6;
const CLIENT: u64 = 0;
const SERVER: u64 = 1;

/// Who says its last word, and sends its FIN, only after the other's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Last {
    Nobody,
    Client,
    Server,
}

type Hash = [u8; 32];

/// What one side of a talk says: its number, then random bytes, one at least for the last word.
fn speech(seed: u64, side: u64, number: u32, bytes_max: u64) -> Vec<u8> {
    let mut rng = Rng::stream(seed, &[side, u64::from(number)]);
    let limit = [0, 100, bytes_max / 10, bytes_max][rng.below(4) as usize];
    let mut bytes = vec![0; 5 + rng.below(limit + 1) as usize];
    rng.fill_bytes(&mut bytes);
    bytes[..4].copy_from_slice(&number.to_be_bytes());
    bytes
}

fn hash(bytes: &[u8]) -> Hash {
    Sha256::digest(bytes).into()
}

/// Now and then, a moment.
fn pause(rng: &mut Rng) {
    if rng.below(8) == 0 {
        std::thread::sleep(rng.duration_up_to(Duration::from_micros(500)));
    }
}

/// Says all of `says` while it hears; returns the hash of what it heard, `heard` included.
fn talk(mut stream: TcpStream, says: Vec<u8>, heard: &[u8], is_last: bool, mut rng: Rng) -> Hash {
    stream.set_nodelay(true).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let mut sha = Sha256::new_with_prefix(heard);
    let mut from = stream.try_clone().unwrap();
    let mut pauses = Rng::new(rng.next_u64());
    let listener = std::thread::spawn(move || {
        let mut buffer = vec![0; 100_000];
        loop {
            let room = 1 + pauses.below(100_000) as usize;
            match from.read(&mut buffer[..room]).unwrap() {
                0 => return sha.finalize().into(),
                length => sha.update(&buffer[..length]),
            }
            pause(&mut pauses);
        }
    });
    let (mut rest, last) = says.split_at(if is_last { says.len() - 1 } else { says.len() });
    while !rest.is_empty() {
        let limit = if rng.below(3) == 0 { 100_000 } else { 300 };
        let (piece, others) = rest.split_at(rest.len().min(1 + rng.below(limit) as usize));
        stream.write_all(piece).unwrap();
        rest = others;
        pause(&mut rng);
    }
    if !is_last {
        stream.shutdown(Shutdown::Write).unwrap();
        return listener.join().unwrap();
    }
    let heard = listener.join().unwrap();
    stream.write_all(last).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    heard
}

/// Talks on several connections at once in each order of half-closes; returns what the workers counted.
fn assert_intact(mean: impl Fn(&mut WorkerPlan), bytes_max: u64) -> Vec<WorkerSnapshot> {
    let mut snapshots = Vec::new();
    for (seed, last) in
        seeds(2).flat_map(|seed| [Last::Nobody, Last::Client, Last::Server].map(|last| (seed, last)))
    {
        println!("SEED={seed} {last:?}");
        let (tell, told) = mpsc::channel();
        let upstream = serve(Default::default(), move |mut stream| {
            let mut head = [0; 4];
            stream.read_exact(&mut head).unwrap();
            let number = u32::from_be_bytes(head);
            let says = speech(seed, SERVER, number, bytes_max);
            let rng = Rng::stream(seed, &[SERVER, u64::from(number), 1]);
            let heard = talk(stream, says, &head, last == Last::Server, rng);
            tell.send((number, heard)).unwrap();
        });
        let mut plan = WorkerPlan::new(upstream, Protocol::Tcp, Vec::new());
        mean(&mut plan);
        let worker = WorkerThread::start(plan);
        let address = worker.address;
        let clients: Vec<_> = (0..CONNECTIONS)
            .map(|number| {
                std::thread::spawn(move || {
                    let stream = TcpStream::connect(address).unwrap();
                    let rng = Rng::stream(seed, &[CLIENT, u64::from(number), 1]);
                    let says = speech(seed, CLIENT, number, bytes_max);
                    talk(stream, says, b"", last == Last::Client, rng)
                })
            })
            .collect();
        for (number, client) in (0..).zip(clients) {
            let expected = hash(&speech(seed, SERVER, number, bytes_max));
            assert_eq!(client.join().unwrap(), expected, "reply {number} (SEED={seed} {last:?})");
        }
        for (number, heard) in told.iter().take(CONNECTIONS as usize) {
            let expected = hash(&speech(seed, CLIENT, number, bytes_max));
            assert_eq!(heard, expected, "request {number} (SEED={seed} {last:?})");
        }
        let snapshot = worker.finish();
        let counters = snapshot.proxies[&0].counters;
        let said = |side| {
            let lengths = (0..CONNECTIONS).map(|number| speech(seed, side, number, bytes_max).len() as u64);
            lengths.sum::<u64>()
        };
        assert_eq!((counters.request_bytes, counters.reply_bytes), (said(CLIENT), said(SERVER)));
        assert_eq!((counters.client_resets, counters.upstream_resets, counters.connect_failures), (0, 0, 0));
        assert_eq!((counters.connections_opened, counters.connections_closed), (6, 6));
        assert_eq!((snapshot.connections, snapshot.held_bytes), (0, 0));
        snapshots.push(snapshot);
    }
    snapshots
}

/// Without it, the setting would not be as mean as its test says. One seed alone may be kind.
fn assert_any(snapshots: &[WorkerSnapshot], what: impl Fn(&WorkerSnapshot) -> u64) {
    assert!(snapshots.iter().map(what).sum::<u64>() > 0 || seeds(2).count() == 1);
}

fn one_buffer(plan: &mut WorkerPlan) {
    let one = |buffer_bytes| PoolSettings { buffer_bytes, buffers: 1, published: 1 };
    plan.ring = RingSettings { small: one(3000), large: one(10_000), ..plan.ring };
}

fn short_queues(plan: &mut WorkerPlan) {
    plan.ring = RingSettings { sq_entries: 2, cq_entries: 2, ..plan.ring };
}

fn small_send_buffers(plan: &mut WorkerPlan) {
    // The kernel raises it to its least, 4,608 bytes.
    plan.options.send_buffer_bytes = Some(1);
}

fn old_kernel(plan: &mut WorkerPlan) {
    plan.features = Features {
        defer_taskrun: false,
        no_sqarray: false,
        receive_credit: false,
        absolute_deadline: false,
        registered_ring: false,
    };
}

#[test]
fn bytes_arrive_unchanged_through_one_buffer() {
    let snapshots = assert_intact(one_buffer, 400_000);
    assert_any(&snapshots, |snapshot| snapshot.proxies[&0].counters.no_buffers);
}

#[test]
fn bytes_arrive_unchanged_through_short_queues() {
    let snapshots = assert_intact(short_queues, 2_000_000);
    assert_any(&snapshots, |snapshot| snapshot.overflows);
}

#[test]
fn bytes_arrive_unchanged_through_small_send_buffers() {
    assert_intact(small_send_buffers, 200_000);
}

#[test]
fn bytes_arrive_unchanged_where_reading_is_stopped_by_cancels() {
    assert_intact(|plan| plan.features.receive_credit = false, 4_000_000);
}

#[test]
fn bytes_arrive_unchanged_on_an_old_kernel() {
    assert_intact(old_kernel, 2_000_000);
}

#[test]
fn bytes_arrive_unchanged_after_a_delay() {
    let time = [("delay", "time", "uniform(0ms,3ms)"), ("delay", "side", "both")];
    let snapshots = assert_intact(|plan| plan.rules = rules("delay", &time), 500_000);
    assert_any(&snapshots, |snapshot| snapshot.proxies[&0].rules[0].injected);
}

#[test]
fn bytes_arrive_unchanged_when_everything_is_mean_at_once() {
    let mean = |plan: &mut WorkerPlan| {
        one_buffer(plan);
        short_queues(plan);
        small_send_buffers(plan);
        old_kernel(plan);
    };
    assert_intact(mean, 100_000);
}
