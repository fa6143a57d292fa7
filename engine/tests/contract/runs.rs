//! One run per context, task and input; failures; keys.

use crate::support::{Count, Gate, everywhere, now, poll_once};
use std::borrow::Cow;
use std::error::Error;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::path::{Path, PathBuf};
use std::ptr;
use std::sync::Arc;
use watershed::{Ctx, TaskError, TaskErrorKind};

#[derive(Clone, Default)]
struct App {
    runs: Count,
    gate: Gate,
}

#[derive(Debug)]
struct Refused;

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("connection refused")
    }
}

impl Error for Refused {}

async fn double(ctx: Ctx<App>, n: u64) -> Result<u64, TaskError> {
    ctx.state().runs.add();
    Ok(n * 2)
}

async fn gated(ctx: Ctx<App>, n: u64) -> Result<u64, TaskError> {
    ctx.state().runs.add();
    ctx.state().gate.passed().await;
    Ok(n)
}

async fn refused(ctx: Ctx<App>, _: u64) -> Result<u64, Refused> {
    ctx.state().runs.add();
    Err(Refused)
}

#[test]
fn equal_input_is_one_run_and_one_value() {
    everywhere(|| async {
        let ctx = Ctx::new(App::default());
        let first = ctx.run(double, 21).await.unwrap();
        let second = ctx.run(double, 21).await.unwrap();
        assert_eq!(*first, 42);
        assert!(ptr::eq(first, second));
        assert_eq!(ctx.state().runs.get(), 1);
    });
}

#[test]
fn callers_that_come_meanwhile_share_the_run() {
    everywhere(|| async {
        let ctx = Ctx::new(App::default());
        let (mut a, mut b, mut c) = (ctx.run(gated, 7), ctx.run(gated, 7), ctx.run(gated, 7));
        assert!(poll_once(&mut a).is_pending());
        assert!(poll_once(&mut b).is_pending());
        assert!(poll_once(&mut c).is_pending());
        ctx.state().gate.open();
        let (a, b, c) = futures::join!(c, a, b);
        let (a, b, c) = (a.unwrap(), b.unwrap(), c.unwrap());
        assert!(ptr::eq(a, b) && ptr::eq(b, c));
        assert_eq!((*a, ctx.state().runs.get()), (7, 1));
    });
}

#[test]
fn clones_of_a_context_are_the_same_context() {
    everywhere(|| async {
        let ctx = Ctx::new(App::default());
        let other = ctx.clone();
        assert!(ptr::eq(
            ctx.run(double, 1).await.unwrap(),
            other.run(double, 1).await.unwrap()
        ));
        assert_eq!(ctx.state().runs.get(), 1);
    });
}

#[test]
fn other_input_other_task_other_context_run_on_their_own() {
    async fn twin_a(ctx: Ctx<App>, n: u64) -> Result<usize, TaskError> {
        Ok(ctx.state().runs.add() + n as usize)
    }
    async fn twin_b(ctx: Ctx<App>, n: u64) -> Result<usize, TaskError> {
        Ok(ctx.state().runs.add() + n as usize)
    }
    everywhere(|| async {
        let app = App::default();
        let (one, two) = (Ctx::new(app.clone()), Ctx::new(app.clone()));
        assert_eq!(*one.run(twin_a, 0).await.unwrap(), 1);
        assert_eq!(*one.run(twin_a, 10).await.unwrap(), 12);
        assert_eq!(*one.run(twin_b, 0).await.unwrap(), 3);
        assert_eq!(*two.run(twin_a, 0).await.unwrap(), 4);
        assert_eq!(*one.run(twin_a, 0).await.unwrap(), 1);
    });
}

#[test]
fn a_closure_without_captures_is_a_task() {
    everywhere(|| async {
        let ctx = Ctx::new(App::default());
        let task = |ctx: Ctx<App>, n: u32| async move {
            ctx.state().runs.add();
            Ok::<_, TaskError>(n + 1)
        };
        assert_eq!(*ctx.run(task, 1u32).await.unwrap(), 2);
        assert_eq!(*ctx.run(task, 1u32).await.unwrap(), 2);
        assert_eq!(ctx.state().runs.get(), 1);
    });
}

