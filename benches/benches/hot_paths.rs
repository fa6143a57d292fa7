//! The workloads on criterion: the engine, its peers and the limits on the same work. `cargo bench -p watershed-benches`, or
//! `cargo bench -p watershed-benches -- request` for some; for ratios use the `compare` binary, which measures the two sides of
//! a ratio in turn.

#[cfg(loom)]
fn main() {}

#[cfg(not(loom))]
criterion::criterion_main!(bench::hot_paths);

#[cfg(not(loom))]
mod bench {
    use std::time::Duration;

    use criterion::{BenchmarkId, Criterion, Throughput, criterion_group};
    use watershed_benches::workloads;

    criterion_group! {
        name = hot_paths;
        config = Criterion::default()
            .sample_size(20)
            .warm_up_time(Duration::from_millis(200))
            .measurement_time(Duration::from_secs(1));
        targets = all
    }

    fn all(criterion: &mut Criterion) {
        for workload in workloads() {
            let mut group = criterion.benchmark_group(&workload.name);
            group.throughput(Throughput::Elements(workload.per));
            for contender in &workload.contenders {
                // Set up when it is its turn, and only if it is asked for.
                let mut runner = None;
                group.bench_function(BenchmarkId::from_parameter(contender.name), |bencher| {
                    let runner = runner.get_or_insert_with(|| contender.make());
                    bencher.iter_custom(|operations| {
                        let (sum, time) = runner.run(operations);
                        let expected = workload.expected.sum(operations);
                        assert_eq!(sum, expected, "the result is wrong");
                        time
                    });
                });
            }
            group.finish();
        }
    }
}
