//! A borrow does not fit a spawned task: `held` gives an owned value that does.

use watershed::{Ctx, TaskError};

async fn user(_: Ctx<()>, id: u64) -> Result<String, TaskError> {
    Ok(id.to_string())
}

/// Asks for what every `spawn` asks for.
fn spawn<F: Future + Send + 'static>(_: F) {}

async fn caller(ctx: Ctx<()>) {
    let name = ctx.run(user, 1).await.unwrap();
    spawn(async move { println!("{name}") });
}

fn main() {}
