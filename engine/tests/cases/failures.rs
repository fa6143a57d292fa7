//! Failures: who shares them, how long they are kept, and what they still tell.

use std::error::Error;
use std::fmt;
use std::io;
use std::sync::Arc;

use futures::future::join_all;
use tokio::time::{Instant, sleep};
use watershed::{Ctx, Task, TaskError, TaskErrorKind};

use crate::helpers::{P, Probe, assert_took, gated, ms, poll_once, yields};

/// What the tasks here fail with: which run it was, and why.
#[derive(Debug)]
struct Down {
    run: usize,
    cause: io::Error,
}

impl Down {
    fn in_run(run: usize) -> Self {
        Self {
            run,
            cause: io::Error::new(io::ErrorKind::ConnectionRefused, "connection refused"),
        }
    }
}

impl fmt::Display for Down {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "store down in run {}", self.run)
    }
}

impl Error for Down {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&self.cause)
    }
}

/// Its first run fails once the gate is open, for now; later ones succeed.
async fn flaky(ctx: Ctx<P>, n: u64) -> Result<u64, Down> {
    let body = ctx.state().enter();
    ctx.state().gate.passed().await;
    if body.nth == 1 {
        return Err(ctx.transient(Down::in_run(body.nth)));
    }
    Ok(n * 10)
}

/// Its first run fails once the gate is open; later ones would succeed.
async fn fails_once(ctx: Ctx<P>, n: u64) -> Result<u64, Down> {
    let body = ctx.state().enter();
    ctx.state().gate.passed().await;
    if body.nth == 1 {
        Err(Down::in_run(body.nth))
    } else {
        Ok(n * 10)
    }
}

/// Fails after 25 ms, each time.
async fn fails_late(ctx: Ctx<P>, n: u64) -> Result<u64, Down> {
    let body = ctx.state().enter();
    sleep(ms(25)).await;
    if n > 0 {
        Err(Down::in_run(body.nth))
    } else {
        Ok(n)
    }
}

/// As [`fails_late`], for now.
async fn fails_late_for_now(ctx: Ctx<P>, n: u64) -> Result<u64, Down> {
    let body = ctx.state().enter();
    sleep(ms(25)).await;
    if n > 0 {
        Err(ctx.transient(Down::in_run(body.nth)))
    } else {
        Ok(n)
    }
}

/// Seven, after 60 ms.
async fn seven_late(ctx: Ctx<P>, _: u64) -> Result<u64, Down> {
    let _body = ctx.state().enter();
    sleep(ms(60)).await;
    Ok(7)
}

/// Seven, after 2 ms.
async fn seven_soon(ctx: Ctx<P>, _: u64) -> Result<u64, Down> {
    let _body = ctx.state().enter();
    sleep(ms(2)).await;
    Ok(7)
}

/// Fails after 10 ms; counts nothing.
async fn fails_soon(_: Ctx<P>, n: u64) -> Result<u64, Down> {
    sleep(ms(10)).await;
    if n > 0 { Err(Down::in_run(0)) } else { Ok(n) }
}

/// Fails at its second poll, with the whole chain of causes.
async fn fails(ctx: Ctx<P>, n: u64) -> Result<u64, Down> {
    let body = ctx.state().enter();
    yields(1).await;
    if n > 0 {
        Err(Down::in_run(body.nth))
    } else {
        Ok(n)
    }
}

/// The run whose failure this is.
fn run_of(error: &TaskError) -> usize {
    error
        .downcast_ref::<Down>()
        .expect("the task's own error")
        .run
}

