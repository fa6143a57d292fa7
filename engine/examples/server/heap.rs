//! Counts the bytes that Rust code has allocated and not freed. (SQLite's own are C's, and not among them.)

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicIsize, Ordering::Relaxed};

struct Counting;

#[global_allocator]
static HEAP: Counting = Counting;

// ORDER: Relaxed, everywhere; a number that is read when everything that changes it is over.
static LIVE: AtomicIsize = AtomicIsize::new(0);

// SAFETY: every call goes to `System` unchanged; the counter allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        LIVE.fetch_add(layout.size() as isize, Relaxed);
        // SAFETY: the caller keeps the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size() as isize, Relaxed);
        // SAFETY: `at` came from `System` by `alloc` above, with this layout.
        unsafe { System.dealloc(at, layout) }
    }
}

pub(crate) fn live_bytes() -> isize {
    LIVE.load(Relaxed)
}
