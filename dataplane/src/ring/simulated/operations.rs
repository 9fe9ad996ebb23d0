//! What a ring asks for and is told: operations in flight, and their completions.
//!
//! An operation is queued when it is asked for, starts when the ring next waits (as a submission does), and
//! is in flight until its last completion was taken out. A ring that asks for what the kernel forbids, or
//! answers with garbage, panics.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::rc::Rc;

use super::super::buffers::Pool;
use super::super::{BufferSize, Chunk, Completion, Errno, Outcome, ReceiveEnd, Socket, Token};
use super::state::{Entry, Event, Listener, NOBODY, State};
use super::stream::Phase;

pub(super) struct RingState {
    pub(super) small: Rc<Pool>,
    pub(super) large: Rc<Pool>,
    pub(super) counts_credit: bool,
    pub(super) cq_entries: usize,
    pub(super) ready_per_wait: usize,
    pub(super) overflows: u64,
    pub(super) clock_reads: u64,
    pub(super) work: u64,
    pub(super) submissions: VecDeque<Submission>,
    pub(super) ready: BTreeSet<usize>,
    pub(super) completions: VecDeque<Done>,
    /// The socket of each receive in flight: two with one token could not be cancelled apart.
    pub(super) receives: HashMap<Token, usize>,
    pub(super) woken: bool,
    pub(super) deadline: crate::clock::Instant,
    /// Its thread stands still.
    pub(super) stopped: bool,
}

impl RingState {
    pub(super) fn pool(&self, size: BufferSize) -> &Rc<Pool> {
        match size {
            BufferSize::Small => &self.small,
            BufferSize::Large => &self.large,
        }
    }
}

pub(super) enum Submission {
    Accept { socket: usize, token: Token },
    Receive { socket: usize, token: Token, size: BufferSize, credit_bytes: u32 },
    Send { socket: usize, token: Token, chunks: Vec<Chunk> },
    Connect { socket: usize, token: Token },
    CancelReceive { token: Token },
    CancelAll { socket: usize },
}

pub(super) struct AcceptOperation {
    id: u64,
    token: Token,
}

pub(super) struct ReceiveOperation {
    id: u64,
    token: Token,
    size: BufferSize,
    credit_bytes: u64,
}

pub(super) struct SendOperation {
    id: u64,
    token: Token,
    /// Held until the completion is taken out, as the kernel holds them.
    chunks: Vec<Chunk>,
    /// How much of the chunks the socket has taken: whole chunks, and bytes of the next.
    taken: (usize, usize),
}

pub(super) struct ConnectOperation {
    id: u64,
    token: Token,
}

/// Which operations were asked for whose last completion was not yet taken out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct InFlight {
    pub(super) receive: bool,
    pub(super) send: bool,
    pub(super) connect: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Accept,
    Receive,
    Send,
    Connect,
    Wake,
}

/// A completion that waits to be taken out.
pub(super) struct Done {
    completion: Completion,
    socket: usize,
    kind: Kind,
    /// The operation has ended.
    last: bool,
    /// What the kernel lets go of now.
    held: Vec<Chunk>,
}

impl Listener {
    pub(super) fn is_for(&self, address: std::net::SocketAddr) -> bool {
        let ip = self.address.ip();
        self.address.port() == address.port() && (ip.is_unspecified() || ip == address.ip())
    }
}

impl State {
    pub(super) fn is_runnable(&self, ring: usize) -> bool {
        let ring = &self.rings[ring];
        ring.woken || !ring.completions.is_empty() || !ring.submissions.is_empty() || !ring.ready.is_empty()
    }

