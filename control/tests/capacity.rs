//! `fracas capacity` against a real target whose capacity follows from arithmetic: two connections on which every reply
//! takes 20 ms answer at most 100 requests a second.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::io::{BufRead, BufReader, Lines};
use std::process::{Child, ChildStderr, Command, Stdio};
use std::time::Duration;

use fracas_dataplane::origin::{Origin, OriginSettings};
use serde_json::Value;

const FRACAS: &str = env!("CARGO_BIN_EXE_fracas");

#[test]
fn the_rate_found_is_one_that_the_target_can_answer() {
    let listen = "127.0.0.1:0".parse().unwrap();
    let delay = Duration::from_millis(20);
    let origin = Origin::start(OriginSettings { listen, delay, ..OriginSettings::default() }).unwrap();
    let url = format!("http://{}/", origin.local_addr());
    let out = tempfile::tempdir().unwrap();
    let output = Command::new(FRACAS)
        .args(["capacity", &url, "-c", "2", "--slo", "p99<400ms", "--from", "25/s", "--max", "1k/s"])
        .args(["--probe", "1s", "--warm-up", "0s", "--tolerance", "50%", "--json", "--out"])
        .arg(out.path())
        .output()
        .unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    let answer: Value = serde_json::from_slice(&output.stdout).expect(&error);
    // A machine that is busy with other things may keep the generator from its schedule; the answer must say so.
    let code = match answer["limited_by"].as_str().unwrap() {
        "generator" => 111,
        "slo" if answer["rate_per_second"].is_null() => 99,
        "slo" => 0,
        other => panic!("1,000/s cannot be answered, so the search cannot end with {other}: {answer:#}"),
    };
    assert_eq!(output.status.code(), Some(code), "{answer:#}");
    // No more than 100/s can be answered, and what falls behind by 2 % is not kept.
    assert!(answer["rate_per_second"].as_u64().is_none_or(|rate| rate <= 102), "{answer:#}");
    let probes = answer["probes"].as_array().unwrap();
    assert!(probes.len() > 1, "{answer:#}");
    for probe in probes {
        let rate = probe["rate_per_second"].as_u64().unwrap();
        assert!(rate <= 102 || probe["finding"] != "kept", "{probe:#}");
        let directory = std::path::Path::new(probe["directory"].as_str().unwrap());
        let run: Value = serde_json::from_slice(&std::fs::read(directory.join("run.json")).unwrap()).unwrap();
        assert_eq!(run["counts"], probe["counts"]);
        assert_eq!(run["counts"]["planned"], rate, "one second at the probe's rate");
    }
}

/// Starts a search at 10/s on a target of its own and waits for its first lines: what it does, and its first probe.
fn searching() -> (Origin, Child, Vec<String>, Lines<BufReader<ChildStderr>>) {
    let listen = "127.0.0.1:0".parse().unwrap();
    let origin = Origin::start(OriginSettings { listen, ..OriginSettings::default() }).unwrap();
    let url = format!("http://{}/", origin.local_addr());
    let mut search = Command::new(FRACAS)
        .args(["capacity", &url, "-c", "2", "--slo", "p99<10s", "--from", "10/s"])
        .args(["--probe", "1s", "--warm-up", "0s", "--max-time", "1h"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(search.stderr.take().unwrap()).lines();
    let first = (0..2).map(|_| lines.next().unwrap().unwrap()).collect();
    (origin, search, first, lines)
}

#[test]
fn a_search_says_what_it_does_and_a_signal_ends_it_with_what_it_knows() {
    for signal in ["-INT", "-TERM", "-HUP"] {
        let (_origin, search, first, lines) = searching();
        assert!(first[0].contains("p99<10s") && first[0].contains("at most 1 h"), "{first:?}");
        assert!(Command::new("kill").args([signal, &search.id().to_string()]).status().unwrap().success());
        lines.for_each(drop);
        let output = search.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(130), "{signal}");
        let text = String::from_utf8(output.stdout).unwrap();
        // The first probe is kept unless the machine kept the generator from it.
        let says =
            ["capacity at least 10/s: the search was interrupted", "so far: the search was interrupted"];
        assert!(says.iter().any(|part| text.contains(part)), "{signal}: {text}");
        assert!(text.contains("10/s  "), "its table: {text}");
        assert!(!text.contains("nothing was measured"), "{text}");
    }
}

#[test]
fn a_search_has_a_bound() {
    let listen = "127.0.0.1:0".parse().unwrap();
    let origin = Origin::start(OriginSettings { listen, ..OriginSettings::default() }).unwrap();
    let url = format!("http://{}/", origin.local_addr());
    let output = Command::new(FRACAS)
        .args(["capacity", &url, "--slo", "p99<10s", "--probe", "1s", "--warm-up", "0s", "--max-time", "2s"])
        .args(["--json"])
        .output()
        .unwrap();
    // One probe fits into it, and no second one.
    assert_eq!(output.status.code(), Some(111));
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(
        (answer["end"].as_str(), answer["probes"].as_array().unwrap().len()),
        (Some("out_of_time"), 1)
    );
    // Where not even one fits, that is said before anything is sent.
    let output = Command::new(FRACAS)
        .args(["capacity", &url, "--slo", "p99<10s", "--probe", "1s", "--warm-up", "0s", "--max-time", "1s"])
        .output()
        .unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{error}");
    assert!(error.contains("--max-time 1 s ends before the first probe, which takes 1.05 s"), "{error}");
    assert_eq!(error.lines().count(), 1, "{error}");
}

#[test]
fn a_search_that_is_stopped_in_its_first_probe_shows_what_it_has_measured() {
    let listen = "127.0.0.1:0".parse().unwrap();
    let origin = Origin::start(OriginSettings { listen, ..OriginSettings::default() }).unwrap();
    let url = format!("http://{}/", origin.local_addr());
    let mut search = Command::new(FRACAS)
        .args([
            "capacity",
            &url,
            "-c",
            "2",
            "--slo",
            "p99<10s",
            "--from",
            "100/s",
            "--probe",
            "1m",
            "--warm-up",
            "0s",
        ])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(search.stderr.take().unwrap()).lines();
    assert!(lines.next().unwrap().unwrap().contains("searching"));
    // Until the target has answered some of it.
    while origin.answered() < 20 {
        std::thread::yield_now();
    }
    assert!(Command::new("kill").args(["-INT", &search.id().to_string()]).status().unwrap().success());
    lines.for_each(drop);
    let output = search.wait_with_output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(130), "{text}");
    let row = text.lines().find(|line| line.trim_start().starts_with("100/s"));
    assert!(row.is_some_and(|row| row.contains("cut off")), "{text}");
}
