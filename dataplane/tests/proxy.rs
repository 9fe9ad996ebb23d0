//! The proxy on the kernel ring, with real sockets: bytes, behaviors, live changes, leases.

mod support;

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener};
use std::sync::atomic::Ordering;
use std::time::Duration;

use fracas_dataplane::clock::Instant;
use fracas_dataplane::protocol::Protocol;
use fracas_dataplane::proxy::LeaseRequest;
use fracas_dataplane::proxy::leases::Term;
use sha2::{Digest, Sha256};
use support::{EchoServer, HttpServer, Proxy, break_off, get, read_reply, rules, serve};

#[test]
fn bytes_arrive_unchanged_with_random_sizes_both_ways_at_once() {
    let server = EchoServer::start();
    let proxy = Proxy::start(server.address, Protocol::Tcp, Vec::new());
    let talks: Vec<_> = (0..8u64)
        .map(|seed| {
            let mut write = proxy.connect();
            let mut read = write.try_clone().unwrap();
            std::thread::spawn(move || {
                let mut rng = fracas_dataplane::rng::Rng::new(seed);
                let mut sent = Sha256::new();
                let reader = std::thread::spawn(move || {
                    let mut got = Sha256::new();
                    let mut buffer = vec![0; 300_000];
                    let mut total = 0usize;
                    loop {
                        match read.read(&mut buffer).unwrap() {
                            0 => return (total, got.finalize()),
                            length => {
                                total += length;
                                got.update(&buffer[..length]);
                            }
                        }
                    }
                });
                let mut total = 0;
                for _ in 0..200 {
                    let length = if rng.below(4) == 0 { rng.below(200_000) } else { rng.below(300) } as usize;
                    let bytes: Vec<u8> = (0..length).map(|_| rng.below(256) as u8).collect();
                    sent.update(&bytes);
                    total += length;
                    write.write_all(&bytes).unwrap();
                }
                // The FIN must follow the last byte, and the echo must still come back.
                write.shutdown(Shutdown::Write).unwrap();
                let (received, hash) = reader.join().unwrap();
                assert_eq!(received, total);
                assert!(hash == sent.finalize());
            })
        })
        .collect();
    talks.into_iter().for_each(|talk| talk.join().unwrap());
    let stats = proxy.handle().stats().unwrap();
    let counters = stats.proxies["test"].counters;
    assert_eq!(counters.connections_opened, 8);
    assert_eq!(counters.request_bytes, counters.reply_bytes);
    assert!(!stats.residence().is_empty());
}

#[test]
fn the_server_may_speak_first_and_close_first() {
    let address = serve(Default::default(), |mut stream| {
        stream.write_all(b"220 ready\r\n").unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).unwrap();
        assert_eq!(rest, b"after your FIN");
    });
    let proxy = Proxy::start(address, Protocol::Tcp, Vec::new());
    let mut client = proxy.connect();
    let mut greeting = Vec::new();
    client.read_to_end(&mut greeting).unwrap();
    assert_eq!(greeting, b"220 ready\r\n");
    client.write_all(b"after your FIN").unwrap();
}

#[test]
fn a_dead_upstream_ends_the_client_quickly_and_is_counted() {
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let proxy = Proxy::start(closed, Protocol::Tcp, Vec::new());
    let mut client = proxy.connect();
    assert!(matches!(client.read(&mut [0; 1]), Ok(0) | Err(_)));
    assert_eq!(proxy.handle().stats().unwrap().proxies["test"].counters.connect_failures, 1);
}

#[test]
fn a_delayed_chunk_is_never_early_and_its_lateness_is_recorded() {
    let server = EchoServer::start();
    let proxy = Proxy::start(server.address, Protocol::Tcp, rules("delay", &[("delay", "time", "30ms")]));
    let mut client = proxy.connect();
    for _ in 0..5 {
        let before = Instant::now();
        client.write_all(b"x").unwrap();
        client.read_exact(&mut [0; 1]).unwrap();
        assert!(Instant::now() - before >= Duration::from_millis(30));
    }
    let stats = proxy.handle().stats().unwrap();
    let rule = &stats.proxies["test"].rules[0];
    assert_eq!((rule.injected, rule.lateness.as_ref().unwrap().len()), (5, 5));
}

#[test]
fn errors_are_replies_in_step_and_the_upstream_is_not_contacted() {
    let server = HttpServer::start("hello");
    let proxy = Proxy::start(server.address, Protocol::Http, rules("error", &[]));
    let mut client = proxy.connect();
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..100 {
        seen.insert(get(&mut client, "/").unwrap().0);
    }
    assert_eq!(seen.into_iter().collect::<Vec<_>>(), [500, 501, 502, 503]);
    assert_eq!(server.requests.load(Ordering::SeqCst), 0);
    assert_eq!(proxy.injected("error"), 100);
}

