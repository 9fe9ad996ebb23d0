//! The floor: the barest TCP forwarder on a raw ring, without a feature. It is what `fracas proxy` is measured against.
//!
//! downstream ⇄ (receive into a shared buffer, send the same buffer) ⇄ upstream. Half-close is kept; there are
//! no limits, no rules, no counters and no back-pressure.

use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsRawFd, OwnedFd};

use anyhow::Context;
use socket2::SockRef;

use crate::outbox::Outbox;
use crate::ring::{Completion, Ring, adopt, leaked_address};
use crate::socket;

const ACCEPT: u64 = 0;
const CONNECT: u64 = 1;
const RECEIVE: u64 = 2;
const SENT: u64 = 3;

/// Serves `listen` for ever.
///
/// # Errors
/// The address is taken, or the kernel lacks what the ring needs.
pub fn run(listen: SocketAddr, upstream: SocketAddr) -> anyhow::Result<()> {
    let listener = socket::listen(listen)?;
    Forwarder::new(listener, upstream)?.serve()
}

struct Forwarder {
    ring: Ring,
    listener: TcpListener,
    upstream: &'static socket2::SockAddr,
    connections: Vec<Option<Connection>>,
    free: Vec<usize>,
}

/// Side 0 is downstream, side 1 upstream; `outboxes[side]` sends to `sockets[side]`.
struct Connection {
    sockets: [OwnedFd; 2],
    outboxes: [Outbox; 2],
    receiving: [bool; 2],
    ended: [bool; 2],
    connecting: bool,
}

impl Forwarder {
    fn new(listener: TcpListener, upstream: SocketAddr) -> anyhow::Result<Forwarder> {
        let ring = Ring::new().context("no io_uring with DEFER_TASKRUN and buffer rings (Linux 6.1+)")?;
        let upstream = leaked_address(upstream);
        Ok(Forwarder { ring, listener, upstream, connections: Vec::new(), free: Vec::new() })
    }

    fn serve(mut self) -> anyhow::Result<()> {
        let mut completions = Vec::with_capacity(4096);
        self.ring.accept(&self.listener, token(ACCEPT, 0, 0));
        loop {
            self.ring.turn(None, &mut completions)?;
            for completion in completions.drain(..) {
                self.on_completion(completion);
            }
        }
    }

    fn on_completion(&mut self, completion: Completion) {
        let (kind, slot, side) = untoken(completion.token);
        match kind {
            ACCEPT => self.on_accept(completion),
            CONNECT => self.on_connect(slot, completion.result),
            RECEIVE => self.on_receive(slot, side, completion),
            _ => self.on_sent(slot, side, completion.result),
        }
    }

    fn on_accept(&mut self, completion: Completion) {
        if completion.result >= 0 {
            let downstream = adopt(completion.result);
            if let Ok(upstream) = socket::unconnected() {
                self.open(downstream, upstream);
            }
        }
        if !completion.has_more() {
            self.ring.accept(&self.listener, token(ACCEPT, 0, 0));
        }
    }

