//! A batch function of another state.

use std::collections::HashMap;
use watershed::{Ctx, TaskError};

struct App;
struct Other;

async fn users(_: Ctx<Other>, ids: Vec<u64>) -> Result<HashMap<u64, u64>, TaskError> {
    Ok(ids.into_iter().map(|id| (id, id)).collect())
}

async fn page(ctx: Ctx<App>, id: u64) -> Result<u64, TaskError> {
    Ok(*ctx.load(users, id).await?.unwrap())
}

fn main() {}
