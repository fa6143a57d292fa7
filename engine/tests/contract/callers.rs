//! Who drives a run, who may leave it, and what is left when the last caller leaves.

use crate::support::{Count, CountingWaker, Drops, Gate, everywhere, poll_once, poll_with};
use crate::support::{watched, yields};
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use std::pin::pin;
use std::sync::Barrier;
use watershed::{Ctx, TaskError};

#[derive(Clone, Default)]
struct App {
    runs: Count,
    gate: Gate,
    bodies: Drops,
}

async fn gated(ctx: Ctx<App>, n: u64) -> Result<u64, TaskError> {
    let _body = ctx.state().bodies.token();
    ctx.state().runs.add();
    ctx.state().gate.passed().await;
    Ok(n)
}

async fn five_steps(ctx: Ctx<App>, n: u64) -> Result<u64, TaskError> {
    let _body = ctx.state().bodies.token();
    ctx.state().runs.add();
    yields(5).await;
    Ok(n)
}

#[test]
fn first_caller_dropped_leaves_the_run_where_it_is() {
    everywhere(|| async {
        let ctx = Ctx::new(App::default());
        let (mut first, mut waiter) = (ctx.run(gated, 1), ctx.run(gated, 1));
        assert!(poll_once(&mut first).is_pending());
        assert!(poll_once(&mut waiter).is_pending());
        drop(first);
        assert_eq!(ctx.state().bodies.live(), 1);
        ctx.state().gate.open();
        assert_eq!(*waiter.await.unwrap(), 1);
        assert_eq!(ctx.state().runs.get(), 1);
    });
}

#[test]
fn waiter_dropped_leaves_the_run_where_it_is() {
    everywhere(|| async {
        let ctx = Ctx::new(App::default());
        let (mut first, mut one, mut two) =
            (ctx.run(gated, 1), ctx.run(gated, 1), ctx.run(gated, 1));
        assert!(poll_once(&mut first).is_pending());
        assert!(poll_once(&mut one).is_pending());
        assert!(poll_once(&mut two).is_pending());
        drop(one);
        let mut three = ctx.run(gated, 1);
        assert!(poll_once(&mut three).is_pending());
        ctx.state().gate.open();
        assert_eq!(*two.await.unwrap(), 1);
        assert_eq!(*three.await.unwrap(), 1);
        assert_eq!(*first.await.unwrap(), 1);
        assert_eq!(ctx.state().runs.get(), 1);
    });
}

#[test]
fn driver_dropped_at_each_of_its_awaits_hands_over() {
    everywhere(|| async {
        for polls in 1..=5 {
            let ctx = Ctx::new(App::default());
            let (mut driver, mut waiter) = (ctx.run(five_steps, 1), ctx.run(five_steps, 1));
            assert!(poll_once(&mut driver).is_pending());
            let (wakes, waker) = CountingWaker::pair();
            assert!(poll_with(&mut waiter, &waker).is_pending());
            for _ in 1..polls {
                let _ = poll_once(&mut driver);
            }
            drop(driver);
            assert_eq!(*waiter.await.unwrap(), 1);
            assert!(wakes.wakes() > 0, "the body woke itself");
            assert_eq!(ctx.state().runs.get(), 1);
        }
    });
}

#[test]
fn a_driver_that_is_kept_and_not_polled_does_not_stop_others() {
    everywhere(|| async {
        let ctx = Ctx::new(App::default());
        let mut parked = ctx.run(five_steps, 1);
        assert!(poll_once(&mut parked).is_pending());
        assert_eq!(*ctx.run(five_steps, 1).await.unwrap(), 1);
        assert_eq!(*parked.await.unwrap(), 1);
        assert_eq!(ctx.state().runs.get(), 1);
    });
}

#[test]
fn waiters_that_are_kept_and_not_polled_do_not_stop_others() {
    everywhere(|| async {
        let ctx = Ctx::new(App::default());
        let mut parked: Vec<_> = (0..5).map(|_| ctx.run(gated, 1)).collect();
        for call in &mut parked {
            assert!(poll_once(call).is_pending());
        }
        let mut last = ctx.run(gated, 1);
        let (wakes, waker) = CountingWaker::pair();
        assert!(poll_with(&mut last, &waker).is_pending());
        ctx.state().gate.open();
        assert!(wakes.wakes() > 0, "everyone who is parked is woken");
        assert_eq!(*last.await.unwrap(), 1);
        drop(parked);
        assert_eq!(ctx.state().runs.get(), 1);
    });
}

