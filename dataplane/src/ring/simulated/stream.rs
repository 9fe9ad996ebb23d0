//! One end of a simulated TCP connection, and what happens to it.
//!
//! ```text
//!  send operation → outgoing (bounded) ──link: delay, bandwidth──▶ incoming (bounded) → receive operation
//! ```
//! `outgoing` holds bytes that the other side's window has no room for. Nothing is lost or reordered by the
//! network: that is what TCP is for. A window that opens is known to the sender one delay later.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Duration;

use super::super::{Errno, KEEPALIVE_PROBES, SocketOptions};
use super::network::Link;
use super::operations::{ConnectOperation, InFlight, ReceiveOperation, SendOperation};
use super::state::{Entry, Event, State};
use crate::clock::Instant;

pub(super) struct Stream {
    /// The ring that holds the descriptor; `None` for a test's peer and in a backlog.
    pub(super) ring: Option<usize>,
    pub(super) local: SocketAddr,
    pub(super) remote: SocketAddr,
    pub(super) other: Option<usize>,
    pub(super) phase: Phase,
    /// Whether somebody holds the descriptor, or it waits to be accepted.
    pub(super) open: bool,

    /// What this end's bytes travel on.
    pub(super) link: Link,
    wire_free_at: Instant,
    last_arrival: Instant,
    pub(super) outgoing: VecDeque<u8>,
    pub(super) outgoing_max: usize,
    /// Bytes on their way to the other end.
    on_the_wire: usize,
    pub(super) window_update_scheduled: bool,
    pub(super) fin_asked: bool,
    fin_sent: bool,

    pub(super) incoming: VecDeque<u8>,
    incoming_max: usize,
    pub(super) fin_received: bool,
    /// `SO_ERROR`: told once, by whichever operation asks first.
    pub(super) error: Option<Errno>,
    /// It was reset from this side.
    pub(super) reset_here: bool,
    /// Silence after which it is over, if the other end has vanished.
    keepalive: Option<Duration>,
    /// Its machine is gone: nothing leaves it, and what reaches it is lost.
    vanished: bool,

    pub(super) receive: Option<ReceiveOperation>,
    pub(super) send: Option<SendOperation>,
    pub(super) connect: Option<ConnectOperation>,
    pub(super) in_flight: InFlight,
    /// Of a test's peer.
    pub(super) peer: Option<PeerSide>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    Connecting,
    Connected,
    /// Refused, or reset by either side.
    Dead,
}

/// What a test's peer has beyond a socket.
#[derive(Default)]
pub(super) struct PeerSide {
    pub(super) reading: bool,
    pub(super) received: Vec<u8>,
    /// Written, but not yet taken by the socket.
    pub(super) outbox: VecDeque<u8>,
    pub(super) connect_error: Option<Errno>,
    pub(super) reset_seen: bool,
}

/// Most bytes that travel as one; smaller where the bandwidth is limited, so that they trickle.
const SEGMENT_BYTES_MAX: usize = 64 * 1024;
const LIMITED_SEGMENT_BYTES_MAX: usize = 1460;

impl Stream {
    pub(super) fn new(
        ring: Option<usize>,
        local: SocketAddr,
        remote: SocketAddr,
        link: Link,
        outgoing_max: usize,
        incoming_max: usize,
        options: &SocketOptions,
    ) -> Stream {
        let probed = |time| KEEPALIVE_PROBES * SocketOptions::keepalive_interval(time);
        Stream {
            ring,
            local,
            remote,
            other: None,
            phase: Phase::Connecting,
            open: true,
            link,
            wire_free_at: Instant::ZERO,
            last_arrival: Instant::ZERO,
            outgoing: VecDeque::new(),
            outgoing_max,
            on_the_wire: 0,
            window_update_scheduled: false,
            fin_asked: false,
            fin_sent: false,
            incoming: VecDeque::new(),
            incoming_max,
            fin_received: false,
            error: None,
            reset_here: false,
            keepalive: options.keepalive.map(|time| time + probed(time)),
            vanished: false,
            receive: None,
            send: None,
            connect: None,
            in_flight: InFlight::default(),
            peer: None,
        }
    }

    fn outbox_is_empty(&self) -> bool {
        self.peer.as_ref().is_none_or(|peer| peer.outbox.is_empty())
    }

    /// When `bytes` that leave now arrive; nothing overtakes what left before.
    fn arrival(&mut self, now: Instant, bytes: usize) -> Instant {
        self.wire_free_at = self.wire_free_at.max(now) + self.link.time_on_wire(bytes);
        self.last_arrival = self.last_arrival.max(self.wire_free_at + self.link.delay);
        self.last_arrival
    }
}

