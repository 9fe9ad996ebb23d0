//! The only `unsafe` and the only system calls: asks the kernel, hands out completions.
//!
//! [`Ring`] is the surface. [KernelRing] is io_uring; `simulated`, behind the feature of that name, is the same
//! surface in virtual time with short reads, failures and races from a seed. The proxy, the origin and the load
//! clients run on either.
//!
//! What a user of a ring may rely on:
//! - An operation's memory belongs to the ring until its last completion; chunks come back to their pool
//!   by being dropped. No caller can free memory under the kernel.
//! - A send completes once, when all of its bytes are with the kernel or when it has failed: short
//!   sends are finished inside.
//! - At most one send and one receive may be in flight on a socket's direction.
//! - A socket is closed by [`Ring::close`] after its operations have ended: a pending receive would keep
//!   it open and no FIN would be sent (io_uring keeps a reference to the file).
#![allow(unsafe_code)]

mod buffer_ring;
mod buffers;
mod kernel;
mod memory;
mod sends;
#[cfg(feature = "simulated")]
pub mod simulated;
mod thread;
mod uring;
mod user_data;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

pub use buffers::{BufferSize, Chunk, PoolSettings};

pub(crate) use memory::{Words, give_back_heap, prefetch};
pub(crate) use thread::CpuClock;

pub use kernel::{Features, Finding, Health, RingError, examine, open_files, raise_open_files_limit};
pub use thread::{ThreadClock, ThreadRuns, ask_for_short_slices, thread_cpu_ns};
pub use uring::{KernelRing, RingSettings, SPIN, Waker};
pub use user_data::{ROLE_LIMIT, SLOT_LIMIT, Token};

use crate::clock::Instant;

/// A socket of one ring: a file descriptor, or the twin's number for one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Socket(pub(crate) i32);

/// An error number of the operating system, as `errno(3)` names them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Errno(pub i32);

impl From<Errno> for io::Error {
    fn from(errno: Errno) -> io::Error {
        io::Error::from_raw_os_error(errno.0)
    }
}

impl std::fmt::Display for Errno {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        io::Error::from(*self).fmt(formatter)
    }
}

/// Most chunks that one send takes; more wait for the next.
pub const SEND_CHUNKS_MAX: usize = 64;

/// What is set on a socket before it listens or connects; an accepted socket inherits it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SocketOptions {
    /// `TCP_CONGESTION`, such as `cubic`; the system's default when absent.
    pub congestion: Option<String>,
    /// `SO_SNDBUF` in bytes; the kernel doubles it (socket(7)).
    pub send_buffer_bytes: Option<u32>,
    /// `SO_RCVBUF` in bytes; the kernel doubles it (socket(7)).
    pub receive_buffer_bytes: Option<u32>,
    /// Silence after which the kernel asks the peer whether it is still there (`TCP_KEEPIDLE`, whole seconds); it asks
    /// [`KEEPALIVE_PROBES`] times within another such span. None: it never asks.
    pub keepalive: Option<Duration>,
}

/// Probes that may stay unanswered before a connection is over (`TCP_KEEPCNT`, tcp(7)).
pub const KEEPALIVE_PROBES: u32 = 6;

impl SocketOptions {
    /// The pause between two probes (`TCP_KEEPINTVL`): whole seconds, at least one.
    pub(crate) fn keepalive_interval(keepalive: Duration) -> Duration {
        Duration::from_secs((keepalive.as_secs() / u64::from(KEEPALIVE_PROBES)).max(1))
    }
}

/// What a completion that was not taken yet is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Upcoming {
    /// The token of its operation.
    pub token: Token,
    /// It is of a receive.
    pub brings_bytes: bool,
}

/// One thing that happened.
#[derive(Debug)]
pub struct Completion {
    /// Who asked for it.
    pub token: Token,
    /// What came of it.
    pub outcome: Outcome,
}

/// What came of an operation.
#[derive(Debug)]
pub enum Outcome {
    /// A connection arrived. The accept goes on.
    Accepted(Socket),
    /// The accept has ended and must be armed again: at once, or after a pause on `EMFILE`/`ENFILE`.
    AcceptEnded(Errno),
    /// Bytes arrived; never empty. When `armed` is false the receive has ended (its credit is spent).
    Received {
        /// The bytes.
        chunk: Chunk,
        /// Whether more will come without asking again.
        armed: bool,
    },
    /// The receive has ended without bytes.
    ReceiveEnded(ReceiveEnd),
    /// Every byte of the send is with the kernel.
    Sent,
    /// The send failed; how many of its bytes were taken is unknown to the peer and of no use.
    SendFailed(Errno),
    /// The connection is made.
    Connected,
    /// The connection was not made; the socket still has to be closed.
    ConnectFailed(Errno),
    /// A [`Waker`] of this ring was used.
    Woken,
}

/// Why a receive ended without bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReceiveEnd {
    /// The peer sent its FIN: no more bytes will come.
    Eof,
    /// Its pool was empty. Arm again when [`Ring::has_buffers`] says so.
    NoBuffers,
    /// It was cancelled, or ended by the kernel without a reason; it may be armed again.
    Stopped,
    /// The connection failed.
    Failed(Errno),
}

