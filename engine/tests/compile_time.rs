//! Large programs compile, and in bounded time.
//!
//! The bounds on types in the engine decide how much rustc has to prove per call, and a careless
//! one turns seconds into minutes or into an overflow. So programs larger than a server are made up
//! here and handed to cargo, in a crate of their own below the target directory, so that the
//! dependencies are compiled once. They are resolved by the lock file of the workspace, offline.

#![cfg(all(not(loom), feature = "tokio"))]

use std::env;
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::{Mutex, MutexGuard, Once, PoisonError};
use std::time::{Duration, Instant};

/// What the check of either program may take, with warm dependencies.
const LIMIT: Duration = Duration::from_secs(10);

/// Tries to stay below [`LIMIT`]: where only the clock can be had, the machine may be busy with something else.
const ATTEMPTS: usize = 3;

#[test]
fn chain_of_a_thousand_is_checked_in_time() {
    let crates = Crate::lock();
    crates.check_in_time("chain", &chain(1_000, "", Order::CalleeFirst));
    crates.check_in_time("chain", &chain(1_000, "", Order::CallerFirst));
}

#[test]
fn full_graph_of_sixty_is_checked_in_time() {
    Crate::lock().check_in_time("graph", &full_graph(60));
}

/// How many tasks there are does not matter to a build, nor how often they call each other.
#[test]
fn full_graph_of_sixty_builds_and_runs() {
    // Each task counts itself and all it calls: 2^59 at the top.
    Crate::lock().build_and_run("graph", &full_graph(60), "576460752303423488");
}

/// A path of calls through this many different tasks is what the default limit of rustc allows.
#[test]
fn chain_of_a_hundred_and_twenty_builds_as_it_stands() {
    let source = chain(120, "", Order::CallerFirst);
    Crate::lock().build_and_run("chain", &source, "120");
}

#[test]
fn chain_of_a_thousand_builds_with_a_recursion_limit() {
    let source = chain(1_000, "#![recursion_limit = \"2048\"]", Order::CallerFirst);
    Crate::lock().build_and_run("chain", &source, "1000");
}

/// What makes large programs compile must not make rustc stop looking.
#[test]
fn ring_of_a_hundred_is_refused() {
    let mut source = chain(100, "", Order::CalleeFirst);
    source = source.replace("/* leaf */ n", "ctx.run(t99, n).await? + n");
    let output = Crate::lock().cargo("check", "chain", &source).0;
    assert!(
        !output.status.success(),
        "a ring of a hundred tasks compiles"
    );
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("ctx.run(t"), "{said}");
    assert!(!said.contains("overflow"), "{said}");
}

enum Order {
    CalleeFirst,
    CallerFirst,
}

/// Each task calls the next; the first gives how many there are.
fn chain(tasks: usize, head: &str, order: Order) -> String {
    let mut source = format!("{head}\nuse watershed::{{Ctx, TaskError}};\n");
    let mut task = |i: usize| {
        let body = match i.checked_sub(1) {
            None => "/* leaf */ n".to_owned(),
            Some(next) => format!("ctx.run(t{next}, n).await? + 1"),
        };
        writeln!(
            source,
            "#[allow(unused)]\nasync fn t{i}(ctx: Ctx<()>, n: u64) -> Result<u64, TaskError> {{\n    Ok({body})\n}}"
        )
        .unwrap();
    };
    match order {
        Order::CalleeFirst => (0..tasks).for_each(&mut task),
        Order::CallerFirst => (0..tasks).rev().for_each(&mut task),
    }
    source + &main_fn(tasks - 1)
}

/// Each task calls all that come before it.
fn full_graph(tasks: usize) -> String {
    let mut source = String::from("use watershed::{Ctx, TaskError};\n");
    for i in 0..tasks {
        let calls: String = (0..i)
            .map(|j| format!("    sum += ctx.run(t{j}, n).await?;\n"))
            .collect();
        writeln!(
            source,
            "#[allow(unused)]\nasync fn t{i}(ctx: Ctx<()>, n: u64) -> Result<u64, TaskError> {{\n    let mut sum = n;\n{calls}    Ok(sum)\n}}"
        )
        .unwrap();
    }
    source + &main_fn(tasks - 1)
}

