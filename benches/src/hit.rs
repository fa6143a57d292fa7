//! `hit`: a call whose value is there already, in a scope that holds thirty. The keys are asked
//! for in turn.
//!
//! The value is a `u64`. That is the best case of the peers which clone their value for each
//! caller (quick_cache, moka); the others read it from its cell, as the engine does.

use std::collections::HashMap;
use std::convert::Infallible;
use std::hint::black_box;
use std::sync::Arc;

use foldhash::fast::RandomState;
use tokio::sync::OnceCell;
use watershed::Ctx;

use crate::{Contender, Expected, Group, names, ready};

const KEYS: u64 = 30;

async fn square(_: Ctx<()>, n: u64) -> Result<u64, Infallible> {
    Ok(n * n)
}

async fn square_by_hand(n: u64) -> Result<u64, Infallible> {
    Ok(n * n)
}

fn key(i: u64) -> u64 {
    black_box(i)
}

pub(crate) fn group() -> Group {
    Group {
        name: names::HIT,
        about: "a call whose value is there: one look-up, one load",
        ours: ours(),
        peers: vec![quick_cache(), dashmap(), papaya(), moka(), plain_map()],
        expected: Expected(|i| (i % KEYS) * (i % KEYS)),
    }
}

fn ours() -> Contender {
    let ctx = Ctx::new(());
    for n in 0..KEYS {
        ready(ctx.run(square, n)).unwrap();
    }
    Contender::in_turn(names::WATERSHED, KEYS, move |i| {
        *ready(ctx.run(square, key(i))).unwrap()
    })
}

fn quick_cache() -> Contender {
    let cache = quick_cache::sync::Cache::<u64, u64, _, RandomState>::with(
        1_000,
        1_000,
        quick_cache::UnitWeighter,
        RandomState::default(),
        quick_cache::sync::DefaultLifecycle::default(),
    );
    let call = move |n| ready(cache.get_or_insert_async(&n, square_by_hand(n))).unwrap();
    for n in 0..KEYS {
        call(n);
    }
    Contender::in_turn(names::QUICK_CACHE, KEYS, move |i| call(key(i)))
}

fn dashmap() -> Contender {
    let map = dashmap::DashMap::<u64, Arc<OnceCell<u64>>, _>::with_hasher(RandomState::default());
    let call = move |n| {
        // The guard of an entry must not live across an await: the cell leaves the map as an `Arc`.
        let cell = Arc::clone(&map.entry(n).or_default());
        *ready(cell.get_or_try_init(|| square_by_hand(n))).unwrap()
    };
    for n in 0..KEYS {
        call(n);
    }
    Contender::in_turn(names::DASHMAP, KEYS, move |i| call(key(i)))
}

fn papaya() -> Contender {
    let map = papaya::HashMap::<u64, OnceCell<u64>, _>::with_hasher(RandomState::default());
    let call = move |n| {
        // An owned pin: the one that may live across an await.
        let pin = map.pin_owned();
        let cell = pin.get_or_insert_with(n, OnceCell::new);
        *ready(cell.get_or_try_init(|| square_by_hand(n))).unwrap()
    };
    for n in 0..KEYS {
        call(n);
    }
    Contender::in_turn(names::PAPAYA, KEYS, move |i| call(key(i)))
}

fn moka() -> Contender {
    let cache = moka::future::Cache::<u64, u64>::builder()
        .max_capacity(1_000)
        .build_with_hasher(RandomState::default());
    let call = move |n| ready(cache.get_with(n, async move { square_by_hand(n).await.unwrap() }));
    for n in 0..KEYS {
        call(n);
    }
    Contender::in_turn(names::MOKA, KEYS, move |i| call(key(i)))
}

fn plain_map() -> Contender {
    let map: HashMap<u64, u64, RandomState> = (0..KEYS).map(|n| (n, n * n)).collect();
    Contender::in_turn(names::PLAIN_MAP, KEYS, move |i| map[&key(i)])
}
