//! `fracas run`: runs on a controller.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use fracas_dataplane::units::parse_duration;
use fracas_loadgen::report::{count, latency, rate, seconds, utc};
use fracas_proto::v1;
use fracas_proto::v1::run_service_client::RunServiceClient;
use serde_json::{Value, json};

use super::client::{self, ApiArgs};
use super::controller::runtime;
use super::plain::{self, is_unread, say};
use super::signals::asked_to_stop;
use super::{exit, files};
use crate::wire::dial::Caller;

/// Flags of `fracas run`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  fracas run submit checkout.yml --wait
  fracas run list --api 10.0.0.5:7400 --tls-ca ca.pem --token-file token")]
pub struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// Queue a run file
    #[command(after_help = "Example: fracas run submit checkout.yml --wait")]
    Submit {
        /// The run file, YAML
        file: PathBuf,
        /// Follow it to its end, and exit with its code
        #[arg(long)]
        wait: bool,
        /// Give it up when it has not started by then [default: it waits for as long as somebody could carry it out]
        #[arg(long, value_name = "TIME", value_parser = parse_duration)]
        start_within: Option<Duration>,
        /// Print JSON
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        api: ApiArgs,
    },
    /// Show the latest runs
    #[command(after_help = "Example: fracas run list --json")]
    List {
        /// Print JSON
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        api: ApiArgs,
    },
    /// Show one run
    #[command(after_help = "Example: fracas run show 1m8d2w453")]
    Show {
        /// Its id
        id: String,
        /// Print JSON
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        api: ApiArgs,
    },
    /// Follow a run to its end, and exit with its code
    #[command(after_help = "Example: fracas run watch 1m8d2w453")]
    Watch {
        /// Its id
        id: String,
        #[command(flatten)]
        api: ApiArgs,
    },
    /// End a run: its load and its faults stop
    #[command(after_help = "Example: fracas run cancel 1m8d2w453")]
    Cancel {
        /// Its id
        id: String,
        #[command(flatten)]
        api: ApiArgs,
    },
}

type Client = RunServiceClient<Caller>;

/// Runs `fracas run`.
///
/// # Errors
/// When the controller does not answer or refuses.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    runtime()?.block_on(async {
        match args.verb {
            Verb::Submit { file, wait, start_within, json, api } => {
                submit(&file, wait, start_within, json, &api).await
            }
            Verb::List { json, api } => list(&mut dial(&api).await?, json).await,
            Verb::Show { id, json, api } => show(&mut dial(&api).await?, id, json).await,
            Verb::Watch { id, api } => {
                let mut client = dial(&api).await?;
                let run = follow(&mut client, &id, |line| say(&line)).await?;
                Ok(run.map_or(ExitCode::from(exit::INTERRUPTED), |run| end(&run)))
            }
            Verb::Cancel { id, api } => {
                let request = v1::CancelRunRequest {
                    run_id: id.clone(),
                    reason: "cancelled with `fracas run cancel`".to_owned(),
                    ..v1::CancelRunRequest::default()
                };
                dial(&api).await?.cancel_run(request).await.map_err(client::error)?;
                say(&format!("run {id} is being cancelled"));
                Ok(ExitCode::SUCCESS)
            }
        }
    })
}

async fn dial(api: &ApiArgs) -> anyhow::Result<Client> {
    // A report of many nodes carries three histograms of its own; the default of 4 MiB is enough for those.
    Ok(RunServiceClient::new(api.connect().await?))
}

