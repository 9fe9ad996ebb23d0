//! Which run is next: first in, first out, and all of a run's nodes or none.
//!
//! The head is never overtaken, so a large run does not starve behind small ones.

use std::collections::VecDeque;

/// Runs that may wait at once; one more is refused.
pub const QUEUE_LEN_MAX: usize = 1_000;

/// A run that waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// Id of the run.
    pub run: String,
    /// How many nodes it needs.
    pub nodes: usize,
    /// Proxies that must have joined, because it has faults for them.
    pub proxies: Vec<String>,
}

/// What the queue can give to a run.
#[derive(Clone, Debug, Default)]
pub struct Available {
    /// Nodes that can take a run now, in the order in which they are given out.
    pub nodes: Vec<String>,
    /// Nodes that are connected but carry a run or are drained.
    pub taken_nodes: usize,
    /// Proxies that have joined.
    pub proxies: Vec<String>,
}

/// A run and the nodes that were given to it; shard `i` goes to node `i`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Allocation {
    /// Id of the run.
    pub run: String,
    /// As many as it asked for.
    pub nodes: Vec<String>,
}

/// Too many runs wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{QUEUE_LEN_MAX} runs wait already; cancel some with `fracas run cancel ID`")]
pub struct QueueFull;

/// The runs that wait, in order.
#[derive(Debug, Default)]
pub struct RunQueue {
    waiting: VecDeque<Waiting>,
}

impl RunQueue {
    /// Puts a run at the end.
    ///
    /// # Errors
    /// When [`QUEUE_LEN_MAX`] runs wait.
    pub fn push(&mut self, waiting: Waiting) -> Result<(), QueueFull> {
        if self.waiting.len() >= QUEUE_LEN_MAX {
            return Err(QueueFull);
        }
        self.waiting.push_back(waiting);
        Ok(())
    }

    /// Takes the head if everything that it needs is there.
    pub fn pop(&mut self, available: &Available) -> Option<Allocation> {
        let head = self.waiting.front()?;
        if lacks(head, available).is_some() {
            return None;
        }
        let Waiting { run, nodes, .. } = self.waiting.pop_front()?;
        Some(Allocation { run, nodes: available.nodes[..nodes].to_vec() })
    }

    /// Takes a run out; `false` if it does not wait.
    pub fn remove(&mut self, run: &str) -> bool {
        let before = self.waiting.len();
        self.waiting.retain(|waiting| waiting.run != run);
        self.waiting.len() < before
    }

    /// A run's place, from 1.
    pub fn position(&self, run: &str) -> Option<usize> {
        self.waiting.iter().position(|waiting| waiting.run == run).map(|index| index + 1)
    }

    /// Why each run waits, in order; one line each, for the person who submitted it.
    pub fn reasons(&self, available: &Available) -> Vec<(String, String)> {
        let head = self.waiting.front().and_then(|head| lacks(head, available));
        self.waiting
            .iter()
            .enumerate()
            .map(|(index, waiting)| {
                let reason = match (index, &head) {
                    (0, Some(reason)) => reason.clone(),
                    (0, None) => "is next".to_owned(),
                    (1, _) => "waits for 1 run before it".to_owned(),
                    (before, _) => format!("waits for {before} runs before it"),
                };
                (waiting.run.clone(), reason)
            })
            .collect()
    }
}

