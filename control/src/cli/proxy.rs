//! `fracas proxy`: stands between client and upstream and breaks things on purpose.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use fracas_dataplane::behavior::{Rule, mix};
use fracas_dataplane::config::{Config, DEFAULT_NAME, DRAIN_DEFAULT, KEEPALIVE, is_keepalive};
use fracas_dataplane::destination::{Destinations, Pattern};
use fracas_dataplane::protocol::Protocol;
use fracas_dataplane::proxy::leases::Term;
use fracas_dataplane::proxy::{
    Dataplane, DataplaneSettings, Handle, LeaseRequest, Patience, ProxyInfo, ProxySpec,
};
use fracas_loadgen::scenario::units;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

use super::access::{Beside, ServerArgs, TokenArgs, TrustArgs};
use super::client::counted;
use super::exit::{PolicyError, UsageError};
use super::options::BehaviorOptions;
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
    /// What every name sent to statsd begins with
    #[arg(long, value_name = "PREFIX", default_value = "fracas")]
    statsd_prefix: String,
    /// What every random draw comes from [default: from the clock, and printed]
    #[arg(long)]
    seed: Option<u64>,
    /// Worker threads, each with its ring [default: one per core]
    #[arg(long, short)]
    threads: Option<usize>,
    /// End delays within microseconds by spinning, at the cost of a core per thread
    #[arg(long)]
    precise: bool,
    /// How long live connections may finish after SIGTERM [default: 10s]
    #[arg(long, value_name = "TIME", value_parser = units::parse_duration)]
    drain: Option<Duration>,
    /// How long an upstream connect may take [default: 10s]
    #[arg(long, value_name = "TIME", value_parser = units::parse_duration, conflicts_with = "config")]
    connect_timeout: Option<Duration>,
    /// How long the addresses of the upstream's name are good for; 0: for ever [default: 30s]
    #[arg(long, value_name = "TIME", value_parser = units::parse_duration, conflicts_with = "config")]
    resolve: Option<Duration>,
    /// Close connections on which nothing has passed for so long; 0: never [default: 0]
    #[arg(long, value_name = "TIME", value_parser = units::parse_duration, conflicts_with = "config")]
    idle_timeout: Option<Duration>,
    /// How long a peer may keep its socket after it got everything and a FIN [default: 5s]
    #[arg(long, value_name = "TIME", value_parser = units::parse_duration, conflicts_with = "config")]
    linger: Option<Duration>,
    /// How long nothing may pass after one side has sent its FIN [default: 60s]
    #[arg(long, value_name = "TIME", value_parser = parse_half_close, conflicts_with = "config")]
    half_close: Option<Duration>,
    /// Silence after which a peer is asked whether it is there, 1s to 9h; 0: never [default: 60s]
    #[arg(long, value_name = "TIME", value_parser = parse_keepalive, conflicts_with = "config")]
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

/// A proxy to make, with the faults that its timeline plans.
struct Planned {
    spec: ProxySpec,
    timeline: Vec<(Duration, Duration, Vec<Rule>)>,
}

/// Where the API listens unless it is told.
const API_DEFAULT: &str = "127.0.0.1:7401";

/// Runs `fracas proxy` until it is told to stop.
///
/// # Errors
/// When the command line or the config is wrong, an address is taken, or this machine gives no ring.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    if args.config.is_some() && !args.options.0.is_empty() {
        return Err(UsageError::because("options of behaviors stand in the config; leave the flags away"));
    }
    let config = args.config.as_deref().map(Config::load).transpose().map_err(UsageError::because)?;
    let planned = match &config {
        Some(config) => from_config(config)?,
        None => vec![from_flags(&args)?],
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
    settings.threads =
        args.threads.or(configured.and_then(|config| config.threads)).unwrap_or(settings.threads);
    let drain = args.drain.or(configured.map(|config| config.drain)).unwrap_or(DRAIN_DEFAULT);
    let statsd = args.statsd.clone().or(configured.and_then(|config| config.statsd.clone()));
    let statsd = statsd.map(|server| Statsd::connect(&server, &args.statsd_prefix)).transpose()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
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
    let dataplane = Dataplane::start(settings.clone())?;
    let handle = dataplane.handle();
    let checked = Arc::new(Checked::new(handle.clone(), destinations));
    let (specs, timelines): (Vec<_>, Vec<_>) =
        planned.into_iter().map(|Planned { spec, timeline }| (spec, timeline)).unzip();
    for (info, timeline) in checked.create_all(specs).map_err(not_made)?.iter().zip(timelines) {
        plan_timeline(&handle, info, timeline)?;
        announce(info);
    }
    let api = listener.as_ref().and_then(|listener| listener.local_addr().ok());
    println!(
        "proxy ready: {}{}, seed {}, API {}, {}",
        counted(settings.threads as u64, "thread"),
        if settings.precise { " (precise)" } else { "" },
        settings.seed,
        api.map_or_else(|| "off".to_owned(), |address| format!("{address}{guard}")),
        handle.features(),
    );
    let api = listener.map(|listener| {
        let proxies = Proxies::new(checked.clone(), Lookups::default(), args.token.insecure);
        (listener, guard, proxies)
    });
    runtime.block_on(serve(handle.clone(), api, controller, statsd))?;
    let drained = dataplane.drain(drain);
    if drained.cut > 0 {
        let cut = counted(drained.cut as u64, "connection");
        println!("proxy stopped; {cut} still open after {drain:?} and cut");
    } else {
        println!("proxy stopped; all connections had finished");
    }
    // Nothing that still runs is worth a wait: a look-up of a name takes as long as the resolver likes.
    runtime.shutdown_background();
    Ok(ExitCode::SUCCESS)
}

