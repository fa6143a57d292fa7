//! What needs tokio and what does not; bodies that were started inside a runtime.

use crate::support::{Count, Gate, current_thread, multi_thread, now, poll_once, watched, yields};
use std::sync::mpsc;
use std::time::Duration;
use tokio::runtime::Handle;
use watershed::{Ctx, TaskError, TaskErrorKind};

#[derive(Clone, Default)]
struct App {
    runs: Count,
    gate: Gate,
}

async fn gated(ctx: Ctx<App>, n: u64) -> Result<u64, TaskError> {
    ctx.state().runs.add();
    ctx.state().gate.passed().await;
    Ok(n)
}

/// Looks for the runtime on its first poll, on a later one and when it is dropped.
async fn looks(ctx: Ctx<App>, n: u64) -> Result<u64, TaskError> {
    let first = Handle::try_current().map_err(TaskError::new)?.id();
    ctx.state().gate.passed().await;
    let second = Handle::try_current().map_err(TaskError::new)?.id();
    assert_eq!(first, second);
    // Would panic outside a runtime.
    tokio::time::sleep(Duration::from_millis(1)).await;
    Ok(n)
}

#[test]
fn a_body_started_inside_a_runtime_is_polled_inside_it_whoever_drives() {
    watched("driven from outside", || {
        let runtime = multi_thread();
        let ctx = Ctx::new(App::default());
        let mut parked = {
            let _inside = runtime.enter();
            let mut call = ctx.run(looks, 1);
            assert!(poll_once(&mut call).is_pending());
            call
        };
        assert!(Handle::try_current().is_err());
        ctx.state().gate.open();
        assert_eq!(*ctx.run(looks, 1).wait().unwrap(), 1);
        assert!(poll_once(&mut parked).is_ready());
    });
}

#[test]
fn a_body_started_inside_one_runtime_is_not_moved_to_another() {
    watched("driven from another runtime", || {
        let (home, other) = (multi_thread(), current_thread());
        let ctx = Ctx::new(App::default());
        let mut parked = {
            let _inside = home.enter();
            let mut call = ctx.run(looks, 1);
            assert!(poll_once(&mut call).is_pending());
            call
        };
        ctx.state().gate.open();
        assert_eq!(*other.block_on(ctx.run(looks, 1)).unwrap(), 1);
        assert!(poll_once(&mut parked).is_ready());
    });
}

#[test]
fn a_body_started_without_a_runtime_runs_on_threads_that_have_one() {
    watched("started outside", || {
        let ctx = Ctx::new(App::default());
        let mut call = ctx.run(gated, 1);
        assert!(poll_once(&mut call).is_pending());
        ctx.state().gate.open();
        assert_eq!(*multi_thread().block_on(ctx.run(gated, 1)).unwrap(), 1);
        assert_eq!(ctx.state().runs.get(), 1);
        drop(call);
    });
}

#[test]
fn without_a_runtime_a_deadline_is_a_clear_error_of_the_call_that_waits() {
    async fn same(_: Ctx<App>, n: u64) -> Result<u64, TaskError> {
        Ok(n)
    }
    watched("deadline without a runtime", || {
        let ctx = Ctx::builder(App::default())
            .deadline(Duration::from_secs(60))
            .build();
        assert_eq!(*now(ctx.run(same, 1)).unwrap(), 1);
        let refused = now(ctx.run(gated, 1)).unwrap_err();
        assert_eq!(refused.kind(), TaskErrorKind::NoRuntime);
        assert!(refused.to_string().contains("tokio"), "{refused}");
        assert_eq!(*now(ctx.run(same, 1)).unwrap(), 1);
    });
}

#[test]
fn dropping_the_runtime_releases_every_waiter() {
    async fn sleeps(ctx: Ctx<App>, n: u64) -> Result<u64, TaskError> {
        ctx.state().runs.add();
        tokio::time::sleep(Duration::from_secs(3_600)).await;
        Ok(n)
    }
    watched("runtime dropped", || {
        let runtime = multi_thread();
        let ctx = Ctx::new(App::default());
        runtime.block_on(async {
            ctx.spawn(sleeps, 1).unwrap();
            crate::support::until(|| ctx.state().runs.get() == 1).await;
        });
        let (parked, is_parked) = mpsc::channel();
        std::thread::scope(|scope| {
            for _ in 0..3 {
                let (ctx, parked) = (&ctx, parked.clone());
                scope.spawn(move || {
                    let mut call = ctx.run(sleeps, 1);
                    assert!(poll_once(&mut call).is_pending());
                    parked.send(()).unwrap();
                    // tokio's own words: a timer of a runtime that is gone panics.
                    let ended = call.wait().unwrap_err();
                    assert_eq!(ended.kind(), TaskErrorKind::Panicked);
                });
            }
            for _ in 0..3 {
                is_parked.recv().unwrap();
            }
            drop(runtime);
        });
        assert_eq!(ctx.state().runs.get(), 1);
    });
}

#[test]
fn a_run_spawned_on_a_runtime_that_is_gone_goes_on_with_its_other_callers() {
    watched("spawned, then the runtime goes", || {
        let runtime = current_thread();
        let ctx = Ctx::new(App::default());
        runtime.block_on(async {
            ctx.spawn(gated, 1).unwrap();
            yields(3).await;
            crate::support::until(|| ctx.state().runs.get() == 1).await;
        });
        let mut call = ctx.run(gated, 1);
        assert!(poll_once(&mut call).is_pending());
        drop(runtime);
        ctx.state().gate.open();
        assert_eq!(*call.wait().unwrap(), 1);
        assert_eq!(ctx.state().runs.get(), 1);
    });
}

#[test]
fn spawn_on_a_runtime_that_never_runs_it_leaves_nothing_behind() {
    watched("spawned, never polled", || {
        let runtime = current_thread();
        let ctx = Ctx::new(App::default());
        {
            let _inside = runtime.enter();
            ctx.spawn(gated, 1).unwrap();
        }
        drop(runtime);
        assert_eq!(ctx.state().runs.get(), 0);
        ctx.state().gate.open();
        assert_eq!(*ctx.run(gated, 1).wait().unwrap(), 1);
    });
}

#[test]
fn one_context_is_used_from_several_executors_at_once() {
    watched("several executors", || {
        let ctx = Ctx::new(App::default());
        let (parked, is_parked) = mpsc::channel();
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let (ctx, parked) = (&ctx, parked.clone());
                scope.spawn(move || {
                    let mut call = ctx.run(gated, 1);
                    assert!(poll_once(&mut call).is_pending());
                    parked.send(()).unwrap();
                    let value = match thread {
                        0 => current_thread().block_on(call),
                        1 => multi_thread().block_on(call),
                        2 => futures::executor::block_on(call),
                        _ => call.wait(),
                    };
                    assert_eq!(*value.unwrap(), 1);
                });
            }
            for _ in 0..4 {
                is_parked.recv().unwrap();
            }
            ctx.state().gate.open();
        });
        assert_eq!(ctx.state().runs.get(), 1);
    });
}
