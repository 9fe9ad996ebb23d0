//! What the YAML reader says of a value, in the words of a run file: it names types of its own language, and its settings.

use serde_saphyr::{Error, Location};

/// What to write where keys and values belong.
pub(super) const MAPPING: &str = "keys and values belong here: lines `key: value`, or {key: value}";
const LIST: &str = "a list belongs here: begin each of its entries with `- `, or write […]";
const SINGLE: &str = "a single value belongs here, in quotes if it has a `:` or other signs of YAML";

/// What `error` means, without its key; `None` where the reader's own words will do.
pub(super) fn problem(error: &Error, text: &str) -> Option<String> {
    Some(match error {
        Error::AliasError { error, .. } => return problem(error, text),
        Error::InvalidScalar { ty, location } => {
            format!("`{}` is not {}", scalar_at(text, *location), kind(ty))
        }
        Error::InvalidBooleanStrict { location } => {
            format!("`{}` is not {}", scalar_at(text, *location), kind("bool"))
        }
        Error::SerdeInvalidType { unexpected, expected, .. }
        | Error::SerdeInvalidValue { unexpected, expected, .. } => {
            format!("{} is not {}", found(unexpected), kind(expected))
        }
        Error::SerdeInvalidLength { len, expected, .. } => format!("{len} are not {}", kind(expected)),
        Error::NullIntoString { .. } => "no value stands here; write one, or leave the key out".to_owned(),
        Error::Unexpected { expected: "sequence start", .. } => LIST.to_owned(),
        Error::Unexpected { expected: "mapping start", .. } => MAPPING.to_owned(),
        Error::Unexpected { expected: "string scalar", .. } => SINGLE.to_owned(),
        Error::TaggedScalarCannotDeserializeIntoString { .. }
        | Error::BinaryNotUtf8 { .. }
        | Error::InvalidBinaryBase64 { .. }
        | Error::UnsupportedTag { .. }
        | Error::TaggedStructFieldName { .. } => "a tag (`!…`) says nothing here; leave it out".to_owned(),
        Error::MergeKeyNotAllowed { .. } | Error::MergeValueNotMapOrSeqOfMaps { .. } => {
            "`<<` takes keys and values from elsewhere; write them out".to_owned()
        }
        Error::DuplicateMappingKey { key: None, .. } => "a key stands here twice; keep one".to_owned(),
        Error::AliasReplayCounterOverflow { .. }
        | Error::AliasReplayLimitExceeded { .. }
        | Error::AliasExpansionLimitExceeded { .. }
        | Error::AliasReplayStackDepthExceeded { .. } => {
            "what `*` repeats is too much; write out what is needed".to_owned()
        }
        _ => return None,
    })
}

/// A type of the reader's language, or the words of one of our own, as what belongs there.
fn kind(ty: &str) -> String {
    let signed = |bits: u32| {
        format!("a whole number from -{0} to {1}", 1_u128 << (bits - 1), (1_u128 << (bits - 1)) - 1)
    };
    let unsigned = |bits: u32| format!("a whole number from 0 to {}", u128::MAX >> (128 - bits));
    let number = ty.split_at_checked(1).and_then(|(sign, bits)| match (sign, bits.parse().ok()?) {
        ("u", bits @ 8..=128) => Some(unsigned(bits)),
        ("i", bits @ 8..=128) => Some(signed(bits)),
        ("f", 32 | 64) => Some("a number".to_owned()),
        _ => None,
    });
    number.unwrap_or_else(|| match ty {
        "usize" => unsigned(64),
        "bool" | "boolean" | "a boolean" => "yes or no; write true or false".to_owned(),
        "char" | "a character" => "a single letter".to_owned(),
        "a string" | "string" => "text".to_owned(),
        "a map" => "keys and values; write lines `key: value`, or {key: value}".to_owned(),
        "a sequence" => "a list; begin each of its entries with `- `, or write […]".to_owned(),
        ours => ours.to_owned(),
    })
}

