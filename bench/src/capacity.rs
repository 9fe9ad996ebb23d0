//! `fracas-bench capacity`: `fracas capacity` against an origin that can do exactly 400 a second, with several
//! settings. One to three minutes for each of the four settings.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::Context;
use serde_json::Value;

use crate::Common;
use crate::parts;
use crate::process::{DRIVER_CORE, Ongoing, SUBJECT_CORE};
use crate::session::Session;

/// 4 workers of 10 ms.
const CAPACITY_PER_SECOND: f64 = 400.0;
const ENDS_WITHIN: Duration = Duration::from_secs(300);

struct Setting {
    name: &'static str,
    /// The first probe: not every search may happen upon 400 by doubling.
    from: &'static str,
    connections: &'static str,
    warm_up: &'static str,
    probe: &'static str,
}

const SETTINGS: [Setting; 4] = [
    Setting { name: "c100-warm0.5s-probe2s", from: "70/s", connections: "100", warm_up: "0.5s", probe: "2s" },
    Setting { name: "c100-warm0-probe3s", from: "100/s", connections: "100", warm_up: "0s", probe: "3s" },
    Setting { name: "c20-warm1s-probe4s", from: "90/s", connections: "20", warm_up: "1s", probe: "4s" },
    Setting { name: "c1000-warm2s-probe5s", from: "70/s", connections: "1000", warm_up: "2s", probe: "5s" },
];

/// Measures and writes the results.
pub fn run(args: &Common, mut session: Session) -> anyhow::Result<()> {
    let binary = session.fracas(args)?;
    session
        .remark(format!("{} runs; the origin has 4 workers of 10 ms: {CAPACITY_PER_SECOND}/s", args.runs()));
    for run in 1..=args.runs() {
        for setting in SETTINGS.iter().take(if args.quick { 1 } else { SETTINGS.len() }) {
            match measure(&binary, setting) {
                Ok((found, probes)) => {
                    let off = (found - CAPACITY_PER_SECOND).abs() / CAPACITY_PER_SECOND * 100.0;
                    let mut add =
                        |metric: &str, value| session.add("400-per-second", setting.name, run, metric, value);
                    add("found_off_percent", off);
                    add("found_per_second", found);
                    add("probes", probes);
                }
                Err(error) => session.remark(format!("{} failed: {error:#}", setting.name)),
            }
        }
    }
    session.finish()
}

fn measure(binary: &Path, setting: &Setting) -> anyhow::Result<(f64, f64)> {
    let service = ["--workers", "4", "--service-time", "10ms"];
    let origin = parts::origin(binary, &service, &[SUBJECT_CORE])?;
    let mut command = Command::new(binary);
    command.args([
        "capacity",
        &format!("http://{}/", origin.listen),
        "--slo",
        "p99<100ms",
        "--tolerance",
        "1%",
    ]);
    command.args([
        "-c",
        setting.connections,
        "--warm-up",
        setting.warm_up,
        "--probe",
        setting.probe,
        "--from",
        setting.from,
        "--json",
    ]);
    let printed = Ongoing::start(&mut command, &[DRIVER_CORE])?.finish(ENDS_WITHIN)?;
    let answer: Value = serde_json::from_str(&printed).context("fracas capacity --json printed no JSON")?;
    let found = answer["rate_per_second"].as_f64().context("fracas capacity found no rate")?;
    Ok((found, answer["probes"].as_array().map_or(0, Vec::len) as f64))
}
