//! A context is closed while another thread calls: does the caller always return, with a value or
//! with `Cancelled`, and does nothing stay behind?
//!
//! Explored with at most 3 preemptions; 2 where an event, a body's handle or a poll under way meets it, and 1 where
//! two threads sleep and a third closes (`LOOM_MAX_PREEMPTIONS=2` takes two minutes there). The outcomes
//! are the value and the error.
#![cfg(loom)]

use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::task::Poll;

use loom::thread;
use watershed::{Ctx, TaskError, TaskErrorKind};
use watershed_loom_tests::{Event, Seen, Tally, Value, block_on, explore, poll_once};

struct World {
    tally: Arc<Tally>,
    event: Arc<Event>,
    /// Where a body leaves its own handle, which does not keep the context open.
    handle: Arc<Mutex<Option<Ctx<World>>>>,
}

async fn ready(ctx: Ctx<World>, n: u64) -> Result<Value, Infallible> {
    let _body = ctx.state().tally.body();
    Ok(ctx.state().tally.value(n as usize))
}

async fn waiting(ctx: Ctx<World>, n: u64) -> Result<Value, Infallible> {
    let _body = ctx.state().tally.body();
    ctx.state().event.wait().await;
    Ok(ctx.state().tally.value(n as usize))
}

async fn leave_handle(ctx: Ctx<World>, (): ()) -> Result<(), Infallible> {
    let place = Arc::clone(&ctx.state().handle);
    *place.lock().unwrap() = Some(ctx);
    Ok(())
}

/// A context and what is left to look at when it is gone.
struct Scene {
    ctx: Ctx<World>,
    tally: Arc<Tally>,
    event: Arc<Event>,
    handle: Arc<Mutex<Option<Ctx<World>>>>,
}

impl Scene {
    fn new() -> Self {
        let (tally, event, handle) = (Tally::new(), Arc::<Event>::default(), Arc::default());
        let ctx = Ctx::new(World {
            tally: Arc::clone(&tally),
            event: Arc::clone(&event),
            handle: Arc::clone(&handle),
        });
        Self {
            ctx,
            tally,
            event,
            handle,
        }
    }

    /// A handle that a body had.
    fn body_handle(&self) -> Ctx<World> {
        block_on(self.ctx.run(leave_handle, ())).unwrap();
        self.handle.lock().unwrap().take().unwrap()
    }
}

/// 0 for the value, 1 for `Cancelled`.
fn outcome(result: Result<&Value, TaskError>) -> usize {
    match result {
        Ok(value) => {
            assert_eq!(value.number, 7);
            0
        }
        Err(error) => {
            assert_eq!(error.kind(), TaskErrorKind::Cancelled);
            1
        }
    }
}

#[test]
fn cancel_against_a_first_call() {
    static SEEN: Seen = Seen::new();
    explore(3, || {
        let Scene { ctx, tally, .. } = Scene::new();
        let caller = thread::spawn({
            let ctx = ctx.clone();
            move || outcome(block_on(ctx.run(ready, 7)))
        });
        let canceller = thread::spawn({
            let ctx = ctx.clone();
            move || ctx.cancel()
        });
        let seen = caller.join().unwrap();
        canceller.join().unwrap();
        SEEN.mark(seen);

        // Whoever saw a value was right: it is stored. After an error there is none.
        assert_eq!(ctx.peek(ready, &7).is_some(), seen == 0);
        assert_eq!(outcome(block_on(ctx.run(ready, 7))), seen);
        assert_eq!(tally.bodies(), 0);
        drop(ctx);
        tally.assert_nothing_left();
    });
    SEEN.assert_all(2);
}

/// `callers` threads wait for an event that nobody fires: only the cancellation can end this.
fn cancel_against<const CALLERS: usize>() {
    let Scene { ctx, tally, .. } = Scene::new();
    let callers = [(); CALLERS].map(|()| {
        let ctx = ctx.clone();
        thread::spawn(move || outcome(block_on(ctx.run(waiting, 7))))
    });
    ctx.cancel();
    for caller in callers {
        assert_eq!(caller.join().unwrap(), 1);
    }
    assert_eq!(tally.bodies(), 0, "a cancelled body is kept");
    drop(ctx);
    tally.assert_nothing_left();
}

#[test]
fn cancel_against_a_caller_that_waits() {
    explore(3, cancel_against::<1>);
}

