//! The run file as it is written: its keys, each with its place. `docs/run-file.md` has a row for each of them.
//!
//! A plan that travels, or that stands in a `run.json`, is written with the same keys (`written.rs`).

use std::collections::BTreeMap;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_saphyr::Spanned;

use crate::scenario::BytesOrText;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RunFile {
    pub name: Option<String>,
    pub nodes: Option<Spanned<u32>>,
    pub target: Spanned<String>,
    pub method: Option<Spanned<String>>,
    pub headers: Option<Spanned<Headers>>,
    pub body: Option<Spanned<Body>>,
    pub payload: Option<Spanned<String>>,
    pub keep_alive: Option<bool>,
    pub connections: Option<Spanned<u32>>,
    pub threads: Option<Spanned<u32>>,
    pub connect_timeout: Option<Spanned<String>>,
    pub response_timeout: Option<Spanned<String>>,
    pub warm_up: Option<Spanned<String>>,
    pub phases: Spanned<Vec<Spanned<PhaseEntry>>>,
    pub drain: Option<Spanned<String>>,
    pub source_addresses: Option<Vec<Spanned<String>>>,
    pub connect_rate: Option<Spanned<String>>,
    pub retry_pause: Option<Spanned<String>>,
    pub reuse: Option<Spanned<String>>,
    pub drop_after: Option<Spanned<String>>,
    pub precise: Option<Spanned<bool>>,
    pub seed: Option<u64>,
    pub slo: Option<Vec<Spanned<String>>>,
    pub faults: Option<Vec<Spanned<FaultEntry>>>,
    pub on_node_loss: Option<Spanned<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PhaseEntry {
    pub rate: Option<Spanned<String>>,
    pub arrivals: Option<Spanned<String>>,
    pub ramp: Option<RampEntry>,
    pub steps: Option<Vec<StepEntry>>,
    pub users: Option<Spanned<u32>>,
    pub think_time: Option<Spanned<String>>,
    #[serde(rename = "for")]
    pub over: Option<Spanned<String>>,
    pub requests: Option<Spanned<u64>>,
    pub warm_up: Option<bool>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RampEntry {
    pub from: Spanned<String>,
    pub to: Spanned<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct StepEntry {
    pub rate: Spanned<String>,
    #[serde(rename = "for")]
    pub over: Spanned<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FaultEntry {
    pub proxy: Spanned<String>,
    pub behavior: Spanned<String>,
    pub options: Option<BTreeMap<String, BTreeMap<String, String>>>,
    pub at: Option<Spanned<String>>,
    #[serde(rename = "for")]
    pub over: Spanned<String>,
}

/// Header fields in the order of the file: a mapping, or a list of mappings where a name stands twice.
pub(super) struct Headers(pub Vec<(String, String)>);

impl<'de> Deserialize<'de> for Headers {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Headers, D::Error> {
        struct InOrder;
        impl<'de> Visitor<'de> for InOrder {
            type Value = Headers;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("header names and values, such as {Accept: text/html}")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Headers, A::Error> {
                let mut all = Vec::new();
                while let Some(header) = map.next_entry()? {
                    all.push(header);
                }
                Ok(Headers(all))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Headers, A::Error> {
                let mut all = Vec::new();
                while let Some(Headers(some)) = list.next_element()? {
                    all.extend(some);
                }
                Ok(Headers(all))
            }
        }
        deserializer.deserialize_any(InOrder)
    }
}

/// A body: text, or a list of bytes where it is not UTF-8.
pub(super) struct Body(pub BytesOrText);

impl<'de> Deserialize<'de> for Body {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Body, D::Error> {
        struct TextOrBytes;
        impl<'de> Visitor<'de> for TextOrBytes {
            type Value = Body;

            // A number is refused, not written out: `007` and `1e3` would be other bytes than were meant.
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("text (a number in quotes), or a list of bytes")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Body, E> {
                Ok(Body(BytesOrText::Text(text.to_owned())))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Body, A::Error> {
                let mut bytes = Vec::new();
                while let Some(byte) = list.next_element()? {
                    bytes.push(byte);
                }
                Ok(Body(bytes.into()))
            }
        }
        deserializer.deserialize_any(TextOrBytes)
    }
}
