//! What a change does to a live connection, as README's table says it, on real sockets.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod support;

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::atomic::Ordering;
use std::time::Duration;

use fracas_dataplane::behavior::{KINDS, When};
use fracas_dataplane::clock::Instant;
use fracas_dataplane::protocol::Protocol;
use support::{EchoServer, HttpServer, Proxy, get, read_reply, rules};

#[test]
fn every_cell_of_the_table_has_a_test_here() {
    use When::{NextChunk, NextMessage, Now};
    let cells: Vec<_> = KINDS
        .iter()
        .filter(|kind| kind.built)
        .map(|kind| (kind.name, kind.live_change.bytes, kind.live_change.messages))
        .collect();
    assert_eq!(
        cells,
        [
            ("normal", NextChunk, NextMessage),
            ("delay", NextChunk, NextMessage),
            ("error", NextChunk, NextMessage),
            ("transient", NextChunk, NextMessage),
            ("hang", Now, NextMessage),
            ("blackout", Now, NextMessage),
            ("abort", NextChunk, NextMessage),
            ("reset", Now, NextMessage),
            ("throttle", Now, Now),
            ("slice", Now, Now),
            ("limit", Now, Now),
        ]
    );
}

/// A proxy with a connection that has been used.
fn live_bytes() -> (EchoServer, Proxy, TcpStream) {
    let server = EchoServer::start();
    let proxy = Proxy::start(server.address, Protocol::Tcp, Vec::new());
    let mut client = proxy.connect();
    assert_eq!(echo(&mut client, b"before").unwrap(), b"before");
    (server, proxy, client)
}

fn live_http() -> (HttpServer, Proxy, TcpStream) {
    let server = HttpServer::start("hello");
    let proxy = Proxy::start(server.address, Protocol::Http, Vec::new());
    let mut client = proxy.connect();
    assert_eq!(get(&mut client, "/before").unwrap().0, 200);
    (server, proxy, client)
}

fn echo(client: &mut TcpStream, bytes: &[u8]) -> std::io::Result<Vec<u8>> {
    client.write_all(bytes)?;
    let mut got = vec![0; bytes.len()];
    client.read_exact(&mut got)?;
    Ok(got)
}

/// Nothing comes, nor does the connection end.
fn assert_silent(client: &mut TcpStream) {
    client.set_read_timeout(Some(Duration::from_millis(30))).unwrap();
    let error = client.read(&mut [0; 1]).expect_err("nothing may come");
    assert_eq!(error.kind(), ErrorKind::WouldBlock);
    client.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
}

fn assert_ended(client: &mut TcpStream) {
    let mut rest = Vec::new();
    let end = client.read_to_end(&mut rest);
    assert_eq!(rest, b"");
    assert!(end.is_ok() || end.unwrap_err().kind() == ErrorKind::ConnectionReset);
}

fn assert_reset(client: &mut TcpStream) {
    assert_eq!(client.read(&mut [0; 1]).unwrap_err().kind(), ErrorKind::ConnectionReset);
}

const HOLD: Duration = Duration::from_millis(80);

fn delay() -> Vec<fracas_dataplane::behavior::Rule> {
    rules("delay", &[("delay", "time", "80ms")])
}

#[test]
fn a_delay_begins_with_the_next_chunk_and_what_is_held_leaves_when_it_was_due() {
    let (_server, proxy, mut client) = live_bytes();
    proxy.apply(delay());
    let before = Instant::now();
    client.write_all(b"held").unwrap();
    while proxy.handle().stats().unwrap().workers.iter().all(|worker| worker.held_bytes == 0) {}
    proxy.apply(Vec::new());
    client.read_exact(&mut [0; 4]).unwrap();
    assert!(Instant::now() - before >= HOLD, "lifting does not hasten what is held");
    assert_eq!(echo(&mut client, b"after").unwrap(), b"after");
    assert_eq!(proxy.injected("delay"), 1, "what came after the lift is not held");
}

