//! Detached runs: `spawn` starts and does not wait.

use crate::support::{Count, Drops, Gate, both_runtimes, now, poll_once, until, watched, yields};
use watershed::{Ctx, TaskError, TaskErrorKind};

#[derive(Clone, Default)]
struct App {
    runs: Count,
    ends: Count,
    gate: Gate,
    bodies: Drops,
}

async fn gated(ctx: Ctx<App>, n: u64) -> Result<u64, TaskError> {
    let _body = ctx.state().bodies.token();
    ctx.state().runs.add();
    ctx.state().gate.passed().await;
    ctx.state().ends.add();
    Ok(n)
}

#[test]
fn spawned_runs_to_its_end_without_a_caller() {
    both_runtimes(|| async {
        let ctx = Ctx::new(App::default());
        ctx.spawn(gated, 1).unwrap();
        until(|| ctx.state().runs.get() == 1).await;
        assert!(ctx.peek(gated, &1).is_none());
        ctx.state().gate.open();
        until(|| ctx.peek(gated, &1).is_some()).await;
        assert_eq!(*ctx.run(gated, 1).await.unwrap(), 1);
        assert_eq!(ctx.state().runs.get(), 1);
    });
}

#[test]
fn spawn_joins_a_run_under_way_and_keeps_it_when_its_callers_leave() {
    both_runtimes(|| async {
        let ctx = Ctx::new(App::default());
        let mut call = ctx.run(gated, 1);
        assert!(poll_once(&mut call).is_pending());
        ctx.spawn(gated, 1).unwrap();
        ctx.spawn(gated, 1).unwrap();
        drop(call);
        assert_eq!(ctx.state().bodies.live(), 1);
        ctx.state().gate.open();
        until(|| ctx.peek(gated, &1).is_some()).await;
        assert_eq!((ctx.state().runs.get(), ctx.state().ends.get()), (1, 1));
    });
}

#[test]
fn callers_that_give_up_do_not_end_a_spawned_run() {
    both_runtimes(|| async {
        let ctx = Ctx::new(App::default());
        ctx.spawn(gated, 1).unwrap();
        for _ in 0..50 {
            let mut impatient = ctx.run(gated, 1);
            assert!(poll_once(&mut impatient).is_pending());
            yields(1).await;
        }
        ctx.state().gate.open();
        assert_eq!(*ctx.run(gated, 1).await.unwrap(), 1);
        assert_eq!(ctx.state().runs.get(), 1);
    });
}

#[test]
fn spawn_of_what_is_there_does_nothing() {
    both_runtimes(|| async {
        let ctx = Ctx::new(App::default());
        ctx.state().gate.open();
        ctx.run(gated, 1).await.unwrap();
        ctx.spawn(gated, 1).unwrap();
        yields(10).await;
        assert_eq!(ctx.state().runs.get(), 1);
    });
}

#[test]
fn a_body_spawns_and_ends_before_what_it_spawned() {
    async fn starter(ctx: Ctx<App>, n: u64) -> Result<u64, TaskError> {
        ctx.spawn(gated, n)?;
        Ok(n)
    }
    both_runtimes(|| async {
        let ctx = Ctx::new(App::default());
        assert_eq!(*ctx.run(starter, 1).await.unwrap(), 1);
        assert!(ctx.peek(gated, &1).is_none());
        until(|| ctx.state().runs.get() == 1).await;
        ctx.state().gate.open();
        until(|| ctx.peek(gated, &1).is_some()).await;
    });
}

/// R68: a call through a body's handle from a task of the runtime is the same context.
#[test]
fn a_task_of_the_runtime_with_a_bodys_handle_shares_its_runs() {
    async fn outer(ctx: Ctx<App>, n: u64) -> Result<u64, TaskError> {
        let mine = ctx.clone();
        let there = tokio::spawn(async move { mine.run(gated, n).await.copied() });
        let here = *ctx.run(gated, n).await?;
        Ok(here + there.await.map_err(TaskError::new)??)
    }
    both_runtimes(|| async {
        let ctx = Ctx::new(App::default());
        ctx.state().gate.open();
        assert_eq!(*ctx.run(outer, 4).await.unwrap(), 8);
        assert_eq!(ctx.state().runs.get(), 1);
    });
}

#[test]
fn spawned_failure_and_value_are_kept() {
    async fn fails(ctx: Ctx<App>, _: u64) -> Result<u64, String> {
        ctx.state().runs.add();
        Err("gone".to_owned())
    }
    both_runtimes(|| async {
        let ctx = Ctx::new(App::default());
        ctx.spawn(fails, 1).unwrap();
        until(|| ctx.peek(fails, &1).is_some()).await;
        let failed = ctx.run(fails, 1).await.unwrap_err();
        assert_eq!(failed.kind(), TaskErrorKind::Failed);
        assert_eq!(ctx.state().runs.get(), 1);
    });
}

#[test]
fn a_spawned_run_ends_with_its_context() {
    both_runtimes(|| async {
        let app = App::default();
        let ctx = Ctx::new(app.clone());
        ctx.spawn(gated, 1).unwrap();
        until(|| app.runs.get() == 1).await;
        drop(ctx);
        until(|| app.bodies.live() == 0).await;
        app.gate.open();
        yields(10).await;
        assert_eq!(app.ends.get(), 0);
    });
}

#[test]
fn without_a_runtime_spawn_is_a_clear_error() {
    watched("no runtime", || {
        let ctx = Ctx::new(App::default());
        let refused = ctx.spawn(gated, 1).unwrap_err();
        assert_eq!(refused.kind(), TaskErrorKind::NoRuntime);
        assert!(refused.to_string().contains("tokio"), "{refused}");
        ctx.state().gate.open();
        assert_eq!(*now(ctx.run(gated, 1)).unwrap(), 1);
        assert_eq!(ctx.state().runs.get(), 1);
    });
}
