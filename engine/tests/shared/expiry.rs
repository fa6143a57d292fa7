//! Times, on a clock that the tests advance.

use std::collections::HashSet;
use std::time::Duration;

use super::support::{now, poll_once, until};
use super::{SECOND, World, gated, slow, stamp, tier};
use tokio::time::advance;
use watershed::{Ctx, Policy, Shared, TaskErrorKind};

#[tokio::test(start_paused = true)]
async fn an_expired_value_is_never_given() {
    let shared = tier().ttl(10 * SECOND).build();
    assert_eq!(*shared.run(stamp, 1).await.unwrap(), 1);
    advance(10 * SECOND - Duration::from_nanos(1)).await;
    assert_eq!(*shared.run(stamp, 1).await.unwrap(), 1);
    assert!(shared.peek(stamp, &1).is_some());
    advance(Duration::from_nanos(1)).await;
    assert!(shared.peek(stamp, &1).is_none());
    assert_eq!(*shared.run(stamp, 1).await.unwrap(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_ttl_of_zero_is_for_ever() {
    let shared = tier().ttl(Duration::ZERO).build();
    shared.run(stamp, 1).await.unwrap();
    advance(100 * 365 * 24 * 3600 * SECOND).await;
    assert_eq!(*shared.run(stamp, 1).await.unwrap(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_value_ages_from_the_end_of_its_run() {
    let shared = tier().ttl(10 * SECOND).build();
    shared.run(slow, 1).await.unwrap();
    advance(9 * SECOND + SECOND / 2).await;
    assert!(shared.peek(slow, &1).is_some());
}

#[tokio::test(start_paused = true)]
async fn the_old_value_is_given_while_one_run_refreshes() {
    let shared = tier().ttl(10 * SECOND).refresh_after(5 * SECOND).build();
    shared.prime(gated, 1, 100).unwrap();
    advance(5 * SECOND).await;
    for _ in 0..50 {
        assert_eq!(*now(shared.run(gated, 1)).unwrap(), 100);
    }
    until(|| shared.state().starts.get() == 1).await;
    assert_eq!(*now(shared.run(gated, 1)).unwrap(), 100);
    assert_eq!((shared.stats().started, shared.stats().running), (1, 1));
    shared.state().gate.open();
    until(|| shared.stats().refreshed == 1).await;
    assert_eq!(*now(shared.run(gated, 1)).unwrap(), 1);
    assert_eq!(shared.stats().started, 1);
}

#[tokio::test(start_paused = true)]
async fn a_value_that_expires_during_its_refresh_is_not_given_late() {
    let shared = tier().ttl(10 * SECOND).refresh_after(5 * SECOND).build();
    shared.prime(gated, 1, 100).unwrap();
    advance(9 * SECOND).await;
    assert_eq!(*now(shared.run(gated, 1)).unwrap(), 100);
    advance(SECOND).await;
    // Who comes now waits for the refresh, and starts nothing.
    let mut call = shared.run(gated, 1);
    assert!(poll_once(&mut call).is_pending());
    shared.state().gate.open();
    assert_eq!(*call.await.unwrap(), 1);
    assert_eq!(shared.stats().started, 1);
}

#[tokio::test(start_paused = true)]
async fn a_failed_refresh_keeps_the_old_value_until_its_ttl() {
    let shared = tier()
        .ttl(10 * SECOND)
        .refresh_after(5 * SECOND)
        .failure_ttl(2 * SECOND)
        .build();
    assert_eq!(*shared.run(stamp, 1).await.unwrap(), 1);
    *shared.state().fails.lock().unwrap() = Some("no answer");
    advance(5 * SECOND).await;
    assert_eq!(*now(shared.run(stamp, 1)).unwrap(), 1);
    until(|| shared.stats().refresh_failed == 1).await;
    // The next try comes when the failure would be forgotten, and not before.
    *shared.state().fails.lock().unwrap() = Some("no answer");
    assert_eq!(*now(shared.run(stamp, 1)).unwrap(), 1);
    tokio::task::yield_now().await;
    assert_eq!(shared.stats().started, 2);
    advance(2 * SECOND).await;
    assert_eq!(*now(shared.run(stamp, 1)).unwrap(), 1);
    until(|| shared.stats().refresh_failed == 2).await;
    advance(3 * SECOND).await;
    // Expired: a failure would be seen now.
    assert_eq!(*shared.run(stamp, 1).await.unwrap(), 4);
}

#[tokio::test(start_paused = true)]
async fn a_refresh_after_that_is_not_below_the_ttl_refreshes_nothing() {
    let shared = tier().ttl(5 * SECOND).refresh_after(5 * SECOND).build();
    shared.run(stamp, 1).await.unwrap();
    advance(5 * SECOND).await;
    assert_eq!(*shared.run(stamp, 1).await.unwrap(), 2);
    assert_eq!(shared.stats().refreshed, 0);
}

#[tokio::test(start_paused = true)]
async fn a_hit_without_a_runtime_leaves_the_refresh_to_the_next() {
    let shared = tier().refresh_after(5 * SECOND).build();
    shared.run(stamp, 1).await.unwrap();
    advance(5 * SECOND).await;
    // tokio's clock is paused for this thread's runtime only; so only the claim is looked at here.
    let there = shared.clone();
    std::thread::spawn(move || now(there.run(stamp, 1)).unwrap())
        .join()
        .unwrap();
    assert_eq!(shared.stats().started, 1);
    now(shared.run(stamp, 1)).unwrap();
    assert_eq!(shared.stats().started, 2);
}

#[tokio::test(start_paused = true)]
async fn a_failure_is_shared_by_those_who_wait_and_then_forgotten() {
    let shared = tier().build();
    *shared.state().fails.lock().unwrap() = Some("no answer");
    let calls: Vec<_> = (0..20)
        .map(|_| {
            let shared = shared.clone();
            tokio::spawn(async move { shared.run(gated, 1).await })
        })
        .collect();
    until(|| shared.stats().waits == 19).await;
    shared.state().gate.open();
    for call in calls {
        let error = call.await.unwrap().unwrap_err();
        assert_eq!(error.kind(), TaskErrorKind::Failed);
        assert!(error.to_string().contains("no answer"));
    }
    assert_eq!(shared.state().starts.get(), 1);
    assert_eq!(shared.len(), 0);
    assert_eq!(*shared.run(gated, 1).await.unwrap(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_failure_ttl_keeps_a_failure_as_long_as_that() {
    let shared = tier().failure_ttl(3 * SECOND).build();
    *shared.state().fails.lock().unwrap() = Some("no answer");
    assert!(shared.run(stamp, 1).await.is_err());
    advance(3 * SECOND - Duration::from_nanos(1)).await;
    assert!(now(shared.run(stamp, 1)).is_err());
    assert!(shared.peek(stamp, &1).unwrap().is_err());
    advance(Duration::from_nanos(1)).await;
    assert!(shared.peek(stamp, &1).is_none());
    assert_eq!(*shared.run(stamp, 1).await.unwrap(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_transient_failure_is_not_kept_whatever_the_failure_ttl() {
    async fn flaky(ctx: Ctx<World>, _: ()) -> Result<usize, String> {
        match ctx.state().starts.add() {
            1 => Err("once".to_owned()).map_err(|e| ctx.transient(e)),
            n => Ok(n),
        }
    }
    let shared = tier().failure_ttl(60 * SECOND).build();
    assert!(shared.run(flaky, ()).await.is_err());
    assert_eq!(*shared.run(flaky, ()).await.unwrap(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_policy_holds_for_its_task_and_leaves_the_rest_to_the_tier() {
    let shared = tier()
        .ttl(10 * SECOND)
        .policy(
            stamp,
            Policy {
                ttl: Some(2 * SECOND),
                ..Policy::default()
            },
        )
        .build();
    shared.run(stamp, 1).await.unwrap();
    shared.run(slow, 1).await.unwrap();
    advance(2 * SECOND).await;
    assert!(shared.peek(stamp, &1).is_none());
    assert!(shared.peek(slow, &1).is_some());
    advance(8 * SECOND).await;
    assert!(shared.peek(slow, &1).is_none());
}

#[tokio::test(start_paused = true)]
async fn jitter_spreads_what_came_together_and_never_adds() {
    let shared = Shared::builder(World::default())
        .ttl(100 * SECOND)
        .jitter(0.2)
        .build();
    for n in 0..1000 {
        shared.run(stamp, n).await.unwrap();
    }
    let there = || {
        (0..1000)
            .filter(|n| shared.peek(stamp, n).is_some())
            .count()
    };
    advance(80 * SECOND).await;
    assert!(there() >= 990);
    let mut seen = HashSet::new();
    for _ in 0..20 {
        advance(SECOND).await;
        seen.insert(there());
    }
    assert_eq!(there(), 0);
    assert!(seen.len() > 15, "they went in {} steps", seen.len());
}

#[tokio::test(start_paused = true)]
async fn a_run_past_its_time_limit_is_dropped() {
    let shared = tier()
        .policy(
            gated,
            Policy {
                time_limit: Some(SECOND),
                ..Policy::default()
            },
        )
        .build();
    let start = tokio::time::Instant::now();
    let error = shared.run(gated, 1).await.unwrap_err();
    assert_eq!(error.kind(), TaskErrorKind::DeadlineExceeded);
    assert!(error.to_string().contains("time limit"), "{error}");
    assert_eq!(start.elapsed(), SECOND);
    assert_eq!(shared.stats().running, 0);
    // Nothing of it is kept.
    shared.state().gate.open();
    assert_eq!(*shared.run(gated, 1).await.unwrap(), 2);
    assert_eq!(shared.state().ends.get(), 1);
}

/// 1,000 callers of one expired key.
#[tokio::test(start_paused = true)]
async fn an_expiry_storm_is_one_run() {
    let shared = tier().ttl(SECOND).build();
    shared.run(slow, 1).await.unwrap();
    advance(SECOND).await;
    let calls = (0..1000).map(|_| shared.run(slow, 1));
    let values = futures::future::try_join_all(calls).await.unwrap();
    assert!(values.iter().all(|value| **value == 2));
    assert_eq!(shared.stats().started, 2);
}

/// R47: a body calls an expired entry again and again.
#[tokio::test(start_paused = true)]
async fn a_body_may_call_what_has_expired() {
    async fn twice(ctx: Ctx<World>, _: ()) -> Result<(usize, usize), watershed::TaskError> {
        let first = *ctx.run(stamp, 1).await?;
        ctx.forget(stamp, &1);
        let second = *ctx.run(stamp, 1).await?;
        Ok((first, second))
    }
    let shared = tier().ttl(SECOND).build();
    shared.run(stamp, 1).await.unwrap();
    advance(SECOND).await;
    assert_eq!(*shared.run(twice, ()).await.unwrap(), (2, 3));
}

#[tokio::test(start_paused = true)]
async fn what_nobody_asks_for_any_more_goes_with_the_next_ones() {
    let shared = tier().ttl(SECOND).build();
    for n in 0..1000 {
        shared.run(stamp, n).await.unwrap();
    }
    advance(SECOND).await;
    assert_eq!(shared.len(), 1000);
    for n in 1000..2000 {
        shared.run(stamp, n).await.unwrap();
    }
    assert!(shared.len() <= 1010, "{} entries", shared.len());
}
