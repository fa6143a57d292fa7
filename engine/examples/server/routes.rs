//! Layers and handlers.

use std::convert::Infallible;
use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{FromRequestParts, Path, Request, State};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{Html, Response};
use axum::routing::get;
use futures::{StreamExt, stream, try_join};
use http::request::Parts;
use http::{HeaderValue, StatusCode};
use watershed::http::{ContextLayer, End};
use watershed::{Ctx, Held, Shared, TaskError};

use crate::catalogue::{self, Catalogue};
use crate::db::{self, Db, Id, PRODUCTS, USERS};
use crate::tasks::{ShopError, orders, page, price, session, subscription, user};
use crate::trace::{Mode, Shop, Tally};
use crate::traces::{Trace, Traces};

/// What the server has, for all requests; clones share it.
#[derive(Clone)]
pub(crate) struct App(Arc<Inner>);

struct Inner {
    db: Db,
    catalogue: Shared<Catalogue>,
    tally: Arc<Tally>,
    traces: Traces,
    ends: Ends,
    /// Names requests that bring no name of their own.
    requests: AtomicU64,
}

/// How requests ended.
// ORDER: Relaxed, everywhere: counts that are read when the requests are over.
#[derive(Default)]
pub(crate) struct Ends {
    /// Answered and sent to the end.
    complete: AtomicU64,
    /// The client went while the body was sent.
    cut: AtomicU64,
    /// The client went before there was an answer.
    unanswered: AtomicU64,
}

impl Ends {
    /// Complete, cut, unanswered.
    pub(crate) fn counts(&self) -> [u64; 3] {
        [&self.complete, &self.cut, &self.unanswered].map(|count| count.load(Relaxed))
    }
}

const ID: &str = "x-request-id";

impl App {
    pub(crate) fn new(db: Db) -> App {
        let tally = Arc::default();
        App(Arc::new(Inner {
            catalogue: catalogue::open(&db, &tally),
            db,
            tally,
            traces: Traces::default(),
            ends: Ends::default(),
            requests: AtomicU64::new(0),
        }))
    }

    pub(crate) fn db(&self) -> &Db {
        &self.0.db
    }

    pub(crate) fn catalogue(&self) -> &Shared<Catalogue> {
        &self.0.catalogue
    }

    pub(crate) fn traces(&self) -> &Traces {
        &self.0.traces
    }

    pub(crate) fn ends(&self) -> &Ends {
        &self.0.ends
    }

    /// Contexts that are not freed: each has one of these, and the two others are the server's and the catalogue's.
    pub(crate) fn live_contexts(&self) -> usize {
        Arc::strong_count(&self.0.tally) - 2
    }

    /// A request is over.
    fn over(&self, ctx: &Ctx<Shop>, end: &End) {
        let ends = &self.0.ends;
        let counted = match end {
            End { status: None, .. } => &ends.unanswered,
            End {
                complete: false, ..
            } => &ends.cut,
            _ => &ends.complete,
        };
        counted.fetch_add(1, Relaxed);
        self.0.traces.keep(Trace {
            request: ctx.state().request.clone(),
            status: end.status,
            report: ctx.report(),
        });
    }
}

pub(crate) fn routes(app: &App) -> Router {
    let (states, ends) = (app.clone(), app.clone());
    let contexts = ContextLayer::new(move |parts| {
        let Inner {
            db,
            catalogue,
            tally,
            ..
        } = &*states.0;
        let id = parts.headers.get(ID).and_then(|id| id.to_str().ok());
        Shop::new(db, Mode::Memo, tally)
            .over(Some(catalogue))
            .named(id.unwrap_or_default().into())
    })
    .deadline(Duration::from_secs(5))
    .deadline_header("request-timeout")
    .configure(|builder, _| {
        builder
            .record(true)
            .record_input(price)
            .record_input(subscription)
    })
    .errors(status)
    .on_end(move |ctx, end| ends.over(ctx, end));

    Router::new()
        .route("/", get(home))
        .route("/product/{id}", get(product))
        .route("/orders", get(bought))
        // For these routes, and not for what is not found. No context for the next one either: it comes after the layer.
        .route_layer(contexts)
        .route("/trace/{request}", get(trace))
        .with_state(app.clone())
        .layer(from_fn_with_state(app.clone(), named))
}

/// By the shop's own error first; the rest is decided by its kind.
fn status(error: &TaskError) -> Option<StatusCode> {
    match error.downcast_ref()? {
        ShopError::NoSession => Some(StatusCode::UNAUTHORIZED),
        ShopError::NoSuch(..) => Some(StatusCode::NOT_FOUND),
        ShopError::Stopping => Some(StatusCode::SERVICE_UNAVAILABLE),
        ShopError::Database(cause) => {
            eprintln!("server: {error}: {cause}");
            None
        }
    }
}

