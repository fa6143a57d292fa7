//! A shop page over a real SQLite database, served with and without memory.
//!
//! ```text
//! cargo run --release --example storefront
//! cargo run --release --example storefront -- --requests 1000 --db /tmp/shop.db
//! ```
//!
//! Read `tasks.rs` first: twelve plain async functions that ask one another. This file serves some hundred
//! requests with them, measures, prints, and checks itself: it ends with code 1 when a page differs
//! between the ways of serving it, or when memory, batches or the second tier saved no statement.
//!
//! | file | what it holds |
//! |---|---|
//! | `tasks.rs` | the shop: who needs what |
//! | `catalogue.rs` | what all requests share: products, discounts, flags, from the second tier |
//! | `faults.rs` | what a caller sees when something goes wrong |
//! | `trace.rs` | the request's state, and its record of who asked whom |
//! | `db.rs` | the database file and a small pool of connections |
//! | `terminal.rs` | bold, dim, and a line of text |

mod catalogue;
mod db;
mod faults;
mod tasks;
mod terminal;
mod trace;

use std::error::Error;
use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::{StreamExt, stream};
use watershed::{Ctx, Shared, TaskError};

use crate::catalogue::Catalogue;
use crate::db::{Db, Dice, Id, PRODUCTS, USERS};
use crate::tasks::page;
use crate::terminal::{bold, dim, say};
use crate::trace::{Me, Mode, Shop, Tally, tree};

const HELP: &str = "\
A shop page over SQLite, served with and without watershed.

Usage: cargo run --release --example storefront -- [OPTIONS]

Options:
  --requests N   how many requests to serve, 2 to 100000 [default: 400]
  --db PATH      the database file, made if it is not there [default: next to the program]
  --help         this text

Ends with 0 if all checks hold, 1 if one does not, 2 if it could not start.";

/// Requests in flight at once in the concurrent half.
const IN_FLIGHT: usize = 16;

#[tokio::main]
async fn main() -> ExitCode {
    let options = match Options::parse(std::env::args_os().skip(1)) {
        Ok(Some(options)) => options,
        Ok(None) => {
            say!("{HELP}");
            return ExitCode::SUCCESS;
        }
        Err(problem) => {
            eprintln!("storefront: {problem}\n\n{HELP}");
            return ExitCode::from(2);
        }
    };
    match show(options).await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(problem) => {
            eprintln!("storefront: {problem}");
            ExitCode::from(2)
        }
    }
}

/// The whole show; `true` if every check held.
async fn show(options: Options) -> Result<bool, Box<dyn Error>> {
    let started = Instant::now();
    let db = Db::open(&options.db)?;
    say!("{}  {}", bold("database"), db.summary());

    let visits = visits(options.requests);
    let (one_by_one, together) = visits.split_at(visits.len() / 2);

    // Warm all ways alike: the file's pages, the prepared statements, the threads.
    for mode in MODES {
        for visit in visits.iter().take(20) {
            serve(&db, mode, None, &Arc::default(), visit).await?;
        }
    }

    let first = Half {
        title: format!("{} requests, one at a time", one_by_one.len()),
        runs: serve_one_by_one(&db, one_by_one).await?,
    };
    first.print();
    let second = Half {
        title: format!("{} requests, {IN_FLIGHT} in flight", together.len()),
        runs: [
            serve_together(&db, Mode::Batched, false, together).await?,
            serve_together(&db, Mode::Memo, false, together).await?,
            serve_together(&db, Mode::Direct, false, together).await?,
        ],
    };
    second.print();
    say!(
        "{}",
        dim(
            "  hits: calls that found the value there, joined the run under way or went along in a batch\n  \
             with batches: items and discounts by `load`, many with one statement\n  \
             one by one: each row with a statement of its own, but once per request\n  \
             without: the same tasks, each call runs again, as functions do that fetch what they need"
        )
    );

    let over_tier = serve_together(&db, Mode::Batched, true, together).await?;
    let [batched, one_row_each, _] = &second.runs;
    say!(
        "\n{}",
        bold("the same requests, products, discounts and flags from the second tier")
    );
    say!(
        "  {} SQL statements in place of {} with batches and {} one by one; p50 {} in place of {} and {}",
        grouped(over_tier.tally.statements()),
        grouped(batched.tally.statements()),
        grouped(one_row_each.tally.statements()),
        millis(over_tier.percentile(50)),
        millis(batched.percentile(50)),
        millis(one_row_each.percentile(50)),
    );

    let at_most_once = show_one_request(&db, &visits[0]).await?;
    faults::show(&db, &visits[0]).await;

    let checks = [
        (
            "every page is the same in all three ways",
            first.same_pages() && second.same_pages(),
        ),
        (
            "fewer SQL statements with the engine",
            first.saved() && second.saved(),
        ),
        (
            "still fewer with batches",
            first.batches_saved() && second.batches_saved(),
        ),
        (
            "every page is the same over the second tier, with fewer statements",
            over_tier.pages == batched.pages
                && over_tier.tally.statements() < one_row_each.tally.statements(),
        ),
        (
            "without the engine every call runs",
            first.all_run() && second.all_run(),
        ),
        (
            "no task ran twice for one input in one request",
            at_most_once,
        ),
    ];
    say!("\n{}", bold("self-check"));
    for (claim, holds) in checks {
        say!("  {}  {claim}", if holds { "ok    " } else { "FAILED" });
    }
    say!(
        "{}",
        dim(&format!(
            "  {:.1} s in all",
            started.elapsed().as_secs_f64()
        ))
    );
    Ok(checks.iter().all(|(_, holds)| *holds))
}

