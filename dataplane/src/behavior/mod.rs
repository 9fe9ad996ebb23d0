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
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

mod abort;
mod blackout;
mod delay;
mod error_reply;
mod hang;
pub mod manual;
mod matching;
pub mod mix;
mod normal;
mod options;
mod reset;
mod rule;
mod rule_set;
mod text;
mod throttle;
mod transient;
mod unbuilt;

pub use delay::{Delay, Distribution};
pub use error_reply::{ErrorReply, GARBAGE_INJECT_BYTES, GARBAGE_REPLACE_BYTES, Garbage, garbage};
pub use matching::{ClientRange, HeaderMatch, MATCH_BYTES_MAX, MATCH_ENTRIES_MAX, Match, PathPattern, Shape};
pub use options::{OPTION_DURATION_MAX, OptionKind, OptionSpec, bytes, duration, nearest, rate};
pub use reset::{Reset, ResetSide};
pub use rule::{NAME_BYTES_MAX, Rule, RuleError, Scope, Share, Triggers};
pub use rule_set::{CompiledRule, RuleSet};
pub use text::{bytes_text, duration_text, rate_text};
pub use throttle::{
    Bucket, Per, SharedBucket, THROTTLE_LATE_MAX, THROTTLE_SLICE_BYTES_MAX, THROTTLE_SLICE_BYTES_MIN,
    Throttle, max_slice,
};
pub use transient::Transient;

/// Every behavior, built or not, in the order of the manual.
pub const KINDS: &[Kind] = &[
    normal::KIND,
    delay::KIND,
    error_reply::KIND,
    transient::KIND,
    hang::KIND,
    blackout::KIND,
    abort::KIND,
    reset::KIND,
    throttle::KIND,
    unbuilt::SLICE,
    unbuilt::LIMIT,
    unbuilt::SLOW_CLOSE,
    unbuilt::TIMEOUT,
    unbuilt::STALL,
    unbuilt::CORRUPT,
    unbuilt::REFUSE,
    unbuilt::SLOW_READ,
    unbuilt::SCRIPT,
];

/// Describes one behavior; flags, config, API and docs are generated from it.
#[derive(Debug)]
pub struct Kind {
    /// The name in our words.
    pub name: &'static str,
    /// Names that users of earlier tools know.
    pub aliases: &'static [&'static str],
    /// What it does, in one line.
    pub summary: &'static str,
    /// Its options.
    pub options: &'static [OptionSpec],
    /// Whether it can be used, or only answers that it is not built yet.
    pub built: bool,
    /// When a change to or from it reaches a connection that is already open.
    pub live_change: LiveChange,
    /// What happens to what is under way when it is taken away.
    pub lifted: &'static str,
}

impl Kind {
    /// The behavior of this name or alias; `-` and `_` are the same.
    pub fn find(name: &str) -> Option<&'static Kind> {
        let name = name.replace('-', "_");
        KINDS.iter().find(|kind| kind.name == name || kind.aliases.contains(&name.as_str()))
    }

    /// The option of this name or alias, with the unit a bare number has under that name (`""`: none).
    pub fn option(&self, name: &str) -> Option<(&'static OptionSpec, &'static str)> {
        let name = name.replace('-', "_");
        let direct = self.options.iter().find(|spec| spec.name == name);
        let aliases =
            || self.options.iter().flat_map(|spec| spec.aliases.iter().map(move |alias| (spec, alias)));
        // A name may be its own alias: then a bare number has the unit it had in the earlier tool.
        let alias = aliases().find(|(_, alias)| alias.0 == name);
        match (direct, alias) {
            (_, Some((spec, alias))) => Some((spec, alias.1)),
            (Some(spec), None) => Some((spec, "")),
            (None, None) => None,
        }
    }
}

/// When a changed rule reaches a connection that is already open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LiveChange {
    /// On plain bytes.
    pub bytes: When,
    /// Where a protocol is known.
    pub messages: When,
}

/// The first thing on a live connection that a change touches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// As soon as the worker has the new rules.
    Now,
    /// The next chunk that is read.
    NextChunk,
    /// The next message that begins.
    NextMessage,
    /// Only connections made later.
    NextConnection,
}

impl When {
    /// The word used in the manual.
    pub fn words(self) -> &'static str {
        match self {
            When::Now => "now",
            When::NextChunk => "next chunk",
            When::NextMessage => "next message",
            When::NextConnection => "next connection",
        }
    }
}

