//! `river/three_..`: three independent tasks of one request, spawned on tokio or joined. `river/parallel_..`: 1 to 50 of them.
//!
//! The tasks are trivial: what is measured is handing them to other threads and waiting for them. The limit does only that:
//! `tokio::spawn` of each, and a wait for each. The peers are the maps of cells that one would write, shared by an `Arc` with what
//! is spawned; caches for a process are not made for such a short life and are left out.

use std::convert::Infallible;
use std::hint::black_box;
use std::sync::Arc;

use tokio::sync::OnceCell;
use watershed::{Ctx, Task};

use crate::peers::{
    Failure, Memo, MutexMap, MutexMapOfAsyncOnceCells, ShardedMap, SharedMap, Topcoat,
};
use crate::{Contender, Runner, Workload, names, ready};

async fn first(_: Ctx<()>, n: u64) -> Result<u64, Infallible> {
    Ok(n + 1)
}

async fn second(_: Ctx<()>, n: u64) -> Result<u64, Infallible> {
    Ok(n + 2)
}

async fn third(_: Ctx<()>, n: u64) -> Result<u64, Infallible> {
    Ok(n + 3)
}

async fn by_hand(n: u64, plus: u64) -> Result<u64, Failure> {
    Ok(n + plus)
}

/// `count` trivial tasks spawned over one memo, and their sum.
async fn spawn_all<M: Memo<u64, u64>>(i: u64, count: u64) -> u64 {
    let memo = Arc::new(M::new());
    let spawn = |plus| {
        let memo = Arc::clone(&memo);
        tokio::spawn(async move {
            let get = memo.get(&plus, move || by_hand(i, plus), |value| *value);
            get.await.unwrap()
        })
    };
    let tasks: Vec<_> = (1..=count).map(spawn).collect();
    let mut sum = 0;
    for task in tasks {
        sum += task.await.unwrap();
    }
    sum
}

async fn spawn_bare(i: u64, count: u64) -> u64 {
    let spawn = |plus| tokio::spawn(async move { by_hand(i, plus).await.unwrap() });
    let tasks: Vec<_> = (1..=count).map(spawn).collect();
    let mut sum = 0;
    for task in tasks {
        sum += task.await.unwrap();
    }
    sum
}

fn spawned<M: Memo<u64, u64>>(count: u64) -> Contender {
    Contender::peer(M::NAME, move || {
        Runner::on_tokio(move |i| spawn_all::<M>(i, count))
    })
}

fn expected(count: u64) -> impl Fn(u64) -> u64 {
    move |i| (1..=count).map(|plus| i + plus).sum()
}

fn three_spawned() -> Workload {
    Workload::new(
        "river/three_spawned",
        "a new context, `parallel` of three different tasks on tokio, drop",
        expected(3),
        vec![
            Contender::ours(|| {
                Runner::on_tokio(|i| async move {
                    let ctx = Ctx::new(());
                    let calls = (first.with(i), second.with(i), third.with(i));
                    let (a, b, c) = ctx.parallel(calls).await.unwrap();
                    a + b + c
                })
            }),
            spawned::<MutexMap<u64, OnceCell<u64>>>(3),
            spawned::<ShardedMap<u64, OnceCell<u64>>>(3),
            spawned::<SharedMap<u64, u64>>(3),
            spawned::<Topcoat>(3),
            Contender::limit(names::SPAWN, || Runner::on_tokio(|i| spawn_bare(i, 3))),
        ],
    )
    .goal_ns(600.0)
}

fn three_joined() -> Workload {
    fn joined<M: Memo<u64, u64>>() -> Contender {
        Contender::peer(M::NAME, || {
            Runner::each(|i| {
                let i = black_box(i);
                let memo = M::new();
                let get = |plus| {
                    let memo = &memo;
                    async move {
                        memo.get(&plus, move || by_hand(i, plus), |value| *value)
                            .await
                    }
                };
                let (a, b, c) = ready(async { tokio::try_join!(get(1), get(2), get(3)) }).unwrap();
                a + b + c
            })
        })
    }
    Workload::new(
        "river/three_joined",
        "a new context, three different tasks joined by their caller, drop",
        expected(3),
        vec![
            Contender::ours(|| {
                Runner::each(|i| {
                    let i = black_box(i);
                    let ctx = Ctx::new(());
                    let joined = async {
                        tokio::try_join!(ctx.run(first, i), ctx.run(second, i), ctx.run(third, i))
                    };
                    let (a, b, c) = ready(joined).unwrap();
                    a + b + c
                })
            }),
            joined::<MutexMap<u64, OnceCell<u64>>>(),
            joined::<MutexMapOfAsyncOnceCells<u64, async_once_cell::OnceCell<u64>>>(),
            joined::<ShardedMap<u64, OnceCell<u64>>>(),
            joined::<SharedMap<u64, u64>>(),
            joined::<Topcoat>(),
            Contender::limit(names::BOXED, || {
                Runner::each(|i| {
                    let i = black_box(i);
                    let get = |plus| black_box(Box::pin(by_hand(i, plus)));
                    let (a, b, c) =
                        ready(async { tokio::try_join!(get(1), get(2), get(3)) }).unwrap();
                    a + b + c
                })
            }),
        ],
    )
    .goal_ns(220.0)
}

async fn plus(_: Ctx<u64>, plus: u64) -> Result<u64, Infallible> {
    // The state is not read: a peer's body has its number in itself.
    Ok(plus)
}

fn parallel(count: u64, goal: f64) -> Workload {
    Workload::new(
        format!("river/parallel_{count}"),
        "a new context, `parallel_all` of so many trivial runs on tokio, drop",
        expected(count),
        vec![
            Contender::ours(move || {
                Runner::on_tokio(move |i| async move {
                    let ctx = Ctx::new(i);
                    let calls = (1..=count).map(|n| plus.with(n));
                    let values = ctx.parallel_all(calls, count as usize).await.unwrap();
                    values.into_iter().map(|plus| i + plus).sum()
                })
            }),
            spawned::<MutexMap<u64, OnceCell<u64>>>(count),
            spawned::<ShardedMap<u64, OnceCell<u64>>>(count),
            spawned::<SharedMap<u64, u64>>(count),
            Contender::limit(names::SPAWN, move || {
                Runner::on_tokio(move |i| spawn_bare(i, count))
            }),
        ],
    )
    .goal_ns(goal)
}

pub(crate) fn workloads() -> Vec<Workload> {
    let goals = [
        (1, 100.0),
        (2, 400.0),
        (5, 1_200.0),
        (10, 2_600.0),
        (20, 5_300.0),
        (50, 13_500.0),
    ];
    let mut all = vec![three_spawned(), three_joined()];
    all.extend(goals.map(|(count, goal)| parallel(count, goal)));
    all
}
