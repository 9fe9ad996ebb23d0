//! The bench's own bare ring: what the floor forwarder and the client driver are made of.
//!
//! One io_uring per thread with SINGLE_ISSUER and DEFER_TASKRUN, multishot accept and receive into one
//! provided-buffer ring, sends by reference from the received buffer, one `io_uring_enter` a turn.
//! Deliberately separate from `fracas_dataplane::ring`: a floor that shared the code under test would
//! sink with it. No timers, no cancel, no back-pressure.
//!
//! The ring, its buffers and the gather headers are leaked: a ring lives as long as its process, so
//! whatever the kernel still holds stays valid.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use io_uring::{CompletionQueue, IoUring, SubmissionQueue, Submitter, cqueue, opcode, squeue, types};

/// Most parts that one gathered send carries.
pub const GATHER_MAX: usize = 16;

const BUFFER_GROUP: u16 = 0;
const BUFFER_COUNT: u16 = 4096;
const BUFFER_BYTES: usize = 64 * 1024;
/// Neighbouring buffers start one cache line apart in the set index; at a plain 64 KiB stride the first
/// lines of all buffers fall into the same few cache sets.
const BUFFER_STRIDE: usize = BUFFER_BYTES + 64;
/// The kernel takes buffers in turn, so every published one is touched: publish few, keep the rest on a
/// stack, and publish more after an ENOBUFS.
const PUBLISHED_AT_START: u16 = 128;
const SUBMISSIONS: u32 = 4096;
const COMPLETIONS: u32 = 32768;
const SEND_FLAGS: i32 = libc::MSG_NOSIGNAL | libc::MSG_WAITALL;

/// What the kernel says about one request.
#[derive(Clone, Copy, Debug)]
pub struct Completion {
    /// The number that the request was pushed with.
    pub token: u64,
    /// A count of bytes or a file descriptor; below zero, an errno.
    pub result: i32,
    flags: u32,
}

impl Completion {
    /// The buffer that was filled, now owned by the receiver of this completion.
    pub fn buffer(&self) -> Option<u16> {
        cqueue::buffer_select(self.flags)
    }

    /// Whether the multishot request goes on.
    pub fn has_more(&self) -> bool {
        cqueue::more(self.flags)
    }
}

/// Bytes to send: of a received buffer, or fixed for the life of the process.
#[derive(Clone, Copy, Debug)]
pub struct Part {
    start: *const u8,
    len: u32,
    buffer: Option<u16>,
}

impl Part {
    /// Bytes that never move.
    pub fn fixed(bytes: &'static [u8]) -> Part {
        let len = u32::try_from(bytes.len()).expect("a payload is below 4 GiB");
        Part { start: bytes.as_ptr(), len, buffer: None }
    }

    /// How many bytes are left.
    pub fn len(&self) -> usize {
        self.len as usize
    }

    /// The received buffer that these bytes are in.
    pub fn buffer(&self) -> Option<u16> {
        self.buffer
    }

    /// Drops the first `count` bytes, which were sent.
    pub fn advance(&mut self, count: usize) {
        assert!(count <= self.len(), "no more than the part can have been sent");
        self.start = self.start.wrapping_add(count);
        self.len -= count as u32;
    }
}

/// Where a gathered send keeps its header until it is done.
struct Gather {
    header: libc::msghdr,
    parts: [libc::iovec; GATHER_MAX],
}

/// One ring and its buffers; see the module.
pub struct Ring {
    submitter: Submitter<'static>,
    submissions: SubmissionQueue<'static>,
    completions: CompletionQueue<'static>,
    buffers: Buffers,
    starved: Vec<(RawFd, u64)>,
    gathers: Vec<*mut Gather>,
    gathers_free: Vec<u16>,
}

