//! The server and its client: three requests, and one whose client goes away.

use std::convert::Infallible;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use http_body_util::{BodyExt, Empty, Full};
use hyper::body::{Bytes, Incoming};
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use watershed::{Ctx, TaskError, TaskErrorKind};

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// What all requests share.
struct App {
    queries: AtomicUsize,
    /// Gets a permit when the body of a slow page is dropped.
    dropped: Arc<Semaphore>,
    /// Gets one when it has started.
    started: Semaphore,
}

/// The state of a context: the app, and what the tasks need of the request.
struct Web {
    app: Arc<App>,
    user: u64,
}

#[derive(Debug)]
struct NoSuchUser;
impl std::error::Error for NoSuchUser {}
impl fmt::Display for NoSuchUser {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("no such user")
    }
}

async fn user(ctx: Ctx<Web>, id: u64) -> Result<String, NoSuchUser> {
    ctx.state().app.queries.fetch_add(1, Relaxed);
    match id {
        7 => Ok("Ada".to_owned()),
        _ => Err(NoSuchUser),
    }
}

async fn greeting(ctx: Ctx<Web>, _: ()) -> Result<String, TaskError> {
    let name = ctx.run(user, ctx.state().user).await?;
    Ok(format!("Hello, {name}!"))
}

async fn footer(ctx: Ctx<Web>, _: ()) -> Result<String, TaskError> {
    let name = ctx.run(user, ctx.state().user).await?;
    Ok(format!("Signed in as {name}."))
}

async fn page(ctx: Ctx<Web>, _: ()) -> Result<String, TaskError> {
    let (greeting, footer) = tokio::try_join!(ctx.run(greeting, ()), ctx.run(footer, ()))?;
    Ok(format!("{greeting} {footer}"))
}

/// Never done; it says when it is dropped.
async fn slow_page(ctx: Ctx<Web>, _: ()) -> Result<String, TaskError> {
    struct OnDrop(Arc<Semaphore>);
    impl Drop for OnDrop {
        fn drop(&mut self) {
            self.0.add_permits(1);
        }
    }
    let _on_drop = OnDrop(ctx.state().app.dropped.clone());
    ctx.state().app.started.add_permits(1);
    std::future::pending().await
}

/// The whole of the glue: a context for the request, one call, an answer.
async fn handle(app: Arc<App>, request: Request<Incoming>) -> Response<Full<Bytes>> {
    let user = request.headers().get("x-user");
    let user = user.and_then(|id| id.to_str().ok()?.parse().ok());
    let web = Web {
        app,
        user: user.unwrap_or(0),
    };
    let ctx = Ctx::builder(web).deadline(Duration::from_secs(5)).build();
    let page = match request.uri().path() {
        "/slow" => ctx.run(slow_page, ()).await,
        _ => ctx.run(page, ()).await,
    };
    let (status, body) = match page {
        Ok(page) => (StatusCode::OK, page.clone()),
        Err(error) => (status(&error), "Sorry.".to_owned()), // the error is for the log
    };
    let mut response = Response::new(Full::from(body));
    *response.status_mut() = status;
    response
    // Here the context ends, and with it whatever still runs in it. Where the client goes away, hyper drops this future, and so the context.
}

fn status(error: &TaskError) -> StatusCode {
    match error.kind() {
        _ if error.downcast_ref::<NoSuchUser>().is_some() => StatusCode::NOT_FOUND,
        TaskErrorKind::DeadlineExceeded => StatusCode::GATEWAY_TIMEOUT,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

async fn serve(listener: TcpListener, app: Arc<App>) {
    while let Ok((stream, _)) = listener.accept().await {
        let app = app.clone();
        // A tower service, so that layers may go around it.
        let service = tower::service_fn(move |request| {
            let app = app.clone();
            async move { Ok::<_, Infallible>(handle(app, request).await) }
        });
        tokio::spawn(
            hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), TowerToHyperService::new(service)),
        );
    }
}

/// One request on a connection of its own.
async fn get(to: &str, path: &str, user: &str) -> Result<(StatusCode, String), BoxError> {
    let stream = TokioIo::new(TcpStream::connect(to).await?);
    let (mut sender, connection) = hyper::client::conn::http1::handshake(stream).await?;
    let request = Request::get(path)
        .header("host", to)
        .header("x-user", user)
        .body(Empty::<Bytes>::new())?;
    let answer = async {
        let response = sender.send_request(request).await?;
        let status = response.status();
        let body = response.into_body().collect().await?.to_bytes();
        Ok((status, String::from_utf8(body.to_vec())?))
    };
    // Dropping this drops the connection as well: the client goes away.
    let connection = async {
        let _ = connection.await;
        std::future::pending().await
    };
    tokio::select! {
        answer = answer => answer,
        never = connection => never,
    }
}

pub(crate) async fn main() -> Result<(), BoxError> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let to = listener.local_addr()?.to_string();
    let app = Arc::new(App {
        queries: AtomicUsize::new(0),
        dropped: Arc::new(Semaphore::new(0)),
        started: Semaphore::new(0),
    });
    let server = tokio::spawn(serve(listener, app.clone()));

    let answer = get(&to, "/", "7").await?;
    println!("{answer:?}, {} query", app.queries.load(Relaxed));
    assert_eq!(answer.0, StatusCode::OK);
    assert_eq!(answer.1, "Hello, Ada! Signed in as Ada.");
    assert_eq!(app.queries.load(Relaxed), 1, "two tasks asked for the user");

    // Another request is another context.
    let (status, _) = get(&to, "/", "7").await?;
    assert_eq!((status, app.queries.load(Relaxed)), (StatusCode::OK, 2));

    // The error of a task two levels down is found, and nothing of it leaks.
    let answer = get(&to, "/", "8").await?;
    println!("{answer:?}");
    assert_eq!(answer, (StatusCode::NOT_FOUND, "Sorry.".to_owned()));

    // A client that goes away ends its request.
    tokio::select! {
        answer = get(&to, "/slow", "7") => return Err(format!("{answer:?}").into()),
        started = app.started.acquire() => started?.forget(),
    }
    let dropped = tokio::time::timeout(Duration::from_secs(10), app.dropped.acquire());
    dropped
        .await
        .map_err(|_| "the body was not dropped")??
        .forget();
    println!("the client went away, and the body of its page was dropped");
    server.abort();
    Ok(())
}
