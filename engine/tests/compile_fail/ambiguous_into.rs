//! `String` is looked up by `&str` as well, so `.into()` does not know what to become.

use watershed::{Ctx, TaskError};

async fn by_name(_: Ctx<()>, name: String) -> Result<usize, TaskError> {
    Ok(name.len())
}

async fn caller(ctx: Ctx<()>) {
    let _ = ctx.run(by_name, "ada".into()).await;
}

fn main() {}
