//! HTTP clients and servers that talk through a proxy while its rules flip, all by choices that a fuzzer or a seed makes.
//!
//! Each client asks what only it would ask, each server answers by the request's own words, so that whoever reads the
//! bytes knows what must stand there: a server gets whole requests, in order, or the beginning of one; a client gets the
//! reply to each request or an injected error, in order, and the bytes of its own tunnel. What waits in the proxy is
//! bounded, and at the end, without rules, each client is answered or its connection has ended within a minute.
#![allow(dead_code, clippy::unwrap_used, reason = "each user needs a part; a failed unwrap is a failed test")]

use std::collections::VecDeque;
use std::time::Duration;

use fracas_dataplane::behavior::{Rule, Scope};
use fracas_dataplane::clock::Instant;
use fracas_dataplane::ring::PoolSettings;
use fracas_dataplane::ring::simulated::{Faults, Link, Peer};

use crate::http_world::{Surroundings, World, rules};

const CLIENTS_MAX: usize = 6;
const REQUESTS_MAX: usize = 12;
/// More than a client may say before the reply that makes it a tunnel.
const FLOOD_BYTES: usize = 600_000;
/// What may wait for one connection: both queues at their limits, what is read beyond them, parked bytes and heads.
const HELD_PER_CONNECTION_MAX: usize = 4 * (1 << 20);

/// What a fuzzer or a seed says, one decision a byte; 0 for ever at its end.
struct Choices<'a>(std::slice::Iter<'a, u8>);

impl Choices<'_> {
    fn below(&mut self, count: usize) -> usize {
        usize::from(self.0.next().copied().unwrap_or(0)) % count
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Get,
    Head,
    Post,
    Chunked,
    Expect,
    /// An upgrade, or CONNECT, that is taken up.
    Tunnel,
    /// One that is not.
    Offer,
}

/// One request: its bytes and those of its reply.
struct Request {
    kind: Kind,
    bytes: Vec<u8>,
    head_bytes: usize,
    reply: Vec<u8>,
    /// The server answers when it has read the head.
    early: bool,
    /// The server ends the connection behind its reply.
    ends: bool,
}

/// What a client does next.
enum Next {
    Say(Vec<u8>),
    /// Until `100 Continue`, the reply, or a second later.
    AwaitContinue(usize),
    AwaitReply(usize),
    /// The bytes of its tunnel: if there is one, or without knowing.
    /// Then a 400 may answer them.
    SayInTunnel {
        bytes: Vec<u8>,
        early: bool,
    },
}

struct Client {
    peer: Peer,
    number: usize,
    requests: Vec<Request>,
    script: VecDeque<Next>,
    waits_since: Option<Instant>,
    heard: Vec<u8>,
    /// Bytes of `heard` that are whole replies, and how many requests they answer.
    read: usize,
    answered: usize,
    tunnel: bool,
    said_in_tunnel: Vec<u8>,
    spoke_early: bool,
    finished: bool,
    gave_up: bool,
}

struct ServerEnd {
    peer: Peer,
    heard: Vec<u8>,
    /// Which client it serves, and how many of its requests have been read.
    client: Option<usize>,
    next: usize,
    read: usize,
    replied_to: usize,
    told_to_go_on: usize,
    says: VecDeque<u8>,
    ends: bool,
    tunnel: bool,
    finished: bool,
    gave_up: bool,
}

fn pattern(client: usize, seed: usize, length: usize) -> Vec<u8> {
    let line = format!("GET /{client}/{seed} HTTP/1.1\r\n\r\n0\r\n\r\nHTTP/1.1 200 OK\r\n");
    line.bytes().cycle().take(length).collect()
}

fn chunked(body: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for part in body.chunks(70) {
        bytes.extend(format!("{:x};a=b\r\n", part.len()).bytes());
        bytes.extend(part);
        bytes.extend(b"\r\n");
    }
    bytes.extend(b"0\r\nSum: 1\r\n\r\n");
    bytes
}

