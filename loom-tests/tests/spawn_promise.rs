//! A run in the background is promised and not yet polled, or goes away with its runtime: do others share its one run, and
//! does it hold nobody up?
//!
//! ```text
//! task:   promised before ---- poll, or drop --.
//! caller:                 ---- call, leave ----+-- one start
//! event:                  ---- fire -----------'
//! ```
//!
//! Explored with at most 2 preemptions, 3 where there are two threads, and 1 where there are three that come and go. Guards S1 for a caller that is counted, S8, S9's count, and that a promise counts at once (M19).
#![cfg(loom)]

use loom::thread;
use watershed::model;
use watershed_loom_tests::scene::{Scene, waiting};
use watershed_loom_tests::{Seen, explore, go, poll_once};

fn promise(scene: &Scene) -> model::Driver {
    model::spawn(&scene.ctx, &scene.boxed()).unwrap().unwrap()
}

#[test]
fn caller_that_comes_and_leaves_does_not_take_the_promised_run_with_it() {
    static SEEN: Seen = Seen::new();
    explore(1, || {
        let scene = Scene::new(1);
        let promised = go(promise(&scene));
        let firing = thread::spawn({
            let events = scene.events.clone();
            move || events[0].fire()
        });
        let mut leaver = scene.caller();
        SEEN.mark(usize::from(poll_once(&mut leaver).is_ready()));
        drop(leaver);
        promised.join().unwrap();
        firing.join().unwrap();
        assert_eq!(scene.tally.starts(), 1, "a promise is not counted");
        assert_eq!(scene.peek(), Some(0));
        scene.end();
    });
    SEEN.assert_all(2);
}

#[test]
fn task_that_is_aborted_leaves_its_run_to_a_caller() {
    explore(2, || {
        let scene = Scene::new(1);
        let mut task = promise(&scene);
        assert!(poll_once(&mut task).is_pending());
        let caller = go(scene.parked());
        let firing = thread::spawn({
            let events = scene.events.clone();
            move || events[0].fire()
        });
        drop(task);
        assert_eq!(caller.join().unwrap(), Ok(0));
        firing.join().unwrap();
        assert_eq!(scene.tally.starts(), 1);
        scene.end();
    });
}

#[test]
fn task_that_is_aborted_before_its_first_poll_leaves_the_start_to_a_caller() {
    explore(3, || {
        let scene = Scene::new(1);
        let task = promise(&scene);
        scene.events[0].fire();
        let caller = go(scene.caller());
        let aborting = thread::spawn(move || drop(task));
        assert_eq!(caller.join().unwrap(), Ok(0));
        aborting.join().unwrap();
        assert_eq!(scene.tally.starts(), 1);
        scene.end();
    });
}

#[test]
fn task_that_is_never_polled_holds_nobody_up() {
    explore(2, || {
        let scene = Scene::new(1);
        let task = promise(&scene);
        let caller = go(scene.caller());
        let firing = thread::spawn({
            let events = scene.events.clone();
            move || events[0].fire()
        });
        assert_eq!(caller.join().unwrap(), Ok(0));
        firing.join().unwrap();
        drop(task);
        assert_eq!(scene.tally.starts(), 1);
        assert!(scene.ctx.peek(waiting, &7).is_some());
        scene.end();
    });
}

/// The last caller is a task: with it the body goes.
#[test]
fn task_that_is_aborted_while_another_leaves_takes_the_body_with_it() {
    explore(3, || {
        let scene = Scene::new(1);
        let mut task = promise(&scene);
        assert!(poll_once(&mut task).is_pending());
        let leaver = scene.parked();
        let threads = [
            thread::spawn(move || drop(task)),
            thread::spawn(move || drop(leaver)),
        ];
        for thread in threads {
            thread.join().unwrap();
        }
        scene.end();
    });
}
