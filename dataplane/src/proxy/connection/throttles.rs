//! The rates that one connection keeps.

use std::sync::Arc;

use crate::behavior::{Bucket, Direction, ThrottlePlan, max_slice};
use crate::clock::Instant;

/// The rates a connection keeps, with its own buckets.
pub(super) struct Throttles {
    plans: Vec<ThrottlePlan>,
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
    pub(super) fn new(plans: Vec<ThrottlePlan>, previous: Option<Box<Throttles>>) -> Box<Throttles> {
        let previous = previous.as_deref();
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
        Box::new(Throttles { plans, buckets, paid: paid.unwrap_or_default() })
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
        let limiting = self.plans.iter().zip(&mut self.buckets);
        let limiting = limiting.filter(|(plan, _)| plan.side.covers(direction));
        let leaves = limiting.map(|(plan, own)| match &plan.shared {
            Some(shared) => shared[direction as usize].pay(bytes, came, now),
            None => own[direction as usize].pay(bytes, came, now),
        });
        leaves.max().unwrap_or(now)
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
