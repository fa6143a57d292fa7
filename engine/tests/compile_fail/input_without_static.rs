//! The key outlives the call: a task that takes a borrow can only be given a `'static` one.

use watershed::{Ctx, TaskError};

async fn length(_: Ctx<()>, name: &'static str) -> Result<usize, TaskError> {
    Ok(name.len())
}

async fn any_length(_: Ctx<()>, name: &str) -> Result<usize, TaskError> {
    Ok(name.len())
}

async fn caller(ctx: Ctx<()>) {
    let name = String::from("ada");
    let _ = ctx.run(length, name.as_str()).await;
}

async fn generic(ctx: Ctx<()>) {
    let name = String::from("ada");
    let _ = ctx.run(any_length, name.as_str()).await;
}

fn main() {}
