//! What a watched proxy tells, put together: when which rules were in force, what they injected, and which failures of
//! the load that must have made. No I/O: it is fed with the state at the beginning and with events.

mod kept;

use std::collections::BTreeMap;
use std::time::Duration;

use fracas_dataplane::behavior::{Holds, Kind};
use fracas_loadgen::measure::{Failure, FaultWindow, Faults, Injected, Injections, Span};
use fracas_loadgen::scenario::{behaviors_of, is_cause};
use fracas_proto::v1::{self, Event, EventKind, LeaseState};

use crate::outwaited::DELAY;
use kept::{Kept, Room, Tally, take};

/// Whether a behavior is told of once for a connection, any of whose requests it may hold.
fn is_held_untold(behavior: &str) -> bool {
    Kind::find(behavior).is_some_and(|kind| kind.client.holds == Holds::Untold)
}

/// What a window of a listener that was closed by hand is called.
const SWITCHED_OFF: &str = "switched off";

/// Whose rules a window is made of.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Owner {
    /// A lease.
    Lease(String),
    /// The base rules since this generation.
    Base(u64),
    /// The listener is closed.
    Off(u64),
}

impl Owner {
    /// Unique among the windows of a process.
    fn id(&self, proxy: &str) -> String {
        match self {
            Owner::Lease(lease) => format!("lease {lease}"),
            Owner::Base(generation) => format!("{proxy} since {generation}"),
            Owner::Off(generation) => format!("{proxy} off {generation}"),
        }
    }
}

/// A window as others see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WindowTold {
    /// Unique among the windows of the process.
    pub id: String,
    /// Name of the proxy.
    pub proxy: String,
    /// The lease that it is the life of, if one.
    pub lease: Option<String>,
    /// The mix.
    pub behavior: String,
    /// The proxy's clock; 0 if it was in force at the beginning.
    pub from_ns: u64,
    /// The proxy's clock; `None` while in force.
    pub to_ns: Option<u64>,
}

/// Rules in force.
#[derive(Clone, Debug)]
struct Window {
    behavior: String,
    from_ns: u64,
    to_ns: Option<u64>,
}

#[derive(Clone, Debug, Default)]
struct Proxy {
    listen: String,
    windows: BTreeMap<Owner, Window>,
    tallies: BTreeMap<Owner, Tally>,
    kept: Kept,
    /// Changes up to this generation are in the state that it began with.
    known_generation: u64,
}

/// The proxies of one process, from the moment at which they are watched.
#[derive(Clone, Debug, Default)]
pub struct Story {
    proxies: BTreeMap<String, Proxy>,
    /// How long the load waits for a reply; without one, delays are no failures.
    timeout: Option<Duration>,
    room: Room,
    /// When events were lost on the way.
    missed: Vec<(u64, u64)>,
    /// When the proxy was heard of last; set when it broke off.
    pub broke_off_ns: Option<u64>,
}

impl Story {
    /// That of a load which waits so long for each reply.
    pub fn of_load(timeout: Duration) -> Story {
        Story { timeout: Some(timeout), ..Story::default() }
    }

    /// Takes in that events between these instants were lost.
    pub fn missed(&mut self, from_ns: u64, to_ns: u64) {
        match self.missed.last_mut() {
            // Who loses events once loses more: what follows upon each other, or finds no room, is one stretch.
            Some((_, to)) if *to >= from_ns || !take(&mut self.room.windows) => *to = (*to).max(to_ns),
            _ => self.missed.push((from_ns, to_ns)),
        }
    }

    /// Takes in how a proxy is: its rules and leases may have been in force for long.
    pub fn begin(&mut self, proxy: &v1::Proxy) {
        let entry = self.proxies.entry(proxy.name.clone()).or_default();
        entry.listen.clone_from(&proxy.listen);
        entry.known_generation = proxy.generation;
        let mut open = |owner, behavior: String| {
            let window = Window { behavior, from_ns: 0, to_ns: None };
            entry.windows.insert(owner, window);
        };
        if let Some(mix) = faults_in(&mix_of(&proxy.rules)) {
            open(Owner::Base(0), mix);
        }
        if !proxy.enabled() {
            open(Owner::Off(0), SWITCHED_OFF.to_owned());
        }
        for lease in proxy.leases.iter().filter(|lease| lease.state() == LeaseState::Active) {
            if let Some(mix) = faults_in(&mix_of(&lease.rules)) {
                open(Owner::Lease(lease.id.clone()), mix);
            }
        }
    }

