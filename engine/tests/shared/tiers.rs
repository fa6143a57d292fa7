//! The tier under the context of a request, and under its own runs.

use super::support::{Count, Drops, Token, both_runtimes, now, poll_once, until};
use super::{SECOND, World, gated, stamp, tier};
use watershed::{Ctx, Shared, Task, TaskError, TaskErrorKind};

struct Request {
    shared: Shared<World>,
    user: &'static str,
}

impl AsRef<Shared<World>> for Request {
    fn as_ref(&self) -> &Shared<World> {
        &self.shared
    }
}

fn request(shared: &Shared<World>, user: &'static str) -> Ctx<Request> {
    Ctx::new(Request {
        shared: shared.clone(),
        user,
    })
}

async fn greeting(ctx: Ctx<Request>, n: u64) -> Result<String, TaskError> {
    let price = ctx.run_shared(stamp, n).await?;
    Ok(format!("{} {price}", ctx.state().user))
}

/// R67: the shared part is shared, the request's own is not.
#[test]
fn requests_share_the_tier_and_nothing_of_their_own() {
    both_runtimes(|| async {
        let shared = tier().build();
        let (ada, bob) = (request(&shared, "Ada"), request(&shared, "Bob"));
        let (a, b) = futures::join!(ada.run(greeting, 1), bob.run(greeting, 1));
        assert_eq!(
            (a.unwrap().as_str(), b.unwrap().as_str()),
            ("Ada 1", "Bob 1")
        );
        assert_eq!(shared.state().starts.get(), 1);
    });
}

