//! Callers that go, and callers that stay and are not polled.

use std::sync::Arc;
use std::task::Poll;

use futures::future::{join_all, try_join_all};
use watershed::{Ctx, TaskError};

use super::support::{
    CountingWaker, Gate, current_thread, multi_thread, poll_once, poll_with, until, watched,
};
use super::{App, ctx, gated, slowly, squares};

/// R06: the caller that opened a batch is dropped before it goes.
#[test]
fn a_dropped_opener_takes_nobody_along() {
    let ctx = ctx();
    let (woken, waker) = CountingWaker::pair();
    let mut opener = ctx.load(squares, 1);
    assert!(poll_once(&mut opener).is_pending());
    let mut other = ctx.load(squares, 2);
    assert!(poll_with(&mut other, &waker).is_pending());
    drop(opener);
    assert_eq!(woken.wakes(), 1, "it has asked for its own poll");
    assert!(poll_with(&mut other, &waker).is_ready());
    assert_eq!(
        ctx.state().asked(),
        [[2]],
        "the key that nobody wants is not asked for"
    );
}

/// R06: nothing is left behind that would keep a later batch from going.
#[test]
fn after_all_callers_left_the_next_call_goes() {
    let ctx = ctx();
    for _ in 0..3 {
        let mut gone = join_all([1, 2, 3].map(|k| ctx.load(squares, k)));
        assert!(poll_once(&mut gone).is_pending());
        drop(gone);
    }
    assert_eq!(ctx.state().asked(), [[0; 0]; 0]);
    assert_eq!(ctx.load(squares, 2).wait().unwrap(), Some(&4));
    assert_eq!(ctx.state().asked(), [[2]]);
}

#[test]
fn a_key_stays_asked_for_while_one_of_its_callers_is_left() {
    let ctx = ctx();
    let mut first = ctx.load(squares, 1);
    let mut second = ctx.load(squares, 1);
    assert!(poll_once(&mut first).is_pending());
    assert!(poll_once(&mut second).is_pending());
    drop(first);
    assert!(poll_once(&mut second).is_ready());
    assert_eq!(ctx.state().asked(), [[1]]);
}

/// R06: a caller dropped in flight neither stalls nor shrinks what the others wait for.
#[test]
fn a_caller_dropped_in_flight_shrinks_nothing() {
    let ctx = ctx();
    let mut driver = ctx.load(gated, 1);
    assert!(poll_once(&mut driver).is_pending());
    let (woken, waker) = CountingWaker::pair();
    let mut other = ctx.load(gated, 2);
    assert!(poll_with(&mut other, &waker).is_pending());
    assert!(poll_once(&mut driver).is_pending(), "it sends both");
    assert!(poll_with(&mut other, &waker).is_pending());
    let before = woken.wakes();
    drop(driver);
    assert_eq!(ctx.state().bodies.live(), 1, "the batch is still wanted");
    ctx.state().gate.open();
    assert!(woken.wakes() > before);
    assert!(poll_with(&mut other, &waker).is_ready());
    assert_eq!(ctx.state().asked(), [[1, 2]]);
    // It was fetched with the other, so it is kept, though nobody waits for it any more.
    assert_eq!(
        ctx.peek_loaded(gated, &1).unwrap().unwrap().unwrap().number,
        1
    );
}

/// A key in flight is joined, also when those who asked for it have left, and the batch goes on for others.
#[test]
fn a_key_in_flight_that_was_left_is_joined_again() {
    let ctx = ctx();
    let mut left = ctx.load(gated, 1);
    let mut other = ctx.load(gated, 2);
    assert!(poll_once(&mut left).is_pending());
    assert!(poll_once(&mut other).is_pending());
    assert!(poll_once(&mut other).is_pending(), "it sends both");
    drop(left);
    let (woken, waker) = CountingWaker::pair();
    let mut again = ctx.load(gated, 1);
    for _ in 0..3 {
        assert!(poll_with(&mut again, &waker).is_pending());
    }
    assert_eq!(ctx.state().asked(), [[1, 2]]);
    let before = woken.wakes();
    ctx.state().gate.open();
    assert!(woken.wakes() > before, "it is one of the batch's callers");
    let Poll::Ready(again) = poll_with(&mut again, &waker) else {
        panic!("it drives the batch")
    };
    assert_eq!(again.unwrap().unwrap().number, 1);
    assert!(poll_once(&mut other).is_ready());
    assert!(ctx.state().asked().is_empty());
}

/// It counts for the batch as it did before it left.
#[test]
fn who_comes_back_keeps_the_batch_and_takes_it_along() {
    let ctx = ctx();
    let mut both: Vec<_> = [1, 2].map(|k| ctx.load(gated, k)).into();
    for _ in 0..2 {
        both.iter_mut()
            .for_each(|one| assert!(poll_once(one).is_pending()));
    }
    drop(both.remove(0));
    let mut again = ctx.load(gated, 1);
    assert!(poll_once(&mut again).is_pending());
    drop(both);
    assert_eq!(ctx.state().bodies.live(), 1, "it is wanted");
    drop(again);
    assert_eq!(ctx.state().bodies.live(), 0);
    assert_eq!(ctx.state().asked(), [[1, 2]]);
}

