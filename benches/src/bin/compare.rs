//! The engine against each peer and each limit, interleaved and paired in one process (`measure.rs`).
//!
//! ```text
//! cargo run --release -p watershed-benches --bin compare -- [--quick] [--only TEXT] [--json FILE] [--plot DIR] [--check]
//! ```
//!
//! Prints a Markdown table: how many times faster the engine is (the median of the ratios of the pairs, with the quartiles), the
//! medians of the time of one operation, and what one operation takes from the allocator. What is going on goes to stderr. The
//! counting allocator is in both sides of each figure; it adds an increment of a thread's own counter to each allocation.

#[cfg(loom)]
fn main() {}

#[cfg(not(loom))]
fn main() -> std::process::ExitCode {
    compare::main()
}

#[cfg(not(loom))]
#[global_allocator]
static ALLOCATOR: watershed_benches::counting::Counting = watershed_benches::counting::Counting;

#[cfg(not(loom))]
mod compare {
    use std::error::Error;
    use std::fs;
    use std::path::PathBuf;
    use std::process::ExitCode;
    use std::time::{Duration, Instant};

    use watershed_benches::measure::{Contest, Effort};
    use watershed_benches::report::{Report, Row, times};
    use watershed_benches::{Workload, memory, names, plot, workloads};

    const HELP: &str = "\
The engine against its peers, in one process.

Usage: compare [OPTIONS]

  --quick        the whole matrix in less than a minute
  --smoke        the whole matrix in seconds: does it still run? The figures mean nothing
  --only TEXT    only workloads whose name contains TEXT
  --json FILE    writes the rows for other programs
  --plot DIR     writes charts
  --check        ends with 1 if the engine falls below its promises
  --help         this text";

    /// In that workload the engine must be at least `ratio` times as fast as that peer.
    struct Gate {
        workload: &'static str,
        peer: &'static str,
        ratio: f64,
    }

    const fn gate(workload: &'static str, peer: &'static str, ratio: f64) -> Gate {
        Gate {
            workload,
            peer,
            ratio,
        }
    }

    const GATES: [Gate; 5] = [
        gate(names::HIT, names::QUICK_CACHE, 5.0),
        gate(names::HIT, names::DASHMAP, 10.0),
        gate(names::HIT, names::MOKA, 50.0),
        gate(names::SINGLE_TASK, names::MUTEX_MAP, 1.5),
        gate(names::REQUEST, names::MUTEX_MAP, 1.5),
    ];

    #[derive(Default)]
    struct Options {
        quick: bool,
        smoke: bool,
        check: bool,
        only: Option<String>,
        json: Option<PathBuf>,
        plot: Option<PathBuf>,
    }

    impl Options {
        /// `None` if the user asked for help.
        fn parse(mut args: impl Iterator<Item = String>) -> Result<Option<Self>, String> {
            let mut options = Self::default();
            while let Some(arg) = args.next() {
                let mut value = || args.next().ok_or(format!("{arg} needs a value"));
                match &*arg {
                    "--quick" => options.quick = true,
                    "--smoke" => options.smoke = true,
                    "--check" => options.check = true,
                    "--only" => options.only = Some(value()?),
                    "--json" => options.json = Some(value()?.into()),
                    "--plot" => options.plot = Some(value()?.into()),
                    "--help" | "-h" => return Ok(None),
                    _ => return Err(format!("unknown option {arg}")),
                }
            }
            Ok(Some(options))
        }

        /// What may be spent on all ratios together, and the least number of pairs.
        fn budget(&self) -> (Duration, usize) {
            match self {
                Self { smoke: true, .. } => (Duration::ZERO, 1),
                Self { quick: true, .. } => (Duration::from_secs(36), 3),
                _ => (Duration::from_secs(540), 7),
            }
        }
    }

