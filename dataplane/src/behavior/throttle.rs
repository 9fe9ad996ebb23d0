//! Limits the rate at which bytes leave, with a bucket at the exit of each pipe.
//!
//! Time is paid first: bytes leave when the time that they take at the rate is over, and none before. The bucket is a
//! virtual clock (compare GCRA, ITU-T I.371): `paid_until` says until when the bytes so far use up the rate. A slice
//! is given the next span of it, which begins when the one before ends, or when the slice came if that was later:
//!
//! ```text
//!     slice comes      it leaves
//! ─────────┼──────────────┼────────────▶ time        after a pause nothing is saved up; a slice that is let go
//!          └── its span ──┘ paid_until               late does not delay the next, so the long-run rate is exact
//! ```

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::options::{OptionKind, OptionSpec, Options};
use super::{
    Amount, BehaviorError, ClientView, Deed, Direction, Gate, Kind, LiveChange, Misbehave, Passage, Place,
    Side, When,
};
use crate::clock::Instant;
use crate::rng::Rng;
use crate::units::{byte_rate_text as rate_text, bytes_text};

/// How late a wake-up may be without loss: what a slow sink, or a late turn, left unused beyond it is gone.
pub const THROTTLE_LATE_MAX: Duration = Duration::from_millis(20);
/// The smallest slice at rates that can afford it: an Ethernet segment's payload (1500 − 40).
pub const THROTTLE_SLICE_BYTES_MIN: usize = 1460;
/// The largest slice to release at once.
pub const THROTTLE_SLICE_BYTES_MAX: usize = 256 * 1024;

