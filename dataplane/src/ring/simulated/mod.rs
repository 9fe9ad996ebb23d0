//! The ring's twin: the same surface in virtual time, with short reads, failures and races from a seed.
//!
//! A [`Network`] holds the clock and the sockets of any number of [`SimulatedRing`]s, so that a load
//! worker, a proxy worker and an origin run in one test; [`Peer`] and [`Server`] are ends without a ring.
//! [`Simulation`] gives each its turns. Nothing here reads the machine's clock or touches a socket.
//!
//! The twin is stricter than the kernel: two receives or two sends in flight on one socket, a close with
//! something in flight, a FIN before the end of a send, a use after close and a leaked buffer are panics.

mod faults;
mod network;
mod operations;
mod peer;
mod simulation;
mod state;
mod stream;
#[cfg(test)]
mod tests;

use std::io;
use std::net::{IpAddr, SocketAddr};

pub use faults::Faults;
pub use network::{Link, Network, RingId};
pub use peer::{Peer, PeerState, Server};
pub use simulation::{Actor, Simulation};

use self::operations::Submission;
use self::state::{Entry, State};
use self::stream::{Phase, Stream};
use super::buffers::{BufferSize, Chunk, PoolSettings};
use super::{Completion, Errno, Ring, SEND_CHUNKS_MAX, Socket, SocketOptions, Token};
use crate::clock::Instant;

/// The shape of a simulated ring.
#[derive(Clone, Copy, Debug)]
pub struct SimulatedSettings {
    /// Buffers for messages.
    pub small: PoolSettings,
    /// Buffers for streams.
    pub large: PoolSettings,
    /// Completions that fit; more end a multishot receive and count as overflows.
    pub cq_entries: u32,
    /// What [`Ring::counts_credit`] answers, and does.
    pub counts_credit: bool,
    /// Sockets on which one wait finds something; the others are found by the next.
    pub ready_per_wait: usize,
}

impl Default for SimulatedSettings {
    /// Small pools: running out is ordinary.
    fn default() -> SimulatedSettings {
        SimulatedSettings {
            small: PoolSettings { buffer_bytes: 2048, buffers: 64, published: 64 },
            large: PoolSettings { buffer_bytes: 16 * 1024, buffers: 16, published: 16 },
            cq_entries: 256,
            counts_credit: true,
            // `IO_LOCAL_TW_DEFAULT_MAX` of io_uring/io_uring.c in Linux 6.13 and later.
            ready_per_wait: 20,
        }
    }
}

/// The seeds of a test: `SEED` from the environment alone if it is set, otherwise 0 to `count` − 1.
///
/// # Panics
/// When `SEED` is not a number.
pub fn seeds(count: u64) -> std::ops::Range<u64> {
    match std::env::var("SEED") {
        Ok(seed) => {
            let seed = seed.parse().unwrap_or_else(|_| panic!("SEED={seed} is not a number; try SEED=42"));
            seed..seed + 1
        }
        Err(_) => 0..count,
    }
}

/// A ring on a [`Network`]. Dropping it closes what it left open, as the kernel does for a process.
pub struct SimulatedRing {
    network: Network,
    id: RingId,
}

impl SimulatedRing {
    /// The name by which the network and the simulation know it.
    pub fn id(&self) -> RingId {
        self.id
    }

    /// The network it is on.
    pub fn network(&self) -> &Network {
        &self.network
    }

    fn with<T>(&self, act: impl FnOnce(&mut State) -> T) -> T {
        act(&mut self.network.state.borrow_mut())
    }

    fn submit(&self, submission: Submission) {
        self.with(|state| state.rings[self.id.0].submissions.push_back(submission));
    }

    /// Asserts that the socket is an open stream of this ring.
    fn with_stream<T>(&self, socket: Socket, act: impl FnOnce(&mut Stream, u64) -> T) -> T {
        self.with(|state| {
            let (id, seed) = (self.known(state, socket), state.seed);
            act(state.stream_mut(id), seed)
        })
    }

    fn known(&self, state: &State, socket: Socket) -> usize {
        let (ring, seed) = (self.id.0, state.seed);
        let id = usize::try_from(socket.0).expect("sockets are not negative");
        let (owner, open) = match state.sockets.get(id) {
            Some(Entry::Listener(listener)) => (listener.ring, listener.open),
            Some(Entry::Stream(stream)) => (stream.ring, stream.open),
            None => (None, false),
        };
        assert_eq!(owner, Some(ring), "ring {ring} uses socket {id}, which is not its own (seed {seed})");
        assert!(open, "ring {ring} uses socket {id} after it was closed (seed {seed})");
        id
    }
}

impl Ring for SimulatedRing {
    fn now(&self) -> Instant {
        self.with(|state| {
            state.rings[self.id.0].clock_reads += 1;
            state.now
        })
    }

    fn listen(&mut self, address: SocketAddr, options: &SocketOptions) -> io::Result<(Socket, SocketAddr)> {
        let (id, address) = self.with(|state| state.listen(Some(self.id.0), address, options))?;
        Ok((number(id), address))
    }

    fn accept(&mut self, listener: Socket, token: Token) {
        let socket = self.with(|state| {
            let (id, seed) = (self.known(state, listener), state.seed);
            let listener = state.listener_mut(id);
            assert!(!listener.accept_in_flight, "a second accept on listener {id} (seed {seed})");
            listener.accept_in_flight = true;
            id
        });
        self.submit(Submission::Accept { socket, token });
    }

    fn connect(
        &mut self,
        address: SocketAddr,
        source: Option<IpAddr>,
        options: &SocketOptions,
        token: Token,
    ) -> io::Result<Socket> {
        let socket = self.with(|state| {
            if state.chance(state.faults.connect_emfile) {
                return Err(io::Error::from_raw_os_error(libc::EMFILE));
            }
            let id = state.open_stream(Some(self.id.0), address, source, options);
            state.stream_mut(id).in_flight.connect = true;
            Ok(id)
        })?;
        self.submit(Submission::Connect { socket, token });
        Ok(number(socket))
    }

