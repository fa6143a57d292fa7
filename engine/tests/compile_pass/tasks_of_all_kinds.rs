//! What is a task without a macro or a trait of its own: functions, methods, generic functions,
//! with every usual kind of error.

use std::error::Error;
use std::future::{Ready, ready};
use watershed::{BoxError, Ctx, Task, TaskError};

trait HasDb: Send + Sync + 'static {
    fn name(&self, id: u64) -> String;
}

struct App;

impl HasDb for App {
    fn name(&self, id: u64) -> String {
        format!("user {id}")
    }
}

/// For every state that has a database, called in any context.
async fn user<S: HasDb>(ctx: Ctx<S>, id: u64) -> Result<String, TaskError> {
    Ok(ctx.state().name(id))
}

async fn page<S: HasDb>(ctx: Ctx<S>, id: u64) -> Result<String, TaskError> {
    let name = ctx.run(user, id).await?;
    let (same,) = ctx.parallel((user.with(id),)).await?;
    assert!(std::ptr::eq(name, same));
    Ok(format!("Hello, {name}"))
}

struct Shop;

impl Shop {
    async fn orders(_: Ctx<App>, id: u64) -> Result<Vec<u64>, TaskError> {
        Ok(vec![id])
    }

    async fn total(ctx: Ctx<App>, id: u64) -> Result<u64, TaskError> {
        Ok(ctx.run(Self::orders, id).await?.iter().sum())
    }
}

/// No `async`: whatever returns a future of a `Result` will do.
fn ready_made(_: Ctx<App>, id: u64) -> Ready<Result<u64, TaskError>> {
    ready(Ok(id))
}

async fn std_error(_: Ctx<App>, s: String) -> Result<u64, std::num::ParseIntError> {
    s.parse()
}

async fn any_error(ctx: Ctx<App>, s: String) -> anyhow::Result<u64> {
    Ok(ctx.run(std_error, s).await? + "1".parse::<u64>()?)
}

async fn boxed_error(ctx: Ctx<App>, s: String) -> Result<u64, BoxError> {
    Ok(*ctx.run(any_error, s).await?)
}

async fn boxed_std_error(_: Ctx<App>, s: String) -> Result<u64, Box<dyn Error + Send + Sync>> {
    Ok(s.parse()?)
}

async fn text_error(_: Ctx<App>, n: u64) -> Result<u64, String> {
    n.checked_sub(1).ok_or_else(|| "below zero".to_owned())
}

async fn never_fails(_: Ctx<App>, n: u64) -> Result<u64, std::convert::Infallible> {
    Ok(n)
}

async fn all(ctx: Ctx<App>) -> Result<u64, TaskError> {
    assert_eq!(ctx.run(page, 1).await?, "Hello, user 1");
    let mut sum = *ctx.run(Shop::total, 3).await?;
    sum += ctx.run(ready_made, 1).await?;
    sum += ctx.run(boxed_error, "1").await?;
    sum += ctx.run(boxed_std_error, "1").await?;
    sum += ctx.run(text_error, 2).await?;
    sum += ctx.run(never_fails, 1).await?;
    Ok(sum)
}

pub(crate) fn main() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    assert_eq!(runtime.block_on(all(Ctx::new(App))).unwrap(), 9);
}
