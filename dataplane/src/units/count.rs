//! Numbers without a unit of their own: `500` things, `0.5%` of them.

use super::decimal::is_decimal;

/// Reads a whole number of things, up to 2⁶⁴ − 1: digits alone, as a run file has them, no letter and no sign. What it may
/// be is for the caller to say.
pub fn parse_count(text: &str) -> Option<u64> {
    let text = text.trim();
    // The parser of the standard library takes a sign, too.
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

/// Reads per cent: `5%` is 5.0. A bare number has `bare_unit`: with `"%"` it is per cent, too, and with `""` it is
/// refused, since elsewhere it would be a share of one.
///
/// Never below 0, nor infinite; whether it may be above 100 is for the caller to say.
pub fn parse_percent(text: &str, bare_unit: &str) -> Option<f64> {
    let text = text.trim();
    let number = match text.strip_suffix('%') {
        Some(number) => number.trim_end(),
        None if bare_unit == "%" => text,
        None => return None,
    };
    // A float would take `inf`, `1e1` and signs as well.
    is_decimal(number).then(|| number.parse::<f64>().ok()).flatten().filter(|percent| percent.is_finite())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_count_is_whole() {
        for (text, expected) in [
            ("0", Some(0)),
            (" 500 ", Some(500)),
            ("18446744073709551615", Some(u64::MAX)),
            ("18446744073709551616", None),
            ("20k", None),
            ("1.5", None),
            ("7.", None),
            ("1e3", None),
            ("1,000", None),
            ("-1", None),
            ("+1", None),
            ("", None),
        ] {
            assert_eq!(parse_count(text), expected, "{text}");
        }
    }

    #[test]
    fn a_percentage_has_its_sign_unless_nothing_else_can_be_meant() {
        for (text, signed, bare) in [
            ("5%", Some(5.0), Some(5.0)),
            (" 0.5 % ", Some(0.5), Some(0.5)),
            (".5%", Some(0.5), Some(0.5)),
            ("101%", Some(101.0), Some(101.0)),
            ("5", None, Some(5.0)),
            ("20%%", None, None),
            ("%", None, None),
            ("", None, None),
            ("-1%", None, None),
            ("-0%", None, None),
            ("+1%", None, None),
            ("1e1%", None, None),
            ("NaN%", None, None),
            ("inf%", None, None),
            ("5pct", None, None),
        ] {
            assert_eq!((parse_percent(text, ""), parse_percent(text, "%")), (signed, bare), "{text}");
        }
        assert_eq!(parse_percent(&format!("{}%", "9".repeat(400)), ""), None);
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back(count in any::<u64>(), percent in 0.0..=100.0_f64) {
            prop_assert_eq!(parse_count(&count.to_string()), Some(count));
            prop_assert_eq!(parse_percent(&format!("{percent}%"), ""), Some(percent));
        }

        #[test]
        fn any_text_is_read_or_refused_without_a_panic(text in "\\PC{0,24}") {
            let _ = (parse_count(&text), parse_percent(&text, ""), parse_percent(&text, "%"));
        }
    }
}
