//! The second tier against each peer that people put in its place, in one process.
//!
//! ```text
//! cargo run --release -p watershed-benches --bin compare_shared -- [hit] [miss] [storm] [mix] [rates]
//! ```
//!
//! Without arguments everything. Times are medians over rounds in which the contenders take turns, so that what happens to the machine
//! happens to all; a ratio is the median of the ratios of the rounds (above 1: the engine is faster). Values are `u64` behind what each
//! contender hands out: a [`Held`](watershed::Held) here, an `Arc` from the peers, and `u64` itself where it says so.
//!
//! * `hit`: 1,000 keys that are there, from 1, 2 and 4 threads.
//! * `miss`: a new key at each call, with a bound of 10,000 entries.
//! * `storm`: 1,000 callers of one key that has expired, or is due to be refreshed; the run takes 5 ms.
//! * `mix`: Zipf keys from 2 threads, with a bound of a tenth of them.
//! * `rates`: how many calls are hits, per trace and bound. No clock is involved: these are the same on every machine.

#[cfg(loom)]
fn main() {}

#[cfg(not(loom))]
fn main() {
    compare::main();
}

#[cfg(not(loom))]
mod compare {
    use std::convert::Infallible;
    use std::future::Future;
    use std::hint::black_box;
    use std::sync::Arc;
    use std::sync::Barrier;
    use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
    use std::time::{Duration, Instant};

    use foldhash::fast::RandomState;
    use tokio::sync::OnceCell;
    use watershed::{Ctx, Shared};
    use watershed_benches::ready;

    /// The runs so far, of whatever contender; those of one measurement are counted from zero.
    static RUNS: AtomicU64 = AtomicU64::new(0);

    async fn body(n: u64) -> u64 {
        RUNS.fetch_add(1, Relaxed);
        n.wrapping_mul(3)
    }

    async fn slow_body(n: u64) -> u64 {
        RUNS.fetch_add(1, Relaxed);
        tokio::time::sleep(Duration::from_millis(5)).await;
        n.wrapping_mul(3)
    }

    async fn task(_: Ctx<()>, n: u64) -> Result<u64, Infallible> {
        Ok(body(n).await)
    }

    async fn slow_task(_: Ctx<()>, n: u64) -> Result<u64, Infallible> {
        Ok(slow_body(n).await)
    }

