//! The peers: what a user would pick instead, each behind one small trait. A new one is an `impl` here and its name in the lists
//! of the workloads that it suits.
//!
//! [`Memo`] is a store that runs a body at most once for a key at a time. [`Scoped`] says more: the body may borrow, as it must
//! where it asks the same store for what it needs. `Shared` futures cannot (they are `'static`), so they are in no workload
//! whose tasks ask one another.
//!
//! | peer | what it is not asked for here, and why |
//! |---|---|
//! | singleflight-async | keeps nothing: only where one run is shared while it is under way |
//! | `Shared` in a map | bodies that ask one another |
//! | topcoat's memoize | errors (it keeps them as values), forgetting (it cannot), maps of 100,000 keys (it is made for a request) |
//! | `Mutex<HashMap>`, read in place | anything but what is mostly hits: elsewhere it is the same as `Mutex<HashMap>` |
//! | a process-wide cache (moka, quick_cache) made for each request | it is what its creation costs; shown where contexts are made, since request-scoped work in such a cache needs that or the request's number in each key |
//! | DataLoader, salsa | another job: batches; incremental recomputation |
//!
//! All hash with `foldhash`, as the engine does, where a hasher can be given: singleflight-async and topcoat have their own.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::error::Error;
use std::future::Future;
use std::hash::Hash;
use std::sync::{Arc, Mutex};

use foldhash::fast::RandomState;
use futures::FutureExt;
use futures::future::{BoxFuture, Shared};
use tokio::sync::OnceCell;

use crate::names;

/// An error that many callers can have.
pub(crate) type Failure = Arc<dyn Error + Send + Sync>;

/// Runs a body at most once for a key at a time.
pub(crate) trait Memo<K, V>: Send + Sync + 'static {
    const NAME: &'static str;

    fn new() -> Self;

    /// Gives what `read` takes from the value of `key`, which `body` makes if it is not there. (A closure, as `OnceCell` takes it: a future that
    /// is passed on as an argument has room in each of the futures that pass it, and a page of nested ones would be megabytes.)
    fn get<Q, R, F>(
        &self,
        key: &Q,
        body: impl FnOnce() -> F + Send + 'static,
        read: impl FnOnce(&V) -> R + Send,
    ) -> impl Future<Output = Result<R, Failure>> + Send
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ToOwned<Owned = K> + Sync + ?Sized,
        R: Send,
        F: Future<Output = Result<V, Failure>> + Send + 'static;
}

/// The same for bodies that borrow.
pub(crate) trait Scoped<K, V>: Memo<K, V> {
    fn get_scoped<Q, R, F>(
        &self,
        key: &Q,
        body: impl FnOnce() -> F + Send,
        read: impl FnOnce(&V) -> R + Send,
    ) -> impl Future<Output = Result<R, Failure>> + Send
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ToOwned<Owned = K> + Sync + ?Sized,
        R: Send,
        F: Future<Output = Result<V, Failure>> + Send;
}

/// What can do with bodies that borrow can do with those that do not.
macro_rules! memo {
    ($memo:ty, $name:expr, $new:expr) => {
        impl<K: Part + Hash + Eq, V: Part> Memo<K, V> for $memo {
            const NAME: &'static str = $name;

            fn new() -> Self {
                $new
            }

            #[inline(always)]
            fn get<Q, R, F>(
                &self,
                key: &Q,
                body: impl FnOnce() -> F + Send + 'static,
                read: impl FnOnce(&V) -> R + Send,
            ) -> impl Future<Output = Result<R, Failure>> + Send
            where
                K: Borrow<Q>,
                Q: Hash + Eq + ToOwned<Owned = K> + Sync + ?Sized,
                R: Send,
                F: Future<Output = Result<V, Failure>> + Send + 'static,
            {
                self.get_scoped(key, body, read)
            }
        }
    };
}
pub(crate) use memo;

/// Can drop what it keeps for a key, so that the next call runs again.
pub(crate) trait Forget<K, V>: Scoped<K, V> {
    fn forget(&self, key: &K);
}

/// What keys and values can be.
pub(crate) trait Part: Clone + Send + Sync + 'static {}

impl<T: Clone + Send + Sync + 'static> Part for T {}

// --- maps of cells, as one writes them by hand ------------------------------------------------------

/// A cell that runs one body at a time, keeps a value and does not keep an error.
pub(crate) trait Cell<V: Part>: Default + Send + Sync + 'static {
    fn peek(&self) -> Option<&V>;

    fn get_or_try_init<F>(
        &self,
        body: impl FnOnce() -> F + Send,
    ) -> impl Future<Output = Result<&V, Failure>> + Send
    where
        F: Future<Output = Result<V, Failure>> + Send;
}

