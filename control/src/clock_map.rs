//! Maps instants between the controller's monotonic clock and a node's, from pings with four timestamps.
//!
//! ```text
//! controller  sent ───────────▶ received  node
//!             received ◀─────────── sent
//!
//! offset  = ((node received − sent) + (node sent − received)) / 2
//! |error| ≤ ((received − sent) − (node sent − node received)) / 2        RFC 5905 §8
//! ```
//!
//! The exchange with the shortest round trip has the tightest bound and wins; its bound grows with its age, because
//! two crystals drift apart. No wall clock is involved.

use std::collections::VecDeque;
use std::time::Duration;

use fracas_dataplane::clock::Instant;

/// Two crystals of ±50 ppm drift apart by at most this much.
const DRIFT_PARTS_PER_MILLION: u128 = 100;
/// A longer one tells nothing of a clock that could be used, and starts wait for some round trips.
const ROUND_TRIP_MAX: Duration = Duration::from_secs(10);
/// Exchanges that are kept; at one in 5 s, the last 80 s.
const EXCHANGES_MAX: usize = 16;

/// The four timestamps of one ping.
#[derive(Clone, Copy, Debug)]
pub struct Exchange {
    /// Controller's clock: the ping left.
    pub controller_sent: Instant,
    /// Node's clock: the ping arrived.
    pub node_received: Instant,
    /// Node's clock: the pong left.
    pub node_sent: Instant,
    /// Controller's clock: the pong arrived.
    pub controller_received: Instant,
}

/// A node's clock minus the controller's, and how wrong that may be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offset {
    /// Node minus controller, nanoseconds.
    pub offset_ns: i64,
    /// The true offset is at most this far away.
    pub error: Duration,
}

impl Offset {
    /// The instant on the node's clock that is `at` on the controller's.
    pub fn to_node(self, at: Instant) -> Instant {
        shift(at, i128::from(self.offset_ns))
    }

    /// The instant on the controller's clock that is `at` on the node's.
    pub fn to_controller(self, at: Instant) -> Instant {
        shift(at, -i128::from(self.offset_ns))
    }
}

#[derive(Clone, Copy, Debug)]
struct Estimate {
    offset_ns: i64,
    error: Duration,
    round_trip: Duration,
    taken_at: Instant,
}

/// What is known of one node's clock.
#[derive(Clone, Debug, Default)]
pub struct ClockMap {
    same_boot: bool,
    estimates: VecDeque<Estimate>,
}

impl ClockMap {
    /// Nothing known yet. `same_boot`: node and controller run under one kernel and read one clock, so an
    /// estimate that allows for an offset of zero means exactly zero; one that does not is a time namespace.
    pub fn new(same_boot: bool) -> ClockMap {
        ClockMap { same_boot, estimates: VecDeque::new() }
    }

    /// Takes an exchange in. One whose timestamps contradict each other, or are too far apart, is ignored and gives `false`.
    pub fn add(&mut self, exchange: Exchange) -> bool {
        let Exchange { controller_sent, node_received, node_sent, controller_received } = exchange;
        let nanos = |instant: Instant| i128::from(instant.as_nanos());
        let outside = nanos(controller_received) - nanos(controller_sent);
        let inside = nanos(node_sent) - nanos(node_received);
        if inside < 0 || outside < inside {
            return false;
        }
        let there = nanos(node_received) - nanos(controller_sent);
        let back = nanos(node_sent) - nanos(controller_received);
        let Ok(offset_ns) = i64::try_from((there + back) / 2) else { return false };
        let Ok(round_trip_ns) = u64::try_from(outside - inside) else { return false };
        if round_trip_ns > ROUND_TRIP_MAX.as_nanos() as u64 {
            return false;
        }
        if self.estimates.len() == EXCHANGES_MAX {
            self.estimates.pop_front();
        }
        self.estimates.push_back(Estimate {
            offset_ns,
            // Rounded up: halving must not make the bound too small.
            error: Duration::from_nanos(round_trip_ns.div_ceil(2)),
            round_trip: Duration::from_nanos(round_trip_ns),
            taken_at: controller_received,
        });
        true
    }

    /// The best estimate at `now`; `None` before the first exchange.
    pub fn offset(&self, now: Instant) -> Option<Offset> {
        let bound = |estimate: &Estimate| estimate.error + drift(now.since(estimate.taken_at));
        let best = self.estimates.iter().min_by_key(|estimate| bound(estimate))?;
        let (offset_ns, error) = (best.offset_ns, bound(best));
        if self.same_boot && u128::from(offset_ns.unsigned_abs()) <= error.as_nanos() {
            return Some(Offset::default());
        }
        Some(Offset { offset_ns, error })
    }

