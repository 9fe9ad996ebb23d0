//! Limits the rate at which bytes leave, with a token bucket at the exit of each pipe.
//!
//! The bucket is a virtual clock (GCRA, ITU-T I.371): `paid_until` says until when the bytes released so far
//! use up the rate. A release is allowed while `paid_until` is at most a few milliseconds ahead of now:
//!
//! ```text
//!         now            now + ahead
//! ─────────┼──────────────────┼────────────▶ time
//!      ────────── paid_until ─┘ allowed up to here; beyond: try again at paid_until − ahead
//! ```
//!
//! A caller that wakes up late by less than `ahead` loses nothing, so the long-run rate is exact.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::options::{OptionKind, OptionSpec, Options};
use super::{BehaviorError, Kind, LiveChange, Side, When, bytes_text, rate_text};
use crate::clock::Instant;

/// How far releases may run ahead of the rate: the burst after a pause, and how late a wake-up may be.
pub const THROTTLE_AHEAD: Duration = Duration::from_millis(5);
/// The smallest slice to release at once: an Ethernet segment's payload (1500 − 40).
pub const THROTTLE_SLICE_BYTES_MIN: usize = 1460;
/// The largest slice to release at once.
pub const THROTTLE_SLICE_BYTES_MAX: usize = 256 * 1024;

/// The row of the table of behaviors.
pub(super) const KIND: Kind = Kind {
    name: "throttle",
    aliases: &["bandwidth"],
    summary: "limits bytes per second, for each connection or for the whole proxy; rate 0 stalls",
    options: &[
        OptionSpec {
            name: "rate",
            aliases: &[],
            kind: OptionKind::Rate,
            default: "",
            doc: "bytes per second in each direction; 0 stalls",
            example: "1MB/s",
        },
        OptionSpec {
            name: "per",
            aliases: &[],
            kind: OptionKind::OneOf(&["connection", "client", "proxy"]),
            default: "connection",
            doc: "who shares the rate",
            example: "proxy",
        },
        OptionSpec {
            name: "side",
            aliases: &[],
            kind: OptionKind::OneOf(&["request", "reply", "both"]),
            default: "both",
            doc: "which direction is limited",
            example: "reply",
        },
        OptionSpec {
            name: "queue",
            aliases: &[],
            kind: OptionKind::Bytes,
            default: "256KiB",
            doc: "bytes that may wait in each direction before reading stops",
            example: "1MiB",
        },
    ],
    built: true,
    live_change: LiveChange { bytes: When::Now, messages: When::Now },
    lifted: "bytes that wait leave at once",
};

/// The settings of a throttle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Throttle {
    /// Bytes per second in each direction; 0 stalls.
    pub rate: u64,
    /// Who shares the rate.
    pub per: Per,
    /// Which direction is limited.
    pub side: Side,
    /// Bytes that may wait in one direction before reading stops.
    pub queue_bytes: u64,
}

/// Who shares a throttle's rate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Per {
    /// Each connection has the rate for itself.
    Connection,
    /// All connections of the proxy share it, over all workers.
    Proxy,
}

impl Throttle {
    pub(super) fn parse(options: &Options<'_>) -> Result<Throttle, BehaviorError> {
        let Some(per) = options.one_of("per", &[Some(Per::Connection), None, Some(Per::Proxy)])? else {
            return Err(options.refuse("per", "client", "connection or proxy (client is not built yet)"));
        };
        let queue_bytes = options.bytes("queue")?;
        if queue_bytes == 0 {
            return Err(options.refuse("queue", "0", "at least 1 byte"));
        }
        Ok(Throttle {
            rate: options.rate("rate")?,
            per,
            side: options.one_of("side", &[Side::Request, Side::Reply, Side::Both])?,
            queue_bytes,
        })
    }
}

impl Throttle {
    pub(super) fn option_text(&self, option: &str) -> String {
        match option {
            "rate" => rate_text(self.rate),
            "per" => self.per.word().to_owned(),
            "side" => self.side.word().to_owned(),
            "queue" => bytes_text(self.queue_bytes),
            other => unreachable!("`throttle` has no option `{other}`"),
        }
    }
}

impl Per {
    fn word(self) -> &'static str {
        match self {
            Per::Connection => "connection",
            Per::Proxy => "proxy",
        }
    }
}

