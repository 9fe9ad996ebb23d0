//! A fleet of real processes on loopback: a controller, agents, an origin, and the command line as its user.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread::sleep;
use std::time::Duration;

use fracas_dataplane::origin::{Origin, OriginSettings};
use fracas_loadgen::report::read_json;
use serde_json::Value;

const FRACAS: &str = env!("CARGO_BIN_EXE_fracas");
/// Far above what anything here takes, so that only a hang reaches it.
const PATIENCE: u32 = 600;

/// A child that does not outlive its test.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

struct Fleet {
    api: String,
    agents: Vec<Process>,
    directory: tempfile::TempDir,
    origin: Origin,
    _controller: Process,
}

impl Fleet {
    /// A controller that gives nodes up after `lost_after`, and agents `a`, `b`, … that have joined.
    fn of(agents: usize, lost_after: &str) -> Fleet {
        let directory = tempfile::tempdir().unwrap();
        let out = directory.path().join("runs");
        let mut controller = Command::new(FRACAS);
        controller
            .args(["controller", "--api", "127.0.0.1:0", "--lost-after", lost_after, "--out"])
            .arg(&out);
        let mut controller = Process(controller.stdout(Stdio::piped()).spawn().unwrap());
        let mut line = String::new();
        BufReader::new(controller.0.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let api = line.trim().strip_prefix("controller listens on ").unwrap().to_owned();
        let origin = Origin::start(OriginSettings::default()).unwrap();
        let mut fleet = Fleet { api, agents: Vec::new(), directory, origin, _controller: controller };
        for name in ["a", "b", "c"].into_iter().take(agents) {
            fleet.start_agent(name);
        }
        let joined = |fleet: &Fleet| {
            let nodes = fleet.json(&["node", "list", "--json"]);
            nodes["nodes"].as_array().unwrap().iter().filter(|node| node["state"] == "idle").count() == agents
        };
        fleet.wait_until("all agents have joined", joined);
        fleet
    }

    fn start_agent(&mut self, name: &str) {
        let mut agent = Command::new(FRACAS);
        agent.args(["agent", "--threads", "1", "--name", name, "--join", &self.api]);
        self.agents.push(Process(agent.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()));
    }

    fn fracas(&self, args: &[&str]) -> Output {
        Command::new(FRACAS).args(args).args(["--api", &self.api]).output().unwrap()
    }

    fn json(&self, args: &[&str]) -> Value {
        let output = self.fracas(args);
        serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|why| panic!("{why}: {}", String::from_utf8_lossy(&output.stderr)))
    }

    /// Writes a run file of 2 nodes at 400 requests a second.
    fn run_file(&self, seconds: u32, more: &str) -> PathBuf {
        let path = self.directory.path().join("checkout.yml");
        let target = self.origin.local_addr();
        let text = format!(
            "name: checkout\nnodes: 2\ntarget: http://{target}/\nconnections: 8\nphases:\n  - {{rate: 400/s, for: {seconds}s}}\n{more}"
        );
        std::fs::write(&path, text).unwrap();
        path
    }

    fn submit(&self, file: &Path) -> String {
        let run = self.json(&["run", "submit", file.to_str().unwrap(), "--json"]);
        run["id"].as_str().unwrap().to_owned()
    }

    fn show(&self, id: &str) -> Value {
        self.json(&["run", "show", id, "--json"])
    }

    fn wait_until(&self, what: &str, is_so: impl Fn(&Fleet) -> bool) {
        for _ in 0..PATIENCE {
            if is_so(self) {
                return;
            }
            sleep(Duration::from_millis(50));
        }
        panic!("waited in vain until {what}: {}", self.json(&["run", "list", "--json"]));
    }

    /// Waits until a run has had replies.
    fn wait_for_load(&self, id: &str) {
        let answered = self.origin.answered();
        self.wait_until("load is on", |fleet| {
            fleet.show(id)["state"] == "running" && fleet.origin.answered() > answered + 50
        });
    }

    fn wait_for_state(&self, id: &str, state: &str) -> Value {
        let finals = ["passed", "failed", "invalid", "errored", "cancelled"];
        self.wait_until("the run has ended", |fleet| {
            finals.iter().any(|word| fleet.show(id)["state"] == **word)
        });
        let run = self.show(id);
        assert_eq!(run["state"], state, "{run}");
        run
    }
}

