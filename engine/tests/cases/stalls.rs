//! Callers that are alive but not polled, wakes that get lost, locks and budgets that stop everybody: nobody may hang.

use std::collections::HashSet;
use std::future::poll_fn;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::task::{Poll, Waker};
use std::thread;

use futures::future::{BoxFuture, join_all};
use futures::stream::{self, FuturesUnordered, StreamExt};
use tokio::sync::{Mutex, Semaphore};
use tokio::time::{Instant, sleep, timeout};
use watershed::{Ctx, Task, TaskError, TaskErrorKind};

use crate::helpers::{
    CountingWaker, P, Probe, assert_took, at_once, current_thread, gated, ms, multi_thread, never,
    poll_once, poll_with, yields,
};

/// Takes six polls by whoever comes.
async fn in_steps(ctx: Ctx<P>, n: u64) -> Result<u64, TaskError> {
    let _body = ctx.state().enter();
    yields(5).await;
    Ok(n * 10)
}

/// Waits at the gate, then takes steps.
async fn gated_steps(ctx: Ctx<P>, n: u64) -> Result<u64, TaskError> {
    let _body = ctx.state().enter();
    ctx.state().gate.passed().await;
    yields(3).await;
    Ok(n * 10)
}

/// One more than `gated_steps` of the same input.
async fn above(ctx: Ctx<P>, n: u64) -> Result<u64, TaskError> {
    let _body = ctx.state().enter();
    Ok(*ctx.run(gated_steps, n).await? + 1)
}

