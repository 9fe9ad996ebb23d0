//! `fracas load`: drives load and measures it.

use std::process::ExitCode;

/// Flags of `fracas load`.
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Runs `fracas load`.
///
/// # Errors
/// Always: it is not built yet.
pub fn run(_: Args) -> anyhow::Result<ExitCode> {
    anyhow::bail!("`fracas load` is not built yet")
}
