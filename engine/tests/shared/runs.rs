//! One run for all callers, and who may leave it.

use std::time::Duration;

use super::support::{both_runtimes, now, poll_once, until};
use super::{SECOND, gated, slow, stamp, tier};
use watershed::{Ctx, Shared, TaskErrorKind};

async fn length(_: Ctx<u64>, text: String) -> Result<usize, String> {
    Ok(text.len())
}

async fn text(_: Ctx<u64>, n: u64) -> Result<String, String> {
    Ok(n.to_string())
}

#[test]
fn all_callers_share_one_run_and_one_value() {
    both_runtimes(|| async {
        let shared = tier().build();
        let calls: Vec<_> = (0..100)
            .map(|_| {
                let shared = shared.clone();
                tokio::spawn(async move { shared.run(gated, 1).await })
            })
            .collect();
        until(|| shared.stats().waits == 99).await;
        assert_eq!(shared.state().starts.get(), 1);
        shared.state().gate.open();
        let mut values = Vec::new();
        for call in calls {
            values.push(call.await.unwrap().unwrap());
        }
        assert!(
            values
                .iter()
                .all(|value| std::ptr::eq(&**value, &*values[0]))
        );
        assert_eq!(shared.state().starts.get(), 1);
        assert_eq!(shared.stats().running, 0);
    });
}

#[test]
fn a_value_is_a_hit_from_then_on_also_without_a_runtime() {
    let runtime = super::support::current_thread();
    let shared = Shared::new(0);
    runtime.block_on(async { shared.run(length, "river").await.unwrap() });
    let again = now(shared.run(length, "river")).unwrap();
    assert_eq!(*again, 5);
    assert_eq!(*now(shared.run(length, "river".to_owned())).unwrap(), 5);
    assert_eq!(*shared.run(length, "river").wait().unwrap(), 5);
    assert_eq!(shared.stats().started, 1);
    assert_eq!(shared.len(), 1);
}

#[test]
fn other_inputs_and_other_tasks_have_runs_of_their_own() {
    both_runtimes(|| async {
        let shared = Shared::new(7);
        assert_eq!(*shared.run(text, 1).await.unwrap(), "1");
        assert_eq!(*shared.run(text, 2).await.unwrap(), "2");
        assert_eq!(*shared.run(length, "2").await.unwrap(), 1);
        assert_eq!(shared.stats().started, 3);
        assert_eq!(shared.state(), &7);
    });
}

#[test]
fn without_a_runtime_a_run_that_has_to_start_says_so_and_leaves_nothing() {
    let shared = tier().build();
    for _ in 0..2 {
        let error = now(shared.run(stamp, 1)).unwrap_err();
        assert_eq!(error.kind(), TaskErrorKind::NoRuntime);
        assert!(error.to_string().contains("tokio"), "{error}");
    }
    assert_eq!(shared.len(), 0);
    assert!(!shared.forget(stamp, &1));
    let runtime = super::support::current_thread();
    runtime.block_on(async { shared.run(stamp, 1).await.unwrap() });
}

#[test]
fn a_call_that_was_never_polled_did_nothing() {
    both_runtimes(|| async {
        let shared = tier().build();
        drop(shared.run(stamp, 1));
        tokio::task::yield_now().await;
        assert_eq!(shared.state().starts.get(), 0);
        assert_eq!(shared.stats().started, 0);
        assert!(!shared.forget(stamp, &1));
    });
}

/// R03: 50 callers give up after 20 ms each; the run takes a second and is started once.
#[test]
fn callers_that_give_up_do_not_start_the_run_again() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build()
        .unwrap();
    runtime.block_on(async {
        let shared = tier().build();
        let start = tokio::time::Instant::now();
        for _ in 0..40 {
            let call = tokio::time::timeout(Duration::from_millis(20), shared.run(slow, 1));
            assert!(call.await.is_err());
        }
        assert_eq!(*shared.run(slow, 1).await.unwrap(), 1);
        assert_eq!(start.elapsed().as_millis(), 1000);
        assert_eq!(shared.state().starts.get(), 1);
        assert_eq!(shared.stats().started, 1);
    });
}