on_both_runtimes! {
    /// R02
    async fn a_first_caller_polled_once_and_kept_stalls_nobody() {
        let probe = Probe::new();
        let ctx = Ctx::new(probe.clone());
        let mut kept = ctx.run(in_steps, 1);
        assert!(poll_once(&mut kept).is_pending());
        let began = Instant::now();
        let value = timeout(ms(400), ctx.run(in_steps, 1)).await.expect("in time");
        assert_eq!(value.unwrap(), &10);
        assert_took(began.elapsed(), ms(0));
        assert_eq!(probe.starts(), 1);
        assert_eq!(kept.await.unwrap(), &10);
    }

    /// R02: the kept one is parked, and the event comes while a second is parked behind it.
    async fn a_wake_reaches_the_waiter_behind_a_kept_driver() {
        let probe = Probe::new();
        let ctx = Ctx::new(probe.clone());
        let mut kept = ctx.run(gated_steps, 1);
        assert!(poll_once(&mut kept).is_pending());
        let waiter = caller!(ctx, gated_steps, 1);
        let (wakes, waker) = CountingWaker::pair();
        let mut other = ctx.run(gated_steps, 1);
        assert!(poll_with(&mut other, &waker).is_pending());
        assert_eq!(wakes.wakes(), 0);
        probe.gate.open();
        assert_eq!(waiter.await.unwrap().unwrap(), 10);
        assert!(wakes.wakes() > 0, "the kept waiter heard of it too");
        assert_eq!(other.await.unwrap(), &10);
        assert_eq!(probe.starts(), 1);
        drop(kept);
    }

    /// R02: every caller but the last is polled once and kept.
    async fn twenty_kept_callers_stall_nobody() {
        let probe = Probe::new();
        let ctx = Ctx::new(probe.clone());
        let mut kept = (0..20).map(|_| ctx.run(gated_steps, 1)).collect::<Vec<_>>();
        for call in &mut kept {
            assert!(poll_once(call).is_pending());
        }
        let (value, ()) = tokio::join!(ctx.run(gated_steps, 1), async { probe.gate.open() });
        assert_eq!(value.unwrap(), &10);
        assert_eq!(probe.starts(), 1);
    }

    /// R02: callers whose deadlines are shorter than the load still fill the slot while one is kept.
    async fn short_deadlines_and_a_kept_caller_fill_the_slot() {
        async fn load(ctx: Ctx<P>, n: u64) -> Result<u64, TaskError> {
            let _body = ctx.state().enter();
            sleep(ms(100)).await;
            Ok(n * 10)
        }
        let probe = Probe::new();
        let ctx = Ctx::new(probe.clone());
        let mut kept = ctx.run(load, 1);
        assert!(poll_once(&mut kept).is_pending());
        let mut attempts = 0;
        let value = loop {
            attempts += 1;
            if let Ok(value) = timeout(ms(20), ctx.run(load, 1)).await {
                break value.unwrap();
            }
            assert!(attempts < 100, "never filled");
        };
        assert_eq!((*value, probe.starts()), (10, 1));
    }

    /// R02: one level up. The body of a kept caller is itself a caller that nobody polls.
    async fn a_kept_callers_dependency_is_driven_by_others() {
        let probe = Probe::new();
        let ctx = Ctx::new(probe.clone());
        let mut kept = ctx.run(above, 1);
        assert!(poll_once(&mut kept).is_pending());
        probe.gate.open();
        assert_eq!(ctx.run(gated_steps, 1).await.unwrap(), &10);
        assert_eq!(ctx.run(above, 1).await.unwrap(), &11);
        assert_eq!(probe.starts(), 2);
    }

    /// R16
    async fn a_body_that_never_ends_ends_for_every_caller_at_the_deadline() {
        let probe = Probe::new();
        let began = Instant::now();
        let ctx = Ctx::builder(probe.clone()).deadline(ms(200)).build();
        let calls = (0..10).map(|_| caller!(ctx, never, 1)).collect::<Vec<_>>();
        probe.until_started(1).await;
        // One with a limit of its own leaves earlier and disturbs nobody.
        assert!(timeout(ms(5), ctx.run(never, 1)).await.is_err());
        assert_eq!(probe.live(), 1);
        for call in calls {
            assert_eq!(call.await.unwrap().unwrap_err().kind(), TaskErrorKind::DeadlineExceeded);
        }
        assert_took(began.elapsed(), ms(200));
        probe.until_all_gone().await;
        assert_eq!(probe.starts(), 1);
        let late = ctx.run(never, 1).await.unwrap_err();
        assert_eq!(late.kind(), TaskErrorKind::DeadlineExceeded);
        assert_eq!(probe.starts(), 1, "nothing starts after the deadline");
    }

    /// R16: the callers of a caller, and a value that was there before.
    async fn the_deadline_ends_a_whole_chain_and_spares_what_is_stored() {
        async fn waits(ctx: Ctx<P>, n: u64) -> Result<u64, TaskError> {
            let _body = ctx.state().enter();
            Ok(*ctx.run(never, n).await? + 1)
        }
        let probe = Probe::new();
        let ctx = Ctx::builder(probe.clone()).deadline(ms(200)).build();
        assert_eq!(ctx.run(at_once, 1).await.unwrap(), &10);
        let (outer, inner) = tokio::join!(ctx.run(waits, 1), ctx.run(never, 1));
        assert_eq!(outer.unwrap_err().kind(), TaskErrorKind::DeadlineExceeded);
        assert_eq!(inner.unwrap_err().kind(), TaskErrorKind::DeadlineExceeded);
        probe.until_all_gone().await;
        assert_eq!(ctx.run(at_once, 1).await.unwrap(), &10, "a hit stays a hit");
        assert_eq!(probe.starts(), 3);
    }

    /// R16: nobody polls when the deadline passes; the first who does is told, and does not wait.
    async fn a_caller_that_slept_through_the_deadline_is_told_at_once() {
        let probe = Probe::new();
        let ctx = Ctx::builder(probe.clone()).deadline(ms(20)).build();
        let mut kept = ctx.run(never, 1);
        assert!(poll_once(&mut kept).is_pending());
        sleep(ms(40)).await;
        let began = Instant::now();
        assert_eq!(kept.await.unwrap_err().kind(), TaskErrorKind::DeadlineExceeded);
        assert_took(began.elapsed(), ms(0));
        probe.until_all_gone().await;
        assert_eq!(probe.starts(), 1);
    }

    /// R17
    async fn a_call_left_in_a_select_does_not_block_the_next_call() {
        let probe = Probe::new();
        let ctx = Ctx::new(probe.clone());
        let mut first = ctx.run(gated_steps, 1);
        tokio::select! {
            biased;
            _ = &mut first => panic!("the gate is shut"),
            () = sleep(ms(10)) => {}
        }
        probe.gate.open();
        assert_eq!(ctx.run(gated_steps, 1).await.unwrap(), &10);
        assert_eq!(first.await.unwrap(), &10);
        assert_eq!(probe.starts(), 1);
    }

    /// R17: the second call comes from inside another task.
    async fn a_call_left_in_a_select_does_not_block_a_task_that_needs_it() {
        let probe = Probe::new();
        let ctx = Ctx::new(probe.clone());
        let mut first = ctx.run(gated_steps, 1);
        tokio::select! {
            biased;
            _ = &mut first => panic!("the gate is shut"),
            () = std::future::ready(()) => {}
        }
        probe.gate.open();
        assert_eq!(ctx.run(above, 1).await.unwrap(), &11);
        assert_eq!(probe.starts(), 2);
        drop(first);
    }

    /// R17
    async fn awaiting_in_the_loop_over_futures_unordered_does_not_block() {
        let probe = Probe::new();
        let ctx = Ctx::new(probe.clone());
        let mut calls = (1..=3).map(|n| ctx.run(in_steps, n)).collect::<FuturesUnordered<_>>();
        let mut seen = HashSet::new();
        while let Some(value) = calls.next().await {
            seen.insert(*value.unwrap());
            for n in 1..=3 {
                assert_eq!(ctx.run(in_steps, n).await.unwrap(), &(n * 10));
            }
        }
        assert_eq!(seen, HashSet::from([10, 20, 30]));
        assert_eq!(probe.starts(), 3);
    }

    /// R17: what the parked body owns is a lock, and the run was spawned, so it goes on without the one who looks away.
    async fn a_spawned_body_gives_its_lock_back_while_its_caller_looks_away() {
        struct Desk {
            probe: P,
            pen: Mutex<u64>,
        }
        async fn writes(ctx: Ctx<Arc<Desk>>, n: u64) -> Result<u64, TaskError> {
            let _body = ctx.state().probe.enter();
            let mut pen = ctx.state().pen.lock().await;
            ctx.state().probe.gate.passed().await;
            *pen += n;
            Ok(*pen)
        }
        let desk = Arc::new(Desk { probe: Probe::new(), pen: Mutex::new(0) });
        let ctx = Ctx::new(desk.clone());
        ctx.spawn(writes, 5).unwrap();
        let mut call = ctx.run(writes, 5);
        assert!(poll_once(&mut call).is_pending());
        desk.probe.until_started(1).await;
        desk.probe.gate.open();
        desk.probe.until_all_gone().await;
        assert_eq!(*desk.pen.lock().await, 5);
        assert_eq!(call.await.unwrap(), &5);
        assert_eq!(desk.probe.starts(), 1);
    }

    /// R17: the body's lock is wanted by a branch that first asks for the run itself, so it drives it.
    async fn whoever_asks_for_the_run_drives_it_past_its_lock() {
        struct Desk {
            probe: P,
            pen: Mutex<u64>,
        }
        async fn writes(ctx: Ctx<Arc<Desk>>, n: u64) -> Result<u64, TaskError> {
            let _body = ctx.state().probe.enter();
            let mut pen = ctx.state().pen.lock().await;
            yields(4).await;
            *pen += n;
            Ok(*pen)
        }
        let desk = Arc::new(Desk { probe: Probe::new(), pen: Mutex::new(0) });
        let ctx = Ctx::new(desk.clone());
        let mut first = ctx.run(writes, 5);
        tokio::select! {
            biased;
            _ = &mut first => panic!("it takes five polls"),
            () = std::future::ready(()) => {}
        }
        assert!(desk.pen.try_lock().is_err(), "the parked body holds it");
        assert_eq!(ctx.run(writes, 5).await.unwrap(), &5);
        assert_eq!(*desk.pen.lock().await, 5);
        assert_eq!(desk.probe.starts(), 1);
        drop(first);
    }

    /// R18
    async fn awaiting_in_the_loop_over_buffer_unordered_does_not_block() {
        let probe = Probe::new();
        let ctx = Ctx::new(probe.clone());
        // The second is ready at once; by then the first waits at the gate.
        assert_eq!(ctx.run(at_once, 7).await.unwrap(), &70);
        let calls: Vec<BoxFuture<'_, u64>> = vec![
            Box::pin(async { *ctx.run(gated_steps, 1).await.unwrap() }),
            Box::pin(async { *ctx.run(at_once, 7).await.unwrap() }),
        ];
        let mut values = stream::iter(calls).buffer_unordered(2);
        let mut seen = Vec::new();
        while let Some(value) = values.next().await {
            if seen.is_empty() {
                assert_eq!((probe.starts(), probe.live()), (2, 1));
            }
            seen.push(value);
            probe.gate.open();
            assert_eq!(ctx.run(above, 1).await.unwrap(), &11);
        }
        seen.sort_unstable();
        assert_eq!(seen, [10, 70]);
        assert_eq!(probe.starts(), 3);
    }

    /// R18: over bare calls, ordered, and bounded by one.
    async fn awaiting_in_the_loop_over_other_streams_does_not_block() {
        for limit in [1, 2, 5] {
            let probe = Probe::new();
            let ctx = Ctx::new(probe.clone());
            let calls = (1..=5).map(|n| ctx.run(in_steps, n)).collect::<Vec<_>>();
            let mut values = stream::iter(calls).buffered(limit);
            let mut sum = 0;
            while let Some(value) = values.next().await {
                sum += value.unwrap();
                for n in 1..=5 {
                    assert_eq!(ctx.run(in_steps, n).await.unwrap(), &(n * 10));
                }
            }
            assert_eq!((sum, probe.starts()), (150, 5));
        }
    }

    /// R18: the loop body asks, through a task, for a call that the stream holds and does not poll.
    async fn for_each_concurrent_may_wait_for_its_own_members() {
        let probe = Probe::new();
        let ctx = Ctx::new(probe.clone());
        probe.gate.open();
        stream::iter(1..=6_u64)
            .for_each_concurrent(2, |n| {
                let ctx = &ctx;
                async move {
                    assert_eq!(ctx.run(above, n).await.unwrap(), &(n * 10 + 1));
                    let next = n % 6 + 1;
                    assert_eq!(ctx.run(gated_steps, next).await.unwrap(), &(next * 10));
                }
            })
            .await;
        assert_eq!(probe.starts(), 12);
    }

    /// R47
    async fn a_failed_or_forgotten_run_may_be_asked_for_again_by_the_same_body() {
        async fn fails_once(ctx: Ctx<P>, n: u64) -> Result<u64, String> {
            let body = ctx.state().enter();
            yields(1).await;
            if body.nth == 1 { Err("not yet".to_owned()) } else { Ok(n * 10) }
        }
        async fn insists(ctx: Ctx<P>, n: u64) -> Result<u64, TaskError> {
            let first = ctx.run(fails_once, n).await.unwrap_err();
            let again = ctx.run(fails_once, n).await.unwrap_err();
            assert_eq!((first.kind(), again.kind()), (TaskErrorKind::Failed, TaskErrorKind::Failed));
            assert_eq!(ctx.state().starts(), 1, "a failure is kept");
            assert!(ctx.forget(fails_once, &n));
            let value = *ctx.run(fails_once, n).await?;
            assert!(ctx.forget(fails_once, &n));
            Ok(value + *ctx.run(fails_once, n).await?)
        }
        let probe = Probe::new();
        let ctx = Ctx::new(probe.clone());
        assert_eq!(ctx.run(insists, 1).await.unwrap(), &20);
        assert_eq!(probe.starts(), 3);
    }

    /// R47: the body forgets itself and calls itself; the newer run is another run, so nobody waits for himself.
    async fn a_body_that_forgot_itself_may_call_itself() {
        fn forgets_itself(ctx: Ctx<P>, n: u64) -> BoxFuture<'static, Result<u64, TaskError>> {
            Box::pin(async move {
                let body = ctx.state().enter();
                yields(1).await;
                if body.nth > 1 {
                    return Ok(n * 10);
                }
                assert!(ctx.forget(forgets_itself, &n));
                Ok(*ctx.run(forgets_itself, n).await? + 1)
            })
        }
        let probe = Probe::new();
        let ctx = Ctx::new(probe.clone());
        assert_eq!(ctx.run(forgets_itself, 1).await.unwrap(), &11, "for its own callers");
        assert_eq!(ctx.run(forgets_itself, 1).await.unwrap(), &10, "for everybody after");
        assert_eq!(probe.starts(), 2);
    }

    /// R48: all hundred are under way before one may end.
    async fn different_inputs_run_at_the_same_time() {
        let probe = Probe::new();
        let ctx = Ctx::new(probe.clone());
        let all_started = async {
            probe.until_started(100).await;
            assert_eq!(probe.live(), 100);
            probe.gate.open();
        };
        let (values, ()) = tokio::join!(join_all((0..100).map(|n| ctx.run(gated, n))), all_started);
        for (n, value) in (0..).zip(values) {
            assert_eq!(value.unwrap(), &(n * 10));
        }
        assert_eq!(probe.starts(), 100);
    }

    /// R48: by the clock. In series it would be 5 s; a busy machine gets three attempts.
    async fn a_hundred_inputs_of_fifty_milliseconds_take_less_than_a_hundred_and_fifty() {
        async fn waits(ctx: Ctx<P>, n: u64) -> Result<u64, TaskError> {
            let _body = ctx.state().enter();
            sleep(ms(50)).await;
            Ok(n)
        }
        let mut times = Vec::new();
        for _ in 0..3 {
            let probe = Probe::new();
            let ctx = Ctx::new(probe.clone());
            let began = Instant::now();
            for (n, value) in (0..).zip(join_all((0..100).map(|n| ctx.run(waits, n))).await) {
                assert_eq!(value.unwrap(), &n);
            }
            let took = began.elapsed();
            assert_eq!(probe.starts(), 100);
            if took < ms(150) {
                return;
            }
            times.push(took);
        }
        panic!("took {times:?}");
    }

    /// R48: through the engine's own fan-out.
    async fn a_wide_fan_out_runs_at_the_same_time() {
        let probe = Probe::new();
        let ctx = Ctx::new(probe.clone());
        let all_started = async {
            probe.until_started(100).await;
            probe.gate.open();
        };
        let calls = (0..100).map(|n| gated.with(n));
        let (values, ()) = tokio::join!(ctx.parallel_all(calls, 100), all_started);
        assert!(values.unwrap().into_iter().eq((0..100).map(|n| n * 10).collect::<Vec<_>>().iter()));
        assert_eq!(probe.starts(), 100);
    }

    /// R49: 256 tasks, each of which uses up tokio's cooperative budget again and again.
    async fn exhausted_budgets_hang_nobody() {
        struct Pool {
            starts: AtomicUsize,
            permits: Semaphore,
        }
        /// Its own awaits are always ready, so only the budget can stop it.
        async fn spends(ctx: Ctx<Arc<Pool>>, n: u64) -> Result<u64, TaskError> {
            ctx.state().starts.fetch_add(1, Ordering::Relaxed);
            for _ in 0..200 {
                let _permit = ctx.state().permits.acquire().await.map_err(TaskError::new)?;
            }
            Ok(n)
        }
        let pool = Arc::new(Pool { starts: AtomicUsize::new(0), permits: Semaphore::new(1 << 20) });
        let ctx = Ctx::new(pool.clone());
        let tasks = (0..256_u64).map(|task| {
            let (ctx, pool) = (ctx.clone(), pool.clone());
            tokio::spawn(async move {
                for step in 0..200 {
                    let _permit = pool.permits.acquire().await.unwrap();
                    let n = (task + step) % 64;
                    assert_eq!(ctx.run(spends, n).await.unwrap(), &n);
                }
            })
        });
        for task in tasks.collect::<Vec<_>>() {
            task.await.unwrap();
        }
        assert_eq!(pool.starts.load(Ordering::Relaxed), 64);
    }
}

