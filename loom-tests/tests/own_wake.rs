//! A body wakes itself while it is polled, or keeps no waker at all, so that nobody has made a hub when it is left idle: is everybody told
//! who sleeps there?
//!
//! ```text
//! poller:   called before (one poll: the body wakes itself) ---- is dropped, is kept, or goes on
//! sleepers:                                                 ---- call, wait ---- the value
//! ```
//!
//! ```text
//! sleeper:  called before, a body that nothing wakes ---- poll, sleep ---- Cancelled, or the value
//! other:                                             ---- cancel, or the last other caller's poll
//! ```
//!
//! Explored with at most 3 preemptions, 2 where there is a poller, and 1 where two sleep or wait. Guards S3 and S5 with WOKEN, S4 where HUB is not set, S5a, and S11.
#![cfg(loom)]

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::task::Poll;

use watershed::{Ctx, TaskErrorKind};
use watershed_loom_tests::scene::{KEY, Scene, World};
use watershed_loom_tests::{Value, block_on, explore, go, poll_once, yield_once};

/// Wakes itself twice, by reference.
async fn yielding(ctx: Ctx<World>, _: u64) -> Result<Value, Infallible> {
    let World { tally, .. } = ctx.state();
    let body = tally.body();
    yield_once().await;
    body.polled();
    yield_once().await;
    body.polled();
    Ok(tally.value(body.number))
}

/// Is never woken.
async fn asleep(ctx: Ctx<World>, _: u64) -> Result<Value, Infallible> {
    let World { tally, .. } = ctx.state();
    let body = tally.body();
    std::future::pending::<()>().await;
    Ok(tally.value(body.number))
}

/// Calls itself so often, which is deeper than polls are nested, and then a body that wakes itself.
fn chain(
    ctx: Ctx<World>,
    left: u64,
) -> Pin<Box<dyn Future<Output = Result<usize, Infallible>> + Send>> {
    Box::pin(async move {
        Ok(match left {
            0 => ctx.run(yielding, KEY).await.unwrap().number,
            left => *ctx.run(chain, left - 1).await.unwrap(),
        })
    })
}

/// The base of the stack polls the body, so the caller that left it to the base must be told by S5a. No race: it is alone.
#[test]
fn caller_that_left_its_slot_to_the_base_is_told_of_each_wake() {
    explore(0, || {
        let scene = Scene::new(0);
        assert_eq!(*block_on(scene.ctx.run(chain, 6)).unwrap(), 0);
        scene.end();
    });
}

/// Wakes itself once, and is never woken again.
async fn once(ctx: Ctx<World>, _: u64) -> Result<Value, Infallible> {
    let World { tally, .. } = ctx.state();
    let body = tally.body();
    yield_once().await;
    std::future::poll_fn(|_| {
        assert!(!tally.passed(), "it was polled without a wake");
        tally.pass();
        Poll::<()>::Pending
    })
    .await;
    Ok(tally.value(body.number))
}

/// No race: it is alone.
#[test]
fn wake_of_its_own_is_good_for_one_poll() {
    explore(0, || {
        let scene = Scene::new(0);
        let mut caller = scene.call(once);
        for _ in 0..4 {
            assert!(poll_once(&mut caller).is_pending());
        }
        assert!(scene.tally.passed());
        drop(caller);
        scene.end();
    });
}

#[test]
fn who_sleeps_is_told_where_the_poller_is_kept_and_not_polled() {
    explore(2, || {
        let scene = Scene::new(0);
        let mut kept = scene.call(yielding);
        let sleeper = go(scene.call(yielding));
        // Meanwhile one poll, after which it is left alone though it woke its own caller.
        let polled = poll_once(&mut kept);
        assert_eq!(sleeper.join().unwrap(), Ok(0));
        drop(kept);
        assert!(polled.is_pending() || scene.tally.starts() == 1);
        assert_eq!(scene.tally.starts(), 1);
        scene.end();
    });
}

#[test]
fn who_sleeps_is_told_where_the_poller_is_dropped() {
    explore(2, || {
        let scene = Scene::new(0);
        let sleeper = go(scene.call(yielding));
        let mut poller = scene.call(yielding);
        let polled = poll_once(&mut poller);
        drop(poller);
        // A restart has a body of its own.
        assert!(sleeper.join().unwrap().is_ok());
        assert!(scene.tally.starts() <= if polled.is_ready() { 1 } else { 2 });
        scene.end();
    });
}

#[test]
fn two_who_wait_for_a_body_that_yields_get_its_value() {
    explore(1, || {
        let scene = Scene::new(0);
        let other = go(scene.call(yielding));
        assert_eq!(block_on(scene.call(yielding)), Ok(0));
        assert_eq!(other.join().unwrap(), Ok(0));
        assert_eq!(scene.tally.starts(), 1);
        scene.end();
    });
}

/// Nobody has made a hub but the sleeper, and the closer looks for it.
#[test]
fn who_sleeps_at_a_body_without_a_hub_is_told_of_the_close() {
    explore(3, || {
        let scene = Scene::new(0);
        let mut kept = scene.call(asleep);
        assert!(poll_once(&mut kept).is_pending());
        let sleeper = go(scene.call(asleep));
        scene.ctx.cancel();
        assert_eq!(sleeper.join().unwrap(), Err(TaskErrorKind::Cancelled));
        drop(kept);
        scene.end();
    });
}

/// As above, where the first poll, which leaves the body idle, is under way as well.
#[test]
fn two_who_sleep_at_a_body_without_a_hub_are_told_of_the_close() {
    explore(1, || {
        let scene = Scene::new(0);
        let sleepers = [go(scene.call(asleep)), go(scene.call(asleep))];
        scene.ctx.cancel();
        for sleeper in sleepers {
            assert_eq!(sleeper.join().unwrap(), Err(TaskErrorKind::Cancelled));
        }
        scene.end();
    });
}