impl<V: Part> Cell<V> for OnceCell<V> {
    #[inline(always)]
    fn peek(&self) -> Option<&V> {
        self.get()
    }

    #[inline(always)]
    fn get_or_try_init<F>(
        &self,
        body: impl FnOnce() -> F + Send,
    ) -> impl Future<Output = Result<&V, Failure>> + Send
    where
        F: Future<Output = Result<V, Failure>> + Send,
    {
        OnceCell::get_or_try_init(self, body)
    }
}

impl<V: Part> Cell<V> for async_once_cell::OnceCell<V> {
    #[inline(always)]
    fn peek(&self) -> Option<&V> {
        self.get()
    }

    #[inline(always)]
    fn get_or_try_init<F>(
        &self,
        body: impl FnOnce() -> F + Send,
    ) -> impl Future<Output = Result<&V, Failure>> + Send
    where
        F: Future<Output = Result<V, Failure>> + Send,
    {
        async_once_cell::OnceCell::get_or_try_init(self, body())
    }
}

/// A map that gives the cell of a key away as an `Arc`: no lock is held while a body runs.
pub(crate) trait Cells<K>: Send + Sync + 'static {
    type Cell: Send + Sync + 'static;

    fn cell<Q>(&self, key: &Q) -> Arc<Self::Cell>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ToOwned<Owned = K> + ?Sized;

    fn remove(&self, key: &K);
}

macro_rules! a_map_of_cells_is_a_memo {
    ($map:ident, $cell:ty, $name:expr) => {
        memo!($map<K, $cell>, $name, Self(Default::default()));

        impl<K: Part + Hash + Eq, V: Part> Scoped<K, V> for $map<K, $cell> {
            #[inline(always)]
            async fn get_scoped<Q, R, F>(
                &self,
                key: &Q,
                body: impl FnOnce() -> F + Send,
                read: impl FnOnce(&V) -> R + Send,
            ) -> Result<R, Failure>
            where
                K: Borrow<Q>,
                Q: Hash + Eq + ToOwned<Owned = K> + Sync + ?Sized,
                R: Send,
                F: Future<Output = Result<V, Failure>> + Send,
            {
                let cell = self.cell(key);
                let value = Cell::get_or_try_init(&*cell, body).await?;
                Ok(read(value))
            }
        }

        impl<K: Part + Hash + Eq, V: Part> Forget<K, V> for $map<K, $cell> {
            fn forget(&self, key: &K) {
                self.remove(key);
            }
        }
    };
}

/// `Mutex<HashMap<K, Arc<OnceCell<V>>>>`, the usual way by hand.
pub(crate) struct MutexMap<K, C>(Mutex<HashMap<K, Arc<C>, RandomState>>);

impl<K: Part + Hash + Eq, V: Part> Cells<K> for MutexMap<K, OnceCell<V>> {
    type Cell = OnceCell<V>;

    #[inline(always)]
    fn cell<Q>(&self, key: &Q) -> Arc<OnceCell<V>>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ToOwned<Owned = K> + ?Sized,
    {
        let mut map = self.0.lock().unwrap();
        if let Some(cell) = map.get(key) {
            return Arc::clone(cell);
        }
        Arc::clone(map.entry(key.to_owned()).or_default())
    }

    fn remove(&self, key: &K) {
        let _cell = self.0.lock().unwrap().remove(key);
    }
}

a_map_of_cells_is_a_memo!(MutexMap, OnceCell<V>, names::MUTEX_MAP);

/// The same with the cells of async-once-cell.
pub(crate) struct MutexMapOfAsyncOnceCells<K, C>(Mutex<HashMap<K, Arc<C>, RandomState>>);

impl<K: Part + Hash + Eq, V: Part> Cells<K>
    for MutexMapOfAsyncOnceCells<K, async_once_cell::OnceCell<V>>
{
    type Cell = async_once_cell::OnceCell<V>;

    #[inline(always)]
    fn cell<Q>(&self, key: &Q) -> Arc<Self::Cell>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ToOwned<Owned = K> + ?Sized,
    {
        let mut map = self.0.lock().unwrap();
        if let Some(cell) = map.get(key) {
            return Arc::clone(cell);
        }
        Arc::clone(map.entry(key.to_owned()).or_default())
    }

    fn remove(&self, key: &K) {
        let _cell = self.0.lock().unwrap().remove(key);
    }
}

a_map_of_cells_is_a_memo!(
    MutexMapOfAsyncOnceCells,
    async_once_cell::OnceCell<V>,
    names::ASYNC_ONCE_CELL
);

/// `DashMap<K, Arc<OnceCell<V>>>`.
pub(crate) struct ShardedMap<K, C>(dashmap::DashMap<K, Arc<C>, RandomState>);

