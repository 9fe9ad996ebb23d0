//! `fracas demo`: all parts in one process.

use std::process::ExitCode;

/// Flags of `fracas demo`.
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Runs `fracas demo`.
///
/// # Errors
/// Always: it is not built yet.
pub fn run(_: Args) -> anyhow::Result<ExitCode> {
    anyhow::bail!("`fracas demo` is not built yet")
}
