//! Names of upstreams that are not known yet, that move, and that may not be connected to.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod support;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use fracas_dataplane::clock::Instant;
use fracas_dataplane::proxy::{
    Dataplane, DataplaneSettings, EventKind, Handle, ProxyError, ProxySpec, ProxyUpdate,
    SOURCE_ADDRESSES_MAX, Upstreams,
};
use support::{EchoServer, serve};

/// A resolver in the hands of a test: what `backend:80` leads to.
#[derive(Clone, Default)]
struct Names(Arc<Mutex<Vec<SocketAddr>>>);

impl Names {
    fn set(&self, addresses: &[SocketAddr]) {
        *self.0.lock().unwrap() = addresses.to_vec();
    }

    fn upstreams(&self) -> Upstreams {
        let names = self.clone();
        let look_up = move |upstream: &str| match upstream {
            "backend:80" if !names.0.lock().unwrap().is_empty() => Ok(names.0.lock().unwrap().clone()),
            "slow:80" => {
                std::thread::sleep(Duration::from_secs(3600));
                Ok(Vec::new())
            }
            _ => Err(std::io::Error::other("no such name")),
        };
        Upstreams { look_up: Arc::new(look_up), ..Upstreams::default() }
    }
}

fn start(upstreams: Upstreams) -> Dataplane {
    let settings = DataplaneSettings { threads: 2, upstreams, ..DataplaneSettings::default() };
    Dataplane::start(settings).expect("tests need io_uring")
}

fn to_name(handle: &Handle, proxy: &str, upstream: &str) -> SocketAddr {
    let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
    let spec = ProxySpec {
        upstream: upstream.into(),
        upstream_addresses: Vec::new(),
        resolve: Duration::from_millis(20),
        ..ProxySpec::new(proxy, any, any)
    };
    handle.create(spec).unwrap().spec.listen
}

/// What the upstream says to a new connection; nothing if there is none.
fn said(proxy: SocketAddr) -> Vec<u8> {
    let mut said = Vec::new();
    let mut stream = TcpStream::connect(proxy).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    stream.read_to_end(&mut said).unwrap();
    said
}

fn until_it_says(proxy: SocketAddr, words: &[u8]) {
    let limit = Instant::now() + Duration::from_secs(30);
    while said(proxy) != words {
        assert!(Instant::now() < limit, "nobody says {words:?}");
    }
}

fn who_says(words: &'static [u8]) -> SocketAddr {
    serve(Default::default(), move |mut stream| stream.write_all(words).unwrap())
}

#[test]
fn a_name_may_be_unknown_at_first_and_may_move() {
    let names = Names::default();
    let dataplane = start(names.upstreams());
    let handle = dataplane.handle();
    let watcher = handle.watch(1000);
    let proxy = to_name(&handle, "moving", "backend:80");
    assert_eq!(handle.wait_for_upstreams(Duration::from_secs(30)), ["moving"]);
    assert_eq!(said(proxy), b"", "a client without an upstream is closed in order");
    let mut told = Vec::new();
    while told.len() < 2 {
        let events = watcher.recv_timeout(Duration::from_secs(30)).expect("something is told");
        let failed = events.iter().filter(|event| event.kind == EventKind::NaturalFailure);
        told.extend(failed.map(|event| event.detail.to_string()));
    }
    assert!(told.contains(&"resolve backend:80: no such name".to_owned()), "{told:?}");
    let no_address = "connect: the upstream's name has no address yet".to_owned();
    assert!(told.contains(&no_address), "{told:?}");
    assert!(handle.stats().unwrap().proxies["moving"].counters.resolve_failures > 0);
    let generation = handle.generation();
    names.set(&[who_says(b"one")]);
    until_it_says(proxy, b"one");
    assert!(handle.wait_for_upstreams(Duration::ZERO).is_empty());
    names.set(&[who_says(b"two")]);
    until_it_says(proxy, b"two");
    names.set(&[]);
    assert_eq!(said(proxy), b"two", "a name that is not found keeps its addresses");
    assert_eq!(handle.generation(), generation, "nobody changed anything");
}

/// Answers each byte with its own.
fn who_answers(word: &'static [u8; 1]) -> SocketAddr {
    serve(Default::default(), move |mut stream| {
        let mut asked = [0];
        while stream.read_exact(&mut asked).is_ok() && stream.write_all(word).is_ok() {}
    })
}

fn ask(client: &mut TcpStream) -> u8 {
    let mut answer = [0];
    client.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    client.write_all(b"?").unwrap();
    client.read_exact(&mut answer).unwrap();
    answer[0]
}

#[test]
fn connections_that_are_open_stay_where_they_are_when_their_name_moves_or_is_gone() {
    let names = Names::default();
    let dataplane = start(names.upstreams());
    let handle = dataplane.handle();
    let failures = || handle.stats().unwrap().proxies["moving"].counters.resolve_failures;
    names.set(&[who_answers(b"1")]);
    let proxy = to_name(&handle, "moving", "backend:80");
    assert!(handle.wait_for_upstreams(Duration::from_secs(30)).is_empty());
    let mut old = TcpStream::connect(proxy).unwrap();
    assert_eq!(ask(&mut old), b'1');
    names.set(&[who_answers(b"2")]);
    let limit = Instant::now() + Duration::from_secs(30);
    let mut new = TcpStream::connect(proxy).unwrap();
    while ask(&mut new) != b'2' {
        assert!(Instant::now() < limit, "new connections follow the name");
        new = TcpStream::connect(proxy).unwrap();
    }
    assert_eq!(ask(&mut old), b'1', "an open one does not");
    let failed_before = failures();
    names.set(&[]);
    while failures() == failed_before {
        assert!(Instant::now() < limit, "the name is looked up again");
        std::thread::yield_now();
    }
    assert_eq!((ask(&mut old), ask(&mut new)), (b'1', b'2'));
    assert_eq!(ask(&mut TcpStream::connect(proxy).unwrap()), b'2', "the last address is kept");
    names.set(&[who_answers(b"3")]);
    let mut newest = TcpStream::connect(proxy).unwrap();
    while ask(&mut newest) != b'3' {
        assert!(Instant::now() < limit, "a name that is back is followed again");
        newest = TcpStream::connect(proxy).unwrap();
    }
    assert_eq!((ask(&mut old), ask(&mut new)), (b'1', b'2'));
}

