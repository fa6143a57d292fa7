//! Contexts of requests, through a real `axum::serve` on loopback and a real client, over HTTP/1.1 and HTTP/2.
#![cfg(not(loom))]

#[path = "../support/mod.rs"]
mod support;

mod answers;
mod app;
mod carried;
mod client;
mod contexts;
mod deadlines;
mod endings;
mod plain;
