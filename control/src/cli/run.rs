//! `fracas run`: runs on a controller.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use fracas_proto::v1;
use fracas_proto::v1::run_service_client::RunServiceClient;
use serde_json::{Value, json};

use super::client::{self, ApiArgs};
use super::controller::{interrupted, runtime};
use super::exit;
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
    Submit {
        /// The run file, YAML
        file: PathBuf,
        /// Follow it to its end, and exit with its code
        #[arg(long)]
        wait: bool,
        /// Print JSON
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        api: ApiArgs,
    },
    /// Show the latest runs
    List {
        /// Print JSON
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        api: ApiArgs,
    },
    /// Show one run
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
    Watch {
        /// Its id
        id: String,
        #[command(flatten)]
        api: ApiArgs,
    },
    /// End a run: its load and its faults stop
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
            Verb::Submit { file, wait, json, api } => submit(&file, wait, json, &api).await,
            Verb::List { json, api } => list(&mut dial(&api).await?, json).await,
            Verb::Show { id, json, api } => show(&mut dial(&api).await?, id, json).await,
            Verb::Watch { id, api } => {
                let mut client = dial(&api).await?;
                let run = follow(&mut client, &id, |line| println!("{line}")).await?;
                Ok(run.map_or(ExitCode::from(exit::INTERRUPTED), |run| end(&run)))
            }
            Verb::Cancel { id, api } => {
                let request = v1::CancelRunRequest {
                    run_id: id.clone(),
                    reason: "cancelled with `fracas run cancel`".to_owned(),
                    ..v1::CancelRunRequest::default()
                };
                dial(&api).await?.cancel_run(request).await.map_err(client::error)?;
                println!("run {id} is being cancelled");
                Ok(ExitCode::SUCCESS)
            }
        }
    })
}

async fn dial(api: &ApiArgs) -> anyhow::Result<Client> {
    // A report of many nodes carries three histograms of its own; the default of 4 MiB is enough for those.
    Ok(RunServiceClient::new(api.connect().await?))
}

async fn submit(file: &Path, wait: bool, json: bool, api: &ApiArgs) -> anyhow::Result<ExitCode> {
    let file_text =
        std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    let mut client = dial(api).await?;
    let request = v1::SubmitRunRequest {
        file_text,
        file_name: file.display().to_string(),
        labels: BTreeMap::new(),
        request_id: String::new(),
    };
    let run = client.submit_run(request).await.map_err(client::error)?.into_inner().run.unwrap_or_default();
    if !wait {
        match json {
            true => println!("{}", run_json(&run)),
            false => println!("run {} is {}{}", run.id, state(&run), because(&run)),
        }
        return Ok(ExitCode::SUCCESS);
    }
    let followed =
        follow(&mut client, &run.id, |line| if json { eprintln!("{line}") } else { println!("{line}") });
    let Some(run) = followed.await? else { return Ok(ExitCode::from(exit::INTERRUPTED)) };
    if json {
        println!("{}", run_json(&run));
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
    let mut stop = std::pin::pin!(interrupted());
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
        "{:>5.0}{of} s  {:>8.0}/s  p50 {:>7}  p99 {:>7}  lag p99 {:>7}  errors {}{nodes}{faults}",
        elapsed.as_secs_f64(),
        progress.rate_per_second,
        client::latency(response.p50_ns),
        client::latency(response.p99_ns),
        client::latency(lag.p99_ns),
        counts.error + counts.timeout,
    )
}

async fn list(client: &mut Client, json: bool) -> anyhow::Result<ExitCode> {
    let request = v1::ListRunsRequest::default();
    let page = client.list_runs(request).await.map_err(client::error)?.into_inner();
    if json {
        let runs: Vec<Value> = page.runs.iter().map(run_json).collect();
        println!("{}", json!({ "runs": runs }));
        return Ok(ExitCode::SUCCESS);
    }
    if page.runs.is_empty() {
        println!("no run was submitted yet; `fracas run submit FILE.yml` queues one");
    }
    for run in &page.runs {
        println!("{:<10} {:<10} {:<20} {}", run.id, state(run), run.name, note(run));
    }
    Ok(ExitCode::SUCCESS)
}

