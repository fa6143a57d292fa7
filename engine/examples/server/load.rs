//! A server of its own under more load than the machine can take, from clients of which a quarter hang up, at any moment; and what is left of it.
//!
//! Every client asks again as soon as it is answered, so there are always as many requests as the machine can serve, and some two
//! hundred that wait. Clients and server are in one process and share its cores: the figures are for comparison with themselves.

use std::collections::BTreeMap;
use std::error::Error;
use std::net::{Shutdown, SocketAddr};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use axum::body::Body;
use futures::future::join_all;
use http::{Request, Response};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use watershed::TaskError;

use crate::catalogue::listed;
use crate::db::{Db, Dice, PRODUCTS, USERS};
use crate::heap::live_bytes;
use crate::routes::App;
use crate::terminal::{bold, dim, say};
use crate::traces::KEPT;

type Fallible<T> = Result<T, Box<dyn Error + Send + Sync>>;

/// A request that takes longer hangs.
const HUNG: Duration = Duration::from_secs(30);

/// What may differ of the bytes when a server is gone: what the process keeps for later of its own accord (epochs, threads, standard output).
const SLACK: isize = 32 << 10;

/// What may differ of the bytes of a server at rest: lists that it goes on with are longer after more clients at once.
const SLACK_AT_REST: isize = 64 << 10;

/// The whole show; `true` if nothing was left and nothing hung.
pub(crate) fn show(db: &Path, seconds: u64, clients: usize) -> Result<bool, Box<dyn Error>> {
    let (short, long) = (Duration::from_millis(500), Duration::from_secs(seconds));
    // Whatever is made once in a process is made by the first server.
    round(db, short, short, clients)?;
    let before = live_bytes();
    let done = round(db, Duration::from_secs(1), long, clients)?;
    let left = live_bytes() - before - done.bytes();

    let Round { asked, .. } = &done;
    let answered: u64 = asked.statuses.values().sum();
    say!("{}", bold(&format!("{clients} clients for {seconds} s")));
    say!(
        "  answered         {answered}, {:.0} a second; p50 {:.1} ms, p99 {:.1} ms, the longest {:.1} ms",
        answered as f64 / done.took.as_secs_f64(),
        asked.percentile(0.50),
        asked.percentile(0.99),
        asked.percentile(1.0),
    );
    let statuses = asked
        .statuses
        .iter()
        .map(|(status, n)| format!("{n} x {status}"));
    say!(
        "  with             {}",
        statuses.collect::<Vec<_>>().join(", ")
    );
    say!(
        "  clients hung up  {} times; the server had no answer yet for {}, and was sending {}",
        asked.hung_up,
        done.unanswered,
        done.cut
    );
    say!(
        "  contexts         {} at once at most, {} left",
        done.most_contexts,
        done.contexts_left
    );
    say!(
        "  bytes            {} kB at most; at rest {} kB, {} more than before; {left} more when the server was gone",
        done.most_bytes / 1000,
        done.at_rest[1] / 1000,
        done.grown(),
    );
    say!(
        "{}",
        dim("  clients and server shared the cores of this machine")
    );

    let expected = |status: &u16| [200, 404, 504].contains(status);
    let checks = [
        (
            "every request was answered, or hung up by its client",
            asked.hung == 0 && asked.broken == 0,
        ),
        (
            "every answer was one that it may be",
            asked.statuses.keys().all(expected),
        ),
        (
            "there were answers, and requests past their deadline",
            asked.statuses.len() == 3,
        ),
        (
            "clients hung up while their request was served",
            done.unanswered > 0,
        ),
        (
            "what was answered was sent to the end",
            done.complete >= answered,
        ),
        ("no context is left", done.contexts_left == 0),
        (
            "what was under way when the server was told to stop was done in time",
            done.stopped_in_time,
        ),
        (
            "no run of the second tier had to be dropped",
            done.dropped_runs == 0,
        ),
        ("it kept as many reports as it may", done.reports == KEPT),
        (
            "a server at rest is as large as before",
            done.grown() <= SLACK_AT_REST,
        ),
        ("no bytes are left when it is gone", left.abs() <= SLACK),
    ];
    for (claim, holds) in checks {
        say!("  {}  {claim}", if holds { "ok    " } else { "FAILED" });
    }
    Ok(checks.iter().all(|(_, holds)| *holds))
}

/// What a server saw, from its start to its end.
struct Round {
    asked: Asked,
    took: Duration,
    complete: u64,
    cut: u64,
    unanswered: u64,
    most_contexts: usize,
    most_bytes: isize,
    contexts_left: usize,
    reports: usize,
    /// The bytes of the server before the load and after, with no request under way.
    at_rest: [isize; 2],
    stopped_in_time: bool,
    dropped_runs: usize,
}

