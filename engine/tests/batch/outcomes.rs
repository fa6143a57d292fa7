//! What comes of a key: a value, none, a failure; and what is kept.

use std::collections::HashMap;
use std::hash::{Hash, Hasher};
use std::pin::Pin;
use std::sync::{Arc, Mutex, OnceLock, Weak};
use std::task::Poll;

use futures::future::{join_all, try_join_all};
use watershed::{Ctx, Load, TaskError, TaskErrorKind};

use super::support::{everywhere, now, poll_once};
use super::{App, Valued, ctx, doubles, gated, squares};

/// Gives the even keys, and one that nobody asks for.
async fn even(ctx: Ctx<App>, keys: Vec<u64>) -> Result<Vec<(u64, u64)>, TaskError> {
    ctx.state().ask(&keys);
    let even = keys.into_iter().filter(|k| k % 2 == 0).rev();
    Ok(even.map(|k| (k, k)).chain([(1_000, 1_000)]).collect())
}

#[test]
fn a_key_that_is_not_returned_is_none_and_kept() {
    everywhere(|| async {
        let ctx = ctx();
        let found = ctx.load_many(even, [1, 2, 3, 4]).await.unwrap();
        assert_eq!(found, [None, Some(&2), None, Some(&4)]);
        assert_eq!(ctx.load(even, 3).await.unwrap(), None);
        assert_eq!(ctx.peek_loaded(even, &3).unwrap().unwrap(), None);
        assert_eq!(ctx.state().asked(), [[1, 2, 3, 4]]);
    });
}

#[test]
fn a_key_that_was_not_asked_for_is_kept() {
    everywhere(|| async {
        let ctx = ctx();
        ctx.load(even, 2).await.unwrap();
        assert_eq!(
            ctx.peek_loaded(even, &1_000).unwrap().unwrap(),
            Some(&1_000)
        );
        assert_eq!(now(ctx.load(even, 1_000)).unwrap(), Some(&1_000));
        // It is not overwritten, and does not overwrite.
        let first: *const u64 = ctx.load(even, 1_000).await.unwrap().unwrap();
        ctx.load(even, 4).await.unwrap();
        let again: *const u64 = ctx.load(even, 1_000).await.unwrap().unwrap();
        assert_eq!(first, again);
        assert_eq!(ctx.state().asked(), [[2], [4]]);
    });
}

#[test]
fn of_several_values_for_one_key_the_first_counts() {
    async fn twice(_: Ctx<App>, keys: Vec<u64>) -> Result<Vec<(u64, u64)>, TaskError> {
        let all = keys
            .iter()
            .flat_map(|k| [(*k, 1), (*k, 2), (k + 100, 1), (k + 100, 2)]);
        Ok(all.collect())
    }
    everywhere(|| async {
        let ctx = ctx();
        let found = ctx.load_many(twice, 0..20).await.unwrap();
        assert!(found.iter().all(|value| *value == Some(&1)));
        assert_eq!(ctx.load(twice, 105).await.unwrap(), Some(&1));
    });
}

/// In whatever order they come, and for few keys as for many.
#[test]
fn each_key_gets_its_own_value() {
    async fn shuffled(_: Ctx<App>, keys: Vec<u64>) -> Result<Vec<(u64, u64)>, TaskError> {
        let mut found: Vec<_> = keys.iter().map(|k| (*k, k * 7)).collect();
        found.sort_by_key(|(k, _)| k.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        Ok(found)
    }
    everywhere(|| async {
        for n in [2, 3, 8, 9, 100, 1_000] {
            let ctx = ctx();
            let found = ctx.load_many(shuffled, 0..n).await.unwrap();
            assert!(
                found
                    .into_iter()
                    .zip(0..n)
                    .all(|(v, k)| v == Some(&(k * 7))),
                "{n}"
            );
        }
    });
}

/// A key whose hash is one of two.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Colliding(u64);

impl Hash for Colliding {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (self.0 % 2).hash(state);
    }
}

