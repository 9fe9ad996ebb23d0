//! HTTP through a proxy whose rules change at the worst moment, in virtual time: a flip breaks nothing but what it is
//! about, what is odd keeps its faults, and what cannot be framed ends.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

#[path = "support/http_world.rs"]
mod http_world;

use std::time::Duration;

use fracas_dataplane::behavior::{Rule, Scope};
use fracas_dataplane::proxy::EventKind;
use fracas_dataplane::ring::simulated::Peer;
use http_world::{World, rules};

const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
const OK: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
const UPGRADE: &[u8] = b"GET /chat HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n";
const SWITCHED: &[u8] = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n";
const CONNECT: &[u8] = b"CONNECT b:443 HTTP/1.1\r\nHost: b:443\r\n\r\n";
const ESTABLISHED: &[u8] = b"HTTP/1.1 200 Connection Established\r\n\r\n";
const SECOND: Duration = Duration::from_secs(1);

fn error() -> Vec<Rule> {
    rules("error", &[("error", "codes", "503")])
}

fn delay(side: &str) -> Vec<Rule> {
    rules("delay", &[("delay", "time", "100ms"), ("delay", "side", side)])
}

/// All of them act together.
fn both(one: Vec<Rule>, other: Vec<Rule>) -> Vec<Rule> {
    one.into_iter().chain(other).map(|rule| Rule { group: None, ..rule }).collect()
}

