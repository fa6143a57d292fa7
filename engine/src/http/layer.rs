//! The layer, its service, and the future of a response.

use std::any::type_name;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
#[cfg(feature = "tokio")]
use std::time::Duration;

#[cfg(feature = "tokio")]
use ::http::HeaderName;
use ::http::request::Parts;
use ::http::{Method, Request, Response, StatusCode};
use http_body::Body;
use pin_project_lite::pin_project;
use tower_layer::Layer;
use tower_service::Service;

use super::body::ContextBody;
use super::guard::{End, Guard};
use crate::{Builder, Ctx, TaskError};

/// Makes a context for each request and closes it when the request is over. See [the module](super).
///
/// # Examples
/// ```
/// use std::time::Duration;
/// use watershed::http::ContextLayer;
///
/// struct Request { path: String }
///
/// let layer = ContextLayer::new(|parts| Request { path: parts.uri.path().to_owned() })
///     .deadline(Duration::from_secs(5))
///     .deadline_header("request-timeout")                         // a client may ask for less
///     .configure(|builder, parts| builder.record(parts.headers.contains_key("x-trace")))
///     .on_end(|ctx, end| println!("{}: {:?}, {} runs", ctx.state().path, end.status, ctx.report().runs.len()));
/// # let _ = layer;
/// ```
pub struct ContextLayer<S> {
    settings: Arc<Settings<S>>,
}

type MakeState<S> = dyn Fn(&Parts) -> S + Send + Sync;
type Configure<S> = dyn Fn(Builder<S>, &Parts) -> Builder<S> + Send + Sync;
type OnEnd<S> = dyn Fn(&Ctx<S>, &End) + Send + Sync;
type Errors = dyn Fn(&TaskError) -> Option<StatusCode> + Send + Sync;

pub(super) struct Settings<S> {
    state: Arc<MakeState<S>>,
    configure: Vec<Arc<Configure<S>>>,
    errors: Option<Arc<Errors>>,
    pub(super) on_end: Option<Arc<OnEnd<S>>>,
    #[cfg(feature = "tokio")]
    deadline: Option<Duration>,
    #[cfg(feature = "tokio")]
    deadline_header: Option<HeaderName>,
    pub(super) linger: bool,
}

impl<S> Clone for Settings<S> {
    fn clone(&self) -> Self {
        Self {
            state: self.state.clone(),
            configure: self.configure.clone(),
            errors: self.errors.clone(),
            on_end: self.on_end.clone(),
            #[cfg(feature = "tokio")]
            deadline: self.deadline,
            #[cfg(feature = "tokio")]
            deadline_header: self.deadline_header.clone(),
            linger: self.linger,
        }
    }
}

