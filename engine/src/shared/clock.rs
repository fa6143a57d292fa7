//! The clock of a tier: tokio's, so that tests pause and advance it, in nanoseconds since the tier was made.
//!
//! Reading it costs some 20 ns, more than the rest of a hit, so a hit reads it only where an outcome has a time to look at. A cheaper,
//! coarser clock was weighed: it is late by its own step, and an expired value must never be given.

use std::time::Duration;

#[cfg(not(loom))]
pub(super) struct Clock(tokio::time::Instant);

#[cfg(not(loom))]
impl Clock {
    pub(super) fn new() -> Self {
        Self(tokio::time::Instant::now())
    }

    #[inline]
    pub(super) fn now(&self) -> u64 {
        nanos(tokio::time::Instant::now().duration_since(self.0))
    }
}

/// In a model time is a number that the model sets. It is not loom's: time passes without telling anybody.
#[cfg(loom)]
pub(super) struct Clock(std::sync::atomic::AtomicU64);

#[cfg(loom)]
impl Clock {
    pub(super) fn new() -> Self {
        Self(std::sync::atomic::AtomicU64::new(0))
    }

    pub(super) fn now(&self) -> u64 {
        self.0.load(std::sync::atomic::Ordering::Relaxed)
    }

    pub(super) fn advance(&self, by: Duration) {
        self.0
            .fetch_add(nanos(by), std::sync::atomic::Ordering::Relaxed);
    }
}

/// Nanoseconds, up to some five hundred years.
#[inline]
pub(super) fn nanos(duration: Duration) -> u64 {
    duration
        .as_secs()
        .saturating_mul(1_000_000_000)
        .saturating_add(u64::from(duration.subsec_nanos()))
}
