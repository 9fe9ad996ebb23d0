//! Wrong command lines, verb by verb: each is answered in one line that says what to do, with the exit code that its
//! kind has everywhere: 2 for what is wrong on the command line or in a file it names, 1 for what is wrong elsewhere.

#![allow(clippy::unwrap_used, reason = "a test")]

mod support;

use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use support::{FRACAS, Proxy};

const USAGE: i32 = 2;
const ERROR: i32 = 1;

fn fracas(directory: &Path, words: &str) -> Output {
    Command::new(FRACAS).args(words.split_whitespace()).current_dir(directory).output().unwrap()
}

/// Checks `words`, which are separated by spaces, against the exit code and a part of the one line.
fn check(directory: &Path, cases: &[(&str, i32, &str)]) {
    for (words, code, part) in cases {
        let output = fracas(directory, words);
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(*code), "{words}: {error}");
        assert_eq!(error.lines().count(), 1, "{words}: {error}");
        assert!(error.starts_with("fracas: ") && error.contains(part), "{words}: {error}");
        assert!(error.len() < 400 && !error.contains("os error"), "{words}: {error}");
        assert!(output.stdout.is_empty(), "{words}: {}", String::from_utf8_lossy(&output.stdout));
    }
}

/// A directory with one of everything that is not what is wanted.
fn files() -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    let write = |name: &str, bytes: &[u8]| std::fs::write(directory.path().join(name), bytes).unwrap();
    std::fs::create_dir_all(directory.path().join("full")).unwrap();
    write("full/something", b"x");
    write("empty.yml", b"");
    write("binary.yml", &[0xff, 0xfe, 0, 1]);
    write("tabs.yml", b"target: :1\nphases:\n\t- {rate: 5, for: 1s}\n");
    write("proxies-tabs.yml", b"proxies:\n\t- listen: :1\n");
    write("list.yml", b"[1, 2]");
    write("slo.yml", b"target: :1\nphases: [{rate: 5, for: 1s}]\nslo: [p99<50]\n");
    write("key.yml", b"target: :1\nphase: [{rate: 5, for: 1s}]\n");
    write(
        "faults.yml",
        b"target: :1\nphases: [{rate: 5, for: 1s}]\nfaults: [{proxy: p, behavior: hang, for: 1s}]\n",
    );
    write("kind.yml", b"target: :1\nphases: [{rate: 5, for: 1s}]\nseed: -1\n");
    write(
        "late.yml",
        b"target: :1\nphases: [{rate: 5, for: 1s}]\nfaults: [{proxy: p, behavior: hang, at: 9s, for: 1s}]\n",
    );
    write("good.yml", b"target: :1\nphases: [{rate: 5, for: 1s}]\n");
    write("behavior.yml", b"proxies: [{listen: ':0', upstream: ':1', behavior: '20:dely'}]\n");
    write("run.json", b"{\"x\": 1}");
    let mut long = b"target: :1\n".to_vec();
    long.resize(10 << 20, b'#');
    write("long.yml", &long);
    directory
}

