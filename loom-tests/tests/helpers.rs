//! A fan's calls are driven by helpers on other threads: what if the fan, another caller, the helper or the context goes
//! meanwhile?
//!
//! ```text
//! helper: made before (by the fan's first poll) ---- poll: the slot's body ----.
//! fan:                                          ---- drop, or wait ------------+-- its calls are over; no body is left
//! third:                                        ---- event, caller, cancel ----'
//! ```
//!
//! A helper is no caller: it may hold the claim where nobody is counted any more. Explored with at most 3 preemptions where two threads race, 2 or 1 where three do.
//! Guards S1 and S3 for a helper, S6 for the count and for CLOSED, S8 under a poll, and the group's state.
#![cfg(loom)]

use std::convert::Infallible;
use std::sync::Arc;

use loom::thread;
use watershed::{BoxedCall, Ctx, Task, TaskErrorKind, model};
use watershed_loom_tests::scene::{Scene, World};
use watershed_loom_tests::{Seen, Value, block_on, explore, go, poll_once};

/// Waits for the event of its input.
async fn at(ctx: Ctx<World>, n: u64) -> Result<Value, Infallible> {
    let World { tally, events } = ctx.state();
    let body = tally.body();
    events[n as usize].wait().await;
    body.polled();
    Ok(tally.value(n as usize))
}

/// As `at`, but fails for the input 0.
async fn fails_at_0(ctx: Ctx<World>, n: u64) -> Result<Value, String> {
    let World { tally, events } = ctx.state();
    let _body = tally.body();
    events[n as usize].wait().await;
    match n {
        0 => Err("0".to_owned()),
        n => Ok(tally.value(n as usize)),
    }
}

fn calls(n: u64) -> Vec<BoxedCall<World>> {
    (0..n).map(|n| at.with(n).boxed()).collect()
}

/// The only helper that was made.
fn only(helpers: &model::Helpers) -> model::Driver {
    let mut helpers = helpers.take();
    assert_eq!(helpers.len(), 1);
    helpers.pop().unwrap()
}

#[test]
fn last_caller_that_leaves_while_a_helper_polls_takes_the_body_with_it() {
    static SEEN: Seen = Seen::new();
    explore(3, || {
        let scene = Scene::new(2);
        let (mut fan, helpers) = model::run_all(&scene.ctx, &calls(2), 2);
        assert!(poll_once(&mut fan).is_pending());
        assert_eq!(scene.tally.starts(), 1, "the fan drives the last call");
        let helper = go(only(&helpers));
        drop(fan);
        // Nobody fires: the helper ends since nobody is left.
        helper.join().unwrap();
        SEEN.mark(scene.tally.starts() - 1);
        scene.end();
    });
    SEEN.assert_all(2);
}

#[test]
fn fan_that_is_dropped_while_an_event_wakes_its_helper_leaves_nothing() {
    static SEEN: Seen = Seen::new();
    explore(2, || {
        let scene = Scene::new(2);
        let (mut fan, helpers) = model::run_all(&scene.ctx, &calls(2), 2);
        assert!(poll_once(&mut fan).is_pending());
        let mut helper = only(&helpers);
        assert!(poll_once(&mut helper).is_pending());
        let helper = go(helper);
        let firing = thread::spawn({
            let events = scene.events.clone();
            move || events[0].fire()
        });
        drop(fan);
        helper.join().unwrap();
        firing.join().unwrap();
        SEEN.mark(usize::from(scene.ctx.peek(at, &0).is_some()));
        scene.end();
    });
    SEEN.assert_all(2);
}

#[test]
fn helper_whose_slot_another_caller_finishes_tells_the_fan() {
    explore(1, || {
        let scene = Scene::new(2);
        scene.events[1].fire();
        let (mut fan, helpers) = model::run_all(&scene.ctx, &calls(2), 2);
        assert!(poll_once(&mut fan).is_pending());
        let helper = go(only(&helpers));
        let other = thread::spawn({
            let ctx = Arc::clone(&scene.ctx);
            move || block_on(ctx.run(at, 0)).unwrap().number
        });
        scene.events[0].fire();
        block_on(fan).unwrap();
        assert_eq!(other.join().unwrap(), 0);
        helper.join().unwrap();
        assert_eq!(scene.tally.starts(), 2);
        scene.end();
    });
}

