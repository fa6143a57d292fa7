//! The guide: where to start, how things are done, what rustc says. Pages that belong to no single item; there is no code here.
//!
//! * [`getting_started`]: a server in which nothing is fetched twice for one request, in five steps.
//! * [`thinking_in_tasks`]: what makes a good task, what is input and what is state, what is no task.
//! * [`errors_and_retries`]: what callers get, what a server answers, and how to try again.
//! * [`cancellation_and_deadlines`]: how a context ends, how a caller gives up, and what goes on.
//! * [`parallel_or_concurrent`]: `join!`, `parallel`, `parallel_all`, `run_all`, `spawn`: which one.
//! * [`batching`]: many keys, one run.
//! * [`testing`]: fakes with `replace`, values with `prime`, what ran, and time.
//! * [`observing`]: where it hangs, what a request did, metrics, traces.
//! * [`second_tier`]: values that all requests share, for a while.
//! * [`servers`]: a context for each request.
//! * [`migrating`]: from maps of `OnceCell`, from moka, from a DataLoader, from River's `tasks`.
//! * [`compile_errors`]: what rustc says when a task, a call or its input is wrong, how to read it, and
//!   what to do.
//! * [`limits`]: what cannot be had, what happens instead, and the nearest substitute.

/// Ten minutes: a server in which nothing is fetched twice for one request.
#[cfg_attr(not(loom), doc = "")]
#[cfg_attr(not(loom), doc = include_str!("guide/getting_started.md"))]
pub mod getting_started {}

/// What makes a good task, what is input and what is state, what is no task.
#[cfg_attr(not(loom), doc = "")]
#[cfg_attr(not(loom), doc = include_str!("guide/thinking_in_tasks.md"))]
pub mod thinking_in_tasks {}

/// What callers get, what a server answers, and how to try again.
#[cfg_attr(not(loom), doc = "")]
#[cfg_attr(not(loom), doc = include_str!("guide/errors_and_retries.md"))]
pub mod errors_and_retries {}

/// How a context ends, how a caller gives up, and what goes on.
#[cfg_attr(not(loom), doc = "")]
#[cfg_attr(not(loom), doc = include_str!("guide/cancellation_and_deadlines.md"))]
pub mod cancellation_and_deadlines {}

/// `join!`, `parallel`, `parallel_all`, `run_all`, `spawn`: which one.
#[cfg_attr(not(loom), doc = "")]
#[cfg_attr(not(loom), doc = include_str!("guide/parallel_or_concurrent.md"))]
pub mod parallel_or_concurrent {}

/// Many keys, one run.
#[cfg_attr(not(loom), doc = "")]
#[cfg_attr(not(loom), doc = include_str!("guide/batching.md"))]
pub mod batching {}

/// Fakes, values put in, what ran, and time.
#[cfg_attr(not(loom), doc = "")]
#[cfg_attr(not(loom), doc = include_str!("guide/testing.md"))]
pub mod testing {}

/// Where it hangs, what a request did, metrics, traces.
#[cfg_attr(not(loom), doc = "")]
#[cfg_attr(not(loom), doc = include_str!("guide/observing.md"))]
pub mod observing {}

/// Values that all requests share, for a while.
#[cfg_attr(not(loom), doc = "")]
#[cfg_attr(not(loom), doc = include_str!("guide/second_tier.md"))]
pub mod second_tier {}

/// A context for each request.
#[cfg_attr(not(loom), doc = "")]
#[cfg_attr(not(loom), doc = include_str!("guide/servers_axum.md"))]
#[cfg_attr(not(loom), doc = include_str!("guide/servers.md"))]
pub mod servers {}

/// From maps of `OnceCell`, from moka, from a DataLoader, from River's `tasks`.
#[cfg_attr(not(loom), doc = "")]
#[cfg_attr(not(loom), doc = include_str!("guide/migrating.md"))]
pub mod migrating {}

/// What rustc says, how to read it, and what to do.
#[cfg_attr(not(loom), doc = "")]
#[cfg_attr(not(loom), doc = include_str!("guide/compile_errors.md"))]
pub mod compile_errors {}

/// What cannot be had, and the nearest substitute.
#[cfg_attr(not(loom), doc = "")]
#[cfg_attr(not(loom), doc = include_str!("guide/limits.md"))]
pub mod limits {}
