//! `fracas node`: a controller's nodes.

use std::process::ExitCode;

/// Flags of `fracas node`.
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Runs `fracas node`.
///
/// # Errors
/// Always: it is not built yet.
pub fn run(_: Args) -> anyhow::Result<ExitCode> {
    anyhow::bail!("`fracas node` is not built yet")
}
