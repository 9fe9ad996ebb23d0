//! What goes wrong, and for whom: behaviors, rules, and the decisions they give. No I/O, no clock.
//!
//! ```text
//! text ──parse──▶ Rule (behavior, share, match, triggers) ──compile──▶ RuleSet (immutable, one generation)
//!                                                                         │ on_connection → ConnectionPlan
//!                            proxy: a connection, a message, a chunk ────▶│ on_exchange   → Decision
//!                                                                         │ on_chunk      → Decision
//! ```
//!
//! A decision depends on (seed, rule name or group, connection ordinal, message ordinal) and on nothing else,
//! so the same seed and traffic replay the same faults, and adding a rule never changes another's draws.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicU64;

use options::Options;

use crate::nearest::nearest;
use crate::rng::Rng;

mod abort;
mod blackout;
mod delay;
mod effect;
mod error_reply;
mod gate;
mod hang;
mod kind;
mod limit;
pub mod manual;
mod matching;
pub mod mix;
mod normal;
mod options;
mod reset;
mod rule;
mod rule_set;
mod slice;
mod throttle;
mod transient;
mod unbuilt;

pub use abort::Abort;
pub use blackout::Blackout;
pub use delay::{Delay, Distribution};
pub use effect::{
    Act, Action, After, ConnectionFacts, ConnectionPlan, Decision, Drawn, Effect, Finish, GatePlan, Hold,
    Place, Unit,
};
pub use error_reply::{ErrorReply, GARBAGE_INJECT_BYTES, GARBAGE_REPLACE_BYTES, Garbage, garbage};
pub use gate::{Amount, Deed, Gate, Passage};
pub use hang::Hang;
pub use kind::{ClientView, Holds, Kind, LiveChange, Seen, When};
pub use limit::Limit;
pub use matching::{ClientRange, HeaderMatch, MATCH_BYTES_MAX, MATCH_ENTRIES_MAX, Match, PathPattern, Shape};
pub use normal::Normal;
pub use options::{OPTION_BYTES_MAX, OPTION_DURATION_MAX, OptionKind, OptionSpec};
pub use reset::{Countdown, Reset, ResetSide};
pub use rule::{NAME_BYTES_MAX, Rule, RuleError, Scope, Share, Triggers};
pub use rule_set::{CompiledRule, RuleSet};
pub use slice::Slice;
pub use throttle::{
    Bucket, Per, SharedBucket, SharedRate, THROTTLE_LATE_MAX, THROTTLE_SLICE_BYTES_MAX,
    THROTTLE_SLICE_BYTES_MIN, Throttle, max_slice,
};
pub use transient::Transient;

