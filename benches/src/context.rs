//! `context/..`: what a scope costs that lives for little: create it, run 0, 1, 8 or 64 tasks that are ready at once, drop it.
//! One run is River's `SingleTask`; with a dependency, and with a text as its value, are two more of River's.

use std::convert::Infallible;
use std::hint::black_box;

use tokio::sync::OnceCell;
use watershed::{Ctx, TaskError};

use crate::peers::{
    Failure, Memo, Moka, MutexMap, MutexMapOfAsyncOnceCells, PapayaMap, QuickCache, Scoped,
    ShardedMap, SharedMap, SingleFlight, Topcoat, topcoat,
};
use crate::{Contender, Runner, Workload, names, ready};

async fn double(_: Ctx<()>, n: u64) -> Result<u64, Infallible> {
    Ok(2 * n)
}

async fn double_by_hand(n: u64) -> Result<u64, Failure> {
    Ok(2 * n)
}

/// So many runs in a scope of its own.
fn runs(name: &str, runs: u64) -> Workload {
    fn peer<M: Memo<u64, u64>>(runs: u64) -> Contender {
        Contender::peer(M::NAME, move || {
            Runner::each(move |i| {
                let memo = M::new();
                (0..runs).fold(0, |sum, run| {
                    let n = black_box(i + run);
                    sum + ready(memo.get(&n, move || double_by_hand(n), |value| *value)).unwrap()
                })
            })
        })
    }
    let mut contenders = vec![
        Contender::ours(move || {
            Runner::each(move |i| {
                let ctx = Ctx::new(());
                (0..runs).fold(0, |sum, run| {
                    sum + *ready(ctx.run(double, black_box(i + run))).unwrap()
                })
            })
        }),
        peer::<MutexMap<u64, OnceCell<u64>>>(runs),
        peer::<ShardedMap<u64, OnceCell<u64>>>(runs),
        peer::<PapayaMap<u64, OnceCell<u64>>>(runs),
        peer::<MutexMapOfAsyncOnceCells<u64, async_once_cell::OnceCell<u64>>>(runs),
        peer::<SharedMap<u64, u64>>(runs),
        peer::<QuickCache<u64, u64>>(runs),
        peer::<Topcoat>(runs),
    ];
    if runs == 1 {
        contenders.extend([
            peer::<Moka<u64, u64>>(runs),
            peer::<SingleFlight<u64, u64>>(runs),
        ]);
    }
    contenders.push(Contender::limit(names::BOXED, move || {
        Runner::each(move |i| {
            (0..runs).fold(0, |sum, run| {
                let body = Box::pin(double_by_hand(black_box(i + run)));
                sum + ready(black_box(body)).unwrap()
            })
        })
    }));
    Workload::new(
        name,
        "a new context, runs that are ready at once, drop",
        move |i| (0..runs).map(|run| 2 * (i + run)).sum(),
        contenders,
    )
}

/// Nothing is asked of the scope.
fn create_and_drop() -> Workload {
    fn peer<M: Memo<u64, u64>>() -> Contender {
        Contender::peer(M::NAME, || {
            Runner::each(|i| {
                black_box(M::new());
                i
            })
        })
    }
    Workload::new(
        "context/create_drop",
        "a new context, drop",
        |i| i,
        vec![
            Contender::ours(|| {
                Runner::each(|i| {
                    black_box(Ctx::new(()));
                    i
                })
            }),
            peer::<MutexMap<u64, OnceCell<u64>>>(),
            peer::<ShardedMap<u64, OnceCell<u64>>>(),
            peer::<PapayaMap<u64, OnceCell<u64>>>(),
            peer::<QuickCache<u64, u64>>(),
            peer::<Moka<u64, u64>>(),
            peer::<Topcoat>(),
            Contender::limit("three allocations of 64 bytes", || {
                Runner::each(|i| {
                    black_box([(); 3].map(|()| Box::new([i; 8])));
                    i
                })
            }),
        ],
    )
    .goal_ns(32.0)
}

// --- with a dependency -------------------------------------------------------------------------------

async fn double_and_one(ctx: Ctx<()>, n: u64) -> Result<u64, TaskError> {
    Ok(ctx.run(double, n).await? + 1)
}

