//! What recording one service time costs the loop that records it.

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use hdrhistogram::Histogram;

/// 1 ns to 60 s with three digits, as the load generator records.
fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 60_000_000_000, 3).expect("the bounds and three digits are legal")
}

fn record(c: &mut Criterion) {
    let mut target = histogram();
    // A fixed walk over 20 µs to 5 ms: neighbouring samples fall into different buckets, as they do in a run.
    let mut state = 1_u64;
    c.bench_function("histogram/record", |b| {
        b.iter(|| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            target.saturating_record(black_box(20_000 + (state >> 33) % 5_000_000));
        });
    });
}

fn merge(c: &mut Criterion) {
    let mut node = histogram();
    for sample in 0..100_000_u64 {
        node.saturating_record(20_000 + sample * 50);
    }
    let mut total = histogram();
    c.bench_function("histogram/merge", |b| {
        b.iter(|| total.add(black_box(&node)).expect("equal bounds merge"));
    });
}

criterion_group!(benches, record, merge);
criterion_main!(benches);
