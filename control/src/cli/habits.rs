//! Flags that other tools have (wrk, wrk2, hey, k6, vegeta, ab, bombardier, oha, curl, Toxiproxy): who types one by habit
//! is told which of ours does it.
//!
//! Nothing here is a flag: it is looked at only when clap has refused a command line.

use std::ffi::OsString;

use clap::Command;
use clap::error::{ContextKind, ContextValue, ErrorKind};

/// Flags of other tools on some verbs, and what to write there.
struct Habit {
    verbs: &'static [&'static str],
    flags: &'static [&'static str],
    advice: &'static str,
}

const fn habit(
    verbs: &'static [&'static str],
    flags: &'static [&'static str],
    advice: &'static str,
) -> Habit {
    Habit { verbs, flags, advice }
}

const LOAD: &[&str] = &["load"];
const CAPACITY: &[&str] = &["capacity"];
const LOADS: &[&str] = &["load", "capacity"];
const PROXY: &[&str] = &["proxy"];
const SERVERS: &[&str] = &["proxy", "origin"];
const CLIENTS: &[&str] = &["behavior", "run", "node"];
const EVERY: &[&str] = &[];

/// The first that fits counts.
const HABITS: &[Habit] = &[
    // A rate.
    habit(
        CAPACITY,
        &["-r", "--rate", "-R", "--rps", "--qps", "-q"],
        "capacity searches the rate, between --from 100/s and --max 20k/s",
    ),
    habit(
        LOAD,
        &["-R", "-q", "--qps", "--rps", "--req-rate", "--request-rate", "--arrival-rate"],
        "a rate is -r 500/s; it holds for all connections together",
    ),
    // Who sends.
    habit(
        LOADS,
        &["-u", "--users", "--vus", "--virtual-users", "--user", "--num-users"],
        "a user is a connection of the closed model: -c 100 without a rate",
    ),
    habit(
        LOADS,
        &["--concurrency", "--concurrent", "--clients", "--conns", "-w", "--workers", "--max-workers"],
        "connections are -c 100",
    ),
    habit(LOADS, &["--cpus", "--threads-per-core"], "worker threads are -t 2"),
    // How long.
    habit(CAPACITY, &["-d", "--duration", "-z", "--time"], "how long each rate is tried is --probe 10s"),
    habit(
        LOAD,
        &["-z", "--time", "--timelimit", "--run-time", "--runtime", "--length"],
        "how long is -d 30s",
    ),
    habit(
        LOAD,
        &["-i", "--iterations", "--num", "--number", "--count", "--total", "--reps"],
        "how many requests is -n 1000",
    ),
    habit(
        LOAD,
        &["--stages", "--stage", "--ramp", "--ramp-up", "--rampup", "--steps", "--scenario"],
        "ramps, steps and several phases stand in a run file; fracas load --example prints one",
    ),
    habit(
        LOADS,
        &["--warmup", "--warmup-time", "--warm-up-time"],
        "load before the measured part is --warm-up 5s",
    ),
    habit(
        LOAD,
        &["--think-time", "--think", "--pause", "--sleep", "--delay"],
        "think time stands in a run file: {users: 100, think_time: 50ms, for: 30s}; fracas load --example prints one",
    ),
    habit(
        LOAD,
        &["--late"],
        "what happens to late requests is --drop-after TIME; without it they are sent late",
    ),
    // What is sent.
    habit(
        LOAD,
        &["--data", "--data-raw", "--data-binary", "--payload-text", "--content"],
        "a body is --body TEXT, or --body-file FILE",
    ),
    habit(
        LOAD,
        &["-D", "-p", "--data-file", "--body-path", "--postfile", "-f"],
        "a file with the body is --body-file FILE",
    ),
    habit(LOAD, &["-m", "--request"], "the method is -X POST"),
    habit(
        LOAD,
        &["-T", "--content-type"],
        "the type of a body is a header: -H 'Content-Type: application/json'",
    ),
    habit(
        LOAD,
        &["-A", "--accept", "--headers", "--cookie", "-C", "--user-agent", "--host"],
        "headers are -H 'NAME: VALUE', one each",
    ),
    habit(LOAD, &["-a", "--auth", "-P"], "credentials are a header: -H 'Authorization: Basic …'"),
    habit(
        LOAD,
        &["-k", "--keepalive", "--keep-alive", "--http1.1"],
        "connections are kept anyway; --no-keep-alive opens one for each request",
    ),
    habit(
        LOAD,
        &["--disable-keepalive", "--no-keepalive", "--close"],
        "a connection for each request is --no-keep-alive",
    ),
    habit(LOADS, &["--http2", "-2", "--h2", "--http3"], "HTTP/1.1 is all that is spoken so far"),
    habit(
        LOADS,
        &["-s", "--script", "--lua"],
        "scripts are not run; phases, faults and objectives stand in a run file: fracas load --example",
    ),
    habit(
        LOADS,
        &["--url", "--target", "--targets", "--uri"],
        "the target has no flag: fracas load http://HOST:PORT/PATH",
    ),
    habit(
        LOAD,
        &["--file", "--config", "--plan", "--run-file"],
        "a run file has no flag: fracas load FILE.yml",
    ),
    // What is said.
    habit(
        LOADS,
        &["--latency", "-l", "--latencies", "--histogram", "-U", "--u_latency"],
        "percentiles are always printed, and --out DIR keeps the histograms",
    ),
    habit(
        LOADS,
        &["-o", "--output", "--out-dir", "--output-dir", "--report", "--html", "--save"],
        "--json prints the result as JSON; --out DIR keeps a run directory with report.html",
    ),
    habit(EVERY, &["-o", "--output", "--format"], "--json prints JSON, where a program may read"),
    habit(
        LOADS,
        &["--threshold", "--thresholds", "--assert", "--fail-if", "--sla"],
        "what must hold is --slo 'p99<50ms'",
    ),
    habit(
        LOADS,
        &["--quiet", "--silent", "--no-progress", "--no-tui"],
        "--json prints nothing but the result; progress is on standard error: 2>/dev/null",
    ),
    habit(
        LOAD,
        &["--proxy", "-x"],
        "load goes to its URL: name the proxy's own address there; --via is the API of a fracas proxy",
    ),
    // Servers.
    habit(
        PROXY,
        &["-l", "-p", "--port", "--bind", "--host", "--address", "--local", "--listen-address"],
        "where a proxy listens is --listen :8081",
    ),
    habit(
        SERVERS,
        &["-l", "-p", "--port", "--bind", "--host", "--address"],
        "where it listens is --listen :8080",
    ),
    habit(
        PROXY,
        &["-u", "--backend", "--target", "--remote", "--to", "--server", "--destination"],
        "where a proxy leads is --upstream HOST:PORT",
    ),
    habit(
        PROXY,
        &[
            "--delay",
            "--latency",
            "--jitter",
            "--bandwidth",
            "--rate",
            "--reset",
            "--timeout",
            "--error",
            "--toxic",
            "--fault",
            "--behaviors",
        ],
        "faults are a mix and its options: --behavior 20:delay --delay-time 200ms; fracas behavior list has them all",
    ),
    habit(PROXY, &["-c", "-f", "--file"], "a config is --config FILE"),
    habit(
        &["controller"],
        &["-l", "-p", "--listen", "--port", "--bind", "--host"],
        "where a controller listens is --api HOST:PORT",
    ),
    habit(
        &["agent"],
        &["--controller", "--server", "--api", "--master", "--host", "-c"],
        "the controller of an agent is --join HOST:PORT",
    ),
    habit(&["agent", "proxy"], &["--connect", "--controller"], "the controller is --join HOST:PORT"),
    // Clients.
    habit(
        CLIENTS,
        &[
            "--server",
            "--controller",
            "--endpoint",
            "--host",
            "--address",
            "-a",
            "--addr",
            "--proxy",
            "--via",
        ],
        "where the API is, is --api HOST:PORT",
    ),
    habit(
        &["behavior"],
        &["--time", "--delay", "--for", "--duration", "--latency"],
        "an option of a behavior is --BEHAVIOR-OPTION, such as --delay-time 200ms; how long a lease lives is --ttl 30s",
    ),
    habit(
        EVERY,
        &["-v", "--verbose", "--debug", "--quiet", "-q", "--silent"],
        "there is one amount of output; --json where a program reads",
    ),
    habit(
        EVERY,
        &["-k", "--no-verify"],
        "a server's certificate is always checked; --tls-ca FILE names the CA",
    ),
];

