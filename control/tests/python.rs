//! The Python example against real processes: it flips a behavior in the middle of a load and reads the effect back.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod support;

use std::path::{Path, PathBuf};
use std::process::Command;

use support::{FRACAS, Proxy};

/// A Python that has grpcio and its tools: `FRACAS_PYTHON`, else a virtual environment made below `target`.
fn python_with_grpcio() -> Option<PathBuf> {
    let works = |python: &Path| {
        let import = ["-c", "import grpc, grpc_tools, google.protobuf"];
        Command::new(python).args(import).output().is_ok_and(|output| output.status.success())
    };
    if let Some(python) = std::env::var_os("FRACAS_PYTHON").map(PathBuf::from).filter(|p| works(p)) {
        return Some(python);
    }
    let venv = Path::new(env!("CARGO_TARGET_TMPDIR")).join("grpcio-venv");
    let python = venv.join("bin/python");
    // Only CI fetches packages by itself.
    if !works(&python) && std::env::var_os("CI").is_some() {
        Command::new("python3").args(["-m", "venv"]).arg(&venv).status().ok()?;
        let packages = ["grpcio", "grpcio-tools", "protobuf"];
        Command::new(&python).args(["-m", "pip", "install", "-q"]).args(packages).status().ok()?;
    }
    works(&python).then_some(python)
}

#[test]
fn the_example_flips_a_behavior_in_a_running_load_and_reads_its_effect() {
    let Some(python) = python_with_grpcio() else {
        assert!(
            std::env::var_os("CI").is_none(),
            "PyPI grpcio is missing; pip install grpcio grpcio-tools protobuf"
        );
        println!(
            "skipped: PyPI grpcio and grpcio-tools are missing; set FRACAS_PYTHON to a Python that has them"
        );
        return;
    };
    let fracas = Proxy::start();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../proto/examples/flip.py");
    let run = |more: &[&str]| {
        let mut command = Command::new(&python);
        command.arg(&script).args(["--api", &fracas.api, "--phase", "1", "--delay", "50ms"]).args(more);
        let output = command.output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (output.status.code(), text(&output.stdout), text(&output.stderr))
    };
    let (code, stdout, stderr) = run(&["--fracas", FRACAS, "--rate", "200/s"]);
    assert_eq!(code, Some(0), "{stdout}{stderr}");
    for words in
        ["20:delay on default: generation ", "before ", "during ", "after ", "lease-1/delay acted on "]
    {
        assert!(stdout.contains(words), "no `{words}` in:\n{stdout}{stderr}");
    }
    // Of what the load and the example sent, a fifth was delayed: 200 a second for a second, σ = 5.7 of 40.
    let figures = stdout.lines().find(|line| line.starts_with("proxy says: ")).unwrap();
    let numbers: Vec<u64> = figures.split(' ').filter_map(|word| word.parse().ok()).collect();
    let [acted, met] = numbers[..2] else { panic!("{figures}") };
    assert!(met >= 20 && acted > 0 && acted < met, "{figures}");

    let (code, _, stderr) = run(&["--proxy", "nowhere"]);
    assert_eq!(code, Some(1));
    assert!(stderr.contains("NOT_FOUND: there is no proxy `nowhere`"), "{stderr}");
}
