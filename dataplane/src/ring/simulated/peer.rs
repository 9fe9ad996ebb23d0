//! Ends of connections without a ring, for tests: what they are told to do they do at once.

use std::net::SocketAddr;

use super::super::{Errno, SocketOptions};
use super::network::{Link, Network};
use super::state::{Entry, State};
use super::stream::{PeerSide, Phase};

/// One end of a connection in the hands of a test. It reads all that comes, unless told to stop.
///
/// Dropping it leaves the connection as it is.
pub struct Peer {
    network: Network,
    id: usize,
}

/// What a [`Peer`] knows of its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerState {
    /// The handshake is done, and no RST came or went.
    pub connected: bool,
    /// Why the connect failed, if it did.
    pub connect_error: Option<Errno>,
    /// FIN came after the last byte.
    pub eof: bool,
    /// A RST came.
    pub reset: bool,
    /// Bytes that came and were not read, because reading was stopped.
    pub unread_bytes: usize,
    /// Bytes written that have not left: the other side's window is closed.
    pub unsent_bytes: usize,
}

impl Peer {
    pub(super) fn new(network: Network, id: usize) -> Peer {
        let mut state = network.state.borrow_mut();
        state.stream_mut(id).peer = Some(PeerSide { reading: true, ..PeerSide::default() });
        state.serve_peer(id);
        drop(state);
        Peer { network, id }
    }

    /// Writes without waiting: what the socket has no room for follows as the other side reads.
    ///
    /// # Panics
    /// After [`Peer::shutdown_write`] or [`Peer::close`].
    pub fn write(&self, bytes: &[u8]) {
        self.with(|state| {
            let stream = state.stream_mut(self.id);
            assert!(stream.open && !stream.fin_asked, "the test writes after its own FIN");
            if stream.phase != Phase::Dead {
                stream.peer.as_mut().expect("a peer stays one").outbox.extend(bytes);
            }
            state.serve_peer(self.id);
        });
    }

    /// Takes what was read so far.
    pub fn read(&self) -> Vec<u8> {
        self.with(|state| std::mem::take(&mut peer_side(state, self.id).received))
    }

    /// How much [`Peer::read`] would take.
    pub fn received_bytes(&self) -> usize {
        self.with(|state| peer_side(state, self.id).received.len())
    }

    /// Leaves what comes in the receive buffer: the window closes and the sender has to wait.
    pub fn stop_reading(&self) {
        self.with(|state| peer_side(state, self.id).reading = false);
    }

    /// Reads again.
    pub fn start_reading(&self) {
        self.with(|state| {
            peer_side(state, self.id).reading = true;
            state.serve_peer(self.id);
        });
    }

    /// Reads at most `bytes` while reading is stopped: a slow reader.
    pub fn read_some(&self, bytes: usize) {
        self.with(|state| {
            let count = bytes.min(state.stream(self.id).incoming.len());
            let taken = state.take_incoming(self.id, count);
            peer_side(state, self.id).received.extend(taken);
        });
    }

    /// Sends FIN after the last byte; reading goes on.
    pub fn shutdown_write(&self) {
        self.with(|state| state.finish_writing(self.id));
    }

    /// Closes: FIN after the last byte, or a RST when bytes are unread.
    pub fn close(&self) {
        self.with(|state| {
            if state.stream(self.id).open {
                state.close_stream(self.id);
            }
        });
    }

    /// Sends a RST and is gone.
    pub fn reset(&self) {
        self.with(|state| {
            state.kill(self.id);
            state.stream_mut(self.id).open = false;
        });
    }

    /// Its machine is gone: it says nothing more, not even that it is gone.
    pub fn vanish(&self) {
        self.with(|state| state.vanish(self.id));
    }

    /// Whether neither [`Peer::close`] nor [`Peer::reset`] was called.
    pub fn is_open(&self) -> bool {
        self.with(|state| state.stream(self.id).open)
    }

    /// What is known of the connection.
    pub fn state(&self) -> PeerState {
        self.with(|state| {
            let stream = state.stream(self.id);
            let peer = stream.peer.as_ref().expect("a peer stays one");
            PeerState {
                connected: stream.phase == Phase::Connected,
                connect_error: peer.connect_error,
                eof: stream.fin_received && stream.incoming.is_empty(),
                reset: peer.reset_seen,
                unread_bytes: stream.incoming.len(),
                unsent_bytes: stream.outgoing.len() + peer.outbox.len(),
            }
        })
    }

    /// Changes what both directions travel on, from the next byte on.
    pub fn set_link(&self, link: Link) {
        self.with(|state| {
            let other = state.stream(self.id).other;
            state.stream_mut(self.id).link = link;
            if let Some(other) = other {
                state.stream_mut(other).link = link;
            }
        });
    }

    /// This end's address.
    pub fn local_address(&self) -> SocketAddr {
        self.with(|state| state.stream(self.id).local)
    }

    /// The other end's address.
    pub fn peer_address(&self) -> SocketAddr {
        self.with(|state| state.stream(self.id).remote)
    }

    fn with<T>(&self, act: impl FnOnce(&mut State) -> T) -> T {
        act(&mut self.network.state.borrow_mut())
    }
}

/// A listener in the hands of a test.
pub struct Server {
    network: Network,
    id: usize,
    address: SocketAddr,
}

impl Server {
    pub(super) fn new(network: Network, id: usize, address: SocketAddr) -> Server {
        Server { network, id, address }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Takes the next connection out of the backlog.
    pub fn accept(&self) -> Option<Peer> {
        let accepted = self.network.state.borrow_mut().listener_mut(self.id).backlog.pop_front();
        accepted.map(|id| Peer::new(self.network.clone(), id))
    }

    /// Sets how many connections wait to be accepted; SYNs beyond are dropped and sent again later.
    pub fn set_backlog(&self, connections_max: usize) {
        self.network.state.borrow_mut().listener_mut(self.id).backlog_max = connections_max;
    }

    /// Sets the buffers of the sockets it accepts from now on; the kernel doubles what is asked.
    pub fn set_options(&self, options: SocketOptions) {
        self.network.state.borrow_mut().listener_mut(self.id).options = options;
    }

    /// Stops listening: who waits in the backlog is reset, who comes later is refused.
    pub fn stop(&self) {
        let mut state = self.network.state.borrow_mut();
        if matches!(&state.sockets[self.id], Entry::Listener(listener) if listener.open) {
            state.close_listener(self.id);
        }
    }
}

fn peer_side(state: &mut State, id: usize) -> &mut PeerSide {
    state.stream_mut(id).peer.as_mut().expect("a peer stays one")
}