/// What stands there: ``integer `5` `` and `string "x"` in quotes of one kind, the others by name.
fn found(unexpected: &str) -> String {
    let quoted = |quote: char| {
        let (_, rest) = unexpected.split_once(quote)?;
        rest.rsplit_once(quote).map(|(value, _)| format!("`{value}`"))
    };
    match unexpected {
        "map" => "a mapping".to_owned(),
        "sequence" => "a list".to_owned(),
        "unit value" | "null" | "Option value" => "an empty value".to_owned(),
        other if other.starts_with("string") => quoted('"').unwrap_or_else(|| other.to_owned()),
        other => quoted('`').unwrap_or_else(|| other.to_owned()),
    }
}

/// The value that begins at a place, as it is written.
fn scalar_at(text: &str, place: Location) -> String {
    let line = usize::try_from(place.line().saturating_sub(1)).ok().and_then(|line| text.lines().nth(line));
    let column = usize::try_from(place.column().saturating_sub(1)).unwrap_or(usize::MAX);
    let rest: String = line.unwrap_or_default().chars().skip(column).collect();
    let end = match rest.chars().next() {
        Some(quote @ ('"' | '\'')) => rest[1..].find(quote).map_or(rest.len(), |end| end + 2),
        _ => rest.find([',', '}', ']', '#']).unwrap_or(rest.len()),
    };
    rest[..end].trim_end().chars().take(VALUE_CHARS_MAX).collect()
}

