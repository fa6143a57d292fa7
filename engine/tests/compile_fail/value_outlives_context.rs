//! The values live in the context: no borrow of one outlives it.

use watershed::{Ctx, Run, TaskError};

async fn user(_: Ctx<()>, id: u64) -> Result<String, TaskError> {
    Ok(id.to_string())
}

async fn dropped_before_use() {
    let ctx = Ctx::new(());
    let name = ctx.run(user, 1).await.unwrap();
    drop(ctx);
    println!("{name}");
}

async fn returned<'a>() -> &'a str {
    let ctx = Ctx::new(());
    ctx.run(user, 1).await.unwrap()
}

async fn from_a_scope() {
    let name;
    {
        let ctx = Ctx::new(());
        name = ctx.run(user, 1).await.unwrap();
    }
    println!("{name}");
}

async fn peeked_borrow_used_later() {
    let ctx = Ctx::new(());
    let there = ctx.peek(user, &1);
    drop(ctx);
    println!("{}", there.is_some());
}

fn call_escapes<'a>() -> Run<'a, (), String> {
    let ctx = Ctx::new(());
    ctx.run(user, 1)
}

async fn out_of_the_body(ctx: Ctx<()>, id: u64) -> Result<&'static str, TaskError> {
    Ok(ctx.run(user, id).await?)
}

fn main() {}