#[test]
fn keys_that_collide_are_told_apart() {
    async fn shuffled(_: Ctx<App>, keys: Vec<Colliding>) -> Result<Vec<(Colliding, u64)>, String> {
        let mut found: Vec<_> = keys.into_iter().map(|k| (k.clone(), k.0)).collect();
        found.reverse();
        found.swap(3, 17);
        Ok(found)
    }
    everywhere(|| async {
        let ctx = ctx();
        let found = ctx
            .load_many(shuffled, (0..200).map(Colliding))
            .await
            .unwrap();
        assert!(found.into_iter().zip(0..).all(|(v, k)| v == Some(&k)));
    });
}

#[test]
fn borrowed_keys_load_owned_ones() {
    async fn lengths(_: Ctx<App>, keys: Vec<String>) -> Result<HashMap<String, usize>, String> {
        Ok(keys.into_iter().map(|k| (k.clone(), k.len())).collect())
    }
    everywhere(|| async {
        let ctx = ctx();
        let (a, b) = tokio::join!(ctx.load(lengths, "a"), ctx.load(lengths, "bcd".to_owned()));
        assert_eq!((a.unwrap(), b.unwrap()), (Some(&1), Some(&3)));
        assert_eq!(
            ctx.load_many(lengths, ["bcd", "a"]).await.unwrap(),
            [Some(&3), Some(&1)]
        );
        assert_eq!(ctx.peek_loaded(lengths, "a").unwrap().unwrap(), Some(&1));
        assert!(ctx.forget_loaded(lengths, "a"));
    });
}

#[test]
fn a_key_may_fail_alone() {
    async fn halves(
        _: Ctx<App>,
        keys: Vec<u64>,
    ) -> Result<Vec<(u64, Result<u64, String>)>, TaskError> {
        let half = |k: u64| {
            if k.is_multiple_of(2) {
                Ok(k / 2)
            } else {
                Err(format!("{k} is odd"))
            }
        };
        Ok(keys.into_iter().map(|k| (k, half(k))).collect())
    }
    everywhere(|| async {
        let ctx = ctx();
        let found = ctx.load_many(halves, [1, 2]).await.unwrap();
        assert_eq!(found, [Some(&Err("1 is odd".to_owned())), Some(&Ok(1))]);
    });
}

/// Fails when it is asked for a key above 100, the first time.
async fn fails(ctx: Ctx<App>, keys: Vec<u64>) -> Result<Vec<(u64, u64)>, std::fmt::Error> {
    ctx.state().ask(&keys);
    if keys.iter().any(|k| *k > 100) && ctx.state().flights.add() == 1 {
        return Err(std::fmt::Error);
    }
    Ok(keys.into_iter().map(|k| (k, k)).collect())
}

#[test]
fn a_failure_is_that_of_each_key_of_its_batch_and_of_no_other() {
    everywhere(|| async {
        let ctx = Ctx::builder(App::default()).max_batch(fails, 2).build();
        let all = join_all([1, 2, 101, 102, 3].map(|k| ctx.load(fails, k))).await;
        assert_eq!(ctx.state().asked(), [vec![1, 2], vec![101, 102], vec![3]]);
        for (outcome, fine) in all.iter().zip([true, true, false, false, true]) {
            assert_eq!(outcome.is_ok(), fine, "{all:?}");
        }
        let error = all[2].as_ref().unwrap_err();
        assert_eq!(error.kind(), TaskErrorKind::Failed);
        assert!(error.downcast_ref::<std::fmt::Error>().is_some());
        assert!(
            error.task().ends_with("outcomes::fails"),
            "{}",
            error.task()
        );
        assert_eq!(
            error.to_string(),
            "fails failed: an error occurred when formatting an argument"
        );
        // It is kept for each of them until it is forgotten.
        assert!(now(ctx.load(fails, 101)).is_err());
        assert!(ctx.peek_loaded(fails, &102).unwrap().is_err());
        assert!(ctx.forget_loaded(fails, &101));
        assert_eq!(ctx.load(fails, 101).await.unwrap(), Some(&101));
        assert!(ctx.load(fails, 102).await.is_err());
        assert_eq!(ctx.state().asked(), [[101]]);
    });
}

/// Waits at the gate; the first one fails, with others it does not wait.
async fn first_fails(ctx: Ctx<App>, keys: Vec<u64>) -> Result<Vec<(u64, u64)>, String> {
    ctx.state().ask(&keys);
    if ctx.state().flights.add() == 1 {
        ctx.state().gate.passed().await;
        return Err("the first".to_owned());
    }
    super::yields(10).await;
    Ok(keys.into_iter().map(|k| (k, k)).collect())
}

