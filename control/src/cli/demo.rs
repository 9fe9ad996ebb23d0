//! `fracas demo`: all parts in one process, and a run through them.
//!
//! ```text
//! agent node-a ─┐                      ┌─ origin
//!               ├─▶ proxy `shop` ──────┘      controller ◀─ gRPC ─ node-a, node-b, shop, this command
//! agent node-b ─┘   20:delay for a while
//! ```

use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use fracas_dataplane::origin::{Origin, OriginSettings};
use fracas_dataplane::protocol::Protocol;
use fracas_dataplane::proxy::{Dataplane, DataplaneSettings, ProxySpec};
use fracas_dataplane::units::{exact_duration_text, parse_duration};
use fracas_loadgen::report::{self, read_json, text};
use fracas_proto::v1;
use fracas_proto::v1::run_service_client::RunServiceClient;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tonic::Code;

use super::client;
use super::controller::{plane, runtime};
use super::load::quoted;
use super::run::{exit_of, follow};
use super::{exit, files, plain};
use crate::agent::generator::RingGenerator;
use crate::agent::{self, Settings, identity, proxy_session};
use crate::grpc::server::serve;
use crate::session::Timings;
use crate::wire::Guard;
use crate::wire::dial::Dial;

/// Flags of `fracas demo`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example: fracas demo --out /tmp/demo   then open the report.html that it names")]
pub struct Args {
    /// Where the report goes, in a directory named after the run
    #[arg(long, value_name = "DIR", default_value = "runs")]
    out: PathBuf,
    /// How long the load lasts, at least 4s
    #[arg(long, value_name = "TIME", default_value = "20s", value_parser = duration)]
    duration: Duration,
}

/// What the nodes send together; modest, so that a laptop keeps the schedule.
const RATE_PER_SECOND: u32 = 2_000;
/// What the fault adds to one request in five.
const DELAY: &str = "30ms";

/// Runs `fracas demo`.
///
/// # Errors
/// When a part cannot be started, with its reason.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    files::writable(&args.out)?;
    let runtime = runtime()?;
    let origin = Origin::start(OriginSettings::default())?;
    let dataplane = Dataplane::start(DataplaneSettings { threads: 1, ..DataplaneSettings::default() })?;
    let code = runtime.block_on(show(&args, &origin, &dataplane));
    runtime.shutdown_timeout(Duration::from_secs(2));
    dataplane.drain(Duration::from_millis(100));
    code
}

async fn show(args: &Args, origin: &Origin, dataplane: &Dataplane) -> anyhow::Result<ExitCode> {
    let handle = dataplane.handle();
    let listen = SocketAddr::from(([127, 0, 0, 1], 0));
    let proxy = handle.create(ProxySpec {
        protocol: Protocol::Http,
        ..ProxySpec::new("shop", listen, origin.local_addr())
    })?;
    let target = proxy.spec.listen;
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.context("cannot listen on 127.0.0.1")?;
    let api = listener.local_addr()?.to_string();
    plain::say(&format!("origin      a test server on {}", origin.local_addr()));
    plain::say(&format!("proxy       `shop` on {target}, in front of it"));
    plain::say(&format!("controller  on {api}"));

    let (stop, stopped) = watch::channel(false);
    let until_stopped = || {
        let mut stopped = stopped.clone();
        async move {
            // The sender gone means the same.
            let _ = stopped.wait_for(|stopped| *stopped).await;
        }
    };
    let plane = plane(args.out.clone(), Timings::default(), Duration::from_secs(60));
    let server = tokio::spawn(serve(plane, listener, Guard::default(), until_stopped()));
    let controller = Dial::in_the_clear(api);
    let mut nodes = Vec::new();
    for name in ["node-a", "node-b"] {
        let identity = identity::identity(name, BTreeMap::new());
        let settings = Settings { controller: controller.clone(), identity, threads: Some(1) };
        nodes.push(tokio::spawn(agent::run(settings, Arc::new(RingGenerator), until_stopped(), |_| {})));
    }
    let identity = identity::identity("shop-proxy", BTreeMap::new());
    let session =
        tokio::spawn(proxy_session::join(handle, controller.clone(), identity, String::new(), |_| {}));
    plain::say("nodes       node-a and node-b, two generators that dialled in over gRPC\n");

    let followed = submit(args, &controller, target).await;
    stop.send_replace(true);
    for node in nodes {
        let _ = tokio::time::timeout(Duration::from_secs(3), node).await;
    }
    session.abort();
    let _ = tokio::time::timeout(Duration::from_secs(3), server).await;
    let Some(run) = followed? else { return Ok(ExitCode::from(exit::INTERRUPTED)) };
    tell(&run)
}

/// How often, and how long apart, the run is submitted until its proxy has joined.
const JOIN_TRIES: u32 = 100;
const JOIN_PAUSE: Duration = Duration::from_millis(50);

