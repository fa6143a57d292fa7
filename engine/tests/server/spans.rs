//! Spans on a real server below `TraceLayer`: what is carried into spawned, joined and shared work, and what is over when the request is.
//!
//! | work | its span is below |
//! |---|---|
//! | a run of the handler, of the body of the response, spawned or by `parallel`, on whatever thread | the span of the request, or of the run that started it |
//! | a call that joined | its own span follows from the run's |
//! | a run of the second tier | nothing: it belongs to no request |

use axum::Router;
use axum::body::Body;
use axum::routing::get;
use futures::stream;
use http::Request;
use tower_http::trace::TraceLayer;
use tracing::dispatcher::with_default;
use tracing::info_span;
use watershed::{Ctx, Task, TaskError};

use crate::app::{App, Event, NoSuch, Req, fails, finds_nothing, gated, global, never};
use crate::capture::{Capture, Seen, runtime};
use crate::client::{Server, Version, piece};
use crate::support::{until, watched};

fn over_both<F, Fut>(test: F)
where
    F: Fn(Version, Capture) -> Fut + Copy + Send + 'static,
    Fut: Future<Output = ()>,
{
    for version in [Version::One, Version::Two] {
        watched(&format!("{version:?}"), move || {
            let (capture, dispatch) = Capture::new();
            with_default(&dispatch, || {
                runtime(&dispatch, 4).block_on(test(version, capture));
            });
        });
    }
}

/// The routes in the context's layer, in the layer of a request's span.
fn traced(app: &App, routes: Router) -> Router {
    let span = |request: &Request<Body>| info_span!("request", path = request.uri().path());
    routes
        .layer(app.layer())
        .layer(TraceLayer::new_for_http().make_span_with(span))
}

async fn inner(_: Ctx<Req>, n: u64) -> Result<u64, TaskError> {
    Ok(n)
}
async fn outer(ctx: Ctx<Req>, n: u64) -> Result<u64, TaskError> {
    Ok(*ctx.run(inner, n).await?)
}
async fn spawned(_: Ctx<Req>, n: u64) -> Result<u64, TaskError> {
    Ok(n)
}
async fn side(_: Ctx<Req>, n: u64) -> Result<u64, TaskError> {
    Ok(n)
}
async fn in_the_body(_: Ctx<Req>, n: u64) -> Result<String, TaskError> {
    Ok(n.to_string())
}

/// The span of the request with this path.
fn request(seen: &Seen, path: &str) -> usize {
    let is = |span: &crate::capture::Span| {
        span.name == "request"
            && span
                .fields
                .get("path")
                .is_some_and(|found| found.contains(path))
    };
    let at = seen.spans.iter().position(is);
    at.unwrap_or_else(|| panic!("no request {path} in {seen:#?}"))
}

#[test]
fn runs_of_a_request_are_below_its_span_wherever_they_run() {
    over_both(|version, capture| async move {
        let app = App::new();
        let handler = |ctx: Ctx<Req>| async move {
            ctx.run(outer, 1).await?;
            ctx.spawn(spawned, 1)?;
            until(|| ctx.peek(spawned, &1).is_some()).await;
            ctx.parallel((side.with(1), side.with(2))).await?;
            let body = stream::once(async move { ctx.run(in_the_body, 1).await.cloned() });
            Ok::<_, TaskError>(Body::from_stream(body))
        };
        let routes = Router::new().route("/all", get(handler));
        let server = Server::of(traced(&app, routes)).await;
        assert_eq!(server.get(version, "/all").await.1, "1");
        app.until_freed().await;

        let seen = capture.seen();
        let request = request(&seen, "/all");
        let (outer, span) = seen.run("outer");
        assert_eq!(span.parent, Some(request));
        assert_eq!(seen.run("inner").1.parent, Some(outer));
        for name in ["spawned", "in_the_body"] {
            assert_eq!(seen.run(name).1.parent, Some(request), "{name}");
        }
        let sides = seen.runs("side");
        assert_eq!(sides.len(), 2);
        assert!(sides.iter().all(|(_, span)| span.parent == Some(request)));
    });
}

#[test]
fn a_call_that_joins_follows_from_the_run() {
    over_both(|version, capture| async move {
        async fn joins(ctx: Ctx<Req>, _: ()) -> Result<u64, TaskError> {
            Ok(*ctx.run(gated, 1).await?)
        }
        let app = App::new();
        let handler = |ctx: Ctx<Req>| async move {
            let first = ctx.run(gated, 1);
            let opens = async {
                until(|| !ctx.waits().runs.is_empty()).await;
                until(|| ctx.waits().runs.len() == 2).await;
                ctx.state().app.gate.open();
            };
            let (first, second, ()) = tokio::join!(first, ctx.run(joins, ()), opens);
            Ok::<_, TaskError>((first? + second?).to_string())
        };
        let routes = Router::new().route("/", get(handler));
        let server = Server::of(traced(&app, routes)).await;
        assert_eq!(server.get(version, "/").await.1, "4");
        let seen = capture.seen();
        let (run, span) = seen.run("gated");
        assert_eq!(span.parent, Some(request(&seen, "/")));
        let (joins, span) = seen.run("joins");
        assert_eq!(span.follows, [run]);
        let told = seen.events.iter().find(|event| event.span == Some(joins));
        assert!(
            told.unwrap().fields["message"].contains("joined"),
            "{told:?}"
        );
    });
}

