//! What the verbs print of texts that others have written: names, reasons, details. A terminal obeys what it is shown, so
//! that a name could clear the screen, or show a line as another one (ECMA-48 §5; Unicode TR 36 §3.1).

use std::borrow::Cow;
use std::io::Write;

/// Whether a terminal would do something else with it than show it where it stands.
fn is_order(c: char) -> bool {
    let turns_the_line =
        matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    (c.is_control() && c != '\n') || turns_the_line
}

/// The text with every order to the terminal written out: `\u{1b}[2J`. Lines stay.
pub fn plain(text: &str) -> Cow<'_, str> {
    if !text.contains(is_order) {
        return Cow::Borrowed(text);
    }
    let shown = |c: char| if is_order(c) { c.escape_default().to_string() } else { c.to_string() };
    Cow::Owned(text.chars().map(shown).collect())
}

/// A line, or several, on standard output; a reader that left (`fracas run list | head -1`) is no failure.
pub fn say(text: &str) {
    let _ = writeln!(std::io::stdout(), "{}", plain(text));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_is_shown_is_an_order_to_the_terminal() {
        for (text, shown) in [
            ("plain → ü\nsecond", "plain → ü\nsecond"),
            ("\u{1b}[2Jx", "\\u{1b}[2Jx"),
            ("a\u{9b}2Jb\u{7f}", "a\\u{9b}2Jb\\u{7f}"),
            ("a\rb\tc\u{7}", "a\\rb\\tc\\u{7}"),
            ("a\u{202e}b\u{2066}", "a\\u{202e}b\\u{2066}"),
        ] {
            assert_eq!(plain(text), shown);
        }
    }
}
