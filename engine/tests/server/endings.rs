//! When a context closes, and what becomes of what runs in it.

use axum::Router;
use axum::body::Body;
use axum::routing::get;
use futures::StreamExt;
use futures::stream;
use http::{Request, StatusCode};
use tokio::sync::oneshot;
use watershed::{Ctx, TaskError, TaskErrorKind};

use crate::app::{App, Event, Req, double, gated, global, never};
use crate::client::{Server, Version, over_both, piece, read};
use crate::support::until;

const OK: Option<StatusCode> = Some(StatusCode::OK);

fn waits() -> Router {
    Router::new().route(
        "/",
        get(|ctx: Ctx<Req>| async move { ctx.run(never, ()).held().await }),
    )
}

/// R21: the request's context closes, and its bodies are dropped.
#[test]
fn a_client_that_goes_while_a_task_runs_takes_the_task_along() {
    over_both(|version| async move {
        let app = App::new();
        let server = Server::of(waits().layer(app.layer())).await;
        let mut client = server.connect(version).await;
        let response = client.spawn("/").await;
        app.expect([Event::Started("never")]).await;
        client.hang_up();
        assert!(response.await.unwrap().is_err());
        app.expect([Event::Gone("never"), Event::Over(None, false), Event::Freed])
            .await;
    });
}

/// R21: what was started in the second tier goes on, and others find it.
#[test]
fn a_client_that_goes_leaves_the_runs_of_the_second_tier_running() {
    over_both(|version| async move {
        let app = App::new();
        let shares = |ctx: Ctx<Req>| async move {
            let value = ctx.run_shared(global, 5).await?;
            Ok::<_, TaskError>(value.to_string())
        };
        let server = Server::of(Router::new().route("/", get(shares)).layer(app.layer())).await;
        let mut client = server.connect(version).await;
        let response = client.spawn("/").await;
        app.expect([Event::Started("global")]).await;
        client.hang_up();
        assert!(response.await.unwrap().is_err());
        app.expect([Event::Over(None, false), Event::Freed]).await;
        assert_eq!(app.shared.stats().running, 1);
        app.gate.open();
        app.expect([Event::Gone("global")]).await;
        let (_, text) = server.get(version, "/").await;
        assert_eq!((&*text, app.shared.stats().started), ("15", 1));
    });
}

#[test]
fn one_of_two_streams_of_a_connection_that_is_reset_ends_its_own_context_only() {
    over_both(|version| async move {
        if version == Version::One {
            return;
        }
        let app = App::new();
        let waits = |ctx: Ctx<Req>| async move {
            let n = ctx.run(gated, 4).await?;
            Ok::<_, TaskError>(n.to_string())
        };
        let server = Server::of(Router::new().route("/", get(waits)).layer(app.layer())).await;
        let mut client = server.connect(version).await;
        let stays = client.spawn("/").await;
        app.expect([Event::Started("gated")]).await;
        let goes = client.spawn("/").await;
        app.expect([Event::Started("gated")]).await;
        goes.abort();
        app.expect([Event::Gone("gated"), Event::Over(None, false), Event::Freed])
            .await;
        app.gate.open();
        let (_, text) = read(stays.await.unwrap().unwrap()).await;
        assert_eq!(text, "8");
        app.expect([Event::Gone("gated"), Event::Over(OK, true), Event::Freed])
            .await;
    });
}

/// A body that says so, and then gives what the gated task does, for ever if it is let.
fn streamed() -> Router {
    Router::new().route(
        "/{pieces}",
        get(
            |ctx: Ctx<Req>, axum::extract::Path(pieces): axum::extract::Path<u64>| async move {
                Body::from_stream(stream::iter(0..pieces).then(move |n| {
                    let ctx = ctx.clone();
                    async move {
                        if n == 0 {
                            return Ok("first ".to_owned());
                        }
                        ctx.run(gated, n).await.map(|n| format!("{n} "))
                    }
                }))
            },
        ),
    )
}

