//! Many keys, one run: what is asked for key by key and fetched together.
//!
//! A *batch function* takes a list of keys. [`Ctx::load`] asks for one of them; keys that are asked for in one turn go to the function
//! together. This file is the public side; `batch/turn.rs` says how keys gather and when they go, `batch/flight.rs` how a batch runs.
//!
//! There is no second engine in it. A key is a slot of the context's table like any task's, of an inner task [`key`] that is found, memoized,
//! joined, primed and forgotten as tasks are; a batch is a slot that no look-up finds, whose callers are the slots of its keys. The names of
//! the inner tasks are those of the batch function ([`name`]).

use std::any::TypeId;
use std::borrow::Borrow;
use std::fmt;
use std::future::Future;
use std::hash::Hash;
use std::pin::Pin;
use std::task::{Context, Poll};

use crate::context::Ctx;
use crate::error::{BoxError, TaskError};
use crate::run::{RawRun, Run, block_on, value_of};
use crate::task::{Input, Key};

mod flight;
#[cfg(any(feature = "shared", loom))]
mod shared;
mod turn;

use flight::{Fetched, Plain, key};
use turn::{Turn, collector};

pub(crate) use flight::OfBatch;
#[cfg(any(feature = "shared", loom))]
pub(crate) use shared::{Collectors, key as shared_key};

mod sealed {
    use super::{BoxError, Ctx, Future};

    #[diagnostic::on_unimplemented(
        message = "`{Self}` is not a batch function that `Ctx<{S}>` can load `{K}` with",
        label = "not an `async fn(Ctx<{S}>, Vec<{K}>) -> Result<_, _>` that gives pairs of key and value",
        note = "it returns a map, or a `Vec<({K}, _)>`; if this name was a function before, a value may shadow it"
    )]
    pub trait Batch<S, K> {}

    impl<S, K, B, Fut, M, V, E> Batch<S, K> for B
    where
        B: Fn(Ctx<S>, Vec<K>) -> Fut + Copy + Send + Sync + 'static,
        Fut: Future<Output = Result<M, E>> + 'static,
        M: IntoIterator<Item = (K, V)> + Send + Sync + 'static,
        V: Send + Sync + 'static,
        E: Into<BoxError> + 'static,
    {
    }
}

/// A function that fetches many keys at once: `async fn(Ctx<S>, Vec<K>) -> Result<HashMap<K, V>, E>`, for [`Ctx::load`].
///
/// Implemented for every function of that shape, and for nothing else. It gives a map of any kind, or a `Vec<(K, V)>`; of several pairs with one
/// key the first counts. A key of its own failure has a `Result` for its value. As a task, it must not capture anything.
///
/// * `K`: `Eq + Hash + Clone + Send + Sync + 'static`.
/// * `V`: `Send + Sync + 'static`. It lives in the context, and callers get `&V`.
/// * `E`: as a task's, see [`Task`](crate::Task).
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a batch function that `Ctx<{S}>` can load `{K}` with",
    label = "not an `async fn(Ctx<{S}>, Vec<{K}>) -> Result<_, _>` that gives pairs of key and value",
    note = "it returns a map, or a `Vec<({K}, _)>`; if this name was a function before, a value may shadow it"
)]
pub trait Batch<S, K>: sealed::Batch<S, K> + Copy + Send + Sync + 'static {
    /// What there is for a key.
    type Value: Send + Sync + 'static;
    /// What the function gives when it fails.
    type Error: Into<BoxError> + 'static;
    /// What it gives when it succeeds.
    #[doc(hidden)]
    type Found: IntoIterator<Item = (K, Self::Value)> + Send + Sync + 'static;
    /// The body. As with a task's, `Send` is asked for only where it may be started.
    type Future: Future<Output = Result<Self::Found, Self::Error>> + 'static;

    #[doc(hidden)]
    fn fetch(self, ctx: Ctx<S>, keys: Vec<K>) -> Self::Future;
}

