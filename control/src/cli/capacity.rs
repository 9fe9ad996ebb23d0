//! `fracas capacity`: searches the highest rate that keeps an SLO, one open-model run after another.

use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use fracas_dataplane::clock::Instant;
use fracas_dataplane::units;
use fracas_loadgen::arrival::Shard;
use fracas_loadgen::capacity::{Answer, Finding, LimitedBy, Next, Search, TRIES_MAX};
use fracas_loadgen::measure::thresholds::REPLIED_RATIO_KEPT;
use fracas_loadgen::measure::{Faults, Summary};
use fracas_loadgen::report;
use fracas_loadgen::runner::{self, Outcome};
use fracas_loadgen::scenario::{
    Load, Pace, Phase, Plan, PlanError, RATE_PER_SECOND_MAX, Rate, Slo, Stop, Target, check_idle,
};
use serde_json::json;

use super::exit::{INTERRUPTED, INVALID, SLO_FAILED, UsageError};
use super::signals::Signals;
use super::{files, numbers, plain};

/// Flags of `fracas capacity`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Doubles the rate until the SLO breaks, then bisects. A rate that breaks is tried a second time. A probe that the generator \
itself could not make, on a busy machine, says nothing about the target: it is made up to three times, then the search goes \
on below it and comes back to it at the end; the exit code is 111 if that was the limit, or if --max-time ended the search without an answer. A request that waits for a free connection waits in the response: give enough of them with -c. A rate at which \
replies come later and later is not kept, however early the probe ends. Ctrl-C, SIGTERM, SIGHUP and --max-time end the \
search with what it knows by then.

Examples:
  fracas capacity http://127.0.0.1:8080/ --slo 'p99<50ms' --slo 'errors<0.1%' --out capacity
  fracas capacity :8080 --slo 'p99<50ms' --from 1k --probe 2s --warm-up 500ms --max-time 1m")]
pub struct Args {
    /// http://HOST:PORT/PATH, or tcp://HOST:PORT (echo)
    #[arg(value_name = "URL")]
    target: String,
    /// What must hold, such as 'p99<50ms' or 'errors<0.1%'; may be repeated
    #[arg(long, value_name = "SLO", required = true)]
    slo: Vec<Slo>,
    /// Connections
    #[arg(long, short, default_value_t = 100, allow_negative_numbers = true, value_parser = numbers::connections)]
    connections: u32,
    /// Worker threads, each with its ring
    #[arg(long, short, default_value_t = 1, allow_negative_numbers = true, value_parser = numbers::threads)]
    threads: u32,
    /// The first rate
    #[arg(long, value_name = "RATE", default_value = "100/s", allow_hyphen_values = true)]
    from: Rate,
    /// No rate above this
    #[arg(long, value_name = "RATE", default_value = "1M/s", allow_hyphen_values = true)]
    max: Rate,
    /// How near the answer must be to the rate that breaks, in per cent of the answer
    #[arg(long, value_name = "PERCENT", default_value = "1%", allow_hyphen_values = true, value_parser = tolerance)]
    tolerance: f64,
    /// How long each probe is measured
    #[arg(long, value_name = "TIME", default_value = "10s", allow_hyphen_values = true, value_parser = units::parse_duration)]
    probe: Duration,
    /// Load before each probe's measured part
    #[arg(long, value_name = "TIME", default_value = "2s", allow_hyphen_values = true, value_parser = units::parse_duration)]
    warm_up: Duration,
    /// The whole search; no probe begins that could not end within it
    #[arg(long, value_name = "TIME", default_value = "15m", allow_hyphen_values = true, value_parser = units::parse_duration)]
    max_time: Duration,
    /// How long a reply may take from when its request is due
    #[arg(long, value_name = "TIME", default_value = "5s", allow_hyphen_values = true, value_parser = units::parse_duration)]
    timeout: Duration,
    /// Meet every due time within a microsecond by spinning, at the cost of a core per thread
    #[arg(long)]
    precise: bool,
    /// What every random draw comes from
    #[arg(long, default_value_t = 0, allow_negative_numbers = true, value_parser = numbers::seed)]
    seed: u64,
    /// Directory that keeps the run directory of each probe
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Write into --out even if it holds something
    #[arg(long, requires = "out")]
    force: bool,
    /// Print the answer and all probes as JSON
    #[arg(long)]
    json: bool,
}

