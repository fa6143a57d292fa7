//! A batch function that loads one of its own keys.

use std::collections::HashMap;
use watershed::{Ctx, TaskError};

async fn users(ctx: Ctx<()>, ids: Vec<u64>) -> Result<HashMap<u64, u64>, TaskError> {
    let first = *ctx.load(users, ids[0]).await?.unwrap();
    Ok(ids.into_iter().map(|id| (id, first)).collect())
}

fn main() {}
