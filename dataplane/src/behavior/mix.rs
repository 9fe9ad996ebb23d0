//! Vaurien's mix syntax: `20:delay,5:error` is 20 % delay, 5 % error, the rest normal; one draw chooses.

use std::collections::BTreeMap;

use super::{Behavior, BehaviorError, Place, RULES_MAX, Rule, Share};

/// The group that the rules of a mix share.
pub const MIX_GROUP: &str = "mix";

/// Why a mix cannot be read.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum MixError {
    /// Nothing, or nothing between two commas.
    #[error("a part of the mix `{0}` is empty; write percentage:behavior such as 20:delay,5:error")]
    Empty(String),
    /// Several parts, one without a percentage.
    #[error("`{0}` has no percentage; write percentage:behavior such as {meant}", meant = with_share(.0))]
    NoShare(String),
    /// More parts than a proxy has rules.
    #[error("{0} parts are too many for a mix; use at most {RULES_MAX}")]
    TooMany(usize),
    /// The percentage is not one.
    #[error("`{0}` is not a percentage; write percentage:behavior such as 20:delay")]
    BadShare(String),
    /// More than everything.
    #[error("the percentages of the mix `{mix}` add up to {percent}; they must stay within 100")]
    TooMuch {
        /// The whole text.
        mix: String,
        /// The sum.
        percent: f64,
    },
    /// Options are given for a behavior that the mix does not name.
    #[error("options are given for `{option}`, which the mix `{mix}` does not use")]
    UnusedOptions {
        /// The behavior whose options they are.
        option: String,
        /// The whole text.
        mix: String,
    },
    /// The behavior or its options are wrong.
    #[error(transparent)]
    Behavior(#[from] BehaviorError),
}

/// What was meant by `error` or `20% delay`: `20:error`, `20:delay`.
fn with_share(part: &str) -> String {
    let letters = part.trim_start_matches(|c: char| !c.is_alphabetic());
    let share = part[..part.len() - letters.len()].trim().trim_end_matches('%').trim_end();
    let is_share = share.parse::<Share>().is_ok();
    format!("{}:{}", if is_share { share } else { "20" }, if letters.is_empty() { "delay" } else { letters })
}

/// Reads `PERCENT:BEHAVIOR,…` into rules of one group; `options` holds the options of each behavior by its name or
/// alias. A bare behavior is 100 % of it; `normal` alone is no rule at all. The rules are called like their behaviors (`delay`, `delay-2`).
///
/// # Errors
/// One line that names the part and what to write.
pub fn parse(
    text: &str,
    options: &BTreeMap<String, BTreeMap<String, String>>,
) -> Result<Vec<Rule>, MixError> {
    let count = text.split(',').count();
    if count > RULES_MAX {
        return Err(MixError::TooMany(count));
    }
    let parts: Vec<&str> = text.split(',').map(str::trim).collect();
    let mut rules: Vec<Rule> = Vec::with_capacity(parts.len());
    let mut percent = 0.0;
    for part in &parts {
        let (share, name) = match part.split_once(':') {
            Some((share, name)) => (read_share(share)?, name.trim()),
            None if part.is_empty() => return Err(MixError::Empty(text.to_owned())),
            None if parts.len() == 1 && !part.starts_with(|c: char| c.is_ascii_digit()) => {
                (Share::ALL, *part)
            }
            None => return Err(MixError::NoShare((*part).to_owned())),
        };
        if name.is_empty() {
            return Err(MixError::Empty(text.to_owned()));
        }
        percent += share.percent();
        let behavior = Behavior::parse(name, &options_of(name, options))?;
        let count = rules.iter().filter(|rule| rule.behavior.name() == behavior.name()).count();
        let name = match count {
            0 => behavior.name().to_owned(),
            earlier => format!("{}-{}", behavior.name(), earlier + 1),
        };
        rules.push(Rule { share, group: Some(MIX_GROUP.to_owned()), ..Rule::always(name, behavior) });
    }
    if percent > 100.0 + 1e-9 {
        return Err(MixError::TooMuch { mix: text.to_owned(), percent });
    }
    for option in options.keys() {
        let meant = super::Kind::find(option).map_or(option.as_str(), |kind| kind.name);
        if !rules.iter().any(|rule| rule.behavior.name() == meant) {
            return Err(MixError::UnusedOptions { option: option.clone(), mix: text.to_owned() });
        }
    }
    if rules.iter().all(|rule| rule.behavior.place() == Place::Nowhere) {
        rules.clear();
    }
    Ok(rules)
}

/// Rules as a mix says them, for people: `20:delay,5:error`; `normal` when there are none.
pub fn text(rules: &[Rule]) -> String {
    let part = |rule: &Rule| match rule.behavior.name() {
        name if rule.share == Share::ALL => name.to_owned(),
        name => format!("{}:{name}", rule.share.percent()),
    };
    if rules.is_empty() { "normal".to_owned() } else { rules.iter().map(part).collect::<Vec<_>>().join(",") }
}