#[test]
fn a_body_that_is_streamed_runs_tasks_when_the_handler_has_returned() {
    over_both(|version| async move {
        let app = App::new();
        let server = Server::of(streamed().layer(app.layer())).await;
        let response = server.connect(version).await.get("/3").await.unwrap();
        let mut body = response.into_body();
        assert_eq!(piece(&mut body).await, "first ");
        app.expect([Event::Started("gated")]).await;
        assert_eq!(app.rest().await, []);
        app.gate.open();
        assert_eq!(piece(&mut body).await, "2 ");
        assert_eq!(piece(&mut body).await, "4 ");
        app.expect([
            Event::Gone("gated"),
            Event::Started("gated"),
            Event::Gone("gated"),
            Event::Over(OK, true),
            Event::Freed,
        ])
        .await;
    });
}

#[test]
fn a_client_that_goes_while_a_body_is_streamed_takes_its_tasks_along() {
    over_both(|version| async move {
        let app = App::new();
        let server = Server::of(streamed().layer(app.layer())).await;
        let mut client = server.connect(version).await;
        let mut body = client.get("/3").await.unwrap().into_body();
        assert_eq!(piece(&mut body).await, "first ");
        app.expect([Event::Started("gated")]).await;
        client.hang_up();
        app.expect([Event::Gone("gated"), Event::Over(OK, false), Event::Freed])
            .await;
    });
}

#[test]
fn a_server_that_stops_lets_contexts_end_with_their_responses() {
    over_both(|version| async move {
        let app = App::new();
        let waits = |ctx: Ctx<Req>| async move {
            let n = ctx.run(gated, 4).await?;
            Ok::<_, TaskError>(n.to_string())
        };
        let routes = streamed().route("/waits", get(waits)).layer(app.layer());
        let (server, stop, serving) = Server::that_stops(routes).await;
        // One has no answer yet, one is in the middle of its body.
        let mut first = server.connect(version).await;
        let handler = first.spawn("/waits").await;
        app.expect([Event::Started("gated")]).await;
        let mut second = server.connect(version).await;
        let mut body = second.get("/2").await.unwrap().into_body();
        assert_eq!(piece(&mut body).await, "first ");
        app.expect([Event::Started("gated")]).await;

        stop.send(()).unwrap();
        // It has heard of it when it takes no one else.
        while server.is_open().await {}
        assert!(!serving.is_finished());
        assert_eq!(app.rest().await, []);
        app.gate.open();
        assert_eq!(read(handler.await.unwrap().unwrap()).await.1, "8");
        assert_eq!(piece(&mut body).await, "2 ");
        serving.await.unwrap();
        let events = app.rest().await;
        let over = events
            .iter()
            .filter(|event| **event == Event::Over(OK, true));
        assert_eq!(over.count(), 2, "{events:?}");
    });
}

#[test]
fn a_handler_that_panics_ends_its_context_and_the_server_goes_on() {
    over_both(|version| async move {
        let app = App::new();
        let panics = |ctx: Ctx<Req>| async move {
            ctx.spawn(never, ()).unwrap();
            ctx.state().app.gate.passed().await;
            if ctx.peek(never, &()).is_none() {
                panic!("as it must");
            }
        };
        let routes = Router::new().route("/panics", get(panics)).route(
            "/",
            get(|ctx: Ctx<Req>| async move { ctx.state().name.clone() }),
        );
        let server = Server::of(routes.layer(app.layer())).await;
        let mut client = server.connect(version).await;
        let response = client.spawn("/panics").await;
        app.expect([Event::Started("never")]).await;
        app.gate.open();
        assert!(response.await.unwrap().is_err());
        let events = app.until_freed().await;
        for event in [Event::Over(None, false), Event::Gone("never")] {
            assert!(events.contains(&event), "{events:?}");
        }
        assert_eq!(server.get(version, "/").await.1, "nobody");
    });
}