// --- serving ---------------------------------------------------------------------------------------

/// The ways of serving, the best first.
const MODES: [Mode; 3] = [Mode::Batched, Mode::Memo, Mode::Direct];

/// What a browser sends: its session's token and the product it wants to see.
pub(crate) type Visit = (String, Id);

/// The same list of visits on every machine.
fn visits(count: usize) -> Vec<Visit> {
    let mut dice = Dice::new(7);
    (0..count)
        .map(|_| (db::token(dice.pick(1..=USERS)), dice.pick(1..=PRODUCTS)))
        .collect()
}

/// One request: a context, the page, and the context is gone with all it remembers.
async fn serve(
    db: &Db,
    mode: Mode,
    catalogue: Option<&Shared<Catalogue>>,
    tally: &Arc<Tally>,
    visit: &Visit,
) -> Result<(String, Duration), TaskError> {
    let start = Instant::now();
    let ctx = Ctx::new(Shop::new(db, mode, tally).over(catalogue));
    let text = Me::handler(&ctx).ask(page, visit.clone()).await?.clone();
    drop(ctx);
    Ok((text, start.elapsed()))
}

/// Serves each visit in all ways, another one first each time.
async fn serve_one_by_one(db: &Db, visits: &[Visit]) -> Result<[Served; 3], TaskError> {
    let mut all: [Served; 3] = Default::default();
    for (nth, visit) in visits.iter().enumerate() {
        for side in (nth..nth + 3).map(|side| side % 3) {
            let served = &mut all[side];
            let (text, took) = serve(db, MODES[side], None, &served.tally, visit).await?;
            served.pages.push(text);
            served.latencies.push(took);
        }
    }
    Ok(all)
}

/// Serves the visits on all cores, a fixed number of them in flight; over a catalogue that they share, or without.
async fn serve_together(
    db: &Db,
    mode: Mode,
    over_catalogue: bool,
    visits: &[Visit],
) -> Result<Served, Box<dyn Error>> {
    let mut served = Served::default();
    let catalogue = over_catalogue.then(|| catalogue::open(db, &served.tally));
    let handlers = visits.iter().cloned().map(|visit| {
        let (db, tally, catalogue) = (db.clone(), Arc::clone(&served.tally), catalogue.clone());
        let handler = async move { serve(&db, mode, catalogue.as_ref(), &tally, &visit).await };
        // An async block does nothing until it is polled: `buffered` decides when it is spawned.
        async move { tokio::spawn(handler).await }
    });
    let answers: Vec<_> = stream::iter(handlers).buffered(IN_FLIGHT).collect().await;
    for answer in answers {
        let (text, took) = answer??;
        served.pages.push(text);
        served.latencies.push(took);
    }
    Ok(served)
}

/// Serves one request with a record, and prints the page and the tree; `true` if nothing ran twice.
async fn show_one_request(db: &Db, visit: &Visit) -> Result<bool, TaskError> {
    let tally = Arc::<Tally>::default();
    let ctx = Ctx::new(Shop::new(db, Mode::Memo, &tally).recorded());
    let text = Me::handler(&ctx).ask(page, visit.clone()).await?.clone();

    say!("\n{}", bold("one page"));
    for line in text.lines() {
        say!("  {line}");
    }
    say!("\n{}", bold("who asked whom for it"));
    let record = ctx.state().record();
    say!("{}", tree(&record).trim_end());
    say!(
        "{}",
        dim(&format!(
            "  {} calls: {} ran, {} did not; {} SQL statements",
            tally.calls(),
            tally.runs(),
            tally.hits(),
            tally.statements()
        ))
    );
    let mut asked: Vec<_> = record.iter().map(|call| &call.label).collect();
    asked.sort_unstable();
    asked.dedup();
    Ok(tally.calls() == record.len() as u64 && tally.runs() == asked.len() as u64)
}

