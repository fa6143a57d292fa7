//! A task is known by its type alone, so a closure that captures would share the slots of another
//! with other captures. Seen by a build only: `cargo check` does not look.

use watershed::{Ctx, TaskError};

fn main() {
    let ctx = Ctx::new(());
    let factor = std::env::args().count() as u64;
    let times = move |_: Ctx<()>, n: u64| async move { Ok::<u64, TaskError>(n * factor) };
    let _ = ctx.run(times, 2).wait();
}
