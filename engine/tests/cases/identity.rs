//! What counts as the same call: the same task and an equal input in one context, by whatever way it is asked for.

use std::hash::{Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use futures::future::join_all;
use tokio::sync::oneshot;
use watershed::{Ctx, Held, Task, TaskError, TaskErrorKind};

use crate::helpers::{
    CountingWaker, Gate, P, Probe, at_once, gated, poll_once, poll_with, watched, yields,
};

on_both_runtimes! {
    /// R22
    async fn two_contexts_share_no_run() {
        let probe = Probe::new();
        let (one, two) = (Ctx::new(probe.clone()), Ctx::new(probe.clone()));
        let mut waits = one.run(gated, 1);
        assert!(poll_once(&mut waits).is_pending());
        let mut other = two.run(gated, 1);
        assert!(poll_once(&mut other).is_pending());
        assert_eq!(probe.starts(), 2);
        drop(waits);
        one.cancel();
        drop(one);
        assert_eq!(probe.live(), 1);
        probe.gate.open();
        assert_eq!(other.await.unwrap(), &10);
        assert_eq!(probe.starts(), 2);
    }

    /// R22: the event of one request wakes nobody of the other.
    async fn two_contexts_share_no_waker() {
        struct Request {
            starts: AtomicUsize,
            gate: Gate,
        }
        async fn waits(ctx: Ctx<Arc<Request>>, n: u64) -> Result<u64, TaskError> {
            ctx.state().starts.fetch_add(1, Ordering::SeqCst);
            ctx.state().gate.passed().await;
            Ok(n)
        }
        let requests = [(); 2].map(|()| Arc::new(Request { starts: AtomicUsize::new(0), gate: Gate::new() }));
        let contexts = requests.clone().map(Ctx::new);
        let (wakes, waker) = CountingWaker::pair();
        let (other_wakes, other_waker) = CountingWaker::pair();
        let mut one = contexts[0].run(waits, 1);
        let mut two = contexts[1].run(waits, 1);
        assert!(poll_with(&mut one, &waker).is_pending());
        assert!(poll_with(&mut two, &other_waker).is_pending());
        requests[1].gate.open();
        assert_eq!(wakes.wakes(), 0);
        assert!(other_wakes.wakes() > 0);
        assert!(poll_with(&mut two, &other_waker).is_ready());
        assert!(poll_with(&mut one, &waker).is_pending());
        assert_eq!(wakes.wakes(), 0);
        requests[0].gate.open();
        assert!(wakes.wakes() > 0);
        assert_eq!(one.await.unwrap(), &1);
        assert_eq!(requests.map(|request| request.starts.load(Ordering::SeqCst)), [1, 1]);
    }

    /// R39
    async fn every_way_to_call_shares_one_run() {
        let probe = Probe::new();
        let ctx = Ctx::new(probe.clone());
        async fn tries(ctx: &Ctx<P>) -> Result<u64, TaskError> {
            Ok(*ctx.run(gated, 1).await?)
        }
        ctx.spawn(gated, 1).unwrap();
        let (blocked, has_blocked) = oneshot::channel();
        let blocking = thread::spawn({
            let ctx = ctx.clone();
            move || blocked.send(ctx.run(gated, 1).wait().copied()).unwrap()
        });
        let on_its_own_task = caller!(ctx, gated, 1);
        let (run, tried, held, one, many, list, shared, ()) = tokio::join!(
            ctx.run(gated, 1),
            tries(&ctx),
            ctx.run(gated, 1).held(),
            ctx.parallel((gated.with(1), gated.with(1))),
            ctx.parallel_all((0..5).map(|_| gated.with(1)), 2),
            ctx.run_all([gated.with(1).boxed(), gated.with(1).boxed()]),
            on_its_own_task,
            async {
                probe.until_started(1).await;
                probe.gate.open();
            },
        );
        let run: &u64 = run.unwrap();
        let held: Held<u64> = held.unwrap();
        let (first, second) = one.unwrap();
        assert_eq!((*run, tried.unwrap(), *held, shared.unwrap().unwrap()), (10, 10, 10, 10));
        assert!([first, second, &*held].into_iter().chain(many.unwrap()).all(|value| std::ptr::eq(value, run)));
        list.unwrap();
        assert_eq!(has_blocked.await.unwrap().unwrap(), 10);
        blocking.join().unwrap();
        assert!(std::ptr::eq(ctx.peek(gated, &1).unwrap().unwrap(), run));
        assert_eq!(ctx.prime(gated, 1, 99), Err(99), "there is a value already");
        assert_eq!(probe.starts(), 1);
    }

    /// R39: first the one way, then the other.
    async fn every_way_to_call_hits_what_another_left() {
        let probe = Probe::new();
        let ctx = Ctx::new(probe.clone());
        ctx.run_all([at_once.with(1).boxed()]).await.unwrap();
        assert_eq!(ctx.parallel((at_once.with(1),)).await.unwrap(), (&10,));
        assert_eq!(ctx.parallel_all([at_once.with(1)], 1).await.unwrap(), [&10]);
        assert_eq!(*ctx.run(at_once, 1).held().await.unwrap(), 10);
        ctx.spawn(at_once, 1).unwrap();
        assert_eq!(ctx.run(at_once, 1).await.unwrap(), &10);
        assert_eq!(probe.starts(), 1);
    }

    /// R63: here unoptimized or as the tests are built; below with fat LTO.
    async fn tasks_with_equal_bodies_are_two_tasks() {
        mod one {
            use super::*;
            pub(super) async fn next(ctx: Ctx<Arc<AtomicU64>>, _: u64) -> Result<u64, TaskError> {
                Ok(ctx.state().fetch_add(1, Ordering::SeqCst))
            }
        }
        mod two {
            use super::*;
            pub(super) async fn next(ctx: Ctx<Arc<AtomicU64>>, _: u64) -> Result<u64, TaskError> {
                Ok(ctx.state().fetch_add(1, Ordering::SeqCst))
            }
        }
        #[allow(clippy::extra_unused_type_parameters, reason = "the type alone tells them apart")]
        async fn of<T: Send + Sync + 'static>(ctx: Ctx<Arc<AtomicU64>>, _: u64) -> Result<u64, TaskError> {
            Ok(ctx.state().fetch_add(1, Ordering::SeqCst))
        }
        let starts = Arc::new(AtomicU64::new(0));
        let ctx = Ctx::new(starts.clone());
        for _ in 0..2 {
            assert_eq!(ctx.run(one::next, 1_u64).await.unwrap(), &0);
            assert_eq!(ctx.run(two::next, 1_u64).await.unwrap(), &1);
            assert_eq!(ctx.run(of::<u8>, 1_u64).await.unwrap(), &2);
            assert_eq!(ctx.run(of::<i8>, 1_u64).await.unwrap(), &3);
        }
        assert_eq!(starts.load(Ordering::SeqCst), 4);
    }

    /// R65
    async fn equal_inputs_hit_however_they_were_made() {
        async fn by_string(ctx: Ctx<P>, text: String) -> Result<usize, TaskError> {
            let _body = ctx.state().enter();
            Ok(text.len())
        }
        async fn by_arc(ctx: Ctx<P>, text: Arc<str>) -> Result<usize, TaskError> {
            let _body = ctx.state().enter();
            Ok(text.len())
        }
        async fn by_path(ctx: Ctx<P>, path: PathBuf) -> Result<usize, TaskError> {
            let _body = ctx.state().enter();
            Ok(path.as_os_str().len())
        }
        async fn by_list(ctx: Ctx<P>, list: Vec<Arc<String>>) -> Result<usize, TaskError> {
            let _body = ctx.state().enter();
            Ok(list.len())
        }
        async fn by_pair(ctx: Ctx<P>, (a, b): (u32, Option<String>)) -> Result<usize, TaskError> {
            let _body = ctx.state().enter();
            Ok(a as usize + b.map_or(0, |b| b.len()))
        }
        let probe = Probe::new();
        let ctx = Ctx::new(probe.clone());
        let (owned, shared) = (["la", "ke"].concat(), Arc::<str>::from("river"));
        for _ in 0..2 {
            assert_eq!(ctx.run(by_string, String::from("lake")).await.unwrap(), &4);
            assert_eq!(ctx.run(by_string, "lake").await.unwrap(), &4);
            assert_eq!(ctx.run(by_string, &owned).await.unwrap(), &4);
        }
        assert_eq!(probe.starts(), 1);
        for _ in 0..2 {
            assert_eq!(ctx.run(by_arc, Arc::<str>::from("river")).await.unwrap(), &5);
            assert_eq!(ctx.run(by_arc, "river").await.unwrap(), &5);
            assert_eq!(ctx.run(by_arc, &shared).await.unwrap(), &5);
        }
        assert_eq!(probe.starts(), 2);
        for _ in 0..2 {
            assert_eq!(ctx.run(by_path, PathBuf::from("a/b")).await.unwrap(), &3);
            assert_eq!(ctx.run(by_path, Path::new("a/b")).await.unwrap(), &3);
        }
        assert_eq!(probe.starts(), 3);
        for _ in 0..2 {
            let list = vec![Arc::new("x".to_owned()), Arc::new("y".to_owned())];
            assert_eq!(ctx.run(by_list, list).await.unwrap(), &2);
            assert_eq!(ctx.run(by_pair, (3, Some("ab".to_owned()))).await.unwrap(), &5);
        }
        assert_eq!(probe.starts(), 5);
        // What differs does not hit, down to the last part.
        assert_eq!(ctx.run(by_string, "sea").await.unwrap(), &3);
        assert_eq!(ctx.run(by_pair, (3, None)).await.unwrap(), &3);
        assert_eq!(ctx.run(by_pair, (2, Some("ab".to_owned()))).await.unwrap(), &4);
        assert_eq!(probe.starts(), 8);
    }

    /// R65: equality decides, never a hash alone.
    async fn inputs_whose_hashes_collide_are_told_apart() {
        #[derive(Clone, PartialEq, Eq)]
        struct Colliding(u64);
        impl Hash for Colliding {
            fn hash<H: Hasher>(&self, state: &mut H) {
                0_u8.hash(state);
            }
        }
        async fn by_colliding(ctx: Ctx<P>, key: Colliding) -> Result<u64, TaskError> {
            let _body = ctx.state().enter();
            yields(1).await;
            Ok(key.0)
        }
        let probe = Probe::new();
        let ctx = Ctx::new(probe.clone());
        let values = join_all((0..50).map(|n| ctx.run(by_colliding, Colliding(n)))).await;
        for (n, value) in (0..).zip(values) {
            assert_eq!(value.unwrap(), &n);
        }
        assert_eq!(probe.starts(), 50);
    }

    /// R67
    async fn two_users_with_the_same_input_get_their_own_data() {
        let starts = Arc::new(AtomicUsize::new(0));
        let gate = Arc::new(Gate::new());
        let contexts = ["ada", "bob"].map(|user| {
            Ctx::new(Session { user, starts: starts.clone(), gate: gate.clone() })
        });
        let calls = contexts.iter().map(|ctx| caller!(ctx, mailbox, 7)).collect::<Vec<_>>();
        let mut more = contexts.iter().map(|ctx| ctx.run(mailbox, 7)).collect::<Vec<_>>();
        for call in &mut more {
            assert!(poll_once(call).is_pending());
        }
        gate.open();
        for (call, user) in calls.into_iter().zip(["ada", "bob"]) {
            assert_eq!(call.await.unwrap().unwrap(), format!("mail 7 of {user}"));
        }
        for (value, user) in join_all(more).await.into_iter().zip(["ada", "bob"]) {
            assert_eq!(*value.unwrap(), format!("mail 7 of {user}"));
        }
        assert_eq!(starts.load(Ordering::SeqCst), 2);
    }

    /// R68
    async fn a_call_from_a_task_that_a_body_spawned_is_still_shared() {
        async fn sends_out(ctx: Ctx<P>, n: u64) -> Result<u64, TaskError> {
            let away = tokio::spawn({
                let ctx = ctx.clone();
                async move { ctx.run(gated, n).await.copied() }
            });
            let here = *ctx.run(gated, n).await?;
            Ok(here + away.await.map_err(TaskError::new)??)
        }
        let probe = Probe::new();
        let ctx = Ctx::new(probe.clone());
        let (value, ()) = tokio::join!(ctx.run(sends_out, 1), async {
            probe.until_started(1).await;
            probe.gate.open();
        });
        assert_eq!(value.unwrap(), &20);
        assert_eq!(ctx.run(gated, 1).await.unwrap(), &10);
        assert_eq!(probe.starts(), 1);
    }

    /// R68
    async fn a_call_through_a_bodys_handle_after_the_end_is_a_named_error() {
        let stash = Arc::new(Stash::default());
        let ctx = Ctx::new(stash.clone());
        assert_eq!(ctx.run(keeps_its_handle, 1).await.unwrap(), &1);
        let kept = stash.kept.lock().unwrap().take().expect("the body left it");
        assert_eq!(kept.run(leaf, 1).await.unwrap(), &1, "open, so it works");
        drop(ctx);
        let error = kept.run(leaf, 2).await.unwrap_err();
        assert_eq!(error.kind(), TaskErrorKind::Cancelled);
        assert!(error.to_string().contains("leaf"), "{error}");
        assert_eq!(kept.run(leaf, 1).await.unwrap(), &1, "a hit stays a hit");
        assert_eq!(stash.starts.load(Ordering::SeqCst), 2);
    }

    /// R68: it was already waiting, on a task of its own, when the context closed.
    async fn a_call_that_waits_when_its_context_closes_is_told() {
        let stash = Arc::new(Stash::default());
        let ctx = Ctx::new(stash.clone());
        assert_eq!(ctx.run(keeps_its_handle, 1).await.unwrap(), &1);
        let kept = stash.kept.lock().unwrap().take().expect("the body left it");
        let (started, has_started) = oneshot::channel();
        *stash.started.lock().unwrap() = Some(started);
        let waits = tokio::spawn(async move { kept.run(waits_for_ever, 1).await.copied() });
        has_started.await.unwrap();
        drop(ctx);
        assert_eq!(waits.await.unwrap().unwrap_err().kind(), TaskErrorKind::Cancelled);
        assert_eq!(stash.starts.load(Ordering::SeqCst), 2);
    }

    /// R70
    async fn fresh_runs_are_neither_shared_nor_kept() {
        let probe = Probe::new();
        let ctx = Ctx::new(probe.clone());
        let first: u64 = ctx.run_fresh(at_once, 1).await.unwrap();
        let second: u64 = ctx.run_fresh(at_once, 1).await.unwrap();
        assert_eq!((first, second, probe.starts()), (10, 10, 2));
        assert!(ctx.peek(at_once, &1).is_none());
        assert_eq!(ctx.run(at_once, 1).await.unwrap(), &10);
        assert_eq!(probe.starts(), 3, "nothing was memoized");
        assert_eq!(ctx.run_fresh(at_once, 1).await.unwrap(), 10);
        assert_eq!(probe.starts(), 4, "what is memoized is not used");
    }

    /// R70: at the same time, beside a run of the same input, and dropped half-way.
    async fn concurrent_fresh_runs_are_not_shared() {
        let probe = Probe::new();
        let ctx = Ctx::new(probe.clone());
        let mut given_up = ctx.run_fresh(gated, 1);
        assert!(poll_once(&mut given_up).is_pending());
        drop(given_up);
        assert_eq!((probe.starts(), probe.live()), (1, 0));
        let all_started = async {
            probe.until_started(4).await;
            probe.gate.open();
        };
        let (one, two, shared, ()) =
            tokio::join!(ctx.run_fresh(gated, 1), ctx.run_fresh(gated, 1), ctx.run(gated, 1), all_started);
        assert_eq!((one.unwrap(), two.unwrap(), shared.unwrap()), (10, 10, &10));
        assert_eq!((probe.starts(), probe.live()), (4, 0));
    }

    /// R72
    async fn every_call_on_a_cancelled_context_is_a_named_error() {
        let probe = Probe::new();
        let ctx = Ctx::new(probe.clone());
        assert_eq!(ctx.run(at_once, 1).await.unwrap(), &10);
        ctx.cancel();
        assert!(ctx.is_cancelled());
        ctx.cancelled().await;
        let errors = [
            ctx.run(at_once, 2).await.unwrap_err(),
            ctx.run(at_once, 2).held().await.unwrap_err(),
            ctx.run(at_once, 2).wait().unwrap_err(),
            ctx.run_fresh(at_once, 2).await.unwrap_err(),
            ctx.spawn(at_once, 2).unwrap_err(),
            ctx.parallel((at_once.with(2), at_once.with(3))).await.unwrap_err(),
            ctx.parallel_all([at_once.with(2)], 1).await.unwrap_err(),
            ctx.run_all([at_once.with(2).boxed()]).await.unwrap_err(),
        ];
        for (nth, error) in errors.iter().enumerate() {
            assert_eq!(error.kind(), TaskErrorKind::Cancelled, "call {nth}");
            assert!(error.to_string().contains("at_once"), "call {nth}: {error}");
        }
        assert_eq!(ctx.run(at_once, 1).await.unwrap(), &10, "a hit stays a hit");
        assert_eq!(probe.starts(), 1);
    }
}