/// A reply by `choice`, and whether the server ends behind it. All but the last are framed by every client.
fn reply(kind: Kind, mark: &str, body: &[u8], choice: usize) -> (Vec<u8>, bool) {
    let length = body.len();
    let with_body = |head: String| [head.as_bytes(), body].concat();
    let chunks = chunked(body);
    let (bytes, ends) = match (kind, choice) {
        (Kind::Tunnel, _) => unreachable!("a tunnel has its own reply"),
        (Kind::Head, _) => {
            (format!("HTTP/1.1 200 OK\r\n{mark}Content-Length: 7\r\n\r\n").into_bytes(), false)
        }
        (_, 1) => (
            [format!("HTTP/1.1 200 OK\r\n{mark}Transfer-Encoding: chunked\r\n\r\n").as_bytes(), &chunks]
                .concat(),
            false,
        ),
        (_, 2) => (
            with_body(format!("HTTP/1.1 200 OK\r\n{mark} folded\r\nContent-Length:\r\n {length}\r\n\r\n")),
            false,
        ),
        (_, 3) => (with_body(format!("HTTP/1.1 200 OK\n{mark}Content-Length: {length}\n\n")), false),
        (_, 4) => (
            [
                format!("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n{mark}Transfer-Encoding: chunked\r\n\r\n")
                    .as_bytes(),
                &chunks,
            ]
            .concat(),
            false,
        ),
        (_, 5) => (
            with_body(format!(
                "HTTP/1.1 200 OK\r\n{}{mark}Content-Length: {length}\r\n\r\n",
                mark.repeat(200)
            )),
            false,
        ),
        (_, 6) => (format!("HTTP/1.1 204 No Content\r\n{mark}\r\n").into_bytes(), false),
        (_, 7) => (format!("HTTP/1.1 304 Not Modified\r\n{mark}\r\n").into_bytes(), false),
        (_, 8) => (with_body(format!("HTTP/1.0 200 OK\r\n{mark}\r\n")), true),
        (_, 9) => (
            with_body(format!(
                "HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\n{mark}Content-Length: {length}\r\n\r\n"
            )),
            false,
        ),
        (_, 10) => (with_body(format!("HTTP/1.1 200 OK\r\n{mark}Content-Length: one\r\n\r\n")), true),
        _ => (with_body(format!("HTTP/1.1 200 OK\r\n{mark}Content-Length: {length}\r\n\r\n")), false),
    };
    (bytes, ends)
}

const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

fn request(client: usize, number: usize, choices: &mut Choices) -> Request {
    let kinds = [
        Kind::Get,
        Kind::Get,
        Kind::Head,
        Kind::Post,
        Kind::Chunked,
        Kind::Expect,
        Kind::Offer,
        Kind::Tunnel,
    ];
    let kind = kinds[choices.below(kinds.len())];
    let has_body = matches!(kind, Kind::Post | Kind::Chunked | Kind::Expect)
        || kind == Kind::Offer && choices.below(2) == 0;
    let body =
        if has_body { pattern(client, number, [1, 30, 900, 20_000][choices.below(4)]) } else { Vec::new() };
    let is_connect = matches!(kind, Kind::Tunnel | Kind::Offer) && !has_body && choices.below(2) == 0;
    let method = match kind {
        _ if is_connect => "CONNECT",
        Kind::Head => "HEAD",
        _ if has_body => "POST",
        _ => "GET",
    };
    let target = if is_connect { format!("{client}.{number}:443") } else { format!("/{client}/{number}") };
    let mut head = format!("{method} {target} HTTP/1.1\r\nHost: a\r\n");
    if matches!(kind, Kind::Tunnel | Kind::Offer) && !is_connect {
        head.push_str("Connection: Upgrade\r\nUpgrade: h2c\r\n");
    }
    if kind == Kind::Expect {
        head.push_str("Expect: 100-continue\r\n");
    }
    let body = match kind {
        Kind::Chunked => {
            head.push_str("Transfer-Encoding: chunked\r\n");
            chunked(&body)
        }
        _ if has_body => {
            head.push_str(&format!("Content-Length: {}\r\n", body.len()));
            body
        }
        _ => body,
    };
    head.push_str("\r\n");
    let mark = format!("X-For: {client}/{number}\r\n");
    let reply_body = pattern(client, number + 100, [0, 5, 500, 30_000][choices.below(4)]);
    let (reply, ends) = match kind {
        Kind::Tunnel if is_connect => (format!("HTTP/1.1 200 Yes\r\n{mark}\r\n").into_bytes(), false),
        Kind::Tunnel => (format!("HTTP/1.1 101 Yes\r\n{mark}Upgrade: h2c\r\n\r\n").into_bytes(), false),
        Kind::Offer if is_connect => {
            (format!("HTTP/1.1 403 No\r\n{mark}Content-Length: 0\r\n\r\n").into_bytes(), false)
        }
        kind => reply(kind, &mark, &reply_body, choices.below(12)),
    };
    let early = has_body && choices.below(4) == 0;
    let reply = if kind == Kind::Expect && !early { [CONTINUE, &reply].concat() } else { reply };
    let head_bytes = head.len();
    Request { kind, bytes: [head.as_bytes(), &body].concat(), head_bytes, reply, early, ends }
}

