//! Recursion far deeper than the stack: 100,000 tasks, each waiting for the next, on 512 KiB.
#![cfg(not(loom))]

mod support;

use futures::FutureExt;
use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, TryStreamExt};
use std::hint::black_box;
use support::{CountingWaker, Drops, Gate, poll_once, poll_with, watched_on};
use watershed::{Ctx, TaskError, TaskErrorKind};

const LEVELS: u64 = 100_000;
const STACK: usize = 512 * 1024;

#[derive(Clone, Copy, Default)]
enum Bottom {
    #[default]
    Ready,
    Fails,
    Panics,
    Parks,
}

#[derive(Clone, Default)]
struct App {
    bottom: Bottom,
    gate: Gate,
    bodies: Drops,
}

impl App {
    fn with(bottom: Bottom) -> App {
        App {
            bottom,
            ..App::default()
        }
    }

    async fn at_the_bottom(&self) -> Result<u64, TaskError> {
        match self.bottom {
            Bottom::Ready => Ok(0),
            Bottom::Fails => Err(TaskError::new("no bottom")),
            Bottom::Panics => panic!("hit the bottom"),
            Bottom::Parks => {
                self.gate.passed().await;
                Ok(0)
            }
        }
    }

    /// Every body that was made is gone, and there was one a level.
    fn all_gone(&self, levels: u64) {
        assert_eq!(self.bodies.live(), 0);
        assert_eq!(self.bodies.made() as u64, levels + 1);
    }
}

fn chain(ctx: Ctx<App>, n: u64) -> BoxFuture<'static, Result<u64, TaskError>> {
    async move {
        let _body = ctx.state().bodies.token();
        if n == 0 {
            return ctx.state().at_the_bottom().await;
        }
        Ok(*ctx.run(chain, n - 1).await? + 1)
    }
    .boxed()
}

/// Each level has 32 KiB on the stack of its poll, not across the await.
fn large(ctx: Ctx<App>, n: u64) -> BoxFuture<'static, Result<u64, TaskError>> {
    fn touch(local: &mut [u8; 32 * 1024], n: u64) -> u64 {
        local[n as usize % local.len()] = 1;
        // A byte of each page; to add all of them up takes a minute in a debug build.
        let bytes = black_box(&*local).iter().step_by(1024);
        bytes.map(|b| u64::from(*b)).sum()
    }
    async move {
        let _body = ctx.state().bodies.token();
        if n == 0 {
            return ctx.state().at_the_bottom().await;
        }
        let before = {
            let mut local = [0; 32 * 1024];
            touch(&mut local, n)
        };
        let below = *ctx.run(large, n - 1).await?;
        let after = {
            let mut local = [0; 32 * 1024];
            touch(&mut local, n)
        };
        Ok(below + 1 + (before - after))
    }
    .boxed()
}

/// Runs on a thread with a small stack; nothing may recurse there.
fn small_stack(what: &str, work: impl FnOnce() + Send + 'static) {
    watched_on(what, STACK, work);
}

#[test]
fn a_chain_that_is_ready_at_once() {
    small_stack("ready", || {
        let app = App::default();
        let ctx = Ctx::new(app.clone());
        assert_eq!(*ctx.run(chain, LEVELS).wait().unwrap(), LEVELS);
        app.all_gone(LEVELS);
        assert_eq!(
            *ctx.peek(chain, &(LEVELS / 2)).unwrap().unwrap(),
            LEVELS / 2
        );
        drop(ctx);
    });
}

#[test]
fn a_chain_that_fails_at_the_bottom() {
    small_stack("fails", || {
        for (bottom, kind) in [
            (Bottom::Fails, TaskErrorKind::Failed),
            (Bottom::Panics, TaskErrorKind::Panicked),
        ] {
            let app = App::with(bottom);
            let ctx = Ctx::new(app.clone());
            let failed = ctx.run(chain, LEVELS).wait().unwrap_err();
            assert_eq!(failed.kind(), kind);
            assert!(failed.task().ends_with("chain"));
            app.all_gone(LEVELS);
            let message = failed.to_string();
            assert!(message.contains("bottom"), "{message}");
            assert!(message.len() < 10_000, "{} bytes", message.len());
            let clone = failed.clone();
            drop(ctx);
            drop(failed);
            assert_eq!(clone.kind(), kind);
        }
    });
}

