//! The `cfg(loom)` shim: atomics, cells, locks and thread-locals, under the paths of `std`.
//!
//! Everything in this crate that two threads share goes through here, so that a model explores the
//! engine's own code. Reference counts that no model question is about (`Arc`) stay `std`'s: loom
//! would branch on each of them, and the models count frees instead.
//!
//! It must never hold anything but re-exports and the cell below.

/// A thread-local that needs no lazy start, except in a model.
#[cfg(not(loom))]
macro_rules! local {
    ($(#[$doc:meta])* static $name:ident: $type:ty = $init:expr;) => {
        std::thread_local! { $(#[$doc])* static $name: $type = const { $init }; }
    };
}
#[cfg(loom)]
macro_rules! local {
    ($(#[$doc:meta])* static $name:ident: $type:ty = $init:expr;) => {
        loom::thread_local! { $(#[$doc])* static $name: $type = $init; }
    };
}
pub(crate) use local;

pub(crate) use std::sync::Arc;

/// For what is taken apart by its last owner with more than loads: a model must see that the others are done with it.
#[cfg(loom)]
pub(crate) use loom::sync::Arc as SeenArc;
#[cfg(all(not(loom), feature = "shared"))]
pub(crate) use std::sync::Arc as SeenArc;

#[cfg(loom)]
pub(crate) use loom::sync::{Mutex, MutexGuard};
#[cfg(not(loom))]
pub(crate) use std::sync::{Mutex, MutexGuard};

pub(crate) mod atomic {
    #[cfg(loom)]
    pub(crate) use loom::sync::atomic::{
        AtomicBool, AtomicPtr, AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering, fence,
    };
    #[cfg(not(loom))]
    pub(crate) use std::sync::atomic::{
        AtomicBool, AtomicPtr, AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering, fence,
    };
}

pub(crate) mod cell {
    #[cfg(loom)]
    use loom::cell::UnsafeCell as Cell;

    /// A cell whose accesses have a begin and an end, so that a model sees the ones that race.
    pub(crate) struct UnsafeCell<T>(Cell<T>);

    impl<T> UnsafeCell<T> {
        pub(crate) fn new(value: T) -> Self {
            Self(Cell::new(value))
        }

        /// # Safety
        /// Nobody writes the cell before `f` returns.
        #[inline(always)]
        pub(crate) unsafe fn read<'c, R>(&'c self, f: impl FnOnce(&'c T) -> R) -> R
        where
            T: 'c,
        {
            // SAFETY: the promise of the caller.
            self.0.with(|p| f(unsafe { &*p }))
        }

        /// # Safety
        /// Nobody else uses the cell before `f` returns.
        #[inline(always)]
        pub(crate) unsafe fn write<R>(&self, f: impl FnOnce(&mut T) -> R) -> R {
            // SAFETY: the promise of the caller.
            self.0.with_mut(|p| f(unsafe { &mut *p }))
        }
    }

    /// `std`'s cell behind loom's interface.
    #[cfg(not(loom))]
    struct Cell<T>(std::cell::UnsafeCell<T>);

    #[cfg(not(loom))]
    impl<T> Cell<T> {
        fn new(value: T) -> Self {
            Self(std::cell::UnsafeCell::new(value))
        }
        #[inline(always)]
        fn with<R>(&self, f: impl FnOnce(*const T) -> R) -> R {
            f(self.0.get())
        }
        #[inline(always)]
        fn with_mut<R>(&self, f: impl FnOnce(*mut T) -> R) -> R {
            f(self.0.get())
        }
    }
}

/// What `place` points to, made by whoever needs it first. (`std`'s atomics, not the models': what is kept here is no question of theirs.)
pub(crate) fn get_or_make<T>(
    place: &std::sync::atomic::AtomicPtr<T>,
    make: impl FnOnce() -> T,
) -> &T {
    use std::sync::atomic::Ordering;
    // ORDER: Acquire; pairs with the AcqRel below.
    let mut made = place.load(Ordering::Acquire);
    if made.is_null() {
        let new = Box::into_raw(Box::new(make()));
        // ORDER: AcqRel; Release publishes the new one, Acquire (also on failure) reads another's.
        match place.compare_exchange(
            std::ptr::null_mut(),
            new,
            Ordering::AcqRel,
            Ordering::Acquire,
        ) {
            Ok(_) => made = new,
            Err(theirs) => {
                // SAFETY: `new` came out of a box just now and nobody else has seen it.
                drop(unsafe { Box::from_raw(new) });
                made = theirs;
            }
        }
    }
    // SAFETY: it is never replaced, and its owner, who is borrowed, frees it with [`free_made`].
    unsafe { &*made }
}

/// Frees what [`get_or_make`] made, if it did.
///
/// # Safety
/// The owner of `place` is at its end, and `place` was given to nothing but [`get_or_make`].
#[inline]
pub(crate) unsafe fn free_made<T>(place: &std::sync::atomic::AtomicPtr<T>) {
    // ORDER: Relaxed; nobody else is there.
    let made = place.load(std::sync::atomic::Ordering::Relaxed);
    if !made.is_null() {
        // SAFETY: it came out of a box, and nobody borrows it any more.
        drop(unsafe { Box::from_raw(made) });
    }
}

/// Locks, and goes on with the data if another holder panicked: no user code runs under our locks,
/// so a poisoned one can only mean that the process is going down anyway.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}
