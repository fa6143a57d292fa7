//! Only a whole key is looked up by its borrowed form, no part of a tuple.

use watershed::{Ctx, TaskError};

async fn by_pair(_: Ctx<()>, pair: (u64, String)) -> Result<u64, TaskError> {
    Ok(pair.0)
}

async fn caller(ctx: Ctx<()>) {
    let _ = ctx.run(by_pair, (1, "ada")).await;
}

fn main() {}
