//! Room for the first slots of a context, in the context's own allocation: a small one spares most of its allocations.
//!
//! Taken from the front, never given back before the context ends, which is when slots end too. Sized so that a context with a small state
//! stays in the class of allocations that an allocator serves from a list (up to 1,032 bytes with glibc).

use std::cell::UnsafeCell; // only its address is taken, so no model has to see it
use std::mem::MaybeUninit;
use std::ptr::NonNull;

use crate::stack;
use crate::sync::atomic::{AtomicUsize, Ordering};

/// None in a model: one thread's own affair, and the slots of a model are to come from where the leak check sees them.
const BYTES: usize = if cfg!(loom) { 0 } else { 704 };
const ALIGN: usize = 16;

/// The bytes. Nothing is written when a context is made.
#[repr(align(16))]
pub(crate) struct Room(#[allow(dead_code)] UnsafeCell<MaybeUninit<[u8; BYTES]>>); // used by address only

/// How much of a context's room is taken, and by whom: by the thread that made the context, and no other. So no
/// read-modify-write is needed; what other threads insert goes to the heap.
pub(crate) struct Taken {
    /// [`stack::thread`] of the owner. A thread that has the address of one that has ended begins after that one's end, so it sees what was taken.
    owner: usize,
    bytes: AtomicUsize,
}

impl Taken {
    #[inline(always)]
    pub(crate) fn new() -> Self {
        Self {
            owner: stack::thread(),
            bytes: AtomicUsize::new(0),
        }
    }

    /// A place for a `T`, for as long as the room is there.
    ///
    /// # Safety
    /// `room` is this context's, and stays.
    #[inline(always)]
    pub(crate) unsafe fn take<T>(&self, room: NonNull<Room>) -> Option<NonNull<T>> {
        const {
            assert!(BYTES.is_multiple_of(ALIGN) && align_of::<Room>() == ALIGN);
        }
        let size = size_of::<T>().next_multiple_of(ALIGN);
        if align_of::<T>() > ALIGN || size > BYTES || self.owner != stack::thread() {
            return None;
        }
        // ORDER: Relaxed, as the store: one thread's.
        let at = self.bytes.load(Ordering::Relaxed);
        if at > BYTES - size {
            return None;
        }
        self.bytes.store(at + size, Ordering::Relaxed);
        // SAFETY: `at + size` is within the room.
        Some(unsafe { room.cast::<u8>().add(at) }.cast())
    }
}