/// Many times, so that what is remembered of left keys is swept; and the values come to those who come in the end.
#[test]
fn keys_that_are_left_and_asked_for_again_many_times_are_asked_for_once() {
    let ctx = ctx();
    let mut stays = ctx.load(gated, 1_000);
    let call = |k| {
        let mut call = ctx.load(gated, k);
        assert!(poll_once(&mut call).is_pending());
        call
    };
    let calls: Vec<_> = (0..200).map(call).collect();
    assert!(poll_once(&mut stays).is_pending());
    assert!(poll_once(&mut stays).is_pending());
    drop(calls);
    for _ in 0..3 {
        drop((0..200).map(call).collect::<Vec<_>>());
    }
    let last: Vec<_> = (0..200).map(call).collect();
    assert_eq!(ctx.state().asked().len(), 1);
    ctx.state().gate.open();
    assert!(poll_once(&mut stays).is_ready());
    for (mut call, k) in last.into_iter().zip(0..) {
        let Poll::Ready(value) = poll_once(&mut call) else {
            panic!("it is there")
        };
        assert_eq!(value.unwrap().unwrap().number, k);
    }
    assert!(ctx.state().asked().is_empty());
}

async fn fails(ctx: Ctx<App>, keys: Vec<u64>) -> Result<Vec<(u64, u64)>, String> {
    ctx.state().ask(&keys);
    ctx.state().gate.passed().await;
    Err("no".to_owned())
}

#[test]
fn who_comes_back_gets_the_failure_and_it_is_kept() {
    let ctx = ctx();
    let mut left = ctx.load(fails, 1);
    let mut other = ctx.load(fails, 2);
    assert!(poll_once(&mut left).is_pending());
    assert!(poll_once(&mut other).is_pending());
    assert!(poll_once(&mut other).is_pending());
    drop(left);
    let mut again = ctx.load(fails, 1);
    assert!(poll_once(&mut again).is_pending());
    ctx.state().gate.open();
    assert!(poll_once(&mut other).is_ready());
    assert!(matches!(poll_once(&mut again), Poll::Ready(Err(_))));
    assert!(ctx.load(fails, 1).wait().is_err());
    assert_eq!(ctx.state().asked(), [[1, 2]]);
}

#[test]
fn the_last_caller_takes_the_batch_along() {
    let ctx = ctx();
    let mut both = join_all([1, 2].map(|k| ctx.load(gated, k)));
    assert!(poll_once(&mut both).is_pending());
    assert!(poll_once(&mut both).is_pending());
    assert_eq!(ctx.state().bodies.live(), 1);
    drop(both);
    assert_eq!(ctx.state().bodies.live(), 0, "before the drop returns");
    ctx.state().gate.open();
    assert!(ctx.load(gated, 1).wait().unwrap().is_some());
    assert_eq!(ctx.state().asked(), [vec![1, 2], vec![1]]);
}

/// At every point: keys are dropped one after another, until one is left, which gets its value.
#[test]
fn leavers_at_every_point_leave_the_rest_its_values() {
    for polls in 1..4 {
        for left in 0..4 {
            let ctx = ctx();
            let mut calls: Vec<_> = (0..4).map(|k| ctx.load(gated, k)).collect();
            for _ in 0..polls {
                for call in &mut calls {
                    assert!(poll_once(call).is_pending());
                }
            }
            let mut rest = calls.split_off(left);
            drop(calls);
            ctx.state().gate.open();
            for (call, k) in rest.iter_mut().zip(left as u64..) {
                let value = loop {
                    if let Poll::Ready(value) = poll_once(call) {
                        break value;
                    }
                };
                assert_eq!(value.unwrap().unwrap().number, k);
            }
            let asked = ctx.state().asked();
            let expected = if polls == 1 { left as u64..4 } else { 0..4 };
            if left < 4 || polls > 1 {
                assert_eq!(asked, [Vec::from_iter(expected)], "{polls} {left}");
            }
        }
    }
}

/// A caller that is kept and not polled, before the batch goes, stalls nobody: neither in the same task ..
#[test]
fn a_kept_opener_stalls_nobody_in_its_task() {
    watched("a kept opener", || {
        futures::executor::block_on(async {
            let ctx = ctx();
            let mut kept = ctx.load(slowly, 1);
            assert!(futures::poll!(&mut kept).is_pending());
            assert_eq!(ctx.load(slowly, 2).await.unwrap(), Some(&3));
            assert_eq!(
                ctx.load(slowly, 1).await.unwrap(),
                Some(&2),
                "it went along"
            );
            assert_eq!(ctx.state().asked(), [[1, 2]]);
            assert!(futures::poll!(&mut kept).is_ready());
        });
    });
}

