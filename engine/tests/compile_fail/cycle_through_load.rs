//! A batch function and a task that call each other with `load` and `run`.

use std::collections::HashMap;
use watershed::{Ctx, TaskError};

async fn users(ctx: Ctx<()>, ids: Vec<u64>) -> Result<HashMap<u64, u64>, TaskError> {
    let team = *ctx.run(team, ids[0]).await?;
    Ok(ids.into_iter().map(|id| (id, team)).collect())
}

async fn team(ctx: Ctx<()>, id: u64) -> Result<u64, TaskError> {
    Ok(*ctx.load(users, id).await?.unwrap())
}

fn main() {}
