//! `hit/..`: a call whose value is there already; the keys are asked for in turn, in an order that has nothing to do with the one
//! in which they came. `two_threads/..`: the same from two threads at once, the time of a call being that of all of them divided by
//! their number.
//!
//! The value is a `u64`. That is the best case of the peers which clone their value for each caller; the others read it from its
//! cell, as the engine does.

use std::borrow::Borrow;
use std::convert::Infallible;
use std::fmt::Debug;
use std::hash::Hash;
use std::hint::black_box;
use std::sync::{Arc, Barrier};
use std::time::Instant;

use foldhash::fast::RandomState;
use tokio::sync::OnceCell;
use watershed::{Ctx, Run};

use crate::peers::{
    Memo, Moka, MutexMap, MutexMapOfAsyncOnceCells, PapayaMap, QuickCache, ReadInPlace, ShardedMap,
    SharedMap, Topcoat,
};
use crate::{Contender, Runner, Workload, in_turn, names, ready};

/// A key: which number it stands for, how it is borrowed, and how the engine is asked for it.
trait Input: Clone + Hash + Eq + Debug + Send + Sync + Borrow<Self::Borrowed> + 'static {
    type Borrowed: Hash + Eq + ToOwned<Owned = Self> + Sync + ?Sized;

    fn new(n: u64) -> Self;
    fn number(borrowed: &Self::Borrowed) -> u64;
    fn run<'a>(ctx: &'a Ctx<()>, borrowed: &Self::Borrowed) -> Run<'a, (), u64>;
}

fn value(n: u64) -> u64 {
    n.wrapping_mul(n) + 1
}

async fn of_number(_: Ctx<()>, n: u64) -> Result<u64, Infallible> {
    Ok(value(n))
}

impl Input for u64 {
    type Borrowed = u64;

    fn new(n: u64) -> Self {
        n
    }

    fn number(borrowed: &u64) -> u64 {
        *borrowed
    }

    #[inline(always)]
    fn run<'a>(ctx: &'a Ctx<()>, borrowed: &u64) -> Run<'a, (), u64> {
        ctx.run(of_number, *borrowed)
    }
}

async fn of_text(_: Ctx<()>, text: String) -> Result<u64, Infallible> {
    Ok(value(String::number(&text)))
}

impl Input for String {
    type Borrowed = str;

    /// 32 bytes.
    fn new(n: u64) -> Self {
        format!("{n:032}")
    }

    fn number(borrowed: &str) -> u64 {
        borrowed.parse().expect("a key is a number")
    }

    #[inline(always)]
    fn run<'a>(ctx: &'a Ctx<()>, borrowed: &str) -> Run<'a, (), u64> {
        ctx.run(of_text, borrowed)
    }
}

/// A struct of three fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Visit {
    user: u64,
    shop: u32,
    page: u32,
}

async fn of_visit(_: Ctx<()>, visit: Visit) -> Result<u64, Infallible> {
    Ok(value(Visit::number(&visit)))
}

impl Input for Visit {
    type Borrowed = Visit;

    fn new(n: u64) -> Self {
        Self {
            user: n,
            shop: n as u32 % 7,
            page: n as u32 % 3,
        }
    }

    fn number(borrowed: &Visit) -> u64 {
        borrowed.user
    }

    #[inline(always)]
    fn run<'a>(ctx: &'a Ctx<()>, borrowed: &Visit) -> Run<'a, (), u64> {
        ctx.run(of_visit, *borrowed)
    }
}

/// The numbers below `count` in an order by chance, the same each time (Fisher and Yates, with Knuth's MMIX generator).
pub(crate) fn shuffled(count: u64) -> Vec<u64> {
    let mut numbers: Vec<u64> = (0..count).collect();
    let mut state = 1u64;
    for i in (1..numbers.len()).rev() {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        numbers.swap(i, (state >> 33) as usize % (i + 1));
    }
    numbers
}

/// In the order in which they are asked for; few of them several times, for the sake of the loop.
fn keys<K: Input>(count: u64) -> Vec<K> {
    let once = shuffled(count);
    let times = 30u64.div_ceil(count) as usize;
    let all = once.iter().cycle().take(times * once.len());
    all.map(|n| K::new(*n)).collect()
}

fn filled_ctx<K: Input>(count: u64) -> Ctx<()> {
    let ctx = Ctx::new(());
    for n in 0..count {
        ready(K::run(&ctx, K::new(n).borrow())).unwrap();
    }
    ctx
}

