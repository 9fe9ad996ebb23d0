//! Where received bytes live: two pools of equal buffers, and the [`Chunk`] that points into them.
//!
//! A chunk goes from the receive to the send by reference. Clones and splits share its buffer; when the
//! last one is dropped the buffer returns to its pool's free list, newest first, so that a quiet
//! connection mix keeps touching the same few hot lines.

use std::cell::{Cell, RefCell};
use std::ops::Deref;
use std::ptr::NonNull;
use std::rc::Rc;

/// Which of the two pools a receive takes its buffers from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum BufferSize {
    /// For messages: few, hot.
    Small,
    /// For streams: a quarter of the operations per byte.
    Large,
}

/// The shape of one pool.
#[derive(Clone, Copy, Debug)]
pub struct PoolSettings {
    /// Bytes in each buffer.
    pub buffer_bytes: u32,
    /// Buffers in all; a power of two, at most 32,768. Untouched ones cost no memory.
    pub buffers: u16,
    /// How many the kernel is offered at first. It takes them in turn, so fewer are hotter.
    pub published: u16,
}

/// One pool of equal buffers in one anonymous mapping. Not shared between threads.
///
/// A buffer that was once filled keeps its pages until `Pool::sweep` has found it unused twice.
#[derive(Debug)]
pub struct Pool {
    memory: NonNull<u8>,
    buffer_bytes: u32,
    /// What [`Pool::sweep`] must know of each buffer: the bits below.
    marks: Box<[Cell<u8>]>,
    /// Where the next sweep begins.
    swept: Cell<usize>,
    /// How many chunks point into each buffer.
    references: Box<[Cell<u32>]>,
    /// How many buffers chunks point into.
    held: Cell<usize>,
    free: RefCell<Vec<u16>>,
}

/// It was filled since it was last swept.
const FILLED: u8 = 1;
/// It has pages of its own.
const TOUCHED: u8 = 2;
/// The kernel may fill it.
const OFFERED: u8 = 4;

/// Neighbouring buffers begin one cache line apart in the sets of the caches: at a plain power of two, the first lines
/// of all buffers, which is all that a small message fills, would fall into the same few sets.
const COLOUR_BYTES: usize = 64;

impl Pool {
    /// Maps a pool; the kernel gives the pages when they are first touched.
    ///
    /// # Panics
    /// When the address space is exhausted.
    pub fn new(buffers: u16, buffer_bytes: u32) -> Rc<Pool> {
        assert!(
            buffers.is_power_of_two() && buffers <= 32_768,
            "a buffer ring holds a power of two, at most 32,768"
        );
        let count = usize::from(buffers);
        let memory = super::memory::map(count * stride(buffer_bytes));
        // Last to first, so that the first buffers are the first to be used.
        let free = (0..buffers).rev().collect();
        let references = vec![Cell::new(0); count].into_boxed_slice();
        let marks = vec![Cell::new(0); count].into_boxed_slice();
        let (held, free, swept) = (Cell::new(0), RefCell::new(free), Cell::new(0));
        Rc::new(Pool { memory, buffer_bytes, marks, swept, references, held, free })
    }

    /// Bytes in each buffer.
    pub fn buffer_bytes(&self) -> u32 {
        self.buffer_bytes
    }

    /// Buffers that neither a chunk nor the kernel has.
    pub fn free_buffers(&self) -> usize {
        self.free.borrow().len()
    }

    /// Buffers in all.
    pub fn buffers(&self) -> usize {
        self.references.len()
    }

    /// Takes a free buffer out; the caller gives it back by [`Pool::chunk`] and its drop.
    pub(crate) fn take(&self) -> Option<u16> {
        let id = self.free.borrow_mut().pop()?;
        self.mark(id, OFFERED);
        Some(id)
    }

    fn mark(&self, id: u16, bits: u8) {
        let marks = &self.marks[usize::from(id)];
        marks.set(marks.get() | bits);
    }

