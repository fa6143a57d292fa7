//! What is left when contexts are gone, and how big what is there may be.

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures::future::BoxFuture;
use watershed::{Ctx, Held, Run, TaskError, TaskErrorKind};

use crate::helpers::{
    Drops, Gate, P, Probe, at_once, current_thread, multi_thread, poll_once, watched_on, yields,
};

crate::support::counting_allocator!();

/// R59. Live bytes are those of the whole process, so the scenario runs in a process of its own.
mod ten_thousand_contexts_leave_nothing_behind {
    use super::*;

    /// The state of one request.
    struct Request {
        starts: Arc<AtomicUsize>,
        values: Drops,
        gate: Gate,
    }

    /// A value of 1 KiB that counts its drop.
    struct Page {
        _text: Vec<u8>,
        _token: crate::support::Token,
    }

    type Req = Arc<Request>;

    async fn page(ctx: Ctx<Req>, n: u64) -> Result<Page, TaskError> {
        ctx.state().starts.fetch_add(1, Ordering::Relaxed);
        yields((n % 3) as usize).await;
        Ok(Page {
            _text: vec![n as u8; 1 << 10],
            _token: ctx.state().values.token(),
        })
    }

    async fn fails(ctx: Ctx<Req>, text: String) -> Result<Page, String> {
        ctx.state().starts.fetch_add(1, Ordering::Relaxed);
        yields(1).await;
        if text.len() > 1 {
            Err(text.repeat(100))
        } else {
            Err(ctx.transient(text.repeat(100)))
        }
    }

    async fn parent(ctx: Ctx<Req>, n: u64) -> Result<u64, TaskError> {
        ctx.state().starts.fetch_add(1, Ordering::Relaxed);
        ctx.run(page, n).await?;
        ctx.run(fails, format!("request {n}")).await?;
        Ok(n)
    }

    async fn hangs(ctx: Ctx<Req>, n: u64) -> Result<Page, TaskError> {
        ctx.state().starts.fetch_add(1, Ordering::Relaxed);
        let value = Page {
            _text: vec![0; 1 << 10],
            _token: ctx.state().values.token(),
        };
        ctx.run(page, n + 1).await?;
        ctx.state().gate.passed().await;
        Ok(value)
    }

    /// Each kind of failing and each kind of being cancelled, in turn. Gives the number of bodies it started.
    async fn one_request(nth: u64, starts: &Arc<AtomicUsize>, values: &Drops) -> usize {
        let request = Request {
            starts: starts.clone(),
            values: values.clone(),
            gate: Gate::new(),
        };
        let ctx = Ctx::new(Arc::new(request));
        match nth % 8 {
            0 => {
                assert_eq!(
                    ctx.run(parent, nth).await.unwrap_err().kind(),
                    TaskErrorKind::Failed
                );
                3
            }
            2 => {
                // The error and a held value outlive the context, for a moment.
                let error = ctx
                    .run(fails, "x".to_owned())
                    .await
                    .err()
                    .expect("it fails");
                let held: Held<Page> = ctx.run(page, nth).held().await.unwrap();
                drop(ctx);
                assert!(error.to_string().contains("xxx"));
                drop(held);
                2
            }
            4 => {
                // Failed, forgotten, and again.
                assert!(ctx.run(fails, "xy".to_owned()).await.is_err());
                assert!(ctx.forget(fails, "xy"));
                assert!(ctx.run(fails, "xy").await.is_err());
                2
            }
            6 => {
                assert!(ctx.run_fresh(fails, "xy").await.is_err());
                assert!(ctx.run(parent, nth).await.is_err());
                4
            }
            1 => {
                // The only caller leaves.
                let mut call = ctx.run(hangs, 2);
                assert!(poll_once(&mut call).is_pending());
                2
            }
            3 => {
                // Cancelled with two callers waiting.
                let (mut one, mut two) = (ctx.run(hangs, 2), ctx.run(hangs, 2));
                assert!(poll_once(&mut one).is_pending() && poll_once(&mut two).is_pending());
                ctx.cancel();
                assert_eq!(one.await.err().unwrap().kind(), TaskErrorKind::Cancelled);
                assert_eq!(two.await.err().unwrap().kind(), TaskErrorKind::Cancelled);
                2
            }
            5 => {
                // A caller on a task of its own, which is aborted.
                let before = starts.load(Ordering::Relaxed);
                let caller = tokio::spawn({
                    let ctx = ctx.clone();
                    async move { ctx.run(hangs, 2).await.map(drop) }
                });
                while starts.load(Ordering::Relaxed) < before + 2 {
                    tokio::task::yield_now().await;
                }
                caller.abort();
                assert!(caller.await.unwrap_err().is_cancelled());
                2
            }
            _ => {
                // Started detached; the last handle goes while it runs.
                let before = starts.load(Ordering::Relaxed);
                ctx.spawn(hangs, 2).unwrap();
                while starts.load(Ordering::Relaxed) < before + 2 {
                    tokio::task::yield_now().await;
                }
                2
            }
        }
    }

