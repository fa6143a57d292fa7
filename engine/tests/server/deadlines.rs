//! Deadlines of the layer and of the client. The clock is the real one here, and every run that has a deadline never ends by itself.

use std::time::Duration;

use axum::Router;
use axum::routing::get;
use watershed::{Ctx, TaskError};

use crate::app::{App, Event, Req, double, global, never};
use crate::client::{Server, Version, over_both, read};

async fn ask(app: &App, server: Server, version: Version, value: &str) -> u16 {
    let mut request = crate::client::get("/");
    request
        .headers_mut()
        .insert("request-timeout", value.parse().unwrap());
    let response = server.connect(version).await.send(request).await.unwrap();
    let (status, text) = read(response).await;
    assert_eq!(text, "");
    app.until_freed().await;
    status.as_u16()
}

fn waits() -> Router {
    Router::new().route(
        "/",
        get(|ctx: Ctx<Req>| async move {
            ctx.run(never, ()).await?;
            Ok::<_, TaskError>(())
        }),
    )
}

const LONG: Duration = Duration::from_secs(3_600);

#[test]
fn a_run_that_waits_past_the_layers_deadline_is_a_504() {
    over_both(|version| async move {
        let app = App::new();
        let layer = app.layer().deadline(Duration::from_millis(20));
        let server = Server::of(waits().layer(layer)).await;
        let (status, text) = server.get(version, "/").await;
        assert_eq!((status.as_u16(), &*text), (504, ""));
        app.expect([
            Event::Started("never"),
            Event::Gone("never"),
            Event::Over(Some(status), true),
            Event::Freed,
        ])
        .await;
    });
}

#[test]
fn a_client_can_ask_for_less_time_and_not_for_more() {
    over_both(|version| async move {
        let app = App::new();
        let patient = app
            .layer()
            .deadline(LONG)
            .deadline_header("request-timeout");
        let server = Server::of(waits().layer(patient)).await;
        assert_eq!(ask(&app, server, version, "10ms").await, 504);
        assert_eq!(ask(&app, server, version, "0s").await, 504);

        let hasty = app
            .layer()
            .deadline(Duration::from_millis(10))
            .deadline_header("request-timeout");
        let server = Server::of(waits().layer(hasty)).await;
        assert_eq!(ask(&app, server, version, "999999999s").await, 504);
        // Nonsense is no header.
        assert_eq!(ask(&app, server, version, "for ever").await, 504);

        // Without one of the layer's own the header is the deadline.
        let open = app.layer().deadline_header("request-timeout");
        let server = Server::of(waits().layer(open)).await;
        assert_eq!(ask(&app, server, version, "500us").await, 504);
    });
}

#[test]
fn a_header_that_the_layer_does_not_look_at_and_nonsense_are_no_deadline() {
    over_both(|version| async move {
        let one = |ctx: Ctx<Req>| async move {
            assert!(!ctx.is_cancelled());
            ctx.run(double, 1).await.map(|n| n.to_string())
        };
        for (value, listens) in [
            ("0s", false),
            ("0 seconds", true),
            ("-1s", true),
            ("", true),
        ] {
            let app = App::new();
            let mut layer = app.layer();
            if listens {
                layer = layer.deadline_header("request-timeout");
            }
            let server = Server::of(Router::new().route("/", get(one)).layer(layer)).await;
            let mut request = crate::client::get("/");
            let value = value.parse().unwrap();
            request.headers_mut().insert("request-timeout", value);
            let response = server.connect(version).await.send(request).await.unwrap();
            assert_eq!(read(response).await.1, "2");
        }
    });
}

#[test]
fn a_response_is_not_hurried_when_nothing_waits_in_its_context() {
    over_both(|version| async move {
        let app = App::new();
        let layer = app.layer().deadline(Duration::ZERO);
        let plain = |ctx: Ctx<Req>| async move { ctx.is_cancelled().to_string() };
        let server = Server::of(Router::new().route("/", get(plain)).layer(layer)).await;
        let (status, text) = server.get(version, "/").await;
        assert_eq!((status.as_u16(), &*text), (200, "true"));
    });
}

#[test]
fn a_run_of_the_second_tier_outlives_the_deadline_of_who_waits_for_it() {
    over_both(|version| async move {
        let app = App::new();
        let layer = app.layer().deadline(Duration::from_millis(20));
        let shares = |ctx: Ctx<Req>| async move {
            let value = ctx.run_shared(global, 5).await?;
            Ok::<_, TaskError>(value.to_string())
        };
        let server = Server::of(Router::new().route("/", get(shares)).layer(layer)).await;
        let (status, text) = server.get(version, "/").await;
        assert_eq!((status.as_u16(), &*text), (504, ""));
        app.expect([
            Event::Started("global"),
            Event::Over(Some(status), true),
            Event::Freed,
        ])
        .await;
        assert_eq!(app.shared.stats().running, 1);
        app.gate.open();
        app.expect([Event::Gone("global")]).await;
        let value = app.shared.run(global, 5).await.unwrap();
        assert_eq!((*value, app.shared.stats().started), (15, 1));
    });
}
