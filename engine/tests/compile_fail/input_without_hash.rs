//! The input of a task is the key of its slot: it must be `Hash`.

use watershed::{Ctx, TaskError};

#[derive(Eq, PartialEq, Clone)]
struct Id(u64);

async fn user(_: Ctx<()>, id: Id) -> Result<u64, TaskError> {
    Ok(id.0)
}

async fn caller(ctx: Ctx<()>) {
    let _ = ctx.run(user, Id(1)).await;
}

fn main() {}
