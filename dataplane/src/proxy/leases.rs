//! Temporary rules that end by themselves: leases and timelines. Pure; `now` is an argument.
//!
//! ```text
//! evaluated first   lease 3  (acquired last)     a lease may begin later: a timeline is leases with a start
//!                   lease 1
//! evaluated last    base rules                   base rules stay; a lease adds, it never removes
//! ```
//!
//! "On top" means *before* in rule order: where two rules act on the same exchange the lease's wins, and delays
//! add up. The names and groups of a lease's rules get its number in front (`lease-3/delay`), so that they never
//! meet the base's, and neither changes the other's draws.

use std::time::Duration;

use crate::behavior::{RULES_MAX, Rule};
use crate::clock::Instant;

/// The most leases of one proxy, those that wait for their start included.
pub const LEASES_MAX: usize = 32;
/// The shortest time to live: below it a flip could end before all workers have it.
pub const LEASE_TTL_MIN: Duration = Duration::from_millis(10);
/// The longest time to live; an owner that lives longer renews.
pub const LEASE_TTL_MAX: Duration = Duration::from_secs(24 * 60 * 60);
/// The furthest start of a lease.
pub const LEASE_START_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// The number of a lease in its proxy, from 1 in the order in which they were acquired.
pub type LeaseId = u64;

/// Rules with an owner and an end.
#[derive(Clone, Debug, PartialEq)]
pub struct Lease {
    /// The lease's number.
    pub id: LeaseId,
    /// Who asked for it; free text for people.
    pub owner: String,
    /// Its rules as they were given.
    pub rules: Vec<Rule>,
    /// From when on the rules are in force.
    pub starts_at: Instant,
    /// Until when; the rules are out of force at this instant.
    pub ends_at: Instant,
}

/// Why a lease is not given.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LeaseError {
    /// [`LEASES_MAX`] are there.
    #[error("the proxy has {LEASES_MAX} leases already; release one first")]
    TooMany,
    /// [`RULES_MAX`] would be exceeded with all leases in force.
    #[error("{0} rules with all leases in force are too many for one proxy; use at most {RULES_MAX}")]
    TooManyRules(usize),
    /// A lease without rules does nothing.
    #[error("a lease needs at least one rule")]
    NoRules,
    /// Outside the bounds.
    #[error("a lease lives from {LEASE_TTL_MIN:?} to 24h; {0:?} is outside")]
    Ttl(Duration),
    /// Too far ahead.
    #[error("a lease starts within 24h; {0:?} is too far ahead")]
    Start(Duration),
    /// It was released, or it ended.
    #[error("lease {0} is not there any more; acquire a new one")]
    Gone(LeaseId),
}

/// The base rules of one proxy and the leases on top of them.
#[derive(Debug, Default)]
pub struct LeaseBook {
    base: Vec<Rule>,
    /// In the order of acquiring.
    leases: Vec<Lease>,
    last_id: LeaseId,
    /// What `effective` gave last: the leases in force; `None` after any change of the rules themselves.
    in_force: Option<Vec<LeaseId>>,
}

impl LeaseBook {
    /// A book without leases.
    pub fn new(base: Vec<Rule>) -> LeaseBook {
        LeaseBook { base, ..LeaseBook::default() }
    }

    /// The rules below all leases.
    pub fn base(&self) -> &[Rule] {
        &self.base
    }

    /// Changes the base rules; leases stay.
    ///
    /// # Errors
    /// `TooManyRules`, if they would be with all leases in force; nothing is changed then.
    pub fn set_base(&mut self, base: Vec<Rule>) -> Result<(), LeaseError> {
        self.check_room(base.len(), 0)?;
        self.base = base;
        self.in_force = None;
        Ok(())
    }

    /// The leases in the order of acquiring, those that wait for their start included.
    pub fn leases(&self) -> &[Lease] {
        &self.leases
    }

    /// Puts rules on top from `start_in` from now, for `ttl`.
    ///
    /// # Errors
    /// One line that says which bound is hit; nothing is changed then.
    pub fn acquire(
        &mut self,
        owner: impl Into<String>,
        rules: Vec<Rule>,
        start_in: Duration,
        ttl: Duration,
        now: Instant,
    ) -> Result<LeaseId, LeaseError> {
        self.expire(now);
        check_ttl(ttl)?;
        if start_in > LEASE_START_MAX {
            return Err(LeaseError::Start(start_in));
        }
        if rules.is_empty() {
            return Err(LeaseError::NoRules);
        }
        if self.leases.len() >= LEASES_MAX {
            return Err(LeaseError::TooMany);
        }
        self.check_room(self.base.len(), rules.len())?;
        self.last_id += 1;
        let starts_at = now + start_in;
        self.leases.push(Lease {
            id: self.last_id,
            owner: owner.into(),
            rules,
            starts_at,
            ends_at: starts_at + ttl,
        });
        Ok(self.last_id)
    }

