//! Anonymous mappings for buffers, rings and figures.

use std::io;
use std::ops::Deref;
use std::ptr::NonNull;
use std::sync::atomic::AtomicU64;

/// Maps `length` bytes of zeroed, page-aligned memory.
///
/// # Panics
/// When the address space is exhausted: there is nothing to go on with.
pub(crate) fn map(length: usize) -> NonNull<u8> {
    try_map(length).unwrap_or_else(|error| panic!("cannot map {length} bytes: {error}"))
}

/// The same, where there is something to go on with.
fn try_map(length: usize) -> io::Result<NonNull<u8>> {
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    // SAFETY: a fresh anonymous mapping touches no memory of ours.
    let address = unsafe { libc::mmap(std::ptr::null_mut(), length, protection, flags, -1, 0) };
    if address == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    Ok(NonNull::new(address.cast()).expect("a mapping is never at null"))
}

/// Asks the processor to fetch a value into its cache, ahead of its use; nothing where that is not known how.
#[inline]
pub(crate) fn prefetch<T>(value: &T) {
    const LINE_BYTES: usize = 64;
    let start = std::ptr::from_ref(value).cast::<i8>();
    for line in 0..size_of::<T>().div_ceil(LINE_BYTES) {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: a prefetch reads nothing that anyone sees, and faults nowhere; SSE is part of x86-64.
        unsafe {
            use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
            _mm_prefetch::<_MM_HINT_T0>(start.wrapping_add(line * LINE_BYTES));
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = (start, line);
    }
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
pub(crate) struct Words(Memory);

#[derive(Debug)]
enum Memory {
    Pages(NonNull<AtomicU64>, usize),
    /// A process may have some 65,000 mappings (vm.max_map_count); what comes after them is on the heap.
    Heap(Box<[AtomicU64]>),
}

// SAFETY: the mapping is this value's own until it is dropped, and atomics are for any thread.
unsafe impl Send for Words {}
// SAFETY: as above.
unsafe impl Sync for Words {}

impl Words {
    pub(crate) fn new(count: usize) -> Words {
        let bytes = count * size_of::<AtomicU64>();
        let Ok(memory) = try_map(bytes) else { return Words::on_heap(count) };
        // Neighbours become one mapping; a huge page for it would be given at the first write to any of them.
        // SAFETY: advice about a mapping of our own changes no byte of it.
        unsafe { libc::madvise(memory.as_ptr().cast(), bytes, libc::MADV_NOHUGEPAGE) };
        Words(Memory::Pages(memory.cast(), count))
    }

    fn on_heap(count: usize) -> Words {
        Words(Memory::Heap((0..count).map(|_| AtomicU64::new(0)).collect()))
    }
}

impl Deref for Words {
    type Target = [AtomicU64];
    fn deref(&self) -> &[AtomicU64] {
        match &self.0 {
            // SAFETY: the mapping is page-aligned, zeroed, this long, and lives as long as `self`; 0 is a valid atomic.
            Memory::Pages(memory, count) => unsafe { std::slice::from_raw_parts(memory.as_ptr(), *count) },
            Memory::Heap(words) => words,
        }
    }
}

impl Drop for Words {
    fn drop(&mut self) {
        if let Memory::Pages(memory, count) = &self.0 {
            // SAFETY: nothing points into it any more. Where a mapping would have to be split and there may be no
            // more, it stays, without its pages.
            unsafe {
                let (start, bytes) = (memory.as_ptr().cast(), count * size_of::<AtomicU64>());
                if libc::munmap(start, bytes) != 0 {
                    libc::madvise(start, bytes, libc::MADV_DONTNEED);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use super::*;

    #[test]
    fn numbers_begin_at_nothing_in_pages_and_on_the_heap_alike() {
        for words in [Words::new(1024), Words::on_heap(1024)] {
            assert!(words.len() == 1024 && words.iter().all(|word| word.load(Ordering::Relaxed) == 0));
            words[1023].store(7, Ordering::Relaxed);
            assert_eq!(words.iter().map(|word| word.load(Ordering::Relaxed)).sum::<u64>(), 7);
        }
    }
}
