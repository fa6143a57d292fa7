//! Callers that go away: what they leave behind, and what those who stay get.

use std::hash::{Hash, Hasher};
use std::sync::atomic::{AtomicIsize, Ordering};
use std::sync::{Arc, Mutex};

use futures::future::{BoxFuture, join_all};
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use watershed::{Ctx, TaskError, TaskErrorKind};

use crate::helpers::{P, Probe, assert_took, at_once, gated, ms, never, poll_once, yields};

/// Its first run waits for the gate, later ones are instant.
async fn slow_the_first_time(ctx: Ctx<P>, n: u64) -> Result<u64, TaskError> {
    let body = ctx.state().enter();
    if body.nth == 1 {
        ctx.state().gate.passed().await;
    }
    Ok(n * 10)
}

/// Takes 100 ms.
async fn slow(ctx: Ctx<P>, n: u64) -> Result<u64, TaskError> {
    let _body = ctx.state().enter();
    sleep(ms(100)).await;
    Ok(n * 10)
}

/// Takes as many polls more than one as its input says.
async fn stepped(ctx: Ctx<P>, steps: u64) -> Result<u64, TaskError> {
    let _body = ctx.state().enter();
    yields(steps as usize).await;
    Ok(steps * 10)
}

on_both_runtimes! {
    /// R01
    async fn aborted_first_caller_leaves_the_key_usable() {
        let probe = Probe::new();
        let ctx = Ctx::new(probe.clone());
        let first = caller!(ctx, slow_the_first_time, 1);
        probe.until_started(1).await;
        first.abort();
        assert!(first.await.unwrap_err().is_cancelled());
        assert_eq!(probe.live(), 0, "the aborted body went with its only caller");
        assert!(ctx.peek(slow_the_first_time, &1).is_none(), "nothing is stored");
        assert_eq!(ctx.run(slow_the_first_time, 1).await.unwrap(), &10);
        assert_eq!(probe.starts(), 2);
    }

    /// R01: the retry counter of the original gave up after 200.
    async fn three_hundred_aborted_callers_leave_the_key_usable() {
        let probe = Probe::new();
        let ctx = Ctx::new(probe.clone());
        for nth in 1..=300 {
            let caller = caller!(ctx, gated, 1);
            probe.until_started(nth).await;
            caller.abort();
            assert!(caller.await.unwrap_err().is_cancelled());
            assert_eq!(probe.live(), 0);
        }
        probe.gate.open();
        assert_eq!(ctx.run(gated, 1).await.unwrap(), &10);
        assert_eq!(probe.starts(), 301);
    }

    /// R01: aborted at 500 ms of a body of 1 s that the runtime's clock holds.
    async fn abort_in_the_middle_of_a_sleep_is_not_remembered() {
        async fn second(ctx: Ctx<P>, n: u64) -> Result<u64, TaskError> {
            let body = ctx.state().enter();
            if body.nth == 1 {
                sleep(ms(100)).await;
            }
            Ok(n * 10)
        }
        let probe = Probe::new();
        let ctx = Ctx::new(probe.clone());
        assert!(timeout(ms(50), ctx.run(second, 1)).await.is_err());
        assert_eq!(probe.live(), 0);
        let began = Instant::now();
        assert_eq!(ctx.run(second, 1).await.unwrap(), &10);
        assert_took(began.elapsed(), ms(0));
        assert_eq!(probe.starts(), 2);
    }

    /// R03
    async fn fifty_impatient_callers_never_restart_a_run_that_somebody_waits_for() {
        let probe = Probe::new();
        let ctx = Ctx::new(probe.clone());
        let began = Instant::now();
        let patient = async { (*ctx.run(slow, 1).await.unwrap(), began.elapsed()) };
        let ((value, took), ()) = tokio::join!(patient, impatient(&ctx, 50));
        assert_eq!(value, 10);
        assert_took(took, ms(100));
        assert_eq!(probe.starts(), 1);
    }

    /// R03: the run was started by one of those who give up.
    async fn impatient_first_caller_leaves_its_run_to_the_patient_one() {
        let probe = Probe::new();
        let ctx = Ctx::new(probe.clone());
        let began = Instant::now();
        let patient = async { (*ctx.run(slow, 1).await.unwrap(), began.elapsed()) };
        let ((), (value, took)) = tokio::join!(impatient(&ctx, 50), patient);
        assert_eq!(value, 10);
        assert_took(took, ms(100));
        assert_eq!(probe.starts(), 1);
    }

    /// R03
    async fn spawned_run_survives_fifty_impatient_callers() {
        let probe = Probe::new();
        let ctx = Ctx::new(probe.clone());
        ctx.spawn(slow, 1).unwrap();
        impatient(&ctx, 50).await;
        assert_eq!(ctx.run(slow, 1).await.unwrap(), &10);
        assert_eq!(probe.starts(), 1);
    }

    /// R03: the other side of the contract. Nobody is left to wait, so nothing runs on.
    async fn a_run_that_everybody_gives_up_is_dropped_each_time() {
        let probe = Probe::new();
        let ctx = Ctx::new(probe.clone());
        for nth in 1..=5 {
            let mut caller = ctx.run(gated, 1);
            assert!(poll_once(&mut caller).is_pending());
            drop(caller);
            assert_eq!((probe.starts(), probe.live()), (nth, 0));
        }
        assert!(ctx.peek(gated, &1).is_none());
    }

    /// R04: never polled.
    async fn driver_dropped_before_its_first_poll() { drop_after(0).await }
    /// R04
    async fn driver_dropped_at_its_first_await() { drop_after(1).await }
    /// R04
    async fn driver_dropped_at_its_second_await() { drop_after(2).await }
    /// R04
    async fn driver_dropped_at_its_third_await() { drop_after(3).await }
    /// R04
    async fn driver_dropped_at_its_fourth_await() { drop_after(4).await }
    /// R04
    async fn driver_dropped_at_its_fifth_await() { drop_after(5).await }

    /// R07
    async fn body_that_aborts_the_task_driving_it_still_serves_the_waiters() {
        let state = Arc::new(Suicidal::default());
        let ctx = Ctx::new(state.clone());
        let driver = caller!(ctx, aborts_its_driver, 1);
        state.probe.until_started(1).await;
        *state.driver.lock().unwrap() = Some(driver.abort_handle());
        let mut one = ctx.run(aborts_its_driver, 1);
        let mut two = ctx.run(aborts_its_driver, 1);
        assert!(poll_once(&mut one).is_pending());
        assert!(poll_once(&mut two).is_pending());
        state.probe.gate.open();
        // The waiters are parked on wakers that do nothing: only the driver can take the body to its abort.
        assert!(driver.await.unwrap_err().is_cancelled());
        let (one, two) = tokio::join!(one, two);
        assert_eq!((one.unwrap(), two.unwrap()), (&10, &10));
        assert_eq!(state.probe.starts(), 1);
    }

    /// R07: nobody else waits; the next call is a first call.
    async fn body_that_aborts_its_only_caller_is_dropped_and_runs_afresh() {
        let state = Arc::new(Suicidal::default());
        let ctx = Ctx::new(state.clone());
        let driver = caller!(ctx, aborts_its_driver, 1);
        state.probe.until_started(1).await;
        *state.driver.lock().unwrap() = Some(driver.abort_handle());
        state.probe.gate.open();
        assert!(driver.await.unwrap_err().is_cancelled());
        assert_eq!(state.probe.live(), 0);
        assert_eq!(ctx.run(aborts_its_driver, 1).await.unwrap(), &10);
        assert_eq!(state.probe.starts(), 2);
    }

    /// R07: dropped while the slot is being polled, by the very body.
    async fn body_that_drops_another_caller_of_its_own_run_goes_on() {
        let state = Arc::new(Suicidal::default());
        let ctx = Ctx::new(state.clone());
        let mut stays = ctx.run(drops_a_caller, 1);
        assert!(poll_once(&mut stays).is_pending());
        let mut leaves: BoxFuture<'static, ()> = Box::pin({
            let ctx = ctx.clone();
            async move { drop(ctx.run(drops_a_caller, 1).await) }
        });
        assert!(poll_once(&mut leaves).is_pending());
        *state.victim.lock().unwrap() = Some(leaves);
        state.probe.gate.open();
        assert_eq!(stays.await.unwrap(), &10);
        assert!(state.victim.lock().unwrap().is_none());
        assert_eq!(state.probe.starts(), 1);
    }

    /// R07: the body cancels the whole context it runs in.
    async fn body_that_cancels_its_own_context_ends_every_caller() {
        async fn cancels(ctx: Ctx<P>, n: u64) -> Result<u64, TaskError> {
            let _body = ctx.state().enter();
            ctx.state().gate.passed().await;
            ctx.cancel();
            std::future::pending::<()>().await;
            Ok(n)
        }
        let probe = Probe::new();
        let ctx = Ctx::new(probe.clone());
        let calls = (0..4).map(|_| caller!(ctx, cancels, 1)).collect::<Vec<_>>();
        probe.until_started(1).await;
        probe.gate.open();
        for call in calls {
            assert_eq!(call.await.unwrap().unwrap_err().kind(), TaskErrorKind::Cancelled);
        }
        assert_eq!(ctx.run(cancels, 1).await.unwrap_err().kind(), TaskErrorKind::Cancelled);
        assert_eq!((probe.starts(), probe.live()), (1, 0));
    }

    /// R08
    async fn dropped_waiter_does_not_take_the_run_with_it() {
        let probe = Probe::new();
        let ctx = Ctx::new(probe.clone());
        let mut first = ctx.run(gated, 1);
        let mut leaves = ctx.run(gated, 1);
        let mut stays = ctx.run(gated, 1);
        assert!(poll_once(&mut first).is_pending());
        assert!(poll_once(&mut leaves).is_pending());
        assert!(poll_once(&mut stays).is_pending());
        drop(leaves);
        let mut late = ctx.run(gated, 1);
        assert!(poll_once(&mut late).is_pending());
        assert_eq!((probe.starts(), probe.live()), (1, 1));
        probe.gate.open();
        let (first, stays, late) = tokio::join!(first, stays, late);
        let (first, stays, late) = (first.unwrap(), stays.unwrap(), late.unwrap());
        assert!(std::ptr::eq(first, stays) && std::ptr::eq(first, late));
        assert_eq!((*first, probe.starts()), (10, 1));
    }

    /// R08: whichever of four callers leaves, and in whatever state it is.
    async fn any_one_of_four_callers_may_leave() {
        for leaver in 0..4 {
            let probe = Probe::new();
            let ctx = Ctx::new(probe.clone());
            let mut calls = (0..4).map(|_| ctx.run(gated, 1)).collect::<Vec<_>>();
            for call in &mut calls {
                assert!(poll_once(call).is_pending());
            }
            drop(calls.remove(leaver));
            probe.gate.open();
            for value in join_all(calls).await {
                assert_eq!(value.unwrap(), &10);
            }
            assert_eq!(probe.starts(), 1);
        }
    }

    /// R10
    async fn a_callers_own_token_and_limit_never_reach_the_others() {
        let probe = Probe::new();
        let ctx = Ctx::new(probe.clone());
        let token = CancellationToken::new();
        let first = tokio::spawn({
            let (ctx, token) = (ctx.clone(), token.clone());
            async move { token.run_until_cancelled(ctx.run(gated, 1)).await.is_none() }
        });
        probe.until_started(1).await;
        let mut waiter = ctx.run(gated, 1);
        assert!(poll_once(&mut waiter).is_pending());
        token.cancel();
        assert!(first.await.unwrap(), "the first caller was cancelled");
        assert!(timeout(ms(10), ctx.run(gated, 1)).await.is_err(), "so was one with a limit");
        assert!(!ctx.is_cancelled());
        probe.gate.open();
        assert_eq!(waiter.await.unwrap(), &10);
        assert_eq!(probe.starts(), 1);
    }

    /// R10: the token and the deadline of one request end that request only.
    async fn a_cancelled_context_says_nothing_to_another() {
        let probe = Probe::new();
        let token = CancellationToken::new();
        let linked = Ctx::builder(probe.clone()).cancellation(token.clone()).build();
        let limited = Ctx::builder(probe.clone()).deadline(ms(10)).build();
        let free = Ctx::new(probe.clone());
        let mut waits = free.run(gated, 1);
        let first = caller!(linked, gated, 1);
        assert!(poll_once(&mut waits).is_pending());
        probe.until_started(2).await;
        assert_eq!(limited.run(gated, 1).await.unwrap_err().kind(), TaskErrorKind::DeadlineExceeded);
        token.cancel();
        assert_eq!(first.await.unwrap().unwrap_err().kind(), TaskErrorKind::Cancelled);
        assert!(poll_once(&mut waits).is_pending());
        probe.gate.open();
        assert_eq!(waits.await.unwrap(), &10);
        assert_eq!(probe.starts(), 3);
    }

    /// R11 (a)
    async fn cancelled_first_caller_leaves_the_value_to_the_others() {
        let probe = Probe::new();
        let ctx = Ctx::new(probe.clone());
        let first = caller!(ctx, gated, 1);
        probe.until_started(1).await;
        let mut others = (0..3).map(|_| ctx.run(gated, 1)).collect::<Vec<_>>();
        for other in &mut others {
            assert!(poll_once(other).is_pending());
        }
        first.abort();
        assert!(first.await.unwrap_err().is_cancelled());
        probe.gate.open();
        for value in join_all(others).await {
            assert_eq!(value.unwrap(), &10);
        }
        assert_eq!(probe.starts(), 1);
    }

    /// R11 (b)
    async fn a_caller_leaves_at_its_own_limit_while_the_run_goes_on() {
        let probe = Probe::new();
        let ctx = Ctx::new(probe.clone());
        let mut stays = ctx.run(gated, 1);
        assert!(poll_once(&mut stays).is_pending());
        let began = Instant::now();
        assert!(timeout(ms(20), ctx.run(gated, 1)).await.is_err());
        assert_took(began.elapsed(), ms(20));
        assert_eq!((probe.starts(), probe.live()), (1, 1));
        probe.gate.open();
        assert_eq!(stays.await.unwrap(), &10);
        assert_eq!(probe.starts(), 1);
    }

    /// R11 (c)
    async fn the_last_callers_drop_drops_the_body_before_it_returns() {
        let probe = Probe::new();
        let ctx = Ctx::new(probe.clone());
        let mut calls = (0..3).map(|_| ctx.run(gated, 1)).collect::<Vec<_>>();
        for call in &mut calls {
            assert!(poll_once(call).is_pending());
        }
        drop(calls.pop());
        drop(calls.pop());
        assert_eq!(probe.live(), 1);
        drop(calls.pop());
        assert_eq!((probe.starts(), probe.live()), (1, 0));
    }

    /// R11 (c): the same through a dependency, which goes with the body that waited for it.
    async fn the_last_callers_drop_drops_what_the_body_waits_for() {
        async fn outer(ctx: Ctx<P>, n: u64) -> Result<u64, TaskError> {
            let _body = ctx.state().enter();
            Ok(*ctx.run(gated, n).await? + 1)
        }
        let probe = Probe::new();
        let ctx = Ctx::new(probe.clone());
        let mut only = ctx.run(outer, 1);
        assert!(poll_once(&mut only).is_pending());
        assert_eq!(probe.live(), 2);
        drop(only);
        assert_eq!((probe.starts(), probe.live()), (2, 0));
    }

    /// R11 (c)
    async fn a_spawned_run_goes_on_when_every_caller_is_gone() {
        let probe = Probe::new();
        let ctx = Ctx::new(probe.clone());
        ctx.spawn(gated, 1).unwrap();
        probe.until_started(1).await;
        let mut caller = ctx.run(gated, 1);
        assert!(poll_once(&mut caller).is_pending());
        drop(caller);
        assert_eq!(probe.live(), 1);
        probe.gate.open();
        probe.until_all_gone().await;
        assert_eq!(ctx.run(gated, 1).await.unwrap(), &10);
        assert_eq!(probe.starts(), 1);
    }

    /// R11 (c): a caller that comes and goes before the runtime has polled the spawned run.
    async fn a_spawned_run_is_promised_before_it_is_polled() {
        let probe = Probe::new();
        let ctx = Ctx::new(probe.clone());
        ctx.spawn(gated, 1).unwrap();
        let mut caller = ctx.run(gated, 1);
        assert!(poll_once(&mut caller).is_pending());
        drop(caller);
        probe.gate.open();
        assert_eq!(ctx.run(gated, 1).await.unwrap(), &10);
        assert_eq!(probe.starts(), 1);
    }

    /// R12
    async fn one_first_caller_aborted_before_fifty_waiters_makes_one_start() {
        let probe = Probe::new();
        let ctx = Ctx::new(probe.clone());
        let live = Arc::new(AtomicIsize::new(0));
        let first = caller!(ctx, by_key, Key::new(1, &live));
        probe.until_started(1).await;
        let mut waiters = (0..50).map(|_| ctx.run(by_key, Key::new(1, &live))).collect::<Vec<_>>();
        for waiter in &mut waiters {
            assert!(poll_once(waiter).is_pending());
        }
        first.abort();
        assert!(first.await.unwrap_err().is_cancelled());
        probe.gate.open();
        for value in join_all(waiters).await {
            assert_eq!(value.unwrap(), &10);
        }
        assert_eq!(probe.starts(), 1);
        assert_eq!(live.load(Ordering::SeqCst), 1, "one slot, so one key is kept");
        for id in 2..=5 {
            for _ in 0..3 {
                assert_eq!(ctx.run(by_key, Key::new(id, &live)).await.unwrap(), &(id * 10));
            }
        }
        assert_eq!(live.load(Ordering::SeqCst), 5, "as many slots as distinct keys");
        assert_eq!(probe.starts(), 5);
        drop(ctx);
        assert_eq!(live.load(Ordering::SeqCst), 0);
    }

    /// R12: a key that is given up again and again keeps one slot, not one for each attempt.
    async fn given_up_runs_do_not_pile_up_slots() {
        let probe = Probe::new();
        let ctx = Ctx::new(probe.clone());
        let live = Arc::new(AtomicIsize::new(0));
        for _ in 0..100 {
            let mut call = ctx.run(by_key, Key::new(1, &live));
            assert!(poll_once(&mut call).is_pending());
        }
        assert_eq!((probe.starts(), probe.live()), (100, 0));
        assert_eq!(live.load(Ordering::SeqCst), 1);
    }

    /// R12: fifty followers on tasks of their own, all leaving or staying by their own will.
    async fn half_of_fifty_followers_aborted_leaves_one_run_to_the_rest() {
        let probe = Probe::new();
        let ctx = Ctx::new(probe.clone());
        let mut calls = (0..50).map(|_| caller!(ctx, gated, 1)).collect::<Vec<_>>();
        let mut anchor = ctx.run(gated, 1);
        assert!(poll_once(&mut anchor).is_pending());
        for call in calls.iter().step_by(2) {
            call.abort();
        }
        for (nth, call) in calls.iter_mut().enumerate() {
            if nth % 2 == 0 {
                assert!(call.await.unwrap_err().is_cancelled());
            }
        }
        probe.gate.open();
        for (nth, call) in calls.into_iter().enumerate() {
            if nth % 2 == 1 {
                assert_eq!(call.await.unwrap().unwrap(), 10);
            }
        }
        assert_eq!(anchor.await.unwrap(), &10);
        assert_eq!(probe.starts(), 1);
    }

    /// R11, R10: leaving one of two different runs leaves the other alone.
    async fn dropping_a_run_leaves_its_neighbours_alone() {
        let probe = Probe::new();
        let ctx = Ctx::new(probe.clone());
        let mut kept = ctx.run(gated, 1);
        let mut left = ctx.run(never, 1);
        assert!(poll_once(&mut kept).is_pending());
        assert!(poll_once(&mut left).is_pending());
        drop(left);
        assert_eq!((probe.starts(), probe.live()), (2, 1));
        assert_eq!(ctx.run(at_once, 1).await.unwrap(), &10);
        probe.gate.open();
        assert_eq!(kept.await.unwrap(), &10);
        assert_eq!(probe.starts(), 3);
    }
}

