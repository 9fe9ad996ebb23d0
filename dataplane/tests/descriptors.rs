//! A proxy whose process has no descriptor left: accepting rests, who waits is served when one comes free, and
//! nothing leaks. The proxy runs in a process of its own, so that clients and server keep their descriptors.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

#[path = "support/far.rs"]
mod far;
mod support;

use std::collections::VecDeque;
use std::fs::File;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use far::{Far, wait_until};
use fracas_dataplane::protocol::Protocol;
use fracas_dataplane::proxy::DataplaneSettings;
use support::{EchoServer, Proxy, in_a_process_of_its_own};

/// A proxy in a child process that can hold `connections` connections.
struct FarProxy {
    far: Far,
    address: SocketAddr,
    /// Descriptors it has with no connection open.
    descriptors: u64,
}

/// What the far proxy tells when asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Told {
    open: u64,
    opened: u64,
    closed: u64,
    accept_paused: u64,
    connect_failures: u64,
    descriptors: u64,
}

impl FarProxy {
    fn start(test: &str, upstream: SocketAddr) -> FarProxy {
        let (far, words) = Far::start(test, 64, upstream);
        let mut proxy = FarProxy { far, address: words[0].parse().unwrap(), descriptors: 0 };
        proxy.descriptors = proxy.told().descriptors;
        proxy
    }

    fn told(&mut self) -> Told {
        let [open, opened, closed, accept_paused, connect_failures, descriptors] = self.far.told();
        Told { open, opened, closed, accept_paused, connect_failures, descriptors }
    }

    fn wait_until(&mut self, is_so: impl Fn(&Told) -> bool) -> Told {
        wait_until(|| self.told(), is_so)
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        stream
    }

    /// Everybody has gone: all that was opened is closed, and as many descriptors are open as at first.
    fn assert_empty(mut self) -> Told {
        // The figures are read one after the other, while the worker goes on.
        self.wait_until(|told| told.open == 0 && told.opened == told.closed);
        let descriptors = self.descriptors;
        let told = self.wait_until(|told| told.descriptors == descriptors);
        self.far.end();
        told
    }
}

/// The child's part: serves until its standard input ends. Returns whether this is the child.
fn is_the_far_side(connections: usize) -> bool {
    let Some(upstream) = far::upstream() else { return false };
    let settings = DataplaneSettings { threads: 1, ..DataplaneSettings::default() };
    let proxy = Proxy::with(settings, upstream, Protocol::Tcp, Vec::new());
    // A connection takes two. One is left to look at /proc.
    let mut taken: Vec<File> = std::iter::from_fn(|| File::open("/dev/null").ok()).collect();
    taken.truncate(taken.len() - 2 * connections);
    println!("@ {}", proxy.address);
    for line in std::io::stdin().lines() {
        line.unwrap();
        let stats = proxy.handle().stats().unwrap();
        let counters = stats.proxies["test"].counters;
        let open: usize = stats.workers.iter().map(|worker| worker.connections).sum();
        let descriptors =
            (0..64).filter(|fd| std::fs::symlink_metadata(format!("/proc/self/fd/{fd}")).is_ok()).count();
        println!(
            "@ {open} {} {} {} {} {descriptors}",
            counters.connections_opened,
            counters.connections_closed,
            counters.accept_paused,
            counters.connect_failures
        );
    }
    true
}

/// Descriptors of this process, counted without one.
fn descriptors() -> usize {
    let is_open = |fd: &u32| std::fs::symlink_metadata(format!("/proc/self/fd/{fd}")).is_ok();
    (0..64).filter(is_open).count()
}

fn echo(client: &mut TcpStream, byte: u8) -> bool {
    let mut got = [0];
    client.write_all(&[byte]).is_ok() && client.read_exact(&mut got).is_ok() && got == [byte]
}

#[test]
fn a_connection_that_finds_no_descriptor_waits_until_one_comes_free() {
    if is_the_far_side(5) {
        return;
    }
    let server = EchoServer::start();
    let test = "a_connection_that_finds_no_descriptor_waits_until_one_comes_free";
    let mut proxy = FarProxy::start(test, server.address);
    let mut served: VecDeque<TcpStream> = VecDeque::new();
    for byte in 0..5 {
        let mut client = proxy.connect();
        assert!(echo(&mut client, byte));
        served.push_back(client);
    }
    for byte in 5..15 {
        // It waits in the backlog, which the proxy looks at again and again.
        let before = proxy.told().accept_paused;
        let mut client = proxy.connect();
        client.write_all(&[byte]).unwrap();
        proxy.wait_until(|told| told.accept_paused > before);
        // Who is served does not notice.
        assert!(served.iter_mut().all(|client| echo(client, 99)));
        drop(served.pop_front());
        let mut got = [0];
        client.read_exact(&mut got).unwrap();
        assert_eq!(got, [byte]);
        served.push_back(client);
    }
    drop(served);
    let told = proxy.assert_empty();
    assert_eq!((told.opened, told.connect_failures), (15, 0));
    assert!(told.accept_paused >= 10);
}

#[test]
fn a_crowd_that_comes_again_is_served_to_the_last() {
    if is_the_far_side(5) {
        return;
    }
    let server = EchoServer::start();
    let test = "a_crowd_that_comes_again_is_served_to_the_last";
    let proxy = FarProxy::start(test, server.address);
    let address = proxy.address;
    let crowd: Vec<_> = (0..40u8)
        .map(|byte| {
            std::thread::spawn(move || {
                let serves = |_: &u32| {
                    let Ok(mut client) = TcpStream::connect(address) else { return false };
                    client.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
                    echo(&mut client, byte)
                };
                // Each try that fails was turned away, which takes the proxy a while.
                (1..=1000).find(serves)
            })
        })
        .collect();
    let tries: Vec<u32> = crowd.into_iter().map(|client| client.join().unwrap().unwrap()).collect();
    // The next is served as if nothing had been.
    assert!(echo(&mut proxy.connect(), 77));
    let told = proxy.assert_empty();
    // Who was turned away was counted; nobody was lost without a word.
    let turned_away = tries.iter().map(|tries| u64::from(tries - 1)).sum::<u64>();
    assert_eq!((told.opened, told.connect_failures), (41 + turned_away, turned_away));
}

#[test]
fn a_data_plane_that_ends_leaves_no_descriptor() {
    in_a_process_of_its_own("a_data_plane_that_ends_leaves_no_descriptor", 64, || {
        let server = EchoServer::start();
        let before = descriptors();
        for round in 0..4 {
            let settings = DataplaneSettings { threads: 2, ..DataplaneSettings::default() };
            let proxy = Proxy::with(settings, server.address, Protocol::Tcp, Vec::new());
            let mut clients = [(); 4].map(|()| proxy.connect());
            assert!(clients.iter_mut().all(|client| echo(client, round)));
            // Half of them are cut, the others have gone before.
            let still_here: Vec<_> = clients.into_iter().skip(2).collect();
            drop(proxy);
            drop(still_here);
        }
        // The server's ends close on its own threads.
        for _ in 0..3000 {
            if descriptors() == before {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("{} descriptors are open, {before} were before", descriptors());
    });
}
