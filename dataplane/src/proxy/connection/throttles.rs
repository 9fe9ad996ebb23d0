//! The rates that one connection keeps.

use crate::behavior::{Bucket, Direction, ThrottlePlan, max_slice};
use crate::clock::Instant;

/// The rates a connection keeps, with its own buckets.
pub(super) struct Throttles {
    plans: Vec<ThrottlePlan>,
    /// One bucket for each plan and direction.
    buckets: Vec<[Bucket; 2]>,
    /// How many of the plans have let the front of each direction's queue pass already.
    granted: [usize; 2],
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
        Box::new(Throttles { plans, buckets, granted: [0; 2] })
    }

    /// The most bytes to let go at once, so that the flow is even.
    pub(super) fn slice(&self, direction: Direction) -> usize {
        let limiting = self.plans.iter().filter(|plan| plan.side.covers(direction));
        limiting.map(|plan| max_slice(plan.rate)).min().unwrap_or(usize::MAX)
    }

    pub(super) fn queue_bytes(&self, direction: Direction) -> Option<usize> {
        let limiting = self.plans.iter().filter(|plan| plan.side.covers(direction));
        limiting.map(|plan| plan.queue_bytes as usize).min()
    }

    /// Asks every rate for `bytes`; one that said yes before a later one said no is not asked twice.
    pub(super) fn take(&mut self, direction: Direction, bytes: usize, now: Instant) -> Result<(), Instant> {
        let granted = &mut self.granted[direction as usize];
        for (plan, own) in self.plans.iter().zip(&mut self.buckets).skip(*granted) {
            if plan.side.covers(direction) {
                match &plan.shared {
                    Some(shared) => shared[direction as usize].take(bytes, now)?,
                    None => own[direction as usize].take(bytes, now)?,
                }
            }
            *granted += 1;
        }
        *granted = 0;
        Ok(())
    }
}
