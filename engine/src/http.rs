//! A context for each request of an HTTP server: a tower layer, and what `axum` needs to take it as an extractor.
//!
//! ```text
//! feature `http`    ContextLayer for every tower service (hyper, tonic, axum); TaskError::status
//! feature `axum`    with it: Ctx<S> as an extractor, TaskError and Held as responses
//! ```
//!
//! # In an axum server
#![cfg_attr(feature = "axum", doc = "```")]
#![cfg_attr(not(feature = "axum"), doc = "```ignore")]
//! use axum::{Router, extract::Path, routing::get};
//! use watershed::http::ContextLayer;
//! use watershed::{Ctx, Held, TaskError};
//!
//! #[derive(Clone)]
//! struct App { greeting: &'static str }                           // what the server has
//! struct Request { app: App, language: String }                   // the state of one request's context
//!
//! async fn name(_: Ctx<Request>, id: u64) -> Result<String, std::io::Error> { Ok(format!("user {id}")) }
//! async fn greet(ctx: Ctx<Request>, id: u64) -> Result<String, TaskError> {
//!     let name = ctx.run(name, id).await?;
//!     Ok(format!("{}, {name} ({})", ctx.state().app.greeting, ctx.state().language))
//! }
//!
//! async fn hello(ctx: Ctx<Request>, Path(id): Path<u64>) -> Result<Held<String>, TaskError> {
//!     ctx.run(greet, id).held().await                             // the page goes out without a copy
//! }
//!
//! fn routes(app: App) -> Router {
//!     Router::new().route("/{id}", get(hello)).layer(ContextLayer::new(move |parts| {
//!         let language = parts.headers.get("accept-language").and_then(|value| value.to_str().ok());
//!         Request { app: app.clone(), language: language.unwrap_or("en").to_owned() }
//!     }))
//! }
//! # // Asked as a server asks it; with `axum::serve(listener, routes(app))` it is one.
//! # use axum::{body::Body, http};
//! # use tower::ServiceExt;
//! # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
//! # let request = http::Request::get("/7").header("accept-language", "no").body(Body::empty()).unwrap();
//! # let response = routes(App { greeting: "Hello" }).oneshot(request).await.unwrap();
//! # assert_eq!(axum::body::to_bytes(response.into_body(), 100).await.unwrap(), "Hello, user 7 (no)");
//! # });
//! ```
//!
//! What all requests share goes along in the state: a pool, and the second tier (`struct Request { shared: Shared<App>, .. }` with
//! `AsRef<Shared<App>>`, see [`Ctx::run_shared`](crate::Ctx::run_shared)). The closure sees the request's head: method, address, headers, and what outer layers
//! put into its extensions. It cannot fail and does not wait: who is signed in, say, is for a task to find out.
//!
//! # When the context ends
//! | what happens | what the context does |
//! |---|---|
//! | the response has been sent, its body included | closes, whoever holds a handle: what was [`spawn`](crate::Ctx::spawn)ed and is not done is dropped |
//! | the client goes away, while the handler runs or the body is sent | the same, as soon as the server drops the handler or the body (hyper does so at once) |
//! | the handler panics, or a layer between gives up (a time limit) | the same |
//! | the deadline passes ([`deadline`](ContextLayer::deadline), [`deadline_header`](ContextLayer::deadline_header)) | calls that wait return [`DeadlineExceeded`](crate::TaskErrorKind::DeadlineExceeded), which is a 504; the handler itself goes on |
//!
//! So a body that is streamed may run tasks, and nothing of a request runs when it is over. What is to go on without the client belongs to the second tier:
//! a run of `Shared` has its own task on the runtime, and no request ends it. Or let the contexts of one route stay while anybody holds a
//! handle, by a layer with [`linger`](ContextLayer::linger) on that route: then `tokio::spawn` with a clone of the [`Ctx`](crate::Ctx) goes on, with
//! everything the context has. (That is also for WebSockets: the response of an upgrade is over when the talk begins.)
//!
//! # What goes along with a request's work, and what does not
//! | | the deadline | task-locals of outer layers | its span (feature `tracing`) is below |
//! |---|---|---|---|
//! | a run that the handler calls | holds | seen, as far as the handler is who drives it | the request's span, or the run's that called it |
//! | a run in the body of the response | holds | not seen: bodies are sent outside of the layers | the request's span, if the layer that made it also covers the body (`TraceLayer` does) |
//! | a run that is spawned, or one of `parallel` | holds | not seen | as if the caller had run it |
//! | a call that joins a run | holds | those of whoever drives the run, poll by poll | the caller's span follows from the run's |
//! | a run of the second tier | does not hold; who waits for it is told | never seen | nothing: it belongs to no request, and goes on when that is over |
//!
//! So put what a task needs into its input, or into the state: those go everywhere.
//!
//! # The layer's place
//! * A layer holds for the routes that were added before it, and for no route that comes after. A handler without a layer around it is answered with 500; see
//!   `MissingContext`. (`Router::layer` also makes contexts for what is not found, `Router::route_layer` does not.)
//! * A context is looked up by the type of its state, so unlike everything else here, asking for another type than the layer makes is seen
//!   at run time: `Ctx<Wrong>` is answered with 500, too. Two layers of different types give two contexts; of two of the same type the inner one holds.
//! * Spans: put the layer that makes a span for each request (`tower_http::trace::TraceLayer`) outside of this one, `.layer(ContextLayer..).layer(TraceLayer..)`,
//!   and the spans of runs are below the request's; see `Builder::tracing`.
//!
//! # Without axum
//! [`ContextLayer`] works with any tower service whose request is an [`http::Request`]. The context is in the request's extensions:
//! ```
//! # use watershed::{Ctx, http::ContextLayer};
//! # fn handle(request: http::Request<()>) -> Option<u64> {
//! let ctx: &Ctx<u64> = request.extensions().get()?;
//! # Some(*ctx.state()) }
//! ```

// What it owns: when the context of a request is made and when it is closed (`Guard`), the mapping of errors to statuses.
// What it relies on: that a server drops the future of a handler, and the body of a response, when the client is gone.
// What it must never do: say anything of an error in a response but its status.

#[cfg(feature = "axum")]
mod axum;
mod body;
mod guard;
mod layer;
mod status;
#[cfg(feature = "tokio")]
mod timeout;

#[cfg(feature = "axum")]
pub use axum::MissingContext;
pub use body::ContextBody;
pub use guard::End;
pub use layer::{ContextFuture, ContextLayer, ContextService};
