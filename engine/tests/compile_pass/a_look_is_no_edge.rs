//! `peek`, `prime` and `forget` start no body, so a task may look at itself and two tasks may put
//! in each other's values.

use watershed::{Ctx, TaskError};

#[derive(Clone, Debug, PartialEq)]
struct User {
    id: u64,
    email: String,
}

async fn by_id(ctx: Ctx<()>, id: u64) -> Result<User, TaskError> {
    let user = User {
        id,
        email: format!("{id}@example.com"),
    };
    ctx.prime(by_email, user.email.clone(), user.clone()).ok();
    Ok(user)
}

async fn by_email(ctx: Ctx<()>, email: String) -> Result<User, TaskError> {
    let id = email.split('@').next().unwrap_or_default();
    let id = id.parse().map_err(TaskError::new)?;
    let user = User { id, email };
    ctx.prime(by_id, id, user.clone()).ok();
    Ok(user)
}

/// Counts up from what the last call left, and lets go of it.
async fn step(ctx: Ctx<()>, n: u64) -> Result<u64, TaskError> {
    let Some(last) = n.checked_sub(1) else {
        return Ok(100);
    };
    let from = match ctx.peek(step, &last) {
        Some(value) => *value?,
        None => 0,
    };
    ctx.forget(step, &last);
    Ok(from + 1)
}

pub(crate) fn main() {
    let ctx = Ctx::new(());
    let ada = ctx.run(by_id, 7).wait().unwrap();
    assert_eq!(ctx.peek(by_email, "7@example.com").unwrap().unwrap(), ada);
    let eve = ctx.run(by_email, "8@example.com").wait().unwrap();
    assert_eq!(ctx.peek(by_id, &8).unwrap().unwrap(), eve);

    assert_eq!(*ctx.run(step, 0).wait().unwrap(), 100);
    assert_eq!(*ctx.run(step, 1).wait().unwrap(), 101);
    assert!(ctx.peek(step, &0).is_none());
}
