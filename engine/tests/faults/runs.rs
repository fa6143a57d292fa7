//! What a slot remembers of a run that is over: nothing that makes a difference to the next one.

use crate::support::{Count, Gate, now, poll_once, watched, watched_on};
use futures::FutureExt;
use futures::future::BoxFuture;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::task::{Context, Poll};
use watershed::{Ctx, TaskError, TaskErrorKind};

type Boxed = BoxFuture<'static, Result<u64, TaskError>>;

// --- a finished fresh run ---------------------------------------------------------------------------

#[derive(Default)]
struct Kept {
    /// The handle of a body that has ended.
    handle: Mutex<Option<Ctx<Kept>>>,
    gate: Gate,
    memoized: bool,
}

async fn keeps_its_handle(ctx: Ctx<Kept>, _: ()) -> Result<u64, TaskError> {
    *ctx.state().handle.lock().unwrap() = Some(ctx.clone());
    Ok(1)
}

/// Runs the one above to its end, and then waits for no task.
async fn below(ctx: Ctx<Kept>, _: ()) -> Result<u64, TaskError> {
    let got = if ctx.state().memoized {
        *ctx.run(keeps_its_handle, ()).await?
    } else {
        ctx.run_fresh(keeps_its_handle, ()).await?
    };
    ctx.state().gate.passed().await;
    Ok(got)
}

async fn above(ctx: Ctx<Kept>, _: ()) -> Result<u64, TaskError> {
    Ok(*ctx.run(below, ()).await? + 1)
}

#[test]
fn a_finished_fresh_run_is_in_no_cycle() {
    for memoized in [false, true] {
        watched("a call through a handle that was kept", move || {
            let ctx = Ctx::new(Kept {
                memoized,
                ..Kept::default()
            });
            let mut waits = ctx.run(below, ());
            assert!(poll_once(&mut waits).is_pending());
            let kept = ctx.state().handle.lock().unwrap().take().unwrap();
            let mut call = kept.run(above, ());
            // `below` waits for the gate alone: there is no way back from it.
            match poll_once(&mut call) {
                Poll::Pending => {}
                Poll::Ready(ended) => panic!("memoized: {memoized}: {ended:?}"),
            }
            ctx.state().gate.open();
            assert_eq!(*now(waits).unwrap(), 1);
            assert_eq!(*now(call).unwrap(), 2);
        });
    }
}

// --- a fresh run that is polled at two depths -------------------------------------------------------

#[derive(Default)]
struct Sends {
    sends: Count,
    levels: u64,
    /// A call that is polled at the bottom first, and then by the body at the top.
    handed_up: Mutex<Option<Boxed>>,
}

impl Sends {
    /// Polls the call until it has ended; once only, if it is not to be awaited.
    async fn poll_the_call(&self, to_its_end: bool) {
        poll_fn(|cx| {
            let mut call = self.handed_up.lock().unwrap();
            match call.as_mut().map(|call| call.poll_unpin(cx)) {
                Some(Poll::Pending) if to_its_end => Poll::Pending,
                Some(Poll::Pending) => Poll::Ready(()),
                Some(Poll::Ready(sent)) => {
                    sent.unwrap();
                    *call = None;
                    Poll::Ready(())
                }
                None => Poll::Ready(()),
            }
        })
        .await;
    }
}

async fn send(ctx: Ctx<Sends>, _: ()) -> Result<u64, TaskError> {
    Ok(ctx.state().sends.add() as u64)
}

fn down(ctx: Ctx<Sends>, n: u64) -> Boxed {
    async move {
        let state = ctx.state();
        if n == 0 {
            state.poll_the_call(false).await;
            return Ok(0);
        }
        if n < state.levels {
            return Ok(*ctx.run(down, n - 1).await? + 1);
        }
        let own = ctx.clone();
        let call = async move { own.run_fresh(send, ()).await };
        *state.handed_up.lock().unwrap() = Some(call.boxed());
        let mut inner = ctx.run(down, n - 1);
        let polled = futures::poll!(&mut inner);
        state.poll_the_call(true).await;
        let inner = match polled {
            Poll::Ready(inner) => inner,
            Poll::Pending => inner.await,
        };
        Ok(*inner? + 1)
    }
    .boxed()
}

#[test]
fn a_fresh_run_left_to_a_hop_runs_once() {
    // With room for all levels on the stack, so that the count alone makes a call hop: at one of these it is the call at the bottom.
    watched_on("levels", 32 << 20, || {
        for levels in 1..200 {
            let ctx = Ctx::new(Sends {
                levels,
                ..Sends::default()
            });
            assert_eq!(*ctx.run(down, levels).wait().unwrap(), levels);
            assert_eq!(ctx.state().sends.get(), 1, "{levels} levels");
        }
    });
}

// --- the depth of an earlier run --------------------------------------------------------------------

#[derive(Default)]
struct Deep {
    goes_on: AtomicBool,
}

async fn leaf(_: Ctx<Deep>, _: ()) -> Result<u64, TaskError> {
    Ok(1)
}

async fn middle(ctx: Ctx<Deep>, _: ()) -> Result<u64, TaskError> {
    if !ctx.state().goes_on.load(SeqCst) {
        std::future::pending::<()>().await;
    }
    Ok(*ctx.run(leaf, ()).await? + 1)
}

async fn top(ctx: Ctx<Deep>, _: ()) -> Result<u64, TaskError> {
    Ok(*ctx.run(middle, ()).await? + 1)
}

#[test]
fn a_run_restarted_less_deep_is_not_too_deep() {
    watched("restart", || {
        let ctx = Ctx::builder(Deep::default()).max_depth(1).build();
        for _ in 0..3 {
            let mut call = ctx.run(top, ());
            assert!(poll_once(&mut call).is_pending());
            // The client goes away, and the run below with it.
            drop(call);
        }
        ctx.state().goes_on.store(true, SeqCst);
        assert_eq!(*ctx.run(middle, ()).wait().unwrap(), 2);
    });
}

#[test]
fn a_run_restarted_deeper_is_too_deep() {
    watched("restart", || {
        let ctx = Ctx::builder(Deep::default()).max_depth(1).build();
        let mut call = ctx.run(middle, ());
        assert!(poll_once(&mut call).is_pending());
        drop(call);
        ctx.state().goes_on.store(true, SeqCst);
        let error = ctx.run(top, ()).wait().unwrap_err();
        assert_eq!(error.kind(), watershed::TaskErrorKind::TooDeep);
    });
}

/// A body whose destructor calls the next one, each after a panic.
struct Falls {
    ctx: Ctx<()>,
    n: u64,
}

impl Future for Falls {
    type Output = Result<u64, TaskError>;
    fn poll(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Self::Output> {
        std::panic::resume_unwind(Box::new("falls"));
    }
}

impl Drop for Falls {
    fn drop(&mut self) {
        if self.n > 0 {
            let below = now(self.ctx.run(falls, self.n - 1));
            assert_eq!(below.unwrap_err().kind(), TaskErrorKind::Panicked);
        }
    }
}

fn falls(ctx: Ctx<()>, n: u64) -> Falls {
    Falls { ctx, n }
}

#[test]
fn destructors_that_call_bodies_that_panic_have_stack() {
    watched_on("falls", 2 * 1024 * 1024, || {
        let ctx = Ctx::new(());
        let error = ctx.run(falls, 3_000).wait().unwrap_err();
        assert_eq!(error.kind(), TaskErrorKind::Panicked);
        assert!(ctx.peek(falls, &0).unwrap().is_err());
    });
}