/// What each behavior says of itself; where most say the same, it stands here. With this, and a row of the table, a
/// behavior is one file: whoever compiles rules, draws, and moves bytes knows places, effects and gates alone.
trait Misbehave: Sized {
    /// Reads its settings.
    ///
    /// # Errors
    /// One line that names the option and the valid values.
    fn parse(options: &Options<'_>) -> Result<Self, BehaviorError>;

    /// One setting as text, which [`Misbehave::parse`] reads back to the same.
    fn option_text(&self, option: &str) -> String;

    /// Where it acts.
    fn place(&self) -> Place;

    /// What happens to a unit of traffic that its rule chose. `rng` belongs to this unit alone; `calls` counts over the
    /// whole proxy, for behaviors whose first calls are not like the rest.
    fn decide(&self, _unit: Unit, _rng: &mut Rng, _calls: &AtomicU64) -> Effect {
        Effect::Nothing
    }

    /// What it puts at the exits of a connection that its rule chose. `rng` belongs to this connection alone.
    fn gate(&self, _shared: Option<&SharedRate>, _rng: Rng) -> Option<Gate> {
        None
    }

    /// What its connections share, on all workers.
    fn shared(&self) -> Option<SharedRate> {
        None
    }

    /// Whether it would let the next call through, after so many.
    fn rests(&self, _calls: u64) -> bool {
        false
    }

    /// Whether no call after so many can be touched.
    fn is_over(&self, _calls: u64) -> bool {
        false
    }
}

macro_rules! behaviors {
    ($($file:ident::$Behavior:ident,)*) => {
        /// Every behavior, built or not, in the order of the manual.
        pub const KINDS: &[Kind] = &[
            $($file::KIND,)*
            unbuilt::SLOW_CLOSE,
            unbuilt::TIMEOUT,
            unbuilt::STALL,
            unbuilt::CORRUPT,
            unbuilt::REFUSE,
            unbuilt::SLOW_READ,
            unbuilt::SCRIPT,
        ];

        /// A way of misbehaving, with its settings.
        #[derive(Clone, Debug, PartialEq)]
        pub enum Behavior {
            $(#[doc = concat!("See [`", stringify!($Behavior), "`].")] $Behavior($Behavior),)*
        }

        impl Behavior {
            /// Reads the options of a behavior that is built.
            fn read(kind: &'static Kind, options: &Options<'_>) -> Result<Behavior, BehaviorError> {
                Ok(match kind.name {
                    $(name if name == $file::KIND.name => Behavior::$Behavior($Behavior::parse(options)?),)*
                    other => unreachable!("`{other}` is marked as built and has no file"),
                })
            }

            /// The behavior's name in our words.
            pub fn name(&self) -> &'static str {
                match self { $(Behavior::$Behavior(_) => $file::KIND.name,)* }
            }

            fn option_text(&self, option: &str) -> String {
                match self { $(Behavior::$Behavior(it) => it.option_text(option),)* }
            }

            /// Where it acts.
            pub fn place(&self) -> Place {
                match self { $(Behavior::$Behavior(it) => it.place(),)* }
            }

            fn decide(&self, unit: Unit, rng: &mut Rng, calls: &AtomicU64) -> Effect {
                match self { $(Behavior::$Behavior(it) => it.decide(unit, rng, calls),)* }
            }

            fn gate(&self, shared: Option<&SharedRate>, rng: Rng) -> Option<Gate> {
                match self { $(Behavior::$Behavior(it) => it.gate(shared, rng),)* }
            }

            fn shared(&self) -> Option<SharedRate> {
                match self { $(Behavior::$Behavior(it) => it.shared(),)* }
            }

            fn rests(&self, calls: u64) -> bool {
                match self { $(Behavior::$Behavior(it) => it.rests(calls),)* }
            }

            fn is_over(&self, calls: u64) -> bool {
                match self { $(Behavior::$Behavior(it) => it.is_over(calls),)* }
            }
        }
    };
}

// The table: a behavior is its file and its line here, in the order of the manual.
behaviors! {
    normal::Normal,
    delay::Delay,
    error_reply::ErrorReply,
    transient::Transient,
    hang::Hang,
    blackout::Blackout,
    abort::Abort,
    reset::Reset,
    throttle::Throttle,
    slice::Slice,
    limit::Limit,
}

impl Behavior {
    /// Makes a behavior from its name (or alias) and its options as text.
    ///
    /// # Errors
    /// One line that names the behavior, the option and the valid values.
    pub fn parse(name: &str, options: &BTreeMap<String, String>) -> Result<Behavior, BehaviorError> {
        let name = name.trim();
        let kind = Kind::find(name).ok_or_else(|| BehaviorError::Unknown {
            name: name.to_owned(),
            hint: match nearest(
                name,
                KINDS.iter().flat_map(|kind| kind.aliases.iter().chain([&kind.name])).copied(),
            ) {
                Some(near) => format!("did you mean `{near}`?"),
                None => format!("built: {}", built_names()),
            },
        })?;
        if !kind.built {
            return Err(BehaviorError::NotBuilt { name: kind.name, built: built_names() });
        }
        Behavior::read(kind, &Options::new(kind, options)?)
    }

