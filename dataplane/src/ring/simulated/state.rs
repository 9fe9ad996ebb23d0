//! Everything that is shared by the rings and peers of one network: the clock, the events to come, the
//! sockets. What TCP does is in `stream.rs`, what rings ask and are told in `operations.rs`.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use super::super::{Errno, SocketOptions, Token};
use super::faults::Faults;
use super::network::Link;
use super::operations::{AcceptOperation, RingState};
use super::stream::Stream;
use crate::clock::Instant;
use crate::rng::Rng;

pub(super) struct State {
    pub(super) seed: u64,
    pub(super) now: Instant,
    pub(super) rng: Rng,
    pub(super) faults: Faults,
    pub(super) link: Link,
    pub(super) send_buffer_bytes: usize,
    pub(super) receive_buffer_bytes: usize,
    pub(super) unreachable: Vec<IpAddr>,
    pub(super) rings: Vec<RingState>,
    pub(super) sockets: Vec<Entry>,
    /// Which of the sockets listen and are open.
    pub(super) listeners: Vec<usize>,
    pub(super) told_seed: bool,
    last_operation: u64,
    events: BTreeMap<(Instant, u64), Event>,
    last_event: u64,
    next_port: u16,
}

pub(super) enum Entry {
    Listener(Listener),
    Stream(Box<Stream>),
}

pub(super) struct Listener {
    /// The ring that listens; `None` for a test's server.
    pub(super) ring: Option<usize>,
    pub(super) address: SocketAddr,
    pub(super) options: SocketOptions,
    pub(super) backlog_max: usize,
    pub(super) backlog: VecDeque<usize>,
    pub(super) open: bool,
    pub(super) accept: Option<AcceptOperation>,
    pub(super) accept_in_flight: bool,
}

/// Something that will happen.
#[derive(Debug)]
pub(super) enum Event {
    Syn {
        client: usize,
        attempt: u32,
    },
    ConnectDone {
        client: usize,
        result: Result<(), Errno>,
    },
    Bytes {
        to: usize,
        bytes: Vec<u8>,
    },
    Fin {
        to: usize,
    },
    Rst {
        to: usize,
    },
    /// The last keepalive probe was not answered.
    KeepaliveOver {
        socket: usize,
    },
    /// The window of the other side may have opened.
    Window {
        from: usize,
    },
    /// A late completion's time has come.
    Poll {
        socket: usize,
    },
    /// A late cancel's time has come.
    Cancel {
        socket: usize,
        operation: u64,
    },
}

impl State {
    pub(super) fn new(seed: u64) -> State {
        State {
            seed,
            now: super::Network::START,
            rng: Rng::stream(seed, &[0]),
            faults: Faults::NONE,
            link: Link::default(),
            send_buffer_bytes: 64 * 1024,
            receive_buffer_bytes: 64 * 1024,
            unreachable: Vec::new(),
            rings: Vec::new(),
            sockets: Vec::new(),
            listeners: Vec::new(),
            told_seed: false,
            last_operation: 0,
            events: BTreeMap::new(),
            last_event: 0,
            next_port: FIRST_EPHEMERAL_PORT,
        }
    }

    pub(super) fn chance(&mut self, probability: f64) -> bool {
        probability > 0.0 && self.rng.unit() < probability
    }

    /// A short delay for what comes late.
    pub(super) fn lateness(&mut self) -> Duration {
        self.rng.duration_up_to(Duration::from_micros(100))
    }

    pub(super) fn schedule(&mut self, at: Instant, event: Event) {
        self.last_event += 1;
        self.events.insert((at.max(self.now), self.last_event), event);
    }

    pub(super) fn next_event(&self) -> Option<Instant> {
        self.events.keys().next().map(|(at, _)| *at)
    }

