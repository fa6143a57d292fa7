//! Batch functions with all kinds of keys, maps and errors; a look at a key is no edge; a hidden edge may lead back.

use std::collections::{BTreeMap, HashMap};
use std::future::Future;
use std::pin::Pin;

use watershed::{Ctx, Task, TaskError};

async fn by_name(ctx: Ctx<()>, names: Vec<String>) -> Result<HashMap<String, u64>, TaskError> {
    // What it finds it also knows by number, and the other way round: no edges.
    let _ = ctx.prime_loaded(by_number, 1, "one".to_owned());
    ctx.forget_loaded(by_number, &2);
    Ok(names.into_iter().map(|name| (name, 1)).collect())
}

async fn by_number(ctx: Ctx<()>, ns: Vec<u64>) -> Result<BTreeMap<u64, String>, std::io::Error> {
    let _ = ctx.peek_loaded(by_name, "one");
    Ok(ns.into_iter().map(|n| (n, n.to_string())).collect())
}

async fn each(_: Ctx<()>, of: Vec<(u64, u8)>) -> Result<Vec<((u64, u8), Result<u64, String>)>, String> {
    Ok(of.into_iter().map(|of| (of, Err("no".to_owned()))).collect())
}

type Found = Pin<Box<dyn Future<Output = Result<Vec<(u64, u64)>, TaskError>> + Send>>;

fn down(ctx: Ctx<()>, ns: Vec<u64>) -> Found {
    Box::pin(async move {
        let mut found = Vec::new();
        for n in ns {
            let below = if n > 0 { ctx.load(down, n - 1).await?.copied() } else { None };
            found.push((n, below.map_or(0, |below| below + 1)));
        }
        Ok(found)
    })
}

async fn page(ctx: Ctx<()>, id: u64) -> Result<usize, TaskError> {
    let (a, b) = futures::try_join!(ctx.load(by_name, "one"), ctx.load(by_number, id))?;
    let many = ctx.load_many(each, [(id, 1), (id, 2)]).await?;
    // (Together, keys that need one another would be one batch that waits for itself.)
    let below = ctx.load(down, id).await?.copied();
    Ok(a.is_some() as usize + b.map_or(0, String::len) + many.len() + below.map_or(0, |n| n as usize))
}

fn is_send<T: Send>(value: T) -> T {
    value
}

pub(crate) fn main() {
    let ctx = Ctx::builder(()).max_batch(down, 2).build();
    let got = *is_send(ctx.run(page, 3)).wait().unwrap();
    assert_eq!(got, 1 + 1 + 2 + 3);
    drop(is_send(ctx.load(down, 1)));
    drop(is_send(ctx.load_many(down, [1, 2])));
    let _ = page.with(1).boxed();
}
