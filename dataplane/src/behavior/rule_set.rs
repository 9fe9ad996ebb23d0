//! Rules compiled for the hot path: an immutable set, shared by all workers; only its counters move.
//!
//! Everything that can be known before traffic is known at compile time: the slot of each rule in its draw, which
//! rules act on connections, exchanges or chunks (as masks), which need randomness. A decision walks the bits of
//! `active & mask`; it does not allocate, lock or format.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::{
    Act, ConnectionFacts, ConnectionPlan, Decision, Direction, Drawn, Effect, GatePlan, Hold,
    MATCH_BYTES_MAX, MATCH_ENTRIES_MAX, NAME_BYTES_MAX, Place, RULES_MAX, Rule, RuleError, RuleMask, Scope,
    SharedRate, Side, Triggers, Unit,
};
use crate::protocol::Protocol;
use crate::protocol::http::RequestHead;
use crate::rng::Rng;

/// The last step of the path of a rule's draws on a connection that are about no message: for its gate, and for what it
/// does to the connection as a whole.
const GATE: u64 = u64::MAX;
const WHOLE: u64 = u64::MAX - 1;

/// The rules of one proxy at one generation.
#[derive(Debug)]
pub struct RuleSet {
    /// Rises with every change.
    pub generation: u64,
    seed: u64,
    protocol: Protocol,
    rules: Vec<CompiledRule>,
    masks: Masks,
}

/// Which rules act where; a rule is in several masks if it acts in several places.
#[derive(Clone, Copy, Debug, Default)]
struct Masks {
    /// Can act at all: not `normal`, share above 0.
    live: RuleMask,
    /// Act on a connection as a whole, at once.
    connection: RuleMask,
    /// Act on messages.
    exchange: RuleMask,
    /// Act on request chunks, on reply chunks (`Direction as usize`).
    chunk: [RuleMask; 2],
}

/// One rule of a [`RuleSet`].
#[derive(Debug)]
pub struct CompiledRule {
    rule: Rule,
    scope: Scope,
    /// The draw's stream: hash of the group, or of the name.
    key: u64,
    /// The slot in [0, 1) that the draw must hit.
    slot: std::ops::Range<f64>,
    needs_request: bool,
    place: Place,
    state: Arc<State>,
}

/// What outlives a generation when the rule itself does not change.
#[derive(Debug)]
struct State {
    /// Connections or exchanges that matched; counted only if the rule has triggers.
    units: AtomicU64,
    /// Calls of the behavior; counted only if it has a warmup or an end.
    calls: AtomicU64,
    shared: Option<SharedRate>,
}

impl CompiledRule {
    /// The rule's name.
    pub fn name(&self) -> &str {
        &self.rule.name
    }

    /// The behavior's name.
    pub fn kind(&self) -> &'static str {
        self.rule.behavior.name()
    }

    /// The rule as it was given.
    pub fn rule(&self) -> &Rule {
        &self.rule
    }

    /// The scope in force, the default filled in.
    pub fn scope(&self) -> Scope {
        self.scope
    }
}

impl RuleSet {
    /// A set without rules.
    pub fn empty(generation: u64) -> RuleSet {
        RuleSet { generation, seed: 0, protocol: Protocol::Tcp, rules: Vec::new(), masks: Masks::default() }
    }

    /// Checks rules and prepares them; rule `i` keeps index `i`.
    ///
    /// # Errors
    /// One line that names the rule and what to change.
    pub fn compile(
        rules: Vec<Rule>,
        protocol: Protocol,
        seed: u64,
        generation: u64,
    ) -> Result<RuleSet, RuleError> {
        if rules.len() > RULES_MAX {
            return Err(RuleError::TooMany(rules.len()));
        }
        let mut names = BTreeSet::new();
        for rule in &rules {
            if !names.insert(rule.name.as_str()) {
                return Err(RuleError::DuplicateName(rule.name.clone()));
            }
            check(rule, protocol)?;
        }
        let mut group_scopes = BTreeMap::new();
        for rule in &rules {
            let Some(group) = &rule.group else { continue };
            let members = || rules.iter().filter(|other| other.group.as_ref() == Some(group));
            group_scopes.insert(group.clone(), group_scope(group, members, protocol)?);
        }

        let mut taken: BTreeMap<String, f64> = BTreeMap::new();
        let mut compiled = Vec::with_capacity(rules.len());
        for rule in rules {
            let (scope, from) = match &rule.group {
                Some(group) => {
                    let taken = taken.entry(group.clone()).or_default();
                    let from = *taken;
                    *taken += rule.share.percent();
                    if *taken > 100.0 + 1e-9 {
                        return Err(RuleError::GroupShare { group: group.clone(), percent: *taken });
                    }
                    (group_scopes[group], from)
                }
                None => (rule.scope.unwrap_or_else(|| default_scope(&rule, protocol)), 0.0),
            };
            // The whole must stay the whole in spite of rounding: 3 × 33.3… reaches 1 exactly.
            let to = from + rule.share.percent();
            let slot = from / 100.0..if to > 100.0 - 1e-9 { 1.0 } else { to / 100.0 };
            compiled.push(CompiledRule {
                scope,
                key: hash(rule.group.as_deref().unwrap_or(&rule.name), rule.group.is_some()),
                slot,
                needs_request: rule.matcher.needs_request(),
                place: rule.behavior.place(),
                state: Arc::new(State::new(&rule)),
                rule,
            });
        }
        let masks = masks(&compiled, protocol);
        Ok(RuleSet { generation, seed, protocol, rules: compiled, masks })
    }

