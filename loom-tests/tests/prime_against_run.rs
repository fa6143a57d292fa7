//! A value is put in while the call is made, leaves, or is promised: is there one value for everybody, and a refused one given back?
//!
//! ```text
//! caller: ---- call --------.
//! primer: ---- put in ------+-- the one's value or the other's
//! ```
//!
//! Explored with at most 3 preemptions, 2 where a body waits. The outcomes are who was first. Guards S13, S1 and S7 without a caller.
#![cfg(loom)]

use std::task::Poll;

use loom::thread::{self, JoinHandle};
use watershed::{Task, model};
use watershed_loom_tests::scene::{KEY, Scene, ready, waiting};
use watershed_loom_tests::{Seen, Value, block_on, explore, go, poll_once};

/// Puts 100 in, in a thread of its own; true if it was taken.
fn prime<F>(scene: &Scene, task: F) -> JoinHandle<bool>
where
    F: Task<watershed_loom_tests::scene::World, u64, Value = Value>,
{
    let (ctx, value) = (scene.ctx.clone(), scene.tally.value(100));
    thread::spawn(move || ctx.prime(task, KEY, value).is_ok())
}

#[test]
fn against_a_first_call_gives_one_value() {
    static SEEN: Seen = Seen::new();
    explore(3, || {
        let scene = Scene::new(0);
        let caller = go(scene.call(ready));
        let primed = prime(&scene, ready);
        let got = caller.join().unwrap();
        let primed = primed.join().unwrap();
        assert_eq!(got, Ok(if primed { 100 } else { 0 }));
        assert_eq!(scene.tally.starts(), usize::from(!primed));
        assert_eq!(scene.tally.values(), 1, "the refused value is kept");
        SEEN.mark(usize::from(primed));
        scene.end();
    });
    SEEN.assert_all(2);
}

#[test]
fn against_two_first_calls_gives_one_value() {
    static SEEN: Seen = Seen::new();
    explore(1, || {
        let scene = Scene::new(0);
        let caller = go(scene.call(ready));
        let primed = prime(&scene, ready);
        let other = block_on(scene.call(ready));
        let primed = primed.join().unwrap();
        let expected = Ok(if primed { 100 } else { 0 });
        assert_eq!(caller.join().unwrap(), expected);
        assert_eq!(other, expected);
        assert_eq!(scene.tally.values(), 1, "the refused value is kept");
        SEEN.mark(usize::from(primed));
        scene.end();
    });
    SEEN.assert_all(2);
}

#[test]
fn against_the_last_caller_that_leaves_is_refused_or_taken() {
    static SEEN: Seen = Seen::new();
    explore(3, || {
        let scene = Scene::new(1);
        let leaver = scene.parked();
        let leaving = thread::spawn(move || drop(leaver));
        let primed = prime(&scene, waiting).join().unwrap();
        leaving.join().unwrap();
        assert_eq!(scene.peek(), primed.then_some(100));
        SEEN.mark(usize::from(primed));
        scene.end();
    });
    SEEN.assert_all(2);
}

/// The slot looks as before, but has had a body meanwhile.
#[test]
fn against_a_caller_that_comes_and_goes_is_refused_or_taken() {
    static SEEN: Seen = Seen::new();
    explore(3, || {
        let scene = Scene::new(2);
        // The slot is there, and empty.
        drop(scene.parked());
        let primed = prime(&scene, waiting);
        let mut caller = scene.caller();
        let passing = thread::spawn(move || {
            let got = poll_once(&mut caller);
            drop(caller);
            got
        });
        let primed = primed.join().unwrap();
        let got = passing.join().unwrap();
        assert!(matches!(got, Poll::Pending | Poll::Ready(Ok(100))));
        assert_eq!(scene.peek(), primed.then_some(100));
        SEEN.mark(usize::from(primed));
        scene.end();
    });
    SEEN.assert_all(2);
}

/// A promised caller is counted where there is no body yet: it gets the value, or starts.
#[test]
fn against_a_promised_call_gives_one_value() {
    static SEEN: Seen = Seen::new();
    explore(2, || {
        let scene = Scene::new(1);
        let promised = model::spawn(&scene.ctx, &scene.boxed()).unwrap().unwrap();
        let firing = thread::spawn({
            let events = scene.events.clone();
            move || events[0].fire()
        });
        let promised = go(promised);
        let primed = prime(&scene, waiting).join().unwrap();
        promised.join().unwrap();
        firing.join().unwrap();
        assert_eq!(scene.peek(), Some(if primed { 100 } else { 0 }));
        assert_eq!(scene.tally.starts(), usize::from(!primed));
        SEEN.mark(usize::from(primed));
        scene.end();
    });
    SEEN.assert_all(2);
}
