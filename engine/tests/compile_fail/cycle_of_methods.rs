//! Associated functions are tasks too, and so are their cycles.

use watershed::{Ctx, TaskError};

struct Shop;

impl Shop {
    async fn user(ctx: Ctx<()>, id: u64) -> Result<u64, TaskError> {
        Ok(*ctx.run(Self::team, id).await?)
    }

    async fn team(ctx: Ctx<()>, id: u64) -> Result<u64, TaskError> {
        Ok(*ctx.run(Self::user, id).await?)
    }
}

fn main() {}
