//! `waits`: who waits for whom, at any moment, in a context that records nothing.
#![cfg(not(loom))]

mod support;

use support::{CountingWaker, Gate, now, poll_once, poll_with, watched};
use watershed::report::{WaitState, Waiting, Waits};
use watershed::{Ctx, TaskError};

#[derive(Clone, Default)]
struct App {
    gate: Gate,
}

async fn gated(ctx: Ctx<App>, n: u64) -> Result<u64, TaskError> {
    ctx.state().gate.passed().await;
    Ok(n)
}
async fn left(ctx: Ctx<App>, n: u64) -> Result<u64, TaskError> {
    Ok(*ctx.run(gated, n).await?)
}
async fn right(ctx: Ctx<App>, n: u64) -> Result<u64, TaskError> {
    Ok(*ctx.run(gated, n).await?)
}
async fn both(ctx: Ctx<App>, n: u64) -> Result<u64, TaskError> {
    let (a, b) = futures::try_join!(ctx.run(left, n), ctx.run(right, n))?;
    Ok(a + b)
}

fn find<'w>(waits: &'w Waits, name: &str) -> (usize, &'w Waiting) {
    let is = |(_, run): &(usize, &Waiting)| run.task.ends_with(&format!("::{name}"));
    let found = waits.runs.iter().enumerate().find(is);
    found.unwrap_or_else(|| panic!("no {name} in {waits:?}"))
}

#[test]
fn a_diamond_that_hangs_is_shown_down_to_what_it_waits_for() {
    let ctx = Ctx::new(App::default());
    assert_eq!(ctx.waits().to_string(), "nothing is under way\n");
    let mut call = ctx.run(both, 1);
    assert!(poll_once(&mut call).is_pending());
    let waits = ctx.waits();
    assert_eq!(waits.runs.len(), 4);
    let (at_both, both) = find(&waits, "both");
    let (at_left, left) = find(&waits, "left");
    let (at_right, right) = find(&waits, "right");
    let (at_gated, gated) = find(&waits, "gated");
    assert_eq!((both.outside, gated.outside), (1, 0));
    assert_eq!(
        (&both.waited_by[..], &left.waits_for[..]),
        (&[][..], &[at_gated][..])
    );
    assert_eq!(right.waits_for, [at_gated]);
    let mut below = both.waits_for.clone();
    below.sort();
    let mut expected = [at_left, at_right];
    expected.sort();
    assert_eq!(below, expected);
    assert_eq!(
        (&left.waited_by[..], &right.waited_by[..]),
        (&[at_both][..], &[at_both][..])
    );
    assert!(gated.waits_for.is_empty() && gated.waited_by.len() == 2);
    assert!(waits.runs.iter().all(|run| run.state == WaitState::Pending));
    assert!(
        waits
            .runs
            .iter()
            .all(|run| run.run.is_none() && run.since.is_none())
    );
    let text = waits.to_string();
    assert!(
        text.starts_with("both is pending, called from outside, and waits for\n"),
        "{text}"
    );
    assert!(
        text.contains("    gated is pending, and waits for something outside of the context\n"),
        "{text}"
    );
    assert!(text.contains("    gated (see above)\n"), "{text}");
    ctx.state().gate.open();
    now(call).unwrap();
    assert!(ctx.waits().runs.is_empty());
}

#[test]
fn callers_that_are_no_bodies_are_counted() {
    let ctx = Ctx::new(App::default());
    let mut calls: Vec<_> = (0..3).map(|_| ctx.run(gated, 1)).collect();
    for call in &mut calls {
        assert!(poll_once(call).is_pending());
    }
    let mut through = ctx.run(left, 1);
    assert!(poll_once(&mut through).is_pending());
    let waits = ctx.waits();
    assert_eq!(find(&waits, "gated").1.outside, 3);
    assert!(waits.to_string().contains("called from outside 3 times"));
    // A dropped call waits no more.
    drop(through);
    calls.pop();
    let waits = ctx.waits();
    assert_eq!(waits.runs.len(), 1);
    assert_eq!(
        (waits.runs[0].outside, waits.runs[0].waited_by.len()),
        (2, 0)
    );
}

#[test]
fn a_run_that_was_woken_and_that_nobody_polls_is_told_from_one_that_waits() {
    let ctx = Ctx::new(App::default());
    let (_, waker) = CountingWaker::pair();
    let mut call = ctx.run(gated, 1);
    assert!(poll_with(&mut call, &waker).is_pending());
    assert_eq!(ctx.waits().runs[0].state, WaitState::Pending);
    ctx.state().gate.open();
    let waits = ctx.waits();
    assert_eq!(waits.runs[0].state, WaitState::Woken);
    assert!(waits.to_string().contains("woken, but not polled since"));
    now(call).unwrap();
}

#[test]
fn a_body_that_is_being_polled_may_look_itself() {
    async fn looks(ctx: Ctx<App>, _: ()) -> Result<String, TaskError> {
        Ok(ctx.waits().to_string())
    }
    async fn outer(ctx: Ctx<App>, _: ()) -> Result<String, TaskError> {
        Ok(ctx.run(looks, ()).await?.clone())
    }
    watched("a body that looks", || {
        let ctx = Ctx::new(App::default());
        let text = now(ctx.run(outer, ())).unwrap();
        assert_eq!(
            text,
            "outer is being polled, called from outside, and waits for\n  looks is being polled\n"
        );
    });
}

#[test]
fn a_recorded_context_says_since_when() {
    let ctx = Ctx::builder(App::default()).record(true).build();
    let mut call = ctx.run(left, 1);
    assert!(poll_once(&mut call).is_pending());
    let waits = ctx.waits();
    for run in &waits.runs {
        let report = ctx.report();
        let id = run.run.unwrap();
        assert_eq!(report.run(id).unwrap().task, run.task);
        assert!(run.since.unwrap() <= report.at);
    }
    assert!(waits.to_string().contains("after its start"));
}

#[cfg(feature = "tokio")]
#[test]
fn a_spawned_call_that_the_runtime_has_not_polled_is_shown_as_not_started() {
    support::current_thread().block_on(async {
        let ctx = Ctx::new(App::default());
        ctx.spawn(gated, 1).unwrap();
        let waits = ctx.waits();
        assert_eq!(
            (waits.runs[0].state, waits.runs[0].outside),
            (WaitState::NotStarted, 1)
        );
    });
}

#[test]
fn a_long_chain_is_shown_in_part_and_without_recursion() {
    fn chain(
        ctx: Ctx<App>,
        n: u64,
    ) -> std::pin::Pin<Box<dyn Future<Output = Result<u64, TaskError>> + Send>> {
        Box::pin(async move {
            Ok(match n {
                0 => *ctx.run(gated, 0).await?,
                n => *ctx.run(chain, n - 1).await? + 1,
            })
        })
    }
    support::watched_on("a long chain", 512 << 10, || {
        let ctx = Ctx::new(App::default());
        let mut call = ctx.run(chain, 20_000);
        assert!(poll_once(&mut call).is_pending());
        let waits = ctx.waits();
        assert_eq!(waits.runs.len(), 20_002);
        let ends: Vec<_> = waits
            .runs
            .iter()
            .filter(|run| run.waits_for.is_empty())
            .collect();
        assert!(ends.len() == 1 && ends[0].task.ends_with("gated"));
        let text = waits.to_string();
        assert!(
            text.ends_with("20002 runs are under way)\n"),
            "{}",
            text.lines().last().unwrap()
        );
    });
}
