//! Deadlines and tokens whose runtime cannot watch them: gone, going, or without timers.

use crate::support::{
    CountingWaker, Drops, Gate, Token, current_thread, multi_thread, now, poll_once, poll_with,
    watched,
};
use std::future::{Future, pending};
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::runtime::{Builder, Handle, Runtime};
use tokio_util::sync::CancellationToken;
use watershed::{Ctx, TaskError, TaskErrorKind};

const FAR: Duration = Duration::from_secs(3600);

struct App {
    gate: Gate,
    _state: Token,
}

impl App {
    fn new(drops: &Drops) -> App {
        App {
            gate: Gate::new(),
            _state: drops.token(),
        }
    }
}

async fn parks(_: Ctx<App>, _: ()) -> Result<(), TaskError> {
    pending().await
}

async fn parks_below(ctx: Ctx<App>, _: ()) -> Result<(), TaskError> {
    ctx.state().gate.passed().await;
    ctx.run(parks, ()).await.copied()
}

/// The handle of a runtime that is shut down.
fn gone(runtime: Runtime) -> Handle {
    runtime.handle().clone()
}

#[test]
fn arming_on_a_runtime_that_is_shut_down_says_so() {
    for runtime in [current_thread, multi_thread] {
        watched("a deadline in a runtime that is gone", move || {
            let drops = Drops::default();
            let handle = gone(runtime());
            let _inside = handle.enter();
            for ctx in [
                Ctx::builder(App::new(&drops)).deadline(FAR).build(),
                Ctx::builder(App::new(&drops))
                    .cancellation(CancellationToken::new())
                    .build(),
            ] {
                for _ in 0..2 {
                    let error = ctx.run(parks, ()).wait().unwrap_err();
                    assert_eq!(error.kind(), TaskErrorKind::NoRuntime);
                    assert!(!ctx.is_cancelled());
                }
            }
            assert_eq!(drops.live(), 0);
        });
    }
}

#[test]
fn a_body_that_waits_when_its_runtime_is_gone_is_told() {
    watched("a body whose runtime is gone", || {
        let drops = Drops::default();
        let ctx = Ctx::builder(App::new(&drops)).deadline(FAR).build();
        let first = current_thread();
        let mut call = ctx.run(parks_below, ());
        {
            let _inside = first.enter();
            assert!(poll_once(&mut call).is_pending());
        }
        drop(first);
        ctx.state().gate.open();
        // Driven from another runtime, the body is polled inside its own.
        let error = current_thread().block_on(call).unwrap_err();
        assert_eq!(error.kind(), TaskErrorKind::NoRuntime);
        drop(ctx);
        assert_eq!(drops.live(), 0);
    });
}

#[test]
fn a_deadline_on_a_runtime_without_timers_says_so() {
    for builder in [Builder::new_current_thread, Builder::new_multi_thread] {
        watched("a deadline without timers", move || {
            let drops = Drops::default();
            let runtime = builder().worker_threads(1).build().unwrap();
            let ctx = Ctx::builder(App::new(&drops)).deadline(FAR).build();
            let error = runtime.block_on(ctx.run(parks, ())).unwrap_err();
            assert_eq!(error.kind(), TaskErrorKind::NoRuntime);
            // It is for the call: where there are timers the context goes on.
            let timed = current_thread();
            let _inside = timed.enter();
            let mut call = ctx.run(parks, ());
            assert!(poll_once(&mut call).is_pending());
            drop(call);
            drop(ctx);
            assert_eq!(drops.live(), 0);
        });
    }
}

#[test]
fn a_token_needs_no_timers() {
    watched("a token without timers", || {
        let drops = Drops::default();
        let runtime = Builder::new_current_thread().build().unwrap();
        let token = CancellationToken::new();
        let ctx = Ctx::builder(App::new(&drops))
            .cancellation(token.clone())
            .build();
        let error = runtime.block_on(async {
            let mut call = ctx.run(parks, ());
            assert!(poll_once(&mut call).is_pending());
            token.cancel();
            call.await.unwrap_err()
        });
        assert_eq!(error.kind(), TaskErrorKind::Cancelled);
    });
}

