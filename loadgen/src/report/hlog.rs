//! `latency.hlog`: HdrHistogram's interval log (format 1.3, V2 payloads), one line per second and series,
//! tagged `response`, `response_ok` (good replies alone), `service` and `lag`. Values are nanoseconds; the interval maximum, which readers ignore,
//! is in milliseconds as Java's writer has it. A line belongs to the second in which its requests were *due*.

use std::time::Duration;

use hdrhistogram::serialization::V2DeflateSerializer;
use hdrhistogram::serialization::interval_log::{IntervalLogWriterBuilder, Tag};

use super::format::utc;
use crate::measure::{Distribution, OutcomeClass, Timeline};

/// Writes the log; `started_at_unix_ms` is the wall clock at the start of the run.
pub fn hlog(timeline: &Timeline, started_at_unix_ms: u64) -> Vec<u8> {
    let start = format!("{}.{:03}", started_at_unix_ms / 1000, started_at_unix_ms % 1000);
    // Both times, because readers differ in which of the two they need.
    let mut out = format!(
        "#[fracas {}: values in nanoseconds, by due time]\n#[Histogram log format version 1.3]\n\
         #[StartTime: {start} (seconds since epoch), {} UTC]\n#[BaseTime: {start} (seconds since epoch)]\n\
         \"StartTimestamp\",\"Interval_Length\",\"Interval_Max\",\"Interval_Compressed_Histogram\"\n",
        env!("CARGO_PKG_VERSION"),
        utc(started_at_unix_ms),
    )
    .into_bytes();
    for line in interval_lines(timeline).split_inclusive(|byte| *byte == b'\n') {
        // The writer's own header says less than the one above.
        if !line.starts_with(b"#") {
            out.extend_from_slice(line);
        }
    }
    out
}

fn interval_lines(timeline: &Timeline) -> Vec<u8> {
    let mut lines = Vec::new();
    let mut serializer = V2DeflateSerializer::new();
    let mut log = IntervalLogWriterBuilder::new()
        .with_max_value_divisor(1e6)
        .begin_log_with(&mut lines, &mut serializer)
        .expect("a vector takes every byte");
    for interval in timeline.intervals() {
        let series: [(&str, Distribution); 4] = [
            ("response", interval.response_all()),
            ("response_ok", interval.response[OutcomeClass::Ok as usize].clone()),
            ("service", interval.service_all()),
            ("lag", interval.lag.clone()),
        ];
        for (name, distribution) in series.iter().filter(|(_, distribution)| distribution.count() > 0) {
            let start = Duration::from_secs(u64::from(interval.second));
            log.write_histogram(&distribution.to_hdr(), start, Duration::from_secs(1), Tag::new(name))
                .expect("a vector takes every byte and the counts fit 63 bits");
        }
    }
    lines
}