#[test]
fn a_failure_is_not_that_of_a_key_that_was_forgotten_and_is_in_another_batch() {
    let ctx = ctx();
    let mut other = ctx.load(first_fails, 2);
    let mut leaves = ctx.load(first_fails, 1);
    for call in [&mut leaves, &mut other] {
        assert!(poll_once(call).is_pending());
    }
    assert!(poll_once(&mut other).is_pending());
    drop(leaves);
    assert!(ctx.forget_loaded(first_fails, &1), "it is under way");
    assert!(!ctx.forget_loaded(first_fails, &1));
    let mut again = ctx.load(first_fails, 1);
    assert!(poll_once(&mut again).is_pending());
    assert!(poll_once(&mut again).is_pending());
    assert_eq!(ctx.state().asked(), [vec![1, 2], vec![1]]);
    ctx.state().gate.open();
    let Poll::Ready(Err(_)) = poll_once(&mut other) else {
        panic!("it fails");
    };
    assert!(ctx.peek_loaded(first_fails, &1).is_none());
    while poll_once(&mut again).is_pending() {}
    assert_eq!(ctx.load(first_fails, 1).wait().unwrap(), Some(&1));
}

/// A batch that is polled by somebody else than its callers (who asks after a key of it was forgotten sends it), whose callers all leave in
/// that poll, and of which a key is asked for again before it fails: that is in the next batch, and the failure is not its own.
#[test]
fn a_failure_for_nobody_is_not_that_of_who_asks_next() {
    type Boxed = Pin<Box<dyn Future<Output = Result<u64, TaskErrorKind>> + Send>>;
    #[derive(Default)]
    struct Own {
        ctx: OnceLock<Weak<Ctx<Arc<Own>>>>,
        asked: Mutex<Vec<Vec<u64>>>,
        old: Mutex<Vec<Boxed>>,
        again: Mutex<Option<Boxed>>,
    }
    fn call(own: &Own, key: u64) -> Boxed {
        let ctx = own.ctx.get().and_then(Weak::upgrade).unwrap();
        Box::pin(async move {
            let value = ctx.load(first, key).await;
            value.map(|v| *v.unwrap()).map_err(|e| e.kind())
        })
    }
    async fn first(ctx: Ctx<Arc<Own>>, keys: Vec<u64>) -> Result<Vec<(u64, u64)>, String> {
        let own = ctx.state();
        own.asked.lock().unwrap().push(keys.clone());
        if own.asked.lock().unwrap().len() == 1 {
            let old = std::mem::take(&mut *own.old.lock().unwrap());
            drop(old);
            let mut again = call(own, 2);
            assert!(poll_once(&mut again).is_pending());
            *own.again.lock().unwrap() = Some(again);
            return Err("the first".to_owned());
        }
        Ok(keys.into_iter().map(|k| (k, k)).collect())
    }
    let own = Arc::new(Own::default());
    let ctx = Arc::new(Ctx::new(own.clone()));
    own.ctx.set(Arc::downgrade(&ctx)).unwrap();
    let mut old = vec![call(&own, 1), call(&own, 2)];
    for call in &mut old {
        assert!(poll_once(call).is_pending());
    }
    *own.old.lock().unwrap() = old;
    assert!(ctx.forget_loaded(first, &1));
    let mut new = call(&own, 1);
    assert!(poll_once(&mut new).is_pending());
    let mut again = own.again.lock().unwrap().take().unwrap();
    assert_eq!(poll_once(&mut again), Poll::Ready(Ok(2)));
    assert_eq!(poll_once(&mut new), Poll::Ready(Ok(1)));
    assert_eq!(*own.asked.lock().unwrap(), [[1, 2], [1, 2]]);
}

/// What is fetched for nobody any more can be forgotten as well: the old value does not come in.
#[test]
fn a_key_in_flight_that_was_left_can_be_forgotten() {
    let ctx = ctx();
    let mut other = ctx.load(gated, 2);
    let mut leaves = ctx.load(gated, 1);
    assert!(poll_once(&mut leaves).is_pending());
    assert!(poll_once(&mut other).is_pending());
    assert!(poll_once(&mut other).is_pending());
    drop(leaves);
    assert!(ctx.forget_loaded(gated, &1));
    ctx.state().gate.open();
    assert!(poll_once(&mut other).is_ready());
    assert!(ctx.peek_loaded(gated, &1).is_none());
    assert!(ctx.load(gated, 1).wait().unwrap().is_some());
    assert_eq!(ctx.state().asked(), [vec![1, 2], vec![1]]);
}

