//! An input of another type: no conversion is made behind the caller's back.

use watershed::{Ctx, Task, TaskError};

async fn user(_: Ctx<()>, id: u64) -> Result<u64, TaskError> {
    Ok(id)
}

async fn by_name(_: Ctx<()>, name: String) -> Result<usize, TaskError> {
    Ok(name.len())
}

async fn caller(ctx: Ctx<()>, narrow: u32) {
    let _ = ctx.run(user, "a").await;
    let _ = ctx.run(user, narrow).await;
    let _ = ctx.run(user, &1).await;
    let _ = ctx.run(by_name, 1u64).await;
    let _ = ctx.parallel((user.with("a"),)).await;
    let _ = ctx.peek(user, "a");
}

fn main() {}
