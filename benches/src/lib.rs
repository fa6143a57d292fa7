//! The workloads: what is measured, on the engine, on its peers and at the limit. Both `benches/hot_paths.rs` and the `compare`
//! binary take them from here.
//!
//! A [`Workload`] is one piece of work. Its [`Contender`]s do that work on the same inputs and return the same number, which the
//! caller checks against [`Expected`] with the clock stopped. The loop over the operations is inside the contender, so that one
//! indirect call is shared by thousands of them; what is set up before the work, and freed after it, is off the clock.
//!
//! | file | workloads |
//! |---|---|
//! | `hit.rs` | `hit/..`, `two_threads/..`, `river/repeated_calls`: a value that is there |
//! | `context.rs` | `context/..`, `river/single_task`, `river/with_dependency`, `river/allocation`: a scope that lives for little |
//! | `request.rs` | `request/..`: a page of 13 runs and 30 calls |
//! | `fan_out.rs` | `river/three_..`, `river/parallel_..`: many tasks at once |
//! | `crowd.rs` | `river/ten_callers`, `river/thousand_callers`, `waiters/..`, `fail/..`: many callers of one task |
//! | `many.rs` | `miss/..`, `drop/..`: 100,000 keys |
//! | `again.rs` | `forget/..`, `river/cancellation`, `chain/..` |
//! | `memory.rs` | bytes of a context that lives |
//!
//! The `river/..` workloads are those of River's own benchmark (`kit/tasks`, in Go), with the figure that the engine has to reach
//! on a machine of two cores in [`goal_ns`](field@Workload::goal_ns). They stand here once: a context with one run *is* its `SingleTask`.
//!
//! Unless a workload says that it runs on tokio, its futures are polled by hand (`drive.rs`), so that no executor is part of the
//! figure, and its time is that of the thread, so that neither is what else runs on the machine (`clock.rs`). Which peer is in which workload, and who is left out: `peers.rs`.
#![cfg(not(loom))]

use std::time::Duration;

mod again;
mod clock;
mod context;
pub mod counting;
mod crowd;
mod drive;
mod fan_out;
mod hit;
mod many;
pub mod measure;
pub mod memory;
mod peers;
pub mod plot;
pub mod report;
mod request;

use crate::clock::Moment;
pub use crate::drive::ready;

/// The loop of a contender: so many operations, the sum of their results, and how long they took.
pub struct Runner(Box<dyn FnMut(u64) -> (u64, Duration)>);

impl std::fmt::Debug for Runner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Runner")
    }
}

impl Runner {
    /// A loop that keeps the time itself.
    fn timed(run: impl FnMut(u64) -> (u64, Duration) + 'static) -> Self {
        Self(Box::new(run))
    }

    /// `op` does the `i`th operation.
    fn each(mut op: impl FnMut(u64) -> u64 + 'static) -> Self {
        Self::timed(move |operations| {
            let start = Moment::now();
            let mut sum = 0u64;
            for i in 0..operations {
                sum = sum.wrapping_add(op(i));
            }
            (sum, start.elapsed())
        })
    }

    /// `op` does the operation with one of the keys, which come in turn.
    fn in_turn<K: 'static>(keys: Vec<K>, mut op: impl FnMut(&K) -> u64 + 'static) -> Self {
        Self::timed(move |operations| {
            let start = Moment::now();
            let sum = in_turn(&keys, operations, &mut op);
            (sum, start.elapsed())
        })
    }

    /// `prepare` makes what the `i`th operation works on, and the clock stands still. It also does when the rest is dropped. The
    /// clock itself costs some 200 ns an operation.
    fn prepared<T, D>(
        mut prepare: impl FnMut(u64) -> T + 'static,
        mut op: impl FnMut(T, u64) -> (u64, D) + 'static,
    ) -> Self {
        Self::timed(move |operations| {
            let (mut sum, mut time) = (0u64, Duration::ZERO);
            for i in 0..operations {
                let prepared = prepare(i);
                let start = Moment::now();
                let (result, rest) = op(prepared, i);
                time += start.elapsed();
                drop(rest);
                sum = sum.wrapping_add(result);
            }
            (sum, time)
        })
    }

    /// Does that many operations; gives the sum of their results and the time that they took.
    pub fn run(&mut self, operations: u64) -> (u64, Duration) {
        (self.0)(operations)
    }
}

