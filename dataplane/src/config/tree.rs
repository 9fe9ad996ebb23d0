//! YAML as a tree in which every key and value knows its line and column.

use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::Spanned;

use super::ConfigError;
use crate::nearest::nearest;

/// Where something stands: line and column, from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place(pub(super) u64, pub(super) u64);

/// A value with its place.
#[derive(Clone, Debug)]
pub(super) struct Node {
    pub(super) place: Place,
    value: Value,
}

#[derive(Clone, Debug)]
enum Value {
    Null,
    Text(String),
    List(Vec<Node>),
    Map(Vec<(String, Place, Node)>),
}

/// A place and what is wrong there.
#[derive(Debug)]
pub(super) struct Mistake(pub(super) Place, pub(super) String);

/// A map whose keys are known; each is taken once, and what is left over is a mistake.
pub(super) struct Fields<'a> {
    pub(super) place: Place,
    entries: &'a [(String, Place, Node)],
    known: &'static [&'static str],
}

/// Reads one YAML document.
pub(super) fn read(text: &str, file: &str) -> Result<Node, ConfigError> {
    let options = serde_saphyr::options! { with_snippet: false };
    match serde_saphyr::from_str_with_options::<Spanned<Raw>>(text, options) {
        Ok(raw) => Ok(node(raw)),
        Err(error) => {
            let (line, column) = error.location().map_or((1, 1), |at| (at.line(), at.column()));
            let words = error.render_with_formatter(&serde_saphyr::UserMessageFormatter);
            let words = words.lines().next().unwrap_or("not YAML").to_owned();
            let words = match words.contains("tabs disallowed") {
                true => "a tab stands where the line is indented; use spaces".to_owned(),
                false => words,
            };
            // The place stands in front already.
            let words = match words.rfind(" at line ") {
                Some(at) => words[..at].to_owned(),
                None => words,
            };
            Err(ConfigError::new(file, Place(line, column), &words))
        }
    }
}

impl Node {
    /// The text of a scalar; numbers and booleans are text too.
    pub(super) fn text(&self, key: &str) -> Result<&str, Mistake> {
        match &self.value {
            Value::Text(text) => Ok(text),
            Value::Null => Err(self.mistake(format!("`{key}` has no value"))),
            Value::List(_) | Value::Map(_) => Err(self.mistake(format!("`{key}` takes a single value"))),
        }
    }

    /// The scalar read by `parse`; `expected` says what is valid.
    pub(super) fn read<T>(
        &self,
        key: &str,
        expected: &str,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> Result<T, Mistake> {
        let text = self.text(key)?;
        parse(text.trim()).ok_or_else(|| self.mistake(format!("`{key}` cannot be `{text}`; give {expected}")))
    }

    /// The items of a list; a single scalar is a list of one.
    pub(super) fn list(&self, key: &str) -> Result<Vec<&Node>, Mistake> {
        match &self.value {
            Value::List(items) => Ok(items.iter().collect()),
            Value::Text(_) => Ok(vec![self]),
            Value::Null | Value::Map(_) => Err(self.mistake(format!("`{key}` takes a list"))),
        }
    }

    /// The entries of a map with free keys.
    pub(super) fn map(&self, key: &str) -> Result<&[(String, Place, Node)], Mistake> {
        match &self.value {
            Value::Map(entries) => Ok(entries),
            _ => Err(self.mistake(format!("`{key}` takes keys and values"))),
        }
    }

    /// The entries of a map whose keys must be among `known`.
    pub(super) fn fields(&self, what: &str, known: &'static [&'static str]) -> Result<Fields<'_>, Mistake> {
        let entries = match &self.value {
            Value::Map(entries) => entries,
            Value::Null => {
                let message = format!("{what} is empty; its keys are {}", known.join(", "));
                return Err(self.mistake(message));
            }
            Value::Text(_) | Value::List(_) => {
                let message = format!("{what} takes keys with values; its keys are {}", known.join(", "));
                return Err(self.mistake(message));
            }
        };
        for (key, place, _) in entries {
            if !known.contains(&key.as_str()) {
                let hint = match nearest(key, known.iter().copied()) {
                    Some(near) => format!("did you mean `{near}`?"),
                    None => format!("valid keys: {}", known.join(", ")),
                };
                return Err(Mistake(*place, format!("unknown key `{key}` in {what}; {hint}")));
            }
        }
        Ok(Fields { place: self.place, entries, known })
    }

    pub(super) fn mistake(&self, message: String) -> Mistake {
        Mistake(self.place, message)
    }
}

impl<'a> Fields<'a> {
    /// The value of `key`, unless it is absent or empty.
    pub(super) fn find(&self, key: &str) -> Option<&'a Node> {
        assert!(self.known.contains(&key), "`{key}` is asked for but not known");
        let found = self.entries.iter().find(|(name, ..)| name == key);
        found.map(|(.., node)| node).filter(|node| !matches!(node.value, Value::Null))
    }

    /// The value of `key`, which must be there.
    pub(super) fn need(&self, key: &str, example: &str) -> Result<&'a Node, Mistake> {
        self.find(key)
            .ok_or_else(|| Mistake(self.place, format!("`{key}` is missing; for example `{key}: {example}`")))
    }
}

enum Raw {
    Null,
    Text(String),
    List(Vec<Spanned<Raw>>),
    Map(Vec<(Spanned<String>, Spanned<Raw>)>),
}

fn node(raw: Spanned<Raw>) -> Node {
    let place = Place(raw.referenced.line(), raw.referenced.column());
    let value = match raw.value {
        Raw::Null => Value::Null,
        Raw::Text(text) => Value::Text(text),
        Raw::List(items) => Value::List(items.into_iter().map(node).collect()),
        Raw::Map(entries) => Value::Map(
            entries
                .into_iter()
                .map(|(key, value)| {
                    let place = Place(key.referenced.line(), key.referenced.column());
                    (key.value, place, node(value))
                })
                .collect(),
        ),
    };
    Node { place, value }
}

impl<'de> Deserialize<'de> for Raw {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Raw, D::Error> {
        deserializer.deserialize_any(RawVisitor)
    }
}

struct RawVisitor;

impl<'de> Visitor<'de> for RawVisitor {
    type Value = Raw;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<Raw, E> {
        Ok(Raw::Null)
    }

    fn visit_none<E>(self) -> Result<Raw, E> {
        Ok(Raw::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Raw, E> {
        Ok(Raw::Text(value.to_string()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Raw, E> {
        Ok(Raw::Text(value.to_string()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Raw, E> {
        Ok(Raw::Text(value.to_string()))
    }

    fn visit_i128<E>(self, value: i128) -> Result<Raw, E> {
        Ok(Raw::Text(value.to_string()))
    }

    fn visit_u128<E>(self, value: u128) -> Result<Raw, E> {
        Ok(Raw::Text(value.to_string()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Raw, E> {
        Ok(Raw::Text(value.to_string()))
    }

    fn visit_str<E>(self, value: &str) -> Result<Raw, E> {
        Ok(Raw::Text(value.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Raw, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        Ok(Raw::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Raw, A::Error> {
        let mut map = Vec::new();
        while let Some(entry) = entries.next_entry()? {
            map.push(entry);
        }
        Ok(Raw::Map(map))
    }
}
