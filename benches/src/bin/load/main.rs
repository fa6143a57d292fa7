//! Latency under load: the storefront's page (`engine/examples/storefront`, the same tasks over the same SQLite file) behind axum,
//! with four ways to remember what a request has loaded already.
//!
//! ```text
//! cargo run --release -p watershed-benches --bin load -- [--smoke] [--json FILE]
//! ```
//!
//! Each way is a server process of its own on the loopback, this process is the client. They take turns, so that a drift of the machine
//! meets all of them. In each turn first sixteen connections ask as fast as they are answered (throughput), then requests are sent
//! at a fixed rate, the same for all, and their latency counts from when they *should* have been sent: a server that stalls is
//! charged for those that wait. All is bounded in time, and the servers end with this process.
//!
//! | file | what it holds |
//! |---|---|
//! | `server.rs` | the server |
//! | `client.rs` | connections, percentiles |
//! | `trace.rs` | the four ways; it stands where the example has its own `trace.rs`, so that its tasks ask through it |

#[cfg(loom)]
fn main() {}

#[cfg(not(loom))]
#[allow(dead_code)] // the pages name its tasks; no way here opens it
#[path = "../../../../engine/examples/storefront/catalogue.rs"]
mod catalogue;
#[cfg(not(loom))]
mod client;
#[cfg(not(loom))]
#[allow(dead_code)] // the example uses more of it
#[path = "../../../../engine/examples/storefront/db.rs"]
mod db;
#[cfg(not(loom))]
mod server;
#[cfg(not(loom))]
#[allow(dead_code)] // as above
#[path = "../../../../engine/examples/storefront/tasks.rs"]
mod tasks;
#[cfg(not(loom))]
mod trace;

#[cfg(not(loom))]
pub(crate) use parent::Visit;

#[cfg(not(loom))]
fn main() -> std::process::ExitCode {
    match parent::run(std::env::args().skip(1).collect()) {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(problem) => {
            eprintln!("load: {problem}");
            std::process::ExitCode::from(2)
        }
    }
}

#[cfg(not(loom))]
mod parent {
    use std::error::Error;
    use std::fs;
    use std::io::{BufRead, BufReader};
    use std::net::SocketAddr;
    use std::path::{Path, PathBuf};
    use std::process::{Child, Command, Stdio};
    use std::time::Duration;

    use serde_json::json;
    use watershed_benches::report::{grouped, rustc};

    use crate::client::{Latencies, Load, fetch};
    use crate::db::{self, Dice, Id, PRODUCTS, USERS};
    use crate::trace::Way;

    /// What a browser sends: its session's token and the product it wants to see.
    pub(crate) type Visit = (String, Id);

    type Fallible<T> = Result<T, Box<dyn Error>>;

    /// How long.
    struct Effort {
        rounds: usize,
        /// As fast as it goes.
        full: Duration,
        /// At the fixed rate.
        paced: Duration,
    }

    const CONNECTIONS: usize = 16;
    /// The fixed rate, as a part of what the slowest server can do.
    const RATE: f64 = 0.5;

    pub(crate) fn run(args: Vec<String>) -> Fallible<()> {
        let mut effort = Effort {
            rounds: 5,
            full: Duration::from_secs(2),
            paced: Duration::from_secs(4),
        };
        let mut json = None;
        let mut args = args.into_iter();
        while let Some(arg) = args.next() {
            match &*arg {
                "--smoke" => {
                    effort = Effort {
                        rounds: 1,
                        full: Duration::from_millis(200),
                        paced: Duration::from_millis(200),
                    }
                }
                "--json" => json = Some(PathBuf::from(args.next().ok_or("--json needs a value")?)),
                // How the servers are started, below.
                "--serve" => {
                    let way = args.next().and_then(|way| Way::named(&way));
                    let db = args.next().map(PathBuf::from);
                    let (way, db) = way.zip(db).ok_or("--serve needs a way and a database")?;
                    return crate::server::serve(way, &db);
                }
                _ => {
                    return Err(
                        format!("unknown option {arg}; there are --smoke and --json FILE").into(),
                    );
                }
            }
        }

        let path = database();
        let mut servers = Way::ALL
            .map(|way| Server::start(way, &path))
            .into_iter()
            .collect::<Fallible<Vec<_>>>()?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let rows = runtime.block_on(measure(&mut servers, &effort))?;

        print!("{}", table(&rows));
        if let Some(file) = json {
            let report = json!({ "rustc": rustc(), "connections": CONNECTIONS, "rows": rows.iter().map(Row::to_json).collect::<Vec<_>>() });
            if let Some(dir) = file.parent() {
                fs::create_dir_all(dir)?;
            }
            fs::write(file, serde_json::to_string_pretty(&report)? + "\n")?;
        }
        Ok(())
    }

