//! Three threads call one task with one input: is there one run, and do all three get its value?
//!
//! ```text
//! main:   ---- call ----.
//! one:    ---- call ----+-- one value
//! other:  ---- call ----'
//! ```
//!
//! Explored with at most 1 preemption (2 take 50 seconds). Where they wait for an event, three threads that sleep until a fourth fires it are too many, so one sleeps, one is polled once in the race and one before, and neither
//! of those is polled again before the end. Guards S1, S2, S7.
#![cfg(loom)]

use loom::thread;
use watershed_loom_tests::scene::{Scene, ready};
use watershed_loom_tests::{Seen, block_on, explore, go, poll_once};

#[test]
fn body_that_is_ready_runs_once_for_three() {
    explore(1, || {
        let scene = Scene::new(0);
        let threads = [0, 1].map(|_| go(scene.call(ready)));
        assert_eq!(block_on(scene.call(ready)), Ok(0));
        for thread in threads {
            assert_eq!(thread.join().unwrap(), Ok(0));
        }
        assert_eq!(scene.tally.starts(), 1);
        scene.end();
    });
}

#[test]
fn body_that_waits_runs_once_for_three() {
    static SEEN: Seen = Seen::new();
    explore(1, || {
        let scene = Scene::new(1);
        let mut early = scene.parked();
        let other = go(scene.caller());
        let firing = thread::spawn({
            let events = scene.events.clone();
            move || events[0].fire()
        });
        let mut late = scene.caller();
        let first = poll_once(&mut late);
        assert_eq!(other.join().unwrap(), Ok(0));
        firing.join().unwrap();
        SEEN.mark(usize::from(first.is_ready()));

        assert_eq!(block_on(early.as_mut()), Ok(0));
        if first.is_pending() {
            assert_eq!(block_on(late.as_mut()), Ok(0));
        }
        drop((early, late));
        assert_eq!(scene.tally.starts(), 1);
        scene.end();
    });
    SEEN.assert_all(2);
}
