//! The keeper, a thread beside the workers: hands their events to whoever watches, starts and ends leases.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, SyncSender, TrySendError};
use std::time::Duration;

use super::book::Entry;
use super::event::Event;
use super::handle::{Handle, lock};
use crate::clock::Instant;

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
        while !self.0.stopped.load(Ordering::Acquire) {
            if look || next.is_some_and(|at| at <= Instant::now()) {
                next = self.change_leases();
            }
            let wait = next.map_or(Duration::from_secs(3600), |at| at - Instant::now());
            // An empty batch says that the leases have changed; a batch of events leaves them as they are.
            look = match told.recv_timeout(wait) {
                Ok(events) if !events.is_empty() => {
                    self.tell_watchers(&events);
                    false
                }
                Ok(_) | Err(RecvTimeoutError::Timeout) => true,
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
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