    async fn measure(servers: &mut [Server], effort: &Effort) -> Fallible<Vec<Row>> {
        let visits = visits(2_000);
        // The same pages from all of them; it warms them up as well.
        for visit in &visits[..50] {
            let first = fetch(servers[0].address, visit).await?;
            for server in &servers[1..] {
                let page = fetch(server.address, visit).await?;
                if page != first {
                    return Err(format!("{} serves another page", server.way.name()).into());
                }
            }
        }
        let mut rate = f64::INFINITY;
        for server in &*servers {
            let load = Load::full(server.address, &visits, CONNECTIONS, effort.full / 2).await?;
            rate = rate.min(load.per_second() * RATE);
        }
        for server in &mut *servers {
            server.cpu_before = cpu(server.child.id())?;
        }
        for round in 1..=effort.rounds {
            for server in &mut *servers {
                let full = Load::full(server.address, &visits, CONNECTIONS, effort.full).await?;
                let paced =
                    Load::paced(server.address, &visits, CONNECTIONS, effort.paced, rate).await?;
                eprintln!(
                    "[{round}/{}] {}: {:.0} a second; at {rate:.0} a second p99 {:.2} ms",
                    effort.rounds,
                    server.way.name(),
                    full.per_second(),
                    paced.latencies.at(0.99).as_secs_f64() * 1e3,
                );
                server.requests += full.latencies.count() + paced.latencies.count();
                server.throughputs.push(full.per_second());
                server.paced.extend(paced.latencies);
            }
        }
        servers.iter_mut().map(|server| server.row(rate)).collect()
    }

    /// The same list of visits on every machine.
    fn visits(count: usize) -> Vec<Visit> {
        let mut dice = Dice::new(7);
        (0..count)
            .map(|_| (db::token(dice.pick(1..=USERS)), dice.pick(1..=PRODUCTS)))
            .collect()
    }

    /// Next to the program, in `target/`.
    fn database() -> PathBuf {
        match std::env::current_exe() {
            Ok(program) => program.with_file_name("storefront.db"),
            Err(_) => std::env::temp_dir().join("storefront.db"),
        }
    }

    /// A server process. It ends when its standard input does.
    struct Server {
        way: Way,
        child: Child,
        address: SocketAddr,
        requests: usize,
        throughputs: Vec<f64>,
        paced: Latencies,
        cpu_before: Duration,
    }

    impl Server {
        fn start(way: Way, path: &Path) -> Fallible<Self> {
            let mut child = Command::new(std::env::current_exe()?)
                .args(["--serve", way.name()])
                .arg(path)
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()?;
            let mut line = String::new();
            let stdout = child.stdout.take().ok_or("the server has no output")?;
            BufReader::new(stdout).read_line(&mut line)?;
            let address = line
                .trim()
                .parse()
                .map_err(|_| format!("the server said {line:?} and no address"))?;
            Ok(Self {
                way,
                child,
                address,
                requests: 0,
                throughputs: Vec::new(),
                paced: Latencies::default(),
                cpu_before: Duration::ZERO,
            })
        }

        fn row(&mut self, rate: f64) -> Fallible<Row> {
            let busy = cpu(self.child.id())? - self.cpu_before;
            self.throughputs.sort_by(f64::total_cmp);
            Ok(Row {
                way: self.way.name(),
                per_second: self.throughputs[self.throughputs.len() / 2],
                rate,
                p50: self.paced.at(0.5),
                p99: self.paced.at(0.99),
                p999: self.paced.at(0.999),
                cpu: busy / self.requests.max(1) as u32,
                peak_kib: peak(self.child.id())?,
                requests: self.requests,
            })
        }
    }

    impl Drop for Server {
        fn drop(&mut self) {
            drop(self.child.stdin.take());
            let _ = self.child.wait();
        }
    }

    /// The processor time of a process: fields 14 and 15 of its `stat`, in hundredths of a second.
    fn cpu(process: u32) -> Fallible<Duration> {
        let stat = fs::read_to_string(format!("/proc/{process}/stat"))?;
        let (_, after_name) = stat.rsplit_once(')').ok_or("/proc has changed")?;
        let mut fields = after_name.split_whitespace().skip(11);
        let mut next =
            || -> Fallible<u64> { Ok(fields.next().ok_or("/proc has changed")?.parse()?) };
        Ok(Duration::from_millis(10 * (next()? + next()?)))
    }

    /// The most memory that a process has had.
    fn peak(process: u32) -> Fallible<u64> {
        let status = fs::read_to_string(format!("/proc/{process}/status"))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let number = line.and_then(|line| line.split_whitespace().next());
        Ok(number.ok_or("/proc has changed")?.parse()?)
    }

    struct Row {
        way: &'static str,
        per_second: f64,
        rate: f64,
        p50: Duration,
        p99: Duration,
        p999: Duration,
        cpu: Duration,
        peak_kib: u64,
        requests: usize,
    }

    impl Row {
        fn to_json(&self) -> serde_json::Value {
            let micros = |time: Duration| time.as_micros() as u64;
            json!({
                "way": self.way,
                "per_second": self.per_second.round(),
                "rate": self.rate.round(),
                "p50_us": micros(self.p50),
                "p99_us": micros(self.p99),
                "p999_us": micros(self.p999),
                "cpu_us": micros(self.cpu),
                "peak_kib": self.peak_kib,
                "requests": self.requests,
            })
        }
    }

    fn table(rows: &[Row]) -> String {
        let mut out = String::from(
            "| way | requests a second | p50 ms | p99 ms | p99.9 ms | server CPU µs a request | peak memory MiB |\n\
             |---|--:|--:|--:|--:|--:|--:|\n",
        );
        for row in rows {
            let ms = |time: Duration| time.as_secs_f64() * 1e3;
            out += &format!(
                "| {} | {} | {:.2} | {:.2} | {:.2} | {} | {:.1} |\n",
                row.way,
                grouped(row.per_second),
                ms(row.p50),
                ms(row.p99),
                ms(row.p999),
                grouped(row.cpu.as_micros() as f64),
                row.peak_kib as f64 / 1024.0,
            );
        }
        out
    }
}
