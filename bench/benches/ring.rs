//! What one round trip costs the ring itself, and what the timers beside it cost.

use std::hint::black_box;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use criterion::{Criterion, criterion_group, criterion_main};
use fracas_dataplane::clock::Instant;
use fracas_dataplane::ring::{
    BufferSize, Features, KernelRing, Outcome, Ring, RingSettings, SocketOptions, Token,
};
use fracas_dataplane::timers::Timers;

/// As the proxy gives to a pipe of messages.
const CREDIT_BYTES: u32 = 64 * 1024;

fn echo(c: &mut Criterion) {
    let features = Features::probe().expect("the bench needs io_uring");
    let mut ring = KernelRing::new(&RingSettings::default(), features).expect("the bench needs io_uring");
    let any = "127.0.0.1:0".parse().expect("an address");
    let token = Token { role: 0, slot: 0, generation: 0 };
    let (listener, address) = ring.listen(any, &SocketOptions::default()).expect("a free port");
    ring.accept(listener, token);
    ring.wait_until(Instant::ZERO).expect("the ring goes on");
    let mut peer = TcpStream::connect(address).expect("the listener is open");
    peer.set_nodelay(true).expect("a TCP socket");
    let next = |ring: &mut KernelRing| loop {
        if let Some(completion) = ring.next_completion() {
            return completion.outcome;
        }
        ring.wait_until(Instant::FAR_FUTURE).expect("the ring goes on");
    };
    let Outcome::Accepted(socket) = next(&mut ring) else { panic!("a connection was made") };
    ring.receive(socket, token, BufferSize::Small, CREDIT_BYTES);
    let mut reply = [0; 64];
    c.bench_function("ring/echo of 64 bytes, one thread, both ends", |b| {
        b.iter(|| {
            peer.write_all(&[7; 64]).expect("the connection is open");
            let Outcome::Received { chunk, armed } = next(&mut ring) else { panic!("bytes were sent") };
            if !armed {
                ring.receive(socket, token, BufferSize::Small, CREDIT_BYTES);
            }
            ring.send(socket, token, std::iter::once(chunk));
            let Outcome::Sent = next(&mut ring) else { panic!("the connection is open") };
            peer.read_exact(&mut reply).expect("the echo comes");
        });
    });
}

fn timers(c: &mut Criterion) {
    let mut now = Instant::from_nanos(1 << 50);
    let mut timers = Timers::new(now);
    for i in 0..50_000 {
        timers.insert(now + Duration::from_micros(i), i);
    }
    c.bench_function("ring/timers, 50,000 live: pop, insert, next", |b| {
        b.iter(|| {
            now = timers.next_due();
            let (_, item) = timers.pop_due(now).expect("50,000 are live");
            timers.insert(now + Duration::from_millis(50), item);
            black_box(timers.next_due())
        });
    });
}

criterion_group!(benches, echo, timers);
criterion_main!(benches);
