//! The futures of calls in everything that joins, streams and selects, inside a task, where they
//! must be `Send` as well.

use futures::future::{join_all, try_join_all};
use futures::stream::{FuturesOrdered, FuturesUnordered};
use futures::{StreamExt, TryStreamExt, stream};
use watershed::{Ctx, Task, TaskError};

async fn user(_: Ctx<()>, id: u64) -> Result<u64, TaskError> {
    Ok(id)
}

async fn team(ctx: Ctx<()>, id: u64) -> Result<u64, TaskError> {
    ctx.run(user, id).await.copied()
}

async fn joined(ctx: Ctx<()>, ids: Vec<u64>) -> Result<u64, TaskError> {
    let (a, b) = tokio::join!(ctx.run(user, 1), ctx.run(team, 2));
    let (c, d) = tokio::try_join!(ctx.run(user, 1), ctx.run(team, 2))?;
    let (e, f) = futures::try_join!(ctx.run(user, 1), ctx.run(team, 2))?;
    let all = join_all(ids.iter().map(|id| ctx.run(user, *id))).await;
    let some: Result<Vec<_>, _> = all.into_iter().collect();
    let more = try_join_all(ids.iter().map(|id| ctx.run(team, *id))).await?;
    Ok(a? + b? + c + d + e + f + some?.into_iter().sum::<u64>() + more.into_iter().sum::<u64>())
}

async fn streamed(ctx: Ctx<()>, ids: Vec<u64>) -> Result<u64, TaskError> {
    let mut sum = 0;

    let mut calls = FuturesUnordered::from_iter(ids.iter().map(|id| ctx.run(user, *id)));
    while let Some(value) = calls.next().await {
        sum += value?;
    }
    let mut calls: FuturesOrdered<_> = ids.iter().map(|id| ctx.run(team, *id)).collect();
    while let Some(value) = calls.try_next().await? {
        sum += value;
    }

    // Owned items, or the calls collected before: a closure over borrowed ones is too narrow.
    let mut calls = stream::iter(ids.iter().copied())
        .map(|id| ctx.run(user, id))
        .buffer_unordered(2);
    while let Some(value) = calls.next().await {
        sum += value?;
    }
    let calls: Vec<_> = ids.iter().map(|id| ctx.run(team, *id)).collect();
    let values = stream::iter(calls)
        .buffered(2)
        .try_collect::<Vec<&u64>>()
        .await?;
    Ok(sum + values.into_iter().sum::<u64>())
}

async fn selected(ctx: Ctx<()>, id: u64) -> Result<u64, TaskError> {
    let mut a = ctx.run(user, id);
    let mut b = ctx.run(team, id);
    // `a` is ready at once: `b` is not polled here.
    let first = tokio::select! {
        biased;
        value = &mut a => value?,
        value = &mut b => value?,
    };
    let second = futures::future::select(&mut b, ctx.run(user, id + 1)).await;
    let second = second.factor_first().0?;
    Ok(first + second)
}

async fn spread(ctx: Ctx<()>, ids: Vec<u64>) -> Result<u64, TaskError> {
    let (a, b) = ctx.parallel((user.with(1), team.with(2))).await?;
    let list = ctx
        .parallel_all(ids.iter().map(|id| team.with(*id)), 2)
        .await?;
    ctx.run_all([user.with(1).boxed(), team.with(2).boxed()])
        .await?;
    Ok(a + b + list.into_iter().sum::<u64>())
}

/// `parallel` in tasks that are called by `parallel`.
async fn nested(ctx: Ctx<()>, ids: Vec<u64>) -> Result<u64, TaskError> {
    let (a, b) = ctx
        .parallel((spread.with(ids.clone()), streamed.with(ids)))
        .await?;
    Ok(a + b)
}

/// Everything that a caller keeps of a call may go to another thread.
fn is_send<T: Send>(value: T) -> T {
    value
}

async fn everything(ctx: Ctx<()>) -> Result<u64, TaskError> {
    let ids = vec![1, 2, 3];
    let mut sum = *ctx.run(joined, &ids).await?;
    sum += ctx.run(streamed, &ids).await?;
    sum += ctx.run(selected, 5).await?;
    sum += ctx.run(nested, &ids).await?;
    Ok(sum)
}

pub(crate) fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .build()
        .unwrap();
    let sum = runtime.block_on(runtime.spawn(is_send(everything(Ctx::new(())))));
    // joined 9 + 6 + 6, streamed 4 * 6, selected 5 + 5, nested (3 + 6) + 24.
    assert_eq!(sum.unwrap().unwrap(), 21 + 24 + 10 + 33);
}
