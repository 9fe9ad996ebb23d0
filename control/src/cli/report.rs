//! `fracas report`: shows and compares run directories.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use fracas_loadgen::measure::Summary;
use fracas_loadgen::report;

use super::exit::UsageError;
use super::load::columns_of;
use super::{files, plain};

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
    #[command(after_help = "Example: fracas report show runs/monday")]
    Show {
        /// A run directory
        #[arg(value_name = "DIR", required = true)]
        directories: Vec<PathBuf>,
        /// The run's run.json instead
        #[arg(long)]
        json: bool,
    },
    /// Compare two runs: each figure, and its ratio
    #[command(after_help = "Example: fracas report diff runs/monday runs/tuesday")]
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
    let out = std::io::stdout();
    match args.verb {
        Verb::Show { directories, json } => {
            for directory in &directories {
                let summary = read(directory)?;
                let text = if json {
                    report::json(&summary)
                } else {
                    report::text_within(&summary, out.is_terminal(), columns_of(&out))
                };
                plain::write(&text);
            }
        }
        Verb::Diff { before, after } => plain::write(&report::diff(&read(&before)?, &read(&after)?)),
    }
    Ok(ExitCode::SUCCESS)
}

/// Reads the summary out of a run directory, or out of a `run.json` itself.
fn read(path: &Path) -> anyhow::Result<Summary> {
    let (file, bytes) = files::run_json(path)?;
    report::read_json(&bytes).map_err(|why| {
        let file = file.display();
        UsageError::because(format!("{file}: {why}"))
    })
}
