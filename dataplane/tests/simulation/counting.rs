//! When a fault is counted and told, and to which rule.

use super::*;

pub(super) const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
pub(super) const OK: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

impl World {
    /// What rules of this behavior have injected, those that are gone included.
    fn injected(&self, behavior: &str) -> u64 {
        let snapshot = self.snapshot();
        let now: u64 =
            snapshot.rules.iter().filter(|rule| rule.behavior == behavior).map(|rule| rule.injected).sum();
        now + snapshot.retired.get(behavior).map_or(0, |rule| rule.injected)
    }

    pub(super) fn natural(&self) -> (u64, u64) {
        let counters = self.snapshot().counters;
        (counters.client_resets, counters.upstream_resets)
    }

    /// As many events of injected faults as the counters have, with these behaviors.
    fn told(&mut self) -> Vec<(&'static str, Option<String>)> {
        let injected = self.all_events().into_iter().filter(|event| event.kind == EventKind::Injected);
        injected
            .map(|event| (event.rule.unwrap().behavior, event.lease.map(|lease| lease.to_string())))
            .collect()
    }

    pub(super) fn ends(&mut self, peers: &[&Peer]) {
        peers.iter().filter(|peer| peer.is_open()).for_each(|peer| peer.close());
        self.run(Duration::from_secs(1));
        while let Some(server) = self.server.accept() {
            server.close();
        }
        self.assert_empty();
    }

    pub(super) fn pause(&mut self) {
        self.run(Duration::from_millis(50));
    }

    /// A client whose request has reached its server.
    pub(super) fn asked(&mut self) -> (Peer, Peer) {
        let client = self.network.dial(self.proxy);
        client.write(GET);
        self.pause();
        let server = self.server.accept().expect("it has connected");
        assert_eq!(server.read(), GET);
        (client, server)
    }
}

#[test]
fn simulation_of_a_reply_that_outlives_its_rule_is_counted_to_the_rule_that_decided() {
    let delay = one("d", "delay", &[("time", "5ms"), ("side", "both")]);
    let hang = || Rule { share: Share::from_percent(1e-6).unwrap(), ..one("h", "hang", &[]) };
    let mut world = plain_http_world(vec![delay]);
    let (client, server) = world.asked();
    world.set_rules(vec![hang()]);
    server.write(OK);
    world.pause();
    assert_eq!(client.read(), OK);
    assert_eq!((world.injected("hang"), world.injected("delay")), (0, 2));
    assert_eq!(world.told(), [("delay", None), ("delay", None)]);
    world.ends(&[&client, &server]);
}

#[test]
fn simulation_of_an_error_behind_a_reply_is_counted_to_the_rule_that_decided() {
    let mut world = plain_http_world(Vec::new());
    let (client, server) = world.asked();
    world.set_rules(vec![one("e", "error", &[("codes", "503")])]);
    client.write(GET);
    world.pause();
    assert_eq!(world.injected("error"), 0, "it waits for its turn");
    world.set_rules(vec![one("h", "hang", &[])]);
    server.write(OK);
    world.pause();
    assert!(client.read().starts_with(&[OK, b"HTTP/1.1 503"].concat()));
    assert_eq!((world.injected("hang"), world.injected("error")), (0, 1));
    assert_eq!(world.told(), [("error", None)]);
    world.ends(&[&client, &server]);
}

#[test]
fn simulation_of_a_lease_that_stays_through_changes_counts_what_it_held_all_the_time() {
    let lease = || one("lease-1/d", "delay", &[("time", "500ms")]);
    let with = |name| vec![one(name, "throttle", &[("rate", "1GB/s"), ("side", "reply")]), lease()];
    for protocol in [Protocol::Tcp, Protocol::Http] {
        let mut world = World::new(1, Faults::NONE, protocol, with("a"));
        world.network.set_socket_buffers(4000, 4000);
        world.network.set_link(Link::default());
        let client = world.network.dial(world.proxy);
        client.write(GET);
        for name in ["b", "c", "d"] {
            world.pause();
            world.set_rules(with(name));
        }
        world.run(Duration::from_secs(1));
        let server = world.next_served();
        assert_eq!(server.read(), GET);
        let rule = world.snapshot().rules.into_iter().find(|rule| rule.lease.is_some()).unwrap();
        assert_eq!((rule.injected, rule.lateness.unwrap().len()), (1, 1), "{protocol:?}");
        assert_eq!(world.told(), [("delay", Some("0-1".to_owned()))], "{protocol:?}");
        world.ends(&[&client, &server]);
    }
}

