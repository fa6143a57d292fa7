//! Runs of the tier that wait for each other, and deep ones.

use std::future::Future;
use std::pin::Pin;

use super::support::{Gate, both_runtimes, until};
use watershed::{Ctx, Shared, TaskError, TaskErrorKind};

type Boxed<T> = Pin<Box<dyn Future<Output = Result<T, TaskError>> + Send>>;

/// 0 calls itself.
fn own(ctx: Ctx<Gate>, n: u64) -> Boxed<u64> {
    Box::pin(async move { Ok(*ctx.run(own, n).await? + 1) })
}

/// A circle of `n` runs.
fn round(ctx: Ctx<Gate>, (at, of): (u64, u64)) -> Boxed<u64> {
    Box::pin(async move { Ok(*ctx.run(round, ((at + 1) % of, of)).await? + 1) })
}

/// Two tasks that wait for each other, closed by two callers.
fn left(ctx: Ctx<Gate>, _: ()) -> Boxed<u64> {
    Box::pin(async move {
        ctx.state().passed().await;
        Ok(*ctx.run(right, ()).await? + 1)
    })
}
fn right(ctx: Ctx<Gate>, _: ()) -> Boxed<u64> {
    Box::pin(async move {
        ctx.state().passed().await;
        Ok(*ctx.run(left, ()).await? + 1)
    })
}

fn fibonacci(ctx: Ctx<()>, n: u64) -> Boxed<u64> {
    Box::pin(async move {
        if n < 2 {
            return Ok(n);
        }
        let (a, b) = futures::try_join!(ctx.run(fibonacci, n - 1), ctx.run(fibonacci, n - 2))?;
        Ok(a.wrapping_add(*b))
    })
}

fn down(ctx: Ctx<()>, n: u64) -> Boxed<u64> {
    Box::pin(async move {
        if n == 0 {
            return Ok(0);
        }
        Ok(*ctx.run(down, n - 1).await? + 1)
    })
}

#[test]
fn a_run_that_waits_for_itself_is_told_so() {
    both_runtimes(|| async {
        let shared = Shared::new(Gate::new());
        let error = shared.run(own, 0).await.unwrap_err();
        assert_eq!(error.kind(), TaskErrorKind::Cycle);
        assert!(error.to_string().contains("own > own"), "{error}");
        assert_eq!(shared.stats().running, 0);
        assert!(shared.is_empty());
    });
}

#[test]
fn a_circle_of_runs_is_told_so_and_named() {
    both_runtimes(|| async {
        for of in [2, 3, 7] {
            let shared = Shared::new(Gate::new());
            let error = shared.run(round, (0, of)).await.unwrap_err();
            assert_eq!(error.kind(), TaskErrorKind::Cycle);
            assert_eq!(shared.stats().running, 0);
        }
    });
}

#[test]
fn a_circle_closed_by_two_callers_is_told_to_both() {
    both_runtimes(|| async {
        let shared = Shared::new(Gate::new());
        let (a, b) = (shared.clone(), shared.clone());
        let a = tokio::spawn(async move { a.run(left, ()).await.map(|v| *v) });
        let b = tokio::spawn(async move { b.run(right, ()).await.map(|v| *v) });
        until(|| shared.stats().running == 2).await;
        shared.state().open();
        for call in [a, b] {
            let error = call.await.unwrap().unwrap_err();
            assert_eq!(error.kind(), TaskErrorKind::Cycle);
            let path = error.to_string();
            assert!(path.contains("left") && path.contains("right"), "{path}");
        }
    });
}

/// A diamond is no circle, in whatever order its runs start.
#[test]
fn recursion_that_joins_at_every_level_is_no_circle() {
    both_runtimes(|| async {
        let shared = Shared::new(());
        assert_eq!(
            *shared.run(fibonacci, 90).await.unwrap(),
            2_880_067_194_370_816_120
        );
        assert_eq!(shared.stats().started, 91);
    });
}

#[test]
fn a_chain_of_twenty_thousand_runs_ends() {
    both_runtimes(|| async {
        let shared = Shared::new(());
        assert_eq!(*shared.run(down, 20_000).await.unwrap(), 20_000);
    });
}

#[test]
fn deeper_than_max_depth_is_an_error() {
    both_runtimes(|| async {
        let shared = Shared::builder(()).max_depth(100).build();
        let error = shared.run(down, 200).await.unwrap_err();
        assert_eq!(error.kind(), TaskErrorKind::TooDeep);
        // What is there already counts for nothing.
        for n in [50, 100, 150, 200] {
            assert_eq!(*shared.run(down, n).await.unwrap(), n);
        }
    });
}