    /// Takes in where a proxy listens, which events do not say.
    pub fn listens(&mut self, proxy: &v1::Proxy) {
        self.proxies.entry(proxy.name.clone()).or_default().listen.clone_from(&proxy.listen);
    }

    /// Takes in what happened.
    pub fn on(&mut self, event: &Event) {
        if event.proxy.is_empty() {
            return;
        }
        let room = &mut self.room;
        let proxy = self.proxies.entry(event.proxy.clone()).or_default();
        let at = event.monotonic_ns;
        match event.kind() {
            EventKind::Injected => proxy.injected(event, self.timeout, room),
            EventKind::LeaseStarted => {
                if let Some(behavior) = faults_in(&event.detail).filter(|_| take(&mut room.windows)) {
                    let window = Window { behavior, from_ns: at, to_ns: None };
                    // One that was in force at the beginning keeps its own.
                    proxy.windows.entry(Owner::Lease(event.lease_id.clone())).or_insert(window);
                }
            }
            EventKind::LeaseEnded => {
                if let Some(window) = proxy.windows.get_mut(&Owner::Lease(event.lease_id.clone())) {
                    window.to_ns.get_or_insert(at);
                }
            }
            EventKind::Changed if event.generation > proxy.known_generation => proxy.changed(event, room),
            _ => {}
        }
    }

    /// Every window that is known: rules in force now, and those that were and have not been forgotten.
    pub fn windows(&self) -> Vec<WindowTold> {
        let of = |(name, proxy): (&String, &Proxy)| {
            let told = |(owner, window): (&Owner, &Window)| WindowTold {
                id: owner.id(name),
                proxy: name.clone(),
                lease: if let Owner::Lease(lease) = owner { Some(lease.clone()) } else { None },
                behavior: window.behavior.clone(),
                from_ns: window.from_ns,
                to_ns: window.to_ns,
            };
            proxy.windows.iter().map(told).collect::<Vec<_>>()
        };
        self.proxies.iter().flat_map(of).collect()
    }

    /// Forgets a window that is over.
    pub fn forget(&mut self, id: &str) {
        for (name, proxy) in &mut self.proxies {
            let before = proxy.windows.len();
            proxy.windows.retain(|owner, window| window.to_ns.is_none() || owner.id(name) != id);
            self.room.windows += before - proxy.windows.len();
        }
    }

    /// The rules in force now, as `PROXY BEHAVIOR`.
    pub fn in_force(&self) -> Vec<String> {
        let of = |(name, proxy): (&String, &Proxy)| {
            let open = proxy.windows.values().filter(|window| window.to_ns.is_none());
            open.map(|window| format!("{name} {}", window.behavior)).collect::<Vec<_>>()
        };
        self.proxies.iter().flat_map(of).collect()
    }

