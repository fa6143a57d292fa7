//! `spawn` does not wait, but what it starts is an edge all the same; also of itself.

use watershed::{Ctx, TaskError};

async fn user(ctx: Ctx<()>, id: u64) -> Result<u64, TaskError> {
    ctx.spawn(team, id)?;
    Ok(id)
}

async fn team(ctx: Ctx<()>, id: u64) -> Result<u64, TaskError> {
    ctx.spawn(user, id)?;
    Ok(id)
}

async fn again(ctx: Ctx<()>, id: u64) -> Result<u64, TaskError> {
    ctx.spawn(again, id + 1)?;
    Ok(id)
}

fn main() {}
