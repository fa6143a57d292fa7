//! Tasks that wait for each other, or call each other without end: an error at once, and no false alarm.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use futures::future::{BoxFuture, join_all};
use tokio::sync::Barrier;
use watershed::{Ctx, TaskError, TaskErrorKind};

use crate::helpers::{CountingWaker, Gate, poll_once, poll_with, watched_on, yields};

/// What promises `Send` by its own signature hides its edge from the compiler: the only way to close a cycle.
type Answer = BoxFuture<'static, Result<u64, TaskError>>;

/// The state: counts the bodies, and may make so many of them meet before they call each other.
struct Ring {
    starts: AtomicUsize,
    meet: Option<Barrier>,
    broken: AtomicBool,
}

type R = Arc<Ring>;

impl Ring {
    fn new() -> R {
        Arc::new(Self {
            starts: AtomicUsize::new(0),
            meet: None,
            broken: AtomicBool::new(false),
        })
    }

    fn meeting(bodies: usize) -> R {
        let meet = Some(Barrier::new(bodies));
        Arc::new(Self {
            starts: AtomicUsize::new(0),
            meet,
            broken: AtomicBool::new(false),
        })
    }

    async fn enter(&self) {
        self.starts.fetch_add(1, Ordering::SeqCst);
        if let Some(meet) = &self.meet {
            meet.wait().await;
        }
    }

    fn starts(&self) -> usize {
        self.starts.load(Ordering::SeqCst)
    }
}

/// A task that runs another one of the same input and adds one, unless the ring is broken.
macro_rules! link {
    ($($name:ident -> $next:ident),*) => {$(
        fn $name(ctx: Ctx<R>, n: u64) -> Answer {
            Box::pin(async move {
                ctx.state().enter().await;
                if ctx.state().broken.load(Ordering::SeqCst) {
                    return Ok(n);
                }
                Ok(*ctx.run($next, n).await? + 1)
            })
        }
    )*};
}

link!(narcissus -> narcissus);
link!(left -> right, right -> left);
link!(north -> east, east -> south, south -> north);
link!(tail -> hub, hub -> hub_back, hub_back -> hub);

/// `forked` -> (`plain`, `back`) by `join!`, `back` -> `forked`.
fn forked(ctx: Ctx<R>, n: u64) -> Answer {
    Box::pin(async move {
        ctx.state().enter().await;
        let (one, two) = tokio::join!(ctx.run(plain, n), ctx.run(back, n));
        Ok(one? + two?)
    })
}

fn back(ctx: Ctx<R>, n: u64) -> Answer {
    Box::pin(async move {
        ctx.state().enter().await;
        yields(1).await;
        Ok(*ctx.run(forked, n).await? + 1)
    })
}

async fn plain(ctx: Ctx<R>, n: u64) -> Result<u64, TaskError> {
    ctx.state().starts.fetch_add(1, Ordering::SeqCst);
    yields(2).await;
    Ok(n)
}

/// Starts `answers` detached and waits for it; `answers` waits for it in turn.
fn sends(ctx: Ctx<R>, n: u64) -> Answer {
    Box::pin(async move {
        ctx.state().enter().await;
        ctx.spawn(answers, n)?;
        Ok(*ctx.run(answers, n).await? + 1)
    })
}

fn answers(ctx: Ctx<R>, n: u64) -> Answer {
    Box::pin(async move {
        ctx.state().enter().await;
        Ok(*ctx.run(sends, n).await? + 1)
    })
}

/// Spawns itself and does not wait for it: no cycle.
fn spawns_itself(ctx: Ctx<R>, n: u64) -> Answer {
    Box::pin(async move {
        ctx.state().enter().await;
        ctx.spawn(spawns_itself, n)?;
        yields(2).await;
        Ok(n)
    })
}

/// Calls itself with the next number, for ever.
fn deeper(ctx: Ctx<R>, n: u64) -> Answer {
    Box::pin(async move {
        ctx.state().starts.fetch_add(1, Ordering::Relaxed);
        Ok(*ctx.run(deeper, n + 1).await? + 1)
    })
}

/// As [`deeper`], and each level waits once before it goes on.
fn deeper_slowly(ctx: Ctx<R>, n: u64) -> Answer {
    Box::pin(async move {
        ctx.state().starts.fetch_add(1, Ordering::Relaxed);
        yields(1).await;
        Ok(*ctx.run(deeper_slowly, n + 1).await? + 1)
    })
}