/// The payloads of a tag's lines, decoded and merged by the reference library.
fn merged(logs: &[PathBuf], tag: &str) -> hdrhistogram::Histogram<u64> {
    use base64::Engine as _;
    let mut all = hdrhistogram::Histogram::<u64>::new(3).unwrap();
    all.auto(true);
    for log in logs {
        let text = std::fs::read_to_string(log).unwrap();
        for line in text.lines().filter(|line| line.starts_with(&format!("Tag={tag},"))) {
            let payload = base64::engine::general_purpose::STANDARD.decode(line.rsplit(',').next().unwrap());
            let payload = payload.unwrap();
            let part: hdrhistogram::Histogram<u64> = hdrhistogram::serialization::Deserializer::new()
                .deserialize(&mut payload.as_slice())
                .unwrap();
            all.add(part).unwrap();
        }
    }
    all
}

#[test]
fn two_nodes_carry_a_run_and_their_results_add_up() {
    let fleet = Fleet::of(2, "10s");
    let file = fleet.run_file(2, "slo: [\"errors<1%\"]\n");
    let output = fleet.fracas(&["run", "submit", file.to_str().unwrap(), "--wait", "--json"]);
    let run: Value = serde_json::from_slice(&output.stdout).unwrap();
    // On a busy machine the verdict may be invalid for lateness; the books must balance in any case.
    let expected = if run["state"] == "passed" { 0 } else { 111 };
    assert_eq!(output.status.code(), Some(expected), "{run}");
    let counts = |value: &Value, name: &str| value[name].as_u64().unwrap();
    let total = &run["counts"];
    assert_eq!(counts(total, "planned"), 800);
    assert_eq!(counts(total, "planned"), counts(total, "sent") + counts(total, "dropped"));
    let outcomes: u64 = ["ok", "error", "timeout", "censored"].iter().map(|name| counts(total, name)).sum();
    assert_eq!(counts(total, "sent"), outcomes);
    let listed = &fleet.json(&["run", "list", "--json"])["runs"][0];
    for series in ["response_ns", "service_ns", "lag_ns"] {
        assert_eq!(listed[series], run[series], "the list has the same figures");
        assert!(listed[series]["count"].as_u64().unwrap() > 0, "{listed}");
    }
    let nodes = run["nodes"].as_array().unwrap();
    assert_eq!(nodes.iter().map(|node| counts(node, "planned")).collect::<Vec<_>>(), [400, 400]);
    assert_eq!(fleet.origin.answered(), counts(total, "ok"), "the target agrees");

    let directory = PathBuf::from(run["report"].as_str().unwrap());
    let summary = read_json(&std::fs::read(directory.join("run.json")).unwrap()).unwrap();
    assert_eq!((summary.nodes.len(), summary.counts.planned), (2, 800));
    assert!(directory.join("report.html").exists());
    let parts = ["a", "b"].map(|name| directory.join(format!("nodes/{name}.hlog")));
    for tag in ["response", "service", "lag"] {
        let whole = merged(&[directory.join("latency.hlog")], tag);
        assert!(whole.len() == 800, "{tag}: {}", whole.len());
        assert!(merged(&parts, tag) == whole, "{tag}: merged is not the merge of the nodes");
    }
}

#[test]
fn a_killed_agent_makes_the_run_invalid_and_the_gap_is_named() {
    let mut fleet = Fleet::of(2, "1s");
    let id = fleet.submit(&fleet.run_file(3, ""));
    fleet.wait_for_load(&id);
    fleet.agents[1].0.kill().unwrap();
    let run = fleet.wait_for_state(&id, "invalid");
    let reasons = run["reasons"].to_string();
    assert!(reasons.contains("node b was lost"), "{reasons}");
    assert!(reasons.contains("s into the run; its figures from"), "{reasons}");
    let watched = fleet.fracas(&["run", "watch", &id]);
    assert_eq!(watched.status.code(), Some(111));
}

#[test]
fn an_agent_that_stood_still_makes_the_run_invalid_and_is_named() {
    let fleet = Fleet::of(2, "60s");
    let id = fleet.submit(&fleet.run_file(5, ""));
    fleet.wait_for_load(&id);
    let signal = |name: &str| {
        let agent = fleet.agents[1].0.id().to_string();
        assert!(Command::new("kill").args([name, &agent]).status().unwrap().success());
    };
    signal("-STOP");
    sleep(Duration::from_secs(2));
    signal("-CONT");
    let run = fleet.wait_for_state(&id, "invalid");
    let reasons = run["reasons"].to_string();
    assert!(reasons.contains("node b stood still for"), "{reasons}");
    let directory = PathBuf::from(run["report"].as_str().unwrap());
    let summary = read_json(&std::fs::read(directory.join("run.json")).unwrap()).unwrap();
    let stalls: Vec<_> = summary.nodes.iter().map(|node| node.own.stall_max_ns).collect();
    assert!(stalls[1] >= 1_980_000_000 && stalls[0] < stalls[1], "{stalls:?}");
    assert_eq!(summary.counts.check(), Ok(()));
}

