//! Calls that would wait for themselves: told at once, with the path; and never without a cause.
//!
//! rustc refuses a cycle of plain tasks. These hide their edges behind a signature that promises `Send`.
#![cfg(not(loom))]

mod support;

use futures::FutureExt;
use futures::future::{BoxFuture, try_join_all};
use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Barrier, Mutex};
use std::task::Poll;
use support::{Count, Gate, everywhere, now, poll_once, watched, yields};
use watershed::{Ctx, Task, TaskError, TaskErrorKind};

type Out = BoxFuture<'static, Result<u64, TaskError>>;

/// How one task calls the next.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Edge {
    Run,
    Join,
    JoinAll,
    Held,
    Fresh,
    List,
    #[cfg(feature = "tokio")]
    Parallel,
    #[cfg(feature = "tokio")]
    ParallelFirst,
    #[cfg(feature = "tokio")]
    ParallelAll,
    #[cfg(feature = "tokio")]
    Spawned,
}

/// Those that need no runtime.
const PLAIN: [Edge; 5] = [Edge::Run, Edge::Join, Edge::JoinAll, Edge::Held, Edge::List];

struct App {
    runs: Count,
    /// From `left` to `right`, `first` to `second` and `second` to `third`.
    out: Edge,
    /// What closes the cycle.
    back: Edge,
    /// No call is made while this is set.
    cut: AtomicBool,
    /// Where bodies wait before they call.
    gate: Gate,
}

impl App {
    fn with(out: Edge, back: Edge) -> App {
        App {
            runs: Count::default(),
            out,
            back,
            cut: AtomicBool::new(false),
            gate: Gate::new(),
        }
    }

    /// The gate is open.
    fn open(out: Edge, back: Edge) -> App {
        let app = App::with(out, back);
        app.gate.open();
        app
    }
}

async fn harmless(_: Ctx<App>, n: u64) -> Result<u64, TaskError> {
    yields(1).await;
    Ok(n)
}

fn call<F>(ctx: &Ctx<App>, edge: Edge, task: F, n: u64) -> BoxFuture<'_, Result<u64, TaskError>>
where
    F: Task<App, u64, Value = u64, Future: Send>,
{
    async move {
        ctx.state().runs.add();
        ctx.state().gate.passed().await;
        if ctx.state().cut.load(SeqCst) {
            return Ok(n);
        }
        match edge {
            Edge::Run => ctx.run(task, n).await.copied(),
            Edge::Join => {
                let calls = futures::join!(ctx.run(harmless, n), ctx.run(task, n));
                Ok(calls.0? + calls.1?)
            }
            Edge::JoinAll => {
                let calls = try_join_all([ctx.run(task, n), ctx.run(harmless, n)]).await?;
                Ok(calls.into_iter().sum())
            }
            Edge::Held => Ok(*ctx.run(task, n).held().await?),
            Edge::Fresh => ctx.run_fresh(task, n).await,
            Edge::List => {
                ctx.run_all([task.with(n).boxed(), harmless.with(n).boxed()])
                    .await?;
                Ok(n)
            }
            #[cfg(feature = "tokio")]
            Edge::Parallel => {
                let (a, b) = ctx.parallel((harmless.with(n), task.with(n))).await?;
                Ok(a + b)
            }
            #[cfg(feature = "tokio")]
            Edge::ParallelFirst => {
                let (a, b) = ctx.parallel((task.with(n), harmless.with(n))).await?;
                Ok(a + b)
            }
            #[cfg(feature = "tokio")]
            Edge::ParallelAll => {
                let calls = ctx.parallel_all([task.with(n), task.with(n)], 2).await?;
                Ok(calls.into_iter().sum())
            }
            #[cfg(feature = "tokio")]
            Edge::Spawned => {
                ctx.spawn(task, n)?;
                yields(3).await;
                ctx.run(task, n).await.copied()
            }
        }
    }
    .boxed()
}

fn selfish(ctx: Ctx<App>, n: u64) -> Out {
    async move { call(&ctx, ctx.state().out, selfish, n).await }.boxed()
}

fn left(ctx: Ctx<App>, n: u64) -> Out {
    async move { call(&ctx, ctx.state().out, right, n).await }.boxed()
}

fn right(ctx: Ctx<App>, n: u64) -> Out {
    async move { call(&ctx, ctx.state().back, left, n).await }.boxed()
}

