//! Batches of the tier: what requests ask for at the same time is asked for together, and kept key by key.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Mutex;
use std::time::Duration;

use futures::future::{join_all, try_join_all};
use watershed::{Ctx, Policy, Shared, SharedBuilder, TaskError, TaskErrorKind};

use super::SECOND;
use super::support::{Gate, both_runtimes, now, poll_once, until};

#[derive(Default)]
struct Shop {
    /// What was asked for, batch by batch, sorted.
    asked: Mutex<Vec<Vec<u64>>>,
    gate: Gate,
}

impl Shop {
    fn ask(&self, keys: &[u64]) {
        let mut keys = keys.to_vec();
        keys.sort_unstable();
        self.asked.lock().unwrap().push(keys);
    }

    fn asked(&self) -> Vec<Vec<u64>> {
        std::mem::take(&mut *self.asked.lock().unwrap())
    }
}

type Found = Result<BTreeMap<u64, u64>, String>;

/// Nothing for 100 and above.
async fn prices(ctx: Ctx<Shop>, keys: Vec<u64>) -> Found {
    ctx.state().ask(&keys);
    let found = keys.into_iter().filter(|k| *k < 100);
    Ok(found.map(|k| (k, k * 10)).collect())
}

async fn gated(ctx: Ctx<Shop>, keys: Vec<u64>) -> Found {
    ctx.state().ask(&keys);
    ctx.state().gate.passed().await;
    Ok(keys.into_iter().map(|k| (k, k * 10)).collect())
}

/// Fails with 13, panics with 14.
async fn fails(ctx: Ctx<Shop>, keys: Vec<u64>) -> Found {
    ctx.state().ask(&keys);
    assert!(!keys.contains(&14), "fourteen");
    if keys.contains(&13) {
        return Err("thirteen".to_owned());
    }
    Ok(keys.into_iter().map(|k| (k, k)).collect())
}

fn shop() -> SharedBuilder<Shop> {
    Shared::builder(Shop::default()).jitter(0.0)
}

#[tokio::test]
async fn keys_of_one_turn_are_asked_for_together_and_then_are_hits() {
    let shared = shop().build();
    let all = join_all((0..10).map(|k| shared.load(prices, k))).await;
    for (value, k) in all.into_iter().zip(0..) {
        assert_eq!(value.unwrap().as_deref(), Some(&(k * 10)));
    }
    assert_eq!(shared.state().asked(), [Vec::from_iter(0..10)]);
    assert_eq!(now(shared.load(prices, 3)).unwrap().as_deref(), Some(&30));
    assert_eq!(shared.len(), 10);
    assert!(shared.state().asked().is_empty());
}

/// On one thread: what 200 requests ask for in one turn is one batch. On several: a few, and no key twice.
#[test]
fn two_hundred_requests_make_few_batches_and_ask_for_each_key_once() {
    both_runtimes(|| async {
        let shared = shop().build();
        let requests: Vec<_> = (0..200)
            .map(|request: u64| {
                let shared = shared.clone();
                tokio::spawn(async move {
                    let keys = (0..4).map(|n| (request * 7 + n * 13) % 50);
                    let found = shared.load_many(prices, keys.clone()).await.unwrap();
                    for (value, key) in found.into_iter().zip(keys) {
                        assert_eq!(value.as_deref(), Some(&(key * 10)));
                    }
                })
            })
            .collect();
        for request in requests {
            request.await.unwrap();
        }
        let asked = shared.state().asked();
        let mut keys: Vec<u64> = asked.iter().flatten().copied().collect();
        keys.sort_unstable();
        assert_eq!(keys, Vec::from_iter(0..50), "each once");
        let threads = tokio::runtime::Handle::current().metrics().num_workers();
        let most = if threads == 1 { 1 } else { 25 };
        println!("{} batches on {threads} threads", asked.len());
        assert!(asked.len() <= most, "{} batches", asked.len());
    });
}

#[tokio::test]
async fn a_key_in_flight_is_joined_by_other_requests() {
    let shared = shop().build();
    let mut first = shared.load(gated, 1);
    assert!(poll_once(&mut first).is_pending());
    until(|| !shared.state().asked.lock().unwrap().is_empty()).await;
    let mut second = shared.load(gated, 1);
    assert!(poll_once(&mut second).is_pending());
    shared.state().gate.open();
    let (first, second) = (first.await.unwrap(), second.await.unwrap());
    assert!(std::ptr::eq(&*first.unwrap(), &*second.unwrap()));
    assert_eq!(shared.state().asked(), [[1]]);
}

