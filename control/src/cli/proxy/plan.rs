//! What a command line or a config wants: the proxies, where their upstreams are, and the faults of their timelines.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::Arc;
use std::time::Duration;

use fracas_dataplane::address::Address;
use fracas_dataplane::behavior::{Rule, mix};
use fracas_dataplane::config::{Config, DEFAULT_NAME};
use fracas_dataplane::destination::Destinations;
use fracas_dataplane::proxy::leases::Term;
use fracas_dataplane::proxy::{
    Handle, LeaseRequest, Patience, PatienceUpdate, ProxyError, ProxySpec, Upstreams,
};

use super::Args;
use crate::cli::exit::UsageError;
use crate::lookup::{Lookups, WAITING_MAX, host_of};

/// How long the start, or a reload, waits for names of upstreams.
const LOOKUP_WITHIN: Duration = Duration::from_secs(5);

/// A proxy to make, with the faults that its timeline plans.
pub(super) struct Planned {
    pub spec: ProxySpec,
    pub timeline: Timeline,
}

/// When rules begin, how long they act, and which.
pub(super) type Timeline = Vec<(Duration, Duration, Vec<Rule>)>;

/// The one proxy of a command line.
pub(super) fn from_flags(args: &Args) -> anyhow::Result<Planned> {
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
    let spec = spec(DEFAULT_NAME, listen, &upstream)?;
    let spec = ProxySpec {
        protocol: args.protocol,
        rules,
        resolve: args.resolve.unwrap_or(spec.resolve),
        connect_timeout: args.connect_timeout.unwrap_or(spec.connect_timeout),
        patience: patience(args),
        source_addresses: args.source_addresses.clone(),
        ..spec
    };
    Ok(Planned { spec, timeline: Vec::new() })
}

/// The limits on silence that the flags set.
fn patience(args: &Args) -> Patience {
    Patience::default().updated(&PatienceUpdate {
        idle: args.idle_timeout,
        linger: args.linger,
        half_close: args.half_close,
        keepalive: args.keepalive,
    })
}

/// The proxies of a config.
pub(super) fn from_config(config: &Config) -> anyhow::Result<Vec<Planned>> {
    let proxies = config.proxies.iter().map(|proxy| {
        let spec = ProxySpec {
            protocol: proxy.protocol,
            rules: proxy.rules.clone(),
            resolve: proxy.resolve,
            connect_timeout: proxy.connect_timeout,
            patience: proxy.patience,
            source_addresses: proxy.source_addresses.clone(),
            held_bytes_max: usize::try_from(proxy.held_bytes_max)?,
            ..spec(&proxy.name, proxy.listen, &proxy.upstream)?
        };
        let timeline = proxy.timeline.iter().map(|entry| (entry.at, entry.lasts, entry.rules.clone()));
        Ok(Planned { spec, timeline: timeline.collect() })
    });
    proxies.collect()
}

/// A proxy whose upstream has its address if that needs no look-up.
fn spec(name: &str, listen: SocketAddr, upstream: &str) -> anyhow::Result<ProxySpec> {
    let address = Address::parse(upstream).map_err(UsageError::because)?;
    let addresses = Vec::from_iter(address.literal());
    let spec = ProxySpec::new(name, listen, SocketAddr::from(([127, 0, 0, 1], 1)));
    Ok(ProxySpec { upstream: upstream.to_owned(), upstream_addresses: addresses, ..spec })
}

/// Looks the names of all upstreams up, beside each other; gives a line for each that has no address yet.
pub(super) async fn look_up(planned: &mut [Planned], lookups: &Lookups) -> Vec<String> {
    let unknown = planned.iter().filter(|planned| planned.spec.upstream_addresses.is_empty());
    let names: BTreeSet<String> = unknown.map(|planned| planned.spec.upstream.clone()).collect();
    let names: Vec<String> = names.into_iter().collect();
    let mut found = BTreeMap::new();
    // No more at a time than may wait: the others would be refused.
    for names in names.chunks(WAITING_MAX) {
        let ask = |name: &String| {
            let (lookups, name) = (lookups.clone(), name.clone());
            tokio::spawn(async move { (lookups.look_up(&name, LOOKUP_WITHIN).await, name) })
        };
        for asked in names.iter().map(ask).collect::<Vec<_>>() {
            if let Ok((addresses, name)) = asked.await {
                found.insert(name, addresses);
            }
        }
    }
    let mut lines = Vec::new();
    for Planned { spec, .. } in planned {
        match found.get(&spec.upstream) {
            None => {}
            Some(Ok(addresses)) => spec.upstream_addresses.clone_from(addresses),
            Some(Err(why)) => lines.push(format!("proxy `{}`: {why}", spec.name)),
        }
    }
    lines
}

