//! Many callers of one task that takes its time.
//!
//! `river/ten_callers` and `river/thousand_callers` are tasks of tokio on two workers, as River's were goroutines. In `waiters/..`
//! the callers are polled by hand, each with a waker of its own, and woken through a queue: what is measured is to wait and to be
//! woken, a caller. Its limit is a wait at a bare `event-listener`. In `fail/..` the body fails: a cell that keeps no error runs
//! again for each caller.

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use event_listener::Event;
use tokio::sync::OnceCell;
use watershed::{Ctx, TaskError};

use crate::drive::{Crowd, Gate};
use crate::peers::{
    Failure, Memo, Moka, MutexMap, MutexMapOfAsyncOnceCells, PapayaMap, QuickCache, ShardedMap,
    SharedMap, SingleFlight, Topcoat,
};
use crate::{Contender, Runner, Workload, names};

// --- on tokio ----------------------------------------------------------------------------------------

/// How a body takes its time: it yields, or sleeps for a millisecond.
async fn takes_its_time<const SLEEPS: bool>() {
    if SLEEPS {
        tokio::time::sleep(Duration::from_millis(1)).await;
    } else {
        tokio::task::yield_now().await;
    }
}

async fn slow<const SLEEPS: bool>(_: Ctx<()>, n: u64) -> Result<u64, TaskError> {
    takes_its_time::<SLEEPS>().await;
    Ok(n + 1)
}

async fn sum<F>(callers: u64, call: impl Fn() -> F) -> u64
where
    F: Future<Output = u64> + Send + 'static,
{
    let tasks: Vec<_> = (0..callers).map(|_| tokio::spawn(call())).collect();
    let mut sum = 0;
    for task in tasks {
        sum += task.await.unwrap();
    }
    sum
}

fn on_tokio<const SLEEPS: bool>(name: &str, callers: u64, goal: f64) -> Workload {
    fn peer<M: Memo<u64, u64>, const SLEEPS: bool>(callers: u64) -> Contender {
        Contender::peer(M::NAME, move || {
            Runner::on_tokio(move |i| async move {
                let memo = Arc::new(M::new());
                sum(callers, || {
                    let memo = Arc::clone(&memo);
                    async move {
                        let body = move || async move {
                            takes_its_time::<SLEEPS>().await;
                            Ok(i + 1)
                        };
                        memo.get(&i, body, |value| *value).await.unwrap()
                    }
                })
                .await
            })
        })
    }
    Workload::new(
        name,
        "a new context, tasks of tokio that all call one slow task, drop",
        move |i| callers * (i + 1),
        vec![
            Contender::ours(move || {
                Runner::on_tokio(move |i| async move {
                    let ctx = Ctx::new(());
                    sum(callers, || {
                        let ctx = ctx.clone();
                        async move { *ctx.run(slow::<SLEEPS>, i).await.unwrap() }
                    })
                    .await
                })
            }),
            peer::<MutexMap<u64, OnceCell<u64>>, SLEEPS>(callers),
            peer::<ShardedMap<u64, OnceCell<u64>>, SLEEPS>(callers),
            peer::<MutexMapOfAsyncOnceCells<u64, async_once_cell::OnceCell<u64>>, SLEEPS>(callers),
            peer::<SharedMap<u64, u64>, SLEEPS>(callers),
            peer::<QuickCache<u64, u64>, SLEEPS>(callers),
            peer::<SingleFlight<u64, u64>, SLEEPS>(callers),
            peer::<Topcoat, SLEEPS>(callers),
            Contender::limit(names::SPAWN, move || {
                Runner::on_tokio(move |i| async move {
                    takes_its_time::<SLEEPS>().await;
                    sum(callers, || async move { i + 1 }).await
                })
            }),
        ],
    )
    .goal_ns(goal)
}

// --- polled by hand ----------------------------------------------------------------------------------

async fn gated(ctx: Ctx<Gate>, n: u64) -> Result<u64, TaskError> {
    ctx.state().clone().passed().await;
    Ok(n + 1)
}

async fn gated_by_hand(gate: Gate, n: u64) -> Result<u64, Failure> {
    gate.passed().await;
    Ok(n + 1)
}

