//! `fracas behavior`: changes what a running proxy does to its traffic.

use std::process::ExitCode;
use std::time::Duration;

use fracas_loadgen::scenario::units;
use fracas_proto::v1::proxy_service_client::ProxyServiceClient;
use fracas_proto::v1::{self, EventKind};
use serde_json::{Value, json};

use super::access::AccessArgs;
use super::client::connect;
use super::options::BehaviorOptions;
use crate::wire::dial::Caller;

/// Flags of `fracas behavior`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  fracas behavior set default 20:delay,5:error --delay-time 200ms
  fracas behavior get --api 10.0.0.5:7401 --tls-ca ca.pem --token-file token")]
pub struct Args {
    #[command(subcommand)]
    verb: Verb,
    /// API of the proxy
    #[arg(long, global = true, value_name = "HOST:PORT", default_value = "127.0.0.1:7401")]
    api: String,
    /// Print JSON
    #[arg(long, global = true)]
    json: bool,
    #[command(flatten)]
    access: AccessArgs,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// Put a mix on a proxy, in place of its rules; live connections included
    Set {
        /// The proxy
        proxy: String,
        /// Faults with their shares, such as 20:delay,5:error; `normal` takes all away
        mix: String,
        #[command(flatten)]
        options: BehaviorOptions,
    },
    /// Show the proxies, their rules and what these have done
    Get {
        /// Only this proxy
        proxy: Option<String>,
    },
    /// List the behaviors and their options
    List,
    /// Put a mix on top of a proxy's rules for a time
    Lease {
        /// The proxy
        proxy: String,
        /// Faults with their shares
        mix: String,
        /// How long it lives
        #[arg(long, value_name = "TIME", default_value = "30s", value_parser = units::parse_duration)]
        ttl: Duration,
        /// Keep it alive until Ctrl-C, then release it
        #[arg(long)]
        hold: bool,
        #[command(flatten)]
        options: BehaviorOptions,
    },
    /// Let a lease live on
    Renew {
        /// The lease
        lease: String,
        /// From now
        #[arg(long, value_name = "TIME", default_value = "30s", value_parser = units::parse_duration)]
        ttl: Duration,
    },
    /// End a lease
    Release {
        /// The lease
        lease: String,
    },
    /// Take all rules and leases away
    Reset {
        /// Only from these proxies
        proxies: Vec<String>,
    },
    /// Print every fault as it is injected
    Watch {
        /// Only of these proxies
        proxies: Vec<String>,
    },
}

type Client = ProxyServiceClient<Caller>;

/// How long a call may take; none waits for traffic.
const CALL_MAX: Duration = Duration::from_secs(10);

/// Runs `fracas behavior`.
///
/// # Errors
/// When no proxy answers, or it refuses.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let hint = "start one with `fracas proxy --listen … --upstream …`, or name its API with --api";
        let caller = connect(&args.api, &args.access, "proxy", hint).await?;
        call(ProxyServiceClient::new(caller), args.verb, args.json).await
    })
}

