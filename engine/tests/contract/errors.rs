//! What a caller sees of a failure: kind, task, path, the cause through several levels.

use crate::support::everywhere;
use std::error::Error;
use std::fmt;
use watershed::{Ctx, TaskError, TaskErrorKind};

#[derive(Debug, PartialEq)]
enum DbError {
    NotFound,
    Refused,
}

impl fmt::Display for DbError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            DbError::NotFound => "no such row",
            DbError::Refused => "connection refused",
        })
    }
}

impl Error for DbError {}

async fn user(_: Ctx<()>, id: u64) -> Result<u64, DbError> {
    match id {
        0 => Err(DbError::NotFound),
        1 => Err(DbError::Refused),
        2 => panic!("two is too much"),
        id => Ok(id),
    }
}

async fn greeting(ctx: Ctx<()>, id: u64) -> Result<String, TaskError> {
    Ok(format!("hello {}", ctx.run(user, id).await?))
}

async fn page(ctx: Ctx<()>, id: u64) -> Result<String, TaskError> {
    Ok(ctx.run(greeting, id).await?.clone() + "!")
}

/// An error of the user's own between two tasks.
#[derive(Debug)]
struct SiteError(TaskError);

impl fmt::Display for SiteError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the site is down")
    }
}

impl Error for SiteError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&self.0)
    }
}

async fn site(ctx: Ctx<()>, id: u64) -> Result<String, SiteError> {
    let page = ctx.run(page, id).await.map_err(SiteError)?;
    Ok(page.clone())
}

async fn world(ctx: Ctx<()>, id: u64) -> Result<String, TaskError> {
    Ok(ctx.run(site, id).await?.clone())
}

const _: () = {
    const fn an_error<T: Error + Clone + Send + Sync + 'static>() {}
    an_error::<TaskError>();
    assert!(size_of::<TaskError>() == 8 && size_of::<Option<TaskError>>() == 8);
};

fn chain(error: &TaskError) -> Vec<String> {
    let mut next: Option<&dyn Error> = Some(error);
    let mut out = Vec::new();
    while let Some(error) = next {
        out.push(error.to_string());
        next = error.source();
    }
    out
}

#[test]
fn the_message_names_the_path_down_to_the_cause() {
    everywhere(|| async {
        let ctx = Ctx::new(());
        let one = ctx.run(user, 1).await.unwrap_err();
        assert_eq!(one.to_string(), "user failed: connection refused");
        let three = ctx.run(page, 1).await.unwrap_err();
        assert_eq!(
            three.to_string(),
            "page > greeting > user failed: connection refused"
        );
        let two = ctx.run(greeting, 1).await.unwrap_err();
        assert_eq!(
            two.to_string(),
            "greeting > user failed: connection refused"
        );
    });
}

#[test]
fn kind_and_task_are_those_of_the_first_failure() {
    everywhere(|| async {
        let ctx = Ctx::new(());
        let failed = ctx.run(page, 0).await.unwrap_err();
        assert_eq!(failed.kind(), TaskErrorKind::Failed);
        assert_eq!(failed.task(), std::any::type_name_of_val(&user));
        let panicked = ctx.run(page, 2).await.unwrap_err();
        assert_eq!(panicked.kind(), TaskErrorKind::Panicked);
        assert_eq!(panicked.task(), std::any::type_name_of_val(&user));
        let message = panicked.to_string();
        assert!(message.contains("page > greeting > user"), "{message}");
        assert!(message.contains("two is too much"), "{message}");
    });
}

#[test]
fn the_cause_is_found_through_every_level() {
    everywhere(|| async {
        let ctx = Ctx::new(());
        let direct = ctx.run(user, 0).await.unwrap_err();
        assert_eq!(direct.downcast_ref(), Some(&DbError::NotFound));
        let passed_on = ctx.run(page, 0).await.unwrap_err();
        assert_eq!(passed_on.downcast_ref(), Some(&DbError::NotFound));
        assert!(passed_on.downcast_ref::<fmt::Error>().is_none());
        let wrapped = ctx.run(world, 0).await.unwrap_err();
        assert!(wrapped.downcast_ref::<SiteError>().is_some());
        assert_eq!(wrapped.downcast_ref(), Some(&DbError::NotFound));
        // One cause, shared by all who failed because of it.
        assert!(std::ptr::eq(
            direct.downcast_ref::<DbError>().unwrap(),
            wrapped.downcast_ref::<DbError>().unwrap()
        ));
    });
}

#[test]
fn source_keeps_the_whole_chain() {
    everywhere(|| async {
        let ctx = Ctx::new(());
        let passed_on = ctx.run(page, 1).await.unwrap_err();
        let causes = chain(&passed_on);
        assert_eq!(causes.last().unwrap(), "connection refused");
        assert_eq!(causes.len(), 2, "{causes:?}");
        let wrapped = chain(&ctx.run(world, 1).await.unwrap_err());
        assert!(wrapped.iter().any(|e| e == "the site is down"));
        assert_eq!(wrapped.last().unwrap(), "connection refused");
    });
}

