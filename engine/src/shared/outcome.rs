//! A kept outcome and the place that readers find it in.
//!
//! An [`Outcome`] is a value (or, with a `failure_ttl`, an error) in memory of its own, counted as [`Held`] counts. The [`Place`] of an
//! entry has one handle of it. A refresh swaps the pointer; the old outcome's handle is given back when no reader can be between the load
//! of the pointer and the count any more.
//!
//! | row | who | operation | pairs with | why |
//! |---|---|---|---|---|
//! | P1 | reader, pinned | load Acquire | P2 | the outcome behind it is written: it is never seen half |
//! | P2 | who has the entry's lock | swap AcqRel | P1, P2 | Release publishes the outcome; Acquire: the old one is given back by who swapped it out |
//!
//! It must never hold user code inside a pin: what a pin covers is a load, a count and a look at two numbers.

use std::ptr::NonNull;

use crate::error::TaskError;
use crate::held::{Counted, HANDLE, Held, Keeper};
use crate::stack;
use crate::sync::atomic::{AtomicU64, Ordering};

/// Never, on the clock of a tier.
pub(super) const NEVER: u64 = u64::MAX;

/// The part of an outcome that does not depend on its type.
#[repr(C)]
pub(super) struct Head {
    counted: Counted,
    /// It is a [`TaskError`].
    failed: bool,
    /// From when on a hit has to look at the clock: when it is to be refreshed, or when it expires. Nanoseconds of the tier's clock.
    check_at: AtomicU64,
    /// From when on it must not be given.
    expires: AtomicU64,
}

#[repr(C)]
struct Whole<T> {
    head: Head,
    value: T,
}

/// One handle of an outcome.
pub(super) struct Outcome(NonNull<Head>);

// SAFETY: what it holds is Send and Sync (`Outcome::value`), and so is the head.
unsafe impl Send for Outcome {}
// SAFETY: as above.
unsafe impl Sync for Outcome {}

impl Outcome {
    pub(super) fn value<T: Send + Sync + 'static>(value: T) -> Self {
        Self::make(value, false)
    }

    pub(super) fn error(error: TaskError) -> Self {
        Self::make(error, true)
    }

    fn make<T: Send + Sync + 'static>(value: T, failed: bool) -> Self {
        let whole = Box::leak(Box::new(Whole {
            head: Head {
                counted: Counted {
                    handles: AtomicU64::new(HANDLE),
                    free: free::<T>,
                },
                failed,
                check_at: AtomicU64::new(NEVER),
                expires: AtomicU64::new(NEVER),
            },
            value,
        }));
        Self(NonNull::from(whole).cast())
    }

    fn head(&self) -> &Head {
        // SAFETY: this handle keeps it.
        unsafe { self.0.as_ref() }
    }

    /// Until when it may be given. Before it is in a place.
    pub(super) fn set_times(&self, refresh: u64, expires: u64) {
        let head = self.head();
        // ORDER: Relaxed, both; published by P2.
        head.expires.store(expires, Ordering::Relaxed);
        head.check_at.store(refresh.min(expires), Ordering::Relaxed);
    }

    /// The next try to refresh comes then.
    pub(super) fn refresh_at(&self, at: u64) {
        // ORDER: Relaxed; the number is all there is to it.
        let expires = self.head().expires.load(Ordering::Relaxed);
        self.head()
            .check_at
            .store(at.min(expires), Ordering::Relaxed);
    }

    pub(super) fn is_failed(&self) -> bool {
        self.head().failed
    }

    /// What every caller gets.
    ///
    /// # Safety
    /// The outcome was made of a `T`, or is an error.
    #[inline]
    pub(super) unsafe fn into_result<T: 'static>(self) -> Result<Held<T>, TaskError> {
        if self.is_failed() {
            // SAFETY: it is an error, as its head says.
            return Err(unsafe { self.clone_error() });
        }
        let whole = self.0.cast::<Whole<T>>();
        // SAFETY: the promise of the caller.
        let value = unsafe { &raw mut (*whole.as_ptr()).value };
        // SAFETY: a field is not null.
        let value = unsafe { NonNull::new_unchecked(value) };
        let counted = self.0.cast::<Counted>();
        std::mem::forget(self);
        // SAFETY: the handle was this one's.
        let owner = unsafe { Keeper::from_raw(counted) };
        // SAFETY: the value lives in the memory that the handle keeps, and is never written again.
        Ok(unsafe { Held::of(owner, value) })
    }

    /// # Safety
    /// It is an error.
    #[cold]
    unsafe fn clone_error(&self) -> TaskError {
        // SAFETY: the promise of the caller.
        unsafe { &self.0.cast::<Whole<TaskError>>().as_ref().value }.clone()
    }
}

