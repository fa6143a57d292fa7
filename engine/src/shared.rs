//! The second tier: values that outlive a request. What the user sees of it.
//!
//! ```text
//! shared.rs         Shared, its builder, SharedRun, Policy, Stats
//! shared/tier.rs    what is asked, what ends, what goes; generations
//! shared/entry.rs   one task and input: its place, its lock, its input
//! shared/outcome.rs a kept outcome, and the place that readers find it in (crossbeam-epoch)
//! shared/map.rs     from task and input to entry (papaya)
//! shared/run.rs     a run: who drives it, who waits for it
//! shared/node.rs    a slot of a context that stands for an entry
//! shared/bound.rs   which entries stay
//! shared/clock.rs   tokio's clock
//! shared/load.rs    batches: load and its faces (how keys gather is in batch/shared.rs)
//! ```
//!
//! It has no engine of its own: a run is a run of [`crate::slot`] in a context of its own, a wait is parked at a [`crate::wake`] hub, a wait of
//! one run for another is an edge of [`crate::cycle`].

mod bound;
mod clock;
mod entry;
mod load;
mod map;
mod node;
mod outcome;
mod run;
mod tier;

use std::borrow::Borrow;
use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::hash::Hash;
use std::marker::PhantomData;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use crate::error::TaskError;
use crate::held::Held;
use crate::run::block_on;
use crate::slot::{meta, type_id};
use crate::sync::Arc;
use crate::task::{Input, Key, Task};
use crate::wake::{Hub, Park};

use entry::{Entry, task_meta};
use run::Ask;
use tier::{Looked, Settings};

pub use load::{SharedLoad, SharedLoadMany};

pub(crate) use node::{new_node, run_shared};
pub(crate) use tier::Tier;

/// The second tier: one run per task and input for all requests, and values that live for seconds or minutes.
///
/// A handle; clones are handles of the same tier. Its tasks are ordinary tasks of a state `G`, which all requests share (a connection pool,
/// a configuration): `async fn(Ctx<G>, In) -> Result<T, E>`. They cannot see any request's state, and what they call with their own
/// `Ctx<G>` comes from the tier too. Within one run each task is asked for once per input, as in a request.
///
/// # Concurrency
/// One run at a time for each task and input. It is driven by a task of its own on the tokio runtime, so a caller that goes away neither
/// ends it nor starts it again, and it sees nothing of who called. Callers that come meanwhile wait for it, or get the old value while it
/// refreshes. When it has ended its context closes: what its body spawned there is dropped.
///
/// # What is kept
/// See [`Policy`]: values expire, are refreshed before that if wanted, and failures are shared with those who wait and then forgotten.
/// At most [`max_entries`](SharedBuilder::max_entries) are kept; those that are hit stay.
///
/// # Examples
/// ```
/// use std::time::Duration;
/// use watershed::{Ctx, Shared};
///
/// struct App { rate: f64 }
/// async fn rate(ctx: Ctx<App>, currency: String) -> Result<f64, String> {
///     let _ = currency;
///     Ok(ctx.state().rate)                                            // a query, in earnest
/// }
///
/// # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
/// let shared = Shared::builder(App { rate: 1.25 })
///     .ttl(Duration::from_secs(60))                                   // never older than a minute
///     .refresh_after(Duration::from_secs(50))                         // and nobody waits for the next one
///     .max_entries(10_000)
///     .build();
/// let euro = shared.run(rate, "EUR").await?;                          // Held<f64>: owned, 'static
/// assert_eq!(*euro, 1.25);
/// assert!(shared.peek(rate, "USD").is_none());
/// # Ok::<(), watershed::TaskError>(()) }).unwrap();
/// ```
pub struct Shared<G> {
    tier: Arc<Tier>,
    state: PhantomData<fn() -> G>,
}

