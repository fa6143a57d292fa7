//! Without tokio: the core on smol's executor and timers. See `without_tokio.rs`.
//!
//! ```sh
//! cargo run -p watershed --no-default-features --example smol
//! ```

// The models of this crate's own tests are built with a `cfg` that smol does not compile with.
#[cfg(not(loom))]
mod without_tokio;

fn main() {
    #[cfg(not(loom))]
    without_tokio::main();
}