fn with_dependency() -> Workload {
    fn peer<M: Scoped<u64, u64>>() -> Contender {
        Contender::peer(M::NAME, || {
            Runner::each(|i| {
                let (doubles, outer) = (M::new(), M::new());
                let n = black_box(i);
                let body = || async {
                    let double = doubles.get_scoped(&n, || double_by_hand(n), |value| *value);
                    Ok(double.await? + 1)
                };
                ready(outer.get_scoped(&n, body, |value| *value)).unwrap()
            })
        })
    }
    let by_topcoat = || {
        Runner::each(|i| {
            use topcoat_core::context::{Cx, memoize_cache};

            async fn double(cx: &Cx, n: u64) -> Result<u64, Failure> {
                let body = async |_: &Cx, n: u64| double_by_hand(n).await;
                memoize_cache(cx)
                    .memoize_async(cx, (&n,), n, body)
                    .await
                    .clone()
            }
            let cx = topcoat();
            let n = black_box(i);
            let body = async |cx: &Cx, n: u64| Ok::<_, Failure>(double(cx, n).await? + 1);
            *ready(memoize_cache(&cx).memoize_async(&cx, (&n,), n, body))
                .as_ref()
                .unwrap()
        })
    };
    Workload::new(
        "river/with_dependency",
        "a new context, one run that asks for another, drop",
        |i| 2 * i + 1,
        vec![
            Contender::ours(|| {
                Runner::each(|i| {
                    let ctx = Ctx::new(());
                    *ready(ctx.run(double_and_one, black_box(i))).unwrap()
                })
            }),
            peer::<MutexMap<u64, OnceCell<u64>>>(),
            peer::<ShardedMap<u64, OnceCell<u64>>>(),
            peer::<PapayaMap<u64, OnceCell<u64>>>(),
            peer::<MutexMapOfAsyncOnceCells<u64, async_once_cell::OnceCell<u64>>>(),
            peer::<QuickCache<u64, u64>>(),
            Contender::peer(names::TOPCOAT, by_topcoat),
            Contender::limit(names::BOXED, || {
                Runner::each(|i| {
                    let body = Box::pin(async move {
                        let inner = Box::pin(double_by_hand(black_box(i)));
                        black_box(inner).await.map(|double| double + 1)
                    });
                    ready(black_box(body)).unwrap()
                })
            }),
        ],
    )
    .goal_ns(150.0)
}

// --- a value that allocates --------------------------------------------------------------------------

fn greeting(n: u64) -> String {
    // As long as River's; `format!` would be most of the figure.
    let mut text = String::with_capacity(24);
    text.push_str("hello, world, once more ");
    text.truncate(16 + n as usize % 8);
    text
}

async fn greet(_: Ctx<()>, n: u64) -> Result<String, Infallible> {
    Ok(greeting(n))
}

fn allocation() -> Workload {
    fn peer<M: Memo<u64, String>>() -> Contender {
        Contender::peer(M::NAME, || {
            Runner::each(|i| {
                let memo = M::new();
                let n = black_box(i);
                let body = move || async move { Ok(greeting(n)) };
                ready(memo.get(&n, body, |text| text.len() as u64)).unwrap()
            })
        })
    }
    Workload::new(
        "river/allocation",
        "a new context, one run whose value is a String, drop",
        |i| 16 + i % 8,
        vec![
            Contender::ours(|| {
                Runner::each(|i| {
                    let ctx = Ctx::new(());
                    ready(ctx.run(greet, black_box(i))).unwrap().len() as u64
                })
            }),
            peer::<MutexMap<u64, OnceCell<String>>>(),
            peer::<ShardedMap<u64, OnceCell<String>>>(),
            peer::<MutexMapOfAsyncOnceCells<u64, async_once_cell::OnceCell<String>>>(),
            peer::<SharedMap<u64, String>>(),
            peer::<Topcoat>(),
            Contender::limit(names::BOXED, || {
                Runner::each(|i| {
                    let n = black_box(i);
                    let body = Box::pin(async move { greeting(n) });
                    ready(black_box(body)).len() as u64
                })
            }),
        ],
    )
    .goal_ns(130.0)
}

pub(crate) fn workloads() -> Vec<Workload> {
    vec![
        create_and_drop(),
        runs(names::SINGLE_TASK, 1).goal_ns(90.0),
        runs("context/8_runs", 8),
        runs("context/64_runs", 64),
        with_dependency(),
        allocation(),
    ]
}
