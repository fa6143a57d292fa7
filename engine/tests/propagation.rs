//! What goes with a run from the caller that starts it to whoever drives it: its runtime does, task-locals do not.
#![cfg(not(loom))]
#![cfg(feature = "tokio")]

mod support;

use std::cell::Cell;
use std::sync::{Arc, Mutex};

use support::{Gate, current_thread, multi_thread, now, poll_once, until, watched};
use watershed::{Ctx, Task, TaskError};

tokio::task_local! {
    static REQUEST: &'static str;
}

thread_local! {
    static THREAD: Cell<&'static str> = const { Cell::new("none") };
}

#[derive(Clone, Default)]
struct App {
    gate: Gate,
    /// The task-local and the thread-local that bodies saw, in the order of their polls.
    seen: Arc<Mutex<Vec<(&'static str, &'static str)>>>,
}

impl App {
    fn note(&self) {
        let request = REQUEST.try_with(|request| *request).unwrap_or("none");
        self.seen.lock().unwrap().push((request, THREAD.get()));
    }

    fn seen(&self) -> Vec<(&'static str, &'static str)> {
        std::mem::take(&mut *self.seen.lock().unwrap())
    }
}

async fn looks(ctx: Ctx<App>, n: u64) -> Result<u64, TaskError> {
    ctx.state().note();
    ctx.state().gate.passed().await;
    ctx.state().note();
    Ok(n)
}

#[test]
fn a_body_sees_the_task_locals_of_the_caller_that_polls_it() {
    let ctx = Ctx::new(App::default());
    ctx.state().gate.open();
    let call = REQUEST.sync_scope("mine", || now(ctx.run(looks, 1)));
    call.unwrap();
    assert_eq!(ctx.state().seen(), [("mine", "none"), ("mine", "none")]);
}

#[test]
fn a_body_that_another_caller_drives_on_sees_that_callers_task_locals() {
    watched("two callers", || {
        let ctx = Ctx::new(App::default());
        let mut first = ctx.run(looks, 1);
        THREAD.set("first");
        assert!(
            REQUEST
                .sync_scope("first", || poll_once(&mut first))
                .is_pending()
        );
        let mut second = ctx.run(looks, 1);
        assert!(
            REQUEST
                .sync_scope("second", || poll_once(&mut second))
                .is_pending()
        );
        ctx.state().gate.open();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                THREAD.set("second");
                REQUEST.sync_scope("second", || now(second)).unwrap();
            });
        });
        now(first).unwrap();
        assert_eq!(
            ctx.state().seen(),
            [("first", "first"), ("second", "second")]
        );
    });
}

#[test]
fn spawned_runs_and_those_of_parallel_on_other_threads_see_no_task_local_of_their_caller() {
    watched("spawned and parallel", || {
        multi_thread().block_on(async {
            let ctx = Ctx::new(App::default());
            ctx.state().gate.open();
            REQUEST
                .scope("mine", async {
                    ctx.spawn(looks, 1).unwrap();
                    until(|| ctx.peek(looks, &1).is_some()).await;
                })
                .await;
            assert_eq!(ctx.state().seen(), [("none", "none"); 2]);
            let calls = (looks.with(2), looks.with(3));
            REQUEST.scope("mine", ctx.parallel(calls)).await.unwrap();
            // The last call is the caller's own. The first is a helper's, or the caller's if the helper came late.
            let seen = ctx.state().seen();
            assert_eq!(seen.len(), 4);
            assert!(
                seen.iter()
                    .filter(|(request, _)| *request == "mine")
                    .count()
                    >= 2,
                "{seen:?}"
            );
        });
    });
}

#[test]
fn what_a_task_needs_is_in_its_input_or_in_the_state_whoever_drives() {
    async fn greets(ctx: Ctx<(App, &'static str)>, name: String) -> Result<String, TaskError> {
        ctx.state().0.gate.passed().await;
        Ok(format!("{} {name}", ctx.state().1))
    }
    watched("spawned", || {
        multi_thread().block_on(async {
            let ctx = Ctx::new((App::default(), "Hello"));
            ctx.spawn(greets, "Ada").unwrap();
            ctx.state().0.gate.open();
            assert_eq!(ctx.run(greets, "Ada").await.unwrap(), "Hello Ada");
        });
    });
}

#[test]
fn a_body_is_polled_inside_of_the_runtime_that_it_was_started_in_whoever_drives() {
    async fn runtimes(ctx: Ctx<App>, _: ()) -> Result<(bool, bool), TaskError> {
        let first = tokio::runtime::Handle::try_current().map(|handle| handle.id());
        ctx.state().gate.passed().await;
        let last = tokio::runtime::Handle::try_current().map(|handle| handle.id());
        Ok((first.is_ok(), first.ok() == last.ok()))
    }
    watched("a driver without a runtime", || {
        let runtime = current_thread();
        let ctx = Ctx::new(App::default());
        let mut starter = ctx.run(runtimes, ());
        {
            let _inside = runtime.enter();
            assert!(poll_once(&mut starter).is_pending());
        }
        let mut driver = ctx.run(runtimes, ());
        assert!(poll_once(&mut driver).is_pending());
        drop(starter);
        ctx.state().gate.open();
        assert!(tokio::runtime::Handle::try_current().is_err());
        assert_eq!(*now(driver).unwrap(), (true, true));
    });
}