#[tokio::test(start_paused = true)]
async fn each_key_expires_by_itself() {
    let shared = shop().ttl(10 * SECOND).build();
    assert!(shared.load(prices, 1).await.unwrap().is_some());
    tokio::time::advance(6 * SECOND).await;
    assert!(shared.load_many(prices, [1, 2]).await.is_ok());
    assert_eq!(shared.state().asked(), [[1], [2]]);
    tokio::time::advance(6 * SECOND).await;
    assert!(shared.load_many(prices, [1, 2]).await.is_ok());
    assert_eq!(shared.state().asked(), [[1]]);
}

#[tokio::test(start_paused = true)]
async fn a_function_may_have_a_policy_of_its_own() {
    let policy = Policy {
        ttl: Some(SECOND),
        ..Policy::default()
    };
    let shared = shop()
        .ttl(100 * SECOND)
        .batch_policy(prices, policy)
        .build();
    assert!(shared.load(prices, 1).await.is_ok());
    assert!(shared.load(fails, 1).await.is_ok());
    tokio::time::advance(2 * SECOND).await;
    assert!(shared.load(prices, 1).await.is_ok());
    assert!(shared.load(fails, 1).await.is_ok());
    assert_eq!(shared.state().asked(), [[1], [1], [1]]);
}

/// Keys that are refreshed together are asked for together, and nobody waits.
#[tokio::test(start_paused = true)]
async fn a_refresh_is_a_batch_too() {
    let shared = shop().ttl(100 * SECOND).refresh_after(10 * SECOND).build();
    assert!(shared.load_many(prices, [1, 2, 3]).await.is_ok());
    tokio::time::advance(20 * SECOND).await;
    for key in [1, 2, 3] {
        assert!(now(shared.load(prices, key)).is_ok());
    }
    until(|| shared.stats().refreshed == 3).await;
    assert_eq!(shared.state().asked(), [[1, 2, 3], [1, 2, 3]]);
}

#[tokio::test]
async fn what_is_not_returned_is_none_and_kept_and_what_is_unasked_is_kept_too() {
    async fn more(ctx: Ctx<Shop>, keys: Vec<u64>) -> Found {
        ctx.state().ask(&keys);
        Ok(keys
            .into_iter()
            .flat_map(|k| [(k, k), (k + 1, k)])
            .collect())
    }
    let shared = shop().build();
    assert!(shared.load(prices, 100).await.unwrap().is_none());
    assert!(now(shared.load(prices, 100)).unwrap().is_none());
    assert!(shared.peek_loaded(prices, &100).unwrap().unwrap().is_none());
    assert_eq!(shared.load(more, 1).await.unwrap().as_deref(), Some(&1));
    assert_eq!(now(shared.load(more, 2)).unwrap().as_deref(), Some(&1));
    assert_eq!(shared.state().asked(), [[100], [1]]);
}

#[tokio::test]
async fn a_failure_is_that_of_each_key_of_its_batch_and_of_no_other() {
    let shared = shop().build();
    let all = join_all([12, 13].map(|k| shared.load(fails, k))).await;
    for error in all {
        let error = error.unwrap_err();
        assert_eq!(error.kind(), TaskErrorKind::Failed);
        assert!(error.task().ends_with("fails"), "{error}");
        assert!(error.to_string().contains("thirteen"), "{error}");
    }
    // Not kept: the policy says so.
    assert!(shared.load(fails, 12).await.unwrap().is_some());
    let all = join_all([14, 15].map(|k| shared.load(fails, k))).await;
    for error in all {
        let error = error.unwrap_err();
        assert_eq!(error.kind(), TaskErrorKind::Panicked);
        assert!(error.to_string().contains("fourteen"), "{error}");
    }
    assert_eq!(
        shared.state().asked(),
        [vec![12, 13], vec![12], vec![14, 15]]
    );
    assert_eq!(shared.stats().running, 0);
}

