//! `fracas proxy`: stands between client and upstream and breaks things on purpose.

mod plan;
mod reload;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use fracas_dataplane::config::{Config, DRAIN_DEFAULT, limits};
use fracas_dataplane::destination::{Destinations, Pattern};
use fracas_dataplane::protocol::Protocol;
use fracas_dataplane::proxy::{Dataplane, DataplaneSettings, Handle, ProxyInfo, THREADS_MAX};
use fracas_loadgen::report::{length, plural};
use tokio::net::TcpListener;
use tokio::sync::watch;

use self::plan::{Planned, Timelines};
use self::reload::Reloader;
use super::access::{Beside, ServerArgs, TokenArgs, TrustArgs};
use super::exit::{self, PolicyError, UsageError};
use super::options::BehaviorOptions;
use super::signals::{Asked, Signals};
use super::{numbers, plain};
use crate::agent::{identity, proxy_session};
use crate::checked::{CheckError, Checked};
use crate::grpc::proxy_service::Proxies;
use crate::grpc::{proxy_server, server};
use crate::lookup::Lookups;
use crate::statsd::Statsd;
use crate::wire::Guard;
use crate::wire::dial::Dial;
use crate::wire::tls::{HTTP_1, HTTP_2};

/// Flags of `fracas proxy`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example: fracas proxy --listen 127.0.0.1:6380 --upstream 127.0.0.1:6379 --behavior 20:delay,5:reset --delay-time 200ms
While it runs: fracas behavior set default 100:hang · fracas behavior lease default 20:delay --ttl 30s
For other machines: fracas proxy --config fracas.yml --api 10.0.0.5:7401 --tls-cert cert.pem --tls-key key.pem --token-file token")]
pub struct Args {
    /// Address to listen on; port 0 takes a free one
    #[arg(long, value_name = "HOST:PORT", value_parser = super::address::listen, required_unless_present = "config", conflicts_with = "config")]
    listen: Option<SocketAddr>,
    /// Where to connect to
    #[arg(long, value_name = "HOST:PORT", value_parser = super::address::remote, required_unless_present = "config", conflicts_with = "config")]
    upstream: Option<String>,
    /// What is spoken: tcp or http
    #[arg(long, default_value = "tcp", conflicts_with = "config")]
    protocol: Protocol,
    /// Faults with their shares, such as 20:delay,5:error; the rest is normal
    #[arg(long, value_name = "MIX", conflicts_with = "config")]
    behavior: Option<String>,
    /// YAML file with any number of proxies
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Where the gRPC API and /metrics listen; `none` switches it off [default: 127.0.0.1:7401]
    #[arg(long, value_name = "HOST:PORT")]
    api: Option<String>,
    /// Send a counter for each bad thing to this statsd server
    #[arg(long, value_name = "HOST:PORT", value_parser = super::address::remote)]
    statsd: Option<String>,
    /// What every name sent to statsd begins with [default: fracas]
    #[arg(long, value_name = "PREFIX")]
    statsd_prefix: Option<String>,
    /// What every random draw comes from [default: from the clock, and printed]
    #[arg(long, allow_negative_numbers = true, value_parser = numbers::seed)]
    seed: Option<u64>,
    /// Worker threads, each with its ring [default: one per core]
    #[arg(long, short, allow_negative_numbers = true, value_parser = numbers::whole(1..=THREADS_MAX as u16))]
    threads: Option<u16>,
    /// End delays within microseconds by spinning, at the cost of a core per thread
    #[arg(long)]
    precise: bool,
    /// How long live connections may finish after SIGTERM, at most 24h [default: 10s]
    #[arg(long, value_name = "TIME", value_parser = super::times::within(&limits::DRAIN))]
    drain: Option<Duration>,
    /// How long an upstream connect may take [default: 10s]
    #[arg(long, value_name = "TIME", value_parser = super::times::within(&limits::CONNECT_TIMEOUT), conflicts_with = "config")]
    connect_timeout: Option<Duration>,
    /// How long the addresses of the upstream's name are good for; 0: for ever [default: 30s]
    #[arg(long, value_name = "TIME", value_parser = super::times::within(&limits::RESOLVE), conflicts_with = "config")]
    resolve: Option<Duration>,
    /// Close connections on which nothing has passed for so long; 0: never [default: 0]
    #[arg(long, value_name = "TIME", value_parser = super::times::within(&limits::IDLE_TIMEOUT), conflicts_with = "config")]
    idle_timeout: Option<Duration>,
    /// How long a peer may keep its socket after it got everything and a FIN [default: 5s]
    #[arg(long, value_name = "TIME", value_parser = super::times::within(&limits::LINGER), conflicts_with = "config")]
    linger: Option<Duration>,
    /// How long nothing may pass after one side has sent its FIN [default: 60s]
    #[arg(long, value_name = "TIME", value_parser = super::times::within(&limits::HALF_CLOSE), conflicts_with = "config")]
    half_close: Option<Duration>,
    /// Silence after which a peer is asked whether it is there, 1s to 9h; 0: never [default: 60s]
    #[arg(long, value_name = "TIME", value_parser = super::times::within(&limits::KEEPALIVE), conflicts_with = "config")]
    keepalive: Option<Duration>,
    /// Address to connect to the upstream from; may be repeated
    #[arg(long = "source-address", value_name = "IP", conflicts_with = "config")]
    source_addresses: Vec<IpAddr>,
    /// Let proxies lead only there: 10.0.0.0/8, db.example or *.example; may be repeated
    /// [default: everywhere but to link-local addresses and clouds' metadata services]
    #[arg(long = "allow-upstream", value_name = "DESTINATION")]
    allowed_upstreams: Vec<Pattern>,
    /// Join this controller, so that runs can flip faults here
    #[arg(long, value_name = "HOST:PORT", value_parser = super::address::remote)]
    join: Option<String>,
    #[command(flatten)]
    server: ServerArgs,
    #[command(flatten)]
    trust: TrustArgs,
    #[command(flatten)]
    token: TokenArgs,
    #[command(flatten)]
    options: BehaviorOptions,
}

