//! Odd replies, replies without an end, and nonsense: framed, handed on, or refused.

use super::*;

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
