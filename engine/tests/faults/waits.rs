//! Threads that block on what they are to do themselves, and threads that are going down.

use crate::SMALL_STACK;
use crate::support::{Count, poll_once, poll_with, watched, watched_on};
use futures::FutureExt;
use futures::future::BoxFuture;
use std::cell::RefCell;
use std::future::{Ready, poll_fn, ready};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::task::{Poll, Wake, Waker};
use std::thread;
use watershed::{Ctx, TaskError};

// --- inside of a wake -------------------------------------------------------------------------------

/// A flag that one body waits for. Who sets it wakes the body there and then, under no lock.
#[derive(Default)]
struct Flag {
    set: AtomicBool,
    waker: Mutex<Option<Waker>>,
}

impl Flag {
    async fn wait(&self) {
        poll_fn(|cx| {
            *self.waker.lock().unwrap() = Some(cx.waker().clone());
            if self.set.load(SeqCst) {
                Poll::Ready(())
            } else {
                Poll::Pending
            }
        })
        .await;
    }

    fn set(&self) {
        self.set.store(true, SeqCst);
        let waker = self.waker.lock().unwrap().take();
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

#[derive(Default)]
struct Flags {
    first: Flag,
    second: Flag,
    got: Mutex<Option<u64>>,
}

async fn first(ctx: Ctx<Flags>, _: ()) -> Result<u64, TaskError> {
    ctx.state().first.wait().await;
    Ok(1)
}

async fn second(ctx: Ctx<Flags>, _: ()) -> Result<u64, TaskError> {
    ctx.state().second.wait().await;
    Ok(2)
}

async fn above_second(ctx: Ctx<Flags>, _: ()) -> Result<u64, TaskError> {
    Ok(*ctx.run(second, ()).await? + 1)
}

/// An executor that does its work inside of `wake`, and blocks there.
struct Inline(Ctx<Flags>);

impl Wake for Inline {
    fn wake(self: Arc<Self>) {
        let state = self.0.state();
        // Its wake waits in the queue of this thread, behind the one that we are in.
        state.second.set();
        let got = *self.0.run(above_second, ()).wait().unwrap();
        *state.got.lock().unwrap() = Some(got);
    }
}

#[test]
fn a_wait_inside_a_wake_makes_the_wakes_that_wait() {
    watched("a wait inside of a wake", || {
        let ctx = Ctx::new(Flags::default());
        let mut parked = ctx.run(above_second, ());
        assert!(poll_once(&mut parked).is_pending());
        let waker = Waker::from(Arc::new(Inline(ctx.clone())));
        let mut call = ctx.run(first, ());
        assert!(poll_with(&mut call, &waker).is_pending());
        ctx.state().first.set();
        assert_eq!(*ctx.state().got.lock().unwrap(), Some(3));
        assert_eq!(*parked.wait().unwrap(), 3);
        assert_eq!(*call.wait().unwrap(), 1);
    });
}

// --- inside of a drop -------------------------------------------------------------------------------

#[derive(Default)]
struct Chain {
    over: AtomicBool,
    answers: Count,
}

/// More than are dropped inside of one another.
const LEVELS: u64 = 50;

/// Asks, in its destructor, for the task that its body waited for.
struct Asks {
    ctx: Ctx<Chain>,
    next: u64,
}

impl Drop for Asks {
    fn drop(&mut self) {
        if self.ctx.run(chain, self.next).wait().is_ok() {
            self.ctx.state().answers.add();
        }
    }
}

fn chain(ctx: Ctx<Chain>, n: u64) -> BoxFuture<'static, Result<u64, TaskError>> {
    async move {
        if ctx.state().over.load(SeqCst) {
            return Ok(n);
        }
        if n == LEVELS {
            std::future::pending::<()>().await;
        }
        let _asks = Asks {
            ctx: ctx.clone(),
            next: n + 1,
        };
        ctx.run(chain, n + 1).await.copied()
    }
    .boxed()
}

#[test]
fn a_wait_inside_a_drop_does_the_drops_that_were_put_off() {
    watched("a wait inside of a drop", || {
        let ctx = Ctx::new(Chain::default());
        let mut call = ctx.run(chain, 0);
        assert!(poll_once(&mut call).is_pending());
        ctx.state().over.store(true, SeqCst);
        drop(call);
        assert_eq!(ctx.state().answers.get() as u64, LEVELS);
    });
}

// --- before the first await -------------------------------------------------------------------------

/// Not an async fn: all that it does, it does before there is a future.
fn blocks(ctx: Ctx<()>, n: u64) -> Ready<Result<u64, TaskError>> {
    ready(if n == 0 {
        Ok(0)
    } else {
        ctx.run(blocks, n - 1).wait().map(|below| below + 1)
    })
}

#[test]
fn a_chain_of_waits_before_the_first_await_has_stack() {
    watched_on("a chain of waits", SMALL_STACK, || {
        let ctx = Ctx::new(());
        assert_eq!(*ctx.run(blocks, 20_000).wait().unwrap(), 20_000);
    });
}

// --- on a thread that is going down -----------------------------------------------------------------

/// What a thread does when its locals go.
struct AtExit(Option<Box<dyn FnOnce()>>);

impl Drop for AtExit {
    fn drop(&mut self) {
        if let Some(last) = self.0.take() {
            last();
        }
    }
}

thread_local! {
    static AT_EXIT: RefCell<AtExit> = const { RefCell::new(AtExit(None)) };
}

fn at_exit(last: impl FnOnce() + 'static) {
    AT_EXIT.with(|at_exit| at_exit.borrow_mut().0 = Some(Box::new(last)));
}

async fn same(_: Ctx<()>, n: u64) -> Result<u64, TaskError> {
    Ok(n)
}

#[test]
fn the_first_wait_of_a_thread_may_come_from_a_destructor_of_its_locals() {
    for waits_before in [false, true] {
        let answers = Count::default();
        let ctx = Ctx::new(());
        let (ours, count) = (ctx.clone(), answers.clone());
        watched("a thread that waits as it ends", move || {
            let thread = thread::spawn(move || {
                let again = ours.clone();
                // First of all locals, so that it is the last to go.
                at_exit(move || {
                    if again.run(same, 2).wait().is_ok_and(|n| *n == 2) {
                        count.add();
                    }
                });
                if waits_before {
                    ours.run(same, 1).wait().unwrap();
                }
            });
            thread.join().unwrap();
        });
        assert_eq!(answers.get(), 1, "waits before: {waits_before}");
    }
}

#[cfg(feature = "tokio")]
#[test]
fn a_context_that_ends_with_the_locals_of_a_thread_drops_its_bodies() {
    use crate::support::{Drops, current_thread};

    async fn parks(ctx: Ctx<Drops>, _: ()) -> Result<(), TaskError> {
        let _body = ctx.state().token();
        std::future::pending().await
    }

    watched("a context that ends with a thread", || {
        let bodies = Drops::default();
        let runtime = current_thread();
        let ctx = Ctx::new(bodies.clone());
        runtime.block_on(async {
            ctx.spawn(parks, ()).unwrap();
            while bodies.made() == 0 {
                tokio::task::yield_now().await;
            }
        });
        let handle = runtime.handle().clone();
        thread::spawn(move || {
            at_exit(move || drop(ctx));
            // Made after ours, so it goes before: the body's own runtime cannot be entered then.
            drop(handle.enter());
        })
        .join()
        .unwrap();
        assert_eq!(bodies.live(), 0);
    });
}