/// Between the word and the start of a probe, so that every thread has heard it.
const HEAD_START: Duration = Duration::from_millis(50);
/// How often the line of a probe is drawn.
const TICK: Duration = Duration::from_millis(200);
/// After a probe, so that the target's queues are empty again when the next one comes.
const COOL_DOWN: Duration = Duration::from_millis(500);
/// After a probe that left requests unanswered, the target gets the time that it takes for them, but not more than this.
const COOL_DOWN_MAX: Duration = Duration::from_secs(30);

/// How a search ended.
enum End {
    /// It has its answer, or the reason why there is none.
    Found,
    /// By a signal.
    Interrupted,
    /// The next probe could not have ended in time.
    OutOfTime,
    /// A probe could not begin, others having been made.
    Failed(String),
}

/// A probe that was made.
struct Probed {
    rate: u64,
    /// `None` of one that was cut short.
    finding: Option<Finding>,
    summary: Summary,
    directory: Option<PathBuf>,
}

/// Runs `fracas capacity`.
///
/// # Errors
/// When the command line is wrong, or a probe cannot begin.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    // First: the plan's own words are about a run file.
    if args.probe < Duration::from_secs(1) {
        return Err(UsageError::because("--probe: at least 1s; a shorter probe finds luck"));
    }
    let plan = args.plan(whole(args.from))?;
    plan.validate().map_err(|wrong| UsageError::because(in_flags(&wrong)))?;
    if args.max.as_f64() > RATE_PER_SECOND_MAX {
        return Err(UsageError::because(format!("--max: {} is too high; give at most 1000M/s", args.max)));
    }
    if args.from.as_f64() > args.max.as_f64() {
        return Err(UsageError::because(format!(
            "--from: {} is above --max {}; begin lower, or raise --max",
            args.from, args.max
        )));
    }
    let is_given = |key: &str| key == "threads" || (key == "precise" && args.precise);
    check_idle(&plan, is_given).map_err(|idle| UsageError::because(format!("--{idle}")))?;
    let first = args.one_probe();
    if first > args.max_time {
        return Err(UsageError::because(format!(
            "--max-time {} ends before the first probe, which takes {}; raise it, or shorten --probe and --warm-up",
            report::length(args.max_time),
            report::length(first)
        )));
    }
    let is_new = args.out.as_ref().is_some_and(|directory| !directory.exists());
    if let Some(directory) = &args.out {
        files::output(directory, args.force)?;
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let searched = runtime.block_on(search(&args));
    // A probe that was still opening its connections when a signal came is not worth a wait.
    runtime.shutdown_background();
    if let Some(directory) = args.out.as_ref().filter(|_| is_new) {
        files::forget_empty(directory);
    }
    let (answer, probes, end) = searched?;
    let text =
        if args.json { as_json(&args, &answer, &probes, &end) } else { as_text(&answer, &probes, &end) };
    plain::write(text.as_bytes());
    match (end, answer) {
        (End::Interrupted, _) => return Ok(ExitCode::from(INTERRUPTED)),
        (End::Failed(why), _) => return Err(anyhow::anyhow!(why)),
        (End::Found | End::OutOfTime, _) => {}
    }
    Ok(match answer {
        Answer { limited_by: LimitedBy::Generator | LimitedBy::Unfinished, .. } => ExitCode::from(INVALID),
        Answer { kept: None, .. } => ExitCode::from(SLO_FAILED),
        _ => ExitCode::SUCCESS,
    })
}

