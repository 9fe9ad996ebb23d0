//! `fracas behavior`: changes what a running proxy does to its traffic, and tells what it does.

use std::process::ExitCode;
use std::time::Duration;

use fracas_dataplane::behavior::KINDS;
use fracas_dataplane::units;
use fracas_loadgen::report::{latency, length, plural};
use fracas_proto::v1::proxy_service_client::ProxyServiceClient;
use fracas_proto::v1::{self, EventKind};
use serde_json::{Value, json};
use tonic_types::StatusExt;

use super::access::AccessArgs;
use super::client::connect;
use super::exit::UsageError;
use super::options::BehaviorOptions;
use super::plain;
use super::signals::Signals;
use crate::durations;
use crate::grpc::proxy_answers::behavior_kind_proto;
use crate::wire::dial::Caller;

mod show;

/// Flags of `fracas behavior`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  fracas behavior set default 20:delay,5:error --delay-time 200ms
  fracas behavior get --api 10.0.0.5:7401 --tls-ca ca.pem --token-file token")]
pub struct Args {
    #[command(subcommand)]
    verb: Verb,
    /// API of the proxy [default: 127.0.0.1:7401]
    #[arg(long, global = true, value_name = "HOST:PORT", value_parser = super::address::remote)]
    api: Option<String>,
    /// Print JSON
    #[arg(long, global = true)]
    json: bool,
    #[command(flatten)]
    access: AccessArgs,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// Put a mix on a proxy, in place of its rules; live connections included
    #[command(after_help = "Example: fracas behavior set default 20:delay,5:error --delay-time 200ms")]
    Set {
        /// The proxy
        proxy: String,
        /// Faults with their shares, such as 20:delay,5:error; `normal` takes all away
        mix: String,
        #[command(flatten)]
        options: BehaviorOptions,
    },
    /// Show the proxies, their rules and what these have done
    #[command(after_help = "Example: fracas behavior get default --json")]
    Get {
        /// Only this proxy
        proxy: Option<String>,
    },
    /// List the behaviors and their options; those of this fracas, or with --api those of a proxy
    #[command(after_help = "Example: fracas behavior list")]
    List,
    /// Put a mix on top of a proxy's rules for a time
    #[command(after_help = "Example: fracas behavior lease default 100:hang --ttl 2s")]
    Lease {
        /// The proxy
        proxy: String,
        /// Faults with their shares
        mix: String,
        /// How long it lives
        #[arg(long, value_name = "TIME", default_value = "30s", allow_hyphen_values = true, value_parser = units::parse_duration)]
        ttl: Duration,
        /// Keep it alive until Ctrl-C, then release it
        #[arg(long)]
        hold: bool,
        #[command(flatten)]
        options: BehaviorOptions,
    },
    /// Let a lease live on
    #[command(after_help = "Example: fracas behavior renew 0-1 --ttl 1m")]
    Renew {
        /// The lease
        lease: String,
        /// From now [default: as long as it was given before]
        #[arg(long, value_name = "TIME", allow_hyphen_values = true, value_parser = units::parse_duration)]
        ttl: Option<Duration>,
    },
    /// End a lease
    #[command(after_help = "Example: fracas behavior release 0-1")]
    Release {
        /// The lease
        lease: String,
    },
    /// Take all rules and leases away
    #[command(after_help = "Example: fracas behavior reset default")]
    Reset {
        /// Only from these proxies
        proxies: Vec<String>,
    },
    /// Print what happens: faults, failures that nobody asked for, limits, changes, leases
    #[command(after_help = "Example: fracas behavior watch --kind injected --kind natural_failure")]
    Watch {
        /// Only of these proxies
        proxies: Vec<String>,
        /// Only this kind; may be repeated
        #[arg(long = "kind", value_name = "KIND")]
        kinds: Vec<Kind>,
    },
}

/// A kind of event; its name is that of the API without `EVENT_KIND_`.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
#[value(rename_all = "snake_case")]
enum Kind {
    Injected,
    NaturalFailure,
    LimitReached,
    Changed,
    LeaseAcquired,
    LeaseStarted,
    LeaseEnded,
}

impl From<Kind> for EventKind {
    fn from(kind: Kind) -> EventKind {
        match kind {
            Kind::Injected => EventKind::Injected,
            Kind::NaturalFailure => EventKind::NaturalFailure,
            Kind::LimitReached => EventKind::LimitReached,
            Kind::Changed => EventKind::Changed,
            Kind::LeaseAcquired => EventKind::LeaseAcquired,
            Kind::LeaseStarted => EventKind::LeaseStarted,
            Kind::LeaseEnded => EventKind::LeaseEnded,
        }
    }
}

