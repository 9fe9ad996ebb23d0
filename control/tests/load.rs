//! `fracas load` as a script sees it: exit codes, one line for a mistake, and what an interrupt leaves behind.

#![allow(clippy::unwrap_used, reason = "a test")]

mod support;

use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::process::{Command, Stdio};
use std::time::Duration;

use fracas_dataplane::clock::Instant;
use fracas_dataplane::origin::{Origin, OriginSettings};
use fracas_loadgen::measure::Grade;
use fracas_loadgen::report::read_json;
use fracas_proto::v1::{ListLeasesRequest, RenewLeaseRequest};
use support::{Client, FRACAS, Proxy};

fn origin() -> Origin {
    let listen = "127.0.0.1:0".parse().unwrap();
    Origin::start(OriginSettings { listen, ..OriginSettings::default() }).unwrap()
}

#[test]
fn a_mistake_is_one_line_with_its_exit_code() {
    let origin = origin();
    let url = format!("http://{}/", origin.local_addr());
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let nobody_url = format!("http://{nobody}/");
    let file = tempfile::NamedTempFile::new().unwrap();
    let blocked = file.path().join("below/a/file").display().to_string();
    let cases: [(&[&str], i32, &str); 9] = [
        (&["nonsense"], 2, "`nonsense` is not a target; write http://"),
        (&[&url, "-d", "-1s"], 2, "`-1s` is not a duration"),
        (&[&url, "--slo", "p99"], 2, "compares nothing"),
        (&[&url, "--via", "nowhere"], 2, "`nowhere` has no port; write HOST:PORT"),
        (&[&url, "--insecure"], 2, "say where that is with --via"),
        (&[&url, "--token-file", "token"], 2, "say where that is with --via"),
        (&[&url, "-n", "1", "--out", &blocked], 2, "Not a directory; choose another directory"),
        (&[&nobody_url, "-n", "1"], 1, "is the target running?"),
        (&["http://no-such-name.invalid/", "-n", "1"], 1, "check the name, or write an address"),
    ];
    for (words, code, part) in cases {
        let output = Command::new(FRACAS).arg("load").args(words).output().unwrap();
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{words:?}: {error}");
        assert!(error.starts_with("fracas: ") && error.contains(part), "{words:?}: {error}");
        assert_eq!((error.lines().count(), output.stdout.len()), (1, 0), "{words:?}: {error}");
    }
}

#[test]
fn each_signal_that_ends_a_run_is_130_and_still_reported() {
    for signal in ["-INT", "-TERM", "-HUP"] {
        let origin = origin();
        let url = format!("http://{}/", origin.local_addr());
        let out = tempfile::tempdir().unwrap();
        let mut load = Command::new(FRACAS)
            .args(["load", &url, "-r", "100/s", "-c", "2", "-d", "1h", "--out"])
            .arg(out.path())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // The second line is the first second's: the run is well under way.
        let mut lines = BufReader::new(load.stderr.take().unwrap()).lines();
        assert!(lines.nth(1).unwrap().unwrap().contains("ok/s"));
        let killed = Command::new("kill").args([signal, &load.id().to_string()]).status().unwrap();
        assert!(killed.success());
        if signal == "-HUP" {
            // The terminal is gone: nothing reads what is said, and the report is written all the same.
            drop(lines);
        } else {
            lines.for_each(drop);
        }
        assert_eq!(load.wait().unwrap().code(), Some(130), "{signal}");
        let run = read_json(&std::fs::read(out.path().join("run.json")).unwrap()).unwrap();
        assert!(run.reasons[0].contains("ended early"), "{signal}: {:?}", run.reasons);
        assert_eq!(run.counts.check(), Ok(()));
        assert!(run.counts.ok > 0 && out.path().join("report.html").exists());
    }
}

#[test]
fn a_signal_before_the_load_begins_ends_it_at_once() {
    // An API that says nothing: the load waits for it.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let load = Command::new(FRACAS)
        .args(["load", ":1", "-n", "1", "--via", &silent.local_addr().unwrap().to_string()])
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // Once it dials, it listens to signals.
    let dialled = silent.accept().unwrap();
    assert!(Command::new("kill").args(["-TERM", &load.id().to_string()]).status().unwrap().success());
    let output = load.wait_with_output().unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(130), "{error}");
    assert!(error.contains("nothing was measured"), "{error}");
    drop(dialled);
}

