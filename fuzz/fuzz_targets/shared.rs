//! Random operations on the second tier, on a clock that they advance, against the plain model in `engine/tests/shared/model.rs`.
//!
//! `cargo +nightly fuzz run shared` in the directory of the workspace.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../../engine/tests/shared/model.rs"]
mod model;

fuzz_target!(|bytes: &[u8]| model::play(bytes));