fn first(ctx: Ctx<App>, n: u64) -> Out {
    async move { call(&ctx, ctx.state().out, second, n).await }.boxed()
}

fn second(ctx: Ctx<App>, n: u64) -> Out {
    async move { call(&ctx, ctx.state().out, third, n).await }.boxed()
}

fn third(ctx: Ctx<App>, n: u64) -> Out {
    async move { call(&ctx, ctx.state().back, first, n).await }.boxed()
}

/// The error is a cycle, and its message has the names in the order in which they wait, from any of them on.
#[track_caller]
fn names(error: &TaskError, path: &[&str]) {
    assert_eq!(error.kind(), TaskErrorKind::Cycle, "{error}");
    let message = error.to_string();
    let named = (0..path.len()).any(|at| {
        let mut round: Vec<_> = path.iter().cycle().skip(at).take(path.len()).collect();
        round.push(&path[at]);
        let round: Vec<_> = round.into_iter().copied().collect();
        message.contains(&format!(": {}", round.join(" > ")))
    });
    assert!(named, "{message}");
}

// --- shapes ----------------------------------------------------------------------------------------

#[test]
fn a_task_that_calls_itself() {
    everywhere(|| async {
        for edge in PLAIN {
            let ctx = Ctx::new(App::open(edge, edge));
            names(&ctx.run(selfish, 1).await.unwrap_err(), &["selfish"]);
            assert_eq!(ctx.state().runs.get(), 1);
        }
    });
}

#[test]
fn two_tasks_that_call_each_other() {
    everywhere(|| async {
        for out in PLAIN.into_iter().chain([Edge::Fresh]) {
            for back in PLAIN {
                let ctx = Ctx::new(App::open(out, back));
                let error = ctx.run(left, 1).await.unwrap_err();
                names(&error, &["left", "right"]);
                assert_eq!(ctx.state().runs.get(), 2, "{out:?}, {back:?}");
            }
        }
    });
}

#[test]
fn a_cycle_is_told_within_the_poll_that_closes_it() {
    watched("one poll", || {
        let ctx = Ctx::new(App::open(Edge::Run, Edge::Run));
        names(&now(ctx.run(selfish, 1)).unwrap_err(), &["selfish"]);
        names(&now(ctx.run(left, 1)).unwrap_err(), &["left", "right"]);
        let three = ["first", "second", "third"];
        names(&now(ctx.run(first, 1)).unwrap_err(), &three);
    });
}

#[test]
fn a_cycle_through_another_input_names_every_step() {
    fn by_two(ctx: Ctx<App>, n: u64) -> Out {
        async move { Ok(*ctx.run(back_by_one, n % 4 + 2).await?) }.boxed()
    }
    fn back_by_one(ctx: Ctx<App>, n: u64) -> Out {
        async move { Ok(*ctx.run(by_two, n - 1).await?) }.boxed()
    }
    everywhere(|| async {
        // 0 > 2 > 1 > 3 > 2, where it closes.
        let ctx = Ctx::new(App::open(Edge::Run, Edge::Run));
        let error = ctx.run(by_two, 0).await.unwrap_err();
        assert_eq!(error.kind(), TaskErrorKind::Cycle, "{error}");
        let message = error.to_string();
        assert!(message.contains("by_two > back_by_one"), "{message}");
    });
}

#[test]
fn a_cycle_closed_by_two_tasks() {
    everywhere(|| async {
        for edge in PLAIN {
            let ctx = Ctx::new(App::with(edge, edge));
            let (mut l, mut r) = (ctx.run(left, 1), ctx.run(right, 1));
            assert!(poll_once(&mut l).is_pending());
            assert!(poll_once(&mut r).is_pending());
            ctx.state().gate.open();
            let (l, r) = futures::join!(l, r);
            names(&l.unwrap_err(), &["left", "right"]);
            names(&r.unwrap_err(), &["left", "right"]);
            assert_eq!(ctx.state().runs.get(), 2);
        }
    });
}

