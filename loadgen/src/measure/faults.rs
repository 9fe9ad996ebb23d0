//! Faults on the way of the load: when their rules were in force, and what they injected.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::around::CALM;
use super::fine::{Failure, TENTH_NS, TENTHS};

/// What is known of the faults on the way of a run.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Faults {
    /// When rules were in force.
    pub windows: Vec<FaultWindow>,
    /// Which failures they made.
    pub injected: Injected,
}

impl From<Vec<FaultWindow>> for Faults {
    /// Windows alone: what was injected is not known.
    fn from(windows: Vec<FaultWindow>) -> Faults {
        Faults { windows, injected: Injected::default() }
    }
}

/// Whether injected failures can be told from natural ones.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Injected {
    /// No proxy was asked.
    #[default]
    NotWatched,
    /// Of the proxies that have joined the controller, none had a fault in force; whether the load went through one of
    /// them, or through others, is not known.
    NoneInForce,
    /// The proxies that were asked stand behind the target: which of its errors they caused is not known.
    Behind,
    /// The load went through the proxies, and this is what they injected.
    Known(Injections),
}

impl Injected {
    /// Why it is not known; `None` when it is.
    pub fn unknown_because(&self) -> Option<&'static str> {
        match self {
            Injected::NotWatched => Some("no proxy was watched (--via, or faults in the run file)"),
            Injected::NoneInForce => Some("no fault was in force on a proxy that has joined the controller"),
            Injected::Behind => Some("the proxies with faults stand behind the target"),
            Injected::Known(_) => None,
        }
    }
}

/// Failures that a proxy injected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Injection {
    /// From the start of the run.
    pub at_ns: u64,
    /// What its client must have seen.
    pub failure: Failure,
    /// How many.
    pub count: u64,
}

/// A stretch of the run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// From the start of the run.
    pub from_ns: u64,
    /// From the start of the run.
    pub to_ns: u64,
}

/// How many failures were injected when, in tenths of a second.
#[derive(Clone, Debug, PartialEq)]
pub struct Injections {
    /// Failures that were injected and are not among these: there were too many to keep.
    pub(super) not_kept: u64,
    /// When what was injected is not known at all.
    pub(super) missed: Vec<Span>,
    /// When requests may have been held for longer than they waited, without a word of how many.
    pub(super) vague: Vec<Span>,
    pub(super) by_tenth: BTreeMap<(Failure, u64), u64>,
    /// How many tenths the proxy's time may be from the load's.
    pub(super) slack: u64,
}

impl Default for Injections {
    fn default() -> Injections {
        Injections { not_kept: 0, missed: Vec::new(), vague: Vec::new(), by_tenth: BTreeMap::new(), slack: 1 }
    }
}

impl Injections {
    /// Those of a proxy that tells once a second.
    pub fn told_by_the_second() -> Injections {
        Injections { slack: TENTHS as u64, ..Injections::default() }
    }

    /// Says that in this stretch nobody knows what was injected: failures in it that were not told of are not known.
    pub fn missed(&mut self, span: Span) {
        self.missed.push(span);
    }

    /// Says how many more were injected, which were too many to keep.
    pub fn not_kept(&mut self, count: u64) {
        self.not_kept = self.not_kept.saturating_add(count);
    }

    /// Whether they are those of a proxy that tells once a second.
    pub(super) fn is_by_the_second(&self) -> bool {
        self.slack == TENTHS as u64
    }

    /// Says that in this stretch a proxy may have held requests until their timeout, nobody knows how many: timeouts in it
    /// that were not told of are not known.
    pub fn is_vague(&mut self, span: Span) {
        self.vague.push(span);
    }

    /// Adds `count` of them, evenly over a stretch of the run.
    pub fn spread(&mut self, failure: Failure, count: u64, from_ns: u64, to_ns: u64) {
        if count == 0 {
            return;
        }
        let steps = (to_ns.saturating_sub(from_ns) / TENTH_NS).max(1);
        for step in 0..steps {
            let share = count / steps + u64::from(step < count % steps);
            self.add(Injection { at_ns: from_ns + step * TENTH_NS, failure, count: share });
        }
    }

    /// Adds one.
    pub fn add(&mut self, injection: Injection) {
        let Injection { at_ns, failure, count } = injection;
        if count > 0 {
            let sum = self.by_tenth.entry((failure, at_ns / TENTH_NS)).or_default();
            *sum = sum.saturating_add(count);
        }
    }
}

impl Extend<Injection> for Injections {
    fn extend<I: IntoIterator<Item = Injection>>(&mut self, all: I) {
        all.into_iter().for_each(|injection| self.add(injection));
    }
}

