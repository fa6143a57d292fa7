//! Keeps what stands outside of the crate true to it: the README's code is compiled, the commands it names
//! exist, and the licence texts that go into the package are those at the root.
//!
//! The code blocks themselves run as doc tests of the crate (`README.md - ..` in the output); here it is
//! checked that none of them opts out of that.
#![cfg(not(loom))]

use std::fs;
use std::path::Path;

fn at_root(path: &str) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    fs::read_to_string(root.join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The info string and the lines of each fenced block of a Markdown text.
fn fenced_blocks(text: &str) -> Vec<(String, Vec<&str>)> {
    let mut blocks = Vec::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        if let Some(info) = line.trim_start().strip_prefix("```") {
            let body = lines
                .by_ref()
                .take_while(|line| !line.trim_start().starts_with("```"));
            blocks.push((info.trim().to_owned(), body.collect()));
        }
    }
    blocks
}

#[test]
fn every_rust_block_of_the_readme_is_compiled_and_run() {
    let readme = at_root("README.md");
    let blocks = fenced_blocks(&readme);
    // Without an info string a block counts as Rust and would be compiled: say what it is.
    for (info, body) in &blocks {
        assert!(
            ["rust", "sh", "toml"].contains(&info.as_str()),
            "a block of kind {info:?} that begins with {:?}",
            body.first()
        );
    }
    let rust = blocks.iter().filter(|(info, _)| info == "rust").count();
    assert!(rust >= 5, "only {rust} Rust blocks were found");
}

#[test]
fn the_commands_of_the_readme_exist() {
    let readme = at_root("README.md");
    let commands: Vec<&str> = fenced_blocks(&readme)
        .into_iter()
        .filter(|(info, _)| info == "sh")
        .flat_map(|(_, body)| body)
        .map(|line| line.split(" #").next().unwrap_or(line).trim())
        .collect();
    let (runs, rest): (Vec<_>, Vec<_>) = commands
        .into_iter()
        .partition(|line| line.starts_with("cargo run "));
    assert_eq!(rest, ["cargo test"]);
    assert!(runs.len() >= 3, "{runs:?}");
    let job = at_root(".ci/example");
    for run in runs {
        let (_, example) = run.split_once("--example ").expect("an example");
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples");
        let paths = [format!("{example}.rs"), format!("{example}/main.rs")];
        assert!(paths.iter().any(|path| root.join(path).exists()), "{run}");
        assert!(
            job.contains(&format!("--example {example}")),
            "not run by .ci/example: {run}"
        );
    }
}

#[test]
fn links_of_the_readme_lead_to_files() {
    let readme = at_root("README.md");
    let mut seen = 0;
    for link in readme.split("](").skip(1) {
        let target = link.split(')').next().unwrap_or_default();
        if !target.contains("://") && !target.starts_with('#') {
            at_root(target);
            seen += 1;
        }
    }
    assert!(seen > 0, "no link was found");
}

#[test]
fn packaged_licences_are_those_at_the_root() {
    for name in ["LICENSE-MIT", "LICENSE-APACHE"] {
        assert_eq!(at_root(name), at_root(&format!("engine/{name}")), "{name}");
    }
}
