//! Anonymous mappings for buffers, rings and figures.

use std::ops::Deref;
use std::ptr::NonNull;
use std::sync::atomic::AtomicU64;

/// Maps `length` bytes of zeroed, page-aligned memory.
///
/// # Panics
/// When the address space is exhausted: there is nothing to go on with.
pub(crate) fn map(length: usize) -> NonNull<u8> {
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    // SAFETY: a fresh anonymous mapping touches no memory of ours.
    let address = unsafe { libc::mmap(std::ptr::null_mut(), length, protection, flags, -1, 0) };
    assert_ne!(address, libc::MAP_FAILED, "cannot map {length} bytes: {}", std::io::Error::last_os_error());
    NonNull::new(address.cast()).expect("a mapping is never at null")
}

/// Unmaps what [`map`] mapped.
pub(crate) fn unmap(address: NonNull<u8>, length: usize) {
    // SAFETY: the caller owns the mapping and is dropping it; nothing points into it any more.
    let result = unsafe { libc::munmap(address.as_ptr().cast(), length) };
    debug_assert_eq!(result, 0);
}

/// Numbers in pages of their own, all 0 at first: the kernel gives a page when it is first written, and has it back
/// at once when the numbers are dropped. Any thread may read and write them.
#[derive(Debug)]
pub(crate) struct Words {
    memory: NonNull<AtomicU64>,
    count: usize,
}

// SAFETY: the mapping is this value's own until it is dropped, and atomics are for any thread.
unsafe impl Send for Words {}
// SAFETY: as above.
unsafe impl Sync for Words {}

impl Words {
    pub(crate) fn new(count: usize) -> Words {
        let memory = map(count * size_of::<AtomicU64>());
        // Neighbours become one mapping; a huge page for it would be given at the first write to any of them.
        // SAFETY: advice about a mapping of our own changes no byte of it.
        unsafe {
            libc::madvise(memory.as_ptr().cast(), count * size_of::<AtomicU64>(), libc::MADV_NOHUGEPAGE)
        };
        Words { memory: memory.cast(), count }
    }
}

impl Deref for Words {
    type Target = [AtomicU64];
    fn deref(&self) -> &[AtomicU64] {
        // SAFETY: the mapping is page-aligned, zeroed, this long, and lives as long as `self`; 0 is a valid atomic.
        unsafe { std::slice::from_raw_parts(self.memory.as_ptr(), self.count) }
    }
}

impl Drop for Words {
    fn drop(&mut self) {
        unmap(self.memory.cast(), self.count * size_of::<AtomicU64>());
    }
}
