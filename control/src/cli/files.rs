//! Files and directories that stand on the command line: read, or tried before anything long begins. One that cannot be
//! used is a mistake in the command line, whatever the verb: exit code 2.

use std::io::Read;
use std::path::{Path, PathBuf};

use fracas_loadgen::report::check_run_dir;
use fracas_loadgen::scenario::RUN_FILE_BYTES_MAX;

use super::exit::UsageError;

/// The longest body of a request, in bytes: every one that is on its way needs it.
const BODY_BYTES_MAX: usize = 64 << 20;
/// The longest `run.json`, in bytes; a day's, second by second, has a tenth of it.
const SUMMARY_BYTES_MAX: usize = 512 << 20;

/// A run file, or a `run.json` with one in it.
///
/// # Errors
/// When it cannot be read, is too long, or is not text.
pub fn run_file(file: &Path) -> anyhow::Result<String> {
    // A `run.json` holds a run file, among much else.
    let is_run = file.extension().is_some_and(|ending| ending == "json");
    let bytes = read(file, "a run file", if is_run { SUMMARY_BYTES_MAX } else { RUN_FILE_BYTES_MAX })?;
    String::from_utf8(bytes)
        .map_err(|_| UsageError::because(format!("{} is not text; give a run file (YAML)", file.display())))
}

/// What a request carries.
///
/// # Errors
/// When it cannot be read, or is too long.
pub fn body(file: &Path) -> anyhow::Result<Vec<u8>> {
    read(file, "a body", BODY_BYTES_MAX)
}

/// The `run.json` of a run directory, or one that is named itself.
///
/// # Errors
/// When it cannot be read.
pub fn run_json(path: &Path) -> anyhow::Result<(PathBuf, Vec<u8>)> {
    let file = if path.is_dir() { path.join("run.json") } else { path.to_owned() };
    let bytes = read(&file, "a run directory, as `fracas load --out DIR` makes", SUMMARY_BYTES_MAX)?;
    Ok((file, bytes))
}

fn read(file: &Path, wanted: &str, bytes_max: usize) -> anyhow::Result<Vec<u8>> {
    let name = file.display();
    let unreadable = |why: std::io::Error| {
        let why = why.to_string();
        // `No such file or directory (os error 2)`: the number tells nobody anything.
        let why = why.split(" (os error").next().unwrap_or(&why).to_owned();
        UsageError::because(format!("cannot read {name}: {why}; give {wanted}"))
    };
    let opened = std::fs::File::open(file).map_err(unreadable)?;
    if opened.metadata().is_ok_and(|about| about.is_dir()) {
        return Err(UsageError::because(format!("{name} is a directory; give {wanted}")));
    }
    let mut bytes = Vec::new();
    // One byte more than is allowed is enough to know; the file may be a pipe, or grow.
    opened.take(bytes_max as u64 + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() > bytes_max {
        let max = bytes_max >> 20;
        return Err(UsageError::because(format!("{name} is longer than {max} MiB; give {wanted}")));
    }
    Ok(bytes)
}

/// Makes the directory of a result and tries it, before the work: an hour of load must not end in a directory that was
/// never writable. One that holds something is refused unless it is `forced`: the result would be mixed with another.
///
/// # Errors
/// What is wrong with it, and what to do.
pub fn output(directory: &Path, forced: bool) -> anyhow::Result<()> {
    let holds_something = std::fs::read_dir(directory).is_ok_and(|mut entries| entries.next().is_some());
    if holds_something && !forced {
        return Err(UsageError::because(format!(
            "--out: {} is not empty; choose another directory, or say --force to write over what is there",
            directory.display()
        )));
    }
    writable(directory)
}

/// Makes a directory that holds results, each in a directory of its own, and tries it.
///
/// # Errors
/// What is wrong with it, and what to do.
pub fn writable(directory: &Path) -> anyhow::Result<()> {
    check_run_dir(directory).map_err(|error| {
        let (path, why) = (error.path.display(), error.source);
        UsageError::because(format!("--out: cannot write {path}: {why}; choose another directory"))
    })
}

/// Takes away a directory that was made for a result that did not come; one that holds anything stays.
pub fn forget_empty(directory: &Path) {
    // `rmdir` refuses any other.
    let _ = std::fs::remove_dir(directory);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mistake(result: anyhow::Result<impl std::fmt::Debug>) -> String {
        let error = result.expect_err("a mistake");
        assert!(error.downcast_ref::<UsageError>().is_some(), "exit code 2: {error}");
        error.to_string()
    }

    #[test]
    fn what_cannot_be_read_is_told_what_is_wanted() {
        let directory = tempfile::tempdir().expect("a directory");
        let file = |name: &str, bytes: &[u8]| {
            let path = directory.path().join(name);
            std::fs::write(&path, bytes).expect("written");
            path
        };
        let absent = mistake(run_file(&directory.path().join("absent")));
        assert!(absent.ends_with("absent: No such file or directory; give a run file"), "{absent}");
        assert!(mistake(run_file(directory.path())).ends_with("is a directory; give a run file"));
        assert!(
            mistake(run_file(&file("binary", &[0xff, 0]))).ends_with("is not text; give a run file (YAML)")
        );
        let long = vec![b'#'; RUN_FILE_BYTES_MAX + 1];
        assert!(mistake(run_file(&file("long", &long))).contains("is longer than 4 MiB"));
        assert_eq!(run_file(&file("exact", &long[1..])).expect("read").len(), RUN_FILE_BYTES_MAX);
        assert!(mistake(run_json(directory.path())).contains("run.json: No such file"));
    }

    #[test]
    fn a_directory_that_holds_something_is_kept() {
        let directory = tempfile::tempdir().expect("a directory");
        output(directory.path(), false).expect("empty");
        output(&directory.path().join("new/one"), false).expect("made");
        let refusal = mistake(output(directory.path(), false));
        assert!(refusal.contains("is not empty") && refusal.contains("--force"), "{refusal}");
        output(directory.path(), true).expect("forced");
        let file = directory.path().join("file");
        std::fs::write(&file, b"x").expect("written");
        assert!(mistake(output(&file, true)).contains("choose another directory"));
        assert!(mistake(writable(&file.join("below"))).contains("choose another directory"));
    }
}
