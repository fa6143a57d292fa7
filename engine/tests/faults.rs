//! Faults that this engine once had, each told again as a test whose name is the claim.
//!
//! `errors` holds what chains of errors did, `runs` what a slot remembered of a run that was over, `waits` threads that blocked on
//! themselves, `fans` helpers that outlived their group, `watchers` deadlines and tokens that nobody watched. `extremes` are numbers and habits that it should never mind.
#![cfg(not(loom))]

mod support;

#[path = "faults/errors.rs"]
mod errors;
#[path = "faults/extremes.rs"]
mod extremes;
#[cfg(feature = "tokio")]
#[path = "faults/fans.rs"]
mod fans;
#[path = "faults/runs.rs"]
mod runs;
#[path = "faults/waits.rs"]
mod waits;
#[cfg(feature = "tokio")]
#[path = "faults/watchers.rs"]
mod watchers;

/// A thread with so little stack that nothing may recurse there.
const SMALL_STACK: usize = 512 * 1024;
