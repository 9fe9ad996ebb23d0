//! `fracas capacity` against a real target whose capacity follows from arithmetic: two connections on which every reply
//! takes 20 ms answer at most 100 requests a second.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::process::Command;
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
    // 95 % of the asked rate must be answered, and no more than 100/s can be.
    assert!(answer["rate_per_second"].as_u64().is_none_or(|rate| rate <= 106), "{answer:#}");
    let probes = answer["probes"].as_array().unwrap();
    assert!(probes.len() > 1, "{answer:#}");
    for probe in probes {
        let rate = probe["rate_per_second"].as_u64().unwrap();
        assert!(rate <= 106 || probe["finding"] != "kept", "{probe:#}");
        let directory = std::path::Path::new(probe["directory"].as_str().unwrap());
        let run: Value = serde_json::from_slice(&std::fs::read(directory.join("run.json")).unwrap()).unwrap();
        assert_eq!(run["counts"], probe["counts"]);
        assert_eq!(run["counts"]["planned"], rate, "one second at the probe's rate");
    }
}
