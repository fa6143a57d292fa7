//! Contexts of requests, through a real `axum::serve` on loopback and a real client, over HTTP/1.1 and HTTP/2.
#![cfg(not(loom))]

#[path = "../support/mod.rs"]
mod support;

mod answers;
mod app;
#[cfg(feature = "tracing")]
#[path = "../tracing/capture.rs"]
#[allow(dead_code)]
mod capture;
mod carried;
mod client;
mod contexts;
mod deadlines;
mod endings;