/// How names are looked up again: by the system, and what they lead to is checked each time.
pub(super) fn upstreams(destinations: Destinations) -> Upstreams {
    let look_up = move |upstream: &str| -> io::Result<Vec<SocketAddr>> {
        let found: Vec<SocketAddr> = upstream.to_socket_addrs()?.collect();
        destinations.check(&host_of(upstream), &found).map_err(io::Error::other)?;
        Ok(found)
    };
    Upstreams { look_up: Arc::new(look_up), ..Upstreams::default() }
}

/// The leases of timelines, by proxy.
#[derive(Default)]
pub(super) struct Timelines(BTreeMap<String, Vec<String>>);

impl Timelines {
    /// Plans a proxy's timeline from now on.
    ///
    /// # Errors
    /// When the proxy has too many leases.
    pub(super) fn begin(
        &mut self,
        handle: &Handle,
        proxy: &str,
        timeline: Timeline,
    ) -> Result<(), ProxyError> {
        for (at, lasts, rules) in timeline {
            let (lease, _) = handle.acquire(LeaseRequest {
                proxy: proxy.to_owned(),
                rules,
                owner: "timeline".to_owned(),
                term: Term { ttl: None, starts_in: at, active_for: Some(lasts) },
            })?;
            self.0.entry(proxy.to_owned()).or_default().push(lease.id);
        }
        Ok(())
    }

    /// Ends what is left of a proxy's timeline.
    pub(super) fn end(&mut self, handle: &Handle, proxy: &str) {
        for lease in self.0.remove(proxy).unwrap_or_default() {
            // One that has ended by itself is as good as released.
            let _ = handle.release(&lease);
        }
    }
}

#[cfg(test)]
mod tests {
    use fracas_dataplane::proxy::RESOLVE_DEFAULT;

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
        for (flag, takes_zero) in [
            ("half-close", false),
            ("connect-timeout", false),
            ("linger", true),
            ("resolve", true),
            ("drain", true),
        ] {
            assert_eq!(planned(&format!("--{flag} 0")).is_ok(), takes_zero, "{flag}");
            for (time, fits) in [("24h", true), ("24h1ns", false), ("1us", false)] {
                assert_eq!(planned(&format!("--{flag} {time}")).is_ok(), fits, "{flag} {time}");
            }
        }
    }

    #[test]
    fn what_a_name_leads_to_is_checked_each_time_it_is_looked_up() {
        let upstreams = upstreams(Destinations::default());
        assert_eq!((upstreams.look_up)("127.0.0.1:80").unwrap(), ["127.0.0.1:80".parse().unwrap()]);
        let refused = (upstreams.look_up)("169.254.169.254:80").unwrap_err().to_string();
        assert!(refused.contains("cloud's metadata address"), "{refused}");
    }

    #[tokio::test]
    async fn every_name_is_looked_up_once_however_many_there_are() {
        let asked = Arc::new(std::sync::atomic::AtomicUsize::new(0));
        let counted = asked.clone();
        let lookups = Lookups::by(move |name| {
            counted.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            if name == "nowhere:80" {
                Err(io::ErrorKind::NotFound.into())
            } else {
                Ok(vec![([10, 0, 0, 1], 80).into()])
            }
        });
        let listen = SocketAddr::from(([127, 0, 0, 1], 0));
        let planned =
            |name: String| Planned { spec: spec("p", listen, &name).unwrap(), timeline: Vec::new() };
        let names = (0..1_000).map(|number| format!("name{number}:80"));
        let more = ["name7:80", "nowhere:80", "127.0.0.1:80"].map(str::to_owned);
        let mut all: Vec<Planned> = names.chain(more).map(planned).collect();
        let lines = look_up(&mut all, &lookups).await;
        assert_eq!(asked.load(std::sync::atomic::Ordering::Relaxed), 1_001);
        assert_eq!(lines.len(), 1, "{lines:?}");
        assert!(lines[0].contains("cannot look up `nowhere:80`"), "{lines:?}");
        assert!(all.iter().filter(|planned| planned.spec.upstream_addresses.is_empty()).count() == 1);
    }
}
