//! The keeper, a thread beside the workers: hands their events to whoever watches, starts and ends leases.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, SyncSender, TrySendError};
use std::time::Duration;

use super::book::Entry;
use super::event::Event;
use super::handle::{Handle, lock};
use super::thread::Command;
use crate::clock::Instant;
use crate::ring::give_back_heap;

/// Events that wait for one watcher, some 10 MB; those that would be more are lost to it.
pub const WATCH_EVENTS_MAX: usize = 65_536;

pub(super) struct Watch {
    events: SyncSender<Vec<Event>>,
    waiting: Arc<AtomicUsize>,
    lost: Arc<AtomicU64>,
    since: Instant,
}

impl Watch {
    /// Tells the watcher; false when it is gone.
    fn tell(&self, news: Vec<Event>) -> bool {
        let count = news.len();
        if self.waiting.load(Ordering::Relaxed) + count > WATCH_EVENTS_MAX {
            self.lost.fetch_add(count as u64, Ordering::Relaxed);
            return true;
        }
        // Before they are sent: the watcher takes them off as soon as it has them.
        self.waiting.fetch_add(count, Ordering::Relaxed);
        match self.events.try_send(news) {
            Ok(()) => true,
            Err(TrySendError::Full(_)) => {
                self.waiting.fetch_sub(count, Ordering::Relaxed);
                self.lost.fetch_add(count as u64, Ordering::Relaxed);
                true
            }
            Err(TrySendError::Disconnected(_)) => false,
        }
    }
}