impl Round {
    /// What this itself takes.
    fn bytes(&self) -> isize {
        self.asked.bytes()
    }

    fn grown(&self) -> isize {
        self.at_rest[1] - self.at_rest[0] - self.bytes()
    }
}

/// Starts a server, warms it, puts it under load and stops it.
fn round(
    db: &Path,
    warm: Duration,
    time: Duration,
    clients: usize,
) -> Result<Round, Box<dyn Error>> {
    let runtime = Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    let app = App::new(Db::open(db)?);
    let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0"))?;
    let address = listener.local_addr()?;
    let (stop, stopped) = watch::channel(false);
    let server = app.clone();
    let serving = runtime.spawn(async move { crate::serve(listener, &server, stopped).await });

    load(address, warm, clients)?;
    // By now the catalogue may have most of the products. Let it have all.
    runtime.block_on(async {
        for id in 1..=PRODUCTS {
            app.catalogue().run(listed, id).await?;
        }
        Ok::<_, TaskError>(())
    })?;
    let (before, _) = runtime.block_on(rest(&app));
    let ends = app.ends().counts();
    let most = runtime.spawn(watch_most(app.clone(), stop.subscribe()));
    let start = Instant::now();
    let asked = load(address, time, clients)?;
    let took = start.elapsed();
    let (after, reports) = runtime.block_on(rest(&app));
    let at_rest = [before, after];
    let contexts_left = app.live_contexts();

    let (stopped_in_time, dropped_runs, most) = runtime.block_on(async {
        stop.send_replace(true);
        let in_time = serving.await.expect("the server does not panic");
        let dropped = app.catalogue().shutdown(Duration::from_secs(5)).await;
        let most = most.await.expect("a look does not panic");
        (in_time, dropped.expect("there is a runtime").len(), most)
    });
    let [complete, cut, unanswered] = [0, 1, 2].map(|n| app.ends().counts()[n] - ends[n]);
    drop(app);
    end(runtime);
    Ok(Round {
        asked,
        took,
        complete,
        cut,
        unanswered,
        most_contexts: most.0,
        most_bytes: most.1,
        contexts_left,
        reports,
        at_rest,
        stopped_in_time,
        dropped_runs,
    })
}

/// All clients on a thread of their own.
fn load(address: SocketAddr, time: Duration, clients: usize) -> std::io::Result<Asked> {
    let load = thread::spawn(move || -> std::io::Result<Asked> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let until = Instant::now() + time;
        Ok(runtime.block_on(async {
            let clients = (0..clients).map(|n| client(n as u64, address, until));
            let all = join_all(clients.map(tokio::spawn)).await;
            let mut sum = Asked::default();
            for one in all {
                sum.add(one.expect("a client does not panic"));
            }
            sum
        }))
    });
    load.join().expect("a client does not panic")
}

/// The bytes when there is nothing under way any more (what is after ten seconds counts as left), without the reports; and how many of those there were.
async fn rest(app: &App) -> (isize, usize) {
    for _ in 0..200 {
        if app.live_contexts() == 0 {
            break;
        }
        sleep(Duration::from_millis(50)).await;
    }
    let reports = app.traces().clear();
    // Connections may go a little later than their last request.
    let mut last = live_bytes();
    let mut same = 0;
    while same < 4 {
        sleep(Duration::from_millis(50)).await;
        let now = live_bytes();
        same = if now == last { same + 1 } else { 0 };
        last = now;
    }
    (last, reports)
}

/// With all of its threads.
fn end(runtime: Runtime) {
    runtime.shutdown_timeout(Duration::from_secs(10));
}

/// The most contexts and bytes at once, as far as looks find them.
async fn watch_most(app: App, mut stop: watch::Receiver<bool>) -> (usize, isize) {
    let mut most = (0, 0);
    loop {
        most = (most.0.max(app.live_contexts()), most.1.max(live_bytes()));
        let stopping = stop.wait_for(|stop| *stop);
        if timeout(Duration::from_millis(20), stopping).await.is_ok() {
            return most;
        }
    }
}

// --- clients ---------------------------------------------------------------------------------------

/// What clients saw.
#[derive(Default)]
struct Asked {
    /// What answers took, in microseconds.
    micros: Vec<u32>,
    statuses: BTreeMap<u16, u64>,
    /// Requests that the client did not wait for.
    hung_up: u64,
    /// Requests that had no answer for too long.
    hung: u64,
    /// Requests that ended in an error.
    broken: u64,
}