/// R67: what a request has in a task-local is not seen by a run that it starts.
#[test]
fn a_run_sees_nothing_of_the_task_that_started_it() {
    tokio::task_local! { static USER: &'static str; }
    async fn peeks(_: Ctx<World>, _: ()) -> Result<bool, String> {
        tokio::task::yield_now().await;
        Ok(USER.try_with(|_| ()).is_ok())
    }
    both_runtimes(|| async {
        let shared = tier().build();
        let seen = USER.scope("Ada", async {
            shared.run(peeks, ()).await.map(|seen| *seen)
        });
        assert!(!seen.await.unwrap());
    });
}

#[tokio::test(start_paused = true)]
async fn a_request_sees_one_value_even_if_a_refresh_comes_meanwhile() {
    let shared = tier().ttl(10 * SECOND).refresh_after(SECOND).build();
    let old = request(&shared, "Ada");
    let first: &usize = old.run_shared(stamp, 1).await.unwrap();
    tokio::time::advance(SECOND).await;
    assert_eq!(*shared.run(stamp, 1).await.unwrap(), 1);
    until(|| shared.stats().refreshed == 1).await;
    assert_eq!(*shared.run(stamp, 1).await.unwrap(), 2);
    let again = old.run_shared(stamp, 1).await.unwrap();
    assert!(std::ptr::eq(first, again));
    shared.forget(stamp, &1);
    assert!(std::ptr::eq(first, old.run_shared(stamp, 1).await.unwrap()));
    assert_eq!(
        *request(&shared, "Bob").run_shared(stamp, 1).await.unwrap(),
        3
    );
}

#[test]
fn the_second_call_in_a_request_is_a_hit_of_the_request() {
    both_runtimes(|| async {
        let shared = tier().build();
        let ctx = request(&shared, "Ada");
        let first = ctx.run_shared(stamp, 1).await.unwrap();
        let again = now(ctx.run_shared(stamp, 1)).unwrap();
        assert!(std::ptr::eq(first, again));
        let held = ctx.run_shared(stamp, 1).held().await.unwrap();
        drop(ctx);
        drop(shared);
        assert_eq!(*held, 1);
    });
}

#[test]
fn a_failure_of_the_tier_is_kept_for_the_request_only() {
    both_runtimes(|| async {
        let shared = tier().build();
        *shared.state().fails.lock().unwrap() = Some("no answer");
        let ctx = request(&shared, "Ada");
        let error = ctx.run(greeting, 1).await.unwrap_err();
        assert_eq!(error.to_string(), "greeting > stamp failed: no answer");
        assert!(ctx.run_shared(stamp, 1).await.is_err());
        assert_eq!(*shared.run(stamp, 1).await.unwrap(), 2);
        assert!(ctx.run_shared(stamp, 1).await.is_err());
    });
}

/// A state that is the tier's own: the request's run of a task and the tier's are not the same.
#[test]
fn a_task_may_run_in_the_request_and_in_the_tier() {
    struct Both {
        starts: Count,
        shared: std::sync::OnceLock<Shared<Both>>,
    }
    impl AsRef<Shared<Both>> for Both {
        fn as_ref(&self) -> &Shared<Both> {
            self.shared.get().unwrap()
        }
    }
    async fn starts(ctx: Ctx<Both>, _: ()) -> Result<usize, String> {
        Ok(ctx.state().starts.add())
    }
    both_runtimes(|| async {
        let count = Count::default();
        let new = |shared| Both {
            starts: count.clone(),
            shared,
        };
        let shared = Shared::new(new(std::sync::OnceLock::new()));
        let ctx = Ctx::new(new(shared.clone().into()));
        assert_eq!(ctx.run(starts, ()).await.unwrap(), &1);
        assert_eq!(ctx.run_shared(starts, ()).await.unwrap(), &2);
        assert_eq!(ctx.run(starts, ()).await.unwrap(), &1);
        assert_eq!(ctx.run_shared(starts, ()).await.unwrap(), &2);
        assert_eq!(*shared.run(starts, ()).await.unwrap(), 2);
    });
}

// --- what a body of the tier calls -----------------------------------------------------------------

async fn sum(ctx: Ctx<World>, n: u64) -> Result<usize, TaskError> {
    let one = ctx.run(stamp, n).await?;
    let again = ctx.run(stamp, n).await?;
    assert!(std::ptr::eq(one, again));
    Ok(*one)
}

#[test]
fn what_a_body_of_the_tier_calls_comes_from_the_tier() {
    both_runtimes(|| async {
        let shared = tier().build();
        assert_eq!(*shared.run(sum, 1).await.unwrap(), 1);
        assert_eq!(*shared.run(stamp, 1).await.unwrap(), 1);
        assert_eq!(shared.state().starts.get(), 1);
        shared.forget(sum, &1);
        assert_eq!(*shared.run(sum, 1).await.unwrap(), 1);
        assert_eq!(shared.len(), 2);
    });
}

#[test]
fn a_body_sees_one_value_for_its_whole_run() {
    async fn twice(ctx: Ctx<World>, _: ()) -> Result<bool, TaskError> {
        let first = ctx.run(stamp, 1).await?;
        ctx.state().gate.passed().await;
        let second = ctx.run(stamp, 1).await?;
        Ok(std::ptr::eq(first, second))
    }
    both_runtimes(|| async {
        let shared = tier().build();
        let mut call = shared.run(twice, ());
        assert!(poll_once(&mut call).is_pending());
        until(|| shared.peek(stamp, &1).is_some()).await;
        shared.forget(stamp, &1);
        assert_eq!(*shared.run(stamp, 1).await.unwrap(), 2);
        shared.state().gate.open();
        assert!(*call.await.unwrap());
    });
}

#[test]
fn a_body_of_the_tier_has_all_of_a_context() {
    async fn all(ctx: Ctx<World>, _: ()) -> Result<usize, TaskError> {
        let (a, b) = ctx.parallel((stamp.with(1), stamp.with(2))).await?;
        let list = ctx
            .parallel_all([3, 1, 2].map(|n| stamp.with(n)), 2)
            .await?;
        assert!(std::ptr::eq(list[1], a) && std::ptr::eq(list[2], b));
        ctx.spawn(stamp, 4)?;
        ctx.run_all([stamp.with(4).boxed()]).await?;
        assert!(ctx.peek(stamp, &4).unwrap().is_ok());
        assert_eq!(
            ctx.run(stamp, 4).held().await?,
            ctx.run(stamp, 4).held().await?
        );
        let fresh = ctx.run_fresh(stamp, 1).await?;
        assert_eq!(fresh, 5);
        assert_eq!(ctx.prime(stamp, 9, 90), Ok(()));
        assert_eq!(ctx.prime(stamp, 9, 91), Err(91));
        assert_eq!(ctx.run(stamp, 9).await?, &90);
        assert!(ctx.forget(stamp, &9));
        assert_eq!(ctx.run(stamp, 9).await?, &6);
        Ok(ctx.state().starts.get())
    }
    both_runtimes(|| async {
        let shared = tier().build();
        assert_eq!(*shared.run(all, ()).await.unwrap(), 6);
        assert_eq!(shared.len(), 6);
    });
}

#[test]
fn a_failure_in_the_tier_is_named_by_its_path() {
    async fn outer(ctx: Ctx<World>, n: u64) -> Result<usize, TaskError> {
        Ok(*ctx.run(sum, n).await?)
    }
    both_runtimes(|| async {
        let shared = tier().build();
        *shared.state().fails.lock().unwrap() = Some("no answer");
        let error = shared.run(outer, 1).await.unwrap_err();
        assert_eq!(error.to_string(), "outer > sum > stamp failed: no answer");
        assert_eq!(*shared.run(outer, 1).await.unwrap(), 2);
    });
}

#[test]
fn what_a_body_spawned_ends_with_its_run() {
    async fn leaves(ctx: Ctx<World>, _: ()) -> Result<(), TaskError> {
        async fn waits(ctx: Ctx<World>, _: ()) -> Result<(), String> {
            ctx.state().gate.passed().await;
            ctx.state().ends.add();
            Ok(())
        }
        ctx.spawn(waits, ())
    }
    both_runtimes(|| async {
        let shared = tier().build();
        shared.run(leaves, ()).await.unwrap();
        shared.state().gate.open();
        // The one that was spawned asked the tier, and that run is nobody's: it runs on.
        until(|| shared.stats().running == 0).await;
    });
}

/// A value keeps itself and nothing of the run that made it.
#[test]
fn a_value_keeps_nothing_of_its_run() {
    async fn part(ctx: Ctx<Drops>, _: u64) -> Result<Token, String> {
        Ok(ctx.state().token())
    }
    async fn whole(ctx: Ctx<Drops>, n: u64) -> Result<u64, TaskError> {
        ctx.run(part, n).await?;
        Ok(n)
    }
    both_runtimes(|| async {
        let drops = Drops::default();
        let shared = Shared::new(drops.clone());
        for n in 0..10 {
            shared.run(whole, n).await.unwrap();
        }
        assert_eq!(shared.forget_all(part), 10);
        // What waits for readers goes with what comes.
        while drops.live() > 8 {
            shared.run(part, 100).await.unwrap();
            shared.forget(part, &100);
        }
        assert_eq!(shared.len(), 10);
    });
}

#[test]
fn a_shut_down_tier_is_an_error_in_the_request() {
    both_runtimes(|| async {
        let shared = tier().build();
        assert!(shared.shutdown(SECOND).await.unwrap().is_empty());
        let ctx = request(&shared, "Ada");
        let error = ctx.run_shared(gated, 1).await.unwrap_err();
        assert_eq!(error.kind(), TaskErrorKind::Cancelled);
        assert!(error.to_string().contains("shut down"), "{error}");
    });
}
