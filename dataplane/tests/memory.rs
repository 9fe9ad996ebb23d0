//! What a peak has touched is given back.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod support;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use fracas_dataplane::protocol::Protocol;
use fracas_dataplane::proxy::DataplaneSettings;
use support::{Proxy, in_a_process_of_its_own};

/// Resident anonymous memory of this process, in bytes.
fn resident_bytes() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("RssAnon:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() * 1024
}

#[test]
fn a_peak_leaves_no_memory_behind() {
    in_a_process_of_its_own("a_peak_leaves_no_memory_behind", 20_000, || {
        let upstream = TcpListener::bind("127.0.0.1:0").unwrap();
        let tidy_every = Duration::from_millis(100);
        let settings = DataplaneSettings { threads: 2, tidy_every, ..DataplaneSettings::default() };
        let proxy = Proxy::with(settings, upstream.local_addr().unwrap(), Protocol::Tcp, Vec::new());
        let start = resident_bytes();
        // Nobody reads: what comes stays in buffers until the clients go.
        let mut clients: Vec<TcpStream> = (0..200).map(|_| proxy.connect()).collect();
        let servers: Vec<TcpStream> = (0..200).map(|_| upstream.accept().unwrap().0).collect();
        clients.iter().for_each(|client| client.set_nonblocking(true).unwrap());
        let mut held = 0;
        while held < 8 << 20 {
            // Again and again, for the kernel's own buffers grow while they fill.
            for client in &mut clients {
                while client.write(&[7; 65536]).is_ok() {}
            }
            held = proxy.handle().stats().unwrap().workers.iter().map(|worker| worker.held_bytes).sum();
        }
        let peak = resident_bytes();
        assert!(peak > start + (8 << 20), "{start} {peak}");
        drop((clients, servers));
        while proxy.handle().stats().unwrap().workers.iter().any(|worker| worker.connections > 0) {}
        // The peak is cold after two rounds; on a busy machine they come late.
        let comes_back = (0..100).any(|_| {
            std::thread::sleep(tidy_every);
            resident_bytes() < start + (4 << 20)
        });
        assert!(comes_back, "{start} {peak} {}", resident_bytes());
        let mut client = proxy.connect();
        client.write_all(b"still").unwrap();
        let mut got = [0; 5];
        upstream.accept().unwrap().0.read_exact(&mut got).unwrap();
        assert_eq!(&got, b"still");
    });
}
