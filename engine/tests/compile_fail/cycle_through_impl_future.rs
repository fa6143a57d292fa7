//! A helper `-> impl Future` that does not promise `Send` hides nothing.

use watershed::{Ctx, TaskError};

async fn user(ctx: Ctx<()>, id: u64) -> Result<u64, TaskError> {
    helper(ctx, id).await
}

fn helper(ctx: Ctx<()>, id: u64) -> impl Future<Output = Result<u64, TaskError>> {
    async move { ctx.run(user, id + 1).await.copied() }
}

fn main() {}