#[tokio::test(start_paused = true)]
async fn a_failure_is_kept_for_its_time() {
    let shared = shop().failure_ttl(10 * SECOND).build();
    assert!(shared.load_many(fails, [12, 13]).await.is_err());
    until(|| shared.stats().running == 0).await;
    assert!(now(shared.load(fails, 12)).is_err());
    tokio::time::advance(11 * SECOND).await;
    assert!(shared.load(fails, 12).await.is_ok());
}

#[tokio::test]
async fn a_failure_marked_transient_is_not_kept() {
    async fn busy(ctx: Ctx<Shop>, keys: Vec<u64>) -> Found {
        ctx.state().ask(&keys);
        Err(ctx.transient("busy".to_owned()))
    }
    let shared = shop().failure_ttl(10 * SECOND).build();
    assert!(shared.load_many(busy, [1, 2]).await.is_err());
    assert!(shared.load_many(busy, [1, 2]).await.is_err());
    assert_eq!(shared.state().asked(), [[1, 2], [1, 2]]);
}

/// Who asked drives nothing: gone before the batch goes, or in flight, its keys come all the same.
#[tokio::test]
async fn callers_that_go_neither_stall_nor_shrink_a_batch() {
    let shared = shop().build();
    for polls in 1..3 {
        let mut calls: Vec<_> = (0..3).map(|k| shared.load(gated, 10 * polls + k)).collect();
        for call in &mut calls {
            assert!(poll_once(call).is_pending());
        }
        if polls == 2 {
            until(|| !shared.state().asked.lock().unwrap().is_empty()).await;
        }
        let last = calls.pop().unwrap();
        drop(calls);
        shared.state().gate.open();
        assert!(last.await.unwrap().is_some());
        until(|| shared.stats().running == 0).await;
        let of = |n| 10 * polls + n;
        assert_eq!(shared.state().asked(), [[of(0), of(1), of(2)]]);
        assert!(shared.peek_loaded(gated, &of(0)).is_some());
    }
}

#[tokio::test]
async fn a_full_batch_is_split() {
    let shared = shop().max_batch(prices, 3).build();
    assert!(shared.load_many(prices, 0..8).await.is_ok());
    let mut sizes: Vec<_> = shared.state().asked().iter().map(Vec::len).collect();
    sizes.sort_unstable();
    assert_eq!(sizes, [2, 3, 3]);
    let one = shop().max_batch(prices, 0).build();
    assert!(one.load_many(prices, 0..3).await.is_ok());
    assert_eq!(one.state().asked().len(), 3);
}

#[tokio::test]
async fn the_bound_is_for_keys_as_for_inputs() {
    let shared = shop().max_entries(10).build();
    assert!(shared.load_many(prices, 0..50).await.is_ok());
    until(|| shared.stats().running == 0).await;
    assert!(shared.len() <= 10, "{}", shared.len());
}

#[tokio::test]
async fn prime_peek_and_forget_are_per_key() {
    let shared = shop().build();
    assert!(shared.peek_loaded(prices, &1).is_none());
    assert_eq!(shared.prime_loaded(prices, 1, 5), Ok(()));
    assert_eq!(shared.prime_loaded(prices, 1, 6), Err(6));
    assert_eq!(now(shared.load(prices, 1)).unwrap().as_deref(), Some(&5));
    assert!(shared.forget_loaded(prices, &1));
    assert!(!shared.forget_loaded(prices, &1));
    assert_eq!(shared.load(prices, 1).await.unwrap().as_deref(), Some(&10));
}

#[tokio::test(start_paused = true)]
async fn a_time_limit_is_each_keys_own() {
    let limit = Policy {
        time_limit: Some(10 * SECOND),
        ..Policy::default()
    };
    let shared = shop().batch_policy(gated, limit).build();
    for error in join_all([1, 2].map(|k| shared.load(gated, k))).await {
        assert_eq!(error.unwrap_err().kind(), TaskErrorKind::DeadlineExceeded);
    }
    until(|| shared.stats().running == 0).await;
    shared.state().gate.open();
    assert!(shared.load(gated, 1).await.is_ok());
}

