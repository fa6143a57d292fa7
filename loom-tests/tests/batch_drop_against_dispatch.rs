//! A caller goes away while its batch is sent, or is under way: do the others get their values, is a key asked for only if somebody wanted
//! it, and does the batch go with its last caller?
//!
//! ```text
//! leaver:  called before ---- drop ------------------------.
//! other:   called before ---- second poll: sends, waits ---+-- a value
//! event:                 ---- fire ------------------------'
//! ```
//!
//! Explored with at most 2 preemptions, 3 where that is small and 1 where four meet or two keys wait. Guards B5, B7, F1, F3, F4, F6, F7, S14.
#![cfg(loom)]

use loom::thread;
use watershed_loom_tests::batching::{Batching, polled};
use watershed_loom_tests::{Seen, explore, go};

#[test]
fn a_key_that_is_left_while_the_batch_goes_is_in_it_or_not() {
    static ASKED: Seen = Seen::new();
    explore(2, || {
        let scene = Batching::new(0);
        let leaver = polled(scene.ready(1), 1);
        let other = go(polled(scene.ready(2), 1));
        let leaving = thread::spawn(move || drop(leaver));
        assert_eq!(other.join().unwrap(), Ok(2));
        leaving.join().unwrap();
        match &scene.asked()[..] {
            [one] => ASKED.mark(one.len() - 1),
            more => panic!("{more:?}"),
        }
        scene.end();
    });
    ASKED.assert_all(2);
}

#[test]
fn one_of_two_callers_of_a_key_leaves_while_the_batch_goes() {
    explore(3, || {
        let scene = Batching::new(0);
        let leaver = polled(scene.ready(1), 1);
        let other = go(polled(scene.ready(1), 1));
        let leaving = thread::spawn(move || drop(leaver));
        assert_eq!(other.join().unwrap(), Ok(1));
        leaving.join().unwrap();
        assert_eq!(scene.asked(), [[1]]);
        scene.end();
    });
}

/// The one that arrives may send the batch while the key's body is on its way out of it: then that was for nobody, and the key is asked for again.
#[test]
fn the_last_caller_leaves_while_another_arrives() {
    static ASKED: Seen = Seen::new();
    explore(2, || {
        let scene = Batching::new(0);
        let leaver = polled(scene.ready(1), 1);
        let other = go(scene.ready(1));
        let leaving = thread::spawn(move || drop(leaver));
        assert_eq!(other.join().unwrap(), Ok(1));
        leaving.join().unwrap();
        let asked = scene.asked();
        assert!(asked.iter().all(|keys| keys == &[1]), "{asked:?}");
        ASKED.mark(asked.len() - 1);
        scene.end();
    });
    ASKED.assert_all(2);
}

#[test]
fn the_driver_leaves_in_flight_while_it_is_woken() {
    explore(2, || {
        let scene = Batching::new(1);
        let other = polled(scene.waiting(2), 1);
        let leaver = polled(scene.waiting(1), 2);
        let other = go(other);
        let firing = thread::spawn({
            let events = scene.events.clone();
            move || events[0].fire()
        });
        drop(leaver);
        assert_eq!(other.join().unwrap(), Ok(2));
        firing.join().unwrap();
        assert_eq!(scene.asked(), [[1, 2]]);
        scene.end();
    });
}

/// A driver that is kept and not polled, in flight: the wake reaches the other key's caller all the same.
#[test]
fn a_wake_reaches_the_callers_of_every_key() {
    explore(2, || {
        let scene = Batching::new(1);
        let waits = polled(scene.waiting(2), 1);
        let kept = polled(scene.waiting(1), 2);
        let waits = go(waits);
        let firing = thread::spawn({
            let events = scene.events.clone();
            move || events[0].fire()
        });
        assert_eq!(waits.join().unwrap(), Ok(2));
        firing.join().unwrap();
        drop(kept);
        scene.end();
    });
}