impl Asked {
    fn add(&mut self, other: Asked) {
        self.micros.extend(other.micros);
        for (status, count) in other.statuses {
            *self.statuses.entry(status).or_default() += count;
        }
        self.hung_up += other.hung_up;
        self.hung += other.hung;
        self.broken += other.broken;
    }

    /// What it takes itself.
    fn bytes(&self) -> isize {
        (self.micros.capacity() * size_of::<u32>()) as isize
    }

    /// In milliseconds: what this part of the answers took at most (nearest rank).
    fn percentile(&self, part: f64) -> f64 {
        let mut sorted = self.micros.clone();
        sorted.sort_unstable();
        let rank = ((sorted.len() as f64 * part).ceil() as usize).max(1);
        f64::from(sorted.get(rank - 1).copied().unwrap_or_default()) / 1e3
    }
}

/// Asks until the time is up. One of four speaks HTTP/2, one of four requests is hung up on.
async fn client(n: u64, address: SocketAddr, until: Instant) -> Asked {
    let mut dice = Dice::new(1 + n);
    let mut asked = Asked::default();
    let mut kept = None;
    let mut last = Duration::from_millis(20);
    while Instant::now() < until {
        let connection = match kept.take() {
            Some(connection) => connection,
            None => match Connection::open(address, n.is_multiple_of(4)).await {
                Ok(connection) => connection,
                Err(_) => {
                    asked.broken += 1;
                    continue;
                }
            },
        };
        let mut connection = connection;
        let hangs_up = dice.pick(1..=4) == 1;
        let patience = if hangs_up {
            last.mul_f64(dice.pick(0..=200) as f64 / 100.0)
        } else {
            HUNG
        };
        let start = Instant::now();
        let answer = timeout(patience, connection.ask(request(&mut dice))).await;
        match answer {
            Ok(Ok(status)) => {
                last = start.elapsed();
                asked.micros.push(last.as_micros() as u32);
                *asked.statuses.entry(status).or_default() += 1;
                kept = Some(connection);
            }
            Ok(Err(_)) => asked.broken += 1,
            Err(_) => {
                connection.hang_up();
                *if hangs_up {
                    &mut asked.hung_up
                } else {
                    &mut asked.hung
                } += 1;
                // As one who comes again.
                sleep(Duration::from_millis(1)).await;
            }
        }
    }
    asked
}

fn request(dice: &mut Dice) -> Request<Body> {
    let user = dice.pick(1..=USERS);
    let uri = match dice.pick(1..=20) {
        1 => format!("http://shop/?user={user}"),
        2 => format!("http://shop/product/999999?user={user}"),
        3..=8 => format!("http://shop/orders?user={user}"),
        _ => format!(
            "http://shop/product/{}?user={user}",
            dice.pick(1..=PRODUCTS)
        ),
    };
    let request = Request::get(uri).header("host", "shop");
    let request = match dice.pick(1..=20) {
        1 => request.header("request-timeout", "1ms"),
        _ => request,
    };
    request.body(Body::empty()).expect("a request")
}

enum Sender {
    One(http1::SendRequest<Body>),
    Two(http2::SendRequest<Body>),
}

struct Connection {
    sender: Sender,
    socket: std::net::TcpStream,
}

impl Connection {
    async fn open(address: SocketAddr, two: bool) -> Fallible<Connection> {
        let stream = TcpStream::connect(address).await?.into_std()?;
        let socket = stream.try_clone()?;
        let io = TokioIo::new(TcpStream::from_std(stream)?);
        let sender = if two {
            let (sender, connection) = http2::handshake(TokioExecutor::new(), io).await?;
            tokio::spawn(connection);
            Sender::Two(sender)
        } else {
            let (sender, connection) = http1::handshake(io).await?;
            tokio::spawn(connection);
            Sender::One(sender)
        };
        Ok(Connection { sender, socket })
    }

    /// The status, when all of the answer has come.
    async fn ask(&mut self, request: Request<Body>) -> Fallible<u16> {
        let response: Response<Incoming> = match &mut self.sender {
            Sender::One(sender) => {
                sender.ready().await?;
                sender.send_request(request).await?
            }
            Sender::Two(sender) => {
                sender.ready().await?;
                sender.send_request(request).await?
            }
        };
        let status = response.status().as_u16();
        response.into_body().collect().await?;
        Ok(status)
    }

    fn hang_up(self) {
        let _ = self.socket.shutdown(Shutdown::Both);
    }
}
