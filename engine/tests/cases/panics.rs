//! Bodies that panic, wherever they can: every caller is told, nobody hangs, the process lives.

use std::future::{Future, Ready, ready};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::{Arc, Mutex, Once};
use std::task::{Context, Poll};

use futures::future::{BoxFuture, join_all};
use tokio::time::{Instant, sleep};
use watershed::{Ctx, Task, TaskError, TaskErrorKind};

use crate::helpers::{CountingWaker, P, Probe, at_once, gated, ms, poll_once, poll_with, yields};

/// Panics once the gate is open; later runs succeed.
async fn panics_once(ctx: Ctx<P>, n: u64) -> Result<u64, TaskError> {
    let body = ctx.state().enter();
    ctx.state().gate.passed().await;
    assert!(body.nth > 1, "the first run breaks");
    Ok(n * 10)
}

/// Panics at its first poll.
async fn panics_at_once(ctx: Ctx<P>, n: u64) -> Result<u64, TaskError> {
    let _body = ctx.state().enter();
    if n > 0 {
        panic!("no luck with {n}");
    }
    Ok(n)
}

/// Panics at its second poll.
async fn panics_at_the_second_poll(ctx: Ctx<P>, n: u64) -> Result<u64, TaskError> {
    let _body = ctx.state().enter();
    yields(1).await;
    if n > 0 {
        panic!("no luck with {n}");
    }
    Ok(n)
}

/// Panics before there is a future.
fn panics_before_the_future(ctx: Ctx<P>, n: u64) -> Ready<Result<u64, TaskError>> {
    let _body = ctx.state().enter();
    if n > 0 {
        panic!("no luck with {n}");
    }
    ready(Ok(n))
}

/// A body that is ready with a value at its second poll and whose destructor panics.
struct PanicsInDrop {
    polled: bool,
    n: u64,
}