/// R63: with fat LTO, one and sixteen codegen units, where equal functions may share one address. Built into
/// a directory that stays, so that only the first time is slow.
#[test]
fn tasks_with_equal_bodies_are_two_tasks_under_fat_lto() {
    let engine = Path::new(env!("CARGO_MANIFEST_DIR"));
    let twins = Path::new(env!("CARGO_TARGET_TMPDIR")).join("twins");
    std::fs::create_dir_all(twins.join("src")).unwrap();
    write_if_new(
        &twins.join("Cargo.toml"),
        &TWINS_MANIFEST.replace("{engine}", &format!("{engine:?}")),
    );
    write_if_new(&twins.join("src/main.rs"), TWINS);
    std::fs::copy(engine.join("../Cargo.lock"), twins.join("Cargo.lock"))
        .expect("the workspace is locked");
    for profile in ["release", "sixteen"] {
        let built = Command::new(env!("CARGO"))
            .args(["build", "--offline", "--quiet", "--profile", profile])
            .current_dir(&twins)
            .env("CARGO_TARGET_DIR", twins.join("target"))
            .env_remove("RUSTFLAGS")
            .env_remove("CARGO_ENCODED_RUSTFLAGS")
            .output()
            .expect("cargo starts");
        assert!(
            built.status.success(),
            "{}",
            String::from_utf8_lossy(&built.stderr)
        );
        let program = twins
            .join("target")
            .join(profile)
            .join(format!("twins{}", std::env::consts::EXE_SUFFIX));
        let ran = Command::new(program).output().expect("the program starts");
        assert!(
            ran.status.success(),
            "{profile}: {}",
            String::from_utf8_lossy(&ran.stderr)
        );
        assert_eq!(
            String::from_utf8_lossy(&ran.stdout).trim(),
            "6 tasks, 6 runs",
            "{profile}"
        );
    }
}

