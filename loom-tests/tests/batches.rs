//! Thousands of random schedules of random loads, against the model of [`watershed_loom_tests::batches`].
//!
//! `SCHEDULE_SEED=<n>` plays one seed only, `SCHEDULE_TRACE=1` prints what happens in it, `SCHEDULE_SECONDS=<n>` plays for longer.
#![cfg(not(loom))]

use std::time::{Duration, Instant, SystemTime};

use watershed_loom_tests::batches::{Stats, play};
use watershed_loom_tests::schedule::bytes_of;

fn play_seed(seed: u64, stats: &mut Stats) {
    match play(&bytes_of(seed)) {
        Ok(more) => *stats += more,
        Err(fault) => panic!("seed {seed}: {fault}"),
    }
}

#[test]
fn loads_give_what_the_model_gives_and_nothing_is_asked_twice() {
    let mut stats = Stats::default();
    if let Ok(seed) = std::env::var("SCHEDULE_SEED") {
        return play_seed(seed.parse().expect("a seed is a number"), &mut stats);
    }
    (0..2_000).for_each(|seed| play_seed(seed, &mut stats));
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let base = now.expect("it is later than 1970").as_nanos() as u64;
    let seconds = std::env::var("SCHEDULE_SECONDS").map_or(2, |s| s.parse().expect("seconds"));
    let end = Instant::now() + Duration::from_secs(seconds);
    let mut more = 0;
    while Instant::now() < end {
        play_seed(base.wrapping_add(more), &mut stats);
        more += 1;
    }
    println!("{} schedules from {base}: {stats:?}", 2_000 + more);
    for (what, times) in [
        ("batches", stats.batches),
        ("values", stats.values),
        ("failures", stats.failures),
        ("dropped", stats.dropped),
        ("kept", stats.kept),
    ] {
        assert!(times > 500, "{what}: only {times}");
    }
    assert!(stats.keys > stats.batches, "batches are batches");
}
