//! A cycle whose edges are in lists: `try_join_all` and `parallel_all`.

use futures::future::try_join_all;
use watershed::{Ctx, Task, TaskError};

async fn user(ctx: Ctx<()>, id: u64) -> Result<u64, TaskError> {
    let teams = try_join_all((0..id).map(|n| ctx.run(team, n))).await?;
    Ok(teams.into_iter().sum())
}

async fn team(ctx: Ctx<()>, id: u64) -> Result<u64, TaskError> {
    let users = ctx.parallel_all((0..id).map(|n| user.with(n)), 4).await?;
    Ok(users.into_iter().sum())
}

fn main() {}
