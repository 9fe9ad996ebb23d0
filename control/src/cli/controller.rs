//! `fracas controller`: the queue of runs and its nodes.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context;
use fracas_dataplane::clock::Instant;
use tokio::net::TcpListener;

use super::access::{Beside, ServerArgs, TokenArgs};
use super::exit::UsageError;
use super::signals::asked_to_stop;
use super::{files, plain, times};
use crate::agent::identity;
use crate::controller::{Controller, Settings};
use crate::grpc::control_plane::ControlPlane;
use crate::grpc::server::{check_exposure, serve};
use crate::session::Timings;
use crate::store::MemoryStore;
use crate::wire::tls::{HTTP_1, HTTP_2};

/// Flags of `fracas controller`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  fracas controller --out runs/                      then, on this machine: fracas agent --join 127.0.0.1:7400
  fracas controller --api 10.0.0.5:7400 --tls-cert cert.pem --tls-key key.pem --token-file token
                         then, elsewhere: fracas agent --join 10.0.0.5:7400 --tls-ca ca.pem --token-file token")]
pub struct Args {
    /// Where to serve; port 0 takes a free one
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:7400", value_parser = super::address::listen)]
    api: SocketAddr,
    /// Where reports go, each in a directory named after its run
    #[arg(long, value_name = "DIR", default_value = "runs")]
    out: PathBuf,
    /// Give a node up that was not heard for this long
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = times::within(&times::LOST_AFTER))]
    lost_after: Duration,
    /// Nodes stop their load when they have not heard the controller for this long
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = times::within(&times::ORPHAN_TIMEOUT))]
    orphan_timeout: Duration,
    /// Give a run up that has waited this long for nodes or proxies that nobody has
    #[arg(long, value_name = "TIME", default_value = "10m", value_parser = times::within(&times::QUEUE_TIMEOUT))]
    queue_timeout: Duration,
    #[command(flatten)]
    server: ServerArgs,
    #[command(flatten)]
    token: TokenArgs,
}

/// Runs `fracas controller`.
///
/// # Errors
/// When the address cannot be served.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let guard = args.server.guard(&args.token, &[HTTP_2, HTTP_1], Beside::Files)?;
    files::writable(&args.out)?;
    check_exposure(args.api, &guard, args.token.insecure).map_err(UsageError::because)?;
    let timings = Timings::with_limits(args.lost_after, args.orphan_timeout);
    runtime()?.block_on(async {
        let listener = TcpListener::bind(args.api).await;
        let listener = listener.with_context(|| format!("cannot listen on {}", args.api))?;
        let (address, out) = (listener.local_addr()?, args.out.display());
        // Whoever started it may have stopped reading; that is no reason to end.
        plain::say(&format!("controller listens on {address}{guard}\nreports go to {out}"));
        serve(plane(args.out, timings, args.queue_timeout), listener, guard, asked_to_stop()).await?;
        Ok(ExitCode::SUCCESS)
    })
}

/// A controller that remembers nothing and writes its reports to `out`.
pub(super) fn plane(out: PathBuf, timings: Timings, queue_timeout: Duration) -> Arc<ControlPlane> {
    let (at, unix_ms) = (Instant::now(), unix_ms());
    let settings = Settings {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        boot_id: identity::boot_id(),
        timings,
        queue_timeout,
        out,
        wall: (at, unix_ms),
    };
    ControlPlane::new(Controller::new(settings, Box::new(MemoryStore::default())))
}

#[expect(clippy::disallowed_methods, reason = "people read when a run was; nothing is measured with it")]
fn unix_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_millis() as u64)
}

/// A runtime for the control side, which is never on the hot path.
pub(super) fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.context("cannot start the threads of the control side")
}