#[test]
fn cancel_against_two_callers_that_wait() {
    explore(1, cancel_against::<2>);
}

#[test]
fn cancel_against_an_event() {
    static SEEN: Seen = Seen::new();
    explore(2, || {
        let Scene {
            ctx, tally, event, ..
        } = Scene::new();
        let caller = thread::spawn({
            let ctx = ctx.clone();
            move || outcome(block_on(ctx.run(waiting, 7)))
        });
        let firing = thread::spawn(move || event.fire());
        ctx.cancel();
        let seen = caller.join().unwrap();
        firing.join().unwrap();
        SEEN.mark(seen);

        assert_eq!(ctx.peek(waiting, &7).is_some(), seen == 0);
        assert_eq!(tally.bodies(), 0, "a cancelled body is kept");
        drop(ctx);
        tally.assert_nothing_left();
    });
    SEEN.assert_all(2);
}

#[test]
fn cancel_takes_the_body_of_a_caller_that_is_not_polled() {
    explore(3, || {
        let Scene { ctx, tally, .. } = Scene::new();
        let mut kept = ctx.run(waiting, 7);
        assert!(poll_once(&mut kept).is_pending());
        let canceller = thread::spawn({
            let ctx = ctx.clone();
            move || ctx.cancel()
        });
        let other = thread::spawn({
            let ctx = ctx.clone();
            move || outcome(block_on(ctx.run(waiting, 7)))
        });
        canceller.join().unwrap();
        assert_eq!(other.join().unwrap(), 1);
        assert_eq!(tally.bodies(), 0, "a caller that sleeps keeps the body");
        assert_eq!(outcome(block_on(kept)), 1);
        drop(ctx);
        tally.assert_nothing_left();
    });
}

/// The call is polled once, in the race, and is alive when all is over.
#[test]
fn cancel_during_a_poll_takes_the_body() {
    explore(2, || {
        let Scene { ctx, tally, .. } = Scene::new();
        let cancellers = [0, 1].map(|_| {
            let ctx = ctx.clone();
            thread::spawn(move || ctx.cancel())
        });
        let mut kept = ctx.run(waiting, 7);
        let early = poll_once(&mut kept).map(outcome);
        assert!(matches!(early, Poll::Pending | Poll::Ready(1)));
        for canceller in cancellers {
            canceller.join().unwrap();
        }
        assert_eq!(tally.bodies(), 0, "a body that was being polled is kept");
        if early.is_pending() {
            assert_eq!(poll_once(&mut kept).map(outcome), Poll::Ready(1));
        }
        drop(kept);
        drop(ctx);
        tally.assert_nothing_left();
    });
}

#[test]
fn last_user_handle_against_a_call_through_a_bodys_handle() {
    static SEEN: Seen = Seen::new();
    explore(3, || {
        let scene = Scene::new();
        let handle = scene.body_handle();
        let Scene { ctx, tally, .. } = scene;
        let caller = thread::spawn(move || outcome(block_on(handle.run(ready, 7))));
        let closer = thread::spawn(move || drop(ctx));
        SEEN.mark(caller.join().unwrap());
        closer.join().unwrap();
        // The last handle of any kind is gone, whichever thread had it.
        tally.assert_nothing_left();
    });
    SEEN.assert_all(2);
}

#[test]
fn last_user_handle_against_a_wait_through_a_bodys_handle() {
    explore(2, || {
        let scene = Scene::new();
        let handle = scene.body_handle();
        let Scene { ctx, tally, .. } = scene;
        let caller = thread::spawn(move || outcome(block_on(handle.run(waiting, 7))));
        let closer = thread::spawn(move || drop(ctx));
        assert_eq!(caller.join().unwrap(), 1);
        closer.join().unwrap();
        tally.assert_nothing_left();
    });
}

#[test]
fn two_user_handles_close_once() {
    explore(3, || {
        let scene = Scene::new();
        let handle = scene.body_handle();
        let Scene { ctx, tally, .. } = scene;
        let mut kept = handle.run(waiting, 7);
        assert!(poll_once(&mut kept).is_pending());
        let closers = [ctx.clone(), ctx].map(|ctx| thread::spawn(move || drop(ctx)));
        for closer in closers {
            closer.join().unwrap();
        }
        assert_eq!(
            tally.bodies(),
            0,
            "the context is closed and the body is kept"
        );
        assert_eq!(outcome(block_on(kept)), 1);
        drop(handle);
        tally.assert_nothing_left();
    });
}
