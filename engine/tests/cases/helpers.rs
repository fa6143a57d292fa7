//! What the cases share: both runtimes under a watchdog, a probe that counts bodies, calls on tasks of their own.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::{Builder, Handle, RuntimeFlavor};
use tokio::sync::watch;
use watershed::{Ctx, TaskError};

pub(crate) use crate::support::{
    CountingWaker, Drops, Gate, poll_once, poll_with, watched, watched_on, yields,
};

pub(crate) const fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// Turns each scenario into a module of two tests: `current_thread` (paused time) and `multi_thread` (real time).
macro_rules! on_both_runtimes {
    ($($(#[$meta:meta])* async fn $name:ident() $body:block)*) => {$(
        $(#[$meta])*
        mod $name {
            #[allow(unused_imports, reason = "a scenario may need nothing of its module")]
            use super::*;

            async fn scenario() $body

            #[test]
            fn current_thread() {
                $crate::helpers::current_thread(scenario);
            }

            #[test]
            fn multi_thread() {
                $crate::helpers::multi_thread(4, scenario);
            }
        }
    )*};
}

/// Runs the scenario on a current-thread runtime whose clock stands still while there is work.
pub(crate) fn current_thread<F, Fut>(scenario: F)
where
    F: FnOnce() -> Fut + Send + 'static,
    Fut: Future<Output = ()>,
{
    watched("current-thread runtime", || {
        let runtime = Builder::new_current_thread()
            .enable_all()
            .start_paused(true)
            .build();
        runtime.expect("a runtime").block_on(scenario());
    });
}

/// Runs the scenario on a multi-thread runtime.
pub(crate) fn multi_thread<F, Fut>(workers: usize, scenario: F)
where
    F: FnOnce() -> Fut + Send + 'static,
    Fut: Future<Output = ()>,
{
    watched("multi-thread runtime", move || {
        let runtime = Builder::new_multi_thread()
            .worker_threads(workers)
            .enable_all()
            .build();
        runtime.expect("a runtime").block_on(scenario());
    });
}

/// True where the clock is paused, so that durations are exact.
fn paused() -> bool {
    Handle::current().runtime_flavor() == RuntimeFlavor::CurrentThread
}

/// Asserts that something took `expected`: to the millisecond on the paused clock, with room for a busy machine on the real one.
pub(crate) fn assert_took(took: Duration, expected: Duration) {
    let slack = if paused() {
        Duration::from_millis(3)
    } else {
        Duration::from_secs(3)
    };
    assert!(
        took + Duration::from_millis(1) >= expected,
        "took {took:?}, sooner than {expected:?}"
    );
    assert!(
        took <= expected + slack,
        "took {took:?} instead of {expected:?}"
    );
}

#[derive(Clone, Copy, Default)]
struct Counts {
    started: usize,
    gone: usize,
}

/// The state of most contexts here: counts the bodies that started and those that are gone, and holds them at a gate.
pub(crate) struct Probe {
    counts: watch::Sender<Counts>,
    pub(crate) gate: Gate,
}

/// What the tasks here get as their state.
pub(crate) type P = Arc<Probe>;

impl Probe {
    pub(crate) fn new() -> P {
        Arc::new(Self {
            counts: watch::Sender::new(Counts::default()),
            gate: Gate::new(),
        })
    }

    /// Counts a start; the guard counts the end, however the body ends.
    pub(crate) fn enter(self: &Arc<Self>) -> Body {
        let mut nth = 0;
        self.counts.send_modify(|counts| {
            counts.started += 1;
            nth = counts.started;
        });
        Body {
            probe: Arc::clone(self),
            nth,
        }
    }

    pub(crate) fn starts(&self) -> usize {
        self.counts.borrow().started
    }

    /// How many bodies started and are neither finished nor dropped.
    pub(crate) fn live(&self) -> usize {
        let counts = *self.counts.borrow();
        counts.started - counts.gone
    }

    pub(crate) async fn until_started(&self, starts: usize) {
        let mut counts = self.counts.subscribe();
        counts
            .wait_for(|counts| counts.started >= starts)
            .await
            .expect("the probe lives");
    }

    pub(crate) async fn until_all_gone(&self) {
        let mut counts = self.counts.subscribe();
        counts
            .wait_for(|counts| counts.started == counts.gone)
            .await
            .expect("the probe lives");
    }
}

/// One body that was started.
pub(crate) struct Body {
    probe: P,
    /// Which start of its probe this was, from 1.
    pub(crate) nth: usize,
}

impl Drop for Body {
    fn drop(&mut self) {
        self.probe.counts.send_modify(|counts| counts.gone += 1);
    }
}

/// Ten times its input, at once.
pub(crate) async fn at_once(ctx: Ctx<P>, n: u64) -> Result<u64, TaskError> {
    let _body = ctx.state().enter();
    Ok(n * 10)
}

/// Ten times its input, once the gate is open.
pub(crate) async fn gated(ctx: Ctx<P>, n: u64) -> Result<u64, TaskError> {
    let _body = ctx.state().enter();
    ctx.state().gate.passed().await;
    Ok(n * 10)
}

/// Never ends.
pub(crate) async fn never(ctx: Ctx<P>, n: u64) -> Result<u64, TaskError> {
    let _body = ctx.state().enter();
    std::future::pending::<()>().await;
    Ok(n)
}

/// A call on a task of its own, so that the runtime drives it and the test can abort it.
macro_rules! caller {
    ($ctx:expr, $task:expr, $input:expr) => {{
        let (ctx, input) = ($ctx.clone(), $input);
        tokio::spawn(async move { ctx.run($task, input).await.cloned() })
    }};
}

/// Shows `look` each source file of the engine.
pub(crate) fn for_each_source(mut look: impl FnMut(&std::path::Path, &str)) {
    let mut files = 0;
    let mut folders = vec![std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                files += 1;
                look(&path, &std::fs::read_to_string(&path).unwrap());
            }
        }
    }
    assert!(files >= 8, "looked at {files} files only");
}