#[test]
fn simulation_of_a_reset_is_counted_when_the_rst_goes() {
    for options in [[("after", "1s"), ("side", "both")], [("after", "10KiB"), ("side", "both")]] {
        let reset = || vec![one("r", "reset", &options)];
        let mut world = plain_http_world(reset());
        let peers: Vec<(Peer, Peer)> = (0..3).map(|_| world.asked()).collect();
        for (client, server) in &peers {
            server.write(OK);
            world.pause();
            assert_eq!(client.read(), OK);
        }
        world.ends_of(&peers[0].0, &peers[0].1);
        world.pause();
        assert_eq!(world.injected("reset"), 0, "{options:?}: nothing has been reset");
        let (client, server) = &peers[1];
        if options[0].1 == "10KiB" {
            client.write(GET);
            world.pause();
            server.write(b"HTTP/1.1 200 OK\r\nContent-Length: 20000\r\n\r\n");
            server.write(&[b'x'; 20_000]);
            world.pause();
        } else {
            world.ends_of(&peers[2].0, &peers[2].1);
            world.run(Duration::from_secs(1));
        }
        assert!(client.state().reset, "{options:?}");
        assert_eq!(world.injected("reset"), 1, "{options:?}");
        world.set_rules(Vec::new());
        assert_eq!(world.injected("reset"), 1, "{options:?}");
        let told = world.all_events().into_iter().filter(|it| it.kind == EventKind::Injected);
        let told: Vec<Event> = told.collect();
        assert_eq!(told.len(), 1, "{told:?}");
        assert!(told[0].detail.to_string().starts_with("reset after "), "{}", told[0].detail);
        for (client, server) in &peers {
            world.ends_of(client, server);
        }
        world.ends(&[]);
    }
}

impl World {
    fn ends_of(&self, client: &Peer, server: &Peer) {
        [client, server].into_iter().filter(|peer| peer.is_open()).for_each(Peer::close);
    }
}

#[test]
fn simulation_of_idle_connections_under_a_rule_that_is_lifted_counts_what_they_met() {
    for (behavior, options, expected) in [
        ("abort", &[][..], 0),
        ("throttle", &[("rate", "100B/s")], 0),
        ("throttle", &[("rate", "0")], 0),
        ("delay", &[], 0),
        ("error", &[], 0),
        ("transient", &[], 0),
        ("reset", &[("after", "1s")], 0),
        ("reset", &[("after", "1KiB")], 0),
        // These end it: a hang when it is lifted, for what it swallowed cannot be answered any more.
        ("hang", &[], 1),
        ("reset", &[], 1),
        ("blackout", &[], 1),
    ] {
        let mut world = plain_world(Vec::new());
        let (client, server) = world.pair();
        world.set_rules(vec![one("r", behavior, options)]);
        world.pause();
        if behavior == "hang" {
            assert_eq!(world.injected(behavior), 0, "it has swallowed nothing");
        }
        world.set_rules(Vec::new());
        world.pause();
        assert_eq!(world.injected(behavior), expected, "{behavior} {options:?}");
        assert_eq!(world.told().len() as u64, expected, "{behavior} {options:?}");
        client.write(b"ping");
        world.pause();
        assert_eq!(server.read() == b"ping", expected == 0, "{behavior} {options:?}");
        world.ends(&[&client, &server]);
    }
}

#[test]
fn simulation_of_plain_bytes_under_each_rule_counts_the_instant_at_which_they_meet_it() {
    for (behavior, options, ms_until) in [
        ("delay", &[("time", "30ms")][..], 30),
        ("throttle", &[("rate", "100B/s")], 0),
        ("throttle", &[("rate", "0")], 0),
        ("hang", &[], 0),
        ("reset", &[("after", "1KiB")], 20),
        ("abort", &[], 0),
        ("error", &[], 20),
        ("transient", &[], 20),
    ] {
        let mut world = plain_world(vec![one("r", behavior, options)]);
        let client = world.network.dial(world.proxy);
        world.run(Duration::from_millis(10));
        let server = world.server.accept();
        assert_eq!(world.injected(behavior), 0, "{behavior}: no byte has come");
        client.write(&[1; 700]);
        let early = Duration::from_millis(15);
        world.run(early);
        assert_eq!(world.injected(behavior), u64::from(ms_until == 0), "{behavior} {options:?}");
        server.as_ref().inspect(|server| server.write(&[2; 700]));
        world.run(Duration::from_millis(25));
        assert_eq!(world.injected(behavior), 1, "{behavior} {options:?}");
        assert_eq!(world.told(), [(behavior, None)], "{options:?}");
        world.set_rules(Vec::new());
        world.ends(&[&client]);
        server.inspect(Peer::close);
    }
}