impl Ring {
    /// Makes a ring for the calling thread; only this thread may use it.
    ///
    /// # Errors
    /// The kernel lacks io_uring, buffer rings (5.19) or DEFER_TASKRUN (6.1), or forbids them.
    pub fn new() -> io::Result<Ring> {
        let mut builder = IoUring::<squeue::Entry, cqueue::Entry>::builder();
        builder
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_submit_all()
            .setup_clamp()
            .setup_cqsize(COMPLETIONS);
        // One load less per request, known since 6.6.
        let ring =
            builder.clone().setup_no_sqarray().build(SUBMISSIONS).or_else(|_| builder.build(SUBMISSIONS))?;
        let (mut submitter, submissions, completions) = Box::leak(Box::new(ring)).split();
        let buffers = Buffers::register(&submitter)?;
        // An enter by index saves the descriptor's look-up; a kernel without it works as well.
        let _ = submitter.register_ring_fd();
        Ok(Ring {
            submitter,
            submissions,
            completions,
            buffers,
            starved: Vec::new(),
            gathers: Vec::new(),
            gathers_free: Vec::new(),
        })
    }

    /// Accepts on `listener` until an error; each completion carries a descriptor.
    pub fn accept(&mut self, listener: &impl AsRawFd, token: u64) {
        let entry = opcode::AcceptMulti::new(types::Fd(listener.as_raw_fd())).build();
        self.push(entry.user_data(token));
    }

    /// Connects to `address`, which must never move: make it with [`leaked_address`].
    pub fn connect(&mut self, socket: &impl AsRawFd, address: &'static socket2::SockAddr, token: u64) {
        let entry =
            opcode::Connect::new(types::Fd(socket.as_raw_fd()), address.as_ptr().cast(), address.len());
        self.push(entry.build().user_data(token));
    }

    /// Receives until the end of the stream, an error, or a lack of buffers (ENOBUFS).
    pub fn receive(&mut self, socket: RawFd, token: u64) {
        self.push(opcode::RecvMulti::new(types::Fd(socket), BUFFER_GROUP).build().user_data(token));
    }

    /// Receives again once there are buffers; the answer to ENOBUFS.
    pub fn receive_later(&mut self, socket: RawFd, token: u64) {
        self.buffers.publish_more();
        self.starved.push((socket, token));
    }

    /// Sends one part whole.
    pub fn send(&mut self, socket: RawFd, part: &Part, token: u64) {
        let entry = opcode::Send::new(types::Fd(socket), part.start, part.len).flags(SEND_FLAGS);
        self.push(entry.build().user_data(token));
    }