/// Submits the run and follows it.
async fn submit(args: &Args, controller: &Dial, target: SocketAddr) -> anyhow::Result<Option<v1::Run>> {
    let mut client = RunServiceClient::new(controller.connect().await?);
    let request = v1::SubmitRunRequest {
        file_text: run_file(target, args.duration),
        file_name: "demo.yml".to_owned(),
        // The file is nowhere, and its target is gone with this process.
        labels: [("command".to_owned(), command(args))].into(),
        ..v1::SubmitRunRequest::default()
    };
    let mut tries = 0;
    let run = loop {
        match client.submit_run(request.clone()).await {
            Ok(response) => break response.into_inner().run.unwrap_or_default(),
            // The proxy is on its way to the controller.
            Err(status) if status.code() == Code::FailedPrecondition && tries < JOIN_TRIES => tries += 1,
            Err(status) => return Err(client::error(status)),
        }
        tokio::time::sleep(JOIN_PAUSE).await;
    };
    follow(&mut client, &run.id, |line| plain::say(&line)).await
}

/// What was typed, in full.
fn command(args: &Args) -> String {
    format!("fracas demo --duration {} --out {}", exact_duration_text(args.duration), args.out.display())
}

/// The fault lasts a quarter of the run and lies in its middle.
fn run_file(target: SocketAddr, duration: Duration) -> String {
    let (at, over) = (duration * 3 / 8, duration / 4);
    let [duration, at, over] = [duration, at, over].map(exact_duration_text);
    format!(
        "name: demo
nodes: 2
target: http://{target}/
connections: 64
phases:
  - {{rate: {RATE_PER_SECOND}/s, for: {duration}}}
faults:
  - {{proxy: shop, behavior: \"20:delay\", options: {{delay: {{time: {DELAY}}}}}, at: {at}, for: {over}}}
slo: [\"errors<0.1%\"]
"
    )
}

/// Says what was seen and what to try next.
fn tell(run: &v1::Run) -> anyhow::Result<ExitCode> {
    let directory = PathBuf::from(&run.report_path);
    if run.report_path.is_empty() {
        anyhow::bail!("the run ended without a report: {}", run.error);
    }
    let path = directory.join("run.json");
    let bytes = std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let summary = read_json(&bytes)?;
    plain::say("");
    plain::write(&text(&summary, std::io::stdout().is_terminal()));
    plain::say("");
    for fault in &run.fault_windows {
        let [from, to] = [fault.started_at_ns, fault.ended_at_ns].map(|ns| ns as f64 / 1e9);
        plain::say(&format!(
            "From {from:.1} s to {to:.1} s the proxy held every fifth request for {}: {} of them. \
             The rest of the run shows the system without it.",
            DELAY.replace("ms", " ms"),
            report::count(fault.injected)
        ));
    }
    plain::say(&format!("Report: {}", directory.join("report.html").display()));
    let fracas = std::env::args().next().unwrap_or_else(|| "fracas".to_owned());
    next_steps(&fracas).iter().for_each(|line| plain::say(line));
    Ok(ExitCode::from(exit_of(run.state()).unwrap_or(exit::ERROR)))
}

/// What to try next, with the program as it was called now: it need not be on the PATH.
fn next_steps(fracas: &str) -> [String; 2] {
    let fracas = quoted(fracas);
    [
        format!(
            "Next:   {fracas} origin & {fracas} proxy --listen 127.0.0.1:8081 --upstream 127.0.0.1:8080 --protocol http"
        ),
        format!(
            "        {fracas} behavior set default 20:delay --delay-time 200ms     while {fracas} load http://127.0.0.1:8081/ runs"
        ),
    ]
}

fn duration(text: &str) -> Result<Duration, String> {
    let duration = parse_duration(text).map_err(|why| why.to_string())?;
    if duration < Duration::from_secs(4) {
        return Err("give at least 4s, so that the fault has a before and an after".to_owned());
    }
    Ok(duration)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_to_try_next_works_from_where_the_demo_was_called() {
        let [first, second] = next_steps("target/release/fracas");
        assert!(first.starts_with("Next:   target/release/fracas origin & target/release/fracas proxy "));
        assert!(second.contains("target/release/fracas load ") && !second.contains(" fracas "));
        assert!(next_steps("my dir/fracas")[0].contains("'my dir/fracas' origin"));
    }

    #[test]
    fn the_run_of_the_demo_is_a_valid_run_file() {
        for seconds in [4, 5, 20, 61] {
            let file = run_file("127.0.0.1:8080".parse().unwrap(), Duration::from_secs(seconds));
            let plan = fracas_loadgen::scenario::parse("demo.yml", &file).unwrap();
            assert_eq!((plan.nodes, plan.faults.len()), (2, 1));
            assert!(plan.faults[0].at + plan.faults[0].over < Duration::from_secs(seconds));
        }
        assert!(duration("3s").is_err() && duration("20s").is_ok());
    }
}
