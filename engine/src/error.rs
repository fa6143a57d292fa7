//! `TaskError`: the one error that a call returns, and the path it came along.
//!
//! A failure is made once (a *root*) and passed on by reference count; each task that hands it on
//! with `?` adds a link that names it. Links point inwards, to what they called, and each also points
//! at the root, so that `kind` and `downcast_ref` cost the same at any depth. Dropping a chain of
//! links is a loop, never a recursion.

use std::any::{Any, TypeId};
use std::cell::Cell;
use std::error::Error;
use std::fmt;
use std::mem::ManuallyDrop;

use crate::batch::OfBatch;
use crate::sync::Arc;

/// A boxed error, as every task's error type can become one.
pub type BoxError = Box<dyn Error + Send + Sync + 'static>;

/// What went wrong with a call, in one word. More kinds may come. [`guide::errors_and_retries`](crate::guide::errors_and_retries) maps them to
/// answers of a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum TaskErrorKind {
    /// The task returned an error; [`TaskError::downcast_ref`] finds it.
    Failed,
    /// The task panicked, in its body, in the destructor of its body, or while its input was cloned.
    Panicked,
    /// The context was cancelled, or the last handle that its owner held was dropped.
    Cancelled,
    /// The context's deadline passed.
    DeadlineExceeded,
    /// The call would wait for itself: the tasks on the path wait for each other.
    Cycle,
    /// Tasks started one another deeper than the context allows.
    TooDeep,
    /// The call needs a tokio runtime and there is none on this thread.
    NoRuntime,
}

/// Why a call has no value.
///
/// One pointer wide, cheap to clone, and the same for every caller of one run. A task may return it:
/// `ctx.run(user, id).await?` in a task that gives `Result<_, TaskError>` passes the first failure on and
/// adds the task's own name to the path.
///
/// # Examples
/// ```
/// use watershed::{Ctx, TaskError, TaskErrorKind};
///
/// async fn user(_: Ctx<()>, _id: u64) -> Result<String, std::num::ParseIntError> {
///     "x".parse::<u64>().map(|n| n.to_string())
/// }
/// async fn page(ctx: Ctx<()>, id: u64) -> Result<String, TaskError> {
///     Ok(format!("Hello, {}", ctx.run(user, id).await?))
/// }
///
/// let ctx = Ctx::new(());
/// let error = ctx.run(page, 1).wait().unwrap_err();
/// assert_eq!(error.kind(), TaskErrorKind::Failed);
/// assert_eq!(error.to_string(), "page > user failed: invalid digit found in string");
/// assert!(error.downcast_ref::<std::num::ParseIntError>().is_some());
/// ```
#[derive(Clone)]
pub struct TaskError(Arc<Link>);

const _: () = assert!(size_of::<TaskError>() == size_of::<usize>());

/// One task on the way out.
struct Link {
    /// `type_name` of the task that returned this, or none for an error that no task returned yet.
    task: Option<&'static str>,
    /// What it passed on; none at the innermost link.
    inner: Option<TaskError>,
    root: Arc<Root>,
    /// How many links are below, this one included.
    length: usize,
    /// The innermost task that is named.
    first: Option<&'static str>,
    /// Marked transient, here or further in: whoever passes it on is not kept either.
    transient: bool,
}

struct Root {
    kind: TaskErrorKind,
    cause: Cause,
}

impl Drop for Root {
    fn drop(&mut self) {
        // An error of the user's may hold a `TaskError`, whose root holds another, and so on.
        if let Cause::Error(error) = std::mem::replace(&mut self.cause, Cause::Dropped) {
            crate::stack::drop_error(error);
        }
    }
}

