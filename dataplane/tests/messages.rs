//! HTTP through a proxy whose rules change at the worst moment, in virtual time: a flip breaks nothing but what it is
//! about, what is odd keeps its faults, and what cannot be framed ends.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

#[path = "messages/aborts.rs"]
mod aborts;
#[path = "messages/endings.rs"]
mod endings;
#[path = "messages/framing.rs"]
mod framing;
#[path = "support/http_world.rs"]
mod http_world;
#[path = "messages/offers.rs"]
mod offers;

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
