//! Figures are read without the workers, and neither they nor many proxies cost much memory.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod support;

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use fracas_dataplane::protocol::Protocol;
use fracas_dataplane::proxy::{Dataplane, ProxyError, ProxySpec, Recorder, TIMES_BYTES_MAX};
use support::{EchoServer, Proxy, in_a_process_of_its_own, rules};

fn address(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

/// Resident anonymous memory of this process, in bytes.
fn resident_bytes() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("RssAnon:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() * 1024
}

#[test]
fn reading_figures_wakes_no_worker() {
    let server = EchoServer::start();
    let proxy = Proxy::start(server.address, Protocol::Tcp, rules("100:delay", &[("delay", "time", "1us")]));
    let mut client = proxy.connect();
    client.write_all(b"x").unwrap();
    client.read_exact(&mut [0]).unwrap();
    let turns = |handle: &fracas_dataplane::proxy::Handle| -> u64 {
        handle.stats().unwrap().workers.iter().map(|worker| worker.turns).sum()
    };
    let handle = proxy.handle();
    let before = turns(&handle);
    for _ in 0..2000 {
        assert_eq!(handle.proxy_stats("test").unwrap().rules[0].injected, 1);
        assert_eq!(handle.stats().unwrap().proxies["test"].counters.request_bytes, 1);
    }
    let woken = turns(&handle) - before;
    // The worker still hands over what it has to tell; it would have turned 4,000 times to answer.
    assert!(woken < 400, "{woken} turns");
}

#[test]
fn what_a_client_has_read_is_counted_already() {
    let server = EchoServer::start();
    let proxy = Proxy::start(server.address, Protocol::Tcp, Vec::new());
    let mut client = proxy.connect();
    for round in 1..=500u64 {
        client.write_all(&[7; 10]).unwrap();
        client.read_exact(&mut [0; 10]).unwrap();
        let counters = proxy.handle().proxy_stats("test").unwrap().counters;
        assert_eq!((counters.request_bytes, counters.reply_bytes), (10 * round, 10 * round));
    }
}

#[test]
fn two_thousand_proxies_with_a_delay_each_are_made_in_one_go_and_cost_little() {
    in_a_process_of_its_own(
        "two_thousand_proxies_with_a_delay_each_are_made_in_one_go_and_cost_little",
        20_000,
        || {
            let proxy = Proxy::start(address(9), Protocol::Tcp, Vec::new());
            let before = resident_bytes();
            let delay = rules("100:delay", &[("delay", "time", "5ms")]);
            let specs: Vec<ProxySpec> = (0..2000)
                .map(|index| ProxySpec {
                    rules: delay.clone(),
                    ..ProxySpec::new(format!("p{index}"), address(0), address(9))
                })
                .collect();
            let made = proxy.handle().create_all(specs).unwrap();
            let ports: BTreeSet<u16> = made.iter().map(|info| info.spec.listen.port()).collect();
            assert_eq!(ports.len(), 2000, "each has a port of its own");
            let generations: BTreeSet<u64> = made.iter().map(|info| info.generation).collect();
            assert_eq!(generations.len(), 1, "one change");
            let grown = resident_bytes() - before;
            assert!(grown < 24 << 20, "{} KiB for each", grown / 2000 / 1024);
            assert_eq!(proxy.handle().stats().unwrap().proxies.len(), 2001);
        },
    );
}

#[test]
fn of_many_proxies_that_one_call_makes_all_or_none_are_made() {
    let taken = TcpListener::bind(address(0)).unwrap();
    let proxy = Proxy::start(address(9), Protocol::Tcp, Vec::new());
    let handle = proxy.handle();
    let spec = |name: &str, listen| ProxySpec::new(name, listen, address(9));
    for (specs, what) in [
        (vec![spec("a", address(0)), spec("b", taken.local_addr().unwrap())], "somebody's address"),
        (vec![spec("a", address(0)), spec("b", proxy.address)], "the address of a proxy of ours"),
        (vec![spec("a", address(0)), spec("a", address(0))], "one name twice"),
        (vec![spec("a", address(0)), spec("test", address(0))], "a name that is taken"),
    ] {
        handle.create_all(specs).expect_err(what);
        assert_eq!(handle.list().len(), 1, "{what}");
    }
    handle.create_all(vec![spec("a", address(0)), spec("b", address(0))]).unwrap();
    assert_eq!(handle.list().len(), 3);
}

#[test]
fn a_create_on_a_taken_address_keeps_nobody_else_waiting() {
    let taken = TcpListener::bind(address(0)).unwrap();
    let listen = taken.local_addr().unwrap();
    let proxy = Proxy::start(address(9), Protocol::Tcp, Vec::new());
    let done = AtomicBool::new(false);
    let changes = std::thread::scope(|scope| {
        let creating = scope.spawn(|| {
            for index in 0..20 {
                let spec = ProxySpec::new(format!("p{index}"), listen, address(9));
                assert!(matches!(proxy.handle().create(spec), Err(ProxyError::Listen { .. })));
            }
            done.store(true, Ordering::SeqCst);
        });
        let mut changes = 0;
        while !done.load(Ordering::SeqCst) {
            proxy.apply(rules(if changes % 2 == 0 { "1:hang" } else { "" }, &[]));
            changes += 1;
        }
        creating.join().unwrap();
        changes
    });
    // Each of the creates looks 20 times, 5 ms apart. With the book kept meanwhile, one change has a turn between two.
    assert!(changes > 60, "{changes} changes");
}

#[test]
fn an_address_that_a_proxy_has_just_left_can_be_taken_again() {
    let proxy = Proxy::start(address(9), Protocol::Tcp, Vec::new());
    for _ in 0..20 {
        proxy.handle().delete("test", None).unwrap();
        proxy.handle().create(ProxySpec::new("test", proxy.address, address(9))).unwrap();
    }
    TcpStream::connect_timeout(&proxy.address, Duration::from_secs(30)).unwrap();
}

#[test]
fn times_of_a_rule_cost_nothing_before_they_come_and_are_bounded_after() {
    in_a_process_of_its_own(
        "times_of_a_rule_cost_nothing_before_they_come_and_are_bounded_after",
        20_000,
        || {
            const RULES: usize = 500;
            // Lateness and what was asked.
            let before = resident_bytes();
            let recorders: Vec<Recorder> = (0..2 * RULES).map(|_| Recorder::new()).collect();
            let idle = resident_bytes() - before;
            assert!(idle < RULES * 4096, "{} bytes for an idle rule", idle / RULES);
            for recorder in &recorders {
                for index in 0..10_000u32 {
                    recorder.record((1e3 * 3.6e9f64.powf(f64::from(index) / 9_999.0)) as u64);
                }
            }
            let full = resident_bytes() - before;
            assert_eq!(2 * TIMES_BYTES_MAX, 16 * 1024);
            assert!(full < RULES * (2 * TIMES_BYTES_MAX + 512), "{} bytes for a rule", full / RULES);
            drop(recorders);
            let left = resident_bytes().saturating_sub(before);
            assert!(left < RULES * 1024, "{left} bytes stayed");
        },
    );
}

#[test]
fn more_rules_than_there_may_be_mappings_still_have_their_times() {
    in_a_process_of_its_own("more_rules_than_there_may_be_mappings_still_have_their_times", 20_000, || {
        let limit = std::fs::read_to_string("/proc/sys/vm/max_map_count").unwrap();
        let limit: usize = limit.trim().parse().unwrap();
        if limit > 200_000 {
            return;
        }
        let mut recorders: Vec<Option<Recorder>> =
            (0..2 * limit + 10_000).map(|_| Some(Recorder::new())).collect();
        // Every second one goes, so that none of the others has a neighbour to share a mapping with.
        recorders.iter_mut().step_by(2).for_each(|recorder| *recorder = None);
        let more: Vec<Recorder> = (0..1000).map(|_| Recorder::new()).collect();
        more[999].record(5_000_000);
        assert_eq!((more[999].read().len(), more[0].read().len()), (1, 0));
        // Nothing else can be mapped now, not even by the test's own end.
        std::mem::drop((recorders, more));
    });
}

#[test]
fn a_stopped_data_plane_gives_no_figures() {
    let dataplane = Dataplane::start(Default::default()).unwrap();
    let handle = dataplane.handle();
    assert!(handle.stats().is_ok() && handle.check_running().is_ok());
    drop(dataplane);
    assert!(matches!(handle.stats(), Err(ProxyError::Stopped)));
}
