//! What a task is: any async fn `Fn(Ctx<S>, In) -> impl Future<Output = Result<T, E>>`, and what its
//! input may be called with.
//!
//! The traits here are for the type checker; nothing is registered and nothing is stored. [`Task`] is
//! sealed: a slot is matched by the type of its task, which is sound only while each function type is
//! one task.

use std::borrow::Cow;
use std::fmt;
use std::future::Future;
use std::hash::{Hash, Hasher};
use std::marker::PhantomData;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::context::Ctx;
use crate::error::BoxError;

mod sealed {
    use super::{BoxError, Ctx, Future};

    #[diagnostic::on_unimplemented(
        message = "`{Self}` is not a task that `Ctx<{S}>` can run",
        label = "not an `async fn(Ctx<{S}>, {In}) -> Result<_, _>`",
        note = "a task takes the context and one input; if this name was a task before, a value may shadow it"
    )]
    pub trait Task<S, In> {}

    impl<S, In, F, Fut, T, E> Task<S, In> for F
    where
        F: Fn(Ctx<S>, In) -> Fut + Copy + Send + Sync + 'static,
        Fut: Future<Output = Result<T, E>> + 'static,
        T: Send + Sync + 'static,
        E: Into<BoxError> + 'static,
    {
    }
}

/// A function that a context runs at most once per input: `async fn(Ctx<S>, In) -> Result<T, E>`.
///
/// Implemented for every function of that shape, and for nothing else. A task must not capture anything
/// (its type is its identity); a closure that does is refused when the call is built.
///
/// * `In`: `Eq + Hash + Clone + Send + Sync + 'static`. One input; use a tuple or a struct for more.
/// * `T`: `Send + Sync + 'static`. It lives in the context, and callers get `&T`.
/// * `E`: whatever becomes a boxed error: any error type, `anyhow::Error`, `String`, or [`TaskError`](crate::TaskError).
///
/// # Examples
/// ```
/// use watershed::{Ctx, TaskError};
///
/// // A free function, generic over the state.
/// async fn double<S: Send + Sync + 'static>(_: Ctx<S>, n: u64) -> Result<u64, String> { Ok(n * 2) }
///
/// // A function of a type.
/// struct Math;
/// impl Math {
///     async fn sum(ctx: Ctx<()>, (a, b): (u64, u64)) -> Result<u64, TaskError> {
///         Ok(ctx.run(double, a).await? + ctx.run(double, b).await?)
///     }
/// }
/// let ctx = Ctx::new(());
/// assert_eq!(ctx.run(Math::sum, (1, 2)).wait().unwrap(), &6);
///
/// // A closure that captures nothing.
/// let half = |_: Ctx<()>, n: u64| async move { Ok::<_, String>(n / 2) };
/// assert_eq!(ctx.run(half, 8).wait().unwrap(), &4);
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a task that `Ctx<{S}>` can run",
    label = "not an `async fn(Ctx<{S}>, {In}) -> Result<_, _>`",
    note = "a task takes the context and one input; if this name was a task before, a value may shadow it"
)]
pub trait Task<S, In>: sealed::Task<S, In> + Copy + Send + Sync + 'static {
    /// What the task gives when it succeeds.
    type Value: Send + Sync + 'static;
    /// What the task gives when it fails.
    type Error: Into<BoxError> + 'static;
    /// The body. `Send` is asked for only where a body is started, so that looking at a slot
    /// ([`peek`](Ctx::peek), [`prime`](Ctx::prime), [`forget`](Ctx::forget)) is not an edge between tasks.
    type Future: Future<Output = Result<Self::Value, Self::Error>> + 'static;

    /// Binds the task to an input, for [`parallel`](Ctx::parallel), [`parallel_all`](Ctx::parallel_all) and [`run_all`](Ctx::run_all).
    ///
    /// # Examples
    /// ```
    /// use watershed::{Ctx, Task};
    /// async fn double(_: Ctx<()>, n: u64) -> Result<u64, String> { Ok(n * 2) }
    ///
    /// let ctx = Ctx::new(());
    /// let calls = vec![double.with(1).boxed(), double.with(2).boxed()];
    /// ctx.run_all(calls).wait().unwrap();
    /// assert_eq!(*ctx.peek(double, &2).unwrap().unwrap(), 4);
    /// ```
    fn with<K>(self, input: K) -> Call<S, Self, In, K>
    where
        In: Input<K>,
        K: Key<In>;

    #[doc(hidden)]
    fn call(self, ctx: Ctx<S>, input: In) -> Self::Future;
}

impl<S, In, F, Fut, T, E> Task<S, In> for F
where
    F: Fn(Ctx<S>, In) -> Fut + Copy + Send + Sync + 'static,
    Fut: Future<Output = Result<T, E>> + 'static,
    T: Send + Sync + 'static,
    E: Into<BoxError> + 'static,
{
    type Value = T;
    type Error = E;
    type Future = Fut;

    fn with<K>(self, input: K) -> Call<S, Self, In, K>
    where
        In: Input<K>,
        K: Key<In>,
    {
        Call {
            task: self,
            input,
            types: PhantomData,
        }
    }

    #[inline]
    fn call(self, ctx: Ctx<S>, input: In) -> Fut {
        self(ctx, input)
    }
}

