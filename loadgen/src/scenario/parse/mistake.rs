//! What is wrong with a run file, where, and what was probably meant.

use fracas_dataplane::config::on_one_line;
use fracas_dataplane::nearest::nearest;
use serde_saphyr::{Error, Location};

use super::in_words;

/// Why a run file was not understood: `run.yml:8:12: phases[0].rate: …`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{file}:{line}:{column}: {problem}")]
pub struct ParseError {
    /// As given.
    pub file: String,
    /// From 1.
    pub line: u64,
    /// From 1.
    pub column: u64,
    /// The key and what to do.
    pub problem: String,
}

impl ParseError {
    /// What the file itself says may be quoted in `problem`: it stays on one line, and is no word to the terminal.
    pub(super) fn new(file: &str, line: u64, column: u64, problem: &str) -> ParseError {
        let problem = on_one_line(&problem.chars().take(PROBLEM_CHARS_MAX).collect::<String>());
        ParseError { file: file.to_owned(), line: line.max(1), column: column.max(1), problem }
    }
}

/// More is a file quoted, not a mistake told.
const PROBLEM_CHARS_MAX: usize = 1000;

/// A mistake that the YAML reader found.
pub(super) fn from_yaml(file: &str, text: &str, error: &Error) -> ParseError {
    let error = error.without_snippet();
    let place = error.location().unwrap_or(Location::UNKNOWN);
    let line = place.line().max(1);
    let problem = match error {
        Error::SerdeUnknownField { field, expected, .. } => match nearest(field, expected.iter().copied()) {
            Some(near) => format!("unknown key `{field}`; did you mean `{near}`?"),
            None if let Some(meant) = meant_by(field) => format!("unknown key `{field}`; {meant}"),
            None => format!("unknown key `{field}`; known are {}", expected.join(", ")),
        },
        Error::SerdeMissingField { field, .. } => format!("`{field}` is missing; add it"),
        Error::DuplicateMappingKey { key: Some(key), .. } => format!("`{key}` stands here twice; keep one"),
        Error::MultipleDocuments { .. } => {
            "a second file begins here, with `---`; a run file holds one run".to_owned()
        }
        other => {
            let message = in_words::problem(other, text).unwrap_or_else(|| {
                let message = other.to_string();
                // The reader's own text ends in the place, which stands in front already.
                let message = message.lines().next().unwrap_or_default();
                let message = message.rsplit_once(" at line ").map_or(message, |(head, _)| head);
                message.strip_prefix("error: ").unwrap_or(message).to_owned()
            });
            match key_before(text, line, place.column()) {
                // YAML allows none in front of a key; what is wrong is not the key's.
                _ if message.contains("tabs disallowed") => {
                    "a tab stands where the line is indented; use spaces".to_owned()
                }
                Some(key) => format!("{key}: {message}"),
                None if ["unexpected end of input", in_words::MAPPING].contains(&message.as_str()) => {
                    "a run file is made of lines `key: value`; it needs `target` and `phases`".to_owned()
                }
                None => message,
            }
        }
    };
    ParseError::new(file, line, place.column(), &problem)
}

/// What a key of other load generators is called here.
fn meant_by(field: &str) -> Option<&'static str> {
    Some(match field.to_lowercase().as_str() {
        "url" | "host" | "base_url" => "where the load goes is `target`",
        "vus" | "concurrency" => {
            "users of the closed model are `users` in a phase: phases: [{users: 100, for: 30s}]"
        }
        "duration" | "time" | "ttl" => "how long something lasts is `for`, in a phase or a fault",
        "rps" | "qps" | "throughput" | "arrival_rate" => {
            "a rate is `rate` in a phase: phases: [{rate: 500/s, for: 30s}]"
        }
        "iterations" => "a count of requests is `requests` in a phase: phases: [{users: 10, requests: 1000}]",
        "stages" | "scenarios" | "executor" => {
            "what is sent when is `phases`: phases: [{ramp: {from: 1/s, to: 500/s}, for: 1m}]"
        }
        "thresholds" => "what must hold is `slo`: slo: [\"p99<50ms\"]",
        "timeout" => "how long a reply may take is `response_timeout`, a connect `connect_timeout`",
        "data" => "what each request carries is `body`",
        "sleep" | "pause" => "the pause of a user is `think_time` in a phase",
        _ => return None,
    })
}

/// The key whose value stands at a column: the last one before it on its line, or the first one of the line.
fn key_before(text: &str, line: u64, column: u64) -> Option<&str> {
    let line = text.lines().nth(usize::try_from(line).ok()?.checked_sub(1)?)?;
    let column = usize::try_from(column).ok()?;
    let end = line.char_indices().nth(column.saturating_sub(1)).map_or(line.len(), |(at, _)| at);
    let before = line[..end].rmatch_indices(':').find_map(|(colon, _)| key_ending(&line[..colon]));
    before.or_else(|| key_ending(&line[..line.find(':')?]))
}

/// The key that a text ends with, quoted or not.
fn key_ending(text: &str) -> Option<&str> {
    let text = text.trim_end().trim_end_matches(['"', '\'']);
    let before = text.trim_end_matches(|c: char| c.is_ascii_alphanumeric() || c == '_');
    let key = &text[before.len()..];
    let before = before.trim_end_matches(['"', '\'']);
    let begins =
        before.trim().is_empty() || before.ends_with("- ") || before.trim_end().ends_with(['{', ',', '[']);
    (!key.is_empty() && begins).then_some(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_file_says_stays_on_one_line_and_never_reaches_the_terminal_as_it_is() {
        for text in ["{\"r\\n> >\": 1}", "{r\r\r>: 1}", "{\"\\e[2J\": 1}", "name: \"\\u0007\"\nx: 1\n"] {
            let error = crate::scenario::parse("f", text).expect_err(text).to_string();
            assert!(!error.contains(char::is_control), "{error:?}");
        }
        let long = format!("{}: 1\n", "k".repeat(100_000));
        let error = crate::scenario::parse("f", &long).expect_err("no such key").to_string();
        assert!(error.len() < 2000, "{} bytes", error.len());
    }

    #[test]
    fn a_place_is_counted_from_1() {
        assert_eq!(ParseError::new("f", 0, 0, "x").to_string(), "f:1:1: x");
    }
}
