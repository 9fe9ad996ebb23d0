//! Proxies of two processes that lead to each other make connections without end. They take no more than their room: the
//! processes keep descriptors, other proxies go on, and all is well as soon as the circle is broken.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

#[path = "support/far.rs"]
mod far;
mod support;

use std::fs::File;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use far::{Far, wait_until};
use fracas_dataplane::proxy::{Dataplane, DataplaneSettings, ProxySpec, ProxyUpdate};
use support::EchoServer;

const OPEN_FILES: u64 = 512;

/// A process with few descriptors and two proxies: one that will be part of a circle, and another.
struct FarProxies {
    far: Far,
    circle: SocketAddr,
    other: SocketAddr,
}

/// What the far process tells when asked.
#[derive(Clone, Copy, Debug)]
struct Told {
    open: u64,
    turned_away: u64,
    /// Turned away by the other proxy.
    others: u64,
    /// Descriptors it can still have.
    free: u64,
}

impl FarProxies {
    fn start(test: &str, upstream: SocketAddr) -> FarProxies {
        let (far, words) = Far::start(test, OPEN_FILES, upstream);
        FarProxies { far, circle: words[0].parse().unwrap(), other: words[1].parse().unwrap() }
    }

    /// Sends what comes to its first proxy there.
    fn lead_to(&mut self, upstream: SocketAddr) {
        self.far.ask(&upstream.to_string());
    }

    fn told(&mut self) -> Told {
        let [open, turned_away, others, free] = self.far.told();
        Told { open, turned_away, others, free }
    }

    fn wait_until(&mut self, is_so: impl Fn(&Told) -> bool) -> Told {
        wait_until(|| self.told(), is_so)
    }
}

/// The child's part: serves until its standard input ends. Returns whether this is the child.
fn is_the_far_side() -> bool {
    let Some(upstream) = far::upstream() else { return false };
    let dataplane =
        Dataplane::start(DataplaneSettings { threads: 1, ..DataplaneSettings::default() }).unwrap();
    let handle = dataplane.handle();
    let listen = "127.0.0.1:0".parse().unwrap();
    let made = ["circle", "other"]
        .map(|name| handle.create(ProxySpec::new(name, listen, upstream)).unwrap().spec.listen);
    println!("@ {} {}", made[0], made[1]);
    for line in std::io::stdin().lines() {
        let line = line.unwrap();
        if let Ok(upstream) = line.parse::<SocketAddr>() {
            let update = ProxyUpdate { upstream: Some((line, vec![upstream])), ..ProxyUpdate::default() };
            handle.update("circle", update).unwrap();
            println!("@ done");
            continue;
        }
        let stats = handle.stats().unwrap();
        let turned_away = |name: &str| stats.proxies[name].counters.connection_limit_reached;
        let open: usize = stats.workers.iter().map(|worker| worker.connections).sum();
        let free: Vec<File> = std::iter::from_fn(|| File::open("/dev/null").ok()).take(1000).collect();
        println!("@ {open} {} {} {}", turned_away("circle"), turned_away("other"), free.len());
    }
    true
}

fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    stream
}

fn echoes(address: SocketAddr) -> bool {
    // Who is turned away by a RST may hear of it before its connect has returned.
    let Ok(mut client) = TcpStream::connect(address) else { return false };
    client.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    let mut got = [0];
    client.write_all(b"e").is_ok() && client.read_exact(&mut got).is_ok() && got == *b"e"
}

#[test]
fn a_circle_through_another_process_takes_no_more_than_its_room() {
    if is_the_far_side() {
        return;
    }
    let test = "a_circle_through_another_process_takes_no_more_than_its_room";
    let server = EchoServer::start();
    let mut both = [FarProxies::start(test, server.address), FarProxies::start(test, server.address)];
    let circles = both.each_ref().map(|far| far.circle);
    for round in 0..3 {
        both[0].lead_to(circles[1]);
        both[1].lead_to(circles[0]);
        // Whoever asks there is told, sooner or later, that it leads nowhere.
        for turn in 0..20 {
            let mut lost = connect(circles[turn % 2]);
            // One that says nothing goes round, too.
            let _ = if turn % 4 < 2 { lost.write_all(b"round and round") } else { Ok(()) };
            let mut said = Vec::new();
            let _ = lost.read_to_end(&mut said);
            assert_eq!(said, b"");
            for far in &mut both {
                assert!(echoes(far.other), "other proxies go on (round {round}, turn {turn})");
                let told = far.told();
                assert!(told.free >= OPEN_FILES / 4, "the rest of the process goes on: {told:?}");
            }
        }
        assert!(both.iter_mut().any(|far| far.told().turned_away >= 10));
        for far in &mut both {
            far.lead_to(server.address);
        }
        for far in &mut both {
            assert!(echoes(far.circle), "the circle is broken, and all is well");
            let told = far.wait_until(|told| told.open == 0);
            assert_eq!(told.others, 0, "nobody else was turned away");
        }
    }
    both.into_iter().for_each(|proxies| proxies.far.end());
}
