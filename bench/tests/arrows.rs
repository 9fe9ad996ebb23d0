//! Who may know whom: the arrows between the crates and between their modules, read from the sources.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::fs;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// Every Rust file below `path`, or the file itself, with its text.
fn sources(path: &str) -> Vec<(String, String)> {
    let mut waiting = vec![root().join(path)];
    let mut found = Vec::new();
    while let Some(path) = waiting.pop() {
        if path.is_dir() {
            waiting.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let name = path.strip_prefix(root()).unwrap().display().to_string();
            found.push((name, fs::read_to_string(&path).unwrap()));
        }
    }
    assert!(!found.is_empty(), "{path} has no sources");
    found
}

/// The code of a file without its comments and without its tests, which may know more.
fn code(text: &str) -> String {
    let code = text.split("#[cfg(test)]").next().unwrap();
    code.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n")
}

fn assert_without(paths: &[&str], forbidden: &[&str], except: &[&str]) {
    for (name, text) in paths.iter().flat_map(|path| sources(path)) {
        if name.ends_with("tests.rs") || except.contains(&name.as_str()) {
            continue;
        }
        let code = code(&text);
        for word in forbidden {
            assert!(!code.contains(word), "{name} must know nothing of `{word}`");
        }
    }
}

/// The names of a crate's dependencies; those for its tests are not asked.
fn dependencies(krate: &str) -> Vec<String> {
    let manifest = fs::read_to_string(root().join(krate).join("Cargo.toml")).unwrap();
    let mut inside = false;
    let mut names = Vec::new();
    for line in manifest.lines() {
        if line.starts_with('[') {
            inside = line == "[dependencies]";
        } else if inside && let Some((name, _)) = line.split_once('=') {
            names.push(name.trim().trim_end_matches(".workspace").to_owned());
        }
    }
    assert!(!names.is_empty(), "{krate} depends on nothing?");
    names
}

#[test]
fn crates_depend_only_along_the_arrows() {
    let ours = |krate: &str| -> Vec<String> {
        dependencies(krate).into_iter().filter(|name| name.starts_with("fracas-")).collect()
    };
    assert!(ours("proto").is_empty());
    assert!(ours("dataplane").is_empty());
    assert_eq!(ours("loadgen"), ["fracas-dataplane"]);
    assert!(ours("control").iter().all(|name| name != "fracas-bench"), "nobody depends on bench");
}

#[test]
fn the_dataplane_and_the_load_know_no_rpc_and_no_async_runtime() {
    for krate in ["dataplane", "loadgen"] {
        for name in dependencies(krate) {
            let heavy = ["tonic", "prost", "tokio", "hyper", "axum", "async-std", "futures"];
            assert!(!heavy.iter().any(|heavy| name.starts_with(heavy)), "{krate} depends on {name}");
        }
    }
}

#[test]
fn behaviors_and_protocols_know_nothing_of_the_proxy_and_the_ring() {
    let paths = ["dataplane/src/behavior", "dataplane/src/protocol"];
    assert_without(&paths, &["crate::proxy", "crate::ring", "crate::origin", "std::fs", "std::thread"], &[]);
    // Addresses are data; sockets are not.
    assert_without(&paths, &["TcpStream", "TcpListener", "UdpSocket", "Instant::now"], &[]);
    assert_without(&["dataplane/src/ring"], &["crate::proxy", "crate::behavior", "crate::protocol"], &[]);
    assert_without(&["dataplane/src/protocol"], &["crate::behavior"], &[]);
}

#[test]
fn the_proxy_knows_nothing_of_the_config() {
    assert_without(&["dataplane/src/proxy"], &["crate::config"], &[]);
}

/// The lines of a manifest, each with the table that it stands in, without comments.
fn manifest(path: &str) -> Vec<(String, String)> {
    let text = fs::read_to_string(root().join(path)).unwrap();
    let mut table = String::new();
    let mut lines = Vec::new();
    for line in text.lines().map(str::trim).filter(|line| !line.starts_with('#')) {
        if line.starts_with('[') {
            line.clone_into(&mut table);
        } else {
            lines.push((table.clone(), line.to_owned()));
        }
    }
    assert!(!lines.is_empty(), "{path} says nothing");
    lines
}

#[test]
fn the_simulated_ring_is_built_for_tests_alone() {
    for path in ["", "proto/", "dataplane/", "loadgen/", "control/", "bench/"] {
        let path = format!("{path}Cargo.toml");
        for (table, line) in manifest(&path) {
            let is_its_name =
                path == "dataplane/Cargo.toml" && table == "[features]" && line == "simulated = []";
            let is_for_tests = table.starts_with("[dev-dependencies");
            let turns_it_on = line.contains("simulated");
            assert!(
                !turns_it_on || is_its_name || is_for_tests,
                "{path}: {table} turns the simulated ring on: {line}"
            );
        }
    }
    // Features of whoever is built together are joined, so plain `cargo test` has it: code must not take that for granted.
    let paths = ["loadgen/src", "control/src", "bench/src"];
    assert_without(&paths, &["ring::simulated", "SimulatedRing", "feature = \"simulated\""], &[]);
}

#[test]
fn arrivals_measures_and_reports_do_no_io() {
    let paths = ["loadgen/src/arrival", "loadgen/src/measure", "loadgen/src/report"];
    let io = ["std::net", "std::fs", "std::thread", "std::process", "fs::", "Instant::now", "SystemTime"];
    assert_without(&paths, &io, &["loadgen/src/report/run_dir.rs"]);
}

#[test]
fn only_the_ring_is_unsafe() {
    let paths = ["proto/src", "dataplane/src", "loadgen/src", "control/src"];
    for (name, text) in paths.iter().flat_map(|path| sources(path)) {
        if name.starts_with("dataplane/src/ring/") || name.starts_with("proto/src/gen/") {
            continue;
        }
        let code = code(&text);
        assert!(!code.contains("unsafe ") && !code.contains("(unsafe_code"), "{name} holds unsafe code");
    }
    // In bench, each item that holds some is marked with its reason.
    for (name, text) in sources("bench/src") {
        assert!(!text.contains("allow(unsafe_code"), "{name} must `expect` it with a reason");
        let marked = text.contains("expect(unsafe_code, reason");
        assert!(marked || !text.contains("unsafe {"), "{name} holds unsafe code without a reason");
    }
}