async fn submit(
    file: &Path,
    wait: bool,
    start_within: Option<Duration>,
    json: bool,
    api: &ApiArgs,
) -> anyhow::Result<ExitCode> {
    let file_text = files::run_file(file)?;
    let mut client = dial(api).await?;
    let request = v1::SubmitRunRequest {
        file_text,
        file_name: file.display().to_string(),
        labels: BTreeMap::new(),
        request_id: String::new(),
        start_within: start_within.and_then(|time| prost_types::Duration::try_from(time).ok()),
    };
    let run = client.submit_run(request).await.map_err(client::error)?.into_inner().run.unwrap_or_default();
    if !wait {
        match json {
            true => say(&run_json(&run).to_string()),
            false => say(&format!("run {} is {}{}", run.id, state(&run), because(&run))),
        }
        return Ok(ExitCode::SUCCESS);
    }
    let followed = follow(&mut client, &run.id, |line| if json { plain::note(&line) } else { say(&line) });
    let Some(run) = followed.await? else { return Ok(ExitCode::from(exit::INTERRUPTED)) };
    if json {
        say(&run_json(&run).to_string());
        return Ok(exit_code(&run));
    }
    Ok(end(&run))
}

/// Follows a run, a line at a time; `None` when it was interrupted, which cancels nothing.
pub(super) async fn follow(
    client: &mut Client,
    id: &str,
    mut say: impl FnMut(String),
) -> anyhow::Result<Option<v1::Run>> {
    let request = v1::WatchRunRequest { run_id: id.to_owned() };
    let mut stream = client.watch_run(request).await.map_err(client::error)?.into_inner();
    let mut last = None;
    let mut stop = std::pin::pin!(asked_to_stop());
    loop {
        let message = tokio::select! {
            message = stream.message() => message.map_err(client::error)?,
            () = &mut stop => {
                say(format!("run {id} goes on; `fracas run cancel {id}` ends it"));
                return Ok(None);
            }
        };
        let Some(message) = message else { break };
        if let Some(run) = message.run {
            say(format!("run {id} is {}{}", state(&run), because(&run)));
            last = Some(run);
        }
        if let Some(progress) = message.progress {
            say(progress_line(&progress));
        }
        if is_unread() {
            return Ok(None);
        }
    }
    let run = last.with_context(|| format!("the controller said nothing of run {id}"))?;
    // The last message has the final state unless the controller went away.
    anyhow::ensure!(
        exit_of(run.state()).is_some(),
        "the controller closed the stream; run {id} was {}",
        state(&run)
    );
    Ok(Some(run))
}

fn progress_line(progress: &v1::RunProgress) -> String {
    let elapsed = client::duration(progress.elapsed);
    let counts = progress.counts.unwrap_or_default();
    let latest = progress.latest.clone().unwrap_or_default();
    let response = latest.response.unwrap_or_default();
    let lag = latest.lag.unwrap_or_default();
    let of = progress
        .planned_duration
        .map_or(String::new(), |planned| format!("/{:.0}", client::duration(Some(planned)).as_secs_f64()));
    let faults = if progress.faults.is_empty() {
        String::new()
    } else {
        format!("  ⚡ {}", progress.faults.join(", "))
    };
    let nodes = if progress.nodes_reporting < progress.nodes {
        format!("  {} of {} nodes reporting", progress.nodes_reporting, progress.nodes)
    } else {
        String::new()
    };
    format!(
        "{:>5.0}{of} s  {:>9}  p50 {:>7}  p99 {:>7}  lag p99 {:>7}  in all: errors {}{nodes}{faults}",
        elapsed.as_secs_f64(),
        rate(progress.rate_per_second.round()),
        latency(response.p50_ns),
        latency(response.p99_ns),
        latency(lag.p99_ns),
        count(counts.error + counts.timeout),
    )
}

async fn list(client: &mut Client, json: bool) -> anyhow::Result<ExitCode> {
    let request = v1::ListRunsRequest::default();
    let page = client.list_runs(request).await.map_err(client::error)?.into_inner();
    if json {
        let runs: Vec<Value> = page.runs.iter().map(run_json).collect();
        say(&json!({ "runs": runs }).to_string());
        return Ok(ExitCode::SUCCESS);
    }
    if page.runs.is_empty() {
        say("no run was submitted yet; `fracas run submit FILE.yml` queues one");
        return Ok(ExitCode::SUCCESS);
    }
    for line in rows(&page.runs) {
        say(&line);
    }
    Ok(ExitCode::SUCCESS)
}

