//! [`KernelRing`]: io_uring, one ring to a thread, one `io_uring_enter` to a turn.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Write};
use std::mem::ManuallyDrop;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use io_uring::types::{CancelBuilder, Fd, SubmitArgs, Timespec};
use io_uring::{CompletionQueue, EnterFlags, IoUring, SubmissionQueue, Submitter, cqueue, opcode, squeue};
use socket2::{Domain, Protocol, SockAddr, SockRef, TcpKeepalive, Type};

use super::buffer_ring::{BufferRing, set_credit};
use super::buffers::{BufferSize, Chunk, Pool, PoolSettings};
use super::kernel::{self, Features, RingError};
use super::sends::{Blocks, Bytes, Send, Vectored};
use super::user_data::{Kind, Token, pack, unpack};
use super::{
    Completion, Errno, KEEPALIVE_PROBES, Outcome, ReceiveEnd, Ring, SEND_CHUNKS_MAX, Socket, SocketOptions,
    Upcoming,
};
use crate::clock::Instant;

/// The shape of a ring.
#[derive(Clone, Copy, Debug)]
pub struct RingSettings {
    /// Submissions that fit before the kernel is asked to take them early.
    pub sq_entries: u32,
    /// Completions that fit before the kernel has to queue them (counted as overflows).
    pub cq_entries: u32,
    /// Buffers for messages.
    pub small: PoolSettings,
    /// Buffers for streams.
    pub large: PoolSettings,
    /// Wake this much before a deadline and spin, for exact times at the cost of a core.
    pub spin: Option<Duration>,
}

impl Default for RingSettings {
    fn default() -> RingSettings {
        RingSettings {
            sq_entries: 4096,
            cq_entries: 16_384,
            // 64 × 16 KiB is one L2 cache; a 64-byte message touches only the first lines of each.
            small: PoolSettings { buffer_bytes: 16 * 1024, buffers: 2048, published: 64 },
            large: PoolSettings { buffer_bytes: 128 * 1024, buffers: 256, published: 8 },
            spin: None,
        }
    }
}

/// How long before a deadline a precise ring wakes to spin: a sleep overshoots by 120–160 µs on a VM.
pub const SPIN: Duration = Duration::from_micros(300);

/// Wakes a ring from another thread.
#[derive(Clone, Debug)]
pub struct Waker(Arc<File>);

impl Waker {
    /// Makes the ring's wait return with [`Outcome::Woken`]. Many calls before its next turn count as one.
    pub fn wake(&self) {
        // The counter of an eventfd can only be full when the ring has long been woken.
        let _ = (&*self.0).write(&1u64.to_ne_bytes());
    }
}

/// io_uring. Made on the thread that uses it, and never moved to another.
pub struct KernelRing {
    sq: ManuallyDrop<SubmissionQueue<'static>>,
    cq: ManuallyDrop<CompletionQueue<'static>>,
    submitter: ManuallyDrop<Submitter<'static>>,
    /// Submissions that found the queue full and the kernel unwilling; submitted first, in order.
    backlog: VecDeque<squeue::Entry>,
    small: BufferRing,
    large: BufferRing,
    sends: Blocks<Send>,
    connects: Blocks<Box<SockAddr>>,
    #[expect(clippy::vec_box, reason = "the kernel holds their addresses")]
    spare: Vec<Box<Vectored>>,
    /// Completions that were taken out of the queue together, and how many of them were read.
    batch: Vec<cqueue::Entry>,
    batch_read: usize,
    /// What one kernel completion said beyond its first message.
    pending: Option<Completion>,
    wake: Arc<File>,
    wake_count: Box<u64>,
    /// Operations whose last completion has not come.
    in_flight: u64,
    /// By descriptor: everything on it was cancelled and it is not closed yet.
    cancelled: Vec<bool>,
    /// Sockets whose FIN is sent when the ring next waits, as everything else leaves then; and by descriptor, whether
    /// it is still to be sent.
    fins: Vec<Socket>,
    fin_is_due: Vec<bool>,
    overflows: u64,
    features: Features,
    spin: Option<Duration>,
    /// Last: the queues above point into it.
    ring: ManuallyDrop<Box<IoUring>>,
}

