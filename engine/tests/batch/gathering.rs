//! Which keys go together, and when.

use std::sync::Arc;
use std::task::Poll;

use futures::future::{join, join_all, try_join_all};
use futures::stream::{self, FuturesUnordered, StreamExt};
use watershed::{Ctx, Task, TaskError};

use super::support::{
    CountingWaker, current_thread, everywhere, multi_thread, poll_once, poll_with, watched, yields,
};
use super::{App, ctx, doubles, gated, slowly, squares};

#[test]
fn a_join_asks_once() {
    everywhere(|| async {
        let ctx = ctx();
        let (a, b, c) = tokio::join!(
            ctx.load(squares, 1),
            ctx.load(squares, 2),
            ctx.load(squares, 3)
        );
        assert_eq!(
            (a.unwrap(), b.unwrap(), c.unwrap()),
            (Some(&1), Some(&4), Some(&9))
        );
        assert_eq!(ctx.state().asked(), [[1, 2, 3]]);
    });
}

#[test]
fn join_all_of_few_and_of_many_asks_once() {
    everywhere(|| async {
        for n in [1, 2, 30, 31, 1_000] {
            let ctx = ctx();
            let all = try_join_all((0..n).map(|k| ctx.load(slowly, k))).await;
            assert!(
                all.unwrap()
                    .into_iter()
                    .zip(0..n)
                    .all(|(v, k)| v == Some(&(k + 1)))
            );
            assert_eq!(ctx.state().asked(), [Vec::from_iter(0..n)]);
        }
    });
}

#[test]
fn futures_unordered_asks_once() {
    everywhere(|| async {
        let ctx = ctx();
        let mut all: FuturesUnordered<_> = (0..100).map(|k| ctx.load(squares, k)).collect();
        let mut sum = 0;
        while let Some(value) = all.next().await {
            sum += value.unwrap().unwrap();
        }
        assert_eq!(sum, (0..100).map(|k| k * k).sum::<u64>());
        assert_eq!(ctx.state().asked().len(), 1);
    });
}

#[test]
fn buffer_unordered_asks_for_what_is_in_the_buffer() {
    everywhere(|| async {
        let ctx = ctx();
        let calls: Vec<_> = (0..40).map(|k| ctx.load(slowly, k)).collect();
        let got: Vec<_> = stream::iter(calls).buffer_unordered(10).collect().await;
        assert_eq!(got.len(), 40);
        let asked = ctx.state().asked();
        assert_eq!(asked[0], Vec::from_iter(0..10));
        assert_eq!(asked.iter().map(Vec::len).sum::<usize>(), 40);
        assert_eq!(asked.len(), 4, "{asked:?}");
    });
}

#[test]
fn load_many_asks_once_in_order_and_gives_values_in_order() {
    everywhere(|| async {
        let ctx = ctx();
        let keys = [5, 1, 9, 1, 5];
        let found = ctx.load_many(squares, keys).await.unwrap();
        assert_eq!(found, [Some(&25), Some(&1), Some(&81), Some(&1), Some(&25)]);
        assert_eq!(ctx.state().asked(), [[1, 5, 9]]);
        assert_eq!(
            ctx.load_many(squares, [0u64; 0]).await.unwrap(),
            [None::<&u64>; 0]
        );
        // What is there is not asked for again.
        let found = ctx.load_many(squares, [2, 9]).await.unwrap();
        assert_eq!(found, [Some(&4), Some(&81)]);
        assert_eq!(ctx.state().asked(), [[2]]);
    });
}

async fn page(ctx: Ctx<App>, user: u64) -> Result<u64, TaskError> {
    let user = *ctx.load(squares, user).await?.unwrap();
    let order = *ctx.load(doubles, user).await?.unwrap();
    let items = try_join_all((0..3).map(|n| ctx.load(slowly, 10 * order + n))).await?;
    Ok(items.into_iter().flatten().sum())
}