/// A line for each run: when, how it stands, whether its figures can be trusted, and why not.
fn rows(runs: &[v1::Run]) -> Vec<String> {
    let mut table = vec![["run", "time (UTC)", "state", "measured", "name", "reason"].map(str::to_owned)];
    for run in runs {
        let at = run
            .started_at
            .or(run.submitted_at)
            .map_or("–".to_owned(), |at| utc(u64::try_from(at.seconds).unwrap_or(0).saturating_mul(1000)));
        let verdict = match run.verdict() {
            v1::Verdict::Unspecified => "–".to_owned(),
            verdict => client::word(verdict.as_str_name(), "VERDICT_"),
        };
        table.push([run.id.clone(), at, state(run), verdict, run.name.clone(), note(run)]);
    }
    let width = |column: usize| table.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths = [0, 1, 2, 3, 4].map(width);
    let line = |row: &[String; 6]| {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(widths) {
            line += &format!("{cell:<width$}  ");
        }
        line += &row[5];
        line.trim_end().to_owned()
    };
    table.iter().map(line).collect()
}

async fn show(client: &mut Client, id: String, json: bool) -> anyhow::Result<ExitCode> {
    let request = v1::GetRunRequest { run_id: id };
    let run = client.get_run(request).await.map_err(client::error)?.into_inner().run.unwrap_or_default();
    match json {
        true => say(&run_json(&run).to_string()),
        false => print_run(&run),
    }
    Ok(ExitCode::SUCCESS)
}

/// Prints a run that has ended and gives its exit code.
fn end(run: &v1::Run) -> ExitCode {
    print_run(run);
    exit_code(run)
}

/// Prints a run as far as it is known.
fn print_run(run: &v1::Run) {
    for line in run_lines(run) {
        say(&line);
    }
}

/// A run as far as it is known, in lines.
fn run_lines(run: &v1::Run) -> Vec<String> {
    let mut lines = Vec::new();
    lines.push(format!("run {} ({}) is {}{}", run.id, run.name, state(run), because(run)));
    for slo in &run.slo_results {
        let word = if slo.kept { "kept  " } else { "missed" };
        lines.push(format!("  slo {word} {} (is {})", slo.objective, slo.measured));
    }
    for reason in &run.reasons {
        lines.push(format!("  because {reason}"));
    }
    let counts = run.counts.unwrap_or_default();
    if counts.planned > 0 {
        let [planned, sent, dropped] = [counts.planned, counts.sent, counts.dropped].map(count);
        let [ok, error, timeout, censored] =
            [counts.ok, counts.error, counts.timeout, counts.censored].map(count);
        lines.push(format!("  {planned} planned = {sent} sent + {dropped} dropped"));
        lines.push(format!(
            "  {sent} sent = {ok} ok + {error} error + {timeout} timeout + {censored} in flight at the end"
        ));
    }
    if let Some(line) = run.failure_causes.as_ref().and_then(causes_line) {
        lines.push(format!("  {line}"));
    }
    if let Some(series) = &run.series {
        let all = [("response", &series.response), ("service", &series.service), ("lag", &series.lag)];
        for (name, histogram) in all {
            let h = histogram.clone().unwrap_or_default();
            let [p50, p90, p95, p99, p999, max] =
                [h.p50_ns, h.p90_ns, h.p95_ns, h.p99_ns, h.p999_ns, h.max_ns].map(latency);
            lines.push(format!(
                "  {name:<9} p50 {p50:>7}  p90 {p90:>7}  p95 {p95:>7}  p99 {p99:>7}  p99.9 {p999:>7}  max {max:>7}"
            ));
        }
    }
    for fault in &run.fault_windows {
        lines.push(format!(
            "  fault {} on {} from {} to {}, {}",
            fault.behavior,
            fault.proxy,
            seconds(fault.started_at_ns.unsigned_abs()),
            seconds(fault.ended_at_ns.unsigned_abs()),
            acted(fault.injected),
        ));
    }
    for node in &run.nodes {
        let sent = count(node.counts.unwrap_or_default().sent);
        let lost = if node.lost { "  LOST" } else { "" };
        lines.push(format!(
            "  node {:<12} {sent:>11} sent  {}{lost}",
            node.node,
            client::clock(node.clock_offset_ns, node.clock_error_ns)
        ));
    }
    if !run.report_path.is_empty() {
        lines.push(format!("  report {}/report.html", run.report_path));
    }
    lines
}