/// Which context a layer made, for who asks for another one. In the extensions of a request.
#[derive(Clone, Copy)]
#[cfg_attr(not(feature = "axum"), allow(dead_code))] // the extractor looks at it
pub(super) struct Made(pub(super) &'static str);

/// In the extensions of a response that is a [`TaskError`], whose status nobody has decided yet.
#[derive(Clone, Copy)]
pub(super) struct ByKind;

impl<S: Send + Sync + 'static> ContextLayer<S> {
    /// A layer that makes the state of each context by `state`, from the head of the request.
    ///
    /// # Cost
    /// For each request a context ([`Ctx::new`]), and two small allocations for its place in the request's extensions.
    pub fn new(state: impl Fn(&Parts) -> S + Send + Sync + 'static) -> Self {
        Self {
            settings: Arc::new(Settings {
                state: Arc::new(state),
                configure: Vec::new(),
                errors: None,
                on_end: None,
                #[cfg(feature = "tokio")]
                deadline: None,
                #[cfg(feature = "tokio")]
                deadline_header: None,
                linger: false,
            }),
        }
    }

    fn set(mut self, set: impl FnOnce(&mut Settings<S>)) -> Self {
        set(Arc::make_mut(&mut self.settings));
        self
    }

    /// Gives each context so much time from the arrival of its request; see [`Builder::deadline`].
    ///
    /// What waits in the context then gets [`DeadlineExceeded`](crate::TaskErrorKind::DeadlineExceeded), which becomes a 504. A handler that waits for
    /// something else is not stopped: for that there are layers such as `tower_http::timeout::TimeoutLayer`.
    #[cfg(feature = "tokio")]
    pub fn deadline(self, after: Duration) -> Self {
        self.set(|settings| settings.deadline = Some(after))
    }

    /// Lets the client ask for a deadline by the header `name`, in lower case: `request-timeout: 250ms`.
    ///
    /// The value is one to nine digits and a unit, `us`, `ms` or `s`. The shorter of this and the layer's own [`deadline`](Self::deadline) holds: a
    /// client can ask for less time and never for more. A value of another form is as none, and of several headers the first one counts.
    ///
    /// # Panics
    /// If `name` is not the name of a header in lower case.
    #[cfg(feature = "tokio")]
    pub fn deadline_header(self, name: &'static str) -> Self {
        let name = HeaderName::from_static(name);
        self.set(|settings| settings.deadline_header = Some(name))
    }

    /// Changes how contexts are made, for each request: recording, observers, stand-ins for tasks. Called in the order in which it was given.
    ///
    /// A deadline that is set here holds in place of the layer's.
    pub fn configure(
        self,
        configure: impl Fn(Builder<S>, &Parts) -> Builder<S> + Send + Sync + 'static,
    ) -> Self {
        self.set(|settings| settings.configure.push(Arc::new(configure)))
    }

    /// Called with each [`TaskError`] that a handler below answers with: gives its status, or none for [that of its kind](TaskError::status).
    ///
    /// It is also the place to log, since nothing of an error but the status is in the response. (With the feature `tracing`, those with a status of 500 and more are
    /// an event of level `ERROR` as well.) A response that a handler made of an error by itself is left alone.
    ///
    /// # Examples
    /// ```
    /// # use watershed::http::ContextLayer;
    /// # struct NoSuchProduct;
    /// # impl std::fmt::Debug for NoSuchProduct { fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result { f.write_str("") } }
    /// # impl std::fmt::Display for NoSuchProduct { fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result { f.write_str("") } }
    /// # impl std::error::Error for NoSuchProduct {}
    /// use http::StatusCode;
    ///
    /// let layer = ContextLayer::new(|_| ()).errors(|error| {
    ///     if error.downcast_ref::<NoSuchProduct>().is_some() {
    ///         return Some(StatusCode::NOT_FOUND);
    ///     }
    ///     eprintln!("{error}");
    ///     None
    /// });
    /// # let _ = layer;
    /// ```
    pub fn errors(
        self,
        status: impl Fn(&TaskError) -> Option<StatusCode> + Send + Sync + 'static,
    ) -> Self {
        self.set(|settings| settings.errors = Some(Arc::new(status)))
    }

    /// Called once for each request when it is over: for [reports](Ctx::report) and metrics. The context is closed (unless it [lingers](Self::linger)), and what
    /// it had is still there.
    ///
    /// # Concurrency
    /// On the thread that sends the response, often inside of a drop: it must not block. What it panics with ends there.
    ///
    /// # Cost
    /// Contexts are closed slot by slot, where otherwise most are only freed.
    pub fn on_end(self, on_end: impl Fn(&Ctx<S>, &End) + Send + Sync + 'static) -> Self {
        self.set(|settings| settings.on_end = Some(Arc::new(on_end)))
    }

    /// Leaves a context open after its request while anybody holds a [`Ctx`] that is not a task's own, say in a `tokio::spawn`.
    ///
    /// Otherwise the end of the request closes it, whoever holds what. The deadline holds either way.
    pub fn linger(self, linger: bool) -> Self {
        self.set(|settings| settings.linger = linger)
    }
}

impl<S: Send + Sync + 'static> Settings<S> {
    fn make(&self, parts: &Parts) -> Ctx<S> {
        let state = (self.state)(parts);
        #[cfg(feature = "tokio")]
        let deadline = self.deadline_of(parts);
        #[cfg(not(feature = "tokio"))]
        let deadline: Option<std::convert::Infallible> = None;
        if self.configure.is_empty() && deadline.is_none() {
            return Ctx::new(state);
        }
        let builder = Ctx::builder(state);
        #[cfg(feature = "tokio")]
        let builder = match deadline {
            Some(after) => builder.deadline(after),
            None => builder,
        };
        let configure = |builder, configure: &Arc<Configure<S>>| configure(builder, parts);
        self.configure.iter().fold(builder, configure).build()
    }

    #[cfg(feature = "tokio")]
    fn deadline_of(&self, parts: &Parts) -> Option<Duration> {
        let asked = self.deadline_header.as_ref().and_then(|name| {
            let value = parts.headers.get(name)?;
            super::timeout::parse(value)
        });
        asked.into_iter().chain(self.deadline).min()
    }
}

