//! Four ways to remember what a request has loaded already, behind the words that the storefront's tasks use: `me.ask(task, input)`.
//!
//! * the engine: `ctx.run`;
//! * cells: a map of `OnceCell`s for each task, of the request;
//! * moka: a cache of the process, with the request's number and the task in each key; what is old goes when 100,000 newer ones came;
//! * nothing: the task is called.
//!
//! Products and discounts are loaded by batch functions, `me.load(batch, key)`. The engine gathers the keys that are asked for together and
//! fetches them with one statement; none of the others has that, so there the same function is asked for the one key, once per request, or
//! each time where nothing is remembered. So the engine sends fewer statements for these rows than the others; all other statements are the
//! same in the first three ways.
//!
//! Where a program by hand would have a field for the map of each task, this one finds it by the task's type, which costs some ten
//! nanoseconds a call; and every way has a context, which costs twenty a request. Beside a statement of SQLite, at some ten
//! microseconds, neither is to be seen.

use std::any::{Any, TypeId};
use std::collections::HashMap;
use std::error::Error;
use std::fmt::Debug;
use std::hash::Hash;
use std::marker::PhantomData;
use std::ops::Deref;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use foldhash::fast::RandomState;
use rusqlite::{OptionalExtension, Params, Row};
use tokio::sync::OnceCell;
use watershed::{Batch, Ctx, Task, TaskError};

use crate::Visit;
use crate::catalogue::Catalogue;
use crate::db::{Db, Id};
use crate::tasks::ShopError;

/// How calls are answered.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    Engine,
    Cells,
    Moka,
    Nothing,
}

impl Way {
    pub(crate) const ALL: [Self; 4] = [Self::Engine, Self::Cells, Self::Moka, Self::Nothing];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Engine => "watershed",
            Self::Cells => "Mutex<HashMap> of OnceCells",
            Self::Moka => "moka",
            Self::Nothing => "nothing",
        }
    }

    pub(crate) fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|way| way.name() == name)
    }
}

/// One thing for each task.
type ByTask = Mutex<HashMap<TypeId, Arc<dyn Any + Send + Sync>, RandomState>>;

fn of_task<F: 'static, T: Default + Send + Sync + 'static>(all: &ByTask) -> Arc<T> {
    let mut all = all.lock().unwrap();
    let one = all
        .entry(TypeId::of::<F>())
        .or_insert_with(|| Arc::new(T::default()));
    Arc::clone(one)
        .downcast()
        .expect("one type of map for a task")
}

struct Cells<In, T>(Mutex<HashMap<In, Arc<OnceCell<T>>, RandomState>>);

impl<In, T> Default for Cells<In, T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

/// One cache for all tasks, since each type of cache takes the compiler half a minute.
type Cache = moka::future::Cache<(u64, TypeId, Input), Arc<dyn Any + Send + Sync>, RandomState>;

/// What the tasks of the shop take.
#[derive(PartialEq, Eq, Hash)]
enum Input {
    Id(Id),
    Ids(Id, Id),
    Token(String),
    Visit(Visit),
    Products(Vec<Id>),
    Discounts(Vec<(String, i64)>),
}

impl Input {
    fn new(input: &dyn Any) -> Self {
        if let Some(id) = input.downcast_ref() {
            Self::Id(*id)
        } else if let Some((a, b)) = input.downcast_ref() {
            Self::Ids(*a, *b)
        } else if let Some(token) = input.downcast_ref::<String>() {
            Self::Token(token.clone())
        } else if let Some(visit) = input.downcast_ref::<Visit>() {
            Self::Visit(visit.clone())
        } else if let Some(ids) = input.downcast_ref::<Vec<Id>>() {
            Self::Products(ids.clone())
        } else if let Some(of) = input.downcast_ref::<Vec<(String, i64)>>() {
            Self::Discounts(of.clone())
        } else {
            panic!("a task with another input")
        }
    }
}

