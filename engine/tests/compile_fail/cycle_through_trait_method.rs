//! An `async fn` of a trait, called with its type named, hides nothing: not even behind a promise
//! of `Send`.

use watershed::{Ctx, TaskError};

trait Load {
    fn load(ctx: Ctx<()>, id: u64) -> impl Future<Output = Result<u64, TaskError>> + Send;
}

struct Users;

impl Load for Users {
    async fn load(ctx: Ctx<()>, id: u64) -> Result<u64, TaskError> {
        Ok(*ctx.run(team, id).await?)
    }
}

async fn team(ctx: Ctx<()>, id: u64) -> Result<u64, TaskError> {
    Ok(*ctx.run(Users::load, id).await?)
}

fn main() {}
