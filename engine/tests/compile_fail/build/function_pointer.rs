//! A pointer says by its value which function it is, and its type says nothing.

use std::future::{Ready, ready};
use watershed::{Ctx, TaskError};

fn double(_: Ctx<()>, n: u64) -> Ready<Result<u64, TaskError>> {
    ready(Ok(n * 2))
}

fn main() {
    let ctx = Ctx::new(());
    let pointer: fn(Ctx<()>, u64) -> Ready<Result<u64, TaskError>> = double;
    let _ = ctx.run(pointer, 2).wait();
}