type Client = ProxyServiceClient<Caller>;

/// Where a proxy's API is unless it is said.
const API_DEFAULT: &str = "127.0.0.1:7401";
/// Proxies that are asked for at a time: as many as are given.
const PAGE: u32 = 1000;
/// What an answer may have: figures of every proxy of a process come in one.
const ANSWER_BYTES_MAX: usize = 256 << 20;
/// How long a call may take; none waits for traffic.
const CALL_MAX: Duration = Duration::from_secs(10);

/// Runs `fracas behavior`.
///
/// # Errors
/// When no proxy answers, or it refuses.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        if matches!(args.verb, Verb::List) && args.api.is_none() {
            let mut kinds: Vec<_> = KINDS.iter().map(behavior_kind_proto).collect();
            kinds.sort_by(|one, other| one.name.cmp(&other.name));
            list(&kinds, args.json);
            return Ok(ExitCode::SUCCESS);
        }
        let hint = "start one with `fracas proxy --listen … --upstream …`, or name its API with --api";
        let caller = connect(args.api.as_deref().unwrap_or(API_DEFAULT), &args.access, "proxy", hint).await?;
        let client = ProxyServiceClient::new(caller).max_decoding_message_size(ANSWER_BYTES_MAX);
        call(client, args.verb, args.json).await
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
                let leases = plural(u64::from(reply.leases_ended), "lease");
                format!("{names}: normal, {leases} ended; {}", change_text(&change))
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
            let lives = length(ttl);
            say(as_json, value, || {
                format!("lease {} on {proxy}: {mix} for {lives}; {}", lease.id, change_text(&change))
            });
            if hold {
                return hold_lease(client, lease.id, ttl).await;
            }
        }
        Verb::Renew { lease, ttl } => {
            let request = v1::RenewLeaseRequest {
                lease_id: lease.clone(),
                ttl: ttl.and_then(duration),
                ..Default::default()
            };
            let reply = client.renew_lease(ask(request)).await.map_err(refused)?.into_inner();
            let ttl = std(reply.lease.unwrap_or_default().ttl.as_ref());
            say(as_json, json!({"lease": lease, "ttl_ns": ttl.as_nanos() as u64}), || {
                format!("lease {lease} lives for another {}", length(ttl))
            });
        }
        Verb::Release { lease } => {
            let request = v1::ReleaseLeaseRequest { lease_id: lease.clone(), ..Default::default() };
            let reply = client.release_lease(ask(request)).await.map_err(refused)?.into_inner();
            let change = reply.change.unwrap_or_default();
            let did: u64 = reply.rules.iter().map(|rule| rule.injected).sum();
            let mut value = change_json(&change);
            value["injected"] = json!(did);
            say(as_json, value, || {
                format!("lease {lease} released after {}; {}", plural(did, "fault"), change_text(&change))
            });
        }
        Verb::List => {
            let request = v1::ListBehaviorKindsRequest { page_size: 1000, ..Default::default() };
            let kinds = client.list_behavior_kinds(ask(request)).await.map_err(refused)?.into_inner();
            list(&kinds.behavior_kinds, as_json);
        }
        Verb::Get { proxy } => get(&mut client, proxy, as_json).await?,
        Verb::Watch { proxies, kinds } => return watch(client, proxies, kinds, as_json).await,
    }
    Ok(ExitCode::SUCCESS)
}

