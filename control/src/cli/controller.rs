//! `fracas controller`: the queue of runs and its nodes.

use std::process::ExitCode;

/// Flags of `fracas controller`.
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Runs `fracas controller`.
///
/// # Errors
/// Always: it is not built yet.
pub fn run(_: Args) -> anyhow::Result<ExitCode> {
    anyhow::bail!("`fracas controller` is not built yet")
}
