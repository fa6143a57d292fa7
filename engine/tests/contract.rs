//! The contract of the engine: every row of its table has tests here, named after what is claimed.
//!
//! `runs` and `slots` hold what a call gives, `callers` and `spawned` who drives a run and who may
//! leave it, `fanout` what runs on all cores, `ending` cancellation, deadlines and the end of a
//! context, `errors` what a caller sees of a failure, `formats` what is printed, `runtimes` what needs tokio. Panics of user
//! code, cycles and depth have files of their own beside this one.
#![cfg(not(loom))]

mod support;

#[path = "contract/callers.rs"]
mod callers;
#[path = "contract/ending.rs"]
mod ending;
#[path = "contract/errors.rs"]
mod errors;
#[cfg(feature = "tokio")]
#[path = "contract/fanout.rs"]
mod fanout;
#[path = "contract/formats.rs"]
mod formats;
#[path = "contract/runs.rs"]
mod runs;
#[cfg(feature = "tokio")]
#[path = "contract/runtimes.rs"]
mod runtimes;
#[path = "contract/slots.rs"]
mod slots;
#[cfg(feature = "tokio")]
#[path = "contract/spawned.rs"]
mod spawned;