impl<S, K, B, Fut, M, V, E> Batch<S, K> for B
where
    B: Fn(Ctx<S>, Vec<K>) -> Fut + Copy + Send + Sync + 'static,
    Fut: Future<Output = Result<M, E>> + 'static,
    M: IntoIterator<Item = (K, V)> + Send + Sync + 'static,
    V: Send + Sync + 'static,
    E: Into<BoxError> + 'static,
{
    type Value = V;
    type Error = E;
    type Found = M;
    type Future = Fut;

    fn fetch(self, ctx: Ctx<S>, keys: Vec<K>) -> Fut {
        self(ctx, keys)
    }
}

/// The identity of a batch function. It is that of the task that takes all its keys for one input, which
/// [`replace`](crate::Builder::replace) replaces.
pub(crate) fn id<B: Batch<S, K>, S: 'static, K: 'static>() -> TypeId {
    TypeId::of::<(B, Vec<K>, B::Found, B::Error)>()
}

/// Refuses a batch function that captures, at the call that is seen by the user.
#[cfg(any(feature = "shared", loom))]
pub(crate) const fn checked<B>() {
    Plain::<B>::CHECKED
}

/// Whether a task with this value and this error is an inner one of batches.
pub(crate) fn is_ours<T: 'static, E: 'static>() -> bool {
    TypeId::of::<T>() == TypeId::of::<Fetched>() || TypeId::of::<E>() == TypeId::of::<OfBatch>()
}