#[test]
fn three_tasks_started_in_any_order() {
    everywhere(|| async {
        for order in [
            [0, 1, 2],
            [0, 2, 1],
            [1, 0, 2],
            [1, 2, 0],
            [2, 0, 1],
            [2, 1, 0],
        ] {
            for parked in [true, false] {
                let ctx = Ctx::new(App::with(Edge::Run, Edge::Join));
                let mut calls = [ctx.run(first, 1), ctx.run(second, 1), ctx.run(third, 1)];
                if !parked {
                    ctx.state().gate.open();
                }
                for at in order {
                    let _ = poll_once(&mut calls[at]);
                }
                ctx.state().gate.open();
                for ended in futures::future::join_all([
                    ctx.run(first, 1),
                    ctx.run(second, 1),
                    ctx.run(third, 1),
                ])
                .await
                {
                    names(&ended.unwrap_err(), &["first", "second", "third"]);
                }
                assert_eq!(ctx.state().runs.get(), 3, "{order:?}, parked: {parked}");
            }
        }
    });
}

#[test]
fn closed_by_threads_exactly_as_by_one() {
    watched("closed by threads", || {
        for _ in 0..300 {
            let ctx = Ctx::new(App::open(Edge::Run, Edge::Run));
            let start = Barrier::new(3);
            std::thread::scope(|scope| {
                for at in 0..3 {
                    let (ctx, start) = (&ctx, &start);
                    scope.spawn(move || {
                        start.wait();
                        let ended = match at {
                            0 => ctx.run(first, 1).wait(),
                            1 => ctx.run(second, 1).wait(),
                            _ => ctx.run(third, 1).wait(),
                        };
                        names(&ended.unwrap_err(), &["first", "second", "third"]);
                    });
                }
            });
            assert_eq!(ctx.state().runs.get(), 3);
        }
    });
}

#[cfg(feature = "tokio")]
mod on_a_runtime {
    use super::*;
    use crate::support::both_runtimes;

    const RUNTIME: [Edge; 4] = [
        Edge::Parallel,
        Edge::ParallelFirst,
        Edge::ParallelAll,
        Edge::Spawned,
    ];

    #[test]
    fn through_parallel_and_spawn() {
        both_runtimes(|| async {
            for out in RUNTIME {
                for back in RUNTIME.into_iter().chain([Edge::Run]) {
                    for (out, back) in [(out, back), (back, out)] {
                        let ctx = Ctx::new(App::open(out, back));
                        let error = ctx.run(left, 1).await.unwrap_err();
                        names(&error, &["left", "right"]);
                    }
                }
                let ctx = Ctx::new(App::open(out, out));
                names(&ctx.run(selfish, 1).await.unwrap_err(), &["selfish"]);
            }
        });
    }

    /// A helper starts a run that a body deeper than the helper's own waits for: the run is below both, or its way back to that body
    /// would seem to lead down.
    #[test]
    fn through_a_run_that_was_started_for_a_deeper_caller_too() {
        fn shallow(ctx: Ctx<App>, n: u64) -> Out {
            async move { fan(&ctx, n).await }.boxed()
        }
        fn deep(ctx: Ctx<App>, n: u64) -> Out {
            async move { fan(&ctx, n).await }.boxed()
        }
        fn above(ctx: Ctx<App>, n: u64) -> Out {
            async move { ctx.run(above_deep, n).await.copied() }.boxed()
        }
        fn above_deep(ctx: Ctx<App>, n: u64) -> Out {
            async move { ctx.run(deep, n).await.copied() }.boxed()
        }
        fn calls_deep(ctx: Ctx<App>, n: u64) -> Out {
            async move { ctx.run(deep, n).await.copied() }.boxed()
        }
        async fn fan(ctx: &Ctx<App>, n: u64) -> Result<u64, TaskError> {
            let (a, b) = ctx.parallel((calls_deep.with(n), harmless.with(n))).await?;
            Ok(a + b)
        }
        both_runtimes(|| async {
            let ctx = Ctx::new(App::open(Edge::Run, Edge::Run));
            let (mut shallow, mut above) = (ctx.run(shallow, 1), ctx.run(above, 1));
            // On the runtime of one thread both are counted before the first helper goes, which is the shallow one's.
            let (polled_shallow, polled_above) = (poll_once(&mut shallow), poll_once(&mut above));
            for (polled, call) in [(polled_shallow, shallow), (polled_above, above)] {
                let outcome = match polled {
                    Poll::Ready(outcome) => outcome,
                    Poll::Pending => call.await,
                };
                names(&outcome.unwrap_err(), &["deep", "calls_deep"]);
            }
        });
    }