impl Outcome {
    fn into_raw(self) -> NonNull<Head> {
        std::mem::ManuallyDrop::new(self).0
    }

    /// For an atomic pointer of the caller's.
    pub(super) fn into_ptr(self) -> *mut Head {
        self.into_raw().as_ptr()
    }

    /// A handle more of what the pointer has one of.
    ///
    /// # Safety
    /// The pointer came from [`Outcome::into_ptr`], and that handle stays meanwhile.
    pub(super) unsafe fn clone_ptr(ptr: NonNull<Head>) -> Self {
        Self::clone(&std::mem::ManuallyDrop::new(Self(ptr)))
    }

    /// The handle of the pointer.
    ///
    /// # Safety
    /// The pointer came from [`Outcome::into_ptr`], and this is done once.
    pub(super) unsafe fn from_ptr(ptr: NonNull<Head>) -> Self {
        Self(ptr)
    }
}

impl Clone for Outcome {
    fn clone(&self) -> Self {
        self.head().counted.retain(HANDLE);
        Self(self.0)
    }
}

impl Drop for Outcome {
    fn drop(&mut self) {
        // SAFETY: the handle is this one's, and goes.
        unsafe { Counted::release(self.0.cast()) };
    }
}

/// # Safety
/// It is the head of a `Whole<T>` without handles.
unsafe fn free<T>(counted: NonNull<Counted>) {
    // SAFETY: the promise of the caller.
    unsafe { stack::free_kept(counted, free_here::<T>) };
}

/// # Safety
/// As [`free`].
unsafe fn free_here<T>(counted: NonNull<Counted>) {
    // SAFETY: it came out of a box (`Outcome::make`), and this is its end.
    stack::contain(|| drop(unsafe { Box::from_raw(counted.cast::<Whole<T>>().as_ptr()) }));
}

/// An outcome that a pinned reader looks at.
pub(super) struct Seen<'p>(&'p Head, NonNull<Head>);

impl Seen<'_> {
    /// From when on the clock has to be looked at.
    #[inline(always)]
    pub(super) fn check_at(&self) -> u64 {
        // ORDER: Relaxed; written before P2, or a later number.
        self.0.check_at.load(Ordering::Relaxed)
    }

    pub(super) fn expires(&self) -> u64 {
        // ORDER: Relaxed; written before P2.
        self.0.expires.load(Ordering::Relaxed)
    }

    /// One of those who see that it is to be refreshed does it; from then on hits look at the clock again when it expires.
    pub(super) fn claim_refresh(&self, seen: u64) -> bool {
        // ORDER: Relaxed; who starts the refresh goes through the entry's lock.
        self.0
            .check_at
            .compare_exchange(seen, self.expires(), Ordering::Relaxed, Ordering::Relaxed)
            .is_ok()
    }

    /// A handle of one's own.
    #[inline(always)]
    pub(super) fn take(&self) -> Outcome {
        self.0.counted.retain(HANDLE);
        Outcome(self.1)
    }
}

impl Head {
    /// Whether it may be given at this time.
    pub(super) fn is_there_at(&self, now: u64) -> bool {
        // ORDER: Relaxed; written before the outcome was published.
        now < self.expires.load(Ordering::Relaxed)
    }
}

