//! The README's first minute, pasted: every command of its block ends as it should, and nothing is left running.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};

const FRACAS: &str = env!("CARGO_BIN_EXE_fracas");
const README: &str = include_str!("../../README.md");

/// A port that was free a moment ago.
fn port() -> String {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port().to_string()
}

/// The block, on ports of this test: others may use those of the README at the same time.
fn block(ports: &[(&str, String)]) -> String {
    let blocks = README.split("```sh\n").skip(1).map(|rest| rest.split("\n```").next().unwrap());
    let mut block = blocks.into_iter().find(|block| block.contains("fracas origin")).unwrap().to_owned();
    // The binary is built: it runs this test's.
    let (build, rest) = block.split_once('\n').unwrap();
    assert!(build.starts_with("cargo build --release && export PATH="), "{build}");
    block = rest.to_owned();
    for (theirs, ours) in ports {
        assert!(block.contains(theirs), "{theirs}");
        block = block.replace(theirs, &format!(":{ours}"));
    }
    block
}

#[test]
fn the_block_of_the_readme_pastes_as_it_is() {
    let [origin, proxy, api] = [port(), port(), port()];
    let block = block(&[(":8080", origin.clone()), (":8081", proxy.clone()), (":7401", api.clone())]);
    let directory = tempfile::tempdir().unwrap();
    // The block leaves the API where it is by default; here it is moved.
    let fracas = directory.path().join("fracas");
    let words = format!(
        "#!/bin/sh\ncase $1 in\n  proxy|behavior) exec '{FRACAS}' \"$@\" --api :{api} ;;\n  *) exec '{FRACAS}' \"$@\" ;;\nesac\n"
    );
    std::fs::write(&fracas, words).unwrap();
    std::fs::set_permissions(&fracas, std::fs::Permissions::from_mode(0o755)).unwrap();
    let path = format!("{}:{}", directory.path().display(), std::env::var("PATH").unwrap());
    // Into a file: what is left running must not keep this test from its end.
    let said = directory.path().join("said");
    let file = std::fs::File::create(&said).unwrap();
    let script = format!("trap 'echo \"ended $?: $BASH_COMMAND\"' ERR\n{block}\necho the end\n");
    let ended = Command::new("bash")
        .args(["-c", &script])
        .env("PATH", path)
        .current_dir(directory.path())
        .stdin(Stdio::null())
        .stdout(file.try_clone().unwrap())
        .stderr(file)
        .status()
        .unwrap();
    let text = std::fs::read_to_string(&said).unwrap();
    assert!(ended.success() && text.ends_with("the end\n"), "{text}");
    for part in [
        "20:delay,5:error; generation 2, on ",
        "100:hang for 2 s; generation ",
        "normal, 0 leases ended",
        "acted on ",
        "report: results/report.html",
        "requests  12,000 planned = ",
        "injected",
    ] {
        assert!(text.contains(part), "no `{part}` in:\n{text}");
    }
    // A machine that is busy with other things may keep the generator from its schedule, which is told; nothing else fails.
    for failed in text.lines().filter_map(|line| line.strip_prefix("ended ")) {
        let is_of_machine = ["99: fracas capacity", "111: fracas capacity", "111: wait"];
        assert!(is_of_machine.iter().any(|known| failed.starts_with(known)), "{failed}\n{text}");
    }
    assert!(directory.path().join("results/report.html").exists());
    for port in [&origin, &proxy, &api] {
        TcpListener::bind(format!("127.0.0.1:{port}")).expect("nothing is left that listens");
    }
}
