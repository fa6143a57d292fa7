//! Room for the first slots of a context, in the context's own allocation: a small one spares most of its allocations.
//!
//! Taken from the front, never given back before the context ends, which is when slots end too. Sized so that a context with a small state
//! stays in the class of allocations that an allocator serves from a list (up to 1,032 bytes with glibc).

use std::cell::UnsafeCell; // only its address is taken, so no model has to see it
use std::mem::MaybeUninit;
use std::ptr::NonNull;

use crate::sync::atomic::{AtomicUsize, Ordering};

/// None in a model: that places do not overlap is clear from the one read-modify-write, and it would be explored at each slot.
const BYTES: usize = if cfg!(loom) { 0 } else { 704 };
const ALIGN: usize = 16;

/// The bytes. Nothing is written when a context is made.
#[repr(align(16))]
pub(crate) struct Room(#[allow(dead_code)] UnsafeCell<MaybeUninit<[u8; BYTES]>>); // used by address only

/// How much of a context's room is taken.
pub(crate) struct Taken(AtomicUsize);

impl Taken {
    #[inline(always)]
    pub(crate) fn new() -> Self {
        Self(AtomicUsize::new(0))
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
        if align_of::<T>() > ALIGN || size > BYTES {
            return None;
        }
        // ORDER: Relaxed; a place is handed on by whoever writes it.
        let mut at = self.0.load(Ordering::Relaxed);
        loop {
            if at > BYTES - size {
                return None;
            }
            // ORDER: Relaxed, as above; that no two get the same bytes is the read-modify-write's doing.
            let won = self.0.compare_exchange_weak(
                at,
                at + size,
                Ordering::Relaxed,
                Ordering::Relaxed,
            );
            match won {
                Ok(_) => break,
                Err(now) => at = now,
            }
        }
        // SAFETY: `at + size` is within the room.
        Some(unsafe { room.cast::<u8>().add(at) }.cast())
    }
}