#[test]
fn a_delay_begins_with_the_next_message_and_ends_with_the_next() {
    let (_server, proxy, mut client) = live_http();
    proxy.apply(delay());
    let before = Instant::now();
    assert_eq!(get(&mut client, "/").unwrap().0, 200);
    assert!(Instant::now() - before >= HOLD);
    proxy.apply(Vec::new());
    assert_eq!(get(&mut client, "/").unwrap().0, 200);
    assert_eq!(proxy.injected("delay"), 1);
}

#[test]
fn an_error_spoils_the_next_chunk_of_a_reply_and_lifting_it_ends_that() {
    let (_server, proxy, mut client) = live_bytes();
    proxy.apply(rules("error", &[]));
    assert_eq!(proxy.injected("error"), 0, "there was no chunk yet");
    client.write_all(&[7; 64]).unwrap();
    let mut got = vec![0; 4096];
    let length = client.read(&mut got).unwrap();
    assert!(length > 0 && got[..length] != [7; 64]);
    // All of the garbage has been sent before the rule goes.
    assert_eq!(proxy.injected("error"), 1);
    proxy.apply(rules("normal", &[]));
    client.write_all(b"the end").unwrap();
    let mut rest = got[..length].to_vec();
    while !rest.ends_with(b"the end") {
        let length = client.read(&mut got).unwrap();
        assert!(length > 0);
        rest.extend(&got[..length]);
    }
}

#[test]
fn an_error_answers_the_next_message_and_lifting_it_ends_that() {
    let (server, proxy, mut client) = live_http();
    proxy.apply(rules("error", &[("error", "codes", "503")]));
    assert_eq!(get(&mut client, "/").unwrap().0, 503);
    proxy.apply(rules("normal", &[]));
    assert_eq!(get(&mut client, "/").unwrap().0, 200);
    assert_eq!(server.requests.load(Ordering::SeqCst), 2);
}

#[test]
fn a_message_that_had_begun_before_the_change_is_left_alone() {
    let (server, proxy, mut client) = live_http();
    client.write_all(b"GET /begun HTTP/1.1\r\nHo").unwrap();
    // The worker has read the first part when it has counted it.
    while proxy.handle().stats().unwrap().proxies["test"].counters.request_bytes
        < ("GET /before HTTP/1.1\r\nHost: test\r\n\r\n".len() + "GET /begun HTTP/1.1\r\nHo".len()) as u64
    {
        std::thread::yield_now();
    }
    proxy.apply(rules("error", &[("error", "codes", "503")]));
    client.write_all(b"st: test\r\n\r\n").unwrap();
    let (status, head, _) = read_reply(&mut client).unwrap();
    assert!(status == 200 && head.contains("X-Path: /begun\r\n"), "{head}");
    assert_eq!(get(&mut client, "/next").unwrap().0, 503);
    assert_eq!(server.requests.load(Ordering::SeqCst), 2);
}

#[test]
fn a_transient_fails_the_next_ones_and_then_passes() {
    let (_server, proxy, mut client) = live_http();
    proxy.apply(rules("transient", &[("transient", "agitate", "2")]));
    let statuses: Vec<u16> = (0..3).map(|_| get(&mut client, "/").unwrap().0).collect();
    assert!(statuses[0] >= 500 && statuses[1] >= 500 && statuses[2] == 200, "{statuses:?}");

    let (_server, proxy, mut client) = live_bytes();
    proxy.apply(rules("transient", &[("transient", "inject", "true")]));
    client.write_all(b"spoiled").unwrap();
    let mut got = vec![0; 107];
    client.read_exact(&mut got).unwrap();
    assert_eq!(echo(&mut client, b"passes").unwrap(), b"passes");
}

