//! Faults on a fleet's proxy that no run asked for: rules and leases by hand, or of a timeline. The controller hears of
//! them as of those it ordered, so that a report shows what its load met.

use std::collections::BTreeMap;
use std::time::Duration;

use fracas_dataplane::clock::Instant;
use fracas_dataplane::proxy::{EventKind, Handle, RuleStats, Watcher};

use super::proxy_session::{TELL_EVERY, acts, failures, listen, rules_of};
use crate::fault_story::{Story, WindowTold};
use crate::grpc::proxy_answers::{event_proto, proxy_proto};
use crate::grpc::wall_clock::WallClock;
use crate::session::{FromNode, WindowSeen};

/// Batches of events that may wait between two looks, a tenth of a second apart; at 50 a second and worker.
const WATCH_BATCHES: usize = 4_096;

/// What is known of them.
pub struct ByHand {
    story: Story,
    watcher: Watcher,
    since: Instant,
    told: BTreeMap<String, Told>,
}

#[derive(Default)]
struct Told {
    at: Option<Instant>,
    /// As they were last: rules that are gone have no figures any more.
    rules: Vec<RuleStats>,
}

impl ByHand {
    /// Watches all proxies of `handle` from now on.
    pub fn new(handle: &Handle) -> ByHand {
        // First the watch, then the list: what happens between the two is told twice, and counts once.
        let watcher = handle.watch(WATCH_BATCHES);
        let mut story = Story::default();
        handle.list().iter().for_each(|info| story.begin(&proxy_proto(info, handle, None)));
        ByHand { story, watcher, since: Instant::now(), told: BTreeMap::new() }
    }

    /// What is to be told at `now`: each window when it begins, once a second while it lasts, and at its end; but not
    /// those of leases that `is_ordered`.
    pub fn look(
        &mut self,
        handle: &Handle,
        is_ordered: impl Fn(&str) -> bool,
        now: Instant,
    ) -> Vec<FromNode> {
        let clock = WallClock::read();
        while let Some(events) = self.watcher.recv_timeout(Duration::ZERO) {
            let is_change =
                |kind| matches!(kind, EventKind::Changed | EventKind::LeaseStarted | EventKind::LeaseEnded);
            for event in events.iter().filter(|event| is_change(event.kind)) {
                self.story.on(&event_proto(event, &clock));
            }
        }
        let mut say = Vec::new();
        for window in self.story.windows() {
            if window.lease.as_deref().is_some_and(&is_ordered) {
                continue;
            }
            let told = self.told.entry(window.id.clone()).or_default();
            let is_due = told.at.is_none_or(|at| now.since(at) >= TELL_EVERY) || window.to_ns.is_some();
            if is_due {
                told.at = Some(now);
                say.push(FromNode::FaultWindow(seen(handle, &window, told, self.since)));
            }
        }
        let over = self.story.windows().into_iter().filter(|window| window.to_ns.is_some());
        for window in over.collect::<Vec<_>>() {
            self.story.forget(&window.id);
            self.told.remove(&window.id);
        }
        say
    }
}

fn seen(handle: &Handle, window: &WindowTold, told: &mut Told, since: Instant) -> WindowSeen {
    let rules = match &window.lease {
        Some(lease) => match handle.ended_leases().into_iter().find(|end| &end.lease.id == lease) {
            Some(end) => end.rules,
            None => rules_of(handle, &window.proxy, Some(lease)),
        },
        // Of base rules that were taken away nothing is left.
        None if window.to_ns.is_some() => std::mem::take(&mut told.rules),
        None => rules_of(handle, &window.proxy, None),
    };
    let failures = failures(handle, &window.proxy, &rules, window.to_ns.is_some());
    let injected = acts(&rules);
    told.rules = rules;
    WindowSeen {
        fault: format!("by hand {}", window.id),
        started_at: Instant::from_nanos(window.from_ns).max(since),
        ended_at: window.to_ns.map(Instant::from_nanos),
        injected,
        failures,
        listen: listen(handle, &window.proxy),
        proxy: window.proxy.clone(),
        behavior: window.behavior.clone(),
    }
}

#[cfg(test)]
mod tests {
    use fracas_dataplane::behavior::mix;
    use fracas_dataplane::proxy::leases::Term;
    use fracas_dataplane::proxy::{Dataplane, DataplaneSettings, LeaseRequest, ProxySpec, RulesChange};

    use super::*;

    fn told(say: Vec<FromNode>) -> Vec<(String, String, bool)> {
        let short = |message| match message {
            FromNode::FaultWindow(seen) => (seen.fault, seen.behavior, seen.ended_at.is_some()),
            other => panic!("{other:?}"),
        };
        say.into_iter().map(short).collect()
    }

    /// Looks until something is told: the keeper hands events on in its own time.
    fn next(by_hand: &mut ByHand, handle: &Handle) -> Vec<(String, String, bool)> {
        loop {
            let say = told(by_hand.look(handle, |lease| lease == "0-1", Instant::ZERO));
            if !say.is_empty() {
                return say;
            }
            std::thread::yield_now();
        }
    }

    #[test]
    fn what_is_done_by_hand_is_told_from_its_beginning_to_its_end() {
        let settings = DataplaneSettings { threads: 1, ..DataplaneSettings::default() };
        let dataplane = Dataplane::start(settings).unwrap();
        let handle = dataplane.handle();
        let nobody = "127.0.0.1:1".parse().unwrap();
        handle.create(ProxySpec::new("shop", "127.0.0.1:0".parse().unwrap(), nobody)).unwrap();
        let mut by_hand = ByHand::new(&handle);
        let rules = |text: &str| mix::parse(text, &BTreeMap::new()).unwrap();
        let lease = || {
            let term =
                Term { ttl: Some(Duration::from_secs(60)), starts_in: Duration::ZERO, active_for: None };
            let request =
                LeaseRequest { proxy: "shop".into(), rules: rules("hang"), owner: String::new(), term };
            handle.acquire(request).unwrap().0.id
        };
        assert_eq!(lease(), "0-1", "this one is a run's, and told by others");
        let second = lease();
        let id = format!("by hand lease {second}");
        assert_eq!(next(&mut by_hand, &handle), [(id.clone(), "hang".to_owned(), false)]);
        handle.release(&second).unwrap();
        assert_eq!(next(&mut by_hand, &handle), [(id, "hang".to_owned(), true)]);
        let change =
            |text: &str| RulesChange { proxy: "shop".into(), rules: rules(text), expected_generation: None };
        handle.apply(vec![change("5:reset")]).unwrap();
        let [(id, behavior, false)] = &next(&mut by_hand, &handle)[..] else { panic!("one that began") };
        assert_eq!(behavior, "5:reset");
        handle.apply(vec![change("normal")]).unwrap();
        assert_eq!(next(&mut by_hand, &handle), [(id.clone(), behavior.clone(), true)]);
    }
}