/// A cycle whose path names all of these.
fn names(error: &TaskError, tasks: &[&str]) {
    assert_eq!(error.kind(), TaskErrorKind::Cycle, "{error}");
    let text = error.to_string();
    for task in tasks {
        assert!(text.contains(task), "{task} is missing in: {text}");
    }
}

on_both_runtimes! {
    /// R42 (1)
    async fn a_task_that_waits_for_itself_is_told() {
        let ring = Ring::new();
        let ctx = Ctx::new(ring.clone());
        names(&ctx.run(narcissus, 1).await.unwrap_err(), &["narcissus"]);
        assert_eq!(ring.starts(), 1);
    }

    /// R42 (2)
    async fn two_tasks_that_wait_for_each_other_are_told() {
        let ring = Ring::new();
        let ctx = Ctx::new(ring.clone());
        names(&ctx.run(left, 1).await.unwrap_err(), &["left", "right"]);
        assert_eq!(ring.starts(), 2);
    }

    /// R42 (3)
    async fn a_cycle_closed_by_two_tasks_is_told_to_both() {
        let ring = Ring::meeting(2);
        let ctx = Ctx::new(ring.clone());
        let (one, two) = (caller!(ctx, left, 1), caller!(ctx, right, 1));
        names(&one.await.unwrap().unwrap_err(), &["left", "right"]);
        names(&two.await.unwrap().unwrap_err(), &["left", "right"]);
        assert_eq!(ring.starts(), 2);
    }

    /// R42 (4)
    async fn a_cycle_through_spawn_is_told() {
        let ring = Ring::new();
        let ctx = Ctx::new(ring.clone());
        names(&ctx.run(sends, 1).await.unwrap_err(), &["sends", "answers"]);
        assert_eq!(ring.starts(), 2);
    }

    /// R42 (4): both ends were started detached.
    async fn a_cycle_of_two_spawned_runs_is_told() {
        let ring = Ring::meeting(2);
        let ctx = Ctx::new(ring.clone());
        ctx.spawn(left, 1).unwrap();
        ctx.spawn(right, 1).unwrap();
        let (one, two) = tokio::join!(ctx.run(left, 1), ctx.run(right, 1));
        names(&one.unwrap_err(), &["left", "right"]);
        names(&two.unwrap_err(), &["left", "right"]);
        assert_eq!(ring.starts(), 2);
    }

    /// R42 (5)
    async fn a_cycle_through_join_is_told() {
        let ring = Ring::new();
        let ctx = Ctx::new(ring.clone());
        names(&ctx.run(forked, 1).await.unwrap_err(), &["forked", "back"]);
        assert_eq!(ring.starts(), 3);
    }

    /// R42 (6)
    async fn a_cycle_of_three_is_told_in_whatever_order_they_start() {
        for order in [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
            let ring = Ring::meeting(3);
            let ctx = Ctx::new(ring.clone());
            let calls = order.map(|which| match which {
                0 => caller!(ctx, north, 1),
                1 => caller!(ctx, east, 1),
                _ => caller!(ctx, south, 1),
            });
            for call in calls {
                names(&call.await.unwrap().unwrap_err(), &["north", "east", "south"]);
            }
            assert_eq!(ring.starts(), 3);
        }
    }

    /// R42: a task that leads into a cycle without being part of it.
    async fn a_tail_in_front_of_a_cycle_is_told_too() {
        let ring = Ring::new();
        let ctx = Ctx::new(ring.clone());
        names(&ctx.run(tail, 1).await.unwrap_err(), &["hub", "hub_back"]);
        assert_eq!(ring.starts(), 3);
    }

    /// R42: a cycle that many callers wait for.
    async fn a_cycle_is_told_to_everyone_who_waits() {
        let ring = Ring::meeting(2);
        let ctx = Ctx::new(ring.clone());
        let calls = (0..10).map(|nth| if nth % 2 == 0 { caller!(ctx, left, 1) } else { caller!(ctx, right, 1) });
        for call in calls.collect::<Vec<_>>() {
            names(&call.await.unwrap().unwrap_err(), &["left", "right"]);
        }
        assert_eq!(ring.starts(), 2);
    }

    /// R42: nothing of it sticks.
    async fn after_a_cycle_forgotten_runs_and_fresh_contexts_work() {
        let ring = Ring::new();
        let ctx = Ctx::new(ring.clone());
        names(&ctx.run(left, 1).await.unwrap_err(), &["left", "right"]);
        ring.broken.store(true, Ordering::SeqCst);
        assert!(ctx.forget(left, &1));
        assert!(ctx.forget(right, &1));
        assert_eq!(ctx.run(left, 1).await.unwrap(), &1);
        assert_eq!(ctx.run(right, 1).await.unwrap(), &1);
        assert_eq!(Ctx::new(ring.clone()).run(left, 1).await.unwrap(), &1);
        assert_eq!(ring.starts(), 5);
    }

    /// R42: not waiting for oneself is no cycle.
    async fn a_task_that_spawns_itself_is_no_cycle() {
        let ring = Ring::new();
        let ctx = Ctx::new(ring.clone());
        assert_eq!(ctx.run(spawns_itself, 1).await.unwrap(), &1);
        assert_eq!(ring.starts(), 1);
    }

    /// R42: the same task with another input is no cycle.
    async fn honest_recursion_is_no_cycle() {
        fn factorial(ctx: Ctx<R>, n: u64) -> Answer {
            Box::pin(async move {
                ctx.state().enter().await;
                if n == 0 { Ok(1) } else { Ok(n * *ctx.run(factorial, n - 1).await?) }
            })
        }
        let ring = Ring::new();
        let ctx = Ctx::new(ring.clone());
        assert_eq!(ctx.run(factorial, 10).await.unwrap(), &3_628_800);
        assert_eq!(ring.starts(), 11);
    }

    /// R42: two tasks that want the same third one, from one task and from two.
    async fn a_diamond_is_no_cycle() {
        let diamond = Diamond::new();
        let ctx = Ctx::new(diamond.clone());
        assert_eq!(ctx.run(top, 1).await.unwrap(), &14);
        assert_eq!(diamond.starts.load(Ordering::SeqCst), 4);

        for _ in 0..100 {
            let diamond = Diamond::new();
            let ctx = Ctx::new(diamond.clone());
            let calls = [caller!(ctx, port, 1), caller!(ctx, starboard, 1), caller!(ctx, top, 1)];
            let values = join_all(calls).await.into_iter().map(|value| value.unwrap().unwrap());
            assert_eq!(values.collect::<Vec<_>>(), [6, 7, 14]);
            assert_eq!(diamond.starts.load(Ordering::SeqCst), 4);
        }
    }

    /// R42: an edge that is gone does not count. One gives its wait up; then the other, kept alive by a caller of
    /// its own, waits for it.
    async fn a_wait_that_was_given_up_is_no_edge() {
        let diamond = Diamond::new();
        let ctx = Ctx::new(diamond.clone());
        let mut one = ctx.run(gives_up, 1);
        assert!(poll_once(&mut one).is_pending());
        let mut two = ctx.run(wants_back, 1);
        assert!(poll_once(&mut two).is_pending());
        let (one, two) = tokio::join!(one, two);
        assert_eq!((one.unwrap(), two.unwrap()), (&4, &5));
        assert_eq!(diamond.starts.load(Ordering::SeqCst), 2);
    }

    /// R43
    async fn endless_recursion_ends_at_the_limit() {
        const LIMIT: usize = 1_000;
        let ring = Ring::new();
        let ctx = Ctx::builder(ring.clone()).max_depth(LIMIT).build();
        let error = ctx.run(deeper, 0).await.unwrap_err();
        assert_eq!(error.kind(), TaskErrorKind::TooDeep);
        assert!(error.to_string().contains("1000"), "{error}");
        assert!((LIMIT..=LIMIT + 1).contains(&ring.starts()), "{} starts", ring.starts());
        assert_eq!(ctx.run(plain, 1).await.unwrap(), &1, "the context goes on");
    }

    /// R43: with a wait at each level, and two callers.
    async fn endless_recursion_ends_at_the_limit_when_every_level_waits() {
        const LIMIT: usize = 300;
        let ring = Ring::new();
        let ctx = Ctx::builder(ring.clone()).max_depth(LIMIT).build();
        let (one, two) = (caller!(ctx, deeper_slowly, 0), caller!(ctx, deeper_slowly, 0));
        assert_eq!(one.await.unwrap().unwrap_err().kind(), TaskErrorKind::TooDeep);
        assert_eq!(two.await.unwrap().unwrap_err().kind(), TaskErrorKind::TooDeep);
        assert!((LIMIT..=LIMIT + 1).contains(&ring.starts()), "{} starts", ring.starts());
    }
}