    /// What a run from `start_ns` on, which lasted `ran_ns`, met; `is_on_the_way`
    /// tells by where a proxy listens whether the load went through it, `stats` are the figures of its rules at the end.
    pub fn faults(
        &self,
        start_ns: u64,
        ran_ns: u64,
        is_on_the_way: impl Fn(&str) -> bool,
        stats: &[v1::ProxyStats],
    ) -> Faults {
        let timeout = self.timeout.unwrap_or(Duration::MAX);
        let timeout_ns = u64::try_from(timeout.as_nanos()).unwrap_or(u64::MAX);
        let on_axis = |at_ns: u64| at_ns.saturating_sub(start_ns).min(ran_ns);
        // Where delays were decided on that nobody told of: all that were over before the run was are told.
        let untold_of = |window: &Window, figures: &Figures| {
            let (from, to_ns) = (on_axis(window.from_ns), window.to_ns.map_or(ran_ns, on_axis));
            let from_ns = from.max(ran_ns.saturating_sub(figures.untold_of_ns?));
            (from_ns < to_ns).then_some(Span { from_ns, to_ns })
        };
        let mut windows = Vec::new();
        let mut injections = Injections::default();
        let (mut is_any_on_the_way, mut is_any_behind) = (false, false);
        for (name, proxy) in &self.proxies {
            let stats = stats.iter().find(|stats| &stats.proxy == name);
            let met = proxy.finished(stats, self.broke_off_ns);
            let met = met.into_iter().filter(|(window, _)| {
                window.to_ns.is_none_or(|to| to > start_ns)
                    && window.from_ns < start_ns.saturating_add(ran_ns)
            });
            let met: Vec<_> = met.collect();
            if is_on_the_way(&proxy.listen) {
                is_any_on_the_way = true;
                proxy.kept.lay(&mut injections, start_ns, ran_ns);
                for (window, figures) in &met {
                    let (from, to) = (on_axis(window.from_ns), window.to_ns.map_or(ran_ns, on_axis));
                    let is_long = |longest_ns| is_cause(Duration::from_nanos(longest_ns), timeout);
                    if figures.untold_of_ns.is_some_and(is_long) {
                        untold_of(window, figures).into_iter().for_each(|span| injections.is_vague(span));
                    }
                    let untold_from = from.max(to.saturating_sub(figures.untold_within_ns));
                    // What was decided on within the last timeout has not timed out when the run ends; in the middle of
                    // its wait each is found from both sides.
                    let is_cut = window.to_ns.is_none() && to.saturating_sub(timeout_ns) > untold_from;
                    let half_ns = if is_cut { timeout_ns / 2 } else { 0 };
                    let (untold_from, untold_to) = (untold_from + half_ns, to - half_ns);
                    injections.spread(Failure::Silent, figures.untold, untold_from, untold_to);
                    if behaviors_of(&window.behavior).any(is_held_untold) {
                        // It is told once of a connection, and may keep any of its requests waiting, or none.
                        injections.is_vague(Span { from_ns: from, to_ns: to });
                    }
                    if window.behavior == SWITCHED_OFF {
                        injections.spread(Failure::Cut, NO_LIMIT, from, to);
                    }
                }
            } else {
                is_any_behind |= !met.is_empty();
            }
            windows.extend(met.into_iter().map(|(window, figures)| {
                FaultWindow {
                    // Where nothing was told and not all is, 0 would be a lie.
                    injected: Some(figures.injected).filter(|injected| {
                        *injected > 0 || window.to_ns.is_none() || untold_of(&window, &figures).is_none()
                    }),
                    proxy: name.clone(),
                    behavior: window.behavior,
                    start_ns: on_axis(window.from_ns),
                    end_ns: window.to_ns.map_or(ran_ns, on_axis),
                    seen: figures.seen,
                    accuracy_p50_ns: figures.late_p50,
                    accuracy_p99_ns: figures.late_p99,
                    around: None,
                }
            }));
        }
        windows.sort_by_key(|window| window.start_ns);
        let gone = self.broke_off_ns.map(|at| (at, u64::MAX));
        for (from, to) in self.missed.iter().copied().chain(gone).filter(|(_, to)| *to > start_ns) {
            let (from_ns, to_ns) = (on_axis(from), on_axis(to));
            if from_ns < to_ns {
                injections.missed(Span { from_ns, to_ns });
            }
        }
        let injected = match (is_any_on_the_way, is_any_behind) {
            (false, true) => Injected::Behind,
            _ => Injected::Known(injections),
        };
        Faults { windows, injected }
    }
}

/// What a window came to.
#[derive(Clone, Copy, Debug, Default)]
struct Figures {
    injected: u64,
    seen: Option<u64>,
    late_p50: Option<u64>,
    late_p99: Option<u64>,
    /// Units that were chosen and not told of as injected: delays whose client left before they were over, or that were
    /// under way at the end.
    untold: u64,
    /// How long before the window's end they were decided on, at most.
    untold_within_ns: u64,
    /// Nobody knows how many delays of the window were not told of; none of them is longer than this.
    untold_of_ns: Option<u64>,
}

