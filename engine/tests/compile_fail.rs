//! What must not compile does not, and what rustc says about it is written down.
//!
//! Owns the cases in `compile_fail/` with their messages (`*.stderr`), the cases that only a build
//! refuses in `compile_fail/build/`, and the shapes that must compile in `compile_pass/`. The words
//! of rustc change from version to version, so they are compared on the one they were recorded with
//! ([`RECORDED_WITH`]); every other version must refuse each case in whatever words it likes. Write a
//! case so that rustc does not quote the standard library: its source is not installed everywhere.
//!
//! To record the messages anew:
//! `TRYBUILD=overwrite cargo test -p watershed --test compile_fail`, then read the difference.

#![cfg(all(not(loom), feature = "tokio"))]

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use trybuild::TestCases;

/// The version of rustc whose messages the `*.stderr` files hold.
const RECORDED_WITH: &str = "rustc 1.95.";

/// Set in the child process of [`refused`]: the directory with the copied cases.
const COPIED_CASES: &str = "WATERSHED_COPIED_CASES";

#[test]
fn mistakes_are_refused_by_a_check() {
    refused("mistakes_are_refused_by_a_check", "compile_fail", None);
}

#[test]
fn captures_are_refused_by_a_build() {
    // The case that passes makes trybuild build all the others, where it would only check them.
    refused(
        "captures_are_refused_by_a_build",
        "compile_fail/build",
        Some("tests/compile_pass/closures_without_captures.rs"),
    );
}

/// What the guide shows of a message is in a recorded one, line by line and in this order.
#[test]
fn guide_quotes_recorded_messages() {
    let guide = include_str!("../src/guide/compile_errors.md");
    let messages: Vec<_> = ["compile_fail", "compile_fail/build"]
        .into_iter()
        .flat_map(cases)
        .map(|case| fs::read_to_string(case.with_extension("stderr")).unwrap_or_default())
        .collect();
    let quotes: Vec<_> = guide
        .split("```text\n")
        .skip(1)
        .map(|rest| rest.split("```").next().unwrap())
        .collect();
    assert!(quotes.len() > 10, "{} quotes found", quotes.len());
    for quote in quotes {
        let said = messages.iter().any(|message| {
            let mut lines = message.lines().map(str::trim);
            quote
                .lines()
                .all(|quoted| lines.any(|line| line == quoted.trim()))
        });
        assert!(said, "rustc never said:\n{quote}");
    }
}

/// Every case in `tests/dir` must be refused, in the recorded words where they can be the same.
fn refused(test: &str, dir: &str, builds: Option<&str>) {
    let sources = cases(dir);
    assert!(!sources.is_empty(), "no case in {dir}");
    for source in &sources {
        let recorded = source.with_extension("stderr").exists();
        let recording = env::var_os("TRYBUILD").is_some();
        assert!(recorded || recording, "{} has no message", source.display());
    }

    if let Some(copied) = env::var_os(COPIED_CASES) {
        return run(&Path::new(&copied).join("*.rs"), builds);
    }
    if same_words(&sources) {
        return run(&Path::new("tests").join(dir).join("*.rs"), builds);
    }

    // Copied to where no message is recorded and told to record them, trybuild fails for a case
    // that compiles and for nothing else. A child process, since it is told by its environment.
    let copy = Path::new(env!("CARGO_TARGET_TMPDIR"))
        .join("any_words")
        .join(test);
    fs::remove_dir_all(&copy).ok();
    fs::create_dir_all(&copy).unwrap();
    for source in &sources {
        fs::copy(source, copy.join(source.file_name().unwrap())).unwrap();
    }
    let status = Command::new(env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env(COPIED_CASES, &copy)
        .env("TRYBUILD", "overwrite")
        .status()
        .unwrap();
    assert!(status.success(), "a case in {dir} compiles");

    let ours = builds.map_or("", |_| "must not capture");
    for source in &sources {
        let said = copy
            .join(source.file_name().unwrap())
            .with_extension("stderr");
        let said = fs::read_to_string(&said)
            .unwrap_or_else(|e| panic!("{} was not tried: {e}", source.display()));
        assert!(said.contains(ours), "{}: {said}", source.display());
    }
}

fn run(sources: &Path, builds: Option<&str>) {
    let t = TestCases::new();
    if let Some(passing) = builds {
        t.pass(passing);
    }
    t.compile_fail(sources);
}

/// Whether rustc here says what it said when the messages of `sources` were recorded: it is the
/// same version, and where they point into the standard library, its source is not there to quote. And
/// the crates of the feature `axum` are not there, whose conversions it would list beside ours.
fn same_words(sources: &[PathBuf]) -> bool {
    if cfg!(feature = "axum") {
        return false;
    }
    let rustc = |flag: &str, what: &str| {
        let rustc = env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
        let output = Command::new(rustc).args([flag, what]).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    if !rustc("--version", "--verbose").starts_with(RECORDED_WITH) {
        return false;
    }
    let library = Path::new(rustc("--print", "sysroot").trim()).join("lib/rustlib/src/rust");
    !library.exists()
        || !sources.iter().any(|source| {
            fs::read_to_string(source.with_extension("stderr"))
                .is_ok_and(|message| message.contains("$RUST"))
        })
}

/// The sources directly in `tests/dir`.
fn cases(dir: &str) -> Vec<PathBuf> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests")
        .join(dir);
    let mut found: Vec<_> = fs::read_dir(&dir)
        .unwrap_or_else(|e| panic!("{}: {e}", dir.display()))
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == "rs"))
        .collect();
    found.sort();
    found
}

/// The shapes that must compile are programs of their own; here they are built with this test, and
/// each is run as its claim.
macro_rules! compiles {
    ($($name:ident = $path:literal;)*) => {$(
        #[path = $path]
        mod $name;

        #[test]
        fn $name() {
            $name::main();
        }
    )*};
}

compiles! {
    closures_without_captures = "compile_pass/closures_without_captures.rs";
    hidden_edges = "compile_pass/hidden_edges.rs";
    a_look_is_no_edge = "compile_pass/a_look_is_no_edge.rs";
    inputs_are_inferred = "compile_pass/inputs_are_inferred.rs";
    futures_in_all_shapes = "compile_pass/futures_in_all_shapes.rs";
    tasks_of_all_kinds = "compile_pass/tasks_of_all_kinds.rs";
    owned_where_it_is_needed = "compile_pass/owned_where_it_is_needed.rs";
    loads_of_all_kinds = "compile_pass/loads_of_all_kinds.rs";
    shared_loads = "compile_pass/shared_loads.rs";
}
