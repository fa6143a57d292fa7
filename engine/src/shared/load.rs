//! Batches of the second tier, as the user calls them. A key is an entry of an inner task ([`crate::batch::shared_key`]), so each of these is
//! what [`Shared`] has for tasks, with the value in an `Option`.

use std::borrow::Borrow;
use std::fmt;
use std::future::Future;
use std::hash::Hash;
use std::pin::Pin;
use std::task::{Context, Poll};

use super::{Policy, Shared, SharedBuilder, SharedRun};
use crate::batch::{self, Batch, shared_key};
use crate::error::TaskError;
use crate::held::Held;
use crate::run::block_on;
use crate::task::{Input, Key};

impl<G: Send + Sync + 'static> Shared<G> {
    /// Asks a batch function for one key, across requests: takes what is there, joins the batch that fetches it, or fetches it together with
    /// the other keys that are asked for at the same time, by whichever request. `None`: the function did not return the key; that is kept as a
    /// value is. A key that it returns unasked is kept too.
    ///
    /// The function is one of the tier's state, `async fn(Ctx<G>, Vec<K>)`. How long a key is kept, and for how long a failure, is as for a task: see
    /// [`Policy`]; [`batch_policy`](SharedBuilder::batch_policy) sets one for a function. Each key has an entry of its own.
    ///
    /// # When a batch goes
    /// One turn of the runtime after its first key: when the runs that were started meanwhile have been polled. No timer. On a runtime of several threads what
    /// comes in at the same time may make a few batches; no key is in two.
    ///
    /// # Concurrency
    /// As [`run`](Shared::run): one at a time for each key, driven by tasks on the runtime. Who calls drives nothing.
    ///
    /// # Cancel safety
    /// The call may be dropped at any time. Before the first poll nothing has happened; later the key is fetched all the same.
    ///
    /// # Errors
    /// Those of [`run`](Shared::run). A failure or a panic of the function is that of each key of its batch. A
    /// [time limit](Policy::time_limit) is each key's: when that of the key which opened the batch is over, the others are asked for again.
    ///
    /// # Panics
    /// As [`run`](Shared::run).
    ///
    /// # Cost
    /// A hit is one of [`run`](Shared::run)'s. A key that is fetched costs a run of the tier, and its batch one turn.
    ///
    /// # Examples
    /// ```
    /// use std::collections::HashMap;
    /// use std::time::Duration;
    /// use watershed::{Ctx, Shared};
    ///
    /// async fn prices(_: Ctx<()>, ids: Vec<u64>) -> Result<HashMap<u64, u64>, String> {
    ///     assert_eq!(ids.len(), 2);                                   // one statement for both
    ///     Ok(ids.into_iter().filter(|id| *id < 100).map(|id| (id, id * 10)).collect())
    /// }
    ///
    /// # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
    /// let shared = Shared::builder(()).ttl(Duration::from_secs(60)).build();
    /// let (one, none) = futures::try_join!(shared.load(prices, 1), shared.load(prices, 100))?;
    /// assert_eq!(one.as_deref(), Some(&10));                          // Option<Held<u64>>
    /// assert!(none.is_none());
    /// assert_eq!(shared.load(prices, 1).await?.as_deref(), Some(&10)); // a hit
    /// # Ok::<(), watershed::TaskError>(()) }).unwrap();
    /// ```
    pub fn load<B, K, Q>(&self, batch: B, key: Q) -> SharedLoad<'_, G, B::Value>
    where
        B: Batch<G, K, Future: Send>,
        K: Input<Q>,
        Q: Key<K>,
    {
        let _ = batch;
        let () = batch::checked::<B>(); // as in `Ctx::load`
        SharedLoad(self.run(shared_key::<B, G, K>, key))
    }

    /// Asks a batch function for many keys; the values come in the order of the keys, which may repeat. The first error comes at once.
    ///
    /// # Concurrency, Cancel safety, Errors, Panics
    /// As [`load`](Shared::load).
    ///
    /// # Examples
    /// ```
    /// use watershed::{Ctx, Shared};
    /// async fn squares(_: Ctx<()>, of: Vec<u64>) -> Result<Vec<(u64, u64)>, String> {
    ///     Ok(of.into_iter().map(|n| (n, n * n)).collect())
    /// }
    /// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
    /// let shared = Shared::new(());
    /// let found = shared.load_many(squares, [3, 2]).await?;
    /// assert_eq!(found[0].as_deref(), Some(&9));
    /// # Ok::<(), watershed::TaskError>(()) }).unwrap();
    /// ```
    pub fn load_many<B, K, Q>(
        &self,
        batch: B,
        keys: impl IntoIterator<Item = Q>,
    ) -> SharedLoadMany<'_, G, B::Value>
    where
        B: Batch<G, K, Future: Send>,
        K: Input<Q>,
        Q: Key<K>,
    {
        let calls = keys
            .into_iter()
            .map(|key| Call::Asks(self.load(batch, key)));
        SharedLoadMany {
            calls: calls.collect(),
        }
    }

    /// What is there for a key now: the value (or that there is none), the kept failure, or nothing. As [`peek`](Shared::peek).
    pub fn peek_loaded<B, K, Q>(
        &self,
        batch: B,
        key: &Q,
    ) -> Option<Result<Option<Held<B::Value>>, TaskError>>
    where
        B: Batch<G, K>,
        K: Input + Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        let _ = batch;
        let there = self.peek(shared_key::<B, G, K>, key)?;
        Some(there.map(Held::transposed))
    }

    /// Puts a value in for a key, as if it had been loaded now. As [`prime`](Shared::prime).
    ///
    /// # Errors
    /// Gives the value back if there is something already, or the key is being loaded.
    pub fn prime_loaded<B, K, Q>(&self, batch: B, key: Q, value: B::Value) -> Result<(), B::Value>
    where
        B: Batch<G, K>,
        K: Input<Q>,
        Q: Key<K>,
    {
        let _ = batch;
        match self.prime(shared_key::<B, G, K>, key, Some(value)) {
            Err(Some(value)) => Err(value),
            _ => Ok(()),
        }
    }

    /// Lets the next call load the key again. As [`forget`](Shared::forget).
    pub fn forget_loaded<B, K, Q>(&self, batch: B, key: &Q) -> bool
    where
        B: Batch<G, K>,
        K: Input + Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        let _ = batch;
        self.forget(shared_key::<B, G, K>, key)
    }
}

