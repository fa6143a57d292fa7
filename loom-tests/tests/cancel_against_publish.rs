//! A context is cancelled while a run ends: does each caller get the value or `Cancelled`, and is the value there if anybody got it?
//!
//! ```text
//! driver: called and woken before ---- poll: publish ----.
//! waiter: called before           ---- wait -------------+-- value or Cancelled, each
//! main:                           ---- cancel -----------'
//! ```
//!
//! Explored with at most 2 preemptions (3 take half a minute), 3 where one caller sleeps. The outcomes are the value and the error. Guards S7 against S11, S6 for CLOSED, and that CLOSED is no outcome.
#![cfg(loom)]

use std::sync::Arc;

use loom::thread;
use watershed::TaskErrorKind;
use watershed_loom_tests::scene::{Outcome, Scene, World, ready};
use watershed_loom_tests::{Seen, Value, block_on, explore, go, poll_once};

fn check(outcome: Outcome) -> bool {
    match outcome {
        Ok(number) => assert_eq!(number, 0),
        Err(kind) => assert_eq!(kind, TaskErrorKind::Cancelled),
    }
    outcome.is_ok()
}

#[test]
fn who_got_a_value_was_right() {
    static SEEN: Seen = Seen::new();
    explore(2, || {
        let scene = Scene::new(1);
        let (driver, waiter) = (scene.parked(), scene.parked());
        scene.events[0].fire();
        let threads = [go(driver), go(waiter)];
        scene.ctx.cancel();
        let [driver, waiter] = threads.map(|thread| check(thread.join().unwrap()));
        // A caller may leave a run that then ends all the same; the other way round would be wrong.
        assert!(scene.peek().is_some() || !(driver || waiter));
        SEEN.mark(usize::from(driver || waiter));
        assert_eq!(check(block_on(scene.caller())), scene.peek().is_some());
        scene.end();
    });
    SEEN.assert_all(2);
}

#[test]
fn value_that_is_there_is_given_after_a_cancellation() {
    static SEEN: Seen = Seen::new();
    explore(2, || {
        let scene = Scene::new(0);
        let callers = [0, 1].map(|_| go(scene.call(ready)));
        let cancelling = thread::spawn({
            let ctx = Arc::clone(&scene.ctx);
            move || ctx.cancel()
        });
        let got = callers.map(|caller| check(caller.join().unwrap()));
        cancelling.join().unwrap();
        // The one that runs the body is never told `Cancelled` once it has a value.
        assert_eq!(scene.tally.starts(), usize::from(got[0] || got[1]));
        SEEN.mark(usize::from(got[0]));
        scene.end();
    });
    SEEN.assert_all(2);
}

/// Is pending until the second event, though it was woken by the first.
async fn twice(ctx: watershed::Ctx<World>, _: u64) -> Result<Value, std::convert::Infallible> {
    let World { tally, events } = ctx.state();
    let body = tally.body();
    for event in &events[..] {
        event.wait().await;
        body.polled();
    }
    Ok(tally.value(body.number))
}

/// One polls, another is counted and never polled again: the poll's end must take the body.
#[test]
fn cancelled_during_a_poll_the_body_goes_though_a_caller_sleeps() {
    explore(3, || {
        let scene = Scene::new(2);
        let mut kept = scene.call(twice);
        assert!(poll_once(&mut kept).is_pending());
        let mut polled = scene.call(twice);
        assert!(poll_once(&mut polled).is_pending());
        scene.events[0].fire();
        let polling = thread::spawn(move || {
            let _ = poll_once(&mut polled).map(|outcome| assert!(outcome.is_err()));
            polled
        });
        let cancelling = thread::spawn({
            let ctx = Arc::clone(&scene.ctx);
            move || ctx.cancel()
        });
        let polled = polling.join().unwrap();
        cancelling.join().unwrap();
        assert_eq!(
            scene.tally.bodies(),
            0,
            "a caller that sleeps keeps the body"
        );
        drop((kept, polled));
        scene.end();
    });
}