/// Names each request, and says the name in the answer.
async fn named(State(app): State<App>, mut request: Request, next: Next) -> Response {
    let given = request.headers().get(ID).filter(|id| {
        let fits = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'-';
        id.len() <= 64 && id.as_bytes().iter().all(fits)
    });
    let id = given.cloned().unwrap_or_else(|| {
        let n = app.0.requests.fetch_add(1, Relaxed) + 1;
        HeaderValue::try_from(format!("r-{n}")).expect("letters and digits")
    });
    request.headers_mut().insert(ID, id.clone());
    let mut response = next.run(request).await;
    response.headers_mut().insert(ID, id);
    response
}

/// Who is signed in: the token of the cookie `session`, or that of `?user=7`, since this is an example.
struct Token(String);

impl<S: Sync> FromRequestParts<S> for Token {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        let cookies = parts
            .headers
            .get("cookie")
            .and_then(|value| value.to_str().ok());
        let token = cookies
            .and_then(|cookies| {
                cookies
                    .split("; ")
                    .find_map(|one| one.strip_prefix("session="))
            })
            .map(str::to_owned);
        let user = || {
            let query = parts.uri.query()?;
            let user = query.split('&').find_map(|one| one.strip_prefix("user="))?;
            let user = user
                .parse()
                .ok()
                .filter(|user| (1..=USERS).contains(user))?;
            Some(db::token(user))
        };
        Ok(Token(token.or_else(user).unwrap_or_default()))
    }
}

// --- pages -----------------------------------------------------------------------------------------

async fn home(
    State(app): State<App>,
    ctx: Ctx<Shop>,
    Token(token): Token,
) -> Result<Html<String>, TaskError> {
    let user_id = *ctx.run(session, token).await?;
    let (who, plan, list) = try_join!(
        ctx.run(user, user_id),
        ctx.run(subscription, user_id),
        ctx.run(orders, user_id)
    )?;
    let mut out = format!(
        "<!doctype html><meta charset=utf-8><meta name=viewport content='width=device-width'><title>shop</title>\
         <style>:root{{color-scheme:light dark}}body{{font:16px/1.5 system-ui;max-width:40em;margin:2em auto;padding:0 1em}}</style>\
         <h1>Hello, {}</h1><p>{plan:?}, {}. <a href='/orders?user={user_id}'>Your orders</a></p><ul>",
        escape(&who.name),
        escape(&who.country),
    );
    for order in list {
        let _ = write!(
            out,
            "<li>day {}: <a href='/product/{}?user={user_id}'>{}</a>",
            order.day,
            order.product,
            escape(&order.name)
        );
    }
    let _ = write!(
        out,
        "</ul><p><a href='/product/{}?user={user_id}'>Something new</a></p>",
        1 + user_id % PRODUCTS
    );
    out.push_str("<h2>What the last requests did</h2><ul>");
    for trace in app.0.traces.latest(10) {
        let status = trace
            .status
            .map_or("no answer".into(), |status| status.as_u16().to_string());
        let request = escape(&trace.request);
        let runs = trace.report.runs.len();
        let _ = write!(
            out,
            "<li><a href='/trace/{request}'>{request}</a>: {status}, {runs} runs"
        );
    }
    out.push_str("</ul>");
    Ok(Html(out))
}

async fn product(
    ctx: Ctx<Shop>,
    Path(id): Path<Id>,
    Token(token): Token,
) -> Result<Held<String>, TaskError> {
    ctx.run(page, (token, id)).held().await
}

/// What the user bought, and what it costs today: line by line, asked for while the answer is being sent.
async fn bought(ctx: Ctx<Shop>, Token(token): Token) -> Result<Body, TaskError> {
    let user_id = *ctx.run(session, token).await?;
    let list = ctx.run(orders, user_id).held().await?;
    let lines = stream::iter(0..list.len()).then(move |n| {
        let (ctx, list) = (ctx.clone(), list.clone());
        async move {
            let order = &list[n];
            let cents = ctx.run(price, (user_id, order.product)).await?;
            let (day, name) = (order.day, &order.name);
            Ok::<_, TaskError>(format!(
                "day {day:<4} {name:<44}{:>6}.{:02}\n",
                cents / 100,
                cents % 100
            ))
        }
    });
    Ok(Body::from_stream(lines))
}

/// What a request did. Where others can reach the server, this page is not for everybody.
async fn trace(
    State(app): State<App>,
    Path(request): Path<String>,
) -> Result<Html<String>, StatusCode> {
    let trace = app.0.traces.find(&request).ok_or(StatusCode::NOT_FOUND)?;
    Ok(Html(trace.report.to_html()))
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('\'', "&#39;")
}
