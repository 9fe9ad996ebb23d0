//! `fracas-bench stall`: the generator itself is stopped for a second, and what it says of that. 12 seconds a run.

use std::path::Path;
use std::time::Duration;

use serde_json::Value;

use crate::Common;
use crate::parts::{self, run_json};
use crate::process::SUBJECT_CORE;
use crate::session::Session;

const STOP: Duration = Duration::from_secs(1);
const BEGINS_AFTER: Duration = Duration::from_secs(2);
const ENDS_WITHIN: Duration = Duration::from_secs(60);
const MODELS: [(&str, &[&str]); 2] =
    [("closed", &["-c", "10", "-d", "5s"]), ("open", &["-c", "10", "-r", "1000/s", "-d", "5s"])];

/// Measures and writes the results.
pub fn run(args: &Common, mut session: Session) -> anyhow::Result<()> {
    let binary = session.fracas(args)?;
    session
        .remark(format!("{} runs; fracas load is stopped for {STOP:?} after {BEGINS_AFTER:?}", args.runs()));
    for run in 1..=args.runs() {
        for (model, arguments) in MODELS {
            match measure(&binary, arguments) {
                Ok((stopped, run_json)) => {
                    let mut add = |metric: &str, value| session.add("stall-1s", model, run, metric, value);
                    let own_ns = own_ns(&run_json);
                    let stopped_ns = stopped.as_nanos() as f64;
                    add("own_off_percent", (own_ns - stopped_ns).abs() / stopped_ns * 100.0);
                    add("stopped_ms", stopped_ns / 1e6);
                    add("own_ms", own_ns / 1e6);
                    add("is_valid", f64::from(run_json["verdict"] == "valid"));
                }
                Err(error) => session.remark(format!("the {model} model failed: {error:#}")),
            }
        }
    }
    session.finish()
}

fn measure(binary: &Path, arguments: &[&str]) -> anyhow::Result<(Duration, Value)> {
    let origin = parts::origin(binary, &[], &[SUBJECT_CORE])?;
    let load = parts::load(binary, &format!("http://{}/", origin.listen), arguments)?;
    std::thread::sleep(BEGINS_AFTER);
    let (least, most) = load.stop_for(STOP);
    let run = run_json(load, ENDS_WITHIN)?;
    anyhow::ensure!(run["verdict"].is_string(), "run.json has no verdict");
    Ok(((least + most) / 2, run))
}

/// The longest part of a request that the generator says is its own.
fn own_ns(run: &Value) -> f64 {
    let stall = run["own"]["stall_max_ns"].as_f64();
    stall.or_else(|| run["own_lag"]["max"].as_f64()).unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_own_part_is_the_stall_or_else_the_longest_own_lag() {
        let lag = json!({"own_lag": {"max": 7}});
        assert_eq!(own_ns(&lag), 7.0);
        assert_eq!(own_ns(&json!({"own": {"stall_max_ns": 9}, "own_lag": {"max": 7}})), 9.0);
        assert_eq!(own_ns(&json!({})), 0.0);
    }
}
