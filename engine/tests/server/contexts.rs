//! Which request has which context.

use axum::extract::{Request, State};
use axum::middleware::{Next, from_fn, map_request};
use axum::response::Response;
use axum::routing::get;
use axum::{Extension, Router};
use futures::future::join_all;
use watershed::http::{ContextLayer, MissingContext};
use watershed::{Ctx, TaskError};

use crate::app::{App, Event, Req, double, who};
use crate::client::{Server, Version, over_both, read};

#[test]
fn every_extractor_of_a_request_gives_its_one_context() {
    over_both(|version| async move {
        let app = App::new();
        let twice = |first: Ctx<Req>, second: Ctx<Req>| async move {
            let one = first.run(double, 4).await?;
            let other = second.run(double, 4).await?;
            assert!(std::ptr::eq(one, other));
            Ok::<_, TaskError>(one.to_string())
        };
        let server = Server::of(Router::new().route("/", get(twice)).layer(app.layer())).await;
        let mut client = server.connect(version).await;
        for _ in 0..2 {
            // The connection is the same, the context another.
            let (status, text) = read(client.get("/").await.unwrap()).await;
            assert_eq!((status.as_u16(), &*text), (200, "8"));
            app.expect([
                Event::Started("double"),
                Event::Gone("double"),
                Event::Over(Some(status), true),
                Event::Freed,
            ])
            .await;
        }
    });
}

#[test]
fn requests_in_flight_together_share_nothing() {
    over_both(|version| async move {
        let app = App::new();
        let name = |ctx: Ctx<Req>| async move { ctx.run(who, ()).held().await };
        let server = Server::of(Router::new().route("/", get(name)).layer(app.layer())).await;
        let mut clients = Vec::new();
        // Twenty on one connection where that can be.
        for _ in 0..if version == Version::One { 20 } else { 1 } {
            clients.push(server.connect(version).await);
        }
        let mut calls = Vec::new();
        for n in 0..20 {
            let mut request = crate::client::get("/");
            request.headers_mut().insert("name", n.into());
            let at = n as usize % clients.len();
            calls.push(tokio::spawn(clients[at].start(request).await));
        }
        // All of them are inside of their one run, and none has ended.
        app.expect([const { Event::Started("who") }; 20]).await;
        app.gate.open();
        for (n, response) in join_all(calls).await.into_iter().enumerate() {
            let (_, text) = read(response.unwrap().unwrap()).await;
            assert_eq!(text, n.to_string());
        }
    });
}

#[test]
fn the_state_is_made_of_the_head_of_the_request_and_what_the_layer_has() {
    struct Mine(String);
    over_both(|version| async move {
        let motto = "ora".to_owned();
        let layer = ContextLayer::new(move |parts| {
            let user: &&str = parts.extensions.get().unwrap();
            let agent = parts.headers["agent"].to_str().unwrap();
            Mine(format!(
                "{} {} {agent} {user} {motto}",
                parts.method,
                parts.uri.path()
            ))
        });
        let say = |State(app): State<u64>, ctx: Ctx<Mine>| async move {
            format!("{} {app}", ctx.state().0)
        };
        // The extension is that of a layer further out, added later.
        let user = map_request(|mut request: Request| async {
            request.extensions_mut().insert("Ada");
            request
        });
        let routes = Router::new()
            .route("/a/b", get(say))
            .layer(layer)
            .layer(user);
        let server = Server::of(routes.with_state(7)).await;
        let mut request = crate::client::get("/a/b");
        request
            .headers_mut()
            .insert("agent", "cat".parse().unwrap());
        let response = server.connect(version).await.send(request).await.unwrap();
        assert_eq!(read(response).await.1, "GET /a/b cat Ada ora 7");
    });
}

/// What a layer outside sees of a refusal, in the response.
async fn tell(Extension(app): Extension<App>, request: Request, next: Next) -> Response {
    let response = next.run(request).await;
    if let Some(missing) = response.extensions().get::<MissingContext>() {
        app.tell(Event::Said(missing.to_string()));
    }
    response
}

