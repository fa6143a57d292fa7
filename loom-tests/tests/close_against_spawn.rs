//! A context is closed while a run in the background is promised, started or polled: does the runtime's task end, is its body dropped,
//! and does it keep no context open?
//!
//! ```text
//! spawner: ---- promise, then poll to the end ----.
//! closer:  ---- cancel, or the last handle -------+-- nothing left
//! ```
//!
//! Explored with at most 3 preemptions. Guards S11 at EMPTY with a caller, S6 for CLOSED, K3 to K6.
#![cfg(loom)]

use std::sync::Arc;

use loom::thread;
use watershed::{TaskErrorKind, model};
use watershed_loom_tests::scene::Scene;
use watershed_loom_tests::{Seen, block_on, explore, go, poll_once};

#[test]
fn cancel_against_a_promise_refuses_or_ends_it() {
    static SEEN: Seen = Seen::new();
    explore(3, || {
        let scene = Scene::new(1);
        let spawner = thread::spawn({
            let (ctx, call) = (Arc::clone(&scene.ctx), scene.boxed());
            move || match model::spawn(&ctx, &call) {
                Ok(promised) => {
                    block_on(promised.expect("it is not over"));
                    0
                }
                Err(error) => {
                    assert_eq!(error.kind(), TaskErrorKind::Cancelled);
                    1
                }
            }
        });
        let closer = thread::spawn({
            let ctx = Arc::clone(&scene.ctx);
            move || ctx.cancel()
        });
        SEEN.mark(spawner.join().unwrap());
        closer.join().unwrap();
        assert_eq!(scene.peek(), None);
        scene.end();
    });
    SEEN.assert_all(2);
}

/// The runtime's task and the last handle of the user, in two threads: whichever is last frees.
#[test]
fn last_handle_against_a_promised_run_ends_it() {
    static SEEN: Seen = Seen::new();
    explore(3, || {
        let Scene { ctx, tally, events } = Scene::new(1);
        let call = watershed::Task::with(watershed_loom_tests::scene::waiting, 7).boxed();
        let promised = model::spawn(&ctx, &call).unwrap().unwrap();
        events[0].fire();
        let running = go(promised);
        let closer = thread::spawn(move || drop(ctx));
        running.join().unwrap();
        closer.join().unwrap();
        SEEN.mark(tally.starts());
        tally.assert_nothing_left();
    });
    SEEN.assert_all(2);
}

/// The runtime keeps its task and never polls it again.
#[test]
fn cancel_takes_the_body_of_a_task_that_is_not_polled() {
    explore(3, || {
        let scene = Scene::new(1);
        let mut promised = model::spawn(&scene.ctx, &scene.boxed()).unwrap().unwrap();
        let closer = thread::spawn({
            let ctx = Arc::clone(&scene.ctx);
            move || ctx.cancel()
        });
        let polling = thread::spawn(move || {
            let _ = poll_once(&mut promised).is_ready();
            promised
        });
        closer.join().unwrap();
        let promised = polling.join().unwrap();
        assert_eq!(scene.tally.bodies(), 0, "a task that sleeps keeps the body");
        drop(promised);
        scene.end();
    });
}