    /// Ends a ring: its operations are gone, its sockets are closed by the kernel.
    pub(super) fn drop_ring(&mut self, ring: usize) {
        let state = &mut self.rings[ring];
        state.submissions.clear();
        state.completions.clear();
        state.receives.clear();
        state.ready.clear();
        for id in 0..self.sockets.len() {
            match &mut self.sockets[id] {
                Entry::Listener(listener) if listener.ring == Some(ring) && listener.open => {
                    listener.accept = None;
                    self.close_listener(id);
                }
                Entry::Stream(stream) if stream.ring == Some(ring) && stream.open => {
                    (stream.receive, stream.send, stream.connect) = (None, None, None);
                    self.close_stream(id);
                }
                _ => {}
            }
        }
    }

    /// Starts what was asked for and completes what can be.
    pub(super) fn wait(&mut self, ring: usize) {
        self.rings[ring].work += 1;
        while let Some(submission) = self.rings[ring].submissions.pop_front() {
            let state = &mut self.rings[ring];
            state.work += match submission {
                // The kernel looks at everything in flight for what is the descriptor's.
                Submission::CancelAll { .. } => 1 + state.receives.len() as u64,
                _ => 1,
            };
            self.start(ring, submission);
        }
        if self.chance(self.faults.spurious_wake) {
            return;
        }
        if std::mem::take(&mut self.rings[ring].woken) {
            self.complete(ring, usize::MAX, Kind::Wake, NOBODY, Outcome::Woken, false, Vec::new());
        }
        let mut ready: Vec<usize> = std::mem::take(&mut self.rings[ring].ready).into_iter().collect();
        if self.chance(self.faults.reorder) {
            for last in (1..ready.len()).rev() {
                ready.swap(last, self.rng.below(last as u64 + 1) as usize);
            }
        }
        let left = ready.split_off(ready.len().min(self.rings[ring].ready_per_wait));
        self.rings[ring].ready.extend(left);
        for socket in ready {
            self.poll(ring, socket);
        }
    }

    pub(super) fn next_completion(&mut self, ring: usize) -> Option<(Completion, Vec<Chunk>)> {
        let done = self.rings[ring].completions.pop_front()?;
        self.rings[ring].work += 1;
        if done.last {
            if done.kind == Kind::Receive {
                self.rings[ring].receives.remove(&done.completion.token);
            }
            match (&mut self.sockets[done.socket], done.kind) {
                (Entry::Listener(listener), _) => listener.accept_in_flight = false,
                (Entry::Stream(stream), Kind::Receive) => stream.in_flight.receive = false,
                (Entry::Stream(stream), Kind::Send) => stream.in_flight.send = false,
                (Entry::Stream(stream), _) => stream.in_flight.connect = false,
            }
        }
        Some((done.completion, done.held))
    }

    /// Something happened to a socket: its owner will look at it, at once or a little late.
    pub(super) fn make_ready(&mut self, socket: usize) {
        if !self.is_told_late(socket) {
            self.make_ready_now(socket);
        }
    }

    /// Whether what has happened to a socket is looked at later, by a fault.
    pub(super) fn is_told_late(&mut self, socket: usize) -> bool {
        let is_late = self.chance(self.faults.late_completion);
        if is_late {
            let at = self.now + self.lateness();
            self.schedule(at, Event::Poll { socket });
        }
        is_late
    }

    pub(super) fn make_ready_now(&mut self, socket: usize) {
        let ring = match &self.sockets[socket] {
            Entry::Listener(listener) => listener.accept.as_ref().and(listener.ring),
            Entry::Stream(stream) if stream.peer.is_some() => return self.serve_peer(socket),
            Entry::Stream(stream) => {
                let waits = stream.receive.is_some() || stream.send.is_some() || stream.connect.is_some();
                stream.ring.filter(|_| waits)
            }
        };
        if let Some(ring) = ring
            && self.can_progress(socket)
        {
            self.rings[ring].ready.insert(socket);
        }
    }