#[test]
fn a_name_that_comes_to_lead_back_is_not_followed() {
    let names = Names::default();
    let dataplane = start(names.upstreams());
    let handle = dataplane.handle();
    let watcher = handle.watch(1000);
    names.set(&[who_says(b"one")]);
    let proxy = to_name(&handle, "moving", "backend:80");
    until_it_says(proxy, b"one");
    let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
    let other = handle.create(ProxySpec::new("other", any, proxy)).unwrap().spec.listen;
    assert_eq!(said(other), b"one");
    let elsewhere: SocketAddr = "127.0.0.1:9".parse().unwrap();
    let by_port = |address: SocketAddr| SocketAddr::new("0.0.0.0".parse().unwrap(), address.port());
    let mut told = Vec::new();
    for (addresses, way) in
        [(vec![proxy], ""), (vec![elsewhere, by_port(proxy)], ""), (vec![other], ", by way of other")]
    {
        names.set(&addresses);
        let expected = format!("resolve backend:80: it leads back to the proxy itself{way}");
        told.clear();
        while !told.contains(&expected) {
            let events = watcher.recv_timeout(Duration::from_secs(30)).expect("something is told");
            told.extend(events.iter().map(|event| event.detail.to_string()));
        }
        assert_eq!(said(other), b"one", "the addresses of before are kept");
        names.set(&[who_says(b"two")]);
        until_it_says(proxy, b"two");
        names.set(&[who_says(b"one")]);
        until_it_says(proxy, b"one");
    }
    assert!(handle.stats().unwrap().proxies["moving"].counters.resolve_failures >= 3);
    let moving = ("moving".to_owned(), handle.get("moving").unwrap().spec.upstream_addresses);
    assert_eq!(handle.looked_up(), [moving], "the other's upstream is no name");
}

#[test]
fn slow_names_delay_neither_a_call_nor_another_name_nor_the_end() {
    let names = Names::default();
    names.set(&[who_says(b"quick")]);
    let dataplane = start(names.upstreams());
    let handle = dataplane.handle();
    for number in 0..3 {
        to_name(&handle, &format!("slow-{number}"), "slow:80");
    }
    let proxy = to_name(&handle, "quick", "backend:80");
    until_it_says(proxy, b"quick");
    let update = ProxyUpdate { upstream: Some(("backend:80".into(), Vec::new())), ..ProxyUpdate::default() };
    handle.update("slow-0", update).unwrap();
    until_it_says(handle.get("slow-0").unwrap().spec.listen, b"quick");
}

#[test]
fn addresses_to_connect_from_are_bounded_in_number() {
    let server = EchoServer::start().address;
    let dataplane = start(Upstreams::default());
    let handle = dataplane.handle();
    let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
    let with = |count| ProxySpec {
        source_addresses: vec!["127.0.0.1".parse().unwrap(); count],
        ..ProxySpec::new("a", any, server)
    };
    let refused = handle.create(with(SOURCE_ADDRESSES_MAX + 1)).unwrap_err();
    assert_eq!(refused.to_string(), "proxy `a` has more than 64 source addresses; leave some out");
    let refused = handle.replace_all(vec![with(SOURCE_ADDRESSES_MAX + 1)]).unwrap_err();
    assert!(matches!(refused, ProxyError::TooManySources(_)), "{refused}");
    handle.create(with(SOURCE_ADDRESSES_MAX)).unwrap();
}

#[test]
fn addresses_that_are_not_allowed_are_refused_wherever_they_come_from() {
    let server = EchoServer::start().address;
    let names = Names::default();
    names.set(&[server]);
    let allow = |addresses: &[SocketAddr]| match addresses.iter().any(|address| address.ip().is_loopback()) {
        true => Err("loopback is not allowed".to_owned()),
        false => Ok(addresses.to_vec()),
    };
    let dataplane = start(Upstreams { allow: Arc::new(allow), ..names.upstreams() });
    let handle = dataplane.handle();
    let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
    let refused = handle.create(ProxySpec::new("a", any, server)).unwrap_err();
    assert!(matches!(refused, ProxyError::UpstreamRefused { .. }), "{refused}");
    let proxy = to_name(&handle, "name", "backend:80");
    assert_eq!(handle.wait_for_upstreams(Duration::from_secs(30)), ["name"]);
    assert_eq!(said(proxy), b"");
    let update = ProxyUpdate { upstream: Some((server.to_string(), vec![server])), ..ProxyUpdate::default() };
    let refused = handle.update("name", update).unwrap_err();
    assert_eq!(refused.to_string(), "proxy `name` may not lead there: loopback is not allowed");
    assert_eq!(handle.get("name").unwrap().spec.upstream, "backend:80", "nothing was changed");
}