impl KernelRing {
    /// Makes a ring for the calling thread.
    ///
    /// # Errors
    /// One that names the cause found and the remedy.
    pub fn new(settings: &RingSettings, features: Features) -> Result<KernelRing, RingError> {
        let Features { defer_taskrun, no_sqarray, .. } = features;
        let ring = kernel::build(settings.sq_entries, settings.cq_entries, defer_taskrun, no_sqarray);
        let (ring, ..) = ring.map_err(RingError::from_setup)?;
        let mut ring = Box::new(ring);
        // SAFETY: the queues borrow from the box, whose address is stable; they are dropped before it
        // (see `drop`), and nothing else uses `ring` while they live.
        let (mut submitter, sq, cq) = unsafe {
            std::mem::transmute::<
                (Submitter<'_>, SubmissionQueue<'_>, CompletionQueue<'_>),
                (Submitter<'static>, SubmissionQueue<'static>, CompletionQueue<'static>),
            >(ring.split())
        };
        if features.registered_ring {
            submitter.register_ring_fd().map_err(RingError::Other)?;
        }
        let group = |settings: &PoolSettings, id| {
            let pool = Pool::new(settings.buffers, settings.buffer_bytes);
            BufferRing::register(&submitter, pool, id, settings.published)
                .map_err(|_| RingError::Feature { feature: "buffer rings", since: "5.19" })
        };
        let (small, large) = (group(&settings.small, SMALL_GROUP)?, group(&settings.large, LARGE_GROUP)?);
        let wake = eventfd().map_err(RingError::Other)?;
        let mut ring = KernelRing {
            sq: ManuallyDrop::new(sq),
            cq: ManuallyDrop::new(cq),
            submitter: ManuallyDrop::new(submitter),
            backlog: VecDeque::new(),
            small,
            large,
            sends: Blocks::default(),
            connects: Blocks::default(),
            spare: Vec::new(),
            batch: Vec::with_capacity(BATCH),
            batch_read: 0,
            pending: None,
            wake: Arc::new(wake),
            wake_count: Box::new(0),
            in_flight: 0,
            cancelled: Vec::new(),
            fins: Vec::new(),
            fin_is_due: Vec::new(),
            overflows: 0,
            features,
            spin: settings.spin,
            ring: ManuallyDrop::new(ring),
        };
        ring.arm_wake();
        Ok(ring)
    }

    /// A handle by which other threads wake this ring.
    pub fn waker(&self) -> Waker {
        Waker(Arc::clone(&self.wake))
    }

    /// Takes over a connected or listening socket that was made elsewhere.
    pub fn adopt(&mut self, socket: OwnedFd) -> Socket {
        Socket(socket.into_raw_fd())
    }

    fn arm_wake(&mut self) {
        let buffer = (&raw mut *self.wake_count).cast();
        let entry = opcode::Read::new(Fd(self.wake.as_raw_fd()), buffer, 8).build();
        self.start(entry, Kind::Wake, Token { role: 0, slot: 0, generation: 0 }, 0);
    }

    /// Queues an operation that will have a last completion.
    fn start(&mut self, entry: squeue::Entry, kind: Kind, token: Token, block: u32) {
        self.in_flight += 1;
        self.push(entry.user_data(pack(kind, token, block)));
    }

    fn push(&mut self, entry: squeue::Entry) {
        // SAFETY: everything an entry points to is owned by this ring until its last completion.
        if !self.backlog.is_empty() || unsafe { self.sq.push(&entry) }.is_err() {
            self.backlog.push_back(entry);
            self.drain_backlog();
        }
    }

    /// Moves the backlog into the queue, asking the kernel to make room for as long as it does.
    fn drain_backlog(&mut self) {
        while let Some(entry) = self.backlog.front() {
            // SAFETY: as in `push`.
            if unsafe { self.sq.push(entry) }.is_ok() {
                self.backlog.pop_front();
                continue;
            }
            self.sq.sync();
            let queued = self.sq.len();
            // SAFETY: no argument is passed.
            let _ = unsafe { self.submitter.enter::<()>(queued as u32, 0, 0, None) };
            self.sq.sync();
            if self.sq.len() == queued {
                break;
            }
        }
    }

    /// Sends the FINs that were asked for, but those of sockets that were closed or reset since.
    fn send_fins(&mut self) {
        for socket in self.fins.drain(..) {
            if std::mem::take(&mut self.fin_is_due[socket.0 as usize]) {
                // ENOTCONN: the peer is gone, and its receive says so.
                let _ = with_socket(socket, |socket| socket.shutdown(std::net::Shutdown::Write));
            }
        }
    }

    /// close(2) sends the FIN by itself, and the descriptor may be another socket's afterwards.
    fn forget_fin(&mut self, socket: Socket) {
        if let Some(is_due) = self.fin_is_due.get_mut(socket.0 as usize) {
            *is_due = false;
        }
    }

    /// Submits what is queued, runs what is deferred, and waits if `wait` for a completion or `deadline`.
    fn enter(&mut self, wait: bool, deadline: Instant) -> io::Result<()> {
        self.sq.sync();
        let to_submit = self.sq.len() as u32;
        let mut flags = EnterFlags::GETEVENTS;
        let mut timespec = Timespec::new();
        let mut arguments = SubmitArgs::new();
        if wait && deadline != Instant::FAR_FUTURE {
            flags |= EnterFlags::EXT_ARG;
            let nanos = if self.features.absolute_deadline {
                flags |= EnterFlags::ABS_TIMER;
                deadline.as_nanos()
            } else {
                deadline.as_nanos().saturating_sub(super::monotonic_ns())
            };
            timespec = timespec.sec(nanos / 1_000_000_000).nsec((nanos % 1_000_000_000) as u32);
            arguments = arguments.timespec(&timespec);
        }
        let arguments = flags.contains(EnterFlags::EXT_ARG).then_some(&arguments);
        // SAFETY: the arguments are of the type that EXT_ARG says and live across the call.
        let result = unsafe { self.submitter.enter(to_submit, u32::from(wait), flags.bits(), arguments) };
        self.cq.sync();
        // What the queue had no room for waits in the kernel, which says so but does not count it.
        self.overflows += u64::from(self.sq.cq_overflow());
        match result {
            Ok(_) => Ok(()),
            Err(error) => match error.raw_os_error() {
                // The deadline came, a signal came, or completions must be taken first: all ordinary.
                Some(libc::ETIME | libc::EINTR | libc::EAGAIN | libc::EBUSY) => Ok(()),
                _ => Err(error),
            },
        }
    }

    fn submit_send(&mut self, block: u32) {
        const FLAGS: i32 = libc::MSG_NOSIGNAL | libc::MSG_WAITALL;
        let send = self.sends.get_mut(block);
        let (socket, token) = (Fd(send.socket.0), send.token);
        let entry = match &send.bytes {
            Bytes::One(chunk) => {
                opcode::Send::new(socket, chunk.as_ptr(), chunk.len() as u32).flags(FLAGS).build()
            }
            Bytes::Many(many) => {
                opcode::SendMsg::new(socket, &raw const many.header).flags(FLAGS as u32).build()
            }
        };
        self.start(entry, Kind::Send, token, block);
    }

    /// Takes the next completion of the kernel.
    fn next_entry(&mut self) -> Option<cqueue::Entry> {
        // Before the last is read, so that the first of the next are known ahead, too.
        if self.batch.len() - self.batch_read <= AHEAD_MIN {
            self.batch.drain(..self.batch_read);
            self.batch.extend(self.cq.by_ref().take(BATCH - self.batch.len()));
            self.batch_read = 0;
        }
        let entry = self.batch.get(self.batch_read).cloned()?;
        self.batch_read += 1;
        Some(entry)
    }

    /// Whether something has come that was not taken yet; of the kernel's queue as it was last looked at.
    fn has_completions(&self) -> bool {
        self.batch_read < self.batch.len() || !self.cq.is_empty() || self.pending.is_some()
    }

    /// Reads one kernel completion; `None` when it concerns only the ring itself.
    fn read(&mut self, cqe: &cqueue::Entry) -> Option<Completion> {
        let (kind, token, block) = unpack(cqe.user_data())?;
        let (result, more) = (cqe.result(), cqueue::more(cqe.flags()));
        if !more && !matches!(kind, Kind::Cancel | Kind::Close) {
            self.in_flight -= 1;
        }
        let errno = Errno(-result);
        let outcome = match kind {
            Kind::Cancel | Kind::Close => return None,
            Kind::Wake => {
                self.arm_wake();
                Outcome::Woken
            }
            Kind::Accept if result < 0 => Outcome::AcceptEnded(errno),
            Kind::Accept => {
                if !more {
                    self.pending = Some(Completion { token, outcome: Outcome::AcceptEnded(Errno(0)) });
                }
                Outcome::Accepted(Socket(result))
            }
            Kind::Receive => self.received(cqe, block),
            Kind::Send if result < 0 => {
                self.end_send(block);
                Outcome::SendFailed(errno)
            }
            Kind::Send => {
                let send = self.sends.get_mut(block);
                let is_cancelled = self.cancelled.get(send.socket.0 as usize) == Some(&true);
                if send.bytes.advance(result as usize) {
                    self.end_send(block);
                    Outcome::Sent
                } else if is_cancelled {
                    // A cancelled send of which a part has gone ends with the length of that part.
                    self.end_send(block);
                    Outcome::SendFailed(Errno(libc::ECANCELED))
                } else {
                    self.submit_send(block);
                    return None;
                }
            }
            Kind::Connect => {
                self.connects.remove(block);
                if result < 0 { Outcome::ConnectFailed(errno) } else { Outcome::Connected }
            }
        };
        Some(Completion { token, outcome })
    }

    fn received(&mut self, cqe: &cqueue::Entry, group: u32) -> Outcome {
        let buffers = if group == u32::from(LARGE_GROUP) { &mut self.large } else { &mut self.small };
        let buffer = cqueue::buffer_select(cqe.flags());
        let armed = cqueue::more(cqe.flags());
        match (cqe.result(), buffer) {
            (1.., Some(id)) => {
                buffers.taken();
                Outcome::Received { chunk: buffers.pool.chunk(id, cqe.result() as u32), armed }
            }
            (result, buffer) => {
                if let Some(id) = buffer {
                    buffers.taken();
                    buffers.pool.give_back(id);
                }
                Outcome::ReceiveEnded(match -result {
                    0 => ReceiveEnd::Eof,
                    libc::ENOBUFS => {
                        buffers.ran_out();
                        ReceiveEnd::NoBuffers
                    }
                    libc::ECANCELED | libc::EINTR => ReceiveEnd::Stopped,
                    errno => ReceiveEnd::Failed(Errno(errno)),
                })
            }
        }
    }

    fn end_send(&mut self, block: u32) {
        if let Bytes::Many(mut many) = self.sends.remove(block).bytes {
            many.chunks.clear();
            self.spare.push(many);
        }
    }

    fn buffers(&self, size: BufferSize) -> &BufferRing {
        match size {
            BufferSize::Small => &self.small,
            BufferSize::Large => &self.large,
        }
    }
}

impl Ring for KernelRing {
    fn now(&self) -> Instant {
        Instant::now()
    }

    fn listen(&mut self, address: SocketAddr, options: &SocketOptions) -> io::Result<(Socket, SocketAddr)> {
        let socket = socket2::Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_reuse_address(true)?;
        socket.set_reuse_port(true)?;
        apply(&socket, options)?;
        socket.bind(&address.into())?;
        socket.listen(4096)?;
        let local = socket.local_addr()?.as_socket().expect("a TCP socket has an internet address");
        Ok((Socket(socket.into_raw_fd()), local))
    }

    fn accept(&mut self, listener: Socket, token: Token) {
        let entry = opcode::AcceptMulti::new(Fd(listener.0)).flags(libc::SOCK_CLOEXEC).build();
        self.start(entry, Kind::Accept, token, 0);
    }

    fn connect(
        &mut self,
        address: SocketAddr,
        source: Option<IpAddr>,
        options: &SocketOptions,
        token: Token,
    ) -> io::Result<Socket> {
        let socket = socket2::Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        apply(&socket, options)?;
        if let Some(source) = source {
            // The port is chosen at connect, when the target is known: 28,000 ports per target, not in all.
            set_option(&socket, libc::IPPROTO_IP, libc::IP_BIND_ADDRESS_NO_PORT, 1)?;
            socket.bind(&SocketAddr::new(source, 0).into())?;
        }
        let address = Box::new(SockAddr::from(address));
        let pointer: *const libc::sockaddr = address.as_ptr().cast();
        let length = address.len();
        let block = self.connects.insert(address);
        let socket = Socket(socket.into_raw_fd());
        self.start(opcode::Connect::new(Fd(socket.0), pointer, length).build(), Kind::Connect, token, block);
        Ok(socket)
    }

    fn peer_address(&self, socket: Socket) -> io::Result<SocketAddr> {
        with_socket(socket, |socket| socket.peer_addr()).map(internet)
    }

    fn local_address(&self, socket: Socket) -> io::Result<SocketAddr> {
        with_socket(socket, |socket| socket.local_addr()).map(internet)
    }

    fn receive(&mut self, socket: Socket, token: Token, size: BufferSize, credit_bytes: u32) {
        let group = self.buffers(size).group;
        let mut entry = opcode::RecvMulti::new(Fd(socket.0), group).build();
        if self.features.receive_credit {
            // The kernel counts it as an int: more, and the first bytes would use it up.
            set_credit(&mut entry, credit_bytes.min(i32::MAX as u32));
        }
        self.start(entry, Kind::Receive, token, u32::from(group));
    }

    fn counts_credit(&self) -> bool {
        self.features.receive_credit
    }

    fn cancel_receive(&mut self, token: Token) {
        // The in-flight part of a receive's user data is its group, so both must be named.
        for group in [SMALL_GROUP, LARGE_GROUP] {
            let target = pack(Kind::Receive, token, u32::from(group));
            let entry = opcode::AsyncCancel::new(target).build().flags(squeue::Flags::SKIP_SUCCESS);
            self.push(entry.user_data(pack(Kind::Cancel, token, 0)));
        }
    }

    fn has_buffers(&self, size: BufferSize) -> bool {
        let buffers = self.buffers(size);
        buffers.published > 0 || buffers.pool.free_buffers() > 0
    }

    fn send<I: Iterator<Item = Chunk>>(&mut self, socket: Socket, token: Token, chunks: I) {
        let mut chunks = chunks.take(SEND_CHUNKS_MAX);
        let first = chunks.next().expect("a send has bytes");
        let bytes = match chunks.next() {
            None => Bytes::One(first),
            Some(second) => {
                let mut many = self.spare.pop().unwrap_or_default();
                many.chunks.extend([first, second]);
                many.chunks.extend(chunks);
                many.point();
                Bytes::Many(many)
            }
        };
        let block = self.sends.insert(Send { socket, token, bytes });
        self.submit_send(block);
    }

    fn shutdown_write(&mut self, socket: Socket) {
        // Not by the ring: it would have a thread do it (io_shutdown_prep in io_uring/net.c).
        let place = socket.0 as usize;
        if self.fin_is_due.len() <= place {
            self.fin_is_due.resize(place + 1, false);
        }
        self.fin_is_due[place] = true;
        self.fins.push(socket);
    }

    fn reset(&mut self, socket: Socket) {
        self.forget_fin(socket);
        // connect(2) to AF_UNSPEC disconnects an established socket with a RST (net/ipv4/tcp.c, tcp_disconnect).
        let nowhere = libc::sockaddr { sa_family: libc::AF_UNSPEC as u16, sa_data: [0; 14] };
        // SAFETY: `nowhere` is a valid address for the length of the call.
        unsafe { libc::connect(socket.0, &raw const nowhere, size_of::<libc::sockaddr>() as u32) };
    }

    fn failure(&mut self, socket: Socket) -> Option<Errno> {
        let error = with_socket(socket, |socket| socket.take_error());
        let error = error.unwrap_or_else(Some)?;
        Some(Errno(error.raw_os_error().unwrap_or(libc::EIO)))
    }

    fn is_over(&mut self, socket: Socket) -> bool {
        /// `TCP_CLOSE` in include/net/tcp_states.h.
        const CLOSE: u8 = 7;
        let (mut state, mut length) = (0_u8, 1);
        // SAFETY: both pointers are to locals that outlive the call; of `tcp_info` the kernel writes the first byte, which
        // is the state.
        let result = unsafe {
            let place = (&raw mut state).cast();
            libc::getsockopt(socket.0, libc::IPPROTO_TCP, libc::TCP_INFO, place, &raw mut length)
        };
        result == 0 && state == CLOSE
    }

    fn cancel_all(&mut self, socket: Socket) {
        let entry = opcode::AsyncCancel2::new(CancelBuilder::fd(Fd(socket.0)).all()).build();
        let place = socket.0 as usize;
        if self.cancelled.len() <= place {
            self.cancelled.resize(place + 1, false);
        }
        self.cancelled[place] = true;
        // Its own completion says how many it found: of no use, but it cannot be skipped with ALL.
        let token = Token { role: 0, slot: 0, generation: 0 };
        self.push(entry.user_data(pack(Kind::Cancel, token, 0)));
    }

    fn close(&mut self, socket: Socket) {
        self.forget_fin(socket);
        if let Some(cancelled) = self.cancelled.get_mut(socket.0 as usize) {
            *cancelled = false;
        }
        let entry = opcode::Close::new(Fd(socket.0)).build().flags(squeue::Flags::SKIP_SUCCESS);
        self.push(entry.user_data(pack(Kind::Close, Token { role: 0, slot: 0, generation: 0 }, 0)));
    }

    fn wait_until(&mut self, deadline: Instant) -> io::Result<()> {
        self.send_fins();
        self.drain_backlog();
        self.small.publish();
        self.large.publish();
        self.cq.sync();
        if self.has_completions() || !self.backlog.is_empty() {
            return self.enter(false, deadline);
        }
        let Some(spin) = self.spin else { return self.enter(true, deadline) };
        loop {
            let now = self.now();
            if deadline > now + spin {
                // The rest is too long to spin: sleep up to its beginning.
                let wake = if deadline == Instant::FAR_FUTURE { deadline } else { deadline - spin };
                self.enter(true, wake)?;
            } else {
                self.enter(false, deadline)?;
            }
            if self.has_completions() || self.now() >= deadline {
                return Ok(());
            }
        }
    }

    fn next_completion(&mut self) -> Option<Completion> {
        if let Some(completion) = self.pending.take() {
            return Some(completion);
        }
        loop {
            let cqe = self.next_entry()?;
            if let Some(completion) = self.read(&cqe) {
                return Some(completion);
            }
        }
    }

    fn upcoming(&self, ahead: usize) -> Option<Upcoming> {
        let (kind, token, _) = unpack(self.batch.get(self.batch_read + ahead)?.user_data())?;
        Some(Upcoming { token, brings_bytes: kind == Kind::Receive })
    }

    fn give_back_memory(&mut self) -> bool {
        self.cq.sync();
        // Only then has the kernel filled no buffer that it has not told of: it fills them within `enter`.
        let offered = self.features.defer_taskrun && !self.has_completions();
        if self.small.pool.sweep(SWEEP_BYTES, offered) || self.large.pool.sweep(SWEEP_BYTES, offered) {
            return true;
        }
        self.small.relax();
        self.large.relax();
        // A crowd once needed these, of 3 KiB each; half of them go each round.
        self.spare.truncate(self.spare.len() / 2);
        false
    }

    fn overflows(&self) -> u64 {
        self.overflows
    }
}

impl Drop for KernelRing {
    fn drop(&mut self) {
        // Nothing may be freed that an operation in flight still points to.
        for _ in 0..1000 {
            // What is queued is submitted before it is cancelled, or it would outlive the cancel.
            self.drain_backlog();
            let _ = self.enter(false, Instant::ZERO);
            let _ = self.submitter.register_sync_cancel(None, CancelBuilder::any());
            let _ = self.enter(self.in_flight > 0, Instant::now() + Duration::from_millis(10));
            while let Some(cqe) = self.next_entry() {
                if let Some((Kind::Wake | Kind::Send, ..)) = unpack(cqe.user_data()) {
                    // `read` would arm these again.
                    self.in_flight -= 1;
                } else {
                    let _ = self.read(&cqe);
                }
            }
            if self.in_flight == 0 {
                break;
            }
        }
        if self.in_flight > 0 {
            // Better to leak than to let the kernel write into freed memory.
            std::mem::forget(Rc::clone(&self.small.pool));
            std::mem::forget(Rc::clone(&self.large.pool));
            std::mem::forget(std::mem::take(&mut self.sends));
            std::mem::forget(std::mem::take(&mut self.connects));
            std::mem::forget(std::mem::take(&mut self.wake_count));
        }
        if self.features.registered_ring {
            // The thread's table of rings, which has 16 places, would keep it alive up to the thread's end.
            let _ = self.submitter.unregister_ring_fd();
        }
        // SAFETY: each is dropped once, the queues before the ring that they borrow from.
        unsafe {
            ManuallyDrop::drop(&mut self.sq);
            ManuallyDrop::drop(&mut self.cq);
            ManuallyDrop::drop(&mut self.submitter);
            ManuallyDrop::drop(&mut self.ring);
        }
    }
}

/// What is given back between two turns: some 50 µs.
const SWEEP_BYTES: usize = 1 << 20;

/// Completions that are taken out of the kernel's queue together.
const BATCH: usize = 32;
/// More are taken out when no more than these are left of them.
const AHEAD_MIN: usize = 8;
const SMALL_GROUP: u16 = 0;
const LARGE_GROUP: u16 = 1;

fn eventfd() -> io::Result<File> {
    // SAFETY: makes a descriptor; touches no memory.
    let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: fresh, and ours alone.
    Ok(File::from(unsafe { OwnedFd::from_raw_fd(fd) }))
}

fn apply(socket: &socket2::Socket, options: &SocketOptions) -> io::Result<()> {
    socket.set_tcp_nodelay(true)?;
    // Urgent data keeps its place among the other bytes, instead of one byte of it being dropped (tcp(7)).
    socket.set_out_of_band_inline(true)?;
    if let Some(time) = options.keepalive {
        let probes = TcpKeepalive::new()
            .with_time(time)
            .with_interval(SocketOptions::keepalive_interval(time))
            .with_retries(KEEPALIVE_PROBES);
        socket.set_tcp_keepalive(&probes)?;
    }
    if let Some(congestion) = &options.congestion {
        socket.set_tcp_congestion(congestion.as_bytes())?;
    }
    if let Some(bytes) = options.send_buffer_bytes {
        socket.set_send_buffer_size(bytes as usize)?;
    }
    if let Some(bytes) = options.receive_buffer_bytes {
        socket.set_recv_buffer_size(bytes as usize)?;
    }
    Ok(())
}

fn set_option(socket: &socket2::Socket, level: i32, name: i32, value: i32) -> io::Result<()> {
    let pointer = (&raw const value).cast();
    // SAFETY: the value lives across the call and has the length given.
    let result =
        unsafe { libc::setsockopt(socket.as_raw_fd(), level, name, pointer, size_of::<i32>() as u32) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn with_socket<T>(socket: Socket, call: impl FnOnce(SockRef<'_>) -> T) -> T {
    // SAFETY: a `Socket` names a descriptor of this ring until it is closed, and the borrow ends here.
    let descriptor = unsafe { BorrowedFd::borrow_raw(socket.0) };
    call(SockRef::from(&descriptor))
}

fn internet(address: SockAddr) -> SocketAddr {
    address.as_socket().expect("a TCP socket has an internet address")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_are_probed_when_silent_and_keep_urgent_data_in_line_whoever_opened_them() {
        let features = Features::probe().expect("tests need io_uring");
        let mut ring = KernelRing::new(&RingSettings::default(), features).expect("tests need io_uring");
        let options = SocketOptions { keepalive: Some(Duration::from_secs(60)), ..SocketOptions::default() };
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let (listener, address) = ring.listen(any, &options).expect("a free port");
        let token = |role| Token { role, slot: 0, generation: 0 };
        ring.accept(listener, token(1));
        let connected = ring.connect(address, None, &options, token(2)).expect("it can be reached");
        let mut accepted = None;
        while accepted.is_none() {
            ring.wait_until(Instant::FAR_FUTURE).expect("it goes on");
            while let Some(completion) = ring.next_completion() {
                if let Outcome::Accepted(socket) = completion.outcome {
                    accepted = Some(socket);
                }
            }
        }
        for socket in [Some(connected), accepted].into_iter().flatten() {
            with_socket(socket, |socket| {
                assert!(socket.keepalive().unwrap() && socket.out_of_band_inline().unwrap());
                assert_eq!(socket.tcp_keepalive_time().unwrap(), Duration::from_secs(60));
                assert_eq!(socket.tcp_keepalive_interval().unwrap(), Duration::from_secs(10));
                assert_eq!(socket.tcp_keepalive_retries().unwrap(), KEEPALIVE_PROBES);
            });
        }
    }
}
