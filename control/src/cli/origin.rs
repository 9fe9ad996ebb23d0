//! `fracas origin`: the built-in test server.

use std::process::ExitCode;

/// Flags of `fracas origin`.
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Runs `fracas origin`.
///
/// # Errors
/// Always: it is not built yet.
pub fn run(_: Args) -> anyhow::Result<ExitCode> {
    anyhow::bail!("`fracas origin` is not built yet")
}
