//! How sockets end on the kernel ring: in order, by a RST, or at a limit; and what else TCP says about them.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod support;

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc;
use std::time::Duration;

use fracas_dataplane::protocol::Protocol;
use fracas_dataplane::proxy::{Patience, PatienceUpdate, ProxyUpdate};
use socket2::{Domain, SockRef, Socket, Type};
use support::{EchoServer, Proxy, break_off, rules, serve};

fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let limit = fracas_dataplane::clock::Instant::now() + Duration::from_secs(30);
    while !is_so() {
        assert!(fracas_dataplane::clock::Instant::now() < limit, "{what}");
        std::thread::yield_now();
    }
}

impl Proxy {
    fn connections(&self) -> usize {
        self.handle().stats().unwrap().workers.iter().map(|worker| worker.connections).sum()
    }
}

#[test]
fn a_client_that_is_closed_in_order_gets_a_fin_although_its_bytes_were_not_read() {
    let server = EchoServer::start();
    let proxy = Proxy::start(server.address, Protocol::Tcp, rules("blackout", &[]));
    for attempt in 0..20 {
        let mut client = proxy.connect();
        let _ = client.write_all(&[1; 100_000]);
        assert_eq!(client.read(&mut [0; 1]).unwrap(), 0, "attempt {attempt}");
    }
    until("all are let go", || proxy.connections() == 0);
}

#[test]
fn the_side_that_is_not_reset_gets_what_was_queued_and_a_fin() {
    // It writes more than the client's kernel takes, and wants an answer to nothing.
    let (connected, servers) = mpsc::channel();
    let address = serve(Default::default(), move |stream| connected.send(stream).unwrap());
    for side in ["upstream", "downstream"] {
        let proxy = Proxy::start(address, Protocol::Tcp, Vec::new());
        let mut client = proxy.connect();
        let mut server = servers.recv().unwrap();
        server.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        client.write_all(&[1; 100_000]).unwrap();
        server.write_all(&[2; 100_000]).unwrap();
        let passed = || proxy.handle().stats().unwrap().proxies["test"].counters;
        until("the proxy has it", || passed().request_bytes == 100_000 && passed().reply_bytes == 100_000);
        proxy.apply(rules("reset", &[("reset", "side", side)]));
        let (ordered, reset) =
            if side == "upstream" { (&mut client, &mut server) } else { (&mut server, &mut client) };
        let mut got = Vec::new();
        ordered.read_to_end(&mut got).unwrap();
        assert_eq!(got.len(), 100_000, "{side}");
        let mut rest = Vec::new();
        assert_eq!(reset.read_to_end(&mut rest).unwrap_err().kind(), ErrorKind::ConnectionReset, "{side}");
    }
}

#[test]
fn an_update_of_the_patience_reaches_open_connections_and_new_ones() {
    let server = EchoServer::start();
    let proxy = Proxy::start(server.address, Protocol::Tcp, Vec::new());
    let echo = |client: &mut TcpStream| {
        client.write_all(b"x").unwrap();
        client.read_exact(&mut [0; 1]).unwrap();
    };
    let mut open = proxy.connect();
    echo(&mut open);
    let patience = PatienceUpdate { idle: Some(Duration::from_millis(20)), ..Default::default() };
    let (info, _) = proxy.handle().update("test", ProxyUpdate { patience, ..Default::default() }).unwrap();
    assert_eq!(info.spec.patience, Patience { idle: patience.idle, ..Patience::default() });
    assert_eq!(open.read(&mut [0; 1]).unwrap(), 0, "it is idle");
    assert_eq!(proxy.connect().read(&mut [0; 1]).unwrap(), 0, "so is a new one");
    let never = PatienceUpdate { idle: Some(Duration::ZERO), ..Default::default() };
    let update = ProxyUpdate { patience: never, ..Default::default() };
    assert_eq!(proxy.handle().update("test", update).unwrap().0.spec.patience, Patience::default());
}

#[test]
fn urgent_data_keeps_its_place_among_the_other_bytes() {
    let server = EchoServer::start();
    let proxy = Proxy::start(server.address, Protocol::Tcp, Vec::new());
    let mut client = proxy.connect();
    client.write_all(b"abc").unwrap();
    SockRef::from(&client).send_out_of_band(b"!").unwrap();
    client.write_all(b"def").unwrap();
    let mut got = [0; 7];
    client.read_exact(&mut got).unwrap();
    assert_eq!(&got, b"abc!def");
    let address = serve(Default::default(), |mut stream| {
        stream.write_all(b"abc").unwrap();
        SockRef::from(&stream).send_out_of_band(b"!").unwrap();
        stream.write_all(b"def").unwrap();
    });
    let proxy = Proxy::start(address, Protocol::Tcp, Vec::new());
    let mut got = Vec::new();
    proxy.connect().read_to_end(&mut got).unwrap();
    assert_eq!(got, b"abc!def");
}