/// Why a proxy of the command line or the config is not made.
fn not_made(error: CheckError) -> anyhow::Error {
    match error {
        CheckError::Upstream { .. } => PolicyError::because(error),
        CheckError::Loop { .. } => UsageError::because(error),
        CheckError::Proxy(error) => error.into(),
    }
}

/// Serves the API and statsd until the process is told to stop.
async fn serve(
    handle: Handle,
    listener: Option<(TcpListener, Guard, Proxies)>,
    controller: Option<Dial>,
    statsd: Option<Statsd>,
) -> anyhow::Result<()> {
    let api = listener.as_ref().and_then(|(listener, ..)| listener.local_addr().ok());
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let served = listener.map(|(listener, guard, proxies)| {
        let mut stopped = stopped.clone();
        tokio::spawn(proxy_server::serve(proxies, listener, guard, async move {
            let _ = stopped.wait_for(|stop| *stop).await;
        }))
    });
    let told = statsd.map(|statsd| tokio::spawn(statsd.keep(handle.clone(), stopped.clone())));
    if let Some(controller) = controller {
        let identity =
            crate::agent::identity::identity(&format!("proxy-{}", std::process::id()), BTreeMap::new());
        let api = api.map_or_else(String::new, |address| address.to_string());
        let handle = handle.clone();
        tokio::spawn(async move {
            if let Err(reason) = crate::agent::proxy_session::join(handle, controller, identity, api).await {
                eprintln!("fracas: {reason}");
            }
        });
    }
    let mut terminated = signal(SignalKind::terminate())?;
    tokio::select! {
        interrupted = tokio::signal::ctrl_c() => interrupted?,
        _ = terminated.recv() => {}
    }
    stop.send_replace(true);
    if let Some(told) = told {
        let _ = told.await;
    }
    match served {
        Some(served) => served.await.context("the API ended")?,
        None => Ok(()),
    }
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

fn from_flags(args: &Args) -> anyhow::Result<Planned> {
    let listen = args.listen.ok_or_else(|| UsageError::because("--listen is missing"))?;
    let upstream = args.upstream.clone().ok_or_else(|| UsageError::because("--upstream is missing"))?;
    let rules = match &args.behavior {
        Some(text) => mix::parse(text, &args.options.0).map_err(UsageError::because)?,
        None if args.options.0.is_empty() => Vec::new(),
        None => {
            return Err(UsageError::because(
                "an option of a behavior needs --behavior, such as --behavior 20:delay",
            ));
        }
    };
    let spec = spec(DEFAULT_NAME, listen, &upstream);
    let spec = ProxySpec {
        protocol: args.protocol,
        rules,
        connect_timeout: args.connect_timeout.unwrap_or(spec.connect_timeout),
        patience: patience(args),
        resolve: args.resolve.unwrap_or(spec.resolve),
        source_addresses: args.source_addresses.clone(),
        ..spec
    };
    Ok(Planned { spec, timeline: Vec::new() })
}

fn from_config(config: &Config) -> anyhow::Result<Vec<Planned>> {
    let proxies = config.proxies.iter().map(|proxy| {
        let spec = ProxySpec {
            protocol: proxy.protocol,
            rules: proxy.rules.clone(),
            connect_timeout: proxy.connect_timeout,
            patience: proxy.patience,
            resolve: proxy.resolve,
            source_addresses: proxy.source_addresses.clone(),
            held_bytes_max: usize::try_from(proxy.held_bytes_max)?,
            ..spec(&proxy.name, proxy.listen, &proxy.upstream)
        };
        let timeline = proxy.timeline.iter().map(|entry| (entry.at, entry.lasts, entry.rules.clone()));
        Ok(Planned { spec, timeline: timeline.collect() })
    });
    proxies.collect()
}

/// The limits on silence that the flags set.
fn patience(args: &Args) -> Patience {
    let default = Patience::default();
    let some = |time: Duration| Some(time).filter(|time| !time.is_zero());
    Patience {
        idle: args.idle_timeout.map_or(default.idle, some),
        linger: args.linger.unwrap_or(default.linger),
        half_close: args.half_close.unwrap_or(default.half_close),
        keepalive: args.keepalive.map_or(default.keepalive, some),
    }
}

fn parse_half_close(text: &str) -> Result<Duration, String> {
    let time = units::parse_duration(text).map_err(|why| why.to_string())?;
    if time.is_zero() { Err("give a time above 0 such as 60s".to_owned()) } else { Ok(time) }
}

fn parse_keepalive(text: &str) -> Result<Duration, String> {
    let time = units::parse_duration(text).map_err(|why| why.to_string())?;
    if time.is_zero() || is_keepalive(time) { Ok(time) } else { Err(format!("give {KEEPALIVE}")) }
}

/// A name that has no address yet is looked up again while the proxy runs.
fn spec(name: &str, listen: SocketAddr, upstream: &str) -> ProxySpec {
    let addresses = upstream.to_socket_addrs().map_or_else(|_| Vec::new(), Iterator::collect);
    let spec = ProxySpec::new(name, listen, SocketAddr::from(([0, 0, 0, 0], 0)));
    ProxySpec { upstream: upstream.to_owned(), upstream_addresses: addresses, ..spec }
}

fn plan_timeline(
    handle: &Handle,
    info: &ProxyInfo,
    timeline: Vec<(Duration, Duration, Vec<Rule>)>,
) -> anyhow::Result<()> {
    for (at, lasts, rules) in timeline {
        handle.acquire(LeaseRequest {
            proxy: info.spec.name.clone(),
            rules,
            owner: "timeline".to_owned(),
            term: Term { ttl: None, starts_in: at, active_for: Some(lasts) },
        })?;
    }
    Ok(())
}

fn announce(info: &ProxyInfo) {
    let rules = match info.spec.rules.len() {
        0 => "no rules".to_owned(),
        1 => "1 rule".to_owned(),
        count => format!("{count} rules"),
    };
    println!(
        "proxy {} listens on {} → {} ({}, {rules})",
        info.spec.name, info.spec.listen, info.spec.upstream, info.spec.protocol
    );
    if info.spec.upstream_addresses.is_empty() {
        eprintln!(
            "fracas: `{}` has no address yet; its connections fail until a lookup finds one",
            info.spec.upstream
        );
    }
}

/// A seed that differs from run to run; it is printed, so that a run can be repeated.
fn seed_from_clock() -> u64 {
    fracas_dataplane::clock::Instant::now().as_nanos() % 1_000_000_007
}

#[cfg(test)]
mod tests {
    use fracas_dataplane::config::RESOLVE_DEFAULT;

    use super::*;

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    fn planned(flags: &str) -> Result<ProxySpec, String> {
        let line = format!("proxy --listen 127.0.0.1:0 --upstream 127.0.0.1:80 {flags}");
        let line: Line =
            clap::Parser::try_parse_from(line.split_whitespace()).map_err(|error| error.to_string())?;
        from_flags(&line.args).map(|planned| planned.spec).map_err(|error| error.to_string())
    }

    #[test]
    fn the_limits_on_silence_have_flags_and_zero_means_none() {
        let spec = planned("").unwrap();
        assert_eq!((spec.patience, spec.resolve), (Patience::default(), RESOLVE_DEFAULT));
        let flags = "--idle-timeout 10m --linger 1s --half-close 5m --keepalive 0 --resolve 5s";
        let spec = planned(flags).unwrap();
        let seconds = Duration::from_secs;
        let (idle, linger, half_close) = (Some(seconds(600)), seconds(1), seconds(300));
        assert_eq!(spec.patience, Patience { idle, linger, half_close, keepalive: None });
        assert_eq!(spec.resolve, seconds(5));
        assert_eq!(planned("--idle-timeout 0").unwrap().patience.idle, None);
        let wrong = planned("--keepalive 200ms").unwrap_err();
        assert!(wrong.contains("1s to 9h"), "{wrong}");
        assert!(planned("--half-close 0").is_err());
    }
}
