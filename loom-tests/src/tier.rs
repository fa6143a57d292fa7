//! The scene of the models of the second tier: a tier whose runs the model drives and whose clock it sets. The map and the epochs are the
//! engine's stand-ins under `cfg(loom)`: a list under a lock, and pins counted under a lock for each entry; the places, locks, runs and bound are
//! its own.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use loom::cell::UnsafeCell;
use watershed::shared_model::{Driver, advance, drivers};
use watershed::{Ctx, Held, Shared, SharedBuilder, TaskErrorKind};

use crate::{Tally, Value, block_on, poll_once};

/// Of the clock that the model sets.
pub const SECOND: Duration = Duration::from_secs(1);

/// A value whose inside loom watches: who reads it without knowing of its making is reported.
#[derive(Debug)]
pub struct Watched(UnsafeCell<usize>, Value);

// SAFETY: it is written before it is shared; loom reports who reads it without being ordered after that.
unsafe impl Send for Watched {}
// SAFETY: as above.
unsafe impl Sync for Watched {}

impl Watched {
    /// Counted by `tally`.
    #[must_use]
    pub fn new(tally: &Arc<Tally>, number: usize) -> Self {
        Self(UnsafeCell::new(number), tally.value(number))
    }

    /// Reads it, all of it.
    #[must_use]
    pub fn number(&self) -> usize {
        // SAFETY: see the type.
        let number = self.0.with(|number| unsafe { *number });
        assert_eq!(number, self.1.number, "half a value");
        number
    }
}

/// Whose nth run gives n, ready at once.
///
/// # Errors
/// None.
pub async fn numbered(ctx: Ctx<Arc<Tally>>, _: u64) -> Result<Watched, Infallible> {
    let tally = ctx.state();
    let body = tally.body();
    Ok(Watched::new(tally, body.number))
}

/// Whose first run fails.
///
/// # Errors
/// The first time.
pub async fn fails_first(ctx: Ctx<Arc<Tally>>, _: u64) -> Result<Watched, String> {
    let tally = ctx.state();
    let body = tally.body();
    if body.number == 0 {
        return Err("the first one".to_owned());
    }
    Ok(Watched::new(tally, body.number))
}

/// A tier, and what is left to look at when it is gone.
#[derive(Debug)]
pub struct Tier {
    /// One handle, whoever shares it.
    pub shared: Arc<Shared<Arc<Tally>>>,
    /// What is counted.
    pub tally: Arc<Tally>,
}

/// What a caller gets.
pub type Outcome = Result<usize, TaskErrorKind>;

/// A call, not polled yet.
pub type Caller = Pin<Box<dyn Future<Output = Outcome> + Send>>;

impl Tier {
    /// Expires and refreshes as told, at exactly those times.
    #[must_use]
    pub fn new(set: impl FnOnce(SharedBuilder<Arc<Tally>>) -> SharedBuilder<Arc<Tally>>) -> Self {
        let tally = Tally::new();
        let builder = Shared::builder(Arc::clone(&tally)).jitter(0.0);
        Self {
            shared: Arc::new(set(builder).build()),
            tally,
        }
    }

    /// The same, for another thread.
    #[must_use]
    pub fn handle(&self) -> Self {
        Self {
            shared: Arc::clone(&self.shared),
            tally: Arc::clone(&self.tally),
        }
    }

    /// A caller of [`numbered`].
    #[must_use]
    pub fn caller(&self, key: u64) -> Caller {
        let shared = Arc::clone(&self.shared);
        Box::pin(async move {
            let called = shared.run(numbered, key).await;
            called
                .map(|value| value.number())
                .map_err(|error| error.kind())
        })
    }

    /// Calls, drives what that starts, and gives what the caller gets.
    ///
    /// # Errors
    /// As the call.
    pub fn call(&self, key: u64) -> Outcome {
        let mut caller = self.caller(key);
        if let std::task::Poll::Ready(outcome) = poll_once(&mut caller) {
            return outcome;
        }
        self.drive();
        block_on(caller)
    }

    /// The drivers of runs that were started.
    #[must_use]
    pub fn drivers(&self) -> Vec<Driver> {
        drivers(&self.shared)
    }

    /// Drives what was started, here.
    pub fn drive(&self) {
        for driver in self.drivers() {
            block_on(driver);
        }
    }

    /// Lets time pass.
    pub fn advance(&self, by: Duration) {
        advance(&self.shared, by);
    }

    /// Puts a value in that the tally counts.
    ///
    /// # Panics
    /// When there is one.
    pub fn prime(&self, key: u64, number: usize) {
        let value = Watched::new(&self.tally, number);
        assert!(self.shared.prime(numbered, key, value).is_ok());
    }

    /// What is there now.
    #[must_use]
    pub fn peek(&self, key: u64) -> Option<Held<Watched>> {
        let there = self.shared.peek(numbered, &key)?;
        Some(there.expect("it does not fail"))
    }

    /// Ends the tier and asserts that nothing is left.
    pub fn end(self) {
        self.drive();
        assert_eq!(self.tally.bodies(), 0, "a body is kept");
        assert_eq!(self.shared.stats().running, 0, "a run is kept");
        let shared = Arc::into_inner(self.shared);
        drop(shared.expect("all callers are gone"));
        self.tally.assert_nothing_left();
    }
}