#[test]
fn a_pipeline_with_faults_stays_in_step() {
    let server = HttpServer::start("hello");
    let proxy = Proxy::start(server.address, Protocol::Http, rules("30:error", &[("error", "codes", "503")]));
    let mut client = proxy.connect();
    let request: String = (0..300).map(|i| format!("GET /{i} HTTP/1.1\r\nHost: a\r\n\r\n")).collect();
    client.write_all(request.as_bytes()).unwrap();
    let mut errors = 0;
    for i in 0..300 {
        let (status, head, body) = read_reply(&mut client).unwrap();
        if status == 503 {
            errors += 1;
        } else {
            assert_eq!((status, &body[..]), (200, &b"hello"[..]));
            assert!(head.contains(&format!("X-Path: /{i}\r\n")), "reply {i} is out of step: {head}");
        }
    }
    // 300 draws at 30 %: 90 ± 4 σ.
    assert!((58..=122).contains(&errors), "{errors}");
    assert_eq!(proxy.injected("error"), errors);
    assert_eq!(server.requests.load(Ordering::SeqCst) as u64, 300 - errors);
}

#[test]
fn transient_fails_as_often_as_asked() {
    let server = HttpServer::start("hello");
    let proxy =
        Proxy::start(server.address, Protocol::Http, rules("transient", &[("transient", "agitate", "2")]));
    let statuses: Vec<u16> = (0..4).map(|_| get(&mut proxy.connect(), "/").unwrap().0).collect();
    assert!(statuses[..2].iter().all(|status| *status >= 500) && statuses[2..] == [200, 200], "{statuses:?}");
}

#[test]
fn the_same_seed_and_traffic_give_the_same_faults() {
    let run = || {
        let server = HttpServer::start("hello");
        let proxy = Proxy::start(server.address, Protocol::Http, rules("20:error", &[]));
        let mut client = proxy.connect();
        (0..200).map(|_| get(&mut client, "/").unwrap().0).collect::<Vec<_>>()
    };
    assert_eq!(run(), run());
}

#[test]
fn blackout_forwards_nothing_and_a_change_lets_new_connections_pass() {
    let server = EchoServer::start();
    let proxy = Proxy::start(server.address, Protocol::Tcp, rules("blackout", &[]));
    let mut client = proxy.connect();
    let _ = client.write_all(b"x");
    assert!(matches!(client.read(&mut [0; 1]), Ok(0) | Err(_)));
    assert_eq!(server.connections.load(Ordering::SeqCst), 0);
    proxy.apply(Vec::new());
    let mut client = proxy.connect();
    client.write_all(b"x").unwrap();
    client.read_exact(&mut [0; 1]).unwrap();
}

#[test]
fn abort_lets_the_request_through_and_no_reply_back() {
    let server = EchoServer::start();
    let proxy = Proxy::start(server.address, Protocol::Tcp, rules("abort", &[]));
    let mut client = proxy.connect();
    client.write_all(b"request").unwrap();
    let mut got = Vec::new();
    let _ = client.read_to_end(&mut got);
    assert_eq!(got, b"");
    while server.bytes.load(Ordering::SeqCst) < 7 {
        std::thread::yield_now();
    }
}

#[test]
fn reset_is_a_true_rst_on_a_live_connection() {
    let server = EchoServer::start();
    let proxy = Proxy::start(server.address, Protocol::Tcp, Vec::new());
    let mut client = proxy.connect();
    client.write_all(b"x").unwrap();
    client.read_exact(&mut [0; 1]).unwrap();
    proxy.apply(rules("reset", &[]));
    assert_eq!(client.read(&mut [0; 1]).unwrap_err().kind(), ErrorKind::ConnectionReset);
}

#[test]
fn hang_swallows_everything_and_leaves_with_a_client_that_breaks_off() {
    let server = EchoServer::start();
    let proxy = Proxy::start(server.address, Protocol::Tcp, rules("hang", &[]));
    let mut client = proxy.connect();
    client.write_all(&[1; 100_000]).unwrap();
    client.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    assert_eq!(client.read(&mut [0; 1]).unwrap_err().kind(), ErrorKind::WouldBlock);
    break_off(client);
    while proxy.handle().stats().unwrap().workers.iter().any(|worker| worker.connections > 0) {
        std::thread::yield_now();
    }
    assert_eq!(server.bytes.load(Ordering::SeqCst), 0);
}

