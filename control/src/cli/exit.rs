//! How a command ends: exit codes, and errors as one line on stderr.

use std::fmt;
use std::process::ExitCode;

use super::plain::note;

/// Something went wrong while running.
pub const ERROR: u8 = 1;
/// The command line or a config file is wrong.
pub const USAGE: u8 = 2;
/// The run finished and broke an SLO.
pub const SLO_FAILED: u8 = 99;
/// The run finished and its figures cannot be trusted.
pub const INVALID: u8 = 111;
/// The run waited in vain for something that could carry it out.
pub const NEVER_STARTED: u8 = 112;
/// What was asked for is forbidden here.
pub const REFUSED: u8 = 113;
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

/// Something that the owner of the process has not allowed: exit code 113.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct PolicyError(pub String);

impl PolicyError {
    /// The refusal as an error to return.
    pub fn because(message: impl fmt::Display) -> anyhow::Error {
        PolicyError(message.to_string()).into()
    }
}

/// Parsing ended before a command was found: help, version or a mistake.
#[derive(Debug)]
pub struct Stopped {
    error: clap::Error,
    advice: Option<String>,
}

impl Stopped {
    /// By clap's answer; `advice` is said in place of a mistake that is known better here.
    pub fn new(advice: Option<String>, error: clap::Error) -> Stopped {
        Stopped { error, advice }
    }

    /// Prints the answer or the mistake and gives the exit code.
    pub fn report(self) -> ExitCode {
        use clap::error::ErrorKind;
        match self.error.kind() {
            ErrorKind::DisplayHelp
            | ErrorKind::DisplayVersion
            | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
                let help_was_asked = !self.error.use_stderr();
                // A closed pipe (`fracas --help | head -1`) is no failure.
                let _ = self.error.print();
                if help_was_asked { ExitCode::SUCCESS } else { ExitCode::from(USAGE) }
            }
            _ => {
                let line = self.advice.unwrap_or_else(|| one_line(&self.error));
                note(&format!("fracas: {line}; see --help"));
                ExitCode::from(USAGE)
            }
        }
    }
}

/// Prints an error with its causes as one line and gives the exit code.
pub fn failed(error: &anyhow::Error) -> ExitCode {
    note(&format!("fracas: {}", with_causes(error).replace('\n', " ")));
    ExitCode::from(if error.downcast_ref::<UsageError>().is_some() {
        USAGE
    } else if error.downcast_ref::<PolicyError>().is_some() {
        REFUSED
    } else {
        ERROR
    })
}

/// An error and its causes, each said once: some errors already end with their cause. The number that the kernel has
/// for a reason stands behind its words, and tells nobody anything.
fn with_causes(error: &anyhow::Error) -> String {
    let mut line = String::new();
    for cause in error.chain().map(|cause| without_number(cause.to_string())) {
        match line.as_str() {
            "" => line = cause,
            said if said.ends_with(&cause) => {}
            _ => line = format!("{line}: {cause}"),
        }
    }
    line
}

/// `Connection refused (os error 111)` → `Connection refused`.
pub fn without_number(mut text: String) -> String {
    while let Some(start) = text.find(" (os error ") {
        let Some(length) = text[start..].find(')') else { break };
        text.replace_range(start..=start + length, "");
    }
    text
}

/// clap's answer without its usage block: the mistake and its hint.
fn one_line(error: &clap::Error) -> String {
    let text = error.render().to_string();
    let mut line = String::new();
    for part in text.lines().map(str::trim) {
        let is_about_help = part.starts_with("Usage:") || part.starts_with("For more");
        match part.strip_prefix("tip: ") {
            _ if part.is_empty() || is_about_help => {}
            Some(tip) => line += &format!("; {tip}"),
            None if line.is_empty() => line += part.strip_prefix("error: ").unwrap_or(part),
            None => line += &format!(" {part}"),
        }
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_of_a_reason_is_left_away() {
        let error = anyhow::anyhow!("Connection refused (os error 111); is it running?")
            .context("no answer (os error 1");
        assert_eq!(with_causes(&error), "no answer (os error 1: Connection refused; is it running?");
    }

    #[test]
    fn a_cause_that_was_said_is_not_said_again() {
        let error = anyhow::anyhow!("address in use").context("cannot listen: address in use");
        assert_eq!(with_causes(&error.context("no API")), "no API: cannot listen: address in use");
    }
}