/// R41: ten thousand other keys make the table grow while the body's own slot is running.
mod a_body_may_fill_the_table_while_it_runs {
    use super::*;

    const KEYS: u64 = 10_000;

    #[derive(Default)]
    struct Counted {
        bulks: AtomicUsize,
        leaves: AtomicUsize,
        sum: AtomicU64,
    }

    async fn leaf(ctx: Ctx<Arc<Counted>>, n: u64) -> Result<u64, TaskError> {
        ctx.state().leaves.fetch_add(1, Ordering::Relaxed);
        ctx.state().sum.fetch_add(n, Ordering::Relaxed);
        Ok(n)
    }

    async fn bulk(ctx: Ctx<Arc<Counted>>, id: u64) -> Result<u64, TaskError> {
        ctx.state().bulks.fetch_add(1, Ordering::Relaxed);
        let mut sum = id;
        for n in 0..KEYS {
            // Each starts elsewhere, so that they meet inserting and not only finding.
            sum += ctx.run(leaf, (n + id * (KEYS / 8)) % KEYS).await?;
            if n % 1_000 == 0 {
                yields(1).await;
            }
        }
        Ok(sum)
    }

    async fn eight_at_once() {
        let counted = Arc::new(Counted::default());
        let ctx = Ctx::new(counted.clone());
        let expected = KEYS * (KEYS - 1) / 2;
        let calls = (0..16)
            .map(|nth| (nth % 8, caller!(ctx, bulk, nth % 8)))
            .collect::<Vec<_>>();
        for (id, call) in calls {
            assert_eq!(call.await.unwrap().unwrap(), expected + id);
        }
        assert_eq!(
            ctx.run(bulk, 0).await.unwrap(),
            &expected,
            "its own slot is still found"
        );
        assert_eq!(counted.bulks.load(Ordering::Relaxed), 8);
        assert_eq!(counted.leaves.load(Ordering::Relaxed), KEYS as usize);
        assert_eq!(counted.sum.load(Ordering::Relaxed), expected);
    }

