//! What goes when there are too many. (Hit rates are measured by the benches.)

use super::support::{Drops, Token, both_runtimes};
use super::{stamp, tier};
use watershed::{Ctx, Shared};

async fn token(ctx: Ctx<Drops>, _: u64) -> Result<Token, String> {
    Ok(ctx.state().token())
}

/// Lets the epochs go on, so that what was retired is dropped.
async fn settle(shared: &Shared<Drops>) {
    for n in 0..1000 {
        shared.forget(token, &n);
        shared.run(token, n).await.unwrap();
    }
}

#[test]
fn never_more_than_max_entries() {
    both_runtimes(|| async {
        let shared = tier().max_entries(100).build();
        for n in 0..10_000 {
            shared.run(stamp, n).await.unwrap();
            assert!(shared.len() <= 100);
        }
        assert_eq!(shared.len(), 100);
        assert_eq!(shared.stats().evicted, 9_900);
        let there = (0..10_000).filter(|n| shared.peek(stamp, n).is_some());
        assert_eq!(there.count(), 100);
    });
}

#[test]
fn what_is_hit_stays_through_a_scan() {
    both_runtimes(|| async {
        let shared = tier().max_entries(100).build();
        for n in 0..50 {
            shared.run(stamp, n).await.unwrap();
        }
        for n in 1000..11_000 {
            shared.run(stamp, n).await.unwrap();
            shared.run(stamp, n % 50).await.unwrap();
        }
        let hot = (0..50).filter(|n| shared.peek(stamp, n).is_some()).count();
        assert!(hot >= 49, "{hot} of the 50 that are hit are there");
    });
}

#[test]
fn max_entries_of_zero_keeps_nothing_and_shares_runs() {
    both_runtimes(|| async {
        let shared = tier().max_entries(0).build();
        assert_eq!(*shared.run(stamp, 1).await.unwrap(), 1);
        assert_eq!(*shared.run(stamp, 1).await.unwrap(), 2);
        assert_eq!(shared.len(), 0);
    });
}

#[test]
fn max_entries_of_one_keeps_one() {
    both_runtimes(|| async {
        let shared = tier().max_entries(1).build();
        for n in 0..100 {
            shared.run(stamp, n).await.unwrap();
            shared.run(stamp, n).await.unwrap();
            assert_eq!(shared.len(), 1);
        }
    });
}

#[test]
fn evicted_and_forgotten_values_are_dropped_once() {
    both_runtimes(|| async {
        let drops = Drops::default();
        let shared = Shared::builder(drops.clone()).max_entries(10).build();
        for n in 0..10_000 {
            shared.run(token, n).await.unwrap();
        }
        settle(&shared).await;
        // Ten are kept, and what waits for readers is bounded.
        assert!(drops.live() < 500, "{} are alive", drops.live());
        let held = shared.run(token, 1).await.unwrap();
        shared.forget_all(token);
        let (held_alive, ..) = (&*held, ());
        let _ = held_alive;
        drop(held);
        drop(shared);
    });
}

#[test]
fn forgetting_and_running_again_leaves_no_tombstones() {
    both_runtimes(|| async {
        let shared = tier().build();
        for _ in 0..10_000 {
            shared.run(stamp, 1).await.unwrap();
            assert!(shared.forget(stamp, &1));
        }
        assert_eq!(shared.len(), 0);
    });
}
