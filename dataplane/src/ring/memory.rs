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

/// Gives the kernel the whole pages within `length` bytes from `start`: they read as zeros from now on, and are given
/// again when they are next written (madvise(2), MADV_DONTNEED).
///
/// # Safety
/// They lie in a mapping of [`map`], and nobody needs what they hold or writes them meanwhile.
pub(crate) unsafe fn give_back(start: NonNull<u8>, length: usize) {
    let before = start.align_offset(PAGE_BYTES);
    let whole = length.saturating_sub(before) / PAGE_BYTES * PAGE_BYTES;
    if whole > 0 {
        // SAFETY: within the caller's bytes; a refusal leaves everything as it is.
        unsafe { libc::madvise(start.as_ptr().add(before).cast(), whole, libc::MADV_DONTNEED) };
    }
}

/// Gives the kernel the free pages of the heap (malloc_trim(3), glibc; elsewhere the allocator does as it likes). Whoever
/// allocates meanwhile waits: not for a thread that carries data, nor while others do.
pub(crate) fn give_back_heap() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: takes no pointer; it locks the heap as every allocation does.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// At most what a page has; where pages are larger, the kernel refuses what is not aligned to one, and nothing is lost.
const PAGE_BYTES: usize = 4096;

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
