//! Which name is looked up next, and when: arithmetic only.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crate::clock::Instant;

/// How soon a name is tried again that was not found; twice as long after each failure, up to its ordinary time.
const RETRY_FIRST: Duration = Duration::from_secs(1);
/// The longest time between two tries of a name that was not found.
const RETRY_MAX: Duration = Duration::from_secs(30);

/// The names, by the number of the proxy that needs them.
#[derive(Debug, Default)]
pub(super) struct Schedule {
    names: BTreeMap<u32, Name>,
}

#[derive(Debug)]
struct Name {
    upstream: Arc<str>,
    /// How long an answer is good for; zero: for ever.
    every: Duration,
    due: Instant,
    /// A thread looks it up.
    is_busy: bool,
    /// It has never been looked up.
    is_new: bool,
    failures: u32,
}

/// What a thread does next.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    LookUp {
        id: u32,
        upstream: Arc<str>,
    },
    /// Look again then.
    At(Instant),
    Never,
}

impl Schedule {
    /// Adds the name of a proxy: due now, or in its time if an answer is known.
    pub fn add(&mut self, id: u32, upstream: Arc<str>, every: Duration, is_known: bool, now: Instant) {
        let due = if is_known { now + every } else { now };
        let name = Name { upstream, every, due, is_busy: false, is_new: !is_known, failures: 0 };
        self.names.insert(id, name);
    }

    pub fn forget(&mut self, id: u32) {
        self.names.remove(&id);
    }

    pub fn len(&self) -> usize {
        self.names.len()
    }

    /// Whether some name has never been looked up.
    pub fn is_new(&self) -> bool {
        self.names.values().any(|name| name.is_new)
    }

    /// The name that is due longest.
    pub fn next(&mut self, now: Instant) -> Next {
        let waiting = self.names.iter_mut().filter(|(_, name)| !name.is_busy);
        match waiting.min_by_key(|(_, name)| name.due) {
            None => Next::Never,
            Some((_, name)) if name.due > now => {
                if name.due == Instant::FAR_FUTURE {
                    Next::Never
                } else {
                    Next::At(name.due)
                }
            }
            Some((id, name)) => {
                name.is_busy = true;
                Next::LookUp { id: *id, upstream: Arc::clone(&name.upstream) }
            }
        }
    }

    /// Notes how a lookup ended; one of a name that the proxy has no more is of no account.
    pub fn done(&mut self, id: u32, upstream: &str, is_found: bool, now: Instant) {
        let Some(name) = self.names.get_mut(&id).filter(|name| &*name.upstream == upstream) else { return };
        (name.is_busy, name.is_new) = (false, false);
        if is_found {
            name.failures = 0;
            name.due = if name.every.is_zero() { Instant::FAR_FUTURE } else { now + name.every };
        } else {
            let wait = (RETRY_FIRST * (1 << name.failures.min(5))).min(RETRY_MAX);
            name.failures += 1;
            name.due = now + if name.every.is_zero() { wait } else { wait.min(name.every.max(RETRY_FIRST)) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Instant = Instant::from_nanos(1_000_000_000_000);

    fn at(seconds: u64) -> Instant {
        START + Duration::from_secs(seconds)
    }

    fn look_up(id: u32, upstream: &str) -> Next {
        Next::LookUp { id, upstream: upstream.into() }
    }

    #[test]
    fn a_name_is_looked_up_again_when_its_time_is_over() {
        let mut schedule = Schedule::default();
        schedule.add(1, "known:80".into(), Duration::from_secs(30), true, START);
        schedule.add(2, "unknown:80".into(), Duration::from_secs(30), false, START);
        assert!(schedule.is_new());
        assert_eq!(schedule.next(START), look_up(2, "unknown:80"));
        assert_eq!(schedule.next(START), Next::At(at(30)), "one that is being looked up is not due");
        schedule.done(2, "unknown:80", true, at(5));
        assert!(!schedule.is_new());
        assert_eq!(schedule.next(at(30)), look_up(1, "known:80"));
        assert_eq!(schedule.next(at(30)), Next::At(at(35)));
        schedule.forget(2);
        assert_eq!(schedule.next(at(40)), Next::Never);
    }

    #[test]
    fn a_name_that_is_not_found_is_tried_sooner_then_more_seldom() {
        let mut schedule = Schedule::default();
        schedule.add(1, "a:80".into(), Duration::from_secs(20), false, START);
        let mut now = START;
        for wait in [1, 2, 4, 8, 16, 20, 20] {
            assert_eq!(schedule.next(now), look_up(1, "a:80"));
            schedule.done(1, "a:80", false, now);
            assert_eq!(schedule.next(now), Next::At(now + Duration::from_secs(wait)));
            now += Duration::from_secs(wait);
        }
        assert_eq!(schedule.next(now), look_up(1, "a:80"));
        schedule.done(1, "a:80", true, now);
        assert_eq!(schedule.next(now), Next::At(now + Duration::from_secs(20)));
    }

    #[test]
    fn a_time_of_zero_means_once_found_for_ever() {
        let mut schedule = Schedule::default();
        schedule.add(1, "a:80".into(), Duration::ZERO, false, START);
        assert_eq!(schedule.next(START), look_up(1, "a:80"));
        schedule.done(1, "a:80", false, START);
        assert_eq!(schedule.next(at(1)), look_up(1, "a:80"));
        schedule.done(1, "a:80", true, at(1));
        assert_eq!(schedule.next(at(1_000_000)), Next::Never);
    }

    #[test]
    fn an_answer_for_a_name_that_was_replaced_is_of_no_account() {
        let mut schedule = Schedule::default();
        schedule.add(1, "old:80".into(), Duration::from_secs(30), false, START);
        assert_eq!(schedule.next(START), look_up(1, "old:80"));
        schedule.add(1, "new:80".into(), Duration::from_secs(30), false, START);
        schedule.done(1, "old:80", true, START);
        assert_eq!(schedule.next(START), look_up(1, "new:80"));
    }
}
