//! Tunnels, upgrades and uploads: what follows a request that may end HTTP, or a reply that came early.

use super::*;

#[test]
fn a_tunnel_is_plain_bytes_for_ever_whatever_rules_come_and_go() {
    for (request, reply) in [(UPGRADE, SWITCHED), (CONNECT, ESTABLISHED)] {
        let mut world = World::calm(Vec::new());
        let (client, server) = world.pair();
        client.write(request);
        world.settle();
        assert_eq!(server.read(), request);
        server.write(reply);
        world.settle();
        assert_eq!(client.read(), reply);
        for rules in message_rules() {
            world.set_rules(rules);
            for _ in 0..3 {
                // What looks like HTTP is none.
                for said in [&b"k"[..], GET, b"\x16\x03\x01 no request\n", b"HTTP/1.1 400 no\r\n\r\n"] {
                    client.write(said);
                    server.write(said);
                    world.run(Duration::from_millis(300));
                    assert_eq!((text(&server.read()), text(&client.read())), (text(said), text(said)));
                }
                world.set_rules(Vec::new());
            }
        }
        assert_eq!(world.counters().protocol_errors, 0);
        // What acts on a connection as a whole still does.
        world.set_rules(rules("throttle", &[("throttle", "rate", "0")]));
        client.write(b"stalled");
        world.settle();
        assert_eq!(server.read(), b"");
        world.set_rules(Vec::new());
        world.settle();
        assert_eq!(server.read(), b"stalled");
        let mut blackout = rules("blackout", &[]);
        blackout[0].scope = Some(Scope::Connection);
        world.set_rules(blackout);
        world.settle();
        assert!(client.state().eof && server.state().eof);
        world.assert_empty(&[&client, &server]);
    }
}

#[test]
fn a_tunnel_whose_head_or_reply_is_delayed_keeps_its_order() {
    for side in ["request", "reply", "both"] {
        let mut world = World::calm(delay(side));
        let client = world.dial();
        client.write(UPGRADE);
        client.write(b"at once");
        world.run(SECOND);
        let server = world.server.accept().unwrap();
        assert_eq!(server.read(), UPGRADE, "nothing follows before the reply");
        server.write(&[SWITCHED, b"and back"].concat());
        world.run(SECOND);
        assert_eq!(text(&client.read()), text(&[SWITCHED, b"and back"].concat()));
        assert_eq!(text(&server.read()), "at once");
        world.assert_empty(&[&client, &server]);
    }
}

