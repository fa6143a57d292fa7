//! Many keys through a small bound, for the second tier:
//!
//! ```text
//! cargo run --release -p watershed-loom-tests --bin soak_shared -- [--keys 1000000] [--bound 10000] [--threads 8] [--seconds 30]
//! ```
//!
//! Threads call random keys of a tier, one in four of them twice, forget some, and hold some values for a while, with expiry and refresh on,
//! until each key was called once on average and the time is up. All the while:
//!
//! * a value is the one of its key,
//! * at most one run of a key is under way in each generation of the key, and at most one where nothing is forgotten,
//! * there are never more entries than the bound allows.
//!
//! Live bytes are sampled, and must be flat; at the end everything was dropped, once.
//! A fault ends the process with 1.

#[cfg(loom)]
fn main() {}

#[cfg(not(loom))]
fn main() {
    soak::main();
}

// It counts what is allocated here too.
#[cfg(not(loom))]
#[path = "../../../engine/examples/server/heap.rs"]
mod heap;

#[cfg(not(loom))]
mod soak {
    use std::sync::Arc;
    use std::sync::atomic::{
        AtomicBool, AtomicIsize, AtomicU8, AtomicU64, Ordering::Relaxed, Ordering::SeqCst,
    };
    use std::time::{Duration, Instant};

    use watershed::{Ctx, Held, Shared};

    use super::heap::live_bytes;

    struct World {
        /// Runs of each key that are under way, for the keys that nobody forgets.
        running: Vec<AtomicU8>,
        runs: AtomicU64,
        values: Arc<AtomicIsize>,
    }

    /// Keys that are a multiple of this are forgotten now and then, so a run of them may go on beside the next.
    const FORGOTTEN: u64 = 16;

    /// A value of some 300 bytes that is counted.
    struct Value {
        key: u64,
        bytes: Vec<u8>,
        values: Arc<AtomicIsize>,
    }

    impl Drop for Value {
        fn drop(&mut self) {
            self.values.fetch_sub(1, SeqCst);
        }
    }