#[test]
fn a_lifted_hang_closes_what_hung_so_that_clients_come_again() {
    let server = EchoServer::start();
    let proxy = Proxy::start(server.address, Protocol::Tcp, rules("hang", &[]));
    let mut client = proxy.connect();
    client.write_all(b"lost").unwrap();
    while proxy.injected("hang") == 0 {
        std::thread::yield_now();
    }
    proxy.apply(Vec::new());
    assert!(matches!(client.read(&mut [0; 1]), Ok(0) | Err(_)));
}

#[test]
fn throttled_bytes_take_at_least_their_time_and_all_arrive() {
    let server = EchoServer::start();
    let proxy =
        Proxy::start(server.address, Protocol::Tcp, rules("throttle", &[("throttle", "rate", "1MB/s")]));
    let mut client = proxy.connect();
    let before = Instant::now();
    client.write_all(&[3; 300_000]).unwrap();
    let mut got = vec![0; 300_000];
    client.read_exact(&mut got).unwrap();
    // 300 kB at 1 MB/s.
    assert!(Instant::now() - before >= Duration::from_millis(300));
    assert!(got.iter().all(|byte| *byte == 3));
}

#[test]
fn rate_zero_stalls_until_the_rule_goes() {
    let server = EchoServer::start();
    let proxy = Proxy::start(server.address, Protocol::Tcp, rules("throttle", &[("throttle", "rate", "0")]));
    let mut client = proxy.connect();
    client.write_all(b"stalled").unwrap();
    client.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    assert!(client.read(&mut [0; 7]).is_err());
    proxy.apply(Vec::new());
    client.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    let mut got = [0; 7];
    client.read_exact(&mut got).unwrap();
    assert_eq!(&got, b"stalled");
}

#[test]
fn a_lease_ends_by_itself_and_tells_what_it_did() {
    let server = HttpServer::start("hello");
    let proxy = Proxy::start(server.address, Protocol::Http, Vec::new());
    let mut client = proxy.connect();
    assert_eq!(get(&mut client, "/").unwrap().0, 200);
    let (lease, applied) = proxy
        .handle()
        .acquire(LeaseRequest {
            proxy: "test".into(),
            rules: rules("error", &[("error", "codes", "503")]),
            owner: "test".into(),
            term: Term { ttl: Some(Duration::from_millis(300)), ..Term::default() },
        })
        .unwrap();
    assert_eq!(applied.workers, 2);
    assert_eq!(get(&mut client, "/").unwrap().0, 503, "the live connection joins at its next request");
    while !proxy.handle().leases().is_empty() {
        std::thread::yield_now();
    }
    let ended = loop {
        if let Some(end) = proxy.handle().ended_leases().pop() {
            break end;
        }
        std::thread::yield_now();
    };
    assert_eq!((ended.lease.id, ended.rules[0].injected), (lease.id, 1));
    assert!(ended.ended_at >= lease.ends_at);
    assert_eq!(get(&mut client, "/").unwrap().0, 200);
}

#[test]
fn leases_release_in_any_order() {
    let server = HttpServer::start("hello");
    let proxy = Proxy::start(server.address, Protocol::Http, Vec::new());
    let lease = |codes: &str| {
        let request = LeaseRequest {
            proxy: "test".into(),
            rules: rules("error", &[("error", "codes", codes)]),
            owner: "test".into(),
            term: Term { ttl: Some(Duration::from_secs(60)), ..Term::default() },
        };
        proxy.handle().acquire(request).unwrap().0.id
    };
    let mut client = proxy.connect();
    let (first, second) = (lease("501"), lease("502"));
    assert_eq!(get(&mut client, "/").unwrap().0, 502, "the newest is on top");
    proxy.handle().release(&first).unwrap();
    assert_eq!(get(&mut client, "/").unwrap().0, 502);
    proxy.handle().release(&second).unwrap();
    assert_eq!(get(&mut client, "/").unwrap().0, 200);
    let error = proxy.handle().release(&second).unwrap_err().to_string();
    assert!(error.contains("has ended"), "{error}");
}

#[test]
fn one_buffer_is_enough_for_everything() {
    use fracas_dataplane::proxy::DataplaneSettings;
    use fracas_dataplane::ring::{PoolSettings, RingSettings};
    let one = |bytes| PoolSettings { buffer_bytes: bytes, buffers: 1, published: 1 };
    let ring = RingSettings { small: one(16 * 1024), large: one(64 * 1024), ..RingSettings::default() };
    let settings = DataplaneSettings { threads: 1, ring, ..Default::default() };
    let server = EchoServer::start();
    let proxy = Proxy::with(settings, server.address, Protocol::Tcp, Vec::new());
    let talks: Vec<_> = (0..4u8)
        .map(|byte| {
            let mut client = proxy.connect();
            std::thread::spawn(move || {
                for _ in 0..50 {
                    client.write_all(&[byte; 70_000]).unwrap();
                    let mut got = vec![0; 70_000];
                    client.read_exact(&mut got).unwrap();
                    assert!(got.iter().all(|other| *other == byte));
                }
            })
        })
        .collect();
    talks.into_iter().for_each(|talk| talk.join().unwrap());
}