    /// Takes over the counters and shared buckets of each rule that is the same in `previous`, so that a change
    /// elsewhere neither restarts a `transient` nor refills a rate.
    pub fn inherit(mut self, previous: &RuleSet) -> RuleSet {
        for rule in &mut self.rules {
            if let Some(same) = previous.find_same(rule) {
                rule.state = Arc::clone(&same.state);
            }
        }
        self
    }

    /// The protocol that the rules were compiled for.
    pub fn protocol(&self) -> Protocol {
        self.protocol
    }

    /// Whether there is no rule.
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// The rules, in the order of their indexes.
    pub fn rules(&self) -> &[CompiledRule] {
        &self.rules
    }

    /// Plans for a new connection; counts it for the triggers of rules with connection scope.
    pub fn on_connection(&self, connection: &ConnectionFacts) -> ConnectionPlan {
        self.plan(connection, |index, drawn| self.chooses_connection(index, connection, drawn))
    }

    /// Plans for a live connection whose rules were `previous`, of which `active` could touch it: a rule that did
    /// not change keeps its answer and does not count the connection again.
    pub fn on_change(
        &self,
        connection: &ConnectionFacts,
        previous: &RuleSet,
        active: RuleMask,
    ) -> ConnectionPlan {
        self.plan(connection, |index, drawn| {
            let rule = &self.rules[usize::from(index)];
            let same = previous.rules.iter().position(|old| Arc::ptr_eq(&old.state, &rule.state));
            match same {
                Some(old) if rule.scope == Scope::Connection => active >> old & 1 == 1,
                _ => self.chooses_connection(index, connection, drawn),
            }
        })
    }

    /// Decides about a request and its reply; `ordinal` numbers the messages of the connection.
    pub fn on_exchange(
        &self,
        connection: &ConnectionFacts,
        active: RuleMask,
        ordinal: u64,
        request: &RequestHead<'_>,
    ) -> Decision {
        let mut decision = Decision::default();
        let mut left = active & self.masks.exchange;
        while left != 0 {
            let index = left.trailing_zeros() as u8;
            left &= left - 1;
            let rule = &self.rules[usize::from(index)];
            if rule.needs_request && !rule.rule.matcher.matches_request(request) {
                continue;
            }
            let path = [rule.key, connection.ordinal, ordinal];
            let Some(rng) = self.chooses(index, &path, &mut decision.drawn) else { continue };
            let acts = rule.apply(Unit::Exchange, index, rng, &mut decision);
            decision.drawn.note(index, rule, acts);
        }
        let exchange = u32::try_from(ordinal + 1).unwrap_or(u32::MAX);
        (decision.request_hold.exchange, decision.reply_hold.exchange) = (exchange, exchange);
        decision
    }

    /// Decides about a chunk of plain bytes; `ordinal` numbers the chunks of its direction.
    pub fn on_chunk(
        &self,
        connection: &ConnectionFacts,
        active: RuleMask,
        direction: Direction,
        ordinal: u64,
    ) -> Decision {
        let mut decision = Decision::default();
        let mut left = active & self.masks.chunk[direction as usize];
        while left != 0 {
            let index = left.trailing_zeros() as u8;
            left &= left - 1;
            let rule = &self.rules[usize::from(index)];
            let path = [rule.key, connection.ordinal, ordinal, direction as u64];
            let Some(rng) = self.chooses(index, &path, &mut decision.drawn) else { continue };
            let acts = rule.apply(Unit::Chunk(direction), index, rng, &mut decision);
            decision.drawn.note(index, rule, acts);
        }
        decision
    }