/// .. nor in others, nor when it is polled with a waker that leads nowhere.
#[test]
fn a_kept_opener_stalls_nobody_elsewhere() {
    for runtime in [current_thread, multi_thread] {
        watched("a kept opener", move || {
            runtime().block_on(async {
                let ctx = Arc::new(ctx());
                let mut kept = ctx.load(slowly, 1);
                assert!(poll_once(&mut kept).is_pending());
                let others = (1..20).map(|k| {
                    let ctx = ctx.clone();
                    tokio::spawn(async move { *ctx.load(slowly, k).await.unwrap().unwrap() })
                });
                for (other, k) in Vec::from_iter(others).into_iter().zip(1..) {
                    assert_eq!(other.await.unwrap(), k + 1);
                }
                drop(kept);
            });
        });
    }
}

/// In flight, the same: whoever is polled drives.
#[test]
fn a_kept_driver_stalls_nobody() {
    for runtime in [current_thread, multi_thread] {
        watched("a kept driver", move || {
            runtime().block_on(async {
                let ctx = Arc::new(ctx());
                let mut kept = ctx.load(gated, 1);
                assert!(poll_once(&mut kept).is_pending());
                assert!(poll_once(&mut kept).is_pending());
                assert_eq!(ctx.state().asked(), [[1]]);
                let other = tokio::spawn({
                    let ctx = ctx.clone();
                    async move { ctx.load(gated, 1).await.unwrap().unwrap().number }
                });
                tokio::task::yield_now().await;
                ctx.state().gate.open();
                assert_eq!(other.await.unwrap(), 1);
                drop(kept);
            });
        });
    }
}

/// A caller that is not polled after its batch was done is not waited for: the others' batches go.
#[test]
fn a_caller_that_does_not_take_its_value_stalls_no_later_batch() {
    let ctx = ctx();
    let mut both = [1, 2].map(|k| ctx.load(squares, k));
    for call in &mut both {
        assert!(poll_once(call).is_pending());
    }
    let [mut one, kept] = both;
    assert!(poll_once(&mut one).is_ready());
    // `kept` has its value and is not polled.
    let polls = |k| {
        let mut call = ctx.load(squares, k);
        (1..)
            .find(|_| poll_once(&mut call).is_ready())
            .expect("it is sent at last")
    };
    assert_eq!(polls(3), 2);
    drop(kept);
    assert_eq!(polls(4), 2);
}

/// Tasks that are aborted at random, on several threads, and never a lost key.
#[test]
fn aborted_callers_lose_nothing() {
    watched("aborted callers", || {
        multi_thread().block_on(async {
            for round in 0..200u64 {
                let ctx = Arc::new(ctx());
                let tasks: Vec<_> = (0..16)
                    .map(|n| {
                        let ctx = ctx.clone();
                        tokio::spawn(
                            async move { *ctx.load(slowly, n / 2).await.unwrap().unwrap() },
                        )
                    })
                    .collect();
                for (n, task) in tasks.iter().enumerate() {
                    if (round.wrapping_mul(0x9E37_79B9) >> (n % 13)) & 1 == 1 {
                        task.abort();
                    }
                }
                for (task, n) in tasks.into_iter().zip(0..) {
                    match task.await {
                        Ok(value) => assert_eq!(value, n / 2 + 1),
                        Err(error) => assert!(error.is_cancelled()),
                    }
                }
            }
        });
    });
}

async fn page(ctx: Ctx<App>, key: u64) -> Result<u64, TaskError> {
    Ok(ctx.load(gated, key).await?.unwrap().number)
}

#[test]
fn a_batch_that_only_bodies_want_goes_with_them() {
    let ctx = ctx();
    let mut pages = Box::pin(try_join_all((0..5).map(|k| ctx.run(page, k))));
    for _ in 0..3 {
        assert!(poll_once(&mut pages).is_pending());
    }
    assert_eq!(ctx.state().bodies.live(), 1);
    drop(pages);
    assert_eq!(ctx.state().bodies.live(), 0);
}

#[test]
fn a_batch_in_the_background_goes_and_ends() {
    watched("in the background", || {
        current_thread().block_on(async {
            let ctx = ctx();
            for k in 0..5 {
                ctx.spawn(page, k).unwrap();
            }
            until(|| ctx.state().bodies.made() > 0).await;
            assert_eq!(ctx.state().asked(), [[0, 1, 2, 3, 4]]);
            ctx.state().gate.open();
            until(|| ctx.peek(page, &4).is_some()).await;
        });
    });
}

/// The gate is opened on another thread while callers come and go.
#[test]
fn wakes_from_another_thread_reach_every_caller() {
    watched("wakes", || {
        for _ in 0..300 {
            let ctx = Arc::new(ctx());
            let gate: Gate = ctx.state().gate.clone();
            let callers: Vec<_> = (0..4)
                .map(|k| {
                    let ctx = ctx.clone();
                    std::thread::spawn(move || {
                        ctx.load(gated, k / 2).wait().unwrap().unwrap().number
                    })
                })
                .collect();
            std::thread::yield_now();
            gate.open();
            for (caller, k) in callers.into_iter().zip(0..) {
                assert_eq!(caller.join().unwrap(), k / 2);
            }
        }
    });
}
