//! Errors and aborts, whatever the client waits for.

use super::*;

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