    /// Sends several parts as one; the number returned goes to [`Ring::gathered`] when it is done.
    pub fn send_gathered<'a>(
        &mut self,
        socket: RawFd,
        parts: impl Iterator<Item = &'a Part>,
        token: u64,
    ) -> u16 {
        let index = self.gathers_free.pop().unwrap_or_else(|| {
            self.gathers.push(new_gather());
            u16::try_from(self.gathers.len() - 1).expect("fewer than 65,536 sends are in flight")
        });
        let header = fill_gather(self.gathers[usize::from(index)], parts);
        let entry = opcode::SendMsg::new(types::Fd(socket), header).flags(SEND_FLAGS as u32);
        self.push(entry.build().user_data(token));
        index
    }

    /// Takes back the header of a gathered send that is done.
    pub fn gathered(&mut self, index: u16) {
        self.gathers_free.push(index);
    }

    /// The first `len` bytes of a received buffer, as a part to send.
    pub fn part(&self, buffer: u16, len: usize) -> Part {
        Part { start: self.buffers.start(buffer), len: len as u32, buffer: Some(buffer) }
    }

    /// The bytes of a received buffer.
    #[expect(unsafe_code, reason = "received bytes are read where the kernel put them")]
    pub fn bytes(&self, buffer: u16, len: usize) -> &[u8] {
        assert!(len <= BUFFER_BYTES && buffer < BUFFER_COUNT, "the kernel filled one of our buffers");
        // SAFETY: the memory is leaked, `len` is within it, and the kernel writes to a buffer only while it is
        // published; a received one is not until `give_back`, which needs `&mut self`.
        unsafe { std::slice::from_raw_parts(self.buffers.start(buffer), len) }
    }

    /// Returns a received buffer.
    pub fn give_back(&mut self, buffer: u16) {
        self.buffers.free.push(buffer);
    }

    /// One turn: submits what was pushed, waits for a completion or until `at_most` has passed, and appends
    /// what there is to `completions`. `Some(ZERO)` does not wait.
    pub fn turn(&mut self, at_most: Option<Duration>, completions: &mut Vec<Completion>) -> io::Result<()> {
        self.buffers.publish();
        if self.buffers.published > 0 {
            while let Some((socket, token)) = self.starved.pop() {
                self.receive(socket, token);
            }
        }
        self.enter(at_most)?;
        self.completions.sync();
        for entry in &mut self.completions {
            let completion =
                Completion { token: entry.user_data(), result: entry.result(), flags: entry.flags() };
            if completion.buffer().is_some() {
                self.buffers.published -= 1;
            }
            completions.push(completion);
        }
        self.completions.sync();
        Ok(())
    }

    fn enter(&mut self, at_most: Option<Duration>) -> io::Result<()> {
        self.submissions.sync();
        let entered = match at_most {
            None => self.submitter.submit_and_wait(1),
            Some(Duration::ZERO) => self.enter_without_waiting(),
            Some(time) => {
                let timespec = types::Timespec::from(time);
                self.submitter.submit_with_args(1, &types::SubmitArgs::new().timespec(&timespec))
            }
        };
        match entered.map_err(|error| (error.raw_os_error(), error)) {
            Ok(_) | Err((Some(libc::ETIME | libc::EINTR | libc::EBUSY | libc::EAGAIN), _)) => {}
            Err((_, error)) => return Err(error),
        }
        self.submissions.sync();
        Ok(())
    }

    /// Runs deferred work without waiting; `submit` alone would not run it.
    #[expect(unsafe_code, reason = "the crate's safe calls cannot ask for deferred work without waiting")]
    fn enter_without_waiting(&self) -> io::Result<usize> {
        const IORING_ENTER_GETEVENTS: u32 = 1;
        // SAFETY: no argument is passed, and every queued entry was pushed under `push`'s rule.
        unsafe {
            self.submitter.enter::<libc::sigset_t>(
                self.submissions.len() as u32,
                0,
                IORING_ENTER_GETEVENTS,
                None,
            )
        }
    }

    #[expect(unsafe_code, reason = "the kernel reads what an entry points to after this call")]
    fn push(&mut self, entry: squeue::Entry) {
        loop {
            // SAFETY: entries point to leaked buffers, leaked gather headers, `'static` payloads and `'static`
            // addresses only, and descriptors are plain numbers.
            if unsafe { self.submissions.push(&entry) }.is_ok() {
                return;
            }
            self.submissions.sync();
            self.submitter.submit().expect("a full queue can be submitted");
            self.submissions.sync();
        }
    }
}

/// Takes ownership of a descriptor that an accept has just returned.
#[expect(unsafe_code, reason = "an accepted descriptor arrives as a number")]
pub fn adopt(descriptor: RawFd) -> OwnedFd {
    assert!(descriptor >= 0, "an accept that succeeded carries a descriptor");
    // SAFETY: called once per accept completion, which hands over a fresh descriptor nobody else owns.
    unsafe { OwnedFd::from_raw_fd(descriptor) }
}

/// An address that a connect request may point to for ever.
pub fn leaked_address(address: SocketAddr) -> &'static socket2::SockAddr {
    Box::leak(Box::new(address.into()))
}

fn new_gather() -> *mut Gather {
    let nothing = libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 };
    let header = libc::msghdr {
        msg_name: std::ptr::null_mut(),
        msg_namelen: 0,
        msg_iov: std::ptr::null_mut(),
        msg_iovlen: 0,
        msg_control: std::ptr::null_mut(),
        msg_controllen: 0,
        msg_flags: 0,
    };
    Box::into_raw(Box::new(Gather { header, parts: [nothing; GATHER_MAX] }))
}