impl<K: Part + Hash + Eq, V: Part> Cells<K> for ShardedMap<K, OnceCell<V>> {
    type Cell = OnceCell<V>;

    #[inline(always)]
    fn cell<Q>(&self, key: &Q) -> Arc<OnceCell<V>>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ToOwned<Owned = K> + ?Sized,
    {
        if let Some(cell) = self.0.get(key) {
            return Arc::clone(&cell);
        }
        Arc::clone(&self.0.entry(key.to_owned()).or_default())
    }

    fn remove(&self, key: &K) {
        self.0.remove(key);
    }
}

a_map_of_cells_is_a_memo!(ShardedMap, OnceCell<V>, names::DASHMAP);

/// `papaya::HashMap<K, Arc<OnceCell<V>>>`. (With the cell itself in the map and an owned pin, which may live across an await, a
/// hit takes a third longer.)
pub(crate) struct PapayaMap<K, C>(papaya::HashMap<K, Arc<C>, RandomState>);

impl<K: Part + Hash + Eq, V: Part> Cells<K> for PapayaMap<K, OnceCell<V>> {
    type Cell = OnceCell<V>;

    #[inline(always)]
    fn cell<Q>(&self, key: &Q) -> Arc<OnceCell<V>>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ToOwned<Owned = K> + ?Sized,
    {
        let map = self.0.pin();
        if let Some(cell) = map.get(key) {
            return Arc::clone(cell);
        }
        Arc::clone(map.get_or_insert_with(key.to_owned(), Arc::default))
    }

    fn remove(&self, key: &K) {
        self.0.pin().remove(key);
    }
}

a_map_of_cells_is_a_memo!(PapayaMap, OnceCell<V>, names::PAPAYA);

/// [`MutexMap`] by someone who measures: a value that is there is read under the lock, so that a hit counts no references. (What
/// is read must be copied out of the lock, or read there as here.)
pub(crate) struct ReadInPlace<K, V>(MutexMap<K, OnceCell<V>>);

memo!(
    ReadInPlace<K, V>,
    names::READ_IN_PLACE,
    Self(MutexMap(Mutex::default()))
);

impl<K: Part + Hash + Eq, V: Part> Scoped<K, V> for ReadInPlace<K, V> {
    #[inline(always)]
    async fn get_scoped<Q, R, F>(
        &self,
        key: &Q,
        body: impl FnOnce() -> F + Send,
        read: impl FnOnce(&V) -> R + Send,
    ) -> Result<R, Failure>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ToOwned<Owned = K> + Sync + ?Sized,
        R: Send,
        F: Future<Output = Result<V, Failure>> + Send,
    {
        let cell = {
            let mut map = self.0.0.lock().unwrap();
            match map.get(key) {
                Some(cell) => match cell.peek() {
                    Some(value) => return Ok(read(value)),
                    None => Arc::clone(cell),
                },
                None => Arc::clone(map.entry(key.to_owned()).or_default()),
            }
        };
        let value = Cell::get_or_try_init(&*cell, body).await?;
        Ok(read(value))
    }
}

// --- caches ------------------------------------------------------------------------------------------

/// `quick_cache::sync::Cache::get_or_insert_async`. It clones its value for each caller.
pub(crate) struct QuickCache<K, V>(
    quick_cache::sync::Cache<K, V, quick_cache::UnitWeighter, RandomState>,
);

/// What the caches may hold: more than any workload asks of them.
const CAPACITY: usize = 1 << 18;
/// The estimate that quick_cache reserves for.
const EXPECTED: usize = 64;

memo!(QuickCache<K, V>, names::QUICK_CACHE, Self(quick_cache::sync::Cache::with(
    EXPECTED,
    CAPACITY as u64,
    quick_cache::UnitWeighter,
    RandomState::default(),
    quick_cache::sync::DefaultLifecycle::default(),
)));

impl<K: Part + Hash + Eq, V: Part> Scoped<K, V> for QuickCache<K, V> {
    #[inline(always)]
    async fn get_scoped<Q, R, F>(
        &self,
        key: &Q,
        body: impl FnOnce() -> F + Send,
        read: impl FnOnce(&V) -> R + Send,
    ) -> Result<R, Failure>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ToOwned<Owned = K> + Sync + ?Sized,
        R: Send,
        F: Future<Output = Result<V, Failure>> + Send,
    {
        let value = self.0.get_or_insert_async(key, body()).await?;
        Ok(read(&value))
    }
}

impl<K: Part + Hash + Eq, V: Part> Forget<K, V> for QuickCache<K, V> {
    fn forget(&self, key: &K) {
        self.0.remove(key);
    }
}