/// The name of the batch function in the name of an inner task, whose first parameter it is.
pub(crate) fn name(inner: &'static str) -> &'static str {
    let Some((_, rest)) = inner.split_once('<') else {
        return inner;
    };
    let mut depth = 0usize;
    let end = rest.find(|c| {
        match c {
            '<' | '(' | '[' => depth += 1,
            '>' | ')' | ']' => depth = depth.saturating_sub(1),
            _ => {}
        }
        c == ',' && depth == 0
    });
    end.map_or(inner, |end| &rest[..end])
}

impl<S: Send + Sync + 'static> Ctx<S> {
    /// Asks a batch function for one key: fetches it together with the other keys that are asked for in this turn, or joins the batch
    /// that fetches it already, or takes what is there. `None`: the function did not return the key.
    ///
    /// A key is fetched at most once in a context, alone or in whichever batch, unless it is [forgotten](Ctx::forget_loaded) or its batch was dropped. A key that the function returns without having been asked
    /// is kept as well.
    ///
    /// # When a batch goes
    /// When the callers that ask in this turn have all asked: the first call that is polled a second time sends what has gathered. (A call that
    /// waits asks its executor for that second poll at once; there is no timer.) So `join!`, `join_all`, streams, [`parallel`](Ctx::parallel) and
    /// tasks of different depth ask together, and a tree of three levels makes three batches. (Where several threads poll, one that is held up in the middle asks in a
    /// later batch.) A call alone goes alone, one turn later. A
    /// batch that is full ([`Builder::max_batch`](crate::Builder::max_batch)) goes at once.
    ///
    /// # Concurrency
    /// One run for all callers of a batch, driven by whoever is polled. See [`Load`].
    ///
    /// # Cancel safety
    /// The call may be dropped at any time. A key that nobody waits for when the batch goes is not asked for; a batch goes on while
    /// anybody waits for one of its keys, and is dropped with the last. Who asks for a key that was left while its batch goes on joins that. See [`Load`].
    ///
    /// # Errors
    /// Those of [`run`](Ctx::run). A failure or a panic of the function is that of each key of this batch and of no other, and is kept for each as
    /// a task's is, until [`forget_loaded`](Ctx::forget_loaded). A function that loads keys with itself waits for a batch of its own: keys that need one
    /// another and are asked for together are one batch, and that is a [`Cycle`](crate::TaskErrorKind::Cycle).
    ///
    /// # Panics
    /// As [`run`](Ctx::run).
    ///
    /// # Cost
    /// A hit is one of [`run`](Ctx::run)'s: nothing is allocated, locked or counted. A key that is fetched takes a slot and the means to wake
    /// its callers, as a task that waits does, and a place in its batch; the slot of each batch stays until the context ends, as any. A call
    /// that is not a hit is polled twice at least.
    ///
    /// # Examples
    /// ```
    /// use std::collections::HashMap;
    /// use watershed::{Ctx, TaskError};
    ///
    /// struct Item { name: String }
    /// async fn items(_: Ctx<()>, ids: Vec<u64>) -> Result<HashMap<u64, Item>, std::io::Error> {
    ///     assert_eq!(ids.len(), 3);                       // one query for all three
    ///     Ok(ids.into_iter().filter(|id| *id < 100).map(|id| (id, Item { name: format!("item {id}") })).collect())
    /// }
    ///
    /// # futures::executor::block_on(async {
    /// let ctx = Ctx::new(());
    /// let (a, b, c) = futures::try_join!(ctx.load(items, 1), ctx.load(items, 2), ctx.load(items, 100))?;
    /// assert_eq!(a.unwrap().name, "item 1");
    /// assert_eq!(b.unwrap().name, "item 2");
    /// assert!(c.is_none());
    /// # Ok::<(), TaskError>(()) }).unwrap();
    /// ```
    #[inline]
    pub fn load<B, K, Q>(&self, batch: B, key: Q) -> Load<'_, S, B::Value>
    where
        B: Batch<S, K, Future: Send>,
        K: Input<Q>,
        Q: Key<K>,
    {
        let _ = batch;
        // Here, so that rustc shows this call and not how it goes on.
        let () = Plain::<B>::CHECKED;
        #[cfg(any(feature = "shared", loom))]
        if self.core().tier().is_some() {
            // In a run of the tier: its keys gather with those of all runs.
            return Load {
                run: self.run(shared_key::<B, S, K>, key),
                turn: Turn::none(),
            };
        }
        let run = self.run(self::key::<B, S, K>, key);
        Load {
            turn: if run.is_hit() {
                Turn::none()
            } else {
                Turn::of(collector::<B, S, K>(self))
            },
            run,
        }
    }

    /// Asks a batch function for many keys; the values come in the order of the keys, which may repeat.
    ///
    /// # Concurrency, Cancel safety, Panics
    /// As [`load`](Ctx::load).
    ///
    /// # Errors
    /// As [`load`](Ctx::load); the first error comes at once, and the other keys are left.
    ///
    /// # Examples
    /// ```
    /// use watershed::Ctx;
    /// async fn squares(_: Ctx<()>, of: Vec<i64>) -> Result<Vec<(i64, i64)>, String> {
    ///     Ok(of.into_iter().filter(|n| *n >= 0).map(|n| (n, n * n)).collect())
    /// }
    /// let ctx = Ctx::new(());
    /// let found = ctx.load_many(squares, [3, -1, 2, 3]).wait().unwrap();
    /// assert_eq!(found, [Some(&9), None, Some(&4), Some(&9)]);
    /// ```
    pub fn load_many<B, K, Q>(
        &self,
        batch: B,
        keys: impl IntoIterator<Item = Q>,
    ) -> LoadMany<'_, S, B::Value>
    where
        B: Batch<S, K, Future: Send>,
        K: Input<Q>,
        Q: Key<K>,
    {
        let _ = batch;
        let () = Plain::<B>::CHECKED; // as in `load`
        let keys = keys.into_iter();
        let call = |slot| RawRun::new(slot);
        #[cfg(any(feature = "shared", loom))]
        if self.core().tier().is_some() {
            let slots = keys.map(|key| self.slot_for(shared_key::<B, S, K>, key));
            return LoadMany::new(self, slots.map(call).collect(), Turn::none());
        }
        let slots = keys.map(|key| self.slot_for(self::key::<B, S, K>, key));
        let turn = Turn::of(collector::<B, S, K>(self));
        LoadMany::new(self, slots.map(call).collect(), turn)
    }

    /// What is there for a key now: the value (or that there is none), the error, or nothing. Fetches nothing and waits for nothing.
    ///
    /// # Examples
    /// ```
    /// use watershed::Ctx;
    /// async fn squares(_: Ctx<()>, of: Vec<u64>) -> Result<Vec<(u64, u64)>, String> {
    ///     Ok(of.into_iter().map(|n| (n, n * n)).collect())
    /// }
    /// let ctx = Ctx::new(());
    /// assert!(ctx.peek_loaded(squares, &3).is_none());
    /// ctx.load(squares, 3).wait().unwrap();
    /// assert_eq!(ctx.peek_loaded(squares, &3).unwrap().unwrap(), Some(&9));
    /// ```
    pub fn peek_loaded<B, K, Q>(
        &self,
        batch: B,
        key: &Q,
    ) -> Option<Result<Option<&B::Value>, TaskError>>
    where
        B: Batch<S, K>,
        K: Input + Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        let _ = batch;
        #[cfg(any(feature = "shared", loom))]
        if self.core().tier().is_some() {
            let there = self.peek(shared_key::<B, S, K>, key)?;
            return Some(there.map(Option::as_ref));
        }
        let there = self.peek(self::key::<B, S, K>, key)?;
        Some(there.map(Option::as_ref))
    }

    /// Puts a value in for a key, as if it had been loaded.
    ///
    /// # Errors
    /// Gives the value back if there is something already, or the key is being loaded, or the context is closed.
    ///
    /// # Examples
    /// ```
    /// use watershed::Ctx;
    /// async fn squares(_: Ctx<()>, _: Vec<u64>) -> Result<Vec<(u64, u64)>, String> { Err("not asked".into()) }
    /// let ctx = Ctx::new(());
    /// assert_eq!(ctx.prime_loaded(squares, 3, 10), Ok(()));
    /// assert_eq!(ctx.prime_loaded(squares, 3, 11), Err(11));
    /// assert_eq!(ctx.load(squares, 3).wait().unwrap(), Some(&10));
    /// ```
    pub fn prime_loaded<B, K, Q>(&self, batch: B, key: Q, value: B::Value) -> Result<(), B::Value>
    where
        B: Batch<S, K>,
        K: Input<Q>,
        Q: Key<K>,
    {
        let _ = batch;
        #[cfg(any(feature = "shared", loom))]
        let refused = if self.core().tier().is_some() {
            self.prime(shared_key::<B, S, K>, key, Some(value))
        } else {
            self.prime(self::key::<B, S, K>, key, Some(value))
        };
        #[cfg(not(any(feature = "shared", loom)))]
        let refused = self.prime(self::key::<B, S, K>, key, Some(value));
        match refused {
            Err(Some(value)) => Err(value),
            _ => Ok(()),
        }
    }

    /// Lets the next call load the key again. True if there was something to forget: a value (or that there is none), an error, or a batch under way, which
    /// finishes for its own callers.
    ///
    /// Borrows taken before stay valid, as with [`forget`](Ctx::forget).
    ///
    /// # Examples
    /// ```
    /// use watershed::Ctx;
    /// async fn squares(_: Ctx<()>, of: Vec<u64>) -> Result<Vec<(u64, u64)>, String> {
    ///     Ok(of.into_iter().map(|n| (n, n * n)).collect())
    /// }
    /// let ctx = Ctx::new(());
    /// ctx.load(squares, 3).wait().unwrap();
    /// assert!(ctx.forget_loaded(squares, &3));
    /// assert!(ctx.peek_loaded(squares, &3).is_none());
    /// ```
    pub fn forget_loaded<B, K, Q>(&self, batch: B, key: &Q) -> bool
    where
        B: Batch<S, K>,
        K: Input + Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        let _ = batch;
        #[cfg(any(feature = "shared", loom))]
        if self.core().tier().is_some() {
            return self.forget(shared_key::<B, S, K>, key);
        }
        let found = self.look_up_for(self::key::<B, S, K>, key);
        found.is_some_and(|slot| collector::<B, S, K>(self).forget(slot))
    }
}

