//! Numbers and habits that are far out: a million keys, ten thousand waiters, inputs chosen to collide, bodies that never stop waking
//! themselves, wakers that outlive everything, clocks that jump.

use std::future::poll_fn;
use std::hash::{Hash, Hasher};
use std::sync::{Arc, Mutex};
use std::task::{Poll, Waker};

use watershed::{Ctx, TaskError};

use crate::SMALL_STACK;
use crate::support::{Count, CountingWaker, Drops, Token, now, poll_with, watched_on};

#[test]
fn a_million_keys_are_found_and_freed() {
    async fn next(ctx: Ctx<Drops>, n: u64) -> Result<(u64, Token), String> {
        Ok((n + 1, ctx.state().token()))
    }
    watched_on("a million keys", SMALL_STACK, || {
        let drops = Drops::default();
        let ctx = Ctx::new(drops.clone());
        for n in 0..1_000_000 {
            assert_eq!(now(ctx.run(next, n)).unwrap().0, n + 1);
        }
        for n in (0..1_000_000).step_by(97) {
            assert_eq!(now(ctx.run(next, n)).unwrap().0, n + 1);
        }
        assert_eq!((drops.made(), drops.dropped()), (1_000_000, 0));
        drop(ctx);
        assert_eq!(drops.live(), 0);
    });
}

#[test]
fn ten_thousand_waiters_of_one_run_are_all_woken() {
    #[derive(Clone, Default)]
    struct App {
        starts: Count,
        waker: Arc<Mutex<Option<Waker>>>,
        open: Count,
    }
    async fn gate(ctx: Ctx<App>, _: ()) -> Result<u64, String> {
        ctx.state().starts.add();
        poll_fn(|cx| {
            *ctx.state().waker.lock().unwrap() = Some(cx.waker().clone());
            if ctx.state().open.get() > 0 {
                Poll::Ready(())
            } else {
                Poll::Pending
            }
        })
        .await;
        Ok(7)
    }
    watched_on("ten thousand waiters", SMALL_STACK, || {
        let app = App::default();
        let ctx = Ctx::new(app.clone());
        let mut calls: Vec<_> = (0..10_000)
            .map(|_| (ctx.run(gate, ()), CountingWaker::pair()))
            .collect();
        for (call, (_, waker)) in &mut calls {
            assert!(poll_with(call, waker).is_pending());
        }
        app.open.add();
        let waker = app.waker.lock().unwrap().take().unwrap();
        waker.wake();
        for (at, (call, (wakes, waker))) in calls.iter_mut().enumerate() {
            assert!(wakes.wakes() > 0, "caller {at} sleeps on");
            let value = poll_with(call, waker);
            assert!(matches!(value, Poll::Ready(Ok(7))), "caller {at}");
        }
        assert_eq!(app.starts.get(), 1);
    });
}

#[test]
fn thousands_of_inputs_that_collide_are_told_apart_and_freed_by_a_loop() {
    #[derive(Clone, PartialEq, Eq)]
    struct Hostile(u64);
    impl Hash for Hostile {
        fn hash<H: Hasher>(&self, state: &mut H) {
            0_u64.hash(state);
        }
    }
    async fn own(ctx: Ctx<Drops>, n: Hostile) -> Result<(u64, Token), String> {
        Ok((n.0, ctx.state().token()))
    }
    // One path as long as there are keys; freeing it must not recurse, so the stack is small.
    watched_on("collisions", SMALL_STACK, || {
        let drops = Drops::default();
        let ctx = Ctx::new(drops.clone());
        for round in 0..2 {
            for n in 0..3_000 {
                assert_eq!(now(ctx.run(own, Hostile(n))).unwrap().0, n, "round {round}");
            }
        }
        assert_eq!(drops.made(), 3_000);
        drop(ctx);
        assert_eq!(drops.live(), 0);
    });
}