enum Cause {
    Dropped,
    Error(BoxError),
    #[cfg(feature = "anyhow")]
    Anyhow(anyhow::Error),
    /// A panic's message.
    Message(String),
    /// `type_name`s, in the order in which they wait, the first one again at the end.
    Path(Vec<&'static str>),
    /// The limit that was met.
    Limit(usize),
    /// What needs the runtime.
    Needs(&'static str),
    /// Why the context is closed.
    Closed(&'static str),
}

/// The names shown of a longer path: the outermost and the innermost.
const SHOWN_OUTER: usize = 8;
const SHOWN_INNER: usize = 4;

impl TaskError {
    /// Makes an error of kind [`Failed`](TaskErrorKind::Failed) out of any error, for a task that returns
    /// `Result<_, TaskError>`: `db.user(id).await.map_err(TaskError::new)?`.
    ///
    /// A `TaskError` inside a box comes out as it was. The task that returns it becomes its [`task`](Self::task).
    ///
    /// # Examples
    /// ```
    /// use watershed::TaskError;
    /// let error = TaskError::new("no such user");
    /// assert_eq!(error.to_string(), "failed: no such user");
    /// ```
    pub fn new(error: impl Into<BoxError>) -> Self {
        match error.into().downcast::<TaskError>() {
            Ok(error) => *error,
            Err(error) => Self::root(None, TaskErrorKind::Failed, Cause::Error(error), false),
        }
    }

    /// What went wrong, in one word.
    pub fn kind(&self) -> TaskErrorKind {
        self.0.root.kind
    }

    /// The full type name of the task that failed first, innermost on the path; empty if no task has returned this error yet.
    pub fn task(&self) -> &'static str {
        self.0.first.unwrap_or("")
    }

    /// Finds an error of type `E` in the chain of causes: the task's own error, its source, and so on.
    ///
    /// With the feature `anyhow`, also what an `anyhow::Error` holds. Some error types hide their cause
    /// when they are boxed; what they do not show through `source` cannot be found.
    ///
    /// # Examples
    /// ```
    /// use std::io;
    /// use watershed::TaskError;
    ///
    /// let error = TaskError::new(io::Error::from(io::ErrorKind::TimedOut));
    /// assert_eq!(error.downcast_ref::<io::Error>().unwrap().kind(), io::ErrorKind::TimedOut);
    /// assert!(error.downcast_ref::<std::fmt::Error>().is_none());
    /// ```
    pub fn downcast_ref<E: Error + 'static>(&self) -> Option<&E> {
        let mut next = self.source();
        while let Some(error) = next {
            if let Some(found) = error.downcast_ref::<E>() {
                return Some(found);
            }
            next = error.source();
        }
        None
    }

    fn root(
        task: Option<&'static str>,
        kind: TaskErrorKind,
        cause: Cause,
        transient: bool,
    ) -> Self {
        Self(Arc::new(Link {
            task,
            inner: None,
            root: Arc::new(Root { kind, cause }),
            length: 1,
            first: task,
            transient,
        }))
    }

    /// The failure of `task`, which returned `error`.
    pub(crate) fn returned<E: Into<BoxError> + 'static>(
        task: &'static str,
        error: E,
        transient: bool,
    ) -> Self {
        let error = match take_as::<E, OfBatch>(error) {
            Ok(OfBatch(error)) => return error,
            Err(error) => error,
        };
        match take_as::<E, TaskError>(error) {
            Ok(error) => error.passed_by(task, transient),
            #[cfg(feature = "anyhow")]
            Err(error) => match take_as::<E, anyhow::Error>(error) {
                Ok(error) => match error.downcast::<TaskError>() {
                    Ok(error) => error.passed_by(task, transient),
                    Err(error) => Self::root(
                        Some(task),
                        TaskErrorKind::Failed,
                        Cause::Anyhow(error),
                        transient,
                    ),
                },
                Err(error) => Self::returned_box(task, error.into(), transient),
            },
            #[cfg(not(feature = "anyhow"))]
            Err(error) => Self::returned_box(task, error.into(), transient),
        }
    }

    fn returned_box(task: &'static str, error: BoxError, transient: bool) -> Self {
        match error.downcast::<TaskError>() {
            Ok(error) => error.passed_by(task, transient),
            Err(error) => Self::root(
                Some(task),
                TaskErrorKind::Failed,
                Cause::Error(error),
                transient,
            ),
        }
    }