#[test]
fn helper_that_finishes_the_last_call_wakes_the_fan() {
    explore(3, || {
        let scene = Scene::new(2);
        scene.events[0].fire();
        scene.events[1].fire();
        let (mut fan, helpers) = model::run_all(&scene.ctx, &calls(2), 2);
        assert!(
            poll_once(&mut fan).is_pending(),
            "the other is the helper's"
        );
        let helper = go(only(&helpers));
        block_on(fan).unwrap();
        helper.join().unwrap();
        assert_eq!(scene.tally.starts(), 2);
        scene.end();
    });
}

#[test]
fn call_that_is_left_over_is_driven_once() {
    explore(2, || {
        let scene = Scene::new(3);
        scene.events[0].fire();
        scene.events[1].fire();
        let (mut fan, helpers) = model::run_all(&scene.ctx, &calls(3), 2);
        assert!(poll_once(&mut fan).is_pending());
        let helper = go(only(&helpers));
        scene.events[2].fire();
        block_on(fan).unwrap();
        helper.join().unwrap();
        assert_eq!(scene.tally.starts(), 3);
        scene.end();
    });
}

#[test]
fn helper_whose_call_fails_wakes_the_fan_though_another_call_waits() {
    explore(3, || {
        let scene = Scene::new(2);
        let calls = [0, 1].map(|n| fails_at_0.with(n).boxed());
        let (mut fan, helpers) = model::run_all(&scene.ctx, &calls, 2);
        assert!(poll_once(&mut fan).is_pending());
        scene.events[0].fire();
        let helper = go(only(&helpers));
        let error = block_on(fan).unwrap_err();
        assert_eq!(error.kind(), TaskErrorKind::Failed);
        helper.join().unwrap();
        drop(error);
        scene.end();
    });
}

#[test]
fn helper_that_goes_with_its_runtime_leaves_its_call_to_the_fan() {
    explore(2, || {
        let scene = Scene::new(2);
        scene.events[1].fire();
        let (mut fan, helpers) = model::run_all(&scene.ctx, &calls(2), 2);
        assert!(poll_once(&mut fan).is_pending());
        let mut helper = only(&helpers);
        assert!(poll_once(&mut helper).is_pending());
        let going = thread::spawn(move || drop(helper));
        let firing = thread::spawn({
            let events = scene.events.clone();
            move || events[0].fire()
        });
        block_on(fan).unwrap();
        going.join().unwrap();
        firing.join().unwrap();
        assert_eq!(scene.tally.starts(), 2);
        scene.end();
    });
}

/// The run goes on for another caller, so nothing at the slot tells the helper.
#[test]
fn helper_ends_with_its_fan_though_another_caller_keeps_the_run() {
    explore(3, || {
        let scene = Scene::new(2);
        let mut kept = scene.ctx.run(at, 0);
        assert!(poll_once(&mut kept).is_pending());
        let (mut fan, helpers) = model::run_all(&scene.ctx, &calls(2), 2);
        assert!(poll_once(&mut fan).is_pending());
        let helper = go(only(&helpers));
        drop(fan);
        helper.join().unwrap();
        assert_eq!(scene.tally.bodies(), 1, "the run is another caller's too");
        drop(kept);
        scene.end();
    });
}

/// The fan is counted and not polled again: whoever ends the helper's poll must take the body.
#[test]
fn cancelled_while_a_helper_polls_the_body_goes_though_the_fan_sleeps() {
    explore(3, || {
        let scene = Scene::new(2);
        let (mut fan, helpers) = model::run_all(&scene.ctx, &calls(2), 2);
        assert!(poll_once(&mut fan).is_pending());
        let helper = go(only(&helpers));
        let cancelling = thread::spawn({
            let ctx = Arc::clone(&scene.ctx);
            move || ctx.cancel()
        });
        helper.join().unwrap();
        cancelling.join().unwrap();
        assert_eq!(scene.tally.bodies(), 0, "a fan that sleeps keeps a body");
        let error = block_on(fan).unwrap_err();
        assert_eq!(error.kind(), TaskErrorKind::Cancelled);
        drop(error);
        scene.end();
    });
}