/// What names sent to statsd begin with unless it is told.
const STATSD_PREFIX_DEFAULT: &str = "fracas";
/// Where the API listens unless it is told.
pub(super) const API_DEFAULT: &str = "127.0.0.1:7401";

/// Runs `fracas proxy` until it is told to stop.
///
/// # Errors
/// When the command line or the config is wrong, an address is taken, or this machine gives no ring.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    if args.config.is_some() && !args.options.0.is_empty() {
        return Err(UsageError::because("options of behaviors stand in the config; leave the flags away"));
    }
    let config = args.config.as_deref().map(Config::load).transpose().map_err(UsageError::because)?;
    let mut planned = match &config {
        Some(config) => plan::from_config(config)?,
        None => vec![plan::from_flags(&args)?],
    };
    let api = match (args.api.as_deref(), config.as_ref().and_then(|config| config.api)) {
        (Some("none"), _) => None,
        (Some(text), _) => Some(
            super::address::listen(text)
                .map_err(|why| UsageError::because(format!("--api: {why}; or `none`")))?,
        ),
        (None, Some(address)) => Some(address),
        (None, None) => Some(API_DEFAULT.parse().expect("an address")),
    };
    let guard = args.server.guard(&args.token, &[HTTP_2, HTTP_1], Beside::DataPlane)?;
    if let Some(address) = api {
        server::check_exposure(address, &guard, args.token.insecure).map_err(UsageError::because)?;
    }
    let controller = controller(&args, &guard)?;
    let configured = config.as_ref();
    let mut settings = DataplaneSettings { precise: args.precise, ..DataplaneSettings::default() };
    settings.seed = args.seed.or(configured.and_then(|config| config.seed)).unwrap_or_else(seed_from_clock);
    settings.threads = args
        .threads
        .map(usize::from)
        .or(configured.and_then(|config| config.threads))
        .unwrap_or(settings.threads);
    let drain = args.drain.or(configured.map(|config| config.drain)).unwrap_or(DRAIN_DEFAULT);
    let statsd = args.statsd.clone().or(configured.and_then(|config| config.statsd.clone()));
    if args.statsd_prefix.is_some() && statsd.is_none() {
        return Err(UsageError::because("--statsd-prefix is about --statsd HOST:PORT; give that, too"));
    }
    let prefix = args.statsd_prefix.as_deref().unwrap_or(STATSD_PREFIX_DEFAULT);
    let statsd = statsd.map(|server| Statsd::connect(&server, prefix)).transpose()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    // Heard from now on: what comes before the proxy is ready waits.
    let mut signals = runtime.block_on(async { Signals::listen() })?;
    // The API's address is taken before any traffic is accepted: a clash ends the start, not the run.
    let listener = api
        .map(|address| {
            let bound = runtime.block_on(TcpListener::bind(address));
            bound.with_context(|| {
                format!("the API cannot listen on {address}; choose another with --api, or --api none")
            })
        })
        .transpose()?;
    let destinations = Destinations::new(args.allowed_upstreams.clone()).map_err(UsageError::because)?;
    settings.upstreams = plan::upstreams(destinations.clone());
    let lookups = Lookups::default();
    for why in runtime.block_on(plan::look_up(&mut planned, &lookups)) {
        plain::note(&format!("fracas: {why}; connections fail until it has an address"));
    }
    let dataplane = Dataplane::start(settings.clone())?;
    let handle = dataplane.handle();
    let checked = Arc::new(Checked::new(handle.clone(), destinations));
    let (specs, timelines): (Vec<_>, Vec<_>) =
        planned.into_iter().map(|Planned { spec, timeline }| (spec, timeline)).unzip();
    let mut leases = Timelines::default();
    for (info, timeline) in checked.create_all(specs).map_err(not_made)?.iter().zip(timelines) {
        leases.begin(&handle, &info.spec.name, timeline)?;
        announce(info);
    }
    let reloader = args.config.clone().zip(config.clone()).map(|(path, config)| Reloader {
        path,
        config,
        checked: checked.clone(),
        lookups: lookups.clone(),
        leases,
    });
    let api = listener.as_ref().and_then(|listener| listener.local_addr().ok());
    plain::say(&format!(
        "proxy ready: {}{}, seed {}, API {}, {}",
        plural(settings.threads as u64, "thread"),
        if settings.precise { " (precise)" } else { "" },
        settings.seed,
        api.map_or_else(|| "off".to_owned(), |address| format!("{address}{guard}")),
        handle.features(),
    ));
    let api = listener.map(|listener| {
        let proxies = Proxies::new(checked.clone(), lookups, args.token.insecure);
        (listener, guard, proxies)
    });
    let told = statsd.map(|statsd| {
        let (stop, stopped) = watch::channel(false);
        (stop, runtime.spawn(statsd.keep(handle.clone(), stopped)))
    });
    let reloader = runtime.block_on(serve(handle.clone(), api, controller, reloader, &mut signals))?;
    // A config that was loaded since may say another time.
    let drain = args.drain.or(reloader.map(|reloader| reloader.config.drain)).unwrap_or(drain);
    let mut draining = runtime.spawn_blocking(move || dataplane.drain(drain));
    let (drained, at_once) = runtime.block_on(async {
        tokio::select! {
            drained = &mut draining => return (drained, false),
            () = stop(&mut signals) => handle.close_all(),
        }
        (draining.await, true)
    });
    let drained = drained.context("the drain ended early")?;
    if let Some((stop, told)) = told {
        stop.send_replace(true);
        let _ = runtime.block_on(told);
    }
    // Nothing that still runs is worth a wait: a look-up of a name takes as long as the resolver likes.
    runtime.shutdown_background();
    let cut = plural(drained.cut as u64, "connection");
    match drained.cut {
        _ if at_once => plain::say(&format!("proxy stopped at once; {cut} cut")),
        0 => plain::say("proxy stopped; all connections had finished"),
        _ => plain::say(&format!("proxy stopped; {cut} still open after {}, and cut", length(drain))),
    }
    Ok(if at_once { ExitCode::from(exit::INTERRUPTED) } else { ExitCode::SUCCESS })
}

