//! Counters to a statsd server: one for each bad thing, once a second, under names that never change.
//!
//! `PREFIX.proxy.PROXY.behavior.BEHAVIOR` counts injected faults, `PREFIX.proxy.PROXY.COUNTER` the rest. The data
//! path never touches this: totals are read from the handle, and their growth is sent.

use std::collections::HashMap;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs, UdpSocket};
use std::time::Duration;

use anyhow::Context;
use cadence::{BufferedUdpMetricSink, Counted, StatsdClient};
use fracas_dataplane::proxy::{Handle, Stats};
use tokio::sync::watch;

use crate::prometheus::injected;

/// How often growth is sent.
const EVERY: Duration = Duration::from_secs(1);
/// Bytes in a datagram: an Ethernet frame's payload. Lines share one until it is full or the second's last is written.
const DATAGRAM_BYTES: usize = 1432;

/// A statsd server, and what it has been told.
pub struct Statsd {
    client: StatsdClient,
    told: HashMap<String, u64>,
}

impl Statsd {
    /// Sends to `server` (`HOST:PORT`), every name beginning with `prefix`.
    ///
    /// # Errors
    /// When the server has no address or no socket can be had.
    pub fn connect(server: &str, prefix: &str) -> anyhow::Result<Statsd> {
        let wrong = || format!("--statsd: `{server}` is not HOST:PORT of a statsd server");
        let address = server.to_socket_addrs().with_context(wrong)?.next().with_context(wrong)?;
        // A socket of the other family could send nothing there.
        let any = if address.is_ipv6() {
            SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0))
        } else {
            SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0))
        };
        let sink = BufferedUdpMetricSink::with_capacity(address, UdpSocket::bind(any)?, DATAGRAM_BYTES)?;
        let client = StatsdClient::from_sink(prefix, sink);
        Ok(Statsd { client, told: HashMap::new() })
    }

    /// Tells what has grown, each second and once more when `stopped`.
    pub async fn keep(mut self, handle: Handle, mut stopped: watch::Receiver<bool>) {
        let mut ticks = tokio::time::interval(EVERY);
        loop {
            let last = tokio::select! {
                _ = ticks.tick() => false,
                _ = stopped.wait_for(|stop| *stop) => true,
            };
            let read = handle.clone();
            let told = tokio::task::spawn_blocking(move || {
                // Also after the workers have ended: nothing that they counted is to be lost.
                self.tell(&read.last_stats());
                self
            });
            let Ok(told) = told.await else { return };
            self = told;
            if last {
                return;
            }
        }
    }

    fn tell(&mut self, stats: &Stats) {
        for (proxy, figures) in &stats.proxies {
            for (name, _, total) in figures.counters.named() {
                self.grow(format!("proxy.{}.{name}", path_part(proxy)), total);
            }
        }
        for (proxy, behavior, total) in injected(stats) {
            self.grow(format!("proxy.{}.behavior.{behavior}", path_part(&proxy)), total);
        }
        // The lines that fill no datagram. What cannot be sent is lost, as it is with statsd; no later line makes up for it.
        let _ = self.client.flush();
    }

    fn grow(&mut self, name: String, total: u64) {
        let before = self.told.get(&name).copied().unwrap_or(0);
        if total > before {
            let _ = self.client.count(&name, total - before);
            self.told.insert(name, total);
        }
    }
}

/// A proxy's name as one part of a path: dots and statsd's own signs would split it.
fn path_part(name: &str) -> String {
    name.chars().map(|c| if c.is_ascii_alphanumeric() || c == '-' || c == '_' { c } else { '_' }).collect()
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;

    use super::*;

    #[test]
    fn growth_reaches_a_real_socket_once() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            growth_reaches(&UdpSocket::bind(address).unwrap());
        }
    }

    fn growth_reaches(server: &UdpSocket) {
        server.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        let mut statsd = Statsd::connect(&server.local_addr().unwrap().to_string(), "fracas").unwrap();
        statsd.grow("proxy.redis.behavior.delay".to_owned(), 3);
        statsd.grow("proxy.redis.behavior.delay".to_owned(), 3);
        statsd.grow("proxy.redis.behavior.delay".to_owned(), 8);
        // Lines that fill no datagram leave with their second, not with the end.
        let at = fracas_dataplane::clock::Instant::ZERO;
        statsd.tell(&Stats { at, workers: Vec::new(), proxies: Default::default() });
        let mut text = String::new();
        let mut buffer = [0; 2048];
        while text.lines().count() < 2 {
            let length = server.recv(&mut buffer).unwrap();
            text += std::str::from_utf8(&buffer[..length]).unwrap();
            text += "\n";
        }
        let lines: Vec<&str> = text.lines().filter(|line| !line.is_empty()).collect();
        assert_eq!(lines, ["fracas.proxy.redis.behavior.delay:3|c", "fracas.proxy.redis.behavior.delay:5|c"]);
    }

    #[test]
    fn a_name_stays_one_part() {
        assert_eq!(path_part("redis.eu:1|c"), "redis_eu_1_c");
    }
}
