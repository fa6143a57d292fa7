//! Faults that people met in software of this kind, each told again as a test whose name is the claim.
//!
//! The modules group them by what went wrong; the id of the case stands in the doc comment. A scenario runs on
//! tokio's current-thread runtime with paused time and again on the multi-thread one with real time; a watchdog
//! outside both turns a hang into a failure. Cases that are a matter of types are checked by compiling this file.
#![cfg(all(not(loom), feature = "tokio"))]

mod support;

#[macro_use]
#[path = "cases/helpers.rs"]
mod helpers;

#[path = "cases/cancellation.rs"]
mod cancellation;
#[path = "cases/cycles.rs"]
mod cycles;
#[path = "cases/failures.rs"]
mod failures;
#[path = "cases/identity.rs"]
mod identity;
#[path = "cases/memory.rs"]
mod memory;
#[path = "cases/panics.rs"]
mod panics;
#[path = "cases/stalls.rs"]
mod stalls;
#[path = "cases/types.rs"]
mod types;