/// More of a value tells nothing more about it.
const VALUE_CHARS_MAX: usize = 80;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::parse;

    /// The refusal of a file that is good but for what stands in its third line, or in its only phase.
    fn refusal(rest: &str) -> String {
        let phases = if rest.starts_with("phases:") { "" } else { "phases: [{rate: 1/s, for: 1s}]\n" };
        let target = if rest.starts_with("target:") { "" } else { "target: http://h/\n" };
        let file = format!("{target}{phases}{rest}\n");
        parse("f", &file).expect_err(&file).to_string()
    }

    #[test]
    fn a_value_of_the_wrong_kind_is_told_what_belongs_there_in_words() {
        let u64s = "is not a whole number from 0 to 18446744073709551615";
        let u32s = "is not a whole number from 0 to 4294967295";
        let u8s = "is not a whole number from 0 to 255";
        let bools = "is not yes or no; write true or false";
        let body = "is not text (a number in quotes), or a list of bytes";
        let headers = "is not header names and values, such as {Accept: text/html}";
        let empty = "no value stands here; write one, or leave the key out";
        for (rest, expected) in [
            ("seed: -1", format!("f:3:7: seed: `-1` {u64s}")),
            ("seed: x", format!("f:3:7: seed: `x` {u64s}")),
            ("seed: 1.5   # half", format!("f:3:7: seed: `1.5` {u64s}")),
            ("seed: '1 5'", format!("f:3:7: seed: `'1 5'` {u64s}")),
            ("seed: true", format!("f:3:7: seed: `true` {u64s}")),
            ("seed: 99999999999999999999", format!("f:3:7: seed: `99999999999999999999` {u64s}")),
            ("seed: [1]", format!("f:3:7: seed: {SINGLE}")),
            ("seed: {a: 1}", format!("f:3:7: seed: {SINGLE}")),
            ("nodes: -1", format!("f:3:8: nodes: `-1` {u32s}")),
            ("nodes: 5000000000", format!("f:3:8: nodes: `5000000000` {u32s}")),
            ("threads: x", format!("f:3:10: threads: `x` {u32s}")),
            ("connections: 300k", format!("f:3:14: connections: `300k` {u32s}")),
            ("keep_alive: maybe", format!("f:3:13: keep_alive: `maybe` {bools}")),
            ("precise: 1", format!("f:3:10: precise: `1` {bools}")),
            ("precise: [a]", format!("f:3:10: precise: {SINGLE}")),
            ("name: {a: b}", format!("f:3:7: name: {SINGLE}")),
            ("body: 5", format!("f:3:1: body: `5` {body}")),
            ("body: true", format!("f:3:1: body: `true` {body}")),
            ("body: {a: b}", format!("f:3:7: body: a mapping {body}")),
            ("body: [1, 300]", format!("f:3:11: body: `300` {u8s}")),
            ("body: [a]", format!("f:3:8: body: `a` {u8s}")),
            ("headers: 3", format!("f:3:1: headers: `3` {headers}")),
            ("headers: x y", format!("f:3:1: headers: `x y` {headers}")),
            ("headers: {X-A: [b]}", format!("f:3:16: headers: {SINGLE}")),
            ("headers: [[a]]", format!("f:3:12: headers: `a` {headers}")),
            ("slo: {a: b}", format!("f:3:6: slo: {LIST}")),
            ("slo: [p99<1s, [a]]", format!("f:3:15: slo: {SINGLE}")),
            ("source_addresses: ::1", format!("f:3:19: source_addresses: {LIST}")),
            ("faults: [a]", format!("f:3:10: faults: {MAPPING}")),
            ("faults: [{proxy: a, behavior: [a], for: 1s}]", format!("f:3:31: behavior: {SINGLE}")),
            ("faults: [{proxy: a, behavior: b, for: 1s, options: 3}]", format!("f:3:52: options: {MAPPING}")),
            (
                "faults: [{proxy: a, behavior: b, for: 1s, options: {delay: {time: [1]}}}]",
                format!("f:3:67: time: {SINGLE}"),
            ),
            ("faults: [{proxy: a}]", "f:3:11: `behavior` is missing; add it".to_owned()),
            ("phases: [{rate: 1/s, requests: -1}]", format!("f:2:32: requests: `-1` {u64s}")),
            ("phases: [{users: 1.5, for: 1s}]", format!("f:2:18: users: `1.5` {u32s}")),
            ("phases:\n- users: -3\n  for: 1s", format!("f:3:10: users: `-3` {u32s}")),
            ("phases: [{users: 1, for: 1s, warm_up: 3}]", format!("f:2:39: warm_up: `3` {bools}")),
            ("phases: [{ramp: 3, for: 1s}]", format!("f:2:17: ramp: {MAPPING}")),
            ("phases: [{steps: 3}]", format!("f:2:18: steps: {LIST}")),
            ("phases: [{steps: [{rate: [1], for: 1s}]}]", format!("f:2:26: rate: {SINGLE}")),
            ("phases: [{ramp: {from: 1/s}, for: 1s}]", "f:2:18: `to` is missing; add it".to_owned()),
            ("target:", format!("f:2:7: target: {empty}")),
            ("slo: [~]", format!("f:3:7: slo: {empty}")),
            ("seed: !!str 3\n---\nseed: 1", "f:3:13: seed: `3` ".to_owned() + u64s),
            ("seed: 3\n---\nseed: 1", "f:5:1: a second file begins here, with `---`".to_owned()),
            ("name: !!binary _w==", "f:3:16: name: a tag (`!…`) says nothing here; leave it out".to_owned()),
        ] {
            let error = refusal(rest);
            assert!(error.starts_with(&expected), "{rest}\n{error}\n{expected}");
        }
    }

    #[test]
    fn json_is_told_the_same() {
        for (value, expected) in [
            ("\"seed\": -1", "seed: `-1` is not a whole number from 0 to 18446744073709551615"),
            ("\"seed\": \"x\"", "seed: `\"x\"` is not a whole number from 0 to 18446744073709551615"),
            ("\"keep_alive\": 3", "keep_alive: `3` is not yes or no; write true or false"),
        ] {
            let plan = format!(
                "{{\"target\": \"http://h/\", \"phases\": [{{\"users\": 1, \"for\": \"1s\"}}], {value}}}"
            );
            for file in [plan.clone(), format!("{{\"format\": 1, \"plan\": {plan}}}")] {
                let error = parse("f", &file).expect_err(&file).to_string();
                assert!(error.ends_with(expected), "{file}\n{error}");
            }
        }
    }

    #[test]
    fn no_type_is_named_as_the_reader_names_it() {
        for ty in ["u8", "u16", "u32", "u64", "usize", "i64", "f64", "bool", "char", "string"] {
            let said = kind(ty);
            assert!(said != ty && !said.contains(ty), "{ty}: {said}");
        }
        assert_eq!(kind("i8"), "a whole number from -128 to 127");
        assert_eq!(kind("a duration"), "a duration");
        for (unexpected, said) in [
            ("integer `5`", "`5`"),
            ("floating point `1.5`", "`1.5`"),
            ("string \"a\"b\"", "`a\"b`"),
            ("map", "a mapping"),
            ("unit value", "an empty value"),
        ] {
            assert_eq!(found(unexpected), said);
        }
    }
}