    #[test]
    fn on_one_thread() {
        current_thread(eight_at_once);
    }

    #[test]
    fn on_eight_threads() {
        multi_thread(8, eight_at_once);
    }
}

/// R28: the body is woken from another thread while it is being polled, with eight callers. The field case ran
/// 100,000 rounds; these are 20,000, to stay within seconds.
mod a_wake_during_a_poll_is_never_lost {
    use super::*;

    const ROUNDS: u64 = 20_000;
    const PER_CONTEXT: u64 = 1_000;

    struct Elsewhere {
        starts: AtomicUsize,
        wakers: mpsc::Sender<Waker>,
    }

    /// Hands its waker to a thread that wakes it at once, twice.
    async fn woken_elsewhere(ctx: Ctx<Arc<Elsewhere>>, n: u64) -> Result<u64, TaskError> {
        ctx.state().starts.fetch_add(1, Ordering::Relaxed);
        let mut handed = 0;
        poll_fn(|cx| {
            if handed == 2 {
                return Poll::Ready(());
            }
            handed += 1;
            ctx.state().wakers.send(cx.waker().clone()).unwrap();
            // Gives the other thread a chance to wake before this poll returns.
            if n.is_multiple_of(3) {
                thread::yield_now();
            }
            Poll::Pending
        })
        .await;
        Ok(n)
    }

