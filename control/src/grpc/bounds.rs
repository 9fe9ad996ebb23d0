//! How many entries the lists of a request may have, and how many bytes its texts. Asked before anything is made of them;
//! what stays behind is counted where it is kept.

use std::collections::HashSet;

use tonic::Status;

use super::refusal::invalid;

/// Names of proxies in one call.
pub const NAMES_MAX: usize = 4_096;
/// Options of one behavior, and behaviors that have options.
pub const OPTIONS_MAX: usize = 64;
/// Bytes of the text of one option; the longest that means something is a list of all status codes.
pub const OPTION_BYTES_MAX: usize = 4_096;

/// Refuses a list that has more entries than `most`.
///
/// # Errors
/// One line with the field.
pub fn check_count(field: &str, count: usize, most: usize) -> Result<(), Status> {
    match count > most {
        true => Err(invalid(field, format!("{count} entries are too many; give at most {most}"))),
        false => Ok(()),
    }
}

/// Refuses a text that has more bytes than `most`, or that would not stay on its line: such texts are shown to people.
///
/// # Errors
/// One line with the field.
pub fn check_text(field: &str, text: &str, most: usize) -> Result<(), Status> {
    if text.len() > most {
        return Err(invalid(field, format!("too long; at most {most} bytes")));
    }
    match text.contains(char::is_control) {
        true => Err(invalid(field, "has a control character, such as a line break; leave it out")),
        false => Ok(()),
    }
}

/// Names without repeats, in their order.
///
/// # Errors
/// When there are more than [`NAMES_MAX`].
pub fn distinct(field: &str, names: Vec<String>) -> Result<Vec<String>, Status> {
    check_count(field, names.len(), NAMES_MAX)?;
    let mut seen = HashSet::new();
    Ok(names.into_iter().filter(|name| seen.insert(name.clone())).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_and_texts_are_measured_before_they_are_used() {
        assert!(check_count("names", 4, 4).is_ok());
        let many = check_count("names", 5, 4).unwrap_err();
        assert_eq!(many.message(), "names: 5 entries are too many; give at most 4");
        for (text, fits) in [
            ("", true),
            ("abcd", true),
            ("abcde", false),
            ("a\nb", false),
            ("\u{1b}[2", false),
            ("\u{9b}2", false),
        ] {
            assert_eq!(check_text("owner", text, 4).is_ok(), fits, "{text:?}");
        }
    }

    #[test]
    fn a_name_that_is_repeated_counts_once() {
        let names = |count: usize| (0..count).map(|number| format!("p{}", number % 3)).collect::<Vec<_>>();
        assert_eq!(distinct("proxies", names(NAMES_MAX)).unwrap(), ["p0", "p1", "p2"]);
        assert!(distinct("proxies", names(NAMES_MAX + 1)).is_err());
    }
}
