//! Which failures are natural, whose they are, and how they are handed on.

use super::counting::{GET, OK};
use super::*;

#[test]
fn simulation_of_a_client_that_gives_up_on_what_a_rule_holds_is_no_natural_failure() {
    for seed in seeds(20) {
        for (behavior, options) in [
            ("throttle", &[("rate", "0")][..]),
            ("throttle", &[("rate", "10B/s")]),
            ("throttle", &[("rate", "10B/s"), ("side", "reply")]),
            ("throttle", &[("rate", "0"), ("side", "reply")]),
            ("delay", &[("time", "60s")]),
            ("delay", &[("time", "60s"), ("side", "reply")]),
            ("hang", &[]),
        ] {
            for protocol in [Protocol::Tcp, Protocol::Http] {
                let rules = vec![one("r", behavior, options)];
                let mut world = World::new(seed, some_faults(seed), protocol, rules);
                let client = world.network.dial(world.proxy);
                client.write(GET);
                world.run(Duration::from_secs(1));
                let server = world.server.accept();
                server.as_ref().inspect(|server| server.write(OK));
                world.run(Duration::from_secs(1));
                client.reset();
                world.run(Duration::from_secs(4));
                let case = format!("{behavior} {options:?} {protocol:?} (seed {seed})");
                assert_eq!(world.natural(), (0, 0), "{case}");
                server.inspect(Peer::close);
                world.set_rules(Vec::new());
                // What a delay holds leaves when it was due.
                world.run(Duration::from_secs(61));
                world.ends(&[]);
            }
        }
    }
}

#[test]
fn simulation_of_a_client_that_ended_while_a_rate_kept_it_waiting_is_no_natural_failure_when_its_bytes_come()
{
    for (rate, protocol) in [("0", Protocol::Tcp), ("100B/s", Protocol::Tcp), ("100B/s", Protocol::Http)] {
        let mut world = World::new(1, Faults::NONE, protocol, Vec::new());
        let client = world.network.dial(world.proxy);
        client.write(GET);
        world.pause();
        let server = world.server.accept().unwrap();
        world.set_rules(vec![one("r", "throttle", &[("rate", rate), ("side", "reply")])]);
        server.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n");
        server.write(&[b'x'; 1000]);
        world.pause();
        client.close();
        world.pause();
        world.set_rules(Vec::new());
        world.run(Duration::from_secs(4));
        assert_eq!(world.natural(), (0, 0), "{rate} {protocol:?}");
        world.ends(&[&server]);
    }
}

#[test]
fn simulation_of_a_client_that_breaks_off_when_nothing_is_held_is_a_natural_failure_under_any_rule() {
    for (behavior, options) in [
        ("throttle", &[("rate", "100MB/s")][..]),
        ("delay", &[("time", "1ms"), ("side", "both")]),
        ("reset", &[("after", "60s")]),
    ] {
        for protocol in [Protocol::Tcp, Protocol::Http] {
            let mut world = World::new(1, Faults::NONE, protocol, vec![one("r", behavior, options)]);
            let client = world.network.dial(world.proxy);
            client.write(GET);
            world.run(Duration::from_secs(1));
            client.reset();
            world.run(Duration::from_secs(4));
            assert_eq!(world.natural(), (1, 0), "{behavior} {options:?} {protocol:?}");
            world.ends(&[]);
        }
    }
}

#[test]
fn simulation_of_an_upstream_that_ends_inside_a_reply_is_a_natural_failure() {
    for (reply, expected) in [
        (&b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nabc"[..], 1),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n", 1),
        (b"HTTP/1.1 200 OK\r\nContent-Le", 1),
        (b"HTTP/1.1 100 Continue\r\n\r\n", 1),
        (b"", 1),
        (OK, 0),
        (b"HTTP/1.1 200 OK\r\n\r\nuntil the end", 0),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n", 0),
        (b"HTTP/1.1 204 No Content\r\n\r\n", 0),
    ] {
        for closes in [false, true] {
            let mut world = plain_http_world(Vec::new());
            let (client, server) = world.asked();
            server.write(reply);
            world.pause();
            if closes {
                server.close()
            } else {
                server.shutdown_write()
            }
            world.pause();
            assert_eq!(client.read(), reply);
            assert!(client.state().eof && !client.state().reset);
            // It says more to an upstream that has gone.
            client.write(GET);
            world.pause();
            let text = String::from_utf8_lossy(reply);
            assert_eq!(world.natural(), (0, expected), "{text}");
            let told = world.all_events().into_iter().filter(|it| it.kind == EventKind::NaturalFailure);
            let told: Vec<String> = told.map(|event| event.detail.to_string()).collect();
            assert_eq!(told.len() as u64, expected, "{text}: {told:?}");
            assert!(told.iter().all(|told| told.starts_with("upstream: ended")), "{told:?}");
            world.ends(&[&client, &server]);
        }
    }
}

