//! How it ends: cancel, deadline, a linked token, the last handle; every value is dropped once.

use crate::support::{Count, CountingWaker, Drops, Gate, Token, everywhere, poll_once, poll_with};
use crate::support::{watched, yields};
use std::error::Error;
use std::fmt;
use std::sync::{Arc, Barrier, Mutex};
use watershed::{Ctx, TaskError, TaskErrorKind};

#[derive(Clone, Default)]
struct App {
    runs: Count,
    gate: Gate,
    bodies: Drops,
    values: Drops,
    handle: Arc<Mutex<Option<Ctx<App>>>>,
}

async fn gated(ctx: Ctx<App>, n: u64) -> Result<u64, TaskError> {
    let _body = ctx.state().bodies.token();
    ctx.state().runs.add();
    ctx.state().gate.passed().await;
    Ok(n)
}

async fn same(ctx: Ctx<App>, n: u64) -> Result<u64, TaskError> {
    ctx.state().runs.add();
    Ok(n)
}

async fn lends_its_handle(ctx: Ctx<App>, n: u64) -> Result<u64, TaskError> {
    *ctx.state().handle.lock().unwrap() = Some(ctx.clone());
    Ok(n)
}

// --- cancel ----------------------------------------------------------------------------------------

#[test]
fn cancel_ends_waiting_and_later_calls_and_a_hit_stays_a_hit() {
    everywhere(|| async {
        let ctx = Ctx::new(App::default());
        let hit = ctx.run(same, 1).await.unwrap();
        let (mut driver, mut waiter) = (ctx.run(gated, 1), ctx.run(gated, 1));
        let (driver_wakes, driver_waker) = CountingWaker::pair();
        let (waiter_wakes, waiter_waker) = CountingWaker::pair();
        assert!(poll_with(&mut driver, &driver_waker).is_pending());
        assert!(poll_with(&mut waiter, &waiter_waker).is_pending());
        assert!(!ctx.is_cancelled());
        ctx.cancel();
        assert!(ctx.is_cancelled());
        assert_eq!(ctx.state().bodies.live(), 0, "bodies go back at once");
        assert!(driver_wakes.wakes() > 0 && waiter_wakes.wakes() > 0);
        for call in [driver, waiter, ctx.run(gated, 1), ctx.run(same, 2)] {
            assert_eq!(call.await.unwrap_err().kind(), TaskErrorKind::Cancelled);
        }
        let fresh = ctx.run_fresh(same, 1).await.unwrap_err();
        assert_eq!(fresh.kind(), TaskErrorKind::Cancelled);
        assert!(std::ptr::eq(ctx.run(same, 1).await.unwrap(), hit));
        assert!(std::ptr::eq(ctx.peek(same, &1).unwrap().unwrap(), hit));
        assert!(ctx.peek(gated, &1).is_none());
        assert_eq!(ctx.state().runs.get(), 2);
    });
}

#[test]
fn a_call_made_before_cancel_and_polled_after_it_is_cancelled() {
    everywhere(|| async {
        let ctx = Ctx::new(App::default());
        let (call, fresh) = (ctx.run(same, 1), ctx.run_fresh(same, 1));
        ctx.cancel();
        assert_eq!(call.await.unwrap_err().kind(), TaskErrorKind::Cancelled);
        assert_eq!(fresh.await.unwrap_err().kind(), TaskErrorKind::Cancelled);
        assert_eq!(ctx.state().runs.get(), 0);
    });
}

#[test]
fn cancel_ends_a_fresh_run_under_way() {
    everywhere(|| async {
        let ctx = Ctx::new(App::default());
        let mut fresh = ctx.run_fresh(gated, 1);
        let (wakes, waker) = CountingWaker::pair();
        assert!(poll_with(&mut fresh, &waker).is_pending());
        ctx.cancel();
        assert!(wakes.wakes() > 0);
        assert_eq!(fresh.await.unwrap_err().kind(), TaskErrorKind::Cancelled);
        assert_eq!(ctx.state().bodies.live(), 0);
    });
}

