//! One worker's part of a plan.

/// Part `index` of `of` equal parts: of things dealt round robin, those whose number is `index` modulo `of`.
///
/// Nodes and threads nest: thread `j` of `m` on node `i` of `n` is part `i + n·j` of `n·m`. So the threads of a
/// node are together exactly the node's part, and nodes may differ in their number of threads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shard {
    index: u32,
    of: u32,
}

impl Shard {
    /// The plan as a whole.
    pub const WHOLE: Shard = Shard { index: 0, of: 1 };

    /// Part `index` of `of`; `None` unless `index < of`.
    pub const fn new(index: u32, of: u32) -> Option<Shard> {
        if index < of { Some(Shard { index, of }) } else { None }
    }

    /// Part `index` of `of` of this part; `None` unless `index < of` and the product fits.
    pub fn split(self, index: u32, of: u32) -> Option<Shard> {
        let offset = self.of.checked_mul(index)?;
        Shard::new(self.index.checked_add(offset)?, self.of.checked_mul(of)?).filter(|_| index < of)
    }

    /// Which part this is, from 0.
    pub const fn index(self) -> u32 {
        self.index
    }

    /// Of how many.
    pub const fn of(self) -> u32 {
        self.of
    }

    /// This part's share of `total` indivisible things (connections, users, requests), by largest
    /// remainder: shares differ by at most one and add up to `total`.
    pub fn share(self, total: u64) -> u64 {
        let (of, index) = (u64::from(self.of), u64::from(self.index));
        total / of + u64::from(index < total % of)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn nodes_and_threads_nest() {
        let node = Shard::new(2, 3).unwrap();
        assert_eq!(node.split(1, 4), Shard::new(5, 12));
        assert_eq!(node.split(4, 4), None);
        assert_eq!(Shard::new(3, 3), None);
        assert_eq!(Shard::new(0, 0), None);
        assert_eq!(Shard::new(0, u32::MAX).unwrap().split(0, 2), None);
    }

    proptest! {
        #[test]
        fn the_threads_of_a_node_are_together_the_nodes_part(
            total in any::<u32>(),
            nodes in 1_u32..20,
            threads in 1_u32..20,
        ) {
            let total = u64::from(total);
            for node in (0..nodes).map(|i| Shard::new(i, nodes).unwrap()) {
                let parts = (0..threads).map(|j| node.split(j, threads).unwrap());
                prop_assert_eq!(parts.clone().map(|part| part.share(total)).sum::<u64>(), node.share(total));
                prop_assert!(parts.clone().all(|part| part.index() % nodes == node.index()));
            }
        }

        #[test]
        fn shares_add_up_and_differ_by_at_most_one(total in any::<u64>(), of in 1_u32..200) {
            let shares: Vec<u64> = (0..of).map(|i| Shard::new(i, of).unwrap().share(total)).collect();
            prop_assert_eq!(shares.iter().map(|s| u128::from(*s)).sum::<u128>(), u128::from(total));
            prop_assert!(shares.iter().max().unwrap() - shares.iter().min().unwrap() <= 1);
        }
    }
}
