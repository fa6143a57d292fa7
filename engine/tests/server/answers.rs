//! What comes of errors, panics and values.

use axum::Router;
use axum::body::Bytes;
use axum::middleware::map_response;
use axum::response::{Html, IntoResponse, Response};
use axum::routing::get;
use http::StatusCode;
use watershed::{Ctx, TaskError};

use crate::app::{App, Event, NoSuch, Req, double, fails, finds_nothing, panics, who};
use crate::client::{Server, get as request, over_both, read};

/// Failing routes, their layers aside.
fn failing() -> Router {
    Router::new()
        .route(
            "/none",
            get(|ctx: Ctx<Req>| async move {
                ctx.run(finds_nothing, 7).await?;
                Ok::<_, TaskError>(())
            }),
        )
        .route(
            "/fails",
            get(|ctx: Ctx<Req>| async move {
                ctx.run(fails, ()).await?;
                Ok::<_, TaskError>(())
            }),
        )
        .route(
            "/panics",
            get(|ctx: Ctx<Req>| async move {
                ctx.run(panics, ()).await?;
                Ok::<_, TaskError>(())
            }),
        )
        .route(
            "/cancelled",
            get(|ctx: Ctx<Req>| async move {
                ctx.cancel();
                ctx.run(double, 1).await?;
                Ok::<_, TaskError>(())
            }),
        )
        .route(
            "/own",
            get(|ctx: Ctx<Req>| async move {
                ctx.run(finds_nothing, 7).await?;
                Ok::<_, Own>(())
            }),
        )
        .route(
            "/own/fails",
            get(|ctx: Ctx<Req>| async move {
                ctx.run(fails, ()).await?;
                Ok::<_, Own>(())
            }),
        )
}

/// An error type of the server's.
struct Own(TaskError);

impl From<TaskError> for Own {
    fn from(error: TaskError) -> Self {
        Own(error)
    }
}

impl IntoResponse for Own {
    fn into_response(self) -> Response {
        self.0.respond(|error| {
            let NoSuch(id) = error.downcast_ref()?;
            Some((StatusCode::GONE, format!("{id} is gone")))
        })
    }
}

/// Statuses of the routes, over one connection: an error ends no connection.
async fn statuses(
    app: &App,
    routes: Router,
    version: crate::client::Version,
    expected: &[(&str, u16, &str)],
) {
    let server = Server::of(routes).await;
    let mut client = server.connect(version).await;
    for &(path, status, body) in expected {
        let response = client.get(path).await.unwrap();
        assert!(!format!("{:?}", response.headers()).contains("secret"));
        let (found, text) = read(response).await;
        assert_eq!((found.as_u16(), &*text), (status, body), "{path}");
        // Of errors nothing is left over either.
        app.until_freed().await;
    }
}

#[test]
fn an_error_is_the_status_of_its_kind_and_not_a_word_more() {
    over_both(|version| async move {
        let app = App::new();
        let expected = [
            ("/none", 500, ""),
            ("/fails", 500, ""),
            ("/panics", 500, ""),
            ("/cancelled", 503, ""),
            ("/own", 410, "7 is gone"),
            ("/own/fails", 500, ""),
        ];
        statuses(&app, failing().layer(app.layer()), version, &expected).await;
    });
}

#[test]
fn what_a_task_failed_with_decides_first_and_what_a_handler_decided_stays() {
    over_both(|version| async move {
        let app = App::new();
        let errors = |error: &TaskError| {
            error
                .downcast_ref::<NoSuch>()
                .map(|_| StatusCode::NOT_FOUND)
        };
        let expected = [
            ("/none", 404, ""),
            ("/fails", 500, ""),
            ("/panics", 500, ""),
            ("/cancelled", 503, ""),
            ("/own", 410, "7 is gone"),
            ("/own/fails", 500, ""),
        ];
        let layer = app.layer().errors(errors);
        statuses(&app, failing().layer(layer), version, &expected).await;
    });
}

#[test]
fn the_inner_layer_of_two_decides_of_an_error() {
    over_both(|version| async move {
        let app = App::new();
        let inner = app.layer().errors(|_| Some(StatusCode::IM_A_TEAPOT));
        let outer = app.layer().errors(|_| Some(StatusCode::BAD_GATEWAY));
        let server = Server::of(failing().layer(inner).layer(outer)).await;
        assert_eq!(server.get(version, "/fails").await.0, 418);
    });
}

#[test]
fn layers_further_out_find_the_error_in_the_response() {
    over_both(|version| async move {
        let app = App::new();
        let logs = app.clone();
        let log = map_response(move |response: Response| {
            let error = response.extensions().get::<TaskError>();
            logs.tell(Event::Said(error.unwrap().to_string()));
            async { response }
        });
        let server = Server::of(failing().layer(app.layer()).layer(log)).await;
        for path in ["/fails", "/own/fails"] {
            server.get(version, path).await;
            loop {
                if let Event::Said(said) = app.next().await {
                    assert_eq!(said, "fails failed: secret: the password of the database");
                    break;
                }
            }
        }
    });
}

#[test]
fn a_value_is_a_page_without_a_copy() {
    over_both(|version| async move {
        let app = App::new();
        app.gate.open();
        let text = |ctx: Ctx<Req>| async move { ctx.run(who, ()).held().await };
        let html =
            |ctx: Ctx<Req>| async move { Ok::<_, TaskError>(Html(ctx.run(who, ()).held().await?)) };
        let same = |ctx: Ctx<Req>| async move {
            let held = ctx.run(who, ()).held().await.unwrap();
            let at = held.as_ptr();
            assert_eq!(Bytes::from(held).as_ptr(), at);
        };
        let routes = Router::new()
            .route("/text", get(text))
            .route("/html", get(html))
            .route("/same", get(same));
        let server = Server::of(routes.layer(app.layer())).await;
        let mut client = server.connect(version).await;
        for (path, kind) in [
            ("/text", "text/plain; charset=utf-8"),
            ("/html", "text/html; charset=utf-8"),
        ] {
            let mut request = request(path);
            request.headers_mut().insert("name", "Ada".parse().unwrap());
            let response = client.send(request).await.unwrap();
            assert_eq!(response.headers()["content-type"], kind);
            assert_eq!(read(response).await.1, "Ada");
        }
        assert_eq!(read(client.get("/same").await.unwrap()).await.0, 200);
    });
}