/// R43: told in the very poll that closes it, without a wake to ask for another.
#[test]
fn a_cycle_is_told_within_the_poll_that_closes_it() {
    let ring = Ring::new();
    let ctx = Ctx::new(ring.clone());
    let (wakes, waker) = CountingWaker::pair();
    let mut call = ctx.run(left, 1);
    let std::task::Poll::Ready(Err(error)) = poll_with(&mut call, &waker) else {
        panic!("one poll is enough");
    };
    names(&error, &["left", "right"]);
    assert_eq!((wakes.wakes(), ring.starts()), (0, 2));
}

/// R43: closed by the second of two callers; the first hears of it by a wake, and nobody polls more than he must.
#[test]
fn a_cycle_closed_by_two_callers_costs_a_handful_of_polls() {
    let ring = Ring::meeting(2);
    let ctx = Ctx::new(ring.clone());
    let (wakes, waker) = CountingWaker::pair();
    let mut one = ctx.run(left, 1);
    assert!(poll_with(&mut one, &waker).is_pending());
    let mut two = ctx.run(right, 1);
    let mut polls = 1;
    while poll_once(&mut two).is_pending() {
        polls += 1;
        assert!(polls < 10, "spins");
        if wakes.wakes() > 0 && poll_with(&mut one, &waker).is_ready() {
            break;
        }
    }
    assert!(wakes.wakes() > 0, "the first sleeps on");
    assert_eq!(ring.starts(), 2);
    assert!(wakes.wakes() < 10, "woken {} times", wakes.wakes());
}

