//! Which run is next: first in, first out, and all of a run's nodes or none.
//!
//! A run that waits for nodes which carry others is never overtaken, so a large run does not starve behind small ones.
//! A run that nobody could carry out, because more nodes are asked for than are connected or a proxy is gone, holds up
//! nobody; it has a time to wait, and then leaves.

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use fracas_dataplane::clock::Instant;

/// Runs that may wait at once; one more is refused.
pub const QUEUE_LEN_MAX: usize = 1_000;
/// Bytes that their run files and plans may have together.
pub const QUEUE_BYTES_MAX: usize = 64 << 20;

/// A run that waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// Id of the run.
    pub run: String,
    /// How many nodes it needs.
    pub nodes: usize,
    /// Proxies that must have joined, because it has faults for them.
    pub proxies: Vec<String>,
    /// Of its run file and its plan.
    pub bytes: usize,
    /// Must have left by then.
    pub start_by: Option<Instant>,
    /// Since when nobody could carry it out.
    pub unmet_since: Option<Instant>,
}

/// What the queue can give to a run.
#[derive(Clone, Debug, Default)]
pub struct Available {
    /// Nodes that can take a run now, in the order in which they are given out.
    pub nodes: Vec<String>,
    /// Nodes that will be able to when their run is over.
    pub busy_nodes: usize,
    /// Nodes that are connected and drained.
    pub drained_nodes: usize,
    /// Of the proxies that runs wait for, those that have joined.
    pub proxies: BTreeSet<String>,
}

/// A run and the nodes that were given to it; shard `i` goes to node `i`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Allocation {
    /// Id of the run.
    pub run: String,
    /// As many as it asked for.
    pub nodes: Vec<String>,
}

/// Too much waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QueueFull {
    /// By number.
    #[error("{QUEUE_LEN_MAX} runs wait already; cancel some with `fracas run cancel ID`")]
    Runs,
    /// By size.
    #[error("the runs that wait have {} MiB already; cancel some with `fracas run cancel ID`", QUEUE_BYTES_MAX >> 20)]
    Bytes,
}

/// The runs that wait, in order.
#[derive(Debug, Default)]
pub struct RunQueue {
    waiting: VecDeque<Waiting>,
    bytes: usize,
}

impl RunQueue {
    /// Puts a run at the end.
    ///
    /// # Errors
    /// When [`QUEUE_LEN_MAX`] runs wait, or [`QUEUE_BYTES_MAX`] bytes of them.
    pub fn push(&mut self, waiting: Waiting) -> Result<(), QueueFull> {
        if self.waiting.len() >= QUEUE_LEN_MAX {
            return Err(QueueFull::Runs);
        }
        if self.bytes + waiting.bytes > QUEUE_BYTES_MAX {
            return Err(QueueFull::Bytes);
        }
        self.bytes += waiting.bytes;
        self.waiting.push_back(waiting);
        Ok(())
    }

    /// Takes the first run that somebody could carry out, if everything that it needs is there now.
    pub fn pop(&mut self, available: &Available) -> Option<Allocation> {
        let index = self.waiting.iter().position(|waiting| unmet(waiting, available).is_none())?;
        if self.waiting[index].nodes > available.nodes.len() {
            return None;
        }
        let Waiting { run, nodes, bytes, .. } = self.waiting.remove(index)?;
        self.bytes -= bytes;
        Some(Allocation { run, nodes: available.nodes[..nodes].to_vec() })
    }

    /// Takes a run out; `false` if it does not wait.
    pub fn remove(&mut self, run: &str) -> bool {
        let Some(index) = self.waiting.iter().position(|waiting| waiting.run == run) else { return false };
        self.bytes -= self.waiting.remove(index).map_or(0, |waiting| waiting.bytes);
        true
    }

    /// The runs whose time to wait is over, with what they waited for. They stay until they are removed. What nobody has
    /// is waited for at most `unmet_max` at a stretch.
    pub fn expired(
        &mut self,
        available: &Available,
        now: Instant,
        unmet_max: Duration,
    ) -> Vec<(String, String)> {
        let mut expired = Vec::new();
        let reasons = self.reasons(available);
        for (waiting, (run, reason)) in self.waiting.iter_mut().zip(reasons) {
            match unmet(waiting, available) {
                None => waiting.unmet_since = None,
                Some(_) => _ = waiting.unmet_since.get_or_insert(now),
            }
            let is_over = waiting.start_by.is_some_and(|by| now >= by)
                || waiting.unmet_since.is_some_and(|since| now.since(since) >= unmet_max);
            if is_over {
                expired.push((run, format!("never started: it {reason}")));
            }
        }
        expired
    }