/// So many callers, one after another, each of whom waits for 20 ms.
async fn impatient(ctx: &Ctx<P>, callers: usize) {
    for _ in 0..callers {
        let _ = timeout(ms(20), ctx.run(slow, 1)).await;
    }
}

/// Drops the driver when it has polled so many times: first as the only caller, then beside a waiter.
async fn drop_after(polls: usize) {
    let begun = usize::from(polls > 0);
    let probe = Probe::new();
    let ctx = Ctx::new(probe.clone());
    let mut only = ctx.run(stepped, 5);
    for _ in 0..polls {
        assert!(poll_once(&mut only).is_pending());
    }
    assert_eq!(probe.live(), begun);
    drop(only);
    assert_eq!((probe.starts(), probe.live()), (begun, 0));
    assert!(ctx.peek(stepped, &5).is_none());
    assert_eq!(ctx.run(stepped, 5).await.unwrap(), &50);
    assert_eq!((probe.starts(), probe.live()), (begun + 1, 0));

    // One step more, for the poll by which the waiter joins.
    let probe = Probe::new();
    let ctx = Ctx::new(probe.clone());
    let mut first = ctx.run(stepped, 6);
    for _ in 0..polls {
        assert!(poll_once(&mut first).is_pending());
    }
    let mut waiter = ctx.run(stepped, 6);
    assert!(poll_once(&mut waiter).is_pending());
    drop(first);
    assert_eq!((probe.starts(), probe.live()), (1, 1));
    assert_eq!(waiter.await.unwrap(), &60);
    assert_eq!((probe.starts(), probe.live()), (1, 0));
}