#[test]
fn cancel_of_one_clone_is_cancel_of_all() {
    everywhere(|| async {
        let ctx = Ctx::new(App::default());
        let other = ctx.clone();
        let mut call = ctx.run(gated, 1);
        assert!(poll_once(&mut call).is_pending());
        other.cancel();
        other.cancel();
        assert!(ctx.is_cancelled());
        assert_eq!(call.await.unwrap_err().kind(), TaskErrorKind::Cancelled);
        drop(other);
        let mut late = ctx.run(gated, 2);
        assert!(poll_once(&mut late).is_ready());
    });
}

#[test]
fn cancelled_resolves_when_the_context_is_cancelled() {
    everywhere(|| async {
        let ctx = Ctx::new(App::default());
        let (mut one, mut two) = (ctx.cancelled(), ctx.cancelled());
        let (one_wakes, one_waker) = CountingWaker::pair();
        let (two_wakes, two_waker) = CountingWaker::pair();
        assert!(poll_with(&mut one, &one_waker).is_pending());
        assert!(poll_with(&mut two, &two_waker).is_pending());
        drop(one);
        ctx.cancel();
        assert_eq!(one_wakes.wakes(), 0);
        assert!(two_wakes.wakes() > 0);
        two.await;
        ctx.cancelled().await;
    });
}

#[test]
fn a_body_that_cancels_its_context_ends_when_its_poll_returns() {
    async fn cancels(ctx: Ctx<App>, then_parks: bool) -> Result<u64, TaskError> {
        let _body = ctx.state().bodies.token();
        ctx.cancel();
        if then_parks {
            ctx.state().gate.passed().await;
        }
        Ok(7)
    }
    everywhere(|| async {
        let ctx = Ctx::new(App::default());
        let parked = ctx.run(cancels, true).await.unwrap_err();
        assert_eq!(parked.kind(), TaskErrorKind::Cancelled);
        assert_eq!(ctx.state().bodies.live(), 0);
        // A value that is stored wins over the cancellation.
        let ctx = Ctx::new(App::default());
        assert_eq!(*ctx.run(cancels, false).await.unwrap(), 7);
        assert_eq!(*ctx.run(cancels, false).await.unwrap(), 7);
        assert!(ctx.is_cancelled());
    });
}

#[test]
fn cancel_reaches_the_innermost_run() {
    async fn outer(ctx: Ctx<App>, n: u64) -> Result<u64, TaskError> {
        let _body = ctx.state().bodies.token();
        Ok(*ctx.run(gated, n).await?)
    }
    everywhere(|| async {
        let ctx = Ctx::new(App::default());
        let mut call = ctx.run(outer, 1);
        assert!(poll_once(&mut call).is_pending());
        assert_eq!(ctx.state().bodies.live(), 2);
        ctx.cancel();
        assert_eq!(ctx.state().bodies.live(), 0);
        assert_eq!(call.await.unwrap_err().kind(), TaskErrorKind::Cancelled);
    });
}

