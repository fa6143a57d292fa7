//! A task that calls itself, be it with another input.

use watershed::{Ctx, TaskError};

async fn depth(ctx: Ctx<()>, id: u64) -> Result<u64, TaskError> {
    if id == 0 {
        return Ok(0);
    }
    Ok(ctx.run(depth, id - 1).await? + 1)
}

fn main() {}