impl Proxy {
    fn injected(&mut self, event: &Event, timeout: Option<Duration>, room: &mut Room) {
        let (asked, done) = (nanos(event.asked.as_ref()), nanos(event.done.as_ref()));
        let late_ns = (asked > 0).then(|| done.saturating_sub(asked));
        // A delay is told when it has ended; it was decided on when its time had begun.
        let began_ns = event.monotonic_ns.saturating_sub(done);
        if let Some(failure) = failure_of(event) {
            // One of a whole connection, such as a hang, too: the load has one request under way on each, and gives the
            // connection up with it.
            self.kept.add(event.monotonic_ns, failure, room);
        }
        // By itself a delay is no failure, but who has less patience gets none of it.
        let is_long = |timeout| is_cause(Duration::from_nanos(done), timeout);
        if event.behavior == DELAY && timeout.is_some_and(is_long) {
            self.kept.add_held(began_ns, event.connection, event.exchange, room);
        }
        let owner = match event.lease_id.as_str() {
            // A delay that ends after its rules were taken away is told with the generation that took them.
            "" if asked > 0 && !self.has_base(event) => match self.window_of_orphan(event, began_ns) {
                Some(owner) => owner,
                None => return,
            },
            "" => Owner::Base(event.generation),
            lease => Owner::Lease(lease.to_owned()),
        };
        if self.tallies.contains_key(&owner) || take(&mut room.windows) {
            let asked = (asked > 0).then_some(asked);
            self.tallies.entry(owner).or_default().add(late_ns, asked, room);
        }
    }

    /// Whose a delay was that outlived its rules.
    fn window_of_orphan(&self, event: &Event, began_ns: u64) -> Option<Owner> {
        let was_in_force = |window: &Window| {
            window.behavior.contains(&event.behavior)
                && window.from_ns <= began_ns.saturating_add(ORPHAN_SLACK_NS)
                && window.to_ns.is_none_or(|to| began_ns <= to.saturating_add(ORPHAN_SLACK_NS))
        };
        self.windows.iter().find(|(_, window)| was_in_force(window)).map(|(owner, _)| owner.clone())
    }

    /// Whether base rules of the event's behavior are in force as far as is known.
    fn has_base(&self, event: &Event) -> bool {
        let mut open = self
            .windows
            .iter()
            .filter(|(owner, window)| matches!(owner, Owner::Base(_)) && window.to_ns.is_none());
        open.any(|(_, window)| window.behavior.contains(&event.behavior))
    }

    fn changed(&mut self, event: &Event, room: &mut Room) {
        let (at, generation) = (event.monotonic_ns, event.generation);
        let close = |windows: &mut BTreeMap<Owner, Window>, is_of: fn(&Owner) -> bool| {
            for (_, window) in windows.iter_mut().filter(|(owner, _)| is_of(owner)) {
                window.to_ns.get_or_insert(at);
            }
        };
        let words: Vec<&str> = event.detail.split(", ").collect();
        if words.contains(&SWITCHED_OFF) {
            let window = Window { behavior: SWITCHED_OFF.to_owned(), from_ns: at, to_ns: None };
            if take(&mut room.windows) {
                self.windows.insert(Owner::Off(generation), window);
            }
            return;
        }
        if words.contains(&"switched on") {
            return close(&mut self.windows, |owner| matches!(owner, Owner::Off(_)));
        }
        if event.detail == "deleted" {
            return close(&mut self.windows, |_| true);
        }
        let mix = event.detail.strip_prefix("created: ").or(event.detail.strip_prefix("reset: "));
        let mix = mix.unwrap_or(&event.detail);
        if !is_mix(mix) {
            return;
        }
        close(&mut self.windows, |owner| matches!(owner, Owner::Base(_)));
        if let Some(behavior) = faults_in(mix).filter(|_| take(&mut room.windows)) {
            self.windows.insert(Owner::Base(generation), Window { behavior, from_ns: at, to_ns: None });
        }
    }