async fn show(client: &mut Client, id: String, json: bool) -> anyhow::Result<ExitCode> {
    let request = v1::GetRunRequest { run_id: id };
    let run = client.get_run(request).await.map_err(client::error)?.into_inner().run.unwrap_or_default();
    match json {
        true => println!("{}", run_json(&run)),
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
    println!("run {} ({}) is {}{}", run.id, run.name, state(run), because(run));
    for reason in &run.reasons {
        println!("  because {reason}");
    }
    let counts = run.counts.unwrap_or_default();
    if counts.planned > 0 {
        println!("  {} planned = {} sent + {} dropped", counts.planned, counts.sent, counts.dropped);
        println!(
            "  {} sent = {} ok + {} error + {} timeout + {} in flight at the end",
            counts.sent, counts.ok, counts.error, counts.timeout, counts.censored
        );
    }
    if let Some(series) = &run.series {
        let all = [("response", &series.response), ("service", &series.service), ("lag", &series.lag)];
        for (name, histogram) in all {
            let h = histogram.clone().unwrap_or_default();
            let [p50, p90, p99, p999, max] =
                [h.p50_ns, h.p90_ns, h.p99_ns, h.p999_ns, h.max_ns].map(client::latency);
            println!("  {name:<9} p50 {p50:>8}  p90 {p90:>8}  p99 {p99:>8}  p99.9 {p999:>8}  max {max:>8}");
        }
    }
    for slo in &run.slo_results {
        let word = if slo.kept { "kept  " } else { "broken" };
        println!("  slo {word} {}: {}", slo.objective, slo.measured);
    }
    for fault in &run.fault_windows {
        println!(
            "  fault {} on {} from {} to {}, injected {} times",
            fault.behavior,
            fault.proxy,
            client::latency(fault.started_at_ns.unsigned_abs()),
            client::latency(fault.ended_at_ns.unsigned_abs()),
            fault.injected,
        );
    }
    for node in &run.nodes {
        let sent = node.counts.unwrap_or_default().sent;
        let lost = if node.lost { "  LOST" } else { "" };
        println!(
            "  node {:<12} {sent:>9} sent  {}{lost}",
            node.node,
            client::clock(node.clock_offset_ns, node.clock_error_ns)
        );
    }
    if !run.report_path.is_empty() {
        println!("  report {}/report.html", run.report_path);
    }
}

fn state(run: &v1::Run) -> String {
    client::word(run.state().as_str_name(), "RUN_STATE_")
}

fn because(run: &v1::Run) -> String {
    if run.error.is_empty() { String::new() } else { format!(": {}", run.error) }
}

fn note(run: &v1::Run) -> String {
    let reason = run.reasons.first().cloned().unwrap_or_default();
    if run.error.is_empty() { reason } else { run.error.clone() }
}

fn exit_code(run: &v1::Run) -> ExitCode {
    ExitCode::from(exit_of(run.state()).unwrap_or(exit::ERROR))
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
    let counts = run.counts.unwrap_or_default();
    let series = |histogram: Option<&v1::Histogram>| {
        let h = histogram.cloned().unwrap_or_default();
        json!({
            "count": h.count, "min": h.min_ns, "p50": h.p50_ns, "p90": h.p90_ns, "p99": h.p99_ns,
            "p99.9": h.p999_ns, "max": h.max_ns,
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
        "id": run.id, "name": run.name, "state": state(run), "error": run.error, "reasons": run.reasons,
        "verdict": client::word(run.verdict().as_str_name(), "VERDICT_"),
        "counts": {
            "planned": counts.planned, "sent": counts.sent, "ok": counts.ok, "error": counts.error,
            "timeout": counts.timeout, "censored": counts.censored, "dropped": counts.dropped,
        },
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
        "queue_position": run.queue_position, "seed": run.seed, "report": run.report_path,
    })
}
