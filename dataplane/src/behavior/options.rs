//! Reads the options of behaviors: text with units → numbers that cannot be wrong, errors that name the option.
//!
//! The CLI, the config and the API all hand over `(option, text)` pairs; this file gives them meaning.

use std::collections::BTreeMap;
use std::time::Duration;

use super::delay::Distribution;
use super::{BehaviorError, Kind};
use crate::nearest::nearest;
use crate::units::{parse_byte_rate, parse_bytes_up_to, parse_count, parse_duration_in};

/// The longest duration an option takes.
pub const OPTION_DURATION_MAX: Duration = Duration::from_secs(24 * 60 * 60);
/// The most bytes, or bytes a second, an option takes: twice as many still fit 64 bits.
pub const OPTION_BYTES_MAX: u64 = 9_000_000_000_000_000_000;

/// Documents one option of a behavior; flags, config keys, API and docs are generated from it.
#[derive(Debug)]
pub struct OptionSpec {
    /// Name in config and API; on the command line `--BEHAVIOR-NAME`.
    pub name: &'static str,
    /// Names that users of earlier tools know, with the unit a bare number has there (`""`: needs a unit).
    pub aliases: &'static [(&'static str, &'static str)],
    /// What the text must look like.
    pub kind: OptionKind,
    /// The text used when the option is absent; `""` when it must be given.
    pub default: &'static str,
    /// One sentence for `--help` and the manual.
    pub doc: &'static str,
    /// A value to copy.
    pub example: &'static str,
}

/// What an option's text must look like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OptionKind {
    /// `150ms`, `1.5s`, `1h30m`.
    Duration,
    /// A duration, `uniform(10ms,50ms)` or `normal(50ms,10ms)`.
    Distribution,
    /// `1MB/s`, `64KiB/s`, `8Mbit/s`.
    Rate,
    /// `1000`, `64KiB`, `1MB`.
    Bytes,
    /// A duration or a number of bytes.
    DurationOrBytes,
    /// A whole number from 0.
    Count,
    /// `true` or `false`.
    Bool,
    /// HTTP status codes, `500,503`.
    Codes,
    /// `5%` or `0.1%`.
    Percent,
    /// One of these words.
    OneOf(&'static [&'static str]),
    /// A file name.
    File,
}

impl OptionKind {
    /// Says which values are valid, for errors, help and docs.
    pub fn describe(&self) -> String {
        match self {
            OptionKind::Duration => "a duration up to 24h such as 150ms or 2s".to_owned(),
            OptionKind::Distribution => {
                "a duration up to 24h such as 150ms, or uniform(10ms,50ms), or normal(50ms,10ms)".to_owned()
            }
            OptionKind::Rate => {
                "bytes or bits per second, up to 9000000000GB/s, such as 1MB/s, 64KiB/s or 8Mbit/s".to_owned()
            }
            OptionKind::Bytes => "a number of bytes up to 9000000000GB such as 1000, 64KiB or 1MB".to_owned(),
            OptionKind::DurationOrBytes => {
                "a duration up to 24h such as 150ms, or bytes up to 9000000000GB such as 64KiB".to_owned()
            }
            OptionKind::Count => format!("a whole number from 0 to {}", u64::MAX),
            OptionKind::Bool => "true or false".to_owned(),
            OptionKind::Codes => "status codes from 200 to 599 such as 500,503".to_owned(),
            OptionKind::Percent => "a percentage from 0% to 100% such as 5%".to_owned(),
            OptionKind::OneOf(words) => format!("one of {}", words.join(", ")),
            OptionKind::File => "a file name".to_owned(),
        }
    }
}

/// The options given for one behavior, names checked and aliases resolved.
pub(super) struct Options<'a> {
    kind: &'static Kind,
    values: Vec<(&'static OptionSpec, &'a str, &'static str)>,
}