#[test]
fn anything_that_becomes_a_boxed_error_is_an_error_of_a_task() {
    async fn string(_: Ctx<()>, _: u64) -> Result<(), String> {
        Err("a string".to_owned())
    }
    async fn literal(_: Ctx<()>, _: u64) -> Result<(), &'static str> {
        Err("a literal")
    }
    async fn boxed(_: Ctx<()>, _: u64) -> Result<(), watershed::BoxError> {
        Err(Box::new(DbError::NotFound))
    }
    async fn standard(_: Ctx<()>, _: u64) -> Result<(), std::io::Error> {
        Err(std::io::Error::other("io"))
    }
    async fn any(_: Ctx<()>, _: u64) -> Result<(), anyhow::Error> {
        anyhow::bail!("anyhow")
    }
    async fn made(_: Ctx<()>, _: u64) -> Result<(), TaskError> {
        Err(TaskError::new(DbError::NotFound))
    }
    everywhere(|| async {
        let ctx = Ctx::new(());
        let errors = [
            (ctx.run(string, 1).await.unwrap_err(), "a string"),
            (ctx.run(literal, 1).await.unwrap_err(), "a literal"),
            (ctx.run(boxed, 1).await.unwrap_err(), "no such row"),
            (ctx.run(standard, 1).await.unwrap_err(), "io"),
            (ctx.run(any, 1).await.unwrap_err(), "anyhow"),
            (ctx.run(made, 1).await.unwrap_err(), "no such row"),
        ];
        for (error, words) in errors {
            assert_eq!(error.kind(), TaskErrorKind::Failed);
            let message = error.to_string();
            assert!(message.ends_with(&format!("failed: {words}")), "{message}");
        }
        let made = ctx.run(made, 1).await.unwrap_err();
        assert_eq!(made.downcast_ref(), Some(&DbError::NotFound));
        assert_eq!(made.to_string(), "made failed: no such row");
        let boxed = ctx.run(boxed, 1).await.unwrap_err();
        assert_eq!(boxed.downcast_ref(), Some(&DbError::NotFound));
    });
}

#[test]
fn a_task_error_goes_into_anyhow_with_a_question_mark_and_comes_out_again() {
    async fn handler(ctx: &Ctx<()>) -> anyhow::Result<String> {
        Ok(ctx.run(page, 0).await?.clone())
    }
    everywhere(|| async {
        let ctx = Ctx::new(());
        let error = handler(&ctx).await.unwrap_err();
        let inner = error.downcast_ref::<TaskError>().unwrap();
        assert_eq!(inner.downcast_ref(), Some(&DbError::NotFound));
        assert!(error.chain().any(|cause| cause.is::<DbError>()));
    });
}

#[cfg(feature = "anyhow")]
#[test]
fn a_cause_inside_anyhow_stays_reachable() {
    async fn by_question_mark(_: Ctx<()>, _: u64) -> anyhow::Result<u64> {
        Err(DbError::NotFound)?
    }
    async fn with_context(ctx: Ctx<()>, n: u64) -> anyhow::Result<u64> {
        use anyhow::Context as _;
        Ok(*ctx.run(user, n).await.context("loading the user")?)
    }
    everywhere(|| async {
        let ctx = Ctx::new(());
        let error = ctx.run(by_question_mark, 0).await.unwrap_err();
        assert_eq!(error.downcast_ref(), Some(&DbError::NotFound));
        let error = ctx.run(with_context, 0).await.unwrap_err();
        assert_eq!(error.downcast_ref(), Some(&DbError::NotFound));
    });
}

#[test]
fn a_clone_is_the_same_error() {
    everywhere(|| async {
        let ctx = Ctx::new(());
        let error = ctx.run(page, 0).await.unwrap_err();
        let clone = error.clone();
        drop(ctx);
        let clone = std::thread::spawn(move || clone).join().unwrap();
        assert!(std::ptr::eq(
            error.downcast_ref::<DbError>().unwrap(),
            clone.downcast_ref::<DbError>().unwrap()
        ));
        assert_eq!(error.to_string(), clone.to_string());
        assert!(format!("{clone:?}").contains("NotFound"), "{clone:?}");
    });
}

#[test]
fn a_cancellation_says_what_to_do_and_names_no_cause() {
    everywhere(|| async {
        let ctx = Ctx::new(());
        ctx.cancel();
        let error = ctx.run(page, 7).await.unwrap_err();
        assert_eq!(error.kind(), TaskErrorKind::Cancelled);
        assert!(error.source().is_none());
        assert!(error.downcast_ref::<DbError>().is_none());
        assert!(error.to_string().contains("cancelled"), "{error}");
    });
}
