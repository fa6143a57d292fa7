//! A task of the tier has the tier's state; a request's is another type.

use watershed::{Ctx, Shared};

struct Global;
struct Request {
    shared: Shared<Global>,
    user: u64,
}

impl AsRef<Shared<Global>> for Request {
    fn as_ref(&self) -> &Shared<Global> {
        &self.shared
    }
}

async fn of_the_request(ctx: Ctx<Request>, _: ()) -> Result<u64, String> {
    Ok(ctx.state().user)
}

async fn of_the_tier(ctx: Ctx<Global>, _: ()) -> Result<u64, String> {
    Ok(ctx.state().user)
}

async fn handler(ctx: Ctx<Request>) {
    let _ = ctx.run_shared(of_the_request, ()).await;
    let _ = ctx.run_shared(of_the_tier, ()).await;
    let _ = ctx.run(of_the_tier, ()).await;
}

fn main() {}