    fn open(&mut self, downstream: OwnedFd, upstream: OwnedFd) {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.connections.push(None);
            self.connections.len() - 1
        });
        self.ring.connect(&upstream, self.upstream, token(CONNECT, slot, 0));
        self.connections[slot] = Some(Connection {
            sockets: [downstream, upstream],
            outboxes: [Outbox::default(), Outbox::default()],
            receiving: [false; 2],
            ended: [false; 2],
            connecting: true,
        });
    }

    fn on_connect(&mut self, slot: usize, result: i32) {
        let connection = open_connection(&mut self.connections, slot);
        connection.connecting = false;
        if result < 0 {
            self.connections[slot] = None;
            self.free.push(slot);
            return;
        }
        connection.receiving = [true; 2];
        for side in [0, 1] {
            self.ring.receive(connection.sockets[side].as_raw_fd(), token(RECEIVE, slot, side));
        }
    }

    fn on_receive(&mut self, slot: usize, side: usize, completion: Completion) {
        let connection = open_connection(&mut self.connections, slot);
        let peer = 1 - side;
        match (completion.result, completion.buffer()) {
            (received @ 1.., Some(buffer)) => {
                let part = self.ring.part(buffer, received as usize);
                let socket = connection.sockets[peer].as_raw_fd();
                connection.outboxes[peer].push(part, &mut self.ring, socket, token(SENT, slot, peer));
            }
            (_, Some(buffer)) => self.ring.give_back(buffer),
            _ => {}
        }
        if completion.has_more() {
            return;
        }
        let socket = connection.sockets[side].as_raw_fd();
        if completion.result > 0 {
            return self.ring.receive(socket, token(RECEIVE, slot, side));
        }
        if completion.result == -libc::ENOBUFS {
            return self.ring.receive_later(socket, token(RECEIVE, slot, side));
        }
        connection.receiving[side] = false;
        connection.ended[side] = true;
        if completion.result < 0 {
            connection.reset();
        }
        self.settle(slot);
    }

    fn on_sent(&mut self, slot: usize, side: usize, result: i32) {
        let connection = open_connection(&mut self.connections, slot);
        let socket = connection.sockets[side].as_raw_fd();
        connection.outboxes[side].on_sent(result, &mut self.ring, socket, token(SENT, slot, side));
        if result < 0 {
            connection.reset();
        }
        if connection.ended[1 - side] {
            self.settle(slot);
        }
    }

    /// Passes on an end of stream behind the last byte, and closes when both have ended.
    fn settle(&mut self, slot: usize) {
        let connection = open_connection(&mut self.connections, slot);
        for side in [0, 1] {
            if connection.ended[side] && connection.outboxes[1 - side].is_empty() {
                let _ = SockRef::from(&connection.sockets[1 - side]).shutdown(std::net::Shutdown::Write);
            }
        }
        if connection.is_over() {
            for outbox in &mut connection.outboxes {
                outbox.discard(&mut self.ring);
            }
            self.connections[slot] = None;
            self.free.push(slot);
        }
    }
}

impl Connection {
    fn reset(&mut self) {
        for socket in &self.sockets {
            let _ = SockRef::from(socket).shutdown(std::net::Shutdown::Both);
        }
    }

    fn is_over(&self) -> bool {
        let idle = |outbox: &Outbox| outbox.is_empty() && !outbox.is_sending();
        self.ended == [true; 2]
            && self.receiving == [false; 2]
            && self.outboxes.iter().all(idle)
            && !self.connecting
    }
}

fn open_connection(connections: &mut [Option<Connection>], slot: usize) -> &mut Connection {
    connections[slot].as_mut().expect("a connection stays until nothing of it is in flight")
}

fn token(kind: u64, slot: usize, side: usize) -> u64 {
    kind << 56 | (slot as u64) << 1 | side as u64
}

fn untoken(token: u64) -> (u64, usize, usize) {
    (token >> 56, ((token & ((1 << 56) - 1)) >> 1) as usize, (token & 1) as usize)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::{Shutdown, TcpStream};

    fn start(upstream: SocketAddr) -> SocketAddr {
        let listener = socket::listen(([127, 0, 0, 1], 0).into()).unwrap();
        let listen = listener.local_addr().unwrap();
        std::thread::spawn(move || Forwarder::new(listener, upstream).unwrap().serve().unwrap());
        listen
    }

    #[test]
    fn a_token_gives_back_what_it_was_made_of() {
        assert_eq!(untoken(token(SENT, 20_000, 1)), (SENT, 20_000, 1));
        assert_eq!(untoken(token(ACCEPT, 0, 0)), (ACCEPT, 0, 0));
    }

    #[test]
    fn bytes_arrive_whole_and_the_reply_may_follow_a_half_close() {
        let server = TcpListener::bind("127.0.0.1:0").unwrap();
        let listen = start(server.local_addr().unwrap());
        let served = std::thread::spawn(move || {
            let (mut socket, _) = server.accept().unwrap();
            let mut received = Vec::new();
            socket.read_to_end(&mut received).unwrap();
            socket.write_all(&received).unwrap();
        });
        let sent: Vec<u8> = (0..3_000_000_u32).map(|i| ((i * 7) >> 3) as u8).collect();
        let mut client = TcpStream::connect(listen).unwrap();
        client.write_all(&sent).unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        let mut reply = Vec::new();
        client.read_to_end(&mut reply).unwrap();
        served.join().unwrap();
        assert!(reply == sent, "{} of {} bytes came back, or others", reply.len(), sent.len());
    }
}
