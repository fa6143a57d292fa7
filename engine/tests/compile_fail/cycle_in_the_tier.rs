//! Tasks of the tier that call each other in a circle, through their own `Ctx` and through a `Shared`.

use watershed::{Ctx, Shared, TaskError};

async fn a(ctx: Ctx<()>, n: u64) -> Result<u64, TaskError> {
    Ok(*ctx.run(b, n).await?)
}

async fn b(ctx: Ctx<()>, n: u64) -> Result<u64, TaskError> {
    Ok(*ctx.run(a, n).await?)
}

struct App(std::sync::OnceLock<Shared<App>>);

impl AsRef<Shared<App>> for App {
    fn as_ref(&self) -> &Shared<App> {
        self.0.get().unwrap()
    }
}

async fn over(ctx: Ctx<App>, n: u64) -> Result<u64, TaskError> {
    Ok(*ctx.run_shared(again, n).await?)
}

async fn again(ctx: Ctx<App>, n: u64) -> Result<u64, TaskError> {
    Ok(*ctx.run_shared(over, n).await?)
}

fn main() {
    let shared = Shared::new(());
    let _ = shared.run(a, 1);
}