    fn plan(&self, connection: &ConnectionFacts, chooses: impl Fn(u8, &mut Drawn) -> bool) -> ConnectionPlan {
        let mut plan = ConnectionPlan::default();
        let mut left = self.masks.live;
        while left != 0 {
            let index = left.trailing_zeros() as u8;
            left &= left - 1;
            let rule = &self.rules[usize::from(index)];
            if !rule.rule.matcher.matches_client(connection.client.ip())
                || rule.is_over()
                || !chooses(index, &mut plan.drawn)
            {
                continue;
            }
            plan.active |= 1 << index;
            let rng = |what| Rng::stream(self.seed, &[rule.key, connection.ordinal, what]);
            if rule.place == Place::Pipes {
                let gate = rule.rule.behavior.gate(rule.state.shared.as_ref(), rng(GATE));
                plan.gates.extend(gate.map(|gate| GatePlan { rule: index, gate }));
            } else if self.masks.connection >> index & 1 == 1
                && plan.act.is_none()
                && let Effect::Act(action) =
                    rule.rule.behavior.decide(Unit::Connection, &mut rng(WHOLE), &rule.state.calls)
            {
                plan.act = Some(Act { rule: index, action });
            }
        }
        plan
    }

    /// Whether a rule with connection scope chooses this connection; one with exchange scope always may.
    fn chooses_connection(&self, index: u8, connection: &ConnectionFacts, drawn: &mut Drawn) -> bool {
        let rule = &self.rules[usize::from(index)];
        if rule.scope == Scope::Exchange {
            return true;
        }
        if !rule.counts_in() {
            return false;
        }
        let chosen = rule.is_whole()
            || rule.slot.contains(&Rng::stream(self.seed, &[rule.key, connection.ordinal]).unit());
        drawn.matched |= 1 << index;
        drawn.acted |= u64::from(chosen) << index;
        chosen
    }

    /// Draws for one message or chunk at `path`: the rest of the stream if the rule chooses it.
    fn chooses(&self, index: u8, path: &[u64], drawn: &mut Drawn) -> Option<Rng> {
        let rule = &self.rules[usize::from(index)];
        if rule.scope == Scope::Connection {
            // Drawn when the connection was; `active` carries the answer.
            return Some(Rng::stream(self.seed, path));
        }
        if !rule.counts_in() {
            return None;
        }
        if !rule.rests() {
            drawn.matched |= 1 << index;
        }
        let mut rng = Rng::stream(self.seed, path);
        rule.slot.contains(&rng.unit()).then_some(rng)
    }

    /// The rule that is the same in name, content, scope and slot.
    fn find_same(&self, wanted: &CompiledRule) -> Option<&CompiledRule> {
        self.rules
            .iter()
            .find(|rule| rule.rule == wanted.rule && rule.scope == wanted.scope && rule.slot == wanted.slot)
    }
}

impl CompiledRule {
    fn is_whole(&self) -> bool {
        self.slot.start <= 0.0 && self.slot.end >= 1.0
    }

    /// Counts a unit that matched and says whether the triggers let it in.
    fn counts_in(&self) -> bool {
        let triggers = &self.rule.triggers;
        triggers.is_empty() || triggers.holds(self.state.units.fetch_add(1, Ordering::Relaxed) + 1)
    }

    /// Whether the rule can never act again; with connection scope a chosen connection keeps it.
    fn is_over(&self) -> bool {
        let triggers = &self.rule.triggers;
        let no_units_left = self.scope == Scope::Exchange
            && !triggers.is_empty()
            && triggers.is_over(self.state.units.load(Ordering::Relaxed));
        no_units_left || self.rule.behavior.is_over(self.state.calls.load(Ordering::Relaxed))
    }

    /// Whether a warmup lets everything through now, or a `transient` has had its failures.
    fn rests(&self) -> bool {
        self.rule.behavior.rests(self.state.calls.load(Ordering::Relaxed))
    }

    /// Does what the rule says to a unit that it chose; whether it does anything.
    fn apply(&self, unit: Unit, index: u8, mut rng: Rng, decision: &mut Decision) -> bool {
        // Times add up; of what else may happen to a unit, the first does.
        if decision.act.is_some() && !matches!(self.place, Place::Holds(_)) {
            return false;
        }
        match self.rule.behavior.decide(unit, &mut rng, &self.state.calls) {
            Effect::Nothing => false,
            Effect::Hold { request, reply } => {
                if unit != Unit::Chunk(Direction::Reply) {
                    decision.request_hold.add(index, request);
                }
                if unit != Unit::Chunk(Direction::Request) {
                    decision.reply_hold.add(index, reply);
                }
                true
            }
            Effect::Act(action) => {
                decision.act = Some(Act { rule: index, action });
                true
            }
        }
    }
}

impl Hold {
    fn add(&mut self, rule: u8, time: Duration) {
        if !time.is_zero() {
            self.time = self.time.saturating_add(time);
            self.rules |= 1 << rule;
        }
    }
}

