//! A closure over borrowed items is not general enough for a stream of calls inside a task.

use futures::{StreamExt, stream};
use watershed::{Ctx, TaskError};

async fn user(_: Ctx<()>, id: u64) -> Result<u64, TaskError> {
    Ok(id)
}

async fn all(ctx: Ctx<()>, ids: Vec<u64>) -> Result<usize, TaskError> {
    let users: Vec<_> = stream::iter(ids.iter())
        .map(|id| ctx.run(user, *id))
        .buffer_unordered(4)
        .collect()
        .await;
    Ok(users.len())
}

async fn caller(ctx: Ctx<()>) {
    let _ = ctx.run(all, vec![1, 2]).await;
}

fn main() {}