    #[test]
    fn closed_by_two_tasks_of_the_runtime() {
        both_runtimes(|| async {
            for edge in [Edge::Run, Edge::Join, Edge::Parallel, Edge::Spawned] {
                let ctx = Ctx::new(App::with(edge, edge));
                let (one, two) = (ctx.clone(), ctx.clone());
                let one = tokio::spawn(async move { one.run(left, 1).await.copied() });
                let two = tokio::spawn(async move { two.run(right, 1).await.copied() });
                crate::support::until(|| ctx.state().runs.get() == 2).await;
                ctx.state().gate.open();
                names(&one.await.unwrap().unwrap_err(), &["left", "right"]);
                names(&two.await.unwrap().unwrap_err(), &["left", "right"]);
            }
        });
    }

    #[test]
    fn spawned_without_a_caller_ends_too() {
        both_runtimes(|| async {
            let ctx = Ctx::new(App::open(Edge::Run, Edge::Run));
            ctx.spawn(left, 1).unwrap();
            crate::support::until(|| ctx.peek(left, &1).is_some()).await;
            let kept = ctx.peek(left, &1).unwrap().unwrap_err();
            names(&kept, &["left", "right"]);
        });
    }

    #[test]
    fn spawning_oneself_is_no_cycle() {
        fn again(ctx: Ctx<App>, n: u64) -> Out {
            async move {
                ctx.state().runs.add();
                ctx.spawn(again, n)?;
                yields(3).await;
                Ok(n)
            }
            .boxed()
        }
        both_runtimes(|| async {
            let ctx = Ctx::new(App::open(Edge::Run, Edge::Run));
            assert_eq!(*ctx.run(again, 1).await.unwrap(), 1);
            assert_eq!(ctx.state().runs.get(), 1);
        });
    }
}

/// `run_fresh` of a task that is under way starts another run of it, which then calls the first.
#[test]
fn a_fresh_run_that_calls_back() {
    fn outer(ctx: Ctx<App>, n: u64) -> Out {
        async move { ctx.run_fresh(inner, n).await }.boxed()
    }
    fn inner(ctx: Ctx<App>, n: u64) -> Out {
        async move { ctx.run(outer, n).await.copied() }.boxed()
    }
    everywhere(|| async {
        let ctx = Ctx::new(App::open(Edge::Run, Edge::Run));
        names(&ctx.run(outer, 1).await.unwrap_err(), &["outer", "inner"]);
    });
}

#[test]
fn fresh_runs_that_call_themselves_end() {
    fn fresh(ctx: Ctx<App>, n: u64) -> Out {
        async move { ctx.run_fresh(fresh, n).await }.boxed()
    }
    everywhere(|| async {
        let app = App::open(Edge::Run, Edge::Run);
        let ctx = Ctx::builder(app).max_depth(1_000).build();
        let ended = ctx.run_fresh(fresh, 1).await.unwrap_err();
        assert!(
            matches!(ended.kind(), TaskErrorKind::Cycle | TaskErrorKind::TooDeep),
            "{ended}"
        );
    });
}

#[test]
fn a_destructor_of_the_body_that_calls_its_own_task() {
    type Seen = Arc<Mutex<Vec<TaskErrorKind>>>;
    struct Calls(Ctx<(Seen, Gate)>);
    impl Drop for Calls {
        fn drop(&mut self) {
            let ended = match poll_once(&mut self.0.run(guarded, 1)) {
                Poll::Ready(ended) => ended.unwrap_err(),
                std::task::Poll::Pending => panic!("waits for itself"),
            };
            self.0.state().0.lock().unwrap().push(ended.kind());
        }
    }
    fn guarded(ctx: Ctx<(Seen, Gate)>, n: u64) -> Out {
        async move {
            let _calls = Calls(ctx.clone());
            ctx.state().1.passed().await;
            Ok(n)
        }
        .boxed()
    }
    everywhere(|| async {
        let seen = Seen::default();
        let ctx = Ctx::new((seen.clone(), Gate::new()));
        let mut call = ctx.run(guarded, 1);
        assert!(poll_once(&mut call).is_pending());
        drop(call);
        assert_eq!(*seen.lock().unwrap(), [TaskErrorKind::Cycle]);
        // Dropped while its own poll is still on the stack.
        ctx.state().1.open();
        assert_eq!(*ctx.run(guarded, 1).await.unwrap(), 1);
        assert_eq!(
            *seen.lock().unwrap(),
            [TaskErrorKind::Cycle, TaskErrorKind::Cycle]
        );
    });
}

