//! A server of known capacity: so many workers, each busy for a fixed time with a request, one queue for all.

use std::collections::VecDeque;
use std::time::Duration;

use crate::clock::Instant;

/// How many workers serve, and how long each is busy with one request: the origin then answers at most
/// `workers` / `time` requests per second, whatever the number of connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServiceSettings {
    /// Requests that are served at the same time.
    pub workers: usize,
    /// How long one takes.
    pub time: Duration,
}

/// When each worker is free again: an M/D/c queue without a thread behind it.
///
/// Requests are served in the order in which they came, also when their client has gone meanwhile. As all take
/// the same time, workers become free in the order in which they began, so a queue of instants is enough.
#[derive(Debug)]
pub(super) struct Service {
    time: Duration,
    free_at: VecDeque<Instant>,
}

impl Service {
    pub fn new(settings: ServiceSettings) -> Service {
        Service { time: settings.time, free_at: vec![Instant::ZERO; settings.workers.max(1)].into() }
    }

    /// Queues a request that may begin at `ready`, which never goes back; returns when it is done.
    pub fn serve(&mut self, ready: Instant) -> Instant {
        let free_at = self.free_at.pop_front().unwrap_or(ready);
        let done = free_at.max(ready) + self.time;
        self.free_at.push_back(done);
        done
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(milliseconds: u64) -> Instant {
        Instant::from_nanos(1_000_000_000 + milliseconds * 1_000_000)
    }

    #[test]
    fn requests_wait_for_a_free_worker_in_the_order_in_which_they_came() {
        let mut service = Service::new(ServiceSettings { workers: 2, time: Duration::from_millis(10) });
        for (comes_at, done_at) in [
            (0, 10),
            (0, 10),
            (0, 20),
            (5, 20),
            (5, 30),
            (31, 41),
            (32, 42),
            (33, 51),
            (100, 110),
            (100, 110),
        ] {
            assert_eq!(service.serve(ms(comes_at)), ms(done_at), "came at {comes_at} ms");
        }
    }

    #[test]
    fn an_overloaded_service_does_exactly_its_capacity() {
        let mut service = Service::new(ServiceSettings { workers: 4, time: Duration::from_millis(10) });
        // 500 a second for ten seconds at a server that can do 400.
        let done: Vec<Instant> = (0..5000).map(|index| service.serve(ms(index * 2))).collect();
        let within = |from, to| done.iter().filter(|done| (ms(from)..ms(to)).contains(done)).count();
        assert_eq!((within(1000, 2000), within(5000, 6000), within(9000, 10_000)), (400, 400, 400));
    }
}
