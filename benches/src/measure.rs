//! How a ratio comes about: the engine and one other, interleaved and paired in one process. Ours, theirs, theirs, ours, .. on short
//! batches, so that what happens to the machine happens to both sides of a ratio.

use std::time::{Duration, Instant};

use crate::counting::Taken;
use crate::{Runner, Workload};

/// How much to measure.
#[derive(Clone, Copy, Debug)]
pub struct Effort {
    /// What one ratio may take.
    pub time: Duration,
    /// As many pairs, however long they take.
    pub least_pairs: usize,
    /// No more than that.
    pub most_pairs: usize,
}

/// The middle half of what was measured.
#[derive(Clone, Copy, Debug)]
pub struct Spread {
    /// A quarter is less.
    pub low: f64,
    /// Half is less.
    pub median: f64,
    /// A quarter is more.
    pub high: f64,
}

impl Spread {
    fn of(mut values: Vec<f64>) -> Self {
        values.sort_by(f64::total_cmp);
        let at = |part: f64| values[((values.len() - 1) as f64 * part).round() as usize];
        Self {
            low: at(0.25),
            median: at(0.5),
            high: at(0.75),
        }
    }
}

/// One side of a ratio, for one of what the workload counts in.
#[derive(Clone, Copy, Debug)]
pub struct Side {
    /// Nanoseconds.
    pub ns: Spread,
    /// Allocations; 0 in a program that does not count.
    pub allocations: f64,
    /// The bytes that they asked for.
    pub bytes: f64,
}

/// What came out for one peer.
#[derive(Clone, Copy, Debug)]
pub struct Figures {
    /// The engine.
    pub ours: Side,
    /// The other.
    pub theirs: Side,
    /// Their time divided by ours, of each pair: above 1 the engine is faster.
    pub ratio: Spread,
    /// How many pairs.
    pub pairs: usize,
}

/// The engine, set up once for all ratios of a workload.
#[derive(Debug)]
pub struct Contest<'a> {
    workload: &'a Workload,
    ours: Measured,
    effort: Effort,
    heap: Heap,
}

impl<'a> Contest<'a> {
    /// Sets the engine up.
    pub fn new(workload: &'a Workload, effort: Effort) -> Self {
        let (ours, _) = workload.split();
        Self {
            ours: Measured::new(ours.make(), workload, effort),
            workload,
            effort,
            heap: Heap::default(),
        }
    }

    /// Measures the engine against one of the others.
    pub fn against(&mut self, peer: &crate::Contender) -> Figures {
        let start = Instant::now();
        let mut theirs = Measured::new(peer.make(), self.workload, self.effort);
        let (mut ours_ns, mut theirs_ns, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
        loop {
            let pairs = ratios.len();
            let enough = start.elapsed() >= self.effort.time && pairs >= self.effort.least_pairs;
            if enough || pairs >= self.effort.most_pairs {
                break;
            }
            self.heap.shake();
            // Who goes first changes, so that a drift favours nobody.
            let (a, b) = if pairs % 2 == 0 {
                let a = self.ours.time(&self.workload.name);
                (a, theirs.time(peer.name))
            } else {
                let b = theirs.time(peer.name);
                (self.ours.time(&self.workload.name), b)
            };
            ours_ns.push(a);
            theirs_ns.push(b);
            ratios.push(b / a);
        }
        Figures {
            pairs: ratios.len(),
            ours: self.ours.side(ours_ns),
            theirs: theirs.side(theirs_ns),
            ratio: Spread::of(ratios),
        }
    }
}

/// A contender with the number of operations that make a batch.
#[derive(Debug)]
struct Measured {
    runner: Runner,
    operations: u64,
    per: u64,
    expected: u64,
    allocations: f64,
    bytes: f64,
}

impl Measured {
    fn new(mut runner: Runner, workload: &Workload, effort: Effort) -> Self {
        // Long enough for the clock and for two threads to meet, short enough for many pairs.
        let batch = (effort.time / 100).clamp(Duration::from_micros(200), Duration::from_millis(4));
        let operations = batch_size(&mut runner, batch);
        let before = Taken::now();
        runner.run(operations);
        let taken = Taken::now() - before;
        let of_one = |total: u64| total as f64 / (operations * workload.per) as f64;
        Self {
            expected: workload.expected.sum(operations),
            per: workload.per,
            allocations: of_one(taken.allocations),
            bytes: of_one(taken.bytes),
            runner,
            operations,
        }
    }

    /// Nanoseconds of one.
    fn time(&mut self, who: &str) -> f64 {
        let (sum, time) = self.runner.run(self.operations);
        assert_eq!(sum, self.expected, "{who}: the result is wrong");
        time.as_nanos() as f64 / (self.operations * self.per) as f64
    }

    fn side(&self, ns: Vec<f64>) -> Side {
        Side {
            ns: Spread::of(ns),
            allocations: self.allocations,
            bytes: self.bytes,
        }
    }
}

/// How many operations take about that long. Warms the contender up on the way. (What took long by chance does not the next time.)
///
/// What is off the clock counts too, a hundredth: where it is nearly all, as in dropping what takes long to fill, longer batches would not end.
fn batch_size(runner: &mut Runner, batch: Duration) -> u64 {
    let mut operations = 1;
    loop {
        let began = Instant::now();
        if (0..2).all(|_| runner.run(operations).1 >= batch) || began.elapsed() > 100 * batch {
            return operations;
        }
        operations *= 2;
    }
}

/// Moves the blocks that a contender gets from the allocator: where they lie is worth 30 % to either side, by chance, and a
/// contender that frees what it takes would keep its chance for the whole run.
#[derive(Debug, Default)]
struct Heap {
    held: Vec<Vec<u8>>,
    state: u64,
}

impl Heap {
    fn shake(&mut self) {
        if self.held.len() > 2_000 {
            self.held.clear();
        }
        for _ in 0..100 {
            // A linear congruential generator (Knuth's MMIX); its upper bits are good enough for this.
            self.state = self
                .state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            let bytes = 16 + (self.state >> 33) as usize % 512;
            self.held.push(Vec::with_capacity(bytes));
        }
    }
}
