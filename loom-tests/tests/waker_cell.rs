//! The driver's place changes hands, or its waker is replaced, while a wake takes it: does the wake reach who is there?
//!
//! ```text
//! driver:    called before ---- leave, or call again with another waker ----.
//! successor:               ---- call, wait ---------------------------------+-- the value
//! event:                   ---- fire ---------------------------------------'
//! ```
//!
//! Explored with at most 3 preemptions, 2 where the driver leaves, and 1 where two park then. Guards C1 to C4, H5 and H6.
#![cfg(loom)]

use loom::thread;
use watershed_loom_tests::scene::Scene;
use watershed_loom_tests::{explore, go};

#[test]
fn driver_that_leaves_during_a_wake_does_not_take_its_successors() {
    explore(2, || {
        let scene = Scene::new(1);
        let driver = scene.parked();
        // Counted, so that the run goes on.
        let kept = scene.parked();
        let successor = go(scene.caller());
        let firing = thread::spawn({
            let events = scene.events.clone();
            move || events[0].fire()
        });
        drop(driver);
        assert_eq!(successor.join().unwrap(), Ok(0));
        firing.join().unwrap();
        drop(kept);
        assert_eq!(scene.tally.starts(), 1);
        scene.end();
    });
}

/// The wake reaches the waker that is there, or the driver sees that the body is woken.
#[test]
fn driver_whose_waker_is_replaced_during_a_wake_is_woken() {
    explore(3, || {
        let scene = Scene::new(1);
        // With a waker that wakes nobody; from now on with a thread's.
        let driver = go(scene.parked());
        let firing = thread::spawn({
            let events = scene.events.clone();
            move || events[0].fire()
        });
        assert_eq!(driver.join().unwrap(), Ok(0));
        firing.join().unwrap();
        scene.end();
    });
}

/// As above for one that is in the list.
#[test]
fn waiter_whose_waker_is_replaced_during_a_wake_is_woken() {
    explore(3, || {
        let scene = Scene::new(1);
        let kept = scene.parked();
        let waiter = go(scene.parked());
        let firing = thread::spawn({
            let events = scene.events.clone();
            move || events[0].fire()
        });
        assert_eq!(waiter.join().unwrap(), Ok(0));
        firing.join().unwrap();
        drop(kept);
        scene.end();
    });
}

/// One takes the place that the driver left, the other is listed; both are woken.
#[test]
fn two_that_park_where_the_driver_leaves_are_both_woken() {
    explore(1, || {
        let scene = Scene::new(1);
        let driver = scene.parked();
        let threads = [go(scene.parked()), go(scene.caller())];
        drop(driver);
        scene.events[0].fire();
        for thread in threads {
            assert_eq!(thread.join().unwrap(), Ok(0));
        }
        assert_eq!(scene.tally.starts(), 1);
        scene.end();
    });
}