/// How long outcomes of a task are kept. What is `None` is as the tier's own ([`SharedBuilder`]), and that is as said here.
///
/// More may be added: write `Policy { ttl: .., ..Policy::default() }`, as in the example of [`SharedBuilder::policy`].
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Policy {
    /// How long a value is given after its run has ended; then it never is. Zero: for ever. Unless set: zero.
    pub ttl: Option<Duration>,
    /// From this age on the next call that takes the value also starts a run, and gets the old value at once, as do all until the new one is
    /// there. If the run fails the old value stays until its `ttl`, and the next try comes after `failure_ttl`. Zero, or not less than `ttl`:
    /// not before it expires. Unless set: zero.
    pub refresh_after: Option<Duration>,
    /// How long a failure is given. Zero: to those who wait for it; the next call runs again. Failures that the body marked
    /// [`transient`](crate::Ctx::transient), cancellations and the like are never kept. Unless set: zero.
    pub failure_ttl: Option<Duration>,
    /// A run that takes longer is dropped, and who waits for it gets [`DeadlineExceeded`](crate::TaskErrorKind::DeadlineExceeded). Zero:
    /// no limit. Unless set: zero. Needs a runtime with timers.
    pub time_limit: Option<Duration>,
    /// How much earlier than `ttl` and `refresh_after` say, as a part of them, by chance: so values that came together do not go
    /// together. Never later. From 0 to 1; unless set: 0.1.
    pub jitter: Option<f64>,
}

/// Numbers of a tier, counted since it was made but for the first two. They are read one after another, so they may be a step apart.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Entries with an outcome now.
    pub entries: usize,
    /// Runs under way now.
    pub running: usize,
    /// Runs that were started.
    pub started: u64,
    /// Runs that ended in a failure of any kind.
    pub failed: u64,
    /// Refreshes that brought a new value.
    pub refreshed: u64,
    /// Refreshes that failed, or could not be started; the old value stayed.
    pub refresh_failed: u64,
    /// Entries that went for others.
    pub evicted: u64,
    /// Calls that waited for a run that was under way.
    pub waits: u64,
}

/// A run that a [`shutdown`](Shared::shutdown) dropped.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct DroppedRun {
    /// The full type name of the task.
    pub task: &'static str,
    /// How long it had been running.
    pub running_for: Duration,
}

