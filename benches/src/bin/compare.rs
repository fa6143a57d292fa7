//! The engine against each peer, interleaved and paired in one process: ours, peer, peer, ours, ..
//! on short batches, so that what happens to the machine happens to both sides of a ratio.
//!
//! ```text
//! cargo run --release -p watershed-benches --bin compare -- [--quick] [--check]
//! ```
//!
//! Prints a Markdown table: the medians of the time of one operation, the median of the ratios of
//! the pairs (above 1: the engine is faster), and the allocations of one operation. `--quick`
//! takes fewer pairs. `--check` exits with 1 if a gate fails. The counting allocator is in both
//! sides of each figure; it adds an increment of a thread's counter to each allocation.

#[cfg(loom)]
fn main() {}

#[cfg(not(loom))]
fn main() -> std::process::ExitCode {
    compare::main()
}

#[cfg(not(loom))]
#[global_allocator]
static ALLOCATOR: counting::Counting = counting::Counting;

#[cfg(not(loom))]
mod compare {
    use std::process::ExitCode;
    use std::time::{Duration, Instant};

    use watershed_benches::{Contender, Group, groups, names};

    use super::counting;

    /// In that group the engine must be at least `ratio` times as fast as that peer.
    struct Gate {
        group: &'static str,
        peer: &'static str,
        ratio: f64,
    }

    const GATES: [Gate; 4] = [
        Gate {
            group: names::HIT,
            peer: names::QUICK_CACHE,
            ratio: 5.0,
        },
        Gate {
            group: names::HIT,
            peer: names::DASHMAP,
            ratio: 10.0,
        },
        Gate {
            group: names::CONTEXT_ONE_RUN,
            peer: names::MUTEX_MAP,
            ratio: 1.0,
        },
        Gate {
            group: names::REQUEST,
            peer: names::MUTEX_MAP,
            ratio: 1.0,
        },
    ];

    /// How much to measure.
    struct Effort {
        pairs: usize,
        batch: Duration,
    }

    /// What came out for one peer.
    struct Figures {
        ours_ns: f64,
        peer_ns: f64,
        ratio: f64,
        ours_allocations: f64,
        peer_allocations: f64,
    }

    pub(super) fn main() -> ExitCode {
        let mut effort = Effort {
            pairs: 401,
            batch: Duration::from_micros(500),
        };
        let mut check = false;
        for argument in std::env::args().skip(1) {
            match &*argument {
                "--quick" => {
                    effort = Effort {
                        pairs: 101,
                        batch: Duration::from_micros(200),
                    }
                }
                "--check" => check = true,
                other => {
                    eprintln!("unknown argument `{other}`; there are --quick and --check");
                    return ExitCode::from(2);
                }
            }
        }

        println!("| work | peer | ours ns | peer ns | ratio | ours allocs | peer allocs |");
        println!("|---|---|--:|--:|--:|--:|--:|");
        let mut held = 0;
        let mut failures = Vec::new();
        for mut group in groups() {
            for mut peer in std::mem::take(&mut group.peers) {
                let figures = measure(&mut group, &mut peer, &effort);
                let Figures {
                    ours_ns,
                    peer_ns,
                    ratio,
                    ours_allocations,
                    peer_allocations,
                } = figures;
                println!(
                    "| {} | {} | {ours_ns:.1} | {peer_ns:.1} | {ratio:.2} | \
                     {ours_allocations:.2} | {peer_allocations:.2} |",
                    group.name, peer.name,
                );
                for gate in &GATES {
                    if (gate.group, gate.peer) != (group.name, peer.name) {
                        continue;
                    }
                    if ratio >= gate.ratio {
                        held += 1;
                    } else {
                        failures.push(format!(
                            "{} against {}: {ratio:.2}, must be at least {:.2}",
                            gate.group, gate.peer, gate.ratio,
                        ));
                    }
                }
            }
        }
        println!(
            "\nMedians of {} pairs, batches of {:?}, each pair on another heap layout.",
            effort.pairs, effort.batch
        );

        if check {
            assert_eq!(
                held + failures.len(),
                GATES.len(),
                "a gate speaks of no contender"
            );
            for failure in &failures {
                eprintln!("gate failed: {failure}");
            }
            if !failures.is_empty() {
                return ExitCode::FAILURE;
            }
            println!("All {held} gates hold.");
        }
        ExitCode::SUCCESS
    }

