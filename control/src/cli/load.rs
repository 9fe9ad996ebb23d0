//! `fracas load`: drives load from this machine, and reports.

mod flags;
mod live;
mod via;

use std::io::IsTerminal;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use fracas_dataplane::clock::Instant;
use fracas_loadgen::arrival::Shard;
use fracas_loadgen::measure::{Faults, Grade, Summary};
use fracas_loadgen::report;
use fracas_loadgen::runner::{self, Prepared, RunningLoad};
use fracas_loadgen::scenario::{self, Plan};

pub use flags::Args;

use super::exit::{INTERRUPTED, INVALID, SLO_FAILED, UsageError};
use super::signals::Signals;
use super::{files, plain};
use live::Live;
pub use live::columns_of;
use via::Via;

/// Between the word and the start, so that every thread has heard it in time.
const HEAD_START: Duration = Duration::from_millis(200);
/// As much again for each fault, which is planned by a call before the word.
const HEAD_START_PER_FAULT: Duration = Duration::from_millis(50);
/// How often the screen is drawn, and the run looked at.
const TICK: Duration = Duration::from_millis(200);

/// Runs `fracas load`.
///
/// # Errors
/// When the command line or the run file is wrong, or the run cannot begin.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    if args.example {
        plain::write(scenario::EXAMPLE.as_bytes());
        return Ok(ExitCode::SUCCESS);
    }
    let plan = args.plan()?;
    if !plan.faults.is_empty() && args.via.is_none() {
        return Err(UsageError::because(
            "the run file has faults; say which proxy's API flips them with --via HOST:PORT",
        ));
    }
    if args.access.is_given() && args.via.is_none() {
        return Err(UsageError::because(
            "the flags about TLS and the token are about the proxy's API; say where that is with --via HOST:PORT",
        ));
    }
    let is_new = args.out.as_ref().is_some_and(|directory| !directory.exists());
    match &args.out {
        Some(directory) => files::output(directory, args.force)?,
        None if args.force => return Err(UsageError::because("--force is about --out DIR; give that, too")),
        None => {}
    }
    let reproduce = again(std::env::args());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let code = runtime.block_on(drive(&args, &plan, reproduce));
    // Nothing that still waits, such as the opening of connections after a signal, is worth a wait.
    runtime.shutdown_background();
    if let Some(directory) = args.out.as_ref().filter(|_| is_new) {
        files::forget_empty(directory);
    }
    code
}

async fn drive(args: &Args, plan: &Plan, reproduce: String) -> anyhow::Result<ExitCode> {
    let mut signals = Signals::listen()?;
    if plan.nodes > 1 && !args.json {
        plain::note(&format!(
            "note: {} nodes belong to a controller (`fracas run submit`); this machine drives all of it",
            plan.nodes
        ));
    }
    let mut live = Live::new(plan, args.json);
    live.connecting();
    let opened = tokio::select! {
        opened = open(args, plan) => opened,
        () = signals.next() => {
            live.done();
            plain::note("fracas: interrupted before the load began; nothing was measured");
            return Ok(ExitCode::from(INTERRUPTED));
        }
    };
    let (mut via, prepared) = opened.inspect_err(|_| live.done())?;
    live.ready(prepared.opened());
    let faults = u32::try_from(plan.faults.len()).unwrap_or(u32::MAX);
    let start = Instant::now() + HEAD_START + HEAD_START_PER_FAULT.saturating_mul(faults);
    // Before the word: a proxy that refuses a fault must not see the load that was meant to come with it.
    let leases = match &mut via {
        Some(via) => via.plan_faults(plan, start).await?,
        None => Vec::new(),
    };
    let running = prepared.start(start);
    let interrupted = watch(&running, &mut live, via.as_ref(), &mut signals, start).await;
    let outcome = running.wait();
    live.done();
    let (faults, events) = match via {
        Some(via) => via.finish(plan, &leases, start, outcome.ran_for).await,
        None => (Faults::default(), Vec::new()),
    };
    let summary = runner::summarize(&outcome, plan, faults, reproduce);
    let write = |directory| report::write_run_dir(directory, &summary, &outcome.timeline, &events);
    let written = args.out.as_deref().map_or(Ok(()), write);
    let out = std::io::stdout();
    let mut text = if args.json {
        report::json(&summary)
    } else {
        report::text_within(&summary, out.is_terminal(), columns_of(&out))
    };
    if !args.json {
        for note in outcome.notes() {
            text.extend(format!("note: {note}\n").into_bytes());
        }
        if let (Some(directory), Ok(())) = (&args.out, &written) {
            text.extend(format!("report: {}\n", directory.join("report.html").display()).into_bytes());
        }
    }
    plain::write(&text);
    // Only now: the figures are on the terminal, if nowhere else.
    written?;
    Ok(exit_code(&summary, interrupted))
}

