//! `Held`: a value that outlives the borrow of its context.

use std::fmt;
use std::ops::Deref;
use std::ptr::NonNull;

use crate::context::Strong;

/// A value of a task, owned and `'static`; derefs to `T`.
///
/// Cloning counts a reference. It keeps the memory of the context it came from (every value of it), but does not keep the context
/// open: bodies are dropped when the last [`Ctx`](crate::Ctx) of the user goes, whoever holds a value.
///
/// Made by [`Run::held`](crate::Run::held).
pub struct Held<T: 'static> {
    /// Behind the handle's memory; see `new`.
    value: NonNull<T>,
    owner: Strong,
}

// SAFETY: it gives `&T` only, and may free the context, whose contents are Send and Sync (the bounds of `Ctx` and `Task`).
unsafe impl<T: Send + Sync> Send for Held<T> {}
// SAFETY: as above.
unsafe impl<T: Send + Sync> Sync for Held<T> {}

impl<T> Held<T> {
    /// # Safety
    /// The value lives in the memory that `owner` keeps, and is never written again.
    pub(crate) unsafe fn new(owner: Strong, value: NonNull<T>) -> Self {
        Self { value, owner }
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
