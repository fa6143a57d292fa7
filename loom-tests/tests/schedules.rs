//! Thousands of random schedules of random graphs, against the model of [`watershed_loom_tests::schedule`].
//!
//! `SCHEDULE_SEED=<n>` plays one seed only, `SCHEDULE_TRACE=1` prints what happens in it, `SCHEDULE_SECONDS=<n>` plays for longer.
#![cfg(not(loom))]

use std::time::{Duration, Instant, SystemTime};

use watershed_loom_tests::schedule::{Mode, Stats, play_seeds};

const FIXED: std::ops::Range<u64> = 0..2_000;

fn seconds() -> u64 {
    let seconds = std::env::var("SCHEDULE_SECONDS").ok();
    seconds.map_or(2, |text| text.parse().expect("a number of seconds"))
}

/// Fixed seeds, then others from a base that is printed.
fn many(mode: Mode) -> Stats {
    if let Ok(seed) = std::env::var("SCHEDULE_SEED") {
        let seed = seed.parse().expect("a seed is a number");
        return match play_seeds(mode, [seed], || true) {
            Ok((stats, _)) => stats,
            Err(fault) => panic!("{fault}"),
        };
    }
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let base = now.expect("it is later than 1970").as_nanos() as u64;
    println!("{mode:?}: seeds {FIXED:?}, then from {base}");
    let end = Instant::now() + Duration::from_secs(seconds());
    let played = play_seeds(mode, FIXED, || true)
        .and_then(|fixed| Ok((fixed, play_seeds(mode, base.., || Instant::now() < end)?)));
    match played {
        Ok(((mut stats, fixed), (more, random))) => {
            stats += more;
            println!("{mode:?}: {} schedules, {stats:?}", fixed + random);
            stats
        }
        Err(fault) => panic!("{fault}"),
    }
}

fn is_one_seed() -> bool {
    std::env::var_os("SCHEDULE_SEED").is_some()
}

#[test]
fn graphs_without_a_circle_give_what_the_model_gives() {
    let stats = many(Mode::Acyclic);
    if !is_one_seed() {
        for (what, times) in [
            ("values", stats.values),
            ("failures", stats.failures),
            ("panics", stats.panics),
            ("bodies dropped unfinished", stats.dropped),
            ("calls cancelled", stats.cancelled),
            ("outcomes compared with the graph", stats.pure),
        ] {
            assert!(times > 1_000, "{what}: only {times}");
        }
        assert_eq!(stats.cycles, 0);
    }
}

#[test]
fn circles_are_reported_if_and_only_if_the_model_has_one() {
    let stats = many(Mode::Cyclic);
    if !is_one_seed() {
        assert!(stats.cycles > 1_000, "only {} cycles", stats.cycles);
        assert!(stats.values > 1_000);
    }
}