fn with_patience(upstream: SocketAddr, behavior: &str, patience: Patience) -> Proxy {
    Proxy::settled(
        upstream,
        Protocol::Tcp,
        rules(behavior, &[("throttle", "rate", "0")][..usize::from(behavior == "throttle")]),
        |spec| {
            spec.patience = patience;
        },
    )
}

#[test]
fn a_half_closed_client_under_a_hang_stays_open_until_the_limit() {
    let server = EchoServer::start();
    let proxy = with_patience(server.address, "hang", Patience::default());
    let mut client = proxy.connect();
    client.write_all(b"anybody there?").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    client.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    assert_eq!(client.read(&mut [0; 1]).unwrap_err().kind(), ErrorKind::WouldBlock);
    let half_close = Duration::from_millis(200);
    let proxy = with_patience(server.address, "hang", Patience { half_close, ..Patience::default() });
    let mut client = proxy.connect();
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(client.read(&mut [0; 1]).unwrap(), 0);
    until("its descriptor is given back", || proxy.connections() == 0);
}

#[test]
fn clients_that_keep_a_closed_connection_lose_it() {
    let address = serve(Default::default(), |_| {});
    let linger = Duration::from_millis(200);
    let proxy = with_patience(address, "", Patience { linger, ..Patience::default() });
    let clients: Vec<TcpStream> = (0..50).map(|_| proxy.connect()).collect();
    until("all were accepted", || {
        proxy.handle().stats().unwrap().proxies["test"].counters.connections_opened == 50
    });
    until("their descriptors are given back", || proxy.connections() == 0);
    for mut client in clients {
        assert_eq!(client.read(&mut [0; 1]).unwrap(), 0);
    }
}

#[test]
fn a_client_that_breaks_off_while_nobody_reads_it_gives_its_descriptors_back() {
    let server = EchoServer::start();
    let linger = Duration::from_millis(200);
    for (behavior, bytes) in [("hang", 10), ("throttle", 10), ("throttle", 3_000_000)] {
        let proxy = with_patience(server.address, behavior, Patience { linger, ..Patience::default() });
        let mut client = proxy.connect();
        // As much as it takes: the proxy stops reading at a rate of 0.
        client.set_write_timeout(Some(Duration::from_millis(200))).unwrap();
        let _ = client.write_all(&vec![1; bytes]);
        until("it was accepted", || proxy.connections() == 1);
        if behavior == "hang" {
            client.shutdown(Shutdown::Write).unwrap();
        }
        break_off(client);
        until("its descriptors are given back", || proxy.connections() == 0);
    }
}

#[test]
fn a_silent_first_address_moves_on_to_the_next() {
    // A listener whose backlog is full drops what comes.
    let silent = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    silent.bind(&"127.0.0.1:0".parse::<SocketAddr>().unwrap().into()).unwrap();
    silent.listen(0).unwrap();
    let address = silent.local_addr().unwrap().as_socket().unwrap();
    let waiting: Vec<Socket> = (0..4)
        .map(|_| {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
            socket.set_nonblocking(true).unwrap();
            let _ = socket.connect(&address.into());
            socket
        })
        .collect();
    let server = EchoServer::start();
    let proxy = Proxy::settled(server.address, Protocol::Tcp, Vec::new(), |spec| {
        spec.upstream_addresses = vec![address, server.address];
        spec.connect_timeout = Duration::from_millis(200);
    });
    let mut client = proxy.connect();
    client.write_all(b"x").unwrap();
    client.read_exact(&mut [0; 1]).unwrap();
    let counters = proxy.handle().stats().unwrap().proxies["test"].counters;
    assert_eq!((counters.connect_timeouts, counters.connect_failures), (1, 0));
    drop((waiting, silent));
}

#[test]
fn a_proxy_that_is_switched_off_closes_its_connections_in_order() {
    let server = EchoServer::start();
    let proxy = Proxy::start(server.address, Protocol::Tcp, Vec::new());
    let mut client = proxy.connect();
    client.write_all(b"x").unwrap();
    client.read_exact(&mut [0; 1]).unwrap();
    let off = ProxyUpdate { enabled: Some(false), ..ProxyUpdate::default() };
    proxy.handle().update("test", off).unwrap();
    // It may come after the close, which must not turn the FIN into a RST.
    let _ = client.write_all(&[1; 100_000]);
    assert_eq!(client.read(&mut [0; 1]).unwrap(), 0);
    drop(client);
    until("it is let go", || proxy.connections() == 0);
    assert!(TcpListener::bind(proxy.address).is_ok());
}
