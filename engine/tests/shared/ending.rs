//! Shutdown, and runtimes that end.

use std::time::Duration;

use super::support::{current_thread, multi_thread, poll_once, until, watched};
use super::{SECOND, gated, slow, stamp, tier};
use watershed::TaskErrorKind;

#[tokio::test(start_paused = true)]
async fn shutdown_lets_runs_end_within_the_grace_time() {
    let shared = tier().build();
    let mut call = shared.run(slow, 1);
    assert!(poll_once(&mut call).is_pending());
    let start = tokio::time::Instant::now();
    assert_eq!(shared.shutdown(10 * SECOND).await.unwrap(), []);
    assert_eq!(start.elapsed(), SECOND);
    assert_eq!(*call.await.unwrap(), 1);
    // What is kept is still given; nothing new starts.
    assert_eq!(*shared.run(slow, 1).await.unwrap(), 1);
    let error = shared.run(stamp, 1).await.unwrap_err();
    assert_eq!(error.kind(), TaskErrorKind::Cancelled);
    assert_eq!(shared.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn shutdown_drops_what_is_left_and_says_what_it_was() {
    let shared = tier().build();
    let mut call = shared.run(gated, 1);
    assert!(poll_once(&mut call).is_pending());
    let mut quick = shared.run(slow, 1);
    assert!(poll_once(&mut quick).is_pending());
    until(|| shared.state().starts.get() == 2).await;
    let dropped = shared.shutdown(5 * SECOND).await.unwrap();
    assert_eq!(dropped.len(), 1);
    assert!(dropped[0].task.ends_with("gated"));
    assert_eq!(dropped[0].running_for, 5 * SECOND);
    let error = call.await.unwrap_err();
    assert_eq!(error.kind(), TaskErrorKind::Cancelled);
    assert!(error.to_string().contains("shut down"), "{error}");
    assert_eq!(*quick.await.unwrap(), 2);
    until(|| shared.stats().running == 0).await;
    assert_eq!(shared.state().ends.get(), 1);
}

#[tokio::test]
async fn shutdown_with_no_grace_waits_for_nothing() {
    let shared = tier().build();
    let mut call = shared.run(gated, 1);
    assert!(poll_once(&mut call).is_pending());
    assert_eq!(shared.shutdown(Duration::ZERO).await.unwrap().len(), 1);
    assert_eq!(call.await.unwrap_err().kind(), TaskErrorKind::Cancelled);
}

#[test]
fn shutdown_without_a_runtime_says_so_if_it_has_to_wait() {
    let runtime = multi_thread();
    let shared = tier().build();
    assert_eq!(super::support::now(shared.shutdown(SECOND)).unwrap(), []);
    let shared = tier().build();
    runtime.block_on(async {
        let mut call = shared.run(gated, 1);
        assert!(poll_once(&mut call).is_pending());
    });
    let error = super::support::now(shared.shutdown(SECOND)).unwrap_err();
    assert_eq!(error.kind(), TaskErrorKind::NoRuntime);
    assert_eq!(
        super::support::now(shared.shutdown(Duration::ZERO))
            .unwrap()
            .len(),
        1
    );
}

#[test]
fn a_time_limit_on_a_runtime_without_timers_says_so() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    let shared = tier().time_limit(SECOND).build();
    let error = runtime.block_on(async { shared.run(stamp, 1).await.unwrap_err() });
    assert_eq!(error.kind(), TaskErrorKind::NoRuntime);
    assert_eq!(shared.stats().running, 0);
    assert_eq!(shared.len(), 0);
}

#[test]
fn a_run_goes_with_its_runtime_and_who_waits_elsewhere_starts_it_again() {
    watched("lost runtime", || {
        let (one, two) = (multi_thread(), multi_thread());
        let shared = tier().build();
        let mut first = shared.run(gated, 1);
        one.block_on(async { assert!(poll_once(&mut first).is_pending()) });
        let waits = two.spawn({
            let shared = shared.clone();
            async move { shared.run(gated, 1).await.map(|value| *value) }
        });
        two.block_on(until(|| shared.stats().waits == 1));
        two.block_on(until(|| shared.state().starts.get() == 1));
        one.shutdown_background();
        two.block_on(until(|| shared.state().starts.get() == 2));
        shared.state().gate.open();
        assert_eq!(two.block_on(waits).unwrap().unwrap(), 2);
        // The one that is not in a runtime is told, or has it by now.
        assert_eq!(*first.wait().unwrap(), 2);
        assert_eq!(shared.stats().running, 0);
    });
}

#[test]
fn a_runtime_that_drops_what_it_is_given_is_an_error_and_no_loop() {
    watched("dead runtime", || {
        let runtime = current_thread();
        let handle = runtime.handle().clone();
        drop(runtime);
        let _inside = handle.enter();
        let shared = tier().build();
        let error = super::support::now(shared.run(stamp, 1)).unwrap_err();
        assert_eq!(error.kind(), TaskErrorKind::Cancelled);
        assert!(error.to_string().contains("runtime"), "{error}");
        assert_eq!((shared.len(), shared.stats().running), (0, 0));
    });
}

#[test]
fn the_tier_goes_when_its_last_run_has_ended() {
    watched("the end", || {
        let drops = super::support::Drops::default();
        async fn waits(
            ctx: watershed::Ctx<(super::support::Token, super::support::Gate)>,
            _: (),
        ) -> Result<(), String> {
            ctx.state().1.passed().await;
            Ok(())
        }
        let gate = super::support::Gate::new();
        let runtime = multi_thread();
        let shared = watershed::Shared::new((drops.token(), gate.clone()));
        runtime.block_on(async {
            let mut call = shared.run(waits, ());
            assert!(poll_once(&mut call).is_pending());
        });
        drop(shared);
        assert_eq!(drops.live(), 1);
        gate.open();
        runtime.block_on(until(|| drops.live() == 0));
    });
}