    /// Lets the lease live for `ttl` from now (from its start, if that lies ahead); gives its new end.
    ///
    /// # Errors
    /// `Gone` if it has ended; `Ttl`.
    pub fn renew(&mut self, id: LeaseId, ttl: Duration, now: Instant) -> Result<Instant, LeaseError> {
        self.expire(now);
        check_ttl(ttl)?;
        let lease = self.leases.iter_mut().find(|lease| lease.id == id).ok_or(LeaseError::Gone(id))?;
        lease.ends_at = lease.starts_at.max(now) + ttl;
        Ok(lease.ends_at)
    }

    /// Ends the lease.
    ///
    /// # Errors
    /// `Gone` if it has ended already, which an owner may ignore.
    pub fn release(&mut self, id: LeaseId, now: Instant) -> Result<Lease, LeaseError> {
        self.expire(now);
        let index = self.leases.iter().position(|lease| lease.id == id).ok_or(LeaseError::Gone(id))?;
        Ok(self.leases.remove(index))
    }

    /// Takes out the leases whose time is over, and gives them.
    pub fn expire(&mut self, now: Instant) -> Vec<Lease> {
        self.leases.extract_if(.., |lease| lease.ends_at <= now).collect()
    }

    /// The rules in force, topmost first, and whether they differ from those of the last call.
    pub fn effective(&mut self, now: Instant) -> (Vec<Rule>, bool) {
        self.expire(now);
        let in_force = || self.leases.iter().rev().filter(|lease| lease.starts_at <= now);
        let ids: Vec<LeaseId> = in_force().map(|lease| lease.id).collect();
        let rules = in_force()
            .flat_map(|lease| lease.rules.iter().map(|rule| qualified(rule, lease.id)))
            .chain(self.base.iter().cloned())
            .collect();
        let changed = self.in_force.as_ref() != Some(&ids);
        self.in_force = Some(ids);
        (rules, changed)
    }

    /// The next instant at which `effective` may change by itself.
    pub fn next_change(&self, now: Instant) -> Option<Instant> {
        self.leases.iter().flat_map(|lease| [lease.starts_at, lease.ends_at]).filter(|at| *at > now).min()
    }

    fn check_room(&self, base: usize, added: usize) -> Result<(), LeaseError> {
        let total = base + added + self.leases.iter().map(|lease| lease.rules.len()).sum::<usize>();
        if total > RULES_MAX { Err(LeaseError::TooManyRules(total)) } else { Ok(()) }
    }
}

fn check_ttl(ttl: Duration) -> Result<(), LeaseError> {
    if (LEASE_TTL_MIN..=LEASE_TTL_MAX).contains(&ttl) { Ok(()) } else { Err(LeaseError::Ttl(ttl)) }
}

