//! The directory that a run writes into: tried before the run, and never written over by mistake.

use std::path::Path;

use fracas_loadgen::report;

use super::exit::UsageError;

/// Makes sure that a run directory can be written, before anything is measured. One that has something in it is only
/// taken with `force`.
///
/// # Errors
/// When it is not empty, or cannot be made or written.
pub fn claim(directory: &Path, force: bool) -> anyhow::Result<()> {
    let is_taken = std::fs::read_dir(directory).is_ok_and(|mut entries| entries.next().is_some());
    if is_taken && !force {
        return Err(UsageError::because(format!(
            "{} is not empty; choose another directory with --out, or say --force to write over it",
            directory.display()
        )));
    }
    Ok(report::check_run_dir(directory)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_run_left_is_not_written_over_by_mistake() {
        let directory = tempfile::tempdir().unwrap();
        let new = directory.path().join("a/b");
        claim(&new, false).unwrap();
        claim(&new, false).unwrap();
        std::fs::write(new.join("run.json"), "{}").unwrap();
        let refusal = claim(&new, false).unwrap_err();
        assert!(refusal.downcast_ref::<UsageError>().is_some());
        assert!(refusal.to_string().contains("is not empty; choose another directory"), "{refusal}");
        claim(&new, true).unwrap();
        assert!(claim(&new.join("run.json"), true).is_err(), "a file is no directory");
    }
}