    /// Every option of the table with its value as text, which [`Behavior::parse`] reads back to the same.
    pub fn options(&self) -> Vec<(&'static OptionSpec, String)> {
        let kind = Kind::find(self.name()).expect("every behavior is in the table");
        kind.options.iter().map(|spec| (spec, self.option_text(spec.name))).collect()
    }
}

fn built_names() -> String {
    let names: Vec<&str> = KINDS.iter().filter(|kind| kind.built).map(|kind| kind.name).collect();
    names.join(", ")
}

/// Why a behavior cannot be made from its text.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BehaviorError {
    /// No behavior has this name.
    #[error("unknown behavior `{name}`; {hint}")]
    Unknown {
        /// What was typed.
        name: String,
        /// The nearest name, or all.
        hint: String,
    },
    /// The behavior is planned.
    #[error("behavior `{name}` is not built yet; built: {built}")]
    NotBuilt {
        /// Its name.
        name: &'static str,
        /// The names that can be used.
        built: String,
    },
    /// The behavior has no such option.
    #[error("behavior `{behavior}` has no option `{option}`; {hint}")]
    UnknownOption {
        /// The behavior.
        behavior: &'static str,
        /// What was typed.
        option: String,
        /// The nearest option, or all.
        hint: String,
    },
    /// The option's text cannot be read.
    #[error("option `{option}` of behavior `{behavior}` cannot be `{value}`; give {expected}")]
    BadOption {
        /// The behavior.
        behavior: &'static str,
        /// The option.
        option: &'static str,
        /// What was typed.
        value: String,
        /// What is valid.
        expected: String,
    },
    /// The option has no default.
    #[error("behavior `{behavior}` needs option `{option}`, for example `{example}`")]
    MissingOption {
        /// The behavior.
        behavior: &'static str,
        /// The option.
        option: &'static str,
        /// A value to copy.
        example: &'static str,
    },
}

/// Which way bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    /// Downstream → upstream.
    Request,
    /// Upstream → downstream.
    Reply,
}

/// Which directions a behavior touches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Downstream → upstream.
    Request,
    /// Upstream → downstream.
    Reply,
    /// Both ways.
    Both,
}

impl Side {
    pub(super) fn word(self) -> &'static str {
        match self {
            Side::Request => "request",
            Side::Reply => "reply",
            Side::Both => "both",
        }
    }

    /// Whether `direction` is meant.
    pub fn covers(self, direction: Direction) -> bool {
        matches!(
            (self, direction),
            (Side::Both, _) | (Side::Request, Direction::Request) | (Side::Reply, Direction::Reply)
        )
    }
}

/// A set of rules of one rule set: bit `i` is rule `i`.
pub type RuleMask = u64;

