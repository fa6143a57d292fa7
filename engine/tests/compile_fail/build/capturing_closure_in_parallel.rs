//! The same by `with`, which every call of a list is made by.

use watershed::{Ctx, Task, TaskError};

fn main() {
    let ctx = Ctx::new(());
    let factor = std::env::args().count() as u64;
    let times = move |_: Ctx<()>, n: u64| async move { Ok::<u64, TaskError>(n * factor) };
    drop(ctx.parallel((times.with(2),)));
}