#[test]
fn what_a_run_left_is_not_written_over_without_force() {
    let origin = origin();
    let url = format!("{}", origin.local_addr());
    let out = tempfile::tempdir().unwrap();
    let directory = out.path().join("results").display().to_string();
    let load = |words: &[&str]| {
        let output =
            Command::new(FRACAS).args(["load", &url, "-n", "1", "--out", &directory]).args(words).output();
        let output = output.unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    assert_eq!(load(&[]).0, Some(0));
    let (code, error) = load(&[]);
    assert!(code == Some(2) && error.contains("is not empty; choose another directory"), "{error}");
    assert_eq!(load(&["--force"]).0, Some(0));
    let plan =
        Command::new(FRACAS).args(["load", &format!("{directory}/run.json"), "--json"]).output().unwrap();
    assert_eq!(plan.status.code(), Some(0), "{}", String::from_utf8_lossy(&plan.stderr));
    let (first, again) = (std::fs::read(format!("{directory}/run.json")).unwrap(), plan.stdout);
    assert_eq!(read_json(&first).unwrap().plan, read_json(&again).unwrap().plan);
}

/// A run of a minute against `proxy` with these faults, in a file.
fn run_file(proxy: &Proxy, faults: &str) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::with_suffix(".yml").unwrap();
    let text = format!(
        "target: http://{}/\nconnections: 2\nphases: [{{rate: 100/s, for: 60s}}]\nfaults: [{faults}]\n",
        proxy.listen
    );
    std::fs::write(file.path(), text).unwrap();
    file
}

/// Each lease's id, and how long it lives without its owner.
async fn leases(client: &mut Client) -> Vec<(String, i64)> {
    let reply = client.list_leases(ListLeasesRequest::default()).await.unwrap().into_inner();
    reply.leases.into_iter().map(|lease| (lease.id, lease.ttl.map_or(i64::MAX, |ttl| ttl.seconds))).collect()
}