/// Leaves the file's time alone when there is nothing to change.
fn write_if_new(path: &Path, text: &str) {
    if std::fs::read_to_string(path).ok().as_deref() != Some(text) {
        std::fs::write(path, text).unwrap();
    }
}

const TWINS_MANIFEST: &str = r#"
[package]
name = "twins"
version = "0.0.0"
edition = "2024"
publish = false

[dependencies]
watershed = { path = {engine}, default-features = false }

[workspace]

[profile.release]
lto = "fat"
codegen-units = 1

[profile.sixteen]
inherits = "release"
codegen-units = 16
"#;

const TWINS: &str = r#"
//! Six tasks with the same body. Each must have its own run, wherever it is called from.
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use watershed::{Ctx, TaskError};

type Counter = Arc<AtomicU64>;

async fn one(ctx: Ctx<Counter>, _: u64) -> Result<u64, TaskError> {
    Ok(ctx.state().fetch_add(1, Ordering::SeqCst))
}

async fn two(ctx: Ctx<Counter>, _: u64) -> Result<u64, TaskError> {
    Ok(ctx.state().fetch_add(1, Ordering::SeqCst))
}

async fn of<T: 'static>(ctx: Ctx<Counter>, _: u64) -> Result<u64, TaskError> {
    Ok(ctx.state().fetch_add(1, Ordering::SeqCst))
}

