//! An allocator that counts what one piece of work allocates on its own thread, and remembers where it began.
#![expect(unsafe_code, reason = "an allocator cannot be had without: it only hands on to the system's")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::backtrace::Backtrace;
use std::cell::{Cell, RefCell};

struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

thread_local! {
    static IS_COUNTING: Cell<bool> = const { Cell::new(false) };
    static COUNT: Cell<u64> = const { Cell::new(0) };
    static FIRST: RefCell<String> = const { RefCell::new(String::new()) };
}

// SAFETY: every call is the system allocator's, with the caller's own arguments.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        note();
        // SAFETY: as above.
        unsafe { System.alloc(layout) }
    }
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        note();
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }
    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        note();
        // SAFETY: as above.
        unsafe { System.realloc(pointer, layout, size) }
    }
    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }
}

fn note() {
    // What the trace itself allocates is not counted.
    if IS_COUNTING.replace(false) {
        if COUNT.replace(COUNT.get() + 1) == 0 {
            FIRST.replace(Backtrace::force_capture().to_string());
        }
        IS_COUNTING.set(true);
    }
}

/// Does the work and counts what it allocates on this thread.
pub fn counting<T>(work: impl FnOnce() -> T) -> T {
    IS_COUNTING.set(true);
    let result = work();
    IS_COUNTING.set(false);
    result
}

/// How often this thread has allocated while it counted, and where it did first.
pub fn counted() -> (u64, String) {
    let ours = |line: &&str| line.contains("fracas") || line.contains("/src/");
    let first = FIRST.with_borrow(|trace| trace.lines().filter(ours).collect::<Vec<_>>().join("\n"));
    (COUNT.get(), first)
}