#[test]
fn simulation_of_random_bytes_that_a_delay_holds_counts_them_when_they_leave() {
    let rules = [("e", "error", &[][..]), ("d", "delay", &[("time", "100ms"), ("side", "reply")])];
    let mut world = plain_world(rules.map(|(name, behavior, options)| one(name, behavior, options)).into());
    let (client, server) = world.pair();
    server.write(b"reply");
    world.pause();
    assert_eq!(world.injected("error"), 0, "the client has none of it");
    world.pause();
    world.pause();
    assert_eq!((world.injected("error"), world.injected("delay")), (1, 1));
    assert!(!client.read().is_empty());
    world.ends(&[&client, &server]);
}

#[test]
fn simulation_of_messages_under_each_rule_counts_the_instant_at_which_they_meet_it() {
    // The client has sent a head and a part of the body, then the rest.
    for (behavior, in_body, at_the_end) in [
        ("hang", 1, 1),
        ("abort", 0, 1),
        ("error", 1, 1),
        ("transient", 1, 1),
        ("blackout", 1, 1),
        ("reset", 1, 1),
    ] {
        for scope in [None, Some(Scope::Exchange)] {
            let rule = Rule { scope, ..one("r", behavior, &[]) };
            let mut world = plain_http_world(Vec::new());
            let (client, server) = world.asked();
            server.write(OK);
            world.pause();
            world.set_rules(vec![rule]);
            world.pause();
            assert_eq!(world.injected(behavior), 0, "{behavior}: there was no message");
            client.write(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n12345");
            world.pause();
            assert_eq!(world.injected(behavior), in_body, "{behavior} in a body");
            if client.is_open() && !client.state().reset {
                client.write(b"67890");
            }
            world.pause();
            assert_eq!(world.injected(behavior), at_the_end, "{behavior} at the end");
            assert_eq!(world.told(), [(behavior, None)]);
            world.set_rules(Vec::new());
            world.ends(&[&client, &server]);
        }
    }
}

#[test]
fn simulation_of_an_abort_whose_client_leaves_before_its_request_is_whole_never_was() {
    let mut world = plain_http_world(vec![one("a", "abort", &[])]);
    let client = world.network.dial(world.proxy);
    client.write(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n12345");
    world.pause();
    client.reset();
    world.pause();
    assert_eq!((world.injected("abort"), world.natural()), (0, (1, 0)));
    world.ends(&[]);
}

#[test]
fn simulation_of_whole_connections_with_messages_counts_the_first_that_meets_the_rule() {
    for (behavior, options, when_set, asked, when_lifted) in [
        ("abort", &[][..], 0, 1, 1),
        ("hang", &[], 0, 1, 1),
        ("hang", &[], 0, 0, 1),
        ("reset", &[("after", "1s")], 0, 0, 0),
        ("blackout", &[], 1, 1, 1),
    ] {
        let mut world = plain_http_world(Vec::new());
        let (client, server) = world.asked();
        server.write(OK);
        world.pause();
        world.set_rules(vec![Rule { scope: Some(Scope::Connection), ..one("r", behavior, options) }]);
        world.pause();
        assert_eq!(world.injected(behavior), when_set, "{behavior} is set");
        if asked > when_set {
            client.write(&GET.repeat(3));
        }
        world.pause();
        assert_eq!(world.injected(behavior), asked, "{behavior} is asked");
        world.set_rules(Vec::new());
        world.pause();
        assert_eq!(world.injected(behavior), when_lifted, "{behavior} is lifted");
        assert_eq!(world.told().len() as u64, when_lifted, "{behavior}");
        world.ends(&[&client, &server]);
    }
}

#[test]
fn simulation_of_a_hang_that_passes_from_one_rule_to_another_is_counted_to_the_one_that_swallows() {
    let mut world = plain_world(vec![one("a", "hang", &[])]);
    let client = world.network.dial(world.proxy);
    world.pause();
    world.set_rules(vec![one("lease-1/b", "hang", &[])]);
    client.write(b"ping");
    world.pause();
    assert_eq!(world.told(), [("hang", Some("0-1".to_owned()))]);
    let counts = world.snapshot().rules.iter().map(|rule| rule.injected).sum::<u64>();
    assert_eq!(counts, 1, "and by that rule's own figures");
    world.ends(&[&client]);
}

#[test]
fn simulation_of_a_hang_that_is_lifted_gives_what_that_closes_to_the_rule_that_goes() {
    let mut world = plain_world(vec![one("lease-1/h", "hang", &[])]);
    let client = world.network.dial(world.proxy);
    world.pause();
    let none = RuleSet::compile(Vec::new(), Protocol::Tcp, 1, 2).unwrap();
    let gone = world.worker.borrow_mut().0.set_rules(PROXY, &Arc::new(none));
    world.worker.borrow_mut().1 += 1;
    world.network.wake(world.ring);
    assert_eq!(gone.iter().map(|rule| rule.injected).collect::<Vec<_>>(), [1]);
    world.ends(&[&client]);
}
