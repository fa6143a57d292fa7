//! Who awaits the end of a context, while it comes: is he told, whichever of the two is first?
//!
//! ```text
//! waiter: ---- cancelled(): make the hub, register, look at the reason ----.
//! closer: ---- reason, fence, wake whoever is at the hub ------------------+-- nobody sleeps
//! ```
//!
//! Explored with at most 3 preemptions. Guards K5 with the fence in `Cancelled::poll`. (A waiter that is not told is a deadlock, which loom
//! reports.)
#![cfg(loom)]

use std::sync::Arc;

use loom::thread;
use watershed_loom_tests::scene::Scene;
use watershed_loom_tests::{Seen, block_on, explore, poll_once};

#[test]
fn told_by_a_close_that_comes_meanwhile() {
    static SEEN: Seen = Seen::new();
    explore(3, || {
        let scene = Scene::new(0);
        let waiter = thread::spawn({
            let ctx = Arc::clone(&scene.ctx);
            move || {
                let mut end = ctx.cancelled();
                let at_once = poll_once(&mut end).is_ready();
                if !at_once {
                    block_on(end);
                }
                assert!(ctx.is_cancelled());
                at_once
            }
        });
        scene.ctx.cancel();
        SEEN.mark(usize::from(waiter.join().unwrap()));
        scene.end();
    });
    SEEN.assert_all(2);
}

#[test]
fn two_waiters_are_told() {
    explore(2, || {
        let scene = Scene::new(0);
        let waiters: Vec<_> = (0..2)
            .map(|_| {
                let ctx = Arc::clone(&scene.ctx);
                thread::spawn(move || block_on(ctx.cancelled()))
            })
            .collect();
        scene.ctx.cancel();
        for waiter in waiters {
            waiter.join().unwrap();
        }
        scene.end();
    });
}
