//! A caller that waits is dropped when it has been, or is being, notified: does the wake reach those who still wait?
//!
//! ```text
//! driver: called before ---- wait, or never polled again ---.
//! dropped: called before ---- drop -------------------------+-- the value
//! waiter: called before ---- wait --------------------------|
//! event:                ---- fire, or fired before ---------'
//! ```
//!
//! Explored with at most 3 preemptions; all have called before the race.
//! Guards H1, H4 and that leaving passes no wake by.
#![cfg(loom)]

use loom::thread;
use watershed_loom_tests::scene::Scene;
use watershed_loom_tests::{explore, go};

#[test]
fn dropped_while_it_is_notified_it_leaves_the_driver_awake() {
    explore(3, || {
        let scene = Scene::new(1);
        let driver = scene.parked();
        let dropped = scene.parked();
        let driver = go(driver);
        let firing = thread::spawn({
            let events = scene.events.clone();
            move || events[0].fire()
        });
        drop(dropped);
        assert_eq!(driver.join().unwrap(), Ok(0));
        firing.join().unwrap();
        assert_eq!(scene.tally.starts(), 1);
        scene.end();
    });
}

#[test]
fn dropped_while_it_is_notified_it_leaves_another_waiter_awake() {
    explore(3, || {
        let scene = Scene::new(1);
        let kept = scene.parked();
        let dropped = scene.parked();
        let waiter = go(scene.parked());
        let firing = thread::spawn({
            let events = scene.events.clone();
            move || events[0].fire()
        });
        drop(dropped);
        assert_eq!(waiter.join().unwrap(), Ok(0));
        firing.join().unwrap();
        drop(kept);
        assert_eq!(scene.tally.starts(), 1);
        scene.end();
    });
}

#[test]
fn dropped_after_it_was_notified_it_leaves_another_waiter_awake() {
    explore(3, || {
        let scene = Scene::new(1);
        let kept = scene.parked();
        let dropped = scene.parked();
        let waiter = scene.parked();
        scene.events[0].fire();
        let waiter = go(waiter);
        let dropped = thread::spawn(move || drop(dropped));
        assert_eq!(waiter.join().unwrap(), Ok(0));
        dropped.join().unwrap();
        drop(kept);
        assert_eq!(scene.tally.starts(), 1);
        scene.end();
    });
}
