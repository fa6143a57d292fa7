//! `run` hands out a borrow: it is copied or cloned where the value itself is needed.

use watershed::{Ctx, TaskError};

async fn user(_: Ctx<()>, id: u64) -> Result<u64, TaskError> {
    Ok(id)
}

async fn caller(ctx: Ctx<()>) -> Result<(), TaskError> {
    let _id: u64 = ctx.run(user, 1).await?;
    Ok(())
}

fn main() {}