#[test]
fn simulation_of_an_upstream_that_ends_where_a_rule_withholds_its_reply_is_no_natural_failure() {
    for (behavior, options) in
        [("abort", &[][..]), ("hang", &[]), ("error", &[]), ("delay", &[("time", "60s")])]
    {
        let mut world = plain_http_world(Vec::new());
        let (client, server) = world.asked();
        server.write(OK);
        world.pause();
        world.set_rules(vec![one("r", behavior, options)]);
        client.write(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n12345");
        world.pause();
        server.close();
        world.pause();
        assert_eq!(world.natural().1, 0, "{behavior}");
        world.set_rules(Vec::new());
        world.run(Duration::from_secs(61));
        world.ends(&[&client]);
    }
}

#[test]
fn simulation_of_an_upstream_that_gives_up_on_a_request_that_a_rule_holds_is_no_natural_failure() {
    for (behavior, options, expected) in [
        ("throttle", &[("rate", "0")][..], 0),
        ("throttle", &[("rate", "0"), ("side", "request")], 0),
        ("throttle", &[("rate", "1B/s")], 0),
        ("throttle", &[("rate", "1B/s"), ("side", "request")], 0),
        ("delay", &[("time", "60s")], 0),
        ("delay", &[("time", "60s"), ("side", "both")], 0),
        ("hang", &[], 0),
        // It has what was asked, and owes the reply.
        ("throttle", &[("rate", "0"), ("side", "reply")], 1),
        ("throttle", &[("rate", "100MB/s")], 1),
        ("delay", &[("time", "60s"), ("side", "reply")], 1),
        ("delay", &[("time", "1ms")], 1),
    ] {
        for protocol in [Protocol::Tcp, Protocol::Http] {
            for closes in [false, true] {
                let mut world = World::new(1, Faults::NONE, protocol, Vec::new());
                let client = world.network.dial(world.proxy);
                client.write(GET);
                world.pause();
                let server = world.server.accept().unwrap();
                server.write(OK);
                world.pause();
                world.set_rules(vec![one("r", behavior, options)]);
                client.write(GET);
                world.run(Duration::from_secs(2));
                if closes {
                    server.close();
                } else {
                    server.reset();
                }
                world.run(Duration::from_secs(4));
                let case = format!("{behavior} {options:?} {protocol:?} closes: {closes}");
                // On plain bytes a FIN in order is no failure.
                let expected = if closes && protocol == Protocol::Tcp { 0 } else { expected };
                assert_eq!(world.natural(), (0, expected), "{case}");
                client.close();
                world.set_rules(Vec::new());
                world.run(Duration::from_secs(61));
                assert_eq!(world.natural(), (0, expected), "later: {case}");
                world.ends(&[]);
            }
        }
    }
}

#[test]
fn simulation_of_an_upstream_that_breaks_off_in_its_reply_fails_though_a_rate_holds_the_rest_of_the_request()
{
    for closes in [false, true] {
        let mut world =
            plain_http_world(vec![one("r", "throttle", &[("rate", "100B/s"), ("side", "request")])]);
        let client = world.network.dial(world.proxy);
        client.write(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\n");
        client.write(&[b'x'; 1000]);
        world.run(Duration::from_secs(2));
        let server = world.server.accept().unwrap();
        server.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nabc");
        world.pause();
        if closes {
            server.close();
        } else {
            server.reset();
        }
        world.run(Duration::from_secs(4));
        assert_eq!(world.natural(), (0, 1), "closes: {closes}");
        client.close();
        world.run(Duration::from_secs(61));
        world.ends(&[]);
    }
}

#[test]
fn simulation_of_a_client_that_ends_inside_a_request_is_a_natural_failure() {
    const HEAD: &[u8] = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n";
    let whole = [HEAD, b"1234567890"].concat();
    let part = [HEAD, b"123"].concat();
    for (rules, says, replies, expected) in [
        (None, &part[..], false, 1),
        (None, b"POST / HT", false, 1),
        (None, &whole, false, 0),
        (None, b"", false, 0),
        // The reply came early: who has it need not say the rest.
        (None, &part, true, 0),
        (Some(("error", &[][..])), &part, false, 0),
        (Some(("hang", &[])), &part, false, 0),
        (Some(("delay", &[("time", "60s")])), &part, false, 0),
        (Some(("throttle", &[("rate", "0")])), &part, false, 0),
    ] {
        let rules = rules.map(|(behavior, options)| one("r", behavior, options));
        let mut world = plain_http_world(rules.clone().into_iter().collect());
        let client = world.network.dial(world.proxy);
        client.write(says);
        world.pause();
        let server = world.server.accept();
        if replies {
            server.as_ref().unwrap().write(OK);
            world.pause();
        }
        client.shutdown_write();
        world.pause();
        let case = format!("{rules:?} {}", String::from_utf8_lossy(says));
        assert_eq!(world.natural(), (expected, 0), "{case}");
        client.close();
        server.inspect(Peer::close);
        world.set_rules(Vec::new());
        world.run(Duration::from_secs(61));
        world.ends(&[]);
    }
}

#[test]
fn simulation_of_a_client_that_resets_in_a_reply_is_told_as_a_reset_and_handed_on_as_one() {
    for seed in seeds(200) {
        let protocol = if seed % 2 == 0 { Protocol::Tcp } else { Protocol::Http };
        let mut world = World::new(seed, some_faults(seed), protocol, Vec::new());
        world.network.set_socket_buffers(4000, 4000);
        let client = world.network.dial(world.proxy);
        client.write(GET);
        let server = world.next_served();
        for _ in 0..1000 {
            if server.received_bytes() == GET.len() {
                break;
            }
            world.run(Duration::from_millis(10));
        }
        client.stop_reading();
        server.write(b"HTTP/1.1 200 OK\r\nContent-Length: 900000\r\n\r\n");
        server.write(&[b'x'; 900_000]);
        world.run_up_to(Duration::from_millis(200));
        client.reset();
        world.run(Duration::from_secs(4));
        let told = world.all_events().into_iter().filter(|it| it.kind == EventKind::NaturalFailure);
        let told: Vec<String> = told.map(|event| event.detail.to_string()).collect();
        assert_eq!(told, ["client: reset"], "seed {seed}");
        assert!(server.state().reset, "seed {seed}");
        assert_eq!(world.natural(), (1, 0), "seed {seed}");
        world.ends(&[&server]);
    }
}
