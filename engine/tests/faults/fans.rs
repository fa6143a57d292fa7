//! Groups of calls, and the helpers that drive them: when the group goes, all that it counted and started goes too.

use crate::support::{Count, Drops, Gate, Token, current_thread, poll_once, watched};
use std::future::pending;
use std::hash::{Hash, Hasher};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Barrier};
use std::task::Poll;
use std::thread;
use tokio::runtime::Runtime;
use watershed::{Ctx, Task, TaskError};

/// Lets the tasks of a current-thread runtime do all that they can do now.
async fn settle() {
    for _ in 0..20 {
        tokio::task::yield_now().await;
    }
}

// --- helpers ----------------------------------------------------------------------------------------

struct App {
    drops: Drops,
    /// Of the test and of a body, before and after the test's steps.
    meet: Arc<Barrier>,
    _state: Token,
}

async fn slow(ctx: Ctx<App>, _: u64) -> Result<Token, TaskError> {
    ctx.state().meet.wait();
    ctx.state().meet.wait();
    Ok(ctx.state().drops.token())
}

async fn parks(ctx: Ctx<App>, _: u64) -> Result<(), TaskError> {
    let _body = ctx.state().drops.token();
    pending().await
}

async fn fails(_: Ctx<App>, _: u64) -> Result<(), TaskError> {
    Err(TaskError::new("no"))
}

/// A thread that nobody helps is in the body of `slow` while `steps` go on; it ends the run, and then the context goes. Nothing may
/// be left, though the runtime of `steps` lives.
fn nothing_is_left(steps: impl FnOnce(&Runtime, &Ctx<App>) + Send + 'static) {
    watched("a helper at a slot that another caller finishes", || {
        let drops = Drops::default();
        let meet = Arc::new(Barrier::new(2));
        let runtime = current_thread();
        let ctx = Ctx::new(App {
            _state: drops.token(),
            drops: drops.clone(),
            meet: meet.clone(),
        });
        let other = ctx.clone();
        let other = thread::spawn(move || other.run(slow, 1).wait().map(drop));
        meet.wait();
        steps(&runtime, &ctx);
        meet.wait();
        other.join().unwrap().unwrap();
        drop(ctx);
        runtime.block_on(settle());
        let tasks = runtime.metrics().num_alive_tasks();
        assert_eq!((tasks, drops.live()), (0, 0), "tasks and drops");
    });
}

#[test]
fn a_helper_ends_with_its_fan_though_another_caller_finishes_the_slot() {
    nothing_is_left(|runtime, ctx| {
        runtime.block_on(async {
            // The last one is the fan's own; the helper finds the other one being polled, and sleeps.
            let mut fan = ctx.parallel((slow.with(1), parks.with(2)));
            assert!(poll_once(&mut fan).is_pending());
            settle().await;
            drop(fan);
            settle().await;
            assert_eq!(runtime.metrics().num_alive_tasks(), 0);
        });
    });
}

#[test]
fn a_helper_whose_fan_has_failed_before_its_first_poll_ends() {
    nothing_is_left(|runtime, ctx| {
        runtime.block_on(async {
            let mut fan = ctx.parallel((slow.with(1), fails.with(2)));
            assert!(matches!(poll_once(&mut fan), Poll::Ready(Err(_))));
            settle().await;
            assert_eq!(runtime.metrics().num_alive_tasks(), 0);
        });
    });
}

#[test]
fn a_helper_whose_fan_goes_while_its_runtime_stands_still_ends() {
    nothing_is_left(|runtime, ctx| {
        let inside = runtime.enter();
        let calls = [
            slow.with(1).boxed(),
            parks.with(2).boxed(),
            parks.with(3).boxed(),
        ];
        let mut fan = ctx.run_all(calls);
        assert!(poll_once(&mut fan).is_pending());
        drop(inside);
        drop(fan);
        runtime.block_on(settle());
        assert_eq!(runtime.metrics().num_alive_tasks(), 0);
    });
}

// --- a panic while a fan starts ---------------------------------------------------------------------

#[derive(Default)]
struct Counts {
    bodies: Drops,
    gate: Gate,
    runs: Count,
}

/// Its clone panics, once, when the fuse is lit.
#[derive(Debug)]
struct Key {
    n: u64,
    fuse: Arc<AtomicBool>,
}

impl Clone for Key {
    fn clone(&self) -> Key {
        assert!(!self.fuse.swap(false, SeqCst), "fuse in clone");
        Key {
            n: self.n,
            fuse: self.fuse.clone(),
        }
    }
}

impl PartialEq for Key {
    fn eq(&self, other: &Key) -> bool {
        self.n == other.n
    }
}

impl Eq for Key {}

impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.n.hash(state);
    }
}

async fn gated(ctx: Ctx<Counts>, key: Key) -> Result<u64, TaskError> {
    let _body = ctx.state().bodies.token();
    ctx.state().gate.passed().await;
    Ok(key.n)
}

#[test]
fn a_fan_that_a_panic_stopped_in_its_start_counts_each_call_once() {
    watched("a panic while a fan starts", || {
        let fuse = Arc::new(AtomicBool::new(false));
        let key = |n| Key {
            n,
            fuse: fuse.clone(),
        };
        let ctx = Ctx::new(Counts::default());
        let bodies = &ctx.state().bodies;
        current_thread().block_on(async {
            let mut forgotten = ctx.run(gated, key(2));
            assert!(poll_once(&mut forgotten).is_pending());
            let mut fan = ctx.parallel((gated.with(key(1)), gated.with(key(2))));
            assert!(ctx.forget(gated, &key(2)));
            // The first call is counted; the second looks for its new slot, and clones its key.
            fuse.store(true, SeqCst);
            let polled = catch_unwind(AssertUnwindSafe(|| poll_once(&mut fan).is_pending()));
            assert!(polled.is_err(), "the fuse is in the way of the fan");
            assert!(poll_once(&mut fan).is_pending());
            settle().await;
            assert_eq!(bodies.live(), 3);
            drop(fan);
            settle().await;
            assert_eq!(bodies.live(), 1, "the last caller of two bodies has left");
            drop(forgotten);
            assert_eq!(bodies.live(), 0);
        });
    });
}

// --- equal calls ------------------------------------------------------------------------------------

/// A task whose value is for those alone who wait for it now.
async fn forgets_itself(ctx: Ctx<Counts>, n: u64) -> Result<u64, TaskError> {
    ctx.forget(forgets_itself, &n);
    Ok(ctx.state().runs.add() as u64)
}

#[test]
fn equal_calls_of_a_fan_share_a_run_that_is_forgotten() {
    watched("equal calls", || {
        for limit in [2, 3] {
            let ctx = Ctx::new(Counts::default());
            current_thread().block_on(async {
                let values = ctx
                    .parallel_all([7, 7, 7].map(|n| forgets_itself.with(n)), limit)
                    .await;
                assert_eq!(values.unwrap(), [&1, &1, &1], "limit {limit}");
                settle().await;
                assert_eq!(ctx.state().runs.get(), 1, "limit {limit}");
            });
        }
    });
}