/// A task bound to an input, not started. Made by [`Task::with`], where there is an example.
pub struct Call<S, F, In, K = In> {
    pub(crate) task: F,
    pub(crate) input: K,
    types: PhantomData<fn(S, In)>,
}

impl<S, F: Copy, In, K: Clone> Clone for Call<S, F, In, K> {
    fn clone(&self) -> Self {
        Self {
            task: self.task,
            input: self.input.clone(),
            types: PhantomData,
        }
    }
}

impl<S, F, In, K: fmt::Debug> fmt::Debug for Call<S, F, In, K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Call")
            .field("task", &std::any::type_name::<F>())
            .field("input", &self.input)
            .finish()
    }
}

/// An input, seen from what it is called with: `String` is an input, and `&str` finds it without allocating.
///
/// Every type is an input for itself. To look up your own type by a borrowed form, implement this and
/// [`Key`] for the pair.
///
/// # Examples
/// ```
/// use std::hash::{Hash, Hasher};
/// use watershed::{Ctx, Input, Key};
///
/// #[derive(Clone, PartialEq, Eq, Hash)]
/// struct Name(String);
///
/// impl Input<&str> for Name {
///     fn hash_key<H: Hasher>(key: &&str, state: &mut H) { key.hash(state) }  // as `Name` hashes
///     fn is(&self, key: &&str) -> bool { self.0 == **key }
///     fn from_key(key: &str) -> Self { Name(key.to_owned()) }
/// }
/// impl Key<Name> for &str {}
///
/// async fn length(_: Ctx<()>, name: Name) -> Result<usize, String> { Ok(name.0.len()) }
/// assert_eq!(*Ctx::new(()).run(length, "Ada").wait().unwrap(), 3);
/// ```
#[diagnostic::on_unimplemented(
    message = "`{K}` cannot be looked up where a task takes `{Self}`",
    label = "not an input",
    note = "an input is `Eq + Hash + Clone + Send + Sync + 'static`; a borrowed form of it needs `Input` and `Key`"
)]
pub trait Input<K = Self>: Hash + Eq + Clone + Send + Sync + 'static {
    /// Hashes the key as the input that it stands for would be hashed.
    fn hash_key<H: Hasher>(key: &K, state: &mut H);
    /// Whether this input is the one that the key stands for.
    fn is(&self, key: &K) -> bool;
    /// Makes the input; called on a miss only.
    fn from_key(key: K) -> Self;
}

/// The pairs of [`Input`], seen from the key: it lets a task that is generic over its input be called without naming it.
pub trait Key<In> {}

impl<T: Hash + Eq + Clone + Send + Sync + 'static> Input<T> for T {
    #[inline]
    fn hash_key<H: Hasher>(key: &T, state: &mut H) {
        key.hash(state);
    }
    #[inline]
    fn is(&self, key: &T) -> bool {
        self == key
    }
    #[inline]
    fn from_key(key: T) -> Self {
        key
    }
}
impl<T> Key<T> for T {}

macro_rules! borrowed {
    ($([$($generics:tt)*] $key:ty => $input:ty, |$k:ident| $view:expr, $make:expr;)*) => {$(
        impl<$($generics)*> Input<$key> for $input {
            #[inline]
            fn hash_key<H: Hasher>($k: &$key, state: &mut H) {
                $view.hash(state);
            }
            #[inline]
            fn is(&self, $k: &$key) -> bool {
                **self == *$view
            }
            #[inline]
            fn from_key($k: $key) -> Self {
                $make
            }
        }
        impl<$($generics)*> Key<$input> for $key {}
    )*};
}

borrowed! {
    ['k] &'k str => String, |key| *key, key.to_owned();
    ['k] &'k String => String, |key| key.as_str(), key.clone();
    ['k] &'k str => Arc<str>, |key| *key, Arc::from(key);
    ['k] &'k String => Arc<str>, |key| key.as_str(), Arc::from(key.as_str());
    ['k] &'k Arc<str> => Arc<str>, |key| &***key, key.clone();
    ['k] &'k str => Box<str>, |key| *key, Box::from(key);
    ['k] &'k str => Cow<'static, str>, |key| *key, Cow::Owned(key.to_owned());
    ['k, T: Hash + Eq + Clone + Send + Sync + 'static] &'k [T] => Vec<T>, |key| *key, key.to_vec();
    ['k, T: Hash + Eq + Clone + Send + Sync + 'static] &'k Vec<T> => Vec<T>, |key| key.as_slice(), key.clone();
    ['k, T: Hash + Eq + Clone + Send + Sync + 'static, const N: usize] &'k [T; N] => Vec<T>, |key| &key[..], key.to_vec();
    ['k, T: Hash + Eq + Clone + Send + Sync + 'static] &'k [T] => Arc<[T]>, |key| *key, Arc::from(key);
    ['k] &'k Path => PathBuf, |key| *key, key.to_path_buf();
    ['k] &'k PathBuf => PathBuf, |key| key.as_path(), key.clone();
}
