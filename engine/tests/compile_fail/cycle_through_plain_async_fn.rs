//! The edge back is in a plain async helper, which is no task.

use watershed::{Ctx, TaskError};

async fn user(ctx: Ctx<()>, id: u64) -> Result<u64, TaskError> {
    helper(&ctx, id).await
}

async fn helper(ctx: &Ctx<()>, id: u64) -> Result<u64, TaskError> {
    Ok(*ctx.run(user, id + 1).await?)
}

fn main() {}
