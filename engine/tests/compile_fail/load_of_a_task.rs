//! A task of one input where a batch function is wanted.

use watershed::{Ctx, TaskError};

async fn user(_: Ctx<()>, id: u64) -> Result<u64, TaskError> {
    Ok(id)
}

async fn page(ctx: Ctx<()>, id: u64) -> Result<u64, TaskError> {
    Ok(*ctx.load(user, id).await?.unwrap())
}

fn main() {}