#[test]
fn a_tree_of_three_levels_makes_three_batches() {
    everywhere(|| async {
        let ctx = ctx();
        let pages = try_join_all((0..10).map(|user| ctx.run(page, user))).await;
        assert_eq!(pages.unwrap().len(), 10);
        let sizes: Vec<_> = ctx.state().asked().iter().map(Vec::len).collect();
        assert_eq!(sizes, [10, 10, 30]);
    });
}

#[test]
fn a_tree_in_parallel_on_one_thread_makes_a_batch_a_level() {
    for workers in [0, 1] {
        watched("a tree in parallel", move || {
            let runtime = match workers {
                0 => current_thread(),
                _ => tokio::runtime::Builder::new_multi_thread()
                    .worker_threads(workers)
                    .build()
                    .unwrap(),
            };
            let pages = runtime.spawn(async {
                let ctx = ctx();
                ctx.parallel_all((0..10).map(|user| page.with(user)), 10)
                    .await
                    .unwrap();
                ctx.state().asked().iter().map(Vec::len).collect::<Vec<_>>()
            });
            assert_eq!(runtime.block_on(pages).unwrap(), [10, 10, 30], "{workers}");
        });
    }
}

/// On several threads as well, as long as none of them is kept off its processor: which a busy machine does, so most of the times.
#[test]
fn a_tree_in_parallel_on_many_threads_makes_a_batch_a_level_nearly_always() {
    watched("a tree in parallel", || {
        let runtime = multi_thread();
        let mut best = 0;
        for _ in 0..200 {
            let pages = runtime.spawn(async {
                let ctx = ctx();
                ctx.parallel_all((0..10).map(|user| page.with(user)), 10)
                    .await
                    .unwrap();
                ctx.state().asked()
            });
            let asked = runtime.block_on(pages).unwrap();
            let keys = asked.iter().map(Vec::len).sum::<usize>();
            assert_eq!(keys, 50, "none twice: {asked:?}");
            best += usize::from(asked.len() == 3);
        }
        println!("{best} of 200");
        assert!(best >= 100, "{best} of 200");
    });
}

async fn shallow(ctx: Ctx<App>, key: u64) -> Result<u64, TaskError> {
    Ok(*ctx.load(squares, key).await?.unwrap())
}
async fn deep(ctx: Ctx<App>, key: u64) -> Result<u64, TaskError> {
    Ok(*ctx.run(deeper, key).await?)
}
async fn deeper(ctx: Ctx<App>, key: u64) -> Result<u64, TaskError> {
    Ok(*ctx.run(shallow, key).await?)
}

#[test]
fn tasks_of_different_depth_ask_together() {
    everywhere(|| async {
        let ctx = ctx();
        let got = tokio::try_join!(
            ctx.run(deep, 3),
            async { Ok(ctx.load(squares, 1).await?.unwrap()) },
            ctx.run(shallow, 2),
        );
        assert_eq!(got.unwrap(), (&9, &1, &4));
        assert_eq!(ctx.state().asked(), [[1, 2, 3]]);
    });
}

/// Who joins a task that waits for a batch polls its body no earlier than the executor comes round.
#[test]
fn a_task_that_two_ask_for_does_not_send_the_batch_before_others_have_asked() {
    everywhere(|| async {
        let ctx = ctx();
        let calls = [1, 2, 2, 1, 3].map(|key| ctx.run(shallow, key));
        let found = try_join_all(calls).await.unwrap();
        assert_eq!(found, [&1, &4, &4, &1, &9]);
        assert_eq!(ctx.state().asked(), [[1, 2, 3]]);
    });
}