#[test]
fn inputs_whose_hashes_all_collide_are_told_apart() {
    #[derive(Clone, PartialEq, Eq)]
    struct Colliding(u64);
    impl Hash for Colliding {
        fn hash<H: Hasher>(&self, state: &mut H) {
            state.write_u64(0);
        }
    }
    async fn plain(ctx: Ctx<App>, key: Colliding) -> Result<u64, TaskError> {
        ctx.state().runs.add();
        Ok(key.0)
    }
    async fn negated(ctx: Ctx<App>, key: Colliding) -> Result<u64, TaskError> {
        ctx.state().runs.add();
        Ok(!key.0)
    }
    everywhere(|| async {
        let ctx = Ctx::new(App::default());
        for _ in 0..2 {
            for n in 0..300 {
                assert_eq!(*ctx.run(plain, Colliding(n)).await.unwrap(), n);
                assert_eq!(*ctx.run(negated, Colliding(n)).await.unwrap(), !n);
            }
        }
        assert_eq!(ctx.state().runs.get(), 600);
    });
}

#[test]
fn a_body_calls_tasks_by_its_own_handle() {
    async fn outer(ctx: Ctx<App>, n: u64) -> Result<u64, TaskError> {
        let (a, b) = futures::try_join!(ctx.run(double, n), ctx.run(double, n))?;
        Ok(a + b)
    }
    everywhere(|| async {
        let ctx = Ctx::new(App::default());
        assert_eq!(*ctx.run(outer, 5).await.unwrap(), 20);
        assert_eq!(*ctx.run(double, 5).await.unwrap(), 10);
        assert_eq!(ctx.state().runs.get(), 1);
    });
}

#[test]
fn a_failure_is_shared_and_kept_until_it_is_forgotten() {
    async fn once(ctx: Ctx<App>, n: u64) -> Result<u64, Refused> {
        let run = ctx.state().runs.add();
        ctx.state().gate.passed().await;
        if run == 1 { Err(Refused) } else { Ok(n) }
    }
    everywhere(|| async {
        let ctx = Ctx::new(App::default());
        let (mut a, mut b) = (ctx.run(once, 3), ctx.run(once, 3));
        assert!(poll_once(&mut a).is_pending());
        assert!(poll_once(&mut b).is_pending());
        ctx.state().gate.open();
        let (a, b) = futures::join!(a, b);
        let (a, b) = (a.unwrap_err(), b.unwrap_err());
        assert_eq!(
            (a.kind(), b.kind()),
            (TaskErrorKind::Failed, TaskErrorKind::Failed)
        );
        assert!(ptr::eq(
            a.downcast_ref::<Refused>().unwrap(),
            b.downcast_ref::<Refused>().unwrap()
        ));
        let kept = ctx.run(once, 3).await.unwrap_err();
        assert!(kept.downcast_ref::<Refused>().is_some());
        assert_eq!(ctx.state().runs.get(), 1);
        assert!(ctx.forget(once, &3));
        assert_eq!(*ctx.run(once, 3).await.unwrap(), 3);
        assert_eq!(ctx.state().runs.get(), 2);
    });
}

#[test]
fn a_failure_does_not_touch_other_inputs() {
    async fn odd_only(_: Ctx<App>, n: u64) -> Result<u64, Refused> {
        if n % 2 == 1 { Ok(n) } else { Err(Refused) }
    }
    everywhere(|| async {
        let ctx = Ctx::new(App::default());
        for n in 0..20 {
            assert_eq!(ctx.run(odd_only, n).await.is_ok(), n % 2 == 1);
        }
        assert!(!ctx.is_cancelled());
    });
}

async fn flaky(ctx: Ctx<App>, n: u64) -> Result<u64, Refused> {
    let run = ctx.state().runs.add();
    ctx.state().gate.passed().await;
    if run == 1 {
        Err(Refused).map_err(|e| ctx.transient(e))?;
    }
    Ok(n)
}

#[test]
fn a_transient_failure_is_shared_by_those_waiting_and_not_kept() {
    everywhere(|| async {
        let ctx = Ctx::new(App::default());
        let (mut a, mut b) = (ctx.run(flaky, 3), ctx.run(flaky, 3));
        assert!(poll_once(&mut a).is_pending());
        assert!(poll_once(&mut b).is_pending());
        ctx.state().gate.open();
        let a = a.await.unwrap_err();
        // `b` waited for the first run, so it shares that run's error whatever happens since.
        assert!(ctx.peek(flaky, &3).is_none());
        assert_eq!(*ctx.run(flaky, 3).await.unwrap(), 3);
        let b = b.await.unwrap_err();
        assert!(ptr::eq(
            a.downcast_ref::<Refused>().unwrap(),
            b.downcast_ref::<Refused>().unwrap()
        ));
        assert_eq!(*ctx.run(flaky, 3).await.unwrap(), 3);
        assert_eq!(ctx.state().runs.get(), 2);
    });
}