fn qualified(rule: &Rule, id: LeaseId) -> Rule {
    let mut rule = rule.clone();
    rule.name = format!("lease-{id}/{}", rule.name);
    rule.group = rule.group.map(|group| format!("lease-{id}/{group}"));
    rule
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::behavior::Behavior;

    const SECOND: Duration = Duration::from_secs(1);

    fn at(seconds: u64) -> Instant {
        Instant::ZERO + Duration::from_secs(1000 + seconds)
    }

    fn rules(names: &[&str]) -> Vec<Rule> {
        names.iter().map(|name| Rule::always(*name, Behavior::Hang)).collect()
    }

    fn names(book: &mut LeaseBook, now: Instant) -> Vec<String> {
        book.effective(now).0.into_iter().map(|rule| rule.name).collect()
    }

    #[test]
    fn leases_stack_on_the_base_and_leave_in_any_order() {
        let mut book = LeaseBook::new(rules(&["base"]));
        let first = book.acquire("a", rules(&["x", "y"]), Duration::ZERO, 10 * SECOND, at(0)).unwrap();
        let second = book.acquire("b", rules(&["x"]), Duration::ZERO, 10 * SECOND, at(1)).unwrap();
        assert_eq!(names(&mut book, at(1)), ["lease-2/x", "lease-1/x", "lease-1/y", "base"]);
        assert_eq!(book.release(first, at(2)).unwrap().owner, "a");
        assert_eq!(names(&mut book, at(2)), ["lease-2/x", "base"]);
        assert_eq!(book.release(first, at(2)), Err(LeaseError::Gone(first)));
        book.set_base(rules(&["new"])).unwrap();
        assert_eq!(names(&mut book, at(2)), ["lease-2/x", "new"]);
        book.release(second, at(2)).unwrap();
        assert_eq!(names(&mut book, at(2)), ["new"]);
    }

    #[test]
    fn a_lease_ends_when_its_owner_stops_renewing() {
        let mut book = LeaseBook::new(rules(&["base"]));
        let id = book.acquire("a", rules(&["x"]), Duration::ZERO, 5 * SECOND, at(0)).unwrap();
        assert_eq!(book.renew(id, 5 * SECOND, at(4)), Ok(at(9)));
        assert_eq!(book.next_change(at(4)), Some(at(9)));
        assert_eq!(names(&mut book, at(9) - Duration::from_nanos(1)), ["lease-1/x", "base"]);
        assert_eq!(names(&mut book, at(9)), ["base"]);
        assert_eq!(book.renew(id, 5 * SECOND, at(9)), Err(LeaseError::Gone(id)));
        assert_eq!(book.next_change(at(9)), None);
    }

    #[test]
    fn a_timeline_is_a_lease_with_a_start() {
        let mut book = LeaseBook::new(rules(&["base"]));
        book.acquire("timeline", rules(&["x"]), 30 * SECOND, 10 * SECOND, at(0)).unwrap();
        assert_eq!(book.effective(at(0)), (rules(&["base"]), true));
        assert_eq!(book.effective(at(29)), (rules(&["base"]), false));
        assert_eq!(book.next_change(at(0)), Some(at(30)));
        assert_eq!(names(&mut book, at(30)), ["lease-1/x", "base"]);
        assert_eq!(book.next_change(at(30)), Some(at(40)));
        assert_eq!(book.effective(at(40)), (rules(&["base"]), true));
    }

    #[test]
    fn bounds_are_refused_in_one_line_and_change_nothing() {
        let mut book = LeaseBook::new(rules(&["base"]));
        let mut try_lease =
            |count, start, ttl| book.acquire("a", rules(&vec!["x"; count]), start, ttl, at(0));
        assert_eq!(try_lease(0, Duration::ZERO, SECOND), Err(LeaseError::NoRules));
        assert_eq!(try_lease(1, Duration::ZERO, Duration::ZERO), Err(LeaseError::Ttl(Duration::ZERO)));
        assert!(matches!(try_lease(1, Duration::ZERO, LEASE_TTL_MAX + SECOND), Err(LeaseError::Ttl(_))));
        assert!(matches!(try_lease(1, LEASE_START_MAX + SECOND, SECOND), Err(LeaseError::Start(_))));
        assert_eq!(try_lease(RULES_MAX, Duration::ZERO, SECOND), Err(LeaseError::TooManyRules(65)));
        for _ in 0..LEASES_MAX {
            try_lease(1, Duration::ZERO, SECOND).expect("there is room");
        }
        assert_eq!(try_lease(1, Duration::ZERO, SECOND), Err(LeaseError::TooMany));
        assert_eq!(book.set_base(rules(&vec!["b"; 33])), Err(LeaseError::TooManyRules(65)));
        assert_eq!(book.base(), rules(&["base"]));
    }

    #[derive(Clone, Debug)]
    enum Move {
        Acquire { start: u64, ttl: u64 },
        Renew { pick: usize, ttl: u64 },
        Release { pick: usize },
        Wait { seconds: u64 },
    }

    fn moves() -> impl Strategy<Value = Vec<Move>> {
        let one = prop_oneof![
            (0..5_u64, 1..9_u64).prop_map(|(start, ttl)| Move::Acquire { start, ttl }),
            (0..50_usize, 1..9_u64).prop_map(|(pick, ttl)| Move::Renew { pick, ttl }),
            (0..50_usize).prop_map(|pick| Move::Release { pick }),
            (0..4_u64).prop_map(|seconds| Move::Wait { seconds }),
        ];
        proptest::collection::vec(one, 0..60)
    }

    proptest! {
        #[test]
        fn any_order_of_moves_leaves_exactly_the_base_rules(moves in moves()) {
            let base = rules(&["base", "other"]);
            let mut book = LeaseBook::new(base.clone());
            let mut now = at(0);
            let mut ids = vec![0];
            for step in moves {
                match step {
                    Move::Acquire { start, ttl } => {
                        ids.extend(book.acquire("p", rules(&["x"]), SECOND * start as u32, SECOND * ttl as u32, now));
                    }
                    Move::Renew { pick, ttl } => {
                        let _ = book.renew(ids[pick % ids.len()], SECOND * ttl as u32, now);
                    }
                    Move::Release { pick } => { let _ = book.release(ids[pick % ids.len()], now); }
                    Move::Wait { seconds } => {
                        // A change by itself happens at `next_change` and nowhere before.
                        let (_, _) = book.effective(now);
                        let end = now + SECOND * seconds as u32;
                        if let Some(change) = book.next_change(now).filter(|change| *change <= end) {
                            prop_assert!(!book.effective(change - Duration::from_nanos(1)).1);
                            prop_assert!(book.effective(change).1);
                        }
                        now = end;
                    }
                }
                let (effective, _) = book.effective(now);
                prop_assert!(effective.ends_with(&base), "the base rules stay below");
                let in_force = book.leases().iter().filter(|lease| lease.starts_at <= now).count();
                prop_assert_eq!(effective.len(), base.len() + in_force);
            }
            let mut changes = 0;
            while let Some(change) = book.next_change(now) {
                now = change;
                changes += 1;
                prop_assert!(changes <= 2 * LEASES_MAX, "every lease ends");
            }
            prop_assert_eq!(book.effective(now).0, base);
            prop_assert!(book.leases().is_empty());
        }
    }
}
