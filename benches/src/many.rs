//! `miss/100k`: a context that grows from nothing to 100,000 keys; the time of one. `drop/100k`: its end. (A hit among so many:
//! `hit/u64_100000`.)

use std::convert::Infallible;
use std::hint::black_box;

use tokio::sync::OnceCell;
use watershed::Ctx;

use crate::hit::shuffled;
use crate::peers::{
    Failure, Memo, Moka, MutexMap, MutexMapOfAsyncOnceCells, PapayaMap, QuickCache, ShardedMap,
};
use crate::{Contender, Runner, Workload, names, ready};

const KEYS: u64 = 100_000;

async fn next(_: Ctx<()>, n: u64) -> Result<u64, Infallible> {
    Ok(n + 1)
}

async fn next_by_hand(n: u64) -> Result<u64, Failure> {
    Ok(n + 1)
}

fn fill_ctx(keys: &[u64]) -> (u64, Ctx<()>) {
    let ctx = Ctx::new(());
    let sum = keys
        .iter()
        .map(|n| *ready(ctx.run(next, black_box(*n))).unwrap())
        .sum();
    (sum, ctx)
}

fn fill<M: Memo<u64, u64>>(keys: &[u64]) -> (u64, M) {
    let memo = M::new();
    let sum = keys
        .iter()
        .map(|n| {
            let n = black_box(*n);
            ready(memo.get(&n, move || next_by_hand(n), |value| *value)).unwrap()
        })
        .sum();
    (sum, memo)
}

/// The clock runs while `fill` fills, or while what it has filled is dropped.
fn runner<T: 'static>(drops: bool, fill: impl Fn(&[u64]) -> (u64, T) + Clone + 'static) -> Runner {
    let keys = shuffled(KEYS);
    if drops {
        Runner::prepared(
            move |_| fill(&keys),
            |(sum, filled), _| {
                drop(filled);
                (sum, ())
            },
        )
    } else {
        Runner::prepared(|_| (), move |(), _| fill(&keys))
    }
}

fn workload(name: &str, about: &'static str, drops: bool) -> Workload {
    fn peer<M: Memo<u64, u64>>(drops: bool) -> Contender {
        Contender::peer(M::NAME, move || runner(drops, fill::<M>))
    }
    Workload::new(
        name,
        about,
        |_| (1..=KEYS).sum(),
        vec![
            Contender::ours(move || runner(drops, fill_ctx)),
            peer::<MutexMap<u64, OnceCell<u64>>>(drops),
            peer::<ShardedMap<u64, OnceCell<u64>>>(drops),
            peer::<PapayaMap<u64, OnceCell<u64>>>(drops),
            peer::<MutexMapOfAsyncOnceCells<u64, async_once_cell::OnceCell<u64>>>(drops),
            peer::<QuickCache<u64, u64>>(drops),
            peer::<Moka<u64, u64>>(drops),
            Contender::limit(names::HASHBROWN, move || {
                runner(drops, |keys| {
                    let mut map =
                        hashbrown::HashMap::<u64, u64, foldhash::fast::RandomState>::default();
                    let sum = keys
                        .iter()
                        .map(|n| *map.entry(black_box(*n)).or_insert_with(|| n + 1))
                        .sum();
                    (sum, map)
                })
            }),
        ],
    )
    .per(KEYS)
}

pub(crate) fn workloads() -> Vec<Workload> {
    vec![
        workload(
            "miss/100k",
            "a context grows to 100,000 keys; the time of one run",
            false,
        )
        .goal_ns(200.0),
        workload(
            "drop/100k",
            "a context of 100,000 keys ends; the time of one key",
            true,
        ),
    ]
}