on_both_runtimes! {
    /// R35
    async fn a_transient_failure_is_shared_by_those_who_wait_and_not_kept() {
        let probe = Probe::new();
        let ctx = Ctx::new(probe.clone());
        let mut calls = (0..4).map(|_| ctx.run(flaky, 1)).collect::<Vec<_>>();
        for call in &mut calls {
            assert!(poll_once(call).is_pending());
        }
        let elsewhere = caller!(ctx, flaky, 1);
        // It has joined, or it is a later caller; both are fine, and both are the contract.
        probe.gate.open();
        for error in join_all(calls).await {
            assert_eq!(run_of(&error.unwrap_err()), 1);
        }
        match elsewhere.await.unwrap() {
            Ok(value) => assert_eq!(value, 10),
            Err(error) => assert_eq!(run_of(&error), 1),
        }
        assert!(!matches!(ctx.peek(flaky, &1), Some(Err(_))), "no failure is stored");
        assert_eq!(ctx.run(flaky, 1).await.unwrap(), &10);
        assert_eq!(ctx.run(flaky, 1).await.unwrap(), &10);
        assert_eq!(probe.starts(), 2);
    }

    /// R35
    async fn an_unmarked_failure_is_kept_until_it_is_forgotten() {
        let probe = Probe::new();
        let ctx = Ctx::new(probe.clone());
        probe.gate.open();
        for _ in 0..5 {
            assert_eq!(run_of(&ctx.run(fails_once, 1).await.unwrap_err()), 1);
        }
        assert!(matches!(ctx.peek(fails_once, &1), Some(Err(_))));
        assert_eq!(probe.starts(), 1);
        assert!(ctx.forget(fails_once, &1));
        assert_eq!(ctx.run(fails_once, 1).await.unwrap(), &10);
        assert!(matches!(ctx.peek(fails_once, &1), Some(Ok(10))));
        assert_eq!(probe.starts(), 2);
    }

    /// R35: marking one run says nothing about the next of the same task.
    async fn the_mark_counts_for_the_run_that_set_it() {
        async fn worse_each_time(ctx: Ctx<P>, _: u64) -> Result<u64, Down> {
            let body = ctx.state().enter();
            yields(1).await;
            let error = Down::in_run(body.nth);
            Err(if body.nth == 1 { ctx.transient(error) } else { error })
        }
        let probe = Probe::new();
        let ctx = Ctx::new(probe.clone());
        assert_eq!(run_of(&ctx.run(worse_each_time, 1).await.unwrap_err()), 1);
        assert_eq!(run_of(&ctx.run(worse_each_time, 1).await.unwrap_err()), 2);
        assert_eq!(run_of(&ctx.run(worse_each_time, 1).await.unwrap_err()), 2);
        assert_eq!(probe.starts(), 2);
    }

    /// R35: a parent that passes a transient failure on would otherwise remember what its child does not.
    async fn a_parent_does_not_remember_the_transient_failure_of_its_child() {
        async fn parent(ctx: Ctx<Arc<(P, P)>>, n: u64) -> Result<u64, TaskError> {
            let _body = ctx.state().0.enter();
            Ok(*ctx.run(child, n).await? + 1)
        }
        async fn child(ctx: Ctx<Arc<(P, P)>>, n: u64) -> Result<u64, Down> {
            let body = ctx.state().1.enter();
            yields(1).await;
            if body.nth == 1 { Err(ctx.transient(Down::in_run(body.nth))) } else { Ok(n * 10) }
        }
        let probes = Arc::new((Probe::new(), Probe::new()));
        let ctx = Ctx::new(probes.clone());
        assert_eq!(run_of(&ctx.run(parent, 1).await.unwrap_err()), 1);
        assert_eq!(ctx.run(parent, 1).await.unwrap(), &11);
        assert_eq!((probes.0.starts(), probes.1.starts()), (2, 2));
    }

    /// R35: a run that was given up is no failure, and is not remembered as one.
    async fn a_given_up_run_is_not_remembered_as_a_failure() {
        let probe = Probe::new();
        let ctx = Ctx::new(probe.clone());
        let given_up = caller!(ctx, gated, 1);
        probe.until_started(1).await;
        given_up.abort();
        assert!(given_up.await.unwrap_err().is_cancelled());
        assert!(ctx.peek(gated, &1).is_none());
        probe.gate.open();
        assert_eq!(ctx.run(gated, 1).await.unwrap(), &10);
        assert_eq!(probe.starts(), 2);
    }

    /// R36
    async fn twenty_callers_of_a_failing_body_end_with_it() {
        let probe = Probe::new();
        let ctx = Ctx::new(probe.clone());
        let began = Instant::now();
        let errors = join_all((0..20).map(|_| ctx.run(fails_late, 1))).await;
        assert_took(began.elapsed(), ms(25));
        share_one(errors);
        assert_eq!(probe.starts(), 1);
    }

    /// R36: not keeping a failure is no reason to try once for each waiter.
    async fn twenty_callers_of_a_transient_failure_end_with_it() {
        let probe = Probe::new();
        let ctx = Ctx::new(probe.clone());
        let began = Instant::now();
        let errors = join_all((0..20).map(|_| ctx.run(fails_late_for_now, 1))).await;
        assert_took(began.elapsed(), ms(25));
        share_one(errors);
        assert_eq!(probe.starts(), 1);
    }

    /// R36: on tasks of their own, some of which leave.
    async fn waiters_of_a_failing_body_do_not_take_turns() {
        let probe = Probe::new();
        let ctx = Ctx::new(probe.clone());
        let mut anchors = (0..20).map(|_| ctx.run(fails_once, 1)).collect::<Vec<_>>();
        for anchor in &mut anchors {
            assert!(poll_once(anchor).is_pending());
        }
        anchors.drain(..10);
        let others = (0..10).map(|_| caller!(ctx, fails_once, 1)).collect::<Vec<_>>();
        probe.gate.open();
        for error in join_all(anchors).await {
            assert_eq!(run_of(&error.unwrap_err()), 1);
        }
        for other in others {
            assert_eq!(run_of(&other.await.unwrap().unwrap_err()), 1);
        }
        assert_eq!(probe.starts(), 1);
    }

    /// R37
    async fn a_sibling_that_a_failing_group_cancelled_is_not_stored_as_cancelled() {
        let probe = Probe::new();
        let ctx = Ctx::new(probe.clone());
        let group = ctx.parallel((seven_late.with(1), fails_soon.with(1))).await;
        assert_eq!(group.unwrap_err().kind(), TaskErrorKind::Failed);
        assert!(!matches!(ctx.peek(seven_late, &1), Some(Err(_))));
        assert_eq!(ctx.run(seven_late, 1).await.unwrap(), &7);
        assert!((1..=2).contains(&probe.starts()), "kept or run again");
    }

    /// R37: in any order, and by every way to wait for several.
    async fn no_kind_of_group_stores_a_cancellation() {
        let probe = Probe::new();
        let ctx = Ctx::new(probe.clone());
        let group = ctx.parallel((fails_soon.with(1), seven_late.with(1))).await;
        assert_eq!(group.unwrap_err().kind(), TaskErrorKind::Failed);
        assert_eq!(ctx.run(seven_late, 1).await.unwrap(), &7);

        let ctx = Ctx::new(probe.clone());
        let group = tokio::try_join!(ctx.run(seven_late, 1), ctx.run(fails_soon, 1));
        assert_eq!(group.unwrap_err().kind(), TaskErrorKind::Failed);
        assert_eq!(ctx.run(seven_late, 1).await.unwrap(), &7);

        let ctx = Ctx::new(probe.clone());
        let calls = [seven_late.with(1).boxed(), fails_soon.with(1).boxed()];
        assert_eq!(ctx.run_all(calls).await.unwrap_err().kind(), TaskErrorKind::Failed);
        assert_eq!(ctx.run(seven_late, 1).await.unwrap(), &7);

        async fn one_fails(ctx: Ctx<P>, n: u64) -> Result<u64, Down> {
            let _body = ctx.state().enter();
            sleep(ms(if n == 1 { 10 } else { 60 })).await;
            if n == 1 { Err(Down::in_run(0)) } else { Ok(7) }
        }
        let ctx = Ctx::new(probe.clone());
        let group = ctx.parallel_all((0..3).map(|n| one_fails.with(n)), 3).await;
        assert_eq!(group.unwrap_err().kind(), TaskErrorKind::Failed);
        for n in [0, 2] {
            assert_eq!(ctx.run(one_fails, n).await.unwrap(), &7);
        }
        assert!((6..=11).contains(&probe.starts()), "each kept or run again, once");
    }

    /// R37: what had succeeded before the group failed is a hit.
    async fn a_sibling_that_was_done_stays_done() {
        let probe = Probe::new();
        let ctx = Ctx::new(probe.clone());
        // It is done before the other one may fail, whatever the machine does meanwhile.
        let (value, group) = tokio::join!(
            ctx.run(seven_soon, 1),
            ctx.parallel((seven_soon.with(1), fails_after_seven.with(1)))
        );
        assert_eq!(value.unwrap(), &7);
        assert_eq!(group.unwrap_err().kind(), TaskErrorKind::Failed);
        assert!(matches!(ctx.peek(seven_soon, &1), Some(Ok(7))));
        assert_eq!(ctx.run(seven_soon, 1).await.unwrap(), &7);
        assert_eq!(probe.starts(), 1);
    }

    /// R38
    async fn a_sole_caller_owns_an_error_with_its_whole_chain() {
        async fn handler(ctx: &Ctx<P>) -> anyhow::Result<u64> {
            Ok(*ctx.run(fails, 1).await?)
        }
        let probe = Probe::new();
        let ctx = Ctx::new(probe.clone());
        let error: TaskError = ctx.run(fails, 1).await.unwrap_err();
        let outer = handler(&ctx).await.unwrap_err();
        drop(ctx);
        // Owned: it outlives the context it came from.
        assert_eq!(error.downcast_ref::<Down>().unwrap().run, 1);
        let source = error.source().expect("the task's error");
        assert_eq!(source.to_string(), "store down in run 1");
        let cause = source.source().expect("its cause");
        assert_eq!(cause.to_string(), "connection refused");
        assert_eq!(error.downcast_ref::<io::Error>().unwrap().kind(), io::ErrorKind::ConnectionRefused);
        let chain = outer.chain().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(chain.last().unwrap(), "connection refused");
        assert!(chain.iter().any(|text| text == "store down in run 1"), "{chain:?}");
        assert_eq!(outer.downcast_ref::<TaskError>().unwrap().kind(), TaskErrorKind::Failed);
        assert_eq!(probe.starts(), 1);
    }

    /// R38: passed on by two tasks, it is still the first failure and not a wrapper of a wrapper.
    async fn an_error_passed_on_keeps_its_chain() {
        async fn middle(ctx: Ctx<P>, n: u64) -> Result<u64, TaskError> {
            let _body = ctx.state().enter();
            Ok(*ctx.run(fails, n).await? + 1)
        }
        async fn top(ctx: Ctx<P>, n: u64) -> anyhow::Result<u64> {
            let _body = ctx.state().enter();
            Ok(*ctx.run(middle, n).await? + 1)
        }
        let probe = Probe::new();
        let ctx = Ctx::new(probe.clone());
        let error = ctx.run(middle, 1).await.unwrap_err();
        assert!(error.downcast_ref::<Down>().is_some());
        assert!(error.downcast_ref::<io::Error>().is_some());
        let text = error.to_string();
        assert!(text.contains("middle > fails") && text.contains("store down in run"), "{text}");
        let through_anyhow = ctx.run(top, 1).await.unwrap_err();
        assert_eq!(through_anyhow.kind(), TaskErrorKind::Failed);
        assert!(through_anyhow.to_string().contains("store down in run"), "{through_anyhow}");
        assert_eq!(probe.starts(), 3);
    }
}

/// Fails when `seven_soon` of the same input is there.
async fn fails_after_seven(ctx: Ctx<P>, n: u64) -> Result<u64, TaskError> {
    let value = *ctx.run(seven_soon, n).await?;
    Err(TaskError::new(Down::in_run(value as usize)))
}

/// All of them are errors, and the very same one.
fn share_one(results: Vec<Result<&u64, TaskError>>) {
    let errors = results
        .into_iter()
        .map(|result| result.expect_err("the body fails"))
        .collect::<Vec<_>>();
    let first = errors[0].downcast_ref::<Down>().unwrap();
    for error in &errors {
        assert!(std::ptr::eq(first, error.downcast_ref::<Down>().unwrap()));
    }
    assert_eq!((errors.len(), first.run), (20, 1));
}

/// R38: handing an error to a caller is the price of one reference count.
const _: () = assert!(size_of::<TaskError>() == size_of::<usize>());