    /// Moves the clock to `instant`, letting everything happen on the way.
    pub(super) fn advance_to(&mut self, instant: Instant) {
        while let Some(entry) = self.events.first_entry() {
            if entry.key().0 > instant {
                break;
            }
            let ((at, _), event) = entry.remove_entry();
            self.now = self.now.max(at);
            self.happen(event);
        }
        self.now = self.now.max(instant);
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Syn { client, attempt } => self.on_syn(client, attempt),
            Event::ConnectDone { client, result } => self.on_connect_done(client, result),
            Event::Bytes { to, bytes } => self.on_bytes(to, bytes),
            Event::Fin { to } => self.on_fin(to),
            Event::Rst { to } => self.on_rst(to),
            Event::KeepaliveOver { socket } => self.on_keepalive_over(socket),
            Event::Window { from } => {
                self.stream_mut(from).window_update_scheduled = false;
                self.transmit(from);
            }
            Event::Poll { socket } => self.make_ready_now(socket),
            Event::Cancel { socket, operation } => self.cancel_operation(socket, operation),
        }
    }

    pub(super) fn operation_id(&mut self) -> u64 {
        self.last_operation += 1;
        self.last_operation
    }

    pub(super) fn stream(&self, id: usize) -> &Stream {
        match &self.sockets[id] {
            Entry::Stream(stream) => stream,
            Entry::Listener(_) => panic!("socket {id} listens (seed {})", self.seed),
        }
    }

    pub(super) fn stream_mut(&mut self, id: usize) -> &mut Stream {
        match &mut self.sockets[id] {
            Entry::Stream(stream) => stream,
            Entry::Listener(_) => panic!("socket {id} listens (seed {})", self.seed),
        }
    }

    pub(super) fn listener_mut(&mut self, id: usize) -> &mut Listener {
        match &mut self.sockets[id] {
            Entry::Listener(listener) => listener,
            Entry::Stream(_) => panic!("socket {id} does not listen (seed {})", self.seed),
        }
    }

    pub(super) fn listen(
        &mut self,
        ring: Option<usize>,
        mut address: SocketAddr,
        options: &SocketOptions,
    ) -> io::Result<(usize, SocketAddr)> {
        if address.port() == 0 {
            address.set_port(self.free_port());
        }
        self.sockets.push(Entry::Listener(Listener {
            ring,
            address,
            options: options.clone(),
            backlog_max: 4096,
            backlog: VecDeque::new(),
            open: true,
            accept: None,
            accept_in_flight: false,
        }));
        self.listeners.push(self.sockets.len() - 1);
        Ok((self.sockets.len() - 1, address))
    }

    pub(super) fn close_listener(&mut self, id: usize) {
        self.listeners.retain(|listener| *listener != id);
        let listener = self.listener_mut(id);
        listener.open = false;
        for waiting in std::mem::take(&mut listener.backlog) {
            self.stream_mut(waiting).open = false;
            self.kill(waiting);
        }
    }

    /// Opens a socket and sends its SYN.
    pub(super) fn open_stream(
        &mut self,
        ring: Option<usize>,
        remote: SocketAddr,
        source: Option<IpAddr>,
        options: &SocketOptions,
    ) -> usize {
        let loopback = match remote {
            SocketAddr::V4(_) => IpAddr::V4(Ipv4Addr::LOCALHOST),
            SocketAddr::V6(_) => IpAddr::V6(std::net::Ipv6Addr::LOCALHOST),
        };
        let local = SocketAddr::new(source.unwrap_or(loopback), self.free_port());
        let stream = self.new_stream(ring, local, remote, self.link, options);
        self.sockets.push(Entry::Stream(Box::new(stream)));
        self.sockets.len() - 1
    }

    pub(super) fn new_stream(
        &self,
        ring: Option<usize>,
        local: SocketAddr,
        remote: SocketAddr,
        link: Link,
        options: &SocketOptions,
    ) -> Stream {
        // The kernel doubles what is asked and keeps a minimum (socket(7)).
        let bytes =
            |asked: Option<u32>, default, least| asked.map_or(default, |n| (2 * n as usize).max(least));
        Stream::new(
            ring,
            local,
            remote,
            link,
            bytes(options.send_buffer_bytes, self.send_buffer_bytes, 4608),
            bytes(options.receive_buffer_bytes, self.receive_buffer_bytes, 2304),
            options,
        )
    }

    fn free_port(&mut self) -> u16 {
        loop {
            let port = self.next_port;
            self.next_port = if port == u16::MAX { FIRST_EPHEMERAL_PORT } else { port + 1 };
            let taken = self.listeners.iter().any(
                |id| matches!(&self.sockets[*id], Entry::Listener(listener) if listener.address.port() == port),
            );
            if !taken {
                return port;
            }
        }
    }
}

/// The first port of Linux's default `ip_local_port_range`.
const FIRST_EPHEMERAL_PORT: u16 = 32_768;

/// The token of completions that belong to nobody.
pub(super) const NOBODY: Token = Token { role: 0, slot: 0, generation: 0 };
