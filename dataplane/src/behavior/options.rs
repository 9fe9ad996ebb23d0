//! Reads the options of behaviors: text with units → numbers that cannot be wrong, errors that name the option.
//!
//! The CLI, the config and the API all hand over `(option, text)` pairs; this file gives them meaning.

use std::collections::BTreeMap;
use std::time::Duration;

use super::delay::Distribution;
use super::{BehaviorError, Kind};
use crate::nearest::nearest;

/// The longest duration an option takes.
pub const OPTION_DURATION_MAX: Duration = Duration::from_secs(24 * 60 * 60);

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
    /// `150ms`, `1.5s`, `2m`.
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
        self.read(name, |text, _| text.parse().ok())
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

/// Reads `150ms`, `1.5s`, `2m`, `1h`, `10us`; a bare number has `bare_unit`, or is refused when that is empty
/// (except 0). At most [`OPTION_DURATION_MAX`].
pub fn duration(text: &str, bare_unit: &str) -> Option<Duration> {
    let (number, unit) = split_unit(text.trim())?;
    let unit = if unit.is_empty() { bare_unit } else { unit };
    let seconds = match unit {
        "ns" => number / 1e9,
        "us" | "µs" => number / 1e6,
        "ms" => number / 1e3,
        "s" => number,
        "m" | "min" => number * 60.0,
        "h" => number * 3600.0,
        "" if number == 0.0 => 0.0,
        _ => return None,
    };
    Duration::try_from_secs_f64(seconds).ok().filter(|duration| *duration <= OPTION_DURATION_MAX)
}

/// Reads `1000`, `64KiB`, `1MB`: decimal (`k`, `kB`, `MB`, `GB`) and binary (`KiB`, `MiB`, `GiB`) units.
pub fn bytes(text: &str) -> Option<u64> {
    let (number, unit) = split_unit(text.trim())?;
    let factor = match unit {
        "" | "B" => 1.0,
        "k" | "kB" | "KB" => 1e3,
        "M" | "MB" => 1e6,
        "G" | "GB" => 1e9,
        "KiB" => 1024.0,
        "MiB" => 1024.0 * 1024.0,
        "GiB" => 1024.0 * 1024.0 * 1024.0,
        _ => return None,
    };
    whole(number * factor)
}

/// Reads bytes per second: `1MB/s`, `64KiB/s`, `8Mbit/s`; 0 needs no unit.
pub fn rate(text: &str) -> Option<u64> {
    let text = text.trim();
    let Some(amount) = text.strip_suffix("/s") else {
        return (text == "0").then_some(0);
    };
    let amount = amount.trim_end();
    match amount.strip_suffix("bit") {
        Some(bits) => {
            let (number, unit) = split_unit(bits)?;
            let factor = match unit {
                "" => 1.0,
                "k" | "K" => 1e3,
                "M" => 1e6,
                "G" => 1e9,
                _ => return None,
            };
            whole(number * factor / 8.0)
        }
        None => bytes(amount),
    }
}

/// Splits `1.5ms` into 1.5 and `ms`; `None` without a finite number ≥ 0 in front.
fn split_unit(text: &str) -> Option<(f64, &str)> {
    let end = text.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(text.len());
    let number: f64 = text[..end].parse().ok()?;
    number.is_finite().then_some((number, text[end..].trim()))
}

fn whole(number: f64) -> Option<u64> {
    (0.0..9e18).contains(&number).then_some(number as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_need_a_unit_unless_the_old_name_had_one() {
        for (text, unit, expected) in [
            ("150ms", "", Some(Duration::from_millis(150))),
            ("1.5s", "", Some(Duration::from_millis(1500))),
            ("10us", "", Some(Duration::from_micros(10))),
            ("2m", "", Some(Duration::from_secs(120))),
            ("24h", "", Some(OPTION_DURATION_MAX)),
            ("0", "", Some(Duration::ZERO)),
            ("2", "s", Some(Duration::from_secs(2))),
            ("2", "ms", Some(Duration::from_millis(2))),
            ("2ms", "s", Some(Duration::from_millis(2))),
            ("2", "", None),
            ("25h", "", None),
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
    fn rates_are_bytes_or_bits_per_second() {
        for (text, expected) in [
            ("1MB/s", Some(1_000_000)),
            ("64KiB/s", Some(65_536)),
            ("8Mbit/s", Some(1_000_000)),
            ("9600bit/s", Some(1200)),
            ("20k/s", Some(20_000)),
            ("0", Some(0)),
            ("0/s", Some(0)),
            ("1.5 kB/s", Some(1500)),
            ("100", None),
            ("1MB", None),
            ("1XB/s", None),
            ("-1MB/s", None),
            ("99999999999GB/s", None),
        ] {
            assert_eq!(rate(text), expected, "{text}");
        }
    }
}