/// The old run's last caller leaves after the new one's: that does not hide the new one.
#[test]
fn a_forgotten_key_that_is_left_does_not_hide_the_next() {
    let ctx = ctx();
    fn batch(mut calls: Vec<Load<'_, App, Valued>>) -> Vec<Load<'_, App, Valued>> {
        for _ in 0..2 {
            for call in &mut calls {
                assert!(poll_once(call).is_pending());
            }
        }
        calls
    }
    let mut old = batch(vec![ctx.load(gated, 1), ctx.load(gated, 2)]);
    assert!(ctx.forget_loaded(gated, &1));
    let mut new = batch(vec![ctx.load(gated, 1), ctx.load(gated, 3)]);
    assert_eq!(ctx.state().asked(), [[1, 2], [1, 3]]);
    drop(new.remove(0));
    drop(old.remove(0));
    let mut again = ctx.load(gated, 1);
    assert!(poll_once(&mut again).is_pending());
    assert!(poll_once(&mut again).is_pending());
    assert!(ctx.state().asked().is_empty(), "it is under way");
    ctx.state().gate.open();
    assert!(poll_once(&mut again).is_ready());
}

/// A failure is kept for a key even if its caller goes before it sees it.
#[test]
fn a_failure_is_kept_for_keys_whose_callers_did_not_see_it() {
    let ctx = ctx();
    let mut calls = [101, 102].map(|k| ctx.load(fails, k));
    for call in &mut calls {
        assert!(poll_once(call).is_pending());
    }
    let [mut one, other] = calls;
    assert!(poll_once(&mut one).is_ready());
    drop(other);
    assert!(ctx.peek_loaded(fails, &102).unwrap().is_err());
}

#[test]
fn a_failure_names_the_path() {
    async fn page(ctx: Ctx<App>, key: u64) -> Result<u64, TaskError> {
        Ok(*ctx.load(fails, key).await?.unwrap())
    }
    everywhere(|| async {
        let ctx = ctx();
        let error = ctx.run(page, 101).await.unwrap_err();
        assert!(
            error.to_string().starts_with("page > fails failed: "),
            "{error}"
        );
    });
}

#[test]
fn load_many_gives_the_first_failure_at_once() {
    everywhere(|| async {
        let ctx = Ctx::builder(App::default()).max_batch(fails, 1).build();
        assert!(ctx.load_many(fails, [1, 101, 2]).await.is_err());
        assert_eq!(ctx.load(fails, 1).await.unwrap(), Some(&1));
    });
}

#[test]
fn a_transient_failure_is_shared_and_not_kept() {
    async fn flaky(ctx: Ctx<App>, keys: Vec<u64>) -> Result<Vec<(u64, u64)>, String> {
        ctx.state().ask(&keys);
        if ctx.state().flights.add() == 1 {
            return Err("try later".to_owned()).map_err(|e| ctx.transient(e));
        }
        Ok(keys.into_iter().map(|k| (k, k)).collect())
    }
    everywhere(|| async {
        let ctx = ctx();
        let both = join_all([1, 2].map(|k| ctx.load(flaky, k))).await;
        assert!(both.iter().all(Result::is_err));
        assert!(ctx.peek_loaded(flaky, &1).is_none());
        assert_eq!(
            ctx.load_many(flaky, [2, 1]).await.unwrap(),
            [Some(&2), Some(&1)]
        );
        assert_eq!(ctx.state().asked(), [[1, 2], [1, 2]]);
    });
}

/// When it panics, and with which key.
async fn panics(ctx: Ctx<App>, keys: Vec<u64>) -> Result<Vec<(Fragile, u64)>, TaskError> {
    ctx.state().ask(&keys);
    assert!(!keys.contains(&101), "on the first poll");
    super::yields(1).await;
    assert!(!keys.contains(&102), "on a later poll");
    unreachable!("it is not asked for others")
}

/// Panics when it is compared or hashed, if it is so told.
#[derive(Clone, Debug)]
struct Fragile {
    number: u64,
    in_eq: bool,
    in_hash: bool,
}
impl PartialEq for Fragile {
    fn eq(&self, other: &Self) -> bool {
        assert!(!self.in_eq && !other.in_eq, "in eq");
        self.number == other.number
    }
}
impl Eq for Fragile {}
impl Hash for Fragile {
    fn hash<H: Hasher>(&self, state: &mut H) {
        assert!(!self.in_hash, "in hash");
        self.number.hash(state);
    }
}

#[test]
fn a_panic_is_that_of_each_key_of_its_batch() {
    async fn on(ctx: Ctx<App>, keys: Vec<u64>) -> Result<Vec<(u64, u64)>, TaskError> {
        panics(ctx, keys).await.map(|_| Vec::new())
    }
    fn early(
        _: Ctx<App>,
        keys: Vec<u64>,
    ) -> futures::future::Ready<Result<Vec<(u64, u64)>, String>> {
        panic!("before the future is there, for {}", keys.len())
    }
    everywhere(|| async {
        let ctx = ctx();
        for (key, message) in [(101, "on the first poll"), (102, "on a later poll")] {
            let both = join_all([key, key + 100].map(|k| ctx.load(on, k))).await;
            for outcome in both {
                let error = outcome.unwrap_err();
                assert_eq!(error.kind(), TaskErrorKind::Panicked);
                assert!(error.to_string().contains(message), "{error}");
                assert!(error.to_string().starts_with("on panicked"), "{error}");
            }
            assert!(ctx.peek_loaded(on, &key).unwrap().is_err(), "it is kept");
        }
        let both = join_all([1, 2].map(|k| ctx.load(early, k))).await;
        for outcome in both {
            assert_eq!(
                outcome.unwrap_err().to_string(),
                "early panicked: before the future is there, for 2"
            );
        }
        // The others go on.
        assert_eq!(ctx.load(squares, 3).await.unwrap(), Some(&9));
    });
}

#[test]
fn keys_that_panic_are_a_panic_of_their_batch() {
    async fn echo(_: Ctx<App>, keys: Vec<Fragile>) -> Result<Vec<(Fragile, u64)>, TaskError> {
        let broken = |k: Fragile| match k.number {
            1 => Fragile { in_eq: true, ..k },
            2 => Fragile { in_hash: true, ..k },
            _ => k,
        };
        Ok(keys.into_iter().map(|k| (broken(k), 0)).collect())
    }
    let key = |number| Fragile {
        number,
        in_eq: false,
        in_hash: false,
    };
    everywhere(move || async move {
        let ctx = ctx();
        for number in [1, 2] {
            let both = join_all([number, number + 10].map(|n| ctx.load(echo, key(n)))).await;
            for outcome in both {
                assert_eq!(outcome.unwrap_err().kind(), TaskErrorKind::Panicked);
            }
        }
        assert_eq!(ctx.load(echo, key(3)).await.unwrap(), Some(&0));
    });
}

#[test]
fn peek_runs_nothing_and_prime_fills() {
    everywhere(|| async {
        let ctx = ctx();
        assert!(ctx.peek_loaded(squares, &3).is_none());
        assert_eq!(ctx.prime_loaded(squares, 3, 10), Ok(()));
        assert_eq!(ctx.prime_loaded(squares, 3, 11), Err(11));
        let found = ctx.load_many(squares, [3, 4]).await.unwrap();
        assert_eq!(found, [Some(&10), Some(&16)]);
        assert_eq!(ctx.state().asked(), [[4]]);
        assert_eq!(ctx.prime_loaded(squares, 4, 0), Err(0));
        // A function's keys and its lists of keys are two things.
        assert!(ctx.peek(squares, &vec![4]).is_none());
        ctx.run(squares, vec![4]).await.unwrap();
        assert_eq!(ctx.state().asked(), [[4]]);
    });
}

#[test]
fn prime_is_refused_while_the_key_is_asked_for() {
    let ctx = ctx();
    let mut call = ctx.load(squares, 3);
    assert!(poll_once(&mut call).is_pending());
    assert_eq!(ctx.prime_loaded(squares, 3, 10), Err(10));
    assert!(poll_once(&mut call).is_ready());
}

#[test]
fn what_was_forgotten_is_asked_for_again() {
    everywhere(|| async {
        let ctx = ctx();
        assert!(!ctx.forget_loaded(squares, &3));
        let old = ctx.load(squares, 3).await.unwrap();
        assert!(ctx.forget_loaded(squares, &3));
        assert!(!ctx.forget_loaded(squares, &3));
        assert!(ctx.peek_loaded(squares, &3).is_none());
        ctx.load_many(squares, [3, 4]).await.unwrap();
        assert_eq!(old, Some(&9), "a borrow stays valid");
        assert_eq!(ctx.state().asked(), [vec![3], vec![3, 4]]);
    });
}

/// Forgotten before its batch goes, a key may be asked for again in the same turn: no batch has it twice, and both callers get one.
#[test]
fn forgotten_while_it_gathers_a_key_is_in_two_batches_once_each() {
    let ctx = ctx();
    let mut all = Vec::new();
    for k in [1, 2] {
        all.push(ctx.load(gated, k));
        assert!(poll_once(all.last_mut().unwrap()).is_pending());
    }
    assert!(ctx.forget_loaded(gated, &1));
    for k in [3, 1] {
        all.push(ctx.load(gated, k));
        assert!(poll_once(all.last_mut().unwrap()).is_pending());
    }
    ctx.state().gate.open();
    for call in &mut all {
        while poll_once(call).is_pending() {}
    }
    assert_eq!(ctx.state().asked(), [[1, 2], [1, 3]]);
    assert_eq!(ctx.state().values.live(), 4);
}

#[test]
fn forgotten_in_flight_a_key_is_asked_for_again_and_both_get_theirs() {
    let ctx = ctx();
    let mut old = ctx.load_many(gated, [1, 2]);
    assert!(poll_once(&mut old).is_pending());
    assert!(poll_once(&mut old).is_pending());
    assert!(ctx.forget_loaded(gated, &1));
    let mut new = ctx.load_many(gated, [1, 2]);
    assert!(poll_once(&mut new).is_pending());
    assert!(poll_once(&mut new).is_pending());
    assert_eq!(ctx.state().asked(), [vec![1, 2], vec![1]]);
    ctx.state().gate.open();
    let Poll::Ready(Ok(new)) = poll_once(&mut new) else {
        panic!("pending");
    };
    let Poll::Ready(Ok(old)) = poll_once(&mut old) else {
        panic!("pending");
    };
    assert_ne!(std::ptr::from_ref(new[0].unwrap()), old[0].unwrap());
    assert_eq!(std::ptr::from_ref(new[1].unwrap()), old[1].unwrap());
}

#[test]
fn a_stand_in_takes_the_place_of_a_function() {
    everywhere(|| async {
        let offset = 7;
        let fake = move |ctx: Ctx<App>, keys: Vec<u64>| async move {
            ctx.state().ask(&keys);
            Ok(keys.into_iter().map(|k| (k, k + offset)).collect())
        };
        let ctx = Ctx::builder(App::default()).replace(squares, fake).build();
        assert_eq!(
            ctx.load_many(squares, [1, 2]).await.unwrap(),
            [Some(&8), Some(&9)]
        );
        assert_eq!(ctx.state().asked(), [[1, 2]]);
    });
}

#[test]
fn a_function_may_run_tasks_and_load_others() {
    async fn rate(_: Ctx<App>, (): ()) -> Result<u64, String> {
        Ok(3)
    }
    async fn prices(ctx: Ctx<App>, keys: Vec<u64>) -> Result<HashMap<u64, u64>, TaskError> {
        ctx.state().ask(&keys);
        let rate = *ctx.run(rate, ()).await?;
        let found = try_join_all(keys.iter().map(|k| ctx.load(doubles, *k))).await?;
        Ok(keys
            .into_iter()
            .zip(found.into_iter().map(|v| v.unwrap() * rate))
            .collect())
    }
    everywhere(|| async {
        let ctx = ctx();
        assert_eq!(
            ctx.load_many(prices, [1, 2]).await.unwrap(),
            [Some(&6), Some(&12)]
        );
        assert_eq!(ctx.state().asked(), [[1, 2], [1, 2]]);
    });
}