#[test]
fn tasks_of_an_executor_ask_together() {
    watched("tasks", || {
        current_thread().block_on(async {
            let ctx = Arc::new(ctx());
            let tasks: Vec<_> = (0..20)
                .map(|k| {
                    let ctx = ctx.clone();
                    tokio::spawn(async move { *ctx.load(squares, k).await.unwrap().unwrap() })
                })
                .collect();
            for (task, k) in tasks.into_iter().zip(0..) {
                assert_eq!(task.await.unwrap(), k * k);
            }
            assert_eq!(ctx.state().asked().len(), 1);
        });
    });
}

#[test]
fn two_functions_of_one_level_make_a_batch_each() {
    everywhere(|| async {
        let ctx = ctx();
        let (a, b) = join(
            try_join_all((0..5).map(|k| ctx.load(squares, k))),
            try_join_all((5..9).map(|k| ctx.load(doubles, k))),
        )
        .await;
        assert_eq!((a.unwrap().len(), b.unwrap().len()), (5, 4));
        assert_eq!(ctx.state().asked(), [vec![0, 1, 2, 3, 4], vec![5, 6, 7, 8]]);
    });
}

#[test]
fn a_call_alone_goes_with_its_second_poll_and_asks_for_that_itself() {
    let ctx = ctx();
    let mut call = ctx.load(squares, 4);
    let (woken, waker) = CountingWaker::pair();
    assert!(poll_with(&mut call, &waker).is_pending());
    assert_eq!(ctx.state().asked(), [[0; 0]; 0]);
    assert_eq!(woken.wakes(), 1);
    let Poll::Ready(value) = poll_with(&mut call, &waker) else {
        panic!("it waits for somebody");
    };
    assert_eq!(value.unwrap(), Some(&16));
    assert_eq!(ctx.state().asked(), [[4]]);
}

/// With a waker that wakes nobody it is the same; a call that is polled once asks for nothing.
#[test]
fn a_call_that_is_polled_once_asks_for_nothing() {
    let ctx = ctx();
    let mut call = ctx.load(squares, 4);
    assert!(poll_once(&mut call).is_pending());
    drop(call);
    let mut call = ctx.load_many(squares, [5, 6]);
    assert!(poll_once(&mut call).is_pending());
    assert_eq!(ctx.state().asked(), [[0; 0]; 0]);
    assert!(poll_once(&mut call).is_ready());
    assert_eq!(ctx.state().asked(), [[5, 6]]);
}

#[test]
fn a_thread_without_an_executor_waits() {
    let ctx = ctx();
    assert_eq!(ctx.load(slowly, 4).wait().unwrap(), Some(&5));
    let found = ctx.load_many(slowly, [4, 6]).wait().unwrap();
    assert_eq!(found, [Some(&5), Some(&7)]);
    assert_eq!(ctx.state().asked(), [[4], [6]]);
}

#[test]
fn a_key_is_in_one_batch_only() {
    everywhere(|| async {
        let ctx = ctx();
        let (a, b, c, many) = tokio::join!(
            ctx.load(squares, 1),
            ctx.load(squares, 1),
            ctx.run(shallow, 1),
            ctx.load_many(squares, [2, 1]),
        );
        let a: *const u64 = a.unwrap().unwrap();
        assert_eq!(a, std::ptr::from_ref(b.unwrap().unwrap()), "one value");
        assert_eq!(a, std::ptr::from_ref(many.unwrap()[1].unwrap()));
        assert_eq!(c.unwrap(), &1);
        assert_eq!(ctx.state().asked(), [[1, 2]]);
        assert!(ctx.load(squares, 1).await.unwrap().is_some());
        assert_eq!(ctx.state().asked(), [[0; 0]; 0]);
    });
}

#[test]
fn a_key_in_flight_is_joined() {
    let ctx = ctx();
    let mut first = ctx.load(gated, 1);
    assert!(poll_once(&mut first).is_pending());
    assert!(poll_once(&mut first).is_pending());
    assert_eq!(ctx.state().asked(), [[1]]);
    let mut both = ctx.load_many(gated, [1, 2]);
    for _ in 0..3 {
        assert!(poll_once(&mut both).is_pending());
    }
    assert_eq!(ctx.state().asked(), [[2]]);
    ctx.state().gate.open();
    let Poll::Ready(Ok(values)) = poll_once(&mut both) else {
        panic!("pending");
    };
    assert_eq!(values[0].unwrap().number, 1);
    assert!(poll_once(&mut first).is_ready());
    assert_eq!(ctx.state().values.made(), 2);
}