    /// One cache, shared by threads.
    trait Cache: Clone + Send + Sync + 'static {
        fn get(&self, n: u64) -> impl Future<Output = u64> + Send;
        fn get_slow(&self, n: u64) -> impl Future<Output = u64> + Send;
    }

    impl Cache for Shared<()> {
        #[inline(always)]
        async fn get(&self, n: u64) -> u64 {
            *self.run(task, n).await.unwrap()
        }
        async fn get_slow(&self, n: u64) -> u64 {
            *self.run(slow_task, n).await.unwrap()
        }
    }

    type Moka = moka::future::Cache<u64, Arc<u64>, RandomState>;

    impl Cache for Moka {
        #[inline(always)]
        async fn get(&self, n: u64) -> u64 {
            let init = async { Ok::<_, Infallible>(Arc::new(body(n).await)) };
            *self.try_get_with(n, init).await.unwrap()
        }
        async fn get_slow(&self, n: u64) -> u64 {
            let init = async { Ok::<_, Infallible>(Arc::new(slow_body(n).await)) };
            *self.try_get_with(n, init).await.unwrap()
        }
    }

    type Quick<V> = Arc<
        quick_cache::sync::Cache<
            u64,
            V,
            quick_cache::UnitWeighter,
            RandomState,
            quick_cache::sync::DefaultLifecycle<u64, V>,
        >,
    >;

    impl Cache for Quick<Arc<u64>> {
        #[inline(always)]
        async fn get(&self, n: u64) -> u64 {
            let init = async { Ok::<_, Infallible>(Arc::new(body(n).await)) };
            *self.get_or_insert_async(&n, init).await.unwrap()
        }
        async fn get_slow(&self, n: u64) -> u64 {
            let init = async { Ok::<_, Infallible>(Arc::new(slow_body(n).await)) };
            *self.get_or_insert_async(&n, init).await.unwrap()
        }
    }

    impl Cache for Quick<u64> {
        #[inline(always)]
        async fn get(&self, n: u64) -> u64 {
            let init = async { Ok::<_, Infallible>(body(n).await) };
            self.get_or_insert_async(&n, init).await.unwrap()
        }
        async fn get_slow(&self, n: u64) -> u64 {
            let init = async { Ok::<_, Infallible>(slow_body(n).await) };
            self.get_or_insert_async(&n, init).await.unwrap()
        }
    }

    /// What people write by hand: no bound, no expiry.
    type Cells = Arc<papaya::HashMap<u64, Arc<OnceCell<u64>>, RandomState>>;

    fn cell(cells: &Cells, n: u64) -> Arc<OnceCell<u64>> {
        let cells = cells.pin();
        match cells.get(&n) {
            Some(cell) => cell.clone(),
            None => cells.get_or_insert_with(n, Arc::default).clone(),
        }
    }

    impl Cache for Cells {
        #[inline(always)]
        async fn get(&self, n: u64) -> u64 {
            *cell(self, n).get_or_init(|| body(n)).await
        }
        async fn get_slow(&self, n: u64) -> u64 {
            *cell(self, n).get_or_init(|| slow_body(n)).await
        }
    }

    fn shared(bound: usize) -> Shared<()> {
        Shared::builder(()).max_entries(bound).build()
    }

    fn shared_ttl(bound: usize) -> Shared<()> {
        let builder = Shared::builder(()).max_entries(bound);
        builder.ttl(Duration::from_secs(3600)).build()
    }

    fn moka(bound: usize) -> Moka {
        moka::future::Cache::builder()
            .max_capacity(bound as u64)
            .build_with_hasher(RandomState::default())
    }

    fn moka_ttl(bound: usize) -> Moka {
        moka::future::Cache::builder()
            .max_capacity(bound as u64)
            .time_to_live(Duration::from_secs(3600))
            .build_with_hasher(RandomState::default())
    }

    fn quick<V: Clone>(bound: usize) -> Quick<V> {
        Arc::new(quick_cache::sync::Cache::with(
            bound,
            bound as u64,
            quick_cache::UnitWeighter,
            RandomState::default(),
            quick_cache::sync::DefaultLifecycle::default(),
        ))
    }

    fn cells() -> Cells {
        Arc::new(
            papaya::HashMap::builder()
                .hasher(RandomState::default())
                .build(),
        )
    }

    fn runtime(threads: usize) -> tokio::runtime::Runtime {
        if threads == 1 {
            tokio::runtime::Builder::new_current_thread()
        } else {
            let mut builder = tokio::runtime::Builder::new_multi_thread();
            builder.worker_threads(threads);
            builder
        }
        .enable_time()
        .build()
        .unwrap()
    }

    pub(super) fn main() {
        let wanted: Vec<String> = std::env::args().skip(1).collect();
        let wants = |what: &str| wanted.is_empty() || wanted.iter().any(|w| w == what);
        if wants("hit") {
            hit();
        }
        if wants("miss") {
            miss();
        }
        if wants("storm") {
            storm();
        }
        if wants("mix") {
            mix();
        }
        if wants("rates") {
            rates();
        }
    }

    // --- times -----------------------------------------------------------------------------------

    type Round = Box<dyn FnMut() -> f64>;

    /// Runs the contenders in turn and prints a table; the first one is the one that ratios are to.
    fn table(title: &str, rounds: usize, mut contenders: Vec<(&'static str, Round)>) {
        let mut times: Vec<Vec<f64>> = vec![Vec::new(); contenders.len()];
        for round in 0..rounds {
            for at in 0..contenders.len() {
                // The other way round every second time.
                let last = contenders.len() - 1;
                let at = if round % 2 == 0 { at } else { last - at };
                times[at].push(contenders[at].1());
            }
        }
        println!("\n| {title} | ns | the engine is faster by |\n|---|---|---|");
        for (at, (name, _)) in contenders.iter().enumerate() {
            let ratios = times[at]
                .iter()
                .zip(&times[0])
                .map(|(peer, ours)| peer / ours);
            println!(
                "| {name} | {:.1} | {:.2} |",
                median(times[at].clone()),
                median(ratios.collect())
            );
        }
    }

    fn median(mut numbers: Vec<f64>) -> f64 {
        numbers.sort_by(f64::total_cmp);
        numbers[numbers.len() / 2]
    }

    const HIT_KEYS: u64 = 1_000;

    fn hit() {
        for threads in [1, 2, 4] {
            fn hits<C: Cache>(cache: C, threads: usize) -> Round {
                runtime(1).block_on(async {
                    for n in 0..HIT_KEYS {
                        cache.get(n).await;
                    }
                });
                Box::new(move || {
                    let calls = 50_000;
                    let start = Barrier::new(threads);
                    let took = std::thread::scope(|scope| {
                        let threads: Vec<_> = (0..threads as u64)
                            .map(|thread| {
                                let (cache, start) = (&cache, &start);
                                scope.spawn(move || {
                                    start.wait();
                                    let begin = Instant::now();
                                    let mut sum = 0u64;
                                    let mut n = thread * 97 % HIT_KEYS;
                                    for _ in 0..calls {
                                        sum = sum.wrapping_add(ready(cache.get(black_box(n))));
                                        n += 1;
                                        if n == HIT_KEYS {
                                            n = 0;
                                        }
                                    }
                                    black_box(sum);
                                    begin.elapsed()
                                })
                            })
                            .collect();
                        threads
                            .into_iter()
                            .map(|t| t.join().unwrap())
                            .max()
                            .unwrap()
                    });
                    took.as_nanos() as f64 / calls as f64
                })
            }
            table(
                &format!("hit, {threads} thread(s)"),
                41,
                vec![
                    ("watershed", hits(shared(10_000), threads)),
                    ("moka `try_get_with`", hits(moka(10_000), threads)),
                    (
                        "quick_cache, `Arc`",
                        hits(quick::<Arc<u64>>(10_000), threads),
                    ),
                    ("quick_cache, `u64`", hits(quick::<u64>(10_000), threads)),
                    ("papaya + OnceCell", hits(cells(), threads)),
                ],
            );
            table(
                &format!("hit with a time to live, {threads} thread(s)"),
                41,
                vec![
                    ("watershed", hits(shared_ttl(10_000), threads)),
                    ("moka `try_get_with`", hits(moka_ttl(10_000), threads)),
                ],
            );
        }
    }

    fn miss() {
        fn misses<C: Cache>(cache: C) -> Round {
            let runtime = runtime(1);
            let mut next = 0;
            Box::new(move || {
                let calls = 5_000;
                let begin = Instant::now();
                runtime.block_on(async {
                    for n in next..next + calls {
                        black_box(cache.get(n).await);
                    }
                });
                next += calls;
                begin.elapsed().as_nanos() as f64 / calls as f64
            })
        }
        table(
            "miss, bound of 10,000",
            31,
            vec![
                ("watershed", misses(shared(10_000))),
                ("moka `try_get_with`", misses(moka(10_000))),
                ("quick_cache, `Arc`", misses(quick::<Arc<u64>>(10_000))),
                ("papaya + OnceCell (no bound)", misses(cells())),
            ],
        );
    }

    fn mix() {
        const KEYS: usize = 100_000;
        let keys = Arc::new(zipf(KEYS, 0.99, 400_000, 7));
        fn round<C: Cache>(cache: C, keys: Arc<Vec<u64>>) -> Round {
            let runtime = runtime(2);
            Box::new(move || {
                let begin = Instant::now();
                let half = keys.len() / 2;
                let calls = [0..half, half..keys.len()].map(|part| {
                    let (cache, keys) = (cache.clone(), keys.clone());
                    runtime.spawn(async move {
                        for &n in &keys[part] {
                            black_box(cache.get(n).await);
                        }
                    })
                });
                runtime.block_on(async {
                    for call in calls {
                        call.await.unwrap();
                    }
                });
                begin.elapsed().as_nanos() as f64 / keys.len() as f64
            })
        }
        table(
            "Zipf 0.99 over 100,000 keys, bound of 10,000, 2 threads: a call",
            9,
            vec![
                ("watershed", round(shared(KEYS / 10), keys.clone())),
                ("moka `try_get_with`", round(moka(KEYS / 10), keys.clone())),
                (
                    "quick_cache, `Arc`",
                    round(quick::<Arc<u64>>(KEYS / 10), keys.clone()),
                ),
            ],
        );
    }

    /// 1,000 callers at once: how many runs there were, and how long callers waited, in microseconds.
    fn storm() {
        const CALLERS: usize = 1_000;
        println!(
            "\n| 1,000 callers of one key, the run takes 5 ms | runs | median wait, us | longest wait, us |\n|---|---|---|---|"
        );
        let runtime = runtime(2);
        fn storm_on<C: Cache>(
            runtime: &tokio::runtime::Runtime,
            name: &str,
            cache: C,
            rests: Duration,
        ) {
            let rounds = (0..9).map(|_| {
                runtime.block_on(async {
                    cache.get_slow(1).await;
                    tokio::time::sleep(rests).await;
                    RUNS.store(0, Relaxed);
                    let calls: Vec<_> = (0..CALLERS)
                        .map(|_| {
                            let cache = cache.clone();
                            tokio::spawn(async move {
                                let begin = Instant::now();
                                cache.get_slow(1).await;
                                begin.elapsed().as_micros() as f64
                            })
                        })
                        .collect();
                    let mut waits = Vec::new();
                    for call in calls {
                        waits.push(call.await.unwrap());
                    }
                    // A refresh may still be under way.
                    tokio::time::sleep(Duration::from_millis(10)).await;
                    let longest = waits.iter().copied().fold(0.0, f64::max);
                    (RUNS.load(Relaxed) as f64, median(waits), longest)
                })
            });
            let rounds: Vec<_> = rounds.collect();
            println!(
                "| {name} | {} | {:.0} | {:.0} |",
                rounds.iter().map(|r| r.0).fold(0.0, f64::max),
                median(rounds.iter().map(|r| r.1).collect()),
                median(rounds.iter().map(|r| r.2).collect()),
            );
        }
        let ttl = Duration::from_millis(20);
        let ours = || Shared::builder(()).jitter(0.0);
        storm_on(&runtime, "watershed, expired", ours().ttl(ttl).build(), ttl);
        let refreshes = ours().refresh_after(ttl).ttl(ttl * 100).build();
        storm_on(&runtime, "watershed, to be refreshed", refreshes, ttl);
        let moka = moka::future::Cache::builder()
            .time_to_live(ttl)
            .build_with_hasher(RandomState::default());
        storm_on(&runtime, "moka, expired", moka, ttl);
    }

    // --- hit rates -------------------------------------------------------------------------------

    /// A generator with 64 bits of state, for traces that are the same everywhere.
    struct Random(u64);

    impl Random {
        fn next(&mut self) -> u64 {
            self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut x = self.0;
            x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            x ^ (x >> 31)
        }

        fn fraction(&mut self) -> f64 {
            (self.next() >> 11) as f64 / (1u64 << 53) as f64
        }
    }

    /// `calls` keys below `keys`, each as frequent as a power of its rank says.
    fn zipf(keys: usize, exponent: f64, calls: usize, seed: u64) -> Vec<u64> {
        let mut random = Random(seed);
        let mut sums = Vec::with_capacity(keys);
        let mut sum = 0.0;
        for rank in 1..=keys {
            sum += (rank as f64).powf(-exponent);
            sums.push(sum);
        }
        (0..calls)
            .map(|_| {
                let at = random.fraction() * sum;
                let rank = sums.partition_point(|&below| below < at) as u64;
                // Not in the order of their numbers.
                Random(rank).next() >> 20
            })
            .collect()
    }

    /// A Zipf trace with sequential scans of other keys in between, a third of all calls.
    fn scanned(keys: usize, calls: usize) -> Vec<u64> {
        let mut trace = Vec::with_capacity(calls);
        let mut hot = zipf(keys, 0.9, calls, 11).into_iter();
        let mut scan = 1 << 50;
        while trace.len() < calls {
            trace.extend(hot.by_ref().take(keys / 5));
            trace.extend(scan..scan + keys as u64 / 10);
            scan += keys as u64 / 10;
        }
        trace
    }

    /// The hot keys move: each tenth of the trace has others.
    fn shifting(keys: usize, calls: usize) -> Vec<u64> {
        let trace = zipf(keys, 0.9, calls, 13).into_iter().enumerate();
        let shifted =
            trace.map(|(at, key)| key.wrapping_add((at * 10 / calls) as u64 * 0x1_0000_0001));
        shifted.collect()
    }

    /// Sequential rounds over half more keys than there is room for at the larger bound.
    fn rounds(keys: usize, calls: usize) -> Vec<u64> {
        let over = keys as u64 * 3 / 20;
        (0..calls as u64).map(|at| at % over).collect()
    }

    fn rates() {
        const KEYS: usize = 100_000;
        const CALLS: usize = 1_000_000;
        println!(
            "\n| hits per cent of {CALLS} calls | bound | watershed | moka | quick_cache | to the better one |\n|---|---|---|---|---|---|"
        );
        let traces = [
            ("Zipf 0.7", zipf(KEYS, 0.7, CALLS, 1)),
            ("Zipf 0.9", zipf(KEYS, 0.9, CALLS, 2)),
            ("Zipf 0.99", zipf(KEYS, 0.99, CALLS, 3)),
            ("Zipf 1.2", zipf(KEYS, 1.2, CALLS, 4)),
            ("Zipf 0.9 with scans", scanned(KEYS, CALLS)),
            ("Zipf 0.9, shifting", shifting(KEYS, CALLS)),
            ("rounds over 15,000", rounds(KEYS, CALLS)),
        ];
        fn rate<C: Cache>(cache: C, trace: &[u64]) -> f64 {
            RUNS.store(0, Relaxed);
            runtime(1).block_on(async {
                for &key in trace {
                    cache.get(key).await;
                }
            });
            100.0 - 100.0 * RUNS.load(Relaxed) as f64 / trace.len() as f64
        }
        for (name, trace) in &traces {
            for bound in [KEYS / 100, KEYS / 10] {
                let ours = rate(shared(bound), trace);
                let moka = rate(moka(bound), trace);
                let quick = rate(quick::<u64>(bound), trace);
                println!(
                    "| {name} | {bound} | {ours:.2} | {moka:.2} | {quick:.2} | {:+.2} |",
                    ours - moka.max(quick)
                );
            }
        }
    }
}