/// What to write in place of what clap has refused, if that is a habit; and the verb it was written for.
pub fn advice(error: &clap::Error, root: &Command, words: &[OsString]) -> Option<String> {
    let words: Vec<&str> = words.iter().skip(1).filter_map(|word| word.to_str()).collect();
    let command = verb(root, &words)?;
    let verb = words.first()?;
    let text = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text.as_str()),
        _ => None,
    };
    let refused = text(ContextKind::InvalidArg).unwrap_or_default();
    let value = text(ContextKind::InvalidValue).unwrap_or_default();
    if let Some((word, long)) = words.iter().find_map(|word| one_dash(word, command)) {
        return Some(format!("`{word}` has one dash; a long flag has two: {long}"));
    }
    match error.kind() {
        ErrorKind::UnknownArgument => {
            let flag = refused.split(['=', ' ']).next().unwrap_or_default();
            let known = HABITS.iter().find(|habit| {
                (habit.verbs.is_empty() || habit.verbs.contains(verb)) && habit.flags.contains(&flag)
            });
            known.map(|habit| format!("there is no {flag}: {}", habit.advice))
        }
        // The letters that mean something else elsewhere.
        ErrorKind::ValueValidation | ErrorKind::InvalidValue if LOADS.contains(verb) => {
            let is_time = value.starts_with(|c: char| c.is_ascii_digit())
                && value.ends_with(|c: char| c.is_ascii_alphabetic());
            let is_text = !value.starts_with(|c: char| c.is_ascii_digit() || c == '-' || c == '.');
            match refused.split(' ').next().unwrap_or_default() {
                "--threads" if is_time => {
                    Some(format!("-t is the number of threads, not `{value}`; how long is -d {value}"))
                }
                "--duration" if is_text => {
                    Some(format!("-d is how long, not `{value}`; a body is --body '{value}'"))
                }
                _ => None,
            }
        }
        _ => None,
    }
}

