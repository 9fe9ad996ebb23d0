//! `fracas run`: runs on a controller.

use std::process::ExitCode;

/// Flags of `fracas run`.
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Runs `fracas run`.
///
/// # Errors
/// Always: it is not built yet.
pub fn run(_: Args) -> anyhow::Result<ExitCode> {
    anyhow::bail!("`fracas run` is not built yet")
}
