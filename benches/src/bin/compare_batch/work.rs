//! The pieces of work, and how they are measured.

use std::convert::Infallible;
use std::hint::black_box;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use async_graphql::dataloader::DataLoader;
use dataloader::cached::Loader as Cached;
use futures::future::join_all;
use futures::stream::{FuturesUnordered, StreamExt};
use serde_json::json;
use tokio::runtime::{Builder, Runtime};
use watershed::Ctx;

use crate::peers::{self, Items, ORDERS, Orders, Squares, USERS, items, orders, squares};

/// What one piece of work gave.
struct Done {
    sum: u64,
    /// When the first part of it was there.
    first: Option<Instant>,
}

impl From<u64> for Done {
    fn from(sum: u64) -> Self {
        Self { sum, first: None }
    }
}

type Work = Box<dyn Fn() -> Done>;

/// A side of the comparison.
struct Side {
    name: &'static str,
    work: Work,
}

struct Group {
    name: String,
    ours: Side,
    peers: Vec<Side>,
    /// The fewest batches that it can be done with, and the least ratio to the first peer.
    best: Option<(usize, f64)>,
}

fn side(name: &'static str, work: impl Fn() -> Done + 'static) -> Side {
    Side {
        name,
        work: Box::new(work),
    }
}

const OURS: &str = "watershed";
const DELAY: &str = "async-graphql, 1 ms";
const YIELDS: &str = "dataloader, 10 yields";

async fn square(_: Ctx<()>, n: u64) -> Result<u64, Infallible> {
    Ok(n * n)
}

/// As a task over all keys, for what batching itself costs.
async fn square_once(_: Ctx<()>, keys: Vec<u64>) -> Result<u64, Infallible> {
    let found = squares(Ctx::new(()), keys).await?;
    Ok(found.values().sum())
}

fn runtime() -> Runtime {
    Builder::new_current_thread()
        .enable_time()
        .build()
        .expect("a runtime")
}

/// Many keys in one `join_all`.
fn keys(rt: &'static Runtime, n: u64) -> Group {
    Group {
        name: format!("{n} in a `join_all`"),
        ours: side(OURS, move || {
            rt.block_on(async {
                let ctx = Ctx::new(());
                let all = join_all((0..n).map(|k| ctx.load(squares, k))).await;
                all.into_iter().map(|v| *v.unwrap().unwrap()).sum::<u64>()
            })
            .into()
        }),
        peers: vec![
            side(DELAY, move || {
                rt.block_on(async {
                    let loader = DataLoader::new(Squares, tokio::spawn);
                    let all = join_all((0..n).map(|k| loader.load_one(k))).await;
                    all.into_iter().map(|v| v.unwrap().unwrap()).sum::<u64>()
                })
                .into()
            }),
            side(YIELDS, move || {
                rt.block_on(async {
                    let loader = Cached::new(Squares);
                    let all = join_all((0..n).map(|k| loader.load(k))).await;
                    all.into_iter().sum::<u64>()
                })
                .into()
            }),
        ],
        // With many keys the keys cost more than the wait; and 1,000 are a full batch of the peer's, which does not wait then.
        best: Some((1, if n <= 10 { 5.0 } else { 0.0 })),
    }
}

