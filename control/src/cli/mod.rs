//! The command line: one file per subcommand, each with its `Args` and its `run`.

mod access;
mod address;
mod agent;
mod behavior;
mod capacity;
mod client;
mod controller;
mod demo;
mod doctor;
mod exit;
mod files;
mod habits;
mod joined;
mod load;
mod node;
mod numbers;
mod options;
mod origin;
mod plain;
mod proxy;
mod report;
mod run;
mod signals;
mod times;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

pub use exit::{Stopped, failed};
pub use plain::ended;

/// Finds out what a system does under load while its network and its backends misbehave.
#[derive(Debug, Parser)]
#[command(
    name = "fracas",
    version,
    max_term_width = 110,
    after_help = "\
Exit codes: 0 passed, 1 error, 2 usage, 99 SLO failed, 111 run invalid, 112 never started, 113 refused by policy, \
130 interrupted.

Example: fracas demo
`fracas COMMAND --help` shows an example of each."
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Show everything at once: a server, a proxy, two nodes, a flip mid-run, a report
    Demo(demo::Args),
    /// Stand between client and upstream and break things on purpose
    Proxy(Box<proxy::Args>),
    /// Change what a running proxy does to its traffic
    Behavior(behavior::Args),
    /// Drive load at exact rates and measure every response from the instant it was due
    Load(Box<load::Args>),
    /// Search the highest rate that keeps an SLO
    Capacity(capacity::Args),
    /// Serve fixed replies or echo, as something to test against
    Origin(origin::Args),
    /// Keep the queue of runs and the nodes that drive them
    Controller(controller::Args),
    /// Offer this machine to a controller as a node
    Agent(agent::Args),
    /// Submit, watch and cancel runs on a controller
    Run(run::Args),
    /// List and drain a controller's nodes
    Node(node::Args),
    /// Show and compare run directories
    Report(report::Args),
    /// Say what this kernel offers and what to change
    Doctor(doctor::Args),
}

/// Reads the command line.
///
/// # Errors
/// A usage mistake, or `--help` and `--version`, which are answers as well.
pub fn parse(words: impl IntoIterator<Item = OsString>) -> Result<Command, Stopped> {
    let words: Vec<OsString> = words.into_iter().collect();
    let mut command = Cli::command();
    let parsed = command.try_get_matches_from_mut(&words);
    match parsed.and_then(|matches| Cli::from_arg_matches(&matches)) {
        Ok(cli) => Ok(cli.command),
        Err(error) => Err(Stopped::new(habits::advice(&error, &command, &words), error)),
    }
}

/// Runs one subcommand.
///
/// # Errors
/// Whatever keeps it from its answer; [`failed`] tells which exit code that is.
pub fn run(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Demo(args) => demo::run(args),
        Command::Proxy(args) => proxy::run(*args),
        Command::Behavior(args) => behavior::run(args),
        Command::Load(args) => load::run(*args),
        Command::Capacity(args) => capacity::run(args),
        Command::Origin(args) => origin::run(args),
        Command::Controller(args) => controller::run(args),
        Command::Agent(args) => agent::run(args),
        Command::Run(args) => run::run(args),
        Command::Node(args) => node::run(args),
        Command::Report(args) => report::run(args),
        Command::Doctor(args) => doctor::run(args),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_tree_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_verb_has_an_example_that_it_takes() {
        fn leaves(command: &clap::Command, path: &str, found: &mut Vec<(String, String)>) {
            let subcommands: Vec<_> =
                command.get_subcommands().filter(|verb| verb.get_name() != "help").collect();
            if subcommands.is_empty() {
                let after = command.get_after_help().map(ToString::to_string).unwrap_or_default();
                found.push((path.to_owned(), after));
            }
            subcommands.iter().for_each(|verb| leaves(verb, &format!("{path} {}", verb.get_name()), found));
        }
        let mut found = Vec::new();
        leaves(&Cli::command(), "fracas", &mut found);
        assert!(found.len() > 20, "{found:?}");
        for (path, help) in found {
            let example = help.lines().find_map(|line| line.split_once(&path).map(|(_, rest)| rest));
            let rest = example.unwrap_or_else(|| panic!("`{path} --help` has no example: {help}"));
            // One word after the other; an example of a shell has more behind its first command.
            if path.matches(' ').count() == 2 {
                let words = path.split(' ').chain(rest.split_whitespace());
                let parsed = Cli::command().try_get_matches_from(words);
                assert!(parsed.is_ok(), "{path}{rest}: {}", parsed.unwrap_err());
            }
        }
    }

    #[test]
    fn help_fits_a_screen() {
        let help = Cli::command().render_help().to_string();
        assert!(help.lines().count() <= 40, "{} lines:\n{help}", help.lines().count());
        let widest = help.lines().map(str::len).max().unwrap_or(0);
        assert!(widest <= 110, "{widest} columns:\n{help}");
    }
}