impl Client {
    fn new(peer: Peer, number: usize, choices: &mut Choices) -> Client {
        let mut client = Client {
            peer,
            number,
            requests: Vec::new(),
            script: VecDeque::new(),
            waits_since: None,
            heard: Vec::new(),
            read: 0,
            answered: 0,
            tunnel: false,
            said_in_tunnel: Vec::new(),
            spoke_early: false,
            finished: false,
            gave_up: false,
        };
        for place in 0..1 + choices.below(REQUESTS_MAX) {
            let request = request(number, place, choices);
            let (kind, bytes, head_bytes) = (request.kind, request.bytes.clone(), request.head_bytes);
            client.requests.push(request);
            match kind {
                Kind::Expect => {
                    client.script.push_back(Next::Say(bytes[..head_bytes].to_vec()));
                    client.script.push_back(Next::AwaitContinue(place));
                    client.script.push_back(Next::Say(bytes[head_bytes..].to_vec()));
                }
                Kind::Tunnel => {
                    client.script.push_back(Next::Say(bytes));
                    let early = choices.below(3) == 0;
                    if !early {
                        client.script.push_back(Next::AwaitReply(place));
                    }
                    let length = [5, 3000, FLOOD_BYTES][choices.below(16).saturating_sub(13)];
                    // No request begins so: if a rule refused the tunnel, it is refused with 400.
                    let said = [b"\x16\x03\x01\n", &pattern(number, 200, length)[..]].concat();
                    client.script.push_back(Next::SayInTunnel { bytes: said, early });
                    if early {
                        break;
                    }
                }
                _ => {
                    client.script.push_back(Next::Say(bytes));
                    // A client that does not pipeline.
                    if choices.below(3) == 0 {
                        client.script.push_back(Next::AwaitReply(place));
                    }
                }
            }
        }
        client
    }

    fn go_on(&mut self, now: Instant, bytes_max: usize) {
        if self.finished || self.gave_up || !self.peer.is_open() {
            return;
        }
        match self.script.front_mut() {
            None => {}
            Some(Next::Say(bytes)) => {
                let rest = bytes.split_off(bytes.len().min(bytes_max.max(1)));
                self.peer.write(bytes);
                *bytes = rest;
                if bytes.is_empty() {
                    self.script.pop_front();
                }
            }
            Some(Next::SayInTunnel { bytes, early }) => {
                if self.tunnel || *early {
                    self.spoke_early = *early;
                    if *early {
                        self.requests.push(Request {
                            kind: Kind::Get,
                            bytes: Vec::new(),
                            head_bytes: 0,
                            reply: b"a 400 only".to_vec(),
                            early: false,
                            ends: true,
                        });
                    }
                    self.peer.write(bytes);
                    self.said_in_tunnel = std::mem::take(bytes);
                    // Nothing else can follow.
                    self.script.clear();
                } else {
                    self.script.pop_front();
                }
            }
            Some(Next::AwaitContinue(place)) => {
                let since = *self.waits_since.get_or_insert(now);
                let is_told = self.heard[self.read..].starts_with(CONTINUE) && self.answered == *place;
                if is_told || self.answered > *place || now - since > Duration::from_secs(1) {
                    self.waits_since = None;
                    self.script.pop_front();
                }
            }
            Some(Next::AwaitReply(place)) if self.answered <= *place => {}
            Some(Next::AwaitReply(_)) => {
                self.script.pop_front();
            }
        }
    }