/// Reaches the proxy, if there is one to watch, and opens the connections.
async fn open(args: &Args, plan: &Plan) -> anyhow::Result<(Option<Via>, Prepared)> {
    let via = match &args.via {
        Some(api) => Some(Via::connect(api, &args.access, plan.response_timeout).await?),
        None => None,
    };
    let plan = plan.clone();
    // In a thread: it waits for the connects, and a signal must be heard meanwhile.
    let prepared = tokio::task::spawn_blocking(move || runner::prepare(&plan, Shard::WHOLE)).await;
    Ok((via, prepared.context("opening the connections broke off")??))
}

/// Shows the run until it has ended; the first signal ends it gently, the second at once.
async fn watch(
    running: &RunningLoad,
    live: &mut Live,
    via: Option<&Via>,
    signals: &mut Signals,
    start: Instant,
) -> bool {
    let mut interrupts = 0;
    let mut tick = tokio::time::interval(TICK);
    while !running.is_finished() {
        tokio::select! {
            _ = tick.tick() => {
                let faults = via.map(Via::in_force).unwrap_or_default();
                live.show(running, Instant::now() - start, &faults);
            }
            () = signals.next() => {
                interrupts += 1;
                if interrupts == 1 { running.stop() } else { running.abort() }
                live.stopping(interrupts);
            }
        }
    }
    interrupts > 0
}

/// What the run says to a script.
pub fn exit_code(summary: &Summary, interrupted: bool) -> ExitCode {
    match summary.verdict {
        _ if interrupted => ExitCode::from(INTERRUPTED),
        Grade::Invalid => ExitCode::from(INVALID),
        _ if !summary.slo_passed() => ExitCode::from(SLO_FAILED),
        _ => ExitCode::SUCCESS,
    }
}

/// The command that repeats the run: what was typed, but for the directory, which is not empty any more.
fn again(mut words: impl Iterator<Item = String>) -> String {
    let mut kept = Vec::new();
    while let Some(word) = words.next() {
        match word.as_str() {
            "--force" => {}
            "--out" => drop(words.next()),
            word if word.starts_with("--out=") => {}
            word => kept.push(quoted(word)),
        }
    }
    kept.join(" ")
}

/// A word as a shell takes it.
pub fn quoted(word: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=@%+,".contains(c);
    if !word.is_empty() && word.chars().all(is_plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_run_is_repeated_without_its_directory() {
        let words = "fracas load :1 --out a --force -n 5 --out=b --slo p99<1s".split(' ').map(str::to_owned);
        assert_eq!(again(words), "fracas load :1 -n 5 --slo 'p99<1s'");
    }

    #[test]
    fn the_command_to_repeat_survives_a_shell() {
        for (word, shell) in [("-c", "-c"), ("p99<50ms", "'p99<50ms'"), ("it's", r"'it'\''s'"), ("", "''")] {
            assert_eq!(quoted(word), shell);
        }
    }
}