/// How many bytes to release at once so that the flow is smooth: 1 ms of the rate, within the slice bounds.
pub fn max_slice(rate: u64) -> usize {
    usize::try_from(rate / 1000)
        .unwrap_or(usize::MAX)
        .clamp(THROTTLE_SLICE_BYTES_MIN, THROTTLE_SLICE_BYTES_MAX)
}

/// The rate of one pipe, owned by its worker.
#[derive(Clone, Debug)]
pub struct Bucket {
    rate: u64,
    paid_until: u64,
}

impl Bucket {
    /// A bucket of `rate` bytes per second; 0 never releases anything.
    pub fn new(rate: u64) -> Bucket {
        Bucket { rate, paid_until: 0 }
    }

    /// The rate in bytes per second.
    pub fn rate(&self) -> u64 {
        self.rate
    }

    /// Changes the rate; what was released before stays paid at the old rate.
    pub fn set_rate(&mut self, rate: u64) {
        self.rate = rate;
    }

    /// Releases `bytes`, at most [`max_slice`] at a time for a smooth flow.
    ///
    /// # Errors
    /// The instant at which to try again; `FAR_FUTURE` when the rate is 0.
    pub fn take(&mut self, bytes: usize, now: Instant) -> Result<(), Instant> {
        if self.rate == 0 {
            return Err(Instant::FAR_FUTURE);
        }
        self.paid_until = pay(self.paid_until, bytes, self.rate, now)?;
        Ok(())
    }
}

/// A rate that all workers of a proxy share.
#[derive(Debug)]
pub struct SharedBucket {
    rate: u64,
    paid_until: AtomicU64,
}

impl SharedBucket {
    /// A bucket of `rate` bytes per second; 0 never releases anything.
    pub fn new(rate: u64) -> SharedBucket {
        SharedBucket { rate, paid_until: AtomicU64::new(0) }
    }

    /// The rate in bytes per second.
    pub fn rate(&self) -> u64 {
        self.rate
    }

    /// As [`Bucket::take`], from any thread, without a lock.
    ///
    /// # Errors
    /// The instant at which to try again; `FAR_FUTURE` when the rate is 0.
    pub fn take(&self, bytes: usize, now: Instant) -> Result<(), Instant> {
        if self.rate == 0 {
            return Err(Instant::FAR_FUTURE);
        }
        let mut paid_until = self.paid_until.load(Ordering::Relaxed);
        loop {
            let next = pay(paid_until, bytes, self.rate, now)?;
            // Relaxed: the number itself is all that is shared.
            match self.paid_until.compare_exchange_weak(
                paid_until,
                next,
                Ordering::Relaxed,
                Ordering::Relaxed,
            ) {
                Ok(_) => return Ok(()),
                Err(found) => paid_until = found,
            }
        }
    }
}

/// `paid_until` counts 1/64 ns, so that rounding stays below 0.1 % for a segment at 20 GB/s; it lasts 9 years
/// of uptime.
const TICKS_PER_NANO: u64 = 64;

