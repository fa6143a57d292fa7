//! The scene of the models of batches: a context, two batch functions, and callers that are polled before the race and then moved
//! into a thread of it.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex};

use watershed::{Ctx, TaskErrorKind};

use crate::{Event, Tally, Value, poll_once};

/// The state of the context.
#[derive(Debug)]
pub struct World {
    /// What is counted.
    pub tally: Arc<Tally>,
    /// One for each batch that may be started.
    pub events: Arc<[Event]>,
    /// What was asked for, batch by batch, sorted.
    asked: Mutex<Vec<Vec<u64>>>,
}

impl World {
    fn ask(&self, keys: &[u64]) {
        let mut keys = keys.to_vec();
        keys.sort_unstable();
        self.asked.lock().unwrap().push(keys);
    }
}

/// A batch function that is ready at once.
///
/// # Errors
/// None.
pub async fn ready(ctx: Ctx<World>, keys: Vec<u64>) -> Result<Vec<(u64, Value)>, Infallible> {
    let _body = ctx.state().tally.body();
    ctx.state().ask(&keys);
    let value = |k| (k, ctx.state().tally.value(k as usize));
    Ok(keys.into_iter().map(value).collect())
}

/// A batch function whose nth body waits for the nth event.
///
/// # Errors
/// None.
pub async fn waiting(ctx: Ctx<World>, keys: Vec<u64>) -> Result<Vec<(u64, Value)>, Infallible> {
    let World { tally, events, .. } = ctx.state();
    let body = tally.body();
    ctx.state().ask(&keys);
    events[body.number].wait().await;
    body.polled();
    let value = |k| (k, tally.value(k as usize));
    Ok(keys.into_iter().map(value).collect())
}

/// What a caller gets: the number of a value, which is its key, or the kind of an error.
pub type Outcome = Result<usize, TaskErrorKind>;

/// A call with a handle of its own.
pub type Caller = Pin<Box<dyn Future<Output = Outcome> + Send>>;

/// A context and what is left to look at when it is gone.
#[derive(Debug)]
pub struct Batching {
    /// One handle of the user, whoever shares it: so a model does not branch on counts that it does not ask about.
    pub ctx: Arc<Ctx<World>>,
    /// What is counted.
    pub tally: Arc<Tally>,
    /// One for each batch that may be started.
    pub events: Arc<[Event]>,
}

impl Batching {
    /// A context in which that many batches wait.
    #[must_use]
    pub fn new(batches: usize) -> Self {
        let tally = Tally::new();
        let events: Arc<[Event]> = (0..batches).map(|_| Event::default()).collect();
        let ctx = Arc::new(Ctx::new(World {
            tally: Arc::clone(&tally),
            events: Arc::clone(&events),
            asked: Mutex::default(),
        }));
        Self { ctx, tally, events }
    }

    /// A caller of [`ready`], not polled yet.
    #[must_use]
    pub fn ready(&self, key: u64) -> Caller {
        let ctx = Arc::clone(&self.ctx);
        Box::pin(async move {
            let loaded = ctx.load(ready, key).await;
            loaded.map(|v| v.unwrap().number).map_err(|e| e.kind())
        })
    }

    /// A caller of [`waiting`], not polled yet.
    #[must_use]
    pub fn waiting(&self, key: u64) -> Caller {
        let ctx = Arc::clone(&self.ctx);
        Box::pin(async move {
            let loaded = ctx.load(waiting, key).await;
            loaded.map(|v| v.unwrap().number).map_err(|e| e.kind())
        })
    }

    /// Whether the value of a key of [`waiting`] is there.
    #[must_use]
    pub fn has(&self, key: u64) -> bool {
        self.ctx.peek_loaded(waiting, &key).is_some()
    }

    /// What was asked for so far, batch by batch, sorted.
    #[must_use]
    pub fn asked(&self) -> Vec<Vec<u64>> {
        let mut asked = self.ctx.state().asked.lock().unwrap().clone();
        asked.sort();
        asked
    }

    /// Asserts that no body is left, ends the context, and asserts that nothing is.
    pub fn end(self) {
        assert_eq!(self.tally.bodies(), 0, "a body is kept");
        let ctx = Arc::into_inner(self.ctx);
        drop(ctx.expect("all callers are gone"));
        self.tally.assert_nothing_left();
    }
}

/// Polls a caller so many times, with a waker that wakes nobody; it must wait after each.
#[must_use]
pub fn polled(mut caller: Caller, times: usize) -> Caller {
    for _ in 0..times {
        assert!(poll_once(&mut caller).is_pending());
    }
    caller
}
