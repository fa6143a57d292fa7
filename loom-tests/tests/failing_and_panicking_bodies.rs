//! A body fails or panics while others wait: do all of them get the error, and does a transient one go?
//!
//! ```text
//! driver: called before ---- poll: fails ---.
//! waiter:               ---- call, wait ----+-- the error
//! event:                ---- fire ----------'
//! ```
//!
//! Explored with at most 2 preemptions, 3 where the event is fired before and 1 where three threads meet a failure or a panic (2 take half a minute). The outcomes, for a transient failure, are one run
//! and two. Guards S7 with an error, also together with DEAD, and that a panic gives the claim back.
#![cfg(loom)]

use loom::thread;
use watershed::{Ctx, TaskErrorKind};
use watershed_loom_tests::scene::{Caller, Scene, World};
use watershed_loom_tests::{Seen, Value, explore, go, poll_once};

/// A future that panics does so without the hook, which would print it in every execution.
fn panic_quietly() -> ! {
    std::panic::resume_unwind(Box::new("a body that panics"))
}

async fn fails(ctx: Ctx<World>, _: u64) -> Result<Value, String> {
    let World { tally, events } = ctx.state();
    let body = tally.body();
    events[body.number].wait().await;
    Err(format!("body {}", body.number))
}

async fn panics(ctx: Ctx<World>, _: u64) -> Result<Value, String> {
    let World { tally, events } = ctx.state();
    let body = tally.body();
    events[body.number].wait().await;
    panic_quietly()
}

/// The first body fails for now.
async fn fails_once(ctx: Ctx<World>, _: u64) -> Result<Value, String> {
    let World { tally, events } = ctx.state();
    let body = tally.body();
    events[body.number].wait().await;
    match body.number {
        0 => Err(ctx.transient("not yet".to_owned())),
        number => Ok(tally.value(number)),
    }
}

/// Two calls of a task that was polled once, and a third thread that fires. All get that error.
fn end_in(kind: TaskErrorKind, call: impl Fn(&Scene) -> Caller) {
    let scene = Scene::new(1);
    let mut driver = call(&scene);
    assert!(poll_once(&mut driver).is_pending());
    let driver = go(driver);
    let waiter = go(call(&scene));
    scene.events[0].fire();
    assert_eq!(driver.join().unwrap(), Err(kind));
    assert_eq!(waiter.join().unwrap(), Err(kind));
    assert_eq!(scene.tally.starts(), 1, "an error is kept");
    scene.end();
}

#[test]
fn all_callers_get_a_failure() {
    explore(1, || {
        end_in(TaskErrorKind::Failed, |scene| scene.call(fails))
    });
}

#[test]
fn all_callers_get_a_panic() {
    explore(1, || {
        end_in(TaskErrorKind::Panicked, |scene| scene.call(panics))
    });
}

/// The one that polls the body is not polled again.
#[test]
fn sleeper_gets_a_panic_of_a_poll_that_it_saw() {
    explore(3, || {
        let scene = Scene::new(1);
        let mut driver = scene.call(panics);
        assert!(poll_once(&mut driver).is_pending());
        scene.events[0].fire();
        let waiter = go(scene.call(panics));
        let driver = thread::spawn(move || {
            let _ = poll_once(&mut driver).is_ready();
            driver
        });
        assert_eq!(waiter.join().unwrap(), Err(TaskErrorKind::Panicked));
        drop(driver.join().unwrap());
        scene.end();
    });
}

#[test]
fn transient_failure_is_for_those_who_wait_and_nobody_else() {
    static RUNS: Seen = Seen::new();
    explore(2, || {
        let scene = Scene::new(2);
        let mut driver = scene.call(fails_once);
        assert!(poll_once(&mut driver).is_pending());
        scene.events[0].fire();
        scene.events[1].fire();
        let driver = go(driver);
        let other = go(scene.call(fails_once));
        assert_eq!(driver.join().unwrap(), Err(TaskErrorKind::Failed));
        let other = other.join().unwrap();
        assert!(matches!(other, Err(TaskErrorKind::Failed) | Ok(1)));
        assert_eq!(scene.tally.starts(), if other.is_ok() { 2 } else { 1 });
        RUNS.mark(usize::from(other.is_ok()));
        scene.end();
    });
    RUNS.assert_all(2);
}
