//! The hot paths on criterion: every group of the library, the engine and its peers on the same
//! work. `cargo bench -p watershed-benches`; for ratios use the `compare` binary, which measures
//! the two sides of a ratio in turn.

#[cfg(loom)]
fn main() {}

#[cfg(not(loom))]
criterion::criterion_main!(bench::hot_paths);

#[cfg(not(loom))]
mod bench {
    use std::time::{Duration, Instant};

    use criterion::{Criterion, criterion_group};
    use watershed_benches::groups;

    criterion_group! {
        name = hot_paths;
        config = Criterion::default()
            .warm_up_time(Duration::from_millis(500))
            .measurement_time(Duration::from_secs(2));
        targets = all
    }

    fn all(criterion: &mut Criterion) {
        for group in groups() {
            let mut benches = criterion.benchmark_group(group.name);
            for mut contender in std::iter::once(group.ours).chain(group.peers) {
                benches.bench_function(contender.name, |bencher| {
                    bencher.iter_custom(|operations| {
                        let start = Instant::now();
                        let sum = contender.run(operations);
                        let time = start.elapsed();
                        assert_eq!(sum, group.expected.sum(operations), "the result is wrong");
                        time
                    });
                });
            }
            benches.finish();
        }
    }
}
