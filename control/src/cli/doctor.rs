//! `fracas doctor`: what this machine offers, and what to change.

use std::process::ExitCode;

use fracas_dataplane::ring::{Finding, Health, examine};
use serde_json::json;

use super::plain;

/// Flags of `fracas doctor`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example: fracas doctor --json | jq '.findings[] | select(.health != \"good\")'")]
pub struct Args {
    /// One JSON document instead of a table
    #[arg(long)]
    json: bool,
}

/// Runs `fracas doctor`: success if fracas works here.
///
/// # Errors
/// None: what is wrong is the answer.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let findings = examine();
    let usable = findings.iter().all(|finding| finding.health != Health::Missing);
    let text = if args.json { as_json(&findings, usable) } else { as_table(&findings, usable) };
    plain::write(text.as_bytes());
    Ok(if usable { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn word(health: Health) -> &'static str {
    match health {
        Health::Good => "good",
        Health::Limited => "limited",
        Health::Missing => "missing",
    }
}

fn as_json(findings: &[Finding], usable: bool) -> String {
    let findings: Vec<_> = findings
        .iter()
        .map(|f| json!({"what": f.what.trim(), "found": f.found, "health": word(f.health), "advice": f.advice}))
        .collect();
    format!("{:#}\n", json!({"usable": usable, "findings": findings}))
}

fn as_table(findings: &[Finding], usable: bool) -> String {
    let wide = |of: fn(&Finding) -> usize| findings.iter().map(of).max().unwrap_or(0);
    // An explanation of what is missing may be a sentence: it takes the rest of its line.
    let (what, found) = (wide(|f| f.what.len()), wide(|f| f.found.len()).min(20));
    let mut table = String::new();
    for Finding { what: name, found: value, health, advice } in findings {
        let mark = match health {
            Health::Good => "ok ",
            Health::Limited => "!  ",
            Health::Missing => "NO ",
        };
        table += &format!("{mark} {name:what$}  {value:found$}  {advice}\n");
    }
    let limited = findings.iter().filter(|finding| finding.health == Health::Limited).count();
    table += &match (usable, limited) {
        (true, 0) => "\nfracas works here, with everything it can use.\n".to_owned(),
        (true, 1) => "\nfracas works here; the line with `!` names a limit.\n".to_owned(),
        (true, count) => format!("\nfracas works here; {count} lines with `!` name limits.\n"),
        (false, _) => "\nfracas cannot run here: see the line with NO.\n".to_owned(),
    };
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finding(found: &str, health: Health) -> Finding {
        Finding { what: "io_uring", found: found.to_owned(), health, advice: "do this" }
    }

    #[test]
    fn what_is_missing_is_said_at_the_end() {
        let table = as_table(&[finding("EPERM", Health::Missing)], false);
        assert!(
            table.starts_with("NO  io_uring  EPERM  do this\n") && table.contains("cannot run here"),
            "{table}"
        );
        assert!(as_table(&[finding("usable", Health::Limited)], true).contains("names a limit"));
    }

    #[test]
    fn the_json_says_whether_it_is_usable() {
        let value: serde_json::Value =
            serde_json::from_str(&as_json(&[finding("usable", Health::Good)], true)).expect("JSON");
        assert_eq!((&value["usable"], &value["findings"][0]["health"]), (&json!(true), &json!("good")));
    }
}
