//! A rule: which behavior, for what share of which traffic, and when.

use std::str::FromStr;

use super::{Behavior, MATCH_BYTES_MAX, MATCH_ENTRIES_MAX, Match, RULES_MAX};
use crate::units::parse_percent;

/// Bytes that the name of a rule, or of a group of rules, may have.
pub const NAME_BYTES_MAX: usize = 128;

/// A behavior with its share of the traffic, its match and its scope.
#[derive(Clone, Debug, PartialEq)]
pub struct Rule {
    /// Unique in its proxy; part of every draw, unless the rule is in a group.
    pub name: String,
    /// What to do.
    pub behavior: Behavior,
    /// How much of what matches.
    pub share: Share,
    /// What a draw is about; `None`: exchange where a protocol is known, else connection.
    pub scope: Option<Scope>,
    /// Rules of one group draw together, so at most one of them is chosen (a mix).
    pub group: Option<String>,
    /// Which traffic.
    pub matcher: Match,
    /// Which of the matching connections or exchanges, counted over the whole proxy.
    pub triggers: Triggers,
}

impl Rule {
    /// A rule that applies to everything.
    pub fn always(name: impl Into<String>, behavior: Behavior) -> Rule {
        Rule {
            name: name.into(),
            behavior,
            share: Share::ALL,
            scope: None,
            group: None,
            matcher: Match::default(),
            triggers: Triggers::default(),
        }
    }
}

/// A share of the traffic, 0 to 100 per cent.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd)]
pub struct Share(f64);

impl Share {
    /// Everything.
    pub const ALL: Share = Share(100.0);

    /// This many per cent; `None` outside 0 to 100.
    pub fn from_percent(percent: f64) -> Option<Share> {
        (0.0..=100.0).contains(&percent).then_some(Share(percent))
    }

    /// The share in per cent.
    pub fn percent(self) -> f64 {
        self.0
    }
}

impl FromStr for Share {
    type Err = String;
    fn from_str(text: &str) -> Result<Share, String> {
        parse_percent(text, "%")
            .and_then(Share::from_percent)
            .ok_or_else(|| format!("`{text}` is not a share; give 0 to 100, such as 20 or 0.5%"))
    }
}

/// What one draw, and one unit of a trigger, is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// A request with its reply; on plain bytes, a chunk.
    Exchange,
    /// A whole connection: the same answer for all of it.
    Connection,
}

impl FromStr for Scope {
    type Err = String;
    fn from_str(text: &str) -> Result<Scope, String> {
        match text {
            "exchange" => Ok(Scope::Exchange),
            "connection" => Ok(Scope::Connection),
            _ => Err(format!("`{text}` is not a scope; give exchange or connection")),
        }
    }
}

/// Which of the units that match: counted from 1, all given conditions must hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Triggers {
    /// Units 1 to n.
    pub first: Option<u64>,
    /// Unit n only.
    pub nth: Option<u64>,
    /// Units n, 2n, 3n, …
    pub every: Option<u64>,
    /// Units from n + 1.
    pub after: Option<u64>,
}

impl Triggers {
    /// Whether every unit is meant.
    pub fn is_empty(&self) -> bool {
        *self == Triggers::default()
    }

    /// Whether unit number `unit` (from 1) is meant.
    pub fn holds(&self, unit: u64) -> bool {
        self.first.is_none_or(|n| unit <= n)
            && self.nth.is_none_or(|n| unit == n)
            && self.every.is_none_or(|n| unit.is_multiple_of(n))
            && self.after.is_none_or(|n| unit > n)
    }

    /// Whether no unit after the first `units` can be meant.
    pub fn is_over(&self, units: u64) -> bool {
        self.first.is_some_and(|n| units >= n) || self.nth.is_some_and(|n| units >= n)
    }
}

