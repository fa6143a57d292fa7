//! Random loads under random schedules, against the model in `loom-tests/src/batches.rs`.
//!
//! `cargo +nightly fuzz run batch` in the directory of the workspace. A crash is seen again, with what happens in it, by
//! `SCHEDULE_TRACE=1 cargo +nightly fuzz run batch <file>`.
//!
//! libFuzzer ends the process at the first panic that goes through the hook; the functions here panic past it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use watershed_loom_tests::batches::play;

fuzz_target!(|bytes: &[u8]| {
    if let Err(fault) = play(bytes) {
        panic!("{fault}");
    }
});
