//! A list of boxed calls that is made inside a body is an edge to each task in it.

use watershed::{Ctx, Task, TaskError};

async fn user(ctx: Ctx<()>, id: u64) -> Result<u64, TaskError> {
    ctx.run_all([team.with(id).boxed()]).await?;
    Ok(id)
}

async fn team(ctx: Ctx<()>, id: u64) -> Result<u64, TaskError> {
    ctx.run_all([user.with(id).boxed()]).await?;
    Ok(id)
}

fn main() {}
