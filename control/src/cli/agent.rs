//! `fracas agent`: a generator node.

use std::process::ExitCode;

/// Flags of `fracas agent`.
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Runs `fracas agent`.
///
/// # Errors
/// Always: it is not built yet.
pub fn run(_: Args) -> anyhow::Result<ExitCode> {
    anyhow::bail!("`fracas agent` is not built yet")
}
