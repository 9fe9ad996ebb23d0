//! The rules in a config: a mix with its options, a list of rules, a timeline.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::str::FromStr;
use std::time::Duration;

use super::tree::{Fields, Mistake, Node};
use super::{DURATION, OptionMaps, TimelineEntry};
use crate::behavior::mix::{self, MixError};
use crate::behavior::{
    Behavior, BehaviorError, HeaderMatch, Kind, Match, NAME_BYTES_MAX, OPTION_DURATION_MAX, Rule, Share,
    Triggers,
};
use crate::proxy::leases::{LEASE_TTL_MAX, LEASE_TTL_MIN};
use crate::units::{parse_count, parse_duration};

/// What a rule or a group of rules may be called, here as by the API: the name stands in figures, events and messages.
const RULE_NAME: &str = "a name of 1 to 128 bytes without a line break or another control character";

fn is_rule_name(text: &str) -> bool {
    (1..=NAME_BYTES_MAX).contains(&text.len()) && !text.contains(char::is_control)
}

/// `rules`, then `behavior` with its `options`.
pub(super) fn base(fields: &Fields<'_>) -> Result<Vec<Rule>, Mistake> {
    let mut rules = Vec::new();
    if let Some(list) = fields.find("rules") {
        for node in list.list("rules")? {
            let rule = rule(node)?;
            if rules.iter().any(|other: &Rule| other.name == rule.name) {
                let message = format!("two rules are called `{}`; give each its own name", rule.name);
                return Err(node.mistake(message));
            }
            rules.push(rule);
        }
    }
    match (fields.find("behavior"), fields.find("options")) {
        (Some(behavior), options) => rules.extend(read_mix(behavior, options)?),
        (None, Some(options)) => {
            return Err(options.mistake("`options` belong to `behavior`, which is missing".to_owned()));
        }
        (None, None) => {}
    }
    Ok(rules)
}

/// `[{behavior: MIX, options: {…}, at: 30s, for: 10s}]`
pub(super) fn timeline(list: &Node) -> Result<Vec<TimelineEntry>, Mistake> {
    let entry = |node: &Node| {
        let fields = node.fields("a timeline entry", &["behavior", "options", "at", "for"])?;
        let lasts = fields.need("for", "10s")?;
        Ok(TimelineEntry {
            at: fields.find("at").map_or(Ok(Duration::ZERO), |node| {
                node.read("at", DURATION, |text| {
                    parse_duration(text).ok().filter(|at| *at <= OPTION_DURATION_MAX)
                })
            })?,
            lasts: lasts.read("for", "a duration from 10ms to 24h such as 10s", |text| {
                parse_duration(text).ok().filter(|time| (LEASE_TTL_MIN..=LEASE_TTL_MAX).contains(time))
            })?,
            rules: read_mix(fields.need("behavior", "20:delay")?, fields.find("options"))?,
        })
    };
    list.list("timeline")?.into_iter().map(entry).collect()
}

fn rule(node: &Node) -> Result<Rule, Mistake> {
    let fields = node.fields(
        "a rule",
        &[
            "name", "behavior", "options", "share", "scope", "group", "match", "first", "nth", "every",
            "after",
        ],
    )?;
    let kind = fields.need("behavior", "delay")?;
    let options_node = fields.find("options");
    let options = options_node.map_or(Ok(BTreeMap::new()), options)?;
    let behavior = Behavior::parse(kind.text("behavior")?, &options)
        .map_err(|error| at_option(error, kind, options_node))?;
    let text = |key: &str| {
        let named =
            |node: &Node| node.read(key, RULE_NAME, |text| is_rule_name(text).then(|| text.to_owned()));
        fields.find(key).map(named).transpose()
    };
    let count = |key: &'static str| {
        fields.find(key).map(|node| node.read(key, "a whole number from 0", parse_count)).transpose()
    };
    Ok(Rule {
        name: text("name")?.unwrap_or_else(|| behavior.name().to_owned()),
        behavior,
        share: fields.find("share").map_or(Ok(Share::ALL), |node| from_text(node, "share"))?,
        scope: fields.find("scope").map(|node| from_text(node, "scope")).transpose()?,
        group: text("group")?,
        matcher: fields.find("match").map_or(Ok(Match::default()), matcher)?,
        triggers: Triggers {
            first: count("first")?,
            nth: count("nth")?,
            every: count("every")?,
            // Not to skip any is to have no such trigger.
            after: count("after")?.filter(|after| *after > 0),
        },
    })
}