#[test]
fn a_wrong_command_line_is_answered_in_one_line() {
    let directory = files();
    check(
        directory.path(),
        &[
            ("nonsense", USAGE, "unrecognized subcommand 'nonsense'"),
            ("laod", USAGE, "; a similar subcommand exists: 'load'"),
            // load: its target and its files.
            ("load", USAGE, "<URL|FILE>"),
            ("load nonsense", USAGE, "is not a target; write http://"),
            ("load ftp://x", USAGE, "is not a target"),
            ("load https://x", USAGE, "https is not built yet"),
            ("load absent.yml", USAGE, "cannot read absent.yml: No such file or directory; give a run file"),
            ("load full", USAGE, "full is a directory; give a run file"),
            ("load empty.yml", USAGE, "it needs `target` and `phases`"),
            ("load list.yml", USAGE, "it needs `target` and `phases`"),
            ("load binary.yml", USAGE, "binary.yml is not text"),
            ("load tabs.yml", USAGE, "tabs.yml:3:2: a tab stands where the line is indented; use spaces"),
            ("load long.yml", USAGE, "long.yml is longer than 4 MiB"),
            (
                "load slo.yml",
                USAGE,
                "slo.yml:3:7: slo[0]: `50` is not a bound for p99; did you mean 50ms, or 50s?",
            ),
            ("load key.yml", USAGE, "key.yml:2:1: unknown key `phase`; did you mean `phases`?"),
            ("load faults.yml", USAGE, "--via HOST:PORT"),
            ("load good.yml -r 5", USAGE, "--rate is said in the run file; change it there"),
            ("load run.json", USAGE, "run.json:1:2: unknown key `x`"),
            // load: its flags.
            ("load :1 -d 30", USAGE, "did you mean 30s?"),
            ("load :1 -r 500rps", USAGE, "did you mean 500/s?"),
            ("load :1 -r 0", USAGE, "a rate must be above 0"),
            ("load :1 -c x", USAGE, "write a whole number"),
            ("load :1 -c 0", USAGE, "needs a connection; write a whole number from 1 to 4294967295"),
            ("load :1 -n 0", USAGE, "write a whole number from 1 to 18446744073709551615, or -d TIME"),
            ("load :1 --seed -1", USAGE, "write a whole number from 0 to 18446744073709551615"),
            ("load :1 -t 5000", USAGE, "write a whole number from 1 to 1024"),
            ("load :1 -d 99999999999h", USAGE, "give at most 5124095h"),
            ("load :1 -r 2000M", USAGE, "give at most 1000M/s"),
            ("load tcp://:1 --payload 5GiB", USAGE, "give at most 4294967295B"),
            ("load kind.yml", USAGE, "kind.yml:3:7: seed: `-1` is not a whole number from 0 to"),
            ("load late.yml", USAGE, "let the fault begin before 1s"),
            ("load :1 --vus 5", USAGE, "there is no --vus: a user is a connection"),
            ("load :1 -R 500", USAGE, "a rate is -r 500/s"),
            ("load :1 -duration=5s", USAGE, "a long flag has two: --duration"),
            ("load :1 --conections 5", USAGE, "; a similar argument exists: '--connections'"),
            ("load :1 --payload 5", USAGE, "--payload: only tcp:// targets"),
            ("load tcp://:1 --body x", USAGE, "--body: only http:// targets"),
            ("load :1 --drop-after 1s", USAGE, "--drop-after: only with a rate"),
            ("load :1 --precise", USAGE, "--precise: without a rate"),
            ("load :1 -t 5", USAGE, "--threads: more threads than connections"),
            ("load :1 --slo errors<101%", USAGE, "asks for more than 100 %"),
            ("load :1 --slo p99<0", USAGE, "can never be kept"),
            ("load :1 --header x", USAGE, "write it as NAME: VALUE"),
            ("load :1 --body-file absent", USAGE, "--body-file: cannot read absent"),
            ("load :1 --via nope", USAGE, "write HOST:PORT"),
            ("load :1 --out full", USAGE, "full is not empty; choose another directory, or say --force"),
            ("load :1 --out full/something", USAGE, "--out: cannot write full/something"),
            ("load :1 --out good.yml/below --force", USAGE, "choose another directory"),
            ("load :1 --force", USAGE, "--force is about --out DIR"),
            ("load :1 --token-file absent", USAGE, "--via HOST:PORT"),
            // capacity.
            ("capacity :1", USAGE, "--slo <SLO>"),
            ("capacity good.yml --slo p99<1s", USAGE, "is not a target"),
            ("capacity :1 --slo p99<1s -r 500", USAGE, "capacity searches the rate"),
            ("capacity :1 --slo p99<1s --from 5k --max 1k", USAGE, "--from: 5000/s is above --max 1000/s"),
            (
                "capacity :1 --slo p99<1s --max 2000M",
                USAGE,
                "--max: 2000000000/s is too high; give at most 1000M/s",
            ),
            ("capacity :1 --slo p99<1s --from 2000M --max 3000M", USAGE, "--from: 2000000000/s is too high"),
            ("capacity :1 --slo p99<1s --seed -1", USAGE, "write a whole number from 0 to"),
            ("capacity :1 --slo p99<1s -c 0", USAGE, "write a whole number from 1 to 4294967295"),
            ("capacity :1 --slo p99<1s -t x", USAGE, "write a whole number from 1 to 1024"),
            ("capacity :1 --slo p99<1s --tolerance -1%", USAGE, "from 0.1% to 100%"),
            ("capacity :1 --slo p99<1s --probe 0", USAGE, "--probe: at least 1s"),
            ("capacity :1 --slo p99<1s --timeout 0", USAGE, "--timeout: must be above 0"),
            ("capacity :1 --slo p99<1s --max-time 99999999999h", USAGE, "give at most 5124095h"),
            ("capacity :1 --slo p99<1s --out full", USAGE, "--force"),
            ("capacity :1 --slo p99<1s -t 9 -c 2", USAGE, "--threads: more threads than connections"),
            // proxy.
            ("proxy", USAGE, "--listen <HOST:PORT> --upstream <HOST:PORT>"),
            ("proxy --config absent.yml", USAGE, "absent.yml: cannot read the file"),
            ("proxy --config full", USAGE, "cannot read the file"),
            ("proxy --config empty.yml", USAGE, "empty.yml:1:1: "),
            ("proxy --config binary.yml", USAGE, "binary.yml: cannot read the file"),
            (
                "proxy --config proxies-tabs.yml",
                USAGE,
                "2:2: a tab stands where the line is indented; use spaces",
            ),
            ("proxy --config behavior.yml", USAGE, "did you mean `delay`?"),
            ("proxy --config behavior.yml --listen :0", USAGE, "cannot be used with"),
            ("proxy --listen 8081 --upstream :1", USAGE, "`8081` has no port; write HOST:PORT"),
            ("proxy --listen :0 --upstream nowhere", USAGE, "`nowhere` has no port"),
            ("proxy --listen :0 --upstream :1 --behavior 20:dely", USAGE, "did you mean `delay`?"),
            ("proxy --listen :0 --upstream :1 --behavior 20:delay --delay-time 5", USAGE, "cannot be `5`"),
            ("proxy --listen :0 --upstream :1 --behavior 5:error --delay-time 5s", USAGE, "does not use"),
            ("proxy --listen :0 --upstream :1 --delay-time 5s", USAGE, "needs --behavior"),
            ("proxy --listen :0 --upstream :1 --protocol htp", USAGE, "did you mean `http`?"),
            ("proxy --listen :0 --upstream :1 --api nonsense", USAGE, "or `none`"),
            ("proxy --listen :0 --upstream :1 --api none --statsd-prefix x", USAGE, "give that, too"),
            ("proxy --listen :0 --upstream :1 --tls", USAGE, "--join"),
            (
                "proxy --listen :0 --upstream :1 --token-file absent",
                USAGE,
                "cannot read the token from absent",
            ),
            ("proxy --port 80", USAGE, "--listen :8081"),
            // origin, controller, agent.
            ("origin --listen 8080", USAGE, "`8080` has no port"),
            ("origin --threads 0", USAGE, "write a whole number from 1 to 1024"),
            ("origin --threads -1", USAGE, "write a whole number from 1 to 1024"),
            ("origin --connections-max x", USAGE, "write a whole number from 1 to 4294967295"),
            ("origin --service-time 1ms --workers 1000001", USAGE, "write a whole number from 1 to 1000000"),
            ("proxy --api-connections 0", USAGE, "write a whole number from 1 to 4294967295"),
            ("proxy --threads 99999999999999999999", USAGE, "write a whole number from 1 to 1024"),
            ("proxy --seed -1", USAGE, "write a whole number from 0 to 18446744073709551615"),
            ("origin --echo --body-bytes 5", USAGE, "cannot be used with"),
            ("origin --body-bytes 64K", USAGE, "did you mean 64KiB?"),
            ("controller --out good.yml", USAGE, "--out: cannot write good.yml"),
            ("controller --api 192.0.2.1:7400 --out new", USAGE, "--insecure"),
            ("controller --listen :1", USAGE, "--api HOST:PORT"),
            ("agent", USAGE, "--join <HOST:PORT>"),
            ("agent --join nope", USAGE, "`nope` has no port"),
            ("agent --join :1 --threads 0", USAGE, "write a whole number from 1 to 1024"),
            ("agent --join :1 --threads 9999", USAGE, "write a whole number from 1 to 1024"),
            // behavior, run, node: what needs no server.
            ("behavior set default", USAGE, "<MIX>"),
            ("behavior bogus", USAGE, "unrecognized subcommand 'bogus'"),
            ("behavior watch --kind nope", USAGE, "natural_failure"),
            ("behavior get --api nope", USAGE, "`nope` has no port"),
            ("behavior get --token-file absent", USAGE, "cannot read the token from absent"),
            (
                "run submit absent.yml",
                USAGE,
                "cannot read absent.yml: No such file or directory; give a run file",
            ),
            ("run submit full", USAGE, "full is a directory; give a run file"),
            ("run submit binary.yml", USAGE, "binary.yml is not text"),
            ("run submit long.yml", USAGE, "longer than 4 MiB"),
            ("run show", USAGE, "<ID>"),
            ("node drain", USAGE, "<NAME>"),
            // report, demo, doctor.
            ("report show", USAGE, "<DIR>"),
            (
                "report show absent",
                USAGE,
                "cannot read absent: No such file or directory; give a run directory",
            ),
            ("report show full", USAGE, "cannot read full/run.json"),
            ("report show binary.yml", USAGE, "binary.yml: not a run.json of this version"),
            ("report show run.json", USAGE, "run.json: not a run.json of this version"),
            ("report diff full", USAGE, "<AFTER>"),
            ("demo --duration 1s", USAGE, "give at least 4s"),
            ("demo --out good.yml", USAGE, "--out: cannot write good.yml"),
            ("doctor --jsn", USAGE, "; a similar argument exists: '--json'"),
        ],
    );
}