/// Why rules do not make a rule set.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum RuleError {
    /// More than [`RULES_MAX`].
    #[error("{0} rules are too many for one proxy; use at most {RULES_MAX}")]
    TooMany(usize),
    /// Two rules have this name.
    #[error("two rules are called `{0}`; give each its own name")]
    DuplicateName(String),
    /// The shares of a group exceed the whole.
    #[error("the shares of group `{group}` add up to {percent}%; they must stay within 100%")]
    GroupShare {
        /// The group.
        group: String,
        /// The sum.
        percent: f64,
    },
    /// The rules of a group do not draw alike.
    #[error("the rules of group `{0}` must have one scope; give all of them the same")]
    GroupScope(String),
    /// A rule looks at requests of a protocol that the proxy does not know.
    #[error("rule `{0}` matches http requests but the proxy's protocol is tcp; set protocol: http")]
    NeedsHttp(String),
    /// What stands at the exits of a connection's pipes cannot be drawn for an exchange.
    #[error("rule `{rule}`: {behavior} acts on a whole connection; leave out scope: exchange")]
    PipesScope {
        /// The rule.
        rule: String,
        /// Its behavior.
        behavior: &'static str,
    },
    /// What stands at the exits of a connection's pipes cannot wait for a request.
    #[error(
        "rule `{rule}`: {behavior} acts on a whole connection; leave out the match by method, path or header"
    )]
    PipesMatch {
        /// The rule.
        rule: String,
        /// Its behavior.
        behavior: &'static str,
    },
    /// More entries than [`MATCH_ENTRIES_MAX`], or more bytes than [`MATCH_BYTES_MAX`].
    #[error(
        "rule `{rule}` matches {entries} entries of {bytes} bytes; use at most {MATCH_ENTRIES_MAX} entries and \
         {MATCH_BYTES_MAX} bytes, or patterns with *"
    )]
    MatchSize {
        /// The rule.
        rule: String,
        /// How many entries its lists have.
        entries: usize,
        /// How many bytes these have.
        bytes: usize,
    },
    /// A name longer than [`NAME_BYTES_MAX`].
    #[error("a rule's name or group has {0} bytes; use at most {NAME_BYTES_MAX}")]
    NameLength(usize),
    /// A trigger that can never hold.
    #[error("rule `{rule}`: {trigger} counts from 1; give at least 1")]
    ZeroTrigger {
        /// The rule.
        rule: String,
        /// Which trigger.
        trigger: &'static str,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn triggers_count_from_one() {
        let held = |triggers: Triggers| (1..=8).filter(|unit| triggers.holds(*unit)).collect::<Vec<u64>>();
        let none = Triggers::default();
        assert_eq!(held(none), [1, 2, 3, 4, 5, 6, 7, 8]);
        assert_eq!(held(Triggers { first: Some(2), ..none }), [1, 2]);
        assert_eq!(held(Triggers { nth: Some(3), ..none }), [3]);
        assert_eq!(held(Triggers { every: Some(3), ..none }), [3, 6]);
        assert_eq!(held(Triggers { after: Some(6), ..none }), [7, 8]);
        assert_eq!(held(Triggers { after: Some(2), every: Some(2), first: Some(6), ..none }), [4, 6]);
        assert!(!Triggers { first: Some(2), ..none }.is_over(1));
        assert!(Triggers { first: Some(2), ..none }.is_over(2));
        assert!(!Triggers { every: Some(2), ..none }.is_over(u64::MAX));
    }

    #[test]
    fn shares_are_within_a_hundred() {
        for (text, expected) in [("20", Some(20.0)), ("0.5%", Some(0.5)), (" 100 % ", Some(100.0))] {
            assert_eq!(text.parse().ok().map(Share::percent), expected, "{text}");
        }
        for wrong in ["101", "-1", "-0", "1e1", "NaN", "inf", "", "x", "20%%"] {
            assert!(wrong.parse::<Share>().is_err(), "{wrong}");
        }
    }
}
