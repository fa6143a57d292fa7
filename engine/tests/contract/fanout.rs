//! What runs on all cores: `parallel`, `parallel_all`, and a router's list of bound calls.

use crate::support::{Count, Drops, Gate, both_runtimes, everywhere, multi_thread, now, poll_once};
use crate::support::{until, watched};
use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Barrier, OnceLock};
use watershed::{BoxedCall, Ctx, Task, TaskError, TaskErrorKind};

#[derive(Clone)]
struct App {
    runs: Count,
    gate: Gate,
    bodies: Drops,
    meet: Arc<Barrier>,
    under_way: Arc<AtomicUsize>,
    most: Arc<AtomicUsize>,
}

impl Default for App {
    fn default() -> App {
        App {
            runs: Count::default(),
            gate: Gate::new(),
            bodies: Drops::default(),
            meet: Arc::new(Barrier::new(3)),
            under_way: Arc::default(),
            most: Arc::default(),
        }
    }
}

async fn same(ctx: Ctx<App>, n: u64) -> Result<u64, TaskError> {
    ctx.state().runs.add();
    Ok(n)
}

async fn text(ctx: Ctx<App>, s: String) -> Result<String, TaskError> {
    ctx.state().runs.add();
    Ok(s + "!")
}

async fn gated(ctx: Ctx<App>, n: u64) -> Result<u64, TaskError> {
    let _body = ctx.state().bodies.token();
    ctx.state().runs.add();
    ctx.state().gate.passed().await;
    Ok(n)
}

async fn fails(_: Ctx<App>, n: u64) -> Result<u64, String> {
    Err(format!("no {n}"))
}

// --- parallel --------------------------------------------------------------------------------------

macro_rules! arities {
    ($(($($n:literal),+))+) => {
        #[test]
        fn parallel_takes_one_to_twelve_calls_and_gives_their_values_in_order() {
            both_runtimes(|| async {
                $({
                    let ctx = Ctx::new(App::default());
                    let got = ctx.parallel(($(same.with($n),)+)).await.unwrap();
                    assert_eq!(got, ($(&$n,)+));
                    $(assert_eq!(ctx.peek(same, &$n).unwrap().unwrap(), &$n);)+
                })+
            });
        }
    };
}
arities! {
    (1)
    (1, 2)
    (1, 2, 3)
    (1, 2, 3, 4)
    (1, 2, 3, 4, 5)
    (1, 2, 3, 4, 5, 6)
    (1, 2, 3, 4, 5, 6, 7)
    (1, 2, 3, 4, 5, 6, 7, 8)
    (1, 2, 3, 4, 5, 6, 7, 8, 9)
    (1, 2, 3, 4, 5, 6, 7, 8, 9, 10)
    (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11)
    (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12)
}

#[test]
fn parallel_mixes_tasks_and_shares_with_what_is_there() {
    both_runtimes(|| async {
        let ctx = Ctx::new(App::default());
        let before = ctx.run(same, 1).await.unwrap();
        let (a, b, c) = ctx
            .parallel((same.with(1), text.with("hi"), same.with(1)))
            .await
            .unwrap();
        assert!(std::ptr::eq(a, before) && std::ptr::eq(a, c));
        assert_eq!(b, "hi!");
        assert_eq!(ctx.state().runs.get(), 2);
    });
}

#[test]
fn parallel_calls_run_on_different_threads() {
    async fn meets(ctx: Ctx<App>, _: u64) -> Result<(), TaskError> {
        // Blocks its thread until all three are here, so one thread alone would never pass.
        ctx.state().meet.wait();
        Ok(())
    }
    watched("three bodies that meet", || {
        multi_thread().block_on(async {
            let ctx = Ctx::new(App::default());
            ctx.parallel((meets.with(1), meets.with(2), meets.with(3)))
                .await
                .unwrap();
        });
    });
}

#[test]
fn the_last_call_of_a_group_runs_on_the_callers_thread() {
    use std::thread::{ThreadId, current};
    async fn whose(_: Ctx<App>, _: u64) -> Result<ThreadId, TaskError> {
        Ok(current().id())
    }
    watched("whose thread", || {
        multi_thread().block_on(async {
            for n in 0..20 {
                let ctx = Ctx::new(App::default());
                let calls = (whose.with(n), whose.with(n + 1), whose.with(n + 2));
                let (a, b, mine) = ctx.parallel(calls).await.unwrap();
                assert_eq!(*mine, current().id());
                assert!(*a != current().id() && *b != current().id());
            }
        });
    });
}

#[test]
fn parallel_inside_a_body() {
    async fn outer(ctx: Ctx<App>, n: u64) -> Result<u64, TaskError> {
        let (a, b) = ctx.parallel((same.with(n), middle.with(n))).await?;
        Ok(a + b)
    }
    async fn middle(ctx: Ctx<App>, n: u64) -> Result<u64, TaskError> {
        let (a, b) = ctx.parallel((same.with(n), same.with(n + 1))).await?;
        Ok(a + b)
    }
    both_runtimes(|| async {
        let ctx = Ctx::new(App::default());
        assert_eq!(*ctx.run(outer, 10).await.unwrap(), 31);
        assert_eq!(ctx.state().runs.get(), 2);
    });
}

