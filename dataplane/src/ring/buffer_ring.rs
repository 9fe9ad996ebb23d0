//! The ring by which the kernel takes receive buffers out of a pool (io_uring_register_buf_ring(3), Linux 5.19).
//!
//! Few buffers are offered, the hottest first; more after the kernel has run out, and slowly fewer again.

use std::io;
use std::ptr::NonNull;
use std::rc::Rc;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::types::BufRingEntry;
use io_uring::{Submitter, squeue};

use super::buffers::Pool;
use super::memory;

/// A pool, and the ring by which the kernel takes buffers out of it.
pub(crate) struct BufferRing {
    pub(crate) pool: Rc<Pool>,
    pub group: u16,
    entries: NonNull<BufRingEntry>,
    mask: u16,
    tail: u16,
    /// How many are in the kernel's hands, and how many should be.
    pub published: u16,
    target: u16,
    minimum: u16,
    /// Turns since the kernel ran out; the target sinks slowly while it does not.
    calm_turns: u32,
    /// The kernel ran out since [`BufferRing::relax`].
    short: bool,
}

impl BufferRing {
    pub(crate) fn register(
        submitter: &Submitter<'_>,
        pool: Rc<Pool>,
        group: u16,
        published: u16,
    ) -> io::Result<BufferRing> {
        let count = pool.buffers() as u16;
        let entries = memory::map(usize::from(count) * size_of::<BufRingEntry>()).cast::<BufRingEntry>();
        // SAFETY: the entries are mapped, zeroed, page-aligned, and unmapped only in `drop`, after the ring.
        unsafe { submitter.register_buf_ring_with_flags(entries.as_ptr() as u64, count, group, 0)? };
        let minimum = published.min(count);
        Ok(BufferRing {
            pool,
            group,
            entries,
            mask: count - 1,
            tail: 0,
            published: 0,
            target: minimum,
            minimum,
            calm_turns: 0,
            short: false,
        })
    }

    /// Offers free buffers, hottest first, up to the target; one release store for all.
    pub(crate) fn publish(&mut self) {
        self.calm_turns += 1;
        if self.calm_turns >= CALM_TURNS {
            self.calm_turns = 0;
            self.target = (self.target - self.target / 8).max(self.minimum);
        }
        if self.published >= self.target {
            return;
        }
        let before = self.tail;
        while self.published < self.target {
            let Some(id) = self.pool.take() else { break };
            // SAFETY: the index is masked to the mapping; the kernel does not read it before the tail moves.
            let entry = unsafe { &mut *self.entries.as_ptr().add(usize::from(self.tail & self.mask)) };
            entry.set_addr(self.pool.address(id) as u64);
            entry.set_len(self.pool.buffer_bytes());
            entry.set_bid(id);
            self.tail = self.tail.wrapping_add(1);
            self.published += 1;
        }
        if self.tail != before {
            // SAFETY: the tail lies in the first entry's reserved bytes, as the kernel defines it.
            let tail = unsafe { AtomicU16::from_ptr(BufRingEntry::tail(self.entries.as_ptr()).cast_mut()) };
            tail.store(self.tail, Ordering::Release);
        }
    }

    pub(crate) fn taken(&mut self) {
        self.published -= 1;
    }

    /// Offers as few as at first again, unless the kernel ran out since this was last called.
    pub(crate) fn relax(&mut self) {
        if !std::mem::take(&mut self.short) {
            self.target = self.minimum;
        }
    }

    pub(crate) fn ran_out(&mut self) {
        self.calm_turns = 0;
        self.short = true;
        self.target = self.target.saturating_mul(2).min(self.mask.saturating_add(1));
    }
}

impl Drop for BufferRing {
    fn drop(&mut self) {
        memory::unmap(self.entries.cast(), (usize::from(self.mask) + 1) * size_of::<BufRingEntry>());
    }
}

/// Turns without a shortage before fewer buffers are offered again.
const CALM_TURNS: u32 = 4096;

/// Writes the byte limit of a multishot receive, which the crate has no name for: `optlen`, byte 44 of the SQE.
pub(crate) fn set_credit(entry: &mut squeue::Entry, bytes: u32) {
    const { assert!(size_of::<squeue::Entry>() == 64) };
    // SAFETY: an entry is the kernel's 64-byte SQE (`repr(C)`); byte 44 begins an aligned u32 in a union.
    unsafe { (&raw mut *entry).cast::<u32>().add(11).write(bytes) };
}