#[test]
fn a_full_batch_goes_at_once_and_several_are_under_way_together() {
    let ctx = Ctx::builder(App::default()).max_batch(gated, 2).build();
    let mut all = join_all((0..5).map(|k| ctx.load(gated, k)));
    assert!(poll_once(&mut all).is_pending());
    assert_eq!(ctx.state().asked(), [[0, 1], [2, 3]]);
    assert!(poll_once(&mut all).is_pending());
    assert_eq!(ctx.state().asked(), [[4]]);
    assert_eq!(ctx.state().bodies.live(), 3);
    ctx.state().gate.open();
    let Poll::Ready(all) = poll_once(&mut all) else {
        panic!("pending");
    };
    let numbers: Vec<_> = all
        .into_iter()
        .map(|v| v.unwrap().unwrap().number)
        .collect();
    assert_eq!(numbers, [0, 1, 2, 3, 4]);
}

#[test]
fn a_limit_of_zero_or_one_asks_one_by_one() {
    everywhere(|| async {
        for most in [0, 1] {
            let ctx = Ctx::builder(App::default())
                .max_batch(squares, most)
                .build();
            let found = ctx.load_many(squares, [1, 2, 3]).await.unwrap();
            assert_eq!(found, [Some(&1), Some(&4), Some(&9)]);
            assert_eq!(ctx.state().asked(), [[1], [2], [3]]);
            assert_eq!(ctx.load(squares, 4).await.unwrap(), Some(&16));
        }
    });
}

#[test]
fn a_limit_is_of_its_function_alone() {
    everywhere(|| async {
        let ctx = Ctx::builder(App::default()).max_batch(squares, 2).build();
        ctx.load_many(squares, 0..100).await.unwrap();
        assert!(ctx.state().asked().iter().all(|keys| keys.len() == 2));
        ctx.load_many(doubles, 0..100).await.unwrap();
        assert_eq!(ctx.state().asked().len(), 1);
    });
}

#[test]
fn contexts_do_not_share_batches() {
    everywhere(|| async {
        let (a, b) = (ctx(), ctx());
        let (one, two) = tokio::join!(a.load(squares, 1), b.load(squares, 1));
        assert_eq!((one.unwrap(), two.unwrap()), (Some(&1), Some(&1)));
        assert_eq!(a.state().asked(), [[1]]);
        assert_eq!(b.state().asked(), [[1]]);
    });
}

/// R62: the cost of a key does not grow with the number of keys.
#[test]
fn a_fan_out_of_many_keys_is_linear() {
    watched("many keys", || {
        futures::executor::block_on(async {
            let ctx = Ctx::builder(App::default())
                .max_batch(squares, 5_000)
                .build();
            let all = try_join_all((0..50_000).map(|k| ctx.load(squares, k))).await;
            assert_eq!(all.unwrap().len(), 50_000);
            let many = ctx.load_many(slowly, 0..50_000).await.unwrap();
            assert_eq!(many.len(), 50_000);
        });
    });
}

#[test]
fn a_body_that_goes_on_by_itself_asks_in_a_later_turn() {
    everywhere(|| async {
        let ctx = ctx();
        let later = async {
            yields(5).await;
            ctx.load(squares, 2).await
        };
        let (a, b) = tokio::join!(ctx.load(squares, 1), later);
        assert_eq!((a.unwrap(), b.unwrap()), (Some(&1), Some(&4)));
        assert_eq!(ctx.state().asked(), [[1], [2]]);
    });
}
