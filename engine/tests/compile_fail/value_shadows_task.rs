//! A variable named as a task hides it: the second call runs the value.

use watershed::{Ctx, TaskError};

struct User;

async fn user(_: Ctx<()>, _: u64) -> Result<User, TaskError> {
    Ok(User)
}

async fn caller(ctx: Ctx<()>) -> Result<(), TaskError> {
    let user = ctx.run(user, 1).await?;
    ctx.run(user, 2).await?;
    Ok(())
}

fn main() {}
