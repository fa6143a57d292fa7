//! A context is closed while its body is woken: does the wake find the body, or nobody, and nothing that was freed?
//!
//! ```text
//! task:   promised and polled before ---- poll to the end, drop --.
//! owner:                             ---- last handle goes -------+-- nothing left
//! event:                             ---- fire -------------------'
//! ```
//!
//! Explored with at most 2 preemptions. The outcomes are a value that was made and none. Guards S11, H1 and C2 against the end, K3 and K4.
#![cfg(loom)]

use loom::thread;
use watershed::model;
use watershed_loom_tests::scene::Scene;
use watershed_loom_tests::{Seen, explore, go, poll_once};

#[test]
fn last_handle_against_a_wake_ends_the_run_once() {
    static SEEN: Seen = Seen::new();
    explore(2, || {
        let scene = Scene::new(1);
        let mut task = model::spawn(&scene.ctx, &scene.boxed()).unwrap().unwrap();
        assert!(poll_once(&mut task).is_pending());
        let Scene { ctx, tally, events } = scene;
        let task = go(task);
        let firing = thread::spawn(move || events[0].fire());
        drop(ctx);
        task.join().unwrap();
        firing.join().unwrap();
        SEEN.mark(tally.made().min(1));
        tally.assert_nothing_left();
    });
    SEEN.assert_all(2);
}

/// Nobody polls the task again: the closer takes the body, and the wake finds nobody.
#[test]
fn last_handle_against_a_wake_takes_the_body_of_a_task_that_is_not_polled() {
    explore(3, || {
        let scene = Scene::new(1);
        let mut task = model::spawn(&scene.ctx, &scene.boxed()).unwrap().unwrap();
        assert!(poll_once(&mut task).is_pending());
        let Scene { ctx, tally, events } = scene;
        let firing = thread::spawn(move || events[0].fire());
        let closing = thread::spawn(move || drop(ctx));
        firing.join().unwrap();
        closing.join().unwrap();
        assert_eq!(tally.bodies(), 0, "a closed context keeps its body");
        drop(task);
        tally.assert_nothing_left();
    });
}
