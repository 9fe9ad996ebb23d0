//! Keeps runs in memory: they are gone with the process, their reports are not.

use std::collections::{BTreeMap, HashMap};

use super::{RunFilter, Store};
use crate::run::Run;

/// Runs that are kept; beyond it the oldest that has ended is forgotten. Its report stays on disk.
const RUNS_MAX: usize = 10_000;
/// Bytes of run files and figures that are kept; beyond it the oldest that have ended are forgotten.
const BYTES_MAX: usize = 256 << 20;

/// The store of a controller that nobody asked to remember.
#[derive(Debug, Default)]
pub struct MemoryStore {
    runs: BTreeMap<String, Run>,
    requests: HashMap<String, String>,
    bytes: usize,
}

impl Store for MemoryStore {
    fn insert(&mut self, run: Run, request_id: &str) {
        if !request_id.is_empty() {
            self.requests.insert(request_id.to_owned(), run.id.clone());
        }
        self.bytes += run.bytes();
        self.runs.insert(run.id.clone(), run);
        self.forget_the_oldest();
    }

    fn save(&mut self, run: Run) {
        if let Some(kept) = self.runs.get_mut(&run.id) {
            self.bytes = self.bytes - kept.bytes() + run.bytes();
            *kept = run;
            self.forget_the_oldest();
        }
    }

    fn run(&self, id: &str) -> Option<Run> {
        self.runs.get(id).cloned()
    }

    fn run_of_request(&self, request_id: &str) -> Option<Run> {
        self.requests.get(request_id).and_then(|id| self.run(id))
    }

    fn runs(&self, filter: &RunFilter, limit: usize) -> Vec<Run> {
        let fits = |run: &&Run| {
            (filter.states.is_empty() || filter.states.contains(&run.state))
                && (filter.name.is_empty() || filter.name == run.name)
                && filter.before.as_ref().is_none_or(|before| run.id < *before)
        };
        self.runs.values().rev().filter(fits).take(limit).cloned().collect()
    }
}

impl MemoryStore {
    /// Forgets runs that have ended until the others are within the limits. The latest of them stays: somebody waits for
    /// it.
    fn forget_the_oldest(&mut self) {
        while self.runs.len() > RUNS_MAX || self.bytes > BYTES_MAX {
            let mut ended = self.runs.values().filter(|run| run.state.is_final()).map(|run| run.id.clone());
            let (Some(oldest), Some(_)) = (ended.next(), ended.next()) else { return };
            if let Some(run) = self.runs.remove(&oldest) {
                self.bytes -= run.bytes();
            }
            self.requests.retain(|_, run| *run != oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::RunState;
    use crate::run::tests_support::queued;

    fn store() -> MemoryStore {
        let mut store = MemoryStore::default();
        for number in 0..5 {
            let mut run = queued(&format!("r{number}"));
            run.name = if number == 2 { "other".into() } else { "checkout".into() };
            store.insert(run, &format!("q{number}"));
        }
        store
    }

    fn ids(runs: &[Run]) -> Vec<String> {
        runs.iter().map(|run| run.id.clone()).collect()
    }

    #[test]
    fn runs_are_listed_newest_first_in_pages() {
        let store = store();
        let first = ids(&store.runs(&RunFilter::default(), 2));
        assert_eq!(first, ["r4", "r3"]);
        let next = RunFilter { before: Some("r3".into()), ..RunFilter::default() };
        assert_eq!(ids(&store.runs(&next, 10)), ["r2", "r1", "r0"]);
    }

    #[test]
    fn filters_hold_together() {
        let mut store = store();
        store.save(Run { state: RunState::Cancelled, ..store.run("r3").unwrap() });
        let filter =
            RunFilter { states: vec![RunState::Queued], name: "checkout".into(), ..RunFilter::default() };
        assert_eq!(ids(&store.runs(&filter, 10)), ["r4", "r1", "r0"]);
    }

    #[test]
    fn a_repeated_request_finds_its_run() {
        let store = store();
        assert_eq!(store.run_of_request("q1").unwrap().id, "r1");
        assert!(store.run_of_request("").is_none() && store.run_of_request("q9").is_none());
        assert!(store.run("r9").is_none());
    }

    #[test]
    fn a_full_store_forgets_the_oldest_run_that_has_ended() {
        let mut store = MemoryStore::default();
        for number in 0..RUNS_MAX {
            store.insert(queued(&format!("r{number:06}")), "");
        }
        store.save(Run { state: RunState::Passed, ..queued("r000007") });
        store.save(Run { state: RunState::Passed, ..queued("r000009") });
        store.insert(queued("s"), "");
        assert!(store.run("r000007").is_none());
        assert!(store.run("r000000").is_some() && store.run("r000009").is_some() && store.run("s").is_some());
    }

    #[test]
    fn run_files_are_kept_within_a_limit_of_bytes() {
        let mut store = MemoryStore::default();
        let text: std::sync::Arc<str> = "x".repeat(1 << 20).into();
        for number in 0..300 {
            let id = format!("r{number:03}");
            store.insert(Run { file_text: text.clone(), ..queued(&id) }, "");
            store.save(Run { state: RunState::Passed, file_text: text.clone(), ..queued(&id) });
            assert!(store.bytes <= BYTES_MAX, "{number}");
        }
        assert!(store.run("r000").is_none() && store.run("r299").is_some());
        assert_eq!(store.bytes, store.runs.values().map(Run::bytes).sum::<usize>());
        assert!(store.runs.len() > 250, "{}", store.runs.len());
    }
}
