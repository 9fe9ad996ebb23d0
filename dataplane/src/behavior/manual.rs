//! The manual's tables, made from [`KINDS`].

use std::fmt::Write as _;

use super::KINDS;

/// The reference of all behaviors, as Markdown.
pub fn behaviors_table() -> String {
    let mut table =
        String::from("| behavior | what it does | options (default; an example) |\n|---|---|---|\n");
    for kind in KINDS {
        let mut name = format!("`{}`", kind.name);
        if !kind.aliases.is_empty() {
            let _ = write!(name, " ({})", kind.aliases.join(", "));
        }
        let built = if kind.built { "" } else { "; *not built yet*" };
        let options: Vec<String> = kind
            .options
            .iter()
            .map(|spec| {
                let default = match spec.default {
                    "" => "needed".to_owned(),
                    default => format!("default `{default}`"),
                };
                format!("`{}`: {} ({default}; `{}`)", spec.name, spec.doc, spec.example)
            })
            .collect();
        let options = if options.is_empty() { "–".to_owned() } else { options.join("<br>") };
        let _ = writeln!(table, "| {name} | {}{built} | {options} |", kind.summary);
    }
    table
}

/// When a change to or from each built behavior reaches a live connection, as Markdown.
pub fn live_changes_table() -> String {
    let mut table = String::from(
        "| behavior | plain bytes | http | what is under way when it is lifted |\n|---|---|---|---|\n",
    );
    for kind in KINDS.iter().filter(|kind| kind.built) {
        let change = kind.live_change;
        let lifted = if kind.lifted.is_empty() { "–" } else { kind.lifted };
        let _ = writeln!(
            table,
            "| `{}` | {} | {} | {lifted} |",
            kind.name,
            change.bytes.words(),
            change.messages.words()
        );
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_manual_holds_these_tables() {
        let manual = include_str!("../../README.md");
        for (name, table) in [("behaviors", behaviors_table()), ("live changes", live_changes_table())] {
            let (begin, end) = (format!("<!-- {name}: begin -->\n"), format!("<!-- {name}: end -->"));
            let found =
                manual.split(&begin).nth(1).and_then(|rest| rest.split(&end).next()).expect("both marks");
            assert_eq!(found, table, "put this between the marks of README.md:\n{table}");
        }
    }
}
