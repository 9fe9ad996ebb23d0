//! `fracas proxy`: breaks traffic on purpose.

use std::process::ExitCode;

/// Flags of `fracas proxy`.
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Runs `fracas proxy`.
///
/// # Errors
/// Always: it is not built yet.
pub fn run(_: Args) -> anyhow::Result<ExitCode> {
    anyhow::bail!("`fracas proxy` is not built yet")
}