/// One place for both, since topcoat knows a function by its type. `n` is what the body makes the value of; a hit has no use for it.
#[inline(always)]
fn call<K: Input, M: Memo<K, u64>>(memo: &M, key: &K::Borrowed, n: Option<u64>) -> u64 {
    let body = move || async move { Ok(value(n.expect("a hit runs nothing"))) };
    ready(memo.get(key, body, |value| *value)).unwrap()
}

#[inline(always)]
fn ask<K: Input, M: Memo<K, u64>>(memo: &M, key: &K::Borrowed) -> u64 {
    call(memo, key, None)
}

fn filled<K: Input, M: Memo<K, u64>>(count: u64) -> M {
    let memo = M::new();
    for n in 0..count {
        call(&memo, K::new(n).borrow(), Some(n));
    }
    memo
}

fn ours<K: Input>(count: u64) -> Contender {
    Contender::ours(move || {
        let ctx = filled_ctx::<K>(count);
        Runner::in_turn(keys::<K>(count), move |key| {
            *ready(K::run(&ctx, black_box(key.borrow()))).unwrap()
        })
    })
}

fn peer<K: Input, M: Memo<K, u64>>(count: u64) -> Contender {
    Contender::peer(M::NAME, move || {
        let memo = filled::<K, M>(count);
        Runner::in_turn(keys::<K>(count), move |key| {
            ask::<K, M>(&memo, black_box(key.borrow()))
        })
    })
}

type Map<K> = hashbrown::HashMap<K, u64, RandomState>;

fn filled_map<K: Input>(count: u64) -> Map<K> {
    (0..count).map(|n| (K::new(n), value(n))).collect()
}

fn limit<K: Input>(count: u64) -> Contender {
    Contender::limit(names::HASHBROWN, move || {
        let map = filled_map::<K>(count);
        Runner::in_turn(keys::<K>(count), move |key| {
            *map.get::<K::Borrowed>(black_box(key.borrow()))
                .expect("it is there")
        })
    })
}

fn expected(count: u64) -> impl Fn(u64) -> u64 {
    let numbers = shuffled(count);
    move |i| value(numbers[(i % count) as usize])
}

fn hit<K: Input>(name: String, count: u64, all: bool) -> Workload {
    let mut contenders = vec![
        ours::<K>(count),
        peer::<K, QuickCache<K, u64>>(count),
        peer::<K, Moka<K, u64>>(count),
        peer::<K, ShardedMap<K, OnceCell<u64>>>(count),
        peer::<K, PapayaMap<K, OnceCell<u64>>>(count),
        peer::<K, MutexMap<K, OnceCell<u64>>>(count),
    ];
    if all {
        contenders.extend([
            peer::<K, ReadInPlace<K, u64>>(count),
            peer::<K, MutexMapOfAsyncOnceCells<K, async_once_cell::OnceCell<u64>>>(count),
            peer::<K, SharedMap<K, u64>>(count),
            peer::<K, Topcoat>(count),
        ]);
    }
    contenders.push(limit::<K>(count));
    Workload::new(
        name,
        "a call whose value is there: one look-up, one load",
        expected(count),
        contenders,
    )
}

/// The time of a call when two threads call at once. Both have the keys; each makes half of the calls. (One thread makes both halves,
/// one after the other.)
fn two_threads<S: Send + Sync + 'static>(
    count: u64,
    threads: u64,
    make: impl Fn() -> S + 'static,
    op: impl Fn(&S, &u64) -> u64 + Sync + 'static,
) -> Runner {
    let keys = Arc::new(keys::<u64>(count));
    let shared = Arc::new(make());
    Runner::timed(move |operations| {
        let barrier = Barrier::new(threads as usize);
        let share = |half| operations / 2 + u64::from(half < operations % 2);
        let work = |thread: u64| {
            barrier.wait();
            let start = Instant::now();
            let mut sum = in_turn(&keys, share(thread), &mut |key| op(&shared, black_box(key)));
            if threads == 1 {
                let rest = in_turn(&keys, share(1), &mut |key| op(&shared, black_box(key)));
                sum = sum.wrapping_add(rest);
            }
            (sum, start, Instant::now())
        };
        let done: Vec<_> = std::thread::scope(|scope| {
            let work = &work;
            let others: Vec<_> = (1..threads)
                .map(|thread| scope.spawn(move || work(thread)))
                .collect();
            let own = work(0);
            std::iter::once(own)
                .chain(others.into_iter().map(|thread| thread.join().unwrap()))
                .collect()
        });
        let sum = done
            .iter()
            .fold(0u64, |sum, (part, ..)| sum.wrapping_add(*part));
        let start = done.iter().map(|(_, start, _)| *start).min().unwrap();
        let end = done.iter().map(|(.., end)| *end).max().unwrap();
        (sum, end - start)
    })
}

