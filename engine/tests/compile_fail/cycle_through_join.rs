//! A cycle whose edges are branches of `join!` and `try_join!`.

use watershed::{Ctx, TaskError};

async fn leaf(_: Ctx<()>, id: u64) -> Result<u64, TaskError> {
    Ok(id)
}

async fn user(ctx: Ctx<()>, id: u64) -> Result<u64, TaskError> {
    let (a, b) = tokio::try_join!(ctx.run(leaf, id), ctx.run(team, id))?;
    Ok(a + b)
}

async fn team(ctx: Ctx<()>, id: u64) -> Result<u64, TaskError> {
    let (a, b) = futures::join!(ctx.run(leaf, id), ctx.run(user, id));
    Ok(a? + b?)
}

fn main() {}
