//! Any caller, on any thread, may drive a body: what it keeps over an await must be `Send`.

use std::rc::Rc;
use std::sync::Mutex;
use watershed::{Ctx, TaskError};

async fn leaf(_: Ctx<Mutex<u64>>, id: u64) -> Result<u64, TaskError> {
    Ok(id)
}

async fn counted(ctx: Ctx<Mutex<u64>>, id: u64) -> Result<u64, TaskError> {
    let count = Rc::new(id);
    Ok(ctx.run(leaf, id).await? + *count)
}

async fn locked(ctx: Ctx<Mutex<u64>>, id: u64) -> Result<u64, TaskError> {
    let guard = ctx.state().lock().unwrap();
    Ok(ctx.run(leaf, id).await? + *guard)
}

async fn caller(ctx: Ctx<Mutex<u64>>) {
    let _ = ctx.run(counted, 1).await;
    let _ = ctx.run(locked, 1).await;
}

fn main() {}
