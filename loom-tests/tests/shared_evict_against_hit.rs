//! An entry is evicted while it is hit, or while its run ends: is what a reader gets whole, and are bound and map of one mind?
//!
//! ```text
//! putting: ---- put another in: evict ----.
//! main:    ---- hit ----------------------+-- the value, or a run of its own
//! ```
//!
//! Explored with at most 3 preemptions, 2 with a run, on stand-ins for map and epochs. Guards the evictor's way through the entry's lock, and that
//! who removes an entry says so before it goes to the bound.
#![cfg(loom)]

use loom::thread;
use watershed_loom_tests::tier::{SECOND, Tier, numbered};
use watershed_loom_tests::{Seen, block_on, explore, go, poll_once};

#[test]
fn evicted_value_is_whole_or_not_there() {
    static SEEN: Seen = Seen::new();
    explore(3, || {
        let tier = Tier::new(|builder| builder.max_entries(1));
        tier.prime(1, 7);
        let putting = thread::spawn({
            let (shared, tally) = (tier.shared.clone(), tier.tally.clone());
            move || {
                let value = watershed_loom_tests::tier::Watched::new(&tally, 8);
                assert!(shared.prime(numbered, 2, value).is_ok());
            }
        });
        let held = tier.peek(1);
        putting.join().unwrap();
        SEEN.mark(usize::from(held.is_some()));
        assert!(held.is_none_or(|value| value.number() == 7));
        assert!(tier.peek(1).is_none());
        assert_eq!(tier.peek(2).unwrap().number(), 8);
        assert_eq!(tier.shared.len(), 1);
        tier.end();
    });
    SEEN.assert_all(2);
}

#[test]
fn run_that_ends_while_others_are_put_in_keeps_the_bound() {
    static SEEN: Seen = Seen::new();
    explore(2, || {
        let tier = Tier::new(|builder| builder.max_entries(1));
        let mut caller = tier.caller(1);
        assert!(poll_once(&mut caller).is_pending());
        let driving = go(tier.drivers().pop().expect("a run"));
        tier.prime(2, 8);
        driving.join().unwrap();
        assert_eq!(block_on(caller), Ok(0));
        let (one, two) = (tier.peek(1).is_some(), tier.peek(2).is_some());
        assert!(one != two, "one of them is kept");
        assert_eq!(tier.shared.len(), 1);
        SEEN.mark(usize::from(one));
        tier.end();
    });
    SEEN.assert_all(2);
}

#[test]
fn forgotten_while_its_run_ends_it_is_not_counted() {
    explore(3, || {
        let tier = Tier::new(|builder| builder.max_entries(2));
        let mut caller = tier.caller(1);
        assert!(poll_once(&mut caller).is_pending());
        let driving = go(tier.drivers().pop().expect("a run"));
        assert!(tier.shared.forget(numbered, &1));
        driving.join().unwrap();
        assert_eq!(block_on(caller), Ok(0));
        assert_eq!(tier.shared.len(), 0);
        assert!(tier.peek(1).is_none());
        tier.prime(2, 8);
        tier.prime(3, 9);
        assert_eq!(tier.shared.len(), 2);
        tier.end();
    });
}

/// Evicted under the hands of who is about to run it again: the run's value is found afterwards.
#[test]
fn evicted_and_called_at_once_it_is_run_where_others_find_it() {
    static SEEN: Seen = Seen::new();
    explore(3, || {
        let tier = Tier::new(|builder| builder.max_entries(1));
        tier.prime(1, 7);
        let putting = thread::spawn({
            let tier = tier.handle();
            move || tier.prime(2, 8)
        });
        let got = tier.call(1).unwrap();
        putting.join().unwrap();
        let there = tier.peek(1).map(|value| value.number());
        assert_eq!(there, (got == 0).then_some(0));
        assert_eq!(tier.peek(2).is_some(), got == 7);
        assert_eq!(tier.shared.len(), 1);
        SEEN.mark(usize::from(got == 7));
        tier.end();
    });
    SEEN.assert_all(2);
}

#[test]
fn evicted_while_it_refreshes_its_run_is_still_joined() {
    static SEEN: Seen = Seen::new();
    explore(3, || {
        let tier = Tier::new(|builder| builder.max_entries(1).refresh_after(SECOND));
        tier.prime(1, 7);
        tier.advance(SECOND);
        assert_eq!(block_on(tier.caller(1)), Ok(7));
        let refresh = tier.drivers().pop().expect("a refresh");
        let putting = thread::spawn({
            let tier = tier.handle();
            move || tier.prime(2, 8)
        });
        let mut caller = tier.caller(1);
        let early = poll_once(&mut caller);
        putting.join().unwrap();
        assert!(tier.drivers().is_empty(), "a second run");
        block_on(refresh);
        match early {
            std::task::Poll::Ready(got) => assert_eq!(got, Ok(7)),
            std::task::Poll::Pending => assert_eq!(block_on(caller), Ok(0)),
        }
        SEEN.mark(usize::from(early.is_pending()));
        assert_eq!(tier.peek(1).unwrap().number(), 0);
        tier.end();
    });
    SEEN.assert_all(2);
}
