//! Cycles through a batch, the end of the context, depth, what is left.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use futures::future::{join_all, try_join_all};
use watershed::{Ctx, TaskError, TaskErrorKind};

use super::support::{CountingWaker, everywhere, poll_once, poll_with, watched, watched_on};
use super::{App, ctx, gated, squares};

type Found = Pin<Box<dyn Future<Output = Result<Vec<(u64, u64)>, TaskError>> + Send>>;

/// Asks for its own keys.
fn own(ctx: Ctx<App>, keys: Vec<u64>) -> Found {
    Box::pin(async move {
        let found = ctx.load_many(own, keys.clone()).await?;
        Ok(keys
            .into_iter()
            .zip(found.into_iter().flatten().copied())
            .collect())
    })
}

#[test]
fn a_batch_that_asks_for_its_own_keys_is_told_so() {
    everywhere(|| async {
        let ctx = ctx();
        for keys in [vec![1], vec![2, 3, 4]] {
            let all = join_all(keys.iter().map(|k| ctx.load(own, *k))).await;
            for outcome in all {
                let error = outcome.unwrap_err();
                assert_eq!(error.kind(), TaskErrorKind::Cycle, "{error}");
                assert!(error.to_string().contains("own > own"), "{error}");
            }
        }
    });
}

/// Asks a task that asks for one of its keys.
fn round(ctx: Ctx<App>, keys: Vec<u64>) -> Found {
    Box::pin(async move {
        let first = *ctx.run(back, keys[0]).await?;
        Ok(keys.into_iter().map(|k| (k, first)).collect())
    })
}
fn back(ctx: Ctx<App>, key: u64) -> Pin<Box<dyn Future<Output = Result<u64, TaskError>> + Send>> {
    Box::pin(async move { Ok(*ctx.load(round, key).await?.unwrap()) })
}

#[test]
fn a_cycle_through_a_task_and_a_batch_is_found_from_either_side() {
    everywhere(|| async {
        let ctx = ctx();
        let (a, b) = tokio::join!(ctx.load(round, 1), ctx.load(round, 2));
        assert_eq!(a.unwrap_err().kind(), TaskErrorKind::Cycle);
        assert_eq!(b.unwrap_err().kind(), TaskErrorKind::Cycle);
        let error = ctx.run(back, 3).await.unwrap_err();
        assert_eq!(error.kind(), TaskErrorKind::Cycle);
        let path = error.to_string();
        assert!(path.contains("round") && path.contains("back"), "{path}");
    });
}

/// Needs its own key 1, when it was let through.
fn comes_back(ctx: Ctx<App>, keys: Vec<u64>) -> Found {
    Box::pin(async move {
        ctx.state().ask(&keys);
        ctx.state().gate.passed().await;
        ctx.load(comes_back, 1).await?;
        Ok(keys.into_iter().map(|k| (k, k)).collect())
    })
}

/// The batch under way fetches the key for nobody any more, but it still waits for itself.
#[test]
fn a_batch_that_asks_for_a_key_of_its_own_that_was_left_is_a_cycle() {
    let ctx = ctx();
    let mut left = ctx.load(comes_back, 1);
    let mut other = ctx.load(comes_back, 2);
    assert!(poll_once(&mut left).is_pending());
    assert!(poll_once(&mut other).is_pending());
    assert!(poll_once(&mut other).is_pending());
    drop(left);
    ctx.state().gate.open();
    let Poll::Ready(Err(error)) = poll_once(&mut other) else {
        panic!("it is found in the poll that closes it")
    };
    assert_eq!(error.kind(), TaskErrorKind::Cycle);
    assert_eq!(ctx.state().asked(), [[1, 2]]);
}

/// Two functions that need a key of each other.
fn left(ctx: Ctx<App>, keys: Vec<u64>) -> Found {
    Box::pin(async move {
        let found = ctx.load_many(right, keys.clone()).await?;
        Ok(keys
            .into_iter()
            .zip(found.into_iter().flatten().copied())
            .collect())
    })
}
fn right(ctx: Ctx<App>, keys: Vec<u64>) -> Found {
    Box::pin(async move {
        if keys.contains(&0) {
            return Ok(keys.into_iter().map(|k| (k, 0)).collect());
        }
        let below = keys.iter().map(|k| if k % 2 == 0 { k / 2 } else { *k });
        let found = ctx.load_many(left, Vec::from_iter(below)).await?;
        Ok(keys
            .into_iter()
            .zip(found.into_iter().flatten().copied())
            .collect())
    })
}