/// What fracas asks of the kernel, and of its simulated twin.
pub trait Ring {
    /// The clock of this ring. The loop reads it once a turn.
    fn now(&self) -> Instant;

    /// Opens a listening socket that other rings may listen beside (`SO_REUSEPORT`); port 0 takes a free one.
    ///
    /// # Errors
    /// Those of socket(2), bind(2) and listen(2).
    fn listen(&mut self, address: SocketAddr, options: &SocketOptions) -> io::Result<(Socket, SocketAddr)>;

    /// Accepts on `listener` until it is closed: one [`Outcome::Accepted`] each.
    fn accept(&mut self, listener: Socket, token: Token);

    /// Opens a socket and connects it, from `source` if given: [`Outcome::Connected`] or `ConnectFailed`.
    ///
    /// # Errors
    /// Those of socket(2) and bind(2); `EMFILE` when no descriptor is left.
    fn connect(
        &mut self,
        address: SocketAddr,
        source: Option<IpAddr>,
        options: &SocketOptions,
        token: Token,
    ) -> io::Result<Socket>;

    /// The address of the peer of an accepted socket.
    ///
    /// # Errors
    /// `ENOTCONN` when the peer is gone already.
    fn peer_address(&self, socket: Socket) -> io::Result<SocketAddr>;

    /// The address a connected socket has on this side.
    ///
    /// # Errors
    /// Those of getsockname(2).
    fn local_address(&self, socket: Socket) -> io::Result<SocketAddr>;

    /// Receives into buffers of `size` until about `credit_bytes` have come (by less than a buffer more),
    /// the peer ends, or the pool is empty. Where the kernel cannot count credit, until cancelled.
    fn receive(&mut self, socket: Socket, token: Token, size: BufferSize, credit_bytes: u32);

    /// Whether [`Ring::receive`] honours its credit; otherwise back-pressure needs [`Ring::cancel_receive`].
    fn counts_credit(&self) -> bool;

    /// Asks a receive to end; its last completion still comes.
    fn cancel_receive(&mut self, token: Token);

    /// Whether a receive of this size would find a buffer.
    fn has_buffers(&self, size: BufferSize) -> bool;

    /// Sends at most [`SEND_CHUNKS_MAX`] chunks in one operation: [`Outcome::Sent`] or `SendFailed`.
    ///
    /// # Panics
    /// When `chunks` is empty.
    fn send<I: Iterator<Item = Chunk>>(&mut self, socket: Socket, token: Token, chunks: I);

    /// Sends FIN after the bytes already sent, when the ring next waits; the other direction goes on.
    fn shutdown_write(&mut self, socket: Socket);

    /// Ends the connection with a true RST, now, whatever is pending on it; its operations end in error.
    fn reset(&mut self, socket: Socket);

    /// Why the connection of a socket that nobody reads has failed: its peer sent a RST, or answers no more. Told once
    /// (`SO_ERROR`), unless a send or a receive was told before. It costs a system call, so ask seldom.
    ///
    /// `EPIPE` when the peer had sent its FIN before the RST (tcp_reset in net/ipv4/tcp_input.c).
    fn failure(&mut self, socket: Socket) -> Option<Errno>;

    /// Whether the connection of a socket is over in both directions, as after a RST (`TCP_CLOSE` in `TCP_INFO`, tcp(7)).
    /// A send that had gone in part swallows the RST's error, and a receive then says an end as it does for a FIN. It
    /// costs a system call, so ask seldom.
    fn is_over(&mut self, socket: Socket) -> bool;

    /// Asks every operation on the socket to end; their completions still come.
    fn cancel_all(&mut self, socket: Socket);

    /// Closes a socket on which nothing is in flight.
    fn close(&mut self, socket: Socket);

    /// Submits what was asked and waits until something completed or `deadline` has come; returns early
    /// for no reason at times.
    ///
    /// # Errors
    /// Only what the ring cannot go on from.
    fn wait_until(&mut self, deadline: Instant) -> io::Result<()>;

    /// The next thing that happened, without waiting.
    fn next_completion(&mut self) -> Option<Completion>;

    /// What a completion behind the next one is about, `ahead` places further on, if that is known: so that what belongs
    /// to it can be fetched into the cache meanwhile. It may also be about the ring itself.
    fn upcoming(&self, _ahead: usize) -> Option<Upcoming> {
        None
    }

    /// Gives the system a part of the memory of receive buffers that were not used since this was last asked of them;
    /// returns whether there is more to look at in this round. A part takes well below a millisecond.
    fn give_back_memory(&mut self) -> bool {
        false
    }

    /// Times the kernel had more completions than the queue had room for. They were not lost; they were slow.
    fn overflows(&self) -> u64;
}

/// Reads `CLOCK_MONOTONIC`, in nanoseconds.
pub(crate) fn monotonic_ns() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a valid timespec for the length of the call.
    let result = unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut time) };
    assert_eq!(result, 0, "CLOCK_MONOTONIC is always there on Linux");
    time.tv_sec.unsigned_abs() * 1_000_000_000 + time.tv_nsec.unsigned_abs()
}
