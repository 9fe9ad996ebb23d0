//! `fracas report`: shows and compares run directories.

use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use fracas_loadgen::measure::Summary;
use fracas_loadgen::report;

use super::exit::UsageError;

/// Flags of `fracas report`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example: fracas report diff runs/monday runs/tuesday")]
pub struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// Print a run's summary again
    Show {
        /// A run directory
        #[arg(value_name = "DIR", required = true)]
        directories: Vec<PathBuf>,
        /// The run's run.json instead
        #[arg(long)]
        json: bool,
    },
    /// Compare two runs: each figure, and its ratio
    Diff {
        /// The run directory to compare with
        before: PathBuf,
        /// The run directory to judge
        after: PathBuf,
    },
}

/// Runs `fracas report`.
///
/// # Errors
/// When a directory has no readable `run.json`.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let mut out = std::io::stdout();
    match args.verb {
        Verb::Show { directories, json } => {
            for directory in &directories {
                let summary = read(directory)?;
                let text =
                    if json { report::json(&summary) } else { report::text(&summary, out.is_terminal()) };
                out.write_all(&text)?;
            }
        }
        Verb::Diff { before, after } => out.write_all(&report::diff(&read(&before)?, &read(&after)?))?,
    }
    Ok(ExitCode::SUCCESS)
}

/// Reads the summary out of a run directory, or out of a `run.json` itself.
fn read(path: &Path) -> anyhow::Result<Summary> {
    let file = if path.is_dir() { path.join("run.json") } else { path.to_owned() };
    let bytes = std::fs::read(&file).map_err(|why| {
        let file = file.display();
        UsageError::because(format!(
            "cannot read {file}: {why}; give a run directory, as `fracas load --out` makes"
        ))
    })?;
    report::read_json(&bytes)
        .with_context(|| format!("{} is not a run of this version of fracas", file.display()))
}
