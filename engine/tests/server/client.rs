//! A server on loopback, and a client of one connection that can hang up.

use std::net::{Shutdown, SocketAddr};

use axum::Router;
use axum::body::Body;
use http::{Request, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::support::{multi_thread, watched};

/// The versions of HTTP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Version {
    One,
    Two,
}

/// Runs a test over both versions, each on a runtime of its own.
pub(crate) fn over_both<F, Fut>(test: F)
where
    F: Fn(Version) -> Fut + Copy + Send + 'static,
    Fut: Future<Output = ()>,
{
    for version in [Version::One, Version::Two] {
        watched(&format!("{version:?}"), move || {
            multi_thread().block_on(test(version));
        });
    }
}

/// A server; it goes with its runtime.
#[derive(Clone, Copy)]
pub(crate) struct Server(SocketAddr);

impl Server {
    pub(crate) async fn of(routes: Router) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move { axum::serve(listener, routes).await });
        Server(address)
    }

    /// One that stops when told to, and a task that ends when it has.
    pub(crate) async fn that_stops(
        routes: Router,
    ) -> (Server, oneshot::Sender<()>, JoinHandle<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopping) = oneshot::channel();
        let serving = tokio::spawn(async move {
            let stopping = async { drop(stopping.await) };
            let serving = axum::serve(listener, routes).with_graceful_shutdown(stopping);
            serving.await.unwrap();
        });
        (Server(address), stop, serving)
    }

    /// Whether it takes connections.
    pub(crate) async fn is_open(self) -> bool {
        TcpStream::connect(self.0).await.is_ok()
    }

    pub(crate) async fn connect(self, version: Version) -> Client {
        let stream = TcpStream::connect(self.0).await.unwrap();
        let stream = stream.into_std().unwrap();
        let socket = stream.try_clone().unwrap();
        let io = TokioIo::new(TcpStream::from_std(stream).unwrap());
        let sender = match version {
            Version::One => {
                let (sender, connection) = http1::handshake(io).await.unwrap();
                tokio::spawn(async move { drop(connection.await) });
                Sender::One(sender)
            }
            Version::Two => {
                let executor = TokioExecutor::new();
                let (sender, connection) = http2::handshake(executor, io).await.unwrap();
                tokio::spawn(async move { drop(connection.await) });
                Sender::Two(sender)
            }
        };
        Client { sender, socket }
    }

    /// Status and text of one page, over a connection of its own.
    pub(crate) async fn get(self, version: Version, path: &str) -> (StatusCode, String) {
        read(self.connect(version).await.get(path).await.unwrap()).await
    }
}

type Answer = futures::future::BoxFuture<'static, hyper::Result<Response<Incoming>>>;

enum Sender {
    One(http1::SendRequest<Body>),
    Two(http2::SendRequest<Body>),
}

/// One connection.
pub(crate) struct Client {
    sender: Sender,
    socket: std::net::TcpStream,
}

impl Client {
    /// Sends a request when the connection is ready for it; the response is in the future that this gives.
    pub(crate) async fn start(&mut self, request: Request<Body>) -> Answer {
        match &mut self.sender {
            Sender::One(sender) => {
                sender.ready().await.unwrap();
                Box::pin(sender.send_request(request))
            }
            Sender::Two(sender) => {
                sender.ready().await.unwrap();
                Box::pin(sender.send_request(request))
            }
        }
    }

    pub(crate) async fn send(
        &mut self,
        request: Request<Body>,
    ) -> hyper::Result<Response<Incoming>> {
        self.start(request).await.await
    }

    pub(crate) async fn get(&mut self, path: &str) -> hyper::Result<Response<Incoming>> {
        self.send(get(path)).await
    }

    /// [`get`](Self::get), on a task of its own.
    pub(crate) async fn spawn(
        &mut self,
        path: &str,
    ) -> JoinHandle<hyper::Result<Response<Incoming>>> {
        tokio::spawn(self.start(get(path)).await)
    }

    /// Closes the connection, whatever is under way.
    pub(crate) fn hang_up(self) {
        self.socket.shutdown(Shutdown::Both).unwrap();
    }
}

pub(crate) fn get(path: &str) -> Request<Body> {
    Request::get(format!("http://server{path}"))
        .body(Body::empty())
        .unwrap()
}

/// Status and text of a response.
pub(crate) async fn read(response: Response<Incoming>) -> (StatusCode, String) {
    let status = response.status();
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    (status, String::from_utf8(bytes.to_vec()).unwrap())
}

/// The next piece of a body.
pub(crate) async fn piece(body: &mut Incoming) -> String {
    let frame = body.frame().await.unwrap().unwrap();
    String::from_utf8(frame.into_data().unwrap().to_vec()).unwrap()
}