/// Calls from another place, which may see another address of the same function.
mod far {
    use super::*;

    #[inline(never)]
    pub fn calls(ctx: &Ctx<Counter>) -> [u64; 2] {
        [*ctx.run(one, 1).wait().unwrap(), *ctx.run(two, 1).wait().unwrap()]
    }
}

fn main() {
    let starts = Counter::default();
    let ctx = Ctx::new(starts.clone());
    let three = |ctx: Ctx<Counter>, _: u64| async move {
        Ok::<_, TaskError>(ctx.state().fetch_add(1, Ordering::SeqCst))
    };
    let four = |ctx: Ctx<Counter>, _: u64| async move {
        Ok::<_, TaskError>(ctx.state().fetch_add(1, Ordering::SeqCst))
    };
    for _ in 0..2 {
        assert_eq!(*ctx.run(one, 1).wait().unwrap(), 0);
        assert_eq!(*ctx.run(two, 1).wait().unwrap(), 1);
        assert_eq!(*ctx.run(of::<u8>, 1).wait().unwrap(), 2);
        assert_eq!(*ctx.run(of::<i8>, 1).wait().unwrap(), 3);
        assert_eq!(*ctx.run(three, 1).wait().unwrap(), 4);
        assert_eq!(*ctx.run(four, 1).wait().unwrap(), 5);
        assert_eq!(far::calls(&ctx), [0, 1]);
    }
    println!("6 tasks, {} runs", starts.load(Ordering::SeqCst));
}
"#;