// --- measuring -------------------------------------------------------------------------------------

/// What came of serving a list of visits one way.
#[derive(Default)]
struct Served {
    tally: Arc<Tally>,
    pages: Vec<String>,
    latencies: Vec<Duration>,
}

impl Served {
    /// The latency that `percent` of the requests stayed at or under (nearest rank).
    fn percentile(&self, percent: usize) -> Duration {
        let mut sorted = self.latencies.clone();
        sorted.sort_unstable();
        sorted[(sorted.len() * percent).div_ceil(100) - 1]
    }
}

/// The same visits served in the three ways of [`MODES`].
struct Half {
    title: String,
    runs: [Served; 3],
}

impl Half {
    fn same_pages(&self) -> bool {
        self.runs.iter().all(|run| run.pages == self.runs[0].pages)
    }

    fn saved(&self) -> bool {
        self.runs[1].tally.statements() < self.runs[2].tally.statements()
    }

    fn batches_saved(&self) -> bool {
        self.runs[0].tally.statements() < self.runs[1].tally.statements()
    }

    fn all_run(&self) -> bool {
        let tally = &self.runs[2].tally;
        tally.runs() == tally.calls()
    }

    fn print(&self) {
        say!("\n{}", bold(&self.title));
        let head = format!(
            "{:<18}{:>10}{:>10}{:>10}{:>10}{:>12}{:>12}",
            "", "calls", "runs", "hits", "SQL", "p50", "p99"
        );
        say!("  {}", dim(&head));
        let names = ["with batches", "one by one", "without"];
        for (name, served) in names.iter().zip(&self.runs) {
            say!(
                "  {name:<18}{:>10}{:>10}{:>10}{:>10}{:>12}{:>12}",
                grouped(served.tally.calls()),
                grouped(served.tally.runs()),
                grouped(served.tally.hits()),
                grouped(served.tally.statements()),
                millis(served.percentile(50)),
                millis(served.percentile(99)),
            );
        }
        let [with, _, without] = &self.runs;
        let times_less = |with: f64, without: f64| format!("{:.1}x less", without / with);
        let latency = |percent| {
            times_less(
                with.percentile(percent).as_secs_f64(),
                without.percentile(percent).as_secs_f64(),
            )
        };
        say!(
            "  {:<18}{:>40}{:>12}{:>12}",
            "",
            times_less(
                with.tally.statements() as f64,
                without.tally.statements() as f64
            ),
            latency(50),
            latency(99),
        );
    }
}

fn millis(time: Duration) -> String {
    format!("{:.2} ms", time.as_secs_f64() * 1e3)
}

/// `12345` as `12,345`.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

// --- the command line ------------------------------------------------------------------------------

struct Options {
    db: PathBuf,
    requests: usize,
}

impl Options {
    /// `None` if the user asked for help.
    fn parse(args: impl Iterator<Item = OsString>) -> Result<Option<Options>, String> {
        let mut options = Options {
            db: default_path(),
            requests: 400,
        };
        let mut args = args;
        while let Some(arg) = args.next() {
            let mut value = || {
                args.next()
                    .ok_or(format!("{} needs a value", arg.display()))
            };
            match arg.to_str() {
                Some("--help" | "-h") => return Ok(None),
                Some("--db") => options.db = value()?.into(),
                Some("--requests") => {
                    let text = value()?;
                    options.requests = text
                        .to_str()
                        .and_then(|text| text.parse().ok())
                        .filter(|count| (2..=100_000).contains(count))
                        .ok_or(format!(
                            "--requests takes 2 to 100000, not {}",
                            text.display()
                        ))?;
                }
                _ => return Err(format!("unknown option {}", arg.display())),
            }
        }
        Ok(Some(options))
    }
}

/// Next to the program, in `target/`: `cargo clean` takes it along.
fn default_path() -> PathBuf {
    match std::env::current_exe() {
        Ok(program) => program.with_file_name("storefront.db"),
        Err(_) => std::env::temp_dir().join("storefront.db"),
    }
}
