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
pub struct Stopped(clap::Error);

impl From<clap::Error> for Stopped {
    fn from(error: clap::Error) -> Stopped {
        Stopped(error)
    }
}

impl Stopped {
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
                eprintln!("fracas: {}", one_line(&self.0));
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
fn one_line(error: &clap::Error) -> String {
    let text = error.render().to_string();
    let parts: Vec<&str> = text
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with("Usage:") && !line.starts_with("For more"))
        .collect();
    let line = parts.join(" ");
    format!("{}; see --help", line.strip_prefix("error: ").unwrap_or(&line))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cause_that_was_said_is_not_said_again() {
        let error = anyhow::anyhow!("address in use").context("cannot listen: address in use");
        assert_eq!(with_causes(&error.context("no API")), "no API: cannot listen: address in use");
    }
}
