//! The origin on the kernel ring.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod support;

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

use fracas_dataplane::clock::Instant;
use fracas_dataplane::origin::{Limits, Origin, OriginError, OriginSettings};
use support::{get, read_reply};

fn connect(origin: &Origin) -> TcpStream {
    let stream = TcpStream::connect(origin.local_addr()).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    stream
}

#[test]
fn paths_ask_for_status_bytes_and_delay() {
    let origin = Origin::start(OriginSettings { threads: 2, ..Default::default() }).unwrap();
    let mut client = connect(&origin);
    assert_eq!(get(&mut client, "/").unwrap().2, b"fracas origin\n");
    assert_eq!(get(&mut client, "/status/503").unwrap().0, 503);
    assert_eq!(get(&mut client, "/bytes/300000").unwrap().2.len(), 300_000);
    let before = Instant::now();
    assert_eq!(get(&mut client, "/delay/30ms").unwrap().0, 200);
    assert!(Instant::now() - before >= Duration::from_millis(30));
    assert_eq!(origin.answered(), 4);
}

#[test]
fn a_pipeline_in_pieces_is_answered_in_order() {
    let origin = Origin::start(OriginSettings::default()).unwrap();
    let mut client = connect(&origin);
    let mut bytes = Vec::new();
    for code in [201, 202, 203] {
        bytes.extend(
            format!("POST /status/{code} HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello").bytes(),
        );
    }
    for piece in bytes.chunks(7) {
        client.write_all(piece).unwrap();
    }
    for code in [201, 202, 203] {
        assert_eq!(read_reply(&mut client).unwrap().0, code);
    }
    client.write_all(b"HEAD / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").unwrap();
    let mut rest = String::new();
    client.read_to_string(&mut rest).unwrap();
    assert!(rest.contains("Content-Length: 14") && rest.ends_with("\r\n\r\n"), "{rest}");
}

#[test]
fn a_freeze_answers_afterwards() {
    let origin = Origin::start(OriginSettings::default()).unwrap();
    let mut client = connect(&origin);
    let before = Instant::now();
    origin.freeze(Duration::from_millis(100));
    get(&mut client, "/").unwrap();
    assert!(Instant::now() - before >= Duration::from_millis(100));
}

#[test]
fn an_echo_returns_everything_then_ends() {
    let origin = Origin::start(OriginSettings { echo: true, ..Default::default() }).unwrap();
    let mut client = connect(&origin);
    let mut reader = client.try_clone().unwrap();
    let sent: Vec<u8> = (0..2_000_000u32).map(|i| (i % 251) as u8).collect();
    let expected = sent.clone();
    let thread = std::thread::spawn(move || {
        let mut got = Vec::new();
        reader.read_to_end(&mut got).unwrap();
        assert!(got == expected);
    });
    client.write_all(&sent).unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    thread.join().unwrap();
}

#[test]
fn nonsense_is_answered_400() {
    let origin = Origin::start(OriginSettings::default()).unwrap();
    let mut client = connect(&origin);
    client.write_all(b"\x16\x03\x01 not http\r\n\r\n").unwrap();
    assert_eq!(read_reply(&mut client).unwrap().0, 400);
}

/// Writes until the other side takes no more.
fn write_all_it_takes(client: &mut TcpStream, bytes: &[u8]) {
    client.set_write_timeout(Some(Duration::from_millis(50))).unwrap();
    for _ in 0..200 {
        match client.write(bytes) {
            Ok(_) => {}
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => return,
            Err(error) => panic!("{error}"),
        }
    }
}

/// Resident anonymous memory of this process in bytes.
fn anonymous_bytes() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("RssAnon:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() * 1024
}

#[test]
fn fifty_clients_that_read_nothing_take_neither_memory_nor_the_turn_of_others() {
    for echo in [false, true] {
        let origin = Origin::start(OriginSettings { echo, ..Default::default() }).unwrap();
        let before = anonymous_bytes();
        let _greedy: Vec<TcpStream> = (0..50)
            .map(|_| {
                let mut client = connect(&origin);
                if echo {
                    write_all_it_takes(&mut client, &[b'x'; 64 * 1024]);
                } else {
                    client.write_all(&b"GET /bytes/67108864 HTTP/1.1\r\nHost: x\r\n\r\n".repeat(40)).unwrap();
                }
                client
            })
            .collect();
        let mut good = connect(&origin);
        if echo {
            good.write_all(b"hello").unwrap();
            let mut reply = [0; 5];
            good.read_exact(&mut reply).unwrap();
            assert_eq!(&reply, b"hello");
        } else {
            assert_eq!(get(&mut good, "/").unwrap().2, b"fracas origin\n");
        }
        // The pools of one ring and 50 times what a connection may hold; it took 64 MiB for each request.
        let grown = anonymous_bytes().saturating_sub(before);
        assert!(grown < 160 << 20, "{} MiB (echo: {echo})", grown >> 20);
    }
}

#[test]
fn more_connections_than_the_process_may_have_are_refused_at_once() {
    let limits = Limits { connections_max: Some(usize::MAX), ..Limits::default() };
    let refused = Origin::start(OriginSettings { limits, ..Default::default() }).map(|_| ()).unwrap_err();
    assert!(matches!(refused, OriginError::Connections { .. }), "{refused}");
    assert!(refused.to_string().contains("ulimit -n"), "{refused}");
}