#[test]
fn parallel_gives_the_first_error_at_once_and_drops_the_siblings_calls() {
    both_runtimes(|| async {
        for failing_last in [false, true] {
            let ctx = Ctx::new(App::default());
            let failed = if failing_last {
                ctx.parallel((gated.with(1), fails.with(2))).await.map(drop)
            } else {
                ctx.parallel((fails.with(2), gated.with(1))).await.map(drop)
            };
            let failed = failed.unwrap_err();
            assert_eq!(failed.kind(), TaskErrorKind::Failed);
            assert!(failed.to_string().contains("no 2"), "{failed}");
            until(|| ctx.state().bodies.live() == 0).await;
            // Nothing of the sibling's cancellation is kept.
            assert!(ctx.peek(gated, &1).is_none());
            ctx.state().gate.open();
            assert_eq!(*ctx.run(gated, 1).await.unwrap(), 1);
        }
    });
}

#[test]
fn a_sibling_that_others_wait_for_goes_on_when_the_group_fails() {
    both_runtimes(|| async {
        let ctx = Ctx::new(App::default());
        let mut other = ctx.run(gated, 1);
        assert!(poll_once(&mut other).is_pending());
        ctx.parallel((gated.with(1), fails.with(2), gated.with(1)))
            .await
            .unwrap_err();
        ctx.state().gate.open();
        assert_eq!(*other.await.unwrap(), 1);
        assert_eq!(ctx.state().runs.get(), 1);
    });
}

#[test]
fn parallel_dropped_drops_the_bodies_it_alone_waited_for() {
    both_runtimes(|| async {
        let ctx = Ctx::new(App::default());
        let mut group = ctx.parallel((gated.with(1), gated.with(2)));
        assert!(poll_once(&mut group).is_pending());
        until(|| ctx.state().runs.get() == 2).await;
        drop(group);
        until(|| ctx.state().bodies.live() == 0).await;
        ctx.state().gate.open();
        assert_eq!(*ctx.run(gated, 2).await.unwrap(), 2);
        assert_eq!(ctx.state().runs.get(), 3);
    });
}

#[test]
fn without_a_runtime_parallel_is_a_clear_error() {
    watched("no runtime", || {
        let ctx = Ctx::new(App::default());
        let failed = now(ctx.parallel((same.with(1), same.with(2)))).unwrap_err();
        assert_eq!(failed.kind(), TaskErrorKind::NoRuntime);
        assert!(failed.to_string().contains("tokio"), "{failed}");
        let calls = (0..3).map(|n| same.with(n));
        let failed = now(ctx.parallel_all(calls, 2)).unwrap_err();
        assert_eq!(failed.kind(), TaskErrorKind::NoRuntime);
        // It does not stick: the same calls run without one another.
        assert_eq!(*now(ctx.run(same, 1)).unwrap(), 1);
    });
}

// --- parallel_all ----------------------------------------------------------------------------------

async fn crowded(ctx: Ctx<App>, n: u64) -> Result<u64, TaskError> {
    let app = ctx.state();
    let now = app.under_way.fetch_add(1, SeqCst) + 1;
    app.most.fetch_max(now, SeqCst);
    app.runs.add();
    // The later ones finish first.
    crate::support::yields(64 - n as usize).await;
    app.under_way.fetch_sub(1, SeqCst);
    Ok(n)
}

#[test]
fn parallel_all_keeps_the_order_and_the_bound() {
    both_runtimes(|| async {
        for limit in [1, 3, 8, 1000] {
            let ctx = Ctx::new(App::default());
            let got = ctx
                .parallel_all((0..64).map(|n| crowded.with(n)), limit)
                .await
                .unwrap();
            assert!(got.iter().copied().copied().eq(0..64), "{got:?}");
            let most = ctx.state().most.load(SeqCst);
            assert!(most <= limit, "{most} at once with a bound of {limit}");
            assert_eq!(ctx.state().runs.get(), 64);
        }
    });
}

#[test]
fn parallel_all_runs_as_many_at_once_as_the_bound_says() {
    both_runtimes(|| async {
        let ctx = Ctx::new(App::default());
        let mut all = ctx.parallel_all((0..8).map(|n| gated.with(n)), 4);
        let gate = ctx.state().gate.clone();
        let started = ctx.state().runs.clone();
        let (values, ()) = futures::join!(&mut all, async {
            until(|| started.get() == 4).await;
            gate.open();
        });
        assert!(values.unwrap().into_iter().copied().eq(0..8));
    });
}

