//! The server: one route, one way to remember.

use std::io::Read;
use std::path::Path;

use axum::Router;
use axum::extract::{Path as Segments, State};
use axum::http::StatusCode;
use axum::routing::get;
use watershed::Ctx;

use crate::client::Fallible;
use crate::db::{Db, Id};
use crate::tasks::page;
use crate::trace::{Caches, Me, Shop, Way};

#[derive(Clone)]
struct App {
    db: Db,
    way: Way,
    caches: Caches,
}

/// Serves on a free port of the loopback, says which on standard output, and ends when standard input does.
pub(crate) fn serve(way: Way, db: &Path) -> Fallible<()> {
    let app = App {
        db: Db::open(db)?,
        way,
        caches: Caches::default(),
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await?;
        println!("{}", listener.local_addr()?);
        let router = Router::new()
            .route("/page/{token}/{product}", get(show))
            .with_state(app);
        let parent_is_gone = tokio::task::spawn_blocking(|| {
            let _ = std::io::stdin().read(&mut [0]);
        });
        tokio::select! {
            ended = axum::serve(listener, router) => ended?,
            _ = parent_is_gone => {}
        }
        Ok(())
    })
}

/// One request: a context, the page, and what was remembered is gone.
async fn show(
    State(app): State<App>,
    Segments((token, product)): Segments<(String, Id)>,
) -> Result<String, (StatusCode, String)> {
    let ctx = Ctx::new(Shop::new(&app.db, app.way, &app.caches));
    match Me::handler(&ctx).ask(page, (token, product)).await {
        Ok(page) => Ok(page.clone()),
        Err(error) => Err((StatusCode::INTERNAL_SERVER_ERROR, error.to_string())),
    }
}
