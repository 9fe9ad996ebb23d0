//! `fracas capacity`: searches the highest rate that keeps an SLO.

use std::process::ExitCode;

/// Flags of `fracas capacity`.
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Runs `fracas capacity`.
///
/// # Errors
/// Always: it is not built yet.
pub fn run(_: Args) -> anyhow::Result<ExitCode> {
    anyhow::bail!("`fracas capacity` is not built yet")
}