/// How often a fault acted.
fn acted(times: u64) -> String {
    match times {
        0 => "met no traffic that it acted on".to_owned(),
        1 => "acted once".to_owned(),
        times => format!("acted {} times", count(times)),
    }
}

/// Who made the failures and timeouts, if there were any.
fn causes_line(causes: &v1::FailureCauses) -> Option<String> {
    let own = match causes.own {
        0 => String::new(),
        own => format!(", {} were the generator's own", count(own)),
    };
    let unknown = match causes.unknown {
        0 => String::new(),
        unknown => format!(", {} are not known: {}", count(unknown), causes.unknown_because),
    };
    match (causes.injected, causes.natural) {
        (Some(0), Some(0)) if own.is_empty() && unknown.is_empty() => None,
        (Some(injected), Some(natural)) => Some(format!(
            "of the failures and timeouts {} were injected by a proxy, {} came by themselves{own}{unknown}",
            count(injected),
            count(natural)
        )),
        _ if causes.unknown_because.is_empty() => None,
        _ => Some(format!("injected or natural: not known, {}{own}", causes.unknown_because)),
    }
}

fn state(run: &v1::Run) -> String {
    client::word(run.state().as_str_name(), "RUN_STATE_")
}

fn because(run: &v1::Run) -> String {
    if run.reason.is_empty() { String::new() } else { format!(": {}", run.reason) }
}

/// Why it stands as it does: what kept it from running, what it missed, or what is wrong with its figures.
fn note(run: &v1::Run) -> String {
    let missed = run.slo_results.iter().find(|slo| !slo.kept);
    let missed = missed.filter(|_| run.state() == v1::RunState::Failed);
    match (run.reason.as_str(), missed) {
        ("", Some(slo)) => format!("SLO missed: {} is {}", slo.objective, slo.measured),
        ("", None) => run.reasons.first().cloned().unwrap_or_default(),
        (reason, _) => reason.to_owned(),
    }
}

fn exit_code(run: &v1::Run) -> ExitCode {
    // One that nothing carried was given up by the queue.
    let never_started = run.state() == v1::RunState::Errored && run.nodes.is_empty();
    ExitCode::from(if never_started {
        exit::NEVER_STARTED
    } else {
        exit_of(run.state()).unwrap_or(exit::ERROR)
    })
}

/// `None` for a state that is not final.
pub(super) fn exit_of(state: v1::RunState) -> Option<u8> {
    match state {
        v1::RunState::Passed => Some(0),
        v1::RunState::Failed => Some(exit::SLO_FAILED),
        v1::RunState::Invalid => Some(exit::INVALID),
        v1::RunState::Errored => Some(exit::ERROR),
        v1::RunState::Cancelled => Some(exit::INTERRUPTED),
        _ => None,
    }
}