impl<G: Send + Sync + 'static> Shared<G> {
    /// A tier that keeps every value for ever, and no failure. [`builder`](Shared::builder) makes one that does not.
    pub fn new(state: G) -> Self {
        Self::builder(state).build()
    }

    /// Makes a tier with a time to live, a bound, and so on.
    pub fn builder(state: G) -> SharedBuilder<G> {
        SharedBuilder {
            state,
            settings: Settings {
                defaults: Policy::default(),
                policies: HashMap::new(),
                max_entries: usize::MAX,
                max_depth: MAX_DEPTH,
                max_batch: HashMap::new(),
            },
        }
    }

    /// The state that the tier was made with.
    pub fn state(&self) -> &G {
        // SAFETY: the tier was made with a state of this type, and this handle keeps it.
        unsafe { self.tier.state().cast().as_ref() }
    }

    pub(crate) fn tier(&self) -> &Arc<Tier> {
        &self.tier
    }

    /// Calls a task: takes what is there, or waits for the run that is under way, or starts one on the tokio runtime.
    ///
    /// # Concurrency
    /// One run for all callers. They do not drive it: it has a task of its own on the runtime of the caller that started it.
    ///
    /// # Cancel safety
    /// The call may be dropped at any time. Before the first poll nothing has happened; later the run goes on.
    ///
    /// # Errors
    /// * [`Failed`](crate::TaskErrorKind::Failed), [`Panicked`](crate::TaskErrorKind::Panicked): all who wait get the same one; see
    ///   [`Policy::failure_ttl`].
    /// * [`NoRuntime`](crate::TaskErrorKind::NoRuntime): a run has to be started, and there is no tokio runtime on this thread.
    /// * [`DeadlineExceeded`](crate::TaskErrorKind::DeadlineExceeded): see [`Policy::time_limit`].
    /// * [`Cancelled`](crate::TaskErrorKind::Cancelled): the tier was [shut down](Shared::shutdown), or the runtime of the run was.
    /// * [`Cycle`](crate::TaskErrorKind::Cycle), [`TooDeep`](crate::TaskErrorKind::TooDeep): as in a request, for bodies that call through
    ///   their own `Ctx<G>`.
    ///
    /// # Panics
    /// If `Hash`, `Eq` or `Clone` of the input panics in the look-up; nothing is changed then.
    ///
    /// # Cost
    /// A hit allocates nothing and takes no lock; it counts one reference, and reads the clock if the value has a time to live.
    ///
    /// # Examples
    /// ```
    /// use watershed::{Ctx, Shared};
    /// async fn flag(_: Ctx<()>, name: String) -> Result<bool, String> { Ok(name == "new-shop") }
    ///
    /// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
    /// let shared = Shared::new(());
    /// assert!(*shared.run(flag, "new-shop").await?);      // runs it
    /// assert!(*shared.run(flag, "new-shop").await?);      // a hit, also for every other request
    /// assert_eq!(shared.stats().started, 1);
    /// # Ok::<(), watershed::TaskError>(()) }).unwrap();
    /// ```
    #[inline]
    pub fn run<F, In, K>(&self, task: F, input: K) -> SharedRun<'_, G, F::Value>
    where
        F: Task<G, In, Future: Send>,
        In: Input<K>,
        K: Key<In>,
    {
        let _ = task;
        let _ = meta::<G, F, In>(); // as in `Ctx::run`
        let hash = self.tier.hash::<G, F, In, K>(&input);
        let task = task_meta::<G, F, In>();
        let looked = self.tier.look(hash, |entry| {
            // SAFETY: the entry is of this task.
            entry.is_of(task) && Input::<K>::is(unsafe { entry.input::<In>() }, &input)
        });
        let stage = match looked {
            // SAFETY: the entry is of this task, so its value is of this type.
            Looked::Hit(outcome) => Stage::Ready(unsafe { outcome.into_result() }),
            Looked::Stale(outcome, entry) => {
                Tier::refresh(&self.tier, &entry);
                // SAFETY: as above.
                Stage::Ready(unsafe { outcome.into_result() })
            }
            Looked::Nothing => self.miss::<F, In, K>(hash, input),
        };
        SharedRun {
            stage,
            tier: PhantomData,
        }
    }

    #[cold]
    #[inline(never)]
    fn miss<F, In, K>(&self, hash: u64, input: K) -> Stage<F::Value>
    where
        F: Task<G, In>,
        In: Input<K>,
    {
        let entry = Entry::make(hash, task_meta::<G, F, In>(), In::from_key(input));
        Stage::Asks(Box::new(Ask::new(self.tier.clone(), entry, None)))
    }

    /// What is there for this input now: the value, the kept failure, or nothing. Runs nothing, refreshes nothing, waits for nothing.
    ///
    /// # Examples
    /// ```
    /// use watershed::{Ctx, Shared};
    /// async fn double(_: Ctx<()>, n: u64) -> Result<u64, String> { Ok(n * 2) }
    ///
    /// let shared = Shared::new(());
    /// assert!(shared.peek(double, &2).is_none());
    /// shared.prime(double, 2, 4).unwrap();
    /// assert_eq!(*shared.peek(double, &2).unwrap().unwrap(), 4);
    /// ```
    pub fn peek<F, In, Q>(&self, task: F, input: &Q) -> Option<Result<Held<F::Value>, TaskError>>
    where
        F: Task<G, In>,
        In: Input + Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        let _ = task;
        let outcome = self.tier.peek::<G, F, In, Q>(input)?;
        // SAFETY: the entry is of this task, so its value is of this type.
        Some(unsafe { outcome.into_result() })
    }

    /// Puts a value in, as if the task had run now.
    ///
    /// # Errors
    /// Gives the value back if there is one already, a kept failure, or a run under way.
    ///
    /// # Examples
    /// ```
    /// use watershed::{Ctx, Shared};
    /// async fn double(_: Ctx<()>, n: u64) -> Result<u64, String> { Ok(n * 2) }
    ///
    /// let shared = Shared::new(());
    /// assert_eq!(shared.prime(double, 2, 5), Ok(()));
    /// assert_eq!(shared.prime(double, 2, 6), Err(6));
    /// assert_eq!(*shared.run(double, 2).wait().unwrap(), 5);
    /// ```
    pub fn prime<F, In, K>(&self, task: F, input: K, value: F::Value) -> Result<(), F::Value>
    where
        F: Task<G, In>,
        In: Input<K>,
        K: Key<In>,
    {
        let _ = task;
        self.tier.prime::<G, F, In, K>(input, value)
    }

    /// Lets the next call run again. True if there was an outcome that could be given, or a run under way.
    ///
    /// A run that is under way ends for those who wait for it and touches nothing newer.
    ///
    /// # Examples
    /// ```
    /// use watershed::{Ctx, Shared};
    /// async fn double(_: Ctx<()>, n: u64) -> Result<u64, String> { Ok(n * 2) }
    ///
    /// let shared = Shared::new(());
    /// shared.prime(double, 2, 5).unwrap();
    /// assert!(shared.forget(double, &2));
    /// assert!(!shared.forget(double, &2));
    /// ```
    pub fn forget<F, In, Q>(&self, task: F, input: &Q) -> bool
    where
        F: Task<G, In>,
        In: Input + Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        let _ = task;
        self.tier.forget_input::<G, F, In, Q>(input)
    }

    /// [Forgets](Shared::forget) a task's outcomes and runs for all inputs; gives how many.
    ///
    /// What is put in meanwhile may stay.
    ///
    /// # Examples
    /// ```
    /// use watershed::{Ctx, Shared};
    /// async fn double(_: Ctx<()>, n: u64) -> Result<u64, String> { Ok(n * 2) }
    ///
    /// let shared = Shared::new(());
    /// shared.prime(double, 1, 2).unwrap();
    /// shared.prime(double, 2, 4).unwrap();
    /// assert_eq!(shared.forget_all(double), 2);
    /// assert!(shared.is_empty());
    /// ```
    pub fn forget_all<F, In>(&self, task: F) -> usize
    where
        F: Task<G, In>,
        In: Input,
    {
        let _ = task;
        self.tier.forget_task(type_id::<G, F, In>())
    }

    /// How many entries have an outcome; those that have expired count until they are found to be.
    ///
    /// # Examples
    /// ```
    /// use watershed::{Ctx, Shared};
    /// async fn double(_: Ctx<()>, n: u64) -> Result<u64, String> { Ok(n * 2) }
    ///
    /// let shared = Shared::new(());
    /// shared.prime(double, 1, 2).unwrap();
    /// assert_eq!((shared.len(), shared.is_empty()), (1, false));
    /// ```
    pub fn len(&self) -> usize {
        self.tier.len()
    }

    /// Whether no entry has an outcome.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Numbers of the tier, for metrics.
    ///
    /// # Cost
    /// A lock for the number of runs under way, and some loads.
    ///
    /// # Examples
    /// ```
    /// use watershed::{Ctx, Shared, TaskError};
    /// async fn down(_: Ctx<()>, _: ()) -> Result<(), TaskError> { Err(TaskError::new("down")) }
    ///
    /// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
    /// let shared = Shared::new(());
    /// assert!(shared.run(down, ()).await.is_err());
    /// let stats = shared.stats();
    /// assert_eq!((stats.started, stats.failed, stats.entries, stats.running), (1, 1, 0, 0));
    /// # });
    /// ```
    pub fn stats(&self) -> Stats {
        self.tier.stats()
    }

    /// Ends the tier: nothing starts any more, runs that are under way have `grace` to end, and then are dropped.
    ///
    /// Gives the runs that were dropped, oldest first. What is kept is still given. Calls that would have to start a run, and those that wait
    /// for one that is dropped, get [`Cancelled`](crate::TaskErrorKind::Cancelled).
    ///
    /// # Cancel safety
    /// Nothing starts any more from the call on; dropped before it is ready, the runs under way are not dropped.
    ///
    /// # Errors
    /// [`NoRuntime`](crate::TaskErrorKind::NoRuntime): there are runs to wait for, and no tokio runtime with timers on this thread. A `grace`
    /// of zero waits for nothing.
    ///
    /// # Examples
    /// ```
    /// use std::time::Duration;
    /// use watershed::{Ctx, Shared};
    /// async fn never(_: Ctx<()>, _: ()) -> Result<(), String> { std::future::pending().await }
    ///
    /// # tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap().block_on(async {
    /// let shared = Shared::new(());
    /// let call = shared.run(never, ());
    /// assert!(tokio::time::timeout(Duration::from_secs(1), call).await.is_err());    // it gives up; the run goes on
    /// let dropped = shared.shutdown(Duration::from_secs(5)).await?;
    /// assert_eq!(dropped.len(), 1);
    /// # Ok::<(), watershed::TaskError>(()) }).unwrap();
    /// ```
    pub fn shutdown(&self, grace: Duration) -> Shutdown<'_, G> {
        self.tier.shut();
        Shutdown {
            shared: self,
            grace,
            #[cfg(not(loom))]
            timer: None,
            park: Park::default(),
        }
    }
}