impl Args {
    fn plan(&self, rate_per_second: u64) -> anyhow::Result<Plan> {
        let target: Target = self.target.parse().map_err(UsageError::because)?;
        let rate = Rate::per_second(rate_per_second).context("a rate must be above 0")?;
        let load = Load::Open(Pace::Constant { rate });
        let mut plan = Plan::for_target(target);
        plan.name = format!("{rate_per_second}/s on {}", self.target);
        plan.connections = self.connections;
        plan.threads = self.threads;
        plan.response_timeout = self.timeout;
        plan.precise = self.precise;
        plan.seed = self.seed;
        plan.slo.clone_from(&self.slo);
        plan.phases = vec![Phase { load: load.clone(), stop: Stop::After(self.probe), warm_up: false }];
        if !self.warm_up.is_zero() {
            plan.phases.insert(0, Phase { load, stop: Stop::After(self.warm_up), warm_up: true });
        }
        Ok(plan)
    }

    /// How long a probe takes by itself.
    fn one_probe(&self) -> Duration {
        HEAD_START.saturating_add(self.warm_up).saturating_add(self.probe)
    }

    fn command(&self, rate: u64) -> String {
        let slo: String = self.slo.iter().map(|slo| format!(" --slo '{slo}'")).collect();
        let warm_up = units::exact_duration_text(self.warm_up);
        let (probe, timeout) =
            (units::exact_duration_text(self.probe), units::exact_duration_text(self.timeout));
        let precise = if self.precise { " --precise" } else { "" };
        format!(
            "fracas load '{}' -r {rate}/s -c {} -t {} -d {probe} --warm-up {warm_up} --timeout {timeout} --seed {}{precise}{slo}",
            self.target, self.connections, self.threads, self.seed
        )
    }
}

async fn search(args: &Args) -> anyhow::Result<(Answer, Vec<Probed>, End)> {
    let mut signals = Signals::listen()?;
    let begun = Instant::now();
    let each = args.one_probe().saturating_add(COOL_DOWN);
    announce(args, each);
    let mut search = Search::new(whole(args.from), whole(args.max), args.tolerance);
    let mut probes: Vec<Probed> = Vec::new();
    loop {
        let rate = match search.next() {
            Next::Done(answer) => return Ok((answer, probes, End::Found)),
            Next::Probe(rate) => rate,
        };
        let pause = probes.last().map_or(Duration::ZERO, |last| cool_down(&last.summary));
        if Instant::now().since(begun) + pause + args.one_probe() > args.max_time {
            return Ok((search.so_far(), probes, End::OutOfTime));
        }
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = signals.next() => return Ok((search.so_far(), probes, End::Interrupted)),
        }
        let plan = args.plan(rate)?;
        let mut line = Line::new(args.json, probes.len() + 1, rate, left(&search, each));
        let outcome = match probe(&plan, &mut line, &mut signals).await {
            Ok(Probing::Made(outcome)) => outcome,
            Ok(Probing::CutShort(outcome)) => {
                let summary = runner::summarize(&outcome, &plan, Faults::default(), args.command(rate));
                line.end("interrupted");
                if summary.counts.planned > 0 {
                    probes.push(Probed { rate, finding: None, summary, directory: None });
                }
                return Ok((search.so_far(), probes, End::Interrupted));
            }
            Ok(Probing::NotBegun) => {
                line.end("interrupted");
                return Ok((search.so_far(), probes, End::Interrupted));
            }
            // What was found is not lost for it.
            Err(error) if !probes.is_empty() => {
                line.end("could not begin");
                return Ok((search.so_far(), probes, End::Failed(format!("{error:#}"))));
            }
            Err(error) => return Err(error),
        };
        let summary = runner::summarize(&outcome, &plan, Faults::default(), args.command(rate));
        let finding = Finding::of(&summary);
        search.on_probe(finding);
        line.end(&format!("{}{}", describe(finding, &summary), again(&search)));
        let directory = args.out.as_ref().map(|out| out.join(format!("{:03}-{rate}", probes.len() + 1)));
        if let Some(directory) = &directory {
            report::write_run_dir(directory, &summary, &outcome.timeline, &[])?;
        }
        probes.push(Probed { rate, finding: Some(finding), summary, directory });
    }
}