    /// Whether looking at the socket would complete or move something.
    fn can_progress(&self, socket: usize) -> bool {
        match &self.sockets[socket] {
            Entry::Listener(listener) => !listener.backlog.is_empty(),
            Entry::Stream(stream) => {
                let dead = stream.phase == Phase::Dead;
                let readable = dead || !stream.incoming.is_empty() || stream.fin_received;
                let writable = dead || stream.fin_asked || stream.outgoing.len() < stream.outgoing_max;
                (stream.connect.is_some() && stream.phase != Phase::Connecting)
                    || (stream.receive.is_some() && readable)
                    || (stream.send.is_some() && writable)
            }
        }
    }

    fn start(&mut self, ring: usize, submission: Submission) {
        let id = self.operation_id();
        match submission {
            Submission::Accept { socket, token } => {
                self.listener_mut(socket).accept = Some(AcceptOperation { id, token });
                self.make_ready(socket);
            }
            Submission::Receive { socket, token, size, credit_bytes } => {
                let credit_bytes = u64::from(credit_bytes);
                self.stream_mut(socket).receive = Some(ReceiveOperation { id, token, size, credit_bytes });
                self.make_ready(socket);
            }
            Submission::Send { socket, token, chunks } => {
                self.stream_mut(socket).send = Some(SendOperation { id, token, chunks, taken: (0, 0) });
                self.make_ready(socket);
            }
            Submission::Connect { socket, token } => {
                self.stream_mut(socket).connect = Some(ConnectOperation { id, token });
                let delay = self.stream(socket).link.delay;
                let event = if self.chance(self.faults.connect_fail) {
                    let errnos = [libc::ECONNREFUSED, libc::ETIMEDOUT, libc::EHOSTUNREACH];
                    let errno = Errno(errnos[self.rng.below(3) as usize]);
                    Event::ConnectDone { client: socket, result: Err(errno) }
                } else {
                    Event::Syn { client: socket, attempt: 0 }
                };
                self.schedule(self.now + delay, event);
                self.make_ready(socket);
            }
            Submission::CancelReceive { token } => {
                let found = self.rings[ring].receives.get(&token).copied();
                if let Some(socket) = found
                    && let Some(receive) = &self.stream(socket).receive
                {
                    let operation = receive.id;
                    self.cancel(socket, operation);
                }
            }
            Submission::CancelAll { socket } => {
                let operations = match &self.sockets[socket] {
                    Entry::Listener(listener) => {
                        [listener.accept.as_ref().map(|accept| accept.id), None, None]
                    }
                    Entry::Stream(stream) => [
                        stream.receive.as_ref().map(|receive| receive.id),
                        stream.send.as_ref().map(|send| send.id),
                        stream.connect.as_ref().map(|connect| connect.id),
                    ],
                };
                for operation in operations.into_iter().flatten() {
                    self.cancel(socket, operation);
                }
            }
        }
    }

    fn cancel(&mut self, socket: usize, operation: u64) {
        if self.chance(self.faults.late_cancel) {
            let at = self.now + self.lateness();
            self.schedule(at, Event::Cancel { socket, operation });
        } else {
            self.cancel_operation(socket, operation);
        }
    }

    /// Ends an operation if it has not ended by itself; what it could still do, it may do first.
    pub(super) fn cancel_operation(&mut self, socket: usize, operation: u64) {
        let canceled = Errno(libc::ECANCELED);
        let ring = match &self.sockets[socket] {
            Entry::Listener(listener) => listener.ring,
            Entry::Stream(stream) => stream.ring,
        };
        let ring = ring.expect("only rings ask for operations");
        if self.faults.late_cancel > 0.0 && self.chance(0.5) {
            self.poll(ring, socket);
        }
        match &mut self.sockets[socket] {
            Entry::Listener(listener) => {
                if let Some(accept) = listener.accept.take_if(|accept| accept.id == operation) {
                    let outcome = Outcome::AcceptEnded(canceled);
                    self.complete(ring, socket, Kind::Accept, accept.token, outcome, true, Vec::new());
                }
            }
            Entry::Stream(stream) => {
                if let Some(receive) = stream.receive.take_if(|receive| receive.id == operation) {
                    let outcome = Outcome::ReceiveEnded(ReceiveEnd::Stopped);
                    self.complete(ring, socket, Kind::Receive, receive.token, outcome, true, Vec::new());
                } else if let Some(send) = stream.send.take_if(|send| send.id == operation) {
                    let outcome = Outcome::SendFailed(canceled);
                    self.complete(ring, socket, Kind::Send, send.token, outcome, true, send.chunks);
                } else if let Some(connect) = stream.connect.take_if(|connect| connect.id == operation) {
                    let outcome = Outcome::ConnectFailed(canceled);
                    self.complete(ring, socket, Kind::Connect, connect.token, outcome, true, Vec::new());
                }
            }
        }
    }

