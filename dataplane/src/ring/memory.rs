//! Anonymous mappings for buffers and rings.

use std::ptr::NonNull;

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
