//! Observers: what they are told, how often, by whom, and what they cannot break.
#![cfg(not(loom))]

mod support;

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Barrier, Mutex};
use std::time::Duration;

use support::{CountingWaker, Gate, everywhere, now, poll_once, poll_with, watched};
#[cfg(feature = "tokio")]
use support::{both_runtimes, until};
use watershed::observe::{Cancel, Finish, How, Join, Observer, Outcome, RunId, Start};
use watershed::{Ctx, TaskError, TaskErrorKind};

#[derive(Clone, Default)]
struct App {
    gate: Gate,
}

async fn double(_: Ctx<App>, n: u64) -> Result<u64, String> {
    Ok(n * 2)
}
async fn fails(_: Ctx<App>, n: u64) -> Result<u64, String> {
    Err(format!("no {n}"))
}
async fn panics(_: Ctx<App>, _: u64) -> Result<u64, String> {
    panic!("as it must")
}
async fn gated(ctx: Ctx<App>, n: u64) -> Result<u64, TaskError> {
    ctx.state().gate.passed().await;
    Ok(n)
}
async fn outer(ctx: Ctx<App>, n: u64) -> Result<u64, TaskError> {
    Ok(*ctx.run(gated, n).await? + *ctx.run(double, n).await?)
}

/// What an observer was told.
#[derive(Clone, Debug, PartialEq)]
enum Told {
    Start(RunId, &'static str, Option<RunId>, usize),
    Join(Option<RunId>, &'static str, Option<RunId>, How),
    Finish(RunId, Outcome),
    Cancel(RunId, Outcome),
}

#[derive(Default)]
struct Log(Mutex<Vec<Told>>);

impl Log {
    fn take(&self) -> Vec<Told> {
        std::mem::take(&mut self.0.lock().unwrap())
    }
    fn count(&self, f: impl Fn(&Told) -> bool) -> usize {
        self.0.lock().unwrap().iter().filter(|told| f(told)).count()
    }
}

fn name(task: &'static str) -> &'static str {
    task.rsplit("::").next().unwrap()
}

impl Observer for Log {
    fn on_start(&self, start: &Start<'_>) {
        let run = start.run;
        let told = Told::Start(run.id, name(run.task), run.parent, run.depth);
        self.0.lock().unwrap().push(told);
    }
    fn on_join(&self, join: &Join<'_>) {
        let told = Told::Join(join.run, name(join.task), join.caller, join.how);
        self.0.lock().unwrap().push(told);
    }
    fn on_finish(&self, finish: &Finish<'_>) {
        assert!(finish.ran <= finish.elapsed && finish.elapsed <= finish.at);
        let told = Told::Finish(finish.run.id, finish.outcome());
        self.0.lock().unwrap().push(told);
    }
    fn on_cancel(&self, cancel: &Cancel<'_>) {
        let told = Told::Cancel(cancel.run.id, cancel.outcome());
        self.0.lock().unwrap().push(told);
    }
}

fn logged() -> (Arc<Log>, Ctx<App>) {
    let log = Arc::new(Log::default());
    let ctx = Ctx::builder(App::default()).observer(log.clone()).build();
    (log, ctx)
}

/// The number that a start was told under.
fn id(told: &[Told], task: &str) -> RunId {
    let start = told.iter().find_map(|told| match told {
        Told::Start(id, name, ..) if *name == task => Some(*id),
        _ => None,
    });
    start.unwrap_or_else(|| panic!("no start of {task} in {told:?}"))
}

#[test]
fn a_run_is_told_with_its_parent_and_each_hit_with_its_caller() {
    let (log, ctx) = logged();
    ctx.state().gate.open();
    assert_eq!(*now(ctx.run(outer, 1)).unwrap(), 3);
    assert_eq!(*now(ctx.run(double, 1)).unwrap(), 2);
    let told = log.take();
    let [outer, gated, double] = ["outer", "gated", "double"].map(|task| id(&told, task));
    assert_eq!(
        told,
        [
            Told::Start(outer, "outer", None, 0),
            Told::Start(gated, "gated", Some(outer), 1),
            Told::Finish(gated, Outcome::Done),
            Told::Start(double, "double", Some(outer), 1),
            Told::Finish(double, Outcome::Done),
            Told::Finish(outer, Outcome::Done),
            Told::Join(Some(double), "double", None, How::Hit),
        ]
    );
    assert_eq!([outer.get(), gated.get(), double.get()], [1, 2, 3]);
}

#[test]
fn start_and_finish_are_told_once_for_each_run_under_concurrency() {
    watched("concurrent runs", || {
        for _ in 0..50 {
            let (log, ctx) = logged();
            ctx.state().gate.open();
            let barrier = Barrier::new(4);
            std::thread::scope(|scope| {
                for thread in 0..4 {
                    let (ctx, barrier) = (&ctx, &barrier);
                    scope.spawn(move || {
                        barrier.wait();
                        for n in 0..20 {
                            ctx.run(outer, (n + thread) % 20).wait().unwrap();
                        }
                    });
                }
            });
            let told = log.take();
            let starts = |task: &str| {
                let is = |told: &&Told| matches!(told, Told::Start(_, name, ..) if *name == task);
                told.iter().filter(is).count()
            };
            assert_eq!(
                (starts("outer"), starts("gated"), starts("double")),
                (20, 20, 20)
            );
            let mut ended: Vec<RunId> = told
                .iter()
                .filter_map(|told| match told {
                    Told::Finish(id, Outcome::Done) => Some(*id),
                    _ => None,
                })
                .collect();
            ended.sort();
            ended.dedup();
            assert_eq!(ended.len(), 60);
            // Each of the 80 calls from outside started its run, joined it, or hit.
            let shared = |told: &&Told| matches!(told, Told::Join(_, "outer", None, how) if *how != How::Left);
            assert_eq!(told.iter().filter(shared).count(), 60);
        }
    });
}

#[test]
fn an_outcome_is_told_before_anybody_has_it() {
    /// Looks, when it is told, whether somebody else could see the outcome by now.
    #[derive(Default)]
    struct Looks {
        ctx: Mutex<Option<Ctx<App>>>,
        told: Mutex<Vec<bool>>,
    }
    impl Observer for Looks {
        fn on_finish(&self, _: &Finish<'_>) {
            let ctx = self.ctx.lock().unwrap().clone().unwrap();
            let seen = ctx.peek(double, &1).is_some() || ctx.peek(fails, &1).is_some();
            self.told.lock().unwrap().push(seen);
        }
    }
    let looks = Arc::new(Looks::default());
    let ctx = Ctx::builder(App::default()).observer(looks.clone()).build();
    *looks.ctx.lock().unwrap() = Some(ctx.clone());
    now(ctx.run(double, 1)).unwrap();
    ctx.forget(double, &1);
    now(ctx.run(fails, 1)).unwrap_err();
    assert_eq!(*looks.told.lock().unwrap(), [false, false]);
    *looks.ctx.lock().unwrap() = None;
}

#[test]
fn a_failure_and_a_panic_are_told_with_their_kind_and_error() {
    #[derive(Default)]
    struct Errors(Mutex<Vec<String>>);
    impl Observer for Errors {
        fn on_finish(&self, finish: &Finish<'_>) {
            let error = finish.error.map(ToString::to_string).unwrap_or_default();
            self.0.lock().unwrap().push(error);
        }
    }
    let log = Arc::new(Log::default());
    let errors = Arc::new(Errors::default());
    let ctx = Ctx::builder(App::default())
        .observer(log.clone())
        .observer(errors.clone())
        .build();
    now(ctx.run(fails, 1)).unwrap_err();
    now(ctx.run(fails, 1)).unwrap_err();
    now(ctx.run(panics, 1)).unwrap_err();
    let told = log.take();
    let [fails, panics] = ["fails", "panics"].map(|task| id(&told, task));
    assert_eq!(
        told,
        [
            Told::Start(fails, "fails", None, 0),
            Told::Finish(fails, Outcome::Failed(TaskErrorKind::Failed)),
            Told::Join(Some(fails), "fails", None, How::Hit),
            Told::Start(panics, "panics", None, 0),
            Told::Finish(panics, Outcome::Failed(TaskErrorKind::Panicked)),
        ]
    );
    assert_eq!(
        *errors.0.lock().unwrap(),
        ["fails failed: no 1", "panics panicked: as it must"]
    );
}

#[test]
fn a_run_is_told_as_cancelled_when_its_last_caller_leaves() {
    let (log, ctx) = logged();
    let mut first = ctx.run(gated, 1);
    let mut second = ctx.run(gated, 1);
    assert!(poll_once(&mut first).is_pending());
    assert!(poll_once(&mut second).is_pending());
    drop(first);
    let told = log.take();
    let run = id(&told, "gated");
    assert_eq!(told, [Told::Start(run, "gated", None, 0)]);
    drop(second);
    assert_eq!(
        log.take(),
        [
            Told::Join(Some(run), "gated", None, How::Left),
            Told::Cancel(run, Outcome::Left),
        ]
    );
    // The next caller starts a run of its own.
    ctx.state().gate.open();
    now(ctx.run(gated, 1)).unwrap();
    let told = log.take();
    let again = id(&told, "gated");
    assert_ne!(again, run);
    assert_eq!(
        told,
        [
            Told::Start(again, "gated", None, 0),
            Told::Finish(again, Outcome::Done),
        ]
    );
}

#[test]
fn the_end_of_the_context_cancels_what_is_under_way() {
    for how in ["cancel", "drop"] {
        let (log, ctx) = logged();
        let mut call = ctx.run(outer, 1);
        assert!(poll_once(&mut call).is_pending());
        match how {
            "cancel" => {
                ctx.cancel();
                let error = now(call).unwrap_err();
                assert_eq!(error.kind(), TaskErrorKind::Cancelled);
            }
            // Its call is leaked, so nobody leaves.
            _ => std::mem::forget(call),
        }
        drop(ctx);
        let cancelled = log.count(|told| matches!(told, Told::Cancel(..)));
        let finished = log.count(|told| matches!(told, Told::Finish(..)));
        assert_eq!((cancelled, finished), (2, 0), "{how}: {:?}", log.take());
    }
}

#[test]
fn a_run_whose_context_is_freed_without_being_closed_is_told_as_cancelled() {
    async fn lets_go(ctx: Ctx<App>, _: ()) -> Result<(), String> {
        drop(ctx);
        std::future::pending().await
    }
    let (log, ctx) = logged();
    let mut call = ctx.run(lets_go, ());
    assert!(poll_once(&mut call).is_pending());
    // No other handle is there, and nobody leaves.
    std::mem::forget(call);
    drop(ctx);
    let told = log.take();
    let run = id(&told, "lets_go");
    assert_eq!(told[1..], [Told::Cancel(run, Outcome::Left)]);
}

#[test]
fn a_call_that_waits_is_told_with_the_time_it_waited() {
    #[derive(Default)]
    struct Waits(Mutex<Vec<(How, Duration, Duration)>>);
    impl Observer for Waits {
        fn on_join(&self, join: &Join<'_>) {
            self.0
                .lock()
                .unwrap()
                .push((join.how, join.waited, join.at.unwrap_or_default()));
        }
    }
    let waits = Arc::new(Waits::default());
    let ctx = Ctx::builder(App::default()).observer(waits.clone()).build();
    let mut driver = ctx.run(gated, 1);
    let mut waiter = ctx.run(gated, 1);
    assert!(poll_once(&mut driver).is_pending());
    assert!(poll_once(&mut waiter).is_pending());
    let before = std::time::Instant::now();
    while before.elapsed() < Duration::from_millis(3) {
        std::thread::yield_now();
    }
    ctx.state().gate.open();
    now(waiter).unwrap();
    now(driver).unwrap();
    let waits = waits.0.lock().unwrap();
    let [(how, waited, at)] = waits[..] else {
        panic!("{waits:?}");
    };
    assert_eq!(how, How::Waited);
    assert!(
        waited >= Duration::from_millis(3) - Duration::from_micros(1) && waited <= at,
        "{waited:?}"
    );
}

#[cfg(feature = "tokio")]
#[test]
fn spawned_and_parallel_runs_are_told_with_the_body_that_wanted_them() {
    async fn spawns(ctx: Ctx<App>, n: u64) -> Result<u64, TaskError> {
        ctx.spawn(double, n)?;
        Ok(n)
    }
    async fn fans(ctx: Ctx<App>, n: u64) -> Result<u64, TaskError> {
        use watershed::Task;
        let (a, b, c) = ctx
            .parallel((gated.with(n), gated.with(n + 1), double.with(n)))
            .await?;
        Ok(a + b + c)
    }
    both_runtimes(|| async {
        let (log, ctx) = logged();
        ctx.state().gate.open();
        ctx.run(spawns, 1).await.unwrap();
        ctx.run(double, 1).await.unwrap();
        ctx.run(fans, 5).await.unwrap();
        let told = log.take();
        let spawns = id(&told, "spawns");
        let fans = id(&told, "fans");
        let parents = |task: &str| -> Vec<Option<RunId>> {
            let parent = |told: &Told| match told {
                Told::Start(_, name, parent, _) if *name == task => Some(*parent),
                _ => None,
            };
            told.iter().filter_map(parent).collect()
        };
        assert_eq!(parents("double"), [Some(spawns), Some(fans)]);
        assert_eq!(parents("gated"), [Some(fans), Some(fans)]);
        let finished = |told: &&Told| matches!(told, Told::Finish(_, Outcome::Done));
        assert_eq!(told.iter().filter(finished).count(), 6);
    });
}

#[cfg(feature = "tokio")]
#[test]
fn parallel_calls_that_are_there_or_under_way_are_told_as_hits_and_joins() {
    both_runtimes(|| async {
        use watershed::Task;
        let (log, ctx) = logged();
        ctx.run(double, 1).await.unwrap();
        let mut under_way = ctx.run(gated, 1);
        assert!(poll_once(&mut under_way).is_pending());
        let mut fan = ctx.parallel((double.with(1), gated.with(1), gated.with(2)));
        assert!(poll_once(&mut fan).is_pending());
        ctx.state().gate.open();
        fan.await.unwrap();
        under_way.await.unwrap();
        let told = log.take();
        let shared: Vec<_> = told
            .iter()
            .filter_map(|told| match told {
                Told::Join(_, name, _, how) => Some((*name, *how)),
                _ => None,
            })
            .collect();
        assert_eq!(shared, [("double", How::Hit), ("gated", How::Waited)]);
    });
}

#[cfg(feature = "tokio")]
#[test]
fn a_call_of_a_run_that_somebody_else_has_promised_is_told_as_a_join() {
    async fn spawns_and_calls(ctx: Ctx<App>, n: u64) -> Result<u64, TaskError> {
        ctx.spawn(double, n)?;
        Ok(*ctx.run(double, n).await?)
    }
    fn join(told: &[Told]) -> Option<Told> {
        let mut joins = told.iter().filter(|told| matches!(told, Told::Join(..)));
        let join = joins.next().cloned();
        assert!(join.is_none() || joins.next().is_none(), "{told:?}");
        join
    }
    // Whether the call or the runtime comes first must not show.
    both_runtimes(|| async {
        let (log, ctx) = logged();
        ctx.spawn(double, 1).unwrap();
        ctx.run(double, 1).await.unwrap();
        let told = log.take();
        let run = id(&told, "double");
        assert_eq!(told[0], Told::Start(run, "double", None, 0));
        let Some(Told::Join(Some(joined), _, None, _)) = join(&told) else {
            panic!("{told:?}");
        };
        assert_eq!(joined, run);

        ctx.run(spawns_and_calls, 2).await.unwrap();
        let told = log.take();
        let (body, run) = (id(&told, "spawns_and_calls"), id(&told, "double"));
        assert!(told.contains(&Told::Start(run, "double", Some(body), 1)));
        let Some(Told::Join(Some(joined), _, Some(caller), _)) = join(&told) else {
            panic!("{told:?}");
        };
        assert_eq!((joined, caller), (run, body));

        // Who promised and starts it himself shares nothing.
        use watershed::Task;
        ctx.parallel((double.with(3), double.with(4)))
            .await
            .unwrap();
        assert_eq!(join(&log.take()), None);
    });
}

#[cfg(feature = "tokio")]
#[test]
fn a_spawned_call_that_joins_is_told_with_the_body_that_spawned_it() {
    async fn spawns(ctx: Ctx<App>, n: u64) -> Result<u64, TaskError> {
        ctx.spawn(gated, n)?;
        Ok(n)
    }
    for leave in [false, true] {
        both_runtimes(move || async move {
            let (log, ctx) = logged();
            let mut first = ctx.run(gated, 1);
            assert!(poll_once(&mut first).is_pending());
            ctx.run(spawns, 1).await.unwrap();
            let (run, spawns, how) = {
                let told = log.0.lock().unwrap();
                let how = if leave { How::Left } else { How::Waited };
                (id(&told, "gated"), id(&told, "spawns"), how)
            };
            if leave {
                ctx.cancel();
                assert!(first.await.is_err());
            } else {
                ctx.state().gate.open();
                first.await.unwrap();
            }
            let expected = Told::Join(Some(run), "gated", Some(spawns), how);
            until(|| log.count(|told| matches!(told, Told::Join(..))) == 1).await;
            assert_eq!(log.count(|told| *told == expected), 1, "{:?}", log.take());
        });
    }
}

#[test]
fn a_call_without_memoization_is_a_run_each_time() {
    everywhere(|| async {
        let (log, ctx) = logged();
        ctx.run_fresh(double, 1).await.unwrap();
        ctx.run_fresh(double, 1).await.unwrap();
        assert_eq!(log.count(|told| matches!(told, Told::Start(..))), 2);
        assert_eq!(log.count(|told| matches!(told, Told::Finish(..))), 2);
        assert_eq!(log.count(|told| matches!(told, Told::Join(..))), 0);
    });
}

#[test]
fn looking_and_putting_in_are_not_told_but_a_hit_of_what_was_put_in_is() {
    let (log, ctx) = logged();
    ctx.prime(double, 1, 7).unwrap();
    assert!(ctx.peek(double, &1).is_some());
    assert!(log.take().is_empty());
    assert_eq!(*now(ctx.run(double, 1)).unwrap(), 7);
    let told = log.take();
    assert!(
        matches!(told[..], [Told::Join(Some(_), "double", None, How::Hit)]),
        "{told:?}"
    );
}

/// Panics whatever it is told.
struct Bad(AtomicUsize);

impl Bad {
    fn panic(&self) {
        self.0.fetch_add(1, SeqCst);
        panic!("the observer's");
    }
}

impl Observer for Bad {
    fn on_start(&self, _: &Start<'_>) {
        self.panic();
    }
    fn on_join(&self, _: &Join<'_>) {
        self.panic();
    }
    fn on_finish(&self, _: &Finish<'_>) {
        self.panic();
    }
    fn on_cancel(&self, _: &Cancel<'_>) {
        self.panic();
    }
}

#[test]
fn a_panic_in_an_observer_changes_nothing_for_runs_callers_and_the_other_observers() {
    let bad = Arc::new(Bad(AtomicUsize::new(0)));
    let log = Arc::new(Log::default());
    let ctx = Ctx::builder(App::default())
        .observer(bad.clone())
        .observer(log.clone())
        .build();
    assert_eq!(*now(ctx.run(double, 1)).unwrap(), 2);
    assert_eq!(*now(ctx.run(double, 1)).unwrap(), 2);
    let mut left = ctx.run(gated, 1);
    assert!(poll_once(&mut left).is_pending());
    drop(left);
    ctx.state().gate.open();
    assert_eq!(*now(ctx.run(gated, 1)).unwrap(), 1);
    assert_eq!(bad.0.load(SeqCst), 7);
    assert_eq!(log.take().len(), 7);
}

/// Uses the context from inside of what it is told, through a handle that it is lent for the time.
#[derive(Default)]
struct CallsBack {
    ctx: Mutex<Option<Ctx<App>>>,
    inside: AtomicBool,
    calls: AtomicUsize,
}

impl CallsBack {
    fn call(&self) {
        let ctx = self.ctx.lock().unwrap().clone();
        if let Some(ctx) = ctx
            && !self.inside.swap(true, SeqCst)
        {
            assert_eq!(*ctx.run(double, 100).wait().unwrap(), 200);
            assert!(ctx.peek(double, &100).is_some());
            let _ = (ctx.waits(), ctx.report());
            self.calls.fetch_add(1, SeqCst);
            self.inside.store(false, SeqCst);
        }
    }
}

impl Observer for CallsBack {
    fn on_start(&self, _: &Start<'_>) {
        self.call();
    }
    fn on_join(&self, _: &Join<'_>) {
        self.call();
    }
    fn on_finish(&self, _: &Finish<'_>) {
        self.call();
    }
    fn on_cancel(&self, _: &Cancel<'_>) {
        self.call();
    }
}

#[test]
fn an_observer_may_call_back_into_its_context() {
    watched("an observer that calls back", || {
        let observer = Arc::new(CallsBack::default());
        let ctx = Ctx::builder(App::default())
            .observer(observer.clone())
            .record(true)
            .build();
        *observer.ctx.lock().unwrap() = Some(ctx.clone());
        let (_, waker) = CountingWaker::pair();
        let mut driver = ctx.run(gated, 1);
        let mut waiter = ctx.run(gated, 1);
        assert!(poll_with(&mut driver, &waker).is_pending());
        assert!(poll_with(&mut waiter, &waker).is_pending());
        drop(driver);
        drop(waiter);
        ctx.state().gate.open();
        now(ctx.run(outer, 1)).unwrap();
        assert!(observer.calls.load(SeqCst) >= 8, "{:?}", observer.calls);
        // Otherwise the two would keep one another.
        *observer.ctx.lock().unwrap() = None;
    });
}

#[test]
fn an_input_is_told_only_if_the_task_shows_it() {
    #[derive(Default)]
    struct Inputs(Mutex<Vec<String>>);
    impl Observer for Inputs {
        fn on_start(&self, start: &Start<'_>) {
            let input = start.input.map(|input| format!("{input:?}"));
            self.0.lock().unwrap().push(input.unwrap_or_default());
        }
    }
    let inputs = Arc::new(Inputs::default());
    let ctx = Ctx::builder(App::default())
        .record_input(double)
        .observer(inputs.clone())
        .build();
    now(ctx.run(double, 41)).unwrap();
    now(ctx.run(fails, 42)).unwrap_err();
    assert_eq!(*inputs.0.lock().unwrap(), ["41", ""]);
}

#[test]
fn runs_that_start_deep_below_are_told_with_their_parents() {
    fn chain(
        ctx: Ctx<App>,
        n: u64,
    ) -> std::pin::Pin<Box<dyn Future<Output = Result<u64, TaskError>> + Send>> {
        Box::pin(async move {
            Ok(match n {
                0 => 0,
                n => *ctx.run(chain, n - 1).await? + 1,
            })
        })
    }
    watched("a deep chain", || {
        let (log, ctx) = logged();
        assert_eq!(*ctx.run(chain, 2_000).wait().unwrap(), 2_000);
        let told = log.take();
        let mut above = None;
        for (depth, start) in told
            .iter()
            .filter(|told| matches!(told, Told::Start(..)))
            .enumerate()
        {
            let Told::Start(id, _, parent, its_depth) = *start else {
                unreachable!()
            };
            assert_eq!((parent, its_depth), (above, depth));
            above = Some(id);
        }
        let ends = |told: &&Told| matches!(told, Told::Finish(_, Outcome::Done));
        assert_eq!(told.iter().filter(ends).count(), 2_001);
        // Those that hopped waited for what they had asked for: nobody joined.
        assert!(!told.iter().any(|told| matches!(told, Told::Join(..))));
    });
}
