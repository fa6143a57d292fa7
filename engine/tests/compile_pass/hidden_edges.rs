//! Recursion on purpose: a signature that promises `Send` by itself hides its edge, so that a task
//! may call itself, or one that calls it, with another input.

use futures::FutureExt;
use futures::future::BoxFuture;
use watershed::{Ctx, TaskError};

/// A task that is its own promise.
fn factorial(ctx: Ctx<()>, n: u64) -> BoxFuture<'static, Result<u64, TaskError>> {
    async move {
        match n {
            0 => Ok(1),
            _ => Ok(ctx.run(factorial, n - 1).await? * n),
        }
    }
    .boxed()
}

/// A task whose way back leads over a helper `-> BoxFuture`.
async fn even(ctx: Ctx<()>, n: u64) -> Result<bool, TaskError> {
    if n == 0 {
        return Ok(true);
    }
    odd_boxed(&ctx, n - 1).await
}

fn odd_boxed<'a>(ctx: &'a Ctx<()>, n: u64) -> BoxFuture<'a, Result<bool, TaskError>> {
    ctx.run(odd, n).map(|r| r.copied()).boxed()
}

async fn odd(ctx: Ctx<()>, n: u64) -> Result<bool, TaskError> {
    if n == 0 {
        return Ok(false);
    }
    ctx.run(even, n - 1).await.copied()
}

/// A task whose way back leads over a helper `-> impl Future + Send`.
async fn collatz(ctx: Ctx<()>, n: u64) -> Result<u64, TaskError> {
    if n == 1 {
        return Ok(0);
    }
    let next = if n.is_multiple_of(2) {
        n / 2
    } else {
        3 * n + 1
    };
    Ok(collatz_of(ctx, next).await? + 1)
}

#[expect(clippy::manual_async_fn, reason = "the promise of `Send` is the point")]
fn collatz_of(ctx: Ctx<()>, n: u64) -> impl Future<Output = Result<u64, TaskError>> + Send {
    async move { ctx.run(collatz, n).await.copied() }
}

/// A list of different futures, boxed by a type that promises `Send`.
async fn fibonacci(ctx: Ctx<()>, n: u64) -> Result<u64, TaskError> {
    if n < 2 {
        return Ok(n);
    }
    let parts = fibonacci_parts(&ctx, n);
    let parts = futures::future::try_join_all(parts).await?;
    Ok(parts.into_iter().sum())
}

fn fibonacci_parts(ctx: &Ctx<()>, n: u64) -> Vec<BoxFuture<'_, Result<&u64, TaskError>>> {
    vec![
        ctx.run(fibonacci, n - 1).boxed(),
        ctx.run(fibonacci, n - 2).boxed(),
    ]
}

pub(crate) fn main() {
    let ctx = Ctx::new(());
    assert_eq!(*ctx.run(factorial, 10).wait().unwrap(), 3_628_800);
    assert!(*ctx.run(even, 10).wait().unwrap());
    assert!(!*ctx.run(odd, 10).wait().unwrap());
    assert_eq!(*ctx.run(collatz, 27).wait().unwrap(), 111);
    assert_eq!(*ctx.run(fibonacci, 50).wait().unwrap(), 12_586_269_025);
}