    /// The windows with what is known of each.
    fn finished(&self, stats: Option<&v1::ProxyStats>, broke_off_ns: Option<u64>) -> Vec<(Window, Figures)> {
        let mut tallies: BTreeMap<&Owner, Tally> = BTreeMap::new();
        for (owner, tally) in &self.tallies {
            // Base rules are those of the last change before.
            let of_base =
                || self.windows.range(..=owner.clone()).rev().find(|(o, _)| matches!(o, Owner::Base(_)));
            let known = match owner {
                Owner::Base(_) => of_base(),
                _ => self.windows.get_key_value(owner),
            };
            if let Some((owner, _)) = known {
                tallies.entry(owner).or_default().merge(tally);
            }
        }
        let all = self.windows.iter().map(|(owner, window)| {
            let tally = tallies.remove(owner).unwrap_or_default();
            let mut figures = Figures {
                injected: tally.count,
                late_p50: tally.late(50),
                late_p99: tally.late(99),
                untold_within_ns: u64::MAX,
                ..Figures::default()
            };
            let delays_of_base = || {
                let rules = stats.into_iter().flat_map(|stats| &stats.rules);
                rules.filter(|rule| rule.lease_id.is_empty() && rule.behavior == DELAY)
            };
            if matches!(owner, Owner::Base(_)) && window.to_ns.is_none() {
                // Told are all but those that were under way when the figures were read.
                let untold = delays_of_base().map(|rule| rule.acted.saturating_sub(rule.injected));
                figures.untold = sum(untold);
                let longest =
                    delays_of_base().filter_map(|rule| rule.asked.as_ref()).map(|asked| asked.max_ns).max();
                figures.untold_within_ns = longest.filter(|ns| *ns > 0).unwrap_or(u64::MAX);
            }
            if let (Owner::Lease(lease), Some(stats)) = (owner, stats) {
                let rules = || stats.rules.iter().filter(|rule| &rule.lease_id == lease);
                figures.injected = figures.injected.max(sum(rules().map(|rule| rule.injected)));
                figures.seen = rules().map(|rule| rule.matched).max();
                let delays = rules().filter(|rule| rule.behavior == DELAY);
                figures.untold = sum(delays.map(|rule| rule.acted)).saturating_sub(tally.count);
            }
            // Figures are kept of the base rules in force, and of leases that ended since these were changed last.
            let has_figures = match owner {
                Owner::Lease(lease) => {
                    stats.is_some_and(|stats| stats.rules.iter().any(|rule| &rule.lease_id == lease))
                }
                _ => stats.is_some() && window.to_ns.is_none(),
            };
            if !has_figures && behaviors_of(&window.behavior).any(|name| name == DELAY) {
                figures.untold_of_ns = Some(tally.longest_ns());
            }
            let to_ns = window.to_ns.or(broke_off_ns);
            (Window { to_ns, ..window.clone() }, figures)
        });
        all.collect()
    }
}

/// More than any load has requests.
const NO_LIMIT: u64 = 1 << 40;
/// An event may be a turn older or newer than the change that it is of.
const ORPHAN_SLACK_NS: u64 = 20_000_000;

/// What the client of an injected fault must see; `None` for one that is no failure by itself.
fn failure_of(event: &Event) -> Option<Failure> {
    let replied = event.detail.strip_prefix("replied ");
    // A status below 400 is an answer as good as any.
    if replied.is_some_and(|code| code.parse::<u16>().is_ok_and(|code| code < 400)) {
        return None;
    }
    Failure::of_behavior(&event.behavior, replied.is_some())
}

/// Whether a text is a mix, as in `20:delay,error`.
fn is_mix(text: &str) -> bool {
    text.split(',').all(|part| Kind::find(part.rsplit(':').next().unwrap_or_default()).is_some())
}

/// A mix without what is normal in it; `None` when that is all of it.
fn faults_in(mix: &str) -> Option<String> {
    let is_fault = |part: &&str| part.rsplit(':').next() != Some("normal");
    let faults: Vec<&str> = mix.split(',').filter(is_fault).filter(|part| !part.is_empty()).collect();
    (!faults.is_empty()).then(|| faults.join(","))
}

fn mix_of(rules: &[v1::Rule]) -> String {
    let part = |rule: &v1::Rule| match rule.share_percent {
        Some(share) if share < 100.0 => format!("{share}:{}", rule.behavior),
        _ => rule.behavior.clone(),
    };
    rules.iter().map(part).collect::<Vec<_>>().join(",")
}

/// A sum of figures of the wire, whatever they say.
fn sum(figures: impl Iterator<Item = u64>) -> u64 {
    figures.fold(0, u64::saturating_add)
}

/// A duration of the wire in nanoseconds; 0 when missing.
pub fn nanos(duration: Option<&prost_types::Duration>) -> u64 {
    duration.map_or(0, |d| {
        let seconds = d.seconds.unsigned_abs().saturating_mul(1_000_000_000);
        seconds.saturating_add(d.nanos.unsigned_abs().into())
    })
}

#[cfg(test)]
#[path = "fault_story_tests.rs"]
mod tests;