/// The row of the table of behaviors.
pub(super) const KIND: Kind = Kind {
    name: "throttle",
    aliases: &["bandwidth"],
    summary: "limits bytes per second, for each connection or for the whole proxy; bytes leave when their time at the rate is over; rate 0 stalls",
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
            kind: OptionKind::OneOf(&["connection", "proxy"]),
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
    client: ClientView::HELD_UNTOLD,
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

impl Misbehave for Throttle {
    fn parse(options: &Options<'_>) -> Result<Throttle, BehaviorError> {
        let per = options.one_of("per", &[Per::Connection, Per::Proxy])?;
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

    fn option_text(&self, option: &str) -> String {
        match option {
            "rate" => rate_text(self.rate),
            "per" => self.per.word().to_owned(),
            "side" => self.side.word().to_owned(),
            "queue" => bytes_text(self.queue_bytes),
            other => unreachable!("`throttle` has no option `{other}`"),
        }
    }

    fn place(&self) -> Place {
        Place::Pipes
    }

    fn gate(&self, shared: Option<&SharedRate>, _: Rng) -> Option<Gate> {
        let own = [Bucket::new(self.rate), Bucket::new(self.rate)];
        Some(Gate::Metered(Metered { settings: *self, shared: shared.cloned(), own, has_held: false }))
    }

    fn shared(&self) -> Option<SharedRate> {
        (self.per == Per::Proxy).then(|| [(); 2].map(|()| Arc::new(SharedBucket::new(self.rate))))
    }
}

/// The buckets that all connections of a proxy share, one for each direction (`Direction as usize`).
pub type SharedRate = [Arc<SharedBucket>; 2];

/// Lets bytes leave at a rate.
#[derive(Debug)]
pub struct Metered {
    settings: Throttle,
    pub(super) shared: Option<SharedRate>,
    /// The connection's own, for each direction, where nothing is shared.
    own: [Bucket; 2],
    /// Bytes have had to wait.
    has_held: bool,
}

impl Passage for Metered {
    fn covers(&self, direction: Direction) -> bool {
        self.settings.side.covers(direction)
    }

    fn most(&mut self, _: Direction, waiting: usize) -> usize {
        waiting.min(max_slice(self.settings.rate))
    }

    fn leaves(&mut self, direction: Direction, bytes: usize, came: Instant, now: Instant) -> Instant {
        let leaves = match &self.shared {
            Some(shared) => shared[direction as usize].pay(bytes, came, now),
            None => self.own[direction as usize].pay(bytes, came, now),
        };
        self.has_held |= leaves > now;
        leaves
    }

    fn delays(&self) -> bool {
        true
    }

    fn queue_bytes(&self) -> Option<usize> {
        Some(usize::try_from(self.settings.queue_bytes).unwrap_or(usize::MAX))
    }

    fn done(&self) -> Option<Deed> {
        self.has_held.then_some(Deed { words: "limited to", amount: Amount::Rate(self.settings.rate) })
    }

    fn goes_on_from(&mut self, earlier: &Metered) -> bool {
        let (new, old) = (&self.settings, &earlier.settings);
        let shares_alike = match (&self.shared, &earlier.shared) {
            (None, None) => true,
            (Some(new), Some(old)) => Arc::ptr_eq(&new[0], &old[0]),
            _ => false,
        };
        let is_same = new.rate == old.rate && new.side == old.side && shares_alike;
        if is_same {
            (self.own, self.has_held) = (earlier.own.clone(), earlier.has_held);
        }
        is_same
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

/// How many bytes to release at once so that the flow is even: 1 ms of the rate, or a segment if it takes no more than
/// 20 ms; at lower rates 20 ms of the rate.
pub fn max_slice(rate: u64) -> usize {
    let bytes = |rate: u64| usize::try_from(rate).unwrap_or(usize::MAX);
    let segment = THROTTLE_SLICE_BYTES_MIN.min(bytes(rate / 50));
    bytes(rate / 1000).max(segment).clamp(1, THROTTLE_SLICE_BYTES_MAX)
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

    /// Pays for `bytes` that came at `came`; gives when they may leave, `FAR_FUTURE` when the rate is 0. Whoever asks
    /// has paid, and asks once. At most [`max_slice`] at a time gives an even flow.
    pub fn pay(&mut self, bytes: usize, came: Instant, now: Instant) -> Instant {
        if self.rate == 0 {
            return Instant::FAR_FUTURE;
        }
        self.paid_until = pay(self.paid_until, bytes, self.rate, came, now);
        instant(self.paid_until)
    }
}

/// A rate that all workers of a proxy share; whoever asks first is served first.
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

    /// As [`Bucket::pay`], from any thread, without a lock.
    pub fn pay(&self, bytes: usize, came: Instant, now: Instant) -> Instant {
        if self.rate == 0 {
            return Instant::FAR_FUTURE;
        }
        let mut paid_until = self.paid_until.load(Ordering::Relaxed);
        loop {
            let next = pay(paid_until, bytes, self.rate, came, now);
            // Relaxed: the number itself is all that is shared.
            match self.paid_until.compare_exchange_weak(
                paid_until,
                next,
                Ordering::Relaxed,
                Ordering::Relaxed,
            ) {
                Ok(_) => return instant(next),
                Err(found) => paid_until = found,
            }
        }
    }
}

/// `paid_until` counts 1/64 ns, so that rounding stays below 0.1 % for a segment at 20 GB/s; it lasts 9 years
/// of uptime.
const TICKS_PER_NANO: u64 = 64;

/// What `paid_until` becomes when `bytes` more, which came at `came`, are given their span of the rate.
fn pay(paid_until: u64, bytes: usize, rate: u64, came: Instant, now: Instant) -> u64 {
    let ticks = |at: Instant| at.as_nanos().saturating_mul(TICKS_PER_NANO);
    let cost = (bytes as u128 * 1_000_000_000 * u128::from(TICKS_PER_NANO)).div_ceil(u128::from(rate));
    let cost = u64::try_from(cost).unwrap_or(u64::MAX);
    let late_max = THROTTLE_LATE_MAX.as_nanos() as u64 * TICKS_PER_NANO;
    // The span may lie in the past by a late wake-up, and no further.
    let begins = paid_until.max(ticks(came)).max(ticks(now).saturating_sub(cost.saturating_add(late_max)));
    begins.saturating_add(cost)
}

fn instant(ticks: u64) -> Instant {
    if ticks == u64::MAX { Instant::FAR_FUTURE } else { Instant::from_nanos(ticks.div_ceil(TICKS_PER_NANO)) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Rng;

    const START: Instant = Instant::from_nanos(3_600_000_000_000);

    /// Sends greedily from START for `span` of virtual time, each wake-up late by up to `late`; gives the bytes
    /// released, and never finds more of them than the rate allows.
    fn released(
        rate: u64,
        span: Duration,
        late: Duration,
        mut pay: impl FnMut(usize, Instant, Instant) -> Instant,
    ) -> u64 {
        let (mut now, mut sent, mut rng) = (START, 0, Rng::new(rate));
        loop {
            let slice = 1 + rng.below(max_slice(rate) as u64);
            let leaves = pay(slice as usize, START, now);
            if leaves > now {
                now = leaves + rng.duration_up_to(late);
            }
            if now > START + span {
                return sent;
            }
            sent += slice;
            let allowed = (now - START).as_nanos() * u128::from(rate) / 1_000_000_000;
            assert!(u128::from(sent) <= allowed, "{sent} bytes after {:?} at {rate} B/s", now - START);
        }
    }

    #[test]
    fn the_long_run_rate_is_exact_even_when_wake_ups_are_late_and_is_never_ahead() {
        for rate in [100, 1000, 100_000, 1_000_000, 125_000_000, 3_000_000_000, 20_000_000_000] {
            for late in [Duration::ZERO, Duration::from_micros(500), Duration::from_millis(15)] {
                let span = Duration::from_secs(20);
                let mut bucket = Bucket::new(rate);
                let sent = released(rate, span, late, |bytes, came, now| bucket.pay(bytes, came, now));
                let ratio = sent as f64 / (rate * 20) as f64;
                assert!((0.99..=1.0).contains(&ratio), "{rate} {late:?}: {ratio}");
            }
        }
    }

    #[test]
    fn workers_that_interleave_share_one_rate() {
        let rate = 10_000_000;
        let bucket = SharedBucket::new(rate);
        // Four workers, each with a slice that waits for its time; the earliest goes first.
        let mut rng = Rng::new(9);
        let mut slice = || 1 + rng.below(max_slice(rate) as u64);
        let mut waiting = [(START, 0); 4];
        let mut sent = [0_u64; 4];
        let end = START + Duration::from_secs(10);
        loop {
            let worker = (0..4).min_by_key(|worker| waiting[*worker].0).expect("there are four");
            let (now, bytes) = waiting[worker];
            if now >= end {
                break;
            }
            sent[worker] += bytes;
            let allowed = (now - START).as_nanos() as u64 * (rate / 1_000_000) / 1000;
            assert!(sent.iter().sum::<u64>() <= allowed);
            let next = slice();
            waiting[worker] = (bucket.pay(next as usize, now, now), next);
        }
        let ratio = sent.iter().sum::<u64>() as f64 / (rate * 10) as f64;
        assert!((0.99..=1.0).contains(&ratio), "{ratio}");
        assert!(sent.iter().all(|bytes| *bytes > rate * 2), "nobody starves: {sent:?}");
    }

    #[test]
    fn threads_that_race_never_get_the_same_time_twice() {
        let (rate, slice) = (1_000_000, 1000);
        let bucket = SharedBucket::new(rate);
        let leaves: Vec<Instant> = std::thread::scope(|scope| {
            let workers: Vec<_> = (0..4)
                .map(|_| {
                    scope.spawn(|| (0..1000).map(|_| bucket.pay(slice, START, START)).collect::<Vec<_>>())
                })
                .collect();
            workers.into_iter().flat_map(|worker| worker.join().expect("no worker panics")).collect()
        });
        let mut sorted = leaves.clone();
        sorted.sort_unstable();
        let expected: Vec<Instant> = (1..=4000).map(|ms| START + Duration::from_millis(ms)).collect();
        assert_eq!(sorted, expected);
    }

    #[test]
    fn a_pause_earns_nothing() {
        let mut bucket = Bucket::new(1000);
        let second = Duration::from_secs(1);
        assert_eq!(bucket.pay(1000, START, START), START + second, "the first bytes pay, too");
        let later = START + Duration::from_secs(100);
        assert_eq!(bucket.pay(1000, later, later), later + second);
        // What came long ago and was held up by a slow sink has not paid meanwhile.
        let much_later = later + Duration::from_secs(100);
        assert_eq!(bucket.pay(1000, later, much_later), much_later - THROTTLE_LATE_MAX);
        assert_eq!(bucket.pay(1000, later, much_later), much_later - THROTTLE_LATE_MAX + second);
    }

    #[test]
    fn rate_zero_stalls() {
        assert_eq!(Bucket::new(0).pay(1, START, START), Instant::FAR_FUTURE);
        assert_eq!(SharedBucket::new(0).pay(1, START, START), Instant::FAR_FUTURE);
    }

    #[test]
    fn slices_are_a_millisecond_of_the_rate_or_a_segment_or_twenty_milliseconds() {
        for (rate, expected) in [
            (0, 1),
            (10, 1),
            (100, 2),
            (1000, 20),
            (73_000, 1460),
            (1_000_000, 1460),
            (100_000_000, 100_000),
            (u64::MAX, 256 * 1024),
        ] {
            assert_eq!(max_slice(rate), expected, "{rate}");
        }
    }
}
