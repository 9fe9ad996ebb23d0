//! The manual of the run file, held against the parser: every key has its row and every row its key, each example
//! is read, and the file that `--example` prints has them all.

#![cfg(test)]

use std::collections::BTreeSet;

use serde::de::value::Error;
use serde::de::{Deserialize, Deserializer, Error as _, Visitor};
use serde::forward_to_deserialize_any;

use super::file::{FaultEntry, PhaseEntry, RampEntry, RunFile, StepEntry};
use super::parse;
use crate::scenario::{EXAMPLE, LatePolicy, Slo};

const MANUAL: &str = include_str!("../../../../docs/run-file.md");

/// Asks a struct for its keys and gives it nothing.
struct AskForKeys<'a>(&'a mut &'static [&'static str]);

impl<'de> Deserializer<'de> for AskForKeys<'_> {
    type Error = Error;

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        keys: &'static [&'static str],
        _: V,
    ) -> Result<V::Value, Error> {
        *self.0 = keys;
        Err(Error::custom("only asking"))
    }

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Error> {
        Err(Error::custom("not a struct"))
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct
        newtype_struct seq tuple tuple_struct map enum identifier ignored_any
    }
}

fn keys<T: Deserialize<'static>>() -> BTreeSet<&'static str> {
    let mut keys: &'static [&'static str] = &[];
    let answer = T::deserialize(AskForKeys(&mut keys));
    assert!(answer.is_err() && !keys.is_empty());
    keys.iter().copied().collect()
}

/// Each row of the table below a heading: its key, its default, and its example.
fn rows(heading: &str) -> Vec<(&'static str, &'static str, &'static str)> {
    let section = MANUAL.split("\n## ").find(|section| section.lines().next() == Some(heading)).unwrap();
    let cell = |text: &'static str| text.trim().trim_matches('`');
    let rows = section.lines().filter(|line| line.starts_with("| `")).map(|line| {
        let cells: Vec<&str> = line.trim_matches('|').split(" | ").collect();
        assert_eq!(cells.len(), 5, "{line}");
        (cell(cells[0]), cells[2].trim(), cell(cells[4]))
    });
    rows.collect()
}

fn check(heading: &str, known: &BTreeSet<&str>, file: impl Fn(&str, &str) -> String) {
    let rows = rows(heading);
    let told: BTreeSet<&str> = rows.iter().map(|(key, ..)| *key).collect();
    assert_eq!(&told, known, "{heading}");
    assert_eq!(told.len(), rows.len(), "{heading}: a key stands twice");
    for (key, _, example) in rows {
        assert!(example.contains(&format!("{key}: ")), "{heading}, {key}: {example}");
        let file = file(key, example);
        parse("manual", &file).unwrap_or_else(|error| panic!("{heading}, {key}: {error}\n{file}"));
    }
}

#[test]
fn the_manual_has_every_key_and_no_other_and_each_example_is_read() {
    check("Keys of the file", &keys::<RunFile>(), |key, example| {
        let target = if key == "payload" { "target: tcp://h:7" } else { "target: http://h/" };
        let phases = match key {
            "retry_pause" => "phases: [{users: 1, for: 9s}]",
            _ => "phases: [{rate: 1/s, for: 9s}]",
        };
        let others = [("target", target), ("phases", phases)];
        let others = others.iter().filter(|(other, _)| *other != key).map(|(_, line)| format!("{line}\n"));
        format!("{}{example}\n", others.collect::<String>())
    });
    let of_phase = |_: &str, example: &str| {
        let list = if example.starts_with('[') { example.to_owned() } else { format!("[{example}]") };
        format!("target: http://h/\nphases: {list}\n")
    };
    check("Keys of a phase", &keys::<PhaseEntry>(), of_phase);
    check("Keys of a ramp", &keys::<RampEntry>(), of_phase);
    check("Keys of a step", &keys::<StepEntry>(), of_phase);
    check("Keys of a fault", &keys::<FaultEntry>(), |_, example| {
        format!("target: http://h/\nphases: [{{rate: 1/s, for: 9s}}]\nfaults: [{example}]\n")
    });
}

/// A default that is written as a value is the one that counts when the key is left out.
#[test]
fn the_defaults_of_the_manual_are_those_of_the_parser() {
    let mut checked = 0;
    for (key, default, _) in rows("Keys of the file") {
        let Some(value) = default.strip_prefix('`').and_then(|value| value.strip_suffix('`')) else {
            continue;
        };
        let target = if key == "payload" { "tcp://h:7" } else { "http://h/" };
        let phase = if key == "retry_pause" { "users: 100" } else { "rate: 9/s" };
        let file = format!("target: {target}\nphases: [{{{phase}, for: 9s}}]\n");
        let given = parse("manual", &format!("{file}{key}: {value}\n")).unwrap();
        assert_eq!(given, parse("manual", &file).unwrap(), "{key}: {value}");
        checked += 1;
    }
    assert!(checked >= 15, "{checked}");
}

#[test]
fn the_example_is_read_and_has_every_key() {
    parse("example.yml", EXAMPLE).unwrap();
    let all = [
        keys::<RunFile>(),
        keys::<PhaseEntry>(),
        keys::<RampEntry>(),
        keys::<StepEntry>(),
        keys::<FaultEntry>(),
    ];
    for key in all.iter().flatten() {
        assert!(EXAMPLE.contains(&format!("{key}:")), "the example lacks {key}");
    }
    // What is commented out is read as well.
    let lines = EXAMPLE.lines().map(|line| match line.strip_prefix("# ") {
        Some(key) if key.starts_with(|c: char| c.is_ascii_lowercase()) && key.contains(": ") => key,
        _ => line,
    });
    let all: String = lines.flat_map(|line| [line, "\n"]).collect();
    let plan = parse("example.yml", &all).unwrap();
    assert_eq!(plan.source_addresses.len(), 2);
    assert_ne!(plan.late, LatePolicy::Queue);
}

#[test]
fn the_objectives_of_the_manual_are_read() {
    let section = MANUAL.split("\n## ").find(|section| section.starts_with("Objectives")).unwrap();
    let mut count = 0;
    for row in section.lines().filter_map(|line| line.strip_prefix("| `")) {
        row.split('`').next().unwrap().parse::<Slo>().unwrap();
        count += 1;
    }
    assert_eq!(count, 8);
}

#[test]
fn the_whole_files_of_the_manual_are_read() {
    let files: Vec<&str> =
        MANUAL.split("```yaml\n").skip(1).map(|rest| rest.split("```").next().unwrap()).collect();
    assert_eq!(files.len(), 1);
    assert_eq!(parse("manual", files[0]).unwrap().faults.len(), 1);
}
