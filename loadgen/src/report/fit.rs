//! Text on a terminal that is narrower than it: lines end between words, and go on below their own text.

/// Units that stay on the line of their number.
const UNITS: [&str; 10] = ["ns", "µs", "ms", "s", "min", "h", "%", "B", "KiB", "MiB"];
/// Where a line goes on.
const INDENT: usize = 10;
/// In a terminal that is narrower, there is no room for that.
const ROOMY_FROM: usize = 50;

/// Breaks every line that is wider than so many columns.
pub(super) fn fit(text: &str, columns: usize) -> String {
    let mut out = String::with_capacity(text.len() + text.len() / 8);
    for line in text.lines() {
        if width(line) <= columns {
            out.push_str(line);
        } else {
            wrap(&mut out, line, columns.max(20));
        }
        out.push('\n');
    }
    out
}

fn wrap(out: &mut String, line: &str, columns: usize) {
    let is_labelled = line.chars().nth(INDENT - 1) == Some(' ') && !line.starts_with("  b");
    let indent = if is_labelled && columns >= ROOMY_FROM { INDENT } else { 4 };
    let mut used = 0;
    let mut rest = line;
    while !rest.is_empty() {
        let (blank, word, behind) = next_word(rest);
        rest = behind;
        let long = width(word);
        if used > 0 && used + blank + long > columns {
            out.push('\n');
            out.push_str(&" ".repeat(indent));
            used = indent;
        } else {
            out.push_str(&" ".repeat(blank));
            used += blank;
        }
        if used + long <= columns {
            out.push_str(word);
            used += long;
            continue;
        }
        // A word that fits no line, such as a long address.
        for letter in word.chars() {
            if used == columns {
                out.push('\n');
                out.push_str(&" ".repeat(indent));
                used = indent;
            }
            out.push(letter);
            used += 1;
        }
    }
}

/// The spaces before the next word, the word, with the unit behind it, and what follows.
fn next_word(text: &str) -> (usize, &str, &str) {
    let word_at = text.len() - text.trim_start_matches(' ').len();
    let end_of = |from: usize| text[from..].find(' ').map_or(text.len(), |at| from + at);
    let mut end = end_of(word_at);
    let has_number = text[word_at..end].bytes().any(|byte| byte.is_ascii_digit());
    if has_number && end < text.len() {
        let unit = &text[end + 1..end_of(end + 1)];
        if UNITS.contains(&unit.trim_end_matches([',', ';', ')', '*', '.'])) {
            end = end_of(end + 1);
        }
    }
    (word_at, &text[word_at..end], &text[end..])
}

/// Columns that a text takes: a colour takes none.
fn width(text: &str) -> usize {
    let mut in_colour = false;
    let is_seen = |letter: char| match (in_colour, letter) {
        (false, '\x1b') => {
            in_colour = true;
            false
        }
        (true, letter) => {
            in_colour = letter != 'm';
            false
        }
        (false, _) => true,
    };
    text.chars().map(is_seen).filter(|is_seen| *is_seen).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_end_between_words_and_go_on_below_their_text() {
        for (columns, text, expected) in [
            (60, "short", "short\n"),
            (
                50,
                "requests  18,000 planned = 17,999 sent + 1 dropped or so",
                "requests  18,000 planned = 17,999 sent + 1 dropped\n          or so\n",
            ),
            (
                40,
                "requests  18,000 planned = 17,999 sent + 1 dropped",
                "requests  18,000 planned = 17,999 sent +\n    1 dropped\n",
            ),
            (20, "  because one two three four", "  because one two\n    three four\n"),
            // A number keeps its unit.
            (21, "it stood still for 10 ms, twice", "it stood still for\n    10 ms, twice\n"),
            // What fits no line is cut.
            (20, "http://a-very-long-name.example/", "http://a-very-long-n\n    ame.example/\n"),
            // A colour takes no room.
            (20, "\x1b[1;32mVALID\x1b[0m  twelve more.", "\x1b[1;32mVALID\x1b[0m  twelve more.\n"),
        ] {
            assert_eq!(fit(text, columns), expected, "{columns}: {text}");
        }
    }
}
