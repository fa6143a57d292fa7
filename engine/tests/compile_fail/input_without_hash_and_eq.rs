//! A type from elsewhere that can be no key, like a float, by every way to hand it over.

use watershed::{Ctx, Task, TaskError};

async fn rounded(_: Ctx<()>, x: f64) -> Result<f64, TaskError> {
    Ok(x.round())
}

async fn caller(ctx: Ctx<()>) {
    let _ = ctx.run(rounded, 1.5).await;
    let _ = ctx.parallel((rounded.with(1.5),)).await;
    let _ = ctx.peek(rounded, &1.5);
    let _ = ctx.prime(rounded, 1.5, 2.0);
}

fn main() {}