/// A way of misbehaving, with its settings.
#[derive(Clone, Debug, PartialEq)]
pub enum Behavior {
    /// Passes everything.
    Normal,
    /// Holds messages or chunks.
    Delay(Delay),
    /// Answers with an error.
    Error(ErrorReply),
    /// Fails the first calls, then passes.
    Transient(Transient),
    /// Discards, never answers.
    Hang,
    /// Closes at once.
    Blackout,
    /// Forwards the request, then closes without a reply.
    Abort,
    /// Sends an RST.
    Reset(Reset),
    /// Limits the rate.
    Throttle(Throttle),
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
        let options = options::Options::new(kind, options)?;
        Ok(match kind.name {
            "normal" => Behavior::Normal,
            "delay" => Behavior::Delay(Delay::parse(&options)?),
            "error" => Behavior::Error(ErrorReply::parse(&options)?),
            "transient" => Behavior::Transient(Transient::parse(&options)?),
            "hang" => Behavior::Hang,
            "blackout" => Behavior::Blackout,
            "abort" => Behavior::Abort,
            "reset" => Behavior::Reset(Reset::parse(&options)?),
            "throttle" => Behavior::Throttle(Throttle::parse(&options)?),
            other => unreachable!("`{other}` is marked as built and has no parser"),
        })
    }

    /// The behavior's name in our words.
    pub fn name(&self) -> &'static str {
        match self {
            Behavior::Normal => normal::KIND.name,
            Behavior::Delay(_) => delay::KIND.name,
            Behavior::Error(_) => error_reply::KIND.name,
            Behavior::Transient(_) => transient::KIND.name,
            Behavior::Hang => hang::KIND.name,
            Behavior::Blackout => blackout::KIND.name,
            Behavior::Abort => abort::KIND.name,
            Behavior::Reset(_) => reset::KIND.name,
            Behavior::Throttle(_) => throttle::KIND.name,
        }
    }

    /// Every option of the table with its value as text, which [`Behavior::parse`] reads back to the same.
    pub fn options(&self) -> Vec<(&'static OptionSpec, String)> {
        let kind = Kind::find(self.name()).expect("every behavior is in the table");
        kind.options.iter().map(|spec| (spec, self.option_text(spec.name))).collect()
    }

    fn option_text(&self, option: &str) -> String {
        match self {
            Behavior::Delay(delay) => delay.option_text(option),
            Behavior::Error(error) => error.option_text(option),
            Behavior::Transient(transient) => transient.option_text(option),
            Behavior::Reset(reset) => reset.option_text(option),
            Behavior::Throttle(throttle) => throttle.option_text(option),
            Behavior::Normal | Behavior::Hang | Behavior::Blackout | Behavior::Abort => {
                unreachable!("`{}` has no option `{option}`", self.name())
            }
        }
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

/// What a decision may know about a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectionFacts {
    /// The client's address.
    pub client: SocketAddr,
    /// The connection's number in its proxy, from 0 in the order of accept; part of every draw.
    pub ordinal: u64,
}

/// What the rules say about a connection as a whole.
#[derive(Clone, Debug, Default)]
pub struct ConnectionPlan {
    /// The rules that can still touch this connection; 0: none, and none has to be asked.
    pub active: RuleMask,
    /// What to do with the connection at once.
    pub act: Option<Act>,
    /// The rates to keep, all of them.
    pub throttles: Vec<ThrottlePlan>,
    /// The rules that drew for this connection, and those of them that chose it.
    pub drawn: Drawn,
}

/// Rules that met a unit of traffic: a connection, an exchange or a chunk, by their scope.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Drawn {
    /// The unit passed their match and triggers, and no warmup of theirs let it through.
    pub matched: RuleMask,
    /// Their draw chose it, and no earlier rule had taken it.
    pub acted: RuleMask,
}

/// One rate that a connection must keep.
#[derive(Clone, Debug)]
pub struct ThrottlePlan {
    /// The rule's index.
    pub rule: u8,
    /// Bytes per second in each limited direction; 0 stalls.
    pub rate: u64,
    /// Who shares the rate.
    pub per: Per,
    /// Which direction is limited.
    pub side: Side,
    /// Bytes that may wait in one direction before reading stops.
    pub queue_bytes: u64,
    /// With [`Per::Proxy`]: the buckets that all workers share, one per direction (`Direction as usize`).
    pub shared: Option<[Arc<SharedBucket>; 2]>,
}

/// What the rules say about one exchange or chunk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Decision {
    /// How long to hold the request.
    pub request_hold: Hold,
    /// How long to hold the reply.
    pub reply_hold: Hold,
    /// What else to do, after the hold of its direction.
    pub act: Option<Act>,
    /// The rules that drew for this exchange or chunk, and those of them that chose it.
    pub drawn: Drawn,
}

/// A delay, the sum of those of several rules.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Hold {
    /// How long, from arrival.
    pub time: Duration,
    /// The rules that asked for it.
    pub rules: RuleMask,
    /// The number of the exchange in its connection, from 1; 0 on plain bytes.
    pub exchange: u32,
}

/// Something to do, and the rule that says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Act {
    /// The rule's index.
    pub rule: u8,
    /// What to do.
    pub action: Action,
}

/// What a rule can do to a connection, an exchange or a chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Answer with this status; the upstream is not contacted.
    ErrorReply {
        /// The status code.
        code: u16,
        /// Randomness for the reply, if it wants any.
        draw: u64,
    },
    /// Put random bytes into this reply chunk, or in its place: see [`garbage`].
    Garbage {
        /// Insert instead of replacing.
        inject: bool,
        /// Randomness for [`garbage`].
        draw: u64,
    },
    /// Read and discard, never answer.
    Hang,
    /// Close at once; nothing is forwarded.
    Blackout,
    /// Forward the request, then close both sides without a reply.
    Abort,
    /// Send an RST after a time or a number of bytes; both 0: at once.
    Reset {
        /// Time to wait first.
        after_time: Duration,
        /// Bytes of both directions to let pass first.
        after_bytes: u64,
        /// Who gets it.
        side: ResetSide,
    },
}

#[cfg(test)]
mod tests {
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
                "slicer",
                &[],
                "behavior `slice` is not built yet; built: normal, delay, error, transient, hang, blackout, abort, reset, throttle",
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