#[test]
fn what_is_not_done_when_the_response_is_sent_is_dropped_whoever_holds_the_context() {
    over_both(|version| async move {
        let app = App::new();
        let leaves = |ctx: Ctx<Req>| async move {
            ctx.spawn(never, ()).unwrap();
            let mine = ctx.clone();
            tokio::spawn(async move {
                let error = mine.run(gated, 1).await.unwrap_err();
                assert_eq!(error.kind(), TaskErrorKind::Cancelled);
                mine.state().app.tell(Event::Said(error.to_string()));
            });
            until(|| ctx.waits().runs.len() == 2).await;
        };
        let server = Server::of(Router::new().route("/", get(leaves)).layer(app.layer())).await;
        assert_eq!(server.get(version, "/").await.0, 200);
        // A body that is being polled goes when that poll returns.
        let events = app.until_freed().await;
        for event in [
            Event::Over(OK, true),
            Event::Gone("never"),
            Event::Gone("gated"),
        ] {
            assert!(events.contains(&event), "{events:?}");
        }
        let said = events.iter().find_map(|event| match event {
            Event::Said(said) => Some(said),
            _ => None,
        });
        let said = said.unwrap();
        assert!(said.contains("its request is over"), "{said}");
    });
}

#[test]
fn a_context_that_lingers_is_open_as_long_as_somebody_has_it() {
    over_both(|version| async move {
        let app = App::new();
        let ends = app.clone();
        let layer = app.layer().linger(true).on_end(move |ctx, end| {
            assert!(!ctx.is_cancelled());
            ends.over(end);
        });
        let leaves = |ctx: Ctx<Req>| async move {
            let (started, starts) = oneshot::channel();
            tokio::spawn(async move {
                let run = ctx.run(gated, 1);
                started.send(()).unwrap();
                let n = *run.await.unwrap();
                ctx.state().app.tell(Event::Said(n.to_string()));
            });
            starts.await.unwrap();
        };
        let server = Server::of(Router::new().route("/", get(leaves)).layer(layer)).await;
        assert_eq!(server.get(version, "/").await.0, 200);
        let mut first = [app.next().await, app.next().await];
        first.sort_by_key(|event| *event != Event::Started("gated"));
        assert_eq!(first, [Event::Started("gated"), Event::Over(OK, true)]);
        app.gate.open();
        app.expect([Event::Gone("gated"), Event::Said("2".into()), Event::Freed])
            .await;
    });
}

#[test]
fn a_head_and_an_empty_response_are_complete() {
    over_both(|version| async move {
        let app = App::new();
        let routes = Router::new()
            .route(
                "/",
                get(|ctx: Ctx<Req>| async move { ctx.state().name.clone() }),
            )
            .route(
                "/empty",
                get(|_: Ctx<Req>| async { StatusCode::NO_CONTENT }),
            );
        let server = Server::of(routes.layer(app.layer())).await;
        let mut client = server.connect(version).await;
        let head = Request::head("http://server/").body(Body::empty()).unwrap();
        assert_eq!(read(client.send(head).await.unwrap()).await.1, "");
        app.expect([Event::Over(OK, true), Event::Freed]).await;
        read(client.get("/empty").await.unwrap()).await;
        let none = Some(StatusCode::NO_CONTENT);
        app.expect([Event::Over(none, true), Event::Freed]).await;
    });
}

#[test]
fn a_panic_in_on_end_ends_there() {
    over_both(|version| async move {
        let app = App::new();
        let layer = app.layer().on_end(|_, _| panic!("as it must"));
        let one = |ctx: Ctx<Req>| async move { ctx.run(double, 1).await.unwrap().to_string() };
        let routes = Router::new().route("/", get(one)).merge(waits_at("/waits"));
        let server = Server::of(routes.layer(layer)).await;
        let mut client = server.connect(version).await;
        for _ in 0..2 {
            assert_eq!(read(client.get("/").await.unwrap()).await.1, "2");
        }
        // Also where the handler is dropped, or panics itself: a panic in a drop then would be the end.
        let response = client.spawn("/waits").await;
        while app.next().await != Event::Started("never") {}
        client.hang_up();
        assert!(response.await.unwrap().is_err());
        app.until_freed().await;
        let panics = server.connect(version).await.get("/panics").await;
        assert!(panics.is_err());
        app.until_freed().await;
        assert_eq!(server.get(version, "/").await.1, "2");
    });
}

fn waits_at(path: &str) -> Router {
    Router::new()
        .route(
            path,
            get(|ctx: Ctx<Req>| async move { ctx.run(never, ()).held().await }),
        )
        .route(
            "/panics",
            get(|ctx: Ctx<Req>| async move {
                // With a context, so that one is dropped while this unwinds.
                assert!(ctx.is_cancelled(), "as it must");
            }),
        )
}
