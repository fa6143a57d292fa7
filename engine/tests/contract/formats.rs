//! What the public types print and compare: enough to tell them apart in a log, and nothing of the user's inputs.

use std::time::Duration;

use watershed::{Ctx, Held, Task, TaskError, TaskErrorKind};

use crate::support::{now, poll_once};

async fn name(_: Ctx<()>, id: u64) -> Result<String, String> {
    Ok(format!("user {id}"))
}

async fn shows_its_handle(ctx: Ctx<()>, _: u64) -> Result<String, String> {
    Ok(format!("{ctx:?}"))
}

#[track_caller]
fn has(shown: &str, parts: &[&str]) {
    for part in parts {
        assert!(shown.contains(part), "{part:?} is not in {shown:?}");
    }
}

#[test]
fn a_context_says_whose_it_is_and_whether_it_is_closed() {
    let ctx = Ctx::new(());
    has(&format!("{ctx:?}"), &["Ctx", "None", "closed: false"]);
    has(
        now(ctx.run(shows_its_handle, 1)).unwrap(),
        &["shows_its_handle"],
    );
    ctx.cancel();
    has(&format!("{ctx:?}"), &["closed: true"]);
    has(&format!("{:?}", ctx.cancelled()), &["Cancelled", "Ctx"]);
}

#[test]
fn a_builder_says_what_it_was_told() {
    let fake = |_: Ctx<()>, _: u64| async move { Ok("fake".to_owned()) };
    let builder = Ctx::builder(()).max_depth(77).replace(name, fake);
    has(&format!("{builder:?}"), &["Builder", "replaced: 1", "77"]);
}

#[test]
fn calls_say_which_task_they_are_of() {
    let ctx = Ctx::new(());
    has(&format!("{:?}", ctx.run(name, 1)), &["Run", "name"]);
    has(&format!("{:?}", ctx.run(name, 1).held()), &["name"]);
    has(
        &format!("{:?}", ctx.run_fresh(name, 1)),
        &["RunFresh", "name"],
    );
    has(&format!("{:?}", name.with(5)), &["Call", "name"]);
    has(
        &format!("{:?}", name.with(5).boxed()),
        &["BoxedCall", "name"],
    );
    let all = ctx.run_all([name.with(5).boxed()]);
    has(&format!("{all:?}"), &["RunAll", "calls: 1"]);
}

#[cfg(feature = "tokio")]
#[test]
fn fans_say_how_many_calls_they_are_of() {
    let ctx = Ctx::new(());
    let two = ctx.parallel((name.with(1), shows_its_handle.with(2)));
    has(&format!("{two:?}"), &["Parallel", "calls: 2"]);
    drop(two);
    let all = ctx.parallel_all([name.with(1), name.with(2)], 2);
    has(&format!("{all:?}"), &["ParallelAll", "calls: 2"]);
}

#[test]
fn a_held_value_looks_like_the_value() {
    let held = |id| -> Held<String> { now(Ctx::new(()).run(name, id).held()).unwrap() };
    assert_eq!(held(7), held(7));
    assert_ne!(held(7), held(8));
    assert_eq!(format!("{} {:?}", held(7), held(7)), "user 7 \"user 7\"");
    assert_eq!(held(7).as_ref(), "user 7");
}

#[cfg(feature = "serde")]
#[test]
fn a_held_value_is_serialized_as_the_value() {
    let held = now(Ctx::new(()).run(name, 7).held()).unwrap();
    assert_eq!(serde_json::to_string(&held).unwrap(), "\"user 7\"");
}

#[test]
fn an_error_shows_its_path_and_its_cause() {
    async fn fails(_: Ctx<()>, _: u64) -> Result<u64, std::num::ParseIntError> {
        "x".parse()
    }
    async fn passes_on(ctx: Ctx<()>, n: u64) -> Result<u64, TaskError> {
        ctx.run(fails, n).await.copied()
    }
    let ctx = Ctx::new(());
    let error = now(ctx.run(passes_on, 1)).unwrap_err();
    assert_eq!(error.kind(), TaskErrorKind::Failed);
    assert_eq!(
        error.to_string(),
        "passes_on > fails failed: invalid digit found in string"
    );
    has(&format!("{error:?}"), &["Failed", "fails", "InvalidDigit"]);
}

/// The last part of a path of types, whatever they look like.
#[test]
fn names_are_short_also_with_types_in_them() {
    async fn of<T: Send + Sync + 'static>(_: Ctx<()>, _: u64) -> Result<T, String> {
        Err("no".to_owned())
    }
    let ctx = Ctx::new(());
    let error = now(ctx.run(of::<Vec<std::net::Ipv4Addr>>, 1)).unwrap_err();
    assert_eq!(error.to_string(), "of<Vec<Ipv4Addr>> failed: no");
}

#[cfg(feature = "tokio")]
#[tokio::test(start_paused = true)]
async fn a_closed_context_is_told_with_the_deadline_in_mind() {
    let ctx = Ctx::builder(()).deadline(Duration::from_millis(5)).build();
    assert!(!ctx.is_cancelled());
    let mut closed = ctx.cancelled();
    assert!(poll_once(&mut closed).is_pending());
    drop(closed);
    tokio::time::advance(Duration::from_millis(6)).await;
    assert!(ctx.is_cancelled());
    has(&format!("{ctx:?}"), &["closed: true"]);
}
