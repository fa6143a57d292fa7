//! A task returns a `Result`, and takes one input: `()` where it needs none.

use watershed::{Ctx, TaskError};

async fn plain(_: Ctx<()>, id: u64) -> u64 {
    id
}

async fn no_input(_: Ctx<()>) -> Result<u64, TaskError> {
    Ok(1)
}

async fn caller(ctx: Ctx<()>) {
    let _ = ctx.run(plain, 1).await;
    let _ = ctx.run(no_input, ()).await;
}

fn main() {}