fn waiters(callers: u64) -> Workload {
    fn peer<M: Memo<u64, u64>>(callers: u64) -> Contender {
        Contender::peer(M::NAME, move || {
            let crowd = Crowd::new(callers as usize);
            Runner::each(move |i| {
                let i = black_box(i);
                let (memo, gate) = (M::new(), Gate::default());
                let mut sum = 0;
                let body = |gate: Gate| move || gated_by_hand(gate, i);
                crowd.drive(
                    (0..callers).map(|_| memo.get(&i, body(gate.clone()), |n| *n)),
                    || gate.open(),
                    |value| sum += value.unwrap(),
                );
                sum
            })
        })
    }
    Workload::new(
        format!("waiters/{callers}"),
        "a new context, callers that wait for one run and are woken, drop; the time of one caller",
        move |i| callers * (i + 1),
        vec![
            Contender::ours(move || {
                let crowd = Crowd::new(callers as usize);
                Runner::each(move |i| {
                    let i = black_box(i);
                    let gate = Gate::default();
                    let ctx = Ctx::new(gate.clone());
                    let mut sum = 0;
                    crowd.drive(
                        (0..callers).map(|_| ctx.run(gated, i)),
                        || gate.open(),
                        |value| sum += value.unwrap(),
                    );
                    sum
                })
            }),
            peer::<MutexMap<u64, OnceCell<u64>>>(callers),
            peer::<ShardedMap<u64, OnceCell<u64>>>(callers),
            peer::<PapayaMap<u64, OnceCell<u64>>>(callers),
            peer::<MutexMapOfAsyncOnceCells<u64, async_once_cell::OnceCell<u64>>>(callers),
            peer::<SharedMap<u64, u64>>(callers),
            peer::<QuickCache<u64, u64>>(callers),
            peer::<Moka<u64, u64>>(callers),
            peer::<SingleFlight<u64, u64>>(callers),
            peer::<Topcoat>(callers),
            Contender::limit("bare event-listener", move || {
                let crowd = Crowd::new(callers as usize);
                Runner::each(move |i| {
                    let event = Event::new();
                    let mut sum = 0;
                    crowd.drive(
                        (0..callers).map(|_| event.listen()),
                        || {
                            event.notify(usize::MAX);
                        },
                        |()| sum += i + 1,
                    );
                    sum
                })
            }),
        ],
    )
    .per(callers)
}

#[derive(Debug)]
struct Refused;

impl std::fmt::Display for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("refused")
    }
}

impl std::error::Error for Refused {}

async fn fails(ctx: Ctx<Gate>, _: u64) -> Result<u64, Refused> {
    ctx.state().clone().passed().await;
    Err(Refused)
}

fn failing(callers: u64) -> Workload {
    fn peer<M: Memo<u64, u64>>(callers: u64) -> Contender {
        Contender::peer(M::NAME, move || {
            let crowd = Crowd::new(callers as usize);
            Runner::each(move |i| {
                let i = black_box(i);
                let (memo, gate) = (M::new(), Gate::default());
                let mut failed = 0;
                let body = |gate: Gate| {
                    || async {
                        gate.passed().await;
                        Err::<u64, Failure>(Arc::new(Refused))
                    }
                };
                crowd.drive(
                    (0..callers).map(|_| memo.get(&i, body(gate.clone()), |n| *n)),
                    || gate.open(),
                    |value| failed += u64::from(value.unwrap_err().is::<Refused>()),
                );
                failed
            })
        })
    }
    Workload::new(
        format!("fail/{callers}_callers"),
        "a new context, callers of one run that fails; each gets the error",
        move |_| callers,
        vec![
            Contender::ours(move || {
                let crowd = Crowd::new(callers as usize);
                Runner::each(move |i| {
                    let i = black_box(i);
                    let gate = Gate::default();
                    let ctx = Ctx::new(gate.clone());
                    let mut failed = 0;
                    crowd.drive(
                        (0..callers).map(|_| ctx.run(fails, i)),
                        || gate.open(),
                        |value| {
                            let error = value.unwrap_err();
                            failed += u64::from(error.downcast_ref::<Refused>().is_some());
                        },
                    );
                    failed
                })
            }),
            peer::<MutexMap<u64, OnceCell<u64>>>(callers),
            peer::<MutexMapOfAsyncOnceCells<u64, async_once_cell::OnceCell<u64>>>(callers),
            peer::<ShardedMap<u64, OnceCell<u64>>>(callers),
            peer::<SharedMap<u64, u64>>(callers),
            peer::<QuickCache<u64, u64>>(callers),
            peer::<Moka<u64, u64>>(callers),
            peer::<SingleFlight<u64, u64>>(callers),
        ],
    )
}

pub(crate) fn workloads() -> Vec<Workload> {
    vec![
        on_tokio::<false>("river/ten_callers", 10, 3_000.0),
        on_tokio::<true>("river/thousand_callers", 1_000, 1_400_000.0),
        waiters(1_000),
        waiters(10_000),
        failing(20),
    ]
}