    fn poll(&mut self, ring: usize, socket: usize) {
        match &self.sockets[socket] {
            Entry::Listener(_) => self.poll_accept(ring, socket),
            Entry::Stream(_) => {
                self.poll_connect(ring, socket);
                // A dead socket tells its error once; who asks first gets it.
                if self.faults.reorder > 0.0 && self.chance(0.5) {
                    self.poll_send(ring, socket);
                    self.poll_receive(ring, socket);
                } else {
                    self.poll_receive(ring, socket);
                    self.poll_send(ring, socket);
                }
            }
        }
    }

    fn poll_accept(&mut self, ring: usize, id: usize) {
        loop {
            let listener = self.listener_mut(id);
            let Some(&AcceptOperation { token, .. }) = listener.accept.as_ref() else { return };
            if listener.backlog.is_empty() {
                return;
            }
            let mut end = None;
            if self.chance(self.faults.accept_emfile) {
                end = Some(Errno(libc::EMFILE));
            } else {
                let accepted = self.listener_mut(id).backlog.pop_front().expect("it was looked at above");
                self.stream_mut(accepted).ring = Some(ring);
                let outcome = Outcome::Accepted(Socket(accepted as i32));
                self.complete(ring, id, Kind::Accept, token, outcome, false, Vec::new());
                if self.chance(self.faults.lost_more) {
                    end = Some(Errno(0));
                }
            }
            if let Some(errno) = end {
                self.listener_mut(id).accept = None;
                let outcome = Outcome::AcceptEnded(errno);
                self.complete(ring, id, Kind::Accept, token, outcome, true, Vec::new());
            }
        }
    }

    fn poll_connect(&mut self, ring: usize, id: usize) {
        let stream = self.stream_mut(id);
        if stream.phase == Phase::Connecting {
            return;
        }
        let Some(ConnectOperation { token, .. }) = stream.connect.take() else { return };
        let outcome = match stream.phase {
            Phase::Dead => Outcome::ConnectFailed(stream.error.take().unwrap_or(Errno(libc::ECONNRESET))),
            _ => Outcome::Connected,
        };
        self.complete(ring, id, Kind::Connect, token, outcome, true, Vec::new());
    }