// --- nothing sticks --------------------------------------------------------------------------------

#[test]
fn after_forget_and_in_a_fresh_context_it_runs_again() {
    everywhere(|| async {
        let ctx = Ctx::new(App::open(Edge::Run, Edge::Run));
        ctx.run(left, 1).await.unwrap_err();
        ctx.state().cut.store(true, SeqCst);
        assert!(ctx.forget(left, &1));
        assert_eq!(*ctx.run(left, 1).await.unwrap(), 1);
        ctx.forget(right, &1);
        assert_eq!(*ctx.run(right, 1).await.unwrap(), 1);
        assert_eq!(*ctx.run(left, 2).await.unwrap(), 2);
        let other = Ctx::new(App::open(Edge::Run, Edge::Run));
        other.state().cut.store(true, SeqCst);
        assert_eq!(*other.run(left, 1).await.unwrap(), 1);
    });
}

#[test]
fn a_body_may_go_on_after_a_cycle() {
    fn recovers(ctx: Ctx<App>, n: u64) -> Out {
        async move {
            ctx.state().runs.add();
            match ctx.run(recovers, n).await {
                Err(error) if error.kind() == TaskErrorKind::Cycle => Ok(n * 10),
                other => other.copied(),
            }
        }
        .boxed()
    }
    everywhere(|| async {
        let ctx = Ctx::new(App::open(Edge::Run, Edge::Run));
        assert_eq!(*ctx.run(recovers, 1).await.unwrap(), 10);
        assert_eq!(*ctx.run(recovers, 1).await.unwrap(), 10);
        assert_eq!(ctx.state().runs.get(), 1);
    });
}

// --- no false alarm --------------------------------------------------------------------------------

#[test]
fn recursion_with_another_input_is_no_cycle() {
    fn sum(ctx: Ctx<App>, n: u64) -> Out {
        async move {
            if n == 0 {
                return Ok(0);
            }
            yields(1).await;
            Ok(*ctx.run(sum, n - 1).await? + n)
        }
        .boxed()
    }
    everywhere(|| async {
        let ctx = Ctx::new(App::open(Edge::Run, Edge::Run));
        assert_eq!(*ctx.run(sum, 100).await.unwrap(), 5_050);
    });
}

#[test]
fn a_call_that_was_dropped_is_no_edge() {
    struct State {
        lets_b_call: Gate,
        lets_a_end: Gate,
    }
    fn a(ctx: Ctx<State>, n: u64) -> Out {
        async move {
            let mut to_b = ctx.run(b, n);
            std::future::poll_fn(|cx| {
                assert!(to_b.poll_unpin(cx).is_pending());
                Poll::Ready(())
            })
            .await;
            drop(to_b);
            ctx.state().lets_a_end.passed().await;
            Ok(n)
        }
        .boxed()
    }
    fn b(ctx: Ctx<State>, n: u64) -> Out {
        async move {
            ctx.state().lets_b_call.passed().await;
            ctx.run(a, n).await.copied()
        }
        .boxed()
    }
    everywhere(|| async {
        for b_is_started_by_a in [false, true] {
            let ctx = Ctx::new(State {
                lets_b_call: Gate::new(),
                lets_a_end: Gate::new(),
            });
            let (mut to_a, mut to_b) = (ctx.run(a, 1), ctx.run(b, 1));
            if b_is_started_by_a {
                assert!(poll_once(&mut to_a).is_pending());
                assert!(poll_once(&mut to_b).is_pending());
            } else {
                assert!(poll_once(&mut to_b).is_pending());
                assert!(poll_once(&mut to_a).is_pending());
            }
            ctx.state().lets_b_call.open();
            assert!(poll_once(&mut to_b).is_pending());
            ctx.state().lets_a_end.open();
            assert_eq!(*to_b.await.unwrap(), 1);
            assert_eq!(*to_a.await.unwrap(), 1);
        }
    });
}