/// The thread of the driver is inside the body's poll, where the barriers hold it.
#[test]
fn cancel_during_a_poll_lets_waiters_go_at_once_and_drops_the_body_when_the_poll_returns() {
    struct Held {
        inside: Barrier,
        go_on: Barrier,
        gate: Gate,
        bodies: Drops,
    }
    async fn holds(ctx: Ctx<Held>, then_parks: bool) -> Result<u64, TaskError> {
        let _body = ctx.state().bodies.token();
        ctx.state().inside.wait();
        ctx.state().go_on.wait();
        if then_parks {
            ctx.state().gate.passed().await;
        }
        Ok(7)
    }
    watched("cancel during a poll", || {
        for then_parks in [true, false] {
            let ctx = Ctx::new(Held {
                inside: Barrier::new(2),
                go_on: Barrier::new(2),
                gate: Gate::new(),
                bodies: Drops::default(),
            });
            std::thread::scope(|scope| {
                let driver = scope.spawn(|| ctx.run(holds, then_parks).wait().copied());
                ctx.state().inside.wait();
                let mut waiter = ctx.run(holds, then_parks);
                let (wakes, waker) = CountingWaker::pair();
                assert!(poll_with(&mut waiter, &waker).is_pending());
                ctx.cancel();
                assert!(wakes.wakes() > 0);
                let let_go = waiter.wait().unwrap_err();
                assert_eq!(let_go.kind(), TaskErrorKind::Cancelled);
                assert_eq!(ctx.state().bodies.live(), 1, "its poll is under way");
                ctx.state().go_on.wait();
                match driver.join().unwrap() {
                    Ok(value) => assert_eq!((value, then_parks), (7, false)),
                    Err(e) => assert_eq!((e.kind(), then_parks), (TaskErrorKind::Cancelled, true)),
                }
            });
            assert_eq!(ctx.state().bodies.live(), 0);
        }
    });
}

// --- the last handle -------------------------------------------------------------------------------

#[test]
fn last_user_handle_dropped_cancels_what_tasks_still_do_with_theirs() {
    everywhere(|| async {
        let app = App::default();
        let ctx = Ctx::new(app.clone());
        ctx.run(lends_its_handle, 1).await.unwrap();
        ctx.run(same, 1).await.unwrap();
        let of_body = app.handle.lock().unwrap().take().unwrap();
        let mut waiting = of_body.run(gated, 1);
        let (wakes, waker) = CountingWaker::pair();
        assert!(poll_with(&mut waiting, &waker).is_pending());
        let extra = ctx.clone();
        drop(ctx);
        assert_eq!((app.bodies.live(), wakes.wakes()), (1, 0));
        drop(extra);
        assert_eq!(app.bodies.live(), 0, "bodies are dropped at once");
        assert!(wakes.wakes() > 0);
        assert_eq!(waiting.await.unwrap_err().kind(), TaskErrorKind::Cancelled);
        let later = of_body.run(same, 2).await.unwrap_err();
        assert_eq!(later.kind(), TaskErrorKind::Cancelled);
        assert!(later.to_string().contains("context"), "{later}");
        assert!(of_body.is_cancelled());
        of_body.cancelled().await;
        // Values go with the last handle of any kind.
        assert_eq!(*of_body.run(same, 1).await.unwrap(), 1);
        assert_eq!(app.runs.get(), 2);
    });
}

#[test]
fn clones_of_a_bodys_handle_do_not_keep_the_context_open() {
    everywhere(|| async {
        let app = App::default();
        let ctx = Ctx::new(app.clone());
        ctx.run(lends_its_handle, 1).await.unwrap();
        let of_body = app.handle.lock().unwrap().take().unwrap();
        let clone = of_body.clone();
        assert_eq!(*clone.run(same, 1).await.unwrap(), 1);
        drop(ctx);
        let later = clone.run(same, 2).await.unwrap_err();
        assert_eq!(later.kind(), TaskErrorKind::Cancelled);
    });
}

#[cfg(feature = "tokio")]
mod on_a_runtime {
    use super::*;
    use crate::support::{both_runtimes, until};
    use std::time::Duration;
    use tokio::time::Instant;
    use tokio_util::sync::CancellationToken;
    use watershed::Task;