/// Says what is going to happen, and for how long.
fn announce(args: &Args, each: Duration) {
    if args.json && !std::io::stderr().is_terminal() {
        return;
    }
    let slo: Vec<String> = args.slo.iter().map(ToString::to_string).collect();
    say(&format!(
        "searching the highest rate that keeps {} on {}, from {}/s on: each probe takes {}, all of them at most {} (--max-time)\n",
        slo.join(" and "),
        args.target,
        report::count(whole(args.from)),
        report::length(each),
        report::length(args.max_time),
    ));
}

/// How long the search may still take, once that can be told.
fn left(search: &Search, each: Duration) -> String {
    search.left_max().map_or(String::new(), |probes| {
        let seconds = each.as_secs_f64() * probes as f64;
        let and_not = if search.tries_in_vain() > 0 { " once the generator keeps up" } else { "" };
        format!(", at most {probes} probes or {seconds:.0} s left{and_not}")
    })
}

/// How long the target gets before the next probe.
fn cool_down(last: &Summary) -> Duration {
    let unanswered = (last.counts.timeout + last.counts.censored) as f64;
    let seconds = unanswered / last.ok_per_second.max(1.0);
    COOL_DOWN + Duration::from_secs_f64(seconds).min(COOL_DOWN_MAX)
}

/// Says that a probe is made again because the generator could not make it.
fn again(search: &Search) -> String {
    match search.tries_in_vain() {
        0 => String::new(),
        tries => format!("; the generator could not make it: trying again ({} of {TRIES_MAX})", tries + 1),
    }
}

/// What became of a probe.
enum Probing {
    /// It ended by itself.
    Made(Outcome),
    /// A signal ended it.
    CutShort(Outcome),
    /// A signal came before its load began.
    NotBegun,
}

/// Makes one probe.
async fn probe(plan: &Plan, line: &mut Line, signals: &mut Signals) -> anyhow::Result<Probing> {
    let opened = {
        let plan = plan.clone();
        // In a thread: it waits for the connects, and a signal must be heard meanwhile.
        tokio::task::spawn_blocking(move || runner::prepare(&plan, Shard::WHOLE))
    };
    line.show(Duration::ZERO, 0);
    let prepared = tokio::select! {
        prepared = opened => prepared.context("opening the connections broke off")??,
        () = signals.next() => return Ok(Probing::NotBegun),
    };
    let start = Instant::now() + HEAD_START;
    let running = prepared.start(start);
    let mut interrupted = false;
    let mut tick = tokio::time::interval(TICK);
    while !running.is_finished() {
        tokio::select! {
            _ = tick.tick() => line.show(Instant::now() - start, running.progress().ok),
            () = signals.next() => {
                interrupted = true;
                running.abort();
            }
        }
    }
    let outcome = running.wait();
    Ok(if interrupted { Probing::CutShort(outcome) } else { Probing::Made(outcome) })
}

/// Writes to standard error, which may be gone.
fn say(text: &str) {
    let mut err = std::io::stderr();
    let _ = err.write_all(text.as_bytes()).and_then(|()| err.flush());
}

/// The line of the present probe on standard error: drawn again and again on a terminal, once elsewhere.
struct Line {
    head: String,
    left: String,
    on_terminal: bool,
    is_quiet: bool,
}

impl Line {
    fn new(json: bool, number: usize, rate: u64, left: String) -> Line {
        let on_terminal = std::io::stderr().is_terminal();
        Line {
            head: format!("{number:>3}  {:>11}", per_second(rate)),
            left,
            on_terminal,
            is_quiet: json && !on_terminal,
        }
    }

    fn show(&mut self, elapsed: Duration, ok: u64) {
        if self.on_terminal {
            say(&format!("\r\x1b[2K{}  {:.1} s, {ok} ok{}", self.head, elapsed.as_secs_f64(), self.left));
        }
    }

    fn end(self, what: &str) {
        match (self.on_terminal, self.is_quiet) {
            (true, _) => say(&format!("\r\x1b[2K{}  {what}\n", self.head)),
            (false, false) => say(&format!("{}  {what}{}\n", self.head, self.left)),
            (false, true) => {}
        }
    }
}