#[cfg(any(feature = "shared", loom))]
impl<S: Send + Sync + 'static> Ctx<S> {
    /// Asks a batch function of the second tier that the state holds for one key: fetched together with those that other requests ask for, and
    /// kept with its time to live. See [`Shared::load`](crate::Shared::load).
    ///
    /// The tier is asked once in this context for each key; then it is the same `&V` for the rest of it, as with [`run_shared`](Ctx::run_shared).
    ///
    /// # Concurrency, Cancel safety, Errors, Cost
    /// As [`run_shared`](Ctx::run_shared), and as [`Shared::load`](crate::Shared::load).
    ///
    /// # Examples
    /// ```
    /// use watershed::{Ctx, Shared};
    ///
    /// struct Request { shared: Shared<()> }
    /// impl AsRef<Shared<()>> for Request {
    ///     fn as_ref(&self) -> &Shared<()> { &self.shared }
    /// }
    /// async fn prices(_: Ctx<()>, ids: Vec<u64>) -> Result<Vec<(u64, u64)>, String> {
    ///     Ok(ids.into_iter().map(|id| (id, id * 10)).collect())
    /// }
    ///
    /// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
    /// let shared = Shared::new(());                                 // one per server
    /// let ctx = Ctx::new(Request { shared: shared.clone() });         // one per request
    /// assert_eq!(ctx.load_shared(prices, 7).await?, Some(&70));       // Option<&u64>
    /// # Ok::<(), watershed::TaskError>(()) }).unwrap();
    /// ```
    pub fn load_shared<B, K, Q, G>(&self, batch: B, key: Q) -> Load<'_, S, B::Value>
    where
        S: AsRef<crate::Shared<G>>,
        G: Send + Sync + 'static,
        B: Batch<G, K, Future: Send>,
        K: Input<Q>,
        Q: Key<K>,
    {
        let _ = batch;
        let () = Plain::<B>::CHECKED; // as in `load`
        Load {
            run: self.run_shared(shared_key::<B, G, K>, key),
            turn: Turn::none(),
        }
    }
}