    fn passed_by(self, task: &'static str, transient: bool) -> Self {
        Self(Arc::new(Link {
            task: Some(task),
            root: self.0.root.clone(),
            length: self.0.length + 1,
            first: self.0.first.or(Some(task)),
            transient: transient || self.0.transient,
            inner: Some(self),
        }))
    }

    /// The panic of `task`. The payload is dropped here; if its destructor panics too, it is leaked.
    pub(crate) fn panicked(task: &'static str, payload: Box<dyn Any + Send>) -> Self {
        let message = if let Some(text) = payload.downcast_ref::<&'static str>() {
            (*text).to_owned()
        } else if let Some(text) = payload.downcast_ref::<String>() {
            text.clone()
        } else {
            "a value that is not text".to_owned()
        };
        crate::stack::discard(payload);
        Self::root(
            Some(task),
            TaskErrorKind::Panicked,
            Cause::Message(message),
            false,
        )
    }

    pub(crate) fn cycle(path: Vec<&'static str>) -> Self {
        let task = path.first().copied();
        Self::root(task, TaskErrorKind::Cycle, Cause::Path(path), false)
    }

    pub(crate) fn too_deep(task: &'static str, limit: usize) -> Self {
        Self::root(
            Some(task),
            TaskErrorKind::TooDeep,
            Cause::Limit(limit),
            false,
        )
    }

    #[cfg_attr(not(feature = "tokio"), allow(dead_code))] // only what needs tokio can miss it
    pub(crate) fn no_runtime(task: &'static str, needs: &'static str) -> Self {
        Self::root(
            Some(task),
            TaskErrorKind::NoRuntime,
            Cause::Needs(needs),
            false,
        )
    }

    pub(crate) fn closed(task: &'static str, kind: TaskErrorKind, why: &'static str) -> Self {
        Self::root(Some(task), kind, Cause::Closed(why), false)
    }

    /// The error as one pointer, for a slot.
    pub(crate) fn into_raw(self) -> *mut () {
        Arc::into_raw(self.0).cast_mut().cast()
    }

    /// # Safety
    /// The pointer came from [`TaskError::into_raw`], and this is done once.
    pub(crate) unsafe fn from_raw(raw: *mut ()) -> Self {
        // SAFETY: the promise of the caller.
        Self(unsafe { Arc::from_raw(raw.cast::<Link>()) })
    }

    /// # Safety
    /// The pointer came from [`TaskError::into_raw`], and was not taken back yet.
    pub(crate) unsafe fn clone_raw(raw: *mut ()) -> Self {
        // SAFETY: the promise of the caller.
        let error = ManuallyDrop::new(unsafe { Self::from_raw(raw) });
        TaskError::clone(&error)
    }

    /// Whether whoever passes this on must not be kept.
    pub(crate) fn is_transient(&self) -> bool {
        self.0.transient
    }

    /// The names of the tasks, outermost first.
    fn tasks(&self) -> impl Iterator<Item = &'static str> {
        let mut next = Some(self);
        std::iter::from_fn(move || {
            let link = &next?.0;
            next = link.inner.as_ref();
            Some(link.task)
        })
        .flatten()
    }
}

/// `Ok` if `A` is `B`.
fn take_as<A: 'static, B: 'static>(value: A) -> Result<B, A> {
    if TypeId::of::<A>() == TypeId::of::<B>() {
        let value = ManuallyDrop::new(value);
        // SAFETY: A and B are the same type (`'static`, so their ids tell), and `value` is not used again.
        Ok(unsafe { std::mem::transmute_copy::<ManuallyDrop<A>, B>(&value) })
    } else {
        Err(value)
    }
}

/// The last part of a type name: `shop::page` is `page`, `shop::user<shop::App>` is `user<App>`.
pub(crate) fn short(name: &str) -> String {
    let mut out = String::with_capacity(name.len());
    let mut word = String::new();
    for c in name.chars() {
        match c {
            ':' => word.clear(),
            // Braces are part of a path: `page::{{closure}}::user` is `user`.
            c if c.is_alphanumeric() || matches!(c, '_' | '{' | '}' | '#') => word.push(c),
            c => {
                out.push_str(&word);
                word.clear();
                out.push(c);
            }
        }
    }
    out.push_str(&word);
    out
}

