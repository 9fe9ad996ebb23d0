//! What becomes of a command whose output nobody takes: a reader that left is no failure and never a panic, an answer that
//! did not arrive is one line on stderr and exit code 1.

#![allow(clippy::unwrap_used, reason = "a test")]

mod support;

use std::fs::File;
use std::process::{Command, Output, Stdio};

use support::{Controller, FRACAS, Proxy};

/// Runs `words` with its output going to `stdout`, and its errors to a pipe.
fn fracas(words: &str, stdout: Stdio) -> Output {
    Command::new(FRACAS).args(words.split_whitespace()).stdout(stdout).output().unwrap()
}

/// A pipe that nobody reads any more.
fn left() -> Stdio {
    std::io::pipe().unwrap().1.into()
}

#[test]
fn a_reader_that_left_is_no_failure_and_a_full_disk_is() {
    let proxy = Proxy::start();
    let controller = Controller::start_with(&[]);
    let Proxy { api, listen, .. } = &proxy;
    let directory = tempfile::tempdir().unwrap();
    let run = directory.path().join("run");
    let load = format!("load {listen}/ -n 5 --out {}", run.display());
    fracas(&load, Stdio::null());
    // What a load finds is in its exit code, read or not: on a busy machine it may find its own figures late.
    let found = [0, 111];
    let cases: Vec<(String, &[i32])> = vec![
        ("behavior list".to_owned(), &[0]),
        ("behavior list --json".to_owned(), &[0]),
        (format!("behavior get --api {api}"), &[0]),
        (format!("behavior get --json --api {api}"), &[0]),
        (format!("behavior set default 20:delay --api {api}"), &[0]),
        (format!("behavior reset --api {api}"), &[0]),
        ("doctor".to_owned(), &[0]),
        ("doctor --json".to_owned(), &[0]),
        ("load --example".to_owned(), &[0]),
        (format!("load {listen}/ -n 5"), &found),
        (format!("load {listen}/ -n 5 --json"), &found),
        (format!("report show {}", run.display()), &[0]),
        (format!("report diff {0} {0}", run.display()), &[0]),
        (format!("run list --api {}", controller.api), &[0]),
        (format!("node list --json --api {}", controller.api), &[0]),
        (format!("capacity {listen}/ --slo p99<1h --from 50 --max 50 --probe 1s --warm-up 0s"), &found),
    ];
    for (words, codes) in cases {
        let output = fracas(&words, left());
        let error = String::from_utf8(output.stderr).unwrap();
        assert!(codes.contains(&output.status.code().unwrap()), "{words}: {:?} {error}", output.status);
        assert!(!error.contains("pipe") && !error.contains("panicked"), "{words}: {error}");

        let full = File::options().write(true).open("/dev/full").unwrap();
        let output = fracas(&words, full.into());
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{words}: {error}");
        let last = error.lines().last().unwrap_or_default();
        assert_eq!(last, "fracas: cannot write to standard output: No space left on device", "{words}");
    }
}

#[test]
fn errors_that_nobody_reads_change_no_exit_code() {
    for (words, code) in [("behavior get --api :1", 1), ("load", 2), ("load :1 --rat 5", 2)] {
        let mut command = Command::new(FRACAS);
        command.args(words.split_whitespace()).stdout(left()).stderr(left());
        assert_eq!(command.status().unwrap().code(), Some(code), "{words}");
    }
}

/// It would go on for ever.
#[test]
fn a_watch_that_nobody_reads_ends() {
    let proxy = Proxy::start();
    let words = format!("behavior watch --json --api {}", proxy.api);
    let mut watch = Command::new(FRACAS);
    let mut watch = watch.args(words.split_whitespace()).stdout(left()).spawn().unwrap();
    let ended = (0..2000).find_map(|_| {
        fracas(&format!("behavior set default 20:delay --api {}", proxy.api), Stdio::null());
        watch.try_wait().unwrap()
    });
    if ended.is_none() {
        watch.kill().unwrap();
        watch.wait().unwrap();
    }
    assert_eq!(ended.expect("a change was told, and could not be printed").code(), Some(0));
}
