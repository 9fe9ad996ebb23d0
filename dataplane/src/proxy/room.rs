//! Room for connections: how the descriptors of the process are shared out, so that no proxy takes them all.
//!
//! Two proxies that lead to each other, in two processes that cannot know it, make connections for as long as there are
//! descriptors. What one proxy may not take is left for the others, and what none may take for all that is none of
//! their connections: an API, files, new listeners.
//!
//! ```text
//!  0                                                                          all        limit of open files
//!  ├───────── whoever comes first ─────────┼─ small proxies ─┼─ files and such ─┼─ clients of an API ─┤
//!                                              1/16 of all,       1/16 of all,
//!                                              at most 1,024      at most 256
//! ```
//! A proxy is small, on one thread, while it has no more than its part of what is left for those; with one proxy there
//! is nobody to leave it for.

use std::sync::atomic::{AtomicU64, Ordering};

/// A connection takes two: the client's and the upstream's.
const PER_CONNECTION: u64 = 2;
/// Descriptors that are left for the clients of an API, at most a quarter of all.
const API_MAX: u64 = 256;
/// Of the rest, a sixteenth and at most so many are left for files and such, and as many again, or so many, for small
/// proxies.
const FILES_MAX: u64 = 256;
const SMALL_MAX: u64 = 1024;

/// How many descriptors all proxies of the process have, on all threads.
#[derive(Debug)]
pub struct Room {
    /// What is left when an API has its own.
    all: u64,
    threads: u64,
    used: AtomicU64,
    /// One for each proxy that listens and each thread; they are among the used ones.
    listeners: AtomicU64,
}

impl Default for Room {
    /// As much as anybody wants.
    fn default() -> Room {
        Room::of(u64::MAX / 2, 1)
    }
}

impl Room {
    /// For a process with this limit of open files (`RLIMIT_NOFILE`) and so many worker threads.
    pub fn new(open_files: u64, threads: usize) -> Room {
        Room::of(open_files - API_MAX.min(open_files / 4), threads)
    }

    fn of(all: u64, threads: usize) -> Room {
        Room { all, threads: threads as u64, used: AtomicU64::new(0), listeners: AtomicU64::new(0) }
    }

    /// Takes the descriptors of a connection, for a proxy that has `open` of them on the calling thread; false when there
    /// is no room for it.
    pub(super) fn take(&self, open: usize) -> bool {
        // Relaxed: a number that is right in the end; who comes at the same time may be off by one.
        let used = self.used.fetch_add(PER_CONNECTION, Ordering::Relaxed) + PER_CONNECTION;
        let fits = self.fits(used, self.listeners.load(Ordering::Relaxed), open as u64);
        if !fits {
            self.give_back();
        }
        fits
    }

    /// Gives those of a connection back.
    pub(super) fn give_back(&self) {
        self.used.fetch_sub(PER_CONNECTION, Ordering::Relaxed);
    }

    /// Counts a listener.
    pub(super) fn listens(&self) {
        self.used.fetch_add(1, Ordering::Relaxed);
        self.listeners.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a listener that is closed.
    pub(super) fn listens_no_more(&self) {
        self.used.fetch_sub(1, Ordering::Relaxed);
        self.listeners.fetch_sub(1, Ordering::Relaxed);
    }

    fn fits(&self, used: u64, listeners: u64, open: u64) -> bool {
        let sixteenth = self.all / 16;
        let connections = self.all - sixteenth.min(FILES_MAX);
        let most = connections - sixteenth.min(SMALL_MAX);
        let is_alone = listeners <= self.threads;
        let part = || ((connections - most) / PER_CONNECTION / listeners.max(1)).max(1);
        used <= most || used <= connections && (is_alone || open < part())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_proxy_takes_what_is_left_for_others_and_none_what_is_left_for_all() {
        let room = Room::of(1600, 2);
        for (used, listeners, open, fits) in [
            // Below seven eighths.
            (1400, 6, 700, true),
            // Three proxies on two threads: (1500 − 1400) / 2 / 6 = 8 for each on each.
            (1402, 6, 8, false),
            (1402, 6, 7, true),
            (1500, 6, 7, true),
            (1502, 6, 0, false),
            // So many that the part is nothing: the first may always come.
            (1402, 400, 0, true),
            (1402, 400, 1, false),
            // Alone.
            (1500, 2, 700, true),
            (1502, 2, 0, false),
            (1500, 1, 700, true),
        ] {
            assert_eq!(room.fits(used, listeners, open), fits, "{used} {listeners} {open}");
        }
    }

    #[test]
    fn what_is_left_stays_small_where_there_is_much() {
        let room = Room::of(1_000_000, 4);
        for (used, listeners, open, fits) in [
            (998_720, 8, 400_000, true),
            (998_722, 8, 64, false),
            (998_722, 8, 63, true),
            (999_744, 4, 400_000, true),
            (999_746, 4, 0, false),
        ] {
            assert_eq!(room.fits(used, listeners, open), fits, "{used} {listeners} {open}");
        }
    }

    #[test]
    fn an_api_keeps_its_own() {
        for (open_files, all) in [(64, 48), (1024, 768), (20_000, 19_744), (u64::MAX, u64::MAX - 256)] {
            assert_eq!(Room::new(open_files, 1).all, all);
        }
    }

    #[test]
    fn what_is_taken_is_given_back() {
        let room = Room::of(160, 1);
        room.listens();
        room.listens();
        let taken = (0..1000).take_while(|open| room.take(*open)).count();
        // 140 − 2 listeners = 69 connections; its part of the 10 above is long gone.
        assert_eq!(taken, 69);
        assert!(room.take(0), "another has a part");
        room.give_back();
        (0..taken).for_each(|_| room.give_back());
        room.listens_no_more();
        room.listens_no_more();
        assert_eq!((room.used.into_inner(), room.listeners.into_inner()), (0, 0));
    }
}