impl FromIterator<Injection> for Injections {
    fn from_iter<I: IntoIterator<Item = Injection>>(all: I) -> Injections {
        let mut injections = Injections::default();
        injections.extend(all);
        injections
    }
}

/// A stretch of the run in which rules of a proxy were in force: from when all its workers had them until they were
/// lifted, or their lease ended.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct FaultWindow {
    /// Which proxy.
    pub proxy: String,
    /// The mix, as in `20:delay`.
    pub behavior: String,
    /// From the start of the run.
    pub start_ns: u64,
    /// From the start of the run.
    pub end_ns: u64,
    /// Faults injected, if the proxy said.
    pub injected: Option<u64>,
    /// Exchanges or connections that the window's rules looked at, if the proxy said.
    pub seen: Option<u64>,
    /// Done − asked of injected delays at p50, if the proxy said.
    pub accuracy_p50_ns: Option<u64>,
    /// Done − asked of injected delays at p99, if the proxy said.
    pub accuracy_p99_ns: Option<u64>,
    /// What the load saw before, during and after; made with the summary.
    #[serde(default)]
    pub around: Option<Around>,
}

/// What the load saw around a fault window; requests by when they were due, percentiles 1.6 % off at most.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Around {
    /// Up to ten seconds before, without warm-up and other windows.
    pub before: Stretch,
    /// While the rules were in force.
    pub during: Stretch,
    /// Up to ten seconds from when they were lifted, until another window begins.
    pub after: Stretch,
    /// From lifting until p99 was back where it had been before and no more requests failed than before, for a second;
    /// `None` when it was not, or when there is no before or no after to say it of.
    pub recovery_ns: Option<u64>,
    /// From lifting until the next window began, where one did within the measured part; 0 when another was in force.
    #[serde(default)]
    pub next_fault_ns: Option<u64>,
}

impl Around {
    /// When p99 was back, in words: `was back after 1.2 s`; `None` when there is nothing to say it of.
    pub fn recovery(&self, seconds: impl Fn(u64) -> String) -> Option<String> {
        let after_ns = self.after.end_ns.saturating_sub(self.after.start_ns);
        let is_judged = after_ns >= CALM * TENTH_NS;
        Some(match (self.recovery_ns, self.next_fault_ns) {
            (Some(0), _) => "was back at once".to_owned(),
            (Some(ns), _) => format!("was back after {}", seconds(ns)),
            _ if self.before.ok == 0 => return None,
            (None, Some(0)) => "not known: another fault was in force".to_owned(),
            (None, Some(ns)) if is_judged => {
                format!("was not back when the next fault began after {}", seconds(ns))
            }
            (None, Some(ns)) => format!("not known: the next fault began after {}", seconds(ns)),
            (None, None) if after_ns == 0 => return None,
            (None, None) if is_judged => "was not back within the run".to_owned(),
            (None, None) => format!("not known: the run ended after {}", seconds(after_ns)),
        })
    }
}

/// A stretch of the run in figures.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Stretch {
    /// From the start of the run.
    pub start_ns: u64,
    /// From the start of the run.
    pub end_ns: u64,
    /// Requests due in it.
    pub due: u64,
    /// Of them, those that had a good reply.
    pub ok: u64,
    /// Good replies a second.
    pub ok_per_second: f64,
    /// Requests due in it that failed or timed out.
    pub failed: u64,
    /// Of the failed, those that a proxy injected; `None` when that is not known of any.
    pub injected: Option<u64>,
    /// Of the failed, the timeouts that the generator made itself, which is always known.
    #[serde(default)]
    pub own: u64,
    /// Of the failed, those of which it is not known, where it is of others.
    #[serde(default)]
    pub unknown: u64,
    /// Of those due, the ones of which only a lower bound of the response is known: timeouts, and what was unanswered at
    /// the end.
    #[serde(default)]
    pub lower_bounds: u64,
    /// Response of all, lower bounds among them.
    pub p50: u64,
    /// Response of all, lower bounds among them.
    pub p95: u64,
    /// Response of all, lower bounds among them.
    pub p99: u64,
    /// Response of good replies.
    pub ok_p99: u64,
}

impl Stretch {
    /// Of the failed, those that neither a proxy injected nor the generator made; `None` when that is not known of any.
    pub fn natural(&self) -> Option<u64> {
        self.injected.map(|injected| self.failed.saturating_sub(injected + self.own + self.unknown))
    }

    /// Of the failed, those of which nobody can tell whether they are injected or natural.
    pub fn not_known(&self) -> u64 {
        if self.injected.is_some() { self.unknown } else { self.failed.saturating_sub(self.own) }
    }
}
