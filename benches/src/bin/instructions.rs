//! One of the workloads, the engine's side of it, for `.ci/instructions` to count: `instructions WORKLOAD OPERATIONS`.
//!
//! The script takes the difference of two runs that differ in their operations alone, so that start-up and set-up cancel. Prints how many
//! of what the workload counts in are in one operation.

#[cfg(loom)]
fn main() {}

#[cfg(not(loom))]
fn main() -> std::process::ExitCode {
    use watershed_benches::for_counting;

    let args: Vec<String> = std::env::args().skip(1).collect();
    let operations = args.get(1).and_then(|number| number.parse::<u64>().ok());
    let Some((name, operations)) = args.first().zip(operations) else {
        eprintln!("usage: instructions WORKLOAD OPERATIONS");
        return 2.into();
    };
    let Some(workload) = for_counting().into_iter().find(|work| work.name == *name) else {
        eprintln!("instructions: there is no workload {name}");
        return 2.into();
    };
    let (ours, _) = workload.split();
    std::hint::black_box(ours.make().run(operations));
    println!("{}", workload.per);
    0.into()
}