#[test]
fn a_hang_on_plain_bytes_begins_now_and_lifting_it_closes() {
    let (server, proxy, mut client) = live_bytes();
    proxy.apply(rules("hang", &[]));
    assert_eq!(proxy.injected("hang"), 0, "it has swallowed nothing yet");
    client.write_all(b"lost").unwrap();
    assert_silent(&mut client);
    assert_eq!(proxy.injected("hang"), 1);
    proxy.apply(Vec::new());
    assert_ended(&mut client);
    assert_eq!(server.bytes.load(Ordering::SeqCst), "before".len());
}

#[test]
fn a_hang_swallows_the_next_message_and_lifting_it_closes() {
    let (server, proxy, mut client) = live_http();
    proxy.apply(rules("hang", &[]));
    assert_eq!(proxy.injected("hang"), 0, "there was no message yet");
    client.write_all(b"GET / HTTP/1.1\r\nHost: test\r\n\r\n").unwrap();
    assert_silent(&mut client);
    assert_eq!(proxy.injected("hang"), 1);
    proxy.apply(Vec::new());
    assert_ended(&mut client);
    assert_eq!(server.requests.load(Ordering::SeqCst), 1);
}

#[test]
fn a_hang_that_was_lifted_before_the_next_message_never_was() {
    let (_server, proxy, mut client) = live_http();
    proxy.apply(rules("hang", &[]));
    proxy.apply(Vec::new());
    assert_eq!(get(&mut client, "/").unwrap().0, 200);
    assert_eq!(proxy.injected("hang"), 0);
}

#[test]
fn a_blackout_closes_plain_connections_now_and_others_at_their_next_message() {
    let (_server, proxy, mut client) = live_bytes();
    proxy.apply(rules("blackout", &[]));
    assert_ended(&mut client);
    proxy.apply(Vec::new());
    assert_eq!(echo(&mut proxy.connect(), b"again").unwrap(), b"again");

    let (server, proxy, mut client) = live_http();
    proxy.apply(rules("blackout", &[]));
    assert_silent(&mut client);
    client.write_all(b"GET / HTTP/1.1\r\nHost: test\r\n\r\n").unwrap();
    assert_ended(&mut client);
    assert_eq!(server.requests.load(Ordering::SeqCst), 1);
}

#[test]
fn an_abort_lets_the_next_chunk_or_message_through_and_no_reply_back() {
    let (server, proxy, mut client) = live_bytes();
    proxy.apply(rules("abort", &[]));
    assert_silent(&mut client);
    client.write_all(b"request").unwrap();
    assert_ended(&mut client);
    while server.bytes.load(Ordering::SeqCst) < "beforerequest".len() {
        std::thread::yield_now();
    }

    let (server, proxy, mut client) = live_http();
    proxy.apply(rules("abort", &[]));
    assert_silent(&mut client);
    client.write_all(b"GET / HTTP/1.1\r\nHost: test\r\n\r\n").unwrap();
    assert_ended(&mut client);
    while server.requests.load(Ordering::SeqCst) < 2 {
        std::thread::yield_now();
    }
}

#[test]
fn an_abort_that_was_lifted_before_the_next_chunk_or_message_never_was() {
    let (_server, proxy, mut client) = live_bytes();
    proxy.apply(rules("abort", &[]));
    proxy.apply(Vec::new());
    assert_eq!(echo(&mut client, b"passes").unwrap(), b"passes");

    let (_server, proxy, mut client) = live_http();
    proxy.apply(rules("abort", &[]));
    proxy.apply(Vec::new());
    assert_eq!(get(&mut client, "/").unwrap().0, 200);
}

#[test]
fn a_reset_reaches_plain_connections_now_and_others_at_their_next_message() {
    let (_server, proxy, mut client) = live_bytes();
    proxy.apply(rules("reset", &[]));
    assert_reset(&mut client);

    let (_server, proxy, mut client) = live_http();
    proxy.apply(rules("reset", &[]));
    assert_silent(&mut client);
    client.write_all(b"GET / HTTP/1.1\r\nHost: test\r\n\r\n").unwrap();
    assert_reset(&mut client);
}