/// R43: the limit that holds when nobody sets one, on a stack that recursion would overflow.
#[test]
fn endless_recursion_ends_at_the_default_limit() {
    const DEFAULT_LIMIT: usize = 200_000;
    watched_on("a small stack", 512 << 10, || {
        let ring = Ring::new();
        let ctx = Ctx::new(ring.clone());
        let error = ctx.run(deeper, 0).wait().unwrap_err();
        assert_eq!(error.kind(), TaskErrorKind::TooDeep);
        assert!(
            (DEFAULT_LIMIT..=DEFAULT_LIMIT + 1).contains(&ring.starts()),
            "{} starts",
            ring.starts()
        );
        drop(ctx);
        assert_eq!(Arc::strong_count(&ring), 1);
        assert!(
            error.to_string().contains("200000"),
            "it outlives its context"
        );
    });
}

/// A state without a cycle.
struct Diamond {
    starts: AtomicUsize,
    gate: Gate,
}

impl Diamond {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            starts: AtomicUsize::new(0),
            gate: Gate::new(),
        })
    }
}

fn top(ctx: Ctx<Arc<Diamond>>, n: u64) -> Answer {
    Box::pin(async move {
        ctx.state().starts.fetch_add(1, Ordering::SeqCst);
        let (one, two) = tokio::try_join!(ctx.run(port, n), ctx.run(starboard, n))?;
        Ok(one + two + 1)
    })
}

fn port(ctx: Ctx<Arc<Diamond>>, n: u64) -> Answer {
    Box::pin(async move {
        ctx.state().starts.fetch_add(1, Ordering::SeqCst);
        yields(2).await;
        Ok(*ctx.run(keel, n).await? + 1)
    })
}

fn starboard(ctx: Ctx<Arc<Diamond>>, n: u64) -> Answer {
    Box::pin(async move {
        ctx.state().starts.fetch_add(1, Ordering::SeqCst);
        yields(1).await;
        Ok(*ctx.run(keel, n).await? + 2)
    })
}

fn keel(ctx: Ctx<Arc<Diamond>>, n: u64) -> Answer {
    Box::pin(async move {
        ctx.state().starts.fetch_add(1, Ordering::SeqCst);
        yields(4).await;
        Ok(n * 5)
    })
}

/// Waits for `wants_back`, gives that up, and only then lets it go on, which makes it want this one.
fn gives_up(ctx: Ctx<Arc<Diamond>>, n: u64) -> Answer {
    Box::pin(async move {
        ctx.state().starts.fetch_add(1, Ordering::SeqCst);
        let mut given_up = ctx.run(wants_back, n);
        assert!(poll_once(&mut given_up).is_pending());
        yields(1).await;
        drop(given_up);
        ctx.state().gate.open();
        yields(3).await;
        Ok(n + 3)
    })
}

fn wants_back(ctx: Ctx<Arc<Diamond>>, n: u64) -> Answer {
    Box::pin(async move {
        ctx.state().starts.fetch_add(1, Ordering::SeqCst);
        ctx.state().gate.passed().await;
        Ok(*ctx.run(gives_up, n).await? + 1)
    })
}
