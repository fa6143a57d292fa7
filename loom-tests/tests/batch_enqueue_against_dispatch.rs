//! A key is put into a batch while the batch goes: is it in this one or in the next, in one and only one, and is it asked for although
//! whoever put it in is never polled again?
//!
//! ```text
//! opener:  called before ---- second poll: sends, waits ---.
//! arrival:               ---- calls, waits ----------------+-- each a value
//! kept:    called in a thread, and never polled again -----'
//! ```
//!
//! Explored with at most 2 preemptions, 3 where that is small, 1 where it is closed, and where two ask for one key and wake each other. Guards B1, B2, B3, F1, F2.
#![cfg(loom)]

use loom::thread;
use watershed_loom_tests::batching::{Batching, polled};
use watershed_loom_tests::{Seen, explore, go, poll_once};

#[test]
fn a_key_that_arrives_is_in_this_batch_or_in_the_next() {
    static BATCHES: Seen = Seen::new();
    explore(2, || {
        let scene = Batching::new(0);
        let opener = go(polled(scene.ready(1), 1));
        let arrival = go(scene.ready(2));
        assert_eq!(opener.join().unwrap(), Ok(1));
        assert_eq!(arrival.join().unwrap(), Ok(2));
        match &scene.asked()[..] {
            [both] => {
                assert_eq!(both, &[1, 2]);
                BATCHES.mark(0);
            }
            two => {
                assert_eq!(two, [[1], [2]]);
                BATCHES.mark(1);
            }
        }
        scene.end();
    });
    BATCHES.assert_all(2);
}

#[test]
fn two_first_callers_of_two_keys_get_their_values() {
    static BATCHES: Seen = Seen::new();
    explore(2, || {
        let scene = Batching::new(0);
        let one = go(scene.ready(1));
        let two = go(scene.ready(2));
        assert_eq!(one.join().unwrap(), Ok(1));
        assert_eq!(two.join().unwrap(), Ok(2));
        BATCHES.mark(scene.asked().len() - 1);
        scene.end();
    });
    BATCHES.assert_all(2);
}

#[test]
fn a_key_that_two_ask_for_is_asked_for_once() {
    explore(1, || {
        let scene = Batching::new(0);
        let one = go(scene.ready(7));
        let two = go(scene.ready(7));
        assert_eq!(one.join().unwrap(), Ok(7));
        assert_eq!(two.join().unwrap(), Ok(7));
        assert_eq!(scene.asked(), [[7]]);
        scene.end();
    });
}

/// Whoever polls the key's body first is not polled again: the other caller of that key must notice the batch by itself.
#[test]
fn a_caller_sends_the_batch_that_somebody_else_opened_for_its_key() {
    explore(1, || {
        let scene = Batching::new(0);
        let mut kept = scene.ready(7);
        let kept = thread::spawn(move || {
            let _ = poll_once(&mut kept);
            kept
        });
        let waits = go(scene.ready(7));
        assert_eq!(waits.join().unwrap(), Ok(7));
        drop(kept.join().unwrap());
        assert_eq!(scene.asked(), [[7]]);
        scene.end();
    });
}

/// The same with another key: its batch has been opened by somebody who is not polled again.
#[test]
fn a_caller_sends_the_batch_that_somebody_else_opened() {
    static BATCHES: Seen = Seen::new();
    explore(3, || {
        let scene = Batching::new(0);
        let mut kept = scene.ready(1);
        let kept = thread::spawn(move || {
            let _ = poll_once(&mut kept);
            kept
        });
        let waits = go(scene.ready(2));
        assert_eq!(waits.join().unwrap(), Ok(2));
        drop(kept.join().unwrap());
        let asked = scene.asked();
        BATCHES.mark(usize::from(asked == [vec![1, 2]]));
        scene.end();
    });
    BATCHES.assert_all(2);
}

/// Two callers of a batch send it at the same time: it runs once, and both are told.
#[test]
fn two_who_send_make_one_run() {
    explore(2, || {
        let scene = Batching::new(0);
        let one = polled(scene.ready(1), 1);
        let two = polled(scene.ready(2), 1);
        let one = go(one);
        let two = go(two);
        assert_eq!(one.join().unwrap(), Ok(1));
        assert_eq!(two.join().unwrap(), Ok(2));
        assert_eq!(scene.asked(), [[1, 2]]);
        scene.end();
    });
}

/// The context ends while the batch goes.
#[test]
fn closed_while_it_goes_it_gives_a_value_or_is_cancelled() {
    static OUTCOMES: Seen = Seen::new();
    explore(1, || {
        let scene = Batching::new(1);
        let caller = go(polled(scene.waiting(1), 1));
        let closing = thread::spawn({
            let ctx = scene.ctx.clone();
            move || {
                ctx.cancel();
                drop(ctx);
            }
        });
        scene.events[0].fire();
        OUTCOMES.mark(usize::from(caller.join().unwrap().is_ok()));
        closing.join().unwrap();
        scene.end();
    });
    OUTCOMES.assert_all(2);
}