/// The command that these words lead to: `behavior set`, `load`.
fn verb<'a>(root: &'a Command, words: &[&str]) -> Option<&'a Command> {
    let first = root.find_subcommand(words.first()?)?;
    Some(words.get(1).and_then(|second| first.find_subcommand(second)).unwrap_or(first))
}

/// `-duration=30s`, which Go's tools take: it, and the flag that is meant, of ours or of theirs.
fn one_dash<'a>(word: &'a str, command: &Command) -> Option<(&'a str, String)> {
    let name = word.strip_prefix('-')?.split('=').next()?;
    let is_long = name.len() > 2 && name.starts_with(|c: char| c.is_ascii_lowercase());
    let flag = format!("--{name}");
    let is_ours = command.get_arguments().any(|arg| arg.get_long() == Some(name));
    (is_long && is_ours).then_some((word, flag))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn advice_for(words: &str) -> Option<String> {
        let mut root = crate::cli::Cli::command();
        let words: Vec<OsString> =
            std::iter::once("fracas").chain(words.split(' ')).map(OsString::from).collect();
        let error = root.try_get_matches_from_mut(&words).expect_err("a habit is no flag of ours");
        advice(&error, &root, &words)
    }

    #[test]
    fn a_habit_is_told_our_flag() {
        for (words, part) in [
            ("load :1 -R 500", "a rate is -r 500/s"),
            ("load :1 -R500", "there is no -R: a rate is -r 500/s"),
            ("load :1 -q 500", "a rate is -r 500/s"),
            ("load :1 --qps=500", "there is no --qps: a rate"),
            ("load :1 --data x", "--body TEXT"),
            ("load :1 --vus 10", "-c 100 without a rate"),
            ("load :1 --users 10", "-c 100 without a rate"),
            ("load :1 -o json", "--json prints the result"),
            ("load :1 -z 10s", "how long is -d 30s"),
            ("load :1 --latency", "percentiles are always printed"),
            ("load :1 -duration=30s", "`-duration=30s` has one dash; a long flag has two: --duration"),
            ("load :1 -rate 500", "two: --rate"),
            ("load :1 -connections 5", "two: --connections"),
            ("load :1 -t 30s", "how long is -d 30s"),
            ("load :1 -d {\"a\":1}", "a body is --body '{\"a\":1}'"),
            ("capacity :1 --slo p99<1s -r 500", "capacity searches the rate"),
            ("capacity :1 --slo p99<1s --duration 5s", "--probe 10s"),
            ("proxy --port 80", "--listen :8081"),
            ("proxy --target x", "--upstream HOST:PORT"),
            ("proxy --latency 50ms", "--behavior 20:delay"),
            ("origin --port 80", "--listen :8080"),
            ("agent --controller :1", "--join HOST:PORT"),
            ("controller --listen :1", "--api HOST:PORT"),
            ("behavior set default normal --server :1", "--api HOST:PORT"),
            ("behavior list -o json", "--json prints JSON"),
            ("run list --verbose", "one amount of output"),
        ] {
            let advice = advice_for(words).unwrap_or_default();
            assert!(advice.contains(part), "{words}: {advice}");
        }
    }

    #[test]
    fn what_is_no_habit_is_left_to_clap() {
        for words in
            ["load :1 --conections 5", "load :1 -d 5parsecs", "load", "bahavior list", "load :1 -t x"]
        {
            assert_eq!(advice_for(words), None, "{words}");
        }
    }

    /// Advice for a flag that we have would never be seen.
    #[test]
    fn no_habit_is_a_flag_of_ours() {
        let root = crate::cli::Cli::command();
        for habit in HABITS {
            for verb in habit.verbs {
                let command = root.find_subcommand(verb).expect("a verb of ours");
                for flag in habit.flags {
                    let is_ours = command.get_arguments().any(|arg| {
                        arg.get_long().is_some_and(|long| *flag == format!("--{long}"))
                            || arg.get_short().is_some_and(|short| *flag == format!("-{short}"))
                    });
                    assert!(!is_ours, "{verb} has {flag}");
                }
            }
        }
    }
}
