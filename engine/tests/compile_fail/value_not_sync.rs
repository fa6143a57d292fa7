//! Every caller gets a borrow of the one value: it must be `Send` and `Sync`.

use std::cell::Cell;
use watershed::{Ctx, TaskError};

async fn counter(_: Ctx<()>, start: u64) -> Result<Cell<u64>, TaskError> {
    Ok(Cell::new(start))
}

async fn caller(ctx: Ctx<()>) {
    let _ = ctx.run(counter, 1).await;
}

fn main() {}