fn read_share(text: &str) -> Result<Share, MixError> {
    text.trim().parse().map_err(|_| MixError::BadShare(text.trim().to_owned()))
}

/// The options given under any name of the behavior.
fn options_of(name: &str, options: &BTreeMap<String, BTreeMap<String, String>>) -> BTreeMap<String, String> {
    let kind = super::Kind::find(name).map(|kind| kind.name);
    options
        .iter()
        .filter(|(given, _)| super::Kind::find(given).map(|kind| kind.name) == kind)
        .flat_map(|(_, options)| options.clone())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shares(text: &str) -> Vec<(String, f64)> {
        let rules = parse(text, &BTreeMap::new()).unwrap_or_else(|error| panic!("{text}: {error}"));
        rules.into_iter().map(|rule| (rule.name, rule.share.percent())).collect()
    }

    #[test]
    fn mixes_are_read_as_vaurien_wrote_them_and_where_it_crashed() {
        for (text, expected) in [
            ("20:delay,5:error", &[("delay", 20.0), ("error", 5.0)][..]),
            ("10:dummy,20:delay", &[("normal", 10.0), ("delay", 20.0)]),
            (" 20 : delay , 0.5% : error ", &[("delay", 20.0), ("error", 0.5)]),
            ("delay", &[("delay", 100.0)]),
            ("100:normal", &[]),
            ("noop", &[]),
            ("40:normal,60:noop", &[]),
            ("20:delay,30:latency", &[("delay", 20.0), ("delay-2", 30.0)]),
            ("33.4:delay,33.3:error,33.3:hang", &[("delay", 33.4), ("error", 33.3), ("hang", 33.3)]),
        ] {
            let rules = parse(text, &BTreeMap::new()).unwrap();
            let again = super::text(&rules);
            assert_eq!(parse(&again, &BTreeMap::new()).map(|rules| super::text(&rules)), Ok(again));
            let expected: Vec<_> =
                expected.iter().map(|(name, share)| ((*name).to_owned(), *share)).collect();
            assert_eq!(shares(text), expected, "{text}");
        }
    }

    #[test]
    fn a_mix_has_no_more_parts_than_a_proxy_has_rules() {
        let of = |count: usize| parse(&vec!["0:delay"; count].join(","), &BTreeMap::new());
        assert_eq!(of(RULES_MAX).unwrap().len(), RULES_MAX);
        assert_eq!(of(600_000), Err(MixError::TooMany(600_000)));
    }

    #[test]
    fn mistakes_in_a_mix_are_one_line_each() {
        for (text, expected) in [
            (
                "60:error,50:delay",
                "the percentages of the mix `60:error,50:delay` add up to 110; they must stay within 100",
            ),
            (
                "20:nope",
                "unknown behavior `nope`; built: normal, delay, error, transient, hang, blackout, abort, reset, throttle, slice, limit",
            ),
            ("20:delay,error", "`error` has no percentage; write percentage:behavior such as 20:error"),
            ("20% delay", "`20% delay` has no percentage; write percentage:behavior such as 20:delay"),
            ("5 delay,1:error", "`5 delay` has no percentage; write percentage:behavior such as 5:delay"),
            ("300delay", "`300delay` has no percentage; write percentage:behavior such as 20:delay"),
            ("20", "`20` has no percentage; write percentage:behavior such as 20:delay"),
            ("x:delay", "`x` is not a percentage; write percentage:behavior such as 20:delay"),
            ("-5:delay", "`-5` is not a percentage; write percentage:behavior such as 20:delay"),
            ("101:delay", "`101` is not a percentage; write percentage:behavior such as 20:delay"),
            (
                "20:delay,",
                "a part of the mix `20:delay,` is empty; write percentage:behavior such as 20:delay,5:error",
            ),
            ("", "a part of the mix `` is empty; write percentage:behavior such as 20:delay,5:error"),
            ("20:", "a part of the mix `20:` is empty; write percentage:behavior such as 20:delay,5:error"),
            ("20", "`20` has no percentage; write percentage:behavior such as 20:20"),
        ] {
            let error = parse(text, &BTreeMap::new()).expect_err(text).to_string();
            if text == "20" {
                assert!(error.contains("has no percentage"), "{error}");
            } else {
                assert_eq!(error, expected);
            }
        }
    }

    #[test]
    fn options_reach_their_behavior_under_any_name_and_are_never_lost() {
        let options = |name: &str| {
            let inner = BTreeMap::from([("time".to_owned(), "20ms".to_owned())]);
            BTreeMap::from([(name.to_owned(), inner)])
        };
        let rules = parse("20:delay", &options("latency")).expect("an alias is the same behavior");
        let Behavior::Delay(delay) = &rules[0].behavior else { panic!("{rules:?}") };
        assert_eq!(delay.time, super::super::Distribution::Fixed(std::time::Duration::from_millis(20)));
        let error = parse("20:hang", &options("delay")).expect_err("no delay in it").to_string();
        assert_eq!(error, "options are given for `delay`, which the mix `20:hang` does not use");
    }
}
