//! The layer around a service that is neither axum's nor hyper's, and without tokio.

use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures::executor::block_on;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use tower::{Layer, Service, ServiceExt, service_fn};
use watershed::http::{ContextLayer, End};
use watershed::{Ctx, TaskError};

async fn double(ctx: Ctx<u64>, n: u64) -> Result<u64, TaskError> {
    Ok(*ctx.state() * n)
}

type Ends = Arc<Mutex<Vec<(Option<u16>, bool)>>>;

fn layer(ends: &Ends) -> ContextLayer<u64> {
    let ends = ends.clone();
    let note = move |_: &Ctx<u64>, end: &End| {
        let status = end.status.map(|status| status.as_u16());
        ends.lock().unwrap().push((status, end.complete));
    };
    ContextLayer::new(|parts| parts.uri.path().len() as u64).on_end(note)
}

#[test]
fn any_tower_service_finds_the_context_in_the_extensions_of_the_request() {
    let ends = Ends::default();
    let service = layer(&ends).layer(service_fn(|request: Request<&'static str>| async move {
        let ctx: &Ctx<u64> = request.extensions().get().unwrap();
        let n = ctx.run(double, 10).await.unwrap();
        let text = format!("{n} {}", request.body());
        Ok::<_, Infallible>(Response::new(Full::<Bytes>::from(text)))
    }));
    block_on(async {
        let request = Request::get("/abc")
            .body("and a body of its own kind")
            .unwrap();
        let response = service.oneshot(request).await.unwrap();
        assert!(ends.lock().unwrap().is_empty());
        let body = response.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(body, "40 and a body of its own kind");
    });
    assert_eq!(*ends.lock().unwrap(), [(Some(200), true)]);
}

#[test]
fn a_service_that_fails_and_a_response_that_nobody_reads_end_the_context() {
    let ends = Ends::default();
    let fails = layer(&ends).layer(service_fn(|request: Request<()>| async move {
        if request.uri().path() == "/" {
            return Err("no");
        }
        Ok(Response::new(Full::<Bytes>::from("text")))
    }));
    let ask = |path| {
        let request = Request::get(path).body(()).unwrap();
        block_on(fails.clone().oneshot(request))
    };
    assert_eq!(ask("/").unwrap_err(), "no");
    drop(ask("/unread").unwrap());
    // Dropped before its first poll.
    drop(fails.clone().call(Request::get("/never").body(()).unwrap()));
    let expected = [(None, false), (Some(200), false), (None, false)];
    assert_eq!(*ends.lock().unwrap(), expected);
}