    /// The proxies that runs wait for.
    pub fn proxies(&self) -> impl Iterator<Item = &String> {
        self.waiting.iter().flat_map(|waiting| &waiting.proxies)
    }

    /// A run's place, from 1.
    pub fn position(&self, run: &str) -> Option<usize> {
        self.waiting.iter().position(|waiting| waiting.run == run).map(|index| index + 1)
    }

    /// Why each run waits, in order; one line each, for the person who submitted it.
    pub fn reasons(&self, available: &Available) -> Vec<(String, String)> {
        let mut before = 0;
        let reason = |waiting: &Waiting| {
            if let Some(reason) = unmet(waiting, available) {
                return reason;
            }
            before += 1;
            let free = available.nodes.len();
            match before - 1 {
                0 if free < waiting.nodes => {
                    let (connected, s) = (free + available.busy_nodes, plural(waiting.nodes));
                    format!(
                        "needs {} node{s}: {connected} connected, {free} free, the others carry a run",
                        waiting.nodes
                    )
                }
                0 => "is next".to_owned(),
                count => format!("waits for {count} run{} before it", plural(count)),
            }
        };
        let reasons: Vec<String> = self.waiting.iter().map(reason).collect();
        self.waiting.iter().map(|waiting| waiting.run.clone()).zip(reasons).collect()
    }
}

fn plural(count: usize) -> &'static str {
    if count == 1 { "" } else { "s" }
}