    /// Where buffer `id` begins.
    pub(crate) fn address(&self, id: u16) -> *mut u8 {
        assert!(usize::from(id) < self.references.len(), "the kernel names only buffers it was given");
        // SAFETY: in bounds of the mapping by the assertion above.
        unsafe { self.memory.as_ptr().add(usize::from(id) * stride(self.buffer_bytes)) }
    }

    /// Wraps the first `length` bytes of buffer `id`, which was taken and filled, as a chunk.
    pub(crate) fn chunk(self: &Rc<Pool>, id: u16, length: u32) -> Chunk {
        assert!(length <= self.buffer_bytes, "a receive never exceeds its buffer");
        let references = &self.references[usize::from(id)];
        assert_eq!(references.replace(1), 0, "a buffer has one owner when it is received");
        self.held.set(self.held.get() + 1);
        self.marks[usize::from(id)].set(FILLED | TOUCHED);
        Chunk { source: Source::Pool(Rc::clone(self), id), offset: 0, length }
    }

    /// Copies `bytes` into a free buffer; the twin's way to receive. `None` when no buffer is free.
    #[cfg(feature = "simulated")]
    pub(crate) fn filled(self: &Rc<Pool>, bytes: &[u8]) -> Option<Chunk> {
        let id = self.take()?;
        let length = u32::try_from(bytes.len()).expect("a chunk is below 4 GiB");
        assert!(length <= self.buffer_bytes, "the caller cuts to the buffer's size");
        // SAFETY: the buffer is ours (taken above), large enough (asserted), and does not overlap `bytes`.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.address(id), bytes.len()) };
        Some(self.chunk(id, length))
    }

    /// Puts a taken, never filled buffer back.
    pub(crate) fn give_back(&self, id: u16) {
        let marks = &self.marks[usize::from(id)];
        marks.set(marks.get() & !OFFERED);
        self.free.borrow_mut().push(id);
    }

    /// Gives the kernel the pages of buffers that were not filled since the sweep before, about `bytes_max` of them at
    /// most; returns whether the round goes on. `offered`: those in the kernel's hands too, which is safe only while
    /// the kernel has filled none that it has not told of.
    pub(crate) fn sweep(&self, bytes_max: usize, offered: bool) -> bool {
        let stride = stride(self.buffer_bytes);
        let is_cold = |id: usize| {
            let marks = self.marks[id].get();
            let is_cold = marks & (FILLED | TOUCHED) == TOUCHED
                && (offered || marks & OFFERED == 0)
                && self.references[id].get() == 0;
            self.marks[id].set(marks & !FILLED);
            is_cold
        };
        let (mut id, mut released) = (self.swept.get(), 0);
        while id < self.marks.len() && released < bytes_max {
            let first = id;
            while id < self.marks.len() && (id - first) * stride < bytes_max && is_cold(id) {
                self.marks[id].set(self.marks[id].get() & !TOUCHED);
                id += 1;
            }
            if id > first {
                // SAFETY: the buffers lie in the mapping, hold no bytes that anybody will read, and nobody writes
                // them now; they read as zeros afterwards.
                unsafe {
                    let start = self.memory.add(first * stride);
                    super::memory::give_back(start, (id - first) * stride);
                }
                released += (id - first) * stride;
            } else {
                id += 1;
            }
        }
        let is_over = id >= self.marks.len();
        self.swept.set(if is_over { 0 } else { id });
        !is_over
    }
}

/// From the beginning of one buffer to that of the next.
fn stride(buffer_bytes: u32) -> usize {
    buffer_bytes as usize + COLOUR_BYTES
}

impl Drop for Pool {
    fn drop(&mut self) {
        super::memory::unmap(self.memory, self.references.len() * stride(self.buffer_bytes));
    }
}

/// Bytes as they were read, or bytes to send: a window on a pool buffer or on shared memory.
///
/// Cloning and splitting copy no bytes. Not `Send`: chunks stay on their thread.
#[derive(Debug, Clone)]
pub struct Chunk {
    source: Source,
    offset: u32,
    length: u32,
}

