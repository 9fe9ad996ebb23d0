//! What is left of a chunk while its messages are read.

use crate::behavior::Direction;
use crate::proxy::connection::Connection;
use crate::proxy::pipe::Held;
use crate::proxy::worker::{Context, ProxyState};
use crate::ring::{Chunk, Ring};

/// What is left of a chunk: at its front, bytes that were read and go on together in one send; behind them,
/// bytes that were not read yet.
pub(super) struct Rest {
    chunk: Chunk,
    direction: Direction,
    taken: usize,
    held: Held,
}

impl Rest {
    pub fn new(chunk: Chunk, direction: Direction) -> Rest {
        Rest { chunk, direction, taken: 0, held: Held::default() }
    }

    pub fn unread(&self) -> &[u8] {
        &self.chunk[self.taken..]
    }

    /// Takes the next `count` bytes; those with another hold, or another fault to tell of, go first.
    pub fn take<R: Ring>(
        &mut self,
        count: usize,
        held: Held,
        connection: &mut Connection,
        cx: &mut Context<R>,
        proxy: &mut ProxyState,
    ) {
        if count == 0 {
            return;
        }
        if self.taken > 0 && (held.time != self.held.time || held.rules != 0) {
            self.hand_on(connection, cx, proxy);
        }
        if self.taken == 0 {
            self.held = held;
        }
        self.taken += count;
    }

    /// Drops the next `count` bytes.
    pub fn skip<R: Ring>(
        &mut self,
        count: usize,
        connection: &mut Connection,
        cx: &mut Context<R>,
        proxy: &mut ProxyState,
    ) {
        if count > 0 {
            self.hand_on(connection, cx, proxy);
            self.chunk.advance(count);
        }
    }

    /// What was not read, once all that was taken has been handed on.
    pub fn into_unread(self) -> Chunk {
        debug_assert_eq!(self.taken, 0, "what was taken goes first");
        self.chunk
    }

    /// Forwards what was taken.
    pub fn hand_on<R: Ring>(
        &mut self,
        connection: &mut Connection,
        cx: &mut Context<R>,
        proxy: &mut ProxyState,
    ) {
        let taken = std::mem::take(&mut self.taken);
        if taken > 0 && !connection.is_closing() {
            let bytes = if taken == self.chunk.len() {
                std::mem::replace(&mut self.chunk, Chunk::from_static(b""))
            } else {
                self.chunk.split_to(taken)
            };
            let held = std::mem::take(&mut self.held);
            connection.forward(self.direction, bytes, held, cx, proxy);
        }
    }
}
