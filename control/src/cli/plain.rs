//! What the verbs print of texts that others have written: names, reasons, details. A terminal obeys what it is shown, so
//! that a name could clear the screen, or show a line as another one (ECMA-48 §5; Unicode TR 36 §3.1).

use std::borrow::Cow;
use std::io::{ErrorKind, Write};
use std::process::ExitCode;
use std::sync::OnceLock;

use super::exit::{ERROR, without_number};

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

/// A line, or several, on standard output.
pub fn say(text: &str) {
    write(format!("{}\n", plain(text)).as_bytes());
}

/// Bytes on standard output, as they are. What cannot be written is remembered for [`ended`], and no more is tried.
pub fn write(bytes: &[u8]) {
    if LOST.get().is_some() {
        return;
    }
    let mut out = std::io::stdout();
    if let Err(error) = out.write_all(bytes).and_then(|()| out.flush()) {
        let _ = LOST.set(error);
    }
}

/// A line on standard error, where nobody may read any more.
pub fn note(text: &str) {
    let _ = writeln!(std::io::stderr(), "{}", plain(text));
}

/// Whether standard output takes nothing any more: what would only go on printing ends.
pub fn is_unread() -> bool {
    LOST.get().is_some()
}

/// The exit code of a command, after all that it printed. A reader that left (`fracas run list | head -1`) is no failure;
/// an answer that did not arrive, on a full disk, is.
pub fn ended(code: ExitCode) -> ExitCode {
    match LOST.get() {
        // EIO: the terminal is gone, as after SIGHUP.
        Some(error) if error.kind() != ErrorKind::BrokenPipe && error.raw_os_error() != Some(EIO) => {
            note(&format!("fracas: cannot write to standard output: {}", without_number(error.to_string())));
            ExitCode::from(ERROR)
        }
        _ => code,
    }
}

/// errno(3), Linux.
const EIO: i32 = 5;

/// Why the first write failed.
static LOST: OnceLock<std::io::Error> = OnceLock::new();

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