async fn call(mut client: Client, verb: Verb, as_json: bool) -> anyhow::Result<ExitCode> {
    match verb {
        Verb::Set { proxy, mix, options } => {
            let changes = vec![v1::ProxyRules {
                proxy: proxy.clone(),
                rules: Some(rules(mix.clone(), options)),
                ..Default::default()
            }];
            let reply =
                client.apply_rules(ask(v1::ApplyRulesRequest { changes, ..Default::default() })).await;
            let change = reply.map_err(refused)?.into_inner().change.unwrap_or_default();
            say(as_json, change_json(&change), || format!("{proxy}: {mix}; {}", change_text(&change)));
        }
        Verb::Reset { proxies } => {
            let reply =
                client.reset_proxies(ask(v1::ResetProxiesRequest { proxies, ..Default::default() })).await;
            let reply = reply.map_err(refused)?.into_inner();
            let change = reply.change.unwrap_or_default();
            let names = reply.proxies.join(", ");
            say(as_json, change_json(&change), || {
                format!("{names}: normal, {} leases ended; {}", reply.leases_ended, change_text(&change))
            });
        }
        Verb::Lease { proxy, mix, ttl, hold, options } => {
            let request = v1::AcquireLeaseRequest {
                proxy: proxy.clone(),
                rules: Some(rules(mix.clone(), options)),
                ttl: duration(ttl),
                owner: format!("fracas behavior lease, process {}", std::process::id()),
                ..Default::default()
            };
            let reply = client.acquire_lease(ask(request)).await.map_err(refused)?.into_inner();
            let (lease, change) = (reply.lease.unwrap_or_default(), reply.change.unwrap_or_default());
            let mut value = change_json(&change);
            value["lease"] = json!(lease.id);
            let lives = units::format_duration(ttl);
            say(as_json, value, || {
                format!("lease {} on {proxy}: {mix} for {lives}; {}", lease.id, change_text(&change))
            });
            if hold {
                return hold_lease(client, lease.id, ttl).await;
            }
        }
        Verb::Renew { lease, ttl } => {
            let request =
                v1::RenewLeaseRequest { lease_id: lease.clone(), ttl: duration(ttl), ..Default::default() };
            client.renew_lease(ask(request)).await.map_err(refused)?;
            say(as_json, json!({"lease": lease}), || {
                format!("lease {lease} lives for another {}", units::format_duration(ttl))
            });
        }
        Verb::Release { lease } => {
            let request = v1::ReleaseLeaseRequest { lease_id: lease.clone(), ..Default::default() };
            let reply = client.release_lease(ask(request)).await.map_err(refused)?.into_inner();
            let change = reply.change.unwrap_or_default();
            let did: u64 = reply.rules.iter().map(|rule| rule.acted).sum();
            let mut value = change_json(&change);
            value["injected"] = json!(did);
            say(as_json, value, || {
                format!("lease {lease} released after {did} faults; {}", change_text(&change))
            });
        }
        Verb::List => list(&mut client, as_json).await?,
        Verb::Get { proxy } => get(&mut client, proxy, as_json).await?,
        Verb::Watch { proxies } => return watch(client, proxies, as_json).await,
    }
    Ok(ExitCode::SUCCESS)
}

async fn list(client: &mut Client, as_json: bool) -> anyhow::Result<()> {
    let request = v1::ListBehaviorKindsRequest { page_size: 1000, ..Default::default() };
    let kinds = client.list_behavior_kinds(ask(request)).await.map_err(refused)?.into_inner().behavior_kinds;
    let value = kinds.iter().map(|kind| {
        let options = kind.options.iter().map(|o| json!({"name": o.name, "default": o.default_value, "doc": o.summary}));
        json!({"name": kind.name, "aliases": kind.aliases, "built": kind.built, "summary": kind.summary, "options": options.collect::<Vec<_>>()})
    });
    say(as_json, value.collect(), || {
        let mut lines = Vec::new();
        for kind in kinds.iter().filter(|kind| kind.built) {
            let aliases = if kind.aliases.is_empty() {
                String::new()
            } else {
                format!(" ({})", kind.aliases.join(", "))
            };
            lines.push(format!("{}{aliases}: {}", kind.name, kind.summary));
            for option in &kind.options {
                let default = if option.default_value.is_empty() {
                    String::new()
                } else {
                    format!(" [{}]", option.default_value)
                };
                lines.push(format!(
                    "    --{}-{}{default}  {}",
                    kind.name,
                    option.name.replace('_', "-"),
                    option.summary
                ));
            }
        }
        let others: Vec<&str> =
            kinds.iter().filter(|kind| !kind.built).map(|kind| kind.name.as_str()).collect();
        lines.push(format!("not built yet: {}", others.join(", ")));
        lines.join("\n")
    });
    Ok(())
}

