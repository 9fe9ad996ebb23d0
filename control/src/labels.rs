//! Labels: free words for people and lists, on runs and on nodes, within limits.

use std::collections::BTreeMap;

/// Labels of one thing.
const COUNT_MAX: usize = 64;
const NAME_BYTES_MAX: usize = 64;
const VALUE_BYTES_MAX: usize = 256;

/// The limits in words.
pub const LIMITS: &str =
    "64 labels with names of at most 64 bytes and values of at most 256, without control characters";

/// Checks labels.
///
/// # Errors
/// The name of a label that is too long, or nothing when there are too many.
pub fn check(labels: &BTreeMap<String, String>) -> Result<(), Option<&str>> {
    if labels.len() > COUNT_MAX {
        return Err(None);
    }
    let is_wrong = |(name, value): &(&String, &String)| {
        name.len() > NAME_BYTES_MAX
            || value.len() > VALUE_BYTES_MAX
            || name.contains(char::is_control)
            || value.contains(char::is_control)
    };
    match labels.iter().find(is_wrong) {
        Some((name, _)) => Err(Some(name)),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_have_limits_in_number_and_bytes() {
        let of = |count: usize, name: usize, value: usize| {
            (0..count).map(|index| (format!("{index:0name$}"), "v".repeat(value))).collect::<BTreeMap<_, _>>()
        };
        for (count, name, value, fits) in
            [(0, 1, 0, true), (64, 64, 256, true), (65, 1, 1, false), (1, 65, 1, false), (1, 1, 257, false)]
        {
            assert_eq!(check(&of(count, name, value)).is_ok(), fits, "{count} {name} {value}");
        }
        for (name, value) in [("a\n", "b"), ("a", "\u{1b}[2J"), ("a", "b\u{9b}2J")] {
            let labels = BTreeMap::from([(name.to_owned(), value.to_owned())]);
            assert_eq!(check(&labels), Err(Some(name)), "{labels:?}");
        }
    }
}