impl Future for PanicsInDrop {
    type Output = Result<u64, TaskError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        if self.polled {
            return Poll::Ready(Ok(self.n));
        }
        self.polled = true;
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

impl Drop for PanicsInDrop {
    fn drop(&mut self) {
        if self.n > 0 {
            panic!("no luck with {}", self.n);
        }
    }
}

fn panics_in_drop(ctx: Ctx<P>, n: u64) -> PanicsInDrop {
    drop(ctx.state().enter());
    PanicsInDrop { polled: false, n }
}

/// Four callers of `task` get `Panicked`, and so does one who comes later; the context goes on.
async fn everybody_is_told<F>(task: F)
where
    F: Task<P, u64, Value = u64, Future: Send>,
{
    let probe = Probe::new();
    let ctx = Ctx::new(probe.clone());
    for error in join_all((0..4).map(|_| ctx.run(task, 7_u64))).await {
        let error = error.expect_err("it panicked");
        assert_eq!(error.kind(), TaskErrorKind::Panicked);
        assert!(error.to_string().contains("no luck with 7"), "{error}");
        assert!(error.task().contains("panics_"), "{error:?}");
    }
    assert_eq!(
        ctx.run(task, 7_u64).await.unwrap_err().kind(),
        TaskErrorKind::Panicked
    );
    assert_eq!(probe.starts(), 1);
    assert_eq!(
        ctx.run(task, 0_u64).await.unwrap(),
        &0,
        "the same task, another input"
    );
    assert_eq!(ctx.run(at_once, 1).await.unwrap(), &10, "another task");
    assert_eq!((probe.starts(), probe.live()), (3, 0));
}

on_both_runtimes! {
    /// R23
    async fn a_panic_with_three_waiters_ends_all_four_and_is_kept() {
        let probe = Probe::new();
        let ctx = Ctx::new(probe.clone());
        let mut calls = (0..4).map(|_| ctx.run(panics_once, 1)).collect::<Vec<_>>();
        for call in &mut calls {
            assert!(poll_once(call).is_pending());
        }
        probe.gate.open();
        for error in join_all(calls).await {
            assert_eq!(error.unwrap_err().kind(), TaskErrorKind::Panicked);
        }
        assert_eq!(ctx.run(panics_once, 1).await.unwrap_err().kind(), TaskErrorKind::Panicked);
        assert_eq!(probe.starts(), 1, "kept, as any failure of this context");
        assert!(ctx.forget(panics_once, &1));
        assert_eq!(ctx.run(panics_once, 1).await.unwrap(), &10);
        assert_eq!((probe.starts(), probe.live()), (2, 0));
    }

    /// R23: callers on tasks of their own.
    async fn a_panic_ends_callers_on_other_tasks() {
        let probe = Probe::new();
        let ctx = Ctx::new(probe.clone());
        let calls = (0..4).map(|_| caller!(ctx, panics_once, 1)).collect::<Vec<_>>();
        probe.until_started(1).await;
        probe.gate.open();
        for call in calls {
            let error = call.await.expect("the panic stays in the run").unwrap_err();
            assert_eq!(error.kind(), TaskErrorKind::Panicked);
        }
        assert_eq!(probe.starts(), 1);
    }

    /// R25
    async fn panic_at_the_first_poll() { everybody_is_told(panics_at_once).await }
    /// R25
    async fn panic_at_the_second_poll() { everybody_is_told(panics_at_the_second_poll).await }
    /// R25
    async fn panic_before_the_future_exists() { everybody_is_told(panics_before_the_future).await }
    /// R25
    async fn panic_in_the_drop_of_the_body() { everybody_is_told(panics_in_drop).await }

    /// R25: nobody waits any more when the destructor panics; the key stays usable.
    async fn panic_in_the_drop_of_an_abandoned_body_leaves_the_key_usable() {
        fn panics_in_its_first_drop(ctx: Ctx<P>, n: u64) -> PanicsInDrop {
            let nth = ctx.state().enter().nth;
            PanicsInDrop { polled: false, n: if nth == 1 { n } else { 0 } }
        }
        let probe = Probe::new();
        let ctx = Ctx::new(probe.clone());
        let mut only = ctx.run(panics_in_its_first_drop, 7);
        assert!(poll_once(&mut only).is_pending());
        // Whether the panic comes out of the drop is not what is asked here.
        let _ = catch_unwind(AssertUnwindSafe(|| drop(only)));
        assert!(ctx.peek(panics_in_its_first_drop, &7).is_none(), "nothing is stored");
        assert_eq!(ctx.run(panics_in_its_first_drop, 7).await.unwrap(), &0);
        assert_eq!(probe.starts(), 2);
    }

    /// R25: what is thrown is no text, and breaks when it is dropped.
    async fn a_payload_that_panics_when_it_is_dropped_harms_nobody() {
        struct Bomb;
        impl Drop for Bomb {
            fn drop(&mut self) {
                panic!("the payload breaks too");
            }
        }
        async fn throws(ctx: Ctx<P>, n: u64) -> Result<u64, TaskError> {
            let _body = ctx.state().enter();
            yields(1).await;
            if n > 0 {
                std::panic::panic_any(Bomb);
            }
            Ok(n)
        }
        let probe = Probe::new();
        let ctx = Ctx::new(probe.clone());
        for error in join_all((0..4).map(|_| ctx.run(throws, 7))).await {
            assert_eq!(error.unwrap_err().kind(), TaskErrorKind::Panicked);
        }
        assert_eq!(ctx.run(throws, 0).await.unwrap(), &0);
        assert_eq!((probe.starts(), probe.live()), (2, 0));
    }

    /// R25: a dependency panics; the body that passes it on with `?` is no second panic.
    async fn a_panic_below_is_passed_on_as_a_panic() {
        async fn above(ctx: Ctx<P>, n: u64) -> Result<u64, TaskError> {
            let _body = ctx.state().enter();
            Ok(*ctx.run(panics_at_the_second_poll, n).await? + 1)
        }
        let probe = Probe::new();
        let ctx = Ctx::new(probe.clone());
        let error = ctx.run(above, 7).await.unwrap_err();
        assert_eq!(error.kind(), TaskErrorKind::Panicked);
        assert!(error.task().contains("panics_at_the_second_poll"), "{error:?}");
        assert_eq!((probe.starts(), probe.live()), (2, 0));
    }

    /// R28
    async fn a_panic_in_a_poll_wakes_all_eight_callers() {
        let probe = Probe::new();
        let ctx = Ctx::new(probe.clone());
        let mut calls = (0..8).map(|_| (ctx.run(panics_once, 1), CountingWaker::pair())).collect::<Vec<_>>();
        for (call, (_, waker)) in &mut calls {
            assert!(poll_with(call, waker).is_pending());
        }
        probe.gate.open();
        let before = calls.iter().map(|(_, (wakes, _))| wakes.wakes()).collect::<Vec<_>>();
        // The last one drives it into the panic; the others are told of that by a wake of their own, or were
        // woken by the gate and have not looked since.
        let (driver, (_, waker)) = calls.last_mut().unwrap();
        let Poll::Ready(Err(error)) = poll_with(driver, waker) else { panic!("it panics in this poll") };
        assert_eq!(error.kind(), TaskErrorKind::Panicked);
        for (nth, (call, (wakes, waker))) in calls.iter_mut().enumerate().take(7) {
            assert!(wakes.wakes() > 0 && wakes.wakes() >= before[nth], "caller {nth} sleeps on");
            let Poll::Ready(Err(error)) = poll_with(call, waker) else { panic!("it is over") };
            assert_eq!(error.kind(), TaskErrorKind::Panicked);
        }
        assert_eq!(probe.starts(), 1);
    }

    /// R28: the others look at the run while it is being polled, and go to sleep; then that poll panics.
    async fn a_panic_wakes_callers_that_went_to_sleep_during_the_poll() {
        let stage = Arc::new(Stage { probe: Probe::new(), in_poll: Mutex::new(None) });
        let ctx = Ctx::new(stage.clone());
        let mut sleepers = Vec::new();
        for _ in 0..7 {
            let ctx = ctx.clone();
            let call: BoxFuture<'static, _> = Box::pin(async move { ctx.run(staged, 1).await.copied() });
            sleepers.push((call, CountingWaker::pair()));
        }
        for (call, (_, waker)) in &mut sleepers {
            assert!(poll_with(call, waker).is_pending());
        }
        let mut driver = ctx.run(staged, 1);
        assert!(poll_once(&mut driver).is_pending());
        let sleepers = Arc::new(Mutex::new(sleepers));
        let asleep = Arc::new(Mutex::new(Vec::new()));
        *stage.in_poll.lock().unwrap() = Some(Box::new({
            let (sleepers, asleep) = (sleepers.clone(), asleep.clone());
            move || {
                for (call, (wakes, waker)) in sleepers.lock().unwrap().iter_mut() {
                    let pending = poll_with(call, waker).is_pending();
                    asleep.lock().unwrap().push((pending, wakes.wakes()));
                }
            }
        }));
        stage.probe.gate.open();
        let Poll::Ready(Err(error)) = poll_once(&mut driver) else { panic!("it panics in this poll") };
        assert_eq!(error.kind(), TaskErrorKind::Panicked);
        let asleep = asleep.lock().unwrap();
        assert_eq!(asleep.len(), 7);
        for (nth, (call, (wakes, waker))) in sleepers.lock().unwrap().iter_mut().enumerate() {
            let (pending, before) = asleep[nth];
            assert!(pending && wakes.wakes() > before, "caller {nth} sleeps on");
            let Poll::Ready(Err(error)) = poll_with(call, waker) else { panic!("it is over") };
            assert_eq!(error.kind(), TaskErrorKind::Panicked);
        }
        assert_eq!(stage.probe.starts(), 1);
    }

    /// R30
    async fn a_panicking_first_child_ends_the_group_at_once() {
        let probe = Probe::new();
        let ctx = Ctx::new(probe.clone());
        let began = Instant::now();
        let group = ctx.parallel((panics_at_once.with(1), at_once.with(1), ten_seconds.with(1)));
        assert_eq!(group.await.unwrap_err().kind(), TaskErrorKind::Panicked);
        ended_early(&probe, began, 3).await;
    }

    /// R30
    async fn a_panicking_middle_child_ends_the_group_at_once() {
        let probe = Probe::new();
        let ctx = Ctx::new(probe.clone());
        let began = Instant::now();
        let group = ctx.parallel((at_once.with(1), panics_at_once.with(1), ten_seconds.with(1)));
        assert_eq!(group.await.unwrap_err().kind(), TaskErrorKind::Panicked);
        ended_early(&probe, began, 3).await;
    }

    /// R30
    async fn a_panicking_last_child_ends_the_group_at_once() {
        let probe = Probe::new();
        let ctx = Ctx::new(probe.clone());
        let began = Instant::now();
        let group = ctx.parallel((at_once.with(1), ten_seconds.with(1), panics_at_once.with(1)));
        assert_eq!(group.await.unwrap_err().kind(), TaskErrorKind::Panicked);
        ended_early(&probe, began, 3).await;
    }

    /// R30: the other ways to wait for several.
    async fn a_panicking_member_ends_every_kind_of_group_at_once() {
        let probe = Probe::new();
        let ctx = Ctx::new(probe.clone());
        let began = Instant::now();
        let joined = tokio::try_join!(ctx.run(ten_seconds, 1), ctx.run(panics_at_the_second_poll, 1));
        assert_eq!(joined.unwrap_err().kind(), TaskErrorKind::Panicked);
        ended_early(&probe, began, 2).await;

        let probe = Probe::new();
        let ctx = Ctx::new(probe.clone());
        let began = Instant::now();
        let calls = [0, 1, 2].map(|n| panics_or_waits.with(n));
        let group = ctx.parallel_all(calls, 3).await;
        assert_eq!(group.unwrap_err().kind(), TaskErrorKind::Panicked);
        ended_early(&probe, began, 3).await;

        let probe = Probe::new();
        let ctx = Ctx::new(probe.clone());
        let began = Instant::now();
        let calls = [ten_seconds.with(1).boxed(), panics_at_once.with(1).boxed(), at_once.with(1).boxed()];
        assert_eq!(ctx.run_all(calls).await.unwrap_err().kind(), TaskErrorKind::Panicked);
        ended_early(&probe, began, 3).await;
    }

    /// R30: a sibling that somebody else waits for as well is not taken away from him.
    async fn a_panicking_child_leaves_shared_siblings_to_their_other_callers() {
        let probe = Probe::new();
        let ctx = Ctx::new(probe.clone());
        let mut other = ctx.run(gated, 1);
        assert!(poll_once(&mut other).is_pending());
        let group = ctx.parallel((gated.with(1), panics_at_once.with(1))).await;
        assert_eq!(group.unwrap_err().kind(), TaskErrorKind::Panicked);
        assert_eq!(probe.live(), 1);
        probe.gate.open();
        assert_eq!(other.await.unwrap(), &10);
        assert_eq!(probe.starts(), 2);
    }

    /// R31
    async fn a_detached_panic_reaches_the_callers_and_the_hook_once() {
        async fn explodes(ctx: Ctx<P>, text: String) -> Result<u64, TaskError> {
            let _body = ctx.state().enter();
            ctx.state().gate.passed().await;
            panic!("{text}");
        }
        watch_panics();
        let probe = Probe::new();
        let ctx = Ctx::new(probe.clone());
        let text = format!("detached panic on {:?}", std::thread::current().id());
        ctx.spawn(explodes, text.clone()).unwrap();
        probe.until_started(1).await;
        let waiters = (0..3).map(|_| caller!(ctx, explodes, text.clone())).collect::<Vec<_>>();
        probe.gate.open();
        for waiter in waiters {
            let error = waiter.await.unwrap().unwrap_err();
            assert_eq!(error.kind(), TaskErrorKind::Panicked);
            assert!(error.to_string().contains(&text), "{error}");
        }
        let late = ctx.run(explodes, text.clone()).await.unwrap_err();
        assert!(late.to_string().contains(&text), "{late}");
        assert_eq!(hook_heard(&text), 1);
        assert_eq!((probe.starts(), probe.live()), (1, 0));
    }

    /// R31: nobody is there to be told; the process and the runtime go on.
    async fn a_detached_panic_that_nobody_waits_for_kills_nothing() {
        let probe = Probe::new();
        let ctx = Ctx::new(probe.clone());
        ctx.spawn(panics_at_the_second_poll, 1).unwrap();
        probe.until_started(1).await;
        probe.until_all_gone().await;
        assert_eq!(ctx.run(at_once, 1).await.unwrap(), &10);
        let late = ctx.run(panics_at_the_second_poll, 1).await.unwrap_err();
        assert_eq!(late.kind(), TaskErrorKind::Panicked);
        assert_eq!(probe.starts(), 2);
    }

    /// R32
    async fn a_panic_is_never_a_value() {
        let probe = Probe::new();
        let ctx = Ctx::new(probe.clone());
        let waiter = caller!(ctx, panics_once, 1);
        probe.until_started(1).await;
        let mut second = ctx.run(panics_once, 1);
        assert!(poll_once(&mut second).is_pending());
        assert!(ctx.peek(panics_once, &1).is_none(), "running, so nothing to see yet");
        probe.gate.open();
        assert_eq!(waiter.await.unwrap().unwrap_err().kind(), TaskErrorKind::Panicked);
        assert_eq!(second.await.unwrap_err().kind(), TaskErrorKind::Panicked);
        let later = ctx.run(panics_once, 1).await.unwrap_err();
        let held = ctx.run(panics_once, 1).held().await.unwrap_err();
        let peeked = ctx.peek(panics_once, &1).expect("the failure is stored").unwrap_err();
        for error in [later, held, peeked] {
            assert_eq!(error.kind(), TaskErrorKind::Panicked);
        }
        assert_eq!(probe.starts(), 1);
    }

    /// R32: a run that does not memoize has no zero value either.
    async fn a_panic_of_a_fresh_run_is_never_a_value() {
        let probe = Probe::new();
        let ctx = Ctx::new(probe.clone());
        let error = ctx.run_fresh(panics_at_the_second_poll, 1).await.unwrap_err();
        assert_eq!(error.kind(), TaskErrorKind::Panicked);
        assert_eq!((probe.starts(), probe.live()), (1, 0));
    }

    /// R33
    async fn a_forgotten_panic_runs_again_to_a_value() {
        let probe = Probe::new();
        probe.gate.open();
        let ctx = Ctx::new(probe.clone());
        let error = ctx.run(panics_once, 1).await.unwrap_err();
        assert_eq!(error.kind(), TaskErrorKind::Panicked);
        assert!(ctx.forget(panics_once, &1));
        let value = ctx.run(panics_once, 1).await.unwrap();
        assert_eq!(value, &10);
        assert!(std::ptr::eq(value, ctx.run(panics_once, 1).await.unwrap()));
        assert!(error.to_string().contains("the first run breaks"), "the old error stays readable");
        assert_eq!(probe.starts(), 2);
    }

    /// R33: again and again, with a value that owns memory; forgotten while a caller of the broken run is still there.
    async fn panics_and_forgets_may_alternate() {
        async fn every_second(ctx: Ctx<P>, n: u64) -> Result<String, TaskError> {
            let body = ctx.state().enter();
            yields(1).await;
            assert!(body.nth.is_multiple_of(2), "odd runs break");
            Ok(format!("{n} in run {}", body.nth))
        }
        let probe = Probe::new();
        let ctx = Ctx::new(probe.clone());
        let mut kept = Vec::new();
        for round in 1..=20_usize {
            let mut early = ctx.run(every_second, 1);
            assert!(poll_once(&mut early).is_pending());
            assert!(ctx.run(every_second, 1).await.is_err());
            assert!(ctx.forget(every_second, &1));
            assert_eq!(early.await.unwrap_err().kind(), TaskErrorKind::Panicked);
            kept.push(ctx.run(every_second, 1).await.unwrap());
            assert_eq!(*kept[round - 1], format!("1 in run {}", round * 2));
            assert!(ctx.forget(every_second, &1));
        }
        assert_eq!(*kept[0], "1 in run 2", "what was borrowed before stays valid");
        assert_eq!(probe.starts(), 40);
    }
}

/// A body that lets the test act while it is being polled.
struct Stage {
    probe: P,
    in_poll: Mutex<Option<Box<dyn FnOnce() + Send>>>,
}

async fn staged(ctx: Ctx<Arc<Stage>>, n: u64) -> Result<u64, TaskError> {
    let _body = ctx.state().probe.enter();
    ctx.state().probe.gate.passed().await;
    let act = ctx.state().in_poll.lock().unwrap().take();
    if let Some(act) = act {
        act();
        panic!("no luck with {n}");
    }
    Ok(n * 10)
}

/// Takes 10 s.
async fn ten_seconds(ctx: Ctx<P>, n: u64) -> Result<u64, TaskError> {
    let _body = ctx.state().enter();
    sleep(ms(10_000)).await;
    Ok(n)
}

/// Panics for 1, never ends for others.
async fn panics_or_waits(ctx: Ctx<P>, n: u64) -> Result<u64, TaskError> {
    let _body = ctx.state().enter();
    if n == 1 {
        panic!("no luck with {n}");
    }
    std::future::pending::<()>().await;
    Ok(n)
}

/// The group was back long before the slowest would have ended, and the siblings are gone.
async fn ended_early(probe: &P, began: Instant, most_starts: usize) {
    probe.until_all_gone().await;
    assert!(
        began.elapsed() < ms(5_000),
        "held back for {:?}",
        began.elapsed()
    );
    assert!(
        (1..=most_starts).contains(&probe.starts()),
        "{} starts",
        probe.starts()
    );
}

static HEARD: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// Makes the panic hook remember what it was called with, beside what it did before.
fn watch_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if let Some(text) = info.payload_as_str() {
                HEARD
                    .lock()
                    .unwrap_or_else(|broken| broken.into_inner())
                    .push(text.to_owned());
            }
            before(info);
        }));
    });
}

fn hook_heard(text: &str) -> usize {
    let heard = HEARD.lock().unwrap_or_else(|broken| broken.into_inner());
    heard.iter().filter(|heard| heard.as_str() == text).count()
}