impl Drop for Link {
    fn drop(&mut self) {
        let mut next = self.inner.take();
        while let Some(error) = next {
            // The last owner of a link unlinks the one below before its own memory goes.
            next = Arc::into_inner(error.0).and_then(|mut link| link.inner.take());
        }
    }
}

impl Error for TaskError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match &self.0.root.cause {
            Cause::Error(error) => Some(&**error),
            #[cfg(feature = "anyhow")]
            Cause::Anyhow(error) => Some(&**error),
            _ => None,
        }
    }
}

/// Writes `length` names; of many the outermost and the innermost.
fn write_path(
    f: &mut fmt::Formatter<'_>,
    names: impl Iterator<Item = &'static str>,
    length: usize,
) -> fmt::Result {
    let mut separator = "";
    for (at, name) in names.enumerate() {
        if at >= SHOWN_OUTER && at + SHOWN_INNER < length {
            if at == SHOWN_OUTER {
                let left_out = length - SHOWN_OUTER - SHOWN_INNER;
                write!(f, " > ({left_out} more)")?;
            }
            continue;
        }
        write!(f, "{separator}{}", short(name))?;
        separator = " > ";
    }
    Ok(())
}

thread_local! {
    /// How many errors are being written inside one another.
    static WRITING: Cell<u32> = const { Cell::new(0) };
}

/// Errors that hold one another are written this deep.
const WRITTEN: u32 = 32;

/// Writes one error by `write`, unless it is too deep inside of others.
fn nested(
    f: &mut fmt::Formatter<'_>,
    write: impl FnOnce(&mut fmt::Formatter<'_>) -> fmt::Result,
) -> fmt::Result {
    struct Leave(u32);
    impl Drop for Leave {
        fn drop(&mut self) {
            WRITING.set(self.0);
        }
    }
    let leave = Leave(WRITING.get());
    if leave.0 >= WRITTEN {
        return f.write_str("(and so on; see `source`)");
    }
    WRITING.set(leave.0 + 1);
    write(f)
}

impl fmt::Display for TaskError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        nested(f, |f| self.write(f))
    }
}

impl TaskError {
    fn write(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let length = self.0.length;
        match &self.0.root.cause {
            // The cycle itself says which tasks.
            Cause::Path(path) => write_path(f, path.iter().take(1).copied(), 1)?,
            _ => write_path(f, self.tasks(), length)?,
        }
        if self.0.first.is_some() {
            f.write_str(" ")?;
        }
        match &self.0.root.cause {
            Cause::Error(error) => write!(f, "failed: {error}"),
            #[cfg(feature = "anyhow")]
            Cause::Anyhow(error) => write!(f, "failed: {error}"),
            Cause::Message(message) => write!(f, "panicked: {message}"),
            Cause::Path(path) => {
                f.write_str("would wait for itself: ")?;
                write_path(f, path.iter().copied(), path.len())?;
                f.write_str("; break the cycle, or call one of them with another input")
            }
            Cause::Limit(limit) => write!(
                f,
                "is nested deeper than {limit} tasks; end the recursion, or raise `Builder::max_depth`"
            ),
            Cause::Needs(what) => write!(
                f,
                "needs a tokio runtime for {what}, and this thread has none; \
                 call it inside `#[tokio::main]` or under `Runtime::enter`"
            ),
            Cause::Closed(why) => f.write_str(why),
            Cause::Dropped => Ok(()),
        }
    }
}

impl fmt::Debug for TaskError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        nested(f, |f| self.write_debug(f))
    }
}

impl TaskError {
    fn write_debug(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = f.debug_struct("TaskError");
        out.field("kind", &self.kind()).field("task", &self.task());
        match &self.0.root.cause {
            Cause::Error(error) => out.field("source", error),
            #[cfg(feature = "anyhow")]
            Cause::Anyhow(error) => out.field("source", error),
            _ => out.field("message", &format_args!("{self}")),
        };
        out.finish()
    }
}