#[test]
fn a_chain_that_is_pending_at_the_bottom_and_woken_through_all_levels() {
    small_stack("woken", || {
        let app = App::with(Bottom::Parks);
        let ctx = Ctx::new(app.clone());
        let mut call = ctx.run(chain, LEVELS);
        let (wakes, waker) = CountingWaker::pair();
        assert!(poll_with(&mut call, &waker).is_pending());
        until_the_bottom_is_there(&app, &mut call);
        assert!(poll_with(&mut call, &waker).is_pending());
        let before = wakes.wakes();
        app.gate.open();
        assert!(wakes.wakes() > before, "the wake reaches the outermost");
        assert_eq!(*call.wait().unwrap(), LEVELS);
        app.all_gone(LEVELS);
    });
}

fn until_the_bottom_is_there(app: &App, call: &mut watershed::Run<'_, App, u64>) {
    while (app.bodies.made() as u64) < LEVELS + 1 {
        assert!(poll_once(call).is_pending());
    }
}

#[test]
fn a_chain_whose_last_caller_is_dropped_half_way() {
    small_stack("call dropped", || {
        let app = App::with(Bottom::Parks);
        let ctx = Ctx::new(app.clone());
        let mut call = ctx.run(chain, LEVELS);
        until_the_bottom_is_there(&app, &mut call);
        drop(call);
        app.all_gone(LEVELS);
        app.gate.open();
        assert_eq!(*ctx.run(chain, LEVELS).wait().unwrap(), LEVELS);
    });
}

#[test]
fn a_chain_whose_context_is_cancelled_half_way() {
    small_stack("cancelled", || {
        let app = App::with(Bottom::Parks);
        let ctx = Ctx::new(app.clone());
        let mut call = ctx.run(chain, LEVELS);
        until_the_bottom_is_there(&app, &mut call);
        ctx.cancel();
        app.all_gone(LEVELS);
        let ended = call.wait().unwrap_err();
        assert_eq!(ended.kind(), TaskErrorKind::Cancelled);
    });
}

#[cfg(feature = "tokio")]
#[test]
fn a_chain_whose_context_closes_half_way() {
    small_stack("closed", || {
        support::current_thread().block_on(async {
            let app = App::with(Bottom::Parks);
            let ctx = Ctx::new(app.clone());
            ctx.spawn(chain, LEVELS).unwrap();
            support::until(|| app.bodies.made() as u64 == LEVELS + 1).await;
            drop(ctx);
            app.all_gone(LEVELS);
        });
    });
}

#[cfg(feature = "tokio")]
#[test]
fn a_chain_on_a_runtime_whose_threads_have_small_stacks() {
    small_stack("multi-thread runtime", || {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_stack_size(STACK)
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let app = App::with(Bottom::Parks);
            let ctx = Ctx::new(app.clone());
            ctx.spawn(chain, LEVELS).unwrap();
            let there = ctx.clone();
            let waiter = tokio::spawn(async move { there.run(chain, LEVELS).await.copied() });
            support::until(|| app.bodies.made() as u64 == LEVELS + 1).await;
            app.gate.open();
            assert_eq!(waiter.await.unwrap().unwrap(), LEVELS);
            app.all_gone(LEVELS);
        });
    });
}

#[test]
fn a_chain_of_bodies_with_large_locals() {
    small_stack("large, ready", || {
        let app = App::default();
        let ctx = Ctx::new(app.clone());
        assert_eq!(*ctx.run(large, LEVELS).wait().unwrap(), LEVELS);
        app.all_gone(LEVELS);
    });
    small_stack("large, woken", || {
        let app = App::with(Bottom::Parks);
        let ctx = Ctx::new(app.clone());
        let mut call = ctx.run(large, LEVELS);
        until_the_bottom_is_there(&app, &mut call);
        app.gate.open();
        assert_eq!(*call.wait().unwrap(), LEVELS);
        app.all_gone(LEVELS);
    });
}

/// Each level joins what the level below has started; nothing of that can close a cycle, and nobody searches for one.
#[test]
fn a_chain_through_join_of_two_a_level() {
    fn pairs(ctx: Ctx<App>, n: u64) -> BoxFuture<'static, Result<u64, TaskError>> {
        async move {
            let _body = ctx.state().bodies.token();
            if n < 2 {
                return Ok(n);
            }
            let calls = futures::try_join!(ctx.run(pairs, n - 1), ctx.run(pairs, n - 2));
            let (a, b) = calls?;
            Ok(a.wrapping_add(*b))
        }
        .boxed()
    }
    const LEVELS: u64 = 100_000;
    small_stack("join", || {
        let app = App::default();
        let ctx = Ctx::new(app.clone());
        let (mut a, mut b) = (0_u64, 1_u64);
        for _ in 0..LEVELS {
            (a, b) = (b, a.wrapping_add(b));
        }
        assert_eq!(*ctx.run(pairs, LEVELS).wait().unwrap(), a);
        app.all_gone(LEVELS);
    });
}