    struct Running<'w>(&'w AtomicU8);

    impl Drop for Running<'_> {
        fn drop(&mut self) {
            self.0.fetch_sub(1, SeqCst);
        }
    }

    async fn value(ctx: Ctx<World>, key: u64) -> Result<Value, String> {
        let world = ctx.state();
        let running = &world.running[key as usize];
        let others = running.fetch_add(1, SeqCst);
        let _running = Running(running);
        if others > 0 && !key.is_multiple_of(FORGOTTEN) {
            fault(&format!("{} runs of {key} at a time", others + 1));
        }
        world.runs.fetch_add(1, Relaxed);
        if key.is_multiple_of(3) {
            tokio::task::yield_now().await;
        }
        world.values.fetch_add(1, SeqCst);
        if key.is_multiple_of(1_001) {
            world.values.fetch_sub(1, SeqCst);
            return Err("some fail".to_owned());
        }
        Ok(Value {
            key,
            bytes: vec![key as u8; 300],
            values: world.values.clone(),
        })
    }

    fn fault(what: &str) -> ! {
        eprintln!("fault: {what}");
        std::process::exit(1);
    }

    fn option(name: &str, otherwise: u64) -> u64 {
        let mut args = std::env::args().skip_while(|arg| arg != name);
        let value = args.nth(1).map(|value| value.parse());
        match value {
            Some(Ok(value)) => value,
            None => otherwise,
            Some(Err(_)) => fault(&format!("{name} takes a number")),
        }
    }

    pub(super) fn main() {
        let keys = option("--keys", 1_000_000);
        let bound = option("--bound", 10_000) as usize;
        let threads = option("--threads", 8) as usize;
        let time = Duration::from_secs(option("--seconds", 30));
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(threads)
            .enable_time()
            .build()
            .unwrap();
        let values = Arc::new(AtomicIsize::new(0));
        let shared = Shared::builder(World {
            running: (0..keys).map(|_| AtomicU8::new(0)).collect(),
            runs: AtomicU64::new(0),
            values: values.clone(),
        })
        .max_entries(bound)
        .ttl(Duration::from_millis(500))
        .refresh_after(Duration::from_millis(200))
        .build();
        let calls = Arc::new(AtomicU64::new(0));
        let stop = Arc::new(AtomicBool::new(false));
        let begin = Instant::now();
        let callers: Vec<_> = (0..threads as u64)
            .map(|thread| {
                let (shared, calls, stop) = (shared.clone(), calls.clone(), stop.clone());
                runtime.spawn(async move {
                    let mut random = thread.wrapping_mul(0x9e37_79b9_7f4a_7c15);
                    let mut held: Vec<Held<Value>> = Vec::new();
                    while !stop.load(Relaxed) {
                        random = random
                            .wrapping_mul(6_364_136_223_846_793_005)
                            .wrapping_add(1_442_695_040_888_963_407);
                        let chance = random >> 33;
                        // Half of the calls are for one key in a hundred.
                        let key = if chance.is_multiple_of(2) {
                            chance % keys
                        } else {
                            chance % (keys / 100)
                        };
                        for _ in 0..1 + u64::from(chance.is_multiple_of(4)) {
                            calls.fetch_add(1, Relaxed);
                            match shared.run(value, key).await {
                                Ok(value) if value.key == key && value.bytes.len() == 300 => {
                                    if chance.is_multiple_of(64) {
                                        held.push(value);
                                    }
                                }
                                Ok(value) => {
                                    fault(&format!("{key} has the value of {}", value.key))
                                }
                                Err(_) if key.is_multiple_of(1_001) => {}
                                Err(error) => fault(&format!("{key}: {error}")),
                            }
                        }
                        if key.is_multiple_of(FORGOTTEN) && chance.is_multiple_of(8) {
                            shared.forget(value, &key);
                        }
                        if held.len() > 100 {
                            held.clear();
                        }
                    }
                })
            })
            .collect();
        let mut live = Vec::new();
        while begin.elapsed() < time || shared.state().runs.load(Relaxed) < keys {
            std::thread::sleep(time / 10);
            if shared.len() > bound {
                fault(&format!("{} entries", shared.len()));
            }
            live.push(live_bytes());
            println!(
                "{:.0?}: {} calls, {} runs, {} entries, {} values, {} KiB live",
                begin.elapsed(),
                calls.load(Relaxed),
                shared.state().runs.load(Relaxed),
                shared.len(),
                values.load(SeqCst),
                live_bytes() / 1024
            );
            if begin.elapsed() > time * 20 {
                break;
            }
        }
        stop.store(true, SeqCst);
        for caller in callers {
            runtime.block_on(caller).unwrap();
        }
        let stats = shared.stats();
        println!("{stats:?}");
        // The first samples fill the tier. A sample counts what waits for readers too, and a thread that was put aside in the middle of a
        // look holds all of it up, so samples have peaks on a busy machine; what leaks shows in the lowest of them.
        let settled = &live[2.min(live.len() - 1)..];
        let (first, second) = settled.split_at(settled.len() / 2);
        let least = |samples: &[isize]| samples.iter().min().map_or(0, |bytes| bytes / 1024);
        let most = settled.iter().max().map_or(0, |bytes| bytes / 1024);
        println!(
            "KiB live, after the start: at least {} in the first half and {} in the second, at most {most}",
            least(first),
            least(second)
        );
        if !first.is_empty() && least(second) > least(first) * 5 / 4 {
            fault("live bytes are not flat");
        }
        drop(shared);
        drop(runtime);
        // What was retired last goes with the pins of others.
        let other = Shared::new(World {
            running: vec![AtomicU8::new(0)],
            runs: AtomicU64::new(0),
            values: Arc::new(AtomicIsize::new(0)),
        });
        let until = Instant::now() + Duration::from_secs(10);
        while values.load(SeqCst) != 0 && Instant::now() < until {
            let value = Value {
                key: 0,
                bytes: Vec::new(),
                values: Arc::new(AtomicIsize::new(1)),
            };
            let _ = other.prime(self::value, 0, value);
            other.forget(self::value, &0);
        }
        let left = values.load(SeqCst);
        if left != 0 {
            fault(&format!("{left} values are left"));
        }
        println!("nothing is left");
    }
}