    /// Whether it has all its answers, or knows that none will come.
    fn is_served(&self) -> bool {
        let state = self.peer.state();
        let is_answered = self.answered >= self.requests.len() || self.tunnel && self.script.is_empty();
        is_answered || self.gave_up || state.eof || state.reset || !self.peer.is_open()
    }

    /// Reads what came: whole replies to its requests in order, injected errors, or the beginning of one.
    fn read(&mut self, tunnel_of_server: &[u8]) {
        self.heard.extend(self.peer.read());
        while !self.tunnel && self.read < self.heard.len() {
            let rest = &self.heard[self.read..];
            let Some(request) = self.requests.get(self.answered) else {
                panic!("{} heard more than it asked for: {}", self.number, String::from_utf8_lossy(rest));
            };
            if rest.starts_with(&request.reply) {
                self.read += request.reply.len();
                self.answered += 1;
                self.tunnel = request.kind == Kind::Tunnel;
            } else if request.reply.starts_with(rest) {
                return;
            } else {
                let Some(length) = injected(rest, request.kind == Kind::Head) else { return };
                let is_refused = rest.starts_with(b"HTTP/1.1 400 ");
                assert!(!is_refused || self.spoke_early, "{} was refused what is right", self.number);
                self.read += length;
                self.answered += 1;
                if is_refused {
                    let follows = String::from_utf8_lossy(&self.heard[self.read..]);
                    assert_eq!(follows, "", "nothing follows a 400");
                }
            }
        }
        if self.tunnel {
            let said = &self.heard[self.read..];
            assert!(tunnel_of_server.starts_with(said), "{} heard another's tunnel", self.number);
        }
    }
}

/// The length of the injected error at the front of `bytes`; `None` when a part of it is missing.
fn injected(bytes: &[u8], is_head: bool) -> Option<usize> {
    let text = String::from_utf8_lossy(&bytes[..bytes.len().min(400)]);
    assert!("HTTP/1.1 ".starts_with(&text[..text.len().min(9)]), "not a reply: {text}");
    let end = text.find("\r\n\r\n")? + 4;
    assert!(text[..end].contains("\r\nX-Fracas: error\r\n"), "another's reply: {text}");
    let length = text[..end].split("Content-Length: ").nth(1)?.split("\r\n").next()?.parse::<usize>().ok()?;
    let whole = if is_head { end } else { end + length };
    (bytes.len() >= whole).then_some(whole)
}

impl ServerEnd {
    fn new(peer: Peer) -> ServerEnd {
        ServerEnd {
            peer,
            heard: Vec::new(),
            client: None,
            next: 0,
            read: 0,
            replied_to: 0,
            told_to_go_on: 0,
            says: VecDeque::new(),
            ends: false,
            tunnel: false,
            finished: false,
            gave_up: false,
        }
    }