/// A set polls its members with wakers of its own, so each level is a new stack.
#[test]
fn a_chain_through_a_set_of_futures_a_level() {
    const LEVELS: u64 = 20_000;
    fn sets(ctx: Ctx<App>, n: u64) -> BoxFuture<'static, Result<u64, TaskError>> {
        async move {
            let _body = ctx.state().bodies.token();
            if n == 0 {
                return ctx.state().at_the_bottom().await;
            }
            let mut set = FuturesUnordered::from_iter([ctx.run(sets, n - 1)]);
            let below = *set.try_next().await?.unwrap();
            Ok(below + 1)
        }
        .boxed()
    }
    small_stack("sets", || {
        for bottom in [Bottom::Ready, Bottom::Parks] {
            let app = App::with(bottom);
            let ctx = Ctx::new(app.clone());
            let mut call = ctx.run(sets, LEVELS);
            if matches!(bottom, Bottom::Parks) {
                while app.bodies.made() as u64 <= LEVELS {
                    assert!(poll_once(&mut call).is_pending());
                }
                app.gate.open();
            }
            assert_eq!(*call.wait().unwrap(), LEVELS);
            app.all_gone(LEVELS);
        }
    });
}

#[test]
fn a_chain_of_fresh_runs() {
    fn fresh(ctx: Ctx<App>, n: u64) -> BoxFuture<'static, Result<u64, TaskError>> {
        async move {
            let _body = ctx.state().bodies.token();
            if n == 0 {
                return ctx.state().at_the_bottom().await;
            }
            Ok(ctx.run_fresh(fresh, n - 1).await? + 1)
        }
        .boxed()
    }
    small_stack("fresh", || {
        for bottom in [Bottom::Ready, Bottom::Parks] {
            let app = App::with(bottom);
            let ctx = Ctx::new(app.clone());
            let mut call = ctx.run_fresh(fresh, LEVELS);
            if matches!(bottom, Bottom::Parks) {
                while app.bodies.made() as u64 <= LEVELS {
                    assert!(poll_once(&mut call).is_pending());
                }
                app.gate.open();
            }
            assert_eq!(futures::executor::block_on(call).unwrap(), LEVELS);
            app.all_gone(LEVELS);
        }
    });
}

// --- the limit -------------------------------------------------------------------------------------

/// R43: calls itself with a growing key, for ever.
fn endless(ctx: Ctx<App>, n: u64) -> BoxFuture<'static, Result<u64, TaskError>> {
    async move {
        let _body = ctx.state().bodies.token();
        Ok(*ctx.run(endless, n + 1).await? + 1)
    }
    .boxed()
}

#[test]
fn recursion_beyond_the_limit_that_was_set_is_too_deep() {
    small_stack("limit of 1,000", || {
        let app = App::default();
        let ctx = Ctx::builder(app.clone()).max_depth(1_000).build();
        assert_eq!(*ctx.run(chain, 900).wait().unwrap(), 900);
        let before = app.bodies.made();
        let failed = ctx.run(endless, 0).wait().unwrap_err();
        assert_eq!(failed.kind(), TaskErrorKind::TooDeep);
        assert!(failed.to_string().contains("1000"), "{failed}");
        let started = app.bodies.made() - before;
        assert!((990..=1_010).contains(&started), "{started} bodies");
        assert_eq!(app.bodies.live(), 0);
        // Depth counts, not how many there are.
        assert_eq!(*ctx.run(chain, 1_800).wait().unwrap(), 1_800);
    });
}

#[test]
fn recursion_without_an_end_is_too_deep_at_the_default_limit() {
    small_stack("default limit", || {
        let app = App::default();
        let ctx = Ctx::new(app.clone());
        let failed = ctx.run(endless, 0).wait().unwrap_err();
        assert_eq!(failed.kind(), TaskErrorKind::TooDeep);
        assert!(app.bodies.made() >= 199_990, "{}", app.bodies.made());
        assert_eq!(app.bodies.live(), 0);
        let other = ctx.run(chain, 10).wait();
        assert_eq!(*other.unwrap(), 10);
    });
}