fn matcher(node: &Node) -> Result<Match, Mistake> {
    let fields = node.fields("a match", &["client", "method", "path", "header"])?;
    let mut matcher = Match::default();
    for item in list(&fields, "client")? {
        matcher.clients.push(from_text(item, "client")?);
    }
    for item in list(&fields, "method")? {
        matcher.methods.push(item.read("method", "a method such as GET", |text| {
            let fits = !text.is_empty() && text.chars().all(|c| c.is_ascii_alphabetic() || c == '-');
            fits.then(|| text.to_ascii_uppercase())
        })?);
    }
    for item in list(&fields, "path")? {
        matcher.paths.push(from_text(item, "path")?);
    }
    if let Some(headers) = fields.find("header") {
        for (name, _, value) in headers.map("header")? {
            let value = value.text(name)?;
            let value = (value != "*").then(|| value.to_owned());
            matcher.headers.push(HeaderMatch { name: name.clone(), value });
        }
    }
    Ok(matcher)
}

fn list<'a>(fields: &Fields<'a>, key: &str) -> Result<Vec<&'a Node>, Mistake> {
    fields.find(key).map_or(Ok(Vec::new()), |node| node.list(key))
}

fn from_text<T: FromStr<Err: Display>>(node: &Node, key: &str) -> Result<T, Mistake> {
    node.text(key)?.parse().map_err(|error: T::Err| node.mistake(format!("`{key}`: {error}")))
}

fn read_mix(node: &Node, options_node: Option<&Node>) -> Result<Vec<Rule>, Mistake> {
    let mut maps = OptionMaps::new();
    if let Some(options_node) = options_node {
        for (name, place, inner) in options_node.map("options")? {
            if Kind::find(name).is_none() {
                let error = Behavior::parse(name, &BTreeMap::new()).map(|_| ());
                let message = error.expect_err("no kind has this name").to_string();
                return Err(Mistake(*place, message));
            }
            maps.insert(name.clone(), options(inner)?);
        }
    }
    mix::parse(node.text("behavior")?, &maps).map_err(|error| match error {
        MixError::Behavior(error) => {
            let inner = options_node.and_then(|options| {
                let entries = options.map("options").ok()?;
                let found = entries
                    .iter()
                    .find(|(name, ..)| Some(kind_of(&error)) == Kind::find(name).map(|k| k.name));
                found.map(|(.., inner)| inner)
            });
            at_option(error, node, inner)
        }
        other => node.mistake(other.to_string()),
    })
}

fn options(node: &Node) -> Result<BTreeMap<String, String>, Mistake> {
    let mut read = BTreeMap::new();
    for (name, _, value) in node.map("options")? {
        let items = value.list(name)?;
        let texts: Result<Vec<&str>, Mistake> = items.into_iter().map(|item| item.text(name)).collect();
        read.insert(name.clone(), texts?.join(","));
    }
    Ok(read)
}

fn kind_of(error: &BehaviorError) -> &'static str {
    match error {
        BehaviorError::UnknownOption { behavior, .. }
        | BehaviorError::BadOption { behavior, .. }
        | BehaviorError::MissingOption { behavior, .. } => behavior,
        BehaviorError::Unknown { .. } | BehaviorError::NotBuilt { .. } => "",
    }
}

/// Places the error at the option it is about, if that stands in `options`, else at `behavior`.
fn at_option(error: BehaviorError, behavior: &Node, options: Option<&Node>) -> Mistake {
    let entries = options.and_then(|node| node.map("options").ok()).unwrap_or_default();
    let means = |name: &str, option: &str| {
        let kind = Kind::find(kind_of(&error));
        kind.and_then(|kind| kind.option(name)).is_some_and(|(spec, _)| spec.name == option)
    };
    let place = match &error {
        BehaviorError::UnknownOption { option, .. } => {
            entries.iter().find(|(name, ..)| name == option).map(|(_, place, _)| *place)
        }
        BehaviorError::BadOption { option, .. } => {
            entries.iter().find(|(name, ..)| means(name, option)).map(|(.., node)| node.place)
        }
        _ => None,
    };
    Mistake(place.unwrap_or(behavior.place), error.to_string())
}
