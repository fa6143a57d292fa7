//! A cycle whose edges are elements of `parallel`.

use watershed::{Ctx, Task, TaskError};

async fn leaf(_: Ctx<()>, id: u64) -> Result<u64, TaskError> {
    Ok(id)
}

async fn user(ctx: Ctx<()>, id: u64) -> Result<u64, TaskError> {
    let (a, b) = ctx.parallel((leaf.with(id), team.with(id))).await?;
    Ok(a + b)
}

async fn team(ctx: Ctx<()>, id: u64) -> Result<u64, TaskError> {
    let (a,) = ctx.parallel((user.with(id),)).await?;
    Ok(*a)
}

fn main() {}