#[test]
fn a_handler_without_its_context_is_a_500_that_says_nothing_and_is_explained_in_the_response() {
    struct Wrong;
    over_both(|version| async move {
        let app = App::new();
        let wrong = |_: Ctx<Wrong>| async { "never" };
        let right = |_: Ctx<Req>| async { "never" };
        let routes = Router::new()
            .route("/wrong", get(wrong))
            .layer(app.layer())
            .route("/late", get(right))
            .layer(from_fn(tell))
            .layer(Extension(app.clone()));
        let server = Server::of(routes).await;
        let mut client = server.connect(version).await;

        let (status, text) = read(client.get("/wrong").await.unwrap()).await;
        assert_eq!((status.as_u16(), &*text), (500, ""));
        let mut said = Vec::new();
        while said.is_empty() {
            said.extend(match app.next().await {
                Event::Said(said) => Some(said),
                _ => None,
            });
        }
        assert!(said[0].contains("Wrong>`, but the innermost"), "{said:?}");
        assert!(
            said[0].contains("app::Req>`: take that, or add"),
            "{said:?}"
        );

        app.rest().await;
        let (status, text) = read(client.get("/late").await.unwrap()).await;
        assert_eq!((status.as_u16(), &*text), (500, ""));
        let Event::Said(said) = app.next().await else {
            panic!()
        };
        assert!(
            said.contains("there is no `ContextLayer` around it"),
            "{said}"
        );
        assert!(said.contains("routes before it"), "{said}");
    });
}

#[test]
fn of_two_layers_of_one_type_the_inner_one_holds_and_those_of_two_types_both() {
    over_both(|version| async move {
        let both = |text: Ctx<&'static str>, number: Ctx<u64>| async move {
            format!("{} {}", text.state(), number.state())
        };
        let routes = Router::new()
            .route("/", get(both))
            .layer(ContextLayer::new(|_| "inner"))
            .layer(ContextLayer::new(|_| 7_u64))
            .layer(ContextLayer::new(|_| "outer"));
        assert_eq!(
            Server::of(routes).await.get(version, "/").await.1,
            "inner 7"
        );
    });
}

#[test]
fn middleware_inside_of_the_layer_shares_the_context_with_the_handler() {
    async fn greets(ctx: Ctx<Req>, request: Request, next: Next) -> Response {
        ctx.run(double, 1).await.unwrap();
        next.run(request).await
    }
    over_both(|version| async move {
        let app = App::new();
        let one = |ctx: Ctx<Req>| async move { ctx.run(double, 1).await.unwrap().to_string() };
        let routes = Router::new().route("/", get(one)).layer(from_fn(greets));
        let server = Server::of(routes.layer(app.layer())).await;
        assert_eq!(server.get(version, "/").await.1, "2");
        app.expect([Event::Started("double"), Event::Gone("double")])
            .await;
        assert!(matches!(app.next().await, Event::Over(..)));
    });
}

#[test]
fn contexts_are_configured_by_request() {
    over_both(|version| async move {
        let app = App::new();
        let runs = app.clone();
        let layer = app
            .layer()
            .configure(|builder, parts| builder.record(parts.uri.query() == Some("trace")))
            .configure(|builder, _| builder.replace(double, |_, _| async { Ok(1) }))
            .on_end(move |ctx, _| runs.tell(Event::Said(ctx.report().runs.len().to_string())));
        let one = |ctx: Ctx<Req>| async move { ctx.run(double, 1).await.unwrap().to_string() };
        let server = Server::of(Router::new().route("/", get(one)).layer(layer)).await;
        for (path, runs) in [("/", "0"), ("/?trace", "1")] {
            assert_eq!(server.get(version, path).await.1, "1", "the stand-in's");
            assert_eq!(app.next().await, Event::Said(runs.into()));
            assert_eq!(app.next().await, Event::Freed);
        }
    });
}
