//! The front door, as a test that embeds it sees it: mistakes are told, and nothing is counted under a wrong name.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::io::Read;
use std::net::{SocketAddr, TcpListener, TcpStream};

use fracas_dataplane::behavior::{Behavior, Match, Rule};
use fracas_dataplane::protocol::Protocol;
use fracas_dataplane::proxy::{DataplaneSettings, EventKind, ProxySpec};
use fracas_dataplane::{EmbedError, Proxy};

/// Whoever connects waits in the queue of the kernel for ever.
fn silent() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

#[test]
fn mistakes_are_one_line_that_says_what_is_right_and_change_nothing() {
    let (_listener, upstream) = silent();
    let proxy = Proxy::start(upstream, Protocol::Tcp).unwrap();
    proxy.set_behavior("blackout", &[]).unwrap();
    for (behavior, options, expected) in [
        ("dealy", &[][..], "unknown behavior `dealy`; did you mean `delay`?"),
        ("delay", &[("delay", "tiem", "1s")], "behavior `delay` has no option `tiem`; did you mean `time`?"),
        (
            "hang",
            &[("delay", "time", "1s")],
            "options are given for `delay`, which the mix `hang` does not use",
        ),
        (
            "70:hang,60:delay",
            &[],
            "the percentages of the mix `70:hang,60:delay` add up to 130; they must stay within 100",
        ),
    ] {
        assert_eq!(proxy.set_behavior(behavior, options).unwrap_err().to_string(), expected);
    }
    // A rule on a path needs a protocol that has paths.
    let path = Match { paths: vec!["/cart/*".parse().unwrap()], ..Match::default() };
    let rule =
        Rule { matcher: path, ..Rule::always("cart", Behavior::parse("hang", &Default::default()).unwrap()) };
    assert!(matches!(proxy.set_rules(vec![rule]), Err(EmbedError::Proxy(_))));
    // The behavior from before is still there.
    assert_eq!(TcpStream::connect(proxy.address()).unwrap().read(&mut [0]).unwrap(), 0);
    assert_eq!(proxy.injected("blackout").unwrap(), 1);
}

#[test]
fn faults_are_counted_under_any_name_of_their_behavior_and_no_other() {
    let (_listener, upstream) = silent();
    let proxy = Proxy::start(upstream, Protocol::Tcp).unwrap();
    let watcher = proxy.watch();
    proxy.set_behavior("reset_peer", &[]).unwrap();
    let ended = TcpStream::connect(proxy.address()).unwrap().read(&mut [0]).unwrap_err();
    assert_eq!(ended.kind(), std::io::ErrorKind::ConnectionReset);
    assert_eq!((proxy.injected("reset").unwrap(), proxy.injected("reset_peer").unwrap()), (1, 1));
    assert_eq!(proxy.injected("delay").unwrap(), 0);
    assert_eq!(
        proxy.injected("rest").unwrap_err().to_string(),
        "unknown behavior `rest`; did you mean `reset`?"
    );
    proxy.reset_behavior().unwrap();
    assert_eq!(proxy.injected("reset").unwrap(), 1, "by a rule that is gone");
    let mut kinds = Vec::new();
    while !kinds.contains(&EventKind::Injected) {
        let events =
            watcher.recv_timeout(std::time::Duration::from_secs(60)).expect("the fault has its event");
        kinds.extend(events.into_iter().map(|event| event.kind));
    }
}

#[test]
fn an_address_that_is_taken_and_a_proxy_that_is_gone_are_told() {
    let (_listener, upstream) = silent();
    let settings = DataplaneSettings { threads: 1, ..DataplaneSettings::default() };
    let taken = Proxy::start_with(settings, ProxySpec::new("here", upstream, upstream));
    let error = taken.err().expect("somebody listens there").to_string();
    assert!(error.starts_with(&format!("proxy `here` cannot listen on {upstream}: ")), "{error}");

    let proxy = Proxy::start(upstream, Protocol::Tcp).unwrap();
    proxy.handle().delete("test", None).unwrap();
    for error in [proxy.set_behavior("hang", &[]), proxy.reset_behavior(), proxy.figures().map(drop)] {
        assert_eq!(error.unwrap_err().to_string(), "there is no proxy `test`");
    }
}
