//! Who polls: by hand with a waker that does nothing, a crowd whose wakers are told apart, or tokio.

use std::cell::RefCell;
use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::{Arc, LazyLock, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

use tokio::runtime::Runtime;

use crate::Runner;

/// Polls a future that is ready at once, and takes what it gives.
///
/// # Panics
///
/// If the future is not ready on its first poll.
#[inline(always)] // as an await is, in the body of an async fn
pub fn ready<F: Future>(future: F) -> F::Output {
    match poll(pin!(future)) {
        Poll::Ready(output) => output,
        Poll::Pending => panic!("it waited; in this workload all bodies are ready at once"),
    }
}

#[inline(always)]
pub(crate) fn poll<F: Future>(future: Pin<&mut F>) -> Poll<F::Output> {
    future.poll(&mut Context::from_waker(Waker::noop()))
}

/// Polls a future until it is ready. Whatever it waits for must come from its own polls.
#[inline(always)]
pub(crate) fn poll_to_end<F: Future>(future: F) -> F::Output {
    let mut future = pin!(future);
    loop {
        if let Poll::Ready(output) = poll(future.as_mut()) {
            return output;
        }
    }
}

/// Pending once, having woken its waker: what a body does that is told to wait for a moment.
#[derive(Default)]
pub(crate) struct YieldOnce(bool);

impl Future for YieldOnce {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if self.0 {
            return Poll::Ready(());
        }
        self.0 = true;
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

/// What a body waits for until someone opens it. It knows one waker: only one poller waits at it at a time.
#[derive(Clone, Default)]
pub(crate) struct Gate(Arc<Mutex<(bool, Option<Waker>)>>);

impl Gate {
    pub(crate) async fn passed(self) {
        std::future::poll_fn(|cx| {
            let mut gate = self.0.lock().unwrap();
            if gate.0 {
                return Poll::Ready(());
            }
            match &mut gate.1 {
                Some(waker) => waker.clone_from(cx.waker()),
                none => *none = Some(cx.waker().clone()),
            }
            Poll::Pending
        })
        .await;
    }

    pub(crate) fn open(&self) {
        let waker = {
            let mut gate = self.0.lock().unwrap();
            gate.0 = true;
            gate.1.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

thread_local! {
    /// Whose waker was woken on this thread, in order.
    static WOKEN: RefCell<Vec<usize>> = const { RefCell::new(Vec::new()) };
}

struct Member(usize);

impl Wake for Member {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        WOKEN.with_borrow_mut(|woken| woken.push(self.0));
    }
}

/// The least executor that polls only what was woken: a queue, and a waker for each of its futures.
pub(crate) struct Crowd(Vec<Waker>);

impl Crowd {
    pub(crate) fn new(members: usize) -> Self {
        Self((0..members).map(|i| Arc::new(Member(i)).into()).collect())
    }

    /// Polls every future once; then `open` is called, and those that are woken are polled until all are done. `take` gets the
    /// outputs as they come.
    pub(crate) fn drive<F: Future>(
        &self,
        futures: impl Iterator<Item = F>,
        open: impl FnOnce(),
        mut take: impl FnMut(F::Output),
    ) {
        let mut futures: Vec<Option<F>> = futures.map(Some).collect();
        let mut left = futures.len();
        let mut poll = |i: usize| {
            let Some(future) = &mut futures[i] else {
                return false;
            };
            // SAFETY: the vector is not touched as a whole until it is dropped, and an entry is set to `None` in its place.
            let future = unsafe { Pin::new_unchecked(future) };
            let done = match future.poll(&mut Context::from_waker(&self.0[i])) {
                Poll::Ready(output) => {
                    take(output);
                    true
                }
                Poll::Pending => false,
            };
            if done {
                futures[i] = None;
            }
            done
        };
        for i in 0..left {
            assert!(!poll(i), "somebody did not wait");
        }
        open();
        let mut woken = Vec::new();
        while left > 0 {
            WOKEN.with_borrow_mut(|queue| std::mem::swap(queue, &mut woken));
            assert!(!woken.is_empty(), "{left} of them sleep for ever");
            for i in woken.drain(..) {
                left -= usize::from(poll(i));
            }
        }
        WOKEN.with_borrow_mut(Vec::clear);
    }
}

/// The runtime of all workloads that say so: two workers.
pub(crate) fn runtime() -> &'static Runtime {
    static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| {
        tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_time()
            .build()
            .expect("no threads for the runtime")
    });
    &RUNTIME
}

impl Runner {
    /// `op` does the `i`th operation in a task of [`runtime`], one after another.
    pub(crate) fn on_tokio<F>(op: impl Fn(u64) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = u64> + Send,
    {
        let op = Arc::new(op);
        Self::timed(move |operations| {
            let op = Arc::clone(&op);
            let run: tokio::task::JoinHandle<(u64, Duration)> = runtime().spawn(async move {
                let start = Instant::now();
                let mut sum = 0u64;
                for i in 0..operations {
                    sum = sum.wrapping_add(op(i).await);
                }
                (sum, start.elapsed())
            });
            runtime().block_on(run).expect("a workload panicked")
        })
    }
}
