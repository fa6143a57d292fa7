//! Batches beside two peers: the DataLoader of `async-graphql`, which waits a millisecond for more keys, and the `dataloader` crate, which
//! yields ten times; both as they are by default. Interleaved in one process, on one thread.
//!
//! ```text
//! cargo run --release -p watershed-benches --bin compare_batch -- [--quick] [--check] [--json FILE]
//! ```
//!
//! Prints Markdown: the medians of the time of one piece of work (a request of its own: context or loaders are made and dropped in it),
//! the medians of the ratios of the pairs, and how many batches were made. The functions answer at once, from memory: what is left is
//! what batching costs. (With 1,000 keys the first peer's batch is full, so that it goes without waiting; with 900 it waits.) `--check` exits with 1 if a target is missed.

#[cfg(loom)]
fn main() {}

#[cfg(not(loom))]
mod peers;
#[cfg(not(loom))]
mod work;

#[cfg(not(loom))]
fn main() -> std::process::ExitCode {
    work::main()
}