impl<G: Send + Sync + 'static> SharedBuilder<G> {
    /// How long the keys of a batch function are kept, and so on. As [`policy`](Self::policy), which is for tasks.
    ///
    /// # Examples
    /// ```
    /// use std::time::Duration;
    /// use watershed::{Ctx, Policy, Shared};
    /// async fn prices(_: Ctx<()>, _: Vec<u64>) -> Result<Vec<(u64, u64)>, String> { Ok(vec![]) }
    ///
    /// let shared = Shared::builder(())
    ///     .batch_policy(prices, Policy { ttl: Some(Duration::from_secs(5)), ..Policy::default() })
    ///     .max_batch(prices, 100)
    ///     .build();
    /// # let _ = shared;
    /// ```
    pub fn batch_policy<B, K>(self, batch: B, policy: Policy) -> Self
    where
        B: Batch<G, K>,
        K: Input,
    {
        let _ = batch;
        self.policy(shared_key::<B, G, K>, policy)
    }

    /// How many keys this function gets at once, at most; as [`Builder::max_batch`](crate::Builder::max_batch).
    pub fn max_batch<B, K>(mut self, batch: B, keys: usize) -> Self
    where
        B: Batch<G, K>,
        K: Input,
    {
        let _ = batch;
        let id = batch::id::<B, G, K>();
        self.settings.max_batch.insert(id, keys.max(1));
        self
    }
}

/// A call for one key: a future of `Result<Option<Held<V>>, TaskError>`. Made by [`Shared::load`].
///
/// # Cancel safety
/// May be dropped at any time; the key is fetched all the same.
///
/// # Panics
/// When it is polled again after it was ready.
#[must_use = "a call does nothing unless it is awaited"]
pub struct SharedLoad<'a, G, V: 'static>(SharedRun<'a, G, Option<V>>);

impl<G: Send + Sync + 'static, V: Send + Sync + 'static> SharedLoad<'_, G, V> {
    /// Blocks the thread until the call is done; see [`SharedRun::wait`].
    ///
    /// # Errors
    /// As awaiting the call.
    pub fn wait(self) -> Result<Option<Held<V>>, TaskError> {
        self.0.wait().map(Held::transposed)
    }
}

impl<G: Send + Sync + 'static, V: Send + Sync + 'static> Future for SharedLoad<'_, G, V> {
    type Output = Result<Option<Held<V>>, TaskError>;

    #[inline(always)]
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(cx).map_ok(Held::transposed)
    }
}

impl<G, V> fmt::Debug for SharedLoad<'_, G, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SharedLoad").field(&self.0).finish()
    }
}

/// A call for many keys: a future of `Result<Vec<Option<Held<V>>>, TaskError>`. Made by [`Shared::load_many`].
///
/// # Cancel safety
/// As [`SharedLoad`].
///
/// # Panics
/// When it is polled again after it was ready.
#[must_use = "a call does nothing unless it is awaited"]
pub struct SharedLoadMany<'a, G, V: 'static> {
    calls: Vec<Call<'a, G, V>>,
}

enum Call<'a, G, V: 'static> {
    Asks(SharedLoad<'a, G, V>),
    Ready(Option<Held<V>>),
}

impl<G: Send + Sync + 'static, V: Send + Sync + 'static> SharedLoadMany<'_, G, V> {
    /// Blocks the thread until the call is done; see [`SharedRun::wait`].
    ///
    /// # Errors
    /// As awaiting the call.
    pub fn wait(self) -> Result<Vec<Option<Held<V>>>, TaskError> {
        block_on(self)
    }
}

impl<G: Send + Sync + 'static, V: Send + Sync + 'static> Future for SharedLoadMany<'_, G, V> {
    type Output = Result<Vec<Option<Held<V>>>, TaskError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut pending = false;
        for call in &mut self.calls {
            if let Call::Asks(asks) = call {
                match Pin::new(asks).poll(cx) {
                    Poll::Pending => pending = true,
                    Poll::Ready(Ok(value)) => *call = Call::Ready(value),
                    Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                }
            }
        }
        if pending {
            // CANCEL: dropped from here on, every call goes; the keys are fetched all the same.
            return Poll::Pending;
        }
        let values = std::mem::take(&mut self.calls)
            .into_iter()
            .map(|call| match call {
                Call::Ready(value) => value,
                Call::Asks(_) => unreachable!("each is ready"),
            });
        Poll::Ready(Ok(values.collect()))
    }
}

impl<G, V> fmt::Debug for SharedLoadMany<'_, G, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedLoadMany")
            .field("keys", &self.calls.len())
            .finish()
    }
}