/// R39: a way to call that blocks shares the run of one that does not, without any runtime.
#[test]
fn a_blocking_call_and_an_awaited_one_share_a_run_without_a_runtime() {
    watched("no runtime", || {
        let probe = Probe::new();
        let ctx = Ctx::new(probe.clone());
        let mut kept = ctx.run(gated, 1);
        assert!(poll_once(&mut kept).is_pending());
        let blocking = thread::spawn({
            let ctx = ctx.clone();
            move || ctx.run(gated, 1).wait().copied()
        });
        probe.gate.open();
        assert_eq!(blocking.join().unwrap().unwrap(), 10);
        assert_eq!(kept.wait().unwrap(), &10);
        assert_eq!(probe.starts(), 1);
    });
}

/// What a request knows of its user.
struct Session {
    user: &'static str,
    starts: Arc<AtomicUsize>,
    gate: Arc<Gate>,
}

async fn mailbox(ctx: Ctx<Session>, id: u64) -> Result<String, TaskError> {
    ctx.state().starts.fetch_add(1, Ordering::SeqCst);
    ctx.state().gate.passed().await;
    Ok(format!("mail {id} of {}", ctx.state().user))
}

/// Where a body leaves its handle.
#[derive(Default)]
struct Stash {
    kept: Mutex<Option<Ctx<Arc<Stash>>>>,
    started: Mutex<Option<oneshot::Sender<()>>>,
    starts: AtomicUsize,
}

async fn keeps_its_handle(ctx: Ctx<Arc<Stash>>, n: u64) -> Result<u64, TaskError> {
    ctx.state().starts.fetch_add(1, Ordering::SeqCst);
    *ctx.state().kept.lock().unwrap() = Some(ctx.clone());
    Ok(n)
}

async fn leaf(ctx: Ctx<Arc<Stash>>, n: u64) -> Result<u64, TaskError> {
    ctx.state().starts.fetch_add(1, Ordering::SeqCst);
    Ok(n)
}

async fn waits_for_ever(ctx: Ctx<Arc<Stash>>, n: u64) -> Result<u64, TaskError> {
    ctx.state().starts.fetch_add(1, Ordering::SeqCst);
    let started = ctx.state().started.lock().unwrap().take();
    let _ = started.expect("the test waits for this").send(());
    std::future::pending::<()>().await;
    Ok(n)
}
