//! What is in a slot now: `peek`, `prime`, `forget`; and how a value leaves: `held`, `wait`; fakes.

use crate::support::{Count, Drops, Gate, Token, everywhere, poll_once, watched};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc;
use watershed::{Ctx, Held, Task, TaskError, TaskErrorKind};

#[derive(Clone, Default)]
struct App {
    runs: Count,
    gate: Gate,
    values: Drops,
}

async fn gated(ctx: Ctx<App>, n: u64) -> Result<usize, TaskError> {
    let run = ctx.state().runs.add();
    ctx.state().gate.passed().await;
    Ok(run * 100 + n as usize)
}

async fn length(ctx: Ctx<App>, s: String) -> Result<usize, String> {
    ctx.state().runs.add();
    if s.is_empty() {
        return Err("nothing to measure".to_owned());
    }
    Ok(s.len())
}

async fn value(ctx: Ctx<App>, n: u64) -> Result<(u64, Token), TaskError> {
    ctx.state().runs.add();
    Ok((n, ctx.state().values.token()))
}

// --- peek ------------------------------------------------------------------------------------------

#[test]
fn peek_gives_what_is_there_and_runs_nothing() {
    everywhere(|| async {
        let ctx = Ctx::new(App::default());
        assert!(ctx.peek(length, "abc").is_none());
        assert_eq!(ctx.state().runs.get(), 0);
        let value = ctx.run(length, "abc").await.unwrap();
        let peeked = ctx.peek(length, "abc").unwrap().unwrap();
        assert!(std::ptr::eq(value, peeked));
        ctx.run(length, "").await.unwrap_err();
        let failed = ctx.peek(length, "").unwrap().unwrap_err();
        assert_eq!(failed.kind(), TaskErrorKind::Failed);
        assert!(ctx.peek(length, &"other".to_owned()).is_none());
        assert_eq!(ctx.state().runs.get(), 2);
    });
}

#[test]
fn peek_sees_nothing_of_a_run_under_way() {
    everywhere(|| async {
        let ctx = Ctx::new(App::default());
        let mut call = ctx.run(gated, 1);
        assert!(ctx.peek(gated, &1).is_none());
        assert!(poll_once(&mut call).is_pending());
        assert!(ctx.peek(gated, &1).is_none());
        ctx.state().gate.open();
        call.await.unwrap();
        assert_eq!(*ctx.peek(gated, &1).unwrap().unwrap(), 101);
    });
}

// --- prime -----------------------------------------------------------------------------------------

#[test]
fn a_primed_value_is_a_hit() {
    async fn parts(ctx: Ctx<App>, path: PathBuf) -> Result<usize, TaskError> {
        ctx.state().runs.add();
        Ok(path.components().count())
    }
    everywhere(|| async {
        let ctx = Ctx::new(App::default());
        ctx.prime(length, "abc", 77).unwrap();
        ctx.prime(parts, Path::new("a/b"), 88).unwrap();
        assert_eq!(*ctx.peek(length, "abc").unwrap().unwrap(), 77);
        assert_eq!(*ctx.run(length, "abc").await.unwrap(), 77);
        assert_eq!(*ctx.run(parts, Path::new("a/b")).await.unwrap(), 88);
        assert_eq!(ctx.state().runs.get(), 0);
        assert_eq!(*ctx.run(length, "abcd").await.unwrap(), 4);
    });
}

#[test]
fn prime_gives_the_value_back_when_there_is_one_or_it_is_running() {
    everywhere(|| async {
        let ctx = Ctx::new(App::default());
        ctx.prime(length, "abc", 77).unwrap();
        assert_eq!(ctx.prime(length, "abc", 78), Err(78));
        let mut call = ctx.run(gated, 1);
        assert!(poll_once(&mut call).is_pending());
        assert_eq!(ctx.prime(gated, 1, 79), Err(79));
        ctx.state().gate.open();
        assert_eq!(*call.await.unwrap(), 101);
        assert_eq!(ctx.prime(gated, 1, 80), Err(80));
        assert_eq!(*ctx.run(length, "abc").await.unwrap(), 77);
    });
}

#[test]
fn prime_is_refused_where_an_error_is_kept_and_taken_after_forget() {
    everywhere(|| async {
        let ctx = Ctx::new(App::default());
        ctx.run(length, "").await.unwrap_err();
        assert_eq!(ctx.prime(length, "", 5), Err(5));
        assert!(ctx.forget(length, ""));
        ctx.prime(length, "", 5).unwrap();
        assert_eq!(*ctx.run(length, "").await.unwrap(), 5);
    });
}

