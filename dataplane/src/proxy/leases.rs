//! Temporary rules that end by themselves: leases and timelines. Pure; `now` is an argument.
//!
//! ```text
//! evaluated first   lease 3  (acquired last)     a lease may begin later: a timeline is leases with a start
//!                   lease 1
//! evaluated last    base rules                   base rules stay; a lease adds, it never removes
//! ```
//!
//! ```text
//! acquired ─────── starts ──────────────────── ends = the earlier of: expires (a ttl after the last renewal),
//!     └ pending ┘     └──────── active ───────┘                       stops (active_for after the start)
//! ```
//!
//! "On top" means *before* in rule order: where two rules act on the same exchange the lease's wins, and delays
//! add up. The names and groups of a lease's rules get its number in front (`lease-3/delay`), so that they never
//! meet the base's, and neither changes the other's draws.

use std::sync::Arc;
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
pub(crate) type LeaseId = u64;

/// Rules with an owner and an end.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Lease {
    /// The lease's number.
    pub id: LeaseId,
    /// Who asked for it; free text for people.
    pub owner: String,
    /// Its rules as they were given.
    pub rules: Vec<Rule>,
    /// When it was acquired.
    pub acquired_at: Instant,
    /// From when on the rules are in force.
    pub starts_at: Instant,
    /// How long it lives from its latest renewal; none: nobody has to renew it.
    pub ttl: Option<Duration>,
    /// When it ends unless it is renewed.
    pub expires_at: Option<Instant>,
    /// When its rules stop acting whatever is renewed.
    pub stops_at: Option<Instant>,
}

impl Lease {
    /// When it ends by itself; the rules are out of force at this instant.
    pub fn ends_at(&self) -> Instant {
        let never = Instant::FAR_FUTURE;
        self.expires_at.unwrap_or(never).min(self.stops_at.unwrap_or(never))
    }

    /// Whether its rules act at `now`.
    pub fn is_in_force(&self, now: Instant) -> bool {
        self.starts_at <= now && now < self.ends_at()
    }
}

/// For how long a lease is asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Term {
    /// How long it lives without being renewed, from now, the wait for its start included.
    pub ttl: Option<Duration>,
    /// When its rules begin to act, from now.
    pub starts_in: Duration,
    /// How long they act, from then; with neither this nor a `ttl` it would never end.
    pub active_for: Option<Duration>,
}

/// The name of a lease in the whole process.
pub(super) fn lease_name(proxy: u32, id: LeaseId) -> String {
    format!("{proxy}-{id}")
}

