//! A closure that captures nothing is as good a task as a function: its type says all.

use watershed::{Ctx, Task, TaskError};

pub(crate) fn main() {
    let ctx = Ctx::new(());
    let double = |_: Ctx<()>, n: u64| async move { Ok::<u64, TaskError>(n * 2) };
    let triple = |_: Ctx<()>, n: u64| async move { Ok::<u64, TaskError>(n * 3) };
    assert_eq!(*ctx.run(double, 2).wait().unwrap(), 4);
    assert_eq!(*ctx.run(triple, 2).wait().unwrap(), 6);
    assert_eq!(*ctx.peek(double, &2).unwrap().unwrap(), 4);
    let _bound = double.with(2u64);
}