impl<S> Settings<S> {
    /// A response that is a `TaskError` gets its status.
    fn decide<B>(&self, response: &mut Response<B>) {
        if response.extensions_mut().remove::<ByKind>().is_none() {
            return;
        }
        let Some(error) = response.extensions().get::<TaskError>() else {
            return;
        };
        let status = self.errors.as_ref().and_then(|errors| errors(error));
        #[cfg(feature = "tracing")]
        if status.unwrap_or(response.status()).is_server_error() {
            crate::trace::failed(error);
        }
        if let Some(status) = status {
            *response.status_mut() = status;
        }
    }
}

impl<S> Clone for ContextLayer<S> {
    fn clone(&self) -> Self {
        Self {
            settings: self.settings.clone(),
        }
    }
}

impl<S> fmt::Debug for ContextLayer<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = f.debug_struct("ContextLayer");
        out.field("state", &type_name::<S>());
        #[cfg(feature = "tokio")]
        out.field("deadline", &self.settings.deadline)
            .field("deadline_header", &self.settings.deadline_header);
        out.field("linger", &self.settings.linger)
            .finish_non_exhaustive()
    }
}

impl<Inner, S> Layer<Inner> for ContextLayer<S> {
    type Service = ContextService<Inner, S>;

    fn layer(&self, inner: Inner) -> Self::Service {
        ContextService {
            inner,
            layer: self.clone(),
        }
    }
}

/// A service whose requests have contexts. Made by [`ContextLayer`].
#[derive(Debug)]
pub struct ContextService<Inner, S> {
    inner: Inner,
    layer: ContextLayer<S>,
}

impl<Inner: Clone, S> Clone for ContextService<Inner, S> {
    fn clone(&self) -> Self {
        Self {
            inner: self.inner.clone(),
            layer: self.layer.clone(),
        }
    }
}

impl<Inner, S, ReqBody, ResBody> Service<Request<ReqBody>> for ContextService<Inner, S>
where
    Inner: Service<Request<ReqBody>, Response = Response<ResBody>>,
    ResBody: Body,
    S: Send + Sync + 'static,
{
    type Response = Response<ContextBody<ResBody, S>>;
    type Error = Inner::Error;
    type Future = ContextFuture<Inner::Future, S>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<ReqBody>) -> Self::Future {
        let (mut parts, body) = request.into_parts();
        let settings = self.layer.settings.clone();
        let ctx = settings.make(&parts);
        parts.extensions.insert(ctx.clone());
        parts.extensions.insert(Made(type_name::<S>()));
        let guard = Guard::new(ctx, settings, parts.method == Method::HEAD);
        ContextFuture {
            inner: self.inner.call(Request::from_parts(parts, body)),
            guard: Some(guard),
        }
    }
}

pin_project! {
    /// The response of a [`ContextService`]. Dropped, it closes the context of its request.
    pub struct ContextFuture<F, S> {
        // First: the handler goes before its context.
        #[pin]
        inner: F,
        guard: Option<Guard<S>>,
    }
}

impl<F, S, B, E> Future for ContextFuture<F, S>
where
    F: Future<Output = Result<Response<B>, E>>,
    B: Body,
{
    type Output = Result<Response<ContextBody<B, S>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        // CANCEL: the guard is in this future, or in the body of the response; whichever is dropped closes the context.
        let response = ready!(this.inner.poll(cx));
        let mut guard = this.guard.take().expect("polled after it was ready");
        let mut response = response?;
        guard.settings().decide(&mut response);
        guard.responded(response.status(), response.body().is_end_stream());
        Poll::Ready(Ok(response.map(|body| ContextBody::new(body, guard))))
    }
}

impl<F, S> fmt::Debug for ContextFuture<F, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ContextFuture").finish_non_exhaustive()
    }
}