fn run_json(run: &v1::Run) -> Value {
    // What is not known, or not yet, is null: a zero would be a figure.
    let counts = run.counts.as_ref().map(|counts| {
        json!({
            "planned": counts.planned, "sent": counts.sent, "ok": counts.ok, "error": counts.error,
            "timeout": counts.timeout, "censored": counts.censored, "dropped": counts.dropped,
        })
    });
    let series = |histogram: Option<&v1::Histogram>| {
        let known = histogram.filter(|histogram| histogram.count > 0);
        known.map(|h| {
            json!({
                "count": h.count, "min": h.min_ns, "p50": h.p50_ns, "p90": h.p90_ns, "p95": h.p95_ns,
                "p99": h.p99_ns, "p99.9": h.p999_ns, "max": h.max_ns,
            })
        })
    };
    let node = |node: &v1::RunNode| {
        let counts = node.counts.unwrap_or_default();
        json!({
            "node": node.node, "shard": node.shard_index, "planned": counts.planned, "sent": counts.sent,
            "ok": counts.ok, "clock_offset_ns": node.clock_offset_ns, "clock_error_ns": node.clock_error_ns,
            "lost": node.lost, "reasons": node.reasons,
        })
    };
    let all = run.series.as_ref();
    json!({
        "id": run.id, "name": run.name, "state": state(run), "error": run.error, "reason": run.reason, "reasons": run.reasons,
        "verdict": client::word(run.verdict().as_str_name(), "VERDICT_"),
        "counts": counts,
        "response_ns": series(all.and_then(|all| all.response.as_ref())),
        "service_ns": series(all.and_then(|all| all.service.as_ref())),
        "lag_ns": series(all.and_then(|all| all.lag.as_ref())),
        "slo": run.slo_results.iter()
            .map(|slo| json!({"objective": slo.objective, "kept": slo.kept, "measured": slo.measured}))
            .collect::<Vec<_>>(),
        "nodes": run.nodes.iter().map(node).collect::<Vec<_>>(),
        "faults": run.fault_windows.iter()
            .map(|fault| json!({
                "proxy": fault.proxy, "behavior": fault.behavior, "started_at_ns": fault.started_at_ns,
                "ended_at_ns": fault.ended_at_ns, "injected": fault.injected,
            }))
            .collect::<Vec<_>>(),
        "queue_position": Some(run.queue_position).filter(|position| *position > 0), "seed": run.seed, "report": run.report_path,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_known_is_null_and_not_zero() {
        let queued = v1::Run { state: v1::RunState::Queued.into(), queue_position: 2, ..v1::Run::default() };
        let value = run_json(&queued);
        for key in ["counts", "response_ns", "service_ns", "lag_ns"] {
            assert_eq!(value[key], Value::Null, "{key}");
        }
        assert_eq!(value["queue_position"], 2);
        // It has ended, and nothing came back: that has no percentiles, but counts.
        let histogram = |count, p99_ns| Some(v1::Histogram { count, p99_ns, ..v1::Histogram::default() });
        let ended = v1::Run {
            state: v1::RunState::Failed.into(),
            counts: Some(v1::Counts { planned: 5, error: 5, ..v1::Counts::default() }),
            series: Some(v1::Series { response: histogram(5, 7_000), service: histogram(0, 0), lag: None }),
            ..v1::Run::default()
        };
        let value = run_json(&ended);
        assert_eq!((&value["counts"]["error"], &value["counts"]["ok"]), (&json!(5), &json!(0)));
        assert_eq!(
            (&value["response_ns"]["count"], &value["response_ns"]["p99"]),
            (&json!(5), &json!(7_000))
        );
        assert_eq!((&value["service_ns"], &value["lag_ns"]), (&Value::Null, &Value::Null));
        assert_eq!(value["queue_position"], Value::Null, "it does not wait");
    }

    #[test]
    fn a_run_is_shown_with_its_sums_its_causes_and_its_faults() {
        let fault = |behavior: &str, injected| v1::FaultWindow {
            proxy: "shop".into(),
            behavior: behavior.into(),
            started_at_ns: 1_000_000_000,
            ended_at_ns: 3_500_000_000,
            injected,
            ..v1::FaultWindow::default()
        };
        let run = v1::Run {
            id: "r-1".into(),
            name: "checkout".into(),
            state: v1::RunState::Failed.into(),
            reason: "SLO missed: errors<1% is 12 %".into(),
            counts: Some(v1::Counts {
                planned: 12_345,
                sent: 12_340,
                dropped: 5,
                ok: 11_000,
                error: 1_300,
                timeout: 38,
                censored: 2,
            }),
            failure_causes: Some(v1::FailureCauses {
                injected: Some(1_334),
                natural: Some(4),
                ..v1::FailureCauses::default()
            }),
            fault_windows: vec![fault("100:reset", 1_334), fault("5:error", 1), fault("1:hang", 0)],
            report_path: "runs/r-1".into(),
            ..v1::Run::default()
        };
        assert_eq!(
            run_lines(&run),
            [
                "run r-1 (checkout) is failed: SLO missed: errors<1% is 12 %",
                "  12,345 planned = 12,340 sent + 5 dropped",
                "  12,340 sent = 11,000 ok + 1,300 error + 38 timeout + 2 in flight at the end",
                "  of the failures and timeouts 1,334 were injected by a proxy, 4 came by themselves",
                "  fault 100:reset on shop from 1 s to 3.5 s, acted 1,334 times",
                "  fault 5:error on shop from 1 s to 3.5 s, acted once",
                "  fault 1:hang on shop from 1 s to 3.5 s, met no traffic that it acted on",
                "  report runs/r-1/report.html",
            ]
        );
    }

    #[test]
    fn who_made_the_failures_is_said_as_far_as_it_is_known() {
        let causes = |injected, natural, why: &str| v1::FailureCauses {
            injected,
            natural,
            unknown_because: why.to_owned(),
            ..v1::FailureCauses::default()
        };
        let parts = |own, unknown, causes| v1::FailureCauses { own, unknown, ..causes };
        for (causes, line) in [
            (causes(Some(0), Some(0), ""), None),
            (causes(None, None, ""), None),
            (
                causes(Some(0), Some(1_200), ""),
                Some("of the failures and timeouts 0 were injected by a proxy, 1,200 came by themselves"),
            ),
            (
                causes(None, None, "no proxy was watched"),
                Some("injected or natural: not known, no proxy was watched"),
            ),
            (
                parts(7, 0, causes(None, None, "no proxy was watched")),
                Some("injected or natural: not known, no proxy was watched, 7 were the generator's own"),
            ),
            (
                parts(7, 30, causes(Some(5), Some(2), "events were lost")),
                Some(
                    "of the failures and timeouts 5 were injected by a proxy, 2 came by themselves, 7 were the generator's own, 30 are not known: events were lost",
                ),
            ),
            (
                parts(7, 0, causes(Some(0), Some(0), "")),
                Some(
                    "of the failures and timeouts 0 were injected by a proxy, 0 came by themselves, 7 were the generator's own",
                ),
            ),
        ] {
            assert_eq!(causes_line(&causes).as_deref(), line, "{causes:?}");
        }
    }

    #[test]
    fn the_list_says_when_how_and_why() {
        let at = |seconds| Some(prost_types::Timestamp { seconds, nanos: 0 });
        let runs = [
            v1::Run {
                id: "r-12".into(),
                name: "checkout".into(),
                state: v1::RunState::Failed.into(),
                verdict: v1::Verdict::Valid.into(),
                started_at: at(1_795_492_364),
                slo_results: vec![
                    v1::SloResult { objective: "errors<1%".into(), kept: true, measured: "0.0000 %".into() },
                    v1::SloResult { objective: "p99<50ms".into(), kept: false, measured: "61.3 ms".into() },
                ],
                ..v1::Run::default()
            },
            v1::Run {
                id: "r-3".into(),
                name: "x".into(),
                state: v1::RunState::Invalid.into(),
                verdict: v1::Verdict::Invalid.into(),
                submitted_at: at(0),
                reasons: vec!["node b was lost".into(), "another".into()],
                ..v1::Run::default()
            },
            v1::Run {
                id: "r-4".into(),
                state: v1::RunState::Queued.into(),
                reason: "waits for 2 nodes".into(),
                ..v1::Run::default()
            },
        ];
        assert_eq!(
            rows(&runs),
            [
                "run   time (UTC)           state    measured  name      reason",
                "r-12  2026-11-24 03:52:44  failed   valid     checkout  SLO missed: p99<50ms is 61.3 ms",
                "r-3   1970-01-01 00:00:00  invalid  invalid   x         node b was lost",
                "r-4   –                    queued   –                   waits for 2 nodes",
            ]
        );
    }
}