/// The most rules that one proxy can have, leases included: a [`RuleMask`] has so many bits.
pub const RULES_MAX: usize = 64;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn options(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect()
    }

    #[test]
    fn every_built_kind_parses_with_its_examples_and_its_defaults() {
        for kind in KINDS.iter().filter(|kind| kind.built) {
            let examples: Vec<_> = kind.options.iter().map(|spec| (spec.name, spec.example)).collect();
            let parsed = Behavior::parse(kind.name, &options(&examples)).map(|behavior| behavior.name());
            assert_eq!(parsed, Ok(kind.name));
            let needed: Vec<_> = kind
                .options
                .iter()
                .filter(|spec| spec.default.is_empty())
                .map(|spec| (spec.name, spec.example))
                .collect();
            for name in kind.aliases {
                let parsed = Behavior::parse(name, &options(&needed)).map(|behavior| behavior.name());
                assert_eq!(parsed, Ok(kind.name), "{name}");
            }
        }
    }

    #[test]
    fn options_read_back_as_they_were_written() {
        for (name, pairs) in [
            ("normal", &[][..]),
            ("delay", &[("time", "uniform(10ms,50ms)"), ("side", "both")]),
            ("delay", &[("time", "100ms"), ("jitter", "250ms"), ("side", "reply")]),
            ("delay", &[("time", "normal(50ms,10001ns)")]),
            ("error", &[("codes", "503,429"), ("inject", "true"), ("warmup", "12")]),
            ("transient", &[("agitate", "7")]),
            ("hang", &[]),
            ("blackout", &[]),
            ("abort", &[]),
            ("reset", &[]),
            ("reset", &[("after", "64KiB"), ("side", "downstream")]),
            ("reset", &[("after", "1500us"), ("side", "upstream")]),
            ("throttle", &[("rate", "0")]),
            ("throttle", &[("rate", "9600bit/s"), ("per", "proxy"), ("side", "request"), ("queue", "1B")]),
            ("slice", &[]),
            ("slice", &[("size", "64B"), ("variation", "16"), ("gap", "10ms"), ("side", "reply")]),
            ("limit", &[("bytes", "0")]),
            ("limit", &[("bytes", "64KiB"), ("then", "rst"), ("side", "request")]),
        ] {
            let behavior = Behavior::parse(name, &options(pairs)).unwrap();
            let written = behavior.options();
            let names: Vec<_> = written.iter().map(|(spec, _)| spec.name).collect();
            assert_eq!(
                names,
                Kind::find(name).unwrap().options.iter().map(|spec| spec.name).collect::<Vec<_>>()
            );
            let again = written.into_iter().map(|(spec, text)| (spec.name.to_owned(), text)).collect();
            assert_eq!(Behavior::parse(name, &again), Ok(behavior));
        }
        let far = Behavior::parse("delay", &options(&[("time", "24h"), ("jitter", "1s")]));
        assert!(far.unwrap_err().to_string().contains("within 24h"));
    }

    #[test]
    fn every_name_of_the_table_is_taken_once() {
        let mut names: Vec<_> =
            KINDS.iter().flat_map(|kind| kind.aliases.iter().chain([&kind.name])).copied().collect();
        names.sort_unstable();
        let count = names.len();
        names.dedup();
        assert_eq!(names.len(), count);
    }

    #[test]
    fn mistakes_are_one_line_that_says_what_to_do() {
        for (name, pairs, expected) in [
            ("dealy", &[][..], "unknown behavior `dealy`; did you mean `delay`?"),
            (
                "slow-read",
                &[],
                "behavior `slow_read` is not built yet; built: normal, delay, error, transient, hang, blackout, abort, reset, throttle, slice, limit",
            ),
            ("delay", &[("tiem", "1s")], "behavior `delay` has no option `tiem`; did you mean `time`?"),
            (
                "delay",
                &[("colour", "1s")],
                "behavior `delay` has no option `colour`; valid options: time, jitter, side",
            ),
            ("hang", &[("time", "1s")], "behavior `hang` has no option `time`; it has none"),
            (
                "delay",
                &[("side", "left")],
                "option `side` of behavior `delay` cannot be `left`; give one of request, reply, both",
            ),
            ("throttle", &[], "behavior `throttle` needs option `rate`, for example `1MB/s`"),
            (
                "throttle",
                &[("rate", "1MB/s"), ("per", "client")],
                "option `per` of behavior `throttle` cannot be `client`; give one of connection, proxy",
            ),
            (
                "delay",
                &[("sleep", "1"), ("time", "2s")],
                "option `time` of behavior `delay` cannot be `1` and `2s`; give one value, not two under different names",
            ),
            (
                "error",
                &[("codes", "500,99")],
                "option `codes` of behavior `error` cannot be `500,99`; give status codes from 200 to 599 such as 500,503",
            ),
        ] {
            let error = Behavior::parse(name, &options(pairs)).expect_err(name).to_string();
            assert_eq!(error, expected);
        }
    }

    #[test]
    fn old_option_names_keep_their_units() {
        let delay = |pairs| match Behavior::parse("delay", &options(pairs)) {
            Ok(Behavior::Delay(delay)) => delay.time,
            other => panic!("{other:?}"),
        };
        let ms = Duration::from_millis;
        assert_eq!(delay(&[("sleep", "0.3")]), Distribution::Fixed(ms(300)), "seconds, as Vaurien");
        assert_eq!(
            delay(&[("latency", "100"), ("jitter", "20")]),
            Distribution::Uniform(ms(80), ms(120)),
            "milliseconds, as Toxiproxy"
        );
        assert_eq!(delay(&[]), Distribution::Fixed(ms(1000)), "Vaurien's default");
    }
}
