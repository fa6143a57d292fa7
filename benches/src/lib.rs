//! The workloads: what is measured, on the engine and on its peers. Both `benches/hot_paths.rs`
//! and the `compare` binary take them from here.
//!
//! Every group is one piece of work. Its contenders do that work on the same inputs and return the
//! same number, which the caller checks against [`Group::expected`] with the clock stopped. The
//! loop over the operations is inside the contender, so that one indirect call is shared by
//! thousands of them, and set-up is done when the contender is made.
//!
//! All bodies are ready at once and are polled by hand with a waker that does nothing: no executor
//! is part of any figure.
#![cfg(not(loom))]

use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

mod context_one_run;
mod hit;
mod request;

/// Polls a future that is ready at once, and takes what it gives.
///
/// # Panics
///
/// If the future is not ready on its first poll: no workload here waits for anything.
#[inline(always)] // as an await is, in the body of an async fn
pub fn ready<F: Future>(future: F) -> F::Output {
    let mut future = pin!(future);
    match future
        .as_mut()
        .poll(&mut Context::from_waker(Waker::noop()))
    {
        Poll::Ready(output) => output,
        Poll::Pending => panic!("a workload waited; all its bodies are ready at once"),
    }
}

/// One way to do the work of a group.
pub struct Contender {
    /// What a table calls it.
    pub name: &'static str,
    run: Box<dyn FnMut(u64) -> u64>,
}

impl std::fmt::Debug for Contender {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Contender")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

impl Contender {
    /// `op` does the `i`th operation.
    fn new(name: &'static str, op: impl FnMut(u64) -> u64 + 'static) -> Self {
        Self::in_turn(name, u64::MAX, op)
    }

    /// `op` does the operation with one of `keys` keys, which come in turn. (A remainder would cost a third of a hit.)
    fn in_turn(name: &'static str, keys: u64, mut op: impl FnMut(u64) -> u64 + 'static) -> Self {
        let run = move |operations| {
            let mut sum = 0u64;
            let mut key = 0;
            for _ in 0..operations {
                sum = sum.wrapping_add(op(key));
                key += 1;
                if key == keys {
                    key = 0;
                }
            }
            sum
        };
        Self {
            name,
            run: Box::new(run),
        }
    }

    /// Does that many operations and returns the sum of their results.
    pub fn run(&mut self, operations: u64) -> u64 {
        (self.run)(operations)
    }
}

/// One piece of work and those who can do it.
#[derive(Debug)]
pub struct Group {
    /// What a table calls it.
    pub name: &'static str,
    /// One sentence: the path that the engine takes.
    pub about: &'static str,
    /// The engine.
    pub ours: Contender,
    /// The peers, each on the same work.
    pub peers: Vec<Contender>,
    /// What every contender must return.
    pub expected: Expected,
}

/// What the work comes to, by a formula.
#[derive(Clone, Copy, Debug)]
pub struct Expected(fn(u64) -> u64);

impl Expected {
    /// The sum of the results of that many operations.
    pub fn sum(&self, operations: u64) -> u64 {
        (0..operations).fold(0, |sum, i| sum.wrapping_add((self.0)(i)))
    }
}

/// All groups, in the order in which tables show them. Each call sets them up afresh.
pub fn groups() -> Vec<Group> {
    vec![hit::group(), context_one_run::group(), request::group()]
}

/// Names that two places must agree on: the groups and the peers that a gate speaks about.
pub mod names {
    /// A call whose value is there.
    pub const HIT: &str = "hit";
    /// A context that lives for one run.
    pub const CONTEXT_ONE_RUN: &str = "context_one_run";
    /// A page of 13 runs and 30 calls.
    pub const REQUEST: &str = "request";

    /// The engine.
    pub const WATERSHED: &str = "watershed";
    /// `quick_cache::sync::Cache::get_or_insert_async`.
    pub const QUICK_CACHE: &str = "quick_cache";
    /// `DashMap<u64, Arc<OnceCell<_>>>`.
    pub const DASHMAP: &str = "DashMap of OnceCells";
    /// `papaya::HashMap<u64, OnceCell<_>>`.
    pub const PAPAYA: &str = "papaya of OnceCells";
    /// `moka::future::Cache::get_with`.
    pub const MOKA: &str = "moka get_with";
    /// `Mutex<HashMap<u64, Arc<OnceCell<_>>>>`, written by hand.
    pub const MUTEX_MAP: &str = "Mutex<HashMap> of OnceCells";
    /// The floor: a look-up in a map that nobody else may touch.
    pub const PLAIN_MAP: &str = "HashMap::get, the floor";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_contender_returns_the_same_result() {
        for mut group in groups() {
            let expected = group.expected.sum(100);
            assert_ne!(expected, 0, "{}", group.name);
            assert_eq!(group.ours.run(100), expected, "{}: ours", group.name);
            for peer in &mut group.peers {
                assert_eq!(peer.run(100), expected, "{}: {}", group.name, peer.name);
            }
        }
    }

    #[test]
    fn the_page_is_13_runs_and_30_calls() {
        let (runs, calls) = request::count();
        assert_eq!((runs, calls), (13, 30));
    }
}