/// As in a request's context.
const MAX_DEPTH: usize = 200_000;

impl<G> Clone for Shared<G> {
    fn clone(&self) -> Self {
        Self {
            tier: self.tier.clone(),
            state: PhantomData,
        }
    }
}

impl<G> AsRef<Shared<G>> for Shared<G> {
    fn as_ref(&self) -> &Shared<G> {
        self
    }
}

impl<G> fmt::Debug for Shared<G> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared")
            .field("entries", &self.tier.len())
            .finish_non_exhaustive()
    }
}

/// Makes a [`Shared`]. Made by [`Shared::builder`]; [`guide::second_tier`](crate::guide::second_tier) says which setting is for what.
#[must_use = "`build` makes the tier"]
pub struct SharedBuilder<G> {
    state: G,
    settings: Settings,
}

impl<G: Send + Sync + 'static> SharedBuilder<G> {
    /// For tasks without a policy of their own: see [`Policy::ttl`]. Zero: for ever.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.settings.defaults.ttl = Some(ttl);
        self
    }

    /// For tasks without a policy of their own: see [`Policy::refresh_after`]. Zero: not before a value expires.
    pub fn refresh_after(mut self, age: Duration) -> Self {
        self.settings.defaults.refresh_after = Some(age);
        self
    }

    /// For tasks without a policy of their own: see [`Policy::failure_ttl`]. Zero: not kept.
    pub fn failure_ttl(mut self, ttl: Duration) -> Self {
        self.settings.defaults.failure_ttl = Some(ttl);
        self
    }

    /// For tasks without a policy of their own: see [`Policy::time_limit`]. Zero: no limit.
    pub fn time_limit(mut self, limit: Duration) -> Self {
        self.settings.defaults.time_limit = Some(limit);
        self
    }

    /// For tasks without a policy of their own: see [`Policy::jitter`]. Zero: all at the same age.
    pub fn jitter(mut self, part: f64) -> Self {
        self.settings.defaults.jitter = Some(part);
        self
    }

    /// How many entries are kept at most, of all tasks together; for more, others go. Zero: nothing is kept, and runs are only shared. Unless set
    /// there is no bound.
    ///
    /// # Examples
    /// ```
    /// use watershed::{Ctx, Shared};
    /// async fn double(_: Ctx<()>, n: u64) -> Result<u64, String> { Ok(n * 2) }
    ///
    /// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
    /// let shared = Shared::builder(()).max_entries(10).build();
    /// for n in 0..100 {
    ///     shared.run(double, n).await?;
    /// }
    /// assert!(shared.len() <= 10);
    /// assert!(shared.stats().evicted >= 90);
    /// # Ok::<(), watershed::TaskError>(()) }).unwrap();
    /// ```
    pub fn max_entries(mut self, entries: usize) -> Self {
        self.settings.max_entries = entries;
        self
    }

    /// How deep tasks of the tier may call one another, as [`Builder::max_depth`](crate::Builder::max_depth).
    pub fn max_depth(mut self, tasks: usize) -> Self {
        self.settings.max_depth = tasks;
        self
    }

    /// What differs for one task. The last policy of a task holds.
    ///
    /// # Examples
    /// ```
    /// use std::time::Duration;
    /// use watershed::{Ctx, Policy, Shared};
    /// async fn flags(_: Ctx<()>, _: ()) -> Result<Vec<String>, String> { Ok(vec![]) }
    ///
    /// let shared = Shared::builder(())
    ///     .ttl(Duration::from_secs(300))
    ///     .policy(flags, Policy { ttl: Some(Duration::from_secs(5)), ..Policy::default() })
    ///     .build();
    /// # let _ = shared;
    /// ```
    pub fn policy<F, In>(mut self, task: F, policy: Policy) -> Self
    where
        F: Task<G, In>,
        In: Input,
    {
        let _ = task;
        self.settings.policies.insert(type_id::<G, F, In>(), policy);
        self
    }

    /// Makes the tier.
    pub fn build(self) -> Shared<G> {
        Shared {
            tier: Tier::make(self.state, self.settings),
            state: PhantomData,
        }
    }
}

