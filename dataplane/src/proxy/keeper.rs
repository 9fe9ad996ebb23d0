//! The keeper, a thread beside the workers: hands their events to whoever watches, starts and ends leases.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, SyncSender, TrySendError};
use std::time::Duration;

use super::book::Entry;
use super::event::Event;
use super::handle::{Handle, lock};
use crate::clock::Instant;

pub(super) struct Watch {
    pub(super) events: SyncSender<Vec<Event>>,
    pub(super) lost: Arc<AtomicU64>,
    pub(super) since: Instant,
}

impl Handle {
    /// Everything that happens from now on; a watcher that is `capacity` batches behind loses the next, and knows.
    pub fn watch(&self, capacity: usize) -> Watcher {
        let (events, inbox) = mpsc::sync_channel(capacity.max(1));
        let lost = Arc::new(AtomicU64::new(0));
        lock(&self.0.watchers).push(Watch { events, lost: Arc::clone(&lost), since: Instant::now() });
        Watcher { inbox, lost }
    }

    /// The keeper's loop: hands events to whoever watches, starts and ends leases when it is time.
    pub(super) fn keep(&self, told: &Receiver<Vec<Event>>) {
        while !self.0.stopped.load(Ordering::Acquire) {
            let next = self.change_leases();
            let wait = next.map_or(Duration::from_secs(3600), |at| at - Instant::now());
            match told.recv_timeout(wait) {
                Ok(events) if !events.is_empty() => self.tell_watchers(&events),
                Ok(_) | Err(RecvTimeoutError::Timeout) => {}
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
            let news: Vec<Event> = events.iter().filter(|event| event.at >= watch.since).cloned().collect();
            match watch.events.try_send(news) {
                Ok(()) => true,
                Err(TrySendError::Full(events)) => {
                    watch.lost.fetch_add(events.len() as u64, Ordering::Relaxed);
                    true
                }
                Err(TrySendError::Disconnected(_)) => false,
            }
        });
    }
}

/// What happens, as it happens.
pub struct Watcher {
    inbox: Receiver<Vec<Event>>,
    lost: Arc<AtomicU64>,
}

impl Watcher {
    /// The next events, or none within `timeout`.
    pub fn recv_timeout(&self, timeout: Duration) -> Option<Vec<Event>> {
        self.inbox.recv_timeout(timeout).ok()
    }

    /// Events this watcher was too slow for.
    pub fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }
}
