//! Delays, pipelines, and how what is held or half done ends.

use super::*;

/// How long after `start` the bytes that follow arrive, in milliseconds.
fn arrives_after_ms(world: &mut World, peer: &Peer) -> u64 {
    for ms in 0..2000 {
        if peer.received_bytes() > 0 {
            return ms;
        }
        world.run(Duration::from_millis(1));
    }
    panic!("nothing arrives");
}

#[test]
fn a_message_is_delayed_once_expect_or_not() {
    let head = b"POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n";
    let go_on = b"HTTP/1.1 100 Continue\r\n\r\n";
    for (side, expected) in
        [("request", [100, 0, 0, 0]), ("reply", [0, 0, 0, 100]), ("both", [100, 0, 0, 100])]
    {
        let mut world = World::calm(Vec::new());
        let (client, server) = world.pair();
        world.set_rules(delay(side));
        let mut took = Vec::new();
        for (from, to, bytes) in [
            (&client, &server, &head[..]),
            (&server, &client, go_on),
            (&client, &server, b"hello"),
            (&server, &client, OK),
        ] {
            from.write(bytes);
            took.push(arrives_after_ms(&mut world, to));
            assert_eq!(text(&to.read()), text(bytes));
        }
        // Up to 2 ms are the steps of the test.
        let near = took.iter().zip(expected).all(|(took, expected)| (expected..=expected + 2).contains(took));
        assert!(near, "{side}: {took:?}");
        world.settle();
        let told = world.events().iter().filter(|event| event.kind == EventKind::Injected).count();
        assert_eq!(told, if side == "both" { 2 } else { 1 }, "{side}");
        // Without it a body that comes later is held as long as its head was.
        client.write(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n");
        world.run(Duration::from_millis(50));
        client.write(b"hello");
        world.run(Duration::from_millis(if side == "reply" { 1 } else { 101 }));
        assert!(server.read().ends_with(b"hello"));
        world.assert_empty(&[&client, &server]);
    }
}

#[test]
fn a_long_pipeline_is_answered_in_step_and_bounded() {
    let mut world = World::calm(rules("30:error", &[("error", "codes", "503")]));
    let client = world.dial();
    let all: Vec<u8> =
        (0..5000).flat_map(|i| format!("GET /{i} HTTP/1.1\r\nHost: a\r\n\r\n").into_bytes()).collect();
    let server = world.ask(&client, &all);
    let (mut asked, mut got) = (Vec::new(), Vec::new());
    for _ in 0..10_000 {
        world.run(Duration::from_millis(1));
        assert!(world.held_bytes() < 600_000, "{}", world.held_bytes());
        asked.extend(server.read());
        // One answer at a time, so that the pipeline stays full.
        if let Some(end) = asked.windows(4).position(|four| four == b"\r\n\r\n") {
            let head = text(&asked.drain(..end + 4).collect::<Vec<_>>());
            let path = head.split(' ').nth(1).unwrap();
            server
                .write(format!("HTTP/1.1 200 OK\r\nX-Path: {path}\r\nContent-Length: 0\r\n\r\n").as_bytes());
        }
        got.extend(client.read());
    }
    let got = text(&got);
    let replies: Vec<&str> = got.split("HTTP/1.1 ").skip(1).collect();
    assert_eq!(replies.len(), 5000);
    let mut errors = 0;
    for (i, reply) in replies.iter().enumerate() {
        match reply.starts_with("503 ") {
            true => errors += 1,
            false => {
                assert!(reply.contains(&format!("X-Path: /{i}\r\n")), "reply {i} is out of step: {reply}")
            }
        }
    }
    // 30 % of 5000; σ = 32.
    assert!((1340..=1660).contains(&errors), "{errors}");
    assert!(world.counters().pipeline_limit_reached > 0);
    assert_eq!((world.counters().protocol_errors, world.held_bytes()), (0, 0));
    world.assert_empty(&[&client, &server]);
}

#[test]
fn a_client_that_asks_on_and_takes_no_reply_is_read_no_further() {
    const ALL: usize = 20_000;
    for (rules, held_max) in [(error(), 1_200_000), (both(delay("request"), error()), 3_000_000)] {
        let mut world = World::calm(rules);
        let client = world.dial();
        client.stop_reading();
        client.write(&GET.repeat(ALL));
        for _ in 0..100 {
            world.run(SECOND / 100);
            assert!(world.held_bytes() < held_max, "{}", world.held_bytes());
        }
        let answered = world.counters().exchanges as usize;
        assert!(answered < ALL / 2, "{answered} requests were read");
        client.start_reading();
        world.run(60 * SECOND);
        let got = text(&client.read());
        assert_eq!(got.matches("HTTP/1.1 503 ").count(), ALL);
        assert_eq!((world.counters().exchanges as usize, world.held_bytes()), (ALL, 0));
        world.assert_empty(&[&client]);
    }
}

#[test]
fn what_a_client_has_left_to_ask_goes_on_when_it_takes_its_replies_and_when_it_is_gone() {
    for is_gone in [false, true] {
        let mut world = World::calm(error());
        let client = world.dial();
        client.stop_reading();
        client.write(&GET.repeat(20_000));
        client.shutdown_write();
        world.run(SECOND);
        assert!(world.held_bytes() > 0);
        if is_gone {
            client.reset();
        } else {
            client.start_reading();
        }
        world.run(10 * SECOND);
        if !is_gone {
            assert_eq!(text(&client.read()).matches("HTTP/1.1 503 ").count(), 20_000);
            assert!(client.state().eof);
        }
        assert_eq!((world.connections(), world.held_bytes()), (0, 0), "gone: {is_gone}");
    }
}

#[test]
fn a_reply_that_is_held_for_longer_than_a_side_may_linger_is_not_cut_off() {
    let held = rules("delay", &[("delay", "time", "20s"), ("delay", "side", "both")]);
    let last = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    for asked in [&b"GET / HTTP/1.0\r\n\r\n"[..], last] {
        let mut world = World::calm(both(held.clone(), error()));
        let client = world.dial();
        client.write(asked);
        world.run(19 * SECOND);
        assert!(client.read().is_empty() && !client.state().eof);
        world.run(2 * SECOND);
        let got = text(&client.read());
        assert!(got.contains(" 503 ") && got.ends_with("}\n"), "{got}");
        assert!(client.state().eof && !client.state().reset);
        world.assert_empty(&[&client]);
    }
    // A reply of unknown length, and one that nobody asked for: what came of them goes the same way.
    for odd in [&b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\nodd"[..], b"HTTP/1.1 200 OK\r\nno"] {
        let mut world = World::calm(rules("delay", &[("delay", "time", "20s"), ("delay", "side", "reply")]));
        let client = world.dial();
        let server = world.ask(&client, GET);
        server.write(odd);
        world.run(21 * SECOND);
        assert_eq!(text(&client.read()), text(odd));
        world.assert_empty(&[&client, &server]);
    }
}

#[test]
fn a_last_reply_that_takes_its_time_at_a_rate_arrives_whole_and_then_a_fin() {
    let slow = rules("throttle", &[("throttle", "rate", "1kB/s"), ("throttle", "side", "reply")]);
    let last = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    for reply in [
        [&b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 20000\r\n\r\n"[..], &[b'x'; 20_000]]
            .concat(),
        [&b"HTTP/1.0 200 OK\r\n\r\n"[..], &[b'x'; 20_000]].concat(),
        // Its end is in doubt.
        [&b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n"[..], &[b'x'; 20_000]].concat(),
    ] {
        for asked in [&b"GET / HTTP/1.0\r\n\r\n"[..], last] {
            let mut world = World::calm(slow.clone());
            let client = world.dial();
            let server = world.ask(&client, asked);
            server.write(&reply);
            server.shutdown_write();
            world.run(19 * SECOND);
            assert!(!client.state().eof && client.received_bytes() < reply.len());
            world.run(2 * SECOND);
            assert!(client.state().eof && !client.state().reset);
            assert_eq!((client.read(), world.counters().linger_limit_reached), (reply.clone(), 0));
            world.assert_empty(&[&client, &server]);
        }
    }
}

#[test]
fn a_client_that_half_closes_is_answered_as_the_rules_say_and_leaves_nothing_behind() {
    let post = b"POST /p HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n";
    let expect = b"POST /e HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n";
    // What it says before its FIN, and how many of these are whole requests.
    let speeches: [(Vec<u8>, usize); 8] = [
        (Vec::new(), 0),
        (GET[..10].to_vec(), 0),
        (GET.to_vec(), 1),
        ([GET, GET, GET].concat(), 3),
        ([GET, &GET[..10]].concat(), 1),
        ([&post[..], b"12345"].concat(), 1),
        ([GET, &post[..], b"12"].concat(), 1),
        ([GET, &expect[..]].concat(), 1),
    ];
    for (mix, options, status) in [
        ("", &[][..], Some("200 OK")),
        ("delay", &[("delay", "time", "1s"), ("delay", "side", "both")][..], Some("200 OK")),
        ("throttle", &[("throttle", "rate", "1kB/s")][..], Some("200 OK")),
        ("error", &[("error", "codes", "503")][..], Some("503 ")),
        ("abort", &[][..], None),
        ("blackout", &[][..], None),
        ("hang", &[][..], None),
        ("reset", &[][..], None),
    ] {
        for (said, whole) in &speeches {
            let case = format!("{mix}: {}", text(said));
            let mut world = World::calm(rules(mix, options));
            let client = world.dial();
            client.write(said);
            client.shutdown_write();
            let mut server: Option<Peer> = None;
            let mut asked = Vec::new();
            for _ in 0..100 {
                world.run(SECOND / 20);
                server = server.or_else(|| world.server.accept());
                let Some(server) = server.as_ref().filter(|server| server.is_open()) else { continue };
                let heard = server.read();
                let before = text(&asked).matches("HTTP/1.1\r\n").count();
                asked.extend(heard);
                let after = text(&asked).matches("HTTP/1.1\r\n").count();
                // It answers what is whole, and ends when it has heard the end.
                let wholly = after.min(*whole) - before.min(*whole);
                server.write(&OK.repeat(wholly));
                if server.state().eof {
                    server.close();
                }
            }
            let got = text(&client.read());
            if let Some(status) = status {
                // An error answers a head, whatever becomes of its body.
                let heads = text(said).matches("\r\n\r\n").count();
                let expected = if mix == "error" { heads } else { *whole };
                assert_eq!(got.matches(&format!("HTTP/1.1 {status}")).count(), expected, "{case}: {got}");
                assert!(client.state().eof && !client.state().reset, "{case}");
            } else {
                assert_eq!(got, "", "{case}");
            }
            world.run(62 * SECOND);
            assert!(client.state().eof || client.state().reset, "{case}");
            assert_eq!((world.connections(), world.held_bytes()), (0, 0), "{case}");
            let ends: Vec<&Peer> = std::iter::once(&client).chain(&server).collect();
            world.assert_empty(&ends);
        }
    }
}

#[test]
fn a_head_in_pieces_is_counted_as_held_until_it_is_whole() {
    let mut world = World::calm(Vec::new());
    let (client, server) = world.pair();
    client.write(&GET[..10]);
    world.settle();
    assert_eq!(world.held_bytes(), 10);
    client.write(&GET[10..]);
    world.settle();
    assert_eq!((world.held_bytes(), server.read()), (0, GET.to_vec()));
    client.write(&GET[..12]);
    world.settle();
    client.close();
    world.settle();
    assert_eq!(world.held_bytes(), 0, "it has gone with its client");
    world.assert_empty(&[&client, &server]);
}

#[test]
fn a_reply_until_the_end_and_http_1_0_keep_their_faults() {
    let mut world = World::calm(Vec::new());
    let client = world.dial();
    let keep = b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n";
    let server = world.ask(&client, keep);
    server.write(b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nok");
    world.settle();
    assert!(client.read().ends_with(b"\r\n\r\nok"));
    world.set_rules(error());
    client.write(keep);
    world.settle();
    let got = text(&client.read());
    assert!(got.starts_with("HTTP/1.0 503 ") && got.contains("\r\nConnection: keep-alive\r\n"), "{got}");
    world.set_rules(Vec::new());
    client.write(b"GET / HTTP/1.0\r\n\r\n");
    world.settle();
    world.set_rules(error());
    client.write(GET);
    server.write(b"HTTP/1.0 200 OK\r\n\r\nGET / HTTP/1.1\r\n\r\nHTTP/1.1 200 OK\r\n\r\n");
    world.settle();
    server.write(b"the end");
    server.shutdown_write();
    world.settle();
    let got = client.read();
    let reply = b"HTTP/1.0 200 OK\r\n\r\nGET / HTTP/1.1\r\n\r\nHTTP/1.1 200 OK\r\n\r\nthe end";
    assert_then_503(&got, reply);
    assert!(client.state().eof);
    world.assert_empty(&[&client, &server]);
}

#[test]
fn a_client_that_hangs_up_on_a_hang_leaves_nothing_behind() {
    let mut world = World::calm(Vec::new());
    let (client, server) = world.pair();
    client.write(GET);
    world.settle();
    world.set_rules(rules("hang", &[]));
    client.write(&[GET, UPGRADE, b"and more"].concat());
    world.settle();
    server.write(OK);
    world.settle();
    assert_eq!(client.read(), OK, "the request before it is answered");
    assert_eq!(server.read(), GET);
    server.write(OK);
    world.run(10 * SECOND);
    assert!(client.read().is_empty() && !client.state().eof, "a hang says nothing");
    client.reset();
    world.run(10 * SECOND);
    assert_eq!((world.connections(), world.held_bytes()), (0, 0));
    world.assert_empty(&[&client, &server]);
}
