//! `fracas behavior`: changes a running proxy.

use std::process::ExitCode;

/// Flags of `fracas behavior`.
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Runs `fracas behavior`.
///
/// # Errors
/// Always: it is not built yet.
pub fn run(_: Args) -> anyhow::Result<ExitCode> {
    anyhow::bail!("`fracas behavior` is not built yet")
}
