//! The request's state, and its own record of who asked whom.
//!
//! A program needs none of this to use the engine: its tasks say `ctx.run(task, input)`. The example
//! wants to count, to draw a tree, and to serve the same tasks without memory, so they say
//! `me.ask(task, input)`.

use std::any::type_name;
use std::collections::HashMap;
use std::fmt::Debug;
use std::hash::Hash;
use std::ops::Deref;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rusqlite::{OptionalExtension, Params, Row};
use watershed::{Batch, Ctx, Shared, Task, TaskError};

use crate::catalogue::Catalogue;
use crate::db::Db;
use crate::faults::Warehouse;
use crate::tasks::ShopError;
use crate::terminal::dim;

/// How calls are answered.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// By `ctx.run`, and rows by `ctx.load`: many of them with one statement.
    Batched,
    /// By `ctx.run`: a task runs once per request and input; each row with a statement of its own.
    Memo,
    /// By `ctx.run_fresh`: every call runs.
    Direct,
}

/// What happened while requests were served.
// ORDER: all Relaxed: only counts, read when the requests have ended.
#[derive(Default)]
pub(crate) struct Tally {
    calls: AtomicU64,
    runs: AtomicU64,
    statements: AtomicU64,
}

impl Tally {
    pub(crate) fn calls(&self) -> u64 {
        self.calls.load(Relaxed)
    }

    pub(crate) fn runs(&self) -> u64 {
        self.runs.load(Relaxed)
    }

    /// Calls that did not run: the value was there, or its run was under way.
    pub(crate) fn hits(&self) -> u64 {
        self.calls() - self.runs()
    }

    pub(crate) fn statement(&self) {
        self.statements.fetch_add(1, Relaxed);
    }

    pub(crate) fn statements(&self) -> u64 {
        self.statements.load(Relaxed)
    }
}

/// The state of one request: every task reads it through `ctx.state()`.
pub(crate) struct Shop {
    db: Db,
    pub(crate) warehouse: Warehouse,
    mode: Mode,
    tally: Arc<Tally>,
    record: Option<Mutex<Vec<Asked>>>,
    catalogue: Option<Shared<Catalogue>>,
    /// The name of the request, where a server gave it one.
    #[allow(dead_code)] // the server gives and reads it
    pub(crate) request: Arc<str>,
}

/// How `ctx.run_shared` finds the tier. A server's state always has one; this one can do without, to be compared.
impl AsRef<Shared<Catalogue>> for Shop {
    fn as_ref(&self) -> &Shared<Catalogue> {
        self.catalogue
            .as_ref()
            .expect("`Me::shared` looks whether there is one")
    }
}

impl Shop {
    pub(crate) fn new(db: &Db, mode: Mode, tally: &Arc<Tally>) -> Shop {
        Shop {
            db: db.clone(),
            warehouse: Warehouse::default(),
            mode,
            tally: Arc::clone(tally),
            record: None,
            catalogue: None,
            request: Arc::default(),
        }
    }

    /// Of the request with this name.
    #[allow(dead_code)] // the server gives and reads it
    pub(crate) fn named(self, request: Arc<str>) -> Shop {
        Shop { request, ..self }
    }

    /// Takes what is the same for all requests from there.
    pub(crate) fn over(self, catalogue: Option<&Shared<Catalogue>>) -> Shop {
        Shop {
            catalogue: catalogue.cloned(),
            ..self
        }
    }

    /// Keeps a record of every call.
    pub(crate) fn recorded(self) -> Shop {
        Shop {
            record: Some(Mutex::default()),
            ..self
        }
    }

    pub(crate) fn record(&self) -> Vec<Asked> {
        self.record
            .as_ref()
            .map_or(Vec::new(), |record| record.lock().unwrap().clone())
    }
}

/// One call in the record.
#[derive(Clone)]
pub(crate) struct Asked {
    /// The body that asked; `None` for the handler.
    by: Option<String>,
    pub(crate) label: String,
    answer: How,
    took: Duration,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum How {
    Ran,
    Joined,
    Hit,
}

/// A body (or the handler) that asks.
pub(crate) struct Me<'a> {
    ctx: &'a Ctx<Shop>,
    label: Option<String>,
}

