//! Loads of the second tier: from a request, from a task of the tier, from anywhere; a look at a key is no edge.

use std::collections::HashMap;

use watershed::{Ctx, Policy, Shared, TaskError};

struct App;
struct Request(Shared<App>);

impl AsRef<Shared<App>> for Request {
    fn as_ref(&self) -> &Shared<App> {
        &self.0
    }
}

async fn by_name(ctx: Ctx<App>, names: Vec<String>) -> Result<HashMap<String, u64>, String> {
    let _ = ctx.prime_loaded(by_number, 1, "one".to_owned());
    ctx.forget_loaded(by_number, &2);
    Ok(names.into_iter().map(|name| (name, 1)).collect())
}

async fn by_number(ctx: Ctx<App>, ns: Vec<u64>) -> Result<Vec<(u64, String)>, std::io::Error> {
    let _ = ctx.peek_loaded(by_name, "one");
    Ok(ns.into_iter().map(|n| (n, n.to_string())).collect())
}

async fn both(ctx: Ctx<App>, n: u64) -> Result<bool, TaskError> {
    let (a, b) = futures::try_join!(ctx.load(by_name, "one"), ctx.load(by_number, n))?;
    Ok(a.is_some() && b.is_some())
}

async fn page(ctx: Ctx<Request>, n: u64) -> Result<bool, TaskError> {
    let (a, b) = futures::try_join!(ctx.load_shared(by_name, "one"), ctx.load_shared(by_number, n))?;
    Ok(a.is_some() && b.is_some() && *ctx.run_shared(both, n).await?)
}

fn is_send<T: Send>(value: T) -> T {
    value
}

pub(crate) fn main() {
    let shared = Shared::builder(App)
        .batch_policy(by_name, Policy::default())
        .max_batch(by_number, 10)
        .build();
    let ctx = Ctx::new(Request(shared.clone()));
    drop(is_send(ctx.run(page, 1)));
    drop(is_send(shared.load(by_name, "two")));
    drop(is_send(shared.load_many(by_number, [1, 2])));
    let _ = shared.prime_loaded(by_number, 7, "seven".to_owned());
    assert!(shared.forget_loaded(by_number, &7));
    assert!(shared.peek_loaded(by_name, "one").is_none());
}
