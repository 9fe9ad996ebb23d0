//! Writes a run directory. The only I/O of this crate's reports.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::{hgrm, hlog, html, json};
use crate::measure::{Summary, Timeline};

/// A file of the run directory could not be written.
#[derive(Debug, thiserror::Error)]
#[error("cannot write {}; choose another directory with --out", path.display())]
pub struct RunDirError {
    /// Which.
    pub path: PathBuf,
    /// Why.
    #[source]
    pub source: io::Error,
}

/// Makes the directory if it is missing and tries to write into it: before a run, not after it.
///
/// # Errors
/// When [`write_run_dir`] could not write there either.
pub fn check_run_dir(directory: &Path) -> Result<(), RunDirError> {
    let trial = directory.join(".fracas-trial");
    let tried = fs::create_dir_all(directory).and_then(|()| fs::write(&trial, b""));
    tried.and_then(|()| fs::remove_file(&trial)).map_err(|source| {
        let path = directory.to_owned();
        RunDirError { path, source }
    })
}

/// Writes `run.json`, `latency.hlog`, `response.hgrm`, `service.hgrm`, `lag.hgrm`, `events.jsonl` (one given line
/// each) and `report.html` into `directory`, which is made if it is missing. `run.json` comes last: who sees it
/// sees a whole directory.
///
/// # Errors
/// The first file that could not be written.
pub fn write_run_dir(
    directory: &Path,
    summary: &Summary,
    timeline: &Timeline,
    events: &[String],
) -> Result<(), RunDirError> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| RunDirError { path, source }
    };
    fs::create_dir_all(directory).map_err(failed(directory))?;
    let lines: String = events.iter().flat_map(|event| [event.trim_end(), "\n"]).collect();
    let files = [
        ("latency.hlog", hlog(timeline, summary.started_at_unix_ms)),
        ("response.hgrm", hgrm(&timeline.response())),
        ("service.hgrm", hgrm(&timeline.service())),
        ("lag.hgrm", hgrm(&timeline.lag())),
        ("events.jsonl", lines.into_bytes()),
        ("report.html", html(summary)),
        ("run.json", json(summary)),
    ];
    for (name, bytes) in files {
        let path = directory.join(name);
        fs::write(&path, bytes).map_err(failed(&path))?;
    }
    Ok(())
}
