//! A task of another state: by `run`, and by `with` in `parallel`.

use watershed::{Ctx, Task, TaskError};

struct App;
struct Admin;

async fn audit(_: Ctx<Admin>, id: u64) -> Result<u64, TaskError> {
    Ok(id)
}

async fn by_run(ctx: Ctx<App>) {
    let _ = ctx.run(audit, 1).await;
}

async fn by_parallel(ctx: Ctx<App>) {
    let _ = ctx.parallel((audit.with(1),)).await;
}

fn main() {}