impl State {
    pub(super) fn on_syn(&mut self, client: usize, attempt: u32) {
        if self.stream(client).phase != Phase::Connecting {
            return;
        }
        let (local, remote, link) = {
            let stream = self.stream(client);
            (stream.local, stream.remote, stream.link)
        };
        if self.unreachable.contains(&remote.ip()) {
            return;
        }
        let is_for =
            |id: &usize| matches!(&self.sockets[*id], Entry::Listener(listener) if listener.is_for(remote));
        let listeners: Vec<usize> = self.listeners.iter().copied().filter(is_for).collect();
        if listeners.is_empty() {
            let result = Err(Errno(libc::ECONNREFUSED));
            self.schedule(self.now + link.delay, Event::ConnectDone { client, result });
            return;
        }
        let chosen = listeners[self.rng.below(listeners.len() as u64) as usize];
        let listener = self.listener_mut(chosen);
        if listener.backlog.len() >= listener.backlog_max {
            // Dropped; the client sends it again after 1, 2, 4, … seconds (RFC 6298 §2).
            let wait = Duration::from_secs(1 << attempt.min(6));
            self.schedule(self.now + wait, Event::Syn { client, attempt: attempt + 1 });
            return;
        }
        let options = listener.options.clone();
        let mut server = self.new_stream(None, remote, local, link, &options);
        server.phase = Phase::Connected;
        server.other = Some(client);
        let id = self.sockets.len();
        self.sockets.push(Entry::Stream(Box::new(server)));
        self.stream_mut(client).other = Some(id);
        self.listener_mut(chosen).backlog.push_back(id);
        let now = self.now;
        let at = self.stream_mut(id).arrival(now, 0);
        self.schedule(at, Event::ConnectDone { client, result: Ok(()) });
        self.make_ready(chosen);
    }

    pub(super) fn on_connect_done(&mut self, client: usize, result: Result<(), Errno>) {
        let stream = self.stream_mut(client);
        if stream.phase != Phase::Connecting {
            return;
        }
        match result {
            Ok(()) => stream.phase = Phase::Connected,
            Err(errno) => {
                stream.phase = Phase::Dead;
                stream.error = Some(errno);
                if let Some(peer) = &mut stream.peer {
                    peer.connect_error = Some(errno);
                    peer.outbox.clear();
                }
            }
        }
        self.transmit(client);
        self.make_ready(client);
    }

    /// The machine of this end is gone, without a word: the other end's keepalive finds out, if it has one.
    pub(super) fn vanish(&mut self, id: usize) {
        let stream = self.stream_mut(id);
        (stream.vanished, stream.open) = (true, false);
        if let Some(socket) = stream.other
            && let Some(silence) = self.stream(socket).keepalive
        {
            self.schedule(self.now + silence, Event::KeepaliveOver { socket });
        }
    }

    pub(super) fn on_keepalive_over(&mut self, socket: usize) {
        let stream = self.stream_mut(socket);
        if stream.phase != Phase::Connected {
            return;
        }
        stream.phase = Phase::Dead;
        stream.error = Some(Errno(libc::ETIMEDOUT));
        stream.outgoing.clear();
        self.make_ready(socket);
    }

    pub(super) fn on_bytes(&mut self, to: usize, bytes: Vec<u8>) {
        if self.stream(to).vanished {
            return;
        }
        let from = self.stream(to).other.expect("bytes come from another end");
        self.stream_mut(from).on_the_wire -= bytes.len();
        let stream = self.stream_mut(to);
        if stream.phase == Phase::Dead {
            return;
        }
        if !stream.open {
            // Nobody will read them: the answer is a RST (RFC 9293 §3.10.7.4).
            self.kill(to);
            return;
        }
        stream.incoming.extend(bytes);
        self.make_ready(to);
    }

    pub(super) fn on_fin(&mut self, to: usize) {
        let stream = self.stream_mut(to);
        if stream.phase != Phase::Dead && !stream.vanished {
            stream.fin_received = true;
            self.make_ready(to);
        }
    }

    pub(super) fn on_rst(&mut self, to: usize) {
        let keeps_unread = self.chance(self.faults.reset_keeps_unread);
        let stream = self.stream_mut(to);
        if stream.phase == Phase::Dead || stream.vanished {
            return;
        }
        stream.phase = Phase::Dead;
        // As tcp_reset() in net/ipv4/tcp_input.c: EPIPE when the peer had sent its FIN before.
        stream.error = Some(Errno(if stream.fin_received { libc::EPIPE } else { libc::ECONNRESET }));
        stream.outgoing.clear();
        if !keeps_unread {
            stream.incoming.clear();
        }
        if let Some(peer) = &mut stream.peer {
            peer.reset_seen = true;
            peer.outbox.clear();
        }
        self.make_ready(to);
    }