#[tokio::test]
async fn a_fault_does_not_outlive_its_load_by_more_than_its_lease() {
    let proxy = Proxy::start();
    let mut client = proxy.client().await;
    let file = run_file(&proxy, r#"{proxy: default, behavior: "5:hang", at: 40s, for: 20s}"#);
    let mut load = Command::new(FRACAS)
        .arg("load")
        .arg(file.path())
        .args(["--via", &proxy.api])
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(load.stderr.take().unwrap()).lines();
    assert!(lines.nth(1).unwrap().unwrap().contains("ok/s"));
    let planned = leases(&mut client).await;
    load.kill().unwrap();
    load.wait().unwrap();
    assert!(planned.len() == 1 && planned[0].1 <= 30, "{planned:?}");
    // It is renewable, which is how it lives until its window is over.
    let request = RenewLeaseRequest { lease_id: planned[0].0.clone(), ..RenewLeaseRequest::default() };
    client.renew_lease(request).await.unwrap();
}

#[tokio::test]
async fn a_refused_fault_takes_those_before_it_along_and_no_load_is_sent() {
    let proxy = Proxy::start();
    let mut client = proxy.client().await;
    let file = run_file(
        &proxy,
        r#"{proxy: default, behavior: "5:hang", at: 10s, for: 5s}, {proxy: absent, behavior: "5:hang", at: 10s, for: 5s}"#,
    );
    let output =
        Command::new(FRACAS).arg("load").arg(file.path()).args(["--via", &proxy.api]).output().unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{error}");
    assert!(error.contains("faults[1]: the proxy refuses it"), "{error}");
    assert_eq!(leases(&mut client).await, []);
}

/// What `fracas load --via` reports of a minute's worth of requests while `flip` acts on the proxy.
fn watched(proxy: &Proxy, words: &[&str], flip: impl FnOnce()) -> fracas_loadgen::measure::Summary {
    let out = tempfile::tempdir().unwrap();
    let mut load = Command::new(FRACAS)
        .args(["load", &format!("http://{}/", proxy.listen), "-r", "200/s", "-c", "20", "--via", &proxy.api])
        .args(words)
        .arg("--out")
        .arg(out.path())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(load.stderr.take().unwrap()).lines();
    assert!(lines.nth(1).unwrap().unwrap().contains("ok/s"));
    flip();
    lines.for_each(drop);
    load.wait().unwrap();
    read_json(&std::fs::read(out.path().join("run.json")).unwrap()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn rules_set_by_hand_have_their_life_as_window_and_their_failures_are_told_apart() {
    let proxy = Proxy::start();
    let flip = |words: &[&str]| {
        let done = Command::new(FRACAS).args(["behavior", "--api", &proxy.api]).args(words).output().unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    };
    let run = watched(&proxy, &["-d", "4s"], || {
        flip(&["set", "default", "50:error,50:normal"]);
        std::thread::sleep(std::time::Duration::from_millis(800));
        flip(&["reset"]);
    });
    let [window] = run.faults.as_slice() else { panic!("{:?}", run.faults) };
    assert_eq!(window.behavior, "50:error");
    assert!(window.end_ns - window.start_ns >= 800_000_000, "{window:?}");
    // Every failure was injected, and every injected failure was seen.
    let failed = run.counts.error + run.counts.timeout;
    assert!(failed > 0);
    assert_eq!((run.causes.injected, run.causes.natural), (Some(failed), Some(0)), "{window:?}");
    assert_eq!(window.injected, Some(failed));
    let around = window.around.as_ref().unwrap();
    // One may be due a moment before the tenth in which the last thread had the rules.
    assert!(around.during.failed + 2 >= failed, "{around:?}");
    assert_eq!(around.during.natural(), Some(0));
}

/// Sends a signal.
fn signal(name: &str, load: &std::process::Child) {
    assert!(Command::new("kill").args([name, &load.id().to_string()]).status().unwrap().success());
}

#[test]
fn a_load_that_was_stopped_says_that_it_was_itself() {
    let origin = origin();
    let url = format!("http://{}/", origin.local_addr());
    for model in [&["-r", "1000/s", "-c", "50"][..], &["-c", "10"], &["-r", "10/s", "-c", "2"]] {
        let out = tempfile::tempdir().unwrap();
        let mut load = Command::new(FRACAS)
            .args(["load", &url, "-d", "5s", "--out"])
            .arg(out.path())
            .args(model)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(load.stderr.take().unwrap()).lines();
        assert!(lines.nth(1).unwrap().unwrap().contains("ok/s"));
        signal("-STOP", &load);
        let from = Instant::now();
        std::thread::sleep(Duration::from_secs(1));
        let stopped = Instant::now() - from;
        signal("-CONT", &load);
        lines.for_each(drop);
        let code = load.wait().unwrap().code();
        let run = read_json(&std::fs::read(out.path().join("run.json")).unwrap()).unwrap();
        assert_ne!(run.verdict, Grade::Valid, "{model:?}: {:?}", run.reasons);
        assert_eq!(code, Some(if run.verdict == Grade::Invalid { 111 } else { 0 }));
        // How exactly is shown by the simulation; a busy machine moves both ends of the stop as seen from here.
        let [stall, own] = [run.own.stall_max_ns, run.own_lag.max].map(Duration::from_nanos);
        assert!(stall.min(own) > stopped * 4 / 5, "{model:?}: {stall:?} and {own:?} of {stopped:?}");
        assert!(run.reasons.iter().any(|reason| reason.contains("stood still for")), "{:?}", run.reasons);
        assert_eq!(run.counts.check(), Ok(()));
    }
}

#[test]
fn what_a_process_cannot_hold_is_refused_at_once() {
    let origin = origin();
    let url = format!("http://{}/", origin.local_addr());
    // In a shell of its own, whose limit is lower than what is asked for.
    let run = |words: &str| {
        let script = format!("ulimit -n 300; exec {FRACAS} load {url} {words}");
        Command::new("sh").args(["-c", &script]).output().unwrap()
    };
    for (words, part) in [
        ("-c 400 -d 1s", "400 connections on 1 thread need"),
        ("-c 280 -t 2 -r 10/s -d 1s", "this process may have 300 (RLIMIT_NOFILE)"),
        ("-t 9999 -d 1s", "9999"),
    ] {
        let output = run(words);
        let error = String::from_utf8(output.stderr).unwrap();
        assert!(matches!(output.status.code(), Some(1 | 2)), "{words}: {error}");
        assert!(error.contains(part) && error.lines().count() == 1, "{words}: {error}");
    }
    // What just fits runs, and every request has its outcome.
    let output = run("-c 200 -d 1s --json");
    let summary = read_json(&output.stdout).unwrap();
    assert_eq!((summary.counts.check(), summary.counts.error), (Ok(()), 0), "{:?}", summary.reasons);
}

#[test]
fn idle_threads_are_no_reason() {
    let origin = origin();
    let url = format!("http://{}/", origin.local_addr());
    let output = Command::new(FRACAS)
        .args(["load", &url, "-r", "1/s", "-t", "4", "-c", "4", "-n", "1", "--json"])
        .output()
        .unwrap();
    let run = read_json(&output.stdout).unwrap();
    assert!(!run.reasons.iter().any(|reason| reason.contains("busy")), "{:?}", run.reasons);
    assert_eq!((run.counts.planned, run.counts.ok), (1, 1));
}

#[test]
fn a_server_that_hangs_up_is_said_to_close() {
    for _ in 0..8 {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        // Until the listener is closed at the end of the process.
        std::thread::spawn(move || listener.incoming().for_each(drop));
        let output = Command::new(FRACAS)
            .args(["load", &url, "-r", "50/s", "-c", "2", "-n", "20", "--json"])
            .output()
            .unwrap();
        let error = String::from_utf8(output.stderr).unwrap();
        if output.stdout.is_empty() {
            assert!(error.contains("it accepts connections and closes them at once"), "{error}");
            continue;
        }
        let run = read_json(&output.stdout).unwrap();
        let closed = ["closed before the reply ended", "connection reset"];
        assert!(closed.iter().any(|kind| run.reasons[0].contains(kind)), "{:?}", run.reasons);
        assert_eq!((run.counts.planned, run.counts.error), (20, 20), "{:?}", run.errors);
    }
}
