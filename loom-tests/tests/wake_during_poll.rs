//! A body is woken while it is being polled, or between two claims: is it polled again after each wake, by one
//! thread at a time, and does that poll see what happened before the wake?
//!
//! ```text
//! caller: called before ---- poll -- poll ...
//! other:  called before ---- poll -- poll ...
//! waker:                ---- step, wake -- step, wake
//! ```
//!
//! The body gives its waker away at its first poll and reads what was stepped with Relaxed, so that nothing but the engine's
//! wake and claim orders its polls. Explored with at most 3 preemptions, 2 and 1 where two callers poll. Guards S3, S5, S5a, H1 and H3.
#![cfg(loom)]

use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::task::{Poll, Waker};

use loom::sync::atomic::{AtomicUsize, Ordering};
use loom::thread;
use watershed::Ctx;
use watershed_loom_tests::{Seen, Tally, Value, block_on, explore, go, poll_once, yield_once};

struct World {
    tally: Arc<Tally>,
    steps: AtomicUsize,
    waker: Mutex<Option<Waker>>,
}

/// Is ready when it sees two steps.
async fn stepping(ctx: Ctx<Arc<World>>, _: u64) -> Result<Value, Infallible> {
    let world = ctx.state();
    let body = world.tally.body();
    let mut waker = None;
    std::future::poll_fn(|cx| {
        body.polled();
        if waker.is_none() {
            waker = Some(cx.waker().clone());
            *world.waker.lock().unwrap() = waker.clone();
        }
        // Relaxed: the wake is what orders.
        match world.steps.load(Ordering::Relaxed) {
            2 => Poll::Ready(()),
            _ => Poll::Pending,
        }
    })
    .await;
    Ok(world.tally.value(body.number))
}

fn context() -> (Arc<Ctx<Arc<World>>>, Arc<World>) {
    let world = Arc::new(World {
        tally: Tally::new(),
        steps: AtomicUsize::new(0),
        waker: Mutex::default(),
    });
    (Arc::new(Ctx::new(Arc::clone(&world))), world)
}

type Caller = std::pin::Pin<Box<dyn Future<Output = usize> + Send>>;

/// A caller that has called.
fn parked(ctx: &Arc<Ctx<Arc<World>>>) -> Caller {
    let ctx = Arc::clone(ctx);
    let mut caller: Caller = Box::pin(async move { ctx.run(stepping, 7).await.unwrap().number });
    assert!(poll_once(&mut caller).is_pending());
    caller
}

fn end(ctx: Arc<Ctx<Arc<World>>>, world: &World) {
    assert_eq!(world.tally.starts(), 1);
    assert_eq!(world.tally.bodies(), 0);
    drop(Arc::into_inner(ctx).expect("all callers are gone"));
    world.tally.assert_nothing_left();
}

#[test]
fn each_of_two_wakes_is_seen_with_what_came_before_it() {
    explore(3, || {
        let (ctx, world) = context();
        let caller = go(parked(&ctx));
        let waking = thread::spawn({
            let world = Arc::clone(&world);
            let waker = world.waker.lock().unwrap().take().unwrap();
            move || {
                for step in 1..=2 {
                    world.steps.store(step, Ordering::Relaxed);
                    waker.wake_by_ref();
                }
            }
        });
        assert_eq!(caller.join().unwrap(), 0);
        waking.join().unwrap();
        end(ctx, &world);
    });
}

#[test]
fn two_callers_of_a_woken_body_poll_it_one_after_the_other() {
    explore(2, || {
        let (ctx, world) = context();
        let callers = [parked(&ctx), parked(&ctx)];
        let waker = world.waker.lock().unwrap().take().unwrap();
        waker.wake_by_ref();
        // Both see IDLE and woken; the body stays pending.
        let threads = callers.map(|mut caller| {
            thread::spawn(move || {
                assert!(poll_once(&mut caller).is_pending());
                caller
            })
        });
        let mut callers = threads.map(|thread| thread.join().unwrap());
        world.steps.store(2, Ordering::Relaxed);
        waker.wake();
        for caller in &mut callers {
            assert_eq!(block_on(caller.as_mut()), 0);
        }
        drop(callers);
        end(ctx, &world);
    });
}

#[test]
fn wake_during_a_poll_reaches_a_caller_that_saw_the_poll_and_sleeps() {
    explore(2, || {
        let (ctx, world) = context();
        let mut polled = parked(&ctx);
        let sleeps = parked(&ctx);
        let waker = world.waker.lock().unwrap().take().unwrap();
        waker.wake_by_ref();
        let sleeps = go(sleeps);
        let waking = thread::spawn({
            let world = Arc::clone(&world);
            move || {
                world.steps.store(2, Ordering::Relaxed);
                waker.wake();
            }
        });
        // Once, whatever comes of it.
        let _ = poll_once(&mut polled).map(|number| assert_eq!(number, 0));
        assert_eq!(sleeps.join().unwrap(), 0);
        waking.join().unwrap();
        drop(polled);
        end(ctx, &world);
    });
}

async fn yielding(ctx: Ctx<Arc<World>>, _: u64) -> Result<Value, Infallible> {
    let body = ctx.state().tally.body();
    yield_once().await;
    body.polled();
    Ok(ctx.state().tally.value(body.number))
}

#[test]
fn wake_by_the_body_itself_reaches_a_caller_that_saw_the_poll_and_sleeps() {
    static SEEN: Seen = Seen::new();
    explore(2, || {
        let (ctx, world) = context();
        let sleeps = thread::spawn({
            let ctx = Arc::clone(&ctx);
            move || block_on(ctx.run(yielding, 7)).unwrap().number
        });
        let mut polled = ctx.run(yielding, 7);
        // Once, and kept.
        let early = poll_once(&mut polled).map(|value| value.unwrap().number);
        SEEN.mark(usize::from(early.is_ready()));
        assert_eq!(sleeps.join().unwrap(), 0);
        drop(polled);
        end(ctx, &world);
    });
    SEEN.assert_all(2);
}
