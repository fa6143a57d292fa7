//! The feature `axum`: `Ctx<S>` as an extractor, errors and values as responses.

use std::any::type_name;
use std::fmt;

use ::http::request::Parts;
use ::http::{HeaderValue, StatusCode, header};
use axum_core::body::Body;
use axum_core::extract::FromRequestParts;
use axum_core::response::{IntoResponse, Response};
use bytes::Bytes;

use super::layer::{ByKind, Made};
use crate::{Ctx, Held, TaskError};

/// A handler asks for a context that no [`ContextLayer`](super::ContextLayer) around it makes.
///
/// The answer is a 500 that says nothing else. What is wrong is told by `Display`, and where somebody will see it: this value is in the
/// extensions of the response, and with the feature `tracing` it is an event of level `ERROR`; without that feature, debug builds write it to standard error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MissingContext {
    wanted: &'static str,
    made: Option<&'static str>,
}

impl fmt::Display for MissingContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { wanted, made } = self;
        match made {
            Some(made) => write!(
                f,
                "a handler takes `Ctx<{wanted}>`, but the innermost `ContextLayer` around it makes `Ctx<{made}>`: \
                 take that, or add a layer whose closure gives a `{wanted}`"
            ),
            None => write!(
                f,
                "a handler takes `Ctx<{wanted}>`, but there is no `ContextLayer` around it: \
                 call `.layer(ContextLayer::new(..))` on the router after its `.route(..)` (a layer holds for the routes before it)"
            ),
        }
    }
}

impl std::error::Error for MissingContext {}

impl IntoResponse for MissingContext {
    fn into_response(self) -> Response {
        #[cfg(feature = "tracing")]
        crate::trace::failed(&self);
        #[cfg(not(feature = "tracing"))]
        if cfg!(debug_assertions) {
            eprintln!("watershed: {self}");
        }
        let mut response = StatusCode::INTERNAL_SERVER_ERROR.into_response();
        response.extensions_mut().insert(self);
        response
    }
}

/// The context of the request, made by the [`ContextLayer`](super::ContextLayer) around the handler.
///
/// It is looked up by the type of its state, at run time: where the layer makes another, the answer is 500; see [`MissingContext`].
impl<S, R> FromRequestParts<R> for Ctx<S>
where
    S: Send + Sync + 'static,
    R: Send + Sync,
{
    type Rejection = MissingContext;

    async fn from_request_parts(parts: &mut Parts, _: &R) -> Result<Self, MissingContext> {
        match parts.extensions.get::<Self>() {
            Some(ctx) => Ok(ctx.clone()),
            None => Err(MissingContext {
                wanted: type_name::<S>(),
                made: parts.extensions.get::<Made>().map(|made| made.0),
            }),
        }
    }
}

impl TaskError {
    /// A response for this error: what `first` makes of it, or else the [status of its kind](TaskError::status) and nothing else.
    ///
    /// For an error type of your own, where the statuses of [`ContextLayer::errors`](super::ContextLayer::errors) are not enough. The error is in the extensions of the response, for
    /// layers that log.
    ///
    /// # Examples
    /// ```
    /// use axum::http::StatusCode;
    /// use axum::response::{IntoResponse, Response};
    /// use watershed::TaskError;
    ///
    /// # #[derive(Debug)] struct NoSuch(u64);
    /// # impl std::fmt::Display for NoSuch { fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result { write!(f, "{}", self.0) } }
    /// # impl std::error::Error for NoSuch {}
    /// struct Failure(TaskError);
    /// impl From<TaskError> for Failure {                          // so that `?` works in handlers
    ///     fn from(error: TaskError) -> Self { Failure(error) }
    /// }
    /// impl IntoResponse for Failure {
    ///     fn into_response(self) -> Response {
    ///         self.0.respond(|error| {
    ///             let NoSuch(id) = error.downcast_ref()?;
    ///             Some((StatusCode::NOT_FOUND, format!("There is no product {id}.")))
    ///         })
    ///     }
    /// }
    /// assert_eq!(Failure(TaskError::new(NoSuch(7))).into_response().status(), 404);
    /// assert_eq!(Failure(TaskError::new("disk full")).into_response().status(), 500);
    /// ```
    pub fn respond<R: IntoResponse>(self, first: impl FnOnce(&Self) -> Option<R>) -> Response {
        let mut response = match first(&self) {
            Some(response) => response.into_response(),
            None => {
                let mut response = self.status().into_response();
                response.extensions_mut().insert(ByKind);
                response
            }
        };
        response.extensions_mut().insert(self);
        response
    }
}

/// The [status of its kind](TaskError::status), or what [`ContextLayer::errors`](super::ContextLayer::errors) makes of it, without a body: nothing of the error is
/// sent. It is in the extensions of the response, for layers that log.
impl IntoResponse for TaskError {
    fn into_response(self) -> Response {
        self.respond(|_| None::<StatusCode>)
    }
}

/// Bytes that a context keeps.
struct Kept<T: 'static>(Held<T>);

impl<T: AsRef<[u8]>> AsRef<[u8]> for Kept<T> {
    fn as_ref(&self) -> &[u8] {
        (*self.0).as_ref()
    }
}

/// Without a copy: the body keeps the memory of the context until it has been sent.
impl<T: AsRef<[u8]> + Send + Sync + 'static> From<Held<T>> for Bytes {
    fn from(held: Held<T>) -> Self {
        Bytes::from_owner(Kept(held))
    }
}

/// As for [`Bytes`]; so `axum::response::Html(held)` is a page.
impl<T: AsRef<[u8]> + Send + Sync + 'static> From<Held<T>> for Body {
    fn from(held: Held<T>) -> Self {
        Bytes::from(held).into()
    }
}

/// Plain text, without a copy.
impl IntoResponse for Held<String> {
    fn into_response(self) -> Response {
        let plain = HeaderValue::from_static("text/plain; charset=utf-8");
        ([(header::CONTENT_TYPE, plain)], Body::from(self)).into_response()
    }
}
