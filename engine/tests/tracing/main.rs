//! The feature `tracing`: which spans there are, below which, who is inside of them, and what they say.
#![cfg(not(loom))]

#[path = "../support/mod.rs"]
mod support;

mod capture;
mod opentelemetry;
mod spans;

support::counting_allocator!();