/// R17: the loser of a `select!` is still in scope when the same task is asked again.
#[test]
fn a_call_parked_in_select_does_not_stop_the_next_one() {
    everywhere(|| async {
        let ctx = Ctx::new(App::default());
        let mut call = ctx.run(five_steps, 1);
        tokio::select! {
            biased;
            _ = &mut call => panic!("five steps in one poll"),
            () = yields(1) => {}
        }
        assert_eq!(*ctx.run(five_steps, 1).await.unwrap(), 1);
        assert_eq!(*call.await.unwrap(), 1);
        assert_eq!(ctx.state().runs.get(), 1);
    });
}

#[test]
fn calls_parked_in_a_set_do_not_stop_an_await_in_the_loop() {
    async fn quick(_: Ctx<App>, n: u64) -> Result<u64, TaskError> {
        Ok(n)
    }
    everywhere(|| async {
        let ctx = Ctx::new(App::default());
        let mut set = FuturesUnordered::new();
        set.push(ctx.run(five_steps, 1));
        set.push(ctx.run(quick, 2));
        set.push(ctx.run(five_steps, 3));
        let mut seen = 0;
        while let Some(value) = set.next().await {
            value.unwrap();
            seen += 1;
            assert_eq!(*ctx.run(five_steps, 3).await.unwrap(), 3);
            assert_eq!(*ctx.run(five_steps, 1).await.unwrap(), 1);
        }
        assert_eq!((seen, ctx.state().runs.get()), (3, 2));
    });
}

#[test]
fn calls_parked_in_buffer_unordered_do_not_stop_an_await_in_the_loop() {
    async fn on_top(ctx: Ctx<App>, n: u64) -> Result<u64, TaskError> {
        Ok(*ctx.run(five_steps, n).await? + 1)
    }
    everywhere(|| async {
        let ctx = Ctx::new(App::default());
        let calls = [ctx.run(five_steps, 1), ctx.run(gated, 2)];
        ctx.state().gate.open();
        let mut stream = pin!(futures::stream::iter(calls).buffer_unordered(2));
        while let Some(value) = stream.next().await {
            value.unwrap();
            assert_eq!(*ctx.run(on_top, 1).await.unwrap(), 2);
        }
        assert_eq!(ctx.state().runs.get(), 2);
    });
}

#[test]
fn last_caller_dropped_drops_the_body_at_once_and_stores_nothing() {
    everywhere(|| async {
        let ctx = Ctx::new(App::default());
        let (mut a, mut b) = (ctx.run(gated, 1), ctx.run(gated, 1));
        assert!(poll_once(&mut a).is_pending());
        assert!(poll_once(&mut b).is_pending());
        drop(a);
        assert_eq!(ctx.state().bodies.live(), 1);
        drop(b);
        assert_eq!(ctx.state().bodies.live(), 0);
        assert!(ctx.peek(gated, &1).is_none());
        ctx.state().gate.open();
        assert_eq!(*ctx.run(gated, 1).await.unwrap(), 1);
        assert_eq!(ctx.state().runs.get(), 2);
    });
}

#[test]
fn dropping_the_outer_call_drops_what_it_alone_waited_for() {
    async fn outer(ctx: Ctx<App>, n: u64) -> Result<u64, TaskError> {
        let _body = ctx.state().bodies.token();
        Ok(*ctx.run(gated, n).await? + 1)
    }
    everywhere(|| async {
        let ctx = Ctx::new(App::default());
        let mut outermost = ctx.run(outer, 1);
        assert!(poll_once(&mut outermost).is_pending());
        let mut inner = ctx.run(gated, 2);
        assert!(poll_once(&mut inner).is_pending());
        assert_eq!(ctx.state().bodies.live(), 3);
        drop(outermost);
        assert_eq!(ctx.state().bodies.live(), 1, "the inner run of 2 goes on");
        ctx.state().gate.open();
        assert_eq!(*inner.await.unwrap(), 2);
        assert_eq!(*ctx.run(outer, 1).await.unwrap(), 2);
    });
}

#[test]
fn a_call_that_was_never_polled_starts_nothing() {
    everywhere(|| async {
        let ctx = Ctx::new(App::default());
        drop(ctx.run(gated, 1));
        drop(ctx.run_fresh(gated, 1));
        assert_eq!(ctx.state().runs.get(), 0);
        assert!(ctx.peek(gated, &1).is_none());
    });
}

