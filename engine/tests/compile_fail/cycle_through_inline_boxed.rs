//! Boxing a future inside the body hides nothing: only a signature that promises `Send` does.

use futures::FutureExt;
use watershed::{Ctx, TaskError};

async fn user(ctx: Ctx<()>, id: u64) -> Result<u64, TaskError> {
    async { ctx.run(team, id).await.copied() }.boxed().await
}

async fn team(ctx: Ctx<()>, id: u64) -> Result<u64, TaskError> {
    async { ctx.run(user, id).await.copied() }.boxed().await
}

fn main() {}