/// A call for one key: a future of `Result<Option<&V>, TaskError>`. Made by [`Ctx::load`].
///
/// It does nothing until it is polled, except that a value which is there already is taken at once.
///
/// # Concurrency
/// Whoever of a batch's callers is polled sends it and drives it. A call that is kept but not polled stalls nobody. A call that nobody polls a
/// second time sends nothing.
///
/// # Cancel safety
/// * Dropped before the first poll: nothing happened.
/// * Dropped before the batch goes: the key is asked for if another caller wants it, and not otherwise. The others' batch goes as if this
///   call had never been.
/// * Dropped afterwards: the batch goes on for its other callers where it is. The last caller of all its keys takes it along.
///
/// # Panics
/// When it is polled again after it was ready.
#[must_use = "a call does nothing unless it is awaited"]
pub struct Load<'a, S, V> {
    run: Run<'a, S, Option<V>>,
    turn: Turn<'a>,
}

impl<S, V> Unpin for Load<'_, S, V> {}

impl<S, V> Load<'_, S, V> {
    fn look_round(&mut self, cx: &mut Context<'_>) {
        if self.turn.end(cx) {
            self.run.waits_for().into_iter().for_each(turn::tell_others);
        }
    }
}

impl<'a, S: Send + Sync + 'static, V: 'static> Load<'a, S, V> {
    /// Blocks the thread until the call is done, for threads that have no executor; see [`Run::wait`].
    ///
    /// # Errors
    /// As awaiting the call.
    pub fn wait(self) -> Result<Option<&'a V>, TaskError> {
        block_on(self)
    }
}

impl<'a, S: Send + Sync + 'static, V: 'static> Future for Load<'a, S, V> {
    type Output = Result<Option<&'a V>, TaskError>;

    // As `Run`'s: a hit must be seen through.
    #[inline(always)]
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        let core = this.run.ctx().core();
        this.turn.begin(core, cx);
        let polled = Pin::new(&mut this.run).poll(cx);
        if polled.is_pending() {
            this.look_round(cx);
        }
        polled.map_ok(Option::as_ref)
    }
}