#[test]
fn a_drain_lets_live_connections_finish() {
    let (connected, servers) = std::sync::mpsc::channel();
    let is_first = std::sync::atomic::AtomicBool::new(true);
    let address = serve(Default::default(), move |stream| {
        // The others, by which the test looks whether it still listens, end at once.
        if is_first.swap(false, Ordering::SeqCst) {
            connected.send(stream).unwrap();
        }
    });
    let proxy = Proxy::start(address, Protocol::Tcp, Vec::new());
    let mut client = proxy.connect();
    client.write_all(b"question").unwrap();
    let mut server = servers.recv().unwrap();
    server.read_exact(&mut [0; 8]).unwrap();
    let address = proxy.address;
    let drain = std::thread::spawn(move || proxy.dataplane.drain(Duration::from_secs(60)));
    while std::net::TcpStream::connect(address).is_ok() {
        std::thread::yield_now();
    }
    // It is quiet, but for want of its answer; a second after that it is idle.
    server.write_all(b"answer").unwrap();
    let mut got = Vec::new();
    client.read_to_end(&mut got).unwrap();
    assert_eq!(got, b"answer");
    drop((client, server));
    assert_eq!(drain.join().unwrap().cut, 0);
}

#[test]
fn a_drain_can_be_ended_at_once() {
    let address = serve(Default::default(), |stream| {
        let _ = stream.peek(&mut [0; 1]);
        std::thread::sleep(Duration::from_secs(3600));
    });
    let proxy = Proxy::start(address, Protocol::Tcp, Vec::new());
    let mut client = proxy.connect();
    client.write_all(b"nobody answers").unwrap();
    while proxy.handle().stats().unwrap().proxies["test"].counters.request_bytes == 0 {
        std::thread::yield_now();
    }
    let handle = proxy.handle();
    let drain = std::thread::spawn(move || proxy.dataplane.drain(Duration::from_secs(3600)));
    handle.close_all();
    assert_eq!(client.read(&mut [0; 1]).unwrap(), 0);
    assert_eq!(drain.join().unwrap().cut, 1);
}

#[test]
fn a_taken_port_is_refused_instead_of_shared() {
    use fracas_dataplane::proxy::{ProxyError, ProxySpec};
    let server = EchoServer::start();
    let proxy = Proxy::start(server.address, Protocol::Tcp, Vec::new());
    let again = ProxySpec::new("again", proxy.address, server.address);
    assert!(matches!(proxy.handle().create(again), Err(ProxyError::Listen { .. })));
}

#[test]
fn a_client_that_does_not_read_can_be_cut_and_does_not_hold_up_the_end() {
    use fracas_dataplane::proxy::{DataplaneSettings, ProxyUpdate};
    let address = serve(Default::default(), |mut stream| while stream.write_all(&[1; 65_536]).is_ok() {});
    let mut settings = DataplaneSettings { threads: 1, ..Default::default() };
    // A send of which a part has gone waits for the client.
    settings.options.send_buffer_bytes = Some(4096);
    let proxy = Proxy::with(settings, address, Protocol::Tcp, Vec::new());
    let connections = |proxy: &Proxy| proxy.handle().stats().unwrap().workers[0].connections;
    let stuck = |proxy: &Proxy| {
        let client = proxy.connect();
        let replied = || proxy.handle().stats().unwrap().proxies["test"].counters.reply_bytes;
        let mut before = (0, replied());
        // The proxy reads on until its queue is full.
        while before.0 < 20 {
            std::thread::sleep(Duration::from_millis(5));
            let now = replied();
            before = if now > 0 && now == before.1 { (before.0 + 1, now) } else { (0, now) };
        }
        client
    };
    let _client = stuck(&proxy);
    assert_eq!(connections(&proxy), 1);
    let enabled = |enabled| ProxyUpdate { enabled: Some(enabled), ..ProxyUpdate::default() };
    proxy.handle().update("test", enabled(false)).unwrap();
    let limit = Instant::now() + Duration::from_secs(30);
    while connections(&proxy) > 0 {
        assert!(Instant::now() < limit, "the connection is never closed");
        std::thread::yield_now();
    }
    proxy.handle().update("test", enabled(true)).unwrap();
    let _client = stuck(&proxy);
    // Dropped on a thread of its own, so that a hang fails instead of hanging.
    let (done, is_done) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        drop(proxy);
        done.send(()).unwrap();
    });
    is_done.recv_timeout(Duration::from_secs(30)).expect("the worker ends");
}