/// (A remainder would cost a third of a hit, so the keys are walked by slices.)
fn in_turn<K>(keys: &[K], operations: u64, op: &mut impl FnMut(&K) -> u64) -> u64 {
    let mut sum = 0u64;
    let mut left = operations as usize;
    while left > 0 {
        let now = left.min(keys.len());
        for key in &keys[..now] {
            sum = sum.wrapping_add(op(key));
        }
        left -= now;
    }
    sum
}

/// What a contender is in its workload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The engine.
    Ours,
    /// What a user would pick instead: it keeps values or shares runs.
    Peer,
    /// What cannot be beaten, or does less: the bare work that everybody's time is made of.
    Limit,
}

/// One way to do the work.
pub struct Contender {
    /// What a table calls it.
    pub name: &'static str,
    /// What it is.
    pub kind: Kind,
    make: Box<dyn Fn() -> Runner>,
}

impl std::fmt::Debug for Contender {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Contender")
            .field("name", &self.name)
            .field("kind", &self.kind)
            .finish_non_exhaustive()
    }
}

impl Contender {
    fn ours(make: impl Fn() -> Runner + 'static) -> Self {
        Self::new(names::WATERSHED, Kind::Ours, make)
    }

    fn peer(name: &'static str, make: impl Fn() -> Runner + 'static) -> Self {
        Self::new(name, Kind::Peer, make)
    }

    fn limit(name: &'static str, make: impl Fn() -> Runner + 'static) -> Self {
        Self::new(name, Kind::Limit, make)
    }

    fn new(name: &'static str, kind: Kind, make: impl Fn() -> Runner + 'static) -> Self {
        let make = Box::new(make);
        Self { name, kind, make }
    }

    /// Sets it up, off the clock. What it needs is freed with the runner.
    pub fn make(&self) -> Runner {
        (self.make)()
    }
}

/// One piece of work and those who can do it.
#[derive(Debug)]
pub struct Workload {
    /// What a table calls it: `group/work`.
    pub name: String,
    /// One sentence: the path that the engine takes.
    pub about: &'static str,
    /// How many of what the name speaks of are in one operation: a table shows the time of one.
    pub per: u64,
    /// What the engine has to reach on two cores, by River's figures.
    pub goal_ns: Option<f64>,
    /// The engine first.
    pub contenders: Vec<Contender>,
    /// What every contender must return.
    pub expected: Expected,
}

impl Workload {
    fn new(
        name: impl Into<String>,
        about: &'static str,
        expected: impl Fn(u64) -> u64 + 'static,
        contenders: Vec<Contender>,
    ) -> Self {
        Self {
            name: name.into(),
            about,
            per: 1,
            goal_ns: None,
            contenders,
            expected: Expected(Box::new(expected)),
        }
    }

    fn per(self, per: u64) -> Self {
        Self { per, ..self }
    }

    fn goal_ns(self, goal: f64) -> Self {
        Self {
            goal_ns: Some(goal),
            ..self
        }
    }

    /// The engine, and the others.
    pub fn split(&self) -> (&Contender, &[Contender]) {
        let (ours, others) = self.contenders.split_first().expect("nobody does the work");
        assert_eq!(ours.kind, Kind::Ours, "{}: the engine is first", self.name);
        (ours, others)
    }
}

/// What the work comes to, by a formula.
pub struct Expected(Box<dyn Fn(u64) -> u64>);

impl std::fmt::Debug for Expected {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Expected")
    }
}

impl Expected {
    /// The sum of the results of that many operations.
    pub fn sum(&self, operations: u64) -> u64 {
        (0..operations).fold(0, |sum, i| sum.wrapping_add((self.0)(i)))
    }
}

