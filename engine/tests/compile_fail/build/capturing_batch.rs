//! A batch function that captures.

use watershed::Ctx;

fn main() {
    let offset = 7u64;
    let shifted = move |_: Ctx<()>, keys: Vec<u64>| async move {
        Ok::<_, String>(keys.into_iter().map(|k| (k, k + offset)).collect::<Vec<_>>())
    };
    let ctx = Ctx::new(());
    let _ = ctx.load(shifted, 1u64);
}