/// One call arms the watcher on a runtime, another one waits on a second runtime, and the first goes. Then `ends` happens.
fn outlives_the_first_runtime(ctx: &Ctx<App>, ends: impl FnOnce()) -> TaskErrorKind {
    let first = current_thread();
    // Its clock goes on to the deadline when there is nothing else to do.
    let second = Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build()
        .unwrap();
    let mut arms = ctx.run(parks, ());
    {
        let _inside = first.enter();
        assert!(poll_once(&mut arms).is_pending());
    }
    let (wakes, waker) = CountingWaker::pair();
    let mut waits = ctx.run(parks, ());
    {
        let _inside = second.enter();
        assert!(poll_with(&mut waits, &waker).is_pending());
    }
    assert_eq!(wakes.wakes(), 0);
    drop(first);
    assert_eq!(wakes.wakes(), 1, "who waits looks after the watch");
    second.block_on(async {
        // Woken, it is polled, and starts a watch of its own.
        assert!(poll_with(&mut waits, &waker).is_pending());
        ends();
        waits.await.unwrap_err().kind()
    })
}

#[test]
fn a_token_outlives_the_runtime_of_its_watcher() {
    watched("a token on two runtimes", || {
        let drops = Drops::default();
        let token = CancellationToken::new();
        let ctx = Ctx::builder(App::new(&drops))
            .cancellation(token.clone())
            .build();
        let kind = outlives_the_first_runtime(&ctx, || token.cancel());
        assert_eq!(kind, TaskErrorKind::Cancelled);
        drop(ctx);
        assert_eq!(drops.live(), 0);
    });
}

#[test]
fn a_deadline_outlives_the_runtime_of_its_watcher() {
    watched("a deadline on two runtimes", || {
        let drops = Drops::default();
        let ctx = Ctx::builder(App::new(&drops)).deadline(FAR).build();
        let kind = outlives_the_first_runtime(&ctx, || {});
        assert_eq!(kind, TaskErrorKind::DeadlineExceeded);
        drop(ctx);
        assert_eq!(drops.live(), 0);
    });
}

// --- a body that has ended --------------------------------------------------------------------------

/// Says, when it goes, whether it goes inside a runtime.
struct Inside(Arc<Mutex<Option<bool>>>);

impl Drop for Inside {
    fn drop(&mut self) {
        *self.0.lock().unwrap() = Some(Handle::try_current().is_ok());
    }
}

/// A future by hand: its fields go when it does, not when it is ready.
struct Body {
    polled: bool,
    panics: bool,
    _inside: Inside,
}

impl Future for Body {
    type Output = Result<(), TaskError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        if !std::mem::replace(&mut self.polled, true) {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        assert!(!self.panics, "the body panics");
        Poll::Ready(Ok(()))
    }
}

fn by_hand(ctx: Ctx<Arc<Mutex<Option<bool>>>>, panics: bool) -> Body {
    Body {
        polled: false,
        panics,
        _inside: Inside(ctx.state().clone()),
    }
}

#[test]
fn a_body_that_has_ended_is_dropped_inside_its_runtime() {
    for panics in [false, true] {
        watched("a body that ends elsewhere", move || {
            let runtime = current_thread();
            let ctx = Ctx::new(Arc::default());
            let mut call = ctx.run(by_hand, panics);
            {
                let _inside = runtime.enter();
                assert!(poll_once(&mut call).is_pending());
            }
            // This thread is in no runtime any more.
            assert_eq!(now(call).is_err(), panics);
            assert_eq!(*ctx.state().lock().unwrap(), Some(true), "panics: {panics}");
        });
    }
}