    #[test]
    fn last_user_handle_dropped_drops_parked_bodies() {
        async fn outer(ctx: Ctx<App>, n: u64) -> Result<u64, TaskError> {
            let _body = ctx.state().bodies.token();
            let _handle = ctx.clone();
            Ok(*ctx.run(gated, n).await?)
        }
        both_runtimes(|| async {
            let app = App::default();
            let ctx = Ctx::new(app.clone());
            for n in 0..10 {
                ctx.spawn(outer, n).unwrap();
            }
            until(|| app.runs.get() == 10).await;
            drop(ctx);
            until(|| app.bodies.live() == 0).await;
            assert_eq!(app.bodies.dropped(), 20);
            // Nobody but the test has the state.
            until(|| Arc::strong_count(&app.handle) == 1).await;
        });
    }

    /// R68, R72: what a body left on the runtime is told that its context is gone.
    #[test]
    fn what_a_body_left_on_the_runtime_gets_cancelled() {
        async fn leaves_work(ctx: Ctx<App>, n: u64) -> Result<u64, TaskError> {
            let mine = ctx.clone();
            tokio::spawn(async move {
                let ended = mine.run(gated, n).await.unwrap_err();
                assert_eq!(ended.kind(), TaskErrorKind::Cancelled);
                let later = mine.run(same, n).await.unwrap_err();
                assert_eq!(later.kind(), TaskErrorKind::Cancelled);
                let refused = mine.spawn(same, n).unwrap_err();
                assert_eq!(refused.kind(), TaskErrorKind::Cancelled);
                mine.state().values.token();
            });
            Ok(n)
        }
        both_runtimes(|| async {
            let app = App::default();
            let ctx = Ctx::new(app.clone());
            ctx.run(leaves_work, 1).await.unwrap();
            until(|| app.bodies.made() == 1).await;
            drop(ctx);
            until(|| app.values.made() == 1).await;
            assert_eq!(app.bodies.live(), 0);
            until(|| Arc::strong_count(&app.handle) == 1).await;
        });
    }

    #[test]
    fn a_body_that_drops_the_last_user_handle_is_dropped_when_its_poll_returns() {
        async fn drops_it(ctx: Ctx<App>, then_parks: bool) -> Result<u64, TaskError> {
            let _body = ctx.state().bodies.token();
            until(|| ctx.state().handle.lock().unwrap().is_some()).await;
            let last = ctx.state().handle.lock().unwrap().take();
            drop(last);
            ctx.state().runs.add();
            assert!(ctx.is_cancelled());
            if then_parks {
                ctx.state().gate.passed().await;
            }
            Ok(7)
        }
        both_runtimes(|| async {
            for then_parks in [true, false] {
                let app = App::default();
                let ctx = Ctx::new(app.clone());
                ctx.spawn(drops_it, then_parks).unwrap();
                *app.handle.lock().unwrap() = Some(ctx);
                until(|| app.runs.get() == 1).await;
                until(|| app.bodies.live() == 0).await;
                until(|| Arc::strong_count(&app.handle) == 1).await;
            }
        });
    }

    /// Bodies are under poll, parked, finished and not started yet when the context goes.
    #[test]
    fn closing_under_load_leaves_nothing() {
        async fn leaf(ctx: Ctx<App>, n: u64) -> Result<Token, TaskError> {
            let _body = ctx.state().bodies.token();
            yields(n as usize % 5).await;
            Ok(ctx.state().values.token())
        }
        async fn busy(ctx: Ctx<App>, n: u64) -> Result<Token, TaskError> {
            let _body = ctx.state().bodies.token();
            let calls = (0..6).map(|at| leaf.with((n + at) % 16));
            ctx.parallel_all(calls, 3).await?;
            futures::try_join!(ctx.run(leaf, n), ctx.run(leaf, n + 1))?;
            ctx.spawn(leaf, n + 100)?;
            Ok(ctx.state().values.token())
        }
        both_runtimes(|| async {
            for round in 0..100 {
                let app = App::default();
                let ctx = Ctx::new(app.clone());
                for n in 0..16 {
                    ctx.spawn(busy, n).unwrap();
                }
                yields(round % 7).await;
                for _ in 0..round {
                    tokio::task::yield_now().await;
                }
                if round % 3 == 0 {
                    ctx.cancel();
                }
                drop(ctx);
                until(|| Arc::strong_count(&app.handle) == 1).await;
                assert_eq!((app.bodies.live(), app.values.live()), (0, 0));
            }
        });
    }

