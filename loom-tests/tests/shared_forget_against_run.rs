//! An entry is forgotten, or put in anew, while its run ends: does the end of the old run touch nothing newer?
//!
//! ```text
//! driver:  ---- finish ---------------------.
//! main:    ---- forget, put in anew, call --+-- what was put in, always
//! ```
//!
//! Explored with at most 3 preemptions, on stand-ins for map and epochs. Guards that the end of a run looks whether it is the entry's, under the
//! entry's lock, and that a removed entry is not used again.
#![cfg(loom)]

use watershed_loom_tests::tier::{Tier, numbered};
use watershed_loom_tests::{Seen, block_on, explore, go, poll_once};

#[test]
fn forgotten_run_overwrites_nothing_newer() {
    static SEEN: Seen = Seen::new();
    explore(3, || {
        let tier = Tier::new(|builder| builder);
        let mut old = tier.caller(1);
        assert!(poll_once(&mut old).is_pending());
        let driving = go(tier.drivers().pop().expect("a run"));
        assert!(tier.shared.forget(numbered, &1), "it ran or was done");
        SEEN.mark(usize::from(tier.tally.made() > 0));
        tier.prime(1, 7);
        assert_eq!(block_on(tier.caller(1)), Ok(7));
        assert_eq!(block_on(old), Ok(0));
        driving.join().unwrap();
        assert_eq!(tier.peek(1).unwrap().number(), 7);
        assert_eq!(tier.shared.len(), 1);
        tier.end();
    });
    SEEN.assert_all(2);
}

#[test]
fn call_after_forget_is_a_new_run() {
    explore(3, || {
        let tier = Tier::new(|builder| builder);
        let mut old = tier.caller(1);
        assert!(poll_once(&mut old).is_pending());
        let driving = go(tier.drivers().pop().expect("a run"));
        assert!(tier.shared.forget(numbered, &1));
        let mut new = tier.caller(1);
        assert!(poll_once(&mut new).is_pending(), "the old run's");
        let newer = tier.drivers();
        assert_eq!(newer.len(), 1);
        driving.join().unwrap();
        newer.into_iter().for_each(block_on);
        assert_eq!(block_on(old), Ok(0));
        assert_eq!(block_on(new), Ok(1));
        assert_eq!(tier.peek(1).unwrap().number(), 1);
        tier.end();
    });
}

#[test]
fn two_who_forget_and_one_who_calls_leave_one_entry_at_most() {
    static SEEN: Seen = Seen::new();
    explore(2, || {
        let tier = Tier::new(|builder| builder);
        tier.prime(1, 7);
        let forgetting = loom::thread::spawn({
            let shared = tier.shared.clone();
            move || shared.forget(numbered, &1)
        });
        let got = tier.call(1).unwrap();
        assert!(forgetting.join().unwrap());
        SEEN.mark(usize::from(got == 7));
        let there = tier.peek(1).map(|value| value.number());
        assert_eq!(there, (got == 0).then_some(0));
        assert_eq!(tier.shared.len(), usize::from(there.is_some()));
        tier.end();
    });
    SEEN.assert_all(2);
}