#[test]
fn functions_may_ask_each_other_for_other_keys_and_are_told_when_it_is_the_same() {
    everywhere(|| async {
        let ctx = ctx();
        // 4 leads to 2 and to 1, which leads to itself.
        let error = ctx.load(left, 4).await.unwrap_err();
        assert_eq!(error.kind(), TaskErrorKind::Cycle);
        assert_eq!(ctx.load(left, 0).await.unwrap(), Some(&0));
    });
}

/// No false alarm: a batch waits for what others of its callers wait for too.
#[test]
fn a_diamond_through_batches_is_no_cycle() {
    async fn leaf(_: Ctx<App>, n: u64) -> Result<u64, TaskError> {
        super::yields(2).await;
        Ok(n)
    }
    async fn half(ctx: Ctx<App>, keys: Vec<u64>) -> Result<Vec<(u64, u64)>, TaskError> {
        let all = try_join_all(keys.iter().map(|k| ctx.run(leaf, k / 2))).await?;
        Ok(keys.into_iter().zip(all.into_iter().copied()).collect())
    }
    async fn page(ctx: Ctx<App>, n: u64) -> Result<u64, TaskError> {
        let (a, b) = tokio::try_join!(ctx.load(half, n), ctx.run(leaf, n / 2))?;
        Ok(a.unwrap() + b)
    }
    everywhere(|| async {
        let ctx = ctx();
        let all = try_join_all((0..20).map(|n| ctx.run(page, n)))
            .await
            .unwrap();
        assert!(all.into_iter().zip(0..).all(|(v, n)| *v == n / 2 * 2));
    });
}

/// A key that was left is not in the way of the next that asks for it from inside the old batch's waiters.
#[test]
fn an_edge_that_was_taken_back_raises_no_alarm() {
    let ctx = ctx();
    let mut one = ctx.load(gated, 1);
    let mut two = ctx.load(gated, 2);
    assert!(poll_once(&mut one).is_pending());
    assert!(poll_once(&mut two).is_pending());
    assert!(poll_once(&mut two).is_pending());
    assert_eq!(ctx.state().asked(), [[1, 2]]);
    drop(one);
    let mut again = ctx.load(gated, 1);
    assert!(poll_once(&mut again).is_pending());
    assert!(poll_once(&mut again).is_pending());
    assert!(ctx.state().asked().is_empty(), "it is under way");
    ctx.state().gate.open();
    assert!(poll_once(&mut again).is_ready());
    assert!(poll_once(&mut two).is_ready());
}

#[test]
fn cancelled_while_keys_gather() {
    let ctx = ctx();
    let (woken, waker) = CountingWaker::pair();
    let mut both = join_all([1, 2].map(|k| ctx.load(gated, k)));
    assert!(poll_with(&mut both, &waker).is_pending());
    let before = woken.wakes();
    ctx.cancel();
    assert!(woken.wakes() > before);
    let std::task::Poll::Ready(both) = poll_with(&mut both, &waker) else {
        panic!("pending");
    };
    for outcome in both {
        assert_eq!(outcome.unwrap_err().kind(), TaskErrorKind::Cancelled);
    }
    assert_eq!(ctx.state().asked(), [[0; 0]; 0]);
    let late = ctx.load(gated, 3).wait().unwrap_err();
    assert_eq!(late.kind(), TaskErrorKind::Cancelled);
    assert_eq!(ctx.prime_loaded(squares, 1, 1), Err(1));
}

#[test]
fn cancelled_in_flight() {
    let ctx = ctx();
    ctx.load(squares, 1).wait().unwrap();
    let mut both = join_all([1, 2].map(|k| ctx.load(gated, k)));
    assert!(poll_once(&mut both).is_pending());
    assert!(poll_once(&mut both).is_pending());
    assert_eq!(ctx.state().bodies.live(), 1);
    ctx.cancel();
    assert_eq!(ctx.state().bodies.live(), 0, "before `cancel` returns");
    let std::task::Poll::Ready(both) = poll_once(&mut both) else {
        panic!("pending");
    };
    for outcome in both {
        let error = outcome.unwrap_err();
        assert_eq!(error.kind(), TaskErrorKind::Cancelled);
        assert!(
            error.to_string().starts_with("gated was cancelled"),
            "{error}"
        );
    }
    assert_eq!(
        ctx.load(squares, 1).wait().unwrap(),
        Some(&1),
        "a hit stays a hit"
    );
}