fn lacks(waiting: &Waiting, available: &Available) -> Option<String> {
    let free = available.nodes.len();
    if free < waiting.nodes {
        let connected = free + available.taken_nodes;
        let advice = if connected < waiting.nodes {
            "; start more with `fracas agent --join`"
        } else {
            ", the others carry a run or are drained"
        };
        let s = if waiting.nodes == 1 { "" } else { "s" };
        return Some(format!("needs {} node{s}: {connected} connected, {free} free{advice}", waiting.nodes));
    }
    let missing = waiting.proxies.iter().find(|proxy| !available.proxies.contains(proxy))?;
    Some(format!(
        "has a fault for the proxy `{missing}`, which has not joined; start it with `fracas proxy --join`"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn waiting(run: &str, nodes: usize) -> Waiting {
        Waiting { run: run.into(), nodes, proxies: Vec::new() }
    }

    fn available(free: &[&str], taken_nodes: usize) -> Available {
        let nodes = free.iter().map(|name| (*name).to_owned()).collect();
        Available { nodes, taken_nodes, proxies: Vec::new() }
    }

    #[test]
    fn a_run_gets_all_its_nodes_or_none() {
        let mut queue = RunQueue::default();
        queue.push(waiting("a", 2)).unwrap();
        assert_eq!(queue.pop(&available(&["x"], 1)), None);
        let allocation = queue.pop(&available(&["x", "y", "z"], 0)).unwrap();
        assert_eq!(allocation, Allocation { run: "a".into(), nodes: vec!["x".into(), "y".into()] });
        assert_eq!(queue.pop(&available(&["z"], 2)), None);
    }

    #[test]
    fn a_small_run_does_not_overtake_a_large_one() {
        let mut queue = RunQueue::default();
        queue.push(waiting("large", 3)).unwrap();
        queue.push(waiting("small", 1)).unwrap();
        assert_eq!(queue.pop(&available(&["x", "y"], 0)), None);
        assert_eq!((queue.position("large"), queue.position("small")), (Some(1), Some(2)));
        assert!(queue.remove("large") && !queue.remove("large"));
        assert_eq!(queue.pop(&available(&["x", "y"], 0)).unwrap().run, "small");
    }

    #[test]
    fn each_waiting_run_says_why() {
        let mut queue = RunQueue::default();
        queue.push(Waiting { proxies: vec!["cache".into()], ..waiting("a", 2) }).unwrap();
        queue.push(waiting("b", 1)).unwrap();
        queue.push(waiting("c", 1)).unwrap();
        let reasons =
            |available| queue.reasons(&available).into_iter().map(|(_, why)| why).collect::<Vec<_>>();
        let few = reasons(available(&["x"], 0));
        assert_eq!(few[0], "needs 2 nodes: 1 connected, 1 free; start more with `fracas agent --join`");
        assert_eq!(few[1..], ["waits for 1 run before it", "waits for 2 runs before it"]);
        let busy = reasons(available(&["x"], 1));
        assert_eq!(busy[0], "needs 2 nodes: 2 connected, 1 free, the others carry a run or are drained");
        assert!(reasons(available(&["x", "y"], 0))[0].contains("the proxy `cache`, which has not joined"));
        let there = Available { proxies: vec!["cache".into()], ..available(&["x", "y"], 0) };
        assert_eq!(reasons(there)[0], "is next");
    }

    #[test]
    fn a_full_queue_refuses() {
        let mut queue = RunQueue::default();
        for number in 0..QUEUE_LEN_MAX {
            queue.push(waiting(&number.to_string(), 1)).unwrap();
        }
        assert_eq!(queue.push(waiting("more", 1)), Err(QueueFull));
    }

    proptest! {
        #[test]
        fn runs_leave_in_the_order_in_which_they_came(
            sizes in prop::collection::vec(1_usize..5, 1..30),
            free in prop::collection::vec(0_usize..6, 100),
        ) {
            let mut queue = RunQueue::default();
            for (number, nodes) in sizes.iter().enumerate() {
                queue.push(waiting(&number.to_string(), *nodes)).unwrap();
            }
            let mut left = Vec::new();
            for free in free {
                let names: Vec<String> = (0..free).map(|n| format!("n{n}")).collect();
                let now = Available { nodes: names, ..Available::default() };
                if let Some(allocation) = queue.pop(&now) {
                    let number: usize = allocation.run.parse().unwrap();
                    prop_assert_eq!(allocation.nodes.len(), sizes[number]);
                    prop_assert!(allocation.nodes.len() <= free);
                    left.push(number);
                }
            }
            prop_assert!(left.iter().enumerate().all(|(index, number)| index == *number));
        }
    }
}
