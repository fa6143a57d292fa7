//! An allocator that counts, for the binaries that install it. It must never allocate, lock or unwind.
//!
//! Each thread counts on a cache line of its own, so that two threads that allocate do not meet here. A total is the sum of all
//! lines: right when the other threads rest, which they do between two measurements.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::ops::Sub;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// One line for each thread; those that come later share the last one.
const LINES: usize = 256;

#[repr(align(128))]
#[derive(Default)]
struct Line {
    allocations: AtomicU64,
    bytes: AtomicU64,
    freed: AtomicU64,
}

static TOTALS: [Line; LINES] = [const {
    Line {
        allocations: AtomicU64::new(0),
        bytes: AtomicU64::new(0),
        freed: AtomicU64::new(0),
    }
}; LINES];
static NEXT: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    static MINE: Cell<usize> = const { Cell::new(usize::MAX) };
}

/// What was taken from the allocator and given back, by all threads so far; or between two looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Taken {
    /// Calls that took memory; one that grows a block counts.
    pub allocations: u64,
    /// The bytes that they asked for.
    pub bytes: u64,
    /// The bytes that were given back.
    pub freed: u64,
}

impl Taken {
    /// What is counted up to now. Zero in a program that has not installed [`Counting`].
    pub fn now() -> Self {
        // ORDER: Relaxed: the threads that counted rest, and this one has waited for them.
        TOTALS.iter().fold(Self::default(), |sum, line| Self {
            allocations: sum.allocations + line.allocations.load(Ordering::Relaxed),
            bytes: sum.bytes + line.bytes.load(Ordering::Relaxed),
            freed: sum.freed + line.freed.load(Ordering::Relaxed),
        })
    }

    /// Bytes that are held.
    pub fn live(&self) -> i64 {
        self.bytes.wrapping_sub(self.freed) as i64
    }
}

impl Sub for Taken {
    type Output = Self;

    fn sub(self, earlier: Self) -> Self {
        Self {
            allocations: self.allocations - earlier.allocations,
            bytes: self.bytes - earlier.bytes,
            freed: self.freed - earlier.freed,
        }
    }
}

/// The index of this thread's line.
#[inline]
fn mine() -> usize {
    let mine = MINE.get();
    if mine != usize::MAX {
        return mine;
    }
    // ORDER: Relaxed: only the number counts.
    let mine = NEXT.fetch_add(1, Ordering::Relaxed).min(LINES - 1);
    MINE.set(mine);
    mine
}

#[inline]
fn add(counter: &AtomicU64, line: usize, amount: u64) {
    // ORDER: Relaxed: counts alone; see `Taken::now`. A line that has one writer needs no read-modify-write.
    if line < LINES - 1 {
        counter.store(counter.load(Ordering::Relaxed) + amount, Ordering::Relaxed);
    } else {
        counter.fetch_add(amount, Ordering::Relaxed);
    }
}

#[inline]
fn took(bytes: usize) {
    let line = mine();
    add(&TOTALS[line].allocations, line, 1);
    add(&TOTALS[line].bytes, line, bytes as u64);
}

#[inline]
fn gave(bytes: usize) {
    let line = mine();
    add(&TOTALS[line].freed, line, bytes as u64);
}

/// The system's allocator, counted.
#[derive(Debug)]
pub struct Counting;

// SAFETY:
// * Every method hands its arguments to `System` and its result back, unchanged, so the contract of `GlobalAlloc` holds because
//   `System` keeps it.
// * The counters are statics and a thread-local without a destructor: counting neither allocates nor unwinds.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        took(layout.size());
        // SAFETY: the caller's promise about `layout` is the one that `System` asks for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        took(layout.size());
        // SAFETY: as in `alloc`.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        gave(layout.size());
        // SAFETY: `pointer` came from a method of this allocator, so from `System`, with `layout`.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        took(new_size);
        gave(layout.size());
        // SAFETY: as in `dealloc`; `new_size` is what the caller promised it to be.
        unsafe { System.realloc(pointer, layout, new_size) }
    }
}
