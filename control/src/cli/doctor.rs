//! `fracas doctor`: what the kernel offers.

use std::process::ExitCode;

/// Flags of `fracas doctor`.
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Runs `fracas doctor`.
///
/// # Errors
/// Always: it is not built yet.
pub fn run(_: Args) -> anyhow::Result<ExitCode> {
    anyhow::bail!("`fracas doctor` is not built yet")
}
