//! What the integration tests share: gates, wakers, runtimes, drop counters, a counting allocator.
//!
//! Nothing here sleeps: a test orders its steps with a [`Gate`], by polling by hand, or by yielding
//! until something is so ([`until`]). What may hang runs under a watchdog, so that a hang is a failure.

// Every test binary includes this file and uses a part of it.
#![allow(dead_code, unused_macros, unused_imports)]

use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::mpsc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread;
use std::time::Duration;

/// How long something may take before it counts as hung.
pub(crate) const HUNG: Duration = Duration::from_secs(60);

// --- runtimes --------------------------------------------------------------------------------------

/// Runs one test body on tokio's current-thread and on its multi-thread runtime.
pub(crate) fn both_runtimes<F, Fut>(body: F)
where
    F: Fn() -> Fut + Send + Sync + 'static,
    Fut: Future<Output = ()>,
{
    let body = Arc::new(body);
    let again = body.clone();
    watched("current-thread runtime", move || {
        current_thread().block_on(body())
    });
    watched("multi-thread runtime", move || {
        multi_thread().block_on(again())
    });
}

/// Runs one test body on both runtimes of tokio and on an executor that brings no runtime.
pub(crate) fn everywhere<F, Fut>(body: F)
where
    F: Fn() -> Fut + Send + Sync + 'static,
    Fut: Future<Output = ()>,
{
    let body = Arc::new(body);
    let again = body.clone();
    both_runtimes(move || again());
    watched("bare executor", move || futures::executor::block_on(body()));
}

/// A current-thread runtime.
pub(crate) fn current_thread() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
}

/// A runtime of four threads.
pub(crate) fn multi_thread() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(4)
        .enable_all()
        .build()
        .unwrap()
}

/// Runs `work` on a thread of its own, without a runtime; fails when it takes longer than [`HUNG`].
pub(crate) fn watched<T: Send + 'static>(
    what: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> T {
    watched_on(what, 2 << 20, work)
}

/// [`watched`], on a thread with a stack of `stack_bytes`.
pub(crate) fn watched_on<T: Send + 'static>(
    what: &str,
    stack_bytes: usize,
    work: impl FnOnce() -> T + Send + 'static,
) -> T {
    let (done, is_done) = mpsc::channel();
    let thread = thread::Builder::new()
        .name(what.to_owned())
        .stack_size(stack_bytes)
        .spawn(move || {
            let out = work();
            let _ = done.send(());
            out
        })
        .unwrap();
    if let Err(mpsc::RecvTimeoutError::Timeout) = is_done.recv_timeout(HUNG) {
        panic!("hung: {what}");
    }
    match thread.join() {
        Ok(out) => out,
        Err(payload) => std::panic::resume_unwind(payload),
    }
}

// --- order without sleeps --------------------------------------------------------------------------

/// A gate that tasks wait at until it is opened; it stays open. Works on any executor.
#[derive(Clone)]
pub(crate) struct Gate(Arc<tokio::sync::Semaphore>);

impl Gate {
    /// A gate that is shut.
    pub(crate) fn new() -> Gate {
        Gate(Arc::new(tokio::sync::Semaphore::new(0)))
    }

    /// Lets everyone through, now and later.
    pub(crate) fn open(&self) {
        self.0.close();
    }

    /// Waits until the gate is open.
    pub(crate) async fn passed(&self) {
        // A closed semaphore is an open gate.
        let _ = self.0.acquire().await;
    }
}

impl Default for Gate {
    fn default() -> Gate {
        Gate::new()
    }
}

/// Pending `times` times, waking itself each time.
pub(crate) async fn yields(times: usize) {
    for _ in 0..times {
        let mut seen = false;
        poll_fn(|cx| {
            if std::mem::replace(&mut seen, true) {
                return Poll::Ready(());
            }
            cx.waker().wake_by_ref();
            Poll::Pending
        })
        .await;
    }
}

/// Yields until `so` says true.
pub(crate) async fn until(mut so: impl FnMut() -> bool) {
    while !so() {
        tokio::task::yield_now().await;
        thread::yield_now();
    }
}

/// Polls once with a waker that does nothing.
pub(crate) fn poll_once<F: Future + Unpin>(future: &mut F) -> Poll<F::Output> {
    poll_with(future, Waker::noop())
}