#[test]
fn what_is_not_there_or_taken_is_named_with_what_to_do() {
    let directory = files();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let case = |words: &str| words.replace("TAKEN", &taken).replace("NOBODY", &nobody.to_string());
    let cases: Vec<(String, i32, &str)> = vec![
        (case("load NOBODY -n 1"), ERROR, "is the target running?"),
        (case("load NOBODY -n 1 --via NOBODY"), ERROR, "start one with `fracas proxy"),
        (case("load http://no-such-name.invalid/ -n 1"), ERROR, "check the name, or write an address"),
        (case("capacity NOBODY --slo p99<1s --json"), ERROR, "is the target running?"),
        (case("origin --listen TAKEN"), ERROR, "cannot listen on 127.0.0.1:"),
        (case("proxy --listen TAKEN --upstream :1 --api :0"), ERROR, "cannot listen on 127.0.0.1:"),
        (case("proxy --listen :0 --upstream :1 --api TAKEN"), ERROR, "choose another with --api"),
        (case("controller --api TAKEN --out new"), ERROR, "cannot listen on 127.0.0.1:"),
        (case("behavior get --api NOBODY"), ERROR, "start one with `fracas proxy"),
        (case("run list --api NOBODY"), ERROR, "start one with `fracas controller`"),
        (case("node list --api NOBODY"), ERROR, "start one with `fracas controller`"),
    ];
    let cases: Vec<(&str, i32, &str)> =
        cases.iter().map(|(words, code, part)| (words.as_str(), *code, *part)).collect();
    check(directory.path(), &cases);
}