#[test]
fn a_transient_failure_that_is_passed_on_is_transient_for_the_parent_too() {
    async fn middle(ctx: Ctx<App>, n: u64) -> Result<u64, TaskError> {
        Ok(*ctx.run(flaky, n).await? + 1)
    }
    async fn top(ctx: Ctx<App>, n: u64) -> Result<u64, TaskError> {
        Ok(*ctx.run(middle, n).await? + 1)
    }
    everywhere(|| async {
        let ctx = Ctx::new(App::default());
        ctx.state().gate.open();
        let failed = ctx.run(top, 3).await.unwrap_err();
        assert!(failed.downcast_ref::<Refused>().is_some());
        assert!(ctx.peek(middle, &3).is_none());
        assert_eq!(*ctx.run(top, 3).await.unwrap(), 5);
        assert_eq!(ctx.state().runs.get(), 2);
    });
}

#[test]
fn a_mark_of_an_earlier_failure_does_not_make_a_value_go_away() {
    async fn recovers(ctx: Ctx<App>, n: u64) -> Result<u64, TaskError> {
        ctx.state().runs.add();
        let _ignored = ctx.transient(Refused);
        Ok(n)
    }
    everywhere(|| async {
        let ctx = Ctx::new(App::default());
        assert_eq!(*ctx.run(recovers, 1).await.unwrap(), 1);
        assert_eq!(*ctx.run(recovers, 1).await.unwrap(), 1);
        assert_eq!(ctx.state().runs.get(), 1);
    });
}

#[test]
fn run_fresh_runs_each_time_keeps_nothing_and_gives_the_value_owned() {
    struct NotClone(usize);
    async fn effect(ctx: Ctx<App>, _: u64) -> Result<NotClone, TaskError> {
        let run = ctx.state().runs.add();
        ctx.state().gate.passed().await;
        Ok(NotClone(run))
    }
    everywhere(|| async {
        let ctx = Ctx::new(App::default());
        ctx.state().gate.open();
        let first: NotClone = ctx.run_fresh(effect, 1).await.unwrap();
        let second: NotClone = ctx.run_fresh(effect, 1).await.unwrap();
        assert_eq!((first.0, second.0), (1, 2));
        assert!(ctx.peek(effect, &1).is_none());
        assert_eq!(ctx.run(effect, 1).await.unwrap().0, 3);
        // Nor does it take what is memoized.
        assert_eq!(ctx.run_fresh(effect, 1).await.unwrap().0, 4);
    });
}

#[test]
fn fresh_runs_do_not_share() {
    everywhere(|| async {
        let ctx = Ctx::new(App::default());
        let (mut a, mut b) = (ctx.run_fresh(gated, 1), ctx.run_fresh(gated, 1));
        assert!(poll_once(&mut a).is_pending());
        assert!(poll_once(&mut b).is_pending());
        ctx.state().gate.open();
        let (a, b) = futures::join!(a, b);
        assert_eq!((a.unwrap(), b.unwrap()), (1, 1));
        assert_eq!(ctx.state().runs.get(), 2);
    });
}

#[test]
fn a_fresh_run_that_fails_gives_its_error_and_keeps_none() {
    everywhere(|| async {
        let ctx = Ctx::new(App::default());
        for _ in 0..2 {
            let e = ctx.run_fresh(refused, 1).await.unwrap_err();
            assert_eq!(e.kind(), TaskErrorKind::Failed);
            assert!(e.downcast_ref::<Refused>().is_some());
        }
        assert!(ctx.peek(refused, &1).is_none());
        assert_eq!(ctx.state().runs.get(), 2);
    });
}

