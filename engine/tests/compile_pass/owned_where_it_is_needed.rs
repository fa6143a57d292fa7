//! How a value leaves the context it was made in.

use watershed::{Ctx, Held, TaskError};

async fn user(_: Ctx<()>, id: u64) -> Result<String, TaskError> {
    Ok(id.to_string())
}

async fn handler() -> Result<Held<String>, TaskError> {
    let ctx = Ctx::new(());
    ctx.run(user, 1).held().await
}

async fn owned() -> Result<String, TaskError> {
    let ctx = Ctx::new(());
    ctx.run_fresh(user, 1).await
}

async fn moved(ctx: Ctx<()>) -> String {
    let name = ctx.run(user, 1).held().await.unwrap();
    tokio::spawn(async move { name.to_uppercase() })
        .await
        .unwrap()
}

pub(crate) fn main() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    runtime.block_on(async {
        assert_eq!(*handler().await.unwrap(), "1");
        assert_eq!(owned().await.unwrap(), "1");
        assert_eq!(moved(Ctx::new(())).await, "1");
    });
}
