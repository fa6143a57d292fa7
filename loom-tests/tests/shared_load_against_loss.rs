//! Two keys of the second tier gather: is each in one batch, does who waits hear of its end, and does it go on if the run that leads the batch is
//! lost?
//!
//! ```text
//! driver 1:  opens ---- second poll: asks, ends | is dropped ---.
//! driver 2:        ---- puts its key in, waits -----------------+-- each call a value
//! ```
//!
//! Explored with at most 2 preemptions, on stand-ins for map and epochs. Guards that a batch is closed and joined under one lock, that its end
//! and its loss wake who waits, and that a lost one gives its keys back.
#![cfg(loom)]

use std::convert::Infallible;
use std::sync::Arc;

use loom::thread;
use watershed::shared_model::Driver;
use watershed::{Ctx, TaskErrorKind};
use watershed_loom_tests::tier::{Caller, Tier, Watched};
use watershed_loom_tests::{Seen, Tally, block_on, explore, go, poll_once};

async fn loaded(ctx: Ctx<Arc<Tally>>, keys: Vec<u64>) -> Result<Vec<(u64, Watched)>, Infallible> {
    let tally = ctx.state();
    let _body = tally.body();
    let value = |k| (k, Watched::new(tally, k as usize));
    Ok(keys.into_iter().map(value).collect())
}

fn caller(tier: &Tier, key: u64) -> Caller {
    let shared = Arc::clone(&tier.shared);
    Box::pin(async move {
        let called = shared.load(loaded, key).await;
        called
            .map(|value| value.expect("it is returned").number())
            .map_err(|error| error.kind())
    })
}

/// A caller that was polled, and the driver of its run.
fn started(tier: &Tier, key: u64) -> (Caller, Driver) {
    let mut caller = caller(tier, key);
    assert!(poll_once(&mut caller).is_pending());
    (caller, tier.drivers().pop().expect("a run"))
}

#[test]
fn two_keys_are_in_one_batch_or_in_two() {
    static BATCHES: Seen = Seen::new();
    explore(2, || {
        let tier = Tier::new(|builder| builder);
        let (one, first) = started(&tier, 1);
        let (two, second) = started(&tier, 2);
        let first = go(first);
        let second = go(second);
        first.join().unwrap();
        second.join().unwrap();
        assert_eq!(block_on(one), Ok(1));
        assert_eq!(block_on(two), Ok(2));
        BATCHES.mark(tier.tally.starts() - 1);
        tier.end();
    });
    BATCHES.assert_all(2);
}

#[test]
fn who_waits_hears_of_the_end() {
    explore(2, || {
        let tier = Tier::new(|builder| builder);
        let (one, mut first) = started(&tier, 1);
        let (two, second) = started(&tier, 2);
        assert!(poll_once(&mut first).is_pending(), "it leads");
        let second = go(second);
        let first = go(first);
        first.join().unwrap();
        second.join().unwrap();
        assert_eq!(block_on(one), Ok(1));
        assert_eq!(block_on(two), Ok(2));
        tier.end();
    });
}

#[test]
fn who_waits_goes_on_without_a_leader_that_is_lost() {
    static LED: Seen = Seen::new();
    explore(2, || {
        let tier = Tier::new(|builder| builder);
        let (mut one, mut first) = started(&tier, 1);
        let (two, mut second) = started(&tier, 2);
        assert!(poll_once(&mut first).is_pending(), "it leads");
        let joins = thread::spawn(move || {
            let joined = poll_once(&mut second).is_pending();
            (joined, second)
        });
        drop(first);
        let (waits, second) = joins.join().unwrap();
        assert!(waits);
        block_on(second);
        assert_eq!(block_on(two), Ok(2));
        LED.mark(tier.tally.starts() - 1);
        // The first one's call asks once more, on the runtime of who asks.
        assert!(poll_once(&mut one).is_pending());
        tier.drive();
        assert_eq!(block_on(one), Ok(1));
        assert_ne!(tier.tally.starts(), 0);
        tier.end();
    });
    LED.assert_all(1);
}

/// Both are lost: both calls ask once more, and get their values.
#[test]
fn both_runs_are_lost() {
    explore(1, || {
        let tier = Tier::new(|builder| builder);
        let (mut one, mut first) = started(&tier, 1);
        let (mut two, mut second) = started(&tier, 2);
        assert!(poll_once(&mut first).is_pending(), "it leads");
        assert!(poll_once(&mut second).is_pending(), "it joins");
        let losing = thread::spawn(move || drop(first));
        drop(second);
        losing.join().unwrap();
        for call in [&mut one, &mut two] {
            assert!(poll_once(call).is_pending());
        }
        let drivers: Vec<_> = tier.drivers().into_iter().map(go).collect();
        drivers
            .into_iter()
            .for_each(|driver| driver.join().unwrap());
        assert_eq!(block_on(one), Ok(1));
        assert_eq!(block_on(two), Ok(2));
        tier.end();
    });
}

/// Shut down while they gather and fly: values, or cancelled.
#[test]
fn a_shutdown_ends_both() {
    explore(1, || {
        let tier = Tier::new(|builder| builder);
        let (one, mut first) = started(&tier, 1);
        let (two, second) = started(&tier, 2);
        assert!(poll_once(&mut first).is_pending(), "it leads");
        let second = go(second);
        let first = go(first);
        let _ = poll_once(tier.shared.shutdown(std::time::Duration::ZERO));
        first.join().unwrap();
        second.join().unwrap();
        for outcome in [block_on(one), block_on(two)] {
            assert!(outcome.is_ok() || outcome == Err(TaskErrorKind::Cancelled));
        }
        tier.end();
    });
}