#[test]
fn a_refused_run_leaves_no_directory_of_its_own() {
    let files = files();
    std::fs::create_dir_all(files.path().join("mine")).unwrap();
    // Nobody listens there.
    let nobody = "127.0.0.1:1";
    for (out, stays) in [("new", false), ("mine", true)] {
        for words in [
            format!("load {nobody} -r 5 -d 1s --out {out}"),
            format!("capacity {nobody} --slo p99<1s --probe 1s --warm-up 0s --out {out}"),
        ] {
            let refused = fracas(files.path(), &words);
            let error = String::from_utf8_lossy(&refused.stderr).into_owned();
            assert!(
                refused.status.code() == Some(ERROR) && error.contains("cannot connect"),
                "{words}: {error}"
            );
            assert_eq!(files.path().join(out).exists(), stays, "{words}");
        }
    }
    let short = "capacity :1 --slo p99<1s --probe 0s";
    check(files.path(), &[(short, USAGE, "--probe: at least 1s")]);
    check(files.path(), &[("load :1 -r 5 -d 1s --name= ", USAGE, "must not be empty")]);
}

#[test]
fn what_a_proxy_refuses_is_told_in_its_words() {
    let proxy = Proxy::start();
    let directory = files();
    let case = |words: &str| format!("{words} --api {}", proxy.api);
    let cases: Vec<(String, i32, &str)> = vec![
        (case("behavior set absent normal"), ERROR, "absent"),
        (case("behavior get absent"), ERROR, "absent"),
        (case("behavior set default 20:dely"), USAGE, "did you mean `delay`?"),
        (case("behavior set default 120:delay"), USAGE, "120"),
        (case("behavior set default 20:delay --delay-time soon"), USAGE, "soon"),
        (case("behavior set default 20:delay --delay-tme 5s"), USAGE, "--delay-time"),
        (case("behavior lease absent 20:delay"), ERROR, "absent"),
        (case("behavior lease default 20:delay --ttl 30"), USAGE, "did you mean 30s?"),
        (case("behavior release nonsense"), ERROR, "nonsense"),
        (case("behavior reset absent"), ERROR, "absent"),
        (case("behavior get --tls"), ERROR, "does not speak TLS"),
    ];
    let cases: Vec<(&str, i32, &str)> =
        cases.iter().map(|(words, code, part)| (words.as_str(), *code, *part)).collect();
    check(directory.path(), &cases);
}