/// What a run needs that nobody has, whatever ends.
fn unmet(waiting: &Waiting, available: &Available) -> Option<String> {
    let (free, s) = (available.nodes.len(), plural(waiting.nodes));
    let usable = free + available.busy_nodes;
    if usable < waiting.nodes {
        let drained = match available.drained_nodes {
            0 => String::new(),
            count => format!(", {count} drained"),
        };
        return Some(format!(
            "needs {} node{s}: {} connected, {free} free{drained}; start more with `fracas agent --join`",
            waiting.nodes,
            usable + available.drained_nodes,
        ));
    }
    let missing = waiting.proxies.iter().find(|proxy| !available.proxies.contains(proxy.as_str()))?;
    Some(format!(
        "has a fault for the proxy `{missing}`, which is not connected; start it with `fracas proxy --join`"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn waiting(run: &str, nodes: usize) -> Waiting {
        Waiting { run: run.into(), nodes, proxies: Vec::new(), bytes: 1, start_by: None, unmet_since: None }
    }

    fn for_proxy(run: &str, proxy: &str) -> Waiting {
        Waiting { proxies: vec![proxy.into()], ..waiting(run, 1) }
    }

    fn available(free: &[&str], busy_nodes: usize) -> Available {
        let nodes = free.iter().map(|name| (*name).to_owned()).collect();
        Available { nodes, busy_nodes, ..Available::default() }
    }

    fn at(seconds: u64) -> Instant {
        Instant::ZERO + Duration::from_secs(seconds)
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
    fn a_small_run_does_not_overtake_a_large_one_that_can_be_carried_out() {
        let mut queue = RunQueue::default();
        queue.push(waiting("large", 3)).unwrap();
        queue.push(waiting("small", 1)).unwrap();
        assert_eq!(queue.pop(&available(&["x", "y"], 1)), None);
        assert_eq!((queue.position("large"), queue.position("small")), (Some(1), Some(2)));
        assert!(queue.remove("large") && !queue.remove("large"));
        assert_eq!(queue.pop(&available(&["x", "y"], 1)).unwrap().run, "small");
    }

    #[test]
    fn what_nobody_can_carry_out_holds_up_nobody() {
        let mut queue = RunQueue::default();
        queue.push(waiting("large", 3)).unwrap();
        queue.push(for_proxy("gone", "cache")).unwrap();
        queue.push(waiting("small", 1)).unwrap();
        let two = available(&["x", "y"], 0);
        assert_eq!(queue.pop(&two).unwrap().run, "small");
        assert_eq!(queue.pop(&two), None);
        let drained = Available { drained_nodes: 1, ..two.clone() };
        assert_eq!(queue.pop(&drained), None, "a drained node is nobody's");
        let back = Available { proxies: ["cache".into()].into(), ..two };
        assert_eq!(queue.pop(&back).unwrap().run, "gone");
        queue.push(waiting("late", 1)).unwrap();
        assert_eq!(queue.pop(&available(&["x", "y"], 1)), None, "the large one is first again");
    }

    #[test]
    fn a_run_waits_only_so_long() {
        let mut queue = RunQueue::default();
        queue.push(waiting("unmet", 3)).unwrap();
        queue.push(Waiting { start_by: Some(at(50)), ..waiting("hurried", 1) }).unwrap();
        queue.push(waiting("patient", 1)).unwrap();
        let busy = available(&[], 2);
        let mut expired = |available: &Available, seconds| {
            queue
                .expired(available, at(seconds), Duration::from_secs(60))
                .into_iter()
                .map(|(run, _)| run)
                .collect::<Vec<_>>()
        };
        assert!(expired(&busy, 0).is_empty());
        assert!(expired(&busy, 49).is_empty());
        assert_eq!(expired(&busy, 50), ["hurried"]);
        assert_eq!(expired(&busy, 59), ["hurried"]);
        assert_eq!(expired(&available(&[], 3), 60), ["hurried"], "there was somebody for it in time");
        assert_eq!(expired(&busy, 61), ["hurried"]);
        assert_eq!(expired(&busy, 121), ["unmet", "hurried"]);
        let (_, reason) = queue.expired(&busy, at(121), Duration::from_secs(60)).remove(0);
        assert!(
            reason.starts_with("never started: it needs 3 nodes: 2 connected, 0 free; start"),
            "{reason}"
        );
    }

    #[test]
    fn each_waiting_run_says_why() {
        let mut queue = RunQueue::default();
        queue.push(Waiting { nodes: 2, ..for_proxy("a", "cache") }).unwrap();
        queue.push(waiting("b", 1)).unwrap();
        queue.push(waiting("c", 1)).unwrap();
        let reasons =
            |available| queue.reasons(&available).into_iter().map(|(_, why)| why).collect::<Vec<_>>();
        let few = reasons(available(&["x"], 0));
        assert_eq!(few[0], "needs 2 nodes: 1 connected, 1 free; start more with `fracas agent --join`");
        assert_eq!(few[1..], ["is next", "waits for 1 run before it"]);
        let drained = reasons(Available { drained_nodes: 1, ..available(&["x"], 0) });
        assert_eq!(
            drained[0],
            "needs 2 nodes: 2 connected, 1 free, 1 drained; start more with `fracas agent --join`"
        );
        let joined =
            |free: &[&str], busy| Available { proxies: ["cache".into()].into(), ..available(free, busy) };
        let busy = reasons(joined(&["x"], 1));
        assert_eq!(busy[0], "needs 2 nodes: 2 connected, 1 free, the others carry a run");
        assert_eq!(busy[1..], ["waits for 1 run before it", "waits for 2 runs before it"]);
        assert!(reasons(available(&["x", "y"], 0))[0].contains("the proxy `cache`, which is not connected"));
        assert_eq!(reasons(joined(&["x", "y"], 0))[0], "is next");
    }

    #[test]
    fn a_full_queue_refuses_by_number_and_by_size() {
        let mut queue = RunQueue::default();
        for number in 0..QUEUE_LEN_MAX {
            queue.push(waiting(&number.to_string(), 1)).unwrap();
        }
        assert_eq!(queue.push(waiting("more", 1)), Err(QueueFull::Runs));
        let mut queue = RunQueue::default();
        let large = |run: &str| Waiting { bytes: QUEUE_BYTES_MAX / 2, ..waiting(run, 1) };
        queue.push(large("a")).unwrap();
        queue.push(large("b")).unwrap();
        assert_eq!(queue.push(waiting("c", 1)), Err(QueueFull::Bytes));
        assert!(queue.remove("a"));
        queue.push(waiting("c", 1)).unwrap();
        queue.pop(&available(&["x"], 0)).unwrap();
        queue.push(large("d")).unwrap();
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
                let now = Available { nodes: names, busy_nodes: 5, ..Available::default() };
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