    fn poll_receive(&mut self, ring: usize, id: usize) {
        loop {
            let (no_buffers, lost_more) =
                (self.chance(self.faults.no_buffers), self.chance(self.faults.lost_more));
            let counts_credit = self.rings[ring].counts_credit;
            let stream = self.stream_mut(id);
            let Some(receive) = &mut stream.receive else { return };
            let (token, size) = (receive.token, receive.size);
            let unread = stream.incoming.len();
            let end = if unread > 0 {
                let pool = Rc::clone(self.rings[ring].pool(size));
                if no_buffers || pool.free_buffers() == 0 {
                    ReceiveEnd::NoBuffers
                } else if lost_more && self.chance(0.25) {
                    ReceiveEnd::Stopped
                } else {
                    let mut count = unread.min(pool.buffer_bytes() as usize);
                    if self.chance(self.faults.short_receive) {
                        count = 1 + self.rng.below(count as u64) as usize;
                    }
                    let bytes = self.take_incoming(id, count);
                    let chunk = pool.filled(&bytes).expect("a buffer was free above");
                    let receive = self.stream_mut(id).receive.as_mut().expect("it was there above");
                    receive.credit_bytes = receive.credit_bytes.saturating_sub(count as u64);
                    let spent = counts_credit && receive.credit_bytes == 0;
                    // A full queue ends a multishot (io_uring/io_uring.c, io_req_post_cqe).
                    let overflows = self.rings[ring].completions.len() >= self.rings[ring].cq_entries;
                    let armed = !(lost_more || spent || overflows);
                    if !armed {
                        self.stream_mut(id).receive = None;
                    }
                    let outcome = Outcome::Received { chunk, armed };
                    self.complete(ring, id, Kind::Receive, token, outcome, !armed, Vec::new());
                    continue;
                }
            } else if stream.reset_here && stream.error.is_none() {
                ReceiveEnd::Failed(Errno(libc::ENOTCONN))
            } else if let Some(errno) = stream.error.take() {
                ReceiveEnd::Failed(errno)
            } else if stream.fin_received || stream.phase == Phase::Dead {
                // Also after a RST whose error another operation was told (tcp_recvmsg, RCV_SHUTDOWN).
                ReceiveEnd::Eof
            } else {
                return;
            };
            self.stream_mut(id).receive = None;
            let outcome = Outcome::ReceiveEnded(end);
            self.complete(ring, id, Kind::Receive, token, outcome, true, Vec::new());
            return;
        }
    }

    fn poll_send(&mut self, ring: usize, id: usize) {
        loop {
            let stream = self.stream(id);
            let has_begun = stream.send.as_ref().is_some_and(|send| send.taken != (0, 0));
            let told = has_begun && stream.phase == Phase::Dead && stream.error.is_some();
            if told && self.chance(self.faults.swallowed_error) {
                self.stream_mut(id).error = None;
            }
            let stream = self.stream_mut(id);
            let Some(send) = &mut stream.send else { return };
            let token = send.token;
            let outcome = if stream.phase == Phase::Dead || stream.fin_asked {
                Outcome::SendFailed(stream.error.take().unwrap_or(Errno(libc::EPIPE)))
            } else if send.taken.0 == send.chunks.len() {
                Outcome::Sent
            } else {
                let mut room = stream.outgoing_max.saturating_sub(stream.outgoing.len());
                if room == 0 {
                    return;
                }
                while let Some(chunk) = send.chunks.get(send.taken.0)
                    && room > 0
                {
                    let bytes = &chunk[send.taken.1..];
                    let count = bytes.len().min(room);
                    stream.outgoing.extend(&bytes[..count]);
                    room -= count;
                    send.taken = if count == bytes.len() {
                        (send.taken.0 + 1, 0)
                    } else {
                        (send.taken.0, send.taken.1 + count)
                    };
                }
                self.transmit(id);
                continue;
            };
            let send = self.stream_mut(id).send.take().expect("it was there above");
            self.complete(ring, id, Kind::Send, token, outcome, true, send.chunks);
            return;
        }
    }

    #[expect(clippy::too_many_arguments, reason = "they are the fields of one completion")]
    fn complete(
        &mut self,
        ring: usize,
        socket: usize,
        kind: Kind,
        token: Token,
        outcome: Outcome,
        last: bool,
        held: Vec<Chunk>,
    ) {
        let reorders = self.chance(self.faults.reorder);
        let done = Done { completion: Completion { token, outcome }, socket, kind, last, held };
        let completions = &self.rings[ring].completions;
        let end = completions.len();
        let at = if reorders {
            // One operation's completions keep their order.
            let same = |done: &Done| done.socket == socket && done.kind == kind;
            let first = completions.iter().rposition(same).map_or(0, |index| index + 1);
            first + self.rng.below((end - first) as u64 + 1) as usize
        } else {
            end
        };
        let ring = &mut self.rings[ring];
        ring.overflows += u64::from(end >= ring.cq_entries);
        ring.completions.insert(at, done);
    }
}
