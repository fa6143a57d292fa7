//! Errors of the user's that hold a `TaskError`, whose cause is such an error again, and so on.

use crate::SMALL_STACK;
use crate::support::{Count, watched, watched_on};
use futures::FutureExt;
use futures::future::BoxFuture;
use std::error::Error;
use std::fmt;
use watershed::{Ctx, TaskError, TaskErrorKind};

/// What an application makes of a failure: an error of its own, with the failure as its source.
#[derive(Debug)]
struct AppError {
    inner: TaskError,
    visits: Count,
}

impl fmt::Display for AppError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the application failed")
    }
}

impl Error for AppError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.visits.add();
        Some(&self.inner)
    }
}

impl From<TaskError> for AppError {
    fn from(inner: TaskError) -> AppError {
        AppError {
            inner,
            visits: Count::default(),
        }
    }
}

#[derive(Debug, PartialEq)]
struct Bottom(u64);

impl fmt::Display for Bottom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "bottom {}", self.0)
    }
}

impl Error for Bottom {}

/// Wraps a failure `times` times in errors that count who asks for their source.
fn wrapped(mut failure: TaskError, times: usize, visits: &Count) -> TaskError {
    for _ in 0..times {
        failure = TaskError::new(AppError {
            inner: failure,
            visits: visits.clone(),
        });
    }
    failure
}

/// Each level makes an error of its own of the one below.
fn down(ctx: Ctx<()>, n: u64) -> BoxFuture<'static, Result<u64, AppError>> {
    async move {
        if n == 0 {
            return Err(TaskError::new(Bottom(0)).into());
        }
        Ok(*ctx.run(down, n - 1).await? + 1)
    }
    .boxed()
}

#[test]
fn a_chain_of_errors_that_wrap_errors_drops_on_a_small_stack() {
    watched_on("with its context", SMALL_STACK, || {
        let ctx = Ctx::new(());
        let failed = ctx.run(down, 100_000).wait().unwrap_err();
        assert_eq!(failed.kind(), TaskErrorKind::Failed);
        let clone = failed.clone();
        drop(failed);
        drop(ctx);
        drop(clone);
    });
    watched_on("made by hand", SMALL_STACK, || {
        let bottom = TaskError::new(Bottom(7));
        let failed = wrapped(bottom.clone(), 100_000, &Count::default());
        let half = wrapped(failed.clone(), 100_000, &Count::default());
        drop(half);
        drop(failed);
        assert_eq!(bottom.downcast_ref(), Some(&Bottom(7)));
    });
}

/// An application's error that shows what it holds, as many do.
#[derive(Debug)]
struct Shows(TaskError);

impl fmt::Display for Shows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "shown {}", self.0)
    }
}

impl Error for Shows {}

#[test]
fn errors_that_wrap_errors_are_written_on_a_small_stack() {
    watched_on("written", SMALL_STACK, || {
        let mut failed = TaskError::new(Bottom(7));
        for _ in 0..10_000 {
            failed = TaskError::new(Shows(failed));
        }
        assert!(
            failed
                .to_string()
                .starts_with("failed: shown failed: shown ")
        );
        assert!(failed.to_string().ends_with("(and so on; see `source`)"));
        assert!(format!("{failed:?}").contains("and so on"));
        // The next one is written whole again.
        let shallow = TaskError::new(Shows(TaskError::new(Bottom(7))));
        assert_eq!(shallow.to_string(), "failed: shown failed: bottom 7");
    });
}

#[test]
fn downcast_ref_is_linear_in_the_wrappers() {
    // At 20 wrappers an exponential search is at a million already, and still ends.
    for wrappers in [1, 20] {
        watched("a search for what is not there", move || {
            let visits = Count::default();
            let failed = wrapped(TaskError::new("no bottom"), wrappers, &visits);
            assert!(failed.downcast_ref::<Bottom>().is_none());
            assert!(
                visits.get() <= wrappers,
                "{} visits of {wrappers} wrappers",
                visits.get()
            );
        });
    }
}

#[test]
fn a_cause_is_found_through_any_number_of_wrappers() {
    watched_on("a search that finds", SMALL_STACK, || {
        let visits = Count::default();
        let failed = wrapped(TaskError::new(Bottom(7)), 100_000, &visits);
        assert_eq!(failed.downcast_ref(), Some(&Bottom(7)));
        assert_eq!(visits.get(), 100_000);
        // The outermost of its kind is found first.
        assert!(failed.downcast_ref::<AppError>().is_some());
        assert_eq!(visits.get(), 100_000);
    });
}