#[test]
fn a_run_of_the_second_tier_is_below_no_request_and_holds_no_ones_span() {
    over_both(|version, capture| async move {
        let app = App::new();
        let handler = |ctx: Ctx<Req>| async move {
            let value = ctx.run_shared(global, 5).await?;
            Ok::<_, TaskError>(value.to_string())
        };
        let routes = Router::new()
            .route("/starts", get(handler))
            .route("/joins", get(handler));
        let server = Server::of(traced(&app, routes)).await;
        let mut starts = server.connect(version).await;
        let gone = starts.spawn("/starts").await;
        app.expect([Event::Started("global")]).await;
        starts.hang_up();
        assert!(gone.await.unwrap().is_err());
        app.expect([Event::Over(None, false), Event::Freed]).await;

        // The run goes on, and the request it came from is over: a span is open as long as there is one below it.
        until(|| {
            let seen = capture.seen();
            seen.spans[request(&seen, "/starts")].closed
        })
        .await;
        let seen = capture.seen();
        let own = |seen: &Seen| {
            let runs = seen.runs("global");
            let mut open = runs.iter().filter(|(_, span)| span.parent.is_none());
            let (at, _) = open.next().unwrap_or_else(|| panic!("{seen:#?}"));
            assert!(
                open.next().is_none(),
                "one run, one span of the tier: {seen:#?}"
            );
            *at
        };
        let run = own(&seen);
        assert!(!seen.spans[run].closed);
        let entered = seen.spans[request(&seen, "/starts")].entered;

        app.gate.open();
        assert_eq!(server.get(version, "/joins").await.1, "15");
        let seen = capture.seen();
        assert_eq!(own(&seen), run, "it was not started again");
        let over = &seen.spans[request(&seen, "/starts")];
        assert_eq!((over.entered, over.exited), (entered, entered));
    });
}

#[test]
fn no_run_is_under_the_span_of_a_request_that_is_over() {
    over_both(|version, capture| async move {
        let app = App::new();
        let leaves = |ctx: Ctx<Req>| async move {
            ctx.spawn(never, ())?;
            let mine = ctx.clone();
            tokio::spawn(async move { mine.run(gated, 1).await.map(|_| ()) });
            until(|| ctx.waits().runs.len() == 2).await;
            let body = stream::once(async move { ctx.run(in_the_body, 1).await.cloned() });
            Ok::<_, TaskError>(Body::from_stream(body))
        };
        let streams = |ctx: Ctx<Req>| async move {
            let tasks = async move { ctx.run(gated, 2).await.map(|n| n.to_string()) };
            Body::from_stream(futures::StreamExt::chain(
                stream::iter([Ok("first".to_owned())]),
                stream::once(tasks),
            ))
        };
        let routes = Router::new()
            .route("/leaves", get(leaves))
            .route("/streams", get(streams));
        let server = Server::of(traced(&app, routes)).await;
        // One that is answered, and one whose client goes while the body is sent.
        assert_eq!(server.get(version, "/leaves").await.1, "1");
        app.until_freed().await;
        let mut client = server.connect(version).await;
        let mut body = client.get("/streams").await.unwrap().into_body();
        assert_eq!(piece(&mut body).await, "first");
        app.expect([Event::Started("gated")]).await;
        client.hang_up();
        app.until_freed().await;

        let over = |seen: &Seen| {
            let spans = ["/leaves", "/streams"].map(|path| &seen.spans[request(seen, path)]);
            spans.iter().all(|span| span.closed)
        };
        until(|| over(&capture.seen())).await;
        let before = capture.seen();
        let runs = before
            .spans
            .iter()
            .filter(|span| span.target == "watershed");
        let runs: Vec<_> = runs.collect();
        assert_eq!(runs.len(), 4);
        for span in &runs {
            assert!(span.closed && span.entered == span.exited, "{span:?}");
        }
        let cancelled = runs.iter().filter(|span| span.fields["outcome"] != "done");
        assert_eq!(cancelled.count(), 3);
        // What they waited for comes, and nobody hears of it.
        app.gate.open();
        assert_eq!(server.get(version, "/nothing").await.0, 404);
        assert_eq!(
            app.rest()
                .await
                .iter()
                .filter(|event| matches!(event, Event::Started(_)))
                .count(),
            0
        );
    });
}

#[test]
fn what_becomes_a_500_is_an_event_and_what_does_not_is_none() {
    over_both(|version, capture| async move {
        let app = App::new();
        let layer = app.layer().errors(|error| {
            error.downcast_ref::<NoSuch>()?;
            Some(http::StatusCode::NOT_FOUND)
        });
        let finds = |ctx: Ctx<Req>| async move {
            ctx.run(finds_nothing, 7).await?;
            Ok::<_, TaskError>(())
        };
        let breaks = |ctx: Ctx<Req>| async move {
            ctx.run(fails, ()).await?;
            Ok::<_, TaskError>(())
        };
        let routes = Router::new()
            .route("/none", get(finds))
            .route("/fails", get(breaks));
        let routes = routes
            .layer(layer)
            .route("/late", get(|_: Ctx<Req>| async {}));
        let server = Server::of(routes).await;
        for path in ["/none", "/fails", "/late"] {
            server.get(version, path).await;
        }
        let seen = capture.seen();
        let ours = seen
            .events
            .iter()
            .filter(|event| event.target == "watershed");
        let errors: Vec<_> = ours.map(|event| &event.fields["error"]).collect();
        assert_eq!(errors.len(), 2, "{seen:#?}");
        assert_eq!(
            errors[0],
            "fails failed: secret: the password of the database"
        );
        assert!(errors[1].contains("there is no `ContextLayer` around it"));
    });
}
