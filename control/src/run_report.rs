//! What a run's findings become: one merged summary, and the files of its directory.

use std::fs;
use std::path::Path;

use fracas_loadgen::measure::{Grade, Summary, Timeline};
use fracas_loadgen::report::{hlog, write_run_dir};

use crate::execution::Findings;
use crate::run::RunResult;

/// A report before it is written.
#[derive(Debug)]
pub struct Report {
    /// The merged figures.
    pub result: RunResult,
    /// The merged seconds.
    pub merged: Timeline,
    /// Each node's seconds.
    pub nodes: Vec<(String, Timeline)>,
    events: Vec<String>,
}

impl Report {
    /// Merges what the nodes measured and judges it. An objection of the controller makes the run invalid.
    pub fn new(findings: Findings) -> Report {
        let Findings { facts, nodes, objections, events } = findings;
        let mut summary = Summary::new(facts, &nodes);
        if !objections.is_empty() {
            summary.verdict = Grade::Invalid;
            summary.reasons.splice(0..0, objections);
        }
        let mut merged = Timeline::default();
        nodes.iter().for_each(|node| merged.merge(&node.timeline));
        let (response, service, lag) = (merged.response(), merged.service(), merged.lag());
        let histograms: usize = [&response, &service, &lag].iter().map(|series| series.encode().len()).sum();
        // As text it has about the size that it has in memory.
        let bytes = histograms + serde_json::to_vec(&summary).map_or(0, |text| text.len());
        let result = RunResult { summary, response, service, lag, bytes };
        let nodes = nodes.into_iter().map(|node| (node.name, node.timeline)).collect();
        Report { result, merged, nodes, events }
    }

    /// Writes the run directory, and `nodes/NAME.hlog` for each node: merged again, they are `latency.hlog`.
    ///
    /// # Errors
    /// One line, when a file cannot be written.
    pub fn write(&self, directory: &Path) -> Result<(), String> {
        let started_at_unix_ms = self.result.summary.started_at_unix_ms;
        let nodes = directory.join("nodes");
        fs::create_dir_all(&nodes)
            .map_err(|why| format!("cannot make {}: {why}; choose another --out", nodes.display()))?;
        for (name, timeline) in &self.nodes {
            let path = nodes.join(format!("{name}.hlog"));
            fs::write(&path, hlog(timeline, started_at_unix_ms))
                .map_err(|why| format!("cannot write {}: {why}; choose another --out", path.display()))?;
        }
        write_run_dir(directory, &self.result.summary, &self.merged, &self.events).map_err(|error| {
            match std::error::Error::source(&error) {
                Some(why) => format!("{error}: {why}"),
                None => error.to_string(),
            }
        })
    }
}