/// Users, their orders, the orders' items.
fn tree(rt: &'static Runtime) -> Group {
    async fn page(ctx: Ctx<()>, user: u64) -> Result<u64, watershed::TaskError> {
        let user = *ctx.load(squares, user).await?.unwrap();
        let list = ctx.load(orders, user).await?.unwrap();
        let all = join_all(list.iter().map(|order| ctx.load(items, *order))).await;
        Ok(all
            .into_iter()
            .map(|found| found.unwrap().unwrap().len() as u64)
            .sum())
    }
    /// Adds up what comes, and sees when the first comes.
    async fn collect(pages: impl Iterator<Item = impl Future<Output = u64>>) -> Done {
        let mut pages: FuturesUnordered<_> = pages.collect();
        let mut done = Done {
            sum: 0,
            first: None,
        };
        while let Some(sum) = pages.next().await {
            done.first.get_or_insert_with(Instant::now);
            done.sum += sum;
        }
        done
    }
    Group {
        name: format!("a tree: {USERS} users, {ORDERS} orders each, their items"),
        ours: side(OURS, move || {
            rt.block_on(async {
                let ctx = Ctx::new(());
                collect((0..USERS).map(|user| {
                    let page = ctx.run(page, user);
                    async move { *page.await.unwrap() }
                }))
                .await
            })
        }),
        peers: vec![
            side(DELAY, move || {
                rt.block_on(async {
                    let users = DataLoader::new(Squares, tokio::spawn);
                    let orders = DataLoader::new(Orders, tokio::spawn);
                    let items = DataLoader::new(Items, tokio::spawn);
                    let (users, orders, items) = (&users, &orders, &items);
                    collect((0..USERS).map(|user| async move {
                        let user = users.load_one(user).await.unwrap().unwrap();
                        let list = orders.load_one(user).await.unwrap().unwrap();
                        let all = join_all(list.iter().map(|order| items.load_one(*order))).await;
                        all.into_iter()
                            .map(|found| found.unwrap().unwrap().len() as u64)
                            .sum()
                    }))
                    .await
                })
            }),
            side(YIELDS, move || {
                rt.block_on(async {
                    let users = Cached::new(Squares);
                    let orders = Cached::new(Orders);
                    let items = Cached::new(Items);
                    let (users, orders, items) = (&users, &orders, &items);
                    collect((0..USERS).map(|user| async move {
                        let user = users.load(user).await;
                        let list = orders.load(user).await;
                        let all = join_all(list.iter().map(|order| items.load(*order))).await;
                        all.into_iter().map(|found| found.len() as u64).sum()
                    }))
                    .await
                })
            }),
        ],
        best: Some((3, 5.0)),
    }
}

/// One load alone, and what it is compared with: a run, and a run that yields once, as whoever waits for others to ask must.
fn lone(rt: &'static Runtime) -> Group {
    async fn square_later(_: Ctx<()>, n: u64) -> Result<u64, Infallible> {
        tokio::task::yield_now().await;
        Ok(n * n)
    }
    async fn square_once_later(_: Ctx<()>, keys: Vec<u64>) -> Result<u64, Infallible> {
        tokio::task::yield_now().await;
        let found = squares(Ctx::new(()), keys).await?;
        Ok(found.values().sum())
    }
    Group {
        name: "one load alone".to_owned(),
        ours: side(OURS, move || {
            rt.block_on(async {
                let ctx = Ctx::new(());
                *ctx.load(squares, black_box(7)).await.unwrap().unwrap()
            })
            .into()
        }),
        peers: vec![
            side("`run` of a task", move || {
                rt.block_on(async {
                    let ctx = Ctx::new(());
                    *ctx.run(square, black_box(7)).await.unwrap()
                })
                .into()
            }),
            side("`run` of the function with one key", move || {
                rt.block_on(async {
                    let ctx = Ctx::new(());
                    *ctx.run(square_once, vec![black_box(7)]).await.unwrap()
                })
                .into()
            }),
            side("`run` of a task that yields once", move || {
                rt.block_on(async {
                    let ctx = Ctx::new(());
                    *ctx.run(square_later, black_box(7)).await.unwrap()
                })
                .into()
            }),
            side(
                "`run` of the function with one key, after a yield",
                move || {
                    rt.block_on(async {
                        let ctx = Ctx::new(());
                        *ctx.run(square_once_later, vec![black_box(7)])
                            .await
                            .unwrap()
                    })
                    .into()
                },
            ),
        ],
        best: None,
    }
}

struct Measured {
    took: Duration,
    first: Duration,
}

/// So many in a row, the mean of them.
fn measure(side: &Side, times: u32, expected: u64) -> Measured {
    let mut first = Duration::ZERO;
    let start = Instant::now();
    let mut last = start;
    for _ in 0..times {
        let done = (side.work)();
        let now = Instant::now();
        first += done.first.unwrap_or(now) - last;
        last = now;
        assert_eq!(done.sum, expected, "{}", side.name);
    }
    Measured {
        took: (last - start) / times,
        first: first / times,
    }
}

fn median(mut of: Vec<f64>) -> f64 {
    of.sort_by(f64::total_cmp);
    of[of.len() / 2]
}

/// In microseconds, to the nearest ten nanoseconds.
fn round(ns: f64) -> f64 {
    (ns / 10.0).round() / 100.0
}