#[test]
fn a_body_that_always_wakes_itself_is_polled_once_a_turn() {
    async fn restless(ctx: Ctx<Count>, _: ()) -> Result<(), String> {
        poll_fn(|cx| {
            ctx.state().add();
            cx.waker().wake_by_ref();
            let owned = cx.waker().clone();
            owned.wake();
            Poll::<Result<(), String>>::Pending
        })
        .await
    }
    async fn outer(ctx: Ctx<Count>, _: ()) -> Result<(), TaskError> {
        ctx.run(restless, ()).await?;
        Ok(())
    }
    let polls = Count::default();
    let ctx = Ctx::new(polls.clone());
    let (wakes, waker) = CountingWaker::pair();
    let mut call = ctx.run(outer, ());
    for turn in 1..1_000 {
        let before = wakes.wakes();
        assert!(poll_with(&mut call, &waker).is_pending());
        assert_eq!(
            polls.get(),
            turn,
            "a turn is one poll, or others would starve"
        );
        assert!(wakes.wakes() > before, "it wants the next turn");
    }
}

#[test]
fn a_waker_that_is_kept_may_be_woken_when_everything_is_gone() {
    #[derive(Clone, Default)]
    struct Kept(Arc<Mutex<Vec<Waker>>>);
    async fn keeps(ctx: Ctx<Kept>, _: u64) -> Result<u64, String> {
        poll_fn(|cx| {
            let mut kept = ctx.state().0.lock().unwrap();
            kept.push(cx.waker().clone());
            if kept.len() > 3 {
                Poll::Ready(())
            } else {
                Poll::Pending
            }
        })
        .await;
        Ok(1)
    }
    let kept = Kept::default();
    let (wakes, waker) = CountingWaker::pair();
    {
        let ctx = Ctx::new(kept.clone());
        let mut call = ctx.run(keeps, 1);
        assert!(poll_with(&mut call, &waker).is_pending());
        drop(call);
        let mut call = ctx.run(keeps, 2);
        assert!(poll_with(&mut call, &waker).is_pending());
    }
    let before = wakes.wakes();
    for waker in kept.0.lock().unwrap().drain(..) {
        waker.wake_by_ref();
        let again = waker.clone();
        again.wake();
        waker.wake();
    }
    assert_eq!(wakes.wakes(), before, "nobody waits any more");
}

#[cfg(feature = "tokio")]
mod clocks {
    use std::time::Duration;

    use watershed::{Ctx, TaskErrorKind};

    async fn never(_: Ctx<()>, _: ()) -> Result<(), String> {
        std::future::pending().await
    }

    #[tokio::test(start_paused = true)]
    async fn a_clock_that_jumps_past_the_deadline_ends_the_wait() {
        let ctx = Ctx::builder(()).deadline(Duration::from_secs(60)).build();
        let mut call = ctx.run(never, ());
        assert!(crate::support::poll_once(&mut call).is_pending());
        tokio::time::advance(Duration::from_secs(10 * 365 * 86_400)).await;
        assert_eq!(
            call.await.unwrap_err().kind(),
            TaskErrorKind::DeadlineExceeded
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_jump_before_the_first_call_is_seen_by_it() {
        let ctx = Ctx::builder(()).deadline(Duration::from_secs(60)).build();
        tokio::time::advance(Duration::from_secs(61)).await;
        assert!(ctx.is_cancelled());
        let error = ctx.run(never, ()).await.unwrap_err();
        assert_eq!(error.kind(), TaskErrorKind::DeadlineExceeded);
    }

    #[tokio::test(start_paused = true)]
    async fn a_deadline_beyond_the_clock_is_none() {
        let ctx = Ctx::builder(()).deadline(Duration::MAX).build();
        let mut call = ctx.run(never, ());
        assert!(crate::support::poll_once(&mut call).is_pending());
        tokio::time::advance(Duration::from_secs(10 * 365 * 86_400)).await;
        assert!(crate::support::poll_once(&mut call).is_pending());
        assert!(!ctx.is_cancelled());
    }
}