#[expect(unsafe_code, reason = "the header is shared with the kernel, so it is written through a pointer")]
fn fill_gather<'a>(gather: *mut Gather, parts: impl Iterator<Item = &'a Part>) -> *const libc::msghdr {
    // SAFETY: `gather` came from `Box::into_raw` and is never freed; no send uses it, or it would not have
    // been on the free list, so this is the only access.
    let gather = unsafe { &mut *gather };
    let mut count = 0;
    for (slot, part) in gather.parts.iter_mut().zip(parts) {
        *slot = libc::iovec { iov_base: part.start.cast_mut().cast(), iov_len: part.len() };
        count += 1;
    }
    gather.header.msg_iov = gather.parts.as_mut_ptr();
    gather.header.msg_iovlen = count;
    &raw const gather.header
}

/// The provided-buffer ring: few buffers published, the rest on a stack so that the warmest go first.
struct Buffers {
    memory: *mut u8,
    entries: *mut types::BufRingEntry,
    tail: u16,
    published: u16,
    published_max: u16,
    free: Vec<u16>,
}

impl Buffers {
    #[expect(unsafe_code, reason = "buffer rings are memory shared with the kernel")]
    fn register(submitter: &Submitter<'_>) -> io::Result<Buffers> {
        let bytes = usize::from(BUFFER_COUNT) * size_of::<types::BufRingEntry>();
        let layout = std::alloc::Layout::from_size_align(bytes, 4096).expect("the size is fixed and small");
        // SAFETY: the layout is not empty; the memory is page-aligned as io_uring_register_buf_ring(3) wants
        // and never freed, so the kernel may use it as long as the ring lives.
        let entries = unsafe {
            let entries = std::alloc::alloc_zeroed(layout).cast::<types::BufRingEntry>();
            assert!(!entries.is_null(), "out of memory at start");
            submitter.register_buf_ring_with_flags(entries as u64, BUFFER_COUNT, BUFFER_GROUP, 0)?;
            entries
        };
        // Zeroed on demand: a page that is never received into never becomes resident.
        let memory = Box::leak(vec![0_u8; usize::from(BUFFER_COUNT) * BUFFER_STRIDE].into_boxed_slice());
        let free = (0..BUFFER_COUNT).rev().collect();
        let memory = memory.as_mut_ptr();
        Ok(Buffers { memory, entries, tail: 0, published: 0, published_max: PUBLISHED_AT_START, free })
    }

    fn start(&self, buffer: u16) -> *mut u8 {
        self.memory.wrapping_add(usize::from(buffer) * BUFFER_STRIDE)
    }

    fn publish_more(&mut self) {
        self.published_max = (self.published_max.saturating_mul(2)).min(BUFFER_COUNT);
    }

    #[expect(unsafe_code, reason = "buffer rings are memory shared with the kernel")]
    fn publish(&mut self) {
        let before = self.tail;
        while self.published < self.published_max
            && let Some(buffer) = self.free.pop()
        {
            let start = self.start(buffer) as u64;
            // SAFETY: the index is masked to the ring's size, and the kernel does not read an entry past the
            // tail, which moves only below.
            let entry = unsafe { &mut *self.entries.add(usize::from(self.tail & (BUFFER_COUNT - 1))) };
            entry.set_addr(start);
            entry.set_len(BUFFER_BYTES as u32);
            entry.set_bid(buffer);
            self.tail = self.tail.wrapping_add(1);
            self.published += 1;
        }
        if before != self.tail {
            // SAFETY: the first entry's reserved field is the ring's tail (io_uring_register_buf_ring(3)); it is
            // aligned, lives for ever, and only this thread writes it.
            let tail = unsafe { AtomicU16::from_ptr(types::BufRingEntry::tail(self.entries).cast_mut()) };
            tail.store(self.tail, Ordering::Release);
        }
    }
}
