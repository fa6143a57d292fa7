//! The scene of most models: a context, a task that waits for an event, and callers that are polled
//! before the race and then moved into a thread of it.

use std::convert::Infallible;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use loom::cell::UnsafeCell;
use watershed::{BoxedCall, Ctx, Task, TaskErrorKind};

use crate::{Event, Tally, Value, poll_once};

/// The input of every call where a model has one key only.
pub const KEY: u64 = 7;

/// The state of the context.
#[derive(Debug)]
pub struct World {
    /// What is counted.
    pub tally: Arc<Tally>,
    /// One for each body that may be started.
    pub events: Arc<[Event]>,
}

/// A task whose nth body waits for the nth event, and gives its number.
///
/// # Errors
/// None.
pub async fn waiting(ctx: Ctx<World>, _: u64) -> Result<Value, Infallible> {
    let World { tally, events } = ctx.state();
    let body = tally.body();
    events[body.number].wait().await;
    Ok(tally.value(body.number))
}

/// A task whose bodies are ready at once.
///
/// # Errors
/// None.
pub async fn ready(ctx: Ctx<World>, _: u64) -> Result<Value, Infallible> {
    let body = ctx.state().tally.body();
    Ok(ctx.state().tally.value(body.number))
}

/// What a caller gets: the number of a value, or the kind of an error.
pub type Outcome = Result<usize, TaskErrorKind>;

/// A call with a handle of its own.
pub type Caller = Pin<Box<dyn Future<Output = Outcome> + Send>>;

/// A context and what is left to look at when it is gone.
#[derive(Debug)]
pub struct Scene {
    /// One handle of the user, whoever shares it: so a model does not branch on counts that it does not ask about.
    pub ctx: Arc<Ctx<World>>,
    /// What is counted.
    pub tally: Arc<Tally>,
    /// One for each body that may be started.
    pub events: Arc<[Event]>,
}

impl Scene {
    /// A context in which that many bodies may be started.
    #[must_use]
    pub fn new(bodies: usize) -> Self {
        let tally = Tally::new();
        let events: Arc<[Event]> = (0..bodies).map(|_| Event::default()).collect();
        let ctx = Arc::new(Ctx::new(World {
            tally: Arc::clone(&tally),
            events: Arc::clone(&events),
        }));
        Self { ctx, tally, events }
    }

    /// A caller of a task, not polled yet.
    #[must_use]
    pub fn call<F>(&self, task: F) -> Caller
    where
        F: Task<World, u64, Value = Value, Future: Send>,
    {
        let ctx = Arc::clone(&self.ctx);
        Box::pin(async move {
            let called = ctx.run(task, KEY).await;
            called
                .map(|value| value.number)
                .map_err(|error| error.kind())
        })
    }

    /// A caller of [`waiting`], not polled yet.
    #[must_use]
    pub fn caller(&self) -> Caller {
        self.call(waiting)
    }

    /// A caller of [`waiting`] that was polled once and waits.
    #[must_use]
    pub fn parked(&self) -> Caller {
        let mut caller = self.caller();
        assert!(poll_once(&mut caller).is_pending());
        caller
    }

    /// What a runtime would be given to run [`waiting`] in the background.
    #[must_use]
    pub fn boxed(&self) -> BoxedCall<World> {
        waiting.with(KEY).boxed()
    }

    /// The value of [`waiting`] that is there.
    #[must_use]
    pub fn peek(&self) -> Option<usize> {
        let there = self.ctx.peek(waiting, &KEY)?;
        Some(there.expect("it does not fail").number)
    }

    /// Asserts that no body is left, ends the context, and asserts that nothing is.
    pub fn end(self) {
        assert_eq!(self.tally.bodies(), 0, "a body is kept");
        let ctx = Arc::into_inner(self.ctx);
        drop(ctx.expect("all callers are gone"));
        self.tally.assert_nothing_left();
    }
}

static RACED: AtomicBool = AtomicBool::new(false);

/// Something that one thread at a time may have, and that the next one may only have if it knows of the one before.
#[derive(Debug)]
pub struct Exclusive(UnsafeCell<()>);

// SAFETY: there is nothing in it; loom reports accesses that race, which is what it is for.
unsafe impl Send for Exclusive {}
// SAFETY: as above.
unsafe impl Sync for Exclusive {}

impl Exclusive {
    /// A new one.
    #[must_use]
    pub fn new() -> Self {
        Self(UnsafeCell::new(()))
    }

    /// Has it for a moment.
    ///
    /// # Panics
    /// When somebody had it that this thread does not know of. The engine contains panics of bodies that are dropped, so [`explore`](crate::explore) asks as well.
    pub fn touch(&self) {
        let touched = catch_unwind(AssertUnwindSafe(|| self.0.with_mut(|_| {})));
        if let Err(payload) = touched {
            RACED.store(true, Relaxed);
            resume_unwind(payload);
        }
    }

    /// Whether any of them was raced for, in this process.
    pub fn raced() -> bool {
        RACED.load(Relaxed)
    }
}

impl Default for Exclusive {
    fn default() -> Self {
        Self::new()
    }
}
