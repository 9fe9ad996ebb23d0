//! What operations in flight keep alive: the bytes of sends, and a slab that finds them by a small number.

use super::buffers::Chunk;
use super::user_data::{IN_FLIGHT_LIMIT, Token};
use super::{SEND_CHUNKS_MAX, Socket};

/// A send in flight: it owns its bytes until its last completion.
pub(super) struct Send {
    pub socket: Socket,
    pub token: Token,
    pub bytes: Bytes,
}

pub(super) enum Bytes {
    One(Chunk),
    Many(Box<Vectored>),
}

impl Bytes {
    /// Drops what was sent; true when nothing is left.
    pub fn advance(&mut self, sent: usize) -> bool {
        match self {
            Bytes::One(chunk) => {
                chunk.advance(sent);
                chunk.is_empty()
            }
            Bytes::Many(many) => many.advance(sent),
        }
    }
}

/// The chunks of a vectored send with the structures by which the kernel finds them.
pub(super) struct Vectored {
    pub chunks: Vec<Chunk>,
    vectors: Vec<libc::iovec>,
    pub header: libc::msghdr,
}

impl Default for Vectored {
    fn default() -> Vectored {
        Vectored {
            chunks: Vec::with_capacity(SEND_CHUNKS_MAX),
            vectors: Vec::with_capacity(SEND_CHUNKS_MAX),
            // SAFETY: all zeroes is an empty message header.
            header: unsafe { std::mem::zeroed() },
        }
    }
}

impl Vectored {
    /// Points the header at the chunks as they are now.
    pub fn point(&mut self) {
        self.vectors.clear();
        self.vectors.extend(
            self.chunks.iter().map(|chunk| libc::iovec {
                iov_base: chunk.as_ptr().cast_mut().cast(),
                iov_len: chunk.len(),
            }),
        );
        self.header.msg_iov = self.vectors.as_mut_ptr();
        self.header.msg_iovlen = self.vectors.len();
    }

    pub fn advance(&mut self, mut sent: usize) -> bool {
        let whole = self.chunks.iter().take_while(|chunk| {
            let gone = chunk.len() <= sent;
            sent -= if gone { chunk.len() } else { 0 };
            gone
        });
        let whole = whole.count();
        self.chunks.drain(..whole);
        if let Some(first) = self.chunks.first_mut() {
            first.advance(sent);
            self.point();
        }
        self.chunks.is_empty()
    }
}

/// Memory of operations in flight, found by a small number; number 0 is never given.
pub(super) struct Blocks<T> {
    blocks: Vec<Option<T>>,
    free: Vec<u32>,
}

impl<T> Default for Blocks<T> {
    fn default() -> Blocks<T> {
        Blocks { blocks: vec![None], free: Vec::new() }
    }
}

impl<T> Blocks<T> {
    pub fn insert(&mut self, value: T) -> u32 {
        if let Some(id) = self.free.pop() {
            self.blocks[id as usize] = Some(value);
            return id;
        }
        let id = self.blocks.len() as u32;
        assert!(id < IN_FLIGHT_LIMIT, "slots bound the operations in flight");
        self.blocks.push(Some(value));
        id
    }

    pub fn get_mut(&mut self, id: u32) -> &mut T {
        self.blocks[id as usize].as_mut().expect("a completion comes for an operation in flight")
    }

    pub fn remove(&mut self, id: u32) -> T {
        self.free.push(id);
        self.blocks[id as usize].take().expect("a completion comes for an operation in flight")
    }
}