    #[test]
    fn cancel_ends_groups_and_refuses_new_ones() {
        both_runtimes(|| async {
            let ctx = Ctx::new(App::default());
            let mut group = ctx.parallel((gated.with(1), gated.with(2)));
            assert!(poll_once(&mut group).is_pending());
            until(|| ctx.state().runs.get() == 2).await;
            let mut all = ctx.parallel_all((3..6).map(|n| gated.with(n)), 2);
            assert!(poll_once(&mut all).is_pending());
            ctx.cancel();
            assert_eq!(group.await.unwrap_err().kind(), TaskErrorKind::Cancelled);
            assert_eq!(all.await.unwrap_err().kind(), TaskErrorKind::Cancelled);
            until(|| ctx.state().bodies.live() == 0).await;
            let later = ctx.parallel((same.with(1), same.with(2))).await;
            assert_eq!(later.unwrap_err().kind(), TaskErrorKind::Cancelled);
            let list = ctx.run_all([same.with(1).boxed()]).await;
            assert_eq!(list.unwrap_err().kind(), TaskErrorKind::Cancelled);
            let spawned = ctx.spawn(same, 1).unwrap_err();
            assert_eq!(spawned.kind(), TaskErrorKind::Cancelled);
            assert_eq!(ctx.state().runs.get(), ctx.state().bodies.made());
        });
    }

