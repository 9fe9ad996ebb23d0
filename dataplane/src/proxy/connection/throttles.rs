//! The rates that one connection keeps.

use std::sync::Arc;

use crate::behavior::{Bucket, Direction, ThrottlePlan, max_slice};
use crate::clock::Instant;
use crate::proxy::figures::{RuleFigures, Rules};

/// The rates a connection keeps, with its own buckets.
pub(super) struct Throttles {
    plans: Vec<ThrottlePlan>,
    /// The rules of the plans.
    rules: Vec<Arc<RuleFigures>>,
    /// The plans that have made bytes wait, by their bits, and those of them that were told of.
    met: u64,
    told: u64,
    /// One bucket for each plan and direction.
    buckets: Vec<[Bucket; 2]>,
    /// What has been paid for at the front of each direction's queue, and when it may leave.
    paid: [Option<Paid>; 2],
}

#[derive(Clone, Copy)]
struct Paid {
    bytes: usize,
    leaves: Instant,
}

impl Throttles {
    /// Of plans by the rules `figures`; what is kept already is kept on.
    pub(super) fn new(
        plans: Vec<ThrottlePlan>,
        figures: &Rules,
        previous: Option<Box<Throttles>>,
    ) -> Box<Throttles> {
        let previous = previous.as_deref();
        let rule = |plan: &ThrottlePlan| Arc::clone(&figures[usize::from(plan.rule)]);
        let rules: Vec<_> = plans.iter().map(rule).collect();
        let is_told = |rule: &Arc<RuleFigures>| {
            previous.is_some_and(|old| {
                let place = old.rules.iter().position(|old| Arc::ptr_eq(old, rule));
                place.is_some_and(|place| old.told >> place & 1 == 1)
            })
        };
        let told = rules.iter().enumerate().map(|(place, rule)| u64::from(is_told(rule)) << place).sum();
        let bucket = |plan: &ThrottlePlan| {
            let same = previous.and_then(|old| {
                let place =
                    old.plans.iter().position(|old| old.rate == plan.rate && old.side == plan.side)?;
                old.buckets.get(place).cloned()
            });
            same.unwrap_or_else(|| [Bucket::new(plan.rate), Bucket::new(plan.rate)])
        };
        let buckets = plans.iter().map(bucket).collect();
        // What has been paid for is not paid for again, as long as the same rates ask.
        let paid = previous.filter(|old| are_same(&old.plans, &plans)).map(|old| old.paid);
        Box::new(Throttles { plans, rules, met: told, told, buckets, paid: paid.unwrap_or_default() })
    }

    /// The most bytes to let go at once, so that the flow is even.
    fn slice(&self, direction: Direction) -> usize {
        let limiting = self.plans.iter().filter(|plan| plan.side.covers(direction));
        limiting.map(|plan| max_slice(plan.rate)).min().unwrap_or(usize::MAX)
    }

    pub(super) fn queue_bytes(&self, direction: Direction) -> Option<usize> {
        let limiting = self.plans.iter().filter(|plan| plan.side.covers(direction));
        limiting.map(|plan| plan.queue_bytes as usize).min()
    }

    /// Whether a rate is kept in this direction.
    pub(super) fn limits(&self, direction: Direction) -> bool {
        self.plans.iter().any(|plan| plan.side.covers(direction))
    }

    /// The next plan that has made bytes wait and was not told of yet: its rule and rate.
    pub(super) fn next_met(&mut self) -> Option<(Arc<RuleFigures>, u64)> {
        let place = (self.met & !self.told).trailing_zeros() as usize;
        let rule = Arc::clone(self.rules.get(place)?);
        self.told |= 1 << place;
        Some((rule, self.plans[place].rate))
    }

    /// How many of the next `length` bytes in this direction, which came at `came`, may leave now.
    ///
    /// # Errors
    /// When they may leave if none may now.
    pub(super) fn take(
        &mut self,
        direction: Direction,
        length: usize,
        came: Instant,
        now: Instant,
    ) -> Result<usize, Instant> {
        let paid = match self.paid[direction as usize] {
            Some(paid) => paid,
            None => {
                let bytes = length.min(self.slice(direction));
                let paid = Paid { bytes, leaves: self.pay(direction, bytes, came, now) };
                *self.paid[direction as usize].insert(paid)
            }
        };
        if paid.leaves > now {
            return Err(paid.leaves);
        }
        self.paid[direction as usize] = None;
        Ok(paid.bytes.min(length))
    }

    /// Pays every rate; the slowest says when the bytes leave.
    fn pay(&mut self, direction: Direction, bytes: usize, came: Instant, now: Instant) -> Instant {
        let limiting = self.plans.iter().zip(&mut self.buckets).enumerate();
        let limiting = limiting.filter(|(_, (plan, _))| plan.side.covers(direction));
        let mut last = now;
        for (place, (plan, own)) in limiting {
            let leaves = match &plan.shared {
                Some(shared) => shared[direction as usize].pay(bytes, came, now),
                None => own[direction as usize].pay(bytes, came, now),
            };
            self.met |= u64::from(leaves > now) << place;
            last = last.max(leaves);
        }
        last
    }
}

/// Whether the same rates are asked in the same order.
fn are_same(old: &[ThrottlePlan], new: &[ThrottlePlan]) -> bool {
    let is_same = |old: &ThrottlePlan, new: &ThrottlePlan| {
        let same_bucket = match (&old.shared, &new.shared) {
            (None, None) => true,
            (Some(old), Some(new)) => Arc::ptr_eq(&old[0], &new[0]),
            _ => false,
        };
        same_bucket && old.rate == new.rate && old.side == new.side
    };
    old.len() == new.len() && old.iter().zip(new).all(|(old, new)| is_same(old, new))
}
