//! Who may ask for a key yet, as far as the context can tell: hints for when a batch goes, never a condition for it.
//!
//! An executor with one queue polls what is awake before it polls again a caller that woke itself, so the second poll of a caller
//! is late enough. With several threads it is not: another thread may have taken a helper of `parallel` out of the queue, or be in the middle of
//! a body that asks next. Two counts tell of these, and only fan-outs, `spawn` and batches pay for them:
//!
//! * *helping*: helpers that were given to the runtime and not polled yet, and polls by helpers and fans that are under way.
//! * *untaken*: callers whose key has its value and who have not been polled since.
//!
//! While either is not zero a caller that might send a batch yields again, a bounded number of times: what it waits for may be a caller that
//! nobody polls. The *untaken* of then are forgiven, so that they are not waited for twice.
//!
//! The atomics are `std`'s in a model too: no outcome depends on them, and loom would branch on each.

use std::cell::Cell;
use std::sync::atomic::{AtomicU32, Ordering};

/// The hints of one context.
#[derive(Default)]
pub(crate) struct Awake {
    helping: AtomicU32,
    untaken: AtomicU32,
}

std::thread_local! {
    /// How many polls by helpers and fans this thread is inside of.
    static HELPS: Cell<u32> = const { Cell::new(0) };
}

// ORDER: Relaxed, everywhere here: hints. Whoever misses one sends a batch early or yields once more.
impl Awake {
    /// A helper was given to the runtime.
    #[cfg(any(feature = "tokio", loom))]
    pub(crate) fn promise(&self) {
        self.helping.fetch_add(1, Ordering::Relaxed);
    }

    /// It was polled, or it is gone.
    #[cfg(any(feature = "tokio", loom))]
    pub(crate) fn kept(&self) {
        self.helping.fetch_sub(1, Ordering::Relaxed);
    }

    /// A poll by a helper or a fan is under way while this is alive.
    #[cfg(any(feature = "tokio", loom))]
    pub(crate) fn help(&self) -> Helps<'_> {
        self.helping.fetch_add(1, Ordering::Relaxed);
        let _ = HELPS.try_with(|helps| helps.set(helps.get() + 1));
        Helps(self)
    }

    /// Whether anybody else may ask soon.
    pub(super) fn others(&self) -> bool {
        // Those of other contexts further out on this stack count as well: then it goes early.
        let own = HELPS.try_with(Cell::get).unwrap_or(0);
        self.helping.load(Ordering::Relaxed) > own || self.untaken.load(Ordering::Relaxed) != 0
    }

    /// So many callers have their values now.
    pub(super) fn landed(&self, callers: usize) {
        let callers = u32::try_from(callers).unwrap_or(u32::MAX);
        self.untaken.fetch_add(callers, Ordering::Relaxed);
    }

    /// One of them was polled.
    pub(super) fn taken(&self) {
        let one_less = |now: u32| now.checked_sub(1);
        let _ = self
            .untaken
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less);
    }

    /// Those that are untaken now are not waited for any more.
    pub(super) fn forgive(&self) {
        self.untaken.store(0, Ordering::Relaxed);
    }
}

/// See [`Awake::help`].
#[cfg(any(feature = "tokio", loom))]
pub(crate) struct Helps<'a>(&'a Awake);

#[cfg(any(feature = "tokio", loom))]
impl Drop for Helps<'_> {
    fn drop(&mut self) {
        let _ = HELPS.try_with(|helps| helps.set(helps.get() - 1));
        self.0.helping.fetch_sub(1, Ordering::Relaxed);
    }
}