/// A `fracas controller` that does not outlive its test, and where it listens.
struct Controller(Child, String);

impl Controller {
    fn start(out: &Path) -> Controller {
        let mut child = Command::new(FRACAS)
            .args(["controller", "--api", "127.0.0.1:0", "--out"])
            .arg(out)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let address = line.split("listens on ").nth(1).unwrap().split_whitespace().next().unwrap().to_owned();
        Controller(child, address)
    }
}

impl Drop for Controller {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn what_a_controller_refuses_is_told_in_its_words() {
    let directory = files();
    let controller = Controller::start(&directory.path().join("runs"));
    let case = |words: &str| format!("{words} --api {}", controller.1);
    let cases: Vec<(String, i32, &str)> = vec![
        (case("run submit slo.yml"), USAGE, "slo.yml:3:7: slo[0]: `50` is not a bound for p99; did you mean"),
        (case("run submit key.yml"), USAGE, "key.yml:2:1: unknown key `phase`; did you mean `phases`?"),
        (case("run submit empty.yml --wait"), USAGE, "it needs `target` and `phases`"),
        (case("run submit tabs.yml"), USAGE, "a tab stands where the line is indented"),
        (case("run submit faults.yml"), ERROR, "`p`"),
        (case("run show nonsense"), ERROR, "nonsense"),
        (case("run watch nonsense"), ERROR, "nonsense"),
        (case("run cancel nonsense"), ERROR, "nonsense"),
        (case("node drain nonsense"), ERROR, "nonsense"),
        (case("node enable nonsense"), ERROR, "nonsense"),
        (case("behavior get"), ERROR, ""),
    ];
    let cases: Vec<(&str, i32, &str)> =
        cases.iter().map(|(words, code, part)| (words.as_str(), *code, *part)).collect();
    check(directory.path(), &cases);
}

#[test]
fn what_needs_no_server_answers_without_one() {
    let directory = files();
    for (words, part) in [
        ("--version", "fracas 0."),
        ("load --example", "phases:"),
        ("behavior list", "--delay-time"),
        ("behavior list --json", "\"delay\""),
        ("load --help", "Examples:"),
    ] {
        let output = fracas(directory.path(), words);
        let text = String::from_utf8(output.stdout).unwrap();
        assert_eq!((output.status.code(), output.stderr.len()), (Some(0), 0), "{words}");
        assert!(text.contains(part), "{words}: {text}");
    }
}

/// A short form is an address wherever one is taken.
#[test]
fn addresses_are_short_everywhere() {
    let proxy = Proxy::start();
    let (_, port) = proxy.listen.split_once(':').unwrap();
    let (_, api) = proxy.api.split_once(':').unwrap();
    let directory = files();
    for host in ["", "localhost", "127.0.0.1"] {
        let words = format!("load {host}:{port}/ -n 5 --via {host}:{api} --json");
        let output = fracas(directory.path(), &words);
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(text.contains("\"ok\": 5"), "{words}: {}", String::from_utf8_lossy(&output.stderr));
        let output = fracas(directory.path(), &format!("behavior get --api {host}:{api}"));
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
}