/// One key or many, asked for by two threads.
fn from_two_threads(name: &str, count: u64) -> Workload {
    fn ours(count: u64, threads: u64) -> Runner {
        two_threads(
            count,
            threads,
            move || filled_ctx::<u64>(count),
            |ctx, key| *ready(ctx.run(of_number, *key)).unwrap(),
        )
    }
    fn peer<M: Memo<u64, u64>>(count: u64) -> Contender {
        Contender::peer(M::NAME, move || {
            two_threads(
                count,
                2,
                move || filled::<u64, M>(count),
                |memo, key| ask::<u64, M>(memo, key),
            )
        })
    }
    let sums = expected(count);
    Workload::new(
        name,
        "a hit from two threads of one context: wall time divided by the calls of both",
        // Each thread walks the keys from the start.
        move |i| sums(i / 2),
        vec![
            Contender::ours(move || ours(count, 2)),
            peer::<QuickCache<u64, u64>>(count),
            peer::<Moka<u64, u64>>(count),
            peer::<ShardedMap<u64, OnceCell<u64>>>(count),
            peer::<PapayaMap<u64, OnceCell<u64>>>(count),
            peer::<MutexMap<u64, OnceCell<u64>>>(count),
            peer::<ReadInPlace<u64, u64>>(count),
            peer::<Topcoat>(count),
            Contender::limit("watershed, one thread", move || ours(count, 1)),
            Contender::limit(names::HASHBROWN, move || {
                two_threads(
                    count,
                    2,
                    move || filled_map::<u64>(count),
                    |map, key| map[key],
                )
            }),
        ],
    )
}

/// Hits in three hundred contexts, each with thirty keys of its own: how deep a key lies depends on the seed of the process, and here
/// that averages out. (It does not for numbers that follow one another: their hashes have much in common.)
fn spread<K: Input>(name: &str) -> Workload {
    const CONTEXTS: u64 = 300;
    const KEYS: u64 = 30;
    let number = |i: u64| i.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 20;
    Workload::new(
        name,
        "a hit in one of three hundred contexts",
        move |i| value(number(i % (CONTEXTS * KEYS))),
        vec![Contender::ours(move || {
            let contexts: Vec<Ctx<()>> = (0..CONTEXTS)
                .map(|context| {
                    let ctx = Ctx::new(());
                    for n in 0..KEYS {
                        let key = K::new(number(context * KEYS + n));
                        ready(K::run(&ctx, key.borrow())).unwrap();
                    }
                    ctx
                })
                .collect();
            let keys: Vec<(u32, K)> = (0..CONTEXTS * KEYS)
                .map(|n| ((n / KEYS) as u32, K::new(number(n))))
                .collect();
            Runner::in_turn(keys, move |(context, key)| {
                let ctx = &contexts[*context as usize];
                *ready(K::run(ctx, black_box(key.borrow()))).unwrap()
            })
        })],
    )
}

pub(crate) fn for_counting() -> Vec<Workload> {
    vec![
        spread::<u64>("hit/u64_spread"),
        spread::<String>("hit/str_spread"),
    ]
}

pub(crate) fn workloads() -> Vec<Workload> {
    let mut all = Vec::new();
    for count in [1, 30, 1_000, 100_000] {
        let full = count == 30;
        all.push(hit::<u64>(format!("hit/u64_{count}"), count, full));
        all.push(hit::<String>(format!("hit/str_{count}"), count, full));
        all.push(hit::<Visit>(format!("hit/struct_{count}"), count, full));
    }
    for work in &mut all {
        work.goal_ns = match &*work.name {
            "hit/str_30" => Some(8.0),
            "hit/u64_100000" => Some(35.0),
            _ => None,
        };
    }
    all.push(hit::<u64>("river/repeated_calls".into(), 1, false).goal_ns(3.0));
    all.push(from_two_threads("two_threads/one_key", 1).goal_ns(2.0));
    all.push(from_two_threads("two_threads/many_keys", 1_000));
    all
}