    async fn requests(count: u64) {
        let (starts, values) = (Arc::new(AtomicUsize::new(0)), Drops::default());
        let mut expected = 0;
        for nth in 0..count {
            expected += one_request(nth, &starts, &values).await;
        }
        // What runs on other threads may need a moment to let go of its last handle.
        crate::support::until(|| values.live() == 0).await;
        assert!(values.made() > 0);
        assert_eq!(starts.load(Ordering::Relaxed), expected);
    }

    async fn scenario() {
        requests(1_000).await;
        let before = heap::live_bytes();
        requests(10_000).await;
        // A driver that was started detached ends on the runtime's time.
        let mut more = 0;
        for _ in 0..100_000 {
            more = heap::live_bytes() - before;
            if more < 16 << 10 {
                return;
            }
            tokio::task::yield_now().await;
        }
        panic!("{more} bytes more after 10,000 contexts");
    }

    #[test]
    fn on_one_thread() {
        alone("on_one_thread", || current_thread(scenario));
    }

    #[test]
    fn on_many_threads() {
        alone("on_many_threads", || multi_thread(4, scenario));
    }

    /// Runs `body` in a process that runs this one test.
    fn alone(test: &str, body: impl FnOnce()) {
        const MARK: &str = "WATERSHED_CASE_ALONE";
        if std::env::var_os(MARK).is_some() {
            return body();
        }
        let module = module_path!()
            .split_once("::")
            .expect("inside the test crate")
            .1;
        let name = format!("{module}::{test}");
        let output = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", &name, "--test-threads=1"])
            .env(MARK, "1")
            .output()
            .expect("the test binary starts again");
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(
            output.status.success(),
            "{text}\n{}",
            String::from_utf8_lossy(&output.stderr)
        );
        assert!(text.contains("1 passed"), "it ran: {text}");
    }

    /// R59: the counter would see a leak of 16 bytes a context.
    #[test]
    fn and_the_counter_sees_what_is_kept() {
        let before = heap::allocations();
        let kept = (0..100).map(Box::new).collect::<Vec<_>>();
        assert!(heap::allocations() >= before + 100);
        drop(kept);
    }
}

/// R59: what a context made goes with it, whoever looks at statics.
#[test]
fn two_contexts_remember_nothing_of_each_other() {
    let probe = Probe::new();
    for nth in 1..=3 {
        let ctx = Ctx::new(probe.clone());
        assert!(ctx.peek(at_once, &1).is_none());
        assert_eq!(ctx.run(at_once, 1).wait().unwrap(), &10);
        assert_eq!(probe.starts(), nth);
    }
    assert_eq!(Arc::strong_count(&probe), 1);
}

/// R61
mod a_call_is_small_whatever_the_task {
    use super::*;

    /// 64 bytes are promised; this is the type, which does not know the task.
    const _: () = assert!(size_of::<Run<'static, P, u64>>() <= 64);
    const _: () =
        assert!(size_of::<Run<'static, (), [u8; 4096]>>() == size_of::<Run<'static, P, ()>>());

    async fn large_body(ctx: Ctx<P>, n: u64) -> Result<u64, TaskError> {
        let _body = ctx.state().enter();
        let local = [n as u8; 32 << 10];
        ctx.state().gate.passed().await;
        Ok(local.iter().map(|byte| u64::from(*byte)).sum())
    }

    async fn large_input(ctx: Ctx<P>, input: [u64; 512]) -> Result<[u64; 512], TaskError> {
        let _body = ctx.state().enter();
        ctx.state().gate.passed().await;
        Ok(input)
    }

    /// A caller that holds one call across an await.
    async fn calls_large(ctx: Ctx<P>, n: u64) -> Result<u64, TaskError> {
        Ok(*ctx.run(large_body, n).await? + 1)
    }

    #[test]
    fn as_a_value_and_inside_its_caller() {
        let probe = Probe::new();
        let ctx = Ctx::new(probe.clone());
        let mut body = ctx.run(large_body, 1);
        let mut input = ctx.run(large_input, [1; 512]);
        assert!(size_of_val(&body) <= 64, "{} bytes", size_of_val(&body));
        assert!(size_of_val(&input) <= 64, "{} bytes", size_of_val(&input));
        assert!(size_of_val(&ctx.run(at_once, 1)) <= 64);
        // Polled and waiting it is the same few bytes: the body is not inside.
        assert!(poll_once(&mut body).is_pending() && poll_once(&mut input).is_pending());
        assert_eq!(probe.starts(), 2);
        let caller = calls_large(ctx.clone(), 1);
        assert!(
            size_of_val(&caller) <= 256,
            "{} bytes",
            size_of_val(&caller)
        );
        probe.gate.open();
        assert_eq!(body.wait().unwrap(), &(32 << 10));
        assert_eq!(input.wait().unwrap(), &[1; 512]);
        assert_eq!((probe.starts(), probe.live()), (2, 0));
    }
}

/// R61: a chain of 100,000, on a stack that one frame for each would overflow a hundred times.
mod dropping_a_long_chain_does_not_recurse {
    use super::*;