/// Prints what task number `top` gives for 1.
fn main_fn(top: usize) -> String {
    format!(
        "fn main() {{\n    let ctx = Ctx::new(());\n    println!(\"{{}}\", ctx.run(t{top}, 1).wait().unwrap());\n}}\n"
    )
}

/// The crate that the programs are compiled in. One at a time, so that none is timed next to
/// another.
struct Crate {
    dir: PathBuf,
    _one_at_a_time: MutexGuard<'static, ()>,
}

impl Crate {
    fn lock() -> Self {
        static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
        static WARM: Once = Once::new();

        let one_at_a_time = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        let this = Self {
            dir: Path::new(env!("CARGO_TARGET_TMPDIR")).join("compile_time"),
            _one_at_a_time: one_at_a_time,
        };
        WARM.call_once(|| this.write_manifest());
        this
    }

    fn write_manifest(&self) {
        let engine = Path::new(env!("CARGO_MANIFEST_DIR"));
        fs::create_dir_all(self.dir.join("src/bin")).unwrap();
        let manifest = format!(
            "[package]\nname = \"compile_time\"\nedition = \"2024\"\n\n\
             [dependencies]\nwatershed = {{ path = {engine:?} }}\n\n\
             [workspace]\n"
        );
        fs::write(self.dir.join("Cargo.toml"), manifest).unwrap();
        let locked = engine.ancestors().map(|dir| dir.join("Cargo.lock"));
        let locked = locked.into_iter().find(|path| path.exists());
        fs::copy(locked.unwrap(), self.dir.join("Cargo.lock")).unwrap();
    }

    /// Compiles the dependencies, and then the program, all of it, and says how long that took: the processor's time where it can be had, so that
    /// what else the machine does hardly counts.
    fn cargo(&self, command: &str, name: &str, source: &str) -> (Output, Duration) {
        let run = |name: &str| {
            Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
                .current_dir(&self.dir)
                .args([command, "--offline", "--bin", name, "--target-dir"])
                .arg(self.dir.join("target"))
                .env("CARGO_INCREMENTAL", "0")
                // Nobody debugs these, and it would be half of the time of a build.
                .env("CARGO_PROFILE_DEV_DEBUG", "0")
                .env_remove("CARGO_BUILD_TARGET")
                .output()
                .unwrap()
        };
        let bin = self.dir.join("src/bin");
        fs::write(bin.join(name).with_extension("rs"), source).unwrap();
        fs::write(bin.join("warm.rs"), "fn main() {}\n").unwrap();
        let warm = run("warm");
        let said = String::from_utf8_lossy(&warm.stderr);
        assert!(warm.status.success(), "{said}");

        let (start, worked) = (Instant::now(), work_of_children());
        let output = run(name);
        let took = match (worked, work_of_children()) {
            (Some(before), Some(after)) => after - before,
            _ => start.elapsed(),
        };
        (output, took)
    }

    fn check_in_time(&self, name: &str, source: &str) {
        let mut times = Vec::new();
        for attempt in 0..ATTEMPTS {
            // A new text each time, or cargo has nothing to do.
            let source = format!("{source}// {attempt}\n");
            let (output, took) = self.cargo("check", name, &source);
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{name}: {said}");
            assert!(said.contains("Checking"), "nothing was checked: {said}");
            println!("{name}: checked in {took:.1?}");
            if took <= LIMIT {
                return;
            }
            times.push(took);
        }
        panic!("{name}: no check within {LIMIT:?}: {times:.1?}");
    }

    fn build_and_run(&self, name: &str, source: &str, prints: &str) {
        let (output, took) = self.cargo("build", name, source);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{name}: {said}");
        println!("{name}: built in {took:.1?}");
        let program = self.dir.join("target/debug").join(name);
        let output = Command::new(program.with_extension(env::consts::EXE_EXTENSION))
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), prints);
    }
}

/// The processor's time of all processes that this one has started and that have ended. Linux says so, in hundredths of a second.
fn work_of_children() -> Option<Duration> {
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    // The name of the program comes second, in brackets, and may have anything in it. The times are the 16th and 17th.
    let (_, after_name) = stat.rsplit_once(')')?;
    let mut fields = after_name.split_whitespace().skip(13);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(Duration::from_millis((user + system) * 10))
}