    /// Reads what came: whole requests of one client in order, or the beginning of one; answers them.
    fn read(&mut self, clients: &[Client]) {
        self.heard.extend(self.peer.read());
        while !self.tunnel && self.read < self.heard.len() && !self.ends {
            let rest = &self.heard[self.read..];
            let Some(head) = rest.windows(4).position(|four| four == b"\r\n\r\n") else { return };
            let path = String::from_utf8_lossy(&rest[..head]);
            let path = path.split(' ').nth(1).unwrap_or_default().to_owned();
            let path = path.trim_start_matches('/');
            let mut numbers = path.split(['/', '.', ':']).map(|number| number.parse::<usize>());
            let (Some(Ok(client)), Some(Ok(number))) = (numbers.next(), numbers.next()) else {
                panic!("not a request: {}", String::from_utf8_lossy(rest));
            };
            assert_eq!(
                *self.client.get_or_insert(client),
                client,
                "requests of two clients on one connection"
            );
            assert!(number >= self.next, "a request came twice, or out of order");
            let request = &clients[client].requests[number];
            let length = rest.len().min(request.bytes.len());
            assert!(rest[..length] == request.bytes[..length], "request {path} has changed");
            let is_whole = length == request.bytes.len();
            if self.replied_to <= number && (request.early || is_whole) {
                self.replied_to = number + 1;
                let told = if self.told_to_go_on > number { CONTINUE.len() } else { 0 };
                self.says.extend(&request.reply[told..]);
                self.ends |= request.ends;
            } else if request.kind == Kind::Expect && self.replied_to.max(self.told_to_go_on) <= number {
                self.told_to_go_on = number + 1;
                self.says.extend(CONTINUE);
            }
            if !is_whole {
                return;
            }
            self.read += length;
            self.next = number + 1;
            if request.kind == Kind::Tunnel {
                self.tunnel = true;
                self.says.extend(tunnel_of_server(client));
            }
        }
        if let (true, Some(client)) = (self.tunnel, self.client) {
            let said = &clients[client].said_in_tunnel;
            assert!(said.starts_with(&self.heard[self.read..]), "{client} is heard in another's tunnel");
        }
    }

    fn go_on(&mut self, bytes_max: usize) {
        if self.finished || self.gave_up || !self.peer.is_open() {
            return;
        }
        let count = self.says.len().min(bytes_max);
        let bytes: Vec<u8> = self.says.drain(..count).collect();
        self.peer.write(&bytes);
        if self.says.is_empty() && self.ends {
            self.finished = true;
            self.peer.shutdown_write();
        }
    }
}

fn tunnel_of_server(client: usize) -> Vec<u8> {
    pattern(client, 300, 2000)
}

/// Rules that come and go; none of them makes a client wait for longer than seconds once it is lifted.
fn flip(choices: &mut Choices) -> Vec<Rule> {
    let (text, options): (&str, &[_]) = [
        ("", &[][..]),
        ("", &[]),
        ("delay", &[("delay", "time", "3ms"), ("delay", "side", "both")]),
        ("50:delay", &[("delay", "time", "uniform(0ms,80ms)"), ("delay", "side", "reply")]),
        ("error", &[]),
        ("40:error,20:delay", &[("delay", "time", "30ms")]),
        ("transient", &[("transient", "agitate", "2")]),
        ("throttle", &[("throttle", "rate", "1MB/s"), ("throttle", "queue", "1000")]),
        ("throttle", &[("throttle", "rate", "0")]),
        ("20:abort,20:error", &[]),
        ("abort", &[]),
        ("10:hang,30:error", &[]),
        ("10:blackout,10:reset", &[]),
        ("20:reset", &[("reset", "after", "2KiB")]),
    ][choices.below(14)];
    let mut rules = rules(text, options);
    let all_in_one = rules.iter().any(|rule| rule.name.contains("throttle"));
    if !all_in_one && choices.below(8) == 0 {
        rules.iter_mut().for_each(|rule| rule.scope = Some(Scope::Connection));
    }
    rules
}

fn surroundings(choices: &mut Choices) -> Surroundings {
    let mut pool = |bytes: [u32; 2]| {
        let buffers = 4 << choices.below(4);
        PoolSettings { buffer_bytes: bytes[choices.below(2)], buffers, published: buffers }
    };
    let (small, large) = (pool([100, 16_000]), pool([5000, 60_000]));
    let sizes = [500, 4000, 60_000];
    Surroundings {
        seed: choices.below(256) as u64,
        faults: Faults::unnoticed([0.0, 0.05, 0.2][choices.below(3)]),
        socket_buffer_bytes: (sizes[choices.below(3)], sizes[choices.below(3)]),
        link: Link { delay: Duration::from_micros([0, 20, 500][choices.below(3)]), ..Link::default() },
        small,
        large,
        cq_entries: 2 + choices.below(20) as u32,
        counts_credit: choices.below(2) == 0,
        held_bytes_max: [1, 10_000, 1 << 20][choices.below(3)],
        worker_held_bytes_max: [100_000, 64 << 20][choices.below(2)],
    }
}

struct Talk {
    world: World,
    clients: Vec<Client>,
    servers: Vec<ServerEnd>,
}