fn list(kinds: &[v1::BehaviorKind], as_json: bool) {
    let value = kinds.iter().map(|kind| {
        let options = kind.options.iter().map(|o| json!({"name": o.name, "default": o.default_value, "required": o.required, "doc": o.summary}));
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
                let default = if option.required {
                    " [needed]".to_owned()
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
}

async fn get(client: &mut Client, proxy: Option<String>, as_json: bool) -> anyhow::Result<()> {
    let proxies = match proxy {
        Some(name) => {
            let reply = client.get_proxy(ask(v1::GetProxyRequest { name })).await.map_err(refused)?;
            reply.into_inner().proxy.into_iter().collect()
        }
        None => {
            let (mut proxies, mut page_token) = (Vec::new(), String::new());
            loop {
                let request = v1::ListProxiesRequest { page_size: PAGE, page_token };
                let page = client.list_proxies(ask(request)).await.map_err(refused)?.into_inner();
                proxies.extend(page.proxies);
                page_token = page.next_page_token;
                if page_token.is_empty() {
                    break proxies;
                }
            }
        }
    };
    let stats = client.get_stats(ask(v1::GetStatsRequest {})).await.map_err(refused)?.into_inner();
    let stats_of = |name: &str| stats.proxies.iter().find(|stats| stats.proxy == name);
    let value: Vec<Value> =
        proxies.iter().map(|proxy| show::proxy_json(proxy, stats_of(&proxy.name))).collect();
    say(as_json, Value::from(value), || {
        if proxies.is_empty() {
            return "there is no proxy; create one by the config or CreateProxy".to_owned();
        }
        proxies
            .iter()
            .map(|proxy| show::proxy_text(proxy, stats_of(&proxy.name)))
            .collect::<Vec<_>>()
            .join("\n")
    });
    Ok(())
}

async fn watch(
    mut client: Client,
    proxies: Vec<String>,
    kinds: Vec<Kind>,
    as_json: bool,
) -> anyhow::Result<ExitCode> {
    let kinds = kinds.into_iter().map(|kind| EventKind::from(kind).into()).collect();
    let request = v1::WatchEventsRequest { proxies, kinds, ..Default::default() };
    let mut stream = client.watch_events(request).await.map_err(refused)?.into_inner();
    let mut signals = Signals::listen()?;
    let mut lost = 0;
    loop {
        let message = tokio::select! {
            message = stream.message() => message.map_err(refused)?,
            () = signals.next() => return Ok(ExitCode::from(super::exit::INTERRUPTED)),
        };
        let Some(message) = message else { return Ok(ExitCode::SUCCESS) };
        for event in &message.events {
            if as_json {
                plain::say(&show::event_json(event).to_string());
            } else {
                plain::say(&show::event_text(event));
            }
        }
        if message.lost > lost {
            let events = plural(message.lost - lost, "event");
            plain::note(&format!("note: {events} lost on the way here; the counters have all of them"));
            lost = message.lost;
        }
        if plain::is_unread() {
            return Ok(ExitCode::SUCCESS);
        }
    }
}

/// Renews a lease until it is interrupted, then releases it. If this process dies, the lease does.
async fn hold_lease(mut client: Client, lease: String, ttl: Duration) -> anyhow::Result<ExitCode> {
    let mut signals = Signals::listen()?;
    let mut ticks = tokio::time::interval(ttl / 3);
    ticks.tick().await;
    loop {
        tokio::select! {
            _ = ticks.tick() => {
                let request = v1::RenewLeaseRequest { lease_id: lease.clone(), ttl: duration(ttl), ..Default::default() };
                client.renew_lease(ask(request)).await.map_err(refused)?;
            }
            () = signals.next() => {
                let request = v1::ReleaseLeaseRequest { lease_id: lease.clone(), ..Default::default() };
                client.release_lease(ask(request)).await.map_err(refused)?;
                plain::say(&format!("lease {lease} released"));
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

/// A mistake in the mix or its options is told without the path that it has in the call.
fn refused(status: tonic::Status) -> anyhow::Error {
    let details = status.get_details_bad_request();
    let violation = details.and_then(|details| details.field_violations.into_iter().next());
    match violation.filter(|violation| violation.field.contains("rules")) {
        Some(violation) => UsageError::because(violation.description),
        None => super::client::error(status),
    }
}

fn say(as_json: bool, value: Value, text: impl FnOnce() -> String) {
    plain::say(&if as_json { format!("{value:#}") } else { text() });
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
    let took = latency(std(change.apply_time.as_ref()).as_nanos() as u64);
    let workers = plural(u64::from(change.workers), "worker");
    format!("generation {}, on {workers} after {took}", change.generation)
}

fn duration(duration: Duration) -> Option<prost_types::Duration> {
    prost_types::Duration::try_from(duration).ok()
}

fn std(duration: Option<&prost_types::Duration>) -> Duration {
    durations::duration(duration.copied()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::grpc::refusal::invalid;

    #[test]
    fn a_mistake_in_a_mix_is_told_without_its_path_in_the_call() {
        let of = |field: &str| refused(invalid(field, "unknown behavior `dealy`")).to_string();
        assert_eq!(of("changes[0].rules.mix"), "unknown behavior `dealy`");
        assert_eq!(of("rules.options[delay].values[time]"), "unknown behavior `dealy`");
        assert_eq!(of("ttl"), "ttl: unknown behavior `dealy`", "the field is all that says where");
    }
}