#[derive(Debug)]
enum Source {
    Pool(Rc<Pool>, u16),
    Heap(Rc<[u8]>),
    Static(&'static [u8]),
}

impl Clone for Source {
    fn clone(&self) -> Source {
        match self {
            Source::Pool(pool, id) => {
                let references = &pool.references[usize::from(*id)];
                references.set(references.get() + 1);
                Source::Pool(Rc::clone(pool), *id)
            }
            Source::Heap(bytes) => Source::Heap(Rc::clone(bytes)),
            Source::Static(bytes) => Source::Static(bytes),
        }
    }
}

impl Drop for Source {
    fn drop(&mut self) {
        if let Source::Pool(pool, id) = self {
            let references = &pool.references[usize::from(*id)];
            references.set(references.get() - 1);
            if references.get() == 0 {
                pool.held.set(pool.held.get() - 1);
                pool.give_back(*id);
            }
        }
    }
}

impl Chunk {
    /// A chunk of bytes that live as long as the program.
    pub fn from_static(bytes: &'static [u8]) -> Chunk {
        Chunk { source: Source::Static(bytes), offset: 0, length: length_of(bytes) }
    }

    /// Copies `bytes` to the heap.
    pub fn copy_of(bytes: &[u8]) -> Chunk {
        Chunk::from(Rc::from(bytes))
    }

    /// Takes the first `count` bytes off as a chunk of their own; both share the buffer.
    ///
    /// # Panics
    /// When the chunk is shorter than `count`.
    pub fn split_to(&mut self, count: usize) -> Chunk {
        let count = u32::try_from(count).expect("a chunk is below 4 GiB");
        assert!(count <= self.length, "cannot split beyond the end");
        let front = Chunk { source: self.source.clone(), offset: self.offset, length: count };
        self.advance(count as usize);
        front
    }

    /// Drops the first `count` bytes.
    ///
    /// # Panics
    /// When the chunk is shorter than `count`.
    pub fn advance(&mut self, count: usize) {
        let count = u32::try_from(count).expect("a chunk is below 4 GiB");
        assert!(count <= self.length, "cannot advance beyond the end");
        self.offset += count;
        self.length -= count;
    }

    /// Whether the chunk pins a pool buffer, which bytes that are held for long must not.
    pub fn is_pooled(&self) -> bool {
        matches!(self.source, Source::Pool(..))
    }

    /// Whether it pins one of the last buffers of its pool: chunks hold more than three quarters of them. Bytes
    /// that may wait for anybody are then better copied, or one slow peer starves the others. Buffers that the
    /// kernel was offered do not count: it fills them for whoever comes.
    pub fn is_scarce(&self) -> bool {
        match &self.source {
            Source::Pool(pool, _) => pool.held.get() * 4 > pool.buffers() * 3,
            _ => false,
        }
    }
}

impl From<Rc<[u8]>> for Chunk {
    fn from(bytes: Rc<[u8]>) -> Chunk {
        let length = length_of(&bytes);
        Chunk { source: Source::Heap(bytes), offset: 0, length }
    }
}

impl From<Vec<u8>> for Chunk {
    fn from(bytes: Vec<u8>) -> Chunk {
        Chunk::from(Rc::<[u8]>::from(bytes))
    }
}

impl Deref for Chunk {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        let bytes: &[u8] = match &self.source {
            Source::Pool(pool, id) => {
                // SAFETY: the buffer is in the mapping, which the `Rc` keeps; it has been filled, and
                // nobody writes it before the last chunk on it is dropped.
                unsafe { std::slice::from_raw_parts(pool.address(*id), pool.buffer_bytes as usize) }
            }
            Source::Heap(bytes) => bytes,
            Source::Static(bytes) => bytes,
        };
        &bytes[self.offset as usize..(self.offset + self.length) as usize]
    }
}

