//! What the models share. The models themselves are in `tests/`, one file for one question, and
//! drive the public API of the engine, whose atomics are loom's when it is built for them:
//!
//! ```text
//! RUSTFLAGS="--cfg loom" cargo test -p watershed-loom-tests --release
//! ```
//!
//! Without that cfg this crate has the schedules instead, which are deterministic and run on one thread; the models are empty.
//!
//! Rules for a model:
//! * At least two threads that race; what comes before the race is arranged before they start.
//! * One event for one body: loom's `AtomicWaker` holds one waker.
//! * Bookkeeping (`Tally`, `Seen`) is on std atomics: it adds no order and no branches, so a
//!   model cannot pass because of it.
//! * A model names its outcomes and asserts after the exploration that each was seen.

#[cfg(not(loom))]
pub mod batches;
#[cfg(loom)]
pub mod batching;
#[cfg(loom)]
pub mod scene;
#[cfg(not(loom))]
pub mod schedule;
#[cfg(loom)]
pub mod tier;

#[cfg(loom)]
use std::future::Future;
#[cfg(loom)]
use std::pin::pin;
#[cfg(loom)]
use std::sync::Arc;
#[cfg(loom)]
use std::sync::atomic::{AtomicUsize as StdAtomicUsize, Ordering::Relaxed};
#[cfg(loom)]
use std::task::{Context, Poll, Waker};

#[cfg(loom)]
use loom::future::AtomicWaker;
#[cfg(loom)]
use loom::sync::atomic::{AtomicBool, Ordering};

#[cfg(loom)]
/// Explores a model with at most `bound` preemptions, or `LOOM_MAX_PREEMPTIONS` if that is set, and
/// prints how many executions there were.
pub fn explore(bound: usize, model: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    let bound = builder.preemption_bound.unwrap_or(bound);
    builder.preemption_bound = Some(bound);
    builder.max_branches = builder.max_branches.max(5_000);
    let executions = Arc::new(StdAtomicUsize::new(0));
    builder.check({
        let executions = Arc::clone(&executions);
        move || {
            executions.fetch_add(1, Relaxed);
            model();
            assert!(!scene::Exclusive::raced(), "a body was raced for");
        }
    });
    println!(
        "{} executions with at most {bound} preemptions",
        executions.load(Relaxed)
    );
}

#[cfg(loom)]
/// Something that happens once and that one body waits for.
#[derive(Debug, Default)]
pub struct Event {
    happened: AtomicBool,
    waiter: AtomicWaker,
}

#[cfg(loom)]
impl Event {
    /// Lets it happen and wakes the body.
    pub fn fire(&self) {
        // A read-modify-write: loom keeps only a partial order between a plain store and others.
        self.happened.swap(true, Ordering::AcqRel);
        self.waiter.wake();
    }

    /// Waits until it has happened.
    pub async fn wait(&self) {
        std::future::poll_fn(|cx| {
            self.waiter.register_by_ref(cx.waker());
            if self.happened.load(Ordering::Acquire) {
                Poll::Ready(())
            } else {
                Poll::Pending
            }
        })
        .await;
    }
}