impl<G> fmt::Debug for SharedBuilder<G> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedBuilder")
            .field("defaults", &self.settings.defaults)
            .field("policies", &self.settings.policies.len())
            .field("max_entries", &self.settings.max_entries)
            .finish_non_exhaustive()
    }
}

/// A call of the tier: a future of `Result<Held<T>, TaskError>`. Made by [`Shared::run`].
///
/// # Cancel safety
/// May be dropped at any time; the run goes on.
///
/// # Panics
/// When it is polled again after it was ready.
#[must_use = "a call does nothing unless it is awaited"]
pub struct SharedRun<'a, G, T: 'static> {
    stage: Stage<T>,
    tier: PhantomData<&'a Shared<G>>,
}

enum Stage<T: 'static> {
    Ready(Result<Held<T>, TaskError>),
    Asks(Box<Ask>),
    Over,
}

impl<G, T> Unpin for SharedRun<'_, G, T> {}

impl<G: Send + Sync + 'static, T: Send + Sync + 'static> SharedRun<'_, G, T> {
    /// Blocks the thread until the call is done, for threads that have no executor. The run needs its runtime's threads: do not block the
    /// only one.
    ///
    /// # Errors
    /// As awaiting the call.
    pub fn wait(self) -> Result<Held<T>, TaskError> {
        block_on(self)
    }
}

