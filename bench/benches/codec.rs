//! What finding the ends of HTTP messages costs: whole, pipelined, chunked, and in pieces.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use fracas_dataplane::protocol::http::{Asked, Event, ReplyFramer, RequestFramer};

const REQUEST: &[u8] =
    b"GET /cart?id=7 HTTP/1.1\r\nHost: shop.example\r\nUser-Agent: bench\r\nAccept: */*\r\n\r\n";
const REPLY: &[u8] = b"HTTP/1.1 200 OK\r\nServer: bench\r\nContent-Type: text/plain\r\nContent-Length: 12\r\n\r\nhello world\n";
const CHUNKED: &[u8] =
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n7\r\n world\n\r\n0\r\n\r\n";

/// Reads everything in `bytes`; returns how many messages ended.
fn requests(framer: &mut RequestFramer, mut bytes: &[u8]) -> u32 {
    let mut ended = 0;
    loop {
        let step = framer.advance(bytes);
        bytes = &bytes[step.used..];
        match step.event {
            Event::End => ended += 1,
            Event::NeedMore => return ended,
            Event::Invalid(reason) => panic!("{reason}"),
            _ => {}
        }
    }
}

fn reply(framer: &mut ReplyFramer, mut bytes: &[u8]) {
    framer.expect(Asked::method("GET"));
    loop {
        let step = framer.advance(bytes);
        bytes = &bytes[step.used..];
        match step.event {
            Event::End => return,
            Event::Invalid(reason) => panic!("{reason}"),
            _ => {}
        }
    }
}

fn codec(c: &mut Criterion) {
    let mut group = c.benchmark_group("codec");
    let mut framer = RequestFramer::new();
    group.throughput(Throughput::Bytes(REQUEST.len() as u64));
    group.bench_function("request", |b| b.iter(|| requests(&mut framer, black_box(REQUEST))));
    let pipeline = REQUEST.repeat(16);
    group.throughput(Throughput::Bytes(pipeline.len() as u64));
    group.bench_function("request, 16 pipelined", |b| b.iter(|| requests(&mut framer, black_box(&pipeline))));
    let (front, back) = REQUEST.split_at(30);
    group.throughput(Throughput::Bytes(REQUEST.len() as u64));
    group.bench_function("request in two pieces", |b| {
        b.iter(|| requests(&mut framer, black_box(front)) + requests(&mut framer, black_box(back)));
    });
    let mut framer = ReplyFramer::new();
    group.throughput(Throughput::Bytes(REPLY.len() as u64));
    group.bench_function("reply", |b| b.iter(|| reply(&mut framer, black_box(REPLY))));
    group.throughput(Throughput::Bytes(CHUNKED.len() as u64));
    group.bench_function("reply, chunked", |b| b.iter(|| reply(&mut framer, black_box(CHUNKED))));
    group.finish();
}

criterion_group!(benches, codec);
criterion_main!(benches);
