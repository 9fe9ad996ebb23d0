//! Keeps runs in memory: they are gone with the process, their reports are not.

use std::collections::{BTreeMap, HashMap};

use super::{RunFilter, Store};
use crate::run::Run;

/// Runs that are kept; beyond it the oldest that has ended is forgotten. Its report stays on disk.
const RUNS_MAX: usize = 10_000;

/// The store of a controller that nobody asked to remember.
#[derive(Debug, Default)]
pub struct MemoryStore {
    runs: BTreeMap<String, Run>,
    requests: HashMap<String, String>,
}

impl Store for MemoryStore {
    fn insert(&mut self, run: Run, request_id: &str) {
        if self.runs.len() >= RUNS_MAX {
            self.forget_oldest();
        }
        if !request_id.is_empty() {
            self.requests.insert(request_id.to_owned(), run.id.clone());
        }
        self.runs.insert(run.id.clone(), run);
    }

    fn save(&mut self, run: Run) {
        if let Some(kept) = self.runs.get_mut(&run.id) {
            *kept = run;
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
    fn forget_oldest(&mut self) {
        let oldest = self.runs.values().find(|run| run.state.is_final()).map(|run| run.id.clone());
        if let Some(id) = oldest {
            self.runs.remove(&id);
            self.requests.retain(|_, run| *run != id);
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
        store.insert(queued("s"), "");
        assert!(store.run("r000007").is_none());
        assert!(store.run("r000000").is_some() && store.run("s").is_some());
    }
}