fn describe(finding: Finding, summary: &Summary) -> String {
    let results: Vec<String> =
        summary.slo.iter().map(|result| format!("{} (is {})", result.slo, result.actual)).collect();
    let reason = match finding {
        Finding::Unusable => summary.reasons.first().map_or(String::new(), |reason| format!("; {reason}")),
        Finding::Broken if summary.slo_passed() => {
            match summary.growth_ratio.filter(|growth| *growth > 0.0) {
                Some(growth) => format!("; good replies fall behind, by {:.0} ms a second", growth * 1e3),
                None => {
                    let failed = summary.counts.error + summary.counts.timeout;
                    let (failed, due) = (report::count(failed), report::count(summary.counts.planned));
                    match summary.answered_ratio.filter(|ratio| *ratio < REPLIED_RATIO_KEPT) {
                        Some(ratio) => {
                            format!("; only {:.1} % of what was due ended within the probe", ratio * 100.0)
                        }
                        None => format!(
                            "; {failed} of {due} requests failed or timed out, and no --slo is about errors"
                        ),
                    }
                }
            }
        }
        _ => String::new(),
    };
    let ok = report::rate(summary.ok_per_second);
    format!("{:<8}  {ok:>13} ok  {}{reason}", finding.name(), results.join(", "))
}

/// `4,000/s`.
fn per_second(rate: u64) -> String {
    format!("{}/s", report::count(rate))
}

fn as_text(answer: &Answer, probes: &[Probed], end: &End) -> String {
    let mut out = String::from("\n");
    out.push_str(&match (answer.kept, answer.limited_by) {
        (Some(kept), LimitedBy::Slo) => {
            let broken =
                answer.broken.map_or(String::new(), |broken| format!("; {} is not kept", per_second(broken)));
            format!("capacity {}{broken}\n", per_second(kept))
        }
        (Some(kept), LimitedBy::Generator) => format!(
            "capacity at least {}: the generator could not make more; use more threads or --precise\n",
            per_second(kept)
        ),
        (Some(kept), LimitedBy::Max) => {
            format!("capacity at least {}, the highest rate allowed; raise --max\n", per_second(kept))
        }
        (Some(kept), LimitedBy::Unfinished) => {
            let broken = match (answer.broken, answer.unusable) {
                (Some(broken), _) => format!(", and below {}", per_second(broken)),
                (None, Some(rate)) => format!(" (the generator could not make {})", per_second(rate)),
                (None, None) => String::new(),
            };
            format!("capacity at least {}{broken}: the search {}\n", per_second(kept), end.because())
        }
        (None, LimitedBy::Slo) => "no rate keeps the SLO, not even the lowest that was tried\n".to_owned(),
        (None, LimitedBy::Generator) => {
            "the generator could make no usable probe; run it on a machine with time to spare\n".to_owned()
        }
        (None, _) => {
            let generator = match (answer.broken, answer.unusable) {
                (None, Some(rate)) => format!("; the generator could not make {}", per_second(rate)),
                _ => String::new(),
            };
            format!("no rate has kept the SLO so far{generator}: the search {}\n", end.because())
        }
    });
    if probes.is_empty() {
        out.push_str("nothing was measured yet\n");
        return out;
    }
    let mut sorted: Vec<&Probed> = probes.iter().collect();
    sorted.sort_by_key(|probe| probe.rate);
    let ms = report::latency;
    out.push_str("\n       rate  finding         ok/s  response p50           p99           max    not ok\n");
    for Probed { rate, finding, summary, .. } in sorted {
        let counts = &summary.counts;
        let failed = counts.planned - counts.ok.min(counts.planned);
        out.push_str(&format!(
            "{:>11}  {:<8} {:>11} {:>13} {:>13} {:>13} {:>9}\n",
            per_second(*rate),
            name_of(*finding),
            report::rate(summary.ok_per_second).trim_end_matches("/s"),
            ms(summary.response.p50),
            ms(summary.response.p99),
            ms(summary.response.max),
            report::count(failed),
        ));
    }
    out
}

/// A finding for tables and JSON.
fn name_of(finding: Option<Finding>) -> &'static str {
    finding.map_or("cut off", Finding::name)
}