impl<G: Send + Sync + 'static, T: Send + Sync + 'static> Future for SharedRun<'_, G, T> {
    type Output = Result<Held<T>, TaskError>;

    // As `Run::poll`: a hit is to be seen through.
    #[inline(always)]
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match std::mem::replace(&mut self.stage, Stage::Over) {
            Stage::Ready(result) => Poll::Ready(result),
            Stage::Asks(ask) => self.poll_ask(ask, cx),
            Stage::Over => panic!("a `SharedRun` was polled after it was ready"),
        }
    }
}

impl<G, T: Send + Sync + 'static> SharedRun<'_, G, T> {
    #[inline(never)]
    fn poll_ask(
        &mut self,
        mut ask: Box<Ask>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Held<T>, TaskError>> {
        let Poll::Ready(outcome) = ask.poll(cx) else {
            self.stage = Stage::Asks(ask);
            return Poll::Pending;
        };
        // SAFETY: the call was made for a task with this value.
        Poll::Ready(outcome.and_then(|outcome| unsafe { outcome.into_result() }))
    }
}

impl<G, T> fmt::Debug for SharedRun<'_, G, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = f.debug_struct("SharedRun");
        match &self.stage {
            Stage::Ready(_) => out.field("state", &"ready"),
            Stage::Asks(ask) => out.field("task", &ask.name()).field("state", &"waiting"),
            Stage::Over => out.field("state", &"over"),
        };
        out.finish()
    }
}

