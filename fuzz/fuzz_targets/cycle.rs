//! Random schedules of random graphs of tasks that may wait for each other in a circle, against the model in `loom-tests/src/schedule.rs`.
//!
//! `cargo +nightly fuzz run cycle` in the directory of the workspace. A crash is seen again, with what happens in it, by
//! `SCHEDULE_TRACE=1 cargo +nightly fuzz run cycle <file>`.
//!
//! libFuzzer ends the process at the first panic that goes through the hook; the tasks here panic past it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use watershed_loom_tests::schedule::{Mode, play_without_deep_panics};

fuzz_target!(|bytes: &[u8]| {
    if let Err(fault) = play_without_deep_panics(bytes, Mode::Cyclic) {
        panic!("{fault}");
    }
});