#[test]
fn a_call_made_before_the_prime_gets_the_primed_value() {
    everywhere(|| async {
        let ctx = Ctx::new(App::default());
        let call = ctx.run(length, "abc");
        ctx.prime(length, "abc", 77).unwrap();
        assert_eq!(*call.await.unwrap(), 77);
        assert_eq!(ctx.state().runs.get(), 0);
    });
}

#[test]
fn prime_after_the_last_caller_left_is_taken() {
    everywhere(|| async {
        let ctx = Ctx::new(App::default());
        let mut call = ctx.run(gated, 1);
        assert!(poll_once(&mut call).is_pending());
        drop(call);
        ctx.prime(gated, 1, 5).unwrap();
        assert_eq!(*ctx.run(gated, 1).await.unwrap(), 5);
        assert_eq!(ctx.state().runs.get(), 1);
    });
}

#[test]
fn tasks_may_prime_and_forget_each_other() {
    async fn by_id(ctx: Ctx<App>, id: u64) -> Result<String, TaskError> {
        ctx.state().runs.add();
        let name = format!("user{id}");
        let _ = ctx.prime(by_name, &name, id);
        Ok(name)
    }
    async fn by_name(ctx: Ctx<App>, name: String) -> Result<u64, TaskError> {
        ctx.state().runs.add();
        let id = name
            .trim_start_matches("user")
            .parse()
            .map_err(TaskError::new)?;
        let _ = ctx.prime(by_id, id, name);
        Ok(id)
    }
    everywhere(|| async {
        let ctx = Ctx::new(App::default());
        assert_eq!(*ctx.run(by_id, 7).await.unwrap(), "user7");
        assert_eq!(*ctx.run(by_name, "user7").await.unwrap(), 7);
        assert_eq!(*ctx.run(by_name, "user8").await.unwrap(), 8);
        assert_eq!(*ctx.run(by_id, 8).await.unwrap(), "user8");
        assert_eq!(ctx.state().runs.get(), 2);
    });
}

// --- forget ----------------------------------------------------------------------------------------

#[test]
fn forget_says_whether_there_was_something_to_forget() {
    everywhere(|| async {
        let ctx = Ctx::new(App::default());
        assert!(!ctx.forget(length, "abc"));
        ctx.run(length, "abc").await.unwrap();
        ctx.run(length, "").await.unwrap_err();
        assert!(ctx.forget(length, "abc"));
        assert!(!ctx.forget(length, "abc"));
        assert!(ctx.forget(length, ""));
        assert!(!ctx.forget(length, ""));
        let mut call = ctx.run(gated, 1);
        assert!(poll_once(&mut call).is_pending());
        assert!(ctx.forget(gated, &1));
        assert!(!ctx.forget(gated, &1));
    });
}

#[test]
fn forgotten_runs_again_and_borrows_taken_before_stay_valid() {
    everywhere(|| async {
        let ctx = Ctx::new(App::default());
        let old = ctx.run(value, 1).await.unwrap();
        assert!(ctx.forget(value, &1));
        assert!(ctx.peek(value, &1).is_none());
        let new = ctx.run(value, 1).await.unwrap();
        assert!(!std::ptr::eq(old, new));
        assert_eq!((old.0, new.0, ctx.state().runs.get()), (1, 1, 2));
        assert_eq!(ctx.state().values.dropped(), 0);
        let values = ctx.state().values.clone();
        drop(ctx);
        assert_eq!((values.made(), values.live()), (2, 0));
    });
}

#[test]
fn a_forgotten_run_under_way_finishes_for_its_callers_and_leaves_the_newer_alone() {
    everywhere(|| async {
        let ctx = Ctx::new(App::default());
        let (mut old, mut old_waiter) = (ctx.run(gated, 1), ctx.run(gated, 1));
        assert!(poll_once(&mut old).is_pending());
        assert!(poll_once(&mut old_waiter).is_pending());
        assert!(ctx.forget(gated, &1));
        let mut new = ctx.run(gated, 1);
        assert!(poll_once(&mut new).is_pending());
        assert_eq!(ctx.state().runs.get(), 2);
        ctx.state().gate.open();
        assert_eq!(*new.await.unwrap(), 201);
        assert_eq!(*old.await.unwrap(), 101);
        assert_eq!(*old_waiter.await.unwrap(), 101);
        assert_eq!(*ctx.run(gated, 1).await.unwrap(), 201);
        assert_eq!(*ctx.peek(gated, &1).unwrap().unwrap(), 201);
        assert_eq!(ctx.state().runs.get(), 2);
    });
}

