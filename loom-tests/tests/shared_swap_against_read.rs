//! A refresh puts its value in while others read: does a reader get the old one or the new one, whole, and is each dropped once?
//!
//! ```text
//! driver:  ---- finish: swap, retire ----.
//! reader:  ---- pin, load, count, look --+-- the old value or the new one
//! reader:  ---- the same ----------------'
//! ```
//!
//! Explored with at most 2 preemptions, on stand-ins for map and epochs. Guards P1, P2 and that what was swapped out waits for who is pinned.
#![cfg(loom)]

use loom::thread;
use watershed_loom_tests::tier::{SECOND, Tier};
use watershed_loom_tests::{Seen, block_on, explore, go};

#[test]
fn reader_gets_the_old_value_or_the_new_one_whole() {
    static SEEN: Seen = Seen::new();
    explore(2, || {
        let tier = Tier::new(|builder| builder.refresh_after(SECOND));
        tier.prime(1, 7);
        tier.advance(SECOND);
        // Starts the refresh, and gets what is there.
        assert_eq!(block_on(tier.caller(1)), Ok(7));
        let driver = tier.drivers().pop().expect("a refresh");
        let driving = go(driver);
        let reading = thread::spawn({
            let caller = tier.caller(1);
            move || block_on(caller).unwrap()
        });
        let here = block_on(tier.caller(1)).unwrap();
        let there = reading.join().unwrap();
        driving.join().unwrap();
        SEEN.mark(usize::from(here == 0) + 2 * usize::from(there == 0));
        assert_eq!(tier.peek(1).unwrap().number(), 0);
        assert_eq!(tier.tally.starts(), 1);
        tier.end();
    });
    SEEN.assert_all(4);
}

#[test]
fn value_that_is_held_outlives_its_place() {
    static SEEN: Seen = Seen::new();
    explore(3, || {
        let tier = Tier::new(|builder| builder);
        tier.prime(1, 7);
        let forgetting = thread::spawn({
            let shared = tier.shared.clone();
            move || assert!(shared.forget(watershed_loom_tests::tier::numbered, &1))
        });
        let held = tier.peek(1);
        forgetting.join().unwrap();
        SEEN.mark(usize::from(held.is_some()));
        if let Some(held) = &held {
            assert_eq!(held.number(), 7);
            assert_eq!(tier.tally.values(), 1);
        }
        drop(held);
        tier.end();
    });
    SEEN.assert_all(2);
}