/// The end of a tier: a future of the runs that were dropped. Made by [`Shared::shutdown`].
///
/// # Cancel safety
/// See [`Shared::shutdown`].
#[must_use = "runs that are under way are dropped only if this is awaited"]
pub struct Shutdown<'a, G> {
    shared: &'a Shared<G>,
    grace: Duration,
    #[cfg(not(loom))]
    timer: Option<Pin<Box<tokio::time::Sleep>>>,
    park: Park,
}

impl<G> Unpin for Shutdown<'_, G> {}

impl<G> Shutdown<'_, G> {
    /// Whether the time is up.
    #[cfg(not(loom))]
    fn poll_grace(&mut self, cx: &mut Context<'_>) -> Result<bool, TaskError> {
        let timer = match &mut self.timer {
            Some(timer) => timer,
            None => {
                let grace = self.grace;
                // It panics without a runtime, or in one without timers.
                let timer = std::panic::catch_unwind(|| Box::pin(tokio::time::sleep(grace)));
                let timer = timer.map_err(|payload| {
                    crate::stack::discard(payload);
                    TaskError::no_runtime("Shared::shutdown", "the grace time of a shutdown")
                })?;
                self.timer.insert(timer)
            }
        };
        Ok(timer.as_mut().poll(cx).is_ready())
    }

    #[cfg(loom)]
    fn poll_grace(&mut self, _: &mut Context<'_>) -> Result<bool, TaskError> {
        Ok(false)
    }
}

impl<G> Future for Shutdown<'_, G> {
    type Output = Result<Vec<DroppedRun>, TaskError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        let tier = &this.shared.tier;
        if tier.is_idle() {
            return Poll::Ready(Ok(Vec::new()));
        }
        if !this.grace.is_zero() {
            this.park.register(Hub::get_or_make(&tier.idle), cx.waker());
            // The lock of the list orders this look with the end of the last run, which looks for the hub after it has left the list.
            if tier.is_idle() {
                return Poll::Ready(Ok(Vec::new()));
            }
            match this.poll_grace(cx) {
                Ok(false) => return Poll::Pending,
                Ok(true) => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        let tier = &this.shared.tier;
        let now = tier.clock.now();
        let dropped = tier.end_runs();
        Poll::Ready(Ok(dropped
            .iter()
            .map(|run| DroppedRun {
                task: run.name(),
                running_for: Duration::from_nanos(now.saturating_sub(run.started)),
            })
            .collect()))
    }
}

impl<G> Drop for Shutdown<'_, G> {
    fn drop(&mut self) {
        if self.park.is_parked() {
            self.park.leave(Hub::get_or_make(&self.shared.tier.idle));
        }
    }
}

impl<G> fmt::Debug for Shutdown<'_, G> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shutdown")
            .field("grace", &self.grace)
            .finish_non_exhaustive()
    }
}

/// For the models: what needs a runtime and a clock, with the model's own threads and numbers in their place.
#[cfg(loom)]
pub mod model {
    use super::{Duration, Future, Pin, Shared};

    /// A future that drives a run.
    pub type Driver = Pin<Box<dyn Future<Output = ()> + Send>>;

    /// What the runtime would have been given since the last time.
    pub fn drivers<G>(shared: &Shared<G>) -> Vec<Driver> {
        let mut drivers = shared.tier.drivers.lock().unwrap();
        let drivers = drivers.drain(..);
        drivers.map(|driver| Box::pin(driver) as Driver).collect()
    }

    /// Lets time pass.
    pub fn advance<G>(shared: &Shared<G>, by: Duration) {
        shared.tier.clock.advance(by);
    }
}
