//! Two tasks that call each other with `run`.

use watershed::{Ctx, TaskError};

async fn user(ctx: Ctx<()>, id: u64) -> Result<u64, TaskError> {
    Ok(*ctx.run(team, id).await?)
}

async fn team(ctx: Ctx<()>, id: u64) -> Result<u64, TaskError> {
    Ok(*ctx.run(user, id).await?)
}

fn main() {}