#[tokio::test]
async fn a_shutdown_ends_batches() {
    let shared = shop().build();
    let mut calls = [1, 2].map(|k| shared.load(gated, k));
    for call in &mut calls {
        assert!(poll_once(call).is_pending());
    }
    until(|| !shared.state().asked.lock().unwrap().is_empty()).await;
    assert_eq!(shared.shutdown(Duration::ZERO).await.unwrap().len(), 2);
    for call in calls {
        assert_eq!(call.await.unwrap_err().kind(), TaskErrorKind::Cancelled);
    }
}

/// Forgotten while it gathers, a key is in two runs: the function gets it twice, and not at once.
#[tokio::test]
async fn forgotten_while_it_gathers_a_key_is_asked_for_twice_and_never_twice_at_once() {
    let shared = shop().build();
    let mut old = shared.load(prices, 1);
    let mut other = shared.load(prices, 2);
    assert!(poll_once(&mut old).is_pending());
    assert!(poll_once(&mut other).is_pending());
    assert!(shared.forget_loaded(prices, &1));
    let new = shared.load(prices, 1);
    let (old, new, other) = tokio::join!(old, new, other);
    for (value, k) in [(old, 1), (new, 1), (other, 2)] {
        assert_eq!(value.unwrap().as_deref(), Some(&(k * 10)));
    }
    assert_eq!(shared.state().asked(), [vec![1, 2], vec![1]]);
}

/// The tier's own tasks load too: with what requests ask for at the same time.
#[tokio::test]
async fn tasks_of_the_tier_load_from_the_tier() {
    async fn basket(ctx: Ctx<Shop>, items: Vec<u64>) -> Result<u64, TaskError> {
        let each = try_join_all(items.iter().map(|k| ctx.load(prices, *k))).await?;
        let many = ctx.load_many(prices, items).await?;
        assert!(ctx.peek_loaded(prices, &1).unwrap().unwrap().is_some());
        assert_eq!(each, many);
        Ok(many.into_iter().flatten().sum())
    }
    let shared = shop().build();
    assert_eq!(*shared.run(basket, vec![1, 2]).await.unwrap(), 30);
    assert_eq!(shared.state().asked(), [[1, 2]]);
    assert_eq!(now(shared.load(prices, 2)).unwrap().as_deref(), Some(&20));
}

/// A batch that waits for a key of its own is a cycle, whichever of its keys it is.
#[tokio::test]
async fn a_cycle_through_a_batch_is_found() {
    type Boxed = Pin<Box<dyn Future<Output = Result<Vec<(u64, u64)>, TaskError>> + Send>>;
    fn round(ctx: Ctx<Shop>, keys: Vec<u64>) -> Boxed {
        Box::pin(async move {
            ctx.load(round, keys[keys.len() - 1]).await?;
            Ok(keys.into_iter().map(|k| (k, k)).collect())
        })
    }
    let shared = shop().build();
    for keys in [vec![1], vec![1, 2, 3]] {
        for error in join_all(keys.into_iter().map(|k| shared.load(round, k))).await {
            assert_eq!(error.unwrap_err().kind(), TaskErrorKind::Cycle);
        }
    }
}

struct Request {
    shared: Shared<Shop>,
}

impl AsRef<Shared<Shop>> for Request {
    fn as_ref(&self) -> &Shared<Shop> {
        &self.shared
    }
}

/// A request gets the same `&V` until its end, and asks with the others.
#[tokio::test]
async fn requests_load_from_the_tier() {
    async fn page(ctx: Ctx<Request>, items: u64) -> Result<u64, TaskError> {
        let prices = try_join_all((0..items).map(|k| ctx.load_shared(prices, k))).await?;
        Ok(prices.into_iter().flatten().sum())
    }
    let shared = shop().build();
    let requests: Vec<_> = (0..5)
        .map(|_| {
            Ctx::new(Request {
                shared: shared.clone(),
            })
        })
        .collect();
    let pages = join_all(requests.iter().map(|ctx| ctx.run(page, 4))).await;
    assert!(pages.into_iter().all(|sum| *sum.unwrap() == 60));
    assert_eq!(shared.state().asked(), [[0, 1, 2, 3]]);
    let ctx = &requests[0];
    let value = now(ctx.load_shared(prices, 3)).unwrap().unwrap();
    assert!(shared.forget_loaded(prices, &3));
    let again = now(ctx.load_shared(prices, 3)).unwrap().unwrap();
    assert!(std::ptr::eq(value, again));
}