#[test]
fn a_cancelled_run_stops_on_all_nodes_and_frees_them() {
    let fleet = Fleet::of(2, "10s");
    let id = fleet.submit(&fleet.run_file(60, ""));
    fleet.wait_for_load(&id);
    assert!(fleet.fracas(&["run", "cancel", &id]).status.success());
    fleet.wait_for_state(&id, "cancelled");
    let answered = fleet.origin.answered();
    let nodes = fleet.json(&["node", "list", "--json"]);
    assert!(nodes["nodes"].as_array().unwrap().iter().all(|node| node["state"] == "idle"), "{nodes}");
    assert_eq!(fleet.origin.answered(), answered, "no load after the end");
    assert_eq!(fleet.fracas(&["run", "cancel", &id]).status.code(), Some(1));
}

#[test]
fn a_mistake_in_a_run_file_is_one_line_with_its_place() {
    let fleet = Fleet::of(0, "10s");
    let file = fleet.run_file(2, "conections: 5\n");
    let output = fleet.fracas(&["run", "submit", file.to_str().unwrap()]);
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!((output.status.code(), error.lines().count()), (Some(2), 1), "{error}");
    assert!(error.contains("checkout.yml:7") && error.contains("connections"), "{error}");
}

#[test]
fn a_run_waits_for_nodes_and_starts_when_they_come() {
    let mut fleet = Fleet::of(1, "10s");
    let id = fleet.submit(&fleet.run_file(1, ""));
    let run = fleet.show(&id);
    assert_eq!((run["state"].as_str(), run["queue_position"].as_u64()), (Some("queued"), Some(1)));
    assert!(run["reason"].as_str().unwrap().contains("needs 2 nodes: 1 connected"), "{run}");
    fleet.start_agent("late");
    fleet.wait_until("it has left the queue", |fleet| fleet.show(&id)["state"] != "queued");
}

#[test]
fn an_orphan_stops_its_load() {
    let mut fleet = Fleet::of(0, "10s");
    let mut controller = Command::new(FRACAS);
    controller.args(["controller", "--api", "127.0.0.1:0", "--orphan-timeout", "1s", "--out"]);
    controller.arg(fleet.directory.path().join("more"));
    let mut controller = Process(controller.stdout(Stdio::piped()).spawn().unwrap());
    let mut line = String::new();
    BufReader::new(controller.0.stdout.take().unwrap()).read_line(&mut line).unwrap();
    fleet.api = line.trim().strip_prefix("controller listens on ").unwrap().to_owned();
    fleet.start_agent("a");
    fleet.start_agent("b");
    let id = fleet.submit(&fleet.run_file(60, ""));
    fleet.wait_for_load(&id);
    controller.0.kill().unwrap();
    // The load has stopped when the origin hears nothing for longer than any pause between requests.
    for _ in 0..PATIENCE {
        let before = fleet.origin.answered();
        sleep(Duration::from_millis(300));
        if fleet.origin.answered() == before {
            return;
        }
    }
    panic!("the load goes on without a controller");
}

/// A proxy of a fleet, and where its own API listens.
struct JoinedProxy {
    api: String,
    _process: Process,
}

impl JoinedProxy {
    fn start(fleet: &Fleet) -> JoinedProxy {
        let mut proxy = Command::new(FRACAS);
        let upstream = fleet.origin.local_addr().to_string();
        proxy.args(["proxy", "--listen", "127.0.0.1:0", "--upstream", &upstream, "--threads", "1"]);
        proxy.args(["--api", "127.0.0.1:0", "--join", &fleet.api]);
        let mut proxy = Process(proxy.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap());
        let mut lines = BufReader::new(proxy.0.stdout.take().unwrap()).lines();
        let line = lines.find_map(|line| line.unwrap().split_once(", API ").map(|(_, rest)| rest.to_owned()));
        let api = line.unwrap().split(',').next().unwrap().to_owned();
        JoinedProxy { api, _process: proxy }
    }

    /// How many leases its proxy has.
    fn leases(&self) -> usize {
        let mut command = Command::new(FRACAS);
        let output = command.args(["behavior", "get", "--json", "--api", &self.api]).output().unwrap();
        let proxies: Value = serde_json::from_slice(&output.stdout).unwrap();
        proxies[0]["leases"].as_array().unwrap().len()
    }
}