impl<S, V> fmt::Debug for Load<'_, S, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Load").field(&self.run).finish()
    }
}

/// A call for many keys: a future of `Result<Vec<Option<&V>>, TaskError>`. Made by [`Ctx::load_many`].
///
/// # Cancel safety
/// Dropped, it leaves all its keys; see [`Load`].
///
/// # Panics
/// When it is polled again after it was ready.
#[must_use = "a call does nothing unless it is awaited"]
pub struct LoadMany<'a, S, V> {
    ctx: &'a Ctx<S>,
    calls: Vec<RawRun>,
    /// Those that are not ready, by number; the first is last.
    waiting: Vec<usize>,
    turn: Turn<'a>,
    over: bool,
    values: std::marker::PhantomData<fn() -> &'a V>,
}

impl<S, V> Unpin for LoadMany<'_, S, V> {}

impl<'a, S, V> LoadMany<'a, S, V> {
    fn new(ctx: &'a Ctx<S>, calls: Vec<RawRun>, turn: Turn<'a>) -> Self {
        LoadMany {
            ctx,
            waiting: (0..calls.len()).rev().collect(),
            calls,
            turn,
            over: false,
            values: std::marker::PhantomData,
        }
    }
}

impl<'a, S: Send + Sync + 'static, V: 'static> LoadMany<'a, S, V> {
    /// Blocks the thread until the call is done, for threads that have no executor; see [`Run::wait`].
    ///
    /// # Errors
    /// As awaiting the call.
    pub fn wait(self) -> Result<Vec<Option<&'a V>>, TaskError> {
        block_on(self)
    }
}

impl<'a, S: Send + Sync + 'static, V: 'static> Future for LoadMany<'a, S, V> {
    type Output = Result<Vec<Option<&'a V>>, TaskError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        assert!(!this.over, "a `LoadMany` was polled after it was ready");
        let caller = this.ctx.caller();
        this.turn.begin(caller.core, cx);
        let mut error = None;
        let calls = &mut this.calls;
        // From the first key on: the function gets them in the caller's order.
        let mut at = this.waiting.len();
        while at > 0 {
            at -= 1;
            match calls[this.waiting[at]].poll(caller, cx) {
                Poll::Pending => {}
                Poll::Ready(Ok(())) => {
                    this.waiting[at] = usize::MAX;
                }
                Poll::Ready(Err(failure)) => {
                    error = Some(failure);
                    break;
                }
            }
        }
        if let Some(error) = error {
            this.leave();
            return Poll::Ready(Err(error));
        }
        this.waiting.retain(|call| *call != usize::MAX);
        if !this.waiting.is_empty() {
            if this.turn.end(cx) {
                for &call in &this.waiting {
                    turn::tell_others(this.calls[call].slot());
                }
            }
            // CANCEL: dropped from here on, every call is left.
            return Poll::Pending;
        }
        this.over = true;
        let calls = this.calls.iter();
        Poll::Ready(Ok(calls
            // SAFETY: every slot is DONE, is of the task `key` for this value, and lives as long as the context.
            .map(|call| unsafe { value_of::<'a, Option<V>>(call.slot()) }.as_ref())
            .collect()))
    }
}

impl<S, V> LoadMany<'_, S, V> {
    /// Leaves every call that is not over.
    fn leave(&mut self) {
        if !std::mem::replace(&mut self.over, true) {
            let caller = self.ctx.caller();
            for call in &mut self.calls {
                call.leave(caller);
            }
        }
    }
}

impl<S, V> Drop for LoadMany<'_, S, V> {
    fn drop(&mut self) {
        // CANCEL: leaves every call.
        self.leave();
    }
}

impl<S, V> fmt::Debug for LoadMany<'_, S, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LoadMany")
            .field("keys", &self.calls.len())
            .field("waiting", &self.waiting.len())
            .finish()
    }
}