impl<'a> Me<'a> {
    /// The first line of every body: counts the run.
    pub(crate) fn body<F, In: Debug>(ctx: &'a Ctx<Shop>, task: F, input: &In) -> Me<'a> {
        let shop = ctx.state();
        shop.tally.runs.fetch_add(1, Relaxed);
        Me {
            ctx,
            label: shop.record.as_ref().map(|_| label(&task, input)),
        }
    }

    /// Who stands outside of all tasks: the handler of the request.
    pub(crate) fn handler(ctx: &'a Ctx<Shop>) -> Me<'a> {
        Me { ctx, label: None }
    }

    /// `ctx.run(task, input)` with a line in the record; in direct mode `ctx.run_fresh(task, input)`.
    pub(crate) async fn ask<F, In>(
        &self,
        task: F,
        input: In,
    ) -> Result<Answer<'a, F::Value>, TaskError>
    where
        F: Task<Shop, In, Future: Send>,
        In: Debug + Hash + Eq + Clone + Send + Sync + 'static,
    {
        let shop = self.ctx.state();
        shop.tally.calls.fetch_add(1, Relaxed);
        if shop.mode == Mode::Direct {
            return self.ctx.run_fresh(task, input).await.map(Answer::Owned);
        }
        let Some(record) = &shop.record else {
            return self.ctx.run(task, input).await.map(Answer::Shared);
        };

        let start = Instant::now();
        let line = {
            let mut record = record.lock().unwrap();
            let label = label(&task, &input);
            let answer = if record.iter().all(|asked| asked.label != label) {
                How::Ran
            } else if self.ctx.peek(task, &input).is_some() {
                How::Hit
            } else {
                How::Joined
            };
            record.push(Asked {
                by: self.label.clone(),
                label,
                answer,
                took: Duration::ZERO,
            });
            record.len() - 1
        };
        let value = self.ctx.run(task, input).await;
        record.lock().unwrap()[line].took = start.elapsed();
        value.map(Answer::Shared)
    }

    /// `ctx.run_shared(task, input)`, if this request is served over the second tier.
    pub(crate) async fn shared<F, In>(
        &self,
        task: F,
        input: In,
    ) -> Result<Option<&'a F::Value>, TaskError>
    where
        F: Task<Catalogue, In, Future: Send>,
        In: Hash + Eq + Clone + Send + Sync + 'static,
    {
        if self.ctx.state().catalogue.is_none() {
            return Ok(None);
        }
        self.ctx.run_shared(task, input).await.map(Some)
    }

    /// `ctx.load(batch, key)`; in the other modes the same function is asked for this key alone.
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
        if self.ctx.state().mode == Mode::Batched {
            self.ctx.state().tally.calls.fetch_add(1, Relaxed);
            return Ok(self.ctx.load(batch, key).await?.map(Answer::Shared));
        }
        Ok(match self.ask(batch, vec![key.clone()]).await? {
            Answer::Shared(rows) => rows.get(&key).map(Answer::Shared),
            Answer::Owned(mut rows) => rows.remove(&key).map(Answer::Owned),
        })
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
        let shop = self.ctx.state();
        shop.tally.statement();
        shop.db
            .call(move |db| db.prepare_cached(sql)?.query_row(params, read).optional())
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
        let shop = self.ctx.state();
        shop.tally.statement();
        shop.db
            .call(move |db| db.prepare_cached(sql)?.query_map(params, read)?.collect())
            .await
    }
}

/// `ctx.run` lends what the context keeps; `ctx.run_fresh` gives away.
pub(crate) enum Answer<'a, T> {
    Shared(&'a T),
    Owned(T),
}

impl<T> Deref for Answer<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        match self {
            Answer::Shared(value) => value,
            Answer::Owned(value) => value,
        }
    }
}

/// `price(7, 12)` for the task `price` and the input `(7, 12)`.
fn label<F, In: Debug>(_: &F, input: &In) -> String {
    let name = type_name::<F>().rsplit("::").next().unwrap_or_default();
    let input = format!("{input:?}");
    if input.starts_with('(') {
        format!("{name}{input}")
    } else {
        format!("{name}({input})")
    }
}

// --- drawing ---------------------------------------------------------------------------------------

/// The record as an indented tree: below a call that ran stand the calls its body made.
pub(crate) fn tree(record: &[Asked]) -> String {
    let mut out = String::new();
    branch(record, None, "  ", &mut out);
    out
}

fn branch(record: &[Asked], by: Option<&str>, indent: &str, out: &mut String) {
    let calls: Vec<_> = record
        .iter()
        .filter(|asked| asked.by.as_deref() == by)
        .collect();
    for (nth, asked) in calls.iter().enumerate() {
        let last = nth + 1 == calls.len();
        let (knot, rail) = match by {
            None => ("", ""),
            Some(_) if last => ("└─ ", "   "),
            Some(_) => ("├─ ", "│  "),
        };
        let line = format!("{indent}{knot}{}", asked.label);
        out.push_str(&match asked.answer {
            How::Ran => format!("{line:<52}ran {:>9.2} ms\n", asked.took.as_secs_f64() * 1e3),
            How::Joined => dim(&format!("{line:<52}joined the run under way")) + "\n",
            How::Hit => dim(&format!("{line:<52}was there")) + "\n",
        });
        if asked.answer == How::Ran {
            branch(record, Some(&asked.label), &format!("{indent}{rail}"), out);
        }
    }
}