#[test]
fn a_fault_dies_with_the_controller_that_asked_for_it() {
    let mut fleet = Fleet::of(0, "10s");
    let out = fleet.directory.path().join("more");
    // Nothing but the word of the new controller can end the fault within the test.
    let start = |api: &str| {
        let mut controller = Command::new(FRACAS);
        controller.args(["controller", "--api", api, "--orphan-timeout", "1h", "--out"]).arg(&out);
        let mut controller = Process(controller.stdout(Stdio::piped()).spawn().unwrap());
        let mut line = String::new();
        BufReader::new(controller.0.stdout.take().unwrap()).read_line(&mut line).unwrap();
        (
            controller,
            line.trim().strip_prefix("controller listens on ").map(str::to_owned).unwrap_or_default(),
        )
    };
    let (mut controller, api) = start("127.0.0.1:0");
    fleet.api = api;
    fleet.start_agent("a");
    fleet.start_agent("b");
    let proxy = JoinedProxy::start(&fleet);
    let joined = |fleet: &Fleet, count: usize| {
        let nodes = fleet.json(&["node", "list", "--json"]);
        let nodes = nodes["nodes"].as_array().unwrap();
        nodes.iter().filter(|node| node["state"] == "idle").count() == count
            && nodes.iter().any(|node| node["proxies"].as_array().is_some_and(|proxies| !proxies.is_empty()))
    };
    fleet.wait_until("all have joined", |fleet| joined(fleet, 3));
    let fault = "faults:\n  - {proxy: default, behavior: \"100:reset\", at: 0s, for: 55s}\n";
    let id = fleet.submit(&fleet.run_file(60, fault));
    fleet.wait_until("the fault is in force", |fleet| {
        fleet.show(&id)["state"] == "running" && proxy.leases() == 1
    });
    controller.0.kill().unwrap();
    controller.0.wait().unwrap();
    assert_eq!(proxy.leases(), 1, "its run may go on");
    let (_controller, _) = start(&fleet.api.clone());
    fleet.wait_until("the fault has ended", |_| proxy.leases() == 0);
}

#[test]
fn a_run_with_a_mistyped_proxy_is_refused_at_once() {
    let fleet = Fleet::of(0, "10s");
    let file = fleet.run_file(1, "faults:\n  - {proxy: nobody, behavior: \"100:reset\", at: 0s, for: 1s}\n");
    let output = fleet.fracas(&["run", "submit", file.to_str().unwrap()]);
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!((output.status.code(), error.lines().count()), (Some(1), 1), "{error}");
    assert!(
        error.contains("the proxy `nobody`, which nobody has joined with; no proxy has joined so far"),
        "{error}"
    );
}

#[test]
fn a_proxy_says_that_it_has_joined_or_why_it_has_not() {
    let fleet = Fleet::of(0, "10s");
    // Nobody listens where a listener has just been.
    let nowhere = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    for (controller, words) in [(&fleet.api, "has joined"), (&nowhere, "no controller answers at")] {
        let mut proxy = Command::new(FRACAS);
        proxy.args(["proxy", "--listen", "127.0.0.1:0", "--api", "none", "--upstream", "127.0.0.1:1"]);
        proxy.args(["--threads", "1", "--join", controller]).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut proxy = Process(proxy.spawn().unwrap());
        let (stdout, stderr) = (proxy.0.stdout.take().unwrap(), proxy.0.stderr.take().unwrap());
        let is_there = controller == &fleet.api;
        let mut lines: Box<dyn Iterator<Item = _>> = match is_there {
            true => Box::new(BufReader::new(stdout).lines()),
            false => Box::new(BufReader::new(stderr).lines()),
        };
        let line = lines.find_map(|line| line.ok().filter(|line| line.contains(words))).unwrap();
        assert!(line.starts_with("proxy-") && line.contains(controller.as_str()), "{line}");
        assert_eq!(line.ends_with("; trying again"), !is_there, "{line}");
    }
}

#[test]
fn a_run_that_nobody_can_carry_out_ends_with_its_reason() {
    let fleet = Fleet::of(1, "10s");
    let file = fleet.run_file(1, "");
    let submit = ["run", "submit", file.to_str().unwrap(), "--wait", "--json", "--start-within", "200ms"];
    let output = fleet.fracas(&submit);
    let run: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((output.status.code(), run["state"].as_str()), (Some(112), Some("errored")), "{run}");
    let reason = run["reason"].as_str().unwrap();
    assert!(reason.starts_with("never started: it needs 2 nodes: 1 connected"), "{reason}");
    let list = fleet.fracas(&["run", "list"]);
    assert!(String::from_utf8(list.stdout).unwrap().contains("never started"), "the list has it too");
}