    async fn eight_callers() {
        let (wakers, to_wake) = mpsc::channel::<Waker>();
        let waking = thread::spawn(move || to_wake.into_iter().for_each(Waker::wake));
        let state = Arc::new(Elsewhere {
            starts: AtomicUsize::new(0),
            wakers,
        });
        for _ in 0..ROUNDS / PER_CONTEXT {
            let ctx = Ctx::new(state.clone());
            let callers = (0..8).map(|_| {
                let ctx = ctx.clone();
                tokio::spawn(async move {
                    for n in 0..PER_CONTEXT {
                        assert_eq!(ctx.run(woken_elsewhere, n).await.unwrap(), &n);
                    }
                })
            });
            for caller in callers.collect::<Vec<_>>() {
                caller.await.unwrap();
            }
        }
        assert_eq!(state.starts.load(Ordering::Relaxed), ROUNDS as usize);
        drop(state);
        waking.join().unwrap();
    }

    #[test]
    fn on_one_thread() {
        current_thread(eight_callers);
    }

    #[test]
    fn on_many_threads() {
        multi_thread(4, eight_callers);
    }
}

/// R28: the body wakes itself while it is polled by a caller that hears of nothing; the parked ones hear of it.
#[test]
fn a_wake_by_the_body_itself_reaches_the_parked() {
    let probe = Probe::new();
    let ctx = Ctx::new(probe.clone());
    let (wakes, waker) = CountingWaker::pair();
    let mut parked = ctx.run(gated_steps, 1);
    assert!(poll_with(&mut parked, &waker).is_pending());
    let mut deaf = ctx.run(gated_steps, 1);
    assert!(poll_once(&mut deaf).is_pending());
    // From here on the first is polled as an executor would: only if it was woken since its last poll began.
    let mut heard = wakes.wakes();
    probe.gate.open();
    let value = loop {
        assert!(wakes.wakes() > heard, "asleep with nobody to wake it");
        heard = wakes.wakes();
        if let Poll::Ready(value) = poll_with(&mut parked, &waker) {
            break value;
        }
        if let Poll::Ready(value) = poll_once(&mut deaf) {
            assert!(wakes.wakes() > heard, "not told of the end");
            break value;
        }
    };
    assert_eq!(value.unwrap(), &10);
    assert_eq!(probe.starts(), 1);
}