#[test]
fn an_upload_that_goes_on_after_its_reply_is_no_request() {
    let body = [&b"x".repeat(40)[..], GET, b"\r\n\r\n"].concat();
    let length = format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n", body.len());
    let expect = format!(
        "POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    let chunked = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n".to_owned();
    let chunks = [format!("{:x};a=b\r\n", body.len()).as_bytes(), &body, b"\r\n0\r\nA: b\r\n\r\n"].concat();
    for (head, body, early) in [
        (&length, &body, OK),
        (&expect, &body, OK),
        (&expect, &body, b"HTTP/1.1 100 Continue\r\n\r\n"),
        (&chunked, &chunks, OK),
    ] {
        for rules in message_rules().into_iter().filter(|rules| rules[0].name != "delay") {
            let mut world = World::calm(Vec::new());
            let (client, server) = world.pair();
            client.write(head.as_bytes());
            client.write(&body[..20]);
            world.settle();
            server.write(early);
            world.settle();
            assert_eq!(client.read(), early);
            world.set_rules(rules.clone());
            client.write(&body[20..]);
            world.settle();
            assert_eq!(text(&server.read()), text(&[head.as_bytes(), body].concat()), "{}", rules[0].name);
            if early != OK {
                server.write(OK);
                world.settle();
                assert_eq!(client.read(), OK);
            }
            assert!(!client.state().eof && client.read().is_empty());
            // The next request is the one that the rule is about.
            if rules[0].name == "error" {
                world.set_rules(error());
                assert_next_is_an_error(&mut world, &client, &server);
            }
            world.set_rules(Vec::new());
            if rules[0].name != "hang" {
                assert_next_passes(&mut world, &client, &server);
            }
            world.assert_empty(&[&client, &server]);
        }
    }
}

#[test]
fn an_error_waits_for_the_end_of_a_reply_that_is_under_way() {
    let long = b"x".repeat(10_000);
    let lengths = [b"HTTP/1.1 200 OK\r\nContent-Length: 10000\r\n\r\n", &long[..]].concat();
    let chunks =
        [&b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2710\r\n"[..], &long, b"\r\n0\r\n\r\n"]
            .concat();
    for reply in [&lengths, &chunks] {
        for cut in [1, 20, 60, 5000, reply.len() - 1] {
            let mut world = World::calm(Vec::new());
            let (client, server) = world.pair();
            client.write(GET);
            world.settle();
            server.write(&reply[..cut]);
            world.settle();
            world.set_rules(error());
            client.write(GET);
            world.settle();
            assert_eq!(client.received_bytes(), cut, "the error waits for its turn");
            server.write(&reply[cut..]);
            world.settle();
            assert_then_503(&client.read(), reply);
            assert_eq!(server.read(), GET);
            assert_next_is_an_error(&mut world, &client, &server);
            world.set_rules(Vec::new());
            assert_next_passes(&mut world, &client, &server);
            assert_eq!(world.held_bytes(), 0);
            world.assert_empty(&[&client, &server]);
        }
    }
}

#[test]
fn an_error_answers_an_offer_of_another_protocol_and_the_connection_stays_in_step() {
    let h2c = "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA\r\n\r\n";
    let post =
        "POST / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: h2c\r\nContent-Length: 5\r\n\r\nhello";
    for request in [h2c.as_bytes(), post.as_bytes(), UPGRADE, CONNECT] {
        let mut world = World::calm(Vec::new());
        let (client, server) = world.pair();
        for _ in 0..3 {
            world.set_rules(error());
            for _ in 0..3 {
                client.write(request);
                world.settle();
                assert_then_503(&client.read(), b"");
            }
            assert_next_is_an_error(&mut world, &client, &server);
            world.set_rules(Vec::new());
            // An upstream that does not take up the offer leaves the connection in step, too.
            client.write(request);
            world.settle();
            assert_eq!(server.read(), request);
            let refused =
                if request == CONNECT { &b"HTTP/1.1 403 No\r\nContent-Length: 2\r\n\r\nno"[..] } else { OK };
            server.write(refused);
            world.settle();
            assert_eq!(client.read(), refused);
            assert_next_passes(&mut world, &client, &server);
        }
        assert_eq!((world.counters().protocol_errors, world.held_bytes()), (0, 0));
        world.assert_empty(&[&client, &server]);
    }
}

#[test]
fn requests_behind_an_offer_wait_for_its_reply_and_are_read_when_it_is_refused() {
    let mut world = World::calm(Vec::new());
    let client = world.dial();
    let server = world.ask(&client, &[UPGRADE, GET, GET].concat());
    assert_eq!(server.read(), UPGRADE);
    assert_eq!(world.held_bytes(), 2 * GET.len(), "what is parked is counted as held");
    world.set_rules(error());
    server.write(OK);
    world.settle();
    let got = client.read();
    assert!(got.starts_with(OK));
    assert_eq!(text(&got).matches("HTTP/1.1 503 ").count(), 2);
    assert_eq!((server.read().len(), world.held_bytes()), (0, 0));
    world.assert_empty(&[&client, &server]);
}

#[test]
fn a_reset_that_waits_for_its_bytes_or_its_time_is_not_put_off_by_the_next_request() {
    for after in ["1000B", "500ms"] {
        let mut world = World::calm(rules("reset", &[("reset", "after", after)]));
        let client = world.dial();
        let server = world.ask(&client, GET);
        let (mut passed, mut exchanges) = (0, 0);
        while !client.state().reset && exchanges < 100 {
            server.write(OK);
            world.run(SECOND / 10);
            client.write(GET);
            passed += server.read().len() + client.read().len();
            exchanges += 1;
        }
        world.settle();
        passed += server.read().len() + client.read().len();
        match after {
            "1000B" => assert_eq!(passed, 1000),
            _ => assert!((4..=6).contains(&exchanges), "{exchanges} exchanges"),
        }
        assert!(client.state().reset && server.state().reset);
        let events = world.events();
        let told = events.iter().filter(|event| event.kind == EventKind::Injected).count();
        assert_eq!(told, 1, "it is one reset");
        world.assert_empty(&[&client, &server]);
    }
}

#[test]
fn a_reset_that_was_called_off_does_not_end_a_later_one_early() {
    let reset = |after| rules("reset", &[("reset", "after", after)]);
    let mut world = World::calm(reset("2s"));
    let client = world.dial();
    let server = world.ask(&client, &GET.repeat(3));
    world.set_rules(Vec::new());
    world.set_rules(reset("10s"));
    client.write(GET);
    world.run(5 * SECOND);
    assert!(!client.state().reset, "the first was called off");
    world.run(6 * SECOND);
    assert!(client.state().reset);
    world.assert_empty(&[&client, &server]);
}

#[test]
fn many_offers_at_once_are_read_one_by_one_and_in_order() {
    let mut world = World::calm(Vec::new());
    let client = world.dial();
    let offer = |i: usize| {
        format!("GET /{i} HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n").into_bytes()
    };
    let all: Vec<u8> = (0..600).flat_map(offer).collect();
    // The second part comes when the first is being read, and is cut within a head.
    let (first, second) = all.split_at(20_010);
    let server = world.ask(&client, first);
    for i in 0..600 {
        if i == 100 {
            client.write(second);
            world.run(Duration::from_millis(1));
        }
        assert_eq!(text(&server.read()), text(&offer(i)));
        server.write(OK);
        world.run(Duration::from_millis(1));
    }
    assert_eq!((client.read().len(), world.held_bytes()), (600 * OK.len(), 0));
    assert_next_passes(&mut world, &client, &server);
    world.assert_empty(&[&client, &server]);
}

#[test]
fn what_follows_an_offer_is_bounded_counted_and_handed_on_in_order() {
    for (request, reply) in [(UPGRADE, SWITCHED), (CONNECT, ESTABLISHED)] {
        for piece in [37, 4000, 100_000] {
            let mut world = World::calm(Vec::new());
            let client = world.dial();
            let server = world.ask(&client, request);
            assert_eq!(server.read(), request);
            let said: Vec<u8> = (0..4_000_000_u32).map(|i| (i % 251) as u8).collect();
            said.chunks(piece).for_each(|piece| client.write(piece));
            world.run(SECOND);
            let unsent = client.state().unsent_bytes;
            assert!(unsent > 2_000_000, "it is read no further: {unsent}");
            let held = world.held_bytes();
            assert!((200_000..1_000_000).contains(&held), "{held}");
            assert!(world.counters().held_limit_reached > 0);
            server.write(reply);
            world.run(60 * SECOND);
            assert!(server.read() == said, "in order, once");
            assert_eq!((client.read(), world.held_bytes()), (reply.to_vec(), 0));
            world.assert_empty(&[&client, &server]);
        }
    }
}

#[test]
fn the_end_of_a_client_stays_behind_what_is_parked() {
    let mut world = World::calm(Vec::new());
    let client = world.dial();
    let server = world.ask(&client, &[UPGRADE, b"hello"].concat());
    client.shutdown_write();
    world.settle();
    assert!(!server.state().eof);
    server.write(SWITCHED);
    world.settle();
    assert!(server.state().eof);
    assert_eq!(server.read(), [UPGRADE, b"hello"].concat());
    server.write(b"bye");
    server.shutdown_write();
    world.settle();
    assert_eq!(client.read(), [SWITCHED, b"bye"].concat());
    assert_eq!(world.connections(), 0);
    // An upstream that ends without an answer ends everything.
    let client = world.dial();
    let server = world.ask(&client, &[UPGRADE, &[7; 600_000]].concat());
    server.shutdown_write();
    world.run(SECOND);
    assert!(client.state().eof);
    assert_eq!((client.state().unsent_bytes, world.held_bytes()), (0, 0));
    client.close();
    world.run(SECOND);
    assert_eq!(world.connections(), 0);
    world.assert_empty(&[&client, &server]);
}
