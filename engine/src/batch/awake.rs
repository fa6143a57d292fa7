//! Who may ask for a key yet, as far as the context can tell: hints for when a batch goes, never a condition for it.
//!
//! An executor with one queue polls what is awake before it polls again a caller that woke itself, so the second poll of a caller
//! is late enough. With several threads it is not: another thread may have taken a helper of `parallel` out of the queue, or be in the middle of
//! a body that asks next. Two counts tell of these, and only fan-outs, `spawn` and batches pay for them:
//!
//! * *helping*: helpers that were given to the runtime and not polled yet, and polls by helpers and fans that are under way.
//! * *untaken*: keys whose batch is done and whose callers have not been polled since.
//!
//! While either is not zero a caller that might send a batch yields again, a bounded number of times: what it waits for may be a caller that
//! nobody polls. The *untaken* of then are forgiven, so that they are not waited for twice.
//!
//! The atomics are `std`'s in a model too: no outcome depends on them, and loom would branch on each.

use std::cell::Cell;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// The hints of one context.
#[derive(Default)]
pub(crate) struct Awake {
    helping: AtomicU32,
    /// The epoch, and below it the number of untaken keys.
    untaken: AtomicU64,
}

const EPOCH: u64 = 1 << 32;

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
        self.helping.load(Ordering::Relaxed) > own
            || self.untaken.load(Ordering::Relaxed) % EPOCH != 0
    }

    /// So many keys have their values now. Gives the epoch.
    pub(super) fn landed(&self, keys: usize) -> u32 {
        let old = self.untaken.fetch_add(keys as u64, Ordering::Relaxed);
        (old / EPOCH) as u32
    }

    /// The caller of one of them was polled, or is gone.
    pub(super) fn taken(&self, epoch: u32) {
        let _ = self
            .untaken
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |now| {
                ((now / EPOCH) as u32 == epoch && now % EPOCH != 0).then(|| now - 1)
            });
    }

    /// Those that are untaken now are not waited for any more.
    pub(super) fn forgive(&self) {
        let _ = self
            .untaken
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |now| {
                (now % EPOCH != 0).then(|| (now / EPOCH + 1).wrapping_mul(EPOCH))
            });
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