pub(super) use place::{Pin, Place, Retired, pin};

#[cfg(not(loom))]
mod place {
    use super::{Head, NonNull, Ordering, Outcome, Seen};
    use crate::sync::{Mutex, MutexGuard, lock};
    use crossbeam_epoch as epoch;

    /// Keeps what a reader may see from being freed.
    pub(in crate::shared) type Pin = epoch::Guard;

    /// Waits for nobody and drops nothing of the user's.
    #[inline(always)]
    pub(in crate::shared) fn pin() -> Pin {
        epoch::pin()
    }

    /// Where an entry's outcome is found.
    pub(in crate::shared) struct Place(epoch::Atomic<Head>);

    impl Place {
        pub(in crate::shared) fn new() -> Self {
            Self(epoch::Atomic::null())
        }

        /// Shows the outcome to `f`, if there is one.
        #[inline(always)]
        pub(in crate::shared) fn look<R>(
            &self,
            pin: &Pin,
            f: impl FnOnce(Option<Seen<'_>>) -> R,
        ) -> R {
            // ORDER: Acquire (P1).
            let head = self.0.load(Ordering::Acquire, pin);
            f(NonNull::new(head.as_raw().cast_mut()).map(|raw| {
                // SAFETY: the place has a handle of it, which is not given back while we are pinned.
                Seen(unsafe { raw.as_ref() }, raw)
            }))
        }

        /// As [`look`](Self::look), without a pin.
        ///
        /// # Safety
        /// The caller has the entry's lock: nobody swaps meanwhile.
        pub(in crate::shared) unsafe fn look_locked<R>(
            &self,
            f: impl FnOnce(Option<Seen<'_>>) -> R,
        ) -> R {
            // SAFETY: what is here is not retired before the lock is given back.
            let unpinned = unsafe { epoch::unprotected() };
            self.look(unpinned, f)
        }

        /// For who has the entry's lock.
        pub(in crate::shared) fn swap(&self, new: Option<Outcome>) -> Option<Retired> {
            let new = new.map_or(std::ptr::null(), |new| new.into_raw().as_ptr().cast_const());
            // SAFETY: the guard is the lifetime of what comes out, which is not looked at; its handle is the caller's.
            let unpinned = unsafe { epoch::unprotected() };
            // ORDER: AcqRel (P2).
            let old = self
                .0
                .swap(epoch::Shared::from(new), Ordering::AcqRel, unpinned);
            NonNull::new(old.as_raw().cast_mut()).map(Retired)
        }
    }

    impl Drop for Place {
        fn drop(&mut self) {
            // ORDER: Relaxed; nobody else has the entry.
            // SAFETY: as above, so there is no reader to wait for.
            let head = unsafe { self.0.load(Ordering::Relaxed, epoch::unprotected()) };
            drop(NonNull::new(head.as_raw().cast_mut()).map(Outcome));
        }
    }

    /// What was swapped out: its handle is given back by the drop, when no reader can be about to count any more. Not under a
    /// lock: other outcomes may be freed by it, and their destructors are the user's.
    #[must_use]
    pub(in crate::shared) struct Retired(NonNull<Head>);

    impl Retired {
        pub(in crate::shared) fn head(&self) -> &Head {
            // SAFETY: this handle keeps it.
            unsafe { self.0.as_ref() }
        }
    }

    impl Drop for Retired {
        fn drop(&mut self) {
            let outcome = Outcome(self.0);
            let pin = epoch::pin();
            // SAFETY: it is out of its place, and may be given back on any thread; `Outcome` is Send and borrows nothing.
            unsafe { pin.defer_unchecked(move || free().push(outcome)) };
            // Not left for later: it may be large.
            pin.flush();
            drop(pin);
            let gone = std::mem::take(&mut *free());
            drop(gone);
        }
    }

    /// Outcomes that no reader can be about to count any more, until the next one is retired. They are not dropped where the epochs
    /// find out: there one is pinned, which holds up all garbage of all threads while destructors run, and it may be a reader.
    static FREE: Mutex<Vec<Outcome>> = Mutex::new(Vec::new());

    fn free() -> MutexGuard<'static, Vec<Outcome>> {
        lock(&FREE)
    }
}

/// The stand-in for the models: a pointer of loom's, and pins that are counted under a lock, in each place for itself. A reader pins
/// before it reads the pointer and a writer retires after it swapped, so the lock adds no order between a swap and the read of it.
#[cfg(loom)]
mod place {
    use super::{Head, NonNull, Ordering, Outcome, Seen};
    use crate::sync::atomic::AtomicPtr;
    use crate::sync::{Arc, Mutex, lock};

