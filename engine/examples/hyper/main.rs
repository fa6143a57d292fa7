//! A context for each request on plain hyper and tower, without a framework: see `server.rs`.
//!
//! ```sh
//! cargo run --example hyper   # serves on loopback, asks itself as a client would, and checks what it got
//! ```

// The models of this crate's own tests are built with a `cfg` that hyper does not compile with.
#[cfg(not(loom))]
mod server;

#[cfg(not(loom))]
#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    server::main().await
}

#[cfg(loom)]
fn main() {}