fn length_of(bytes: &[u8]) -> u32 {
    u32::try_from(bytes.len()).expect("a chunk is below 4 GiB")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_returns_when_its_last_chunk_goes() {
        let pool = Pool::new(2, 64);
        let mut whole = pool.filled(b"hello world").expect("two are free");
        assert_eq!(pool.free_buffers(), 1);
        let front = whole.split_to(5);
        assert_eq!((&front[..], &whole[..]), (&b"hello"[..], &b" world"[..]));
        drop(whole);
        assert_eq!(pool.free_buffers(), 1);
        let copy = front.clone();
        drop(front);
        assert_eq!(&copy[..], b"hello");
        drop(copy);
        assert_eq!(pool.free_buffers(), 2);
    }

    #[test]
    fn an_empty_pool_says_so() {
        let pool = Pool::new(1, 8);
        let held = pool.filled(b"x");
        assert!(held.is_some() && pool.filled(b"y").is_none());
        drop(held);
        assert!(pool.filled(b"y").is_some());
    }

    #[test]
    fn buffers_are_scarce_when_chunks_hold_them_not_when_the_kernel_has_them() {
        let pool = Pool::new(8, 8);
        let offered: Vec<u16> = (0..4).map_while(|_| pool.take()).collect();
        let chunks: Vec<Chunk> = (0..4).map_while(|_| pool.filled(b"x")).collect();
        assert_eq!((offered.len(), chunks.len(), pool.free_buffers()), (4, 4, 0));
        assert!(!chunks[0].is_scarce());
        offered.into_iter().for_each(|id| pool.give_back(id));
        let more: Vec<Chunk> = (0..3).map_while(|_| pool.filled(b"y")).collect();
        assert!(more[0].is_scarce() && chunks[0].is_scarce());
        drop(more);
        assert!(!chunks[0].is_scarce());
    }

    #[test]
    fn the_most_recently_used_buffer_is_used_next() {
        let pool = Pool::new(4, 8);
        let first = pool.take().expect("free");
        pool.give_back(first);
        assert_eq!(pool.take(), Some(first));
    }

    #[test]
    fn a_chunk_outlives_the_ring_that_made_it() {
        let pool = Pool::new(1, 8);
        let chunk = pool.filled(b"bytes").expect("free");
        drop(pool);
        assert_eq!(&chunk[..], b"bytes");
    }

    #[test]
    fn a_sweep_takes_the_pages_of_buffers_that_nobody_used_since_the_last_and_no_others() {
        const BYTES: u32 = 16 * 1024;
        let pool = Pool::new(32, BYTES);
        let filled: Vec<Chunk> = (0..8).map_while(|_| pool.filled(&[7; BYTES as usize])).collect();
        let mut filled: Vec<Option<Chunk>> = filled.into_iter().map(Some).collect();
        let (held, offered) = (filled[2].take().expect("filled"), 6u16);
        filled.clear();
        // The middle of a buffer: its ends share a page with a neighbour.
        let middle = |id: u16| {
            // SAFETY: in bounds, and nobody writes it meanwhile.
            unsafe { pool.address(id).add(8192).read_volatile() }
        };
        while pool.take() != Some(offered) {}
        let round = |offered: bool| while pool.sweep(20_000, offered) {};
        round(false);
        assert_eq!(
            [0, 2, 4, 6].map(middle),
            [7; 4],
            "they were filled since the sweep before, of which there was none"
        );
        round(false);
        assert_eq!([0, 4].map(middle), [0; 2], "free, and cold");
        assert_eq!([2, 6].map(middle), [7; 2], "one is held, the other may be filled by the kernel");
        let again = pool.filled(b"x").expect("some are free");
        let id = (0..8).find(|id| pool.references[*id].get() == 1 && *id != 2).expect("one of the free");
        drop(again);
        assert_ne!(pool.marks[id].get() & FILLED, 0);
        round(true);
        assert_eq!([2, 6].map(middle), [7, 0]);
        assert_ne!(pool.marks[id].get() & TOUCHED, 0, "it was filled since");
        assert!(held.iter().all(|byte| *byte == 7));
        drop(held);
        round(true);
        assert_eq!(middle(2), 0);
    }

    #[test]
    fn a_chunk_stays_small() {
        assert!(size_of::<Chunk>() <= 32, "{}", size_of::<Chunk>());
    }
}
