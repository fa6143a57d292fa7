//! What a task fails with must convert into a boxed error that may cross threads.

use std::error::Error;
use std::fmt;
use std::rc::Rc;
use watershed::Ctx;

#[derive(Debug)]
struct Local(Rc<u64>);

impl fmt::Display for Local {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Error for Local {}

async fn nothing(_: Ctx<()>, _: u64) -> Result<u64, ()> {
    Err(())
}

async fn local(_: Ctx<()>, id: u64) -> Result<u64, Local> {
    Err(Local(Rc::new(id)))
}

async fn caller(ctx: Ctx<()>) {
    let _ = ctx.run(nothing, 1).await;
    let _ = ctx.run(local, 1).await;
}

fn main() {}
