//! `fracas report`: shows and compares run directories.

use std::process::ExitCode;

/// Flags of `fracas report`.
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Runs `fracas report`.
///
/// # Errors
/// Always: it is not built yet.
pub fn run(_: Args) -> anyhow::Result<ExitCode> {
    anyhow::bail!("`fracas report` is not built yet")
}
