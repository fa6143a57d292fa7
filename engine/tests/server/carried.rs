//! Task-locals that a layer sets around the handler: what sees them, and what does not.
//!
//! | work | sees |
//! |---|---|
//! | a run that the handler started and drives | the request's |
//! | a run that the handler joined, from where it drives it on | the request's |
//! | a run in the body of the response | none: the body is polled outside of the layer that set them |
//! | a run that was spawned, or that `parallel` put on another thread | none |
//! | a run of the second tier | none, whoever asked for it |

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::middleware::{Next, from_fn};
use axum::routing::get;
use futures::stream;
use watershed::http::ContextLayer;
use watershed::{Ctx, Shared, Task, TaskError};

use crate::client::{Server, over_both};
use crate::support::{Gate, until};

tokio::task_local! {
    static REQUEST: String;
}

fn request() -> String {
    let found = REQUEST.try_with(|request| request.clone());
    found.unwrap_or_else(|_| "none".into())
}

type Seen = Arc<Mutex<BTreeMap<&'static str, Vec<String>>>>;

struct Mine {
    seen: Seen,
    gate: Gate,
    shared: Shared<()>,
}

impl AsRef<Shared<()>> for Mine {
    fn as_ref(&self) -> &Shared<()> {
        &self.shared
    }
}

async fn looks(ctx: Ctx<Mine>, place: &'static str) -> Result<(), TaskError> {
    let note = || {
        let mut seen = ctx.state().seen.lock().unwrap();
        seen.entry(place).or_default().push(request());
    };
    note();
    if place == "joined" {
        ctx.state().gate.passed().await;
        note();
    }
    Ok(())
}

async fn looks_globally(_: Ctx<()>, _: ()) -> Result<String, TaskError> {
    Ok(request())
}

async fn handler(ctx: Ctx<Mine>) -> Result<Body, TaskError> {
    ctx.run(looks, "run").await?;
    ctx.spawn(looks, "spawned")?;
    until(|| ctx.peek(looks, "spawned").is_some()).await;
    ctx.parallel((looks.with("elsewhere"), looks.with("here")))
        .await?;

    // Somebody without the local starts it, and is gone before it ends.
    let starter = ctx.clone();
    let starter = tokio::spawn(async move { starter.run(looks, "joined").await.map(|_| ()) });
    until(|| ctx.state().seen.lock().unwrap().contains_key("joined")).await;
    let mut joined = ctx.run(looks, "joined");
    assert!(futures::poll!(&mut joined).is_pending());
    starter.abort();
    assert!(starter.await.unwrap_err().is_cancelled());
    ctx.state().gate.open();
    joined.await?;

    let global = ctx.run_shared(looks_globally, ()).await?.clone();
    let note = |place, what| {
        ctx.state().seen.lock().unwrap().insert(place, vec![what]);
    };
    note("shared", global);
    note("handler", request());
    Ok(Body::from_stream(stream::once(async move {
        ctx.run(looks, "streamed").await.map(|()| "done")
    })))
}

#[test]
fn task_locals_reach_what_the_handler_drives_and_nothing_else() {
    async fn sets(incoming: Request, next: Next) -> axum::response::Response {
        REQUEST
            .scope(incoming.uri().path().to_owned(), next.run(incoming))
            .await
    }
    over_both(|version| async move {
        let seen = Seen::default();
        let (notes, shared) = (seen.clone(), Shared::new(()));
        let layer = ContextLayer::new(move |_| Mine {
            seen: notes.clone(),
            gate: Gate::new(),
            shared: shared.clone(),
        });
        let routes = Router::new().route("/mine", get(handler)).layer(layer);
        let server = Server::of(routes.layer(from_fn(sets))).await;
        assert_eq!(server.get(version, "/mine").await.1, "done");

        let seen = seen.lock().unwrap();
        assert_eq!(seen["handler"], ["/mine"]);
        assert_eq!(seen["run"], ["/mine"]);
        assert_eq!(seen["here"], ["/mine"]);
        assert_eq!(seen["joined"], ["none", "/mine"]);
        assert_eq!(seen["spawned"], ["none"]);
        assert_eq!(seen["shared"], ["none"]);
        assert_eq!(seen["streamed"], ["none"]);
    });
}
