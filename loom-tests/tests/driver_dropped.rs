//! The caller that drives a run is dropped while another waits: does the other go on with the same run?
//!
//! ```text
//! driver: called before ---- drop ------------.
//! waiter: called before ---- wait ------------+-- the value of the first run
//! event:                ---- fire ------------'
//! ```
//!
//! Explored with at most 3 preemptions, 2 where there are two events. Both have called before the race, so there is one start and one
//! outcome. Guards S8, S9's count, H1, H6 and C2.
#![cfg(loom)]

use std::convert::Infallible;

use loom::thread;
use watershed::Ctx;
use watershed_loom_tests::scene::{Scene, World};
use watershed_loom_tests::{Seen, Value, explore, go, poll_once};

#[test]
fn dropped_between_polls_it_leaves_the_run_to_the_other() {
    explore(3, || {
        let scene = Scene::new(1);
        let driver = scene.parked();
        let waiter = go(scene.parked());
        let firing = thread::spawn({
            let events = scene.events.clone();
            move || events[0].fire()
        });
        drop(driver);
        assert_eq!(waiter.join().unwrap(), Ok(0));
        firing.join().unwrap();
        assert_eq!(scene.tally.starts(), 1);
        scene.end();
    });
}

#[test]
fn dropped_after_the_wake_it_leaves_the_poll_to_the_other() {
    explore(3, || {
        let scene = Scene::new(1);
        let driver = scene.parked();
        let waiter = scene.parked();
        scene.events[0].fire();
        let waiter = go(waiter);
        let driver = thread::spawn(move || drop(driver));
        assert_eq!(waiter.join().unwrap(), Ok(0));
        driver.join().unwrap();
        assert_eq!(scene.tally.starts(), 1);
        scene.end();
    });
}

/// Waits for one event, then for another.
async fn twice(ctx: Ctx<World>, _: u64) -> Result<Value, Infallible> {
    let World { tally, events } = ctx.state();
    let body = tally.body();
    for event in &events[..] {
        event.wait().await;
        body.polled();
    }
    Ok(tally.value(body.number))
}

#[test]
fn dropped_right_after_a_poll_it_leaves_the_next_one_to_the_other() {
    static SEEN: Seen = Seen::new();
    explore(2, || {
        let scene = Scene::new(2);
        let mut driver = scene.call(twice);
        assert!(poll_once(&mut driver).is_pending());
        let mut waiter = scene.call(twice);
        assert!(poll_once(&mut waiter).is_pending());
        scene.events[0].fire();

        let waiter = go(waiter);
        let firing = thread::spawn({
            let events = scene.events.clone();
            move || events[1].fire()
        });
        SEEN.mark(usize::from(poll_once(&mut driver).is_ready()));
        drop(driver);
        assert_eq!(waiter.join().unwrap(), Ok(0));
        firing.join().unwrap();
        assert_eq!(scene.tally.starts(), 1);
        scene.end();
    });
    SEEN.assert_all(2);
}
