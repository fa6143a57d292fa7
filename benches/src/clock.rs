//! The clock of work that one thread does alone: the time that the thread itself has spent, so that what else runs on the machine
//! is not in the figure.
//!
//! A look at it is a system call of some 100 ns, so a batch is timed and not an operation. Work that other threads take part in
//! (tokio, two threads) is timed by the wall.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// A moment in the life of this thread.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Moment(Duration);

impl Moment {
    pub(crate) fn now() -> Self {
        let now = clock_gettime(ClockId::ThreadCPUTime);
        Self(Duration::new(now.tv_sec as u64, now.tv_nsec as u32))
    }

    pub(crate) fn elapsed(self) -> Duration {
        Self::now().0.saturating_sub(self.0)
    }
}