    const LENGTH: u64 = 100_000;
    const STACK_BYTES: usize = 512 << 10;

    #[derive(Default)]
    struct Chain {
        starts: AtomicUsize,
        bodies: Drops,
        gate: Gate,
    }

    type C = Arc<Chain>;

    fn link(ctx: Ctx<C>, n: u64) -> BoxFuture<'static, Result<u64, TaskError>> {
        Box::pin(async move {
            ctx.state().starts.fetch_add(1, Ordering::Relaxed);
            let _body = ctx.state().bodies.token();
            if n == 0 {
                ctx.state().gate.passed().await;
                return Ok(0);
            }
            Ok(*ctx.run(link, n - 1).await? + 1)
        })
    }

    fn all_gone(chain: &C) {
        assert_eq!(chain.starts.load(Ordering::Relaxed), LENGTH as usize + 1);
        assert_eq!(chain.bodies.live(), 0);
    }

    #[test]
    fn when_it_is_finished() {
        watched_on("a small stack", STACK_BYTES, || {
            let chain = C::default();
            chain.gate.open();
            let ctx = Ctx::new(chain.clone());
            assert_eq!(ctx.run(link, LENGTH).wait().unwrap(), &LENGTH);
            drop(ctx);
            all_gone(&chain);
            assert_eq!(Arc::strong_count(&chain), 1);
        });
    }

    #[test]
    fn when_its_only_caller_leaves() {
        watched_on("a small stack", STACK_BYTES, || {
            let chain = C::default();
            let ctx = Ctx::new(chain.clone());
            let mut call = ctx.run(link, LENGTH);
            assert!(poll_once(&mut call).is_pending());
            assert_eq!(chain.bodies.live(), LENGTH as usize + 1);
            drop(call);
            all_gone(&chain);
            drop(ctx);
            assert_eq!(Arc::strong_count(&chain), 1);
        });
    }

    #[test]
    fn when_its_context_is_cancelled() {
        watched_on("a small stack", STACK_BYTES, || {
            let chain = C::default();
            let ctx = Ctx::new(chain.clone());
            let mut call = ctx.run(link, LENGTH);
            assert!(poll_once(&mut call).is_pending());
            ctx.cancel();
            all_gone(&chain);
            assert_eq!(call.wait().unwrap_err().kind(), TaskErrorKind::Cancelled);
        });
    }

    #[test]
    fn when_its_context_is_dropped_half_way() {
        watched_on("a small stack", STACK_BYTES, || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .build()
                .unwrap();
            let chain = C::default();
            runtime.block_on(async {
                let ctx = Ctx::new(chain.clone());
                ctx.spawn(link, LENGTH).unwrap();
                crate::support::until(|| chain.bodies.live() == LENGTH as usize + 1).await;
                drop(ctx);
                all_gone(&chain);
            });
            drop(runtime);
            assert_eq!(Arc::strong_count(&chain), 1);
        });
    }

    /// Started from the far end, so that each link is there when the next one asks for it.
    #[test]
    fn when_it_was_built_link_by_link() {
        watched_on("a small stack", STACK_BYTES, || {
            let chain = C::default();
            chain.gate.open();
            let ctx = Ctx::new(chain.clone());
            for n in 0..=LENGTH {
                assert_eq!(ctx.run(link, n).wait().unwrap(), &n);
            }
            drop(ctx);
            all_gone(&chain);
        });
    }
}

/// R59: a process-wide place to keep results would be a `static` of the engine's.
mod no_static_of_the_engine_holds_results {
    use crate::helpers::for_each_source;

    /// What could keep a value beyond its context.
    const KEEPS: [&str; 7] = ["Box<", "Arc<", "Ctx<", "Slot", "HashMap", "Trie", "Core"];

    /// The declarations of statics, thread-local ones too, whose type could keep a value.
    fn offences(source: &str) -> Vec<&str> {
        let declared = source.lines().filter_map(|line| {
            let line = line.trim_start();
            let line = line.strip_prefix("pub(crate) ").unwrap_or(line);
            let line = line.strip_prefix("pub ").unwrap_or(line);
            line.starts_with("static ")
                .then(|| line.split('=').next().unwrap_or(line))
        });
        declared
            .filter(|line| KEEPS.iter().any(|word| line.contains(word)))
            .collect()
    }

    #[test]
    fn in_the_sources() {
        for_each_source(|path, source| {
            assert!(
                offences(source).is_empty(),
                "{}: {:?}",
                path.display(),
                offences(source)
            );
        });
    }

    #[test]
    fn and_the_search_finds_one() {
        let planted = "    pub(crate) static KEPT: Mutex<Vec<Arc<u64>>> = Mutex::new(Vec::new());";
        assert_eq!(offences(planted).len(), 1);
        assert!(offences("static TABLE: RawWakerVTable = RawWakerVTable::new(Box<x>);").is_empty());
    }
}
