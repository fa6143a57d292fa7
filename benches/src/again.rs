//! `forget/..`: what was there is dropped, and runs again. `river/cancellation`: a caller waits, and is told that nobody wants it any
//! more. `chain/..`: a thousand tasks, each of which asks for the next.

use std::convert::Infallible;
use std::hint::black_box;
use std::pin::pin;
use std::task::Poll;

use futures::FutureExt;
use futures::future::{AbortHandle, Abortable, BoxFuture};
use tokio::sync::OnceCell;
use tokio_util::sync::CancellationToken;
use watershed::{Ctx, TaskError, TaskErrorKind};

use crate::drive::poll;
use crate::peers::{
    Failure, Forget, Memo, Moka, MutexMap, MutexMapOfAsyncOnceCells, PapayaMap, QuickCache, Scoped,
    ShardedMap, SharedMap,
};
use crate::{Contender, Runner, Workload, names, ready};

// --- forget + run ------------------------------------------------------------------------------------

const KEYS: u64 = 30;
/// So many contexts make one operation, for the sake of the clock.
const CONTEXTS: u64 = 20;

async fn double(_: Ctx<()>, n: u64) -> Result<u64, Infallible> {
    Ok(2 * n)
}

async fn double_by_hand(n: u64) -> Result<u64, Failure> {
    Ok(2 * n)
}

fn each_key<T>(contexts: &[T], mut op: impl FnMut(&T, u64) -> u64) -> u64 {
    contexts
        .iter()
        .map(|context| (0..KEYS).map(|n| op(context, black_box(n))).sum::<u64>())
        .sum()
}

/// Each of the thirty keys of a context is forgotten once. (What is forgotten keeps its memory until the context ends, so a
/// context that lives for one loop would be another matter than the maps.)
fn forget() -> Workload {
    fn peer<M: Forget<u64, u64>>() -> Contender {
        Contender::peer(M::NAME, || {
            let get = |memo: &M, n: u64| {
                ready(memo.get_scoped(&n, || double_by_hand(n), |value| *value)).unwrap()
            };
            Runner::prepared(
                move |_| {
                    let filled = || {
                        let memo = M::new();
                        (0..KEYS).for_each(|n| {
                            get(&memo, n);
                        });
                        memo
                    };
                    Vec::from_iter((0..CONTEXTS).map(|_| filled()))
                },
                move |memos, _| {
                    let sum = each_key(&memos, |memo, n| {
                        memo.forget(&n);
                        get(memo, n)
                    });
                    (sum, memos)
                },
            )
        })
    }
    Workload::new(
        "forget/run",
        "`forget`, then a run; the time of both for one of thirty keys",
        |_| CONTEXTS * (0..KEYS).map(|n| 2 * n).sum::<u64>(),
        vec![
            Contender::ours(|| {
                Runner::prepared(
                    |_| {
                        let filled = || {
                            let ctx = Ctx::new(());
                            (0..KEYS).for_each(|n| {
                                ready(ctx.run(double, n)).unwrap();
                            });
                            ctx
                        };
                        Vec::from_iter((0..CONTEXTS).map(|_| filled()))
                    },
                    |contexts, _| {
                        let sum = each_key(&contexts, |ctx, n| {
                            assert!(ctx.forget(double, &n));
                            *ready(ctx.run(double, n)).unwrap()
                        });
                        (sum, contexts)
                    },
                )
            }),
            peer::<MutexMap<u64, OnceCell<u64>>>(),
            peer::<ShardedMap<u64, OnceCell<u64>>>(),
            peer::<PapayaMap<u64, OnceCell<u64>>>(),
            peer::<MutexMapOfAsyncOnceCells<u64, async_once_cell::OnceCell<u64>>>(),
            peer::<QuickCache<u64, u64>>(),
        ],
    )
    .per(CONTEXTS * KEYS)
}

// --- cancellation ------------------------------------------------------------------------------------

async fn never(_: Ctx<()>, _: u64) -> Result<u64, Infallible> {
    std::future::pending().await
}