    /// Sends a RST from this end, which is dead from now on.
    pub(super) fn kill(&mut self, id: usize) {
        let now = self.now;
        let stream = self.stream_mut(id);
        if stream.phase == Phase::Dead {
            return;
        }
        stream.phase = Phase::Dead;
        stream.error = Some(Errno(libc::ECONNRESET));
        stream.reset_here = true;
        stream.outgoing.clear();
        stream.incoming.clear();
        if let Some(peer) = &mut stream.peer {
            peer.outbox.clear();
        }
        let at = stream.arrival(now, 0);
        if let Some(other) = stream.other {
            self.schedule(at, Event::Rst { to: other });
        }
        self.make_ready(id);
    }

    /// Sends FIN once everything before it has left.
    pub(super) fn finish_writing(&mut self, id: usize) {
        let stream = self.stream_mut(id);
        if stream.phase != Phase::Dead {
            stream.fin_asked = true;
            self.transmit(id);
        }
    }

    /// close(2): a FIN after the last byte, or a RST when bytes were left unread.
    pub(super) fn close_stream(&mut self, id: usize) {
        let stream = self.stream_mut(id);
        stream.open = false;
        if stream.phase == Phase::Dead {
            return;
        }
        if stream.phase == Phase::Connecting || !stream.incoming.is_empty() {
            self.kill(id);
            return;
        }
        if let Some(peer) = &mut stream.peer {
            stream.outgoing.append(&mut peer.outbox);
        }
        self.finish_writing(id);
    }

    /// Puts on the wire what the other end has room for.
    pub(super) fn transmit(&mut self, id: usize) {
        if self.put_on_the_wire(id) {
            // There is room for a send that waits.
            self.make_ready(id);
        }
    }

    /// As [`State::transmit`]; whether there is more room now.
    fn put_on_the_wire(&mut self, id: usize) -> bool {
        let now = self.now;
        let stream = self.stream(id);
        let (Some(other), Phase::Connected, false) = (stream.other, stream.phase, stream.vanished) else {
            return false;
        };
        let had = stream.outgoing.len();
        loop {
            let receiver = self.stream(other);
            let (unread, max) = (receiver.incoming.len(), receiver.incoming_max);
            let stream = self.stream_mut(id);
            let limited = stream.link.bytes_per_second.is_some();
            let segment_max = if limited { LIMITED_SEGMENT_BYTES_MAX } else { SEGMENT_BYTES_MAX };
            let room = max.saturating_sub(unread + stream.on_the_wire);
            let count = room.min(stream.outgoing.len()).min(segment_max);
            if count == 0 {
                break;
            }
            let bytes: Vec<u8> = stream.outgoing.drain(..count).collect();
            stream.on_the_wire += count;
            let at = stream.arrival(now, count);
            self.schedule(at, Event::Bytes { to: other, bytes });
        }
        let stream = self.stream_mut(id);
        let left = stream.outgoing.len();
        if left == 0 && stream.outbox_is_empty() && stream.fin_asked && !stream.fin_sent {
            stream.fin_sent = true;
            let at = stream.arrival(now, 0);
            self.schedule(at, Event::Fin { to: other });
        }
        left < had
    }

    /// Takes `count` bytes out of the receive buffer; the sender learns of the room one delay later.
    pub(super) fn take_incoming(&mut self, id: usize, count: usize) -> Vec<u8> {
        let now = self.now;
        let stream = self.stream_mut(id);
        let bytes: Vec<u8> = stream.incoming.drain(..count).collect();
        let delay = stream.link.delay;
        if let Some(from) = stream.other {
            let sender = self.stream_mut(from);
            if !sender.outgoing.is_empty() && !sender.window_update_scheduled {
                sender.window_update_scheduled = true;
                self.schedule(now + delay, Event::Window { from });
            }
        }
        bytes
    }

    /// What a test's peer does by itself: it reads, unless told not to, and writes what is in its outbox.
    pub(super) fn serve_peer(&mut self, id: usize) {
        // A loop, not a call from `transmit`: through a buffer of one byte it goes round for every byte.
        while self.serve_peer_once(id) && !self.is_told_late(id) {}
    }

    /// Whether there is room for more of its outbox.
    fn serve_peer_once(&mut self, id: usize) -> bool {
        let stream = self.stream(id);
        if stream.peer.as_ref().is_some_and(|peer| peer.reading) && !stream.incoming.is_empty() {
            let bytes = self.take_incoming(id, self.stream(id).incoming.len());
            self.stream_mut(id).peer.as_mut().expect("it was looked at above").received.extend(bytes);
        }
        let stream = self.stream_mut(id);
        let room = stream.outgoing_max.saturating_sub(stream.outgoing.len());
        let Some(peer) = &mut stream.peer else { return false };
        let count = room.min(peer.outbox.len());
        if stream.phase != Phase::Connected || count == 0 {
            return false;
        }
        stream.outgoing.extend(peer.outbox.drain(..count));
        self.put_on_the_wire(id)
    }
}