#[cfg(loom)]
/// Returns to whoever polls, once, having asked to be polled again.
pub async fn yield_once() {
    let mut yielded = false;
    std::future::poll_fn(|cx| {
        if yielded {
            return Poll::Ready(());
        }
        yielded = true;
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

#[cfg(loom)]
/// Polls a future to its end on this thread, which sleeps in between.
pub fn block_on<F: Future>(future: F) -> F::Output {
    loom::future::block_on(future)
}

#[cfg(loom)]
/// Polls a future once, with a waker that wakes nobody.
pub fn poll_once<F: Future + Unpin>(mut future: F) -> Poll<F::Output> {
    pin!(&mut future).poll(&mut Context::from_waker(Waker::noop()))
}

#[cfg(loom)]
/// Polls a future to its end in a thread of its own.
pub fn go<F>(future: F) -> loom::thread::JoinHandle<F::Output>
where
    F: Future<Output: Send> + Send + 'static,
{
    loom::thread::spawn(move || block_on(future))
}

#[cfg(loom)]
/// Counts what the engine must do a certain number of times in each execution.
#[derive(Debug, Default)]
pub struct Tally {
    starts: StdAtomicUsize,
    ends: StdAtomicUsize,
    values_made: StdAtomicUsize,
    values_dropped: StdAtomicUsize,
    passed: StdAtomicUsize,
}

#[cfg(loom)]
impl Tally {
    /// A fresh one.
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// A body begins. It ends when what is returned is dropped.
    #[must_use]
    pub fn body(self: &Arc<Self>) -> Body {
        Body {
            number: self.starts.fetch_add(1, Relaxed),
            tally: Arc::clone(self),
            claim: scene::Exclusive::new(),
        }
    }

    /// A value that is counted.
    #[must_use]
    pub fn value(self: &Arc<Self>, number: usize) -> Value {
        self.values_made.fetch_add(1, Relaxed);
        Value {
            number,
            tally: Arc::clone(self),
        }
    }

    /// A body has come to the place that the model asks about.
    pub fn pass(&self) {
        self.passed.fetch_add(1, Relaxed);
    }

    /// Whether any body has.
    pub fn passed(&self) -> bool {
        self.passed.load(Relaxed) > 0
    }

    /// Bodies begun.
    pub fn starts(&self) -> usize {
        self.starts.load(Relaxed)
    }

    /// Bodies that are there.
    pub fn bodies(&self) -> usize {
        self.starts() - self.ends.load(Relaxed)
    }

    /// Values made.
    pub fn made(&self) -> usize {
        self.values_made.load(Relaxed)
    }

    /// Values that are there.
    pub fn values(&self) -> usize {
        self.values_made.load(Relaxed) - self.values_dropped.load(Relaxed)
    }

    /// Asserts that every body and value is gone, dropped once.
    pub fn assert_nothing_left(&self) {
        assert_eq!(
            self.starts(),
            self.ends.load(Relaxed),
            "bodies begun and dropped"
        );
        assert_eq!(
            self.values_made.load(Relaxed),
            self.values_dropped.load(Relaxed),
            "values made and dropped"
        );
    }
}

#[cfg(loom)]
/// A body under way.
#[derive(Debug)]
pub struct Body {
    /// How many began before it.
    pub number: usize,
    tally: Arc<Tally>,
    claim: scene::Exclusive,
}

#[cfg(loom)]
impl Body {
    /// Says that the body is being polled: loom reports a poll or a drop that races with it.
    pub fn polled(&self) {
        self.claim.touch();
    }
}

#[cfg(loom)]
impl Drop for Body {
    fn drop(&mut self) {
        self.claim.touch();
        self.tally.ends.fetch_add(1, Relaxed);
    }
}

#[cfg(loom)]
/// What a body gives.
#[derive(Debug)]
pub struct Value {
    /// What it was made with.
    pub number: usize,
    tally: Arc<Tally>,
}

#[cfg(loom)]
impl Drop for Value {
    fn drop(&mut self) {
        self.tally.values_dropped.fetch_add(1, Relaxed);
    }
}

#[cfg(loom)]
/// The outcomes that the executions of a model came to.
#[derive(Debug, Default)]
pub struct Seen(StdAtomicUsize);

#[cfg(loom)]
impl Seen {
    /// None so far.
    pub const fn new() -> Self {
        Self(StdAtomicUsize::new(0))
    }

    /// This execution came to that outcome (counted from 0).
    pub fn mark(&self, outcome: usize) {
        self.0.fetch_or(1 << outcome, Relaxed);
    }

    /// Asserts that each of so many outcomes was seen: the race is a race.
    pub fn assert_all(&self, outcomes: usize) {
        let seen = self.0.load(Relaxed);
        assert_eq!(seen, (1 << outcomes) - 1, "outcomes seen, as bits");
    }
}