impl Talk {
    fn run(&mut self, time: Duration) {
        self.world.run(time);
        while let Some(peer) = self.world.server.accept() {
            self.servers.push(ServerEnd::new(peer));
        }
        self.servers.iter_mut().for_each(|server| server.read(&self.clients));
        self.clients.iter_mut().for_each(|client| client.read(&tunnel_of_server(client.number)));
        let held = self.world.held_bytes();
        let bound = self.clients.len() * HELD_PER_CONNECTION_MAX;
        assert!(held <= bound, "{held} bytes wait in {} connections", self.clients.len());
    }

    fn act(&mut self, choices: &mut Choices) {
        match choices.below(20) {
            0..=2 if self.clients.len() < CLIENTS_MAX => {
                let number = self.clients.len();
                let peer = self.world.network.dial(self.world.address);
                self.clients.push(Client::new(peer, number, choices));
            }
            0..=8 if !self.clients.is_empty() => {
                let place = choices.below(self.clients.len());
                let bytes_max = [1, 20, 300, 1 << 20][choices.below(4)];
                self.clients[place].go_on(self.world.network.now(), bytes_max);
            }
            9..=11 if !self.servers.is_empty() => {
                let place = choices.below(self.servers.len());
                self.servers[place].go_on([1, 20, 300, 1 << 20][choices.below(4)]);
            }
            12 if !self.clients.is_empty() => {
                let peer = &self.clients[choices.below(self.clients.len())].peer;
                if choices.below(2) == 0 { peer.stop_reading() } else { peer.start_reading() }
            }
            13 if choices.below(8) == 0 => self.give_up(choices),
            13..=15 => {
                let rules = flip(choices);
                self.world.set_rules(rules);
            }
            _ => self.run(Duration::from_micros([0, 100, 3000, 200_000][choices.below(4)])),
        }
    }

    /// Somebody breaks off, or says no more.
    fn give_up(&mut self, choices: &mut Choices) {
        let all = self.clients.len() + self.servers.len();
        if all == 0 {
            return;
        }
        let place = choices.below(all);
        let how = choices.below(3);
        let (peer, finished, gave_up) = match self.clients.get_mut(place) {
            Some(client) => (&client.peer, &mut client.finished, &mut client.gave_up),
            None => {
                let server = &mut self.servers[place - self.clients.len()];
                (&server.peer, &mut server.finished, &mut server.gave_up)
            }
        };
        if !peer.is_open() || *finished {
            return;
        }
        match how {
            0 => peer.reset(),
            1 => peer.close(),
            _ => {
                *finished = true;
                peer.shutdown_write();
            }
        }
        *gave_up = true;
    }

    /// Without rules, and with everybody willing, all is answered or ended within a minute.
    fn finish(&mut self) {
        self.world.set_rules(Vec::new());
        let until = self.world.network.now() + Duration::from_secs(60);
        while self.world.network.now() < until && self.clients.iter().any(|client| !client.is_served()) {
            for client in &mut self.clients {
                client.peer.start_reading();
                (0..4).for_each(|_| client.go_on(self.world.network.now(), 1 << 20));
            }
            self.servers.iter_mut().for_each(|server| server.go_on(1 << 20));
            self.run(Duration::from_millis(200));
        }
        for client in &self.clients {
            assert!(
                client.is_served(),
                "client {} waits for ever: {} of {} answered, {:?}",
                client.number,
                client.answered,
                client.requests.len(),
                client.peer.state()
            );
        }
        let ends: Vec<&Peer> = self
            .clients
            .iter()
            .map(|client| &client.peer)
            .chain(self.servers.iter().map(|server| &server.peer))
            .collect();
        self.world.assert_empty(&ends);
    }
}

/// Talks as `data` says.
pub fn talk(data: &[u8]) {
    let mut choices = Choices(data.iter());
    let world = World::new(&surroundings(&mut choices), Vec::new());
    let mut talk = Talk { world, clients: Vec::new(), servers: Vec::new() };
    while choices.0.len() > 0 {
        talk.act(&mut choices);
    }
    talk.finish();
}