    pub(in crate::shared) struct Pin;

    pub(in crate::shared) fn pin() -> Pin {
        Pin
    }

    pub(in crate::shared) struct Place {
        pointer: AtomicPtr<Head>,
        pins: Arc<Mutex<Pins>>,
    }

    #[derive(Default)]
    struct Pins {
        pinned: usize,
        retired: Vec<Outcome>,
    }

    impl Place {
        pub(in crate::shared) fn new() -> Self {
            Self {
                pointer: AtomicPtr::new(std::ptr::null_mut()),
                pins: Arc::new(Mutex::new(Pins::default())),
            }
        }

        pub(in crate::shared) fn look<R>(
            &self,
            _: &Pin,
            f: impl FnOnce(Option<Seen<'_>>) -> R,
        ) -> R {
            lock(&self.pins).pinned += 1;
            // ORDER: Acquire (P1).
            let head = self.pointer.load(Ordering::Acquire);
            let result = f(NonNull::new(head).map(|raw| {
                // SAFETY: as outside of the models.
                Seen(unsafe { raw.as_ref() }, raw)
            }));
            let mut pins = lock(&self.pins);
            pins.pinned -= 1;
            let free = if pins.pinned == 0 {
                std::mem::take(&mut pins.retired)
            } else {
                Vec::new()
            };
            drop(pins);
            drop(free);
            result
        }

        pub(in crate::shared) unsafe fn look_locked<R>(
            &self,
            f: impl FnOnce(Option<Seen<'_>>) -> R,
        ) -> R {
            // ORDER: Acquire (P1).
            let head = self.pointer.load(Ordering::Acquire);
            f(NonNull::new(head).map(|raw| {
                // SAFETY: as outside of the models.
                Seen(unsafe { raw.as_ref() }, raw)
            }))
        }

        pub(in crate::shared) fn swap(&self, new: Option<Outcome>) -> Option<Retired> {
            let new = new.map_or(std::ptr::null_mut(), |new| new.into_raw().as_ptr());
            // ORDER: AcqRel (P2).
            let old = self.pointer.swap(new, Ordering::AcqRel);
            NonNull::new(old).map(|old| Retired(Some(Outcome(old)), self.pins.clone()))
        }
    }

    impl Drop for Place {
        fn drop(&mut self) {
            // ORDER: AcqRel, and a read-modify-write, since the counts of entries are not loom's: a load might be of what was there before.
            let head = self.pointer.swap(std::ptr::null_mut(), Ordering::AcqRel);
            drop(NonNull::new(head).map(Outcome));
        }
    }

    #[must_use]
    pub(in crate::shared) struct Retired(Option<Outcome>, Arc<Mutex<Pins>>);

    impl Retired {
        pub(in crate::shared) fn head(&self) -> &Head {
            self.0.as_ref().unwrap().head()
        }
    }

    impl Drop for Retired {
        fn drop(&mut self) {
            let mut pins = lock(&self.1);
            let now = if pins.pinned == 0 {
                self.0.take()
            } else {
                pins.retired.extend(self.0.take());
                None
            };
            drop(pins);
            drop(now);
        }
    }
}
