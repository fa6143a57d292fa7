//! `Held`: a value that outlives the borrow of its context.

use std::fmt;
use std::ops::Deref;
use std::ptr::NonNull;

use crate::context::Strong;
use crate::sync::atomic::{AtomicU64, Ordering, fence};

/// One handle, in [`Counted::handles`].
pub(crate) const HANDLE: u64 = 1;
/// The bits that count handles; the rest is the context's (the module `context`).
pub(crate) const HANDLES: u64 = (1 << 32) - 1;

/// What a [`Held`] knows of what keeps its value: the first field of a context, and of a value of the second tier. The rows are in
/// the module `context`.
#[repr(C)]
pub(crate) struct Counted {
    pub(crate) handles: AtomicU64,
    /// For who drops the last handle.
    pub(crate) free: unsafe fn(NonNull<Counted>),
}

impl Counted {
    /// K1. The caller has a handle, or something that keeps one from going.
    #[inline]
    pub(crate) fn retain(&self, handles: u64) {
        // ORDER: Relaxed (K1); the caller has a handle, which is what orders.
        let old = self.handles.fetch_add(handles, Ordering::Relaxed);
        if old & HANDLES > HANDLES / 2 {
            // Two thousand million handles can only be leaked ones; one more could overflow into a use after free.
            std::process::abort();
        }
    }

    /// K3.
    ///
    /// # Safety
    /// The caller owns a handle, which is gone after this.
    #[inline]
    pub(crate) unsafe fn release(this: NonNull<Counted>) {
        // SAFETY: the promise of the caller.
        let counted = unsafe { this.as_ref() };
        // ORDER: Release (K3); what this handle did is before the end.
        if counted.handles.fetch_sub(HANDLE, Ordering::Release) & HANDLES == HANDLE {
            // ORDER: Acquire (K3); pairs with the Release of the others.
            fence(Ordering::Acquire);
            let free = counted.free;
            // SAFETY: this was the last handle, so nobody has what it kept, or a borrow of it.
            unsafe { free(this) };
        }
    }
}

/// A handle of whatever it is.
pub(crate) struct Keeper(NonNull<Counted>);

impl Keeper {
    /// # Safety
    /// The caller owns a handle, which is this one's from now on.
    pub(crate) unsafe fn from_raw(counted: NonNull<Counted>) -> Self {
        Self(counted)
    }
}

impl Clone for Keeper {
    #[inline]
    fn clone(&self) -> Self {
        // SAFETY: this handle keeps it.
        unsafe { self.0.as_ref() }.retain(HANDLE);
        Self(self.0)
    }
}

impl Drop for Keeper {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: the handle is this one's, and goes.
        unsafe { Counted::release(self.0) };
    }
}

/// A value of a task, owned and `'static`; derefs to `T`.
///
/// Cloning counts a reference. Made by [`Run::held`](crate::Run::held), it keeps the memory of the context it came from (every value of
/// it), but does not keep the context open: bodies are dropped when the last [`Ctx`](crate::Ctx) of the user goes, whoever holds a
/// value. Made by [`Shared::run`](crate::Shared::run), it keeps this value and nothing else.
///
/// # Examples
/// ```
/// use watershed::{Ctx, Held, TaskError};
/// async fn names(_: Ctx<()>, n: u64) -> Result<Vec<String>, TaskError> { Ok((0..n).map(|n| n.to_string()).collect()) }
///
/// let held: Held<Vec<String>> = Ctx::new(()).run(names, 3).held().wait()?;     // the context is gone
/// assert_eq!(held.join(", "), "0, 1, 2");                                      // a `Vec<String>`, by `Deref`
/// let other = std::thread::spawn({ let held = held.clone(); move || held.len() });
/// assert_eq!(other.join().unwrap(), 3);
/// # Ok::<(), TaskError>(())
/// ```
pub struct Held<T: 'static> {
    /// Behind the handle's memory; see `new`.
    value: NonNull<T>,
    owner: Keeper,
}

// SAFETY: it gives `&T` only, and may free the context, whose contents are Send and Sync (the bounds of `Ctx` and `Task`), or the value.
unsafe impl<T: Send + Sync> Send for Held<T> {}
// SAFETY: as above.
unsafe impl<T: Send + Sync> Sync for Held<T> {}

impl<T> Held<T> {
    /// # Safety
    /// The value lives in the memory that `owner` keeps, and is never written again.
    #[inline]
    pub(crate) unsafe fn of(owner: Keeper, value: NonNull<T>) -> Self {
        Self { value, owner }
    }

    /// # Safety
    /// The value lives in the memory of this context, and is never written again.
    pub(crate) unsafe fn new(context: Strong, value: NonNull<T>) -> Self {
        // SAFETY: the promise of the caller.
        unsafe { Self::of(context.into_keeper(), value) }
    }
}

#[cfg(any(feature = "shared", loom))]
impl<T> Held<Option<T>> {
    /// What is in it, if anything.
    pub(crate) fn transposed(self) -> Option<Held<T>> {
        let value = NonNull::from(self.as_ref().as_ref()?);
        // SAFETY: it lies in what the owner keeps, and is not written either.
        Some(unsafe { Held::of(self.owner, value) })
    }
}

impl<T> Deref for Held<T> {
    type Target = T;
    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: the promise of `new`.
        unsafe { self.value.as_ref() }
    }
}

impl<T> AsRef<T> for Held<T> {
    fn as_ref(&self) -> &T {
        self
    }
}

impl<T> Clone for Held<T> {
    fn clone(&self) -> Self {
        Self {
            value: self.value,
            owner: self.owner.clone(),
        }
    }
}

impl<T: fmt::Debug> fmt::Debug for Held<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

impl<T: fmt::Display> fmt::Display for Held<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

impl<T: PartialEq> PartialEq for Held<T> {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl<T: Eq> Eq for Held<T> {}

#[cfg(feature = "serde")]
impl<T: serde::Serialize> serde::Serialize for Held<T> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        (**self).serialize(serializer)
    }
}