impl<'a> Options<'a> {
    /// Checks every given name against the table of `kind`.
    pub(super) fn new(
        kind: &'static Kind,
        given: &'a BTreeMap<String, String>,
    ) -> Result<Options<'a>, BehaviorError> {
        let mut values: Vec<(&'static OptionSpec, &'a str, &'static str)> = Vec::new();
        for (name, text) in given {
            let Some((spec, bare_unit)) = kind.option(name) else {
                let names: Vec<&str> = kind.options.iter().map(|spec| spec.name).collect();
                return Err(BehaviorError::UnknownOption {
                    behavior: kind.name,
                    option: name.clone(),
                    hint: match (names.is_empty(), nearest(name, names.iter().copied())) {
                        (true, _) => "it has none".to_owned(),
                        (false, Some(near)) => format!("did you mean `{near}`?"),
                        (false, None) => format!("valid options: {}", names.join(", ")),
                    },
                });
            };
            if let Some((_, earlier, _)) = values.iter().find(|(other, ..)| other.name == spec.name) {
                return Err(BehaviorError::BadOption {
                    behavior: kind.name,
                    option: spec.name,
                    value: format!("{earlier}` and `{text}"),
                    expected: "one value, not two under different names".to_owned(),
                });
            }
            values.push((spec, text, bare_unit));
        }
        Ok(Options { kind, values })
    }

    fn find(&self, name: &'static str) -> Option<(&'static OptionSpec, &str, &'static str)> {
        let spec = self.kind.options.iter().find(|spec| spec.name == name).expect("the table has the option");
        match self.values.iter().find(|(given, ..)| given.name == name) {
            Some((spec, text, bare_unit)) => Some((spec, text.trim(), bare_unit)),
            None if spec.default.is_empty() => None,
            None => Some((spec, spec.default, "")),
        }
    }

    fn read<T>(
        &self,
        name: &'static str,
        parse: impl FnOnce(&str, &str) -> Option<T>,
    ) -> Result<T, BehaviorError> {
        let Some((spec, text, bare_unit)) = self.find(name) else {
            let spec = self.kind.option(name).expect("the table has the option").0;
            return Err(BehaviorError::MissingOption {
                behavior: self.kind.name,
                option: name,
                example: spec.example,
            });
        };
        parse(text, bare_unit).ok_or_else(|| BehaviorError::BadOption {
            behavior: self.kind.name,
            option: spec.name,
            value: text.to_owned(),
            expected: spec.kind.describe(),
        })
    }

    pub(super) fn duration(&self, name: &'static str) -> Result<Duration, BehaviorError> {
        self.read(name, duration)
    }

    pub(super) fn distribution(&self, name: &'static str) -> Result<Distribution, BehaviorError> {
        self.read(name, Distribution::parse)
    }

    pub(super) fn rate(&self, name: &'static str) -> Result<u64, BehaviorError> {
        self.read(name, |text, _| rate(text))
    }

    pub(super) fn bytes(&self, name: &'static str) -> Result<u64, BehaviorError> {
        self.read(name, |text, _| bytes(text))
    }

    pub(super) fn duration_or_bytes(&self, name: &'static str) -> Result<(Duration, u64), BehaviorError> {
        self.read(name, |text, unit| match duration(text, unit) {
            Some(time) => Some((time, 0)),
            None => bytes(text).map(|count| (Duration::ZERO, count)),
        })
    }

    pub(super) fn count(&self, name: &'static str) -> Result<u64, BehaviorError> {
        self.read(name, |text, _| parse_count(text))
    }

    pub(super) fn bool(&self, name: &'static str) -> Result<bool, BehaviorError> {
        self.read(name, |text, _| match text.to_ascii_lowercase().as_str() {
            "true" | "yes" | "y" | "on" | "1" => Some(true),
            "false" | "no" | "n" | "off" | "0" => Some(false),
            _ => None,
        })
    }

