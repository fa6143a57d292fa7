//! Passes `cfg(loom)` on to rustdoc, which does not see `RUSTFLAGS`: the examples in the docs are
//! left out when the crate is built for the models, since loom's types work inside a model only.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rustc-check-cfg=cfg(loom)");
    if std::env::var_os("CARGO_CFG_LOOM").is_some() {
        println!("cargo::rustc-cfg=loom");
    }
}