/// `moka::future::Cache::try_get_with_by_ref`. It clones its value for each caller.
pub(crate) struct Moka<K, V>(moka::future::Cache<K, V, RandomState>);

memo!(Moka<K, V>, names::MOKA, Self(
    moka::future::Cache::builder()
        .max_capacity(CAPACITY as u64)
        .build_with_hasher(RandomState::default()),
));

impl<K: Part + Hash + Eq, V: Part> Scoped<K, V> for Moka<K, V> {
    #[inline(always)]
    async fn get_scoped<Q, R, F>(
        &self,
        key: &Q,
        body: impl FnOnce() -> F + Send,
        read: impl FnOnce(&V) -> R + Send,
    ) -> Result<R, Failure>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ToOwned<Owned = K> + Sync + ?Sized,
        R: Send,
        F: Future<Output = Result<V, Failure>> + Send,
    {
        match self.0.try_get_with_by_ref(key, body()).await {
            Ok(value) => Ok(read(&value)),
            Err(failure) => Err(Failure::clone(&failure)),
        }
    }
}

// --- futures that many await -------------------------------------------------------------------------

/// `Mutex<HashMap<K, Shared<BoxFuture<..>>>>`. The value is cloned for each caller.
pub(crate) struct SharedMap<K, V: Clone>(Mutex<HashMap<K, SharedFuture<V>, RandomState>>);

type SharedFuture<V> = Shared<BoxFuture<'static, Result<V, Failure>>>;

impl<K: Part + Hash + Eq, V: Part> Memo<K, V> for SharedMap<K, V> {
    const NAME: &'static str = names::SHARED;

    fn new() -> Self {
        Self(Mutex::default())
    }

    #[inline(always)]
    async fn get<Q, R, F>(
        &self,
        key: &Q,
        body: impl FnOnce() -> F + Send + 'static,
        read: impl FnOnce(&V) -> R + Send,
    ) -> Result<R, Failure>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ToOwned<Owned = K> + Sync + ?Sized,
        R: Send,
        F: Future<Output = Result<V, Failure>> + Send + 'static,
    {
        let future = {
            let mut map = self.0.lock().unwrap();
            match map.get(key) {
                Some(future) => future.clone(),
                None => map
                    .entry(key.to_owned())
                    .or_insert_with(|| body().boxed().shared())
                    .clone(),
            }
        };
        let value = future.await?;
        Ok(read(&value))
    }
}

/// `singleflight_async::SingleFlight::work`: one run at a time, nothing kept. The value is cloned for each caller.
pub(crate) struct SingleFlight<K, V>(singleflight_async::SingleFlight<K, Result<V, Failure>>);

memo!(SingleFlight<K, V>, names::SINGLEFLIGHT, Self(singleflight_async::SingleFlight::new()));

impl<K: Part + Hash + Eq, V: Part> Scoped<K, V> for SingleFlight<K, V> {
    #[inline(always)]
    async fn get_scoped<Q, R, F>(
        &self,
        key: &Q,
        body: impl FnOnce() -> F + Send,
        read: impl FnOnce(&V) -> R + Send,
    ) -> Result<R, Failure>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ToOwned<Owned = K> + Sync + ?Sized,
        R: Send,
        F: Future<Output = Result<V, Failure>> + Send,
    {
        let value = self.0.work(key.to_owned(), body).await?;
        Ok(read(&value))
    }
}

/// topcoat's `#[memoize]`, by the function that the macro expands to. The function it is given may not capture, so it gets the body as its
/// parameter.
pub(crate) struct Topcoat(topcoat_core::context::Cx);

impl<K: Part + Hash + Eq, V: Part> Memo<K, V> for Topcoat {
    const NAME: &'static str = names::TOPCOAT;

    fn new() -> Self {
        Self(topcoat())
    }

    #[inline(always)]
    async fn get<Q, R, F>(
        &self,
        key: &Q,
        body: impl FnOnce() -> F + Send + 'static,
        read: impl FnOnce(&V) -> R + Send,
    ) -> Result<R, Failure>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ToOwned<Owned = K> + Sync + ?Sized,
        R: Send,
        F: Future<Output = Result<V, Failure>> + Send + 'static,
    {
        match topcoat_core::context::memoize_cache(&self.0)
            .memoize_async(&self.0, (key,), body, async |_, body| body().await)
            .await
        {
            Ok(value) => Ok(read(value)),
            Err(failure) => Err(Failure::clone(failure)),
        }
    }
}

/// A request's context as topcoat makes it.
pub(crate) fn topcoat() -> topcoat_core::context::Cx {
    thread_local! {
        static APP: Arc<topcoat_core::context::AppContext> = Arc::default();
    }
    APP.with(|app| topcoat_core::context::Cx::new(Arc::clone(app)))
}
