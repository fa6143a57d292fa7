// First of all: an attribute further down would leave the docs above it to be tested, and loom's types work inside a model only.
#![cfg(not(all(loom, doctest)))]
//! Any async fn is a task that runs **at most once per context and input**, however often, from wherever and in whatever order it is called.
//!
//! ```
//! # use watershed::{Ctx, TaskError};
//! # struct App; struct User { name: String }
//! # async fn query(id: u64) -> Result<User, std::io::Error> { Ok(User { name: format!("user {id}") }) }
//! async fn user(_: Ctx<App>, id: u64) -> Result<User, std::io::Error> { query(id).await }
//!
//! # futures::executor::block_on(async {
//! let ctx = Ctx::new(App);               // one per request
//! let who = ctx.run(user, 42).await?;    // &User, from wherever it is asked for
//! let who = ctx.run(user, 42).await?;    // already there: no query, no allocation, no lock
//! # assert_eq!(who.name, "user 42");
//! # Ok::<(), TaskError>(()) }).unwrap();
//! ```
//!
//! A context ([`Ctx`]) is one unit of work, such as a web request. The first call of a task runs it; calls that come meanwhile share that run;
//! later ones take the value that is there, by reference. So a check such as "is this user subscribed?" may stand in every
//! function that needs it. Tasks call each other:
//!
#![cfg_attr(feature = "tokio", doc = "```")]
#![cfg_attr(not(feature = "tokio"), doc = "```ignore")]
//! use watershed::{Ctx, Task, TaskError};
//! # struct App; struct User { name: String }
//!
//! async fn user(ctx: Ctx<App>, id: u64) -> Result<User, std::io::Error> {
//!     # let _ = (ctx, id);
//!     Ok(User { name: "Ada".into() })        // a query, in earnest
//! }
//! async fn greeting(ctx: Ctx<App>, id: u64) -> Result<String, TaskError> {
//!     let who = ctx.run(user, id).await?;    // &User, shared with everyone in this context
//!     Ok(format!("Hello, {}", who.name))
//! }
//!
//! # tokio::runtime::Builder::new_multi_thread().build().unwrap().block_on(async {
//! let ctx = Ctx::new(App);
//! let hello = ctx.run(greeting, 42).await?;                              // runs greeting and user
//! let who = ctx.run(user, 42).await?;                                    // already there
//! let (a, b) = tokio::try_join!(ctx.run(user, 1), ctx.run(user, 2))?;    // concurrent
//! let (a, b) = ctx.parallel((user.with(3), greeting.with(3))).await?;    // on all cores
//! # assert_eq!((hello.as_str(), who.name.as_str()), ("Hello, Ada", "Ada"));
//! # let _ = (a, b);
//! # Ok::<(), TaskError>(()) }).unwrap();
//! ```
//!
//! # The guide
//! [`getting_started`](guide::getting_started) takes ten minutes. Then [`thinking_in_tasks`](guide::thinking_in_tasks),
//! [`errors_and_retries`](guide::errors_and_retries), [`cancellation_and_deadlines`](guide::cancellation_and_deadlines),
//! [`parallel_or_concurrent`](guide::parallel_or_concurrent), [`batching`](guide::batching), [`testing`](guide::testing), [`observing`](guide::observing),
//! [`second_tier`](guide::second_tier), [`servers`](guide::servers), and [`migrating`](guide::migrating) from cells, moka, a DataLoader or River. When rustc
//! objects: [`compile_errors`](guide::compile_errors). What cannot be had: [`limits`](guide::limits).
//!
//! Rows that are asked for one by one in many places are fetched together, without a timer: [`Ctx::load`].
//!
//! # What it promises
//! * **One run.** Same task, equal input, same context: one run, and every caller gets the same `&T` or the same error.
//! * **Nobody stalls anybody.** The run belongs to no caller: one that is dropped, or alive and never polled again, leaves it to the others. The last
//!   one that goes takes the run with it.
//! * **No cycles.** Tasks that call each other in a circle do not compile ([`guide::compile_errors`] explains what the compiler says); where a signature hides
//!   the circle, the call that closes it returns an error that names it.
//! * **Panics stay inside.** A panic is an error of that call; nothing is poisoned.
//! * **The context ends everything.** Cancelled, past its deadline, or its last handle dropped: bodies are dropped, nobody waits for ever.
//! * **Values may outlive a request.** A second tier ([`Shared`]) runs tasks once for all requests and keeps what they give for a while.
//!
//! # When not to use it
//! * For one future that a few places await: a `Shared` future or a `OnceCell` is simpler.
//! * For functions with effects that must happen at every call: they are not tasks ([`Ctx::run_fresh`] runs one without memoization).
//!
//! # Features
//! * `tokio` (default): [`Ctx::spawn`], [`Ctx::parallel`], [`Ctx::parallel_all`], deadlines and cancellation tokens. Without it the crate works on any executor.
//! * `shared` (default, with `tokio`): [`Shared`] and [`Ctx::run_shared`], values that outlive a request.
//! * `anyhow`: finds the cause inside an `anyhow::Error` that a task returns.
//! * `serde`: `Serialize` for [`Held`].
//! * `tracing`: a span for each run; see `Builder::tracing`.
//! * `axum`: a context for each request, made by a layer; [`Ctx`] as an extractor, errors as responses. `http`: the layer alone, for any tower service. See
//!   `watershed::http`.
//!
//! # Seeing what happened
//! [`Ctx::waits`] says who waits for whom now, in every context. [`Builder::record`] keeps a record, and [`Ctx::report`] shows it: as a waterfall, a graph, a
//! trace for Perfetto, a page for the browser. [`Builder::observer`] is told of each run and call, for metrics. A context that asks for
//! none of it pays next to nothing.

#![cfg_attr(docsrs, feature(doc_cfg))]

mod batch;
mod context;
mod cycle;
mod error;
pub mod guide;
mod held;
#[cfg(feature = "http")]
pub mod http;
mod links;
pub mod observe;
mod parallel;
pub mod report;
mod room;
mod run;
#[cfg(any(feature = "shared", loom))]
mod shared;
mod slot;
mod stack;
mod sync;
mod table;
mod task;
#[cfg(feature = "tracing")]
mod trace;
mod wake;

pub use batch::{Batch, Load, LoadMany};
pub use context::{Builder, Cancelled, Ctx};
pub use error::{BoxError, TaskError, TaskErrorKind};
pub use held::Held;
pub use observe::Observer;
#[cfg(loom)]
#[doc(hidden)]
pub use parallel::model;
pub use parallel::{BoxedCall, RunAll};
#[cfg(feature = "tokio")]
pub use parallel::{Calls, Parallel, ParallelAll};
pub use run::{HeldRun, Run, RunFresh};
#[cfg(loom)]
#[doc(hidden)]
pub use shared::model as shared_model;
#[cfg(any(feature = "shared", loom))]
pub use shared::{
    DroppedRun, Policy, Shared, SharedBuilder, SharedLoad, SharedLoadMany, SharedRun, Shutdown,
    Stats,
};
pub use task::{Call, Input, Key, Task};
#[cfg(loom)]
#[doc(hidden)]
pub use wake::model as waker_model;

/// The blocks of the README, as tests.
#[cfg(all(doctest, feature = "shared"))]
#[doc = include_str!("../../README.md")]
struct Readme;