#[test]
fn a_call_made_before_forget_and_polled_after_it_does_not_join_the_forgotten_run() {
    everywhere(|| async {
        let ctx = Ctx::new(App::default());
        let mut first = ctx.run(gated, 1);
        assert!(poll_once(&mut first).is_pending());
        let late = ctx.run(gated, 1);
        assert!(ctx.forget(gated, &1));
        ctx.state().gate.open();
        assert_eq!(*late.await.unwrap(), 201);
        assert_eq!(*first.await.unwrap(), 101);
        // A value that was there when the call was made is taken at once.
        let hit = ctx.run(gated, 1);
        assert!(ctx.forget(gated, &1));
        assert_eq!(*hit.await.unwrap(), 201);
        assert_eq!(*ctx.run(gated, 1).await.unwrap(), 301);
    });
}

#[test]
fn the_same_key_can_be_forgotten_a_thousand_times() {
    everywhere(|| async {
        let ctx = Ctx::new(App::default());
        for n in 1..=1_000 {
            assert_eq!(ctx.run(value, 1).await.unwrap().0, 1);
            assert_eq!(ctx.state().runs.get(), n);
            assert!(ctx.forget(value, &1));
        }
        let values = ctx.state().values.clone();
        drop(ctx);
        assert_eq!((values.made(), values.live()), (1_000, 0));
    });
}

#[test]
fn run_forget_prime_and_peek_from_threads_lose_nothing() {
    watched("all at once", || {
        for _ in 0..100 {
            let app = App::default();
            let ctx = Ctx::new(app.clone());
            std::thread::scope(|scope| {
                for thread in 0..8 {
                    let (ctx, app) = (&ctx, &app);
                    scope.spawn(move || {
                        for step in 0..40 {
                            let key = step % 3;
                            match (step + thread) % 4 {
                                0 => assert_eq!(ctx.run(value, key).wait().unwrap().0, key),
                                1 => drop(ctx.forget(value, &key)),
                                2 => drop(ctx.prime(value, key, (key, app.values.token()))),
                                _ => {
                                    if let Some(there) = ctx.peek(value, &key) {
                                        assert_eq!(there.unwrap().0, key);
                                    }
                                }
                            }
                        }
                    });
                }
            });
            drop(ctx);
            assert_eq!(app.values.live(), 0);
        }
    });
}

// --- held, wait ------------------------------------------------------------------------------------

#[test]
fn a_held_value_outlives_its_context() {
    everywhere(|| async {
        let ctx = Ctx::new(App::default());
        let values = ctx.state().values.clone();
        let held: Held<(u64, Token)> = ctx.run(value, 7).held().await.unwrap();
        let again = held.clone();
        assert!(std::ptr::eq(&*held, ctx.run(value, 7).await.unwrap()));
        drop(ctx);
        assert_eq!(held.0, 7);
        drop(held);
        assert_eq!((again.0, values.live()), (7, 1));
        let from_thread = std::thread::spawn(move || again.0).join().unwrap();
        assert_eq!((from_thread, values.live()), (7, 0));
    });
}

#[test]
fn a_held_failure_is_the_error_itself() {
    everywhere(|| async {
        let ctx = Ctx::new(App::default());
        let failed = ctx.run(length, "").held().await.unwrap_err();
        assert_eq!(failed.kind(), TaskErrorKind::Failed);
    });
}

#[test]
fn a_held_value_does_not_keep_the_context_open() {
    async fn leaks_its_handle(ctx: Ctx<Slot>, n: u64) -> Result<u64, TaskError> {
        *ctx.state().0.lock().unwrap() = Some(ctx.clone());
        Ok(n)
    }
    async fn plain(_: Ctx<Slot>, n: u64) -> Result<u64, TaskError> {
        Ok(n)
    }
    #[derive(Clone, Default)]
    struct Slot(Arc<std::sync::Mutex<Option<Ctx<Slot>>>>);
    everywhere(|| async {
        let slot = Slot::default();
        let ctx = Ctx::new(slot.clone());
        let held = ctx.run(leaks_its_handle, 1).held().await.unwrap();
        let of_body = slot.0.lock().unwrap().take().unwrap();
        drop(ctx);
        let later = of_body.run(plain, 1).await.unwrap_err();
        assert_eq!((later.kind(), *held), (TaskErrorKind::Cancelled, 1));
    });
}