    #[tokio::test(start_paused = true)]
    async fn at_the_deadline_waiting_and_later_calls_end_and_hits_stay() {
        let start = Instant::now();
        let ctx = Ctx::builder(App::default())
            .deadline(Duration::from_secs(5))
            .build();
        let hit = ctx.run(same, 1).await.unwrap();
        let (a, b, fresh) = futures::join!(
            ctx.run(gated, 1),
            ctx.run(gated, 1),
            ctx.run_fresh(gated, 2)
        );
        for ended in [a.map(drop), b.map(drop), fresh.map(drop)] {
            assert_eq!(ended.unwrap_err().kind(), TaskErrorKind::DeadlineExceeded);
        }
        let took = start.elapsed();
        assert!(
            took >= Duration::from_secs(5) && took < Duration::from_millis(5_100),
            "{took:?}"
        );
        assert_eq!(ctx.state().bodies.live(), 0);
        let later = ctx.run(same, 2).await.unwrap_err();
        assert_eq!(later.kind(), TaskErrorKind::DeadlineExceeded);
        assert!(std::ptr::eq(ctx.run(same, 1).await.unwrap(), hit));
        assert!(ctx.is_cancelled());
        ctx.cancelled().await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_run_that_ends_before_the_deadline_is_not_touched_by_it() {
        async fn slow(_: Ctx<App>, millis: u64) -> Result<u64, TaskError> {
            tokio::time::sleep(Duration::from_millis(millis)).await;
            Ok(millis)
        }
        let ctx = Ctx::builder(App::default())
            .deadline(Duration::from_millis(500))
            .build();
        assert_eq!(*ctx.run(slow, 100).await.unwrap(), 100);
        let late = ctx.run(slow, 1_000).await.unwrap_err();
        assert_eq!(late.kind(), TaskErrorKind::DeadlineExceeded);
    }

    #[tokio::test(start_paused = true)]
    async fn a_spawned_run_ends_at_the_deadline() {
        let ctx = Ctx::builder(App::default())
            .deadline(Duration::from_secs(1))
            .build();
        ctx.spawn(gated, 1).unwrap();
        until(|| ctx.state().runs.get() == 1).await;
        tokio::time::sleep(Duration::from_secs(2)).await;
        assert_eq!(ctx.state().bodies.live(), 0);
        let late = ctx.run(gated, 1).await.unwrap_err();
        assert_eq!(late.kind(), TaskErrorKind::DeadlineExceeded);
    }

    #[tokio::test(start_paused = true)]
    async fn a_callers_own_timeout_leaves_earlier_and_disturbs_nobody() {
        let ctx = Ctx::builder(App::default())
            .deadline(Duration::from_secs(5))
            .build();
        let mut patient = ctx.run(gated, 1);
        assert!(poll_once(&mut patient).is_pending());
        let left = tokio::time::timeout(Duration::from_secs(1), ctx.run(gated, 1)).await;
        assert!(left.is_err());
        ctx.state().gate.open();
        assert_eq!(*patient.await.unwrap(), 1);
        assert_eq!(ctx.state().runs.get(), 1);
    }

    #[test]
    fn a_deadline_ends_calls_on_both_runtimes() {
        both_runtimes(|| async {
            let ctx = Ctx::builder(App::default())
                .deadline(Duration::from_millis(20))
                .build();
            let ended = ctx.run(gated, 1).await.unwrap_err();
            assert_eq!(ended.kind(), TaskErrorKind::DeadlineExceeded);
        });
    }

    #[test]
    fn a_deadline_of_zero_ends_the_first_call_that_waits() {
        both_runtimes(|| async {
            let ctx = Ctx::builder(App::default())
                .deadline(Duration::ZERO)
                .build();
            let ended = ctx.run(gated, 1).await.unwrap_err();
            assert_eq!(ended.kind(), TaskErrorKind::DeadlineExceeded);
        });
    }

    #[test]
    fn cancel_before_the_deadline_is_cancelled_and_stays_so() {
        both_runtimes(|| async {
            let ctx = Ctx::builder(App::default())
                .deadline(Duration::from_secs(3_600))
                .build();
            let mut call = ctx.run(gated, 1);
            assert!(poll_once(&mut call).is_pending());
            ctx.cancel();
            assert_eq!(call.await.unwrap_err().kind(), TaskErrorKind::Cancelled);
        });
    }

    #[test]
    fn a_linked_token_cancels_the_context() {
        both_runtimes(|| async {
            let token = CancellationToken::new();
            let ctx = Ctx::builder(App::default())
                .cancellation(token.clone())
                .build();
            ctx.run(same, 1).await.unwrap();
            let mut call = ctx.run(gated, 1);
            assert!(poll_once(&mut call).is_pending());
            ctx.spawn(gated, 2).unwrap();
            until(|| ctx.state().bodies.live() == 2).await;
            token.cancel();
            assert_eq!(call.await.unwrap_err().kind(), TaskErrorKind::Cancelled);
            until(|| ctx.state().bodies.live() == 0).await;
            let later = ctx.run(same, 2).await.unwrap_err();
            assert_eq!(later.kind(), TaskErrorKind::Cancelled);
            ctx.cancelled().await;
            assert!(ctx.is_cancelled());
            assert_eq!(*ctx.run(same, 1).await.unwrap(), 1);
        });
    }

    #[test]
    fn a_token_cancelled_before_cancels_the_first_call() {
        both_runtimes(|| async {
            let token = CancellationToken::new();
            token.cancel();
            let ctx = Ctx::builder(App::default()).cancellation(token).build();
            let refused = ctx.run(gated, 1).await.unwrap_err();
            assert_eq!(refused.kind(), TaskErrorKind::Cancelled);
        });
    }

    #[test]
    fn cancel_and_close_leave_the_linked_token_alone() {
        both_runtimes(|| async {
            let token = CancellationToken::new();
            for cancel in [true, false] {
                let ctx = Ctx::builder(App::default())
                    .cancellation(token.clone())
                    .build();
                ctx.run(same, 1).await.unwrap();
                if cancel {
                    ctx.cancel();
                }
                drop(ctx);
                assert!(!token.is_cancelled());
            }
        });
    }

    #[test]
    fn a_context_with_a_token_or_a_deadline_is_freed_with_its_last_handle() {
        both_runtimes(|| async {
            let app = App::default();
            let token = CancellationToken::new();
            let ctx = Ctx::builder(app.clone())
                .cancellation(token.clone())
                .deadline(Duration::from_secs(3_600))
                .build();
            let mut call = ctx.run(gated, 1);
            assert!(poll_once(&mut call).is_pending());
            drop(call);
            drop(ctx);
            until(|| Arc::strong_count(&app.handle) == 1).await;
            assert_eq!(app.bodies.live(), 0);
        });
    }
}

// --- drops -----------------------------------------------------------------------------------------

#[derive(Debug)]
struct Marked {
    _token: Token,
}

impl fmt::Display for Marked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("marked")
    }
}