/// Two callers of two keys wait while it is woken: one of them drives, both are told.
#[test]
fn two_keys_wait_for_one_batch() {
    explore(1, || {
        let scene = Batching::new(1);
        let one = polled(scene.waiting(1), 1);
        let two = polled(scene.waiting(2), 2);
        let one = go(one);
        let two = go(two);
        scene.events[0].fire();
        assert_eq!(one.join().unwrap(), Ok(1));
        assert_eq!(two.join().unwrap(), Ok(2));
        scene.end();
    });
}

#[test]
fn the_last_two_callers_leave_at_once_and_the_batch_goes() {
    explore(3, || {
        let scene = Batching::new(1);
        let one = polled(scene.waiting(1), 1);
        let two = polled(scene.waiting(2), 2);
        let one = thread::spawn(move || drop(one));
        let two = thread::spawn(move || drop(two));
        one.join().unwrap();
        two.join().unwrap();
        assert_eq!(scene.tally.starts(), 1);
        scene.end();
    });
}

/// The only caller leaves while the batch that it sent is being woken.
#[test]
fn the_only_caller_leaves_while_it_is_woken() {
    explore(3, || {
        let scene = Batching::new(2);
        let leaver = polled(scene.waiting(1), 2);
        let firing = thread::spawn({
            let events = scene.events.clone();
            move || events[0].fire()
        });
        let leaving = thread::spawn(move || drop(leaver));
        firing.join().unwrap();
        leaving.join().unwrap();
        scene.end();
    });
}

/// The batch is done and puts the values into the slots while the caller of one of them leaves: its value is kept, or gone with its body.
#[test]
fn a_caller_leaves_while_its_value_is_delivered() {
    static KEPT: Seen = Seen::new();
    explore(3, || {
        let scene = Batching::new(1);
        let leaver = polled(scene.waiting(2), 1);
        let other = polled(scene.waiting(1), 2);
        scene.events[0].fire();
        let other = go(other);
        let leaving = thread::spawn(move || drop(leaver));
        assert_eq!(other.join().unwrap(), Ok(1));
        leaving.join().unwrap();
        KEPT.mark(usize::from(scene.has(2)));
        scene.end();
    });
    KEPT.assert_all(2);
}

/// The same, and another caller of that key arrives, before, while or after it is delivered: it gets that value.
#[test]
fn a_caller_arrives_while_the_value_is_delivered() {
    static KEPT: Seen = Seen::new();
    explore(2, || {
        let scene = Batching::new(2);
        let leaver = polled(scene.waiting(2), 1);
        let other = polled(scene.waiting(1), 2);
        scene.events.iter().for_each(|event| event.fire());
        let other = go(other);
        drop(leaver);
        KEPT.mark(usize::from(scene.has(2)));
        let arrival = go(scene.waiting(2));
        assert_eq!(other.join().unwrap(), Ok(1));
        assert_eq!(arrival.join().unwrap(), Ok(2));
        assert_eq!(scene.asked(), [[1, 2]]);
        scene.end();
    });
    KEPT.assert_all(2);
}

/// Another caller of a key that was left arrives while the last caller of the batch leaves: it keeps the batch, or comes too late.
#[test]
fn a_caller_comes_back_while_the_last_one_leaves() {
    static BATCHES: Seen = Seen::new();
    explore(2, || {
        let scene = Batching::new(2);
        let leaver = polled(scene.waiting(2), 1);
        let last = polled(scene.waiting(1), 2);
        drop(leaver);
        scene.events.iter().for_each(|event| event.fire());
        let arrival = go(scene.waiting(2));
        let leaving = thread::spawn(move || drop(last));
        assert_eq!(arrival.join().unwrap(), Ok(2));
        leaving.join().unwrap();
        match &scene.asked()[..] {
            [both] => {
                assert_eq!(both, &[1, 2]);
                BATCHES.mark(0);
            }
            two => {
                assert_eq!(two, [vec![1, 2], vec![2]]);
                BATCHES.mark(1);
            }
        }
        scene.end();
    });
    BATCHES.assert_all(2);
}