    pub(super) fn main() -> ExitCode {
        let options = match Options::parse(std::env::args().skip(1)) {
            Ok(Some(options)) => options,
            Ok(None) => {
                println!("{HELP}");
                return ExitCode::SUCCESS;
            }
            Err(problem) => {
                eprintln!("compare: {problem}\n\n{HELP}");
                return ExitCode::from(2);
            }
        };
        match run(&options) {
            Ok(true) => ExitCode::SUCCESS,
            Ok(false) => ExitCode::FAILURE,
            Err(problem) => {
                eprintln!("compare: {problem}");
                ExitCode::from(2)
            }
        }
    }

    /// `true` if no gate failed.
    fn run(options: &Options) -> Result<bool, Box<dyn Error>> {
        let mut workloads = workloads();
        if let Some(only) = &options.only {
            workloads.retain(|workload| workload.name.contains(only));
        }
        let start = Instant::now();
        let rows = measure(&workloads, options);
        if rows.is_empty() {
            return Err("no workload has a name like that".into());
        }
        let memory = if options.only.is_none() {
            memory::contexts()
        } else {
            Vec::new()
        };
        let report = Report::new(command(), rows, &memory);

        print!("{}", report.table());
        println!(
            "\n{} ratios in {} s: medians of up to {} pairs, each pair on another heap layout. In italics: limits, and bare work.",
            report.rows.len(),
            start.elapsed().as_secs(),
            report.rows.iter().map(|row| row.pairs).max().unwrap_or(0),
        );
        if !memory.is_empty() {
            println!(
                "\nA context that lives, with {} values ({} of them at once):\n",
                memory::KEYS,
                memory::CONTEXTS
            );
            print!("{}", report.memory_table());
        }
        if let Some(file) = &options.json {
            if let Some(dir) = file.parent() {
                fs::create_dir_all(dir)?;
            }
            fs::write(
                file,
                serde_json::to_string_pretty(&report.to_json())? + "\n",
            )?;
        }
        if let Some(dir) = &options.plot {
            plot::write(&report, dir)?;
        }
        Ok(!options.check || gates_hold(&report.rows))
    }

    fn measure(workloads: &[Workload], options: &Options) -> Vec<Row> {
        let (budget, least_pairs) = options.budget();
        let all: usize = workloads.iter().map(|work| work.split().1.len()).sum();
        // With `--only` a ratio gets no more time than it has in the whole, but at most three times as many pairs.
        let whole: usize = watershed_benches::workloads()
            .iter()
            .map(|work| work.split().1.len())
            .sum();
        let share = whole.min(all * 3).max(1);
        let effort = Effort {
            time: budget / share as u32,
            least_pairs,
            most_pairs: 1_001,
        };
        let mut rows = Vec::with_capacity(all);
        for workload in workloads {
            let mut contest = Contest::new(workload, effort);
            for peer in workload.split().1 {
                let figures = contest.against(peer);
                let row = Row::new(workload, peer, &figures);
                rows.push(row);
                eprintln!(
                    "[{:>3}/{all}] {} against {}: {} in {} pairs",
                    rows.len(),
                    workload.name,
                    peer.name,
                    times(figures.ratio.median),
                    figures.pairs
                );
            }
        }
        rows
    }

    fn gates_hold(rows: &[Row]) -> bool {
        let mut failures = 0;
        for gate in &GATES {
            let row = rows
                .iter()
                .find(|row| row.workload == gate.workload && row.peer == gate.peer);
            match row {
                Some(row) if row.ratio.median >= gate.ratio => {}
                Some(row) => {
                    eprintln!(
                        "gate failed: {} against {}: {:.2}, must be at least {:.2}",
                        gate.workload, gate.peer, row.ratio.median, gate.ratio,
                    );
                    failures += 1;
                }
                None => {
                    eprintln!(
                        "gate failed: {} against {} was not measured",
                        gate.workload, gate.peer
                    );
                    failures += 1;
                }
            }
        }
        if failures == 0 {
            println!("\nAll {} gates hold.", GATES.len());
        }
        failures == 0
    }

    /// As it was called, without the place of the program.
    fn command() -> String {
        let args: Vec<_> = std::env::args().skip(1).collect();
        format!(
            "cargo run --release -p watershed-benches --bin compare -- {}",
            args.join(" ")
        )
    }
}
