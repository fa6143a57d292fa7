//! Spans of contexts of requests, on the same server. A program of its own: where some threads have a subscriber and others have none, `tracing` may
//! remember of a span that nobody wants it.
#![cfg(not(loom))]

#[path = "../support/mod.rs"]
mod support;

#[allow(dead_code)] // other programs use more of it
mod app;
#[path = "../tracing/capture.rs"]
#[allow(dead_code)] // other programs use more of it
mod capture;
#[allow(dead_code)] // other programs use more of it
mod client;
mod spans;
