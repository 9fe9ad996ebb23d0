//! `fracas`: parse, run one subcommand, turn its answer into an exit code.

mod agent;
mod checked;
mod cli;
mod clock_map;
mod controller;
mod execution;
mod fault_story;
mod grpc;
mod labels;
mod lookup;
mod node_registry;
mod outwaited;
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
    match cli::run(command) {
        Ok(code) => code,
        Err(error) => cli::failed(&error),
    }
}