pub(crate) fn main() -> ExitCode {
    let quick = std::env::args().any(|arg| arg == "--quick");
    let check = std::env::args().any(|arg| arg == "--check");
    let only = std::env::args().find_map(|arg| arg.strip_prefix("--only=").map(str::to_owned));
    let rt: &'static Runtime = Box::leak(Box::new(runtime()));
    let groups = [
        lone(rt),
        keys(rt, 1),
        keys(rt, 10),
        keys(rt, 900),
        keys(rt, 1_000),
        tree(rt),
    ];
    if let Some(name) =
        std::env::args().find_map(|arg| arg.strip_prefix("--profile=").map(str::to_owned))
    {
        let group = groups.iter().find(|group| group.name.contains(&name));
        let sides = group.map(|group| (&group.ours, group.peers.first()));
        let (ours, peer) = sides.expect("a group with that name");
        let side = if quick { peer.unwrap_or(ours) } else { ours };
        for _ in 0..1_000 {
            black_box((side.work)().sum);
        }
        return ExitCode::SUCCESS;
    }
    let pairs = if quick { 21 } else { 101 };
    let mut missed = false;
    let mut told = Vec::new();
    println!("| work | side | time | ratio to watershed | to the first result | batches |");
    println!("|---|---|---:|---:|---:|---:|");
    for group in groups {
        if only.as_ref().is_some_and(|only| !group.name.contains(only)) {
            continue;
        }
        peers::batches();
        let expected = (group.ours.work)().sum;
        let batches = peers::batches();
        // One piece of work of ours, roughly; of a peer that waits a millisecond one is enough.
        let once = measure(&group.ours, 3, expected).took;
        let times =
            (Duration::from_micros(400).as_nanos() / once.as_nanos().max(1)).clamp(1, 2_000);
        let times = u32::try_from(times).expect("it is clamped");
        let mut rows = Vec::new();
        let mut ours_all = Vec::new();
        for peer in &group.peers {
            peers::batches();
            let warm = measure(peer, 1, expected).took;
            let peer_batches = peers::batches();
            let peer_times = if warm > Duration::from_micros(500) {
                1
            } else {
                times
            };
            let (mut peer_ns, mut ratios, mut firsts) = (Vec::new(), Vec::new(), Vec::new());
            for pair in 0..pairs {
                let (ours, theirs) = if pair % 2 == 0 {
                    let ours = measure(&group.ours, times, expected);
                    (ours, measure(peer, peer_times, expected))
                } else {
                    let theirs = measure(peer, peer_times, expected);
                    (measure(&group.ours, times, expected), theirs)
                };
                let ns = |d: Duration| d.as_nanos() as f64;
                ratios.push(ns(theirs.took) / ns(ours.took));
                peer_ns.push(ns(theirs.took));
                firsts.push(ns(theirs.first));
                ours_all.push((ns(ours.took), ns(ours.first)));
            }
            let ratio = median(ratios);
            rows.push((
                peer.name,
                median(peer_ns),
                ratio,
                median(firsts),
                peer_batches,
            ));
            if let Some((_, least)) = group.best
                && peer.name == DELAY
                && ratio < least
            {
                println!("missed: {} is only {ratio:.1} times {DELAY}", group.name);
                missed = true;
            }
        }
        let ours_ns = median(ours_all.iter().map(|ours| ours.0).collect());
        let ours_first = median(ours_all.iter().map(|ours| ours.1).collect());
        let us = |ns: f64| format!("{:.2} µs", ns / 1_000.0);
        println!(
            "| {} | {} | {} | | {} | {batches} |",
            group.name,
            group.ours.name,
            us(ours_ns),
            us(ours_first),
        );
        told.push(json!({
            "work": group.name, "side": group.ours.name, "us": round(ours_ns), "first_us": round(ours_first),
            "batches": batches,
        }));
        for (name, ns, ratio, first, batches) in rows {
            told.push(json!({
                "work": group.name, "side": name, "us": round(ns), "first_us": round(first), "batches": batches,
                "ratio": (ratio * 100.0).round() / 100.0,
            }));
            println!(
                "| | {name} | {} | {ratio:.2} | {} | {batches} |",
                us(ns),
                us(first)
            );
        }
        if let Some((best, _)) = group.best
            && batches != best
        {
            println!("missed: {} made {batches} batches, not {best}", group.name);
            missed = true;
        }
    }
    let mut args = std::env::args().skip_while(|arg| arg != "--json").skip(1);
    if let Some(file) = args.next() {
        let all = json!({ "pairs": pairs, "rows": told });
        let text = serde_json::to_string_pretty(&all).expect("it is plain data");
        if let Err(problem) = std::fs::write(&file, text + "\n") {
            eprintln!("compare_batch: {file}: {problem}");
            return ExitCode::from(2);
        }
    }
    if missed && check {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    }
}
