//! A call without memoization is made while the context is closed: does it return, and is its body dropped?
//!
//! ```text
//! caller: ---- put the slot in, wait --.
//! closer: ---- cancel, walk -----------+-- Cancelled
//! ```
//!
//! Explored with at most 3 preemptions, 1 where two runs are closed. Guards T2, T3, K5 and K6 for the list of private slots, and S11.
#![cfg(loom)]

use std::sync::Arc;

use loom::thread;
use watershed::TaskErrorKind;
use watershed_loom_tests::scene::{KEY, Scene, ready, waiting};
use watershed_loom_tests::{Seen, block_on, explore};

#[test]
fn cancel_against_a_fresh_run_that_waits_ends_it() {
    explore(3, || {
        let scene = Scene::new(1);
        let caller = thread::spawn({
            let ctx = Arc::clone(&scene.ctx);
            move || block_on(ctx.run_fresh(waiting, KEY)).unwrap_err().kind()
        });
        let closer = thread::spawn({
            let ctx = Arc::clone(&scene.ctx);
            move || ctx.cancel()
        });
        assert_eq!(caller.join().unwrap(), TaskErrorKind::Cancelled);
        closer.join().unwrap();
        scene.end();
    });
}

#[test]
fn two_fresh_runs_are_both_closed() {
    explore(1, || {
        let scene = Scene::new(2);
        let callers = [0, 1].map(|_| {
            let ctx = Arc::clone(&scene.ctx);
            thread::spawn(move || block_on(ctx.run_fresh(waiting, KEY)).unwrap_err().kind())
        });
        scene.ctx.cancel();
        for caller in callers {
            assert_eq!(caller.join().unwrap(), TaskErrorKind::Cancelled);
        }
        scene.end();
    });
}

#[test]
fn fresh_runs_of_two_threads_share_nothing() {
    static SEEN: Seen = Seen::new();
    explore(3, || {
        let scene = Scene::new(0);
        let other = thread::spawn({
            let ctx = Arc::clone(&scene.ctx);
            move || block_on(ctx.run_fresh(ready, KEY)).unwrap().number
        });
        let third = thread::spawn({
            let ctx = Arc::clone(&scene.ctx);
            move || block_on(ctx.run_fresh(ready, KEY)).unwrap().number
        });
        let (other, third) = (other.join().unwrap(), third.join().unwrap());
        assert_eq!(other + third, 1, "two values");
        SEEN.mark(other);
        assert!(scene.ctx.peek(ready, &KEY).is_none());
        scene.end();
    });
    SEEN.assert_all(2);
}
