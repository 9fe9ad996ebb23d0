//! A whole config replaced at once.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod support;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use fracas_dataplane::behavior::{Match, Rule};
use fracas_dataplane::protocol::Protocol;
use fracas_dataplane::proxy::leases::Term;
use fracas_dataplane::proxy::{Dataplane, DataplaneSettings, Handle, LeaseRequest, ProxyError, ProxySpec};
use support::{EchoServer, rules, serve};

fn start() -> Dataplane {
    Dataplane::start(DataplaneSettings { threads: 2, ..DataplaneSettings::default() })
        .expect("tests need io_uring")
}

fn any() -> SocketAddr {
    "127.0.0.1:0".parse().unwrap()
}

fn spec(name: &str, upstream: SocketAddr) -> ProxySpec {
    ProxySpec::new(name, any(), upstream)
}

fn listen(handle: &Handle, name: &str) -> SocketAddr {
    handle.get(name).unwrap().spec.listen
}

/// A connection that has been echoed once.
fn echoed(address: SocketAddr) -> TcpStream {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    echo(&mut stream);
    stream
}

fn echo(stream: &mut TcpStream) {
    stream.write_all(b"x").unwrap();
    stream.read_exact(&mut [0; 1]).unwrap();
}

/// All that is to be seen of the proxies.
fn seen(handle: &Handle) -> String {
    handle
        .list()
        .iter()
        .map(|info| format!("{:?} {} {:?}\n", info.spec, info.generation, info.rules))
        .collect()
}

#[test]
fn a_new_config_makes_changes_and_closes_in_one_generation_and_leaves_the_rest_alone() {
    let dataplane = start();
    let handle = dataplane.handle();
    let (server, other) = (EchoServer::start(), EchoServer::start());
    let old = ["same", "changed", "gone"].map(|name| spec(name, server.address));
    handle.create_all(old.to_vec()).unwrap();
    let lease = LeaseRequest {
        proxy: "changed".into(),
        rules: rules("1:hang", &[]),
        owner: "test".into(),
        term: Term { ttl: Some(Duration::from_secs(3600)), ..Term::default() },
    };
    handle.acquire(lease).unwrap();
    let (same, changed, gone) =
        (listen(&handle, "same"), listen(&handle, "changed"), listen(&handle, "gone"));
    let (mut on_same, mut on_changed, mut on_gone) = (echoed(same), echoed(changed), echoed(gone));
    let generation = handle.get("same").unwrap().generation;
    let new = [
        spec("same", server.address),
        ProxySpec { rules: rules("delay", &[("delay", "time", "1ms")]), ..spec("changed", other.address) },
        spec("new", server.address),
    ];
    let replaced = handle.replace_all(new.to_vec()).unwrap();
    assert_eq!((replaced.created, replaced.deleted), (vec!["new".to_owned()], vec!["gone".to_owned()]));
    let named: Vec<&str> = replaced.applied.proxies.iter().map(|to| to.proxy.as_str()).collect();
    assert_eq!(named, ["changed"]);
    let now = replaced.applied.generation;
    assert_eq!(handle.generation(), now);
    let generations = ["same", "changed", "new"].map(|name| handle.get(name).unwrap().generation);
    assert_eq!(generations, [generation, now, now]);
    assert_eq!((listen(&handle, "same"), listen(&handle, "changed")), (same, changed));
    let info = handle.get("changed").unwrap();
    assert_eq!((info.leases.len(), info.spec.rules.len(), info.rules.len()), (1, 1, 2));
    // Live connections go on; new ones are led elsewhere.
    echo(&mut on_same);
    echo(&mut on_changed);
    assert_eq!(other.connections.load(std::sync::atomic::Ordering::SeqCst), 0);
    echoed(changed);
    assert_eq!(other.connections.load(std::sync::atomic::Ordering::SeqCst), 1);
    assert_eq!(on_gone.read(&mut [0; 1]).unwrap(), 0, "what is gone is closed in order");
    echoed(listen(&handle, "new"));
    let again = handle.replace_all(new.to_vec()).unwrap();
    assert_eq!((again.applied.generation, again.applied.proxies.len()), (now, 0), "nothing differs");
}

