//! Batch functions of the tier that need keys of each other, through their own `Ctx` and through the `Shared` of the state.

use watershed::{Ctx, Shared, TaskError};

type Found = Result<Vec<(u64, u64)>, TaskError>;

async fn a(ctx: Ctx<()>, keys: Vec<u64>) -> Found {
    ctx.load_many(b, keys).await?;
    Ok(Vec::new())
}

async fn b(ctx: Ctx<()>, keys: Vec<u64>) -> Found {
    ctx.load(a, keys[0]).await?;
    Ok(Vec::new())
}

struct App(std::sync::OnceLock<Shared<App>>);

impl AsRef<Shared<App>> for App {
    fn as_ref(&self) -> &Shared<App> {
        self.0.get().unwrap()
    }
}

async fn over(ctx: Ctx<App>, keys: Vec<u64>) -> Found {
    ctx.load_shared(over, keys[0]).await?;
    Ok(Vec::new())
}

async fn round(ctx: Ctx<App>, keys: Vec<u64>) -> Found {
    ctx.state().as_ref().load(round, keys[0]).await?;
    Ok(Vec::new())
}

fn main() {
    let shared = Shared::new(());
    let _ = shared.load(a, 1);
}
