//! Tasks that are generic over the state they run with.

use watershed::{Ctx, TaskError};

trait Db: Send + Sync + 'static {}

async fn user<S: Db>(ctx: Ctx<S>, id: u64) -> Result<u64, TaskError> {
    Ok(*ctx.run(team, id).await?)
}

async fn team<S: Db>(ctx: Ctx<S>, id: u64) -> Result<u64, TaskError> {
    Ok(*ctx.run(user, id).await?)
}

fn main() {}