/// What is kept for the process.
#[derive(Clone)]
pub(crate) struct Caches(Arc<(Cache, AtomicU64)>);

impl Default for Caches {
    fn default() -> Self {
        let cache = moka::future::Cache::builder().max_capacity(100_000);
        let cache = cache.build_with_hasher(RandomState::default());
        Self(Arc::new((cache, AtomicU64::new(0))))
    }
}

type Counted = Pin<Box<dyn Future<Output = Result<Arc<dyn Any + Send + Sync>, TaskError>> + Send>>;

impl Caches {
    async fn get(
        &self,
        key: (u64, TypeId, Input),
        body: Counted,
    ) -> Result<Arc<dyn Any + Send + Sync>, TaskError> {
        let found = self.0.0.try_get_with(key, body).await;
        found.map_err(|error| TaskError::clone(&error))
    }
}

/// The state of one request: every task reads it through `ctx.state()`.
pub(crate) struct Shop {
    db: Db,
    way: Way,
    /// Its cells, if it has any.
    cells: ByTask,
    caches: Caches,
    /// Its number.
    request: u64,
}

/// Where the second tier would count its statements.
pub(crate) struct Tally;

impl Tally {
    pub(crate) fn statement(&self) {}
}

impl Shop {
    pub(crate) fn new(db: &Db, way: Way, caches: &Caches) -> Self {
        Self {
            db: db.clone(),
            way,
            cells: ByTask::default(),
            caches: caches.clone(),
            // ORDER: Relaxed: a number, told from others.
            request: caches.0.1.fetch_add(1, Ordering::Relaxed),
        }
    }
}

/// A body (or the handler) that asks.
pub(crate) struct Me<'a>(&'a Ctx<Shop>);

