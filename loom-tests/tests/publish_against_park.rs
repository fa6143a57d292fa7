//! A run ends while a caller goes to sleep: does that caller get the value, or the wake?
//!
//! ```text
//! driver: called and woken before ---- poll: publish --.
//! parks:                          ---- call, sleep ----+-- the value
//! ```
//!
//! Explored with at most 3 preemptions. There is one outcome; that the caller comes before and after the end is what loom sees to.
//! Guards S0, S4, S7 (also where who publishes is no caller: M42) and the making of the hub.
#![cfg(loom)]

use loom::thread;
use watershed_loom_tests::scene::{KEY, Scene, ready, waiting};
use watershed_loom_tests::{Seen, explore, go, poll_once};

#[test]
fn caller_that_parks_when_a_woken_run_ends_gets_the_value() {
    explore(3, || {
        let scene = Scene::new(1);
        let mut driver = scene.parked();
        scene.events[0].fire();
        let driver = thread::spawn(move || {
            let _ = poll_once(&mut driver).map(|outcome| assert_eq!(outcome, Ok(0)));
            driver
        });
        let parks = go(scene.caller());
        assert_eq!(parks.join().unwrap(), Ok(0));
        drop(driver.join().unwrap());
        assert_eq!(scene.tally.starts(), 1);
        scene.end();
    });
}

#[test]
fn caller_that_is_parked_when_a_woken_run_ends_gets_the_value() {
    explore(3, || {
        let scene = Scene::new(1);
        let mut driver = scene.parked();
        let parked = scene.parked();
        scene.events[0].fire();
        let driver = thread::spawn(move || {
            let _ = poll_once(&mut driver).map(|outcome| assert_eq!(outcome, Ok(0)));
            driver
        });
        let parked = go(parked);
        assert_eq!(parked.join().unwrap(), Ok(0));
        drop(driver.join().unwrap());
        assert_eq!(scene.tally.starts(), 1);
        scene.end();
    });
}

#[test]
fn caller_that_parks_when_a_first_poll_ends_the_run_gets_the_value() {
    explore(3, || {
        let scene = Scene::new(0);
        let mut kept = scene.call(ready);
        let parks = go(scene.call(ready));
        let _ = poll_once(&mut kept).map(|outcome| assert_eq!(outcome, Ok(0)));
        assert_eq!(parks.join().unwrap(), Ok(0));
        drop(kept);
        assert_eq!(scene.tally.starts(), 1);
        scene.end();
    });
}

/// The one that puts the value in is not counted, so one caller is another one.
#[test]
fn caller_that_parks_when_a_value_is_put_in_gets_it() {
    static SEEN: Seen = Seen::new();
    explore(3, || {
        let scene = Scene::new(1);
        scene.events[0].fire();
        let parks = go(scene.caller());
        let primed = thread::spawn({
            let (ctx, value) = (scene.ctx.clone(), scene.tally.value(100));
            move || ctx.prime(waiting, KEY, value).is_ok()
        });
        let got = parks.join().unwrap();
        let primed = primed.join().unwrap();
        assert_eq!(got, Ok(if primed { 100 } else { 0 }));
        SEEN.mark(usize::from(primed));
        scene.end();
    });
    SEEN.assert_all(2);
}