impl End {
    /// Why the search has no final answer.
    fn because(&self) -> &'static str {
        match self {
            End::Found => "did not end",
            End::Interrupted => "was interrupted",
            End::OutOfTime => "was out of time; raise --max-time, or begin nearer with --from",
            End::Failed(_) => "broke off",
        }
    }

    /// For JSON.
    fn name(&self) -> &'static str {
        match self {
            End::Found => "found",
            End::Interrupted => "interrupted",
            End::OutOfTime => "out_of_time",
            End::Failed(_) => "failed",
        }
    }
}

fn as_json(args: &Args, answer: &Answer, probes: &[Probed], end: &End) -> String {
    let probes: Vec<_> = probes
        .iter()
        .map(|Probed { rate, finding, summary, directory }| {
            json!({
                "rate_per_second": rate,
                "finding": name_of(*finding),
                "verdict": summary.verdict,
                "reasons": summary.reasons,
                "ok_per_second": summary.ok_per_second,
                "counts": summary.counts,
                "response": summary.response,
                "slo": summary.slo,
                "directory": directory,
            })
        })
        .collect();
    let document = json!({
        "target": args.target,
        "slo": args.slo,
        "rate_per_second": answer.kept,
        "broken_per_second": answer.broken,
        "unusable_per_second": answer.unusable,
        "limited_by": answer.limited_by.name(),
        "end": end.name(),
        "tolerance_ratio": args.tolerance,
        "probes": probes,
    });
    format!("{document:#}\n")
}

/// What is wrong with the plan of a probe, by the flag that says it.
fn in_flags(wrong: &PlanError) -> String {
    let flag = match wrong.key.as_str() {
        "response_timeout" => "--timeout",
        "slo" => "--slo",
        "connections" => "--connections",
        "threads" => "--threads",
        key if key.ends_with("].rate") => "--from",
        key if key.ends_with("].for") => "--probe",
        _ => return wrong.to_string(),
    };
    format!("{flag}: {}", wrong.problem)
}

/// Whole requests a second, at least one.
fn whole(rate: Rate) -> u64 {
    rate.as_f64().round().max(1.0) as u64
}

fn tolerance(text: &str) -> Result<f64, String> {
    match units::parse_percent(text, "") {
        Some(percent) if (0.1..=100.0).contains(&percent) => Ok(percent / 100.0),
        _ => Err("write a percentage from 0.1% to 100%, such as 5%".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tolerance_is_a_percentage() {
        assert_eq!(tolerance("5%"), Ok(0.05));
        for text in ["5", "0%", "-1%", "1e1%", "101%", "NaN%", ""] {
            assert!(tolerance(text).is_err(), "{text}");
        }
    }

    #[test]
    fn every_answer_says_what_it_is_worth() {
        for (kept, limited_by, part) in [
            (Some(900), LimitedBy::Slo, "capacity 900/s; 950/s is not kept"),
            (Some(900), LimitedBy::Generator, "at least 900/s: the generator"),
            (Some(900), LimitedBy::Max, "raise --max"),
            (Some(900), LimitedBy::Unfinished, "at least 900/s, and below 950/s: the search was interrupted"),
            (None, LimitedBy::Unfinished, "so far: the search was interrupted"),
            (None, LimitedBy::Slo, "no rate keeps"),
            (None, LimitedBy::Generator, "no usable probe"),
        ] {
            let answer = Answer { kept, broken: Some(950), unusable: None, limited_by };
            let text = as_text(&answer, &[], &End::Interrupted);
            assert!(text.contains(part), "{text}");
        }
        // What the generator could not ask for is no bound of the target's.
        let limited_by = LimitedBy::Unfinished;
        let answer = Answer { kept: Some(197), broken: None, unusable: Some(200), limited_by };
        let text = as_text(&answer, &[], &End::OutOfTime);
        assert!(text.ends_with("nothing was measured yet\n"), "{text}");
        assert!(text.contains("at least 197/s (the generator could not make 200/s): the search"), "{text}");
        let answer = Answer { kept: None, broken: None, unusable: Some(100), limited_by };
        let text = as_text(&answer, &[], &End::OutOfTime);
        assert!(text.contains("so far; the generator could not make 100/s: the search was out"), "{text}");
    }
}