#[test]
fn a_bound_of_zero_counts_as_one() {
    both_runtimes(|| async {
        let ctx = Ctx::new(App::default());
        let got = ctx
            .parallel_all((0..10).map(|n| crowded.with(n)), 0)
            .await
            .unwrap();
        assert_eq!(got.len(), 10);
        assert_eq!(ctx.state().most.load(SeqCst), 1);
    });
}

#[test]
fn parallel_all_of_nothing_is_an_empty_list() {
    both_runtimes(|| async {
        let ctx = Ctx::new(App::default());
        let none = std::iter::empty().map(|n: u64| same.with(n));
        assert!(ctx.parallel_all(none, 4).await.unwrap().is_empty());
    });
}

#[test]
fn parallel_all_takes_borrowed_keys_and_equal_ones() {
    both_runtimes(|| async {
        let ctx = Ctx::new(App::default());
        let words = ["a".to_owned(), "b".to_owned(), "a".to_owned()];
        let calls = words.iter().map(|word| text.with(word));
        let got = ctx.parallel_all(calls, 2).await.unwrap();
        assert_eq!(got, ["a!", "b!", "a!"]);
        assert_eq!(ctx.state().runs.get(), 2);
    });
}

#[test]
fn parallel_all_stops_at_the_first_error() {
    async fn only_even(ctx: Ctx<App>, n: u64) -> Result<u64, String> {
        let _body = ctx.state().bodies.token();
        if n == 1 {
            return Err("odd".to_owned());
        }
        ctx.state().gate.passed().await;
        Ok(n)
    }
    both_runtimes(|| async {
        let ctx = Ctx::new(App::default());
        let failed = ctx
            .parallel_all((0..100).map(|n| only_even.with(n)), 4)
            .await
            .unwrap_err();
        assert_eq!(failed.kind(), TaskErrorKind::Failed);
        until(|| ctx.state().bodies.live() == 0).await;
        assert!(ctx.state().bodies.made() < 10, "the rest is never started");
    });
}

// --- a list of different tasks ---------------------------------------------------------------------

fn router() -> &'static HashMap<&'static str, Vec<BoxedCall<App>>> {
    static ROUTES: OnceLock<HashMap<&'static str, Vec<BoxedCall<App>>>> = OnceLock::new();
    ROUTES.get_or_init(|| {
        HashMap::from([
            (
                "/",
                vec![
                    same.with(1).boxed(),
                    text.with("front").boxed(),
                    text.with("x".to_owned()).boxed(),
                ],
            ),
            ("/broken", vec![same.with(1).boxed(), fails.with(2).boxed()]),
        ])
    })
}

#[test]
fn a_static_router_runs_for_each_request_and_its_values_are_hits() {
    everywhere(|| async {
        for _request in 0..3 {
            let ctx = Ctx::new(App::default());
            ctx.run_all(router()["/"].iter().cloned()).await.unwrap();
            assert_eq!(ctx.state().runs.get(), 3);
            assert_eq!(*ctx.run(same, 1).await.unwrap(), 1);
            assert_eq!(*ctx.run(text, "front").await.unwrap(), "front!");
            assert_eq!(ctx.peek(text, "x").unwrap().unwrap(), "x!");
            assert_eq!(ctx.state().runs.get(), 3);
        }
    });
}

#[test]
fn a_router_in_an_arc_serves_several_threads() {
    both_runtimes(|| async {
        let routes: Arc<[BoxedCall<App>]> =
            Arc::from([same.with(1).boxed(), text.with("a").boxed()]);
        let requests = (0..16).map(|_| {
            let routes = routes.clone();
            tokio::spawn(async move {
                let ctx = Ctx::new(App::default());
                ctx.run_all(routes.iter().cloned()).await.unwrap();
                (*ctx.run(same, 1).await.unwrap(), ctx.state().runs.get())
            })
        });
        for request in futures::future::join_all(requests).await {
            assert_eq!(request.unwrap(), (1, 2));
        }
    });
}

#[test]
fn a_failing_call_of_a_list_gives_its_error() {
    everywhere(|| async {
        let ctx = Ctx::new(App::default());
        let failed = ctx.run_all(router()["/broken"].iter().cloned()).await;
        let failed = failed.unwrap_err();
        assert_eq!(failed.kind(), TaskErrorKind::Failed);
        assert!(failed.task().ends_with("fails"), "{}", failed.task());
    });
}

#[test]
fn the_calls_of_a_list_run_together() {
    async fn opens(ctx: Ctx<App>, n: u64) -> Result<u64, TaskError> {
        ctx.state().gate.open();
        Ok(n)
    }
    everywhere(|| async {
        let ctx = Ctx::new(App::default());
        // The first can only finish when the second runs beside it.
        let list = [gated.with(1).boxed(), opens.with(2).boxed()];
        ctx.run_all(list).await.unwrap();
        assert_eq!(*ctx.peek(gated, &1).unwrap().unwrap(), 1);
        ctx.run_all([]).await.unwrap();
    });
}