/// Polls once with the given waker.
pub(crate) fn poll_with<F: Future + Unpin>(future: &mut F, waker: &Waker) -> Poll<F::Output> {
    Pin::new(future).poll(&mut Context::from_waker(waker))
}

/// The output of a future that must be ready on its first poll.
pub(crate) fn now<F: Future>(future: F) -> F::Output {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(out) => out,
        Poll::Pending => panic!("pending"),
    }
}

/// A waker that counts how often it is woken.
#[derive(Default)]
pub(crate) struct CountingWaker(AtomicUsize);

impl CountingWaker {
    /// The counter and a waker for it.
    pub(crate) fn pair() -> (Arc<CountingWaker>, Waker) {
        let counter = Arc::new(CountingWaker::default());
        (counter.clone(), Waker::from(counter))
    }

    /// How often it was woken so far.
    pub(crate) fn wakes(&self) -> usize {
        self.0.load(SeqCst)
    }
}

impl Wake for CountingWaker {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, SeqCst);
    }
}

// --- counters --------------------------------------------------------------------------------------

/// A number shared by a test and its tasks.
#[derive(Clone, Default, Debug)]
pub(crate) struct Count(Arc<AtomicUsize>);

impl Count {
    /// Adds one and gives the new number.
    pub(crate) fn add(&self) -> usize {
        self.0.fetch_add(1, SeqCst) + 1
    }

    /// The number now.
    pub(crate) fn get(&self) -> usize {
        self.0.load(SeqCst)
    }
}

/// Counts the [`Token`]s that it gave out and how many of them were dropped.
#[derive(Clone, Default, Debug)]
pub(crate) struct Drops {
    made: Count,
    dropped: Count,
}

impl Drops {
    /// A token that counts its drop, and fails when it is dropped twice.
    pub(crate) fn token(&self) -> Token {
        self.made.add();
        Token {
            of: self.clone(),
            gone: AtomicBool::new(false),
        }
    }

    /// Tokens made so far.
    pub(crate) fn made(&self) -> usize {
        self.made.get()
    }

    /// Tokens dropped so far.
    pub(crate) fn dropped(&self) -> usize {
        self.dropped.get()
    }

    /// Tokens that are alive.
    pub(crate) fn live(&self) -> usize {
        self.made() - self.dropped()
    }
}

/// Made by [`Drops::token`]; its clones are tokens of their own.
pub(crate) struct Token {
    of: Drops,
    gone: AtomicBool,
}

impl Clone for Token {
    fn clone(&self) -> Token {
        self.of.token()
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token")
    }
}

impl Drop for Token {
    fn drop(&mut self) {
        assert!(!self.gone.swap(true, SeqCst), "dropped twice");
        self.of.dropped.add();
    }
}

// --- allocations -----------------------------------------------------------------------------------

/// Installs a global allocator that counts, and `mod heap` with `allocations()` (made by this thread
/// so far) and `live_bytes()` (of the whole process).
macro_rules! counting_allocator {
    () => {
        mod heap {
            use std::alloc::{GlobalAlloc, Layout, System};
            use std::cell::Cell;
            use std::sync::atomic::{AtomicIsize, Ordering::Relaxed};

            struct Counting;

            #[global_allocator]
            static HEAP: Counting = Counting;
            static LIVE: AtomicIsize = AtomicIsize::new(0);
            thread_local! {
                static MADE: Cell<usize> = const { Cell::new(0) };
            }

            // SAFETY: every call goes to `System` unchanged; the counters allocate nothing.
            unsafe impl GlobalAlloc for Counting {
                unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
                    MADE.with(|made| made.set(made.get() + 1));
                    LIVE.fetch_add(layout.size() as isize, Relaxed);
                    // SAFETY: the caller keeps the contract of `alloc`.
                    unsafe { System.alloc(layout) }
                }

                unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
                    LIVE.fetch_sub(layout.size() as isize, Relaxed);
                    // SAFETY: `at` came from `System` by `alloc` above, with this layout.
                    unsafe { System.dealloc(at, layout) }
                }
            }

            /// Allocations made by this thread so far.
            pub(crate) fn allocations() -> usize {
                MADE.with(Cell::get)
            }

            /// Bytes allocated and not freed, by all threads.
            #[allow(dead_code)]
            pub(crate) fn live_bytes() -> isize {
                LIVE.load(Relaxed)
            }
        }
    };
}
pub(crate) use counting_allocator;