#[test]
fn a_config_that_is_wrong_anywhere_changes_nothing() {
    let dataplane = start();
    let handle = dataplane.handle();
    let server = EchoServer::start().address;
    // Of no sense without a protocol.
    let by_path = || {
        let matcher = Match { paths: vec!["/x".parse().unwrap()], ..Match::default() };
        rules("hang", &[])
            .into_iter()
            .map(|rule| Rule { matcher: matcher.clone(), ..rule })
            .collect::<Vec<Rule>>()
    };
    let http = |name| ProxySpec { protocol: Protocol::Http, ..spec(name, server) };
    handle.create_all(vec![http("a"), spec("b", server)]).unwrap();
    let lease = LeaseRequest {
        proxy: "a".into(),
        rules: by_path(),
        owner: "test".into(),
        term: Term { ttl: Some(Duration::from_secs(3600)), ..Term::default() },
    };
    handle.acquire(lease).unwrap();
    let mut live = echoed(listen(&handle, "b"));
    let before = seen(&handle);
    let taken = TcpListener::bind(any()).unwrap();
    let changed = || ProxySpec { rules: rules("5:hang", &[]), ..spec("b", server) };
    let nowhere =
        ProxySpec { upstream: "nowhere".into(), upstream_addresses: Vec::new(), ..spec("c", server) };
    let wrong = [
        vec![changed(), http("a"), ProxySpec { listen: taken.local_addr().unwrap(), ..spec("c", server) }],
        vec![changed(), http("a"), ProxySpec { listen: listen(&handle, "b"), ..spec("c", server) }],
        vec![changed(), http("a"), spec("c", server), spec("c", server)],
        vec![changed(), http("a"), nowhere],
        vec![changed(), ProxySpec { rules: by_path(), ..spec("a", server) }],
        // The base rules fit, those of the lease do not.
        vec![changed(), spec("a", server)],
    ];
    for (place, specs) in wrong.into_iter().enumerate() {
        let refused = handle.replace_all(specs);
        if let Ok(replaced) = refused {
            panic!("{place}: {replaced:?}");
        }
        assert_eq!(seen(&handle), before, "{place}");
    }
    echo(&mut live);
    handle.replace_all(vec![changed(), http("a")]).unwrap();
    assert_ne!(seen(&handle), before);
}

#[test]
fn two_proxies_may_change_their_addresses_with_each_other() {
    let dataplane = start();
    let handle = dataplane.handle();
    let says =
        |words: &'static [u8]| serve(Default::default(), move |mut stream| stream.write_all(words).unwrap());
    let (one, two) = (says(b"one"), says(b"two"));
    handle.create_all(vec![spec("one", one), spec("two", two)]).unwrap();
    let (at_one, at_two) = (listen(&handle, "one"), listen(&handle, "two"));
    let new = vec![
        ProxySpec { listen: at_two, ..spec("one", one) },
        ProxySpec { listen: at_one, ..spec("two", two) },
    ];
    let replaced = handle.replace_all(new).unwrap();
    assert_eq!((replaced.created.len(), replaced.deleted.len()), (2, 2));
    for (address, words) in [(at_two, b"one"), (at_one, b"two")] {
        // A listener that was shut may have taken some, for a few turns.
        let limit = fracas_dataplane::clock::Instant::now() + Duration::from_secs(30);
        loop {
            let mut said = Vec::new();
            let read = TcpStream::connect(address).unwrap().read_to_end(&mut said);
            if read.is_ok() && said == words {
                break;
            }
            assert!(fracas_dataplane::clock::Instant::now() < limit);
        }
    }
    assert!(matches!(
        handle.create(ProxySpec { listen: at_one, ..spec("x", one) }),
        Err(ProxyError::Listen { .. })
    ));
}