async fn get(client: &mut Client, proxy: Option<String>, as_json: bool) -> anyhow::Result<()> {
    let proxies = match proxy {
        Some(name) => {
            let reply = client.get_proxy(ask(v1::GetProxyRequest { name })).await.map_err(refused)?;
            reply.into_inner().proxy.into_iter().collect()
        }
        None => {
            let request = v1::ListProxiesRequest { page_size: 1000, ..Default::default() };
            client.list_proxies(ask(request)).await.map_err(refused)?.into_inner().proxies
        }
    };
    let stats = client.get_stats(ask(v1::GetStatsRequest {})).await.map_err(refused)?.into_inner();
    let stats_of = |name: &str| stats.proxies.iter().find(|stats| stats.proxy == name);
    let value: Vec<Value> = proxies.iter().map(|proxy| proxy_json(proxy, stats_of(&proxy.name))).collect();
    say(as_json, Value::from(value), || {
        if proxies.is_empty() {
            return "there is no proxy; create one by the config or CreateProxy".to_owned();
        }
        proxies.iter().map(|proxy| proxy_text(proxy, stats_of(&proxy.name))).collect::<Vec<_>>().join("\n")
    });
    Ok(())
}

async fn watch(mut client: Client, proxies: Vec<String>, as_json: bool) -> anyhow::Result<ExitCode> {
    let request =
        v1::WatchEventsRequest { proxies, kinds: vec![EventKind::Injected.into()], ..Default::default() };
    let mut stream = client.watch_events(request).await.map_err(refused)?.into_inner();
    loop {
        let message = tokio::select! {
            message = stream.message() => message.map_err(refused)?,
            _ = tokio::signal::ctrl_c() => return Ok(ExitCode::from(super::exit::INTERRUPTED)),
        };
        let Some(message) = message else { return Ok(ExitCode::SUCCESS) };
        for event in message.events {
            let (asked, done) = (std(event.asked.as_ref()), std(event.done.as_ref()));
            let value = json!({
                "monotonic_ns": event.monotonic_ns, "proxy": event.proxy, "connection": event.connection,
                "rule": event.rule, "behavior": event.behavior, "lease": event.lease_id,
                "asked_ns": asked.as_nanos() as u64, "done_ns": done.as_nanos() as u64,
            });
            let at = event.monotonic_ns as f64 / 1e9;
            let held =
                if asked.is_zero() { String::new() } else { format!("  asked {asked:?}, done {done:?}") };
            if as_json {
                println!("{value}")
            } else {
                println!(
                    "{at:.6}  {}  connection {}  {} ({}){held}",
                    event.proxy, event.connection, event.behavior, event.rule
                )
            }
        }
    }
}

/// Renews a lease until it is interrupted, then releases it. If this process dies, the lease does.
async fn hold_lease(mut client: Client, lease: String, ttl: Duration) -> anyhow::Result<ExitCode> {
    let mut ticks = tokio::time::interval(ttl / 3);
    ticks.tick().await;
    loop {
        tokio::select! {
            _ = ticks.tick() => {
                let request = v1::RenewLeaseRequest { lease_id: lease.clone(), ttl: duration(ttl), ..Default::default() };
                client.renew_lease(ask(request)).await.map_err(refused)?;
            }
            _ = tokio::signal::ctrl_c() => {
                let request = v1::ReleaseLeaseRequest { lease_id: lease.clone(), ..Default::default() };
                client.release_lease(ask(request)).await.map_err(refused)?;
                println!("lease {lease} released");
                return Ok(ExitCode::SUCCESS);
            }
        }
    }
}

fn rules(mix: String, options: BehaviorOptions) -> v1::RuleSet {
    let options = options.0.into_iter().map(|(behavior, values)| (behavior, v1::BehaviorOptions { values }));
    v1::RuleSet { mix, options: options.collect(), ..Default::default() }
}