/// Done when it is told to stop; a hangup has nothing to load again any more.
async fn stop(signals: &mut Signals) {
    while signals.next_or_reload().await == Asked::Reload {}
}

/// Why a proxy of the command line or the config is not made.
fn not_made(error: CheckError) -> anyhow::Error {
    match error {
        CheckError::Upstream { .. } => PolicyError::because(error),
        CheckError::Loop { .. } => UsageError::because(error),
        CheckError::Proxy(error) => error.into(),
    }
}

/// Serves the API until the process is told to stop, and loads the config again when it is told so (SIGHUP). Without a
/// config a hangup means what it means to others: the terminal is gone, stop.
async fn serve(
    handle: Handle,
    listener: Option<(TcpListener, Guard, Proxies)>,
    controller: Option<Dial>,
    mut reloader: Option<Reloader>,
    signals: &mut Signals,
) -> anyhow::Result<Option<Reloader>> {
    let api = listener.as_ref().and_then(|(listener, ..)| listener.local_addr().ok());
    let (stop, stopped) = watch::channel(false);
    let served = listener.map(|(listener, guard, proxies)| {
        let mut stopped = stopped.clone();
        tokio::spawn(proxy_server::serve(proxies, listener, guard, async move {
            let _ = stopped.wait_for(|stop| *stop).await;
        }))
    });
    if let Some(controller) = controller {
        let identity = identity::identity(&format!("proxy-{}", std::process::id()), BTreeMap::new());
        let api = api.map_or_else(String::new, |address| address.to_string());
        let handle = handle.clone();
        tokio::spawn(async move {
            let tell = super::joined::teller(identity.name.clone(), controller.address.clone());
            if let Err(reason) = proxy_session::join(handle, controller, identity, api, tell).await {
                plain::note(&format!("fracas: {reason}"));
            }
        });
    }
    loop {
        let Some(reloader) = &mut reloader else {
            signals.next().await;
            break;
        };
        if signals.next_or_reload().await == Asked::Stop {
            break;
        }
        // Whoever started it may have stopped reading; that is no reason to end.
        match reloader.reload().await {
            Ok(changed) => plain::say(&format!("proxy reloaded {}: {changed}", reloader.path.display())),
            Err(why) => plain::note(&format!("fracas: not reloaded, nothing was changed: {why}")),
        }
    }
    stop.send_replace(true);
    if let Some(served) = served {
        served.await.context("the API ended")??;
    }
    Ok(reloader)
}

/// The controller to join. It is shown the same token that the API asks for: a fleet has one.
fn controller(args: &Args, guard: &Guard) -> anyhow::Result<Option<Dial>> {
    match &args.join {
        Some(address) => Ok(Some(Dial {
            address: address.clone(),
            access: args.trust.access(guard.token.clone(), args.token.insecure)?,
        })),
        None if args.trust.is_given() => Err(UsageError::because(
            "--tls, --tls-ca and --tls-domain are about the controller of --join; the API has --tls-cert and --tls-key",
        )),
        None => Ok(None),
    }
}

fn announce(info: &ProxyInfo) {
    let rules = match info.spec.rules.len() as u64 {
        0 => "no rules".to_owned(),
        count => plural(count, "rule"),
    };
    plain::say(&format!(
        "proxy {} listens on {} → {} ({}, {rules})",
        info.spec.name, info.spec.listen, info.spec.upstream, info.spec.protocol
    ));
}

/// A seed that differs from run to run; it is printed, so that a run can be repeated.
fn seed_from_clock() -> u64 {
    fracas_dataplane::clock::Instant::now().as_nanos() % 1_000_000_007
}