impl Handle {
    /// Everything that happens from now on; a watcher that is `capacity` batches or [`WATCH_EVENTS_MAX`] events behind
    /// loses the next, and knows.
    /// It hears no more at once when the data plane stops.
    pub fn watch(&self, capacity: usize) -> Watcher {
        let (events, inbox) = mpsc::sync_channel(capacity.max(1));
        let (waiting, lost) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicU64::new(0)));
        let mut watchers = lock(&self.0.watchers);
        // Looked at under the lock: `forget_watchers` has come already, or comes yet.
        if !self.0.stopped.load(Ordering::Acquire) {
            let (waiting, lost) = (Arc::clone(&waiting), Arc::clone(&lost));
            watchers.push(Watch { events, waiting, lost, since: Instant::now() });
        }
        Watcher { inbox, waiting, lost }
    }

    /// Lets nobody wait for what will not be told any more; the data plane has stopped.
    pub(super) fn forget_watchers(&self) {
        lock(&self.0.watchers).clear();
    }

    /// The keeper's loop: hands events to whoever watches, starts and ends leases when it is time.
    pub(super) fn keep(&self, told: &Receiver<Vec<Event>>) {
        let mut next = None;
        let mut look = true;
        let mut tidying = Tidying::default();
        let tidy_every = self.0.settings.tidy_every;
        let mut tidy_at = Instant::now() + tidy_every;
        while !self.0.stopped.load(Ordering::Acquire) {
            if look || next.is_some_and(|at| at <= Instant::now()) {
                next = self.change_leases();
            }
            if tidy_at <= Instant::now() {
                tidy_at = Instant::now() + tidy_every;
                self.tidy(&mut tidying);
            }
            let wait = next.map_or(tidy_at, |at| at.min(tidy_at)) - Instant::now();
            // An empty batch says that the leases have changed; a batch of events leaves them as they are.
            look = match told.recv_timeout(wait) {
                Ok(events) if !events.is_empty() => {
                    self.tell_watchers(&events);
                    false
                }
                Ok(_) => true,
                Err(RecvTimeoutError::Timeout) => false,
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    /// Lets workers that did something give back what they do not use any more; the heap when all of them are calm.
    fn tidy(&self, tidying: &mut Tidying) {
        let done: Vec<u64> = self.0.workers.iter().map(|worker| worker.figures.completions.read()).collect();
        for index in tidying.untidy(&done) {
            self.0.workers[index].tell(Command::Tidy);
        }
        if tidying.is_calm_again(&done) {
            give_back_heap();
        }
        tidying.before = done;
    }

    /// Applies the leases whose time has come or gone; returns when the next one changes.
    fn change_leases(&self) -> Option<Instant> {
        let mut book = self.book();
        let now = Instant::now();
        let changed = |(name, entry): (&String, &Entry)| entry.is_due(now).then(|| name.clone());
        let due: Vec<String> = book.proxies.iter().filter_map(changed).collect();
        if !due.is_empty() && self.put(&mut book, &due, now).is_err() {
            // One whose rules do not go together must not keep the others' leases from ending.
            for name in &due {
                let _ = self.put(&mut book, std::slice::from_ref(name), now);
            }
        }
        // Counted from `now`: what has come due meanwhile is looked at again at once.
        book.proxies.values().filter_map(|entry| entry.leases.next_change(now)).min()
    }

    fn tell_watchers(&self, events: &[Event]) {
        lock(&self.0.watchers).retain(|watch| {
            // A watcher hears what happens from its own beginning on; what waited for the keeper then is older.
            watch.tell(events.iter().filter(|event| event.at >= watch.since).cloned().collect())
        });
    }
}

/// Rounds after the last activity of a worker until all that it used has been found unused.
const TIDY_ROUNDS: u8 = 2;
/// Completions of all workers in one round below which they are calm: a lock of the heap in their way would not be
/// noticed.
const CALM_COMPLETIONS: u64 = 10_000;
/// Completions of all workers in one round that may have left something on the heap.
const BUSY_COMPLETIONS: u64 = 100;

/// Which workers may have memory to give back.
#[derive(Debug, Default)]
struct Tidying {
    /// Completions of each worker when they were looked at last.
    before: Vec<u64>,
    /// Rounds that each still needs.
    rounds: Vec<u8>,
    /// How often the heap is still to be given back.
    heap_rounds: u8,
}

impl Tidying {
    /// The workers that did something lately.
    fn untidy(&mut self, done: &[u64]) -> Vec<usize> {
        self.rounds.resize(done.len(), 0);
        let mut untidy = Vec::new();
        for (index, rounds) in self.rounds.iter_mut().enumerate() {
            let since = done[index] - self.before.get(index).copied().unwrap_or(0);
            *rounds = if since > 0 { TIDY_ROUNDS + 1 } else { rounds.saturating_sub(1) };
            if *rounds > 0 {
                untidy.push(index);
            }
        }
        untidy
    }

    /// Whether little goes on, and more than nothing did since this was last so.
    fn is_calm_again(&mut self, done: &[u64]) -> bool {
        let since: u64 = done.iter().sum::<u64>() - self.before.iter().sum::<u64>();
        if since >= BUSY_COMPLETIONS {
            // Once more after the first calm: other threads end what they did for it a little later.
            self.heap_rounds = TIDY_ROUNDS;
        }
        let is_due = since < CALM_COMPLETIONS && self.heap_rounds > 0;
        self.heap_rounds -= u8::from(is_due);
        is_due
    }
}

/// What happens, as it happens.
pub struct Watcher {
    inbox: Receiver<Vec<Event>>,
    waiting: Arc<AtomicUsize>,
    lost: Arc<AtomicU64>,
}

impl Watcher {
    /// The next events; none within `timeout`, or when the data plane has stopped.
    pub fn recv_timeout(&self, timeout: Duration) -> Option<Vec<Event>> {
        let events = self.inbox.recv_timeout(timeout).ok()?;
        self.waiting.fetch_sub(events.len(), Ordering::Relaxed);
        Some(events)
    }

    /// Events this watcher was too slow for.
    pub fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::{Dataplane, DataplaneSettings, EventKind};

    #[test]
    fn a_watcher_that_is_too_many_events_behind_loses_the_next_and_knows() {
        let settings = DataplaneSettings { threads: 1, ..DataplaneSettings::default() };
        let dataplane = Dataplane::start(settings).unwrap();
        let watcher = dataplane.handle().watch(100);
        let event = Event::about("a", 1, EventKind::Changed, Instant::now());
        let batch = vec![event; WATCH_EVENTS_MAX / 4];
        (0..5).for_each(|_| dataplane.handle().tell_watchers(&batch));
        assert_eq!(watcher.lost(), batch.len() as u64);
        assert_eq!(watcher.recv_timeout(Duration::ZERO).unwrap().len(), batch.len());
        (0..2).for_each(|_| dataplane.handle().tell_watchers(&batch));
        assert_eq!(watcher.lost(), 2 * batch.len() as u64, "there was room for one again");
    }

    #[test]
    fn a_worker_is_tidied_for_some_rounds_after_it_did_something_and_then_left_alone() {
        let mut tidying = Tidying::default();
        let mut look = |done: [u64; 2]| {
            let untidy = tidying.untidy(&done);
            let calm = tidying.is_calm_again(&done);
            tidying.before = done.to_vec();
            (untidy, calm)
        };
        assert_eq!(look([0, 0]), (vec![], false), "they have only started");
        assert_eq!(look([50_000, 0]), (vec![0], false));
        assert_eq!(look([51_000, 9_000]), (vec![0, 1], false), "10,000 are no calm");
        assert_eq!(look([51_000, 9_000]), (vec![0, 1], true));
        assert_eq!(look([51_000, 9_000]), (vec![0, 1], true), "the heap is given back twice");
        assert_eq!(look([51_000, 9_000]), (vec![], false));
        assert_eq!(look([51_000, 9_001]), (vec![1], false), "a little is still something");
        assert_eq!(look([51_000, 9_500]), (vec![1], true), "a short peak is over within a round");
    }

    #[test]
    fn a_watcher_is_let_go_when_the_data_plane_stops() {
        let settings = DataplaneSettings { threads: 1, ..DataplaneSettings::default() };
        let dataplane = Dataplane::start(settings).unwrap();
        let handle = dataplane.handle();
        let before = handle.watch(4);
        drop(dataplane);
        let after = handle.watch(4);
        for watcher in [before, after] {
            let end = watcher.inbox.recv_timeout(Duration::from_secs(60));
            assert_eq!(end.unwrap_err(), RecvTimeoutError::Disconnected);
        }
    }
}