impl<'a> Me<'a> {
    /// The first line of every body.
    pub(crate) fn body<F, In: Debug>(ctx: &'a Ctx<Shop>, _: F, _: &In) -> Me<'a> {
        Me(ctx)
    }

    /// Who stands outside of all tasks: the handler of the request.
    pub(crate) fn handler(ctx: &'a Ctx<Shop>) -> Me<'a> {
        Me(ctx)
    }

    pub(crate) async fn ask<F, In>(
        &self,
        task: F,
        input: In,
    ) -> Result<Answer<'a, F::Value>, TaskError>
    where
        F: Task<Shop, In, Future: Send>,
        In: Debug + Hash + Eq + Clone + Send + Sync + 'static,
    {
        let ctx = self.0;
        let shop = ctx.state();
        match shop.way {
            Way::Engine => ctx.run(task, input).await.map(Answer::Shared),
            Way::Nothing => call(ctx, task, input).await.map(Answer::Owned),
            Way::Cells => {
                let cells = of_task::<F, Cells<In, F::Value>>(&shop.cells);
                let cell = {
                    let mut cells = cells.0.lock().unwrap();
                    Arc::clone(cells.entry(input.clone()).or_default())
                };
                cell.get_or_try_init(|| call(ctx, task, input)).await?;
                Ok(Answer::Cell(cell, PhantomData))
            }
            Way::Moka => {
                let key = (shop.request, TypeId::of::<F>(), Input::new(&input));
                let ctx = ctx.clone();
                let body = Box::pin(async move {
                    let value = call(&ctx, task, input).await?;
                    Ok(Arc::new(value) as Arc<dyn Any + Send + Sync>)
                });
                let value = shop.caches.get(key, body).await?;
                Ok(Answer::Counted(value.downcast().expect("of this task")))
            }
        }
    }

    /// No way here has a second tier: each shows what it saves within a request.
    pub(crate) async fn shared<F, In>(&self, _: F, _: In) -> Result<Option<&'a F::Value>, TaskError>
    where
        F: Task<Catalogue, In, Future: Send>,
    {
        Ok(None)
    }

    /// For the engine `ctx.load(batch, key)`; the other ways ask the same function for this key alone.
    pub(crate) async fn load<B, K, V>(
        &self,
        batch: B,
        key: K,
    ) -> Result<Option<Answer<'a, V>>, TaskError>
    where
        B: Batch<Shop, K, Value = V, Future: Send>,
        B: Task<Shop, Vec<K>, Value = HashMap<K, V>, Future: Send>,
        K: Debug + Hash + Eq + Clone + Send + Sync + 'static,
        V: Send + Sync + 'static,
    {
        let ctx = self.0;
        if ctx.state().way == Way::Engine {
            return Ok(ctx.load(batch, key).await?.map(Answer::Shared));
        }
        let one: Arc<dyn Single<V> + Send + Sync> = match self.ask(batch, vec![key.clone()]).await?
        {
            Answer::Owned(mut rows) => return Ok(rows.remove(&key).map(Answer::Owned)),
            Answer::Shared(rows) => return Ok(rows.get(&key).map(Answer::Shared)),
            Answer::Counted(rows) => rows,
            Answer::Cell(cell, _) => cell,
            Answer::Row(_) => unreachable!("`ask` gives no part of what a task returned"),
        };
        Ok(one.single().is_some().then_some(Answer::Row(one)))
    }

    /// One statement that gives at most one row.
    pub(crate) async fn one<P, T>(
        &self,
        sql: &'static str,
        params: P,
        read: fn(&Row<'_>) -> rusqlite::Result<T>,
    ) -> Result<Option<T>, ShopError>
    where
        P: Params + Send + 'static,
        T: Send + 'static,
    {
        let db = &self.0.state().db;
        db.call(move |db| db.prepare_cached(sql)?.query_row(params, read).optional())
            .await
    }

    /// One statement that gives any number of rows.
    pub(crate) async fn all<P, T>(
        &self,
        sql: &'static str,
        params: P,
        read: fn(&Row<'_>) -> rusqlite::Result<T>,
    ) -> Result<Vec<T>, ShopError>
    where
        P: Params + Send + 'static,
        T: Send + 'static,
    {
        let db = &self.0.state().db;
        db.call(move |db| db.prepare_cached(sql)?.query_map(params, read)?.collect())
            .await
    }
}

type Body<T, E> = Pin<Box<dyn Future<Output = Result<T, E>> + Send>>;

/// The task itself, in a box as any tree of async functions needs one somewhere.
async fn call<F, In>(ctx: &Ctx<Shop>, task: F, input: In) -> Result<F::Value, TaskError>
where
    F: Task<Shop, In, Future: Send>,
{
    let body: Body<F::Value, F::Error> = Box::pin(task.call(ctx.clone(), input));
    body.await.map_err(|error| {
        let error: Box<dyn Error + Send + Sync> = error.into();
        TaskError::new(error)
    })
}

/// What a caller gets, as each way has it.
pub(crate) enum Answer<'a, T> {
    Shared(&'a T),
    Owned(T),
    Counted(Arc<T>),
    Cell(Arc<OnceCell<T>>, PhantomData<&'a T>),
    /// What a batch function gave for the one key that it was asked for, in what keeps it.
    Row(Arc<dyn Single<T> + Send + Sync>),
}

/// A map with one value or none. It lends the value from wherever the map is, so that no way pays for a copy.
pub(crate) trait Single<T> {
    fn single(&self) -> Option<&T>;
}

impl<K, T> Single<T> for HashMap<K, T> {
    fn single(&self) -> Option<&T> {
        self.values().next()
    }
}

impl<K, T> Single<T> for OnceCell<HashMap<K, T>> {
    fn single(&self) -> Option<&T> {
        self.get()?.single()
    }
}

impl<T> Deref for Answer<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        match self {
            Answer::Shared(value) => value,
            Answer::Owned(value) => value,
            Answer::Counted(value) => value,
            Answer::Cell(cell, _) => cell.get().expect("it was just made"),
            Answer::Row(one) => one.single().expect("`load` looked whether it is there"),
        }
    }
}