    fn measure(group: &mut Group, peer: &mut Contender, effort: &Effort) -> Figures {
        let ours_size = batch_size(&mut group.ours, effort.batch);
        let peer_size = batch_size(peer, effort.batch);
        let (ours_sum, peer_sum) = (group.expected.sum(ours_size), group.expected.sum(peer_size));

        let ours_allocations = allocations(&mut group.ours, ours_size);
        let peer_allocations = allocations(peer, peer_size);

        let mut ours_ns = Vec::with_capacity(effort.pairs);
        let mut peer_ns = Vec::with_capacity(effort.pairs);
        let mut ratios = Vec::with_capacity(effort.pairs);
        let mut heap = Heap::default();
        for pair in 0..effort.pairs {
            heap.shake();
            let ours = |group: &mut Group| time(&mut group.ours, ours_size, ours_sum);
            // Who goes first changes, so that a drift favours nobody.
            let (a, b) = if pair % 2 == 0 {
                let a = ours(group);
                (a, time(peer, peer_size, peer_sum))
            } else {
                let b = time(peer, peer_size, peer_sum);
                (ours(group), b)
            };
            ours_ns.push(a);
            peer_ns.push(b);
            ratios.push(b / a);
        }
        Figures {
            ours_ns: median(ours_ns),
            peer_ns: median(peer_ns),
            ratio: median(ratios),
            ours_allocations,
            peer_allocations,
        }
    }

    /// Moves the blocks that a contender gets from the allocator: where they lie is worth 30 % to either side, by chance, and a
    /// contender that frees what it takes would keep its chance for the whole run.
    #[derive(Default)]
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

    /// How many operations take about that long. Warms the contender up on the way.
    fn batch_size(contender: &mut Contender, batch: Duration) -> u64 {
        let mut operations = 32;
        loop {
            let start = Instant::now();
            contender.run(operations);
            if start.elapsed() >= batch {
                return operations;
            }
            operations *= 2;
        }
    }

    /// Nanoseconds of one operation.
    fn time(contender: &mut Contender, operations: u64, expected: u64) -> f64 {
        let start = Instant::now();
        let sum = contender.run(operations);
        let time = start.elapsed();
        assert_eq!(sum, expected, "{}: the result is wrong", contender.name);
        time.as_nanos() as f64 / operations as f64
    }

    fn allocations(contender: &mut Contender, operations: u64) -> f64 {
        let before = counting::count();
        contender.run(operations);
        (counting::count() - before) as f64 / operations as f64
    }

    fn median(mut values: Vec<f64>) -> f64 {
        values.sort_by(f64::total_cmp);
        values[values.len() / 2]
    }
}

/// An allocator that counts the allocations of each thread.
#[cfg(not(loom))]
mod counting {
    use std::alloc::{GlobalAlloc, Layout, System};
    use std::cell::Cell;

    thread_local! {
        static COUNT: Cell<u64> = const { Cell::new(0) };
    }

    /// Allocations that this thread has made so far.
    pub(super) fn count() -> u64 {
        COUNT.get()
    }

    pub(super) struct Counting;

    // SAFETY:
    // * Every method hands its arguments to `System` and its result back, unchanged, so the
    //   contract of `GlobalAlloc` holds because `System` keeps it.
    // * The counter has no destructor and is made without an allocation, so that counting neither
    //   allocates nor unwinds.
    unsafe impl GlobalAlloc for Counting {
        unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
            COUNT.set(COUNT.get() + 1);
            // SAFETY: the caller's promise about `layout` is the one that `System` asks for.
            unsafe { System.alloc(layout) }
        }

        unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
            // SAFETY: `pointer` came from `alloc` or `realloc` above, so from `System`, with `layout`.
            unsafe { System.dealloc(pointer, layout) }
        }

        unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
            COUNT.set(COUNT.get() + 1);
            // SAFETY: as in `dealloc`; `new_size` is what the caller promised it to be.
            unsafe { System.realloc(pointer, layout, new_size) }
        }
    }
}