/// R49: nothing in the engine holds the guard of a lock or of a map over an await.
mod no_guard_lives_across_an_await {
    use crate::helpers::for_each_source;

    /// Ways to get a guard.
    const GUARDS: [&str; 7] = [
        ".lock()",
        ".read()",
        ".write()",
        ".pin()",
        "epoch::pin(",
        ".guard()",
        "MutexGuard",
    ];

    /// The async blocks and functions of a source text, as text.
    fn async_parts(source: &str) -> Vec<&str> {
        let mut parts = Vec::new();
        for (at, word) in source.match_indices("async") {
            let rest = &source[at + word.len()..];
            let is_code =
                rest.starts_with(" fn ") || rest.starts_with(" move") || rest.starts_with(" {");
            let line = &source[..at][source[..at].rfind('\n').map_or(0, |end| end + 1)..];
            if !is_code || line.contains("//") {
                continue;
            }
            let Some(open) = rest.find('{') else { continue };
            let mut depth = 0_usize;
            let end = rest[open..].char_indices().find(|(_, c)| {
                match c {
                    '{' => depth += 1,
                    '}' => depth -= 1,
                    _ => {}
                }
                depth == 0
            });
            parts.push(end.map_or(rest, |(end, _)| &rest[..open + end]));
        }
        parts
    }

    fn offences(source: &str) -> Vec<&str> {
        let awaits = async_parts(source)
            .into_iter()
            .filter(|part| part.contains(".await"));
        awaits
            .filter(|part| GUARDS.iter().any(|guard| part.contains(guard)))
            .collect()
    }

    #[test]
    fn in_the_sources() {
        for_each_source(|path, source| {
            assert!(
                offences(source).is_empty(),
                "{}: {:?}",
                path.display(),
                offences(source)
            );
        });
    }

    #[test]
    fn and_the_search_finds_one() {
        let planted =
            "async fn f() { let g = map.lock(); if x { y().await } drop(g); } fn h() { m.lock(); }";
        assert_eq!(offences(planted).len(), 1);
        assert!(offences("fn h() { m.lock(); } async fn f() { x.await }").is_empty());
    }
}