#[test]
fn the_last_handle_ends_a_batch() {
    async fn page(ctx: Ctx<App>, key: u64) -> Result<u64, TaskError> {
        Ok(ctx.load(gated, key).await?.unwrap().number)
    }
    let app = App::default();
    let (bodies, values) = (app.bodies.clone(), app.values.clone());
    for keys in [vec![1], vec![1, 2, 3]] {
        let ctx = Ctx::new(App {
            bodies: bodies.clone(),
            values: values.clone(),
            ..App::default()
        });
        let mut pages = Box::pin(join_all(keys.into_iter().map(|k| {
            let ctx = ctx.clone();
            Box::pin(async move { ctx.run(page, k).await.copied() })
        })));
        assert!(poll_once(&mut pages).is_pending());
        assert!(poll_once(&mut pages).is_pending());
        assert_eq!(bodies.live(), 1);
        drop(ctx);
        drop(pages);
        assert_eq!(bodies.live(), 0);
        assert_eq!(values.live(), 0);
    }
}

#[test]
fn values_are_dropped_once_with_the_context() {
    let app = App::default();
    let values = app.values.clone();
    app.gate.open();
    let ctx = Ctx::new(app);
    ctx.load_many(gated, 0..20).wait().unwrap();
    // Taken by nobody's body, since its only caller left.
    {
        let [mut one, mut other] = [100, 101].map(|k| ctx.load(gated, k));
        assert!(poll_once(&mut one).is_pending());
        assert!(poll_once(&mut other).is_pending());
        assert!(poll_once(&mut one).is_ready());
    }
    assert_eq!(
        (values.live(), values.made()),
        (22, 22),
        "what nobody took is kept"
    );
    drop(ctx);
    assert_eq!(values.live(), 0);
}

#[test]
fn past_the_deadline() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    runtime.block_on(async {
        let ctx = Ctx::builder(App::default())
            .deadline(Duration::from_millis(10))
            .build();
        let all = join_all((0..3).map(|k| ctx.load(gated, k))).await;
        for outcome in all {
            assert_eq!(outcome.unwrap_err().kind(), TaskErrorKind::DeadlineExceeded);
        }
        assert_eq!(ctx.state().asked(), [[0, 1, 2]]);
        assert_eq!(ctx.state().bodies.live(), 0);
    });
}

/// Each batch asks for the key below.
fn down(ctx: Ctx<App>, keys: Vec<u64>) -> Found {
    Box::pin(async move {
        let mut found = Vec::new();
        for key in keys {
            if key == 0 {
                ctx.state().gate.passed().await;
                found.push((0, 0));
            } else {
                let below = *ctx.load(down, key - 1).await?.unwrap();
                found.push((key, below + 1));
            }
        }
        Ok(found)
    })
}

const DEEP: u64 = 3_000;

#[test]
fn a_deep_chain_of_batches_ends_on_a_small_stack() {
    watched_on("a deep chain", 512 << 10, || {
        let ctx = ctx();
        ctx.state().gate.open();
        let depth = *ctx.load(down, DEEP).wait().unwrap().unwrap();
        assert_eq!(depth, DEEP);
    });
}

#[test]
fn a_deep_chain_of_batches_is_woken_and_dropped_on_a_small_stack() {
    watched_on("a deep chain", 512 << 10, || {
        let ctx = Arc::new(ctx());
        let waiting = std::thread::spawn({
            let ctx = ctx.clone();
            move || ctx.load(down, DEEP).wait().map(|v| *v.unwrap())
        });
        while ctx.peek_loaded(down, &0).is_none() && !ctx.is_cancelled() {
            std::thread::yield_now();
            ctx.state().gate.open();
        }
        assert_eq!(waiting.join().unwrap().unwrap(), DEEP);

        let ctx = Ctx::new(App::default());
        let mut call = ctx.load(down, DEEP);
        for _ in 0..10 {
            assert!(poll_once(&mut call).is_pending());
        }
        drop(call);
    });
}

/// The call that finds the stack used up leaves its key's slot to the base of the stack, and has parked before the batch is open. At every depth
/// about where that happens.
#[test]
fn a_load_that_hops_is_sent() {
    fn down(
        ctx: Ctx<App>,
        (left, key): (u64, u64),
    ) -> Pin<Box<dyn Future<Output = Result<u64, TaskError>> + Send>> {
        Box::pin(async move {
            if left == 0 {
                return Ok(*ctx.load(squares, key).await?.unwrap());
            }
            Ok(*ctx.run(down, (left - 1, key)).await?)
        })
    }
    watched("a load that hops", || {
        for depth in 120..140 {
            let ctx = ctx();
            assert_eq!(ctx.run(down, (depth, 7)).wait().unwrap(), &49);
            assert_eq!(ctx.state().asked(), [[7]]);
        }
    });
}

#[test]
fn too_deep_is_an_error() {
    watched("too deep", || {
        let ctx = Ctx::builder(App::default()).max_depth(50).build();
        let error = ctx.load(down, 100).wait().unwrap_err();
        assert_eq!(error.kind(), TaskErrorKind::TooDeep);
    });
}