#[test]
fn wait_runs_the_body_on_a_thread_without_an_executor() {
    watched("wait", || {
        let ctx = Ctx::new(App::default());
        assert_eq!(*ctx.run(length, "abc").wait().unwrap(), 3);
        assert_eq!(*ctx.run(length, "abc").wait().unwrap(), 3);
        assert_eq!(ctx.state().runs.get(), 1);
        let failed = ctx.run(length, "").wait().unwrap_err();
        assert_eq!(failed.kind(), TaskErrorKind::Failed);
    });
}

#[test]
fn wait_parks_until_the_body_is_woken_from_another_thread() {
    watched("wait across threads", || {
        let ctx = Ctx::new(App::default());
        let (parked, is_parked) = mpsc::channel();
        std::thread::scope(|scope| {
            for _ in 0..3 {
                let (ctx, parked) = (&ctx, parked.clone());
                scope.spawn(move || {
                    let mut call = ctx.run(gated, 1);
                    assert!(poll_once(&mut call).is_pending());
                    parked.send(()).unwrap();
                    assert_eq!(*call.wait().unwrap(), 101);
                });
            }
            for _ in 0..3 {
                is_parked.recv().unwrap();
            }
            ctx.state().gate.open();
        });
        assert_eq!(ctx.state().runs.get(), 1);
    });
}

// --- replace ---------------------------------------------------------------------------------------

#[test]
fn a_fake_that_captures_stands_in_for_a_task() {
    async fn outer(ctx: Ctx<App>, s: String) -> Result<usize, TaskError> {
        Ok(ctx.run(length, &s).await? + 1)
    }
    everywhere(|| async {
        let asked = Count::default();
        let seen = asked.clone();
        let ctx = Ctx::builder(App::default())
            .replace(length, move |_ctx, s: String| {
                let seen = seen.clone();
                async move {
                    seen.add();
                    Ok(s.len() * 1000)
                }
            })
            .build();
        assert_eq!(*ctx.run(outer, "abc").await.unwrap(), 3001);
        assert_eq!(*ctx.run(length, "abc").await.unwrap(), 3000);
        assert_eq!(ctx.run_fresh(length, "abc").await.unwrap(), 3000);
        ctx.run_all([length.with("de").boxed()]).await.unwrap();
        assert_eq!(*ctx.peek(length, "de").unwrap().unwrap(), 2000);
        assert_eq!((asked.get(), ctx.state().runs.get()), (3, 0));
        assert_eq!(*ctx.run(value, 1).await.map(|v| &v.0).unwrap(), 1);
    });
}

#[test]
fn a_fake_may_fail_and_its_failure_names_the_task() {
    everywhere(|| async {
        let ctx = Ctx::builder(App::default())
            .replace(length, |_ctx, _| async { Err("no such thing".to_owned()) })
            .build();
        let failed = ctx.run(length, "abc").await.unwrap_err();
        assert_eq!(failed.kind(), TaskErrorKind::Failed);
        assert!(failed.to_string().contains("no such thing"));
        assert!(failed.task().ends_with("length"), "{}", failed.task());
    });
}

#[test]
fn a_fake_calls_the_context_it_is_in() {
    everywhere(|| async {
        let ctx = Ctx::builder(App::default())
            .replace(gated, |ctx: Ctx<App>, n| async move {
                let n = *ctx.run(length, "x".repeat(n as usize)).await.unwrap();
                Ok(n)
            })
            .build();
        assert_eq!(*ctx.run(gated, 4).await.unwrap(), 4);
        assert_eq!(ctx.state().runs.get(), 1);
    });
}

#[cfg(feature = "tokio")]
#[test]
fn a_fake_stands_in_on_the_runtime_too() {
    crate::support::both_runtimes(|| async {
        let ctx = Ctx::builder(App::default())
            .replace(length, |_ctx, s: String| async move { Ok(s.len() + 100) })
            .build();
        let (a, b) = ctx
            .parallel((length.with("a"), length.with("bc")))
            .await
            .unwrap();
        assert_eq!((*a, *b), (101, 102));
        ctx.spawn(length, "def").unwrap();
        crate::support::until(|| ctx.peek(length, "def").is_some()).await;
        assert_eq!(*ctx.peek(length, "def").unwrap().unwrap(), 103);
        assert_eq!(ctx.state().runs.get(), 0);
    });
}

#[test]
fn a_fake_of_one_context_is_not_seen_by_another() {
    everywhere(|| async {
        let faked = Ctx::builder(App::default())
            .replace(length, |_ctx, _| async { Ok(0) })
            .build();
        let real = Ctx::new(App::default());
        assert_eq!(*faked.run(length, "abc").await.unwrap(), 0);
        assert_eq!(*real.run(length, "abc").await.unwrap(), 3);
    });
}
