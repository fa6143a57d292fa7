//! The key is compared by whichever thread looks: it must be `Sync`.

use std::cell::Cell;
use std::hash::{Hash, Hasher};
use watershed::{Ctx, TaskError};

#[derive(Clone, PartialEq, Eq)]
struct Id(Cell<u64>);

impl Hash for Id {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.get().hash(state);
    }
}

async fn user(_: Ctx<()>, id: Id) -> Result<u64, TaskError> {
    Ok(id.0.get())
}

async fn caller(ctx: Ctx<()>) {
    let _ = ctx.run(user, Id(Cell::new(1))).await;
}

fn main() {}