    fn peer_address(&self, socket: Socket) -> io::Result<SocketAddr> {
        self.with_stream(socket, |stream, _| match stream.phase {
            Phase::Connected => Ok(stream.remote),
            Phase::Connecting | Phase::Dead => Err(io::Error::from_raw_os_error(libc::ENOTCONN)),
        })
    }

    fn local_address(&self, socket: Socket) -> io::Result<SocketAddr> {
        self.with_stream(socket, |stream, _| Ok(stream.local))
    }

    fn receive(&mut self, socket: Socket, token: Token, size: BufferSize, credit_bytes: u32) {
        let id = self.with(|state| {
            let (id, seed) = (self.known(state, socket), state.seed);
            let stream = state.stream_mut(id);
            assert!(!stream.in_flight.receive, "a second receive in flight on socket {id} (seed {seed})");
            assert_ne!(
                stream.phase,
                Phase::Connecting,
                "socket {id} receives before it connected (seed {seed})"
            );
            stream.in_flight.receive = true;
            let twin = state.rings[self.id.0].receives.insert(token, id);
            assert_eq!(twin, None, "a receive with {token:?} is already in flight (seed {seed})");
            id
        });
        self.submit(Submission::Receive { socket: id, token, size, credit_bytes });
    }

    fn counts_credit(&self) -> bool {
        self.with(|state| state.rings[self.id.0].counts_credit)
    }

    fn cancel_receive(&mut self, token: Token) {
        self.submit(Submission::CancelReceive { token });
    }

    fn has_buffers(&self, size: BufferSize) -> bool {
        self.with(|state| state.rings[self.id.0].pool(size).free_buffers() > 0)
    }

    fn send<I: Iterator<Item = Chunk>>(&mut self, socket: Socket, token: Token, chunks: I) {
        let chunks: Vec<Chunk> = chunks.take(SEND_CHUNKS_MAX).collect();
        let id = self.with(|state| {
            let (id, seed) = (self.known(state, socket), state.seed);
            assert!(!chunks.is_empty(), "a send without chunks on socket {id} (seed {seed})");
            assert!(
                chunks.iter().all(|chunk| !chunk.is_empty()),
                "an empty chunk on socket {id} (seed {seed})"
            );
            let stream = state.stream_mut(id);
            assert!(!stream.in_flight.send, "a second send in flight on socket {id} (seed {seed})");
            assert!(!stream.fin_asked, "socket {id} sends after its FIN (seed {seed})");
            assert_ne!(
                stream.phase,
                Phase::Connecting,
                "socket {id} sends before it connected (seed {seed})"
            );
            stream.in_flight.send = true;
            id
        });
        self.submit(Submission::Send { socket: id, token, chunks });
    }

    fn shutdown_write(&mut self, socket: Socket) {
        self.with(|state| {
            state.rings[self.id.0].work += 1;
            let (id, seed) = (self.known(state, socket), state.seed);
            let stream = state.stream(id);
            // The kernel would end that send with EPIPE, and the bytes it had left would be lost.
            assert!(!stream.in_flight.send, "FIN on socket {id} before its send ended (seed {seed})");
            state.finish_writing(id);
        });
    }

    fn reset(&mut self, socket: Socket) {
        self.with(|state| {
            state.rings[self.id.0].work += 1;
            let id = self.known(state, socket);
            state.kill(id);
        });
    }

    fn failure(&mut self, socket: Socket) -> Option<Errno> {
        self.with(|state| {
            state.rings[self.id.0].work += 1;
            let id = self.known(state, socket);
            state.stream_mut(id).error.take()
        })
    }

    fn is_over(&mut self, socket: Socket) -> bool {
        self.with(|state| {
            state.rings[self.id.0].work += 1;
            let id = self.known(state, socket);
            state.stream_mut(id).phase == Phase::Dead
        })
    }

    fn cancel_all(&mut self, socket: Socket) {
        let socket = self.with(|state| self.known(state, socket));
        self.submit(Submission::CancelAll { socket });
    }

    fn close(&mut self, socket: Socket) {
        self.with(|state| {
            state.rings[self.id.0].work += 1;
            let (id, seed) = (self.known(state, socket), state.seed);
            match &state.sockets[id] {
                Entry::Listener(listener) => {
                    assert!(
                        !listener.accept_in_flight,
                        "listener {id} closed while it accepts (seed {seed})"
                    );
                    state.close_listener(id);
                }
                Entry::Stream(stream) => {
                    let in_flight = stream.in_flight;
                    assert_eq!(in_flight, Default::default(), "socket {id} closed too early (seed {seed})");
                    state.close_stream(id);
                }
            }
        });
    }

    fn wait_until(&mut self, deadline: Instant) -> io::Result<()> {
        self.with(|state| {
            state.rings[self.id.0].deadline = deadline;
            state.wait(self.id.0);
        });
        Ok(())
    }

    fn next_completion(&mut self) -> Option<Completion> {
        let (completion, held) = self.with(|state| state.next_completion(self.id.0))?;
        drop(held);
        Some(completion)
    }

    fn overflows(&self) -> u64 {
        self.with(|state| state.rings[self.id.0].overflows)
    }
}

impl Drop for SimulatedRing {
    fn drop(&mut self) {
        if std::thread::panicking() {
            return;
        }
        self.with(|state| state.drop_ring(self.id.0));
    }
}

fn number(id: usize) -> Socket {
    Socket(i32::try_from(id).expect("fewer than 2^31 sockets in a simulation"))
}