/// What `paid_until` becomes when `bytes` more are released, or when to try again.
fn pay(paid_until: u64, bytes: usize, rate: u64, now: Instant) -> Result<u64, Instant> {
    let now_ticks = now.as_nanos().saturating_mul(TICKS_PER_NANO);
    let ahead_ticks = THROTTLE_AHEAD.as_nanos() as u64 * TICKS_PER_NANO;
    if paid_until > now_ticks.saturating_add(ahead_ticks) {
        return Err(Instant::from_nanos((paid_until - ahead_ticks).div_ceil(TICKS_PER_NANO)));
    }
    let cost = (bytes as u128 * 1_000_000_000 * u128::from(TICKS_PER_NANO)).div_ceil(u128::from(rate));
    let cost = u64::try_from(cost).unwrap_or(u64::MAX);
    Ok(paid_until.max(now_ticks).saturating_add(cost))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Rng;

    const START: Instant = Instant::from_nanos(3_600_000_000_000);

    /// Sends greedily for `span` of virtual time, each wake-up late by up to `late`; gives the bytes released.
    fn released(
        rate: u64,
        span: Duration,
        late: Duration,
        mut take: impl FnMut(usize, Instant) -> Result<(), Instant>,
    ) -> u64 {
        let (mut now, mut sent, mut rng) = (START, 0, Rng::new(rate));
        while now < START + span {
            match take(max_slice(rate), now) {
                Ok(()) => sent += max_slice(rate) as u64,
                Err(retry_at) => {
                    assert!(retry_at > now, "a retry must lie ahead");
                    now = retry_at + rng.duration_up_to(late);
                }
            }
        }
        sent
    }

    #[test]
    fn the_long_run_rate_is_exact_even_when_wake_ups_are_late() {
        for rate in [100_000, 1_000_000, 125_000_000, 3_000_000_000, 20_000_000_000] {
            for late in [Duration::ZERO, Duration::from_micros(500), Duration::from_millis(3)] {
                let span = Duration::from_secs(20);
                let mut bucket = Bucket::new(rate);
                let sent = released(rate, span, late, |bytes, now| bucket.take(bytes, now));
                let ratio = sent as f64 / (rate * 20) as f64;
                assert!((0.99..1.01).contains(&ratio), "{rate} {late:?}: {ratio}");
            }
        }
    }

    #[test]
    fn workers_that_interleave_share_one_rate() {
        let rate = 10_000_000;
        let bucket = SharedBucket::new(rate);
        // Four workers, each with its own next wake-up; the earliest goes first, as on a real machine.
        let (mut wakes, mut sent, mut rng) = ([START; 4], [0_u64; 4], Rng::new(9));
        let end = START + Duration::from_secs(10);
        loop {
            let worker = (0..4).min_by_key(|worker| wakes[*worker]).expect("there are four");
            if wakes[worker] >= end {
                break;
            }
            let slice = 1 + rng.below(max_slice(rate) as u64) as usize;
            match bucket.take(slice, wakes[worker]) {
                Ok(()) => {
                    sent[worker] += slice as u64;
                    wakes[worker] += rng.duration_up_to(Duration::from_micros(50));
                }
                Err(retry_at) => {
                    wakes[worker] = retry_at + rng.duration_up_to(Duration::from_micros(300));
                }
            }
        }
        let ratio = sent.iter().sum::<u64>() as f64 / (rate * 10) as f64;
        assert!((0.99..1.01).contains(&ratio), "{ratio}");
        assert!(sent.iter().all(|bytes| *bytes > rate / 2), "nobody starves: {sent:?}");
    }

    #[test]
    fn threads_that_race_never_release_more_than_the_rate() {
        let (rate, slice) = (1_000_000, 1000);
        let bucket = SharedBucket::new(rate);
        let sent: u64 = std::thread::scope(|scope| {
            let workers: Vec<_> = (0..4)
                .map(|_| {
                    scope.spawn(|| {
                        let mut sent = 0;
                        for step in 0..1000 {
                            let now = START + Duration::from_millis(step);
                            while bucket.take(slice, now).is_ok() {
                                sent += slice as u64;
                            }
                        }
                        sent
                    })
                })
                .collect();
            workers.into_iter().map(|worker| worker.join().expect("no worker panics")).sum()
        });
        // 999 ms at the rate, 5 ms ahead, one slice; a thread behind in virtual time only makes it less exact
        // below, never above.
        assert!((999_000..=1_005_000 + slice as u64).contains(&sent), "{sent}");
    }

    #[test]
    fn a_pause_earns_a_few_milliseconds_and_no_more() {
        let mut bucket = Bucket::new(1_000_000);
        let mut burst = 0;
        while bucket.take(1460, START).is_ok() {
            burst += 1460;
        }
        assert_eq!(burst, 4 * 1460, "5 ms of 1 MB/s, to the next whole slice");
    }

    #[test]
    fn rate_zero_stalls_and_a_new_rate_resumes() {
        let mut bucket = Bucket::new(0);
        assert_eq!(bucket.take(1, START), Err(Instant::FAR_FUTURE));
        assert_eq!(SharedBucket::new(0).take(1, START), Err(Instant::FAR_FUTURE));
        bucket.set_rate(1000);
        assert_eq!(bucket.take(1, START), Ok(()));
    }

    #[test]
    fn slices_are_a_millisecond_of_the_rate_within_bounds() {
        for (rate, expected) in [(0, 1460), (1000, 1460), (100_000_000, 100_000), (u64::MAX, 256 * 1024)] {
            assert_eq!(max_slice(rate), expected, "{rate}");
        }
    }
}
