//! Three tasks in a ring: the call that closes it is refused.

use watershed::{Ctx, TaskError};

async fn page(ctx: Ctx<()>, id: u64) -> Result<u64, TaskError> {
    Ok(*ctx.run(cart, id).await?)
}

async fn cart(ctx: Ctx<()>, id: u64) -> Result<u64, TaskError> {
    Ok(*ctx.run(prices, id).await?)
}

async fn prices(ctx: Ctx<()>, id: u64) -> Result<u64, TaskError> {
    Ok(*ctx.run(page, id).await?)
}

fn main() {}
