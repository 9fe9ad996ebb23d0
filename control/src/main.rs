//! `fracas`: parse, run one subcommand, turn its answer into an exit code.

// `print!` panics when a reader has left: [`cli::plain`] does not.
#![deny(clippy::print_stdout, clippy::print_stderr)]

mod agent;
mod checked;
mod cli;
mod clock_map;
mod controller;
mod durations;
mod execution;
mod fault_story;
mod grpc;
mod labels;
mod lookup;
mod node_registry;
mod outwaited;
mod pace;
mod prometheus;
mod run;
mod run_queue;
mod run_report;
mod session;
mod statsd;
mod store;
mod wire;

use std::process::ExitCode;

fn main() -> ExitCode {
    let command = match cli::parse(std::env::args_os()) {
        Ok(command) => command,
        Err(stopped) => return stopped.report(),
    };
    let code = cli::run(command).unwrap_or_else(|error| cli::failed(&error));
    cli::ended(code)
}