/// State whose bodies turn against their own callers.
struct Suicidal {
    probe: P,
    driver: Mutex<Option<AbortHandle>>,
    victim: Mutex<Option<BoxFuture<'static, ()>>>,
}

impl Default for Suicidal {
    fn default() -> Self {
        Self {
            probe: Probe::new(),
            driver: Mutex::default(),
            victim: Mutex::default(),
        }
    }
}

async fn aborts_its_driver(ctx: Ctx<Arc<Suicidal>>, n: u64) -> Result<u64, TaskError> {
    let _body = ctx.state().probe.enter();
    ctx.state().probe.gate.passed().await;
    let driver = ctx.state().driver.lock().unwrap().take();
    if let Some(driver) = driver {
        driver.abort();
    }
    yields(1).await;
    Ok(n * 10)
}

async fn drops_a_caller(ctx: Ctx<Arc<Suicidal>>, n: u64) -> Result<u64, TaskError> {
    let _body = ctx.state().probe.enter();
    ctx.state().probe.gate.passed().await;
    let victim = ctx.state().victim.lock().unwrap().take();
    drop(victim.expect("the test put a caller in"));
    yields(1).await;
    Ok(n * 10)
}

/// A key that tells how many of its kind are alive.
struct Key {
    id: u64,
    live: Arc<AtomicIsize>,
}

impl Key {
    fn new(id: u64, live: &Arc<AtomicIsize>) -> Self {
        live.fetch_add(1, Ordering::SeqCst);
        Self {
            id,
            live: Arc::clone(live),
        }
    }
}

impl Clone for Key {
    fn clone(&self) -> Self {
        Self::new(self.id, &self.live)
    }
}

impl Drop for Key {
    fn drop(&mut self) {
        self.live.fetch_sub(1, Ordering::SeqCst);
    }
}

impl PartialEq for Key {
    fn eq(&self, other: &Self) -> bool {
        self.id == other.id
    }
}

impl Eq for Key {}

impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.id.hash(state);
    }
}

async fn by_key(ctx: Ctx<P>, key: Key) -> Result<u64, TaskError> {
    let _body = ctx.state().enter();
    ctx.state().gate.passed().await;
    Ok(key.id * 10)
}
