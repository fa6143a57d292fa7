//! A cycle closed by `run_fresh` and `held`.

use watershed::{Ctx, TaskError};

async fn user(ctx: Ctx<()>, id: u64) -> Result<u64, TaskError> {
    ctx.run_fresh(team, id).await
}

async fn team(ctx: Ctx<()>, id: u64) -> Result<u64, TaskError> {
    Ok(*ctx.run(user, id).held().await?)
}

fn main() {}