/// Everything that acts on messages.
fn message_rules() -> Vec<Vec<Rule>> {
    ["error", "transient", "hang", "blackout", "abort", "reset"]
        .iter()
        .map(|behavior| rules(behavior, &[]))
        .chain([delay("both")])
        .collect()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// What the client has got is the bytes `before`, then one whole injected error.
fn assert_then_503(got: &[u8], before: &[u8]) {
    assert!(got.starts_with(before), "{}", text(got));
    let error = text(&got[before.len()..]);
    assert!(
        error.starts_with("HTTP/1.1 503 ") && error.ends_with("\"injected_by\":\"fracas\"}\n"),
        "{error}"
    );
    assert_eq!(error.matches("HTTP/1.1").count(), 1, "{error}");
}

/// The next request on the connection is answered by the rule, and no byte of it reaches the server.
fn assert_next_is_an_error(world: &mut World, client: &Peer, server: &Peer) {
    client.read();
    server.read();
    client.write(GET);
    world.settle();
    assert_then_503(&client.read(), b"");
    assert_eq!(server.read(), b"");
}

/// The next request and its reply pass.
fn assert_next_passes(world: &mut World, client: &Peer, server: &Peer) {
    client.write(GET);
    world.settle();
    assert_eq!(text(&server.read()), text(GET));
    server.write(OK);
    world.settle();
    assert_eq!(text(&client.read()), text(OK));
}

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
fn an_error_to_a_client_that_waits_for_100_closes_and_to_one_that_does_not_stays_in_step() {
    let head = b"POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n";
    let mut world = World::calm(error());
    let client = world.dial();
    client.write(head);
    world.settle();
    let got = client.read();
    assert_then_503(&got, b"");
    assert!(text(&got).contains("\r\nConnection: close\r\n"), "it must know that no request can follow");
    assert!(client.state().eof);
    // Whatever it sends now is dropped.
    client.write(&[&b"hello"[..], GET].concat());
    world.settle();
    assert_eq!(client.read(), b"");
    client.close();
    // The body came with the head, or there is none: the next request can be found.
    let no_body = b"POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 0\r\n\r\n";
    let http10 =
        b"POST / HTTP/1.0\r\nConnection: keep-alive\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n";
    for (first, rest) in [
        (&[&head[..], b"he"].concat()[..], &b"llo"[..]),
        (&[&head[..], b"hello"].concat(), b""),
        (no_body, b""),
        (http10, b"hello"),
    ] {
        let client = world.dial();
        client.write(first);
        world.settle();
        let got = client.read();
        assert!(
            text(&got).contains(" 503 ") && !text(&got).contains("\r\nConnection: close\r\n"),
            "{}",
            text(&got)
        );
        client.write(&[rest, GET].concat());
        world.settle();
        assert_then_503(&client.read(), b"");
        assert!(!client.state().eof);
        client.close();
    }
    assert!(world.server.accept().is_none(), "the upstream is not contacted");
    world.assert_empty(&[]);
}

#[test]
fn an_abort_closes_both_sides_whatever_the_client_waits_for() {
    let expect = b"POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n";
    for (request, reply) in [
        (GET, &b""[..]),
        (UPGRADE, b""),
        (CONNECT, b""),
        (expect, b""),
        (expect, b"HTTP/1.1 417 Expectation Failed\r\nContent-Length: 0\r\n\r\n"),
        (expect, OK),
    ] {
        let mut world = World::calm(rules("abort", &[]));
        let client = world.dial();
        let server = world.ask(&client, request);
        if !reply.is_empty() {
            server.write(reply);
        }
        world.run(3 * SECOND);
        assert!(client.state().eof && server.state().eof, "{}", text(request));
        // Neither ends on its side; they are not waited for.
        world.run(10 * SECOND);
        assert_eq!((text(&server.read()), text(&client.read())), (text(request), String::new()));
        assert_eq!((world.connections(), world.counters().protocol_errors), (0, 0));
        world.assert_empty(&[&client, &server]);
    }
    // A client that is told to go on sends all of the request.
    let mut world = World::calm(rules("abort", &[]));
    let client = world.dial();
    let server = world.ask(&client, expect);
    server.write(b"HTTP/1.1 100 Continue\r\n\r\n");
    world.run(Duration::from_millis(100));
    assert_eq!(client.read(), b"HTTP/1.1 100 Continue\r\n\r\n");
    client.write(b"hel");
    // A slow upload is no wait.
    world.run(10 * SECOND);
    assert!(!client.state().eof);
    client.write(b"lo");
    world.settle();
    assert!(client.state().eof && server.state().eof);
    assert_eq!(server.read(), [&expect[..], b"hello"].concat());
    world.assert_empty(&[&client, &server]);
}

#[test]
fn an_abort_leaves_the_replies_before_it_alone() {
    for connection_scope in [false, true] {
        let mut world = World::calm(Vec::new());
        let (client, server) = world.pair();
        client.write(GET);
        world.settle();
        let mut abort = rules("abort", &[]);
        abort[0].scope = connection_scope.then_some(Scope::Connection);
        world.set_rules(abort);
        client.write(GET);
        client.write(GET);
        world.settle();
        assert_eq!(server.read(), [GET, GET].concat(), "what follows an aborted request is not sent");
        assert!(!client.state().eof);
        server.write(&[OK, OK].concat());
        world.settle();
        assert_eq!(text(&client.read()), text(OK));
        assert!(client.state().eof && server.state().eof);
        world.assert_empty(&[&client, &server]);
    }
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

/// Replies that are odd and pass every browser, each with the method that it answers.
fn odd_replies() -> Vec<(&'static str, Vec<u8>)> {
    let fields = |count: usize| "X-Field: value\r\n".repeat(count);
    let own = |(method, reply): (&'static str, &str)| (method, reply.as_bytes().to_vec());
    let mut all: Vec<_> = [
        ("GET", "HTTP/1.1 200 OK\r\nX-A: b\r\n folded\r\nContent-Length: 2\r\n\r\nok"),
        ("GET", "HTTP/1.1 200 OK\r\nContent-Length:\r\n\t2\r\n\r\nok"),
        ("GET", "HTTP/1.1 200 OK\nContent-Length: 2\n\nok"),
        ("GET", "HTTP/1.1 200 OK\nContent-Length: 2\r\n\r\nok"),
        ("GET", "HTTP/1.1 200 OK\r\nContent-Length: 9\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"),
        ("GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2 \nok\n0\nno colon\n\n"),
        ("GET", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nok"),
        ("GET", "HTTP/1.1 200 OK\r\nContent-Length : 2\r\nbroken line\r\nNul: \0\r\n\r\nok"),
        ("GET", "\r\nHTTP/1.1  200\r\nContent-Length: 2\r\n\r\nok"),
        ("GET", "HTTP/1.1 204 No Content\r\nContent-Length: 2\r\n\r\nok"),
        ("GET", "HTTP/1.1 304 Not Modified\r\nContent-Length: 2\r\n\r\nok"),
        ("GET", "HTTP/1.1 304 Not Modified\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"),
        ("HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"),
        ("HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n"),
        ("GET", "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"),
        ("GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: identity\r\nContent-Length: 2\r\n\r\nok"),
    ]
    .into_iter()
    .map(own)
    .collect();
    for head in [fields(129), fields(5000), format!("X-Long: {}\r\n", "x".repeat(200_000))] {
        all.push(("GET", format!("HTTP/1.1 200 OK\r\n{head}Content-Length: 2\r\n\r\nok").into_bytes()));
    }
    all
}

#[test]
fn odd_replies_keep_their_faults_and_lose_no_byte() {
    for (method, reply) in odd_replies() {
        let whole: Vec<&[u8]> = vec![&reply];
        let bytewise: Vec<&[u8]> = reply.chunks(1).collect();
        let in_pieces: Vec<&[u8]> = reply.chunks(reply.len().div_ceil(3)).collect();
        for pieces in [whole, in_pieces, bytewise] {
            if pieces.len() > 1000 {
                continue;
            }
            let mut world = World::calm(Vec::new());
            let (client, server) = world.pair();
            let request = format!("{method} / HTTP/1.1\r\nHost: a\r\n\r\n");
            client.write(request.as_bytes());
            world.settle();
            world.set_rules(error());
            client.write(GET);
            world.settle();
            for piece in pieces {
                server.write(piece);
                world.run(Duration::from_millis(1));
            }
            world.settle();
            let got = client.read();
            // The error follows where the reply ends for its client, which a body that must not be there may follow.
            let error = text(&got);
            let error = &error[error.find("HTTP/1.1 503 ").expect("the error is sent")..];
            let error = &error[..error.find("}\n").unwrap() + 2];
            let rest = text(&got).replacen(error, "", 1);
            assert_eq!(rest, text(&reply), "no byte is lost");
            assert_eq!(server.read(), request.as_bytes());
            assert_next_is_an_error(&mut world, &client, &server);
            world.set_rules(Vec::new());
            assert_next_passes(&mut world, &client, &server);
            assert_eq!(world.counters().protocol_errors, 0);
            world.assert_empty(&[&client, &server]);
        }
    }
}

#[test]
fn replies_whose_end_nobody_knows_are_handed_on_and_end_the_connection() {
    for reply in [
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nokk",
        "HTTP/1.1 200 OK\r\nContent-Length: two\r\n\r\nok",
        "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked, gzip\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        "HTTP/1.1 099 Low\r\nContent-Length: 2\r\n\r\nok",
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\nok",
        "220 mail.example ready\r\n",
        "<html>no head at all</html>\n",
        &format!("HTTP/1.1 200 OK\r\nContent-Length:{}2\r\n\r\nok", " ".repeat(17 * 1024)),
    ] {
        let (front, back) = reply.split_at(reply.len() - 2);
        for ends in [false, true] {
            let mut world = World::calm(Vec::new());
            let (client, server) = world.pair();
            client.write(&[GET, GET].concat());
            world.settle();
            server.write(front.as_bytes());
            world.run(SECOND / 2);
            server.write(back.as_bytes());
            if ends {
                server.shutdown_write();
            }
            world.run(SECOND / 2);
            // No request can be answered any more.
            client.write(GET);
            world.run(5 * SECOND);
            assert_eq!(text(&client.read()), reply);
            assert!(client.state().eof, "{reply}");
            assert_eq!(server.read(), [GET, GET].concat());
            assert_eq!(world.counters().protocol_errors, 1);
            let told: Vec<String> = world
                .events()
                .iter()
                .filter(|event| event.kind == EventKind::NaturalFailure)
                .map(|event| event.detail.to_string())
                .collect();
            assert!(told.len() == 1 && told[0].starts_with("upstream: not a valid reply: "), "{told:?}");
            world.assert_empty(&[&client, &server]);
        }
    }
    // One that never ends is cut.
    let mut world = World::calm(Vec::new());
    let (client, server) = world.pair();
    client.write(GET);
    world.settle();
    server.write(b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n");
    for _ in 0..40 {
        server.write(b"more");
        world.run(SECOND / 2);
    }
    assert!(client.state().eof);
    assert!(client.read().len() > 60, "it is handed on for a while");
    world.assert_empty(&[&client, &server]);
}

#[test]
fn a_reply_that_nobody_asked_for_is_handed_on_and_ends_the_connection() {
    let late = b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Length: 4\r\n\r\nlate";
    for closes in [true, false] {
        let mut world = World::calm(error());
        world.set_rules(Vec::new());
        let (client, server) = world.pair();
        server.write(&late[..30]);
        world.settle();
        server.write(&late[30..]);
        if closes {
            server.shutdown_write();
        }
        world.settle();
        assert_eq!(text(&client.read()), text(late));
        assert!(client.state().eof);
        client.write(GET);
        world.settle();
        assert_eq!(server.read(), b"", "its reply would be taken for another's");
        world.assert_empty(&[&client, &server]);
    }
}

#[test]
fn nonsense_behind_a_forwarded_head_is_answered_and_ends_the_connection() {
    let head = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
    let endless_extension = [&b"5;"[..], &b"x".repeat(10_000)].concat();
    let endless_trailers = [&b"0\r\n"[..], &b"a: b\r\n".repeat(10_000)].concat();
    for nonsense in [&b"zz\r\n"[..], b"5\r\nhello!", b"5\nhello", &endless_extension, &endless_trailers] {
        for earlier in [false, true] {
            let mut world = World::calm(Vec::new());
            let (client, server) = world.pair();
            if earlier {
                client.write(GET);
            }
            client.write(head);
            world.settle();
            client.write(nonsense);
            world.run(SECOND);
            if earlier {
                assert_eq!(client.received_bytes(), 0, "the 400 waits for its turn");
                server.write(OK);
                world.settle();
            }
            let got = text(&client.read());
            let before = if earlier { text(OK) } else { String::new() };
            let got = got.strip_prefix(&before).unwrap().to_owned();
            assert!(
                got.starts_with("HTTP/1.1 400 Bad Request\r\n") && got.matches("HTTP/1.1").count() == 1,
                "{got}"
            );
            assert!(client.state().eof);
            assert_eq!(world.counters().protocol_errors, 1);
            let told = world.events().pop().unwrap().detail.to_string();
            assert!(told.starts_with("client: not a valid request: "), "{told}");
            // The upstream, which has a part of the request, may say what it likes.
            server.write(OK);
            world.settle();
            assert_eq!(client.read(), b"");
            world.assert_empty(&[&client, &server]);
        }
    }
    // Its reply has begun, or was made here: no second one is put into it.
    let mut world = World::calm(Vec::new());
    let (client, server) = world.pair();
    client.write(head);
    world.settle();
    server.write(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhel");
    world.settle();
    client.write(b"zz\r\n");
    world.settle();
    assert!(client.read().ends_with(b"\r\n\r\nhel") && client.state().eof);
    world.assert_empty(&[&client, &server]);
    let mut world = World::calm(error());
    let client = world.dial();
    client.write(head);
    client.write(b"zz\r\n");
    world.settle();
    assert_then_503(&client.read(), b"");
    assert!(client.state().eof);
    world.assert_empty(&[&client]);
}

#[test]
fn nonsense_in_the_chunks_of_a_reply_and_endless_parts_end_the_connection() {
    let endless =
        |front: &str, part: &[u8]| [front.as_bytes(), &part.repeat(3_000_000 / part.len())].concat();
    let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    for reply in [
        format!("{chunked}2\r\nok\r\nzz\r\n").into_bytes(),
        format!("{chunked}2\r\nokk").into_bytes(),
        endless(&format!("{chunked}5;"), b"x"),
        endless(&format!("{chunked}0\r\n"), b"a: b\r\n"),
        endless("HTTP/1.1 200 OK\r\n", b"a: b\r\n"),
        endless("HTTP/1.1 200 OK\r\nA: ", b"x"),
    ] {
        let mut world = World::calm(Vec::new());
        let (client, server) = world.pair();
        client.write(GET);
        world.settle();
        server.write(&reply);
        world.run(30 * SECOND);
        let got = client.read();
        assert!(reply.starts_with(&got) && got.len() >= reply.len().min(10_000), "{}", got.len());
        assert!(client.state().eof);
        assert_eq!((world.counters().protocol_errors, world.held_bytes()), (1, 0));
        world.assert_empty(&[&client, &server]);
    }
}

#[test]
fn what_is_no_request_is_answered_400_and_closes() {
    for nonsense in [
        "\x16\x03\x01\x02\0",
        "GET /\r\n\r\n",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        "hello\r\n",
        // RFC 9112 §3.2: for which host it is must be said, once.
        "GET / HTTP/1.1\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nhost: b\r\nContent-Length: 2\r\n\r\nok",
        "GET / HTTP/1.1\r\nHost: a b\r\n\r\n",
        "GET http://b/ HTTP/1.1\r\nHost: a\r\n\r\n",
        "CONNECT a HTTP/1.1\r\nHost: a\r\n\r\n",
    ] {
        let mut world = World::calm(Vec::new());
        let client = world.dial();
        client.write(nonsense.as_bytes());
        world.settle();
        assert!(client.read().starts_with(b"HTTP/1.1 400 Bad Request\r\n"), "{nonsense:?}");
        assert!(client.state().eof);
        assert_eq!(world.counters().protocol_errors, 1);
        let told: Vec<String> = world.events().iter().map(|event| event.detail.to_string()).collect();
        assert!(told.len() == 1 && told[0].starts_with("client: not a valid request: "), "{told:?}");
        assert!(world.server.accept().is_none());
        world.assert_empty(&[&client]);
    }
}

#[test]
fn a_request_behind_a_good_one_that_names_no_host_is_refused_in_its_turn() {
    let mut world = World::calm(Vec::new());
    let (client, server) = world.pair();
    client.write(&[GET, b"GET /2 HTTP/1.1\r\n\r\n", GET].concat());
    world.settle();
    assert_eq!(server.read(), GET);
    server.write(OK);
    world.settle();
    let got = text(&client.read());
    assert!(got.starts_with(&text(OK)) && got.contains("HTTP/1.1 400 Bad Request\r\n"), "{got}");
    assert!(client.state().eof);
    server.shutdown_write();
    world.run(6 * SECOND);
    world.assert_empty(&[&client, &server]);
}

#[test]
fn http_1_0_needs_no_host() {
    let mut world = World::calm(Vec::new());
    let (client, server) = world.pair();
    let request = b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n";
    client.write(request);
    world.settle();
    assert_eq!(server.read(), request);
    server.write(OK);
    world.settle();
    assert_eq!((client.read(), world.counters().protocol_errors), (OK.to_vec(), 0));
}

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
