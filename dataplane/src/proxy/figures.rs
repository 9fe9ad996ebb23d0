//! A worker's figures as any thread may read them at any time: the worker only writes, and is never asked.
//!
//! ```text
//!   worker ──stores──► counters, rules, times ◄──loads── /metrics, GetStats, statsd, …
//! ```
//! Counters are published before the worker waits in the kernel: a reply that a client has read was counted. The two
//! locks here are taken by the worker only when a proxy or its rules come or go, and are held by a reader for as long as
//! it takes to count one more reference.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

use super::handle::lock;
use super::leases::lease_of;
use super::stats::{ProxySnapshot, RuleStats, SharedCounters, WorkerSnapshot, has_times};
use super::times::Recorder;
use crate::behavior::{Drawn, KINDS, RuleSet};
use crate::ring::CpuClock;

/// A number that one thread counts and any reads.
#[derive(Debug, Default)]
pub(super) struct Count(AtomicU64);

impl Count {
    /// Adds; by its one writer only.
    pub(super) fn add(&self, count: u64) {
        self.0.store(self.read() + count, Ordering::Relaxed);
    }

    pub(super) fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    pub(super) fn read(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// What one rule does on one proxy on one worker.
#[derive(Debug)]
pub(super) struct RuleFigures {
    pub(super) name: Arc<str>,
    pub(super) behavior: &'static str,
    pub(super) lease: Option<Arc<str>>,
    matched: Count,
    acted: Count,
    pub(super) injected: Count,
    /// How late, and what was asked; of rules that take a time.
    times: Option<[Recorder; 2]>,
    /// It was read for the last time: what it does later is counted with the others of its behavior.
    retired: AtomicBool,
}

impl RuleFigures {
    pub(super) fn new(name: &str, behavior: &'static str, lease: Option<Arc<str>>) -> RuleFigures {
        RuleFigures {
            name: name.into(),
            behavior,
            lease,
            matched: Count::default(),
            acted: Count::default(),
            injected: Count::default(),
            times: has_times(behavior).then(|| [Recorder::new(), Recorder::new()]),
            retired: AtomicBool::new(false),
        }
    }

    /// Whether it is counted elsewhere from now on.
    pub(super) fn is_retired(&self) -> bool {
        self.retired.load(Ordering::Relaxed)
    }

    /// Reads it for the last time.
    pub(super) fn retire(&self) -> RuleStats {
        self.retired.store(true, Ordering::Relaxed);
        self.read()
    }

    /// Whether it holds bytes for a time.
    pub(super) fn delays(&self) -> bool {
        self.times.is_some()
    }

    /// Counts a delay that has ended, in nanoseconds.
    pub(super) fn delayed(&self, late_ns: u64, asked_ns: u64) {
        self.injected.add(1);
        if let Some([lateness, asked]) = &self.times {
            lateness.record(late_ns);
            asked.record(asked_ns);
        }
    }

    pub(super) fn read(&self) -> RuleStats {
        let [lateness, asked] = match &self.times {
            Some(times) if self.injected.read() > 0 => times.each_ref().map(|times| Some(times.read())),
            Some(_) => [(); 2].map(|()| Some(super::times::Times::default())),
            None => [None, None],
        };
        RuleStats {
            name: Arc::clone(&self.name),
            behavior: self.behavior,
            lease: self.lease.clone(),
            matched: self.matched.read(),
            acted: self.acted.read(),
            injected: self.injected.read(),
            lateness,
            asked,
        }
    }
}

/// The rules of one set in their order. What is held keeps them, so that it is known by which rules whatever comes
/// meanwhile; a thin pointer, for there is one in every queued chunk.
pub(super) type Rules = Arc<Box<[Arc<RuleFigures>]>>;

/// Counts the units that rules met and chose.
pub(super) fn count_drawn(rules: &[Arc<RuleFigures>], drawn: Drawn) {
    let mut left = drawn.matched | drawn.acted;
    while left != 0 {
        let index = left.trailing_zeros();
        left &= left - 1;
        if let Some(figures) = rules.get(index as usize) {
            figures.matched.add(drawn.matched >> index & 1);
            figures.acted.add(drawn.acted >> index & 1);
        }
    }
}

/// Figures for the new rules of proxy `id`, in which a rule that is the same as before goes on counting; and those of
/// the rules that are gone, or were changed.
pub(super) fn figures_of(
    id: u32,
    rules: &RuleSet,
    before: &RuleSet,
    counted: &[Arc<RuleFigures>],
) -> (Rules, Vec<Arc<RuleFigures>>) {
    let mut counted = counted.to_vec();
    let now = rules.rules().iter().map(|rule| {
        let is_same = before.rules().iter().any(|old| old.rule() == rule.rule());
        let same = counted.iter().position(|old| is_same && *old.name == *rule.name());
        match same {
            Some(place) => counted.swap_remove(place),
            None => Arc::new(RuleFigures::new(rule.name(), rule.kind(), lease_of(id, rule.name()))),
        }
    });
    (Arc::new(now.collect()), counted)
}

/// What a proxy does on one worker.
#[derive(Debug)]
pub(super) struct ProxyFigures {
    pub(super) counters: SharedCounters,
    pub(super) held_bytes: Count,
    rules: Mutex<RulesNow>,
    orphans: OnceLock<Box<[RuleFigures]>>,
}

#[derive(Clone, Debug)]
struct RulesNow {
    current: Rules,
    /// Rules that are no longer there, together by behavior.
    retired: Arc<BTreeMap<&'static str, RuleStats>>,
}

impl ProxyFigures {
    pub(super) fn new(current: Rules) -> ProxyFigures {
        let rules = Mutex::new(RulesNow { current, retired: Arc::default() });
        let (counters, held_bytes) = (SharedCounters::default(), Count::default());
        ProxyFigures { counters, held_bytes, rules, orphans: OnceLock::new() }
    }

    /// Shows new rules instead of the old ones, and adds up those that are gone.
    pub(super) fn replace(&self, current: Rules, gone: &[RuleStats]) {
        let mut rules = lock(&self.rules);
        rules.current = current;
        if !gone.is_empty() {
            self.orphans.get_or_init(|| {
                let built = KINDS.iter().filter(|kind| kind.built && kind.name != "normal");
                built.map(|kind| RuleFigures::new(kind.name, kind.name, None)).collect()
            });
        }
        for old in gone.iter().filter(|old| old.injected > 0) {
            let retired = Arc::make_mut(&mut rules.retired).entry(old.behavior);
            retired.or_insert_with(|| RuleStats::new(old.behavior, old.behavior, None)).merge(old);
        }
    }

    /// Where faults of a behavior are counted whose rule is gone: made when the first rule goes, not when bytes leave.
    pub(super) fn orphans(&self, behavior: &str) -> Option<&RuleFigures> {
        self.orphans.get()?.iter().find(|figures| figures.behavior == behavior)
    }

    pub(super) fn read(&self) -> ProxySnapshot {
        let RulesNow { current, retired } = lock(&self.rules).clone();
        let mut retired = BTreeMap::clone(&retired);
        let orphans = self.orphans.get().into_iter().flatten();
        for orphans in orphans.filter(|orphans| orphans.injected.read() > 0) {
            let sum = retired.entry(orphans.behavior);
            sum.or_insert_with(|| RuleStats::new(orphans.behavior, orphans.behavior, None))
                .merge(&orphans.read());
        }
        ProxySnapshot {
            counters: self.counters.read(),
            rules: current.iter().map(|rule| rule.read()).collect(),
            retired,
            held_bytes: self.held_bytes.read() as usize,
        }
    }
}

/// What one worker does.
#[derive(Debug)]
pub(super) struct WorkerFigures {
    worker: usize,
    cpu: CpuClock,
    pub(super) connections: Count,
    pub(super) held_bytes: Count,
    pub(super) turns: Count,
    /// Completions that were not wake-ups: by these it is known whether it does anything.
    pub(super) completions: Count,
    pub(super) no_buffers: Count,
    pub(super) generation: Count,
    pub(super) overflows: Count,
    pub(super) events_lost: Count,
    pub(super) residence: Recorder,
    /// By proxy number; shared whole, so that a reader holds the lock for one reference only.
    proxies: Mutex<Arc<BTreeMap<u32, Arc<ProxyFigures>>>>,
}

impl WorkerFigures {
    /// Those of a worker on the calling thread.
    pub(super) fn new(worker: usize) -> WorkerFigures {
        WorkerFigures {
            worker,
            cpu: CpuClock::of_this_thread(),
            connections: Count::default(),
            held_bytes: Count::default(),
            turns: Count::default(),
            completions: Count::default(),
            no_buffers: Count::default(),
            generation: Count::default(),
            overflows: Count::default(),
            events_lost: Count::default(),
            residence: Recorder::new(),
            proxies: Mutex::default(),
        }
    }

    /// Shows a proxy; nothing once it is gone.
    pub(super) fn show(&self, id: u32, proxy: Option<Arc<ProxyFigures>>) {
        let mut proxies = lock(&self.proxies);
        let proxies = Arc::make_mut(&mut proxies);
        match proxy {
            Some(proxy) => proxies.insert(id, proxy),
            None => proxies.remove(&id),
        };
    }

    /// One proxy as this worker has it.
    pub(super) fn proxy(&self, id: u32) -> Option<ProxySnapshot> {
        let proxies = Arc::clone(&lock(&self.proxies));
        proxies.get(&id).map(|proxy| proxy.read())
    }

    /// Everything so far.
    pub(super) fn read(&self) -> WorkerSnapshot {
        let proxies = Arc::clone(&lock(&self.proxies));
        WorkerSnapshot {
            proxies: proxies.iter().map(|(id, proxy)| (*id, proxy.read())).collect(),
            ..self.read_worker()
        }
    }

    /// The same without the proxies.
    pub(super) fn read_worker(&self) -> WorkerSnapshot {
        WorkerSnapshot {
            worker: self.worker,
            cpu_ns: self.cpu.read_ns(),
            connections: self.connections.read() as usize,
            held_bytes: self.held_bytes.read() as usize,
            turns: self.turns.read(),
            no_buffers: self.no_buffers.read(),
            generation: self.generation.read(),
            overflows: self.overflows.read(),
            events_lost: self.events_lost.read(),
            residence: self.residence.read(),
            proxies: BTreeMap::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::behavior::mix;
    use crate::protocol::Protocol;

    fn rules(text: &str) -> RuleSet {
        RuleSet::compile(mix::parse(text, &BTreeMap::new()).unwrap(), Protocol::Tcp, 1, 1).unwrap()
    }

    #[test]
    fn a_rule_that_stays_goes_on_counting_and_one_that_goes_is_not_forgotten() {
        let (first, second) = (rules("10:delay,5:hang"), rules("10:delay,7:hang"));
        let (now, gone) = figures_of(0, &first, &first, &[]);
        assert!(gone.is_empty());
        let proxy = ProxyFigures::new(Arc::clone(&now));
        now[0].delayed(1_000, 50_000_000);
        now[1].injected.add(3);
        let (next, gone) = figures_of(0, &second, &first, &now);
        let gone: Vec<RuleStats> = gone.iter().map(|rule| rule.read()).collect();
        proxy.replace(next, &gone);
        let read = proxy.read();
        assert_eq!((read.rules[0].injected, read.rules[1].injected), (1, 0));
        assert_eq!(read.rules[0].asked.as_ref().unwrap().max(), 50_000_000);
        assert_eq!(read.retired["hang"].injected, 3);
        proxy.orphans("delay").unwrap().delayed(2_000, 7_000_000);
        proxy.orphans("delay").unwrap().delayed(2_000, 7_000_000);
        let read = proxy.read();
        assert_eq!(
            (read.retired["delay"].injected, read.retired["delay"].lateness.as_ref().unwrap().len()),
            (2, 2)
        );
        assert_eq!(read.rules.len(), 2);
    }

    #[test]
    fn a_proxy_is_shown_until_it_goes() {
        let worker = WorkerFigures::new(3);
        worker.show(7, Some(Arc::new(ProxyFigures::new(Rules::default()))));
        assert_eq!(worker.read().proxies.keys().copied().collect::<Vec<_>>(), [7]);
        assert!(worker.proxy(7).is_some() && worker.proxy(8).is_none());
        worker.show(7, None);
        assert_eq!((worker.read().proxies.len(), worker.read().worker), (0, 3));
    }
}
