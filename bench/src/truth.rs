//! `fracas-bench truth`: an outage of three seconds in the middle of an open load, and what the load says of it.
//!
//! The truth is the rate times the outage, from the instant the fault applied to the instant it ended, as the proxy's
//! events tell; beside it stands what the server did not answer, by its own count. What is due in the last second of a
//! hang may still be answered within its timeout, so the truth of a hang is the server's count alone. About a minute a
//! run.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use fracas_dataplane::clock::Instant;
use serde_json::Value;

use crate::Common;
use crate::load::start_responder_on;
use crate::parts::{self, answered, run_json};
use crate::peer::fracas::behavior;
use crate::process::{DRIVER_CORE, SUBJECT_CORE, Server, run_to_end};
use crate::session::Session;
use crate::socket;

const RATE_PER_SECOND: u64 = 500;
const OUTAGE: Duration = Duration::from_secs(3);
const BEGINS_AFTER: Duration = Duration::from_secs(3);
const ENDS_WITHIN: Duration = Duration::from_secs(60);
/// Nine seconds at a rate that a server answers with a few connections; a reply that takes a second is an error.
const LOAD: [&str; 8] = ["-c", "50", "-r", "500/s", "-d", "9s", "--timeout", "1s"];

/// What is known of an outage when it is over.
struct Outage {
    run: Value,
    lasted: Duration,
    /// Requests that the server answered.
    served: Option<u64>,
    /// Faults that the proxy counted.
    injected: Option<u64>,
}

/// Measures and writes the results.
pub fn run(args: &Common, mut session: Session) -> anyhow::Result<()> {
    let binary = session.fracas(args)?;
    session.remark(format!(
        "{} runs; fracas load {}, an outage of {OUTAGE:?} in its middle; truth: {RATE_PER_SECOND}/s times the outage",
        args.runs(),
        LOAD.join(" ")
    ));
    for run in 1..=args.runs() {
        for kind in ["blackout", "reset", "hang", "refused"] {
            let outage = if kind == "refused" { refuse(&binary) } else { inject(&binary, kind) };
            match outage {
                Ok(outage) => record(&mut session, kind, run, &outage),
                Err(error) => session.remark(format!("outage by {kind} failed: {error:#}")),
            }
        }
    }
    session.finish()
}

fn record(session: &mut Session, kind: &str, run: u32, outage: &Outage) {
    let count = |name: &str| outage.run["counts"][name].as_u64().unwrap_or(0);
    let (failed, planned) = (count("error") + count("timeout"), count("planned"));
    let due_in = |time: Duration| time.as_secs_f64() * RATE_PER_SECOND as f64;
    let unserved = outage.served.map(|served| planned.saturating_sub(served) as f64);
    let Some(truth) = (if kind == "hang" { unserved } else { Some(due_in(outage.lasted)) }) else {
        return session.remark(format!("run {run}: the server did not say how much it answered in a {kind}"));
    };
    let off = |truth: f64| (failed as f64 - truth).abs() / truth.max(1.0) * 100.0;
    let mut add = |metric: &str, value: f64| session.add("outage-3s", kind, run, metric, value);
    add("errors_off_percent", off(truth));
    add("errors", failed as f64);
    add("errors_in_truth", truth);
    add("due_in_outage", due_in(outage.lasted));
    if let Some(unserved) = unserved {
        add("unanswered_by_server", unserved);
        add("errors_off_server_percent", off(unserved));
    }
    if let Some(injected) = outage.injected {
        add("injected_by_proxy", injected as f64);
    }
    add("is_valid", f64::from(outage.run["verdict"] == "valid"));
}

/// The proxy breaks what passes, by a lease.
fn inject(binary: &Path, kind: &str) -> anyhow::Result<Outage> {
    let origin = parts::origin(binary, &[], &[SUBJECT_CORE])?;
    let (proxy, api) =
        parts::proxy_with_api(binary, origin.listen, &["--protocol", "http"], &[SUBJECT_CORE])?;
    let watched = ["--kind", "lease_started", "--kind", "lease_ended"];
    let mut watch = std::process::Command::new(binary);
    watch.args(["behavior", "watch", "--json", "--api", &api.to_string()]).args(watched);
    let watch = Server::start_told(&mut watch, &[SUBJECT_CORE])?;
    let load = parts::load(binary, &format!("http://{}/", proxy.listen), &LOAD)?;
    std::thread::sleep(BEGINS_AFTER);
    let mix = format!("100:{kind}");
    let lease = [mix.as_str(), "--ttl", "3s"];
    run_to_end(&mut behavior(binary, "lease", &lease, api), DRIVER_CORE)?;
    let run = run_json(load, ENDS_WITHIN)?;
    let lasted = lease_lasted(&watch.terminate()).context("the proxy told no begin and end of the lease")?;
    let got = run_to_end(&mut behavior(binary, "get", &[], api), DRIVER_CORE)?;
    let injected = serde_json::from_str(&got.stdout).ok().as_ref().and_then(injected);
    drop(proxy);
    Ok(Outage { run, lasted, served: answered(&origin.server.terminate()), injected })
}

/// The server is killed, and comes back on the same port.
fn refuse(binary: &Path) -> anyhow::Result<Outage> {
    let listen: SocketAddr = socket::free_address()?;
    let server = start_responder_on(listen)?;
    let load = parts::load(binary, &format!("http://{listen}/"), &LOAD)?;
    std::thread::sleep(BEGINS_AFTER);
    drop(server);
    let refused_at = Instant::now();
    std::thread::sleep(OUTAGE);
    let _server = start_responder_on(listen)?;
    let lasted = Instant::now() - refused_at;
    let run = run_json(load, ENDS_WITHIN)?;
    Ok(Outage { run, lasted, served: None, injected: None })
}

/// From the event that a lease began to the one that it ended.
fn lease_lasted(events: &str) -> Option<Duration> {
    let events: Vec<Value> = events.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let at = |kind: &str| events.iter().find(|event| event["kind"] == kind)?["monotonic_ns"].as_u64();
    Some(Duration::from_nanos(at("lease_ended")?.checked_sub(at("lease_started")?)?))
}

/// All faults of all proxies that `behavior get --json` lists, whether counted by proxy or by behavior.
fn injected(proxies: &Value) -> Option<u64> {
    let of_proxy = |proxy: &Value| match &proxy["injected"] {
        Value::Object(by_behavior) => Some(by_behavior.values().filter_map(Value::as_u64).sum()),
        total => total.as_u64(),
    };
    proxies.as_array()?.iter().map(of_proxy).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_lease_lasts_from_its_begin_to_its_end() {
        let events = r#"{"kind":"lease_started","monotonic_ns":1000}
not json
{"kind":"lease_ended","monotonic_ns":3000001000}"#;
        assert_eq!(lease_lasted(events), Some(Duration::from_secs(3)));
        assert_eq!(lease_lasted(r#"{"kind":"lease_started","monotonic_ns":1000}"#), None);
    }

    #[test]
    fn faults_are_summed_over_proxies_and_behaviors() {
        let proxies = json!([{"injected": {"reset": 5, "delay": 2}}, {"injected": 4}]);
        assert_eq!(injected(&proxies), Some(11));
        assert_eq!(injected(&json!([{}])), None);
    }
}