/// The name of the lease that a rule in force belongs to, by its own (`lease-3/delay`); none for a base rule.
pub(super) fn lease_of(proxy: u32, rule: &str) -> Option<Arc<str>> {
    let id = rule.strip_prefix("lease-")?.split_once('/')?.0.parse().ok()?;
    Some(lease_name(proxy, id).into())
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
    /// Neither a time to live nor an end.
    #[error("a lease needs a time to live, or a time for which it acts")]
    Endless,
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
pub(crate) struct LeaseBook {
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

    /// Takes all rules and leases away; numbers are not given again.
    pub fn clear(&mut self) -> Vec<Lease> {
        self.base.clear();
        self.in_force = None;
        std::mem::take(&mut self.leases)
    }

    /// The leases in the order of acquiring, those that wait for their start included.
    pub fn leases(&self) -> &[Lease] {
        &self.leases
    }

    /// Puts rules on top for a time.
    ///
    /// # Errors
    /// One line that says which bound is hit; nothing is changed then.
    pub fn acquire(
        &mut self,
        owner: impl Into<String>,
        rules: Vec<Rule>,
        term: Term,
        now: Instant,
    ) -> Result<LeaseId, LeaseError> {
        self.expire(now);
        if term.ttl.is_none() && term.active_for.is_none() {
            return Err(LeaseError::Endless);
        }
        term.ttl.iter().chain(&term.active_for).try_for_each(|time| check_ttl(*time))?;
        if term.starts_in > LEASE_START_MAX {
            return Err(LeaseError::Start(term.starts_in));
        }
        if rules.is_empty() {
            return Err(LeaseError::NoRules);
        }
        if self.leases.len() >= LEASES_MAX {
            return Err(LeaseError::TooMany);
        }
        self.check_room(self.base.len(), rules.len())?;
        self.last_id += 1;
        let starts_at = now + term.starts_in;
        self.leases.push(Lease {
            id: self.last_id,
            owner: owner.into(),
            rules,
            acquired_at: now,
            starts_at,
            ttl: term.ttl,
            expires_at: term.ttl.map(|ttl| now + ttl),
            stops_at: term.active_for.map(|time| starts_at + time),
        });
        Ok(self.last_id)
    }

    /// Lets the lease live for `ttl` from now, or for as long as it was given before; gives its new end, which stays
    /// where it is if nobody has to renew it.
    ///
    /// # Errors
    /// `Gone` if it has ended; `Ttl`.
    pub fn renew(&mut self, id: LeaseId, ttl: Option<Duration>, now: Instant) -> Result<Instant, LeaseError> {
        self.expire(now);
        ttl.map_or(Ok(()), check_ttl)?;
        let lease = self.leases.iter_mut().find(|lease| lease.id == id).ok_or(LeaseError::Gone(id))?;
        lease.ttl = ttl.or(lease.ttl);
        lease.expires_at = lease.ttl.map(|ttl| now + ttl);
        Ok(lease.ends_at())
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
        self.leases.extract_if(.., |lease| lease.ends_at() <= now).collect()
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
        let changes = self.leases.iter().flat_map(|lease| [lease.starts_at, lease.ends_at()]);
        changes.filter(|at| *at > now).min()
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
    use crate::behavior::{Behavior, Hang};

    const SECOND: Duration = Duration::from_secs(1);

    fn at(seconds: u64) -> Instant {
        Instant::ZERO + Duration::from_secs(1000 + seconds)
    }

    fn rules(names: &[&str]) -> Vec<Rule> {
        names.iter().map(|name| Rule::always(*name, Behavior::Hang(Hang))).collect()
    }

    /// Lives for `seconds` unless it is renewed.
    fn ttl(seconds: u32) -> Term {
        Term { ttl: Some(seconds * SECOND), ..Term::default() }
    }

    /// A window that nobody has to renew.
    fn window(start: u32, seconds: u32) -> Term {
        Term { ttl: None, starts_in: start * SECOND, active_for: Some(seconds * SECOND) }
    }

    fn names(book: &mut LeaseBook, now: Instant) -> Vec<String> {
        book.effective(now).0.into_iter().map(|rule| rule.name).collect()
    }

    #[test]
    fn leases_stack_on_the_base_and_leave_in_any_order() {
        let mut book = LeaseBook::new(rules(&["base"]));
        let first = book.acquire("a", rules(&["x", "y"]), ttl(10), at(0)).unwrap();
        let second = book.acquire("b", rules(&["x"]), ttl(10), at(1)).unwrap();
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
        let id = book.acquire("a", rules(&["x"]), ttl(5), at(0)).unwrap();
        assert_eq!(book.renew(id, None, at(4)), Ok(at(9)));
        assert_eq!(book.next_change(at(4)), Some(at(9)));
        assert_eq!(names(&mut book, at(9) - Duration::from_nanos(1)), ["lease-1/x", "base"]);
        assert_eq!(names(&mut book, at(9)), ["base"]);
        assert_eq!(book.renew(id, None, at(9)), Err(LeaseError::Gone(id)));
        assert_eq!(book.next_change(at(9)), None);
    }

    #[test]
    fn a_lease_that_waits_dies_with_its_owner_and_one_that_is_renewed_stops_at_its_end() {
        let mut book = LeaseBook::new(rules(&["base"]));
        let term = Term { ttl: Some(5 * SECOND), starts_in: 8 * SECOND, active_for: Some(4 * SECOND) };
        let id = book.acquire("a", rules(&["x"]), term, at(0)).unwrap();
        assert_eq!(book.next_change(at(0)), Some(at(5)), "unless it is renewed it never starts");
        assert_eq!(book.renew(id, None, at(4)), Ok(at(9)));
        assert_eq!(names(&mut book, at(8)), ["lease-1/x", "base"]);
        assert_eq!(book.renew(id, Some(20 * SECOND), at(8)), Ok(at(12)), "its end stays");
        assert_eq!(names(&mut book, at(12)), ["base"]);
        let id = book.acquire("a", rules(&["x"]), term, at(20)).unwrap();
        assert_eq!(book.expire(at(25)).first().map(|lease| lease.id), Some(id));
        assert_eq!(book.acquire("a", rules(&["x"]), Term::default(), at(30)), Err(LeaseError::Endless));
    }

    #[test]
    fn a_rule_in_force_knows_its_lease_by_its_name() {
        assert_eq!(lease_of(7, "lease-12/delay").as_deref(), Some("7-12"));
        for base in ["delay", "lease", "lease-1", "lease-x/delay", "my/lease-1/x"] {
            assert_eq!(lease_of(7, base), None, "{base}");
        }
    }

    #[test]
    fn a_timeline_is_a_lease_with_a_start() {
        let mut book = LeaseBook::new(rules(&["base"]));
        book.acquire("timeline", rules(&["x"]), window(30, 10), at(0)).unwrap();
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
        let mut try_lease = |count, starts_in, ttl| {
            let term = Term { ttl: Some(ttl), starts_in, active_for: None };
            book.acquire("a", rules(&vec!["x"; count]), term, at(0))
        };
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
        Acquire { start: u32, ttl: Option<u32>, window: u32 },
        Renew { pick: usize, ttl: u64 },
        Release { pick: usize },
        Wait { seconds: u64 },
    }

    fn moves() -> impl Strategy<Value = Vec<Move>> {
        let one = prop_oneof![
            (0..5_u32, proptest::option::of(1..9_u32), 1..9_u32)
                .prop_map(|(start, ttl, window)| Move::Acquire { start, ttl, window }),
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
                    Move::Acquire { start, ttl, window: seconds } => {
                        let term = Term { ttl: ttl.map(|ttl| SECOND * ttl), ..window(start, seconds) };
                        ids.extend(book.acquire("p", rules(&["x"]), term, now));
                    }
                    Move::Renew { pick, ttl } => {
                        let _ = book.renew(ids[pick % ids.len()], Some(SECOND * ttl as u32), now);
                    }
                    Move::Release { pick } => { let _ = book.release(ids[pick % ids.len()], now); }
                    Move::Wait { seconds } => {
                        // A change by itself happens at `next_change` and nowhere before.
                        let (_, _) = book.effective(now);
                        let end = now + SECOND * seconds as u32;
                        if let Some(change) = book.next_change(now).filter(|change| *change <= end) {
                            prop_assert!(!book.effective(change - Duration::from_nanos(1)).1);
                            // One that ends before it starts changes no rule.
                            let before = book.leases().len();
                            prop_assert!(book.effective(change).1 || book.leases().len() < before);
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
