//! A value expires while its refresh ends: is what has expired never given, and does who waits get the refresh's value?
//!
//! ```text
//! driver:  ---- finish: swap, outcome, wake ----.
//! main:    ---- time passes, call, wait --------+-- the refresh's value, or that of a run of its own
//! ```
//!
//! Explored with at most 3 preemptions, 2 with two callers, on stand-ins for map and epochs. Guards R1, R2 and the look under the entry's lock.
#![cfg(loom)]

use watershed_loom_tests::tier::{SECOND, Tier, fails_first};
use watershed_loom_tests::{Seen, block_on, explore, go, poll_once};

#[test]
fn what_has_expired_is_not_given_whenever_its_refresh_ends() {
    static SEEN: Seen = Seen::new();
    explore(3, || {
        let tier = Tier::new(|builder| builder.ttl(2 * SECOND).refresh_after(SECOND));
        tier.prime(1, 7);
        tier.advance(SECOND);
        assert_eq!(block_on(tier.caller(1)), Ok(7));
        let driving = go(tier.drivers().pop().expect("a refresh"));
        tier.advance(SECOND);
        // The old one is gone; the new one is there, or waited for.
        assert_eq!(block_on(tier.caller(1)), Ok(0));
        let early = tier.tally.starts();
        driving.join().unwrap();
        assert_eq!(early, 1);
        SEEN.mark(usize::from(tier.shared.stats().waits == 1));
        tier.end();
    });
    SEEN.assert_all(2);
}

#[test]
fn callers_of_what_has_expired_share_one_run() {
    explore(2, || {
        let tier = Tier::new(|builder| builder.ttl(SECOND));
        tier.prime(1, 7);
        tier.advance(SECOND);
        let mut first = tier.caller(1);
        assert!(poll_once(&mut first).is_pending());
        let driving = go(tier.drivers().pop().expect("a run"));
        let second = go(tier.caller(1));
        assert_eq!(block_on(first), Ok(0));
        assert_eq!(second.join().unwrap(), Ok(0));
        driving.join().unwrap();
        assert_eq!(tier.tally.starts(), 1);
        tier.end();
    });
}

/// Who has seen a failure, or comes after somebody who has, runs again.
#[test]
fn failure_is_for_those_who_waited() {
    static SEEN: Seen = Seen::new();
    explore(2, || {
        let tier = Tier::new(|builder| builder);
        let mut first = Box::pin(tier.shared.run(fails_first, 1));
        assert!(poll_once(&mut first).is_pending());
        let driving = go(tier.drivers().pop().expect("a run"));
        assert!(block_on(first).is_err());
        let mut second = Box::pin(tier.shared.run(fails_first, 1));
        assert!(poll_once(&mut second).is_pending(), "the old failure");
        driving.join().unwrap();
        tier.drive();
        assert_eq!(block_on(second).unwrap().number(), 1);
        SEEN.mark(0);
        tier.end();
    });
    SEEN.assert_all(1);
}

#[test]
fn callers_that_come_at_once_start_one_run() {
    explore(2, || {
        let tier = Tier::new(|builder| builder);
        let others = [1, 1].map(|key| {
            let mut caller = tier.caller(key);
            loom::thread::spawn(move || match poll_once(&mut caller) {
                std::task::Poll::Ready(outcome) => Err(outcome),
                std::task::Poll::Pending => Ok(caller),
            })
        });
        let others = others.map(|other| other.join().unwrap());
        let drivers = tier.drivers();
        assert_eq!(drivers.len(), 1);
        drivers.into_iter().for_each(block_on);
        for other in others {
            assert_eq!(other.map_or_else(|outcome| outcome, block_on), Ok(0));
        }
        assert_eq!(tier.tally.starts(), 1);
        tier.end();
    });
}

/// Each drives what it has started, so a run may begin and end while another caller is about to start one.
#[test]
fn callers_who_drive_at_once_start_one_run() {
    static SEEN: Seen = Seen::new();
    explore(2, || {
        let tier = Tier::new(|builder| builder);
        let other = loom::thread::spawn({
            let tier = tier.handle();
            move || tier.call(1)
        });
        assert_eq!(tier.call(1), Ok(0));
        assert_eq!(other.join().unwrap(), Ok(0));
        assert_eq!(tier.tally.starts(), 1);
        SEEN.mark(usize::from(tier.shared.stats().waits == 1));
        tier.end();
    });
    SEEN.assert_all(2);
}
