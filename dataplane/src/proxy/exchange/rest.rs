//! What is left of a chunk while its messages are read.

use crate::behavior::{Direction, Hold};
use crate::proxy::connection::Connection;
use crate::proxy::worker::{Context, ProxyState};
use crate::ring::{Chunk, Ring};

/// What is left of a chunk: at its front, bytes that were read and go on together in one send; behind them,
/// bytes that were not read yet.
pub(super) struct Rest {
    chunk: Chunk,
    direction: Direction,
    taken: usize,
    hold: Hold,
}

impl Rest {
    pub fn new(chunk: Chunk, direction: Direction) -> Rest {
        Rest { chunk, direction, taken: 0, hold: Hold::default() }
    }

    pub fn unread(&self) -> &[u8] {
        &self.chunk[self.taken..]
    }

    /// Takes the next `count` bytes; those with another hold, or another fault to tell of, go first.
    pub fn take<R: Ring>(
        &mut self,
        count: usize,
        hold: Hold,
        connection: &mut Connection,
        cx: &mut Context<R>,
        proxy: &mut ProxyState,
    ) {
        if count == 0 {
            return;
        }
        if self.taken > 0 && (hold.time != self.hold.time || hold.rules != 0) {
            self.hand_on(connection, cx, proxy);
        }
        if self.taken == 0 {
            self.hold = hold;
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
            connection.forward(self.direction, bytes, &self.hold, cx, proxy);
        }
    }
}
