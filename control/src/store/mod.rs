//! Where runs are kept.

mod memory;

pub use memory::MemoryStore;

use crate::run::{Run, RunState};

/// Which runs to list.
#[derive(Clone, Debug, Default)]
pub struct RunFilter {
    /// Only in these states; empty = in any.
    pub states: Vec<RunState>,
    /// Only of this name; empty = of any.
    pub name: String,
    /// Only those submitted before the run of this id; `None` = all.
    pub before: Option<String>,
}

/// Keeps runs. One controller calls it, under its lock, and nothing in it may wait for the network.
pub trait Store: Send {
    /// Keeps a new run; `request_id` is that of the call that submitted it, or empty.
    fn insert(&mut self, run: Run, request_id: &str);

    /// Keeps a run in its new form; one that is not known is ignored.
    fn save(&mut self, run: Run);

    /// One run.
    fn run(&self, id: &str) -> Option<Run>;

    /// The run that a call with this `request_id` submitted; `None` for an empty one.
    fn run_of_request(&self, request_id: &str) -> Option<Run>;

    /// At most `limit` runs, newest first.
    fn runs(&self, filter: &RunFilter, limit: usize) -> Vec<Run>;
}