fn cancellation() -> Workload {
    /// A token is what a server has; `select!` is how one listens to it.
    fn by_token<M: Memo<u64, u64>>() -> Contender {
        Contender::peer(M::NAME, || {
            Runner::each(|i| {
                let i = black_box(i);
                let (memo, token) = (M::new(), CancellationToken::new());
                let mut call = pin!(async {
                    tokio::select! {
                        biased;
                        () = token.cancelled() => Err(i + 1),
                        value = memo.get(&i, std::future::pending, |value| *value) => Ok(value),
                    }
                });
                assert!(poll(call.as_mut()).is_pending());
                token.cancel();
                match poll(call) {
                    Poll::Ready(Err(told)) => told,
                    _ => panic!("nobody told it"),
                }
            })
        })
    }
    Workload::new(
        "river/cancellation",
        "a new context, a call that waits, `cancel`, the call is told, drop",
        |i| i + 1,
        vec![
            Contender::ours(|| {
                Runner::each(|i| {
                    let i = black_box(i);
                    let ctx = Ctx::new(());
                    let mut call = ctx.run(never, i);
                    assert!(poll(pin!(&mut call)).is_pending());
                    ctx.cancel();
                    match poll(pin!(call)) {
                        Poll::Ready(Err(error)) if error.kind() == TaskErrorKind::Cancelled => {
                            i + 1
                        }
                        _ => panic!("nobody told it"),
                    }
                })
            }),
            by_token::<MutexMap<u64, OnceCell<u64>>>(),
            by_token::<ShardedMap<u64, OnceCell<u64>>>(),
            by_token::<MutexMapOfAsyncOnceCells<u64, async_once_cell::OnceCell<u64>>>(),
            by_token::<SharedMap<u64, u64>>(),
            Contender::limit("bare Abortable future", || {
                Runner::each(|i| {
                    let (handle, registration) = AbortHandle::new_pair();
                    let mut call =
                        pin!(Abortable::new(std::future::pending::<u64>(), registration));
                    assert!(poll(call.as_mut()).is_pending());
                    handle.abort();
                    match poll(call) {
                        Poll::Ready(Err(_)) => black_box(i) + 1,
                        _ => panic!("nobody told it"),
                    }
                })
            }),
        ],
    )
}

// --- a deep chain ------------------------------------------------------------------------------------

const DEPTH: u64 = 1_000;

/// Its signature promises `Send` by itself, as any async fn that recurses needs a box.
fn link(ctx: Ctx<()>, n: u64) -> BoxFuture<'static, Result<u64, TaskError>> {
    async move {
        match n.checked_sub(1) {
            None => Ok(1),
            Some(n) => Ok(ctx.run(link, n).await? + 1),
        }
    }
    .boxed()
}

fn link_by_hand<M: Scoped<u64, u64>>(memo: &M, n: u64) -> BoxFuture<'_, Result<u64, Failure>> {
    async move {
        let body = || async {
            match n.checked_sub(1) {
                None => Ok(1),
                Some(n) => Ok(link_by_hand(memo, n).await? + 1),
            }
        };
        memo.get_scoped(&n, body, |value| *value).await
    }
    .boxed()
}

fn plain_link(n: u64) -> BoxFuture<'static, Result<u64, Failure>> {
    async move {
        match n.checked_sub(1) {
            None => Ok(1),
            Some(n) => Ok(plain_link(n).await? + 1),
        }
    }
    .boxed()
}

/// As deep as the peers' stack goes in every build: they poll one frame inside another. (The engine's own depth: `tests/depth.rs`.)
fn chain() -> Workload {
    fn peer<M: Scoped<u64, u64>>() -> Contender {
        Contender::peer(M::NAME, || {
            Runner::each(|i| {
                let memo = M::new();
                ready(link_by_hand(&memo, black_box(DEPTH - 1))).unwrap() + i
            })
        })
    }
    Workload::new(
        "chain/1000",
        "a new context, a chain of 1,000 tasks, drop; the time of one task",
        |i| DEPTH + i,
        vec![
            Contender::ours(|| {
                Runner::each(|i| {
                    let ctx = Ctx::new(());
                    *ready(ctx.run(link, black_box(DEPTH - 1))).unwrap() + i
                })
            }),
            peer::<MutexMap<u64, OnceCell<u64>>>(),
            peer::<ShardedMap<u64, OnceCell<u64>>>(),
            peer::<PapayaMap<u64, OnceCell<u64>>>(),
            peer::<MutexMapOfAsyncOnceCells<u64, async_once_cell::OnceCell<u64>>>(),
            peer::<QuickCache<u64, u64>>(),
            peer::<Moka<u64, u64>>(),
            Contender::limit(names::BOXED, || {
                Runner::each(|i| ready(plain_link(black_box(DEPTH - 1))).unwrap() + i)
            }),
        ],
    )
    .per(DEPTH)
}

pub(crate) fn workloads() -> Vec<Workload> {
    vec![forget(), cancellation(), chain()]
}