#[test]
fn strings_are_found_by_what_they_borrow() {
    async fn string(ctx: Ctx<App>, s: String) -> Result<usize, TaskError> {
        ctx.state().runs.add();
        Ok(s.len())
    }
    async fn shared(ctx: Ctx<App>, s: Arc<str>) -> Result<usize, TaskError> {
        ctx.state().runs.add();
        Ok(s.len())
    }
    async fn boxed(ctx: Ctx<App>, s: Box<str>) -> Result<usize, TaskError> {
        ctx.state().runs.add();
        Ok(s.len())
    }
    async fn cow(ctx: Ctx<App>, s: Cow<'static, str>) -> Result<usize, TaskError> {
        ctx.state().runs.add();
        Ok(s.len())
    }
    everywhere(|| async {
        let ctx = Ctx::new(App::default());
        let owned = String::from("main street");
        let arc: Arc<str> = Arc::from("main street");
        let a = ctx.run(string, "main street").await.unwrap();
        let b = ctx.run(string, &owned).await.unwrap();
        let c = ctx.run(string, owned.clone()).await.unwrap();
        assert!(ptr::eq(a, b) && ptr::eq(b, c));
        assert_eq!(ctx.state().runs.get(), 1);
        let a = ctx.run(shared, "main street").await.unwrap();
        let b = ctx.run(shared, &owned).await.unwrap();
        let c = ctx.run(shared, &arc).await.unwrap();
        let d = ctx.run(shared, arc).await.unwrap();
        assert!(ptr::eq(a, b) && ptr::eq(b, c) && ptr::eq(c, d));
        assert_eq!(ctx.state().runs.get(), 2);
        let a = ctx.run(boxed, "main street").await.unwrap();
        let b = ctx
            .run(boxed, Box::<str>::from("main street"))
            .await
            .unwrap();
        assert!(ptr::eq(a, b));
        let a = ctx.run(cow, "main street").await.unwrap();
        let b = ctx
            .run(cow, Cow::<'static, str>::Owned(owned))
            .await
            .unwrap();
        assert!(ptr::eq(a, b));
        assert_eq!(ctx.state().runs.get(), 4);
        assert_eq!(*ctx.run(string, "other").await.unwrap(), 5);
    });
}

#[test]
fn vectors_slices_and_paths_are_found_by_what_they_borrow() {
    async fn sum(ctx: Ctx<App>, v: Vec<u32>) -> Result<u32, TaskError> {
        ctx.state().runs.add();
        Ok(v.iter().sum())
    }
    async fn shared_sum(ctx: Ctx<App>, v: Arc<[u32]>) -> Result<u32, TaskError> {
        ctx.state().runs.add();
        Ok(v.iter().sum())
    }
    async fn parts(ctx: Ctx<App>, p: PathBuf) -> Result<usize, TaskError> {
        ctx.state().runs.add();
        Ok(p.components().count())
    }
    everywhere(|| async {
        let ctx = Ctx::new(App::default());
        let list = vec![1, 2, 3];
        let a = ctx.run(sum, &list[..]).await.unwrap();
        let b = ctx.run(sum, &[1, 2, 3]).await.unwrap();
        let c = ctx.run(sum, &list).await.unwrap();
        let d = ctx.run(sum, list).await.unwrap();
        assert!(ptr::eq(a, b) && ptr::eq(b, c) && ptr::eq(c, d));
        let a = ctx.run(shared_sum, &[1, 2, 3][..]).await.unwrap();
        let b = ctx
            .run(shared_sum, Arc::<[u32]>::from([1, 2, 3]))
            .await
            .unwrap();
        assert!(ptr::eq(a, b));
        let path = PathBuf::from("a/b/c");
        let a = ctx.run(parts, Path::new("a/b/c")).await.unwrap();
        let b = ctx.run(parts, &path).await.unwrap();
        let c = ctx.run(parts, path).await.unwrap();
        assert!(ptr::eq(a, b) && ptr::eq(b, c));
        assert_eq!(ctx.state().runs.get(), 3);
    });
}

/// R65: equal but distinct inputs hit.
#[test]
fn inputs_are_equal_by_value_not_by_address() {
    async fn shared(ctx: Ctx<App>, key: Arc<(u64, String)>) -> Result<u64, TaskError> {
        ctx.state().runs.add();
        Ok(key.0)
    }
    everywhere(|| async {
        let ctx = Ctx::new(App::default());
        let a = ctx.run(shared, Arc::new((1, "x".into()))).await.unwrap();
        let b = ctx.run(shared, Arc::new((1, "x".into()))).await.unwrap();
        assert!(ptr::eq(a, b));
        assert_eq!(ctx.state().runs.get(), 1);
    });
}

#[test]
fn many_keys_stay_distinct_while_the_table_grows() {
    everywhere(|| async {
        let ctx = Ctx::new(App::default());
        let early: Vec<&u64> = (0..100).map(|n| now(ctx.run(double, n)).unwrap()).collect();
        for n in 100..20_000 {
            assert_eq!(*ctx.run(double, n).await.unwrap(), n * 2);
        }
        for (n, early) in early.into_iter().enumerate() {
            assert!(ptr::eq(early, ctx.run(double, n as u64).await.unwrap()));
        }
        assert_eq!(ctx.state().runs.get(), 20_000);
    });
}

#[test]
fn eight_threads_asking_for_the_same_keys_run_each_once() {
    crate::support::watched("eight threads", || {
        for _ in 0..50 {
            let ctx = Ctx::new(App::default());
            std::thread::scope(|scope| {
                for thread in 0..8 {
                    let ctx = &ctx;
                    scope.spawn(move || {
                        for n in 0..64 {
                            let key = (n + thread * 8) % 64;
                            assert_eq!(*ctx.run(double, key).wait().unwrap(), key * 2);
                        }
                    });
                }
            });
            assert_eq!(ctx.state().runs.get(), 64);
        }
    });
}
