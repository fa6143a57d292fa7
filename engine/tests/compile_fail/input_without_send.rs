//! The key stays in the context, which any thread may drop: it must be `Send`.

use watershed::{Ctx, TaskError};

#[derive(Clone, PartialEq, Eq, Hash)]
struct Id(*const u64);

// SAFETY: the pointer is compared and hashed, and read by nobody.
unsafe impl Sync for Id {}

async fn user(_: Ctx<()>, _: Id) -> Result<u64, TaskError> {
    Ok(1)
}

async fn caller(ctx: Ctx<()>, id: Id) {
    let _ = ctx.run(user, id).await;
}

fn main() {}