/// R03, R21: nobody is left, and the run ends all the same.
#[test]
fn a_run_that_everybody_left_runs_on() {
    both_runtimes(|| async {
        let shared = tier().build();
        let mut call = shared.run(gated, 1);
        assert!(poll_once(&mut call).is_pending());
        drop(call);
        until(|| shared.state().starts.get() == 1).await;
        shared.state().gate.open();
        until(|| shared.peek(gated, &1).is_some()).await;
        assert_eq!(*shared.run(gated, 1).await.unwrap(), 1);
        assert_eq!(shared.state().starts.get(), 1);
    });
}

/// R10: the first caller's request is cancelled; who waits with it is not.
#[test]
fn the_end_of_the_first_callers_request_does_not_reach_the_others() {
    struct Request(Shared<super::World>);
    impl AsRef<Shared<super::World>> for Request {
        fn as_ref(&self) -> &Shared<super::World> {
            &self.0
        }
    }
    both_runtimes(|| async {
        let shared = tier().build();
        let first = Ctx::new(Request(shared.clone()));
        let mut call = first.run_shared(gated, 1);
        assert!(poll_once(&mut call).is_pending());
        until(|| shared.state().starts.get() == 1).await;
        let other = tokio::spawn({
            let shared = shared.clone();
            async move {
                let second = Ctx::new(Request(shared));
                second.run_shared(gated, 1).await.copied()
            }
        });
        until(|| shared.stats().waits == 1).await;
        first.cancel();
        assert_eq!(call.await.unwrap_err().kind(), TaskErrorKind::Cancelled);
        shared.state().gate.open();
        assert_eq!(other.await.unwrap().unwrap(), 1);
        assert_eq!(shared.state().starts.get(), 1);
    });
}

#[test]
fn inputs_run_side_by_side() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build()
        .unwrap();
    runtime.block_on(async {
        let shared = tier().build();
        let start = tokio::time::Instant::now();
        let calls = (0..100).map(|n| shared.run(slow, n));
        futures::future::try_join_all(calls).await.unwrap();
        assert_eq!(start.elapsed(), SECOND);
    });
}

#[test]
fn prime_is_refused_while_there_is_something() {
    both_runtimes(|| async {
        let shared = tier().build();
        assert_eq!(shared.prime(gated, 1, 7), Ok(()));
        assert_eq!(shared.prime(gated, 1, 8), Err(8));
        assert_eq!(*shared.run(gated, 1).await.unwrap(), 7);
        let mut call = shared.run(gated, 2);
        assert!(poll_once(&mut call).is_pending());
        assert_eq!(shared.prime(gated, 2, 8), Err(8));
        shared.state().gate.open();
        assert_eq!(*call.await.unwrap(), 1);
        assert_eq!(shared.prime(gated, 2, 8), Err(8));
        assert!(shared.forget(gated, &2));
        assert_eq!(shared.prime(gated, 2, 8), Ok(()));
    });
}

#[test]
fn forget_all_forgets_one_task() {
    both_runtimes(|| async {
        let shared = Shared::new(0);
        for n in 0..10 {
            shared.run(text, n).await.unwrap();
        }
        shared.run(length, "x").await.unwrap();
        assert_eq!(shared.len(), 11);
        assert_eq!(shared.forget_all(text), 10);
        assert_eq!(shared.forget_all(text), 0);
        assert_eq!(shared.len(), 1);
        assert!(shared.peek(length, "x").is_some());
        assert!(shared.peek(text, &3).is_none());
    });
}

#[test]
fn the_futures_can_go_anywhere() {
    fn sent<T: Send + Sync + Unpin>(_: &T) {}
    let shared = Shared::new(0);
    sent(&shared.run(text, 1));
    sent(&shared.shutdown(SECOND));
    sent(&shared);
    assert!(size_of_val(&shared.run(text, 1)) <= 32);
}