/// The call that closes the cycle leads from a run to one that is deeper: nothing to search for, unless a call that leads up is remembered.
#[test]
fn closed_by_a_call_that_leads_down() {
    #[derive(Default)]
    struct State {
        high_calls: Gate,
        low_calls: Gate,
    }
    fn top(ctx: Ctx<State>, n: u64) -> Out {
        async move { ctx.run(low, n).await.copied() }.boxed()
    }
    fn low(ctx: Ctx<State>, n: u64) -> Out {
        async move {
            ctx.state().low_calls.passed().await;
            ctx.run(high, n).await.copied()
        }
        .boxed()
    }
    fn high(ctx: Ctx<State>, n: u64) -> Out {
        async move {
            ctx.state().high_calls.passed().await;
            ctx.run(low, n).await.copied()
        }
        .boxed()
    }
    everywhere(|| async {
        let ctx = Ctx::new(State::default());
        let (mut to_high, mut to_top) = (ctx.run(high, 1), ctx.run(top, 1));
        assert!(poll_once(&mut to_high).is_pending());
        assert!(poll_once(&mut to_top).is_pending());
        // Up: `low` is below `top`, and `high` is nobody's.
        ctx.state().low_calls.open();
        assert!(poll_once(&mut to_top).is_pending());
        // Down.
        ctx.state().high_calls.open();
        names(&to_high.await.unwrap_err(), &["high", "low"]);
        names(&to_top.await.unwrap_err(), &["high", "low"]);
    });
}

/// A run that `a` started and left goes on for somebody else, and calls `a`.
#[test]
fn a_run_that_outlives_its_starters_call_is_no_edge() {
    fn a(ctx: Ctx<(Arc<Gate>, Gate)>, n: u64) -> Out {
        async move {
            let mut to_b = ctx.run(b, n);
            let mut polls = 0;
            std::future::poll_fn(|cx| {
                polls += 1;
                assert!(to_b.poll_unpin(cx).is_pending());
                if polls == 1 {
                    std::task::Poll::Pending
                } else {
                    Poll::Ready(())
                }
            })
            .await;
            drop(to_b);
            ctx.state().1.passed().await;
            Ok(n)
        }
        .boxed()
    }
    fn b(ctx: Ctx<(Arc<Gate>, Gate)>, n: u64) -> Out {
        async move {
            yields(1).await;
            ctx.state().0.passed().await;
            ctx.run(a, n).await.copied()
        }
        .boxed()
    }
    everywhere(|| async {
        let ctx = Ctx::new((Arc::new(Gate::new()), Gate::new()));
        let (mut to_a, mut to_b) = (ctx.run(a, 1), ctx.run(b, 1));
        assert!(poll_once(&mut to_a).is_pending());
        assert!(poll_once(&mut to_b).is_pending());
        assert!(poll_once(&mut to_a).is_pending());
        ctx.state().0.open();
        assert!(poll_once(&mut to_b).is_pending());
        ctx.state().1.open();
        assert_eq!(*to_b.await.unwrap(), 1);
        assert_eq!(*to_a.await.unwrap(), 1);
    });
}

// --- graphs ----------------------------------------------------------------------------------------

/// Who calls whom, and how.
struct Graph {
    calls: Vec<Vec<usize>>,
    /// All calls at once, or one after another.
    joined: Vec<bool>,
    pauses: Vec<usize>,
}

fn node(ctx: Ctx<Graph>, id: usize) -> Out {
    async move {
        let graph = ctx.state();
        yields(graph.pauses[id]).await;
        let mut sum = 1_u64;
        if graph.joined[id] {
            let calls = graph.calls[id].iter().map(|next| ctx.run(node, *next));
            for value in try_join_all(calls).await? {
                sum = sum.wrapping_add(*value);
            }
        } else {
            for next in &graph.calls[id] {
                sum = sum.wrapping_add(*ctx.run(node, *next).await?);
            }
        }
        Ok(sum)
    }
    .boxed()
}

impl Graph {
    /// What each node gives: its value, or none if it reaches a cycle.
    fn expected(&self) -> Vec<Option<u64>> {
        fn visit(
            graph: &Graph,
            id: usize,
            open: &mut HashSet<usize>,
            known: &mut Vec<Option<Option<u64>>>,
        ) -> Option<u64> {
            if let Some(known) = known[id] {
                return known;
            }
            if !open.insert(id) {
                return None;
            }
            let mut sum = Some(1_u64);
            for next in &graph.calls[id] {
                let value = visit(graph, *next, open, known);
                sum = sum.zip(value).map(|(a, b)| a.wrapping_add(b));
            }
            open.remove(&id);
            known[id] = Some(sum);
            sum
        }
        let mut known = vec![None; self.calls.len()];
        (0..self.calls.len())
            .map(|id| visit(self, id, &mut HashSet::new(), &mut known))
            .collect()
    }
}

