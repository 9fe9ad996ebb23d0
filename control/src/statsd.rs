//! Counters to a statsd server: one for each bad thing, once a second, under names that never change.
//!
//! `PREFIX.proxy.PROXY.behavior.BEHAVIOR` counts injected faults, `PREFIX.proxy.PROXY.COUNTER` the rest. The data
//! path never touches this: totals are read from the handle, and their growth is sent.

use std::collections::HashMap;
use std::net::ToSocketAddrs;
use std::time::Duration;

use anyhow::Context;
use fracas_dataplane::proxy::{Handle, Stats};
use metrics::{Key, Label, Level, Metadata, Recorder};
use metrics_exporter_statsd::{StatsdBuilder, StatsdRecorder};
use tokio::sync::watch;

use crate::prometheus::injected;

/// How often growth is sent.
const EVERY: Duration = Duration::from_secs(1);
/// Lines that may wait for the socket; the exporter's own default is 256 and it drops without a word.
const QUEUE_LINES: usize = 65_536;
/// Bytes in a datagram: an Ethernet frame's payload.
const DATAGRAM_BYTES: usize = 1432;

/// A statsd server, and what it has been told.
pub struct Statsd {
    recorder: StatsdRecorder,
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
        let builder = StatsdBuilder::from(address.ip().to_string(), address.port());
        // A socket of the other family could send nothing there, and the exporter would not say so.
        let builder = builder.with_client_udp_host(if address.is_ipv6() { "[::]" } else { "0.0.0.0" });
        let builder = builder.with_queue_size(QUEUE_LINES).with_buffer_size(DATAGRAM_BYTES);
        let recorder = builder.build(Some(prefix)).with_context(wrong)?;
        Ok(Statsd { recorder, told: HashMap::new() })
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
            // Also after the workers have ended: nothing that they counted is to be lost.
            if let Ok(stats) = tokio::task::spawn_blocking(move || read.last_stats()).await {
                self.tell(&stats);
            }
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
    }

    fn grow(&mut self, name: String, total: u64) {
        let before = self.told.insert(name.clone(), total).unwrap_or(0);
        if total > before {
            let key = Key::from_parts(name, Vec::<Label>::new());
            let metadata = Metadata::new(module_path!(), Level::INFO, None);
            self.recorder.register_counter(&key, &metadata).increment(total - before);
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
        drop(statsd);
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