    /// Shortest round trip among the exchanges kept.
    pub fn round_trip(&self) -> Option<Duration> {
        self.estimates.iter().map(|estimate| estimate.round_trip).min()
    }
}

fn drift(age: Duration) -> Duration {
    let nanos = age.as_nanos() * DRIFT_PARTS_PER_MILLION / 1_000_000;
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

fn shift(at: Instant, by_ns: i128) -> Instant {
    let nanos = (i128::from(at.as_nanos()) + by_ns).clamp(0, i128::from(u64::MAX));
    Instant::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn exchange(sent: u64, there: u64, inside: u64, back: u64, offset: i64) -> Exchange {
        let node = |nanos: u64| Instant::from_nanos(nanos.checked_add_signed(offset).unwrap());
        Exchange {
            controller_sent: Instant::from_nanos(sent),
            node_received: node(sent + there),
            node_sent: node(sent + there + inside),
            controller_received: Instant::from_nanos(sent + there + inside + back),
        }
    }

    #[test]
    fn a_symmetric_exchange_gives_the_offset_exactly() {
        let mut map = ClockMap::new(false);
        assert_eq!(map.offset(Instant::ZERO), None);
        assert!(map.add(exchange(1_000_000, 300, 50, 300, 77_000)));
        let offset = map.offset(Instant::from_nanos(1_000_650)).unwrap();
        assert_eq!(offset, Offset { offset_ns: 77_000, error: Duration::from_nanos(300) });
        assert_eq!(offset.to_node(Instant::from_nanos(5)), Instant::from_nanos(77_005));
        assert_eq!(offset.to_controller(Instant::from_nanos(77_005)), Instant::from_nanos(5));
        assert_eq!(map.round_trip(), Some(Duration::from_nanos(600)));
    }

    #[test]
    fn the_shortest_round_trip_wins_until_it_is_too_old() {
        let mut map = ClockMap::new(false);
        map.add(exchange(0, 100_000, 0, 900_000, 0));
        map.add(exchange(2_000_000, 10_000, 0, 10_000, 0));
        map.add(exchange(3_000_000, 800_000, 0, 0, 0));
        assert_eq!(map.offset(Instant::from_nanos(4_000_000)).unwrap().offset_ns, 0);
        // After 10 s the 20 µs exchange may be off by 10 µs + 1 ms of drift; a fresh one of 800 µs is better.
        map.add(exchange(10_000_000_000, 800_000, 0, 0, 0));
        assert_eq!(map.offset(Instant::from_nanos(10_001_000_000)).unwrap().offset_ns, 400_000);
    }

    #[test]
    fn one_kernel_means_one_clock_unless_the_pings_disagree() {
        let mut map = ClockMap::new(true);
        map.add(exchange(5_000_000, 30_000, 0, 90_000, 0));
        assert_eq!(map.offset(Instant::from_nanos(6_000_000)), Some(Offset::default()));
        let mut namespace = ClockMap::new(true);
        namespace.add(exchange(5_000_000, 30_000, 0, 90_000, 1_000_000));
        assert!(namespace.offset(Instant::from_nanos(6_000_000)).unwrap().offset_ns > 900_000);
    }

    #[test]
    fn contradictory_timestamps_are_ignored() {
        let mut map = ClockMap::new(false);
        let good = exchange(1000, 10, 10, 10, 0);
        assert!(!map.add(Exchange { node_sent: Instant::from_nanos(1), ..good }));
        assert!(!map.add(Exchange { controller_received: Instant::from_nanos(1005), ..good }));
        assert_eq!(map.offset(Instant::from_nanos(2000)), None);
    }

    proptest! {
        #[test]
        fn the_true_offset_is_within_the_bound(
            exchanges in prop::collection::vec((0_u64..5_000_000, 0_u64..1_000_000, 0_u64..5_000_000), 1..20),
            offset in -1_000_000_000_i64..1_000_000_000,
        ) {
            let mut map = ClockMap::new(false);
            let mut now = 2_000_000_000;
            for (there, inside, back) in exchanges {
                map.add(exchange(now, there, inside, back, offset));
                now += 20_000_000;
            }
            let estimate = map.offset(Instant::from_nanos(now)).unwrap();
            prop_assert!(u128::from(estimate.offset_ns.abs_diff(offset)) <= estimate.error.as_nanos());
        }
    }
}
