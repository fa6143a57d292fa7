//! The edge back is in an async closure inside the body.

use watershed::{Ctx, TaskError};

async fn user(ctx: Ctx<()>, id: u64) -> Result<u64, TaskError> {
    let again = async |n: u64| ctx.run(user, n).await.copied();
    again(id + 1).await
}

fn main() {}