fn ask<T>(message: T) -> tonic::Request<T> {
    let mut request = tonic::Request::new(message);
    request.set_timeout(CALL_MAX);
    request
}

fn refused(status: tonic::Status) -> anyhow::Error {
    anyhow::anyhow!("{}", status.message())
}

fn say(as_json: bool, value: Value, text: impl FnOnce() -> String) {
    if as_json { println!("{value:#}") } else { println!("{}", text()) }
}

fn change_json(change: &v1::Change) -> Value {
    let took = std(change.apply_time.as_ref());
    json!({
        "generation": change.generation,
        "workers": change.workers,
        "took_ns": took.as_nanos() as u64,
        "applied_at_monotonic_ns": change.applied_at_monotonic_ns,
    })
}

fn change_text(change: &v1::Change) -> String {
    let took = std(change.apply_time.as_ref());
    format!("generation {}, on {} workers after {took:?}", change.generation, change.workers)
}

fn proxy_json(proxy: &v1::Proxy, stats: Option<&v1::ProxyStats>) -> Value {
    let rules = stats.iter().flat_map(|stats| &stats.rules).map(|rule| {
        let lateness = rule.lateness.as_ref().filter(|lateness| lateness.count > 0);
        json!({
            "rule": rule.rule, "behavior": rule.behavior, "injected": rule.acted,
            "share": proxy.rules.iter().find(|known| known.name == rule.rule).and_then(|known| known.share_percent),
            "accuracy": lateness.map(|l| json!({"count": l.count, "p50_ns": l.p50_ns, "p99_ns": l.p99_ns, "max_ns": l.max_ns})),
        })
    });
    json!({
        "name": proxy.name, "listen": proxy.listen, "upstream": proxy.upstream, "protocol": proxy.protocol,
        "enabled": proxy.enabled, "generation": proxy.generation, "seed": proxy.seed,
        "connections_open": proxy.connections_open,
        "leases": proxy.leases.iter().map(|lease| json!({"id": lease.id, "owner": lease.owner})).collect::<Vec<_>>(),
        "rules": rules.collect::<Vec<_>>(),
        "natural_failures": stats.map(|stats| json!(stats.natural_failures)),
    })
}

fn proxy_text(proxy: &v1::Proxy, stats: Option<&v1::ProxyStats>) -> String {
    let off = if proxy.enabled { "" } else { ", switched off" };
    let mut lines = vec![format!(
        "{}: {} → {} ({}{off}), generation {}, {} connections open",
        proxy.name, proxy.listen, proxy.upstream, proxy.protocol, proxy.generation, proxy.connections_open
    )];
    if proxy.rules.is_empty() {
        lines.push("    no rules: everything passes".to_owned());
    }
    for rule in &proxy.rules {
        let done = stats.and_then(|stats| stats.rules.iter().find(|done| done.rule == rule.name));
        let acted = done.map_or(0, |done| done.acted);
        let accuracy = done.and_then(|done| done.lateness.as_ref()).filter(|lateness| lateness.count > 0);
        let accuracy = accuracy.map_or_else(String::new, |l| {
            format!(
                ", done − asked p50 {:?} p99 {:?}",
                Duration::from_nanos(l.p50_ns),
                Duration::from_nanos(l.p99_ns)
            )
        });
        lines.push(format!(
            "    {:>5} % {} ({}): {acted} injected{accuracy}",
            rule.share_percent.unwrap_or(100.0),
            rule.behavior,
            rule.name
        ));
    }
    for lease in &proxy.leases {
        lines.push(format!("    lease {} of {}", lease.id, lease.owner));
    }
    lines.join("\n")
}

fn duration(duration: Duration) -> Option<prost_types::Duration> {
    prost_types::Duration::try_from(duration).ok()
}

fn std(duration: Option<&prost_types::Duration>) -> Duration {
    duration.and_then(|duration| Duration::try_from(*duration).ok()).unwrap_or_default()
}