    pub(super) fn codes(&self, name: &'static str) -> Result<Vec<u16>, BehaviorError> {
        self.read(name, |text, _| {
            let inner = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
            inner
                .split(',')
                .map(|code| code.trim().parse().ok().filter(|code| (200..=599).contains(code)))
                // There are no more than these.
                .collect::<Option<Vec<u16>>>()
                .filter(|codes| codes.len() <= 400)
        })
    }

    /// Which of `values` belongs to the word given; `values` is in the order of the table's words.
    pub(super) fn one_of<T: Copy>(&self, name: &'static str, values: &[T]) -> Result<T, BehaviorError> {
        let spec = self.kind.option(name).expect("the table has the option").0;
        let OptionKind::OneOf(words) = spec.kind else { unreachable!("`{name}` is a choice") };
        assert_eq!(words.len(), values.len(), "one value per word of `{name}`");
        self.read(name, |text, _| words.iter().position(|word| *word == text).map(|index| values[index]))
    }

    /// The error that says `option` cannot be `value`.
    pub(super) fn refuse(&self, option: &'static str, value: &str, expected: &str) -> BehaviorError {
        BehaviorError::BadOption {
            behavior: self.kind.name,
            option,
            value: value.to_owned(),
            expected: expected.to_owned(),
        }
    }
}

/// Reads a duration as [`parse_duration_in`] does, at most [`OPTION_DURATION_MAX`].
pub(super) fn duration(text: &str, bare_unit: &str) -> Option<Duration> {
    parse_duration_in(text, bare_unit).ok().filter(|duration| *duration <= OPTION_DURATION_MAX)
}

fn bytes(text: &str) -> Option<u64> {
    parse_bytes_up_to(text, OPTION_BYTES_MAX).ok()
}

fn rate(text: &str) -> Option<u64> {
    parse_byte_rate(text).filter(|rate| *rate <= OPTION_BYTES_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_need_a_unit_unless_the_old_name_had_one() {
        for (text, unit, expected) in [
            ("150ms", "", Some(Duration::from_millis(150))),
            ("1.5s", "", Some(Duration::from_millis(1500))),
            ("1h30m", "", Some(Duration::from_secs(5400))),
            ("10us", "", Some(Duration::from_micros(10))),
            ("2m", "", Some(Duration::from_secs(120))),
            ("24h", "", Some(OPTION_DURATION_MAX)),
            ("23h60m", "", Some(OPTION_DURATION_MAX)),
            ("0", "", Some(Duration::ZERO)),
            ("2", "s", Some(Duration::from_secs(2))),
            ("2", "ms", Some(Duration::from_millis(2))),
            ("2ms", "s", Some(Duration::from_millis(2))),
            ("2", "", None),
            ("25h", "", None),
            ("24h1ns", "", None),
            ("-1s", "", None),
            ("1.2.3s", "", None),
            ("s", "", None),
            ("", "s", None),
            ("1 parsec", "", None),
            ("99999999999999999999999999s", "", None),
        ] {
            assert_eq!(duration(text, unit), expected, "{text} {unit}");
        }
    }

    #[test]
    fn an_option_says_its_bounds_and_takes_them() {
        for (kind, bound) in [
            (OptionKind::Duration, "24h"),
            (OptionKind::Distribution, "24h"),
            (OptionKind::DurationOrBytes, "24h"),
            (OptionKind::DurationOrBytes, "9000000000GB"),
            (OptionKind::Bytes, "9000000000GB"),
            (OptionKind::Rate, "9000000000GB/s"),
        ] {
            assert!(kind.describe().contains(&format!("up to {bound}")), "{kind:?}: {bound}");
        }
        assert_eq!(duration("24h", ""), Some(OPTION_DURATION_MAX));
        assert_eq!(bytes("9000000000GB"), Some(OPTION_BYTES_MAX));
        assert_eq!(rate("9000000000GB/s"), Some(OPTION_BYTES_MAX));
        assert_eq!((bytes("9000000000000000001B"), rate("9000000000000000001B/s")), (None, None));
    }
}
