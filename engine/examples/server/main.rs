//! The shop of `storefront` behind axum: a context for each request, a report of each at `/trace/{request-id}`.
//!
//! ```text
//! cargo run --release --example server --features axum
//! cargo run --release --example server --features axum -- --load 30
//! ```
//!
//! | file | what it holds |
//! |---|---|
//! | `main.rs` | the command line; how the server starts and stops |
//! | `routes.rs` | the layers and the handlers: what you would write |
//! | `traces.rs` | the reports of the last requests |
//! | `load.rs` | more clients than the machine can serve, some of which hang up; and what must be left of it: nothing |
//! | `heap.rs` | counts the bytes that are allocated |
//! | `../storefront` | the shop itself: tasks, catalogue, database |

#[path = "../storefront/catalogue.rs"]
mod catalogue;
#[path = "../storefront/db.rs"]
#[allow(dead_code)] // the storefront uses more of it
mod db;
#[path = "../storefront/faults.rs"]
#[allow(dead_code)] // the storefront uses more of it
mod faults;
mod heap;
mod load;
mod routes;
#[path = "../storefront/tasks.rs"]
#[allow(dead_code)] // the storefront uses more of it
mod tasks;
#[path = "../storefront/terminal.rs"]
#[allow(dead_code)] // the storefront uses more of it
mod terminal;
#[path = "../storefront/trace.rs"]
#[allow(dead_code)] // the storefront uses more of it
mod trace;
mod traces;

use std::error::Error;
use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::signal::ctrl_c;
use tokio::sync::watch;

use crate::db::{Db, Id};
use crate::routes::App;
use crate::terminal::say;

/// What the shop's page takes: a session's token and a product.
pub(crate) type Visit = (String, Id);

const HELP: &str = "\
The shop behind axum.

Usage: cargo run --release --example server --features axum -- [OPTIONS]

Options:
  --port N       where to listen on loopback [default: 3000; 0: any]
  --db PATH      the database file, made if it is not there [default: next to the program]
  --load N       do not serve; put a server of its own under load for N seconds, and see what is left of it
  --clients N    how many clients at once under load [default: 256]
  --help         this text

Ends with 0; with 1 if the load left something behind or something hung, 2 if it could not start.";

/// How long requests that are under way have when the server is told to stop.
const GRACE: Duration = Duration::from_secs(10);

fn main() -> ExitCode {
    let options = match Options::parse(std::env::args_os().skip(1)) {
        Ok(Some(options)) => options,
        Ok(None) => {
            say!("{HELP}");
            return ExitCode::SUCCESS;
        }
        Err(problem) => {
            eprintln!("server: {problem}\n\n{HELP}");
            return ExitCode::from(2);
        }
    };
    let done = match options.load {
        Some(seconds) => load::show(&options.db, seconds, options.clients),
        None => serve_until_told(&options).map(|()| true),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(problem) => {
            eprintln!("server: {problem}");
            ExitCode::from(2)
        }
    }
}

#[tokio::main]
async fn serve_until_told(options: &Options) -> Result<(), Box<dyn Error>> {
    let app = App::new(Db::open(&options.db)?);
    let listener = TcpListener::bind(("127.0.0.1", options.port)).await?;
    say!("database  {}", app.db().summary());
    say!("serving   http://{}/?user=7", listener.local_addr()?);
    let (stop, stopped) = watch::channel(false);
    let told = async move {
        told_to_stop().await;
        say!("stopping: requests under way have {} s", GRACE.as_secs());
        stop.send_replace(true);
    };
    let ((), in_time) = tokio::join!(told, serve(listener, &app, stopped));
    let left = app.catalogue().shutdown(Duration::from_secs(1)).await?;
    say!(
        "stopped{}; {} runs of the second tier were dropped",
        if in_time {
            ""
        } else {
            ": some requests were not done in time"
        },
        left.len()
    );
    Ok(())
}

/// Serves until `stop` says true, and then what is under way; `false` if that took too long.
pub(crate) async fn serve(
    listener: TcpListener,
    app: &App,
    mut stop: watch::Receiver<bool>,
) -> bool {
    let mut too_late = stop.clone();
    let stopping = async move {
        let _ = stop.wait_for(|stop| *stop).await;
    };
    let serving = axum::serve(listener, routes::routes(app)).with_graceful_shutdown(stopping);
    let limit = async move {
        let _ = too_late.wait_for(|stop| *stop).await;
        tokio::time::sleep(GRACE).await;
    };
    tokio::select! {
        served = serving.into_future() => {
            served.expect("axum::serve gives no error");
            true
        }
        () = limit => false,
    }
}

/// Ctrl-C, or what a service manager sends.
async fn told_to_stop() {
    #[cfg(unix)]
    let terminated = async {
        use tokio::signal::unix::{SignalKind, signal};
        match signal(SignalKind::terminate()) {
            Ok(mut signal) => _ = signal.recv().await,
            Err(_) => std::future::pending().await,
        }
    };
    #[cfg(not(unix))]
    let terminated = std::future::pending::<()>();
    tokio::select! {
        _ = ctrl_c() => {}
        () = terminated => {}
    }
}

struct Options {
    port: u16,
    db: PathBuf,
    load: Option<u64>,
    clients: usize,
}

impl Options {
    /// `None` if the user asked for help.
    fn parse(mut args: impl Iterator<Item = OsString>) -> Result<Option<Options>, String> {
        let mut options = Options {
            port: 3000,
            // In `target/`: `cargo clean` takes it along.
            db: std::env::current_exe().map_or_else(
                |_| std::env::temp_dir().join("storefront.db"),
                |program| program.with_file_name("storefront.db"),
            ),
            load: None,
            clients: 256,
        };
        while let Some(arg) = args.next() {
            let mut value = || {
                args.next()
                    .ok_or(format!("{} needs a value", arg.display()))
            };
            match arg.to_str() {
                Some("--help" | "-h") => return Ok(None),
                Some("--db") => options.db = value()?.into(),
                Some("--port") => options.port = number(&arg, &value()?, 0..=65_535)? as u16,
                Some("--load") => options.load = Some(number(&arg, &value()?, 1..=3_600)?),
                Some("--clients") => {
                    options.clients = number(&arg, &value()?, 1..=10_000)? as usize;
                }
                _ => return Err(format!("unknown option {}", arg.display())),
            }
        }
        Ok(Some(options))
    }
}

fn number(
    name: &OsString,
    value: &OsString,
    range: std::ops::RangeInclusive<u64>,
) -> Result<u64, String> {
    let parsed = value.to_str().and_then(|text| text.parse().ok());
    let found = parsed.filter(|number| range.contains(number));
    found.ok_or_else(|| {
        let (name, value) = (name.display(), value.display());
        format!(
            "{name} takes {} to {}, not {value}",
            range.start(),
            range.end()
        )
    })
}