#[test]
fn a_reset_that_was_lifted_before_its_bytes_had_passed_never_was() {
    let (_server, proxy, mut client) = live_bytes();
    proxy.apply(rules("reset", &[("reset", "after", "64KiB")]));
    assert_eq!(echo(&mut client, &[1; 1000]).unwrap(), [1; 1000]);
    proxy.apply(Vec::new());
    assert_eq!(echo(&mut client, &[2; 100_000]).unwrap(), [2; 100_000]);
}

#[test]
fn a_throttle_begins_now_and_lifting_it_lets_go_of_what_waits_now() {
    let stop = || rules("throttle", &[("throttle", "rate", "0")]);
    let (_server, proxy, mut client) = live_bytes();
    proxy.apply(stop());
    client.write_all(b"stalled").unwrap();
    assert_silent(&mut client);
    proxy.apply(rules("normal", &[]));
    let mut got = [0; 7];
    client.read_exact(&mut got).unwrap();
    assert_eq!(&got, b"stalled");

    let (_server, proxy, mut client) = live_http();
    proxy.apply(stop());
    client.write_all(b"GET /stalled HTTP/1.1\r\nHost: test\r\n\r\n").unwrap();
    assert_silent(&mut client);
    proxy.apply(rules("normal", &[]));
    assert!(read_reply(&mut client).unwrap().1.contains("X-Path: /stalled\r\n"));
}

#[test]
fn a_slice_begins_now_and_lifting_it_lets_go_of_what_waits_now() {
    let slice = || rules("slice", &[("slice", "size", "3"), ("slice", "gap", "1h")]);
    let (_server, proxy, mut client) = live_bytes();
    proxy.apply(slice());
    client.write_all(b"sliced").unwrap();
    let mut got = [0; 6];
    client.read_exact(&mut got[..3]).unwrap();
    assert_silent(&mut client);
    proxy.apply(Vec::new());
    client.read_exact(&mut got[3..]).unwrap();
    assert_eq!(&got, b"sliced");

    let (_server, proxy, mut client) = live_http();
    proxy.apply(slice());
    client.write_all(b"GET /sliced HTTP/1.1\r\nHost: test\r\n\r\n").unwrap();
    assert_silent(&mut client);
    proxy.apply(Vec::new());
    assert!(read_reply(&mut client).unwrap().1.contains("X-Path: /sliced\r\n"));
}

#[test]
fn a_limit_counts_from_now_and_lifting_it_ends_the_count() {
    let limit = || rules("limit", &[("limit", "bytes", "4"), ("limit", "side", "reply")]);
    let (_server, proxy, mut client) = live_bytes();
    proxy.apply(limit());
    assert_eq!(echo(&mut client, b"one").unwrap(), b"one");
    proxy.apply(Vec::new());
    assert_eq!(echo(&mut client, b"two and more").unwrap(), b"two and more");
    proxy.apply(limit());
    client.write_all(b"ended here").unwrap();
    let mut got = [0; 4];
    client.read_exact(&mut got).unwrap();
    assert_eq!(&got, b"ende");
    assert_ended(&mut client);
    assert_eq!(proxy.injected("limit"), 1);

    let (_server, proxy, mut client) = live_http();
    proxy.apply(limit());
    client.write_all(b"GET / HTTP/1.1\r\nHost: test\r\n\r\n").unwrap();
    client.read_exact(&mut got).unwrap();
    assert_eq!(&got, b"HTTP");
    assert_ended(&mut client);
}

#[test]
fn a_throttle_reaches_what_waits_behind_a_delay_already() {
    let (_server, proxy, mut client) = live_bytes();
    proxy.apply(delay());
    client.write_all(b"held").unwrap();
    while proxy.handle().stats().unwrap().workers.iter().all(|worker| worker.held_bytes == 0) {}
    proxy.apply(rules("throttle", &[("throttle", "rate", "0")]));
    client.set_read_timeout(Some(HOLD * 2)).unwrap();
    assert_eq!(client.read(&mut [0; 1]).unwrap_err().kind(), ErrorKind::WouldBlock);
}