/// All workloads, in the order in which tables show them. Nothing is set up yet.
pub fn workloads() -> Vec<Workload> {
    [
        hit::workloads(),
        context::workloads(),
        request::workloads(),
        fan_out::workloads(),
        crowd::workloads(),
        many::workloads(),
        again::workloads(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// Workloads of the engine alone, of which instructions are counted: beside those of [`workloads`], hits that do not depend on where
/// the seed of a process puts a key.
pub fn for_counting() -> Vec<Workload> {
    let mut all = hit::for_counting();
    all.extend(workloads());
    all
}

/// Names that two places must agree on: the workloads and the peers that a gate, a chart or a text speaks about.
pub mod names {
    /// A call whose value is there, of a context that holds thirty.
    pub const HIT: &str = "hit/u64_30";
    /// A context that lives for one run.
    pub const SINGLE_TASK: &str = "river/single_task";
    /// A page of 13 runs and 30 calls.
    pub const REQUEST: &str = "request/ready";
    /// The same with bodies that wait once.
    pub const REQUEST_YIELD: &str = "request/yield";

    /// The engine.
    pub const WATERSHED: &str = "watershed";
    /// `quick_cache::sync::Cache::get_or_insert_async`.
    pub const QUICK_CACHE: &str = "quick_cache";
    /// `moka::future::Cache::try_get_with`.
    pub const MOKA: &str = "moka";
    /// `DashMap<K, Arc<OnceCell<V>>>`.
    pub const DASHMAP: &str = "DashMap of OnceCells";
    /// `papaya::HashMap<K, Arc<OnceCell<V>>>`.
    pub const PAPAYA: &str = "papaya of OnceCells";
    /// `Mutex<HashMap<K, Arc<OnceCell<V>>>>`.
    pub const MUTEX_MAP: &str = "Mutex<HashMap> of OnceCells";
    /// The same, a hit read under the lock.
    pub const READ_IN_PLACE: &str = "Mutex<HashMap>, read in place";
    /// `Mutex<HashMap<K, Arc<async_once_cell::OnceCell<V>>>>`.
    pub const ASYNC_ONCE_CELL: &str = "Mutex<HashMap> of async-once-cells";
    /// `Mutex<HashMap<K, Shared<BoxFuture<..>>>>`.
    pub const SHARED: &str = "Mutex<HashMap> of Shared";
    /// `singleflight_async::SingleFlight::work`.
    pub const SINGLEFLIGHT: &str = "singleflight-async";
    /// topcoat's `#[memoize]`.
    pub const TOPCOAT: &str = "topcoat memoize";

    /// A look-up in a `hashbrown` map that nobody else may touch, with the same hasher.
    pub const HASHBROWN: &str = "hashbrown look-up";
    /// The bodies called as plain functions: nothing is kept or shared.
    pub const PLAIN: &str = "plain calls, nothing kept";
    /// A future that is boxed and polled.
    pub const BOXED: &str = "bare boxed future";
    /// `tokio::spawn` of each, and a wait for each.
    pub const SPAWN: &str = "bare tokio::spawn + join";
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every one of them, a few times each; on a stack that bears the chains of a debug build.
    #[test]
    fn every_contender_returns_the_same_result() {
        let all = || {
            for workload in for_counting() {
                let operations = if workload.per > 1_000 { 1 } else { 3 };
                let expected = workload.expected.sum(operations);
                assert_ne!(expected, 0, "{}", workload.name);
                for contender in &workload.contenders {
                    let (sum, time) = contender.make().run(operations);
                    assert_eq!(sum, expected, "{}: {}", workload.name, contender.name);
                    assert!(!time.is_zero(), "{}: {}", workload.name, contender.name);
                }
            }
        };
        std::thread::Builder::new()
            .stack_size(256 << 20)
            .spawn(all)
            .unwrap()
            .join()
            .unwrap();
    }

    #[test]
    fn names_are_not_given_twice() {
        let workloads = workloads();
        let mut names: Vec<_> = workloads.iter().map(|work| &work.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), workloads.len());
        for workload in &workloads {
            let mut names: Vec<_> = workload.contenders.iter().map(|c| c.name).collect();
            names.sort_unstable();
            names.dedup();
            assert_eq!(names.len(), workload.contenders.len(), "{}", workload.name);
        }
    }

    #[test]
    fn the_page_is_13_runs_and_30_calls() {
        let (runs, calls) = request::count();
        assert_eq!((runs, calls), (13, 30));
    }
}