/// splitmix64: small, seeded, the same everywhere.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }

    fn shuffled(&mut self, size: usize) -> Vec<usize> {
        let mut order: Vec<usize> = (0..size).collect();
        for at in (1..size).rev() {
            order.swap(at, self.below(at + 1));
        }
        order
    }
}

/// Calls go from earlier to later in a random order; a planted cycle adds one call the other way.
fn random_graph(random: &mut Random, planted: bool) -> Graph {
    let size = 3 + random.below(14);
    let order = random.shuffled(size);
    let mut calls = vec![Vec::new(); size];
    let density = 2 + random.below(4);
    for from in 0..size {
        for to in from + 1..size {
            if random.below(density) == 0 {
                calls[order[from]].push(order[to]);
            }
        }
    }
    if planted {
        // A walk along the calls, closed: of one node (itself) up to the whole walk.
        let start = order[random.below(size)];
        let (mut end, steps) = (start, random.below(size));
        for _ in 0..steps {
            if calls[end].is_empty() {
                break;
            }
            end = calls[end][random.below(calls[end].len())];
        }
        calls[end].push(start);
    }
    for list in &mut calls {
        let by = random.shuffled(list.len());
        *list = by.into_iter().map(|at| list[at]).collect();
    }
    Graph {
        joined: (0..size).map(|_| random.below(2) == 0).collect(),
        pauses: (0..size).map(|_| random.below(3)).collect(),
        calls,
    }
}

#[test]
fn of_a_thousand_random_graphs_the_planted_cycles_and_no_others_are_told() {
    const THREADS: usize = 8;
    watched("a thousand graphs", || {
        let mut random = Random(0x0005_EED0_FCA1_1000);
        for round in 0..1_000 {
            let planted = round % 2 == 0;
            let graph = random_graph(&mut random, planted);
            let expected = graph.expected();
            assert_eq!(expected.contains(&None), planted);
            let size = graph.calls.len();
            let work: Vec<(Vec<usize>, Vec<bool>)> = (0..THREADS)
                .map(|_| {
                    let gives_up = (0..size).map(|_| random.below(4) == 0).collect();
                    (random.shuffled(size), gives_up)
                })
                .collect();
            let ctx = Ctx::new(graph);
            let start = Barrier::new(THREADS);
            std::thread::scope(|scope| {
                for (order, gives_up) in work {
                    let (ctx, start, expected) = (&ctx, &start, &expected);
                    scope.spawn(move || {
                        start.wait();
                        for id in order {
                            if gives_up[id] {
                                // Leaves an edge or a body behind, to be taken back.
                                let _ = poll_once(&mut ctx.run(node, id));
                            }
                            match (ctx.run(node, id).wait(), expected[id]) {
                                (Ok(value), Some(expected)) => assert_eq!(*value, expected),
                                (Err(error), None) => {
                                    assert_eq!(error.kind(), TaskErrorKind::Cycle, "{error}");
                                }
                                (got, expected) => {
                                    panic!("round {round}: {got:?}, expected {expected:?}")
                                }
                            }
                        }
                    });
                }
            });
        }
    });
}

#[test]
fn diamonds_are_no_cycles() {
    watched("diamonds", || {
        // Six layers of four, each calling all of the next, in every way at once.
        let layers = 6;
        let calls: Vec<Vec<usize>> = (0..layers * 4)
            .map(|id| {
                let next = (id / 4 + 1) * 4;
                (next..next + 4).filter(|to| *to < layers * 4).collect()
            })
            .collect();
        for round in 0..200 {
            let graph = Graph {
                joined: (0..calls.len()).map(|id| (id + round) % 2 == 0).collect(),
                pauses: (0..calls.len()).map(|id| (id + round) % 3).collect(),
                calls: calls.clone(),
            };
            let expected = graph.expected();
            let ctx = Ctx::new(graph);
            std::thread::scope(|scope| {
                for thread in 0..8 {
                    let (ctx, expected) = (&ctx, &expected);
                    scope.spawn(move || {
                        for step in 0..expected.len() {
                            let id = (step * 7 + thread * 3) % expected.len();
                            assert_eq!(Some(*ctx.run(node, id).wait().unwrap()), expected[id]);
                        }
                    });
                }
            });
        }
    });
}