impl Error for Marked {}

async fn marked(ctx: Ctx<App>, n: u64) -> Result<Token, Marked> {
    let _body = ctx.state().bodies.token();
    yields(n as usize % 3).await;
    let token = ctx.state().values.token();
    match n % 4 {
        0 => Err(Marked { _token: token }),
        1 => Err(ctx.transient(Marked { _token: token })),
        _ => Ok(token),
    }
}

#[test]
fn each_value_and_error_is_dropped_once_with_its_context() {
    everywhere(|| async {
        let app = App::default();
        let ctx = Ctx::new(app.clone());
        for n in 0..40 {
            let _ = ctx.run(marked, n).await;
        }
        assert!(ctx.forget(marked, &2) && ctx.forget(marked, &0));
        let _ = ctx.run(marked, 2).await;
        ctx.prime(marked, 100, app.values.token()).unwrap();
        drop(ctx.prime(marked, 100, app.values.token()).unwrap_err());
        drop(ctx.run_fresh(marked, 3).await.unwrap());
        let kept = ctx.run(marked, 4).await.unwrap_err();
        let mut left = ctx.run(marked, 200 + 5);
        let _ = poll_once(&mut left);
        drop(left);
        let _ = ctx.run(marked, 1).await;
        assert!(app.values.live() > 0);
        drop(ctx);
        assert_eq!(app.values.live(), 1, "the error that the test holds");
        drop(kept);
        assert_eq!((app.values.live(), app.bodies.live()), (0, 0));
        assert_eq!(Arc::strong_count(&app.handle), 1, "the state is dropped");
    });
}

#[test]
fn a_value_is_dropped_once_when_threads_drop_the_handles() {
    watched("handles dropped by threads", || {
        for _ in 0..200 {
            let app = App::default();
            let ctx = Ctx::new(app.clone());
            let threads: Vec<_> = (0..4)
                .map(|_| {
                    let ctx = ctx.clone();
                    std::thread::spawn(move || {
                        for n in 0..8 {
                            let _ = ctx.run(marked, n).wait();
                        }
                    })
                })
                .collect();
            drop(ctx);
            for thread in threads {
                thread.join().unwrap();
            }
            assert_eq!((app.values.live(), app.bodies.live()), (0, 0));
            assert_eq!(Arc::strong_count(&app.handle), 1);
        }
    });
}

#[test]
fn cancel_against_publish_gives_the_value_or_cancelled_and_leaks_neither() {
    watched("cancel against publish", || {
        for _ in 0..500 {
            let app = App::default();
            let ctx = Ctx::new(app.clone());
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    let ended = ctx.run(marked, 2).wait();
                    if let Err(e) = &ended {
                        assert_eq!(e.kind(), TaskErrorKind::Cancelled);
                        assert!(ctx.peek(marked, &2).is_none());
                    }
                });
                scope.spawn(|| ctx.cancel());
            });
            drop(ctx);
            assert_eq!((app.values.live(), app.bodies.live()), (0, 0));
        }
    });
}
