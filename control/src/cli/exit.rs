//! How a command ends: exit codes, and errors as one line on stderr.

use std::fmt;
use std::process::ExitCode;

/// Something went wrong while running.
pub const ERROR: u8 = 1;
/// The command line or a config file is wrong.
pub const USAGE: u8 = 2;
/// The run finished and broke an SLO.
pub const SLO_FAILED: u8 = 99;
/// The run finished and its figures cannot be trusted.
pub const INVALID: u8 = 111;
/// Ctrl-C ended it.
pub const INTERRUPTED: u8 = 130;

/// A mistake in the command line or in a config file: exit code 2.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct UsageError(pub String);

impl UsageError {
    /// The mistake as an error to return.
    pub fn because(message: impl fmt::Display) -> anyhow::Error {
        UsageError(message.to_string()).into()
    }
}

/// Parsing ended before a command was found: help, version or a mistake.
#[derive(Debug)]
pub struct Stopped(clap::Error, Option<String>);

impl From<clap::Error> for Stopped {
    fn from(error: clap::Error) -> Stopped {
        Stopped(error, None)
    }
}

impl Stopped {
    /// That of a command line which begins with this subcommand: its habits are known.
    pub fn of(error: clap::Error, subcommand: Option<String>) -> Stopped {
        Stopped(error, subcommand)
    }

    /// Prints the answer or the mistake and gives the exit code.
    pub fn report(self) -> ExitCode {
        use clap::error::ErrorKind;
        match self.0.kind() {
            ErrorKind::DisplayHelp
            | ErrorKind::DisplayVersion
            | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
                let help_was_asked = !self.0.use_stderr();
                // A closed pipe (`fracas --help | head -1`) is no failure.
                let _ = self.0.print();
                if help_was_asked { ExitCode::SUCCESS } else { ExitCode::from(USAGE) }
            }
            _ => {
                eprintln!("fracas: {}", one_line(&self.0, self.1.as_deref()));
                ExitCode::from(USAGE)
            }
        }
    }
}

/// Prints an error with its causes as one line and gives the exit code.
pub fn failed(error: &anyhow::Error) -> ExitCode {
    eprintln!("fracas: {}", with_causes(error).replace('\n', " "));
    ExitCode::from(if error.downcast_ref::<UsageError>().is_some() { USAGE } else { ERROR })
}

/// An error and its causes, each said once: some errors already end with their cause.
fn with_causes(error: &anyhow::Error) -> String {
    let mut line = String::new();
    for cause in error.chain().map(ToString::to_string) {
        match line.as_str() {
            "" => line = cause,
            said if said.ends_with(&cause) => {}
            _ => line = format!("{line}: {cause}"),
        }
    }
    line
}

/// clap's answer without its usage block: the mistake, its hint, and where help is.
fn one_line(error: &clap::Error, subcommand: Option<&str>) -> String {
    use clap::error::{ContextKind, ContextValue, ErrorKind};
    let wrong = match error.get(ContextKind::InvalidArg) {
        Some(ContextValue::String(flag)) if error.kind() == ErrorKind::UnknownArgument => flag,
        _ => "",
    };
    if let Some(hint) = subcommand.and_then(|subcommand| habit(subcommand, wrong)) {
        return format!("{wrong} is no flag of `fracas {}`: {hint}", subcommand.unwrap_or_default());
    }
    let text = error.render().to_string();
    let parts: Vec<&str> = text
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with("Usage:") && !line.starts_with("For more"))
        .collect();
    let line = parts.join(" ");
    format!("{}; see --help", line.strip_prefix("error: ").unwrap_or(&line))
}

/// What a flag of wrk, hey, ab, curl, k6 or vegeta is called here; `None` for what nobody is used to.
fn habit(subcommand: &str, flag: &str) -> Option<&'static str> {
    if !["load", "capacity"].contains(&subcommand) {
        return None;
    }
    let flag = flag.split('=').next().unwrap_or_default();
    Some(match flag {
        "-R" | "--qps" | "--rps" | "--requests-per-second" if subcommand == "load" => {
            "a rate is -r RATE, such as -r 500 or -r 20k/s"
        }
        "-R" | "-r" | "--rate" | "--qps" | "--rps" => "rates are searched between --from RATE and --max RATE",
        "--data" | "--data-raw" | "--data-binary" | "--post-data" | "-D" if subcommand == "load" => {
            "a body is --body TEXT, or --body-file FILE"
        }
        "--vus" | "--users" | "-u" | "--concurrency" | "--clients" => {
            "it is -c COUNT; without a rate each connection is a user"
        }
        "-o" | "--output" | "--format" => {
            "a run directory is --out DIR; --json prints the run as JSON on standard output"
        }
        "-q" | "--quiet" | "--silent" => {
            "progress goes to standard error: add 2>/dev/null, or --json for programs"
        }
        "-z" | "--time" | "--length" if subcommand == "load" => "it is -d TIME, such as -d 30s",
        "-z" | "-d" | "--time" | "--duration" => "each probe lasts --probe TIME, such as --probe 10s",
        "--latency" | "--percentiles" => "percentiles are always shown; leave it away",
        "--url" | "--target" => "the target stands by itself, without a flag",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn habits_from_other_tools_are_told_the_right_flag() {
        let refusal = |words: &[&str]| {
            let words = ["fracas"].iter().chain(words).map(|word| (*word).into());
            let stopped = crate::cli::parse(words).err().expect("refused");
            one_line(&stopped.0, stopped.1.as_deref())
        };
        for (words, part) in [
            (&["load", ":1", "-R", "500"][..], "-R is no flag of `fracas load`: a rate is -r RATE"),
            (&["load", ":1", "--data", "x"], "a body is --body TEXT"),
            (&["load", ":1", "--data=x"], "a body is --body TEXT"),
            (&["load", ":1", "--vus", "5"], "it is -c COUNT"),
            (&["load", ":1", "--users", "5"], "it is -c COUNT"),
            (&["load", ":1", "-o", "json"], "--json prints the run"),
            (&["load", ":1", "-q"], "progress goes to standard error"),
            (&["load", "-z", "5s", ":1"], "it is -d TIME"),
            (&["capacity", ":1", "--slo", "p99<1s", "-r", "500"], "between --from RATE and --max RATE"),
            (&["capacity", ":1", "--slo", "p99<1s", "-d", "5s"], "--probe TIME"),
            (&["load", ":1", "--rat", "5"], "--rate"),
            (&["load", ":1", "--nonsense"], "see --help"),
        ] {
            let line = refusal(words);
            assert!(line.contains(part), "{words:?}: {line}");
        }
    }

    #[test]
    fn a_cause_that_was_said_is_not_said_again() {
        let error = anyhow::anyhow!("address in use").context("cannot listen: address in use");
        assert_eq!(with_causes(&error.context("no API")), "no API: cannot listen: address in use");
    }
}