impl Drawn {
    /// Notes what a rule that chose an exchange or a chunk did with it. One with connection scope has drawn for
    /// the connection, and been counted there.
    fn note(&mut self, index: u8, rule: &CompiledRule, acts: bool) {
        if rule.scope == Scope::Exchange && acts {
            self.acted |= 1 << index;
        }
    }
}

impl State {
    fn new(rule: &Rule) -> State {
        State { units: AtomicU64::new(0), calls: AtomicU64::new(0), shared: rule.behavior.shared() }
    }
}

fn check(rule: &Rule, protocol: Protocol) -> Result<(), RuleError> {
    // A lease's rules bring the name of the lease along, so the limit is that of what follows its slash.
    let own_bytes = |name: &String| name.rsplit('/').next().map_or(0, str::len);
    let name_bytes = own_bytes(&rule.name).max(rule.group.as_ref().map_or(0, own_bytes));
    if name_bytes > NAME_BYTES_MAX {
        return Err(RuleError::NameLength(name_bytes));
    }
    let (entries, bytes) = rule.matcher.size();
    if entries > MATCH_ENTRIES_MAX || bytes > MATCH_BYTES_MAX {
        return Err(RuleError::MatchSize { rule: rule.name.clone(), entries, bytes });
    }
    let needs_request = rule.matcher.needs_request();
    if needs_request && protocol != Protocol::Http {
        return Err(RuleError::NeedsHttp(rule.name.clone()));
    }
    if rule.behavior.place() == Place::Pipes {
        let (rule_name, behavior) = (rule.name.clone(), rule.behavior.name());
        if rule.scope == Some(Scope::Exchange) {
            return Err(RuleError::PipesScope { rule: rule_name, behavior });
        }
        if needs_request {
            return Err(RuleError::PipesMatch { rule: rule_name, behavior });
        }
    }
    let Triggers { first, nth, every, after: _ } = rule.triggers;
    for (trigger, value) in [("first", first), ("nth", nth), ("every", every)] {
        if value == Some(0) {
            return Err(RuleError::ZeroTrigger { rule: rule.name.clone(), trigger });
        }
    }
    Ok(())
}

/// What stands at the exits of the pipes is about a connection; all else about an exchange, where one can be told.
fn default_scope(rule: &Rule, protocol: Protocol) -> Scope {
    match (protocol, rule.behavior.place()) {
        (Protocol::Tcp, _) | (_, Place::Pipes) => Scope::Connection,
        (Protocol::Http, _) => Scope::Exchange,
    }
}

/// A group draws once for all its members, so they share a scope: the one that is given, else connection if any
/// member needs that.
fn group_scope<'a, I: Iterator<Item = &'a Rule>>(
    group: &str,
    members: impl Fn() -> I,
    protocol: Protocol,
) -> Result<Scope, RuleError> {
    let given = members().find_map(|rule| rule.scope);
    let by_default = if members().any(|rule| default_scope(rule, protocol) == Scope::Connection) {
        Scope::Connection
    } else {
        Scope::Exchange
    };
    let scope = given.unwrap_or(by_default);
    let at_pipes = members().any(|rule| rule.behavior.place() == Place::Pipes);
    if members().any(|rule| rule.scope.is_some_and(|other| other != scope))
        || at_pipes && scope == Scope::Exchange
    {
        return Err(RuleError::GroupScope(group.to_owned()));
    }
    Ok(scope)
}

fn masks(rules: &[CompiledRule], protocol: Protocol) -> Masks {
    let mut masks = Masks::default();
    for (index, rule) in rules.iter().enumerate() {
        let bit = 1 << index;
        if rule.place == Place::Nowhere || rule.slot.is_empty() {
            continue;
        }
        masks.live |= bit;
        let side = match rule.place {
            Place::Nowhere | Place::Pipes => continue,
            Place::Holds(side) | Place::Units(side) => side,
            Place::Whole if rule.scope == Scope::Connection && !rule.needs_request => {
                masks.connection |= bit;
                continue;
            }
            Place::Whole => Side::Request,
        };
        match protocol {
            Protocol::Http => masks.exchange |= bit,
            Protocol::Tcp => {
                for direction in [Direction::Request, Direction::Reply] {
                    masks.chunk[direction as usize] |= if side.covers(direction) { bit } else { 0 };
                }
            }
        }
    }
    masks
}

/// FNV-1a, 64 bits; a group and a rule of the same name are different streams.
fn hash(name: &str, is_group: bool) -> u64 {
    name.bytes()
        .chain([u8::from(is_group)])
        .fold(0xCBF2_9CE4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3))
}

#[cfg(test)]
mod tests;
