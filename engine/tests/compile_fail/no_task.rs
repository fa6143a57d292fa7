//! A value that is no function cannot be run.

use watershed::Ctx;

#[derive(Clone, Copy)]
struct Mine;

async fn caller(ctx: Ctx<()>) {
    let _ = ctx.run(Mine, 1u64).await;
}

fn main() {}