#[test]
fn callers_that_come_and_go_leave_the_run_alone() {
    everywhere(|| async {
        let ctx = Ctx::new(App::default());
        let mut first = ctx.run(gated, 1);
        assert!(poll_once(&mut first).is_pending());
        for _ in 0..100 {
            let mut other = ctx.run(gated, 1);
            assert!(poll_once(&mut other).is_pending());
        }
        ctx.state().gate.open();
        assert_eq!(*first.await.unwrap(), 1);
        assert_eq!((ctx.state().runs.get(), ctx.state().bodies.live()), (1, 0));
    });
}

#[test]
fn all_parked_callers_are_woken_by_one_wake() {
    everywhere(|| async {
        let ctx = Ctx::new(App::default());
        let mut calls: Vec<_> = (0..8).map(|_| ctx.run(gated, 1)).collect();
        let wakers: Vec<_> = (0..8).map(|_| CountingWaker::pair()).collect();
        for (call, (_, waker)) in calls.iter_mut().zip(&wakers) {
            assert!(poll_with(call, waker).is_pending());
        }
        ctx.state().gate.open();
        for (at, (counter, _)) in wakers.iter().enumerate() {
            assert!(counter.wakes() > 0, "caller {at} sleeps on");
        }
        for call in &mut calls {
            assert!(poll_once(call).is_ready());
        }
    });
}

#[test]
fn a_caller_that_changes_its_waker_is_woken_through_the_new_one() {
    everywhere(|| async {
        for as_waiter in [false, true] {
            let ctx = Ctx::new(App::default());
            let mut driver = ctx.run(gated, 1);
            if as_waiter {
                assert!(poll_once(&mut driver).is_pending());
            }
            let mut call = ctx.run(gated, 1);
            let (_, old_waker) = CountingWaker::pair();
            let (new, new_waker) = CountingWaker::pair();
            assert!(poll_with(&mut call, &old_waker).is_pending());
            assert!(poll_with(&mut call, &new_waker).is_pending());
            ctx.state().gate.open();
            assert!(new.wakes() > 0, "woken through the waker of the last poll");
        }
    });
}

/// The thread of the driver is inside the body's poll, where the barriers hold it.
#[test]
fn a_caller_that_comes_during_a_poll_waits_and_is_woken_by_its_end() {
    struct Held {
        inside: Barrier,
        go_on: Barrier,
        runs: Count,
    }
    async fn holds(ctx: Ctx<Held>, n: u64) -> Result<u64, TaskError> {
        ctx.state().runs.add();
        ctx.state().inside.wait();
        ctx.state().go_on.wait();
        Ok(n)
    }
    watched("during a poll", || {
        let ctx = Ctx::new(Held {
            inside: Barrier::new(2),
            go_on: Barrier::new(2),
            runs: Count::default(),
        });
        std::thread::scope(|scope| {
            let driver = scope.spawn(|| *ctx.run(holds, 1).wait().unwrap());
            ctx.state().inside.wait();
            let mut stays = ctx.run(holds, 1);
            let mut leaves = ctx.run(holds, 1);
            let (wakes, waker) = CountingWaker::pair();
            assert!(poll_with(&mut stays, &waker).is_pending());
            assert!(poll_once(&mut leaves).is_pending());
            drop(leaves);
            assert!(ctx.peek(holds, &1).is_none());
            assert_eq!(ctx.prime(holds, 1, 9), Err(9));
            ctx.state().go_on.wait();
            assert_eq!(driver.join().unwrap(), 1);
            assert!(wakes.wakes() > 0);
            assert_eq!(*stays.wait().unwrap(), 1);
        });
        assert_eq!(ctx.state().runs.get(), 1);
    });
}

/// Every body wakes itself from another thread while it is polled; no wake may be lost (R28).
#[test]
fn wakes_from_other_threads_during_the_poll_are_not_lost() {
    async fn woken_by_threads(_: Ctx<App>, n: u64) -> Result<u64, TaskError> {
        for _ in 0..3 {
            let (wake, woken) = futures::channel::oneshot::channel();
            std::thread::spawn(move || wake.send(()));
            woken.await.map_err(TaskError::new)?;
        }
        Ok(n)
    }
    watched("wakes from threads", || {
        for _ in 0..300 {
            let ctx = Ctx::new(App::default());
            std::thread::scope(|scope| {
                for _ in 0..4 {
                    scope.spawn(|| assert_eq!(*ctx.run(woken_by_threads, 1).wait().unwrap(), 1));
                }
            });
        }
    });
}
